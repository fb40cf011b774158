"""Queues with one active consumer: who it is, who follows, and what the others get."""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicQos,
    BasicReject,
    ChannelClose,
    QueueDeclare,
    QueueDelete,
)

from .conversation import conversation, differs
from .letters import elapse, mourned

SINGLE = {"x-single-active-consumer": True}
KINDS = {"classic": {}, "quorum": {"x-queue-type": "quorum"}}


def _consumers(talk, count, prefetch=0, **arguments):
    """Return channels, each with a connection and a consumer of its own."""
    owner = talk.channel()
    owner(QueueDeclare(talk.q, durable=True, arguments={**SINGLE, **arguments}))
    channels = []
    for number in range(1, count + 1):
        channel = talk.channel()
        if prefetch:
            channel(BasicQos(prefetch_count=prefetch))
        channel(BasicConsume(talk.q, f"consumer {number}"))
        channels.append(channel)
    return owner, channels


def _publish(channel, queue, *bodies):
    for body in bodies:
        channel.publish("", queue, body, headers={"any": "header"})


@conversation
def first_consumer_gets_everything(talk):
    owner, (first, second) = _consumers(talk, 2)
    _publish(owner, talk.q, b"1", b"2", b"3")
    first.hear(3)
    second.quiet()
    owner.count(talk.q, 0, consumers=2)


@conversation
def full_active_consumer_is_not_helped(talk):
    owner, (first, second) = _consumers(talk, 2, prefetch=1)
    _publish(owner, talk.q, b"1", b"2")
    first.hear()
    owner.count(talk.q, 1)
    second.quiet()
    first(BasicAck(1))
    first.hear()


LEAVES = {
    "cancel": lambda channel: channel(BasicCancel("consumer 1")),
    "channel": lambda channel: channel(ChannelClose()),
    "connection": lambda channel: channel.peer.close(),
    "lost": lambda channel: channel.peer.drop(),
}


@conversation(each=LEAVES)
def next_consumer_takes_over_an_empty_queue(talk, leave):
    owner, (first, second, third) = _consumers(talk, 3)
    leave(first)
    owner.count(talk.q, 0, consumers=2)
    _publish(owner, talk.q, b"1", b"2")
    second.hear(2)
    third.quiet()


@conversation(each={"channel": LEAVES["channel"], "lost": LEAVES["lost"]})
def next_consumer_gets_what_the_lost_one_had(talk, leave):
    owner, (first, second) = _consumers(talk, 2)
    _publish(owner, talk.q, b"1", b"2")
    first.hear(2)
    leave(first)
    second.hear(2)
    _publish(owner, talk.q, b"3")
    second.hear()


@conversation
def consumers_follow_in_the_order_they_came(talk):
    owner, channels = _consumers(talk, 3)
    for number, channel in enumerate(channels, 1):
        _publish(owner, talk.q, str(number).encode())
        channel.hear()
        channel(BasicAck(1))
        channel.quiet()
        channel(BasicCancel(f"consumer {number}"))


@conversation
def waiting_consumer_that_leaves_changes_nothing(talk):
    owner, (first, second, third) = _consumers(talk, 3)
    second(BasicCancel("consumer 2"))
    _publish(owner, talk.q, b"1")
    first.hear()
    first(BasicAck(1))
    first(BasicCancel("consumer 1"))
    owner.count(talk.q, 0, consumers=1)
    _publish(owner, talk.q, b"2")
    third.hear()


@conversation
def consumer_that_comes_back_is_the_last(talk):
    owner, (first, second) = _consumers(talk, 2)
    first(BasicCancel("consumer 1"))
    first(BasicConsume(talk.q, "again"))
    _publish(owner, talk.q, b"1")
    second.hear()
    second(BasicAck(1))
    second(BasicCancel("consumer 2"))
    owner.count(talk.q, 0, consumers=1)
    _publish(owner, talk.q, b"2")
    first.hear()


@conversation(each={"higher": (0, 10), "lower": (10, 0)})
def priority_of_the_consumer_does_not_matter(talk, first, second):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments=SINGLE))
    a(BasicConsume(talk.q, "first", arguments={"x-priority": first}))
    b = talk.channel()
    b(BasicConsume(talk.q, "second", arguments={"x-priority": second}))
    _publish(a, talk.q, b"1")
    a.hear()
    b.quiet()


@conversation
def two_consumers_of_one_channel(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments=SINGLE))
    a(BasicConsume(talk.q, "first"))
    a(BasicConsume(talk.q, "second"))
    _publish(a, talk.q, b"1", b"2")
    a.hear(2)
    a(BasicAck(2, multiple=True))
    a(BasicCancel("first"))
    _publish(a, talk.q, b"3")
    a.hear()


@conversation(each=KINDS)
def unacked_messages_of_the_former_consumer(talk, arguments):
    owner, (first, second) = _consumers(talk, 2, **arguments)
    _publish(owner, talk.q, b"1")
    first.hear()
    first(BasicCancel("consumer 1"))
    _publish(owner, talk.q, b"2")
    second.hear()
    first(BasicAck(1))
    first.quiet()
    owner.count(talk.q, 0, consumers=1)


@conversation
def message_returned_by_the_former_consumer(talk):
    owner, (first, second) = _consumers(talk, 2)
    _publish(owner, talk.q, b"1")
    first.hear()
    first(BasicCancel("consumer 1"))
    first(BasicReject(1))
    second.hear()


@conversation
def rejected_message_comes_back_to_the_active_consumer(talk):
    owner, (first, second) = _consumers(talk, 2)
    _publish(owner, talk.q, b"1")
    first.hear()
    first(BasicNack(1))
    first.hear()
    second.quiet()


@conversation
def no_ack_consumer_is_active(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments=SINGLE))
    a(BasicConsume(talk.q, "first", no_ack=True))
    b = talk.channel()
    b(BasicConsume(talk.q, "second"))
    _publish(a, talk.q, b"1")
    a.hear()
    a(BasicCancel("first"))
    a.count(talk.q, 0, consumers=1)
    _publish(a, talk.q, b"2")
    b.hear()


@conversation
def getting_beside_an_active_consumer(talk):
    owner, (first,) = _consumers(talk, 1, prefetch=1)
    _publish(owner, talk.q, b"1", b"2")
    first.hear()
    owner.count(talk.q, 1)
    owner(BasicGet(talk.q, no_ack=True))


@conversation(each=KINDS)
def getting_without_any_consumer(talk, arguments):
    owner, _ = _consumers(talk, 0, **arguments)
    owner(BasicGet(talk.q))


@conversation
def deleting_tells_all_consumers(talk):
    owner, (first, second) = _consumers(talk, 2)
    owner(QueueDelete(talk.q))
    first.hear()
    second.hear()


@conversation
def not_single_active_is_any_queue(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={"x-single-active-consumer": False}))
    a(BasicQos(prefetch_count=1))
    b = a.peer.channel()
    b(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "first"))
    b(BasicConsume(talk.q, "second"))
    _publish(a, talk.q, b"1", b"2")
    a.hear()
    b.hear()
    c = a.peer.channel()
    c(BasicConsume(talk.q, "exclusive", exclusive=True))


@conversation
def exclusive_consumer_is_refused_beside_others(talk):
    _owner, _ = _consumers(talk, 1)
    b = talk.channel()
    b(BasicConsume(talk.q, "exclusive", exclusive=True))


# With a backlog


@conversation(each={leave: LEAVES[leave] for leave in ("channel", "connection", "lost")})
def next_consumer_takes_over_a_backlog(talk, leave):
    owner, (first, second) = _consumers(talk, 2, prefetch=1)
    _publish(owner, talk.q, b"1", b"2")
    first.hear()
    owner.count(talk.q, 1)
    leave(first)
    second.hear()
    second(BasicAck(1))
    second.hear()


@conversation(
    unless=differs(
        "the next consumer takes over, as on quorum queues; RabbitMQ's classic queue forgets it",
        "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
        "b1 < basic.qos-ok",
        "b1 < basic.consume-ok consumer_tag='consumer 1'",
        "c1 < basic.qos-ok",
        "c1 < basic.consume-ok consumer_tag='consumer 2'",
        "b1 < basic.deliver consumer_tag='consumer 1' delivery_tag=1 redelivered=False"
        " exchange='' routing_key='~q' headers={any: 'header'} b'1'",
        "a1 < queue.declare-ok queue='~q' message_count=1 consumer_count=2",
        "b1 < basic.cancel-ok consumer_tag='consumer 1'",
        "c1 < basic.deliver consumer_tag='consumer 2' delivery_tag=1 redelivered=False"
        " exchange='' routing_key='~q' headers={any: 'header'} b'2'",
    )
)
def backlog_of_a_consumer_that_cancels(talk):
    owner, (first, second) = _consumers(talk, 2, prefetch=1)
    _publish(owner, talk.q, b"1", b"2")
    first.hear()
    owner.count(talk.q, 1)
    first(BasicCancel("consumer 1"))
    elapse(talk, 20)
    second.quiet()


# With other arguments


@conversation
def active_consumer_of_a_queue_with_priorities(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={**SINGLE, "x-max-priority": 5}))
    for priority in (1, 3, 2):
        a.publish("", talk.q, str(priority).encode(), priority=priority)
    a.count(talk.q, 3)
    a(BasicConsume(talk.q, "first"))
    b = talk.channel()
    b(BasicConsume(talk.q, "second"))
    a.hear(3)
    b.quiet()


@conversation
def letters_of_a_single_active_consumer(talk):
    a, dead = mourned(talk, {**SINGLE, "x-max-length": 1})
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "first"))
    b = talk.channel()
    b(BasicConsume(talk.q, "second"))
    _publish(a, talk.q, b"1", b"2", b"3")
    a.hear()
    dead.hear()
    a(BasicReject(1, requeue=False))
    dead.hear()
    a.hear()
    b.quiet()

"""Priorities: who is first, what counts as which priority, and what else a queue may be."""

from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicQos,
    BasicReject,
    QueueBind,
    QueueDeclare,
    QueuePurge,
    TxCommit,
    TxSelect,
)

from .conversation import conversation, differs
from .letters import elapse, mourned, to

PRIORITIES = {"x-max-priority": 5}


def _queue(talk, *priorities, **arguments):
    """Return a channel of a queue with one message of each of `priorities`."""
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={**PRIORITIES, **arguments}))
    _publish(a, talk.q, *priorities)
    return a


def _publish(channel, queue, *priorities):
    for priority in priorities:
        body = f"{priority}".encode()
        channel.publish("", queue, body, priority=priority)


ORDERS = {
    "rising": (0, 1, 2, 3, 4, 5),
    "falling": (5, 4, 3, 2, 1, 0),
    "mixed": (2, 5, 0, 2, 5, 1, 0, 4),
    "equal": (3, 3, 3),
    "missing": (None, 1, None, 0),
    "above_the_highest": (5, 200, 5, 255, 6, 4),
}


@conversation(each=ORDERS)
def higher_priorities_are_got_first(talk, *priorities):
    a = _queue(talk, *priorities)
    a.count(talk.q, len(priorities))
    a.drain(talk.q)


@conversation(each=ORDERS)
def higher_priorities_are_delivered_first(talk, *priorities):
    a = _queue(talk, *priorities)
    a.count(talk.q, len(priorities))
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    for tag in range(1, len(priorities) + 1):
        a.hear()
        a(BasicAck(tag))


@conversation(each={"zero": 0, "one": 1, "many": 255})
def number_of_priorities(talk, highest):
    a = _queue(talk, 0, 1, 2, 200, 255, **{"x-max-priority": highest})
    a.count(talk.q, 5)
    a.drain(talk.q)


@conversation
def queue_without_priorities_keeps_its_order(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    _publish(a, talk.q, 1, 5, 3)
    a.drain(talk.q)


@conversation
def later_message_overtakes(talk):
    a = _queue(talk, 1, 1)
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    a.hear()
    _publish(a, talk.q, 0, 4)
    a.peer.channel(2).count(talk.q, 3)
    a(BasicAck(1))
    a.hear()
    a(BasicAck(2))
    a.hear()
    a(BasicAck(3))
    a.hear()


RETURNS = {
    "highest": [BasicReject(1)],
    "lowest": [BasicReject(5)],
    "all": [BasicNack(0, multiple=True)],
    "in_another_order": [BasicReject(4), BasicReject(1), BasicReject(3)],
}


@conversation(each=RETURNS)
def returned_messages_keep_priority_and_place(talk, methods):
    a = _queue(talk, 3, 1, 3, 1, 2)
    a.count(talk.q, 5)
    for _ in range(5):
        a(BasicGet(talk.q))
    _publish(a, talk.q, 3, 1)
    for method in methods:
        a(method)
    a.drain(talk.q)


@conversation
def returned_message_of_low_priority_waits(talk):
    a = _queue(talk, 1)
    a.count(talk.q, 1)
    a(BasicGet(talk.q))
    _publish(a, talk.q, 2)
    a(BasicReject(1))
    a.drain(talk.q)


@conversation
def purge_counts_all_priorities(talk):
    a = _queue(talk, 3, 1, 0, 5)
    a.count(talk.q, 4)
    a(QueuePurge(talk.q))
    a(BasicGet(talk.q))


@conversation
def priorities_of_a_transaction(talk):
    a = _queue(talk, 1)
    a(TxSelect())
    _publish(a, talk.q, 2, 5, 3)
    a(TxCommit())
    a.count(talk.q, 4)
    a.drain(talk.q)


@conversation
def priorities_of_durable_messages(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments=PRIORITIES))
    for number, priority in enumerate((1, 4, 2)):
        mode = 1 + number % 2
        a.publish("", talk.q, str(priority).encode(), priority=priority, delivery_mode=mode)
    a.count(talk.q, 3)
    a.drain(talk.q)


@conversation
def fanout_to_queues_with_and_without_priorities(talk):
    a = talk.channel()
    for name, arguments in zip(talk.names("plain sorted"), ({}, PRIORITIES), strict=True):
        a(QueueDeclare(name, arguments=arguments))
        a(QueueBind(name, "amq.direct", talk.q))
    for priority in (1, 9, 2):
        a.publish("amq.direct", talk.q, str(priority).encode(), priority=priority)
    for name in talk.names("plain sorted"):
        a.count(name, 3)
        a.drain(name)


# With limits, TTL and dead letters


@conversation(each={"rising": (1, 2, 3, 4), "falling": (4, 3, 2, 1), "mixed": (2, 4, 1, 3, 2)})
def full_queue_with_priorities(talk, *priorities):
    a, dead = mourned(talk, {**PRIORITIES, "x-max-length": 2})
    _publish(a, talk.q, *priorities)
    dead.hear(len(priorities) - 2)
    a.drain(talk.q)


@conversation
def full_queue_with_priorities_refuses(talk):
    arguments = {**PRIORITIES, "x-max-length": 2, "x-overflow": "reject-publish-dlx"}
    a, dead = mourned(talk, arguments)
    _publish(a, talk.q, 1, 2, 5)
    dead.hear()
    a.drain(talk.q)


@conversation
def messages_of_every_priority_expire(talk):
    a = talk.channel()
    dead = talk.name("dead")
    a(QueueDeclare(dead, arguments=PRIORITIES))  # which one was first is nobody's business
    a(QueueDeclare(talk.q, arguments={**PRIORITIES, "x-message-ttl": 20, **to(dead)}))
    _publish(a, talk.q, 1, 5, 3)
    a.count(dead, 3)
    a.drain(dead)
    a.count(talk.q, 0)


@conversation(
    unless=differs(
        "expired messages are never delivered; RabbitMQ looks at those of low priority first",
        "b1 < queue.declare-ok queue='~dead' message_count=0 consumer_count=0",
        "b1 < basic.consume-ok consumer_tag='dead'",
        "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
        "a1 < basic.get-ok delivery_tag=1 redelivered=False exchange='' routing_key='~q'"
        " message_count=0 priority=1 b'stays'",
        "a1 < basic.get-empty",
        "b1 < basic.deliver consumer_tag='dead' delivery_tag=1 redelivered=False exchange=''"
        " routing_key='~dead' headers={x-death: [{count: Int64(1), exchange: '',"
        " original-expiration: '20', queue: '~q', reason: 'expired', routing-keys: ['~q'],"
        " time: 'now'}], x-first-death-exchange: '', x-first-death-queue: '~q',"
        " x-first-death-reason: 'expired'} priority=5 b'goes'",
    )
)
def low_priority_does_not_keep_high_ones_from_expiring(talk):
    a, dead = mourned(talk, PRIORITIES)
    a.publish("", talk.q, b"stays", priority=1)
    a.publish("", talk.q, b"goes", priority=5, expiration="20")
    elapse(talk, 100)
    a.drain(talk.q)
    elapse(talk, 1)
    dead.quiet()


@conversation
def high_priority_does_not_keep_low_ones_from_expiring(talk):
    a, dead = mourned(talk, PRIORITIES)
    a.publish("", talk.q, b"stays", priority=5)
    a.publish("", talk.q, b"goes", priority=1, expiration="20")
    elapse(talk, 100)
    a.drain(talk.q)
    dead.hear()


@conversation
def dead_letter_keeps_its_priority(talk):
    a = talk.channel()
    dead = talk.name("dead")
    a(QueueDeclare(dead, arguments=PRIORITIES))
    a(QueueDeclare(talk.q, arguments={"x-message-ttl": 0, **to(dead)}))
    _publish(a, talk.q, 1, 5, 3)
    a.count(dead, 3)
    a.drain(dead)


@conversation
def time_goes_on_for_returned_messages(talk):
    a, dead = mourned(talk, PRIORITIES)
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", priority=3, expiration="20")
    a.hear()
    elapse(talk, 60)
    a.peer.drop()
    dead.hear()

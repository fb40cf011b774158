"""Acks, nacks and rejects; what they return to the queue, and where."""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicQos,
    BasicRecover,
    BasicRecoverAsync,
    BasicReject,
    ChannelClose,
    QueueDeclare,
    QueuePurge,
)

from .conversation import conversation


def _taken(talk, count=3):
    """Return a channel that has got `count` messages."""
    a = talk.channel()
    a(QueueDeclare(talk.q))
    for number in range(1, count + 1):
        a.publish("", talk.q, str(number).encode())
    for _ in range(count):
        a(BasicGet(talk.q))
    return a


UNKNOWN = {
    "ack": BasicAck(7),
    "ack_multiple": BasicAck(7, multiple=True),
    "ack_zero": BasicAck(0),
    "nack": BasicNack(7),
    "nack_multiple": BasicNack(7, multiple=True),
    "nack_zero": BasicNack(0),
    "reject": BasicReject(7),
    "reject_zero": BasicReject(0),
    "ack_huge": BasicAck((1 << 64) - 1),
}


@conversation(each=UNKNOWN)
def unknown_delivery_tag(talk, method):
    a = _taken(talk)
    a(method)
    a.quiet()


@conversation(each={"ack": BasicAck, "nack": BasicNack})
def everything_when_nothing_is_outstanding(talk, make):
    a = talk.channel()
    a(make(0, multiple=True))
    a.quiet()


@conversation(each={"ack": BasicAck(2), "nack": BasicNack(2), "reject": BasicReject(2)})
def settled_twice(talk, method):
    a = _taken(talk)
    a(method)
    a(method)
    a.quiet()


@conversation
def multiple_up_to_a_settled_tag(talk):
    a = _taken(talk)
    a(BasicAck(2))
    a(BasicAck(2, multiple=True))
    a.quiet()


@conversation
def multiple_over_gaps(talk):
    a = _taken(talk, 5)
    a(BasicAck(2))
    a(BasicAck(4, multiple=True))
    a(BasicNack(5))
    a.count(talk.q, 1)
    a(BasicAck(1))
    a.quiet()


@conversation
def unknown_tag_leaves_the_rest_unsettled(talk):
    a = _taken(talk, 2)
    a(BasicAck(9, multiple=True))
    a.quiet()
    b = a.peer.channel()
    b.count(talk.q, 2)
    b.drain(talk.q)


@conversation
def ack_on_another_channel(talk):
    a = _taken(talk)
    b = a.peer.channel()
    b(BasicAck(1))
    b.quiet()


REQUEUE = {
    "reject_first": [BasicReject(1)],
    "reject_last": [BasicReject(3)],
    "reject_middle": [BasicReject(2)],
    "backwards": [BasicReject(3), BasicReject(2), BasicReject(1)],
    "forwards": [BasicReject(1), BasicReject(2), BasicReject(3)],
    "nack_multiple": [BasicNack(2, multiple=True)],
    "nack_all": [BasicNack(0, multiple=True)],
    "nack_single": [BasicNack(2)],
    "recover": [BasicRecover(requeue=True)],
    "recover_async": [BasicRecoverAsync(requeue=True)],
    "drop": [BasicReject(2, requeue=False), BasicNack(3, requeue=False)],
    "drop_multiple": [BasicNack(2, multiple=True, requeue=False)],
}


@conversation(each=REQUEUE)
def returned_messages_go_to_their_old_place(talk, methods):
    a = _taken(talk)
    for body in (b"4", b"5"):
        a.publish("", talk.q, body)
    for method in methods:
        a(method)
    a.drain(talk.q)


@conversation
def closing_returns_in_order(talk):
    a = _taken(talk)
    b = talk.channel()
    b(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"4")
    b.hear()
    a(ChannelClose())
    b.hear(3)


@conversation
def rejected_message_comes_back_to_its_consumer(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicReject(1))
    a.hear()
    a(BasicNack(2))
    a.hear()
    a(BasicAck(3))
    a.count(talk.q, 0)


@conversation
def returned_messages_come_back_in_order(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(BasicQos(prefetch_count=3))
    a(BasicConsume(talk.q, "tag"))
    for number in range(5):
        a.publish("", talk.q, str(number).encode())
    a.hear(3)
    a(BasicNack(3, multiple=True))
    a.hear(3)


@conversation
def recover_without_requeue_is_not_implemented(talk):
    a = _taken(talk)
    a(BasicRecover(requeue=False))


@conversation
def recover_async_without_requeue_is_not_implemented(talk):
    a = _taken(talk)
    a(BasicRecoverAsync(requeue=False))
    a.quiet()


@conversation
def recover_with_nothing_outstanding(talk):
    a = talk.channel()
    a(BasicRecover(requeue=True))


@conversation
def recover_redelivers_to_consumers(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.publish("", talk.q, b"2")
    a.hear(2)
    a(BasicRecover(requeue=True))
    a.hear(2)


@conversation
def no_ack_messages_are_not_settled(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a.publish("", talk.q, b"1")
    a(BasicGet(talk.q, no_ack=True))
    a(BasicAck(1))
    a.quiet()


@conversation
def tags_go_on_after_settling(talk):
    a = _taken(talk, 2)
    a(BasicAck(0, multiple=True))
    a.publish("", talk.q, b"3")
    a(BasicGet(talk.q))
    a(BasicAck(3))
    a.count(talk.q, 0)


@conversation
def returned_to_a_purged_queue(talk):
    a = _taken(talk)
    a.publish("", talk.q, b"4")
    a(QueuePurge(talk.q))
    a(BasicNack(0, multiple=True))
    a.drain(talk.q)


@conversation
def nack_does_not_redeliver_to_a_cancelled_consumer(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicCancel("tag"))
    a(BasicNack(1))
    a.count(talk.q, 1)


@conversation
def settling_frees_the_window_in_any_order(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(BasicQos(prefetch_count=2))
    a(BasicConsume(talk.q, "tag"))
    for number in range(1, 7):
        a.publish("", talk.q, str(number).encode())
    a.hear(2)
    a(BasicAck(2))
    a.hear()
    a(BasicReject(1, requeue=False))
    a.hear()
    a(BasicAck(4, multiple=True))
    a.hear(2)


@conversation
def redelivered_is_set_by_delivery_not_by_return(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.publish("", talk.q, b"2")
    a.hear()
    a(ChannelClose())
    b = a.peer.channel()
    b.count(talk.q, 2)
    b.drain(talk.q)

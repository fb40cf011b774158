"""Quorum queues: how often a message was delivered, and after how many times it dies."""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicQos,
    BasicRecover,
    BasicReject,
    ChannelClose,
    ConfirmSelect,
    QueueDeclare,
    QueuePurge,
)

from .conversation import conversation, reworded
from .letters import elapse, mourned

QUORUM = {"x-queue-type": "quorum"}
LIMIT = "x-delivery-limit"
COUNT = "x-delivery-count: Int64(0)"
ZERO = reworded(
    "the header comes with redeliveries",
    (f" headers={{{COUNT}}}", ""),
    (f", {COUNT}", ""),
    (f"{COUNT}, ", ""),
)


def _queue(talk, **arguments):
    """Return a channel of a quorum queue, and one that hears of its deaths."""
    return mourned(talk, {**QUORUM, **arguments}, durable=True)


RETURNS = {
    "reject": lambda tag: BasicReject(tag),
    "nack": lambda tag: BasicNack(tag),
    "nack_multiple": lambda tag: BasicNack(tag, multiple=True),
    "nack_all": lambda tag: BasicNack(0, multiple=True),
}


@conversation(each=RETURNS)
def deliveries_are_counted(talk, make):
    a, dead = _queue(talk)
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", headers={"mine": 1})
    for tag in (1, 2, 3):
        a.hear()
        a(make(tag))
    a.hear()
    a(BasicAck(4))
    a.quiet()
    a.count(talk.q, 0)
    dead.quiet()


@conversation(each=RETURNS)
def message_dies_at_its_limit(talk, make):
    a, dead = _queue(talk, **{LIMIT: 2})
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    for tag in (1, 2, 3):
        a.hear()
        a(make(tag))
    dead.hear()
    a.quiet()


@conversation(each={"zero": 0, "one": 1, "three": 3})
def limit_of_deliveries(talk, limit):
    a, dead = _queue(talk, **{LIMIT: limit})
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    for tag in range(1, limit + 2):
        a.hear()
        a(BasicReject(tag))
    dead.hear()
    a.quiet()


@conversation
def limit_without_dead_letter_exchange(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments={**QUORUM, LIMIT: 1}))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicReject(1))
    a.hear()
    a(BasicReject(2))
    a.publish("", talk.q, b"2")
    a.hear()


@conversation
def each_message_has_its_own_count(talk):
    a, dead = _queue(talk, **{LIMIT: 2})
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicReject(1))
    a.hear()
    a(BasicAck(2))
    a.publish("", talk.q, b"2")
    a.hear()
    a(BasicReject(3))
    a.hear()
    dead.quiet()


@conversation
def rejected_for_good_before_the_limit(talk):
    a, dead = _queue(talk, **{LIMIT: 5})
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicReject(1))
    a.hear()
    a(BasicReject(2, requeue=False))
    dead.hear()


@conversation(unless=ZERO)
def count_of_messages_that_are_got(talk):
    a, dead = _queue(talk, **{LIMIT: 1})
    a(ConfirmSelect())
    a.publish("", talk.q, b"1")
    a.hear_confirms(1)
    a.count(talk.q, 1)
    a(BasicGet(talk.q))
    a(BasicReject(1))
    a.count(talk.q, 1)
    a(BasicGet(talk.q))
    a(BasicReject(2))
    dead.hear()
    a(BasicGet(talk.q))


LEAVES = {
    "channel": lambda channel: channel(ChannelClose()),
    "connection": lambda channel: channel.peer.close(),
    "lost": lambda channel: channel.peer.drop(),
}


@conversation(each=LEAVES)
def lost_consumers_count(talk, leave):
    a, dead = _queue(talk, **{LIMIT: 1})
    a.publish("", talk.q, b"1")
    for _ in range(2):
        b = talk.channel()
        b(BasicConsume(talk.q, "tag"))
        b.hear()
        leave(b)
    dead.hear()
    a.count(talk.q, 0)


@conversation
def recovering_counts(talk):
    a, dead = _queue(talk, **{LIMIT: 1})
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicRecover(requeue=True))
    a.hear()
    a(BasicRecover(requeue=True))
    dead.hear()


@conversation
def cancelled_consumer_returns_its_message(talk):
    a, dead = _queue(talk, **{LIMIT: 1})
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicCancel("tag"))
    a(BasicReject(1))
    a.count(talk.q, 1)
    a(BasicConsume(talk.q, "again"))
    a.hear()
    a(BasicReject(2))
    dead.hear()


@conversation
def publisher_who_counts_deliveries(talk):
    a, dead = _queue(talk, **{LIMIT: 1})
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", headers={"x-delivery-count": 7, "mine": 1})
    a.hear()
    a(BasicReject(1))
    a.hear()
    a(BasicReject(2))
    dead.hear()


# TTL, length and dead letters of quorum queues


@conversation(each={"queue": ({"x-message-ttl": 20}, None), "message": ({}, "20")})
def message_of_a_quorum_queue_expires(talk, arguments, expiration):
    a, dead = _queue(talk, **arguments)
    a.publish("", talk.q, b"1", expiration=expiration)
    dead.hear()
    a.count(talk.q, 0)


@conversation
def returned_message_of_a_quorum_queue_keeps_its_deadline(talk):
    a, dead = _queue(talk)
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", expiration="200")
    a.hear()
    a(BasicCancel("tag"))
    elapse(talk, 300)
    a(BasicReject(1))
    dead.hear()


@conversation(each={"length": {"x-max-length": 2}, "bytes": {"x-max-length-bytes": 2}})
def full_quorum_queue_drops_its_head(talk, arguments):
    a, dead = _queue(talk, **arguments)
    a(ConfirmSelect())
    for number in range(1, 5):
        a.publish("", talk.q, str(number).encode())
        a.hear_confirms(1)
    dead.hear(2)
    a.count(talk.q, 2)


@conversation(
    each={"reject": BasicReject(1, requeue=False), "nack": BasicNack(1, requeue=False)},
    unless=ZERO,
)
def rejected_message_of_a_quorum_queue(talk, method):
    a, dead = _queue(talk)
    a.publish("", talk.q, b"1", headers={"mine": 1}, priority=3, message_id="id")
    a.count(talk.q, 1)
    a(BasicGet(talk.q))
    a(method)
    dead.hear()


@conversation
def purged_quorum_queue(talk):
    a, dead = _queue(talk)
    a(ConfirmSelect())
    for number in range(3):
        a.publish("", talk.q, str(number).encode())
    a.hear_confirms(3)
    a.count(talk.q, 3)
    a(QueuePurge(talk.q))
    a.count(talk.q, 0)
    dead.quiet()

"""Queues that expire when nobody uses them, and what use is."""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    ChannelClose,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
)

from .conversation import conversation
from .letters import elapse, mourned

EXPIRES = "x-expires"


def _watched(talk, milliseconds):
    """Declare a queue that expires and an exchange that goes with it.

    To ask for the queue is to use it, so conversations ask for the exchange.
    """
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "fanout", auto_delete=True))
    a(QueueDeclare(talk.q, arguments={EXPIRES: milliseconds}))
    a(QueueBind(talk.q, talk.x))
    return a


def _hear_the_end(talk, channel):
    """Ask for the exchange until it is gone, not all of the time."""
    elapse(talk, 700)
    channel.exchange_gone(talk.x)


@conversation
def unused_queue_expires(talk):
    a = _watched(talk, 800)
    _hear_the_end(talk, a)
    b = talk.channel()
    b(QueueDeclare(talk.q, passive=True))


@conversation
def messages_of_an_expired_queue_are_no_dead_letters(talk):
    a, dead = mourned(talk, {EXPIRES: 800})
    a(ExchangeDeclare(talk.x, "fanout", auto_delete=True))
    a(QueueBind(talk.q, talk.x))
    a.publish("", talk.q, b"1")
    _hear_the_end(talk, a)
    dead.quiet()


USES = {
    "get": BasicGet,
    "get_no_ack": lambda queue: BasicGet(queue, no_ack=True),
    "declare": lambda queue: QueueDeclare(queue, arguments={EXPIRES: 3000}),
    "passive_declare": lambda queue: QueueDeclare(queue, passive=True),
}


@conversation(each=USES)
def used_queue_does_not_expire(talk, make):
    a = _watched(talk, 3000)
    for _ in range(4):
        elapse(talk, 800)
        a(make(talk.q))
    a(ExchangeDeclare(talk.x, passive=True))


NO_USES = {
    "publish": lambda a, talk: a.publish("", talk.q, b"2"),
    "publish_to_exchange": lambda a, talk: a.publish(talk.x, "", b"2"),
    "bind": lambda a, talk: a(QueueBind(talk.q, talk.x, "other")),
    "return": lambda a, talk: a(BasicNack(1)),
    "ack": lambda a, talk: a(BasicAck(1)),
}


@conversation(each=NO_USES)
def what_is_no_use_of_a_queue(talk, do):
    a = _watched(talk, 1000)
    a.publish("", talk.q, b"1")
    a(BasicGet(talk.q))
    elapse(talk, 500)
    do(a, talk)
    elapse(talk, 700)
    b = talk.channel()
    b(ExchangeDeclare(talk.x, passive=True))


@conversation
def queue_with_a_consumer_does_not_expire(talk):
    a = _watched(talk, 800)
    a(BasicConsume(talk.q, "tag"))
    elapse(talk, 1000)
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicCancel("tag"))
    _hear_the_end(talk, a)


@conversation(each={"channel": lambda a: a(ChannelClose()), "connection": lambda a: a.peer.drop()})
def queue_expires_when_its_consumer_left(talk, leave):
    a = _watched(talk, 800)
    b = talk.channel()
    b(BasicConsume(talk.q, "tag"))
    elapse(talk, 1000)
    leave(b)
    _hear_the_end(talk, a)


@conversation
def expired_queue_is_made_anew(talk):
    a = _watched(talk, 800)
    a.publish("", talk.q, b"1")
    _hear_the_end(talk, a)
    b = talk.channel()
    b(QueueDeclare(talk.q, arguments={EXPIRES: 60_000}))


@conversation
def unacked_messages_do_not_keep_a_queue(talk):
    a = _watched(talk, 800)
    a.publish("", talk.q, b"1")
    a(BasicGet(talk.q))
    _hear_the_end(talk, a)

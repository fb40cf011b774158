"""Length limits: which message goes, which is refused, and what the publisher hears of it."""

from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicQos,
    BasicReject,
    ChannelClose,
    ConfirmSelect,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
    QueuePurge,
    TxCommit,
    TxSelect,
)

from .conversation import conversation
from .letters import listening, mourned, take_stock

LENGTH, BYTES, OVERFLOW = "x-max-length", "x-max-length-bytes", "x-overflow"
REFUSES = {
    "refused": {OVERFLOW: "reject-publish"},
    "refused_as_letter": {OVERFLOW: "reject-publish-dlx"},
}
OVERFLOWS = {"default": {}, "drop_head": {OVERFLOW: "drop-head"}, **REFUSES}
LIMITS = {
    "length": {LENGTH: 2},
    "bytes": {BYTES: 9},
    "both": {LENGTH: 3, BYTES: 7},
    "zero": {LENGTH: 0},
    "zero_bytes": {BYTES: 0},
}


def _publish(channel, queue, *bodies, **properties):
    for body in bodies:
        channel.publish("", queue, body, **properties)


def _stock(channel, dead, queue, messages, arguments):
    """Get what there is, and hear the letters of the rest unless a refusal makes none."""
    if arguments.get(OVERFLOW) == "reject-publish":
        channel.drain(queue)
        dead.quiet()
    else:
        take_stock(channel, dead, queue, messages)


@conversation(
    each={
        f"{limit}_{overflow}": ({**LIMITS[limit], **OVERFLOWS[overflow]},)
        for limit in LIMITS
        for overflow in OVERFLOWS
    }
)
def queue_that_is_full(talk, arguments):
    a, dead = mourned(talk, arguments)
    a(ConfirmSelect())
    for body in (b"1111", b"2222", b"3333", b"", b"5555"):
        a.publish("", talk.q, body)
        a.hear_confirms(1)
    _stock(a, dead, talk.q, 5, arguments)


@conversation(each={"length": {LENGTH: 1}, "bytes": {BYTES: 4}, "zero": {LENGTH: 0}})
def full_without_confirms(talk, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={**arguments, **REFUSES["refused"]}))
    _publish(a, talk.q, b"1111", b"2222")
    a.publish("", talk.q, b"3333", mandatory=True)
    a.quiet()
    a.drain(talk.q)


@conversation(each=OVERFLOWS)
def one_body_above_the_limit(talk, arguments):
    a, dead = mourned(talk, {BYTES: 4, **arguments})
    a(ConfirmSelect())
    for body in (b"small", b"1", b"22", b"333"):
        a.publish("", talk.q, body)
        a.hear_confirms(1)
    _stock(a, dead, talk.q, 4, arguments)


@conversation(each={"headers": {"headers": {"a": "b" * 50}}, "type": {"type": "t" * 50}})
def only_bodies_count(talk, properties):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={BYTES: 10}))
    _publish(a, talk.q, b"1111", b"2222", **properties)
    a.count(talk.q, 2)


# Several queues


@conversation(each=REFUSES)
def one_queue_of_several_refuses(talk, arguments):
    a, dead = mourned(talk, {LENGTH: 1, **arguments})
    other = talk.name("other")
    a(QueueDeclare(other))
    a(ExchangeDeclare(talk.x, "fanout"))
    a(QueueBind(talk.q, talk.x))
    a(QueueBind(other, talk.x))
    a(ConfirmSelect())
    for body in (b"1", b"2", b"3"):
        a.publish(talk.x, "", body, mandatory=True)
        a.hear_confirms(1)
    a.drain(other)
    _stock(a, dead, talk.q, 3, arguments)


@conversation
def all_queues_refuse(talk):
    a = talk.channel()
    for name in talk.names("first second"):
        a(QueueDeclare(name, arguments={LENGTH: 0, **REFUSES["refused"]}))
        a(QueueBind(name, "amq.direct", talk.q))
    a(ConfirmSelect())
    a.publish("amq.direct", talk.q, b"1", mandatory=True)
    a.hear_confirms(1)


@conversation
def refused_messages_do_not_go_to_the_alternate_exchange(talk):
    a = talk.channel()
    other = listening(talk, "other")
    alternate = talk.name("alternate")
    a(ExchangeDeclare(alternate, "fanout"))
    a(QueueBind(talk.name("other"), alternate))
    a(ExchangeDeclare(talk.x, "direct", arguments={"alternate-exchange": alternate}))
    a(QueueDeclare(talk.q, arguments={LENGTH: 0, **REFUSES["refused"]}))
    a(QueueBind(talk.q, talk.x, "key"))
    a(ConfirmSelect())
    a.publish(talk.x, "key", b"refused")
    a.hear_confirms(1)
    a.publish(talk.x, "other", b"unroutable")
    a.hear_confirms(1)
    other.hear()


@conversation(each=REFUSES)
def publishers_are_refused_one_by_one(talk, arguments):
    a, dead = mourned(talk, {LENGTH: 2, **arguments})
    a(ConfirmSelect())
    for number in range(6):
        a.publish("", talk.q, str(number).encode())
        a.hear_confirms(1)
        if number == 3:
            a(BasicGet(talk.q, no_ack=True))
    _stock(a, dead, talk.q, 5, arguments)


@conversation(each=OVERFLOWS)
def full_queue_in_a_transaction(talk, arguments):
    a, dead = mourned(talk, {LENGTH: 1, **arguments})
    a(TxSelect())
    _publish(a, talk.q, b"1", b"2")
    a(TxCommit())
    b = talk.channel()
    b.count(talk.q, 1)
    _stock(b, dead, talk.q, 2, arguments)


@conversation
def transaction_that_is_refused_in_part(talk):
    a = talk.channel()
    other = talk.name("other")
    a(QueueDeclare(other))
    a(QueueDeclare(talk.q, arguments={LENGTH: 0, **REFUSES["refused"]}))
    a.publish("", other, b"1")
    a(BasicGet(other))
    a(TxSelect())
    a(BasicAck(1))
    a.publish("", talk.q, b"refused")
    a.publish("", other, b"2")
    a(TxCommit())
    b = talk.channel()
    b.count(other, 1)
    b.drain(other)


# Consumers


@conversation(each=OVERFLOWS)
def consumer_that_waits_gets_what_does_not_fit(talk, arguments):
    a, dead = mourned(talk, {LENGTH: 1, **arguments})
    b = a.peer.channel()
    b(BasicConsume(talk.q, "tag"))
    a(ConfirmSelect())
    _publish(a, talk.q, b"1", b"2", b"3")
    a.hear_confirms(3)
    b.hear(3)
    dead.quiet()


@conversation(each={"length": {LENGTH: 0}, "bytes": {BYTES: 0}})
def limit_of_zero_hands_over(talk, arguments):
    a, dead = mourned(talk, arguments)
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    _publish(a, talk.q, b"1")
    a.hear()
    _publish(a, talk.q, b"2")
    dead.hear()
    a(BasicAck(1))
    _publish(a, talk.q, b"3")
    a.hear()


@conversation(each=OVERFLOWS)
def unacked_messages_do_not_count(talk, arguments):
    a, dead = mourned(talk, {LENGTH: 2, **arguments})
    _publish(a, talk.q, b"1", b"2")
    a(BasicGet(talk.q))
    a(BasicGet(talk.q))
    _publish(a, talk.q, b"3", b"4")
    a.count(talk.q, 2)
    a(BasicNack(2, multiple=True))
    a.quiet()
    if arguments in REFUSES.values():
        a.drain(talk.q)
    else:
        take_stock(a, dead, talk.q, 4)


RETURNS = {
    "reject": lambda a: a(BasicReject(1)),
    "nack": lambda a: a(BasicNack(1)),
    "channel_closed": lambda a: a(ChannelClose()),
    "connection_lost": lambda a: a.peer.drop(),
}


@conversation(each=RETURNS)
def returned_message_makes_a_queue_too_long(talk, give_back):
    a, dead = mourned(talk, {LENGTH: 1})
    _publish(a, talk.q, b"1")
    a(BasicGet(talk.q))
    _publish(a, talk.q, b"2")
    a.count(talk.q, 1)
    give_back(a)
    dead.hear()
    b = talk.channel()
    b.drain(talk.q)


@conversation
def returned_bytes_make_a_queue_too_long(talk):
    a, dead = mourned(talk, {BYTES: 8})
    _publish(a, talk.q, b"1111")
    a(BasicGet(talk.q))
    _publish(a, talk.q, b"2222", b"3333")
    a.count(talk.q, 2)
    a(BasicReject(1))
    dead.hear()
    a.drain(talk.q)


@conversation
def busy_consumer_does_not_make_room(talk):
    a, dead = mourned(talk, {LENGTH: 1})
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    _publish(a, talk.q, b"1", b"2", b"3")
    a.hear()
    dead.hear()
    a(BasicAck(1))
    a.hear()


@conversation
def purged_queue_has_room(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={LENGTH: 1, **REFUSES["refused"]}))
    a(ConfirmSelect())
    _publish(a, talk.q, b"1")
    a.hear_confirms(1)
    a(QueuePurge(talk.q))
    _publish(a, talk.q, b"2")
    a.hear_confirms(1)
    a.drain(talk.q)


@conversation
def expired_messages_make_room(talk):
    a, dead = mourned(talk, {LENGTH: 1, **REFUSES["refused"]})
    a(ConfirmSelect())
    _publish(a, talk.q, b"1", expiration="20")
    a.hear_confirms(1)
    dead.hear()
    _publish(a, talk.q, b"2")
    a.hear_confirms(1)
    a.drain(talk.q)


@conversation
def persistent_messages_are_dropped_too(talk):
    a, dead = mourned(talk, {LENGTH: 1}, durable=True)
    a(ConfirmSelect())
    _publish(a, talk.q, b"1", b"2", b"3", delivery_mode=2)
    a.hear_confirms(3)
    dead.hear(2)
    a.drain(talk.q)


@conversation
def refused_message_dies_with_its_properties(talk):
    a, dead = mourned(talk, {LENGTH: 0, **REFUSES["refused_as_letter"]})
    a.publish(
        "", talk.q, b"1", headers={"mine": 1, "CC": ["nobody"]}, expiration="60000", priority=2
    )
    dead.hear()

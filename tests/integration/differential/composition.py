"""Features of queues in pairs, where the files of the single ones do not have them."""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicQos,
    BasicReject,
    ChannelClose,
    ConfirmSelect,
    QueueBind,
    QueueDeclare,
)

from .conversation import conversation, differs
from .letters import elapse, mourned, take_stock, to

TTL, LENGTH, BYTES = "x-message-ttl", "x-max-length", "x-max-length-bytes"
PRIORITIES = {"x-max-priority": 5}
SINGLE = {"x-single-active-consumer": True}
QUORUM = {"x-queue-type": "quorum"}
REFUSES = {"x-overflow": "reject-publish"}
REFUSES_AS_LETTER = {"x-overflow": "reject-publish-dlx"}


def _publish(channel, queue, *bodies, **properties):
    for body in bodies:
        channel.publish("", queue, body, **properties)


# TTL and length


BOTH = {
    "drop_head": {LENGTH: 0},
    "drop_head_bytes": {BYTES: 0},
    "refuses": {LENGTH: 0, **REFUSES},
    "refuses_as_letter": {LENGTH: 0, **REFUSES_AS_LETTER},
    "room_for_one": {LENGTH: 1},
    "room_for_one_refuses": {LENGTH: 1, **REFUSES},
}


@conversation(each=BOTH)
def no_time_and_no_room(talk, arguments):
    a, dead = mourned(talk, {TTL: 0, **arguments})
    a(ConfirmSelect())
    _publish(a, talk.q, b"1")
    a.hear_confirms(1)
    if arguments == BOTH["refuses"]:
        dead.quiet()
    else:
        dead.hear()


@conversation(each=BOTH)
def no_time_and_no_room_but_a_consumer(talk, arguments):
    a, dead = mourned(talk, {TTL: 0, **arguments})
    b = a.peer.channel()
    b(BasicConsume(talk.q, "tag"))
    a(ConfirmSelect())
    _publish(a, talk.q, b"1")
    a.hear_confirms(1)
    if arguments.get(LENGTH) or "x-overflow" not in arguments:
        b.hear()
    elif arguments == BOTH["refuses_as_letter"]:
        dead.hear()
    b.quiet()
    dead.quiet()


@conversation(each={"length": {LENGTH: 0}, "bytes": {BYTES: 3}})
def refusing_queue_does_not_hand_over(talk, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={**arguments, **REFUSES}))
    b = a.peer.channel()
    b(BasicConsume(talk.q, "tag"))
    a(ConfirmSelect())
    _publish(a, talk.q, b"a body")
    a.hear_confirms(1)
    b.quiet()


@conversation(
    unless=differs(
        "an expired message takes no room, wherever it stood",
        "b1 < queue.declare-ok queue='~dead' message_count=0 consumer_count=0",
        "b1 < basic.consume-ok consumer_tag='dead'",
        "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
        "a1 < basic.get-ok delivery_tag=1 redelivered=False exchange='' routing_key='~q'"
        " message_count=1 b'long'",
        "a1 < basic.get-ok delivery_tag=2 redelivered=False exchange='' routing_key='~q'"
        " message_count=0 b'third'",
        "a1 < basic.get-empty",
        "b1 < basic.deliver consumer_tag='dead' delivery_tag=1 redelivered=False exchange=''"
        " routing_key='~dead' headers={x-death: [{count: Int64(1), exchange: '',"
        " original-expiration: '20', queue: '~q', reason: 'expired', routing-keys: ['~q'],"
        " time: 'now'}], x-first-death-exchange: '', x-first-death-queue: '~q',"
        " x-first-death-reason: 'expired'} b'short'",
    )
)
def expired_message_behind_the_head_and_a_limit(talk):
    a, dead = mourned(talk, {LENGTH: 2})
    _publish(a, talk.q, b"long")
    _publish(a, talk.q, b"short", expiration="20")
    elapse(talk, 100)
    _publish(a, talk.q, b"third")
    take_stock(a, dead, talk.q, 3)


@conversation
def lazy_queue_with_a_limit(talk):
    a, dead = mourned(talk, {LENGTH: 1, "x-queue-mode": "lazy"}, durable=True)
    _publish(a, talk.q, b"1", b"2", b"3", delivery_mode=2)
    dead.hear(2)
    a.drain(talk.q)


@conversation
def lazy_queue_with_priorities(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments={**PRIORITIES, "x-queue-mode": "lazy"}))
    for priority in (1, 5, 3):
        _publish(a, talk.q, str(priority).encode(), priority=priority, delivery_mode=2)
    a.count(talk.q, 3)
    a.drain(talk.q)


# Consumers


@conversation
def no_time_but_a_consumer_of_low_priority(talk):
    a, dead = mourned(talk, {TTL: 0})
    b = talk.channel()
    for channel, tag, priority in ((a, "high", 9), (b, "low", 1)):
        channel(BasicQos(prefetch_count=1))
        channel(BasicConsume(talk.q, tag, arguments={"x-priority": priority}))
    _publish(a, talk.q, b"1", b"2", b"3")
    a.hear()
    b.hear()
    dead.hear()


@conversation
def time_of_a_single_active_consumer(talk):
    a, dead = mourned(talk, {TTL: 20, **SINGLE})
    b = talk.channel()
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "first"))
    b(BasicConsume(talk.q, "second"))
    _publish(a, talk.q, b"1", b"2")
    a.hear()
    dead.hear()
    b.quiet()


@conversation
def limit_of_a_single_active_consumer(talk):
    arguments = {**QUORUM, **SINGLE, "x-delivery-limit": 1}
    a, dead = mourned(talk, arguments, durable=True)
    b = talk.channel()
    a(BasicConsume(talk.q, "first"))
    b(BasicConsume(talk.q, "second"))
    _publish(a, talk.q, b"1")
    for tag in (1, 2):
        a.hear()
        a(BasicReject(tag))
    dead.hear()
    b.quiet()


@conversation
def exclusive_consumer_and_time(talk):
    a, dead = mourned(talk, {TTL: 0})
    a(BasicConsume(talk.q, "tag", exclusive=True))
    _publish(a, talk.q, b"1")
    a.hear()
    a(BasicCancel("tag"))
    _publish(a, talk.q, b"2")
    dead.hear()


# The end of a queue makes no letters.


@conversation
def auto_deleted_queue_leaves_no_letters(talk):
    a, dead = mourned(talk, {}, auto_delete=True)
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    _publish(a, talk.q, b"1", b"2")
    a.hear()
    a(BasicCancel("tag"))
    talk.channel().gone(talk.q)
    elapse(talk, 1)
    dead.quiet()


@conversation
def exclusive_queue_leaves_no_letters(talk):
    a, dead = mourned(talk, {}, exclusive=True)
    _publish(a, talk.q, b"1", b"2")
    a.count(talk.q, 2)
    a.peer.close()
    talk.channel().gone(talk.q)
    dead.quiet()


@conversation
def exclusive_queue_sends_letters(talk):
    a, dead = mourned(talk, {TTL: 20}, exclusive=True)
    _publish(a, talk.q, b"1")
    dead.hear()


# Dead letters between queues of different kinds


KINDS = {
    "durable": ({"durable": True}, {}),
    "auto_delete": ({"auto_delete": True}, {}),
    "quorum": ({"durable": True}, QUORUM),
    "priorities": ({}, PRIORITIES),
    "lazy": ({}, {"x-queue-mode": "lazy"}),
    "single_active": ({}, SINGLE),
    "limit": ({}, {LENGTH: 5}),
}


@conversation(each=KINDS)
def letter_for_a_queue_of_another_kind(talk, options, arguments):
    a, b = talk.channel(), talk.channel()
    dead = talk.name("dead")
    b(QueueDeclare(dead, **options, arguments=arguments))
    b(BasicConsume(dead, "dead"))
    a(QueueDeclare(talk.q, arguments={TTL: 20, **to(dead)}))
    _publish(a, talk.q, b"1", priority=3, headers={"mine": 1})
    b.hear()
    b(BasicAck(1))
    b.quiet()


@conversation
def letter_for_a_queue_without_time(talk):
    a, dead = mourned(talk, {TTL: 0})
    first = talk.name("first")
    a(QueueDeclare(first, arguments={TTL: 0, **to(talk.q)}))
    a(QueueBind(first, "amq.direct", first))
    a.publish("amq.direct", first, b"1", expiration="60000")
    dead.hear()


@conversation
def returned_message_that_died_before(talk):
    a = talk.channel()
    dead = talk.name("dead")
    a(QueueDeclare(dead))
    a(QueueDeclare(talk.q, arguments={TTL: 0, **to(dead)}))
    _publish(a, talk.q, b"1")
    a.count(dead, 1)
    a(BasicGet(dead))
    a(ChannelClose())
    b = a.peer.channel()
    b.count(dead, 1)
    b.drain(dead)

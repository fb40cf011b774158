"""Time to live: of a queue, of a message; when the clock runs and when it does not."""

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
    QueueBind,
    QueueDeclare,
    QueuePurge,
    TxCommit,
    TxSelect,
)

from .conversation import conversation, differs
from .letters import LONG_TTL, elapse, listening, mourned, to

TTL = "x-message-ttl"
LONG = str(LONG_TTL)

LIVES = {
    "of_the_queue": (20, None),
    "of_the_message": (None, "20"),
    "queue_is_shorter": (20, LONG),
    "message_is_shorter": (LONG_TTL, "20"),
    "equal": (20, "20"),
    "zero_of_the_queue": (0, None),
    "zero_of_the_message": (None, "0"),
    "zero_of_the_queue_is_shorter": (0, LONG),
    "zero_of_the_message_is_shorter": (LONG_TTL, "0"),
}


def _lived(queue_ttl: int | None) -> dict[str, object]:
    return {} if queue_ttl is None else {TTL: queue_ttl}


@conversation(each=LIVES)
def message_that_expires(talk, queue_ttl, expiration):
    a, dead = mourned(talk, _lived(queue_ttl))
    a.publish("", talk.q, b"short", expiration=expiration)
    dead.hear()
    a.count(talk.q, 0)
    a(BasicGet(talk.q))


@conversation(
    each={"queue": (LONG_TTL, None), "message": (None, LONG), "ten_years": (None, "315360000000")}
)
def message_that_lives(talk, queue_ttl, expiration):
    a, dead = mourned(talk, _lived(queue_ttl))
    a.publish("", talk.q, b"long", expiration=expiration)
    elapse(talk, 50)
    a(BasicGet(talk.q))
    dead.quiet()


ZERO = {"queue": (0, None), "message": (None, "0")}


@conversation(each=ZERO)
def zero_is_enough_for_a_waiting_consumer(talk, queue_ttl, expiration):
    a, dead = mourned(talk, _lived(queue_ttl))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"just in time", expiration=expiration)
    a.hear()
    a(BasicAck(1))
    a.count(talk.q, 0)
    dead.quiet()


@conversation(each=ZERO)
def zero_is_too_short_for_a_busy_consumer(talk, queue_ttl, expiration):
    a, dead = mourned(talk, _lived(queue_ttl))
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", expiration=expiration)
    a.publish("", talk.q, b"2", expiration=expiration)
    a.hear()
    dead.hear()
    a(BasicAck(1))
    a.publish("", talk.q, b"3", expiration=expiration)
    a.hear()


@conversation(each=ZERO)
def rejected_message_with_no_time_left(talk, queue_ttl, expiration):
    a, dead = mourned(talk, _lived(queue_ttl))
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", expiration=expiration)
    a.hear()
    a(BasicCancel("tag"))
    a(BasicReject(1))
    dead.hear()


@conversation(each=ZERO)
def expired_message_was_routed_and_confirmed(talk, queue_ttl, expiration):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments=_lived(queue_ttl)))
    a(ConfirmSelect())
    a.publish("", talk.q, b"1", mandatory=True, expiration=expiration)
    a.hear_confirms(1)
    a(BasicGet(talk.q))


@conversation
def expired_message_without_dead_letter_exchange_is_gone(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={TTL: 20}))
    a(ConfirmSelect())
    a.publish("", talk.q, b"1")
    a.publish("", talk.q, b"2")
    a.hear_confirms(2)
    a.count(talk.q, 0)
    a(BasicConsume(talk.q, "tag"))
    a.quiet()


@conversation
def expiration_is_delivered_as_it_was_published(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={TTL: LONG_TTL - 1}))
    a.publish("", talk.q, b"1", expiration=LONG)
    a.publish("", talk.q, b"2", expiration="0060000")
    a.drain(talk.q)


@conversation
def messages_expire_in_order(talk):
    a, dead = mourned(talk, {TTL: 20})
    for number in range(20):
        a.publish("", talk.q, str(number).encode())
    dead.hear(20)


@conversation
def each_queue_has_its_own_time(talk):
    a = talk.channel()
    dead = listening(talk)
    for word, ttl in {"short": 20, "middle": 120, "long": LONG_TTL}.items():
        arguments = {TTL: ttl, **to(talk.name("dead"))}
        a(QueueDeclare(talk.name(word), arguments=arguments))
        a(QueueBind(talk.name(word), "amq.direct", talk.q))
    a.publish("amq.direct", talk.q, b"to all three")
    dead.hear(2)
    a.count(talk.name("long"), 1)


# Unacked messages do not expire; when they come back, their time has gone on.

RETURNS = {
    "nack": lambda a: a(BasicNack(1)),
    "nack_all": lambda a: a(BasicNack(0, multiple=True)),
    "reject": lambda a: a(BasicReject(1)),
    "recover": lambda a: a(BasicRecover(requeue=True)),
    "channel_closed": lambda a: a(ChannelClose()),
    "connection_closed": lambda a: a.peer.close(),
    "connection_lost": lambda a: a.peer.drop(),
}


@conversation(each=RETURNS)
def returned_message_keeps_its_deadline(talk, give_back):
    a, dead = mourned(talk, {TTL: LONG_TTL})
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"taken in time", expiration="20")
    a.hear()
    a(BasicCancel("tag"))
    elapse(talk, 60)
    dead.quiet()
    give_back(a)
    dead.hear()


@conversation
def returned_message_keeps_the_time_it_has(talk):
    a, dead = mourned(talk, {TTL: LONG_TTL})
    a.publish("", talk.q, b"1", expiration=LONG)
    a(BasicGet(talk.q))
    a(BasicReject(1))
    elapse(talk, 20)
    a(BasicGet(talk.q))
    dead.quiet()


@conversation
def acked_message_does_not_expire(talk):
    a, dead = mourned(talk, {TTL: 20})
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    elapse(talk, 60)
    a(BasicAck(1))
    a.quiet()
    a.count(talk.q, 0)
    dead.quiet()


@conversation
def message_expires_while_its_consumer_is_busy(talk):
    a, dead = mourned(talk, {TTL: 20})
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.publish("", talk.q, b"2")
    a.hear()
    dead.hear()
    a(BasicAck(1))
    a.publish("", talk.q, b"3")
    a.hear()


@conversation
def purged_message_does_not_expire(talk):
    a, dead = mourned(talk, {TTL: 250})
    a.publish("", talk.q, b"1", expiration=LONG)
    a(BasicGet(talk.q))
    a.publish("", talk.q, b"2", expiration=LONG)
    a.count(talk.q, 1)
    a(QueuePurge(talk.q))
    elapse(talk, 300)
    dead.quiet()
    a(BasicReject(1))
    dead.hear()


@conversation
def time_counts_from_the_commit(talk):
    a, dead = mourned(talk, {TTL: 40})
    a(BasicConsume(talk.q, "tag"))
    a(TxSelect())
    a.publish("", talk.q, b"1", expiration="20")
    elapse(talk, 80)
    a(TxCommit())
    a.hear()
    dead.quiet()


@conversation
def committed_message_expires(talk):
    a, dead = mourned(talk, {})
    a(TxSelect())
    a.publish("", talk.q, b"1", expiration="0")
    a.publish("", talk.q, b"2", expiration="20")
    a(TxCommit())
    dead.hear(2)


@conversation
def persistent_messages_of_durable_queues_expire(talk):
    a, dead = mourned(talk, {}, durable=True)
    a(ConfirmSelect())
    for number in range(3):
        a.publish("", talk.q, str(number).encode(), delivery_mode=2, expiration="20")
    a.hear_confirms(3)
    dead.hear(3)


@conversation
def lazy_queues_expire(talk):
    a, dead = mourned(talk, {TTL: 20, "x-queue-mode": "lazy"}, durable=True)
    a.publish("", talk.q, b"1", delivery_mode=2)
    a.publish("", talk.q, b"2")
    dead.hear(2)


@conversation
def dead_letter_may_expire_again(talk):
    a = talk.channel()
    dead = listening(talk)
    second = talk.name("second")
    a(QueueDeclare(second, arguments={TTL: 20, **to(talk.name("dead"))}))
    a(QueueDeclare(talk.q, arguments=to(second)))
    a.publish("", talk.q, b"1", expiration="10")
    dead.hear()


# What stands behind a message that lives longer


@conversation(
    unless=differs(
        "expired messages go on time, not when they come to the head",
        "b1 < queue.declare-ok queue='~dead' message_count=0 consumer_count=0",
        "b1 < basic.consume-ok consumer_tag='dead'",
        "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
        "a1 < queue.declare-ok queue='~q' message_count=1 consumer_count=0",
        "a1 < basic.get-ok delivery_tag=1 redelivered=False exchange='' routing_key='~q'"
        " message_count=0 b'long'",
        "b1 < basic.deliver consumer_tag='dead' delivery_tag=1 redelivered=False exchange=''"
        " routing_key='~dead' headers={x-death: [{count: Int64(1), exchange: '',"
        " original-expiration: '20', queue: '~q', reason: 'expired', routing-keys: ['~q'],"
        " time: 'now'}], x-first-death-exchange: '', x-first-death-queue: '~q',"
        " x-first-death-reason: 'expired'} b'short'",
    )
)
def expired_message_behind_one_that_lives(talk):
    a, dead = mourned(talk, {})
    a.publish("", talk.q, b"long")
    a.publish("", talk.q, b"short", expiration="20")
    elapse(talk, 100)
    a(QueueDeclare(talk.q, passive=True))
    a(BasicGet(talk.q))
    dead.hear()


@conversation
def expired_message_is_not_delivered_from_behind_the_head(talk):
    a, dead = mourned(talk, {})
    a.publish("", talk.q, b"long")
    a.publish("", talk.q, b"short", expiration="20")
    a.publish("", talk.q, b"other")
    elapse(talk, 100)
    a(BasicConsume(talk.q, "tag"))
    a.hear(2)
    dead.hear()


@conversation
def shorter_lives_come_first(talk):
    a, dead = mourned(talk, {})
    a.publish("", talk.q, b"short", expiration="20")
    a.publish("", talk.q, b"longer", expiration="80")
    a.publish("", talk.q, b"longest", expiration="140")
    dead.hear(3)

"""Dead letters: what makes them, where they go, and what does not become one."""

from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicRecover,
    BasicReject,
    ChannelClose,
    ConfirmSelect,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDelete,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    QueuePurge,
    TxCommit,
    TxRollback,
    TxSelect,
)

from .conversation import conversation
from .letters import DLX, DLX_KEY, elapse, listening, mourned, to
from .permissions import WRITE

DROP = {"requeue": False}


def _taken(talk, count=1, **arguments):
    """Return a channel that has got `count` messages, and the one that hears of their deaths."""
    a, dead = mourned(talk, arguments)
    for number in range(1, count + 1):
        a.publish("", talk.q, str(number).encode())
    for _ in range(count):
        a(BasicGet(talk.q))
    return a, dead


REJECTIONS = {
    "reject": ([BasicReject(2, **DROP)], 1),
    "nack": ([BasicNack(2, **DROP)], 1),
    "nack_multiple": ([BasicNack(2, multiple=True, **DROP)], 2),
    "nack_all": ([BasicNack(0, multiple=True, **DROP)], 3),
    "one_by_one": ([BasicReject(3, **DROP), BasicReject(1, **DROP), BasicNack(2, **DROP)], 3),
    "some_acked": ([BasicAck(1), BasicNack(2, multiple=True, **DROP)], 1),
    "some_returned": ([BasicReject(1), BasicReject(2, **DROP)], 1),
}


@conversation(each=REJECTIONS)
def rejected_messages_become_dead_letters(talk, methods, deaths):
    a, dead = _taken(talk, 3)
    for method in methods:
        a(method)
    dead.hear(deaths)


REASONS = {
    "rejected": ({}, {}),
    "expired": ({"x-message-ttl": 20}, {}),
    "expired_message": ({}, {"expiration": "20"}),
    "maxlen": ({"x-max-length": 0}, {}),
    "maxlen_bytes": ({"x-max-length-bytes": 1}, {}),
}


@conversation(each=REASONS)
def letter_is_what_was_published(talk, arguments, properties):
    a, dead = mourned(talk, arguments, durable=True)
    a.publish(
        "",
        talk.q,
        b"a body",
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"mine": [1, {"a": None}], "other": "text"},
        delivery_mode=2,
        priority=3,
        correlation_id="correlation",
        reply_to="somewhere",
        message_id="id",
        timestamp=1_000_000,
        type="type",
        user_id="guest",
        app_id="app",
        **properties,
    )
    if not arguments and not properties:
        a.count(talk.q, 1)
        a(BasicGet(talk.q))
        a(BasicReject(1, **DROP))
    dead.hear()


@conversation(each=REASONS)
def letter_goes_by_its_old_key(talk, arguments, properties):
    a = talk.channel()
    dead = listening(talk)
    a(ExchangeDeclare(talk.x, "direct"))
    a(QueueBind(talk.name("dead"), talk.x, talk.name("key")))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x, **arguments}))
    a(QueueBind(talk.q, "amq.direct", talk.name("key")))
    a.publish("amq.direct", talk.name("key"), b"a body", **properties)
    if not arguments and not properties:
        a.count(talk.q, 1)
        a(BasicGet(talk.q))
        a(BasicReject(1, **DROP))
    dead.hear()


# Where letters go


@conversation(each={"default": "", "missing": "no such exchange", "no_binding": "amq.direct"})
def letter_that_reaches_nobody(talk, exchange):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={DLX: exchange, DLX_KEY: talk.name("nowhere")}))
    a.publish("", talk.q, b"1", mandatory=True)
    a(BasicConsume(talk.q, "tag"))
    a.hear()
    a(BasicReject(1, **DROP))
    a.publish("", talk.q, b"2", expiration="0", mandatory=True)
    a.hear()
    a.quiet()


@conversation
def exchange_is_looked_for_when_the_letter_is_there(talk):
    a = talk.channel()
    dead = listening(talk)
    a(QueueDeclare(talk.q, arguments={DLX: talk.x}))
    a(BasicConsume(talk.q, "tag"))
    for number in (1, 2, 3):
        a.publish("", talk.q, str(number).encode())
    a.hear(3)
    a(BasicReject(1, **DROP))
    a.count(talk.q, 0)
    a(ExchangeDeclare(talk.x, "fanout"))
    a(QueueBind(talk.name("dead"), talk.x))
    a(BasicReject(2, **DROP))
    dead.hear()
    a(ExchangeDelete(talk.x))
    a(BasicReject(3, **DROP))
    a.count(talk.q, 0)
    dead.quiet()


TYPES = {
    "fanout": ("fanout", {}, {}),
    "direct": ("direct", {"routing_key": "a.key"}, {}),
    "topic": ("topic", {"routing_key": "a.#"}, {}),
    "headers": ("headers", {"arguments": {"x-first-death-reason": "rejected"}}, {}),
    "headers_of_the_publisher": ("headers", {"arguments": {"mine": 1, "x-match": "all"}}, {}),
    "internal": ("fanout", {}, {"internal": True}),
    "durable": ("fanout", {}, {"durable": True}),
}


@conversation(each=TYPES)
def type_of_the_dead_letter_exchange(talk, kind, binding, options):
    a = talk.channel()
    dead = listening(talk)
    a(ExchangeDeclare(talk.x, kind, **options))
    a(QueueBind(talk.name("dead"), talk.x, **binding))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x, DLX_KEY: "a.key"}))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", headers={"mine": 1})
    a.hear()
    a(BasicReject(1, **DROP))
    dead.hear()


@conversation
def letter_goes_to_every_queue(talk):
    a = talk.channel()
    first, second = listening(talk, "first"), listening(talk, "second")
    a(ExchangeDeclare(talk.x, "fanout"))
    for word in ("first", "second"):
        a(QueueBind(talk.name(word), talk.x))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x, "x-max-length": 1}))
    a.publish("", talk.q, b"1")
    a.publish("", talk.q, b"2")
    first.hear()
    second.hear()


@conversation(each={"unroutable": True, "routable": False})
def letter_and_an_alternate_exchange(talk, is_unroutable):
    a = talk.channel()
    dead, other = listening(talk), listening(talk, "other")
    alternate = talk.name("alternate")
    a(ExchangeDeclare(alternate, "fanout"))
    a(QueueBind(talk.name("other"), alternate))
    a(ExchangeDeclare(talk.x, "direct", arguments={"alternate-exchange": alternate}))
    a(QueueBind(talk.name("dead"), talk.x, "nobody" if is_unroutable else talk.q))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x, "x-message-ttl": 0}))
    a.publish("", talk.q, b"1")
    (other if is_unroutable else dead).hear()


@conversation
def letter_goes_through_bound_exchanges(talk):
    a = talk.channel()
    dead = listening(talk)
    second = talk.name("second")
    a(ExchangeDeclare(talk.x, "fanout"))
    a(ExchangeDeclare(second, "direct"))
    a(ExchangeBind(second, talk.x))
    a(QueueBind(talk.name("dead"), second, "a.key"))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x, DLX_KEY: "a.key", "x-message-ttl": 0}))
    a.publish("", talk.q, b"1")
    dead.hear()


@conversation(each={"drop_head": {}, "reject": {"x-overflow": "reject-publish"}})
def queue_of_letters_is_full(talk, arguments):
    a = talk.channel()
    dead = talk.name("dead")
    a(QueueDeclare(dead, arguments={"x-max-length": 1, **arguments}))
    a(QueueDeclare(talk.q, arguments=to(dead)))
    a(BasicConsume(talk.q, "tag"))
    for number in (1, 2):
        a.publish("", talk.q, str(number).encode())
    a.hear(2)
    a(BasicNack(2, multiple=True, **DROP))
    elapse(talk, 1)
    a.count(dead, 1)
    a.drain(dead)
    a.count(talk.q, 0)


@conversation
def letters_keep_their_order(talk):
    a, dead = mourned(talk, {"x-max-length": 3})
    for number in range(10):
        a.publish("", talk.q, str(number).encode())
    dead.hear(7)
    a.drain(talk.q)


@conversation
def letter_of_one_copy_leaves_the_others_alone(talk):
    a = talk.channel()
    dead, other = listening(talk), listening(talk, "other")
    a(QueueDeclare(talk.q, arguments={"x-message-ttl": 0, **to(talk.name("dead"))}))
    a(QueueDeclare(talk.name("kept"), arguments=to(talk.name("other"))))
    a(ExchangeDeclare(talk.x, "fanout"))
    for queue in (talk.q, talk.name("kept")):
        a(QueueBind(queue, talk.x))
    headers = {"CC": ["a copy"], "mine": 1}
    a.publish(talk.x, "key", b"1", headers=headers, expiration="60000")
    dead.hear()
    a(BasicGet(talk.name("kept")))
    a(BasicReject(1, **DROP))
    other.hear()


BODIES = {"empty": b"", "two_frames": b"a" * 200_000, "megabyte": b"b" * (1 << 20)}


@conversation(each=BODIES)
def size_of_a_letter(talk, body):
    a, dead = mourned(talk, {}, durable=True)
    a.publish("", talk.q, body, delivery_mode=2)
    a.count(talk.q, 1)
    a(BasicGet(talk.q))
    a(BasicReject(1, **DROP))
    dead.hear()


HEADERS = {"none": None, "empty": {}, "nested": {"a": {"b": [1, "c", None, True, 2.5]}}}


@conversation(each=HEADERS)
def headers_of_a_letter(talk, headers):
    a, dead = mourned(talk, {"x-message-ttl": 0})
    a.publish("", talk.q, b"1", headers=headers)
    dead.hear()


# What is no dead letter

NO_DEATHS = {
    "acked": lambda a, queue: a(BasicAck(1)),
    "returned": lambda a, queue: a(BasicReject(1)),
    "recovered": lambda a, queue: a(BasicRecover(requeue=True)),
    "channel_closed": lambda a, queue: a(ChannelClose()),
    "purged": lambda a, queue: a(QueuePurge(queue)),
    "deleted": lambda a, queue: a(QueueDelete(queue)),
}


@conversation(each=NO_DEATHS)
def message_that_does_not_die(talk, end):
    a, dead = mourned(talk, {})
    a.publish("", talk.q, b"1")
    a.publish("", talk.q, b"2")
    a(BasicGet(talk.q))
    end(a, talk.q)
    elapse(talk, 1)
    dead.quiet()


@conversation
def message_taken_without_ack_does_not_die(talk):
    a, dead = mourned(talk, {})
    a.publish("", talk.q, b"1")
    a(BasicGet(talk.q, no_ack=True))
    a(ChannelClose())
    elapse(talk, 1)
    dead.quiet()


@conversation
def rejected_after_its_queue_is_gone(talk):
    a, dead = _taken(talk)
    a(QueueDelete(talk.q))
    a(BasicReject(1, **DROP))
    a.quiet()
    elapse(talk, 1)
    dead.quiet()


# Transactions, confirms


@conversation(each={"commit": TxCommit(), "rollback": TxRollback()})
def rejected_in_a_transaction(talk, end):
    a, dead = _taken(talk, 2)
    a(TxSelect())
    a(BasicReject(1, **DROP))
    elapse(talk, 1)
    dead.quiet()
    a(end)
    if isinstance(end, TxCommit):
        dead.hear()
    else:
        elapse(talk, 1)
        dead.quiet()
        a(BasicNack(2, multiple=True, **DROP))
        a(TxCommit())
        dead.hear(2)


@conversation
def publisher_hears_nothing_of_letters(talk):
    a, dead = mourned(talk, {"x-max-length": 1})
    a(ConfirmSelect())
    for number in (1, 2, 3):
        a.publish("", talk.q, str(number).encode(), mandatory=True)
    a.hear_confirms(3)
    dead.hear(2)
    a.quiet()


# Permissions: the exchange must be written to, the queue read.


EXCHANGES = {"default": "", "mine": "mine.other", "missing_of_mine": "mine.missing"}


@conversation(each=EXCHANGES)
def clerk_may_declare_a_dead_letter_exchange(talk, exchange):
    talk.channel()(ExchangeDeclare(talk.name("mine.other"), "fanout"))
    clerk = talk.channel(user="clerk", password="clerk")
    arguments = {DLX: exchange and talk.name(exchange)}
    clerk(QueueDeclare(talk.name("mine"), arguments=arguments))


@conversation(each={"exists": True, "missing": False}, unless=WRITE)
def clerk_may_not_send_letters_to_others(talk, exists):
    if exists:
        talk.channel()(ExchangeDeclare(talk.name("yours"), "fanout"))
    clerk = talk.channel(user="clerk", password="clerk")
    clerk(QueueDeclare(talk.name("mine"), arguments={DLX: talk.name("yours")}))


@conversation
def letters_of_an_existing_queue_need_no_permission(talk):
    owner = talk.channel()
    dead = listening(talk)
    owner(QueueDeclare(talk.name("mine"), arguments=to(talk.name("dead"))))
    clerk = talk.channel(user="clerk", password="clerk")
    clerk.publish("", talk.name("mine"), b"1")
    clerk(BasicConsume(talk.name("mine"), "tag"))
    clerk.hear()
    clerk(BasicReject(1, **DROP))
    dead.hear()

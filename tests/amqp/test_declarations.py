"""exchange.* and queue.*: replies, checks in RabbitMQ's order, its texts.

What is refused and in which words was tried on RabbitMQ 3.10.8; exceptions say so.
"""

import re
from contextlib import contextmanager

import pytest

from leveret.broker.amqp import exchange_methods, queue_methods
from leveret.broker.core.broker import Broker
from leveret.broker.core.consumer import Consumer
from leveret.broker.core.message import Message
from leveret.protocol.content import Envelope
from leveret.protocol.errors import AccessRefused, NotFound, PreconditionFailed, ResourceLocked
from leveret.protocol.methods import (
    BasicPublish,
    ExchangeBind,
    ExchangeBindOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    ExchangeDeleteOk,
    ExchangeUnbind,
    ExchangeUnbindOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
    QueueUnbind,
    QueueUnbindOk,
)

HANDLERS = {**exchange_methods.HANDLERS, **queue_methods.HANDLERS}
LOCKED = (
    "cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the "
    "original declaration."
)
DEFAULT = "operation not permitted on the default exchange"


class RecordingSession:
    """What handlers ask of a session; permissions are remembered, and refused if told so."""

    def __init__(self, vhost):
        self.vhost = vhost
        self.broker = vhost.broker
        self.checks = []
        self.refused = set()

    def check_permission(self, permission, kind, name):
        self._check(permission, kind, name)

    def check_topic_permission(self, permission, exchange, routing_key):
        self._check(permission, f"topic of {exchange}", routing_key)

    def _check(self, *check):
        self.checks.append(check)
        if check in self.refused:
            raise AccessRefused(" ".join(check))


class RecordingChannel:
    """A channel whose replies are a list; as a target of deliveries it has `credit`."""

    def __init__(self, session, credit=0):
        self.session = session
        self.last_queue = ""
        self.replies = []
        self.delivered = []
        self.cancellations = []
        self.credit = credit
        self.parked = {}

    def reply(self, method):
        self.replies.append(method)

    reply_durably = reply

    def room(self, consumer):
        return self.credit

    def deliver(self, consumer, positions, messages, redelivered):
        self.credit -= len(messages)
        self.delivered += messages
        if not consumer.no_ack:
            consumer.queue.unacked_count += len(messages)

    def cancelled(self, consumer):
        self.cancellations.append(consumer)


@pytest.fixture
def vhost():
    return Broker().add_vhost("/")


@pytest.fixture
def channel(vhost):
    return RecordingChannel(RecordingSession(vhost))


@pytest.fixture
def other(vhost):
    """A channel of another connection."""
    return RecordingChannel(RecordingSession(vhost))


def handle(channel, method):
    """Return the reply, None if there is none."""
    channel.replies.clear()
    HANDLERS[type(method)](channel, method)
    assert len(channel.replies) <= 1
    return channel.replies[0] if channel.replies else None


@contextmanager
def refused(error, text):
    with pytest.raises(error) as caught:
        yield
    assert text == caught.value.text


def publish(queue, count):
    envelope = Envelope(BasicPublish("", queue.name), 1, b"")
    header = bytes(14)
    queue.incoming += [Message(envelope, (header, b"body"), 14, 4, 0) for _ in range(count)]


# exchanges


def test_exchange_declare_makes_it(channel, vhost):
    method = ExchangeDeclare("x\r\n", "topic", durable=True, auto_delete=True, internal=True)

    assert ExchangeDeclareOk() == handle(channel, method)
    exchange = vhost.exchange("x")
    assert ("topic", True, True, True) == (
        exchange.type_name,
        exchange.durable,
        exchange.auto_delete,
        exchange.internal,
    )
    assert [("configure", "exchange", "x")] == channel.session.checks


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (ExchangeDeclare("x"), ExchangeDeclareOk()),
        (ExchangeDeclare("amq.direct", "nope", passive=True), ExchangeDeclareOk()),
        (ExchangeDeclare("amq.direct", "direct", durable=True), ExchangeDeclareOk()),
        (ExchangeDelete("missing"), ExchangeDeleteOk()),
        (ExchangeDelete("x"), ExchangeDeleteOk()),
        (ExchangeBind("amq.direct", "amq.topic", "k"), ExchangeBindOk()),
        (ExchangeUnbind("amq.direct", "amq.topic", "k"), ExchangeUnbindOk()),
        (ExchangeUnbind("missing", "gone", "k"), ExchangeUnbindOk()),
        (QueueDeclare("q"), QueueDeclareOk("q", 0, 0)),
        (QueueBind("known", "amq.direct", "k"), QueueBindOk()),
        (QueuePurge("known"), QueuePurgeOk(0)),
        (QueueDelete("known"), QueueDeleteOk(0)),
        (QueueDelete("missing"), QueueDeleteOk(0)),
        (QueueUnbind("known", "amq.direct", "k"), QueueUnbindOk()),
        (QueueUnbind("missing", "gone", "k"), QueueUnbindOk()),
    ],
)
def test_a_reply_comes_unless_the_client_does_not_want_it(channel, vhost, method, expected):
    vhost.declare_queue("known")

    assert expected == handle(channel, method)
    if hasattr(method, "no_wait"):
        assert handle(channel, method._replace(no_wait=True)) is None


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        (ExchangeDeclare("", "direct"), AccessRefused, DEFAULT),
        (ExchangeDeclare("", "direct", passive=True), AccessRefused, DEFAULT),
        (ExchangeDeclare("", "nope"), PreconditionFailed, "unknown exchange type 'nope'"),
        (
            ExchangeDeclare("amq.x"),
            AccessRefused,
            "exchange name 'amq.x' contains reserved prefix 'amq.*'",
        ),
        (
            ExchangeDeclare("amq.direct", "fanout"),
            PreconditionFailed,
            "inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': "
            "received 'fanout' but current is 'direct'",
        ),
        (
            ExchangeDeclare("x", arguments={"alternate-exchange": 1}),
            PreconditionFailed,
            "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'",
        ),
        (ExchangeDeclare("x", passive=True), NotFound, "no exchange 'x' in vhost '/'"),
        (ExchangeDelete(""), AccessRefused, DEFAULT),
        (
            ExchangeDelete("amq.missing"),
            AccessRefused,
            "deletion of system exchange 'amq.missing' in vhost '/' not allowed",
        ),
        (ExchangeBind("", "amq.direct"), AccessRefused, DEFAULT),
        (ExchangeBind("amq.direct", ""), AccessRefused, DEFAULT),
        (ExchangeUnbind("amq.direct", ""), AccessRefused, DEFAULT),
        (ExchangeBind("one", "two"), NotFound, "no exchange 'two' in vhost '/'"),
        (ExchangeBind("one", "amq.direct"), NotFound, "no exchange 'one' in vhost '/'"),
    ],
)
def test_exchange_methods_that_are_refused(channel, method, error, text):
    with refused(error, text):
        handle(channel, method)


def test_exchange_delete_if_unused(channel, vhost):
    vhost.declare_exchange("x", "fanout")
    vhost.bind("x", vhost.declare_queue("q"), "", None)

    with refused(PreconditionFailed, "exchange 'x' in vhost '/' in use"):
        handle(channel, ExchangeDelete("x", if_unused=True))
    handle(channel, ExchangeDelete("x"))
    assert "x" not in vhost.exchanges


def test_exchange_bindings_come_and_go(channel, vhost):
    handle(channel, ExchangeBind("amq.direct", "amq.topic", "k", arguments={"a": 1}))
    handle(channel, ExchangeBind("amq.direct", "amq.topic", "k", arguments={"a": 1}))

    expected = [("amq.topic", "amq.direct", "exchange", "k", {"a": 1})]
    assert expected == list(vhost.bindings())
    handle(channel, ExchangeUnbind("amq.direct", "amq.topic", "k"))
    assert expected == list(vhost.bindings())
    handle(channel, ExchangeUnbind("amq.direct", "amq.topic", "k", arguments={"a": 1}))
    assert [] == list(vhost.bindings())


# queues: declare


def test_queue_declare_answers_with_exact_counts(channel, vhost):
    """What a consumer has room for is dealt before it is counted (decision 8)."""
    assert QueueDeclareOk("q", 0, 0) == handle(channel, QueueDeclare("q"))
    queue = vhost.queue("q")
    consumer = RecordingChannel(channel.session, credit=3)
    queue.add_consumer(Consumer(queue, consumer, "tag"))
    publish(queue, 5)

    assert QueueDeclareOk("q", 2, 1) == handle(channel, QueueDeclare("q"))
    assert QueueDeclareOk("q", 2, 1) == handle(channel, QueueDeclare("q", passive=True))
    assert 3 == len(consumer.delivered)


def test_queue_declare_takes_properties(channel, vhost):
    handle(channel, QueueDeclare("q", durable=True, auto_delete=True, arguments={"x-expires": 9}))
    handle(channel, QueueDeclare("mine", durable=True, exclusive=True))

    queue, mine = vhost.queue("q"), vhost.queue("mine")
    assert (True, True, None, {"x-expires": 9}) == (
        queue.durable,
        queue.auto_delete,
        queue.owner,
        queue.arguments,
    )
    assert (False, channel.session) == (mine.durable, mine.owner)
    assert (mine,) == vhost.owned_by(channel.session)


def test_queue_declare_strips_line_ends(channel):
    assert "ab" == handle(channel, QueueDeclare("a\r\nb\n")).queue


def test_queue_declare_without_a_name_gives_one(channel, vhost):
    reply = handle(channel, QueueDeclare(""))

    assert re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", reply.queue)
    assert reply.queue == channel.last_queue
    assert reply.queue in vhost.queues
    assert [("configure", "queue", reply.queue)] == channel.session.checks


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        (
            QueueDeclare("amq.q", arguments={"x-max-length": -1}),
            AccessRefused,
            "queue name 'amq.q' contains reserved prefix 'amq.*'",
        ),
        (QueueDeclare("amq.q", passive=True), NotFound, "no queue 'amq.q' in vhost '/'"),
        (QueueDeclare("", passive=True), NotFound, "no queue '' in vhost '/'"),
        (
            QueueDeclare("", durable=True, arguments={"x-queue-type": "quorum"}),
            PreconditionFailed,
            "Cannot declare a server-named queue for type rabbit_quorum_queue",
        ),
        (
            QueueDeclare("q", arguments={"x-queue-type": "stream"}),
            PreconditionFailed,
            "invalid arg 'x-queue-type' for queue 'q' in vhost '/': "
            "\"unsupported queue type 'stream'\"",
        ),
        (
            QueueDeclare("q", arguments={"x-message-ttl": -1, "x-dead-letter-exchange": 1}),
            PreconditionFailed,
            "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'",
        ),
        (
            QueueDeclare("known", durable=True),
            PreconditionFailed,
            "inequivalent arg 'durable' for queue 'known' in vhost '/': "
            "received 'true' but current is 'false'",
        ),
    ],
)
def test_queue_declarations_that_are_refused(channel, vhost, method, error, text):
    vhost.declare_queue("known")
    with refused(error, text):
        handle(channel, method)
    assert "" == channel.last_queue


def test_a_passive_declaration_looks_at_nothing_but_the_name(channel, vhost):
    vhost.declare_queue("q", arguments={"x-max-length": 5})
    method = QueueDeclare("q", passive=True, durable=True, arguments={"x-max-length": "no"})

    assert QueueDeclareOk("q", 0, 0) == handle(channel, method)
    assert "q" == channel.last_queue
    assert [] == channel.session.checks


def test_the_queue_limit_counts_for_new_queues_only(channel, vhost):
    vhost.max_queues = 1
    handle(channel, QueueDeclare("q"))

    handle(channel, QueueDeclare("q"))
    with refused(
        PreconditionFailed, "cannot declare queue 'p': queue limit in vhost '/' (1) is reached"
    ):
        handle(channel, QueueDeclare("p", arguments={"x-max-length": -1}))


@pytest.mark.parametrize(
    "method",
    [
        QueueDeclare("q", exclusive=True),
        QueueDeclare("q", durable=True),
        QueueDeclare("q", passive=True),
        QueueBind("q", "amq.direct", "k"),
        QueueUnbind("q", "amq.direct", "bound"),
        QueuePurge("q"),
        QueueDelete("q"),
    ],
)
def test_another_connection_may_not_touch_an_exclusive_queue(channel, other, method):
    handle(channel, QueueDeclare("q", exclusive=True))
    handle(channel, QueueBind("q", "amq.direct", "bound"))

    with refused(ResourceLocked, LOCKED):
        handle(other, method)


def test_another_connection_may_unbind_what_is_not_bound(channel, other):
    handle(channel, QueueDeclare("q", exclusive=True))
    assert QueueUnbindOk() == handle(other, QueueUnbind("q", "amq.direct", "k"))


def test_the_owner_of_an_exclusive_queue_may_do_everything(channel):
    handle(channel, QueueDeclare("q", exclusive=True))

    handle(channel, QueueDeclare("q", exclusive=True, durable=True))
    handle(channel, QueueDeclare("q", passive=True))
    with refused(ResourceLocked, LOCKED):
        handle(channel, QueueDeclare("q"))
    handle(channel, QueueBind("q", "amq.direct", "k"))
    handle(channel, QueuePurge("q"))
    handle(channel, QueueDelete("q"))


# direct reply-to


@pytest.mark.parametrize("passive", [False, True])
def test_the_reply_to_queue_always_seems_to_be_there(channel, vhost, passive):
    name = "amq.rabbitmq.reply-to"
    expected = QueueDeclareOk(name, 0, 1)
    assert expected == handle(channel, QueueDeclare(name, passive=passive))
    assert {} == vhost.queues
    with refused(NotFound, f"no queue '{name}' in vhost '/'"):
        handle(channel, QueueBind("", "amq.direct", "k"))
    with refused(NotFound, f"no queue '{name}.abc' in vhost '/'"):
        handle(channel, QueueDeclare(f"{name}.abc"))


# the last declared queue


@pytest.mark.parametrize(
    "method",
    [
        QueueBind("", "amq.direct", "k"),
        QueueBind("", "gone", ""),
        QueueUnbind("", "amq.direct", "k"),
        QueuePurge(""),
        QueueDelete(""),
    ],
)
def test_an_empty_name_needs_an_earlier_declaration(channel, method):
    with refused(NotFound, "no previously declared queue"):
        handle(channel, method)


def test_an_empty_name_is_the_queue_declared_last_on_the_channel(channel, other, vhost):
    handle(channel, QueueDeclare("one"))
    handle(channel, QueueDeclare("two"))
    handle(other, QueueDeclare("three"))
    handle(channel, QueueBind("", "amq.direct", "k"))
    handle(channel, QueueBind("", "amq.direct", ""))
    handle(channel, QueueBind("one", "amq.direct", ""))

    bindings = [(binding.destination, binding.routing_key) for binding in vhost.bindings()]
    assert [("two", "k"), ("two", "two"), ("one", "")] == bindings
    handle(channel, QueueUnbind("", "amq.direct", ""))
    handle(channel, QueueDelete(""))
    assert ["one", "three"] == list(vhost.queues)
    with refused(NotFound, "no queue 'two' in vhost '/'"):
        handle(channel, QueuePurge(""))


# queues: bind, unbind


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        (QueueBind("gone", "missing"), NotFound, "no exchange 'missing' in vhost '/'"),
        (QueueBind("gone", "amq.direct"), NotFound, "no queue 'gone' in vhost '/'"),
        (QueueBind("q", "missing"), NotFound, "no exchange 'missing' in vhost '/'"),
        (QueueBind("q", ""), AccessRefused, DEFAULT),
        (QueueUnbind("q", ""), AccessRefused, DEFAULT),
        (
            QueueBind("q", "amq.headers", arguments={"x-match": "q"}),
            PreconditionFailed,
            'Invalid x-match field value <<"q">>; expected all, any, all-with-x, or any-with-x',
        ),
        (QueuePurge("gone"), NotFound, "no queue 'gone' in vhost '/'"),
    ],
)
def test_queue_methods_that_are_refused(channel, vhost, method, error, text):
    vhost.declare_queue("q")
    with refused(error, text):
        handle(channel, method)


def test_a_bad_headers_binding_is_refused_before_the_owner_is_looked_at(channel, other):
    handle(channel, QueueDeclare("q", exclusive=True))
    with pytest.raises(PreconditionFailed):
        handle(other, QueueBind("q", "amq.headers", arguments={"x-match": "q"}))


def test_queue_bindings_come_and_go(channel, vhost):
    handle(channel, QueueDeclare("q"))
    for key in ("a", "b", "a"):
        handle(channel, QueueBind("q", "amq.direct", key, arguments={"n": 1}))

    handle(channel, QueueUnbind("q", "amq.direct", "a", arguments={"n": 2}))
    assert ["a", "b"] == [binding.routing_key for binding in vhost.bindings()]
    handle(channel, QueueUnbind("q", "amq.direct", "a", arguments={"n": 1.0}))
    assert ["b"] == [binding.routing_key for binding in vhost.bindings()]


# queues: purge, delete


def test_purge_counts_ready_messages_and_leaves_the_others(channel, vhost):
    handle(channel, QueueDeclare("q"))
    queue = vhost.queue("q")
    queue.add_consumer(Consumer(queue, RecordingChannel(channel.session, credit=2), "tag"))
    publish(queue, 5)

    assert QueuePurgeOk(3) == handle(channel, QueuePurge("q"))
    assert QueuePurgeOk(0) == handle(channel, QueuePurge("q"))
    assert 2 == queue.unacked_count


def test_delete_counts_ready_messages_and_cancels_consumers(channel, vhost):
    handle(channel, QueueDeclare("q"))
    queue = vhost.queue("q")
    consuming = RecordingChannel(channel.session, credit=1)
    consumer = Consumer(queue, consuming, "tag")
    queue.add_consumer(consumer)
    publish(queue, 3)

    for method, text in (
        (QueueDelete("q", if_empty=True), "not empty"),
        (QueueDelete("q", if_unused=True), "in use"),
        (QueueDelete("q", if_unused=True, if_empty=True), "not empty"),
    ):
        with refused(PreconditionFailed, f"queue 'q' in vhost '/' {text}"):
            handle(channel, method)
    assert QueueDeleteOk(2) == handle(channel, QueueDelete("q"))
    assert [consumer] == consuming.cancellations
    assert queue.deleted
    assert QueueDeleteOk(0) == handle(channel, QueueDelete("q"))


# permissions, in order


@pytest.mark.parametrize(
    ("method", "checks"),
    [
        (
            ExchangeDeclare("x", arguments={"alternate-exchange": "a"}),
            [("configure", "exchange", "x"), ("read", "exchange", "x"), ("write", "exchange", "a")],
        ),
        (ExchangeDeclare("x", passive=True), []),
        (ExchangeDelete("gone"), [("configure", "exchange", "gone")]),
        (
            ExchangeBind("two", "one", "k"),
            [("write", "exchange", "two"), ("read", "exchange", "one")],
        ),
        (
            ExchangeUnbind("two", "amq.topic", "k"),
            [
                ("write", "exchange", "two"),
                ("read", "exchange", "amq.topic"),
                ("read", "topic of amq.topic", "k"),
            ],
        ),
        (
            QueueDeclare("new", arguments={"x-dead-letter-exchange": ""}),
            [("configure", "queue", "new"), ("read", "queue", "new"), ("write", "exchange", "")],
        ),
        (QueueDeclare("new", passive=True), []),
        (
            QueueDeclare("q", arguments={"x-dead-letter-exchange": ""}),
            [("configure", "queue", "q")],
        ),
        (
            QueueBind("q", "amq.topic", "k"),
            [
                ("write", "queue", "q"),
                ("read", "exchange", "amq.topic"),
                ("read", "topic of amq.topic", "k"),
            ],
        ),
        (QueueUnbind("gone", "no", "k"), [("write", "queue", "gone"), ("read", "exchange", "no")]),
        (QueuePurge("gone"), [("read", "queue", "gone")]),
        (QueueDelete("gone"), [("configure", "queue", "gone")]),
    ],
)
def test_permissions_are_checked_in_order_before_anything_happens(channel, vhost, method, checks):
    vhost.declare_queue("q")
    before = vhost.epoch
    for check in checks:
        channel.session.checks.clear()
        channel.session.refused = {check}
        with refused(AccessRefused, " ".join(check)):
            handle(channel, method)
        assert checks[: checks.index(check) + 1] == channel.session.checks
    assert before == vhost.epoch
    if not checks:
        with pytest.raises(NotFound):
            handle(channel, method)
        assert [] == channel.session.checks

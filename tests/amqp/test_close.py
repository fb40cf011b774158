"""How channels and connections end: codes, scopes, what is left behind."""

import gc

import pytest

from leveret.broker.amqp import publish
from leveret.broker.amqp.dispatch import HANDLERS
from leveret.broker.amqp.ending import QUEUES_AT_A_STROKE
from leveret.broker.core.exchange import route
from leveret.protocol.codec import encode_method
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicDeliver,
    BasicGetOk,
    BasicPublish,
    BasicQos,
    BasicReturn,
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelFlowOk,
    ChannelOpen,
    ChannelOpenOk,
    ConfirmSelect,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionTuneOk,
    ExchangeDeclare,
    QueueDeclare,
    QueueDeclareOk,
    TxSelect,
)

from ..support import wire
from ..support.client import Client, closed, published

PASSIVE = QueueDeclare("missing", passive=True)


def failed(client):
    """Return the client after an error on channel 1."""
    assert 404 == closed(client.send(PASSIVE))[0]
    return client


# channels


def test_a_channel_error_leaves_the_other_channels(client):
    client.open_channel(2)

    failed(client)

    assert QueueDeclareOk("q", 0, 0) == client.call(QueueDeclare("q"), 2)
    assert [] == client.take(0)


def test_a_closing_channel_drops_everything_until_close_ok(client):
    failed(client)

    assert [] == client.send(QueueDeclare("q"), BasicConsume("q"), BasicAck(1), ConfirmSelect())
    assert [] == client.publish(b"x", "nowhere", mandatory=True)
    assert [] == client.publish(b"x", "k", "missing")
    assert {} == client.broker.vhosts["/"].queues


def test_what_follows_the_error_in_one_piece_is_dropped(client):
    answers = client.send(QueueDeclare("a"), PASSIVE, QueueDeclare("b"))

    assert [QueueDeclareOk, ChannelClose] == [type(answer) for answer in answers]
    assert ["a"] == list(client.broker.vhosts["/"].queues)


def test_a_crossing_close_is_answered(client):
    failed(client)

    assert [ChannelCloseOk()] == client.send(ChannelClose())
    assert [] == client.send(ChannelCloseOk())
    client.open_channel(1)


def test_the_number_may_be_used_again_after_close_ok(client):
    client.call(ConfirmSelect())
    client.call(BasicQos(0, 1))
    failed(client).send(ChannelCloseOk())

    assert ChannelOpenOk() == client.call(ChannelOpen())
    client.declare()
    assert [] == client.publish_many([b"1", b"2"])
    _, *deliveries = client.consume()
    assert [1, 2] == [item.tag for item in deliveries]


def test_the_number_may_not_be_used_before_close_ok(client):
    failed(client)

    client.send(ChannelOpen())

    assert 504 == closed(client.take(0))[0]


def test_a_channel_that_is_closed_takes_its_consumers_along(client):
    client.declare()
    client.open_channel(2)
    client.consume(channel=2)
    client.consume("q", "d", channel=2)

    assert ChannelCloseOk() == client.call(ChannelClose(), 2)
    assert (0, 0) == client.counts()


def test_flow_is_answered_and_stopping_is_not_served(client):
    assert ChannelFlowOk(True) == client.call(ChannelFlow(True))

    client.send(ChannelFlow(False))

    assert ConnectionClose(540, "NOT_IMPLEMENTED - active=false", 20, 20) in client.take(0)


@pytest.mark.parametrize(
    ("method", "code"),
    [
        (QueueDeclare("x" * 3, passive=True), 404),
        (ExchangeDeclare("amq.new"), 403),
        (ExchangeDeclare("x", "no type"), 406),
    ],
)
def test_a_soft_error_ends_the_channel_alone(client, method, code):
    [close] = client.send(method)

    assert (code, method.class_id, method.method_id) == (
        close.reply_code,
        close.class_id_,
        close.method_id_,
    )
    assert [] == client.take(0)
    assert not client.session.is_ended


def test_a_text_that_is_too_long_is_cut(client):
    [close] = client.send(QueueDeclare("é" * 127, passive=True))

    assert close.reply_text.startswith("NOT_FOUND - no queue 'é")
    assert len(close.reply_text.encode()) <= 255


# connections


def test_a_close_is_answered_and_ends_the_session(client):
    client.send(ConnectionClose(), channel=0)

    assert client.session.is_ended
    assert {} == client.session.channels


def test_exclusive_queues_are_gone_before_close_ok(client, connect):
    client.declare(exclusive=True)
    other = connect()

    assert [ConnectionCloseOk()] == client.send(ConnectionClose(), channel=0)
    assert QueueDeclareOk("q", 0, 0) == other.declare()


@pytest.fixture
def owner(client):
    """A client with so many exclusive queues that they are not deleted at a stroke."""
    for number in range(3 * QUEUES_AT_A_STROKE):
        client.declare(str(number), exclusive=True)
    return client


def test_very_many_exclusive_queues_go_some_at_a_time_before_close_ok(owner, connect):
    vhost, batch = owner.broker.vhosts["/"], owner.broker.batch
    owner.session.receive(wire.method(ConnectionClose(), 0))

    assert not owner.session.run(lambda: False)
    assert owner.session.is_waiting
    counts = []
    while vhost.queues:
        counts.append(len(vhost.queues))
        assert not owner.session.run(lambda: False)
        batch.resume(lambda: True)
    assert [3 * QUEUES_AT_A_STROKE, 2 * QUEUES_AT_A_STROKE, QUEUES_AT_A_STROKE] == counts

    owner.feed(b"")
    assert [ConnectionCloseOk()] == owner.take(0)
    assert QueueDeclareOk("0", 0, 0) == connect().declare("0")


def test_very_many_exclusive_queues_of_a_lost_connection_go_some_at_a_time(owner):
    vhost = owner.broker.vhosts["/"]
    owner.session.forget()
    assert 3 * QUEUES_AT_A_STROKE == len(vhost.queues)

    owner.broker.batch.resume(lambda: True)
    assert 2 * QUEUES_AT_A_STROKE == len(vhost.queues)
    owner.broker.batch.resume()

    assert not vhost.queues
    assert not vhost._owned


def test_confirms_are_sent_before_close_ok(client):
    client.declare()
    client.call(ConfirmSelect())
    close = wire.method(ConnectionClose(), 0)

    client.feed(published(b"1", BasicPublish("", "q")) + close)

    assert ([BasicAck(1)], [ConnectionCloseOk()]) == (client.take(1), client.take(0))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(wire.frame(1, 1, b"\x00\x3c\x00\x0a"), 501, id="arguments cut off"),
        pytest.param(wire.frame(1, 1, b"\x00\x3c\x00\xfa"), 503, id="unknown method"),
        pytest.param(wire.frame(5, 1, b""), 501, id="unknown frame type"),
        pytest.param(wire.frame(1, 1, encode_method(BasicQos()), 0), 501, id="frame end"),
        pytest.param(wire.frame(8, 1, b""), 505, id="heartbeat on a channel"),
        pytest.param(wire.body(b"x"), 505, id="body without a method"),
        pytest.param(
            wire.method(BasicPublish()) + wire.body(b"x"), 505, id="body without a header"
        ),
        pytest.param(wire.method(BasicPublish(), 0), 505, id="publish on channel 0"),
        pytest.param(wire.method(QueueDeclare("q"), 0), 504, id="declare on channel 0"),
        pytest.param(wire.method(BasicQos(), 7), 504, id="channel that is not open"),
        pytest.param(wire.message(b"x", 7), 504, id="publish on a channel that is not open"),
        pytest.param(wire.method(BasicAck(1), 7), 504, id="ack on a channel that is not open"),
        pytest.param(wire.method(ChannelOpen()), 504, id="second open"),
        pytest.param(
            wire.message(b"x", envelope=BasicDeliver("c", 1)), 503, id="deliver from a client"
        ),
        pytest.param(wire.message(b"x", envelope=BasicReturn(312)), 503, id="return from a client"),
        pytest.param(wire.message(b"x", envelope=BasicGetOk(1)), 503, id="get-ok from a client"),
    ],
)
def test_a_hard_error_ends_the_connection(client, data, code):
    client.declare(exclusive=True)

    client.feed(data + wire.method(QueueDeclare("late")))

    assert code == closed(client.take(0))[0]
    assert [] == client.take(1)
    assert {} == client.session.channels
    assert {} == client.broker.vhosts["/"].queues


def test_after_a_hard_error_only_the_end_is_heard(client):
    client.feed(wire.method(BasicQos(), 7))
    client.take(0)

    assert [] == client.send(QueueDeclare("q"))
    client.send(ConnectionCloseOk(), channel=0)
    assert client.session.is_ended


def test_a_crossing_connection_close_is_answered(client):
    client.feed(wire.method(BasicQos(), 7))
    client.take(0)

    assert [ConnectionCloseOk()] == client.send(ConnectionClose(), channel=0)
    assert client.session.is_ended


def test_a_hard_error_on_one_channel_gives_back_what_all_held(client, connect):
    client.declare()
    client.publish_many([b"1", b"2"])
    client.open_channel(2)
    client.consume(prefetch=1)
    client.consume("q", "d", prefetch=1, channel=2)

    client.send(BasicQos(1, 1))

    assert [b"1", b"2"] == [item.body for item in connect().consume()[1:]]


def test_more_channels_than_agreed_end_the_connection(connect):
    client = connect(tune=ConnectionTuneOk(2, 0, 60))
    client.open_channel(9)

    client.send(ChannelOpen(), channel=3)

    text = "number of channels opened (2) has reached the negotiated channel_max (2)"
    assert (530, f"NOT_ALLOWED - {text}") == closed(client.take(0))


# faults of ours


@pytest.fixture
def broken(monkeypatch):
    """A handler that fails as none should."""

    def fail(channel, method):
        raise ZeroDivisionError("a fault")

    monkeypatch.setitem(HANDLERS, BasicQos, fail)


@pytest.mark.usefixtures("broken")
def test_a_fault_ends_its_connection_with_541(client):
    client.send(BasicQos())

    code, text = closed(client.take(0))
    assert (541, "INTERNAL_ERROR") == (code, text)
    assert "fault" not in text


@pytest.mark.usefixtures("broken")
def test_a_fault_ends_no_other_connection(client, connect):
    other = connect()
    crashes = []
    client.broker.events.subscribe("session.crashed", lambda **fields: crashes.append(fields))
    client.declare()
    client.publish(b"1")
    client.consume(channel=1)

    client.send(BasicQos())

    assert [client.session] == [fields["session"] for fields in crashes]
    assert (1, 0) == other.counts()
    assert [b"1"] == [item.body for item in other.consume()[1:]]


def test_a_fault_in_a_publish_confirms_what_came_before_it(client, monkeypatch):
    client.declare()
    client.declare("bad")
    client.call(ConfirmSelect())

    def route_or_fail(exchange, keys, headers=None):
        if "bad" in keys:
            raise ZeroDivisionError("a fault")
        return route(exchange, keys, headers)

    monkeypatch.setattr(publish, "route", route_or_fail)

    client.feed(
        published(b"1", BasicPublish("", "q"))
        + published(b"2", BasicPublish("", "bad"))
        + published(b"3", BasicPublish("", "q"))
    )

    assert [BasicAck(1)] == client.take(1)
    assert 541 == closed(client.take(0))[0]


# garbage


def live_and_die(broker, number):
    """Use a session for a bit of everything, then lose it."""
    client = Client(broker)
    client.open_channel(2)
    client.open_channel(3)
    client.declare(f"own {number}", exclusive=True)
    client.consume(f"own {number}", prefetch=5)
    client.consume("shared", prefetch=1, channel=2)
    client.send(BasicConsume("amq.rabbitmq.reply-to", "r", no_ack=True), channel=2)
    client.call(TxSelect(), 3)
    client.publish(b"x", f"own {number}", channel=3)
    client.publish_many([b"1", b"2", b"3"], f"own {number}")
    client.publish(b"x", "shared")
    if number % 3 == 0:
        client.send(QueueDeclare("missing", passive=True), channel=2)
    elif number % 3 == 1:
        client.send(BasicQos(1, 1))
    client.lose()


def test_closed_sessions_leave_next_to_nothing_to_the_collector(broker):
    """Decision 11: a session breaks its own cycles."""
    Client(broker).declare("shared")
    live_and_die(broker, 0)
    gc.collect()
    gc.disable()
    try:
        for number in range(100):
            live_and_die(broker, number)
        found = gc.collect()
    finally:
        gc.enable()

    assert found <= 100, f"{found} objects of 100 sessions"
    assert 1 == len(broker.sessions)

"""Connections: conversations of two ends, strangers, violations, heartbeats."""

import pytest

from leveret.protocol import methods as m
from leveret.protocol.codec import encode_method
from leveret.protocol.connection import HEARTBEAT_FRAME, Beat, Connection
from leveret.protocol.constants import PROTOCOL_HEADER, PROTOCOL_HEADER_0_9
from leveret.protocol.errors import (
    AMQPError,
    ChannelNotOpen,
    CommandInvalid,
    FieldError,
    FrameError,
    NotAllowed,
    UnexpectedFrame,
)
from leveret.protocol.handshake import Role, State
from tests.support.pair import ConnectionPair

CLIENT, SERVER = Role.CLIENT, Role.SERVER


def frame(method: m.Method, channel: int = 0) -> bytes:
    payload = encode_method(method)
    return b"\x01" + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"


def body_frame(channel: int = 1) -> bytes:
    return b"\x03" + channel.to_bytes(2) + b"\x00\x00\x00\x01x\xce"


START_OK = m.ConnectionStartOk({}, "PLAIN", b"\0guest\0guest")
TUNE_OK = m.ConnectionTuneOk(100, 65536, 30)


def started_server() -> Connection:
    server = Connection(SERVER)
    server.receive_data(PROTOCOL_HEADER)
    server.send(0, m.ConnectionStart(0, 9, {}))
    return server


def test_a_handshake_ends_in_two_running_ends_with_the_same_limits():
    pair = ConnectionPair().open(heartbeat=30)

    assert pair.client.state is pair.server.state is State.RUNNING
    for end in (pair.client, pair.server):
        assert (end.channel_max, end.frame_max, end.heartbeat) == (2047, 131072, 30)
        assert end.frame_max == end.reader.frame_max


def test_a_handshake_works_byte_by_byte():
    pair = ConnectionPair()
    received = []

    for octet in PROTOCOL_HEADER:
        received += pair.server.receive_data(bytes((octet,)))
    for method in (m.ConnectionStart(0, 9, {}),):
        pair.send(SERVER, method)
    for method in (START_OK, TUNE_OK, m.ConnectionOpen("/"), m.ChannelOpen()):
        channel = int(isinstance(method, m.ChannelOpen))
        for octet in frame(method, channel):
            received += pair.server.receive_data(bytes((octet,)))

    assert [
        (0, START_OK),
        (0, TUNE_OK),
        (0, m.ConnectionOpen("/")),
        (1, m.ChannelOpen()),
    ] == received
    assert pair.server.state is State.RUNNING


def test_a_client_may_send_all_it_knows_at_once():
    server = started_server()
    methods = [(0, START_OK), (0, TUNE_OK), (0, m.ConnectionOpen("/")), (1, m.ChannelOpen())]

    received = server.receive_data(b"".join(frame(method, channel) for channel, method in methods))

    assert methods == received
    assert (server.channel_max, server.frame_max, server.heartbeat) == (100, 65536, 30)
    assert frame(server.offer) == server.send(0, server.offer)
    assert frame(m.ConnectionOpenOk()) == server.send(0, m.ConnectionOpenOk())


def test_the_header_of_0_9_is_served_too():
    server = Connection(SERVER)

    assert server.receive_data(PROTOCOL_HEADER_0_9) == []
    assert server.reply == b""
    assert server.state is State.PRE_INIT


@pytest.mark.parametrize(
    ("greeting", "hint"),
    [
        (b"AMQP\x00\x01\x00\x00", "an AMQP 1.0 client"),
        (b"AMQP\x03\x01\x00\x00", "an AMQP 1.0 client (SASL)"),
        (b"AMQP\x01\x01\x08\x00", "a client of another version of AMQP"),
        (b"GET / HTTP/1.1\r\n", "an HTTP client: the management API has a port of its own"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "a TLS client on a port without TLS"),
        (b"\x10\x0c\x00\x04MQTT\x04", "an MQTT client"),
        (b"SSH-2.0-", ""),
    ],
)
def test_a_stranger_gets_our_header_and_is_named(greeting, hint):
    server = Connection(SERVER)

    assert server.receive_data(greeting) == []
    assert server.reply == PROTOCOL_HEADER
    assert hint == server.hint
    assert server.state is State.CLOSED
    assert server.receive_data(frame(START_OK)) == []


def test_a_client_understands_the_header_a_server_answers_with():
    client = Connection(CLIENT)
    assert client.start() == PROTOCOL_HEADER

    [(channel, problem)] = client.receive_data(b"AMQP\x00\x01\x00\x00")

    assert channel == 0
    assert isinstance(problem, FrameError)
    assert "0.1.0.0" in problem.text
    assert client.state is State.CLOSED


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (
            frame(m.ConnectionOpen()),
            ChannelNotOpen,
            "unexpected method in connection state starting",
        ),
        (frame(m.TxSelect()), ChannelNotOpen, "unexpected method in connection state starting"),
        (
            frame(m.ChannelOpen(), 1),
            UnexpectedFrame,
            "frame on channel 1 in connection state starting",
        ),
        (
            b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x63\xce",
            CommandInvalid,
            "unknown method 10,99",
        ),
        (frame(START_OK)[:-1] + b"\x00", FrameError, None),
        (frame(START_OK) + frame(m.ConnectionTuneOk(0, 4096, 0)), NotAllowed, None),
        (b"\x05\x00\x00\x00\x00\x00\x00\xce", FrameError, None),
    ],
)
def test_a_violation_before_the_connection_runs_is_the_last_value(data, error, text):
    server = started_server()

    *_, (_, problem) = server.receive_data(data + frame(START_OK))

    assert type(problem) is error
    assert text is None or text == problem.text
    assert server.receive_data(frame(START_OK)) == []


def test_after_a_violation_only_the_end_is_heard():
    server = started_server()
    server.receive_data(frame(m.TxSelect()))
    server.send(0, m.ConnectionClose(504, "..."))

    data = frame(START_OK) + frame(m.ChannelOpen(), 1) + frame(m.ConnectionCloseOk())

    assert [(0, m.ConnectionCloseOk())] == server.receive_data(data)
    assert server.state is State.CLOSED


def test_while_running_commands_pass_as_the_reader_gives_them():
    pair = ConnectionPair().open()

    pair.send(CLIENT, m.ChannelOpen(), 7)
    pair.send(CLIENT, m.ConnectionUpdateSecret(b"s", "r"))
    received = pair.deliver(CLIENT)

    assert [(7, m.ChannelOpen()), (0, m.ConnectionUpdateSecret(b"s", "r"))] == received


def test_a_frame_above_the_negotiated_size_is_a_501():
    server = started_server()
    server.receive_data(frame(START_OK) + frame(m.ConnectionTuneOk(1, 4096, 0)))
    server.receive_data(frame(m.ConnectionOpen()))

    *_, (_, problem) = server.receive_data(b"\x03\x00\x01\x00\x00\x20\x00" + bytes(8192) + b"\xce")

    assert isinstance(problem, AMQPError)


def test_a_client_close_is_answered_and_ends_both():
    pair = ConnectionPair().open()

    assert [(0, m.ConnectionClose(200, "bye"))] == pair.exchange(
        CLIENT, m.ConnectionClose(200, "bye")
    )
    assert pair.client.state is State.CLOSING
    assert [(0, m.ConnectionCloseOk())] == pair.exchange(SERVER, m.ConnectionCloseOk())
    assert pair.client.state is pair.server.state is State.CLOSED


def test_closes_that_cross_end_both():
    pair = ConnectionPair().open()

    pair.send(CLIENT, m.ConnectionClose())
    pair.send(SERVER, m.ConnectionClose(320, "CONNECTION_FORCED - shutdown"))
    pair.deliver(CLIENT)
    pair.deliver(SERVER)
    pair.exchange(CLIENT, m.ConnectionCloseOk())
    pair.exchange(SERVER, m.ConnectionCloseOk())

    assert pair.client.state is pair.server.state is State.CLOSED


def test_what_crosses_our_close_is_dropped():
    pair = ConnectionPair().open()
    pair.send(SERVER, m.ConnectionClose(320, "..."))

    pair.send(CLIENT, m.ChannelOpen(), 1)
    pair.send(CLIENT, m.QueueDeclare("q"), 1)
    pair.deliver(SERVER)
    pair.send(CLIENT, m.ConnectionCloseOk())

    assert [(0, m.ConnectionCloseOk())] == pair.deliver(CLIENT)


def test_sending_an_illegal_method_of_the_connection_is_refused():
    client = Connection(CLIENT)

    with pytest.raises(ChannelNotOpen):
        client.send(0, m.ConnectionOpen())
    with pytest.raises(FieldError):
        client.send(1, m.QueueDeclare("q" * 300))


def test_a_method_without_an_answer_is_named_with_the_state():
    pair = ConnectionPair().open()

    problem = pair.server.unexpected(START_OK)

    text = "CHANNEL_ERROR - unexpected method in connection state running"
    assert text == problem.reply_text
    assert (problem.class_id, problem.method_id) == (10, 11)


# Heartbeats


def test_without_a_heartbeat_there_is_no_deadline():
    assert Connection(SERVER).next_deadline() is None
    pair = ConnectionPair().open(heartbeat=0)

    assert pair.server.next_deadline() is None
    assert Beat(b"", False) == pair.server.beat(1000)


def test_a_heartbeat_is_sent_after_half_the_interval_without_traffic():
    server = ConnectionPair().open(heartbeat=10).server
    assert server.next_deadline() == 0

    server.beat(100)  # the first call sets the clock
    assert server.next_deadline() == 105
    assert Beat(b"", False) == server.beat(105)  # open-ok was sent
    assert server.next_deadline() == 110
    assert Beat(HEARTBEAT_FRAME, False) == server.beat(110)


def test_other_traffic_spares_the_heartbeat():
    server = ConnectionPair().open(heartbeat=10).server
    server.beat(100)
    server.beat(105)

    server.has_sent = True

    assert Beat(b"", False) == server.beat(110)
    assert Beat(HEARTBEAT_FRAME, False) == server.beat(115)


def test_two_silent_intervals_are_the_death_of_the_peer():
    server = ConnectionPair().open(heartbeat=10).server
    server.beat(100)

    assert not server.beat(110).dead  # open was received
    assert not server.beat(120).dead
    assert server.beat(130).dead


def test_any_octet_is_a_sign_of_life():
    server = ConnectionPair().open(heartbeat=10).server
    server.beat(100)
    server.beat(110)
    server.beat(120)

    server.receive_data(HEARTBEAT_FRAME[:1])

    assert not server.beat(130).dead
    assert not server.beat(140).dead
    assert server.beat(150).dead


def test_silence_that_we_caused_is_not_held_against_the_peer():
    server = ConnectionPair().open(heartbeat=10).server
    server.beat(100)
    server.is_reading = False

    assert not any(server.beat(now).dead for now in range(110, 200, 5))

    server.is_reading = True
    assert not server.beat(200).dead
    assert server.beat(210).dead


def test_a_closed_connection_has_no_deadline():
    pair = ConnectionPair().open(heartbeat=10)
    pair.exchange(CLIENT, m.ConnectionClose())
    pair.exchange(SERVER, m.ConnectionCloseOk())

    assert pair.server.next_deadline() is None


def test_a_connection_shows_its_role_and_state():
    assert repr(Connection(SERVER)) == "<Connection server, pre_init>"

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


def head(kind: int, channel: int, size: int) -> bytes:
    return bytes((kind,)) + channel.to_bytes(2) + size.to_bytes(4)


def body_frame(channel: int = 1, body: bytes = b"x") -> bytes:
    return head(3, channel, len(body)) + body + b"\xce"


def header_frame(size: int, channel: int = 1) -> bytes:
    payload = b"\x00\x3c\x00\x00" + size.to_bytes(8) + b"\x00\x00"
    return head(2, channel, len(payload)) + payload + b"\xce"


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
        (
            frame(m.BasicPublish("", "q"), 1),
            UnexpectedFrame,
            "frame on channel 1 in connection state starting",
        ),
        (
            frame(START_OK) + head(3, 7, 100_000),
            UnexpectedFrame,
            "frame on channel 7 in connection state tuning",
        ),
        (
            frame(START_OK) + frame(TUNE_OK) + head(8, 1, 0),
            UnexpectedFrame,
            "frame on channel 1 in connection state opening",
        ),
        (frame(m.BasicPublish("", "q")), UnexpectedFrame, "content on channel 0"),
        (body_frame(0), UnexpectedFrame, "content on channel 0"),
        (frame(m.BasicAck(1)), ChannelNotOpen, "unexpected method in connection state starting"),
        (head(1, 0, 131_073), FrameError, None),
        (head(3, 1, 131_073), FrameError, None),
        (frame(START_OK) + frame(TUNE_OK) + head(1, 0, 65_537), FrameError, None),
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


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "violation",
    [frame(m.TxSelect()), frame(m.BasicPublish("", "q"), 1), head(3, 1, 5) + b"12345\xce"],
)
def test_a_violation_before_the_connection_runs_is_said_once_however_it_is_cut(violation, size):
    server = started_server()
    behind = frame(m.ChannelOpen(), 1) + body_frame() + frame(START_OK)
    data = violation + behind

    cut = [data[at : at + size] for at in range(0, len(data), size)]
    received = [command for chunk in cut for command in server.receive_data(chunk)]

    assert [True] == [isinstance(command, AMQPError) for _, command in received]
    server.send(0, m.ConnectionClose(505, "..."))
    assert [(0, m.ConnectionCloseOk())] == server.receive_data(
        behind + frame(m.ConnectionCloseOk())
    )
    assert server.state is State.CLOSED


def held(connection: Connection) -> int:
    reader = connection.reader
    return reader.unfinished_size + len(connection._rest) + sum(map(len, reader._waiting))


def flood(connection: Connection) -> int:
    """Send what would be a large content; return the most that was kept of it."""
    most = 0
    for chunk in (
        frame(m.BasicPublish("", "q"), 1),
        header_frame(128 << 20),
        *([body_frame(1, bytes(4000))] * 20),
        body_frame(1, bytes(4000))[:-1],
        b"\xce" + frame(m.BasicPublish("", "q"), 2),
    ):
        connection.receive_data(chunk)
        most = max(most, held(connection))
    return most


@pytest.mark.parametrize("greeting", [b"", frame(START_OK), frame(START_OK) + frame(TUNE_OK)])
def test_of_contents_nothing_is_kept_before_the_connection_runs(greeting):
    server = started_server()
    server.receive_data(greeting)

    assert flood(server) == 0
    assert flood(server) == 0  # an owner that is slow to answer
    server.send(0, m.ConnectionClose(505, "..."))
    assert flood(server) == 0
    assert [(0, m.ConnectionCloseOk())] == server.receive_data(frame(m.ConnectionCloseOk()))


def test_of_contents_nothing_is_kept_once_the_connection_closes():
    """As when the login is refused that came in one piece with open."""
    server = started_server()
    server.receive_data(frame(START_OK) + frame(TUNE_OK) + frame(m.ConnectionOpen()))
    assert flood(server) > 80_000
    body = body_frame(2, bytes(2000))
    server.receive_data(header_frame(10_000, 2) + body[:100])

    server.send(0, m.ConnectionClose(403, "..."))
    assert held(server) == 100

    assert server.receive_data(body[100:]) == []
    assert flood(server) == 0
    assert [(0, m.ConnectionCloseOk())] == server.receive_data(frame(m.ConnectionCloseOk()))


def test_a_frame_before_the_connection_runs_may_be_as_large_as_it_may_be_then():
    for limit, size in ((4096, 4096), (131_072, 131_072), (1 << 24, 131_072), (0, 131_072)):
        for over in (0, 1):
            server = Connection(SERVER, offer=m.ConnectionTune(0, limit, 0))
            server.receive_data(PROTOCOL_HEADER)
            server.send(0, m.ConnectionStart(0, 9, {}))
            pad = b"x" * (size + over - len(encode_method(START_OK._replace(response=b""))))

            [(_, command)] = server.receive_data(frame(START_OK._replace(response=pad)))

            assert (limit, bool(over)) == (limit, isinstance(command, FrameError))


def test_what_comes_in_one_piece_with_open_belongs_to_the_running_connection():
    server = started_server()
    server.receive_data(frame(START_OK) + frame(TUNE_OK))
    content = frame(m.BasicPublish("", "q"), 1) + header_frame(1) + body_frame()

    *commands, (channel, contents) = server.receive_data(
        frame(m.ConnectionOpen()) + frame(m.ChannelOpen(), 1) + content + content[:30]
    )

    assert [(0, m.ConnectionOpen()), (1, m.ChannelOpen())] == commands
    assert (1, [b"x"]) == (channel, [content.body for content in contents])
    [(_, [last])] = server.receive_data(content[30:])
    assert last.body == b"x"


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

"""Hostile bytes over real sockets: each gets its reply, and everybody else goes on undisturbed.

The broker under test has a short handshake timeout and a small largest message, so that limits
are reached quickly.
"""

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from time import monotonic

import pytest

from leveret.protocol.codec import encode_method
from leveret.protocol.methods import (
    BasicGet,
    BasicPublish,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    ConfirmSelect,
    ConnectionClose,
    ConnectionOpen,
    ConnectionStartOk,
    ConnectionTuneOk,
    ExchangeDeclare,
    Method,
    QueueBind,
    QueueDeclare,
)
from leveret.protocol.properties import Properties
from leveret.protocol.properties import encode as encode_header
from leveret.protocol.table import encode_table

from ..support.leveret import Server, leveret
from .differential.talk import (
    BODY,
    FRAME,
    HEADER,
    HEARTBEAT,
    METHOD,
    PROTOCOL_HEADER,
    Channel,
    Gone,
    Peer,
    Talk,
    frame,
)

HANDSHAKE_SECONDS = 1
LARGEST = 1 << 20
MIB = 1 << 20
SETTINGS = {
    "LEVERET_LIMITS_HANDSHAKE_TIMEOUT": str(HANDSHAKE_SECONDS),
    "LEVERET_LIMITS_MAX_MESSAGE_SIZE": str(LARGEST),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A broker that has met no stranger yet; at the end it must not have stumbled over any."""
    with leveret(environment=SETTINGS) as server:
        yield server
        assert "Traceback" not in server.log.read_text()


@pytest.fixture
def talk(server: Server) -> Iterator[Talk]:
    """Connections to the broker; after each test it still serves."""
    talk = Talk("hostile", (server.host, server.port))
    yield talk
    for peer in talk.peers:
        peer.hang_up()
    check_serving(server)


def check_serving(server: Server) -> None:
    """Send a message through the broker."""
    talk = Talk("witness", (server.host, server.port))
    channel = talk.channel()
    channel(QueueDeclare(talk.q, exclusive=True))
    channel.publish("", talk.q, b"alive")
    channel(BasicGet(talk.q, no_ack=True))
    channel.peer.hang_up()
    assert talk.lines[-1].endswith("b'alive'"), talk.lines


def last_heard(peer: Peer) -> Method | None:
    """Return the last method up to the end of the connection."""
    method = None
    with suppress(Gone):
        while True:
            method = peer.receive().method
    return method


def frame_types(peer: Peer) -> list[int]:
    """Return the types of the frames that come until the broker hangs up."""
    types = []
    with suppress(Gone):
        while True:
            types.append(peer.read_frame()[0])
    return types


def connected(server: Server) -> socket.socket:
    """Return a socket that has said nothing."""
    return socket.create_connection((server.host, server.port), 10)


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            received += chunk
    return received


# Strangers

STRANGERS = {
    "http_get": (b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n", "HTTP"),
    "http_post": (b"POST /api HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "HTTP"),
    "http_put": (b"PUT /api HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "HTTP"),
    "tls": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160), "TLS"),
    "amqp_1_0": (b"AMQP\x00\x01\x00\x00", "AMQP 1.0"),
    "amqp_1_0_sasl": (b"AMQP\x03\x01\x00\x00", "AMQP 1.0"),
    "amqp_0_8": (b"AMQP\x01\x01\x08\x00", "another version"),
    "mqtt": (b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04name", "MQTT"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "wrong protocol header"),
    "zeros": (bytes(64), "wrong protocol header"),
    "frame": (frame(METHOD, 0, encode_method(ConnectionClose())), "wrong protocol header"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_stranger_gets_our_header_and_the_log_a_hint(server: Server, stranger: str) -> None:
    first_bytes, hint = STRANGERS[stranger]
    seen = len(server.log.read_text())

    with closing(connected(server)) as sock:
        sock.sendall(first_bytes)
        answer = read_all(sock)

    assert answer == PROTOCOL_HEADER
    assert hint in server.log.read_text()[seen:]
    check_serving(server)


def test_header_may_come_in_single_octets(talk: Talk) -> None:
    peer = talk.raw()
    for octet in PROTOCOL_HEADER[:-1]:
        peer.write(bytes((octet,)))

    peer.write(PROTOCOL_HEADER[-1:])

    assert peer.receive().method.name == "connection.start"


@pytest.mark.parametrize("size", range(8))
def test_connection_that_ends_within_the_header(server: Server, size: int) -> None:
    with closing(connected(server)) as sock:
        sock.sendall(PROTOCOL_HEADER[:size])
        sock.shutdown(socket.SHUT_WR)

        assert read_all(sock) == b""
    check_serving(server)


# Silence


def _logged_in(peer: Peer) -> None:
    peer.start()
    peer.log_in()


STAGES: dict[str, Callable[[Peer], object]] = {
    "connected": lambda peer: None,
    "half_a_header": lambda peer: peer.write(PROTOCOL_HEADER[:4]),
    "greeted": Peer.start,
    "logged_in": _logged_in,
}


def test_silence_during_the_handshake_ends_the_connection(server: Server, talk: Talk) -> None:
    peers = {stage: talk.raw() for stage in STAGES}
    for stage, advance in STAGES.items():
        advance(peers[stage])
    start = monotonic()

    for peer in peers.values():
        with pytest.raises(Gone):
            peer.receive()

    assert monotonic() - start < HANDSHAKE_SECONDS + 4  # looked at once a second


@pytest.mark.long
def test_dead_peer_is_noticed_by_its_heartbeats_and_loses_its_queues(talk: Talk) -> None:
    dead = talk.channel(heartbeat=1)
    dead(QueueDeclare(talk.q, exclusive=True))
    start = monotonic()

    heard = frame_types(dead.peer)

    assert 1.5 < monotonic() - start < 5.5
    assert set(heard) == {HEARTBEAT}
    talk.channel()(QueueDeclare(talk.q, exclusive=True))
    assert "queue.declare-ok" in talk.lines[-1]


@pytest.mark.parametrize("way", ["reset", "half_closed"])
def test_message_of_a_peer_that_vanishes_arrives(talk: Talk, way: str) -> None:
    witness = talk.channel()
    witness(QueueDeclare(talk.q, exclusive=True))
    vanishing = talk.channel()
    vanishing(ConfirmSelect())
    vanishing.publish("", talk.q, b"last words")
    vanishing.hear_confirms(1)

    if way == "reset":
        vanishing.peer.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", True, 0)
        )
        vanishing.peer.hang_up()
    else:
        vanishing.peer.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(Gone):
            vanishing.peer.receive()

    witness(BasicGet(talk.q, no_ack=True))
    assert talk.lines[-1].endswith("b'last words'")


# Absurd arguments

DEPTH = 20_000


def nested_arrays() -> bytes:
    """Return a table with arrays in arrays, 20,000 deep."""
    inner = b""
    for _ in range(DEPTH):
        inner = b"A" + struct.pack(">I", len(inner)) + inner
    entry = b"\x01a" + inner
    return struct.pack(">I", len(entry)) + entry


def nested_tables() -> bytes:
    """Return a table in a table, 20,000 deep."""
    inner = b"\0\0\0\0"
    for _ in range(DEPTH):
        entry = b"\0F" + inner
        inner = struct.pack(">I", len(entry)) + entry
    return inner


NESTED = {"arrays": nested_arrays, "tables": nested_tables}


def _nested_client_properties(talk: Talk, table: bytes) -> Peer:
    peer = talk.raw()
    peer.start()
    payload = encode_method(ConnectionStartOk({}, "PLAIN", b"\0guest\0guest"))
    peer.write(frame(METHOD, 0, payload[:4] + table + payload[8:]))
    return peer


def _nested_login(talk: Talk, table: bytes) -> Peer:
    peer = talk.raw()
    peer.start()
    peer.send(ConnectionStartOk({}, "AMQPLAIN", table[4:]))
    return peer


def _nested_arguments(talk: Talk, table: bytes) -> Peer:
    channel = talk.channel()
    payload = encode_method(QueueDeclare("nested", exclusive=True))
    channel.peer.write(frame(METHOD, 1, payload[:-4] + table))
    return channel.peer


def _nested_headers(talk: Talk, table: bytes) -> Peer:
    channel = talk.channel()
    channel(ExchangeDeclare(talk.x, "headers"))
    channel(QueueDeclare(talk.q, exclusive=True))
    channel(QueueBind(talk.q, talk.x, arguments={"a": None}))
    header = encode_header(Properties(headers={}), 0)
    assert header.endswith(encode_table({}))
    channel.peer.write(
        frame(METHOD, 1, encode_method(BasicPublish(talk.x, "")))
        + frame(HEADER, 1, header[:-4] + table)
    )
    return channel.peer


PLACES = {
    "client_properties": _nested_client_properties,
    "login": _nested_login,
    "arguments": _nested_arguments,
    "headers": _nested_headers,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("nesting", NESTED)
def test_table_nested_20_000_deep_is_a_frame_error(talk: Talk, place: str, nesting: str) -> None:
    table = NESTED[nesting]()
    start = monotonic()

    close = last_heard(PLACES[place](talk, table))

    assert isinstance(close, ConnectionClose)
    assert close.reply_code in (501, 502)
    assert monotonic() - start < 2


# Absurd sizes


def _announce(channel: Channel, size: int) -> None:
    channel.peer.write(
        frame(METHOD, channel.number, encode_method(BasicPublish("", "nowhere")))
        + frame(HEADER, channel.number, encode_header(Properties(), size))
    )


@pytest.mark.parametrize("size", [(512 << 20) + 1, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_body_that_cannot_be_is_a_frame_error(talk: Talk, size: int) -> None:
    channel = talk.channel()

    _announce(channel, size)

    close = last_heard(channel.peer)
    assert isinstance(close, ConnectionClose)
    assert (close.reply_code, close.class_id_, close.method_id_) == (501, 60, 40)


@pytest.mark.parametrize("size", [LARGEST + 1, 512 << 20])
def test_body_above_the_limit_ends_the_channel(talk: Talk, size: int) -> None:
    channel = talk.channel()
    other = channel.peer.channel()
    channel.polite = False

    _announce(channel, size)

    close = channel.peer.receive().method
    assert isinstance(close, ChannelClose)
    assert close.reply_text == (
        f"PRECONDITION_FAILED - message size {size} is larger than configured max size {LARGEST}"
    )
    other(QueueDeclare(talk.q, exclusive=True))
    assert "queue.declare-ok" in talk.lines[-1]


def test_channel_is_free_again_when_a_body_above_the_limit_has_passed(talk: Talk) -> None:
    channel = talk.channel()
    channel.polite = False

    _announce(channel, 16 * LARGEST)
    for _ in range(16 * LARGEST // 65536):
        channel.peer.write(frame(BODY, channel.number, bytes(65536)))
    channel.hear()
    channel.send(ChannelCloseOk())
    channel(ChannelOpen())

    assert "channel.open-ok" in talk.lines[-1]


def test_announced_bodies_cost_nothing_until_they_come(server: Server, talk: Talk) -> None:
    peer = talk.connect()
    channels = [peer.channel() for _ in range(200)]
    before = server.resident()

    for channel in channels:
        _announce(channel, LARGEST)
    peer.channel()

    assert server.resident() - before < 4 * MIB


def test_unfinished_contents_of_a_connection_are_bounded(server: Server, talk: Talk) -> None:
    peer = talk.connect()
    channels = [peer.channel() for _ in range(200)]
    before = server.resident()

    for channel in channels:
        _announce(channel, LARGEST)
        peer.write(frame(BODY, channel.number, bytes(100_000)))

    close = last_heard(peer)
    assert isinstance(close, ConnectionClose)
    assert close.reply_code == 506
    assert server.resident() - before < 16 * MIB


@pytest.mark.parametrize("stage", ["greeted", "logged_in", "refused"])
def test_content_of_somebody_who_is_not_let_in_is_not_kept(
    server: Server, talk: Talk, stage: str
) -> None:
    peers = [talk.raw() for _ in range(20)]
    before = server.resident()

    for peer in peers:
        peer.start()
        if stage == "logged_in":
            peer.log_in()
        if stage == "refused":
            told = {"capabilities": {"authentication_failure_close": True}}
            wrong = ConnectionStartOk(told, "PLAIN", b"\0guest\0wrong")
            for method in (wrong, ConnectionTuneOk(2047, 131072, 0), ConnectionOpen("/")):
                peer.send(method)
        with suppress(OSError):  # the broker may hang up while we still send
            peer.write(
                frame(METHOD, 1, encode_method(BasicPublish("", "nowhere")))
                + frame(HEADER, 1, encode_header(Properties(), LARGEST))
            )
            for _ in range(9):
                peer.write(frame(BODY, 1, bytes(100_000)))

    assert server.resident() - before < 8 * MIB
    for peer in peers:
        close = last_heard(peer)
        assert isinstance(close, ConnectionClose)
        assert close.reply_code == (403 if stage == "refused" else 505)


@pytest.mark.parametrize("size", [131_073, 1 << 24, (1 << 32) - 1])
def test_frame_that_is_too_large_is_refused_at_its_head(talk: Talk, size: int) -> None:
    channel = talk.channel()

    channel.peer.write(FRAME.pack(METHOD, 1, size))

    close = last_heard(channel.peer)
    assert isinstance(close, ConnectionClose)
    assert close.reply_code == 501


def test_flood_behind_a_frame_error_is_not_kept(server: Server) -> None:
    before = server.resident()

    with closing(Peer(Talk("flood", ("", 0)), "a", connected(server)).sock) as sock:
        sock.settimeout(10)
        sock.sendall(PROTOCOL_HEADER)
        sock.recv(65536)
        with suppress(OSError):  # the broker may hang up while we still send
            sock.sendall(FRAME.pack(METHOD, 0, (1 << 32) - 1))
            for _ in range(256):
                sock.sendall(bytes(65536))

    assert server.resident() - before < 8 * MIB
    check_serving(server)


# Random bytes


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(1, 3000))


def _random_frames(chance: random.Random) -> bytes:
    kinds = (METHOD, METHOD, METHOD, HEADER, BODY, HEARTBEAT, chance.randrange(256))
    return b"".join(
        frame(chance.choice(kinds), chance.randrange(3), _random_payload(chance))
        for _ in range(chance.randrange(1, 20))
    )


def _random_payload(chance: random.Random) -> bytes:
    ids = struct.pack(">HH", chance.choice((10, 20, 40, 50, 60, 85, 90)), chance.randrange(130))
    return ids + chance.randbytes(chance.randrange(60))


def _mutated(chance: random.Random) -> bytes:
    good = bytearray(
        frame(METHOD, 1, encode_method(QueueDeclare("", exclusive=True, arguments={"x-a": 1})))
        + frame(METHOD, 1, encode_method(BasicPublish("", "nowhere", mandatory=True)))
        + frame(HEADER, 1, encode_header(Properties(headers={"CC": ["a"]}, message_id="m"), 4))
        + frame(BODY, 1, b"body")
    )
    for _ in range(chance.randrange(1, 6)):
        good[chance.randrange(len(good))] = chance.randrange(256)
    return bytes(good)


MAKERS = {"noise": _noise, "random_frames": _random_frames, "mutated": _mutated}


def _send_and_listen(server: Server, data: bytes) -> None:
    """Send bytes on an open channel; what comes back must be frames, up to the end."""
    talk = Talk("random", (server.host, server.port))
    peer = talk.channel().peer
    with closing(peer.sock):
        peer.write(data)
        with suppress(OSError):
            peer.sock.shutdown(socket.SHUT_WR)
        last_heard(peer)


@pytest.mark.parametrize("maker", MAKERS)
def test_random_bytes_end_a_connection_and_nothing_else(server: Server, maker: str) -> None:
    for seed in range(60):
        _send_and_listen(server, MAKERS[maker](random.Random(seed)))

    check_serving(server)
    assert "Traceback" not in server.log.read_text()


# The storm

STORM = 1000
AT_ONCE = 32


def _hostile(server: Server, number: int) -> None:
    """One of a thousand: a stranger, noise, broken frames, or someone who hangs up half-way."""
    chance = random.Random(number)
    kind = number % 5
    if kind == 0:
        with closing(connected(server)) as sock:
            sock.sendall(chance.choice(list(STRANGERS.values()))[0])
            read_all(sock)
    elif kind == 1:
        with closing(connected(server)) as sock:
            sock.sendall(PROTOCOL_HEADER + _noise(chance))
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
    elif kind == 2:
        _send_and_listen(server, chance.choice(list(MAKERS.values()))(chance))
    elif kind == 3:
        channel = Talk("storm", (server.host, server.port)).channel()
        _announce(channel, LARGEST)
        channel.peer.write(FRAME.pack(BODY, 1, 100_000) + bytes(chance.randrange(90_000)))
        channel.peer.hang_up()
    else:
        with closing(connected(server)) as sock:
            sock.sendall(PROTOCOL_HEADER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", True, 0))


class Worker(threading.Thread):
    """An honest client that sends itself numbered messages until told to stop."""

    def __init__(self, pika: object, server: Server) -> None:
        super().__init__()
        self.pika = pika
        self.server = server
        self.stopping = threading.Event()
        self.sent = 0
        self.received: list[int] = []

    def run(self) -> None:
        """Publish with confirms and mandatory, consume with acknowledgements."""
        parameters = self.pika.ConnectionParameters(self.server.host, self.server.port)
        with closing(self.pika.BlockingConnection(parameters)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.basic_consume(queue, self._receive)
            while not self.stopping.is_set():
                channel.basic_publish("", queue, str(self.sent).encode(), mandatory=True)
                self.sent += 1
                connection.process_data_events(0)
            while len(self.received) < self.sent:
                connection.process_data_events(1)

    def _receive(self, channel: object, method: object, properties: object, body: bytes) -> None:
        self.received.append(int(body))
        channel.basic_ack(method.delivery_tag)


def test_storm_of_hostile_connections_leaves_a_client_alone(server: Server) -> None:
    pika = pytest.importorskip("pika")
    with ThreadPoolExecutor(AT_ONCE) as pool:  # the first hundred warm the broker up
        list(pool.map(lambda number: _hostile(server, number), range(100)))
    before = server.resident()
    worker = Worker(pika, server)
    worker.start()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(10):  # one storm may be over before the worker has done much
            list(pool.map(lambda number: _hostile(server, number), range(STORM)))
            if worker.sent > 100:
                break
    worker.stopping.set()
    worker.join(30)

    assert not worker.is_alive()
    assert worker.sent > 100
    assert worker.received == list(range(worker.sent))
    assert server.resident() - before < 24 * MIB
    assert "Traceback" not in server.log.read_text()

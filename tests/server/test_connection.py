"""Client connections over real sockets: what a slow, fast, greedy or faulty peer costs."""

from dataclasses import replace

import pytest
import trio
import trio.testing

from leveret.broker.amqp.session import Session
from leveret.broker.config import Config, OutboxMarks
from leveret.broker.server.connection import (
    FIRST_READ,
    LARGEST_READ,
    LEAST_READ,
    ClientConnection,
    _next_size,
)
from leveret.broker.server.turns import Turns
from leveret.broker.server.wire import WireClosed
from leveret.protocol.methods import (
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicGetEmpty,
    BasicNack,
    BasicQos,
    BasicQosOk,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionClose,
    ConnectionCloseOk,
    QueueDeclare,
    QueueDeclareOk,
)
from leveret.protocol.reader import Contents

from ..support.client import Client
from ..support.edge import Peer, edge, publish

SMALL = replace(Config(), outbox=OutboxMarks(high=64 << 10, low=16 << 10))
KIB = b"k" * 1024


def only_session(served) -> Session:
    [session] = served.broker.sessions
    return session


async def declared(peer, name="q"):
    assert isinstance(await peer.call(QueueDeclare(name)), QueueDeclareOk)


async def ready(peer, name="q"):
    """Return how many messages wait: a round trip."""
    return (await peer.call(QueueDeclare(name, passive=True))).message_count


async def waiting(served, size):
    """Wait until a session's outbox holds so much that nothing more is coming."""
    while True:
        await trio.testing.wait_all_tasks_blocked(0.05)
        if any(session.outbox.size >= size for session in served.broker.sessions):
            return


async def test_consumer_that_does_not_read_costs_its_high_mark_and_stops_nobody():
    async with edge(SMALL) as served:
        slow = await Peer.connect(served, buffer=8192)
        await declared(slow)
        await slow.send(1, BasicConsume("q", no_ack=True))
        other = await Peer.connect(served)
        for _ in range(100):
            await other.write(publish(KIB, "q") * 100)
        await waiting(served, SMALL.outbox.high)

        left = await ready(other)
        held = max(session.outbox.size for session in served.broker.sessions)
        assert SMALL.outbox.high <= held < SMALL.outbox.high + (512 << 10)
        assert left > 1000

        got = 0
        while got < 10_000:  # it reads at last, and misses nothing
            _, command = await slow.next()
            if isinstance(command, Contents):
                assert all(content.body == KIB for content in command)
                got += len(command)
        assert await ready(other) == 0


async def test_peer_that_asks_without_reading_is_not_read_from():
    async with edge(SMALL) as served:
        greedy = await Peer.connect(served, buffer=8192)
        await declared(greedy)
        await greedy.write(publish(KIB * 8, "q") * 500)
        asked = greedy.connection.send(1, BasicGet("q", True)) * 20_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greedy.write, asked)
            await waiting(served, SMALL.outbox.high)
            session = only_session(served)
            taken = session.octets_in
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert session.octets_in == taken
            assert session.outbox.size < 2 << 20
            assert not session.connection.is_reading

            got = empty = 0
            while got + empty < 20_000:
                _, command = await greedy.next()
                got += len(command) if isinstance(command, Contents) else 0
                empty += isinstance(command, BasicGetEmpty)
        assert got == 500


async def test_peer_that_goes_while_it_is_not_read_from_is_forgotten():
    async with edge(SMALL) as served:
        greedy = await Peer.connect(served, buffer=8192)
        await declared(greedy)
        await greedy.write(publish(KIB * 8, "q") * 500)
        asked = greedy.connection.send(1, BasicGet("q", True)) * 500
        await greedy.write(asked)
        await waiting(served, SMALL.outbox.high)

        await greedy.stream.aclose()

        while served.broker.sessions:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_fault_of_ours_ends_the_connection_with_541_and_no_other(monkeypatch):
    async with edge() as served:
        other = await Peer.connect(served)
        await declared(other)
        victim = await Peer.connect(served)
        monkeypatch.setattr(Session, "receive", _fault(Session.receive, b"\x00\x3c\x00\x46"))
        await victim.send(1, BasicGet("q"))

        _, close = await victim.next()
        assert isinstance(close, ConnectionClose)
        assert (close.reply_code, close.reply_text) == (541, "INTERNAL_ERROR")
        assert await victim.ended()
        assert await ready(other) == 0


def _fault(receive, trigger):
    def fail(session, chunk):
        if trigger in chunk:
            raise RuntimeError("a fault of the test's own")
        receive(session, chunk)

    return fail


async def test_half_a_handshake_and_a_hang_up_leave_nothing():
    async with edge() as served:
        for _ in range(20):
            stream = await trio.open_tcp_stream(*served.address)
            await stream.send_all(b"AMQP\x00")
            await stream.aclose()
        while served.broker.sessions:
            await trio.testing.wait_all_tasks_blocked(0.01)
        peer = await Peer.connect(served)

        await declared(peer)


async def test_close_is_answered_and_the_socket_closed_by_the_broker():
    async with edge() as served:
        peer = await Peer.connect(served)
        await peer.send(0, ConnectionClose(200, "bye", 0, 0))

        assert await peer.next() == (0, ConnectionCloseOk())
        assert await peer.ended()
        assert not served.broker.sessions


async def test_abort_closes_the_socket_without_a_word():
    async with edge() as served:
        peer = await Peer.connect(served)
        only_session(served).abort("the test says so")

        assert await peer.ended()
        assert not served.broker.sessions
        assert peer.commands == []


async def test_stopping_at_once_forgets_every_session():
    async with edge() as served:
        for _ in range(3):
            await Peer.connect(served)
        assert len(served.broker.sessions) == 3

    assert not served.broker.sessions


async def test_channel_of_a_hot_loop_leaves_others_their_turns():
    """A peer whose every message is returned and dealt again; another's calls go through."""
    async with edge() as served:
        hot = await Peer.connect(served)
        await declared(hot)
        assert isinstance(await hot.call(BasicQos(0, 100)), BasicQosOk)
        assert isinstance(await hot.call(BasicConsume("q", "c")), BasicConsumeOk)
        await hot.write(publish(KIB, "q") * 100)
        quiet = await Peer.connect(served)
        await declared(quiet, "quiet")

        async def loop():
            while True:
                _, command = await hot.next()
                assert isinstance(command, Contents)
                tags = [content.envelope.method.delivery_tag for content in command]
                await hot.write(b"".join(_nack(hot, tag) for tag in tags))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop)
            for _ in range(200):
                assert await ready(quiet, "quiet") == 0
            nursery.cancel_scope.cancel()


def _nack(peer, tag):
    return peer.connection.send(1, BasicNack(tag, False, True))


@pytest.mark.parametrize(
    ("size", "seconds", "is_crowded", "expected"),
    [
        (FIRST_READ, 0.0001, False, 2 * FIRST_READ),
        (LARGEST_READ, 0.0001, False, LARGEST_READ),
        (FIRST_READ, 0.0005, False, FIRST_READ),
        (2 * FIRST_READ, 0.002, False, FIRST_READ),
        (FIRST_READ, 0.0001, True, FIRST_READ // 2),
        (LEAST_READ, 0.1, True, LEAST_READ),
    ],
)
def test_chunks_grow_while_turns_are_short_and_shrink_while_no_consumer_has_room(
    size, seconds, is_crowded, expected
):
    assert _next_size(size, seconds, is_crowded) == expected


async def test_publisher_without_consumers_with_room_is_read_in_less():
    async with edge() as served:
        peer = await Peer.connect(served)
        await declared(peer)
        assert isinstance(await peer.call(BasicQos(0, 1)), BasicQosOk)
        assert isinstance(await peer.call(BasicConsume("q", "c")), BasicConsumeOk)
        publisher = await Peer.connect(served)
        session = list(served.broker.sessions)[-1]

        await publisher.write(publish(KIB, "q") * 1000)
        while await ready(publisher) < 999:
            pass

        assert session.writer._size == LEAST_READ


async def test_error_of_a_channel_leaves_the_connection_readable():
    async with edge() as served:
        peer = await Peer.connect(served)
        close = await peer.call(QueueDeclare("missing", passive=True))
        assert isinstance(close, ChannelClose)
        assert close.reply_code == 404

        await peer.send(1, ChannelCloseOk(), ChannelOpen())

        assert await peer.next() == (1, ChannelOpenOk())


class Broken:
    """A wire whose other end is gone."""

    def write_now(self, parts):
        raise WireClosed("broken pipe")


def test_no_part_of_an_idle_connection_has_a_dict_of_attributes(client):
    """Thousands are idle; that of a session, with its many names, took more than all the rest."""
    session = client.session
    channel = session.channels[1]
    wire = session.connection
    parts = (session, channel, session.outbox, session.held, wire, wire.reader)
    assert [] == [part for part in parts if hasattr(part, "__dict__")]


def test_nothing_is_dealt_to_a_peer_whose_socket_is_broken(broker, client):
    """Without acknowledgements what is written to nobody is lost: it must not be the queue."""
    turns = Turns(broker, lambda: 0)
    connection = ClientConnection(Broken(), turns, None, peer="", is_loopback=True)
    client.declare()
    client.consume(no_ack=True)
    client.session.writer = connection
    connection.session = client.session
    for number in range(10):
        Client(broker).publish(b"%d" % number)

    assert Client(broker).counts() == (9, 1)

"""The same session over any stream, as TLS will be: conversations, slow peers, all kinds of end."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from leveret.broker.core.broker import Broker, Limits
from leveret.broker.core.queue import Queue
from leveret.broker.server.connection import StreamConnection
from leveret.broker.server.turns import Turns
from leveret.broker.server.wire import StreamWire
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicQos,
    ConfirmSelect,
    ConfirmSelectOk,
    ConnectionClose,
    ConnectionCloseOk,
    QueueDeclare,
    QueueDeclareOk,
)
from leveret.protocol.reader import Acks, Contents

from ..support.edge import Peer, publish

PAIRS = {
    "buffered": trio.testing.memory_stream_pair,
    "lockstep": trio.testing.lockstep_stream_pair,  # a write waits until all of it is read
}


class Slowly(trio.abc.Stream):
    """A stream that gives a few octets at a time."""

    def __init__(self, stream: trio.abc.Stream, size: int) -> None:
        self._stream = stream
        self._size = size

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._stream.receive_some(self._size)

    async def send_all(self, data: bytes) -> None:
        for start in range(0, len(data), self._size):
            await self._stream.send_all(data[start : start + self._size])

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.fixture
def broker() -> Broker:
    made = Broker(Limits(outbox_high=64 << 10, outbox_low=16 << 10))
    made.add_defaults()
    return made


class Streams:
    """A broker that serves streams."""

    def __init__(self, broker: Broker, nursery: trio.Nursery) -> None:
        self.broker = broker
        self.turns = Turns(broker, lambda: int(trio.current_time() * 1000))
        self.nursery = nursery
        nursery.start_soon(self.turns.go_on)

    def attach(self, kind: str = "lockstep") -> tuple[StreamConnection, trio.abc.Stream]:
        """Return a connection that is not served yet, and the other end."""
        ours, theirs = PAIRS[kind]()
        connection = StreamConnection(
            StreamWire(ours), self.turns, self.nursery, peer="memory", is_loopback=True
        )
        return connection, theirs

    async def connect(self, kind: str = "lockstep", *, octets: int = 0) -> Peer:
        connection, stream = self.attach(kind)
        self.nursery.start_soon(connection.serve)
        peer = Peer(Slowly(stream, octets) if octets else stream)
        await peer.open()
        return peer

    @property
    def queue(self) -> Queue:
        return self.broker.vhosts["/"].queues["q"]


@asynccontextmanager
async def serving(broker: Broker) -> AsyncIterator[Streams]:
    """Serve within the block."""
    async with trio.open_nursery() as nursery:
        yield Streams(broker, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _nothing_is_left(broker: Broker) -> Iterator[None]:
    yield
    assert not broker.sessions


@pytest.mark.parametrize("octets", [0, 1, 7])
@pytest.mark.parametrize("kind", PAIRS)
async def test_a_whole_conversation(broker, kind, octets):
    async with serving(broker) as streams:
        peer = await streams.connect(kind, octets=octets)
        assert QueueDeclareOk("q", 0, 0) == await peer.call(QueueDeclare("q"))
        assert ConfirmSelectOk() == await peer.call(ConfirmSelect())
        await peer.write(publish(b"one", "q"))
        assert (1, Acks([1])) == await peer.next()
        assert BasicConsumeOk("c") == await peer.call(BasicConsume("q", "c"))
        _, contents = await peer.next()
        assert [b"one"] == [content.body for content in contents]
        await peer.send(1, BasicAck(1))
        assert QueueDeclareOk("q", 0, 1) == await peer.call(QueueDeclare("q"))
        assert 0 == streams.queue.unacked_count

        await peer.send(0, ConnectionClose(200, "bye", 0, 0))
        assert (0, ConnectionCloseOk()) == await peer.next()
        assert await peer.ended()
        assert not broker.sessions


async def test_slow_consumer_costs_its_high_mark_and_misses_nothing(broker):
    async with serving(broker) as streams:
        slow = await streams.connect()
        await slow.call(QueueDeclare("q"))
        await slow.call(BasicConsume("q", "c", no_ack=True))
        [session] = broker.sessions
        other = await streams.connect()
        bodies = [b"%04d" % number * 256 for number in range(1000)]
        for body in bodies:
            await other.write(publish(body, "q"))

        assert QueueDeclareOk("q", streams.queue.ready_count, 1) == await other.call(
            QueueDeclare("q")
        )
        assert broker.limits.outbox_high <= session.outbox.size < broker.limits.outbox_high + 2048
        received = []
        while len(received) < 1000:
            _, contents = await slow.next()
            received += [content.body for content in contents]
        assert bodies == received


async def test_peer_that_asks_without_reading_is_not_read_from(broker):
    async with serving(broker) as streams:
        peer = await streams.connect()
        await peer.call(QueueDeclare("q"))
        for _ in range(100):
            await peer.write(publish(bytes(8192), "q"))
        streams.nursery.start_soon(ask, peer, 200)
        await trio.testing.wait_all_tasks_blocked()
        [session] = broker.sessions
        assert not session.connection.is_reading
        assert streams.queue.ready_count > 50

        answers = 0
        while answers < 200:
            _, command = await peer.next()
            answers += len(command) if isinstance(command, Contents) else 1
        assert 0 == streams.queue.ready_count


async def ask(peer: Peer, count: int) -> None:
    for _ in range(count):
        await peer.send(1, BasicGet("q", True))


# The end


async def stuck(streams: Streams) -> Peer:
    """Return a peer that has messages to ack and more to read than it does."""
    peer = await streams.connect()
    await peer.call(QueueDeclare("q"))
    await peer.call(BasicQos(0, 10))
    await peer.call(BasicConsume("q", "c"))
    for _ in range(20):
        await peer.write(publish(bytes(8192), "q"))
    await trio.testing.wait_all_tasks_blocked()
    assert 10 > streams.queue.unacked_count > 0
    return peer


async def test_peer_that_goes_while_it_is_written_to_gives_everything_back(broker):
    async with serving(broker) as streams:
        peer = await stuck(streams)

        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()

        assert not broker.sessions
        assert (20, 0) == (streams.queue.ready_count, streams.queue.unacked_count)


async def test_abort_while_it_is_written_to_closes_the_stream(broker):
    async with serving(broker) as streams:
        peer = await stuck(streams)
        [session] = broker.sessions

        session.abort("the test says so")
        await trio.testing.wait_all_tasks_blocked()

        assert not broker.sessions
        assert await peer.ended()


async def test_abort_while_nothing_happens_closes_the_stream(broker):
    async with serving(broker) as streams:
        peer = await streams.connect()
        [session] = broker.sessions

        session.abort("the test says so")

        assert await peer.ended()
        assert not broker.sessions


async def test_connection_that_is_closed_before_it_is_served_ends_at_once(broker):
    async with serving(broker) as streams:
        connection, stream = streams.attach()
        connection.session.abort("the test says so")
        streams.nursery.start_soon(connection.serve)

        assert b"" == await stream.receive_some()
        assert not broker.sessions


async def test_all_streams_are_closed_when_the_broker_is_cancelled(broker):
    async with serving(broker) as streams:
        idle, busy = await streams.connect(), await stuck(streams)
    assert not broker.sessions
    for peer in (idle, busy):
        assert await peer.ended()

"""Back-pressure: what a peer does not take is not made, what cannot be handled is not read.

Slow and blocked peers live through hours of virtual time over Unix sockets, where what is sent
has come at once. What they cost is in test_connection.
"""

import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from leveret.broker.amqp.session import Session
from leveret.broker.config import Config, OutboxMarks
from leveret.broker.core.queue import Queue
from leveret.broker.server import alarms
from leveret.broker.server.connection import LARGEST_READ
from leveret.protocol.connection import HEARTBEAT_FRAME
from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    BasicPublish,
    BasicQos,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
)
from leveret.protocol.reader import Contents

from ..support.client import published
from ..support.edge import LOW_ON_MEMORY, Edge, Peer, edge, publish

CONFIG = replace(Config(), outbox=OutboxMarks(high=64 << 10, low=16 << 10))
KIB = 1024
HOUR = 3600
Serve = Callable[[], AbstractAsyncContextManager[Edge]]


@pytest.fixture(autouse=True)
def _alarms_only_by_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "INTERVAL", 1e9)


@pytest.fixture
def serving(tmp_path: Path) -> Serve:
    """Serve within a block, on a Unix socket."""
    return partial(edge, CONFIG, path=tmp_path / "amqp.sock")


def queue_of(served: Edge, name: str = "q") -> Queue:
    return served.broker.vhosts["/"].queues[name]


async def contents(peer: Peer, count: int) -> list[bytes]:
    """Return the bodies of so many messages; nothing else may come."""
    bodies: list[bytes] = []
    while len(bodies) < count:
        _, command = await peer.next()
        assert isinstance(command, Contents)
        bodies += [content.body for content in command]
    return bodies


# Publishers


class Unhandled(trio.abc.Instrument):
    """After each step of any task: how much of what was read of a peer is not handled yet."""

    def __init__(self, session: Session, queue: Queue, size: int) -> None:
        self.session = session
        self.queue = queue
        self.size = size
        self.before = session.octets_in
        self.most = 0

    @property
    def received(self) -> int:
        return self.session.octets_in - self.before

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        handled = self.queue.next_position + len(self.queue.incoming)
        self.most = max(self.most, self.received - handled * self.size)


async def test_publisher_faster_than_the_broker_waits_with_what_was_not_read(serving):
    """Each of its messages goes into 500 queues."""
    async with serving() as served:
        peer = await Peer.connect(served)
        await peer.call(ExchangeDeclare("wide", "fanout"))
        for number in range(500):
            await peer.call(QueueDeclare(f"q{number}"))
            await peer.call(QueueBind(f"q{number}", "wide"))
        message = published(b"", BasicPublish("wide", ""))
        [session] = served.broker.sessions
        watch = Unhandled(session, queue_of(served, "q499"), len(message))
        kernel = 300 * KIB  # more than both sockets hold
        data = memoryview(message * 25_000)
        sent, ahead = 0, 0

        trio.lowlevel.add_instrument(watch)
        while sent < len(data):
            sent += await peer.stream.socket.send(data[sent:])
            ahead = max(ahead, sent - watch.received)
        while watch.received < sent:
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(watch)

        assert session in served.broker.sessions
        assert 0 < watch.most <= LARGEST_READ
        assert 0 < ahead <= kernel


async def test_publisher_under_an_alarm_is_read_no_further_than_its_first_publish():
    async with edge(CONFIG) as served, trio.open_nursery() as nursery:
        peer = await Peer.connect(served)
        await peer.call(QueueDeclare("q"))
        [session] = served.broker.sessions
        before = session.octets_in
        message = publish(bytes(64 * KIB), "q")
        served.broker.blocked = LOW_ON_MEMORY
        nursery.start_soon(peer.write, message * 1000)  # more than TCP ever holds
        await trio.testing.wait_all_tasks_blocked(0.1)

        assert 0 < session.octets_in - before <= LARGEST_READ
        assert 0 == queue_of(served).ready_count

        served.broker.blocked = ""
        session.unblock()
        while queue_of(served).ready_count < 1000:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_publisher_that_does_not_read_its_deliveries_is_read_from(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served)
        await peer.call(QueueDeclare("q"))
        await peer.call(BasicConsume("q", "c", no_ack=True))
        await peer.write(publish(bytes(KIB), "q") * 2000)
        await trio.testing.wait_all_tasks_blocked()

        [session] = served.broker.sessions
        assert session.is_writing
        assert 2000 == queue_of(served).next_position


# Consumers


async def test_slow_consumer_leaves_the_messages_of_a_queue_to_a_quick_one(serving, autojump_clock):
    async with serving() as served, trio.open_nursery() as nursery:
        slow = await Peer.connect(served)
        await slow.call(QueueDeclare("q"))
        await slow.call(BasicConsume("q", "slow", no_ack=True))
        [session] = served.broker.sessions
        quick = await Peer.connect(served)
        await quick.call(BasicConsume("q", "quick", no_ack=True))
        got: list[bytes] = []
        nursery.start_soon(collect, quick, got)
        publisher = await Peer.connect(served)
        bodies = [struct.pack(">I", number).ljust(KIB, b".") for number in range(4000)]
        for body in bodies:
            await publisher.write(publish(body, "q"))
        await trio.testing.wait_all_tasks_blocked()

        assert 0 == queue_of(served).ready_count
        assert CONFIG.outbox.high <= session.outbox.size < CONFIG.outbox.high + LARGEST_READ
        assert got == sorted(got)
        late = await contents(slow, 4000 - len(got))
        assert late == sorted(late)
        assert bodies == sorted(got + late)
        assert len(got) > 3000
        nursery.cancel_scope.cancel()


async def collect(peer: Peer, bodies: list[bytes]) -> None:
    while True:
        bodies += await contents(peer, 1)


# Time


async def test_peer_that_is_not_read_from_is_not_judged_on_its_silence(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served, heartbeat=4)
        await peer.call(QueueDeclare("q"))
        await peer.write(publish(bytes(8 * KIB), "q") * 200)
        await peer.write(peer.connection.send(1, BasicGet("q", True)) * 200)
        await trio.testing.wait_all_tasks_blocked()
        [session] = served.broker.sessions
        assert not session.connection.is_reading

        await trio.sleep(HOUR)

        assert 200 == len(await contents(peer, 200))
        assert "q" == (await peer.call(QueueDeclare("q"))).queue


async def test_consumer_that_neither_reads_nor_speaks_loses_its_messages(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served, heartbeat=4)
        await peer.call(QueueDeclare("q"))
        await peer.call(BasicQos(0, 500))
        await peer.call(BasicConsume("q", "c"))
        await peer.write(publish(bytes(KIB), "q") * 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert queue_of(served).unacked_count > 100

        await trio.sleep(3 * 4 + 1)

        assert not served.broker.sessions
        assert (0, 1000) == (queue_of(served).unacked_count, queue_of(served).ready_count)


async def test_heartbeats_for_a_peer_that_does_not_read_do_not_pile_up(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served, heartbeat=4)
        await peer.call(QueueDeclare("q"))
        await peer.call(BasicConsume("q", "c", no_ack=True))
        await peer.write(publish(bytes(KIB), "q") * 1000)
        await trio.testing.wait_all_tasks_blocked()
        [session] = served.broker.sessions
        size = session.outbox.size

        for _ in range(HOUR // 3):
            await trio.sleep(3)
            await peer.write(HEARTBEAT_FRAME)

        assert [session] == list(served.broker.sessions)
        assert size == session.outbox.size

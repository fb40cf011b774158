"""Stopping: listeners first, then every peer is told and given time to take what waits for it.

In virtual time over Unix sockets (what is sent is there at once), then as a process with signals.
"""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
import trio
import trio.testing

from leveret.broker import app
from leveret.broker.config import Config, Limits, OutboxMarks
from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionStartOk,
    QueueDeclare,
)
from leveret.protocol.reader import Contents

from ..integration.differential.talk import PROTOCOL_HEADER, Gone, Talk
from ..support.edge import LOW_ON_MEMORY, Edge, Peer, edge, publish
from ..support.launch import Launched, launch

FORCED = ConnectionClose(
    320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", 0, 0
)
CONFIG = replace(
    Config(),
    limits=replace(Limits(), heartbeat=0),
    outbox=OutboxMarks(high=64 << 10, low=16 << 10),
)
KIB = bytes(1024)


@pytest.fixture
def serving(tmp_path: Path) -> Callable[[], AbstractAsyncContextManager[Edge]]:
    """Serve within a block, on a Unix socket."""
    return partial(edge, CONFIG, path=tmp_path / "amqp.sock")


async def over(served: Edge) -> float:
    """Stop a broker, unless it was told to already; return the seconds until it is over."""
    start = trio.current_time()
    served.stop.set()
    await served.is_over.wait()
    assert not served.broker.sessions
    return trio.current_time() - start


async def test_without_peers_it_stops_at_once(serving, autojump_clock):
    async with serving() as served:
        assert 0 == await over(served)


async def test_peers_are_told_and_it_stops_with_the_last_close_ok(serving, autojump_clock):
    async with serving() as served:
        peers = [await Peer.connect(served) for _ in range(20)]
        start = trio.current_time()
        served.stop.set()
        for peer in peers:
            assert (0, FORCED) == await peer.next()
            assert not served.is_over.is_set()
            await peer.send(0, ConnectionCloseOk())
            assert await peer.ended()

        await over(served)
        assert start == trio.current_time()


async def test_nobody_is_accepted_any_more(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served)
        served.stop.set()
        assert (0, FORCED) == await peer.next()

        with pytest.raises(OSError, match=r"No such file|refused"):
            await served.connect()


async def test_peer_that_never_says_close_ok_is_waited_for_five_seconds(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served)

        assert app.STOP_TIMEOUT == await over(served) == 5
        assert (0, FORCED) == await peer.next()
        assert await peer.ended()


async def test_peer_that_never_reads_is_waited_for_five_seconds(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served)
        await _fill_outbox(served, peer)

        assert app.STOP_TIMEOUT == await over(served)


async def test_what_waits_for_a_peer_is_delivered_before_the_close(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served)
        await _fill_outbox(served, peer)
        queue = served.broker.vhosts["/"].queues["q"]
        assert queue.ready_count > 0
        start = trio.current_time()
        served.stop.set()
        await trio.testing.wait_all_tasks_blocked()

        received = 0
        while isinstance((command := (await peer.next())[1]), Contents):
            received += len(command)
        assert FORCED == command
        assert 1000 == received + queue.ready_count
        await peer.send(0, ConnectionCloseOk())
        await over(served)
        assert start == trio.current_time()


async def _fill_outbox(served: Edge, peer: Peer) -> None:
    """Have a consumer not read what it gets, until no more is dealt to it."""
    await peer.call(QueueDeclare("q"))
    await peer.call(BasicConsume("q", "c", no_ack=True))
    await peer.write(publish(KIB, "q") * 1000)
    await trio.testing.wait_all_tasks_blocked()
    [session] = served.broker.sessions
    assert session.is_writing
    assert session.outbox.size >= CONFIG.outbox.high


async def test_peer_in_the_middle_of_its_work_is_told(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served)
        await peer.call(QueueDeclare("q"))
        await peer.write(publish(KIB, "q") * 1000)
        await peer.write(peer.connection.send(1, BasicGet("q", True)) * 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert served.broker.vhosts["/"].queues["q"].ready_count > 0  # it waits for the peer
        served.stop.set()

        while isinstance((command := (await peer.next())[1]), Contents):
            pass
        assert FORCED == command
        await peer.send(0, ConnectionCloseOk())
        assert await peer.ended()
        assert await over(served) < 1


async def test_publisher_blocked_by_an_alarm_is_told(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served)
        served.broker.blocked = LOW_ON_MEMORY
        await peer.write(publish(KIB, "q"))
        await trio.testing.wait_all_tasks_blocked()
        assert [True] == [session.is_blocked for session in served.broker.sessions]
        served.stop.set()

        assert (0, FORCED) == await peer.next()
        await peer.send(0, ConnectionCloseOk())
        assert 0 == await over(served)


async def test_sockets_without_a_greeting_are_closed_at_once(serving, autojump_clock):
    async with serving() as served:
        silent, half_way = await served.connect(), await served.connect()
        await half_way.send_all(PROTOCOL_HEADER[:5])
        await trio.testing.wait_all_tasks_blocked()
        assert 2 == len(served.broker.sessions)

        assert 0 == await over(served)
        for stream in (silent, half_way):
            assert b"" == await stream.receive_some()


async def test_refused_login_does_not_wait_for_its_pause(serving, autojump_clock):
    async with serving() as served:
        peer = Peer(await served.connect())
        await peer.write(peer.connection.start())
        await peer.next()
        await peer.send(0, ConnectionStartOk({}, "PLAIN", b"\0guest\0wrong", "en_US"))
        await trio.testing.wait_all_tasks_blocked()
        assert [True] == [session.is_hung_up for session in served.broker.sessions]

        assert 0 == await over(served)
        assert await peer.ended()


async def test_peer_that_has_not_logged_in_is_told_too(serving, autojump_clock):
    async with serving() as served:
        peer = Peer(await served.connect())
        await peer.write(peer.connection.start())
        await peer.next()
        served.stop.set()

        assert (0, FORCED) == await peer.next()
        await peer.send(0, ConnectionCloseOk())
        assert 0 == await over(served)


async def test_peer_that_hangs_up_instead_of_answering_is_done_with(serving, autojump_clock):
    async with serving() as served:
        peer = await Peer.connect(served)
        served.stop.set()
        assert (0, FORCED) == await peer.next()
        await peer.stream.aclose()

        assert 0 == await over(served)


# As a process


@contextmanager
def running(folder: Path) -> Iterator[tuple[Launched, tuple[str, int]]]:
    """Run a process that serves; give it and its address."""
    with launch(folder, "--in-memory", "--listen", "127.0.0.1:0") as launched:
        yield launched, launched.ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_signal_stops_the_process_with_status_0(tmp_path, number):
    with running(tmp_path) as (launched, address):
        peer = Talk("stop", address).connect()
        channel = peer.channel()
        launched.process.send_signal(number)

        close = peer.receive().method
        assert FORCED == close
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        channel.peer.send(ConnectionCloseOk())
        start = monotonic()
        status, output, log = launched.end()

    assert (0, "") == (status, output)
    assert monotonic() - start < app.STOP_TIMEOUT
    assert f"signal={number.name}" in log
    assert "server.stopped" in log
    assert "Traceback" not in log
    peer.hang_up()


@pytest.mark.long
def test_peers_that_neither_read_nor_answer_delay_the_end_by_five_seconds(tmp_path):
    with running(tmp_path) as (launched, address), closing(socket.create_connection(address)):
        deaf, mute = Talk("deaf", address).channel(), Talk("mute", address).connect()
        deaf(QueueDeclare("q"))
        deaf(BasicConsume("q", "c", no_ack=True))
        deaf.peer.write(publish(bytes(100_000), "q") * 200)
        launched.process.terminate()
        assert FORCED == mute.receive().method
        start = monotonic()
        status, _, log = launched.end()

    assert (0, []) == (status, [line for line in log.splitlines() if "Error" in line]), log
    assert monotonic() - start < app.STOP_TIMEOUT + 4
    with pytest.raises(Gone):
        mute.receive()
    deaf.peer.hang_up()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_second_signal_ends_the_process_at_once(tmp_path, number):
    with running(tmp_path) as (launched, address):
        mute = Talk("mute", address).connect()  # waited for: it never answers
        told = Talk("told", address).connect()
        launched.process.terminate()
        assert FORCED == told.receive().method
        start = monotonic()
        launched.process.send_signal(number)
        status, _, _ = launched.end()

    assert -number == status
    assert monotonic() - start < app.STOP_TIMEOUT
    mute.hang_up()
    told.hang_up()

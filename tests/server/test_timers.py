"""Heartbeats and timeouts, in virtual time over a stream without a socket."""

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from leveret.broker.core.broker import Broker
from leveret.broker.server import timers
from leveret.broker.server.connection import HANG_UP_DELAY, StreamConnection
from leveret.broker.server.turns import Turns
from leveret.broker.server.wire import StreamWire
from leveret.protocol.connection import Connection
from leveret.protocol.methods import ConnectionClose, ConnectionStartOk, QueueDeclare

from ..support.edge import Peer, publish

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
HANDSHAKE_TIMEOUT = 10


@asynccontextmanager
async def serving(broker: Broker):
    """Serve streams: yields what makes a client's end."""
    turns = Turns(broker, lambda: int(trio.current_time() * 1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.go_on)
        nursery.start_soon(timers.watch, turns, HANDSHAKE_TIMEOUT)

        def connect() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            connection = StreamConnection(
                StreamWire(ours), turns, nursery, peer="memory", is_loopback=True
            )
            nursery.start_soon(connection.serve)
            return theirs

        yield connect
        nursery.cancel_scope.cancel()


async def opened(connect, heartbeat: int) -> Peer:
    peer = Peer(connect(), ("connection.blocked",))
    await peer.open(heartbeat)
    return peer


async def end_of(stream) -> float:
    """Read until the broker closes; return how long that took."""
    start = trio.current_time()
    while await stream.receive_some(65536):
        pass
    return trio.current_time() - start


async def test_broker_sends_a_heartbeat_within_the_interval(autojump_clock, broker):
    async with serving(broker) as connect:
        peer = await opened(connect, 4)
        start = trio.current_time()

        assert await peer.stream.receive_some(100) == HEARTBEAT

        assert trio.current_time() - start <= 4 + timers.TICK


@pytest.mark.parametrize("interval", [1, 4, 60])
async def test_heartbeats_come_at_half_the_interval(autojump_clock, broker, interval):
    """Some clients hang up after little more than one interval of silence."""
    async with serving(broker) as connect:
        peer = await opened(connect, interval)
        gaps, received = [], b""
        start = trio.current_time()
        while len(gaps) < 20:
            received += bytes(await peer.stream.receive_some(100))
            gaps.append(trio.current_time() - start)
            start = trio.current_time()
            await peer.write(HEARTBEAT)

        assert received == HEARTBEAT * 20
        assert gaps[0] <= interval + timers.TICK  # since the handshake
        assert max(gaps[1:]) <= interval / 2 + timers.TICK


async def test_no_heartbeats_are_sent_between_other_answers(autojump_clock, broker):
    async with serving(broker) as connect:
        peer = await opened(connect, 4)
        for _ in range(60):
            await peer.send(1, QueueDeclare("q"))
            await trio.sleep(1)
        answers = bytes(await peer.stream.receive_some(1 << 20))

        assert HEARTBEAT not in answers
        assert answers.count(b"\x01q") == 60


async def test_silent_client_is_dropped_after_two_intervals(autojump_clock, broker):
    async with serving(broker) as connect:
        peer = await opened(connect, 4)

        assert 2 * 4 <= await end_of(peer.stream) <= 3 * 4 + timers.TICK
        assert not broker.sessions


@pytest.mark.parametrize("octets", [HEARTBEAT, publish(b"", "nowhere")], ids=["beat", "publish"])
async def test_client_that_sends_anything_is_kept(autojump_clock, broker, octets):
    async with serving(broker) as connect:
        peer = await opened(connect, 4)
        for _ in range(30):
            await trio.sleep(3)
            await peer.write(octets)

        assert len(broker.sessions) == 1


async def test_heartbeat_0_is_none(autojump_clock, broker):
    async with serving(broker) as connect:
        peer = await opened(connect, 0)
        with trio.move_on_after(3600) as hour:
            await peer.stream.receive_some(1)

        assert hour.cancelled_caught
        assert len(broker.sessions) == 1


async def test_client_is_not_judged_on_silence_while_an_alarm_blocks_it(autojump_clock, broker):
    async with serving(broker) as connect:
        peer = await opened(connect, 4)
        broker.blocked = "low on memory"
        await peer.write(publish(b"held back", "q"))
        await trio.sleep(600)
        assert len(broker.sessions) == 1

        broker.blocked = ""
        for session in tuple(broker.sessions):
            session.unblock()
        await peer.next()  # blocked
        await peer.next()  # unblocked

        assert (await peer.call(QueueDeclare("q"))).queue == "q"


async def test_handshake_has_ten_seconds(autojump_clock, broker):
    async with serving(broker) as connect:
        silent, half_way = connect(), connect()
        await half_way.send_all(b"AMQP\x00\x00\x09\x01")

        for stream in (silent, half_way):
            assert await end_of(stream) <= HANDSHAKE_TIMEOUT + 2 * timers.TICK
        assert trio.current_time() >= HANDSHAKE_TIMEOUT
        assert not broker.sessions


async def test_handshake_has_ten_seconds_after_an_idle_hour_too(autojump_clock, broker):
    async with serving(broker) as connect:
        await trio.sleep(3600)
        stream = connect()
        await trio.sleep(HANDSHAKE_TIMEOUT - 1)
        peer = Peer(stream)

        await peer.open()

        assert (await peer.call(QueueDeclare("q"))).queue == "q"


async def test_wrong_password_without_the_capability_is_a_silent_hang_up_after_a_pause(
    autojump_clock, broker
):
    async with serving(broker) as connect:
        peer = Peer(connect())
        await peer.write(peer.connection.start())
        await peer.next()
        await peer.send(0, ConnectionStartOk({}, "PLAIN", b"\0guest\0wrong", "en_US"))

        assert HANG_UP_DELAY <= await end_of(peer.stream) <= HANG_UP_DELAY + 1


async def test_close_that_is_never_answered_ends_after_half_a_minute(autojump_clock, broker):
    async with serving(broker) as connect:
        peer = await opened(connect, 0)
        await peer.write(b"\x09garbage.")
        _, close = await peer.next()
        assert isinstance(close, ConnectionClose)

        seconds = timers.CLOSE_TIMEOUT_MS / 1000
        assert seconds <= await end_of(peer.stream) <= seconds + 2 * timers.TICK
        assert not broker.sessions


async def test_fault_while_looking_at_one_session_ends_that_one_only(
    autojump_clock, broker, monkeypatch
):
    async with serving(broker) as connect:
        victim = await opened(connect, 4)
        other = await opened(connect, 0)
        first = next(iter(broker.sessions))

        next_deadline = Connection.next_deadline

        def fail(connection: Connection) -> float | None:
            if connection is first.connection:
                raise RuntimeError("a fault of the test's own")
            return next_deadline(connection)

        monkeypatch.setattr(Connection, "next_deadline", fail)

        assert await end_of(victim.stream) <= 2 * timers.TICK
        assert (await other.call(QueueDeclare("q"))).queue == "q"

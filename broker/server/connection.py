"""Client connections: one task that reads; a second one only while the peer is slow to read.

Law: the reading task owns the socket, the session decides. A chunk is received, handled in
slices, and what it caused is written at the end of each. Nothing is read while an alarm blocks
the peer, nor while it does not take the answers to what it asked. When the task ends, for
whatever reason, the session lets go of all it held; a fault in it ends no other connection.

Called by: server.listener.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import structlog
import trio

from leveret.broker.amqp.session import Session
from leveret.broker.server.wire import Wire, WireClosed
from leveret.protocol.errors import InternalError

if TYPE_CHECKING:
    from leveret.broker.server.turns import Turns

# What one read takes, in octets. It grows while full chunks take less than this time, in seconds:
# large messages come by the half megabyte and share the cost of a turn. It shrinks when they take
# much more, and when their messages find consumers without room: who publishes faster than is
# consumed gets shorter turns, so that acks are heard more often than the queue grows.
FIRST_CHUNK, LEAST_CHUNK, LARGEST_CHUNK = 65536, 16384, 524288
CHUNK_TIME = 0.00025
# How long a peer that does not read may delay the end of its connection, in seconds.
DRAIN_TIMEOUT = 5
# How long a silent hang-up waits, against guessing passwords (RabbitMQ's figure, in seconds).
HANG_UP_DELAY = 3

log = structlog.get_logger()


def _next_size(size: int, seconds: float, is_crowded: bool) -> int:
    """Return how much to read after a full chunk: how long it took, whether it found no consumer.

    >>> _next_size(65536, 0.0001, False)
    131072
    """
    if is_crowded or seconds > 3 * CHUNK_TIME:
        return max(size // 2, LEAST_CHUNK)
    return min(size * 2, LARGEST_CHUNK) if seconds < CHUNK_TIME else size


class ClientConnection:
    """A socket and its session."""

    __slots__ = ("_nursery", "_resumed", "_scope", "_turns", "_wire", "session")

    def __init__(
        self, wire: Wire, turns: Turns, nursery: trio.Nursery, *, peer: str, is_loopback: bool
    ) -> None:
        self._wire = wire
        self._turns = turns
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._resumed: trio.Event | None = None
        self.session = Session(turns.broker, self, peer=peer, is_loopback=is_loopback)

    async def serve(self) -> None:
        """Serve until either side ends."""
        session = self.session
        try:
            with self._scope:
                try:
                    await self._read()
                except WireClosed:
                    raise
                except Exception as problem:
                    self._crash(problem)
                if session.is_ended:
                    await self._drain()
        except WireClosed:
            pass
        finally:
            self._forget()
            await self._wire.aclose()

    async def _read(self) -> None:
        session, wire, turns = self.session, self._wire, self._turns
        outbox, high = session.outbox, session.outbox_high
        batch = session.broker.batch
        size = FIRST_CHUNK
        while not session.is_ended:
            chunk = await wire.receive(size)
            if not chunk:
                return
            start = perf_counter()
            batch.is_crowded = False
            session.receive(chunk)
            if not turns.run(session):
                await self._go_on()
            if len(chunk) == size:
                size = _next_size(size, perf_counter() - start, batch.is_crowded)
            if session.is_hung_up:
                await trio.sleep(HANG_UP_DELAY)
                return
            while outbox.replies > high and session.is_writing:
                await self._hold()

    async def _go_on(self) -> None:
        """Handle, and carry out, what did not fit into the first slice."""
        turns, session = self._turns, self.session
        outbox, high = session.outbox, session.outbox_high
        while True:
            if session.is_blocked or (outbox.replies > high and session.is_writing):
                await self._hold()
            else:
                await turns.caught_up()
                turns.runnable += 1
                try:
                    await trio.lowlevel.checkpoint()
                finally:
                    turns.runnable -= 1
            if turns.run(session) or session.is_ended:
                return

    async def _hold(self) -> None:
        """Wait for the end of an alarm, or until the peer has read."""
        connection = self.session.connection
        self._resumed = trio.Event()
        connection.is_reading = False
        try:
            await self._resumed.wait()
        finally:
            connection.is_reading = True
            self._resumed = None

    def _resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set()

    async def _drain(self) -> None:
        """Give the peer time to take what was written before the end."""
        with trio.move_on_after(DRAIN_TIMEOUT):
            while self.session.is_writing:
                await self._hold()

    def _crash(self, problem: Exception) -> None:
        """Report a fault of ours and end the connection."""
        session = self.session
        session.broker.events.emit("session.crashed", session=session, error=problem)
        session.fail(0, InternalError("INTERNAL_ERROR"))
        session.is_ended = True
        self._turns.finish()

    def _forget(self) -> None:
        session = self.session
        try:
            session.forget()
        except Exception as problem:
            session.broker.sessions.pop(session, None)
            log.error("session.crashed", peer=session.peer, exc_info=problem)
        session.writer = GONE
        self._turns.finish()

    def write_now(self, parts: list[bytes]) -> list[bytes]:
        """Send what the peer takes without waiting; return the rest."""
        return self._wire.write_now(parts)

    def start_writing(self) -> None:
        """Empty the outbox as the peer reads."""
        self._nursery.start_soon(self._write)

    async def _write(self) -> None:
        session, wire = self.session, self._wire
        outbox, low = session.outbox, session.broker.limits.outbox_low
        try:
            while outbox.parts:
                parts = outbox.take()
                held = sum(map(len, parts))
                outbox.size += held  # on its way is not yet taken
                parts = await wire.write(parts)
                outbox.size -= held
                outbox.put_back(parts)
                session.written()
                if outbox.replies <= low and not session.is_ended:
                    self._resume()
                self._turns.finish()
        except WireClosed:
            outbox.take()
        except Exception as problem:
            session.broker.events.emit("session.crashed", session=session, error=problem)
            session.abort("internal error")
        finally:
            session.is_writing = False
            self._resume()
            if session.is_ended:
                self._scope.cancel()

    def unblock(self) -> None:
        """Go on with what waits for the end of an alarm."""
        self._resume()

    def close(self) -> None:
        """End the reading task, which closes the socket."""
        self._scope.cancel()


class Gone:
    """Stands in for a socket that is closed, so that nothing keeps its connection."""

    def write_now(self, parts: list[bytes]) -> list[bytes]:
        """Drop it."""
        return []

    def start_writing(self) -> None:
        """Nothing is left to write."""

    def unblock(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """It is closed."""


GONE = Gone()

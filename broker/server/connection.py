"""Client connections: read by the poller, attended by a task only while there is a wait.

Law: the connection owns the socket, the session decides. A chunk is received, handled in slices,
and what it caused is written at the end of each. Nothing is read while an alarm blocks the peer,
nor while it does not take the answers to what it asked, or too many of them wait for a commit.
When the connection ends, for whatever reason, the session lets go of all it held; a fault in it
ends no other connection.

Called by: server.listener (makes them), server.poller (reads).
"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
import trio

from leveret.broker.amqp.ending import fail
from leveret.broker.amqp.session import Session
from leveret.broker.server.wire import SocketWire, StreamWire, Wire, WireClosed
from leveret.protocol.errors import InternalError

if TYPE_CHECKING:
    from leveret.broker.server.turns import Turns
    from leveret.protocol.content import Buffer

# What one read takes, in octets. It grows while full chunks take less than this time, in seconds:
# large messages come by the half megabyte and share the cost of a turn. It shrinks when they take
# much more, and when their messages find consumers without room: who publishes faster than is
# consumed gets shorter turns, so that acks are heard more often than the queue grows.
FIRST_READ, LEAST_READ, LARGEST_READ = 65536, 16384, 524288
READ_TIME = 0.00025
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
    if is_crowded or seconds > 3 * READ_TIME:
        return max(size // 2, LEAST_READ)
    return min(size * 2, LARGEST_READ) if seconds < READ_TIME else size


class ClientConnection:
    """A session and its wire, however octets come in.

    Args:
      wire: What the octets go through.
      nursery: Where tasks run while there is something to wait for.
    """

    __slots__ = (
        "_has_work",
        "_nursery",
        "_resumed",
        "_scope",
        "_size",
        "_turns",
        "_wire",
        "session",
    )

    def __init__(
        self, wire: Wire, turns: Turns, nursery: trio.Nursery, *, peer: str, is_loopback: bool
    ) -> None:
        self._wire = wire
        self._turns = turns
        self._nursery = nursery
        self._scope: trio.CancelScope | None = None
        self._resumed: trio.Event | None = None
        self._size = FIRST_READ
        self._has_work = False
        turns.look_at_clock()
        self.session = Session(turns.broker, self, peer=peer, is_loopback=is_loopback)

    # Reading

    def _handle(self, chunk: bytes) -> bool:
        """Handle octets in one slice; return False if there is something to wait for first."""
        session, turns = self.session, self._turns
        batch = session.broker.batch
        batch.is_crowded = False
        try:
            self._has_work = not turns.run(session, chunk)
        except Exception as problem:
            self._crash(problem)
        if len(chunk) == self._size:
            self._size = _next_size(self._size, perf_counter() - turns.started, batch.is_crowded)
        return not (
            self._has_work
            or session.is_ended
            or session.is_hung_up
            or (turns.committer is not None and self._waits_for_commit())
            or (session.is_writing and session.outbox.replies > session.outbox_high)
        )

    def _waits_for_commit(self) -> bool:
        return self._must_wait_for_commit() or self._is_owed_much()

    def _must_wait_for_commit(self) -> bool:
        """Whether this peer publishes faster than the store takes it."""
        committer = self._turns.committer
        return committer is not None and committer.is_full and self.session.has_published

    def _is_owed_much(self) -> bool:
        """Whether the answers to this peer that wait for a commit take too much memory."""
        session, committer = self.session, self._turns.committer
        return (
            session.held.octets > session.outbox_high
            and committer is not None
            and not committer.has_failed
        )

    async def _wait_for_commit(self) -> None:
        connection, committer = self.session.connection, self._turns.committer
        assert committer is not None
        connection.is_reading = False
        try:
            await committer.room()
        finally:
            connection.is_reading = True

    async def _settle(self) -> bool:
        """Wait for what keeps us from reading; return False if the connection is at its end."""
        session = self.session
        try:
            if self._has_work:
                await self._go_on()
        except Exception as problem:
            self._crash(problem)
        if session.is_hung_up:
            await trio.sleep(HANG_UP_DELAY)
            return False
        if self._must_wait_for_commit():
            await self._wait_for_commit()  # for one, and then some more is read
        while self._is_owed_much() and not session.is_ended:
            await self._wait_for_commit()
        while session.outbox.replies > session.outbox_high and session.is_writing:
            await self._hold()
        if not session.is_ended:
            return True
        with trio.move_on_after(DRAIN_TIMEOUT):  # for the peer to take what was written
            while session.is_writing:
                await self._hold()
        return False

    async def _go_on(self) -> None:
        """Handle, and carry out, what did not fit into the first slice."""
        turns, session = self._turns, self.session
        outbox, high = session.outbox, session.outbox_high
        is_waiting_still = False  # what it waits for may have come before this began
        while not session.is_ended:
            if session.is_blocked or (outbox.replies > high and session.is_writing):
                await self._hold()
            elif self._is_owed_much():
                await self._wait_for_commit()
                continue
            elif session.is_waiting and is_waiting_still:
                await turns.wait_until_loaded()
            else:
                await turns.caught_up()
                with turns.runnable():
                    await trio.lowlevel.checkpoint()
            if turns.run(session):
                break
            is_waiting_still = session.is_waiting
        self._has_work = False

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

    def unblock(self) -> None:
        """Go on with what waits for the end of an alarm."""
        self._resume()

    # Writing

    def write_now(self, parts: list[Buffer]) -> list[Buffer]:
        """Send what the peer takes without waiting; return the rest."""
        try:
            return self._wire.write_now(parts)
        except WireClosed:
            # who reads sees it too, after the peer's last words; during an alarm nobody reads
            self.session.lose()
            if not self.session.connection.is_reading:
                self.close()
            return []

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
                self.close()

    # The end

    def close(self) -> None:
        """Have the socket closed at once."""
        raise NotImplementedError

    def _crash(self, problem: Exception) -> None:
        """Report a fault of ours and end the connection."""
        session = self.session
        session.broker.events.emit("session.crashed", session=session, error=problem)
        fail(session, 0, InternalError(""))
        session.is_ended = True
        self._has_work = False
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


class SocketConnection(ClientConnection):
    """A plain socket: polled, or attended by a task, never both.

    When the poller finds that there is something else to wait for, a task takes over and hands
    back or ends.
    """

    __slots__ = ("_is_cut", "_is_polled", "_socket")

    def __init__(
        self, wire: SocketWire, turns: Turns, nursery: trio.Nursery, *, peer: str, is_loopback: bool
    ) -> None:
        super().__init__(wire, turns, nursery, peer=peer, is_loopback=is_loopback)
        self._socket = wire
        self._is_polled = False
        self._is_cut = False

    def start(self) -> None:
        """Be read from whenever there is something to read."""
        self._is_polled = True
        self._turns.poller.add(self._socket.descriptor, self)

    def read(self) -> None:
        """Take in what has come; it may have been taken already."""
        try:
            chunk = self._socket.receive_now(self._size)
        except BlockingIOError:
            return
        except WireClosed:
            chunk = b""
        if not chunk:
            self._leave()
            self.end()
        elif not self._handle(chunk) and self._is_polled:
            session = self.session
            if session.is_ended and not (
                self._has_work or session.is_writing or session.is_hung_up
            ):
                self._leave()
                self.end()
            else:
                self._have_attended()

    def _leave(self) -> None:
        self._is_polled = False
        self._turns.poller.remove(self._socket.descriptor)

    def _have_attended(self) -> None:
        """Hand over from the poller to a task."""
        if self._is_polled:
            self._leave()
            self._nursery.start_soon(self._attend)

    async def _attend(self) -> None:
        """Wait for what a poller cannot wait for; then be polled again, or end."""
        goes_on = False
        try:
            with trio.CancelScope() as self._scope:
                goes_on = not self._is_cut and await self._settle()
        finally:
            self._scope = None
            if goes_on and not self._is_cut:
                self.start()
            else:
                self.end()

    def end(self) -> None:
        """Let go of everything and close the socket."""
        self._is_polled = False  # the poller lets go by itself when it stops
        self._forget()
        self._socket.close()

    def close(self) -> None:
        """Have the socket closed as soon as whoever is at work has finished."""
        self._is_cut = True
        if self._scope is not None:
            self._scope.cancel()
        else:
            self._have_attended()


class StreamConnection(ClientConnection):
    """Any other wire, which only a task can read."""

    __slots__ = ("_stream",)

    def __init__(
        self, wire: StreamWire, turns: Turns, nursery: trio.Nursery, *, peer: str, is_loopback: bool
    ) -> None:
        super().__init__(wire, turns, nursery, peer=peer, is_loopback=is_loopback)
        self._stream = wire

    async def serve(self) -> None:
        """Serve until either side ends."""
        try:
            with trio.CancelScope() as self._scope, suppress(WireClosed):
                while not self.session.is_ended:
                    chunk = await self._stream.receive(self._size)
                    if not chunk:
                        break
                    if not self._handle(chunk) and not await self._settle():
                        break
        finally:
            self._scope = None
            self._forget()
            await self._stream.aclose()

    def close(self) -> None:
        """End the task, which closes the wire."""
        if self._scope is not None:
            self._scope.cancel()


class Gone:
    """Stands in for a socket that is closed, so that nothing keeps its connection."""

    def write_now(self, parts: list[Buffer]) -> list[Buffer]:
        """Drop it."""
        return []

    def start_writing(self) -> None:
        """Nothing is left to write."""

    def unblock(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """It is closed."""


GONE = Gone()

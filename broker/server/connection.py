"""Client connections: one task that reads; a second one only while the peer is slow to read.

Law: the task owns the socket, the session decides. A chunk is received, handled in slices, and
what it caused is written at the end of each. When the task ends, for whatever reason, the
session lets go of all it held.

Called by: server.listener.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from leveret.broker.amqp.session import Session
from leveret.broker.server.wire import Wire, WireClosed

if TYPE_CHECKING:
    from leveret.broker.server.turns import Turns

# What one read takes: large enough that a busy peer's messages share the cost of a turn, and
# below the size from which the C library maps each buffer anew.
CHUNK = 65536
# How long a peer that does not read may delay the end of its connection, in seconds.
DRAIN_TIMEOUT = 5
# How long a silent hang-up waits, against guessing passwords (RabbitMQ's figure, in seconds).
HANG_UP_DELAY = 3


class ClientConnection:
    """A socket and its session."""

    __slots__ = ("_nursery", "_turns", "_unblocked", "_wire", "session")

    def __init__(
        self, wire: Wire, turns: Turns, nursery: trio.Nursery, *, peer: str, is_loopback: bool
    ) -> None:
        self._wire = wire
        self._turns = turns
        self._nursery = nursery
        self._unblocked: trio.Event | None = None
        self.session = Session(turns.broker, self, peer=peer, is_loopback=is_loopback)

    async def serve(self) -> None:
        """Serve until either side ends."""
        try:
            await self._read()
            with trio.move_on_after(DRAIN_TIMEOUT):
                while self.session.is_writing:
                    await self._wire.writable()
        except WireClosed:
            pass
        finally:
            self.session.forget()
            self._turns.finish()
            self._wire.close()

    async def _read(self) -> None:
        session, wire, turns = self.session, self._wire, self._turns
        while not session.is_ended:
            chunk = await wire.receive(CHUNK)
            if not chunk:
                return
            session.receive(chunk)
            if not turns.run(session):
                await self._go_on()
            if session.is_hung_up:
                await trio.sleep(HANG_UP_DELAY)
                return

    async def _go_on(self) -> None:
        """Handle what did not fit into the first slice."""
        turns, session = self._turns, self.session
        turns.runnable += 1
        try:
            while True:
                if session.is_blocked:
                    self._unblocked = trio.Event()
                    await self._unblocked.wait()
                else:
                    await trio.lowlevel.checkpoint()
                if turns.run(session) or session.is_ended:
                    return
        finally:
            turns.runnable -= 1

    def write_now(self, parts: list[bytes]) -> list[bytes]:
        """Send what the peer takes without waiting; return the rest."""
        return self._wire.write_now(parts)

    def start_writing(self) -> None:
        """Empty the outbox as the peer reads."""
        self._nursery.start_soon(self._write)

    async def _write(self) -> None:
        session, wire = self.session, self._wire
        outbox = session.outbox
        try:
            while outbox.parts:
                await wire.writable()
                outbox.put_back(wire.write_now(outbox.take()))
                session.written()
                self._turns.finish()
        except WireClosed:
            outbox.take()
        finally:
            session.is_writing = False

    def unblock(self) -> None:
        """Go on with what waits for the end of an alarm."""
        if self._unblocked is not None:
            self._unblocked.set()

    def close(self) -> None:
        """Close the socket; the reading task ends by it."""
        self._wire.close()

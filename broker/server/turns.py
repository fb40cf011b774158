"""Turns: one slice of work at a time, and time fairly divided.

Law: nothing here awaits within a slice. A slice handles the commands of one connection as far as
its time goes, then everything it caused is dealt, confirmed and written, as far as as much time
again goes. What is left over goes on after the others had their turn, and a connection that has
caused more than fitted is not read from until it is done.

Called by: server.connection (`run`), what causes something beside it (server.timers,
server.clock, server.alarms, server.disk, server.pager, server.spiller, server.housekeeper),
server.committer, persistence, app.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
import trio

from leveret.broker.amqp.channel import Channel
from leveret.broker.amqp.held import Held
from leveret.broker.amqp.outbox import Outbox
from leveret.broker.amqp.session import Session
from leveret.broker.server.poller import Poller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leveret.broker.core.broker import Broker
    from leveret.broker.server.committer import Committer

# Seconds in which every runnable connection should have had a slice.
ROUND = 0.015
SHORTEST, LONGEST = 0.0002, 0.005

log = structlog.get_logger()


class Turns:
    """Runs slices.

    Attributes:
      started: When the last slice began, in seconds of the performance counter.
      poller: Calls the connections that can be read.
      lookers: Called at the end of each slice: whoever carries on what it has caused.
      committer: What publishers wait for when it has too much to do; None without a store.
    """

    def __init__(self, broker: Broker, clock: Callable[[], int]) -> None:
        self.broker = broker
        self.poller = Poller()
        self.lookers: list[Callable[[], None]] = []
        self.committer: Committer | None = None
        self.started = 0.0
        self._clock = clock
        self._runnable = 0
        self._slice = LONGEST
        self._deadline = 0.0
        self._outbox = Outbox()
        self._held = Held()
        self._high = broker.limits.outbox_high
        self._more = trio.Event()
        self._caught_up = trio.Event()
        self._loaded = trio.Event()
        broker.batch.failed = self._failed

    @contextmanager
    def runnable(self) -> Iterator[None]:
        """Count one more connection with work left over: they share the round."""
        self._count_runnable(1)
        try:
            yield
        finally:
            self._count_runnable(-1)

    def _count_runnable(self, difference: int) -> None:
        self._runnable += difference
        self._slice = min(max(ROUND / (self._runnable + 1), SHORTEST), LONGEST)

    def _is_over(self) -> bool:
        return perf_counter() > self._deadline

    def _must_stop(self) -> bool:
        # What one chunk asks for (basic.get) may be far more than its peer has room for.
        high = self._high
        return (
            perf_counter() > self._deadline
            or self._outbox.replies > high
            or self._held.octets > high
        )

    def _start(self) -> None:
        self.started = perf_counter()
        self._deadline = self.started + self._slice

    def look_at_clock(self) -> None:
        """Set the broker's time: nobody else does while nothing happens."""
        self.broker.now = self._clock()

    def run(self, session: Session, chunk: bytes = b"") -> bool:
        """Give a session a slice, with what came in for it.

        Returns:
          False if it, or what it caused, has work left.
        """
        self.broker.now = self._clock()
        self._outbox, self._held = session.outbox, session.held
        self._start()
        if chunk:
            session.receive(chunk)
        is_done = session.run(self._must_stop)
        self._deadline += self._slice
        return self._finish() and is_done

    def run_timers(self) -> bool:
        """Give a slice to what is due.

        Returns:
          False if there was no time for all that is due.
        """
        self.broker.now = self._clock()
        self._start()
        is_done = self.broker.timers.run_due(self.broker.now, self._is_over)
        self._deadline += self._slice
        self._finish()
        _look_at_young()
        return is_done

    def finish(self) -> bool:
        """Carry out what was caused; return False if there was no time for all of it."""
        self._start()
        return self._finish()

    def _finish(self) -> bool:
        batch = self.broker.batch
        is_done = batch.finish(self._is_over)
        if self._has_more():
            self._more.set()
        for look in self.lookers:
            look()
        return is_done

    def _has_more(self) -> bool:
        batch = self.broker.batch
        return bool(
            batch.is_behind or batch.touched or batch.flushing or batch.returns or batch.debris
        )

    def loaded(self) -> None:
        """Go on with what waited for messages that have been read."""
        self._wake()
        self.finish()

    def _wake(self) -> None:
        self._loaded.set()
        self._loaded = trio.Event()

    async def wait_until_loaded(self) -> None:
        """Wait until messages have been read, or have come back."""
        await self._loaded.wait()

    async def caught_up(self) -> None:
        """Wait until everything that was caused before has been carried out."""
        while self.broker.batch.is_behind:
            await self._caught_up.wait()

    async def go_on(self) -> None:
        """Carry out what did not fit into a slice, one slice at a time, for ever."""
        batch = self.broker.batch
        while True:
            await self._more.wait()
            self.broker.now = self._clock()
            self._start()
            left = len(batch.unfinished) + len(batch.returns)
            batch.resume(self._is_over)
            for look in self.lookers:
                look()
            _look_at_young()
            if len(batch.unfinished) + len(batch.returns) < left:
                self._wake()
            if not batch.is_behind:
                self._caught_up.set()
                self._caught_up = trio.Event()
                if not self._has_more():
                    self._more = trio.Event()
            await trio.lowlevel.checkpoint()

    def _failed(self, who: object, problem: Exception) -> None:
        """End the connection at fault; a queue's fault ends none."""
        log.error("slice.failed", where=repr(who), exc_info=problem)
        session = who.session if isinstance(who, Channel) else who
        if isinstance(session, Session):
            session.abort("internal error")


def _look_at_young() -> None:
    """Collect the youngest objects, before they are so many that it takes long.

    By itself that is done when there are some thousand objects more than before. Where messages
    make place for others, as when very many die at once, there never are: a million young ones
    would be looked at in one go some day.
    """
    gc.collect(0)

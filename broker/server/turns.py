"""Turns: one slice of work at a time, and time fairly divided.

Law: nothing here awaits within a slice. A slice handles the commands of one connection as far as
its time goes, then everything it caused is dealt, confirmed and written. What is left over goes
on after the others had their turn.

Called by: server.connection, server.timers.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.amqp.session import Session
    from leveret.broker.core.broker import Broker

# Seconds in which every runnable connection should have had a slice.
ROUND = 0.015
SHORTEST, LONGEST = 0.0002, 0.005

log = structlog.get_logger()


class Turns:
    """Runs slices.

    Attributes:
      runnable: Connections with work left over; they share the round.
    """

    def __init__(self, broker: Broker, clock: Callable[[], int]) -> None:
        self.broker = broker
        self.runnable = 0
        self._clock = clock
        self._deadline = 0.0
        self._more = trio.Event()

    def _out_of_time(self) -> bool:
        return perf_counter() > self._deadline

    def run(self, session: Session) -> bool:
        """Give a session a slice; return False if it has work left."""
        self.broker.now = self._clock()
        share = ROUND / (self.runnable + 1)
        self._deadline = perf_counter() + min(max(share, SHORTEST), LONGEST)
        done = session.run(self._out_of_time)
        self.finish()
        return done

    def finish(self) -> None:
        """Carry out what was caused; wake the task that goes on with the rest."""
        batch = self.broker.batch
        try:
            batch.finish()
        except Exception:  # a fault of ours ends no other connection's traffic
            log.exception("slice.failed")
        if batch.touched or batch.flushing:
            self._more.set()

    async def go_on(self) -> None:
        """Deal what did not fit into a slice, one slice at a time, for ever."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            self.broker.now = self._clock()
            self.finish()
            await trio.lowlevel.checkpoint()

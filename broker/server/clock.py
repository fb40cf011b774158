"""The clock: what is due is run when it is due, and jumps of the wall clock are noticed.

Law: time is that of the event loop, so a virtual clock drives it, and what the machine has slept
meanwhile, as the loop's clock stands still then. Where nothing is due, this wakes up once a second
to look at that, and at the wall clock.

Called by: app (sets the clock, starts it).
"""

from __future__ import annotations

from math import floor
from time import clock_gettime, monotonic, time
from typing import TYPE_CHECKING

import trio

try:  # the clock that goes on while the machine sleeps
    from time import CLOCK_BOOTTIME as LASTING
except ImportError:  # there is none but on Linux
    from time import CLOCK_MONOTONIC as LASTING

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.core.broker import Broker
    from leveret.broker.server.turns import Turns

TICK = 1.0  # seconds between looks at the wall clock
JUMP_MS = 1000  # differences above this are jumps
# Seconds that a wake-up is late on purpose: a sleep may end a rounding error too early.
ROUNDING = 1e-5


def now(broker: Broker) -> int:
    """Return the time in milliseconds: `Broker.now`."""
    return int(trio.current_time() * 1000) + broker.slept


def lasting() -> float:
    """Return the seconds of a clock that never stops and never jumps."""
    return clock_gettime(LASTING)


def asleep() -> int:
    """Return by how many milliseconds the clock that never stops is ahead of the monotonic one."""
    return int((lasting() - monotonic()) * 1000)


def difference() -> int:
    """Return by how many milliseconds the wall clock is ahead of the one that never stops."""
    return int((time() - lasting()) * 1000)


def set_clock(broker: Broker) -> None:
    """Set a broker's time, and what the wall clock shows then."""
    broker.now = now(broker)
    # rounded down: what is due at a time of the wall clock never comes before it
    broker.wall_offset = floor((time() - trio.current_time()) * 1000)


class Clock:
    """Runs the timers of a broker.

    Args:
      turns: Where what is due has its slices.
      ahead: By how much the wall clock is ahead of one that never jumps, in milliseconds.
      asleep: By how much a clock that never stops is ahead of the event loop's.
    """

    def __init__(
        self,
        turns: Turns,
        ahead: Callable[[], int] = difference,
        asleep: Callable[[], int] = asleep,
    ) -> None:
        self._turns = turns
        self._broker = turns.broker
        self._ahead, self._asleep = ahead, asleep
        self._known, self._slept = ahead(), asleep()
        self._pause = trio.CancelScope()
        self._broker.timers.changed = self._set_pause

    async def run(self) -> None:
        """Run what is due, for ever."""
        while True:
            with trio.CancelScope() as self._pause:
                self._pause.deadline = trio.current_time() + TICK
                self._set_pause()
                await trio.sleep_forever()
            self._look_at_sleep()
            self._look_at_wall()
            while not self._turns.run_timers():
                await self._turns.caught_up()
                await trio.lowlevel.checkpoint()

    def _set_pause(self) -> None:
        """Wake up when the next timer is due."""
        when = self._broker.timers.next
        if when is not None:
            seconds = (when - self._broker.slept) / 1000 + ROUNDING
            self._pause.deadline = min(self._pause.deadline, seconds)

    def _look_at_sleep(self) -> None:
        """Go on to what time it is if the machine has slept: all that is due since is late."""
        slept = self._asleep()
        if slept - self._slept > JUMP_MS:
            self._broker.slept += slept - self._slept
            self._broker.events.emit("clock.slept", milliseconds=slept - self._slept)
            self._slept = slept
            self._turns.look_at_clock()

    def _look_at_wall(self) -> None:
        """Take a jump of the wall clock over; small differences are added up until they are one."""
        ahead = self._ahead()
        jump = ahead - self._known
        if abs(jump) > JUMP_MS:
            self._known = ahead
            self._turns.look_at_clock()
            self._broker.wall_offset += jump
            self._broker.events.emit("clock.jumped", difference=jump)

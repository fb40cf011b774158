"""Alarms: when memory runs short, publishers wait and consumers go on.

Law: the alarm rises by what the process has and ends by what its messages are accounted for:
memory that was freed is not always given back. What was not given back when it ended does not
count until it is used again. Between both marks nothing changes, so it does not flap.

Called by: app (starts `watch`).
"""

from __future__ import annotations

import os
import re
from time import perf_counter
from typing import TYPE_CHECKING, cast

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.amqp.session import Session
    from leveret.broker.core.broker import Broker
    from leveret.broker.server.turns import Turns

INTERVAL = 0.25  # seconds between looks at the memory
SHARE = 0.02  # of the time, at most, that looking may take: it adds up all queues
LOW_ON_MEMORY = "low on memory"
TRIM = 64 << 20  # octets that messages have left behind before the C library is asked for them
_OWN = re.compile(rb"^Vm(?:RSS|Swap):\s+(\d+) kB", re.MULTILINE)

log = structlog.get_logger()


class Resident:
    """The memory of this process, swapped out or not, also when no more files can be opened."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> int:
        """Return octets."""
        return sum(map(int, _OWN.findall(os.pread(self._file, 8192, 0)))) * 1024

    def __del__(self) -> None:
        os.close(self._file)


class MemoryAlarm:
    """Blocks publishing above a mark, lets it go on below another.

    Args:
      limit: Octets from which on publishers are blocked.
      resume: The share of the limit below which they go on.
      measure: What the process has, in octets.
    """

    def __init__(
        self, broker: Broker, limit: int, resume: float, measure: Callable[[], int] | None = None
    ) -> None:
        self._broker = broker
        self._limit = limit
        self._low = int(limit * resume)
        self._measure = Resident() if measure is None else measure
        self._base = self._measure()
        self._kept = 0  # what the process has and no message needs, since the last alarm
        self._left = 0  # the same, since memory was last given back

    def look(self) -> None:
        """Raise or end the alarm; give memory back that messages have left."""
        broker, resident = self._broker, self._measure()
        # a message in many queues counts in each, but nothing counts for more than there is
        accounted = min(self._base + broker.memory, resident)
        unused = resident - accounted
        self._kept = min(self._kept, unused)
        if not broker.blocked:
            if resident - self._kept >= self._limit:
                broker.blocked = LOW_ON_MEMORY
                log.warning("alarm.raised", reason=LOW_ON_MEMORY, bytes=resident)
        elif accounted < self._low:
            broker.blocked = ""
            self._kept = unused
            log.warning("alarm.cleared", reason=LOW_ON_MEMORY, bytes=accounted)
            for session in tuple(cast("dict[Session, None]", broker.sessions)):
                session.unblock()
        if unused - self._left > TRIM:
            _give_back()
            self._left = max(self._measure() - accounted, 0)
        self._left = min(self._left, unused)


def _give_back() -> None:
    """Return freed memory to the system, where the C library can."""
    import ctypes  # takes milliseconds that the start need not wait for

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def watch(alarm: MemoryAlarm, turns: Turns) -> None:
    """Look at the memory again and again, for ever."""
    pause = INTERVAL
    while True:
        await trio.sleep(pause)
        start = perf_counter()
        alarm.look()
        turns.finish()
        pause = max(INTERVAL, (perf_counter() - start) / SHARE)

"""Alarms: when memory or disk runs short, publishers wait and consumers go on.

Law: publishers go on when the last alarm has ended; who was told that he is blocked is not told
again (RabbitMQ's rule). The memory alarm rises by what the process has and ends by what its
messages are accounted for: memory that was freed is not always given back. What was not given
back when it ended does not count until it is used again. Between both marks nothing changes, so
it does not flap.

Called by: app (starts `watch`), server.disk (raises and ends the other alarm), server.spiller
(`Resident`).
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
MEMORY, DISK = "memory", "disk"
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


class Alarms:
    """Which resources are short; it blocks publishers as long as there is one."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._short: set[str] = set()

    def is_raised(self, resource: str) -> bool:
        """Return whether a resource is short."""
        return resource in self._short

    def start(self, resource: str, **facts: int) -> None:
        """Raise an alarm.

        Args:
          facts: For the log.
        """
        self._short.add(resource)
        self._tell()
        self.broker.events.emit("alarm.raised", resource=resource, node=self.broker.node)
        log.warning("alarm.raised", reason=f"low on {resource}", **facts)

    def end(self, resource: str, **facts: int) -> None:
        """End an alarm; publishers go on if it was the last."""
        self._short.discard(resource)
        self._tell()
        self.broker.events.emit("alarm.cleared", resource=resource, node=self.broker.node)
        log.warning("alarm.cleared", reason=f"low on {resource}", **facts)
        if not self._short:
            for session in tuple(cast("dict[Session, None]", self.broker.sessions)):
                session.unblock()

    def _tell(self) -> None:
        short = " & ".join(sorted(self._short))  # in RabbitMQ, too, the disk comes first
        self.broker.blocked = f"low on {short}" if short else ""


class MemoryAlarm:
    """Blocks publishing above a mark, lets it go on below another.

    Args:
      limit: Octets from which on publishers are blocked.
      resume: The share of the limit below which they go on.
      measure: What the process has, in octets.
    """

    def __init__(
        self, alarms: Alarms, limit: int, resume: float, measure: Callable[[], int] | None = None
    ) -> None:
        self._alarms = alarms
        self._limit = limit
        self._low = int(limit * resume)
        self._measure = Resident() if measure is None else measure
        self._base = self._measure()
        self._kept = 0  # what the process has and no message needs, since the last alarm
        self._left = 0  # the same, since memory was last given back

    def look(self) -> None:
        """Raise or end the alarm; give memory back that messages have left."""
        alarms, resident = self._alarms, self._measure()
        # a message in many queues counts in each, but nothing counts for more than there is
        accounted = min(self._base + alarms.broker.memory, resident)
        unused = resident - accounted
        self._kept = min(self._kept, unused)
        if not alarms.is_raised(MEMORY):
            if resident - self._kept >= self._limit:
                alarms.start(MEMORY, bytes=resident)
        elif accounted < self._low:
            self._kept = unused
            alarms.end(MEMORY, bytes=accounted)
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

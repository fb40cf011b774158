"""Spiller: what queues have too much of, and no journal has, goes to a scratch file and comes back.

Law: a queue keeps its front and its budget in memory. While the messages of all queues together
take more than half of what the process may have, the budget is a share of a quarter of that, and
a queue that nobody takes from keeps nothing. What is delivered counts, too. It looks at all queues
now and then, in small steps, and takes a fiftieth of the time for it while it finds nothing.

Called by: persistence (starts `write` and `read`), server.turns (`look`).
"""

from __future__ import annotations

from itertools import chain
from sys import getrefcount
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from leveret.broker.core import paging
from leveret.broker.core.chunks import Paged, gaps
from leveret.broker.core.runs import FRONT
from leveret.broker.server.alarms import Resident
from leveret.broker.server.forgetter import Forgetter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from leveret.broker.core.chunks import Asker, Chunk, Slot
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.runs import Runs
    from leveret.broker.server.turns import Turns

    Due = tuple[Queue, Runs, Chunk]  # what is to leave memory, and where it is

PAUSE = 0.1  # seconds between looks
SHORT_PAUSE = 0.02  # after a look that has found something
SHARE = 0.02  # of the time, at most, that looking may take when there is nothing to find
BUSY_SHARE = 0.2  # when there is
AT_ONCE = 200  # queues looked at before others get their turn
STEP = 16 << 20  # octets written at once
# References to a message that is in one queue only. One that is in several does not leave memory
# when it leaves one of them, but is written for each.
ALONE = 2
HINDERED = 10.0  # seconds to wait when a file cannot be written

log = structlog.get_logger()


class Files(Protocol):
    """Where messages are left: scratch files.

    Attributes:
      folder: Where they are.
      asked: Chunks that queues wait for.
    """

    folder: Path
    asked: list[tuple[Asker, Paged]]

    async def write(self, chunks: Sequence[Sequence[Message]]) -> Sequence[Slot]:
        """Write messages; return where they are, chunk by chunk."""

    async def read(self, paged: Paged) -> list[Message]:
        """Return messages that were written."""

    async def tidy(self) -> None:
        """Remove files that nobody needs."""


class Spiller:
    """Writes what should leave memory, reads what is asked for.

    Args:
      limit: Octets of a queue's messages that stay in memory.
      memory: Octets that the process may have.
      measure: What it has; a message in many queues counts in each, but is in memory once.
    """

    def __init__(
        self,
        turns: Turns,
        scratch: Files,
        *,
        limit: int,
        memory: int,
        measure: Callable[[], int] | None = None,
    ) -> None:
        self._turns = turns
        self._scratch = scratch
        self._limit = limit
        self._memory = memory
        self._measure = Resident() if measure is None else measure
        self._forgetter = Forgetter(turns.broker)
        self._in_memory = 0  # octets of all queues when they were looked at last
        self._filled = 0  # queues that had any
        self._asked = trio.Event()

    def look(self) -> None:
        """See at the end of a slice whether anything was asked for."""
        if self._scratch.asked:
            self._asked.set()

    async def read(self) -> None:
        """Read what is asked for, for ever.

        Raises:
          StoreError: It cannot be read.
        """
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            await self._read_asked()  # what it has read is not held until the next comes

    async def _read_asked(self) -> None:
        turns, scratch = self._turns, self._scratch
        asked, scratch.asked = scratch.asked, []
        for queue, paged in asked:
            if queue.waits_for(paged):
                messages = await scratch.read(paged)
                turns.look_at_clock()
                queue.loaded(paged, messages)
            turns.loaded()  # also if nobody needs it: a get on a deleted queue waits for it

    async def write(self) -> None:
        """Look at all queues again and again, for ever."""
        pause, said = PAUSE, ""
        while True:
            await trio.sleep(pause)
            try:
                await self._scratch.tidy()
                count, seconds = await self.spill()
            except OSError as problem:
                reason = f"{problem.filename or self._scratch.folder}: {problem.strerror}"
                if reason != said:
                    log.warning("scratch.hindered", reason=reason)  # it all stays in memory
                said, pause = reason, HINDERED
            else:
                said = "" if count else said
                shortest, share = (SHORT_PAUSE, BUSY_SHARE) if count else (PAUSE, SHARE)
                pause = max(shortest, seconds / share)

    async def spill(self) -> tuple[int, float]:
        """Look at all queues once.

        Returns:
          How many chunks were written and messages forgotten; the seconds that looking took.

        Raises:
          OSError: A file cannot be written.
        """
        half = self._memory // 2
        is_short = self._in_memory > half and self._measure() > half
        limit = self._limit
        if is_short:
            limit = min(limit, self._memory // 4 // max(self._filled, 1))
        in_memory = filled = 0
        seconds, started = 0.0, perf_counter()
        due: list[Due] = []
        heavy: set[Queue] = set()
        for number, queue in enumerate(self._queues()):
            if number % AT_ONCE == AT_ONCE - 1:
                seconds += perf_counter() - started
                await trio.lowlevel.checkpoint()
                started = perf_counter()
            memory = queue.memory
            in_memory += memory
            filled += memory > 0
            if memory > limit:
                due += self._excess(queue, limit, is_short)
                if queue.unacked_memory > limit:
                    heavy.add(queue)
        seconds += perf_counter() - started
        self._in_memory, self._filled = in_memory, filled
        forgotten, started = self._forgetter.count, perf_counter()
        for _ in self._forgetter.forget(heavy):
            seconds += perf_counter() - started
            await trio.lowlevel.checkpoint()
            started = perf_counter()
        for part in _parts(due):
            await self._write(part)
        return len(due) + self._forgetter.count - forgotten, seconds

    def _excess(self, queue: Queue, limit: int, is_short: bool) -> Iterator[Due]:
        """Leave to the log what it has; return what else should leave memory."""
        front = FRONT if not is_short else int(queue.has_takers)
        paging.page_out(queue, limit, front)
        for runs, chunk in paging.to_spill(queue, limit, front):
            if is_short or getrefcount(chunk.messages[0]) <= ALONE:
                yield queue, runs, chunk

    def _queues(self) -> list[Queue]:
        vhosts = self._turns.broker.vhosts.values()
        return list(chain.from_iterable(vhost.all_queues() for vhost in vhosts))

    async def _write(self, due: list[Due]) -> None:
        """Write chunks, and have their queues let go of those that did not change meanwhile."""
        copies = [(chunk.numbers[:], chunk.messages[:], chunk.octets) for _, _, chunk in due]
        slots = await self._scratch.write([messages for _, messages, _ in copies])
        for (queue, runs, chunk), (at, messages, octets), slot in zip(
            due, copies, slots, strict=True
        ):
            bodies = sum([message.size for message in messages])
            paged = Paged(at[0], at[-1] + 1, len(messages), octets, slot, gaps(at), bodies)
            if runs.spilled(chunk, paged):
                queue.grown(runs)


def _parts(due: list[Due]) -> Iterator[list[Due]]:
    """Return what is to be written at once, one part after the other."""
    part: list[Due] = []
    size = 0
    for each in due:
        part.append(each)
        size += each[2].memory
        if size >= STEP:
            yield part
            part, size = [], 0
    if part:
        yield part

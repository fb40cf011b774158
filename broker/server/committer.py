"""Committer: one commit after another, and who waits for them.

Law: one commit is under way at a time; the next takes all that was caused meanwhile, so they grow
with the load. It begins where a pass of slices ends; only one whose messages have all been
delivered waits a moment for their acks. A commit is closed only when everything caused before
stands in its queues. Nothing is told to anybody before the store says that it is on the disk;
when the store fails, nothing is ever told again.

Called by: persistence (starts `run`, waits at the end), server.turns and server.poller (`look`),
server.connection and server.pager (`room`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.server.turns import Turns
    from leveret.broker.storage.base import Lease, Row, Store

# Seconds that may pass before what nobody waits for is committed: settled messages, publishes
# without confirms. What is published and settled within them is never written.
LAZY = 0.02
# Seconds that a commit waits for acks when all that is in it has been delivered: a consumer who
# keeps up spares the disk both the message and its end. Not worth it are consumers who settle less
# than half of them in that time: after so many attempts it is left alone, and tried now and then.
GRACE = 0.001
ATTEMPTS, REST = 8, 64


class Source(Protocol):
    """What is to be committed: a journal."""

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything to commit."""

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait for a commit."""

    @property
    def waits_for_acks(self) -> bool:
        """Whether acks may spare everything in the next commit the disk."""

    @property
    def count(self) -> int:
        """Messages that wait for a commit."""

    @property
    def cancelled(self) -> int:
        """Messages that were spared it, ever."""

    def close(self) -> Sequence[Row]:
        """Return what is to be committed now."""

    def done(self, limit: int) -> None:
        """What was closed is on the disk: leave it to the store where a queue has too much."""


class Committer:
    """Commits what a journal has, and tells the batch.

    Args:
      limit: Octets of a queue's messages that stay in memory when they are in the store.
    """

    def __init__(
        self, turns: Turns, journal: Source, store: Store, lease: Lease, limit: int
    ) -> None:
        self._turns = turns
        self._batch = turns.broker.batch
        self._journal = journal
        self._store = store
        self._lease = lease
        self._limit = limit
        self._is_busy = False
        self._number = 0  # of the commit that is under way
        self._problem: BaseException | None = None
        self._attempt: tuple[int, int] | None = None  # cancelled, and waiting, when grace began
        self._failures = 0  # attempts without success in a row, and commits since
        self._pause = trio.CancelScope()
        self._dirty = trio.Event()
        self._urgent = trio.Event()
        self._rooms = trio.lowlevel.ParkingLot()

    @property
    def has_failed(self) -> bool:
        """Whether nothing is committed any more."""
        return self._problem is not None

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait for a commit; not for one that cannot come."""
        return self._journal.is_full and not self.has_failed

    async def room(self) -> None:
        """Wait until a commit is done, or cannot be."""
        if self.has_failed:
            await trio.lowlevel.checkpoint()
            return
        self._dirty.set()
        self._urgent.set()
        await self._rooms.park()

    def look(self) -> None:
        """See at the end of a slice, and of a pass of slices, whether there is something to do."""
        batch = self._batch
        if batch.wanted >= batch.commit or self._journal.is_full:
            self._want()
        elif self._journal.is_dirty:
            self._dirty.set()

    def _want(self) -> None:
        """Begin a commit at once, unless whoever is at work now will look again."""
        if self._is_busy or self.has_failed or self._turns.poller.is_passing:
            return
        if self._batch.is_behind:
            self._dirty.set()
            self._urgent.set()
        elif self._journal.waits_for_acks and self._failures < ATTEMPTS:
            if self._attempt is None:
                self._attempt = self._journal.cancelled, self._journal.count
                self._dirty.set()
                self._pause.deadline = min(self._pause.deadline, trio.current_time() + GRACE)
        else:
            self._begin()

    def _judge(self) -> None:
        """See whether the grace of the last commit was of use."""
        if self._attempt is not None:
            (cancelled, count), self._attempt = self._attempt, None
            is_worth_it = 2 * (self._journal.cancelled - cancelled) >= count
            self._failures = 0 if is_worth_it else self._failures + 1
        elif self._failures >= ATTEMPTS:
            self._failures += 1
            if self._failures > ATTEMPTS + REST:
                self._failures = ATTEMPTS - 1

    async def run(self) -> None:
        """Commit what nobody waits for, and what had to be caught up with, for ever.

        Raises:
          StoreError: It is not known whether the last commit is on the disk.
        """
        while True:
            await self._dirty.wait()
            if not self._urgent.is_set():
                seconds = LAZY if self._attempt is None else GRACE
                with trio.move_on_after(seconds) as self._pause:
                    await self._urgent.wait()
            await self._turns.caught_up()
            if self._problem is not None:
                raise self._problem
            is_wanted = self._batch.wanted >= self._batch.commit
            is_due = is_wanted or self._urgent.is_set() or self._journal.is_dirty
            self._dirty, self._urgent = trio.Event(), trio.Event()
            if is_due and not self._is_busy:
                self._begin()

    async def commit(self) -> None:
        """Commit all that was caused so far, before `run` is.

        Raises:
          StoreError: It is not known whether it is on the disk.
        """
        await self._turns.caught_up()
        self._begin()
        if self._is_busy:
            await self._rooms.park()
        if self._problem is not None:
            raise self._problem

    def _begin(self) -> None:
        """Close what was caused so far, and hand it to the store."""
        self._judge()
        self._is_busy = True
        self._number = self._batch.commit
        self._batch.commit += 1
        try:
            rows = self._journal.close()
            if rows:
                self._store.begin([(self._lease, row) for row in rows], self._ended)
                return
        except Exception as problem:
            self._fail(problem)
        else:
            self._ended(None)

    def _ended(self, problem: BaseException | None) -> None:
        """Tell those who waited; begin the next commit if there is one."""
        self._is_busy = False
        if problem is not None:
            self._fail(problem)
            return
        try:
            self._batch.done(self._number)
            self._journal.done(self._limit)
            self._rooms.unpark_all()
            self._turns.finish()
        except Exception as fault:  # the event loop that calls this would not survive it
            self._fail(fault)

    def _fail(self, problem: BaseException) -> None:
        self._is_busy = False
        self._problem = problem
        self._dirty.set()
        self._urgent.set()
        self._rooms.unpark_all()

"""Committer: one commit after another, and who waits for them.

Law: one commit is under way at a time; the next takes all that was caused meanwhile, so they grow
with the load, without a timer. A commit is closed only when everything caused before stands in
its queues. Nothing is told to anybody before the store says that it is on the disk; when the
store fails, nothing is ever told again.

Called by: app (starts `run`), server.turns (`look`), server.connection (`room`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from leveret.broker.storage.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.server.turns import Turns
    from leveret.broker.storage.base import Lease, Row, Store

# Seconds that may pass before what nobody waits for is committed: settled messages, publishes
# without confirms. What is published and settled within them is never written.
LAZY = 0.02


class Source(Protocol):
    """What is to be committed: a journal."""

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything to commit."""

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait for a commit."""

    def close(self) -> Sequence[Row]:
        """Return what is to be committed now."""

    def done(self, limit: int) -> None:
        """What was closed is on the disk: leave it to the store where a queue has too much."""


class Committer:
    """Commits what a journal has, and tells the batch.

    Args:
      limit: Octets of a queue's messages that stay in memory when they are in the store.

    Attributes:
      has_failed: Whether the store has failed.
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
        self.has_failed = False
        self._dirty = trio.Event()
        self._urgent = trio.Event()
        self._committed = trio.Event()

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait for a commit; not for one that cannot come."""
        return self._journal.is_full and not self.has_failed

    async def room(self) -> None:
        """Wait until a commit is done, or cannot be."""
        self._dirty.set()
        self._urgent.set()
        await self._committed.wait()

    def look(self) -> None:
        """See at the end of a slice whether there is something to do."""
        batch = self._batch
        if batch.wanted >= batch.commit or self._journal.is_full:
            self._dirty.set()
            self._urgent.set()
        elif self._journal.is_dirty:
            self._dirty.set()

    async def run(self) -> None:
        """Commit whenever there is something, for ever.

        Raises:
          StoreFailed: It is not known whether the last commit is on the disk.
        """
        while True:
            await self._dirty.wait()
            if not self._urgent.is_set():
                with trio.move_on_after(LAZY):
                    await self._urgent.wait()
            await self.commit()

    async def commit(self) -> None:
        """Commit all that was caused so far."""
        batch = self._batch
        await self._turns.caught_up()
        rows = self._journal.close()
        number = batch.commit
        batch.commit += 1
        if rows:
            try:
                await self._store.commit([(self._lease, row) for row in rows])
            except StoreError:
                self.has_failed = True
                self._committed.set()
                raise
        batch.done(number)
        self._journal.done(self._limit)
        self._committed.set()
        self._committed = trio.Event()
        self._dirty, self._urgent = trio.Event(), trio.Event()
        self._turns.finish()
        self.look()

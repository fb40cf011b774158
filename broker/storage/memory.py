"""MemoryStore: rows and definitions in memory, and faults on demand.

Law: it keeps what the interface promises, but for the loss of power: `close` and `open` stand for
a restart. A commit takes effect when it is let through, in the order of the calls; nothing is
ever half there.

Called by: tests.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import trio

from leveret.broker.storage.base import CHANGED, Damaged, Fenced, Lease, StoreError, StoreFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from leveret.broker.storage.base import Ended, Ref, Row

STEP_ROWS: Final = 1000


class Commit(NamedTuple):
    """A commit that is under way: what is in it, and whom to tell how it ended."""

    rows: Sequence[tuple[Lease, Row]]
    ended: Ended


class MemoryStore:
    """A store for tests, which decide when a commit returns and how it ends.

    Attributes:
      rows: Index and body of each row.
      sums: The checksums of bodies when they were written.
      definitions: By kind and key, in the order they were first kept.
      commits: How many have been let through.
      notes: What was strange when it was opened: nothing.
    """

    def __init__(self) -> None:
        self.rows: dict[int, tuple[bytes, bytes]] = {}
        self.sums: dict[int, int] = {}
        self.definitions: dict[tuple[str, bytes], bytes] = {}
        self.commits = 0
        self.notes: list[str] = []
        self._epochs: dict[int, int] = {}
        self._leases: dict[int, tuple[str, Lease]] = {}
        self._waiting: deque[Commit] = deque()
        self._is_holding = False
        self._faults: dict[int, bool] = {}  # number of the commit -> whether it takes effect
        self._failure = ""
        self._is_open = False

    def fail(self, nth: int = 1, *, after: bool = False) -> None:
        """Let the nth commit from now on fail.

        Args:
          nth: Which one; 1 is the next that is let through.
          after: Whether it takes effect all the same.
        """
        self._faults[self.commits + nth] = after

    def hold(self) -> None:
        """Let no commit through until `let_through`."""
        self._is_holding = True

    @property
    def held(self) -> list[list[Row]]:
        """The rows of each commit that is under way."""
        return [[row for _, row in commit.rows] for commit in self._waiting]

    def let_through(self, count: int | None = None) -> None:
        """Let commits through that are held; without a number all, and hold no more."""
        if count is None:
            self._is_holding = False
            count = len(self._waiting)
        for _ in range(count):
            self._carry_out(self._waiting.popleft())

    async def open(self) -> None:
        """Make the store usable."""
        await trio.lowlevel.checkpoint()
        self._failure = ""
        self._is_open = True

    async def close(self) -> None:
        """Let go of everything; what was committed stays, what is held fails."""
        self._is_open = False
        self._leases.clear()
        self._failure = "the store is closed"
        while self._waiting:
            self._carry_out(self._waiting.popleft())
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def acquire(self, shard: int, node: str, seconds: float) -> Lease | None:
        """Become the owner, under a new epoch; None while another node is."""
        await self._checkpoint()
        assert shard == 0, "rows of shards are not told apart here"
        if shard in self._leases and self._leases[shard][0] != node:
            return None
        self._epochs[shard] = self._epochs.get(shard, 0) + 1
        lease = Lease(shard, self._epochs[shard], math.inf)
        self._leases[shard] = node, lease
        return lease

    async def renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[Lease]:
        """Return those that are still held; none ends by itself."""
        await trio.lowlevel.checkpoint()
        return [lease for lease in leases if self._holds(lease)]

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        await self._checkpoint()
        if self._holds(lease):
            del self._leases[lease.shard]

    def begin(self, rows: Sequence[tuple[Lease, Row]], ended: Ended) -> None:
        """Keep rows, all or none of them, when the commit is let through; then call `ended`."""
        self._waiting.append(Commit(rows, ended))
        if not self._is_holding:
            trio.lowlevel.current_trio_token().run_sync_soon(self._go_on)

    def _go_on(self) -> None:
        if self._waiting and not self._is_holding:  # those before it first
            self._carry_out(self._waiting.popleft())

    async def committed(self, lease: Lease, seq: int) -> bool:
        """Return whether a row is there.

        Raises:
          StoreFailed: A commit has failed, and the store was not opened again.
        """
        await self._checkpoint()
        if self._failure:
            raise StoreFailed(self._failure)
        return seq in self.rows

    async def recover(self, lease: Lease) -> AsyncGenerator[Sequence[tuple[int, bytes]], None]:
        """Return number and index of all rows, ascending, some at a time."""
        await self._checkpoint()
        rows = [(seq, index) for seq, (index, _) in sorted(self.rows.items())]
        for start in range(0, len(rows), STEP_ROWS):
            yield rows[start : start + STEP_ROWS]

    async def body_sizes(self, lease: Lease, first: int, last: int) -> Sequence[int]:
        """Return how long the bodies of rows are, in their order."""
        await self._checkpoint()
        return [len(body) for seq, (_, body) in sorted(self.rows.items()) if first <= seq <= last]

    async def read(self, lease: Lease, refs: Sequence[Ref]) -> list[bytes]:
        """Return octets of bodies, in the order asked for.

        Raises:
          StoreError: They are not there.
          Damaged: A body is not what was written.
        """
        await self._checkpoint()
        found = []
        for seq, offset, length in refs:
            if seq not in self.rows:
                raise StoreError(f"row {seq} is not there")
            body = self.rows[seq][1]
            if crc32(body) != self.sums[seq]:
                raise Damaged(f"row {seq}: {CHANGED}")
            octets = body[offset : offset + length]
            if len(octets) != length:
                raise StoreError(f"row {seq} is shorter than it should be")
            found.append(octets)
        return found

    async def load_definitions(self) -> Sequence[tuple[str, bytes, bytes]]:
        """Return kind, key and value of all definitions, in the order they were first kept."""
        await self._checkpoint()
        return [(kind, key, value) for (kind, key), value in self.definitions.items()]

    async def maintain(self, seconds: float) -> bool:
        """Do nothing: what is free is free."""
        await self._checkpoint()
        return False

    async def _checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._is_open:
            raise StoreError("the store is closed")

    def _holds(self, lease: Lease) -> bool:
        held = self._leases.get(lease.shard)
        return held is not None and held[1].epoch == lease.epoch

    def _carry_out(self, commit: Commit) -> None:
        commit.ended(self._keep(commit))

    def _keep(self, commit: Commit) -> StoreError | None:
        if self._failure or not self._is_open:
            return StoreFailed(self._failure or "the store is closed")
        for lease, _ in commit.rows:
            if not self._holds(lease):
                return Fenced(f"epoch {lease.epoch} is over")
        self.commits += 1
        rows = [row for _, row in commit.rows]
        numbers = [row.seq for row in rows]
        takes_effect = self._faults.pop(self.commits, None)
        if len({*numbers}) < len(numbers) or any(seq in self.rows for seq in numbers):
            takes_effect = False
        if takes_effect is not False:
            self._apply(rows)
        if takes_effect is None:
            return None
        self._failure = f"the commit of rows {numbers} failed"
        return StoreFailed(self._failure)

    def _apply(self, rows: Sequence[Row]) -> None:
        for row in rows:
            body = row.body
            self.rows[row.seq], self.sums[row.seq] = (row.index, body), crc32(body)
            for seq in row.delete:
                self.rows.pop(seq, None)
                self.sums.pop(seq, None)
            for seq, index in row.replace:
                if seq in self.rows:
                    self.rows[seq], self.sums[seq] = (index, b""), 0
            for kind, key, value in row.definitions:
                if value is None:
                    self.definitions.pop((kind, key), None)
                else:
                    self.definitions[kind, key] = value

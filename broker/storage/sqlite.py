"""SQLiteStore: rows and definitions in an SQLite database of one's own, in a folder.

Law: no call of SQLite is made in the event loop's thread. One thread writes and one reads, each
with a connection of its own. The common commit is one call of SQLite, any other a few, however
much is in it.

Called by: app (opens it), server.committer, storage.journal through base.Store.
"""

from __future__ import annotations

import math
import os
import sqlite3
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

import trio

from leveret.broker.storage.base import Damaged, Fenced, Lease, StoreError, StoreFailed
from leveret.broker.storage.bodies import Bodies
from leveret.broker.storage.database import (
    ADD,
    FILE,
    LEAST_OCTETS,
    copy,
    define,
    finish_repair,
    number,
    open_database,
    refuse_link,
    replace,
    shortage,
    to_add,
)
from leveret.broker.storage.lock import promise, promised, take_lock
from leveret.broker.storage.row_reader import RowReader
from leveret.broker.storage.wal import Wal, absence, size_of
from leveret.broker.storage.wal_check import look_at_log
from leveret.broker.storage.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from leveret.broker.storage.base import Ended, Ref, Row

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

STEP_PAGES: Final = 32  # given back at once: commits wait for it
KEPT_PAGES = 2048  # free pages that are left for what comes next

ACQUIRE: Final = """
INSERT INTO shard VALUES(?, ?, 1)
ON CONFLICT(id) DO UPDATE SET owner = excluded.owner, epoch = epoch + 1 RETURNING epoch
"""


def _error(problem: sqlite3.Error) -> type[StoreError]:
    """Return what to raise for an error of SQLite's."""
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    return Damaged if code == sqlite3.SQLITE_CORRUPT else StoreError


def _always() -> bool:
    return True


class SQLiteStore:
    """A store in a folder of the file system, for one process at a time.

    Args:
      make_room: Called in a thread when the folder is ours and before anything is written; raises
        OSError if it cannot be used.

    Attributes:
      folder: Where it is; made if there is none.
      file: The database.
      log: The log beside it.
      notes: What was strange when it was opened, and no damage.
    """

    def __init__(self, folder: Path, make_room: Callable[[], object] | None = None) -> None:
        self.folder = folder
        self.file = folder / FILE
        self.log = Wal(self.file)
        self.notes: list[str] = []
        self._make_room = make_room
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._copying = trio.Lock()  # a copy is made in the writer's thread, in steps
        # From here on only their threads touch these.
        self._lock: int | None = None
        self._bodies = Bodies(self.file)
        self._will_tidy = False
        self._connection: sqlite3.Connection | None = None
        self._rows: RowReader | None = None
        self._leases: dict[int, tuple[str, Lease]] = {}
        self._failure = ""

    async def open(self) -> None:
        """Make the store usable, creating it if there is none."""
        assert self._writer is None
        self._failure = ""
        self.notes.clear()
        self._writer, self._reader = Worker("store writer"), Worker("store reader")
        try:
            await self._writer.run(self._open_writer)
            await self._reader.run(self._open_reader)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go of everything; what was committed stays."""
        with trio.CancelScope(shield=True):
            async with self._copying:
                if self._writer is None or self._reader is None:
                    return
                writer, reader = self._writer, self._reader
                self._writer = self._reader = None
                await reader.run(self._close_reader)
                await writer.run(self._close_writer)  # the last one: it tidies up
                reader.close()
                writer.close()

    async def acquire(self, shard: int, node: str, seconds: float) -> Lease | None:
        """Become the owner; the lock on the folder keeps everybody else away, for ever."""
        return await self._write(self._acquire, shard, node)

    async def renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[Lease]:
        """Return those that are still held; none ends by itself."""
        await trio.lowlevel.checkpoint()
        return [lease for lease in leases if self._holds(lease)]

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        await self._write(self._release, lease)

    def begin(self, rows: Sequence[tuple[Lease, Row]], ended: Ended) -> None:
        """Begin to make rows durable, all or none of them; then call `ended`."""
        if self._writer is None:
            raise StoreFailed(f"{self.file} is closed")
        self._writer.begin(ended, self._commit, rows)

    async def committed(self, lease: Lease, seq: int) -> bool:
        """Return whether a row is there.

        Raises:
          StoreFailed: A commit has failed: it may come to light at the next start, or not.
        """
        return await self._write(self._committed, seq)

    async def recover(self, lease: Lease) -> AsyncGenerator[Sequence[tuple[int, bytes]], None]:
        """Return number and index of all rows, ascending, about a megabyte at a time."""
        rows = await self._read(RowReader.indexes_after, -1 << 63)
        while rows:
            yield rows
            rows = await self._read(RowReader.indexes_after, rows[-1][0])

    async def body_sizes(self, lease: Lease, first: int, last: int) -> Sequence[int]:
        """Return how long the bodies of rows are, in their order."""
        return await self._read(RowReader.body_sizes, first, last)

    async def read(self, lease: Lease, refs: Sequence[Ref]) -> list[bytes]:
        """Return octets of bodies, in the order asked for."""
        return await self._read(RowReader.bodies, refs)

    async def load_definitions(self) -> Sequence[tuple[str, bytes, bytes]]:
        """Return kind, key and value of all definitions, in the order they were first kept."""
        return await self._read(RowReader.definitions)

    async def maintain(self, seconds: float) -> bool:
        """Give free pages back to the file system in small steps.

        Commits come in between, but each waits for a step: this is for when little happens.
        """
        until = monotonic() + seconds
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            if not await self._write(self._shrink):
                return False
            if monotonic() >= until:
                return True

    async def backup(self, file: Path, is_wanted: Callable[[], bool] = _always) -> None:
        """Copy what is committed by now, and maybe what comes meanwhile; commits go on.

        Args:
          file: Where to; what is there already is left alone.
          is_wanted: Called in a thread, again and again: whether to go on.

        Raises:
          StoreError: It could not be made; nothing is left of it.
        """
        async with self._copying:
            await self._write(self._back_up, file, is_wanted)

    async def _write(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        if self._writer is None:
            raise StoreError(f"{self.file} is closed")
        return await self._writer.run(self._translated, function, *arguments)

    async def _read(
        self, function: Callable[[RowReader, *Arguments], T], *arguments: *Arguments
    ) -> T:
        if self._reader is None or self._rows is None:
            raise StoreError(f"{self.file} is closed")
        await trio.lowlevel.checkpoint_if_cancelled()  # not for writing: that is done or it fails
        return await self._reader.run(self._translated, function, self._rows, *arguments)

    # The rest runs in the threads.

    def _translated(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        try:
            return function(*arguments)
        except sqlite3.Error as problem:
            raise _error(problem)(f"{self.file}: {problem}") from problem

    def _open_writer(self) -> None:
        self._lock = take_lock(self.folder)
        try:
            if self._make_room is not None:
                self._make_room()
            refuse_link(self.file)
            finish_repair(self.file)
            self._look_at_log()
            try:
                if promised(self.folder):
                    promise(self.folder, 0)
                self._connection = open_database(self.file, self.notes)
                # Pages that a statement keeps aside: clients may have taken all descriptors.
                self._connection.execute("PRAGMA temp_store = MEMORY")
            except BaseException:
                self._promise_what_is_left()
                raise
            self.log.open()
            self._bodies.open(self._connection)
        except sqlite3.Error as problem:
            raise _error(problem)(f"{self.file} cannot be used: {problem}") from problem
        except OSError as problem:
            raise StoreError(f"{self.file} cannot be used: {problem.strerror}") from problem

    def _look_at_log(self) -> None:
        """See that all is there: once SQLite has opened a store, nothing can be seen of that."""
        if size_of(self.file) < LEAST_OCTETS:
            if promised(self.folder) is not None or size_of(self.log.file):
                text = f"put it back, or remove {self.folder} to begin with nothing"
                raise StoreError(f"{self.file} is {absence(self.file)}, but was not: {text}")
            return
        state = look_at_log(self.file)
        if problem := state.problem or (not state.taken and shortage(self.file)):
            raise Damaged(problem)
        if state.cut_short:
            text = f"a commit that had not come to its end is left out ({state.cut_short} pages)"
            self.notes.append(f"{self.log.file}: {text}")

    def _promise_what_is_left(self) -> None:
        """Say how long the log is, if SQLite could not empty it."""
        with suppress(OSError):
            if self.log.size:
                promise(self.folder, self.log.size)

    def _open_reader(self) -> None:
        try:
            self._rows = RowReader(self.file)
        except sqlite3.Error as problem:
            raise _error(problem)(f"{self.file} cannot be used: {problem}") from problem
        except OSError as problem:
            raise StoreError(f"{self.file} cannot be used: {problem.strerror}") from problem

    def _close_reader(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def _close_writer(self) -> None:
        if self._connection is not None:
            with suppress(OSError):  # what could not be tidied up is found by the next start
                promise(self.folder, 0)
            with suppress(sqlite3.Error):
                self._connection.close()
            self._promise_what_is_left()
            self._connection = None
        self._bodies.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._leases.clear()

    def _holds(self, lease: Lease) -> bool:
        held = self._leases.get(lease.shard)
        return held is not None and held[1].epoch == lease.epoch

    def _acquire(self, shard: int, node: str) -> Lease | None:
        assert shard == 0, "rows of shards are not told apart here"
        if self._failure:
            raise StoreFailed(self._failure)
        assert self._connection is not None
        if shard in self._leases and self._leases[shard][0] != node:
            return None
        lease = Lease(shard, number(self._connection, ACQUIRE, (shard, node)), math.inf)
        self._leases[shard] = node, lease
        self.log.grow()
        return lease

    def _release(self, lease: Lease) -> None:
        if self._holds(lease):
            del self._leases[lease.shard]

    def _commit(self, rows: Sequence[tuple[Lease, Row]]) -> None:
        if self._failure:
            raise StoreFailed(self._failure)
        assert self._connection is not None
        for lease, _ in rows:
            if not self._holds(lease):
                raise Fenced(f"{self.file}: epoch {lease.epoch} is over")
        execute = self._connection.execute
        try:
            self._write_rows(execute, [row for _, row in rows])
        except Exception as problem:  # whatever it is, something is not as it should be
            self._failure = f"{self.file}: {problem}"
            with suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise StoreFailed(self._failure) from problem
        for _, row in rows:
            self._bodies.free([*row.delete, *(seq for seq, _ in row.replace)])
        self._tidy_later()

    def _write_rows(self, execute: Callable[..., object], rows: Sequence[Row]) -> None:
        """Write rows, all or none; their bodies are on the disk before the commit begins."""
        if len(rows) == 1 and not (rows[0].replace or rows[0].definitions):
            values = to_add(rows[0], self._bodies)
            self._bodies.sync()
            execute(ADD, values)
        elif rows:
            execute("BEGIN IMMEDIATE")
            for row in rows:
                execute(ADD, to_add(row, self._bodies))
                if row.replace:
                    replace(execute, row.replace)
            define(execute, [one for row in rows for one in row.definitions])
            self._bodies.sync()
            execute("COMMIT")

    def _tidy_later(self) -> None:
        """Have `_tidy` called behind what waits by now, once: the next commit waits for it."""
        writer = self._writer  # none while the store is being closed
        if writer is not None and not self._will_tidy:
            self._will_tidy = True
            writer.post(self._tidy)

    def _tidy(self) -> None:
        """Do what nobody has to wait for after a commit."""
        self._will_tidy = False
        if self._connection is None:  # closed meanwhile
            return
        self.log.grow()
        if self._bodies.tidy():
            self._tidy_later()

    def _committed(self, seq: int) -> bool:
        if self._failure:
            raise StoreFailed(self._failure)
        assert self._connection is not None
        found = self._connection.execute("SELECT 1 FROM batch WHERE seq = ?", (seq,)).fetchone()
        return found is not None

    def _shrink(self) -> bool:
        """Give back some of what is dead; return whether there may be more."""
        if self._failure:
            return False
        assert self._connection is not None
        if self._bodies.give_back():
            return True
        free = number(self._connection, "PRAGMA freelist_count") - KEPT_PAGES
        if free <= 0:
            self._begin_log_anew()  # the database gets shorter only now
            return False
        # As a script: the cursor of a single statement would do but one page.
        step = f"PRAGMA incremental_vacuum({min(free, STEP_PAGES)})"
        try:
            self._connection.executescript(step)
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            self._begin_log_anew()  # there is room at its front
            self._connection.executescript(step)
        return True

    def _begin_log_anew(self) -> None:
        """Move all into the database; the log keeps its length.

        Nobody is waited for: who reads now will have done so next time.
        """
        assert self._connection is not None
        self._connection.executescript(
            "PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(RESTART); PRAGMA busy_timeout = 5000"
        )

    def _back_up(self, file: Path, is_wanted: Callable[[], bool]) -> None:
        assert self._connection is not None
        assert self._writer is not None
        pending = self._writer.run_pending

        def go_on(*_: int) -> None:
            pending()
            if not is_wanted():
                raise StoreError(f"{file} is not wanted any more")

        if os.path.lexists(file):
            raise StoreError(f"{file} is there already")
        self._bodies.is_held = True
        try:
            copy(self._connection, file, go_on)
        except (OSError, sqlite3.Error) as problem:
            raise StoreError(f"{file} cannot be written: {problem}") from problem
        finally:
            self._bodies.is_held = False

"""Repair: a damaged store made whole by dropping what is damaged.

Law: a copy of all of it is made first. A row that cannot be understood goes as a whole, of any
other only the messages that cannot be read. Where a body is not what was written and it is not
known in which message, all of them stay, and that is said. If SQLite's own pages are damaged, what
can be read is put into a new file, which takes the place of the old one in one step.

Called by: cli (store).
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing, suppress
from itertools import count
from typing import TYPE_CHECKING
from zlib import crc32

from leveret.broker.storage.base import Row, StoreError
from leveret.broker.storage.bodies import files_of
from leveret.broker.storage.database import add, finish_repair, open_database, repaired
from leveret.broker.storage.leaves import Leaves
from leveret.broker.storage.lock import promise, sync
from leveret.broker.storage.records import Enqueued, decode, seal
from leveret.broker.storage.salvage import Octets, definitions, rows
from leveret.broker.storage.segment import LiveRow, Segment
from leveret.broker.storage.tools import (
    STEP_OCTETS,
    Answer,
    connected,
    connected_to_write,
    facts_of,
    inspected,
    locked,
    losses,
)
from leveret.broker.storage.wal import log_of, size_of
from leveret.broker.storage.wal_check import mend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from leveret.broker.core.registry import Registry
    from leveret.broker.storage.findings import Inspection, Problem


def repair(folder: Path, registry: Registry | None = None) -> Answer:
    """Drop what is damaged, and only that, after a copy was made."""
    with locked(folder) as file:
        found = inspected(file, registry)
        if not found.problems:
            return Answer(facts_of(file, found), [f"{file}: nothing is damaged"])
        kept = _keep_copy(file)
        if found.is_log_damaged:
            found = _mend_log(file, found.problems[0], registry)
        if found.is_torn:
            _make_anew(file, found)
        else:
            _mend(file, found)
        after = inspected(file, registry)
    lines = [f"{'kept' if problem.is_kept else 'dropped'}: {problem}" for problem in found.problems]
    lines += losses(found, "are")
    lines += [f"note: {note}" for note in after.notes]
    lines.append(f"as it was before: {kept}")
    lines += [f"still damaged: {problem}" for problem in after.problems]
    state = "still damaged" if after.problems else "repaired"
    lines.append(f"{file}: {state} (rows: {after.rows:,}, messages: {after.messages:,})")
    return Answer(facts_of(file, found), lines, not after.problems)


def _keep_copy(file: Path) -> Path:
    """Copy the files of a database beside it, octet by octet; return the copy."""
    bodies = [path.name.removeprefix(file.name) for path in files_of(file).values()]
    ends = (*bodies, "-wal", "")  # a copy without its log would be an older one
    names = (file.with_name(f"{file.name}.before-repair-{each}") for each in count(1))
    # One that was interrupted has left some of them.
    kept = next(
        name
        for name in names
        if not any(os.path.lexists(name.with_name(name.name + end)) for end in ends)
    )
    made: list[Path] = []
    try:
        for end in ends:
            source = file.with_name(file.name + end)
            if source.exists() and source.stat().st_size:
                made.append(kept.with_name(kept.name + end))
                _copy_octets(source, made[-1])
        sync(file.parent)
    except OSError as problem:
        for one in made:
            one.unlink(missing_ok=True)
        raise StoreError(f"{kept} cannot be written: {problem.strerror}") from None
    return kept


def _copy_octets(source: Path, target: Path) -> None:
    """Copy a file durably to one that is not there; what takes no room takes none in it either."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with source.open("rb", buffering=0) as read, open(descriptor, "wb", buffering=0) as written:
        end = os.fstat(read.fileno()).st_size
        written.truncate(end)
        at = _seek(read.fileno(), 0, os.SEEK_DATA)
        while at < end:
            until = min(_seek(read.fileno(), at, os.SEEK_HOLE), at + STEP_OCTETS)
            octets = os.pread(read.fileno(), until - at, at)
            at += os.pwrite(written.fileno(), octets, at)
            at = _seek(read.fileno(), at, os.SEEK_DATA)
        os.fsync(written.fileno())


def _seek(file: int, at: int, what: int) -> int:
    """Return where the next octets, or the next hole, begin; the end if nothing does."""
    try:
        return os.lseek(file, at, what)
    except OSError as problem:
        if problem.errno != errno.ENXIO:
            raise
        return os.lseek(file, 0, os.SEEK_END)


def _mend_log(file: Path, problem: Problem, registry: Registry | None) -> Inspection:
    """Make a log one that can be read, as far as it is there; return what is damaged then."""
    mend(file)
    promise(file.parent, 0)
    found = inspected(file, registry)
    found.problems.insert(0, problem._replace(is_kept=size_of(log_of(file)) > 0))
    return found


def _mend(file: Path, found: Inspection) -> None:
    """Change what is damaged within a sound database."""
    with closing(connected_to_write(file)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for seq, left in found.bad_rows.items():
            if left is None:
                connection.execute("DELETE FROM batch WHERE seq = ?", (seq,))
            else:
                connection.execute("UPDATE batch SET idx = ? WHERE seq = ?", (left, seq))
        for seq in found.changed:
            checksum = crc32(Octets(connection, seq).whole or b"")
            connection.execute("UPDATE batch SET sum = ? WHERE seq = ?", (checksum, seq))
        for seq in found.cut:
            for (index,) in connection.execute("SELECT idx FROM batch WHERE seq = ?", (seq,)):
                body = _body(Octets(connection, seq), index)
                changed = body, crc32(body), seq
                connection.execute("UPDATE batch SET body = ?, sum = ? WHERE seq = ?", changed)
        _add_end(connection, found)
        for one in found.bad_definitions:
            connection.execute("DELETE FROM meta WHERE id = ?", (one,))
        connection.execute("COMMIT")


def _add_end(connection: sqlite3.Connection, found: Inspection) -> None:
    """Add an empty row, if need be, so that the last commit is not one that has lost a row."""
    if found.end is not None:
        add(connection.execute, Row(found.end, seal([])))


def _make_anew(file: Path, found: Inspection) -> None:
    """Put what can be read of a database into a new one, which takes its place."""
    new = file.with_name(f"{file.name}.new")
    _remove(new)
    try:
        with (
            closing(open_database(new)) as target,
            closing(connected(file, [])) as source,
            closing(Leaves(source, file, found.taken)) as leaves,
        ):
            target.execute("PRAGMA synchronous = OFF")  # it counts only when it is complete
            _copy_rows(source, leaves, target, found)
            _copy_definitions(source, leaves, target, found)
            with suppress(sqlite3.DatabaseError):
                for shard in source.execute("SELECT id, owner, epoch FROM shard"):
                    target.execute("INSERT INTO shard VALUES(?, ?, ?)", shard)
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.replace(repaired(file))
        sync(file.parent)
        finish_repair(file)
    finally:
        _remove(new)


def _remove(file: Path) -> None:
    for end in ("", "-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)


def _unsaid(*_: object) -> None:
    """Say nothing: it has been said."""


def _copy_rows(
    source: sqlite3.Connection, leaves: Leaves, target: sqlite3.Connection, found: Inspection
) -> None:
    step = 0
    target.execute("BEGIN IMMEDIATE")
    for seq, index, size, _ in rows(source, leaves, _unsaid):
        left = found.bad_rows.get(seq, index) if isinstance(seq, int) else None
        if not isinstance(seq, int) or not isinstance(left, bytes) or not isinstance(size, int):
            continue
        octets = Octets(source, seq, leaves)
        body = _body(octets, left) if size else b""
        stored = body if octets.whole is None else octets.stored
        row = seq, left, crc32(body), stored
        target.execute("INSERT OR IGNORE INTO batch VALUES(?, ?, ?, ?)", row)
        step += len(left) + len(body)
        if step >= STEP_OCTETS:
            step = 0
            target.execute("COMMIT")
            target.execute("BEGIN IMMEDIATE")
    _add_end(target, found)
    target.execute("COMMIT")


def _body(octets: Octets, index: bytes) -> bytes:
    """Return the body of a row, as far as its messages need it if it cannot be read as a whole."""
    if octets.whole is not None:
        return octets.whole
    body = bytearray()
    for record in decode(index):
        if isinstance(record, Enqueued):
            for offset, length in _places(record):
                piece = octets.piece(offset, length)
                body.extend(bytes(max(offset + length - len(body), 0)))
                body[offset : offset + len(piece)] = piece
    return bytes(body)


def _places(record: Enqueued) -> Iterator[tuple[int, int]]:
    places = Segment(LiveRow(0), record).places(record.base, len(record.body_sizes))
    for offset, *sizes in places:
        yield offset, sum(sizes)


def _copy_definitions(
    source: sqlite3.Connection, leaves: Leaves, target: sqlite3.Connection, found: Inspection
) -> None:
    target.execute("BEGIN IMMEDIATE")
    for row in definitions(source, leaves, _unsaid):
        if row[0] not in found.bad_definitions:
            target.execute("INSERT OR IGNORE INTO meta VALUES(?, ?, ?, ?)", row)
    target.execute("COMMIT")

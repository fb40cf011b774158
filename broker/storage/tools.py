"""Tools: what is done with a store offline: look at it, check it, make it smaller, copy it.

Law: the lock of the folder is held, so no broker is at work. Nothing that counts is dropped. What
a tool says is lines for people, and facts for machines.

Called by: cli (store), storage.repair.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from leveret.broker.storage.base import CHANGED, Damaged, StoreError
from leveret.broker.storage.bodies import Bodies, files_of, octets_of
from leveret.broker.storage.compaction import pieces
from leveret.broker.storage.damage import tell
from leveret.broker.storage.database import (
    APPLICATION,
    FILE,
    FORMAT,
    LEAST_OCTETS,
    OLDEST,
    add,
    connect,
    connect_to_read,
    copy,
    finish_repair,
    number,
    refuse_link,
    replace,
    settle,
    shortage,
)
from leveret.broker.storage.findings import Problem
from leveret.broker.storage.inspection import inspect
from leveret.broker.storage.leaves import Leaves
from leveret.broker.storage.lock import promise, take_lock, take_lock_to_look
from leveret.broker.storage.row_builder import living_octets
from leveret.broker.storage.salvage import Octets
from leveret.broker.storage.wal import log_of
from leveret.broker.storage.wal_check import look_at_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from leveret.broker.core.registry import Registry
    from leveret.broker.storage.findings import Inspection
    from leveret.broker.storage.journal import Journal
    from leveret.broker.storage.segment import LiveRow

STEP_OCTETS: Final = 8 << 20  # moved, or copied, in one transaction
STEP_ROWS: Final = 1024
# What SQLite says of damage; it has no error for a table that is not there.
DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class InUse(StoreError):
    """A broker has the store; whoever cannot wait may ask it."""


class Answer(NamedTuple):
    """What came of it.

    Attributes:
      facts: For machines.
      lines: For people.
      is_good: Whether all is well.
    """

    facts: dict[str, object]
    lines: list[str]
    is_good: bool = True


# Opening


@contextmanager
def locked(folder: Path, *, is_looking: bool = False) -> Iterator[Path]:
    """Keep brokers out of a folder meanwhile, and return the database in it.

    Args:
      is_looking: Whether nothing is to be changed, and a folder will do that cannot be written.

    Raises:
      StoreError: There is none, or it is in use.
    """
    file = folder / FILE
    if not file.is_file():
        hint = f", which is a file: make it {FILE} in a folder of its own" * folder.is_file()
        raise StoreError(f"there is no store in {folder}{hint}")
    try:
        lock = take_lock_to_look(folder) if is_looking else take_lock(folder)
    except StoreError as problem:
        if isinstance(problem.__cause__, BlockingIOError):
            raise InUse(f"the data directory {folder} is in use by a broker") from None
        raise
    try:
        refuse_link(file)
        finish_repair(file)
        yield file
    except sqlite3.Error as problem:
        raise StoreError(f"{file}: {problem}") from None
    except OSError as problem:
        raise StoreError(f"{problem.filename or file}: {problem.strerror}") from None
    finally:
        if lock is not None:
            os.close(lock)


def connected_to_write(file: Path) -> sqlite3.Connection:
    """Return a connection to a store of our format, whose log is as it should be."""
    connected(file).close()
    check_log(file)
    promise(file.parent, 0)  # the log goes with the connection
    connection = connect(file)
    settle(connection)
    return connection


def check_log(file: Path) -> None:
    """Raise `Damaged` if not all is read that was committed."""
    if problem := look_at_log(file).problem:
        raise Damaged(f"{problem}; try: leveret store repair {file.parent}")


def connected(file: Path, problems: list[Problem] | None = None) -> sqlite3.Connection:
    """Return a connection that reads a store of our format.

    Args:
      problems: Gets what would keep a broker from opening it; without it, that is raised.
    """
    _check_size(file)
    connection = connect_to_read(file)
    try:
        try:
            _check_format(connection, file)
        except sqlite3.DatabaseError as problem:
            if problems is None or problem.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            problems.append(Problem("database", str(problem)))
            # SQLite takes it then for as long as it is, however long it should be.
            connection.execute("PRAGMA writable_schema = ON")
            _check_format(connection, file)
    except sqlite3.DatabaseError as problem:
        connection.close()
        is_damaged = problem.sqlite_errorcode & 0xFF in DAMAGE
        kind = Damaged if is_damaged else StoreError
        raise kind(f"{file} cannot be read at all: {problem}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _check_size(file: Path) -> None:
    """See that SQLite will not take a file for a new one, and remove its log."""
    if file.stat().st_size < LEAST_OCTETS:
        raise StoreError(f"{file} is empty")


def _check_format(connection: sqlite3.Connection, file: Path) -> None:
    version = number(connection, "PRAGMA user_version")
    if number(connection, "PRAGMA application_id") != APPLICATION:
        raise StoreError(f"{file} is a database of something else")
    if version > FORMAT:
        text = f"its format is {version}, this one knows {FORMAT}"
        raise StoreError(f"{file} was written by a later Leveret: {text}")
    if version < OLDEST:
        raise StoreError(
            f"{file} has format {version}: the next start of a broker makes it {FORMAT}"
        )
    connection.execute("SELECT 1 FROM batch, meta, shard LIMIT 0").fetchall()


def inspected(file: Path, registry: Registry | None = None, *, is_deep: bool = True) -> Inspection:
    """Return what is in a store, which is not open any more."""
    _check_size(file)
    problems: list[Problem] = []
    log, taken = "", None
    with suppress(sqlite3.Error):  # it will be said why it cannot be opened
        log, _, taken = look_at_log(file)
        if not taken and (problem := shortage(file)):
            problems.append(Problem("database", problem))
    taken = None if log else taken
    with (
        closing(connected(file, problems)) as connection,
        closing(Leaves(connection, file, taken)) as leaves,
    ):
        found = inspect(connection, leaves, registry, is_deep=is_deep)
    found.taken = taken
    if problems:
        found.is_torn = True
        found.problems = problems + found.problems
    if log:
        found.is_log_damaged = True
        found.problems.insert(0, Problem("log", log))
    return found


def _sizes(file: Path) -> dict[str, int]:
    """Return the size of a database and of what belongs to it."""
    sizes = {one.name: one.stat().st_size for one in (file, log_of(file)) if one.exists()}
    if bodies := files_of(file):
        sizes[f"{file.name}-bodies-*"] = sum(map(octets_of, bodies.values()))
    return sizes


# Looking


def info(folder: Path, registry: Registry | None = None) -> Answer:
    """Say what a store holds."""
    with locked(folder, is_looking=True) as file:
        sizes = _sizes(file)
        found = inspected(file, registry, is_deep=False)
        with closing(connected(file, [])) as connection:
            epoch = number(connection, "SELECT coalesce(max(epoch), 0) FROM shard")
            version = number(connection, "PRAGMA user_version")
            page = number(connection, "PRAGMA page_size")
            free = number(connection, "PRAGMA freelist_count") * page
    dead = found.body_octets - found.live_octets
    queues = [
        {"vhost": vhost, "name": name, "messages": messages, "octets": octets}
        for each, (vhost, name) in found.queues.items()
        for messages, octets in (found.of_queue(each),)
    ]
    facts: dict[str, object] = {
        "file": str(file),
        "format": version,
        "epoch": epoch,
        "files": sizes,
        "rows": found.rows,
        "index_octets": found.index_octets,
        "body_octets": found.body_octets,
        "dead_octets": dead,
        "free_octets": free,
        "definitions": found.definitions,
        "messages": found.messages,
        "queues": queues,
        "problems": [str(problem) for problem in found.problems],
    }
    lines = [
        f"{file}: format {version}, epoch {epoch}",
        f"files: {', '.join(f'{name} {size:,}' for name, size in sizes.items())} octets",
        f"rows: {found.rows:,}, with {found.index_octets:,} octets of indexes"
        f" and {found.body_octets:,} of bodies",
        f"dead: {dead:,} octets of settled messages, {free:,} of free pages",
        f"definitions: {found.definitions:,}",
        f"messages: {found.messages:,} in {len(queues):,} queues",
        *[
            f"  {each['vhost']!r} {each['name']!r}: {each['messages']:,}, {each['octets']:,} octets"
            for each in queues
        ],
        *[f"damaged: {problem}" for problem in found.problems],
    ]
    return Answer(facts, lines)


def check(folder: Path, registry: Registry | None = None) -> Answer:
    """Read all of a store, and say what is damaged."""
    with locked(folder, is_looking=True) as file:
        found = inspected(file, registry)
    facts = facts_of(file, found)
    lines = [*map(str, found.problems), *[f"note: {note}" for note in found.notes]]
    seen = (
        f"rows: {found.rows:,}, messages: {found.messages:,}, queues: {len(found.queues):,},"
        f" definitions: {found.definitions:,}"
    )
    if found.problems:
        lines += losses(found, "would be")
        lines.append(f"{file}: damaged ({seen}); try: leveret store repair {folder}")
    else:
        lines.append(f"{file}: good ({seen})")
    return Answer(facts, lines, not found.problems)


def facts_of(file: Path, found: Inspection) -> dict[str, object]:
    return {
        "file": str(file),
        "good": not found.problems,
        "rows": found.rows,
        "messages": found.messages,
        "queues": len(found.queues),
        "definitions": found.definitions,
        "problems": [problem._asdict() for problem in found.problems],
        "notes": found.notes,
        "lost": _by_queue(found, found.lost),
        "back": _by_queue(found, found.back),
    }


def _by_queue(
    found: Inspection, by_queue: dict[int, list[tuple[int, int]]]
) -> list[dict[str, object]]:
    told: list[dict[str, object]] = []
    for queue, positions in by_queue.items():
        vhost, name = found.queues.get(queue, (None, None))
        told.append({"number": queue, "vhost": vhost, "name": name, "positions": positions})
    return told


def losses(found: Inspection, verb: str) -> list[str]:
    """Return for people what goes with what is damaged."""
    lines = []
    if found.lost:
        lines.append(f"messages that {verb} lost: {tell(found.lost, found.name)}")
    if found.back:
        lines.append(f"settled messages that {verb} back: {tell(found.back, found.name)}")
    return lines


# Making smaller


def compact(folder: Path, registry: Registry | None = None) -> Answer:
    """Write anew what lives in rows that are mostly dead, then the whole file without gaps."""
    with locked(folder) as file:
        before = sum(_sizes(file).values())
        found = inspected(file, registry, is_deep=False)
        if found.problems:
            text = f"{found.problems[0]}; try: leveret store repair {folder}"
            raise Damaged(f"{file} is damaged: {text}")
        with closing(connected_to_write(file)) as connection, closing(Bodies(file)) as bodies:
            try:
                bodies.open(connection)
                moved = _move(connection, found)
            except Damaged as problem:
                text = f"{problem}; try: leveret store repair {folder}"
                raise Damaged(f"{file} is damaged: {text}") from None
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            bodies.open(connection)
            while bodies.give_back():
                pass
        after = sum(_sizes(file).values())
    facts: dict[str, object] = {"file": str(file), "before": before, "after": after, "moved": moved}
    line = f"{file}: {after:,} octets, {before:,} before; {moved:,} messages moved"
    return Answer(facts, [line])


def _move(connection: sqlite3.Connection, found: Inspection) -> int:
    """Move what lives in rows that are half dead into new ones; return how many messages it was."""
    journal = found.journal
    for queue in journal.logs.keys() - found.queues.keys():  # a start would drop what is in them
        journal.logs.pop(queue).close()
    _commit(connection, journal)  # what is dead goes first
    rows = [
        row
        for row in journal.rows.values()
        if row.live and 2 * living_octets(row) <= found.bodies[row.seq]
    ]
    moved = sum(row.live for row in rows)
    for step in _steps(rows):
        planned = pieces(step)
        bodies = {row.seq: _whole(connection, row.seq) for row in step}
        read = [
            bodies[seq].piece(offset, length)
            for seq, offset, length in (piece.ref() for piece in planned)
        ]
        journal.move(zip(planned, read, strict=True))
        _commit(connection, journal)
    return moved


def _whole(connection: sqlite3.Connection, seq: int) -> Octets:
    """Return the body of a row, which is as it was written."""
    octets = Octets(connection, seq)
    checksum = number(connection, "SELECT sum FROM batch WHERE seq = ?", (seq,))
    if octets.whole is None or crc32(octets.whole) != checksum:
        raise Damaged(f"row {seq}: {CHANGED}")
    return octets


def _steps(rows: list[LiveRow]) -> Iterator[list[LiveRow]]:
    step: list[LiveRow] = []
    octets = 0
    for row in rows:
        row.is_moving = True
        step.append(row)
        octets += row.octets
        if octets >= STEP_OCTETS or len(step) >= STEP_ROWS:
            yield step
            step, octets = [], 0
    if step:
        yield step


def _commit(connection: sqlite3.Connection, journal: Journal) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for row in journal.close():
        add(connection.execute, row)
        if row.replace:
            replace(connection.execute, row.replace)
    connection.execute("COMMIT")


# Copying


def backup(folder: Path, file: Path) -> Answer:
    """Copy a store into a file."""
    with locked(folder, is_looking=True) as source:
        _check_size(source)
        check_log(source)  # it opens what SQLite locks: not while that has it open
        if os.path.lexists(file):
            raise StoreError(f"{file} is there already")
        try:
            with closing(connected(source)) as connection:
                copy(connection, file)
        except Damaged as problem:
            raise Damaged(f"{problem}; try: leveret store repair {folder}") from None
        except (OSError, sqlite3.Error) as problem:
            text = getattr(problem, "strerror", None) or problem
            raise StoreError(f"{file} cannot be written: {text}") from None
    return copied(file, file.stat().st_size)


def copied(file: Path, octets: int) -> Answer:
    """Return what to say of a copy that was made."""
    return Answer({"file": str(file), "octets": octets}, [f"{file}: {octets:,} octets"])

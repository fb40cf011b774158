"""Database: the SQLite file of a store: its form, and the statements that change it.

Law: everything here runs in the thread that owns the connection. Whatever is many is handed to
SQLite as one text or blob, never with a call for each: each call gives the interpreter's lock
away, and a busy loop is slow to give it back.

Called by: storage.sqlite, storage.row_reader, storage.tools, storage.row_inspection,
storage.repair, storage.salvage, storage.wal_check, app (the name of the file).
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from struct import Struct
from tempfile import mkstemp
from typing import TYPE_CHECKING, Final
from zlib import crc32

from leveret.broker.storage.base import Damaged, StoreError
from leveret.broker.storage.bodies import file_of, places_in, read
from leveret.broker.storage.lock import can_write, promise, sync
from leveret.broker.storage.wal import log_limit, log_of, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from leveret.broker.storage.base import Definition, Row
    from leveret.broker.storage.bodies import Bodies, Place

APPLICATION: Final = 0x4C657665  # "Leve", in the header of the file
FORMAT = 2
OLDEST: Final = 1  # formats from this one on can be read without being migrated
# What makes the next format of each, within a transaction; a copy of the file is kept before.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: lambda _: None,  # since then a row may say where its body is
}

FILE: Final = "leveret.db"
PAGE: Final = 16 << 10
SYNCHRONOUS = "FULL"  # with NORMAL commits return before they are on the disk
COPY_PAGES: Final = 64
LEAST_OCTETS: Final = 2  # SQLite takes a file of one octet for an empty one
# Page size, number of changes, pages, and the number of changes when the last one was noted.
HEAD: Final = Struct(">16xH6xII60xI4x")

# An insert into the view adds a row and deletes others: one call, and a transaction by itself.
# The index comes before the body, so that reading it leaves the body alone; `sum` is the CRC-32 of
# the body. In the place of a long one is a text that says where it is (storage.bodies).
SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE batch(
    seq INTEGER PRIMARY KEY, idx BLOB NOT NULL, sum INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE VIEW row_in(seq, idx, sum, body, del) AS SELECT seq, idx, sum, body, NULL FROM batch;
CREATE TRIGGER row_t INSTEAD OF INSERT ON row_in BEGIN
    INSERT INTO batch VALUES(new.seq, new.idx, new.sum, new.body);
    DELETE FROM batch WHERE seq IN (SELECT value FROM json_each(new.del));
END;
CREATE TABLE meta(
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
    UNIQUE(kind, key)
);
CREATE TABLE shard(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
COMMIT;
"""
ADD: Final = "INSERT INTO row_in VALUES(?, ?, ?, ?, ?)"
# These take a blob, and a JSON text that says where in it things are (counted from 1).
REPLACE: Final = """
UPDATE batch SET idx = substr(?1, given.value ->> 1, given.value ->> 2), sum = 0, body = x''
FROM json_each(?2) AS given WHERE batch.seq = given.value ->> 0
"""
FORGET: Final = """
DELETE FROM meta WHERE (kind, key) IN (
    SELECT value ->> 0, substr(?1, value ->> 1, value ->> 2) FROM json_each(?2)
)
"""
KEEP: Final = """
INSERT INTO meta(kind, key, value)
SELECT given.value ->> 0, substr(?1, given.value ->> 1, given.value ->> 2),
    substr(?1, given.value ->> 3, given.value ->> 4)
FROM json_each(?2) AS given WHERE true ORDER BY given.key
ON CONFLICT(kind, key) DO UPDATE SET value = excluded.value
"""


def refuse_link(file: Path) -> None:
    """See that a database is where its name is: SQLite has the log beside what a link points to.

    Raises:
      StoreError: It is a link.
    """
    if file.is_symlink():
        raise StoreError(f"{file} is a symbolic link: make one of the directory instead")


def open_database(file: Path, notes: list[str] | None = None) -> sqlite3.Connection:
    """Return the connection that writes; make a database of ours out of nothing or an older one.

    Args:
      notes: Gets what was done to an older one.

    Raises:
      StoreError: It is of something else, or of a later version.
    """
    if sqlite3.sqlite_version_info < (3, 38):
        raise StoreError(f"SQLite is {sqlite3.sqlite_version}: 3.38 or newer is needed")
    touch(file)
    connection = connect(file)
    try:
        application = number(connection, "PRAGMA application_id")
        version = number(connection, "PRAGMA user_version")
        if not application and not number(connection, "SELECT count(*) FROM sqlite_master"):
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            settle(connection)
            connection.executescript(SCHEMA)
            sync(file.parent)
        elif application != APPLICATION:
            raise StoreError(f"{file} is a database of something else")
        elif version > FORMAT:
            text = f"its format is {version}, this one knows {FORMAT}"
            raise StoreError(f"{file} was written by a later Leveret: {text}")
        else:
            settle(connection)
            kept = migrate(connection, file, version)
            if kept is not None and notes is not None:
                text = f"its format was {version} and is {FORMAT} now; as it was before: {kept}"
                notes.append(f"{file}: {text}")
        limit = log_limit(file.parent)
        connection.execute(f"PRAGMA wal_autocheckpoint = {limit // PAGE}")
        connection.execute(f"PRAGMA journal_size_limit = {limit}")
        connection.execute("PRAGMA cache_size = -16000")
        # The first write goes to the front of the log, which is there, whatever the disk has left.
        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, file: Path, version: int) -> Path | None:
    """Bring a database to our format, one after the other; return where a copy of the old one is.

    None if there was nothing to do.
    """
    if any(step not in MIGRATIONS for step in range(version, FORMAT)):
        raise StoreError(f"{file} has format {version}, which is not known")
    if version == FORMAT:
        return None
    kept = _keep_copy(connection, file, version)
    for step in range(version, FORMAT):
        connection.execute("BEGIN IMMEDIATE")
        MIGRATIONS[step](connection)
        connection.execute(f"PRAGMA user_version = {step + 1}")
        connection.execute("COMMIT")
    return kept


def _keep_copy(connection: sqlite3.Connection, file: Path, version: int) -> Path:
    """Copy a database that is of an older format; return where to."""
    for part in file.parent.glob(f"{file.name}.format-*.part*"):  # of an attempt that was killed
        part.unlink()
    # One that is there is of an attempt that did not come to its end, or older.
    names = (file.with_name(f"{file.name}.format-{version}{end}") for end in _ends())
    kept = next(name for name in names if not os.path.lexists(name))
    try:
        copy(connection, kept)
    except (OSError, sqlite3.Error) as problem:
        is_damaged = getattr(problem, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT
        kind = Damaged if is_damaged else StoreError
        text = f"a copy has to be made before it becomes {FORMAT}, {kept}: {problem}"
        raise kind(f"{file} has format {version}: {text}") from problem
    return kept


def _ends() -> Iterator[str]:
    yield ""
    yield from (f"-{each}" for each in count(2))


def touch(file: Path) -> None:
    """Make a file that is its owner's alone, if there is none.

    Not while SQLite has it open here: closing it again would end the locks of this process.
    """
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def connect(file: Path) -> sqlite3.Connection:
    """Return a connection whose statements are transactions, unless it is told otherwise."""
    return sqlite3.connect(file, timeout=5, isolation_level=None)


def connect_to_read(file: Path) -> sqlite3.Connection:
    """Return a connection that leaves everything as it is; nobody else writes meanwhile.

    Who may write moves the log into the database, and removes it, when the last connection is
    closed. Without a log nothing else is looked at, and nothing has to be made beside the database.
    To read a log takes shared memory, which is a file: where none can be made, SQLite has to be
    alone, and may not ask for a lock that says so, as that is for those who can write.
    """
    uri = f"{file.absolute().as_uri()}?mode=ro"
    has_log, is_alone = size_of(log_of(file)) > 0, not can_write(file.parent)
    if not has_log:
        uri += "&immutable=1"
    elif is_alone:
        uri += "&vfs=unix-none"
    connection = sqlite3.connect(uri, timeout=5, isolation_level=None, uri=True)
    if has_log and is_alone:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
    return connection


def path_of(connection: sqlite3.Connection) -> Path:
    """Return where the database of a connection is."""
    query = "SELECT CAST(file AS BLOB) FROM pragma_database_list"  # a name may be no text
    return Path(os.fsdecode(connection.execute(query).fetchall()[0][0]))


def settle(connection: sqlite3.Connection) -> None:
    """Set what each connection is to have."""
    if connection.execute("PRAGMA journal_mode = WAL").fetchall() != [("wal",)]:
        raise sqlite3.OperationalError("the file system cannot share memory between processes")
    connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
    connection.execute("PRAGMA secure_delete = OFF")  # Debian's default writes everything twice


def number(connection: sqlite3.Connection, query: str, arguments: Iterable[int | str] = ()) -> int:
    """Return the only value of a query."""
    value: int = connection.execute(query, tuple(arguments)).fetchall()[0][0]
    return value


def copy(
    source: sqlite3.Connection, file: Path, progress: Callable[..., None] | None = None
) -> None:
    """Copy a database to a file, which is there as a whole or not at all, with all bodies in it.

    What is committed while those are copied is not in it.

    Args:
      progress: Called again and again.

    Raises:
      StoreError: Something has that name already, or got it meanwhile; it is left alone.
      Damaged: A body is not there.
    """
    descriptor, name = mkstemp(dir=file.parent, prefix=f"{file.name}.", suffix=".part")
    os.close(descriptor)
    part = Path(name)
    try:
        with closing(connect(part)) as target:
            source.backup(target, pages=COPY_PAGES, progress=progress)
            for _ in _take_in_bodies(target, path_of(source)):
                if progress is not None:
                    progress()
        with part.open("rb") as written:
            os.fsync(written.fileno())
        try:
            _give_name(part, file)
        except FileExistsError:
            raise StoreError(f"{file} is there already") from None
        sync(file.parent)
    finally:
        for one in (part, part.with_name(f"{part.name}-journal")):  # SQLite's, if the disk is full
            one.unlink(missing_ok=True)


def _take_in_bodies(copied: sqlite3.Connection, database: Path) -> Iterator[int]:
    """Put the bodies that are beside a database into a copy of it, row by row."""
    places = places_in(copied, database)
    if places:  # it counts only when it is complete
        copied.execute("PRAGMA journal_mode = OFF").fetchall()
        copied.execute("PRAGMA synchronous = OFF")
    for seq, place in places:
        body = _body_of(seq, database, place)
        copied.execute("UPDATE batch SET body = ? WHERE seq = ?", (body, seq))
        yield seq


def _body_of(seq: int, database: Path, place: Place) -> bytes:
    body, reason = b"", "it was cut"
    try:
        body = read(database, place)
    except OSError as problem:
        reason = os.strerror(problem.errno or 0)
    if len(body) != place.size:
        path = file_of(database, place.file)
        raise Damaged(f"{path}: the body of row {seq} cannot be read: {reason}")
    return body


def _give_name(part: Path, file: Path) -> None:
    """Give a file the name that it should have, unless that is taken."""
    try:
        os.link(part, file)
    except FileExistsError:
        raise
    except OSError:  # this file system has no links
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        part.replace(file)


def repaired(file: Path) -> Path:
    """Return where a database is that is to take the place of a damaged one."""
    return file.with_name(f"{file.name}.repaired")


def finish_repair(file: Path) -> None:
    """Put a repaired database in the place of the damaged one, if there is one.

    Whoever is interrupted does it again: the damaged one is not opened any more.
    """
    if repaired(file).exists():
        promise(file.parent, 0)
        for one in (log_of(file), file.with_name(f"{file.name}-shm")):
            one.unlink(missing_ok=True)
        sync(file.parent)  # never the new one with the log of the old one
        repaired(file).replace(file)
        sync(file.parent)


def shortage(file: Path) -> str:
    """Return what is missing at the end of a database that has nothing in its log.

    SQLite itself takes zeros for what is missing of the last page.
    """
    with file.open("rb") as database:
        head, size = database.read(HEAD.size), os.fstat(database.fileno()).st_size
    if len(head) == HEAD.size:
        page, changes, pages, valid_for = HEAD.unpack(head)
        octets = pages * (65536 if page == 1 else page)
        if changes == valid_for and size < octets:
            return f"{file} was cut: of {octets:,} octets it has {size:,}"
    return ""


def add(execute: Callable[..., object], row: Row) -> None:
    """Add a row with its body in it, and delete those that it makes superfluous."""
    execute(ADD, to_add(row, None))


def to_add(row: Row, bodies: Bodies | None) -> tuple[int, bytes, int, bytes | str, str | None]:
    """Return what `ADD` takes for a row.

    Args:
      bodies: Gets a long body; it has to be synced before the commit.

    Raises:
      OSError: The body cannot be written.
    """
    delete = f"[{','.join(map(str, row.delete))}]" if row.delete else None
    body = row.body
    place = None if bodies is None else bodies.write(row.seq, body)
    return row.seq, row.index, crc32(body), body if place is None else str(place), delete


def piece_of(connection: sqlite3.Connection, seq: int, offset: int, length: int) -> bytes:
    """Return some octets of a body in its row, without the rest; fewer if there are fewer."""
    with connection.blobopen("batch", "body", seq, readonly=True) as blob:
        if offset > len(blob):
            return b""
        blob.seek(offset)
        return blob.read(length)


def replace(execute: Callable[..., object], rows: Sequence[tuple[int, bytes]]) -> None:
    """Give rows other indexes, and no bodies."""
    pool, places = Pool(), []
    for seq, index in rows:
        places.append([seq, *pool.add(index)])
    execute(REPLACE, (pool.octets, json.dumps(places)))


def define(execute: Callable[..., object], definitions: Sequence[Definition]) -> None:
    """Keep and forget definitions; what is forgotten and kept again goes to the end."""
    kept: dict[tuple[str, bytes], bytes] = {}
    forgotten: dict[tuple[str, bytes], None] = {}
    for kind, key, value in definitions:
        if value is None:
            kept.pop((kind, key), None)
            forgotten[kind, key] = None
        else:
            kept[kind, key] = value
    pool = Pool()
    if forgotten:
        places = json.dumps([[kind, *pool.add(key)] for kind, key in forgotten])
        execute(FORGET, (pool.octets, places))
    if kept:
        places = json.dumps(
            [[kind, *pool.add(key), *pool.add(value)] for (kind, key), value in kept.items()]
        )
        execute(KEEP, (pool.octets, places))


class Pool:
    """Many short pieces of octets as one."""

    def __init__(self) -> None:
        self.octets = bytearray()

    def add(self, piece: bytes) -> tuple[int, int]:
        """Add a piece; return where it is, counted from 1, and its length."""
        self.octets += piece
        return len(self.octets) - len(piece) + 1, len(piece)

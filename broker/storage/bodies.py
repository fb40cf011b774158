"""Bodies: the long bodies of rows, in files of their own beside the database.

Law: what stays in SQLite is written twice, first into its log. So a long body is written here,
once, and synced before its row is committed; in the row stands where it is. Nothing in a file is
written over, and no later process goes on with one. What no row refers to any more is given back
after the commit that says so: a file if all of it is dead, else the parts.

Called by: storage.sqlite (in the writer's thread), storage.tools (`compact`); they read:
storage.row_reader, storage.database, storage.salvage, storage.inspection, storage.repair.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from leveret.broker.storage.base import Damaged
from leveret.broker.storage.lock import sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# Octets from which a body is written here: that takes another flush of the disk, and saves eight
# pages or more of SQLite's.
LEAST = 128 << 10
# Octets after which the next file is begun; commits wait while one goes, some milliseconds.
FILE_SIZE = 16 << 20
DEAD = 64 << 20  # octets that may be dead beside living ones before some are given back
BLOCK: Final = 4096  # a body begins at a multiple: file systems give back whole blocks

# How long a body is, wherever it is. A text that is no place has 1: an empty body would not be
# looked into.
SIZE: Final = "iif(typeof(body) = 'text', max(CAST(body AS INTEGER), 1), length(body))"

# No room on the disk, or no descriptor left: clients may have taken all.
NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, *NO_DESCRIPTOR)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of Linux's fallocate
_NUMBER: Final = r"([1-9]\d{0,14})"
_PLACE: Final = re.compile(rf"{_NUMBER} {_NUMBER} (0|{_NUMBER})", re.ASCII)


class Place(NamedTuple):
    """Where a body is; as a text it stands in the row."""

    size: int
    file: int
    start: int

    def __str__(self) -> str:
        return f"{self.size} {self.file} {self.start}"


def place_of(stored: object) -> Place | None:
    """Return where a body is, if what is in its row says so."""
    found = _PLACE.fullmatch(stored) if isinstance(stored, str) else None
    return Place(*map(int, found.group(1, 2, 3))) if found else None


def size_of(stored: object) -> int | None:
    """Return how long a body is, by what is in its row; None if that is none."""
    if isinstance(stored, bytes):
        return len(stored)
    place = place_of(stored)
    return None if place is None else place.size


def places_in(connection: sqlite3.Connection, database: Path) -> list[tuple[int, Place]]:
    """Return where the bodies are that are in files, by the numbers of their rows.

    Raises:
      Damaged: What is in a row does not say it.
      sqlite3.Error: Not all rows can be read.
    """
    places: list[tuple[int, Place]] = []
    query = "SELECT seq, CAST(body AS BLOB) FROM batch WHERE typeof(body) = 'text'"
    for seq, stored in connection.execute(query):  # as octets: a damaged text may be none
        place = place_of(stored.decode("ascii", "replace"))
        if place is None:
            raise Damaged(f"{database}: row {seq}: it does not say where its body is")
        places.append((seq, place))
    return places


def file_of(database: Path, number: int) -> Path:
    """Return where one of the files of a database is."""
    return database.with_name(f"{database.name}-bodies-{number}")


def files_of(database: Path) -> dict[int, Path]:
    """Return the files of a database that are there, by their numbers."""
    name = re.compile(rf"{re.escape(database.name)}-bodies-{_NUMBER}", re.ASCII)
    found = ((name.fullmatch(path.name), path) for path in database.parent.iterdir())
    return {int(match[1]): path for match, path in found if match}


def octets_of(path: Path) -> int:
    """Return what a file takes of the disk."""
    found = path.stat()
    return min(found.st_size, found.st_blocks * 512)


def read(database: Path, place: Place, offset: int = 0, length: int | None = None) -> bytes:
    """Return octets of a body; fewer if they are not there.

    Raises:
      OSError: They cannot be read.
    """
    most = max(place.size - offset, 0)
    size = most if length is None else min(length, most)
    start = place.start + offset
    with file_of(database, place.file).open("rb", buffering=0) as file:
        there = max(os.fstat(file.fileno()).st_size - start, 0)  # a damaged place may say anything
        return os.pread(file.fileno(), min(size, there), start)


def shortages(database: Path, places: Iterable[tuple[int, Place]]) -> list[str]:
    """Return what to say of files that are missing or too short for what is in them."""
    ends: dict[int, tuple[int, int]] = {}
    for seq, place in places:
        end = place.start + place.size, seq
        ends[place.file] = max(end, ends.get(place.file, end))
    said = (_shortage(file_of(database, number), *end) for number, end in sorted(ends.items()))
    return [problem for problem in said if problem]


class _File:
    """One of the files.

    Attributes:
      path: Where it is.
      size: Where the next body would begin.
      living: Where the bodies begin that rows refer to, and how long they are, by row: the places
        of damaged rows may overlap.
      dead: About how many octets of the disk are of no such body.
    """

    __slots__ = ("dead", "living", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.living: dict[int, tuple[int, int]] = {}
        self.dead = 0

    def add(self, seq: int, start: int, size: int) -> None:
        """Take in the body of a row."""
        self.living[seq] = start, size
        self.size = max(self.size, _rounded(start + size))

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Return begin and length of what no body is in."""
        end = 0
        for start, size in [*sorted(self.living.values()), (self.size, 0)]:
            if start > end:
                yield end, start - end
            end = max(end, start + _rounded(size))


class Bodies:
    """The files of a database, for whoever writes.

    Attributes:
      is_held: Whether nothing may go, because somebody is copying it.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._current: _File | None = None  # the one that grows
        self._descriptor = -1  # of that
        self._forget()

    def _forget(self) -> None:
        self.is_held = False
        self._files: dict[int, _File] = {}
        self._numbers: dict[int, int] = {}  # of the files that the bodies of rows are in, by row
        self._freed: list[tuple[int, int]] = []  # those of rows that have none any more
        self._unneeded: list[Path] = []  # files that no row refers to
        self._dead = 0  # octets in all files
        self._number = 0  # of the last file
        self._is_synced = True
        self._is_able = True  # whether the file system takes back parts of a file

    def open(self, connection: sqlite3.Connection) -> None:
        """See what there is; files that no row refers to go once something has been committed.

        By then it has been seen that no row is missing.

        Raises:
          Damaged: A body is not there.
          OSError: The files cannot be looked at.
        """
        self.close()
        try:
            places = places_in(connection, self._database)
        except sqlite3.DatabaseError:  # whoever reads the rows will say which one it is
            self._is_able = False
            return
        for seq, place in places:
            self._numbers[seq] = place.file
            if place.file not in self._files:
                self._files[place.file] = _File(file_of(self._database, place.file))
            self._files[place.file].add(seq, place.start, place.size)
        if problems := shortages(self._database, places):
            raise Damaged(problems[0])
        for file in self._files.values():
            living = sum(_rounded(size) for _, size in file.living.values())
            file.size = max(file.size, _rounded(file.path.stat().st_size))
            file.dead = max(octets_of(file.path) - living, 0)
            self._dead += file.dead
        there = files_of(self._database)
        self._number = max(there, default=0)
        self._unneeded = [there[number] for number in there.keys() - self._files.keys()]

    def close(self) -> None:
        """Let go of everything."""
        self._end()
        self._forget()

    def write(self, seq: int, body: bytes) -> Place | None:
        """Write the body of a row, if it is long; return where it is, None if not here.

        Raises:
          OSError: It cannot be written.
        """
        if len(body) < LEAST or not self._is_able:
            return None
        if self._current is not None and self._current.size >= FILE_SIZE:
            self.sync()  # if it fails the commit fails: the next time the kernel says all is well
            self._end()
        try:
            file = self._current or self._begin()
            if file is None:
                return None
            _write_all(self._descriptor, body, file.size)
        except OSError as problem:
            if problem.errno not in _FULL:
                raise
            with suppress(OSError):  # SQLite's log may have room, which is taken already
                self._leave_out_rest()
            return None
        place = Place(len(body), self._number, file.size)
        self._numbers[seq] = place.file
        file.add(seq, place.start, place.size)
        self._is_synced = False
        return place

    def sync(self) -> None:
        """Make durable what was written.

        Raises:
          OSError: It cannot be.
        """
        if not self._is_synced:
            os.fdatasync(self._descriptor)
            self._is_synced = True

    def free(self, rows: Iterable[int]) -> None:
        """Note rows that are gone, or have no bodies any more: that has to be durable."""
        numbers = self._numbers
        self._freed += [(seq, numbers.pop(seq)) for seq in rows if seq in numbers]

    def tidy(self) -> bool:
        """Give back some of what was freed: a file, or parts once there are many.

        One each time: commits wait for it, and a purge may free any number. Nothing is raised: what
        could not be done is done by the next start.

        Returns:
          Whether there are more files that nobody needs.
        """
        if self.is_held:
            return False
        freed, self._freed = self._freed, []
        for seq, number in freed:
            file = self._files[number]
            size = _rounded(file.living.pop(seq)[1])
            file.dead += size
            self._dead += size
            if not file.living and file is not self._current:
                self._unneeded.append(self._leave_out(number))
        if self._unneeded:
            _remove(self._unneeded.pop())
        elif self._dead > DEAD:
            self._give_back_parts()
        return bool(self._unneeded)

    def give_back(self) -> bool:
        """Give back some of all that is dead; return whether there may be more."""
        if self.tidy():
            return True
        if self.is_held or not self._dead:
            return False
        if self._current is not None and not self._current.living:
            self._end()
            return True
        return self._give_back_parts()

    def _begin(self) -> _File | None:
        """Begin the next file; return None if parts of it could not be given back."""
        self._number += 1
        path = file_of(self._database, self._number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            self._is_able = _give_back(descriptor, 0, BLOCK)
            sync(path.parent)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            raise
        if not self._is_able:
            os.close(descriptor)
            path.unlink()
            return None
        self._descriptor = descriptor
        self._current = self._files[self._number] = _File(path)
        return self._current

    def _leave_out_rest(self) -> None:
        """Give back what was written of a body that did not fit."""
        if self._current is not None:
            os.ftruncate(self._descriptor, self._current.size)

    def _end(self) -> None:
        """Let no file grow any more."""
        file, self._current = self._current, None
        if file is not None:
            with suppress(OSError):  # what counts has been synced
                os.close(self._descriptor)
            if not file.living:
                _remove(self._leave_out(self._number))

    def _leave_out(self, number: int) -> Path:
        """Forget a file; return where it is."""
        file = self._files.pop(number)
        self._dead -= file.dead
        return file.path

    def _give_back_parts(self) -> bool:
        """Give back what is dead of the file that has the most of it; return whether it was tried.

        It is tried once, but for want of a descriptor again later.
        """
        file = max(self._files.values(), key=lambda each: each.dead)
        try:
            descriptor = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as problem:
            if problem.errno in NO_DESCRIPTOR:
                return False
            descriptor = -1
        self._dead -= file.dead
        file.dead = 0
        if descriptor >= 0:
            for start, length in file.gaps():
                _give_back(descriptor, start, length)
            with suppress(OSError):
                os.close(descriptor)
        return True


def _rounded(octets: int) -> int:
    return -(-octets // BLOCK) * BLOCK


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _shortage(path: Path, end: int, seq: int) -> str:
    """Return what to say of a file in which the body of a row should end; empty if it does."""
    if not path.exists():
        return f"{path} is missing: the body of row {seq} is in it (if it is anywhere, put it back)"
    size = path.stat().st_size
    if size >= end:
        return ""
    return f"{path} was cut: the body of row {seq} ends at {end:,} octets, it has {size:,}"


def _write_all(descriptor: int, body: bytes, at: int) -> None:
    rest = memoryview(body)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written


def _give_back(descriptor: int, start: int, length: int) -> bool:
    """Give a part of a file back to the file system; return whether it takes it."""
    try:
        import ctypes  # takes milliseconds that the start need not wait for
    except ImportError:  # not every Python has it
        return False
    library = ctypes.CDLL(None)
    punch = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if punch is None:
        return False
    how = _KEEP_SIZE | _PUNCH_HOLE
    ended: int = punch(descriptor, how, ctypes.c_int64(start), ctypes.c_int64(length))
    return ended == 0

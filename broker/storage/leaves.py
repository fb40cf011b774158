"""Leaves: what is on the pages of a table that SQLite does not find any more.

Law: a page counts only if the database's map of pages says that it belongs to the table: what was
deleted, or is within a message, looks like a row, too. A row that makes no sense is left out.
Whether it is what was written, others see: it has checksums.

The format is https://sqlite.org/fileformat2.html; there is a map, as `auto_vacuum` is on.

Called by: storage.salvage; storage.tools and storage.repair make it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from struct import Struct, error
from typing import TYPE_CHECKING, Final

from leveret.broker.storage.database import number
from leveret.broker.storage.wal import log_of
from leveret.broker.storage.wal_check import FRAME, HEAD

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

MAPPED: Final = Struct(">BI")  # what a page is, and the one that names it
NUMBER: Final = Struct(">I")
TREE: Final = 5  # in the map: a page of a table, but for its first one
LEAF: Final = 13  # what a page with rows begins with; one with a part of a row begins with 0
LOCKED: Final = 1 << 30  # where SQLite has its locks: that page is not used
# Of the types of columns: the octets of integers, values without any, and where lengths begin.
INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
CONSTANTS: Final = {0: None, 8: 0, 9: 1}
BLOB: Final = 12  # or a text, if it is odd
COLUMNS: Final = 4  # that both tables have


class Leaves:
    """The pages of a database that somebody else reads, too.

    Args:
      taken: Frames of the log that count; None if that is not known: then nothing is found.
    """

    def __init__(self, connection: sqlite3.Connection, file: Path, taken: int | None) -> None:
        self._connection = connection
        self._file = file
        self._taken = taken
        self._descriptors: list[int] = []
        self._size = 0  # of a page, all of which is used
        self._in_log: dict[int, int] = {}  # where the pages are that are in the log
        self._children: dict[int, list[int]] = {}  # pages by the one that names them
        self._rows: dict[str, dict[int, list[tuple[int, int]]]] = {}  # pages and offsets

    def close(self) -> None:
        """Close the files, when SQLite reads no more: that ends its locks on them, too."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def between(self, table: str, first: int, last: int) -> Iterator[tuple[object, ...]]:
        """Return the rows of a table with such numbers, ascending, as far as they can be read."""
        places = self._places(table)
        numbers = (each for each in places if first <= each <= last)
        for each in sorted(numbers) if first < last else {first} & places.keys():
            for place in places[each]:  # several if a number is damaged
                with suppress(error, IndexError, ValueError):
                    yield each, *_values(self._payload(*place))[1:]
                    break

    def _places(self, table: str) -> dict[int, list[tuple[int, int]]]:
        """Return where the rows of a table are."""
        if table in self._rows or self._taken is None:
            return self._rows.get(table, {})
        if not self._descriptors:
            self._open()
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        found = self._rows[table] = {}
        pages = [root for (root,) in self._connection.execute(query, (table,))]
        while pages:
            octets = self._page(page := pages.pop())
            pages += self._children.pop(page, ())
            if octets[:1] != bytes((LEAF,)):
                continue
            (count,) = Struct(">3xH").unpack_from(octets)
            for (at,) in Struct(">H").iter_unpack(octets[8 : 8 + 2 * count]):
                with suppress(IndexError):
                    _, behind = _varint(octets, at)
                    row, _ = _varint(octets, behind)
                    found.setdefault(row, []).append((page, at))
        return found

    def _open(self) -> None:
        self._descriptors.append(os.open(self._file, os.O_RDONLY | os.O_CLOEXEC))
        self._size = number(self._connection, "PRAGMA page_size")
        if self._taken:
            log = os.open(log_of(self._file), os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors.append(log)
            frame = FRAME.size + self._size
            for at in range(HEAD.size, HEAD.size + self._taken * frame, frame):
                (page,) = NUMBER.unpack(os.pread(log, NUMBER.size, at))
                self._in_log[page] = at + FRAME.size
        self._read_map()

    def _read_map(self) -> None:
        pages = number(self._connection, "PRAGMA page_count")  # the file may be longer
        entries = self._size // MAPPED.size
        for first in range(2, pages + 1, entries + 1):
            at = first + (first == LOCKED // self._size + 1)
            octets = self._page(at)[: entries * MAPPED.size]
            for page, (kind, parent) in enumerate(MAPPED.iter_unpack(octets), at + 1):
                if kind == TREE and page <= pages:
                    self._children.setdefault(parent, []).append(page)

    def _page(self, page: int) -> bytes:
        """Return the octets of a page; nothing if not all of it can be read."""
        at = self._in_log.get(page)
        file, at = (0, (page - 1) * self._size) if at is None else (1, at)
        with suppress(OSError, OverflowError):
            octets = os.pread(self._descriptors[file], self._size, at)
            if len(octets) == self._size:
                return octets
        return b""

    def _payload(self, page: int, at: int) -> bytes:
        """Return the octets of a row, of which other pages have the rest."""
        octets = self._page(page)
        size, at = _varint(octets, at)
        _, at = _varint(octets, at)
        most, room = self._size - 35, self._size - NUMBER.size
        here = size
        if size > most:
            least = (self._size - 12) * 32 // 255 - 23
            here = least + (size - least) % room
            here = here if here <= most else least
        parts, left = [octets[at : at + here]], size - here
        (page,) = NUMBER.unpack_from(octets, at + here) if left else (0,)
        seen: set[int] = set()
        while left and page not in seen:
            seen.add(page)
            octets = self._page(page)
            (page,) = NUMBER.unpack_from(octets)
            parts.append(octets[NUMBER.size :][: min(left, room)])
            left -= len(parts[-1])
        if left or len(parts[0]) != here:
            raise ValueError("cut short")
        return b"".join(parts)


def _varint(octets: bytes, at: int) -> tuple[int, int]:
    """Return a number, and the offset behind it."""
    value = 0
    for index in range(at, at + 8):
        value = value << 7 | octets[index] & 0x7F
        if octets[index] < 0x80:
            return value, index + 1
    value = value << 8 | octets[at + 8]
    return value - (value >> 63 << 64), at + 9


def _values(payload: bytes) -> list[object]:
    """Return the columns of a row."""
    end, at = _varint(payload, 0)
    types: list[int] = []
    values: list[object] = []
    while at < end:
        kind, at = _varint(payload, at)
        types.append(kind)
    for kind in types:
        octets = payload[at : at + (INTEGERS.get(kind, 0) if kind < BLOB else (kind - BLOB) // 2)]
        if kind >= BLOB:
            values.append(octets.decode() if kind % 2 else octets)
        else:
            values.append(CONSTANTS.get(kind, int.from_bytes(octets, signed=True)))
        at += len(octets)
    if at != len(payload) or len(values) != COLUMNS:
        raise ValueError("it is no row")
    return values

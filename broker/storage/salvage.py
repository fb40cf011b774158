"""Salvage: what can still be read of a damaged database.

Law: what SQLite cannot read is looked for on its pages, or else stepped over, and said; nothing is
changed.

Called by: storage.inspection, storage.row_inspection, storage.tools, storage.repair.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from leveret.broker.storage.bodies import SIZE, place_of, read, size_of
from leveret.broker.storage.database import path_of, piece_of
from leveret.broker.storage.records import RecordError, decode, long_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leveret.broker.storage.bodies import Place
    from leveret.broker.storage.leaves import Leaves

    Missed = Callable[[int, int | None, str], None]
    Found = Callable[[int, int], Iterator[tuple[object, ...]]]

LOWEST: Final = -(1 << 63)
HIGHEST: Final = (1 << 63) - 1

ROWS: Final = f"SELECT seq, idx, {SIZE}, sum FROM batch WHERE seq >= ? ORDER BY seq"
DEFINITIONS: Final = "SELECT id, kind, key, value FROM meta WHERE id >= ? ORDER BY id"


def rows(
    connection: sqlite3.Connection, leaves: Leaves, missed: Missed
) -> Iterator[tuple[object, ...]]:
    """Return what `ROWS` has, ascending, and what is only on pages that SQLite does not find."""

    def found(first: int, last: int) -> Iterator[tuple[object, ...]]:
        for seq, index, checksum, body in leaves.between("batch", first, last):
            yield seq, index, size_of(body), checksum

    return walk(connection, ROWS, missed, found)


def definitions(
    connection: sqlite3.Connection, leaves: Leaves, missed: Missed
) -> Iterator[tuple[object, ...]]:
    """Return what `DEFINITIONS` has, and what is only on pages that SQLite does not find."""
    return walk(connection, DEFINITIONS, missed, partial(leaves.between, "meta"))


def _nothing(*_: int) -> Iterator[tuple[object, ...]]:
    return iter(())


def walk(
    connection: sqlite3.Connection, query: str, missed: Missed, found: Found = _nothing
) -> Iterator[tuple[object, ...]]:
    """Return what a query has, in the order of the number that is first, and step over damage.

    Args:
      query: It takes the lowest number.
      missed: Called for what cannot be read: from where, up to where (None: the end), and why.
      found: Returns what is known of that from elsewhere.
    """
    start = LOWEST
    strange: set[int] = set()  # out of order, said once
    while True:
        try:
            for row in connection.execute(query, (start,)):
                if row[0] >= start:
                    start = min(row[0] + 1, HIGHEST)
                elif row[0] in strange:
                    continue
                else:
                    strange.add(row[0])
                yield row
            return
        except sqlite3.DatabaseError as problem:
            text = str(problem)
        # The one that was to come when the next failed; a number that does not grow would come
        # again and again.
        with suppress(sqlite3.DatabaseError):
            row = _first_from(connection, query, start)
            if row is None:
                return
            start = min(row[0] + 1, HIGHEST)
            yield row
            continue
        following = _readable_after(connection, query, start)
        others = 0
        for row in found(start, HIGHEST if following is None else following - 1):
            others += 1
            yield row
        if others:
            text = f"{text} ({others:,} were found on their pages)"
        missed(start, None if following is None else following - 1, text)
        if following is None:
            return
        start = following


def _first_from(connection: sqlite3.Connection, query: str, number: int) -> tuple[int, ...] | None:
    """Return the first row from a number on, or raise what SQLite does if it is wrong."""
    row: tuple[int, ...] | None = connection.execute(query + " LIMIT 1", (number,)).fetchone()
    if row is not None and row[0] < number:
        raise sqlite3.DatabaseError("rows are out of order")
    return row


def _readable_after(connection: sqlite3.Connection, query: str, start: int) -> int | None:
    """Return the first number that can be read behind one that cannot; None for the end."""
    bad, step = start, 1
    while True:
        if bad + step > HIGHEST:
            return None
        try:
            hit = _first_from(connection, query, bad + step)
            break
        except sqlite3.DatabaseError:
            bad, step = bad + step, 2 * step
    good = bad + step
    while good - bad > 1:
        middle = (good + bad) // 2
        try:
            hit, good = _first_from(connection, query, middle), middle
        except sqlite3.DatabaseError:
            bad = middle
    return None if hit is None else hit[0]


class Octets:
    """The body of a row, also one that can be read only in part.

    Attributes:
      whole: All of it; None if it cannot be read as a whole.
      stored: What is in the row: the body, or where it is; None if that cannot be read.
    """

    def __init__(
        self, connection: sqlite3.Connection, seq: int, leaves: Leaves | None = None
    ) -> None:
        self._connection = connection
        self._seq = seq
        self.stored = self._stored(leaves)
        self._place = place_of(self.stored)
        self.whole: bytes | None = None
        if isinstance(self.stored, bytes):
            self.whole = self.stored
        elif self._place is not None:
            octets = self._beside(self._place, 0, self._place.size)
            self.whole = octets if len(octets) == self._place.size else None

    def _stored(self, leaves: Leaves | None) -> bytes | str | None:
        with suppress(sqlite3.DatabaseError):
            query = "SELECT body FROM batch WHERE seq = ?"
            row = self._connection.execute(query, (self._seq,)).fetchone()
            return row[0] if row is not None and isinstance(row[0], bytes | str) else None
        found: bytes | str | None = None
        for *_, body in leaves.between("batch", self._seq, self._seq) if leaves else ():
            if isinstance(body, bytes | str):
                found = body
        return found

    def _beside(self, place: Place, offset: int, length: int) -> bytes:
        with suppress(OSError):
            return read(path_of(self._connection), place, offset, length)
        return b""

    def piece(self, offset: int, length: int) -> bytes:
        """Return some octets; fewer, or none, if they are not there or cannot be read."""
        if self.whole is not None:
            return self.whole[offset : offset + length]
        if self._place is not None:
            return self._beside(self._place, offset, length)
        try:
            return piece_of(self._connection, self._seq, offset, length)
        except (sqlite3.Error, ValueError):
            return b""


def reach(
    connection: sqlite3.Connection, leaves: Leaves, seq: int, size: int, *, is_deep: bool
) -> int:
    """Return how many octets there are, one after the other, of a message that has several rows.

    Args:
      seq: The first of the rows.
      size: Octets of its body.
      is_deep: Whether the bodies have to be readable.
    """
    for following in range(seq + 1, HIGHEST):
        found = _row(connection, leaves, following)
        if found is None:
            break
        index, length = found
        try:
            part = long_of(decode(index))
        except RecordError:
            break
        if part != (seq, length):
            break
        if is_deep and Octets(connection, following, leaves).whole is None:
            break
        size += length
    return size


def _row(connection: sqlite3.Connection, leaves: Leaves, seq: int) -> tuple[bytes, int] | None:
    """Return index of a row, and octets of its body; None if it cannot be read, or is no row."""
    with suppress(sqlite3.DatabaseError):
        query = f"SELECT idx, {SIZE} FROM batch WHERE seq = ?"
        for index, length in connection.execute(query, (seq,)):
            if isinstance(index, bytes) and isinstance(length, int):
                return index, length
    for _, index, _, body in leaves.between("batch", seq, seq):
        size = size_of(body)
        if isinstance(index, bytes) and size is not None:
            return index, size
    return None

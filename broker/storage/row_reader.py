"""RowReader: what is read of a database, while another connection writes.

Law: everything here runs in the thread that owns the connection. What is not as it was written is
never handed out: rows ascend, and a body is compared with its checksum when it is first read.

Called by: storage.sqlite (in its reader's thread).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from leveret.broker.storage.base import CHANGED, Damaged, StoreError
from leveret.broker.storage.bodies import NO_DESCRIPTOR, SIZE, file_of, place_of, read
from leveret.broker.storage.database import connect, number, piece_of, settle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from leveret.broker.storage.base import Ref
    from leveret.broker.storage.bodies import Place

STEP_OCTETS: Final = 1 << 20  # of indexes, read at once
MOST_CHECKED: Final = 100_000  # rows that are remembered
FEW_PIECES: Final = 16  # of a row, that are read each by itself
SPARES: Final = 4  # descriptors for when clients have taken all others


class RowReader:
    """A connection that reads.

    Raises:
      sqlite3.Error: The database cannot be opened.
      OSError: No descriptor is left.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._spares = [_spare() for _ in range(SPARES)]
        # Rows whose bodies were read and are as they were written: where those are, if not in them.
        self._checked: dict[int, str | None] = {}
        self._connection = connect(file)
        settle(self._connection)
        self._connection.execute("PRAGMA cache_size = -4000")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        while self._spares:
            os.close(self._spares.pop())

    def indexes_after(self, seq: int) -> list[tuple[int, bytes]]:
        """Return number and index of some of the rows after one.

        Raises:
          Damaged: The next one cannot be read, or is not what was written.
        """
        rows: list[tuple[int, bytes]] = []
        size, query = 0, "SELECT seq, idx FROM batch WHERE seq > ? ORDER BY seq"
        try:
            with closing(self._connection.execute(query, (seq,))) as cursor:
                for row in cursor:
                    if row[0] <= seq:
                        raise Damaged(f"{self.file}: row {row[0]} comes after row {seq}")
                    if not isinstance(row[1], bytes):
                        raise Damaged(f"{self.file}: row {row[0]}: it is no row")
                    seq = row[0]
                    rows.append(row)
                    size += len(row[1])
                    if size >= STEP_OCTETS:
                        break
        except sqlite3.Error as problem:
            raise Damaged(self._which(seq, problem)) from problem
        return rows

    def body_sizes(self, first: int, last: int) -> list[int]:
        """Return how long the bodies of rows are, in their order."""
        # The length stands in the head of a row: its body is left alone.
        query = f"SELECT {SIZE} FROM batch WHERE seq BETWEEN ? AND ? ORDER BY seq"
        return [size for (size,) in self._connection.execute(query, (first, last))]

    def _which(self, seq: int, problem: sqlite3.Error) -> str:
        """Return what to say of the row after one, which cannot be read."""
        with suppress(sqlite3.Error):  # one that can be read is not handed out before the next is
            query = "SELECT seq, idx FROM batch WHERE seq > ? ORDER BY seq LIMIT 1"
            seq = number(self._connection, query, (seq,))
        query = "SELECT min(seq) FROM batch WHERE seq > ?"
        name = f"the row after {seq}" if seq > -1 << 63 else "the first row"
        with suppress(sqlite3.Error):
            name = f"row {number(self._connection, query, (seq,))}"
        return f"{self.file}: {name} cannot be read: {problem}"

    def bodies(self, refs: Sequence[Ref]) -> list[bytes]:
        """Return octets of bodies, in the order asked for.

        Raises:
          StoreError: They are not there.
          Damaged: A body is not what was written.
        """
        found: list[bytes] = []
        for seq, group in groupby(refs, attrgetter("seq")):
            wanted = list(group)
            try:
                found += self._of_row(seq, wanted)
            except sqlite3.Error as problem:
                raise StoreError(f"{self.file}: row {seq}: {problem}") from problem
        return found

    def _of_row(self, seq: int, refs: Sequence[Ref]) -> list[bytes]:
        """Read the pieces that are wanted of a row, or all of it if they are many.

        The first time all of it, as its checksum is that of the whole.
        """
        if len(refs) <= FEW_PIECES and seq in self._checked:
            where = self._checked[seq]
            pieces = [
                piece_of(self._connection, seq, offset, length)
                if where is None
                else self._beside(seq, where, offset, length)
                for _, offset, length in refs
            ]
        else:
            body = self._body(seq)
            pieces = [body[offset : offset + length] for _, offset, length in refs]
        if any(len(piece) != ref.length for piece, ref in zip(pieces, refs, strict=True)):
            raise StoreError(f"{self.file}: row {seq} is shorter than it should be")
        return pieces

    def _body(self, seq: int) -> bytes:
        checksum, stored = self._row(seq, "sum, body")
        where = stored if isinstance(stored, str) else None
        body: bytes = stored if where is None else self._beside(seq, where)
        if crc32(body) != checksum:
            raise Damaged(f"{self.file}: row {seq}: {CHANGED}")
        if len(self._checked) >= MOST_CHECKED:
            self._checked.clear()
        self._checked[seq] = where
        return body

    def _row(self, seq: int, columns: str) -> tuple[Any, ...]:
        query = f"SELECT {columns} FROM batch WHERE seq = ?"
        found: tuple[Any, ...] | None = self._connection.execute(query, (seq,)).fetchone()
        if found is None:
            raise StoreError(f"{self.file}: row {seq} is not there")
        return found

    def _beside(self, seq: int, where: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return octets of a body that is not in its row.

        What was read counts if the row is still there then: its body stays as long as it does.
        """
        place = place_of(where)
        if place is None:
            raise Damaged(f"{self.file}: row {seq}: it does not say where its body is")
        octets, reason = b"", "it was cut"
        try:
            octets = self._read(place, offset, length)
        except OSError as problem:
            reason = os.strerror(problem.errno or 0)
            if problem.errno in NO_DESCRIPTOR:
                raise StoreError(f"{self.file}: row {seq}: {reason}") from problem
        if self._row(seq, "body") != (where,):
            raise StoreError(f"{self.file}: row {seq} is not there")
        most = max(place.size - offset, 0)
        if len(octets) != (most if length is None else min(length, most)):
            path = file_of(self.file, place.file)
            raise Damaged(f"{path}: the body of row {seq} cannot be read: {reason}")
        return octets

    def _read(self, place: Place, offset: int, length: int | None) -> bytes:
        try:
            while True:
                try:
                    return read(self.file, place, offset, length)
                except OSError as problem:
                    if problem.errno not in NO_DESCRIPTOR or not self._spares:
                        raise
                os.close(self._spares.pop())  # a client that comes now may be faster
        finally:
            with suppress(OSError):
                while len(self._spares) < SPARES:
                    self._spares.append(_spare())

    def definitions(self) -> list[tuple[str, bytes, bytes]]:
        """Return kind, key and value of all definitions, in the order they were first kept.

        Raises:
          Damaged: They are not what was written.
        """
        query = "SELECT kind, key, value FROM meta ORDER BY id"
        found = self._connection.execute(query).fetchall()
        if any(tuple(map(type, row)) != (str, bytes, bytes) for row in found):
            raise Damaged(f"{self.file}: not all definitions are some")
        return found


def _spare() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

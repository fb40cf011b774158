"""Compaction: what lives in rows that are mostly dead, or too small, is moved into a new row.

Law: messages keep their positions. Old rows go in the same commit that brings the new one. What
was settled after its octets were read is left out.

Called by: storage.journal, server.housekeeper.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.storage.base import Ref

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leveret.broker.storage.segment import LiveRow, Segment

STEP_OCTETS = 1 << 20  # moved in one commit
STEP_ROWS = 1024
# So many have to be there, or so many octets of the living: one row less is not worth a commit.
LEAST_ROWS, LEAST_OCTETS = 64, 1 << 18
AGE = 128  # rows made since: what is young may be gone soon by itself


class Piece(NamedTuple):
    """Neighbouring messages of a row that lived when it was planned."""

    segment: Segment
    first: int
    length: int

    @property
    def is_there(self) -> bool:
        """Whether their octets have not been given up since."""
        return not self.segment.row.is_bare

    def ref(self) -> Ref:
        """Return where their octets are."""
        places = self.segment.places(self.first, self.length)
        start = min(place[0] for place in places)
        return Ref(self.segment.row.seq, start, max(sum(place) for place in places) - start)

    def living(self, octets: bytes) -> Iterator[tuple[int, bytes, tuple[int, int, int]]]:
        """Return position, octets, and sizes of those messages that live still."""
        end = self.first + self.length
        start = self.ref().offset
        for first, count in self.segment.runs():
            low, high = max(first, self.first), min(first + count, end)
            if low < high:
                places = self.segment.places(low, high - low)
                for position, (offset, *sizes) in enumerate(places, low):
                    at = offset - start
                    publish, header, body = sizes
                    yield position, octets[at : at + sum(sizes)], (publish, header, body)


class Waste:
    """The rows that should be moved together, oldest first."""

    def __init__(self) -> None:
        self._rows: dict[LiveRow, None] = {}

    def add(self, row: LiveRow) -> None:
        """Remember a row if it is wasteful."""
        if row.live and row.is_wasteful and not row.is_moving:
            self._rows[row] = None

    def discard(self, row: LiveRow) -> None:
        """Forget a row that is gone."""
        self._rows.pop(row, None)

    def choose(self, next_seq: int) -> list[LiveRow]:
        """Return rows to be moved in one step; none if it is not worth it yet."""
        chosen: list[LiveRow] = []
        octets = 0
        for row in islice(self._rows, STEP_ROWS):
            if row.seq + AGE <= next_seq and row.live:
                chosen.append(row)
                octets += row.live_octets
                if octets >= STEP_OCTETS:
                    break
        if len(chosen) < LEAST_ROWS and octets < LEAST_OCTETS:
            return []
        for row in chosen:
            row.is_moving = True
            del self._rows[row]
        return chosen


def pieces(rows: Sequence[LiveRow]) -> list[Piece]:
    """Return what lives in some rows."""
    return [
        Piece(segment, first, count)
        for row in rows
        for segment in row.segments
        for first, count in segment.runs()
    ]

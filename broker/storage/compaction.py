"""Compaction: what lives in rows that are mostly dead, or too small, is moved into a new row.

Law: messages keep their positions. Old rows go in the same commit that brings the new one. What
was settled after its octets were read is left out.

Called by: storage.journal, storage.tools (plan), server.housekeeper (reads the pieces).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.storage.base import Ref
from leveret.broker.storage.segment import LEAST_ROW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leveret.broker.storage.segment import LiveRow, Segment

# What is read, and what is moved, in one step.
READ_OCTETS, STEP_OCTETS = 4 << 20, 1 << 20
STEP_PIECES = 400  # of whatever size: each takes its time in the event loop
# What a step has to be good for: octets that it frees, or rows. Less is not worth a commit.
LEAST_GAIN, LEAST_ROWS = 1 << 20, 64
AGE = 127  # rows kept since: what is young may be gone soon by itself


class Piece(NamedTuple):
    """What is read of a row: a segment, with what is dead in it."""

    segment: Segment

    @property
    def is_there(self) -> bool:
        """Whether its octets have not been given up since."""
        return not self.segment.row.is_bare

    def ref(self) -> Ref:
        """Return where its octets are."""
        segment = self.segment
        places = segment.places(segment.base, segment.end - segment.base)
        start = min(place[0] for place in places)
        return Ref(segment.row.seq, start, max(sum(place) for place in places) - start)

    def living(self, octets: bytes) -> Iterator[tuple[int, bytes, tuple[int, int, int]]]:
        """Return position, octets, and sizes of those messages that live still."""
        segment = self.segment
        places = segment.places(segment.base, segment.end - segment.base)
        start = min(place[0] for place in places)
        for first, count in segment.runs():
            for position in range(first, first + count):
                offset, publish, header, body = places[position - segment.base]
                at = offset - start
                end = at + publish + header + body
                yield position, octets[at:end], (publish, header, body)


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

    def choose(self, kept_seq: int) -> list[LiveRow]:
        """Return rows to be moved in one step; none if it is not worth it yet.

        Args:
          kept_seq: The last row that is in the store for certain.
        """
        chosen: list[LiveRow] = []
        read = moved = gain = count = 0
        for row in self._rows:
            if row.seq + AGE > kept_seq or read >= READ_OCTETS or moved >= STEP_OCTETS:
                break
            count += len(row.segments)
            if chosen and count > STEP_PIECES:
                break
            chosen.append(row)
            read += row.octets
            moved += row.live_octets
            gain += max(row.octets, LEAST_ROW) - row.live_octets
        if gain < LEAST_GAIN and len(chosen) < LEAST_ROWS:
            return []
        for row in chosen:
            row.is_moving = True
            del self._rows[row]
        return chosen


def pieces(rows: Sequence[LiveRow]) -> list[Piece]:
    """Return what lives in some rows."""
    return [Piece(segment) for row in rows for segment in row.segments if segment.live]

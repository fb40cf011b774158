"""Deadlines: very many ranges of positions, by when they are due.

Law: an entry is one integer, so that a million of them are some fifty octets each, and in order as
they are. A few wait in a heap as they come; where they are too many they become a row in order. No
row is long and none stays short, so that nothing that is done here at a stroke takes long. Nothing
is ever looked for: what is not wanted any more stays until it is due, or until all is looked
through, in steps.

Called by: core.timers; core.extras, for queues whose messages expire or wait.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import heapify, heappop, heappush, heapreplace, merge
from itertools import islice
from operator import eq, neg
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# An entry is when << 64 | first << 16 | count - 1.
WHEN_SHIFT = 64
FIRST_SHIFT = 16
FIRST_MASK = (1 << WHEN_SHIFT - FIRST_SHIFT) - 1
COUNT_MASK = (1 << FIRST_SHIFT) - 1
MOST = 1 << FIRST_SHIFT  # positions of one entry

FEW = 1024  # entries in the heap; together they become a row
SHORT = FEW // 4  # entries of a row below which they go back to the heap


class _Row(list[int]):
    """Entries in order, the first one at the end.

    Attributes:
      is_single: Whether each is of one position.
    """

    __slots__ = ("is_single",)
    is_single: bool


class Deadlines:
    """Positions and when they are due; what is added twice is due twice.

    Attributes:
      positions: How many positions its entries have together.
    """

    __slots__ = ("_end", "_entries", "_few", "_first", "_rows", "_when", "positions")

    def __init__(self) -> None:
        self._few: list[int] = []  # a heap
        # A heap of rows by an entry that is not behind their first; each is in order, the first
        # entry at its end. `rebuild` leaves some empty, and some with another first entry.
        self._rows: list[tuple[int, _Row]] = []
        self._entries = 0  # in the heap and the rows
        self.positions = 0
        # The entry that grows: it is not among the others yet. None if first and end are equal.
        self._when = self._first = self._end = 0

    def __len__(self) -> int:
        """Return how many entries there are."""
        return self._entries + (self._end > self._first)

    def add(self, when: int, first: int, count: int = 1) -> None:
        """Have positions due at a time; neighbours added one after the other are one entry.

        Args:
          when: In whatever unit `due` is asked in.
          first: The first position, below 2^48.
          count: How many positions they are, one behind the other.
        """
        self.positions += count
        if when == self._when and first == self._end:
            self._end += count
        else:
            self._store()
            self._when, self._first, self._end = when, first, first + count
        while self._end - self._first > MOST:
            rest = self._first + MOST, self._end
            self._end = rest[0]
            self._store()
            self._first, self._end = rest

    def extend(self, whens: Sequence[int], positions: Sequence[int]) -> None:
        """Have ascending positions due at times, one each: `add` for very many."""
        self._store()
        if any(map(eq, whens, islice(whens, 1, None))):
            entries = _joined(whens, positions)
        else:
            pairs = zip(whens, positions, strict=True)
            entries = [when << WHEN_SHIFT | first << FIRST_SHIFT for when, first in pairs]
        self.positions += len(positions)
        self._entries += len(entries)
        few = self._few
        if len(few) + len(entries) <= FEW:
            for entry in entries:
                heappush(few, entry)
            return
        few = [*few, *entries]
        end = 0
        while len(few) - end > FEW:
            self._add_row(few[end : end + FEW])
            end += FEW
        self._few = few[end:]
        heapify(self._few)

    def _store(self) -> None:
        """Put the entry that grows to the others."""
        first, end = self._first, self._end
        if first == end:
            return
        self._first = end
        self._entries += 1
        few = self._few
        heappush(few, self._when << WHEN_SHIFT | first << FIRST_SHIFT | end - first - 1)
        if len(few) > FEW:
            self._few = []
            self._add_row(few)

    def _add_row(self, entries: list[int]) -> None:
        row = _Row(entries)
        row.sort(reverse=True)
        row.is_single = _positions(row) == len(row)
        heappush(self._rows, (row[-1], row))

    @property
    def next(self) -> int | None:
        """When the next is due; None if there are none."""
        if not self.positions:  # as with most queues, of which this is asked in each turn
            return None
        self._store()
        self._look_at_rows()
        few, rows = self._few, self._rows
        if rows and not (few and few[0] <= rows[0][0]):
            return rows[0][0] >> WHEN_SHIFT
        return few[0] >> WHEN_SHIFT if few else None

    def _look_at_rows(self) -> None:
        """Bring the row to the front that has the first entry of all rows."""
        rows = self._rows
        while rows:
            known, row = rows[0]
            if not row:
                heappop(rows)
            elif row[-1] != known:
                heapreplace(rows, (row[-1], row))
            else:
                return

    def due(self, now: int, limit: int | None = None) -> list[tuple[int, int]]:
        """Remove what is due at a time or before, the earliest first.

        Args:
          now: The time.
          limit: How many positions they may be; the last range is cut for it. None for all.

        Returns:
          Ranges: their first position, and how many they are.
        """
        self._store()
        entries, count = self._pop(
            now + 1 << WHEN_SHIFT, self.positions if limit is None else limit
        )
        self._entries -= len(entries)
        self.positions -= count
        ranges = [
            (entry >> FIRST_SHIFT & FIRST_MASK, (entry & COUNT_MASK) + 1) for entry in entries
        ]
        if limit is not None and count > limit:
            first, last_count = ranges[-1]
            kept = last_count - (count - limit)
            ranges[-1] = (first, kept)
            self.add(entries[-1] >> WHEN_SHIFT, first + kept, count - limit)
        return ranges

    def _pop(self, end: int, limit: int) -> tuple[list[int], int]:
        """Remove entries below another until they have enough positions; how many those are."""
        few, rows = self._few, self._rows
        entries: list[int] = []
        count = 0
        while count < limit:
            if rows and not (few and few[0] <= rows[0][0]):
                entry, row = rows[0]
                if not row or row[-1] != entry:
                    self._look_at_rows()
                    continue
                if entry >= end:
                    break
                row.pop()
                if len(row) < SHORT:
                    heappop(rows)
                    self._dissolve(row)
                    few = self._few
                else:
                    heapreplace(rows, (row[-1], row))
            elif few and few[0] < end:
                entry = heappop(few)
            else:
                break
            entries.append(entry)
            count += (entry & COUNT_MASK) + 1
        return entries, count

    def _dissolve(self, row: list[int]) -> None:
        """Put the rest of a row to the few."""
        few = self._few
        few += row
        row.clear()  # `rebuild` may still know it
        if len(few) > FEW:
            self._few = []
            self._add_row(few)
        else:
            heapify(few)

    # What can be seen

    def after(self, when: int, first: int = 0) -> Iterator[tuple[int, int, int]]:
        """Return the entries from a time on, in order, as long as nothing changes.

        Args:
          when: The time.
          first: The first position of that time that is of interest.

        Returns:
          When each is due, its first position, and how many they are; the first ones may be
          before what was asked for.
        """
        self._store()
        least = when << WHEN_SHIFT | max(first - MOST, 0) << FIRST_SHIFT
        parts = [iter(sorted([entry for entry in self._few if entry >= least]))]
        parts += [_from(row, least) for _, row in self._rows if row and row[0] >= least]
        for entry in merge(*parts):
            count = (entry & COUNT_MASK) + 1
            yield entry >> WHEN_SHIFT, entry >> FIRST_SHIFT & FIRST_MASK, count

    def count(self, first: int, end: int) -> int:
        """Return how many positions are due from one time up to another, which is not meant."""
        self._store()
        least, most = first << WHEN_SHIFT, end << WHEN_SHIFT
        count = _positions([entry for entry in self._few if least <= entry < most])
        for _, row in self._rows:
            if row and row[0] >= least and row[-1] < most:
                start = 0 if row[0] < most else _above(row, most)
                end = len(row) if row[-1] >= least else _above(row, least)
                count += end - start if row.is_single else _positions(row[start:end])
        return count

    def rebuild(self, is_wanted: Callable[[int, int, int], bool]) -> Iterator[None]:
        """Forget the entries that are not wanted any more, in short steps.

        What is added meanwhile is not looked at, and what is due meanwhile is due. Two of these
        may not go on at once.

        Args:
          is_wanted: Whether any position of a range is; called with when it is due, the first and
            the count.
        """
        self._store()
        rows = [row for _, row in self._rows]
        self._few = self._wanted(self._few, is_wanted)
        heapify(self._few)
        for row in rows:
            yield
            row[:] = self._wanted(row, is_wanted)
            if len(row) < SHORT:
                self._dissolve(row)
        self._rows = [(row[-1], row) for _, row in self._rows if row]
        heapify(self._rows)

    def _wanted(self, entries: list[int], is_wanted: Callable[[int, int, int], bool]) -> list[int]:
        kept = [
            entry
            for entry in entries
            if is_wanted(
                entry >> WHEN_SHIFT, entry >> FIRST_SHIFT & FIRST_MASK, (entry & COUNT_MASK) + 1
            )
        ]
        self._entries -= len(entries) - len(kept)
        self.positions -= _positions(entries) - _positions(kept)
        return kept

    def clear(self) -> Iterator[None]:
        """Forget everything; what is returned frees it, some at a time."""
        rows, self._rows, self._few = self._rows, [], []
        self._first = self._end
        self._entries = self.positions = 0
        return _free(rows)


def _joined(whens: Sequence[int], positions: Sequence[int]) -> list[int]:
    """Return entries for ascending positions, one for neighbours that are due at the same time."""
    entries: list[int] = []
    last = first = end = 0
    for when, position in zip(whens, positions, strict=True):
        if when == last and position == end and end - first < MOST:
            end += 1
            continue
        if end > first:
            entries.append(last << WHEN_SHIFT | first << FIRST_SHIFT | end - first - 1)
        last, first, end = when, position, position + 1
    if end > first:
        entries.append(last << WHEN_SHIFT | first << FIRST_SHIFT | end - first - 1)
    return entries


def _above(row: list[int], least: int) -> int:
    """Return how many entries of a row, which come first, are not below another."""
    return bisect_right(row, -least, key=neg)


def _from(row: list[int], least: int) -> Iterator[int]:
    """Return the entries of a row from one on, ascending."""
    return map(row.__getitem__, range(_above(row, least) - 1, -1, -1))


def _positions(entries: list[int]) -> int:
    return sum([entry & COUNT_MASK for entry in entries]) + len(entries)


def _free(rows: list[tuple[int, _Row]]) -> Iterator[None]:
    while rows:
        rows.pop()
        yield

"""Returned: messages that came back to a queue, in order of position.

Law: a few wait as they come, in a heap. Where they are too many they are put in order and go to
the others, so that neither one more message nor looking at all of them takes long.

Called by: core.queue.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from operator import itemgetter
from typing import TYPE_CHECKING

from leveret.broker.core.runs import UNLIMITED, free, octets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.message import Message

Entry = tuple[int, "Message"]  # position and message
Range = tuple[int, int]  # first and last position

FEW = 1024
STEP = 1024  # messages that are freed at a stroke

_position = itemgetter(0)


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges that do not overlap in order, neighbours as one.

    >>> merged([(4, 5), (0, 1), (2, 3), (7, 7)])
    [(0, 5), (7, 7)]
    """
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and found[-1][1] + 1 == first:
            found[-1] = found[-1][0], last
        else:
            found.append((first, last))
    return found


class Returned:
    """Messages by position.

    Attributes:
      count: How many they are.
      bytes: Their octets.
    """

    __slots__ = ("_few", "_rows", "bytes", "count")

    def __init__(self) -> None:
        self._few: list[Entry] = []  # a heap
        # a heap of rows by their first position; each is in order, the first entry at its end
        self._rows: list[tuple[int, list[Entry]]] = []
        self.count = 0
        self.bytes = 0

    def add(self, entries: Sequence[Entry], size: int) -> None:
        """Take in messages and their octets, in any order."""
        self.count += len(entries)
        self.bytes += size
        few = self._few
        if len(few) + len(entries) > FEW:
            row = [*few, *entries]
            row.sort(key=_position, reverse=True)
            few.clear()
            heappush(self._rows, (row[-1][0], row))
        elif len(entries) > len(few) // 8:
            few += entries
            heapify(few)
        else:
            for entry in entries:
                heappush(few, entry)

    def take(self, limit: int, size: int = UNLIMITED) -> tuple[list[int], list[Message]]:
        """Remove messages from the front; return their positions and them.

        Args:
          limit: How many they may be.
          size: How many octets they may have together, unless it is one.
        """
        positions: list[int] = []
        messages: list[Message] = []
        few, rows = self._few, self._rows
        while len(messages) < limit and (few or rows):
            is_in_row = bool(rows) and (not few or rows[0][0] < few[0][0])
            row = rows[0][1] if is_in_row else few
            position, message = row[-1 if is_in_row else 0]
            size -= message.header_size + message.size
            if size < 0 and messages:
                break
            positions.append(position)
            messages.append(message)
            if not is_in_row:
                heappop(few)
                continue
            row.pop()
            if row:
                heapreplace(rows, (row[-1][0], row))
            else:
                heappop(rows)
        self.count -= len(messages)
        self.bytes -= octets(messages)
        return positions, messages

    def ranges(self) -> list[Range]:
        """Return the positions, first and last of neighbours, ascending."""
        found: list[Range] = [(position, position) for position, _ in self._few]
        for first, row in self._rows:
            last = row[0][0]
            if last - first + 1 == len(row):
                found.append((first, last))
            else:
                found += [(position, position) for position, _ in reversed(row)]
        return merged(found)

    def clear(self) -> Iterator[None]:
        """Drop everything; what is returned frees it, some at a time."""
        rows = [row for _, row in self._rows]
        rows.append(self._few)
        self._few, self._rows = [], []
        self.count = self.bytes = 0
        return _free(rows)


def _free(rows: list[list[Entry]]) -> Iterator[None]:
    for row in rows:
        yield from free(row, STEP)

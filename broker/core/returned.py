"""Returned: messages that came back to a queue, in order of position.

Law: a few wait as they come, in a heap. Where they are too many they are put in order and go to
the others, so that neither one more message nor looking at all of them takes long. Of some only
position and size are here; the first ones of those are gathered and read together.

Called by: core.stock, core.queue, core.paging, core.inspect (looks).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from heapq import heapify, heappop, heappush, heapreplace, merge
from operator import itemgetter
from typing import TYPE_CHECKING, cast

from leveret.broker.core.chunks import Paged
from leveret.broker.core.message import Absent, absent_octets, octets
from leveret.broker.core.runs import CHUNK_LENGTH, PIECE_OCTETS, UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leveret.broker.core.log import Log
    from leveret.broker.core.message import Message

Entry = tuple[int, "Message | Absent"]  # position and message

FEW = 1024
STEP = 1024  # messages that are freed at a stroke

_position, _message = itemgetter(0), itemgetter(1)


class Returned:
    """Messages by position.

    Attributes:
      count: How many they are.
      bytes: Their octets.
      absent_bytes: The octets of those that are not in memory.
      asked: What is being read.
    """

    __slots__ = ("_few", "_gathered", "_rows", "absent_bytes", "asked", "bytes", "count")

    def __init__(self) -> None:
        self._few: list[Entry] = []  # a heap
        # a heap of rows by their first position; each is in order, the first entry at its end
        self._rows: list[tuple[int, list[Entry]]] = []
        self._gathered: list[Entry] = []  # the row that is being read
        self.asked: Paged | None = None
        self.count = 0
        self.bytes = 0
        self.absent_bytes = 0

    def add(self, entries: Sequence[Entry], size: int) -> None:
        """Take in messages and their octets, in any order."""
        self.count += len(entries)
        self.bytes += size
        self.absent_bytes += absent_octets(map(_message, entries))
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
        """Remove messages from the front, which is loaded; return their positions and them.

        Args:
          limit: How many they may be.
          size: How many octets they may have together, unless it is one.
        """
        entries = self._pop(limit, size)
        messages = cast("list[Message]", list(map(_message, entries)))
        self.count -= len(entries)
        self.bytes -= octets(messages)
        return list(map(_position, entries)), messages

    def take_out(self, limit: int) -> list[Entry]:
        """Remove entries from the front, loaded or not; what is being read is no longer needed."""
        self._gathered, self.asked = [], None
        entries = self._pop(limit, UNLIMITED, with_absent=True)
        self.count -= len(entries)
        self.bytes -= octets(map(_message, entries))
        self.absent_bytes -= absent_octets(map(_message, entries))
        return entries

    def _pop(self, limit: int, size: int, *, with_absent: bool = False) -> list[Entry]:
        """Remove entries from the front, without others up to the first that is not in memory."""
        popped: list[Entry] = []
        few, rows = self._few, self._rows
        while len(popped) < limit and (few or rows):
            is_in_row = bool(rows) and (not few or rows[0][0] < few[0][0])
            row = rows[0][1] if is_in_row else few
            entry = row[-1 if is_in_row else 0]
            message = entry[1]
            size -= message.header_size + message.size
            if (size < 0 and popped) or (message.__class__ is Absent and not with_absent):
                break
            popped.append(entry)
            if not is_in_row:
                heappop(few)
                continue
            row.pop()
            if row:
                heapreplace(rows, (row[-1][0], row))
            else:
                heappop(rows)
        return popped

    def remove(self, first: int, last: int) -> list[Entry]:
        """Remove all from a position to another, wherever they stand; return them."""
        found = [entry for entry in self._few if first <= entry[0] <= last]
        if found:
            self._few = [entry for entry in self._few if not first <= entry[0] <= last]
            heapify(self._few)
        for _, row in self._rows:  # the first entry of each is at its end
            start = bisect_left(row, -last, key=_downwards)
            end = bisect_right(row, -first, key=_downwards)
            if start == end:
                continue
            found += row[start:end]
            del row[start:end]
            if row is self._gathered:  # what is being read is asked for again
                self._gathered, self.asked = [], None
        if found:
            self._rows = [(row[-1][0], row) for _, row in self._rows if row]
            heapify(self._rows)
            messages = [message for _, message in found]
            self.count -= len(found)
            self.bytes -= octets(messages)
            self.absent_bytes -= absent_octets(messages)
        return found

    def after(self, position: int) -> Iterator[Entry]:
        """Return the entries after a position, in order; nothing may change meanwhile."""
        few = sorted((entry for entry in self._few if entry[0] > position), key=_position)
        rows = (_rest(row, position) for _, row in self._rows)
        return merge(few, *rows, key=_position)

    # What is not in memory

    @property
    def is_loaded(self) -> bool:
        """Whether the first one, if there is any, is in memory."""
        if not self.absent_bytes:
            return True
        few, rows = self._few, self._rows
        is_in_row = bool(rows) and (not few or rows[0][0] < few[0][0])
        return (rows[0][1][-1] if is_in_row else few[0])[1].__class__ is not Absent

    def gather(self) -> Paged:
        """Put the first ones together, the very first of which is not loaded; ask for the absent.

        Returns:
          Those, to be read; what `load` is called with.
        """
        row = self._pop(CHUNK_LENGTH, PIECE_OCTETS, with_absent=True)[::-1]
        heappush(self._rows, (row[-1][0], row))
        wanted = [entry for entry in reversed(row) if entry[1].__class__ is Absent]
        positions = list(map(_position, wanted))
        size = octets(map(_message, wanted))
        end = positions[-1] + 1
        self._gathered = row
        self.asked = Paged(positions[0], end, len(wanted), size, positions=positions)
        return self.asked

    def load(self, paged: Paged, messages: list[Message]) -> bool:
        """Take in what was asked for, in order; False if it is not here any more."""
        if paged is not self.asked or paged.positions is None:
            return False
        # Nothing of the row has been taken: its first entry was one of these.
        read = dict(zip(paged.positions, messages, strict=True))
        row, self._gathered, self.asked = self._gathered, [], None
        row[:] = [(position, read.get(position, message)) for position, message in row]
        self.absent_bytes -= paged.octets
        return True

    def clear(self, log: Log | None = None) -> Iterator[None]:
        """Drop everything; what is returned frees it, some at a time, and tells a log of it."""
        rows = [row for _, row in self._rows]
        rows.append(self._few)
        self._few, self._rows = [], []
        self._gathered, self.asked = [], None
        self.count = self.bytes = self.absent_bytes = 0
        return _free(rows, log)


def _downwards(entry: Entry) -> int:
    return -entry[0]


def _rest(row: list[Entry], position: int) -> Iterator[Entry]:
    """Return the entries of a row after a position; the first of a row is at its end."""
    end = bisect_left(row, -position, key=_downwards)
    return (row[index] for index in range(end - 1, -1, -1))


def _free(rows: list[list[Entry]], log: Log | None) -> Iterator[None]:
    for row in rows:
        while row:
            if log is not None:
                log.settled([position for position, _ in row[-STEP:]])
                log.apply()
            del row[-STEP:]
            yield

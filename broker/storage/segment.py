"""Segments: where the messages of a queue are in the rows, and which of them still count.

Law: a segment is a record of messages that were put into one queue together. It lives as long as
one of them does; a row lives as long as one of its segments does, or an older row that it says
something about: without it, what was settled there would come back.

Called by: storage.journal, storage.queue_log, storage.facts, storage.row_builder,
storage.recovery, storage.compaction, storage.row_inspection, storage.repair.
"""

from __future__ import annotations

from array import array
from itertools import accumulate, compress, islice, pairwise
from operator import not_
from typing import TYPE_CHECKING, Final

from leveret.broker.storage.base import Ref

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from leveret.broker.storage.queue_log import QueueLog
    from leveret.broker.storage.records import Enqueued


STRIDE = 64  # messages from one whose place is known to the next
LEAST_ROW = 16384  # octets of a page: what a store needs for a row, however small
_NO_COLUMNS: Final[Mapping[int, array[int]]] = {}  # of most segments


class LiveRow:
    """A row that is still needed.

    Attributes:
      seq: Its number in the store.
      count: How many messages it was made with.
      live: How many of them are not settled.
      octets: Of the body, as long as the store has one; of all bodies if there are more.
      more: For each row after it in which its message goes on, at which octet of all bodies that
        begins. Rows of a long message hold no other one.
      segments: What it says was enqueued, as far as it lives.
      statements: Its records about messages of older rows, encoded.
      refs: Those older rows, as long as they are needed.
      referrers: Younger rows that say something about this one.
      marks: The logs for which it says what was delivered.
      is_bare: Whether its body was given up.
      is_moving: Whether its messages are being read to be put elsewhere.
    """

    __slots__ = (
        "count",
        "is_bare",
        "is_moving",
        "live",
        "marks",
        "more",
        "octets",
        "referrers",
        "refs",
        "segments",
        "seq",
        "statements",
    )

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.count = 0
        self.live = 0
        self.octets = 0
        self.more: list[int] = []
        self.segments: list[Segment] = []
        self.statements = b""
        self.refs: set[LiveRow] = set()
        self.referrers: set[LiveRow] = set()
        self.marks: list[QueueLog] = []
        self.is_bare = False
        self.is_moving = False

    def __repr__(self) -> str:
        return f"<Row {self.seq}: {self.live} of {self.count}>"

    @property
    def numbers(self) -> range:
        """Its number, and those of the rows where its message goes on."""
        return range(self.seq, self.seq + 1 + len(self.more))

    def locate(self, start: int, end: int) -> list[Ref]:
        """Return where the octets from one up to another are."""
        if not self.more:
            return [Ref(self.seq, start, end - start)]
        bounds = pairwise((0, *self.more, self.octets))
        return [
            Ref(seq, max(start - first, 0), min(end, last) - max(start, first))
            for seq, (first, last) in zip(self.numbers, bounds, strict=True)
            if start < last and first < end
        ]

    @property
    def live_octets(self) -> int:
        """About how many octets of its body still count."""
        return self.octets * self.live // self.count if self.count else 0

    @property
    def is_wasteful(self) -> bool:
        """Whether half of what it takes is for nothing; of one message that is never so."""
        return not self.more and 2 * self.live_octets <= max(self.octets, LEAST_ROW)

    def refer(self, row: LiveRow) -> None:
        """Stay as long as another row, about which this one says something."""
        if row is not self:
            self.refs.add(row)
            row.referrers.add(self)

    def add(self, segment: Segment) -> None:
        """Take in a segment, all of which lives."""
        self.segments.append(segment)
        self.count += segment.live
        self.live += segment.live


class Segment:
    """Messages at neighbouring positions, in one row; some may be missing.

    Attributes:
      row: Where they are.
      record: Their positions and sizes.
      base: The first position.
      end: The position after the last.
      live: How many are not settled.
      columns: Facts of its messages, 0 for none; as they were when the row was made.
    """

    __slots__ = ("_dead", "_starts", "base", "columns", "end", "live", "record", "row")

    def __init__(self, row: LiveRow, record: Enqueued) -> None:
        self.row = row
        self.record = record
        self.base = record.base
        self.live = len(record.body_sizes)
        self.end = record.base + self.live
        self.columns = _NO_COLUMNS
        self._dead: bytearray | None = None  # one octet a message, made with the first
        self._starts: array[int] | None = None  # of some messages, made with the first
        if 0 in record.header_sizes:  # no message is without a header: these are holes
            self._dead = bytearray(not size for size in record.header_sizes)
            self.live = self._dead.count(0)

    @property
    def size(self) -> int:
        """The octets of all its messages, settled or not."""
        record = self.record
        return sum(record.publish_sizes) + sum(record.header_sizes) + sum(record.body_sizes)

    def settle(self, first: int, last: int) -> int:
        """Mark positions as settled, as far as they are here; return how many were not yet."""
        start, end = max(first, self.base) - self.base, min(last + 1, self.end) - self.base
        count = self.end - self.base
        if self._dead is None:
            if end - start == count:
                settled, self.live = self.live, 0
                return settled
            self._dead = bytearray(count)
        settled = self._dead.count(0, start, end)
        self._dead[start:end] = b"\1" * (end - start)
        self.live -= settled
        return settled

    def lives_until(self, position: int) -> int:
        """Return the end of the unsettled positions from one of its own on, itself if it is not."""
        if not self.live:
            return position
        end = -1 if self._dead is None else self._dead.find(1, position - self.base)
        return self.end if end < 0 else self.base + end

    def covers(self, position: int) -> bool:
        """Whether no other one may have a position: what was moved is in younger ones."""
        return self.live > 0 and self.base <= position < self.end

    def has(self, position: int) -> bool:
        """Whether a position of it is not settled."""
        return self.live > 0 and (self._dead is None or not self._dead[position - self.base])

    def give_up(self) -> None:
        """Count nothing of it any more, here or in its row: what lived is elsewhere, or gone."""
        self.row.live -= self.live
        self.live = 0

    def add_column(self, fact: int, values: array[int]) -> None:
        """Take in a fact of its messages."""
        self.columns = {**self.columns, fact: values}

    def positions(self, first: int, end: int) -> Iterable[int]:
        """Return the unsettled positions from one up to another, which is not meant."""
        first, end = max(first, self.base), min(end, self.end)
        if not self.live:
            return ()
        if self._dead is None:
            return range(first, end)
        dead = self._dead[first - self.base : end - self.base]
        return compress(range(first, end), map(not_, dead))

    def runs(self) -> Iterator[tuple[int, int]]:
        """Return the unsettled positions: first and number of each run of neighbours."""
        if not self.live:
            return
        if self._dead is None:
            yield self.base, self.live
            return
        at, dead = 0, self._dead
        while (start := dead.find(0, at)) >= 0:
            at = dead.find(1, start)
            if at < 0:
                at = len(dead)
            yield self.base + start, at - start

    def octets(self, first: int, count: int) -> int:
        """Return the octets of headers and bodies of some of its messages."""
        start = first - self.base
        end = start + count
        return sum(self.record.header_sizes[start:end]) + sum(self.record.body_sizes[start:end])

    def living(self, first: int, end: int) -> int:
        """Return how many positions from one up to another, which is not meant, are unsettled."""
        first, end = max(first, self.base), min(end, self.end)
        if not self.live or first >= end:
            return 0
        return (
            end - first
            if self._dead is None
            else self._dead.count(0, first - self.base, end - self.base)
        )

    def living_places(self, first: int, end: int) -> list[tuple[int, tuple[int, int, int, int]]]:
        """Return the unsettled positions from one up to another, and where they are."""
        first, end = max(first, self.base), min(end, self.end)
        found = list(zip(range(first, end), self.places(first, end - first), strict=True))
        if self._dead is None:
            return found
        dead = self._dead[first - self.base : end - self.base]
        return [each for each, is_dead in zip(found, dead, strict=True) if not is_dead]

    def places_of(self, positions: Sequence[int]) -> list[tuple[int, tuple[int, int, int, int]]]:
        """Return those of ascending positions of its own that are unsettled, and where they are."""
        record, found = self.record, []
        publish, header, body = record.publish_sizes, record.header_sizes, record.body_sizes
        offsets = record.offsets
        is_packed = len(offsets) == 1  # each begins where the one before it ends
        for position in positions:
            index = position - self.base
            offset = self._offset(index) if is_packed else offsets[index]
            if self.has(position):
                found.append((position, (offset, publish[index], header[index], body[index])))
        return found

    def _offset(self, index: int) -> int:
        """Return where a message begins of those that have no gaps between them."""
        record, starts = self.record, self._starts
        columns = (record.publish_sizes, record.header_sizes, record.body_sizes)
        if starts is None:
            wholes = map(sum, zip(*columns, strict=True))
            ends = accumulate(wholes, initial=record.offsets[0])
            starts = self._starts = array("Q", islice(ends, None, None, STRIDE))
        first = index // STRIDE * STRIDE
        return starts[index // STRIDE] + sum([sum(column[first:index]) for column in columns])

    def places(self, first: int, count: int) -> list[tuple[int, int, int, int]]:
        """Return where messages are: offset, and octets of publish method, header and body."""
        record, start = self.record, first - self.base
        end = start + count
        columns = (record.publish_sizes, record.header_sizes, record.body_sizes)
        if len(record.offsets) > 1:
            sizes = [column[start:end] for column in columns]
            return list(zip(record.offsets[start:end], *sizes, strict=True))
        begin = record.offsets[0] + sum(sum(column[:start]) for column in columns)
        sizes = [column[start:end] for column in columns]
        wholes = map(sum, zip(*sizes, strict=True))
        offsets = list(accumulate(wholes, initial=begin))[:-1]
        return list(zip(offsets, *sizes, strict=True))

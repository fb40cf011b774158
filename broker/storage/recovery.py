"""Recovery: the rows of a store become a journal again.

Law: first all that was enqueued, then all that was settled; what a row has settled reaches rows
up to itself and never younger ones. No body is read. What is damaged at the very end is left out
and said, as if its commit had not come to pass; damage anywhere else stops it.

Called by: persistence (at start), storage.inspection (offline).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from leveret.broker.core.runs import CHUNK_LENGTH, PIECE_OCTETS, Paged
from leveret.broker.storage.base import Damaged, StoreError
from leveret.broker.storage.records import (
    FORMAT,
    Counted,
    Delivered,
    Enqueued,
    RecordError,
    Settled,
    decode,
    encode_counted,
    encode_settled,
    seal,
)
from leveret.broker.storage.row_builder import ROW_SIZE
from leveret.broker.storage.segment import LiveRow, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from leveret.broker.storage.journal import Journal
    from leveret.broker.storage.queue_log import QueueLog, Range
    from leveret.broker.storage.records import Record

SHOWN: Final = 5  # queues and ranges that a line names
_HEAD: Final = 5  # octets of an index in front of its records
_record = Struct("<BBI")  # kind, flags, length


# What a row says, and what it said before it was damaged


def judge(index: bytes, size: int | None = None) -> tuple[list[Record], str]:
    """Return the records of an index, and what is wrong with the row, if anything.

    Args:
      size: Octets of the body; None if nobody has looked.

    Raises:
      StoreError: It is of a later format.
    """
    try:
        records = decode(index)
    except RecordError as problem:
        is_whole = len(index) >= _HEAD and crc32(index[4:]).to_bytes(4, "little") == index[:4]
        if is_whole and index[4] != FORMAT:
            raise StoreError(f"a later Leveret wrote it: {problem}") from None
        return salvage(index), str(problem)
    if size is not None:
        needed = max([_end(each) for each in records if isinstance(each, Enqueued)], default=0)
        if size < needed:
            return records, f"its body has {size} octets instead of {needed}"
    return records, ""


def split(index: bytes) -> Iterator[bytes]:
    """Return the records of an index, each as it is encoded, up to where they make no sense."""
    at = _HEAD
    while at + _record.size <= len(index):
        _, _, length = _record.unpack_from(index, at)
        end = at + _record.size + length
        if end > len(index):
            return
        yield index[at:end]
        at = end


def salvage(index: bytes) -> list[Record]:
    """Return what can be made out of a damaged index; some of it may be wrong."""
    found: list[Record] = []
    for octets in split(index):
        try:
            found += decode(seal([octets]))
        except RecordError:
            continue
    return found


def _end(record: Enqueued) -> int:
    columns = (record.publish_sizes, record.header_sizes, record.body_sizes)
    if len(record.offsets) > 1:
        return max(map(sum, zip(record.offsets, *columns, strict=True)))
    return record.offsets[0] + sum(map(sum, columns))


def contents(records: Iterable[Record], name: Callable[[int], str]) -> str:
    """Return for people what a damaged row held."""
    enqueued: dict[int, list[Range]] = {}
    settled: dict[int, list[Range]] = {}
    for record in records:
        if isinstance(record, Enqueued):
            last = record.base + len(record.body_sizes) - 1
            enqueued.setdefault(record.queue, []).append((record.base, last))
        elif isinstance(record, Settled):
            settled.setdefault(record.queue, []).extend(record.ranges)
    parts = [
        f"{what}: {tell(by_queue, name)}"
        for what, by_queue in (("messages", enqueued), ("settled", settled))
        if by_queue
    ]
    return f"it held {'; '.join(parts)}" if parts else "what it held cannot be made out"


def tell(by_queue: dict[int, list[Range]], name: Callable[[int], str]) -> str:
    """Return for people how many messages of which queues, and where.

    >>> tell({1: [(4, 6), (8, 8)]}, "queue {}".format)
    '4 of queue 1 (4-6, 8)'
    """
    shown = [
        f"{sum(last - first + 1 for first, last in ranges)} of {name(queue)} ({_show(ranges)})"
        for queue, ranges in list(by_queue.items())[:SHOWN]
    ]
    more = len(by_queue) - SHOWN
    return ", ".join(shown) + (f", and of {more} more queues" if more > 0 else "")


def _show(ranges: Sequence[Range]) -> str:
    shown = [f"{first}-{last}" if first < last else f"{first}" for first, last in ranges[:SHOWN]]
    return ", ".join([*shown, "..."] if len(ranges) > SHOWN else shown)


class Loss(NamedTuple):
    """A row that is damaged.

    Attributes:
      seq: Its number.
      problem: What is wrong with it.
      records: What it held, as far as that can be made out.
      size: Octets of its body; None if nobody has looked.
    """

    seq: int
    problem: str
    records: list[Record]
    size: int | None

    @property
    def messages(self) -> int:
        """How many messages it held, as far as that can be made out."""
        enqueued = [each for each in self.records if isinstance(each, Enqueued)]
        return sum(len(each.body_sizes) for each in enqueued)


class Found(NamedTuple):
    """What was found of one queue.

    Attributes:
      log: Its log.
      runs: The messages, ascending, in pieces that are read at once.
      next_position: The lowest one that was never given.
      delivered: Up to which position they may have been delivered, -1 for none.
    """

    log: QueueLog
    runs: list[Paged]
    next_position: int
    delivered: int

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Return first position and number of all neighbouring messages, ascending."""
        for segment in self.log.segments:
            yield from segment.runs()


class Recovery:
    """Reads the indexes of a store into an empty journal.

    Args:
      name: Returns the name of a queue by its number, for people.

    Attributes:
      messages: Those that rows were made with, so far.
      lost: Damaged rows that nothing came after; they are deleted with the next commit.
    """

    def __init__(self, journal: Journal, name: Callable[[int], str] = "queue {}".format) -> None:
        self._journal = journal
        self._name = name
        self._settled: list[tuple[LiveRow, Settled]] = []
        self._counted: list[tuple[LiveRow, Counted]] = []
        self._next: dict[int, int] = {}
        self.messages = 0
        self.lost: list[Loss] = []

    def read(self, seq: int, index: bytes, size: int | None = None) -> None:
        """Take in a row; they come in ascending order.

        Args:
          size: Octets of its body; None if nobody has looked.

        Raises:
          StoreError: It is of a later format, or a row before it was damaged.
        """
        try:
            records, problem = judge(index, size)
        except StoreError as later:
            raise StoreError(f"row {seq}: {later}") from None
        if self.lost and not (problem and self._may_be_one_commit()):
            first = self.lost[0]
            raise Damaged(f"row {first.seq}: {first.problem}; {self.held(first)}")
        if problem:
            self.lost.append(Loss(seq, problem, records, size))
        else:
            self.take_in(seq, records)

    def _may_be_one_commit(self) -> bool:
        """Whether a row may belong to the same commit as the damaged one before it."""
        size = self.lost[-1].size
        return size is not None and size >= ROW_SIZE  # all but the last of a commit are full

    def held(self, loss: Loss) -> str:
        """Return for people what a damaged row held."""
        return contents(loss.records, self._name)

    def take_in(self, seq: int, records: Iterable[Record]) -> None:
        """Take in the records of a row."""
        journal = self._journal
        row = journal.rows[seq] = LiveRow(seq)
        journal.next_seq, journal.kept_seq = seq + 1, seq
        for record in records:
            if isinstance(record, Enqueued):
                segment = Segment(row, record)
                row.add(segment)
                journal.log(record.queue).segments.append(segment)
                self.messages += segment.live
                self._seen(record.queue, segment.end)
            elif isinstance(record, Settled):
                self._settled.append((row, record))
            elif isinstance(record, Counted):
                self._counted.append((row, record))
            elif isinstance(record, Delivered):
                log = journal.log(record.queue)
                self._seen(record.queue, record.position + 1)
                if record.position >= log.mark:
                    log.highest = log.mark = record.position
                    log.mark_row = row
                    row.marks.append(log)
        row.is_bare = not row.segments

    def _seen(self, queue: int, position: int) -> None:
        self._next[queue] = max(self._next.get(queue, 0), position)

    def finish(self, numbers: set[int]) -> dict[int, Found]:
        """Apply what was settled, give up what is dead; return what is left, by queue.

        Args:
          numbers: The queues that still exist.
        """
        journal = self._journal
        for loss in self.lost:
            self.take_in(loss.seq, ())  # nothing lives in it: it goes like any other such row
        for log in journal.logs.values():
            log.segments.sort(key=lambda segment: segment.base)
        for row, record in self._settled:
            settled = journal.logs.get(record.queue)
            if settled is not None and record.ranges:
                self._seen(record.queue, record.ranges[-1][1] + 1)
                self._apply(row, settled, record)
        self._settled.clear()
        for row, counted in self._counted:
            came_back = journal.logs.get(counted.queue)
            if came_back is not None:
                self._count(row, came_back, counted)
        self._counted.clear()
        for number, log in tuple(journal.logs.items()):
            if number not in numbers:
                for segment in log.segments:
                    segment.row.live -= segment.live
                    segment.live = 0
                del journal.logs[number]
            log.segments = [segment for segment in log.segments if segment.live]
        journal.bury(set(journal.rows.values()))
        return {number: self._found(log) for number, log in journal.logs.items()}

    def _apply(self, row: LiveRow, log: QueueLog, record: Settled) -> None:
        hits = log.settle_older(record.ranges, row.seq)
        kept: list[tuple[int, int]] = []
        for older, ranges in hits.items():
            row.refer(older)
            kept += ranges
        if kept:
            row.statements += encode_settled(record.queue, kept)

    def _count(self, row: LiveRow, log: QueueLog, record: Counted) -> None:
        kept: dict[int, int] = {}
        for position, count in record.counts.items():
            segment = log.find(position)
            if segment is not None and segment.has(position):
                log.counts[position] = kept[position] = count
                row.refer(segment.row)
        if kept:
            row.statements += encode_counted(record.queue, kept)

    def _found(self, log: QueueLog) -> Found:
        return Found(log, _runs(log), self._next.get(log.number, 0), log.highest)


def _runs(log: QueueLog) -> list[Paged]:
    """Return what is in a log in pieces that are read at once, whatever is missing between."""
    found: list[Paged] = []
    for segment in log.segments:
        for first, whole in segment.runs():
            for start in range(first, first + whole, CHUNK_LENGTH):
                end = min(first + whole, start + CHUNK_LENGTH)
                octets = segment.octets(start, end - start)
                last = found[-1] if found else None
                if (
                    last is None
                    or last.count + end - start > CHUNK_LENGTH
                    or last.octets + octets > PIECE_OCTETS
                ):
                    found.append(Paged(start, end, end - start, octets))
                else:
                    last.end = end
                    last.count += end - start
                    last.octets += octets
    return found

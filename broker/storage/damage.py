"""Damage: what is wrong with a row, what it held, and which rows go with it.

Law: rows that were committed at once count all or not at all. What a damaged index says may be
wrong: it is told to people, and believed only in what makes matters no worse.

Called by: storage.recovery, storage.row_inspection, storage.tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from leveret.broker.storage.base import StoreError
from leveret.broker.storage.records import (
    Enqueued,
    LaterFormat,
    RecordError,
    Settled,
    decode,
    defined,
    long_of,
    part_of,
    present,
    seal,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from leveret.broker.storage.queue_log import Range
    from leveret.broker.storage.records import Defined, Part, Record

SHOWN: Final = 5  # queues and ranges that a line names
APART: Final = "other rows with the rest of its message are missing"


class ReadRow(NamedTuple):
    """A row as it was read.

    Attributes:
      seq: Its number.
      problem: What is wrong with it; empty if nothing is.
      records: What it holds, or held, as far as that can be made out.
      part: Which row of its commit it is; None if that cannot be made out.
      is_sealed: Whether its index is what was written.
    """

    seq: int
    problem: str
    records: list[Record]
    part: Part | None
    is_sealed: bool

    @property
    def messages(self) -> int:
        """How many messages it holds, as far as that can be made out."""
        enqueued = [each for each in self.records if isinstance(each, Enqueued)]
        return sum(len(each.body_sizes) for each in enqueued)

    @property
    def span(self) -> Range | None:
        """The numbers of the first and the last row of its commit."""
        if self.part is None:
            return None
        first = self.seq - self.part.row + 1
        return first, first + self.part.rows - 1


def read_row(seq: int, index: bytes, size: int | None = None) -> ReadRow:
    """Return what a row says, and what is wrong with it, if anything.

    Args:
      size: Octets of the body; None if nobody has looked.

    Raises:
      StoreError: It is of a later format.
    """
    part = part_of(index)
    try:
        records = decode(index)
    except LaterFormat as later:
        raise StoreError(f"row {seq}: a later Leveret wrote it: {later}") from None
    except RecordError as wrong:
        return ReadRow(seq, str(wrong), salvage(index), part, is_sealed=False)
    problem = ""
    if size is not None:
        needed = octets_of(records)
        if size < needed:
            problem = f"its body has {size} octets instead of {needed}"
    return ReadRow(seq, problem, records, part, is_sealed=True)


def salvage(index: bytes) -> list[Record]:
    """Return what can be made out of a damaged index; some of it may be wrong."""
    found: list[Record] = []
    for octets in split(index):
        try:
            found += decode(seal([octets]))
        except RecordError:
            continue
    return found


def octets_of(records: Sequence[Record]) -> int:
    """Return how long the body of a row has to be."""
    part = long_of(records)
    return _reach(records) if part is None else part.octets


def _reach(records: Iterable[Record]) -> int:
    """Return where the last message of a row ends, in its body or behind it."""
    return max([_end(each) for each in records if isinstance(each, Enqueued)], default=0)


def _end(record: Enqueued) -> int:
    columns = (record.publish_sizes, record.header_sizes, record.body_sizes)
    if len(record.offsets) > 1:
        return max(map(sum, zip(record.offsets, *columns, strict=True)))
    return record.offsets[0] + sum(map(sum, columns))


class LastCommit:
    """The rows that were read last, as far as they were committed at once.

    Attributes:
      rows: They, ascending.
    """

    def __init__(self) -> None:
        self.rows: list[ReadRow] = []
        self._span: Range | None = None
        self._is_certain = False  # whether a row that is sealed says so

    def has(self, row: ReadRow) -> bool:
        """Whether the next row is of the same commit.

        What a sealed index says counts. Among damaged ones it counts if none says otherwise: two
        rows of which nothing is known are of two commits.
        """
        if not self.rows:
            return False
        ours, theirs = self._span, row.span
        if ours is None or (row.is_sealed and not self._is_certain):
            return theirs is not None and theirs[0] <= self.rows[0].seq
        if theirs is None or (self._is_certain and not row.is_sealed):
            return row.seq <= ours[1]
        return ours == theirs

    def add(self, row: ReadRow) -> None:
        """Take in a row of it."""
        self.rows.append(row)
        if self._span is None or (row.is_sealed and not self._is_certain):
            self._span, self._is_certain = row.span, row.is_sealed

    @property
    def lost(self) -> list[ReadRow]:
        """All its rows, with the reason for each, if one of them is damaged."""
        damaged = [row.seq for row in self.rows if row.problem]
        if not damaged:
            return []
        reason = f"row {damaged[0]} of the same commit is damaged"
        return [row if row.problem else row._replace(problem=reason) for row in self.rows]

    @property
    def missing(self) -> str:
        """Which of its rows are not there, for people; empty if all are."""
        if self._span is None or not self._is_certain:
            return ""
        first, last = self._span
        there = {row.seq for row in self.rows}
        if len(there) > last - first:
            return ""
        gaps: list[Range] = []
        at = first
        for seq in [*sorted(there), last + 1]:
            if at < seq:
                gaps.append((at - first + 1, seq - first))
            at = seq + 1
        verb = "is" if len(gaps) == 1 and gaps[0][0] == gaps[0][1] else "are"
        return f"row {_show(gaps)} of {last - first + 1} of its commit {verb} missing"


def unfinished(rows: Iterable[ReadRow]) -> ReadRow | None:
    """Return a row of a message that does not have all its rows, one after the other, if any."""
    begin, following, missing = None, -1, 0
    for row in rows:
        part = long_of(row.records)
        if part is None:
            continue
        if part.first == row.seq and missing <= 0:
            begin, missing = row, _reach(row.records)
        elif begin is None or (part.first, row.seq) != (begin.seq, following):
            return row
        following = row.seq + 1
        missing -= part.octets
    return begin if missing > 0 else None


def miscounted(last: ReadRow, rows: int) -> str:
    """Return what to say if the last row counts other rows than there are; empty if it does not."""
    expected = present(last.records)
    if expected is None or expected == rows:
        return ""
    return f"there are {rows:,} rows, where row {last.seq} counts {expected:,}"


def misdefined(last: ReadRow, found: Defined | None) -> str:
    """Return what to say if the last row counts other definitions than there are; else nothing.

    Args:
      found: None if nobody has looked.
    """
    expected = defined(last.records)
    if found is None or expected is None or expected == found:
        return ""
    if expected.definitions == found.definitions:
        return f"the {found.definitions:,} definitions are others than row {last.seq} counts"
    there = f"there are {found.definitions:,} definitions"
    return f"{there}, where row {last.seq} counts {expected.definitions:,}"


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
        f"{sum(last - first + 1 for first, last in ranges)} of {name(queue)}"
        f" ({_show(_joined(ranges))})"
        for queue, ranges in list(by_queue.items())[:SHOWN]
    ]
    more = len(by_queue) - SHOWN
    return ", ".join(shown) + (f", and of {more} more queues" if more > 0 else "")


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges, those that follow on each other as one.

    >>> _joined([(1, 3), (4, 6), (8, 9), (7, 7)])
    [(1, 6), (8, 9), (7, 7)]
    """
    joined: list[Range] = []
    for first, last in ranges:
        if joined and joined[-1][1] + 1 == first:
            first = joined.pop()[0]
        joined.append((first, last))
    return joined


def _show(ranges: Sequence[Range]) -> str:
    shown = [f"{first}-{last}" if first < last else f"{first}" for first, last in ranges[:SHOWN]]
    return ", ".join([*shown, "..."] if len(ranges) > SHOWN else shown)

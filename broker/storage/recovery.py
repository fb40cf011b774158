"""Recovery: the rows of a store become a journal again.

Law: first all that was enqueued, then all that was settled; what a row has settled reaches rows
up to itself and never younger ones. No body is read. If a row of the last commit is damaged, all
of that commit is left out and said, as if it had not come to pass; damage anywhere else stops it,
and so does a row of the last commit that is missing: nothing takes a row away but a later commit.

Called by: persistence (at start), storage.row_inspection (offline).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core.chunks import Paged
from leveret.broker.core.runs import CHUNK_LENGTH, PIECE_OCTETS
from leveret.broker.storage.base import Damaged
from leveret.broker.storage.damage import (
    APART,
    LastCommit,
    contents,
    miscounted,
    misdefined,
    octets_of,
    read_row,
    unfinished,
)
from leveret.broker.storage.records import (
    Column,
    Counted,
    Defined,
    Delivered,
    Enqueued,
    Facts,
    Settled,
    encode_counted,
    encode_facts,
    encode_settled,
    long_of,
    present,
)
from leveret.broker.storage.segment import LiveRow, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from leveret.broker.storage.damage import ReadRow
    from leveret.broker.storage.journal import Journal
    from leveret.broker.storage.queue_log import QueueLog
    from leveret.broker.storage.records import Long, Record


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
    """

    def __init__(self, journal: Journal, name: Callable[[int], str] = "queue {}".format) -> None:
        self._journal = journal
        self._name = name
        self._settled: list[tuple[LiveRow, Settled]] = []
        self._told: list[tuple[LiveRow, Counted | Facts]] = []
        self._next: dict[int, int] = {}
        self.messages = 0
        self._rows = 0
        self._is_counted = False  # whether a broker, no repair, was the last one to write
        self._last = LastCommit()

    def read(self, seq: int, index: bytes, size: int | None = None) -> None:
        """Take in a row; they come in ascending order.

        Args:
          size: Octets of its body; None if nobody has looked.

        Raises:
          StoreError: It is of a later format, or a row before it was damaged.
        """
        row = read_row(seq, index, size)
        if not self._last.has(row):
            self._end_commit()
        self._last.add(row)
        self._rows += 1
        self.messages += row.messages

    def _end_commit(self) -> None:
        """Take in the rows of a commit that is not the last."""
        for row in self._last.rows:
            if row.problem:
                raise Damaged(f"row {row.seq}: {row.problem}; {self.held(row)}")
            self.take_in(row.seq, row.records)
        self._see_whole(self._last.rows)
        self._last = LastCommit()

    def _see_whole(self, rows: Sequence[ReadRow]) -> None:
        """Raise `Damaged` if rows of one commit have a part of a message."""
        if row := unfinished(rows):
            raise Damaged(f"row {row.seq}: {APART}; {self.held(row)}")

    @property
    def lost(self) -> list[ReadRow]:
        """The rows of the last commit, if it is damaged; they are deleted with the next one."""
        return self._last.lost

    def held(self, row: ReadRow) -> str:
        """Return for people what a row held."""
        return contents(row.records, self._name)

    def take_in(self, seq: int, records: Sequence[Record]) -> None:
        """Take in the records of a row."""
        journal = self._journal
        journal.next_seq, journal.kept_seq = seq + 1, seq
        part = long_of(records)
        if part is not None and self._take_in_more(seq, part):
            return
        row = journal.rows[seq] = LiveRow(seq)
        for record in records:
            self._take_in_record(row, record)
        row.octets = octets_of(records)  # what several queues share is there once
        row.is_bare = not row.segments

    def _take_in_record(self, row: LiveRow, record: Record) -> None:
        journal = self._journal
        if isinstance(record, Enqueued):
            segment = Segment(row, record)
            row.add(segment)
            journal.log(record.queue).segments.append(segment)
            self._seen(record.queue, segment.end)
        elif isinstance(record, Column):
            _add_column(row, record)
        elif isinstance(record, Settled):
            self._settled.append((row, record))
        elif isinstance(record, Counted | Facts):
            self._told.append((row, record))
        elif isinstance(record, Delivered):
            log = journal.log(record.queue)
            self._seen(record.queue, record.position + 1)
            if record.position >= log.mark:
                log.highest = log.mark = record.position
                log.mark_row = row
                row.marks.append(log)

    def _take_in_more(self, seq: int, part: Long) -> bool:
        """Take in a row where a message goes on.

        Returns:
          False if it is no such row, or the rows before it are not there: then nothing is done.
        """
        row = self._journal.rows.get(part.first)
        if row is None or not row.segments or seq != row.numbers.stop:
            return False
        row.more.append(row.octets)
        row.octets += part.octets
        self._journal.continued += 1
        return True

    @property
    def highest(self) -> int:
        """The highest number of a queue that a row names, defined or not; 0 if none does."""
        return max(self._next, default=0)

    def _seen(self, queue: int, position: int) -> None:
        self._next[queue] = max(self._next.get(queue, 0), position)

    def finish(self, numbers: set[int], definitions: Defined | None = None) -> dict[int, Found]:
        """Apply what was settled, give up what is dead; return what is left, by queue.

        Args:
          numbers: The queues that still exist.
          definitions: All that were found; None if nobody has looked.

        Raises:
          Damaged: A row is missing, or a definition.
        """
        journal = self._journal
        self._finish_last(definitions)
        for log in journal.logs.values():
            log.segments.sort(key=lambda segment: segment.base)
        for row, record in self._settled:
            settled = journal.logs.get(record.queue)
            if settled is not None and record.ranges:
                self._seen(record.queue, record.ranges[-1][1] + 1)
                self._apply(row, settled, record)
        self._settled.clear()
        for row, told in self._told:
            known = journal.logs.get(told.queue)
            if known is not None:
                self._tell(row, known, told)
        self._told.clear()
        for number, log in tuple(journal.logs.items()):
            if number not in numbers:
                self._drop(number, log)
            log.segments = [segment for segment in log.segments if segment.live]
        journal.bury(set(journal.rows.values()))
        return {number: self._found(log) for number, log in journal.logs.items()}

    def _drop(self, number: int, log: QueueLog) -> None:
        """Drop the messages of a queue that is not defined any more: a repair leaves such.

        Otherwise a definition goes in the same commit as the messages. Rows that others share stay,
        so the next commit has to say it.
        """
        count = sum(segment.live for segment in log.segments)
        if count and self._is_counted:
            raise Damaged(f"{count:,} messages are of {self._name(number)}, which is not defined")
        log.close()
        del self._journal.logs[number]

    def _finish_last(self, definitions: Defined | None) -> None:
        last = self._last
        self._is_counted = bool(last.rows) and present(last.rows[-1].records) is not None
        if last.missing and not last.lost:
            row = last.rows[-1]
            raise Damaged(f"row {row.seq}: {last.missing}; {self.held(row)}")
        if last.rows and not last.lost:
            row = last.rows[-1]
            if problem := miscounted(row, self._rows) or misdefined(row, definitions):
                raise Damaged(problem)
            self._see_whole(last.rows)
        for row in last.rows:  # if nothing lives in it, it goes like any other such row
            self.take_in(row.seq, () if last.lost else row.records)

    def _apply(self, row: LiveRow, log: QueueLog, record: Settled) -> None:
        hits = log.settle_older(record.ranges, row.seq)
        kept: list[tuple[int, int]] = []
        for older, ranges in hits.items():
            row.refer(older)
            kept += ranges
        if kept:
            row.statements += encode_settled(record.queue, kept)

    def _tell(self, row: LiveRow, log: QueueLog, record: Counted | Facts) -> None:
        """Take in what a row says of messages that are not settled, in rows up to itself."""
        if isinstance(record, Counted):
            values = _reached(row, log, record.counts)
            for position, count in values.items():
                log.counts.restore(position, count)
            octets = encode_counted(record.queue, values)
        else:
            values = _reached(row, log, record.values)
            for position, value in values.items():
                log.known.restore(record.fact, position, value)
            octets = encode_facts(record.queue, record.fact, values)
        if values:
            row.statements += octets

    def _found(self, log: QueueLog) -> Found:
        return Found(log, _runs(log), self._next.get(log.number, 0), log.highest)


def _add_column(row: LiveRow, record: Column) -> None:
    """Give a fact to the messages before it: to all that a repair has left of them."""
    for segment in reversed(row.segments):
        start, end = segment.base - record.base, segment.end - record.base
        if segment.record.queue != record.queue or start < 0:
            break
        if end <= len(record.values):
            segment.add_column(record.fact, record.values[start:end])


def _reached(row: LiveRow, log: QueueLog, values: Mapping[int, int]) -> dict[int, int]:
    """Return what counts of what a row says of messages; it stays as long as their rows do."""
    found: dict[int, int] = {}
    segment: Segment | None = None
    for position, value in values.items():
        if segment is None or not segment.covers(position):
            segment = log.find(position)
        if segment is not None and segment.row.seq <= row.seq and segment.has(position):
            found[position] = value
            row.refer(segment.row)
    return found


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

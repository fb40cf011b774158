"""Recovery: the rows of a store become a journal again.

Law: first all that was enqueued, then all that was settled; what a row has settled reaches rows
up to itself and never younger ones. No body is read.

Called by: app (at start), storage.tools (check).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core.runs import CHUNK_LENGTH
from leveret.broker.storage.base import StoreError
from leveret.broker.storage.records import (
    Counted,
    Delivered,
    Enqueued,
    RecordError,
    Settled,
    decode,
    encode_counted,
    encode_settled,
)
from leveret.broker.storage.segment import LiveRow, Segment

if TYPE_CHECKING:
    from leveret.broker.storage.journal import Journal
    from leveret.broker.storage.queue_log import QueueLog


class Found(NamedTuple):
    """What was found of one queue.

    Attributes:
      log: Its log.
      runs: First position, number and octets of each run of messages, ascending.
      next_position: The lowest one that was never given.
      delivered: Up to which position they may have been delivered, -1 for none.
    """

    log: QueueLog
    runs: list[tuple[int, int, int]]
    next_position: int
    delivered: int


class Recovery:
    """Reads the indexes of a store into an empty journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._settled: list[tuple[LiveRow, Settled]] = []
        self._counted: list[tuple[LiveRow, Counted]] = []
        self._next: dict[int, int] = {}
        self.messages = 0

    def read(self, seq: int, index: bytes) -> None:
        """Take in a row; they come in ascending order.

        Raises:
          StoreError: Its index is damaged.
        """
        try:
            records = decode(index)
        except RecordError as problem:
            raise StoreError(f"row {seq}: {problem}") from None
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
        runs = [
            (start, count, segment.octets(start, count))
            for segment in log.segments
            for first, whole in segment.runs()
            for start in range(first, first + whole, CHUNK_LENGTH)
            for count in (min(first + whole - start, CHUNK_LENGTH),)
        ]
        return Found(log, runs, self._next.get(log.number, 0), log.highest)

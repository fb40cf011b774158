"""Row builder: messages become rows.

Law: a row is closed when its body is large enough, all rows of a builder are of one commit. A
message that several queues share is written once a row.

Called by: storage.journal.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from leveret.broker.storage.base import Row
from leveret.broker.storage.records import Enqueued, encode_enqueued, seal
from leveret.broker.storage.segment import LiveRow, Segment

if TYPE_CHECKING:
    from leveret.broker.core.message import Message
    from leveret.broker.storage.compaction import Piece
    from leveret.broker.storage.journal import Journal
    from leveret.broker.storage.queue_log import QueueLog

# Octets of messages in a row: what is read at a time, and what a straggler keeps on the disk.
ROW_SIZE = 1 << 20
# Positions that may be missing between two messages of one record: a hole takes less than a
# record of its own.
GAP = 4


class RowBuilder:
    """Makes rows of pending messages."""

    def __init__(self, journal: Journal, *, is_sharing: bool) -> None:
        self._journal = journal
        self._is_sharing = is_sharing
        self._seen: dict[Message, int] = {}  # where a message of several queues is in the row
        self.rows: list[Row] = []
        self._moved: list[tuple[QueueLog, Segment]] = []
        self._start_row(journal.next_seq)

    def _start_row(self, seq: int) -> None:
        self._row = LiveRow(seq)
        self.parts: list[bytes] = []
        self.records: list[bytes] = []
        self._size = 0
        self._seen.clear()

    def finish(self) -> LiveRow:
        """Return the last row, which is still open."""
        return self._row

    def add(self, log: QueueLog) -> None:
        """Take in all that is pending in a log."""
        pending, log.pending = log.pending, {}
        columns = _Columns()
        base = expected = -1
        for position, message in pending.items():
            if not columns.reach(position - expected, self._size) or self._size >= ROW_SIZE:
                self._add_segment(log, base, columns)
                if self._size >= ROW_SIZE:
                    self._next_row()
                columns, base = _Columns(), position
            columns.append(self._place(message), message)
            expected = position + 1
        self._add_segment(log, base, columns)

    def move(self, log: QueueLog, piece: Piece, octets: bytes) -> None:
        """Take in what lives of messages that are in another row."""
        columns = _Columns()
        base = expected = -1
        for position, message, sizes in piece.living(octets):
            if not columns.reach(position - expected, self._size) or self._size >= ROW_SIZE:
                self._add_segment(log, base, columns, self._moved)
                if self._size >= ROW_SIZE:
                    self._next_row()
                columns, base = _Columns(), position
            columns.add(self._size, *sizes)
            self.parts.append(message)
            self._size += len(message)
            expected = position + 1
        self._add_segment(log, base, columns, self._moved)

    def settle_moved(self) -> None:
        """Give the moved messages to their logs, once the old places are given up."""
        for log, segment in self._moved:
            log.add(segment)
        self._moved.clear()

    def _place(self, message: Message) -> int:
        """Return where a message begins in the body of the row."""
        if self._is_sharing:
            known = self._seen.get(message)
            if known is not None:
                return known
            self._seen[message] = self._size
        offset = self._size
        payload = message.envelope.payload
        self.parts += (payload, message.header, *message.chunks)
        self._size = offset + len(payload) + message.header_size + message.size
        return offset

    def _add_segment(
        self,
        log: QueueLog,
        base: int,
        columns: _Columns,
        moved: list[tuple[QueueLog, Segment]] | None = None,
    ) -> None:
        if columns.offsets:
            segment = Segment(self._row, columns.record(log.number, base))
            self._row.add(segment)
            if moved is None:
                log.add(segment)
            else:
                moved.append((log, segment))
            self.records.append(encode_enqueued(segment.record))

    def _next_row(self) -> None:
        row = self._row
        self._journal.keep(row)
        self.rows.append(Row(row.seq, seal(self.records), b"".join(self.parts)))
        self._start_row(row.seq + 1)


class _Columns:
    """The columns of one record, as they grow."""

    __slots__ = ("bodies", "headers", "offsets", "publishes")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.publishes: list[int] = []
        self.headers: list[int] = []
        self.bodies: list[int] = []

    def reach(self, gap: int, offset: int) -> bool:
        """Add holes up to a position; return False if it is not near enough."""
        if not self.offsets or gap > GAP:
            return False
        for _ in range(gap):
            self.add(offset, 0, 0, 0)
        return True

    def append(self, offset: int, message: Message) -> None:
        """Add a message that begins at an offset."""
        self.add(offset, len(message.envelope.payload), message.header_size, message.size)

    def add(self, offset: int, publish: int, header: int, body: int) -> None:
        """Add the sizes of a message that begins at an offset."""
        self.offsets.append(offset)
        self.publishes.append(publish)
        self.headers.append(header)
        self.bodies.append(body)

    def record(self, queue: int, base: int) -> Enqueued:
        """Return the record of all that was added."""
        offsets = array("Q", self.offsets)
        ends = map(sum, zip(self.offsets, self.publishes, self.headers, self.bodies, strict=True))
        if all(end == start for end, start in zip(ends, self.offsets[1:], strict=False)):
            offsets = offsets[:1]
        return Enqueued(
            queue,
            base,
            offsets,
            array("H", self.publishes),
            array("I", self.headers),
            array("I", self.bodies),
        )

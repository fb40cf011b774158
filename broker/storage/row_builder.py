"""Row builder: messages become rows.

Law: a row is closed when its body is large enough, and a message that is larger has rows of its
own. All rows of a builder are of one commit, and each says which of them it is. A message that
several queues share is written once a row, also when it is moved.

Called by: storage.journal, storage.tools.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from operator import ne
from typing import TYPE_CHECKING

from leveret.broker.storage.base import Row
from leveret.broker.storage.records import (
    Column,
    Enqueued,
    encode_column,
    encode_enqueued,
    encode_long,
    seal,
)
from leveret.broker.storage.segment import LiveRow, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.message import Message
    from leveret.broker.storage.compaction import Piece
    from leveret.broker.storage.facts import Known
    from leveret.broker.storage.journal import Journal
    from leveret.broker.storage.queue_log import QueueLog

# Octets of messages in a row: what is read at a time, and what a straggler keeps on the disk. A
# message with a longer body has rows of its own.
ROW_SIZE = 1 << 20
# Positions that may be missing between two messages of one record: a hole takes less than a
# record of its own.
GAP = 4


def living_octets(row: LiveRow) -> int:
    """Return how many octets of a row's body are of messages that are not settled."""
    living = {
        offset: sum(sizes)
        for segment in row.segments
        if segment.live
        for _, (offset, *sizes) in segment.living_places(segment.base, segment.end)
    }
    return sum(living.values())


class RowBuilder:
    """Makes rows of pending messages.

    Attributes:
      is_sharing: Whether several queues may have the same messages.
      full: The rows before the last one.
    """

    def __init__(self, journal: Journal, *, is_sharing: bool = False) -> None:
        self._journal = journal
        self.is_sharing = is_sharing
        self.full: list[LiveRow] = []
        self._seen: dict[Message, int] = {}  # where a message of several queues is in the row
        self._carried: dict[tuple[int, int], int] = {}  # the same, by where it was before
        self._source = -1  # the row that it was in
        self._long: dict[Message, tuple[LiveRow, list[bytes]]] = {}  # with rows of their own
        # Number, records and body of each row.
        self._full: list[tuple[int, list[bytes], Sequence[bytes | memoryview]]] = []
        self._moved: list[tuple[QueueLog, Segment]] = []
        self._start_row(journal.next_seq)

    def _start_row(self, seq: int) -> None:
        self._row = LiveRow(seq)
        self.parts: list[bytes] = []
        self.records: list[bytes] = []
        self._size = 0
        self._seen.clear()
        self._carried.clear()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was taken in."""
        return not self._full and not self.records

    def finish(self) -> LiveRow:
        """Return the last row, which can take in only what is not a message from here on."""
        self._row.octets = self._size  # what several queues share is there once
        return self._row

    def rows(self, statements: bytes) -> list[Row]:
        """Return all rows; the last one says something about messages of older rows, too."""
        records = [*self.records, statements]
        rows = [*self._full, (self._row.seq, records, self.parts)]
        return [
            Row(seq, seal(records, number, len(rows)), pieces)
            for number, (seq, records, pieces) in enumerate(rows, 1)
        ]

    def add(self, log: QueueLog) -> None:
        """Take in all that is pending in a log."""
        pending, log.pending = log.pending, {}
        known = log.known.take_fresh()
        columns, most = _Columns(), ROW_SIZE
        base = expected = -1
        for position, message in pending.items():
            size = message.size
            if size > most:
                self._add_segment(log, base, columns, known)
                self._add_long(log, position, message, known)
                columns, expected = _Columns(), -1
                continue
            if self._size >= most or (
                position != expected and not columns.reach(position - expected, self._size)
            ):
                self._add_segment(log, base, columns, known)
                if self._size >= most:
                    self._next_row()
                columns, base = _Columns(), position
            payload, header = message.envelope.payload, message.header_size
            columns.places.append((self._place(message, payload), len(payload), header, size))
            expected = position + 1
        self._add_segment(log, base, columns, known)

    def move(self, log: QueueLog, piece: Piece, octets: bytes) -> None:
        """Take in what lives of messages that are in another row.

        What was together stays together as far as it can, because queues may share it.
        """
        segment = piece.segment
        seq = segment.row.seq
        if seq != self._source and self._size >= ROW_SIZE:
            self._next_row()
        self._source = seq
        places = None  # in a row of one segment nothing is shared
        if len(segment.row.segments) > 1:
            places = segment.places(segment.base, segment.end - segment.base)
        known = log.known.move(segment)
        columns = _Columns()
        base = expected = -1
        for position, message, sizes in piece.living(octets):
            is_full = self._size >= 2 * ROW_SIZE
            if not columns.reach(position - expected, self._size) or is_full:
                self._add_segment(log, base, columns, known, self._moved)
                if is_full:
                    self._next_row()
                columns, base = _Columns(), position
            offset = places[position - segment.base][0] if places else position
            columns.places.append((self._carry((seq, offset), message), *sizes))
            expected = position + 1
        self._add_segment(log, base, columns, known, self._moved)

    def _carry(self, place: tuple[int, int], octets: bytes) -> int:
        """Return where a message begins that was somewhere else."""
        offset = self._carried.setdefault(place, self._size)
        if offset == self._size:
            self.parts.append(octets)
            self._size += len(octets)
        return offset

    def settle_moved(self) -> None:
        """Give the moved messages to their logs, once the old places are given up."""
        for log, segment in self._moved:
            log.add(segment)
        self._moved.clear()

    def _place(self, message: Message, payload: bytes) -> int:
        """Return where a message begins in the body of the row."""
        if self.is_sharing:
            known = self._seen.get(message)
            if known is not None:
                return known
            self._seen[message] = self._size
        offset = self._size
        self.parts += (payload, *message.pieces)
        self._size = offset + len(payload) + message.header_size + message.size
        return offset

    def _add_segment(
        self,
        log: QueueLog,
        base: int,
        columns: _Columns,
        known: Known,
        moved: list[tuple[QueueLog, Segment]] | None = None,
    ) -> None:
        if columns.places:
            segment = Segment(self._row, columns.record(log.number, base))
            self._row.add(segment)
            if moved is None:
                log.add(segment)
            else:
                moved.append((log, segment))
            self.records.append(encode_enqueued(segment.record))
            if known:
                self.records += _facts(segment, known)

    def _next_row(self) -> None:
        row = self.finish()
        self._full.append((row.seq, self.records, self.parts))
        self._close_row(row)

    def _close_row(self, row: LiveRow) -> None:
        self._journal.keep(row)
        self.full.append(row)
        self._start_row(row.numbers.stop)

    def _add_long(self, log: QueueLog, position: int, message: Message, known: Known) -> None:
        """Take in a message with rows of its own, which several queues may share."""
        if message not in self._long:
            self._long[message] = self._start_long(message)
        row, records = self._long[message]
        columns = _Columns()
        publish = len(message.envelope.payload)
        columns.places.append((0, publish, message.header_size, message.size))
        segment = Segment(row, columns.record(log.number, position))
        row.add(segment)
        log.add(segment)
        records.append(encode_enqueued(segment.record))
        records += _facts(segment, known)

    def _start_long(self, message: Message) -> tuple[LiveRow, list[bytes]]:
        """Make the rows of a long message; return the first one and its records."""
        if self.records:
            self._next_row()
        row = self._row
        payload = message.envelope.payload
        # Where it begins, all of its header stands, and some of its body, however long frames are.
        size = max(ROW_SIZE, len(payload) + message.header_size + 1)
        bodies = list(cut((payload, *message.pieces), size))
        sizes = [sum(map(len, pieces)) for pieces in bodies]
        *row.more, row.octets = accumulate(sizes)
        records = [[encode_long(row.seq, size)] for size in sizes]
        self._full += zip(row.numbers, records, bodies, strict=True)
        self._close_row(row)
        return row, records[0]


def cut(pieces: Iterable[bytes], size: int) -> Iterator[list[bytes | memoryview]]:
    """Return octets in lists that have so many together, only the last one fewer; no copies.

    >>> [[*map(bytes, each)] for each in cut([b"abc", b"defghi"], 4)]
    [[b'abc', b'd'], [b'efgh'], [b'i']]
    """
    row: list[bytes | memoryview] = []
    room = size
    for piece in pieces:
        at = 0
        while len(piece) - at > room:
            row.append(memoryview(piece)[at : at + room])
            yield row
            at += room
            row, room = [], size
        row.append(memoryview(piece)[at:] if at else piece)
        room -= len(piece) - at
    yield row


def _facts(segment: Segment, known: Known) -> Iterator[bytes]:
    """Give a segment what is known of its messages, and return the records of that."""
    for fact, values in known.items():
        column = array("Q", [values.get(at, 0) for at in range(segment.base, segment.end)])
        if any(column):
            segment.add_column(fact, column)
            yield encode_column(Column(segment.record.queue, segment.base, fact, column))


class _Columns:
    """The columns of one record, as they grow.

    Attributes:
      places: Where each message begins; octets of its publish method, header and body.
    """

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: list[tuple[int, int, int, int]] = []

    def reach(self, gap: int, offset: int) -> bool:
        """Add holes up to a position; return False if it is not near enough."""
        if not self.places or gap > GAP:
            return False
        self.places += [(offset, 0, 0, 0)] * gap
        return True

    def record(self, queue: int, base: int) -> Enqueued:
        """Return the record of all that was added."""
        offsets, publishes, headers, bodies = zip(*self.places, strict=True)
        is_scattered = any(map(ne, map(sum, self.places), offsets[1:]))
        return Enqueued(
            queue,
            base,
            array("Q", offsets if is_scattered else offsets[:1]),
            array("H", publishes),
            array("I", headers),
            array("I", bodies),
        )

"""Journal: what must survive, gathered turn by turn and handed to a store as rows.

Law: what is published and settled between two commits never reaches the disk. `close` turns all
the rest into rows of one commit, and names the rows that are no longer needed by it; it is called
only while no slice is at work, so whatever one command caused is in one commit. What is settled
is said only of messages whose row stays.

Called by: core.queue and amqp.channel (through QueueLog), server.committer (close), app
(recovery).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from leveret.broker.storage.base import Row
from leveret.broker.storage.compaction import Piece, Waste, pieces
from leveret.broker.storage.paging import Envelopes, Place
from leveret.broker.storage.records import (
    Enqueued,
    encode_delivered,
    encode_enqueued,
    encode_settled,
    seal,
)
from leveret.broker.storage.segment import LiveRow, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.batch import Batch
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.runs import Paged
    from leveret.broker.storage.base import Definition

Range = tuple[int, int]  # first and last position

# Octets of messages in a row: what is read at a time, and what a straggler keeps on the disk.
ROW_SIZE = 1 << 20
# What may wait for a commit before publishers have to wait, too: in octets and in messages.
PENDING_OCTETS, PENDING_COUNT = 8 << 20, 16384


def ranges_of(positions: Iterable[int]) -> Iterator[Range]:
    """Return ascending ranges, first and last, of positions in any order.

    >>> list(ranges_of([5, 1, 2, 3]))
    [(1, 3), (5, 5)]
    """
    ordered = iter(sorted(positions))
    first = last = next(ordered, -1)
    for position in ordered:
        if position == last + 1:
            last = position
        else:
            yield first, last
            first = last = position
    if last >= 0:
        yield first, last


class QueueLog:
    """What the journal knows of one durable queue.

    Attributes:
      number: The queue's number in the records.
      queue: The queue, None if nobody has said.
      pending: Messages that are in no row yet, by position.
      segments: Those that are, by position.
      highest: The highest position that was delivered, -1 for none.
    """

    __slots__ = (
        "_dead",
        "_journal",
        "_settled",
        "_settled_ranges",
        "highest",
        "is_closed",
        "mark",
        "mark_row",
        "number",
        "pending",
        "queue",
        "segments",
    )

    def __init__(self, journal: Journal, number: int) -> None:
        self._journal = journal
        self.number = number
        self.queue: Queue | None = None
        self.pending: dict[int, Message] = {}
        self.segments: list[Segment] = []
        self.highest = -1
        self.mark = -1  # what the rows say of `highest`
        self.mark_row: LiveRow | None = None  # the one that says it
        self.is_closed = False
        self._settled: list[int] = []
        self._settled_ranges: list[Range] = []
        self._dead = 0  # segments without anything live

    def __repr__(self) -> str:
        return f"<QueueLog {self.number}>"

    # What the queue tells

    def enqueued(self, base: int, messages: Sequence[Message]) -> None:
        """Take in messages at positions from `base` on; transient ones are left out."""
        pending, octets, before = self.pending, 0, len(self.pending)
        for position, message in enumerate(messages, base):
            if message.persistent:
                pending[position] = message
                octets += message.header_size + message.size
        if octets:
            self._journal.took_in(self, len(pending) - before, octets)

    def delivered(self, position: int) -> None:
        """Note that positions up to one may have been delivered."""
        if position > self.highest:
            self.highest = position
            if self.segments:
                self._journal.dirty[self] = None

    def settled(self, positions: Iterable[int]) -> None:
        """Forget messages; those that are in no row yet never will be."""
        pending, journal = self.pending, self._journal
        if pending:
            count = octets = 0
            for position in positions:
                message = pending.pop(position, None)
                if message is None:
                    self._settled.append(position)
                else:
                    count += 1
                    octets += message.header_size + message.size
            journal.let_go(count, octets)
        elif self.segments:
            self._settled.extend(positions)
        else:
            return
        journal.dirty[self] = None

    def dropped(self, ranges: Sequence[Range]) -> None:
        """Forget all messages in ascending ranges."""
        pending = self.pending
        if pending:
            firsts = [first for first, _ in ranges]
            found = ((each, bisect_right(firsts, each) - 1) for each in pending)
            self.settled([each for each, at in found if at >= 0 and each <= ranges[at][1]])
        if self.segments:
            self._settled_ranges += ranges
            self._journal.dirty[self] = None

    def is_kept(self, base: int, count: int) -> bool:
        """Whether all of so many messages from a position on are in rows."""
        end = base + count
        while base < end:
            segment = self.find(base)
            if segment is None:
                return False
            base = segment.end
        return True

    def are_kept(self, rows: Iterable[LiveRow]) -> bool:
        """Whether rows are in the store for certain."""
        return all(row.seq <= self._journal.kept_seq for row in rows)

    def fetch(self, queue: Queue, paged: Paged) -> None:
        """Have messages read; the queue's `loaded` is called with them."""
        self._journal.ask(Place(queue, self, paged, self._journal.envelopes))

    def close(self) -> None:
        """Forget everything: the queue is gone."""
        self.is_closed = True
        self.dropped([(0, 1 << 62)])

    # What the journal asks

    def apply_settled(self) -> dict[LiveRow, list[Range]]:
        """Mark what was settled in the segments; return the ranges by row."""
        found: dict[LiveRow, list[Range]] = {}
        if self._settled or self._settled_ranges:
            ranges = [*self._settled_ranges, *ranges_of(self._settled)]
            self._settled, self._settled_ranges = [], []
            for first, last in ranges:
                self._settle(first, last, found)
            self._let_go_of_dead()
        return found

    def settle_older(self, ranges: Iterable[Range], seq: int) -> dict[LiveRow, list[Range]]:
        """Mark what a row has settled in rows up to itself; return the ranges by row."""
        found: dict[LiveRow, list[Range]] = {}
        for first, last in ranges:
            self._settle(first, last, found, seq)
        return found

    def _settle(
        self, first: int, last: int, found: dict[LiveRow, list[Range]], seq: int = 1 << 62
    ) -> None:
        segments = self.segments
        start = max(bisect_right(segments, first, key=_base) - 1, 0)
        for index in range(start, len(segments)):
            segment = segments[index]
            if segment.base > last:
                break
            if segment.end > first and segment.live and segment.row.seq <= seq:
                count = segment.settle(first, last)
                if count:
                    segment.row.live -= count
                    part = max(first, segment.base), min(last, segment.end - 1)
                    found.setdefault(segment.row, []).append(part)
                    if not segment.live:
                        self._dead += 1

    def _let_go_of_dead(self) -> None:
        """Drop segments in which nothing lives: at the front at once, others when they are many."""
        segments = self.segments
        front = 0
        while front < len(segments) and not segments[front].live:
            front += 1
        del segments[:front]
        self._dead -= front
        if self._dead > len(segments) // 2:
            self.segments = [segment for segment in segments if segment.live]
            self._dead = 0

    def add(self, segment: Segment) -> None:
        """Take in a segment; one made of older ones goes between others."""
        segments = self.segments
        if segments and segments[-1].base > segment.base:
            segments.insert(bisect_right(segments, segment.base, key=_base), segment)
        else:
            segments.append(segment)

    def find(self, position: int) -> Segment | None:
        """Return the segment that a position is in."""
        index = bisect_right(self.segments, position, key=_base) - 1
        if index >= 0 and position < self.segments[index].end:
            return self.segments[index]
        return None

    @property
    def needs_mark(self) -> bool:
        """Whether the rows do not say yet what was delivered of what they hold."""
        return self.mark < self.highest and bool(self.segments)


def _base(segment: Segment) -> int:
    return segment.base


class Journal:
    """All that waits for a commit, and where everything committed is.

    Attributes:
      dirty: Logs with something to say.
      rows: The rows that are needed, by number.
      definitions: Those changed since the last commit.
      kept_seq: The number of the last row that is in the store for certain.
      count: Messages that wait for a commit.
      octets: Their headers and bodies.
      envelopes: The memo of publish methods that were read.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._asked: list[Place] = []
        self.envelopes = Envelopes()
        self.dirty: dict[QueueLog, None] = {}
        self.logs: dict[int, QueueLog] = {}
        self.rows: dict[int, LiveRow] = {}
        self.definitions: list[Definition] = []
        self.count = 0
        self.octets = 0
        self.next_seq = 1
        self.kept_seq = 0
        self._waste = Waste()
        self._moving: list[tuple[Piece, bytes]] = []
        self._doomed: list[int] = []
        self._bare: list[LiveRow] = []
        self._written: list[QueueLog] = []  # by the last commit
        self._unmarked: dict[QueueLog, None] = {}  # what says what they delivered goes away

    # What is to be committed

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.dirty or self.definitions or self._moving)

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait for a commit."""
        return self.count >= PENDING_COUNT or self.octets >= PENDING_OCTETS

    def log(self, number: int) -> QueueLog:
        """Return the log of a queue's number, made now or before."""
        log = self.logs.get(number)
        if log is None:
            log = self.logs[number] = QueueLog(self, number)
        return log

    def note(self, definition: Definition) -> None:
        """Have a definition kept; whoever asked for it waits for the commit."""
        self.definitions.append(definition)
        self._batch.must_tell()

    def took_in(self, log: QueueLog, count: int, octets: int) -> None:
        """Count messages that wait for a commit, as a log got them."""
        self.dirty[log] = None
        self.count += count
        self.octets += octets
        self._batch.must_commit = True

    def let_go(self, count: int, octets: int) -> None:
        """Count messages that wait no longer."""
        self.count -= count
        self.octets -= octets

    def done(self, limit: int) -> None:
        """The commit that was closed last is on the disk.

        Args:
          limit: Octets that a queue may have in memory of what is in rows.
        """
        self.kept_seq = self.next_seq - 1
        for log in self._written:
            if log.queue is not None and not log.is_closed:
                log.queue.page_out(limit)
        self._written.clear()

    # What is to be read

    @property
    def is_asked(self) -> bool:
        """Whether queues wait for messages that are only in the store."""
        return bool(self._asked)

    def ask(self, place: Place) -> None:
        """Have a chunk read."""
        self._asked.append(place)

    def take_asked(self) -> list[Place]:
        """Return what is to be read, once."""
        asked, self._asked = self._asked, []
        return asked

    # What takes more room than it should

    def to_move(self) -> list[Piece]:
        """Return what should be read and handed to `move`; nothing if all is well."""
        return pieces(self._waste.choose(self.next_seq))

    def move(self, read: Iterable[tuple[Piece, bytes]]) -> None:
        """Have messages put into a new row with the next commit, and their old rows go."""
        self._moving += read

    def _move(self, builder: _Builder) -> None:
        moving, self._moving = self._moving, []
        emptied: dict[Segment, None] = {}
        for piece, octets in moving:
            log = self.logs.get(piece.segment.record.queue)
            if log is not None and piece.segment.row.seq in self.rows:
                builder.move(log, piece, octets)
                emptied[piece.segment] = None
        for segment in emptied:
            segment.row.live -= segment.live
            segment.give_up()
        builder.settle_moved()
        self.bury({segment.row for segment in emptied})

    # Commits

    def close(self) -> list[Row]:
        """Return what is to be committed now, all of it at once; nothing if there is nothing."""
        dirty, self.dirty = self.dirty, {}
        hits: dict[QueueLog, dict[LiveRow, list[Range]]] = {}
        for log in dirty:
            found = log.apply_settled()
            if found:
                hits[log] = found
        self.bury({row for found in hits.values() for row in found})
        builder = _Builder(self, is_sharing=sum(bool(log.pending) for log in dirty) > 1)
        for log in dirty:
            if log.pending:
                builder.add(log)
        if self._moving:
            self._move(builder)
        last = builder.finish()
        self._say_settled(last, hits)
        for log in {**dirty, **self._unmarked}:
            if log.needs_mark:
                log.mark, log.mark_row = log.highest, last
                last.marks.append(log)
                builder.records.append(encode_delivered(log.number, log.mark))
        self._unmarked.clear()
        self._written = [log for log in dirty if log.segments]
        for log in dirty:
            if log.is_closed:
                self.logs.pop(log.number, None)
        self.count = self.octets = 0
        return self._rows(builder, last)

    def _rows(self, builder: _Builder, last: LiveRow) -> list[Row]:
        """Make the rows of a commit; the last of them carries all that is not a message."""
        definitions, self.definitions = self.definitions, []
        doomed, self._doomed = self._doomed, []
        bare = [row for row in self._bare if row.seq in self.rows]
        self._bare.clear()
        settled = last.settled
        if not (builder.rows or builder.records or settled or definitions or doomed or bare):
            return []
        index = seal([*builder.records, settled])
        row = Row(last.seq, index, b"".join(builder.parts))
        rows = [*builder.rows, row]
        self.keep(last)
        self.next_seq = last.seq + 1
        rows[0].definitions = definitions
        row.delete = doomed
        row.replace = [(each.seq, seal([each.settled])) for each in bare]
        if not last.live and not last.refs:
            self._doom(last)
        return rows

    def _say_settled(self, last: LiveRow, hits: dict[QueueLog, dict[LiveRow, list[Range]]]) -> None:
        """Write down what was settled in rows that stay."""
        settled: list[bytes] = []
        for log, found in hits.items():
            ranges: list[Range] = []
            for row, parts in found.items():
                if row.seq in self.rows:
                    ranges += parts
                    last.refs.add(row)
                    row.referrers.add(last)
            if ranges:
                settled.append(encode_settled(log.number, ranges))
        last.settled = b"".join(settled)

    def keep(self, row: LiveRow) -> None:
        """Take in a row that will be in the store."""
        self.rows[row.seq] = row
        self._waste.add(row)

    # What is no longer needed

    def bury(self, rows: set[LiveRow]) -> None:
        """Give up those rows in which nothing lives any more, or at least their bodies."""
        for row in rows:
            if row.live or row.seq not in self.rows:
                self._waste.add(row)
                continue
            if not row.refs:
                self._doom(row)
            elif not row.is_bare:
                row.is_bare = True
                self._bare.append(row)
                self._unmark(row)

    def _doom(self, row: LiveRow) -> None:
        """Give up a row, and those that were needed only because of it."""
        doomed = [row]
        while doomed:
            row = doomed.pop()
            self._doomed.append(row.seq)
            self.rows.pop(row.seq, None)
            row.is_bare = True
            self._waste.discard(row)
            self._unmark(row)
            row.segments.clear()
            for other in row.referrers:
                other.refs.discard(row)
                if not other.refs:
                    other.settled = b""
                    if not other.live and other.seq in self.rows:
                        doomed.append(other)
            row.referrers.clear()

    def _unmark(self, row: LiveRow) -> None:
        """Have said anew what a row said of deliveries."""
        for log in row.marks:
            if log.mark_row is row:
                log.mark, log.mark_row = -1, None
                self._unmarked[log] = None
        row.marks.clear()


class _Builder:
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
            if position != expected or self._size >= ROW_SIZE:
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
            if position != expected or self._size >= ROW_SIZE:
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

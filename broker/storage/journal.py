"""Journal: what must survive, gathered turn by turn and handed to a store as rows.

Law: what is published and settled between two commits never reaches the disk. `close` turns all
the rest into rows of one commit, and names the rows that are no longer needed by it; it is called
only while no slice is at work and nothing is unfinished, so whatever one command caused is in one
commit. What would be too much at once, and nobody gets before, is put into rows of it as it comes.
What is settled is said only of messages whose row stays.

Called by: core.queue, core.stock, amqp.channel and amqp.settling (through QueueLog),
server.committer (close), persistence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.paging import page_out
from leveret.broker.storage.compaction import Piece, Waste, pieces
from leveret.broker.storage.paging import Envelopes
from leveret.broker.storage.queue_log import QueueLog
from leveret.broker.storage.records import (
    encode_counted,
    encode_defined,
    encode_delivered,
    encode_facts,
    encode_present,
    encode_settled,
    seal,
)
from leveret.broker.storage.row_builder import RowBuilder, living_octets
from leveret.broker.storage.segment import LEAST_ROW
from leveret.broker.storage.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from leveret.broker.core.batch import Batch
    from leveret.broker.storage.base import Definition, Row
    from leveret.broker.storage.paging import Place
    from leveret.broker.storage.queue_log import Range
    from leveret.broker.storage.segment import LiveRow, Segment

# What may wait for a commit before publishers have to wait, too: in octets and in messages.
PENDING_OCTETS, PENDING_COUNT = 8 << 20, 16384
FEW = 64  # queues that are looked at before each commit
# How often messages came back is told of about so many in a commit: nobody waits for it.
TOLD_COUNTS = 8192


class Journal:
    """All that waits for a commit, and where everything committed is.

    Attributes:
      dirty: Logs with something to say.
      rows: The rows that are needed, by number.
      continued: How many rows there are beside those, in which a long message of one goes on.
      definitions: Those changed since the last commit.
      tally: What all come to that are in the store.
      kept_seq: The number of the last row that is in the store for certain.
      count: Messages that wait for a commit.
      octets: Their headers and bodies.
      cancelled: Messages that were settled before their commit, ever.
      envelopes: The memo of publish methods that were read.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._asked: list[Place] = []
        self.envelopes = Envelopes()
        self.dirty: dict[QueueLog, None] = {}
        self.logs: dict[int, QueueLog] = {}
        self.rows: dict[int, LiveRow] = {}
        self.continued = 0
        self.definitions: list[Definition] = []
        self.tally = Tally()
        self.count = 0
        self.octets = 0
        self.cancelled = 0
        self.next_seq = 1
        self.kept_seq = 0
        self._waste = Waste()
        self._dense: dict[LiveRow, int] = {}  # not worth it, until no more than so many live
        self._moving: list[tuple[Piece, bytes]] = []
        self._doomed: list[int] = []
        self._has_dead = False  # whether any of those has messages
        self._bare: list[LiveRow] = []
        self._builder: RowBuilder | None = None  # of what is in rows before its commit is closed
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
        self.cancelled += count

    @property
    def waits_for_acks(self) -> bool:
        """Whether all messages that wait have been delivered: acks may yet spare them the disk."""
        if not self.count or self.definitions or self._builder or len(self.dirty) > FEW:
            return False
        return all(next(reversed(log.pending), -1) <= log.highest for log in self.dirty)

    def done(self, limit: int) -> None:
        """The commit that was closed last is on the disk.

        Args:
          limit: Octets that a queue may have in memory of what is in rows.
        """
        self.kept_seq = self.next_seq - 1
        for log in self._written:
            if log.queue is not None and not log.is_closed:
                page_out(log.queue, limit)
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
        chosen = self._waste.choose(self.kept_seq)
        return pieces([row for row in chosen if self._is_worth_it(row)])

    def _is_worth_it(self, row: LiveRow) -> bool:
        """Whether a copy would be half as large: what some queues have settled others may need."""
        segments = row.segments
        is_shared = len(segments) > 1 and sum(each.size for each in segments) > row.octets
        if not is_shared or 2 * living_octets(row) <= max(row.octets, LEAST_ROW):
            return True
        row.is_moving = False
        self._dense[row] = row.live // 2
        return False

    def move(self, read: Iterable[tuple[Piece, bytes]]) -> None:
        """Have messages put into a new row with the next commit, and their old rows go."""
        self._moving += read

    def _move(self, builder: RowBuilder) -> dict[QueueLog, None]:
        """Take in what was read for it; return whose it is."""
        moving, self._moving = self._moving, []
        emptied: dict[Segment, None] = {}
        logs: dict[QueueLog, None] = {}
        for piece, octets in moving:
            log = self.logs.get(piece.segment.record.queue)
            if log is not None and piece.segment.row.seq in self.rows:
                builder.move(log, piece, octets)
                log.counts.lose(piece.segment.base, piece.segment.end)
                emptied[piece.segment] = None
                logs[log] = None
        for segment in emptied:
            segment.give_up()
        builder.settle_moved()
        self.bury({segment.row for segment in emptied})
        return logs

    # Commits

    def pack(self, log: QueueLog, *, is_shared: bool) -> None:
        """Put what waits in a log into rows of the next commit, the last of which stays open."""
        if self._builder is None:
            self._builder = RowBuilder(self)
        self._builder.is_sharing = is_shared
        self._builder.add(log)

    def close(self) -> list[Row]:
        """Return what is to be committed now, all of it at once; nothing if there is nothing."""
        dirty, self.dirty = self.dirty, {}
        hits: dict[QueueLog, dict[LiveRow, list[Range]]] = {}
        for log in dirty:
            found = log.take_hits()
            if found:
                hits[log] = found
        self.bury({row for found in hits.values() for row in found})
        builder, self._builder = self._builder or RowBuilder(self), None
        builder.is_sharing = sum(bool(log.pending) for log in dirty) > 1
        for log in dirty:
            if log.pending:
                builder.add(log)
        if self._moving:
            dirty |= self._move(builder)
        last = builder.finish()
        settled, counted = self._settled(last, hits), self._counted(last, dirty)
        last.statements = b"".join([*settled, *counted, *self._noted(last, dirty)])
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

    def _rows(self, builder: RowBuilder, last: LiveRow) -> list[Row]:
        """Make the rows of a commit; the last of them carries all that is not a message."""
        definitions, self.definitions = self.definitions, []
        doomed, self._doomed = self._doomed, []
        bare = [row for row in self._bare if row.seq in self.rows]
        self._bare.clear()
        statements = last.statements
        is_needed = statements or definitions or bare or self._has_dead
        if builder.is_empty and not is_needed:
            self._doomed = doomed  # they hold nothing, and go with the next commit
            return []
        self._has_dead = False
        # What is doomed goes with this commit; what it makes superfluous, with the next.
        self.tally.take_in(definitions)
        present = len(self.rows) + self.continued + 1
        counts = encode_present(present) + encode_defined(self.tally.total)
        rows = builder.rows(statements + counts)
        self.keep(last)
        self.next_seq = last.seq + 1
        rows[0].definitions = definitions
        rows[-1].delete = doomed
        rows[-1].replace = [(each.seq, seal([each.statements])) for each in bare]
        self.bury({row for row in (*builder.full, last) if not (row.live or row.refs)})
        return rows

    def _settled(
        self, last: LiveRow, hits: dict[QueueLog, dict[LiveRow, list[Range]]]
    ) -> Iterator[bytes]:
        """Say what was settled in rows that stay."""
        for log, found in hits.items():
            ranges: list[Range] = []
            for row, parts in found.items():
                if row.seq in self.rows or row is last:
                    ranges += parts
                    last.refer(row)
            if ranges:
                yield encode_settled(log.number, ranges)

    def _counted(self, last: LiveRow, logs: Iterable[QueueLog]) -> Iterator[bytes]:
        """Say how often messages came back; of very many the next commits say the rest."""
        left = TOLD_COUNTS
        for log in logs:
            if log.counts.are_told:
                continue
            counts = _referred(last, log.take_recounted(left))
            if counts:
                yield encode_counted(log.number, counts)
            left = max(left - len(counts), 0)
            if not log.counts.are_told:
                self.dirty[log] = None

    def _noted(self, last: LiveRow, logs: Iterable[QueueLog]) -> Iterator[bytes]:
        """Say what was noted of messages in rows: all of it, as what caused it is in here, too."""
        for log in logs:
            for fact, found in log.take_noted() if log.known.later else ():
                if values := _referred(last, found):
                    yield encode_facts(log.number, fact, values)

    def keep(self, row: LiveRow) -> None:
        """Take in a row that will be in the store."""
        self.rows[row.seq] = row
        self.continued += len(row.more)
        self._waste.add(row)

    # What is no longer needed

    def bury(self, rows: set[LiveRow]) -> None:
        """Give up those rows in which nothing lives any more, or at least their bodies."""
        for row in rows:
            is_open = row.seq >= self.next_seq  # its commit is not closed: it goes with the next
            if row.live or is_open or row.seq not in self.rows:
                if row.live <= self._dense.get(row, row.live):
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
            self._doomed += row.numbers
            self.continued -= len(row.more)
            self._has_dead |= row.octets > 0 and not row.is_bare
            self.rows.pop(row.seq, None)
            row.is_bare = True
            self._waste.discard(row)
            self._dense.pop(row, None)
            self._unmark(row)
            row.segments.clear()
            for other in row.referrers:
                other.refs.discard(row)
                if not other.refs:
                    other.statements = b""
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


def _referred(last: LiveRow, found: Mapping[Segment, dict[int, int]]) -> dict[int, int]:
    """Have a row stay as long as those of which it says something; return what, by position."""
    values: dict[int, int] = {}
    for segment, some in found.items():
        values |= some
        last.refer(segment.row)
    return values

"""Queue logs: what the journal knows of one durable queue.

Law: every position that a queue gives is told here, and every one that is settled. What happens
to both between two commits is forgotten.

Called by: core.queue, core.stock, amqp.channel, amqp.settling (tell), storage.journal (asks).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain
from typing import TYPE_CHECKING

from leveret.broker.storage.facts import Facts
from leveret.broker.storage.paging import Place
from leveret.broker.storage.values import EMPTY, Values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.chunks import Asker, Paged
    from leveret.broker.core.log import Fact
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.storage.journal import Journal
    from leveret.broker.storage.segment import LiveRow, Segment

Range = tuple[int, int]  # first and last position

# Messages that wait for a commit before more come in: more are put into rows already, so that
# closing it does not take long. That is some milliseconds' work.
MOST_PENDING = 2048


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
      counts: How often messages came back to the queue.
      known: What else is known of them.
    """

    __slots__ = (
        "_dead",
        "_hits",
        "_journal",
        "_settled",
        "_settled_ranges",
        "counts",
        "highest",
        "is_closed",
        "known",
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
        self.counts = Values()
        self.known = Facts()
        self.is_closed = False
        self._settled: list[int] = []
        self._settled_ranges: list[Range] = []
        self._hits: dict[LiveRow, list[Range]] = {}  # those of both that are marked already
        self._dead = 0  # segments without anything live

    def __repr__(self) -> str:
        return f"<QueueLog {self.number}>"

    # What the queue tells

    def enqueued(self, base: int, messages: Sequence[Message]) -> None:
        """Take in messages at positions from `base` on; transient ones are left out."""
        if len(self.pending) > MOST_PENDING:
            self.pack(is_shared=True)
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

    def returned(self, positions: Sequence[int]) -> None:
        """Count that messages came back to the queue."""
        if self.pending or self.segments:
            self.counts.add(positions)
            self._journal.dirty[self] = None

    def note(self, fact: Fact, positions: Sequence[int], values: Sequence[int]) -> None:
        """Keep a fact of messages; transient ones, and those that are settled, are left out."""
        pending, known = self.pending, self.known
        fresh = known.fresh.setdefault(fact, {}) if pending else {}
        if pending and len(positions) == len(pending.keys() & positions):
            fresh.update(zip(positions, values, strict=True))
            return
        segment: Segment | None = None
        for position, value in zip(positions, values, strict=True):
            if position in pending:
                fresh[position] = value
                continue
            if segment is None or not segment.covers(position):
                segment = self.find(position)
            if segment is None or not segment.has(position):
                continue
            if known.put(segment, fact, position, value):
                self._journal.dirty[self] = None

    def settled(self, positions: Iterable[int]) -> None:
        """Forget messages; those that are in no row yet never will be."""
        pending, journal = self.pending, self._journal
        if pending:
            if self.known.fresh:
                positions = tuple(positions)
                self.known.forget(positions)
            count = octets = 0
            have_returned = bool(self.counts)
            for position in positions:
                message = pending.pop(position, None)
                if message is None or have_returned:  # its count is forgotten with the others
                    self._settled.append(position)
                if message is not None:
                    count += 1
                    octets += message.header_size + message.size
            journal.let_go(count, octets)
        elif self.segments:
            self._settled.extend(positions)
        else:
            self.counts.forget(positions)
            return
        journal.dirty[self] = None

    def dropped(self, ranges: Sequence[Range]) -> None:
        """Forget all messages in ascending ranges."""
        pending = self.pending
        if pending:
            firsts = [first for first, _ in ranges]
            self.settled([each for each in pending if _is_within(each, ranges, firsts)])
        if self.counts:
            self.counts.drop(ranges)
        if self.known.later:
            self.known.drop(ranges)
        if self.segments:
            self._settled_ranges += ranges
            self._journal.dirty[self] = None

    def pack(self, *, is_shared: bool) -> None:
        """Put the messages that wait for a commit into rows already."""
        self._journal.pack(self, is_shared=is_shared)

    def is_kept(self, base: int, count: int) -> bool:
        """Whether all of so many messages from a position on are in rows."""
        end = base + count
        while base < end:
            until = self.kept_until(base)
            if until == base:
                return False
            base = until
        return True

    def kept_until(self, position: int) -> int:
        """Return the end of those from a position on that are in the same row, itself if none."""
        segment = self.find(position)
        return position if segment is None else segment.lives_until(position)

    def are_kept(self, rows: Iterable[LiveRow]) -> bool:
        """Whether rows are in the store for certain."""
        return all(row.seq <= self._journal.kept_seq for row in rows)

    def fetch(self, queue: Asker, paged: Paged) -> None:
        """Have messages read; the `loaded` of who asks is called with them."""
        self._journal.ask(Place(queue, self, paged, self._journal.envelopes))

    def close(self) -> None:
        """Forget everything: the queue is gone."""
        self.is_closed = True
        self.dropped([(0, 1 << 62)])
        self._journal.dirty[self] = None

    # What is known of messages

    def value(self, fact: Fact, position: int) -> int:
        """Return a fact of a message that is not settled, 0 if there is none."""
        if position in self.pending:
            return self.known.fresh.get(fact, EMPTY).get(position, 0)
        segment = self.find(position)
        if segment is None or not segment.has(position):
            return 0
        return self.known.of(segment, fact, position)

    def facts(self, fact: Fact) -> Iterator[tuple[int, int]]:
        """Return positions that have a fact, ascending, and its values."""
        self.apply()
        for segment in tuple(self.segments):
            if segment.live:
                yield from self.known.within(segment, fact).items()
        fresh = self.known.fresh.get(fact, EMPTY)
        yield from sorted((position, value) for position, value in fresh.items() if value)

    def columns(self, facts: Sequence[Fact]) -> Iterator[tuple[Sequence[int], list[Sequence[int]]]]:
        """Return unsettled positions in rows, ascending, some at a time, and each fact of them."""
        self.apply()
        for segment in tuple(self.segments):
            if segment.live:
                positions = list(segment.positions(segment.base, segment.end))
                yield positions, [self.known.column(segment, fact) for fact in facts]

    def positions(self, first: int, end: int) -> list[int]:
        """Return those from one up to another, which is not meant, that are unsettled in rows."""
        self.apply()
        parts = [segment.positions(first, end) for segment in self.parts(first, end)]
        return [*chain.from_iterable(parts)]

    def sizes(self, position: int) -> tuple[int, int]:
        """Return octets of header and body of a message; `LookupError` if it is not kept."""
        message = self.pending.get(position)
        if message is not None:
            return message.header_size, message.size
        segment = self.find(position)
        if segment is None or not segment.has(position):
            raise LookupError(f"queue {self.number} keeps nothing at {position}")
        at = position - segment.base
        return segment.record.header_sizes[at], segment.record.body_sizes[at]

    def count(self, position: int) -> int:
        """Return how often a message came back."""
        return self.counts.get(position) or 0

    def counted(self) -> Iterator[tuple[int, int]]:
        """Return positions of messages that ever came back, in any order, and how often."""
        self.apply()
        return iter(self.counts)

    # What the journal asks

    def apply(self) -> None:
        """Mark what was settled in the segments."""
        if self._settled or self._settled_ranges:
            settled = list(ranges_of(self._settled))
            if self.counts:
                self.counts.drop(settled)
            if self.known.later:
                self.known.drop(settled)
            ranges = [*self._settled_ranges, *settled]
            self._settled, self._settled_ranges = [], []
            for first, last in ranges:
                self._settle(first, last, self._hits)
            self._let_go_of_dead()

    def take_hits(self) -> dict[LiveRow, list[Range]]:
        """Return the ranges that were settled since the last commit, by row, once."""
        self.apply()
        hits, self._hits = self._hits, {}
        return hits

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

    def parts(self, base: int, end: int) -> Iterator[Segment]:
        """Return the segments in which something from a position up to another is unsettled."""
        segments = self.segments
        for index in range(max(bisect_right(segments, base, key=_base) - 1, 0), len(segments)):
            segment = segments[index]
            if segment.base >= end:
                return
            if segment.living(base, end):
                yield segment

    def parts_of(self, positions: Sequence[int]) -> Iterator[tuple[Segment, Sequence[int]]]:
        """Return the segments that ascending positions are in, and which of them."""
        at, count = 0, len(positions)
        while at < count:
            segment = self.find(positions[at])
            end = at + 1 if segment is None else bisect_left(positions, segment.end, at)
            if segment is not None:
                yield segment, positions[at:end]
            at = end

    def take_recounted(self, limit: int) -> dict[Segment, dict[int, int]]:
        """Return counts that rows do not know yet, once, by where the messages are.

        Args:
          limit: How many are enough for now.
        """
        return self._placed(self.counts.take(limit))

    def take_noted(self) -> Iterator[tuple[int, dict[Segment, dict[int, int]]]]:
        """Return facts that rows do not know yet, once, by where the messages are."""
        for fact, values in self.known.take():
            yield fact, self._placed(values)

    def _placed(self, values: Iterable[tuple[int, int]]) -> dict[Segment, dict[int, int]]:
        """Return the values of unsettled messages in rows, by where those are."""
        found: dict[Segment, dict[int, int]] = {}
        segment: Segment | None = None
        for position, value in values:
            if segment is None or not segment.covers(position):
                segment = self.find(position)
            if segment is not None and segment.has(position):
                found.setdefault(segment, {})[position] = value
        return found

    @property
    def needs_mark(self) -> bool:
        """Whether the rows do not say yet what was delivered of what they hold."""
        return self.mark < self.highest and bool(self.segments)


def _is_within(position: int, ranges: Sequence[Range], firsts: Sequence[int]) -> bool:
    at = bisect_right(firsts, position) - 1
    return at >= 0 and position <= ranges[at][1]


def _base(segment: Segment) -> int:
    return segment.base

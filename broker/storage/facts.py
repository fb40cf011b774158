"""Facts: numbers that a durable queue knows of single messages.

Law: what is noted of a message before its row is made stands in that row, in a column beside its
sizes; a column that no message uses is not there. What is noted later is said in the last row of
the commit, and counts instead. When messages are moved, their columns say what counts by then.

Called by: storage.queue_log, storage.row_builder, storage.recovery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.storage.values import Values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.storage.segment import Segment

# Values by position, by fact.
Known = dict[int, dict[int, int]]


class Facts:
    """What is known of the messages of one queue.

    Attributes:
      fresh: Of those that are in no row yet.
      later: What was noted of those that are in rows, by fact.
    """

    __slots__ = ("fresh", "later")

    def __init__(self) -> None:
        self.fresh: Known = {}
        self.later: dict[int, Values] = {}

    # Messages that are in no row yet

    def take_fresh(self) -> Known:
        """Return what is known of messages that get their rows now, once."""
        fresh, self.fresh = self.fresh, {}
        return fresh

    def forget(self, positions: Iterable[int]) -> None:
        """Forget messages that never get a row."""
        for values in self.fresh.values():
            for position in positions:
                values.pop(position, None)

    # Messages that are in rows

    def of(self, segment: Segment, fact: int, position: int) -> int:
        """Return a fact of a message, 0 if there is none."""
        later = self.later.get(fact)
        value = None if later is None else later.get(position)
        if value is not None:
            return value
        column = segment.columns.get(fact)
        return 0 if column is None else column[position - segment.base]

    def put(self, segment: Segment, fact: int, position: int, value: int) -> bool:
        """Note a fact of a message; return whether that is new."""
        if value == self.of(segment, fact, position):
            return False
        self._values(fact).put(position, value)
        return True

    def restore(self, fact: int, position: int, value: int) -> None:
        """Take in what a row says of a message that was there before."""
        self._values(fact).restore(position, value)

    def _values(self, fact: int) -> Values:
        values = self.later.get(fact)
        if values is None:
            values = self.later[fact] = Values()
        return values

    def within(self, segment: Segment, fact: int) -> dict[int, int]:
        """Return a fact of those unsettled messages of a segment that have it, ascending."""
        later, column = self.later.get(fact), segment.columns.get(fact)
        found = {} if later is None else later.between(segment.base, segment.end)
        if column is not None:
            living = segment.positions(segment.base, segment.end)
            found = {at: column[at - segment.base] for at in living} | found
        return {position: value for position, value in found.items() if value}

    def column(self, segment: Segment, fact: int) -> Sequence[int]:
        """Return a fact of all unsettled messages of a segment, 0 for none."""
        later, column = self.later.get(fact), segment.columns.get(fact)
        living = segment.positions(segment.base, segment.end)
        if later:
            found = later.between(segment.base, segment.end)
            if column is None:
                return [found.get(at, 0) for at in living]
            return [
                column[at - segment.base] if (value := found.get(at)) is None else value
                for at in living
            ]
        if column is None:
            return [0] * segment.live
        if segment.live == len(column):
            return column
        return [column[at - segment.base] for at in living]

    def move(self, segment: Segment) -> Known:
        """Return all that is known of the messages of a segment; their new rows will say it."""
        facts = segment.columns.keys() | self.later.keys()
        found = {fact: self.within(segment, fact) for fact in sorted(facts)}
        self.drop([(segment.base, segment.end - 1)])
        return found

    def drop(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Forget what was noted later of all messages in ascending ranges, first and last each."""
        for values in self.later.values():
            if values:
                values.drop(ranges)

    def take(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Return each fact that rows do not know yet, with positions, ascending, and values."""
        for fact, values in self.later.items():
            if not values.are_told:
                yield fact, values.take()

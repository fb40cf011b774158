"""Counts: how often messages came back to a durable queue, and what of that the rows do not say.

Law: counts are kept in shards of neighbouring positions, so that nothing here grows so large that
it stalls the loop by being resized, or has to be looked through as a whole. What rows do not say
yet is told a part at a time; but what said a count before and goes away is told anew at once.

Called by: storage.queue_log, storage.recovery.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

EMPTY: Mapping[int, int] = {}
SHARD_BITS = 12  # of a position, that tell it from its neighbours in a shard


class Counts:
    """How often messages came back, by position; those that ever did."""

    __slots__ = ("_lost", "_shards", "_untold")

    def __init__(self) -> None:
        self._shards: dict[int, dict[int, int]] = {}
        self._untold: dict[int, set[int]] = {}  # positions, by shard
        self._lost: set[int] = set()  # those whose count must be told with the next commit

    def __bool__(self) -> bool:
        return bool(self._shards)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for shard in self._shards.values():
            yield from shard.items()

    @property
    def are_told(self) -> bool:
        """Whether nothing is left to be told."""
        return not self._untold and not self._lost

    def restore(self, position: int, count: int) -> None:
        """Take in what a row says."""
        self._shards.setdefault(position >> SHARD_BITS, {})[position] = count

    def add(self, positions: Iterable[int]) -> None:
        """Count that messages came back once more."""
        shards, untold = self._shards, self._untold
        for position in positions:
            number = position >> SHARD_BITS
            shard = shards.get(number)
            if shard is None:
                shard = shards[number] = {}
            shard[position] = shard.get(position, 0) + 1
            some = untold.get(number)
            if some is None:
                some = untold[number] = set()
            some.add(position)

    def forget(self, positions: Iterable[int]) -> None:
        """Forget messages that are settled."""
        shards = self._shards
        for position in positions:
            number = position >> SHARD_BITS
            shard = shards.get(number)
            if shard is not None and shard.pop(position, 0) and not shard:
                del shards[number]

    def drop(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Forget all messages in ascending ranges, first and last position each."""
        numbers, at = sorted(self._shards), 0
        for first, last in ranges:
            at = bisect_left(numbers, first >> SHARD_BITS, at)
            while at < len(numbers) and numbers[at] <= last >> SHARD_BITS:
                self._drop(numbers[at], first, last)
                if numbers[at] == last >> SHARD_BITS:
                    break  # the next range may begin in it, too
                at += 1

    def _drop(self, number: int, first: int, last: int) -> None:
        """Forget what is in a shard of a range."""
        shard = self._shards.get(number, ())
        start, end = number << SHARD_BITS, (number + 1) << SHARD_BITS
        if first <= start and end <= last + 1:
            self._shards.pop(number, None)
        elif last - first < len(shard):
            self.forget(range(first, last + 1))
        else:
            self.forget([each for each in shard if first <= each <= last])

    def lose(self, first: int, end: int) -> None:
        """Have the counts of neighbours told anew: what told them goes away."""
        for number in range(first >> SHARD_BITS, (end - 1 >> SHARD_BITS) + 1):
            shard = self._shards.get(number, ())
            self._lost.update(each for each in shard if first <= each < end)

    def take(self, limit: int) -> list[tuple[int, int]]:
        """Return counts that have to be told, once, ascending.

        Args:
          limit: How many are enough, except of those that told before and goes away.
        """
        positions, self._lost = self._lost, set()
        while self._untold and len(positions) < limit:
            _, some = self._untold.popitem()
            positions |= some
        shards = self._shards
        return [
            (each, count)
            for each in sorted(positions)
            if (count := shards.get(each >> SHARD_BITS, EMPTY).get(each))
        ]

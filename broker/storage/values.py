"""Values: a number that messages of a durable queue got, and what of that the rows do not say.

Law: values are kept in shards of neighbouring positions, so that nothing here grows so large that
it stalls the loop by being resized, or has to be looked through as a whole. What rows do not say
yet is told once, at once or a part at a time; what said a value before and goes away is told anew
at once.

Called by: storage.queue_log (how often messages came back), storage.facts (what was noted of them
after their rows were made).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

EMPTY: Mapping[int, int] = {}
SHARD_BITS = 12  # of a position, that tell it from its neighbours in a shard
ALL = 1 << 62


class Values:
    """One number a message, by position; of those messages that ever got one."""

    __slots__ = ("_lost", "_shards", "_untold")

    def __init__(self) -> None:
        self._shards: dict[int, dict[int, int]] = {}
        self._untold: dict[int, set[int]] = {}  # positions, by shard
        self._lost: set[int] = set()  # those whose value must be told with the next commit

    def __bool__(self) -> bool:
        return bool(self._shards)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for shard in self._shards.values():
            yield from shard.items()

    @property
    def are_told(self) -> bool:
        """Whether nothing is left to be told."""
        return not self._untold and not self._lost

    def get(self, position: int) -> int | None:
        """Return the value of a message; None if it never got one."""
        return self._shards.get(position >> SHARD_BITS, EMPTY).get(position)

    def between(self, first: int, end: int) -> dict[int, int]:
        """Return the values from a position up to another, ascending."""
        found: dict[int, int] = {}
        for number in range(first >> SHARD_BITS, ((end - 1) >> SHARD_BITS) + 1):
            shard = self._shards.get(number)
            if shard:
                start, stop = max(first, number << SHARD_BITS), min(end, (number + 1) << SHARD_BITS)
                some = sorted(shard) if len(shard) < stop - start else range(start, stop)
                found.update((at, shard[at]) for at in some if start <= at < stop and at in shard)
        return found

    def restore(self, position: int, value: int) -> None:
        """Take in what a row says."""
        self._shards.setdefault(position >> SHARD_BITS, {})[position] = value

    def put(self, position: int, value: int) -> None:
        """Give a message a value, instead of any that it has."""
        self.restore(position, value)
        self._untold.setdefault(position >> SHARD_BITS, set()).add(position)

    def add(self, positions: Iterable[int]) -> None:
        """Make the values of messages one more than they are."""
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
            if shard is not None and shard.pop(position, None) is not None and not shard:
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
        """Have the values of neighbours told anew: what told them goes away."""
        self._lost.update(self.between(first, end))

    def take(self, limit: int = ALL) -> list[tuple[int, int]]:
        """Return values that have to be told, once, ascending.

        Args:
          limit: How many are enough, except of those that told before and goes away.
        """
        positions, self._lost = self._lost, set()
        while self._untold and len(positions) < limit:
            _, some = self._untold.popitem()
            positions |= some
        return [
            (each, value) for each in sorted(positions) if (value := self.get(each)) is not None
        ]

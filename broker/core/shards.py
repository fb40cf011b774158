"""Shards: a number for each of some positions of a queue, in dicts that never grow large.

Law: neighbours share a shard, so that no dict grows so large that it stalls the loop by being
resized, however many positions there are.

Called by: core.extras.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BITS = 12  # of a position, that tell it from its neighbours in a shard


class Shards:
    """Numbers by position; 0 where there is none."""

    __slots__ = ("_shards", "count")

    def __init__(self) -> None:
        self._shards: dict[int, dict[int, int]] = {}
        self.count = 0

    def __contains__(self, position: object) -> bool:
        return isinstance(position, int) and self.get(position) != 0

    def __bool__(self) -> bool:
        return self.count > 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for number in sorted(self._shards):  # what changes meanwhile may be seen or not
            yield from sorted(self._shards.get(number, {}).items())

    def get(self, position: int) -> int:
        """Return the number of a position, 0 if it has none."""
        shard = self._shards.get(position >> BITS)
        return 0 if shard is None else shard.get(position, 0)

    def set(self, position: int, value: int) -> None:
        """Give a position a number."""
        shard = self._shards.get(position >> BITS)
        if shard is None:
            shard = self._shards[position >> BITS] = {}
        self.count += position not in shard
        shard[position] = value

    def fill(self, positions: Sequence[int], values: Sequence[int]) -> None:
        """Give ascending positions that have no numbers yet theirs."""
        at, count = 0, len(positions)
        while at < count:
            number = positions[at] >> BITS
            end = bisect_left(positions, number + 1 << BITS, at)
            shard = self._shards.setdefault(number, {})
            shard.update(zip(positions[at:end], values[at:end], strict=True))
            at = end
        self.count += count

    def having(self, positions: Sequence[int]) -> int:
        """Return how many of some ascending positions have a number."""
        at, found = 0, 0
        while at < len(positions):
            number = positions[at] >> BITS
            end = bisect_left(positions, number + 1 << BITS, at)
            shard = self._shards.get(number)
            if shard is not None:
                found += sum(map(shard.__contains__, positions[at:end]))
            at = end
        return found

    def pop(self, position: int) -> int:
        """Forget a position; return its number, 0 if it had none."""
        shard = self._shards.get(position >> BITS)
        if shard is None or position not in shard:
            return 0
        value = shard.pop(position)
        self.count -= 1
        if not shard:
            del self._shards[position >> BITS]
        return value

    def forget(self, positions: Iterable[int]) -> None:
        """Forget positions, whether they have numbers or not."""
        if self.count:
            for position in positions:
                self.pop(position)

    def clear(self) -> None:
        """Forget everything."""
        self._shards = {}
        self.count = 0

    def free(self) -> Iterator[None]:
        """Forget everything; what is returned frees it, a shard at a time."""
        shards, self._shards, self.count = self._shards, {}, 0
        return _free(shards)


def _free(shards: dict[int, dict[int, int]]) -> Iterator[None]:
    while shards:
        shards.popitem()
        yield

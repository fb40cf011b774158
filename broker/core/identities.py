"""Identities: messages that wait, by what their publishers call them.

Law: of a name only a hash is kept, so an entry is two numbers whatever the name is, and the log has
one of them as a fact. Nobody tells when a message waits no longer: what is found is looked at again
by who asks, and when most is out of date all is looked through, in steps. No shard grows large,
and no more than one is looked at by a call.

Called by: core.extras, core.waiting.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SHARDS = 1 << 10
STEP = 1024  # positions that are looked at in one step
TOLERATED = 1024  # entries that stay out of date before more than half of all is too many


def hash_of(identity: str) -> int:
    """Return the hash of a name: from 1 to 2^64 - 1.

    Nobody finds two names with the same one but by trying very long, and then only for their own
    messages.
    """
    octets = identity.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(octets, digest_size=8).digest()) or 1


class Identities:
    """Positions of waiting messages by the hash of their name."""

    __slots__ = ("_shards", "_tidying", "count")

    def __init__(self) -> None:
        # One position, or all of them in a list: that of one name may become long, but nothing
        # that is done with it at a stroke depends on its length.
        self._shards: dict[int, dict[int, int | list[int]]] = {}
        self._tidying: Iterator[None] | None = None
        self.count = 0

    def add(self, positions: Sequence[int], hashes: Sequence[int]) -> None:
        """Add messages; a hash of 0 stands for no name."""
        shards = self._shards
        for position, number in zip(positions, hashes, strict=True):
            if not number:
                continue
            shard = shards.get(number % SHARDS)
            if shard is None:
                shard = shards[number % SHARDS] = {}
            known = shard.get(number)
            if known is None:
                shard[number] = position
            elif isinstance(known, list):
                known.append(position)
            elif known != position:
                shard[number] = [known, position]
            else:  # it waits once more
                continue
            self.count += 1

    def find(self, number: int) -> list[int]:
        """Return the positions that a hash had, ascending; some may not wait any more."""
        found = self._shards.get(number % SHARDS, {}).get(number, [])
        return sorted(set(found)) if isinstance(found, list) else [found]

    def tidy(self, waiting: int, waits: Callable[[int], object]) -> None:
        """Look some entries through if most of all are out of date.

        Args:
          waiting: How many messages wait.
          waits: Says whether one does.
        """
        if self._tidying is None:
            if self.count <= 2 * waiting + TOLERATED:
                return
            self._tidying = self._tidy(waits)
        if next(self._tidying, self) is self:
            self._tidying = None

    def _tidy(self, waits: Callable[[int], object]) -> Iterator[None]:
        looked = 0
        for number in tuple(self._shards):
            shard = self._shards[number]
            for key in tuple(shard):
                found = shard[key]
                if isinstance(found, list):
                    yield from self._tidy_list(found, waits)
                    if not found:
                        del shard[key]
                elif not waits(found):
                    del shard[key]
                    self.count -= 1
                looked += 1
                if looked >= STEP:
                    looked = 0
                    yield
            if not shard:
                del self._shards[number]

    def _tidy_list(self, found: list[int], waits: Callable[[int], object]) -> Iterator[None]:
        """Look through the positions of one name; others may be added meanwhile."""
        kept: list[int] = []
        end = len(found)
        for start in range(0, end, STEP):
            kept += {each for each in found[start : start + STEP] if waits(each)}
            if end > STEP:
                yield
        found[:end] = kept
        self.count -= end - len(kept)

    def free(self) -> Iterator[None]:
        """Forget everything; what is returned frees it, a shard at a time."""
        shards, self._shards = self._shards, {}
        self._tidying = None
        self.count = 0
        return _free(shards)


def _free(shards: dict[int, dict[int, int | list[int]]]) -> Iterator[None]:
    while shards:
        shards.popitem()
        yield

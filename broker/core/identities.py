"""Identities: messages that wait, by what their publishers call them.

Law: of a name only a hash is kept, so an entry is two numbers whatever the name is, and the log has
one of them as a fact. Entries stand in parts in the order they came, so that many come at the price
of one; a name is looked for in all parts. Nobody tells when a message waits no longer: what is
found is looked at again by who asks, and when most is out of date all is looked through, in steps.

Called by: core.extras, core.waiting.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from sys import byteorder
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

PART = 1 << 13  # names of one part
STEP = 1024  # positions that are looked at in one step
TOLERATED = 1024  # entries that stay out of date before more than half of all is too many


def hash_of(identity: str) -> int:
    """Return the hash of a name: from 1 to 2^64 - 1.

    Nobody finds two names with the same one but by trying very long, and then only for their own
    messages.
    """
    return int.from_bytes(_digest(identity))


def hashes_of(identities: Iterable[str | None]) -> Sequence[int]:
    """Return the hashes of many names, 0 for those that are none."""
    hashes = array("Q", b"".join([_digest(each) if each else _NONE for each in identities]))
    if byteorder == "little":
        hashes.byteswap()
    return hashes


def _digest(identity: str) -> bytes:
    octets = identity.encode("utf-8", "surrogateescape")
    digest = blake2b(octets, digest_size=len(_NONE)).digest()
    return digest if digest != _NONE else _LEAST


_NONE, _LEAST = bytes(8), bytes((0,) * 7 + (1,))

# One position, or all of them in a list: that of one name may become long, but nothing that is done
# with it at a stroke depends on its length.
Part: TypeAlias = "dict[int, int | list[int]]"


class Identities:
    """Positions of waiting messages by the hash of their name.

    Attributes:
      count: Entries, some of which may be out of date.
    """

    __slots__ = ("_parts", "_tidying", "count")

    def __init__(self) -> None:
        self._parts: list[Part] = [{}]  # the last one grows
        self._tidying: Iterator[None] | None = None
        self.count = 0

    def add(self, positions: Sequence[int], hashes: Sequence[int], *, is_new: bool = True) -> None:
        """Add messages; a hash of 0 stands for no name.

        Args:
          is_new: Whether none of them was added before.
        """
        if not is_new:
            positions, hashes = self._without_known(positions, hashes)
        at, end = 0, len(positions)
        while at < end:
            part = self._parts[-1]
            if len(part) >= PART:
                part = {}
                self._parts.append(part)
            start, at = at, at + PART - len(part)
            some = dict(zip(hashes[start:at], positions[start:at], strict=True))
            are_apart = 0 not in some and len(some) == min(at, end) - start
            if are_apart and part.keys().isdisjoint(some):
                part |= some
                self.count += len(some)
                continue
            for position, number in zip(positions[start:at], hashes[start:at], strict=True):
                if number:
                    self.count += _put(part, number, (position,))

    def _without_known(
        self, positions: Sequence[int], hashes: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Return what no entry of one position says; in those of many it may be once more."""
        left, names = list(zip(positions, hashes, strict=True)), set(hashes)
        for part in self._parts:
            if not part.keys().isdisjoint(names):
                left = [(at, number) for at, number in left if part.get(number) != at]
                names = {number for _, number in left}
        return [position for position, _ in left], [number for _, number in left]

    def find(self, number: int) -> Iterator[int]:
        """Return the positions that a hash had, some twice; some may not wait any more."""
        for part in self._parts:
            found = part.get(number)
            if found is not None:
                yield from _all(found)

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
        parts, looked = self._parts[:-1], 0
        last = self._parts[-1]
        for part in (*parts, last):
            for key in tuple(part):
                found = part[key]
                if isinstance(found, list):
                    yield from self._tidy_list(found, waits)
                    if not found:
                        del part[key]
                elif not waits(found):
                    del part[key]
                    self.count -= 1
                looked += 1
                if looked >= STEP:
                    looked = 0
                    yield
        yield from self._join(parts)

    def _join(self, parts: Sequence[Part]) -> Iterator[None]:
        """Put parts together that have become small, so that there are never many."""
        kept: Part | None = None
        for part in parts:
            if kept is None or len(kept) + len(part) > PART:
                kept = part
                continue
            for number, found in part.items():
                self.count += _put(kept, number, _all(found)) - len(_all(found))
            part.clear()
            yield
        self._parts = [part for part in parts if part] + self._parts[len(parts) :]

    def _tidy_list(self, found: list[int], waits: Callable[[int], object]) -> Iterator[None]:
        """Look through the positions of one name; others may be added meanwhile."""
        kept: dict[int, None] = {}  # once each: one that waits again and again is added each time
        end = len(found)
        for start in range(0, end, STEP):
            kept |= dict.fromkeys(filter(waits, found[start : start + STEP]))
            if end > STEP:
                yield
        found[:end] = kept
        self.count -= end - len(kept)

    def free(self) -> Iterator[None]:
        """Forget everything; what is returned frees it, a part at a time."""
        parts, self._parts = [part for part in self._parts if part], [{}]
        self._tidying = None
        self.count = 0
        return _free(parts)


def _all(found: int | list[int]) -> Sequence[int]:
    return found if isinstance(found, list) else (found,)


def _put(part: Part, number: int, positions: Sequence[int]) -> int:
    """Add positions of a name to a part; return how many entries that makes."""
    known = part.get(number)
    if known is None:
        part[number] = positions[0] if len(positions) == 1 else list(positions)
        return len(positions)
    if isinstance(known, list):
        known += positions
        return len(positions)
    fresh = [position for position in positions if position != known]
    if fresh:
        part[number] = [known, *fresh]
    return len(fresh)


def _free(parts: list[Part]) -> Iterator[None]:
    while parts:
        parts.pop()
        yield

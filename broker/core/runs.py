"""Runs: the ready messages of a queue in order of position.

Law: positions grow and are never reused. They are implicit: a chunk knows the position of its
first message, the rest follow without gaps; only what a restart left over of a run may have some.
No list grows beyond a chunk, so none ever stalls the loop by being resized, and taking from the
front moves at most a chunk's worth of pointers. Of a paged chunk only the place is here, its
messages are in the log or in a scratch file; it is loaded before any of them is taken.

Called by: core.queue, core.paging.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Protocol

from leveret.broker.core.message import OVERHEAD, octets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue

CHUNK_LENGTH = 1024
CHUNK_OCTETS = 2 << 20  # of a chunk, unless it is one message
UNLIMITED = 1 << 62
PIECE_OCTETS = 1 << 20  # of a paged chunk, unless it is one message
FRONT = 3  # chunks that are read before they are needed, and stay unless memory is short
PASSED = 64  # chunks that are elsewhere already, behind which others are looked for
LEAST_SPILLED = 4096  # octets of a chunk that still grows: for less it is not worth it
# Chunks from the front in which a loaded one is: what is before it may have been paged out into
# pieces meanwhile, so it has to be more than FRONT times the pieces of a chunk.
LOAD_WITHIN = 16


def free(items: list[Any], step: int) -> Iterator[None]:
    """Let go of items that nobody needs any more, some at a time."""
    while items:
        del items[-step:]
        yield


class Slot(Protocol):
    """Where messages are that a scratch file has; they are dropped with it."""

    def fetch(self, queue: Queue, paged: Paged) -> None:
        """Have messages read; the queue's `loaded` is called with them."""


class Chunk:
    """Neighbouring messages.

    Attributes:
      base: The position of the first one.
      messages: The messages.
      octets: What they are accounted for.
      positions: Those of all of them, None if there are no gaps.
    """

    __slots__ = ("base", "messages", "octets", "positions")

    def __init__(
        self, base: int, messages: list[Message], octets: int, positions: list[int] | None = None
    ) -> None:
        self.base = base
        self.messages = messages
        self.octets = octets
        self.positions = positions

    @property
    def memory(self) -> int:
        """Octets that it takes in memory, about."""
        return self.octets + len(self.messages) * OVERHEAD

    @property
    def end(self) -> int:
        """The position after the last one."""
        return self.positions[-1] + 1 if self.positions else self.base + len(self.messages)

    def take(self, count: int, octets: int) -> Sequence[int]:
        """Remove messages from the front, but not the last one; return their positions."""
        del self.messages[:count]
        self.octets -= octets
        first, positions = self.base, self.positions
        if positions is None:
            self.base = first + count
            return range(first, first + count)
        taken = positions[:count]
        del positions[:count]
        self.base = positions[0]
        return taken


class Paged:
    """Messages in order that are not in memory.

    Attributes:
      base: The position of the first one.
      end: The position after the last one; what is missing between them is settled.
      count: How many they are.
      octets: What they are accounted for.
      slot: Where they are; None if the log knows that by their positions.
      positions: Those of all of them; None if they are all that is not settled from base to end.
      is_asked: Whether they are being read.
    """

    __slots__ = ("base", "count", "end", "is_asked", "octets", "positions", "slot")

    def __init__(
        self,
        base: int,
        end: int,
        count: int,
        octets: int,
        slot: Slot | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        self.base = base
        self.end = end
        self.count = count
        self.octets = octets
        self.slot = slot
        self.positions = positions
        self.is_asked = False


def _cut(messages: list[Message], limit: int) -> Iterator[tuple[int, int, int]]:
    """Return start, end and octets of pieces that have no more than so many, unless it is one."""
    start = size = 0
    for index, message in enumerate(messages):
        one = message.header_size + message.size
        if size and size + one > limit:
            yield start, index, size
            start, size = index, 0
        size += one
    yield start, len(messages), size


def _pieces(chunk: Chunk) -> Iterator[Paged]:
    """Return what stands for a chunk that is paged out, in pieces that are read at once."""
    base = chunk.base
    for start, end, size in _cut(chunk.messages, PIECE_OCTETS):
        yield Paged(base + start, base + end, end - start, size)


class Runs:
    """A first-in, first-out sequence of messages with positions.

    Attributes:
      count: How many they are.
      bytes: Their octets.
      paged_count: How many of them are not in memory.
      paged_bytes: Their octets.
    """

    __slots__ = ("_chunks", "bytes", "count", "paged_bytes", "paged_count")

    def __init__(self) -> None:
        self._chunks: deque[Chunk | Paged] = deque()
        self.count = 0
        self.bytes = 0
        self.paged_count = 0
        self.paged_bytes = 0

    def append(self, base: int, messages: list[Message]) -> None:
        """Add messages with positions from `base` on at the end."""
        count = len(messages)
        if count > CHUNK_LENGTH:
            for first in range(0, count, CHUNK_LENGTH):
                self.append(base + first, messages[first : first + CHUNK_LENGTH])
            return
        total = octets(messages)
        self.count += count
        self.bytes += total
        chunks = self._chunks
        last = chunks[-1] if chunks else None
        if isinstance(last, Chunk) and last.positions is None and last.end == base:
            room = CHUNK_LENGTH - len(last.messages)
            if count <= room and total <= CHUNK_OCTETS - last.octets:
                last.messages += messages
                last.octets += total
                return
        if total <= CHUNK_OCTETS:
            chunks.append(Chunk(base, messages.copy(), total))
            return
        for start, end, size in _cut(messages, CHUNK_OCTETS):
            chunks.append(Chunk(base + start, messages[start:end], size))

    def take(self, limit: int, size: int = UNLIMITED) -> tuple[Sequence[int], list[Message]]:
        """Remove messages from the front, which is loaded; return their positions and them.

        They are of one chunk, so there may be fewer than asked for, but at least one.

        Args:
          limit: How many they may be.
          size: How many octets they may have together, unless it is one.
        """
        chunk = self._chunks[0]
        assert isinstance(chunk, Chunk)
        messages = chunk.messages
        taken = messages[:limit] if limit < len(messages) else messages
        total = octets(taken)
        if total > size:
            ends = list(accumulate(message.header_size + message.size for message in taken))
            limit = max(bisect_right(ends, size), 1)
            total = ends[limit - 1]
            taken = taken[:limit]
        if len(taken) == len(messages):
            self._chunks.popleft()
            positions: Sequence[int] = chunk.positions or range(chunk.base, chunk.end)
        else:
            positions = chunk.take(len(taken), total)
        self.count -= len(taken)
        self.bytes -= total
        return positions, taken

    def clear(self) -> Iterator[None]:
        """Drop everything; what is returned frees it, a chunk at a time."""
        chunks = list(self._chunks)
        self._chunks.clear()
        self.count = self.bytes = 0
        self.paged_count = self.paged_bytes = 0
        return free(chunks, 1)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the positions: first and last of each run, between which none is in use."""
        found: list[tuple[int, int]] = []
        for chunk in self._chunks:
            last = chunk.end - 1
            if found and found[-1][1] + 1 == chunk.base:
                found[-1] = found[-1][0], last
            else:
                found.append((chunk.base, last))
        return found

    # What is not in memory

    @property
    def memory(self) -> int:
        """Octets that messages take in memory, about."""
        return self.bytes - self.paged_bytes + (self.count - self.paged_count) * OVERHEAD

    def append_paged(self, paged: Paged) -> None:
        """Add messages that are only in the log, at the end."""
        self._chunks.append(paged)
        self.count += paged.count
        self.bytes += paged.octets
        self.paged_count += paged.count
        self.paged_bytes += paged.octets

    def page_out(self, limit: int, is_kept: Callable[[int, int], bool], front: int = FRONT) -> None:
        """Let go of messages that the log has, the last ones first, until few enough are left.

        Args:
          limit: Octets that may stay in memory.
          is_kept: Says of a first position and a number whether the log has all of those.
          front: Chunks that stay in any case.
        """
        chunks = self._chunks
        tail: list[Chunk | Paged] = []
        excess, passed = self.memory - limit, 0
        while len(chunks) > front and excess > 0:
            chunk = chunks[-1]
            if isinstance(chunk, Paged):
                passed += 1
                if chunk.slot is None or passed > PASSED:
                    break  # what is before it has been looked at
                tail.append(chunks.pop())
                continue
            chunks.pop()
            if chunk.positions is not None or not is_kept(chunk.base, len(chunk.messages)):
                tail.append(chunk)  # not yet, or never: it holds transient messages
                continue
            for piece in reversed(list(_pieces(chunk))):
                tail.append(piece)
                self.paged_count += piece.count
                self.paged_bytes += piece.octets
            excess -= chunk.memory
        chunks.extend(reversed(tail))

    def spillable(self, limit: int, front: int = FRONT) -> Iterator[Chunk]:
        """Return chunks in memory that should leave it, the last ones first.

        Args:
          limit: Octets that may stay in memory.
          front: Chunks that stay in any case; with fewer than usual, one that grows may go, too.
        """
        chunks = self._chunks
        excess = self.memory - limit
        for index, chunk in enumerate(islice(reversed(chunks), max(len(chunks) - front, 0))):
            if excess <= 0:
                return
            if isinstance(chunk, Paged) or chunk.positions is not None:
                continue
            is_growing = index == 0 and len(chunk.messages) < CHUNK_LENGTH
            if is_growing and (front >= FRONT or chunk.memory < LEAST_SPILLED):
                continue
            excess -= chunk.memory
            yield chunk

    def spilled(self, chunk: Chunk, paged: Paged) -> bool:
        """Let go of a chunk that has been written; False if it has changed since."""
        if chunk.base != paged.base or len(chunk.messages) != paged.count:
            return False
        chunks = self._chunks
        for index, each in enumerate(reversed(chunks), 1):
            if each is chunk:
                chunks[-index] = paged
                self.paged_count += paged.count
                self.paged_bytes += paged.octets
                return True
        return False

    @property
    def first(self) -> int:
        """The position of the first message."""
        return self._chunks[0].base

    def until(self, position: int) -> int:
        """Return how many messages of the front, which is loaded, are not after a position."""
        chunk = self._chunks[0]
        assert isinstance(chunk, Chunk)
        if chunk.positions is not None:
            return bisect_right(chunk.positions, position)
        return position - chunk.base + 1

    @property
    def is_front_paged(self) -> bool:
        """Whether the first message has to be loaded before it can be taken."""
        return self.paged_count > 0 and isinstance(self._chunks[0], Paged)

    def wanted(self, ahead: int) -> list[Paged]:
        """Return the paged chunks among the first few that nobody has asked for yet."""
        front = islice(self._chunks, ahead)
        return [each for each in front if isinstance(each, Paged) and not each.is_asked]

    def has(self, paged: Paged) -> bool:
        """Whether a paged chunk is still among the first."""
        return any(each is paged for each in islice(self._chunks, LOAD_WITHIN))

    def load(
        self, paged: Paged, messages: list[Message], positions: list[int] | None = None
    ) -> bool:
        """Put messages in the place of a paged chunk; False if it is not here any more.

        Args:
          positions: Those of all of them, None if there are no gaps.
        """
        for index, each in enumerate(islice(self._chunks, LOAD_WITHIN)):
            if each is paged:
                self._chunks[index] = Chunk(paged.base, messages, paged.octets, positions)
                self.paged_count -= paged.count
                self.paged_bytes -= paged.octets
                return True
        return False

"""Runs: the ready messages of a queue in order of position.

Law: positions grow and are never reused. They are implicit: a chunk knows the position of its
first message, the rest follow without gaps; only what a restart left over of a run may have some.
No list grows beyond a chunk, so none ever stalls the loop by being resized, and taking from the
front moves at most a chunk's worth of pointers. Of a paged chunk only the place is here, its
messages are in the log or in a scratch file; it is loaded before any of them is taken.

Called by: core.stock, core.queue, core.paging, core.inspect (looks).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate, islice
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from leveret.broker.core.chunks import Chunk, Paged, cut, gaps, has, neighbours
from leveret.broker.core.message import OVERHEAD, octets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from leveret.broker.core.chunks import Living, Sizes
    from leveret.broker.core.message import Message
    from leveret.broker.core.returned import Entry

CHUNK_LENGTH = 1024
CHUNK_OCTETS = 2 << 20  # of a chunk, unless it is one message
UNLIMITED = 1 << 62
PIECE_OCTETS = 1 << 20  # of a paged chunk, unless it is one message
FEW = 64  # messages without a gap that are worth to have their positions written down
FRONT = 3  # chunks that are read before they are needed, and stay unless memory is short
PASSED = 64  # chunks that are elsewhere already, behind which others are looked for
LEAST_SPILLED = 4096  # octets of a chunk that still grows: for less it is not worth it

_base, _position = attrgetter("base"), itemgetter(0)


def free(items: list[Any], step: int) -> Iterator[None]:
    """Let go of items that nobody needs any more, some at a time."""
    while items:
        del items[-step:]
        yield


def _takes(chunk: Chunk, positions: Sequence[int], size: int) -> bool:
    """Whether messages before or behind a chunk, and their octets, should become part of it."""
    count = len(positions)
    if chunk.count + count > CHUNK_LENGTH or chunk.octets + size > CHUNK_OCTETS:
        return False
    if positions[0] == chunk.end or positions[-1] == chunk.base - 1:
        return True
    are_few = count < FEW or gaps(positions) is not None
    return are_few and (chunk.count < FEW or chunk.positions is not None)


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
        # a list: empty, as most are, it takes a tenth of a deque
        self._chunks: list[Chunk | Paged] = []
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
        for start, end, size in cut(messages, CHUNK_OCTETS):
            chunks.append(Chunk(base + start, messages[start:end], size))

    def append_at(self, positions: Sequence[int], messages: list[Message]) -> None:
        """Add messages at the end; their positions ascend, but may have gaps."""
        count, last = len(messages), self._chunks[-1] if self._chunks else None
        if positions[-1] - positions[0] == count - 1 and (
            last is None or count >= FEW or (last.positions is None and last.end == positions[0])
        ):
            self.append(positions[0], messages)
            return
        at = 0
        while at < count:
            end = at + CHUNK_LENGTH
            at += self._put(len(self._chunks) - 1, positions[at:end], messages[at:end])

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
            del self._chunks[0]
            positions: Sequence[int] = chunk.positions or range(chunk.base, chunk.end)
        else:
            positions = chunk.take(len(taken), total)
        self.count -= len(taken)
        self.bytes -= total
        return positions, taken

    def append_one(self, position: int, message: Message) -> None:
        """Add a message at the end, where lists of one would cost more than all else."""
        chunks = self._chunks
        size = message.header_size + message.size
        last = chunks[-1] if chunks else None
        if isinstance(last, Chunk) and (
            (len(last.messages) < FEW and last.octets + size <= CHUNK_OCTETS)
            or _takes(last, (position,), size)
        ):
            last.extend((position,), (message,), size)
        else:
            chunks.append(Chunk(position, [message], size))
        self.count += 1
        self.bytes += size

    def take_one(self) -> tuple[int, Message]:
        """Remove the first message, which is loaded; return its position and it."""
        chunk = self._chunks[0]
        assert isinstance(chunk, Chunk)
        position, message = chunk.base, chunk.messages[0]
        size = message.header_size + message.size
        if len(chunk.messages) == 1:
            del self._chunks[0]
        else:
            chunk.take(1, size)
        self.count -= 1
        self.bytes -= size
        return position, message

    def clear(self) -> Iterator[None]:
        """Drop everything; what is returned frees it, a chunk at a time."""
        chunks, self._chunks = self._chunks, []
        self.count = self.bytes = 0
        self.paged_count = self.paged_bytes = 0
        return free(chunks, 1)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the positions: first and last of each run, between which none is in use."""
        found: list[tuple[int, int]] = []
        for chunk in self._chunks:
            for first, count in neighbours(chunk):
                if found and found[-1][1] + 1 == first:
                    found[-1] = found[-1][0], first + count - 1
                else:
                    found.append((first, first + count - 1))
        return found

    def after(self, position: int) -> Iterator[Chunk | Paged]:
        """Return the chunks that hold anything after a position, as long as nothing changes."""
        start = max(self._find(position), 0)
        return (chunk for chunk in islice(self._chunks, start, None) if chunk.end > position + 1)

    # What is in the middle

    def items(self) -> Iterator[Chunk | Paged]:
        """Return the chunks in order, to be looked at as long as nothing changes."""
        return iter(self._chunks)

    def has_position(self, position: int, living: Living | None = None) -> bool:
        """Whether the message at a position is here.

        Args:
          living: Says what the log has, if there is one.
        """
        index = self._find(position)
        if index < 0:
            return False
        chunk = self._chunks[index]
        if isinstance(chunk, Paged):
            return chunk.has(position, living)
        return has(chunk.numbers, position)

    def remove(
        self, first: int, last: int, sizes: Sizes | None = None, living: Living | None = None
    ) -> list[Entry]:
        """Remove all messages from a position to another; return their positions and them.

        Of what is not in memory only the sizes come back; what a slot has is not known that
        exactly: its octets are shared among its messages.

        Args:
          sizes: Says what messages take that the log has, if there is one.
          living: Says which messages it has.
        """
        chunks = self._chunks
        entries: list[Entry] = []
        start, stop = self._find(first), self._find(last)
        if start < 0 or chunks[start].base < first:
            if start >= 0:
                entries += self._cut(chunks[start], first, last, sizes, living)
            start += 1
        end = stop + 1
        is_part = start < end and chunks[stop].end - 1 > last
        end -= is_part
        for chunk in chunks[start:end]:
            if isinstance(chunk, Paged):
                entries += chunk.entries(sizes, living)
            else:
                entries += chunk.entries()
            self._discount(chunk, chunk.count, chunk.octets)
        del chunks[start:end]
        if is_part:
            entries += self._cut(chunks[start], first, last, sizes, living)
        return entries

    def remove_many(
        self, positions: Sequence[int], sizes: Sizes | None = None, living: Living | None = None
    ) -> list[Entry]:
        """Remove those messages at ascending positions that are here; see `remove`."""
        entries: list[Entry] = []
        at, count = 0, len(positions)
        while at < count:
            first, start = positions[at], at
            at += 1
            while at < count and positions[at] == first + at - start:
                at += 1
            entries += self.remove(first, positions[at - 1], sizes, living)
        return entries

    def get(self, position: int) -> Message | None:
        """Return the message at a position if it is here, and in memory."""
        index = self._find(position)
        chunk = self._chunks[index] if index >= 0 else None
        if not isinstance(chunk, Chunk):
            return None
        numbers = chunk.numbers
        at = bisect_left(numbers, position)
        return chunk.messages[at] if at < len(numbers) and numbers[at] == position else None

    def insert(
        self,
        position: int,
        message: Message,
        sizes: Sizes | None = None,
        living: Living | None = None,
    ) -> None:
        """Put back a message that was taken out or removed; see `insert_many`."""
        self.insert_many([(position, message)], sizes, living)

    def insert_many(
        self,
        entries: Sequence[tuple[int, Message]],
        sizes: Sizes | None = None,
        living: Living | None = None,
    ) -> None:
        """Put back messages that were taken out or removed, wherever they belong.

        Args:
          entries: Positions, ascending, and messages.
          sizes: Says what messages take that the log has, if there is one.
          living: Says which messages it has.
        """
        at, chunks = 0, self._chunks
        while at < len(entries):
            position, message = entries[at]
            index = self._find(position)
            if index < 0 or position >= chunks[index].end:
                bound = chunks[index + 1].base if index + 1 < len(chunks) else UNLIMITED
                end = bisect_left(entries, bound, at, key=_position)
                group = entries[at : min(end, at + CHUNK_LENGTH)]
                at += self._put(index, [each for each, _ in group], [each for _, each in group])
                continue
            chunk = chunks[index]
            if isinstance(chunk, Paged):
                chunks.insert(index + 1, chunk.split(position, sizes, living))
                continue
            size = message.header_size + message.size
            if chunk.count >= CHUNK_LENGTH or chunk.octets + size > CHUNK_OCTETS:
                chunks.insert(index + 1, chunk.halve())
                continue
            chunk.insert(position, message)
            self.count += 1
            self.bytes += size
            at += 1

    def _find(self, position: int) -> int:
        """Return the index of the last chunk that begins at a position or before, -1 for none."""
        return bisect_right(self._chunks, position, key=_base) - 1

    def _put(self, index: int, positions: Sequence[int], messages: list[Message]) -> int:
        """Put messages behind a chunk, -1 for none, and before the next; return how many."""
        _, count, size = next(cut(messages, CHUNK_OCTETS))
        positions, messages = positions[:count], messages[:count]
        self.count += count
        self.bytes += size
        chunks = self._chunks
        before = chunks[index] if index >= 0 else None
        after = chunks[index + 1] if index + 1 < len(chunks) else None
        if isinstance(before, Chunk) and _takes(before, positions, size):
            before.extend(positions, messages, size)
        elif isinstance(after, Chunk) and _takes(after, positions, size):
            for position, message in zip(reversed(positions), reversed(messages), strict=True):
                after.insert(position, message)
        else:
            chunks.insert(index + 1, Chunk(positions[0], messages, size, gaps(positions)))
        return count

    def _cut(
        self,
        chunk: Chunk | Paged,
        first: int,
        last: int,
        sizes: Sizes | None,
        living: Living | None,
    ) -> list[Entry]:
        """Remove messages of a chunk, but not all."""
        size = chunk.octets
        if isinstance(chunk, Paged):
            entries = chunk.remove(first, last, sizes, living)
        else:
            entries = chunk.remove(first, last)
        self._discount(chunk, len(entries), size - chunk.octets)
        return entries

    def _discount(self, chunk: Chunk | Paged, count: int, size: int) -> None:
        self.count -= count
        self.bytes -= size
        if isinstance(chunk, Paged):
            self.paged_count -= count
            self.paged_bytes -= size

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
            if not all(is_kept(first, count) for first, count in neighbours(chunk)):
                tail.append(chunk)  # not yet, or never: it holds transient messages
                continue
            for piece in reversed(list(chunk.pieces(PIECE_OCTETS))):
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
            if isinstance(chunk, Paged):
                continue
            is_growing = index == 0 and len(chunk.messages) < CHUNK_LENGTH
            if is_growing and (front >= FRONT or chunk.memory < LEAST_SPILLED):
                continue
            excess -= chunk.memory
            yield chunk

    def spilled(self, chunk: Chunk, paged: Paged) -> bool:
        """Let go of a chunk that has been written; False if it has changed since."""
        index = self._find(chunk.base)
        if index < 0 or self._chunks[index] is not chunk or chunk.numbers != paged.stored:
            return False
        self._chunks[index] = paged
        self.paged_count += paged.count
        self.paged_bytes += paged.octets
        return True

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

    def of_slot(self, paged: Paged) -> list[Paged]:
        """Return what is left here of what a paged chunk, from a scratch file, was part of."""
        assert paged.stored is not None
        start, stop = self._find(paged.stored[0]), self._find(paged.stored[-1])
        some = self._chunks[max(start, 0) : stop + 1]
        return [each for each in some if isinstance(each, Paged) and each.slot is paged.slot]

    def has(self, paged: Paged) -> bool:
        """Whether a paged chunk is still here."""
        index = self._find(paged.base)
        return index >= 0 and self._chunks[index] is paged

    def load(
        self, paged: Paged, messages: list[Message], positions: Sequence[int] | None = None
    ) -> bool:
        """Put messages in the place of a paged chunk; False if it is not here any more.

        Args:
          positions: Those of all of them, None if there are no gaps.
        """
        if not self.has(paged):
            return False
        self.paged_count -= paged.count
        self.paged_bytes -= paged.octets
        size = paged.octets
        if paged.positions is not None:
            messages, positions = paged.chosen(messages, positions), paged.positions
        if paged.slot is not None:  # what is left of it was an estimate if something was taken out
            size = octets(messages)
            self.bytes += size - paged.octets
        self._chunks[self._find(paged.base)] = Chunk(paged.base, messages, size, gaps(positions))
        return True

"""Chunks: pieces of a queue's ready messages, in memory or elsewhere, and how they are cut.

Law: what is cut out of a chunk leaves a gap in its positions, which are written down from then on;
without gaps they are not. The messages of a paged chunk stay where they are, also in a scratch
file: what was taken out of the chunk is left out when they are read.

Called by: core.runs (has them), core.returned (asks for what is read), storage.paging,
storage.recovery, storage.scratch, server.spiller.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Protocol

from leveret.broker.core.message import OVERHEAD, Absent, absent, octets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from leveret.broker.core.message import Message
    from leveret.broker.core.returned import Entry

    # Of what only a log has: octets of header and body of a position; the unsettled positions
    # from one up to another, which is not meant.
    Sizes = Callable[[int], tuple[int, int]]
    Living = Callable[[int, int], Sequence[int]]


class Asker(Protocol):
    """Who has messages read: a queue, or somebody who looks into one (`core.inspect`)."""

    def waits_for(self, paged: Paged) -> bool:
        """Whether messages that were asked for are still needed; asked just before each try."""

    def loaded(
        self, paged: Paged, messages: list[Message], positions: list[int] | None = None
    ) -> None:
        """Take in messages that were asked for, and their positions if there are gaps."""


class Slot(Protocol):
    """Where messages are that a scratch file has; they are dropped with it."""

    def fetch(self, queue: Asker, paged: Paged) -> None:
        """Have messages read; the `loaded` of who asks is called with them."""


def gaps(positions: Sequence[int] | None) -> array[int] | None:
    """Return ascending positions as a chunk keeps them: None if they are neighbours."""
    if positions is None or positions[-1] - positions[0] == len(positions) - 1:
        return None
    return positions if isinstance(positions, array) else array("Q", positions)


def has(positions: Sequence[int], position: int) -> bool:
    """Whether a position is among others, which ascend."""
    at = bisect_left(positions, position)
    return at < len(positions) and positions[at] == position


def cut(messages: Sequence[Message | Absent], limit: int) -> Iterator[tuple[int, int, int]]:
    """Return start, end and octets of pieces that have no more than so many, unless it is one."""
    start = size = 0
    for index, message in enumerate(messages):
        one = message.header_size + message.size
        if size and size + one > limit:
            yield start, index, size
            start, size = index, 0
        size += one
    yield start, len(messages), size


class Chunk:
    """Messages in order that are in memory.

    Attributes:
      base: The position of the first one.
      messages: The messages.
      octets: What they are accounted for.
      positions: Those of all of them, None if there are no gaps.
    """

    __slots__ = ("base", "messages", "octets", "positions")

    def __init__(
        self, base: int, messages: list[Message], octets: int, positions: array[int] | None = None
    ) -> None:
        self.base = base
        self.messages = messages
        self.octets = octets
        self.positions = positions

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.messages)

    @property
    def memory(self) -> int:
        """Octets that it takes in memory, about."""
        return self.octets + len(self.messages) * OVERHEAD

    @property
    def end(self) -> int:
        """The position after the last one."""
        return self.positions[-1] + 1 if self.positions else self.base + len(self.messages)

    @property
    def numbers(self) -> Sequence[int]:
        """The positions of all of them."""
        return self.positions or range(self.base, self.base + len(self.messages))

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
        self.base, self.positions = positions[0], gaps(positions)
        return taken

    def entries(self) -> list[Entry]:
        """Return all positions and messages."""
        return list(zip(self.numbers, self.messages, strict=True))

    def remove(self, first: int, last: int) -> list[Entry]:
        """Remove messages from a position to another, but not all; return positions and them."""
        numbers = self.numbers
        start, end = bisect_left(numbers, first), bisect_right(numbers, last)
        if start == end:
            return []
        taken = self.messages[start:end]
        entries: list[Entry] = list(zip(numbers[start:end], taken, strict=True))
        if self.positions is not None or (start and end < len(self.messages)):
            positions = self._explicit()
            del positions[start:end]
            self.base, self.positions = positions[0], gaps(positions)
        elif not start:
            self.base += end
        del self.messages[start:end]
        self.octets -= octets(taken)
        return entries

    def insert(self, position: int, message: Message) -> None:
        """Put a message at a position that is free, before, between or after the others."""
        at = bisect_left(self.numbers, position)
        if self.positions is not None or position not in {self.base - 1, self.end}:
            positions = self._explicit()
            positions.insert(at, position)
            self.positions = gaps(positions)
        if not at:
            self.base = position
        self.messages.insert(at, message)
        self.octets += message.header_size + message.size

    def extend(self, positions: Sequence[int], messages: Sequence[Message], octets: int) -> None:
        """Add messages at the end; positions ascend."""
        if self.positions is not None or positions[-1] != self.end + len(positions) - 1:
            explicit = self._explicit()
            explicit.extend(positions)
            self.positions = explicit
        self.messages += messages
        self.octets += octets

    def halve(self) -> Chunk:
        """Keep the first half; return the other one."""
        middle = len(self.messages) // 2
        numbers, messages = self.numbers, self.messages
        size = octets(messages[middle:])
        half = Chunk(numbers[middle], messages[middle:], size, gaps(numbers[middle:]))
        self.positions = gaps(numbers[:middle])
        self.octets -= size
        del messages[middle:]
        return half

    def pieces(self, limit: int) -> Iterator[Paged]:
        """Return what stands for it once the log alone has it, in pieces that are read at once.

        Args:
          limit: Octets of a piece, unless it is one message.
        """
        numbers = self.numbers
        for start, end, size in cut(self.messages, limit):
            positions = gaps(numbers[start:end])
            yield Paged(numbers[start], numbers[end - 1] + 1, end - start, size, None, positions)

    def _explicit(self) -> array[int]:
        return array("Q", self.numbers) if self.positions is None else self.positions


class Paged:
    """Messages in order that are not in memory.

    Attributes:
      base: The position of the first one.
      end: The position after the last one.
      count: How many they are.
      octets: What they are accounted for.
      bodies: How much of that are bodies; known only of those that a slot has.
      slot: Where they are; None if the log knows that by their positions.
      positions: Those of all of them; None if they are all that is not settled from base to end,
        which they are as long as nothing was taken out.
      stored: The positions of all that the slot has, also of those that were taken out.
      is_asked: Whether they are being read.
    """

    __slots__ = (
        *("base", "bodies", "count", "end", "is_asked", "octets", "positions", "slot", "stored"),
    )

    def __init__(
        self,
        base: int,
        end: int,
        count: int,
        octets: int,
        slot: Slot | None = None,
        positions: Sequence[int] | None = None,
        bodies: int = 0,
    ) -> None:
        self.base = base
        self.end = end
        self.count = count
        self.octets = octets
        self.bodies = bodies
        self.slot = slot
        self.positions = positions
        self.stored: Sequence[int] | None = None
        if slot is not None:
            self.stored = range(base, end) if positions is None else positions
        self.is_asked = False

    def numbers(self, living: Living | None) -> Sequence[int]:
        """Return the positions of all of them."""
        if self.positions is not None:
            return self.positions
        if self.stored is not None:
            return self.stored
        assert living is not None
        found = living(self.base, self.end)
        assert len(found) == self.count
        return found

    def has(self, position: int, living: Living | None) -> bool:
        """Whether the message at a position is one of them."""
        if not self.base <= position < self.end:
            return False
        known = self.stored if self.positions is None else self.positions
        if known is not None:
            return has(known, position)
        assert living is not None
        return len(living(position, position + 1)) > 0

    def entries(self, sizes: Sizes | None, living: Living | None) -> list[Entry]:
        """Return all positions, and what stands for the messages."""
        return self._entries(self.numbers(living), sizes)

    def remove(
        self, first: int, last: int, sizes: Sizes | None, living: Living | None
    ) -> list[Entry]:
        """Remove messages from a position to another, but not all; return what stands for them."""
        numbers = self.numbers(living)
        start, end = bisect_left(numbers, first), bisect_right(numbers, last)
        if start == end:
            return []
        entries = self._entries(numbers[start:end], sizes)
        self._keep([*numbers[:start], *numbers[end:]], *_octets_of(entries))
        return entries

    def split(self, position: int, sizes: Sizes | None, living: Living | None) -> Paged:
        """Keep what is before a position; return what is after it. There is something of both."""
        numbers = self.numbers(living)
        at = bisect_left(numbers, position)
        is_front_less = 2 * at < self.count  # to ask for the sizes of
        some = self._entries(numbers[:at] if is_front_less else numbers[at:], sizes)
        size, bodies = _octets_of(some)
        if is_front_less:
            size, bodies = self.octets - size, self.bodies - bodies
        after = Paged(
            numbers[at], self.end, self.count - at, size, self.slot, array("Q", numbers[at:])
        )
        after.stored = self.stored
        after.bodies = bodies
        self._keep(numbers[:at], size, bodies)
        return after

    def chosen(self, messages: list[Message], positions: Sequence[int] | None) -> list[Message]:
        """Return, of messages that were read, those that nobody has taken out meanwhile.

        Args:
          positions: Those of all that were read, None if they are as many as the slot has.
        """
        read = self.stored if positions is None else positions
        if read is None or self.positions is None or len(messages) == self.count:
            return messages
        wanted = set(self.positions)
        both = zip(read, messages, strict=True)
        return [message for position, message in both if position in wanted]

    def _entries(self, positions: Sequence[int], sizes: Sizes | None) -> list[Entry]:
        if self.slot is None:
            assert sizes is not None
            return [(position, absent(*sizes(position))) for position in positions]
        # What each takes only the file knows: they have equal shares, the last one what is over.
        heads, bodies, count = self.octets - self.bodies, self.bodies, self.count
        one = Absent(heads // count, bodies // count, self.slot, self.stored)
        entries: list[Entry] = [(position, one) for position in positions]
        if len(entries) == count:
            over = heads % count, bodies % count
            last = Absent(one.header_size + over[0], one.size + over[1], self.slot, self.stored)
            entries[-1] = positions[-1], last
        return entries

    def _keep(self, positions: Sequence[int], size: int, bodies: int) -> None:
        """Be only some of the messages; octets that the others have are no longer accounted for."""
        self.positions = array("Q", positions)
        self.base, self.end = positions[0], positions[-1] + 1
        self.count = len(positions)
        self.octets -= size
        self.bodies -= bodies


def _octets_of(entries: Sequence[Entry]) -> tuple[int, int]:
    """Return what entries are accounted for, and what bodies have of that if a slot has them."""
    bodies = [each.size for _, each in entries if isinstance(each, Absent) and each.slot]
    return octets(each for _, each in entries), sum(bodies)


def neighbours(chunk: Chunk | Paged) -> Iterator[tuple[int, int]]:
    """Return the positions in a chunk: first and number of each run without a gap in use."""
    first = chunk.base
    if chunk.positions is None:
        yield first, chunk.end - first
        return
    end = first
    for position in chunk.positions:
        if position != end:
            yield first, end - first
            first = position
        end = position + 1
    yield first, end - first

"""Runs: the ready messages of a queue in order of position.

Law: positions grow and are never reused. They are implicit: a chunk knows the position of its
first message, the rest follow without gaps. No list grows beyond a chunk, so none ever stalls
the loop by being resized, and taking from the front moves at most a chunk's worth of pointers.

Called by: core.queue; amqp.channel (octets).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from leveret.broker.core.message import Message

CHUNK_LENGTH = 1024
UNLIMITED = 1 << 62


def octets(messages: Iterable[Message]) -> int:
    """Return what messages are accounted for, besides `OVERHEAD` for each: header and body."""
    return sum([message.header_size + message.size for message in messages])


def free(items: list[Any], step: int) -> Iterator[None]:
    """Let go of items that nobody needs any more, some at a time."""
    while items:
        del items[-step:]
        yield


class Chunk:
    """Neighbouring messages.

    Attributes:
      base: The position of the first one.
      messages: The messages, without gaps.
    """

    __slots__ = ("base", "messages")

    def __init__(self, base: int, messages: list[Message]) -> None:
        self.base = base
        self.messages = messages


class Runs:
    """A first-in, first-out sequence of messages with positions.

    Attributes:
      count: How many they are.
      bytes: Their octets.
    """

    __slots__ = ("_chunks", "bytes", "count")

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self.count = 0
        self.bytes = 0

    def append(self, base: int, messages: list[Message]) -> None:
        """Add messages with positions from `base` on at the end."""
        self.count += len(messages)
        self.bytes += octets(messages)
        start = 0
        chunks = self._chunks
        if chunks:
            last = chunks[-1]
            room = CHUNK_LENGTH - len(last.messages)
            if room > 0 and last.base + len(last.messages) == base:
                last.messages += messages[:room]
                start = room
        for index in range(start, len(messages), CHUNK_LENGTH):
            chunks.append(Chunk(base + index, messages[index : index + CHUNK_LENGTH]))

    def take(self, limit: int, size: int = UNLIMITED) -> tuple[int, list[Message]]:
        """Remove messages from the front; return the first position and them.

        They are neighbours, so there may be fewer than asked for, but at least one.

        Args:
          limit: How many they may be.
          size: How many octets they may have together, unless it is one.
        """
        chunk = self._chunks[0]
        base, messages = chunk.base, chunk.messages
        taken = messages[:limit] if limit < len(messages) else messages
        total = octets(taken)
        if total > size:
            ends = list(accumulate(message.header_size + message.size for message in taken))
            limit = max(bisect_right(ends, size), 1)
            total = ends[limit - 1]
            taken = taken[:limit]
        if len(taken) == len(messages):
            self._chunks.popleft()
        else:
            del messages[: len(taken)]
            chunk.base = base + len(taken)
        self.count -= len(taken)
        self.bytes -= total
        return base, taken

    def clear(self) -> Iterator[None]:
        """Drop everything; what is returned frees it, a chunk at a time."""
        chunks = list(self._chunks)
        self._chunks.clear()
        self.count = 0
        self.bytes = 0
        return free(chunks, 1)

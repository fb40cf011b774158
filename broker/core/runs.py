"""Runs: the ready messages of a queue in order of position.

Law: positions grow and are never reused. They are implicit: a chunk knows the position of its
first message, the rest follow without gaps. No list grows beyond a chunk, so none ever stalls
the loop by being resized, and taking from the front moves at most a chunk's worth of pointers.

Called by: core.queue.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leveret.broker.core.message import Message

CHUNK = 1024


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
    """A first-in, first-out sequence of messages with positions."""

    __slots__ = ("_chunks", "count")

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self.count = 0

    def append(self, base: int, messages: list[Message]) -> None:
        """Add messages with positions from `base` on at the end."""
        self.count += len(messages)
        start = 0
        chunks = self._chunks
        if chunks:
            last = chunks[-1]
            room = CHUNK - len(last.messages)
            if room > 0 and last.base + len(last.messages) == base:
                last.messages += messages[:room]
                start = room
        for index in range(start, len(messages), CHUNK):
            chunks.append(Chunk(base + index, messages[index : index + CHUNK]))

    def take(self, limit: int) -> tuple[int, list[Message]]:
        """Remove up to `limit` messages from the front; return the first position and them.

        They are neighbours, so there may be fewer than asked for, but at least one.
        """
        chunk = self._chunks[0]
        base, messages = chunk.base, chunk.messages
        if limit >= len(messages):
            self._chunks.popleft()
            taken = messages
        else:
            taken = messages[:limit]
            del messages[:limit]
            chunk.base = base + limit
        self.count -= len(taken)
        return base, taken

    def body_bytes(self) -> int:
        """Return the body octets of all messages."""
        return sum(sum([message.size for message in chunk.messages]) for chunk in self._chunks)

    def clear(self) -> None:
        """Drop everything."""
        self._chunks.clear()
        self.count = 0

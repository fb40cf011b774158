"""Outbox: octets waiting for one peer.

Law: appending is all that handlers and queues do; one write at the end of the slice takes
everything. The size decides whether the peer gets more deliveries, the replies whether it is
read from: a peer that asks without reading the answers has to wait, one that publishes without
reading its deliveries has not.

Called by: amqp.session, amqp.channel; core.batch (through the session's flush).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leveret.protocol.content import Buffer


class Outbox:
    """Octets in order.

    Attributes:
      parts: What waits.
      size: About how many octets they are; exact again whenever it is empty.
      replies: At most how many of them are not deliveries.
    """

    __slots__ = ("_replies_taken", "parts", "replies", "size")

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self.size = 0
        self.replies = 0
        self._replies_taken = 0

    def append(self, data: Buffer) -> None:
        """Add octets at the end."""
        self.parts.append(data)
        size = len(data)
        self.size += size
        self.replies += size

    def take(self) -> list[Buffer]:
        """Remove and return everything."""
        parts, self.parts = self.parts, []
        self.size = 0
        self._replies_taken, self.replies = self.replies, 0
        return parts

    def put_back(self, parts: list[Buffer]) -> None:
        """Put what the peer did not take in front again."""
        self.parts[:0] = parts
        self.size += sum(map(len, parts))
        self.replies = min(self.replies + self._replies_taken, self.size)

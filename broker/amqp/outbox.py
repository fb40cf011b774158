"""Outbox: octets waiting for one peer.

Law: appending is all that handlers and queues do; one write at the end of the slice takes
everything. The size decides whether the peer gets more deliveries.

Called by: amqp.session, amqp.channel; core.batch (through the session's flush).
"""


class Outbox:
    """Octets in order.

    Attributes:
      parts: What waits.
      size: About how many octets they are; exact again whenever it is empty.
    """

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def append(self, data: bytes) -> None:
        """Add octets at the end."""
        self.parts.append(data)
        self.size += len(data)

    def take(self) -> list[bytes]:
        """Remove and return everything."""
        parts, self.parts = self.parts, []
        self.size = 0
        return parts

    def put_back(self, parts: list[bytes]) -> None:
        """Put what the peer did not take in front again."""
        self.parts[:0] = parts
        self.size += sum(map(len, parts))

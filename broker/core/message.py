"""Messages: what queues hold.

Law: a message never changes. All queues it is in share it, so what only one of them knows (its
position, whether it was delivered before) stands there.

Called by: protocol.reader and storage.paging (make them), core.queue, core.runs, core.returned,
core.paging, amqp, server.forgetter, plugins.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from leveret.protocol.constants import (
    HAS_CONTENT_ENCODING,
    HAS_CONTENT_TYPE,
    HAS_DELIVERY_MODE,
    HAS_HEADERS,
    HAS_MORE_FLAGS,
    PERSISTENT,
)
from leveret.protocol.content import FRAME_HEAD, Content
from leveret.protocol.errors import FrameError
from leveret.protocol.properties import VALUES_OFFSET, with_headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from leveret.protocol.wire import Value

# What a queued message costs besides its octets: object, bytes header, place in the run.
OVERHEAD = 250


class Message(Content):
    """A published message."""

    __slots__ = ()

    @property
    def persistent(self) -> bool:
        """Whether its publisher asked for it to survive a restart (delivery mode 2).

        This is asked of each message that comes into a durable queue, so nothing is decoded: the
        sizes of what stands before the mode lead to it.
        """
        flags, octets = self.flags, self.frames
        if not flags & HAS_DELIVERY_MODE:
            return False
        at, end = VALUES_OFFSET, self.header_size
        if isinstance(octets, tuple):
            octets = octets[0]
        else:  # what stands behind the header is there, too, but is not looked at
            at, end = at + FRAME_HEAD, end + FRAME_HEAD
        try:
            if flags & HAS_MORE_FLAGS:
                return self.properties.delivery_mode == PERSISTENT
            if flags & HAS_CONTENT_TYPE:
                at += 1 + octets[at]
            if flags & HAS_CONTENT_ENCODING:
                at += 1 + octets[at]
            if flags & HAS_HEADERS:
                at += 4 + int.from_bytes(octets[at : at + 4])
            return at < end and octets[at] == PERSISTENT
        except (IndexError, FrameError):  # nobody has read its properties yet, and nobody can
            return False

    def with_headers(self, headers: Mapping[str, Value] | None) -> Message:
        """Return a copy with other headers; the body is shared."""
        return self.with_header(with_headers(self.header, headers))

    def with_header(self, header: bytes) -> Message:
        """Return a copy with another header payload; the body is shared."""
        flags = int.from_bytes(header[12:14])
        return Message(self.envelope, (header, *self.chunks), len(header), self.size, flags)


class Absent:
    """What stands for a message that only the log has.

    Attributes:
      header_size: Octets of the header's payload.
      size: Octets of the body.
    """

    __slots__ = ("header_size", "size")

    def __init__(self, header_size: int, size: int) -> None:
        self.header_size = header_size
        self.size = size


@lru_cache(4096)
def absent(header_size: int, size: int) -> Absent:
    """Return what stands for messages of such sizes: most are alike, and share it."""
    return Absent(header_size, size)


def octets(messages: Iterable[Message | Absent]) -> int:
    """Return what messages are accounted for, besides `OVERHEAD` for each: header and body."""
    return sum([message.header_size + message.size for message in messages])


def absent_octets(messages: Iterable[Message | Absent]) -> int:
    """Return the octets of those of them that only the log has."""
    return octets([message for message in messages if message.__class__ is Absent])

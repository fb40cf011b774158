"""Messages: what queues hold.

Law: a message never changes. All queues it is in share it, so what only one of them knows (its
position, whether it was delivered before) stands there.

Called by: protocol.reader (makes them), core.queue, amqp.basic_methods, plugins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.protocol.constants import HAS_DELIVERY_MODE, PERSISTENT
from leveret.protocol.content import Content
from leveret.protocol.properties import with_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leveret.protocol.wire import Value

# What a queued message costs besides its octets: object, bytes header, place in the run.
OVERHEAD = 250


class Message(Content):
    """A published message."""

    __slots__ = ()

    @property
    def persistent(self) -> bool:
        """Whether its publisher asked for it to survive a restart (delivery mode 2)."""
        return self.flags & HAS_DELIVERY_MODE != 0 and self.properties.delivery_mode == PERSISTENT

    def with_headers(self, headers: Mapping[str, Value] | None) -> Message:
        """Return a copy with other headers; the body is shared."""
        return self.with_header(with_headers(self.header, headers))

    def with_header(self, header: bytes) -> Message:
        """Return a copy with another header payload; the body is shared."""
        flags = int.from_bytes(header[12:14])
        return Message(self.envelope, (header, *self.chunks), len(header), self.size, flags)

"""Filters: which of a queue's messages somebody wants to see.

Law: a filter looks at one message and remembers nothing. What is cheap is asked first: exchange
and routing key are decoded already, properties are not.

Called by: core.inspect, core.lookups, plugins (moving, redrive).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leveret.broker.core.binding import comparable
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leveret.broker.core.message import Message
    from leveret.protocol.properties import Properties


@dataclass(frozen=True, slots=True)
class Filter:
    """What a message has to be like; None is whatever.

    Attributes:
      exchange: Name of the exchange it was published to.
      routing_key: The key it was published with.
      message_id: The property of that name.
      published_before: Its property timestamp, in seconds since 1970, is less.
      published_after: Its property timestamp is more. One without has no known age, and fits
        neither.
      headers: Headers that it has, with equal values, as a headers exchange compares them.
    """

    exchange: str | None = None
    routing_key: str | None = None
    message_id: str | None = None
    published_before: int | None = None
    published_after: int | None = None
    headers: Mapping[str, object] = field(default_factory=dict)

    def accepts(self, message: Message) -> bool:
        """Whether a message is like that."""
        method = message.envelope.method
        assert isinstance(method, BasicPublish)
        if self.exchange is not None and method.exchange != self.exchange:
            return False
        if self.routing_key is not None and method.routing_key != self.routing_key:
            return False
        if not self._needs_properties:
            return True
        try:
            return self._fits(message.properties)
        except AMQPError:  # octets that nobody can read: they have no value to compare
            return False

    @property
    def _needs_properties(self) -> bool:
        by_time = self.published_before is not None or self.published_after is not None
        return by_time or self.message_id is not None or bool(self.headers)

    def _fits(self, properties: Properties) -> bool:
        if self.message_id is not None and properties.message_id != self.message_id:
            return False
        before, after, at = self.published_before, self.published_after, properties.timestamp
        if before is not None and (at is None or at >= before):
            return False
        if after is not None and (at is None or at <= after):
            return False
        headers = properties.headers or {}
        return all(
            name in headers and comparable(headers[name]) == comparable(value)
            for name, value in self.headers.items()
        )

"""Sightings: what is shown of messages that somebody has looked at.

Law: a sighting is a value; the message in it is shared with the queue and never changes. Its JSON
has the names of RabbitMQ's "get messages", and beside them what only this broker knows.

Called by: core.inspect (makes them), core.lookups (shows them), plugins (moving, redrive).
"""

from __future__ import annotations

import base64
import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leveret.broker.core.as_json import as_json
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    from leveret.broker.core.as_json import Json
    from leveret.broker.core.message import Message

EXCERPT = 1024  # octets of a body that are shown if nothing else is said


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a message that is not settled.

    Attributes:
      connection: The address of the peer.
      consumer_tag: "" if it was fetched with basic.get.
    """

    connection: str
    user: str
    channel: int
    consumer_tag: str
    delivery_tag: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """One message, as it was seen.

    Attributes:
      position: Its position in the queue.
      message: The message.
      redelivered: Whether it had been delivered before; None if nobody remembers.
      delivery_count: How often it has come back to the queue; None if nobody counts.
      holder: Who has it; None if nobody does.
      due: Until when it waits, in milliseconds of the wall clock; None if it does not.
      deadline: When it expires, likewise; None if that is not known, or never.
    """

    position: int
    message: Message
    redelivered: bool | None
    delivery_count: int | None
    holder: Holder | None
    due: int | None = None
    deadline: int | None = None

    def as_json(self, body_limit: int = EXCERPT) -> dict[str, Json]:
        """Return it as `json.dumps` takes it, with so many octets of the body at most."""
        message = self.message
        method = message.envelope.method
        assert isinstance(method, BasicPublish)
        body = _start(message, body_limit)
        encoding, payload = _payload(body, is_whole=len(body) == message.size)
        return {
            "position": self.position,
            "exchange": method.exchange,
            "routing_key": method.routing_key,
            "redelivered": self.redelivered,
            "delivery_count": self.delivery_count,
            "holder": as_json(self.holder),
            "due": self.due,
            "deadline": self.deadline,
            "properties": _properties(message),
            "payload_bytes": message.size,
            "payload_encoding": encoding,
            "payload": payload,
            "is_truncated": len(body) < message.size,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the messages of a queue in one state.

    Attributes:
      messages: Those that were wanted, in order.
      next: Where the page after it begins; None if there is nothing left to be looked at.
      looked: How many messages were looked at.
      gone: How many of them left the queue before they had been read.
    """

    messages: tuple[Sighting, ...]
    next: str | None
    looked: int
    gone: int

    def as_json(self, body_limit: int = EXCERPT) -> dict[str, Json]:
        """Return it as `json.dumps` takes it, with so many octets of each body at most."""
        return {
            "messages": [each.as_json(body_limit) for each in self.messages],
            "next": self.next,
            "looked": self.looked,
            "gone": self.gone,
        }


def _properties(message: Message) -> Json:
    """Return the properties that are there; None if nobody can read them."""
    try:
        properties = message.properties
    except AMQPError:
        return None
    found = properties._asdict()
    return as_json({name: value for name, value in found.items() if value is not None})


def _start(message: Message, limit: int) -> bytes:
    """Return the first octets of a body, without putting a long one together."""
    parts: list[bytes] = []
    for chunk in message.chunks:
        if limit <= 0:
            break
        parts.append(chunk[:limit])
        limit -= len(chunk)
    return b"".join(parts)


def _payload(body: bytes, *, is_whole: bool) -> tuple[str, str]:
    """Return an encoding and octets in it: text where it is some, even if cut in a character."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        return "string", decoder.decode(body, final=is_whole)
    except UnicodeDecodeError:
        return "base64", base64.b64encode(body).decode()

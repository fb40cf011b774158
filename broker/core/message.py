"""Messages: what queues hold.

Law: a message never changes. All queues it is in share it, so what only one of them knows (its
position, whether it was delivered before) stands there.

Called by: protocol.reader and storage.paging (make them), core.stock, core.queue, core.runs,
core.returned, core.hooked, core.restoring, core.paging, amqp, server.forgetter, plugins.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from leveret.broker.core.checks import life_of
from leveret.protocol.codec import decode_method, encode_method
from leveret.protocol.constants import (
    HAS_CONTENT_ENCODING,
    HAS_CONTENT_TYPE,
    HAS_DELIVERY_MODE,
    HAS_EXPIRATION,
    HAS_HEADERS,
    HAS_MESSAGE_ID,
    HAS_MORE_FLAGS,
    HAS_PRIORITY,
    PERSISTENT,
)
from leveret.protocol.content import CLASS_TICKET, FRAME_HEAD, Content, Envelope
from leveret.protocol.errors import FrameError
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import (
    EXPIRATION,
    FLAGS_OFFSET,
    UNDEFINED,
    VALUES_OFFSET,
    encode,
    locate,
    message_id,
    splice_headers,
    with_headers,
)
from leveret.protocol.wire import LONG, SHORT

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from leveret.broker.core.chunks import Slot
    from leveret.protocol.properties import Places, Properties
    from leveret.protocol.wire import Value

# What a queued message costs besides its octets: object, bytes header, place in the run.
OVERHEAD = 250
CHANNEL_END = 3  # of a frame: type and channel
VALUES = FRAME_HEAD + VALUES_OFFSET  # where properties begin in a message of one piece
TABLE_SIZE = 4  # octets of the length of a table
MOST_PAYLOAD = 0xFFFF  # octets of a publish method, with what is kept behind it
LONGEST_KEY = 255  # octets of a short string


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

    @property
    def life(self) -> int | None:
        """The milliseconds of its expiration, None without one; nothing else is decoded.

        Raises:
          FrameError: The properties cannot be read.
          PreconditionFailed: It is no time, or too long.
        """
        flags, frames = self.flags, self.frames
        if not flags & HAS_EXPIRATION:
            return None
        if not isinstance(frames, tuple) and not flags & UNDEFINED:
            at = EXPIRATION[flags](frames, VALUES)  # the reader has followed all lengths
            return life_of(frames[at + 1 : at + 1 + frames[at]])
        header = self.header
        places = locate(header)
        return life_of(header[places[3] + 1 : places[4]])

    @property
    def message_id(self) -> str | None:
        """The property of that name, without the others being decoded.

        Raises:
          FrameError: The properties cannot be read.
        """
        return message_id(self.header) if self.flags & HAS_MESSAGE_ID else None

    @property
    def priority(self) -> int:
        """The property of that name, without the others being decoded; 0 without it."""
        if not self.flags & HAS_PRIORITY:
            return 0
        header = self.header
        at = locate(header)[2]  # behind the headers, and the mode
        return header[at + 1 if self.flags & HAS_DELIVERY_MODE else at]

    def with_headers(self, headers: Mapping[str, Value] | None) -> Message:
        """Return a copy with other headers; the body is shared."""
        return self.with_header(with_headers(self.header, headers))

    def with_header(self, header: bytes, envelope: Envelope | None = None) -> Message:
        """Return a copy with another header payload, and another envelope if one is given.

        What came in one piece stays in one piece, because such go out fastest.

        Args:
          header: The payload.
          envelope: One of the same channel.
        """
        frames = self.frames
        size = len(header)
        if isinstance(frames, tuple):
            frames = (header, *frames[1:])
        else:
            head = frames[:CHANNEL_END] + LONG.pack(size)
            frames = b"".join((head, header, frames[FRAME_HEAD + self.header_size :]))
        flags = header[12] << 8 | header[13]
        return Message(envelope or self.envelope, frames, size, self.size, flags)

    def spliced(self, remove: Container[bytes] = (), append: bytes = b"") -> Message:
        """Return a copy with fewer and more headers: see `properties.splice_headers`."""
        return self.with_header(splice_headers(self.header, remove, append))

    def as_dead_letter(self, entries: bytes, envelope: Envelope, places: Places) -> Message:
        """Return a copy with more headers, without an expiration: `spliced`, for very many.

        Args:
          entries: The headers, as `table.encode_entries` makes them.
          envelope: Its envelope, of the same channel.
          places: What `properties.locate` says of the header.
        """
        frames = self.frames
        if isinstance(frames, tuple):
            header = splice_headers(frames[0], (), entries, keeps_expiration=False, places=places)
            return self.with_header(header, envelope)
        flags, start, end, expiry, behind = places
        flags = (flags | HAS_HEADERS) & ~HAS_EXPIRATION
        table_size = max(end - start - TABLE_SIZE, 0) + len(entries)
        size = self.header_size + start - end + TABLE_SIZE + table_size + expiry - behind
        octets = (
            frames[:CHANNEL_END],
            LONG.pack(size),
            frames[FRAME_HEAD : FRAME_HEAD + FLAGS_OFFSET],
            SHORT.pack(flags),
            frames[VALUES : FRAME_HEAD + start],
            LONG.pack(table_size),
            frames[FRAME_HEAD + start + TABLE_SIZE : FRAME_HEAD + end],
            entries,
            frames[FRAME_HEAD + end : FRAME_HEAD + expiry],
            frames[FRAME_HEAD + behind :],
        )
        return Message(envelope, b"".join(octets), size, self.size, flags)

    def with_address(self, exchange: str, routing_key: str) -> Message:
        """Return the same message as if it had been published elsewhere."""
        old = self.envelope
        envelope = address(exchange, routing_key, old.channel, self.is_dead_letter)
        return Message(envelope, self.frames, self.header_size, self.size, self.flags)

    @property
    def is_dead_letter(self) -> bool:
        """Whether the broker wrote its x-death, and not a publisher: see `address`."""
        method = self.envelope.method
        return isinstance(method, BasicPublish) and method.immediate

    @staticmethod
    def make(
        exchange: str, routing_key: str, properties: Properties, body: bytes, *, channel: int = 0
    ) -> Message:
        """Return a message that the broker itself publishes.

        Raises:
          FieldError: A name or a property does not fit into its field.
        """
        header = encode(properties, len(body))
        frames = (header, body) if body else (header,)
        envelope = address(exchange, routing_key, channel)
        return Message(envelope, frames, len(header), len(body), int.from_bytes(header[12:14]))


@lru_cache(4096)
def address(
    exchange: str, routing_key: str, channel: int = 0, is_dead_letter: bool = False
) -> Envelope:
    """Return the envelope of messages that the broker publishes to such an exchange and key.

    A dead letter's has the bit `immediate`. It is part of the octets that are stored, nobody gets
    to see it, and no client can set it: publishing with it is refused (540). So it tells for
    good, and without anything else to keep, that what the headers say of deaths is true.

    Raises:
      FieldError: A name is longer than 255 octets.
    """
    method = BasicPublish(exchange, routing_key, immediate=is_dead_letter)
    return Envelope(method, channel, encode_method(method))


class BlindEnvelope(Envelope):
    """The envelope of a message that had blind copies (the header BCC).

    They stand behind the octets of the publish method, so they are kept with it and nobody is
    told of them; a dead letter without a key of its own goes to them, too.

    Attributes:
      copies: Their routing keys.
    """

    __slots__ = ("copies",)

    def __init__(self, method: BasicPublish, channel: int, payload: bytes, copies: bytes) -> None:
        super().__init__(method, channel, payload)
        self.payload = payload + copies
        self.copies = tuple(_short_strings(copies))

    @staticmethod
    def of(envelope: Envelope, copies: Iterable[str]) -> Envelope:
        """Return an envelope that knows of blind copies, or the same if they are too many.

        A key that is too long to be published with is left out.
        """
        keys = [key for key in map(str.encode, copies) if len(key) <= LONGEST_KEY]
        octets = b"".join([bytes((len(key),)) + key for key in keys])
        method = envelope.method
        if not octets or len(envelope.payload) + len(octets) > MOST_PAYLOAD:
            return envelope
        assert isinstance(method, BasicPublish)
        return BlindEnvelope(method, envelope.channel, envelope.payload, octets)


def stored_envelope(payload: bytes) -> Envelope:
    """Return the envelope of a publish method's octets as they were kept.

    Raises:
      AMQPError: They are no method.
    """
    end = _end_of_publish(payload)
    method = decode_method(payload[:end])
    if end < len(payload) and isinstance(method, BasicPublish):
        return BlindEnvelope(method, 0, payload[:end], payload[end:])
    return Envelope(method, 0, payload)


def _end_of_publish(payload: bytes) -> int:
    """Return where a publish method ends: behind two names and an octet of bits."""
    end = CLASS_TICKET
    for _ in ("exchange", "routing key"):
        if end >= len(payload):
            return len(payload)
        end += 1 + payload[end]
    return end + 1


def _short_strings(octets: bytes) -> Iterator[str]:
    at = 0
    while at < len(octets):
        end = at + 1 + octets[at]
        yield octets[at + 1 : end].decode("utf-8", "surrogateescape")
        at = end


class Altered(Message):
    """A message as it was delivered, with headers that the one in the queue does not have.

    Attributes:
      original: The one in the queue.
    """

    __slots__ = ("original",)

    def __init__(self, altered: Message, original: Message) -> None:
        frames, size = altered.frames, altered.header_size
        super().__init__(altered.envelope, frames, size, altered.size, altered.flags)
        self.original = original


class Absent:
    """What stands for a message that only the log or a scratch file has.

    Attributes:
      header_size: Octets of the header's payload.
      size: Octets of the body.
      slot: Where it is, if that is not the log.
      stored: The positions of all that the slot has.
    """

    __slots__ = ("header_size", "size", "slot", "stored")

    def __init__(
        self,
        header_size: int,
        size: int,
        slot: Slot | None = None,
        stored: Sequence[int] | None = None,
    ) -> None:
        self.header_size = header_size
        self.size = size
        self.slot = slot
        self.stored = stored


@lru_cache(4096)
def absent(header_size: int, size: int) -> Absent:
    """Return what stands for messages of such sizes: most are alike, and share it."""
    return Absent(header_size, size)


def octets(messages: Iterable[Message | Absent]) -> int:
    """Return what messages are accounted for, besides `OVERHEAD` for each: header and body."""
    return sum([message.header_size + message.size for message in messages])


def bodies_size(messages: Iterable[Message]) -> int:
    """Return the octets of their bodies."""
    return sum([message.size for message in messages])


def absent_octets(messages: Iterable[Message | Absent]) -> int:
    """Return the octets of those of them that only the log has."""
    return octets([message for message in messages if message.__class__ is Absent])

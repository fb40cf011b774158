"""Content: one message as it crossed the wire.

Law: octets are kept as they came. Nothing is decoded until somebody asks for it, and what is
handed on is what was received.

Called by: reader (makes them), the broker's messages and the client's deliveries.
"""

from collections.abc import Mapping
from typing import TypeAlias

from leveret.protocol.methods import BasicPublish, Method
from leveret.protocol.properties import Properties, decode, decode_headers, locate
from leveret.protocol.wire import Value

# Octets on their way out: whole, or a view of a body that does not fit one frame.
Buffer: TypeAlias = bytes | memoryview

CLASS_TICKET = 6  # octets before the exchange in the payload of basic.publish
FRAME_HEAD = 7  # type, channel, size


class Envelope:
    """The method that announces a content, decoded once for each distinct payload and channel.

    Attributes:
      method: basic.publish, -deliver, -return or -get-ok.
      channel: The number of the channel it came in on.
      payload: The method's payload as received.
      address: What a delivery of a published message says after its delivery tag: not
        redelivered, exchange, routing key, end of frame. Empty for other methods.
      readdress: The same for a redelivery.
      address_size: Octets of the address without the end of frame.
    """

    __slots__ = ("address", "address_size", "channel", "method", "payload", "readdress")

    def __init__(self, method: Method, channel: int, payload: bytes) -> None:
        self.method = method
        self.channel = channel
        self.payload = payload
        names = payload[CLASS_TICKET:-1] if isinstance(method, BasicPublish) else b""
        self.address = b"\x00" + names + b"\xce"
        self.readdress = b"\x01" + names + b"\xce"
        self.address_size = len(names) + 1

    def __repr__(self) -> str:
        return f"<Envelope {self.method!r} on channel {self.channel}>"


class Content:
    """A message: envelope, header, body.

    The reader sets the attributes without `__init__`, which therefore does nothing else.

    Attributes:
      envelope: The method in front.
      frames: Header frame and body frame in one piece as received (no body frame if it is
        empty), or the header's payload and the body's chunks where it took several frames.
      header_size: Octets of the header's payload.
      size: Octets of the body.
      flags: The word that says which properties are there (specification 4.2.6.1).
    """

    __slots__ = ("envelope", "flags", "frames", "header_size", "size")

    def __init__(
        self,
        envelope: Envelope,
        frames: bytes | tuple[bytes, ...],
        header_size: int,
        size: int,
        flags: int,
    ) -> None:
        self.envelope = envelope
        self.frames = frames
        self.header_size = header_size
        self.size = size
        self.flags = flags

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.envelope.method!r}, {self.size} octets>"

    @property
    def header(self) -> bytes:
        """The payload of the header frame: class, weight, body size, flags, properties."""
        frames = self.frames
        if isinstance(frames, tuple):
            return frames[0]
        return frames[FRAME_HEAD : FRAME_HEAD + self.header_size]

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The header's payload and the body's chunks."""
        frames = self.frames
        if isinstance(frames, tuple):
            return frames
        end = FRAME_HEAD + self.header_size
        if self.size:
            return frames[FRAME_HEAD:end], frames[end + 1 + FRAME_HEAD : -1]
        return (frames[FRAME_HEAD:end],)

    @property
    def chunks(self) -> tuple[bytes, ...]:
        """The body in the pieces it came in."""
        return self.pieces[1:]

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        chunks = self.chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def properties(self) -> Properties:
        """The properties, decoded now.

        Raises:
          FrameError: They cannot be decoded.
        """
        return decode(self.header)

    @property
    def headers(self) -> Mapping[str, Value] | None:
        """The headers alone, decoded now.

        Raises:
          FrameError: They cannot be decoded.
        """
        return decode_headers(self.header)

    @property
    def headers_octets(self) -> bytes:
        """The table of headers as it came, with its length; nothing if there is none.

        Raises:
          FrameError: Lengths do not fit; what is in the table is not looked at.
        """
        header = self.header
        _, start, end, _, _ = locate(header)
        return header[start:end]


def make_content(
    method: Method, header: bytes, body: bytes = b"", content_type: type[Content] = Content
) -> Content:
    """Build a content that never crossed a wire, for publishing from within and for tests."""
    from leveret.protocol.codec import encode_method

    envelope = Envelope(method, 0, encode_method(method))
    flags = int.from_bytes(header[12:14])
    frames = (header, body) if body else (header,)
    return content_type(envelope, frames, len(header), len(body), flags)

"""Frames with names, and readers fed in every way a socket may cut them."""

from typing import NamedTuple

from leveret.protocol.codec import encode_method
from leveret.protocol.constants import (
    DEFAULT_FRAME_MAX,
    DEFAULT_MAX_MESSAGE_SIZE,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_METHOD,
)
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicAck, BasicPublish, Method
from leveret.protocol.properties import Properties, encode
from leveret.protocol.reader import Acks, Contents, Oversized, Reader

PUBLISH = BasicPublish("", "q")
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class Seen(NamedTuple):
    """A content as tests compare it."""

    method: Method
    header: bytes
    body: bytes


class Refused(NamedTuple):
    """An error as tests compare it."""

    code: int
    text: str


class TooLarge(NamedTuple):
    """An oversized content as tests compare it."""

    method: Method
    size: int


def frame(kind: int, channel: int, payload: bytes, end: int = FRAME_END) -> bytes:
    """Return a frame, right or wrong."""
    return bytes((kind,)) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + bytes((end,))


def method(value: Method, channel: int = 1) -> bytes:
    """Return the frame of a method."""
    return frame(FRAME_METHOD, channel, encode_method(value))


def header(size: int, channel: int = 1, properties: Properties | None = None) -> bytes:
    """Return the frame of a content header."""
    return frame(FRAME_HEADER, channel, encode(properties or Properties(), size))


def body(payload: bytes, channel: int = 1) -> bytes:
    """Return a body frame."""
    return frame(FRAME_BODY, channel, payload)


def message(
    payload: bytes,
    channel: int = 1,
    envelope: Method = PUBLISH,
    properties: Properties | None = None,
    cut: int = 0,
) -> bytes:
    """Return the frames of a content, its body cut into frames of `cut` octets."""
    step = cut or len(payload) or 1
    pieces = [payload[start : start + step] for start in range(0, len(payload), step)]
    head = method(envelope, channel) + header(len(payload), channel, properties)
    return head + b"".join(body(piece, channel) for piece in pieces)


def seen(payload: bytes, envelope: Method = PUBLISH, properties: Properties | None = None) -> Seen:
    """Return what `message` with the same arguments is read as."""
    return Seen(envelope, encode(properties or Properties(), len(payload)), payload)


def flat(commands):
    """Return commands one by one, in a form that compares."""
    items = []
    for channel, command in commands:
        if isinstance(command, Contents):
            items += [(channel, Seen(c.envelope.method, c.header, c.body)) for c in command]
        elif isinstance(command, Acks):
            items += [(channel, BasicAck(tag)) for tag in command]
        elif isinstance(command, AMQPError):
            items.append((channel, Refused(command.code, command.text)))
        elif isinstance(command, Oversized):
            items.append((channel, TooLarge(command.method, command.size)))
        else:
            items.append((channel, command))
    return items


def reader(frame_max: int = DEFAULT_FRAME_MAX, largest: int = DEFAULT_MAX_MESSAGE_SIZE) -> Reader:
    """Return a reader with limits."""
    made = Reader()
    made.frame_max = frame_max
    made.max_message_size = largest
    return made


def read(chunks, **limits):
    """Return what a new reader makes of chunks."""
    target = reader(**limits)
    return [item for chunk in chunks for item in flat(target.feed(chunk))]


def read_every_way(data: bytes, **limits):
    """Read octets whole, byte by byte, in two at every place, and with others behind them.

    Returns what they are read as, the same every way.
    """
    whole = read([data], **limits)
    ways = {"byte by byte": [data[at : at + 1] for at in range(len(data))]}
    places = range(1, len(data)) if len(data) <= 300 else range(1, len(data), len(data) // 97)
    ways |= {f"cut at {at}": [data[:at], data[at:]] for at in places}
    ways |= {f"{count} octets behind": [data + HEARTBEAT[:count]] for count in range(1, 8)}
    for name, chunks in ways.items():
        assert (name, whole) == (name, read(chunks, **limits))
    return whole

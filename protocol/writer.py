"""Writer: values to frames.

Law: no octet of a body is copied that can be handed on; channel numbers and sizes are all that
changes between the frames that came in and those that go out.

Called by: connection, the broker's channels, clients.
"""

from collections.abc import Iterable
from struct import Struct

from leveret.protocol.codec import encode_method
from leveret.protocol.constants import FRAME_BODY, FRAME_HEADER, FRAME_METHOD
from leveret.protocol.content import Buffer, Content
from leveret.protocol.methods import Method
from leveret.protocol.wire import encode_shortstr

_head = Struct(">BHI").pack
_END = b"\xce"
_DELIVER = b"\x00\x3c\x00\x3c"
_SIZE_OF_TAG = 8


def method_frame(channel: int, method: Method) -> bytes:
    """Return the frame of a method."""
    payload = encode_method(method)
    return _head(FRAME_METHOD, channel, len(payload)) + payload + _END


def content_frames(
    channel: int, frame_max: int, header: bytes, chunks: Iterable[bytes]
) -> list[Buffer]:
    """Return header and body frames as a list of octets to send in order.

    Args:
      channel: The channel's number.
      frame_max: The largest frame in octets, 0 for no limit.
      header: The payload of the header frame.
      chunks: The body in pieces; pieces that fit one frame are handed on as they are, of others
        views.
    """
    parts: list[Buffer] = [_head(FRAME_HEADER, channel, len(header)), header, _END]
    largest = frame_max - 8 if frame_max else 0xFFFFFFFF
    for chunk in chunks:
        if len(chunk) <= largest:
            parts += (_head(FRAME_BODY, channel, len(chunk)), chunk, _END)
        else:
            view = memoryview(chunk)
            for start in range(0, len(chunk), largest):
                piece = view[start : start + largest]
                parts += (_head(FRAME_BODY, channel, len(piece)), piece, _END)
    return parts


def framed(content: Content, channel: int, frame_max: int) -> list[Buffer]:
    """Return header and body frames of a content for another channel or frame limit.

    What came in one piece goes out as it is if channel and limit allow.
    """
    frames = content.frames
    if (
        isinstance(frames, bytes)
        and content.envelope.channel == channel
        and (not frame_max or content.size + 8 <= frame_max)
    ):
        return [frames]
    return content_frames(channel, frame_max, content.header, content.chunks)


def deliver_head(channel: int, consumer_tag: str, address_size: int) -> bytes:
    """Return a basic.deliver frame up to its delivery tag.

    Args:
      channel: The channel's number.
      consumer_tag: The consumer's tag.
      address_size: Octets of what follows the delivery tag: `Envelope.address_size`.
    """
    head = _DELIVER + encode_shortstr(consumer_tag)
    return _head(FRAME_METHOD, channel, len(head) + _SIZE_OF_TAG + address_size) + head

"""Headers that the broker itself writes into messages, and what names one that waits.

Law: octets are spliced, nothing is decoded but the one value that must be read; what a publisher
wrote under the same name goes.

Called by: redelivery, delayed.
"""

from __future__ import annotations

from functools import lru_cache

from leveret.broker.core.message import VALUES, Message
from leveret.protocol.constants import (
    HAS_CONTENT_ENCODING,
    HAS_CONTENT_TYPE,
    HAS_HEADERS,
    HAS_MESSAGE_ID,
    HAS_MORE_FLAGS,
)
from leveret.protocol.content import FRAME_HEAD
from leveret.protocol.errors import FrameError
from leveret.protocol.properties import message_id, split_headers
from leveret.protocol.table import (
    Float32,
    Int8,
    Int16,
    Int64,
    LongInt64,
    UInt8,
    UInt16,
    UInt32,
    decode_value,
    encode_entries,
)

COUNT, DELAY, DELAY_ID = "x-delivery-count", "x-delay", "x-delay-id"
_COUNT, _DELAY, _DELAY_ID = COUNT.encode(), DELAY.encode(), DELAY_ID.encode()
DELAY_ENTRY = bytes((len(_DELAY),)) + _DELAY  # its name in a table; a tag and the value follow
_INT32_ENTRY = DELAY_ENTRY + b"I"  # with the tag of what nearly all clients send
# Where that stands in a message of one piece with nothing before its headers.
_BEFORE_HEADERS = HAS_CONTENT_TYPE | HAS_CONTENT_ENCODING | HAS_MORE_FLAGS
_FIRST_ENTRY = VALUES + 4
_INT32 = _FIRST_ENTRY + len(_INT32_ENTRY)
_INT32_END = _INT32 + 4
# What stays of its type when its sign changes; of unsigned integers none does.
_SIGNED = (int, float, Int8, Int16, Int64, LongInt64, Float32)
_UNSIGNED = (UInt8, UInt16, UInt32)


def with_count(message: Message, count: int) -> Message:
    """Return the message with how often it was delivered before, as quorum queues say it."""
    remove = (_COUNT,) if _COUNT in message.header else ()
    try:
        return message.spliced(remove, _count_entry(count))
    except FrameError:  # nobody can read its headers
        return message


def identity_of(message: Message) -> str | None:
    """Return by what name a waiting message is known: its x-delay-id, or else its message-id."""
    header = message.header
    try:
        if _DELAY_ID in header and message.flags & HAS_HEADERS:
            name = (message.headers or {}).get(DELAY_ID)
            if isinstance(name, str | int) and not isinstance(name, bool):
                return str(name)
        return message_id(header) if message.flags & HAS_MESSAGE_ID else None
    except FrameError:  # nobody can read them
        return None


def int32_delay(message: Message) -> int | None:
    """Return x-delay as most have it, None if it is there in another way, or not at all.

    It is the first entry of the headers then, and a 32-bit integer; nothing else is looked at.
    """
    frames = message.frames
    if (
        isinstance(frames, bytes)
        and message.flags & (HAS_HEADERS | _BEFORE_HEADERS) == HAS_HEADERS
        and frames.startswith(_INT32_ENTRY, _FIRST_ENTRY)
        and frames[_FIRST_ENTRY - 1] >= _INT32_END - _FIRST_ENTRY  # the table's length, its end
        and FRAME_HEAD + message.header_size >= _INT32_END
    ):
        return int.from_bytes(frames[_INT32:_INT32_END], signed=True)
    return None


def negated_delay(message: Message) -> Message:
    """Return the message with x-delay below zero, which says that it was delayed already."""
    frames, delay = message.frames, int32_delay(message)
    if (
        delay is not None
        and isinstance(frames, bytes)
        and frames.find(DELAY_ENTRY, _INT32_END, FRAME_HEAD + message.header_size) < 0
    ):
        return _with_int32_delay(message, frames, -delay) if delay > 0 else message
    try:
        octets = split_headers(message.header).get(_DELAY)
        value = None if octets is None else decode_value(octets)
    except FrameError:  # nobody can read its headers
        return message
    kind = type(value)
    if kind not in (*_SIGNED, *_UNSIGNED) or not value > 0:  # type: ignore[operator]
        return message
    negated = -value if kind in _UNSIGNED else kind(-value)  # type: ignore[operator]
    return message.spliced((_DELAY,), encode_entries({DELAY: negated}))


def _with_int32_delay(message: Message, frames: bytes, delay: int) -> Message:
    """Return the message with four other octets, where `int32_delay` has found them."""
    octets = b"".join((frames[:_INT32], delay.to_bytes(4, signed=True), frames[_INT32_END:]))
    return Message(message.envelope, octets, message.header_size, message.size, message.flags)


@lru_cache(1024)
def _count_entry(count: int) -> bytes:
    return encode_entries({COUNT: Int64(count)})

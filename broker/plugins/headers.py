"""Headers that the broker itself writes into messages, and what names one that waits.

Law: octets are spliced, nothing is decoded but the one value that must be read; what a publisher
wrote under the same name goes.

Called by: redelivery, delayed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from leveret.protocol.constants import HAS_HEADERS, HAS_MESSAGE_ID
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

if TYPE_CHECKING:
    from leveret.broker.core.message import Message

COUNT, DELAY, DELAY_ID = "x-delivery-count", "x-delay", "x-delay-id"
_COUNT, _DELAY, _DELAY_ID = COUNT.encode(), DELAY.encode(), DELAY_ID.encode()
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


def negated_delay(message: Message) -> Message:
    """Return the message with x-delay below zero, which says that it was delayed already."""
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


@lru_cache(1024)
def _count_entry(count: int) -> bytes:
    return encode_entries({COUNT: Int64(count)})

"""The format of the catalog: definitions as octets.

Law: a definition's value is a checksum (CRC-32 of kind, key and all that follows), a format
number, and what is known: x-arguments as an AMQP table, the rest as JSON. Its key is names, one
behind the other, each with its length, so that they may hold any octet.

Called by: storage.catalog (writes them), storage.catalog_restorer (reads them),
storage.inspection (KINDS, shown).
"""

from __future__ import annotations

import json
from struct import Struct, error
from typing import TYPE_CHECKING, Final, cast
from zlib import crc32

from leveret.broker.storage.base import Definition
from leveret.protocol.table import encode_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leveret.protocol.wire import Value

FORMAT: Final = 1

# The kinds, in the order in which one can stand on another. Notes are there before their owners:
# what plugins do with those that are declared may need them.
NUMBER: Final = "number"
NOTE: Final = "note"
VHOST: Final = "vhost"
USER: Final = "user"
PERMISSIONS: Final = "permissions"
TOPIC_PERMISSIONS: Final = "topic_permissions"
POLICY: Final = "policy"
OPERATOR_POLICY: Final = "operator_policy"
EXCHANGE: Final = "exchange"
QUEUE: Final = "queue"
HIDDEN_QUEUE: Final = "hidden_queue"  # that only a plugin knows
BINDING: Final = "binding"
KINDS: Final = (
    *(NUMBER, NOTE, VHOST, USER, PERMISSIONS, TOPIC_PERMISSIONS),
    *(POLICY, OPERATOR_POLICY, EXCHANGE, QUEUE, HIDDEN_QUEUE, BINDING),
)

# How many names those keys begin with that have something else behind them.
NAMES: Final[Mapping[str, int]] = {BINDING: 5, NOTE: 4}

# What the content of some begins with, or is.
NUMBER_CONTENT: Final = Struct("<Q")
QUEUE_CONTENT: Final = Struct("<BQ")  # flags, number
AUTO_DELETE, INTERNAL = 1, 2  # flags

_start = Struct("<IB")  # checksum, format
_size = Struct("<I")
_LONG: Final = 255  # a length octet that says: the length follows


def pack_names(*names: str) -> bytes:
    """Return names as octets that no other names give.

    >>> pack_names("ab", "") != pack_names("a", "b")
    True
    """
    return b"".join([_sized(name.encode("utf-8", "surrogateescape")) for name in names])


def _sized(octets: bytes) -> bytes:
    size = len(octets)
    return (bytes((size,)) if size < _LONG else b"\xff" + _size.pack(size)) + octets


def unpack_name(octets: bytes, offset: int) -> tuple[str, int]:
    """Return the name that is there, and the offset behind it."""
    size, start = octets[offset], offset + 1
    if size == _LONG:
        (size,) = _size.unpack_from(octets, start)
        start += _size.size
    end = start + size
    if end > len(octets):
        raise ValueError("cut short")
    return octets[start:end].decode("utf-8", "surrogateescape"), end


def unpack_names(octets: bytes, count: int = 1 << 16) -> tuple[list[str], int]:
    """Return so many names, or all there are, and the offset behind them."""
    names: list[str] = []
    offset = 0
    while offset < len(octets) and len(names) < count:
        name, offset = unpack_name(octets, offset)
        names.append(name)
    return names, offset


def pack_table(table: Mapping[str, object]) -> bytes:
    """Return x-arguments as octets."""
    return encode_table(cast("Mapping[str, Value]", table))


def pack_json(content: object) -> bytes:
    """Return anything else that is known as octets."""
    return json.dumps(content, separators=(",", ":")).encode()


def seal(kind: str, key: bytes, content: bytes) -> Definition:
    """Return a definition with a checksum over all of it."""
    tail = bytes((FORMAT,)) + content
    checksum = crc32(tail, crc32(key, crc32(kind.encode())))
    return Definition(kind, key, checksum.to_bytes(4, "little") + tail)


def unseal(kind: str, key: bytes, value: bytes) -> bytes:
    """Return what `seal` was given, or raise `ValueError`."""
    if len(value) < _start.size:
        raise ValueError("cut short")
    checksum, number = _start.unpack_from(value)
    if checksum != crc32(value[4:], crc32(key, crc32(kind.encode()))):
        raise ValueError("its checksum is wrong")
    if number != FORMAT:
        raise ValueError(f"its format {number} is not known")
    return value[_start.size :]


def shown(kind: str, key: bytes) -> str:
    """Return kind and key for people, on one line."""
    try:
        names = " ".join(map(repr, unpack_names(key, NAMES.get(kind, 1 << 16))[0]))
    except (ValueError, IndexError, error):
        names = key.hex()
    return f"{printable(kind)} {names}".rstrip()


def printable(text: object) -> str:
    """Return a text for people without what would break its line."""
    return "".join([one if one.isprintable() else ascii(one)[1:-1] for one in str(text)])

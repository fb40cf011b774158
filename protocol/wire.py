"""Wire types: how the scalars of AMQP look as octets.

Law: a type is named here once, as an annotation that `codec` compiles and mypy reads as a
plain Python type. Nothing here knows methods, frames or tables.

Called by: methods (annotations), codec, properties, table, sasl.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from struct import Struct
from types import MappingProxyType
from typing import Annotated, TypeAlias

from leveret.protocol.errors import FieldError, FrameError

SHORT = Struct(">H")
LONG = Struct(">I")
LONGLONG = Struct(">Q")

MALFORMED_SHORTSTR = "Malformed UTF-8 in shortstr"


class Wire(Enum):
    """The ways a field is laid out (specification 4.2.1); LONGTEXT is a long string of text."""

    BIT = "bit"
    OCTET = "octet"
    SHORT = "short"
    LONG = "long"
    LONGLONG = "longlong"
    SHORTSTR = "shortstr"
    LONGSTR = "longstr"
    LONGTEXT = "longtext"
    TABLE = "table"


Value: TypeAlias = (
    bool
    | int
    | float
    | str
    | bytes
    | Decimal
    | datetime
    | Sequence["Value"]
    | Mapping[str, "Value"]
    | None
)
"""What a field table may hold."""

Bit = Annotated[bool, Wire.BIT]
Octet = Annotated[int, Wire.OCTET]
Short = Annotated[int, Wire.SHORT]
Long = Annotated[int, Wire.LONG]
LongLong = Annotated[int, Wire.LONGLONG]
ShortStr = Annotated[str, Wire.SHORTSTR]
LongStr = Annotated[bytes, Wire.LONGSTR]
LongText = Annotated[str, Wire.LONGTEXT]
Table = Annotated[Mapping[str, Value], Wire.TABLE]

EMPTY_TABLE: Mapping[str, Value] = MappingProxyType({})


def encode_shortstr(text: str) -> bytes:
    """Return a short string: one octet of length, UTF-8."""
    encoded = text.encode("utf-8", "surrogateescape")
    if len(encoded) > 255:
        raise FieldError(f"short string of {len(encoded)} bytes: 255 is the limit")
    return bytes((len(encoded),)) + encoded


def decode_shortstr(data: bytes, offset: int) -> tuple[str, int]:
    """Return the short string at `offset`, and the offset behind it."""
    if offset >= len(data):
        raise FrameError("cannot decode a short string: no length")
    end = offset + 1 + data[offset]
    if end > len(data):
        raise FrameError("cannot decode a short string: cut short")
    try:
        return data[offset + 1 : end].decode(), end
    except UnicodeDecodeError:
        raise FrameError(MALFORMED_SHORTSTR) from None


def encode_longstr(value: bytes | str) -> bytes:
    """Return a long string: four octets of length, then the octets."""
    encoded = value.encode() if isinstance(value, str) else value
    return LONG.pack(len(encoded)) + encoded

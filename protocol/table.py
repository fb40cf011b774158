"""Field tables and arrays: typed values in messages, arguments and properties.

Law: what is decoded and encoded again gives the same octets, so headers survive a broker that
only wanted to add one. Plain Python values stand for the tags they encode to; a value that came
under another tag is a marked `int`, `float` or `bytes`, which compares and computes as usual.
Of a name given twice the first value counts, as in RabbitMQ (`rabbit_misc:table_lookup`).

Malformed bytes give a `FrameError` and nothing else, in time linear in their number.

Called by: codec (arguments), properties (headers), sasl (AMQPLAIN), clients.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct, error
from typing import ClassVar

from leveret.protocol.constants import MAX_TABLE_DEPTH
from leveret.protocol.errors import FieldError, FrameError
from leveret.protocol.wire import LONG, LONGLONG, Value

SHORTEST, LONGEST = -(1 << 31), (1 << 31) - 1  # what tag I holds
INT8, INT16, UINT16 = Struct(">b"), Struct(">h"), Struct(">H")
INT32, INT64 = Struct(">i"), Struct(">q")
FLOAT32, FLOAT64 = Struct(">f"), Struct(">d")
DECIMAL = Struct(">BI")


# Marked values


class TaggedInt(int):
    """An integer that came under a tag of its own."""

    __slots__ = ()
    tag: ClassVar[bytes]
    struct: ClassVar[Struct]


class Int8(TaggedInt):
    """Tag b."""

    __slots__ = ()
    tag, struct = b"b", INT8


class UInt8(TaggedInt):
    """Tag B."""

    __slots__ = ()
    tag, struct = b"B", Struct(">B")


class Int16(TaggedInt):
    """Tag s: in RabbitMQ's dialect an integer, not a short string."""

    __slots__ = ()
    tag, struct = b"s", INT16


class UInt16(TaggedInt):
    """Tag u."""

    __slots__ = ()
    tag, struct = b"u", UINT16


class UInt32(TaggedInt):
    """Tag i."""

    __slots__ = ()
    tag, struct = b"i", LONG


class Int64(TaggedInt):
    """Tag l with a value that tag I would hold."""

    __slots__ = ()
    tag, struct = b"l", INT64


class LongInt64(TaggedInt):
    """Tag L, which py-amqp writes for what others call l."""

    __slots__ = ()
    tag, struct = b"L", INT64


class Timestamp(TaggedInt):
    """Tag T: seconds since 1970. A `datetime` is encoded as one, too."""

    __slots__ = ()
    tag, struct = b"T", LONGLONG

    def datetime(self) -> datetime:
        """Return the moment, in UTC."""
        return datetime.fromtimestamp(self, UTC)


class Float32(float):
    """Tag f."""

    __slots__ = ()


class LongString(bytes):
    """Tag S with octets that are no UTF-8."""

    __slots__ = ()


class ConstantTable(dict[str, Value]):
    """A table that is sent again and again and never changes: it is encoded once.

    Attributes:
      encoded: The table with its length.
    """

    __slots__ = ("encoded",)

    def __init__(self, table: Mapping[str, Value]) -> None:
        super().__init__(table)
        self.encoded = encode_table(table)


# Tables that peers may share, by their octets: how many, and how long each may be.
SHARED_LIMIT, SHARED_SIZE = 64, 2048
_shared: dict[bytes, Mapping[str, Value]] = {}

# Decoding: a decoder takes the data, the offset behind the tag and the depth, and returns the
# value and the offset behind it. It may run past the end of its table; the table notices.

Decoder = Callable[[bytes, int, int], tuple[Value, int]]
Entry = tuple[bytes, int, int, int]  # name, its offset, the offset of the tag, the end

# Octets of a value behind its tag; the others begin with their length in four octets.
SIZES = {
    **dict.fromkeys(b"V", 0),
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"su", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"D", 5),
    **dict.fromkeys(b"lLdT", 8),
}
_LENGTH_FIRST = frozenset(b"SAFx")


def decode_table(data: bytes, offset: int = 0, depth: int = 0) -> tuple[dict[str, Value], int]:
    """Return the table at `offset`, and the offset behind it.

    Raises:
      FrameError: It is cut short, too deep, or holds an unknown tag.
    """
    try:
        end = _end(data, offset, depth)
        return decode_entries(data, offset + 4, end, depth), end
    except (IndexError, error):
        raise FrameError("cannot decode table: cut short") from None


def decode_shared(data: bytes, offset: int = 0) -> tuple[Mapping[str, Value], int]:
    """Return the table at `offset`, one object for equal octets, and the offset behind it.

    Raises:
      FrameError: As `decode_table`.
    """
    end = offset + 4 + int.from_bytes(data[offset : offset + 4])
    octets = data[offset:end]
    table = _shared.get(octets)
    if table is None:
        table, end = decode_table(data, offset)
        if len(octets) <= SHARED_SIZE:
            if len(_shared) >= SHARED_LIMIT:
                _shared.clear()
            _shared[octets] = table
    return table, end


def decode_entries(data: bytes, offset: int, end: int, depth: int = 0) -> dict[str, Value]:
    """Return the table whose names and values fill `offset` to `end` exactly."""
    table: dict[str, Value] = {}
    while offset < end:
        start = offset + 1
        offset = start + data[offset]
        name = data[start:offset].decode("utf-8", "surrogateescape")
        decoder = DECODERS.get(data[offset])
        if decoder is None:
            raise _unknown(data[offset])
        value, offset = decoder(data, offset + 1, depth)
        table.setdefault(name, value)
    if offset != end:
        raise FrameError("cannot decode table: an entry exceeds it")
    return table


def scan_entries(data: bytes, offset: int, end: int) -> list[Entry]:
    """Return where the entries are that fill `offset` to `end` exactly, without decoding them.

    Returns:
      Of each entry: its name's octets, where it begins, where the tag of its value is, its end.

    Raises:
      FrameError: Lengths do not fit, or a tag is unknown; what is in a value is not looked at.
    """
    entries = []
    try:
        while offset < end:
            start = offset + 1
            tagged = start + data[offset]
            tag = data[tagged]
            size = SIZES.get(tag)
            if size is None:
                if tag not in _LENGTH_FIRST:
                    raise _unknown(tag)
                size = 4 + int.from_bytes(data[tagged + 1 : tagged + 5])
            entries.append((data[start:tagged], offset, tagged, tagged + 1 + size))
            offset = tagged + 1 + size
    except IndexError:
        raise FrameError("cannot decode table: cut short") from None
    if offset != end:
        raise FrameError("cannot decode table: an entry exceeds it")
    return entries


def decode_value(octets: bytes) -> Value:
    """Return the value that stands there with its tag.

    Raises:
      FrameError: It cannot be decoded, or anything stands behind it.
    """
    try:
        [value] = decode_array(LONG.pack(len(octets)) + octets, 0, 0)[0]
    except (IndexError, ValueError, error):
        raise FrameError("cannot decode value: cut short, or octets left over") from None
    return value


def decode_array(data: bytes, offset: int, depth: int) -> tuple[list[Value], int]:
    """Return the array at `offset`, and the offset behind it."""
    end = _end(data, offset, depth)
    offset += 4
    values: list[Value] = []
    while offset < end:
        decoder = DECODERS.get(data[offset])
        if decoder is None:
            raise _unknown(data[offset])
        value, offset = decoder(data, offset + 1, depth)
        values.append(value)
    if offset != end:
        raise FrameError("cannot decode array: an entry exceeds it")
    return values, end


def _end(data: bytes, offset: int, depth: int) -> int:
    if depth > MAX_TABLE_DEPTH:
        raise FrameError(f"cannot decode table: nested deeper than {MAX_TABLE_DEPTH}")
    (length,) = LONG.unpack_from(data, offset)
    end: int = offset + 4 + length
    if end > len(data):
        raise FrameError("cannot decode table: cut short")
    return end


def _unknown(tag: int) -> FrameError:
    return FrameError(f"cannot decode table: unknown type tag {tag}")


def _number(struct: Struct, make: Callable[..., Value] | None = None) -> Decoder:
    unpack, size = struct.unpack_from, struct.size

    def plain(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
        return unpack(data, offset)[0], offset + size

    def marked(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
        assert make is not None
        return make(unpack(data, offset)[0]), offset + size

    return marked if make else plain


def _decode_int64(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
    (value,) = INT64.unpack_from(data, offset)
    return (Int64(value) if SHORTEST <= value <= LONGEST else value), offset + 8


def _decode_bool(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
    return data[offset] != 0, offset + 1


def _decode_decimal(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
    scale, digits = DECIMAL.unpack_from(data, offset)
    return Decimal((0, tuple(map(int, str(digits))), -scale)), offset + 5


def _decode_void(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
    return None, offset


def _decode_bytes(data: bytes, offset: int, depth: int) -> tuple[bytes, int]:
    (length,) = LONG.unpack_from(data, offset)
    start = offset + 4
    return data[start : start + length], start + length


def _decode_string(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
    octets, offset = _decode_bytes(data, offset, depth)
    try:
        return octets.decode(), offset
    except UnicodeDecodeError:
        return LongString(octets), offset


def _decode_nested(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
    end = _end(data, offset, depth + 1)
    return decode_entries(data, offset + 4, end, depth + 1), end


def _decode_array(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
    return decode_array(data, offset, depth + 1)


DECODERS: dict[int, Decoder] = {
    ord("t"): _decode_bool,
    ord("b"): _number(INT8, Int8),
    ord("B"): _number(UInt8.struct, UInt8),
    ord("s"): _number(INT16, Int16),
    ord("u"): _number(UINT16, UInt16),
    ord("I"): _number(INT32),
    ord("i"): _number(LONG, UInt32),
    ord("l"): _decode_int64,
    ord("L"): _number(INT64, LongInt64),
    ord("f"): _number(FLOAT32, Float32),
    ord("d"): _number(FLOAT64),
    ord("D"): _decode_decimal,
    ord("S"): _decode_string,
    ord("A"): _decode_array,
    ord("T"): _number(LONGLONG, Timestamp),
    ord("F"): _decode_nested,
    ord("V"): _decode_void,
    ord("x"): _decode_bytes,
}


# Encoding: an encoder takes the value and the depth, and returns tag and octets.


def encode_table(table: Mapping[str, Value], depth: int = 0) -> bytes:
    """Return a table with its length.

    Raises:
      FieldError: It holds a value that no tag can carry.
    """
    if not table:
        return b"\x00\x00\x00\x00"
    if type(table) is ConstantTable:
        return table.encoded
    entries = encode_entries(table, depth)
    return LONG.pack(len(entries)) + entries


def encode_entries(table: Mapping[str, Value], depth: int = 0) -> bytes:
    """Return the names and values of a table, without its length."""
    _check_depth(depth)
    parts: list[bytes] = []
    for name, value in table.items():
        octets = name.encode("utf-8", "surrogateescape")
        if len(octets) > 255:
            raise FieldError(f"cannot encode table: a name of {len(octets)} bytes")
        parts.append(bytes((len(octets),)) + octets)
        parts.append(encode_value(value, depth))
    return b"".join(parts)


def encode_value(value: Value, depth: int = 0) -> bytes:
    """Return a value with its tag."""
    encoder = ENCODERS.get(type(value)) or _encoder_of_base(value)
    try:
        return encoder(value, depth)
    except (error, OverflowError, ValueError) as problem:
        raise FieldError(f"cannot encode table: {problem}") from None


def _check_depth(depth: int) -> None:
    if depth > MAX_TABLE_DEPTH:
        raise FieldError(f"cannot encode table: nested deeper than {MAX_TABLE_DEPTH}")


def _encoder_of_base(value: Value) -> Callable[..., bytes]:
    for base, encoder in BASE_ENCODERS:
        if isinstance(value, base):
            return encoder
    raise FieldError(f"cannot encode table: no type tag for {type(value).__name__}")


def _encode_int(value: int, depth: int) -> bytes:
    if SHORTEST <= value <= LONGEST:
        return b"I" + INT32.pack(value)
    return b"l" + INT64.pack(value)


def _encode_tagged(value: TaggedInt, depth: int) -> bytes:
    return value.tag + value.struct.pack(value)


def _encode_decimal(value: Decimal, depth: int) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent > 0 or sign:
        raise FieldError(f"cannot encode table: decimal {value}")
    return b"D" + DECIMAL.pack(-exponent, int("".join(map(str, digits))))


def _encode_datetime(value: datetime, depth: int) -> bytes:
    moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    return b"T" + LONGLONG.pack(int(moment.timestamp()))


def _encode_string(value: str, depth: int) -> bytes:
    return _encode_octets(b"S", value.encode())


def _encode_octets(tag: bytes, octets: bytes) -> bytes:
    return tag + LONG.pack(len(octets)) + octets


def _encode_array(values: Sequence[Value], depth: int) -> bytes:
    _check_depth(depth + 1)
    return _encode_octets(b"A", b"".join([encode_value(value, depth + 1) for value in values]))


def _encode_nested(table: Mapping[str, Value], depth: int) -> bytes:
    return b"F" + encode_table(table, depth + 1)


ENCODERS: dict[type, Callable[..., bytes]] = {
    bool: lambda value, depth: b"t\x01" if value else b"t\x00",
    int: _encode_int,
    float: lambda value, depth: b"d" + FLOAT64.pack(value),
    Float32: lambda value, depth: b"f" + FLOAT32.pack(value),
    Decimal: _encode_decimal,
    datetime: _encode_datetime,
    str: _encode_string,
    bytes: lambda value, depth: _encode_octets(b"x", value),
    LongString: lambda value, depth: _encode_octets(b"S", value),
    dict: _encode_nested,
    list: _encode_array,
    type(None): lambda value, depth: b"V",
    **dict.fromkeys(
        (Int8, UInt8, Int16, UInt16, UInt32, Int64, LongInt64, Timestamp), _encode_tagged
    ),
}

# Values of derived classes (an enum, an OrderedDict): the first base that fits.
BASE_ENCODERS: tuple[tuple[type, Callable[..., bytes]], ...] = (
    (int, _encode_int),
    (float, ENCODERS[float]),
    (str, _encode_string),
    (bytes, ENCODERS[bytes]),
    (bytearray, ENCODERS[bytes]),
    (memoryview, ENCODERS[bytes]),
    (datetime, _encode_datetime),
    (Decimal, _encode_decimal),
    (Mapping, _encode_nested),
    (Sequence, _encode_array),
)

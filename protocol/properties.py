"""Properties: the fourteen properties of a content, in its header frame.

Law: a header payload is decoded only when somebody asks, and encoded again only when something
changed; `with_headers` exchanges the table, `splice_headers` single entries of it, and both leave
every other octet as it came.

    class id (2)  weight (2)  body size (8)  flags (2, or more words)  values in the order of flags

Called by: content (on demand), core and plugins (to change headers), clients.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from struct import Struct, error
from typing import NamedTuple, cast

from leveret.protocol.constants import (
    BASIC_CLASS_ID,
    HAS_EXPIRATION,
    HAS_HEADERS,
    HAS_MORE_FLAGS,
)
from leveret.protocol.errors import FieldError, FrameError
from leveret.protocol.table import SIZES, Entry, decode_table, encode_table, scan_entries
from leveret.protocol.wire import LONG, LONGLONG, SHORT, Value, decode_shortstr, encode_shortstr

HEADER = Struct(">HHQH")  # class id, weight, body size, the first flag word
FLAGS_OFFSET = 12
VALUES_OFFSET = 14
FIRST_FLAG = 1 << 15

Places = tuple[int, int, int, int, int]  # see `locate`


class Properties(NamedTuple):
    """What a content says of itself; `None` is a property that is not there.

    The order is that of the flags, high bit first.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Value] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


def decode(header: bytes) -> Properties:
    """Return the properties in the payload of a header frame.

    Raises:
      FrameError: It is cut short, holds a malformed value, or anything behind the last one.
    """
    with _locating_errors:
        flags, offset = _flags(header)
        values: dict[str, object] = {}
        for name, flag, decode_value, _ in _FIELDS:
            if flags & flag:
                values[name], offset = decode_value(header, offset)
        if offset != len(header):
            raise FrameError("cannot decode properties: octets left over")
    return Properties(**values)  # type: ignore[arg-type]


def decode_headers(header: bytes) -> Mapping[str, Value] | None:
    """Return only the table of headers from the payload of a header frame.

    Raises:
      FrameError: It cannot be decoded.
    """
    flags, start, _, _, _ = locate(header)
    if not flags & HAS_HEADERS:
        return None
    try:
        return decode_table(header, start)[0]
    except (FrameError, IndexError, error) as problem:
        with _locating_errors:  # here only: to enter it costs as much as a small table
            raise problem


def encode(properties: Properties, body_size: int) -> bytes:
    """Return the payload of a header frame.

    Raises:
      FieldError: A value does not fit into its field.
    """
    flags = 0
    parts = [b""]
    try:
        for (_, flag, _, encode_value), value in zip(_FIELDS, properties, strict=True):
            if value is not None:
                flags |= flag
                parts.append(encode_value(value))
        parts[0] = HEADER.pack(BASIC_CLASS_ID, 0, body_size, flags)
    except (error, TypeError, ValueError, AttributeError) as problem:
        raise FieldError(f"cannot encode properties: {problem}") from None
    return b"".join(parts)


def with_headers(header: bytes, headers: Mapping[str, Value] | None) -> bytes:
    """Return the header payload with another table of headers; `None` takes it away.

    All other octets stay, whatever they are: also the values of properties unknown here.
    """
    with _locating_errors:
        flags, start = _flags(header)
        for _, flag, decode_value, _ in _FIELDS[:2]:  # what stands before the headers
            if flags & flag:
                _, start = decode_value(header, start)
        end = start
        if flags & HAS_HEADERS:
            _, end = decode_table(header, start)
    (word,) = SHORT.unpack_from(header, FLAGS_OFFSET)
    if headers is None:
        word, table = word & ~HAS_HEADERS, b""
    else:
        word, table = word | HAS_HEADERS, encode_table(headers)
    between = header[VALUES_OFFSET:start]
    return header[:FLAGS_OFFSET] + SHORT.pack(word) + between + table + header[end:]


def splice_headers(
    header: bytes,
    remove: Container[bytes] | None = (),
    append: bytes = b"",
    *,
    keeps_expiration: bool = True,
    places: Places | None = None,
) -> bytes:
    """Return the header payload with fewer and more headers, decoding nothing.

    Args:
      header: The payload of a header frame.
      remove: Names of headers that go, as octets; `None` are all.
      append: Entries that come, as `table.encode_entries` makes them; what is put in place of a
        header must be removed, too, because of equal names the first one counts.
      keeps_expiration: Whether the property expiration stays.
      places: What `locate` says of this header, if the caller asked already.

    Raises:
      FrameError: Lengths do not fit.
    """
    flags, start, end, expiry, behind = places or locate(header)
    if keeps_expiration:
        expiry = behind
    elif behind > expiry:
        flags &= ~HAS_EXPIRATION
    table = append
    if end > start:
        if remove:
            table = _without(header, start + 4, end, remove) + append
        elif remove is not None:
            table = header[start + 4 : end] + append
    elif not append:
        return b"".join(
            (
                header[:FLAGS_OFFSET],
                SHORT.pack(flags),
                header[VALUES_OFFSET:expiry],
                header[behind:],
            )
        )
    return b"".join(
        (
            header[:FLAGS_OFFSET],
            SHORT.pack(flags | HAS_HEADERS),
            header[VALUES_OFFSET:start],
            LONG.pack(len(table)),
            table,
            header[end:expiry],
            header[behind:],
        )
    )


def _without(header: bytes, start: int, end: int, names: Container[bytes]) -> bytes:
    entries = _entries(header, start, end)
    return b"".join([header[at:stop] for name, at, _, stop in entries if name not in names])


def split_headers(header: bytes, places: Places | None = None) -> dict[bytes, bytes]:
    """Return the octets of each header's value with its tag, by the octets of its name.

    Raises:
      FrameError: Lengths do not fit; what is in a value is not looked at.
    """
    _, start, end, _, _ = places or locate(header)
    if start == end:
        return {}
    values: dict[bytes, bytes] = {}
    for name, _, tagged, stop in _entries(header, start + 4, end):
        if name not in values:  # of equal names the first one counts
            values[name] = header[tagged:stop]
    return values


def header_octets(header: bytes, name: bytes) -> bytes | None:
    """Return the octets of one header's value with its tag, None if it is not there.

    Raises:
      FrameError: Lengths do not fit; what is in a value is not looked at.
    """
    if name not in header:  # a search for octets is much less than a look at each entry
        return None
    _, start, end, _, _ = locate(header)
    if start == end:
        return None
    tagged = start + 5 + len(name)
    if tagged < end and header[start + 4] == len(name) and header.startswith(name, start + 5):
        size = SIZES.get(header[tagged])  # it often is the first one
        if size is None:
            size = 4 + int.from_bytes(header[tagged + 1 : tagged + 5])
        if tagged + 1 + size <= end:
            return header[tagged : tagged + 1 + size]
    for found, _, tagged, stop in _entries(header, start + 4, end):
        if found == name:  # of equal names the first one counts
            return header[tagged:stop]
    return None


class _LocatingErrors:
    """Makes every failure to decode a `FrameError` with the class of the content."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, problem: BaseException | None, where: object) -> None:
        if isinstance(problem, FrameError):
            problem.class_id = BASIC_CLASS_ID
        elif isinstance(problem, (IndexError, error)):
            raise FrameError("cannot decode properties: cut short", BASIC_CLASS_ID) from None


_locating_errors = _LocatingErrors()


def _flags(header: bytes) -> tuple[int, int]:
    """Return the first flag word, and the offset of the values.

    Further words may follow as long as bit 0 says so; nothing defines their flags, so a set one
    announces a value of unknown size.
    """
    (flags,) = SHORT.unpack_from(header, FLAGS_OFFSET)
    word, offset = flags, VALUES_OFFSET
    while word & HAS_MORE_FLAGS:
        (word,) = SHORT.unpack_from(header, offset)
        offset += 2
        if word & ~HAS_MORE_FLAGS:
            raise FrameError("cannot decode properties: unknown flags")
    if flags & 0b10:
        raise FrameError("cannot decode properties: unknown flags")
    return flags, offset


def _decode_octet(data: bytes, offset: int) -> tuple[int, int]:
    return data[offset], offset + 1


def _decode_timestamp(data: bytes, offset: int) -> tuple[int, int]:
    return LONGLONG.unpack_from(data, offset)[0], offset + 8


def _encode_octet(value: int) -> bytes:
    return bytes((value,))


_SHORTSTR = (decode_shortstr, encode_shortstr)
_OCTET = (_decode_octet, _encode_octet)
_CODERS: Mapping[str, tuple[Callable[[bytes, int], tuple[object, int]], Callable[..., bytes]]] = {
    "headers": (decode_table, encode_table),
    "delivery_mode": _OCTET,
    "priority": _OCTET,
    "timestamp": (_decode_timestamp, LONGLONG.pack),
}
# Name, flag, decoder and encoder of each property, in wire order.
_FIELDS = tuple(
    (name, FIRST_FLAG >> index, *_CODERS.get(name, _SHORTSTR))
    for index, name in enumerate(Properties._fields)
)


# Where headers, expiration and message-id are. Functions are compiled for each flags word that
# comes up, of the same steps as the check below.

Locate = Callable[[bytes, int], Places]
_LOCATE: dict[int, Locate] = {}
Find = Callable[[bytes, int], int]


def locate(header: bytes) -> Places:
    """Return where the table of headers and the expiration are, decoding nothing.

    Returns:
      The first flags word; where the table begins (with its length) and ends, where the
      expiration begins (with its length) and ends. What is not there ends where it begins.

    Raises:
      FrameError: Lengths do not fit.
    """
    try:
        flags, offset = header[FLAGS_OFFSET] << 8 | header[FLAGS_OFFSET + 1], VALUES_OFFSET
        if flags & UNDEFINED:
            with _locating_errors:
                flags, offset = _flags(header)
        places = (_LOCATE.get(flags) or _compile_locate(flags))(header, offset)
    except IndexError:
        raise FrameError("cannot decode properties: cut short", BASIC_CLASS_ID) from None
    if places[4] > len(header):
        raise FrameError("cannot decode properties: cut short", BASIC_CLASS_ID)
    return places


def message_id(header: bytes) -> str:
    """Return the property of that name from a header that has it, decoding nothing else.

    Raises:
      FrameError: Lengths do not fit.
    """
    flags = header[FLAGS_OFFSET] << 8 | header[FLAGS_OFFSET + 1]
    try:
        # it comes behind the expiration
        at = locate(header)[4] if flags & UNDEFINED else MESSAGE_ID[flags](header, VALUES_OFFSET)
        return header[at + 1 : at + 1 + header[at]].decode("utf-8", "replace")
    except IndexError:
        raise FrameError("cannot decode properties: cut short", BASIC_CLASS_ID) from None


def _entries(header: bytes, start: int, end: int) -> list[Entry]:
    with _locating_errors:
        return scan_entries(header, start, end)


def _compile_locate(flags: int) -> Locate:
    lines = []
    for name, step in _steps(flags, "message_id"):
        if name in ("headers", "expiration"):
            step = f"{name} = p; {step}; {name}_end = p"
        lines.append(step)
    lines.append(f"return {flags}, headers, headers_end, expiration, expiration_end")
    function = _LOCATE[flags] = cast(Locate, _compile(lines))
    return function


def _steps(flags: int, end: str) -> Iterator[tuple[str, str]]:
    """Return what leads past each property before another one."""
    for name, flag, *_ in _FIELDS[: Properties._fields.index(end)]:
        yield name, _STEPS.get(name, "p += 1 + d[p]") if flags & flag else "pass"


def _compile(lines: Iterable[str]) -> object:
    names: dict[str, object] = {"number": int.from_bytes}
    exec("def find(d, p):\n " + "\n ".join(lines), names)
    return names["find"]


class Finder(dict[int, Find]):
    """Functions that find where a property begins, by flags word; made when one comes up.

    They are told where the values begin. Of flags that announce further words (`UNDEFINED`) there
    is none that is right.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __missing__(self, flags: int) -> Find:
        lines = [step for _, step in _steps(flags, self._name)]
        function = self[flags] = cast(Find, _compile([*lines, "return p"]))
        return function


EXPIRATION, MESSAGE_ID, PRIORITY = map(Finder, ("expiration", "message_id", "priority"))


# Whether the values fill a header exactly, for the reader: lengths are followed, nothing is
# decoded. One function is compiled for each flags word that comes up.

ShapeCheck = Callable[[bytes, int, int], bool]
SHAPE_CHECKS: dict[int, ShapeCheck] = {}
UNDEFINED = 0b10 | HAS_MORE_FLAGS
_STEPS = {
    "headers": "p += 4 + number(d[p:p + 4])",
    "delivery_mode": "p += 1",
    "priority": "p += 1",
    "timestamp": "p += 8",
}


def check_of(flags: int) -> ShapeCheck:
    """Return the function that tells whether values of these flags reach from start to end."""
    check = SHAPE_CHECKS.get(flags)
    if check is None:
        if flags & UNDEFINED:
            check = _check_rare
        else:
            steps = [
                _STEPS.get(name, "p += 1 + d[p]") for name, flag, *_ in _FIELDS if flags & flag
            ]
            source = "def check(d, p, end):\n try:\n  " + "\n  ".join([*steps, "return p == end"])
            names: dict[str, object] = {"number": int.from_bytes}
            exec(source + "\n except IndexError:\n  return False", names)
            check = cast(ShapeCheck, names["check"])
        SHAPE_CHECKS[flags] = check
    return check


def _check_rare(data: bytes, start: int, end: int) -> bool:
    """Decode headers with more flags words, which no client sends."""
    try:
        decode(data[start - VALUES_OFFSET : end])
    except FrameError:
        return False
    return True

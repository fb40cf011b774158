"""Records: what the index of a row says about messages, as octets.

Law: an index is a checksum (CRC-32 of all that follows), a format number, which row it is of how
many of its commit, and records, each with its kind and length, so that a kind that is not known is
skipped and kept. Numbers are little-endian. The octets of a message are in the body of the row:
the payload of its publish method, the payload of its header, its body; the index has their sizes,
so that recovery reads no body. What is longer than a row goes on in the rows after it, all of
which say so.

Called by: storage.journal, storage.row_builder (make them), storage.recovery, storage.damage,
storage.row_inspection, storage.salvage, storage.repair (read them), storage.tally.
"""

from __future__ import annotations

import sys
from array import array
from itertools import chain
from struct import Struct, error
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FORMAT: Final = 1

ENQUEUED: Final = 1
SETTLED: Final = 2
DELIVERED: Final = 3
COUNTED: Final = 4
PRESENT: Final = 5
DEFINED: Final = 6
LONG: Final = 7
COLUMN: Final = 8
FACTS: Final = 9

SCATTERED: Final = 1  # flag of ENQUEUED: each message has an offset of its own

_start = Struct("<IB")  # checksum, format: these stay where they are in every format
_part = Struct("<II")  # which row of its commit, and of how many
_head = Struct("<BBI")  # kind, flags, length
_enqueued = Struct("<QQQI")  # queue, first position, offset in the body, count
_settled = Struct("<QI")  # queue, count of ranges or of positions
_mark = Struct("<QQ")  # queue, position
_present = Struct("<Q")  # count of rows
_defined = Struct("<QQ")  # count of definitions, sum of their checksums
_long = Struct("<QQ")  # the row where a message begins, octets in this one
_of_column = Struct("<QQBI")  # queue, first position, fact, count
_of_facts = Struct("<QBI")  # queue, fact, count
_RECORDS: Final = _start.size + _part.size  # where they begin
_IS_BIG = sys.byteorder == "big"


class RecordError(Exception):
    """An index is damaged, or of a format that is not known; the text says which."""


class LaterFormat(RecordError):
    """An index is whole, and of a format that is not known."""


class Part(NamedTuple):
    """Which row it is, counted from 1, of how many that were committed at once."""

    row: int
    rows: int


class Enqueued(NamedTuple):
    """Messages put into a queue, at neighbouring positions.

    Where all sizes are 0 there is no message: a transient one, or one that was settled before.

    Attributes:
      queue: The queue's number.
      base: The position of the first one.
      offsets: Where each begins in the body of the row; a single one if they are neighbours there.
      publish_sizes: Octets of each one's publish method.
      header_sizes: Octets of each one's header.
      body_sizes: Octets of each one's body.
    """

    queue: int
    base: int
    offsets: array[int]
    publish_sizes: array[int]
    header_sizes: array[int]
    body_sizes: array[int]


class Settled(NamedTuple):
    """Positions of a queue that are settled: in this row or older ones, never in younger."""

    queue: int
    ranges: list[tuple[int, int]]  # first and last


class Delivered(NamedTuple):
    """All positions up to one may have been delivered."""

    queue: int
    position: int


class Counted(NamedTuple):
    """How often messages came back to a queue; the last record of a position counts."""

    queue: int
    counts: dict[int, int]  # by position


class Present(NamedTuple):
    """How many rows there are in the store after this commit; in the last row of each."""

    rows: int


class Defined(NamedTuple):
    """What definitions there are in the store after this commit; in the last row of each.

    Attributes:
      definitions: How many.
      sum: Of the CRC-32 of each: of its kind, key and value.
    """

    definitions: int
    sum: int


class Long(NamedTuple):
    """The row is one of several neighbours whose bodies, put together, are one message.

    Attributes:
      first: The first of them, which has its record; the others have nothing else.
      octets: Of this row's body.
    """

    first: int
    octets: int


class Column(NamedTuple):
    """A fact of messages that were put into a queue; it stands right behind their record.

    Attributes:
      queue: The queue's number.
      base: The position of the first one.
      fact: Which fact it is.
      values: One for each message, 0 for none.
    """

    queue: int
    base: int
    fact: int
    values: array[int]


class Facts(NamedTuple):
    """A fact that messages got later: in this row or older ones, never in younger.

    It takes the place of what was said before; 0 says that there is none any more.
    """

    queue: int
    fact: int
    values: dict[int, int]  # by position


class Unknown(NamedTuple):
    """A record of a later version."""

    kind: int
    octets: bytes


Record: TypeAlias = (
    Enqueued | Settled | Delivered | Counted | Present | Defined | Long | Column | Facts | Unknown
)

_FIXED: Final[Mapping[int, tuple[Struct, Callable[..., Record]]]] = {
    DELIVERED: (_mark, Delivered),
    PRESENT: (_present, Present),
    DEFINED: (_defined, Defined),
    LONG: (_long, Long),
}


def seal(records: Iterable[bytes], row: int = 1, rows: int = 1) -> bytes:
    """Return the index of some encoded records, in a row of so many that are committed at once."""
    octets = b"".join((bytes((FORMAT,)), _part.pack(row, rows), *records))
    return crc32(octets).to_bytes(4, "little") + octets


def part_of(index: bytes) -> Part | None:
    """Return which row of its commit an index says it is, damaged or not; None if it cannot be."""
    if len(index) < _RECORDS or index[_start.size - 1] != FORMAT:
        return None
    part = Part(*_part.unpack_from(index, _start.size))
    return part if 1 <= part.row <= part.rows else None


def split(index: bytes) -> Iterator[bytes]:
    """Return the records of an index, each as it is encoded, up to where they make no sense."""
    at = _RECORDS
    while at + _head.size <= len(index):
        _, _, length = _head.unpack_from(index, at)
        end = at + _head.size + length
        if end > len(index):
            return
        yield index[at:end]
        at = end


def encode_enqueued(record: Enqueued) -> bytes:
    """Return the record of messages; neighbours in the body need one offset."""
    count = len(record.body_sizes)
    columns = [record.publish_sizes, record.header_sizes, record.body_sizes]
    flags = 0
    if len(record.offsets) > 1:
        flags = SCATTERED
        columns.insert(0, record.offsets)
    octets = _enqueued.pack(record.queue, record.base, record.offsets[0], count)
    return _record(ENQUEUED, flags, octets + b"".join(map(_little, columns)))


def encode_settled(queue: int, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Return the record of settled ranges, first and last position each."""
    flat = array("Q", chain.from_iterable(ranges))
    return _record(SETTLED, 0, _settled.pack(queue, len(flat) // 2) + _little(flat))


def encode_delivered(queue: int, position: int) -> bytes:
    """Return the record of the highest delivered position."""
    return _record(DELIVERED, 0, _mark.pack(queue, position))


def encode_counted(queue: int, counts: Mapping[int, int]) -> bytes:
    """Return the record of how often messages came back, by position."""
    columns = _little(array("Q", counts)) + _little(array("I", counts.values()))
    return _record(COUNTED, 0, _settled.pack(queue, len(counts)) + columns)


def encode_present(rows: int) -> bytes:
    """Return the record of how many rows there are."""
    return _record(PRESENT, 0, _present.pack(rows))


def present(records: Iterable[Record]) -> int | None:
    """Return how many rows there are, if it is said."""
    return next((record.rows for record in records if isinstance(record, Present)), None)


def encode_defined(total: Defined) -> bytes:
    """Return the record of what definitions there are."""
    return _record(DEFINED, 0, _defined.pack(*total))


def defined(records: Iterable[Record]) -> Defined | None:
    """Return what definitions there are, if it is said."""
    return next((record for record in records if isinstance(record, Defined)), None)


def encode_long(first: int, octets: int) -> bytes:
    """Return the record of a part of a message that has several rows."""
    return _record(LONG, 0, _long.pack(first, octets))


def long_of(records: Iterable[Record]) -> Long | None:
    """Return which part of a message a row is; None if it is a row by itself."""
    return next((record for record in records if isinstance(record, Long)), None)


def encode_column(record: Column) -> bytes:
    """Return the record of a fact of messages."""
    queue, base, fact, values = record
    return _record(COLUMN, 0, _of_column.pack(queue, base, fact, len(values)) + _little(values))


def encode_facts(queue: int, fact: int, values: Mapping[int, int]) -> bytes:
    """Return the record of a fact that messages got later, by position."""
    columns = _little(array("Q", values)) + _little(array("Q", values.values()))
    return _record(FACTS, 0, _of_facts.pack(queue, fact, len(values)) + columns)


def _record(kind: int, flags: int, octets: bytes) -> bytes:
    return _head.pack(kind, flags, len(octets)) + octets


def _little(column: array[int]) -> bytes:
    if _IS_BIG:
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _column(code: str, octets: bytes) -> array[int]:
    column = array(code, octets)
    if _IS_BIG:
        column.byteswap()
    return column


def decode(index: bytes) -> list[Record]:
    """Return the records of an index.

    Raises:
      LaterFormat: It is not known what it says.
      RecordError: It is damaged.
    """
    if len(index) < _start.size:
        raise RecordError(f"{len(index)} octets are no index")
    checksum, version = _start.unpack_from(index)
    if crc32(memoryview(index)[4:]) != checksum:
        raise RecordError("the checksum does not match")
    if version != FORMAT:
        raise LaterFormat(f"format {version} is not known")
    if part_of(index) is None:
        raise RecordError("which row of its commit it is makes no sense")
    try:
        return list(_records(index))
    except (error, ValueError, IndexError) as problem:
        raise RecordError(f"a record does not fit its length: {problem}") from None


def _records(index: bytes) -> Iterator[Record]:
    at, end = _RECORDS, len(index)
    while at < end:
        kind, flags, length = _head.unpack_from(index, at)
        at += _head.size
        octets = index[at : at + length]
        if len(octets) != length:
            raise ValueError("it is cut off")
        at += length
        if kind in _VARIABLE:
            yield _VARIABLE[kind](flags, octets)
        elif kind in _FIXED:
            layout, make = _FIXED[kind]
            yield make(*layout.unpack(octets))
        else:
            yield Unknown(kind, _head.pack(kind, flags, length) + octets)


def _decode_settled(_: int, octets: bytes) -> Settled:
    queue, count = _settled.unpack_from(octets)
    flat = _column("Q", octets[_settled.size :])
    if len(flat) != 2 * count:
        raise ValueError("ranges are missing")
    return Settled(queue, list(zip(flat[::2], flat[1::2], strict=True)))


def _decode_counted(_: int, octets: bytes) -> Counted:
    queue, count = _settled.unpack_from(octets)
    middle = _settled.size + count * array("Q").itemsize
    positions = _column("Q", octets[_settled.size : middle])
    counts = _column("I", octets[middle:])
    return Counted(queue, dict(zip(positions, counts, strict=True)))


def _decode_column(_: int, octets: bytes) -> Column:
    queue, base, fact, count = _of_column.unpack_from(octets)
    values = _column("Q", octets[_of_column.size :])
    if len(values) != count:
        raise ValueError("values are missing")
    return Column(queue, base, fact, values)


def _decode_facts(_: int, octets: bytes) -> Facts:
    queue, fact, count = _of_facts.unpack_from(octets)
    flat = _column("Q", octets[_of_facts.size :])
    return Facts(queue, fact, dict(zip(flat[:count], flat[count:], strict=True)))


def _decode_enqueued(flags: int, octets: bytes) -> Enqueued:
    queue, base, offset, count = _enqueued.unpack_from(octets)
    at = _enqueued.size
    columns = []
    for code in "QHII" if flags & SCATTERED else "HII":
        size = count * array(code).itemsize
        columns.append(_column(code, octets[at : at + size]))
        at += size
    if at != len(octets) or not count:
        raise ValueError("sizes are missing")
    if not flags & SCATTERED:
        columns.insert(0, array("Q", (offset,)))
    return Enqueued(queue, base, *columns)


_VARIABLE: Final[Mapping[int, Callable[[int, bytes], Record]]] = {
    ENQUEUED: _decode_enqueued,
    SETTLED: _decode_settled,
    COUNTED: _decode_counted,
    COLUMN: _decode_column,
    FACTS: _decode_facts,
}

"""Field tables: every tag, round trips, and what malformed bytes give."""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum

import pytest

from leveret.protocol.errors import AMQPError, FieldError, FrameError
from leveret.protocol.table import (
    SHARED_LIMIT,
    SHARED_SIZE,
    ConstantTable,
    Float32,
    Int8,
    Int16,
    Int64,
    LongInt64,
    LongString,
    Timestamp,
    UInt8,
    UInt16,
    UInt32,
    decode_shared,
    decode_table,
    decode_value,
    encode_table,
    scan_entries,
)

# The octets of a value behind its name, and the value: encoder and decoder agree on each.
CASES = [
    (b"t\x01", True, bool),
    (b"t\x00", False, bool),
    (b"b\xff", -1, Int8),
    (b"B\xff", 255, UInt8),
    (b"s\x80\x00", -32768, Int16),
    (b"u\xff\xff", 65535, UInt16),
    (b"I\xff\xff\xff\xfe", -2, int),
    (b"i\xff\xff\xff\xff", 4294967295, UInt32),
    (b"l\x00\x00\x00\x01\x00\x00\x00\x00", 1 << 32, int),
    (b"l\x00\x00\x00\x00\x00\x00\x00\x07", 7, Int64),
    (b"L\xff\xff\xff\xff\xff\xff\xff\xff", -1, LongInt64),
    (b"f\x3f\xc0\x00\x00", 1.5, Float32),
    (b"d\x3f\xf8\x00\x00\x00\x00\x00\x00", 1.5, float),
    (b"D\x02\x00\x00\x01\x3b", Decimal("3.15"), Decimal),
    (b"D\x00\x00\x00\x00\x00", Decimal(0), Decimal),
    (b"S\x00\x00\x00\x03h\xc3\xa9", "hé", str),
    (b"S\x00\x00\x00\x02\xff\xfe", b"\xff\xfe", LongString),
    (b"x\x00\x00\x00\x02\x00\xff", b"\x00\xff", bytes),
    (b"T\x00\x00\x00\x00\x5e\x0b\xe1\x00", 1577836800, Timestamp),
    (b"V", None, type(None)),
    (b"A\x00\x00\x00\x00", [], list),
    (b"A\x00\x00\x00\x07t\x01b\x05Vt\x00", [True, 5, None, False], list),
    (b"F\x00\x00\x00\x00", {}, dict),
    (b"F\x00\x00\x00\x03\x01aV", {"a": None}, dict),
    (b"F\x00\x00\x00\x0a\x01aF\x00\x00\x00\x03\x01bV", {"a": {"b": None}}, dict),
]


def one_entry(value: bytes) -> bytes:
    """A table with the value under the name "k"."""
    entry = b"\x01k" + value
    return len(entry).to_bytes(4) + entry


@pytest.mark.parametrize(("octets", "value", "kind"), CASES)
def test_every_tag_is_decoded_and_encoded_again_to_the_same_octets(octets, value, kind):
    data = one_entry(octets)

    table, end = decode_table(data)

    assert {"k": value} == table
    assert kind is type(table["k"])
    assert len(data) == end
    assert data == encode_table(table)


@pytest.mark.parametrize(("octets", "value", "kind"), CASES)
def test_a_table_cut_anywhere_is_a_frame_error(octets, value, kind):
    data = one_entry(octets)

    for end in range(len(data)):
        with pytest.raises(FrameError, match="cannot decode"):
            decode_table(data[:end])


@pytest.mark.parametrize(("octets", "value", "kind"), CASES)
def test_a_table_shorter_than_its_entries_is_a_frame_error(octets, value, kind):
    data = one_entry(octets)

    for length in range(1, len(data) - 4):
        with pytest.raises(FrameError):
            decode_table(length.to_bytes(4) + data[4:])


def test_a_table_is_found_at_an_offset_and_its_end_is_told():
    data = b"xx" + one_entry(b"V") + b"yy"

    assert ({"k": None}, len(data) - 2) == decode_table(data, 2)


def test_the_first_of_two_entries_with_one_name_counts():
    entries = b"\x01kI\x00\x00\x00\x01" + b"\x01kI\x00\x00\x00\x02"

    table, _ = decode_table(len(entries).to_bytes(4) + entries)

    assert table == {"k": 1}


def test_names_that_are_no_utf8_survive():
    data = b"\x00\x00\x00\x04\x02\xff\xfeV"

    table, _ = decode_table(data)

    assert data == encode_table(table)


@pytest.mark.parametrize("tag", [b"?", b"\x00", b"Z"])
def test_an_unknown_tag_is_a_frame_error(tag):
    with pytest.raises(FrameError, match="unknown type tag"):
        decode_table(one_entry(tag + bytes(8)))


def nested(depth: int, tag: bytes) -> bytes:
    data = b""
    name = b"\x00" if tag == b"F" else b""
    for _ in range(depth):
        data = name + tag + len(data).to_bytes(4) + data
    return one_entry(b"F" + len(data).to_bytes(4) + data if tag == b"F" else data)


@pytest.mark.parametrize("tag", [b"F", b"A"])
def test_a_hundred_levels_are_decoded_and_twenty_thousand_refused(tag):
    data = nested(100, tag)
    assert data == encode_table(decode_table(data)[0])

    with pytest.raises(FrameError, match="nested deeper"):
        decode_table(nested(20_000, tag))


def test_encoding_a_table_within_itself_is_refused():
    table: dict = {}
    table["self"] = table

    with pytest.raises(FieldError, match="nested deeper"):
        encode_table(table)


class Colour(IntEnum):
    RED = 3


class FrozenMap(Mapping):
    def __getitem__(self, name):
        return {"a": 1}[name]

    def __iter__(self):
        return iter(("a",))

    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (Colour.RED, b"I\x00\x00\x00\x03"),
        (OrderedDict(a=None), b"F\x00\x00\x00\x03\x01aV"),
        (FrozenMap(), b"F\x00\x00\x00\x07\x01aI\x00\x00\x00\x01"),
        ((1, "x"), b"A\x00\x00\x00\x0bI\x00\x00\x00\x01S\x00\x00\x00\x01x"),
        (bytearray(b"ab"), b"x\x00\x00\x00\x02ab"),
        (datetime(2020, 1, 1, tzinfo=UTC), b"T\x00\x00\x00\x00\x5e\x0b\xe1\x00"),
        (datetime(2020, 1, 1), b"T\x00\x00\x00\x00\x5e\x0b\xe1\x00"),
        (-(1 << 31), b"I\x80\x00\x00\x00"),
        (1 << 31, b"l\x00\x00\x00\x00\x80\x00\x00\x00"),
    ],
)
def test_other_python_values_find_a_tag(value, octets):
    assert one_entry(octets) == encode_table({"k": value})


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, 1 << 63, Int8(200), Decimal(-1), Decimal("NaN"), Decimal("1e300"), "\ud800"],
)
def test_a_value_no_tag_can_carry_is_a_field_error(value):
    with pytest.raises(FieldError, match="cannot encode table"):
        encode_table({"k": value})


def test_a_name_above_255_bytes_is_a_field_error():
    with pytest.raises(FieldError):
        encode_table({"k" * 256: 1})


def test_a_timestamp_knows_its_moment():
    assert datetime(2020, 1, 1, tzinfo=UTC) == Timestamp(1577836800).datetime()


def test_errors_are_amqp_errors_whatever_is_in_the_table():
    for tag in range(256):
        with suppress(AMQPError):
            decode_table(one_entry(bytes((tag,)) + b"\xff" * 12))


def test_a_constant_table_is_encoded_once_and_equals_the_table_it_was_made_of():
    plain = {"product": "Leveret", "capabilities": {"basic.nack": True}}

    constant = ConstantTable(plain)

    assert plain == constant
    assert encode_table(plain) == encode_table(constant)
    assert encode_table(constant) is encode_table(constant)


def test_equal_octets_give_one_shared_table_wherever_they_stand():
    table = encode_table({"product": "one", "nested": {"a": [1, True]}})

    first, _ = decode_shared(table)
    again, end = decode_shared(b"before" + table + b"behind", 6)

    assert decode_table(table)[0] == first
    assert first is again
    assert 6 + len(table) == end


def test_a_shared_table_that_was_cut_short_is_refused_though_it_is_known():
    table = encode_table({"product": "cut"})
    decode_shared(table)

    for size in range(len(table)):
        with pytest.raises(FrameError):
            decode_shared(table[:size])


def test_large_tables_and_many_tables_are_not_kept():
    large = encode_table({"product": "x" * SHARED_SIZE})
    small = encode_table({"product": "early"})
    early, _ = decode_shared(small)

    for number in range(SHARED_LIMIT):
        decode_shared(encode_table({"number": number}))

    assert decode_shared(large)[0] is not decode_shared(large)[0]
    assert decode_shared(small)[0] is not early


@pytest.mark.parametrize(("octets", "value", "kind"), CASES)
def test_every_entry_is_scanned_without_being_decoded(octets, value, kind):
    data = one_entry(octets) + b"\x01lV"
    end = 4 + 2 + len(octets)

    assert [(b"k", 4, 6, end), (b"l", end, end + 2, end + 3)] == scan_entries(data, 4, end + 3)


@pytest.mark.parametrize(("octets", "value", "kind"), CASES)
def test_a_value_alone_is_decoded(octets, value, kind):
    decoded = decode_value(octets)

    assert value == decoded
    assert kind is type(decoded)


@pytest.mark.parametrize("octets", [b"?", b"I\x00", b"S\x00\x00\x00\x05a", b"", b"VV"])
def test_a_malformed_value_alone_is_a_501(octets):
    with pytest.raises(FrameError):
        decode_value(octets)


@pytest.mark.parametrize(
    "octets", [b"\x01k?", b"\x01", b"\x01k", b"\x01kI\x00", b"\x01kS\x00\x00\x00\x02a", b"\xffk"]
)
def test_scanning_malformed_entries_is_a_501(octets):
    with pytest.raises(FrameError):
        scan_entries(octets, 0, len(octets))

"""Properties: fourteen values and their flags; what is not touched passes through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leveret.protocol.errors import FieldError, FrameError
from leveret.protocol.properties import (
    EXPIRATION,
    MESSAGE_ID,
    PRIORITY,
    VALUES_OFFSET,
    Properties,
    decode,
    encode,
    header_octets,
    locate,
    splice_headers,
    split_headers,
    with_headers,
)
from leveret.protocol.table import (
    Float32,
    Int8,
    Int16,
    Int64,
    LongInt64,
    Timestamp,
    UInt8,
    UInt16,
    UInt32,
    encode_entries,
    encode_table,
    encode_value,
)
from leveret.protocol.wire import encode_shortstr

ALL = Properties(
    content_type="text/plain",
    content_encoding="gzip",
    headers={"a": 1},
    delivery_mode=2,
    priority=9,
    correlation_id="c",
    reply_to="r",
    expiration="60000",
    message_id="m",
    timestamp=1577836800,
    type="t",
    user_id="guest",
    app_id="app",
    cluster_id="cluster",
)
TABLE = b"\x00\x00\x00\x07\x01aI\x00\x00\x00\x01"

# A property alone: its flag word and its octets.
CASES = [
    ("content_type", b"\x80\x00", b"\x0atext/plain"),
    ("content_encoding", b"\x40\x00", b"\x04gzip"),
    ("headers", b"\x20\x00", TABLE),
    ("delivery_mode", b"\x10\x00", b"\x02"),
    ("priority", b"\x08\x00", b"\x09"),
    ("correlation_id", b"\x04\x00", b"\x01c"),
    ("reply_to", b"\x02\x00", b"\x01r"),
    ("expiration", b"\x01\x00", b"\x0560000"),
    ("message_id", b"\x00\x80", b"\x01m"),
    ("timestamp", b"\x00\x40", b"\x00\x00\x00\x00\x5e\x0b\xe1\x00"),
    ("type", b"\x00\x20", b"\x01t"),
    ("user_id", b"\x00\x10", b"\x05guest"),
    ("app_id", b"\x00\x08", b"\x03app"),
    ("cluster_id", b"\x00\x04", b"\x07cluster"),
]
START = b"\x00\x3c\x00\x00" + (5).to_bytes(8)


@pytest.mark.parametrize(("name", "flags", "octets"), CASES)
def test_each_property_is_decoded_and_encoded(name, flags, octets):
    properties = Properties(**{name: getattr(ALL, name)})

    assert properties == decode(START + flags + octets)
    assert START + flags + octets == encode(properties, 5)


def test_all_properties_together_and_none():
    octets = b"".join(octets for _, _, octets in CASES)

    assert START + b"\xff\xfc" + octets == encode(ALL, 5)
    assert decode(encode(ALL, 5)) == ALL
    assert Properties() == decode(START + b"\x00\x00")
    assert encode(Properties(), 5) == START + b"\x00\x00"


def test_a_header_cut_anywhere_or_followed_by_anything_is_a_501():
    header = encode(ALL, 5)

    for malformed in [header[:end] for end in range(len(header))] + [header + b"\x00"]:
        with pytest.raises(FrameError) as caught:
            decode(malformed)
        assert caught.value.class_id == 60


def test_empty_continuation_words_are_skipped():
    assert Properties(priority=1) == decode(START + b"\x08\x01\x00\x01\x00\x00\x01")


@pytest.mark.parametrize("flags", [b"\x00\x02", b"\x00\x01\x80\x00", b"\x00\x01\x00\x01\x00\x02"])
def test_flags_without_a_meaning_are_a_501(flags):
    with pytest.raises(FrameError, match="unknown flags"):
        decode(START + flags)


def test_endless_continuation_words_are_a_501():
    with pytest.raises(FrameError):
        decode(START + b"\x00\x01" * 50_000)


def test_a_property_that_is_no_utf8_is_a_501():
    with pytest.raises(FrameError, match="Malformed UTF-8 in shortstr"):
        decode(START + b"\x80\x00\x01\xff")


@pytest.mark.parametrize(
    "properties",
    [
        Properties(priority=256),
        Properties(timestamp=-1),
        Properties(content_type="x" * 256),
        Properties(headers={"a": object()}),
        Properties(message_id=5),
        Properties(headers=[1]),
    ],
)
def test_a_value_that_does_not_fit_is_a_502(properties):
    with pytest.raises(FieldError):
        encode(properties, 0)


def test_headers_are_exchanged_and_everything_else_stays():
    header = encode(ALL, 5)

    assert encode(ALL._replace(headers={"b": None}), 5) == with_headers(header, {"b": None})
    assert encode(ALL._replace(headers=None), 5) == with_headers(header, None)
    assert header == with_headers(with_headers(header, None), {"a": 1})


def test_headers_are_exchanged_behind_continuation_words():
    header = START + b"\x80\x01\x00\x00\x01x"

    changed = with_headers(header, {"a": 1})

    assert changed == START + b"\xa0\x01\x00\x00\x01x" + TABLE
    assert header == with_headers(changed, None)


def test_changing_the_headers_of_a_malformed_header_is_a_501():
    for malformed in (b"", START, START + b"\x20\x00\x00\x00", START + b"\xe0\x00"):
        with pytest.raises(FrameError):
            with_headers(malformed, {})


# Splicing

NAMES = st.text(max_size=8) | st.sampled_from(["a", "x-death", "CC"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.floats(allow_nan=False)
    | st.integers(-128, 127).map(Int8)
    | st.integers(0, 255).map(UInt8)
    | st.integers(-1000, 1000).map(Int16)
    | st.integers(0, 65535).map(UInt16)
    | st.integers(0, (1 << 32) - 1).map(UInt32)
    | st.integers(-5, 5).map(Int64)
    | st.integers(-5, 5).map(LongInt64)
    | st.integers(-5, 5).map(Float32)
    | st.integers(0, 1 << 40).map(Timestamp)
    | st.decimals(0, 1000, places=2).map(abs)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=5)
TEXTS = st.none() | st.text(max_size=20)
OCTETS = st.none() | st.integers(0, 255)
OTHERS = {
    "headers": st.none() | TABLES,
    "delivery_mode": OCTETS,
    "priority": OCTETS,
    "timestamp": st.none() | st.integers(0, (1 << 64) - 1),
}
ANY = st.builds(Properties, **(dict.fromkeys(Properties._fields, TEXTS) | OTHERS))


@settings(max_examples=150, deadline=None)
@given(ANY, st.sets(NAMES, max_size=3), TABLES, st.booleans(), st.data())
def test_splicing_equals_decoding_changing_and_encoding(properties, gone, more, keeps, data):
    old = dict(properties.headers or {})
    if old:
        gone |= data.draw(st.sets(st.sampled_from(sorted(old)), max_size=3))
    more = {name: value for name, value in more.items() if name in gone or name not in old}
    header = encode(properties, 5)

    spliced = splice_headers(
        header,
        frozenset(name.encode() for name in gone),
        encode_entries(more),
        keeps_expiration=keeps,
    )

    headers = {name: value for name, value in old.items() if name not in gone} | more
    if properties.headers is None and not more:
        headers = None
    expected = properties._replace(headers=headers)
    if not keeps:
        expected = expected._replace(expiration=None)
    assert encode(expected, 5) == spliced


@settings(max_examples=50, deadline=None)
@given(ANY, TABLES)
def test_all_headers_are_spliced_away(properties, more):
    spliced = splice_headers(encode(properties, 5), None, encode_entries(more))

    headers = None if properties.headers is None and not more else more
    assert encode(properties._replace(headers=headers), 5) == spliced


@settings(max_examples=80, deadline=None)
@given(ANY)
def test_headers_are_split_and_the_expiration_located(properties):
    header = encode(properties, 5)

    values = split_headers(header)
    flags, start, end, expiration, behind = locate(header)

    table = properties.headers or {}
    assert {name.encode(): encode_value(value) for name, value in table.items()} == values
    assert int.from_bytes(header[12:14]) == flags
    assert (b"" if properties.headers is None else encode_table(table)) == header[start:end]
    text = properties.expiration
    assert ("" if text is None else text).encode() == header[expiration + 1 : behind]


def test_splicing_nothing_changes_nothing():
    for properties in (ALL, Properties(), Properties(headers={})):
        header = encode(properties, 5)

        assert header == splice_headers(header)
        assert header == splice_headers(header, (b"z",))


def test_splicing_leaves_continuation_words_as_they_came():
    header = START + b"\x80\x01\x00\x00\x01x"

    spliced = splice_headers(header, (), b"\x01aI\x00\x00\x00\x01")

    assert START + b"\xa0\x01\x00\x00\x01x" + TABLE == spliced
    assert START + b"\xa0\x01\x00\x00\x01x" + bytes(4) == splice_headers(spliced, (b"a",))


def test_of_equal_names_the_first_one_is_split_and_all_are_removed():
    table = b"\x00\x00\x00\x0b\x01at\x01\x01at\x00\x01bV"
    header = START + b"\x20\x00" + table

    assert {b"a": b"t\x01", b"b": b"V"} == split_headers(header)
    assert START + b"\x20\x00\x00\x00\x00\x03\x01bV" == splice_headers(header, (b"a",))


@pytest.mark.parametrize("flags", [b"\x00\x02", b"\x00\x01\x80\x00"])
def test_splicing_flags_without_a_meaning_is_a_501(flags):
    with pytest.raises(FrameError, match="unknown flags"):
        splice_headers(START + flags)


def test_splicing_a_header_cut_before_the_expiration_ends_is_a_501():
    header = encode(ALL._replace(message_id=None, timestamp=None, type=None), 5)
    end = locate(header)[4]

    for cut in range(end):
        with pytest.raises(FrameError) as caught:
            splice_headers(header[:cut], (b"a",), keeps_expiration=False)
        assert caught.value.class_id == 60


@pytest.mark.parametrize(
    "entries", [b"\x01a?", b"\x01", b"\x01a", b"\x01aI\x00", b"\x01aS\x00\x00\x00\x05abc"]
)
def test_a_malformed_table_is_a_501_once_entries_are_looked_for(entries):
    header = START + b"\x20\x00" + len(entries).to_bytes(4) + entries

    for look in (lambda: splice_headers(header, (b"a",)), lambda: split_headers(header)):
        with pytest.raises(FrameError) as caught:
            look()
        assert caught.value.class_id == 60


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"a", b"key", b"keys"]), st.integers(0, 9))),
    st.sampled_from([Properties(), Properties("key", message_id="key"), ALL]),
)
def test_one_header_is_found_as_all_are(entries, others):
    octets = b"".join(
        [bytes((len(name),)) + name + encode_value(f"key{number}") for name, number in entries]
    )
    header = splice_headers(encode(others, 5), None, octets)

    for name in (b"", b"a", b"key", bytes(256)):
        assert split_headers(header).get(name) == header_octets(header, name)


@pytest.mark.parametrize(
    "octets", [b"\x03keyS\x00\x00\x00\x05a", b"\x03key", b"\x03keyI\x00", b"\x01a?\x03keyV"]
)
def test_one_header_of_a_malformed_table_is_a_501(octets):
    header = START + b"\x20\x00" + len(octets).to_bytes(4) + octets

    with pytest.raises(FrameError):
        header_octets(header, b"key")


@pytest.mark.parametrize(
    ("name", "finder"),
    [("priority", PRIORITY), ("expiration", EXPIRATION), ("message_id", MESSAGE_ID)],
)
def test_a_property_is_found_behind_any_others(name, finder):
    names = Properties._fields[: Properties._fields.index(name)]
    for which in range(1 << len(names)):
        absent = {name: None for at, name in enumerate(names) if which >> at & 1}
        header = encode(ALL._replace(**absent), 5)
        at = finder[int.from_bytes(header[12:14])](header, VALUES_OFFSET)

        value = getattr(ALL, name)
        expected = bytes((value,)) if name == "priority" else encode_shortstr(value)
        assert header.startswith(expected, at)

"""Properties: fourteen values and their flags; what is not touched passes through."""

import pytest

from leveret.protocol.errors import FieldError, FrameError
from leveret.protocol.properties import Properties, decode, encode, with_headers

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

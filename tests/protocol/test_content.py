"""Contents: what they say of themselves, in the three forms they are kept in."""

import pytest

from leveret.protocol.constants import HAS_CONTENT_TYPE, HAS_HEADERS
from leveret.protocol.content import Envelope, make_content
from leveret.protocol.errors import FrameError
from leveret.protocol.methods import BasicGetOk, BasicPublish
from leveret.protocol.properties import Properties, encode

from ..support.wire import frame, message, method, reader

PROPERTIES = Properties(content_type="text/plain", headers={"a": 1})
PUBLISH = BasicPublish("x", "key")


def content(data):
    [(_, [made])] = reader().feed(data)
    return made


def forms(payload):
    """Return a content in one slice, in pieces, and one that never crossed a wire."""
    return {
        "slice": content(message(payload, 1, PUBLISH, PROPERTIES)),
        "pieces": content(message(payload, 1, PUBLISH, PROPERTIES, cut=2)),
        "made": make_content(PUBLISH, encode(PROPERTIES, len(payload)), payload),
    }


@pytest.mark.parametrize("payload", [b"", b"x", b"abcde", b"x" * 5000])
def test_a_content_is_the_same_in_every_form(payload):
    for name, made in forms(payload).items():
        assert (name, payload) == (name, made.body)
        assert (name, payload) == (name, b"".join(made.chunks))
        assert (name, len(payload)) == (name, made.size)
        assert (name, encode(PROPERTIES, len(payload))) == (name, made.header)
        assert (name, len(made.header)) == (name, made.header_size)
        assert (name, PROPERTIES) == (name, made.properties)
        assert (name, HAS_CONTENT_TYPE | HAS_HEADERS) == (name, made.flags)
        assert (name, PUBLISH) == (name, made.envelope.method)


def test_an_empty_body_has_no_pieces():
    assert [(), (), ()] == [made.chunks for made in forms(b"").values()]


def test_a_content_shows_its_method_and_size():
    made = content(message(b"abc", 1, PUBLISH))

    assert f"<Content {PUBLISH!r}, 3 octets>" == repr(made)
    assert f"<Envelope {PUBLISH!r} on channel 1>" == repr(made.envelope)


def test_an_address_leaves_out_what_only_the_publisher_says():
    plain = content(message(b"", 1, BasicPublish("x", "key"))).envelope
    mandatory = content(message(b"", 1, BasicPublish("x", "key", mandatory=True))).envelope

    assert b"\x00\x01x\x03key\xce" == plain.address == mandatory.address
    assert b"\x01\x01x\x03key\xce" == plain.readdress
    assert 7 == plain.address_size


def test_only_a_publish_has_an_address_for_deliveries():
    assert b"\x00\xce" == Envelope(BasicGetOk(1), 1, b"anything").address


def test_a_property_that_is_no_text_is_found_when_somebody_asks():
    data = method(PUBLISH) + frame(2, 1, encode(Properties(), 0)[:-2] + b"\x80\x00\x02\xff\xff")
    made = content(data)

    with pytest.raises(FrameError):
        _ = made.properties

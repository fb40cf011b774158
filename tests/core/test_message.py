"""Messages: made by the broker, readdressed, and with other headers."""

import pytest

from leveret.broker.core.checks import check_expiration
from leveret.broker.core.message import Message, address
from leveret.protocol.codec import decode_method
from leveret.protocol.constants import HAS_DELIVERY_MODE, TEN_YEARS_MS
from leveret.protocol.content import Content, Envelope
from leveret.protocol.errors import FieldError, PreconditionFailed
from leveret.protocol.methods import BasicGetOk, BasicPublish
from leveret.protocol.properties import Properties
from leveret.protocol.reader import Contents, Reader
from leveret.protocol.writer import content_frames, method_frame


def received(method: BasicPublish, properties: Properties, body: bytes, channel: int) -> Message:
    """A message that came over a wire, in one piece."""
    made = Message.make("", "", properties, body)
    reader = Reader(Message)
    frames = content_frames(channel, 0, made.header, made.chunks)
    [(_, contents)] = reader.feed(b"".join((method_frame(channel, method), *frames)))
    assert isinstance(contents, Contents)
    return contents[0]


def test_a_message_is_made_of_its_parts():
    message = Message.make("x", "k", Properties(delivery_mode=2, headers={"a": 1}), b"body")

    assert BasicPublish("x", "k") == message.envelope.method
    assert Properties(delivery_mode=2, headers={"a": 1}) == message.properties
    assert b"body" == message.body
    assert 4 == message.size
    assert len(message.header) == message.header_size
    assert message.flags & HAS_DELIVERY_MODE
    assert message.persistent
    assert not message.is_dead_letter


def test_a_message_may_have_no_body():
    message = Message.make("", "q", Properties(), b"")

    assert () == message.chunks
    assert b"" == message.body


def test_a_made_message_belongs_to_no_channel_or_the_one_given():
    assert 0 == Message.make("", "q", Properties(), b"").envelope.channel
    assert 7 == Message.make("", "q", Properties(), b"", channel=7).envelope.channel


def test_a_message_under_another_address_is_otherwise_the_same():
    message = Message.make("x", "k", Properties(message_id="m"), b"body", channel=3)

    moved = message.with_address("y", "other")

    assert BasicPublish("y", "other") == moved.envelope.method
    assert 3 == moved.envelope.channel
    assert message.frames is moved.frames
    assert message.properties == moved.properties
    assert (message.size, message.header_size) == (moved.size, moved.header_size)
    assert BasicPublish("x", "k") == message.envelope.method


def test_messages_with_one_address_share_an_envelope():
    one, two = (Message.make("x", key, Properties(), b"") for key in "kl")

    assert one.with_address("y", "k").envelope is two.with_address("y", "k").envelope
    assert one.envelope is not two.envelope
    assert Message.make("x", "k", Properties(), b"").envelope is one.envelope


def test_a_dead_letter_is_told_from_the_octets_of_its_method_and_stays_one():
    envelope = address("dlx", "k", 3, True)
    message = Message.make("", "q", Properties(), b"")
    dead = message.with_header(message.header, envelope)

    restored = Envelope(decode_method(envelope.payload), 0, envelope.payload)

    assert dead.is_dead_letter
    assert message.with_header(message.header, restored).is_dead_letter
    assert dead.with_address("y", "k").is_dead_letter
    assert address("dlx", "k", 3).address == envelope.address  # nobody sees it


def test_a_delivery_is_no_dead_letter():
    message = Message(Envelope(BasicGetOk(1, True, "x", "k"), 1, b""), (b"",), 0, 0, 0)

    assert not message.is_dead_letter


def test_an_address_that_does_not_fit_is_a_502():
    with pytest.raises(FieldError):
        Message.make("x" * 256, "k", Properties(), b"")


@pytest.mark.parametrize("body", [b"", b"body"])
def test_other_headers_in_one_piece_are_what_a_reader_would_have_made(body):
    old = Properties(content_type="t", headers={"a": 1}, message_id="m")
    new = old._replace(headers={"b": "long" * 100})
    method = BasicPublish("x", "k")
    message = received(method, old, body, 5)

    changed = message.with_headers(new.headers)

    expected = received(method, new, body, 5)
    assert isinstance(message.frames, bytes)
    assert expected.frames == changed.frames
    for name in Content.__slots__[1:]:
        assert getattr(expected, name) == getattr(changed, name)
    assert old == message.properties


def test_other_headers_of_a_message_in_pieces_share_its_body():
    message = Message.make("x", "k", Properties(), b"body")

    changed = message.spliced(append=b"\x01at\x01")

    assert {"a": True} == changed.headers
    assert message.chunks[0] is changed.chunks[0]
    assert (changed.header_size, changed.size) == (len(changed.header), 4)


def test_headers_are_spliced():
    message = Message.make("x", "k", Properties(headers={"a": 1, "b": 2}), b"body")

    assert {"b": 2, "c": True} == message.spliced((b"a",), b"\x01ct\x01").headers


@pytest.mark.parametrize(
    ("text", "life"), [("0", 0), ("+5", 5), ("007", 7), ("315360000000", TEN_YEARS_MS)]
)
def test_its_life_is_its_expiration_in_milliseconds(text, life):
    properties = Properties(headers={"h": 1}, priority=3, expiration=text, message_id="9")

    assert life == Message.make("", "k", properties, b"").life


def test_a_message_without_an_expiration_lives_on():
    assert Message.make("", "k", Properties(message_id="9"), b"").life is None


@pytest.mark.parametrize("text", ["", "soon", "10 ms", "-1", "315360000001"])
def test_a_life_that_is_no_time_is_refused_as_an_expiration_is(text):
    message = Message.make("", "k", Properties(expiration=text), b"")
    with pytest.raises(PreconditionFailed) as expected:
        check_expiration(text)

    for _ in range(2):  # what is remembered of it is no time either
        with pytest.raises(PreconditionFailed) as found:
            assert message.life
        assert str(expected.value) == str(found.value)

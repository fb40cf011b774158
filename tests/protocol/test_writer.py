"""The writer: frames that a reader reads back, cut at the limit, reused where they may be."""

import pytest

from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicDeliver, BasicPublish, BasicQos
from leveret.protocol.properties import Properties, encode
from leveret.protocol.writer import content_frames, deliver_head, framed, method_frame

from ..support.wire import body, frame, header, message, read, reader, seen

DELIVER = BasicDeliver("c", 7, True, "x", "key")
HEADER = encode(Properties(), 10)


def content(data):
    [(_, [made])] = reader().feed(data)
    return made


def test_a_method_is_a_frame():
    assert frame(1, 3, b"\x00\x3c\x00\x0a\x00\x00\x00\x00\x00\x05\x00") == method_frame(
        3, BasicQos(0, 5)
    )


@pytest.mark.parametrize(
    ("frame_max", "chunks", "expected"),
    [
        (131072, [b"0123456789"], [b"0123456789"]),
        (0, [b"0123456789"], [b"0123456789"]),
        (18, [b"0123456789"], [b"0123456789"]),
        (17, [b"0123456789"], [b"012345678", b"9"]),
        (12, [b"0123456789"], [b"0123", b"4567", b"89"]),
        (13, [b"01234", b"56789"], [b"01234", b"56789"]),
        (12, [b"01234", b"56789"], [b"0123", b"4", b"5678", b"9"]),
        (131072, [], []),
    ],
)
def test_a_body_is_cut_where_a_frame_is_full(frame_max, chunks, expected):
    parts = content_frames(2, frame_max, HEADER, chunks)

    assert header(10, 2) + b"".join(body(piece, 2) for piece in expected) == b"".join(parts)


def test_a_body_that_fits_is_handed_on_uncopied():
    payload = b"x" * 100_000

    assert any(part is payload for part in content_frames(1, 131072, HEADER, [payload]))


def test_of_a_body_that_does_not_fit_the_frames_have_views():
    whole = b"0123456789"
    bodies = content_frames(1, 12, HEADER, [whole])[4::3]
    assert [True] * 3 == [view.obj is whole for view in bodies]


def test_a_content_for_its_own_channel_goes_out_as_it_came():
    made = content(message(b"0123456789"))

    assert [made.frames] == framed(made, 1, 131072)
    assert framed(made, 1, 131072)[0] is made.frames


@pytest.mark.parametrize(
    ("channel", "frame_max", "pieces"),
    [
        (2, 131072, [b"0123456789"]),
        (1, 17, [b"012345678", b"9"]),
        (1, 18, [b"0123456789"]),
        (1, 0, [b"0123456789"]),
    ],
)
def test_a_content_for_another_channel_or_limit_gets_new_frames(channel, frame_max, pieces):
    made = content(message(b"0123456789"))

    octets = b"".join(framed(made, channel, frame_max))

    assert header(10, channel) + b"".join(body(piece, channel) for piece in pieces) == octets


def test_a_content_of_several_frames_keeps_its_pieces():
    pieces = [b"a" * 5000, b"b" * 5000, b"c" * 5000]
    made = content(message(b"".join(pieces), cut=5000))

    octets = b"".join(framed(made, 1, 131072))

    assert header(15_000) + b"".join(body(piece) for piece in pieces) == octets


def test_an_empty_body_has_no_frame():
    for made in (content(message(b"")), make_content(BasicPublish(), encode(Properties(), 0))):
        assert header(0, 3) == b"".join(framed(made, 3, 131072))


@pytest.mark.parametrize("redelivered", [False, True])
def test_a_delivery_is_put_together_from_its_head_and_the_publishers_address(redelivered):
    made = content(message(b"body", envelope=BasicPublish("x", "key", mandatory=True)))
    envelope = made.envelope
    head = deliver_head(4, "consumer", envelope.address_size)
    address = envelope.readdress if redelivered else envelope.address

    octets = b"".join([head, (9).to_bytes(8), address, *framed(made, 4, 131072)])

    delivered = BasicDeliver("consumer", 9, redelivered, "x", "key")
    assert [(4, seen(b"body", delivered))] == read([octets])

"""The reader: every case whole, byte by byte, cut in two, and with octets behind it."""

import pytest

from leveret.protocol import reader as reader_module
from leveret.protocol.codec import encode_method
from leveret.protocol.constants import FRAME_BODY, FRAME_HEADER, FRAME_METHOD, MAX_BODY_SIZE
from leveret.protocol.methods import (
    BasicAck,
    BasicDeliver,
    BasicPublish,
    BasicQos,
    ChannelOpen,
    ConnectionCloseOk,
    QueueDeclare,
)
from leveret.protocol.properties import Properties, encode
from leveret.protocol.reader import Acks, Contents, Reader

from ..support.wire import (
    HEARTBEAT,
    Refused,
    TooLarge,
    body,
    flat,
    frame,
    header,
    message,
    method,
    read,
    read_every_way,
    reader,
    seen,
)

PUBLISH = BasicPublish("", "q")
RICH = Properties(content_type="text/plain", headers={"a": 1, "CC": ["x"]}, message_id="m" * 30)
EXPECTED_METHOD = "expected method frame, got non method frame instead"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(HEARTBEAT, [], id="heartbeat"),
        pytest.param(method(ChannelOpen(), 3), [(3, ChannelOpen())], id="method"),
        pytest.param(
            method(QueueDeclare("a")) + HEARTBEAT + method(BasicQos(0, 5), 2),
            [(1, QueueDeclare("a")), (2, BasicQos(0, 5))],
            id="methods around a heartbeat",
        ),
        pytest.param(message(b"x" * 50), [(1, seen(b"x" * 50))], id="content"),
        pytest.param(message(b""), [(1, seen(b""))], id="empty body"),
        pytest.param(
            message(b"", properties=RICH) + message(b"b"),
            [(1, seen(b"", properties=RICH)), (1, seen(b"b"))],
            id="empty body, then another",
        ),
        pytest.param(
            message(b"abcdefg", cut=3), [(1, seen(b"abcdefg"))], id="body of several frames"
        ),
        pytest.param(
            method(PUBLISH) + header(2) + body(b"") + body(b"a") + body(b"") + body(b"b"),
            [(1, seen(b"ab"))],
            id="body with empty frames",
        ),
        pytest.param(
            method(PUBLISH) + header(2) + HEARTBEAT + body(b"ab"),
            [(1, seen(b"ab"))],
            id="heartbeat inside a content",
        ),
        pytest.param(
            method(PUBLISH, 1) + message(b"two", 2) + header(3, 1) + body(b"one", 1),
            [(2, seen(b"two")), (1, seen(b"one"))],
            id="content inside one of another channel",
        ),
        pytest.param(
            method(PUBLISH, 1)
            + method(PUBLISH, 2)
            + header(2, 2)
            + header(2, 1)
            + body(b"a", 1)
            + body(b"c", 2)
            + method(BasicQos(), 3)
            + body(b"d", 2)
            + body(b"b", 1),
            [(3, BasicQos()), (2, seen(b"cd")), (1, seen(b"ab"))],
            id="contents of two channels frame by frame",
        ),
        pytest.param(
            message(b"1", 1) + message(b"2", 2) + message(b"3", 1),
            [(1, seen(b"1")), (2, seen(b"2")), (1, seen(b"3"))],
            id="contents of two channels in turns",
        ),
        pytest.param(
            b"".join(method(BasicAck(tag)) for tag in (1, 2, 3)),
            [(1, BasicAck(1)), (1, BasicAck(2)), (1, BasicAck(3))],
            id="acks",
        ),
        pytest.param(
            method(BasicAck(1))
            + method(BasicAck(5, True))
            + method(BasicAck(6))
            + method(BasicAck(7), 2)
            + method(BasicAck(8)),
            [
                (1, BasicAck(1)),
                (1, BasicAck(5, True)),
                (1, BasicAck(6)),
                (2, BasicAck(7)),
                (1, BasicAck(8)),
            ],
            id="acks of one, of many, of another channel",
        ),
        pytest.param(
            message(b"1") + method(BasicAck(1)) + message(b"2"),
            [(1, seen(b"1")), (1, BasicAck(1)), (1, seen(b"2"))],
            id="ack between contents",
        ),
        pytest.param(
            message(b"x", envelope=BasicDeliver("c", 1, True, "e", "k")),
            [(1, seen(b"x", BasicDeliver("c", 1, True, "e", "k")))],
            id="delivery",
        ),
    ],
)
def test_octets_are_read_as_the_same_commands_however_they_are_cut(data, expected):
    assert expected == read_every_way(data)


def wrong_header(payload):
    return method(PUBLISH) + frame(FRAME_HEADER, 1, payload)


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        pytest.param(
            frame(FRAME_METHOD, 1, encode_method(ChannelOpen()), 0xCD),
            501,
            "type 1, frame end octet 205 is not 206",
            id="end of a method",
        ),
        pytest.param(
            method(PUBLISH) + frame(FRAME_HEADER, 1, encode(Properties(), 1), 0) + body(b"x"),
            501,
            "type 2, frame end octet 0 is not 206",
            id="end of a header",
        ),
        pytest.param(
            method(PUBLISH) + header(1) + frame(FRAME_BODY, 1, b"x", 7),
            501,
            "type 3, frame end octet 7 is not 206",
            id="end of a body",
        ),
        pytest.param(frame(5, 0, b""), 501, "unknown frame type 5", id="unknown type"),
        pytest.param(frame(8, 3, b""), 505, "heartbeat on channel 3", id="heartbeat on a channel"),
        pytest.param(frame(8, 0, b"x"), 501, "heartbeat with a payload", id="long heartbeat"),
        pytest.param(
            frame(FRAME_BODY, 0, b"x"),
            505,
            "",
            id="body on channel 0",
        ),
        pytest.param(method(PUBLISH, 0), 505, "content on channel 0", id="publish on channel 0"),
        pytest.param(body(b"x"), 505, EXPECTED_METHOD, id="body before a method"),
        pytest.param(header(1), 505, EXPECTED_METHOD, id="header before a method"),
        pytest.param(
            method(PUBLISH) + method(BasicQos()),
            505,
            "expected content header for class 60, got non content header frame instead",
            id="method where a header is due",
        ),
        pytest.param(
            method(PUBLISH) + body(b"x"),
            505,
            "expected content header for class 60, got non content header frame instead",
            id="body where a header is due",
        ),
        pytest.param(
            method(PUBLISH) + header(3) + method(BasicAck(1)),
            505,
            "expected content body, got non content body frame instead",
            id="ack where a body is due",
        ),
        pytest.param(
            method(PUBLISH) + header(3) + header(3),
            505,
            "expected content body, got non content body frame instead",
            id="second header",
        ),
        pytest.param(
            wrong_header(encode(Properties(), 0).replace(b"\x00\x3c", b"\x00\x32", 1)),
            505,
            "expected content header for class 60, got one for class 50 instead",
            id="header of another class",
        ),
        pytest.param(
            wrong_header(b"\x00\x3c\x00\x01" + bytes(10)),
            505,
            "",
            id="weight",
        ),
        pytest.param(wrong_header(bytes(13)), 501, "cannot decode ", id="short header"),
        pytest.param(
            wrong_header(encode(Properties(), 0)[:-2] + b"\x80\x00\x05abc"),
            501,
            "cannot decode ",
            id="property cut off",
        ),
        pytest.param(
            wrong_header(encode(Properties(), 0) + b"x"),
            501,
            "cannot decode ",
            id="octets behind the properties",
        ),
        pytest.param(
            method(PUBLISH) + header(3) + body(b"abcd"),
            501,
            "body is longer than the announced 3 octets",
            id="long body",
        ),
        pytest.param(
            method(PUBLISH) + header(3) + body(b"ab") + body(b"cd"),
            501,
            "body is longer than the announced 3 octets",
            id="long body in two frames",
        ),
        pytest.param(
            method(PUBLISH) + header(MAX_BODY_SIZE + 1),
            501,
            f"body size {MAX_BODY_SIZE + 1} is larger than {MAX_BODY_SIZE}",
            id="more than any message",
        ),
    ],
)
def test_a_violation_is_said_after_what_was_right_and_nothing_behind_it(data, code, text):
    right = method(BasicQos(), 9)

    found = read_every_way(right + data + right)

    [first, (channel, refused)] = found
    assert (9, BasicQos()) == first
    assert (0, code, text) == (channel, refused.code, refused.text[: len(text)])


def test_an_unknown_method_is_a_503():
    [(_, refused)] = read_every_way(frame(FRAME_METHOD, 1, b"\x00\x3c\x00\xfa"))

    assert (503, "unknown method 60,250") == refused


def test_a_violation_inside_a_content_names_the_method_in_front():
    [(_, problem)] = reader().feed(method(PUBLISH) + body(b"x"))

    assert (60, 40) == (problem.class_id, problem.method_id)


def test_after_a_violation_only_the_answer_to_our_close_is_heard():
    target = reader()
    target.feed(frame(5, 0, b""))

    deaf = target.feed(method(BasicQos()))
    close_ok = method(ConnectionCloseOk(), 0)
    cut = target.feed(b"rubbish" + close_ok[:5])
    heard = target.feed(close_ok[5:])

    assert ([], [], [(0, ConnectionCloseOk())]) == (deaf, cut, heard)


# limits


@pytest.mark.parametrize("over", [0, 1])
def test_a_payload_may_be_as_large_as_the_frame_limit(over):
    """RabbitMQ forgets the eight octets around it, and clients rely on that."""
    data = message(b"x" * (4096 + over))
    expected = [(1, seen(b"x" * 4096))]
    if over:
        text = "type 3, all octets = <<>>: {frame_too_large,4097,4088}"
        expected = [(0, Refused(501, text))]

    assert expected == read_every_way(data, frame_max=4096)


def test_a_frame_that_is_too_large_is_refused_at_its_seventh_octet():
    head = frame(FRAME_METHOD, 1, bytes(5000))[:7]
    target = reader(frame_max=4096)

    before = target.feed(head[:6])
    after = flat(target.feed(head[6:]))

    assert [] == before
    assert [(0, Refused(501, "type 1, all octets = <<>>: {frame_too_large,5000,4088}"))] == after


def test_a_frame_that_is_too_large_is_refused_when_a_chunk_ends_at_its_seventh_octet():
    head = frame(FRAME_METHOD, 1, bytes(5000))[:7]

    found = read([HEARTBEAT + head], frame_max=4096)

    assert [(0, Refused(501, "type 1, all octets = <<>>: {frame_too_large,5000,4088}"))] == found


def test_a_frame_whose_head_ends_a_chunk_waits_for_the_rest():
    data = method(QueueDeclare("a"))
    target = reader()

    found = [flat(target.feed(chunk)) for chunk in (data[:7], data[7:-1], data[-1:])]

    assert [[], [], [(1, QueueDeclare("a"))]] == found


def test_no_frame_limit_is_no_limit():
    payload = b"x" * 200_000

    assert [(1, seen(payload))] == read([message(payload)], frame_max=0)


def test_a_content_above_the_message_limit_is_announced_and_passed_over():
    data = message(b"x" * 17) + message(b"y" * 16) + message(b"z" * 20, cut=7)

    assert [
        (1, TooLarge(PUBLISH, 17)),
        (1, seen(b"y" * 16)),
        (1, TooLarge(PUBLISH, 20)),
    ] == read_every_way(data, largest=16)


def test_an_oversized_content_between_others_keeps_the_order():
    data = message(b"1") + message(b"x" * 17) + message(b"2")

    commands = reader(largest=16).feed(data)

    assert [
        (1, seen(b"1")),
        (1, TooLarge(PUBLISH, 17)),
        (1, seen(b"2")),
    ] == flat(commands)


def start_contents(count, size):
    """Open contents on channels of their own, one octet short of their size."""
    return b"".join(
        method(PUBLISH, channel) + header(size, channel) + body(b"x" * (size - 1), channel)
        for channel in range(1, count + 1)
    )


def test_unfinished_contents_hold_no_more_than_twice_the_largest_message():
    assert [] == read([start_contents(2, 1000)], largest=1000)

    [(channel, refused)] = read([start_contents(3, 1000)], largest=1000)

    assert (0, Refused(506, "too many unfinished contents")) == (channel, refused)


def test_finished_contents_give_their_room_back():
    data = b"".join(message(b"x" * 1000, cut=600) for _ in range(10))

    assert 10 == len(read([data], largest=1000))


def test_empty_body_frames_are_not_kept():
    target = reader()
    target.feed(method(PUBLISH) + header(1))

    target.feed(body(b"") * 1000)

    assert [] == target._unfinished[1].chunks


def test_small_pieces_of_a_body_are_kept_together():
    [(_, [content])] = reader().feed(message(bytes(10_000), cut=1))

    assert [4096, 4096, 1808] == [len(piece) for piece in content.chunks]


# what is shared and grouped


def test_neighbours_of_a_channel_come_in_one_list():
    data = message(b"1") + message(b"2") + message(b"3", 2) + message(b"4", 2)

    [(_, first), (_, second)] = reader().feed(data)

    assert (Contents, 2, Contents, 2) == (type(first), len(first), type(second), len(second))


def test_single_acks_of_a_channel_come_in_one_list():
    data = b"".join(method(BasicAck(tag)) for tag in range(1, 101))

    assert [(1, Acks(range(1, 101)))] == reader().feed(data)


def test_a_row_of_acks_ends_where_a_damaged_one_begins():
    data = method(BasicAck(1)) + method(BasicAck(2))[:-1] + b"\x00"

    assert [
        (1, BasicAck(1)),
        (0, Refused(501, "type 1, frame end octet 0 is not 206")),
    ] == read_every_way(data)


def test_the_method_in_front_is_decoded_once_for_all_readers_of_a_memo():
    memo = {}
    first, second = Reader(memo=memo), Reader(memo=memo)

    [(_, [one, two])] = first.feed(message(b"1") + message(b"2"))
    [(_, [three])] = second.feed(message(b"3", cut=1))

    assert one.envelope is two.envelope is three.envelope
    assert 1 == len(memo)


def test_the_memo_is_bounded(monkeypatch):
    monkeypatch.setattr(reader_module, "MEMO_LIMIT", 10)
    memo = {}
    target = Reader(memo=memo)

    for number in range(25):
        target.feed(message(b"", envelope=BasicPublish("", f"key {number}")))

    assert len(memo) <= 10


def test_a_content_in_one_frame_is_kept_as_it_came():
    data = message(b"body", properties=RICH)
    octets = header(4, 1, RICH) + body(b"body")

    for chunks in ([data], [data[:30], data[30:]], [bytes((octet,)) for octet in data]):
        target = reader()
        [(_, [content])] = [pair for chunk in chunks for pair in target.feed(chunk)]
        assert octets == content.frames


def test_a_content_in_several_frames_is_kept_in_pieces():
    pieces = (b"a" * 5000, b"b" * 5000, b"c" * 2000)
    [(_, [content])] = reader().feed(message(b"".join(pieces), cut=5000))

    assert (encode(Properties(), 12_000), *pieces) == content.frames


def test_a_body_frame_behind_an_empty_content_is_refused():
    found = read_every_way(message(b"") + body(b""))

    assert [(1, seen(b"")), (0, Refused(505, EXPECTED_METHOD))] == found


LIKE = [message(octet * 30) for octet in (b"a", b"b", b"c")]


@pytest.mark.parametrize(
    "place",
    [1, -39, -38, -36, -1],
    ids=["method's channel", "header's end", "body's type", "body's channel", "body's end"],
)
def test_the_last_of_like_contents_is_checked_too(place):
    """The frames before it were alike to the octet: nothing of this one is taken on trust."""
    bad = bytearray(LIKE[2])
    bad[place] ^= 0x55
    good = [(1, seen(b"a" * 30)), (1, seen(b"b" * 30))]

    *commands, (_, problem) = flat(reader().feed(b"".join(LIKE[:2]) + bytes(bad)))

    assert commands == good
    assert isinstance(problem, Refused)

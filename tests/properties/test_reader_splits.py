"""However a socket cuts the octets, the reader says the same."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leveret.protocol import reader as reader_module
from leveret.protocol.methods import BasicAck, BasicPublish, BasicQos, QueueDeclare
from leveret.protocol.properties import Properties

from ..support.wire import HEARTBEAT, body, frame, header, message, method, read, seen

FEW = settings(max_examples=150, deadline=None)

channels = st.integers(1, 3)
payloads = st.integers(0, 300).map(lambda size: (b"0123456789" * 30)[:size])
names = st.sampled_from(["", "q", "another queue"])
properties = st.sampled_from(
    [Properties(), Properties(message_id="m"), Properties(headers={"a": 1}, delivery_mode=2)]
)


@st.composite
def whole_messages(draw):
    channel, payload = draw(channels), draw(payloads)
    envelope, values = BasicPublish(draw(names), draw(names)), draw(properties)
    data = message(payload, channel, envelope, values, draw(st.sampled_from([0, 1, 7, 100])))
    return data, [(channel, seen(payload, envelope, values))]


@st.composite
def rows_of_like_messages(draw):
    data, expected = draw(whole_messages())
    count = draw(st.integers(2, 5))
    return data * count, expected * count


@st.composite
def ack_rows(draw):
    channel = draw(channels)
    acks = [BasicAck(tag, multiple) for tag, multiple in draw(st.lists(st.tuples(tags, many)))]
    return b"".join(method(ack, channel) for ack in acks), [(channel, ack) for ack in acks]


tags = st.integers(0, (1 << 64) - 1)
many = st.sampled_from([False, False, False, True])


@st.composite
def single_methods(draw):
    channel = draw(channels)
    value = draw(st.sampled_from([BasicQos(0, 3), QueueDeclare("q", arguments={"x": 1})]))
    return method(value, channel), [(channel, value)]


@st.composite
def interleaved(draw):
    """Two contents on two channels, their frames shuffled but in order within each."""
    first, second = draw(payloads), draw(payloads.filter(bool))
    one = [method(BasicPublish("", "1"), 1), header(len(first), 1), *cut(first, 1, 11)]
    two = [method(BasicPublish("", "2"), 2), header(len(second), 2), *cut(second, 2, 40)]
    data, last = b"", {}
    while one or two:
        take_one = bool(one) and (not two or draw(st.booleans()))
        data += (one if take_one else two).pop(0)
        last[1 if take_one else 2] = len(data)
    expected = {
        1: (1, seen(first, BasicPublish("", "1"))),
        2: (2, seen(second, BasicPublish("", "2"))),
    }
    return data, [expected[channel] for channel in sorted(last, key=last.__getitem__)]


def cut(payload, channel, size):
    pieces = (payload[start : start + size] for start in range(0, len(payload), size))
    return [body(piece, channel) for piece in pieces]


rubbish = st.sampled_from([frame(5, 0, b""), method(BasicQos())[:-1] + b"\x00", body(b"x", 9)])
heartbeats = st.just((HEARTBEAT, []))
pieces = st.one_of(
    whole_messages(),
    rows_of_like_messages(),
    ack_rows(),
    single_methods(),
    interleaved(),
    heartbeats,
)


def split(data, places):
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


@FEW
@given(
    st.lists(pieces, max_size=8),
    st.lists(st.integers(0, 1 << 20), max_size=12),
    st.sampled_from([16, 60, reader_module.LARGE_FRAME]),
)
def test_commands_do_not_depend_on_where_the_octets_are_cut(parts, places, large):
    """Nor on the size from which a cut frame is completed alone."""
    data = b"".join(octets for octets, _ in parts)
    expected = [command for _, commands in parts for command in commands]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_module, "LARGE_FRAME", large)
        assert expected == read(split(data, places))


@FEW
@given(st.lists(pieces, max_size=4), rubbish, st.lists(st.integers(0, 1 << 20), max_size=12))
def test_a_violation_comes_last_wherever_the_octets_are_cut(parts, wrong, places):
    data = b"".join(octets for octets, _ in parts) + wrong + HEARTBEAT
    expected = [command for _, commands in parts for command in commands]

    found = read(split(data, places))

    assert expected == found[:-1]
    assert (0, True) == (found[-1][0], found[-1][1].code in (501, 505))

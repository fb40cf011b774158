"""Headers of the broker; the count is as quorum queues of RabbitMQ 3.10.8 send it."""

import pytest

from leveret.broker.core.message import Message
from leveret.broker.plugins.headers import int32_delay, negated_delay, with_count
from leveret.protocol.properties import Properties
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
    encode_table,
)
from leveret.protocol.writer import content_frames


def published(headers=None) -> Message:
    return Message.make("", "q", Properties(headers=headers, message_id="m"), b"b")


def unreadable() -> Message:
    message = published({"x-delay": 1})
    return message.with_header(message.header.replace(b"x-delayI", b"x-delay?"))


@pytest.mark.parametrize("count", [0, 1, 1 << 40])
def test_the_count_is_an_int64_behind_all_other_headers(count):
    counted = with_count(published({"h": 1}), count)

    expected = encode_table({"h": 1, "x-delivery-count": Int64(count)})
    assert expected == encode_table(counted.headers)
    assert Properties(headers=counted.headers, message_id="m") == counted.properties


def test_the_count_is_added_where_there_are_no_headers():
    assert {"x-delivery-count": 2} == with_count(published(), 2).headers


def test_the_count_replaces_an_earlier_one():
    assert {"x-delivery-count": 2} == with_count(with_count(published(), 1), 2).headers


@pytest.mark.parametrize("headers", [None, {}, {"b": 1}])
def test_a_message_without_a_delay_stays_the_same(headers):
    message = published(headers)

    assert message is negated_delay(message)


@pytest.mark.parametrize(
    "kind", [int, Int8, Int16, Int64, LongInt64, float, Float32, UInt8, UInt16, UInt32]
)
def test_a_delay_is_negated_under_a_tag_with_a_sign(kind):
    message = published({"x-delay": kind(100), "h": 1})

    negated = negated_delay(message).headers

    assert {"h": 1, "x-delay": -100} == negated
    assert type(negated["x-delay"]) is (int if kind in (UInt8, UInt16, UInt32) else kind)


@pytest.mark.parametrize("value", [(1 << 32) - 1, UInt32((1 << 32) - 1)])
def test_the_longest_delay_is_negated(value):
    assert {"x-delay": 1 - (1 << 32)} == negated_delay(published({"x-delay": value})).headers


def received(message: Message) -> Message:
    """Return a message in one piece, as it comes from most publishers."""
    octets = b"".join(content_frames(1, 1 << 17, message.header, [message.body]))
    return Message(message.envelope, octets, message.header_size, message.size, message.flags)


DELAYS = (1, (1 << 31) - 1, 0, -5, -(1 << 31), Int16(7), True)


@pytest.mark.parametrize("others", [{}, {"h": "x" * 300}, {"x-delay-id": "a", "x-delay-": 5}])
@pytest.mark.parametrize("content_type", [None, "text/plain"])
@pytest.mark.parametrize("delay", DELAYS)
def test_in_one_piece_a_delay_is_negated_as_in_several(delay, content_type, others):
    headers = {"x-delay": delay, **others}
    properties = Properties(headers=headers, content_type=content_type, priority=3)
    several = Message.make("", "q", properties, b"body")

    one = negated_delay(received(several))

    assert properties._replace(headers=negated_delay(several).headers) == one.properties
    assert (b"body", several.flags) == (one.body, one.flags)


def test_of_two_delays_the_first_is_negated_and_the_other_goes():
    message = received(published({"x-delay": 1, "y-delay": 2}))
    twice = received(message.with_header(message.header.replace(b"y-delay", b"x-delay")))

    negated = negated_delay(twice)

    assert (1, {"x-delay": -1}) == (negated.header.count(b"x-delay"), negated.headers)


@pytest.mark.parametrize("missing", [1, 3, 4])
def test_octets_behind_a_header_that_is_cut_short_are_no_delay(missing):
    whole = published({"x-delay": 1 << 24}).header[:14] + encode_table({"x-delay": 1 << 24})
    cut = received(published().with_header(whole[:12] + b"\x20\x00" + whole[14:-missing]))

    assert None is int32_delay(cut)
    assert cut is negated_delay(cut)


@pytest.mark.parametrize("value", [0, -5, "100", None, True, b"1", [1], Timestamp(5)])
def test_what_is_no_delay_stays(value):
    message = published({"x-delay": value})

    assert message is negated_delay(message)


@pytest.mark.parametrize("change", [negated_delay, lambda one: with_count(one, 1)])
def test_unreadable_headers_stay(change):
    message = unreadable()

    changed = change(message)

    assert b"x-delay?" in changed.header

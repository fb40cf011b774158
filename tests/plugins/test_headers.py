"""Headers of the broker; the count is as quorum queues of RabbitMQ 3.10.8 send it."""

import pytest

from leveret.broker.core.message import Message
from leveret.broker.plugins.headers import negated_delay, with_count
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


@pytest.mark.parametrize("value", [0, -5, "100", None, True, b"1", [1], Timestamp(5)])
def test_what_is_no_delay_stays(value):
    message = published({"x-delay": value})

    assert message is negated_delay(message)


@pytest.mark.parametrize("change", [negated_delay, lambda one: with_count(one, 1)])
def test_unreadable_headers_stay(change):
    message = unreadable()

    changed = change(message)

    assert b"x-delay?" in changed.header

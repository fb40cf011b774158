"""Filters of messages that somebody wants to see."""

import pytest

from leveret.broker.core.filter import Filter
from leveret.broker.core.message import Message
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode


def published(**properties):
    header = encode(Properties(**properties), 4)
    return make_content(BasicPublish("x", "key"), header, b"body", Message)


MESSAGE = published(
    message_id="m", timestamp=1000, headers={"tenant": "a", "size": 5, "tags": ["b"]}
)
BARE = published()


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(exchange="x", routing_key="key"),
        Filter(message_id="m"),
        Filter(published_before=1001, published_after=999),
        Filter(headers={"tenant": "a", "size": 5.0}),
        Filter(headers={"tags": ["b"]}),
    ],
)
def test_what_fits_in_everything_is_accepted(wanted):
    assert wanted.accepts(MESSAGE)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(exchange=""),
        Filter(routing_key="ke"),
        Filter(message_id="n"),
        Filter(published_before=1000),
        Filter(published_after=1000),
        Filter(headers={"tenant": "b"}),
        Filter(headers={"tenant": "a", "other": None}),
        Filter(headers={"size": "5"}),
        Filter(exchange="x", message_id="n"),
    ],
)
def test_what_differs_in_one_thing_is_not(wanted):
    assert not wanted.accepts(MESSAGE)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(message_id=""),
        Filter(published_before=1 << 62),
        Filter(published_after=0),
        Filter(headers={"a": None}),
    ],
)
def test_what_is_not_there_fits_nothing(wanted):
    assert not wanted.accepts(BARE)


def test_properties_that_nobody_can_read_fit_nothing_and_harm_nobody():
    broken = BARE.with_header(encode(Properties(message_id="m"), 4)[:-1])

    assert Filter(routing_key="key").accepts(broken)
    assert not Filter(message_id="m").accepts(broken)

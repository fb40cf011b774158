"""The firehose: what a copy says of its message."""

from typing import cast

import pytest

from leveret.broker.core.message import Message
from leveret.broker.plugins.trace import Origin, trace_delivery, trace_publish
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

TRACE = "amq.rabbitmq.trace"
ORIGIN = Origin("node@here", "/", "127.0.0.1:4711", 3, "guest")
KNOWN = {
    "node": "node@here",
    "vhost": "/",
    "connection": "127.0.0.1:4711",
    "channel": 3,
    "user": "guest",
}
ALL = {
    "content_type": "a/b",
    "content_encoding": "e",
    "headers": {"h": 1, "CC": ["copy"]},
    "delivery_mode": 2,
    "priority": 4,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "60000",
    "message_id": "m",
    "timestamp": 1 << 40,
    "type": "t",
    "user_id": "guest",
    "app_id": "a",
    "cluster_id": "cl",
}


@pytest.fixture
def traced(vhost):
    """Return what takes the only copy: its exchange, key, headers and body."""
    queue = vhost.declare_queue("traced")
    vhost.bind(TRACE, queue, "#")

    def take():
        found = queue.pop()
        if found is None:
            return None
        _, copy, _ = found
        queue.settle(1, copy.header_size + copy.size)
        method = copy.envelope.method
        properties = copy.properties
        assert Properties(headers=properties.headers) == properties
        return method.exchange, method.routing_key, properties.headers, copy.body

    return take


def message(exchange="x", key="k", body=b"body", **properties):
    header = encode(Properties(**properties), len(body))
    return cast(Message, make_content(BasicPublish(exchange, key), header, body, Message))


def test_a_published_message_says_where_it_went(vhost, traced):
    trace_publish(vhost, message(), ["k", "copy", "blind"], ["one", "two"], ORIGIN)

    assert (
        TRACE,
        "publish.x",
        {
            "exchange_name": "x",
            "routing_keys": ["k", "copy", "blind"],
            "properties": {},
            "routed_queues": ["one", "two"],
            **KNOWN,
        },
        b"body",
    ) == traced()
    assert traced() is None


@pytest.mark.parametrize("redelivered", [False, True])
def test_a_delivered_message_says_where_it_came_from(vhost, traced, redelivered):
    trace_delivery(vhost, message(), "q", redelivered, ORIGIN)

    assert (
        TRACE,
        "deliver.q",
        {
            "exchange_name": "x",
            "routing_keys": ["k"],
            "properties": {},
            "redelivered": int(redelivered),
            **KNOWN,
        },
        b"body",
    ) == traced()


def test_all_properties_are_told(vhost, traced):
    trace_delivery(vhost, message(**ALL), "q", False, ORIGIN)

    _, _, headers, _ = traced()
    assert ALL == headers["properties"]
    assert ["k", "copy"] == headers["routing_keys"]


def test_a_message_without_a_body(vhost, traced):
    trace_publish(vhost, message(body=b""), ["k"], [], ORIGIN)

    assert b"" == traced()[3]


def test_a_message_to_the_default_exchange_has_no_name_in_its_key(vhost, traced):
    trace_publish(vhost, message(exchange="", key="q"), ["q"], ["q"], ORIGIN)

    _, key, headers, _ = traced()
    assert ("publish.", "") == (key, headers["exchange_name"])


def test_a_name_that_leaves_no_room_in_the_key_is_cut(vhost, traced):
    trace_delivery(vhost, message(), "\u00e4" * 127, False, ORIGIN)

    assert "deliver." + "\u00e4" * 123 == traced()[1]


def test_traces_are_not_traced(vhost, traced):
    trace_delivery(vhost, message(exchange=TRACE), "traced", False, ORIGIN)

    assert traced() is None


def test_nothing_is_made_while_nothing_is_bound(vhost, monkeypatch):
    monkeypatch.setattr(
        "leveret.broker.plugins.trace.encode", lambda *_: pytest.fail("made a message")
    )

    trace_publish(vhost, message(), ["k"], [], ORIGIN)


def test_copies_of_long_bodies_share_their_chunks(vhost):
    queue = vhost.declare_queue("traced")
    vhost.bind(TRACE, queue, "publish.#")
    original = message().with_headers({"h": 1})

    trace_publish(vhost, original, ["k"], [], ORIGIN)

    _, copy, _ = queue.pop()
    assert copy.chunks[0] is original.chunks[0]

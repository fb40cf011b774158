"""The firehose: what a copy says of its message."""

from typing import cast

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.message import Message
from leveret.broker.plugins.trace import (
    Origin,
    is_traced,
    trace_delivery,
    trace_off,
    trace_on,
    trace_publish,
)
from leveret.broker.testing import Embedded
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicConsume, BasicGet, BasicPublish, BasicReject
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


# The switch


@pytest.fixture
def embedded():
    with Embedded({"queues": ["q", "traced", "copy"]}) as made:
        made.vhost.bind(TRACE, made.vhost.queues["traced"], "#")
        yield made


def copies(embedded):
    """Take all copies: their keys, their headers, their bodies."""
    found = []
    while (copy := embedded.get("traced")) is not None:
        found.append((copy.method.routing_key, copy.properties.headers, copy.body))
    return found


def keys(embedded):
    return [key for key, _, _ in copies(embedded)]


def test_a_publish_and_its_delivery_are_copied_while_it_is_on(embedded):
    embedded.publish("", "q", b"before")
    trace_on(embedded.vhost)
    embedded.publish("", "q", b"1")
    assert b"before" == embedded.get("q").body

    [published, delivered] = copies(embedded)

    known = {"node": "leveret@localhost", "vhost": "/", "user": "guest"}
    assert ("publish.", b"1") == (published[0], published[2])
    assert {**known, "routed_queues": ["q"], "routing_keys": ["q"]}.items() <= published[1].items()
    assert ("deliver.q", b"before") == (delivered[0], delivered[2])
    assert {**known, "redelivered": 0, "channel": 2}.items() <= delivered[1].items()


def test_every_publish_of_the_same_route_is_copied(embedded):
    trace_on(embedded.vhost)

    for _ in range(3):
        embedded.publish("", "q", b"1")

    assert ["publish."] * 3 == keys(embedded)


def test_nothing_is_copied_after_it_is_off(embedded):
    trace_on(embedded.vhost)
    embedded.publish("", "q", b"1")
    trace_off(embedded.vhost)

    embedded.publish("", "q", b"2")
    embedded.get("q")

    assert ["publish."] == keys(embedded)
    assert not is_traced(embedded.vhost)


@pytest.mark.parametrize("no_ack", [False, True])
def test_what_consumers_get_is_copied(embedded, no_ack):
    client = embedded.connect()
    embedded.publish("", "q", b"1")
    trace_on(embedded.vhost)

    client.send(BasicConsume("q", "c", no_ack=no_ack))

    assert ["deliver.q"] == keys(embedded)


def test_what_comes_back_is_told_to_be_redelivered(embedded):
    client = embedded.connect()
    embedded.publish("", "q", b"1")
    tag = client.call(BasicGet("q")).tag
    trace_on(embedded.vhost)

    client.send(BasicReject(tag, True), BasicGet("q"))

    [(_, headers, _)] = copies(embedded)
    assert 1 == headers["redelivered"]


def test_a_message_without_a_queue_is_copied_too(embedded):
    trace_on(embedded.vhost)

    embedded.publish("amq.direct", "nowhere", b"1")

    [(key, headers, _)] = copies(embedded)
    assert ("publish.amq.direct", []) == (key, headers["routed_queues"])


def test_blind_copies_are_told_among_the_keys_only(embedded):
    trace_on(embedded.vhost)

    embedded.publish("", "q", b"1", headers={"BCC": ["copy"]})

    embedded.get("q")

    [(_, published, _), (_, delivered, _)] = copies(embedded)
    assert ["q", "copy"] == published["routing_keys"] == published["routed_queues"]
    assert ["q", "copy"] == delivered["routing_keys"]
    assert {} == published["properties"].get("headers", {})


def test_other_virtual_hosts_are_not_traced(embedded):
    other = embedded.broker.add_vhost("other")
    trace_on(other)

    embedded.publish("", "q", b"1")

    assert [] == keys(embedded)


def test_it_is_on_again_after_a_restart(registry):
    broker = Broker(registry=registry)
    broker.notes.restore(("/", "vhost", "/"), "trace", b"on", b"1")
    broker.notes.restore(("gone", "vhost", "gone"), "trace", b"on", b"1")
    broker.add_defaults()

    broker.events.emit("broker.started")

    assert is_traced(broker.vhosts["/"])


def test_whether_it_is_on_is_kept(vhost):
    owner = ("/", "vhost", "/")

    trace_on(vhost)
    assert {b"on": b"1"} == dict(vhost.broker.notes.get(owner, "trace"))

    trace_off(vhost)
    assert {} == dict(vhost.broker.notes.get(owner, "trace"))

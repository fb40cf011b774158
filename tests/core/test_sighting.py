"""What is shown of a message."""

import json

import pytest

from leveret.broker.core.message import Message
from leveret.broker.core.sighting import Holder, Sighting
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

from ..support.fakes import message


def shown(content, limit=1024, holder=None):
    sighting = Sighting(3, content, False, 2, holder)
    return json.loads(json.dumps(sighting.as_json(limit), allow_nan=False))


def test_a_message_is_shown_under_rabbitmqs_names_and_some_more():
    header = encode(Properties(content_type="text/plain", headers={"a": [1]}), 5)
    content = make_content(BasicPublish("x", "key"), header, b"hello", Message)

    assert {
        "position": 3,
        "exchange": "x",
        "routing_key": "key",
        "redelivered": False,
        "delivery_count": 2,
        "holder": None,
        "due": None,
        "deadline": None,
        "properties": {"content_type": "text/plain", "headers": {"a": [1]}},
        "payload_bytes": 5,
        "payload_encoding": "string",
        "payload": "hello",
        "is_truncated": False,
    } == shown(content)


def test_who_holds_it_is_shown():
    assert {
        "connection": "::1",
        "user": "guest",
        "channel": 1,
        "consumer_tag": "c",
        "delivery_tag": 9,
    } == shown(message(b""), holder=Holder("::1", "guest", 1, "c", 9))["holder"]


@pytest.mark.parametrize(
    ("body", "limit", "encoding", "payload"),
    [
        (b"", 4, "string", ""),
        (b"hello", 4, "string", "hell"),
        (b"hello", 0, "string", ""),
        (b"hello", 5, "string", "hello"),
        ("né".encode(), 2, "string", "n"),  # cut within a character
        ("né".encode()[:2], 4, "base64", "bsM="),  # it ends within one
        (b"\xff\x00", 4, "base64", "/wA="),
    ],
)
def test_a_body_is_text_where_it_is_some(body, limit, encoding, payload):
    found = shown(message(body), limit)

    assert (encoding, payload) == (found["payload_encoding"], found["payload"])
    assert (len(body), len(body) > limit) == (found["payload_bytes"], found["is_truncated"])


def test_of_a_body_in_pieces_only_the_first_are_touched():
    content = message(b"")
    pieces = Message(content.envelope, (content.header, b"abc", b"def", None), 14, 9, 0)

    assert "abcd" == shown(pieces, 4)["payload"]


def test_properties_that_nobody_can_read_are_not_shown():
    broken = message(b"").with_header(encode(Properties(message_id="m"), 0)[:-1])

    assert shown(broken)["properties"] is None

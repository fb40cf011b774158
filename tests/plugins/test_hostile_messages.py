"""Messages that no client library would send: each goes somewhere, and takes no other along."""

from collections.abc import Iterator

import pytest

from leveret.broker.testing import Embedded, published
from leveret.protocol.methods import (
    BasicPublish,
    ChannelClose,
    ExchangeBind,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
    QueueDeclareOk,
)
from leveret.protocol.properties import Properties, encode, splice_headers
from leveret.protocol.table import LongString
from leveret.protocol.writer import content_frames, method_frame

NO_TAG = b"\x01aZ"  # an entry whose type no table has
TO_DEAD = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}


@pytest.fixture
def broker() -> Iterator[Embedded]:
    with Embedded({"queues": ["dead", "q"]}) as broker:
        yield broker


@pytest.fixture
def client(broker):
    return broker.connect()


def unreadable(exchange: str, routing_key: str, **properties: object) -> bytes:
    """Return a publish whose table of headers has the right size, and nobody can read it."""
    header = encode(Properties(**properties), 1)  # type: ignore[arg-type]
    header = splice_headers(header, (), NO_TAG)
    frames = b"".join(content_frames(1, 131_072, header, [b"u"]))
    return method_frame(1, BasicPublish(exchange, routing_key)) + frames


def bodies(broker: Embedded, queue: str) -> list[bytes]:
    """Take all that is ready, without decoding it."""
    found = []
    while (taken := broker.vhost.queues[queue].pop()) is not None:
        found.append(taken[1].body)
    return found


# Headers that nobody can read


def test_what_nobody_can_read_takes_nothing_along_in_a_queue_with_priorities(broker, client):
    client.call(QueueDeclare("p", arguments={"x-max-priority": 5}))
    publish = BasicPublish("", "p")

    client.feed(
        published(b"low", publish)
        + unreadable("", "p", priority=3, delivery_mode=2)
        + published(b"high", publish, 1, Properties(priority=5))
    )

    assert [b"high", b"u", b"low"] == bodies(broker, "p")


@pytest.mark.parametrize("kind", ["headers", "x-recent-history", "x-consistent-hash"])
def test_a_dead_letter_that_nobody_can_read_goes_as_one_without_headers(broker, client, kind):
    client.call(ExchangeDeclare("dlx", kind, arguments={"alternate-exchange": "amq.fanout"}))
    client.call(QueueBind("dead", "dlx" if kind != "headers" else "amq.fanout", "1"))
    client.call(QueueDeclare("t", arguments={"x-max-length": 0, "x-dead-letter-exchange": "dlx"}))

    client.feed(unreadable("", "t"))

    assert [b"u"] == bodies(broker, "dead")


def test_a_delayed_message_that_nobody_can_read_goes_as_one_without_headers(broker, client):
    arguments = {"x-delayed-type": "headers", "alternate-exchange": "amq.fanout"}
    client.call(ExchangeDeclare("dx", "x-delayed-message", arguments=arguments))
    client.call(QueueBind("q", "amq.fanout"))

    client.feed(unreadable("dx", "k", headers={"x-delay": 5}))
    broker.advance(1)

    assert [b"u"] == bodies(broker, "q")
    assert 0 == broker.vhost.hidden["delayed:dx"].ready_count


def test_what_nobody_can_read_passes_an_exchange_with_a_history(broker, client):
    client.call(ExchangeDeclare("rh", "x-recent-history"))
    client.call(ExchangeBind("rh", "amq.fanout"))
    client.call(QueueBind("q", "rh"))

    client.feed(unreadable("amq.fanout", ""))

    assert [b"u"] == bodies(broker, "q")


# Keys that are too long


def test_a_blind_copy_with_too_long_a_key_goes_nowhere(broker):
    is_taken = broker.publish("", "q", b"m", headers={"BCC": ["k" * 256, "dead"]})

    assert is_taken
    assert ([b"m"], [b"m"]) == (bodies(broker, "q"), bodies(broker, "dead"))


def test_a_dead_letter_key_that_is_too_long_is_refused(client):
    arguments = {**TO_DEAD, "x-dead-letter-routing-key": "k" * 256}

    answer = client.call(QueueDeclare("t", arguments=arguments))

    assert isinstance(answer, ChannelClose)
    assert 406 == answer.reply_code
    assert '"expected a text of at most 255 octets"' in answer.reply_text


def test_dead_letters_of_a_key_that_is_no_text_are_routed(broker, client):
    arguments = {
        "x-dead-letter-exchange": "amq.fanout",
        "x-dead-letter-routing-key": LongString(b"\xff"),
        "x-max-length": 0,
    }
    assert isinstance(client.call(QueueDeclare("t", arguments=arguments)), QueueDeclareOk)
    client.call(QueueBind("dead", "amq.fanout"))

    assert broker.publish("", "t", b"m")

    assert ([], [b"m"]) == (bodies(broker, "t"), bodies(broker, "dead"))

"""Redelivery: counts, limits and waits of what comes back."""

import pytest

from leveret.broker.testing import advance
from leveret.protocol.methods import BasicGet, BasicGetEmpty, BasicNack, BasicReject, QueueDeclare

from ..support.client import closed

TO_DLQ = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dlq"}


def get(client):
    return client.call(BasicGet("q"))


def put_back(client, got):
    assert [] == client.send(BasicReject(got.tag, True))


def test_each_redelivery_says_how_often_it_came_back(client):
    client.declare(arguments={"x-delivery-limit": 5})
    client.publish(b"a", headers={"mine": 1})
    found = []
    for _ in range(3):
        got = get(client)
        found.append(got.properties.headers.get("x-delivery-count"))
        assert 1 == got.properties.headers["mine"]
        put_back(client, got)

    assert [None, 1, 2] == found


def test_beyond_the_limit_a_message_is_dead_lettered(client):
    client.declare("dlq")
    client.declare(arguments={"x-delivery-limit": 1} | TO_DLQ)
    client.publish(b"a")
    put_back(client, get(client))
    put_back(client, get(client))

    assert BasicGetEmpty() == get(client)
    dead = client.call(BasicGet("dlq"))
    assert "delivery_limit" == dead.properties.headers["x-death"][0]["reason"]
    assert "x-delivery-count" not in dead.properties.headers


def test_a_lost_connection_counts(client, connect):
    client.declare(arguments={"x-delivery-limit": 0})
    client.publish(b"a")
    other = connect()
    get(other)
    other.lose()

    assert (0, 0) == client.counts()


def test_without_a_limit_nothing_is_dropped(client):
    client.declare(arguments={"x-delivery-limit": -1})
    client.publish(b"a")
    for _ in range(30):
        put_back(client, get(client))

    assert (1, 0) == client.counts()


def test_waits_grow_up_to_the_longest(client, broker):
    client.declare(arguments={"x-retry-min": 10, "x-retry-max": 35, "x-retry-factor": 2})
    client.publish(b"a")
    for wait in (10, 20, 35, 35):
        put_back(client, get(client))
        advance(broker, (wait - 1) / 1000)
        assert (0, 0) == client.counts()
        advance(broker, 0.001)
        assert (1, 0) == client.counts()


def test_jitter_only_shortens(client, broker):
    client.declare(arguments={"x-retry-min": 100, "x-retry-jitter": 0.5})
    client.publish_many([b"%d" % number for number in range(20)])
    for got in [get(client) for _ in range(20)]:
        put_back(client, got)
    advance(broker, 0.049)
    early = client.counts()[0]
    advance(broker, 0.051)

    assert (0, 20) == (early, client.counts()[0])


def test_what_waits_for_its_turn_keeps_its_deadline(client, broker):
    client.declare(arguments={"x-retry-min": 100, "x-message-ttl": 50})
    client.publish(b"a")
    put_back(client, get(client))
    advance(broker, 0.1)

    assert (0, 0) == client.counts()


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-delivery-limit": "1"},
        {"x-retry-min": 0},
        {"x-retry-max": -1},
        {"x-retry-min": 2, "x-retry-max": 1},
        {"x-retry-factor": 0.5},
        {"x-retry-jitter": 1.5},
    ],
)
def test_an_argument_that_means_nothing_is_refused(client, arguments):
    assert 406 == closed(client.send(QueueDeclare("q", arguments=arguments)))[0]


def test_a_longest_wait_below_the_first_is_refused_with_both(client):
    arguments = {"x-retry-max": 49, "x-retry-min": 50}

    text = closed(client.send(QueueDeclare("q", arguments=arguments)))[1]

    assert "invalid arg 'x-retry-max' for queue 'q' in vhost '/'" in text
    assert "expected at least 50, which is x-retry-min, got 49" in text


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-retry-min": 50, "x-retry-max": 50},
        {"x-retry-max": 50},
        {"x-retry-factor": 2},
        {"x-fair-key-weights": {"a": 2}},
        {"x-fair-key-limit": 1},
        {"x-deduplication-header": "id"},
        {"x-deduplication-window": 1000},
    ],
)
def test_an_argument_that_a_policy_may_complete_is_accepted(client, arguments):
    client.declare(arguments=arguments)

    client.publish(b"a")

    assert (1, 0) == client.counts()


def test_names_of_what_waits_again_and_again_are_few(client, vhost):
    client.declare(arguments={"x-retry-min": 1000, "x-retry-max": 1000})
    for _ in range(1500):
        client.publish(b"m", message_id="same")
    client.consume()
    entries = 0
    for tag in range(1500, 20 * 1500, 1500):
        client.send(BasicNack(tag, True, True))
        advance(vhost.broker, 1)
        entries = max(entries, vhost.queue("q").extras.identities.count)

    assert entries <= 6 * 1500

"""Priorities: the highest first, in order within each."""

import pytest

from leveret.protocol.methods import BasicGet, BasicNack, BasicReject, QueueDeclare

from ..support.client import closed


@pytest.fixture
def queue(client, vhost):
    client.declare(arguments={"x-max-priority": 3})
    return vhost.queue("q")


def publish(client, *priorities):
    for number, priority in enumerate(priorities):
        client.publish(b"%d" % number, priority=priority)


def drain(client):
    found = []
    while hasattr(answer := client.call(BasicGet("q", True)), "body"):
        found.append(int(answer.body))
    return found


def test_the_highest_comes_first_and_none_is_0(client, queue):
    publish(client, 0, 2, None, 3, 2)

    assert [3, 1, 4, 0, 2] == drain(client)


def test_higher_ones_than_there_are_levels_are_of_the_highest(client, queue):
    publish(client, 3, 200, 3)

    assert [0, 1, 2] == drain(client)


def test_what_comes_back_goes_to_its_old_place_in_its_level(client, queue):
    publish(client, 1, 2, 1, 2)
    for _ in range(3):
        client.call(BasicGet("q"))
    client.send(BasicReject(3, True))
    client.send(BasicNack(2, True, True))

    assert [1, 3, 0, 2] == drain(client)


def test_a_consumer_gets_the_next_by_priority(client, queue):
    publish(client, 0, 1, 2)
    _, first = client.consume(prefetch=1)
    client.publish(b"3", priority=3)
    (second,) = client.ack(first.tag)

    assert [b"2", b"3"] == [first.body, second.body]


def test_counts_are_those_of_all_levels(client, queue):
    publish(client, 0, 1, 2)

    assert (3, 0) == client.counts()
    assert 3 == queue.purge()
    assert (0, 0) == client.counts()
    publish(client, 1, 2)
    assert [1, 0] == drain(client)


def test_0_levels_are_no_levels(client):
    client.declare(arguments={"x-max-priority": 0})
    publish(client, 0, 5, 1)

    assert [0, 1, 2] == drain(client)


@pytest.mark.parametrize("value", [-1, 256, "1", 1.0])
def test_an_argument_that_means_nothing_is_refused(client, value):
    assert 406 == closed(client.send(QueueDeclare("q", arguments={"x-max-priority": value})))[0]


def test_all_256_levels_are_served_in_order(client):
    client.declare(arguments={"x-max-priority": 255})
    publish(client, *range(256))

    assert list(range(255, -1, -1)) == drain(client)


def test_what_is_too_much_goes_where_it_would_be_served_next(client):
    client.declare(arguments={"x-max-priority": 3, "x-max-length": 2})
    publish(client, 1, 0, 2)

    assert 2 == len(drain(client))

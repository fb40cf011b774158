"""basic.get."""

from leveret.protocol.methods import (
    BasicCancel,
    BasicGet,
    BasicGetEmpty,
    BasicGetOk,
    BasicQos,
    BasicReject,
    QueueBind,
)
from leveret.protocol.properties import Properties

from ..support.client import Received, closed

BOTH_STRATEGIES = True


def numbers(*values):
    return [b"%d" % value for value in values]


def test_an_empty_queue_says_so(client):
    client.declare()

    assert BasicGetEmpty() == client.call(BasicGet("q"))


def test_get_hands_out_the_first_message_and_counts_the_rest(client):
    client.declare()
    client.call(QueueBind("q", "amq.topic", "a.*"))
    client.publish(b"1", "a.b", "amq.topic", message_id="m")
    client.publish_many(numbers(2, 3))

    answer = client.call(BasicGet("q"))

    method = BasicGetOk(1, False, "amq.topic", "a.b", 2)
    assert Received(method, b"1", Properties(message_id="m")) == answer


def test_get_and_consume_share_the_tags(client):
    client.declare()
    client.publish_many(numbers(1, 2, 3))
    first = client.call(BasicGet("q"))
    _, second = client.consume(prefetch=1)
    client.call(BasicCancel("c"))
    third = client.call(BasicGet("q"))

    assert [(1, b"1"), (2, b"2"), (3, b"3")] == [
        (item.tag, item.body) for item in (first, second, third)
    ]


def test_what_is_gotten_without_ack_is_gone(client):
    client.declare()
    client.publish(b"1")

    assert b"1" == client.call(BasicGet("q", no_ack=True)).body
    assert 406 == closed(client.ack(1))[0]
    queue = client.broker.vhosts["/"].queue("q")
    assert (0, 0, 0) == (queue.ready_count, queue.unacked_count, queue.bytes)


def test_what_is_gotten_is_held_until_it_is_settled(client):
    client.declare()
    client.publish_many(numbers(1, 2))
    client.call(BasicGet("q"))

    assert (1, 0) == client.counts()
    client.send(BasicReject(1, True))
    answer = client.call(BasicGet("q"))
    assert (b"1", BasicGetOk(2, True, "", "q", 1)) == (answer.body, answer.method)


def test_get_is_not_limited(client):
    client.declare()
    client.publish_many(numbers(1, 2, 3))
    client.call(BasicQos(0, 1))
    client.call(BasicQos(0, 1, True))

    assert numbers(1, 2, 3) == [client.call(BasicGet("q")).body for _ in range(3)]


def test_what_is_gotten_takes_no_room_of_consumers(client):
    client.declare()
    client.publish_many(numbers(1, 2, 3))
    client.call(BasicQos(0, 1, True))
    client.call(BasicGet("q"))
    _, delivery = client.consume()

    assert b"2" == delivery.body
    assert [] == client.ack(1)
    assert numbers(3) == [item.body for item in client.ack(2)]


def test_get_comes_after_consumers_that_have_room(client):
    """The queue deals before it looks (decision 8)."""
    client.declare()
    client.consume()
    client.open_channel(2)
    client.publish_many(numbers(1))

    assert BasicGetEmpty() == client.call(BasicGet("q"), 2)


def test_a_missing_queue_closes_the_channel(client):
    answer = closed(client.send(BasicGet("missing")))

    assert (404, "NOT_FOUND - no queue 'missing' in vhost '/'") == answer


def test_an_exclusive_queue_of_another_connection_closes_the_channel(client, connect):
    client.declare(exclusive=True)

    assert 405 == closed(connect().send(BasicGet("q")))[0]


def test_an_empty_name_means_the_queue_declared_last(client):
    name = client.declare("").queue
    client.publish(b"1", name)

    assert b"1" == client.call(BasicGet("")).body

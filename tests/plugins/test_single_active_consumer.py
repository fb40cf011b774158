"""Single active consumer: one gets everything, the others stand by."""

import pytest

from leveret.protocol.methods import BasicCancel, BasicGet, QueueDeclare

from ..support.client import closed


@pytest.fixture
def queue(client):
    client.declare(arguments={"x-single-active-consumer": True})
    return client


def publish(client, *numbers):
    """Publish on channel 1; return what each consumer tag has got there."""
    return [
        (item.method.consumer_tag, int(item.body))
        for item in client.publish_many([b"%d" % number for number in numbers])
    ]


def test_the_first_gets_everything(queue):
    queue.consume(tag="a")
    queue.consume(tag="b", arguments={"x-priority": 5})

    assert [("a", 1), ("a", 2)] == publish(queue, 1, 2)


def test_nobody_steps_in_where_the_active_one_has_no_room(queue):
    queue.consume(tag="a", prefetch=1)
    queue.consume(tag="b")

    assert [("a", 1)] == publish(queue, 1, 2)
    assert (1, 2) == queue.counts()


def test_the_next_takes_over_at_once_and_what_was_delivered_stays(queue):
    queue.consume(tag="a", prefetch=1)
    queue.consume(tag="b")
    publish(queue, 1, 2)
    answers = queue.send(BasicCancel("a"))

    assert b"2" == answers[-1].body
    assert [] == queue.ack(1), "the one before may still settle"


def test_the_next_is_the_first_of_those_with_the_highest_priority(queue):
    queue.consume(tag="a")
    queue.consume(tag="b")
    queue.consume(tag="c", arguments={"x-priority": 1})
    queue.consume(tag="d", arguments={"x-priority": 1})
    queue.send(BasicCancel("a"))

    assert [("c", 1)] == publish(queue, 1)


def test_a_lost_connection_hands_over_what_it_had(queue, connect):
    other = connect()
    other.consume(tag="a")
    queue.consume(tag="b")
    assert [] == publish(queue, 1)
    other.lose()

    (got,) = queue.take()
    assert (b"1", True) == (got.body, got.method.redelivered)


def test_one_that_stands_by_may_leave(queue):
    queue.consume(tag="a")
    queue.consume(tag="b")
    queue.send(BasicCancel("b"))

    assert [("a", 1)] == publish(queue, 1)


def test_a_message_may_be_fetched_meanwhile(queue):
    publish(queue, 1)

    assert b"1" == queue.call(BasicGet("q")).body


def test_an_argument_that_means_nothing_is_refused(client):
    arguments = {"x-single-active-consumer": "yes"}

    assert 406 == closed(client.send(QueueDeclare("q", arguments=arguments)))[0]

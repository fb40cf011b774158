"""Time to live: of messages and of queues."""

import pytest

from leveret.broker.core import timeline
from leveret.broker.core.message import Message
from leveret.broker.core.policy import PolicyError
from leveret.broker.testing import advance, finish, published
from leveret.protocol.constants import TEN_YEARS_MS
from leveret.protocol.methods import (
    BasicCancel,
    BasicGet,
    BasicGetEmpty,
    BasicNack,
    BasicPublish,
    QueueDeclare,
)
from leveret.protocol.properties import Properties

from ..support.client import closed
from ..support.policies import set_policy


def expiring(body, life=None):
    """Return the octets of a message that is published to the queue `q`."""
    properties = Properties(expiration=None if life is None else str(life))
    return published(body, BasicPublish("", "q"), 1, properties)


def ttl(milliseconds, **others):
    return {"x-message-ttl": milliseconds, **others}


@pytest.mark.parametrize(
    ("of_queue", "of_message", "life"), [(20, 10, 10), (10, 20, 10), (20, None, 20), (None, 7, 7)]
)
def test_the_smaller_time_to_live_counts(client, broker, of_queue, of_message, life):
    client.declare(arguments={} if of_queue is None else ttl(of_queue))
    client.publish(b"a", expiration=None if of_message is None else str(of_message))
    advance(broker, (life - 1) / 1000)

    assert (1, 0) == client.counts()
    advance(broker, 0.001)
    assert (0, 0) == client.counts()


@pytest.mark.parametrize("arguments", [{}, ttl(20)])
def test_each_of_many_that_come_at_once_expires_at_its_own_moment(client, broker, arguments):
    client.declare(arguments=arguments)
    lives = [30, 10, 10, 15, 25]
    client.feed(b"".join(expiring(b"%d" % life, life) for life in lives))
    most = arguments.get("x-message-ttl", 30)

    for life in range(most + 1):
        assert sum(min(each, most) > life for each in lives) == client.counts()[0]
        advance(broker, 0.001)


def test_what_expires_among_others_does_not_take_them_along(client, broker):
    client.declare()
    client.feed(expiring(b"a", 10) + expiring(b"b") + expiring(b"c", 20))
    advance(broker, 0.015)

    assert 2 == client.counts()[0]
    advance(broker, 1)
    assert b"b" == client.call(BasicGet("q", True)).body
    assert (0, 0) == client.counts()


def test_many_that_come_at_once_wait_for_a_commit_before_they_may_expire(client, vhost, broker):
    client.declare()
    client.consume()
    client.publish(b"first", expiration="1000")  # makes it a queue that keeps time
    queue = vhost.queue("q")
    for life in (0, 5000):
        queue.incoming.append(Message.make("", "q", Properties(expiration=str(life)), b"%d" % life))

    commit = broker.batch.committed + 1
    queue.seal(commit)
    queue.touch()
    finish(broker)
    assert [] == client.bodies()
    broker.batch.committed = commit
    queue.touch()
    finish(broker)

    assert [b"0", b"5000"] == client.bodies()


def test_ten_years_are_not_too_long(client, broker):
    client.declare(arguments=ttl(TEN_YEARS_MS))
    client.publish(b"a", expiration=str(TEN_YEARS_MS))
    advance(broker, TEN_YEARS_MS / 1000 - 0.001)

    assert (1, 0) == client.counts()
    advance(broker, 0.001)
    assert (0, 0) == client.counts()


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(timeline, "CHUNK_LENGTH", 16)


@pytest.mark.usefixtures("short_chunks")
def test_deadlines_that_are_over_take_no_room_though_the_queue_is_never_empty(client, broker):
    client.declare(arguments=ttl(100))
    for _ in range(1000):
        client.publish(b"a")
        advance(broker, 0.001)

    assert (99, 0) == client.counts()
    assert broker.vhosts["/"].queues["q"].extras.deadlines.runs < 300


@pytest.mark.usefixtures("short_chunks")
def test_what_comes_back_long_after_its_deadline_is_dropped(client, broker):
    client.declare(arguments=ttl(100))
    client.publish(b"a")
    client.consume(prefetch=1)
    for _ in range(1000):
        client.publish(b"b")
        advance(broker, 0.001)

    client.send(BasicCancel("c"), BasicNack(1, requeue=True))

    assert (99, 0) == client.counts()


def test_with_a_time_to_live_of_0_only_who_is_there_gets_a_message(client):
    client.declare(arguments=ttl(0))
    client.publish(b"a")
    client.consume(prefetch=1)

    assert [b"b"] == [item.body for item in client.publish_many([b"b", b"c"])]
    assert (0, 1) == client.counts()


@pytest.mark.parametrize("value", [-1, TEN_YEARS_MS + 1, "5", 1.5, True])
@pytest.mark.parametrize("argument", ["x-message-ttl", "x-expires"])
def test_an_argument_that_means_nothing_is_refused(client, argument, value):
    answers = client.send(QueueDeclare("q", arguments={argument: value}))

    assert 406 == closed(answers)[0]


def test_a_queue_cannot_expire_at_once(client):
    assert 406 == closed(client.send(QueueDeclare("q", arguments={"x-expires": 0})))[0]


@pytest.mark.parametrize("definition", [{"message-ttl": -1}, {"expires": 0}, {"expires": "1"}])
def test_a_policy_that_means_nothing_is_refused(vhost, definition):
    with pytest.raises(PolicyError):
        set_policy(vhost, definition)


def test_the_smaller_of_argument_and_policy_counts(client, vhost, broker):
    client.declare(arguments=ttl(20))
    set_policy(vhost, {"message-ttl": 10})
    client.publish(b"a")
    advance(broker, 0.01)

    assert BasicGetEmpty() == client.call(BasicGet("q"))


@pytest.mark.parametrize("use", ["declare", "get", "consume"])
def test_a_queue_expires_once_it_has_not_been_used_for_its_time(client, vhost, broker, use):
    arguments = {"x-expires": 100}
    client.declare(arguments=arguments)
    advance(broker, 0.06)
    if use == "declare":
        client.declare(arguments=arguments)
    elif use == "get":
        client.call(BasicGet("q"))
    else:
        client.consume()
        advance(broker, 10)
        client.call(BasicCancel("c"))
    advance(broker, 0.099)

    assert "q" in vhost.queues
    advance(broker, 0.001)
    assert "q" not in vhost.queues


def test_publishing_does_not_use_a_queue(client, vhost, broker):
    client.declare(arguments={"x-expires": 100})
    advance(broker, 0.06)
    client.publish(b"a")
    advance(broker, 0.04)

    assert "q" not in vhost.queues


def test_messages_of_a_queue_that_expires_are_no_dead_letters(client, broker):
    client.declare("dlq")
    client.declare(
        arguments={
            "x-expires": 100,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "dlq",
        }
    )
    client.publish(b"a")
    advance(broker, 0.1)

    assert (0, 0) == client.counts("dlq")


def test_a_policy_that_ends_lets_a_queue_live(client, vhost, broker):
    client.declare()
    set_policy(vhost, {"expires": 100})
    advance(broker, 0.05)
    set_policy(vhost, None)
    advance(broker, 10)

    assert "q" in vhost.queues

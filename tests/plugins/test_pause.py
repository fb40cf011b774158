"""Pause: a queue that delivers nothing, or takes nothing, until somebody says so, or in time."""

import pytest

from leveret.broker import plugins
from leveret.broker.core.queue import Queue
from leveret.broker.core.resources import Request
from leveret.broker.plugins import redrive
from leveret.broker.plugins.passage import Target
from leveret.broker.plugins.pause import (
    list_pauses,
    pause,
    pause_queue,
    paused,
    pauses,
    resume,
    resume_queue,
    show_pause,
)
from leveret.broker.plugins.redrive_plan import Plan
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.testing import Embedded, finish
from leveret.protocol.constants import TEN_YEARS_MS
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicGet,
    BasicNack,
    QueueBind,
    QueueDeclare,
)

from ..support.durable import durable, pass_time


@pytest.fixture
def embedded():
    with Embedded() as made:
        yield made


@pytest.fixture
def client(embedded):
    made = embedded.connect()
    made.call(QueueDeclare("q"))
    return made


@pytest.fixture
def queue(embedded, client):
    return embedded.vhost.queue("q")


def put(embedded, *bodies, **properties):
    return [embedded.publish("", "q", body, **properties) for body in bodies]


def consume(client, tag="c", **options):
    return client.send(BasicConsume("q", tag, **options))[1:]


def bodies(items):
    return [item.body for item in items]


# Delivery


def test_a_paused_queue_delivers_nothing_and_takes_all(embedded, client, queue):
    put(embedded, b"0")
    pause(queue)

    assert [True] == put(embedded, b"1")
    assert [] == consume(client)
    assert embedded.get("q") is None
    assert 2 == queue.ready_count


def test_consumers_get_what_has_waited_in_order_when_it_goes_on(embedded, client, queue):
    consume(client)
    pause(queue)
    put(embedded, b"0", b"1")
    assert [] == client.take()

    assert resume(queue)
    finish(embedded.broker)

    assert [b"0", b"1"] == bodies(client.take())
    assert not resume(queue)


def test_what_is_out_is_settled_and_comes_back(embedded, client, queue):
    put(embedded, b"0", b"1")
    tags = [client.call(BasicGet("q")).tag for _ in range(2)]
    pause(queue)

    client.send(BasicAck(tags[0]), BasicNack(tags[1], requeue=True))

    assert (1, 0) == (queue.ready_count, queue.unacked_count)
    assert embedded.get("q") is None


def test_what_came_back_before_is_held_too(embedded, client, queue):
    put(embedded, b"0")
    client.send(BasicNack(client.call(BasicGet("q")).tag, requeue=True))
    pause(queue)

    assert embedded.get("q") is None
    assert [] == consume(client)
    assert 1 == queue.ready_count


def test_what_comes_back_before_and_meanwhile_is_delivered_in_order(embedded, client, queue):
    put(embedded, b"0", b"1", b"2", b"3")
    tags = [client.call(BasicGet("q")).tag for _ in range(3)]
    client.send(BasicNack(tags[1], requeue=True), BasicNack(tags[2], requeue=True))
    pause(queue)
    client.send(BasicNack(tags[0], requeue=True))
    resume(queue)
    finish(embedded.broker)

    found = consume(client)

    assert [(b"0", True), (b"1", True), (b"2", True), (b"3", False)] == [
        (each.body, each.method.redelivered) for each in found
    ]


def test_messages_expire_while_it_is_paused(embedded, queue):
    pause(queue)
    put(embedded, b"0", expiration="100")

    embedded.advance(0.2)

    assert 0 == queue.ready_count


def test_a_queue_that_goes_on_is_a_plain_one_again(embedded, queue):
    pause(queue)
    put(embedded, b"0")
    resume(queue)

    assert (Queue, None) == (type(queue), queue.extras)
    assert b"0" == embedded.get("q").body


@pytest.mark.parametrize("arguments", [{"x-max-priority": 3}, {"x-max-length": 5}])
def test_queues_with_hooks_are_paused(embedded, client, arguments):
    client.call(QueueDeclare("deep", arguments=arguments))
    queue = embedded.vhost.queue("deep")
    pause(queue)
    embedded.publish("", "deep", b"0")

    assert embedded.get("deep") is None
    resume(queue)
    assert b"0" == embedded.get("deep").body


# Publishing


def test_publishers_are_refused_also_on_a_way_that_is_known(embedded, queue):
    assert [True] == put(embedded, b"0")
    pause(queue, delivery=False, publishing=True)

    assert [False, False] == put(embedded, b"1", b"2")
    assert 2 == paused(queue).refused
    assert b"0" == embedded.get("q").body
    resume(queue)
    assert [True] == put(embedded, b"3")


def test_both_are_paused(embedded, queue):
    put(embedded, b"0")
    pause(queue, publishing=True)

    assert ([False], None) == (put(embedded, b"1"), embedded.get("q"))


def test_what_is_paused_may_change(embedded, queue):
    pause(queue, delivery=False, publishing=True)
    pause(queue)
    assert ([True], None) == (put(embedded, b"0"), embedded.get("q"))

    pause(queue, delivery=False, publishing=True)
    assert ([False], b"0") == (put(embedded, b"1"), embedded.get("q").body)


def test_what_the_broker_itself_sends_is_not_lost(embedded, client, queue):
    """Nobody would send it again: a dead letter, a message whose delay is over."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    client.call(QueueDeclare("work", arguments=arguments))
    embedded.vhost.declare_exchange(
        "later", "x-delayed-message", arguments={"x-delayed-type": "fanout"}
    )
    client.call(QueueBind("q", "later", ""))
    embedded.publish("later", "", b"delayed", headers={"x-delay": 10})
    embedded.publish("", "work", b"dead", expiration="10")
    pause(queue, delivery=False, publishing=True)

    embedded.advance(1)

    assert {b"delayed", b"dead"} == {embedded.get("q").body for _ in range(2)}


def test_what_is_redriven_to_it_stays_where_it_is(embedded, client, queue):
    client.call(QueueDeclare("dlq"))
    embedded.publish("", "dlq", b"0")
    pause(queue, delivery=False, publishing=True)
    dlq = embedded.vhost.queue("dlq")

    redrive.start(dlq, Plan(Target(queue="q")))
    embedded.advance(1)

    assert (1, 1) == (redrive.look(dlq).refused, dlq.ready_count)


# Reason, end, change


def test_it_can_be_seen_who_paused_it_why_and_since_when(embedded, queue):
    wall = embedded.broker.wall
    made = pause(queue, reason="the database moves", user="guest")
    embedded.advance(5)

    changed = pause(queue, publishing=True, reason="still", until=embedded.broker.wall + 1000)

    assert ("the database moves", "guest", wall, None) == (
        made.reason,
        made.user,
        made.since,
        made.until,
    )
    assert [changed] == pauses(embedded.broker)
    assert (True, True, "still", wall, wall + 6000) == (
        changed.delivery,
        changed.publishing,
        changed.reason,
        changed.since,
        changed.until,
    )


def test_it_is_over_at_its_end_and_not_before(embedded, client, queue):
    consume(client, no_ack=True)
    pause(queue, until=embedded.broker.wall + 5000)
    put(embedded, b"0")

    embedded.advance(4.999)
    assert [] == client.take()
    embedded.advance(0.001)

    assert [b"0"] == bodies(client.take())
    assert [] == pauses(embedded.broker)


def test_an_end_is_that_of_the_wall_clock(embedded, queue):
    pause(queue, until=embedded.broker.wall + 1000)
    embedded.broker.wall_offset -= 500  # it was set back

    embedded.advance(1)
    assert paused(queue) is not None
    embedded.advance(0.5)
    assert paused(queue) is None


def test_a_later_pause_replaces_the_end(embedded, queue):
    pause(queue, until=embedded.broker.wall + 1000)
    pause(queue)

    embedded.advance(60)

    assert paused(queue).until is None


def test_a_pause_goes_with_its_queue(embedded, client, queue):
    pause(queue, until=embedded.broker.wall + 1000)
    embedded.vhost.delete_queue(queue)
    client.call(QueueDeclare("q"))
    embedded.advance(5)

    assert [] == pauses(embedded.broker)
    assert [True] == put(embedded, b"0")


def test_what_happens_is_told(embedded, queue):
    told = []
    for name in ("queue.paused", "queue.resumed"):
        embedded.broker.events.subscribe(
            name, lambda name=name, **fields: told.append((name, fields["queue"]))
        )

    pause(queue, until=embedded.broker.wall + 1000)
    embedded.advance(2)

    assert [("queue.paused", queue), ("queue.resumed", queue)] == told


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"delivery": False}, "queue 'q' in vhost '/': delivery, publishing or both"),
        ({"until": 5}, "queue 'q' in vhost '/': until is 5, it must be from"),
        ({"until": 1 << 62}, "until is"),
    ],
)
def test_a_pause_without_sense_is_refused(queue, options, problem):
    with pytest.raises(ValueError, match=problem):
        pause(queue, **options)
    assert paused(queue) is None


# Restarts


@pytest.mark.parametrize(
    ("seconds", "is_over"), [(0.5, False), (2, True)], ids=["before its end", "after it"]
)
async def test_a_pause_survives_a_restart(mock_clock, seconds, is_over):
    registry = plugins.load(are_others_wanted=False)
    store = MemoryStore()
    async with durable(store, registry=registry) as kept:
        client = kept.connect()
        client.send(QueueDeclare("q", durable=True))
        client.publish(b"0", delivery_mode=2)
        queue = kept.broker.vhosts["/"].queue("q")
        made = pause(queue, publishing=True, reason="why", until=kept.broker.wall + 1000)
        await kept.persistence.flush()
        await kept.stop()

    async with durable(store, registry=registry) as kept:
        queue = kept.broker.vhosts["/"].queue("q")
        kept.broker.wall_offset = made.since - kept.broker.now
        assert made == paused(queue)
        await pass_time(seconds)
        await kept.settle()
        client = kept.connect()
        answers = client.consume("q", no_ack=True)[1:]
        await kept.settle()

        assert is_over is (paused(queue) is None)
        assert ([b"0"] if is_over else []) == bodies([*answers, *client.take()])


# Resources


def ask(embedded, handler, body=None, user="guest"):
    request = Request("", "", {"vhost": "/", "name": "q"}, {}, body, user)
    answer = handler(request, embedded.broker)
    return answer.status, answer.body


def test_a_request_pauses_shows_and_resumes(embedded, queue):
    assert 404 == ask(embedded, show_pause)[0]

    status, body = ask(embedded, pause_queue, {"reason": "why"})

    assert (200, True, False, "guest") == (
        status,
        body["delivery"],
        body["publishing"],
        body["user"],
    )
    assert body == ask(embedded, show_pause)[1]
    assert [body] == ask(embedded, list_pauses)[1]
    assert (200, {"was_paused": True}) == ask(embedded, resume_queue)
    assert (200, {"was_paused": False}) == ask(embedded, resume_queue)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"delivery": "no"}, "field 'delivery' is \"no\", it must be true or false"),
        ({"delivery": False}, "field 'delivery' is false"),
        ({"until": 5}, "field 'until' is 5, it must be an integer from"),
        ({"until": 2 * TEN_YEARS_MS}, "field 'until' is"),
        ({"reason": "x" * 1001}, "at most 1000 characters"),
        ({"any": 1}, "field 'any' is 1"),
    ],
)
def test_a_bad_request_is_told_what(embedded, queue, body, reason):
    answer = ask(embedded, pause_queue, body)

    assert 400 == answer[0]
    assert reason in answer[1]["reason"]
    assert paused(queue) is None


def test_only_who_may_configure_a_queue_pauses_it(embedded, queue):
    embedded.broker.users.add("some", "x", ("management",))
    pause(queue)

    for handler in (pause_queue, resume_queue, show_pause):
        assert 403 == ask(embedded, handler, user="some")[0]
    assert [] == ask(embedded, list_pauses, user="some")[1]
    assert paused(queue) is not None

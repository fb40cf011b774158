"""Celery's tasks in virtual time: when they are ready, when they are gone, what revokes them."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from leveret.broker.core.policy import Policy
from leveret.broker.core.users import Permissions
from leveret.broker.plugins.celery_eta import Revocation
from leveret.broker.testing import Embedded, finish, published
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.methods import (
    BasicConsume,
    BasicNack,
    BasicPublish,
    QueueDeclare,
    TxCommit,
    TxSelect,
)
from leveret.protocol.properties import Properties

CELERY = {"x-celery": True}
CONSUME = BasicConsume("tasks", "c")
DYING = {**CELERY, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "plain"}
JSON = Properties(content_type="application/json")
TOPOLOGY = {
    "exchanges": {"celery.pidbox": "fanout", "jobs": "topic", "inbox": "fanout"},
    "queues": {
        "tasks": {"arguments": CELERY},
        "more": {"arguments": CELERY | {"x-queue-type": "quorum"}},
        "plain": {},
        "worker.pidbox": {},
    },
    "bindings": ["celery.pidbox -> worker.pidbox", "jobs -> tasks: task.#"],
}


@pytest.fixture
def broker():
    with Embedded(TOPOLOGY) as made:
        yield made


def at(broker: Embedded, seconds: float) -> str:
    """Return a time so many seconds from now, as Celery writes it."""
    moment = datetime.fromtimestamp(broker.broker.wall / 1000, UTC) + timedelta(seconds=seconds)
    return moment.isoformat()


def times(broker: Embedded, eta: float | None, expires: float | None) -> dict[str, str | None]:
    return {
        "eta": None if eta is None else at(broker, eta),
        "expires": None if expires is None else at(broker, expires),
    }


def task(
    broker: Embedded,
    name: str,
    eta: float | None = None,
    expires: float | None = None,
    queue: str = "tasks",
    exchange: str = "",
    **properties,
) -> None:
    """Publish a task of protocol 2, whose id is its body as well."""
    headers = {"lang": "py", "task": "shop.mail", "id": name, **times(broker, eta, expires)}
    headers |= properties.pop("headers", {})
    assert broker.publish(exchange, queue, name.encode(), headers=headers, **properties)


def old_task(broker: Embedded, name: str, eta: float | None, expires: float | None) -> None:
    """Publish a task of protocol 1."""
    fields = {"task": "shop.mail", "id": name, "args": [], "kwargs": {}}
    body = json.dumps(fields | times(broker, eta, expires)).encode()
    assert broker.publish("", "tasks", body, content_type="application/json", headers={})


def revocation(ids: object) -> bytes:
    content = {"method": "revoke", "arguments": {"task_id": ids, "terminate": False}}
    return json.dumps(content | {"destination": None, "pattern": None, "matcher": None}).encode()


def revoke(broker: Embedded, *ids: str, exchange: str = "celery.pidbox") -> None:
    body = revocation(list(ids))
    assert broker.publish(exchange, "", body, content_type="application/json")


def bodies(broker: Embedded, queue: str = "tasks") -> list[bytes]:
    """Take all that is ready."""
    found = []
    while (message := broker.get(queue)) is not None:
        found.append(message.body)
    return found


def waiting(broker: Embedded, queue: str = "tasks") -> int:
    return broker.vhost.queues[queue].waiting_count


# Waiting


def test_task_is_ready_from_its_eta_on_and_not_before(broker):
    task(broker, "a", eta=60)

    broker.advance(59.999)
    assert [] == bodies(broker)
    broker.advance(0.001)
    assert [b"a"] == bodies(broker)


def jump(broker: Embedded, seconds: float) -> None:
    """Have the wall clock jump, while no time passes."""
    broker.broker.wall_offset += int(seconds * 1000)
    broker.broker.events.emit("clock.jumped", difference=int(seconds * 1000))
    while broker.broker.batch.returns:
        broker.broker.batch.resume()
    broker.advance(0)


def ready(broker: Embedded) -> int:
    return broker.vhost.queues["tasks"].ready_count


@pytest.mark.parametrize("seconds", [-20, 20])
def test_expires_follows_the_wall_clock_when_that_jumps(broker, seconds):
    task(broker, "a", expires=60)
    task(broker, "b")
    jump(broker, seconds)
    broker.advance(59.999 - seconds)

    assert 2 == ready(broker)
    broker.advance(0.001)
    assert [b"b"] == bodies(broker)


def test_expires_is_over_at_once_when_the_wall_clock_jumps_over_it(broker):
    broker.advance(10)
    task(broker, "a", expires=60)
    jump(broker, 61)

    assert [] == bodies(broker)


def test_an_earlier_expiration_does_not_follow_the_wall_clock(broker):
    task(broker, "a", expires=60, expiration="30000")
    jump(broker, -20)
    broker.advance(29.999)

    assert 1 == ready(broker)
    broker.advance(0.001)
    assert 0 == ready(broker)


@pytest.mark.parametrize("moment_s", [0, 30, 50])
def test_expires_stays_where_it_is_when_a_task_is_to_wait_until_another_moment(broker, moment_s):
    task(broker, "a", eta=40, expires=60)
    queue = broker.vhost.queues["tasks"]
    queue.reschedule([0], broker.broker.now + moment_s * 1000)
    broker.advance(59.999)

    assert 1 == ready(broker)
    broker.advance(0.001)
    assert 0 == ready(broker)


def test_task_of_protocol_1_waits_as_well(broker):
    old_task(broker, "a", 60, None)
    old_task(broker, "b", None, None)

    [ready] = bodies(broker)
    assert "b" == json.loads(ready)["id"]
    broker.advance(60)
    [due] = bodies(broker)
    assert "a" == json.loads(due)["id"]


def test_tasks_without_a_time_pass_those_that_wait(broker):
    consumer = broker.connect()
    consumer.send(CONSUME)
    for number in range(3):
        task(broker, f"later {number}", eta=60)
    task(broker, "now")

    assert [b"now"] == [received.body for received in consumer.take()]
    assert 3 == waiting(broker)


def test_tasks_become_ready_in_the_order_of_their_times(broker):
    consumer = broker.connect()
    consumer.send(CONSUME)
    for seconds in (30, 10, 20):
        task(broker, f"{seconds}", eta=seconds)

    broker.advance(60)

    assert [b"10", b"20", b"30"] == [received.body for received in consumer.take()]


@pytest.mark.parametrize("eta", [0, -1, -3600 * 24 * 365])
def test_task_that_is_due_already_is_ready_at_once(broker, eta):
    broker.advance(1)

    task(broker, "a", eta=eta)

    assert [b"a"] == bodies(broker)


def test_eta_far_away_waits(broker):
    headers = {"task": "t", "id": "a", "eta": "9999-12-31T23:59:59Z"}
    broker.publish("", "tasks", b"a", headers=headers)

    broker.advance(3600 * 24 * 365 * 100)

    assert 1 == waiting(broker)


def test_task_comes_through_any_exchange(broker):
    task(broker, "a", eta=60, exchange="jobs", queue="task.mail")

    assert [] == bodies(broker)
    broker.advance(60)
    assert [b"a"] == bodies(broker)


def test_task_waits_only_in_queues_that_ask_for_it(broker):
    task(broker, "a", eta=60, queue="plain")

    assert [b"a"] == bodies(broker, "plain")


def test_same_id_with_a_new_time_waits_by_itself_as_a_retry_does(broker):
    task(broker, "a", eta=10)
    broker.advance(10)
    assert [b"a"] == bodies(broker)

    task(broker, "a", eta=10)

    broker.advance(9)
    assert [] == bodies(broker)
    broker.advance(1)
    assert [b"a"] == bodies(broker)


def test_task_that_is_returned_after_its_time_is_ready_at_once(broker):
    task(broker, "a", eta=10)
    consumer = broker.connect()
    consumer.send(CONSUME)
    broker.advance(10)
    [received] = consumer.take()

    consumer.lose()

    assert [b"a"] == bodies(broker)
    assert not received.method.redelivered


def test_task_of_a_transaction_waits(broker):
    client = broker.connect()
    client.call(TxSelect())
    headers = {"task": "t", "id": "a", **times(broker, 60, None)}
    method = BasicPublish("", "tasks")
    client.feed(published(b"a", method, properties=Properties(headers=headers)))
    client.call(TxCommit())

    assert 1 == waiting(broker)
    broker.advance(60)
    assert [b"a"] == bodies(broker)


def test_message_that_is_no_task_is_served_as_ever(broker):
    eta = at(broker, 60)
    broker.publish("", "tasks", b"1", headers={"eta": eta})
    broker.publish("", "tasks", b"2", headers={"task": "t", "id": "a", "eta": "soon"})
    broker.publish("", "tasks", b'{"task": "t", "id": "a", "eta": "%b"}' % eta.encode())

    assert 3 == len(bodies(broker))


# Expiring


def test_task_expires_at_its_time_wherever_it_is(broker):
    task(broker, "first")
    task(broker, "ready", expires=20)
    task(broker, "waiting", eta=60, expires=30)
    task(broker, "last", expires=90)

    queue = broker.vhost.queues["tasks"]
    broker.advance(19.999)
    assert (3, 1) == (queue.ready_count, queue.waiting_count)
    broker.advance(0.001)
    assert (2, 1) == (queue.ready_count, queue.waiting_count)
    broker.advance(10)
    assert (2, 0) == (queue.ready_count, queue.waiting_count)
    broker.advance(50)
    assert [b"first", b"last"] == bodies(broker)


def test_task_that_expires_with_its_eta_is_not_delivered(broker):
    consumer = broker.connect()
    consumer.send(CONSUME)
    task(broker, "a", eta=60, expires=60)

    broker.advance(60)

    assert [] == consumer.take()
    assert 0 == waiting(broker)


@pytest.mark.parametrize("eta", [None, -10, 10])
@pytest.mark.parametrize("ago", [0.0, 1.0, 3600.0 * 24 * 365 * 60])
def test_task_that_has_expired_already_is_delivered_to_nobody(broker, eta, ago):
    broker.advance(100)
    consumer = broker.connect()
    consumer.send(CONSUME)

    task(broker, "a", eta=eta, expires=-ago)
    task(broker, "b")

    assert [b"b"] == [received.body for received in consumer.take()]
    assert (0, 0) == (waiting(broker), broker.vhost.queues["tasks"].ready_count)


def test_expired_task_is_a_dead_letter(broker):
    broker.connect().call(QueueDeclare("dying", arguments=DYING))
    task(broker, "a", eta=60, expires=30, queue="dying")

    broker.advance(30)

    dead = broker.get("plain")
    assert b"a" == dead.body
    assert "expired" == dead.properties.headers["x-death"][0]["reason"]


@pytest.mark.parametrize(
    ("eta", "expires", "expiration", "ttl", "life"),
    [
        (None, 20, "20000", None, 20),
        (None, 20, "10000", None, 10),
        (None, 10, "20000", None, 10),
        (None, None, "10000", None, 10),
        (None, 20, None, 10_000, 10),
        (None, 10, None, 20_000, 10),
        (None, 30, "20000", 10_000, 10),
        (5, 10, "10000", None, 10),  # the property counts from the eta on, to 15
        (5, None, "10000", None, 15),
        (5, 30, None, 10_000, 15),
    ],
)
def test_earlier_of_several_ends_counts(broker, eta, expires, expiration, ttl, life):
    arguments = CELERY if ttl is None else CELERY | {"x-message-ttl": ttl}
    broker.connect().call(QueueDeclare("q", arguments=arguments))
    queue = broker.vhost.queues["q"]
    task(broker, "a", eta, expires, queue="q", expiration=expiration)
    task(broker, "b", eta, expires, queue="q", expiration=expiration)

    broker.advance(life - 0.001)
    assert 2 == queue.ready_count + queue.waiting_count
    broker.advance(0.001)
    assert 0 == queue.ready_count + queue.waiting_count


def test_task_keeps_its_end_when_it_comes_back(broker):
    task(broker, "a", expires=20, expiration="40000")
    consumer = broker.connect()
    [_, received] = consumer.send(CONSUME)
    broker.advance(10)
    consumer.send(BasicNack(received.tag, requeue=True))
    consumer.lose()

    broker.advance(10)

    assert [] == bodies(broker)


def test_longer_delay_of_eta_and_queue_counts(broker):
    delayed = CELERY | {"x-message-delay": 20_000}
    broker.connect().call(QueueDeclare("q", arguments=delayed))
    task(broker, "short", eta=10, queue="q")
    task(broker, "long", eta=30, queue="q")

    broker.advance(19.999)
    assert [] == bodies(broker, "q")
    broker.advance(0.001)
    assert [b"short"] == bodies(broker, "q")
    broker.advance(10)
    assert [b"long"] == bodies(broker, "q")


# Revoking


def test_revoked_task_is_gone_and_the_others_are_not(broker):
    for name in "abcd":
        task(broker, name, eta=60)

    revoke(broker, "a", "c")

    assert 2 == waiting(broker)
    broker.advance(60)
    assert [b"b", b"d"] == bodies(broker)


def test_revoked_task_of_protocol_1_is_gone(broker):
    old_task(broker, "a", 60, None)

    revoke(broker, "a")

    assert 0 == waiting(broker)


def test_revocation_goes_on_to_the_workers(broker):
    revoke(broker, "a")

    assert [revocation(["a"])] == bodies(broker, "worker.pidbox")


def test_revocation_counts_in_all_celery_queues_of_the_virtual_host(broker):
    for queue in ("tasks", "more"):
        task(broker, "a", eta=60, queue=queue)

    revoke(broker, "a")

    assert (0, 0) == (waiting(broker), waiting(broker, "more"))


def test_revocation_counts_in_no_other_virtual_host(broker):
    task(broker, "a", eta=60)
    other = broker.broker.add_vhost("other")
    other.declare_exchange("celery.pidbox", "fanout")
    broker.broker.users.set_permissions("guest", "other", Permissions(".*", ".*", ".*"))
    method = BasicPublish("celery.pidbox", "")

    client = broker.connect(vhost="other")
    client.feed(published(revocation("a"), method, properties=JSON))

    assert 1 == waiting(broker)


def test_revocation_leaves_what_is_ready_to_the_workers(broker):
    task(broker, "a", eta=60)
    broker.advance(60)

    revoke(broker, "a")

    assert [b"a"] == bodies(broker)


def test_revocation_cancels_every_task_of_that_id(broker):
    for seconds in (10, 20, 30):
        task(broker, "a", eta=seconds)

    revoke(broker, "a")

    assert 0 == waiting(broker)


def test_revocation_counts_for_what_came_just_before_it(broker):
    client = broker.connect()
    headers = {"task": "t", "id": "a", **times(broker, 60, None)}
    data = published(b"a", BasicPublish("", "tasks"), properties=Properties(headers=headers))
    data += published(revocation("a"), BasicPublish("celery.pidbox", ""), properties=JSON)

    client.feed(data)

    assert 0 == waiting(broker)


def test_revocation_counts_for_what_comes_back_later(broker):
    arguments = CELERY | {"x-retry-min": 60_000}
    broker.connect().call(QueueDeclare("q", arguments=arguments))
    task(broker, "a", queue="q")
    consumer = broker.connect()
    [_, received] = consumer.send(BasicConsume("q", "c"))
    consumer.send(BasicNack(received.tag, requeue=True))
    assert 1 == waiting(broker, "q")

    revoke(broker, "a")

    assert 0 == waiting(broker, "q")


def test_revoked_task_is_no_dead_letter(broker):
    broker.connect().call(QueueDeclare("dying", arguments=DYING))
    task(broker, "a", eta=60, queue="dying")

    revoke(broker, "a")

    assert [] == bodies(broker, "plain")


def test_revocation_of_nothing_here_does_nothing(broker):
    task(broker, "a", eta=60)

    revoke(broker, "b")
    revoke(broker)
    broker.publish("celery.pidbox", "", b"no command")

    assert 1 == waiting(broker)


def test_only_broadcasts_of_remote_control_are_looked_at(broker):
    task(broker, "a", eta=60)

    revoke(broker, "a", exchange="inbox")

    assert 1 == waiting(broker)
    assert [] == list(broker.vhost.exchanges["inbox"].hooks.values())
    [hook] = broker.vhost.exchanges["celery.pidbox"].hooks.values()
    assert isinstance(hook, Revocation)


def test_exchange_for_replies_is_not_looked_at(broker):
    broker.vhost.declare_exchange("reply.celery.pidbox", "direct")

    assert {} == broker.vhost.exchanges["reply.celery.pidbox"].hooks


# Asking for it


def test_queue_that_does_not_ask_is_a_plain_one(broker):
    assert broker.vhost.queues["plain"].extras is None


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_argument_that_is_no_boolean_is_refused(broker, value):
    answers = broker.connect().send(QueueDeclare("q", arguments={"x-celery": value}))

    [closed] = answers
    assert PreconditionFailed.code == closed.reply_code
    assert "x-celery" in closed.reply_text


def test_policy_stands_for_the_argument_on_live_queues(broker):
    set_policy(broker, {"celery": True})
    task(broker, "a", eta=60, queue="plain")
    assert 1 == waiting(broker, "plain")

    broker.vhost.policies.delete("celery")
    broker.vhost.apply_policies()
    task(broker, "b", eta=60, queue="plain")

    assert [b"b"] == bodies(broker, "plain")
    broker.advance(60)
    assert [b"a"] == bodies(broker, "plain")


def test_argument_wins_over_the_policy(broker):
    broker.connect().call(QueueDeclare("plain too", arguments={"x-celery": False}))
    set_policy(broker, {"celery": True})

    task(broker, "a", eta=60, queue="plain too")

    assert [b"a"] == bodies(broker, "plain too")


def set_policy(broker: Embedded, definition: dict[str, object]) -> None:
    broker.vhost.policies.put(Policy("celery", "^plain", definition, "queues"))
    broker.vhost.apply_policies()
    finish(broker.broker)


@pytest.mark.parametrize("jump", [-5000, 5000])
def test_task_lives_as_long_after_its_time_when_the_wall_clock_jumps(broker, jump):
    task(broker, "a", eta=10, expiration="1000")

    broker.broker.wall_offset += jump
    broker.broker.events.emit("clock.jumped", difference=jump)
    finish(broker.broker)

    broker.advance((10_000 - jump - 1) / 1000)
    assert 1 == waiting(broker)
    broker.advance(1)
    assert (0, 1) == (waiting(broker), broker.vhost.queues["tasks"].ready_count)
    broker.advance(0.001)
    assert [] == bodies(broker)

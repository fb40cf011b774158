"""Redrive: dead letters go back where they came from, step by step, and none is lost or doubled."""

import pytest

from leveret.broker import plugins
from leveret.broker.core.resources import Request
from leveret.broker.core.users import Permissions
from leveret.broker.plugins import redrive
from leveret.broker.plugins.passage import Target
from leveret.broker.plugins.redrive import State, redrives, resume, start, stop
from leveret.broker.plugins.redrive_plan import DeathFilter, Plan, dry_run
from leveret.broker.plugins.redrive_resources import (
    list_redrives,
    resume_redrive,
    show_redrive,
    start_redrive,
    stop_redrive,
)
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.testing import Embedded
from leveret.protocol.errors import NotFound
from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicReject,
    QueueBind,
    QueueDeclare,
)

from ..support.durable import durable, pass_time

COUNT = 10
TO_DLQ = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dlq"}


@pytest.fixture
def embedded():
    with Embedded() as made:
        yield made


@pytest.fixture
def client(embedded):
    made = embedded.connect()
    made.call(QueueDeclare("dlq"))
    made.call(QueueDeclare("work", arguments=TO_DLQ))
    return made


@pytest.fixture
def dlq(embedded, client):
    return embedded.vhost.queue("dlq")


@pytest.fixture
def die(embedded, client):
    """Publish messages to the queue work, whose only consumer rejects them."""

    def rejected(*bodies, exchange="", key="work", **properties):
        for body in bodies:
            embedded.publish(exchange, key, body, **properties)
            answer = client.call(BasicGet("work"))
            client.send(BasicReject(answer.tag, False))

    return rejected


def drain(embedded, name):
    found = []
    while (received := embedded.get(name)) is not None:
        found.append(received)
    return found


def bodies(embedded, name):
    return [received.body for received in drain(embedded, name)]


def run(embedded, queue, plan=None, seconds=1.0):
    """Redrive, and return how it stands some time later."""
    start(queue, Plan() if plan is None else plan)
    embedded.advance(seconds)
    return redrive.look(queue)


# Where they go


def test_dead_letters_go_back_to_their_queue_in_order(embedded, dlq, die):
    die(*(b"%d" % number for number in range(COUNT)))

    made = run(embedded, dlq)

    assert (State.FINISHED, COUNT, 0) == (made.state, made.moved, dlq.ready_count)
    assert [b"%d" % number for number in range(COUNT)] == bodies(embedded, "work")


def test_they_pass_their_exchange_again_with_all_their_keys(embedded, client, dlq, die):
    embedded.vhost.declare_exchange("topics", "topic")
    client.call(QueueDeclare("copies"))
    client.call(QueueBind("work", "topics", "a.*"))
    client.call(QueueBind("copies", "topics", "c.*"))
    die(b"one", exchange="topics", key="a.b", headers={"CC": ["c.d"], "mine": 1})
    drain(embedded, "copies")

    run(embedded, dlq)

    [again] = drain(embedded, "work")
    assert ("topics", "a.b") == (again.method.exchange, again.method.routing_key)
    assert (1, ["c.d"]) == (again.properties.headers["mine"], again.properties.headers["CC"])
    assert [b"one"] == bodies(embedded, "copies")


def test_an_expired_message_does_not_expire_once_more(embedded, dlq):
    embedded.publish("", "work", b"late", expiration="10")
    embedded.advance(1)

    run(embedded, dlq, seconds=60)

    [again] = drain(embedded, "work")
    assert again.properties.expiration is None


def test_deaths_stay_known_so_that_each_further_one_is_counted(embedded, client, dlq, die):
    die(b"poison")
    for _ in range(2):
        run(embedded, dlq)
        client.send(BasicReject(client.call(BasicGet("work")).tag, False))

    [death] = embedded.get("dlq").properties.headers["x-death"]
    assert (3, "work", "rejected") == (death["count"], death["queue"], death["reason"])


def test_deaths_are_forgotten_on_request(embedded, client, dlq, die):
    die(b"fresh", headers={"mine": 1})

    run(embedded, dlq, Plan(keeps_deaths=False))
    answer = client.call(BasicGet("work"))
    client.send(BasicReject(answer.tag, False))

    assert {"mine": 1} == answer.properties.headers
    [death] = embedded.get("dlq").properties.headers["x-death"]
    assert 1 == death["count"]


@pytest.mark.parametrize(("keeps", "deaths"), [(None, False), (True, True)])
def test_what_goes_elsewhere_forgets_its_deaths_unless_told_otherwise(
    embedded, client, dlq, die, keeps, deaths
):
    client.call(QueueDeclare("other"))
    die(b"one", headers={"mine": 1})

    run(embedded, dlq, Plan(Target(queue="other"), keeps_deaths=keeps))

    [found] = drain(embedded, "other")
    assert (1, deaths) == (found.properties.headers["mine"], "x-death" in found.properties.headers)


def test_a_message_sent_to_the_first_of_two_stages_is_not_taken_for_one_in_a_circle(
    embedded, client, dlq
):
    stages = [("first", "second"), ("second", "dlq")]
    for name, key in stages:
        arguments = {
            "x-message-ttl": 10,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": key,
        }
        client.call(QueueDeclare(name, arguments=arguments))
    embedded.publish("", "first", b"one")
    embedded.advance(1)

    run(embedded, dlq, Plan(Target(queue="first")), seconds=5)

    assert [b"one"] == bodies(embedded, "dlq")


@pytest.mark.parametrize(
    ("target", "address"),
    [
        (Target(queue="other"), ("", "dlq")),
        (Target(exchange="amq.direct", routing_key="k"), ("amq.direct", "k")),
    ],
    ids=["queue", "exchange"],
)
def test_they_go_elsewhere_on_request(embedded, client, dlq, die, target, address):
    client.call(QueueDeclare("other"))
    client.call(QueueBind("other", "amq.direct", "k"))
    die(b"one")

    run(embedded, dlq, Plan(target))

    [found] = drain(embedded, "other")
    assert address == (found.method.exchange, found.method.routing_key)


# What stays


def test_what_a_publisher_calls_a_death_is_not_believed(embedded, dlq):
    deaths = [{"reason": "rejected", "queue": "q", "exchange": "", "routing-keys": ["work"]}]
    embedded.publish("", "dlq", b"forged", headers={"x-death": deaths})

    made = run(embedded, dlq)

    assert (1, 0, 1) == (made.unroutable, made.moved, dlq.ready_count)
    assert 0 == embedded.vhost.queue("work").ready_count


def test_what_nobody_takes_stays_in_order(embedded, client, dlq, die):
    embedded.vhost.declare_exchange("gone", "fanout")
    client.call(QueueBind("work", "gone", ""))
    die(b"0", b"1")
    die(b"2", exchange="gone", key="")
    die(b"3")
    embedded.vhost.delete_exchange("gone")

    made = run(embedded, dlq)

    assert (3, 1, State.FINISHED) == (made.moved, made.unroutable, made.state)
    assert [b"2"] == bodies(embedded, "dlq")


def test_what_a_full_queue_refuses_stays_and_is_not_dead_lettered_again(embedded, client, dlq):
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish-dlx", **TO_DLQ}
    client.call(QueueDeclare("small", arguments=arguments))
    for number in range(5):
        embedded.publish("", "dlq", b"%d" % number)

    made = run(embedded, dlq, Plan(Target(queue="small")))

    assert (2, 3) == (made.moved, made.refused)
    assert [b"2", b"3", b"4"] == bodies(embedded, "dlq")
    assert [b"0", b"1"] == bodies(embedded, "small")


def test_what_comes_or_dies_meanwhile_is_left_for_the_next_one(embedded, client, dlq, die):
    die(b"0", b"1")
    client.send(BasicConsume("work", "rejects"))
    start(dlq, Plan())
    embedded.publish("", "dlq", b"new")
    for _ in range(3):
        embedded.advance(0.01)
        for received in client.take():
            client.send(BasicReject(received.tag, False))

    assert (State.FINISHED, 2) == (redrive.look(dlq).state, redrive.look(dlq).moved)
    assert {b"0", b"1", b"new"} == set(bodies(embedded, "dlq"))


def test_what_a_consumer_has_is_not_touched(embedded, client, dlq, die):
    die(b"0", b"1", b"2")
    held = client.call(BasicGet("dlq"))

    made = run(embedded, dlq)

    assert (2, 1) == (made.moved, dlq.unacked_count)
    client.send(BasicReject(held.tag, True))
    assert [b"0"] == bodies(embedded, "dlq")


def test_what_came_back_to_a_plain_queue_is_redriven_like_all_else(embedded, client, dlq, die):
    die(b"0", b"1", b"2")
    tags = [client.call(BasicGet("dlq")).tag for _ in range(2)]
    client.send(BasicNack(tags[-1], multiple=True, requeue=True))

    made = run(embedded, dlq)

    assert (3, 0, 0) == (made.moved, dlq.ready_count, dlq.bytes)
    assert [b"0", b"1", b"2"] == bodies(embedded, "work")


@pytest.mark.parametrize(
    "arguments",
    [{"x-max-priority": 3}, {"x-message-ttl": 3_600_000}, {"x-fair-key": "tenant"}],
    ids=["priority", "ttl", "fair key"],
)
def test_queues_with_hooks_are_redriven(embedded, client, arguments):
    client.call(QueueDeclare("deep", arguments=arguments))
    for number in range(4):
        embedded.publish(
            "", "deep", b"%d" % number, priority=number, headers={"tenant": number % 2}
        )
    queue = embedded.vhost.queue("deep")

    made = run(embedded, queue, Plan(Target(queue="work")))

    assert (4, 0, 0) == (made.moved, queue.ready_count, queue.bytes)
    assert [b"0", b"1", b"2", b"3"] == bodies(embedded, "work")


def test_a_user_redrives_only_to_where_they_may_publish(embedded, dlq, die):
    embedded.vhost.declare_exchange("secret", "fanout")
    embedded.vhost.bind("secret", embedded.vhost.queue("work"), "")
    embedded.broker.users.add("some", "x", ("management",))
    embedded.broker.users.set_permissions("some", "/", Permissions("", "^amq\\.default$", ".*"))
    die(b"0")
    die(b"1", exchange="secret", key="")

    made = run(embedded, dlq, Plan(user="some"))

    assert (1, 1) == (made.moved, made.forbidden)
    assert [b"1"] == bodies(embedded, "dlq")


# Which


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (DeathFilter(reason="expired"), [b"late"]),
        (DeathFilter(reason="rejected"), [b"a", b"b"]),
        (DeathFilter(queue="elsewhere"), []),
        (DeathFilter(headers={"n": 1}), [b"b"]),
        (DeathFilter(message_id="m0"), [b"a"]),
        (DeathFilter(message_id="m0", reason="expired"), []),
        (DeathFilter(died_before=1_767_225_600 + 50), [b"a", b"b"]),
        (DeathFilter(died_after=1_767_225_600 + 50), [b"late"]),
    ],
)
def test_a_filter_says_which_go(embedded, dlq, die, wanted, expected):
    die(b"a", headers={"n": 0}, message_id="m0")
    die(b"b", headers={"n": 1}, message_id="m1")
    embedded.publish("", "work", b"late", expiration="100000")
    embedded.advance(101)

    made = run(embedded, dlq, Plan(wanted=wanted))

    assert (len(expected), State.FINISHED) == (made.moved, made.state)
    assert expected == bodies(embedded, "work")
    assert 3 - len(expected) == dlq.ready_count


# How fast, and until when


@pytest.mark.parametrize(("rate", "seconds"), [(2, 5), (0.5, 20), (100, 0.1)])
def test_a_rate_is_kept(embedded, dlq, die, rate, seconds):
    die(*(b"%d" % number for number in range(COUNT)))
    start(dlq, Plan(rate=rate))

    embedded.advance(seconds / 2)
    half = redrive.look(dlq)
    embedded.advance(seconds / 2)
    whole = redrive.look(dlq)

    assert State.RUNNING is half.state
    assert abs(half.moved - COUNT / 2) <= max(1, rate * redrive.TICK_S)
    assert (State.FINISHED, COUNT) == (whole.state, whole.moved)


def test_many_messages_go_in_steps(embedded, dlq, die, monkeypatch):
    monkeypatch.setattr(redrive, "STEP", 3)
    die(*(b"%d" % number for number in range(COUNT)))
    start(dlq, Plan())

    moved = []
    for _ in range(4):
        embedded.advance(0.001)
        moved.append(redrive.look(dlq).moved)

    assert [3, 6, 9, 10] == moved


def test_a_redrive_is_stopped_seen_and_resumed(embedded, dlq, die, monkeypatch):
    monkeypatch.setattr(redrive, "STEP", 3)
    die(*(b"%d" % number for number in range(COUNT)))
    start(dlq, Plan())
    embedded.advance(0.001)

    stopped = stop(dlq)
    embedded.advance(60)

    assert (State.STOPPED, 3, COUNT - 3) == (stopped.state, stopped.moved, dlq.ready_count)
    assert [stopped] == redrives(embedded.broker)
    resume(dlq)
    embedded.advance(60)
    assert (State.FINISHED, COUNT) == (redrive.look(dlq).state, redrive.look(dlq).moved)


def test_a_queue_has_one_redrive_at_a_time(embedded, dlq, die):
    die(b"0")
    start(dlq, Plan(rate=1))

    with pytest.raises(ValueError, match="queue 'dlq' in vhost '/' is being redriven already"):
        start(dlq, Plan())


def test_a_redrive_ends_with_its_queue(embedded, dlq, die):
    die(b"0", b"1")
    start(dlq, Plan(rate=1))
    embedded.advance(0.5)

    embedded.vhost.delete_queue(dlq)
    embedded.advance(60)

    assert [] == redrives(embedded.broker)
    assert [b"0"] == bodies(embedded, "work")


def test_a_queue_that_is_not_redriven_any_more_is_as_it_was(embedded, dlq, die):
    die(b"0")
    before = type(dlq), dlq.extras

    run(embedded, dlq)

    assert before == (type(dlq), dlq.extras)


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (Plan(rate=0), "queue 'dlq' in vhost '/': rate is 0"),
        (Plan(Target()), "either an exchange or a queue"),
        (Plan(Target(exchange="amq.direct", queue="work")), "either an exchange or a queue"),
        (Plan(Target(queue="dlq")), "has its messages already"),
        (Plan(Target(queue="work", routing_key="k")), "without a routing key"),
        (Plan(wanted=DeathFilter(headers={"h": b"x"})), "headers cannot be kept"),
    ],
)
def test_a_plan_without_sense_is_refused(dlq, plan, problem):
    with pytest.raises(ValueError, match=problem):
        start(dlq, plan)


@pytest.mark.parametrize("target", [Target(queue="none"), Target(exchange="none")])
def test_a_target_that_is_not_there_is_refused(dlq, target):
    with pytest.raises(NotFound, match=r"no (queue|exchange) 'none' in vhost '/'"):
        start(dlq, Plan(target))


# Dry runs


def dry(embedded, queue, plan=None):
    found = []
    dry_run(queue, Plan() if plan is None else plan, found.append)
    embedded.advance(1)
    [preview] = found
    return preview


def test_a_dry_run_counts_and_shows_and_changes_nothing(embedded, dlq, die):
    die(*(b"%d" % number for number in range(12)), message_id="m")
    embedded.publish("", "dlq", b"no death")

    preview = dry(embedded, dlq)

    assert (12, 1, 0) == (preview.movable, preview.unroutable, preview.refused)
    assert 10 == len(preview.examples)
    first = preview.examples[0]
    assert (0, "m", "", ("work",)) == (
        first.position,
        first.message_id,
        first.exchange,
        first.routing_keys,
    )
    assert (13, None) == (dlq.ready_count, redrive.look(dlq))
    assert 0 == embedded.vhost.queue("work").ready_count


def test_a_dry_run_over_many_messages_comes_later(embedded, dlq, monkeypatch):
    monkeypatch.setattr("leveret.broker.core.inspect.LOOKED", 5)
    for number in range(12):
        embedded.publish("", "dlq", b"%d" % number)

    assert 12 == dry(embedded, dlq, Plan(Target(queue="work"))).movable


def test_a_dry_run_is_not_noticed_by_exchanges_that_remember(embedded, client, dlq, die):
    embedded.vhost.declare_exchange("recent", "x-recent-history")
    embedded.vhost.bind("recent", embedded.vhost.queue("work"), "")
    embedded.publish("", "dlq", b"0")

    assert 1 == dry(embedded, dlq, Plan(Target(exchange="recent"))).movable
    client.call(QueueDeclare("later"))
    client.call(QueueBind("later", "recent", ""))
    assert [] == bodies(embedded, "later")


# Restarts


@pytest.fixture
def registry():
    return plugins.load(are_others_wanted=False)


async def fill(store, registry, count):
    """Leave so many dead letters of the queue work in a store."""
    async with durable(store, registry=registry) as kept:
        client = kept.connect()
        client.send(QueueDeclare("dlq", durable=True))
        client.send(QueueDeclare("work", durable=True, arguments=TO_DLQ))
        for number in range(count):
            client.publish(b"%d" % number, "work", delivery_mode=2)
        client.consume("work", "c")
        await kept.persistence.flush()
        client.take()
        client.send(BasicNack(0, multiple=True, requeue=False))
        await kept.persistence.flush()
        await kept.stop()


async def steps(kept, count):
    for _ in range(count):
        await pass_time(0.002)
        await kept.settle()


@pytest.mark.parametrize("committed", range(5))
async def test_a_crash_at_any_step_neither_loses_nor_doubles(
    mock_clock, registry, monkeypatch, committed
):
    monkeypatch.setattr(redrive, "STEP", 3)
    store = MemoryStore()
    await fill(store, registry, COUNT)
    async with durable(store, registry=registry) as kept:
        start(kept.broker.vhosts["/"].queue("dlq"), Plan())
        kept.turns.finish()
        await kept.persistence.flush()
        await steps(kept, committed)
        await kept.persistence.flush()
        before = redrive.look(kept.broker.vhosts["/"].queue("dlq"))
        kept.gate.hold()
        await steps(kept, 1)  # nobody will know of it
        await kept.lose()

    async with durable(store, registry=registry) as kept:
        dlq, work = (kept.broker.vhosts["/"].queue(name) for name in ("dlq", "work"))
        after = redrive.look(dlq)
        counts = dlq.ready_count, work.ready_count
        await steps(kept, 6)
        made = redrive.look(dlq)
        client = kept.connect()
        answers = client.consume("work", no_ack=True)
        await kept.settle()
        found = sorted(int(each.body) for each in [*answers[1:], *client.take()])

    assert before == after
    assert (COUNT - before.moved, before.moved) == counts
    assert (State.FINISHED, COUNT) == (made.state, made.moved)
    assert list(range(COUNT)) == found


async def test_bodies_that_only_the_store_has_are_read_first(mock_clock, registry):
    store = MemoryStore()
    await fill(store, registry, COUNT)
    async with durable(store, 100, registry) as kept:
        dlq = kept.broker.vhosts["/"].queue("dlq")
        assert COUNT == dlq.runs.paged_count
        kept.gate.hold_reads()
        start(dlq, Plan())
        kept.turns.finish()
        await steps(kept, 2)
        assert 0 == redrive.look(dlq).moved
        kept.gate.let_reads_through()
        await steps(kept, 2)

        assert (State.FINISHED, COUNT) == (redrive.look(dlq).state, redrive.look(dlq).moved)
        assert (0, 0) == (dlq.ready_count, dlq.bytes)


async def test_a_redrive_that_is_stopped_while_it_reads_moves_nothing_more(mock_clock, registry):
    store = MemoryStore()
    await fill(store, registry, COUNT)
    async with durable(store, 100, registry) as kept:
        dlq = kept.broker.vhosts["/"].queue("dlq")
        kept.gate.hold_reads()
        start(dlq, Plan())
        await steps(kept, 1)
        stop(dlq)
        kept.gate.let_reads_through()
        await steps(kept, 2)

        assert (State.STOPPED, COUNT) == (redrive.look(dlq).state, dlq.ready_count)


async def test_what_is_finished_is_known_after_a_restart(mock_clock, registry):
    store = MemoryStore()
    await fill(store, registry, COUNT)
    plan = Plan(
        Target(exchange="", routing_key="work"),
        DeathFilter(reason="rejected", headers={}, died_after=0),
        rate=1000.0,
        keeps_deaths=False,
        user="guest",
    )
    async with durable(store, registry=registry) as kept:
        start(kept.broker.vhosts["/"].queue("dlq"), plan)
        await steps(kept, 12)
        made = redrive.look(kept.broker.vhosts["/"].queue("dlq"))
        await kept.persistence.flush()
        await kept.stop()

    async with durable(store, registry=registry) as kept:
        assert made == redrive.look(kept.broker.vhosts["/"].queue("dlq"))
        assert (State.FINISHED, plan) == (made.state, made.plan)


# Resources


def ask(embedded, handler, body=None, name="dlq", user="guest"):
    request = Request("", "", {"vhost": "/", "name": name}, {}, body, user)
    answer = handler(request, embedded.broker)
    return answer.status, answer.body


def test_a_request_starts_shows_stops_and_resumes(embedded, dlq, die):
    die(b"0", b"1")

    assert 404 == ask(embedded, show_redrive)[0]
    status, body = ask(embedded, start_redrive, {"rate": 1, "reason": "rejected"})
    assert (202, "running", "guest") == (status, body["state"], body["plan"]["user"])
    assert 409 == ask(embedded, start_redrive)[0]
    assert 409 == ask(embedded, resume_redrive)[0]
    embedded.advance(0.5)
    status, body = ask(embedded, stop_redrive)
    assert (200, "stopped", 1) == (status, body["state"], body["moved"])
    assert (200, "running") == (ask(embedded, resume_redrive)[0], redrive.look(dlq).state)
    embedded.advance(2)
    assert "finished" == ask(embedded, show_redrive)[1]["state"]
    assert ["dlq"] == [each["queue"] for each in ask(embedded, list_redrives)[1]]


def test_a_request_for_a_dry_run_is_answered_with_what_would_be_done(embedded, dlq, die):
    die(b"0")

    status, body = ask(embedded, start_redrive, {"dry_run": True, "to_queue": "work"})

    assert (200, 1, "work") == (status, body["movable"], body["examples"][0]["queue"])


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"rate": 0}, 400, "field 'rate' is 0"),
        ({"rate": True}, 400, "field 'rate' is true"),
        ({"keeps_deaths": "no"}, 400, "field 'keeps_deaths' is \"no\""),
        ({"to_queue": "none"}, 404, "no queue 'none' in vhost '/'"),
        ({"to_queue": "work", "to_exchange": ""}, 400, "either an exchange or a queue"),
        ({"died_after": -1}, 400, "field 'died_after' is -1"),
        ({"any": 1}, 400, "field 'any' is 1"),
    ],
)
def test_a_bad_request_is_told_what_and_where(embedded, dlq, body, status, reason):
    answer = ask(embedded, start_redrive, body)

    assert status == answer[0]
    assert reason in answer[1]["reason"]


def test_who_may_not_read_the_queue_does_not_redrive_it(embedded, dlq):
    embedded.broker.users.add("some", "x", ("management",))

    for handler in (start_redrive, show_redrive, stop_redrive, resume_redrive):
        assert 403 == ask(embedded, handler, user="some")[0]
    assert [] == ask(embedded, list_redrives, user="some")[1]

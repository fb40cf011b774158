"""Moving: chosen messages go elsewhere, are copied or deleted; the rest does not notice."""

import pytest
import trio.testing

from leveret.broker import plugins
from leveret.broker.core import runs
from leveret.broker.core.filter import Filter
from leveret.broker.core.resources import Pending, Request
from leveret.broker.core.users import Permissions
from leveret.broker.plugins.moving import (
    Choice,
    copy,
    copy_messages,
    delete,
    delete_messages,
    move,
    move_messages,
)
from leveret.broker.plugins.passage import Target
from leveret.broker.server.spiller import Spiller
from leveret.broker.server.turns import Turns
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.scratch import Scratch
from leveret.broker.testing import Embedded, finish, published
from leveret.protocol.errors import NotFound
from leveret.protocol.methods import (
    BasicGet,
    BasicNack,
    BasicPublish,
    QueueBind,
    QueueDeclare,
)

from ..support.durable import durable
from ..support.fakes import message

COUNT = 10
TO = Target(queue="to")


@pytest.fixture
def embedded():
    with Embedded() as made:
        yield made


@pytest.fixture
def client(embedded):
    made = embedded.connect()
    for name in ("q", "to"):
        made.call(QueueDeclare(name))
    return made


@pytest.fixture(params=[{}, {"x-max-priority": 2}], ids=["plain", "priority"])
def queue(embedded, client, request):
    """A queue with ten messages, each with a number; a plain one and one with lanes."""
    client.call(QueueDeclare("from", arguments=request.param))
    for number in range(COUNT):
        embedded.publish(
            "",
            "from",
            b"%d" % number,
            headers={"even": number % 2 == 0},
            message_id=f"m{number}",
            priority=number % 3,
        )
    return embedded.vhost.queue("from")


def numbers(embedded, name):
    found = []
    while (received := embedded.get(name)) is not None:
        found.append(int(received.body))
    return sorted(found)


def step(embedded, act, *arguments, **options):
    """Return what a step has done, all of which is in memory."""
    found = []
    act(*arguments, found.append, **options)
    finish(embedded.broker)
    [moved] = found
    return moved


def test_all_messages_are_moved_in_order(embedded, queue):
    moved = step(embedded, move, queue, TO)

    assert (COUNT, COUNT, None) == (moved.looked, moved.done, moved.next)
    assert (0, 0) == (queue.ready_count, queue.bytes)
    assert [b"%d" % number for number in range(COUNT)] == [
        embedded.get("to").body for _ in range(COUNT)
    ]


def test_only_the_chosen_positions_are_moved(embedded, queue):
    choice = Choice(positions=[1, 2, 7, 99])

    moved = step(embedded, move, queue, TO, choice=choice)

    assert 3 == moved.done
    assert [1, 2, 7] == numbers(embedded, "to")
    assert [0, 3, 4, 5, 6, 8, 9] == numbers(embedded, "from")


def test_only_what_a_filter_wants_is_moved(embedded, queue):
    moved = step(embedded, move, queue, TO, choice=Choice(wanted=Filter(headers={"even": True})))

    assert (COUNT, 5) == (moved.looked, moved.done)
    assert [0, 2, 4, 6, 8] == numbers(embedded, "to")


def test_copies_leave_the_queue_as_it_was(embedded, queue):
    copied = step(embedded, copy, queue, TO, choice=Choice(positions=[3, 4]))

    assert 2 == copied.done
    assert [3, 4] == numbers(embedded, "to")
    assert list(range(COUNT)) == numbers(embedded, "from")


def test_deleted_messages_are_no_dead_letters(embedded, client):
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "to"}
    client.call(QueueDeclare("mortal", arguments=arguments))
    for number in range(3):
        embedded.publish("", "mortal", b"%d" % number)

    gone = step(embedded, delete, embedded.vhost.queue("mortal"), choice=Choice(positions=[0, 2]))

    assert 2 == gone.done
    assert ([1], []) == (numbers(embedded, "mortal"), numbers(embedded, "to"))


def test_messages_are_moved_as_they_are_and_get_the_exchange_and_key_of_an_exchange(
    embedded, client, queue
):
    client.call(QueueBind("to", "amq.direct", "k"))
    client.call(QueueBind("to", "amq.fanout", ""))
    targets = [TO, Target("amq.direct", "k"), Target("amq.fanout")]
    for position, target in enumerate(targets):
        step(embedded, move, queue, target, choice=Choice(positions=[position]))

    methods = [embedded.get("to").method for _ in targets]
    assert [("", "from"), ("amq.direct", "k"), ("amq.fanout", "from")] == [
        (method.exchange, method.routing_key) for method in methods
    ]


def test_steps_go_on_where_the_one_before_ended_and_end(embedded, client, queue):
    client.call(QueueBind("from", "amq.fanout", ""))  # what is copied comes again
    done, after = [], ""
    while after is not None:
        copied = step(
            embedded, copy, queue, Target("amq.fanout"), choice=Choice(after=after, limit=4)
        )
        done.append(copied.done)
        after = copied.next

    assert [4, 4, 2] == done
    assert 2 * COUNT == queue.ready_count


def test_what_nobody_takes_stays(embedded, queue):
    moved = step(embedded, move, queue, Target("amq.direct", "nowhere"))

    assert (0, COUNT, COUNT) == (moved.done, moved.unroutable, queue.ready_count)


def test_unacked_messages_are_not_touched(embedded, client, queue):
    held = [client.call(BasicGet("from")) for _ in range(2)]

    moved = step(embedded, move, queue, TO)

    assert (COUNT - 2, 2) == (moved.done, queue.unacked_count)
    client.send(BasicNack(held[-1].tag, multiple=True, requeue=True))
    assert 2 == len(numbers(embedded, "from"))


def test_of_what_came_back_only_the_chosen_is_moved(embedded, client, queue):
    for _ in range(COUNT):
        last = client.call(BasicGet("from"))
    client.send(BasicNack(last.tag, multiple=True, requeue=True))

    moved = step(embedded, move, queue, TO, choice=Choice(positions=[0, 4, 9]))

    assert 3 == moved.done
    assert [0, 4, 9] == numbers(embedded, "to")
    assert [1, 2, 3, 5, 6, 7, 8] == numbers(embedded, "from")


def test_waiting_messages_are_moved_only_if_they_are_meant(embedded, client):
    client.call(QueueDeclare("late", arguments={"x-message-delay": 1000}))
    queue = embedded.vhost.queue("late")
    for number in range(3):
        embedded.publish("", "late", b"%d" % number)

    assert 0 == step(embedded, move, queue, TO).done
    assert 1 == step(embedded, move, queue, TO, choice=Choice("waiting", positions=[1])).done

    assert [1] == numbers(embedded, "to")
    embedded.advance(1)
    assert [0, 2] == numbers(embedded, "late")


def test_what_was_published_in_this_slice_is_moved_too(embedded, client, queue):
    client.session.receive(published(b"10", BasicPublish("", "from")))
    client.session.run(lambda: False)  # not dealt yet

    assert COUNT + 1 == step(embedded, move, queue, TO).done


def test_a_refused_message_is_in_no_queue_of_its_exchange(embedded, client, queue):
    client.call(QueueDeclare("full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"}))
    for name in ("to", "full"):
        client.call(QueueBind(name, "amq.fanout", ""))

    moved = step(embedded, move, queue, Target("amq.fanout"))

    assert (COUNT, COUNT) == (moved.refused, queue.ready_count)
    assert [] == numbers(embedded, "to")


@pytest.mark.parametrize(
    ("target", "choice", "problem"),
    [
        (Target(), Choice(), "either an exchange or a queue"),
        (Target(queue="from"), Choice(), "messages of queue 'from' are there already"),
        (TO, Choice("unacked"), "messages that are unacked are left alone"),
        (TO, Choice(after="7"), "no step ends at '7'"),
        (TO, Choice(after="x-7"), "no page ends at 'x'"),
    ],
)
def test_what_makes_no_sense_is_refused(embedded, queue, target, choice, problem):
    with pytest.raises(ValueError, match=problem):
        move(queue, target, print, choice)
    assert COUNT == queue.ready_count


def test_a_target_that_is_not_there_is_refused(queue):
    with pytest.raises(NotFound, match="no queue 'none' in vhost '/'"):
        copy(queue, Target(queue="none"), print)


# In a store


async def fill(store, registry):
    """Leave `COUNT` messages in the queue "q" of a store, and an empty queue "to"."""
    async with durable(store, registry=registry) as kept:
        client = kept.connect()
        for name in ("q", "to"):
            client.send(QueueDeclare(name, durable=True))
        for number in range(COUNT):
            client.publish(b"%d" % number, delivery_mode=2)
        await kept.persistence.flush()
        await kept.stop()


@pytest.mark.parametrize("act", ["move", "delete"])
@pytest.mark.parametrize("is_committed", [False, True])
async def test_a_crash_undoes_a_step_or_has_all_of_it(mock_clock, act, is_committed):
    registry = plugins.load(are_others_wanted=False)
    store, found = MemoryStore(), []
    await fill(store, registry)

    async with durable(store, 100, registry) as kept:
        queue = kept.broker.vhosts["/"].queue("q")
        assert COUNT == queue.runs.paged_count  # they have to be read
        kept.gate.hold()
        choice = Choice(positions=[1, 2, 8])
        if act == "move":
            move(queue, TO, found.append, choice)
        else:
            delete(queue, found.append, choice)
        kept.turns.finish()
        await kept.settle()
        assert [3] == [moved.done for moved in found]
        if is_committed:
            kept.gate.let_through()
            await kept.persistence.flush()
        await kept.lose()

    async with durable(store, registry=registry) as kept:
        counts = [kept.broker.vhosts["/"].queue(name).ready_count for name in ("q", "to")]

    there = 3 if act == "move" else 0
    assert [COUNT - 3, there] if is_committed else [COUNT, 0] == counts


async def test_what_leaves_the_queue_while_it_is_read_is_not_moved(mock_clock):
    registry = plugins.load(are_others_wanted=False)
    store, found = MemoryStore(), []
    await fill(store, registry)

    async with durable(store, 100, registry) as kept:
        vhost = kept.broker.vhosts["/"]
        client = kept.connect()
        kept.gate.hold_reads()
        client.consume("q", prefetch=4)  # it has asked first
        move(vhost.queue("q"), TO, found.append)
        kept.turns.finish()
        kept.gate.let_reads_through()
        await kept.settle()

        [moved] = found
        assert COUNT == moved.done + moved.gone
        assert (4, 4) == (moved.gone, vhost.queue("q").unacked_count)
        assert moved.done == vhost.queue("to").ready_count


# In a scratch file


async def test_messages_in_a_scratch_file_are_moved_and_the_rest_stays(
    nursery, tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "CHUNK_LENGTH", 4)
    monkeypatch.setattr(runs, "LEAST_SPILLED", 1)
    embedded = Embedded({"queues": ["q", "to"]})
    queue, turns = embedded.vhost.queue("q"), Turns(embedded.broker, lambda: embedded.broker.now)
    scratch = Scratch(tmp_path / "scratch")
    await scratch.open()
    spiller = Spiller(turns, scratch, limit=100, memory=1 << 30, measure=lambda: 0)
    turns.lookers.append(spiller.look)
    nursery.start_soon(spiller.read)
    queue.incoming += [message(b"%d" % number) for number in range(40)]
    queue.touch()
    turns.finish()
    await spiller.spill()
    assert queue.runs.paged_count

    found = []
    for choice in (Choice(positions=[1, 2, 8]), Choice()):
        move(queue, TO, found.append, choice)
        turns.finish()
        while len(found) < 1 + (choice == Choice()):
            await trio.testing.wait_all_tasks_blocked(0.001)
    await scratch.close()

    assert [3, 40 - 3] == [moved.done for moved in found]
    assert (0, 0) == (queue.ready_count, queue.bytes)
    assert list(range(40)) == numbers(embedded, "to")


# Resources


def ask(embedded, handler, body, user="guest", name="from"):
    request = Request("", "", {"vhost": "/", "name": name}, {}, body, user)
    answer = handler(request, embedded.broker)
    assert not isinstance(answer, Pending)
    finish(embedded.broker)
    return answer.status, answer.body


def test_requests_move_copy_and_delete(embedded, queue):
    body = {"to_queue": "to", "positions": [3]}

    assert (200, 1) == _done(ask(embedded, copy_messages, body))
    assert (200, 1) == _done(ask(embedded, move_messages, body))
    assert (200, 1) == _done(ask(embedded, delete_messages, {"message_id": "m4"}))

    assert [3, 3] == numbers(embedded, "to")
    assert COUNT - 2 == queue.ready_count


def _done(answer):
    status, body = answer
    return status, body["done"]


@pytest.mark.parametrize(
    ("handler", "body", "status", "reason"),
    [
        (move_messages, {}, 400, "field 'to_queue' is absent"),
        (move_messages, {"to_queue": "none"}, 404, "no queue 'none' in vhost '/'"),
        (move_messages, {"to_queue": "to", "limit": 201}, 400, "field 'limit' is 201"),
        (move_messages, {"to_queue": "to", "state": "unacked"}, 400, "field 'state'"),
        (copy_messages, {"to_queue": "to", "positions": [True]}, 400, "field 'positions'"),
        (copy_messages, {"to_queue": "to", "positions": 3}, 400, "field 'positions'"),
        (delete_messages, {"to_queue": "to"}, 400, "field 'to_queue'"),
        (delete_messages, {}, 400, "to delete all, purge the queue"),
    ],
)
def test_a_bad_request_is_told_what(embedded, queue, handler, body, status, reason):
    answer = ask(embedded, handler, body)

    assert status == answer[0]
    assert reason in answer[1]["reason"]
    assert COUNT == queue.ready_count


def test_a_user_moves_only_where_they_may_publish(embedded, queue):
    embedded.broker.users.add("some", "x", ("management",))
    embedded.broker.users.set_permissions("some", "/", Permissions("", "^amq\\.default$", "^from$"))
    body = {"to_exchange": "amq.fanout", "positions": [0]}

    assert 1 == ask(embedded, move_messages, body, "some")[1]["forbidden"]
    assert (
        1
        == ask(
            embedded, move_messages, {**body, "to_exchange": "", "to_routing_key": "to"}, "some"
        )[1]["done"]
    )
    assert 403 == ask(embedded, move_messages, body, "some", "to")[0]

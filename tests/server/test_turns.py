"""Turns: slices of time, what is left over, and faults. The time of a slice is the test's own."""

import gc

import pytest
import structlog.testing
import trio
import trio.testing

from leveret.broker.amqp.settling import PIECE
from leveret.broker.core.batch import FLUSH_LIMIT
from leveret.broker.core.queue import Queue
from leveret.broker.server import turns as turns_module
from leveret.broker.server.turns import LONGEST, ROUND, SHORTEST, Turns
from leveret.protocol.methods import (
    BasicCancel,
    BasicGet,
    BasicNack,
    BasicPublish,
    QueueDeclare,
    QueueDeclareOk,
)
from leveret.protocol.writer import method_frame

from ..support.client import Client, published

DECLARE = method_frame(1, QueueDeclare("q"))


class Counter:
    """A performance counter that goes on by so much at each look."""

    def __init__(self):
        self.value = 0.0
        self.step = 0.0

    def __call__(self):
        self.value += self.step
        return self.value


@pytest.fixture
def counter(monkeypatch):
    made = Counter()
    monkeypatch.setattr(turns_module, "perf_counter", made)
    return made


@pytest.fixture
def turns(broker, counter):
    return Turns(broker, lambda: 4711)


def answers(client: Client) -> int:
    return len(client.take())


def hold(client: Client, count: int) -> None:
    """Have a client hold so many messages of the queue q, which nobody consumes any more."""
    client.declare()
    client.publish_many([b"x"] * count)
    client.consume()
    client.call(BasicCancel("c"))
    client.take()


async def test_a_get_goes_on_when_very_many_messages_are_back(broker, client, nursery, counter):
    turns = Turns(broker, lambda: 0)
    hold(client, 3 * PIECE)
    nack, get = BasicNack(0, True, True), BasicGet("q")

    assert not turns.run(client.session, method_frame(1, nack) + method_frame(1, get))
    assert client.session.is_waiting
    nursery.start_soon(turns.go_on)
    await turns.wait_until_loaded()

    assert turns.run(client.session)
    assert 1 == answers(client)


async def test_a_get_waits_for_what_comes_back_to_its_queue_alone(broker, client, nursery):
    turns = Turns(broker, lambda: 0)
    hold(client, 2 * PIECE)

    assert not turns.run(
        client.session, method_frame(1, BasicNack(0, True, True)) + method_frame(1, BasicGet("q"))
    )
    for _ in range(2):
        broker.batch.returns.append(iter(lambda: None, 0))  # another's, that takes for ever
    with trio.fail_after(5):
        nursery.start_soon(turns.go_on)
        await turns.wait_until_loaded()

    assert turns.run(client.session)
    assert 1 == answers(client)


def test_a_slice_reads_the_clock_once(turns, client, broker):
    assert turns.run(client.session, DECLARE)

    assert 4711 == broker.now
    assert 1 == answers(client)


def slices(turns, client, chunk):
    """Return how many answers each slice gave, until all is done."""
    counts = []
    is_done = turns.run(client.session, chunk)
    counts.append(answers(client))
    while not is_done:
        is_done = turns.run(client.session)
        counts.append(answers(client))
    return counts


def test_what_does_not_fit_into_a_slice_goes_on_in_the_next(turns, client, counter):
    counter.step = LONGEST / 10

    counts = slices(turns, client, DECLARE * 100)

    assert 100 == sum(counts)
    assert {9, 10, 11} >= set(counts[:-1])


def test_what_comes_while_some_is_left_is_handled_after_it(turns, client, counter):
    counter.step = LONGEST / 10
    other = method_frame(1, QueueDeclare("other"))
    assert not turns.run(client.session, DECLARE * 15)
    assert not turns.run(client.session, other * 10)
    while not turns.run(client.session):
        pass

    assert ["q"] * 15 + ["other"] * 10 == [answer.queue for answer in client.take()]


@pytest.mark.parametrize(
    ("others", "seconds"),
    [(0, LONGEST), (2, ROUND / 3), (14, ROUND / 15), (74, SHORTEST), (1000, SHORTEST)],
)
def test_those_with_work_left_share_the_round(turns, client, counter, others, seconds):
    counter.step = SHORTEST / 10
    held = [turns.runnable() for _ in range(others)]
    for one in held:
        one.__enter__()

    counts = slices(turns, client, DECLARE * 600)
    assert seconds == pytest.approx(counts[0] * counter.step, rel=0.11)

    for one in held:
        one.__exit__(None, None, None)
    assert LONGEST == pytest.approx(slices(turns, client, DECLARE * 600)[0] * counter.step, rel=0.1)


def test_a_slice_ends_when_its_peer_has_enough_to_read(turns, client, broker):
    client.declare()
    for _ in range(100):
        client.publish(bytes(100_000))
    client.wire.takes = 0

    assert not turns.run(client.session, method_frame(1, BasicGet("q", True)) * 100)

    high = broker.limits.outbox_high
    assert high < client.session.outbox.size < high + 101_000


def touched_by_one(client, names):
    """Have a consumer on each queue; return the octets that put a message into all of them."""
    for name in names:
        client.declare(name)
        client.consume(name, name)
    return b"".join(published(b"x", BasicPublish("", name)) for name in names)


async def test_queues_that_do_not_come_to_deal_in_their_slice_do_so_after_it(
    turns, client, counter, nursery
):
    chunk = touched_by_one(client, [f"q{number}" for number in range(50)])
    nursery.start_soon(turns.go_on)
    turns.run(client.session, chunk)  # the routes are known from here on
    assert 50 == answers(client)
    counter.step = LONGEST / 20
    while not turns.run(client.session, chunk):
        chunk = b""
    before = answers(client)
    assert before < 50

    with trio.fail_after(10):
        await turns.caught_up()
    assert 50 == before + answers(client)


async def test_whoever_carries_on_looks_after_each_slice_also_those_after_it(
    turns, client, counter, nursery
):
    chunk = touched_by_one(client, [f"q{number}" for number in range(50)])
    nursery.start_soon(turns.go_on)
    turns.run(client.session, chunk)
    seen = []
    turns.lookers.append(lambda: seen.append(len(turns.broker.batch.waiting)))
    counter.step = LONGEST / 20
    while not turns.run(client.session, chunk):
        chunk = b""
    assert seen[-1] > 0

    with trio.fail_after(10):
        await turns.caught_up()

    assert seen[-1] == 0


async def test_caught_up_does_not_wait_when_nothing_is_left(turns, client):
    turns.run(client.session, DECLARE)

    with trio.fail_after(10):
        await turns.caught_up()


async def test_more_peers_than_one_slice_writes_to_are_written_to_after_it(turns, broker, nursery):
    peers = [Peer() for _ in range(FLUSH_LIMIT + 100)]
    broker.batch.flushing.update(dict.fromkeys(peers))
    nursery.start_soon(turns.go_on)

    turns.finish()
    assert FLUSH_LIMIT == sum(peer.is_flushed for peer in peers)
    await trio.testing.wait_all_tasks_blocked()

    assert all(peer.is_flushed for peer in peers)


class Peer:
    """Somebody to write to."""

    is_flushed = False

    def flush(self):
        self.is_flushed = True


# Faults


def test_fault_of_a_queue_ends_no_connection(turns, client, monkeypatch):
    chunk = touched_by_one(client, ["bad", "good"])
    deal = Queue.deal

    def fail(queue):
        if queue.name == "bad":
            raise RuntimeError("a fault of the test's own")
        deal(queue)

    monkeypatch.setattr(Queue, "deal", fail)
    with structlog.testing.capture_logs() as logs:
        turns.run(client.session, chunk)

    assert [("slice.failed", "<Queue 'bad' in '/'>")] == [
        (line["event"], line["where"]) for line in logs
    ]
    assert [b"x"] == client.bodies()
    assert not client.wire.is_closed


@pytest.mark.parametrize("place", ["send_confirms", "flush"])
def test_fault_while_answering_a_connection_ends_that_one_only(
    turns, connect, broker, monkeypatch, place
):
    victim, other = connect(), connect()
    owner = victim.session.channels[1] if place == "send_confirms" else victim.session
    monkeypatch.setattr(type(owner), place, fails_for(owner, getattr(type(owner), place)))
    broker.batch.confirming.update(
        {victim.session.channels[1]: None, other.session.channels[1]: None}
    )
    broker.batch.flushing.update({victim.session: None, other.session: None})

    with structlog.testing.capture_logs() as logs:
        turns.run(other.session, DECLARE)

    assert ["slice.failed"] == [line["event"] for line in logs]
    assert (True, False) == (victim.wire.is_closed, other.wire.is_closed)
    assert [QueueDeclareOk("q", 0, 0)] == other.take()


def fails_for(victim, method):
    def fail(self):
        if self is victim:
            raise RuntimeError("a fault of the test's own")
        method(self)

    return fail


@pytest.fixture
def no_collector():
    """The collector does not run by itself, as while as many objects go as come."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_objects_do_not_stay_young_while_timers_run(turns, broker):
    young = []
    broker.timers.at(0, lambda: young.extend([] for _ in range(1000)))
    turns.run_timers()

    assert 1000 == len(young)
    assert not {id(each) for each in young} & {id(each) for each in gc.get_objects(generation=0)}

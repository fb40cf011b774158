"""The committer: one commit at a time, soon or a little later, and who waits for it."""

import pytest
import trio
import trio.testing

from leveret.broker.server.committer import ATTEMPTS, GRACE, LAZY, REST, Committer
from leveret.broker.server.turns import Turns
from leveret.broker.storage.base import Lease, Row, StoreFailed
from leveret.broker.storage.journal import PENDING_COUNT
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import (
    BasicAck,
    BasicDeliver,
    BasicPublish,
    BasicQos,
    ConfirmSelect,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
)
from leveret.protocol.properties import Properties

from ..support.client import Received, published
from ..support.durable import durable, pass_time

PERSISTENT = {"delivery_mode": 2}
DECLARE = QueueDeclare("q", durable=True)


@pytest.fixture
async def kept():
    """A broker with a durable queue."""
    async with durable(MemoryStore()) as made:
        client = made.connect()
        client.send(DECLARE)
        await made.settle()
        client.take()
        yield made


@pytest.fixture
def client(kept):
    return kept.clients[0]


def many(count: int, body: bytes = b"m") -> bytes:
    """Return persistent publishes in one piece."""
    method = BasicPublish("", "q")
    return published(body, method, properties=Properties(delivery_mode=2)) * count


async def test_what_somebody_waits_for_is_committed_at_once(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"m", **PERSISTENT)
    await kept.settle()

    assert [BasicAck(1)] == client.take()


async def test_what_nobody_waits_for_is_committed_a_little_later(mock_clock, kept, client):
    begun = kept.gate.begun
    client.publish(b"m", **PERSISTENT)
    await kept.settle()
    assert begun == kept.gate.begun

    await pass_time(LAZY * 0.9)
    assert begun == kept.gate.begun
    await pass_time(LAZY * 0.2)
    assert begun + 1 == kept.gate.begun


async def test_acks_are_committed_a_little_later(mock_clock, kept, client):
    client.publish(b"m", **PERSISTENT)
    await pass_time(LAZY)
    [_, delivery] = client.consume()
    begun = kept.gate.begun
    await pass_time(LAZY)
    assert begun + 1 == kept.gate.begun  # that it was delivered

    client.ack(delivery.tag)
    await kept.settle()
    assert begun + 1 == kept.gate.begun
    await pass_time(LAZY)
    assert begun + 2 == kept.gate.begun


async def test_what_is_published_and_settled_in_between_is_never_written(mock_clock, kept, client):
    client.consume("q", "c", no_ack=True)
    client.publish(b"warm up", **PERSISTENT)
    await pass_time(LAZY)
    begun = kept.gate.begun

    client.publish(b"m", **PERSISTENT)
    await pass_time(LAZY)

    assert begun == kept.gate.begun


async def test_what_is_settled_before_its_commit_is_confirmed_without_being_written(kept, client):
    client.consume("q", "c", no_ack=True)
    client.send(ConfirmSelect())
    for _ in range(5):
        client.publish(b"m", **PERSISTENT)
        await kept.settle()
    begun = kept.gate.begun

    for _ in range(5):
        client.publish(b"m", **PERSISTENT)
        await kept.settle()
    assert BasicAck(10) == client.take()[-1]
    assert begun == kept.gate.begun


# acks that spare the disk


def tags(items):
    return [item.method.delivery_tag for item in items if isinstance(item, Received)]


def confirms(items):
    return [item for item in items if isinstance(item, BasicAck)]


async def test_a_commit_waits_for_acks_if_all_in_it_was_delivered(mock_clock, kept, client):
    client.consume("q")
    client.send(ConfirmSelect())
    begun = kept.gate.begun
    for number in range(1, 4):
        [tag] = tags(client.publish(b"m", **PERSISTENT))
        await kept.settle()
        assert [] == client.take()
        client.ack(tag)
        await kept.settle()
        assert [BasicAck(number)] == client.take()

    await pass_time(1)
    assert begun == kept.gate.begun


async def test_it_waits_for_a_moment_only(mock_clock, kept, client):
    client.consume("q")
    client.send(ConfirmSelect())
    client.publish(b"m", **PERSISTENT)
    await kept.settle()
    assert [] == client.take()

    await pass_time(GRACE)
    await kept.settle()

    assert [BasicAck(1)] == client.take()


@pytest.mark.parametrize(("before", "grace"), [(LAZY / 4, GRACE), (LAZY - GRACE / 2, GRACE / 2)])
async def test_who_waits_is_not_kept_by_a_commit_that_was_to_come_later(
    mock_clock, kept, client, before, grace
):
    """The grace may end the lazy wait that is under way, and never makes it longer."""
    client.consume("q")
    client.publish(b"nobody waits for it", **PERSISTENT)
    await pass_time(before)

    client.send(ConfirmSelect())
    client.publish(b"m", **PERSISTENT)
    await kept.settle()
    assert [] == confirms(client.take())
    await pass_time(grace * 1.01)
    await kept.settle()

    assert [BasicAck(1)] == client.take()


async def test_it_does_not_wait_when_something_was_not_delivered(mock_clock, kept, client):
    client.send(BasicQos(prefetch_count=1))
    client.consume("q")
    client.send(ConfirmSelect())
    client.publish(b"m", **PERSISTENT)
    client.publish(b"n", **PERSISTENT)
    await kept.settle()

    assert [BasicAck(2, True)] == client.take()


async def test_it_does_not_wait_for_acks_when_a_definition_is_in_it(mock_clock, kept, client):
    client.consume("q")
    client.publish(b"m", **PERSISTENT)
    client.send(QueueDeclare("other", durable=True))
    await kept.settle()

    assert [QueueDeclareOk("other", 0, 0)] == client.take()


async def test_a_consumer_who_never_keeps_up_is_not_waited_for_but_now_and_then(
    mock_clock, kept, client
):
    client.consume("q")
    client.send(ConfirmSelect())
    waited = []
    for _ in range(ATTEMPTS + REST + 3):
        client.publish(b"m", **PERSISTENT)
        await kept.settle()
        waited.append(not confirms(client.take()))
        await pass_time(GRACE)
        await kept.settle()
        client.take()

    assert [True] * ATTEMPTS + [False] * REST == waited[: ATTEMPTS + REST]
    assert [False, True, False] == waited[ATTEMPTS + REST :]


async def is_waited_for(kept, client, count, acked):
    """Publish; ack so many within the grace. Return whether the commit waited for acks."""
    client.feed(many(count))
    await kept.settle()
    items = client.take()
    is_waiting = not confirms(items)
    for tag in tags(items)[:acked]:
        client.ack(tag)
    await pass_time(GRACE)
    await kept.settle()
    client.take()
    return is_waiting


@pytest.mark.parametrize(("acked", "is_worth_it"), [(1, False), (2, True)])
async def test_a_grace_in_which_half_is_settled_is_worth_it(
    mock_clock, kept, client, acked, is_worth_it
):
    client.consume("q")
    client.send(ConfirmSelect())
    for _ in range(ATTEMPTS):
        assert await is_waited_for(kept, client, 4, acked)

    assert is_worth_it == await is_waited_for(kept, client, 4, acked)


async def test_one_grace_that_is_worth_it_makes_good_for_those_that_were_not(
    mock_clock, kept, client
):
    client.consume("q")
    client.send(ConfirmSelect())
    for acked in [0] * (ATTEMPTS - 1) + [1] + [0] * (ATTEMPTS - 1):
        assert await is_waited_for(kept, client, 1, acked)

    assert await is_waited_for(kept, client, 1, 0)


async def test_a_consumer_who_keeps_up_again_is_waited_for_again(mock_clock, kept, client):
    client.consume("q")
    client.send(ConfirmSelect())
    for _ in range(ATTEMPTS + REST + 1):
        await is_waited_for(kept, client, 1, 0)
    assert await is_waited_for(kept, client, 1, 1)

    assert await is_waited_for(kept, client, 1, 0)


async def test_the_journal_forgets_queues_that_are_gone(kept, client):
    for _ in range(10):
        client.send(QueueDeclare("gone", durable=True), QueueDelete("gone"))
        await kept.settle()

    assert len(kept.persistence._journal.logs) <= 1


async def test_whoever_waits_takes_along_what_could_have_waited(mock_clock, kept, client):
    client.publish(b"a", **PERSISTENT)
    await pass_time(LAZY / 2)
    begun = kept.gate.begun

    client.send(QueueDeclare("other", durable=True))
    await kept.settle()
    assert [QueueDeclareOk("other", 0, 0)] == client.take()
    await pass_time(LAZY)

    assert begun + 1 == kept.gate.begun


async def test_nothing_is_committed_while_nothing_happens(mock_clock, kept):
    begun = kept.gate.begun

    for _ in range(20):
        await pass_time(LAZY)

    assert begun == kept.gate.begun


async def test_one_commit_is_under_way_and_the_next_takes_all_that_came_meanwhile(
    mock_clock, kept, client
):
    client.send(ConfirmSelect())
    kept.gate.hold()
    client.publish(b"0", **PERSISTENT)
    await kept.settle()
    first = kept.gate.held
    for number in range(1, 5):
        client.publish(b"%d" % number, **PERSISTENT)
        await pass_time(LAZY)
    assert first is kept.gate.held  # the gate itself lets no second one in

    kept.gate.let_one_through()
    await kept.settle()
    assert [BasicAck(1)] == client.take()
    kept.gate.let_one_through()
    await kept.settle()

    assert [BasicAck(5, True)] == client.take()
    assert kept.gate.held is None


async def publish_to_two(kept, client):
    """Return what publishes to two queues in a slice that has time for one of them."""
    client.send(ConfirmSelect(), QueueDeclare("r", durable=True))
    await kept.settle()
    client.take()

    def publish():
        client.session.receive(
            many(1) + published(b"m", BasicPublish("", "r"), properties=Properties(delivery_mode=2))
        )
        client.session.run(lambda: False)
        kept.broker.batch.finish(lambda: True)
        assert 1 == len(kept.broker.batch.waiting)

    return publish


async def test_a_commit_waits_for_queues_that_have_not_dealt_yet(kept, client):
    """What one command has caused is in one commit, however many slices it takes."""
    publish = await publish_to_two(kept, client)
    publish()
    begun, committer = kept.gate.begun, kept.committer

    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.room)
        await kept.settle()
        assert begun == kept.gate.begun
        kept.turns._more.set()
        await kept.settle()
        client._read()

    assert [BasicAck(2, True)] == client.take()


async def test_whoever_waits_for_a_commit_waits_for_the_queues_of_others_too(kept, client):
    other = kept.connect()
    publish = await publish_to_two(kept, client)
    begun = kept.gate.begun
    publish()

    other.send(QueueDeclare("other", durable=True))
    kept.turns.poller.end_pass()
    assert begun == kept.gate.begun
    await kept.settle()
    client._read()

    assert begun + 1 == kept.gate.begun
    assert [QueueDeclareOk("other", 0, 0)] == other.take()
    assert [BasicAck(2, True)] == client.take()


# a journal that is full


async def test_whoever_needs_room_waits_for_a_commit(kept, client):
    kept.gate.hold()
    has_room = trio.Event()

    async def wait():
        await kept.committer.room()
        has_room.set()

    async with trio.open_nursery() as nursery:
        client.feed(many(PENDING_COUNT))
        assert kept.committer.is_full
        nursery.start_soon(wait)
        await kept.settle()
        assert not has_room.is_set()
        assert not kept.committer.is_full, "what is under way counts no more"
        kept.gate.let_through()
        await kept.settle()
        assert has_room.is_set()


async def test_a_full_journal_is_committed_at_once(kept, client):
    begun = kept.gate.begun

    client.feed(many(PENDING_COUNT))
    await kept.settle()

    assert begun < kept.gate.begun


@pytest.mark.parametrize("kind", ["octets", "messages"])
async def test_octets_and_messages_fill_a_journal(kept, client, kind):
    kept.gate.hold()
    client.feed(many(PENDING_COUNT - 1) if kind == "messages" else many(7, bytes(1 << 20)))
    assert not kept.committer.is_full

    client.feed(many(1) if kind == "messages" else many(1, bytes(1 << 20)))

    assert kept.committer.is_full


async def test_what_is_settled_makes_room(kept, client):
    client.consume("q", "c", no_ack=True)

    client.feed(many(PENDING_COUNT + 10))
    await kept.settle()

    assert not kept.committer.is_full
    journal = kept.persistence._journal
    assert (0, 0) == (journal.count, journal.octets)


async def test_consumers_are_served_while_a_commit_takes_its_time(mock_clock, kept, client):
    kept.gate.hold()
    client.publish(b"a", **PERSISTENT)
    await pass_time(LAZY)
    assert kept.gate.held is not None

    [_, delivery] = client.consume()
    assert [] == client.ack(delivery.tag)
    [second] = client.publish(b"b", **PERSISTENT)

    assert (Received, BasicDeliver) == (type(second), type(second.method))


# a store that fails


async def test_a_store_that_fails_releases_nothing(mock_clock, kept, client):
    client.send(ConfirmSelect())
    client.publish(b"m", **PERSISTENT)
    client.send(QueueDeclare("other", durable=True))
    kept.gate.fail()
    await kept.settle()

    assert kept.failed.is_set()
    assert "the disk is gone" == kept.persistence.failure
    assert [] == client.take()
    await pass_time(1)
    assert [] == client.take()


async def test_nothing_that_comes_after_a_failure_is_confirmed(mock_clock, kept, client):
    client.send(ConfirmSelect())
    client.publish(b"m", **PERSISTENT)
    kept.gate.fail()
    await kept.settle()
    begun = kept.gate.begun

    client.publish(b"n", **PERSISTENT)
    await pass_time(1)

    assert [] == client.take()
    assert begun == kept.gate.begun


async def test_a_flush_ends_when_the_store_fails(kept, client):
    kept.gate.hold()
    client.publish(b"m", **PERSISTENT)
    is_over = trio.Event()

    async def flush():
        await kept.persistence.flush()
        is_over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush)
        await kept.settle()
        assert not is_over.is_set()
        kept.gate.fail()
        await kept.settle()
        assert is_over.is_set()
    await kept.persistence.flush()


async def test_a_flush_commits_all_that_was_caused(kept, client):
    client.publish(b"m", **PERSISTENT)
    begun = kept.gate.begun

    await kept.persistence.flush()
    await kept.persistence.flush()

    assert begun + 1 == kept.gate.begun
    assert not kept.persistence._journal.is_dirty


class Scripted:
    """A journal that has nothing, until told."""

    is_full = False

    def __init__(self) -> None:
        self.is_dirty = self.waits_for_acks = False
        self.count = self.cancelled = 0
        self.rows: list[Row] = []
        self.calls: list[str] = []

    def close(self) -> list[Row]:
        self.calls.append("close")
        self.is_dirty = False
        return self.rows

    def done(self, limit: int) -> None:
        self.calls.append(f"done {limit}")


class Refusing(MemoryStore):
    def begin(self, rows, ended):
        raise StoreFailed("no")


@pytest.mark.parametrize("kind", [MemoryStore, Refusing])
async def test_a_journal_hears_of_a_commit_only_if_it_is_done(broker, kind):
    turns, journal, store = Turns(broker, lambda: 0), Scripted(), kind()
    await store.open()
    lease = await store.acquire(0, "node", 1)
    committer = Committer(turns, journal, store, lease, 47)
    journal.rows = [Row(1, b"index")]

    if kind is Refusing:
        with pytest.raises(StoreFailed):
            await committer.commit()
        assert ["close"] == journal.calls
        assert (0, 2) == (broker.batch.committed, broker.batch.commit)
    else:
        await committer.commit()
        assert ["close", "done 47"] == journal.calls
        assert (1, 2) == (broker.batch.committed, broker.batch.commit)


async def test_without_rows_the_store_is_not_asked(broker):
    committer = Committer(
        Turns(broker, lambda: 0), Scripted(), Refusing(), Lease(0, 1, float("inf")), 0
    )

    await committer.commit()

    assert 1 == broker.batch.committed


async def test_the_commit_before_all_others_waits_for_queues_that_have_not_dealt_yet(
    broker, nursery
):
    turns, journal = Turns(broker, lambda: 0), Scripted()
    committer = Committer(turns, journal, Refusing(), Lease(0, 1, float("inf")), 0)
    broker.batch.waiting[broker.vhosts["/"].declare_queue("q")] = None
    nursery.start_soon(committer.commit)
    await trio.testing.wait_all_tasks_blocked()
    assert [] == journal.calls

    nursery.start_soon(turns.go_on)
    turns.finish()
    await trio.testing.wait_all_tasks_blocked()

    assert ["close", "done 0"] == journal.calls


async def test_no_commit_is_closed_in_the_middle_of_what_one_command_causes(broker, nursery):
    turns, journal = Turns(broker, lambda: 0), Scripted()
    committer = Committer(turns, journal, Refusing(), Lease(0, 1, float("inf")), 0)
    turns.lookers.append(committer.look)
    batch = broker.batch

    def work():
        for number in range(3):
            journal.calls.append(f"step {number}")
            batch.wanted = batch.commit
            yield

    batch.unfinished.append(work())
    nursery.start_soon(committer.run)
    nursery.start_soon(turns.go_on)
    turns._slice = -1  # every slice is over at once
    turns.finish()
    await trio.testing.wait_all_tasks_blocked()

    assert ["step 0", "step 1", "step 2", "close"] == journal.calls[:4]

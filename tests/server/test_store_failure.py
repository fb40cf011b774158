"""A store that fails: at the start, under load, at the end. Nothing is promised any more."""

from dataclasses import replace

import pytest
import structlog
import trio
import trio.testing

from leveret.broker import app
from leveret.broker.persistence import Persistence
from leveret.broker.storage.base import Damaged, StoreFailed
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import (
    ConfirmSelect,
    ConnectionClose,
    ConnectionCloseOk,
    QueueDeclare,
)
from leveret.protocol.reader import Acks

from ..support.edge import DURABLE, Peer, durable, persistent

SHUTDOWN = ConnectionClose(
    320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", 0, 0
)
FAILED = "INTERNAL_ERROR - the store has failed"


@pytest.fixture
def store():
    return MemoryStore()


async def test_failed_commit_confirms_nothing_and_ends_everybody(store, nursery):
    async with durable(store, nursery) as (edge, persistence):
        publisher, bystander = await Peer.connect(edge), await Peer.connect(edge)
        await publisher.call(QueueDeclare("q", durable=True))
        await publisher.call(ConfirmSelect())

        store.fail()
        await publisher.write(persistent(b"x") * 3)

        for peer in (publisher, bystander):
            assert (0, ConnectionClose(541, FAILED, 0, 0)) == await peer.next()
            await peer.send(0, ConnectionCloseOk())
        with trio.fail_after(app.STOP_TIMEOUT - 1):
            await edge.is_over.wait()
        assert persistence.failure
        with pytest.raises(OSError, match="refused"):
            await edge.connect()


async def test_failure_is_told_once_whoever_meets_it(store, broker):
    persistence, stop = Persistence(broker, store, limit=1 << 20), trio.Event()

    async def fail():
        raise StoreFailed("no more")

    with structlog.testing.capture_logs() as lines:
        await persistence._carry_on(fail, stop)
        await persistence._carry_on(fail, stop)

    assert ["store.failed"] == [line["event"] for line in lines]
    assert ("no more", True) == (persistence.failure, stop.is_set())


async def test_of_damage_is_said_what_helps(store, broker):
    persistence = Persistence(broker, store, limit=1 << 20)

    async def fail():
        raise Damaged("row 7 is not what it was")

    await persistence._carry_on(fail, trio.Event())

    assert "row 7 is not what it was; try: leveret store repair" == persistence.failure


async def test_failure_of_the_last_commit_is_told_to_those_who_wait_for_it(store, nursery):
    """Told to stop, the broker commits first; it does not wait for what can never come."""
    async with durable(store, nursery) as (edge, persistence):
        peer = await Peer.connect(edge)
        await peer.call(QueueDeclare("q", durable=True))
        await peer.call(ConfirmSelect())
        store.hold()
        await peer.write(persistent(b"x"))
        while not store.held:
            await trio.testing.wait_all_tasks_blocked(0.01)

        edge.stop.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        store.fail()
        store.let_through()

        assert (0, ConnectionClose(541, FAILED, 0, 0)) == await peer.next()
        await peer.send(0, ConnectionCloseOk())
        with trio.fail_after(app.STOP_TIMEOUT - 1):
            await edge.is_over.wait()
        assert persistence.failure


async def test_publishers_hear_of_what_is_kept_before_the_broker_leaves(store, nursery):
    """What comes while it commits for the last time is committed, too."""
    async with durable(store, nursery) as (edge, persistence):
        peer = await Peer.connect(edge)
        await peer.call(QueueDeclare("q", durable=True))
        await peer.call(ConfirmSelect())
        store.hold()
        await peer.write(persistent(b"a"))
        while not store.held:
            await trio.testing.wait_all_tasks_blocked(0.01)
        edge.stop.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.write(persistent(b"b"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        store.let_through()

        heard = [await peer.next()]
        while isinstance(heard[-1][1], Acks):
            heard.append(await peer.next())
        assert [1, 2] == [tag for _, tags in heard[:-1] for tag in tags]
        assert (0, SHUTDOWN) == heard[-1]
        await peer.send(0, ConnectionCloseOk())
        with trio.fail_after(app.STOP_TIMEOUT - 1):
            await edge.is_over.wait()
        assert not persistence.failure


async def test_who_waits_to_be_closed_does_not_hold_up_the_end_when_the_store_fails(store, nursery):
    async with durable(store, nursery) as (edge, _):
        peer = await Peer.connect(edge)
        await peer.call(QueueDeclare("q", durable=True))
        await peer.call(ConfirmSelect())
        store.hold()
        await peer.write(persistent(b"a"))
        while not store.held:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.send(0, ConnectionClose(200, "bye", 0, 0))
        await trio.testing.wait_all_tasks_blocked(0.01)
        store.fail()
        store.let_through()

        with trio.fail_after(app.STOP_TIMEOUT - 1):
            await edge.is_over.wait()


async def test_what_cannot_be_kept_at_the_start_stops_it(store, monkeypatch, tmp_path):
    store.fail()
    monkeypatch.setattr("leveret.broker.storage.sqlite.SQLiteStore", lambda *_: store)

    with pytest.raises(app.StartError):
        await app._run(replace(DURABLE, data_dir=tmp_path))

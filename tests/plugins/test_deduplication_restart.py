"""Deduplication on a disk: what is known survives with what it is known of, and not without."""

import pytest
import trio

from leveret.broker.server import clock
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import (
    BasicAck,
    BasicGet,
    BasicGetEmpty,
    ConfirmSelect,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    TxCommit,
    TxCommitOk,
    TxSelect,
    TxSelectOk,
)

from ..support.client import Received
from ..support.durable import durable, pass_time

DEDUP = {"x-message-deduplication": True}
PERSISTENT = {"delivery_mode": 2}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def live(store, registry):
    """Return what starts the broker once more, on the same store."""
    return lambda: durable(store, registry=registry)


async def declare(kept, **arguments):
    """Connect, with confirms; declare a queue, and an exchange bound to another one."""
    client = kept.connect()
    more = {f"x-deduplication-{name}": value for name, value in arguments.items()}
    client.send(
        QueueDeclare("q", durable=True, arguments={**DEDUP, **more}),
        ExchangeDeclare("x", "fanout", durable=True, arguments={**DEDUP, **more}),
        QueueDeclare("behind", durable=True),
        QueueBind("behind", "x"),
        ConfirmSelect(),
    )
    await kept.settle()
    client.take()
    return client


async def sent(kept, client, body, message_id="1", exchange="", **properties):
    """Publish, wait until nothing happens, and return what came back."""
    key = "" if exchange else "q"
    properties = properties or PERSISTENT
    answers = client.publish(body, key, exchange, message_id=message_id, **properties)
    await kept.settle()
    return answers + client.take()


async def drain(kept, client, queue="q"):
    """Return the bodies of all that is in a queue, and take it out."""
    found = []
    while isinstance(answer := await got(kept, client, queue), Received):
        found.append(answer.body)
    assert isinstance(answer, BasicGetEmpty)
    return found


async def got(kept, client, queue):
    answers = client.send(BasicGet(queue, no_ack=True))
    await kept.settle()
    [answer] = answers + client.take()
    return answer


def notes(store):
    return [key for kind, key in store.definitions if kind == "note"]


@pytest.mark.parametrize(("exchange", "queue"), [("", "q"), ("x", "behind")])
async def test_a_duplicate_is_dropped_after_a_restart(live, exchange, queue):
    async with live() as kept:
        client = await declare(kept)
        assert [BasicAck(1)] == await sent(kept, client, b"1", exchange=exchange)

    async with live() as kept:
        client = await declare(kept)
        assert [BasicAck(1)] == await sent(kept, client, b"2", exchange=exchange)
        assert [b"1"] == await drain(kept, client, queue)


@pytest.mark.parametrize(("exchange", "queue"), [("", "q"), ("x", "behind")])
async def test_what_never_reached_the_disk_is_not_remembered(live, exchange, queue):
    async with live() as kept:
        client = await declare(kept)
        kept.gate.hold()
        assert [] == await sent(kept, client, b"1", exchange=exchange)

    async with live() as kept:
        client = await declare(kept)
        assert [BasicAck(1)] == await sent(kept, client, b"2", exchange=exchange)
        assert [b"2"] == await drain(kept, client, queue)


async def test_what_reached_the_disk_unheard_is_remembered(live):
    async with live() as kept:
        client = await declare(kept)
        kept.gate.hold()
        assert [] == await sent(kept, client, b"1"), "its publisher does not know"
        await kept.gate.carry_out()

    async with live() as kept:
        client = await declare(kept)
        assert [BasicAck(1)] == await sent(kept, client, b"2")
        assert [b"1"] == await drain(kept, client)


async def test_a_duplicate_is_confirmed_with_the_commit_of_the_first_one(live):
    async with live() as kept:
        first, second = await declare(kept), await declare(kept)
        kept.gate.hold()

        assert [] == await sent(kept, first, b"1")
        assert [] == await sent(kept, second, b"2"), "the first one is not on the disk"
        kept.gate.let_through()
        await kept.settle()

        assert ([BasicAck(1)], [BasicAck(1)]) == (first.take(), second.take())


async def test_a_duplicate_of_what_is_kept_waits_for_nothing(live):
    async with live() as kept:
        client = await declare(kept)
        await sent(kept, client, b"1")
        kept.gate.hold()

        assert [BasicAck(2)] == await sent(kept, client, b"2")


async def test_a_transaction_with_a_duplicate_waits_for_the_first_one(live):
    async with live() as kept:
        first, second = await declare(kept), kept.connect()
        assert [TxSelectOk()] == second.send(TxSelect())
        kept.gate.hold()
        await sent(kept, first, b"1")

        await sent(kept, second, b"2")
        second.send(TxCommit())
        await kept.settle()
        assert [] == second.take()
        kept.gate.let_through()
        await kept.settle()

        assert [TxCommitOk()] == second.take()
        assert [b"1"] == await drain(kept, kept.connect())


async def test_what_was_consumed_before_its_commit_is_remembered_all_the_same(live):
    async with live() as kept:
        publisher, consumer = await declare(kept), kept.connect()
        kept.gate.hold()
        consumer.consume("q", no_ack=True)
        assert [] == await sent(kept, publisher, b"1"), "its identity is not on the disk"
        assert [b"1"] == consumer.bodies()
        kept.gate.let_through()
        await kept.settle()
        assert [BasicAck(1)] == publisher.take()

    async with live() as kept:
        client = await declare(kept)
        assert [BasicAck(1)] == await sent(kept, client, b"2")
        assert [] == await drain(kept, client)


async def test_of_a_transient_message_nothing_is_kept(live):
    async with live() as kept:
        client = await declare(kept)
        await sent(kept, client, b"1", delivery_mode=1)
        await sent(kept, client, b"2", delivery_mode=1)
        assert [b"1"] == await drain(kept, client)

    async with live() as kept:
        client = await declare(kept)
        await sent(kept, client, b"3", delivery_mode=1)
        assert [b"3"] == await drain(kept, client)


async def test_the_window_goes_on_while_the_broker_is_away(live, mock_clock, monkeypatch):
    monkeypatch.setattr(clock, "time", lambda: 1.8e9 + trio.current_time())
    async with live() as kept:
        client = await declare(kept, window=10_000)
        await sent(kept, client, b"1", "1")
        await pass_time(5)
        kept.turns.look_at_clock()
        await sent(kept, client, b"2", "2")
    await pass_time(5)

    async with live() as kept:
        client = await declare(kept, window=10_000)
        kept.turns.run_timers()
        for number in ("1", "2"):
            await sent(kept, client, b"again " + number.encode(), number)
        assert [b"1", b"2", b"again 1"] == await drain(kept, client)


async def test_many_commits_make_few_notes_which_go_as_the_window_moves_on(live, store):
    async with live() as kept:
        client = await declare(kept, size=300)
        for number in range(1000):
            await sent(kept, client, b"m", str(number))
        await kept.settle()
        assert 2 <= len(notes(store)) <= 3

    async with live() as kept:
        client = await declare(kept, size=300)
        await sent(kept, client, b"new", "699")
        await sent(kept, client, b"old", "701")
        await drain(kept, client)
        for number in range(1000, 2000):
            await sent(kept, client, b"m", str(number))
        assert 2 <= len(notes(store)) <= 3


async def test_many_of_one_slice_are_remembered_one_by_one(live):
    async with live() as kept:
        client = await declare(kept)
        for number in range(1500):
            client.publish(b"m", message_id=str(number), **PERSISTENT)
        await kept.settle()
        client.take()

    async with live() as kept:
        client = await declare(kept)
        for number in range(1501):
            client.publish(b"m", message_id=str(number), **PERSISTENT)
        await kept.settle()
        client.take()
        assert 1501 == len(await drain(kept, client))


async def test_what_is_remembered_goes_with_the_queue(live, store):
    async with live() as kept:
        client = await declare(kept)
        await sent(kept, client, b"1")
        assert 1 == len(notes(store))

        client.send(QueueDelete("q"))
        await kept.settle()
        assert [] == notes(store)

    async with live() as kept:
        client = await declare(kept)
        await sent(kept, client, b"2")
        assert [b"2"] == await drain(kept, client)

"""The forgetter: what is delivered leaves memory, and comes back from the store if it has to."""

import pytest

from leveret.broker.core import paging
from leveret.broker.server import forgetter as forgetter_module
from leveret.broker.server import spiller as spiller_module
from leveret.broker.server.forgetter import Forgetter
from leveret.broker.server.spiller import Spiller
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicPublish,
    BasicRecover,
    QueueDeclare,
    TxRollback,
    TxSelect,
)
from leveret.protocol.properties import Properties

from ..support.client import Received, published
from ..support.durable import durable

COUNT = 20


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(forgetter_module, "STEP", 3)
    monkeypatch.setattr(paging, "RETURNED_BYTES", 0)


@pytest.fixture
async def kept():
    async with durable(MemoryStore()) as made:
        yield made


@pytest.fixture
async def client(kept):
    made = kept.connect()
    made.send(QueueDeclare("q", durable=True), QueueDeclare("r", durable=True))
    await kept.persistence.flush()
    assert 2 == len(made.take())
    return made


@pytest.fixture
def queue(kept, client):
    return kept.broker.vhosts["/"].queue("q")


@pytest.fixture
def forgetter(kept):
    return Forgetter(kept.broker)


def publish(client, count=COUNT, key="q", start=0, mode=2):
    properties = Properties(delivery_mode=mode)
    numbers = range(start, start + count)
    method = BasicPublish("", key)
    client.feed(b"".join(published(b"%d" % n, method, properties=properties) for n in numbers))


async def delivered(kept, client, count=COUNT, **options):
    """Have messages in the store, and delivered but not acknowledged."""
    publish(client, count, **options)
    await kept.persistence.flush()
    assert 1 + count == len(client.consume(options.get("key", "q"), "c"))


def forget(forgetter, *queues):
    return len(list(forgetter.forget(set(queues))))


async def bodies(kept, client, method):
    """Return what is delivered because of a method, sooner or later."""
    items = client.send(method)
    await kept.settle()
    return [item.body for item in items + client.take() if isinstance(item, Received)]


async def test_of_what_is_delivered_only_the_sizes_stay(kept, client, queue, forgetter):
    await delivered(kept, client)
    size = queue.bytes

    forget(forgetter, queue)

    assert (size, size, 0) == (queue.bytes, queue.absent_bytes, queue.unacked_memory)
    assert COUNT == forgetter.count
    client.ack(COUNT, multiple=True)
    assert (0, 0, 0, 0) == (queue.bytes, queue.memory, queue.absent_bytes, queue.unacked_count)


async def test_it_comes_back_as_it_was(kept, client, queue, forgetter):
    await delivered(kept, client)
    forget(forgetter, queue)
    client.ack(3)

    received = await bodies(kept, client, BasicNack(10, multiple=True, requeue=True))

    assert [b"%d" % n for n in range(10) if n != 2] == received
    assert COUNT - 1 == queue.unacked_count
    received = await bodies(kept, client, BasicNack(0, multiple=True, requeue=True))
    assert [b"%d" % n for n in range(COUNT) if n != 2] == received


async def test_it_comes_back_when_its_connection_is_lost(kept, client, queue, forgetter):
    await delivered(kept, client)
    forget(forgetter, queue)
    client.lose()
    other = kept.connect()
    await kept.settle()
    assert (COUNT, 0) == other.counts()

    received = await bodies(kept, other, BasicConsume("q", "other"))

    assert [b"%d" % n for n in range(COUNT)] == received


async def test_it_is_there_after_a_restart(kept, client, queue, forgetter):
    await delivered(kept, client)
    forget(forgetter, queue)
    await kept.stop()

    async with durable(kept.gate.store) as again:
        received = await bodies(again, again.connect(), BasicConsume("q", "c"))
        assert [b"%d" % n for n in range(COUNT)] == received


async def test_what_is_not_in_the_store_yet_stays_and_is_looked_at_again(
    kept, client, queue, forgetter
):
    await delivered(kept, client, 5)
    publish(client, 5, start=5)
    assert 5 == len(client.bodies())
    size = queue.bytes // 10

    forget(forgetter, queue)
    assert 5 * size == queue.absent_bytes
    await kept.persistence.flush()
    forget(forgetter, queue)

    assert 10 * size == queue.absent_bytes


async def test_what_is_transient_stays(kept, client, queue, forgetter):
    await delivered(kept, client, mode=1)

    forget(forgetter, queue)

    assert 0 == queue.absent_bytes
    assert COUNT == len(await bodies(kept, client, BasicRecover(True)))


async def test_queues_with_little_are_left_alone_until_they_have_much(
    kept, client, queue, forgetter
):
    other = kept.broker.vhosts["/"].queue("r")
    await delivered(kept, client)
    publish(client, key="r")
    await kept.persistence.flush()
    client.consume("r", "d")

    forget(forgetter, queue)
    assert (0, other.bytes) == (other.absent_bytes, other.unacked_memory)
    forget(forgetter, queue, other)

    assert other.bytes == other.absent_bytes


async def test_each_delivery_is_looked_at_once(kept, client, queue, forgetter):
    await delivered(kept, client)

    assert -(-COUNT // 3) == forget(forgetter, queue)
    assert 0 == forget(forgetter, queue)
    publish(client, 3, start=COUNT)
    await kept.persistence.flush()
    assert 1 == forget(forgetter, queue)
    assert queue.bytes == queue.absent_bytes


async def test_a_spiller_has_it_forget_and_counts_that_as_found(kept, client, queue, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(spiller_module, "perf_counter", lambda: now[0])
    await delivered(kept, client)
    step = Forgetter._forget

    def slow(forgetter, channel, tags):
        now[0] += 1
        return step(forgetter, channel, tags)

    monkeypatch.setattr(Forgetter, "_forget", slow)
    spiller = Spiller(kept.turns, None, limit=1, memory=1 << 30, measure=lambda: 0)

    assert (COUNT, -(-COUNT // 3)) == await spiller.spill()
    assert 0 == queue.unacked_memory
    assert (0, 0) == await spiller.spill()


async def test_few_among_many_tags_are_found(kept, client, queue, forgetter):
    await delivered(kept, client)
    for tag in range(1, COUNT):
        if tag != 7:
            client.ack(tag)

    assert 1 == forget(forgetter, queue)
    assert queue.bytes == queue.absent_bytes


async def test_what_was_got_one_by_one_leaves_memory_too(kept, client, queue, forgetter):
    publish(client, 2)
    await kept.persistence.flush()
    client.send(BasicGet("q"), BasicGet("q"))

    forget(forgetter, queue)
    assert queue.bytes == queue.absent_bytes
    client.lose()

    assert [b"0", b"1"] == await bodies(kept, kept.connect(), BasicConsume("q", "c"))


async def test_what_a_transaction_has_settled_and_gives_back_stays(kept, client, queue, forgetter):
    client.send(TxSelect())
    publisher = kept.connect()
    publish(publisher, 3)
    await kept.persistence.flush()
    client.consume("q", "c")
    client.ack(2, multiple=True)
    forget(forgetter, queue)
    assert (1, 3) == (3 * queue.absent_bytes // queue.bytes, queue.unacked_count)

    client.send(TxRollback())
    client.lose()
    received = await bodies(kept, kept.connect(), BasicConsume("q", "c"))

    assert [b"0", b"1", b"2"] == received
    assert (0, queue.bytes) == (queue.absent_bytes, queue.unacked_memory)

"""The pager: what is only in the store is read before it is dealt, and nobody else waits for it."""

from zlib import crc32

import pytest

from leveret.broker.core import runs
from leveret.broker.core.runs import FRONT
from leveret.broker.storage import recovery
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import (
    BasicGet,
    BasicGetEmpty,
    BasicGetOk,
    BasicPublish,
    BasicQos,
    BasicQosOk,
    QueueDeclare,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
)
from leveret.protocol.properties import Properties

from ..support.client import Received, published
from ..support.durable import durable

CHUNK = 4  # messages
COUNT = 10 * CHUNK
LIMIT = 100  # octets of a queue that stay in memory


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    for module in (runs, recovery):
        monkeypatch.setattr(module, "CHUNK_LENGTH", CHUNK)


def bodies(count=COUNT, start=0):
    return [b"%d" % number for number in range(start, start + count)]


async def publish(kept, client, count=COUNT, key="q", start=0, mode=2):
    """Publish persistent messages in one piece, and have them committed."""
    properties = Properties(delivery_mode=mode)
    client.feed(
        b"".join(
            published(body, BasicPublish("", key), properties=properties)
            for body in bodies(count, start)
        )
    )
    await kept.persistence.flush()


@pytest.fixture
async def store():
    """A store with messages in the queues q and r."""
    made = MemoryStore()
    async with durable(made, LIMIT) as kept:
        client = kept.connect()
        for name in ("q", "r"):
            client.send(QueueDeclare(name, durable=True))
            await publish(kept, client, key=name)
        await kept.stop()
    return made


@pytest.fixture
async def kept(store):
    """A broker after a restart: nothing is read yet, nor will be until the test says so."""
    async with durable(store, LIMIT) as made:
        made.gate.hold_reads()
        yield made


@pytest.fixture
def client(kept):
    return kept.connect()


@pytest.fixture
def queue(kept):
    return kept.broker.vhosts["/"].queue("q")


def shown(items):
    return [item.body if isinstance(item, Received) else item for item in items]


async def test_after_a_restart_nothing_is_read_until_somebody_needs_it(kept, client, queue):
    await kept.settle()

    assert (COUNT, 0) == client.counts()
    assert queue.memory == 0
    assert not kept.persistence._journal.is_asked


async def test_consumers_get_everything_in_order(kept, client):
    kept.gate.let_reads_through()
    client.consume("q", "c", no_ack=True)
    await kept.settle()

    assert bodies() == client.bodies()


async def test_what_is_published_meanwhile_comes_behind_what_is_read(kept, client):
    client.consume("q", "c", no_ack=True)
    client.publish(b"new")
    await kept.settle()
    assert [] == client.take()

    kept.gate.let_reads_through()
    await kept.settle()
    assert [*bodies(), b"new"] == client.bodies()


async def test_so_many_chunks_are_read_ahead_and_no_more(kept, client, queue):
    kept.gate.let_reads_through()
    client.consume("q", "c", prefetch=1)
    await kept.settle()

    assert [b"0"] == client.bodies()
    assert COUNT - FRONT * CHUNK == queue.runs.paged_count
    assert [b"1"] == shown(client.ack(1))
    await kept.settle()
    assert COUNT - FRONT * CHUNK == queue.runs.paged_count


async def test_a_chunk_is_asked_for_once(kept, client, queue):
    asked = []
    ask = kept.persistence._journal.ask
    kept.persistence._journal.ask = lambda place: (asked.append(place), ask(place))

    client.consume("q", "c", prefetch=1)
    client.consume("q", "d", prefetch=1)
    client.publish(b"new")

    assert FRONT == len(asked)


async def test_the_head_of_a_queue_stays_in_memory_and_the_rest_is_left_to_the_store(store):
    async with durable(MemoryStore(), LIMIT) as kept:
        client = kept.connect()
        client.send(QueueDeclare("q", durable=True))
        await publish(kept, client)
        queue = kept.broker.vhosts["/"].queue("q")

        assert COUNT - runs.FRONT * CHUNK == queue.runs.paged_count
        client.take()
        _, *found = client.consume("q", "c", no_ack=True)
        await kept.settle()
        assert bodies() == shown(found) + client.bodies()


async def test_transient_messages_stay_in_memory(store):
    async with durable(MemoryStore(), LIMIT) as kept:
        client = kept.connect()
        client.send(QueueDeclare("q", durable=True))
        await publish(kept, client, mode=1)

        assert 0 == kept.broker.vhosts["/"].queue("q").runs.paged_count


async def test_what_is_not_committed_stays_in_memory(store):
    async with durable(MemoryStore(), LIMIT) as kept:
        client = kept.connect()
        client.send(QueueDeclare("q", durable=True))
        await publish(kept, client)
        queue = kept.broker.vhosts["/"].queue("q")
        paged = queue.runs.paged_count
        kept.gate.hold()
        client.publish_many(bodies(start=COUNT))
        await kept.settle()

        assert paged == queue.runs.paged_count


# basic.get


async def test_a_get_waits_for_its_message_and_then_goes_on(kept, client):
    assert [] == client.send(BasicGet("q"), BasicQos(0, 7))
    await kept.settle()
    assert client.is_waiting

    kept.gate.let_reads_through()
    await kept.settle()
    found, qos_ok = client.take()

    assert (b"0", BasicGetOk, True) == (
        found.body,
        type(found.method),
        found.method.message_count == COUNT - 1,
    )
    assert BasicQosOk() == qos_ok


async def test_other_connections_go_on_while_a_get_waits(kept, client):
    other = kept.connect()
    client.send(BasicGet("q"))

    assert [BasicQosOk()] == other.send(BasicQos(0, 1))
    assert (COUNT, 0) == other.counts()


async def test_many_gets_in_a_row_get_everything(kept, client):
    kept.gate.let_reads_through()
    client.send(*[BasicGet("q", no_ack=True)] * (COUNT + 1))
    await kept.settle()

    assert [*bodies(), BasicGetEmpty()] == shown(client.take())


async def test_two_who_get_from_one_queue_get_different_messages(kept, client):
    other = kept.connect()
    client.send(BasicGet("q"))
    other.send(BasicGet("q"))
    kept.gate.let_reads_through()
    await kept.settle()

    assert [b"0", b"1"] == sorted(shown(client.take()) + shown(other.take()))


async def test_a_get_that_waits_finds_nothing_when_the_queue_is_purged(kept, client):
    other = kept.connect()
    client.send(BasicGet("q"))
    await kept.settle()  # it is being read
    assert [QueuePurgeOk(COUNT)] == await answered(kept, other, QueuePurge("q"))
    kept.gate.let_reads_through()
    await kept.settle()

    assert [BasicGetEmpty()] == client.take()


async def test_a_get_that_waits_fails_when_the_queue_is_deleted(kept, client):
    other = kept.connect()
    client.send(BasicGet("q"))
    await kept.settle()
    other.send(QueueDelete("q"))
    kept.gate.let_reads_through()
    await kept.settle()

    [close] = client.take()
    assert 404 == close.reply_code


async def test_a_connection_that_is_lost_while_it_waits_takes_nothing_along(kept, client, queue):
    client.send(BasicGet("q"))
    await kept.settle()
    client.lose()
    kept.gate.let_reads_through()
    await kept.settle()

    assert (COUNT, 0) == (queue.ready_count, queue.unacked_count)


async def test_a_get_fails_when_its_queue_is_deleted_before_it_is_read(kept, client):
    other = kept.connect()
    client.send(BasicGet("q"))
    other.send(QueueDelete("q"))  # in the same step: nobody has begun to read
    kept.gate.let_reads_through()
    await kept.settle()

    [close] = client.take()
    assert 404 == close.reply_code


async def test_a_get_goes_on_when_its_chunk_comes_before_anyone_waits_for_it(kept, client):
    """A task of the connection waits, which begins in the next step of the scheduler."""
    client.send(BasicGet("q"))
    place, *_ = kept.persistence._journal.take_asked()
    rows = kept.gate.store.rows
    place.load([rows[seq][1][start : start + size] for seq, start, size in place.refs()])
    kept.turns.loaded()
    await kept.settle()

    assert [b"0"] == shown(client.take())


# what is given up


async def answered(kept, client, method):
    client.send(method)
    await kept.settle()
    return client.take()


async def test_a_chunk_that_was_purged_is_dropped(kept, client, queue):
    client.consume("q", "c", no_ack=True)
    await kept.settle()
    other = kept.connect()
    other.send(QueuePurge("q"))
    other.publish(b"new")
    kept.gate.let_reads_through()
    await kept.settle()

    assert [b"new"] == [item.body for item in client.take() if isinstance(item, Received)]
    assert (0, 0, 0) == (queue.bytes, queue.memory, queue.runs.paged_bytes)


async def test_a_chunk_of_a_deleted_queue_is_dropped(kept, client):
    client.consume("q", "c", no_ack=True)
    await kept.settle()
    other = kept.connect()
    assert [QueueDeleteOk(COUNT)] == await answered(kept, other, QueueDelete("q"))
    kept.gate.let_reads_through()
    await kept.settle()
    client.take()

    client.consume("r", "d", no_ack=True)
    await kept.settle()
    assert bodies() == client.bodies()
    assert not kept.failed.is_set()


async def test_what_is_asked_for_is_not_read_once_it_is_purged(kept, client):
    """Its row may be gone by then."""
    other = kept.connect()
    client.consume("q", "c", no_ack=True)
    other.consume("r", "d", no_ack=True)
    await kept.settle()  # q is being read, r comes next
    assert [QueuePurgeOk(COUNT)] == await answered(kept, client, QueuePurge("r"))
    kept.gate.let_reads_through()
    await kept.settle()

    assert [] == other.take()
    assert not kept.failed.is_set()


async def test_a_store_that_cannot_read_fails(kept, client):
    kept.gate.store.rows.clear()
    client.consume("q", "c", no_ack=True)
    kept.gate.let_reads_through()
    await kept.settle()

    assert kept.failed.is_set()
    assert [] == client.take()


@pytest.mark.parametrize("at", [0, 2], ids=["class", "method"])
async def test_a_message_that_is_damaged_fails_the_store_and_names_the_row(store, at):
    seq, (index, body) = next((seq, row) for seq, row in store.rows.items() if row[1])
    damaged = body[:at] + bytes([body[at] ^ 64]) + body[at + 1 :]
    store.rows[seq], store.sums[seq] = (index, damaged), crc32(damaged)  # as a repair leaves it
    async with durable(store, LIMIT) as kept:
        client = kept.connect()
        for name in ("q", "r"):
            client.consume(name, name, no_ack=True)
        await kept.settle()

        assert kept.failed.is_set()
        assert f"row {seq}: position 0 of queue" in kept.persistence.failure
        assert "leveret store repair" in kept.persistence.failure

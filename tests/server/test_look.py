"""Looking at messages that are not in memory: copies are read, and the queue does not notice."""

import pytest
import trio.testing

from leveret.broker.core import inspect, paging, runs
from leveret.broker.core.broker import Broker
from leveret.broker.core.filter import Filter
from leveret.broker.core.inspect import peek
from leveret.broker.core.message import Absent
from leveret.broker.server.forgetter import Forgetter
from leveret.broker.server.spiller import Spiller
from leveret.broker.server.turns import Turns
from leveret.broker.storage import recovery
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.scratch import Scratch
from leveret.protocol.methods import BasicNack, BasicPublish, QueueDeclare, QueuePurge
from leveret.protocol.properties import Properties

from ..support.client import published
from ..support.durable import durable
from ..support.fakes import Target, message

CHUNK = 4  # messages
COUNT = 10 * CHUNK
LIMIT = 100  # octets of a queue that stay in memory


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    for module in (runs, recovery):
        monkeypatch.setattr(module, "CHUNK_LENGTH", CHUNK)
    monkeypatch.setattr(runs, "LEAST_SPILLED", 1)
    monkeypatch.setattr(paging, "RETURNED_BYTES", 0)


def bodies(page):
    return [int(each.message.body) for each in page.messages]


def ask(turns, queue, **options):
    """Begin to look within a slice of its own; return where the page will be."""
    pages = []
    peek(queue, pages.append, **options)
    turns.finish()
    return pages


# What the store has


@pytest.fixture
async def store():
    """A store with messages in the queue q, every third of which has the routing key r."""
    made = MemoryStore()
    async with durable(made, LIMIT) as kept:
        client = kept.connect()
        client.send(QueueDeclare("q", durable=True))
        client.session.vhost.bind("amq.fanout", client.session.vhost.queue("q"), "")
        properties = Properties(delivery_mode=2)
        for number in range(COUNT):
            method = BasicPublish("amq.fanout", "q" if number % 3 else "r")
            client.feed(published(b"%d" % number, method, properties=properties))
        await kept.persistence.flush()
        await kept.stop()
    return made


@pytest.fixture
async def kept(store):
    """A broker after a restart: all of the queue is in the store only."""
    async with durable(store, LIMIT) as made:
        yield made


@pytest.fixture
def queue(kept):
    return kept.broker.vhosts["/"].queue("q")


async def seen(kept, queue, **options):
    """Return the page when it has been read."""
    pages = ask(kept.turns, queue, **options)
    await kept.settle()
    [page] = pages
    return page


async def test_what_only_the_store_has_is_read_for_the_page_and_stays_there(kept, queue):
    pages = ask(kept.turns, queue, limit=6)
    assert [] == pages

    await kept.settle()

    assert list(range(6)) == bodies(pages[0])
    assert (COUNT, 0) == (queue.runs.paged_count, queue.memory)


async def test_pages_together_have_each_message_once(kept, queue):
    found, after = [], ""
    while after is not None:
        page = await seen(kept, queue, limit=7, after=after)
        found += bodies(page)
        after = page.next

    assert list(range(COUNT)) == found


async def test_a_filter_is_asked_when_the_messages_are_here(kept, queue):
    wanted = Filter(routing_key="r")

    first = await seen(kept, queue, wanted=wanted, limit=3)
    second = await seen(kept, queue, wanted=wanted, after=first.next)

    assert [0, 3, 6] == bodies(first)
    assert list(range(9, COUNT, 3)) == bodies(second)
    assert second.next is None


async def test_no_more_is_read_for_a_page_than_its_share(kept, queue, monkeypatch):
    size = queue.runs.bytes // COUNT
    monkeypatch.setattr(inspect, "FETCHED", 5 * size)

    page = await seen(kept, queue, limit=20)

    assert list(range(5)) == bodies(page)
    assert "4" == page.next


async def test_consumers_get_everything_beside_it(kept, queue):
    client = kept.connect()
    kept.gate.hold_reads()
    pages = ask(kept.turns, queue, limit=COUNT)
    client.consume("q", "c", no_ack=True)
    kept.gate.let_reads_through()
    await kept.settle()

    assert list(range(COUNT)) == [int(body) for body in client.bodies()]
    assert len(pages[0].messages) + pages[0].gone == COUNT


async def test_what_has_left_the_queue_before_it_is_read_is_left_out(kept, queue):
    kept.gate.hold_reads()
    client = kept.connect()
    client.consume("q", "c", prefetch=2 * CHUNK, no_ack=False)
    pages = ask(kept.turns, queue, limit=COUNT)  # it is behind what the queue has asked for
    client.send(QueuePurge("q"))
    await kept.persistence.flush()
    kept.gate.let_reads_through()
    await kept.settle()

    [page] = pages
    assert ((), COUNT, None) == (page.messages, page.gone, page.next)


async def test_a_page_of_a_queue_that_is_deleted_meanwhile_comes(kept, queue):
    kept.gate.hold_reads()
    pages = ask(kept.turns, queue)
    queue.vhost.delete_queue(queue)
    await kept.persistence.flush()
    kept.gate.let_reads_through()
    await kept.settle()

    assert COUNT == len(pages[0].messages) + pages[0].gone


async def test_unacked_messages_that_were_let_go_are_read(kept, queue):
    client = kept.connect()
    client.consume("q", "c", prefetch=5)
    await kept.settle()
    for _ in Forgetter(kept.broker).forget({queue}):
        pass
    held = client.session.channels[1].unacked
    assert all(isinstance(each, Absent) for _, _, each in held.values())

    page = await seen(kept, queue, state="unacked")

    assert list(range(5)) == bodies(page)
    assert ["c"] * 5 == [each.holder.consumer_tag for each in page.messages]
    assert all(isinstance(each, Absent) for _, _, each in held.values())


async def test_what_was_acked_meanwhile_is_left_out(kept, queue):
    client = kept.connect()
    client.consume("q", "c", prefetch=5)
    await kept.settle()
    for _ in Forgetter(kept.broker).forget({queue}):
        pass
    kept.gate.hold_reads()
    pages = ask(kept.turns, queue, state="unacked")
    for tag in (1, 2, 4):
        client.ack(tag)
    await kept.persistence.flush()
    kept.gate.let_reads_through()
    await kept.settle()

    assert {2, 4} <= set(bodies(pages[0]))
    assert 5 == len(pages[0].messages) + pages[0].gone


async def test_how_often_a_message_came_back_is_told(kept, queue):
    client = kept.connect()
    client.consume("q", "c", prefetch=2)
    await kept.settle()
    client.send(BasicNack(2, True, True))
    await kept.settle()
    client.send(BasicNack(4, False, True))
    await kept.settle()

    page = await seen(kept, queue, state="unacked")

    assert {0: 1, 1: 2} == {each.position: each.delivery_count for each in page.messages}


async def test_what_came_back_and_is_not_in_memory_is_read_in_its_place(kept, queue):
    client = kept.connect()
    client.consume("q", "c", prefetch=6)
    await kept.settle()
    client.lose()
    await kept.settle()
    assert queue.returned.absent_bytes

    page = await seen(kept, queue, limit=8)

    assert list(range(8)) == bodies(page)
    assert [True] * 6 == [each.redelivered for each in page.messages][:6]
    assert queue.returned.absent_bytes


# What a scratch file has


@pytest.fixture
async def scratch(tmp_path):
    made = Scratch(tmp_path / "scratch")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def spilled(scratch, nursery):
    """Turns, and a queue most of which is in a scratch file."""
    broker = Broker()
    broker.add_defaults()
    turns = Turns(broker, lambda: 0)
    spiller = Spiller(turns, scratch, limit=LIMIT, memory=1 << 30, measure=lambda: 0)
    turns.lookers.append(spiller.look)
    nursery.start_soon(spiller.read)
    queue = broker.vhosts["/"].declare_queue("q")
    queue.incoming += [message(b"%d" % number) for number in range(COUNT)]
    queue.touch()
    turns.finish()
    await spiller.spill()
    assert queue.runs.paged_count
    return turns, queue


async def seen_of(spilled, **options):
    turns, queue = spilled
    pages = ask(turns, queue, **options)
    while not pages:
        await trio.testing.wait_all_tasks_blocked(0.001)
    [page] = pages
    return page


async def test_what_a_scratch_file_has_is_read_and_stays_there(spilled):
    paged = spilled[1].runs.paged_count

    page = await seen_of(spilled, limit=COUNT)

    assert list(range(COUNT)) == bodies(page)
    assert paged == spilled[1].runs.paged_count


async def test_a_page_may_begin_and_end_within_a_chunk_of_a_file(spilled):
    after = COUNT - 2 * CHUNK

    page = await seen_of(spilled, after=f"{after}", limit=CHUNK)

    assert list(range(after + 1, after + 1 + CHUNK)) == bodies(page)
    assert f"{after + CHUNK}" == page.next


async def test_what_was_taken_out_of_a_chunk_of_a_file_is_not_shown(spilled):
    last = COUNT - 2 * CHUNK
    assert 2 == len(spilled[1].runs.remove(last - 2, last - 1))

    page = await seen_of(spilled, after=f"{last - 2 * CHUNK}", limit=COUNT)

    assert [*range(last - 2 * CHUNK + 1, last - 2), *range(last, COUNT)] == bodies(page)


async def test_what_was_asked_for_is_read_though_the_queue_is_purged(spilled):
    turns, queue = spilled
    pages = ask(turns, queue, limit=COUNT)
    queue.purge()
    turns.finish()
    while not pages:
        await trio.testing.wait_all_tasks_blocked(0.001)

    assert list(range(COUNT)) == bodies(pages[0])


async def test_a_queue_goes_on_dealing_while_somebody_looks(spilled):
    turns, queue = spilled
    ask(turns, queue, limit=COUNT)
    target = Target()
    target.consume(queue, no_ack=True)
    while len(target.got) < COUNT:
        turns.finish()
        await trio.testing.wait_all_tasks_blocked(0.001)

    assert list(range(COUNT)) == [int(body) for body in target.bodies]

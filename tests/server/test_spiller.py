"""The spiller: queues keep their budget in memory, and what they left behind comes in its turn."""

import errno
import os
from itertools import pairwise
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from leveret.broker import plugins
from leveret.broker.core import runs
from leveret.broker.core.broker import Broker
from leveret.broker.core.chunks import Paged
from leveret.broker.core.message import OVERHEAD
from leveret.broker.core.queue import NotLoaded
from leveret.broker.core.runs import FRONT
from leveret.broker.plugins import fair_key
from leveret.broker.server import spiller as spiller_module
from leveret.broker.server.spiller import (
    BUSY_SHARE,
    HINDERED,
    PAUSE,
    SHARE,
    SHORT_PAUSE,
    Spiller,
)
from leveret.broker.server.turns import Turns
from leveret.broker.storage.scratch import Scratch
from leveret.protocol.properties import Properties

from ..support.fakes import Target, message

CHUNK = 8  # messages
SIZE = 100 + 14  # octets of a message with its header
LIMIT = 10 * SIZE
TAKES = CHUNK * (SIZE + OVERHEAD)  # a chunk in memory
TRANSIENT, PERSISTENT = Properties(), Properties(delivery_mode=2)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(runs, "CHUNK_LENGTH", CHUNK)
    monkeypatch.setattr(fair_key, "CHUNK_LENGTH", CHUNK)
    monkeypatch.setattr(runs, "LEAST_SPILLED", 2 * SIZE)


class Made:
    """A broker with a spiller, which looks when the test says so."""

    def __init__(self, folder, memory, limit=LIMIT, measured=1 << 40, registry=None):
        self.broker = Broker(registry=registry)
        self.broker.add_defaults()
        self.turns = Turns(self.broker, lambda: 0)
        self.scratch = Scratch(folder)
        self.spiller = Spiller(
            self.turns, self.scratch, limit=limit, memory=memory, measure=lambda: measured
        )
        self.turns.lookers.append(self.spiller.look)
        self.vhost = self.broker.vhosts["/"]

    def queue(self, name="q", count=0, start=0, properties=TRANSIENT):
        queue = self.vhost.queues.get(name) or self.vhost.declare_queue(name)
        for number in range(start, start + count):
            queue.incoming.append(message(b"%0100d" % number, "q", properties))
        queue.touch()
        self.turns.finish()
        return queue

    async def spill(self):
        await self.spiller.spill()
        await self.scratch.tidy()

    @property
    def files(self):
        return sum(file.stat().st_size for file in self.scratch.folder.iterdir())


@pytest.fixture
async def make(tmp_path, nursery):
    made = []

    async def make(memory=1 << 30, **options):
        made.append(Made(tmp_path / "scratch", memory, **options))
        await made[0].scratch.open()
        nursery.start_soon(made[0].spiller.read)
        return made[0]

    yield make
    await made[0].scratch.close()


async def drained(made, queue, count):
    """Consume so many; return the numbers in their bodies."""
    target = Target()
    target.consume(queue, no_ack=True)
    while len(target.got) < count:
        made.turns.finish()
        await trio.testing.wait_all_tasks_blocked(0.001)
    return [int(body) for body in target.bodies]


async def test_what_is_beyond_the_budget_leaves_and_comes_back_in_order(make):
    made = await make()
    queue = made.queue(count=10 * CHUNK + 3)
    before = queue.memory

    await made.spill()

    assert 10 * CHUNK + 3 == queue.ready_count
    assert queue.memory <= before - 7 * CHUNK * SIZE
    assert made.files >= 7 * CHUNK * SIZE
    made.queue(count=5, start=10 * CHUNK + 3)
    assert list(range(10 * CHUNK + 8)) == await drained(made, queue, 10 * CHUNK + 8)


PLUGINS = plugins.load(are_others_wanted=False)


@pytest.mark.parametrize(
    "arguments", [{"x-max-priority": 5}, {"x-fair-key": "tenant"}, {"x-message-ttl": 1000}]
)
async def test_what_is_in_lanes_leaves_memory_and_comes_back_in_order(make, arguments):
    made = await make(registry=PLUGINS)
    queue = made.vhost.declare_queue("q", arguments=arguments)
    for number in range(20 * CHUNK):
        kind = number % 2
        properties = Properties(priority=kind, headers={"tenant": str(kind)})
        queue.incoming.append(message(b"%0100d" % number, "q", properties))
        queue.touch()
        made.turns.finish()
    before = queue.memory

    await made.spill()

    assert queue.memory <= before - 14 * CHUNK * SIZE
    assert made.files >= 14 * CHUNK * SIZE
    found = await drained(made, queue, 20 * CHUNK)
    for kind in (0, 1):
        own = [number for number in found if number % 2 == kind]
        assert list(range(kind, 20 * CHUNK, 2)) == own
    assert 0 == queue.memory


async def test_what_waits_leaves_memory_and_comes_in_its_order(make):
    made = await make(registry=PLUGINS)
    made.vhost.declare_queue("q", arguments={"x-message-delay": 50, "x-max-priority": 5})
    queue = made.queue(count=20 * CHUNK)
    before = queue.memory

    await made.spill()

    assert queue.memory <= before - 17 * CHUNK * SIZE
    made.broker.now += 50
    made.queue()
    assert list(range(20 * CHUNK)) == await drained(made, queue, 20 * CHUNK)


async def test_a_piece_of_what_waits_is_read_once(make):
    made = await make(registry=PLUGINS)
    made.vhost.declare_queue("q", arguments={"x-message-delay": 50})
    for number in range(20 * CHUNK):
        made.broker.now += 1
        queue = made.queue(count=1, start=number)
    await made.spill()
    target = Target()
    target.consume(queue, no_ack=True)
    read, original = [], made.scratch.read
    made.scratch.read = lambda paged: read.append(paged) or original(paged)

    now = made.broker.now
    with trio.fail_after(10):
        while len(target.got) < 20 * CHUNK:
            now += 1
            made.broker.now = now
            queue.touch()
            made.turns.finish()
            await trio.testing.wait_all_tasks_blocked(0.001)

    assert list(range(20 * CHUNK)) == [int(body) for body in target.bodies]
    assert len(read) <= 20


async def test_what_the_journal_has_leaves_memory_without_being_written(make):
    made = await make()
    queue = made.queue()
    queue.log = Log()
    made.queue(count=10 * CHUNK, properties=PERSISTENT)
    queue.log.is_kept = lambda base, count: True

    await made.spill()

    assert queue.memory < LIMIT + (FRONT + 1) * CHUNK * 400
    assert 0 == made.files


async def test_what_is_within_the_budget_stays(make):
    made = await make()
    queue = made.queue(count=5)

    await made.spill()

    assert 0 == made.files
    assert 5 == queue.ready_count


@pytest.mark.parametrize("how", ["purge", "delete", "drain"])
async def test_the_files_are_gone_when_the_messages_are(make, how):
    made = await make()
    queue = made.queue(count=10 * CHUNK)
    await made.spill()
    assert made.files

    if how == "purge":
        assert 10 * CHUNK == queue.purge()
    elif how == "delete":
        made.vhost.delete_queue(queue)
    else:
        await drained(made, queue, 10 * CHUNK)
    while made.broker.batch.debris:
        made.broker.batch.resume()
    await made.spill()

    assert 0 == made.files


async def test_messages_that_are_taken_while_they_are_written_are_not_there_twice(make):
    made = await make()
    queue = made.queue(count=6 * CHUNK)
    write = made.scratch.write
    found = []

    async def take_meanwhile(chunks):
        found.extend(await drained(made, queue, 6 * CHUNK))
        return await write(chunks)

    made.scratch.write = take_meanwhile
    await made.spill()

    assert list(range(6 * CHUNK)) == found
    assert 0 == queue.ready_count
    assert 0 == made.files


async def test_a_get_waits_for_its_message(make):
    made = await make(memory=1)
    queue = made.queue(count=2 * CHUNK)
    await made.spill()
    await made.spill()

    with pytest.raises(NotLoaded):
        queue.pop()
    made.turns.finish()
    await made.turns.wait_until_loaded()

    position, found, redelivered = queue.pop()
    assert (0, 0, False) == (position, int(found.body), redelivered)


async def test_a_chunk_that_is_purged_while_it_is_asked_for_is_forgotten(make):
    made = await make(memory=1)
    queue = made.queue(count=2 * CHUNK)
    await made.spill()
    await made.spill()
    with pytest.raises(NotLoaded):
        queue.pop()
    queue.purge()
    made.turns.finish()
    await made.turns.wait_until_loaded()

    assert queue.pop() is None


class Log:
    """A log that has nothing in rows yet."""

    def __init__(self):
        self.asked = []

    def enqueued(self, base, messages):
        pass

    def is_kept(self, base, count):
        return False


async def test_what_the_journal_will_have_is_left_to_it(make):
    made = await make()
    queue = made.queue()
    queue.log = Log()
    made.queue(count=5 * CHUNK, properties=PERSISTENT)
    made.queue(count=1, start=5 * CHUNK)
    made.queue(count=5 * CHUNK, start=5 * CHUNK + 1, properties=PERSISTENT)
    await made.spill()

    assert 81 == queue.ready_count
    assert [5 * CHUNK] == [each.base for each in queue.runs._chunks if isinstance(each, Paged)]


async def test_when_memory_is_short_queues_without_consumers_keep_nothing(make):
    made = await make(memory=200 * SIZE)
    for number in range(100):
        made.queue(f"q{number}", count=6)
    target = Target()
    target.limit = 0
    target.consume(made.vhost.queues["q0"])
    assert made.broker.memory > 600 * SIZE
    await made.spill()
    assert 0 == made.files, "each is within its budget"

    await made.spill()

    left = {name: queue.memory for name, queue in made.vhost.queues.items() if queue.memory}
    assert ["q0"] == list(left)
    assert list(range(6)) == await drained(made, made.vhost.queues["q7"], 6)


async def test_queues_whose_consumers_take_nothing_keep_nothing_either(make):
    made = await make(memory=200 * SIZE)
    for number in range(100):
        queue = made.queue(f"q{number}")
        target = Target()
        target.limit = 0
        target.consume(queue)
        made.queue(f"q{number}", count=6)
    await made.spill()
    await made.spill()

    assert 0 == sum(queue.memory for queue in made.vhost.queues.values())


def in_chunks(queue):
    """How many chunks of messages are in memory."""
    return queue.memory / TAKES


@pytest.mark.parametrize(
    ("count", "limit", "left"),
    [(4, 1 << 30, 5), (2, 1 << 30, 10), (1, 1 << 30, 20), (2, 7 * TAKES, 7)],
)
async def test_when_memory_is_short_queues_share_a_quarter_within_their_budgets(
    make, count, limit, left
):
    made = await make(memory=80 * TAKES, limit=limit)
    made.queue("empty")
    queues = [made.queue(f"q{number}", count=44 * CHUNK // count) for number in range(count)]
    if limit < 1 << 30:
        made.spiller._in_memory, made.spiller._filled = 44 * TAKES, count
    else:
        await made.spill()
        assert 0 == made.files
    await made.spill()

    assert [left] * count == [in_chunks(queue) for queue in queues]


@pytest.mark.parametrize(("count", "measured"), [(40, 1 << 40), (41, 40 * TAKES)])
async def test_memory_is_not_short_unless_both_messages_and_process_have_more_than_half(
    make, count, measured
):
    """A message in many queues counts in each; and what is not in queues is not theirs to give."""
    made = await make(memory=80 * TAKES, limit=1 << 30, measured=measured)
    queue = made.queue(count=count * CHUNK)
    await made.spill()
    await made.spill()

    assert 0 == made.files
    assert count == in_chunks(queue)


async def test_memory_is_short_when_both_have_more_than_half(make):
    made = await make(memory=80 * TAKES, limit=1 << 30, measured=40 * TAKES + 1)
    queue = made.queue(count=41 * CHUNK)
    await made.spill()
    await made.spill()

    assert 20 == in_chunks(queue)


async def test_so_much_is_written_at_once(make, monkeypatch):
    monkeypatch.setattr(spiller_module, "STEP", 2 * TAKES)
    made = await make(limit=3 * TAKES)
    queue = made.queue(count=8 * CHUNK)
    write, written = made.scratch.write, []

    async def note(chunks):
        written.append(len(chunks))
        return await write(chunks)

    made.scratch.write = note
    await made.spill()

    assert [2, 2, 1] == written
    assert 3 == in_chunks(queue)


# how often it looks


async def test_others_come_in_between_and_their_time_does_not_count(make, nursery, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(spiller_module, "AT_ONCE", 2)
    monkeypatch.setattr(spiller_module, "perf_counter", lambda: now[0])
    made = await make()
    for number in range(5):
        made.queue(f"q{number}")

    async def others():
        while True:
            await trio.lowlevel.checkpoint()
            now[0] += 1

    nursery.start_soon(others)
    await trio.lowlevel.checkpoint()
    before = now[0]
    assert (0, 0.0) == await made.spiller.spill()

    assert now[0] > before


class Tidy:
    """Scratch files with nothing to tidy up."""

    folder = Path("scratch")

    async def tidy(self):
        pass


@pytest.fixture
def looks(broker, nursery):
    """Have looks end so, one after the other; return the pauses before each, and one more."""

    async def run(*ends):
        spiller = Spiller(Turns(broker, lambda: 0), Tidy(), limit=LIMIT, memory=1 << 30)
        times, rest, is_over = [trio.current_time()], list(ends), trio.Event()

        async def spill():
            times.append(trio.current_time())
            if not rest:
                is_over.set()
                await trio.sleep_forever()
            end = rest.pop(0)
            if isinstance(end, OSError):
                raise end
            return end

        spiller.spill = spill
        nursery.start_soon(spiller.write)
        await is_over.wait()
        return [after - before for before, after in pairwise(times)]

    return run


@pytest.mark.parametrize(
    ("count", "seconds", "pause"),
    [
        (0, 0.0, PAUSE),
        (1, 0.0, SHORT_PAUSE),
        (0, 1.0, 1 / SHARE),
        (1, 1.0, 1 / BUSY_SHARE),
    ],
)
async def test_looking_takes_a_share_of_the_time_and_a_larger_one_while_it_finds_something(
    autojump_clock, looks, count, seconds, pause
):
    assert pytest.approx([PAUSE, pause]) == await looks((count, seconds))


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_disk_that_takes_nothing_is_tried_again_after_a_while(autojump_clock, looks):
    assert pytest.approx([PAUSE, HINDERED, PAUSE]) == await looks(FULL, (0, 0.0))


@pytest.mark.parametrize(("between", "warnings"), [((0, 0.0), 1), ((1, 0.0), 2)])
async def test_what_hinders_is_said_once_until_something_could_be_written(
    autojump_clock, looks, between, warnings
):
    with structlog.testing.capture_logs() as logs:
        await looks(FULL, FULL, between, FULL)

    assert ["scratch.hindered"] * warnings == [entry["event"] for entry in logs]


async def test_messages_that_are_small_count_for_what_they_take(make):
    made = await make()
    queue = made.queue()
    queue.incoming += [message(b"") for _ in range(20 * CHUNK)]
    queue.touch()
    made.turns.finish()
    assert queue.memory > 10 * LIMIT

    await made.spill()

    assert queue.memory < LIMIT + FRONT * CHUNK * 300


async def test_messages_of_several_queues_are_not_written_for_each(make):
    made = await make()
    shared = [message(b"%0100d" % number) for number in range(10 * CHUNK)]
    for name in "abc":
        made.queue(name).incoming.extend(shared)
        made.vhost.queues[name].touch()
    made.turns.finish()
    del shared

    await made.spill()

    assert 0 == made.files


async def test_while_the_disk_is_full_files_are_given_back_all_the_same(make, mock_clock, nursery):
    made = await make()
    queue = made.queue(count=10 * CHUNK)
    await made.spill()
    assert made.files
    made.scratch._spare = lambda: 0
    made.queue("other", count=10 * CHUNK)
    queue.purge()
    while made.broker.batch.debris:
        made.broker.batch.resume()

    nursery.start_soon(made.spiller.write)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(PAUSE)
    while made.files:
        await trio.testing.wait_all_tasks_blocked(0.001)

    assert 10 * CHUNK == made.queue("other").ready_count


async def test_a_disk_that_takes_nothing_leaves_everything_in_memory(make, monkeypatch):
    made = await make()
    queue = made.queue(count=10 * CHUNK)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", refuse)
    with pytest.raises(OSError, match="No space"):
        await made.spill()
    monkeypatch.undo()

    assert list(range(10 * CHUNK)) == await drained(made, queue, 10 * CHUNK)

"""Looking at any moment: each page comes, with the right messages, and nobody is harmed by it."""

import random

import pytest

from leveret.broker.core import paging, runs
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.hooks import QueueHook, Reason
from leveret.broker.core.inspect import STATES, peek
from leveret.broker.core.paging import page_out
from leveret.broker.server.forgetter import Forgetter
from leveret.broker.storage import recovery
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.sqlite import SQLiteStore
from leveret.protocol.methods import BasicAck, BasicNack, BasicPublish, QueueDeclare
from leveret.protocol.properties import Properties

from ..support.client import published
from ..support.durable import durable

STEPS = 150
LIMIT = 50  # octets of the queue that stay in memory


class Some(QueueHook):
    """Of messages that come in, every third waits for longer than the test takes."""

    def placed(self, base, messages):
        for position in range(base, base + len(messages)):
            if position % 3 == 0:
                self.queue.wait_until(position, 1 << 40)


class Play:
    """One queue, somebody who publishes, somebody who consumes, and somebody who looks.

    Attributes:
      pages: Those that came.
      asked: How many were asked for.
    """

    def __init__(self, kept, publisher, consumer, dice):
        self.kept = kept
        self.publisher = publisher
        self.consumer = consumer
        self.dice = dice
        self.queue = kept.broker.vhosts["/"].queue("q")
        self.forgetter = Forgetter(kept.broker)
        self.published = 0
        self.pages = []
        self.asked = 0

    async def publish(self):
        for _ in range(self.dice.randint(1, 10)):
            body = b"x" * self.dice.randint(0, 200)
            mode = self.dice.choice([1, 2, 2, 2])
            properties = Properties(delivery_mode=mode, message_id=str(self.published))
            self.publisher.feed(published(body, BasicPublish("", "q"), properties=properties))
            self.published += 1

    async def settle(self):
        tags = list(self.consumer.session.channels[1].unacked)
        if tags:
            tag, multiple = self.dice.choice(tags), self.dice.random() < 0.4
            method = self.dice.choice([BasicAck(tag, multiple), BasicNack(tag, multiple, True)])
            self.consumer.send(method)

    async def look(self):
        state, limit = self.dice.choice(list(STATES)), self.dice.randint(1, 40)
        self.asked += 1
        peek(self.queue, self.pages.append, state=state, limit=limit)
        self.kept.turns.finish()

    async def commit(self):
        await self.kept.persistence.flush()

    async def hold_reads(self):
        if self.kept.gate.is_reading:
            self.kept.gate.hold_reads()

    async def read(self):
        self.kept.gate.let_reads_through()
        await self.kept.settle()

    async def forget(self):
        for _ in self.forgetter.forget({self.queue}):
            pass

    async def leave_memory(self):
        page_out(self.queue, 0, 1)

    async def purge(self):
        if self.dice.random() < 0.1 and not self.consumer.is_waiting:
            self.queue.purge()
            self.kept.turns.finish()

    async def drop_some(self):
        if isinstance(self.queue, HookedQueue):
            first = self.dice.randint(0, max(self.published - 1, 0))
            self.queue.drop_range(first, first + self.dice.randint(0, 5), Reason.EXPIRED)
            self.kept.turns.finish()

    async def go(self):
        moves = [self.publish, self.publish, self.settle, self.settle, self.look, self.look]
        moves += [self.look, self.commit, self.hold_reads, self.read, self.forget]
        moves += [self.leave_memory, self.purge, self.drop_some]
        for _ in range(STEPS):
            await self.dice.choice(moves)()
        await self.read()
        await self.commit()
        await self.read()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("is_hooked", [False, True])
async def test_each_page_comes_with_what_was_there(seed, kind, is_hooked, monkeypatch, tmp_path):
    for module in (runs, recovery):
        monkeypatch.setattr(module, "CHUNK_LENGTH", 4)
    monkeypatch.setattr(paging, "RETURNED_BYTES", 0)
    store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path)
    async with durable(store, LIMIT) as kept:
        if is_hooked:
            kept.broker.registry.queue_hook(lambda queue: Some, phase=1)
        publisher, consumer = kept.connect(), kept.connect()
        publisher.send(QueueDeclare("q", durable=True))
        await kept.persistence.flush()
        queue = kept.broker.vhosts["/"].queue("q")
        queue.vhost.refit(queue, is_forced=True)
        consumer.consume("q", "c", prefetch=15)
        await kept.settle()
        play = Play(kept, publisher, consumer, random.Random(seed))

        await play.go()

        assert is_hooked == isinstance(queue, HookedQueue)
        assert not kept.persistence.failure
        assert play.asked == len(play.pages)
        shown = [each for page in play.pages for each in page.messages]
        assert len(shown) > STEPS // 2
        assert [str(each.position) for each in shown] == [
            each.message.properties.message_id for each in shown
        ]

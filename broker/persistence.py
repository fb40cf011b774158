"""Persistence: a broker whose definitions and messages are kept in a store.

Law: first the definitions, then the messages, then clients. What is found at the start is told
in the log; what cannot be understood stops the start.

Called by: app.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import structlog

from leveret.broker.server.committer import Committer
from leveret.broker.server.housekeeper import Housekeeper
from leveret.broker.server.pager import Pager
from leveret.broker.storage.base import StoreError
from leveret.broker.storage.catalog import Catalog
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost
    from leveret.broker.server.turns import Turns
    from leveret.broker.storage.base import Lease, Store

SHARD = 0
FOREVER = float("inf")  # a store of one process has no rivals
SLOW = 1.0  # seconds after which recovery says how far it is

log = structlog.get_logger()


class Persistence:
    """Keeps what a broker must keep.

    Args:
      limit: Octets of a queue's messages that stay in memory when they are in the store.

    Attributes:
      is_empty: Whether the store was empty when it was opened.
      failure: Why the store cannot be used any more, empty while it can.
    """

    def __init__(self, broker: Broker, store: Store, *, limit: int) -> None:
        self._broker = broker
        self._store = store
        self._limit = limit
        self._journal = Journal(broker.batch)
        self._catalog = Catalog(broker, self._journal.note)
        self._lease: Lease | None = None
        self._committer: Committer | None = None
        self.is_empty = True
        self.failure = ""

    async def open(self) -> None:
        """Open the store and bring back what it holds.

        Raises:
          StoreError: It cannot be used, or is damaged.
        """
        broker, store = self._broker, self._store
        broker.batch.is_durable = True
        await store.open()
        self._lease = await store.acquire(SHARD, broker.node, FOREVER)
        assert self._lease is not None
        definitions = await store.load_definitions()
        self.is_empty = not definitions
        started = perf_counter()
        queues = self._catalog.restore(definitions)
        for note in self._catalog.notes:
            log.warning("definitions.kept", reason=note)
        recovery = Recovery(self._journal)
        rows, told = 0, started
        async for some in store.recover(self._lease):
            for seq, index in some:
                recovery.read(seq, index)
            rows += len(some)
            if perf_counter() - told > SLOW:
                told = perf_counter()
                log.info("store.recovering", rows=rows, messages=recovery.messages)
        found = recovery.finish(set(queues))
        for number, queue in queues.items():
            self._attach(queue, number)
            if number in found:
                queue.delivered_before = found[number].delivered
                queue.restore(found[number].next_position, found[number].runs)
        ready = sum(each[1] for one in found.values() for each in one.runs)
        milliseconds = round((perf_counter() - started) * 1000)
        log.info("store.opened", queues=len(queues), messages=ready, milliseconds=milliseconds)
        broker.events.subscribe("queue.created", self._queue_created)

    def _attach(self, queue: Queue, number: int) -> None:
        log = self._journal.log(number)
        queue.log, log.queue = log, queue

    def _queue_created(self, vhost: VirtualHost, queue: Queue) -> None:
        if queue.durable and queue.owner is None:
            self._attach(queue, self._catalog.queue_number(queue))

    async def start(self, turns: Turns, nursery: trio.Nursery, stop: trio.Event) -> None:
        """Commit what was defined until now, then go on committing and reading.

        Args:
          stop: Set when the store fails: nothing can be promised any more.

        Raises:
          StoreError: What was defined cannot be kept.
        """
        assert self._lease is not None
        committer = Committer(turns, self._journal, self._store, self._lease, self._limit)
        pager = Pager(turns, self._journal, self._store, self._lease, committer)
        housekeeper = Housekeeper(turns, self._journal, self._store, self._lease)
        turns.committer = self._committer = committer
        turns.lookers += committer.look, pager.look
        await committer.commit()
        nursery.start_soon(self._carry_on, committer.run, stop)
        nursery.start_soon(self._carry_on, pager.run, stop)
        nursery.start_soon(self._carry_on, housekeeper.run, stop)

    async def _carry_on(self, run: Callable[[], Awaitable[None]], stop: trio.Event) -> None:
        try:
            await run()
        except StoreError as problem:
            log.critical("store.failed", reason=str(problem))
            self.failure = self.failure or str(problem)
            stop.set()

    async def flush(self) -> None:
        """Commit what was caused so far, unless the store has failed."""
        batch, committer = self._broker.batch, self._committer
        while committer is not None and not self.failure:
            if not self._journal.is_dirty and batch.committed == batch.commit - 1:
                break
            await committer.room()

    async def close(self) -> None:
        """Close the store; what was committed is in it."""
        await self._store.close()

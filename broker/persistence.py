"""Persistence: a broker whose definitions and messages are kept in a store.

Law: first the definitions, then the messages, then clients. What is found at the start is told
in the log; what cannot be understood stops the start.

Called by: app.
"""

from __future__ import annotations

from contextlib import aclosing
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
import trio

from leveret.broker.core.log import ABSOLUTE, Fact
from leveret.broker.core.runs import UNLIMITED
from leveret.broker.server.committer import Committer
from leveret.broker.server.housekeeper import Housekeeper
from leveret.broker.server.pager import Pager
from leveret.broker.server.spiller import Spiller
from leveret.broker.storage.base import Damaged, StoreError
from leveret.broker.storage.catalog import Catalog
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost
    from leveret.broker.server.control import Control
    from leveret.broker.server.turns import Turns
    from leveret.broker.storage.base import Lease, Store
    from leveret.broker.storage.queue_log import QueueLog
    from leveret.broker.storage.recovery import Found
    from leveret.broker.storage.scratch import Scratch

SHARD = 0
FOREVER = float("inf")  # a store of one process has no rivals
SLOW = 1.0  # seconds after which recovery says how far it is

log = structlog.get_logger()


class Persistence:
    """Keeps what a broker must keep.

    Args:
      limit: Octets of a queue's messages that stay in memory.
      memory: Octets that the process may have.
      scratch: Where to leave messages that the store does not have; None to keep them in memory.

    Attributes:
      is_empty: Whether the store was empty when it was opened.
      failure: Why the store cannot be used any more, empty while it can.
      control: Takes commands while the broker runs; None if nobody is to give any.
    """

    def __init__(
        self,
        broker: Broker,
        store: Store,
        *,
        limit: int,
        memory: int = UNLIMITED,
        scratch: Scratch | None = None,
    ) -> None:
        self._broker = broker
        self._store = store
        self._limit = limit
        self._memory = memory
        self._scratch = scratch
        self._journal = Journal(broker.batch)
        self._catalog = Catalog(broker, self._journal.note)
        self._lease: Lease | None = None
        self._committer: Committer | None = None
        self._flushing = trio.CancelScope()
        self.is_empty = True
        self.failure = ""
        self.control: Control | None = None

    async def open(self) -> None:
        """Open the store and bring back what it holds.

        Raises:
          StoreError: It cannot be used, or is damaged.
        """
        broker, store = self._broker, self._store
        broker.batch.is_durable = True
        await store.open()
        for note in store.notes:
            log.warning("store.noted", reason=note)
        self._lease = await store.acquire(SHARD, broker.node, FOREVER)
        assert self._lease is not None
        definitions = await store.load_definitions()
        self.is_empty = not definitions
        self._journal.tally.take_in(definitions)
        started = perf_counter()
        try:
            queues = self._catalog.restore(definitions)
        except StoreError as problem:
            raise Damaged(str(problem)) from None
        for note in self._catalog.notes:
            log.warning("definitions.kept", reason=note)
        found = await self._recover(queues, started)
        for number, queue in queues.items():
            self._attach(queue, number)
            if number in found:
                queue.delivered_before = found[number].delivered
                if _is_timed(found[number].log, broker.wall):
                    queue.keep_time()
                queue.restore(found[number].next_position, found[number].runs)
        ready = sum(each.count for one in found.values() for each in one.runs)
        milliseconds = round((perf_counter() - started) * 1000)
        log.info("store.opened", queues=len(queues), messages=ready, milliseconds=milliseconds)
        broker.events.subscribe("queue.created", self._queue_created)

    async def _recover(self, queues: Mapping[int, Queue], started: float) -> dict[int, Found]:
        """Read all rows; return what there is, by queue."""
        assert self._lease is not None
        recovery = Recovery(self._journal, lambda number: self._name(queues, number))
        rows, told = 0, started
        async with aclosing(self._store.recover(self._lease)) as steps:
            async for some in steps:
                sizes = await self._store.body_sizes(self._lease, some[0][0], some[-1][0])
                if len(sizes) != len(some):
                    text = f"rows {some[0][0]} to {some[-1][0]} are {len(some):,} or {len(sizes):,}"
                    raise Damaged(text)
                for (seq, index), size in zip(some, sizes, strict=True):
                    recovery.read(seq, index, size)
                rows += len(some)
                if perf_counter() - told > SLOW:
                    told = perf_counter()
                    log.info("store.recovering", rows=rows, messages=recovery.messages)
        for loss in recovery.lost:
            log.warning(
                "row.discarded",
                row=loss.seq,
                reason=loss.problem,
                held=recovery.held(loss),
                messages=loss.messages,
            )
        found = recovery.finish(set(queues), self._journal.tally.total)
        self._catalog.spare(recovery.highest)
        return found

    def _name(self, queues: Mapping[int, Queue], number: int) -> str:
        """Return what a queue is called for people; its definition may be gone."""
        queue = queues.get(number)
        for vhost in self._broker.vhosts.values():
            if queue is not None and any(each is queue for each in vhost.all_queues()):
                return f"queue {queue.name!r} in vhost {vhost.name!r}"
        return f"a queue that is gone (number {number})"

    def _attach(self, queue: Queue, number: int) -> None:
        kept = self._journal.log(number)
        queue.log = kept
        kept.queue = queue

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
        turns.poller.passed = committer.look
        await committer.commit()
        nursery.start_soon(self._carry_on, committer.run, stop)
        nursery.start_soon(self._carry_on, pager.run, stop)
        nursery.start_soon(self._carry_on, housekeeper.run, stop)
        if self._scratch is not None and await self._open_scratch(self._scratch):
            limit, memory = self._limit, self._memory
            spiller = Spiller(turns, self._scratch, limit=limit, memory=memory)
            turns.lookers.append(spiller.look)
            nursery.start_soon(self._carry_on, spiller.read, stop)
            nursery.start_soon(self._carry_on, spiller.write, stop)
        if self.control is not None:
            await nursery.start(self.control.run)

    async def _open_scratch(self, scratch: Scratch) -> bool:
        """Return whether it can be used; a broker works without."""
        try:
            await scratch.open()
        except OSError as problem:
            reason = f"{scratch.folder}: {problem.strerror}"
            log.warning("scratch.hindered", reason=reason)
            return False
        return True

    async def _carry_on(self, run: Callable[[], Awaitable[None]], stop: trio.Event) -> None:
        try:
            await run()
        except StoreError as problem:
            if not self.failure:
                hint = "; try: leveret store repair" * isinstance(problem, Damaged)
                self.failure = f"{problem}{hint}"
                log.critical("store.failed", reason=self.failure)
            self._flushing.cancel()
            stop.set()

    async def flush(self) -> None:
        """Commit what was caused so far, unless the store has failed."""
        batch, committer = self._broker.batch, self._committer
        with trio.CancelScope() as self._flushing:
            while committer is not None and not self.failure:
                is_done = batch.committed == batch.commit - 1 and not self._journal.is_dirty
                if is_done and not batch.unfinished and not batch.returns:
                    break
                await committer.room()

    async def close(self) -> None:
        """Close the store; what was committed is in it."""
        if self._scratch is not None:
            await self._scratch.close()
        await self._store.close()


def _is_timed(log: QueueLog, wall: int) -> bool:
    """Whether messages of a queue expire, or wait, whatever it asks for by now."""
    waits = log.facts(Fact.DUE)
    return any(True for _ in log.facts(Fact.DEADLINE)) or any(
        when & ~ABSOLUTE > wall for _, when in waits
    )

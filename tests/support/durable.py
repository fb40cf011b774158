"""A broker that is kept in a store, within the test's own event loop, and clients without sockets.

`Durable` is what `leveret serve` starts, but for listeners: the loops that commit and read, the
turns and the timers. Its store has a `Gate`, at which the test decides when a commit goes through,
and whether it does before the broker is lost.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import trio
import trio.testing

from leveret.broker.amqp import settling, transaction
from leveret.broker.core import expiring, paging, restoring, returned, returning, runs, waiting
from leveret.broker.core.broker import Broker
from leveret.broker.core.registry import Registry
from leveret.broker.persistence import Persistence
from leveret.broker.server import clock
from leveret.broker.server.turns import Turns
from leveret.broker.storage import bodies, compaction, recovery, row_builder
from leveret.broker.storage.base import Ended, Lease, Ref, Row, Store, StoreFailed

from .client import Client

TICK = 0.02  # seconds after which what nobody waits for is committed
LITTLE = 100  # octets of a queue's messages that stay in memory, where everything is small


async def commit(store: Store, rows: Sequence[tuple[Lease, Row]]) -> None:
    """Make rows durable, all or none of them; it is finished even if cancelled.

    Raises:
      Fenced: A lease is not held any more; nothing was written.
      StoreFailed: It is not known whether anything was.
    """
    is_over = trio.Event()
    problems: list[BaseException | None] = []

    def ended(problem: BaseException | None) -> None:
        problems.append(problem)
        is_over.set()

    store.begin(rows, ended)
    with trio.CancelScope(shield=True):
        await is_over.wait()
    problem = problems.pop()
    if problem is not None:
        try:
            raise problem
        finally:
            del problem  # or it and the frames that it has seen would keep each other


class Gate:
    """A store whose commits and reads wait until they are let through.

    Attributes:
      is_holding: Whether commits wait.
      is_reading: Whether reads go through.
      held: The rows of the commit that waits, None if there is none.
      begun: How many commits were asked for, those without rows aside.
      done: How many of them are in the store.
      on_commit: Called when a commit is asked for; its rows are closed by then.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.is_holding = False
        self.is_reading = True
        self.held: Sequence[Row] | None = None
        self.begun = 0
        self.done = 0
        self.on_commit: Callable[[], None] = lambda: None
        self._lease: Lease | None = None
        self._readable = trio.Event()
        self._problem: StoreFailed | None = None
        self._waiting: tuple[Sequence[tuple[Lease, Row]], Ended] | None = None
        self._busy = 0
        self._rest = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def hold(self) -> None:
        """Let no commit through until `let_through`."""
        self.is_holding = True

    def let_through(self) -> None:
        """Let commits through."""
        self.is_holding = False
        self._go_on()

    def let_one_through(self) -> None:
        """Let the commit through that waits, and not the next."""
        self._go_on()

    def fail(self) -> None:
        """Have the commit that waits, or the next one, fail."""
        self._problem = StoreFailed("the disk is gone")
        self.let_through()

    def hold_reads(self) -> None:
        """Let no read through until `let_reads_through`."""
        self.is_reading = False
        self._readable = trio.Event()

    def let_reads_through(self) -> None:
        """Let reads through."""
        self.is_reading = True
        self._readable.set()

    async def acquire(self, shard: int, node: str, seconds: float) -> Lease | None:
        """Become the owner."""
        self._lease = await self.store.acquire(shard, node, seconds)
        return self._lease

    def begin(self, rows: Sequence[tuple[Lease, Row]], ended: Ended) -> None:
        """Make rows durable when it is let through; if it never is, they never are."""
        assert self._waiting is None, "one commit at a time"
        self.begun += 1
        self.on_commit()
        self.held = [row for _, row in rows]
        self._waiting = rows, ended
        if not self.is_holding:
            self._go_on()

    def _go_on(self) -> None:
        if self._waiting is None:
            return
        (rows, ended), self._waiting, self.held = self._waiting, None, None
        self._busy += 1
        if self._problem is not None:
            trio.lowlevel.current_trio_token().run_sync_soon(self._over, ended, self._problem)
        else:
            self.store.begin(rows, partial(self._over, ended))

    def _over(self, ended: Ended, problem: BaseException | None) -> None:
        self.done += problem is None
        ended(problem)
        self._rested()

    async def carry_out(self) -> None:
        """Have the waiting commit reach the store without anybody being told."""
        assert self.held is not None
        assert self._lease is not None
        await commit(self.store, [(self._lease, row) for row in self.held])

    async def read(self, lease: Lease, refs: Sequence[Ref]) -> list[bytes]:
        """Return octets of bodies, when reads are let through."""
        if not self.is_reading:
            await self._readable.wait()
        return await self._working(self.store.read, lease, refs)

    async def maintain(self, seconds: float) -> bool:
        """Give space back."""
        return await self._working(self.store.maintain, seconds)

    async def _working(self, function: Callable[..., Any], *arguments: object) -> Any:
        self._busy += 1
        try:
            return await function(*arguments)
        finally:
            self._rested()

    def _rested(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._rest.set()

    async def at_rest(self) -> bool:
        """Wait until the store does nothing; return whether it did anything."""
        if not self._busy:
            return False
        self._rest = trio.Event()
        await self._rest.wait()
        return True


class LiveClient(Client):
    """A client of a broker whose loops run: what does not come at once comes later.

    Attributes:
      on_handled: Called each time when all that was sent has been handled.
    """

    def __init__(self, durable: "Durable", **options: Any) -> None:
        self.durable = durable
        self.on_handled: Callable[[], None] = lambda: None
        super().__init__(durable.broker, **options)

    @property
    def is_waiting(self) -> bool:
        """Whether the broker has to read something before it goes on."""
        return self.session.is_waiting

    def feed(self, data: bytes) -> None:
        """Hand octets to the session, and end the slice; the rest goes on by itself."""
        assert not self.is_waiting, "the broker does not read"
        self.session.receive(data)
        self._go_on()
        if self.is_waiting:
            self.durable.nursery.start_soon(self._attend)

    def _go_on(self) -> None:
        self.durable.begin_pass()
        self.session.run(lambda: False)
        self.durable.turns.finish()
        self._read()
        if not self.is_waiting:
            self.on_handled()

    async def _attend(self) -> None:
        """Go on as a connection does: at once, for it may have come, then whenever it may have."""
        self._go_on()
        while self.is_waiting and not self.session.is_ended:
            await self.durable.turns.wait_until_loaded()
            self._go_on()

    def lose(self) -> None:
        """Lose the socket."""
        self.durable.begin_pass()
        self.session.forget()
        self.durable.turns.finish()


class Durable:
    """A broker and its loops.

    Attributes:
      clients: Those that `connect` made.
      nursery: Where its loops run.
      failed: Set when the store has failed.
    """

    def __init__(
        self, store: Store, limit: int = 1 << 20, registry: Registry | None = None
    ) -> None:
        self.gate = Gate(store)
        self.broker = Broker(registry=registry)
        self.persistence = Persistence(self.broker, self.gate, limit=limit)  # type: ignore[arg-type]
        self.turns = Turns(self.broker, partial(clock.now, self.broker))
        self.clients: list[LiveClient] = []
        self.failed = trio.Event()
        self.nursery: trio.Nursery
        self._scope = trio.CancelScope()
        self._is_over = trio.Event()

    @property
    def committer(self) -> Any:
        return self.turns.committer

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped or lost."""
        try:
            with self._scope:
                clock.set_clock(self.broker)
                await self.persistence.open()
                if self.persistence.is_empty:
                    self.broker.add_defaults()
                async with trio.open_nursery() as nursery:
                    self.nursery = nursery
                    nursery.start_soon(self.turns.go_on)
                    await self.persistence.start(self.turns, nursery, self.failed)
                    nursery.start_soon(clock.Clock(self.turns).run)
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            await self.persistence.close()
            self._is_over.set()

    def begin_pass(self) -> None:
        """Do as the poller does: what the test sends until it waits is one pass."""
        poller = self.turns.poller
        if not poller.is_passing:
            poller.is_passing = True
            trio.lowlevel.current_trio_token().run_sync_soon(poller.end_pass)

    async def lose(self) -> None:
        """End it as the loss of power does: what was not committed is gone."""
        self._scope.cancel()
        await self._is_over.wait()

    async def stop(self) -> None:
        """End it as a signal does: what was caused is committed."""
        self.gate.let_through()
        self.gate.let_reads_through()
        await self.persistence.flush()
        for client in self.clients:
            if client.session in self.broker.sessions:
                client.lose()
        await self.persistence.flush()
        await self.lose()

    def connect(self, **options: Any) -> LiveClient:
        """Open one more connection."""
        self.clients.append(LiveClient(self, **options))
        return self.clients[-1]

    async def settle(self) -> None:
        """Wait until nothing happens any more, but for what waits for the test or the clock."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if not await self.gate.at_rest():
                return

    async def jump_wall(self, seconds: float) -> None:
        """Let the wall clock jump, and whatever follows it be done."""
        jump = int(seconds * 1000)
        self.broker.wall_offset += jump
        self.broker.events.emit("clock.jumped", difference=jump)
        await self.settle()
        self.turns.finish()
        await pass_time()
        await self.settle()


@asynccontextmanager
async def durable(
    store: Store, limit: int = 1 << 20, registry: Registry | None = None
) -> AsyncIterator[Durable]:
    """Run a broker within the block; what is not committed at its end is lost."""
    made = Durable(store, limit, registry)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made.lose()


async def pass_time(seconds: float = TICK) -> None:
    """Let a virtual clock go on, and everybody have their turn.

    It must not jump by itself: what the test holds would look as if nothing were to come.
    """
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    await trio.testing.wait_all_tasks_blocked()  # whoever begins to wait begins now
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


@contextmanager
def everything_small(least: int = bodies.LEAST) -> Iterator[None]:
    """Make chunks, rows and steps so small that a few messages fill many.

    Args:
      least: Octets from which the body of a row goes into a file.
    """
    small = {
        (settling, "PIECE"): 2,
        (transaction, "PIECE"): 2,
        (runs, "CHUNK_LENGTH"): 4,
        (runs, "PIECE_OCTETS"): 200,
        (returned, "CHUNK_LENGTH"): 4,
        (returned, "PIECE_OCTETS"): 200,
        (expiring, "DUE_LIMIT"): 3,
        (returning, "CHUNK_LENGTH"): 4,
        (restoring, "CHUNK_LENGTH"): 4,
        (restoring, "PIECE_OCTETS"): 200,
        (paging, "CHUNK_LENGTH"): 4,
        (paging, "RETURNED_BYTES"): LITTLE,
        (waiting, "PIECE_OCTETS"): 200,
        (recovery, "CHUNK_LENGTH"): 4,
        (row_builder, "ROW_SIZE"): 400,
        (compaction, "LEAST_ROWS"): 2,
        (compaction, "LEAST_GAIN"): 200,
        (compaction, "AGE"): 2,
        (bodies, "LEAST"): least,
        (bodies, "FILE_SIZE"): 3 * bodies.BLOCK,
        (bodies, "DEAD"): bodies.BLOCK,
    }
    with ExitStack() as stack:
        for (module, name), value in small.items():
            stack.enter_context(patch.object(module, name, value))
        yield

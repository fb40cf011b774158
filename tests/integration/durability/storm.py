"""A storm: a broker under every kind of load, killed at a random moment, started again, inspected.

Law: the seed decides who does what and when the broker dies. What the clients wrote into the
ledger decides what must be there afterwards, and nothing else.

Called by: test_kill.
"""

from random import Random
from threading import Event

from leveret.protocol.methods import (
    ExchangeDeclare,
    ExchangeDeclareOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
)

from .broker import Mortal
from .declarer import EXCHANGE, Book, Declarer, book
from .inspector import RECEIPTS, Inspector
from .ledger import Key, Ledger
from .link import Gone, Link, Refused
from .workers import Consumer, Publisher, Purger, Route, Transactor, Worker

FANOUT = "storm.fanout"
WORK = tuple(f"work-{each}" for each in range(4))  # the last one is not consumed
FAN = tuple(f"fan-{each}" for each in range(3))  # likewise
TRANSACTIONS = (("tx-0-a", "tx-0-b"), ("tx-1-a", "tx-1-b"))
PURGED = "purged"
QUEUES = (*WORK, *FAN, *TRANSACTIONS[0], *TRANSACTIONS[1], PURGED, RECEIPTS)
ROUTES = [Route("", queue, (queue,)) for queue in WORK] + [Route(FANOUT, "", FAN)]
BODIES = "files of bodies found after a kill"
PATIENCE = 60.0  # seconds for the clients to notice that the broker is gone


class Storm:
    """Some lives of one broker.

    Attributes:
      ledger: What was done to it, and what it did wrong.
    """

    def __init__(self, broker: Mortal, seed: int) -> None:
        self.broker = broker
        self.ledger = Ledger()
        self.random = Random(seed)
        self.books: list[Book] = [book("come-0"), book("come-1")]

    def rage(self, kills: int, seconds: float) -> None:
        """Let it live under load and die, again and again, each time for `seconds` at most."""
        self._start()
        self._declare()
        for number in range(kills):
            workers = self._workers(number)
            for worker in workers:
                worker.start()
            Event().wait(self.random.uniform(0.05, seconds))
            self._end()
            for worker in workers:
                worker.join(PATIENCE)
                assert not worker.is_alive(), f"{worker} did not notice the end"
            self._start()
            try:
                self._inspect(workers, wholly=number == kills - 1)
            except (AssertionError, Gone, Refused) as problem:
                self.ledger.fault(f"while it was inspected: {problem or 'the broker went away'}")
            if self.ledger.faults:
                return

    def _start(self) -> None:
        self.broker.start()
        self.ledger.begin_life()

    def _end(self) -> None:
        """Kill it, now and then once more while it recovers; or let it end in peace."""
        if not self.broker.is_alive():
            self.ledger.fault("the broker ended by itself")
            self.broker.kill()
            return
        if self.random.random() < 0.1:
            self.ledger.is_ending = True
            self.broker.stop()
            self.ledger.figures["stopped"] += 1
            return
        self.broker.kill()
        self.ledger.figures["killed"] += 1
        found = self.broker.data.glob("leveret.db-bodies-*")
        self.ledger.figures[BODIES] += len(list(found))
        while self.random.random() < 0.2:
            self.broker.begin()
            Event().wait(self.random.uniform(0.0, 0.5))
            self.broker.kill()
            self.ledger.figures["killed while it started"] += 1

    def _declare(self) -> None:
        link = Link(self.broker.address)
        for queue in QUEUES:
            link.call(QueueDeclare(queue, durable=True), QueueDeclareOk)
            self.ledger.account(queue)
        for known in self.books:
            for queue in known.queues:
                self.ledger.account(queue)
        link.call(ExchangeDeclare(FANOUT, "fanout", durable=True), ExchangeDeclareOk)
        link.call(ExchangeDeclare(EXCHANGE, "direct", durable=True), ExchangeDeclareOk)
        for queue in FAN:
            link.call(QueueBind(queue, FANOUT), QueueBindOk)
        link.close()

    def _workers(self, number: int) -> list[Worker]:
        random = self.random

        def common() -> tuple:
            return self.ledger, self.broker.address, str(random.random())

        consumed = [WORK[0], WORK[0], WORK[1], WORK[2], FAN[0], FAN[1]]
        receipts = Route("", RECEIPTS, (RECEIPTS,))
        workers: list[Worker] = [Publisher(*common(), ROUTES) for _ in range(random.randint(1, 3))]
        for queue in random.sample(consumed, random.randint(1, len(consumed))):
            both = [receipts, Route("", queue, (queue,))]
            workers.append(Consumer(*common(), queue, both))
        workers += [Transactor(*common(), queues) for queues in TRANSACTIONS]
        workers.append(Purger(*common(), PURGED))
        workers += [Declarer(*common(), known) for known in self.books]
        return workers

    def _inspect(self, workers: list[Worker], *, wholly: bool) -> None:
        inspector = Inspector(self.ledger, self.broker.address, self.random)
        for known in self.books:
            inspector.inspect(known)
        expected = self.ledger.expected()
        present: dict[str, set[Key]] = {}
        for queue in self._drained(wholly):
            present[queue] = inspector.drain(queue, expected[queue])
        for worker in workers:
            if isinstance(worker, Transactor) and worker.doubtful is not None:
                inspector.judge_transaction(worker.doubtful, present)
            elif isinstance(worker, Purger) and worker.doubtful:
                inspector.judge_purge(worker.doubtful, present[PURGED])

    def _drained(self, wholly: bool) -> list[str]:
        """Return which queues are emptied: some are left to be found after the next death."""
        shared = [*WORK, *FAN, RECEIPTS]
        some = [queue for queue in shared if wholly or self.random.random() < 0.4]
        coming = [name for known in self.books for name in known.queues]
        there = [name for known in self.books for name, one in known.queues.items() if one.exists]
        assert set(there) <= set(coming)
        return [*TRANSACTIONS[0], *TRANSACTIONS[1], PURGED, *there, *some]

    def __str__(self) -> str:
        faults = self.ledger.faults
        figures = ", ".join(f"{count:,} {name}" for name, count in self.ledger.figures.items())
        return "\n".join((f"{len(faults)} faults", *faults[:20], figures, *self._log()))

    def _log(self) -> list[str]:
        """Return what the broker itself says went wrong."""
        log = getattr(self.broker, "log", None)
        if log is None or not self.ledger.faults:
            return []
        lines = log.read_text(errors="replace").splitlines()
        return [line for line in lines if "[error" in line or "[critical" in line][-20:]

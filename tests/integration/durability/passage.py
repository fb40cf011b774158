"""A passage: a broker with all plugins in play, killed, started again, swept.

Law: as in a storm, but messages move. They are looked for everywhere once nothing waits any more.

Called by: test_kill.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from threading import Event

from leveret.broker.testing import Received, received
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicGetEmpty,
    BasicNack,
    BasicPublish,
    BasicQos,
    BasicQosOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    TxCommit,
    TxCommitOk,
    TxSelect,
    TxSelectOk,
)
from leveret.protocol.properties import Properties, encode
from leveret.protocol.reader import Acks, Command, Contents
from leveret.protocol.writer import content_frames, method_frame

from .inspector import RECEIPTS
from .link import CHANNEL, Link
from .storm import Storm
from .ways import ENTRIES, EXCHANGE, LONGEST, QUEUES, TTL, Fate, Ways
from .workers import TRANSIENT_SHARE, Worker, size_of

CONSUMED = [name for name in QUEUES if not name.startswith("way-tx")]


def octets_of(exchange: str, key: str, properties: Properties, body: bytes) -> bytes:
    """Return the octets of a publish."""
    method = method_frame(CHANNEL, BasicPublish(exchange, key))
    header = encode(properties, len(body))
    return method + b"".join(content_frames(CHANNEL, 131072, header, [body]))


class Walker(Worker):
    """One that publishes to ways, or takes from them."""

    def __init__(self, ledger, address, seed, ways: Ways) -> None:
        super().__init__(ledger, address, seed)
        self.ways = ways

    def message(self, entry: str) -> tuple[int, bytes]:
        """Write a message down; return its number and the octets of its publish."""
        random = self.random
        headers: dict[str, object] = {"tenant": random.choice("abcde")}
        if entry == "way-once":
            headers["x-deduplication-header"] = str(random.getrandbits(64))
        life = float(TTL.get(entry, float("inf")))
        expiration = None
        is_delayed = entry == "way-target" and random.random() < 0.8
        if is_delayed:
            headers["x-delay"] = 200
        elif entry not in {"way-full", "way-tx"} and random.random() < 0.1:
            expiration = str(random.choice((100, 2000)))
            life = min(life, float(expiration))
        is_transient = entry not in {"way-tx", "way-once"} and random.random() < TRANSIENT_SHARE
        number = self.ways.add(Fate(entry, time.time() * 1000, life, is_delayed, is_transient))
        properties = Properties(
            delivery_mode=1 if is_transient else 2,
            headers=headers,
            priority=random.randrange(6),
            expiration=expiration,
        )
        body = b"%d " % number + bytes(size_of(random))
        exchange = EXCHANGE if entry == "way-target" else ""
        octets = octets_of(exchange, entry, properties, body)
        if entry == "way-once":
            self.ways.unanswered[number] = octets
        return number, octets


class Sender(Walker):
    """Publishes with confirms, everywhere; what drops duplicates gets some."""

    seqno = 0

    def work(self) -> None:
        self.waiting: dict[int, int] = {}  # by its number on the channel
        self.open(confirms=True)
        window = self.random.choice((1, 20, 300))
        self.publish(list(self.ways.unanswered.items()))  # whose confirms have been lost
        while True:
            count = self.random.randint(1, min(window, 40))
            some = [self.message(self.random.choice(ENTRIES)) for _ in range(count)]
            twice = [each for each in some if each[0] in self.ways.unanswered]
            self.publish(some + twice[:2])
            self.take(self.link.poll())
            while len(self.waiting) >= window:
                self.take(self.link.read())

    def publish(self, some: Sequence[tuple[int, bytes]]) -> None:
        for number, _ in some:
            self.seqno += 1
            self.waiting[self.seqno] = number
        self.link.send(b"".join(octets for _, octets in some))

    def take(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Acks):
                self.ways.confirm([self.waiting.pop(tag) for tag in command])
            elif isinstance(command, BasicAck | BasicNack):
                last, multiple = command.delivery_tag, command.multiple
                tags = [each for each in self.waiting if each <= last] if multiple else [last]
                numbers = [self.waiting.pop(tag) for tag in tags]
                if isinstance(command, BasicAck):  # what a queue refuses is promised to nobody
                    self.ways.confirm(numbers)

    def last_words(self) -> None:
        if self.link is not None:
            self.take(self.link.left())


class Taker(Walker):
    """Consumes, and acks, rejects or returns; a receipt says that it is committed."""

    def __init__(self, ledger, address, seed, ways: Ways, queue: str) -> None:
        super().__init__(ledger, address, seed, ways)
        self.queue = queue
        self.done: list[tuple[str, int]] = []  # what was settled since the last receipt, and how
        self.receipts: list[list[tuple[str, int]]] = []  # that wait for their confirm, in order

    def work(self) -> None:
        link = self.open(confirms=True)
        link.call(BasicQos(0, self.random.choice((1, 10, 100))), BasicQosOk)
        link.call(BasicConsume(self.queue, "taker"), BasicConsumeOk)
        while True:
            self.take(link.read())

    def take(self, commands: Sequence[Command]) -> None:
        self.take_confirms(commands)
        for command in commands:
            if isinstance(command, Contents):
                for content in command:
                    self.settle(received(content))
        if len(self.done) > self.random.randint(5, 50):
            self.receipts.append(self.done)
            self.done = []
            receipt = Properties(delivery_mode=2)
            self.link.send(octets_of("", RECEIPTS, receipt, b"receipt"))

    def take_confirms(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Acks):
                count = len(command)
            elif isinstance(command, BasicAck):
                count = command.delivery_tag - self.confirmed
            else:
                continue
            self.confirmed += count
            for _ in range(count):
                self.commit(self.receipts.pop(0))

    confirmed = 0

    def commit(self, done: list[tuple[str, int]]) -> None:
        for how, number in done:
            fate = self.ways.fates[number]
            if how == "ack":
                fate.is_gone = True
            elif how == "reject":
                fate.rejected[self.queue] = True
            elif self.queue == "way-retry":
                fate.is_returned += 1
        self.ledger.figures["acks known to be committed"] += len(done)

    def settle(self, item: Received) -> None:
        number = self.ways.delivered(self.queue, item)
        fate, chance = self.ways.fates[number], self.random.random()
        how = "ack" if chance < 0.4 else "reject" if chance < 0.7 else "return"
        if how == "ack" or (how == "reject" and not QUEUES[self.queue]):
            how, fate.acked = "ack", True
        elif how == "reject":
            fate.rejected[self.queue] = False
        elif self.queue == "way-retry":
            fate.returned += 1
        self.done.append((how, number))
        self.ledger.figures[how] += 1
        if how == "ack":
            self.link.tell(BasicAck(item.tag))
        else:
            self.link.tell(BasicNack(item.tag, requeue=how == "return"))

    def last_words(self) -> None:
        if self.link is not None:
            self.take_confirms(self.link.left())


class Dealer(Walker):
    """Rejects and publishes in transactions, on queues that nobody else uses.

    Attributes:
      doubtful: What a commit that was not answered has published and rejected.
    """

    doubtful: tuple[list[int], list[int]] | None = None

    def work(self) -> None:
        link = self.open()
        link.call(TxSelect(), TxSelectOk)
        while True:
            rejected = []
            for _ in range(self.random.choice((0, 1, 5))):
                link.tell(BasicGet("way-tx"))
                [command] = link.read()
                if isinstance(command, Contents):
                    item = received(command[0])
                    rejected.append(self.ways.delivered("way-tx", item))
                    self.ways.fates[rejected[-1]].rejected["way-tx"] = False
                    link.tell(BasicNack(item.tag, requeue=False))
                else:
                    assert isinstance(command, BasicGetEmpty)
            written = [self.message("way-tx") for _ in range(self.random.choice((0, 1, 9, 80)))]
            link.send(b"".join(octets for _, octets in written))
            published = [number for number, _ in written]
            self.doubtful = published, rejected
            link.call(TxCommit(), TxCommitOk)
            self.doubtful = None
            self.ways.confirm(published)
            for number in rejected:
                self.ways.fates[number].rejected["way-tx"] = True
            self.ledger.figures["transactions"] += 1


class Passage(Storm):
    """Some lives of one broker whose plugins have work to do."""

    def __init__(self, broker, seed: int) -> None:
        super().__init__(broker, seed)
        self.ways = Ways(self.ledger)

    def _start(self) -> None:
        self.ways.end_life(is_stop=self.ledger.is_ending)
        super()._start()

    def _declare(self) -> None:
        with closing(Link(self.broker.address)) as link:
            for queue, arguments in {**QUEUES, RECEIPTS: {}}.items():
                declare = QueueDeclare(queue, durable=True, arguments=arguments)
                link.call(declare, QueueDeclareOk)
            delayed = {"x-delayed-type": "direct"}
            exchange = ExchangeDeclare(
                EXCHANGE, "x-delayed-message", durable=True, arguments=delayed
            )
            link.call(exchange, ExchangeDeclareOk)
            link.call(QueueBind("way-target", EXCHANGE, "way-target"), QueueBindOk)

    def _workers(self, number: int) -> list[Worker]:
        random = self.random

        def common() -> tuple:
            return self.ledger, self.broker.address, str(random.random()), self.ways

        workers: list[Worker] = [Sender(*common()) for _ in range(random.randint(1, 3))]
        taken = random.sample(CONSUMED, random.randint(1, len(CONSUMED)))
        return [*workers, *(Taker(*common(), queue) for queue in taken), Dealer(*common())]

    def _inspect(self, workers: list[Worker], *, wholly: bool) -> None:
        for worker in workers:
            if isinstance(worker, Dealer) and worker.doubtful is not None:
                self._judge_transaction(*worker.doubtful)
        if wholly or self.random.random() < 0.3:
            self._sweep(tuple(QUEUES))
            self.ways.settle_up()

    def _sweep(self, queues: Sequence[str], quiet: float = LONGEST) -> dict[int, str]:
        """Take everything, until nothing has come for some seconds; return what was where."""
        places: dict[int, str] = {}
        with closing(Link(self.broker.address)) as link:
            last = time.monotonic()
            while True:
                for queue in queues:
                    while (item := self._get(link, queue)) is not None:
                        number = self.ways.delivered(queue, item)
                        self.ways.taken(number)
                        places[number] = queue
                        last = time.monotonic()
                if time.monotonic() >= last + quiet:
                    return places
                Event().wait(0.02)

    def _get(self, link: Link, queue: str) -> Received | None:
        link.tell(BasicGet(queue, no_ack=True))
        [command] = link.read()
        return received(command[0]) if isinstance(command, Contents) else None

    def _judge_transaction(self, published: list[int], rejected: list[int]) -> None:
        """Judge a transaction whose commit was not answered: it was carried out, or not at all."""
        places = self._sweep(("way-tx", "way-tx-end"), 0.0)
        done = {number in places for number in published}
        done |= {places.get(number) == "way-tx-end" for number in rejected}
        if len(done) > 1:
            self.ledger.fault(f"half a transaction: {published} published, {rejected} rejected")
        self.ledger.figures["transactions in doubt"] += 1

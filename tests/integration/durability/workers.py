"""Clients that put a broker under load until it dies, and write down what they do.

Law: each works on connections of its own and on its own share of the ledger, in a thread. It
writes down before it sends, and believes nothing but answers. The death of the broker ends it;
anything else that goes wrong is a fault.

Called by: storm.
"""

from collections.abc import Iterable
from random import Random
from threading import Thread
from typing import NamedTuple

from leveret.protocol.content import Content
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicGetEmpty,
    BasicGetOk,
    BasicNack,
    BasicQos,
    BasicQosOk,
    BasicReject,
    QueuePurge,
    QueuePurgeOk,
    TxCommit,
    TxCommitOk,
    TxRollback,
    TxRollbackOk,
    TxSelect,
    TxSelectOk,
)
from leveret.protocol.reader import Command, Contents

from .ledger import Key, Ledger, State, Stream
from .link import CHANNEL, Gone, Link, Refused, confirmed_tags, method_frame, published

TRANSIENT_SHARE = 0.1


class Route(NamedTuple):
    """Where messages may be sent."""

    exchange: str
    routing_key: str
    queues: tuple[str, ...]


def size_of(random: Random) -> int:
    """Return the size of a body: mostly small, now and then above a frame or a mebibyte."""
    chance = random.random()
    if chance < 0.95:
        return random.randint(16, 4096)
    if chance < 0.997:
        return random.randint(16 << 10, 200 << 10)
    return random.randint(300 << 10, 3 << 20)


class Confirms:
    """A channel that publishes with confirms: which numbers of its stream wait for one."""

    def __init__(self, ledger: Ledger, link: Link) -> None:
        self.ledger = ledger
        self.link = link
        self.stream = ledger.stream()
        self.lowest = 0  # every message below is confirmed
        self.floor = 0  # a confirm says nothing any more of those below: a purge is under way
        self._early: set[int] = set()

    @property
    def waiting(self) -> int:
        """How many are not confirmed."""
        return len(self.stream.routes) - self.lowest - len(self._early)

    def message(self, route: Route, size: int, *, persistent: bool = True) -> bytes:
        """Write a message down; return the octets of its publish."""
        state = State.MAY if persistent else State.PASSING
        body = self.stream.body(route.queues, size, state)
        return published(route.exchange, route.routing_key, body, persistent)

    def take(self, commands: Iterable[Command]) -> None:
        """Take in the confirms among what came."""
        for tag, multiple in confirmed_tags(commands):
            if multiple:
                fresh = [each for each in range(self.lowest, tag) if each not in self._early]
                self._early.difference_update(range(self.lowest, tag))
                self.lowest = max(self.lowest, tag)
            else:
                fresh = [tag - 1]
                self._early.add(tag - 1)
            while self.lowest in self._early:
                self._early.discard(self.lowest)
                self.lowest += 1
            self.ledger.confirmed(self.stream, [each for each in fresh if each >= self.floor])

    def finish(self) -> None:
        """Wait until all are confirmed."""
        while self.waiting:
            self.take(self.link.read())


class Worker(Thread):
    """One of the clients."""

    def __init__(self, ledger: Ledger, address: tuple[str, int], seed: str) -> None:
        super().__init__(daemon=True)
        self.ledger = ledger
        self.address = address
        self.random = Random(seed)
        self.link: Link | None = None
        self.confirms: Confirms | None = None

    def run(self) -> None:
        try:
            self.work()
        except Gone:
            self.last_words()
        except (AssertionError, Refused) as problem:
            self.ledger.fault(f"{type(self).__name__}: {problem}")
        finally:
            if self.link is not None:
                self.link.close()

    def work(self) -> None:
        """Go on until the broker is gone."""
        raise NotImplementedError

    def last_words(self) -> None:
        """Take in what the broker said before it went."""
        if self.confirms is not None and self.link is not None:
            self.confirms.take(self.link.left())

    def open(self, *, confirms: bool = False) -> Link:
        self.link = Link(self.address, confirms=confirms)
        return self.link


class Publisher(Worker):
    """Publishes to several queues at once, with a window of unconfirmed messages."""

    def __init__(self, ledger, address, seed, routes: list[Route]) -> None:
        super().__init__(ledger, address, seed)
        self.routes = routes

    def work(self) -> None:
        random, link = self.random, self.open(confirms=True)
        self.confirms = confirms = Confirms(self.ledger, link)
        window = random.choice((1, 20, 200, 1000))
        while True:
            count = random.randint(1, min(window, 60))
            link.send(
                b"".join(
                    confirms.message(
                        random.choice(self.routes),
                        size_of(random),
                        persistent=random.random() > TRANSIENT_SHARE,
                    )
                    for _ in range(count)
                )
            )
            confirms.take(link.poll())
            while confirms.waiting >= window:
                confirms.take(link.read())


class Consumer(Worker):
    """Acks, rejects and returns; a receipt now and then says what of it is committed."""

    def __init__(self, ledger, address, seed, queue: str, receipts: list[Route]) -> None:
        super().__init__(ledger, address, seed)
        self.queue = queue
        self.receipts = receipts
        self.acked: list[Key] = []  # since the last receipt
        self.seen: list[Key] = []
        self.due: list[tuple[int, list[Key], list[Key]]] = []  # receipts that wait for a confirm

    def work(self) -> None:
        random, link = self.random, self.open(confirms=True)
        self.confirms = Confirms(self.ledger, link)
        self.ledger.account(self.queue).is_consumed = True
        link.call(BasicQos(0, random.choice((1, 10, 100, 500))), BasicQosOk)
        link.call(BasicConsume(self.queue, "storm"), BasicConsumeOk)
        while True:
            self.take(link.read())

    def take(self, commands: list[Command]) -> None:
        self.take_confirms(commands)
        for command in commands:
            if isinstance(command, Contents):
                for start in range(0, len(command), 25):
                    self.settle(command[start : start + 25])
        if len(self.acked) > self.random.randint(10, 100):
            self.ask_for_receipt()

    def take_confirms(self, commands: list[Command]) -> None:
        assert self.confirms is not None
        self.confirms.take(commands)
        while self.due and self.due[0][0] < self.confirms.lowest:
            _, acked, seen = self.due.pop(0)
            self.ledger.committed(self.queue, acked, seen)

    def settle(self, contents: list[Content]) -> None:
        """Settle deliveries, in one of the ways there are."""
        assert self.link is not None
        random, octets, acks = self.random, [], []
        keys = {}
        for content in contents:
            method = content.envelope.method
            key = self.ledger.delivered(self.queue, content.body, method.redelivered)
            if key is not None:
                keys[method.delivery_tag] = key
        self.seen += keys.values()
        if keys and random.random() < 0.3:
            acks = list(keys.values())
            octets.append(method_frame(CHANNEL, BasicAck(max(keys), multiple=True)))
        else:
            for tag, key in keys.items():
                octets.append(method_frame(CHANNEL, self._settlement(tag, key, acks)))
        self.acked += acks
        self.ledger.acking(self.queue, acks)
        self.link.send(b"".join(octets))

    def _settlement(self, tag: int, key: Key, acks: list[Key]):
        chance = self.random.random()
        if chance < 0.03:
            self.ledger.returning(self.queue, key)
            return BasicNack(tag, multiple=False, requeue=True)
        acks.append(key)
        return BasicReject(tag, requeue=False) if chance < 0.06 else BasicAck(tag)

    def ask_for_receipt(self) -> None:
        assert self.confirms is not None
        assert self.link is not None
        octets = self.confirms.message(self.random.choice(self.receipts), 40)
        self.due.append((len(self.confirms.stream.routes) - 1, self.acked, self.seen))
        self.acked, self.seen = [], []
        self.link.send(octets)

    def last_words(self) -> None:
        if self.confirms is not None and self.link is not None:
            self.take_confirms(self.link.left())


class Group(NamedTuple):
    """What must be there wholly or not at all, as nobody knows which."""

    published: list[tuple[str, Key]]
    acked: list[tuple[str, Key]]


class Transactor(Worker):
    """Publishes and acks in transactions, on two queues that nobody else uses.

    Attributes:
      doubtful: The transaction whose commit was not answered.
    """

    def __init__(self, ledger, address, seed, queues: tuple[str, str]) -> None:
        super().__init__(ledger, address, seed)
        self.queues = queues
        self.stream: Stream | None = None
        self.doubtful: Group | None = None

    def work(self) -> None:
        link = self.open()
        link.call(TxSelect(), TxSelectOk)
        self.stream = self.ledger.stream()
        for queue in self.queues:
            self.ledger.account(queue).is_consumed = True
        while True:
            self.transact(link, self.stream)

    def transact(self, link: Link, stream: Stream) -> None:
        random = self.random
        acked = []
        for _ in range(random.choice((0, 0, 1, 2, 5))):
            acked += self._get(link, random.choice(self.queues))
        first = len(stream.routes)
        octets = []
        for _ in range(random.choice((0, 1, 3, 10, 100))):
            queue = random.choice(self.queues)
            body = stream.body((queue,), size_of(random), State.NEVER)
            octets.append(published("", queue, body))
        link.send(b"".join(octets))
        numbers = range(first, len(stream.routes))
        if random.random() < 0.2:
            link.call(TxRollback(), TxRollbackOk)
            for queue, key in acked:  # not settled by it: they stay with the channel
                self.ledger.returning(queue, key)
            self._return(link, acked)
            return
        for number in numbers:
            stream.states[number] = State.MAY
        for queue, key in acked:
            self.ledger.acking(queue, [key])
        written = [(stream.routes[each][0], Key(stream.number, each)) for each in numbers]
        self.doubtful = Group(written, acked)
        link.call(TxCommit(), TxCommitOk)
        self.doubtful = None
        self.ledger.confirmed(stream, numbers)
        for queue, key in acked:
            self.ledger.committed(queue, [key], [key])
        self.ledger.figures["transactions"] += 1

    def _get(self, link: Link, queue: str) -> list[tuple[str, Key]]:
        link.tell(BasicGet(queue))
        [command] = link.read()
        if isinstance(command, BasicGetEmpty):
            return []
        assert isinstance(command, Contents), command
        [content] = command
        method = content.envelope.method
        assert isinstance(method, BasicGetOk), method
        key = self.ledger.delivered(queue, content.body, method.redelivered)
        self._tag = method.delivery_tag
        link.tell(BasicAck(method.delivery_tag))
        return [(queue, key)] if key is not None else []

    def _return(self, link: Link, acked: list[tuple[str, Key]]) -> None:
        """Give back what a rollback left unsettled, in a transaction of its own."""
        if acked:
            link.tell(BasicNack(self._tag, multiple=True, requeue=True))
            link.call(TxCommit(), TxCommitOk)


class Purger(Worker):
    """Publishes to a queue of its own and purges it.

    Attributes:
      doubtful: The messages of an unanswered purge: of those that are confirmed all or none.
    """

    def __init__(self, ledger, address, seed, queue: str) -> None:
        super().__init__(ledger, address, seed)
        self.route = Route("", queue, (queue,))
        self.purging = range(0)

    @property
    def doubtful(self) -> list[Key]:
        if self.confirms is None:
            return []
        number, lowest = self.confirms.stream.number, self.confirms.lowest
        return [Key(number, each) for each in self.purging if each < lowest]

    def work(self) -> None:
        random, link = self.random, self.open(confirms=True)
        self.confirms = confirms = Confirms(self.ledger, link)
        purged = 0
        while True:
            for _ in range(random.randint(1, 8)):
                count = random.randint(1, 40)
                link.send(
                    b"".join(
                        confirms.message(self.route, size_of(random) // 4) for _ in range(count)
                    )
                )
                confirms.take(link.poll())
            if random.random() < 0.5:
                confirms.finish()
            end = len(confirms.stream.routes)
            self.purge(link, confirms, range(purged, end))
            purged = end

    def purge(self, link: Link, confirms: Confirms, numbers: range) -> None:
        states = confirms.stream.states
        confirms.floor = numbers.stop
        self.purging = numbers
        states[numbers.start :] = [State.MAY] * len(numbers)
        answer = link.call(QueuePurge(self.route.routing_key), QueuePurgeOk)
        states[numbers.start :] = [State.NEVER] * len(numbers)
        self.purging = range(0)
        confirms.take(link.left())
        self.ledger.figures["purges"] += 1
        if answer.message_count != len(numbers):
            self.ledger.fault(f"purged {answer.message_count} instead of {len(numbers)}")

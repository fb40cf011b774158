"""A client that declares, binds, unbinds and deletes until the broker dies.

Law: what is asked for is in doubt until it is answered; `Known` says so with None.

Called by: storm; inspector (what must be there).
"""

from dataclasses import dataclass, field

from leveret.protocol.methods import (
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    ExchangeDeleteOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueueUnbind,
    QueueUnbindOk,
)

from .ledger import Key, State
from .link import Link
from .workers import Confirms, Route, Worker

EXCHANGE = "storm.direct"


@dataclass
class Known:
    """What is known of a queue that comes and goes.

    Attributes:
      exists: Whether it does; None while that is in doubt. Likewise `is_bound`.
      keys: What it holds.
    """

    exists: bool | None = False
    is_bound: bool | None = False
    keys: list[Key] = field(default_factory=list)


@dataclass
class Book:
    """What one declarer has made.

    Attributes:
      queues: By name.
      exchanges: By name, whether it exists.
      passing: Queues that must not outlive the broker.
    """

    queues: dict[str, Known]
    exchanges: dict[str, bool | None]
    passing: list[str]


def book(name: str) -> Book:
    """Return an empty book whose names begin with `name`."""
    queues = {f"{name}-{each}": Known() for each in range(3)}
    return Book(queues, {f"{name}-x": False}, [f"{name}-transient", f"{name}-exclusive"])


class Declarer(Worker):
    """Makes queues and exchanges, and does away with them."""

    def __init__(self, ledger, address, seed, known: Book) -> None:
        super().__init__(ledger, address, seed)
        self.book = known

    def work(self) -> None:
        link = self.open(confirms=True)
        self.confirms = confirms = Confirms(self.ledger, link)
        transient, exclusive = self.book.passing
        link.call(QueueDeclare(transient), QueueDeclareOk)
        link.call(QueueDeclare(exclusive, durable=True, exclusive=True), QueueDeclareOk)
        for queue in self.book.passing:
            link.send(confirms.message(Route("", queue, ()), 100))
        confirms.finish()
        while True:
            if self.random.random() < 0.1:
                self.change_exchange(link)
            else:
                self.change_queue(link, self.random.choice(list(self.book.queues)))
            self.ledger.figures["definitions changed"] += 1

    def change_exchange(self, link: Link) -> None:
        [(name, exists)] = self.book.exchanges.items()
        self.book.exchanges[name] = None
        if exists:
            link.call(ExchangeDelete(name), ExchangeDeleteOk)
        else:
            link.call(ExchangeDeclare(name, "topic", durable=True), ExchangeDeclareOk)
        self.book.exchanges[name] = not exists

    def change_queue(self, link: Link, name: str) -> None:
        known = self.book.queues[name]
        if not known.exists:
            known.exists = None
            answer = link.call(QueueDeclare(name, durable=True), QueueDeclareOk)
            known.exists = True
            if answer.message_count:
                self.ledger.fault(f"{name}: {answer.message_count} messages in a new queue")
            return
        chance = self.random.random()
        if chance < 0.3:
            self.delete(link, name, known)
        elif chance < 0.6:
            self.publish(link, name, known)
        else:
            self.bind(link, name, known)

    def bind(self, link: Link, name: str, known: Known) -> None:
        was_bound, known.is_bound = known.is_bound, None
        if was_bound:
            link.call(QueueUnbind(name, EXCHANGE, name), QueueUnbindOk)
        else:
            link.call(QueueBind(name, EXCHANGE, name), QueueBindOk)
        known.is_bound = not was_bound

    def publish(self, link: Link, name: str, known: Known) -> None:
        """Publish by way of the binding: unbound, nothing comes of it."""
        assert self.confirms is not None
        route = Route(EXCHANGE, name, (name,) if known.is_bound else ())
        stream = self.confirms.stream
        for _ in range(self.random.randint(1, 3)):
            if known.is_bound:
                known.keys.append(Key(stream.number, len(stream.routes)))
            link.send(self.confirms.message(route, self.random.randint(20, 3000)))
        self.confirms.finish()

    def delete(self, link: Link, name: str, known: Known) -> None:
        self._set(known, State.MAY)
        known.exists = None
        link.call(QueueDelete(name), QueueDeleteOk)
        self._set(known, State.NEVER)
        known.keys.clear()
        known.exists = known.is_bound = False

    def _set(self, known: Known, state: State) -> None:
        for key in known.keys:
            self.ledger.streams[key.stream].states[key.number] = state

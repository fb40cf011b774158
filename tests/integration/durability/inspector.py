"""Looks at everything that a broker still has after it was killed.

Law: it asks as any client does. The last message of a queue is one that the inspector has sent
itself: behind it nothing can come, so that nothing has to be waited for.

Called by: storm.
"""

from contextlib import closing
from random import Random

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicReturn,
    ExchangeDeclare,
    ExchangeDeclareOk,
    QueueDeclare,
    QueueDeclareOk,
)
from leveret.protocol.reader import Contents

from .declarer import EXCHANGE, Book, Known
from .ledger import Key, Ledger, State
from .link import Link, Refused, published
from .workers import Confirms, Group, Route

RECEIPTS = "receipts"  # a durable queue


class Inspector:
    """Knows what must be there, and sees what is."""

    def __init__(self, ledger: Ledger, address: tuple[str, int], random: Random) -> None:
        self.ledger = ledger
        self.address = address
        self.random = random

    # Definitions

    def inspect(self, book: Book) -> None:
        """Compare a declarer's queues and exchanges with what is there."""
        for name in book.passing:
            if self._exists(QueueDeclare(name, passive=True), QueueDeclareOk):
                self.ledger.fault(f"the queue {name} outlived the broker")
        for name, expected in book.exchanges.items():
            exists = self._exists(ExchangeDeclare(name, passive=True), ExchangeDeclareOk)
            book.exchanges[name] = self._agree(f"exchange {name}", expected, exists)
        for name, known in book.queues.items():
            self._inspect_queue(name, known)

    def _inspect_queue(self, name: str, known: Known) -> None:
        exists = self._exists(QueueDeclare(name, passive=True), QueueDeclareOk)
        was_in_doubt = known.exists is None
        known.exists = self._agree(f"queue {name}", known.exists, exists)
        if not exists:
            known.is_bound = False
            known.keys.clear()
            return
        if was_in_doubt:  # it is not deleted: then nothing that it held is, either
            for key in known.keys:
                self.ledger.streams[key.stream].states[key.number] = State.MUST
        bound = self._is_bound(name)
        known.is_bound = self._agree(f"binding of {name}", known.is_bound, bound)
        known.keys.clear()

    def _agree(self, what: str, expected: bool | None, found: bool) -> bool:
        if expected is not None and expected is not found:
            self.ledger.fault(f"{what}: {'lost' if expected else 'should be gone'}")
        self.ledger.figures["definitions found"] += found
        return found

    def _exists(self, method, reply) -> bool:
        with closing(Link(self.address)) as link:
            try:
                link.call(method, reply)
            except Refused as reason:
                if "404" not in str(reason):
                    raise
                return False
        return True

    def _is_bound(self, name: str) -> bool:
        with closing(Link(self.address, confirms=True)) as link:
            return self._is_routed(link, name)

    def _is_routed(self, link: Link, name: str) -> bool:
        confirms = Confirms(self.ledger, link)
        body = confirms.stream.body((name,), 20)
        link.send(published(EXCHANGE, name, body, mandatory=True))
        bound = True
        while confirms.waiting:
            commands = link.read()
            for command in commands:
                if isinstance(command, Contents):
                    assert isinstance(command[0].envelope.method, BasicReturn)
                    bound = False
            if not bound:
                confirms.floor = 1  # confirmed, and nowhere
            confirms.take(commands)
        return bound

    # Messages

    def drain(self, queue: str, expected: set[Key]) -> set[Key]:
        """Take everything out of a queue and judge it; return what was there."""
        if not self._exists(QueueDeclare(queue, passive=True), QueueDeclareOk):
            self.ledger.fault(f"the queue {queue} is lost, with {len(expected)} messages")
            return set()
        with closing(Link(self.address, confirms=True)) as link:
            return self._empty(queue, link, expected)

    def _empty(self, queue: str, link: Link, expected: set[Key]) -> set[Key]:
        confirms = Confirms(self.ledger, link)
        no_ack = self.random.random() < 0.5
        mark = Key(confirms.stream.number, 0)
        link.send(confirms.message(Route("", queue, (queue,)), 50))
        confirms.finish()
        keys: list[Key] = []
        link.call(BasicConsume(queue, "inspector", no_ack=no_ack), BasicConsumeOk)
        while mark not in keys[-1:]:
            keys += self._take(queue, link)
        self.ledger.judge_content(queue, keys[:-1], expected)
        self.ledger.acking(queue, keys)
        if not no_ack:
            link.tell(BasicAck(0, multiple=True))
        link.call(BasicCancel("inspector"), BasicCancelOk)
        link.send(confirms.message(Route("", RECEIPTS, (RECEIPTS,)), 50))
        confirms.finish()
        self.ledger.committed(queue, keys, keys)
        self.ledger.account(queue).is_consumed = False
        return set(keys)

    def _take(self, queue: str, link: Link) -> list[Key]:
        keys = []
        for command in link.read():
            if isinstance(command, Contents):
                for content in command:
                    redelivered = content.envelope.method.redelivered
                    key = self.ledger.delivered(queue, content.body, redelivered)
                    keys += [key] if key is not None else []
        return keys

    # What must be there wholly or not at all

    def judge_transaction(self, group: Group, present: dict[str, set[Key]]) -> None:
        """Judge a transaction whose commit was not answered."""
        there = [key in present[queue] for queue, key in group.published]
        back = [key in present[queue] for queue, key in group.acked]
        if len(set(there) | {not each for each in back}) > 1:
            self.ledger.fault(
                f"half a transaction: {sum(there)} of {len(there)} published are there, "
                f"{sum(back)} of {len(back)} acked are back"
            )
        self.ledger.figures["transactions in doubt"] += 1

    def judge_purge(self, keys: list[Key], present: set[Key]) -> None:
        """Judge a purge that was not answered."""
        there = sum(key in present for key in keys)
        if there not in {0, len(keys)}:
            self.ledger.fault(f"half a purge: {there} of {len(keys)} messages are there")
        self.ledger.figures["purges in doubt"] += 1

"""Settling: what the consumers of a channel have, and what becomes of it.

Law: `unacked` is in order of delivery tags. Each entry is (consumer, position, message); its
queue and the credit it took are the consumer's, and get it back here and nowhere else. Very many
are settled a piece at a time, and of those acknowledged at once all in one commit.

Called by: amqp.channel (it is its base), amqp.basic_methods and amqp.transaction (settle),
core.consumer (room), server.forgetter (what is unacknowledged).
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, takewhile
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from leveret.broker.core.message import Absent, absent_octets, octets
from leveret.protocol.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.amqp.session import Session
    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue

Entry: TypeAlias = "tuple[Consumer, int, Message | Absent]"

_consumer_of, _position_of, _message_of = itemgetter(0), itemgetter(1), itemgetter(2)
# Tags without a message that an ack of many walks over, rather than looking through all there are.
MANY_HOLES = 4096
# Settled messages forgotten, or unsettled ones put back, at a stroke.
PIECE = 4096


class Settling:
    """What the consumers of a channel have and may have.

    Attributes:
      unacked: Delivered and not settled, by delivery tag.
      next_tag: The tag of the next delivery.
      lowest: No lower tag is among them.
      parked: Those of its consumers that have no room now.
      window: Unacknowledged messages all its consumers together may have, 0 for any number.
      window_used: How many they have.
    """

    __slots__ = (
        "lowest",
        "next_tag",
        "outbox",
        "parked",
        "session",
        "unacked",
        "window",
        "window_used",
    )

    def __init__(self, session: Session) -> None:
        self.session = session
        self.outbox = session.outbox
        self.unacked: dict[int, Entry] = {}
        self.next_tag = 1
        self.lowest = 1
        self.parked: dict[Consumer, None] = {}
        self.window = 0
        self.window_used = 0

    # Room

    def room(self, consumer: Consumer) -> int:
        """Return how many messages a consumer can take now."""
        if self.outbox.size >= self.session.outbox_high or not self.session.is_running:
            return 0
        if self.window and not consumer.no_ack:
            return min(consumer.credit, self.window - self.window_used)
        return consumer.credit

    def unpark(self) -> None:
        """Give those consumers their turns back that have room again."""
        for consumer in tuple(self.parked):
            if self.room(consumer) > 0:
                consumer.queue.unpark(consumer)

    # Settling

    def take(self, tag: int, multiple: bool) -> dict[int, Entry]:
        """Remove and return the entry of a delivery tag, or all up to it, by tag.

        Raises:
          PreconditionFailed: There is none.
        """
        unacked = self.unacked
        if multiple and tag == 0:
            self.unacked = {}
            return unacked
        if tag not in unacked:
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        if multiple and tag - self.lowest >= PIECE and self.next_tag - tag <= PIECE:
            return self._all_but_after(tag)
        tags = self._up_to(tag) if multiple else [tag]
        if len(tags) == len(unacked):
            self.unacked = {}
            return unacked
        return dict(zip(tags, map(unacked.pop, tags), strict=True))

    def _all_but_after(self, tag: int) -> dict[int, Entry]:
        """Take the entries up to a tag where few come after it: those few move to a new dict."""
        taken = self.unacked
        after = list(takewhile(tag.__lt__, reversed(taken)))[::-1]
        self.unacked = dict(zip(after, map(taken.pop, after), strict=True))
        self.lowest = tag + 1
        return taken

    def _up_to(self, tag: int) -> list[int]:
        """Return the live tags up to one, and look at each of them for the last time.

        Walking the dict would look again and again at what was removed from its front.
        """
        first, unacked = self.lowest, self.unacked
        self.lowest = tag + 1
        if tag - first > len(unacked) + MANY_HOLES:
            return list(takewhile(tag.__ge__, unacked))
        return [each for each in range(first, tag + 1) if each in unacked]

    def take_row(self, tags: list[int]) -> list[Entry]:
        """Remove and return the entries of several delivery tags.

        Raises:
          PreconditionFailed: One is unknown; those before it are settled.
        """
        pop = self.unacked.pop
        entries: list[Entry] = []
        try:
            entries.extend(map(pop, tags))
        except KeyError:
            # extend keeps what it got: the next one is the unknown one
            unknown = tags[len(entries)]
            self.discard(entries)
            raise PreconditionFailed(f"unknown delivery tag {unknown}") from None
        return entries

    def settle_all(
        self,
        discarded: Sequence[dict[int, Entry]],
        requeued: Sequence[dict[int, Entry]],
        rejected: Sequence[dict[int, Entry]] = (),
    ) -> None:
        """Discard some messages, requeue others, drop others; very many a piece at a time."""
        if sum(map(len, chain(discarded, requeued, rejected))) > PIECE:
            batch = self.session.broker.batch
            if discarded:
                batch.unfinished.append(self.discard_later(*discarded))
            if rejected:
                batch.unfinished.append(self.reject_later(*rejected))
            batch.returns.append(self.requeue_later(*requeued))
        else:
            for entries in discarded:
                self.discard_many(entries)
            for entries in rejected:
                self.reject_many(entries)
            for entries in requeued:
                self.requeue(entries)

    def discard_many(self, taken: dict[int, Entry]) -> None:
        """Forget settled messages; very many a piece at a time, all of them in one commit."""
        if len(taken) > PIECE:
            self.session.broker.batch.unfinished.append(self.discard_later(taken))
        else:
            self.discard(list(taken.values()))

    def discard_later(self, *taken: dict[int, Entry]) -> Iterator[None]:
        """Forget settled messages, some with each step."""
        for piece in _pieces(taken):
            self.discard(piece)
            for queue in {consumer.queue for consumer in set(map(_consumer_of, piece))}:
                if queue.log is not None:
                    queue.log.apply()
            yield

    def reject_many(self, taken: dict[int, Entry]) -> None:
        """Drop rejected messages; very many a piece at a time, all of them in one commit."""
        if len(taken) > PIECE:
            self.session.broker.batch.unfinished.append(self.reject_later(taken))
        else:
            self.reject(list(taken.values()))

    def reject_later(self, *taken: dict[int, Entry]) -> Iterator[None]:
        """Drop rejected messages, some with each step."""
        for piece in _pieces(taken):
            self.reject(piece[::-1])
            yield

    def reject(self, entries: list[Entry]) -> None:
        """Drop rejected messages; hooks of their queues get them."""
        by_queue: dict[Queue, list[Entry]] = {}
        for entry in entries:
            queue = entry[0].queue
            if queue.policy_epoch != queue.vhost.policy_epoch:
                queue.vhost.refit(queue)
            if queue.extras is not None and queue.extras.dropped and not queue.deleted:
                by_queue.setdefault(queue, []).append(entry)
        for queue, some in by_queue.items():
            entries = [entry for entry in entries if entry[0].queue is not queue]
            self._reject_in(queue, some)
        self.discard(entries)

    def _reject_in(self, queue: Queue, entries: list[Entry]) -> None:
        """Have the hooks of a queue get what was rejected in it."""
        here: list[tuple[int, Message]] = []
        absent: list[tuple[int, Message | Absent]] = []
        for _, position, message in entries:
            if isinstance(message, Absent):
                absent.append((position, message))
            else:
                here.append((position, message))
        if here and not queue.reject(here):
            queue.forget(here)  # the log keeps them: they come back with a restart
            self._count_settled(entries)
        else:
            self.discard([entry for entry in entries if not isinstance(entry[2], Absent)])
            self._count_settled([entry for entry in entries if isinstance(entry[2], Absent)])
        queue.reject_absent(absent)

    def _count_settled(self, entries: list[Entry]) -> None:
        """Count messages as settled that the log keeps."""
        for consumer, _, message in entries:
            consumer.queue.settle(1, octets((message,)))
            consumer.queue.absent_bytes -= absent_octets((message,))
            self._give_back(consumer, 1)
        if self.parked:
            self.unpark()

    def discard(self, entries: list[Entry]) -> None:
        """Forget settled messages and give their credit back."""
        if not entries:
            return
        consumers = set(map(_consumer_of, entries))
        if len(consumers) == 1:
            (consumer,) = consumers
            queue = consumer.queue
            if queue.log is not None:
                queue.log.settled(map(_position_of, entries))
            if queue.extras is not None:
                queue.extras.forget([*map(_position_of, entries)])
            queue.settle(len(entries), octets(map(_message_of, entries)))
            if queue.absent_bytes:
                queue.absent_bytes -= absent_octets(map(_message_of, entries))
            self._give_back(consumer, len(entries))
        else:
            self._discard_of_many(entries, consumers)
        if self.parked:
            self.unpark()

    def _discard_of_many(self, entries: list[Entry], consumers: set[Consumer]) -> None:
        for queue in {consumer.queue for consumer in consumers}:
            if queue.log is not None or queue.extras is not None:
                _settle_in(queue, entries)
        for consumer, _, message in entries:
            consumer.queue.settle(1, octets((message,)))
            if consumer.queue.absent_bytes:
                consumer.queue.absent_bytes -= absent_octets((message,))
            self._give_back(consumer, 1)

    def requeue(self, taken: dict[int, Entry]) -> None:
        """Put unsettled messages back where they were; very many a piece at a time."""
        if len(taken) > PIECE:
            self.session.broker.batch.returns.append(self.requeue_later(taken))
        else:
            self._return(list(taken.values()))

    def requeue_later(self, *taken: dict[int, Entry]) -> Iterator[None]:
        """Count unsettled messages as ready now; put them back later, some with each step."""
        for entries in taken:
            self._await_returns(entries)
        return self._return_later(*taken)

    def _await_returns(self, taken: dict[int, Entry]) -> None:
        """Have the queues count now what will come back."""
        queues = {consumer.queue for consumer in set(map(_consumer_of, taken.values()))}
        if len(queues) == 1:
            (queue,) = queues
            queue.await_returns(len(taken))
        else:
            for consumer, count in Counter(map(_consumer_of, taken.values())).items():
                consumer.queue.await_returns(count)

    def _return_later(self, *taken: dict[int, Entry]) -> Iterator[None]:
        for piece in _pieces(taken):  # nobody gets any before the last is back
            self._return(piece[::-1], are_awaited=True)
            yield

    def _return(self, entries: list[Entry], *, are_awaited: bool = False) -> None:
        consumers = set(map(_consumer_of, entries))
        for consumer in consumers:
            if consumer.queue.policy_epoch != consumer.queue.vhost.policy_epoch:
                consumer.queue.vhost.refit(consumer.queue)
        if len(consumers) == 1:
            (consumer,) = consumers
            consumer.queue.requeue([entry[1:] for entry in entries], are_awaited=are_awaited)
            self._give_back(consumer, len(entries))
        else:
            by_queue: dict[Queue, list[tuple[int, Message | Absent]]] = {}
            for consumer, position, message in entries:
                by_queue.setdefault(consumer.queue, []).append((position, message))
                self._give_back(consumer, 1)
            for queue, returned in by_queue.items():
                queue.requeue(returned, are_awaited=are_awaited)
        if self.parked:
            self.unpark()

    def _give_back(self, consumer: Consumer, count: int) -> None:
        consumer.credit += count
        if consumer.tag:
            self.window_used -= count


def _settle_in(queue: Queue, entries: list[Entry]) -> None:
    """Tell one of several queues which of its messages are settled."""
    positions = [entry[1] for entry in entries if entry[0].queue is queue]
    if queue.log is not None:
        queue.log.settled(positions)
    if queue.extras is not None:
        queue.extras.forget(positions)


def _pieces(taken: Iterable[dict[int, Entry]]) -> Iterator[list[Entry]]:
    """Take entries out, some at a time: from the end, where a dict shrinks at no cost."""
    for entries in taken:
        while entries:
            yield [entries.popitem()[1] for _ in range(min(PIECE, len(entries)))]

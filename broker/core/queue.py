"""Queues: messages dealt to consumers, and settled by them.

Law: this file decides; it never performs I/O and never awaits. What is published waits in
`incoming` until the queue deals: at the end of the slice, or before anything that observes or
changes what is ready. Positions grow and are never reused, so a requeue restores order. Which
messages there are, and where: `core.stock`.

Order of service: returned messages (by position), then the runs, then what is incoming. Very many
come back in pieces: they count as ready at once, and nothing is dealt before the last is here.

Called by: core.vhost (declare, delete), amqp.publish (incoming), amqp.basic_methods (consume, get),
amqp.channel and amqp.settling (consumers, requeue, reject), core.batch (deal), core.expiring,
core.returning and amqp.transaction (what waits for a commit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.consumer import DEAL_LIMIT, Consumer, Ring
from leveret.broker.core.message import absent_octets, octets
from leveret.broker.core.paging import (
    are_returned_loaded,
    is_fetched,
    is_loaded,
    shortened,
    with_bodies,
)
from leveret.broker.core.runs import CHUNK_LENGTH, UNLIMITED
from leveret.broker.core.stock import Stock
from leveret.protocol.wire import EMPTY_TABLE

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Mapping, Sequence

    from leveret.broker.core.batch import Batch
    from leveret.broker.core.chunks import Paged
    from leveret.broker.core.hooks import QueueHook
    from leveret.broker.core.message import Message
    from leveret.broker.core.returned import Entry
    from leveret.broker.core.vhost import VirtualHost

# Octets of stored messages dealt before the room of consumers is looked at again: about what a
# connection may have unsent.
DEAL_BYTES = 1 << 20


class NotLoaded(Exception):
    """What is asked for is not here yet; the command is to be tried again."""


class Queue(Stock):
    """One queue: its messages, and who gets them.

    Attributes:
      owner: The session that alone may use it, None if all may.
      settings: What x-arguments and policies say together, under the names of policy keys.
      policy_epoch: That of the policies which the settings are from.
      admitting: Hooks that are asked before a message comes in.
      is_hidden: Whether only a plugin knows it, and no client can name it.
      is_timed: Whether a message has come that says itself when it expires.
    """

    __slots__ = (
        "_ring",
        "_sealed",
        "admitting",
        "arguments",
        "auto_delete",
        "durable",
        "is_hidden",
        "is_timed",
        "name",
        "owner",
        "policy",
        "policy_epoch",
        "settings",
    )

    def __init__(
        self,
        vhost: VirtualHost,
        name: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        owner: object | None = None,
        arguments: Mapping[str, object] = EMPTY_TABLE,
    ) -> None:
        super().__init__(vhost)
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.arguments = arguments
        self.policy: Mapping[str, object] = EMPTY_TABLE
        self.policy_epoch = vhost.policy_epoch
        self.settings: Mapping[str, object] = EMPTY_TABLE
        self.admitting: tuple[QueueHook, ...] = ()
        self.is_timed = False
        self.is_hidden = False
        self._ring = Ring()
        # from which position on consumers get nothing before which commit is done, ascending
        self._sealed: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} in {self.vhost.name!r}>"

    # What can be seen

    @property
    def ready_count(self) -> int:
        """How many messages wait, after dealing what is due."""
        self.deal()
        waiting = self._awaited + len(self.incoming) + self.coming
        return self.runs.count + self.returned.count + waiting

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """Its consumers in the order they came."""
        return tuple(self._ring.consumers)

    @property
    def consumer_count(self) -> int:
        """How many consumers it has."""
        return len(self._ring.consumers)

    @property
    def has_takers(self) -> bool:
        """Whether a consumer has room."""
        return self._ring.front() is not None

    def use_ring(self, ring: Ring) -> None:
        """Have another rule say who gets messages, also of the consumers that are there."""
        before, self._ring = self._ring, ring
        for consumer in before.consumers:
            consumer.channel.parked.pop(consumer, None)  # who has no room is found out again
            ring.add(consumer)

    def is_ruled_by(self, kind: type[Ring]) -> bool:
        """Whether it is such a rule that says who gets messages."""
        return type(self._ring) is kind

    def touch(self) -> None:
        """Have the queue deal at the end of the slice."""
        self.vhost.broker.batch.touched[self] = None

    # Dealing

    def deal(self) -> None:
        """Hand ready messages to the consumers that have room, in turns."""
        if self.policy_epoch != self.vhost.policy_epoch:
            self.vhost.refit(self)  # which may make it a hooked queue
            self.deal()
            return
        if self._awaited:  # what comes back goes before what is here
            self._let_wait()
            return
        incoming, limit = self.incoming, DEAL_LIMIT
        end = self._unseal() if self._sealed else UNLIMITED
        level = self._ring.front()
        while level is not None and limit > 0:
            if self.returned.count:
                if not are_returned_loaded(self):
                    break
                limit -= self._deal_returned(level, limit)
            elif self.runs.count:
                if self.runs.first >= end or not is_loaded(self):
                    break
                limit -= self._deal_runs(level, limit, end)
            elif incoming:
                limit -= self._deal_incoming(level, limit)
            else:
                return
            level = self._ring.front()
        self._let_wait()
        if level is not None and self._is_ready(end):
            self.touch()

    def _let_wait(self) -> None:
        """Store what came in and nobody has room for."""
        if self.incoming:
            self._store()
            if self._ring.consumers:
                self.vhost.broker.batch.is_crowded = True

    def _is_ready(self, end: int) -> bool:
        """Whether the first message may be dealt; have it read if it is not here."""
        if self.returned.count:
            return are_returned_loaded(self)
        return self.runs.count > 0 and self.runs.first < end and is_loaded(self)

    def seal(self, commit: int) -> None:
        """Deal nothing that was published in this slice before a commit that somebody waits for.

        What a transaction has published nobody gets before it is on the disk; what comes after it
        waits behind it. A get may have it: its answer waits.
        """
        batch, sealed = self.vhost.broker.batch, self._sealed
        if self.incoming and not self.deleted and commit > batch.committed:
            if not sealed or sealed[-1][1] < commit:
                sealed.append((self.next_position, commit))
            batch.sealed[self] = None
            self._store()

    @property
    def sealed_until(self) -> int:
        """The last commit that anything here waits for; one that is done, or 0, if nothing does."""
        return self._sealed[-1][1] if self._sealed else 0

    def _unseal(self) -> int:
        """Return the position from which on everything waits for a commit."""
        batch, sealed = self.vhost.broker.batch, self._sealed
        while sealed and sealed[0][1] <= batch.committed:
            del sealed[0]
        if not sealed:
            return UNLIMITED
        batch.sealed[self] = None
        if self.incoming:
            self._store()
        return sealed[0][0]

    def waits_for_commit(self, position: int) -> int:
        """Return which commit a message waits for, 0 if it does not."""
        if self._sealed and self._unseal() <= position:
            return max(commit for first, commit in self._sealed if first <= position)
        return 0

    def settle_in(self) -> None:
        """Give positions to all that came in, before the queue gets another strategy."""
        if self.incoming:
            self._store()

    def _deal_returned(self, level: OrderedDict[Consumer, None], limit: int) -> int:
        consumers, share, cost = self._ring.next(level, limit, self.returned.count)
        if consumers:
            wanted = min(len(consumers) * share, CHUNK_LENGTH)
            positions, messages = self.returned.take(wanted, DEAL_BYTES)
            self._ring.distribute(level, consumers, positions, messages, redelivered=True)
            cost += len(messages)
        return cost

    def _deal_runs(self, level: OrderedDict[Consumer, None], limit: int, end: int) -> int:
        consumers, share, cost = self._ring.next(level, limit, self.runs.count)
        if consumers:
            wanted = min(len(consumers) * share, DEAL_LIMIT)
            if end != UNLIMITED:
                wanted = min(wanted, self.runs.until(end - 1))
            positions, messages, redelivered = self._take(wanted, DEAL_BYTES)
            self._ring.distribute(level, consumers, positions, messages, redelivered)
            cost += len(messages)
        return cost

    def _take(self, limit: int, size: int) -> tuple[Sequence[int], list[Message], bool]:
        """Take messages from the front that were all, or none of them, delivered before."""
        runs = self.runs
        if runs.first > self.delivered_before:
            return (*runs.take(limit, size), False)
        return (*runs.take(min(limit, runs.until(self.delivered_before)), size), True)

    def _deal_incoming(self, level: OrderedDict[Consumer, None], limit: int) -> int:
        incoming = self.incoming
        consumers, share, cost = self._ring.next(level, limit, len(incoming))
        if not consumers:
            return cost
        wanted = len(consumers) * share
        if wanted >= len(incoming):
            messages = incoming.copy()
            incoming.clear()
        else:
            messages = incoming[:wanted]
            del incoming[:wanted]
        base = self.next_position
        self.next_position = base + len(messages)
        if self.log is not None:
            self.log.enqueued(base, messages)
        self._ring.distribute(level, consumers, range(base, self.next_position), messages)
        return cost + len(messages)

    def pop(self) -> tuple[int, Message, bool] | None:
        """Take the first ready message for basic.get: position, message, redelivered.

        It counts as unacked until `settle` or `requeue`.

        Raises:
          NotLoaded: It is being read, or comes in pieces; the same may be asked again once it is
            here.
        """
        self.deal()
        if self._awaited:
            raise NotLoaded
        if self.incoming:
            self._store()
        if self.returned.count:
            if not are_returned_loaded(self):
                raise NotLoaded
            (position,), (message,) = self.returned.take(1)
            redelivered = True
        elif self.runs.count:
            if not is_loaded(self):
                raise NotLoaded
            (position,), (message,), redelivered = self._take(1, DEAL_BYTES)
        elif self.coming:
            raise NotLoaded
        else:
            return None
        if self.log is not None:
            self.log.delivered(position)
        self.unacked_count += 1
        self.unacked_bytes += octets((message,))
        return position, message, redelivered

    # What was not in memory

    def loaded(
        self, paged: Paged, messages: list[Message], positions: list[int] | None = None
    ) -> None:
        """Take in messages that were asked for, and their positions if there are gaps."""
        is_needed = (
            is_fetched(self, paged, messages, positions)
            or self.returned.load(paged, messages)
            or self.runs.load(paged, messages, positions)
        )
        if is_needed:
            self.touch()

    # Settling

    def reject_absent(self, entries: list[Entry]) -> None:
        """Tell hooks of rejected messages that only the log has, and let go of them then."""
        with_bodies(self, entries, self._reject_fetched)

    def _reject_fetched(self, entries: list[tuple[int, Message]]) -> None:
        if self.reject(entries) and self.log is not None:
            self.log.settled([position for position, _ in entries])
        self.forget(entries)

    def keep_time(self) -> None:
        """Have the queue look at the `expiration` of its messages from now on.

        A hidden one never does: there they are on their way to another.
        """
        if not self.is_timed and not self.is_hidden:
            self.is_timed = True
            self.vhost.refit(self, is_forced=True)

    def requeue(self, entries: Sequence[Entry], *, are_awaited: bool = False) -> None:
        """Put unsettled messages back at their original positions.

        Args:
          entries: Positions and messages, delivered from this queue and not settled.
          are_awaited: Whether `await_returns` has counted them.
        """
        messages = [message for _, message in entries]
        size, returned = octets(messages), self.returned
        if are_awaited:
            self._awaited -= len(entries)
            self.unacked_bytes -= size
        else:
            self.settle(len(entries), size)
        if self.absent_bytes:
            self.absent_bytes -= absent_octets(messages)
        if self.deleted:
            return
        if self.log is not None:
            self.log.returned([position for position, _ in entries])
            entries = shortened(self, entries, size)
        if self.incoming:
            self._store()
        returned.add(entries, size)
        self.touch()

    def purge(self) -> int:
        """Drop all ready messages and return how many they were.

        Raises:
          NotLoaded: Some come in pieces; the same may be asked again once they are here.
        """
        count = self.ready_count
        if self._awaited or self.coming:
            raise NotLoaded
        self._drop_ready()
        return count

    def withdraw(self, first: int, last: int) -> int:
        """Take out what is ready, or waits, from a position to another; return how many.

        It is as if they had been acknowledged. Unacknowledged ones are left alone.
        """
        found = self.returned.remove(first, last) if self.returned.count else []
        found += self._remove(first, last)
        positions = sorted(position for position, _ in found)
        if positions:
            if self.log is not None:
                self.log.settled(positions)
            if self.extras is not None:
                self.extras.forget(positions)
            self.touch()
        return len(positions)

    # Consumers

    def add_consumer(self, consumer: Consumer) -> None:
        """Let a consumer take part from the end of this slice on."""
        self.deal()
        self._ring.add(consumer)
        self.touch()
        if self.extras is not None:
            self._tell_of_consumers()

    def remove_consumer(self, consumer: Consumer) -> None:
        """Stop dealing to a consumer; with the last one an auto-delete queue goes."""
        self.deal()
        if consumer in self._ring.consumers:
            self._ring.remove(consumer)
            if self.extras is not None:
                self._tell_of_consumers()
            if self.auto_delete and not self._ring.consumers:
                self.vhost.delete_queue(self)

    def unpark(self, consumer: Consumer) -> None:
        """Give a consumer that has room again its turns back."""
        self._ring.unpark(consumer)
        self.touch()

    def delete(self) -> None:
        """Drop everything and tell the consumers; the virtual host has let go of it already."""
        self.deleted = True
        for consumer in self.consumers:
            self._ring.remove(consumer)
            consumer.channel.cancelled(consumer)
        if self.extras is not None:
            self.extras.close()
        if self.log is not None:
            self.log.close()
            self.log = None
        self._drop_ready()
        self.admitting = ()
        batch = self.vhost.broker.batch
        batch.touched.pop(self, None)
        batch.caused.pop(self, None)


def seal_caused(batch: Batch, commit: int) -> None:
    """Have consumers wait for what was moved to queues in this slice until a commit is done.

    Where it left a queue by what a transaction has published, that is the transaction's: until
    then it may not have been. It need not be the one that the move itself is in.
    """
    if commit > batch.committed:
        for queue in batch.caused:
            if isinstance(queue, Queue):
                queue.seal(commit)

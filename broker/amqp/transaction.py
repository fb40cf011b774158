"""Transactions: what a channel in tx mode holds back until tx.commit.

Law: publishes are checked and routed when they come, placed on commit; acknowledged messages
stay this channel's until then. A rollback makes them unacknowledged again, it requeues nothing.

Called by: amqp.channel, amqp.publish, amqp.basic_methods (settle), amqp.confirm_tx_methods.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import accumulate, chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING

from leveret.broker.amqp.publish import send_back_if_lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from leveret.broker.amqp.channel import Channel, Entry
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue


# What is carried out at a stroke: messages, their octets, and queues that get some of them.
PIECE, PIECE_OCTETS, WIDTH = 4096, 4 << 20, 64


class Transaction:
    """The open transaction of one channel.

    Attributes:
      octets: Of headers and bodies it holds.
    """

    __slots__ = ("_mandatory", "_publishes", "_settlements", "_unfinished", "octets")

    def __init__(self) -> None:
        self._unfinished = 0  # commits that are not carried out wholly yet
        self._start_anew()

    def _start_anew(self) -> None:
        self._publishes: dict[Queue, list[Message]] = {}
        self._mandatory: list[tuple[Message, Sequence[Queue]]] = []
        self._settlements: list[tuple[dict[int, Entry], bool]] = []
        self.octets = 0

    def hold_publish(self, message: Message, queues: Sequence[Queue], mandatory: bool) -> None:
        """Hold a checked and routed message."""
        for queue in queues:
            messages = self._publishes.get(queue)
            if messages is None:
                messages = self._publishes[queue] = []
            messages.append(message)
        if mandatory:
            self._mandatory.append((message, queues))
        self.octets += message.header_size + message.size

    def hold_settlement(self, tags: dict[int, Entry], requeue: bool) -> None:
        """Hold settled entries, by delivery tag."""
        if self._settlements:
            held, is_requeued = self._settlements[-1]
            if is_requeued == requeue and len(tags) <= len(held) < PIECE:
                held |= tags
                return
        self._settlements.append((tags, requeue))

    def commit(self, channel: Channel) -> bool:
        """Carry out what was held, publishes first, and start anew.

        If any of it is to be kept over a restart, consumers get nothing of it before it is; very
        much of it is carried out a piece at a time, and all of it is in one commit.

        Returns:
          Whether any of it is to be kept over a restart.
        """
        publishes, settlements, octets = self._publishes, self._settlements, self.octets
        for message, queues in self._mandatory:
            send_back_if_lost(channel, message, queues)
        self._start_anew()
        entries = chain.from_iterable(tags.values() for tags, _ in settlements)
        settled = {consumer.queue for consumer in set(map(itemgetter(0), entries))}
        is_kept = any(queue.log is not None for queue in publishes.keys() | settled)
        count = sum(map(len, publishes.values())) + sum(len(tags) for tags, _ in settlements)
        if (is_kept and (count > PIECE or octets > PIECE_OCTETS)) or self._unfinished:
            self._unfinished += 1
            for queue, messages in publishes.items():
                queue.coming += len(messages)
            work = self._carry_out_later(channel, publishes, settlements)
            channel.session.broker.batch.unfinished.append(work)
            return True
        for queue, messages in publishes.items():
            _publish(queue, messages, is_kept=is_kept)
        for tags, requeue in settlements:
            if requeue:
                channel.requeue(tags)
            else:
                channel.discard_many(tags)
        return is_kept

    def _carry_out_later(
        self,
        channel: Channel,
        publishes: dict[Queue, list[Message]],
        settlements: list[tuple[dict[int, Entry], bool]],
    ) -> Iterator[None]:
        """Carry a commit out, some of it at a time; there is no commit of a log before the end."""
        try:
            yield from _publish_later(publishes)
            for tags, requeue in settlements:
                if requeue:
                    yield from channel.requeue_later(tags)
                else:
                    yield from channel.discard_later(tags)
        except Exception:
            channel.session.abort("internal error")  # or it would hear that all is carried out
            raise
        self._unfinished -= 1

    def rollback(self, channel: Channel) -> None:
        """Drop held publishes, make held settlements unacknowledged again, start anew."""
        undone = self.abandon()
        if undone:  # without any they are in order as they are
            channel.unacked = dict(sorted((channel.unacked | undone).items()))

    def abandon(self) -> dict[int, Entry]:
        """Drop held publishes; return the held settlements, unacknowledged again."""
        undone: dict[int, Entry] = {}
        for tags, _ in self._settlements:
            undone |= tags
        self._start_anew()
        return undone


def _publish(queue: Queue, messages: Sequence[Message], *, is_kept: bool) -> None:
    """Put messages into a queue; those to be kept are not dealt before they are on the disk."""
    if not queue.deleted:
        queue.incoming += messages
        queue.touch()
        if is_kept:
            queue.seal()


def _publish_later(publishes: Mapping[Queue, list[Message]]) -> Iterator[None]:
    """Put messages into their queues, some of them with each step, to be kept."""
    width = min(len(publishes), WIDTH)
    waiting = deque((queue, _pieces(messages, width)) for queue, messages in publishes.items())
    while waiting:
        # Queues that share messages get them in the same step: then they are written once.
        for queue, pieces in [waiting.popleft() for _ in range(min(len(waiting), width))]:
            piece = next(pieces, None)
            if piece is not None:
                queue.coming -= len(piece)
                _publish(queue, piece, is_kept=True)
                if queue.log is not None:
                    queue.log.pack(is_shared=width > 1)
                waiting.append((queue, pieces))
        yield


def _pieces(messages: list[Message], width: int) -> Iterator[list[Message]]:
    """Take messages out of a list, from its front, as many as one of so many queues may get."""
    messages.reverse()
    while messages:
        some = islice(reversed(messages), max(PIECE // width, 1))
        sizes = accumulate([message.header_size + message.size for message in some])
        count = max(bisect_right(list(sizes), PIECE_OCTETS // width), 1)
        piece = messages[-count:]
        del messages[-count:]
        yield piece[::-1]

"""Transactions: what a channel in tx mode holds back until tx.commit.

Law: publishes are checked and routed when they come, placed on commit; acknowledged messages
stay this channel's until then. A rollback makes them unacknowledged again, it requeues nothing.

Called by: amqp.channel, amqp.publish, amqp.basic_methods (settle), amqp.confirm_tx_methods;
amqp.session (Unfinished).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from enum import Enum
from itertools import accumulate, chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING

from leveret.broker.core.message import octets as octets_of
from leveret.broker.core.placing import admitted
from leveret.broker.core.queue import seal_caused
from leveret.protocol.constants import NO_ROUTE
from leveret.protocol.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from leveret.broker.amqp.channel import Channel
    from leveret.broker.amqp.settling import Entry
    from leveret.broker.core.hooks import ExchangeHook
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue


# What is carried out at a stroke: messages, their octets, and queues that get some of them.
PIECE, PIECE_OCTETS, WIDTH = 4096, 4 << 20, 64
ASKED = 512  # messages that exchanges are asked about at a stroke

_consumer_of = itemgetter(0)


class Settlement(Enum):
    """What becomes of messages that a client settles."""

    ACK = 0
    REJECT = 1
    REQUEUE = 2


class Unfinished(Exception):
    """A command has done a piece of its work: it is to be handled again in the next slice."""


class Transaction:
    """The open transaction of one channel.

    Attributes:
      octets: Of headers and bodies it holds, those of `lost` among them.
      lost: Messages of the last commit that are to be sent back before it is answered.
    """

    __slots__ = (
        "_discarded",
        "_mandatory",
        "_passed",
        "_publishes",
        "_rejected",
        "_requeued",
        "_unfinished",
        "lost",
        "octets",
    )

    def __init__(self) -> None:
        self._unfinished = 0  # commits that are not carried out wholly yet
        self.lost: deque[Message] = deque()
        self._start_anew()

    def _start_anew(self) -> None:
        self._publishes: dict[Queue, list[Message]] = {}
        self._mandatory: list[tuple[Message, Sequence[Queue]]] = []
        self._passed: list[tuple[Message, Sequence[ExchangeHook]]] = []
        self._discarded: list[dict[int, Entry]] = []
        self._rejected: list[dict[int, Entry]] = []
        self._requeued: list[dict[int, Entry]] = []
        self.octets = 0

    def hold_publish(
        self,
        message: Message,
        queues: Sequence[Queue],
        mandatory: bool,
        hooks: Sequence[ExchangeHook] = (),
    ) -> None:
        """Hold a checked and routed message.

        Args:
          hooks: Those of exchanges that are asked once more when it is placed, and told.
        """
        for queue in queues:
            messages = self._publishes.get(queue)
            if messages is None:
                messages = self._publishes[queue] = []
            messages.append(message)
        if mandatory:
            self._mandatory.append((message, queues))
        if hooks and queues:
            self._passed.append((message, hooks))
        self.octets += message.header_size + message.size

    def hold_settlement(self, tags: dict[int, Entry], how: Settlement) -> None:
        """Hold settled entries, by delivery tag."""
        held = self._discarded
        if how is not Settlement.ACK:
            held = self._requeued if how is Settlement.REQUEUE else self._rejected
        # Single acks leave no dict each; a large one is never copied into a small one.
        if held and len(tags) <= len(held[-1]) < PIECE:
            held[-1] |= tags
        else:
            held.append(tags)

    def commit(self, channel: Channel) -> bool:
        """Carry out what was held, publishes first, and start anew.

        If any of it is to be kept over a restart, consumers get nothing of it before it is; very
        much of it is carried out a piece at a time, and all of it is in one commit.

        Returns:
          Whether any of it is to be kept over a restart.

        Raises:
          PreconditionFailed: A queue has refused a message; all the rest is carried out.
        """
        publishes, discarded, requeued = self._publishes, self._discarded, self._requeued
        rejected = self._rejected
        settled, octets = [*discarded, *rejected, *requeued], self.octets
        batch = channel.session.broker.batch
        passed = self._passed
        self.lost = self._find_lost()
        self._start_anew()
        self.octets = octets_of(self.lost)
        is_kept = batch.is_durable and _are_kept(publishes, settled)
        count = sum(map(len, publishes.values())) + sum(map(len, settled))
        if (is_kept and (count > PIECE or octets > PIECE_OCTETS)) or self._unfinished:
            self._unfinished += 1
            for queue, messages in publishes.items():
                queue.coming += len(messages)
            # They count as ready from now on: the queue is not empty, and what comes back after
            # them is not dealt before them.
            returns = channel.requeue_later(*requeued)
            asking = _ask_exchanges(passed, publishes, are_coming=True)
            work = self._carry_out_later(channel, asking, publishes, (discarded, rejected), returns)
            batch.unfinished.append(work)
            return True
        for _ in _ask_exchanges(passed, publishes, are_coming=False):
            pass  # there are not many
        refused: set[int] = set()
        for queue, messages in publishes.items():
            if queue.admitting:
                refused |= _publish_admitted(queue, messages, is_kept=is_kept)
            else:
                _publish(queue, messages, is_kept=is_kept)
        channel.settle_all(discarded, requeued, rejected)
        if is_kept:
            seal_caused(batch, batch.commit)
        if refused:
            for hook, message in _pairs(passed):
                if id(message) in refused:
                    hook.refused(message)
            raise PreconditionFailed("partial tx completion")
        return is_kept

    def _find_lost(self) -> deque[Message]:
        """Return the messages that must not be lost and whose queues are all gone."""
        is_any_gone = any(queue.deleted for queue in self._publishes)
        return deque(
            message
            for message, queues in self._mandatory
            if not queues or (is_any_gone and all(queue.deleted for queue in queues))
        )

    def send_back(self, channel: Channel) -> None:
        """Send messages of the last commit back, a piece of them.

        Raises:
          Unfinished: There are more.
        """
        for _ in range(min(PIECE, len(self.lost))):
            message = self.lost.popleft()
            self.octets -= message.header_size + message.size
            channel.send_return(NO_ROUTE, "NO_ROUTE", message)
        if self.lost:
            raise Unfinished

    def _carry_out_later(
        self,
        channel: Channel,
        asking: Iterator[None],
        publishes: dict[Queue, list[Message]],
        settled: tuple[list[dict[int, Entry]], list[dict[int, Entry]]],
        returns: Iterator[None],
    ) -> Iterator[None]:
        """Carry a commit out, some of it at a time; there is no commit of a log before the end.

        Args:
          asking: What drops publishes that exchanges do not let in any more.
          settled: What is acknowledged, and what is rejected.
        """
        batch = channel.session.broker.batch
        discarded, rejected = settled
        try:
            yield from asking
            for _ in _publish_later(publishes):
                seal_caused(batch, batch.commit)
                yield
            yield from channel.discard_later(*discarded)
            for _ in channel.reject_later(*rejected):
                seal_caused(batch, batch.commit)
                yield
            yield from returns
        except Exception:
            channel.session.abort("internal error")  # or it would hear that all is carried out
            raise
        self._unfinished -= 1

    def rollback(self, channel: Channel) -> None:
        """Drop held publishes, make held settlements unacknowledged again, start anew."""
        undone = self.abandon()
        if undone:  # without any they are in order as they are
            merged = undone[0]
            for tags in (*undone[1:], channel.unacked):
                merged |= tags
            order = sorted(merged)
            if order != list(merged):
                merged = dict(zip(order, map(merged.__getitem__, order), strict=True))
            channel.unacked, channel.lowest = merged, next(iter(order), channel.lowest)

    def abandon(self) -> list[dict[int, Entry]]:
        """Drop held publishes; return the held settlements, unacknowledged again."""
        undone = [*self._discarded, *self._rejected, *self._requeued]
        self._start_anew()
        return undone


def _ask_exchanges(
    passed: Sequence[tuple[Message, Sequence[ExchangeHook]]],
    publishes: Mapping[Queue, list[Message]],
    *,
    are_coming: bool,
) -> Iterator[None]:
    """Drop what an exchange does not let in any more: the same may have come meanwhile.

    What has passed several exchanges is dropped only if none of them lets it in.

    Args:
      are_coming: Whether the queues count them as ready already.
    """
    unwanted: set[int] = set()
    for start in range(0, len(passed), ASKED):
        for message, hooks in passed[start : start + ASKED]:
            agreed = [hook for hook in hooks if hook.admit(message)]
            for hook in agreed:
                hook.admitted(message)
            if not agreed:
                unwanted.add(id(message))
        yield
    for queue, messages in publishes.items() if unwanted else ():
        kept = [message for message in messages if id(message) not in unwanted]
        if are_coming:
            queue.coming -= len(messages) - len(kept)
        messages[:] = kept


def _are_kept(publishes: Iterable[Queue], settled: Sequence[dict[int, Entry]]) -> bool:
    """Whether any of it is in a queue that is kept over a restart."""
    consumers = (set(map(_consumer_of, tags.values())) for tags in settled)
    queues = chain(publishes, (each.queue for each in chain.from_iterable(consumers)))
    return any(queue.log is not None for queue in queues)


def _publish(queue: Queue, messages: list[Message], *, is_kept: bool) -> None:
    """Hand messages to a queue; those to be kept are not dealt before they are on the disk."""
    if not queue.deleted:
        if queue.incoming:
            queue.incoming += messages
        else:
            queue.incoming = messages  # from here on the list is the queue's
        queue.touch()
        if is_kept:
            queue.seal(queue.vhost.broker.batch.commit)


def _publish_admitted(queue: Queue, messages: list[Message], *, is_kept: bool) -> set[int]:
    """Hand messages to a queue that is asked about each; return the ids of those it refuses."""
    refused: set[int] = set()
    for message in messages:
        taking, is_refused = admitted(message, (queue,))
        if is_refused:
            refused.add(id(message))
        if taking:
            _publish(queue, [message], is_kept=is_kept)
    return refused


def _pairs(
    passed: Iterable[tuple[Message, Sequence[ExchangeHook]]],
) -> Iterator[tuple[ExchangeHook, Message]]:
    return ((hook, message) for message, hooks in passed for hook in hooks)


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
                if queue.admitting:  # what is refused here is dropped: most of it is there already
                    _publish_admitted(queue, piece, is_kept=True)
                else:
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

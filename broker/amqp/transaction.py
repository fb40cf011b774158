"""Transactions: what a channel in tx mode holds back until tx.commit.

Law: publishes are checked and routed when they come, placed on commit; acknowledged messages
stay this channel's until then. A rollback makes them unacknowledged again, it requeues nothing.

Called by: amqp.channel, amqp.publish, amqp.basic_methods (settle), amqp.confirm_tx_methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.amqp.publish import send_back_if_lost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.amqp.channel import Channel, Entry
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue


class Transaction:
    """The open transaction of one channel.

    Attributes:
      octets: Of headers and bodies it holds.
    """

    __slots__ = ("_mandatory", "_publishes", "_settlements", "_tags", "octets")

    def __init__(self) -> None:
        self._start_anew()

    def _start_anew(self) -> None:
        self._publishes: dict[Queue, list[Message]] = {}
        self._mandatory: list[tuple[Message, Sequence[Queue]]] = []
        self._settlements: list[tuple[dict[int, Entry], bool]] = []
        self._tags: dict[int, Entry] = {}
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
        self._settlements.append((tags, requeue))
        self._tags.update(tags)

    def commit(self, channel: Channel) -> bool:
        """Carry out what was held, publishes first, and start anew.

        If any of it is to be kept over a restart, consumers get nothing of it before it is.

        Returns:
          Whether any of it is to be kept over a restart.
        """
        publishes, mandatory, settlements = self._publishes, self._mandatory, self._settlements
        self._start_anew()
        for message, queues in mandatory:
            send_back_if_lost(channel, message, queues)
        touched = channel.session.broker.batch.touched
        for queue, messages in publishes.items():
            if not queue.deleted:
                queue.incoming += messages
                touched[queue] = None
        for tags, requeue in settlements:
            if requeue:
                channel.requeue(tags, in_pieces=False)
            else:
                channel.discard(list(tags.values()), in_pieces=False)
        settled = {entry[0].queue for tags, _ in settlements for entry in tags.values()}
        is_kept = any(queue.log is not None for queue in publishes.keys() | settled)
        if is_kept:
            for queue in publishes:
                queue.seal()
        return is_kept

    def rollback(self, channel: Channel) -> None:
        """Drop held publishes, make held settlements unacknowledged again, start anew."""
        if self._tags:  # without any they are in order as they are
            channel.unacked = dict(sorted((channel.unacked | self._tags).items()))
        self._start_anew()

    def abandon(self) -> dict[int, Entry]:
        """Drop held publishes; return the held settlements, unacknowledged again."""
        undone = self._tags
        self._start_anew()
        return undone

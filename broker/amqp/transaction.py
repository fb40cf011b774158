"""Transactions: what a channel in tx mode holds back until tx.commit.

Law: publishes are checked and routed when they come, placed on commit; acknowledged messages
stay this channel's until then. A rollback makes them unacknowledged again, it requeues nothing.

Called by: amqp.channel, amqp.publish, amqp.basic_methods (settle), amqp.confirm_tx_methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.amqp.publish import place

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

    __slots__ = ("_publishes", "_settlements", "_tags", "octets")

    def __init__(self) -> None:
        self._start_anew()

    def _start_anew(self) -> None:
        self._publishes: list[tuple[Message, Sequence[Queue], bool]] = []
        self._settlements: list[tuple[list[Entry], bool]] = []
        self._tags: dict[int, Entry] = {}
        self.octets = 0

    def hold_publish(self, message: Message, queues: Sequence[Queue], mandatory: bool) -> None:
        """Hold a checked and routed message."""
        self._publishes.append((message, queues, mandatory))
        self.octets += message.header_size + message.size

    def hold_settlement(self, tags: dict[int, Entry], requeue: bool) -> None:
        """Hold settled entries, by delivery tag."""
        self._settlements.append((list(tags.values()), requeue))
        self._tags.update(tags)

    def commit(self, channel: Channel) -> bool:
        """Carry out what was held, publishes first, and start anew.

        If any of it is to be kept over a restart, consumers get nothing of it before it is.

        Returns:
          Whether any of it is to be kept over a restart.
        """
        publishes, settlements = self._publishes, self._settlements
        self._start_anew()
        for message, queues, mandatory in publishes:
            place(channel, message, queues, mandatory)
        for entries, requeue in settlements:
            if requeue:
                channel.requeue(entries)
            else:
                channel.discard(entries, in_pieces=False)
        filled = {queue for _, queues, _ in publishes for queue in queues}
        settled = {consumer.queue for entries, _ in settlements for consumer, _, _ in entries}
        is_kept = any(queue.log is not None for queue in filled | settled)
        if is_kept:
            for queue in filled:
                queue.seal()
        return is_kept

    def rollback(self, channel: Channel) -> None:
        """Drop held publishes, make held settlements unacknowledged again, start anew."""
        channel.unacked = dict(sorted((channel.unacked | self._tags).items()))
        self._start_anew()

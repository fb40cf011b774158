"""Batch: what the current slice has caused and its end will carry out.

Law: handlers only write down here whom they touched. At the end of the slice each touched queue
deals once, each channel with new confirms sends them once, each peer gets one write. What must
reach a disk will stand here too; what waits for it is released after the commit.

Called by: core.queue, amqp (fill it), server.turn (empties it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from leveret.broker.core.queue import Queue


class Confirming(Protocol):
    """A channel that owes its publisher confirms."""

    def send_confirms(self) -> None:
        """Confirm what is due."""


class Peer(Protocol):
    """A connection that has something to write."""

    def flush(self) -> None:
        """Write what waits, as far as the peer takes it."""


class Batch:
    """Who is touched; dicts serve as ordered sets."""

    __slots__ = ("confirming", "flushing", "touched")

    def __init__(self) -> None:
        self.touched: dict[Queue, None] = {}
        self.confirming: dict[Confirming, None] = {}
        self.flushing: dict[Peer, None] = {}

    def finish(self) -> None:
        """End the slice: deal, confirm, flush. Queues with more to deal stay touched."""
        if self.touched:
            touched, self.touched = self.touched, {}
            for queue in touched:
                queue.deal()
        if self.confirming:
            confirming, self.confirming = self.confirming, {}
            for channel in confirming:
                channel.send_confirms()
        flushing, self.flushing = self.flushing, {}
        for peer in flushing:
            peer.flush()

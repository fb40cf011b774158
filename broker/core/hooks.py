"""Hooks: what plugins do with the messages of a queue, or of an exchange.

Law: a plugin overrides what it needs and leaves the rest; what nobody overrides is never called, so
a feature that nobody asked for costs nothing. Hooks neither await nor touch files or clocks. Phases
say who comes first: on publishing deduplicate, then delay, then route; on entering a queue
deduplicate, refuse, place, expire; on settling retry, then dead-letter.

Called by: core.extras (gathers them), core.fitting, core.placing, core.exchange; plugins
(subclasses).
"""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.consumer import Consumer, Ring
    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.lanes import Lanes
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue

    Entry: TypeAlias = "tuple[int, Message]"  # a position of a queue, and what is there


class Phase(IntEnum):
    """Which hook comes first, where several plugins want the same message."""

    DEDUPLICATE = 10
    REFUSE = 20
    DELAY = 30
    PLACE = 40
    EXPIRE = 50
    RETRY = 60
    DEAD_LETTER = 70
    WATCH = 90


class Verdict(Enum):
    """What a queue says to a message that is about to come in.

    Attributes:
      ADMIT: It may.
      REFUSE: It may not, and its publisher is told (basic.nack).
      DROP: It does not, and all is well: it is there already.
    """

    ADMIT = 0
    REFUSE = 1
    DROP = 2


class Reason(StrEnum):
    """Why a message left its queue without being acknowledged (RabbitMQ's words in x-death)."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    MAXLEN = "maxlen"
    DELIVERY_LIMIT = "delivery_limit"


class QueueHook:
    """What one plugin does with one queue.

    One is made for each queue whose settings ask for it; see `Registry.queue_hook`. Methods about
    messages are called very often: they should be short.

    Attributes:
      is_deep: Whether the queue has to be a `HookedQueue` in any case.
      counts_octets: Whether it looks at the octets of bodies (`Extras.body_octets`).
      is_holding: Whether nothing is delivered, if it is deep; looked at when the queue is fitted.
      is_for_publishers: Whether it admits all that the broker itself sends, which nobody would
        send again.
    """

    is_deep = False
    counts_octets = False
    is_holding = False
    is_for_publishers = False

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.refit()

    def refit(self) -> None:
        """Read the queue's `settings`: they are new, or have changed."""

    # Before a message is in the queue

    def admit(self, message: Message) -> Verdict:
        """Say whether a message may come in; all queues are asked before any gets it."""
        return Verdict.ADMIT

    def admitted(self, message: Message) -> None:
        """Take note of a message that is about to come in: nobody has refused it."""

    def refused(self, message: Message) -> None:
        """Take note of a message that `admit` of this hook has refused, once all were asked."""

    # In the queue

    def placed(self, base: int, messages: Sequence[Message]) -> None:
        """Tell what is to become of messages that got positions from `base` on.

        This is where `HookedQueue.expire_at` and `wait_until` are called.
        """

    def due(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return those of the messages whose wait is over that become ready now."""
        return entries

    def identity(self, message: Message) -> str | None:
        """Return by what name a message that waits can be found; None if it has none."""
        return None

    def dealt(self) -> None:
        """Look at a queue that has just dealt what it could."""

    def fits(self, count: int, octets: int) -> bool:
        """Whether `dealt` would do nothing, with so many messages or fewer that are ready.

        Those who have a `dealt` are asked, if there is an order in which messages are served: where
        it might do anything, each message is dealt before the next one is placed.

        Args:
          count: How many messages are ready.
          octets: Of their bodies, where the hook counts those.
        """
        return False

    def lanes(self) -> Lanes | None:
        """Return the order in which messages are served, None for first in, first out."""
        return None

    def ring(self) -> Ring | None:
        """Return who may get messages, and in which turns; None for the usual ring."""
        return None

    # On the way to a consumer and back

    def outgoing(self, position: int, message: Message) -> Message:
        """Return a message as it is to be delivered that came back before."""
        return message

    def delivered(self, consumer: Consumer | None, positions: Sequence[int]) -> None:
        """Take note of what a consumer, or basic.get (None), has got and has to settle."""

    def returned(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return those of the messages that came back which become ready now.

        The others the hook has dropped (`HookedQueue.drop_entries`) or has waiting
        (`HookedQueue.wait_entries`).
        """
        return entries

    def settled(self, positions: Sequence[int]) -> None:
        """Forget messages: they are acknowledged, rejected, expired or dropped.

        Of ready ones that are purged nobody is told: they are gone before anyone had them.
        """

    def dropped(self, entries: Sequence[Entry], reason: Reason) -> None:
        """Take what leaves the queue without being acknowledged; the last look at it."""

    # The queue itself

    def used(self) -> None:
        """Take note that somebody declared the queue, or asked it for a message (basic.get)."""

    def consumers_changed(self) -> None:
        """Take note that a consumer came or went."""

    def adopt(self, first: int, count: int) -> None:
        """Take over messages that were in the queue before the hook was.

        Those that wait, or that somebody has, are taken over as soon as they are ready.
        """

    def close(self) -> None:
        """Let go of everything: the queue is gone, or does not ask for the hook any more."""


class ExchangeHook:
    """What one plugin does with the messages of one exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.refit()

    def refit(self) -> None:
        """Read the exchange's `settings`: they are new, or have changed."""

    def admit(self, message: Message) -> bool:
        """Say whether a message may come in; one that may not counts as routed.

        Of a transaction's messages it is asked when they come, and again when they are placed.
        """
        return True

    def admitted(self, message: Message) -> None:
        """Take note of a message of a client that goes to some queue, and that nobody has refused.

        Of those that the broker itself sends, or moves, it is not told.
        """

    def refused(self, message: Message) -> None:
        """Take note that a message of a transaction was refused after it was `admitted`."""

    def divert(self, message: Message, routing_keys: Sequence[str]) -> Sequence[Queue] | None:
        """Return the queues that get a message instead of those its bindings lead to.

        None lets it go its way; an empty sequence swallows it: it counts as routed.
        """
        return None

    def close(self) -> None:
        """Let go of everything: the exchange is gone, or does not ask for the hook any more."""

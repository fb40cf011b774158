"""Consumers: who gets the messages of a queue, and whose turn it is.

Law: only consumers that can take a message stand in the ring, one level a priority, in the order
of their turns. One without room is parked and comes back at the end of its level. Finding the
next consumer never looks at those who cannot take any.

Called by: core.queue; amqp.basic_methods (consume), amqp.channel and amqp.settling (credit).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue

UNLIMITED = 1 << 62
HELD = UNLIMITED << 1
# Messages dealt in one go before others get their turn; the queue goes on in the next slice.
DEAL_LIMIT = 4096
# Messages that looking at one of several consumers, and handing something over, counts for.
LOOK = 4


class Target(Protocol):
    """Where deliveries go: a channel."""

    parked: dict[Consumer, None]
    next_tag: int  # that the next delivery gets
    window: int  # unacknowledged messages all its consumers together may have, 0 for any number

    def room(self, consumer: Consumer) -> int:
        """Return how many messages a consumer can take now."""

    def deliver(
        self,
        consumer: Consumer,
        positions: Sequence[int],
        messages: Sequence[Message],
        redelivered: bool,
    ) -> None:
        """Send messages to a consumer."""

    def cancelled(self, consumer: Consumer) -> None:
        """Forget a consumer whose queue is gone, and tell the client."""

    def take_back(self, queue: Queue, consumer_tag: str, tags: range, timeout: int) -> None:
        """Put back what a consumer has not settled in time, and end the consumer.

        Args:
          queue: Where its messages are from.
          consumer_tag: Its tag; it may be gone already.
          tags: The delivery tags to look at.
          timeout: The time that it had, in milliseconds.
        """


class Consumer:
    """One subscription.

    Attributes:
      prefetch_count: The limit of its unacknowledged messages, 0 for none.
      credit: How many more it may get.
      heads: Cached starts of its deliveries, by the size of what follows them.
    """

    __slots__ = (
        "arguments",
        "channel",
        "credit",
        "exclusive",
        "heads",
        "no_ack",
        "prefetch_count",
        "priority",
        "queue",
        "tag",
    )

    def __init__(
        self,
        queue: Queue,
        channel: Target,
        tag: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        priority: int = 0,
        prefetch_count: int = 0,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        self.queue = queue
        self.channel = channel
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.priority = priority
        self.prefetch_count = prefetch_count
        self.credit = UNLIMITED if no_ack or not prefetch_count else prefetch_count
        self.arguments = arguments or {}
        self.heads: dict[int, bytes] = {}

    def hold(self) -> None:
        """Let it have no room until `release`, whatever its credit."""
        self.credit -= HELD

    def release(self) -> None:
        """Let it have the room that its credit says."""
        self.credit += HELD

    def __repr__(self) -> str:
        return f"<Consumer {self.tag!r} of {self.queue.name!r}>"


class Ring:
    """The consumers of one queue.

    Attributes:
      consumers: All of them, in the order they came.
    """

    __slots__ = ("_levels", "_priorities", "consumers")

    def __init__(self) -> None:
        self.consumers: dict[Consumer, None] = {}
        # linked lists: any one of many thousands leaves without a search
        self._levels: dict[int, OrderedDict[Consumer, None]] = {}
        self._priorities: list[int] = []  # of the levels in which someone stands, in order

    def add(self, consumer: Consumer) -> None:
        """Add a consumer at the end of its level."""
        self.consumers[consumer] = None
        self._join(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Remove a consumer for good."""
        del self.consumers[consumer]
        if consumer in consumer.channel.parked:
            del consumer.channel.parked[consumer]
        else:
            self._leave(consumer)

    def park(self, consumer: Consumer) -> None:
        """Take a consumer without room out of the turns."""
        self._leave(consumer)
        consumer.channel.parked[consumer] = None

    def unpark(self, consumer: Consumer) -> None:
        """Give a consumer its turns back, as the last of its level."""
        del consumer.channel.parked[consumer]
        self._join(consumer)

    def front(self) -> OrderedDict[Consumer, None] | None:
        """Return the highest level in which someone stands, in the order of their turns."""
        return self._levels[self._priorities[-1]] if self._priorities else None

    def next(
        self, level: OrderedDict[Consumer, None], limit: int, count: int
    ) -> tuple[list[Consumer], int, int]:
        """Find whose turn it is for `count` messages, and park those without room.

        Returns:
          The consumers; how many messages each of them may get; what of the
          limit that took.
        """
        if len(level) == 1:
            (consumer,) = level
            room = consumer.channel.room(consumer)
            if room > 0:
                return [consumer], min(room, DEAL_LIMIT), 0
            self.park(consumer)
            return [], 0, 1
        looked, share = 0, DEAL_LIMIT
        most = min(max(limit // LOOK, 1), count)
        found: list[Consumer] = []
        full: list[Consumer] = []
        is_window_used = False
        for consumer in level:
            channel = consumer.channel
            if looked == most or (is_window_used and channel.window):
                share = 1  # it has its turn before anyone has a second one
                break
            looked += 1
            room = channel.room(consumer)
            if room <= 0:
                full.append(consumer)
                continue
            found.append(consumer)
            if room < share:
                share = room
            if channel.window:  # another one's room may depend on what this one gets
                is_window_used = True
        for consumer in full:
            self.park(consumer)
        return found, share, looked * LOOK

    def distribute(
        self,
        level: OrderedDict[Consumer, None],
        consumers: list[Consumer],
        positions: Sequence[int],
        messages: list[Message],
        redelivered: bool = False,
    ) -> None:
        """Deal messages out in turns; each of the consumers has room for its share."""
        count, width = len(messages), len(consumers)
        if width == 1:
            consumer = consumers[0]
            consumer.channel.deliver(consumer, positions, messages, redelivered)
            if len(level) > 1:
                level.move_to_end(consumer)
            return
        for index, consumer in enumerate(consumers[:count]):
            consumer.channel.deliver(
                consumer, positions[index::width], messages[index::width], redelivered
            )
        for consumer in consumers[: count if count <= width else count % width]:
            level.move_to_end(consumer)

    def _join(self, consumer: Consumer) -> None:
        level = self._levels.get(consumer.priority)
        if level is None:
            level = self._levels[consumer.priority] = OrderedDict()
            insort(self._priorities, consumer.priority)
        level[consumer] = None

    def _leave(self, consumer: Consumer) -> None:
        priority = consumer.priority
        level = self._levels[priority]
        del level[consumer]
        if not level:
            del self._levels[priority]
            del self._priorities[bisect_left(self._priorities, priority)]

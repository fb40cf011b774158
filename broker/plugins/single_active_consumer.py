"""Single active consumer: of the consumers of a queue one gets everything, the others stand by.

Law: the first that came is the active one; when it leaves, the next takes over at once, of those
with the highest priority. What the one before has not settled stays with it.

RabbitMQ: consumers.html#single-active-consumer (as its quorum queues do it). Registered for:
x-single-active-consumer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.consumer import Consumer, Ring
from leveret.broker.core.hooks import Phase, QueueHook

if TYPE_CHECKING:
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry


class SingleActiveRing(Ring):
    """A ring in which one consumer stands at a time.

    Attributes:
      active: The one that gets messages, None without consumers.
    """

    __slots__ = ("active",)

    def __init__(self) -> None:
        super().__init__()
        self.active: Consumer | None = None

    def add(self, consumer: Consumer) -> None:
        """Add a consumer, which stands by unless it is the first."""
        self.consumers[consumer] = None
        if self.active is None:
            self._activate(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Remove a consumer; after the active one the next is."""
        if consumer is not self.active:
            del self.consumers[consumer]
            return
        super().remove(consumer)
        self.active = None
        if self.consumers:
            self._activate(max(self.consumers, key=_priority))  # the first of the highest

    def _activate(self, consumer: Consumer) -> None:
        self.active = consumer
        self._join(consumer)


def _priority(consumer: Consumer) -> int:
    return consumer.priority


class SingleActive(QueueHook):
    """Has one consumer get everything."""

    def ring(self) -> Ring:
        """Return a ring in which one consumer stands at a time."""
        return SingleActiveRing()

    def consumers_changed(self) -> None:
        """Deal to whoever is the active one now."""
        self.queue.touch()


def _single_active(queue: Queue) -> type[QueueHook] | None:
    is_single = queue.settings.get("single-active-consumer") is True
    return SingleActive if is_single else None


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    registry.argument("x-single-active-consumer", wanted="true or false")
    registry.queue_hook(_single_active, phase=Phase.PLACE)

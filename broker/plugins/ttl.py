"""Time to live: messages that nobody has taken in time are dropped, and so are unused queues.

Law: a message expires at the moment it entered its queue, plus the smaller of the queue's time to
live and its own `expiration`; one that waits for a moment enters then. It goes in whatever order,
not only at the head, and keeps its moment when it comes back to the queue. A time to live of 0
means: to somebody who can take it now, or to nobody.

RabbitMQ: ttl.html. Registered for: x-message-ttl, the property `expiration`, x-expires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from leveret.broker.core.hooks import Phase, QueueHook
from leveret.protocol.constants import HAS_EXPIRATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.hooked import HookedQueue
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.timers import Timer


class Expiration(QueueHook):
    """Tells when messages expire that say so themselves."""

    _ttl: int | None = None

    def placed(self, base: int, messages: Sequence[Message]) -> None:
        """Tell when messages expire."""
        queue = cast("HookedQueue", self.queue)
        ttl, now = self._ttl, queue.vhost.broker.now
        have_own = [message.flags & HAS_EXPIRATION for message in messages]
        if queue.extras.placing or (ttl is None and not all(have_own)):
            self._expire_some(base, messages)
        elif any(have_own):
            lives = [self._life(message) for message in messages]
            queue.expire_all(base, [now + life for life in lives if life is not None])
        elif ttl is not None:
            queue.expire_at(now + ttl, base, len(messages))

    def _expire_some(self, base: int, messages: Sequence[Message]) -> None:
        """Tell of messages not all of which expire, or some of which wait before."""
        queue = cast("HookedQueue", self.queue)
        now = queue.vhost.broker.now
        for position, message in enumerate(messages, base):
            life = self._life(message)
            if life is not None:
                queue.expire_at((queue.waits_until(position) or now) + life, position)

    def _life(self, message: Message) -> int | None:
        """Return how long a message lives, None if for ever."""
        life = message.life
        if life is None or self._ttl is None:
            return self._ttl if life is None else life
        return min(life, self._ttl)


class TimeToLive(Expiration):
    """Tells when the messages of a queue expire that has a time to live."""

    def refit(self) -> None:
        """Read the time to live of the queue."""
        self._ttl = cast("int", self.queue.settings["message-ttl"])

    def adopt(self, first: int, count: int) -> None:
        """Have messages expire that were there before: their time starts now."""
        queue = cast("HookedQueue", self.queue)
        if self._ttl is not None:
            queue.expire_at(queue.vhost.broker.now + self._ttl, first, count)


class Expires(QueueHook):
    """Deletes a queue that nobody uses for some time."""

    _timer: Timer | None = None
    _life = 0

    def refit(self) -> None:
        """Read how long the queue may be unused."""
        known, self._life = self._life, cast("int", self.queue.settings["expires"])
        if self._life != known:
            self.used()

    def used(self) -> None:
        """Start to wait anew, as long as there are no consumers."""
        broker = self.queue.vhost.broker
        if self.queue.consumer_count:
            if self._timer is not None:
                self._timer.cancel()
        elif self._timer is None:
            self._timer = broker.timers.at(broker.now + self._life, self._expire)
        else:
            self._timer.move(broker.now + self._life)

    def consumers_changed(self) -> None:
        """Wait while there are no consumers, and only then."""
        self.used()

    def close(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        queue = self.queue
        if queue.policy_epoch != queue.vhost.policy_epoch:  # it may not be meant any more
            queue.vhost.refit(queue)
            self.used()
            return
        queue.vhost.broker.events.emit("queue.expired", vhost=queue.vhost, queue=queue)
        queue.vhost.delete_queue(queue)


def _time_to_live(queue: Queue) -> type[QueueHook] | None:
    if "message-ttl" in queue.settings:
        return TimeToLive
    return Expiration if queue.is_timed else None


def _expires(queue: Queue) -> type[QueueHook] | None:
    return Expires if "expires" in queue.settings else None


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    registry.argument("x-message-ttl")
    registry.argument("x-expires")
    registry.queue_hook(_time_to_live, phase=Phase.EXPIRE)
    registry.queue_hook(_expires, phase=Phase.EXPIRE)

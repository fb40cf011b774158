"""Length limits: queues that hold only so many messages, or octets of bodies, that are ready.

Law: with drop-head the queue first deals what it can, then loses what would be served next, until
it is short enough; a limit of 0 means: to somebody who can take it now. With reject-publish a
message that would be too many is refused before it is in any queue, whether somebody waits for it
or not; with reject-publish-dlx it is dead-lettered, too.

RabbitMQ: maxlength.html. Registered for: x-max-length, x-max-length-bytes, x-overflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from leveret.broker.core.hooks import Phase, QueueHook, Reason, Verdict

if TYPE_CHECKING:
    from leveret.broker.core.hooked import HookedQueue
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry

UNLIMITED = 1 << 62
AT_ONCE = 512  # messages dropped before others get their turn


class _Limits(QueueHook):
    """What both kinds know."""

    is_deep = True
    counts_octets = True

    def refit(self) -> None:
        """Read the limits."""
        settings = self.queue.settings
        self._length = cast("int", settings.get("max-length", UNLIMITED))
        self._octets = cast("int", settings.get("max-length-bytes", UNLIMITED))


class DropHead(_Limits):
    """Drops what would be served next."""

    def fits(self, count: int, octets: int) -> bool:
        """Whether so many messages are within the limits."""
        return count <= self._length and octets <= self._octets

    def dealt(self) -> None:
        """Drop what is too much."""
        queue = cast("HookedQueue", self.queue)
        extras = queue.extras
        if extras.is_reading:  # the queue deals again once it is here
            return
        excess = extras.lanes.count - self._length
        if excess > 0:
            queue.drop_front(min(excess, AT_ONCE), Reason.MAXLEN)
        for _ in range(AT_ONCE):
            if extras.body_octets <= self._octets:
                break
            queue.drop_front(1, Reason.MAXLEN)
        if extras.lanes.count > self._length or extras.body_octets > self._octets:
            queue.touch()  # the limit is new, and very much lower


class RejectPublish(_Limits):
    """Refuses what would be too much."""

    def admit(self, message: Message) -> Verdict:
        """Refuse a message if there is no room for it."""
        queue = cast("HookedQueue", self.queue)
        is_full = (
            queue.ready_count - queue.coming + 1 > self._length
            or queue.extras.body_octets + message.size > self._octets
        )
        return Verdict.REFUSE if is_full else Verdict.ADMIT

    def refused(self, message: Message) -> None:
        """Dead-letter what was refused, if that is asked for."""
        extras = self.queue.extras
        if self.queue.settings.get("overflow") == "reject-publish-dlx" and extras is not None:
            for dropped in extras.dropped:
                dropped([(-1, message)], Reason.MAXLEN)


def _limits(queue: Queue) -> type[QueueHook] | None:
    settings = queue.settings
    if "max-length" not in settings and "max-length-bytes" not in settings:
        return None
    rejects = str(settings.get("overflow", "")).startswith("reject-publish")
    return RejectPublish if rejects else DropHead


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    for argument in ("x-max-length", "x-max-length-bytes", "x-overflow"):
        registry.argument(argument)
    registry.queue_hook(_limits, phase=Phase.REFUSE)

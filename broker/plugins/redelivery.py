"""Redelivery: how often a message may come back to its queue, and how long it waits until it does.

Law: what comes back (rejected with requeue, or by a lost channel or consumer) is counted, and the
count goes along with each redelivery (`x-delivery-count`). Beyond the limit a message is dropped,
or dead-lettered with the reason `delivery_limit`. With a backoff it waits out of everybody's way:
`x-retry-min` the first time, `x-retry-factor` times as long each further time, at most
`x-retry-max`; `x-retry-jitter` spreads the waits. A message that is rejected without requeue is
given up by its consumer: it does not wait, it is dead-lettered.

RabbitMQ: quorum-queues.html#poison-message-handling (the limit). Registered for: x-delivery-limit,
x-retry-min, x-retry-max, x-retry-factor, x-retry-jitter.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, cast

from leveret.broker.core.arguments import is_quorum, positive_milliseconds
from leveret.broker.core.hooks import Phase, QueueHook, Reason
from leveret.broker.plugins.headers import identity_of, with_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.arguments import Table, Validator
    from leveret.broker.core.hooked import HookedQueue
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry

MOST_FACTOR = 100.0
HOUR_MS = 3_600_000  # the longest wait where only the first is given


class Redelivery(QueueHook):
    """Counts, limits and delays what comes back."""

    _limit: int | None

    def identity(self, message: Message) -> str | None:
        """Return by what name a message can be found."""
        return identity_of(message)

    def refit(self) -> None:
        """Read limit and backoff."""
        settings = self.queue.settings
        limit = cast("int", settings.get("delivery-limit", -1))
        self._limit = None if limit < 0 else limit
        self._least = cast("int", settings.get("retry-min", 0))
        self._most = cast("int", settings.get("retry-max", max(HOUR_MS, self._least)))
        self._factor = float(cast("float", settings.get("retry-factor", 2)))
        self._jitter = float(cast("float", settings.get("retry-jitter", 0)))
        self._random = Random(self.queue.name)

    def outgoing(self, position: int, message: Message) -> Message:
        """Return a message with the count of its returns."""
        queue = cast("HookedQueue", self.queue)
        return with_count(message, queue.extras.returns.get(position))

    def returned(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Drop what came back too often; have the rest wait, or return it."""
        queue = cast("HookedQueue", self.queue)
        returns, limit = queue.extras.returns, self._limit
        if limit is not None:
            over = [entry for entry in entries if returns.get(entry[0]) > limit]
            if over:
                gone = {position for position, _ in over}
                entries = [entry for entry in entries if entry[0] not in gone]
                queue.drop_entries(over, Reason.DELIVERY_LIMIT)
        if not self._least or not entries:
            return entries
        now = queue.vhost.broker.now
        waits = [now + self.wait(returns.get(position)) for position, _ in entries]
        queue.wait_entries(entries, waits)
        return ()

    def wait(self, count: int) -> int:
        """Return how long a message waits that came back so many times, in milliseconds."""
        try:
            wait = min(self._least * self._factor ** (count - 1), self._most)
        except OverflowError:
            wait = self._most
        spread = self._jitter * wait
        return max(int(wait - spread * self._random.random()), 1)


def _redelivery(queue: Queue) -> type[QueueHook] | None:
    settings = queue.settings
    is_asked = "delivery-limit" in settings or "retry-min" in settings
    return Redelivery if is_asked or is_quorum(queue.arguments) else None


def _retry_max(value: object, arguments: Table) -> str | None:
    """A duration that is not below the first wait; a policy may give that one, or none."""
    reason, least = positive_milliseconds(value, arguments), arguments.get("x-retry-min")
    if reason is None and isinstance(least, int) and cast("int", value) < least:
        return f'"expected at least {least}, which is x-retry-min, got {value}"'
    return reason


def _number(low: float, high: float, wanted: str) -> Validator:
    def validator(value: object, arguments: Table) -> str | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number and low <= cast("float", value) <= high else f'"expected {wanted}"'

    return validator


FACTOR = "a number from 1 to 100"
JITTER = "a number from 0 to 1"
WAIT = "an integer from 1 to 315360000000 (milliseconds)"


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    registry.argument("x-delivery-limit")
    registry.argument("x-retry-min", positive_milliseconds, wanted=WAIT)
    registry.argument("x-retry-max", _retry_max, wanted=WAIT)
    registry.argument("x-retry-factor", _number(1, MOST_FACTOR, FACTOR), wanted=FACTOR)
    registry.argument("x-retry-jitter", _number(0, 1, JITTER), wanted=JITTER)
    registry.queue_hook(_redelivery, phase=Phase.RETRY)

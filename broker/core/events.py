"""Events: what happened, for whoever wants to know (logs, plugins, the management pages).

Law: an event has a dotted name in the past tense and named fields. Subscribers are called at
once, in order, and must not raise; without subscribers an event costs one look-up.

Called by: core and amqp (emit); reports, app (subscribe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Subscriber = Callable[..., None]


class Events:
    """Names and who listens to them."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: dict[str, list[Subscriber]] = {}

    def subscribe(self, name: str, subscriber: Subscriber) -> None:
        """Have `subscriber(**fields)` called for each event of a name."""
        self._subscribers.setdefault(name, []).append(subscriber)

    def emit(self, name: str, **fields: object) -> None:
        """Tell everyone who listens."""
        for subscriber in self._subscribers.get(name, ()):
            subscriber(**fields)

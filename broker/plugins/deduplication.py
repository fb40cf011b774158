"""Deduplication: what a publisher sends a second time is confirmed, counted and dropped.

Law: a message says by a header, or by its message-id, what makes it the same as another; one that
says nothing is never dropped. What is the same is remembered only once a publish was accepted, for
some time and up to some number, in the same commit as the message: so nothing that was refused, or
lost with the broker, is taken for a duplicate, and the confirm of a duplicate waits until the
first one is on the disk. A queue drops what it has had itself; an exchange, what clients have sent
through it. What the broker moves (dead letters, also when they are redriven) is no duplicate where
it arrives, but what a client publishes to that queue after it is.

RabbitMQ: the message deduplication plugin has the names of the switch and of the header. There a
queue forgets a message with its acknowledgement, and the time and number are not for queues.
Registered for: x-message-deduplication, x-deduplication-header, x-deduplication-window and
x-deduplication-size of queues and exchanges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from leveret.broker.core.arguments import plain
from leveret.broker.core.exchange import Exchange
from leveret.broker.core.hooks import ExchangeHook, Phase, QueueHook, Verdict
from leveret.broker.plugins.window import Window
from leveret.protocol.constants import TEN_YEARS_MS

if TYPE_CHECKING:
    from leveret.broker.core.arguments import Table, Validator
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import AppliesTo, Registry

HEADER: Final = "x-deduplication-header"  # the argument, and the header where it is not given
WINDOW_MS: Final = 600_000
SIZE: Final = 100_000
MOST: Final = 1_000_000  # about 100 MiB of them
LONGEST: Final = 255  # octets of a header's name


class DeduplicatedQueue(QueueHook):
    """Drops what the queue has had before."""

    window: Window | None = None

    def refit(self) -> None:
        """Read the settings."""
        self.window = _fitted(self.window, "queue", self.queue)

    def admit(self, message: Message) -> Verdict:
        """Drop a message that was here before."""
        assert self.window is not None
        return Verdict.DROP if self.window.is_duplicate(message) else Verdict.ADMIT

    def admitted(self, message: Message) -> None:
        """Remember a message that nobody has refused."""
        assert self.window is not None
        self.window.remember(message)

    def close(self) -> None:
        """Forget everything."""
        assert self.window is not None
        self.window.close(is_owner_gone=self.queue.deleted)


class DeduplicatedExchange(ExchangeHook):
    """Swallows what the exchange has let in before."""

    window: Window | None = None

    def refit(self) -> None:
        """Read the settings."""
        self.window = _fitted(self.window, "exchange", self.exchange)

    def admit(self, message: Message) -> bool:
        """Swallow a message that came in before."""
        assert self.window is not None
        return not self.window.is_duplicate(message)

    def admitted(self, message: Message) -> None:
        """Remember a message that nobody has refused."""
        assert self.window is not None
        self.window.remember(message)

    def refused(self, message: Message) -> None:
        """Forget a message of a transaction that a queue has refused."""
        assert self.window is not None
        self.window.forget(message)

    def close(self) -> None:
        """Forget everything."""
        assert self.window is not None
        self.window.close(is_owner_gone=self.exchange.deleted)


def window_of(owner: Queue | Exchange) -> Window | None:
    """Return what a queue or exchange remembers, for people; None if it drops no duplicates."""
    if isinstance(owner, Exchange):
        hook: object = owner.hooks.get(_of_exchange)
    else:
        hook = None if owner.extras is None else owner.extras.hooks.get(_of_queue)
    return hook.window if isinstance(hook, DeduplicatedQueue | DeduplicatedExchange) else None


def _fitted(window: Window | None, kind: str, owner: Queue | Exchange) -> Window:
    """Return the window of a queue or exchange, as its settings want it."""
    settings, vhost = owner.settings, owner.vhost
    if window is None:
        identity = vhost.name, kind, owner.name
        window = Window(vhost.broker, identity, is_durable=owner.durable)
        window.restore()
    window.limit(
        cast("str", settings.get("deduplication-header", HEADER)).encode(),
        cast("int", settings.get("deduplication-window", WINDOW_MS)),
        cast("int", settings.get("deduplication-size", SIZE)),
    )
    return window


def _of_queue(queue: Queue) -> type[QueueHook] | None:
    return DeduplicatedQueue if queue.settings.get("message-deduplication") is True else None


def _of_exchange(exchange: Exchange) -> type[ExchangeHook] | None:
    is_asked = exchange.settings.get("message-deduplication") is True
    return DeduplicatedExchange if is_asked else None


def _refusal(value: object, wanted: str) -> str:
    return f"\"expected {wanted}, got '{plain(value)}'\""


def _switch(value: object, arguments: Table) -> str | None:
    return None if isinstance(value, bool) else _refusal(value, SWITCH)


def _name(value: object, arguments: Table) -> str | None:
    is_name = isinstance(value, str) and 0 < len(value.encode()) <= LONGEST
    return None if is_name else _refusal(value, NAME)


def _integer(most: int, wanted: str) -> Validator:
    def validator(value: object, arguments: Table) -> str | None:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        is_good = is_integer and 1 <= cast("int", value) <= most
        return None if is_good else _refusal(value, wanted)

    return validator


SWITCH = "true or false"
NAME = f"the name of a header, 1 to {LONGEST} octets"
WINDOW_RANGE = f"an integer from 1 to {TEN_YEARS_MS} (milliseconds)"
SIZE_RANGE = f"an integer from 1 to {MOST}"


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    kinds: tuple[AppliesTo, ...] = ("queues", "exchanges")
    for kind in kinds:
        for name, validator, wanted in (
            ("x-message-deduplication", _switch, SWITCH),
            (HEADER, _name, NAME),
            ("x-deduplication-window", _integer(TEN_YEARS_MS, WINDOW_RANGE), WINDOW_RANGE),
            ("x-deduplication-size", _integer(MOST, SIZE_RANGE), SIZE_RANGE),
        ):
            registry.argument(name, validator, wanted=wanted, applies_to=kind)
    registry.queue_hook(_of_queue, phase=Phase.DEDUPLICATE)
    registry.exchange_hook(_of_exchange, phase=Phase.DEDUPLICATE)

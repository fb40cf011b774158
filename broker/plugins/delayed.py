"""Delayed delivery: messages that are routed, or become ready, only after some time.

Law: what a delayed exchange holds stands in a hidden queue of that exchange, ordered by when it is
due, so that it is kept, paged and counted like any message. It is routed by the bindings of that
moment; its permissions were checked when it was published. A header that only looks like a delay
routes at once. Deleting the exchange drops what waits.

RabbitMQ: the delayed message exchange plugin. Registered for: exchange type x-delayed-message
(argument x-delayed-type, headers x-delay and x-deliver-at), the argument and policy `delayed` of
any other exchange, x-message-delay of queues.
"""

from __future__ import annotations

from math import ceil, isfinite
from struct import error
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeGuard, cast

from leveret.broker.core.arguments import boolean, positive_milliseconds, type_name
from leveret.broker.core.exchange import routing_keys
from leveret.broker.core.exchange_types import ExchangeType
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.hooks import ExchangeHook, Phase, QueueHook
from leveret.broker.core.message import BlindEnvelope
from leveret.broker.core.placing import find, republish
from leveret.broker.plugins.headers import (
    DELAY,
    DELAY_ENTRY,
    identity_of,
    int32_delay,
    negated_delay,
)
from leveret.protocol.constants import HAS_HEADERS, TEN_YEARS_MS
from leveret.protocol.content import FRAME_HEAD
from leveret.protocol.errors import FrameError, PreconditionFailed
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import locate
from leveret.protocol.table import DECODERS, Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Destination, Exchange
    from leveret.broker.core.exchange_types import Table
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.vhost import VirtualHost

DELIVER_AT = "x-deliver-at"
AT_OCTETS = DELIVER_AT.encode()
PREFIX = AT_OCTETS[:5]  # both begin with it
INNER = "x-delayed-type"
HOLDS = "delayed-exchange"  # the setting of a hidden queue: whose it is


# When a message is due in `Broker.now`, 0 if it goes at once; whether that is a moment of the wall
# clock; the header that looks like a delay and is none, empty if there is no such.
Moment: TypeAlias = tuple[int, bool, str]
AT_ONCE: Moment = (0, False, "")
NOTED = 4096  # messages that are noted at most: more than come in a slice


def moment(message: Message, now: int, wall_offset: int) -> Moment:
    """Return when a message is due; x-deliver-at counts more than x-delay.

    Args:
      wall_offset: What the wall clock shows beyond now.
    """
    if not message.flags & HAS_HEADERS:
        return AT_ONCE
    frames, after = message.frames, int32_delay(message)
    if (
        after is not None
        and isinstance(frames, bytes)
        and frames.find(AT_OCTETS, 0, FRAME_HEAD + message.header_size) < 0
    ):
        return (now + after, False, "") if after > 0 else AT_ONCE
    header = message.header
    if PREFIX not in header:
        return AT_ONCE
    try:
        if AT_OCTETS not in header and (delay := _first_value(header)) is not None:
            return _after(delay, now)
        headers = message.headers or {}
    except (FrameError, LookupError, ValueError, error):  # nobody can read them
        return AT_ONCE
    ignored = ""
    if DELIVER_AT in headers:
        at = headers[DELIVER_AT]
        if _is_number(at):
            milliseconds = ceil(at) * (1000 if isinstance(at, Timestamp) else 1)
            when = milliseconds - wall_offset
            if when <= now + TEN_YEARS_MS:
                return (when, True, "") if when > now else AT_ONCE
        ignored = DELIVER_AT
    return _after(headers[DELAY], now, ignored) if DELAY in headers else (0, False, ignored)


def _first_value(header: bytes) -> object:
    """Return the delay if it is the first entry of the headers, all that is decoded then."""
    _, start, end, _, _ = locate(header)
    tag = start + 4 + len(DELAY_ENTRY)
    if tag < end and header.startswith(DELAY_ENTRY, start + 4):
        value, behind = DECODERS[header[tag]](header, tag + 1, 0)
        if behind <= end:
            return value
    return None


def _after(delay: object, now: int, ignored: str = "") -> Moment:
    if _is_number(delay) and delay <= TEN_YEARS_MS:
        return now + ceil(delay) if delay > 0 else 0, False, ignored
    return 0, False, DELAY


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


class DelayedMessage(ExchangeType):
    """An exchange of another type, whose messages may be delayed."""

    name = "x-delayed-message"
    has_hooks = True
    compared_arguments = (INNER,)
    known: ClassVar[Mapping[str, type[ExchangeType]]] = {}

    def __init__(self, arguments: Table) -> None:
        inner = arguments.get(INNER)
        kind = self.known.get(inner) if isinstance(inner, str) else None
        if kind is None or inner == self.name:
            shown = "none" if INNER not in arguments else f"'{inner}' ({type_name(inner)})"
            raise PreconditionFailed(
                f"invalid argument '{INNER}': {shown}; it must be the type of another exchange"
            )
        self._inner = kind(arguments)
        self.uses_key = kind.uses_key
        self.uses_headers = self._inner.uses_headers
        self.uses_message = self._inner.uses_message
        self.checks_topic = kind.checks_topic

    def check_binding(self, binding_key: str, arguments: Table) -> None:
        """Raise `PreconditionFailed` for a binding that means nothing to the other type."""
        self._inner.check_binding(binding_key, arguments)

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        """Add a binding."""
        self._inner.bind(binding_key, arguments, destination)

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        """Remove a binding."""
        self._inner.unbind(binding_key, arguments, destination)

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        """Return the destinations of a message that is not delayed, or not any more."""
        return self._inner.match(routing_key, headers)

    def match_message(
        self, routing_keys: Sequence[str], message: Message | None
    ) -> Iterable[Destination]:
        """Return the same, for a type that looks at messages."""
        return self._inner.match_message(routing_keys, message)

    def bound(self, destination: Destination) -> None:
        """Have the other type take note of a binding."""
        self._inner.bound(destination)

    def passing(self, routing_keys: Sequence[str], message: Message) -> None:
        """Have the other type take note of a message that is not delayed, or not any more."""
        self._inner.passing(routing_keys, message)


class Delay(ExchangeHook):
    """Puts messages aside that are to be delayed.

    Attributes:
      ignored: Messages that were not delayed although they have a header that looks like it.
    """

    ignored = 0
    _queue: Queue | None = None
    _noted: Noted

    def divert(self, message: Message, routing_keys: Sequence[str]) -> Sequence[Queue] | None:
        """Return the hidden queue for a message that is to be delayed."""
        exchange = self.exchange
        broker = exchange.vhost.broker
        found = moment(message, broker.now, broker.wall_offset)
        when, _, ignored = found
        if ignored:
            self.ignored += 1
            broker.events.emit("delay.ignored", exchange=exchange, header=ignored)
        if not when:
            return None
        queue = self._queue
        if queue is None or queue.deleted:
            queue = self._queue = exchange.vhost.hidden_queue(
                holder_name(exchange.name),
                durable=exchange.durable,
                arguments={HOLDS: exchange.name},
            )
            self._noted = _noted_by(queue)
        self._noted.put(message, broker.now, found)
        return (queue,)


def holder_name(exchange: str) -> str:
    """Return the name of the hidden queue of an exchange."""
    return f"delayed:{exchange}"


class Noted:
    """When messages are due that are about to come into a hidden queue, as found out just now."""

    __slots__ = ("_at", "_moments")

    def __init__(self) -> None:
        self._at = -1
        self._moments: dict[Message, Moment] = {}

    def put(self, message: Message, now: int, moment: Moment) -> None:
        """Note when a message is due; what was noted before now is of no use any more."""
        if now != self._at or len(self._moments) >= NOTED:
            self._moments.clear()
            self._at = now
        self._moments[message] = moment

    def take(self, now: int) -> dict[Message, Moment]:
        """Return what was noted now, once; it may be about others, too, or not about some."""
        moments, self._moments = self._moments, {}
        return moments if now == self._at else {}


def _noted_by(queue: Queue) -> Noted:
    """Return what the hook of a hidden queue is told of messages that are about to come."""
    hooks = () if queue.extras is None else queue.extras.hooks.values()
    return next((hook.noted for hook in hooks if isinstance(hook, Holding)), Noted())


class Holding(QueueHook):
    """What a hidden queue does: it has messages wait, and publishes those that are due.

    Attributes:
      noted: When some are due that are about to come.
    """

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue)
        self.noted = Noted()

    def identity(self, message: Message) -> str | None:
        """Return by what name a message can be found."""
        return identity_of(message)

    def placed(self, base: int, messages: Sequence[Message]) -> None:
        """Have messages wait; who is due already goes at once."""
        queue = cast("HookedQueue", self.queue)
        broker = queue.vhost.broker
        now, offset = broker.now, broker.wall_offset
        noted = self.noted.take(now)
        whens: list[int] = []
        absolute: list[int] = []
        for position, message in enumerate(messages, base):
            found = noted.get(message)
            if found is None:  # it was held by a transaction, or has come another way
                found = moment(message, now, offset)
            when, is_absolute, _ = found
            whens.append(when or max(now, 1))
            if is_absolute:
                absolute.append(position)
        queue.wait_all(base, whens, absolute)

    def due(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Publish messages to their exchange, past its delay."""
        queue = cast("HookedQueue", self.queue)
        vhost, name = queue.vhost, cast("str", queue.settings[HOLDS])
        exchange = vhost.exchanges.get(name)
        if exchange is None:  # its type is absent: what it is to get stays for when it is back
            vhost.broker.events.emit("delayed.kept", vhost=vhost, exchange=name, count=len(entries))
            return entries
        refused = sum([_deliver(exchange, negated_delay(message)) for _, message in entries])
        if refused:
            vhost.broker.events.emit("delayed.refused", exchange=exchange, count=refused)
        queue.take_out(entries)
        return ()


def _deliver(exchange: Exchange, message: Message) -> int:
    """Publish a message whose delay is over; return how many queues do not take it."""
    method = message.envelope.method
    assert isinstance(method, BasicPublish)
    keys: Sequence[str] = (method.routing_key,)
    if message.flags & HAS_HEADERS and b"CC" in message.header:
        keys = routing_keys(method.routing_key, message.headers)
    if isinstance(message.envelope, BlindEnvelope):
        keys = (*keys, *message.envelope.copies)
    queues = find(exchange, keys, message, is_past_hooks=True)
    return len(queues) - republish(message, queues)


def _drop(vhost: VirtualHost, exchange: Exchange) -> None:
    """Drop what waits for an exchange that is gone, also if it was delayed only before."""
    queue = vhost.hidden.get(holder_name(exchange.name))
    if queue is not None:
        count = queue.waiting_count
        vhost.delete_hidden(queue.name)
        if count:
            vhost.broker.events.emit("delayed.dropped", exchange=exchange, count=count)


def _follow_clock(broker: Broker) -> None:
    """Have what waits for, or expires at, a moment of the wall clock go along with it."""
    for vhost in broker.vhosts.values():
        for queue in vhost.all_queues():
            if not isinstance(queue, HookedQueue):
                continue
            if queue.extras.absolute or queue.extras.ends:
                broker.batch.returns.append(queue.clock_jumped())


def _start(broker: Broker) -> None:
    broker.events.subscribe("exchange.deleted", _drop)
    broker.events.subscribe("clock.jumped", lambda difference: _follow_clock(broker))


class MessageDelay(QueueHook):
    """Has each message of a queue wait for the same time."""

    def identity(self, message: Message) -> str | None:
        """Return by what name a message can be found."""
        return identity_of(message)

    def placed(self, base: int, messages: Sequence[Message]) -> None:
        """Have messages wait."""
        queue = cast("HookedQueue", self.queue)
        when = queue.vhost.broker.now + cast("int", queue.settings["message-delay"])
        queue.wait_all(base, [when] * len(messages))


def _of_exchange(exchange: Exchange) -> type[ExchangeHook] | None:
    is_delayed = exchange.type.has_hooks and isinstance(exchange.type, DelayedMessage)
    return Delay if is_delayed or exchange.settings.get("delayed") is True else None


def _of_queue(queue: Queue) -> type[QueueHook] | None:
    if HOLDS in queue.settings:
        return Holding
    return MessageDelay if queue.settings.get("message-delay") else None


def register(registry: Registry) -> None:
    """Add what this plugin is for."""

    class Kind(DelayedMessage):
        known = registry.exchange_types

    registry.exchange_type(Kind)
    registry.argument("delayed", boolean, wanted="true or false", applies_to="exchanges")
    registry.argument(
        "x-message-delay",
        positive_milliseconds,
        wanted=f"an integer from 1 to {TEN_YEARS_MS} (milliseconds)",
    )
    registry.exchange_hook(_of_exchange, phase=Phase.DELAY)
    registry.queue_hook(_of_queue, phase=Phase.DELAY)
    registry.start(_start)

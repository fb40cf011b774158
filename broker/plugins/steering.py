"""Steering: messages that wait, listed, counted, found, cancelled, rescheduled, delivered now.

Law: what waits for an exchange stands in its hidden queue, what waits in a queue stands there; both
are steered alike. Moments are those of the wall clock, in milliseconds since 1970. No body is read,
and nothing here costs more for a million messages that wait than for a few. What is done is in the
commit of the slice.

Called by: steering_resources, the command line, programs around a broker. Registered for: the
resources in `steering_resources.ROUTES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from leveret.broker.core.as_json import as_json
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.waiting import LONG_AGO
from leveret.broker.plugins.delayed import Delay, holder_name
from leveret.protocol.constants import TEN_YEARS_MS
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.as_json import Json
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.vhost import VirtualHost
    from leveret.broker.core.waiting import Waiter

Kind: TypeAlias = Literal["exchange", "queue"]

LIMIT = 50  # messages of a page
LONGEST_MARK = 40  # digits and a dot
MOST = 1000  # messages that are steered by one call
# Ends of the spans in which messages are counted, in milliseconds from now.
SPANS: Final = (0, 1000, 60_000, 3_600_000, 86_400_000)


class SteeringError(ValueError):
    """What was asked for cannot be done; the text says why, and what could."""


@dataclass(frozen=True, slots=True)
class Delayed:
    """A message that waits.

    Attributes:
      position: Its position in the queue that it waits in; no other there ever has the same.
      due: Until when.
      identity: Its name; None if it has none, or is not in memory.
      exchange: Where it was published; None if it is not in memory.
      routing_key: Its key; None if it is not in memory.
      body_bytes: Octets of its body.
      is_loaded: Whether it is in memory: of others only the rest is known.
    """

    position: int
    due: int
    identity: str | None
    exchange: str | None
    routing_key: str | None
    body_bytes: int
    is_loaded: bool

    def as_json(self) -> Json:
        """Return it as `json.dumps` takes it."""
        return as_json(self)


@dataclass(frozen=True, slots=True)
class DelayedPage:
    """Some messages that wait, by when they are due.

    Attributes:
      messages: The messages.
      next: What the next page begins after; None if there are no more.
      waiting: How many wait altogether.
    """

    messages: tuple[Delayed, ...]
    next: str | None
    waiting: int

    def as_json(self) -> Json:
        """Return it as `json.dumps` takes it."""
        return as_json(self)


@dataclass(frozen=True, slots=True)
class Span:
    """How many messages are due from one moment up to another, which is not meant.

    Attributes:
      first: The moment; None for all that is due before the end.
      end: The other; None for all that is due later.
    """

    first: int | None
    end: int | None
    count: int


@dataclass(frozen=True, slots=True)
class DelayedCounts:
    """How many messages wait.

    Attributes:
      waiting: All of them.
      spans: By when they are due. What was cancelled or rescheduled may count there for some
        time, if very many wait.
      ignored: Messages that were not delayed although they have a header that looks like it.
    """

    waiting: int
    spans: tuple[Span, ...]
    ignored: int

    def as_json(self) -> Json:
        """Return it as `json.dumps` takes it."""
        return as_json(self)


@dataclass(frozen=True, slots=True)
class Steered:
    """What was done.

    Attributes:
      messages: With how many messages.
      is_complete: Whether there are no more to do it with: a call stops at `MOST`.
    """

    messages: int
    is_complete: bool

    def as_json(self) -> Json:
        """Return it as `json.dumps` takes it."""
        return as_json(self)


# Looking


def list_delayed(
    broker: Broker,
    vhost: str,
    name: str,
    *,
    kind: Kind = "exchange",
    after: str | None = None,
    limit: int = LIMIT,
) -> DelayedPage:
    """Return messages that wait, the next ones to be due first.

    Args:
      broker: The broker.
      vhost: The name of the virtual host.
      name: That of the exchange or queue.
      kind: Which of both it is.
      after: What the page before had as `next`.
      limit: How many messages the page has at most; it may have fewer although there is a next one.

    Raises:
      LookupError: There is no such virtual host, exchange or queue.
      SteeringError: No page ends there.
    """
    queue = _holder(broker, vhost, name, kind)
    mark = None if after is None else _mark(after, broker.wall_offset)
    if queue is None:
        return DelayedPage((), None, 0)
    found, last = queue.waiters(limit, mark)
    messages = tuple(_delayed(queue, each) for each in found)
    following = None if last is None else f"{last[0] + broker.wall_offset}.{last[1]}"
    return DelayedPage(messages, following, queue.waiting_count)


def count_delayed(
    broker: Broker,
    vhost: str,
    name: str,
    *,
    kind: Kind = "exchange",
    buckets: Sequence[int] = SPANS,
) -> DelayedCounts:
    """Return how many messages wait, altogether and by when they are due.

    Args:
      broker: The broker.
      vhost: The name of the virtual host.
      name: That of the exchange or queue.
      kind: Which of both it is.
      buckets: Where spans end, in milliseconds from now, ascending.

    Raises:
      LookupError: There is no such virtual host, exchange or queue.
      SteeringError: The buckets do not ascend.
    """
    queue = _holder(broker, vhost, name, kind)
    if any(later <= earlier for earlier, later in pairwise(buckets)):
        raise SteeringError(f"buckets {list(buckets)} must ascend")
    ends = [broker.now + each for each in buckets]
    spans = []
    for first, end in zip([None, *ends], [*ends, None], strict=True):
        low = LONG_AGO if first is None else first
        high = broker.now + 2 * TEN_YEARS_MS if end is None else end
        count = 0 if queue is None or high <= low else queue.waiting_between(low, high - 1)
        offset = broker.wall_offset
        spans.append(
            Span(
                None if first is None else first + offset,
                None if end is None else end + offset,
                count,
            )
        )
    waiting = 0 if queue is None else queue.waiting_count
    return DelayedCounts(waiting, tuple(spans), _ignored(broker, vhost, name, kind))


def get_delayed(
    broker: Broker, vhost: str, name: str, identity: str | int, *, kind: Kind = "exchange"
) -> tuple[Delayed, ...]:
    """Return the messages that wait under a name, or at a position; at most `MOST`.

    Raises:
      LookupError: There is no such virtual host, exchange or queue.
    """
    queue = _holder(broker, vhost, name, kind)
    if queue is None:
        return ()
    waiters = map(queue.waiter, _positions(queue, identity)[:MOST])
    return tuple(_delayed(queue, each) for each in waiters if each is not None)


# Steering


def cancel_delayed(
    broker: Broker, vhost: str, name: str, identity: str | int, *, kind: Kind = "exchange"
) -> Steered:
    """Drop messages that wait under a name, or at a position; nothing is dead-lettered.

    Raises:
      LookupError: There is no such virtual host, exchange or queue.
    """
    queue = _holder(broker, vhost, name, kind)
    positions = [] if queue is None else _positions(queue, identity)
    count = 0 if queue is None else queue.cancel_waiting(positions[:MOST])
    return Steered(count, len(positions) <= MOST)


def reschedule_delayed(
    broker: Broker,
    vhost: str,
    name: str,
    identity: str | int,
    *,
    kind: Kind = "exchange",
    delay: int | None = None,
    at: int | None = None,
) -> Steered:
    """Have messages that wait under a name, or at a position, wait until another moment.

    Args:
      broker: The broker.
      vhost: The name of the virtual host.
      name: That of the exchange or queue.
      identity: Their name, or a position.
      kind: Which of both it is.
      delay: How long from now, in milliseconds.
      at: Or until when; it goes along when the wall clock jumps.

    Raises:
      LookupError: There is no such virtual host, exchange or queue.
      SteeringError: Neither or both are given, or it is out of range.
    """
    queue = _holder(broker, vhost, name, kind)
    if (delay is None) == (at is None):
        raise SteeringError("one of 'delay' and 'at' must be given")
    wait = delay if at is None else at - broker.wall
    assert wait is not None
    if delay is not None and delay < 0:
        raise SteeringError(f"'delay' is {delay}, it must be from 0 to {TEN_YEARS_MS}")
    if wait > TEN_YEARS_MS:
        which, value = ("delay", delay) if at is None else ("at", at)
        most = TEN_YEARS_MS if at is None else broker.wall + TEN_YEARS_MS
        raise SteeringError(f"'{which}' is {value}, it must be from 0 to {most}")
    positions = [] if queue is None else _positions(queue, identity)
    when, is_absolute = broker.now + max(wait, 0), at is not None
    count = 0
    if queue is not None:
        count = queue.reschedule(positions[:MOST], when, is_absolute=is_absolute)
    return Steered(count, len(positions) <= MOST)


def deliver_delayed_now(
    broker: Broker, vhost: str, name: str, identity: str | int, *, kind: Kind = "exchange"
) -> Steered:
    """Have messages that wait under a name, or at a position, wait no longer.

    Raises:
      LookupError: There is no such virtual host, exchange or queue.
    """
    return reschedule_delayed(broker, vhost, name, identity, kind=kind, delay=0)


def _mark(after: str, offset: int) -> tuple[int, int]:
    due, _, position = after.partition(".")
    is_mark = all(each.isascii() and each.isdigit() for each in (due, position))
    if not is_mark or len(after) > LONGEST_MARK:
        raise SteeringError(f"no page ends at '{after}'")
    return int(due) - offset, int(position)


def _positions(queue: HookedQueue, identity: str | int) -> list[int]:
    """Return where they wait: one more than `MOST` tells that they are more."""
    return [identity] if isinstance(identity, int) else queue.find_waiting(identity, MOST + 1)


def _vhost(broker: Broker, name: str) -> VirtualHost:
    vhost = broker.vhosts.get(name)
    if vhost is None:
        raise LookupError(f"no vhost '{name}'")
    return vhost


def _holder(broker: Broker, vhost_name: str, name: str, kind: Kind) -> HookedQueue | None:
    """Return the queue in which messages wait, None if none can yet."""
    vhost = _vhost(broker, vhost_name)
    known = vhost.exchanges if kind == "exchange" else vhost.queues
    if name not in known:
        raise LookupError(f"no {kind} '{name}' in vhost '{vhost_name}'")
    queue = vhost.hidden.get(holder_name(name)) if kind == "exchange" else vhost.queues[name]
    return queue if isinstance(queue, HookedQueue) else None


def _ignored(broker: Broker, vhost: str, name: str, kind: Kind) -> int:
    if kind == "queue":
        return 0
    hooks = _vhost(broker, vhost).exchanges[name].hooks.values()
    return sum(hook.ignored for hook in hooks if isinstance(hook, Delay))


def _delayed(queue: HookedQueue, waiter: Waiter) -> Delayed:
    message, due = waiter.message, waiter.due + queue.vhost.broker.wall_offset
    if message is None:
        return Delayed(waiter.position, due, None, None, None, waiter.size, False)
    method = message.envelope.method
    assert isinstance(method, BasicPublish)
    name = queue.name_of(message)
    return Delayed(
        waiter.position, due, name, method.exchange, method.routing_key, waiter.size, True
    )


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    from leveret.broker.plugins.steering_resources import ROUTES

    for each in ROUTES:
        registry.resource(each)

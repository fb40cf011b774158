"""What waits as resources: messages listed, counted, found, cancelled, put off, delivered now.

Law: what is here looks at requests; all else is done by `steering`. Who reads a queue may see and
steer what waits in it, as they may take it out. What waits for an exchange is seen by who may read
the exchange, and steered by who may write to it. Where a path ends in a name, that is what the
message is known by, or with ``by=position`` its position; so one without a name is reached, and
one with the name ``counts``. As with all resources the caller ends the slice, which commits.

Called by: steering (registers them).
"""

from __future__ import annotations

from functools import partial, wraps
from typing import TYPE_CHECKING, TypeAlias

from leveret.broker.core.lookups import MOST_SHOWN, exchange_of, queue_of
from leveret.broker.core.resources import (
    Answer,
    Fields,
    Refused,
    Request,
    Response,
    Route,
    answering,
    bad_field,
    not_found,
)
from leveret.broker.plugins import steering
from leveret.protocol.constants import TEN_YEARS_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Destination
    from leveret.broker.core.resources import Handler
    from leveret.broker.plugins.steering import Kind, Steered

MOST_SPANS = 100
LAST_POSITION = (1 << 63) - 1
BY = ("name", "position")

Where: TypeAlias = tuple[str, str]
"""The names of a virtual host and of an exchange or queue there."""


def _seen(kind: Kind, request: Request, broker: Broker) -> Where:
    """Return the exchange or queue that a path names, which the user must be allowed to read."""
    find = exchange_of if kind == "exchange" else queue_of
    return _where(find(request, broker, "read"))


def _steered(kind: Kind, request: Request, broker: Broker) -> Where:
    """Return the same, of which the user must be allowed to steer what waits."""
    if kind == "queue":
        return _seen(kind, request, broker)
    return _where(exchange_of(request, broker, "write"))


def _where(subject: Destination) -> Where:
    return subject.vhost.name, subject.name


def _identity(request: Request) -> str | int:
    """Return the name of messages, or the position of one."""
    given, by = request.params["identity"], Fields(request.query, ("by",)).text("by")
    if by is None or by == "name":
        return given
    if by != "position":
        raise bad_field("by", by, f"one of {', '.join(BY)}")
    position = Fields({"identity": given}, ("identity",)).integer("identity", 0, LAST_POSITION)
    assert position is not None
    return position


def _nothing(kind: Kind, where: Where, identity: str | int) -> Refused:
    which = f"at position {identity}" if isinstance(identity, int) else f"as '{identity}'"
    vhost, name = where
    return not_found(f"nothing waits {which} for {kind} '{name}' in vhost '{vhost}'")


# Looking


def list_messages(kind: Kind, request: Request, broker: Broker) -> Answer:
    """Answer a page of what waits, by when it is due: ``limit``, ``after`` (`next` of the last)."""
    given = Fields(request.query, ("after", "limit"))
    limit, after = given.integer("limit", 1, MOST_SHOWN), given.text("after") or None
    where = _seen(kind, request, broker)
    limit = steering.LIMIT if limit is None else limit
    try:
        page = steering.list_delayed(broker, *where, kind=kind, after=after, limit=limit)
    except steering.SteeringError:
        raise bad_field("after", after, "what a page has as next") from None
    return Response(200, page.as_json())


def count_messages(kind: Kind, request: Request, broker: Broker) -> Answer:
    """Answer how many messages wait, and in ``spans``: a list of their ends, in ms from now."""
    ends = Fields(request.query, ("spans",)).integers("spans", MOST_SPANS, TEN_YEARS_MS)
    where = _seen(kind, request, broker)
    buckets = steering.SPANS if ends is None else ends
    counts = steering.count_delayed(broker, *where, kind=kind, buckets=buckets)
    return Response(200, counts.as_json())


def show_messages(kind: Kind, request: Request, broker: Broker) -> Answer:
    """Answer the messages that wait under a name, or at a position."""
    identity = _identity(request)
    where = _seen(kind, request, broker)
    found = steering.get_delayed(broker, *where, identity, kind=kind)
    if not found:
        raise _nothing(kind, where, identity)
    return Response(200, [each.as_json() for each in found])


# Steering


def cancel_messages(kind: Kind, request: Request, broker: Broker) -> Answer:
    """Drop messages that wait; answer how many, and whether these were all."""
    return _steer(kind, request, broker, steering.cancel_delayed)


def deliver_messages(kind: Kind, request: Request, broker: Broker) -> Answer:
    """Have messages wait no longer; answer how many, and whether these were all."""
    return _steer(kind, request, broker, steering.deliver_delayed_now)


def reschedule_messages(kind: Kind, request: Request, broker: Broker) -> Answer:
    """Have messages wait for ``delay`` (ms from now), or until ``at`` (ms since 1970)."""
    given = Fields({} if request.body is None else request.body, ("delay", "at"))
    delay = given.integer("delay", 0, TEN_YEARS_MS)
    at = given.integer("at", 0, broker.wall + TEN_YEARS_MS)
    if delay is None and at is None:
        raise bad_field("delay", None, f"an integer from 0 to {TEN_YEARS_MS} where 'at' is absent")
    if delay is not None and at is not None:
        raise bad_field("at", at, "absent where 'delay' is given")
    return _steer(kind, request, broker, partial(steering.reschedule_delayed, delay=delay, at=at))


def _steer(kind: Kind, request: Request, broker: Broker, how: Callable[..., Steered]) -> Answer:
    identity = _identity(request)
    where = _steered(kind, request, broker)
    done = how(broker, *where, identity, kind=kind)
    if not done.messages:
        raise _nothing(kind, where, identity)
    return Response(200, done.as_json())


# Routes


def _routes(kind: Kind) -> Iterator[Route]:
    every = f"/api/leveret/{kind}s/{{vhost}}/{{name}}/delayed"
    one = f"{every}/{{identity}}"
    # the first pattern that fits counts: a word stands before what may be any
    yield Route("GET", every, _of(kind, list_messages), "management")
    yield Route("GET", f"{every}/counts", _of(kind, count_messages), "management")
    yield Route("GET", one, _of(kind, show_messages), "management")
    yield Route("DELETE", one, _of(kind, cancel_messages), "management")
    yield Route("PATCH", one, _of(kind, reschedule_messages), "management")
    yield Route("POST", f"{one}/deliver", _of(kind, deliver_messages), "management")


def _of(kind: Kind, answer: Callable[[Kind, Request, Broker], Answer]) -> Handler:
    """Return the handler for exchanges, or that for queues."""

    @answering
    @wraps(answer)
    def handler(request: Request, broker: Broker) -> Answer:
        return answer(kind, request, broker)

    return handler


ROUTES = (*_routes("exchange"), *_routes("queue"))

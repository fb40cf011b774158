"""Placing: from an exchange into queues, past the hooks of both.

Law: first all queues of a message are asked whether they take it, then those that do get it; who
raises before that leaves it nowhere. What a queue sends on (a dead letter, a message whose delay is
over) goes the same way, in the same commit as all else of the slice.

Called by: amqp.publish (the careful way), amqp.transaction, plugins (republish).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core.exchange import route, tell
from leveret.broker.core.hooks import ExchangeHook, Verdict
from leveret.protocol.constants import HAS_EXPIRATION
from leveret.protocol.errors import FrameError
from leveret.protocol.properties import splice_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.exchange import Exchange, Routing
    from leveret.broker.core.hooks import QueueHook
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue


class Passed(NamedTuple):
    """Where a message goes that exchanges with hooks were asked about.

    Attributes:
      queues: Each once.
      is_taken: Whether a hook has taken it, so that it counts as routed.
      hooks: Those that are to be told once it is `admitted`.
    """

    queues: Sequence[Queue]
    is_taken: bool
    hooks: Sequence[ExchangeHook] = ()


def pass_hooks(found: Routing, routing_keys: Sequence[str], message: Message) -> Passed:
    """Let the exchanges at which a route stopped see the message, and go on from there."""
    hooks: list[ExchangeHook] = []
    if len(found.stops) == 1 and not found.queues:  # as nearly all have it
        diverted = _divert(found.stops[0], routing_keys, message, hooks)
        if diverted is not None:
            return Passed(diverted, True, hooks)
        return _go_on(found, routing_keys, message, hooks, [found.stops[0]])
    return _go_on(found, routing_keys, message, hooks, [])


def _go_on(
    found: Routing,
    routing_keys: Sequence[str],
    message: Message,
    hooks: list[ExchangeHook],
    passed: Sequence[Exchange],
) -> Passed:
    """Go on from where a route stopped.

    Args:
      hooks: Those that are to be told.
      passed: The exchanges whose hooks have let the message go on already.
    """
    queues = dict.fromkeys(found.queues)
    stops = list(found.stops)
    seen = set(stops)
    is_taken = False
    while stops:
        exchange = stops.pop()
        diverted = None
        if exchange not in passed:
            diverted = _divert(exchange, routing_keys, message, hooks)
        if diverted is not None:
            is_taken = True
            queues.update(dict.fromkeys(diverted))
            continue
        onward = route(exchange, routing_keys, message=message, is_past_hooks=True)
        tell(onward, routing_keys, message)
        queues.update(dict.fromkeys(onward.queues))
        stops += [stop for stop in onward.stops if stop not in seen]
        seen.update(onward.stops)
    return Passed(tuple(queues), is_taken, hooks)


def _divert(
    exchange: Exchange, routing_keys: Sequence[str], message: Message, agreed: list[ExchangeHook]
) -> Sequence[Queue] | None:
    for hook in exchange.hooks.values():
        if not hook.admit(message):
            return ()
        if type(hook).admitted is not ExchangeHook.admitted:
            agreed.append(hook)
        diverted = hook.divert(message, routing_keys)
        if diverted is not None:
            return diverted
    return None


def admitted(
    message: Message, queues: Sequence[Queue], *, is_published: bool = True
) -> tuple[Sequence[Queue], bool]:
    """Ask the hooks of queues about a message.

    Args:
      is_published: Whether a client has sent it, and not the broker itself.

    Returns:
      The queues that get it; whether one of them has refused it.
    """
    taking: list[Queue] = []
    agreed: list[QueueHook] = []
    refusing: list[QueueHook] = []
    for queue in queues:
        verdict = Verdict.ADMIT
        for hook in queue.admitting:
            if hook.is_for_publishers and not is_published:
                continue
            verdict = hook.admit(message)
            if verdict is Verdict.REFUSE:
                refusing.append(hook)
            if verdict is not Verdict.ADMIT:
                break
        if verdict is Verdict.ADMIT:
            taking.append(queue)
            agreed += queue.admitting
    for hook in agreed:
        hook.admitted(message)
    for hook in refusing:
        hook.refused(message)
    return taking, bool(refusing)


def find(
    exchange: Exchange,
    routing_keys: Sequence[str],
    message: Message,
    *,
    is_past_hooks: bool = False,
) -> Sequence[Queue]:
    """Return the queues of a message that the broker itself sends.

    One whose headers nobody can read goes where one without headers does.

    Args:
      is_past_hooks: Whether the hooks of the exchange have seen it.
    """
    try:
        return _find(exchange, routing_keys, message, is_past_hooks)
    except FrameError:
        bare = message.with_header(splice_headers(message.header, None))
        return _find(exchange, routing_keys, bare, is_past_hooks)


def _find(
    exchange: Exchange, routing_keys: Sequence[str], message: Message, is_past_hooks: bool
) -> Sequence[Queue]:
    found = route(exchange, routing_keys, message=message, is_past_hooks=is_past_hooks)
    tell(found, routing_keys, message)
    if found.stops:
        return pass_hooks(found, routing_keys, message).queues
    return found.queues


def republish(message: Message, queues: Sequence[Queue]) -> int:
    """Put a message that the broker itself sends into queues; return how many have taken it.

    Whatever has caused it is in the same commit.
    """
    for queue in queues:
        if queue.admitting:
            queues, _ = admitted(message, queues, is_published=False)
            break
    count = 0
    is_timed = message.flags & HAS_EXPIRATION
    for queue in queues:
        if not queue.deleted:
            if is_timed:
                queue.keep_time()
            queue.incoming.append(message)
            queue.vhost.broker.batch.caused[queue] = None
            count += 1
    return count


def republish_all(messages: Sequence[Message], queues: Sequence[Queue]) -> None:
    """Do what `republish` does for messages, in their order, that all go into the same queues."""
    if any(queue.admitting for queue in queues) or any(
        message.flags & HAS_EXPIRATION for message in messages
    ):
        for message in messages:
            republish(message, queues)
        return
    for queue in queues:
        if not queue.deleted:
            queue.incoming += messages
            queue.vhost.broker.batch.caused[queue] = None

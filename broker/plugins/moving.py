"""Moving: chosen messages go to another queue or exchange, are copied there, or deleted.

Law: a call is one step: it looks at so many messages at most, and what it takes out of a queue and
puts into others is in one commit, so a crash neither loses nor doubles anything. What is ready or
waits may be chosen; what a consumer has is never touched. A message that nobody takes stays where
it is, and is counted. Walking on from step to step ends: what came after the first is left alone.

Called by: redrive; whoever steers the broker. Registered for: the resources in `ROUTES`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from leveret.broker.core.as_json import as_json
from leveret.broker.core.inspect import peek
from leveret.broker.core.lookups import FILTER, filter_of, queue_of
from leveret.broker.core.placing import republish
from leveret.broker.core.resources import (
    Answer,
    Fields,
    Request,
    Response,
    Route,
    answering,
    bad_field,
)
from leveret.broker.plugins.passage import (
    TARGET,
    Outcome,
    Passage,
    Target,
    pass_on,
    respond,
    takers,
    target_of,
    towards,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leveret.broker.core.as_json import Json
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.filter import Filter
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.sighting import Page

LIMIT = 200  # messages of a step: some milliseconds
STATES = ("ready", "waiting")
STEP = ("state", "positions", "after", "limit")


# Steps


@dataclass(frozen=True, slots=True)
class Moved:
    """What a step has done.

    Attributes:
      looked: How many messages it has looked at.
      done: How many were moved, copied or deleted.
      unroutable: How many stay because nothing takes them where they are to go.
      refused: How many stay because a queue refuses them, or has them already.
      forbidden: How many stay because the user may not publish there.
      gone: How many left the queue before it was their turn.
      next: What `after` of the next step is; None if nothing is left.
    """

    looked: int
    done: int
    unroutable: int
    refused: int
    forbidden: int
    gone: int
    next: str | None

    def as_json(self) -> Json:
        """Return it as `json.dumps` takes it."""
        return as_json(self)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which messages of a queue are meant.

    Attributes:
      state: "ready" or "waiting".
      wanted: What they have to be like; None for anything.
      positions: Their positions, ascending; None for all.
      after: What the step before returned as `next`, "" to begin.
      limit: How many of them at most.
    """

    state: str = "ready"
    wanted: Filter | None = None
    positions: Sequence[int] | None = None
    after: str = ""
    limit: int = LIMIT


ALL = Choice()


def move(
    queue: Queue,
    target: Target,
    done: Callable[[Moved], None],
    choice: Choice = ALL,
    *,
    user: str = "",
) -> None:
    """Move messages of a queue, one step.

    Args:
      queue: Where they are.
      target: Where they are to go.
      done: Called with what was done: at once if all of them are in memory, else when they have
        been read.
      choice: Which.
      user: On whose behalf; "" for the broker's own, who may do anything.

    Raises:
      ValueError: The target makes no sense, or `choice` does not.
      NotFound: There is no such target.
    """
    _check(queue, target)
    _walk(
        queue,
        choice,
        done,
        lambda position, message: pass_on(queue, position, towards(target, message), user),
    )


def copy(
    queue: Queue,
    target: Target,
    done: Callable[[Moved], None],
    choice: Choice = ALL,
    *,
    user: str = "",
) -> None:
    """Copy messages of a queue, one step; arguments and errors are those of `move`."""
    _check(queue, target)
    _walk(queue, choice, done, lambda _, message: _copy(queue, towards(target, message), user))


def delete(queue: Queue, done: Callable[[Moved], None], choice: Choice = ALL) -> None:
    """Delete messages of a queue, one step, as if acknowledged: they are no dead letters.

    Raises:
      ValueError: `choice` makes no sense.
    """
    _walk(queue, choice, done, lambda position, _: _delete(queue, position))


def _check(queue: Queue, target: Target) -> None:
    target.check(queue.vhost)
    if target.queue == queue.name:
        raise ValueError(f"messages of queue '{queue.name}' are there already")


def _copy(queue: Queue, passage: Passage, user: str) -> Outcome:
    outcome, queues = takers(queue.vhost, passage, user)
    if outcome is Outcome.DONE:
        republish(passage.message, queues)
    return outcome


def _delete(queue: Queue, position: int) -> Outcome:
    if queue.waits_for_commit(position) or not queue.withdraw(position, position):
        return Outcome.GONE
    return Outcome.DONE


def _walk(
    queue: Queue,
    choice: Choice,
    done: Callable[[Moved], None],
    act: Callable[[int, Message], Outcome],
) -> None:
    if choice.state not in STATES:
        raise ValueError(f"messages that are {choice.state} are left alone: only {STATES}")
    queue.settle_in()
    after, end = _mark(queue, choice.after)
    peek(
        queue,
        partial(_finish, end, done, act),
        state=choice.state,
        after=after,
        limit=choice.limit,
        wanted=choice.wanted,
        positions=choice.positions,
    )


def _mark(queue: Queue, after: str) -> tuple[str, int]:
    """Return where a step begins, and before which position all steps end."""
    if not after:
        return "", queue.next_position
    start, _, end = after.partition("-")
    if not end.isdecimal() or len(end) > len(str(1 << 64)):
        raise ValueError(f"no step ends at '{after}'")
    return start, int(end)


def _finish(
    end: int, done: Callable[[Moved], None], act: Callable[[int, Message], Outcome], page: Page
) -> None:
    some = [each for each in page.messages if each.position < end]
    counts = Counter(act(each.position, each.message) for each in some)
    counts[Outcome.GONE] += page.gone
    is_over = page.next is None or int(page.next) >= end - 1
    done(
        Moved(
            looked=page.looked,
            **{outcome.value: counts[outcome] for outcome in Outcome},
            next=None if is_over else f"{page.next}-{end}",
        )
    )


# Resources


def _choice(fields: Fields) -> Choice:
    limit = fields.integer("limit", 1, LIMIT)
    state = fields.text("state") or "ready"
    if state not in STATES:
        raise bad_field("state", state, f"one of {', '.join(STATES)}")
    return Choice(
        state=state,
        wanted=filter_of(fields),
        positions=fields.integers("positions", LIMIT),
        after=fields.text("after") or "",
        limit=LIMIT if limit is None else limit,
    )


def _body(request: Request) -> object:
    return {} if request.body is None else request.body


def _transfer(request: Request, broker: Broker, how: Callable[..., None]) -> Answer:
    fields = Fields(_body(request), TARGET + STEP + FILTER)
    queue, choice, target = queue_of(request, broker, "read"), _choice(fields), target_of(fields)
    if target is None:
        raise bad_field("to_queue", None, "a text, or to_exchange is one")
    return respond(
        lambda tell: how(queue, target, lambda moved: tell(_told(moved)), choice, user=request.user)
    )


def _told(moved: Moved) -> Response:
    return Response(200, moved.as_json())


@answering
def move_messages(request: Request, broker: Broker) -> Answer:
    """Move messages, one step: `Target`, `Choice` and `Filter` say which, and where to."""
    return _transfer(request, broker, move)


@answering
def copy_messages(request: Request, broker: Broker) -> Answer:
    """Copy messages, one step, likewise."""
    return _transfer(request, broker, copy)


@answering
def delete_messages(request: Request, broker: Broker) -> Answer:
    """Delete messages, one step: `positions` or a filter has to say which."""
    fields = Fields(_body(request), STEP + FILTER)
    queue, choice = queue_of(request, broker, "read"), _choice(fields)
    if choice.positions is None and choice.wanted is None:
        raise bad_field("positions", None, "a list of integers; to delete all, purge the queue")
    return respond(lambda tell: delete(queue, lambda moved: tell(_told(moved)), choice))


MESSAGES = "/api/leveret/queues/{vhost}/{name}/messages"

ROUTES = (
    Route("POST", f"{MESSAGES}/move", move_messages, "management"),
    Route("POST", f"{MESSAGES}/copy", copy_messages, "management"),
    Route("POST", f"{MESSAGES}/delete", delete_messages, "management"),
)


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    for each in ROUTES:
        registry.resource(each)

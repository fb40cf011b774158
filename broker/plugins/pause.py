"""Pause: a queue that delivers nothing, or takes nothing from publishers, until somebody says so.

Law: a pause is a note of its queue, so it survives a restart, and goes with the queue. Where
delivery is paused messages come in, wait and expire as ever, consumers stay and settle what they
have, basic.get finds nothing. Where publishing is paused publishers are told that their messages
were refused (basic.nack); what the broker itself sends, a dead letter or a message whose delay is
over, comes in: nobody would send it again. A pause with an end is over by itself.

Called by: whoever steers the broker. Registered for: the resources in `ROUTES`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from leveret.broker.core.as_json import as_json
from leveret.broker.core.hooks import Phase, QueueHook, Verdict
from leveret.broker.core.lookups import queue_of
from leveret.broker.core.resources import (
    Answer,
    Fields,
    Request,
    Response,
    Route,
    answering,
    bad_field,
    not_found,
)
from leveret.protocol.constants import TEN_YEARS_MS

if TYPE_CHECKING:
    from leveret.broker.core.as_json import Json
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.message import Message
    from leveret.broker.core.notes import Owner
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.timers import Timer

NAME = "pause"
KEY = b""
LEFT = ("vhost", "queue", "refused")  # what of a pause is not in the note
LONGEST_REASON = 1000  # characters


@dataclass(frozen=True, slots=True)
class Pause:
    """That a queue is paused.

    Attributes:
      vhost: Name of its virtual host.
      queue: Its name.
      delivery: Whether it delivers nothing.
      publishing: Whether it takes nothing from publishers.
      reason: Why, for people.
      user: Who has paused it; "" for the broker's own.
      since: Since when, in milliseconds of the wall clock.
      until: Until when, likewise; None until somebody resumes it.
      refused: How many messages were refused for it, since the last restart.
    """

    vhost: str
    queue: str
    delivery: bool
    publishing: bool
    reason: str
    user: str
    since: int
    until: int | None
    refused: int = 0

    def as_json(self) -> Json:
        """Return it as `json.dumps` takes it."""
        return as_json(self)


def pause(
    queue: Queue,
    *,
    delivery: bool = True,
    publishing: bool = False,
    reason: str = "",
    until: int | None = None,
    user: str = "",
) -> Pause:
    """Pause a queue, or change how it is paused; return how it is now.

    Args:
      queue: The queue.
      delivery: Whether it is to deliver nothing.
      publishing: Whether it is to take nothing from publishers.
      reason: Why, for people.
      until: Until when, in milliseconds of the wall clock; None until somebody resumes it.
      user: Who wants it, for people.

    Emits `queue.paused` with the virtual host, the queue and the pause.

    Raises:
      ValueError: Neither is to be paused, or until a moment that is past or too far away.
    """
    vhost, wall = queue.vhost, queue.vhost.broker.wall
    where = vhost.described("queue", queue.name)
    if not (delivery or publishing):
        raise ValueError(f"{where}: delivery, publishing or both are to be paused")
    if until is not None and not wall < until <= wall + TEN_YEARS_MS:
        raise ValueError(
            f"{where}: until is {until}, it must be from {wall + 1} to {wall + TEN_YEARS_MS}"
        )
    known = paused(queue)
    since, refused = (wall, 0) if known is None else (known.since, known.refused)
    made = Pause(vhost.name, queue.name, delivery, publishing, reason, user, since, until, refused)
    kept = {each.name: getattr(made, each.name) for each in fields(made) if each.name not in LEFT}
    vhost.broker.notes.put(_owner(queue), NAME, KEY, json.dumps(kept).encode())
    vhost.refit(queue, is_forced=True)
    vhost.broker.events.emit("queue.paused", vhost=vhost, queue=queue, pause=made)
    return made


def resume(queue: Queue) -> bool:
    """Have a queue go on; return whether it was paused.

    Emits `queue.resumed` with the virtual host and the queue.
    """
    vhost = queue.vhost
    if KEY not in vhost.broker.notes.get(_owner(queue), NAME):
        return False
    vhost.broker.notes.put(_owner(queue), NAME, KEY, None)
    vhost.refit(queue, is_forced=True)
    vhost.broker.events.emit("queue.resumed", vhost=vhost, queue=queue)
    return True


def paused(queue: Queue) -> Pause | None:
    """Return how a queue is paused, None if it is not."""
    note = queue.vhost.broker.notes.get(_owner(queue), NAME).get(KEY)
    if note is None:
        return None
    hook = _hook(queue)
    known = Pause(queue.vhost.name, queue.name, **json.loads(note))
    return known if hook is None else replace(known, refused=hook.refusals)


def pauses(broker: Broker) -> list[Pause]:
    """Return how queues are paused, of those that are."""
    queues = [broker.vhosts[vhost].queues.get(name) for vhost, _, name in broker.notes.owners(NAME)]
    found = [paused(queue) for queue in queues if queue is not None]
    return [each for each in found if each is not None]


def _owner(queue: Queue) -> Owner:
    return queue.vhost.name, "queue", queue.name


def _hook(queue: Queue) -> Pausing | None:
    if queue.extras is not None:
        for hook in queue.extras.hooks.values():
            if isinstance(hook, Pausing):
                return hook
    return None


class Pausing(QueueHook):
    """What keeps a queue from delivering, or publishers from it.

    Attributes:
      refusals: How many messages were refused.
    """

    is_for_publishers = True
    refusals = 0
    _timer: Timer | None = None
    _until: int | None = None

    def refit(self) -> None:
        """Read how the queue is paused."""
        known = paused(self.queue)
        assert known is not None  # else it would be let go
        self.is_deep = self.is_holding = known.delivery
        self._refuses = known.publishing
        self._until = known.until
        self.close()
        if known.until is not None:
            broker = self.queue.vhost.broker
            self._timer = broker.timers.at(known.until - broker.wall_offset, self._ring)

    def _ring(self) -> None:
        """Go on if it is time by the wall clock, which may have been set back."""
        broker = self.queue.vhost.broker
        assert self._until is not None
        if broker.wall >= self._until:
            resume(self.queue)
        else:
            self._timer = broker.timers.at(self._until - broker.wall_offset, self._ring)

    def admit(self, message: Message) -> Verdict:
        """Refuse a message while publishing is paused."""
        return Verdict.REFUSE if self._refuses else Verdict.ADMIT

    def refused(self, message: Message) -> None:
        """Count what was refused."""
        self.refusals += 1

    def close(self) -> None:
        """Wait for no end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _choose(queue: Queue) -> type[QueueHook] | None:
    if queue.is_hidden or KEY not in queue.vhost.broker.notes.get(_owner(queue), NAME):
        return None
    return Pausing


# Resources


@answering
def pause_queue(request: Request, broker: Broker) -> Answer:
    """Pause a queue: ``delivery``, ``publishing``, ``reason``, ``until`` (ms since 1970)."""
    given = Fields(
        {} if request.body is None else request.body, ("delivery", "publishing", "reason", "until")
    )
    queue = queue_of(request, broker, "configure")
    publishing = given.boolean("publishing") is True
    delivery = given.boolean("delivery")
    delivery = not publishing if delivery is None else delivery
    if not (delivery or publishing):
        raise bad_field("delivery", False, "true where publishing is false")
    reason = given.text("reason") or ""
    if len(reason) > LONGEST_REASON:
        raise bad_field("reason", reason, f"a text of at most {LONGEST_REASON} characters")
    made = pause(
        queue,
        delivery=delivery,
        publishing=publishing,
        reason=reason,
        until=given.integer("until", broker.wall + 1, broker.wall + TEN_YEARS_MS),
        user=request.user,
    )
    return Response(200, made.as_json())


@answering
def show_pause(request: Request, broker: Broker) -> Answer:
    """Answer how a queue is paused; 404 if it is not."""
    queue = queue_of(request, broker, "read")
    found = paused(queue)
    if found is None:
        raise not_found(f"queue '{queue.name}' in vhost '{queue.vhost.name}' is not paused")
    return Response(200, found.as_json())


@answering
def resume_queue(request: Request, broker: Broker) -> Answer:
    """Have a queue go on, and answer whether it was paused."""
    return Response(200, {"was_paused": resume(queue_of(request, broker, "configure"))})


@answering
def list_pauses(request: Request, broker: Broker) -> Answer:
    """Answer how queues are paused, of those that the user may read."""
    check = broker.users.check
    found = [each for each in pauses(broker) if check(request.user, each.vhost, "read", each.queue)]
    return Response(200, [each.as_json() for each in found])


PAUSE = "/api/leveret/queues/{vhost}/{name}/pause"

ROUTES = (
    Route("PUT", PAUSE, pause_queue, "management"),
    Route("GET", PAUSE, show_pause, "management"),
    Route("DELETE", PAUSE, resume_queue, "management"),
    Route("GET", "/api/leveret/pauses", list_pauses, "management"),
)


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    registry.queue_hook(_choose, phase=Phase.REFUSE)
    for each in ROUTES:
        registry.resource(each)

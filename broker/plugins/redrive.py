"""Redrive: dead letters go back to where they came from, or elsewhere.

Law: a redrive is a job of one queue. It walks over the messages that were ready when it began, by
position, so what comes or dies again meanwhile is left for the next one, and it ends. Each step
takes some messages out, puts them where they go, and notes how far it is, in one commit: a crash
neither loses nor doubles a message, and the job goes on after a restart. What nobody takes stays.

Called by: redrive_resources; whoever steers the broker.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING

from leveret.broker.core.as_json import as_json
from leveret.broker.core.hooks import Phase, QueueHook
from leveret.broker.core.inspect import peek
from leveret.broker.plugins.passage import Outcome, Target, pass_on
from leveret.broker.plugins.redrive_plan import DeathFilter, Plan, check

if TYPE_CHECKING:
    from leveret.broker.core.as_json import Json
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.notes import Owner
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.sighting import Page, Sighting
    from leveret.broker.core.timers import Timer

NAME = "redrive"
KEY = b""
STEP = 100  # messages of a step: some milliseconds
TICK_S = 0.02  # between steps where there is a rate
SLACK_MS = 1000  # what is late by more is not made up for


class State(StrEnum):
    """What a redrive does."""

    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Redrive:
    """A redrive, as it stands.

    Attributes:
      vhost: Name of the virtual host.
      queue: Name of the queue.
      state: What it does.
      plan: What it is to do.
      started: When it began, in milliseconds of the wall clock.
      ended: When it was finished or stopped, likewise; None while it runs.
      after: The position up to which all were looked at.
      end: The position before which it ends.
      moved: How many went where they were to go.
      unroutable: How many stay because nothing takes them there, or nobody knows where to.
      refused: How many stay because a queue refuses them, or has them already.
      forbidden: How many stay because the user may not publish there.
      gone: How many left the queue before it was their turn.
    """

    vhost: str
    queue: str
    state: State
    plan: Plan
    started: int
    ended: int | None
    after: int
    end: int
    moved: int = 0
    unroutable: int = 0
    refused: int = 0
    forbidden: int = 0
    gone: int = 0

    def as_json(self) -> dict[str, Json]:
        """Return it as `json.dumps` takes it."""
        return {each.name: as_json(getattr(self, each.name)) for each in fields(self)}


def start(queue: Queue, plan: Plan) -> Redrive:
    """Start to redrive the messages that are in a queue.

    Emits `redrive.changed` with the virtual host, the queue and the redrive, as do `stop`, `resume`
    and a redrive that is finished.

    Raises:
      ValueError: The queue is being redriven, or the plan makes no sense.
      NotFound: The target is not there.
    """
    where = queue.vhost.described("queue", queue.name)
    known = look(queue)
    if known is not None and known.state is State.RUNNING:
        raise ValueError(f"{where} is being redriven already: stop that first")
    check(queue, plan)
    queue.settle_in()
    broker = queue.vhost.broker
    made = Redrive(
        vhost=queue.vhost.name,
        queue=queue.name,
        state=State.RUNNING,
        plan=plan,
        started=broker.wall,
        ended=None,
        after=-1,
        end=queue.next_position,
    )
    return _change(queue, made)


def look(queue: Queue) -> Redrive | None:
    """Return the redrive of a queue, running or the last there was; None if there was none."""
    note = queue.vhost.broker.notes.get(_owner(queue), NAME).get(KEY)
    return None if note is None else _read(queue, note)


def stop(queue: Queue) -> Redrive | None:
    """Stop the redrive of a queue, which may be resumed; return it as it stands, None without."""
    known = look(queue)
    if known is None or known.state is not State.RUNNING:
        return known
    return _change(queue, replace(known, state=State.STOPPED, ended=queue.vhost.broker.wall))


def resume(queue: Queue) -> Redrive:
    """Have a redrive that was stopped go on.

    Raises:
      ValueError: There is none.
    """
    known = look(queue)
    if known is None or known.state is not State.STOPPED:
        where = queue.vhost.described("queue", queue.name)
        raise ValueError(f"no redrive of {where} was stopped")
    return _change(queue, replace(known, state=State.RUNNING, ended=None))


def redrives(broker: Broker) -> list[Redrive]:
    """Return the redrives of all queues that have or had one."""
    queues = [broker.vhosts[vhost].queues.get(name) for vhost, _, name in broker.notes.owners(NAME)]
    found = [look(queue) for queue in queues if queue is not None]
    return [each for each in found if each is not None]


def _owner(queue: Queue) -> Owner:
    return queue.vhost.name, "queue", queue.name


def _read(queue: Queue, note: bytes) -> Redrive:
    known = json.loads(note)
    plan = known.pop("plan")
    target, wanted = plan.pop("target"), DeathFilter(**plan.pop("wanted"))
    return Redrive(
        **{**known, "vhost": queue.vhost.name, "queue": queue.name, "state": State(known["state"])},
        plan=Plan(target=None if target is None else Target(**target), wanted=wanted, **plan),
    )


def _keep(queue: Queue, redrive: Redrive) -> None:
    note = json.dumps(redrive.as_json()).encode()
    queue.vhost.broker.notes.put(_owner(queue), NAME, KEY, note)


def _change(queue: Queue, redrive: Redrive) -> Redrive:
    """Keep a redrive that begins, goes on or ends, and have the queue act on it."""
    vhost = queue.vhost
    _keep(queue, redrive)
    vhost.refit(queue, is_forced=True)
    vhost.broker.events.emit("redrive.changed", vhost=vhost, queue=queue, redrive=redrive)
    return redrive


# Walking


class Redriving(QueueHook):
    """A redrive that runs: it stays with its queue as long as it does."""

    _timer: Timer | None = None
    _is_closed = False
    _due = 0.0  # when the last step was due

    def refit(self) -> None:
        """Begin, unless it has begun."""
        if self._timer is None:
            now = self.queue.vhost.broker.now
            self._due = now
            self._timer = self.queue.vhost.broker.timers.at(now + 1, self._step)

    def close(self) -> None:
        """Do nothing more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _step(self) -> None:
        known = look(self.queue)
        assert known is not None
        rate = known.plan.rate
        limit = STEP if rate is None else max(1, min(STEP, int(rate * TICK_S)))
        after = "" if known.after < 0 else str(known.after)
        wanted = known.plan.wanted
        peek(
            self.queue,
            self._seen,
            after=after,
            limit=limit,
            wanted=None if wanted == DeathFilter() else wanted,
        )

    def _seen(self, page: Page) -> None:
        """Move the messages of a page, and note how far that is."""
        queue = self.queue
        known = None if self._is_closed or queue.deleted else look(queue)
        if known is None:
            return
        counts = Counter(
            self._pass_on(known.plan, each) for each in page.messages if each.position < known.end
        )
        counts[Outcome.GONE] += page.gone
        is_over = page.next is None or int(page.next) >= known.end - 1
        known = replace(
            known,
            after=known.end - 1 if page.next is None or is_over else int(page.next),
            moved=known.moved + counts[Outcome.DONE],
            unroutable=known.unroutable + counts[Outcome.UNROUTABLE],
            refused=known.refused + counts[Outcome.REFUSED],
            forbidden=known.forbidden + counts[Outcome.FORBIDDEN],
            gone=known.gone + counts[Outcome.GONE],
        )
        if is_over:
            ended = queue.vhost.broker.wall
            _change(queue, replace(known, state=State.FINISHED, ended=ended))
        else:
            _keep(queue, known)
            self._go_on(known.plan.rate, counts[Outcome.DONE])

    def _pass_on(self, plan: Plan, sighting: Sighting) -> Outcome:
        passage = plan.passage(sighting.message)
        if passage is None:
            return Outcome.UNROUTABLE
        return pass_on(self.queue, sighting.position, passage, plan.user)

    def _go_on(self, rate: float | None, moved: int) -> None:
        now = self.queue.vhost.broker.now
        if rate is not None:
            self._due = max(self._due, now - SLACK_MS) + moved * 1000 / rate
        assert self._timer is not None
        self._timer.move(max(ceil(self._due), now + 1))


def _choose(queue: Queue) -> type[QueueHook] | None:
    note = queue.vhost.broker.notes.get(_owner(queue), NAME).get(KEY)
    if note is None or queue.is_hidden:
        return None
    return Redriving if _read(queue, note).state is State.RUNNING else None


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    from leveret.broker.plugins.redrive_resources import ROUTES

    registry.queue_hook(_choose, phase=Phase.WATCH)
    for each in ROUTES:
        registry.resource(each)

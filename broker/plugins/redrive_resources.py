"""Redrives as resources: started, seen, stopped and resumed by requests.

Law: who reads a queue may redrive it; what is published is published on their behalf, also after
a restart, and what they may not publish stays where it is.

Called by: redrive (registers them).
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from leveret.broker.core.filter import Filter
from leveret.broker.core.lookups import FILTER, LATEST, filter_of, queue_of
from leveret.broker.core.resources import (
    Answer,
    Fields,
    Refused,
    Request,
    Response,
    Route,
    answering,
    not_found,
)
from leveret.broker.plugins import redrive
from leveret.broker.plugins.passage import TARGET, respond, target_of
from leveret.broker.plugins.redrive_plan import HIGHEST_RATE, DeathFilter, Plan, dry_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.queue import Queue
    from leveret.broker.plugins.redrive import Redrive

DEATH = ("reason", "died_in", "died_before", "died_after")
PLAN = ("rate", "keeps_deaths")


def _plan(request: Request) -> tuple[Plan, bool]:
    """Return what a request asks for, and whether it is a dry run."""
    body = {} if request.body is None else request.body
    given = Fields(body, (*TARGET, *FILTER, *DEATH, *PLAN, "dry_run"))
    like = filter_of(given) or Filter()
    wanted = DeathFilter(
        **{each.name: getattr(like, each.name) for each in fields(like)},
        reason=given.text("reason"),
        queue=given.text("died_in"),
        died_before=given.integer("died_before", 0, LATEST),
        died_after=given.integer("died_after", 0, LATEST),
    )
    plan = Plan(
        target=target_of(given),
        wanted=wanted,
        rate=given.number("rate", 0, HIGHEST_RATE),
        keeps_deaths=given.boolean("keeps_deaths"),
        user=request.user,
    )
    return plan, given.boolean("dry_run") is True


@answering
def start_redrive(request: Request, broker: Broker) -> Answer:
    """Start to redrive a queue, or with ``dry_run`` answer what that would do."""
    plan, is_dry = _plan(request)
    queue = queue_of(request, broker, "read")
    if is_dry:
        return respond(
            lambda tell: dry_run(
                queue, plan, lambda preview: tell(Response(200, preview.as_json()))
            )
        )
    _refuse_second(queue)
    return respond(lambda tell: tell(Response(202, redrive.start(queue, plan).as_json())))


def _refuse_second(queue: Queue) -> None:
    known = redrive.look(queue)
    if known is not None and known.state is redrive.State.RUNNING:
        reason = f"queue '{queue.name}' in vhost '{queue.vhost.name}' is being redriven already"
        raise Refused(409, "conflict", reason)


@answering
def show_redrive(request: Request, broker: Broker) -> Answer:
    """Answer the redrive of a queue as it stands."""
    return _shown(queue_of(request, broker, "read"), redrive.look)


@answering
def stop_redrive(request: Request, broker: Broker) -> Answer:
    """Stop the redrive of a queue."""
    return _shown(queue_of(request, broker, "read"), redrive.stop)


@answering
def resume_redrive(request: Request, broker: Broker) -> Answer:
    """Have a redrive that was stopped go on, on behalf of who began it."""
    queue = queue_of(request, broker, "read")
    known = redrive.look(queue)
    if known is not None and known.state is not redrive.State.STOPPED:
        reason = f"the redrive of queue '{queue.name}' in vhost '{queue.vhost.name}' is not stopped"
        raise Refused(409, "conflict", f"{reason} but {known.state}")
    return _shown(queue, lambda queue: known and redrive.resume(queue))


def _shown(queue: Queue, find: Callable[[Queue], Redrive | None]) -> Answer:
    found = find(queue)
    if found is None:
        raise not_found(f"queue '{queue.name}' in vhost '{queue.vhost.name}' has no redrive")
    return Response(200, found.as_json())


@answering
def list_redrives(request: Request, broker: Broker) -> Answer:
    """Answer the redrives of all queues that the user may read."""
    check = broker.users.check
    found = [
        each
        for each in redrive.redrives(broker)
        if check(request.user, each.vhost, "read", each.queue)
    ]
    return Response(200, [each.as_json() for each in found])


REDRIVE = "/api/leveret/queues/{vhost}/{name}/redrive"

ROUTES = (
    Route("POST", REDRIVE, start_redrive, "management"),
    Route("GET", REDRIVE, show_redrive, "management"),
    Route("DELETE", REDRIVE, stop_redrive, "management"),
    Route("POST", f"{REDRIVE}/resume", resume_redrive, "management"),
    Route("GET", "/api/leveret/redrives", list_redrives, "management"),
)

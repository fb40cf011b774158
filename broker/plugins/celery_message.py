"""Celery's messages: what a task or a remote control command says of itself.

Law: pure functions of a message, which stays as it is. What does not look exactly as Celery writes
it is nobody's business here: the answer is "nothing", and the message goes its way untouched.

A task of protocol 2 says it in headers, one of protocol 1 in its body, which is read if it is JSON.
Times are ISO 8601; without an offset they are UTC, whatever the worker's `timezone` setting is.

What a worker makes of a task that was held for it:

- It gets the task at or after its `eta` and runs it at once; for that moment it asks for one more
  task in its place, as for every task with an `eta`. One that comes early (a policy that ended,
  clocks that differ) waits inside the worker as with any other broker, so none ever runs early.
- It compares `expires` with its own clock when the task arrives and when it starts. Celery also
  publishes the time that is left as the property `expiration`, so that a queue expires the task
  even if nobody reads the header; the header counts for clients that leave the property away.
- A worker that discards an expired task writes the state REVOKED to the result backend and sends
  the event `task-revoked`. A broker knows no backend: the state of a task that expired here stays
  PENDING, `result.get()` waits until its timeout, and a chord with such a task never runs its body.
- Of a revoked task the workers write REVOKED themselves when they hear the command, whether they
  hold the task or not (Celery 5.7; not to `rpc://`). If none was up, the state stays PENDING; the
  task is gone all the same, whereas any other broker would run it.

Called by: plugins.celery_eta.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, cast

from leveret.protocol.errors import FrameError
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leveret.broker.core.message import Message

# A longer body is not parsed, as parsing must not hold up everybody: about 10 ms for these octets.
BODY_LIMIT = 1 << 19
CONTROL_SUFFIX = ".pidbox"  # of an exchange that is named after the setting control_exchange

# Keys of headers with the tag of the value, S for a string and V for none, as Celery writes all of
# them. Most tasks have no times; that is seen from the octets, in a third of a microsecond.
_TASK, _ETA, _EXPIRES = b"\x04taskS", b"\x03etaS", b"\x07expiresS"
_UNTIMED = b"\x03etaV\x07expiresV"
_has_times = re.compile(rb'"(?:eta|expires)"\s*:\s*"').search  # the same of a body in JSON
_JSON = "application/json"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Task(NamedTuple):
    """A task with something to heed in time; one of the times may be `None`.

    Attributes:
      id: What `revoke` calls it.
      eta_ms: When it may run, in ms since 1970, rounded up.
      expires_ms: When it must not start any more, likewise.
    """

    id: str
    eta_ms: int | None
    expires_ms: int | None


def read(message: Message) -> Task | None:
    """Return the task in a message, if it has an `eta` or `expires`.

    `None` is a message to leave alone: no task, one without times, or one that cannot be read.
    """
    header = message.header
    if _UNTIMED in header:
        return None
    if _TASK in header:
        if _ETA in header or _EXPIRES in header:
            return _task(_headers(message))
        return None
    if message.size > BODY_LIMIT:
        return None
    body = message.body
    if b'"task"' in body and _has_times(body):
        return _task(_parsed(message, body))
    return None


def task_id(message: Message) -> str | None:
    """Return what `revoke` calls the task in a message; None if it is none, or cannot be read."""
    if _TASK in message.header:
        return _id(_headers(message))
    if message.size > BODY_LIMIT or b'"task"' not in (body := message.body):
        return None
    return _id(_parsed(message, body))


def revoked(message: Message) -> list[str]:
    """Return the ids of the tasks that a broadcast to all workers revokes.

    One that names its workers revokes nothing here, as nobody knows yet who would run a task that
    waits. Nor does a revocation by stamped headers.
    """
    method = message.envelope.method
    if not (isinstance(method, BasicPublish) and method.exchange.endswith(CONTROL_SUFFIX)):
        return []
    if message.size > BODY_LIMIT:
        return []
    body = message.body
    if b'"task_id"' not in body:
        return []
    command = _parsed(message, body)
    if command.get("method") not in ("revoke", "terminate"):
        return []
    if command.get("destination") or (command.get("pattern") and command.get("matcher")):
        return []
    arguments = command.get("arguments")
    ids = arguments.get("task_id") if isinstance(arguments, dict) else None
    if not isinstance(ids, list):
        ids = [ids]
    return [each for each in ids if isinstance(each, str)]


def _headers(message: Message) -> Mapping[str, object]:
    try:
        return message.headers or {}
    except FrameError:
        return {}


def _parsed(message: Message, body: bytes) -> Mapping[str, object]:
    """Return the object that a body is in JSON; an empty one if it is anything else."""
    try:
        if message.properties.content_type != _JSON:
            return {}
        value: object = json.loads(body)
    except (FrameError, ValueError, RecursionError):
        return {}
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _task(fields: Mapping[str, object]) -> Task | None:
    known = _id(fields)
    if known is None:
        return None
    try:
        task = Task(known, _moment(fields.get("eta")), _moment(fields.get("expires")))
    except ValueError:
        return None
    return None if task.eta_ms is task.expires_ms is None else task


def _id(fields: Mapping[str, object]) -> str | None:
    name, known = fields.get("task"), fields.get("id")
    return known if isinstance(name, str) and isinstance(known, str) and known else None


def _moment(text: object) -> int | None:
    """Return an ISO 8601 time in ms since 1970, rounded up.

    Raises:
      ValueError: It is neither such a time nor `None`.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError(f"no time: {text!r}")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return -((_EPOCH - moment) // _MILLISECOND)

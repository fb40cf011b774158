"""Resources: what is asked of the broker over HTTP, and answered, without HTTP.

Law: a handler is a plain function of a request and the broker. It runs within a slice, as a command
does, and neither awaits nor knows of sockets; an answer that has to wait for something is a
`Pending`. Whoever serves HTTP mounts routes, checks the tag of each, decodes paths and bodies, ends
the slice, and writes what comes back. Bad input is answered, never raised.

Called by: core.lookups, plugins (handlers).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, ValuesView
from dataclasses import dataclass, field
from functools import wraps
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from leveret.broker.core.as_json import Json, as_json

if TYPE_CHECKING:
    from collections.abc import Collection

    from leveret.broker.core.broker import Broker

DECIMALS = 20  # digits of a number in a query
DEEPEST = 32  # levels of a table


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
      method: "GET" and so on.
      path: As it came.
      params: The variables of the route's pattern, decoded.
      query: What stands behind the question mark, decoded; of a repeated name the last.
      body: The JSON that was sent, decoded; None without one.
      user: Name of who asks.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    user: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes:
      status: HTTP's number.
      body: What is sent as JSON.
    """

    status: int
    body: Json


class Pending:
    """An answer that may come later.

    Attributes:
      response: The answer; None as long as it is not there.
    """

    def __init__(self) -> None:
        self.response: Response | None = None
        self._listener: Callable[[Response], None] | None = None

    def resolve(self, response: Response) -> None:
        """Give the answer, once."""
        assert self.response is None
        self.response = response
        if self._listener is not None:
            self._listener(response)

    def then(self, listener: Callable[[Response], None]) -> None:
        """Have somebody told of the answer: at once if it is there."""
        if self.response is not None:
            listener(self.response)
        else:
            self._listener = listener


Answer: TypeAlias = Response | Pending
Handler: TypeAlias = "Callable[[Request, Broker], Answer]"


class Route(NamedTuple):
    """Where a handler is found.

    Attributes:
      pattern: A path in which ``{name}`` stands for one segment, decoded.
      tag: Users need this tag, or one that includes it.
    """

    method: str
    pattern: str
    handler: Handler
    tag: str


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, error: str, reason: str, **details: object) -> None:
        super().__init__(reason)
        self.response = Response(
            status, {"error": error, "reason": reason, **{k: as_json(details[k]) for k in details}}
        )


def bad_field(name: str, value: object, allowed: str) -> Refused:
    """Return the refusal of a value: which field, what it is, what it may be."""
    reason = f"field '{name}' is {_shown(value)}, it must be {allowed}"
    return Refused(400, "bad_request", reason, field=name, value=value, allowed=allowed)


def not_found(reason: str) -> Refused:
    """Return the refusal of a path that leads nowhere."""
    return Refused(404, "not_found", reason)


def forbidden(reason: str) -> Refused:
    """Return the refusal of what this user may not do."""
    return Refused(403, "forbidden", reason)


def answering(handler: Handler) -> Handler:
    """Make the `Refused` that a handler raises its answer."""

    @wraps(handler)
    def answer(request: Request, broker: Broker) -> Answer:
        try:
            return handler(request, broker)
        except Refused as refusal:
            return refusal.response

    return answer


class Fields:
    """What a request says, by name, of a query or of a JSON object.

    In a query all values are text; numbers, lists and tables in it are JSON.

    Raises:
      Refused: It is no object, or has fields that nobody knows.
    """

    def __init__(self, given: object, known: Collection[str]) -> None:
        if not isinstance(given, Mapping):
            raise bad_field("body", given, "a JSON object")
        for name in given:
            if name not in known:
                raise bad_field(str(name), given[name], f"absent; known: {', '.join(known)}")
        self._given: Mapping[str, object] = given

    def text(self, name: str) -> str | None:
        """Return a text, None if it is not there."""
        value = self._given.get(name)
        if value is not None and not isinstance(value, str):
            raise bad_field(name, value, "a text")
        return value

    def required(self, name: str) -> str:
        """Return a text that has to be there."""
        value = self.text(name)
        if value is None:
            raise bad_field(name, None, "a text")
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return a number from a range, None if it is not there."""
        given = value = self._given.get(name)
        if isinstance(given, str) and given.isascii() and given.isdigit():
            value = int(given) if len(given) <= DECIMALS else given
        if value is None:
            return None
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or not low <= value <= high:  # type: ignore[operator]
            raise bad_field(name, given, f"an integer from {low} to {high}")
        return value  # type: ignore[return-value]

    def number(self, name: str, above: float, high: float) -> float | None:
        """Return a number above one and up to another, None if it is not there."""
        value = self._given.get(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not above < value <= high:  # type: ignore[operator]
            raise bad_field(name, value, f"a number above {above} and up to {high}")
        return float(value)  # type: ignore[arg-type]

    def boolean(self, name: str) -> bool | None:
        """Return whether something is so, None if it is not there."""
        value = self._given.get(name)
        if value is not None and not isinstance(value, bool):
            raise bad_field(name, value, "true or false")
        return value

    def integers(self, name: str, most: int, high: int | None = None) -> list[int] | None:
        """Return numbers from 0 on, ascending, each once; None if it is not there.

        Args:
          name: That of the field.
          most: How many they may be.
          high: The highest that each may be; None for any.
        """
        given = self._given.get(name)
        if given is None:
            return None
        value = _decoded(given)
        numbers = value if isinstance(value, list) and len(value) <= most else [None]
        last = inf if high is None else high
        if not all(type(each) is int and 0 <= each <= last for each in numbers):
            end = "on" if high is None else f"to {high}"
            raise bad_field(name, given, f"a list of at most {most} integers from 0 {end}")
        return sorted(set(numbers))

    def table(self, name: str) -> Mapping[str, object] | None:
        """Return an object, None if it is not there."""
        given = self._given.get(name)
        value = _decoded(given)
        if given is not None and (not isinstance(value, Mapping) or _is_deep(value, DEEPEST)):
            raise bad_field(name, given, f"a JSON object of at most {DEEPEST} levels")
        return value  # type: ignore[return-value]


def _decoded(given: object) -> object:
    """Return what a text of a query says as JSON; what is none stays as it is."""
    if isinstance(given, str):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given
    return given


def _is_deep(value: object, levels: int) -> bool:
    """Whether a value is nested deeper than so many levels."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(inner, list | ValuesView):
        return False
    return not levels or any(_is_deep(each, levels - 1) for each in inner)


def _shown(value: object) -> str:
    return "absent" if value is None else json.dumps(as_json(value))

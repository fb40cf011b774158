"""Reasons: why a binding takes a message, or does not.

Law: a verdict comes from the exchange type itself, asked about one binding alone, and only the
words are made here. A type that chooses among its bindings (by a hash, at random) has no reason
to give for one of them; a plugin whose type has one registers it: `why.register(Type)`.

Called by: core.explain.
"""

from __future__ import annotations

from functools import singledispatch
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from leveret.broker.core.arguments import term
from leveret.broker.core.exchange_types import (
    X_MATCH,
    Direct,
    ExchangeType,
    Fanout,
    Headers,
    Topic,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.binding import Binding
    from leveret.broker.core.exchange import Table

SHOWN = 5  # routing keys, or headers, that a reason names
END = "the end"


class Why(NamedTuple):
    """Whether a binding takes a message, and the reason."""

    is_match: bool
    reason: str


@singledispatch
def why(
    kind: ExchangeType, binding: Binding, keys: Sequence[str], headers: Table | None
) -> Why | None:
    """Return why a binding of an exchange of this type takes a message, or does not.

    Returns:
      None if the type cannot say so of one binding.
    """
    return None


@why.register(Fanout)
def _(kind: Fanout, binding: Binding, keys: Sequence[str], headers: Table | None) -> Why:
    return Why(True, "a fanout exchange passes everything on")


@why.register(Direct)
def _(kind: Direct, binding: Binding, keys: Sequence[str], headers: Table | None) -> Why:
    key = _first_taken(Direct({}), binding, keys)
    if key is not None:
        return Why(True, f"routing key '{key}' equals the binding key")
    return Why(False, f"{_named(keys)} is not '{binding.routing_key}'")


@why.register(Topic)
def _(kind: Topic, binding: Binding, keys: Sequence[str], headers: Table | None) -> Why:
    key = _first_taken(Topic({}), binding, keys)
    if key is not None:
        return Why(True, f"routing key '{key}' fits '{binding.routing_key}'")
    reasons = [_difference(binding.routing_key, key) for key in keys[:SHOWN]]
    return Why(False, "; ".join(reasons) + _more(len(keys)))


@why.register(Headers)
def _(kind: Headers, binding: Binding, keys: Sequence[str], headers: Table | None) -> Why:
    arguments = binding.arguments
    is_match = _takes(Headers({}), binding.routing_key, arguments, "", headers)
    mode = str(arguments.get(X_MATCH, "all"))
    wanted = {
        name: value
        for name, value in arguments.items()
        if (name != X_MATCH if mode.endswith("-with-x") else not name.startswith("x-"))
    }
    if not wanted:
        asked = "all of no headers are there" if is_match else "any of no headers is never there"
        return Why(is_match, f"x-match '{mode}': {asked}")
    fitting = {name: _fits(name, value, headers) for name, value in wanted.items()}
    told = [name for name, fits in fitting.items() if fits is is_match]
    words = [_about(name, wanted[name], headers, is_match) for name in told[:SHOWN]]
    return Why(is_match, f"x-match '{mode}': " + "; ".join(words) + _more(len(told)))


_SOMEBODY = cast("Any", "a destination")


def _takes(
    lone: ExchangeType, binding_key: str, arguments: Table, key: str, headers: Table | None
) -> bool:
    """Whether an exchange with this binding alone would pass a message on."""
    lone.bind(binding_key, arguments, _SOMEBODY)
    return any(True for _ in lone.match(key, headers))


def _first_taken(lone: ExchangeType, binding: Binding, keys: Sequence[str]) -> str | None:
    lone.bind(binding.routing_key, binding.arguments, _SOMEBODY)
    return next((key for key in keys if any(True for _ in lone.match(key, None))), None)


def _fits(name: str, value: object, headers: Table | None) -> bool:
    return _takes(Headers({}), "", {X_MATCH: "all-with-x", name: value}, "", headers)


def _about(name: str, wanted: object, headers: Table | None, is_match: bool) -> str:
    if is_match:
        return f"header '{name}' is {'there' if wanted is None else term(wanted)}"
    if name not in (headers or {}):
        return f"header '{name}' is missing"
    assert headers is not None
    return f"header '{name}' is {term(headers[name])}, not {term(wanted)}"


def _difference(binding_key: str, routing_key: str) -> str:
    """Return in words where a routing key leaves a binding key that it does not fit."""
    pattern, words = _words(binding_key), _words(routing_key)
    for number, (wanted, word) in enumerate(zip_longest(pattern, words), 1):
        if wanted == "#":
            break  # from here on there are many ways, and none of them fits
        if wanted is None or word is None or wanted not in ("*", word):
            return f"word {number} of '{routing_key}' is {_word(word)}, not {_word(wanted)}"
    return f"'{routing_key}' does not end as '{binding_key}' does"


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _word(word: str | None) -> str:
    return END if word is None else f"'{word}'"


def _named(keys: Sequence[str]) -> str:
    return ", ".join(f"'{key}'" for key in keys[:SHOWN]) + _more(len(keys))


def _more(count: int) -> str:
    return f" and {count - SHOWN} more" if count > SHOWN else ""

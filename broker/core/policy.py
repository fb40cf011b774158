"""Policies: settings for the queues and exchanges whose names match a pattern.

Law: at most one policy and one operator policy apply to an object: the highest priority wins,
between equals the first name. An operator's numbers can only lower what a policy asks for, and
a policy's numbers can only lower what x-arguments ask for; one below 0 means that there is no
limit. A change is told as an event; to put again what is there is none.

Called by: core.vhost (effective), core.settings (lower), entries (put).
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from leveret.broker.core.patterns import PatternError, compile_pattern
from leveret.protocol.constants import TEN_YEARS_MS

if TYPE_CHECKING:
    import re

Kind = Literal["exchange", "classic_queue", "quorum_queue"]

LONGEST_KEY = 255  # octets

APPLY_TO: Mapping[str, tuple[Kind, ...]] = {
    "all": ("exchange", "classic_queue", "quorum_queue"),
    "exchanges": ("exchange",),
    "queues": ("classic_queue", "quorum_queue"),
    "classic_queues": ("classic_queue",),
    "quorum_queues": ("quorum_queue",),
    "streams": (),  # valid in an export; there are no streams for it to match
}

EMPTY: Mapping[str, object] = MappingProxyType({})

Check: TypeAlias = Callable[[object], str | None]
"""Returns what would have been right, None for a value that is."""


class PolicyError(ValueError):
    """A policy that cannot be set as asked."""


def _integer(low: int, high: int | None = None) -> Callable[[object], str | None]:
    wanted = f"an integer from {low}" + (f" to {high}" if high is not None else "")

    def check(value: object) -> str | None:
        good = type(value) is int and value >= low and (high is None or value <= high)
        return None if good else wanted

    return check


def _one_of(*words: str) -> Callable[[object], str | None]:
    return lambda value: None if value in words else "one of " + ", ".join(words)


def _text(value: object) -> str | None:
    return None if isinstance(value, str) else "a text"


def _routing_key(value: object) -> str | None:
    is_good = isinstance(value, str) and len(value.encode()) <= LONGEST_KEY
    return None if is_good else f"a text of at most {LONGEST_KEY} octets"


def _anything(value: object) -> str | None:
    return None


# What a definition may hold. A check returns what would have been right, or None. The last
# group is known from exports and has no meaning on one node.
KEYS: dict[str, Check] = {
    "message-ttl": _integer(0, TEN_YEARS_MS),
    "expires": _integer(1, TEN_YEARS_MS),
    "max-length": _integer(0),
    "max-length-bytes": _integer(0),
    "overflow": _one_of("drop-head", "reject-publish", "reject-publish-dlx"),
    "dead-letter-exchange": _text,
    "dead-letter-routing-key": _routing_key,
    "dead-letter-strategy": _one_of("at-most-once", "at-least-once"),
    "delivery-limit": _integer(-1),
    "consumer-timeout": _integer(0, TEN_YEARS_MS),
    "alternate-exchange": _text,
    "queue-mode": _one_of("default", "lazy"),
    "queue-version": _integer(1, 2),
    "max-in-memory-length": _integer(0),
    "max-in-memory-bytes": _integer(0),
    "queue-leader-locator": _text,
    "queue-master-locator": _text,
    "target-group-size": _integer(1),
    "max-age": _text,
    "stream-max-segment-size-bytes": _integer(0),
    "federation-upstream": _text,
    "federation-upstream-set": _text,
    "federation-upstream-pattern": _text,
    "ha-mode": _text,
    "ha-params": _anything,
    "ha-sync-mode": _text,
    "ha-sync-batch-size": _integer(0),
    "ha-promote-on-shutdown": _text,
    "ha-promote-on-failure": _text,
}

# What does something without a plugin. Of the others that no plugin makes effective users are told.
EFFECTIVE = frozenset({"alternate-exchange"})

SMALLER_WINS = frozenset(
    {
        "message-ttl",
        "expires",
        "max-length",
        "max-length-bytes",
        "max-in-memory-length",
        "max-in-memory-bytes",
        "delivery-limit",
        "target-group-size",
    }
)


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule: these settings for objects of this kind whose name the pattern finds."""

    name: str
    pattern: str
    definition: Mapping[str, object] = field(hash=False)
    apply_to: str = "all"
    priority: int = 0

    def matches(self, kind: Kind, name: str) -> bool:
        """Tell whether the policy is about this object."""
        return kind in APPLY_TO[self.apply_to] and bool(compile_pattern(self.pattern).search(name))


def check_policy(policy: Policy, keys: Mapping[str, Check] = KEYS) -> None:
    """Raise a PolicyError for a policy that means nothing or would take too long to match."""
    place = f"policy '{policy.name}'"
    if policy.apply_to not in APPLY_TO:
        known = ", ".join(APPLY_TO)
        raise PolicyError(f"{place}: apply-to '{policy.apply_to}' is not one of {known}")
    try:
        compile_pattern(policy.pattern)
    except PatternError as error:
        raise PolicyError(f"{place}: {error}") from None
    if not policy.definition:
        raise PolicyError(f"{place}: the definition is empty")
    for key, value in policy.definition.items():
        if key not in keys:
            raise PolicyError(f"{place}: unknown key '{key}' in its definition")
        if wanted := keys[key](value):
            raise PolicyError(f"{place}: '{key}' is {value!r}, it must be {wanted}")


def _tell_nobody(name: str, **fields: object) -> None:
    pass


class Known(Protocol):
    """What keys there are: a registry.

    Attributes:
      policy_keys: What a definition may hold.
      smaller_wins: Keys of which the smaller number counts.
    """

    policy_keys: dict[str, Check]
    smaller_wins: set[str]


class Policies:
    """The policies and operator policies of one virtual host."""

    def __init__(
        self, emit: Callable[..., None] = _tell_nobody, known: Known | None = None
    ) -> None:
        self._emit = emit
        self._keys = KEYS if known is None else known.policy_keys
        self._smaller_wins = SMALLER_WINS if known is None else known.smaller_wins
        self._policies: dict[str, Policy] = {}
        self._operator_policies: dict[str, Policy] = {}
        # by kind and whose they are, in the order in which they are tried; made when asked for
        self._ordered: dict[tuple[Kind, bool], list[tuple[re.Pattern[str], Policy]]] = {}

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._policies.values())

    @property
    def operator_policies(self) -> Iterator[Policy]:
        """The rules set by whoever runs the broker, which bound everybody else's."""
        return iter(self._operator_policies.values())

    def put(self, policy: Policy, *, operator: bool = False) -> None:
        """Add a policy or replace the one of that name."""
        check_policy(policy, self._keys)
        table = self._table(operator)
        if table.get(policy.name) != policy:
            table[policy.name] = policy
            self._ordered.clear()
            self._emit("policy.changed", policy=policy, operator=operator)

    def delete(self, name: str, *, operator: bool = False) -> None:
        """Remove a policy; KeyError if there is none of that name."""
        policy = self._table(operator).pop(name)
        self._ordered.clear()
        self._emit("policy.deleted", policy=policy, operator=operator)

    def match(self, kind: Kind, name: str, *, operator: bool = False) -> Policy | None:
        """Return the one policy that applies to an object."""
        ordered = self._ordered.get((kind, operator))
        if ordered is None:
            ordered = self._ordered[kind, operator] = _in_order(self._table(operator), kind)
        return next((policy for pattern, policy in ordered if pattern.search(name)), None)

    def effective(self, kind: Kind, name: str) -> Mapping[str, object]:
        """Return the settings that policies give an object; often the shared empty mapping."""
        policy = self.match(kind, name) if self._policies else None
        operator = self.match(kind, name, operator=True) if self._operator_policies else None
        if operator is None:
            return policy.definition if policy is not None else EMPTY
        weak = policy.definition if policy else EMPTY
        return _merge(weak, operator.definition, self._smaller_wins)

    def _table(self, operator: bool) -> dict[str, Policy]:
        return self._operator_policies if operator else self._policies


def _in_order(table: Mapping[str, Policy], kind: Kind) -> list[tuple["re.Pattern[str]", Policy]]:
    """Return the policies that may apply to a kind, the first that matches being the one."""
    found = [policy for policy in table.values() if kind in APPLY_TO[policy.apply_to]]
    found.sort(key=lambda policy: (-policy.priority, policy.name))
    return [(compile_pattern(policy.pattern), policy) for policy in found]


def lower(one: int, other: int) -> int:
    """Return the lower of two limits, of which one below 0 is none.

    >>> lower(3, 5), lower(-1, 5), lower(-1, -1)
    (3, 5, -1)
    """
    return max(one, other) if one < 0 or other < 0 else min(one, other)


def _merge(
    weak: Mapping[str, object], strong: Mapping[str, object], smaller_wins: Set[str]
) -> dict[str, object]:
    merged = {**weak, **strong}
    for key in smaller_wins & weak.keys() & strong.keys():
        ours, theirs = weak[key], strong[key]
        if isinstance(ours, int) and isinstance(theirs, int):
            merged[key] = lower(ours, theirs)
    return merged

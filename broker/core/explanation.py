"""Explanations: what `explain` answers, as values.

Law: nothing here refers to a live object of the broker; `as_json` is all that goes out of it.

Called by: core.explain (makes them), core.lookups (shows them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from leveret.broker.core.as_json import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leveret.broker.core.as_json import Json

Verdict = Literal["routed", "unroutable", "refused"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is asked before a message is routed.

    Attributes:
      subject: What is asked about: "vhost", "user", "permission", "topic permission" and so on.
      is_passed: The answer.
      reason: What it follows from.
    """

    subject: str
    is_passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What applies to an exchange or queue.

    Attributes:
      policy: Name of the policy that matches, None without one.
      operator_policy: Name of the operator policy.
      arguments: What it was declared with.
      effective: What all of these come to, under the names of policies.
    """

    policy: str | None
    operator_policy: str | None
    arguments: Mapping[str, object]
    effective: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class BindingVerdict:
    """One binding that was considered."""

    destination: str
    destination_kind: str
    routing_key: str
    arguments: Mapping[str, object]
    is_match: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Visit:
    """One exchange that the message comes to.

    Attributes:
      reached_from: The exchange that leads here, None for the one published to.
      is_alternate: Whether it leads here because it could not route the message itself.
      hooks: What plugins do with its messages, by name; they may keep or swallow this one.
      bindings: Those considered, those to where the message goes first.
      bindings_left_out: How many more it has.
      leads_to: How many destinations get the message from here.
      leads_back_to: Those of them that are exchanges found before: they are not visited again.
      alternate: The alternate exchange, None without one.
      alternate_reason: Why it is used, or not.
    """

    name: str
    type: str
    internal: bool
    reached_from: str | None
    is_alternate: bool
    settings: Settings
    hooks: tuple[str, ...]
    bindings: tuple[BindingVerdict, ...]
    bindings_left_out: int
    leads_to: int
    leads_back_to: tuple[str, ...]
    alternate: str | None
    alternate_reason: str


@dataclass(frozen=True, slots=True)
class QueueVerdict:
    """One queue that gets the message.

    Attributes:
      path: The exchanges that lead to it, first the one published to.
      hooks: Those that are asked whether the message may come in, by name.
    """

    name: str
    path: tuple[str, ...]
    settings: Settings
    hooks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a publish is refused.

    Attributes:
      code: The reply code that the publisher's channel would be closed with.
      text: The reason, as the check tells it.
    """

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a publish.

    Attributes:
      verdict: "refused" by a check, "unroutable", or "routed".
      routing_keys: The message's own, then those of CC and BCC.
      checks: In the order they are made, up to the first that fails.
      refusal: The error, if it is refused; it is not routed then.
      exchanges: Those visited, in order.
      exchanges_left_out: How many more were visited.
      queues: Those that get it, in the order they are found.
      queues_left_out: How many more get it.
      depends_on_headers: Whether other headers might lead elsewhere.
      if_mandatory: What the flag "mandatory" would change.
    """

    verdict: Verdict
    vhost: str
    user: str
    exchange: str
    routing_keys: tuple[str, ...]
    checks: tuple[Check, ...]
    refusal: Refusal | None
    exchanges: tuple[Visit, ...]
    exchanges_left_out: int
    queues: tuple[QueueVerdict, ...]
    queues_left_out: int
    depends_on_headers: bool
    if_mandatory: str

    def as_json(self) -> Json:
        """Return it as `json.dumps` takes it."""
        return as_json(self)

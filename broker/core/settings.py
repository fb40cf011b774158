"""Settings: what x-arguments and policies together say about a queue or exchange.

Law: settings go by the names of policy keys. Where argument and policy both give a number whose
smaller value counts (a length, a time to live), the smaller one does; of all others the argument
wins (RabbitMQ's rule). An argument that would be refused today says nothing: it was stored when
nobody knew it, or when it was not checked as it is now.

Called by: core.fitting (when something is declared, when policies change).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.policy import lower
from leveret.broker.core.registry import policy_key
from leveret.protocol.wire import EMPTY_TABLE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from leveret.broker.core.arguments import Argument


def settings(
    arguments: Mapping[str, object],
    table: Mapping[str, Argument],
    policy: Mapping[str, object],
    smaller_wins: Collection[str],
) -> Mapping[str, object]:
    """Return what counts, under the names of policy keys; often the shared empty mapping.

    Args:
      arguments: The x-arguments it was declared with.
      table: Those that mean something.
      policy: What policies and operator policies say together.
      smaller_wins: Keys of which the smaller number counts.
    """
    if not arguments:
        return policy or EMPTY_TABLE
    found = dict(policy)
    for name, argument in table.items():
        if name in arguments and argument.validate(arguments[name], arguments) is None:
            key, value = policy_key(name), arguments[name]
            other = policy.get(key)
            if key in smaller_wins and isinstance(other, int) and isinstance(value, int):
                value = lower(value, other)
            found[key] = value
    return found or EMPTY_TABLE

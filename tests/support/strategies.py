"""Both strategies of queues: what a test of one must say of the other, too.

A module that sets `BOTH_STRATEGIES` has each of its tests run with plain and with hooked queues.
"""

import pytest

from leveret.broker.core.hooks import Phase, QueueHook
from leveret.broker.core.registry import Registry

STRATEGIES = ("plain", "hooked")
# Marks a test of such a module that is about what only plain queues do.
plain_only = pytest.mark.parametrize("strategy", ["plain"], indirect=True)


class Neutral(QueueHook):
    """Makes a queue a hooked one, and does nothing."""

    is_deep = True


def registry(strategy: str) -> Registry:
    """Return a registry with which all queues are of a strategy."""
    made = Registry()
    if strategy == "hooked":
        made.queue_hook(lambda queue: Neutral, phase=Phase.WATCH)
    return made

"""Random exchanges: each message goes to one destination, whichever comes up.

Law: every binding has the same chance, so a destination that is bound twice gets twice as much;
neither routing keys nor binding keys count. `x-local-random` is RabbitMQ 4's choice among the
queues on the node of the publisher, which here are all of them; it takes no binding keys.

Called by: core.exchange, through the registry.
"""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING

from leveret.broker.core.exchange_types import ExchangeType
from leveret.protocol.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leveret.broker.core.exchange import Destination
    from leveret.broker.core.exchange_types import Table
    from leveret.broker.core.message import Message
    from leveret.broker.core.registry import Registry


class Random(ExchangeType):
    """Any one of the destinations."""

    name = "x-random"
    uses_message = True

    def __init__(self, arguments: Table) -> None:
        self._destinations: list[Destination] = []

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        self._destinations.append(destination)

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        self._destinations.remove(destination)

    def match_message(
        self, routing_keys: Sequence[str], message: Message | None
    ) -> Iterable[Destination]:
        destinations = self._destinations
        if not destinations:
            return ()
        return (destinations[int(random() * len(destinations))],)


class LocalRandom(Random):
    """Any one of the destinations, which all are on this node."""

    name = "x-local-random"

    def check_binding(self, binding_key: str, arguments: Table) -> None:
        if binding_key:
            raise PreconditionFailed(f"Non empty binding ({binding_key}) key not permitted")


def register(registry: Registry) -> None:
    """Add the types to those that exchanges may be declared with."""
    registry.exchange_type(Random)
    registry.exchange_type(LocalRandom)

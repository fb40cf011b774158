"""Modulus hash: the hash of the routing key, modulo the number of bindings, says where to.

Law: the bindings stand in the order of their keys and names, so the same bindings make the same
choice whenever and in whatever order they were made. When their number changes, nearly all keys
move: `x-consistent-hash` is the type for those who mind.

Called by: core.exchange, through the registry.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING
from zlib import crc32

from leveret.broker.core.exchange import Exchange
from leveret.broker.core.exchange_types import ExchangeType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leveret.broker.core.exchange import Destination
    from leveret.broker.core.exchange_types import Table
    from leveret.broker.core.registry import Registry


class ModulusHash(ExchangeType):
    """One destination for each routing key; one that is bound twice gets twice as many."""

    name = "x-modulus-hash"
    uses_key = False  # CC and BCC lead nowhere else

    def __init__(self, arguments: Table) -> None:
        self._places: list[tuple[str, bool, str]] = []  # in order, and whose they are:
        self._destinations: list[Destination] = []

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        place = _place(binding_key, destination)
        index = bisect_left(self._places, place)
        self._places.insert(index, place)
        self._destinations.insert(index, destination)

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        index = bisect_left(self._places, _place(binding_key, destination))
        del self._places[index]
        del self._destinations[index]

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        destinations = self._destinations
        if not destinations:
            return ()
        return (destinations[crc32(routing_key.encode()) % len(destinations)],)


def _place(binding_key: str, destination: Destination) -> tuple[str, bool, str]:
    return binding_key, isinstance(destination, Exchange), destination.name


def register(registry: Registry) -> None:
    """Add the type to those that exchanges may be declared with."""
    registry.exchange_type(ModulusHash)

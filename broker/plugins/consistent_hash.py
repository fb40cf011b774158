"""Consistent hash: each routing key, header or property has one destination, which it keeps.

Law: the choice follows from the names and weights of the destinations and from nothing else: not
from the order in which they were bound, the process or its past. A destination that comes or goes
takes or leaves its share of the keys and moves no others, or, where weights are mixed, fewer
others than that.

A binding key is a weight, and a destination bound several times has the sum. A weight is a sum of
powers of two, and all destinations that have a power share a circle: there each has equally many
points, and the first point behind the hash of a key owns it. Where there are several circles, each
draws a number by the key, and the one that draws best for its total weight is asked. So the share
of a destination is that of its weight, to about 4 percent of it, and any weight takes at most 20
times the room of the least.

Called by: core.exchange, through the registry.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from hashlib import blake2b, shake_128
from math import log
from struct import unpack
from typing import TYPE_CHECKING, cast

from leveret.broker.core.arguments import plain, term, text
from leveret.broker.core.exchange import Exchange
from leveret.broker.core.exchange_types import ExchangeType
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.table import encode_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leveret.broker.core.exchange import Destination
    from leveret.broker.core.exchange_types import Table
    from leveret.broker.core.message import Message
    from leveret.broker.core.registry import Registry
    from leveret.protocol.wire import Value

HEADER, PROPERTY = "hash-header", "hash-property"
PROPERTIES = ("correlation_id", "message_id", "timestamp")
POINTS = 512  # of a destination on a circle; its share errs by one over their root
PLACE = (1 << 64) - 1
MAX_WEIGHT = 1_000_000


class ConsistentHash(ExchangeType):
    """One destination for each value of what is hashed."""

    name = "x-consistent-hash"
    uses_key = False  # CC and BCC lead nowhere else

    def __init__(self, arguments: Table) -> None:
        self._header = _text(arguments, HEADER)
        self._property = _text(arguments, PROPERTY)
        if self._header is not None and self._property is not None:
            raise PreconditionFailed(f"{HEADER} and {PROPERTY} are mutually exclusive")
        if self._property is not None and self._property not in PROPERTIES:
            raise PreconditionFailed(f"Unsupported property: {self._property}")
        self.uses_headers = self._header is not None
        self.uses_message = self._property is not None
        self._weights: dict[Destination, int] = {}
        self._circles: dict[int, _Circle] = {}  # by power of two

    def check_binding(self, binding_key: str, arguments: Table) -> None:
        if not re.fullmatch(r"[+-]?[0-9]+", binding_key, re.ASCII):
            raise PreconditionFailed(f"The binding key must be an integer: {term(binding_key)}")
        weight = int(binding_key)
        if weight < 1:
            raise PreconditionFailed("The binding key must be greater than 0")
        if weight > MAX_WEIGHT:
            raise PreconditionFailed(f"The binding key must be at most {MAX_WEIGHT}")

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        self._add_weight(destination, int(binding_key))

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        self._add_weight(destination, -int(binding_key))

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        value = routing_key if self._header is None else (headers or {}).get(self._header)
        return self._owner(_octets(value))

    def match_message(
        self, routing_keys: Sequence[str], message: Message | None
    ) -> Iterable[Destination]:
        assert self._property is not None
        value = None if message is None else getattr(message.properties, self._property)
        return self._owner(_octets(value))

    def _add_weight(self, destination: Destination, change: int) -> None:
        before = self._weights.pop(destination, 0)
        weight = before + change
        if weight:
            self._weights[destination] = weight
        changed = before ^ weight
        for power in range(changed.bit_length()):
            if changed >> power & 1:
                circle = self._circles.setdefault(power, _Circle(power))
                if weight >> power & 1:
                    circle.add(destination)
                else:
                    circle.remove(destination)
                    if not circle.weight:
                        del self._circles[power]

    def _owner(self, octets: bytes) -> Iterable[Destination]:
        if not self._circles:
            return ()
        number = int.from_bytes(blake2b(octets).digest())
        circles = iter(self._circles.values())
        chosen = next(circles)
        if len(self._circles) > 1:
            best = chosen.draw(number)
            for circle in circles:
                drawn = circle.draw(number)
                if drawn < best:
                    best, chosen = drawn, circle
        return (chosen.owner(number),)


class _Circle:
    """Destinations of equal weight.

    A hash has 512 bits: the lowest 64 are the place of a key on any circle, and each circle draws
    24 of the others.

    Attributes:
      weight: Of all of them.
    """

    __slots__ = ("_owners", "_points", "_power", "_shift", "weight")

    def __init__(self, power: int) -> None:
        self.weight = 0
        self._power = power
        self._shift = 64 + power % 18 * 24  # those that share theirs differ beyond measure
        self._points = array("Q")  # in order, and whose they are:
        self._owners: list[Destination] = []

    def add(self, destination: Destination) -> None:
        """Let a destination have its share."""
        self._change(destination, (destination,))
        self.weight += 1 << self._power

    def remove(self, destination: Destination) -> None:
        """Leave the share of a destination to the others."""
        self._change(destination, ())
        self.weight -= 1 << self._power

    def _change(self, destination: Destination, owner: tuple[Destination, ...]) -> None:
        """Put the points of a destination into their places, or take them out: all in one go."""
        old_points, old_owners = self._points, self._owners
        points, owners, start = array("Q"), [], 0
        for point in sorted(self._points_of(destination)):
            end = bisect_left(old_points, point, start)
            points += old_points[start:end]
            owners += old_owners[start:end]
            if owner:
                points.append(point)
                owners += owner
            start = end if owner else end + 1
        points += old_points[start:]
        owners += old_owners[start:]
        self._points, self._owners = points, owners

    def _points_of(self, destination: Destination) -> tuple[int, ...]:
        kind = "exchange" if isinstance(destination, Exchange) else "queue"
        seed = f"{self._power} {kind} {destination.name}".encode()
        return unpack(f">{POINTS}Q", shake_128(seed).digest(8 * POINTS))

    def draw(self, number: int) -> float:
        """Return a number that is the least of all circles' as often as its weight says."""
        # the first of many clocks to ring, each at the rate of its weight
        return -log(((number >> self._shift & 0xFFFFFF) + 0.5) / 0x1000000) / self.weight

    def owner(self, number: int) -> Destination:
        """Return whose a key is."""
        index = bisect_left(self._points, number & PLACE)
        return self._owners[index if index < len(self._owners) else 0]


def _octets(value: object) -> bytes:
    """Return what is hashed of a value; what is not there is a value, too."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):  # however wide it came
        return b"%d" % value
    return b"" if value is None else encode_value(cast("Value", value))


def _text(arguments: Table, name: str) -> str | None:
    """Return an argument that must be a text."""
    if name not in arguments:
        return None
    reason = text(arguments[name], arguments)
    if reason is not None:
        raise PreconditionFailed(f"invalid arg '{name}': {reason}")
    return plain(arguments[name])


def register(registry: Registry) -> None:
    """Add the type to those that exchanges may be declared with."""
    registry.exchange_type(ConsistentHash)

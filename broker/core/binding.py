"""Bindings: the rules by which an exchange passes messages on.

Law: a binding is a value. Two bindings with the same source, destination, key and arguments are
the same binding, in whatever order the arguments stand and however wide their integers are.

Called by: core.exchange, core.wiring (identity), core.exchange_types (comparable header values).
"""

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias

DestinationKind: TypeAlias = Literal["queue", "exchange"]
Identity: TypeAlias = tuple[Hashable, ...]

PLAIN = frozenset((str, int, type(None)))  # what stands for itself: almost all
NAN = ("nan",)


class Binding(NamedTuple):
    """One rule of an exchange: messages that match go to the destination.

    Attributes:
      source: Name of the exchange.
      destination: Name of the queue or exchange.
      destination_kind: Which of the two it is.
      routing_key: The binding key.
      arguments: What a headers exchange matches; others only remember them.
    """

    source: str
    destination: str
    destination_kind: DestinationKind
    routing_key: str
    arguments: Mapping[str, object]

    @property
    def identity(self) -> Identity:
        """What tells this binding from others."""
        return (
            self.source,
            self.destination_kind,
            self.destination,
            self.routing_key,
            comparable(self.arguments) if self.arguments else None,
        )


def comparable(value: object) -> Hashable:
    """Return a stand-in that is hashable, and equal when RabbitMQ calls the values equal.

    Numbers compare by value whatever their width, timestamps among them; long strings and byte
    arrays by their octets. Booleans, decimals, tables and arrays equal only their own kind. What
    is not a number equals every other such value, or else nobody could name its binding again.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, float):
        return value if value == value else NAN
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return bytes(value)
    if isinstance(value, bool | Decimal):
        return type(value).__name__, value
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return int(moment.timestamp())
    if isinstance(value, Mapping):
        return "table", frozenset((name, comparable(entry)) for name, entry in value.items())
    if isinstance(value, list | tuple):
        return "array", *map(comparable, value)
    return value

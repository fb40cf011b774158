"""Arguments: what may stand in the x-arguments of queues, exchanges and consumers.

Law: one table says which arguments are known, which values they take and whether a redeclaration
must repeat them; the texts are RabbitMQ's, word for word. Arguments that are not in the table
are remembered and otherwise ignored, as in RabbitMQ. Plugins add their own rows, or mark one of
these `effective` when they give it its meaning.

Called by: core.vhost (declare), core.settings and storage.catalog_restorer (what would be refused),
core.exchange_types (texts), core.registry and plugins (their own), amqp.*_methods.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from leveret.broker.core.binding import comparable
from leveret.protocol.constants import TEN_YEARS_MS
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.table import (
    Float32,
    Int8,
    Int16,
    Int64,
    LongInt64,
    LongString,
    Timestamp,
    UInt8,
    UInt16,
    UInt32,
)

Table: TypeAlias = Mapping[str, object]
Validator: TypeAlias = Callable[[object, Table], str | None]
"""Takes the value and all arguments; returns the reason to refuse it, or None."""

MAX_PRIORITY = 255
LONGEST_KEY = 255  # octets of a routing key

# RabbitMQ's names of the wire types, which its texts show. The first that fits counts.
TYPE_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "bool"),
    (Int8, "byte"),
    (UInt8, "unsignedbyte"),
    (Int16, "short"),
    (UInt16, "unsignedshort"),
    (UInt32, "unsignedint"),
    ((Int64, LongInt64), "long"),
    ((Timestamp, datetime), "timestamp"),
    (int, "signedint"),
    (Float32, "float"),
    (float, "double"),
    (Decimal, "decimal"),
    ((str, LongString), "longstr"),
    (bytes, "binary"),
    (Mapping, "table"),
    ((list, tuple), "array"),
)


def type_name(value: object) -> str:
    """Return the name RabbitMQ gives to the wire type of a value."""
    name = next((name for kind, name in TYPE_NAMES if isinstance(value, kind)), "void")
    if name == "signedint" and isinstance(value, int) and not -(2**31) <= value < 2**31:
        return "long"
    return name


def plain(value: object) -> str:
    """Return a value as RabbitMQ prints it between quotes: text as it is, the rest as a term."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return term(value)


def term(value: object) -> str:
    """Return a value as the Erlang term that RabbitMQ's texts show."""
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return str(int(value.timestamp()))
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        return f"{{{-exponent if isinstance(exponent, int) else 0},{''.join(map(str, digits))}}}"
    if isinstance(value, str | bytes) and not value:
        return "<<>>"
    if isinstance(value, str | bytes):
        return f'<<"{plain(value)}">>'
    if isinstance(value, Mapping):
        entries = (f"{{{term(k)},{type_name(v)},{term(v)}}}" for k, v in value.items())
        return f"[{','.join(entries)}]"
    if isinstance(value, list | tuple):
        return f"[{','.join(f'{{{type_name(v)},{term(v)}}}' for v in value)}]"
    return str(value)


# Validators


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool | Timestamp)


def integer(value: object, arguments: Table) -> str | None:
    """Any integer, of whatever width."""
    return None if _is_integer(value) else f'"expected integer, got {type_name(value)}"'


def non_negative(value: object, arguments: Table) -> str | None:
    """An integer from 0."""
    if isinstance(value, int) and _is_integer(value) and value < 0:
        return f"{{value_negative,{value}}}"
    return integer(value, arguments)


def milliseconds(value: object, arguments: Table) -> str | None:
    """A duration from 0 to ten years."""
    if isinstance(value, int) and _is_integer(value) and value > TEN_YEARS_MS:
        return f"{{value_too_large,{value}}}"
    return non_negative(value, arguments)


def positive_milliseconds(value: object, arguments: Table) -> str | None:
    """A duration above 0, to ten years."""
    reason = milliseconds(value, arguments)
    return "{value_zero,0}" if reason is None and value == 0 else reason


def max_priority(value: object, arguments: Table) -> str | None:
    """An integer from 0 to 255."""
    reason = non_negative(value, arguments)
    if reason is None and isinstance(value, int) and value > MAX_PRIORITY:
        return f"{{max_value_exceeded,{value}}}"
    return reason


def boolean(value: object, arguments: Table) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else f"{{unacceptable_type,{type_name(value)}}}"


def text(value: object, arguments: Table) -> str | None:
    """A string."""
    kind = type_name(value)
    return None if kind == "longstr" else f"{{unacceptable_type,{kind}}}"


def dead_letter_routing_key(value: object, arguments: Table) -> str | None:
    """A string that fits into a publish, and only beside an exchange to publish to."""
    reason = text(value, arguments)
    if reason is None and len(plain(value).encode()) > LONGEST_KEY:
        return f'"expected a text of at most {LONGEST_KEY} octets"'
    if reason is None and "x-dead-letter-exchange" not in arguments:
        return "routing_key_but_no_dlx_defined"
    return reason


def one_of(*allowed: str, otherwise: str) -> Validator:
    """One of some strings; `otherwise` is the text for another, with `{}` for it."""

    def validator(value: object, arguments: Table) -> str | None:
        reason = text(value, arguments)
        if reason is None and value not in allowed:
            return otherwise.format(plain(value))
        return reason

    return validator


def queue_version(value: object, arguments: Table) -> str | None:
    """1 or 2: how RabbitMQ keeps its files."""
    reason = non_negative(value, arguments)
    if reason is None and value not in (1, 2):
        return f"\"unsupported queue version '{value}'\""
    return reason


class Argument(NamedTuple):
    """One row of the table.

    Attributes:
      validate: Says why a value is refused.
      compared: Whether a redeclaration must repeat the value.
      effective: Whether it does what its user expects; if not, declaring warns once.
    """

    validate: Validator
    compared: bool = True
    effective: bool = True


CLASSIC = ("classic", "rabbit_classic_queue")
QUORUM = ("quorum", "rabbit_quorum_queue")

# The order is that of RabbitMQ's checks: of several mistakes the first is reported.
QUEUE_ARGUMENTS: dict[str, Argument] = {
    "x-expires": Argument(positive_milliseconds, effective=False),
    "x-message-ttl": Argument(milliseconds, effective=False),
    "x-dead-letter-exchange": Argument(text, effective=False),
    "x-dead-letter-routing-key": Argument(dead_letter_routing_key, effective=False),
    "x-dead-letter-strategy": Argument(
        one_of("at-most-once", "at-least-once", otherwise="invalid_dlx_strategy"),
        effective=False,
    ),
    "x-max-length": Argument(non_negative, effective=False),
    "x-max-length-bytes": Argument(non_negative, effective=False),
    # what stays in memory is decided by the broker's budget
    "x-max-in-memory-length": Argument(non_negative, compared=False),
    "x-max-in-memory-bytes": Argument(non_negative, compared=False),
    "x-max-priority": Argument(max_priority, effective=False),
    "x-overflow": Argument(
        one_of("drop-head", "reject-publish", "reject-publish-dlx", otherwise="invalid_overflow"),
        effective=False,
    ),
    # how RabbitMQ keeps its queues: nothing that a client could tell
    "x-queue-mode": Argument(
        one_of("default", "lazy", otherwise="\"unsupported queue mode '{}'\"")
    ),
    "x-queue-version": Argument(queue_version),
    "x-single-active-consumer": Argument(boolean, effective=False),
    "x-queue-type": Argument(
        one_of(*CLASSIC, *QUORUM, otherwise="\"unsupported queue type '{}'\"")
    ),
    "x-delivery-limit": Argument(integer, effective=False),
    "x-consumer-timeout": Argument(milliseconds, effective=False),
    # where RabbitMQ puts the members of a quorum queue: there is one copy here
    "x-quorum-initial-group-size": Argument(integer, compared=False),
    "x-queue-leader-locator": Argument(text, compared=False),
}

CONSUMER_ARGUMENTS: dict[str, Argument] = {
    "x-priority": Argument(integer),
    "x-cancel-on-ha-failover": Argument(boolean),
    "x-consumer-timeout": Argument(milliseconds, effective=False),
}

ALTERNATE_EXCHANGE = "alternate-exchange"


# Checks


def check_exchange_name(arguments: Table, argument: str, subject: str) -> str | None:
    """Return the exchange an argument names, None without it.

    Args:
      arguments: Arguments of a declaration.
      argument: The one that names an exchange.
      subject: What is being declared, as `described` words it.
    """
    if argument not in arguments:
        return None
    value = arguments[argument]
    kind = type_name(value)
    if kind != "longstr":
        raise PreconditionFailed(f"invalid type '{kind}' for arg '{argument}' in {subject}")
    return plain(value)


def check_queue_arguments(
    arguments: Table,
    subject: str,
    *,
    durable: bool,
    auto_delete: bool,
    exclusive: bool,
    table: Mapping[str, Argument] = QUEUE_ARGUMENTS,
) -> None:
    """Raise `PreconditionFailed` unless a queue may be made with these arguments."""
    check_exchange_name(arguments, "x-dead-letter-exchange", subject)
    _check_table(table, arguments, subject)
    if is_quorum(arguments):
        if auto_delete:
            raise PreconditionFailed(f"invalid property 'auto-delete' for {subject}")
        if exclusive:
            raise PreconditionFailed(f"invalid property 'exclusive-owner' for {subject}")
        if not durable:
            raise PreconditionFailed(f"invalid property 'non-durable' for {subject}")


def check_exchange_arguments(arguments: Table, subject: str, table: Mapping[str, Argument]) -> None:
    """Raise `PreconditionFailed` unless an exchange may be made with these arguments."""
    check_exchange_name(arguments, ALTERNATE_EXCHANGE, subject)
    _check_table(table, arguments, subject)


def check_consumer_arguments(
    arguments: Table, subject: str, table: Mapping[str, Argument] = CONSUMER_ARGUMENTS
) -> None:
    """Raise `PreconditionFailed` unless basic.consume may carry these arguments."""
    _check_table(table, arguments, subject)
    if "x-stream-offset" in arguments:
        raise PreconditionFailed(
            f"invalid arg 'x-stream-offset' for {subject} of queue type rabbit_classic_queue"
        )


def _check_table(table: Mapping[str, Argument], arguments: Table, subject: str) -> None:
    for name, reason in refused(table, arguments):
        raise PreconditionFailed(f"invalid arg '{name}' for {subject}: {reason}")


def refused(table: Mapping[str, Argument], arguments: Table) -> Iterator[tuple[str, str]]:
    """Return the arguments that would be refused in a declaration, and why."""
    for name, argument in table.items() if arguments else ():
        if name in arguments:
            reason = argument.validate(arguments[name], arguments)
            if reason is not None:
                yield name, reason


def check_field(name: str, received: object, current: object, subject: str) -> None:
    """Raise `PreconditionFailed` if a plain field of a redeclaration differs."""
    if received != current:
        raise PreconditionFailed(
            f"inequivalent arg '{name}' for {subject}: "
            f"received '{plain(received)}' but current is '{plain(current)}'"
        )


def check_equivalence(names: Iterable[str], received: Table, current: Table, subject: str) -> None:
    """Raise `PreconditionFailed` if one of the named arguments differs in a redeclaration."""
    if not received and not current:
        return
    for name in names:
        ours, theirs = current.get(name), received.get(name)
        if comparable(ours) == comparable(theirs) and (name in current) == (name in received):
            continue
        if name == "x-queue-type" and _queue_type(received) == _queue_type(current):
            continue
        if name in received and name in current:
            raise PreconditionFailed(
                f"inequivalent arg '{name}' for {subject}: "
                f"received '{plain(theirs)}' but current is '{plain(ours)}'"
            )
        raise PreconditionFailed(
            f"inequivalent arg '{name}' for {subject}: "
            f"received {_described(received, name)} but current is {_described(current, name)}"
        )


def check_queue_equivalence(
    received: Table,
    current: Table,
    subject: str,
    table: Mapping[str, Argument] = QUEUE_ARGUMENTS,
) -> None:
    """Raise `PreconditionFailed` if a queue is redeclared with arguments that differ."""
    names = (name for name, argument in table.items() if argument.compared)
    check_equivalence(names, received, current, subject)


def ineffective(arguments: Table, table: Mapping[str, Argument] = QUEUE_ARGUMENTS) -> list[str]:
    """Return the arguments of a queue or consumer that are accepted and do nothing yet."""
    return [name for name in arguments if name in table and not table[name].effective]


def is_quorum(arguments: Table) -> bool:
    """Whether a quorum queue is asked for."""
    return arguments.get("x-queue-type") in QUORUM


def _queue_type(arguments: Table) -> object:
    named = arguments.get("x-queue-type", "classic")
    if named in CLASSIC:
        return "classic"
    return "quorum" if named in QUORUM else comparable(named)


def _described(arguments: Table, name: str) -> str:
    if name not in arguments:
        return "none"
    value = arguments[name]
    return f"the value '{plain(value)}' of type '{type_name(value)}'"

"""Checks: what a client may not ask of a virtual host, and the names that only the broker gives.

Law: a check changes nothing: it raises RabbitMQ's error, word for word, or returns. Those that
compare and validate x-arguments are in `arguments`; which come in which order, as a client sees
the first that fails, is up to the handlers.

Called by: amqp.exchange_methods, amqp.queue_methods, amqp.basic_methods (consume, get), core.vhost,
core.wiring, amqp.publish, core.message and core.explain (properties); definitions and topology
(RESERVED).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from functools import lru_cache
from secrets import token_bytes
from typing import TYPE_CHECKING, Literal

from leveret.broker.core.arguments import is_quorum
from leveret.protocol.constants import TEN_YEARS_MS
from leveret.protocol.errors import AccessRefused, PreconditionFailed, ResourceLocked

if TYPE_CHECKING:
    from leveret.broker.core.arguments import Table
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.users import User
    from leveret.broker.core.vhost import VirtualHost

RESERVED = "amq."
GENERATED = "amq.gen-"
DIRECT_REPLY = "amq.rabbitmq.reply-to"  # no queue: what an answer is sent to begins with it


def generated_name() -> str:
    """Return a name that nobody can guess: 128 random bits in 22 characters."""
    return GENERATED + urlsafe_b64encode(token_bytes(16)).rstrip(b"=").decode()


def check_new_name(kind: Literal["queue", "exchange"], name: str) -> None:
    """Raise `AccessRefused` for a name that only the broker gives."""
    if name.startswith(RESERVED):
        raise AccessRefused(f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def check_may_be_unnamed(arguments: Table) -> None:
    """Raise `PreconditionFailed` for a queue that must have a name of its own."""
    if is_quorum(arguments):
        raise PreconditionFailed("Cannot declare a server-named queue for type rabbit_quorum_queue")


def check_queue_limit(vhost: VirtualHost, name: str) -> None:
    """Raise `PreconditionFailed` if one more queue would be too many."""
    if vhost.max_queues is not None and len(vhost.queues) >= vhost.max_queues:
        raise PreconditionFailed(
            f"cannot declare queue '{name}': queue limit in vhost '{vhost.name}' "
            f"({vhost.max_queues}) is reached"
        )


def check_not_default(exchange: str) -> None:
    """Raise `AccessRefused` for the default exchange, which nobody changes."""
    if not exchange:
        raise AccessRefused("operation not permitted on the default exchange")


def check_deletable(vhost: VirtualHost, name: str) -> None:
    """Raise `AccessRefused` for an exchange that was there from the start."""
    check_not_default(name)
    if name.startswith(RESERVED):
        raise AccessRefused(f"deletion of system {vhost.described('exchange', name)} not allowed")


def check_exclusive(queue: Queue, session: object) -> None:
    """Raise `ResourceLocked` if the queue belongs to another session."""
    if queue.owner is not None and queue.owner is not session:
        raise locked(queue)


def check_consumer(queue: Queue, exclusive: bool) -> None:
    """Raise `AccessRefused` if one more consumer would break an exclusive use."""
    count = queue.consumer_count
    is_shared = count > 0 or queue.arguments.get("x-single-active-consumer") is True
    is_taken = count == 1 and queue.consumers[0].exclusive  # it is alone
    if (exclusive and is_shared) or is_taken:
        raise AccessRefused(f"queue '{queue.name}' in vhost '{queue.vhost.name}' in exclusive use")


def check_may_be_asked(queue: Queue) -> None:
    """Raise `ResourceLocked` for basic.get where RabbitMQ has none."""
    if is_quorum(queue.arguments) and queue.arguments.get("x-single-active-consumer") is True:
        raise ResourceLocked(
            f"cannot obtain access to locked queue '{queue.name}' in vhost '{queue.vhost.name}'. "
            "basic.get operations are not supported by quorum queues with single active consumer"
        )


def locked(queue: Queue) -> ResourceLocked:
    """Return the error of a session that may not touch an exclusive queue."""
    return ResourceLocked(
        f"cannot obtain exclusive access to locked queue '{queue.name}' in vhost "
        f"'{queue.vhost.name}'. It could be originally declared on another connection or the "
        "exclusive property value does not match that of the original declaration."
    )


@lru_cache(1024)
def check_expiration(text: str) -> int:
    """Return the milliseconds of an expiration.

    Raises:
      PreconditionFailed: It is no time in milliseconds, up to ten years.
    """
    # RabbitMQ reads it as Erlang's string:to_integer/1 does
    number = re.match(r"[+-]?[0-9]+", text)
    left = text[number.end() :] if number else ""
    if number is None or left:
        reason = f'{{leftover_string,"{left}"}}' if number else "no_integer"
        raise PreconditionFailed(f"invalid expiration '{text}': {reason}")
    value = int(number[0])
    if value < 0:
        raise PreconditionFailed(f"invalid expiration '{text}': {{value_negative,{value}}}")
    if value > TEN_YEARS_MS:
        raise PreconditionFailed(f"invalid expiration '{text}': {{value_too_large,{value}}}")
    return value


@lru_cache(4096)
def life_of(octets: bytes) -> int:
    """Do what `check_expiration` does for a text as it came; few of them make up most messages."""
    return check_expiration(octets.decode("utf-8", "replace"))


def check_user_id(claimed: str | None, user: User) -> None:
    """Raise `PreconditionFailed` for a message that claims to be somebody else's."""
    if claimed is not None and claimed != user.name and "impersonator" not in user.tags:
        raise PreconditionFailed(
            f"user_id property set to '{claimed}' but authenticated user was '{user.name}'"
        )

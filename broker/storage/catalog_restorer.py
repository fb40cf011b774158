"""Restorer: definitions become virtual hosts, users, exchanges, queues and bindings again.

Law: what is read was written by `Catalog`, or it stops the start; only what belongs to a part
that is absent (a kind, an exchange type, a policy's setting), or that its type has no use for any
more, is held: left as it is kept, and told in a note. So is what a plugin has noted of an owner
that is absent; other notes are brought back, whether their plugin is there or not. An argument that
would be refused today has no effect, which is told in a note, too. Kinds come in the order in which
one can stand on another, whatever the order of the rows.

Called by: storage.catalog.
"""

from __future__ import annotations

import json
from struct import error
from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core.arguments import refused
from leveret.broker.core.checks import RESERVED
from leveret.broker.core.policy import Policy, PolicyError
from leveret.broker.core.users import Permissions, TopicPermissions, User
from leveret.broker.storage.base import StoreError
from leveret.broker.storage.catalog_format import (
    AUTO_DELETE,
    BINDING,
    EXCHANGE,
    HIDDEN_QUEUE,
    INTERNAL,
    KINDS,
    NAMES,
    NOTE,
    NUMBER,
    NUMBER_CONTENT,
    OPERATOR_POLICY,
    PERMISSIONS,
    POLICY,
    QUEUE,
    QUEUE_CONTENT,
    TOPIC_PERMISSIONS,
    USER,
    VHOST,
    pack_names,
    printable,
    shown,
    unpack_name,
    unpack_names,
    unseal,
)
from leveret.protocol.errors import AMQPError, NotFound, PreconditionFailed
from leveret.protocol.table import decode_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.notes import Owner
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost


class _Held(Exception):
    """A definition is of no use now, but may be again; the text says why."""


class _Row(NamedTuple):
    """A definition that is whole.

    Attributes:
      names: Those in its key.
      rest: What follows them there.
      content: What its value holds.
    """

    names: tuple[str, ...]
    rest: bytes
    content: bytes


class Restorer:
    """One walk over definitions: octets in, objects in the broker out.

    Attributes:
      queues: Durable queues by number.
      highest: The highest number that a queue ever had, as far as that is said by itself.
      notes: What is held, for people.
    """

    def __init__(self, broker: Broker) -> None:
        self.queues: dict[int, Queue] = {}
        self.highest = 0
        self.notes: list[str] = []
        self._broker = broker
        self._held: dict[tuple[str, bytes], tuple[str, ...]] = {}
        self._absent: set[tuple[str, str]] = set()  # exchanges that are held
        self._limits: list[tuple[VirtualHost, int | None]] = []
        self._noted: dict[Owner, dict[bytes, tuple[str, ...]]] = {}  # keys of notes, and names
        self._kinds: dict[str, tuple[int, Callable[[_Row], None]]] = {
            # with the number of names in their keys
            NUMBER: (0, self._restore_number),
            NOTE: (NAMES[NOTE], self._restore_note),
            VHOST: (1, self._restore_vhost),
            USER: (1, self._restore_user),
            PERMISSIONS: (2, self._restore_permissions),
            TOPIC_PERMISSIONS: (3, self._restore_topic_permissions),
            POLICY: (2, self._restore_policy),
            OPERATOR_POLICY: (2, self._restore_operator_policy),
            EXCHANGE: (2, self._restore_exchange),
            QUEUE: (2, self._restore_queue),
            HIDDEN_QUEUE: (2, self._restore_hidden_queue),
            BINDING: (NAMES[BINDING], self._restore_binding),
        }

    def restore(
        self, rows: Iterable[tuple[str, bytes, bytes]]
    ) -> dict[tuple[str, bytes], tuple[str, ...]]:
        """Define everything, kind by kind; return what is held, with the names in its keys."""
        by_kind: dict[str, list[tuple[bytes, bytes]]] = {kind: [] for kind in KINDS}
        for kind, key, value in rows:
            if kind in by_kind:
                by_kind[kind].append((key, value))
            else:
                self.notes.append(f"{shown(kind, key)}: this kind is not known; kept as it is")
        for kind, found in by_kind.items():
            for key, value in found:
                self._restore(kind, key, value)
        for vhost, most in self._limits:  # it may have been set below what was there
            vhost.max_queues = most
        self._hold_notes()
        return self._held

    def _restore(self, kind: str, key: bytes, value: bytes) -> None:
        count, restore = self._kinds[kind]
        try:
            content = unseal(kind, key, value)
        except ValueError as problem:
            raise StoreError(
                f"the definition of {shown(kind, key)} is damaged: {problem}"
            ) from None
        try:
            names, offset = unpack_names(key, count)
            row = _Row(tuple(names), key[offset:], content)
            restore(row)
        except _Held as held:
            self._held[kind, key] = row.names
            self.notes.append(f"{shown(kind, key)}: {printable(held)}; kept as it is")
        except (AMQPError, ValueError, TypeError, LookupError, error) as problem:
            reason = printable(problem.text if isinstance(problem, AMQPError) else problem)
            raise StoreError(f"{shown(kind, key)} cannot be restored: {reason}") from None

    def _hold_notes(self) -> None:
        """Hold notes whose owners are not there."""
        for owner, keys in self._noted.items():
            if self._broker.notes.give_up(owner):
                self._held |= {(NOTE, key): names for key, names in keys.items()}
                vhost, kind, name = owner
                text = printable(f"{kind} {name!r} in vhost {vhost!r}")
                self.notes.append(f"{len(keys):,} notes: {text} is not there; kept as they are")

    def _vhost(self, name: str) -> VirtualHost:
        vhost = self._broker.vhosts.get(name)
        if vhost is None:
            raise NotFound(f"no vhost '{name}'")
        return vhost

    # Virtual hosts, users, policies

    def _restore_number(self, row: _Row) -> None:
        (self.highest,) = NUMBER_CONTENT.unpack(row.content)

    def _restore_note(self, row: _Row) -> None:
        vhost, kind, name, plugin = row.names
        owner = vhost, kind, name
        self._broker.notes.restore(owner, plugin, row.rest, row.content)
        key = pack_names(*row.names) + row.rest
        self._noted.setdefault(owner, {})[key] = row.names

    def _restore_vhost(self, row: _Row) -> None:
        (name,) = row.names
        most = json.loads(row.content)["max_queues"]
        self._limits.append((self._broker.add_vhost(name), most))

    def _restore_user(self, row: _Row) -> None:
        (name,) = row.names
        password_hash, algorithm, *tags = json.loads(row.content)
        self._broker.users.put(User(name, password_hash, algorithm, tuple(tags)))

    def _restore_permissions(self, row: _Row) -> None:
        user, vhost = row.names
        permissions = Permissions(*json.loads(row.content))
        self._broker.users.set_permissions(user, vhost, permissions)

    def _restore_topic_permissions(self, row: _Row) -> None:
        user, vhost, exchange = row.names
        permissions = TopicPermissions(*json.loads(row.content))
        self._broker.users.set_topic_permissions(user, vhost, exchange, permissions)

    def _restore_policy(self, row: _Row, operator: bool = False) -> None:
        vhost, name = row.names
        pattern, apply_to, priority, definition = json.loads(row.content)
        policy = Policy(name, pattern, definition, apply_to, priority)
        try:
            self._vhost(vhost).policies.put(policy, operator=operator)
        except PolicyError as problem:
            raise _Held(problem) from None
        self._vhost(vhost).apply_policies(
            is_at_once=True
        )  # to the predeclared exchanges: others come later

    def _restore_operator_policy(self, row: _Row) -> None:
        self._restore_policy(row, operator=True)

    # Exchanges, queues, bindings

    def _restore_exchange(self, row: _Row) -> None:
        vhost, name = row.names
        flags = row.content[0]
        type_name, offset = unpack_name(row.content, 1)
        arguments, _ = decode_shared(row.content, offset)
        if type_name not in self._broker.registry.exchange_types:
            self._absent.add((vhost, name))
            raise _Held(f"its type {type_name!r} is not known")
        is_new = name not in self._vhost(vhost).exchanges
        try:
            self._vhost(vhost).declare_exchange(
                name,
                type_name,
                durable=True,
                auto_delete=bool(flags & AUTO_DELETE),
                internal=bool(flags & INTERNAL),
                arguments=arguments,
                is_restored=True,
            )
        except PreconditionFailed as problem:  # its type has no use for its arguments any more
            if not is_new:  # or it contradicts what is there
                raise
            self._absent.add((vhost, name))
            raise _Held(problem.text) from None
        self._tell_refused("exchange", row, arguments)

    def _tell_refused(self, kind: str, row: _Row, arguments: Mapping[str, object]) -> None:
        """Tell of arguments that would be refused today: what has them is there without them."""
        registry, (vhost, name) = self._broker.registry, row.names
        known = registry.queue_arguments if kind == "queue" else registry.exchange_arguments
        for argument, reason in refused(known, arguments):
            text = f"{kind} {name!r} in vhost {vhost!r}: argument {argument!r} has no effect"
            self.notes.append(f"{printable(f'{text}: {reason}')}; kept as it is")

    def _restore_queue(self, row: _Row) -> None:
        vhost, name = row.names
        flags, number = QUEUE_CONTENT.unpack_from(row.content)
        arguments, _ = decode_shared(row.content, QUEUE_CONTENT.size)
        if number in self.queues:
            raise ValueError(f"its number {number} is that of {self.queues[number]!r}")
        self.queues[number] = self._vhost(vhost).declare_queue(
            name,
            durable=True,
            auto_delete=bool(flags & AUTO_DELETE),
            arguments=arguments,
            is_restored=True,
        )
        self._tell_refused("queue", row, arguments)

    def _restore_hidden_queue(self, row: _Row) -> None:
        vhost, name = row.names
        _, number = QUEUE_CONTENT.unpack_from(row.content)
        arguments, _ = decode_shared(row.content, QUEUE_CONTENT.size)
        if number in self.queues:
            raise ValueError(f"its number {number} is that of {self.queues[number]!r}")
        self.queues[number] = self._vhost(vhost).hidden_queue(
            name, durable=True, arguments=arguments
        )

    def _restore_binding(self, row: _Row) -> None:
        where, source, kind, name, routing_key = row.names
        arguments, _ = decode_shared(row.rest)
        vhost = self._vhost(where)
        for exchange in (source, name) if kind == "exchange" else (source,):
            is_of_plugin = exchange.startswith(RESERVED) and exchange not in vhost.exchanges
            if is_of_plugin or (where, exchange) in self._absent:
                raise _Held(f"exchange {exchange!r} is not there")
        destination = vhost.queue(name) if kind == "queue" else vhost.exchange(name)
        try:
            vhost.bind(source, destination, routing_key, arguments)
        except PreconditionFailed as problem:  # its exchange makes no sense of it any more
            raise _Held(problem.text) from None

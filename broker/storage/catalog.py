"""Catalog: virtual hosts, users, exchanges, queues and bindings as definitions, and back again.

Law: what survives a restart is written down as it changes, by listening to the broker's events;
what is exclusive or transient never is. What is read was written here, or it stops the start;
only what belongs to a part that is absent (a kind, an exchange type, a policy's setting) is held:
kept as it is and listed, until somebody defines its name anew.

A queue's number is never given twice. The highest one is that of a queue, or, once that queue is
gone, a definition of its own.

A definition's value is a checksum (CRC-32 of kind, key and all that follows), a format number,
and what is known: x-arguments as an AMQP table, the rest as JSON. Its key is names, one behind
the other, each with its length, so that they may hold any octet.

Called by: persistence (makes it, restores), core (through events).
"""

from __future__ import annotations

import json
from struct import Struct, error
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from zlib import crc32

from leveret.broker.core.exchange_types import EXCHANGE_TYPES
from leveret.broker.core.policy import Policy, PolicyError
from leveret.broker.core.users import Permissions, TopicPermissions, User
from leveret.broker.core.vhost import PREDECLARED, TRACE
from leveret.broker.storage.base import Definition, StoreError
from leveret.protocol.errors import AMQPError, NotFound
from leveret.protocol.table import decode_shared, encode_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from leveret.broker.core.binding import Binding
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Destination, Exchange
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.wire import Value

FORMAT: Final = 1

_start = Struct("<IB")  # checksum, format
_size = Struct("<I")
_number = Struct("<Q")
_queue = Struct("<BQ")  # flags, number
_LONG: Final = 255  # a length octet that says: the length follows

_PREDECLARED: Final = frozenset(("", TRACE, *(name for name, _ in PREDECLARED)))
_AUTO_DELETE, _INTERNAL = 1, 2

# The kinds, in the order in which one can stand on another.
NUMBER: Final = "number"
VHOST: Final = "vhost"
USER: Final = "user"
PERMISSIONS: Final = "permissions"
TOPIC_PERMISSIONS: Final = "topic_permissions"
POLICY: Final = "policy"
OPERATOR_POLICY: Final = "operator_policy"
EXCHANGE: Final = "exchange"
QUEUE: Final = "queue"
BINDING: Final = "binding"


# Octets


def pack_names(*names: str) -> bytes:
    """Return names as octets that no other names give.

    >>> pack_names("ab", "") != pack_names("a", "b")
    True
    """
    return b"".join([_sized(name.encode("utf-8", "surrogateescape")) for name in names])


def _sized(octets: bytes) -> bytes:
    size = len(octets)
    return (bytes((size,)) if size < _LONG else b"\xff" + _size.pack(size)) + octets


def _unpack_name(octets: bytes, offset: int) -> tuple[str, int]:
    size, start = octets[offset], offset + 1
    if size == _LONG:
        (size,) = _size.unpack_from(octets, start)
        start += _size.size
    end = start + size
    if end > len(octets):
        raise ValueError("cut short")
    return octets[start:end].decode("utf-8", "surrogateescape"), end


def _unpack_names(octets: bytes, count: int = 1 << 16) -> tuple[list[str], int]:
    """Return so many names, or all there are, and the offset behind them."""
    names: list[str] = []
    offset = 0
    while offset < len(octets) and len(names) < count:
        name, offset = _unpack_name(octets, offset)
        names.append(name)
    return names, offset


def _pack_table(table: Mapping[str, object]) -> bytes:
    return encode_table(cast("Mapping[str, Value]", table))


def _pack_json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def seal(kind: str, key: bytes, content: bytes) -> Definition:
    """Return a definition with a checksum over all of it."""
    tail = bytes((FORMAT,)) + content
    checksum = crc32(tail, crc32(key, crc32(kind.encode())))
    return Definition(kind, key, checksum.to_bytes(4, "little") + tail)


def unseal(kind: str, key: bytes, value: bytes) -> bytes:
    """Return what `seal` was given, or raise `ValueError`."""
    if len(value) < _start.size:
        raise ValueError("cut short")
    checksum, number = _start.unpack_from(value)
    if checksum != crc32(value[4:], crc32(key, crc32(kind.encode()))):
        raise ValueError("its checksum is wrong")
    if number != FORMAT:
        raise ValueError(f"its format {number} is not known")
    return value[_start.size :]


def shown(kind: str, key: bytes) -> str:
    """Return kind and key for people, on one line."""
    try:
        names = " ".join(map(repr, _unpack_names(key, 5 if kind == BINDING else 1 << 16)[0]))
    except (ValueError, IndexError, error):
        names = key.hex()
    return f"{_printable(kind)} {names}".rstrip()


def _printable(text: object) -> str:
    return "".join([one if one.isprintable() else ascii(one)[1:-1] for one in str(text)])


# What survives


class Catalog:
    """Writes down what changes, and brings it back.

    Attributes:
      notes: What `restore` did not understand, one line each.
    """

    def __init__(self, broker: Broker, note: Callable[[Definition], None]) -> None:
        self.notes: list[str] = []
        self._broker = broker
        self._note = note
        self._numbers: dict[Queue, int] = {}
        self._highest = 0
        self._held: dict[tuple[str, bytes], tuple[str, ...]] = {}  # what is held, and its names
        self._is_restoring = False
        for name, subscriber in (
            ("vhost.created", self._vhost_changed),
            ("vhost.changed", self._vhost_changed),
            ("vhost.deleted", self._vhost_deleted),
            ("user.changed", self._user_changed),
            ("user.deleted", self._user_deleted),
            ("permissions.changed", self._permissions_changed),
            ("permissions.deleted", self._permissions_deleted),
            ("topic_permissions.changed", self._topic_permissions_changed),
            ("topic_permissions.deleted", self._topic_permissions_deleted),
            ("policy.changed", self._policy_changed),
            ("policy.deleted", self._policy_deleted),
            ("exchange.created", self._exchange_created),
            ("exchange.deleted", self._exchange_deleted),
            ("queue.created", self._queue_created),
            ("queue.deleted", self._queue_deleted),
            ("binding.created", self._binding_created),
            ("binding.deleted", self._binding_deleted),
        ):
            broker.events.subscribe(name, subscriber)

    def queue_number(self, queue: Queue) -> int:
        """Return the number of a durable queue."""
        return self._numbers[queue]

    def restore(self, rows: Iterable[tuple[str, bytes, bytes]]) -> dict[int, Queue]:
        """Define in an empty broker what was kept; return the durable queues by number.

        Args:
          rows: Kind, key and value, in the order in which they were first kept.

        Raises:
          StoreError: One of them is damaged, or cannot be.
        """
        self._is_restoring = True
        try:
            restorer = _Restorer(self._broker)
            self._held = restorer.restore(rows)
            self.notes += restorer.notes
        finally:
            self._is_restoring = False
        self._highest = max((restorer.highest, *restorer.queues))
        self._numbers = {queue: number for number, queue in restorer.queues.items()}
        return restorer.queues

    def _keep(self, kind: str, key: bytes, content: bytes = b"") -> None:
        if not self._is_restoring:
            self._held.pop((kind, key), None)
            self._note(seal(kind, key, content))

    def _forget(self, kind: str, key: bytes) -> None:
        self._note(Definition(kind, key, None))

    def _let_go(self, is_meant: Callable[[tuple[str, ...]], bool]) -> None:
        """Forget what is held for an absent part, as the rest of it is gone."""
        for held in [held for held, names in self._held.items() if is_meant(names)]:
            del self._held[held]
            self._forget(*held)

    # Virtual hosts, users, policies

    def _vhost_changed(self, vhost: VirtualHost) -> None:
        self._keep(VHOST, pack_names(vhost.name), _pack_json({"max_queues": vhost.max_queues}))

    def _vhost_deleted(self, vhost: VirtualHost) -> None:
        self._let_go(lambda names: names[0] == vhost.name)
        self._forget(VHOST, pack_names(vhost.name))

    def _user_changed(self, user: User) -> None:
        content = _pack_json([user.password_hash, user.hashing_algorithm, *user.tags])
        self._keep(USER, pack_names(user.name), content)

    def _user_deleted(self, user: User) -> None:
        self._forget(USER, pack_names(user.name))

    def _permissions_changed(self, user: str, vhost: str, permissions: Permissions) -> None:
        self._keep(PERMISSIONS, pack_names(user, vhost), _pack_json(permissions))

    def _permissions_deleted(self, user: str, vhost: str) -> None:
        self._forget(PERMISSIONS, pack_names(user, vhost))

    def _topic_permissions_changed(
        self, user: str, vhost: str, exchange: str, permissions: TopicPermissions
    ) -> None:
        key = pack_names(user, vhost, exchange)
        self._keep(TOPIC_PERMISSIONS, key, _pack_json(permissions))

    def _topic_permissions_deleted(self, user: str, vhost: str, exchange: str) -> None:
        self._forget(TOPIC_PERMISSIONS, pack_names(user, vhost, exchange))

    def _policy_changed(self, vhost: VirtualHost, policy: Policy, operator: bool) -> None:
        content = [policy.pattern, policy.apply_to, policy.priority, dict(policy.definition)]
        kind = OPERATOR_POLICY if operator else POLICY
        self._keep(kind, pack_names(vhost.name, policy.name), _pack_json(content))

    def _policy_deleted(self, vhost: VirtualHost, policy: Policy, operator: bool) -> None:
        kind = OPERATOR_POLICY if operator else POLICY
        self._forget(kind, pack_names(vhost.name, policy.name))

    # Exchanges, queues, bindings

    def _exchange_created(self, vhost: VirtualHost, exchange: Exchange) -> None:
        if not exchange.durable or exchange.name in _PREDECLARED or self._is_restoring:
            return
        self._let_go_of_bindings(vhost, "exchange", exchange.name)
        flags = _AUTO_DELETE * exchange.auto_delete | _INTERNAL * exchange.internal
        content = bytes((flags,)) + pack_names(exchange.type_name) + _pack_table(exchange.arguments)
        self._keep(EXCHANGE, pack_names(vhost.name, exchange.name), content)

    def _exchange_deleted(self, vhost: VirtualHost, exchange: Exchange) -> None:
        if exchange.durable and exchange.name not in _PREDECLARED:
            self._let_go_of_bindings(vhost, "exchange", exchange.name)
            self._forget(EXCHANGE, pack_names(vhost.name, exchange.name))

    def _queue_created(self, vhost: VirtualHost, queue: Queue) -> None:
        if not queue.durable or self._is_restoring:
            return
        number = self._numbers[queue] = self._highest = self._highest + 1
        flags = _AUTO_DELETE * queue.auto_delete
        content = _queue.pack(flags, number) + _pack_table(queue.arguments)
        self._keep(QUEUE, pack_names(vhost.name, queue.name), content)

    def _queue_deleted(self, vhost: VirtualHost, queue: Queue) -> None:
        if not queue.durable:
            return
        self._let_go_of_bindings(vhost, "queue", queue.name)
        self._forget(QUEUE, pack_names(vhost.name, queue.name))
        if self._numbers.pop(queue) == self._highest:
            self._keep(NUMBER, b"", _number.pack(self._highest))

    def _binding_created(self, vhost: VirtualHost, binding: Binding) -> None:
        if not self._is_restoring and _is_durable(vhost, binding):
            self._keep(BINDING, _binding_key(vhost, binding))

    def _binding_deleted(self, vhost: VirtualHost, binding: Binding) -> None:
        if _is_durable(vhost, binding):
            self._forget(BINDING, _binding_key(vhost, binding))

    def _let_go_of_bindings(self, vhost: VirtualHost, kind: str, name: str) -> None:
        """Forget held bindings that lead from or to what is gone or defined anew."""

        def is_meant(names: tuple[str, ...]) -> bool:
            match names:
                case (where, source, end_kind, end, _) if where == vhost.name:
                    return (kind, name) in (("exchange", source), (end_kind, end))
            return False

        if self._held:
            self._let_go(is_meant)


def _binding_key(vhost: VirtualHost, binding: Binding) -> bytes:
    names = (vhost.name, binding.source, binding.destination_kind, binding.destination)
    return pack_names(*names, binding.routing_key) + _pack_table(binding.arguments)


def _is_durable(vhost: VirtualHost, binding: Binding) -> bool:
    """Whether both ends survive a restart; asked while both are there."""
    ends: Mapping[str, Destination] = vhost.exchanges
    if binding.destination_kind == "queue":
        ends = vhost.queues
    return vhost.exchanges[binding.source].durable and ends[binding.destination].durable


# And back again


class _Absent(Exception):
    """What a definition needs is not there now and may come back; the text says what."""


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


class _Restorer:
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
        self._kinds: dict[str, tuple[int, Callable[[_Row], None]]] = {
            # with the number of names in their keys
            NUMBER: (0, self._restore_number),
            VHOST: (1, self._restore_vhost),
            USER: (1, self._restore_user),
            PERMISSIONS: (2, self._restore_permissions),
            TOPIC_PERMISSIONS: (3, self._restore_topic_permissions),
            POLICY: (2, self._restore_policy),
            OPERATOR_POLICY: (2, self._restore_operator_policy),
            EXCHANGE: (2, self._restore_exchange),
            QUEUE: (2, self._restore_queue),
            BINDING: (5, self._restore_binding),
        }

    def restore(
        self, rows: Iterable[tuple[str, bytes, bytes]]
    ) -> dict[tuple[str, bytes], tuple[str, ...]]:
        """Define everything, kind by kind; return what is held, with the names in its keys."""
        by_kind: dict[str, list[tuple[bytes, bytes]]] = {kind: [] for kind in self._kinds}
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
            names, offset = _unpack_names(key, count)
            row = _Row(tuple(names), key[offset:], content)
            restore(row)
        except _Absent as absent:
            self._held[kind, key] = row.names
            self.notes.append(f"{shown(kind, key)}: {_printable(absent)}; kept as it is")
        except (AMQPError, ValueError, TypeError, LookupError, error) as problem:
            reason = _printable(problem.text if isinstance(problem, AMQPError) else problem)
            raise StoreError(f"{shown(kind, key)} cannot be restored: {reason}") from None

    def _vhost(self, name: str) -> VirtualHost:
        vhost = self._broker.vhosts.get(name)
        if vhost is None:
            raise NotFound(f"no vhost '{name}'")
        return vhost

    # Virtual hosts, users, policies

    def _restore_number(self, row: _Row) -> None:
        (self.highest,) = _number.unpack(row.content)

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
            raise _Absent(problem) from None
        self._vhost(vhost).apply_policies()  # to the predeclared exchanges: others come later

    def _restore_operator_policy(self, row: _Row) -> None:
        self._restore_policy(row, operator=True)

    # Exchanges, queues, bindings

    def _restore_exchange(self, row: _Row) -> None:
        vhost, name = row.names
        flags = row.content[0]
        type_name, offset = _unpack_name(row.content, 1)
        arguments, _ = decode_shared(row.content, offset)
        if type_name not in EXCHANGE_TYPES:
            self._absent.add((vhost, name))
            raise _Absent(f"its type {type_name!r} is not known")
        self._vhost(vhost).declare_exchange(
            name,
            type_name,
            durable=True,
            auto_delete=bool(flags & _AUTO_DELETE),
            internal=bool(flags & _INTERNAL),
            arguments=arguments,
        )

    def _restore_queue(self, row: _Row) -> None:
        vhost, name = row.names
        flags, number = _queue.unpack_from(row.content)
        arguments, _ = decode_shared(row.content, _queue.size)
        if number in self.queues:
            raise ValueError(f"its number {number} is that of {self.queues[number]!r}")
        self.queues[number] = self._vhost(vhost).declare_queue(
            name, durable=True, auto_delete=bool(flags & _AUTO_DELETE), arguments=arguments
        )

    def _restore_binding(self, row: _Row) -> None:
        where, source, kind, name, routing_key = row.names
        arguments, _ = decode_shared(row.rest)
        for exchange in (source, name) if kind == "exchange" else (source,):
            if (where, exchange) in self._absent:
                raise _Absent(f"exchange {exchange!r} is not there")
        vhost = self._vhost(where)
        destination = vhost.queue(name) if kind == "queue" else vhost.exchange(name)
        vhost.bind(source, destination, routing_key, arguments)

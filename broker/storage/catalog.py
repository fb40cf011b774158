"""Catalog: virtual hosts, users, exchanges, queues, bindings, notes as definitions, and back again.

Law: what survives a restart is written down as it changes, by listening to the broker's events;
what is exclusive or transient never is. What `Restorer` held, because a part is absent, stays as
it was kept until somebody defines its name anew.

A queue's number is never given twice. The highest one is that of a queue, or, once that queue is
gone, a definition of its own.

Called by: persistence (makes it, restores), storage.inspection (restores), core (through events).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from leveret.broker.core.vhost import PREDECLARED, TRACE
from leveret.broker.storage.base import Definition
from leveret.broker.storage.catalog_format import (
    AUTO_DELETE,
    BINDING,
    EXCHANGE,
    HIDDEN_QUEUE,
    INTERNAL,
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
    pack_json,
    pack_names,
    pack_table,
    seal,
)
from leveret.broker.storage.catalog_restorer import Restorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from leveret.broker.core.binding import Binding
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Destination, Exchange
    from leveret.broker.core.notes import Owner
    from leveret.broker.core.policy import Policy
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.users import Permissions, TopicPermissions, User
    from leveret.broker.core.vhost import VirtualHost

_PREDECLARED: Final = frozenset(("", TRACE, *(name for name, _ in PREDECLARED)))


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
            ("vhost.created", self._vhost_created),
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
            ("note.changed", self._note_changed),
        ):
            broker.events.subscribe(name, subscriber)

    def queue_number(self, queue: Queue) -> int:
        """Return the number of a durable queue."""
        return self._numbers[queue]

    def spare(self, number: int) -> None:
        """Give no queue a number up to one: rows name it, though its definition may be lost."""
        self._highest = max(self._highest, number)

    def restore(self, rows: Iterable[tuple[str, bytes, bytes]]) -> dict[int, Queue]:
        """Define in an empty broker what was kept; return the durable queues by number.

        Args:
          rows: Kind, key and value, in the order in which they were first kept.

        Raises:
          StoreError: One of them is damaged, or cannot be.
        """
        self._is_restoring = True
        try:
            restorer = Restorer(self._broker)
            self._held = restorer.restore(rows)
            self.notes += restorer.notes
        finally:
            self._is_restoring = False
        self._highest = max((restorer.highest, *restorer.queues))
        self._numbers = {queue: number for number, queue in restorer.queues.items()}
        return restorer.queues

    def _keep(self, kind: str, key: bytes, content: bytes = b"") -> None:
        if not self._is_restoring:
            self._put(kind, key, content)

    def _put(self, kind: str, key: bytes, content: bytes) -> None:
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

    def _vhost_created(self, vhost: VirtualHost) -> None:
        self._let_go_of(vhost, "vhost", vhost.name)
        self._vhost_changed(vhost)

    def _vhost_changed(self, vhost: VirtualHost) -> None:
        self._keep(VHOST, pack_names(vhost.name), pack_json({"max_queues": vhost.max_queues}))

    def _vhost_deleted(self, vhost: VirtualHost) -> None:
        self._let_go(lambda names: names[0] == vhost.name)
        self._forget(VHOST, pack_names(vhost.name))

    def _user_changed(self, user: User) -> None:
        content = pack_json([user.password_hash, user.hashing_algorithm, *user.tags])
        self._keep(USER, pack_names(user.name), content)

    def _user_deleted(self, user: User) -> None:
        self._forget(USER, pack_names(user.name))

    def _permissions_changed(self, user: str, vhost: str, permissions: Permissions) -> None:
        self._keep(PERMISSIONS, pack_names(user, vhost), pack_json(permissions))

    def _permissions_deleted(self, user: str, vhost: str) -> None:
        self._forget(PERMISSIONS, pack_names(user, vhost))

    def _topic_permissions_changed(
        self, user: str, vhost: str, exchange: str, permissions: TopicPermissions
    ) -> None:
        key = pack_names(user, vhost, exchange)
        self._keep(TOPIC_PERMISSIONS, key, pack_json(permissions))

    def _topic_permissions_deleted(self, user: str, vhost: str, exchange: str) -> None:
        self._forget(TOPIC_PERMISSIONS, pack_names(user, vhost, exchange))

    def _policy_changed(self, vhost: VirtualHost, policy: Policy, operator: bool) -> None:
        content = [policy.pattern, policy.apply_to, policy.priority, dict(policy.definition)]
        kind = OPERATOR_POLICY if operator else POLICY
        self._keep(kind, pack_names(vhost.name, policy.name), pack_json(content))

    def _policy_deleted(self, vhost: VirtualHost, policy: Policy, operator: bool) -> None:
        kind = OPERATOR_POLICY if operator else POLICY
        self._forget(kind, pack_names(vhost.name, policy.name))

    # Exchanges, queues, bindings

    def _exchange_created(self, vhost: VirtualHost, exchange: Exchange) -> None:
        if not exchange.durable or exchange.name in _PREDECLARED or self._is_restoring:
            return
        self._let_go_of(vhost, "exchange", exchange.name)
        flags = AUTO_DELETE * exchange.auto_delete | INTERNAL * exchange.internal
        content = bytes((flags,)) + pack_names(exchange.type_name) + pack_table(exchange.arguments)
        self._keep(EXCHANGE, pack_names(vhost.name, exchange.name), content)

    def _exchange_deleted(self, vhost: VirtualHost, exchange: Exchange) -> None:
        if exchange.durable and exchange.name not in _PREDECLARED:
            self._let_go_of(vhost, "exchange", exchange.name)
            self._forget(EXCHANGE, pack_names(vhost.name, exchange.name))

    def _queue_created(self, vhost: VirtualHost, queue: Queue) -> None:
        if not queue.durable or self._is_restoring:
            return
        kind = HIDDEN_QUEUE if queue.is_hidden else QUEUE
        if kind == QUEUE:
            self._let_go_of(vhost, "queue", queue.name)
        number = self._numbers[queue] = self._highest = self._highest + 1
        flags = AUTO_DELETE * queue.auto_delete
        content = QUEUE_CONTENT.pack(flags, number) + pack_table(queue.arguments)
        self._keep(kind, pack_names(vhost.name, queue.name), content)

    def _queue_deleted(self, vhost: VirtualHost, queue: Queue) -> None:
        if not queue.durable:
            return
        kind = HIDDEN_QUEUE if queue.is_hidden else QUEUE
        if kind == QUEUE:
            self._let_go_of(vhost, "queue", queue.name)
        self._forget(kind, pack_names(vhost.name, queue.name))
        if self._numbers.pop(queue) == self._highest:
            self._keep(NUMBER, b"", NUMBER_CONTENT.pack(self._highest))

    def _binding_created(self, vhost: VirtualHost, binding: Binding) -> None:
        if not self._is_restoring and _is_durable(vhost, binding):
            self._keep(BINDING, _binding_key(vhost, binding))

    def _binding_deleted(self, vhost: VirtualHost, binding: Binding) -> None:
        if _is_durable(vhost, binding):
            self._forget(BINDING, _binding_key(vhost, binding))

    def _let_go_of(self, vhost: VirtualHost, kind: str, name: str) -> None:
        """Forget what is held of what is gone or defined anew: notes, bindings from or to it."""

        def is_meant(names: tuple[str, ...]) -> bool:
            match names:
                case (where, source, end_kind, end, _) if where == vhost.name:
                    return (kind, name) in (("exchange", source), (end_kind, end))
                case (where, owner_kind, owner, _) if where == vhost.name:
                    return (kind, name) == (owner_kind, owner)
            return False

        if self._held:
            self._let_go(is_meant)

    # Plugins

    def _note_changed(
        self, owner: Owner, plugin: str, key: bytes, value: bytes | None, durable: bool
    ) -> None:
        if not durable:
            return
        key = pack_names(*owner, plugin) + key
        if value is None:
            self._forget(NOTE, key)
        else:
            self._put(NOTE, key, value)  # also while others are restored: it comes of a plugin


def _binding_key(vhost: VirtualHost, binding: Binding) -> bytes:
    names = (vhost.name, binding.source, binding.destination_kind, binding.destination)
    return pack_names(*names, binding.routing_key) + pack_table(binding.arguments)


def _is_durable(vhost: VirtualHost, binding: Binding) -> bool:
    """Whether both ends survive a restart; asked while both are there."""
    ends: Mapping[str, Destination] = vhost.exchanges
    if binding.destination_kind == "queue":
        ends = vhost.queues
    return vhost.exchanges[binding.source].durable and ends[binding.destination].durable

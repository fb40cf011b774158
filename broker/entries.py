"""Entries: what a definitions file asks for, and how a broker is brought to it.

Law: applying adds, and updates what may be updated; it deletes nothing. Whatever could be refused
is tried before the first change. Every error names the place the entry came from.

Called by: topology (makes the entries), definitions (tries them, hands them out), app (applies).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

from leveret.broker.document import DocumentError, Node
from leveret.protocol.errors import AMQPError, FieldError, PreconditionFailed
from leveret.protocol.table import encode_table

if TYPE_CHECKING:
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.policy import Check, Policy
    from leveret.broker.core.users import Permissions, TopicPermissions, User
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.wire import Value


class VhostEntry(NamedTuple):
    """A virtual host."""

    node: Node
    name: str
    max_queues: int | None


class UserEntry(NamedTuple):
    """A user; a password in the clear is hashed when it is applied."""

    node: Node
    user: "User"
    password: str | None


class PermissionEntry(NamedTuple):
    """What a user may do in a virtual host."""

    node: Node
    user: str
    vhost: str
    permissions: "Permissions"


class TopicPermissionEntry(NamedTuple):
    """Which routing keys a user may use on a topic exchange."""

    node: Node
    user: str
    vhost: str
    exchange: str
    permissions: "TopicPermissions"


class PolicyEntry(NamedTuple):
    """A policy, or an operator policy."""

    node: Node
    vhost: str
    policy: "Policy"
    operator: bool


class ExchangeEntry(NamedTuple):
    """An exchange."""

    node: Node
    vhost: str
    name: str
    type_name: str
    durable: bool
    auto_delete: bool
    internal: bool
    arguments: dict[str, object]

    def declare(self, vhost: "VirtualHost") -> None:
        """Declare it, or raise if it is there and differs."""
        vhost.declare_exchange(
            self.name,
            self.type_name,
            durable=self.durable,
            auto_delete=self.auto_delete,
            internal=self.internal,
            arguments=self.arguments,
        )


class QueueEntry(NamedTuple):
    """A queue."""

    node: Node
    vhost: str
    name: str
    durable: bool
    auto_delete: bool
    arguments: dict[str, object]

    def declare(self, vhost: "VirtualHost") -> None:
        """Declare it, or raise if it is there and differs."""
        vhost.declare_queue(
            self.name,
            durable=self.durable,
            auto_delete=self.auto_delete,
            arguments=self.arguments,
        )


class BindingEntry(NamedTuple):
    """A binding whose ends are in the file or predeclared."""

    node: Node
    vhost: str
    source: str
    destination: str
    kind: Literal["queue", "exchange"]
    routing_key: str
    arguments: dict[str, object]


_InVhost: TypeAlias = (
    PermissionEntry | TopicPermissionEntry | PolicyEntry | ExchangeEntry | QueueEntry | BindingEntry
)


class Definitions:
    """What a file asks for, in the order in which it can be applied.

    Attributes:
      notes: What the file holds and this broker does nothing with, for people.
    """

    def __init__(self) -> None:
        self.vhosts: list[VhostEntry] = []
        self.users: list[UserEntry] = []
        self.permissions: list[PermissionEntry] = []
        self.topic_permissions: list[TopicPermissionEntry] = []
        self.policies: list[PolicyEntry] = []
        self.exchanges: list[ExchangeEntry] = []
        self.queues: list[QueueEntry] = []
        self.bindings: list[BindingEntry] = []
        self.notes: list[str] = []

    def summary(self) -> str:
        """Return what there is, in one line for people."""
        operators = sum(policy.operator for policy in self.policies)
        counts = {
            "virtual hosts": len(self.vhosts),
            "users": len(self.users),
            "permissions": len(self.permissions),
            "topic permissions": len(self.topic_permissions),
            "policies": len(self.policies) - operators,
            "operator policies": operators,
            "exchanges": len(self.exchanges),
            "queues": len(self.queues),
            "bindings": len(self.bindings),
        }
        return ", ".join(f"{name}: {count}" for name, count in counts.items() if count) or "nothing"

    def apply(self, broker: "Broker") -> None:
        """Bring a broker to what the file says, or raise and leave it as it was.

        Raises:
          DocumentError: If an exchange or queue exists and differs in what cannot change.
        """
        self._check_arguments()
        self._compare(broker)
        for entry in self.vhosts:
            vhost = broker.add_vhost(entry.name)
            most = vhost.max_queues
            if entry.max_queues is not None and most is not None and most < entry.max_queues:
                vhost.max_queues = entry.max_queues  # before the queues that it is raised for
        self._apply_users(broker)
        for policy in self.policies:
            with located(policy.node):
                vhost = broker.vhosts[policy.vhost]
                vhost.policies.put(policy.policy, operator=policy.operator)
        self._declare(broker)
        for vhost in broker.vhosts.values():
            vhost.apply_policies(is_at_once=True)
        for entry in self.vhosts:
            if entry.max_queues is not None:
                broker.vhosts[entry.name].max_queues = entry.max_queues

    def _check_arguments(self) -> None:
        """Raise for an argument that is no AMQP value: no client could send or repeat it."""
        entries: list[ExchangeEntry | QueueEntry | BindingEntry]
        entries = [*self.exchanges, *self.queues, *self.bindings]
        for entry in entries:
            for name, value in entry.arguments.items():
                with located(entry.node):
                    try:
                        encode_table({name: cast("Value", value)})
                    except FieldError as problem:
                        reason = problem.text.partition(": ")[2]
                        text = f"invalid arg '{name}': AMQP cannot carry it: {reason}"
                        raise PreconditionFailed(text) from None

    def _compare(self, broker: "Broker") -> None:
        """Raise if something is missing, or exists and differs: declaring it again says in what."""
        vhosts = broker.vhosts.keys() | {entry.name for entry in self.vhosts}
        known = {entry.user.name for entry in self.users}
        rows: list[PermissionEntry | TopicPermissionEntry]
        rows = [*self.permissions, *self.topic_permissions]
        inside: list[_InVhost]
        inside = [*rows, *self.policies, *self.exchanges, *self.queues, *self.bindings]
        for entry in inside:
            if entry.vhost not in vhosts:
                raise entry.node.error(f"no virtual host '{entry.vhost}'")
        for row in rows:
            if row.user not in known and row.user not in broker.users:
                raise row.node.error(f"no user '{row.user}'")
        for exchange in self.exchanges:
            vhost = broker.vhosts.get(exchange.vhost)
            if vhost is not None and exchange.name in vhost.exchanges:
                with located(exchange.node, "; it exists already"):
                    exchange.declare(vhost)
        for queue in self.queues:
            vhost = broker.vhosts.get(queue.vhost)
            if vhost is not None and queue.name in vhost.queues:
                with located(queue.node, "; it exists already"):
                    queue.declare(vhost)
        self._check_limits(broker)

    def _check_limits(self, broker: "Broker") -> None:
        """Raise if the file adds more queues than a virtual host may have.

        The limit is the one it has, or the file's if that is higher; a lower or a new one is set
        after the queues are there.
        """
        raised: dict[str, int] = {}
        for entry in self.vhosts:
            raised[entry.name] = max(raised.get(entry.name, 0), entry.max_queues or 0)
        added: dict[str, dict[str, Node]] = {}
        for queue in self.queues:
            vhost = broker.vhosts.get(queue.vhost)
            if vhost is not None and queue.name not in vhost.queues:
                added.setdefault(queue.vhost, {}).setdefault(queue.name, queue.node)
        for where, new in added.items():
            vhost = broker.vhosts[where]
            if vhost.max_queues is None:
                continue
            most, there = max(vhost.max_queues, raised.get(where, 0)), len(vhost.queues)
            if there + len(new) > most:
                name, node = list(new.items())[max(most - there, 0)]
                raise node.error(
                    f"cannot declare queue '{name}': queue limit in vhost '{where}' ({most}): "
                    f"there are {there}, the file adds {len(new)}"
                )

    def _apply_users(self, broker: "Broker") -> None:
        users = broker.users
        for entry in self.users:
            with located(entry.node):
                if entry.password is not None:
                    users.add(entry.user.name, entry.password, entry.user.tags)
                else:
                    users.put(entry.user)
        for permission in self.permissions:
            with located(permission.node):
                users.set_permissions(permission.user, permission.vhost, permission.permissions)
        for topic in self.topic_permissions:
            with located(topic.node):
                users.set_topic_permissions(
                    topic.user, topic.vhost, topic.exchange, topic.permissions
                )

    def _declare(self, broker: "Broker") -> None:
        first: dict[tuple[str, str, str], Node] = {}
        both: list[ExchangeEntry | QueueEntry] = [*self.exchanges, *self.queues]
        for entry in both:
            kind = "exchange" if isinstance(entry, ExchangeEntry) else "queue"
            earlier = first.setdefault((kind, entry.vhost, entry.name), entry.node)
            more = "" if earlier is entry.node else f" (see {earlier.place})"
            with located(entry.node, more, broker.registry.policy_keys):
                entry.declare(broker.vhosts[entry.vhost])
        for binding in self.bindings:
            vhost = broker.vhosts[binding.vhost]
            known = vhost.queues if binding.kind == "queue" else vhost.exchanges
            with located(binding.node):
                vhost.bind(
                    binding.source,
                    known[binding.destination],
                    binding.routing_key,
                    binding.arguments,
                )


@contextmanager
def located(
    node: Node, more: str = "", keys: "Mapping[str, Check] | None" = None
) -> Iterator[None]:
    """Turn an error of the core into one that names the place.

    Args:
      node: The entry it is about.
      more: What is added to its text.
      keys: What policy keys may be: so a bad argument is told what it may be, too.
    """
    try:
        yield
    except AMQPError as error:
        culprit, name = _culprit(node, error.text)
        check = (keys or {}).get(name.removeprefix("x-"))
        wanted = check(culprit.plain()) if check else None
        hint = f"; it must be {wanted}" if wanted and wanted not in error.text else ""
        raise culprit.error(error.text + hint + more) from None
    except DocumentError:
        raise
    except ValueError as error:
        raise node.error(str(error) + more) from None


def _culprit(node: Node, text: str) -> tuple[Node, str]:
    """Return the argument that an error names, if it stands in this entry; else the entry."""
    named = re.match(r"\w+ arg '([^']+)'", text)
    arguments = node.content.get("arguments") if isinstance(node.content, dict) else None
    if named is None or arguments is None or not isinstance(arguments.content, dict):
        return node, ""
    return arguments.content.get(named[1], node), named[1]

"""Definitions: users, permissions, policies, exchanges, queues and bindings, to and from files.

Law: a file is understood as a whole before anything is applied, by applying it to an empty
broker first; so a file with a mistake changes nothing. Every error names file, line and key path.

Called by: app (--topology), cli (check).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from leveret.broker.core.broker import Broker
from leveret.broker.core.checks import RESERVED
from leveret.broker.core.registry import Registry
from leveret.broker.document import Document, Node, read
from leveret.broker.entries import Definitions
from leveret.broker.topology import Reader

if TYPE_CHECKING:
    from leveret.broker.core.binding import Binding
    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.policy import Policy
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost

__all__ = ["Definitions", "export", "from_node", "load", "parse"]


def load(
    path: str | Path,
    *,
    default_vhost: str = "/",
    default_user: str = "guest",
    registry: Registry | None = None,
) -> Definitions:
    """Read a topology file: YAML, or RabbitMQ's JSON if its name ends in ``.json``.

    Args:
      path: The file.
      default_vhost: Where things are that name no virtual host.
      default_user: A user that exists in an empty broker.
      registry: What plugins have added; by default nothing.

    Raises:
      DocumentError: With the place of the first mistake.
    """
    return from_node(
        read(path), default_vhost=default_vhost, default_user=default_user, registry=registry
    )


def parse(
    name: str, source: str, *, default_vhost: str = "/", registry: Registry | None = None
) -> Definitions:
    """Read definitions from a text; its name decides as in `load`."""
    root = Document(name, source).root
    return from_node(root, default_vhost=default_vhost, registry=registry)


def from_node(
    root: Node,
    *,
    default_vhost: str = "/",
    default_user: str = "guest",
    registry: Registry | None = None,
) -> Definitions:
    """Understand a document, and try it on an empty broker."""
    registry = Registry() if registry is None else registry
    definitions = Reader(root, default_vhost, registry).definitions
    scratch = Broker(registry=registry)
    scratch.add_defaults(default_user, "", default_vhost)
    definitions.apply(scratch)
    for entry in definitions.policies:
        idle = [key for key in entry.policy.definition if key not in registry.effective_keys]
        if idle:
            text = f"policy '{entry.policy.name}': no effect: {', '.join(idle)}"
            definitions.notes.append(f"{entry.node.place}: {text}")
    return definitions


def export(broker: Broker) -> dict[str, object]:
    """Return a broker's definitions in RabbitMQ's form; transient things are left out."""
    users, vhosts = broker.users, list(broker.vhosts.values())
    return {
        "rabbit_version": broker.version,
        "product_name": broker.product,
        "product_version": broker.version,
        "users": [
            {
                "name": user.name,
                "password_hash": user.password_hash,
                "hashing_algorithm": user.hashing_algorithm,
                "tags": list(user.tags),
                "limits": {},
            }
            for user in users
        ],
        "vhosts": [
            {"name": vhost.name, "limits": _limits(vhost), "metadata": {}} for vhost in vhosts
        ],
        "permissions": [
            {"user": user, "vhost": vhost, **row._asdict()}
            for (user, vhost), row in users.permissions.items()
        ],
        "topic_permissions": [
            {"user": user, "vhost": vhost, "exchange": exchange, **row._asdict()}
            for (user, vhost), rows in users.topic_permissions.items()
            for exchange, row in rows.items()
        ],
        "parameters": [
            {
                "component": "operator_policy",
                "vhost": vhost.name,
                "name": policy.name,
                "value": _policy(policy),
            }
            for vhost in vhosts
            for policy in vhost.policies.operator_policies
        ],
        "global_parameters": [],
        "policies": [
            {"vhost": vhost.name, "name": policy.name, **_policy(policy)}
            for vhost in vhosts
            for policy in vhost.policies
        ],
        "queues": [
            _queue(queue)
            for vhost in vhosts
            for queue in vhost.queues.values()
            if queue.durable and queue.owner is None
        ],
        "exchanges": [
            _exchange(exchange)
            for vhost in vhosts
            for exchange in vhost.exchanges.values()
            if exchange.durable and exchange.name and not exchange.name.startswith(RESERVED)
        ],
        "bindings": [
            _binding(vhost, binding)
            for vhost in vhosts
            for binding in vhost.bindings()
            if _is_durable(vhost, binding)
        ],
    }


def _limits(vhost: "VirtualHost") -> dict[str, int]:
    return {} if vhost.max_queues is None else {"max-queues": vhost.max_queues}


def _policy(policy: "Policy") -> dict[str, object]:
    return {
        "pattern": policy.pattern,
        "apply-to": policy.apply_to,
        "priority": policy.priority,
        "definition": dict(policy.definition),
    }


def _queue(queue: "Queue") -> dict[str, object]:
    return {
        "name": queue.name,
        "vhost": queue.vhost.name,
        "durable": True,
        "auto_delete": queue.auto_delete,
        "arguments": dict(queue.arguments),
    }


def _exchange(exchange: "Exchange") -> dict[str, object]:
    return {
        "name": exchange.name,
        "vhost": exchange.vhost.name,
        "type": exchange.type_name,
        "durable": True,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": dict(exchange.arguments),
    }


def _binding(vhost: "VirtualHost", binding: "Binding") -> dict[str, object]:
    return {
        "source": binding.source,
        "vhost": vhost.name,
        "destination": binding.destination,
        "destination_type": binding.destination_kind,
        "routing_key": binding.routing_key,
        "arguments": dict(binding.arguments),
    }


def _is_durable(vhost: "VirtualHost", binding: "Binding") -> bool:
    if binding.destination_kind == "queue":
        queue = vhost.queues[binding.destination]
        durable = queue.durable and queue.owner is None
    else:
        durable = vhost.exchanges[binding.destination].durable
    return durable and vhost.exchanges[binding.source].durable

"""What both brokers start with: users, virtual hosts, permissions (RabbitMQ's export), plugins."""

import hashlib
from base64 import b64encode
from itertools import starmap

ALL = ".*"

# What RabbitMQ has as plugins and Leveret has, too.
PLUGINS = (
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_event_exchange",
    "rabbitmq_random_exchange",
    "rabbitmq_recent_history_exchange",
    "rabbitmq_sharding",
)


def _user(name: str, tags: str = "") -> dict[str, object]:
    salt = b"salt"
    digest = hashlib.sha256(salt + name.encode()).digest()
    return {
        "name": name,
        "password_hash": b64encode(salt + digest).decode(),  # the password is the name
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": tags,
        "limits": {},
    }


def _permission(
    user: str, configure: str, write: str, read: str, vhost: str = "/"
) -> dict[str, str]:
    return {"user": user, "vhost": vhost, "configure": configure, "write": write, "read": read}


def _policy(
    name: str, pattern: str, priority: int = 0, apply_to: str = "queues", **definition: object
) -> dict[str, object]:
    return {
        "vhost": "/",
        "name": name,
        "pattern": pattern,
        "apply-to": apply_to,
        "definition": definition,
        "priority": priority,
    }


def _for_queues(word: str, definition: dict[str, object]) -> dict[str, object]:
    return _policy(word, _called(word), **definition)


def _for_operators(word: str, definition: dict[str, object]) -> dict[str, object]:
    value = _policy(word, _called(word), **definition)
    del value["vhost"], value["name"]
    return {"vhost": "/", "component": "operator_policy", "name": word, "value": value}


def _called(word: str) -> str:
    """Return the pattern of queues that a conversation calls `word`, or `word+other`."""
    return rf"[.+]{word}([+]|$)"


# Of queues, by the word in their name
POLICIES: dict[str, dict[str, object]] = {
    "fleeting": {"message-ttl": 20},
    "lasting": {"message-ttl": 60_000},
    "vanishing": {"expires": 800},
    "confined": {"max-length": 2},
    "thin": {"max-length-bytes": 4},
    "picky": {"max-length": 2, "overflow": "reject-publish"},
    "mourned": {"dead-letter-exchange": "amq.direct", "max-length": 1},
    "renamed": {
        "dead-letter-exchange": "amq.direct",
        "dead-letter-routing-key": "the key of a policy",
        "message-ttl": 0,
    },
    "patient": {"delivery-limit": 1},
}
OPERATOR_POLICIES: dict[str, dict[str, object]] = {
    "watched": {"message-ttl": 20},
    "lenient": {"message-ttl": 60_000, "max-length": 5},
}

DEFINITIONS: dict[str, object] = {
    "rabbit_version": "3.10.8",
    "users": [
        _user("guest", "administrator"),
        _user("clerk"),  # may do everything with names that have ".mine" in them
        _user("reader"),  # may only read
        _user("writer"),  # may only write, the default exchange excepted
        _user("courier"),  # has topic permissions on amq.topic
        _user("herald", "impersonator"),  # may publish in other names
        _user("stranger"),  # has no permissions
    ],
    "vhosts": [{"name": "/"}, {"name": "annex"}, {"name": "small", "limits": {"max-queues": 2}}],
    "permissions": [
        _permission("guest", ALL, ALL, ALL),
        _permission("guest", ALL, ALL, ALL, vhost="annex"),
        _permission("guest", ALL, ALL, ALL, vhost="small"),
        _permission("clerk", r"\.mine", r"\.mine|^amq\.default$", r"\.mine"),
        _permission("reader", "", "", ALL),
        _permission("writer", "", r"^(?!amq\.default)", ""),
        _permission("courier", ALL, ALL, ALL),
        _permission("herald", ALL, ALL, ALL),
    ],
    "topic_permissions": [
        {
            "user": "courier",
            "vhost": "/",
            "exchange": "amq.topic",
            "write": r"^own\.",
            "read": r"^own\.",
        }
    ],
    "parameters": [
        {
            "vhost": "small",
            "component": "vhost-limits",
            "name": "limits",
            "value": {"max-queues": 2},
        },
        *starmap(_for_operators, OPERATOR_POLICIES.items()),
    ],
    "global_parameters": [],
    "policies": [
        _policy(
            "alternate", r"^by_policy", apply_to="exchanges", **{"alternate-exchange": "amq.fanout"}
        ),
        *starmap(_for_queues, POLICIES.items()),
        _policy("of exchanges", r"\.of_exchanges$", apply_to="exchanges", **{"message-ttl": 20}),
        _policy("outvoted", r"\.elected$", **{"message-ttl": 20}),
        _policy("elected", r"\.elected$", 7, **{"max-length": 2}),
    ],
    "queues": [],
    "exchanges": [],
    "bindings": [],
}

"""What both brokers start with, in RabbitMQ's export format: users, virtual hosts, permissions."""

import hashlib
from base64 import b64encode

ALL = ".*"


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
        }
    ],
    "global_parameters": [],
    "policies": [
        {
            "vhost": "/",
            "name": "alternate",
            "pattern": r"^by_policy",
            "apply-to": "exchanges",
            "definition": {"alternate-exchange": "amq.fanout"},
            "priority": 0,
        }
    ],
    "queues": [],
    "exchanges": [],
    "bindings": [],
}

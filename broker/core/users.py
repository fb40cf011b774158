"""Users: who may connect, from where, and what they may touch.

Law: nothing here keeps or compares a password in the clear, and no answer outlives the rule it
came from: every change clears the memo, raises ``epoch``, on which route memos depend, and is told
as an event. To set again what is set changes nothing.

Hashes and permissions are RabbitMQ's: base64 of a 4-byte salt and the digest of salt and
password; three patterns per user and virtual host, searched for unanchored, "" matching nothing.

Called by: amqp.connection_methods (authenticate, may_access), amqp.*_methods and core.vhost
(check), entries (the rest).
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from leveret.broker.core.events import Events
from leveret.broker.core.patterns import compile_pattern

Permission = Literal["configure", "write", "read"]

ALGORITHMS = {
    "rabbit_password_hashing_sha256": "sha256",
    "rabbit_password_hashing_sha512": "sha512",
    "rabbit_password_hashing_md5": "md5",  # exports of brokers that began before 3.6
}
DEFAULT_ALGORITHM = "rabbit_password_hashing_sha256"
SALT_SIZE = 4
MAX_MEMO = 1 << 16


class UserError(ValueError):
    """A user, hash or permission that cannot be set as asked."""


class Permissions(NamedTuple):
    """What a user may do in one virtual host: a pattern of names for each permission."""

    configure: str
    write: str
    read: str


class TopicPermissions(NamedTuple):
    """Routing keys a user may publish with (write) and bind with (read) on a topic exchange."""

    write: str
    read: str


@dataclass(frozen=True, slots=True)
class User:
    """A user as stored; an empty hash means that no password is good."""

    name: str
    password_hash: str
    hashing_algorithm: str = DEFAULT_ALGORITHM
    tags: tuple[str, ...] = ()


def hash_password(
    password: str, salt: bytes | None = None, algorithm: str = DEFAULT_ALGORITHM
) -> str:
    """Return the base64 text that RabbitMQ would store for a password."""
    salt = os.urandom(SALT_SIZE) if salt is None else salt
    return base64.b64encode(salt + _digest(algorithm, salt, password.encode())).decode()


def check_hash(name: str, password_hash: str, algorithm: str) -> None:
    """Raise a UserError for a hash that no password could ever match by mistake."""
    if algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise UserError(f"user '{name}': hashing_algorithm '{algorithm}' is not one of {known}")
    if not password_hash:
        return
    try:
        size = len(base64.b64decode(password_hash, validate=True))
    except (binascii.Error, ValueError):
        raise UserError(f"user '{name}': password_hash is not base64") from None
    expected = SALT_SIZE + len(_digest(algorithm, b"", b""))
    if size != expected:
        raise UserError(
            f"user '{name}': password_hash has {size} bytes, {algorithm} needs {expected}"
        )


class Users:
    """All users, their permissions, and the memo of answers.

    Attributes:
      epoch: Grows with every change.
      loopback_users: Who may connect from the same machine only.
      authenticators: Asked about names and passwords that are not right here.
    """

    def __init__(
        self, loopback_users: Iterable[str] = ("guest",), events: Events | None = None
    ) -> None:
        self.epoch = 0
        self._emit = (Events() if events is None else events).emit
        self.loopback_users = frozenset(loopback_users)
        self.authenticators: list[Callable[[str, bytes], User | None]] = []
        self._users: dict[str, User] = {}
        self._permissions: dict[tuple[str, str], Permissions] = {}
        self._topic_permissions: dict[tuple[str, str], dict[str, TopicPermissions]] = {}
        self._memo: dict[tuple[str, ...], bool] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._users

    def __getitem__(self, name: str) -> User:
        return self._users[name]

    def __iter__(self) -> Iterator[User]:
        return iter(self._users.values())

    def __len__(self) -> int:
        return len(self._users)

    @property
    def permissions(self) -> Mapping[tuple[str, str], Permissions]:
        """Permissions by (user, virtual host)."""
        return self._permissions

    @property
    def topic_permissions(self) -> Mapping[tuple[str, str], Mapping[str, TopicPermissions]]:
        """Topic permissions by (user, virtual host), then by exchange."""
        return self._topic_permissions

    def put(self, user: User) -> None:
        """Add a user or replace the one of that name; permissions stay."""
        check_hash(user.name, user.password_hash, user.hashing_algorithm)
        if self._users.get(user.name) != user:
            self._users[user.name] = user
            self._changed()
            self._emit("user.changed", user=user)

    def add(self, name: str, password: str, tags: Iterable[str] = ()) -> User:
        """Add or replace a user with a password in the clear; a password it has keeps its hash."""
        old = self._users.get(name)
        if old is not None and password and _matches(old, password.encode()):
            user = User(name, old.password_hash, old.hashing_algorithm, tuple(tags))
        else:
            user = User(name, hash_password(password) if password else "", tags=tuple(tags))
        self.put(user)
        return user

    def delete(self, name: str) -> None:
        """Remove a user and all its permissions."""
        user = self._users.pop(name)
        self._forget(lambda key: key[0] == name)
        self._emit("user.deleted", user=user)

    def forget_vhost(self, vhost: str) -> None:
        """Remove every permission in a virtual host that is being deleted."""
        self._forget(lambda key: key[1] == vhost)

    def set_permissions(self, user: str, vhost: str, permissions: Permissions) -> None:
        """Replace what a user may do in a virtual host; the row itself lets it connect."""
        self._require(user)
        for pattern in permissions:
            compile_pattern(pattern)
        if self._permissions.get((user, vhost)) != permissions:
            self._permissions[user, vhost] = permissions
            self._changed()
            self._emit("permissions.changed", user=user, vhost=vhost, permissions=permissions)

    def clear_permissions(self, user: str, vhost: str) -> None:
        """Take back all permissions of a user in a virtual host, access included."""
        if self._permissions.pop((user, vhost), None) is not None:
            self._changed()
            self._emit("permissions.deleted", user=user, vhost=vhost)

    def set_topic_permissions(
        self, user: str, vhost: str, exchange: str, permissions: TopicPermissions
    ) -> None:
        """Limit the routing keys a user may use on one topic exchange."""
        self._require(user)
        for pattern in permissions:
            compile_pattern(_expand(pattern, user, vhost))
        rows = self._topic_permissions.setdefault((user, vhost), {})
        if rows.get(exchange) != permissions:
            rows[exchange] = permissions
            self._changed()
            self._emit(
                "topic_permissions.changed",
                user=user,
                vhost=vhost,
                exchange=exchange,
                permissions=permissions,
            )

    def clear_topic_permissions(self, user: str, vhost: str, exchange: str | None = None) -> None:
        """Lift the limits of a user on one topic exchange, or on all of a virtual host."""
        rows = self._topic_permissions.get((user, vhost), {})
        for name in list(rows) if exchange is None else [exchange]:
            if rows.pop(name, None) is not None:
                if not rows:
                    del self._topic_permissions[user, vhost]
                self._changed()
                self._emit("topic_permissions.deleted", user=user, vhost=vhost, exchange=name)

    def authenticate(self, name: str, password: str | bytes) -> User | None:
        """Return the user if the password is right; equally slow for users that do not exist.

        Who is not known here, or has another password here, may be known to a plugin.
        """
        secret = password.encode() if isinstance(password, str) else password
        user = self._users.get(name, _NOBODY)
        if _matches(user, secret):
            return user
        known = (authenticate(name, secret) for authenticate in self.authenticators)
        return next((user for user in known if user is not None), None)

    def may_connect_from(self, name: str, *, loopback: bool) -> bool:
        """Tell whether a user may connect from this side of the network."""
        return loopback or name not in self.loopback_users

    def may_access(self, user: str, vhost: str) -> bool:
        """Tell whether a user has any permissions row in a virtual host."""
        return (user, vhost) in self._permissions

    def check(self, user: str, vhost: str, permission: Permission, name: str) -> bool:
        """Tell whether a user has a permission on a queue or exchange; "" is ``amq.default``."""
        key = (user, vhost, permission, name)
        answer = self._memo.get(key)
        if answer is None:
            row = self._permissions.get((user, vhost))
            answer = row is not None and _found(getattr(row, permission), name or "amq.default")
            self._remember(key, answer)
        return answer

    def check_topic(
        self,
        user: str,
        vhost: str,
        exchange: str,
        permission: Literal["write", "read"],
        routing_key: str,
    ) -> bool:
        """Tell whether a user may use a routing key on a topic exchange; no row allows all."""
        row = self._topic_permissions.get((user, vhost), {}).get(exchange)
        if row is None:
            return True
        key = (user, vhost, permission, exchange, routing_key)
        answer = self._memo.get(key)
        if answer is None:
            pattern: str = getattr(row, permission)
            answer = _found(_expand(pattern, user, vhost), routing_key)
            self._remember(key, answer)
        return answer

    def _require(self, user: str) -> None:
        if user not in self._users:
            raise UserError(f"no user '{user}'")

    def _forget(self, gone: Callable[[tuple[str, str]], bool]) -> None:
        for key in [key for key in self._permissions if gone(key)]:
            self.clear_permissions(*key)
        for key in [key for key in self._topic_permissions if gone(key)]:
            self.clear_topic_permissions(*key)
        self._changed()

    def _remember(self, key: tuple[str, ...], answer: bool) -> None:
        if len(self._memo) >= MAX_MEMO:
            self._memo.clear()
        self._memo[key] = answer

    def _changed(self) -> None:
        self._memo.clear()
        self.epoch += 1


_NOBODY = User("", "")


def _found(pattern: str, name: str) -> bool:
    return compile_pattern(pattern).search(name) is not None


def _expand(pattern: str, user: str, vhost: str) -> str:
    """Fill in RabbitMQ's variables, as literal text."""
    return pattern.replace("{username}", re.escape(user)).replace("{vhost}", re.escape(vhost))


def _digest(algorithm: str, salt: bytes, password: bytes) -> bytes:
    return hashlib.new(ALGORITHMS[algorithm], salt + password, usedforsecurity=False).digest()


def _matches(user: User, password: bytes) -> bool:
    stored = base64.b64decode(user.password_hash)
    salt, digest = stored[:SALT_SIZE], stored[SALT_SIZE:]
    return hmac.compare_digest(digest, _digest(user.hashing_algorithm, salt, password))

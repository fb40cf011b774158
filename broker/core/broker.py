"""Broker: the root object that everything receives.

Law: all state hangs here and changes only synchronously. Time is a field.

Called by: app (builds it), amqp.session, server, tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leveret.broker.core.batch import Batch
from leveret.broker.core.events import Events
from leveret.broker.core.notes import Notes
from leveret.broker.core.registry import Registry
from leveret.broker.core.routes import Routes
from leveret.broker.core.timers import Timers
from leveret.broker.core.users import Permissions, Users
from leveret.broker.core.vhost import VirtualHost
from leveret.protocol.constants import (
    DEFAULT_CHANNEL_MAX,
    DEFAULT_FRAME_MAX,
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from leveret.broker.core.batch import Peer
    from leveret.broker.core.consumer import Target
    from leveret.broker.core.registry import Authenticate
    from leveret.broker.core.users import User
    from leveret.protocol.content import Envelope

# Announced because clients choose behaviour by it: kombu uses channel-wide prefetch, which
# Celery's ETA tasks need, for RabbitMQ 3.3 up to 4.0.
ANNOUNCED_PRODUCT = "RabbitMQ"
ANNOUNCED_VERSION = "3.13.7"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may ask for, and what a peer may leave unread.

    Attributes:
      heartbeat: Seconds, proposed to clients.
      outbox_high: Unsent octets above which a peer gets no more deliveries.
      outbox_low: Unsent octets below which it gets them again.
      max_connections: None for any number.
    """

    frame_max: int = DEFAULT_FRAME_MAX
    channel_max: int = DEFAULT_CHANNEL_MAX
    heartbeat: int = DEFAULT_HEARTBEAT
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    outbox_high: int = 1 << 20
    outbox_low: int = 1 << 18
    max_connections: int | None = None


class Broker:
    """Virtual hosts, users, and what the current slice has caused.

    Attributes:
      now: Milliseconds of a clock that never goes back; set at the start of each slice.
      registry: What plugins have added.
      slept: Milliseconds that the machine has slept, which `now` counts and other clocks do not.
      wall_offset: What the wall clock shows beyond `now`, in milliseconds since 1970.
      timers: What is to be called at some time of `now`.
      notes: What plugins keep of virtual hosts, exchanges and queues.
      envelopes: Decoded publish methods, shared by all connections' readers.
      blocked: Why publishers are blocked ("low on memory"), empty when they are not.
      sessions: The open client connections, in the order they came.
      sessions_begun: How many there have ever been.
      reply_channels: Channels that wait for direct replies, by the key in their address.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        loopback_users: Iterable[str] = ("guest",),
        product: str = ANNOUNCED_PRODUCT,
        version: str = ANNOUNCED_VERSION,
        node: str = "leveret@localhost",
        registry: Registry | None = None,
    ) -> None:
        self.limits = Limits() if limits is None else limits
        self.product = product
        self.version = version
        self.node = node
        self.registry = Registry() if registry is None else registry
        self.now = 0
        self.batch = Batch()
        self.slept = 0
        self.wall_offset = 0
        self.timers = Timers(self.batch)
        self.events = Events()
        self.users = Users(loopback_users, self.events)
        self.vhosts: dict[str, VirtualHost] = {}
        self.notes = Notes(self.vhosts, self.events)
        self.envelopes: dict[bytes, Envelope] = {}
        self.sessions: dict[Peer, None] = {}
        self.sessions_begun = 0
        self.blocked = ""
        self.reply_channels: dict[str, Target] = {}
        self._routes: dict[tuple[str, str], Routes] = {}
        self.users.authenticators += map(self._asking, self.registry.authenticators.items())
        for start in self.registry.starts:
            start(self)

    def _asking(
        self, authenticator: tuple[str, Authenticate]
    ) -> Callable[[str, bytes], User | None]:
        """Return a way to ask a plugin for a user, which does not know anybody when it fails."""
        plugin, authenticate = authenticator

        def ask(name: str, password: bytes) -> User | None:
            try:
                return authenticate(self, name, password)
            except Exception as problem:
                self.batch.failed(f"authenticator {plugin}", problem)
                return None

        return ask

    def add_vhost(self, name: str) -> VirtualHost:
        """Return the virtual host, made now or before."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            vhost = self.vhosts[name] = VirtualHost(self, name)
            self.events.emit("vhost.created", vhost=vhost)
        return vhost

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it; its sessions are ended by the caller."""
        vhost = self.vhosts.pop(name)
        vhost.clear()
        self.users.forget_vhost(name)
        for key in [key for key in self._routes if key[0] == name]:
            del self._routes[key]
        self.events.emit("vhost.deleted", vhost=vhost)

    def add_defaults(self, user: str = "guest", password: str = "guest", vhost: str = "/") -> None:
        """Make what an empty RabbitMQ has: a virtual host, and an administrator in it."""
        self.add_vhost(vhost)
        self.users.add(user, password, ("administrator",))
        self.users.set_permissions(user, vhost, Permissions(".*", ".*", ".*"))

    def routes(self, vhost: VirtualHost, user: str) -> Routes:
        """Return the memo of routes of a user in a virtual host."""
        memo = self._routes.get((vhost.name, user))
        if memo is None:
            memo = self._routes[vhost.name, user] = Routes(vhost)
        return memo

    @property
    def wall(self) -> int:
        """Milliseconds since 1970: what is kept over a restart, or shown, is in this time."""
        return self.now + self.wall_offset

    @property
    def memory(self) -> int:
        """Octets that messages are accounted for: in queues, unsent, half received, held.

        A message in several queues counts in each.
        """
        queues = sum(queue.memory for vhost in self.vhosts.values() for queue in vhost.all_queues())
        return queues + sum(session.memory for session in self.sessions)

    def announcement(self) -> Mapping[str, str]:
        """Return product and version as clients are told."""
        return {"product": self.product, "version": self.version}

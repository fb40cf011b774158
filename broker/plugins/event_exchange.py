"""The event exchange: what happens in the broker, as messages on `amq.rabbitmq.event`.

Law: an event is a message without a body, persistent, its routing key RabbitMQ's name of it and
its headers RabbitMQ's names of what it tells. As long as nothing is bound an event costs a look at
the exchange. Arguments are told as RabbitMQ prints them; where it names an Erlang process, the
name of the connection or channel stands, since nothing else tells them apart here.

Who did it (`user_who_performed_action`) is not told: the broker's own events do not say.

What comes back when a broker starts is no event: nothing is told before `broker.started`.

Called by: core.events, from `register` on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from leveret.broker.core.arguments import term
from leveret.broker.core.message import Message
from leveret.broker.core.placing import find, republish
from leveret.protocol.constants import PERSISTENT
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode
from leveret.protocol.table import Int64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from leveret.broker.core.binding import Binding
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.policy import Policy
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.users import Permissions, TopicPermissions, User
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.connection import Connection
    from leveret.protocol.wire import Value

    Fields = dict[str, Value]
    Told = Iterator[tuple[str, Fields]]
    """Routing keys, and what is told under each."""

NAME = "amq.rabbitmq.event"
VHOST = "/"  # events of all virtual hosts come here
LARGEST = (1 << 63) - 1


class Session(Protocol):
    """What is told of a connection."""

    broker: Broker
    connection: Connection
    peer: str
    opened_at: int
    user: User | None
    vhost: VirtualHost | None
    client_properties: Mapping[str, object]


class Channel(Protocol):
    """What is told of a channel."""

    number: int
    session: Session


class EventExchange:
    """The subscriber of all events that RabbitMQ has, too.

    Attributes:
      broker: Whose events are told.
      is_started: Whether what happens is an event.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.is_started = False
        self._users = {user.name: user for user in broker.users}
        broker.events.subscribe("broker.started", self._start)
        broker.events.subscribe("vhost.created", self._declare)
        for name, describe in EVENTS.items():
            broker.events.subscribe(name, partial(self._tell, describe))
        broker.events.subscribe("user.changed", self._user_changed)
        broker.events.subscribe("user.deleted", self._user_deleted)

    def _start(self) -> None:
        self.is_started = True

    def _declare(self, vhost: VirtualHost) -> None:
        if vhost.name == VHOST:
            vhost.declare_exchange(NAME, "topic", durable=True, internal=True)

    def _tell(self, describe: Callable[..., Told], **fields: object) -> None:
        vhost = self.broker.vhosts.get(VHOST) if self.is_started else None
        exchange = None if vhost is None else vhost.exchanges.get(NAME)
        if exchange is not None and exchange.bindings:
            for key, headers in describe(**fields):
                self._publish(exchange, key, headers)

    def _publish(self, exchange: Exchange, key: str, headers: Fields) -> None:
        now = self.broker.wall
        properties = Properties(
            headers={**headers, "timestamp_in_ms": Int64(now)},
            delivery_mode=PERSISTENT,
            timestamp=now // 1000,
        )
        content = make_content(BasicPublish(NAME, key), encode(properties, 0), b"", Message)
        message = cast(Message, content)
        republish(message, find(exchange, (key,), message))

    def _user_changed(self, user: User) -> None:
        self._tell(_user_changed, user=user, known=self._users.get(user.name))
        self._users[user.name] = user

    def _user_deleted(self, user: User) -> None:
        self._tell(_user_deleted, user=user)
        del self._users[user.name]


# Virtual hosts, users, policies


def _vhost_created(vhost: VirtualHost) -> Told:
    yield "vhost.created", {"name": vhost.name, "tracing": False}


def _vhost_deleted(vhost: VirtualHost) -> Told:
    yield "vhost.deleted", {"name": vhost.name}


def _vhost_changed(vhost: VirtualHost) -> Told:
    fields: Fields = {"name": "limits", "vhost": vhost.name}
    if vhost.max_queues is None:
        yield "vhost.limits.cleared", fields
    else:
        yield "vhost.limits.set", {**fields, "max-queues": _number(vhost.max_queues)}


def _user_changed(user: User, known: User | None) -> Told:
    """Tell what is new about a user: all of it, its password, its tags."""
    if known is None:
        yield "user.created", {"name": user.name}
    elif known.password_hash != user.password_hash:
        yield "user.password.changed", {"name": user.name}
    if user.tags != (known.tags if known else ()):
        yield "user.tags.set", {"name": user.name, "tags": list(user.tags)}


def _user_deleted(user: User) -> Told:
    yield "user.deleted", {"name": user.name}


def _permissions_changed(user: str, vhost: str, permissions: Permissions) -> Told:
    yield "permission.created", {"user": user, "vhost": vhost, **permissions._asdict()}


def _permissions_deleted(user: str, vhost: str) -> Told:
    yield "permission.deleted", {"user": user, "vhost": vhost}


def _topic_permissions_changed(
    user: str, vhost: str, exchange: str, permissions: TopicPermissions
) -> Told:
    fields: Fields = {"user": user, "vhost": vhost, "exchange": exchange}
    yield "topic.permission.created", {**fields, **permissions._asdict()}


def _topic_permissions_deleted(user: str, vhost: str, exchange: str) -> Told:
    yield "topic.permission.deleted", {"user": user, "vhost": vhost, "exchange": exchange}


def _policy_changed(vhost: VirtualHost, policy: Policy, operator: bool) -> Told:
    yield (
        "policy.set",  # as in RabbitMQ, also for those of operators
        {
            "vhost": vhost.name,
            "name": policy.name,
            "pattern": policy.pattern,
            "definition": {
                name: _number(value) if type(value) is int else cast("Value", value)
                for name, value in policy.definition.items()
            },
            "priority": _number(policy.priority),
            "apply-to": policy.apply_to,
        },
    )


def _policy_deleted(vhost: VirtualHost, policy: Policy, operator: bool) -> Told:
    key = "operator.policy.cleared" if operator else "policy.cleared"
    yield key, {"vhost": vhost.name, "name": policy.name}


def _number(value: int) -> Int64:
    """Return a number as far as a header can hold it."""
    return Int64(max(-LARGEST, min(value, LARGEST)))


# Exchanges, queues, bindings


def _exchange_created(vhost: VirtualHost, exchange: Exchange) -> Told:
    policy = vhost.policies.match("exchange", exchange.name)
    yield (
        "exchange.created",
        {
            "vhost": vhost.name,
            "name": exchange.name,
            "type": exchange.type_name,
            "durable": exchange.durable,
            "auto_delete": exchange.auto_delete,
            "internal": exchange.internal,
            "arguments": _printed(exchange.arguments),
            "policy": policy.name if policy else "",
        },
    )


def _exchange_deleted(vhost: VirtualHost, exchange: Exchange) -> Told:
    yield "exchange.deleted", {"vhost": vhost.name, "name": exchange.name}


def _queue_created(vhost: VirtualHost, queue: Queue) -> Told:
    yield (
        "queue.created",
        {
            "vhost": vhost.name,
            "name": queue.name,
            "durable": queue.durable,
            "auto_delete": queue.auto_delete,
            "exclusive": queue.owner is not None,
            "owner_pid": getattr(queue.owner, "peer", ""),
            "arguments": _printed(queue.arguments),
        },
    )


def _queue_deleted(vhost: VirtualHost, queue: Queue) -> Told:
    yield "queue.deleted", {"vhost": vhost.name, "name": queue.name}


def _binding_created(vhost: VirtualHost, binding: Binding) -> Told:
    yield "binding.created", _binding(vhost, binding)


def _binding_deleted(vhost: VirtualHost, binding: Binding) -> Told:
    yield "binding.deleted", _binding(vhost, binding)


def _binding(vhost: VirtualHost, binding: Binding) -> Fields:
    return {
        "vhost": vhost.name,
        "source_kind": "exchange",
        "source_name": binding.source,
        "destination_kind": binding.destination_kind,
        "destination_name": binding.destination,
        "routing_key": binding.routing_key,
        "arguments": _printed(binding.arguments),
    }


def _printed(arguments: Mapping[str, object]) -> list[Value]:
    """Return each argument as the term that RabbitMQ shows."""
    return [term({name: value})[1:-1] for name, value in arguments.items()]


# Connections, channels, consumers


def _authenticated(session: Session, user: str, mechanism: str) -> Told:
    yield "user.authentication.success", _login(session, user, mechanism)


def _not_authenticated(session: Session, user: str, mechanism: str) -> Told:
    yield "user.authentication.failure", _login(session, user, mechanism)


def _login(session: Session, user: str, mechanism: str) -> Fields:
    return {
        "name": user,
        "connection_name": session.peer,
        "connection_type": "network",
        "auth_mechanism": mechanism,
        "protocol": "{0,9,1}",
        **_peer(session),
    }


def _connection_opened(session: Session) -> Told:
    yield (
        "connection.created",
        {
            **_connection(session),
            **_peer(session),
            "type": "network",
            "protocol": "{0,9,1}",
            "channel_max": Int64(session.connection.channel_max),
            "frame_max": Int64(session.connection.frame_max),
            "timeout": Int64(session.connection.heartbeat),
            "user": session.user.name if session.user else "",
            "vhost": session.vhost.name if session.vhost else "",
        },
    )


def _connection_closed(session: Session, reason: str) -> Told:
    yield "connection.closed", {**_connection(session), "reason": reason}


def _connection(session: Session) -> Fields:
    return {
        "pid": session.peer,
        "name": session.peer,
        "node": session.broker.node,
        "client_properties": _printed(session.client_properties),
    }


def _peer(session: Session) -> Fields:
    host, _, port = session.peer.rpartition(":")
    return {"peer_host": host, "peer_port": Int64(port)} if port.isdecimal() else {}


def _channel_opened(channel: Channel) -> Told:
    session = channel.session
    yield (
        "channel.created",
        {
            "pid": _channel_name(channel),
            "name": _channel_name(channel),
            "connection": session.peer,
            "number": Int64(channel.number),
            "user": session.user.name if session.user else "",
            "vhost": session.vhost.name if session.vhost else "",
        },
    )


def _channel_closed(channel: Channel) -> Told:
    yield "channel.closed", {"pid": _channel_name(channel), "name": _channel_name(channel)}


def _channel_name(channel: Channel) -> str:
    return f"{channel.session.peer} ({channel.number})"


def _consumer_created(consumer: Consumer) -> Told:
    yield (
        "consumer.created",
        {
            **_consumer(consumer),
            "exclusive": consumer.exclusive,
            "ack_required": not consumer.no_ack,
            "prefetch_count": Int64(consumer.prefetch_count),
            "arguments": _printed(consumer.arguments),
        },
    )


def _consumer_deleted(consumer: Consumer) -> Told:
    yield "consumer.deleted", _consumer(consumer)


def _consumer(consumer: Consumer) -> Fields:
    return {
        "consumer_tag": consumer.tag,
        "channel": _channel_name(cast(Channel, consumer.channel)),
        "vhost": consumer.queue.vhost.name,
        "queue": consumer.queue.name,
    }


# Alarms


def _alarm_raised(resource: str, node: str) -> Told:
    yield "alarm.set", {"source": resource, "node": node}


def _alarm_cleared(resource: str, node: str) -> Told:
    yield "alarm.cleared", {"source": resource, "node": node}


EVENTS: Mapping[str, Callable[..., Told]] = {
    "vhost.created": _vhost_created,
    "vhost.deleted": _vhost_deleted,
    "vhost.changed": _vhost_changed,
    "permissions.changed": _permissions_changed,
    "permissions.deleted": _permissions_deleted,
    "topic_permissions.changed": _topic_permissions_changed,
    "topic_permissions.deleted": _topic_permissions_deleted,
    "policy.changed": _policy_changed,
    "policy.deleted": _policy_deleted,
    "exchange.created": _exchange_created,
    "exchange.deleted": _exchange_deleted,
    "queue.created": _queue_created,
    "queue.deleted": _queue_deleted,
    "binding.created": _binding_created,
    "binding.deleted": _binding_deleted,
    "authentication.succeeded": _authenticated,
    "authentication.failed": _not_authenticated,
    "connection.opened": _connection_opened,
    "connection.closed": _connection_closed,
    "channel.opened": _channel_opened,
    "channel.closed": _channel_closed,
    "consumer.created": _consumer_created,
    "consumer.deleted": _consumer_deleted,
    "alarm.raised": _alarm_raised,
    "alarm.cleared": _alarm_cleared,
}
"""What is told of the broker's own events; those of users are told by what has changed."""


def _start(broker: Broker) -> None:
    EventExchange(broker)  # its subscriptions keep it


def register(registry: Registry) -> None:
    """Have the events of each broker told."""
    registry.start(_start)

"""Handlers of connection.* and channel.*: login, limits, virtual host, channels, the end.

Law: `protocol.connection` has checked the order of the handshake and its limits; what is decided
here is who may come in, and where to. A login that fails says so only to a client that told it
understands (`authentication_failure_close`), and never why.

Called by: amqp.dispatch, through `CONNECTION_HANDLERS` (session, method) on channel 0, and
`channel_open` for channels that are not there yet; amqp.session, through `HANDLERS` (channel,
method), and `start` after the protocol header.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from leveret.broker import __version__
from leveret.broker.amqp.ending import give_back
from leveret.broker.core.queue import NotLoaded
from leveret.protocol.constants import VERSION
from leveret.protocol.errors import (
    AccessRefused,
    ChannelNotOpen,
    CommandInvalid,
    NotAllowed,
    Unsupported,
)
from leveret.protocol.methods import (
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelFlowOk,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTuneOk,
    ConnectionUpdateSecret,
    ConnectionUpdateSecretOk,
    Method,
)
from leveret.protocol.sasl import PARSERS
from leveret.protocol.table import ConstantTable

if TYPE_CHECKING:
    from leveret.broker.amqp.channel import Channel
    from leveret.broker.amqp.session import Session
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.users import User
    from leveret.protocol.wire import Value

# What a client may rely on (the names are RabbitMQ's).
CAPABILITIES = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
)


def server_properties(broker: Broker) -> Mapping[str, Value]:
    """Return what the server says of itself in connection.start."""
    return _properties(broker.node, *broker.announcement().items())


@lru_cache(maxsize=8)  # brokers in one process (tests)
def _properties(node: str, *announced: tuple[str, str]) -> ConstantTable:
    return ConstantTable(
        {
            "capabilities": dict.fromkeys(CAPABILITIES, True),
            "cluster_name": node,
            "copyright": "The Leveret authors",
            "implementation": f"Leveret {__version__}",
            "information": "Licensed under the Apache License 2.0",
            "platform": f"Python {platform.python_version()}",
            **dict(announced),
        }
    )


# connection


def start(session: Session) -> None:
    """Greet a client that sent the protocol header."""
    properties = server_properties(session.broker)
    session.reply(ConnectionStart(*VERSION, properties, " ".join(PARSERS), "en_US"))


def connection_start_ok(session: Session, method: ConnectionStartOk) -> None:
    """Log the client in and propose limits."""
    if session.user is not None:
        raise session.connection.unexpected(method)
    session.client_properties = method.client_properties
    session.capabilities = understood(method.client_properties)
    parse = PARSERS.get(method.mechanism)
    if parse is None:
        raise CommandInvalid(f"unknown authentication mechanism '{method.mechanism}'")
    credentials = parse(method.response)
    users = session.broker.users
    user = users.authenticate(credentials.user, credentials.password)
    if user is None or not users.may_connect_from(user.name, loopback=session.is_loopback):
        _refuse(session, credentials.user, method.mechanism)
        return
    session.user = user
    session.broker.events.emit(
        "authentication.succeeded", session=session, user=user.name, mechanism=method.mechanism
    )
    session.reply(session.connection.offer)


def _refuse(session: Session, user: str, mechanism: str) -> None:
    session.broker.events.emit(
        "authentication.failed", session=session, user=user, mechanism=mechanism
    )
    text = (
        f"Login was refused using authentication mechanism {mechanism}. "
        "For details see the broker logfile."
    )
    if "authentication_failure_close" in session.capabilities:
        problem = AccessRefused(text)
        problem.blames_method = False
        raise problem
    session.hang_up(text)


def understood(client_properties: Mapping[str, object]) -> frozenset[str]:
    """Return the names of what a client says it understands, as far as we know them."""
    capabilities = client_properties.get("capabilities")
    if not isinstance(capabilities, Mapping):
        return _names(())
    return _names(tuple(name for name in CAPABILITIES if capabilities.get(name) is True))


@lru_cache(maxsize=64)  # clients of one kind share it
def _names(known: tuple[str, ...]) -> frozenset[str]:
    return frozenset(known)


def connection_tune_ok(session: Session, method: ConnectionTuneOk) -> None:
    """Take note of nothing: the limits are checked and set in `protocol.connection`."""
    if session.vhost is not None:
        raise session.connection.unexpected(method)


def connection_open(session: Session, method: ConnectionOpen) -> None:
    """Let the client into its virtual host."""
    name = method.virtual_host
    if session.user is None or session.vhost is not None:  # behind a refused login; twice
        raise session.connection.unexpected(method)
    vhost = session.broker.vhosts.get(name)
    if vhost is None:
        raise NotAllowed(f"vhost {name} not found")
    if not session.broker.users.may_access(session.user.name, name):
        raise NotAllowed(_no_access(session.user, name))
    limit = session.broker.limits.max_connections
    if limit is not None and len(session.broker.sessions) > limit:
        raise NotAllowed(f"{_no_access(session.user, name)}: connection limit ({limit}) is reached")
    session.vhost = vhost
    session.reply(ConnectionOpenOk())


def _no_access(user: User, vhost: str) -> str:
    return f"access to vhost '{vhost}' refused for user '{user.name}'"


def connection_update_secret(session: Session, method: ConnectionUpdateSecret) -> None:
    """Accept a new secret: logins here do not expire, so there is nothing to renew."""
    session.reply(ConnectionUpdateSecretOk())


def connection_close(session: Session, method: ConnectionClose) -> None:
    """End everything of the client, its exclusive queues first, then confirm.

    Raises:
      NotLoaded: These are very many; the close is to be tried again.
    """
    session.reason = method.reply_text or "closed by the client"
    if not give_back(session):
        raise NotLoaded
    session.closing_since = session.broker.now
    session.reply(ConnectionCloseOk())


def connection_close_ok(session: Session, method: ConnectionCloseOk) -> None:
    """The client has seen our close."""
    if session.closing_since is None:
        raise session.connection.unexpected(method)
    session.close("closed by the server")


# channel


def channel_open(session: Session, number: int) -> None:
    """Open a channel; the limit counts open channels, whatever their numbers."""
    if number in session.channels:
        raise ChannelNotOpen("second 'channel.open' seen")
    limit, count = session.connection.channel_max, len(session.channels)
    if limit and count >= limit:
        problem = NotAllowed(
            f"number of channels opened ({count}) has reached the negotiated channel_max ({limit})"
        )
        problem.blames_method = False
        raise problem
    session.open_channel(number).reply(ChannelOpenOk())


def channel_is_open(channel: Channel, method: ChannelOpen) -> None:
    """Refuse to open a channel twice."""
    channel_open(channel.session, channel.number)


def channel_not_open(method: Method) -> ChannelNotOpen:
    """Return the error for any other method on a channel that is not open."""
    return ChannelNotOpen("expected 'channel.open'", method.class_id, method.method_id)


def channel_close(channel: Channel, method: ChannelClose) -> None:
    """Give back what the channel holds, then confirm."""
    channel.close()
    channel.reply(ChannelCloseOk())


def channel_flow(channel: Channel, method: ChannelFlow) -> None:
    """Confirm that contents flow; stopping them is what prefetch is for."""
    if not method.active:
        raise Unsupported("active=false")
    channel.reply(ChannelFlowOk(True))


CONNECTION_HANDLERS: dict[type, Callable[..., None]] = {
    ConnectionStartOk: connection_start_ok,
    ConnectionTuneOk: connection_tune_ok,
    ConnectionOpen: connection_open,
    ConnectionUpdateSecret: connection_update_secret,
    ConnectionClose: connection_close,
    ConnectionCloseOk: connection_close_ok,
}
HANDLERS: dict[type, Callable[..., None]] = {
    ChannelOpen: channel_is_open,
    ChannelClose: channel_close,
    ChannelFlow: channel_flow,
}

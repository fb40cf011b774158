"""Reports: internal events as log lines.

Law: one line where a connection opens and one where it ends; client mistakes are warnings, ours
are errors; never bodies, passwords or whole tables.

Called by: app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from leveret.broker.amqp.session import Session
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.errors import AMQPError

log = structlog.get_logger()


def subscribe(broker: Broker, level: str = "info") -> None:
    """Have the events of a broker logged, from a level on.

    Lines of a connection that would not be written are not made: filtering both takes a tenth of
    all that a short connection costs.
    """
    if level in {"debug", "info"}:
        broker.events.subscribe("connection.opened", _opened)
        broker.events.subscribe("connection.closed", _closed)
    for name, subscriber in (
        ("connection.failed", _connection_failed),
        ("channel.failed", _channel_failed),
        ("session.crashed", _crashed),
        ("handshake.failed", _handshake_failed),
        ("authentication.failed", _authentication_failed),
        ("argument.ineffective", _ineffective),
        ("clock.jumped", _clock_jumped),
        ("clock.slept", _clock_slept),
        ("delayed.dropped", _delayed_dropped),
        ("delayed.refused", _delayed_refused),
        ("delayed.kept", _delayed_kept),
    ):
        broker.events.subscribe(name, subscriber)


def _fields(session: Session) -> dict[str, object]:
    fields: dict[str, object] = {"peer": session.peer}
    if session.user is not None:
        fields["user"] = session.user.name
    if session.vhost is not None:
        fields["vhost"] = session.vhost.name
    client = session.name or session.client_properties.get("product")
    if isinstance(client, str):
        fields["client"] = client
    return fields


def _opened(session: Session) -> None:
    log.info("connection.opened", **_fields(session))


def _closed(session: Session, reason: str) -> None:
    log.info(
        "connection.closed",
        **_fields(session),
        duration_ms=session.broker.now - session.opened_at,
        bytes_in=session.octets_in,
        bytes_out=session.octets_out,
        reason=reason,
    )


def _connection_failed(session: Session, channel: int, error: AMQPError) -> None:
    log.warning(
        "connection.failed",
        **_fields(session),
        channel=channel,
        reply_code=error.code,
        reply_text=error.reply_text,
    )


def _channel_failed(session: Session, channel: int, error: AMQPError) -> None:
    log.warning(
        "channel.failed",
        **_fields(session),
        channel=channel,
        reply_code=error.code,
        reply_text=error.reply_text,
    )


def _crashed(session: Session, error: Exception) -> None:
    log.error("session.crashed", **_fields(session), exc_info=error)


def _handshake_failed(session: Session, reason: str) -> None:
    log.warning("handshake.failed", **_fields(session), reason=reason)


def _authentication_failed(session: Session, user: str, mechanism: str) -> None:
    log.warning("authentication.failed", peer=session.peer, user=user, mechanism=mechanism)


def _ineffective(vhost: VirtualHost, queue: Queue, argument: str) -> None:
    log.warning(
        "argument.ineffective",
        vhost=vhost.name,
        queue=queue.name,
        argument=argument,
        reason="no plugin gives this argument a meaning",
    )


def _clock_jumped(difference: int) -> None:
    log.warning("clock.jumped", difference_ms=difference)


def _clock_slept(milliseconds: int) -> None:
    log.warning("clock.slept", milliseconds=milliseconds)


def _delayed_dropped(exchange: Exchange, count: int) -> None:
    log.warning(
        "delayed.dropped",
        vhost=exchange.vhost.name,
        exchange=exchange.name,
        messages=count,
        reason="the exchange was deleted",
    )


def _delayed_refused(exchange: Exchange, count: int) -> None:
    log.warning(
        "delayed.refused",
        vhost=exchange.vhost.name,
        exchange=exchange.name,
        messages=count,
        reason="their delay was over, and a queue refused them",
    )


def _delayed_kept(vhost: VirtualHost, exchange: str, count: int) -> None:
    log.warning(
        "delayed.kept",
        vhost=vhost.name,
        exchange=exchange,
        messages=count,
        reason="their delay is over, their exchange is not there: they go on after a start with it",
    )

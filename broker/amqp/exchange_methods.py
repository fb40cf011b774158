"""Handlers of exchange.*: declare, delete, bind, unbind.

Law: checks come in RabbitMQ's order, since a client sees which one fails first; names are
stripped of CR and LF; what changes, core.vhost changes.

Called by: amqp.session, through HANDLERS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.arguments import ALTERNATE_EXCHANGE, check_exchange_name
from leveret.broker.core.checks import check_deletable, check_new_name, check_not_default
from leveret.protocol.methods import (
    ExchangeBind,
    ExchangeBindOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    ExchangeDeleteOk,
    ExchangeUnbind,
    ExchangeUnbindOk,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.amqp.channel import Channel

LINE_ENDS = str.maketrans("", "", "\r\n")


def stripped(name: str) -> str:
    """Return a name without CR and LF, which RabbitMQ takes out."""
    return name.translate(LINE_ENDS)


def exchange_declare(channel: Channel, method: ExchangeDeclare) -> None:
    """Make an exchange, or check that it is there."""
    session, vhost = channel.session, channel.session.vhost
    name = stripped(method.exchange)
    if method.passive:
        check_not_default(name)
        vhost.exchange(name)
    else:
        vhost.exchange_type(method.type)
        check_not_default(name)
        session.check_permission("configure", "exchange", name)
        if name not in vhost.exchanges:
            check_new_name("exchange", name)
            subject = vhost.described("exchange", name)
            alternate = check_exchange_name(method.arguments, ALTERNATE_EXCHANGE, subject)
            if alternate is not None:
                session.check_permission("read", "exchange", name)
                session.check_permission("write", "exchange", alternate)
        vhost.declare_exchange(
            name,
            method.type,
            durable=method.durable,
            auto_delete=method.auto_delete,
            internal=method.internal,
            arguments=method.arguments,
        )
    if not method.no_wait:
        channel.reply_durably(ExchangeDeclareOk())


def exchange_delete(channel: Channel, method: ExchangeDelete) -> None:
    """Delete an exchange; one that does not exist is gone already."""
    session, vhost = channel.session, channel.session.vhost
    name = stripped(method.exchange)
    check_deletable(vhost, name)
    session.check_permission("configure", "exchange", name)
    vhost.delete_exchange(name, if_unused=method.if_unused)
    if not method.no_wait:
        channel.reply_durably(ExchangeDeleteOk())


def exchange_bind(channel: Channel, method: ExchangeBind) -> None:
    """Bind an exchange to an exchange."""
    vhost = channel.session.vhost
    source, destination = _check_ends(channel, method)
    vhost.exchange(source)
    vhost.bind(source, vhost.exchange(destination), method.routing_key, method.arguments)
    if not method.no_wait:
        channel.reply_durably(ExchangeBindOk())


def exchange_unbind(channel: Channel, method: ExchangeUnbind) -> None:
    """Remove a binding between exchanges; one that does not exist is gone already."""
    vhost = channel.session.vhost
    source, destination = _check_ends(channel, method)
    exchange = vhost.exchanges.get(destination)
    if exchange is not None:
        vhost.unbind(source, exchange, method.routing_key, method.arguments)
    if not method.no_wait:
        channel.reply_durably(ExchangeUnbindOk())


def _check_ends(channel: Channel, method: ExchangeBind | ExchangeUnbind) -> tuple[str, str]:
    source, destination = stripped(method.source), stripped(method.destination)
    channel.session.check_permission("write", "exchange", destination)
    check_not_default(destination)
    check_source(channel, source, method.routing_key)
    return source, destination


def check_source(channel: Channel, source: str, routing_key: str) -> None:
    """Check the source of a binding: not the default exchange, and read permission."""
    check_not_default(source)
    session = channel.session
    session.check_permission("read", "exchange", source)
    exchange = session.vhost.exchanges.get(source)
    if exchange is not None and exchange.type.checks_topic:
        session.check_topic_permission("read", source, routing_key)


HANDLERS: dict[type, Callable[..., None]] = {
    ExchangeDeclare: exchange_declare,
    ExchangeDelete: exchange_delete,
    ExchangeBind: exchange_bind,
    ExchangeUnbind: exchange_unbind,
}

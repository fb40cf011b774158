"""Dispatch: which handler a command goes to, and what becomes of one that goes to none.

Law: what has a handler and an open channel never comes further than the table. The rest is
looked at in one order: a mistake the reader found, a connection that is closing, channel 0, a
channel we closed, one that was never open. Nothing is caught here: `Session.run` does that.

Called by: amqp.session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.amqp import (
    basic_methods,
    confirm_tx_methods,
    connection_methods,
    exchange_methods,
    queue_methods,
)
from leveret.broker.amqp.ending import method_of
from leveret.protocol.errors import AMQPError, ChannelNotOpen, CommandInvalid, PreconditionFailed
from leveret.protocol.handshake import State
from leveret.protocol.methods import (
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    ConnectionClose,
    ConnectionCloseOk,
)
from leveret.protocol.reader import Command, Oversized

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.amqp.session import Session

HANDLERS: dict[type, Callable[..., None]] = {
    **basic_methods.HANDLERS,
    **confirm_tx_methods.HANDLERS,
    **connection_methods.HANDLERS,
    **exchange_methods.HANDLERS,
    **queue_methods.HANDLERS,
}


def handle_rare(session: Session, number: int, command: Command) -> None:
    """Handle what is not for an open channel, or has no handler."""
    if isinstance(command, AMQPError):
        raise command
    if session.is_ended or (
        session.closing_since is not None
        and not isinstance(command, ConnectionClose | ConnectionCloseOk)
    ):
        return
    if number == 0:
        _handle_connection(session, command)
    elif number in session.closing_channels:
        _handle_closing(session, number, command)
    elif number not in session.channels:
        if not isinstance(command, ChannelOpen):
            raise connection_methods.channel_not_open(method_of(command))
        connection_methods.channel_open(session, number)
    elif isinstance(command, Oversized):
        limit = session.connection.reader.max_message_size
        raise PreconditionFailed(
            f"message size {command.size} is larger than configured max size {limit}"
        )
    else:
        raise CommandInvalid("unimplemented method")


def _handle_closing(session: Session, number: int, command: Command) -> None:
    """Drop what comes on a channel we closed, until the client confirms."""
    if isinstance(command, ChannelCloseOk):
        del session.closing_channels[number]
    elif isinstance(command, ChannelClose):
        session.send(number, ChannelCloseOk())
    elif isinstance(command, ChannelOpen):
        raise ChannelNotOpen("second 'channel.open' seen")


def _handle_connection(session: Session, command: Command) -> None:
    connection = session.connection
    handler = connection_methods.CONNECTION_HANDLERS.get(type(command))
    if handler is None:
        raise connection.unexpected(method_of(command))
    handler(session, command)
    if not session.is_running and session.vhost is not None and connection.state is State.RUNNING:
        session.is_running = True
        session.broker.events.emit("connection.opened", session=session)

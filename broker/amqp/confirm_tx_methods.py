"""Handlers of confirm.* and tx.*.

Law: a channel is in one of both modes or in none, and never changes from one to the other.

Called by: amqp.session, through HANDLERS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.amqp.transaction import Transaction
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.methods import (
    ConfirmSelect,
    ConfirmSelectOk,
    TxCommit,
    TxCommitOk,
    TxRollback,
    TxRollbackOk,
    TxSelect,
    TxSelectOk,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.amqp.channel import Channel


def confirm_select(channel: Channel, method: ConfirmSelect) -> None:
    """Have everything published from now on confirmed."""
    if channel.transaction is not None:
        raise PreconditionFailed("cannot switch from tx to confirm mode")
    channel.is_confirming = True
    if not method.no_wait:
        channel.reply(ConfirmSelectOk())


def tx_select(channel: Channel, method: TxSelect) -> None:
    """Hold publishes and settlements back from now on."""
    if channel.is_confirming:
        raise PreconditionFailed("cannot switch from confirm to tx mode")
    if channel.transaction is None:
        channel.transaction = Transaction()
    channel.reply(TxSelectOk())


def tx_commit(channel: Channel, method: TxCommit) -> None:
    """Carry out what was held back.

    Raises:
      Unfinished: There are more messages to be sent back before it is answered.
    """
    transaction = _transaction(channel)
    # If some are yet to be sent back, the commit was carried out when this was handled before.
    if not transaction.lost and transaction.commit(channel):
        channel.session.broker.batch.must_tell()
    transaction.send_back(channel)
    channel.reply_durably(TxCommitOk())


def tx_rollback(channel: Channel, method: TxRollback) -> None:
    """Drop what was held back."""
    _transaction(channel).rollback(channel)
    channel.reply(TxRollbackOk())


def _transaction(channel: Channel) -> Transaction:
    if channel.transaction is None:
        raise PreconditionFailed("channel is not transactional")
    return channel.transaction


HANDLERS: dict[type, Callable[..., None]] = {
    ConfirmSelect: confirm_select,
    TxSelect: tx_select,
    TxCommit: tx_commit,
    TxRollback: tx_rollback,
}

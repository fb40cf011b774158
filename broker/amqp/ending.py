"""Ending: how a mistake ends a channel or a connection, and what its client then lets go of.

Law: only `fail` makes a close of an error; the client confirms it. The other ways to the end are
methods of `Session`: `close` ends once what was written is sent, `give_up` without what waits for a
commit; `abort` and `hang_up` say nothing, at once and after a pause. All lead to `Session.forget`,
when the socket is closed.

Called by: amqp.session, amqp.connection_methods (connection.close), amqp.dispatch (method_of),
server.connection (a fault of ours), app (the broker stops).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.protocol.errors import AMQPError, ChannelException, InternalError
from leveret.protocol.handshake import State
from leveret.protocol.methods import BasicAck, ChannelClose, ConnectionClose, Method
from leveret.protocol.reader import Command, Contents, Oversized

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leveret.broker.amqp.session import Session
    from leveret.broker.core.queue import Queue

QUEUES_AT_A_STROKE = 500  # exclusive ones deleted before others get their turn


def fail(session: Session, number: int, problem: AMQPError, command: Command | None = None) -> None:
    """End a channel or the connection because of an error."""
    _blame(problem, command)
    is_soft = isinstance(problem, ChannelException) and number != 0
    session.broker.events.emit(
        "channel.failed" if is_soft else "connection.failed",
        session=session,
        channel=number,
        error=problem,
    )
    is_leaving = session.connection.state is State.LEAVING
    if session.closing_since is not None or session.is_ended or is_leaving:
        if not session.held or session.is_ended:
            session.end()
        return  # else its close, or close-ok, is still to come
    close = (problem.code, problem.reply_text, problem.class_id, problem.method_id)
    if is_soft:
        channel = session.channels.get(number)
        if channel is not None:
            channel.close()
        session.closing_channels[number] = None
        session.send(number, ChannelClose(*close))
        return
    session.reason = problem.reply_text
    give_back(session)
    session.closing_since = session.broker.now
    if session.connection.state is State.PRE_INIT:
        session.end()
        return
    if isinstance(problem, InternalError):  # a commit may never come now
        session.held.clear()
    session.reply(ConnectionClose(*close))


def _blame(problem: AMQPError, command: Command | None) -> None:
    """Have an error name the method it is about, if there is one."""
    if not problem.blames_method:
        problem.class_id = problem.method_id = 0
    elif not problem.class_id and command is not None and not isinstance(command, AMQPError):
        method = method_of(command)
        problem.class_id, problem.method_id = method.class_id, method.method_id


def method_of(command: Command) -> Method:
    """Return the method that a command is or starts with."""
    if isinstance(command, Method):
        return command
    if isinstance(command, Contents):
        return command[0].envelope.method
    if isinstance(command, Oversized):
        return command.method
    return BasicAck(0)


def give_back(session: Session) -> bool:
    """Let go of all the client holds: channels, consumers, exclusive queues.

    Returns:
      False if these are so many that they go some at a time; none is for others meanwhile.
    """
    session.is_running = False  # first: what its consumers were dealt now would be lost
    for channel in tuple(session.channels.values()):
        channel.close()
    queues = () if session.vhost is None else session.vhost.owned_by(session)
    if len(queues) > QUEUES_AT_A_STROKE or session.is_leaving:
        if not session.is_leaving:
            session.is_leaving = True
            session.broker.batch.returns.append(_delete_later(queues))
        return not queues
    for queue in queues:
        queue.vhost.delete_queue(queue)
    return True


def _delete_later(queues: Sequence[Queue]) -> Iterator[None]:
    for start in range(0, len(queues), QUEUES_AT_A_STROKE):
        for queue in queues[start : start + QUEUES_AT_A_STROKE]:
            queue.vhost.delete_queue(queue)
        yield

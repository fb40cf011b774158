"""Timers: heartbeats, and connections that take too long to open or to close.

Law: one task looks at all sessions twice a second, some at a time; nothing is allocated for those
with nothing due. Time comes from trio's clock, so a virtual clock drives it.

Called by: app (starts it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import structlog
import trio

if TYPE_CHECKING:
    from leveret.broker.amqp.session import Session
    from leveret.broker.server.turns import Turns

TICK = 0.5  # half the shortest heartbeat, which is one second: it is sent in time
AT_ONCE = 256  # sessions looked at before others get their turn
CLOSE_TIMEOUT_MS = 30_000  # for close-ok (RabbitMQ's figure)

log = structlog.get_logger()


async def watch(turns: Turns, handshake_timeout: float) -> None:
    """Look after all sessions, for ever."""
    while True:
        await trio.sleep(TICK)
        sessions = tuple(cast("dict[Session, None]", turns.broker.sessions))
        for start in range(0, len(sessions), AT_ONCE):
            now = trio.current_time()
            turns.look_at_clock()
            for session in sessions[start : start + AT_ONCE]:
                try:
                    check(session, now, handshake_timeout)
                except Exception as problem:
                    log.error("session.crashed", peer=session.peer, exc_info=problem)
                    session.abort("internal error")
            turns.finish()
            await trio.lowlevel.checkpoint()


def check(session: Session, now: float, handshake_timeout: float) -> None:
    """Do what is due for a session.

    Args:
      now: The time of its heartbeats, in seconds.
    """
    milliseconds = session.broker.now
    if session.closing_since is not None:
        if milliseconds - session.closing_since > CLOSE_TIMEOUT_MS:
            session.abort(f"no close-ok within {CLOSE_TIMEOUT_MS // 1000} s")
        return
    if not session.is_running:
        if (
            session.vhost is None
            and not session.is_ended
            and milliseconds - session.opened_at > handshake_timeout * 1000
        ):
            session.abort("handshake timeout")
        return
    connection = session.connection
    if not connection.heartbeat:
        return
    due = connection.next_deadline()
    if due is None or due > now:
        return
    beat = connection.beat(now)
    if beat.dead:
        session.abort("missed heartbeats from client")
    elif beat.data and not session.is_writing:  # else there is more for it to read than it takes
        session.outbox.append(beat.data)
        session.flush()
        connection.has_sent = False  # a heartbeat does not stand for the next one

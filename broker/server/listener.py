"""Listeners: sockets that accept clients.

Law: all of them are bound before any of them accepts, so a port in use stops the start and not
the service. Running out of descriptors delays accepting, it ends nothing.

Called by: app.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import trio

from leveret.broker.server.connection import SocketConnection
from leveret.broker.server.wire import SocketWire

if TYPE_CHECKING:
    from leveret.broker.server.turns import Turns

BACKLOG = 4096
# Clients accepted in one go, so that a storm of them leaves time for those that are in.
ACCEPT_LIMIT = 32
# Seconds until the next try when the process, the machine or the kernel's memory is at a limit;
# trio's figure for the same.
OVERLOAD_PAUSE = 0.1
# What binding to an address says whose family is not there.
ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

log = structlog.get_logger()


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Bind and listen on every address of a host; port 0 takes a free one.

    Addresses of a family that this machine does not have are left out, unless all are.

    Raises:
      OSError: An address cannot be used.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    absent = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            if port == 0 and listeners:
                address = (address[0], listeners[0].getsockname()[1], *address[2:])
            try:
                listeners.append(_listen(family, address))
            except OSError as problem:
                if problem.errno not in ABSENT:
                    raise
                absent = problem
        if not listeners:
            raise absent
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen(family: int, address: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is accepted inherits both: answers leave at once, and a peer that went without a
        # word is noticed in the end, also without heartbeats.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def listen_unix(path: str) -> socket.socket:
    """Bind and listen on a path; a socket left there by a dead process is replaced.

    Raises:
      OSError: The path cannot be used.
    """
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:  # alive, with its hands full
                raise _in_use() from None
            else:
                raise _in_use()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _in_use() -> OSError:
    return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def close(listener: socket.socket) -> None:
    """Stop accepting; the task that accepts ends by it."""
    if listener.fileno() < 0:
        return
    name = listener.getsockname()
    if trio.lowlevel.in_trio_run():
        trio.lowlevel.notify_closing(listener)
    listener.close()
    if isinstance(name, str) and name:
        with suppress(OSError):
            os.unlink(name)


async def accept(listener: socket.socket, turns: Turns, nursery: trio.Nursery) -> None:
    """Accept clients, until the listener is closed."""
    is_overloaded = False
    while listener.fileno() >= 0:
        try:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(ACCEPT_LIMIT):
                connected, address = listener.accept()
                _serve(connected, address, turns, nursery)
        except BlockingIOError:  # nobody waits any more
            is_overloaded = False
        except ConnectionAbortedError:
            continue
        except trio.ClosedResourceError:
            return
        except OSError as problem:
            if not is_overloaded:  # once, however long it lasts
                is_overloaded = True
                log.warning("accept.failed", reason=problem.strerror)
            await trio.sleep(OVERLOAD_PAUSE)


def _serve(connected: socket.socket, address: object, turns: Turns, nursery: trio.Nursery) -> None:
    limit = turns.broker.limits.max_connections
    if limit is not None and len(turns.broker.sessions) >= limit:
        log.warning("connection.refused", reason=f"limit of {limit} connections")
        connected.close()
        return
    peer, is_loopback = "unix", True
    if isinstance(address, tuple):
        host = address[0].removeprefix("::ffff:")
        peer = f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
        is_loopback = host.startswith("127.") or host == "::1"
    connected.setblocking(False)
    connection = SocketConnection(
        SocketWire(connected), turns, nursery, peer=peer, is_loopback=is_loopback
    )
    try:
        connection.start()
    except OSError:  # the kernel has no room to watch one more socket
        connection.end()
        raise

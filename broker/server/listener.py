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
from typing import TYPE_CHECKING

import structlog
import trio

from leveret.broker.server.connection import ClientConnection
from leveret.broker.server.wire import SocketWire

if TYPE_CHECKING:
    from leveret.broker.server.turns import Turns

BACKLOG = 4096
# Clients accepted in one go, so that a storm of them leaves time for those that are in.
ACCEPT_LIMIT = 32
# Errors of accept that pass: the process, the machine or the kernel's memory is at a limit.
OVERLOADED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
OVERLOAD_PAUSE = 0.1  # seconds; trio's figure for the same

log = structlog.get_logger()


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Bind and listen on every address of a host; port 0 takes a free one.

    Raises:
      OSError: The address cannot be used.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        listener = socket.socket(family, kind, protocol)
        listeners.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port == 0 and len(listeners) > 1:
            address = (address[0], listeners[0].getsockname()[1], *address[2:])
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    return listeners


def listen_unix(path: str) -> socket.socket:
    """Bind and listen on a path; a socket left there by a dead process is replaced.

    Raises:
      OSError: The path cannot be used.
    """
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def accept(listener: socket.socket, turns: Turns, nursery: trio.Nursery) -> None:
    """Accept clients and serve each in a task of its own, until the listener is closed."""
    while True:
        try:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(ACCEPT_LIMIT):
                connected, address = listener.accept()
                _serve(connected, address, turns, nursery)
        except BlockingIOError:
            continue
        except trio.ClosedResourceError:
            return
        except OSError as problem:
            if problem.errno in OVERLOADED:
                log.warning("accept.overloaded", reason=os.strerror(problem.errno or 0))
                await trio.sleep(OVERLOAD_PAUSE)
            elif listener.fileno() < 0:
                return


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
    connection = ClientConnection(
        SocketWire(connected), turns, nursery, peer=peer, is_loopback=is_loopback
    )
    nursery.start_soon(connection.serve)

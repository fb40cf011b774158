"""Wires: octets in and out of one socket, beneath the same session code.

Law: `write_now` never waits; what the peer does not take comes back, and `write` waits until it
takes more. Foreign errors (OSError, trio's) end here, as `WireClosed`.

Called by: server.listener (makes them), server.connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from leveret.protocol.content import Buffer

# What the kernel takes in one sendmsg (IOV_MAX on Linux).
MAX_BUFFERS = 1024
# Bodies from here on are handed to the kernel as they are; smaller ones are cheaper to join.
REFERENCE_SIZE = 8192
# Of more octets than that only as many parts are joined as one call takes: each join is a copy, and
# what the peer does not take is copied again.
JOINED_SIZE = 1 << 21
STRIDE = 17  # of the parts that are looked at; a delivery has 3 or 4 for each frame


class WireClosed(Exception):
    """The other side is gone, or we closed."""


class Wire(Protocol):
    """What a connection needs to write."""

    def write_now(self, parts: list[Buffer]) -> list[Buffer]:
        """Send what the peer takes without waiting; return the rest."""

    async def write(self, parts: list[Buffer]) -> list[Buffer]:
        """Wait until the peer takes some; return the rest."""


class SocketWire:
    """A plain socket.

    Args:
      connected: A socket that does not block.
    """

    __slots__ = ("_socket",)

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    @property
    def descriptor(self) -> int:
        """The number of its file."""
        return self._socket.fileno()

    def receive_now(self, size: int) -> bytes:
        """Return octets that have come; none mean the peer has ended.

        Raises:
          BlockingIOError: None have.
          WireClosed: The connection is broken.
        """
        try:
            return self._socket.recv(size)
        except BlockingIOError:
            raise
        except OSError as problem:
            raise WireClosed(str(problem)) from None

    def write_now(self, parts: list[Buffer]) -> list[Buffer]:
        """Send what the peer takes without waiting; return the rest.

        Raises:
          WireClosed: The connection is broken.
        """
        try:
            is_much = len(parts) > MAX_BUFFERS and _about(parts) > JOINED_SIZE
            while len(parts) > 1:
                some = parts[:MAX_BUFFERS]
                sizes = list(map(len, some))
                if max(sizes) < REFERENCE_SIZE:
                    if not is_much:
                        parts = [b"".join(parts)]
                        break
                    some, sizes = [b"".join(some)], [sum(sizes)]
                    parts = [*some, *parts[MAX_BUFFERS:]]
                sent = self._socket.sendmsg(some)
                if sent == sum(sizes):
                    parts = parts[len(some) :]
                else:
                    return _after(parts, sent)
            if not parts:
                return parts
            data = parts[0]
            sent = self._socket.send(data)
            return [] if sent == len(data) else [memoryview(data)[sent:]]
        except BlockingIOError:
            return parts
        except (OSError, ValueError) as problem:
            raise WireClosed(str(problem)) from None

    async def write(self, parts: list[Buffer]) -> list[Buffer]:
        """Wait until the peer takes some; return the rest."""
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except (OSError, ValueError, trio.ClosedResourceError) as problem:
            raise WireClosed(str(problem)) from None
        return self.write_now(parts)

    def close(self) -> None:
        """Close at once; whoever waits gets `WireClosed`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class StreamWire:
    """Any trio stream: TLS, and memory streams in tests. Only `write` sends."""

    __slots__ = ("_stream",)

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive(self, size: int) -> bytes:
        """Wait for octets; none mean the peer has ended."""
        try:
            return bytes(await self._stream.receive_some(size))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise WireClosed(str(problem)) from None

    def write_now(self, parts: list[Buffer]) -> list[Buffer]:
        """Return everything: a stream may always have to wait."""
        return parts

    async def write(self, parts: list[Buffer]) -> list[Buffer]:
        """Send everything."""
        try:
            await self._stream.send_all(b"".join(parts))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise WireClosed(str(problem)) from None
        return []

    async def aclose(self) -> None:
        """Close at once, without the farewells of TLS."""
        await trio.aclose_forcefully(self._stream)


def _about(parts: Sequence[Buffer]) -> int:
    """Return about how many octets many parts have."""
    return STRIDE * sum(map(len, parts[::STRIDE]))


def _after(parts: Sequence[Buffer], sent: int) -> list[Buffer]:
    """Return what is left of the parts after so many octets."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []

"""A broker with its sockets inside the test's own event loop, and peers that speak octets.

`Edge` is what `leveret serve` runs, on a free port of loopback. `Peer` is a client without
hidden reading: what it does not ask for stays in the kernel.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Self

import trio

from leveret.broker import app
from leveret.broker.config import Config, Listeners
from leveret.broker.core.broker import Broker
from leveret.broker.values import Address
from leveret.protocol.connection import Connection
from leveret.protocol.handshake import Role, settle
from leveret.protocol.methods import (
    BasicPublish,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStartOk,
    ConnectionTuneOk,
    Method,
)
from leveret.protocol.properties import Properties, encode
from leveret.protocol.reader import Command
from leveret.protocol.sasl import Credentials, plain_response
from leveret.protocol.writer import content_frames, method_frame

ANYWHERE = Listeners(amqp=(Address("127.0.0.1", 0),))
GUEST = plain_response(Credentials("guest", "guest"))
PATIENCE = 20  # seconds, for anything that must come


@dataclass
class Edge:
    """A running broker."""

    broker: Broker
    address: tuple[str, int]
    stop: trio.Event = field(default_factory=trio.Event)
    streams: list[trio.SocketStream] = field(default_factory=list)  # closed with it


@asynccontextmanager
async def edge(config: Config | None = None, **limits: int) -> AsyncIterator[Edge]:
    """Serve within the block; ended at once at its end."""
    config = replace(config or Config(), listeners=ANYWHERE, in_memory=True)
    if limits:
        config = replace(config, limits=replace(config.limits, **limits))
    broker = app.build(config)
    bound = app.listen(config)
    made = Edge(broker, bound[0].getsockname())
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(app.serve, broker, bound, config, made.stop)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        for stream in made.streams:
            await trio.aclose_forcefully(stream)


def publish(payload: bytes, key: str, channel: int = 1) -> bytes:
    """Return the frames of a message to the default exchange."""
    header = encode(Properties(), len(payload))
    frames = content_frames(channel, 131_072, header, [payload] if payload else [])
    return method_frame(channel, BasicPublish("", key)) + b"".join(frames)


class Peer:
    """One connection with channel 1 open."""

    def __init__(self, stream: trio.abc.Stream, capabilities: tuple[str, ...] = ()) -> None:
        self.stream = stream
        self.connection = Connection(Role.CLIENT)
        self.commands: list[tuple[int, Command]] = []
        self.capabilities = dict.fromkeys(capabilities, True)

    @classmethod
    async def connect(
        cls, edge: Edge, *, buffer: int = 0, capabilities: tuple[str, ...] = ()
    ) -> Self:
        """Open a connection; `buffer` is what its socket may hold unread, in octets."""
        made = trio.socket.socket()
        if buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await made.connect(edge.address)
        stream = trio.SocketStream(made)
        edge.streams.append(stream)
        peer = cls(stream, capabilities)
        await peer.open()
        return peer

    async def open(self, heartbeat: int = 0) -> None:
        """Shake hands, open channel 1."""
        await self.stream.send_all(self.connection.start())
        await self.next()
        properties = {"capabilities": self.capabilities}
        await self.send(0, ConnectionStartOk(properties, "PLAIN", GUEST, "en_US"))
        _, tune = await self.next()
        await self.send(0, settle(tune, ConnectionTuneOk(heartbeat=heartbeat)))  # type: ignore[arg-type]
        await self.send(0, ConnectionOpen("/"))
        assert isinstance((await self.next())[1], ConnectionOpenOk)
        assert isinstance(await self.call(ChannelOpen()), ChannelOpenOk)

    async def send(self, channel: int, *methods: Method) -> None:
        """Send methods."""
        await self.write(b"".join(self.connection.send(channel, method) for method in methods))

    async def write(self, data: bytes) -> None:
        """Send octets."""
        await self.stream.send_all(data)

    async def next(self) -> tuple[int, Command]:
        """Wait for a command."""
        with trio.fail_after(PATIENCE):
            while not self.commands:
                chunk = await self.stream.receive_some(65536)
                if not chunk:
                    raise EOFError("the broker closed the socket")
                self.commands += self.connection.receive_data(bytes(chunk))
        return self.commands.pop(0)

    async def call(self, method: Method) -> Command:
        """Send a method on channel 1 and wait for the answer."""
        await self.send(1, method)
        return (await self.next())[1]

    async def ended(self) -> bool:
        """Read to the end of the connection; whether there was one in time."""
        with trio.move_on_after(PATIENCE):
            try:
                while await self.stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass
            return True
        return False

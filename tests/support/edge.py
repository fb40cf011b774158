"""A broker with its sockets inside the test's own event loop, and peers that speak octets.

`Edge` is what `leveret serve` runs, on a free port of loopback or on a Unix socket. There, what is
sent has come at once, so a virtual clock does not overtake it. `Peer` is a client without hidden
reading: what it does not ask for stays in the kernel.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import trio

from leveret.broker import app
from leveret.broker.config import Config, Disk, Listeners
from leveret.broker.core.broker import Broker
from leveret.broker.persistence import Persistence
from leveret.broker.storage.base import Store
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
DURABLE = replace(Config(), listeners=ANYWHERE, disk=Disk(free=0.0))
GUEST = plain_response(Credentials("guest", "guest"))
LOW_ON_MEMORY = "low on memory"  # what blocked publishers are told
PATIENCE = 20  # seconds, for anything that must come


@dataclass
class Edge:
    """A running broker."""

    broker: Broker
    address: tuple[str, int] | str
    stop: trio.Event = field(default_factory=trio.Event)
    is_over: trio.Event = field(default_factory=trio.Event)
    streams: list[trio.SocketStream] = field(default_factory=list)  # closed with it

    async def connect(self, buffer: int = 0) -> trio.SocketStream:
        """Open a connection; `buffer` is what its socket may hold unread, in octets."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        made = trio.socket.socket(family)
        if buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            await made.connect(self.address)
        except OSError:
            made.close()
            raise
        self.streams.append(trio.SocketStream(made))
        return self.streams[-1]


@asynccontextmanager
async def edge(
    config: Config | None = None, *, path: Path | None = None, **limits: int
) -> AsyncIterator[Edge]:
    """Serve within the block, on a Unix socket if there is a path; ended at once at its end."""
    listeners = ANYWHERE if path is None else Listeners(amqp=(Address("", 0, str(path)),))
    config = replace(config or Config(), listeners=listeners, in_memory=True)
    if limits:
        config = replace(config, limits=replace(config.limits, **limits))
    broker = app.build(config)
    app.furnish(broker, config, app.read_topology(config), is_new=True)
    bound = app.listen(config)
    made = Edge(broker, bound[0].getsockname())

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await app.serve(broker, bound, config, made.stop, task_status=task_status)
        made.is_over.set()

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        for stream in made.streams:
            stream.socket.close()


@asynccontextmanager
async def durable(store: Store, nursery: trio.Nursery) -> AsyncIterator[tuple[Edge, Persistence]]:
    """Serve on a store within the block; all that the nursery runs is ended with it."""
    broker = app.build(DURABLE)
    persistence = Persistence(broker, store, limit=1 << 20)
    await persistence.open()
    app.furnish(broker, DURABLE, None, is_new=persistence.is_empty)
    bound = app.listen(DURABLE)
    made = Edge(broker, bound[0].getsockname())

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await app.serve(broker, bound, DURABLE, made.stop, persistence, task_status=task_status)
        made.is_over.set()

    try:
        await nursery.start(serve)
        yield made, persistence
    finally:
        nursery.cancel_scope.cancel()
        for stream in made.streams:
            stream.socket.close()
        await persistence.close()


def persistent(payload: bytes, key: str = "q") -> bytes:
    """Return the frames of a persistent message to the default exchange, on channel 1."""
    header = encode(Properties(delivery_mode=2), len(payload))
    frames = content_frames(1, 131_072, header, [payload])
    return method_frame(1, BasicPublish("", key)) + b"".join(frames)


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
        cls,
        edge: Edge,
        *,
        buffer: int = 0,
        capabilities: tuple[str, ...] = (),
        heartbeat: int = 0,
    ) -> Self:
        """Connect and open channel 1; `buffer` as in `Edge.connect`."""
        peer = cls(await edge.connect(buffer), capabilities)
        await peer.open(heartbeat)
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
        if self.commands:
            return self.commands.pop(0)
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

"""A blocking connection with one channel: quick enough to put a broker under load.

Law: what arrives is read from the socket before its end is noticed, so that no confirm that
reached us is overlooked. `Gone` says that the broker is.

Called by: workers, inspector, tests.
"""

import socket
from collections import deque
from collections.abc import Iterable
from select import select
from typing import TypeVar

from leveret.protocol.connection import Connection
from leveret.protocol.errors import AMQPError
from leveret.protocol.handshake import Role, settle
from leveret.protocol.methods import (
    BasicAck,
    BasicNack,
    BasicPublish,
    ChannelClose,
    ChannelOpen,
    ChannelOpenOk,
    ConfirmSelect,
    ConfirmSelectOk,
    ConnectionClose,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    Method,
)
from leveret.protocol.properties import Properties, encode
from leveret.protocol.reader import Acks, Command
from leveret.protocol.sasl import Credentials, plain_response
from leveret.protocol.writer import content_frames, method_frame

CHANNEL = 1
SECONDS = 30.0  # without an octet from the broker while one is waited for
READ_SIZE = 1 << 18
INTRODUCTION = {"capabilities": {"publisher_confirms": True, "basic.nack": True}}
PROPERTIES = {True: Properties(delivery_mode=2), False: Properties(delivery_mode=1)}

M = TypeVar("M", bound=Method)


class Gone(Exception):
    """The broker has gone away."""


class Refused(Exception):
    """The broker closed channel or connection; the text is its reason."""


class Link:
    """A connection with channel 1 open."""

    def __init__(self, address: tuple[str, int], *, confirms: bool = False) -> None:
        self._waiting: deque[Command] = deque()  # came before the reply that was waited for
        self._connection = Connection(Role.CLIENT)
        try:
            self.socket = socket.create_connection(address, SECONDS)
        except OSError as problem:
            raise Gone(str(problem)) from None
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open()
            if confirms:
                self.call(ConfirmSelect(), ConfirmSelectOk)
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self.send(self._connection.start())
        self.wait(ConnectionStart)
        response = plain_response(Credentials("guest", "guest"))
        self._send_on_0(ConnectionStartOk(INTRODUCTION, "PLAIN", response))
        self.wait(ConnectionTune)
        self._send_on_0(settle(self._connection.offer, ConnectionTuneOk(0, 131072, 0)))
        self._send_on_0(ConnectionOpen("/"))
        self.wait(ConnectionOpenOk)
        self.call(ChannelOpen(), ChannelOpenOk)

    def _send_on_0(self, method: Method) -> None:
        self.send(self._connection.send(0, method))

    def close(self) -> None:
        """Drop the connection without a word."""
        self.socket.close()

    # Out

    def send(self, data: bytes) -> None:
        """Send octets, all of them."""
        try:
            self.socket.sendall(data)
        except OSError as problem:
            self._overhear()
            raise Gone(str(problem)) from None

    def _overhear(self) -> None:
        """Take in what came before the end, for whoever asks for it afterwards."""
        self.socket.settimeout(0.2)
        try:
            while chunk := self.socket.recv(READ_SIZE):
                self._take_in(chunk)
        except (OSError, AMQPError, Gone, Refused):
            pass

    def tell(self, method: Method) -> None:
        """Send a method that has no answer."""
        self.send(method_frame(CHANNEL, method))

    def call(self, method: Method, reply: type[M]) -> M:
        """Send a method and return its answer; what comes before it is kept for `read`."""
        self.tell(method)
        return self.wait(reply)

    # In

    def wait(self, reply: type[M]) -> M:
        """Return the next method of a kind."""
        for index, command in enumerate(self._waiting):
            if isinstance(command, reply):
                del self._waiting[index]
                return command
        while True:
            seen = len(self._waiting)
            self._receive()
            for index in range(seen, len(self._waiting)):
                command = self._waiting[index]
                if isinstance(command, reply):
                    del self._waiting[index]
                    return command

    def read(self) -> list[Command]:
        """Return what has come, and wait for something if nothing has."""
        while not self._waiting:
            self._receive()
        return self.left()

    def poll(self) -> list[Command]:
        """Return what has come, without waiting."""
        while select([self.socket], [], [], 0)[0]:
            self._receive()
        return self.left()

    def left(self) -> list[Command]:
        """Return what has come and was not asked for yet."""
        commands = list(self._waiting)
        self._waiting.clear()
        return commands

    def _receive(self) -> None:
        try:
            chunk = self.socket.recv(READ_SIZE)
        except TimeoutError:
            raise AssertionError(f"the broker said nothing for {SECONDS:.0f} s") from None
        except OSError as problem:
            raise Gone(str(problem)) from None
        if not chunk:
            raise Gone("closed")
        self._take_in(chunk)

    def _take_in(self, chunk: bytes) -> None:
        for _, command in self._connection.receive_data(chunk):
            if isinstance(command, ConnectionClose | ChannelClose):
                if command.reply_code == 320:
                    raise Gone(command.reply_text)
                raise Refused(f"{command.reply_code} {command.reply_text}")
            if isinstance(command, Exception):
                raise command
            self._waiting.append(command)


def published(
    exchange: str, routing_key: str, body: bytes, persistent: bool = True, mandatory: bool = False
) -> bytes:
    """Return the octets of a publish."""
    header = encode(PROPERTIES[persistent], len(body))
    method = method_frame(CHANNEL, BasicPublish(exchange, routing_key, mandatory))
    return method + b"".join(content_frames(CHANNEL, 131072, header, [body]))


def confirmed_tags(commands: Iterable[Command]) -> Iterable[tuple[int, bool]]:
    """Yield tag and multiple of each confirm among commands."""
    for command in commands:
        if isinstance(command, Acks):
            yield from ((tag, False) for tag in command)
        elif isinstance(command, BasicAck):
            yield command.delivery_tag, command.multiple
        elif isinstance(command, BasicNack):
            raise Refused(f"a publish was refused: {command}")

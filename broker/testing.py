"""A broker within a program: no socket, no event loop, and time that goes on when it is told to.

Law: what a client sends is handled to the end before the call returns, by the same code as in the
server. Nothing happens by itself: time stands still until `advance`, which stops at every deadline
on its way, so that all is done at its own time and in order.

    with Embedded({"queues": ["tasks"]}) as broker:
        broker.publish("", "tasks", b"resize 7", expiration="60000")
        broker.advance(60)
        assert broker.get("tasks") is None

Called by: tests, the broker's own and everybody else's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from leveret.broker import definitions, plugins
from leveret.broker.amqp.session import Session
from leveret.broker.core.broker import Broker
from leveret.broker.document import Document
from leveret.protocol.connection import Connection
from leveret.protocol.errors import AMQPError, from_reply
from leveret.protocol.handshake import Role, settle
from leveret.protocol.methods import (
    BasicAck,
    BasicGet,
    BasicPublish,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    ChannelOpenOk,
    ConfirmSelect,
    ConnectionClose,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStartOk,
    ConnectionTuneOk,
    Method,
)
from leveret.protocol.properties import Properties, encode
from leveret.protocol.reader import Acks, Contents
from leveret.protocol.sasl import Credentials, plain_response
from leveret.protocol.writer import content_frames, method_frame

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Self

    from leveret.broker.core.broker import Limits
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.content import Buffer, Content

CAPABILITIES = ("consumer_cancel_notify", "connection.blocked", "authentication_failure_close")
UNLIMITED = ConnectionTuneOk(0, 0, 60)
FRAME_MAX = 131_072
NONE = Properties()
START_OF_TIME = 1_767_225_600_000  # of the wall clock: the first second of 2026
PUBLISHING, GETTING = 1, 2  # channels


class Received(NamedTuple):
    """A content that came in.

    Attributes:
      method: basic.deliver, -get-ok or -return.
    """

    method: Method
    body: bytes
    properties: Properties = NONE

    @property
    def tag(self) -> int:
        """The delivery tag."""
        tag: int = self.method.delivery_tag  # type: ignore[attr-defined]
        return tag


class Wire:
    """What a session asks of its socket; takes everything unless told how many octets."""

    def __init__(self) -> None:
        self.data = b""
        self.takes: int | None = None
        self.is_writing = False
        self.is_closed = False

    def write_now(self, parts: list[Buffer]) -> list[Buffer]:
        """Take octets; return what is not taken."""
        data = b"".join(parts)
        taken = len(data) if self.takes is None else min(self.takes, len(data))
        self.data += data[:taken]
        if self.takes is not None:
            self.takes -= taken
        return [data[taken:]] if taken < len(data) else []

    def start_writing(self) -> None:
        """Note that something is left to be written."""
        self.is_writing = True

    def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True

    def unblock(self) -> None:
        """Do nothing: it never waits."""


class Client:
    """A synchronous client with channel 1 open: a connection wired to a session, byte for byte.

    Attributes:
      wire: What the session has written and was not read yet.
      session: The broker's side of it.
      connection: The client's side.
    """

    def __init__(
        self,
        broker: Broker,
        user: str = "guest",
        password: str = "guest",
        *,
        vhost: str = "/",
        capabilities: Iterable[str] = CAPABILITIES,
        tune: ConnectionTuneOk = UNLIMITED,
    ) -> None:
        self.broker = broker
        self.wire = Wire()
        self.session = Session(broker, self.wire)
        self.connection = Connection(Role.CLIENT)
        self._received: list[tuple[int, Method | Received]] = []
        properties = {"capabilities": dict.fromkeys(capabilities, True)}
        self.feed(self.connection.start())
        response = plain_response(Credentials(user, password))
        self._handshake(ConnectionStartOk(properties, "PLAIN", response))
        self._handshake(settle(self.connection.offer, tune))
        self._handshake(ConnectionOpen(vhost))
        answers = self.take(0)
        if answers[-1:] != [ConnectionOpenOk()]:
            raise problem_of(answers)
        self.open_channel(1)

    def _handshake(self, method: Method) -> None:
        self.feed(self.connection.send(0, method))
        if any(isinstance(item, ConnectionClose) for _, item in self._received):
            raise problem_of(self.take(0))

    # Out

    def feed(self, data: bytes) -> None:
        """Hand octets to the session and finish the turn."""
        self.session.receive(data)
        while not self.session.run(_never):
            assert not self.session.is_blocked
            if self.session.is_waiting and self.broker.batch.returns:
                finish(self.broker)
        finish(self.broker)
        self._read()

    def send(self, *methods: Method, channel: int = 1) -> list[Method | Received]:
        """Send methods in one piece; return what came back on the channel since last taken."""
        self.feed(b"".join(method_frame(channel, method) for method in methods))
        return self.take(channel)

    def call(self, method: Method, channel: int = 1) -> Method | Received:
        """Send a method that has one answer; return it."""
        [answer] = self.send(method, channel=channel)
        return answer

    def open_channel(self, number: int) -> None:
        """Open one more channel."""
        answers = self.send(ChannelOpen(), channel=number)
        if answers != [ChannelOpenOk()]:
            raise problem_of([*answers, *self.take(0)])

    def lose(self) -> None:
        """Lose the socket."""
        self.session.forget()
        finish(self.broker)

    # In

    def _read(self) -> None:
        if not self.wire.data:
            return
        data, self.wire.data = self.wire.data, b""
        for channel, command in self.connection.receive_data(data):
            if isinstance(command, Contents):
                self._received += [(channel, received(content)) for content in command]
            elif isinstance(command, Acks):
                self._received += [(channel, BasicAck(tag)) for tag in command]
            elif isinstance(command, Method):
                self._received.append((channel, command))
            else:
                assert isinstance(command, AMQPError)
                raise command

    def take(self, channel: int = 1) -> list[Method | Received]:
        """Return what came on a channel and was not taken yet."""
        self._read()
        taken = [item for number, item in self._received if number == channel]
        self._received = [pair for pair in self._received if pair[0] != channel]
        return taken


def _never() -> bool:
    return False


def published(
    body: bytes, method: BasicPublish, channel: int = 1, properties: Properties = NONE
) -> bytes:
    """Return the octets of a publish."""
    return method_frame(channel, method) + content_of(body, channel, properties)


def content_of(body: bytes, channel: int = 1, properties: Properties = NONE) -> bytes:
    """Return the octets of a publish behind its method."""
    header = encode(properties, len(body))
    return b"".join(content_frames(channel, FRAME_MAX, header, [body] if body else []))


def received(content: Content) -> Received:
    """Return what came in; most has no properties to decode."""
    properties = content.properties if content.flags else NONE
    return Received(content.envelope.method, content.body, properties)


def problem_of(answers: Iterable[Method | Received]) -> AMQPError:
    """Return the error that an end of a channel or connection tells of."""
    for answer in answers:
        if isinstance(answer, ChannelClose | ConnectionClose):
            text = answer.reply_text.partition(" - ")[2] or answer.reply_text
            return from_reply(answer.reply_code, text)
    return from_reply(541, f"unexpected answers: {list(answers)!r}")


def finish(broker: Broker) -> None:
    """End turns until nothing is left to do."""
    batch = broker.batch
    while (
        batch.touched
        or batch.is_behind
        or batch.confirming
        or batch.flushing
        or batch.returns
        or batch.debris
    ):
        batch.resume()


def advance(broker: Broker, seconds: float) -> None:
    """Let time go on; what becomes due is done on the way, each thing at its own time."""
    end = broker.now + round(seconds * 1000)
    while (when := broker.timers.next) is not None and when <= end:
        broker.now = max(broker.now, when)
        broker.timers.run_due(broker.now, _never)
        finish(broker)
    broker.now = end


class Embedded:
    """A broker with all plugins, the default user and virtual host, and what a topology says.

    Attributes:
      broker: The broker itself.
      clients: Those that `connect` made.
    """

    def __init__(
        self,
        topology: Mapping[str, object] | str | Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Make it.

        Args:
          topology: What a topology file says, or where it is.
          limits: What connections may ask for.

        Raises:
          DocumentError: The topology has a mistake.
        """
        registry = plugins.load()
        self.broker = Broker(limits, registry=registry)
        self.broker.wall_offset = START_OF_TIME
        self.broker.add_defaults()
        self.clients: list[Client] = []
        if topology is not None:
            _read(topology, registry).apply(self.broker)
        self._own = self.connect()
        self._own.open_channel(GETTING)
        self._own.call(ConfirmSelect(), PUBLISHING)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections."""
        for client in self.clients:
            if client.session in self.broker.sessions:
                client.lose()

    @property
    def vhost(self) -> VirtualHost:
        """The default virtual host, with its queues and exchanges by name."""
        return self.broker.vhosts["/"]

    def connect(self, user: str = "guest", password: str = "guest", vhost: str = "/") -> Client:
        """Open one more connection.

        Raises:
          AMQPError: It was refused.
        """
        self.clients.append(Client(self.broker, user, password, vhost=vhost))
        return self.clients[-1]

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        mandatory: bool = False,
        **properties: object,
    ) -> bool:
        """Publish a message.

        Args:
          exchange: To which exchange; the default one has the empty name.
          routing_key: Its routing key.
          body: Its body.
          mandatory: Whether it must have a queue to go to.
          properties: Its properties, such as `headers`, `expiration`, `priority`, `delivery_mode`.

        Returns:
          Whether it was confirmed, and not sent back.

        Raises:
          AMQPError: The broker has closed the channel for it.
        """
        method = BasicPublish(exchange, routing_key, mandatory)
        data = published(body, method, PUBLISHING, Properties(**properties))  # type: ignore[arg-type]
        answers = self._say(data, PUBLISHING)
        return len(answers) == 1 and isinstance(answers[0], BasicAck)

    def get(self, queue: str) -> Received | None:
        """Take the first message out of a queue for good; None if there is none.

        Raises:
          AMQPError: The broker has closed the channel for it.
        """
        [answer] = self._say(method_frame(GETTING, BasicGet(queue, no_ack=True)), GETTING)
        return answer if isinstance(answer, Received) else None

    def _say(self, data: bytes, channel: int) -> list[Method | Received]:
        """Hand octets to a channel of its own, which is opened again if it is closed for them."""
        own = self._own
        own.feed(data)
        answers = own.take(channel)
        if answers and isinstance(answers[-1], ChannelClose):
            own.send(ChannelCloseOk(), channel=channel)
            own.open_channel(channel)
            if channel == PUBLISHING:
                own.call(ConfirmSelect(), channel)
            raise problem_of(answers)
        if not answers:
            raise problem_of(own.take(0))
        return answers

    def advance(self, seconds: float) -> None:
        """Let time go on; what becomes due is done on the way, each thing at its own time."""
        advance(self.broker, seconds)


def _read(
    topology: Mapping[str, object] | str | Path, registry: Registry
) -> definitions.Definitions:
    if isinstance(topology, Mapping):
        return definitions.from_node(
            Document("topology.json", json.dumps(topology)).root, registry=registry
        )
    return definitions.load(topology, registry=registry)

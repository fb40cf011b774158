"""A synchronous client: a protocol connection wired to a broker's session, byte for byte.

What the client sends is handled to the end, the turn finished, and what came back is read before
the call returns. There is no socket, no task and no clock.
"""

from collections.abc import Iterable
from typing import NamedTuple

from leveret.broker.amqp.session import Session
from leveret.broker.core.broker import Broker
from leveret.protocol.connection import Connection
from leveret.protocol.content import Content
from leveret.protocol.handshake import Role, settle
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicPublish,
    BasicQos,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStartOk,
    ConnectionTuneOk,
    Method,
    QueueDeclare,
)
from leveret.protocol.properties import Properties, encode
from leveret.protocol.reader import Acks, Contents
from leveret.protocol.sasl import Credentials, plain_response
from leveret.protocol.writer import content_frames, method_frame

CAPABILITIES = ("consumer_cancel_notify", "connection.blocked", "authentication_failure_close")
UNLIMITED = ConnectionTuneOk(0, 0, 60)
NONE = Properties()


class Received(NamedTuple):
    """A content that came in."""

    method: Method
    body: bytes
    properties: Properties = NONE

    @property
    def tag(self) -> int:
        return self.method.delivery_tag


class Wire:
    """What a session asks of its socket; takes everything unless told how many octets."""

    def __init__(self) -> None:
        self.data = b""
        self.takes: int | None = None
        self.is_writing = False
        self.is_closed = False

    def write_now(self, parts: list[bytes]) -> list[bytes]:
        data = b"".join(parts)
        taken = len(data) if self.takes is None else min(self.takes, len(data))
        self.data += data[:taken]
        if self.takes is not None:
            self.takes -= taken
        return [data[taken:]] if taken < len(data) else []

    def start_writing(self) -> None:
        self.is_writing = True

    def close(self) -> None:
        self.is_closed = True

    def unblock(self) -> None:
        pass


class Client:
    """One client connection with channel 1 open."""

    def __init__(
        self,
        broker: Broker,
        user: str = "guest",
        password: str = "guest",
        *,
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
        self._handshake(ConnectionOpen("/"))
        assert [ConnectionOpenOk()] == self.take(0)[-1:]
        self.open_channel(1)

    def _handshake(self, method: Method) -> None:
        self.feed(self.connection.send(0, method))

    # Out

    def feed(self, data: bytes) -> None:
        """Hand octets to the session and finish the turn."""
        self.session.receive(data)
        while not self.session.run(lambda: False):
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
        assert ChannelOpenOk() == self.call(ChannelOpen(), number)

    def publish(
        self,
        body: bytes,
        routing_key: str = "q",
        exchange: str = "",
        *,
        mandatory: bool = False,
        immediate: bool = False,
        channel: int = 1,
        **properties: object,
    ) -> list[Method | Received]:
        """Publish a message; return what came back on the channel."""
        method = BasicPublish(exchange, routing_key, mandatory, immediate)
        self.feed(published(body, method, channel, Properties(**properties)))
        return self.take(channel)

    def publish_many(
        self, bodies: Iterable[bytes], routing_key: str = "q", channel: int = 1
    ) -> list[Method | Received]:
        """Publish messages in one piece to the default exchange."""
        method = method_frame(channel, BasicPublish("", routing_key))
        self.feed(b"".join(method + content_of(body, channel) for body in bodies))
        return self.take(channel)

    def declare(self, name: str = "q", **options: object) -> Method | Received:
        return self.call(QueueDeclare(name, **options))

    def counts(self, name: str = "q", channel: int = 1) -> tuple[int, int]:
        """Return how many messages are ready in a queue, and how many consumers it has."""
        answer = self.call(QueueDeclare(name, passive=True), channel)
        return answer.message_count, answer.consumer_count

    def consume(
        self,
        queue: str = "q",
        tag: str = "c",
        *,
        prefetch: int | None = None,
        channel: int = 1,
        **options: object,
    ) -> list[Method | Received]:
        """Start a consumer; return consume-ok and what came with it."""
        if prefetch is not None:
            self.call(BasicQos(0, prefetch), channel)
        return self.send(BasicConsume(queue, tag, **options), channel=channel)

    def ack(self, tag: int, *, multiple: bool = False, channel: int = 1) -> list[Method | Received]:
        return self.send(BasicAck(tag, multiple), channel=channel)

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
            elif isinstance(command, Exception):
                raise command
            else:
                self._received.append((channel, command))

    def take(self, channel: int = 1) -> list[Method | Received]:
        """Return what came on a channel and was not taken yet."""
        self._read()
        taken = [item for number, item in self._received if number == channel]
        self._received = [pair for pair in self._received if pair[0] != channel]
        return taken

    def bodies(self, channel: int = 1) -> list[bytes]:
        """Take what came on a channel, deliveries only; return their bodies."""
        items = self.take(channel)
        assert all(isinstance(item, Received) for item in items), items
        return [item.body for item in items]


def in_one_slice(client: Client, *methods: Method) -> bool:
    """Have methods handled, but nothing that they leave for later; return whether all are."""
    client.session.receive(b"".join(method_frame(1, method) for method in methods))
    return client.session.run(lambda: False)


def finish(broker: Broker) -> None:
    """End turns until nothing is left to do."""
    batch = broker.batch
    while batch.touched or batch.is_behind or batch.confirming or batch.flushing or batch.returns:
        batch.resume()


def published(
    body: bytes, method: BasicPublish, channel: int = 1, properties: Properties = NONE
) -> bytes:
    """Return the octets of a publish."""
    return method_frame(channel, method) + content_of(body, channel, properties)


def content_of(body: bytes, channel: int = 1, properties: Properties = NONE) -> bytes:
    """Return the octets of a publish behind its method."""
    header = encode(properties, len(body))
    return b"".join(content_frames(channel, 131072, header, [body] if body else []))


def received(content: Content) -> Received:
    """Return what came in; most has no properties to decode."""
    properties = content.properties if content.flags else NONE
    return Received(content.envelope.method, content.body, properties)


def closed(answers: list[Method | Received]) -> tuple[int, str]:
    """Return code and text of a close that is the only answer."""
    [close] = answers
    return close.reply_code, close.reply_text

"""A synchronous client with what tests say often; how it works is in `leveret.broker.testing`."""

from collections.abc import Iterable

from leveret.broker import testing
from leveret.broker.testing import CAPABILITIES, Received, Wire, content_of, finish, published
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicPublish,
    BasicQos,
    Method,
    QueueDeclare,
)
from leveret.protocol.properties import Properties
from leveret.protocol.writer import method_frame

__all__ = [
    "CAPABILITIES",
    "Client",
    "Received",
    "Wire",
    "closed",
    "content_of",
    "finish",
    "in_one_slice",
    "published",
]


class Client(testing.Client):
    """One client connection with channel 1 open."""

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

    def bodies(self, channel: int = 1) -> list[bytes]:
        """Take what came on a channel, deliveries only; return their bodies."""
        items = self.take(channel)
        assert all(isinstance(item, Received) for item in items), items
        return [item.body for item in items]


def in_one_slice(client: Client, *methods: Method) -> bool:
    """Have methods handled, but nothing that they leave for later; return whether all are."""
    client.session.receive(b"".join(method_frame(1, method) for method in methods))
    return client.session.run(lambda: False)


def closed(answers: list[Method | Received]) -> tuple[int, str]:
    """Return code and text of a close that is the only answer."""
    [close] = answers
    return close.reply_code, close.reply_text

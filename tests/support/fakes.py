"""Stand-ins for what the core talks to."""

from leveret.broker.core.consumer import Consumer
from leveret.broker.core.message import Message, octets
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode


class Target:
    """A channel as queues see it: remembers what it got."""

    def __init__(self, window=0):
        self.window = window
        self.window_used = 0
        self.limit = 1 << 40  # what its connection takes
        self.parked = {}
        self.got = []  # consumer tag, position, body, redelivered
        self.held = []  # consumer, position, message
        self.cancellations = []

    def room(self, consumer):
        room = min(consumer.credit, self.limit - len(self.got))
        return min(room, self.window - self.window_used) if self.window else room

    def deliver(self, consumer, positions, messages, redelivered):
        for position, message in zip(positions, messages, strict=True):
            assert self.room(consumer) > 0
            self.got.append((consumer.tag, position, message.body, redelivered))
            if not consumer.no_ack:
                self.held.append((consumer, position, message))
                consumer.credit -= 1
                consumer.queue.unacked_count += 1
                consumer.queue.unacked_bytes += octets((message,))
                self.window_used += 1

    def cancelled(self, consumer):
        self.cancellations.append(consumer.tag)

    def consume(self, queue, tag="c", **options):
        consumer = Consumer(queue, self, tag, **options)
        queue.add_consumer(consumer)
        return consumer

    def take(self, count=None):
        """Let go of the first of what it holds, and of the room it took."""
        taken, self.held = self.held[:count], self.held[len(self.held[:count]) :]
        for consumer, _, _ in taken:
            consumer.credit += 1
            self.window_used -= 1
        return taken

    def unpark(self):
        for consumer in tuple(self.parked):
            if self.room(consumer) > 0:
                consumer.queue.unpark(consumer)

    def ack(self, count=None):
        for consumer, _, message in self.take(count):
            consumer.queue.settle(1, octets((message,)))
        self.unpark()

    def requeue(self, count=None):
        for consumer, position, message in self.take(count):
            consumer.queue.requeue([(position, message)])
        self.unpark()

    @property
    def bodies(self):
        return [body for _, _, body, _ in self.got]

    @property
    def tags(self):
        return [tag for tag, *_ in self.got]


def message(body: bytes, routing_key: str = "q", properties: Properties | None = None) -> Message:
    """Return a message that never crossed a wire."""
    header = encode(properties or Properties(), len(body))
    made = make_content(BasicPublish("", routing_key), header, body, Message)
    assert isinstance(made, Message)
    return made


def messages(*bodies: bytes | int) -> list[Message]:
    """Return messages with these bodies; numbers stand for their digits."""
    return [message(b"%d" % body if isinstance(body, int) else body) for body in bodies]

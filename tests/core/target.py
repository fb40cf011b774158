"""A target that keeps the accounts a channel keeps."""

from leveret.broker.core.runs import octets

from ..support import fakes


class Target(fakes.Target):
    """Counts the octets of what it holds."""

    def deliver(self, consumer, positions, messages, redelivered):
        super().deliver(consumer, positions, messages, redelivered)
        if not consumer.no_ack:
            consumer.queue.unacked_bytes += octets(messages)

    def ack(self, count=None):
        for consumer, _, message in self.take(count):
            consumer.queue.forget(1, octets((message,)))
        self.unpark()

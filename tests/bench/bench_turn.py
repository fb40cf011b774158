"""What a message costs in process, from the publisher's octets to the consumer's and back.

Two sessions without sockets: chunks of a publisher are fed, what the consumer gets is counted,
its acks are fed back. Prints CPU microseconds a message, the best of several rounds.

    python -m tests.bench.bench_turn [--profile]
"""

import cProfile
import gc
import random
import sys
from time import process_time

from leveret.broker.amqp.session import Session
from leveret.broker.core.broker import Broker
from leveret.protocol.constants import PROTOCOL_HEADER
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicPublish,
    BasicQos,
    ChannelOpen,
    ConfirmSelect,
    ConnectionOpen,
    ConnectionStartOk,
    ConnectionTuneOk,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
)
from leveret.protocol.properties import Properties, encode
from leveret.protocol.writer import content_frames, method_frame

CHUNK = 65536
COUNT = 20_000


class Peer:
    """A client whose octets are all read at once."""

    def __init__(self, broker):
        self.written = 0
        self.broker = broker
        self.session = Session(broker, self)
        self.feed(PROTOCOL_HEADER)
        self.send(0, ConnectionStartOk({}, "PLAIN", b"\0guest\0guest", "en_US"))
        self.send(0, ConnectionTuneOk(2047, 131072, 0))
        self.send(0, ConnectionOpen("/"))
        self.send(1, ChannelOpen())

    def write_now(self, parts):
        self.written += len(b"".join(parts))
        return []

    def send(self, channel, *methods):
        self.feed(b"".join(method_frame(channel, method) for method in methods))

    def feed(self, chunk):
        self.session.receive(chunk)
        while not self.session.run(lambda: False):
            pass
        self.broker.batch.finish()


def stream(sizes, keys, properties):
    """Return the octets of COUNT publishes."""
    out = []
    for number in range(COUNT):
        body = b"x" * random.choice(sizes)
        header = encode(properties(number), len(body))
        out.append(method_frame(1, BasicPublish("bench", random.choice(keys))))
        out += content_frames(1, 131072, header, [body])
    return b"".join(out)


def realistic(number):
    return Properties(message_id=f"{number:036d}", headers={"a": 1, "b": "x" * 8, "c": 2.5})


def run(name, data, keys, *, queues=1, confirm, prefetch, rounds=5):
    """Print the cost of one kind of traffic."""
    best = float("inf")
    for _ in range(rounds):
        broker = Broker()
        broker.add_defaults()
        publisher, consumers = Peer(broker), []
        publisher.send(1, ExchangeDeclare("bench", "direct"))
        for number in range(queues):
            consumer = Peer(broker)
            consumers.append(consumer)
            consumer.send(1, QueueDeclare(f"q{number}"), BasicQos(0, prefetch))
            for key in keys:
                consumer.send(1, QueueBind(f"q{number}", "bench", key))
            consumer.send(1, BasicConsume(f"q{number}", f"c{number}", no_ack=not prefetch))
        if confirm:
            publisher.send(1, ConfirmSelect())
        acks = [method_frame(1, BasicAck(tag)) for tag in range(COUNT + 1)]
        done = [1] * queues
        start = process_time()
        for at in range(0, len(data), CHUNK):
            publisher.feed(data[at : at + CHUNK])
            for index, consumer in enumerate(consumers if prefetch else ()):
                channel = consumer.session.channels[1]
                while channel.next_tag > done[index]:
                    tag = channel.next_tag
                    consumer.feed(b"".join(acks[done[index] : tag]))
                    done[index] = tag
        best = min(best, process_time() - start)
        delivered = sum(consumer.session.channels[1].next_tag - 1 for consumer in consumers)
        assert delivered == COUNT * queues, delivered
    print(f"{name:40} {best / delivered * 1e6:6.3f} µs a delivery")


def main():
    gc.set_threshold(50_000, 1_000_000, 1_000_000)
    few = [f"key.{number}" for number in range(20)]
    many = [f"key.{number}" for number in range(5000)]
    plain = lambda number: Properties()  # noqa: E731
    mixed = stream(range(100, 4096), few, realistic)
    run("realistic, confirms, ack each", mixed, few, confirm=True, prefetch=250)
    run("16 B, no ack", stream([16], ["key"], plain), ["key"], confirm=False, prefetch=0)
    run("1 KiB, ack each", stream([1024], ["key"], plain), ["key"], confirm=False, prefetch=250)
    fan = stream([256], ["key"], plain)
    run("fan-out to 10, 256 B", fan, ["key"], queues=10, confirm=False, prefetch=0, rounds=2)
    run("5,000 keys, 256 B", stream([256], many, plain), many, confirm=False, prefetch=0)


if __name__ == "__main__":
    if "--profile" in sys.argv:
        cProfile.run("main()", sort="tottime")
    else:
        main()

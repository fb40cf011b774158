"""What TTL, dead-lettering, delay and kinds cost: `python -m tests.bench.features --help`.

Law: what is measured happens inside the broker, after the generator has finished: all messages
come due at one moment, and the figures are those from that moment until the last one has arrived.
Kinds of queues are measured under a load, beside a plain queue with the same octets. CPU time is
the kernel's for the broker's process; the rate is wall-clock. All brokers have the same load in one
run. Bars that a run misses are named at the end.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Thread

from leveret.clients.perf import process
from leveret.clients.perf.link import CHANNEL, Link, frame
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicConsumeOk,
    BasicPublish,
    BasicQos,
    BasicQosOk,
    ConfirmSelect,
    ConfirmSelectOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
)
from leveret.protocol.properties import Properties, encode
from leveret.protocol.reader import Acks, Contents, Reader
from leveret.protocol.uri import parse
from leveret.protocol.writer import content_frames

from .brokers import Broker, brokers
from .workloads import LEVERET, RABBITMQ

BODY = b"x" * 256
WINDOW = 5000
AHEAD = 1.0  # seconds that the last message has left when it is published, at least
ALL = ("expire", "overflow", "delay", "lateness", "kinds")
PACE = 15_000  # messages a second that a broker takes in, as is supposed at first


class Client:
    """One connection: publishes with confirms, and counts."""

    def __init__(self, broker: Broker) -> None:
        self.link = Link(parse(broker.uri), "bench features")

    def declare(self, name: str, *, durable: bool, **arguments: object) -> None:
        """Make a queue."""
        arguments = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        method = QueueDeclare(name, durable=durable, arguments=arguments)
        self.link.call(method, QueueDeclareOk)

    def count(self, name: str) -> int:
        """Return how many messages are ready in a queue."""
        return self.link.call(QueueDeclare(name, passive=True), QueueDeclareOk).message_count

    def publish(self, messages: Iterator[bytes], count: int) -> float:
        """Publish frames, `WINDOW` at most unconfirmed; return the seconds until all were."""
        link = self.link
        link.call(ConfirmSelect(), ConfirmSelectOk)
        reader = Reader()
        started = time.perf_counter()
        sent = confirmed = 0
        while confirmed < count:
            room = min(WINDOW - (sent - confirmed), count - sent)
            if room >= WINDOW // 10 or (room and sent + room == count):
                link.socket.sendall(b"".join(next(messages) for _ in range(room)))
                sent += room
            chunk = link.socket.recv(1 << 16)
            for _, command in reader.feed(chunk):
                if isinstance(command, BasicAck):
                    confirmed = max(confirmed, command.delivery_tag)
                elif isinstance(command, Acks):
                    confirmed = max(confirmed, *command)
        return time.perf_counter() - started


def messages(
    method: BasicPublish, count: int, *, persistent: bool, **others: object
) -> Iterator[bytes]:
    """Return frames of messages with ids of their own; values that can be called are, each time."""
    head = frame(CHANNEL, method)
    for number in range(count):
        given = {key: value(number) if callable(value) else value for key, value in others.items()}
        mode = 2 if persistent else 1
        header = encode(Properties(message_id=str(number), delivery_mode=mode, **given), len(BODY))
        yield head + b"".join(content_frames(CHANNEL, 131072, header, [BODY]))


def measure(broker: Broker, client: Client, due: float, queue: str, count: int) -> dict:
    """Wait until a moment; return what it costs until so many messages have come to a queue."""
    time.sleep(max(due - time.time(), 0))
    cpu, started = process.cpu_seconds(broker.pid), time.perf_counter()
    before = client.count(queue)
    while client.count(queue) < count:
        time.sleep(0.01)
        if time.perf_counter() - started > 600:
            raise TimeoutError(f"{broker.name}: {client.count(queue)} of {count} came")
    seconds = time.perf_counter() - started
    used = process.cpu_seconds(broker.pid) - cpu
    moved = count - before
    return {"early": before, "rate": moved / seconds, "us": used / moved * 1e6}


def expire(broker: Broker, count: int, *, durable: bool) -> dict:
    """Have messages expire at one moment, and be dead-lettered."""
    for pace in (PACE, PACE / 2, PACE / 4, PACE / 8):
        due = _publish_to_expire(broker, count, pace, durable=durable)
        if time.time() < due:
            return measure(broker, Client(broker), due, "dead", count)
    raise TimeoutError(f"{broker.name} took too long to take in {count} messages")


def _publish_to_expire(broker: Broker, count: int, pace: float, *, durable: bool) -> float:
    """Publish messages that expire at one moment; return when that is."""
    broker.restart()
    client = Client(broker)
    client.declare("dead", durable=durable)
    client.declare("src", durable=durable, dead_letter_exchange="", dead_letter_routing_key="dead")
    due = time.time() + count / pace + AHEAD

    def left(_: int) -> str:
        return str(max(int((due - time.time()) * 1000), 0))

    method = BasicPublish("", "src")
    client.publish(messages(method, count, persistent=durable, expiration=left), count)
    return due


def overflow(broker: Broker, count: int, *, durable: bool) -> dict:
    """Have messages pushed out of a queue that holds 1,000, and be dead-lettered."""
    broker.restart()
    client = Client(broker)
    client.declare("dead", durable=durable)
    letters = {"dead_letter_exchange": "", "dead_letter_routing_key": "dead"}
    client.declare("src", durable=durable, max_length=1000, **letters)
    cpu = process.cpu_seconds(broker.pid)
    seconds = client.publish(messages(BasicPublish("", "src"), count, persistent=durable), count)
    while client.count("dead") < count - 1000:
        time.sleep(0.01)
    used = process.cpu_seconds(broker.pid) - cpu
    return {"rate": count / seconds, "us": used / count * 1e6}


def delay(broker: Broker, count: int) -> dict:
    """Have very many durable messages wait; see how fast they come in and come back."""
    broker.restart()
    client = Client(broker)
    client.declare("plain", durable=True)

    def headers(number: int) -> dict[str, int]:
        return {"x-delay": 3_600_000 + number * 7919 % 1_000_003}

    def to(exchange: str, key: str) -> Iterator[bytes]:
        return messages(BasicPublish(exchange, key), count, persistent=True, headers=headers)

    cpu = process.cpu_seconds(broker.pid)
    plain = client.publish(to("", "plain"), count)
    plain_us = (process.cpu_seconds(broker.pid) - cpu) / count * 1e6
    client.link.call(QueueDelete("plain"), QueueDeleteOk)
    client.link.call(
        ExchangeDeclare(
            "late", "x-delayed-message", durable=True, arguments={"x-delayed-type": "fanout"}
        ),
        ExchangeDeclareOk,
    )
    client.declare("out", durable=True)
    client.link.call(QueueBind("out", "late", ""), QueueBindOk)
    before = process.settled_rss_bytes(broker.pid)
    client = Client(broker)
    cpu = process.cpu_seconds(broker.pid)
    delayed = client.publish(to("late", ""), count)
    us = (process.cpu_seconds(broker.pid) - cpu) / count * 1e6
    resident = process.settled_rss_bytes(broker.pid)
    broker.kill()
    broker.resume()
    return {
        "plain_rate": count / plain,
        "plain_us": plain_us,
        "rate": count / delayed,
        "us": us,
        "octets_each": (resident - before) / count,
        "recovery_s": broker.start_ms[-1] / 1000,
    }


def lateness(broker: Broker, rate: int, seconds: int) -> dict:
    """Have so many messages a second come due; return how late they are delivered."""
    broker.restart()
    client, consumer = Client(broker), Client(broker)
    client.link.call(
        ExchangeDeclare(
            "late", "x-delayed-message", durable=True, arguments={"x-delayed-type": "fanout"}
        ),
        ExchangeDeclareOk,
    )
    client.declare("out", durable=True)
    client.link.call(QueueBind("out", "late", ""), QueueBindOk)
    count = rate * seconds
    start = time.time() + count / 20_000 + AHEAD
    dues = [int((start + number / rate) * 1000) / 1000 for number in range(count)]

    def at(number: int) -> dict[str, int]:
        return {"x-deliver-at": round(dues[number] * 1000), "n": number}

    client.publish(messages(BasicPublish("late", ""), count, persistent=True, headers=at), count)
    consumer.link.call(BasicConsume("out", "c", no_ack=True), BasicConsumeOk)
    reader, late = Reader(), []
    data = consumer.link.received
    consumer.link.socket.settimeout(60)
    while len(late) < count:
        for _, command in reader.feed(data):
            now = time.time()
            if isinstance(command, Contents):
                late += [now - dues[content.headers["n"]] for content in command]
        if len(late) < count:
            data = consumer.link.socket.recv(1 << 18)
    late.sort()
    return {
        "earliest_ms": late[0] * 1000,
        "p50_ms": late[count // 2] * 1000,
        "p99_ms": late[count * 99 // 100] * 1000,
        "max_ms": late[-1] * 1000,
    }


@dataclass(frozen=True)
class Kind:
    """A kind of queue, or of messages, that is measured beside a plain one.

    Attributes:
      bar: Times the CPU of a plain queue that a message may take.
      queue: Arguments of the queue.
      properties: Of each message: values, or functions of its number.
      plain: Those with the plain queue, of as many octets, if they are others.
    """

    bar: float
    queue: dict[str, object]
    properties: dict[str, object]
    plain: dict[str, object] | None = None


def _key(number: int) -> dict[str, str]:
    return {"key": f"key-{number * 7 % 10_000}"}


HOUR = "3600000"  # milliseconds: nothing expires
KINDS = {
    "priority": Kind(1.5, {"max_priority": 9}, {"priority": lambda number: number * 7 % 10}),
    "expiration": Kind(1.5, {}, {"expiration": HOUR}, {"type": HOUR}),
    "fair key": Kind(2, {"fair_key": "key"}, {"headers": _key}),
}
PREFETCH = 250
PIECE = 100  # messages that are sent at a stroke


def kind_of_queue(broker: Broker, count: int, kind: Kind, rounds: int) -> dict:
    """Have messages go through a plain queue and one of a kind by turns; return the CPU of one."""
    method = BasicPublish("", "q")
    given = list(messages(method, count, persistent=False, **kind.properties))
    plain = given
    if kind.plain is not None:
        plain = list(messages(method, count, persistent=False, **kind.plain))
    acks = [frame(CHANNEL, BasicAck(tag)) for tag in range(1, count + 1)]
    costs: dict[str, list[float]] = {"plain_us": [], "us": []}
    for _ in range(rounds):
        costs["plain_us"].append(_through(broker, plain, acks, {}))
        costs["us"].append(_through(broker, given, acks, kind.queue))
    best = {name: min(each) for name, each in costs.items()}
    return {**best, "ratio": best["us"] / best["plain_us"]}


def _through(
    broker: Broker, load: Sequence[bytes], acks: Sequence[bytes], arguments: dict[str, object]
) -> float:
    """Publish while a consumer acknowledges each; return the CPU of a message in microseconds."""
    broker.restart()
    producer, consumer = Client(broker), Client(broker)
    producer.declare("q", durable=False, **arguments)
    consumer.link.call(BasicQos(0, PREFETCH), BasicQosOk)
    consumer.link.call(BasicConsume("q", "c"), BasicConsumeOk)
    sending = Thread(target=_send, args=(producer.link, load), daemon=True)
    cpu = process.cpu_seconds(broker.pid)
    sending.start()
    _acknowledge(consumer.link, acks)
    sending.join()
    consumer.count("q")  # answered behind the last of what it acknowledged
    return (process.cpu_seconds(broker.pid) - cpu) / len(load) * 1e6


def _send(link: Link, load: Sequence[bytes]) -> None:
    for start, end in pairwise([*range(0, len(load), PIECE), len(load)]):
        link.socket.sendall(b"".join(load[start:end]))


def _acknowledge(link: Link, acks: Sequence[bytes]) -> None:
    reader, done, data = Reader(), 0, link.received
    link.received = b""
    link.socket.settimeout(60)
    while done < len(acks):
        got = done
        for _, command in reader.feed(data):
            got += len(command) if isinstance(command, Contents) else 1
        if got > done:
            link.socket.sendall(b"".join(acks[done:got]))
            done = got
        if done < len(acks):
            data = link.socket.recv(1 << 18)


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for, print the figures, name the bars that are missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.features", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--messages", type=int, default=200_000, help="that expire, overflow; 4 times each kind's"
    )
    parser.add_argument("--waiting", type=int, default=1_000_000, help="that wait")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help=", ".join(ALL))
    options = parser.parse_args(arguments)
    wanted = options.only.split(",") if options.only else ALL
    missed = [*_beside(options, wanted), *_alone(options, wanted), *_kinds(options, wanted)]
    print("\n".join(["missed:", *missed] if missed else ["all bars pass"]))
    return 1 if missed else 0


def _beside(options: argparse.Namespace, wanted: Sequence[str]) -> list[str]:
    """Measure Leveret and RabbitMQ; return the bars that are missed."""
    missed: list[str] = []
    for durable in (False, True):
        for kind, run in (("expire", expire), ("overflow", overflow)):
            if kind not in wanted:
                continue
            title = f"{kind}, {'durable' if durable else 'in memory'}"
            found = {}
            for broker in brokers([LEVERET, RABBITMQ], durable=durable):
                try:
                    rounds = [
                        run(broker, options.messages, durable=durable)
                        for _ in range(options.rounds)
                    ]
                    found[broker.name] = min(rounds, key=lambda each: each["us"])
                finally:
                    broker.stop()
            print(title, json.dumps(found), flush=True)
            missed += _judge(title, found) if kind == "expire" else []
    return missed


def _alone(options: argparse.Namespace, wanted: Sequence[str]) -> list[str]:
    """Measure what RabbitMQ has not, as Debian packages it; return the bars that are missed."""
    missed: list[str] = []
    if not {"delay", "lateness"} & set(wanted):
        return missed
    (broker,) = brokers([LEVERET], durable=True)
    try:
        if "delay" in wanted:
            figures = delay(broker, options.waiting)
            print("delay", json.dumps(figures), flush=True)
            if 2 * figures["rate"] < figures["plain_rate"]:
                missed.append("delay: published at less than half of a plain queue's rate")
            if figures["recovery_s"] > 3:
                missed.append("delay: recovery takes more than 3 s")
        if "lateness" in wanted:
            figures = lateness(broker, 5000, 10)
            print("lateness", json.dumps(figures), flush=True)
            if figures["p99_ms"] > 20:
                missed.append("lateness: p99 is above 20 ms")
            if figures["earliest_ms"] < 0:
                missed.append("lateness: one came too early")
    finally:
        broker.stop()
    return missed


def _kinds(options: argparse.Namespace, wanted: Sequence[str]) -> list[str]:
    """Measure kinds of queues beside a plain one; return the bars that are missed."""
    missed: list[str] = []
    if "kinds" not in wanted:
        return missed
    (broker,) = brokers([LEVERET])
    try:
        for name, kind in KINDS.items():
            figures = kind_of_queue(broker, options.messages // 2, kind, max(options.rounds, 3))
            print(name, json.dumps(figures), flush=True)
            if figures["ratio"] > kind.bar:
                missed.append(f"{name}: {figures['ratio']:.2f}x a plain queue, not {kind.bar}x")
    finally:
        broker.stop()
    return missed


def _judge(title: str, found: dict) -> list[str]:
    if RABBITMQ not in found:
        return []
    ours, theirs = found[LEVERET], found[RABBITMQ]
    missed = []
    if ours["rate"] < 4 * theirs["rate"]:
        missed.append(f"{title}: {ours['rate'] / theirs['rate']:.1f}x the rate, not 4x")
    if 6 * ours["us"] > theirs["us"]:
        missed.append(f"{title}: 1/{theirs['us'] / ours['us']:.1f} of the CPU, not 1/6")
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

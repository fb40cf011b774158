"""The workloads of the matrix and what Leveret must reach in each: the issue's table as data."""

from dataclasses import dataclass

RABBITMQ, GARAGEMQ, LEVERET = "rabbitmq", "garagemq", "leveret"


@dataclass(frozen=True)
class Workload:
    """A row.

    Attributes:
      key: For --only.
      arguments: Of `leveret perf`.
      kind: "load", or a measurement of its own: "connect", "idle", "fill", "start".
      cpu: RabbitMQ's CPU a message divided by this is the most Leveret may take; 0: no bar.
      rate: Times RabbitMQ's rate, at least; 0: no bar.
      latency: The latency that must not be above RabbitMQ's: "latency" or "confirm_latency".
      quantiles: Which of its percentiles.
      memory_kib: The most a connection or message may take, in KiB of resident memory.
      start_ms: The most a start may take.
      without: Brokers that this load says nothing about.
    """

    key: str
    name: str
    arguments: tuple[str, ...]
    kind: str = "load"
    cpu: float = 0.0
    rate: float = 0.0
    latency: str = ""
    quantiles: tuple[str, ...] = ()
    memory_kib: float = 0.0
    start_ms: float = 0.0
    without: tuple[str, ...] = ()


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Without confirms nothing but TCP holds a producer back, and a queue that grows is a different
# load for every broker (GarageMQ spills to its disk, RabbitMQ's takes twice the CPU time). So the
# loads without confirms pause while a given number of messages is on its way.
# GarageMQ confirms every 20 ms, whatever the load: the loads with confirms do not show its speed.
WORKLOADS = (
    Workload(
        "realistic",
        "realistic: 100 B-4 KiB mixed, message-ids, 3 headers, 20 keys, confirms (500), ack each, "
        "prefetch 250",
        _words(
            "-s 100-4k --message-ids --headers 3 -t direct --keys 20 --confirm 500 "
            "--ack 1 --prefetch 250"
        ),
        cpu=8,
        rate=5,
        without=(GARAGEMQ,),
    ),
    Workload(
        "small",
        "1 producer, 1 consumer, 16 B, auto-ack",
        _words("-s 16 --max-backlog 20000"),
        cpu=12,
        rate=8,
    ),
    Workload(
        "kib",
        "1p1c, 1 KiB, ack each, prefetch 250",
        _words("-s 1k --ack 1 --prefetch 250 --max-backlog 5000"),
        cpu=8,
        rate=5,
    ),
    Workload(
        "fanout",
        "fan-out to 10 queues with a consumer each, 256 B (a message = a delivery)",
        _words("-t fanout -q 10 -y 10 -s 256 --max-backlog 2000"),
        cpu=10,
        rate=6,
    ),
    Workload(
        "eight",
        "8 producers, 8 consumers, 8 queues, 256 B, ack multiple every 50",
        _words("-x 8 -y 8 -q 8 -s 256 --ack 50 --prefetch 250 --max-backlog 20000"),
        cpu=10,
        rate=6,
    ),
    Workload(
        "topic",
        "topic, 1,000 bindings of 10 queues, 10,000 distinct keys at random, 256 B",
        _words("-t topic -q 10 -y 10 --bindings 1000 --keys 10000 -s 256 --max-backlog 10000"),
        cpu=10,
        rate=8,
    ),
    Workload(
        "headers",
        "headers, 100 bindings, 256 B",
        _words("-t headers -q 10 -y 10 --bindings 100 -s 256 --max-backlog 10000"),
        cpu=12,
        rate=10,
    ),
    Workload(
        "sync",
        "one confirmed publish at a time, 8 connections",
        _words("-x 8 -y 8 -q 8 -s 256 --confirm 1"),
        cpu=2,
        rate=1.5,
        latency="confirm_latency",
        quantiles=("p50", "p99"),
        without=(GARAGEMQ,),
    ),
    Workload(
        "steady",
        "2,000 messages/s",
        _words("-s 256 -r 2000"),
        cpu=1.5,
        latency="latency",
        quantiles=("p50", "p99"),
    ),
    Workload(
        "hundred",
        "100 producers and 100 consumers, 100 queues, 50/s each",
        _words("-x 100 -y 100 -q 100 -r 50 -s 256"),
        cpu=1.5,
        latency="latency",
        quantiles=("p99",),
    ),
    Workload(
        "large",
        "4-64 KiB, confirms (window 100), ack each, prefetch 50",
        _words("-s 4k-64k --confirm 100 --ack 1 --prefetch 50"),
        cpu=4,
        rate=3,
        without=(GARAGEMQ,),
    ),
    Workload(
        "connect",
        "connect, open a channel, close",
        _words("--connect-rate --processes 4"),
        kind="connect",
        cpu=3,
        rate=2.5,
    ),
    Workload(
        "idle",
        "5,000 idle connections with a channel each",
        _words("--idle 5000"),
        kind="idle",
        memory_kib=20,
    ),
    Workload(
        "fill",
        "1,000,000 queued messages of 1 KiB",
        _words("--fill 1000000 -s 1k"),
        kind="fill",
        memory_kib=1.4,
    ),
    Workload(
        "start",
        "`leveret serve --in-memory` to ready line, warm file cache",
        (),
        kind="start",
        start_ms=300,
    ),
)

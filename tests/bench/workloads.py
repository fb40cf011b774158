"""The workloads of the matrix and what Leveret must reach in each: the issues' tables as data."""

from dataclasses import dataclass
from typing import Any

RABBITMQ, GARAGEMQ, LEVERET = "rabbitmq", "garagemq", "leveret"
MEMORY, DURABLE, LONG = "memory", "durable", "long"
GROUPS = (MEMORY, DURABLE, LONG)


@dataclass(frozen=True)
class Workload:
    """A row.

    Attributes:
      key: For --only.
      arguments: Of `leveret perf`.
      kind: "load", or a measurement of its own: "connect", "idle", "fill", "start", "recover",
        "paged".
      cpu: RabbitMQ's CPU a message divided by this is the most Leveret may take; 0: no bar.
      rate: Times RabbitMQ's rate, at least; 0: no bar.
      latency: The latency that must not be above RabbitMQ's: "latency" or "confirm_latency".
      quantiles: Which of its percentiles.
      memory_kib: The most a connection or message may take, in KiB of resident memory.
      start_ms: The most a start may take.
      without: Brokers that this load says nothing about.
      group: In memory; on disk; or on disk and too long for every day.
      limits_ms: The most that percentiles of `latency` may be, whatever RabbitMQ's are.
      written: The most octets written to disk for an octet of payload.
      stall_ms: The most that the 99.9th percentile of a small round trip may take beside the
        load.
      messages: In the queue of a measurement that is no load.
      acked: "none" of them before the broker is killed, or "half": every second one.
      recovery_s: The most that a start on what is there may take, with a cold cache.
      rss_mib: The most resident memory, ever.
      drain_rate: At least so many messages a second when the queue is emptied.
      file_mib: The most that the data directory may hold three minutes later.
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
    group: str = MEMORY
    limits_ms: tuple[tuple[str, float], ...] = ()
    written: float = 0.0
    stall_ms: float = 0.0
    messages: int = 0
    acked: str = "none"
    recovery_s: float = 0.0
    rss_mib: float = 0.0
    drain_rate: float = 0.0
    file_mib: float = 0.0


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Without confirms nothing but TCP holds a producer back, and a queue that grows is a different
# load for every broker (GarageMQ spills to its disk, RabbitMQ's takes twice the CPU time). So the
# loads without confirms pause while a given number of messages is on its way.
# GarageMQ confirms every 20 ms, whatever the load: the loads with confirms do not show its speed.
IN_MEMORY = (
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

STALL_MS = 20.0
NOT_RABBITMQ = (RABBITMQ, GARAGEMQ)


def _durable(
    key: str, name: str, arguments: str, *, stall_ms: float = STALL_MS, **bars: Any
) -> Workload:
    """Return a load of persistent messages in durable queues."""
    return Workload(
        f"durable-{key}",
        name,
        _words(f"{arguments} --persistent --durable"),
        group=DURABLE,
        stall_ms=stall_ms,
        without=(GARAGEMQ,),
        **bars,
    )


# Persistent messages in durable queues, RabbitMQ's on the same disk. A message that is acked
# before its batch is closed need not be written; the load without a consumer writes all.
ON_DISK = (
    _durable(
        "kib",
        "persistent 1 KiB, durable queue, confirms (500), ack each, prefetch 250",
        "-s 1k --confirm 500 --ack 1 --prefetch 250",
        cpu=4,
        rate=3,
        written=2,
    ),
    _durable(
        "eight",
        "the same, 8 publishers and 8 consumers on 8 queues",
        "-x 8 -y 8 -q 8 -s 1k --confirm 500 --ack 1 --prefetch 250",
        cpu=4,
        rate=3,
        written=2,
    ),
    _durable(
        "realistic",
        "realistic, persistent: 100 B-4 KiB mixed, message-ids, 3 headers, 20 keys, "
        "confirms (500), ack each, prefetch 250",
        "-s 100-4k --message-ids --headers 3 -t direct --keys 20 --confirm 500 "
        "--ack 1 --prefetch 250",
        cpu=4,
        rate=3,
    ),
    # So many that SQLite's log is moved into its file: what is written comes in such steps, too.
    _durable(
        "publish",
        "persistent 1 KiB, confirms (500), no consumer: the queue grows",
        "-y 0 -s 1k --confirm 500 --count 600000",
        cpu=3,
        rate=2,
        written=2,
    ),
    _durable(
        "sync",
        "one confirmed persistent publish at a time, 1 connection, no consumer",
        "-y 0 -s 256 --confirm 1",
        rate=1,
        latency="confirm_latency",
        quantiles=("p50",),
    ),
    # RabbitMQ confirms what a consumer without acks has taken, and writes nothing.
    _durable(
        "sync-taken",
        "the same, with a consumer (auto-ack)",
        "-s 256 --confirm 1",
        latency="confirm_latency",
    ),
    _durable(
        "steady",
        "20,000 persistent messages/s of 1 KiB, confirms, ack each",
        "-s 1k -r 20000 --confirm 10000 --ack 1 --prefetch 2000",
        latency="confirm_latency",
        quantiles=("p50", "p99"),
        limits_ms=(("p50", 5.0), ("p99", 15.0)),
        written=5,
    ),
    _durable(
        "slow",
        "100 persistent messages/s of 1 KiB, confirms, ack each",
        "-s 1k -r 100 --confirm 100 --ack 1 --prefetch 100",
        latency="confirm_latency",
    ),
    Workload(
        "recover",
        "start on 1,000,000 live messages of 1 KiB, cold cache",
        (),
        kind="recover",
        group=DURABLE,
        messages=1_000_000,
        recovery_s=2,
        without=NOT_RABBITMQ,
    ),
    Workload(
        "recover-half",
        "start on 1,000,000 live messages of 1 KiB, every second one of 2,000,000, cold cache",
        (),
        kind="recover",
        group=DURABLE,
        messages=2_000_000,
        acked="half",
        recovery_s=4,
        without=NOT_RABBITMQ,
    ),
)

BY_NIGHT = (
    Workload(
        "recover-10m",
        "start on 10,000,000 live messages of 1 KiB, cold cache",
        (),
        kind="recover",
        group=LONG,
        messages=10_000_000,
        recovery_s=15,
        without=NOT_RABBITMQ,
    ),
    Workload(
        "paged",
        "10,000,000 persistent messages of 1 KiB in one queue, then consumed",
        (),
        kind="paged",
        group=LONG,
        messages=10_000_000,
        stall_ms=STALL_MS,
        rss_mib=1024,
        drain_rate=100_000,
        file_mib=256,
        without=NOT_RABBITMQ,
    ),
)

WORKLOADS = (*IN_MEMORY, *ON_DISK, *BY_NIGHT)

"""What a long queue on disk costs: starting on it, keeping it, emptying it.

Law: messages are those of `leveret perf`, so that each that comes back is checked. The cache of
the files is dropped before a start is measured; figures of memory and disk are the kernel's.

Called by: matrix.
"""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom

from leveret.clients.perf import process
from leveret.clients.perf.consumer import TAG, Buffer, Consumer
from leveret.clients.perf.flow import Flow
from leveret.clients.perf.link import CHANNEL, Link, LinkLost, frame
from leveret.clients.perf.message import PRODUCER_MAGIC, Encoder, templates
from leveret.clients.perf.options import Options, Sizes
from leveret.clients.perf.producer import Producer
from leveret.clients.perf.verify import Ledger, Stream
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicConsumeOk,
    BasicQos,
    BasicQosOk,
    ConfirmSelect,
    ConfirmSelectOk,
    QueueDeclare,
    QueueDeclareOk,
)

from .brokers import Broker
from .probe import Probe
from .workloads import Workload

WINDOW = 2000
PREFETCH = 2000
STALL = 60.0  # seconds without progress
SETTLE = 180.0  # seconds in which the files shrink
MIB = 1 << 20


def recover(workload: Workload, broker: Broker, messages: int) -> dict:
    """Fill a queue, kill the broker, drop the cache, and see how long a start takes."""
    broker.restart()
    options = _options(broker)
    seconds = _fill(options, messages)
    if workload.acked == "half":
        _ack_every_second(options, messages)
    broker.kill()
    _forget(broker.data)
    size = disk_bytes(broker.data)
    broker.resume()
    live = messages // 2 if workload.acked == "half" else messages
    found = _declare(options).message_count
    figures = {
        "recovery_s": broker.start_ms[-1] / 1000,
        "fill_rate": messages / seconds,
        "file_mib": size / MIB,
        "verification": {"live": live, "found": found, "faultless": live == found},
    }
    broker.restart()
    return figures


def keep(workload: Workload, broker: Broker, messages: int) -> dict:
    """Fill a queue far beyond memory, empty it again, and wait until its files are small."""
    broker.restart()
    options = _options(broker)
    probe = Probe(broker.uri)
    probe.start()
    filled = _fill(options, messages)
    size = disk_bytes(broker.data)
    emptied, consumer, stream = _empty(options, messages)
    stalls = probe.finish()
    stream.close()
    faultless = not (
        consumer.damaged
        or stream.reordered
        or stream.ledger.duplicated
        or stream.ledger.lost(messages)
    )
    settle = SETTLE if messages == workload.messages else SETTLE / 18  # a quick run
    end = time.monotonic() + settle
    while time.monotonic() < end and disk_bytes(broker.data) > workload.file_mib * MIB:
        time.sleep(1.0)
    figures = {
        "fill_rate": messages / filled,
        "drain_rate": messages / emptied,
        "full_mib": size / MIB,
        "file_mib": disk_bytes(broker.data) / MIB,
        "shrunk_s": settle - max(0.0, end - time.monotonic()),
        "peak_rss_mib": process.peak_rss_bytes(broker.pid) / MIB,
        "verification": {"faultless": faultless},
        **stalls,
    }
    broker.restart()
    return figures


def disk_bytes(folder: Path) -> int:
    """Return what the files in a folder take up, but for the reserve.

    That is there as soon as the broker starts, and does not grow with messages.
    """
    found = 0
    for path in folder.rglob("*"):
        if path.name == "reserve":
            continue
        try:
            found += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return found


def write_floor_ms(folder: Path) -> float:
    """Return how long the disk takes to store a kibibyte for good: the median of some times."""
    times = []
    path = folder / "floor"
    with path.open("wb", buffering=0) as file:
        for _ in range(200):
            start = time.perf_counter()
            file.write(bytes(1024))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return sorted(times)[len(times) // 2] * 1000


def _options(broker: Broker) -> Options:
    prefix = f"journal-{SystemRandom().getrandbits(32):08x}"
    sizes = Sizes((1024,))
    return Options(uri=broker.uri, prefix=prefix, sizes=sizes, persistent=True, durable=True)


def _declare(options: Options) -> QueueDeclareOk:
    link = Link(options.parameters, "bench coordinator")
    try:
        return link.call(QueueDeclare(options.queue(0), durable=True), QueueDeclareOk)
    finally:
        link.close()


def _fill(options: Options, messages: int) -> float:
    """Have messages confirmed; return how long it took."""
    _declare(options)
    link = Link(options.parameters, "bench producer")
    link.call(ConfirmSelect(), ConfirmSelectOk)
    template = templates(options, range(1), link.frame_max)[0]
    producer = Producer(
        link,
        Encoder(template, 0, 0),
        message_size=template.mean,
        window=WINDOW,
        rate=0.0,
        limit=messages,
        room=None,
    )
    started = time.monotonic()
    _drive(producer, lambda: producer.confirmed, lambda: producer.finished)
    link.socket.close()
    return time.monotonic() - started


def _empty(options: Options, messages: int) -> tuple[float, Consumer, Stream]:
    """Consume messages; return how long it took, and what saw them."""
    link = Link(options.parameters, "bench consumer")
    link.call(BasicQos(0, PREFETCH), BasicQosOk)
    stream = Stream(Ledger())
    link.call(BasicConsume(options.queue(0), TAG), BasicConsumeOk)
    consumer = Consumer(
        link,
        Buffer(),
        lambda number: stream if number == PRODUCER_MAGIC else None,
        ack_every=PREFETCH // 4,
        verify="sample",
    )
    started = time.monotonic()
    _drive(consumer, lambda: consumer.received, lambda: consumer.received >= messages)
    seconds = time.monotonic() - started
    link.socket.close()
    return seconds, consumer, stream


def _ack_every_second(options: Options, messages: int) -> None:
    """Take everything, ack every second message, and have that committed."""
    link = Link(options.parameters, "bench consumer")
    stream = Stream(Ledger())
    link.call(BasicConsume(options.queue(0), TAG), BasicConsumeOk)
    consumer = Consumer(link, Buffer(), lambda _: stream, ack_every=0, verify="off")
    _drive(consumer, lambda: consumer.received, lambda: consumer.received >= messages)
    link.socket.setblocking(True)
    for start in range(0, messages, 2000):
        tags = range(start + 1, min(start + 2000, messages) + 1, 2)
        link.socket.sendall(b"".join(frame(CHANNEL, BasicAck(tag)) for tag in tags))
    # the answer says that the acks are handled; a declaration of something new, that they are kept
    link.received = b""
    link.call(QueueDeclare(f"{options.prefix}-end", durable=True), QueueDeclareOk)
    link.close()


def _drive(flow: Flow, count: Callable[[], int], is_over: Callable[[], bool]) -> None:
    """Run a producer or a consumer until it has done its work."""
    moved, before = time.monotonic(), -1
    while not is_over():
        wanted = [flow.socket] if flow.wants_write else []
        readable, writable, _ = select.select([flow.socket], wanted, [], 0.2)
        if readable:
            flow.readable()
        if writable and flow.wants_write:
            flow.writable()
        now = time.monotonic()
        if count() != before:
            before, moved = count(), now
        elif now - moved > STALL:
            raise LinkLost(f"nothing moved for {STALL:.0f} s, after {before:,} messages")


def _forget(folder: Path) -> None:
    """Drop the files in a folder from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

"""Fill: what a queued message costs in memory.

Law: all messages are confirmed before memory is looked at, so that none is counted that is still
on its way; the figure is that of a broker left alone until its memory stays as it is.

Called by: main (--fill).
"""

import select
import time
from dataclasses import replace

from leveret.clients.perf import process
from leveret.clients.perf.link import Link, LinkLost
from leveret.clients.perf.message import Encoder, templates
from leveret.clients.perf.options import Options
from leveret.clients.perf.producer import Producer
from leveret.clients.perf.report import Cost, Measurement, broker_lines
from leveret.clients.perf.run import Progress, RunFailed
from leveret.clients.perf.topology import declare, delete
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import ConfirmSelect, ConfirmSelectOk

WINDOW = 2000
STALL = 60.0  # seconds without a confirm


def fill(options: Options, progress: Progress) -> Measurement:
    """Queue messages that nobody consumes, and see what the broker's memory grows by."""
    plain = replace(options, consumers=0, queues=1, type="default", confirm=WINDOW)
    try:
        control = Link(options.parameters, "perf coordinator")
        declare(control, plain)
        pid = options.broker_pid
        before = process.settled_rss_bytes(pid) if pid else 0
        process.forget_peak(pid)
        cpu = process.cpu_seconds(pid) if pid else 0.0
        started = time.monotonic()
        try:
            _publish(plain, progress)
            seconds = time.monotonic() - started
            spent = process.cpu_seconds(pid) - cpu if pid else 0.0
            after = process.settled_rss_bytes(pid) if pid else 0
            peak = process.peak_rss_bytes(pid) if pid else 0
        finally:
            delete(control, plain)
            control.close()
    except (LinkLost, AMQPError, OSError) as problem:
        raise RunFailed(str(problem)) from None
    return _report(plain, seconds, before, after, Cost.of(spent, seconds, options.fill, peak))


def _publish(options: Options, progress: Progress) -> None:
    link = Link(options.parameters, "perf producer 0")
    link.call(ConfirmSelect(), ConfirmSelectOk)
    template = templates(options, range(1), link.frame_max)[0]
    producer = Producer(
        link,
        Encoder(template, 0, 0),
        message_size=template.mean,
        window=WINDOW,
        rate=0.0,
        limit=options.fill,
        room=None,
    )
    shown = moved = time.monotonic()
    confirmed = 0
    while not producer.finished:
        wanted = [producer.socket] if producer.wants_write else []
        readable, writable, _ = select.select([producer.socket], wanted, [], 0.2)
        if readable:
            producer.readable()
        if writable and producer.wants_write:
            producer.writable()
        now = time.monotonic()
        if producer.confirmed != confirmed:
            confirmed, moved = producer.confirmed, now
        if now - moved > STALL:
            raise LinkLost(f"no confirm for {STALL:.0f} s, after {confirmed:,} messages")
        if now - shown > 1:
            progress(f"{confirmed:,} messages queued")
            shown = now
    link.socket.close()


def _report(options: Options, seconds: float, before: int, after: int, cost: Cost) -> Measurement:
    count = options.fill
    each = (after - before) / 1024 / count
    peak = (cost.peak_rss_mib * 1024 - before / 1024) / count
    rows = [("queued", f"{count:,} messages of {options.sizes} bytes, {count / seconds:,.0f}/s")]
    if options.broker_pid:
        rows.append(("memory each", f"{each:.2f} KiB, at most {peak:.2f} KiB while filling"))
        rows += broker_lines(cost, "message")
    figures = {"rate": count / seconds, "rss_kib_each": each, "peak_rss_kib_each": peak}
    return Measurement(options, figures, rows, broker=cost if options.broker_pid else None)

"""Connections: how fast a broker takes them, and what an idle one costs.

Law: a connection is opened as clients do it, one step after the other, with a channel.

Called by: main (--connect-rate, --idle).
"""

import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

from leveret.clients.perf import process
from leveret.clients.perf.latency import Histogram
from leveret.clients.perf.link import Link, LinkLost
from leveret.clients.perf.options import Options
from leveret.clients.perf.report import Cost, Measurement, broker_lines, latency_lines, limit_of
from leveret.clients.perf.run import Progress, RunFailed, allow_many_files
from leveret.protocol.errors import AMQPError

PATIENCE = 30.0  # seconds beyond the time asked for
REFUSALS = 20  # a broker may drop some under pressure, but not more than it serves
TELL_EVERY = 500  # idle connections


def connect_rate(options: Options, progress: Progress) -> Measurement:
    """Connect, open a channel and close, in several processes for some time."""
    context = get_context("fork")
    workers, pipes = [], []
    for _ in range(options.processes):
        ours, theirs = context.Pipe()
        workers.append(context.Process(target=_connect_often, args=(options, theirs), daemon=True))
        workers[-1].start()
        pipes.append(ours)
    try:
        progress("warming up")
        time.sleep(options.warmup)
        before = _usage(options, [worker.pid or 0 for worker in workers])
        time.sleep(options.time)
        after = _usage(options, [worker.pid or 0 for worker in workers])
        histogram, refused = Histogram(), 0
        for pipe in pipes:
            answer = pipe.recv() if pipe.poll(PATIENCE) else "a worker did not report"
            if not isinstance(answer, tuple):
                raise RunFailed(str(answer))
            histogram.merge(answer[0].counts)
            refused += answer[1]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    rate = histogram.total / options.time
    seconds = after[0] - before[0]
    used = [end - start for start, end in zip(before[2], after[2], strict=True)]
    cores, busiest = sum(used) / seconds, max(used) / seconds
    cost = None
    if options.broker_pid:
        peak = process.peak_rss_bytes(options.broker_pid)
        cost = Cost.of(after[1] - before[1], seconds, histogram.total, peak)
    latency = histogram.summary()
    limit = limit_of(cost.cores if cost else 0.0, cores, busiest)
    rows = [("connections", f"{rate:,.0f}/s opened with a channel, and closed")]
    rows += latency_lines("each took", latency) + broker_lines(cost, "connection")
    rows += [("generator", f"{cores:.2f} cores"), ("limited by", limit)]
    if refused:
        rows.append(("failed", f"{refused:,} connections"))
    return Measurement(options, {"rate": rate, "refused": refused}, rows, latency, cost, limit)


def idle(options: Options, progress: Progress) -> Measurement:
    """Open connections that do nothing, and see what the broker's memory grows by."""
    allow_many_files()
    pid = options.broker_pid
    before = process.settled_rss_bytes(pid) if pid else 0
    links: list[Link] = []
    started = time.monotonic()
    try:
        for number in range(options.idle):
            links.append(Link(options.parameters, "perf idle"))
            if number % TELL_EVERY == 0:
                progress(f"{number:,} connections")
        seconds = time.monotonic() - started
        after = process.settled_rss_bytes(pid) if pid else 0
    except (LinkLost, AMQPError, OSError) as problem:
        raise RunFailed(f"after {len(links):,} connections: {problem}") from None
    finally:
        for link in links:
            link.socket.close()
    each = (after - before) / 1024 / options.idle
    rows = [("idle connections", f"{options.idle:,} with a channel each, in {seconds:.1f} s")]
    if pid:
        rows.append(("broker memory", f"{each:.1f} KiB each ({after / 2**20:,.0f} MiB in all)"))
    figures = {"rate": options.idle / seconds, "rss_kib_each": each, "rss_mib": after / 2**20}
    return Measurement(options, figures, rows)


def _usage(options: Options, workers: list[int]) -> tuple[float, float, list[float]]:
    broker = process.cpu_seconds(options.broker_pid) if options.broker_pid else 0.0
    return time.monotonic(), broker, [process.cpu_seconds(worker) for worker in workers]


def _connect_often(options: Options, pipe: Connection) -> None:
    parameters, histogram = options.parameters, Histogram()
    clock = time.monotonic_ns
    start = clock() + int(options.warmup * 1e9)
    end = start + int(options.time * 1e9)
    now, refused = clock(), 0
    try:
        while now < end:
            try:
                Link(parameters, "perf connect").close()
            except (LinkLost, AMQPError, OSError) as problem:
                refused += 1
                if refused > REFUSALS and refused > histogram.total:
                    pipe.send(str(problem))
                    return
            before, now = now, clock()
            if start <= now < end:
                histogram.add(now - before)
        pipe.send((histogram, refused))
    except KeyboardInterrupt:
        pass

"""Runs: declare, start the workers, measure a window of time, drain, sum up.

Law: rates and the broker's CPU time are those of one window, after a warm-up and before the
producers stop; verification is of the whole run, after all messages had time to arrive. Every
wait ends by itself.

Called by: main.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from random import SystemRandom
from typing import TYPE_CHECKING

from leveret.clients.perf import process
from leveret.clients.perf.latency import Histogram
from leveret.clients.perf.link import Link, LinkLost
from leveret.clients.perf.options import Options
from leveret.clients.perf.report import Cost, Report
from leveret.clients.perf.topology import declare, delete
from leveret.clients.perf.verify import Verdict, merge
from leveret.clients.perf.worker import Board, Counter, Findings, Phase, Share, Worker, shares
from leveret.protocol.errors import AMQPError

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

PREPARE_PATIENCE = 60.0  # seconds for all to be connected
BACKLOG_PATIENCE = 300.0
STALL = 5.0  # seconds without progress after which what is missing counts as lost
DRAIN_PATIENCE = 120.0
LINGER = 0.2  # seconds in which a duplicate of the last message would arrive
GLANCE = 0.1

Progress = Callable[[str], None]


class RunFailed(Exception):
    """A run that cannot be reported on."""


@dataclass(slots=True)
class Sample:
    """The counters at a moment."""

    time: float
    published: int
    confirmed: int
    delivered: int
    broker_cpu: float
    machine_cpu: float
    worker_cpu: list[float]


class Run:
    """One load, from declaring to the report."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._shares = shares(options)
        self._board = Board(len(self._shares))
        self._workers: list[ForkProcess] = []
        self._pipes: list[Connection] = []

    def execute(self) -> Report:
        """Run it.

        Raises:
          RunFailed: The broker, or a worker, ended it.
        """
        allow_many_files()
        options = self._options
        try:
            link = Link(options.parameters, "perf coordinator")
            declare(link, options)
        except (LinkLost, AMQPError) as problem:
            raise RunFailed(str(problem)) from None
        try:
            self._start_workers()
            first, last, seconds = self._measure()
            peak = process.peak_rss_bytes(options.broker_pid) if options.broker_pid else 0
            self._drain()
            findings = self._collect()
        finally:
            for worker in self._workers:
                worker.kill()
                worker.join()
            self._clean_up(link)
        return self._sum_up(first, last, seconds, peak, findings)

    def _start_workers(self) -> None:
        context = get_context("fork")
        number = SystemRandom().getrandbits(32)
        for share in self._shares:
            ours, theirs = context.Pipe()
            worker = context.Process(
                target=_work, args=(self._options, share, self._board, number, theirs), daemon=True
            )
            worker.start()
            theirs.close()
            self._workers.append(worker)
            self._pipes.append(ours)
        self._wait_until(
            lambda: self._board.total(Counter.READY) == len(self._shares),
            PREPARE_PATIENCE,
            "the generator did not get all its connections",
        )

    def _measure(self) -> tuple[Sample, Sample, float]:
        options = self._options
        if options.count:
            first = self._sample()
            self._board.phase = Phase.WARM
            self._board.phase = Phase.MEASURE
            process.forget_peak(options.broker_pid)
            self._watch(lambda: self._all_published() and self._all_delivered())
            self._board.phase = Phase.DRAIN
        else:
            self._board.phase = Phase.WARM
            self._wait_until(
                lambda: self._board.total(Counter.PUBLISHED) >= options.backlog,
                BACKLOG_PATIENCE,
                f"{options.backlog:,} messages were not published in time",
            )
            self._pass(options.warmup)
            process.forget_peak(options.broker_pid)
            self._board.phase = Phase.MEASURE
            first = self._sample()
            self._pass(options.time)
        last = self._sample()
        self._board.phase = Phase.DRAIN
        return first, last, last.time - first.time

    def _pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._watch(lambda: time.monotonic() >= end)

    def _watch(self, finished: Callable[[], bool]) -> None:
        """Wait, and say how it goes every second; give up when nothing moves."""
        shown = moved = time.monotonic()
        before = self._sample()
        state = (0, 0)
        while not finished():
            self._check_workers(GLANCE)
            now = time.monotonic()
            current = (self._board.total(Counter.PUBLISHED), self._board.total(Counter.DELIVERED))
            if current != state:
                state, moved = current, now
            if self._options.count and now - moved > STALL:
                return
            if now - shown >= 1.0:
                sample = self._sample()
                self._progress(_progress_line(before, sample))
                before, shown = sample, now

    def _drain(self) -> None:
        """Let everything arrive that was published."""
        deadline = time.monotonic() + DRAIN_PATIENCE
        state, moved = (0, 0), time.monotonic()
        while not (self._all_published() and self._all_delivered()):
            self._check_workers(0.02)
            current = (self._board.total(Counter.CONFIRMED), self._board.total(Counter.DELIVERED))
            now = time.monotonic()
            if current != state:
                state, moved = current, now
            if now - moved > STALL or now > deadline:
                break
        time.sleep(LINGER)
        self._board.phase = Phase.END

    def _all_published(self) -> bool:
        return self._board.total(Counter.DONE) == len(self._shares)

    def _all_delivered(self) -> bool:
        options = self._options
        wanted = self._board.total(Counter.PUBLISHED) * options.copies if options.consumers else 0
        return self._board.total(Counter.DELIVERED) >= wanted

    def _collect(self) -> list[Findings]:
        findings = []
        for pipe in self._pipes:
            answer = pipe.recv() if pipe.poll(PREPARE_PATIENCE) else "a worker did not report"
            if not isinstance(answer, Findings):
                raise RunFailed(str(answer))
            findings.append(answer)
        return findings

    def _wait_until(self, fulfilled: Callable[[], bool], patience: float, problem: str) -> None:
        end = time.monotonic() + patience
        while not fulfilled():
            if time.monotonic() > end:
                raise RunFailed(problem)
            self._check_workers(0.01)

    def _check_workers(self, seconds: float) -> None:
        """Sleep; a worker that reports this early has failed."""
        for pipe in wait(self._pipes, seconds):
            try:
                answer = pipe.recv() if isinstance(pipe, Connection) else pipe
            except EOFError:
                answer = "a worker died"
            raise RunFailed(str(answer))

    def _sample(self) -> Sample:
        board, pid = self._board, self._options.broker_pid
        return Sample(
            time.monotonic(),
            board.total(Counter.PUBLISHED),
            board.total(Counter.CONFIRMED),
            board.total(Counter.DELIVERED),
            process.cpu_seconds(pid) if pid else 0.0,
            process.machine_seconds() - time.process_time(),
            [process.cpu_seconds(worker.pid or 0) for worker in self._workers],
        )

    def _sum_up(
        self, first: Sample, last: Sample, seconds: float, peak: int, findings: list[Findings]
    ) -> Report:
        options = self._options
        published, delivered = last.published - first.published, last.delivered - first.delivered
        messages = delivered if options.consumers else published
        latency, confirm_latency = Histogram(), Histogram()
        for each in findings:
            latency.merge(each.latency.counts)
            confirm_latency.merge(each.confirm_latency.counts)
        shares_of_core = [
            (end - start) / seconds
            for start, end in zip(first.worker_cpu, last.worker_cpu, strict=True)
        ]
        broker_cpu = last.broker_cpu - first.broker_cpu
        others = (last.machine_cpu - first.machine_cpu - broker_cpu) / seconds - sum(shares_of_core)
        return Report(
            options=options,
            seconds=seconds,
            published_rate=published / seconds,
            confirmed_rate=(last.confirmed - first.confirmed) / seconds,
            delivered_rate=delivered / seconds,
            latency=latency.summary(),
            confirm_latency=confirm_latency.summary(),
            broker=Cost.of(broker_cpu, seconds, messages, peak) if options.broker_pid else None,
            generator_cores=sum(shares_of_core),
            busiest_core=max(shares_of_core, default=0.0),
            others_cores=max(0.0, others) if options.broker_pid else 0.0,
            verdict=verdict(options, findings),
            refused=sum(each.refused for each in findings),
            returned=sum(each.returned for each in findings),
            wrong_confirms=sum(each.wrong_confirms for each in findings),
        )

    def _clean_up(self, link: Link) -> None:
        try:
            delete(link, self._options)
        except (OSError, LinkLost, AMQPError):
            self._progress("the broker is gone: nothing was deleted")
        link.close()


def verdict(options: Options, findings: list[Findings]) -> Verdict:
    """Return what arrived against what was sent."""
    result = Verdict(
        received=sum(each.received for each in findings),
        reordered=sum(each.reordered for each in findings),
        damaged=sum(each.damaged for each in findings),
        checked=sum(each.checked for each in findings),
    )
    if not options.consumers:
        return result
    sent = {producer: count for each in findings for producer, count in each.sent.items()}
    groups = range(options.copies)
    for group in groups:
        for producer, count in sent.items():
            parts = [
                each.ledgers[group, producer]
                for each in findings
                if (group, producer) in each.ledgers
            ]
            ledger = merge(parts)
            result.lost += ledger.lost(count)
            result.duplicated += ledger.duplicated
    return result


def allow_many_files() -> None:
    """Raise the limit of open files as far as the system lets us."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _work(options: Options, share: Share, board: Board, run: int, pipe: Connection) -> None:
    """Be a worker; what goes wrong is told in a line, and in full if it is our mistake."""
    try:
        pipe.send(Worker(options, share, board, run).work())
    except (LinkLost, AMQPError, OSError) as problem:
        pipe.send(str(problem) or type(problem).__name__)
    except KeyboardInterrupt:
        pass
    finally:
        pipe.close()
        sys.stdout.flush()
        os.closerange(3, 64)


def _progress_line(before: Sample, now: Sample) -> str:
    seconds = now.time - before.time
    line = (
        f"published {(now.published - before.published) / seconds:,.0f}/s  "
        f"delivered {(now.delivered - before.delivered) / seconds:,.0f}/s  "
        f"generator {(sum(now.worker_cpu) - sum(before.worker_cpu)) / seconds:.0%}"
    )
    if now.broker_cpu:
        line += f"  broker {(now.broker_cpu - before.broker_cpu) / seconds:.0%}"
    return line

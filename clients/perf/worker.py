"""Workers: a process of the generator, with its share of producers and consumers.

Law: one thin epoll loop over non-blocking sockets, and nothing per message but what producer and
consumer do. trio, which the rest of the project stands on, costs some ten microseconds a wake-up;
a generator that must outrun a broker on one core cannot give that away, and with no protocol
logic, timeouts or cancellation under load there is nothing it would make simpler.

Workers and `run` share a board of counters, one writer each; the coordinator alone turns the phase.

Called by: run, in a process of its own.
"""

import select
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush
from mmap import mmap
from time import monotonic_ns

from leveret.clients.perf.consumer import TAG, Buffer, Consumer
from leveret.clients.perf.flow import Flow
from leveret.clients.perf.latency import Histogram
from leveret.clients.perf.link import Link
from leveret.clients.perf.message import PRODUCER_MAGIC, Encoder, templates
from leveret.clients.perf.options import Options
from leveret.clients.perf.producer import NEVER, Producer
from leveret.clients.perf.verify import Ledger, Stream
from leveret.protocol.methods import (
    BasicConsume,
    BasicConsumeOk,
    BasicQos,
    BasicQosOk,
    ConfirmSelect,
    ConfirmSelectOk,
)

TURN = 0.05  # seconds; the phase is looked at so often at least


class Phase(IntEnum):
    """What all workers are at."""

    PREPARE = 0  # connect, and wait
    WARM = 1  # full load, nothing recorded
    MEASURE = 2  # latencies count from here
    DRAIN = 3  # publish nothing more
    END = 4


class Counter(IntEnum):
    """A worker's counters on the board."""

    READY = 0
    PUBLISHED = 1
    CONFIRMED = 2
    DELIVERED = 3
    DONE = 4  # its producers have nothing left to do


class Board:
    """Counters in memory that all processes share."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap(-1, 8 * (1 + len(Counter) * workers))
        self._values = memoryview(self._memory).cast("Q")
        self._workers = workers

    @property
    def phase(self) -> int:
        """The phase of the run."""
        return self._values[0]

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._values[0] = phase

    def set(self, worker: int, counter: Counter, value: int) -> None:
        """Write a worker's counter."""
        self._values[1 + worker * len(Counter) + counter] = value

    def total(self, counter: Counter) -> int:
        """Return the sum of a counter."""
        return sum(self._values[1 + counter :: len(Counter)])


@dataclass(slots=True)
class Share:
    """Which producers and consumers a worker runs."""

    worker: int
    producers: range
    consumers: range


@dataclass(slots=True)
class Findings:
    """What a worker reports at its end."""

    latency: Histogram = field(default_factory=Histogram)
    confirm_latency: Histogram = field(default_factory=Histogram)
    sent: dict[int, int] = field(default_factory=dict)  # by producer
    ledgers: dict[tuple[int, int], Ledger] = field(default_factory=dict)  # by group and producer
    received: int = 0
    reordered: int = 0
    damaged: int = 0
    checked: int = 0
    refused: int = 0
    returned: int = 0
    wrong_confirms: int = 0


def shares(options: Options) -> list[Share]:
    """Deal producers and consumers to processes: one does both, several divide the roles."""
    roles = (options.producers > 0) + (options.consumers > 0)
    if options.processes == 1 or roles == 1:
        wanted = min(options.processes, max(options.producers, options.consumers))
        return [
            Share(
                worker,
                range(worker, options.producers, wanted),
                range(worker, options.consumers, wanted),
            )
            for worker in range(wanted)
        ]
    publishing = min(options.processes // 2, options.producers)
    consuming = min(options.processes - publishing, options.consumers)
    none = range(0)
    return [
        Share(worker, range(worker, options.producers, publishing), none)
        for worker in range(publishing)
    ] + [
        Share(publishing + worker, none, range(worker, options.consumers, consuming))
        for worker in range(consuming)
    ]


class Worker:
    """One process of the generator."""

    def __init__(self, options: Options, share: Share, board: Board, run: int) -> None:
        self._options = options
        self._share = share
        self._board = board
        self._ledgers: dict[tuple[int, int], Ledger] = {}
        self._consumers = self._open_consumers()
        self._producers = self._open_producers(run)
        self._flows: dict[int, Flow] = {
            flow.socket.fileno(): flow for flow in (*self._consumers, *self._producers)
        }
        self._epoll = select.epoll()
        self._interest: dict[int, int] = {}
        self._timers: list[tuple[int, int]] = []  # when, index of the producer
        self._phase = Phase.PREPARE
        self._findings = Findings()

    def work(self) -> Findings:
        """Run until the coordinator ends it."""
        for descriptor, flow in self._flows.items():
            self._interest[descriptor] = mask = self._wanted(flow)
            self._epoll.register(descriptor, mask)
        self._board.set(self._share.worker, Counter.READY, 1)
        while self._board.phase == Phase.PREPARE:
            select.select([], [], [], 0.001)
        self._start_schedules()
        if not self._producers:
            while self._board.total(Counter.PUBLISHED) < self._options.backlog:
                select.select([], [], [], 0.01)
        while self._follow_phase() != Phase.END:
            self._turn()
        return self._finish()

    def _turn(self) -> None:
        for descriptor, event in self._wait():
            flow = self._flows[descriptor]
            if event & ~select.EPOLLOUT:
                flow.readable()
            if event & select.EPOLLOUT and flow.wants_write:
                flow.writable()
            self._watch(descriptor, flow)
        self._run_timers()
        self._count()

    def _wait(self) -> list[tuple[int, int]]:
        if not self._timers:
            return self._epoll.poll(TURN)
        pause = (self._timers[0][0] - monotonic_ns()) / 1e9
        if pause > 0:
            # epoll counts in milliseconds, select in microseconds, and it can wait for an epoll
            select.select([self._epoll], [], [], min(pause, TURN))
        return self._epoll.poll(0)

    def _run_timers(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= monotonic_ns():
            _, index = heappop(timers)
            producer = self._producers[index]
            producer.publish()
            self._watch(producer.socket.fileno(), producer)
            self._schedule(index)

    def _schedule(self, index: int) -> None:
        due = self._producers[index].due()
        if due != NEVER:
            heappush(self._timers, (due, index))

    def _start_schedules(self) -> None:
        """Spread the producers over the interval of their rate, so that they do not march."""
        rate, everyone = self._options.rate, self._options.producers
        for index, producer in enumerate(self._producers):
            producer.start(self._share.producers[index] / (everyone * rate) if rate else 0.0)
            self._schedule(index)

    def _watch(self, descriptor: int, flow: Flow) -> None:
        mask = self._wanted(flow)
        if mask != self._interest[descriptor]:
            self._interest[descriptor] = mask
            self._epoll.modify(descriptor, mask)

    def _wanted(self, flow: Flow) -> int:
        return select.EPOLLIN | (select.EPOLLOUT if flow.wants_write else 0)

    def _count(self) -> None:
        board, worker = self._board, self._share.worker
        if self._producers:
            published = sum(producer.encoder.sequence for producer in self._producers)
            board.set(worker, Counter.PUBLISHED, published)
            confirmed = sum(producer.confirmed for producer in self._producers)
            board.set(worker, Counter.CONFIRMED, confirmed)
        if self._consumers:
            received = sum(consumer.received for consumer in self._consumers)
            board.set(worker, Counter.DELIVERED, received)

    def _follow_phase(self) -> int:
        phase = self._board.phase
        if phase != self._phase:
            self._phase = Phase(phase)
            if phase == Phase.MEASURE:
                self._forget_latencies()
            if phase == Phase.DRAIN:
                self._keep_latencies()
                for producer in self._producers:
                    producer.stop()
        if self._options.count or phase == Phase.DRAIN:
            done = all(producer.finished for producer in self._producers)
            self._board.set(self._share.worker, Counter.DONE, done)
        return phase

    def _forget_latencies(self) -> None:
        for flow in (*self._producers, *self._consumers):
            flow.latency = Histogram()

    def _keep_latencies(self) -> None:
        """What arrives while draining is not of the measured time."""
        findings = self._findings
        for producer in self._producers:
            findings.confirm_latency.merge(producer.latency.counts)
        for consumer in self._consumers:
            findings.latency.merge(consumer.latency.counts)

    def _finish(self) -> Findings:
        findings = self._findings
        for index, producer in zip(self._share.producers, self._producers, strict=True):
            findings.sent[index] = producer.encoder.sequence
            findings.refused += producer.refused
            findings.returned += producer.returned
            findings.wrong_confirms += producer.wrong_confirms
        for consumer in self._consumers:
            consumer.finish()
            findings.received += consumer.received
            findings.reordered += consumer.reordered
            findings.damaged += consumer.damaged
            findings.checked += consumer.checked
        findings.ledgers = self._ledgers
        for flow in self._flows.values():
            flow.socket.close()
        return findings

    def _open_consumers(self) -> list[Consumer]:
        options, buffer = self._options, Buffer()
        opened = []
        for index in self._share.consumers:
            link = Link(options.parameters, f"perf consumer {index}")
            if options.prefetch:
                link.call(BasicQos(0, options.prefetch), BasicQosOk)
            queue = index % options.queues
            method = BasicConsume(options.queue(queue), TAG, no_ack=not options.ack)
            link.call(method, BasicConsumeOk)
            opened.append(
                Consumer(
                    link,
                    buffer,
                    self._stream_maker(queue if options.type == "fanout" else 0),
                    ack_every=options.ack,
                    verify=options.verify,
                )
            )
        return opened

    def _open_producers(self, run: int) -> list[Producer]:
        options, opened = self._options, []
        links = [
            Link(options.parameters, f"perf producer {index}") for index in self._share.producers
        ]
        frame_max = links[0].frame_max if links else 0
        pool = templates(options, self._share.producers, frame_max)
        for index, link in zip(self._share.producers, links, strict=True):
            if options.confirm:
                link.call(ConfirmSelect(), ConfirmSelectOk)
            opened.append(
                Producer(
                    link,
                    Encoder(pool[index], index, run),
                    message_size=pool[index].mean,
                    window=options.confirm,
                    rate=options.rate,
                    limit=options.count or NEVER,
                    room=self._room if options.max_backlog else None,
                )
            )
        return opened

    def _room(self) -> int:
        board, copies = self._board, self._options.copies
        published = sum(producer.encoder.sequence for producer in self._producers)
        board.set(self._share.worker, Counter.PUBLISHED, published)
        under_way = board.total(Counter.PUBLISHED) - board.total(Counter.DELIVERED) // copies
        return self._options.max_backlog - under_way

    def _stream_maker(self, group: int) -> Callable[[int], Stream | None]:
        def make(number: int) -> Stream | None:
            producer = number - PRODUCER_MAGIC
            if not 0 <= producer < self._options.producers:
                return None
            return Stream(self._ledgers.setdefault((group, producer), Ledger()))

        return make

"""Fairness: whoever floods the broker, others get their answers, and no turn holds the loop.

Measured in CPU time of the broker's own tasks, so that a busy machine changes nothing: how long
each of their steps takes, and how much the broker works between a quiet client's question and
its answer.
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import median, quantiles
from time import thread_time

import pytest
import trio

from leveret.broker.config import Config, Memory
from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicPublish,
    BasicQos,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
)
from leveret.protocol.reader import Contents
from leveret.protocol.writer import method_frame

from ..support.client import published
from ..support.edge import Edge, Peer, edge, publish

PEERS = 3  # who flood
QUESTIONS = 40
STEP = 0.020  # seconds; what a turn may take
WAIT = 0.100  # seconds of the broker's work between a question and its answer, usually
BODY = bytes(200)
CONFIG = replace(Config(), memory=Memory(limit=1 << 50))  # alarms are another matter


class Meter(trio.abc.Instrument):
    """CPU time of the broker's tasks, step by step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.spent = 0.0
        self._start = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._start = thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith("leveret.broker."):
            step = thread_time() - self._start
            self.steps.append(step)
            self.spent += step


# Floods: each prepares the broker and returns what to send for ever


async def _messages(peer: Peer) -> bytes:
    await peer.call(QueueDeclare("flooded"))
    return publish(BODY, "flooded") * 1000


async def _messages_to_its_own_consumer(peer: Peer) -> bytes:
    await peer.call(QueueDeclare("flooded"))
    await peer.call(BasicConsume("flooded", "c", no_ack=True))
    return publish(BODY, "flooded") * 1000


async def _messages_to_2000_queues(peer: Peer) -> bytes:
    await peer.call(ExchangeDeclare("wide", "fanout"))
    names = [f"wide.{number}" for number in range(2000)]
    await peer.send(1, *[QueueDeclare(name, no_wait=True) for name in names])
    await peer.send(1, *[QueueBind(name, "wide", no_wait=True) for name in names])
    await peer.call(QueueDeclare(names[-1], passive=True))
    return published(b"", BasicPublish("wide", "")) * 100


async def _declares(peer: Peer) -> bytes:
    return method_frame(1, QueueDeclare("flooded")) * 2000


async def _gets(peer: Peer) -> bytes:
    await peer.call(QueueDeclare("flooded"))
    return (publish(BODY, "flooded") + method_frame(1, BasicGet("flooded", True))) * 1000


async def _nacks_with_requeue(peer: Peer) -> bytes:
    """Have a thousand messages delivered, and give all back again and again.

    The declare in between has them dealt anew.
    """
    await peer.call(QueueDeclare("flooded"))
    await peer.call(BasicQos(0, 1000))
    await peer.write(publish(b"", "flooded") * 1000)
    await peer.call(BasicConsume("flooded", "c"))
    return method_frame(1, BasicNack(0, True, True)) + method_frame(1, QueueDeclare("flooded"))


FLOODS = (
    _messages,
    _messages_to_its_own_consumer,
    _messages_to_2000_queues,
    _declares,
    _gets,
    _nacks_with_requeue,
)


async def _flood(peer: Peer, data: bytes) -> None:
    while True:
        await peer.write(data)


async def _drop_answers(peer: Peer) -> None:
    while await peer.stream.receive_some(1 << 20):
        pass


async def _ask(served: Edge, meter: Meter) -> list[float]:
    """Ask the broker again and again; return how long it worked until each answer."""
    quiet = await Peer.connect(served)
    await quiet.call(QueueDeclare("quiet"))
    waits = []
    for _ in range(QUESTIONS):
        before = meter.spent
        await quiet.write(publish(b"?", "quiet"))
        answer = await quiet.call(BasicGet("quiet", True))
        assert isinstance(answer, Contents)
        waits.append(meter.spent - before)
    return waits


@pytest.mark.parametrize("prepare", FLOODS, ids=lambda flood: flood.__name__[1:])
async def test_a_flood_leaves_others_their_answers(prepare: Callable):
    meter = Meter()
    async with edge(CONFIG) as served, trio.open_nursery() as nursery:
        flooding = [await Peer.connect(served) for _ in range(PEERS)]
        for peer in flooding:
            nursery.start_soon(_flood, peer, await prepare(peer))
            nursery.start_soon(_drop_answers, peer)
        trio.lowlevel.add_instrument(meter)
        waits = await _ask(served, meter)
        trio.lowlevel.remove_instrument(meter)
        nursery.cancel_scope.cancel()

    assert meter.spent > QUESTIONS * 0.0005  # it was busy
    assert quantiles(meter.steps, n=100)[-1] < STEP
    assert max(meter.steps) < 3 * STEP  # also where memory was collected
    assert median(waits) < WAIT

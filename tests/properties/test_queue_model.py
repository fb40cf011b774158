"""Whatever clients do with a queue, it equals a plain list.

The model: a sorted list of ready messages by number, what each channel holds in order of its
tags, and which messages were delivered before. Which of several consumers gets a message is not
the model's; that it is the first ready one, that nobody exceeds a limit, and that nothing stays
ready while somebody has room, is.
"""

from bisect import insort

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from leveret.broker.amqp import settling
from leveret.broker.core.broker import Broker
from leveret.broker.core.hooks import Phase, QueueHook
from leveret.broker.core.registry import Registry
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicDeliver,
    BasicGet,
    BasicGetEmpty,
    BasicNack,
    BasicQos,
    BasicQosOk,
    BasicRecover,
    BasicRecoverOk,
    BasicReject,
    ChannelClose,
    ChannelCloseOk,
    QueuePurge,
    QueuePurgeOk,
)

from ..support.client import Client, Received, finish
from ..support.strategies import registry

CHANNELS = (1, 2)
HEADER = 14  # octets of a header without properties
channels = st.sampled_from(CHANNELS)
limits = st.sampled_from([0, 1, 2, 5])
picks = st.integers(0, 1 << 16)


class Model:
    """A channel as the model knows it."""

    def __init__(self):
        self.next_tag = 1
        self.held = {}  # tag: (number, consumer tag or None)
        self.consumers = {}  # tag: (no_ack, prefetch, priority)
        self.prefetch = 0
        self.window = 0

    def has_room(self, tag):
        no_ack, prefetch, _ = self.consumers[tag]
        if no_ack:
            return True
        holders = [consumer for _, consumer in self.held.values()]
        used = sum(1 for consumer in holders if consumer is not None)
        return (not prefetch or holders.count(tag) < prefetch) and (
            not self.window or used < self.window
        )


class QueueMachine(RuleBasedStateMachine):
    """One queue, one connection, two channels."""

    strategy = "plain"
    is_held = False

    def __init__(self):
        super().__init__()
        broker = Broker(registry=self.registry())
        broker.add_defaults()
        self.client = Client(broker)
        self.client.open_channel(2)
        self.client.open_channel(3)  # looks on
        self.client.declare()
        self.queue = broker.vhosts["/"].queue("q")
        self.ready = []
        self.redelivered = set()
        self.published = 0
        self.tags = 0
        self.models = {number: Model() for number in CHANNELS}

    def registry(self):
        return registry(self.strategy)

    def send(self, channel, *methods):
        """Send methods; return the answers other than deliveries, which are checked."""
        answers = self.client.send(*methods, channel=channel)
        return self.check(channel, answers)

    def check(self, channel, answers):
        """Take deliveries into the model; return the other answers."""
        deliveries = [(channel, item) for item in answers if is_delivery(item)]
        for number in CHANNELS:
            if number != channel:
                items = self.client.take(number)
                assert all(map(is_delivery, items)), items
                deliveries += [(number, item) for item in items]
        self.deliver(deliveries)
        return [item for item in answers if not is_delivery(item)]

    def deliver(self, deliveries):
        for number in CHANNELS:
            found = [int(item.body) for channel, item in deliveries if channel == number]
            by_consumer = {}
            for channel, item in deliveries:
                if channel == number:
                    by_consumer.setdefault(item.method.consumer_tag, []).append(int(item.body))
            for numbers in by_consumer.values():
                assert sorted(numbers) == numbers
            assert len(set(found)) == len(found)
        got = sorted(int(item.body) for _, item in deliveries)
        assert self.ready[: len(got)] == got
        del self.ready[: len(got)]
        for channel, item in deliveries:
            model, number = self.models[channel], int(item.body)
            no_ack, _, _ = model.consumers[item.method.consumer_tag]
            assert model.next_tag == item.tag
            assert (number in self.redelivered) == item.method.redelivered
            assert model.has_room(item.method.consumer_tag)
            model.next_tag += 1
            if not no_ack:
                model.held[item.tag] = (number, item.method.consumer_tag)

    def put_back(self, entries):
        for number, _ in entries:
            insort(self.ready, number)
            self.redelivered.add(number)

    # rules

    @rule(count=st.sampled_from([1, 1, 2, 5, 40]), channel=channels)
    def publish(self, count, channel):
        numbers = range(self.published, self.published + count)
        self.published += count
        self.ready += numbers
        answers = self.client.publish_many([b"%d" % number for number in numbers], "q", channel)
        assert [] == self.check(channel, answers)

    @rule(channel=channels, no_ack=st.sampled_from([False, False, True]), priority=limits)
    def consume(self, channel, no_ack, priority):
        self.tags += 1
        tag, model = f"c{self.tags}", self.models[channel]
        model.consumers[tag] = (no_ack, model.prefetch, priority)
        method = BasicConsume("q", tag, no_ack=no_ack, arguments={"x-priority": priority})
        assert [BasicConsumeOk(tag)] == self.send(channel, method)

    @precondition(lambda self: any(model.consumers for model in self.models.values()))
    @rule(channel=channels, pick=picks)
    def cancel(self, channel, pick):
        model = self.models[channel]
        tag = sorted(model.consumers)[pick % len(model.consumers)] if model.consumers else "none"
        answers = self.send(channel, BasicCancel(tag))
        model.consumers.pop(tag, None)
        assert [BasicCancelOk(tag)] == answers

    @rule(channel=channels, no_ack=st.booleans())
    def get(self, channel, no_ack):
        model = self.models[channel]
        [answer] = self.send(channel, BasicGet("q", no_ack))
        if not self.ready or self.is_held:
            assert BasicGetEmpty() == answer
            return
        number = self.ready.pop(0)
        assert (number, model.next_tag, number in self.redelivered, len(self.ready)) == (
            int(answer.body),
            answer.tag,
            answer.method.redelivered,
            answer.method.message_count,
        )
        if not no_ack:
            model.held[model.next_tag] = (number, None)
        model.next_tag += 1

    @precondition(lambda self: any(model.held for model in self.models.values()))
    @rule(
        channel=channels,
        pick=picks,
        multiple=st.booleans(),
        kind=st.sampled_from(["ack", "ack", "nack", "requeue", "reject"]),
    )
    def settle(self, channel, pick, multiple, kind):
        model = self.models[channel]
        if not model.held:
            return
        tag = sorted(model.held)[pick % len(model.held)]
        multiple = multiple and kind != "reject"
        tags = [held for held in model.held if held <= tag] if multiple else [tag]
        entries = [model.held.pop(each) for each in tags]
        if kind in ("requeue", "reject"):
            self.put_back(entries)
        method = {
            "ack": BasicAck(tag, multiple),
            "nack": BasicNack(tag, multiple, requeue=False),
            "requeue": BasicNack(tag, multiple, requeue=True),
            "reject": BasicReject(tag, requeue=True),
        }[kind]
        assert [] == self.send(channel, method)

    @rule(channel=channels, picks=st.lists(picks, min_size=2, max_size=6))
    def ack_row(self, channel, picks):
        model = self.models[channel]
        tags = sorted(model.held)
        row = list(dict.fromkeys(tags[pick % len(tags)] for pick in picks)) if tags else []
        for tag in row:
            del model.held[tag]
        assert [] == self.send(channel, *map(BasicAck, row))

    @rule(channel=channels)
    def recover(self, channel):
        model = self.models[channel]
        self.put_back(model.held.values())
        model.held.clear()
        assert [BasicRecoverOk()] == self.send(channel, BasicRecover(True))

    @rule(channel=channels, count=limits, is_global=st.booleans())
    def qos(self, channel, count, is_global):
        model = self.models[channel]
        if is_global:
            model.window = count
        else:
            model.prefetch, model.window = count, 0
        assert [BasicQosOk()] == self.send(channel, BasicQos(0, count, is_global))

    @rule(channel=channels)
    def purge(self, channel):
        expected = len(self.ready)
        self.ready.clear()
        assert [QueuePurgeOk(expected)] == self.send(channel, QueuePurge("q"))

    @rule(first=picks, count=st.sampled_from([1, 2, 9]))
    def withdraw(self, first, count):
        first %= self.published + 1  # numbers are positions
        meant = range(first, first + count)
        gone = [number for number in self.ready if number in meant]
        assert len(gone) == self.queue.withdraw(meant[0], meant[-1])
        self.ready = [number for number in self.ready if number not in meant]
        finish(self.client.broker)
        assert [] == self.check(1, self.client.take(1))

    @rule(channel=channels)
    def reopen(self, channel):
        self.put_back(self.models[channel].held.values())
        self.models[channel] = Model()
        assert [ChannelCloseOk()] == self.send(channel, ChannelClose())
        self.client.open_channel(channel)

    # what always holds

    @invariant()
    def counts_are_the_models(self):
        held = sum(len(model.held) for model in self.models.values())
        consumers = sum(len(model.consumers) for model in self.models.values())

        assert (len(self.ready), consumers) == self.client.counts(channel=3)
        assert held == self.queue.unacked_count
        numbers = [number for model in self.models.values() for number, _ in model.held.values()]
        sizes = [HEADER + len(str(number)) for number in self.ready + numbers]
        assert sum(sizes) == self.queue.bytes

    @invariant()
    def nothing_waits_while_somebody_has_room(self):
        if self.ready and not self.is_held:
            assert not [
                tag
                for model in self.models.values()
                for tag in model.consumers
                if model.has_room(tag)
            ]


def is_delivery(item):
    return isinstance(item, Received) and isinstance(item.method, BasicDeliver)


class PiecesMachine(QueueMachine):
    """The same where three messages are very many, which go and come back in pieces."""

    def __init__(self):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(settling, "PIECE", 2)
        super().__init__()

    def send(self, channel, *methods):
        answers = super().send(channel, *methods)
        batch = self.client.broker.batch
        while batch.debris:  # acks that give their room back later
            batch.resume()
            finish(self.client.broker)
            answers += self.check(channel, self.client.take(channel))
        return answers

    def teardown(self):
        self.patch.undo()


class HookedMachine(QueueMachine):
    """The same with a hooked queue."""

    strategy = "hooked"


class HookedPiecesMachine(PiecesMachine):
    """The same with a hooked queue."""

    strategy = "hooked"


class Deep(QueueHook):
    is_deep = True


class Holding(Deep):
    is_holding = True


class ChangingMachine(QueueMachine):
    """The same where plugins begin and cease to have a part in the queue, and hold it at times."""

    kind = None

    def registry(self):
        made = Registry()
        made.queue_hook(lambda queue: self.kind, phase=Phase.WATCH)
        return made

    @rule(kind=st.sampled_from([None, Deep, Holding]))
    def change(self, kind):
        self.kind, self.is_held = kind, kind is Holding
        self.queue.vhost.refit(self.queue, is_forced=True)
        finish(self.client.broker)
        assert [] == self.check(1, self.client.take(1))


TestQueueModel = QueueMachine.TestCase
TestQueueModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestChangingModel = ChangingMachine.TestCase
TestChangingModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestPiecesModel = PiecesMachine.TestCase
TestPiecesModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHookedModel = HookedMachine.TestCase
TestHookedModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHookedPiecesModel = HookedPiecesMachine.TestCase
TestHookedPiecesModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)

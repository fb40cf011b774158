"""Whatever clients do, and whenever the broker is lost, a store and a plain list agree.

The model: queues as sorted lists of messages by number, what each channel holds in order of its
tags, and a copy of all that must survive, made when a commit is closed and valid once that is in
the store. A restart brings back the last valid one. Nobody may hear of anything sooner: each
reply that is expected carries the commit it has to wait for.

Which of several consumers gets a message is not the model's. Nor is whether a message that stood
before a delivered one is flagged after a restart: it may be, one that was delivered must be.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from leveret.broker.core.exchange import route
from leveret.broker.server.forgetter import Forgetter
from leveret.broker.storage import bodies
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.sqlite import SQLiteStore
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicDeliver,
    BasicGet,
    BasicGetEmpty,
    BasicGetOk,
    BasicNack,
    BasicPublish,
    BasicQos,
    BasicQosOk,
    BasicRecover,
    BasicRecoverOk,
    BasicReject,
    BasicReturn,
    ChannelClose,
    ChannelCloseOk,
    ConfirmSelect,
    ConfirmSelectOk,
    ConnectionClose,
    ConnectionCloseOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
    QueueUnbind,
    QueueUnbindOk,
    TxCommit,
    TxCommitOk,
    TxRollback,
    TxRollbackOk,
    TxSelect,
    TxSelectOk,
)
from leveret.protocol.properties import Properties
from leveret.protocol.writer import method_frame

from ..support.client import Received, published
from ..support.durable import LITTLE, Durable, everything_small, pass_time
from ..support.strategies import registry

DURABLE, TRANSIENT = ("d1", "d2"), ("t",)
NAMES = DURABLE + TRANSIENT
CLIENTS, CHANNELS = (0, 1), (1, 2)
HEADER = 15  # octets of a header with a delivery mode
NEVER, MAYBE, SURELY = range(3)  # whether a message is flagged as redelivered


@dataclass(order=True)
class Copy:
    """A message in one queue; its place is behind all that came into the queue before it."""

    place: int
    number: int = field(compare=False)
    persistent: bool = field(compare=False)
    flag: int = field(default=NEVER, compare=False)
    was_delivered: bool = field(default=False, compare=False)


@dataclass(eq=False)
class QueueModel:
    name: str
    durable: bool
    created: int = 0  # by which commit
    ready: list[Copy] = field(default_factory=list)
    unacked: list[Copy] = field(default_factory=list)
    highest: int = -1  # place of the messages that were ever delivered
    is_deleted: bool = False

    def kept(self):
        """What has to survive: place, number, and whether it was delivered."""
        every = sorted(self.ready + self.unacked)
        return [(copy.place, copy.number, copy.was_delivered) for copy in every if copy.persistent]

    def put_back(self, copy):
        self.unacked.remove(copy)
        copy.flag = SURELY
        if not self.is_deleted:
            insort(self.ready, copy)


@dataclass(eq=False)
class Expected:
    """A reply: after which commit it may come, and how to check it once all else is known."""

    after: int
    check: Callable[[object], None]


@dataclass(eq=False)
class ChannelModel:
    mode: str = ""
    next_tag: int = 1
    held: dict[int, tuple[QueueModel, Copy, str]] = field(default_factory=dict)
    consumers: dict[str, tuple[QueueModel, bool, int]] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)  # whose consume-ok has come
    published: int = 0
    confirmed: int = 0
    confirms: deque[tuple[int, int]] = field(default_factory=deque)  # number, commit
    replies: deque[Expected] = field(default_factory=deque)
    is_closing: bool = False
    is_closed: bool = False
    has_failed: bool = False
    publishes: list[tuple[list[QueueModel], Copy, bool]] = field(default_factory=list)
    settlements: list[tuple[dict, bool]] = field(default_factory=list)

    def has_room(self, tag):
        _, no_ack, prefetch = self.consumers[tag]
        entries = [*self.held.values()]
        for settled, _ in self.settlements:
            entries += settled.values()
        return no_ack or not prefetch or [one for _, _, one in entries].count(tag) < prefetch

    def roll_back(self):
        for entries, _ in self.settlements:
            self.held |= entries
        self.held = dict(sorted(self.held.items()))
        self.settlements, self.publishes = [], []

    def close(self):
        self.roll_back()
        self.consumers.clear()
        self.started.clear()
        for queue, copy, _ in self.held.values():
            queue.put_back(copy)
        self.held.clear()
        self.is_closing = True


class World:
    """A broker, its clients, and what the model knows of them."""

    def __init__(self, store, strategy):
        self.store = store
        self.strategy = strategy
        self.numbers = count()
        self.places = count()
        self.tags = count()
        self.sizes = {}
        self.queues = {}
        self.bound = set()
        self.valid = self.closed = {}, set()  # what is in the store; what is on its way there

    async def start(self, nursery):
        self.durable = Durable(self.store, LITTLE, registry(self.strategy))
        await nursery.start(self.durable.run)
        self.durable.gate.on_commit = self.close_commit
        self.closed_at = 0
        self.unchecked = []
        self.clients = {}
        for number in CLIENTS:
            self.connect(number)

    def connect(self, number):
        client = self.clients[number] = self.durable.connect()
        client.open_channel(2)
        client.models = {channel: ChannelModel() for channel in CHANNELS}
        client.replies = deque()  # of channel 0
        client.is_closing = client.is_closed = False

    @property
    def commit(self):
        """The number of the commit that what happens now will be in."""
        return self.durable.broker.batch.commit

    # what survives

    def snapshot(self):
        queues = {
            name: (queue.kept(), queue.highest)
            for name, queue in self.queues.items()
            if queue.durable
        }
        return queues, self.bound & queues.keys()

    def close_commit(self):
        """Remember what the commit is about that was closed in this very step."""
        self.read()
        self.validate()
        self.closed, self.closed_at = self.snapshot(), self.durable.gate.begun

    def validate(self):
        if self.durable.gate.done >= self.closed_at:
            self.valid = self.closed

    def bring_back(self):
        """Be what a restart finds."""
        queues, bound = self.closed = self.valid
        self.bound = set(bound)
        self.queues = {}
        for name, (kept, highest) in queues.items():
            queue = self.queues[name] = QueueModel(name, True, highest=highest)
            for place, number, was_delivered in kept:
                flag = SURELY if was_delivered else MAYBE if place <= highest else NEVER
                queue.ready.append(Copy(place, number, True, flag, was_delivered))

    # what comes back

    def look(self):
        """Take in what has come."""
        self.read()
        unchecked, self.unchecked = self.unchecked, []
        for expected, item in unchecked:
            expected.check(item)

    def read(self):
        """Take in deliveries and confirms at once; replies may need to know what is done next."""
        deliveries = []
        for client in self.clients.values():
            for number in CHANNELS:
                model = client.models[number]
                for item in client.take(number):
                    if isinstance(item, BasicAck):
                        self.confirm(model, item)
                    elif isinstance(item, Received) and isinstance(item.method, BasicDeliver):
                        assert item.method.consumer_tag in model.started, "before its consume-ok"
                        deliveries.append((model, item))
                    else:
                        self.reply(model, item)
            for item in client.take(0):
                assert client.replies, f"nobody asked for {item}"
                assert ConnectionCloseOk() == item
                client.replies.popleft()
                for model in client.models.values():
                    assert not model.replies
                    assert not model.confirms
                client.is_closed = True
        self.deliver(deliveries)

    def confirm(self, model, ack):
        assert ack.delivery_tag > model.confirmed
        assert ack.multiple == (ack.delivery_tag > model.confirmed + 1)
        while model.confirms and model.confirms[0][0] <= ack.delivery_tag:
            model.confirmed, after = model.confirms.popleft()
            assert after <= self.durable.broker.batch.committed, "confirmed before its commit"
        assert ack.delivery_tag == model.confirmed

    def reply(self, model, item):
        assert model.replies, f"nobody asked for {item}"
        expected = model.replies.popleft()
        assert expected.after <= self.durable.broker.batch.committed, f"{item} before its commit"
        self.unchecked.append((expected, item))
        if isinstance(item, BasicConsumeOk):
            if item.consumer_tag in model.consumers:
                model.started.add(item.consumer_tag)
        elif isinstance(item, ChannelClose | ChannelCloseOk):
            assert not model.confirms, "closed before its confirms"
            assert not model.replies
            model.is_closed = True

    def deliver(self, deliveries):
        got = {}
        for model, item in deliveries:
            queue, _, _ = model.consumers[item.method.consumer_tag]
            got.setdefault(queue, []).append(number_of(item))
        for queue, numbers in got.items():
            first = queue.ready[: len(numbers)]
            assert sorted(numbers) == sorted(copy.number for copy in first)
        for model, item in deliveries:
            tag = item.method.consumer_tag
            queue, no_ack, _ = model.consumers[tag]
            copy = next(copy for copy in queue.ready if copy.number == number_of(item))
            assert model.has_room(tag)
            check_flag(copy.flag, item.method.redelivered)
            self.take(model, queue, copy, tag, no_ack, item.tag)

    def take(self, model, queue, copy, consumer, no_ack, tag):
        """Let a channel have a message."""
        assert model.next_tag == tag
        model.next_tag += 1
        queue.ready.remove(copy)
        queue.highest = max(queue.highest, copy.place)
        if not no_ack:
            copy.was_delivered = True
            queue.unacked.append(copy)
            model.held[tag] = queue, copy, consumer

    # what holds

    def check(self):
        """Compare what can be seen at any time."""
        assert not self.durable.failed.is_set(), self.durable.persistence.failure
        vhost = self.durable.broker.vhosts["/"]
        assert set(self.queues) == {name for name in NAMES if name in vhost.queues}
        for name, model in self.queues.items():
            queue = vhost.queue(name)
            assert len(model.ready) == queue.ready_count
            assert len(model.unacked) == queue.unacked_count
            sizes = [self.sizes[copy.number] for copy in model.ready + model.unacked]
            assert sum(sizes) == queue.bytes
        routed = route(vhost.exchange("amq.fanout"), ("",)).queues
        assert self.bound == {queue.name for queue in routed}

    def check_at_rest(self):
        """Compare when nothing goes on by itself."""
        self.check()
        if self.durable.gate.held is not None:
            return  # what is read may be on its way to another row
        for client in self.clients.values():
            assert not client.is_waiting
            for model in client.models.values():
                for tag in model.started:
                    queue, _, _ = model.consumers[tag]
                    assert not (queue.ready and model.has_room(tag)), f"{tag} waits in vain"

    def check_nothing_is_owed(self):
        for client in self.clients.values():
            assert not client.replies
            for model in client.models.values():
                assert not model.replies
                assert not model.confirms


def number_of(item):
    return int(item.body.split(b".")[0])


def check_flag(flag, redelivered):
    assert flag == MAYBE or redelivered == (flag == SURELY)


class Play:
    """What can be done, by name; numbers choose among what there is."""

    def __init__(self, world, nursery):
        self.world = world
        self.nursery = nursery
        self.forgetter = None

    async def run(self, operations):
        await self.world.start(self.nursery)
        for name, who, where, what in operations:
            await getattr(self, name)(*self.pick(who, where), what)
            self.finish()
            self.world.check()
        await self.stop(None, 0, None, 0)
        await self.drain()
        await self.world.durable.lose()

    def finish(self):
        """Have carried out what takes several slices, before anybody does anything else."""
        batch = self.world.durable.broker.batch
        while batch.unfinished or batch.returns:
            batch.resume()
        self.world.durable.turns.finish()
        self.world.look()

    def pick(self, who, where):
        """Return client, channel number and model; no client if that channel is closing."""
        world, number, channel = self.world, CLIENTS[who], CHANNELS[where]
        world.look()
        client = world.clients[number]
        if client.is_closed:
            client.lose()
            world.connect(number)
            world.look()
            client = world.clients[number]
        elif client.is_closing:
            return None, 0, None
        model = client.models[channel]
        if model.is_closed:
            if model.has_failed:
                client.feed(client.connection.send(channel, ChannelCloseOk()))
            client.open_channel(channel)
            model = client.models[channel] = ChannelModel()
        elif model.is_closing:
            return None, 0, None
        return client, channel, model

    def queue(self, what):
        return self.world.queues.get(NAMES[what % 3])

    def ask(self, client, channel, method, answer, after=0):
        """Send a method, and look at what comes of it; the answer is this or passes this."""
        check = answer if callable(answer) else partial(check_equal, answer)
        client.models[channel].replies.append(Expected(after, check))
        client.feed(client.connection.send(channel, method))
        self.world.look()

    def after(self, *copies):
        """Return the commit that whoever hears of these messages has to wait for."""
        return self.world.commit if any(copy.persistent for copy in copies) else 0

    # definitions

    async def declare(self, client, channel, model, what):
        world, name = self.world, NAMES[what % 3]
        if client is None:
            return
        if name not in world.queues:
            durable = name in DURABLE
            world.queues[name] = QueueModel(name, durable, world.commit if durable else 0)
        queue = world.queues[name]
        consumers = [
            tag
            for each in world.clients.values()
            for model in each.models.values()
            for tag, row in model.consumers.items()
            if row[0] is queue
        ]
        answer = QueueDeclareOk(name, len(queue.ready), len(consumers))
        method = QueueDeclare(name, durable=queue.durable)
        self.ask(client, channel, method, answer, queue.created)

    async def delete(self, client, channel, model, what):
        world, queue = self.world, self.queue(what)
        if client is None or queue is None:
            return
        answer = QueueDeleteOk(len(queue.ready))
        del world.queues[queue.name]
        world.bound.discard(queue.name)
        queue.is_deleted = True
        queue.ready.clear()
        for each in world.clients.values():
            for model in each.models.values():
                for tag in [tag for tag, row in model.consumers.items() if row[0] is queue]:
                    cancel = BasicCancel(tag, True)
                    model.replies.append(Expected(0, partial(check_equal, cancel)))
                    model.started.discard(tag)
                    del model.consumers[tag]
        after = world.commit if queue.durable else 0
        self.ask(client, channel, QueueDelete(queue.name), answer, after)

    async def bind(self, client, channel, model, what):
        world, queue = self.world, self.queue(what)
        if client is None or queue is None:
            return
        is_bound = queue.name in world.bound
        world.bound ^= {queue.name}
        kind, answer = (QueueUnbind, QueueUnbindOk()) if is_bound else (QueueBind, QueueBindOk())
        after = world.commit if queue.durable else 0
        self.ask(client, channel, kind(queue.name, "amq.fanout", ""), answer, after)

    async def purge(self, client, channel, model, what):
        queue = self.queue(what)
        if client is None or queue is None:
            return
        after, answer = self.after(*queue.ready), QueuePurgeOk(len(queue.ready))
        queue.ready.clear()
        self.ask(client, channel, QueuePurge(queue.name), answer, after)

    # messages

    async def select(self, client, channel, model, what):
        if client is None or model.mode:
            return
        model.mode = ("confirm", "tx")[what % 2]
        if model.mode == "tx":
            self.ask(client, channel, TxSelect(), TxSelectOk())
        else:
            self.ask(client, channel, ConfirmSelect(), ConfirmSelectOk())

    async def publish(self, client, channel, model, what):
        """Publish some in one piece, persistent or not, to one queue or to all that are bound."""
        if client is None:
            return
        world, octets = self.world, b""
        target, size, mode, mandatory = (
            what % 4,
            (1, 2, 9, 25)[what // 4 % 4],
            what % 5,
            what % 7 == 0,
        )
        exchange, key = ("amq.fanout", "") if target == 3 else ("", NAMES[target])
        names = sorted(world.bound) if target == 3 else [key]
        queues = [world.queues[name] for name in names if name in world.queues]
        for number in islice(world.numbers, size):
            copy = Copy(0, number, mode != 0)
            body = b"%d." % number + bytes(number * 37 % 150 if number % 8 else 1000)
            world.sizes[number] = len(body) + HEADER
            properties = Properties(delivery_mode=2 if copy.persistent else 1)
            method = BasicPublish(exchange, key, mandatory)
            octets += published(body, method, channel, properties)
            if model.mode == "tx":
                model.publishes.append((queues, copy, mandatory))
                continue
            copies = self.place(model, queues, copy, mandatory)
            if model.mode == "confirm":
                model.published += 1
                model.confirms.append((model.published, self.after(*copies)))
        client.feed(octets)
        world.look()

    def place(self, model, queues, copy, mandatory):
        """Put a message into queues; return what each of them has."""
        queues = [queue for queue in queues if not queue.is_deleted]
        if mandatory and not queues:
            model.replies.append(Expected(0, partial(check_return, copy.number)))
        place = next(self.world.places)
        copies = [Copy(place, copy.number, copy.persistent and queue.durable) for queue in queues]
        for queue, each in zip(queues, copies, strict=True):
            queue.ready.append(each)
        return copies

    async def consume(self, client, channel, model, what):
        queue = self.queue(what)
        if client is None or queue is None or len(model.consumers) == 2:
            return
        prefetch, no_ack = (1, 3, 0, 7)[what // 3 % 4], what % 5 == 0
        self.ask(client, channel, BasicQos(0, prefetch), BasicQosOk())
        tag = f"c{next(self.world.tags)}"
        model.consumers[tag] = queue, no_ack, prefetch
        self.ask(client, channel, BasicConsume(queue.name, tag, no_ack=no_ack), BasicConsumeOk(tag))

    async def cancel(self, client, channel, model, what):
        if client is None or not model.consumers:
            return
        tag = sorted(model.consumers)[what % len(model.consumers)]
        model.started.discard(tag)
        del model.consumers[tag]
        self.ask(client, channel, BasicCancel(tag), BasicCancelOk(tag))

    async def get(self, client, channel, model, what):
        queue, no_ack, gate = self.queue(what), what % 5 == 0, self.world.durable.gate
        if client is None or queue is None:
            return
        expected = Expected(0, check_equal)
        model.replies.append(expected)
        client.on_handled = partial(self.got, model, queue, no_ack, expected)
        client.feed(client.connection.send(channel, BasicGet(queue.name, no_ack)))
        if client.is_waiting:
            await self.world.durable.settle()
        while client.is_waiting and gate.held is not None:
            gate.let_one_through()  # what it waits for is just being moved to another row
            await self.world.durable.settle()
        assert not client.is_waiting, "a get waits in vain"
        client.on_handled = lambda: None
        self.world.look()

    def got(self, model, queue, no_ack, expected):
        """Find what a get must have got, behind all that was delivered before it."""
        self.world.read()
        if not queue.ready:
            expected.check = partial(check_equal, BasicGetEmpty())
            return
        copy, tag = queue.ready[0], model.next_tag
        self.world.take(model, queue, copy, "", no_ack, tag)
        expected.check = partial(check_got, copy.number, tag, len(queue.ready), copy.flag)

    async def settle(self, client, channel, model, what):
        """Ack, refuse or requeue, one or many."""
        if client is None or not model.held:
            return
        kind, what = ("ack", "ack", "nack", "requeue", "reject")[what % 5], what // 5
        multiple, what = what % 2 == 0 and kind != "reject", what // 2
        tag = sorted(model.held)[what % len(model.held)]
        tags = [each for each in model.held if each <= tag] if multiple else [tag]
        entries = {each: model.held.pop(each) for each in tags}
        requeue = kind in ("requeue", "reject")
        if model.mode == "tx":
            model.settlements.append((entries, requeue))
        else:
            self.carry_out(entries, requeue)
        method = {
            "ack": BasicAck(tag, multiple),
            "nack": BasicNack(tag, multiple, requeue=False),
            "requeue": BasicNack(tag, multiple, requeue=True),
            "reject": BasicReject(tag, requeue=True),
        }[kind]
        client.feed(client.connection.send(channel, method))
        self.world.look()

    def carry_out(self, entries, requeue):
        for queue, copy, _ in entries.values():
            if requeue:
                queue.put_back(copy)
            else:
                queue.unacked.remove(copy)

    async def recover(self, client, channel, model, what):
        if client is None:
            return
        self.carry_out(model.held, requeue=True)
        model.held = {}
        self.ask(client, channel, BasicRecover(True), BasicRecoverOk())

    async def end_tx(self, client, channel, model, what):
        if client is None or model.mode != "tx":
            return
        if what % 3 == 0:
            model.roll_back()
            self.ask(client, channel, TxRollback(), TxRollbackOk())
            return
        changed = []
        for queues, copy, mandatory in model.publishes:
            changed += self.place(model, queues, copy, mandatory)
        for entries, requeue in model.settlements:
            self.carry_out(entries, requeue)
            changed += [
                copy for queue, copy, _ in entries.values() if not (requeue or queue.is_deleted)
            ]
        model.publishes, model.settlements = [], []
        self.ask(client, channel, TxCommit(), TxCommitOk(), self.after(*changed))

    # ends

    async def close(self, client, channel, model, what):
        if client is not None:
            model.close()
            self.ask(client, channel, ChannelClose(200, "", 0, 0), ChannelCloseOk())

    async def err(self, client, channel, model, what):
        if client is not None:
            model.close()
            model.has_failed = True
            self.ask(client, channel, QueueDeclare("nobody", passive=True), check_closed)

    async def close_connection(self, client, channel, model, what):
        if client is None:
            return
        for each in client.models.values():
            each.close()
        client.replies.append(ConnectionCloseOk())
        client.is_closing = True
        # past the client's own state: it would drop what comes before close-ok
        client.feed(method_frame(0, ConnectionClose(200, "", 0, 0)))
        self.world.look()

    async def lose(self, client, channel, model, what):
        if client is not None:
            self.leave(client)
            self.world.connect(next(n for n in CLIENTS if self.world.clients[n] is client))

    def leave(self, client):
        for model in client.models.values():
            if not model.is_closing:
                model.close()
        client.lose()
        self.world.look()

    # the store, time, restarts

    async def nothing(self, client, channel, model, what):
        pass

    async def hold(self, client, channel, model, what):
        self.world.durable.gate.hold()

    async def let_through(self, client, channel, model, what):
        gate = self.world.durable.gate
        if what % 2:
            gate.let_through()
        elif gate.held is not None:
            gate.let_one_through()
        await self.rest()

    async def wait(self, client, channel, model, what):
        await pass_time((0.02, 0.02, 1.1)[what % 3])
        await self.rest()

    async def forget(self, client, channel, model, what):
        """Leave to the log what is unacknowledged."""
        broker = self.world.durable.broker
        if self.forgetter is None or self.forgetter[0] is not broker:
            self.forgetter = broker, Forgetter(broker)
        for _ in self.forgetter[1].forget(set(broker.vhosts["/"].queues.values())):
            pass

    async def rest(self):
        await self.world.durable.settle()
        self.world.look()
        self.world.check_at_rest()

    async def crash(self, client, channel, model, what):
        """Lose what is not committed; what is on its way may be, with nobody told."""
        world, gate = self.world, self.world.durable.gate
        if what % 2 and gate.held is not None:
            await gate.carry_out()
            world.valid = world.closed
        await world.durable.lose()
        world.validate()
        await self.restart()

    async def stop(self, client, channel, model, what):
        """End in good order: nobody is owed anything, and all is in the store."""
        world = self.world
        world.durable.gate.let_through()
        await self.flush()
        world.look()
        world.check_nothing_is_owed()
        for each in world.clients.values():
            self.leave(each)
        await self.flush()
        await world.durable.lose()
        world.valid = world.snapshot()
        await self.restart()

    async def flush(self):
        is_done = False

        async def flush():
            nonlocal is_done
            await self.world.durable.persistence.flush()
            is_done = True

        self.nursery.start_soon(flush)
        await self.world.durable.settle()
        assert is_done, "a flush never ends"

    async def restart(self):
        world = self.world
        world.bring_back()
        await world.start(self.nursery)
        world.check()

    async def drain(self):
        """Get everything, in order."""
        for what, name in enumerate(NAMES):
            for _ in range(
                len(self.world.queues[name].ready) + 1 if name in self.world.queues else 0
            ):
                await self.get(*self.pick(0, 0), what)
        assert not any(queue.ready for queue in self.world.queues.values())


def check_equal(expected, item):
    assert expected == item


def check_return(number, item):
    assert isinstance(item.method, BasicReturn)
    assert number == number_of(item)


def check_got(number, tag, left, flag, item):
    assert isinstance(item.method, BasicGetOk)
    assert (number, tag, left) == (number_of(item), item.tag, item.method.message_count)
    check_flag(flag, item.method.redelivered)


def check_closed(item):
    assert isinstance(item, ChannelClose)
    assert item.reply_code == 404


WEIGHTS = {
    "nothing": 1,  # the simplest one
    "publish": 6,
    "declare": 3,
    "settle": 3,
    "consume": 2,
    "get": 2,
    "select": 2,
    "wait": 2,
    "let_through": 2,
    "hold": 2,
    "crash": 2,
    "forget": 2,
    **dict.fromkeys(("bind", "delete", "purge", "cancel", "recover", "end_tx", "stop"), 1),
    **dict.fromkeys(("close", "err", "close_connection", "lose"), 1),
}
OPERATIONS = st.tuples(
    st.sampled_from([name for name, weight in WEIGHTS.items() for _ in range(weight)]),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 255),
)


async def play(operations, store, strategy):
    async with trio.open_nursery() as nursery:
        await Play(World(store, strategy), nursery).run(operations)
        nursery.cancel_scope.cancel()


def run(operations, store, least=bodies.LEAST, strategy="plain"):
    """Play where everything is small.

    Args:
      least: Octets from which the body of a row goes into a file.
    """
    clock = trio.testing.MockClock()
    with capture_logs(), everything_small(least):
        try:
            trio.run(play, operations, store, strategy, clock=clock)
        except BaseExceptionGroup as group:
            raise first(group) from None


def first(problem):
    """Return what is in groups: by it hypothesis tells faults apart."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem


PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


OVERTAKEN = [  # what a transaction has published is behind what was published before its commit
    ("select", 1, 0, 1),
    ("declare", 0, 0, 180),
    ("publish", 1, 0, 124),
    ("publish", 0, 0, 112),
    ("end_tx", 1, 0, 59),
]


@settings(max_examples=80, deadline=None, phases=PHASES)
@given(st.lists(OPERATIONS, min_size=10, max_size=60))
@example(OVERTAKEN)
def test_a_broker_in_memory_and_its_model_agree(operations):
    run(operations, MemoryStore())


@settings(max_examples=80, deadline=None, phases=PHASES)
@given(st.lists(OPERATIONS, min_size=10, max_size=60))
def test_a_broker_with_hooked_queues_and_its_model_agree(operations):
    run(operations, MemoryStore(), strategy="hooked")


@pytest.mark.long
@settings(max_examples=100, deadline=None, phases=PHASES)
@given(st.lists(OPERATIONS, min_size=30, max_size=60), st.sampled_from([50, bodies.LEAST]))
def test_a_broker_on_a_disk_and_its_model_agree(operations, least):
    with TemporaryDirectory() as folder:
        run(operations, SQLiteStore(Path(folder) / "data"), least)


@pytest.mark.long
@settings(max_examples=3000, deadline=None, phases=PHASES)
@given(st.lists(OPERATIONS, min_size=10, max_size=150))
def test_a_broker_and_its_model_agree_for_long(operations):
    run(operations, MemoryStore())


@pytest.mark.long
@settings(max_examples=3000, deadline=None, phases=PHASES)
@given(st.lists(OPERATIONS, min_size=10, max_size=150))
def test_a_broker_with_hooked_queues_and_its_model_agree_for_long(operations):
    run(operations, MemoryStore(), strategy="hooked")

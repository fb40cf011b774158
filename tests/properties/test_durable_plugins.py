"""Whatever plugins do to messages, and whenever the broker is lost, each is in one place.

Each message has a way: the queue it is published to, and those where it may be moved from there,
by its age, its size, a consumer's word. The model knows in which commit it was published, rejected
or acknowledged, so it knows after a crash whether it must be there; where exactly, the time says
and the x-death of the message itself. Time is virtual, the wall clock's too.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from leveret.broker import plugins
from leveret.broker.core.chunks import Paged
from leveret.broker.core.policy import Policy
from leveret.broker.server import clock
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.sqlite import SQLiteStore
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicDeliver,
    BasicGet,
    BasicGetEmpty,
    BasicGetOk,
    BasicNack,
    BasicPublish,
    BasicQos,
    ConfirmSelect,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
    QueuePurge,
    TxCommit,
    TxSelect,
)
from leveret.protocol.properties import Properties
from leveret.protocol.writer import method_frame

from ..support.client import Received, published
from ..support.durable import LITTLE, Durable, everything_small, pass_time

START = 1_800_000_000.0  # of the wall clock
MOST_COMMITS = 50  # one after the other, until all is where it stays
ROUNDING = 2  # milliseconds that the clocks differ by from one life to the next
HIDDEN = "delayed:later"
END = "end"  # of all ways


def dying(key: str = END, **arguments: object) -> dict[str, object]:
    """Return arguments of a queue whose dead letters go to another."""
    there = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": key}
    return there | {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}


QUEUES: dict[str, dict[str, object]] = {
    "first": dying("second", message_ttl=300),
    "second": dying(message_ttl=200),
    "short": dying(max_length=4),
    "full": dying(max_length=4, overflow="reject-publish-dlx"),
    "retry": dying(delivery_limit=2, retry_min=100, retry_factor=1.5),
    "late": dying(message_delay=150),
    "target": dying(),
    "ranked": dying(max_priority=3, message_ttl=400),
    "fair": dying(fair_key="tenant", delivery_limit=1),
    "once": dying(message_deduplication=True),
    "moody": dying(),  # policies come and go
    END: {},
}
NEXT = {
    name: str(arguments["x-dead-letter-routing-key"])
    for name, arguments in QUEUES.items()
    if "x-dead-letter-routing-key" in arguments
} | {HIDDEN: "target"}
DELAYS = {HIDDEN: 250, "late": 150}
MOST_DELAY = 100  # that a policy asks for
TTL = {"first": 300, "second": 200, "ranked": 400}
ENTRIES = [HIDDEN, *(name for name in QUEUES if name not in (END, "second"))]
LIMITS = {"retry": 2, "fair": 1}
POLICIES: list[dict[str, object]] = [
    {"max-length": 1000},
    {"message-ttl": 250},
    {"retry-min": 80, "delivery-limit": 2},
    {"max-length": 3},
    {"message-delay": MOST_DELAY},
    {"fair-key": "tenant"},
    {"max-priority": 3, "message-ttl": 400},
]
UNKNOWN = 1 << 62  # of a commit: what many returns are counted for is told of later


@dataclass
class Known:
    """A message.

    Attributes:
      place: Where it was published to, or was found after the last crash.
      written: The commit it is in since then.
      entered: When it came there, of the virtual clock; None if that is not known.
      expiration: Its own time to live.
      is_transient: Whether it goes with the broker.
      may_be_gone: Whether a purge may have met it.
      acked: The commit of its acknowledgement.
      rejected: By queue, the commit of its rejection.
      returned: By queue, the commits of its returns.
    """

    place: str
    written: int
    entered: float | None
    expiration: int | None = None
    is_transient: bool = False
    may_be_gone: bool = False
    acked: int | None = None
    rejected: dict[str, int] = field(default_factory=dict)
    returned: dict[str, list[int]] = field(default_factory=dict)

    def due(self) -> float:
        """When it may be delivered, at the earliest."""
        return (self.entered or 0) + DELAYS.get(self.place, 0)

    def deadline(self) -> float:
        """When it leaves where it was published to."""
        own = self.expiration if self.place != HIDDEN else None
        lives = [life for life in (TTL.get(self.place), own) if life is not None]
        if not lives or self.entered is None:
            return float("inf")
        return self.due() + min(lives) + (MOST_DELAY if self.place == "moody" else 0)


def now() -> float:
    """Return the virtual time in milliseconds, as the broker counts it."""
    return int(trio.current_time() * 1000)


class Reader:
    """Reads what a log has, past the queue."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def waits_for(self, paged: Paged) -> bool:
        return True

    def loaded(self, paged: Paged, messages: list[Any], positions: object = None) -> None:
        self.found += messages


class World:
    """A broker that is lost again and again, and what is known of its messages."""

    def __init__(self, store: Any, seed: int, nursery: trio.Nursery) -> None:
        self.store = store
        self.random = Random(seed)
        self.nursery = nursery
        self.messages: dict[int, Known] = {}
        self.number = 0
        self.haste = self.random.choice((0.0, 0.3, 0.9))
        # by channel and delivery tag: message and queue
        self.held: dict[tuple[int, int], tuple[int, str]] = {}
        self.figures: Counter[str] = Counter()
        self.repeatable: dict[int, bytes] = {}  # publishes to a queue that drops duplicates
        self.remembered: dict[int, int] = {}  # those that it has had, and in which commit

    @property
    def commit(self) -> int:
        """The commit that whatever is done now will be in."""
        return self.durable.broker.batch.commit

    # A life

    async def begin(self) -> None:
        self.durable = Durable(self.store, LITTLE, plugins.load(are_others_wanted=False))
        # slices end early: what one has caused is carried out in others
        self.durable.turns._is_over = lambda: self.random.random() < self.haste
        await self.nursery.start(self.durable.run)
        self.connect()

    def connect(self) -> None:
        self.client = self.durable.connect()
        for channel in (2, 3):
            self.client.open_channel(channel)
        self.client.call(ConfirmSelect(), 2)
        self.client.call(TxSelect(), 3)
        self.held = {}
        self.asked: dict[int, list[float]] = {1: [], 3: []}  # when, for what was not answered yet

    async def declare(self) -> None:
        for name, arguments in QUEUES.items():
            self.client.feed(method_frame(1, QueueDeclare(name, durable=True, arguments=arguments)))
        delayed = {"x-delayed-type": "direct"}
        exchange = ExchangeDeclare("later", "x-delayed-message", durable=True, arguments=delayed)
        self.client.feed(method_frame(1, exchange))
        self.client.feed(method_frame(1, QueueBind("target", "later", "target")))
        await self.rest()
        self.client.take(1)

    async def rest(self) -> None:
        await self.durable.settle()
        assert not self.durable.persistence.failure
        self.take_in()

    async def feed(self, octets: bytes) -> None:
        """Send octets, and wait as long as the broker has to read something for them."""
        self.durable.turns.look_at_clock()
        self.client.feed(octets)
        gate = self.durable.gate
        while self.client.is_waiting:
            await self.durable.settle()
            if not gate.is_reading:
                gate.let_reads_through()
            elif self.client.is_waiting:
                assert gate.held is not None, "a command waits in vain"
                gate.let_one_through()
        self.take_in()

    # What clients do

    def message(self, channel: int) -> bytes:
        """Return the octets of a publish that is about to be carried out."""
        random = self.random
        # a transaction that a queue refuses closes its channel
        place = random.choice([each for each in ENTRIES if each != "full" or channel == 2])
        number = self.number
        self.number += 1
        headers: dict[str, object] = {"tenant": random.choice("abc")}
        if place == "once":
            headers["x-deduplication-header"] = str(number)
        expiration = None
        if place == HIDDEN:
            headers["x-delay"] = DELAYS[HIDDEN]
        elif random.random() < 0.2 and place != "full":
            expiration = random.choice((50, 250, 1000))
        is_transient = place != "once" and random.random() < 0.1
        self.messages[number] = Known(place, self.commit, now(), expiration, is_transient)
        properties = Properties(
            delivery_mode=1 if is_transient else 2,
            headers=headers,
            priority=random.randrange(5),
            expiration=None if expiration is None else str(expiration),
        )
        key, exchange = ("target", "later") if place == HIDDEN else (place, "")
        body = b"%d %s" % (number, b"." * random.choice((0, 5, 40, 300)))
        octets = published(body, BasicPublish(exchange, key), channel, properties)
        if place == "once" and channel == 2:
            self.repeatable[number] = octets
            self.remembered[number] = self.commit
        return octets

    async def publish(self) -> None:
        count = self.random.choice((1, 1, 2, 7))
        await self.feed(b"".join(self.message(2) for _ in range(count)))

    async def repeat(self) -> None:
        """Publish something once more: it is dropped if it was there, and only then."""
        if not self.repeatable:
            return
        number = self.random.choice(list(self.repeatable))
        if number not in self.remembered:
            assert number not in self.messages
            self.messages[number] = Known("once", self.commit, None)
            self.remembered[number] = self.commit
            self.figures["published again"] += 1
        else:
            self.figures["duplicates"] += 1
        await self.feed(self.repeatable[number])

    async def transact(self) -> None:
        """Publish some, and settle what was got, in one transaction."""
        for _ in range(self.random.choice((0, 1, 3))):
            await self.get(3)
        octets = [self.message(3) for _ in range(self.random.choice((0, 1, 2, 6)))]
        tags = [tag for channel, tag in self.held if channel == 3]
        octets += [self.settlement(3, tag) for tag in tags]
        await self.feed(b"".join((*octets, method_frame(3, TxCommit()))))
        self.figures["transactions"] += 1

    async def get(self, channel: int = 1, queue: str = "") -> None:
        self.asked[channel].append(now())
        await self.feed(method_frame(channel, BasicGet(queue or self.random.choice([*QUEUES]))))

    async def purge(self) -> None:
        queue = self.random.choice(list(QUEUES))
        for one in self.messages.values():
            way = {one.place, NEXT.get(one.place, END), END, "second"}
            one.may_be_gone |= queue in way
        await self.feed(method_frame(1, QueuePurge(queue)))

    async def consume(self) -> None:
        queue = self.random.choice(list(QUEUES))
        await self.feed(
            method_frame(1, BasicQos(0, self.random.choice((1, 5))))
            + method_frame(1, BasicConsume(queue, no_wait=True))
        )

    async def settle(self) -> None:
        tags = [tag for channel, tag in self.held if channel == 1]
        if tags:
            await self.feed(self.settlement(1, self.random.choice(tags)))

    def settlement(self, channel: int, tag: int) -> bytes:
        """Return the octets of a settlement that is about to be carried out."""
        how = self.random.choice(("ack", "reject", "return"))
        # what was asked for and has not come, nobody means to settle
        is_multiple = not self.asked[1] and channel == 1 and self.random.random() < 0.3
        for each in list(self.held):
            if each == (channel, tag) or (is_multiple and each[0] == channel and each[1] < tag):
                number, queue = self.held.pop(each)
                one = self.messages[number]
                if how == "ack" or (how == "reject" and queue == END):
                    one.acked = self.commit
                elif how == "reject":
                    one.rejected[queue] = self.commit
                else:
                    commit = UNKNOWN if is_multiple else self.commit
                    one.returned.setdefault(queue, []).append(commit)
                self.figures[how] += 1
        ack = BasicAck(tag, is_multiple)
        method = ack if how == "ack" else BasicNack(tag, is_multiple, requeue=how == "return")
        return method_frame(channel, method)

    # What clients get

    def take_in(self) -> None:
        self.client._read()
        for channel in (1, 2, 3):
            for item in self.client.take(channel):
                time = self.durable.broker.now
                if isinstance(item, BasicGetEmpty) or (
                    isinstance(item, Received) and isinstance(item.method, BasicGetOk)
                ):
                    time = self.asked[channel].pop(0)  # the answer may have waited for a commit
                if isinstance(item, Received):
                    self.judge(channel, item, time)

    def judge(self, channel: int, item: Received, time: float) -> None:
        """Judge a delivery."""
        method = item.method
        assert isinstance(method, BasicDeliver | BasicGetOk)
        number = int(item.body.split()[0])
        one, deaths = self.messages[number], deaths_of(item.properties)
        queue = place_of(one, deaths, method.routing_key)
        assert one.acked is None, f"{number} came after its ack"
        assert all(number != other for other, _ in self.held.values()), f"{number} came twice"
        if queue not in one.returned:
            assert queue not in one.rejected
        if not deaths or queue == one.place:
            assert time >= one.due() - ROUNDING, f"{number} came too early"
            assert time < one.deadline() + ROUNDING, f"{number} came too late"
        returns = len(one.returned.get(queue, ()))
        count = (item.properties.headers or {}).get("x-delivery-count", 0)
        if queue in LIMITS:
            assert returns == count, f"{number} came back {returns} times, and says {count}"
        if returns:
            assert method.redelivered
        self.held[channel, method.delivery_tag] = number, queue
        self.figures["delivered"] += 1

    # The end of a life

    async def crash(self, *, is_carried_out: bool) -> None:
        await self.rest()
        gate, batch = self.durable.gate, self.durable.broker.batch
        done = batch.committed
        if gate.held is not None and is_carried_out:
            await gate.carry_out()
            done = batch.commit - 1
        await self.durable.lose()
        self.forget(done)
        await self.begin()
        await self.rest()
        await pass_time()
        await self.commit_all()
        await self.look()

    async def commit_all(self) -> None:
        """Wait until nothing waits for a commit: what one has made due is moved in the next."""
        for _ in range(MOST_COMMITS):
            await self.durable.persistence.flush()
            await self.rest()
            queues = self.durable.broker.vhosts["/"].all_queues()
            if not any(queue.log.pending for queue in queues if queue.log is not None):
                return
        raise AssertionError("something waits for a commit that does not come")

    def forget(self, done: int) -> None:
        """Forget what is in no commit up to one; all the rest is certain."""
        kept = {number: 0 for number, commit in self.remembered.items() if commit <= done}
        self.remembered = kept
        for number, one in list(self.messages.items()):
            if one.is_transient or one.written > done or (one.acked or done + 1) <= done:
                self.figures["gone"] += 1
                del self.messages[number]
                continue
            one.written, one.acked = 0, None
            one.rejected = {queue: 0 for queue, each in one.rejected.items() if each <= done}
            one.returned = {
                queue: [
                    0 if each <= done else each for each in some if each <= done or each == UNKNOWN
                ]
                for queue, some in one.returned.items()
            }
        self.figures["crashes"] += 1

    async def look(self) -> None:
        """Read everything that the store has; each message must be there, in one place."""
        places: dict[int, str] = {}
        vhost = self.durable.broker.vhosts["/"]
        for queue in vhost.all_queues():
            for position, message in await self.read(queue):
                number = int(message.body.split()[0])
                assert number not in places, f"{number} is in {places[number]} and {queue.name}"
                assert number in self.messages, f"{number} is in {queue.name}: it should be gone"
                places[number] = queue.name
                self.inspect(self.messages[number], number, queue, position, message)
        lost = {number: self.messages[number] for number in self.messages.keys() - places.keys()}
        assert all(one.may_be_gone for one in lost.values()), lost
        for number in lost:
            del self.messages[number]
        for one in self.messages.values():
            one.may_be_gone = False
        self.figures["found"] += len(places)

    async def read(self, queue: Any) -> list[tuple[int, Any]]:
        log, reader = queue.log, Reader()
        assert not log.pending
        positions = log.positions(0, queue.next_position)
        if positions:
            size = sum(sum(log.sizes(each)) for each in positions)
            last = positions[-1] + 1
            paged = Paged(positions[0], last, len(positions), size, positions=positions)
            log.fetch(reader, paged)
            self.durable.turns.finish()
            await self.durable.settle()
        return list(zip(positions, reader.found, strict=True))

    def inspect(self, one: Known, number: int, queue: Any, position: int, message: Any) -> None:
        """Judge where a message was found; from then on it is there."""
        name, time = queue.name, now()
        deaths = deaths_of(message.properties)
        for death in reversed(deaths):
            if death["queue"] == one.place:
                check_death(death, one, time)
        assert name not in one.rejected, f"{number} was rejected and is in {name} still"
        returned, said = one.returned.get(name, []), queue.log.count(position)
        count = len(returned)
        assert returned.count(0) <= said <= count, f"{number} came back {count} times, not {said}"
        one.returned[name] = [0] * said
        if name == one.place:
            assert time < one.deadline() + ROUNDING, f"{number} is in {name} after its deadline"
            return
        if one.place == HIDDEN and not deaths:
            assert name == "target"
            assert time >= one.due() - ROUNDING
        else:
            assert deaths, f"{number} is in {name}, and did not die"
            assert name == NEXT[deaths[0]["queue"]]
        self.figures[f"moved to {name}"] += 1
        one.place, one.entered, one.expiration = name, None, None

    async def drain(self) -> None:
        """Let everything come to its end, and take it."""
        self.have_policy(POLICIES[0])
        await self.let_all_through()
        await pass_time(3)
        await self.crash(is_carried_out=False)
        await pass_time(3)
        await self.rest()
        await self.crash(is_carried_out=False)
        for queue in QUEUES:
            while True:
                before = len(self.held)
                await self.get(queue=queue)
                if len(self.held) == before:
                    break
        found = {number for number, _ in self.held.values()}
        assert found == self.messages.keys()
        tags = [tag for channel, tag in self.held if channel == 1]
        if tags:
            await self.feed(method_frame(1, BasicAck(max(tags), multiple=True)))
        await self.durable.persistence.flush()
        self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        """Nothing is counted, or known, of messages that are gone."""
        for queue in self.durable.broker.vhosts["/"].all_queues():
            assert (0, 0) == (queue.ready_count, queue.waiting_count), queue
            counts = (queue.bytes, queue.unacked_count, queue.absent_bytes)
            assert (0, 0, 0) == counts, (queue, counts)
            if queue.extras is not None:
                assert 0 == queue.extras.leaving, queue
                if any(hook.counts_octets for hook in queue.extras.hooks.values()):
                    assert 0 == queue.extras.body_octets, queue
                assert not queue.extras.returns, queue
            assert not queue.log.positions(0, queue.next_position), queue

    # A random life

    async def play(self, steps: int) -> None:
        await self.begin()
        await self.declare()
        actions = {
            self.publish: 8,
            self.get: 6,
            self.settle: 6,
            self.transact: 2,
            self.repeat: 2,
            self.change_policy: 1,
            self.purge: 0.3,
            self.consume: 1,
            self.wait: 4,
            self.hold: 2,
            self.hold_reads: 2,
            self.lose: 0.5,
            self.let_through: 4,
            self.die: 1,
        }
        weights = list(actions.values())
        for _ in range(steps):
            [action] = self.random.choices(list(actions), weights)
            await action()
        await self.drain()

    async def change_policy(self) -> None:
        self.have_policy(self.random.choice(POLICIES))

    def have_policy(self, definition: dict[str, object]) -> None:
        vhost = self.durable.broker.vhosts["/"]
        vhost.policies.put(Policy("mood", "^moody$", definition, "queues"))
        vhost.apply_policies()
        self.durable.turns.finish()

    async def wait(self) -> None:
        await self.rest()
        await pass_time(self.random.choice((0.02, 0.06, 0.12, 0.3)))
        await self.rest()

    async def hold(self) -> None:
        self.durable.gate.hold()

    async def hold_reads(self) -> None:
        if self.durable.gate.is_reading:
            self.durable.gate.hold_reads()

    async def lose(self) -> None:
        """Lose the connection: what it has and did not settle goes back."""
        if any(self.asked.values()):  # what it gets is not known
            await self.let_all_through()
        await self.rest()
        for number, queue in self.held.values():
            self.messages[number].returned.setdefault(queue, []).append(UNKNOWN)
        self.client.lose()
        self.connect()

    async def let_all_through(self) -> None:
        self.durable.gate.let_through()
        self.durable.gate.let_reads_through()
        await self.rest()

    async def let_through(self) -> None:
        gate = self.durable.gate
        gate.let_reads_through()
        if self.random.random() < 0.5:
            gate.let_through()
        elif gate.held is not None:
            gate.let_one_through()
        await self.rest()

    async def die(self) -> None:
        await self.crash(is_carried_out=self.random.random() < 0.5)


def deaths_of(properties: Properties) -> list[dict[str, Any]]:
    return list((properties.headers or {}).get("x-death", ()))


def place_of(one: Known, deaths: list[dict[str, Any]], routing_key: str) -> str:
    """Return the queue that a delivery came from."""
    if deaths:
        return NEXT[deaths[0]["queue"]]
    return routing_key if one.place == HIDDEN else one.place


def check_death(death: dict[str, Any], one: Known, time: float) -> None:
    """Judge the first death of a message since it was seen last."""
    queue, reason = death["queue"], death["reason"]
    assert 1 == death["count"]
    if queue == "moody":
        return
    if reason == "expired":
        assert time >= one.deadline() - ROUNDING or one.entered is None
    elif reason == "rejected":
        assert queue in one.rejected
    elif reason == "delivery_limit":
        assert len(one.returned[queue]) > LIMITS[queue]
    else:
        assert (reason, queue in {"short", "full"}) == ("maxlen", True)


async def play(store: Any, seed: int, steps: int) -> None:
    async with trio.open_nursery() as nursery:
        world = World(store, seed, nursery)
        await world.play(steps)
        print(world.figures)
        nursery.cancel_scope.cancel()


def run(store: Any, seed: int, steps: int, least: int | None = None) -> None:
    virtual = trio.testing.MockClock()
    with ExitStack() as stack:
        stack.enter_context(capture_logs())
        stack.enter_context(everything_small() if least is None else everything_small(least))
        stack.enter_context(patch.object(clock, "time", lambda: START + trio.current_time()))
        for name in ("monotonic", "lasting"):
            stack.enter_context(patch.object(clock, name, trio.current_time))
        trio.run(play, store, seed, steps, clock=virtual)


@pytest.mark.parametrize("seed", range(4))
def test_each_message_is_in_one_place_after_a_crash(seed):
    run(MemoryStore(), seed, 150)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 140))
def test_each_message_is_in_one_place_after_many_crashes(seed):
    run(MemoryStore(), seed, 400)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(300, 310))
def test_each_message_is_in_one_place_on_a_disk(seed):
    with TemporaryDirectory() as folder:
        run(SQLiteStore(Path(folder) / "data"), seed, 400, 50 if seed % 2 else None)

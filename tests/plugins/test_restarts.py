"""What plugins know of messages in queues is there after a crash: deadlines, waits, counts, order.

Delayed exchanges, deduplication and Celery's tasks have tests of their own. Time is virtual, the
wall clock's too.
"""

import pytest
import trio

from leveret.broker import plugins
from leveret.broker.server import clock
from leveret.broker.server.forgetter import Forgetter
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import (
    BasicGet,
    BasicNack,
    BasicPublish,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
    QueuePurge,
    TxCommit,
    TxSelect,
)
from leveret.protocol.properties import Properties

from ..support.client import Received, published
from ..support.durable import LITTLE, durable, everything_small, pass_time
from ..support.policies import set_policy

START = 1_800_000_000.0  # of the wall clock


@pytest.fixture(autouse=True)
def _world(monkeypatch):
    monkeypatch.setattr(clock, "time", lambda: START + trio.current_time())
    with everything_small():
        yield


def dying(**arguments):
    there = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    return there | {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}


TO_OUT = {"x-dead-letter-routing-key": "out"}


class Lives:
    """A broker that is lost and comes back."""

    def __init__(self):
        self.store = MemoryStore()

    def __call__(self, *disabled):
        return durable(self.store, LITTLE, plugins.load(disabled, are_others_wanted=False))

    async def begin(self, kept, *bodies, queue="q", arguments=None, **properties):
        """Declare a queue and one for dead letters, publish, and have all of it committed."""
        self.client = client = kept.connect()
        client.send(QueueDeclare("dead", durable=True))
        client.send(QueueDeclare(queue, durable=True, arguments=arguments or {}))
        for body in bodies:
            self.publish(body, queue, **properties)
        await kept.persistence.flush()
        client.take()

    def publish(self, body, queue="q", **properties):
        octets = published(
            body, BasicPublish("", queue), 1, Properties(delivery_mode=2, **properties)
        )
        self.client.feed(octets)
        self.client.take()

    def delay(self, body, inner, binding_key):
        """Publish to a new delayed exchange of another type, bound to queue q, for 2 seconds."""
        delayed = {"x-delayed-type": inner}
        declare = ExchangeDeclare("dx", "x-delayed-message", durable=True, arguments=delayed)
        self.client.send(declare, QueueBind("q", "dx", binding_key))
        waits = Properties(delivery_mode=2, headers={"x-delay": 2000})
        self.client.feed(published(body, BasicPublish("dx", "k"), 1, waits))


@pytest.fixture
def lives():
    return Lives()


async def get(kept, queue="q", *, no_ack=True):
    """Take the first message of a queue; None if there is none."""
    client = kept.clients[-1] if kept.clients else kept.connect()
    kept.turns.look_at_clock()
    client.feed(client.connection.send(1, BasicGet(queue, no_ack)))
    await kept.settle()
    [answer] = client.take()
    return answer if isinstance(answer, Received) else None


async def bodies(kept, queue="q"):
    """Take all that is in a queue."""
    found = []
    while (item := await get(kept, queue)) is not None:
        found.append(item.body)
    return found


async def give_back(kept, queue="q", *, requeue=True):
    """Get a message and return it, or reject it; return what it was."""
    item = await get(kept, queue, no_ack=False)
    assert item is not None
    kept.clients[-1].send(BasicNack(item.tag, requeue=requeue))
    await kept.persistence.flush()
    return item


async def at(milliseconds):
    await pass_time(milliseconds / 1000 - trio.current_time())


# Time to live


async def test_a_deadline_stays_where_it_was(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept, b"m", arguments=dying(message_ttl=1000))
        await at(400)

    async with lives() as kept:
        await at(980)
        assert 1 == kept.broker.vhosts["/"].queues["q"].ready_count
        await at(1010)
        await kept.settle()

        assert [[], [b"m"]] == [await bodies(kept, "q"), await bodies(kept, "dead")]


async def test_what_came_at_once_expires_at_its_own_moments_after_a_restart(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept)
        client = kept.connect()
        method, lives_ms = BasicPublish("", "q"), (900, 200, 200, 600)
        client.feed(
            b"".join(
                published(
                    b"%d" % life, method, 1, Properties(delivery_mode=2, expiration=str(life))
                )
                for life in lives_ms
            )
        )
        await kept.persistence.flush()
    await at(300)

    async with lives() as kept:
        assert 2 == kept.broker.vhosts["/"].queues["q"].ready_count
        await at(700)
        await kept.settle()

        assert [b"900"] == await bodies(kept, "q")


async def test_what_expired_while_the_broker_was_down_is_a_dead_letter_and_never_delivered(
    lives, mock_clock
):
    async with lives() as kept:
        many = [b"%d" % each for each in range(9)]
        await lives.begin(kept, *many, arguments=dying(), expiration="200")
        lives.publish(b"long", expiration="60000")
        await kept.persistence.flush()
    await at(300)

    async with lives() as kept:
        client = kept.connect()
        client.consume("q", no_ack=True)
        await kept.settle()

        assert [b"long"] == client.bodies()
        assert many == await bodies(kept, "dead")


async def test_a_message_keeps_its_deadline_when_it_was_returned_before_the_crash(
    lives, mock_clock
):
    async with lives() as kept:
        await lives.begin(kept, b"m", arguments=dying(message_ttl=500))
        await at(200)
        await give_back(kept)

    async with lives() as kept:
        await at(510)
        await kept.settle()

        assert [[], [b"m"]] == [await bodies(kept, "q"), await bodies(kept, "dead")]


# Dead letters


async def test_a_dead_letter_is_not_sent_in_a_circle_after_a_restart_either(lives, mock_clock):
    there = {"x-dead-letter-exchange": "", "x-message-ttl": 200}
    back = {**there, "x-dead-letter-routing-key": "q"}
    async with lives() as kept:
        await lives.begin(kept, queue="back", arguments=back)
        there["x-dead-letter-routing-key"] = "back"
        await lives.begin(kept, b"m", arguments=there)
        await at(210)
        await kept.persistence.flush()

    async with lives() as kept:
        assert 1 == kept.broker.vhosts["/"].queues["back"].ready_count
        await at(500)
        await kept.settle()

        assert [[], []] == [await bodies(kept, "q"), await bodies(kept, "back")]


async def test_a_rejection_and_its_dead_letter_are_lost_together(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept, b"m", arguments=dying())
        item = await get(kept, no_ack=False)
        kept.gate.hold()
        kept.clients[-1].send(BasicNack(item.tag, requeue=False))
        assert b"m" == (await get(kept, "dead", no_ack=False)).body

    async with lives() as kept:
        assert [[b"m"], []] == [await bodies(kept, "q"), await bodies(kept, "dead")]


@pytest.mark.parametrize("count", [1, 5])  # five are carried out in pieces
async def test_nobody_gets_a_dead_letter_of_a_transaction_that_is_not_on_the_disk(
    lives, mock_clock, count
):
    async with lives() as kept:
        await lives.begin(kept, *[b"%d" % each for each in range(count)], arguments=dying())
        reader, client = kept.connect(), kept.connect()
        reader.consume("dead")
        client.send(TxSelect())
        items = [await get(kept, no_ack=False) for _ in range(count)]
        kept.gate.hold()
        client.send(*[BasicNack(item.tag, requeue=False) for item in items], TxCommit())
        await pass_time()
        reader._read()
        assert [] == reader.bodies()

        kept.gate.let_through()
        await kept.settle()
        reader._read()

        assert [b"%d" % each for each in range(count)] == reader.bodies()


@pytest.mark.parametrize("count", [1, 5])  # five are carried out in pieces
@pytest.mark.parametrize(
    "arguments",
    [dying(max_length=0), dying(message_ttl=0), dying(max_length=0, overflow="reject-publish-dlx")],
    ids=str,
)
async def test_nobody_gets_what_dies_by_a_transaction_that_is_not_on_the_disk(
    lives, mock_clock, arguments, count
):
    async with lives() as kept:
        await lives.begin(kept, arguments=arguments)
        reader, client = kept.connect(), kept.connect()
        reader.consume("dead")
        client.send(TxSelect())
        kept.gate.hold()
        persistent = Properties(delivery_mode=2)
        for each in range(count):
            client.feed(published(b"%d" % each, BasicPublish("", "q"), 1, persistent))
        client.send(TxCommit())
        await pass_time()
        reader._read()
        assert [] == reader.bodies()

        kept.gate.let_through()
        await kept.settle()
        await pass_time()  # what is carried out in pieces may die in the commit behind it
        await kept.settle()
        reader._read()

        assert [b"%d" % each for each in range(count)] == reader.bodies()


@pytest.mark.parametrize("delay", [{}, {"x-deliver-at": 1}], ids=["expired", "delayed"])
async def test_what_dies_while_a_commit_is_on_its_way_waits_for_that_and_no_longer(
    lives, mock_clock, delay
):
    async with lives() as kept:
        await lives.begin(kept, queue="keep")
        reader, client = kept.connect(), kept.connect()
        delayed = {"x-delayed-type": "fanout"}
        client.send(ExchangeDeclare("dx", "x-delayed-message", arguments=delayed))
        client.send(QueueDeclare("out"), QueueBind("out", "dx", ""))
        client.send(QueueDeclare("brief", arguments={**dying(message_ttl=30), **TO_OUT}))
        reader.consume("out")
        await kept.settle()
        client.take()
        client.send(TxSelect())
        kept.gate.hold()
        client.feed(published(b"k", BasicPublish("", "keep"), 1, Properties(delivery_mode=2)))
        if delay:
            delay["x-deliver-at"] = kept.broker.wall + 30
            client.feed(published(b"m", BasicPublish("dx", ""), 1, Properties(headers=delay)))
        else:
            client.feed(published(b"m", BasicPublish("", "brief"), 1))
        client.send(TxCommit())
        await pass_time(0.1)
        reader._read()
        assert [] == reader.bodies()

        kept.gate.let_through()
        await kept.settle()
        client.feed(published(b"later", BasicPublish("", "out"), 1))
        client.send(TxCommit())
        await kept.settle()
        reader._read()

        assert [b"m", b"later"] == reader.bodies()


@pytest.mark.parametrize(
    ("queue", "arguments", "expiration"),
    [("q", {"x-message-ttl": 0}, None), ("q", {}, "0"), ("full", {}, None)],
)
@pytest.mark.parametrize("is_awaited", [True, False])
async def test_time_to_live_0_begins_when_the_transaction_is_on_the_disk(
    lives, mock_clock, queue, arguments, expiration, is_awaited
):
    async with lives() as kept:
        full = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "brief"}
        await lives.begin(kept, queue="full", arguments={**full, "x-max-length": 0})
        await lives.begin(kept, queue="brief", arguments=dying(message_ttl=0))
        await lives.begin(kept, arguments={**dying(), **arguments})
        reader, client = kept.connect(), kept.connect()
        for name in ("q", "brief") if is_awaited else ():
            reader.consume(name, tag=name, no_ack=True)
        client.send(TxSelect())
        properties = Properties(delivery_mode=2, expiration=expiration)
        client.feed(published(b"m", BasicPublish("", queue), 1, properties))
        client.send(TxCommit())
        await kept.settle()
        await pass_time()
        await kept.settle()
        reader._read()
        client.take()

        assert [b"m"] * is_awaited == reader.bodies()
        assert [b"m"] * (not is_awaited) == await bodies(kept, "dead")


# Redelivery


async def test_counts_go_on_to_the_limit(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept, b"m", arguments=dying(delivery_limit=2))
        await give_back(kept)

    async with lives() as kept:
        assert 1 == (await give_back(kept)).properties.headers["x-delivery-count"]

    async with lives() as kept:
        assert 2 == (await give_back(kept)).properties.headers["x-delivery-count"]
        dead = await get(kept, "dead")

        assert "delivery_limit" == dead.properties.headers["x-first-death-reason"]


async def test_what_waits_to_be_tried_again_goes_on_waiting(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept, b"m", arguments=dying(retry_min=1000))
        await give_back(kept)
        await at(300)

    async with lives() as kept:
        assert [] == await bodies(kept)
        await at(1010)
        await kept.settle()

        assert [b"m"] == await bodies(kept)


async def test_what_waits_goes_on_waiting_when_nothing_asks_for_it_any_more(lives, mock_clock):
    async with lives() as kept:
        vhost = kept.broker.vhosts["/"]
        set_policy(vhost, {"retry-min": 1000})
        await lives.begin(kept, b"m")
        await give_back(kept)
        set_policy(vhost, None)
        await kept.persistence.flush()
        assert [] == await bodies(kept)

    async with lives() as kept:
        assert [] == await bodies(kept)
        await at(1010)
        await kept.settle()

        assert [b"m"] == await bodies(kept)


# Order


async def test_the_order_of_priorities_stays(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept, arguments=dying(max_priority=3))
        for number, priority in enumerate((0, 3, 1, 3, 2, 0, 1, 2)):
            lives.publish(b"%d" % number, priority=priority)
        await kept.persistence.flush()

    async with lives() as kept:
        assert [b"1", b"3", b"4", b"7", b"2", b"6", b"0", b"5"] == await bodies(kept)


async def test_keys_take_turns(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept, arguments=dying(fair_key="tenant"))
        for number, tenant in enumerate("aaaaab"):
            lives.publish(b"%d" % number, headers={"tenant": tenant})
        await kept.persistence.flush()

    async with lives() as kept:
        assert b"5" in (await bodies(kept))[:2]


@pytest.mark.parametrize("kind", [{"max_priority": 3}, {"fair_key": "tenant"}], ids=str)
async def test_what_was_delivered_as_it_came_is_in_its_lane_after_a_restart(
    lives, mock_clock, kind
):
    async with lives() as kept:
        await lives.begin(kept, arguments=dying(**kind))
        reader = kept.connect()
        reader.consume()
        for number in range(4):
            tenant = {"tenant": "b" if number == 3 else "a"}
            lives.publish(b"%d" % number, priority=3 * (number == 3), headers=tenant)
        await kept.persistence.flush()
        reader._read()
        assert [b"0", b"1", b"2", b"3"] == reader.bodies()

    async with lives() as kept:
        first, second, *_ = await bodies(kept)

        assert b"3" in ({first} if "max_priority" in kind else {first, second})


async def test_only_what_may_have_been_delivered_is_flagged_though_it_is_not_the_first(
    lives, mock_clock
):
    async with lives() as kept:
        await lives.begin(kept, b"0", arguments=dying(max_priority=3))
        lives.publish(b"1", priority=3)
        assert b"1" == (await get(kept, no_ack=False)).body
        await kept.persistence.flush()
        lives.publish(b"2", priority=3)
        await kept.persistence.flush()

    async with lives() as kept:
        flags = {}
        while (item := await get(kept)) is not None:
            flags[item.body] = item.method.redelivered

        assert flags[b"1"]
        assert not flags[b"2"]


# Length


@pytest.mark.parametrize("limit", [{"max_length": 5}, {"max_length_bytes": 5}])
async def test_a_limit_counts_what_was_there_before(lives, mock_clock, limit):
    async with lives() as kept:
        await lives.begin(kept, *[b"%d" % each for each in range(5)], arguments=dying(**limit))

    async with lives() as kept:
        await lives.begin(kept, b"5", b"6", arguments=dying(**limit))
        await kept.settle()

        assert [b"2", b"3", b"4", b"5", b"6"] == await bodies(kept)
        assert [b"0", b"1"] == await bodies(kept, "dead")


async def test_a_full_queue_refuses_after_a_restart_too(lives, mock_clock):
    arguments = dying(max_length=2, overflow="reject-publish-dlx")
    async with lives() as kept:
        await lives.begin(kept, b"0", b"1", arguments=arguments)

    async with lives() as kept:
        await lives.begin(kept, b"2", arguments=arguments)

        assert [b"2"] == await bodies(kept, "dead")
        assert [b"0", b"1"] == await bodies(kept)


# What is being read


async def test_a_purge_leaves_alone_what_is_read_to_be_dead_lettered(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept, b"m" * 300, b"n" * 300)
        item = await get(kept, no_ack=False)
        for _ in Forgetter(kept.broker).forget(set(kept.broker.vhosts["/"].queues.values())):
            pass
        set_policy(
            kept.broker.vhosts["/"],
            {"dead-letter-exchange": "", "dead-letter-routing-key": "dead"},
            "q",
        )
        kept.gate.hold_reads()
        kept.clients[-1].send(BasicNack(item.tag, requeue=False))
        kept.clients[-1].send(QueuePurge("q"))
        await pass_time()
        kept.gate.let_reads_through()
        await kept.settle()
        kept.clients[-1].take()

        assert not kept.persistence.failure
        assert [[], [b"m" * 300]] == [await bodies(kept), await bodies(kept, "dead")]


async def test_what_was_read_to_be_dead_lettered_is_where_it_was(lives, mock_clock):
    async with lives() as kept:
        many = [b"%d" % each + bytes(200) for each in range(12)]
        await lives.begin(kept, *many, arguments=dying(message_ttl=200))
        kept.gate.hold_reads()
        await at(210)
        assert 0 == kept.broker.vhosts["/"].queues["q"].ready_count

    async with lives() as kept:
        await pass_time()
        await kept.settle()

        assert many == await bodies(kept, "dead")


# Plugins that come and go


@pytest.mark.parametrize("disabled", sorted(plugins.BUILT_IN))
async def test_nothing_is_lost_while_a_plugin_is_disabled(lives, mock_clock, disabled):
    arguments = dying(
        max_priority=3, message_ttl=60_000, max_length=9, retry_min=1000, message_delay=100
    )
    async with lives() as kept:
        await lives.begin(kept, b"0", b"1", arguments=arguments)
        await lives.begin(kept, b"2", queue="keys", arguments=dying(fair_key="tenant"))
        lives.delay(b"3", "direct", "k")
        await kept.persistence.flush()

    async with lives(disabled) as kept:
        await at(500)
        await kept.persistence.flush()

    async with lives() as kept:
        await at(2500)
        await kept.persistence.flush()
        await at(3000)
        await kept.settle()

        assert [[b"0", b"1", b"3"], [b"2"]] == [await bodies(kept), await bodies(kept, "keys")]


async def test_what_is_delayed_waits_for_its_exchange_while_a_plugin_is_disabled(lives, mock_clock):
    async with lives() as kept:
        await lives.begin(kept)
        lives.delay(b"m", "x-consistent-hash", "1")
        await kept.persistence.flush()

    kept_back = []
    async with lives("consistent_hash") as kept:
        kept.broker.events.subscribe("delayed.kept", lambda **fields: kept_back.append(fields))
        await pass_time(5)
        await kept.settle()
        assert [("dx", 1)] == [(each["exchange"], each["count"]) for each in kept_back]
        assert [] == await bodies(kept, "q")
        await kept.persistence.flush()

    async with lives() as kept:
        await pass_time()
        await kept.settle()

        assert [b"m"] == await bodies(kept, "q")

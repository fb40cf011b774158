"""Delayed messages and the store: confirms, restarts, bodies that are not in memory."""

import pytest

from leveret.broker import plugins
from leveret.broker.core.inspect import peek
from leveret.broker.plugins.steering import (
    Steered,
    cancel_delayed,
    count_delayed,
    get_delayed,
    list_delayed,
    reschedule_delayed,
)
from leveret.broker.server import clock
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import (
    BasicAck,
    BasicPublish,
    ConfirmSelect,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
)
from leveret.protocol.properties import Properties

from ..support.client import published
from ..support.durable import durable, pass_time

LIMIT = 1  # octets that stay in memory: only the first chunks do
SECOND = 1000


class Wall:
    """The wall clock, as the broker sees it at its start."""

    seconds = 1_700_000_000.0


@pytest.fixture
def wall(monkeypatch):
    made = Wall()
    monkeypatch.setattr(clock, "time", lambda: made.seconds)
    return made


@pytest.fixture
def store(wall):
    return MemoryStore()


def running(store):
    return durable(store, LIMIT, plugins.load(are_others_wanted=False))


def declare(client):
    arguments = {"x-delayed-type": "direct"}
    client.send(ExchangeDeclare("dx", "x-delayed-message", durable=True, arguments=arguments))
    client.send(QueueDeclare("q", durable=True))
    client.send(QueueBind("q", "dx", "k"))


def octets(body, mode=2, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    name = body.decode()
    properties = Properties(delivery_mode=mode, message_id=name, headers=named)
    return published(body, BasicPublish("dx", "k"), properties=properties)


async def publish(kept, client, *delays, mode=2):
    """Publish messages that are called by their delays, and have them committed."""
    client.feed(b"".join(octets(b"%d" % delay, mode, x_delay=delay) for delay in delays))
    await kept.persistence.flush()


async def consumed(kept):
    client = kept.connect()
    _, *found = client.consume("q", no_ack=True)
    await kept.settle()
    return [each.body for each in (*found, *client.take())]


async def test_a_delayed_message_is_confirmed_when_it_is_stored(store, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await kept.persistence.flush()
        client.take()
        client.send(ConfirmSelect())
        kept.gate.hold()
        client.feed(octets(b"m", x_delay=SECOND))
        await pass_time()
        assert [] == client.take()

        kept.gate.let_through()
        await kept.settle()

        assert [BasicAck(1)] == client.take()


async def test_what_waits_goes_on_waiting_after_a_restart(store, wall, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, 5000)
        await kept.stop()

    wall.seconds += 3
    async with running(store) as kept:
        await pass_time(1.9)
        await kept.settle()
        assert [] == await consumed(kept)
        await pass_time(0.2)
        await kept.settle()

        assert [b"5000"] == kept.clients[0].bodies()


async def test_what_became_due_meanwhile_comes_in_the_order_of_its_moments(store, wall, mock_clock):
    delays = [5000, 1000, 3000, 2000, 4000, 900_000]
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, *delays)
        await kept.stop()

    wall.seconds += 60
    async with running(store) as kept:
        await pass_time()
        await kept.settle()

        assert [b"1000", b"2000", b"3000", b"4000", b"5000"] == await consumed(kept)
        assert 1 == count_delayed(kept.broker, "/", "dx").waiting


async def test_names_are_known_after_a_restart_without_reading_a_body(store, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, 5000, 6000, 7000)
        await kept.stop()

    async with running(store) as kept:
        kept.gate.hold_reads()
        [found] = get_delayed(kept.broker, "/", "dx", "6000")
        assert (1, False, 4) == (found.position, found.is_loaded, found.body_bytes)
        assert Steered(1, True) == cancel_delayed(kept.broker, "/", "dx", "6000")
        assert Steered(1, True) == reschedule_delayed(kept.broker, "/", "dx", "7000", delay=500)
        kept.turns.finish()
        await kept.stop()

    async with running(store) as kept:
        assert () == get_delayed(kept.broker, "/", "dx", "6000")
        assert 2 == count_delayed(kept.broker, "/", "dx").waiting
        await pass_time(0.6)
        await kept.settle()
        assert [b"7000"] == await consumed(kept)


async def test_a_moment_of_the_wall_clock_is_one_after_a_restart_too(store, wall, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        client.feed(octets(b"at", x_deliver_at=int(wall.seconds * 1000) + 60_000))
        client.feed(octets(b"after", x_delay=60_000))
        await kept.persistence.flush()
        await kept.stop()

    async with running(store) as kept:
        await kept.jump_wall(70)

        assert [b"at"] == await consumed(kept)


async def test_transient_messages_do_not_survive(store, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, 5000, mode=1)
        await publish(kept, client, 6000)
        await kept.stop()

    async with running(store) as kept:
        assert [1] == [each.position for each in list_delayed(kept.broker, "/", "dx").messages]


async def test_what_is_delivered_is_not_there_again_after_a_loss_of_power(store, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, 100, 5000)
        await pass_time(0.2)
        await kept.persistence.flush()
        await kept.lose()

    async with running(store) as kept:
        assert 1 == count_delayed(kept.broker, "/", "dx").waiting
        assert [b"100"] == await consumed(kept)


async def test_a_message_on_its_way_comes_again_after_a_loss_of_power(store, wall, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, 1000)
        await kept.stop()

    wall.seconds += 5
    async with running(store) as kept:
        kept.gate.hold_reads()
        await pass_time()
        assert 0 == count_delayed(kept.broker, "/", "dx").waiting
        await kept.lose()

    async with running(store) as kept:
        await pass_time()
        await kept.settle()
        assert [b"1000"] == await consumed(kept)


async def test_bodies_leave_memory_and_come_back_in_time_and_order(store, mock_clock):
    count = 6000  # more than the chunks that stay in any case
    delays = [SECOND + number * 7 % count for number in range(count)]
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, *delays)
        queue = kept.broker.vhosts["/"].hidden["delayed:dx"]
        assert queue.extras.waiting.paged_count > count // 3

        await pass_time(8)
        await kept.settle()

        assert [b"%d" % delay for delay in sorted(delays)] == await consumed(kept)
        assert not queue.extras.ending


async def test_waiting_messages_can_be_peeked_at_after_a_restart(store, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, 5000)
        await kept.stop()

    async with running(store) as kept:
        pages = []
        queue = kept.broker.vhosts["/"].hidden["delayed:dx"]
        peek(queue, pages.append, state="waiting")
        kept.turns.finish()
        await kept.settle()

        [page] = pages
        assert [b"5000"] == [each.message.body for each in page.messages]
        assert 1 == queue.waiting_count


async def test_deleting_the_exchange_drops_what_waits_for_good(store, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        await publish(kept, client, 5000)
        kept.broker.vhosts["/"].delete_exchange("dx")
        kept.turns.finish()
        await kept.stop()

    async with running(store) as kept:
        assert {} == kept.broker.vhosts["/"].hidden

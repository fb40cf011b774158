"""Celery's tasks and the store: restarts, and jumps of the clock by which their times are."""

import json
from datetime import UTC, datetime

import pytest

from leveret.broker import plugins
from leveret.broker.server import clock
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import BasicPublish, ExchangeDeclare, QueueDeclare
from leveret.protocol.properties import Properties

from ..support.client import published
from ..support.durable import durable, pass_time

START = 1_700_000_000.0


class Wall:
    """The wall clock, as the broker sees it at its start."""

    seconds = START


@pytest.fixture
def wall(monkeypatch):
    made = Wall()
    monkeypatch.setattr(clock, "time", lambda: made.seconds)
    return made


@pytest.fixture
def store(wall):
    return MemoryStore()


def running(store):
    return durable(store, registry=plugins.load(are_others_wanted=False))


def declare(client, **arguments):
    client.send(QueueDeclare("q", durable=True, arguments={"x-celery": True, **arguments}))


def at(seconds):
    return None if seconds is None else datetime.fromtimestamp(START + seconds, UTC).isoformat()


def task(name, eta=None, expires=None, **properties):
    headers = {"task": "t", "id": name, "eta": at(eta), "expires": at(expires)}
    made = Properties(delivery_mode=2, headers=headers, **properties)
    return published(name.encode(), BasicPublish("", "q"), properties=made)


def revocation(name):
    body = json.dumps({"method": "revoke", "arguments": {"task_id": name}}).encode()
    made = Properties(content_type="application/json")
    return published(body, BasicPublish("celery.pidbox"), properties=made)


async def consumed(kept):
    client = kept.connect()
    _, *found = client.consume("q", no_ack=True)
    await kept.settle()
    return [each.body for each in (*found, *client.take())]


async def test_tasks_wait_on_after_a_restart_and_those_due_meanwhile_come(store, wall, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        client.feed(task("10", eta=10) + task("5", eta=5) + task("20", eta=20))
        await kept.persistence.flush()
        await kept.lose()

    wall.seconds += 15
    async with running(store) as kept:
        assert {b"10", b"5"} == set(await consumed(kept))
        await pass_time(5.1)
        await kept.settle()

        assert [b"20"] == kept.clients[0].bodies()


async def test_tasks_are_revoked_after_a_restart_and_stay_away_after_another(store, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        client.send(ExchangeDeclare("celery.pidbox", "fanout", durable=True))
        client.feed(task("a", eta=10) + task("b", eta=10) + task("c", eta=10) + revocation("a"))
        await kept.persistence.flush()
        await kept.lose()

    async with running(store) as kept:
        assert 2 == kept.broker.vhosts["/"].queues["q"].waiting_count
        kept.connect().feed(revocation("b"))
        await kept.persistence.flush()
        await kept.lose()

    async with running(store) as kept:
        await pass_time(10.1)
        await kept.settle()
        assert [b"c"] == await consumed(kept)


@pytest.mark.parametrize(("expires", "expiration"), [(10, "20000"), (20, "10000")])
async def test_earlier_end_counts_after_a_restart_too(store, wall, mock_clock, expires, expiration):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        client.feed(task("a", expires=expires, expiration=expiration) + task("b"))
        await kept.stop()

    wall.seconds += 15
    async with running(store) as kept:
        await pass_time()
        assert [b"b"] == await consumed(kept)


async def test_expires_follows_the_wall_clock_after_a_restart_too(store, wall, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        client.feed(task("a", expires=60) + task("b", expires=600))
        await kept.stop()

    async with running(store) as kept:
        await kept.jump_wall(70)

        assert [b"b"] == await consumed(kept)


async def test_eta_is_a_time_of_the_wall_clock(store, mock_clock):
    async with running(store) as kept:
        client = kept.connect()
        declare(client)
        client.feed(task("a", eta=60))
        await kept.persistence.flush()

        await kept.jump_wall(70)

        assert [b"a"] == await consumed(kept)

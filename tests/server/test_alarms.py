"""Alarms: raised, kept and ended, one or several; who is blocked and who is not."""

from dataclasses import replace

import pytest
import trio
import trio.testing

from leveret.broker.config import Config
from leveret.broker.config import Memory as MemorySettings
from leveret.broker.server import alarms
from leveret.broker.server.alarms import DISK, MEMORY, Alarms, MemoryAlarm, Resident
from leveret.protocol.methods import (
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    ConnectionBlocked,
    ConnectionUnblocked,
    QueueBind,
    QueueDeclare,
    QueueDeclareOk,
    QueuePurge,
    QueuePurgeOk,
    TxSelect,
)
from leveret.protocol.reader import Contents

from ..support.edge import LOW_ON_MEMORY, Peer, edge, publish

MIB = 1 << 20


class Memory:
    """What the process is said to have."""

    def __init__(self):
        self.bytes = 0

    def __call__(self):
        return self.bytes


@pytest.fixture(autouse=True)
def _looks_only_when_told(monkeypatch):
    monkeypatch.setattr(alarms, "INTERVAL", 1e9)


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def alarm(broker, memory):
    return MemoryAlarm(Alarms(broker), 10 * MIB, 0.8, memory)


def test_rises_at_the_limit(broker, alarm, memory):
    memory.bytes = 10 * MIB - 1
    alarm.look()
    assert broker.blocked == ""

    memory.bytes += 1
    alarm.look()

    assert broker.blocked == LOW_ON_MEMORY


def test_a_message_in_many_queues_does_not_raise_it(client, broker, alarm, memory):
    """It counts in each of them, but nothing counts for more than the process has."""
    for name in ("a", "b", "c"):
        client.declare(name)
        client.call(QueueBind(name, "amq.fanout"))
    client.publish(b"x" * (4 * MIB), "", "amq.fanout")
    memory.bytes = 5 * MIB
    assert broker.memory > 10 * MIB

    alarm.look()

    assert broker.blocked == ""


@pytest.mark.parametrize("where", ["transaction", "half a message", "unread replies"])
def test_what_is_not_in_a_queue_is_accounted_for_too(client, broker, where):
    client.declare()
    before = broker.memory
    body = b"x" * MIB
    if where == "transaction":
        client.call(TxSelect())
        client.publish(body)
    elif where == "half a message":
        client.feed(publish(body * 2, "q")[: MIB + (1 << 18)])
    else:
        client.publish(body)
        client.wire.takes = 0
        client.send(BasicGet("q", True))

    assert broker.memory - before >= MIB


def test_ends_by_the_accounts_below_its_second_mark(client, broker, alarm, memory):
    """Memory that was freed is not always given back: what the process has does not count."""
    client.declare()
    client.publish(b"x" * (5 * MIB))
    client.publish(b"x" * (4 * MIB))
    memory.bytes = 11 * MIB
    alarm.look()
    alarm.look()
    assert broker.blocked == LOW_ON_MEMORY  # 9 MiB are between the marks

    client.call(QueuePurge("q"))
    alarm.look()

    assert broker.blocked == ""


def test_what_was_not_given_back_does_not_raise_it_again(client, broker, alarm, memory):
    client.declare()
    client.publish(b"x" * (11 * MIB))
    memory.bytes = 13 * MIB
    alarm.look()
    client.call(QueuePurge("q"))
    for _ in range(3):
        alarm.look()
        assert broker.blocked == ""

    memory.bytes += 10 * MIB  # it grows again, by nothing that is accounted for
    alarm.look()

    assert broker.blocked == LOW_ON_MEMORY


def test_what_was_not_given_back_counts_when_it_is_used_again(client, broker, alarm, memory):
    client.declare()
    client.publish(b"x" * (11 * MIB))
    memory.bytes = 13 * MIB
    alarm.look()
    client.call(QueuePurge("q"))
    alarm.look()
    client.publish(b"x" * (6 * MIB))
    alarm.look()
    assert broker.blocked == ""

    memory.bytes += 4 * MIB
    alarm.look()

    assert broker.blocked == LOW_ON_MEMORY


def test_resident_memory_is_that_of_this_process():
    resident = Resident()
    before = resident()
    held = bytearray(64 * MIB)
    held[::4096] = b"x" * len(held[::4096])

    assert resident() - before > 48 * MIB


async def test_publisher_is_told_once_and_held_while_a_consumer_goes_on():
    async with edge() as served:
        capabilities = ("connection.blocked",)
        consumer = await Peer.connect(served, capabilities=capabilities)
        await consumer.call(QueueDeclare("q"))
        publisher = await Peer.connect(served, capabilities=capabilities)
        await publisher.write(publish(b"before", "q") * 3)
        while (await consumer.call(QueueDeclare("q", passive=True))).message_count < 3:
            pass

        raised = Alarms(served.broker)
        raised.start(MEMORY)
        await publisher.write(publish(b"during", "q") * 3)
        assert await publisher.next() == (0, ConnectionBlocked(LOW_ON_MEMORY))
        assert isinstance(await consumer.call(BasicConsume("q", "c", no_ack=True)), BasicConsumeOk)
        _, contents = await consumer.next()
        assert [content.body for content in contents] == [b"before"] * 3
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert consumer.commands == []

        raised.end(MEMORY)
        assert await publisher.next() == (0, ConnectionUnblocked())
        held = []
        while len(held) < 3:
            _, command = await consumer.next()
            assert isinstance(command, Contents)
            held += [content.body for content in command]
        assert held == [b"during"] * 3


def test_reasons_are_joined_as_in_rabbitmq_and_the_last_alarm_that_ends_unblocks(broker):
    """rabbit_reader 3.10.8: "low on ", then what is short, the disk first."""
    raised = Alarms(broker)
    said = [broker.blocked]
    for act, resource in (
        (raised.start, MEMORY),
        (raised.start, DISK),
        (raised.end, MEMORY),
        (raised.end, DISK),
    ):
        act(resource)
        said.append(broker.blocked)

    assert ["", "low on memory", "low on disk & memory", "low on disk", ""] == said


async def test_publisher_is_told_nothing_of_a_second_alarm_and_waits_for_the_end_of_both():
    async with edge() as served:
        capabilities = ("connection.blocked",)
        first = await Peer.connect(served, capabilities=capabilities)
        second = await Peer.connect(served, capabilities=capabilities)
        await first.call(QueueDeclare("q"))
        raised = Alarms(served.broker)
        raised.start(MEMORY)
        await first.write(publish(b"x", "q"))
        assert (0, ConnectionBlocked("low on memory")) == await first.next()

        raised.start(DISK)
        await second.write(publish(b"y", "q"))
        assert (0, ConnectionBlocked("low on disk & memory")) == await second.next()
        raised.end(MEMORY)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert all(session.is_blocked for session in served.broker.sessions)
        raised.end(DISK)

        for peer in (first, second):
            assert (0, ConnectionUnblocked()) == await peer.next()
            assert isinstance(await peer.call(QueueDeclare("q", passive=True)), QueueDeclareOk)


async def test_connection_that_never_publishes_is_not_blocked():
    async with edge() as served:
        peer = await Peer.connect(served, capabilities=("connection.blocked",))
        served.broker.blocked = LOW_ON_MEMORY

        await peer.call(QueueDeclare("q"))
        assert await peer.call(QueuePurge("q")) == QueuePurgeOk(0)
        assert peer.commands == []


async def test_client_that_goes_while_it_is_blocked_is_forgotten_when_the_alarm_ends():
    async with edge() as served:
        peer = await Peer.connect(served)
        raised = Alarms(served.broker)
        raised.start(MEMORY)
        await peer.write(publish(b"x", "q"))
        while not any(session.is_blocked for session in served.broker.sessions):
            await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.stream.aclose()

        raised.end(MEMORY)

        while served.broker.sessions:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_client_with_heartbeats_that_goes_while_it_is_blocked_is_forgotten_during_the_alarm(
    autojump_clock, tmp_path
):
    """Else those that come back again and again would use up the descriptors."""
    async with edge(path=tmp_path / "amqp.sock") as served:
        peer = await Peer.connect(served, heartbeat=4)
        served.broker.blocked = LOW_ON_MEMORY
        await peer.write(publish(b"x", "q"))
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.aclose()

        await trio.sleep(2 * 4)

        assert not served.broker.sessions
        assert LOW_ON_MEMORY == served.broker.blocked


async def test_client_that_understands_nothing_of_alarms_is_held_without_a_word(
    autojump_clock, tmp_path
):
    async with edge(path=tmp_path / "amqp.sock") as served:
        peer = await Peer.connect(served)
        await peer.call(QueueDeclare("q"))
        raised = Alarms(served.broker)
        raised.start(MEMORY)
        await peer.write(publish(b"x", "q"))
        await peer.send(1, QueueDeclare("q", passive=True))
        with pytest.raises(trio.TooSlowError):
            await peer.next()

        raised.end(MEMORY)

        assert (1, QueueDeclareOk("q", 1, 0)) == await peer.next()


async def test_watch_raises_and_ends_the_alarm_by_itself(
    autojump_clock, tmp_path, monkeypatch, memory
):
    monkeypatch.setattr(alarms, "INTERVAL", 0.25)
    monkeypatch.setattr(alarms, "Resident", lambda: memory)
    config = replace(Config(), memory=MemorySettings(limit=10 * MIB, resume=0.8))
    async with edge(config, path=tmp_path / "amqp.sock") as served:
        peer = await Peer.connect(served, capabilities=("connection.blocked",))
        memory.bytes = 11 * MIB
        await trio.sleep(0.3)
        assert LOW_ON_MEMORY == served.broker.blocked
        await peer.write(publish(b"x", "q"))
        start = trio.current_time()

        assert (0, ConnectionBlocked(LOW_ON_MEMORY)) == await peer.next()
        assert (0, ConnectionUnblocked()) == await peer.next()  # nothing is accounted for
        assert 0 < trio.current_time() - start < 0.3


# Memory that is given back


@pytest.fixture
def given_back(monkeypatch):
    """Count instead of doing it."""
    calls = []
    monkeypatch.setattr(alarms, "_give_back", lambda: calls.append(None))
    return calls


def test_memory_that_messages_have_left_is_given_back_once(alarm, memory, given_back, broker):
    memory.bytes = alarms.TRIM
    alarm.look()
    assert [] == given_back

    for resident, expected in ((2, 1), (2, 1), (1, 1), (3, 2)):  # nothing came back the first time
        memory.bytes = resident * alarms.TRIM + MIB
        alarm.look()
        assert expected == len(given_back)


@pytest.mark.parametrize("has_trim", [True, False], ids=["this libc", "a libc without"])
def test_giving_back_works_with_any_c_library(monkeypatch, has_trim):
    if not has_trim:
        monkeypatch.setattr("ctypes.CDLL", lambda name: object())

    alarms._give_back()

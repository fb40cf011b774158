"""Queues longer than memory, of messages that no journal has. Real processes, real files."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from leveret.protocol.methods import (
    BasicConsume,
    BasicConsumeOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueuePurge,
    QueuePurgeOk,
)
from leveret.protocol.reader import Contents

from ..support.leveret import Durable
from .durability.link import Link, confirmed_tags, published

MIB = 1 << 20
WINDOW = 2000
SECONDS = 20


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Durable]:
    settings = {"LEVERET_QUEUE_MEMORY": "4MiB", "LEVERET_DISK_FREE": "0"}
    with Durable(tmp_path, "--log-format", "json", environment=settings) as made:
        made.start()
        yield made


def fill(
    broker: Durable, queue: str, count: int, size: int = 1024, exchange: str = "", every: int = 10
) -> int:
    """Publish numbered messages, some of them persistent; return the most memory seen."""
    publisher = Link(broker.address, confirms=True)
    sent = seen = most = 0
    while seen < count:
        while sent < count and sent - seen < WINDOW:
            numbers = range(sent, min(sent + 200, count))
            bodies = [b"%08d" % number + bytes(size - 8) for number in numbers]
            publisher.send(
                b"".join(
                    published(exchange, queue, body, persistent=number % every == every - 1)
                    for number, body in zip(numbers, bodies, strict=True)
                )
            )
            sent += len(numbers)
        seen = max([seen, *(tag for tag, _ in confirmed_tags(publisher.read()))])
        most = max(most, resident(broker))
    publisher.close()
    return most


def resident(broker: Durable) -> int:
    pages = Path(f"/proc/{broker.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def drain(broker: Durable, queue: str, count: int) -> list[int]:
    """Consume so many messages; return their numbers."""
    consumer = Link(broker.address)
    consumer.call(BasicConsume(queue, "c", no_ack=True), BasicConsumeOk)
    numbers = received(consumer, count)
    consumer.close()
    return numbers


def received(consumer: Link, count: int) -> list[int]:
    """Return the numbers of the next so many messages."""
    numbers: list[int] = []
    while len(numbers) < count:
        for command in consumer.read():
            if isinstance(command, Contents):
                numbers += [int(content.body[:8]) for content in command]
    return numbers


def declare(broker: Durable, queue: str, *, durable: bool = False) -> int:
    link = Link(broker.address)
    count = link.call(QueueDeclare(queue, durable=durable), QueueDeclareOk).message_count
    link.close()
    return count


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the broker does by itself, a few times a second."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"


def scratch(broker: Durable) -> int:
    """Octets of all scratch files."""
    octets = 0
    for file in (broker.data / "scratch").glob("*"):
        with suppress(FileNotFoundError):  # it went meanwhile
            octets += file.stat().st_size
    return octets


@pytest.mark.parametrize("is_durable", [False, True], ids=["transient queue", "durable queue"])
def test_what_was_left_to_files_comes_back_in_its_place(broker, is_durable):
    count = 60_000
    declare(broker, "q", durable=is_durable)
    fill(broker, "q", count)
    until(lambda: scratch(broker) > 0)

    assert list(range(count)) == drain(broker, "q", count)


@pytest.mark.long
@pytest.mark.parametrize("is_durable", [False, True], ids=["transient queue", "durable queue"])
def test_a_long_queue_of_transient_messages_takes_little_memory(broker, is_durable):
    count = 400_000
    declare(broker, "q", durable=is_durable)

    most = fill(broker, "q", count)

    assert most < 400 * MIB, "they are 400 MiB, and 540 with what is around them"
    assert scratch(broker) > 60 * MIB
    assert list(range(count)) == drain(broker, "q", count)


@pytest.mark.long
def test_a_consumer_that_acknowledges_nothing_takes_little_memory(broker):
    """Of what is delivered only position and size stay, also after it came back."""
    count = 300_000
    declare(broker, "q", durable=True)
    fill(broker, "q", count, every=1)
    before = resident(broker)
    consumer = Link(broker.address)
    consumer.call(BasicConsume("q", "c"), BasicConsumeOk)

    assert list(range(count)) == received(consumer, count)
    until(lambda: resident(broker) < before + 150 * MIB)  # they are 300 MiB, and 75 for the tags
    consumer.close()
    assert count == declare(broker, "q", durable=True)
    assert resident(broker) < before + 150 * MIB
    assert list(range(count)) == drain(broker, "q", count)
    assert resident(broker) < before + 150 * MIB


def test_after_a_kill_only_what_is_persistent_is_there_and_the_files_are_gone(broker):
    declare(broker, "q", durable=True)
    fill(broker, "q", 40_000)
    until(lambda: scratch(broker) > 0)

    broker.kill()
    assert scratch(broker)
    broker.start()

    assert 0 == scratch(broker)
    count = declare(broker, "q", durable=True)
    assert count >= 4000
    numbers = drain(broker, "q", count)
    assert list(range(9, 40_000, 10)) == numbers[:4000]


def test_messages_larger_than_the_budget_and_than_a_row_come_back_in_order(broker):
    declare(broker, "q", durable=True)
    fill(broker, "q", 12, size=8 * MIB, every=2)
    assert list(range(12)) == drain(broker, "q", 12)
    fill(broker, "q", 12, size=8 * MIB, every=2)

    broker.kill()
    broker.start()

    assert 6 == declare(broker, "q", durable=True)
    assert list(range(1, 12, 2)) == drain(broker, "q", 6)


def test_a_purge_gives_the_files_back(broker):
    declare(broker, "q")
    fill(broker, "q", 40_000)
    link = Link(broker.address)
    link.call(QueuePurge("q"), QueuePurgeOk)
    fill(broker, "q", 10)
    until(lambda: not scratch(broker))
    link.close()

    assert 10 == declare(broker, "q")


@pytest.mark.long
def test_ten_thousand_short_queues_do_not_block_publishers_for_ever(tmp_path):
    settings = {
        "LEVERET_MEMORY_LIMIT": "300MiB",
        "LEVERET_QUEUE_MEMORY": "4MiB",
        "LEVERET_DISK_FREE": "0",
    }
    queues, each = 10_000, 30
    with Durable(tmp_path, "--log-format", "json", environment=settings) as broker:
        broker.start()
        link = Link(broker.address)
        for number in range(queues):
            link.tell(QueueDeclare(f"q{number}", no_wait=True))
        link.call(ExchangeDeclare("all", "topic"), ExchangeDeclareOk)
        for number in range(queues):
            link.tell(QueueBind(f"q{number}", "all", f"{number}", no_wait=True))
        link.call(QueueBind("q0", "all", "nothing"), QueueBindOk)
        publisher = Link(broker.address, confirms=True)
        sent = seen = 0
        for index in range(each):
            body = b"%08d" % index + bytes(1016)
            for number in range(queues):
                publisher.send(published("all", f"{number}", body, persistent=False))
                sent += 1
                while sent - seen >= WINDOW:
                    seen = max([seen, *(tag for tag, _ in confirmed_tags(publisher.read()))])
        while seen < sent:
            seen = max([seen, *(tag for tag, _ in confirmed_tags(publisher.read()))])
        publisher.close()
        assert scratch(broker) > 0
        for number in range(0, queues, 1000):
            assert list(range(each)) == drain(broker, f"q{number}", each)
        link.close()
        lines = [json.loads(line) for line in broker.log.read_text().splitlines() if line[0] == "{"]
        raised = sum(line["event"] == "alarm.raised" for line in lines)
        assert raised == sum(line["event"] == "alarm.cleared" for line in lines)

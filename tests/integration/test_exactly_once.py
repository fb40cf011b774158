"""Exactly once: broker, publisher and consumer are killed at random, and each order counts once.

`durability.exactly_once` has the publisher and the consumer. What the publisher cannot know to be
confirmed it sends again, so duplicates are sure to come; the queue `audit`, from which nobody takes
until the end, shows that each is enqueued once, and the consumer's table that it had one effect.
"""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from ..support.leveret import ROOT, Durable
from .durability.clients import channel
from .durability.exactly_once import AUDIT, effects

PATIENCE = 60.0  # seconds for what must come
OCTETS = 600  # of the numbers of orders that are sent between two deaths, at most


class Party:
    """A publisher or consumer."""

    def __init__(self, *arguments: object) -> None:
        self._command = [sys.executable, "-m", "tests.integration.durability.exactly_once"]
        self._command += map(str, arguments)
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=ROOT)

    @property
    def is_done(self) -> bool:
        return self._process.poll() is not None

    def die(self) -> None:
        """Be killed, and start again."""
        self.end()
        self._process = self._start()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def finish(self) -> None:
        assert self._process.wait(PATIENCE) == 0


class Broker:
    """A broker that dies and starts again."""

    def __init__(self, durable: Durable) -> None:
        self._durable = durable

    def die(self) -> None:
        self._durable.kill()
        self._durable.start()


def kill_at_random(folder: Path, seed: int, count: int, deaths: int) -> Counter[str]:
    """Have orders published and consumed, and somebody killed now and then; judge the end."""
    random, kills = Random(seed), Counter[str]()
    confirmed, table = folder / "confirmed", folder / "effects.db"
    sent = confirmed.with_suffix(".sent")
    sent.touch()
    with Durable(folder) as durable:
        durable.start()
        effects(table).close()
        publisher = Party("publish", durable.port, confirmed, count)
        consumer = Party("consume", durable.port, table, count)
        parties = {"broker": Broker(durable), "publisher": publisher, "consumer": consumer}
        try:
            for _ in range(deaths):
                wait_for_more(sent, random.randint(1, OCTETS), publisher)
                who = random.choice(list(parties))
                parties[who].die()
                kills[who] += 1
            publisher.finish()
            consumer.finish()
        finally:
            publisher.end()
            consumer.end()
        assert Counter(range(count)) == Counter(had(table)), "effects"
        assert Counter(range(count)) == Counter(enqueued(durable)), "messages"
    kills["orders sent twice"] = sum(
        times > 1 for times in Counter(sent.read_text().split()).values()
    )
    return kills


def wait_for_more(sent: Path, octets: int, publisher: Party) -> None:
    """Wait until the publisher has sent some more, as far as it has any."""
    wanted, end = sent.stat().st_size + octets, time.monotonic() + PATIENCE
    while sent.stat().st_size < wanted and not publisher.is_done:
        assert time.monotonic() < end, "nothing is sent any more"
        time.sleep(0.005)


def had(table: Path) -> list[int]:
    database = effects(table)
    try:
        return [number for (number,) in database.execute("SELECT number FROM effect")]
    finally:
        database.close()


def enqueued(durable: Durable) -> list[int]:
    found = []
    with channel(durable) as here:
        while True:
            method, _, body = here.basic_get(AUDIT, auto_ack=True)
            if method is None:
                return found
            found.append(int(body))


def test_each_order_counts_once_whoever_is_killed(tmp_path):
    kills = kill_at_random(tmp_path, seed=3, count=600, deaths=5)

    assert kills["orders sent twice"], kills


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200, 208))
def test_each_of_many_orders_counts_once_whoever_is_killed(tmp_path, seed):
    kills = kill_at_random(tmp_path, seed, count=6000, deaths=40)

    print(kills)
    assert kills["orders sent twice"] > 40, kills
    assert min(kills["broker"], kills["publisher"], kills["consumer"]) > 0, kills

"""kill -9 under load: nothing confirmed is lost, nothing is invented, nothing settled comes back.

`durability` has the clients, the ledger and the rules. A failure says its seed: what the clients
do follows from it, though not when the broker hears of it.
"""

from pathlib import Path

import pytest

from ..support.leveret import Durable
from .durability.broker import IS_RABBITMQ, mortal
from .durability.passage import Passage
from .durability.storm import BODIES, Storm

LIVES = 10
SECONDS = 1.5


def weather(folder: Path, seed: int, kills: int, seconds: float) -> Storm:
    """Return a storm that is over."""
    with mortal(folder) as broker:
        storm = Storm(broker, seed)
        storm.rage(kills, seconds)
    print(storm)
    return storm


def assert_nothing_happened(storm: Storm) -> None:
    assert not storm.ledger.faults, str(storm)
    for figure in ("confirmed", "acks known to be committed", "found after a kill"):
        assert storm.ledger.figures[figure], f"nothing was proven: {storm}"
    assert IS_RABBITMQ or storm.ledger.figures[BODIES], f"no row was long: {storm}"


def test_broker_killed_under_load_keeps_what_it_promised(tmp_path):
    assert_nothing_happened(weather(tmp_path, seed=4, kills=4, seconds=1.0))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 100 + 200 // LIVES))
def test_broker_killed_two_hundred_times(tmp_path, seed):
    assert_nothing_happened(weather(tmp_path, seed, LIVES, SECONDS))


# With all plugins in play


def passage(folder: Path, seed: int, kills: int, seconds: float) -> Passage:
    """Return a passage that is over; little of it is in the broker's memory at a time."""
    with Durable(folder, environment={"LEVERET_QUEUE_MEMORY": "1MiB"}) as broker:
        over = Passage(broker, seed)
        over.rage(kills, seconds)
    print(over)
    return over


def assert_all_arrived(over: Passage) -> None:
    assert not over.ledger.faults, str(over)
    for figure in ("confirmed", "acks known to be committed", "found after a kill", "deaths read"):
        assert over.ledger.figures[figure], f"nothing was proven: {over}"


@pytest.mark.skipif(IS_RABBITMQ, reason="it has not all of these features")
def test_broker_killed_while_messages_are_moved_has_each_in_one_place(tmp_path):
    assert_all_arrived(passage(tmp_path, seed=5, kills=2, seconds=0.8))


@pytest.mark.long
@pytest.mark.skipif(IS_RABBITMQ, reason="it has not all of these features")
@pytest.mark.parametrize("seed", range(500, 500 + 200 // LIVES))
def test_broker_killed_two_hundred_times_while_messages_are_moved(tmp_path, seed):
    assert_all_arrived(passage(tmp_path, seed, LIVES, SECONDS))

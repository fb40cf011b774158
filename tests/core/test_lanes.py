"""Lanes: rows by key, whose messages come and go anywhere."""

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.lanes import Lanes
from leveret.broker.plugins.priority import Levels
from leveret.protocol.properties import Properties

from ..support.fakes import message, messages
from ..support.strategies import registry


@pytest.fixture
def broker():
    made = Broker(registry=registry("hooked"))
    made.add_defaults()
    return made


@pytest.fixture
def queue(broker):
    made = broker.vhosts["/"].declare_queue("q")
    assert isinstance(made, HookedQueue)
    return made


def of(*priorities):
    return [message(b"x", "q", Properties(priority=priority)) for priority in priorities]


def where(lanes):
    """Return the positions in each lane that has any."""
    return [[at for chunk in lane.items() for at in chunk.numbers] for lane in lanes.all()]


def test_one_lane_is_first_in_first_out(queue):
    lanes = Lanes(queue)
    lanes.append(0, messages(b"a", b"b"))
    lanes.append_at([4, 9], messages(b"c", b"d"))
    entries = lanes.remove(1, 4)
    lanes.insert([(1, entries[0][1])])

    assert ([[0, 1, 9]], 3) == (where(lanes), lanes.count)
    assert lanes.front() is lanes.first_to_drop() is queue.runs


def test_an_empty_lane_is_not_served(queue):
    assert (None, 0) == (Lanes(queue).front(), Lanes(queue).count)


def test_keys_divide_what_comes_and_what_comes_back(queue):
    lanes = Levels(queue, 2)
    lanes.append(0, of(1, 1))
    lanes.append(2, of(0, 2, 1, None))
    lanes.append_at([10, 20], of(2, 0))
    found = lanes.remove(1, 10)

    assert [1, 2, 3, 4, 5, 10] == [position for position, _ in found], "ascending over all lanes"
    assert ([[20], [0], []], 2) == (where(lanes), lanes.count)
    lanes.insert(found)
    assert ([[2, 5, 20], [0, 1, 4], [3, 10]], 8) == (where(lanes), lanes.count)


def test_the_highest_that_has_something_is_in_front(queue):
    lanes = Levels(queue, 2)
    lanes.append(0, of(0, 2))
    lanes.remove(1, 1)

    assert lanes.front() is queue.runs
    lanes.remove(0, 0)
    assert lanes.front() is None


def test_an_order_takes_over_what_is_there_only_once_it_counts(queue):
    lanes = Levels(queue, 2)
    queue.runs.append(0, messages(b"a"))
    is_served = lanes.front() is not None
    lanes.begin()

    assert (False, queue.runs, 1) == (is_served, lanes.front(), lanes.count)


def test_all_lanes_are_cleared(queue):
    lanes = Levels(queue, 2)
    lanes.append(0, of(0, 1, 2))
    for work in lanes.clear():
        list(work)

    assert (0, None) == (lanes.count, lanes.front())
    lanes.append(3, of(1))
    assert 1 == lanes.count

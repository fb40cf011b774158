"""Returned messages: in order of position, however many they are and whatever came when."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leveret.broker.core import returned as module
from leveret.broker.core.returned import FEW, STEP, Returned, merged
from leveret.broker.core.runs import octets

from ..support.fakes import message

ONE = message(b"x")


def add(returned, positions):
    returned.add([(position, ONE) for position in positions], octets([ONE] * len(positions)))


def drain(returned, limit):
    """Take everything; return the positions."""
    found = []
    while returned.count:
        positions, taken = returned.take(limit)
        assert 0 < len(positions) == len(taken) <= limit
        found += positions
    return found


@pytest.fixture
def returned():
    return Returned()


def test_a_take_has_no_more_octets_than_asked_for_unless_it_is_one(returned):
    add(returned, range(5))
    size = octets([ONE])

    assert [0, 1] == returned.take(5, 2 * size)[0]
    assert [2] == returned.take(5, 1)[0]
    assert (2, 2 * size) == (returned.count, returned.bytes)


def test_very_many_neighbours_are_few_rows_and_one_range(returned):
    for first in reversed(range(0, 20 * FEW, 2 * FEW)):
        add(returned, range(first, first + 2 * FEW))

    assert 10 == len(returned._rows)
    assert [(0, 20 * FEW - 1)] == returned.ranges()


def test_very_many_that_come_one_by_one_are_few_rows(returned):
    for position in range(10 * FEW):
        add(returned, [position])

    assert 10 >= len(returned._rows)
    assert [(0, 10 * FEW - 1)] == returned.ranges()


def test_what_is_cleared_is_freed_some_at_a_time(returned):
    add(returned, range(4 * STEP))
    add(returned, range(4 * STEP, 4 * STEP + 1))

    debris = returned.clear()

    assert (0, 0, []) == (returned.count, returned.bytes, returned.ranges())
    assert ([], []) == returned.take(1)
    assert 5 == len(list(debris))


@given(
    pieces=st.lists(st.sets(st.integers(0, 60), min_size=1), min_size=1),
    few=st.integers(0, 8),
    taken=st.integers(0, 5),
)
def test_messages_are_taken_in_order_whatever_came_when(pieces, few, taken):
    there = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", few)
        returned = Returned()
        for piece in pieces:
            new = piece - there
            add(returned, list(new))
            there |= new
            gone, _ = returned.take(taken)
            assert sorted(there)[:taken] == gone
            there -= set(gone)

        assert (len(there), octets([ONE] * len(there))) == (returned.count, returned.bytes)
        ranges = returned.ranges()
        assert sorted(there) == [each for a, b in ranges for each in range(a, b + 1)]
        assert merged(ranges) == ranges
        assert sorted(there) == drain(returned, 3)

"""Returned messages: in order of position, however many they are and whatever came when."""

from itertools import chain

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leveret.broker.core import returned as module
from leveret.broker.core.message import absent, octets
from leveret.broker.core.returned import FEW, STEP, Returned
from leveret.broker.core.runs import CHUNK_LENGTH, PIECE_OCTETS

from ..support.fakes import message

ONE = message(b"x")
AWAY = absent(ONE.header_size, ONE.size)


def add(returned, positions):
    returned.add([(position, ONE) for position in positions], octets([ONE] * len(positions)))


def take(returned, limit):
    """Take some, with what has to be read for it; return the positions."""
    found = []
    while len(found) < limit and returned.count:
        if not returned.is_loaded:
            wanted = returned.gather()
            assert returned.load(wanted, [ONE] * wanted.count)
        positions, taken = returned.take(limit - len(found))
        assert len(positions) == len(taken) > 0
        assert {ONE} == set(taken)
        found += positions
    return found


def drain(returned, limit):
    """Take everything; return the positions."""
    found = []
    while returned.count:
        found += take(returned, limit)
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


@pytest.mark.parametrize("count", [10, FEW + 10, 3 * FEW])
def test_what_is_removed_from_the_middle_is_not_there_any_more(returned, count):
    for start in (1, 0):
        add(returned, range(start, count, 2))

    removed = returned.remove(3, 7)

    assert [3, 4, 5, 6, 7] == sorted(position for position, _ in removed)
    assert (count - 5, (count - 5) * octets([ONE])) == (returned.count, returned.bytes)
    assert [0, 1, 2, *range(8, count)] == drain(returned, count)


def test_all_may_be_removed(returned):
    add(returned, range(2 * FEW))

    assert 2 * FEW == len(returned.remove(0, 2 * FEW))
    assert (0, 0, []) == (returned.count, returned.bytes, returned.remove(0, 2 * FEW))


def test_what_is_removed_while_it_is_read_does_not_come_back(returned):
    away = [(position, AWAY) for position in range(FEW + 10)]
    returned.add(away, octets([AWAY] * len(away)))
    asked = returned.gather()

    returned.remove(0, 4)

    assert not returned.load(asked, [ONE] * asked.count)
    assert list(range(5, FEW + 10)) == drain(returned, FEW)
    assert 0 == returned.absent_bytes


def test_some_are_taken_out_whether_they_are_loaded_or_not(returned):
    entries = [(position, AWAY if position % 3 else ONE) for position in range(3 * FEW)]
    returned.add(entries, octets([ONE] * len(entries)))
    taken = returned.take_out(1)
    wanted = returned.gather()
    taken += returned.take_out(FEW)

    assert entries[: FEW + 1] == taken
    assert not returned.load(wanted, [ONE] * wanted.count)
    while returned.count:
        taken += returned.take_out(FEW)
    assert entries == taken
    assert (0, 0) == (returned.bytes, returned.absent_bytes)


def test_very_many_neighbours_are_few_rows(returned):
    for first in reversed(range(0, 20 * FEW, 2 * FEW)):
        add(returned, range(first, first + 2 * FEW))

    assert 10 == len(returned._rows)
    assert list(range(20 * FEW)) == drain(returned, FEW)


def test_very_many_that_come_one_by_one_are_few_rows(returned):
    for position in range(10 * FEW):
        add(returned, [position])

    assert 10 >= len(returned._rows)
    assert list(range(10 * FEW)) == drain(returned, FEW)


def test_what_is_cleared_is_freed_some_at_a_time(returned):
    add(returned, range(4 * STEP))
    add(returned, range(4 * STEP, 4 * STEP + 1))

    debris = returned.clear()

    assert (0, 0) == (returned.count, returned.bytes)
    assert ([], []) == returned.take(1)
    assert 5 == len(list(debris))


def test_a_log_is_told_of_all_that_is_cleared_some_at_a_time(returned):
    told = []

    class Log:
        def settled(self, positions):
            told.append(list(positions))

        def apply(self):
            told.append("apply")

    add(returned, range(0, 4 * STEP, 2))
    add(returned, [1])

    steps = returned.clear(Log())
    assert not told
    next(steps)
    assert [STEP, "apply"] == [len(told[0]), *told[1:]]
    list(steps)

    assert sorted([1, *range(0, 4 * STEP, 2)]) == sorted(chain.from_iterable(told[::2]))


def test_where_the_first_is_absent_it_and_those_behind_it_are_asked_for_together(returned):
    add(returned, [4, 2])
    returned.add([(each, AWAY) for each in (5, 1, 3)], octets([AWAY] * 3))
    assert not returned.is_loaded

    wanted = returned.gather()

    assert (1, 6, [1, 3, 5], octets([AWAY] * 3)) == (
        wanted.base,
        wanted.end,
        wanted.positions,
        wanted.octets,
    )
    assert not returned.is_loaded
    assert returned.load(wanted, [message(b"%d" % each) for each in (1, 3, 5)])
    assert returned.is_loaded
    positions, messages = returned.take(9)
    assert [1, 2, 3, 4, 5] == positions
    assert [b"1", b"x", b"3", b"x", b"5"] == [one.body for one in messages]


def test_no_more_is_asked_for_than_a_chunk_in_number_and_octets(returned):
    large = absent(14, PIECE_OCTETS // 4)
    returned.add([(each, large) for each in range(9)], octets([large] * 9))
    assert [0, 1, 2] == returned.gather().positions

    returned.clear()
    returned.add([(each, AWAY) for each in range(2 * CHUNK_LENGTH)], 0)
    assert CHUNK_LENGTH == returned.gather().count


def test_a_take_ends_before_what_is_absent(returned):
    add(returned, [0, 2])
    returned.add([(1, AWAY)], octets([AWAY]))

    assert [0] == returned.take(9)[0]
    assert not returned.is_loaded
    assert (2, octets([ONE, AWAY]), octets([AWAY])) == (
        returned.count,
        returned.bytes,
        returned.absent_bytes,
    )


def test_what_is_read_after_a_clear_is_not_taken_in(returned):
    returned.add([(0, AWAY)], octets([AWAY]))
    wanted = returned.gather()
    list(returned.clear())

    assert not returned.load(wanted, [ONE])
    assert (0, 0, 0) == (returned.count, returned.bytes, returned.absent_bytes)


@given(
    pieces=st.lists(st.sets(st.integers(0, 60), min_size=1), min_size=1),
    few=st.integers(0, 8),
    taken=st.integers(0, 5),
    away=st.sets(st.integers(0, 60)),
    together=st.integers(1, 9),
)
def test_messages_are_taken_in_order_whatever_came_when(pieces, few, taken, away, together):
    there = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", few)
        patch.setattr(module, "CHUNK_LENGTH", together)
        returned = Returned()
        for piece in pieces:
            new = piece - there
            add(returned, list(new - away))
            returned.add([(each, AWAY) for each in new & away], octets([AWAY] * len(new & away)))
            there |= new
            gone = take(returned, taken)
            assert sorted(there)[:taken] == gone
            there -= set(gone)

        assert (len(there), octets([ONE] * len(there))) == (returned.count, returned.bytes)
        assert sorted(there) == drain(returned, 3)


@given(st.lists(st.integers(0, 3000), unique=True, max_size=60), st.integers(-1, 3000))
def test_those_after_a_position_are_shown_in_order_and_stay(positions, after):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", 5)
        returned = Returned()
        for start in range(0, len(positions), 7):
            add(returned, positions[start : start + 7])

        shown = [position for position, _ in returned.after(after)]

        assert sorted(each for each in positions if each > after) == shown
        assert sorted(positions) == drain(returned, 100)

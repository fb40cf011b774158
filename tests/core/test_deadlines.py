"""Deadlines: what is due comes out when it is due, however much there is and whatever came when."""

import random
from contextlib import contextmanager
from itertools import chain

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from leveret.broker.core import deadlines as module
from leveret.broker.core.deadlines import FEW, MOST, SHORT, Deadlines


@pytest.fixture
def deadlines():
    return Deadlines()


def positions_of(ranges):
    return [first + index for first, count in ranges for index in range(count)]


def test_nothing_is_due_where_nothing_is(deadlines):
    assert deadlines.next is None
    assert [] == deadlines.due(1 << 40)
    assert (0, 0) == (len(deadlines), deadlines.positions)


def test_what_is_due_comes_in_the_order_of_time_and_then_of_position(deadlines):
    deadlines.add(30, 1)
    deadlines.add(10, 7)
    deadlines.add(20, 2, 3)
    deadlines.add(10, 4)

    assert 10 == deadlines.next
    assert [(4, 1), (7, 1), (2, 3)] == deadlines.due(29)
    assert 30 == deadlines.next
    assert [] == deadlines.due(29)
    assert [(1, 1)] == deadlines.due(30)
    assert deadlines.next is None


def test_what_is_due_at_0_is_due_at_once(deadlines):
    deadlines.add(0, 0)

    assert 0 == deadlines.next
    assert [(0, 1)] == deadlines.due(0)


def test_ten_years_and_large_positions_fit(deadlines):
    when, first = 1_800_000_000_000 + 315_360_000_000, (1 << 48) - 2
    deadlines.add(when, first, 2)

    assert when == deadlines.next
    assert [] == deadlines.due(when - 1)
    assert [(first, 2)] == deadlines.due(when)


def test_neighbours_with_the_same_time_are_one_entry(deadlines):
    for position in range(1000):
        deadlines.add(5, position)
    deadlines.add(5, 1000, 24)

    assert (1, 1024) == (len(deadlines), deadlines.positions)
    assert [(0, 1024)] == deadlines.due(5)


@pytest.mark.parametrize("step", [1, 1000, 10 * MOST])
def test_more_neighbours_than_one_entry_holds_are_several(deadlines, step):
    for first in range(0, 2 * MOST + 1000, step):
        deadlines.add(5, first, step)
    total = deadlines.positions

    ranges = deadlines.due(5)

    assert list(range(total)) == positions_of(ranges)
    assert -(-total // MOST) == len(ranges)


def test_gap_begins_a_new_entry(deadlines):
    deadlines.add(5, 1)
    deadlines.add(5, 3)
    deadlines.add(6, 4)

    assert 3 == len(deadlines)
    assert [(1, 1), (3, 1)] == deadlines.due(5)


def test_no_more_positions_come_than_asked_for(deadlines):
    deadlines.add(5, 0, 10)
    deadlines.add(6, 10, 10)

    assert [(0, 4)] == deadlines.due(9, 4)
    assert (2, 16, 5) == (len(deadlines), deadlines.positions, deadlines.next)
    assert [(4, 6), (10, 1)] == deadlines.due(9, 7)
    assert [] == deadlines.due(9, 0)
    assert [(11, 9)] == deadlines.due(9)


def test_what_is_added_twice_is_due_twice(deadlines):
    for _ in range(2):
        deadlines.add(5, 1)

    assert [(1, 1), (1, 1)] == deadlines.due(5)


def test_ten_thousands_in_any_order_come_in_order_and_in_few_rows(deadlines):
    expected = [(when, 2 * when) for when in range(50_000)]
    for when, position in random.Random(5).sample(expected, len(expected)):
        deadlines.add(when, position)

    assert len(deadlines._rows) <= len(deadlines) // FEW
    for until in range(0, 60_000, 777):
        now_due = [(position, 1) for when, position in expected if when <= until]
        assert now_due == deadlines.due(until)
        expected = expected[len(now_due) :]
    assert (0, 0, []) == (len(deadlines), deadlines.positions, deadlines._rows)


def test_what_lasts_among_much_that_does_not_leaves_no_short_rows(deadlines):
    for start in range(0, 60 * FEW, FEW):
        deadlines.add(1 << 40, start)
        for index in range(1, FEW + 1):
            deadlines.add(start, start + 2 * index)
        deadlines.due(start)

    assert (60, 1 << 40) == (len(deadlines), deadlines.next)
    assert not deadlines._rows


def test_what_is_not_wanted_any_more_is_forgotten_in_steps(deadlines):
    for index in range(20 * FEW):
        deadlines.add(index % 1000, 2 * index)

    steps = 0
    for _ in deadlines.rebuild(lambda when, first, count: first % 1000 == 0):
        steps += 1

    assert steps > 10
    assert {row[-1] for _, row in deadlines._rows} == {first for first, _ in deadlines._rows}
    assert all(len(row) >= SHORT for _, row in deadlines._rows)
    assert list(range(0, 40 * FEW, 1000)) == sorted(positions_of(deadlines.due(1000)))
    assert (0, 0) == (len(deadlines), deadlines.positions)


def test_range_of_which_one_position_is_wanted_stays_whole(deadlines):
    deadlines.add(5, 10, 10)
    asked = []

    list(deadlines.rebuild(lambda when, first, count: not asked.append((first, count))))

    assert [(10, 10)] == asked
    assert [(10, 10)] == deadlines.due(5)


def test_what_is_cleared_is_freed_some_at_a_time(deadlines):
    for index in range(20 * FEW):
        deadlines.add(index, 2 * index)

    debris = deadlines.clear()

    assert (0, 0, None) == (len(deadlines), deadlines.positions, deadlines.next)
    assert [] == deadlines.due(1 << 40)
    assert len(list(debris)) > 10
    deadlines.add(7, 3)
    assert [(3, 1)] == deadlines.due(7)


WHENS = st.integers(0, 30)
ADD = st.tuples(st.just("add"), WHENS, st.integers(0, 40), st.integers(1, 9))
DUE = st.tuples(st.just("due"), WHENS, st.none() | st.integers(0, 9))
CLEAR = st.tuples(st.just("clear"))


class Model:
    """Deadlines, and a list of times and positions."""

    def __init__(self):
        self.deadlines = Deadlines()
        self.there = []  # when, position

    def add(self, when, first, count):
        self.deadlines.add(when, first, count)
        self.there += [(when, first + index) for index in range(count)]

    def due(self, now, limit):
        found = positions_of(self.deadlines.due(now, limit))
        for when in sorted(when for when, _ in self.there if when <= now)[:limit]:
            self.there.remove((when, found.pop(0)))
        assert not found

    def clear(self):
        list(self.deadlines.clear())
        self.there.clear()


@contextmanager
def small(few, most=MOST):
    """Have few entries be many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", few)
        patch.setattr(module, "SHORT", max(few // 3, 1))
        patch.setattr(module, "MOST", most)
        yield


@given(
    steps=st.lists(st.one_of(ADD, ADD, DUE, CLEAR), max_size=60),
    few=st.integers(1, 8),
    most=st.integers(1, 9),
)
def test_deadlines_are_what_a_list_of_times_and_positions_is(steps, few, most):
    with small(few, most):
        model = Model()
        for name, *arguments in steps:
            getattr(model, name)(*arguments)
            assert len(model.there) == model.deadlines.positions
            assert min(model.there, default=(None,))[0] == model.deadlines.next
        model.due(1 << 40, None)
        assert (0, 0, 0) == (len(model.there), len(model.deadlines), model.deadlines.positions)


@example(before=[0, 0, 0, 0, 0, 2, 0], between=[-1], few=6)
@given(
    before=st.lists(WHENS, max_size=60),
    between=st.lists(st.integers(-30, 30), max_size=60),
    few=st.integers(1, 8),
)
def test_what_is_wanted_comes_in_time_while_the_rest_is_being_forgotten(before, between, few):
    with small(few):
        deadlines = Deadlines()
        there = {2 * index: when for index, when in enumerate(before)}
        for position, when in there.items():
            deadlines.add(when, position)
        rebuilding = deadlines.rebuild(lambda when, first, count: first % 3 == 0)
        next(rebuilding, None)
        meanwhile = []
        for when in between:  # a time to add one at, or a negative one to ask at
            if when >= 0:
                meanwhile.append(1000 + 2 * len(meanwhile))
                there[meanwhile[-1]] = when
                deadlines.add(when, meanwhile[-1])
            else:
                is_due = {position for position, at in there.items() if at <= -when}
                found = positions_of(deadlines.due(-when))
                assert sorted(found, key=lambda each: (there[each], each)) == found
                assert {each for each in is_due if each % 3 == 0} <= set(found) <= is_due
                there = {each: at for each, at in there.items() if each not in is_due}
            next(rebuilding, None)
        list(rebuilding)

        wanted = {each for each in there if each % 3 == 0}
        left = positions_of(deadlines.due(1 << 40))
        # what stood before something that was due meanwhile may be left for the next time
        assert wanted <= set(left) <= there.keys()
        assert len(left) == len(set(left))
        assert (0, 0) == (len(deadlines), deadlines.positions)


@pytest.mark.parametrize("spread", [1, 7, 100_000])
def test_very_many_at_a_time_are_like_one_after_the_other(spread):
    numbers = random.Random(spread)
    whens = [numbers.randrange(spread) - spread // 2 for _ in range(5000)]
    positions = [number + number // 3 for number in range(5000)]
    many, single = Deadlines(), Deadlines()
    for deadlines in (many, single):
        deadlines.add(3, 1 << 30, 5)
    many.extend(whens[:2500], positions[:2500])
    many.extend(whens[2500:], positions[2500:])
    for when, position in zip(whens, positions, strict=True):
        single.add(when, position)

    assert single.positions == many.positions
    for now in range(-spread, spread, max(spread // 5, 1)):
        assert single.count(-spread, now) == many.count(-spread, now)
        assert listed(single, now) == listed(many, now)
    assert listed(single, -spread) == sorted(listed(many, -spread))
    due = [range(first, first + count) for first, count in many.due(spread + 3)]
    assert [position for _, position in listed(single, -spread)] == [*chain.from_iterable(due)]
    assert 0 == len(many)


def listed(deadlines, when):
    return [
        (at, position)
        for at, first, count in deadlines.after(when)
        for position in range(first, first + count)
    ]


def test_what_is_due_between_is_counted_and_listed_in_order():
    deadlines = Deadlines()
    for position in range(3000):
        deadlines.add(position * 7 % 3000, 2 * position)
    deadlines.add(50, 10_000, 70_000)

    assert 10 + 70_000 == deadlines.count(45, 55)
    assert 10 == deadlines.count(2000, 2010)
    last = listed(deadlines, 2990)
    assert sorted(last) == last
    assert list(range(2990, 3000)) == [when for when, _ in last]
    assert [when for when, _, _ in deadlines.after(50, 40_000)][:1] == [50]

"""Timeline: one number for each position, few octets where neighbours have the same."""

from itertools import product

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leveret.broker.core import timeline as module
from leveret.broker.core.timeline import CHUNK_LENGTH, Timeline


@pytest.fixture
def timeline():
    return Timeline()


def test_what_never_came_has_no_value(timeline):
    timeline.append(5, 2, 7)

    assert [0, 7, 7, 0] == [timeline.get(position) for position in (4, 5, 6, 7)]


def test_end_is_behind_all_that_came(timeline):
    assert 0 == timeline.end

    timeline.append(5, 2, 7)
    timeline.clear()

    assert 7 == timeline.end


def test_gap_has_no_value(timeline):
    timeline.append(0, 2, 7)
    timeline.append(4, 2, 7)

    assert [7, 7, 0, 0, 7, 7] == [timeline.get(position) for position in range(6)]


def test_neighbours_with_one_value_are_one_run(timeline):
    for position in range(10 * CHUNK_LENGTH):
        timeline.append(position, 1, (1 << 64) - 1)

    assert 1 == timeline.runs
    assert (1 << 64) - 1 == timeline.get(10 * CHUNK_LENGTH - 1)


def test_values_that_always_change_are_in_chunks(timeline):
    for position in range(3 * CHUNK_LENGTH):
        timeline.append(2 * position, 2, position + 1)

    assert [CHUNK_LENGTH] * 3 == [len(chunk.firsts) for chunk in timeline._chunks]
    assert [index // 2 + 1 for index in range(6 * CHUNK_LENGTH)] == [
        timeline.get(index) for index in range(6 * CHUNK_LENGTH)
    ]


def test_very_many_values_at_once_are_in_chunks(timeline):
    timeline.append(0, 2, 1)

    timeline.extend(2, [1, *range(2, 3 * CHUNK_LENGTH)])

    assert [CHUNK_LENGTH] * 2 + [CHUNK_LENGTH - 1] == [
        len(each.firsts) for each in timeline._chunks
    ]
    assert [1, 1, *range(1, 3 * CHUNK_LENGTH), 0] == [
        timeline.get(index) for index in range(3 * CHUNK_LENGTH + 2)
    ]


@pytest.mark.parametrize("position", [0, 1, 5, 9])
def test_value_of_one_position_changes(timeline, position):
    timeline.append(0, 10, 7)

    timeline.set(position, 3)

    expected = [7] * 10
    expected[position] = 3
    assert expected == [timeline.get(index) for index in range(10)]
    timeline.append(10, 1, 7)
    assert 7 == timeline.get(10)


def test_value_of_a_position_to_come_may_be_set(timeline):
    timeline.append(0, 1, 7)

    timeline.set(3, 9)

    assert [7, 0, 0, 9, 0] == [timeline.get(index) for index in range(5)]


def test_chunk_that_becomes_too_long_is_divided(timeline):
    timeline.append(0, 2 * CHUNK_LENGTH, 7)
    for position in range(1, 2 * CHUNK_LENGTH, 2):
        timeline.set(position, position)

    assert max(len(chunk.firsts) for chunk in timeline._chunks) <= CHUNK_LENGTH
    assert [index if index % 2 else 7 for index in range(2 * CHUNK_LENGTH)] == [
        timeline.get(index) for index in range(2 * CHUNK_LENGTH)
    ]


def test_what_is_over_has_one_value_and_takes_no_room(timeline):
    for position in range(3 * CHUNK_LENGTH):
        timeline.append(position, 1, position + 1)

    steps = len(list(timeline.let_pass(3 * CHUNK_LENGTH - 5)))

    assert (3, 1, 6) == (steps, timeline.chunks, timeline.runs)
    last = range(3 * CHUNK_LENGTH - 6, 3 * CHUNK_LENGTH - 4)
    assert [1, 1, 3 * CHUNK_LENGTH - 4] == [timeline.get(index) for index in (0, *last)]


def test_what_has_no_value_gets_none_when_others_are_over(timeline):
    timeline.append(0, 1, 7)
    timeline.append(2, 1, 8)

    list(timeline.let_pass(100))

    assert [1, 0, 1, 0] == [timeline.get(index) for index in range(4)]


def test_what_comes_while_values_pass_is_kept(timeline):
    for position in range(3 * CHUNK_LENGTH):
        timeline.append(position, 1, position + 1)
    steps = timeline.let_pass(3 * CHUNK_LENGTH)

    next(steps)
    timeline.append(3 * CHUNK_LENGTH, 1, 1 << 40)
    timeline.set(2, 1 << 41)
    list(steps)

    assert [1, 1 << 41, 1, 1, 1 << 40, 0] == [
        timeline.get(index)
        for index in (1, 2, 3, *range(3 * CHUNK_LENGTH - 1, 3 * CHUNK_LENGTH + 2))
    ]


def test_after_a_clear_nothing_has_a_value_and_more_may_come(timeline):
    timeline.append(0, 10, 7)

    timeline.clear()
    timeline.append(10, 1, 8)
    timeline.append(12, 1, 9)

    assert [0, 0, 8, 0, 9] == [timeline.get(index) for index in (0, 9, 10, 11, 12)]


def test_what_is_forgotten_piece_by_piece_is_one_run(timeline):
    for position in range(10 * CHUNK_LENGTH):
        timeline.append(position, 1, position + 1)

    pieces = [*range(0, 9 * CHUNK_LENGTH, 1000)]
    for first in pieces[::2] + pieces[1::2]:
        timeline.forget(first, first + 1000)

    left = 10 * CHUNK_LENGTH - len(pieces) * 1000
    assert left + 1 == timeline.runs
    assert 1 + -(-left // CHUNK_LENGTH) >= len(timeline._chunks)


def test_what_comes_before_others_is_our_own_mistake(timeline):
    timeline.append(5, 1, 1)

    with pytest.raises(AssertionError):
        timeline.append(4, 1, 1)
    with pytest.raises(AssertionError):
        timeline.extend(4, [1])


VALUES = st.integers(0, 3)
APPEND = st.tuples(st.just("append"), st.integers(0, 3), st.integers(1, 5), VALUES)
EXTEND = st.tuples(st.just("extend"), st.integers(0, 3), st.lists(VALUES, max_size=9))
SET = st.tuples(st.just("set"), st.integers(0, 60), VALUES)
PASS = st.tuples(st.just("let_pass"), VALUES)
FORGET = st.tuples(st.just("forget"), st.integers(0, 60), st.integers(0, 20))
CLEAR = st.tuples(st.just("clear"))


class Model:
    """A timeline, and a dict of values by position."""

    def __init__(self):
        self.timeline = Timeline()
        self.values = {}
        self.start = self.end = 0

    def append(self, gap, count, value):
        first = self.end + gap
        self.timeline.append(first, count, value)
        self.end = first + count
        self.values |= dict.fromkeys(range(first, self.end), value)

    def extend(self, gap, values):
        first = self.end + gap
        self.timeline.extend(first, values)
        self.end = first + len(values)
        self.values |= dict(enumerate(values, first))

    def set(self, position, value):
        self.timeline.set(position, value)
        self.values[position] = value
        self.end = max(self.end, position + 1)

    def let_pass(self, value):
        list(self.timeline.let_pass(value))
        self.values = {key: 1 if 0 < each <= value else each for key, each in self.values.items()}

    def forget(self, first, count):
        self.timeline.forget(first, first + count)
        self.values |= dict.fromkeys(range(first, first + count), 0)

    def clear(self):
        self.timeline.clear()
        self.start = max(self.start, self.end)

    def get(self, position):
        return self.values.get(position, 0) if position >= self.start else 0


@given(
    st.lists(st.one_of(APPEND, APPEND, EXTEND, SET, FORGET, PASS, CLEAR), max_size=40),
    st.integers(1, 6),
)
def test_timeline_is_what_a_dict_of_positions_is(steps, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_LENGTH", length)
        model = Model()
        for name, *arguments in steps:
            getattr(model, name)(*arguments)
            assert model.timeline._bases == [chunk.firsts[0] for chunk in model.timeline._chunks]
            assert [model.get(each) for each in range(model.end + 2)] == [
                model.timeline.get(each) for each in range(model.end + 2)
            ]
            for value, first, count in product((1, 2), range(0, model.end, 3), (1, 4)):
                values = map(model.get, range(first, first + count))
                assert (value in values) is model.timeline.has(value, first, count)

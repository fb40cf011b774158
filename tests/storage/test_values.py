"""Values: numbers of messages in shards, told once, at once or a part at a time."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leveret.broker.storage import values as module
from leveret.broker.storage.values import SHARD_BITS, Values

SHARD = 1 << SHARD_BITS
POSITIONS = st.lists(st.integers(0, 40), unique=True, max_size=20)


@pytest.fixture
def values() -> Values:
    return Values()


def test_counts_are_told_once(values: Values) -> None:
    values.add([7, 5])
    values.add([5])

    assert not values.are_told
    assert [(5, 2), (7, 1)] == values.take(100)
    assert values.are_told
    assert [] == values.take(100)


def test_what_told_counts_and_goes_away_has_them_told_anew(values: Values) -> None:
    values.add([3, SHARD, SHARD + 1, 2 * SHARD])
    values.take(100)

    values.lose(3, SHARD + 1)

    assert not values.are_told
    assert [(3, 1), (SHARD, 1)] == values.take(0)


def test_of_very_many_a_part_is_told(values: Values) -> None:
    values.add(range(10 * SHARD))

    told = 0
    while not values.are_told:
        some = len(values.take(SHARD))
        assert some == SHARD
        told += some

    assert 10 * SHARD == told


def test_what_was_restored_is_told_already(values: Values) -> None:
    values.restore(5, 3)
    assert values.are_told

    values.add([5])

    assert [(5, 4)] == values.take(1)


def test_what_is_forgotten_is_told_no_more(values: Values) -> None:
    values.add(range(5))

    values.forget([0, 9])
    values.drop([(2, 3)])

    assert [(1, 1), (4, 1)] == values.take(100)


@given(returned=st.lists(POSITIONS, max_size=4), gone=POSITIONS, bits=st.integers(0, 4))
def test_ranges_are_dropped_whatever_the_shards_are(
    returned: list[list[int]], gone: list[int], bits: int
) -> None:
    edges = sorted(gone)
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    expected = {
        each: sum(each in some for some in returned)
        for some in returned
        for each in some
        if not any(first <= each <= last for first, last in ranges)
    }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD_BITS", bits)
        values = Values()
        for some in returned:
            values.add(some)
        values.drop(ranges)

    assert expected == dict(values)
    assert bool(expected) == bool(values)


def test_a_value_takes_the_place_of_another_and_may_be_nothing(values: Values) -> None:
    values.put(5, 3)
    values.put(SHARD, 4)
    values.put(5, 0)

    assert [0, 4, None] == [values.get(each) for each in (5, SHARD, 6)]
    assert [(5, 0), (SHARD, 4)] == values.take()
    assert values.are_told

    values.forget([5, SHARD])
    assert not values


@pytest.mark.parametrize("step", [1, SHARD // 4])
def test_values_between_positions_are_ascending(values: Values, step: int) -> None:
    everything = {each: each + 1 for each in range(0, 3 * SHARD, step)}
    for each in reversed(everything):
        values.put(each, everything[each])

    for first, end in ((0, 1), (1, 2), (step, SHARD), (SHARD - 1, 2 * SHARD + 1), (0, 9 * SHARD)):
        expected = [(each, each + 1) for each in everything if first <= each < end]
        assert expected == list(values.between(first, end).items())

"""Values: how often messages came back, in shards, and told a part at a time."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leveret.broker.storage import values as module
from leveret.broker.storage.values import SHARD_BITS, Values

SHARD = 1 << SHARD_BITS
POSITIONS = st.lists(st.integers(0, 40), unique=True, max_size=20)


@pytest.fixture
def counts() -> Values:
    return Values()


def test_counts_are_told_once(counts: Values) -> None:
    counts.add([7, 5])
    counts.add([5])

    assert not counts.are_told
    assert [(5, 2), (7, 1)] == counts.take(100)
    assert counts.are_told
    assert [] == counts.take(100)


def test_what_told_counts_and_goes_away_has_them_told_anew(counts: Values) -> None:
    counts.add([3, SHARD, SHARD + 1, 2 * SHARD])
    counts.take(100)

    counts.lose(3, SHARD + 1)

    assert not counts.are_told
    assert [(3, 1), (SHARD, 1)] == counts.take(0)


def test_of_very_many_a_part_is_told(counts: Values) -> None:
    counts.add(range(10 * SHARD))

    told = 0
    while not counts.are_told:
        some = len(counts.take(SHARD))
        assert some == SHARD
        told += some

    assert 10 * SHARD == told


def test_what_was_restored_is_told_already(counts: Values) -> None:
    counts.restore(5, 3)
    assert counts.are_told

    counts.add([5])

    assert [(5, 4)] == counts.take(1)


def test_what_is_forgotten_is_told_no_more(counts: Values) -> None:
    counts.add(range(5))

    counts.forget([0, 9])
    counts.drop([(2, 3)])

    assert [(1, 1), (4, 1)] == counts.take(100)


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
        counts = Values()
        for some in returned:
            counts.add(some)
        counts.drop(ranges)

    assert expected == dict(counts)
    assert bool(expected) == bool(counts)

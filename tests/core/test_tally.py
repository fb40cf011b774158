"""Tally: of which positions nothing is left."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leveret.broker.core.tally import LENGTH, Tally


def test_a_block_is_gone_with_its_last_message():
    tally = Tally(5)

    assert () == tally.settled(range(6, 5 + LENGTH))
    assert [(5, 5 + LENGTH)] == tally.settled([5])


@pytest.mark.parametrize(("before", "ended"), [(None, []), (3, [(0, 10)]), (4, [])])
def test_what_was_there_before_is_gone_once_it_was_all_counted(before, ended):
    tally = Tally(10, before)
    tally.settled([9, 11])

    assert ended == tally.settled([2, 10, 7])


@given(st.permutations(range(12)), st.integers(0, 4), st.lists(st.integers(1, 5), min_size=12))
def test_what_is_gone_is_told_once_and_never_early(blocks, first, pieces):
    size = LENGTH // 4
    tally = Tally(first * size, first)  # of each piece before it, one message is left
    gone, told = set(), []
    for piece in pieces:
        some, blocks = blocks[:piece], blocks[piece:]
        if not some:
            break
        positions = [
            position
            for block in some
            for position in range(block * size, block * size + (1 if block < first else size))
        ]
        told += tally.settled(positions)
        gone |= set(some)
        expected = [
            (start * size, start * size + LENGTH)
            for start in range(first, 12 - 3, 4)
            if {start, start + 1, start + 2, start + 3} <= gone
        ]
        if first and set(range(first)) <= gone:
            expected.append((0, first * size))
        assert sorted(expected) == sorted(told)

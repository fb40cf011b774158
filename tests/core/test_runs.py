"""Runs: positions that grow, chunks that stay small."""

import pytest

from leveret.broker.core.runs import CHUNK_LENGTH, Runs, octets

from ..support.fakes import message, messages


def bodies(taken):
    base, found = taken
    return base, [item.body for item in found]


def drain(runs, limit=1 << 30):
    """Take everything; return the positions and the messages."""
    positions, found = [], []
    while runs.count:
        base, taken = runs.take(limit)
        assert 0 < len(taken) <= limit
        positions += range(base, base + len(taken))
        found += taken
    return positions, found


def test_what_is_appended_is_taken_in_order():
    runs = Runs()
    runs.append(0, messages(1, 2))
    runs.append(2, messages(3))

    assert (0, [b"1", b"2"]) == bodies(runs.take(2))
    assert (2, [b"3"]) == bodies(runs.take(2))
    assert 0 == runs.count


def test_a_take_leaves_the_rest_at_its_position():
    runs = Runs()
    runs.append(10, messages(1, 2, 3))

    assert (10, [b"1"]) == bodies(runs.take(1))
    assert 2 == runs.count
    assert (11, [b"2", b"3"]) == bodies(runs.take(5))


def test_a_gap_in_positions_is_never_bridged():
    runs = Runs()
    runs.append(0, messages(1))
    runs.append(5, messages(2))

    assert [(0, [b"1"]), (5, [b"2"])] == [bodies(runs.take(9)), bodies(runs.take(9))]


@pytest.mark.parametrize(
    "size", [1, CHUNK_LENGTH - 1, CHUNK_LENGTH, CHUNK_LENGTH + 1, 3 * CHUNK_LENGTH + 5]
)
@pytest.mark.parametrize("limit", [1, 7, CHUNK_LENGTH, 1 << 30])
def test_any_number_comes_out_as_it_went_in(size, limit):
    one = message(b"x")
    runs = Runs()
    runs.append(3, [one] * size)
    runs.append(3 + size, [one] * 10)

    assert size + 10 == runs.count
    positions, found = drain(runs, limit)
    assert list(range(3, size + 13)) == positions
    assert size + 10 == len(found)


def test_no_chunk_grows_beyond_its_limit():
    runs = Runs()
    one = message(b"x")
    position = 0
    for size in (1000, 1000, 1, 5000, 23):
        runs.append(position, [one] * size)
        position += size

    assert max(len(chunk.messages) for chunk in runs._chunks) <= CHUNK_LENGTH
    assert list(range(7024)) == drain(runs)[0]


def test_what_is_taken_is_no_longer_shared():
    runs = Runs()
    runs.append(0, messages(1, 2, 3))
    _, taken = runs.take(2)

    runs.append(3, messages(4))

    assert [b"1", b"2"] == [item.body for item in taken]
    assert (2, [b"3", b"4"]) == bodies(runs.take(9))


def test_the_callers_list_is_not_kept():
    runs = Runs()
    given = messages(1, 2)
    runs.append(0, given)
    given.clear()

    assert (0, [b"1", b"2"]) == bodies(runs.take(9))


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 1), (100, 1), (213, 1), (214, 2), (299, 2), (300, 3), (1 << 40, 3)]
)
@pytest.mark.parametrize("more", [0, 1])
def test_a_take_ends_where_the_octets_do(size, expected, more):
    first, second, third = messages(bytes(86), bytes(100), bytes(72))  # and headers of 14
    runs = Runs()
    runs.append(0, [first, second, third] + [third] * more)

    base, taken = runs.take(3, size)

    assert (0, [first, second, third][:expected]) == (base, taken)
    assert 3 + more - expected == runs.count
    assert octets([first, second, third][expected:]) + more * 86 == runs.bytes
    if runs.count:
        assert expected == runs.take(1)[0]


def test_clear_drops_everything():
    runs = Runs()
    runs.append(0, messages(b"four", b"", b"x" * 2000))
    assert 2004 + 3 * 14 == runs.bytes

    freeing = runs.clear()

    assert (0, 0) == (runs.count, runs.bytes)
    assert 1 == len(list(freeing))

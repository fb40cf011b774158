"""Chunks: cut, filled and split, they know their positions and octets."""

from array import array

import pytest

from leveret.broker.core.chunks import Chunk, Paged, cut, gaps, neighbours
from leveret.broker.core.message import octets

from ..support.fakes import messages


def chunk(*positions):
    """A chunk of messages with their positions as bodies."""
    given = messages(*positions)
    return Chunk(positions[0], given, octets(given), gaps(positions))


def bodies(found):
    return [int(each.body) for each in found.messages]


def sizes(position):
    return 14, len(str(position))


def living(base, end):
    return list(range(base, end))


@pytest.mark.parametrize("positions", [[5], [5, 6, 7], array("Q", [1, 2]), range(3, 9), None])
def test_neighbours_are_not_written_down(positions):
    assert gaps(positions) is None


@pytest.mark.parametrize("positions", [[1, 3], array("Q", [1, 2, 4]), range(0, 6, 2)])
def test_positions_with_gaps_are(positions):
    assert array("Q", positions) == gaps(positions)


def test_runs_of_neighbours_are_told_by_their_first_and_number():
    assert [(1, 2), (5, 1), (8, 3)] == list(neighbours(chunk(1, 2, 5, 8, 9, 10)))
    assert [(4, 3)] == list(neighbours(chunk(4, 5, 6)))
    assert [(4, 5)] == list(neighbours(Paged(4, 9, 2, 30))), "what is missing there is settled"
    assert [(4, 1), (8, 1)] == list(neighbours(Paged(4, 9, 2, 30, positions=[4, 8])))


def test_pieces_are_cut_where_the_octets_end():
    given = messages(bytes(10), bytes(10), bytes(100), b"")

    assert [(0, 2, 48), (2, 3, 114), (3, 4, 14)] == list(cut(given, 50))


@pytest.mark.parametrize(
    ("first", "last", "left"),
    [(0, 2, [3, 4]), (2, 2, [1, 3, 4]), (3, 9, [1, 2]), (1, 3, [4]), (5, 9, [1, 2, 3, 4])],
)
def test_what_is_cut_out_of_neighbours_leaves_the_others(first, last, left):
    made = chunk(1, 2, 3, 4)

    removed = made.remove(first, last)

    assert [each for each in (1, 2, 3, 4) if each not in left] == [at for at, _ in removed]
    assert (left, left) == (list(made.numbers), bodies(made))
    assert (left[0], left[-1] + 1) == (made.base, made.end)
    assert octets(made.messages) == made.octets
    assert (left[-1] - left[0] == len(left) - 1) == (made.positions is None)


def test_a_chunk_without_its_gap_is_as_one_that_never_had_one():
    made = chunk(1, 2, 3, 9)

    made.remove(9, 9)

    assert made.positions is None
    assert [1, 2, 3] == list(made.numbers)


def test_a_chunk_whose_last_gap_is_taken_is_as_one_that_never_had_one():
    made = chunk(1, 5, 6, 7)

    taken = made.take(1, 15)

    assert ([1], None, 5) == (list(taken), made.positions, made.base)


@pytest.mark.parametrize("position", [0, 2, 4, 6, 9])
def test_a_message_is_put_where_it_belongs(position):
    made = chunk(1, 3, 5)

    made.insert(position, *messages(position))

    assert sorted([1, 3, 5, position]) == list(made.numbers) == bodies(made)
    assert min(1, position) == made.base
    assert octets(made.messages) == made.octets


@pytest.mark.parametrize("position", [3, 7])
def test_a_neighbour_of_neighbours_needs_no_positions(position):
    made = chunk(4, 5, 6)

    made.insert(position, *messages(position))

    assert made.positions is None
    assert sorted([4, 5, 6, position]) == bodies(made)


@pytest.mark.parametrize("more", [[7, 8], [8], [7, 9]])
def test_a_chunk_is_extended_with_or_without_gaps(more):
    made = chunk(5, 6)
    given = messages(*more)

    made.extend(more, given, octets(given))

    assert [5, 6, *more] == list(made.numbers) == bodies(made)
    assert ([7, 8] == more) == (made.positions is None)
    assert octets(made.messages) == made.octets


def test_a_chunk_is_halved():
    made = chunk(1, 2, 3, 7, 8, 9)

    half = made.halve()

    assert ([1, 2, 3], [7, 8, 9]) == (bodies(made), bodies(half))
    assert (None, None) == (made.positions, half.positions)
    assert (1, 4, 7, 10) == (made.base, made.end, half.base, half.end)
    assert (45, 45) == (made.octets, half.octets)


@pytest.mark.parametrize("at", [2, 8])
def test_a_paged_chunk_is_split_with_exact_octets(at):
    whole = Paged(5, 15, 8, 8 * 14 + 5 + 6, positions=[5, 6, 7, 8, 9, 10, 11, 14])
    position = whole.positions[at] if at < 8 else 12

    after = whole.split(position, sizes, living)

    for part in (whole, after):
        assert part.octets == sum(sum(sizes(each)) for each in part.positions)
        assert part.count == len(part.positions)
        assert (part.positions[0], part.positions[-1] + 1) == (part.base, part.end)
    assert [5, 6, 7, 8, 9, 10, 11, 14] == [*whole.positions, *after.positions]
    assert whole.end <= position <= after.base


def test_a_log_that_has_not_what_a_chunk_counts_is_not_believed():
    with pytest.raises(AssertionError):
        Paged(0, 9, 5, 75).remove(3, 3, sizes, living)


def test_a_chunk_from_which_nothing_is_removed_stays_as_it_is():
    paged = Paged(0, 9, 9, 135)

    assert [] == paged.remove(20, 30, sizes, living)
    assert (None, 9, 135) == (paged.positions, paged.count, paged.octets)


def test_of_what_was_read_only_what_is_still_there_is_chosen():
    given = messages(0, 1, 2, 3)
    paged = Paged(0, 4, 4, 60, slot=object())
    assert given == paged.chosen(given, None)
    paged.remove(1, 2, None, None)

    assert [given[0], given[3]] == paged.chosen(given, None)
    assert [given[0], given[3]] == paged.chosen([given[0], given[3]], [0, 3])

"""Runs: positions that grow, chunks that stay small."""

import pytest

from leveret.broker.core.message import OVERHEAD
from leveret.broker.core.runs import (
    CHUNK_LENGTH,
    CHUNK_OCTETS,
    FRONT,
    PASSED,
    PIECE_OCTETS,
    Paged,
    Runs,
    octets,
)

from ..support.fakes import message, messages


def bodies(taken):
    positions, found = taken
    assert list(range(positions[0], positions[0] + len(found))) == list(positions)
    return positions[0], [item.body for item in found]


def absent(base, count, size):
    """Neighbouring messages that are not in memory."""
    return Paged(base, base + count, count, size)


def drain(runs, limit=1 << 30):
    """Take everything; return the positions and the messages."""
    positions, found = [], []
    while runs.count:
        some, taken = runs.take(limit)
        assert 0 < len(taken) <= limit
        positions += some
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

    positions, taken = runs.take(3, size)

    assert (range(expected), [first, second, third][:expected]) == (positions, taken)
    assert 3 + more - expected == runs.count
    assert octets([first, second, third][expected:]) + more * 86 == runs.bytes
    if runs.count:
        assert [expected] == list(runs.take(1)[0])


def test_clear_drops_everything():
    runs = Runs()
    runs.append(0, messages(b"four", b"", b"x" * 2000))
    assert 2004 + 3 * 14 == runs.bytes

    freeing = runs.clear()

    assert (0, 0) == (runs.count, runs.bytes)
    assert 1 == len(list(freeing))


# what is not in memory


MEMORY = CHUNK_LENGTH * (1 + 14 + OVERHEAD)  # of a chunk of messages of one octet


def always(base, count):
    return True


def spread(*sizes):
    """Runs with one chunk of messages for each size, without gaps."""
    runs = Runs()
    base = 0
    for size in sizes:
        runs.append(base, [message(b"x")] * size)
        base += size
    return runs


def kinds(runs):
    """First position and number of each chunk, and whether it is paged."""
    return [
        (each.base, each.count, True)
        if isinstance(each, Paged)
        else (each.base, len(each.messages), False)
        for each in runs._chunks
    ]


def test_paged_messages_count_and_their_octets_too():
    runs = Runs()
    runs.append_paged(absent(7, 3, 100))
    runs.append_paged(absent(20, 2, 50))
    runs.append(22, messages(b"four"))

    assert (6, 150 + 4 + 14) == (runs.count, runs.bytes)
    assert (5, 150) == (runs.paged_count, runs.paged_bytes)
    assert 7 == runs.first
    assert runs.is_front_paged


def test_what_follows_a_paged_chunk_is_never_joined_to_it():
    runs = Runs()
    runs.append_paged(absent(0, 3, 100))
    runs.append(3, messages(1))

    assert [(0, 3, True), (3, 1, False)] == kinds(runs)


def test_the_first_paged_chunks_are_wanted_until_somebody_has_asked():
    runs = Runs()
    for base in range(0, 50, 10):
        runs.append_paged(absent(base, 10, 100))

    first, second = runs.wanted(2)
    assert (0, 10) == (first.base, second.base)
    first.is_asked = True
    assert [second] == runs.wanted(2)
    assert [10, 20] == [each.base for each in runs.wanted(3)]


def test_loaded_chunks_take_the_place_of_paged_ones_in_any_order():
    runs = Runs()
    runs.append_paged(absent(0, 2, 100))
    runs.append_paged(absent(5, 1, 50))
    runs.append(6, messages(6))
    first, second = runs.wanted(9)

    assert runs.load(second, messages(5))
    assert runs.is_front_paged
    assert runs.load(first, messages(0, 1))

    assert not runs.is_front_paged
    assert (0, 0) == (runs.paged_count, runs.paged_bytes)
    positions, found = drain(runs)
    assert [0, 1, 5, 6] == positions
    assert [b"0", b"1", b"5", b"6"] == [each.body for each in found]


def test_accounts_are_empty_once_loaded_messages_are_taken():
    runs = Runs()
    given = messages(b"four", b"")
    runs.append_paged(absent(0, 2, octets(given)))
    [paged] = runs.wanted(1)
    runs.load(paged, given)

    drain(runs)

    assert (0, 0) == (runs.count, runs.bytes)


def test_a_chunk_that_is_gone_is_not_loaded():
    runs = Runs()
    runs.append_paged(absent(0, 2, 100))
    [paged] = runs.wanted(1)
    assert runs.has(paged)
    runs.clear()
    runs.append_paged(absent(0, 2, 100))

    assert not runs.has(paged)
    assert not runs.load(paged, messages(0, 1))
    assert (2, 100) == (runs.paged_count, runs.paged_bytes)


def test_a_chunk_is_still_found_when_others_before_it_were_loaded():
    runs = Runs()
    for base in range(FRONT):
        runs.append_paged(absent(base, 1, 100))
    asked = runs.wanted(FRONT)

    for paged in asked:
        assert runs.has(paged)
        assert runs.load(paged, messages(paged.base))

    assert list(range(FRONT)) == drain(runs)[0]


def with_gaps(*positions):
    """Runs with a loaded chunk of the messages at some positions."""
    runs = Runs()
    size = len(positions) * (1 + 14)
    runs.append_paged(Paged(positions[0], positions[-1] + 1, len(positions), size))
    [paged] = runs.wanted(1)
    assert runs.load(paged, messages(*positions), list(positions))
    return runs


def test_a_loaded_chunk_may_have_gaps_and_is_taken_as_one():
    runs = with_gaps(1, 3, 4, 9)

    first, second = runs.take(3), runs.take(9)

    assert ([1, 3, 4], [b"1", b"3", b"4"]) == (list(first[0]), [each.body for each in first[1]])
    assert ([9], [b"9"]) == (list(second[0]), [each.body for each in second[1]])
    assert (0, 0) == (runs.count, runs.bytes)


def test_the_first_position_follows_what_is_taken_across_gaps():
    runs = with_gaps(1, 5, 9)
    runs.take(1)

    assert 5 == runs.first
    assert [(5, 9)] == runs.ranges()


@pytest.mark.parametrize(("position", "count"), [(1, 1), (2, 1), (4, 1), (5, 2), (9, 3), (50, 3)])
def test_until_a_position_there_are_as_many_as_the_gaps_leave(position, count):
    assert count == with_gaps(1, 5, 9).until(position)


def test_nothing_is_joined_to_a_chunk_with_gaps():
    runs = with_gaps(1, 3)
    runs.append(4, messages(4))

    assert [1, 3, 4] == drain(runs)[0]
    assert [] == with_gaps(1, 3).wanted(9)


def test_a_chunk_with_gaps_is_not_paged_out_again():
    runs = spread(CHUNK_LENGTH, CHUNK_LENGTH)
    last = 2 * CHUNK_LENGTH
    runs.append_paged(Paged(last, last + 3, 2, 30))
    [paged] = runs.wanted(FRONT + 1)
    runs.load(paged, messages(1, 2), [last, last + 2])
    runs.page_out(0, always)

    assert 0 == runs.paged_count


def test_a_chunk_ends_where_its_octets_are_enough():
    runs = Runs()
    large = message(bytes(CHUNK_OCTETS // 3))
    runs.append(0, [large] * 2)
    runs.append(2, [large])
    runs.append(3, [large] * 7)

    assert [(0, 2), (2, 1), (3, 2), (5, 2), (7, 2), (9, 1)] == [each[:2] for each in kinds(runs)]
    assert all(octets(chunk.messages) == chunk.octets for chunk in runs._chunks)
    assert list(range(10)) == drain(runs, 1)[0]


def test_chunks_know_their_octets_while_they_are_taken_from():
    runs = Runs()
    runs.append(0, messages(b"one", b"three", b"five5"))
    runs.take(1)
    runs.append(3, messages(b"x"))

    assert [octets(messages(b"three", b"five5", b"x"))] == [each.octets for each in runs._chunks]


class Place:
    """Where a chunk was written."""


def bases(chunks):
    return [chunk.base for chunk in chunks]


def test_what_is_spilled_are_the_last_chunks_but_the_one_that_grows():
    runs = spread(*[CHUNK_LENGTH] * (FRONT + 3), 3)
    last = (FRONT + 2) * CHUNK_LENGTH

    assert [last, last - CHUNK_LENGTH, last - 2 * CHUNK_LENGTH] == bases(runs.spillable(0))
    assert [last] == bases(runs.spillable(runs.memory - MEMORY))
    assert [] == bases(runs.spillable(runs.memory))


def test_when_memory_is_short_the_front_and_what_grows_may_go_too():
    runs = spread(CHUNK_LENGTH, 300)
    assert [] == bases(runs.spillable(0))
    assert [CHUNK_LENGTH] == bases(runs.spillable(0, 1))
    assert [CHUNK_LENGTH, 0] == bases(runs.spillable(0, 0))
    assert [0] == bases(spread(CHUNK_LENGTH, 3).spillable(0, 0)), "too small to be worth it"


def test_a_chunk_with_gaps_is_not_spilled():
    runs = with_gaps(*range(0, 600, 2))
    runs.append(600, messages(1) * 300)

    assert [600] == bases(runs.spillable(0, 0))


def test_a_chunk_that_was_written_is_replaced_if_it_is_still_the_same():
    runs = spread(*[CHUNK_LENGTH] * (FRONT + 2))
    [last, before] = runs.spillable(0)
    place = Place()

    assert runs.spilled(last, Paged(last.base, last.end, CHUNK_LENGTH, last.octets, place))
    assert (CHUNK_LENGTH, last.octets) == (runs.paged_count, runs.paged_bytes)
    assert (FRONT + 2) * CHUNK_LENGTH == runs.count
    written = Paged(before.base, before.end, CHUNK_LENGTH, before.octets, place)
    for _ in range(FRONT):
        runs.take(CHUNK_LENGTH)
    runs.take(1)
    assert not runs.spilled(before, written)
    assert not runs.spilled(last, Paged(last.base, last.end, CHUNK_LENGTH, last.octets, place))
    assert (CHUNK_LENGTH, last.octets) == (runs.paged_count, runs.paged_bytes)


def test_a_chunk_that_has_lost_as_many_as_it_got_is_not_the_same():
    """Else the first one would come back twice, and the last one never."""
    runs = spread(300)
    [chunk] = runs.spillable(0, 0)
    written = Paged(0, 300, 300, chunk.octets, Place())
    runs.take(1)
    runs.append(300, messages(b"x"))
    assert written.count == len(chunk.messages)

    assert not runs.spilled(chunk, written)
    assert (300, 0) == (runs.count, runs.paged_count)
    assert list(range(1, 301)) == drain(runs)[0]


def test_a_chunk_that_has_grown_is_not_the_same():
    runs = spread(300)
    [chunk] = runs.spillable(0, 0)
    written = Paged(0, 300, 300, chunk.octets, Place())
    runs.append(300, messages(b"x"))

    assert not runs.spilled(chunk, written)
    assert list(range(301)) == drain(runs)[0]


def test_what_is_being_read_is_found_when_what_is_before_it_was_paged_out_meanwhile():
    """It was among the first chunks; those before it are now in as many pieces as can be."""
    runs = Runs()
    third = message(bytes(CHUNK_OCTETS // 3 - 14))
    runs.append(0, [third] * 3 * (FRONT - 1))
    last = runs.count
    runs.append_paged(Paged(last, last + 1, 1, 15, Place()))
    [asked] = runs.wanted(FRONT)
    asked.is_asked = True
    runs.page_out(0, always, 0)
    assert [(number, 1, True) for number in range(3 * (FRONT - 1) + 1)] == kinds(runs)

    assert runs.has(asked)
    assert runs.load(asked, messages(b"x"))


def test_what_was_spilled_is_loaded_like_anything_else():
    runs = spread(CHUNK_LENGTH)
    [chunk] = runs.spillable(0, 0)
    given = list(chunk.messages)
    runs.spilled(chunk, Paged(0, CHUNK_LENGTH, CHUNK_LENGTH, chunk.octets, Place()))
    assert runs.is_front_paged

    [paged] = runs.wanted(1)
    assert runs.load(paged, given)

    assert list(range(CHUNK_LENGTH)) == drain(runs)[0]
    assert (0, 0) == (runs.bytes, runs.paged_bytes)


def test_chunks_beyond_what_is_paged_are_spilled_too():
    runs = spread(*[CHUNK_LENGTH] * 5)
    chunks = list(runs.spillable(0))
    runs.spilled(chunks[0], Paged(chunks[0].base, chunks[0].end, CHUNK_LENGTH, chunks[0].octets))

    assert bases(chunks[1:]) == bases(runs.spillable(0))


def test_ranges_span_chunks_in_memory_and_not_and_stop_at_gaps():
    runs = Runs()
    runs.append_paged(absent(0, 3, 100))
    runs.append_paged(absent(3, 2, 100))
    runs.append(5, messages(5))
    runs.append(9, messages(9, 10))
    assert [(0, 5), (9, 10)] == runs.ranges()

    assert [] == Runs().ranges()


def test_a_clear_forgets_what_is_paged():
    runs = spread(CHUNK_LENGTH)
    runs.append_paged(absent(CHUNK_LENGTH, 3, 100))

    assert 2 == len(list(runs.clear()))
    assert (0, 0, 0, 0) == (runs.count, runs.bytes, runs.paged_count, runs.paged_bytes)


@pytest.mark.parametrize(
    ("excess", "paged"), [(0, 0), (1, 1), (MEMORY, 1), (MEMORY + 1, 2), (1 << 30, 3)]
)
def test_the_last_chunks_are_paged_out_first_and_the_front_never(excess, paged):
    number = FRONT + 3
    runs = spread(*[CHUNK_LENGTH] * number)
    whole = runs.bytes

    runs.page_out(runs.memory - excess, always)

    assert [False] * (number - paged) + [True] * paged == [each[2] for each in kinds(runs)]
    assert list(range(0, number * CHUNK_LENGTH, CHUNK_LENGTH)) == [each[0] for each in kinds(runs)]
    assert (number * CHUNK_LENGTH, whole) == (runs.count, runs.bytes)
    assert (paged * CHUNK_LENGTH, whole * paged // number) == (runs.paged_count, runs.paged_bytes)


def test_later_chunks_are_paged_out_when_earlier_ones_are_already():
    runs = spread(*[CHUNK_LENGTH] * (FRONT + 2))
    runs.page_out(0, always)
    runs.append((FRONT + 2) * CHUNK_LENGTH, [message(b"x")] * 2 * CHUNK_LENGTH)

    runs.page_out(FRONT * MEMORY, always)

    assert [False] * FRONT + [True] * 4 == [is_paged for *_, is_paged in kinds(runs)]
    assert sum(count for _, count, is_paged in kinds(runs) if is_paged) == runs.paged_count


def test_what_fits_into_the_limit_is_not_paged_out():
    runs = spread(*[CHUNK_LENGTH] * 5)

    runs.page_out(runs.memory, always)

    assert 0 == runs.paged_count


def test_what_the_log_does_not_have_stays_and_what_is_before_it_goes():
    last = (FRONT + 2) * CHUNK_LENGTH
    runs = spread(*[CHUNK_LENGTH] * (FRONT + 3))
    asked = []

    def all_but_the_last(base, count):
        asked.append((base, count))
        return base < last

    runs.page_out(0, all_but_the_last)

    assert [False] * FRONT + [True, True, False] == [is_paged for *_, is_paged in kinds(runs)]
    assert (last, CHUNK_LENGTH) == asked[0]
    assert list(range(0, last + 1, CHUNK_LENGTH)) == [base for base, *_ in kinds(runs)]


def test_what_is_before_messages_in_a_scratch_file_goes_to_the_log_all_the_same():
    runs = spread(*[CHUNK_LENGTH] * (FRONT + 3))
    last = next(iter(runs.spillable(0)))
    runs.spilled(last, Paged(last.base, last.end, CHUNK_LENGTH, last.octets, Place()))

    runs.page_out(0, always)

    assert [False] * FRONT + [True] * 3 == [is_paged for *_, is_paged in kinds(runs)]
    assert [False, False, True] == [each.slot is not None for each in list(runs._chunks)[FRONT:]]


@pytest.mark.parametrize(("passed", "paged"), [(PASSED, 1), (PASSED + 1, 0)])
def test_behind_so_many_chunks_in_scratch_files_nothing_is_looked_for(passed, paged):
    """A commit must not look through all of a long queue, again and again."""
    runs = spread(*[CHUNK_LENGTH] * (FRONT + 1))
    base = runs.count
    for number in range(base, base + passed):
        runs.append_paged(Paged(number, number + 1, 1, 15, Place()))

    runs.page_out(FRONT * MEMORY, always)

    assert [False] * FRONT + [bool(paged)] == [each[2] for each in kinds(runs)][: FRONT + 1]
    assert list(range(base, base + passed)) == [each[0] for each in kinds(runs)][FRONT + 1 :]


def test_large_messages_are_paged_out_in_pieces_that_are_read_at_once():
    runs = spread(*[CHUNK_LENGTH] * FRONT)
    half = PIECE_OCTETS // 2
    base = FRONT * CHUNK_LENGTH
    runs.append(base, messages(bytes(half), bytes(half), b"x", bytes(3 * PIECE_OCTETS), b"y"))
    whole = runs.bytes

    runs.page_out(0, always)

    pieces = [each for each in runs._chunks if isinstance(each, Paged)]
    assert [(0, 1), (1, 2), (3, 1), (4, 1)] == [(each.base - base, each.count) for each in pieces]
    assert all(each.octets <= PIECE_OCTETS or each.count == 1 for each in pieces)
    assert whole == runs.bytes
    assert runs.paged_bytes == sum(each.octets for each in pieces)


def test_what_is_paged_out_and_loaded_again_comes_out_as_it_went_in():
    runs = Runs()
    given = messages(*range(5 * CHUNK_LENGTH))
    runs.append(3, given)
    runs.page_out(0, always)
    positions, found = [], []
    while runs.count:
        for paged in runs.wanted(1):
            start = paged.base - 3
            assert runs.load(paged, given[start : start + paged.count])
        some, taken = runs.take(100)
        positions += some
        found += taken

    assert list(range(3, 3 + len(given))) == positions
    assert given == found
    assert (0, 0) == (runs.bytes, runs.paged_bytes)

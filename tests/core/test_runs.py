"""Runs: positions that grow, chunks that stay small."""

import pytest

from leveret.broker.core.chunks import Paged
from leveret.broker.core.message import OVERHEAD, Absent, octets
from leveret.broker.core.runs import (
    CHUNK_LENGTH,
    CHUNK_OCTETS,
    FEW,
    FRONT,
    PASSED,
    PIECE_OCTETS,
    Runs,
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
    assert [(5, 5), (9, 9)] == runs.ranges(), "what is between may be in use elsewhere"


@pytest.mark.parametrize(("position", "count"), [(1, 1), (2, 1), (4, 1), (5, 2), (9, 3), (50, 3)])
def test_until_a_position_there_are_as_many_as_the_gaps_leave(position, count):
    assert count == with_gaps(1, 5, 9).until(position)


def test_nothing_is_joined_to_a_chunk_with_gaps():
    runs = with_gaps(1, 3)
    runs.append(4, messages(4))

    assert [1, 3, 4] == drain(runs)[0]
    assert [] == with_gaps(1, 3).wanted(9)


def test_a_chunk_with_gaps_is_paged_out_with_its_positions():
    runs = with_gaps(1, 2, 5, 9)
    asked = []

    def is_kept(base, count):
        asked.append((base, count))
        return True

    runs.page_out(0, is_kept, 0)

    [paged] = runs.items()
    assert [(1, 2), (5, 1), (9, 1)] == asked
    assert (1, 10, 4, [1, 2, 5, 9]) == (paged.base, paged.end, paged.count, [*paged.positions])
    assert (4, runs.bytes) == (runs.paged_count, runs.paged_bytes)


def test_a_chunk_with_gaps_stays_if_the_log_has_not_all_of_it():
    runs = with_gaps(1, 2, 5, 9)

    runs.page_out(0, lambda base, count: base != 5, 0)

    assert [(1, 4, False)] == kinds(runs)


def test_pieces_of_a_chunk_with_gaps_have_positions_only_if_they_have_gaps_themselves():
    half = PIECE_OCTETS // 2 - 14
    runs = Runs()
    runs.append_at([1, 2, 5, 9], messages(*[bytes(half)] * 4))

    runs.page_out(0, always, 0)

    first, second = runs.items()
    assert (1, 3, None) == (first.base, first.end, first.positions)
    assert (5, 10, [5, 9]) == (second.base, second.end, [*second.positions])


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


def written(chunk):
    return Paged(chunk.base, chunk.end, chunk.count, chunk.octets, Place())


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


def test_a_chunk_with_gaps_is_spilled_and_loaded_with_its_positions():
    positions = list(range(0, 600, 2))
    runs = with_gaps(*positions)
    [chunk] = runs.spillable(0, 0)
    given, at = list(chunk.messages), chunk.positions[:]

    assert runs.spilled(chunk, Paged(0, 599, 300, chunk.octets, Place(), at))
    [paged] = runs.wanted(1)
    assert runs.load(paged, given)

    assert (positions, given) == drain(runs)


def test_a_chunk_that_has_other_messages_than_were_written_is_not_the_same():
    """As many, from the same position on, but one has gone out of the middle."""
    runs = spread(300)
    [chunk] = runs.spillable(0, 0)
    written = Paged(0, 300, 300, chunk.octets, Place())
    [(_, gone)] = runs.remove(7, 7)
    runs.append_at([305], messages(b"x"))
    assert (0, 300) == (chunk.base, chunk.count)

    assert not runs.spilled(chunk, written)
    runs.remove(305, 305)
    runs.insert(7, gone)
    assert runs.spilled(chunk, written), "it is as it was"


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
    runs.spilled(chunks[0], written(chunks[0]))

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


# what leaves the middle, and comes back


class Disk:
    """What a log has: as many messages as there are positions, all unsettled but some."""

    def __init__(self, *settled, size=1):
        self.settled = settled
        self.size = size
        self.asked = []

    def sizes(self, position):
        self.asked.append(position)
        return 14, self.size

    def living(self, base, end):
        return [each for each in range(base, end) if each not in self.settled]


def taken_out(entries):
    """The positions of what was removed; all of it was in memory."""
    assert not any(isinstance(each, Absent) for _, each in entries)
    return [position for position, _ in entries]


def mixed():
    """A chunk in memory, one that the log has, one in a file, and one in memory: ten each."""
    runs = spread(10)
    runs.append_paged(absent(10, 10, 150))
    runs.append_paged(Paged(20, 30, 10, 159, Place()))
    runs.append(30, [message(b"x")] * 10)
    return runs


@pytest.mark.parametrize(
    ("first", "last", "left"),
    [
        (0, 0, [(1, 9, False)]),
        (9, 9, [(0, 9, False)]),
        (4, 5, [(0, 8, False)]),
        (0, 9, []),
        (3, 9, [(0, 3, False)]),
        (3, 14, [(0, 3, False), (15, 5, True)]),
        (0, 19, []),
        (12, 12, [(0, 10, False), (10, 9, True)]),
    ],
)
def test_a_range_is_removed_wherever_it_is(first, last, left):
    runs, disk = mixed(), Disk()
    whole = runs.bytes

    removed = runs.remove(first, last, disk.sizes, disk.living)

    behind = [(10, 10, True)] if last < 10 else []
    assert [*left, *behind, (20, 10, True), (30, 10, False)] == kinds(runs)
    assert list(range(first, last + 1)) == [position for position, _ in removed]
    assert [position >= 10 for position, _ in removed] == [
        isinstance(each, Absent) for _, each in removed
    ]
    assert (40 - len(removed), whole - 15 * len(removed)) == (runs.count, runs.bytes)
    assert 20 - sum(position >= 10 for position, _ in removed) == runs.paged_count


@pytest.mark.parametrize(("first", "last"), [(0, 2), (6, 6), (8, 99), (5, 4)])
def test_where_nothing_is_nothing_is_removed(first, last):
    runs = with_gaps(3, 5, 7)

    assert [] == runs.remove(first, last)
    assert [3, 5, 7] == drain(runs)[0]


def test_nothing_is_removed_from_what_is_empty():
    assert [] == Runs().remove(0, 99)


def test_a_paged_chunk_has_explicit_positions_once_something_was_removed():
    """What was removed is unsettled until it is republished; it must not be read with the rest."""
    runs, disk = Runs(), Disk(4)
    runs.append_paged(Paged(2, 9, 6, 90))
    [paged] = runs.wanted(1)

    [(position, gone)] = runs.remove(5, 5, disk.sizes, disk.living)

    assert (5, 14, 1) == (position, gone.header_size, gone.size)
    assert [2, 3, 6, 7, 8] == list(paged.positions)
    assert [5] == disk.asked
    assert (5, 75, 5, 75) == (runs.count, runs.bytes, runs.paged_count, runs.paged_bytes)


def test_the_ends_of_a_paged_chunk_follow_what_is_removed():
    runs, disk = Runs(), Disk(4)
    runs.append_paged(Paged(2, 9, 6, 90))

    runs.remove(0, 3, disk.sizes, disk.living)
    runs.remove(8, 8, disk.sizes, disk.living)

    [paged] = runs.items()
    assert (5, 5, 8) == (runs.first, paged.base, paged.end)


def test_what_was_removed_while_a_chunk_was_read_is_left_out():
    runs, disk = Runs(), Disk()
    runs.append_paged(absent(0, 4, 60))
    [paged] = runs.wanted(1)
    runs.remove(1, 1, disk.sizes, disk.living)

    assert runs.load(paged, messages(0, 1, 2, 3), [0, 1, 2, 3])

    assert ([0, 2, 3], [b"0", b"2", b"3"]) == (
        [*next(runs.items()).numbers],
        [each.body for each in next(runs.items()).messages],
    )
    drain(runs)
    assert (0, 0, 0) == (runs.bytes, runs.paged_count, runs.paged_bytes)


def test_what_was_removed_of_a_file_is_left_out_when_it_is_read():
    """What each takes is not known before."""
    runs = Runs()
    given = messages(b"", bytes(70), b"22", b"333")
    runs.append_paged(Paged(0, 4, 4, octets(given), Place()))
    [paged] = runs.wanted(1)

    removed = runs.remove(1, 2)
    share = octets(given) // 4
    assert [share, share] == [octets((each,)) for _, each in removed]
    assert (2, octets(given) - 2 * share) == (runs.paged_count, runs.paged_bytes)
    assert runs.load(paged, given)

    assert octets([given[0], given[3]]) == runs.bytes
    assert ([0, 3], [given[0], given[3]]) == drain(runs)
    assert (0, 0, 0) == (runs.bytes, runs.paged_count, runs.paged_bytes)


def test_of_a_file_of_which_nothing_is_left_nothing_is_accounted_for():
    runs = Runs()
    runs.append_paged(Paged(0, 3, 3, 100, Place()))

    for position in range(3):
        assert 1 == len(runs.remove(position, position))

    assert (0, 0, 0, 0) == (runs.count, runs.bytes, runs.paged_count, runs.paged_bytes)
    assert [] == kinds(runs)


def test_what_comes_back_into_its_gap_makes_the_chunk_whole_again():
    runs = spread(10)
    [(_, gone)] = runs.remove(4, 4)
    [chunk] = runs.items()
    assert chunk.positions is not None

    runs.insert(4, gone)

    assert chunk.positions is None
    assert list(range(10)) == drain(runs)[0]


def test_what_comes_back_before_the_front_is_joined_to_it():
    runs = spread(10)
    positions, found = runs.take(3)

    runs.insert_many(list(zip(positions, found, strict=True)))

    assert [(0, 10, False)] == kinds(runs)
    assert next(runs.items()).positions is None
    assert list(range(10)) == drain(runs)[0]


def test_what_comes_back_between_chunks_is_one_of_its_own_if_they_are_long():
    runs = Runs()
    runs.append(0, [message(b"x")] * FEW)
    runs.append(FEW + 9, [message(b"x")] * FEW)

    runs.insert(FEW + 4, message(b"y"))

    assert [(0, FEW, False), (FEW + 4, 1, False), (FEW + 9, FEW, False)] == kinds(runs)


def test_what_comes_back_splits_a_paged_chunk_and_asks_for_few_sizes():
    runs, disk = Runs(), Disk(6)
    runs.append_paged(Paged(0, 10, 9, 135))
    runs.remove(7, 7, disk.sizes, disk.living)
    disk.asked.clear()

    runs.insert(7, message(b"7"), disk.sizes, disk.living)

    assert [(0, 6, True), (7, 1, False), (8, 2, True)] == kinds(runs)
    before, _, after = runs.items()
    assert ([0, 1, 2, 3, 4, 5], [8, 9]) == (list(before.positions), list(after.positions))
    assert (90, 30) == (before.octets, after.octets)
    assert [8, 9] == disk.asked
    assert (9, 135, 8, 120) == (runs.count, runs.bytes, runs.paged_count, runs.paged_bytes)


def test_both_parts_of_a_file_that_was_split_are_read_from_it():
    runs = Runs()
    given = messages(*range(6))
    runs.append_paged(Paged(0, 6, 6, octets(given), Place()))
    runs.remove(2, 2)
    runs.insert(2, given[2])

    for paged in runs.wanted(3):
        assert runs.load(paged, given)

    assert (list(range(6)), given) == drain(runs)
    assert (0, 0, 0) == (runs.bytes, runs.paged_count, runs.paged_bytes)


def test_a_chunk_that_is_being_read_stays_wanted_when_very_much_comes_before_it():
    runs = Runs()
    runs.append_paged(absent(1000, 1, 15))
    [paged] = runs.wanted(1)
    runs.insert_many([(10 * number, message(bytes(CHUNK_OCTETS))) for number in range(50)])
    assert 51 == len(kinds(runs))

    assert runs.has(paged)
    assert runs.load(paged, messages(b"x"))


def test_a_full_chunk_is_halved_when_more_comes_into_its_gaps():
    runs = Runs()
    positions = list(range(0, 2 * CHUNK_LENGTH, 2))
    runs.append_at(positions, [message(b"x")] * CHUNK_LENGTH)

    runs.insert(3, message(b"y"))

    half = CHUNK_LENGTH // 2
    assert [(0, half + 1, False), (CHUNK_LENGTH, half, False)] == kinds(runs)
    assert sorted([*positions, 3]) == drain(runs)[0]


def test_very_many_come_back_in_chunks():
    runs = Runs()
    count = 3 * CHUNK_LENGTH + 5
    runs.append(count, messages(b"x"))

    runs.insert_many([(position, message(b"x")) for position in range(count)])

    assert all(chunk.count <= CHUNK_LENGTH for chunk in runs.items())
    assert list(range(count + 1)) == drain(runs)[0]


def test_neighbours_at_the_end_are_added_like_any_others():
    runs = spread(5)

    runs.append_at(range(5, 8), [message(b"x")] * 3)

    assert [(0, 8, False)] == kinds(runs)
    assert next(runs.items()).positions is None


def test_scattered_messages_at_the_end_share_a_chunk():
    runs = Runs()
    for position in range(0, 40, 2):
        runs.append_at([position], [message(b"x")])
    runs.append_at([40, 41, 50], [message(b"x")] * 3)

    assert [(0, 23, False)] == kinds(runs)
    assert [*range(0, 40, 2), 40, 41, 50] == drain(runs)[0]


def test_many_neighbours_are_not_joined_to_what_has_gaps():
    """Their positions would have to be written down."""
    runs = Runs()
    runs.append_at([0, 2], [message(b"x")] * 2)
    runs.append_at(range(10, 10 + FEW), [message(b"x")] * FEW)
    runs.append_at([1000], [message(b"x")])

    assert [(0, 2, False), (10, FEW, False), (1000, 1, False)] == kinds(runs)
    assert [False, True, True] == [each.positions is None for each in runs.items()]


def test_very_many_scattered_messages_are_added_in_chunks():
    runs = Runs()
    positions = list(range(0, 5 * CHUNK_LENGTH, 2))

    runs.append_at(positions, [message(b"x")] * len(positions))

    assert all(chunk.count <= CHUNK_LENGTH for chunk in runs.items())
    assert positions == drain(runs)[0]


def test_a_position_is_found_wherever_it_is():
    runs, disk = mixed(), Disk(13)
    runs.remove(5, 5)
    runs.remove(25, 25)

    here = [each for each in range(-1, 42) if runs.has_position(each, disk.living)]

    assert [each for each in range(40) if each not in {5, 13, 25}] == here


def test_what_was_removed_is_in_no_range():
    """Its log must not drop it with those around it: somebody else has it."""
    runs, disk = mixed(), Disk()
    for position in (5, 15, 25):
        runs.remove(position, position, disk.sizes, disk.living)

    assert [(0, 4), (6, 14), (16, 24), (26, 39)] == runs.ranges()


@pytest.mark.parametrize(
    ("position", "expected"), [(-1, [0, 4, 9]), (3, [4, 9]), (4, [9]), (11, [9]), (12, [])]
)
def test_chunks_that_hold_anything_after_a_position_are_found(position, expected):
    runs = Runs()
    runs.append(0, messages(*range(4)))
    runs.append_paged(absent(4, 1, 10))
    runs.append(9, messages(*range(4)))

    assert expected == [chunk.base for chunk in runs.after(position)]


@pytest.mark.parametrize("gap", [1, 3])
def test_those_that_are_added_and_taken_one_by_one_are_those_of_rows(gap):
    runs, rows = Runs(), Runs()
    some = messages(*range(3 * FEW))
    for number, one in enumerate(some):
        runs.append_one(7 + number * gap, one)
        rows.append_at([7 + number * gap], [one])
    assert [chunk.count for chunk in rows.items()] == [chunk.count for chunk in runs.items()]
    assert (rows.count, rows.bytes, rows.ranges()) == (runs.count, runs.bytes, runs.ranges())

    for number, one in enumerate(some):
        assert (7 + number * gap, one) == runs.take_one()
        assert octets(some[number + 1 :]) == runs.bytes == sum(each.octets for each in runs.items())
    assert (0, []) == (runs.count, list(runs.items()))


def test_no_chunk_grows_beyond_its_octets_one_by_one():
    runs = Runs()
    for position in range(3):
        runs.append_one(position, message(bytes(CHUNK_OCTETS - 100)))

    assert [1, 1, 1] == [chunk.count for chunk in runs.items()]

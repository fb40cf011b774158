"""Whatever leaves or comes back to runs, and wherever its messages are, it equals a dict.

The model: the ready messages by position, those that were taken or removed and are not settled,
and what the log has. Chunks are so small that a few messages fill many. Reading and writing take
their time: what they began with may have changed by the time they are done.
"""

from bisect import bisect_left
from operator import attrgetter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from leveret.broker.core import runs as runs_module
from leveret.broker.core.chunks import Paged, gaps
from leveret.broker.core.message import Absent, octets
from leveret.broker.core.runs import Runs

from ..support.fakes import message

SMALL = {
    "CHUNK_LENGTH": 6,
    "CHUNK_OCTETS": 150,
    "PIECE_OCTETS": 120,
    "FEW": 3,
    "LEAST_SPILLED": 1,
}
HEADER = 14
picks = st.integers(0, 1 << 16)
sizes = st.lists(st.sampled_from([0, 0, 1, 2, 30, 140]), min_size=1, max_size=12)
steps = st.lists(st.sampled_from([1, 1, 2, 5]), min_size=1, max_size=12)


class File:
    """A slot, and the messages in it."""

    def __init__(self, messages):
        self.messages = messages


class Model(RuleBasedStateMachine):
    """Runs beside a dict."""

    def __init__(self):
        super().__init__()
        self.runs = Runs()
        self.ready = {}
        self.out = {}
        self.log = {}  # also of other lanes
        self.next = 0
        self.writing = []  # chunk, its positions, copy of its messages, octets
        self.reading = []  # paged, what was read, its positions

    @initialize(lengths=st.lists(sizes, max_size=4))
    def begin(self, lengths):
        for each in lengths:
            self.append(each, 0, True)
        self.page_out(0, 0)

    # what comes

    def made(self, positions, lengths, is_persistent):
        found = {
            position: message(b"%d" % position + bytes(length))
            for position, length in zip(positions, lengths, strict=True)
        }
        if is_persistent:
            self.log |= found
        self.next = positions[-1] + 1
        self.ready |= found
        return [*found.values()]

    @rule(lengths=sizes, gap=st.sampled_from([0, 0, 1]), is_persistent=st.booleans())
    def append(self, lengths, gap, is_persistent):
        base = self.next + gap
        self.runs.append(base, self.made(range(base, base + len(lengths)), lengths, is_persistent))

    @rule(gaps=steps, is_persistent=st.booleans(), pick=picks)
    def append_at(self, gaps, is_persistent, pick):
        first, positions = self.next, []
        for gap in gaps:
            positions.append((positions[-1] if positions else self.next - 1) + gap)
        others = {each: message(b"other") for each in range(first, positions[-1])}
        self.log |= {each: other for each, other in others.items() if each not in positions}
        lengths = [pick % 7] * len(positions)
        self.runs.append_at(positions, self.made(positions, lengths, is_persistent))

    @rule(gaps=steps.map(lambda gaps: gaps[: SMALL["CHUNK_LENGTH"]]))
    def restore(self, gaps):
        """After a restart, what is missing between messages is settled."""
        positions = []
        for gap in gaps:
            positions.append((positions[-1] if positions else self.next - 1) + gap)
        found = self.made(positions, [3] * len(positions), True)
        base, end = positions[0], positions[-1] + 1
        self.runs.append_paged(Paged(base, end, len(found), octets(found)))

    @precondition(lambda self: self.out)
    @rule(picked=st.sets(picks, min_size=1, max_size=12))
    def insert(self, picked):
        known = sorted(self.out)
        positions = sorted({known[pick % len(known)] for pick in picked})
        entries = [(each, self.out.pop(each)) for each in positions]
        self.ready |= dict(entries)
        if len(entries) == 1:
            self.runs.insert(*entries[0], self.sizes, self.living)
        else:
            self.runs.insert_many(entries, self.sizes, self.living)

    # what goes

    @precondition(lambda self: self.ready and not self.runs.is_front_paged)
    @rule(limit=st.integers(1, 8), size=st.sampled_from([20, 100, 1 << 40]))
    def take(self, limit, size):
        positions, found = self.runs.take(limit, size)

        first = sorted(self.ready)[: len(positions)]
        assert first == list(positions)
        assert 0 < len(found) <= limit
        assert len(found) == 1 or octets(found) <= size
        assert [self.ready[each] for each in first] == found
        for each in first:
            self.out[each] = self.ready.pop(each)

    @precondition(lambda self: self.ready)
    @rule(pick=picks, width=st.sampled_from([0, 0, 1, 3, 9, 40]))
    def remove(self, pick, width):
        known = sorted(self.ready)
        first = known[pick % len(known)] - pick % 2
        inexact = {
            position
            for paged in self.paged
            if paged.slot is not None
            for position in paged.numbers(None)
        }

        removed = self.runs.remove(first, first + width, self.sizes, self.living)

        expected = [each for each in known if first <= each <= first + width]
        assert expected == [position for position, _ in removed]
        for position, found in removed:
            original = self.out[position] = self.ready.pop(position)
            if not isinstance(found, Absent):
                assert original is found
            elif position not in inexact:
                assert octets((original,)) == octets((found,))

    @precondition(lambda self: self.paged)
    @rule(pick=picks, where=picks, is_read=st.booleans(), comes_back=st.booleans())
    def remove_one_that_is_elsewhere(self, pick, where, is_read, comes_back):
        if is_read:
            self.begin_to_read(20)
        paged = sorted(self.paged, key=attrgetter("count"), reverse=True)[pick % len(self.paged)]
        positions = paged.numbers(self.living)
        position = positions[(where + len(positions) // 2) % len(positions)]

        [(removed, _)] = self.runs.remove(position, position, self.sizes, self.living)

        assert position == removed
        self.out[position] = self.ready.pop(position)
        self.all_are_here_in_order()
        if comes_back:
            self.insert({sorted(self.out).index(position)})
        if is_read and self.reading:
            self.end_reading(where)

    @precondition(lambda self: self.out)
    @rule(pick=picks)
    def settle(self, pick):
        position = [*self.out][pick % len(self.out)]
        del self.out[position]
        self.log.pop(position, None)

    # what is elsewhere

    def sizes(self, position):
        found = self.log[position]
        return found.header_size, found.size

    def living(self, base, end):
        return sorted(position for position in self.log if base <= position < end)

    @property
    def paged(self):
        return [each for each in self.runs.items() if isinstance(each, Paged)]

    @rule(limit=st.sampled_from([0, 500, 2000]), front=st.integers(0, 2))
    def page_out(self, limit, front):
        def is_kept(base, count):
            return all(each in self.log for each in range(base, base + count))

        self.runs.page_out(limit, is_kept, front)

    @rule(front=st.integers(0, 2))
    def begin_to_write(self, front):
        for chunk in self.runs.spillable(0, front):
            self.writing.append((chunk, chunk.numbers[:], list(chunk.messages), chunk.octets))

    @precondition(lambda self: self.writing)
    @rule()
    def end_writing(self):
        for chunk, positions, copy, size in self.writing:
            base, end = positions[0], positions[-1] + 1
            paged = Paged(base, end, len(copy), size, File(copy), gaps(positions))
            is_same = [*self.here(chunk)] == [*zip(positions, copy, strict=True)]

            assert is_same == self.runs.spilled(chunk, paged)
        self.writing.clear()

    def here(self, chunk):
        is_here = any(each is chunk for each in self.runs.items())
        return zip(chunk.numbers, chunk.messages, strict=True) if is_here else ()

    @rule(ahead=st.sampled_from([1, 4, 20]))
    def begin_to_read(self, ahead):
        for paged in self.runs.wanted(ahead):
            paged.is_asked = True
            if paged.slot is not None:
                self.reading.append((paged, paged.slot.messages, None))
            else:
                positions = list(paged.numbers(self.living))
                found = [self.log[position] for position in positions]
                self.reading.append((paged, found, positions))

    @precondition(lambda self: self.reading)
    @rule(pick=picks)
    def end_reading(self, pick):
        paged, found, positions = self.reading.pop(pick % len(self.reading))
        is_here = paged in self.paged

        assert is_here == self.runs.has(paged)
        assert is_here == self.runs.load(paged, list(found), positions)

    # what always holds

    @invariant()
    def all_are_here_in_order(self):
        here, before = {}, -1
        for chunk in self.runs.items():
            if isinstance(chunk, Paged):
                positions = chunk.numbers(self.living)
                here |= {position: self.ready[position] for position in positions}
            else:
                positions = chunk.numbers
                here |= zip(positions, chunk.messages, strict=True)
                assert 0 < chunk.count <= SMALL["CHUNK_LENGTH"]
                assert chunk.count == 1 or chunk.octets <= SMALL["CHUNK_OCTETS"]
                has_gaps = positions[-1] - positions[0] != len(positions) - 1
                assert has_gaps == (chunk.positions is not None)
            assert before < chunk.base == positions[0]
            assert list(positions) == sorted(set(positions))
            before = positions[-1]
            assert (before + 1, len(positions)) == (chunk.end, chunk.count)
        assert self.ready == here
        assert not here or min(here) == self.runs.first

    @invariant()
    def accounts_are_exact(self):
        runs = self.runs
        chunks, paged = list(runs.items()), self.paged
        assert len(self.ready) == runs.count
        assert sum(chunk.octets for chunk in chunks) == runs.bytes
        assert sum(chunk.count for chunk in paged) == runs.paged_count
        assert sum(chunk.octets for chunk in paged) == runs.paged_bytes
        for chunk in chunks:
            if not isinstance(chunk, Paged):
                assert octets(chunk.messages) == chunk.octets
            elif chunk.slot is None:
                known = [self.ready[each] for each in chunk.numbers(self.living)]
                assert octets(known) == chunk.octets
            else:
                assert chunk.octets >= 0

    @invariant()
    def a_position_is_here_or_not(self):
        has = self.runs.has_position
        assert all(has(each, self.living) == (each in self.ready) for each in range(self.next + 1))

    @invariant()
    def ranges_have_all_and_nothing_that_is_out(self):
        ranges, positions = self.runs.ranges(), sorted(self.ready)
        firsts = [first for first, _ in ranges]
        assert firsts == sorted(firsts)
        within = sum(
            bisect_left(positions, last + 1) - bisect_left(positions, first)
            for first, last in ranges
        )
        assert len(positions) == within
        assert not [each for each in self.out for first, last in ranges if first <= each <= last]


def test_runs_are_like_a_dict_of_messages_by_position(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(runs_module, name, value)

    run_state_machine_as_test(
        Model, settings=settings(max_examples=80, stateful_step_count=40, deadline=None)
    )

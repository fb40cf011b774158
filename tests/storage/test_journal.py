"""The journal: what reaches a store, what comes back from it, what is given up."""

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from leveret.broker.core.batch import Batch
from leveret.broker.core.chunks import Paged
from leveret.broker.core.log import Fact
from leveret.broker.core.message import Message
from leveret.broker.storage import compaction, queue_log
from leveret.broker.storage import journal as journal_module
from leveret.broker.storage import row_builder as module
from leveret.broker.storage import values as values_module
from leveret.broker.storage.base import Damaged, Definition, StoreError
from leveret.broker.storage.compaction import STEP_PIECES, Piece
from leveret.broker.storage.journal import FEW, TOLD_COUNTS, Journal
from leveret.broker.storage.paging import GAP
from leveret.broker.storage.queue_log import QueueLog, ranges_of
from leveret.broker.storage.records import seal
from leveret.broker.storage.recovery import Recovery
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

PERSISTENT = encode(Properties(delivery_mode=2, message_id="m"), body_size=0)
TRANSIENT = encode(Properties(), body_size=0)


def message(body: bytes = b"body", header: bytes = b"", key: str = "q") -> Message:
    header = header or encode(Properties(delivery_mode=2), len(body))
    content = make_content(BasicPublish("", key), header, body, Message)
    assert isinstance(content, Message)
    return content


class Disk:
    """What a store would hold: rows by number."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[bytes, bytes]] = {}
        self.definitions: list[Definition] = []

    def commit(self, journal: Journal) -> int:
        """Keep what the journal has; return how many rows that were."""
        rows = journal.close()
        for row in rows:
            assert row.seq not in self.rows
            assert not self.rows or row.seq > max(self.rows)
            self.rows[row.seq] = row.index, row.body
            self.definitions += row.definitions
            for seq in row.delete:
                del self.rows[seq]
            for seq, index in row.replace:
                assert seq in self.rows
                self.rows[seq] = index, b""
        journal.done(1 << 40)
        return len(rows)

    def read(self, journal: Journal) -> list[tuple[Piece, bytes]]:
        """Return what the journal wants to move, with the octets."""
        read: list[tuple[Piece, bytes]] = []
        for piece in journal.to_move():
            seq, offset, length = piece.ref()
            read.append((piece, self.rows[seq][1][offset : offset + length]))
        return read

    def recover(self, numbers: set[int]) -> tuple[Journal, dict[int, dict[int, bytes]]]:
        """Return a journal made from the rows, and bodies by queue and position."""
        journal = Journal(Batch())
        recovery = Recovery(journal)
        for seq, (index, _) in self.rows.items():
            recovery.read(seq, index)
        found = recovery.finish(numbers)
        bodies = {number: self._bodies(one.log, one.runs) for number, one in found.items()}
        return journal, bodies

    def _bodies(self, log: QueueLog, runs: list[Paged]) -> dict[int, bytes]:
        bodies: dict[int, bytes] = {}
        for paged in runs:
            queue = Waiting()
            log.fetch(queue, paged)
            (place,) = log._journal.take_asked()
            read = [
                self.rows[ref.seq][1][ref.offset : ref.offset + ref.length] for ref in place.refs()
            ]
            place.load(read)
            assert paged.octets == sum(each.header_size + each.size for each in queue.messages)
            bodies.update(zip(queue.positions, queue.messages, strict=True))
        return {position: bytes(each.body) for position, each in bodies.items()}


class Waiting:
    """A queue that waits for a chunk."""

    def loaded(
        self, paged: Paged, messages: list[Message], positions: list[int] | None = None
    ) -> None:
        self.messages = messages
        self.positions = positions or range(paged.base, paged.end)


@pytest.fixture
def journal() -> Journal:
    return Journal(Batch())


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_ranges_are_ascending_and_as_few_as_possible() -> None:
    assert [(0, 0), (2, 4), (9, 9)] == list(ranges_of([3, 9, 2, 0, 4]))
    assert [] == list(ranges_of([]))


def test_nothing_is_committed_when_nothing_happened(journal: Journal, disk: Disk) -> None:
    assert not journal.is_dirty
    assert disk.commit(journal) == 0


def test_persistent_messages_come_back_where_they_were(journal: Journal, disk: Disk) -> None:
    log = journal.log(7)
    log.enqueued(5, [message(b"a"), message(b"", TRANSIENT), message(b""), message(b"d" * 3000)])
    disk.commit(journal)

    _, bodies = disk.recover({7})

    assert bodies == {7: {5: b"a", 7: b"", 8: b"d" * 3000}}


def test_what_comes_back_is_the_message_as_it_was(journal: Journal, disk: Disk) -> None:
    original = message(b"hello", encode(Properties(delivery_mode=2, app_id="x"), body_size=5), "k")
    log = journal.log(1)
    log.enqueued(0, [original])
    disk.commit(journal)

    journal, _ = disk.recover({1})
    queue = Waiting()
    journal.log(1).fetch(queue, Paged(0, 1, 1, 5))
    (place,) = journal.take_asked()
    (ref,) = place.refs()
    place.load([disk.rows[ref.seq][1][ref.offset : ref.offset + ref.length]])
    (found,) = queue.messages

    assert found.persistent
    assert (found.header, found.body, found.flags) == (original.header, b"hello", original.flags)
    assert found.envelope.method == original.envelope.method


def test_a_log_has_what_is_in_rows_and_not_settled(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    log.enqueued(2, [message(b"%d" % position) for position in range(2, 8)])
    assert 2 == log.kept_until(2), "it is in no row yet"
    disk.commit(journal)
    log.enqueued(8, [message(b"8"), message(b"9")])
    disk.commit(journal)
    log.settled([4])
    disk.commit(journal)

    assert [1, 4, 4, 4, 8, 8, 8, 10, 10, 10, 11] == [log.kept_until(each) for each in range(1, 12)]
    assert [True, False, True, False] == [
        log.is_kept(*each) for each in ((2, 2), (2, 3), (5, 5), (5, 6))
    ]


def test_of_messages_far_apart_only_they_are_read(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    bodies = [b"%d" % position + bytes(GAP // 2) for position in range(9)]
    log.enqueued(0, [message(body) for body in bodies])
    disk.commit(journal)
    queue = Waiting()
    positions = [0, 2, 6, 7]

    log.fetch(queue, Paged(0, 8, 4, 4 * len(bodies[0]), positions=positions))
    (place,) = journal.take_asked()
    refs = place.refs()
    place.load([disk.rows[ref.seq][1][ref.offset : ref.offset + ref.length] for ref in refs])

    assert 2 == len(refs), "between the first two there is less than it takes to read one more"
    assert sum(ref.length for ref in refs) < 6 * GAP // 2
    assert (positions, [bodies[each] for each in positions]) == (
        queue.positions,
        [each.body for each in queue.messages],
    )


def test_positions_far_apart_are_found_in_the_rows_they_are_in(
    journal: Journal, disk: Disk
) -> None:
    log = journal.log(1)
    for base in range(0, 40, 10):
        log.enqueued(base, [message(b"%d" % each) for each in range(base, base + 8)])
        disk.commit(journal)
    log.settled([25])
    disk.commit(journal)

    found = [
        [position for position, _ in segment.places_of(positions)]
        for segment, positions in log.parts_of([3, 5, 9, 24, 25, 30, 37, 50])
    ]

    assert [[3, 5], [24], [30, 37]] == found
    assert [] == list(log.parts_of([]))


def test_a_place_tells_what_it_has_read_though_some_was_taken_out_since(
    journal: Journal, disk: Disk
) -> None:
    """Else the rest would be taken for neighbours."""
    log = journal.log(1)
    log.enqueued(0, [message(b"%d" % each) for each in range(4)])
    disk.commit(journal)
    queue, paged = Waiting(), Paged(0, 4, 4, 60)
    log.fetch(queue, paged)
    (place,) = journal.take_asked()
    refs = place.refs()
    paged.remove(0, 0, lambda position: (14, 1), lambda base, end: range(base, end))

    place.load([disk.rows[ref.seq][1][ref.offset : ref.offset + ref.length] for ref in refs])

    assert ([0, 1, 2, 3], 4) == (queue.positions, len(queue.messages))


def test_a_position_that_the_log_does_not_have_is_missed(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    log.enqueued(0, [message()])
    disk.commit(journal)
    log.fetch(Waiting(), Paged(0, 9, 2, 10, positions=[0, 8]))
    (place,) = journal.take_asked()

    with pytest.raises(StoreError, match="has lost 1 messages of 0 to 8"):
        place.refs()


def test_what_is_settled_before_its_commit_is_never_written(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    log.enqueued(0, [message(), message()])
    log.settled(range(2))

    assert disk.commit(journal) == 0
    assert (journal.count, journal.octets) == (0, 0)


def test_a_row_goes_with_its_last_message(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    log.enqueued(0, [message(), message()])
    disk.commit(journal)
    (first,) = disk.rows
    log.settled([0])
    disk.commit(journal)
    assert first in disk.rows
    log.settled([1])
    disk.commit(journal)

    assert first not in disk.rows
    assert disk.recover({1})[1] == {1: {}} or disk.recover({1})[1] == {}


def test_a_row_that_settled_something_stays_as_long_as_that_is_there(
    journal: Journal, disk: Disk
) -> None:
    old, new = journal.log(1), journal.log(2)
    old.enqueued(0, [message(b"x"), message(b"stays")])
    disk.commit(journal)
    old.settled([0])
    new.enqueued(0, [message(b"y" * 1000)])
    disk.commit(journal)
    _, second = disk.rows
    new.settled([0])
    disk.commit(journal)

    assert disk.rows[second][1] == b""  # its messages are gone, what it settled is not
    assert disk.recover({1, 2})[1][1] == {1: b"stays"}

    old.settled([1])
    disk.commit(journal)
    assert second not in disk.rows


def test_a_message_of_many_queues_is_written_once(journal: Journal, disk: Disk) -> None:
    shared = message(b"z" * 10_000)
    for number in range(5):
        journal.log(number).enqueued(0, [shared, message(b"own")])
    disk.commit(journal)

    assert sum(len(body) for _, body in disk.rows.values()) < 11_000
    assert disk.recover(set(range(5)))[1] == {
        number: {0: b"z" * 10_000, 1: b"own"} for number in range(5)
    }


def test_messages_of_more_than_a_row_are_in_several(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROW_SIZE", 1000)
    bodies = [bytes([index]) * 300 for index in range(20)]
    journal.log(1).enqueued(0, [message(body) for body in bodies])

    assert disk.commit(journal) == 5
    assert disk.recover({1})[1] == {1: dict(enumerate(bodies))}


def test_what_is_packed_is_committed_with_the_rest_in_order(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROW_SIZE", 1000)
    log, bodies = journal.log(1), [bytes([index]) * 300 for index in range(12)]
    log.enqueued(0, [message(body) for body in bodies[:5]])
    log.pack(is_shared=False)
    log.enqueued(5, [message(body) for body in bodies[5:7]])
    log.pack(is_shared=False)
    log.pack(is_shared=False)
    log.enqueued(7, [message(body) for body in bodies[7:]])

    assert journal.is_dirty
    assert disk.commit(journal) == 3
    assert {1: dict(enumerate(bodies))} == disk.recover({1})[1]
    assert (0, 0) == (journal.count, journal.octets)


def test_much_that_waits_is_in_rows_before_the_commit_is_closed(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_log, "MOST_PENDING", 3)
    log, bodies = journal.log(1), [bytes([index]) for index in range(6)]
    for position, body in enumerate(bodies):
        log.enqueued(position, [message(body)])

    assert [4, 5] == list(log.pending)
    disk.commit(journal)
    assert {1: dict(enumerate(bodies))} == disk.recover({1})[1]


def test_a_packed_message_of_many_queues_is_written_once(journal: Journal, disk: Disk) -> None:
    shared = [message(bytes([index]) * 10_000) for index in range(4)]
    for some in (shared[:2], shared[2:]):
        for number in range(5):
            journal.log(number).enqueued(shared.index(some[0]), some)
            journal.log(number).pack(is_shared=True)
    disk.commit(journal)

    assert sum(len(body) for _, body in disk.rows.values()) < 41_000
    bodies = {position: each.body for position, each in enumerate(shared)}
    assert dict.fromkeys(range(5), bodies) == disk.recover(set(range(5)))[1]


@pytest.mark.parametrize("settled", [[0], [0, 1, 2], [4], [0, 3, 4], range(4), [4, 5], range(6)])
def test_what_is_settled_after_it_was_packed_does_not_come_back(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch, settled: Sequence[int]
) -> None:
    monkeypatch.setattr(module, "ROW_SIZE", 1000)  # three messages; one row is full, one is not
    log = journal.log(1)
    log.enqueued(0, [message(bytes(350))] * 5)
    log.pack(is_shared=False)
    log.enqueued(5, [message(bytes(350))])
    log.settled(settled)
    disk.commit(journal)
    left = set(range(6)).difference(settled)

    assert left == disk.recover({1})[1].get(1, {}).keys()

    log.enqueued(6, [message(bytes(350))])
    disk.commit(journal)  # with it goes what nobody needs any more
    assert left | {6} == disk.recover({1})[1][1].keys()
    assert len(disk.rows) == 1 + len({position // 3 for position in left})


def test_what_is_packed_of_a_queue_that_is_deleted_goes_with_it(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROW_SIZE", 1000)
    log = journal.log(1)
    log.enqueued(0, [message(bytes(300))] * 8)
    log.pack(is_shared=False)
    log.close()
    disk.commit(journal)
    assert {1: {}} == disk.recover({1})[1]

    journal.log(2).enqueued(0, [message(b"kept")])
    disk.commit(journal)
    assert {2: {0: b"kept"}} == disk.recover({2})[1]


def test_what_is_packed_is_not_in_the_store_yet(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    log.enqueued(0, [message(b"old")])
    rows = journal.close()
    log.enqueued(1, [message(b"new")])
    log.pack(is_shared=False)
    journal.done(1 << 40)

    assert log.are_kept([log.find(0).row])
    assert not log.are_kept([log.find(1).row])
    assert {rows[0].seq} == {row for row in journal.rows if row <= journal.kept_seq}


def test_messages_of_a_queue_without_a_definition_are_damage(journal: Journal, disk: Disk) -> None:
    journal.log(1).enqueued(0, [message()] * 3)
    journal.log(2).enqueued(0, [message(b"kept")])
    disk.commit(journal)

    with pytest.raises(Damaged, match="3 messages are of queue 1, which is not defined"):
        disk.recover({2})


def test_what_a_repair_leaves_of_a_queue_that_is_gone_is_settled_where_others_share_a_row(
    journal: Journal, disk: Disk
) -> None:
    journal.log(1).enqueued(0, [message()] * 3)
    journal.log(2).enqueued(0, [message(b"kept")])
    disk.commit(journal)
    disk.rows[journal.next_seq] = seal([]), b""  # as a repair leaves it

    recovered, _ = disk.recover({2})
    assert 1 not in recovered.logs
    disk.commit(recovered)  # from now on rows are counted, and nothing may be without a queue

    assert {2: {0: b"kept"}} == disk.recover({2})[1]


def test_what_a_repair_leaves_of_a_queue_that_is_gone_does_not_come_back(
    journal: Journal, disk: Disk
) -> None:
    journal.log(1).enqueued(0, [message()])
    journal.log(2).enqueued(0, [message(b"kept")])
    disk.commit(journal)
    disk.rows[journal.next_seq] = seal([]), b""  # the last row counts no others: a repair wrote it

    recovered, bodies = disk.recover({2})

    assert bodies == {2: {0: b"kept"}}
    assert 1 not in recovered.logs


def test_a_closed_log_gives_its_rows_up(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    log.enqueued(0, [message()] * 3)
    disk.commit(journal)
    log.enqueued(3, [message()])
    log.close()
    disk.commit(journal)
    journal.note(Definition("queue", b"x", None))
    disk.commit(journal)

    assert not any(body for _, body in disk.rows.values())
    assert journal.logs == {}


def test_what_was_delivered_is_known_as_long_as_it_is_there(journal: Journal, disk: Disk) -> None:
    log, other = journal.log(1), journal.log(2)
    log.enqueued(0, [message(), message()])
    disk.commit(journal)
    log.delivered(0)
    other.enqueued(0, [message()])
    disk.commit(journal)
    other.settled([0])  # the row that says so goes
    disk.commit(journal)

    recovered, _ = disk.recover({1, 2})

    assert recovered.log(1).highest == 0


def test_what_lives_in_rows_that_are_mostly_dead_is_moved_together(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "AGE", 0)
    log = journal.log(1)
    for number in range(100):
        log.enqueued(10 * number, [message(b"%d" % each * 1000) for each in range(10)])
        disk.commit(journal)
        log.settled(range(10 * number, 10 * number + 9))
    disk.commit(journal)
    before = sum(len(body) for _, body in disk.rows.values())

    journal.move(disk.read(journal))
    disk.commit(journal)
    after = sum(len(body) for _, body in disk.rows.values())

    assert after < before / 9
    assert len(disk.rows) < 5
    assert disk.recover({1})[1] == {1: {10 * each + 9: b"9" * 1000 for each in range(100)}}


def test_very_small_rows_are_moved_some_at_a_time(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    count = 2 * STEP_PIECES + AGE
    for position in range(count):
        log.enqueued(position, [message(b"x")])
        disk.commit(journal)
    steps = []
    while read := disk.read(journal):
        steps.append(len(read))
        journal.move(read)
        disk.commit(journal)

    assert steps[:2] == [STEP_PIECES, STEP_PIECES]
    assert max(steps) == STEP_PIECES
    assert sorted(disk.recover({1})[1][1]) == list(range(count))


def test_small_rows_are_moved_together(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "AGE", 0)
    for number in range(100):
        journal.log(1).enqueued(number, [message(b"x")])
        disk.commit(journal)
    journal.move(disk.read(journal))
    disk.commit(journal)

    assert len(disk.rows) < 5
    assert disk.recover({1})[1] == {1: dict.fromkeys(range(100), b"x")}
    assert journal.to_move() == []


def octets_of(disk: Disk) -> int:
    return sum(len(body) for _, body in disk.rows.values())


@pytest.fixture
def shared(journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """A hundred messages of 20 KiB, ten in a row, which five queues share."""
    monkeypatch.setattr(compaction, "AGE", 0)
    messages = [message(b"%05d" % each * 4096) for each in range(100)]
    for start in range(0, 100, 10):
        for number in range(1, 6):
            journal.log(number).enqueued(start, messages[start : start + 10])
        disk.commit(journal)
    assert 10 == len(disk.rows)
    return messages


def test_what_queues_share_is_once_in_the_row_that_it_is_moved_to(
    journal: Journal, disk: Disk, shared: list[Message]
) -> None:
    whole = octets_of(disk)
    left = [each for each in range(100) if each % 10 == 9]
    for number in range(1, 6):
        journal.log(number).settled([each for each in range(100) if each not in left])
    disk.commit(journal)

    journal.move(disk.read(journal))
    disk.commit(journal)
    disk.commit(journal)

    assert 1 == sum(bool(body) for _, body in disk.rows.values())
    assert whole // 10 == octets_of(disk)
    bodies = {each: bytes(shared[each].body) for each in left}
    assert dict.fromkeys(range(1, 6), bodies) == disk.recover({*range(1, 6)})[1]


def test_what_queues_share_stays_together_where_a_row_is_full(
    journal: Journal, disk: Disk, shared: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROW_SIZE", 50_000)
    whole = octets_of(disk)
    left = [each for each in range(100) if each % 10 in (3, 5, 7, 9)]
    for number in range(1, 6):
        journal.log(number).settled([each for each in range(100) if each not in left])
    disk.commit(journal)

    journal.move(disk.read(journal))
    disk.commit(journal)
    disk.commit(journal)

    assert whole * 4 // 10 == octets_of(disk)


def test_a_row_that_one_queue_still_needs_wholly_is_not_moved(
    journal: Journal, disk: Disk, shared: list[Message]
) -> None:
    for number in range(1, 5):
        journal.log(number).settled(range(100))
    disk.commit(journal)

    assert [] == disk.read(journal)

    journal.log(5).settled([each for each in range(100) if each % 10 != 9])
    disk.commit(journal)
    assert {each for each in range(100) if each % 10 == 9} == {
        position for piece, octets in disk.read(journal) for position, *_ in piece.living(octets)
    }


def test_a_row_that_is_not_worth_moving_is_looked_at_again_when_much_of_it_is_gone(
    journal: Journal, disk: Disk, shared: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(
        "leveret.broker.storage.journal.living_octets",
        lambda row: looks.append(row.seq) or module.living_octets(row),
    )
    for number in range(1, 5):
        journal.log(number).settled(range(100))
    for position in range(10):
        disk.commit(journal)
        assert [] == journal.to_move()
        journal.log(5).settled([position * 10])

    assert 10 == len(looks)


def test_the_octets_of_a_row_are_those_of_its_body_also_after_a_restart(
    journal: Journal, disk: Disk, shared: list[Message]
) -> None:
    bodies = {seq: len(body) for seq, (_, body) in disk.rows.items()}

    recovered, _ = disk.recover({*range(1, 6)})

    for each in (journal, recovered):
        assert bodies == {row.seq: row.octets for row in each.rows.values()}


def test_queues_whose_number_is_large_are_kept(journal: Journal, disk: Disk) -> None:
    number = 1 << 40
    log = journal.log(number)
    log.enqueued(0, [message(b"a"), message(b"b"), message(b"c")])
    disk.commit(journal)
    log.settled([0])
    log.delivered(1)
    log.returned([1])
    disk.commit(journal)

    recovered, bodies = disk.recover({number})

    assert {number: {1: b"b", 2: b"c"}} == bodies
    assert (1, {1: 1}) == (recovered.log(number).highest, dict(recovered.log(number).counts))


def test_of_very_many_that_came_back_each_commit_tells_a_part(journal: Journal, disk: Disk) -> None:
    count = 3 * TOLD_COUNTS
    log = journal.log(1)
    log.enqueued(0, [message()] * count)
    disk.commit(journal)
    log.returned(range(count))

    disk.commit(journal)
    recovered, _ = disk.recover({1})
    assert TOLD_COUNTS == len(dict(recovered.log(1).counts))
    while journal.is_dirty:
        disk.commit(journal)

    recovered, _ = disk.recover({1})
    assert dict.fromkeys(range(count), 1) == dict(recovered.log(1).counts)


def test_counts_of_what_is_moved_go_with_it_however_many_wait(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "AGE", 0)
    monkeypatch.setattr(compaction, "LEAST_ROWS", 1)
    log = journal.log(1)
    log.enqueued(0, [message(), message()])
    disk.commit(journal)
    log.returned([1])
    log.settled([0])
    disk.commit(journal)
    monkeypatch.setattr(journal_module, "TOLD_COUNTS", 0)

    journal.move(disk.read(journal))
    disk.commit(journal)

    recovered, bodies = disk.recover({1})
    assert {1: {1: b"body"}} == bodies
    assert {1: 1} == dict(recovered.log(1).counts)


def test_a_count_is_told_though_another_is_of_what_was_between_messages_that_are_moved(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "AGE", 0)
    monkeypatch.setattr(compaction, "LEAST_ROWS", 1)
    log = journal.log(1)
    log.enqueued(0, [message(), message(b"", TRANSIENT), message()])
    disk.commit(journal)
    log.settled([0])
    disk.commit(journal)
    journal.move(disk.read(journal))
    log.returned([1, 2])
    disk.commit(journal)

    recovered, _ = disk.recover({1})
    assert {2: 1} == dict(recovered.log(1).counts)


@pytest.mark.parametrize("is_committed", [False, True])
def test_what_is_settled_is_not_counted_any_more(
    journal: Journal, disk: Disk, is_committed: bool
) -> None:
    log = journal.log(1)
    log.enqueued(0, [message(), message()])
    if is_committed:
        disk.commit(journal)
    log.returned([0, 1])
    log.settled([0])
    disk.commit(journal)
    assert {1: 1} == dict(log.counts)

    log.settled([1])
    disk.commit(journal)
    assert not log.counts


def test_damage_is_told_with_the_row(journal: Journal, disk: Disk) -> None:
    journal.log(1).enqueued(0, [message()])
    disk.commit(journal)
    (seq,) = disk.rows
    journal.log(1).enqueued(1, [message()])
    disk.commit(journal)  # damage in the last row is another matter
    index, body = disk.rows[seq]
    disk.rows[seq] = index[:-1] + bytes([index[-1] ^ 1]), body

    with pytest.raises(StoreError, match=f"row {seq}: the checksum does not match"):
        disk.recover({1})


@pytest.mark.parametrize(("count", "waits"), [(1, True), (FEW, True), (FEW + 1, False)])
def test_acks_are_waited_for_if_few_queues_have_something(
    journal: Journal, count: int, waits: bool
) -> None:
    for number in range(count):
        log = journal.log(number)
        log.enqueued(0, [message()])
        log.delivered(0)

    assert waits == journal.waits_for_acks


def test_acks_are_not_waited_for_when_they_spare_nothing(journal: Journal) -> None:
    log = journal.log(1)
    log.enqueued(0, [message()])
    log.pack(is_shared=False)
    log.delivered(0)

    assert not journal.waits_for_acks


def test_full_means_that_publishers_should_wait(journal: Journal) -> None:
    log = journal.log(1)
    log.enqueued(0, [message(b"x" * (1 << 20))] * 7)
    assert not journal.is_full
    log.enqueued(7, [message(b"x" * (1 << 20))])
    assert journal.is_full
    log.settled(range(8))
    assert not journal.is_full


QUEUES = st.integers(1, 3)
ROW_SIZE = module.ROW_SIZE
AGE, LEAST_ROWS = compaction.AGE, compaction.LEAST_ROWS
SHARD_BITS = values_module.SHARD_BITS


FACTS = st.sampled_from(list(Fact))


class Model(RuleBasedStateMachine):
    """Whatever happens, what comes back is what was there at the last commit."""

    @initialize(
        row_size=st.sampled_from([30, 90, 1 << 20]), told_counts=st.sampled_from([1, TOLD_COUNTS])
    )
    def begin(self, row_size: int, told_counts: int) -> None:
        module.ROW_SIZE = row_size
        compaction.AGE, compaction.LEAST_ROWS = 0, 1
        journal_module.TOLD_COUNTS, values_module.SHARD_BITS = told_counts, 1
        self.late: list[tuple[Piece, bytes]] = []
        self.disk = Disk()
        self.journal = Journal(Batch())
        self.next = dict.fromkeys(range(1, 4), 0)
        self.live: dict[int, dict[int, bytes]] = {number: {} for number in range(1, 4)}
        self.kept: dict[int, dict[int, bytes]] = {number: {} for number in range(1, 4)}
        self.delivered = dict.fromkeys(range(1, 4), -1)
        self.told = dict(self.delivered)
        self.counts: dict[int, dict[int, int]] = {number: {} for number in range(1, 4)}
        self.kept_counts: dict[int, dict[int, int]] = {number: {} for number in range(1, 4)}
        self.facts: dict[tuple[int, Fact], dict[int, int]] = {
            (number, fact): {} for number in range(1, 4) for fact in Fact
        }
        self.kept_facts = self._live_facts()
        self.counter = 0

    def _make(self, number: int, kinds: list[bool]) -> None:
        messages = []
        for position, is_persistent in enumerate(kinds, self.next[number]):
            self.counter += 1
            body = b"%d" % self.counter * (3 if self.counter % 4 else 40)  # some have several rows
            mode = Properties(delivery_mode=2 if is_persistent else 1)
            messages.append(message(body, encode(mode, len(body))))
            if is_persistent:
                self.live[number][position] = body
        self.journal.log(number).enqueued(self.next[number], messages)
        self.next[number] += len(kinds)

    @rule(number=QUEUES, kinds=st.lists(st.booleans(), min_size=1, max_size=6))
    def enqueue(self, number: int, kinds: list[bool]) -> None:
        self._make(number, kinds)

    @rule(shared=st.sets(QUEUES, min_size=2))
    def fan_out(self, shared: set[int]) -> None:
        self.counter += 1
        one = message(b"shared %d" % self.counter * (1 if self.counter % 3 else 20))
        for number in shared:
            self.journal.log(number).enqueued(self.next[number], [one])
            self.live[number][self.next[number]] = bytes(one.body)
            self.next[number] += 1

    @rule(number=QUEUES)
    def apply(self, number: int) -> None:
        self.journal.log(number).apply()

    @rule(number=QUEUES, is_shared=st.booleans())
    def pack(self, number: int, is_shared: bool) -> None:
        self.journal.log(number).pack(is_shared=is_shared)

    @rule(number=QUEUES, share=st.integers(1, 4), offset=st.integers(0, 3))
    def settle(self, number: int, share: int, offset: int) -> None:
        chosen = [each for each in range(self.next[number]) if each % 4 < share - offset]
        chosen = [each for each in chosen if each in self.live[number]]
        self.journal.log(number).settled(chosen)
        for position in chosen:
            del self.live[number][position]

    @rule(number=QUEUES, count=st.integers(1, 8))
    def settle_oldest(self, number: int, count: int) -> None:
        chosen = sorted(self.live[number])[:count]
        self.journal.log(number).settled(chosen)
        for position in chosen:
            del self.live[number][position]

    @rule(number=QUEUES)
    def purge(self, number: int) -> None:
        ranges = list(ranges_of(self.live[number]))
        self.journal.log(number).dropped(ranges)
        self.live[number].clear()

    @rule(number=QUEUES)
    def deliver(self, number: int) -> None:
        if self.live[number]:
            position = max(self.live[number])
            self.journal.log(number).delivered(position)
            self.delivered[number] = max(self.delivered[number], position)

    @rule(number=QUEUES, count=st.integers(1, 3))
    def give_back(self, number: int, count: int) -> None:
        chosen = sorted(self.live[number])[:count]
        self.journal.log(number).returned(chosen)
        for position in chosen:
            counts = self.counts[number]
            counts[position] = counts.get(position, 0) + 1

    @rule(number=QUEUES, fact=FACTS, share=st.integers(1, 4), newest=st.integers(0, 8))
    def note(self, number: int, fact: Fact, share: int, newest: int) -> None:
        """Also of what is transient, settled, or in no row yet; now and then it is forgotten."""
        start = max(self.next[number] - newest, 0) if newest else 0
        chosen = [each for each in range(start, self.next[number]) if each % 4 < share]
        self.counter += 1
        values = [each * self.counter % 5 and (1 << 64) - self.counter for each in chosen]
        self.journal.log(number).note(fact, chosen, values)
        self.facts[number, fact] |= {
            position: value
            for position, value in zip(chosen, values, strict=True)
            if position in self.live[number]
        }

    @rule()
    def compact(self) -> None:
        """Some may be settled, purged or committed before what was read is put elsewhere."""
        read = self.disk.read(self.journal)
        self.journal.move(read)

    @rule()
    def compact_late(self) -> None:
        self.late += self.disk.read(self.journal)

    @rule()
    def bring_what_is_late(self) -> None:
        self.journal.move(self.late)
        self.late.clear()

    @rule()
    def commit(self) -> None:
        self.disk.commit(self.journal)
        journal, _ = self.disk.recover({1, 2, 3})
        assert self._live_facts() == self._told_by(journal), "facts are all in the first"
        while self.journal.is_dirty:  # very many counts take more than one
            self.disk.commit(self.journal)
        self.kept = {number: dict(live) for number, live in self.live.items()}
        self.kept_facts = self._live_facts()
        self.told = dict(self.delivered)
        self.kept_counts = {number: self._live_counts(number) for number in range(1, 4)}

    def _live_facts(self) -> dict[tuple[int, Fact], dict[int, int]]:
        return {
            (number, fact): {
                position: values[position]
                for position in sorted(values.keys() & self.live[number].keys())
                if values[position]
            }
            for (number, fact), values in self.facts.items()
        }

    def _live_counts(self, number: int) -> dict[int, int]:
        live = self.live[number]
        return {each: count for each, count in self.counts[number].items() if each in live}

    def teardown(self) -> None:
        module.ROW_SIZE = ROW_SIZE
        compaction.AGE, compaction.LEAST_ROWS = AGE, LEAST_ROWS
        journal_module.TOLD_COUNTS, values_module.SHARD_BITS = TOLD_COUNTS, SHARD_BITS

    @rule()
    def restart(self) -> None:
        """Whatever was not committed is gone."""
        self.journal, bodies = self.disk.recover({1, 2, 3})
        self.late.clear()
        self.live = {number: bodies.get(number, {}) for number in range(1, 4)}
        self.delivered = dict(self.told)
        self.counts = {number: dict(kept) for number, kept in self.kept_counts.items()}
        self.facts = {key: dict(kept) for key, kept in self.kept_facts.items()}

    def _told_by(self, journal: Journal) -> dict[tuple[int, Fact], dict[int, int]]:
        found = {}
        for number, fact in self.facts:
            told = list(journal.log(number).facts(fact))
            assert told == sorted(told)
            found[number, fact] = dict(told)
        return found

    @rule()
    def look_at_facts(self) -> None:
        assert self._live_facts() == self._told_by(self.journal)

    @invariant()
    def what_is_known_is_what_was_noted(self) -> None:
        for (number, fact), values in self._live_facts().items():
            log = self.journal.log(number)
            assert values == {each: log.value(fact, each) for each in values}

    @invariant()
    def what_was_committed_comes_back(self) -> None:
        journal, bodies = self.disk.recover({1, 2, 3})
        for number, told in self.told.items():
            delivered = [each for each in self.kept[number] if each <= told]
            assert max(delivered, default=-1) <= journal.log(number).highest
            assert dict(journal.log(number).counts) == self.kept_counts[number]
        assert {number: bodies.get(number, {}) for number in range(1, 4)} == self.kept
        assert self._told_by(journal) == self.kept_facts

    @invariant()
    def rows_are_given_up(self) -> None:
        """No row stays for nothing: one holds a message, says what was settled, or is the last."""
        if any(log._hits for log in self.journal.dirty):
            return  # what is settled has not been told yet
        needed = [row for row in self.journal.rows.values() if row.live or row.refs]
        assert set(self.journal.rows) == {row.seq for row in needed}
        assert self.journal.continued == sum(len(row.more) for row in needed)
        there = {seq for row in needed for seq in row.numbers if seq <= self.journal.kept_seq}
        assert there == set(self.disk.rows) - set(self.journal._doomed)


Model.TestCase.settings = settings(max_examples=70, stateful_step_count=60, deadline=None)
TestModel = Model.TestCase

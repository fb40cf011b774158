"""Facts: what is noted of messages stands in their rows, or is said later, and comes back."""

from array import array

import pytest

from leveret.broker.core.batch import Batch
from leveret.broker.core.log import Fact
from leveret.broker.storage import compaction, row_builder
from leveret.broker.storage.journal import TOLD_COUNTS, Journal
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.records import (
    Column,
    Enqueued,
    Facts,
    RecordError,
    decode,
    encode_column,
    encode_enqueued,
    encode_facts,
    seal,
)
from leveret.broker.storage.recovery import Recovery
from leveret.protocol.methods import BasicPublish, QueueDeclare
from leveret.protocol.properties import Properties

from ..support.client import published
from ..support.durable import durable
from .noted import message, noted, recovered
from .test_journal import Disk

DEADLINE, DUE, LANE = Fact.DEADLINE, Fact.DUE, Fact.LANE
LARGEST = (1 << 64) - 1


@pytest.fixture
def journal() -> Journal:
    return Journal(Batch())


@pytest.fixture
def disk() -> Disk:
    return Disk()


def enqueue(journal: Journal, base: int, count: int, number: int = 1) -> None:
    journal.log(number).enqueued(base, [message(b"%d" % at) for at in range(base, base + count)])


def kinds(disk: Disk) -> list[list[str]]:
    """Return the records of each row by name, without those of every commit."""
    names = [[type(record).__name__ for record in decode(index)] for index, _ in disk.rows.values()]
    return [[name for name in some if name not in ("Present", "Defined")] for some in names]


def after_restart(disk: Disk, fact: Fact, number: int = 1) -> dict[int, int]:
    return dict(disk.recover({1, 2})[0].log(number).facts(fact))


# Records


def test_records_of_facts_come_back() -> None:
    column = Column(1 << 40, 7, Fact.ID, array("Q", [0, LARGEST, 3]))
    index = seal([encode_column(column), encode_facts(2, Fact.DUE, {9: 0, 4: LARGEST})])

    assert [column, Facts(2, Fact.DUE, {9: 0, 4: LARGEST})] == decode(index)


@pytest.mark.parametrize("cut", [1, 8, 16])
@pytest.mark.parametrize(
    "octets",
    [encode_column(Column(1, 7, 1, array("Q", [5, 6]))), encode_facts(1, 1, {5: 6, 7: 8})],
    ids=["column", "facts"],
)
def test_a_record_of_facts_that_is_too_short_is_damage(octets: bytes, cut: int) -> None:
    length = int.from_bytes(octets[2:6], "little") - cut
    shorter = octets[:2] + length.to_bytes(4, "little") + octets[6:-cut]

    with pytest.raises(RecordError, match="a record does not fit its length"):
        decode(seal([shorter]))


# Before the row is made


def test_what_is_noted_of_new_messages_stands_behind_them(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 5, 3)
    journal.log(1).note(DEADLINE, [5, 7], [100, LARGEST])
    journal.log(1).note(LANE, range(5, 8), [3, 0, 4])
    disk.commit(journal)

    assert [["Enqueued", "Column", "Column"]] == kinds(disk)
    assert {5: 100, 7: LARGEST} == dict(journal.log(1).facts(DEADLINE))
    assert {5: 100, 7: LARGEST} == after_restart(disk, DEADLINE)
    assert {5: 3, 7: 4} == after_restart(disk, LANE)
    assert {} == after_restart(disk, DUE)


def test_the_last_value_before_the_row_is_made_counts(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 0, 2)
    journal.log(1).note(DUE, [0, 1], [1, 1])
    journal.log(1).note(DUE, [0, 1], [2, 0])
    assert [2, 0] == [journal.log(1).value(DUE, at) for at in range(2)]
    assert [(0, 2)] == list(journal.log(1).facts(DUE))
    disk.commit(journal)

    assert {0: 2} == after_restart(disk, DUE)


def test_a_column_that_no_message_uses_is_not_written(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 0, 2)
    journal.log(1).note(DUE, [0, 1], [7, 0])
    journal.log(1).note(DUE, [0], [0])
    journal.log(1).note(LANE, [0], [7])
    journal.log(1).settled([0])
    disk.commit(journal)

    assert [["Enqueued"]] == kinds(disk)


def test_what_is_settled_before_its_commit_takes_its_facts_along(
    journal: Journal, disk: Disk
) -> None:
    enqueue(journal, 0, 3)
    journal.log(1).note(DUE, range(3), [7, 8, 9])
    journal.log(1).settled([1])
    assert 0 == journal.log(1).value(DUE, 1)
    disk.commit(journal)

    assert {0: 7, 2: 9} == after_restart(disk, DUE)
    (column,) = [each for each in decode(disk.rows[1][0]) if isinstance(each, Column)]
    assert [7, 0, 9] == list(column.values)


def test_nothing_is_kept_of_transient_messages(journal: Journal, disk: Disk) -> None:
    journal.log(1).enqueued(0, [message(b"a"), message(b"b", 1)])
    journal.log(1).note(DUE, [0, 1, 2], [7, 8, 9])
    disk.commit(journal)
    journal.log(1).note(DUE, [1, 2], [8, 9])

    assert not journal.is_dirty
    assert {0: 7} == dict(journal.log(1).facts(DUE)) == after_restart(disk, DUE)


def test_facts_go_where_their_messages_go(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the row that is full, the next one, or the rows of a long message, of each queue."""
    monkeypatch.setattr(row_builder, "ROW_SIZE", 1000)
    sizes = [600, 600, 5000, 10, 2500]
    shared = [message(bytes(size)) for size in sizes]
    for number in (1, 2):
        journal.log(number).enqueued(0, shared)
        journal.log(number).note(DUE, range(5), [number * 10 + at for at in range(5)])
    disk.commit(journal)

    assert {at: 10 + at for at in range(5)} == after_restart(disk, DUE)
    assert {at: 20 + at for at in range(5)} == after_restart(disk, DUE, 2)
    assert dict(enumerate(bytes(size) for size in sizes)) == disk.recover({1, 2})[1][1]


# Later


def test_what_is_noted_later_is_said_in_the_same_commit(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 0, 3)
    journal.log(1).note(DUE, range(3), [1, 2, 3])
    disk.commit(journal)
    journal.log(1).note(DUE, [2, 0], [0, 9])
    assert {0: 9, 1: 2} == dict(journal.log(1).facts(DUE))
    disk.commit(journal)

    assert ["Facts"] == kinds(disk)[-1]
    assert {0: 9, 1: 2} == after_restart(disk, DUE)
    recovered, _ = disk.recover({1})
    assert [9, 2, 0] == [recovered.log(1).value(DUE, at) for at in range(3)]


def test_however_many_are_noted_one_commit_says_all(journal: Journal, disk: Disk) -> None:
    count = 2 * TOLD_COUNTS
    enqueue(journal, 0, count)
    disk.commit(journal)
    journal.log(1).note(DUE, range(count), range(1, count + 1))
    disk.commit(journal)

    assert not journal.is_dirty
    assert {at: at + 1 for at in range(count)} == after_restart(disk, DUE)


def test_what_is_noted_of_a_packed_message_counts(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 0, 2)
    journal.log(1).note(DUE, [0, 1], [1, 1])
    journal.log(1).pack(is_shared=False)
    journal.log(1).note(DUE, [1], [2])
    disk.commit(journal)

    assert {0: 1, 1: 2} == after_restart(disk, DUE)


def test_what_is_known_already_is_not_said_again(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 0, 3)
    journal.log(1).note(DUE, [0], [1])
    disk.commit(journal)
    journal.log(1).note(DUE, [1], [2])
    disk.commit(journal)
    journal.log(1).note(DUE, [0, 1, 2], [1, 2, 0])

    assert not journal.is_dirty


def test_of_settled_messages_nothing_is_known_or_said(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 0, 4)
    journal.log(1).note(DUE, range(4), [1] * 4)
    disk.commit(journal)
    journal.log(1).note(DUE, [0, 1, 2], [2, 2, 2])
    journal.log(1).settled([0])
    journal.log(1).dropped([(1, 1)])
    assert [(2, 2), (3, 1)] == list(journal.log(1).facts(DUE))
    journal.log(1).note(DUE, [0, 1], [3, 3])
    disk.commit(journal)

    assert [0, 0, 2, 1] == [journal.log(1).value(DUE, at) for at in range(4)]
    (facts,) = [each for each in decode(disk.rows[2][0]) if isinstance(each, Facts)]
    assert {2: 2} == facts.values
    journal.log(1).settled([2, 3])
    disk.commit(journal)
    assert not any(journal.log(1).known.later.values())


def test_a_row_stays_as_long_as_what_it_says_something_of(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 0, 2)
    disk.commit(journal)
    journal.log(1).note(DUE, [1], [5])
    enqueue(journal, 0, 1, number=2)
    disk.commit(journal)
    _, second = disk.rows
    journal.log(2).settled([0])
    journal.log(1).settled([0])
    disk.commit(journal)
    assert b"" == disk.rows[second][1]
    assert {1: 5} == after_restart(disk, DUE)

    again, _ = disk.recover({1, 2})
    again.log(1).settled([1])
    disk.commit(again)
    assert second not in disk.rows


def test_what_a_row_said_is_known_also_after_two_restarts(journal: Journal, disk: Disk) -> None:
    enqueue(journal, 0, 2)
    disk.commit(journal)
    journal.log(1).note(DUE, [0, 1], [5, 0])
    journal.log(1).note(LANE, [1], [6])
    enqueue(journal, 0, 1, number=2)
    disk.commit(journal)
    again, _ = disk.recover({1, 2})
    again.log(2).settled([0])  # of the row that said it only that is left
    disk.commit(again)

    assert [b""] == [body for seq, (_, body) in disk.rows.items() if seq == 2]
    assert {0: 5} == after_restart(disk, DUE)
    assert {1: 6} == after_restart(disk, LANE)


# Moved


@pytest.fixture
def moving(journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """Five messages in a row that is moved; then 1 and 3 are left, and what is known of them."""
    monkeypatch.setattr(compaction, "AGE", 0)
    monkeypatch.setattr(compaction, "LEAST_ROWS", 1)
    enqueue(journal, 0, 5)
    journal.log(1).note(DUE, range(5), [10, 11, 12, 13, 14])
    journal.log(1).note(LANE, [0], [1])
    disk.commit(journal)
    journal.log(1).settled([0, 2, 4])
    disk.commit(journal)
    return journal


def test_facts_move_with_their_messages(moving: Journal, disk: Disk) -> None:
    moving.move(disk.read(moving))
    disk.commit(moving)

    assert [["Enqueued", "Column"]] == kinds(disk)[-1:]
    assert {1: 11, 3: 13} == after_restart(disk, DUE) == dict(moving.log(1).facts(DUE))


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("is_read", [True, False])
def test_what_was_noted_later_is_in_the_column_of_what_is_moved(
    moving: Journal, disk: Disk, is_committed: bool, is_read: bool
) -> None:
    read = disk.read(moving) if is_read else []
    moving.log(1).note(DUE, [1], [0])
    moving.log(1).note(LANE, [3], [7])
    if is_committed:
        disk.commit(moving)
    moving.move(read or disk.read(moving))
    disk.commit(moving)
    disk.commit(moving)

    assert {3: 13} == after_restart(disk, DUE) == dict(moving.log(1).facts(DUE))
    assert {3: 7} == after_restart(disk, LANE)
    assert "Facts" not in kinds(disk)[-1]


def test_what_an_older_row_said_does_not_count_of_what_was_moved_since(
    moving: Journal, disk: Disk
) -> None:
    """The row that said it stays for another message; the one that took it back is gone."""
    enqueue(moving, 0, 1, number=2)
    disk.commit(moving)
    read = [(piece, disk.rows[1][1]) for piece in compaction.pieces([moving.rows[1]])]
    moving.log(1).note(DUE, [1], [5])
    moving.log(2).note(DUE, [0], [6])
    disk.commit(moving)
    said = max(disk.rows)
    moving.log(1).note(DUE, [1], [9])
    disk.commit(moving)
    moving.move(read)
    disk.commit(moving)
    disk.commit(moving)

    assert said in disk.rows
    assert 1 not in disk.rows
    assert {1: 9, 3: 13} == after_restart(disk, DUE)
    assert {0: 6} == after_restart(disk, DUE, 2)


# What is asked


def test_what_rows_have_is_known_without_their_octets(journal: Journal, disk: Disk) -> None:
    log = journal.log(1)
    log.enqueued(3, [message(b"a" * 10), message(b"b" * 20, 1), message(b""), message(b"d" * 40)])
    header = message(b"").header_size
    assert [(header, 10), (header, 40)] == [log.sizes(3), log.sizes(6)]
    assert [] == log.positions(0, 99)
    disk.commit(journal)
    log.returned([3, 5])
    log.returned([5])
    log.settled([3])

    assert [5, 6] == log.positions(0, 99) == log.positions(5, 7)
    assert [5] == log.positions(4, 6)
    assert [] == log.positions(7, 9)
    assert [(header, 0), (header, 40)] == [log.sizes(5), log.sizes(6)]
    assert [0, 2, 0] == [log.count(at) for at in (3, 5, 6)]
    assert [(5, 2)] == list(log.counted())


@pytest.mark.parametrize("position", [2, 3, 4, 7])
def test_sizes_of_what_is_not_kept_are_not_known(
    journal: Journal, disk: Disk, position: int
) -> None:
    log = journal.log(1)
    log.enqueued(3, [message(b"a"), message(b"b", 1), message(b"c")])
    disk.commit(journal)
    log.settled([3])
    log.apply()

    with pytest.raises(LookupError, match=f"queue 1 keeps nothing at {position}"):
        log.sizes(position)


async def test_a_broker_knows_after_a_restart_what_plugins_had_noted() -> None:
    store = MemoryStore()
    owner = ("/", "queue", "q")
    async with durable(store) as made:
        client = made.connect()
        client.send(QueueDeclare("q", durable=True))
        await made.settle()
        properties = Properties(delivery_mode=2)
        client.feed(2 * published(b"a", BasicPublish("", "q"), properties=properties))
        queue = made.broker.vhosts["/"].queue("q")
        queue.log.note(DUE, [0, 1], [5, 6])
        made.broker.notes.put(owner, "dedup", b"k", b"1")
        await made.stop()

    async with durable(store) as made:
        log = made.broker.vhosts["/"].queue("q").log
        assert [(0, 5), (1, 6)] == list(log.facts(DUE))
        assert [0, 1] == log.positions(0, 9)
        assert {b"k": b"1"} == made.broker.notes.get(owner, "dedup")


# What is left of a row


def test_a_column_is_that_of_what_a_repair_has_left_before_it() -> None:
    """An earlier version cuts records of messages, and leaves what it does not know."""
    sizes = [array(code, [1] * 2) for code in "HII"]
    records = [
        encode_enqueued(Enqueued(1, base, array("Q", [base]), *sizes)) for base in (20, 10, 13)
    ]
    column = Column(1, 10, DUE, array("Q", range(100, 105)))
    index = seal([*records, encode_column(column)])

    journal = Journal(Batch())
    recovery = Recovery(journal)
    recovery.read(1, index)
    recovery.finish({1})

    expected = [(10, 100), (11, 101), (13, 103), (14, 104)]
    assert expected == list(journal.log(1).facts(DUE))


# All of it


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_noted_comes_back_with_its_commit(seed: int) -> None:
    noting = noted(seed, 60)
    rows: dict[int, bytes] = {}
    for commit, known in zip(noting.commits, noting.known[1:], strict=True):
        for row in commit:
            rows[row.seq] = row.index
            for seq in row.delete:
                del rows[seq]
            rows |= dict(row.replace)
        journal = recovered(rows)
        for (number, fact), values in known.items():
            log = journal.log(number)
            assert list(values.items()) == list(log.facts(fact))
            assert values == {at: log.value(fact, at) for at in values}

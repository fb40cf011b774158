"""Messages that are larger than a row: several rows, one commit, and never a part of one."""

from itertools import pairwise
from pathlib import Path

import pytest

from leveret.broker.core.batch import Batch
from leveret.broker.storage import row_builder, tools
from leveret.broker.storage.base import Damaged
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.records import decode, long_of, part_of, seal
from leveret.broker.storage.repair import repair
from leveret.broker.storage.row_builder import cut
from leveret.protocol.properties import Properties, encode

from .test_journal import Disk, message
from .test_tools import Made, lost
from .test_tools import message as kept_message

SIZE = 1000
LONG = bytes(range(256)) * 10  # three rows


@pytest.fixture(autouse=True)
def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_builder, "ROW_SIZE", SIZE)


def sizes(disk: Disk) -> list[int]:
    return [len(body) for _, body in disk.rows.values()]


# Rows


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([3], [3]), ([4], [4]), ([5], [4, 1]), ([2, 2], [4]), ([1, 3, 1], [4, 1]), ([11], [4, 4, 3])],
)
def test_octets_are_cut_into_rows_that_are_full_but_for_the_last(
    lengths: list[int], expected: list[int]
) -> None:
    octets = bytes(range(sum(lengths)))
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)

    rows = [b"".join(row) for row in cut([octets[a:b] for a, b in pairwise(bounds)], 4)]

    assert (expected, octets) == ([len(row) for row in rows], b"".join(rows))


def test_a_long_message_has_several_rows_of_one_commit_and_comes_back() -> None:
    disk, journal = Disk(), Journal(Batch())
    log = journal.log(1)
    log.enqueued(0, [message(b"before"), message(LONG), message(b"after"), message(b"x" * SIZE)])
    disk.commit(journal)

    assert max(sizes(disk)) < 2 * SIZE
    assert [False, True, True, True, False] == [
        long_of(decode(index)) is not None for index, _ in disk.rows.values()
    ]
    assert [(each, 5) for each in range(1, 6)] == [
        part_of(index) for index, _ in disk.rows.values()
    ]
    expected = {0: b"before", 1: LONG, 2: b"after", 3: b"x" * SIZE}
    assert expected == disk.recover({1})[1][1]


def test_of_a_body_that_has_just_room_nothing_take_in_more() -> None:
    disk, journal = Disk(), Journal(Batch())
    journal.log(1).enqueued(0, [message(bytes(SIZE))])
    disk.commit(journal)

    assert 1 == len(disk.rows)


@pytest.mark.parametrize("extra", [-200, *range(-48, 2), 500, 2000])
def test_a_header_that_is_as_long_as_a_row_stands_where_the_message_begins(extra: int) -> None:
    disk, journal = Disk(), Journal(Batch())
    header = encode(
        Properties(delivery_mode=2, message_id="", headers={"x": "y" * (SIZE + extra)}), len(LONG)
    )
    journal.log(1).enqueued(0, [message(LONG, header), message(b"after")])
    disk.commit(journal)

    assert {0: LONG, 1: b"after"} == disk.recover({1})[1][1]


def test_several_queues_share_the_rows_which_stay_until_all_have_settled() -> None:
    disk, journal = Disk(), Journal(Batch())
    first, second = message(LONG), message(LONG[::-1])
    for number in (1, 2):
        journal.log(number).enqueued(0, [first, second])
    disk.commit(journal)
    rows = len(disk.rows)
    journal.log(1).settled([0, 1])
    journal.log(2).settled([1])
    disk.commit(journal)
    left = disk.recover({1, 2})[1]
    journal.log(2).settled([0])
    disk.commit(journal)
    disk.commit(journal)

    assert 7 == rows  # three for each message, and one for what is said of all
    assert {0: LONG} == left[2]
    assert not left.get(1)
    assert 0 == journal.continued
    assert 0 == sum(sizes(disk))


def test_what_was_recovered_counts_and_goes_as_if_it_had_been_there_all_the_time() -> None:
    disk, journal = Disk(), Journal(Batch())
    journal.log(1).enqueued(0, [message(LONG), message(b"small")])
    disk.commit(journal)
    journal, _ = disk.recover({1})
    before = journal.continued
    journal.log(1).enqueued(2, [message(b"more")])
    disk.commit(journal)
    again = disk.recover({1})[1][1]  # it would raise if rows were counted in another way
    journal.log(1).settled([0])
    disk.commit(journal)
    disk.commit(journal)

    assert 2 == before
    assert {0: LONG, 1: b"small", 2: b"more"} == again
    assert {1: b"small", 2: b"more"} == disk.recover({1})[1][1]
    assert len(LONG) > sum(sizes(disk))


def test_it_is_never_moved_as_long_as_a_queue_needs_it() -> None:
    disk, journal = Disk(), Journal(Batch())
    shared = message(LONG)
    for number in (1, 2, 3):
        journal.log(number).enqueued(0, [shared])
    disk.commit(journal)
    for number in (1, 2):
        journal.log(number).settled([0])
        disk.commit(journal)
    for position in range(1, 400):
        journal.log(1).enqueued(position, [message(bytes(SIZE - 100))])
        disk.commit(journal)
        journal.log(1).settled([position])
        disk.commit(journal)

    assert [] == disk.read(journal)
    assert {0: LONG} == disk.recover({3})[1][3]


def test_in_a_transaction_that_comes_in_pieces_it_is_in_the_same_commit() -> None:
    disk, journal = Disk(), Journal(Batch())
    log = journal.log(1)
    for position in range(3):
        log.enqueued(position, [message(LONG)])
        log.pack(is_shared=False)
    nothing = not disk.rows
    disk.commit(journal)

    assert nothing
    assert {0: LONG, 1: LONG, 2: LONG} == disk.recover({1})[1][1]
    (rows,) = {part.rows for index, _ in disk.rows.values() if (part := part_of(index))}
    assert rows == len(disk.rows)


def test_a_message_that_has_one_row_though_it_is_long_is_read_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, journal = Disk(), Journal(Batch())
    with monkeypatch.context() as once:
        once.setattr(row_builder, "ROW_SIZE", 1 << 20)
        journal.log(1).enqueued(0, [message(LONG)])
        disk.commit(journal)
    journal, _ = disk.recover({1})
    journal.log(1).enqueued(1, [message(LONG)])
    disk.commit(journal)

    assert {0: LONG, 1: LONG} == disk.recover({1})[1][1]


# Damage


@pytest.mark.parametrize("part", [0, 1, 2])
def test_of_the_last_commit_a_part_that_is_damaged_takes_all_of_it_along(part: int) -> None:
    disk, journal = Disk(), Journal(Batch())
    journal.log(1).enqueued(0, [message(b"first")])
    disk.commit(journal)
    journal.log(1).enqueued(1, [message(LONG)])
    disk.commit(journal)
    index, body = disk.rows[2 + part]
    disk.rows[2 + part] = index[:-1] + bytes((index[-1] ^ 1,)), body

    assert {0: b"first"} == disk.recover({1})[1][1]


@pytest.mark.parametrize("missing", [[2], [3], [4], [2, 3], [2, 4], [3, 4]])
def test_with_a_part_of_one_nothing_starts_also_if_rows_are_not_counted(missing: list[int]) -> None:
    disk, journal = Disk(), Journal(Batch())
    journal.log(1).enqueued(0, [message(b"before"), message(LONG)])
    disk.commit(journal)
    for seq in missing:
        del disk.rows[seq]
    disk.rows[9] = seal([]), b""  # as after a repair: it counts no rows

    with pytest.raises(Damaged, match=r"row [234]: other rows with the rest of its message"):
        disk.recover({1})


@pytest.fixture
def made(tmp_path) -> Made:
    """Three commits, the second with a long message in two queues, in rows 2 to 4."""
    made = Made(tmp_path / "data")
    made.orders.enqueued(0, [kept_message(b"0")])
    made.commit()
    shared = kept_message(LONG)
    made.orders.enqueued(1, [shared, kept_message(b"2")])
    made.mails.enqueued(0, [shared])
    made.commit()
    made.orders.enqueued(3, [kept_message(b"3")])
    made.commit()
    return made


def test_a_store_with_one_is_good_and_all_of_it_counts_as_alive(made: Made) -> None:
    facts = tools.info(made.folder).facts

    assert tools.check(made.folder).is_good
    assert (5, 0) == (facts["messages"], facts["dead_octets"])
    assert {"orders": 4, "mails": 1} == made.start()


@pytest.mark.parametrize("seq", [2, 3, 4])
def test_octets_that_were_changed_are_said_with_the_message_and_stay(made: Made, seq: int) -> None:
    made.flip(seq, -5, "body")

    (line,) = (line for line in tools.check(made.folder).lines if line.startswith(f"row {seq}: "))
    assert "the checksum of its body does not match" in line
    assert "1 of queue 'orders' in vhost 'shop' (1)" in line
    assert "1 of queue 'mails' in vhost 'shop' (0)" in line
    assert repair(made.folder).is_good
    assert {"orders": 4, "mails": 1} == made.start()


DAMAGE = {
    "index of a part": "UPDATE batch SET idx = CAST(x'00' || idx AS BLOB) WHERE seq = 4",
    "no part": "UPDATE batch SET idx = 7 WHERE seq = 3",
    "shorter part": "UPDATE batch SET body = substr(body, 1, 10) WHERE seq = 3",
    "index of the first": "UPDATE batch SET "
    "idx = CAST(substr(idx, 1, length(idx) - 1) || x'ff' AS BLOB) WHERE seq = 2",
    "shorter first": "UPDATE batch SET body = substr(body, 1, 900) WHERE seq = 2",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_if_a_part_is_lost_the_message_is_and_nothing_else(made: Made, statement: str) -> None:
    made.execute(statement)

    checked = tools.check(made.folder)
    repaired = repair(made.folder)

    assert not checked.is_good
    assert repaired.is_good
    assert {"orders": [(1, 1)], "mails": [(0, 0)]} == lost(checked) == lost(repaired)
    assert {0: b"0", 2: b"2", 3: b"3"} == made.content()["orders"]
    assert {"orders": 3, "mails": 0} == made.start()
    assert tools.check(made.folder).is_good
    assert [] == made.execute("SELECT seq FROM batch WHERE seq IN (3, 4)")


def test_what_is_missing_of_one_is_not_taken_from_the_next(made: Made) -> None:
    made.orders.enqueued(4, [kept_message(LONG), kept_message(LONG[::-1])])
    made.commit()
    first = made.seqs[-1] - 6
    made.execute("UPDATE batch SET body = substr(body, 1, 10) WHERE seq = ?", first + 2)

    assert {"orders": [(4, 4)]} == lost(tools.check(made.folder))
    assert repair(made.folder).is_good
    assert LONG[::-1] == made.content()["orders"][5]


OTHER_NUMBERS = {
    "the first": "UPDATE batch SET seq = 15 WHERE seq = 20",
    "the first, last of all": "UPDATE batch SET seq = 99 WHERE seq = 20",
    "a part": "UPDATE batch SET seq = 15 WHERE seq = 21",
    "the last part": "UPDATE batch SET seq = 31 WHERE seq = 22",
    "a part, last of all": "UPDATE batch SET seq = 99 WHERE seq = 21",
    "all": "UPDATE batch SET seq = seq - 1 WHERE seq BETWEEN 20 AND 23",
}


@pytest.mark.parametrize("statement", OTHER_NUMBERS.values(), ids=OTHER_NUMBERS)
def test_if_a_row_has_another_number_its_message_is_lost_and_that_is_said(
    tmp_path: Path, statement: str
) -> None:
    made = Made(tmp_path / "data")
    made.orders.enqueued(0, [kept_message(b"0")])
    made.commit()
    made.journal.next_seq = 20
    made.orders.enqueued(1, [kept_message(LONG), kept_message(b"2")])
    made.commit()
    made.journal.next_seq = 40
    made.orders.enqueued(3, [kept_message(b"3")])
    made.commit()
    made.execute(statement)

    with pytest.raises(Damaged):
        made.start()
    checked = tools.check(made.folder)
    repaired = repair(made.folder)

    assert not checked.is_good
    assert {"orders": [(1, 1)]} == lost(checked) == lost(repaired)
    assert repaired.is_good
    assert {0: b"0", 2: b"2", 3: b"3"} == made.content()["orders"]
    assert {"orders": 3, "mails": 0} == made.start()
    assert tools.check(made.folder).is_good


def test_without_a_part_nothing_starts_and_a_repair_leaves_the_message_out(made: Made) -> None:
    made.execute("DELETE FROM batch WHERE seq = 3")

    assert not tools.check(made.folder).is_good
    assert repair(made.folder).is_good
    assert {"orders": 3, "mails": 0} == made.start()


def test_what_is_left_is_as_it_was_after_it_was_compacted(made: Made) -> None:
    made.orders.settled([0, 3])
    made.commit()

    tools.compact(made.folder)

    assert {1: LONG, 2: b"2"} == made.content()["orders"]
    assert {0: LONG} == made.content()["mails"]
    assert tools.check(made.folder).is_good

"""Recovery: what a start makes of damage: at the very end, elsewhere, and of a later version."""

import re
import zlib
from contextlib import aclosing, closing
from pathlib import Path

import pytest
import structlog.testing
import trio

from leveret.broker import app, persistence
from leveret.broker.config import Config
from leveret.broker.core.batch import Batch
from leveret.broker.core.broker import Broker
from leveret.broker.core.message import Message
from leveret.broker.core.runs import PIECE_OCTETS
from leveret.broker.storage import damage
from leveret.broker.storage.base import Damaged, Row, StoreError
from leveret.broker.storage.catalog import Catalog
from leveret.broker.storage.catalog_format import QUEUE, VHOST
from leveret.broker.storage.damage import read_row, salvage
from leveret.broker.storage.database import PAGE, connect
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.records import (
    encode_counted,
    encode_delivered,
    encode_settled,
    part_of,
    seal,
    split,
)
from leveret.broker.storage.recovery import Recovery
from leveret.broker.storage.salvage import ROWS, walk
from leveret.broker.storage.sqlite import SQLiteStore
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

from ..support.durable import commit

PERSISTENT = encode(Properties(delivery_mode=2), body_size=0)
MIB = 1 << 20
HEAD = len(seal([]))


def message(body: bytes = b"body") -> Message:
    content = make_content(BasicPublish("", "q"), PERSISTENT, body, Message)
    assert isinstance(content, Message)
    return content


def rows_of(*bodies: list[bytes], settle: bool = True) -> list[Row]:
    """Return a commit for each list: messages of queue 1, and the first one before settled."""
    journal = Journal(Batch())
    journal.tally.take_in(defined())
    log, rows, position = journal.log(1), [], 0
    for number, some in enumerate(bodies):
        log.enqueued(position, [message(body) for body in some])
        position += len(some)
        if number and settle:
            log.settled([number - 1])
        rows += journal.close()
    return rows


def flipped(octets: bytes, at: int) -> bytes:
    return octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]


def recovered(rows: list[Row]) -> tuple[Recovery, Journal, list[tuple[int, int]]]:
    """Return a recovery that is finished, its journal, and the runs of queue 1."""
    journal = Journal(Batch())
    recovery = Recovery(journal)
    for row in rows:
        recovery.read(row.seq, row.index, len(row.body))
    found = recovery.finish({1, 2})
    runs = list(found[1].ranges()) if 1 in found else []
    return recovery, journal, runs


def test_what_is_read_at_once_has_so_many_octets_unless_it_is_one_row() -> None:
    half = bytes(PIECE_OCTETS // 2 - len(PERSISTENT))
    rows = rows_of([half], [half], [b"x"], [bytes(2 * PIECE_OCTETS)], [b"y"], settle=False)
    journal = Journal(Batch())
    recovery = Recovery(journal)
    deleted = {seq for row in rows for seq in row.delete}
    for row in rows:
        if row.seq not in deleted:
            recovery.read(row.seq, row.index, len(row.body))

    pieces = recovery.finish({1})[1].runs

    assert [(0, 2), (2, 1), (3, 1), (4, 1)] == [(each.base, each.count) for each in pieces]


# The end


@pytest.mark.parametrize("at", [0, 4, 5, 9, 13, 14, 19, -1])
def test_a_damaged_last_row_is_left_out_wherever_the_bit_is(at: int) -> None:
    first, second, third = rows_of([b"a"] * 3, [b"b"], [b"c"] * 2)
    third.index = flipped(third.index, at)

    recovery, _, runs = recovered([first, second, third])

    assert [third.seq] == [loss.seq for loss in recovery.lost]
    assert [(1, 2), (3, 1)] == runs


def test_a_last_row_whose_body_is_cut_short_is_left_out_and_said() -> None:
    first, second = rows_of([b"a"] * 3, [b"b"] * 2)
    second.pieces = [second.body[:-1]]

    recovery, _, runs = recovered([first, second])

    (loss,) = recovery.lost
    assert 2 == loss.messages
    assert f"its body has {len(second.body)} octets instead of {len(second.body) + 1}" == (
        loss.problem
    )
    held = "it held messages: 2 of queue 1 (3-4); settled: 1 of queue 1 (0)"
    assert held == recovery.held(loss)
    assert [(0, 3)] == runs


def test_a_last_row_without_its_body_is_left_out_also_if_messages_are_scattered() -> None:
    journal = Journal(Batch())
    shared = message(b"z" * 100)
    journal.log(1).enqueued(0, [message(b"x")])
    rows = journal.close()
    for number in (1, 2):
        journal.log(number).enqueued(1, [message(b"own"), shared, message(b"more")])
    rows += journal.close()
    whole = recovered(rows)
    rows[-1].pieces = ()

    recovery, _, runs = recovered(rows)

    assert [] == whole[0].lost
    assert [6] == [loss.messages for loss in recovery.lost]
    assert [(0, 1)] == runs


def test_what_was_left_out_is_deleted_with_the_next_commit_and_its_number_not_used_again() -> None:
    first, second = rows_of([b"a"] * 3, [b"b"] * 2)
    second.index = flipped(second.index, -1)

    _, journal, _ = recovered([first, second])
    journal.log(1).enqueued(3, [message()])
    (row,) = journal.close()

    assert [second.seq] == list(row.delete)
    assert row.seq > second.seq
    assert {first.seq, row.seq} == set(journal.rows)


def large_last() -> list[Row]:
    """Return a commit of one row, and one of three: positions 0, 1 and 2, 3."""
    rows = rows_of([b"a"], [b"b" * MIB, b"c" * MIB, b"d"], settle=False)
    assert 4 == len(rows)
    return rows


@pytest.mark.parametrize("hit", [1, 2, 3])
@pytest.mark.parametrize("at", [0, 5, 9, -1])
def test_if_one_row_of_the_last_commit_is_damaged_all_of_it_is_left_out(hit: int, at: int) -> None:
    rows = large_last()
    rows[hit].index = flipped(rows[hit].index, at)

    recovery, journal, runs = recovered(rows)

    assert [(0, 1)] == runs
    reason = f"row {rows[hit].seq} of the same commit is damaged"
    assert {row.seq: reason for row in rows[1:] if row is not rows[hit]} == {
        loss.seq: loss.problem for loss in recovery.lost if loss.seq != rows[hit].seq
    }
    journal.log(1).enqueued(1, [message()])
    assert {row.seq for row in rows[1:]} == set(journal.close()[0].delete)


def test_a_body_that_is_cut_short_takes_the_whole_commit_with_it() -> None:
    rows = large_last()
    rows[1].pieces = [rows[1].body[:-1]]

    recovery, _, runs = recovered(rows)

    assert [(0, 1)] == runs
    assert [row.seq for row in rows[1:]] == [loss.seq for loss in recovery.lost]
    held = [recovery.held(loss) for loss in recovery.lost]
    assert [f"it held messages: 1 of queue 1 ({n})" for n in (1, 2, 3)] == held


@pytest.mark.parametrize("hit", [1, 2, 3])
def test_one_row_that_is_damaged_in_a_commit_before_the_last_stops_the_start(hit: int) -> None:
    rows = [*large_last(), Row(9, seal([]))]
    rows[hit].index = flipped(rows[hit].index, 0)

    with pytest.raises(Damaged, match=f"row {rows[hit].seq}: the checksum does not match"):
        recovered(rows)


@pytest.mark.parametrize(
    ("gone", "which"),
    [
        ([1], "row 1 of 3 of its commit is missing"),
        ([2], "row 2 of 3 of its commit is missing"),
        ([3], "row 3 of 3 of its commit is missing"),
        ([2, 3], "row 2-3 of 3 of its commit are missing"),
        ([1, 3], "row 1, 3 of 3 of its commit are missing"),
    ],
)
def test_a_row_of_the_last_commit_that_is_missing_stops_the_start(gone, which: str) -> None:
    rows = [row for number, row in enumerate(large_last()) if number not in gone]

    with pytest.raises(Damaged, match=rf"row {rows[-1].seq}: {which}; it held messages: 1 of"):
        recovered(rows)


@pytest.mark.parametrize("gone", [[1], [2], [3], [1, 2, 3]])
def test_rows_of_earlier_commits_may_be_gone(gone: list[int]) -> None:
    rows = [row for number, row in enumerate(large_last()) if number not in gone]

    recovery, _, runs = recovered([*rows, Row(9, seal([]))])

    assert [] == recovery.lost
    assert {0, 1, 2, 3} - set(gone) == {first for first, _ in runs}


def test_a_damaged_row_after_a_commit_that_is_complete_is_of_another() -> None:
    rows = [*large_last(), Row(9, b"")]

    recovery, _, runs = recovered(rows)

    assert [9] == [loss.seq for loss in recovery.lost]
    assert [(0, 1), (1, 1), (2, 1), (3, 1)] == runs


def test_a_damaged_row_whose_commit_lost_a_row_before_is_still_of_it() -> None:
    rows = large_last()
    del rows[2]
    rows[2].index = flipped(rows[2].index, 0)

    recovery, _, runs = recovered(rows)

    assert [rows[1].seq, rows[2].seq] == [loss.seq for loss in recovery.lost]
    assert [(0, 1)] == runs


@pytest.mark.parametrize("at", [5, 9])
def test_rows_of_which_one_says_something_else_are_not_of_one_commit(at: int) -> None:
    """None of them is whole: that they might be lost together has to be certain."""
    rows = large_last()
    for row in rows[1:]:
        row.index = flipped(row.index, 0)
    rows[2].index = flipped(rows[2].index, at)

    with pytest.raises(Damaged, match=f"row {rows[1].seq}: the checksum does not match"):
        recovered(rows)


def test_all_rows_of_a_last_commit_may_be_damaged() -> None:
    rows = rows_of([b"a"], [b"b" * MIB, b"c" * MIB, b"d"])
    assert 3 <= len(rows)
    for row in rows[1:]:
        row.index = flipped(row.index, 0)

    recovery, journal, runs = recovered(rows)

    assert [row.seq for row in rows[1:]] == [loss.seq for loss in recovery.lost]
    assert [(0, 1)] == runs
    journal.log(1).enqueued(1, [message()])
    assert {row.seq for row in rows[1:]} == set(journal.close()[0].delete)


def test_rows_of_one_commit_say_which_they_are() -> None:
    parts = [part_of(row.index) for row in large_last()]

    assert [(1, 1), (1, 3), (2, 3), (3, 3)] == parts


@pytest.mark.parametrize("part", [(0, 1), (2, 1), (0, 0)])
def test_a_row_that_is_none_of_its_commit_is_damaged(part: tuple[int, int]) -> None:
    row = read_row(7, seal([encode_settled(1, [(0, 4)])], *part))

    assert "which row of its commit it is makes no sense" == row.problem
    assert None is row.part


def test_two_damaged_rows_that_cannot_be_of_one_commit_stop_the_start() -> None:
    first, second, third = rows_of([b"a"] * 3, [b"b"], [b"c"])
    second.index = flipped(second.index, 0)
    third.index = flipped(third.index, 0)

    with pytest.raises(Damaged, match=f"row {second.seq}: the checksum does not match"):
        recovered([first, second, third])


def test_a_store_of_one_damaged_row_is_empty() -> None:
    (row,) = rows_of([b"a"])
    row.index = b""

    recovery, _, runs = recovered([row])

    assert ["0 octets are no index"] == [loss.problem for loss in recovery.lost]
    assert "what it held cannot be made out" == recovery.held(recovery.lost[0])
    assert [] == runs


# Elsewhere


@pytest.mark.parametrize("at", [0, 5, 13, 14, -1])
def test_damage_elsewhere_stops_the_start_and_says_what_the_row_held(at: int) -> None:
    first, second, third = rows_of([b"a"] * 3, [b"b"] * 2, [b"c"])
    second.index = flipped(second.index, at)

    with pytest.raises(Damaged) as raised:
        recovered([first, second, third])

    text = f"row {second.seq}: the checksum does not match; "
    assert str(raised.value).startswith(text)
    if at == 0:
        held = "it held messages: 2 of queue 1 (3-4); settled: 1 of queue 1 (0)"
        assert f"{text}{held}" == str(raised.value)


def test_a_body_that_is_cut_short_elsewhere_stops_the_start() -> None:
    first, second = rows_of([b"a"] * 3, [b"b"])
    first.pieces = ()

    with pytest.raises(Damaged, match=r"row 1: its body has 0 octets .* 3 of queue 1 \(0-2\)"):
        recovered([first, second])


def test_rows_whose_bodies_nobody_has_looked_at_are_taken_as_they_are() -> None:
    journal = Journal(Batch())
    recovery = Recovery(journal)
    for row in rows_of([b"a"], [b"b"]):
        recovery.read(row.seq, row.index)

    assert [] == recovery.lost
    assert 2 == recovery.messages


def test_a_row_of_a_later_format_is_no_damage_even_at_the_end() -> None:
    (row,) = rows_of([b"a"])
    octets = b"\x02" + row.index[5:]
    row.index = zlib.crc32(octets).to_bytes(4, "little") + octets

    with pytest.raises(StoreError, match="row 1: a later Leveret wrote it") as raised:
        recovered([row])

    assert not isinstance(raised.value, Damaged)


def test_many_queues_and_ranges_are_cut_in_what_is_said() -> None:
    records = [encode_settled(queue, [(n, n) for n in range(0, 20, 2)]) for queue in range(8)]
    row = read_row(1, seal(records))

    text = damage.contents(row.records, "queue {}".format)

    assert "" == row.problem
    assert "10 of queue 0 (0, 2, 4, 6, 8, ...)" in text
    assert text.endswith(", and of 3 more queues")


# What can be made out


def test_every_record_that_is_not_hit_is_made_out() -> None:
    records = [
        encode_settled(1, [(0, 4)]),
        encode_delivered(2, 9),
        encode_counted(3, {1: 2}),
    ]
    index = flipped(seal(records), HEAD + len(records[0]) + 6)  # the queue in the second

    found = salvage(index)

    assert records == list(split(seal(records)))
    assert [1, 3, 3] == [each.queue for each in found]


@pytest.mark.parametrize("length", range(0, 60, 3))
def test_an_index_that_is_cut_off_gives_what_is_there(length: int) -> None:
    first = encode_settled(1, [(0, 4)])
    index = seal([first, encode_delivered(2, 9)])[:length]

    assert len(salvage(index)) == (length >= HEAD + len(first))
    assert read_row(1, index).problem


# The start of a broker


def defined() -> list:
    """Return the definitions of a virtual host with a queue, whose number is 1."""
    broker, kept = Broker(), []
    Catalog(broker, kept.append)
    broker.add_vhost("shop").declare_queue("orders", durable=True)
    assert [VHOST, QUEUE] == [each.kind for each in kept]
    return kept


async def filled(store: MemoryStore | SQLiteStore, rows: list[Row]) -> None:
    await store.open()
    lease = await store.acquire(0, "hare", 10)
    assert lease is not None
    rows[0].definitions = defined()
    await commit(store, [(lease, row) for row in rows])
    await store.close()


async def test_a_broker_warns_of_what_it_left_out_and_starts() -> None:
    rows = rows_of([b"a"] * 3, [b"b"] * 2)
    rows[1].pieces = ()
    store = MemoryStore()
    await filled(store, rows)
    broker = Broker()
    kept = persistence.Persistence(broker, store, limit=MIB)

    with structlog.testing.capture_logs() as logs:
        await kept.open()

    (line,) = [line for line in logs if line["log_level"] == "warning"]
    queue = "queue 'orders' in vhost 'shop'"
    assert ("row.discarded", rows[1].seq, 2) == (line["event"], line["row"], line["messages"])
    assert f"it held messages: 2 of {queue} (3-4); settled: 1 of {queue} (0)" == line["held"]
    assert 3 == broker.vhosts["shop"].queues["orders"].ready_count
    await kept.close()


async def test_progress_is_told_once_a_second_and_only_if_it_takes_that_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of(*[[b"a"]] * 60, settle=False)
    store = MemoryStore()
    await filled(store, rows)
    monkeypatch.setattr("leveret.broker.storage.memory.STEP_ROWS", 10)

    async def told(seconds: float) -> list[tuple[int, int]]:
        """Return what is told when each look at the clock is so much later."""
        now = iter(range(1000))
        monkeypatch.setattr(persistence, "perf_counter", lambda: seconds * next(now))
        kept = persistence.Persistence(Broker(), store, limit=MIB)
        with structlog.testing.capture_logs() as logs:
            await kept.open()
        await kept.close()
        lines = [line for line in logs if line["event"] == "store.recovering"]
        return [(line["rows"], line["messages"]) for line in lines]

    assert [] == await told(0.1)
    assert [(30, 30), (60, 60)] == await told(0.4)


async def test_the_command_that_helps_is_named(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "data")
    rows = rows_of([b"a"] * 3, [b"b"])
    rows[0].index = flipped(rows[0].index, 0)
    await filled(store, rows)
    config = Config(data_dir=store.folder)

    with pytest.raises(app.StartError) as raised:
        await app.open_store(app.build(config), config)

    assert str(raised.value).startswith("row 1: the checksum does not match; it held messages: 3")
    assert str(raised.value).endswith(f"; try: leveret store repair {store.folder}")
    assert "queue 'orders' in vhost 'shop' (0-2)" in str(raised.value)


async def test_a_damaged_definition_stops_the_start_and_names_the_command(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "data")
    await filled(store, rows_of([b"a"]))
    await store.open()
    lease = await store.acquire(0, "hare", 10)
    assert lease is not None
    kind, key, value = (await store.load_definitions())[1]
    changed = type(defined()[0])(kind, key, flipped(value, -1))
    await commit(store, [(lease, Row(9, seal([]), definitions=[changed]))])
    await store.close()
    config = Config(data_dir=store.folder)

    with pytest.raises(app.StartError, match=r"queue 'shop' 'orders' is damaged.*store repair"):
        await app.open_store(app.build(config), config)


async def complaint(store: SQLiteStore) -> str:
    """Return what is said when all rows are read; nothing if all is well."""
    await store.open()
    lease = await store.acquire(0, "hare", 10)
    assert lease is not None
    try:
        async with aclosing(store.recover(lease)) as steps:
            async for _ in steps:
                pass
        return ""
    except Damaged as problem:
        return str(problem)
    finally:
        await store.close()


async def test_the_row_that_is_on_a_spoilt_page_is_named_and_no_other(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "data")
    await filled(store, rows_of(*[[bytes(24_000)]] * 60, settle=False))
    octets = store.file.read_bytes()
    named = []
    for start in range(6 * PAGE, len(octets), PAGE):
        store.file.write_bytes(octets[:start] + bytes(PAGE) + octets[start + PAGE :])
        gaps: list[int] = []
        with closing(connect(store.file)) as connection:
            for _ in walk(connection, ROWS, lambda first, *_, gaps=gaps: gaps.append(first)):
                pass
        said = await complaint(store)
        if not gaps:
            assert "" == said
            continue
        named.append(said)
        row = "the first row" if gaps[0] < 0 else f"(row {gaps[0]}|the row after {gaps[0] - 1})"
        assert re.search(f": {row} cannot be read: ", said), (gaps, said)
    assert 10 <= len(named) < 60


async def test_both_stores_tell_the_sizes_of_bodies(tmp_path: Path) -> None:
    for store in (MemoryStore(), SQLiteStore(tmp_path / "data")):
        await store.open()
        lease = await store.acquire(0, "hare", 10)
        assert lease is not None
        rows = [Row(seq, b"x", [bytes(seq * 10_000)]) for seq in (1, 3, 4, 9)]
        await commit(store, [(lease, row) for row in rows])

        assert [30_000, 40_000] == list(await store.body_sizes(lease, 2, 8))
        await store.close()


def test_the_sizes_of_bodies_are_told_without_reading_them(tmp_path: Path) -> None:
    async def read() -> int:
        store = SQLiteStore(tmp_path / "data")
        await store.open()
        lease = await store.acquire(0, "hare", 10)
        assert lease is not None
        for seq in range(1, 31):
            await commit(store, [(lease, Row(seq, b"x", [bytes(MIB)]))])
        await store.close()
        await store.open()
        before = _octets_read()
        sizes = await store.body_sizes(lease, 1, 30)
        after = _octets_read()
        await store.close()
        assert [MIB] * 30 == list(sizes)
        return after - before

    assert trio.run(read) < 2 * MIB


def _octets_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])

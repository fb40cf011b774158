"""What SQLite would silently leave out of its log stops the start, and a repair brings it back."""

import os
import shutil
import sqlite3
from contextlib import closing
from struct import pack, unpack_from

import pytest
import trio

from leveret.broker.storage import repair, tools, wal_check
from leveret.broker.storage.base import Damaged, Row, StoreError
from leveret.broker.storage.database import PAGE, connect
from leveret.broker.storage.lock import promise, promised
from leveret.broker.storage.records import seal
from leveret.broker.storage.sqlite import SQLiteStore
from leveret.broker.storage.wal_check import look_at_log

from ..support.durable import commit

HEAD, FRAME = 32, 24 + PAGE
COMMITS = 8


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a store that was not closed, with a row of each of some commits."""
    folder = tmp_path_factory.mktemp("store")

    async def run():
        store = SQLiteStore(folder / "data")
        await store.open()
        lease = await store.acquire(0, "hare", 10)
        for seq in range(1, COMMITS + 1):
            await commit(store, [(lease, Row(seq, seal([]), [b"%d" % seq * 20_000]))])
        await store._writer.run(lambda: None)  # the log has grown
        shutil.copytree(store.folder, folder / "killed")
        await store.close()

    trio.run(run)
    return folder / "killed"


@pytest.fixture
def store(killed, tmp_path):
    return SQLiteStore(shutil.copytree(killed, tmp_path / "data"))


def frames(store):
    """Return of each frame in use: the page, and whether it ends a commit."""
    octets = store.log.file.read_bytes()
    salts = octets[16:24]
    found = [
        unpack_from(">II", octets, at)
        for at in range(HEAD, len(octets) - FRAME + 1, FRAME)
        if octets[at + 8 : at + 16] == salts
    ]
    return [(page, pages > 0) for page, pages in found]


def change(file, at, octets=None):
    """Flip a bit of a file, or write something there."""
    with file.open("r+b") as changed:
        changed.seek(at)
        old = changed.read(len(octets or b"x"))
        changed.seek(at)
        changed.write(octets or bytes([old[0] ^ 4]))


def files(folder):
    return {
        one.name: one.read_bytes()
        for one in folder.iterdir()
        if one.is_file() and not one.name.endswith("-shm")
    }


async def rows(store):
    """Open a store, return the rows in it, and close it."""
    await store.open()
    try:
        lease = await store.acquire(0, "tortoise", 10)
        return [seq async for some in store.recover(lease) for seq, _ in some]
    finally:
        await store.close()


async def test_a_log_that_is_whole_is_taken_as_it_is(store):
    assert ("", 0) == look_at_log(store.file)[:2]
    assert list(range(1, COMMITS + 1)) == await rows(store)
    assert [] == store.notes


PARTS = {"page": 3, "pages": 7, "salt": 9, "checksum": 17, "content": 24 + 100, "end": FRAME - 1}


@pytest.mark.parametrize("at", PARTS.values(), ids=PARTS)
async def test_a_bit_that_has_changed_before_the_last_commit_stops_the_start(
    store, killed, tmp_path, at
):
    ends = [number for number, (_, is_end) in enumerate(frames(store), 1) if is_end]
    assert len(ends) > COMMITS
    for number in range(1, ends[-2] + 1):
        changed = SQLiteStore(shutil.copytree(killed, tmp_path / str(number)))
        change(changed.log.file, HEAD + (number - 1) * FRAME + at)
        before = files(changed.folder)

        with pytest.raises(Damaged) as caught:
            await changed.open()

        behind = sum(end >= number for end in ends)
        text = rf"{changed.log.file}: frame {number} \(of page \d+\) is damaged, so that "
        about = "|".join(str(behind + off) for off in (-1, 0, 1))  # its own end may be what changed
        assert caught.match(text + rf"({about}) commits? cannot be read")
        assert before == files(changed.folder)


@pytest.mark.parametrize("at", PARTS.values(), ids=PARTS)
async def test_a_last_commit_that_has_changed_is_one_that_was_cut_short(store, at):
    found = frames(store)
    change(store.log.file, HEAD + (len(found) - 1) * FRAME + at)

    assert list(range(1, COMMITS)) == await rows(store)
    left = len(found) - 1 - max(n for n, (_, is_end) in enumerate(found[:-1]) if is_end)
    left -= at == PARTS["salt"]  # this one is not known to be of it
    pages = f"({left} pages)"
    assert [f"{store.log.file}: a commit that had not come to its end is left out {pages}"] == (
        store.notes
    )


@pytest.mark.parametrize("at", [0, 2, 3, 7, 10, 15, 17, 23, 24, 31])
async def test_a_head_that_has_changed_stops_the_start(store, at):
    change(store.log.file, at)
    before = files(store.folder)

    with pytest.raises(Damaged, match="its head is damaged, so that nothing of it can be read"):
        await store.open()

    assert before == files(store.folder)


async def test_a_head_without_anything_behind_it_is_no_damage(store):
    size = store.log.size
    os.truncate(store.log.file, 0)
    os.truncate(store.log.file, size)
    change(store.log.file, 5)
    promise(store.folder, 0)  # nothing was committed yet

    assert ("", 0) == look_at_log(store.file)[:2]


@pytest.mark.parametrize("size", [32, 56, 512, 4096, None])
async def test_a_log_that_begins_with_zeros_stops_the_start(store, size):
    change(store.log.file, 0, bytes(size or store.log.size))

    with pytest.raises(Damaged, match="its head is damaged, so that nothing of it can be read"):
        await store.open()


@pytest.mark.parametrize("was_closed", [False, True])
@pytest.mark.parametrize("size", [0, 1])
async def test_a_database_of_which_nothing_is_left_stops_everything_and_keeps_its_log(
    store, size, was_closed
):
    if was_closed:
        await rows(store)
    os.truncate(store.file, size)
    before = files(store.folder)

    with pytest.raises(StoreError, match=f"{store.file} is empty, but was not: put it back"):
        await store.open()
    for tool in (tools.check, tools.info, tools.compact, repair.repair):
        with pytest.raises(StoreError, match=f"{store.file} is empty"):
            tool(store.folder)
    with pytest.raises(StoreError, match=f"{store.file} is empty"):
        tools.backup(store.folder, store.folder / "copy")

    assert before == files(store.folder)


async def test_a_head_of_a_frame_that_is_half_an_old_one_is_no_later_commit(store):
    """It may be in two sectors, of which one was written when the power was lost."""
    await store.open()
    lease = await store.acquire(0, "hare", 10)
    used = len(frames(store))
    many = [Row(seq, seal([]), [bytes(100_000)]) for seq in range(99, 110)]
    await commit(store, [(lease, row) for row in many])
    killed = SQLiteStore(shutil.copytree(store.folder, store.folder.parent / "torn"))
    await store.close()
    split = [n for n in range(used, len(frames(killed)) - 1) if (HEAD + n * FRAME) % 512 == 504]
    change(killed.log.file, HEAD + split[-1] * FRAME, pack(">II", 5, 21))

    assert ("", len(frames(killed)) - used) == look_at_log(killed.file)[:2]
    assert list(range(1, COMMITS + 1)) == await rows(killed)


async def test_a_start_that_fails_leaves_the_promise_as_it_was(store, monkeypatch):
    def refuse(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("leveret.broker.storage.sqlite.open_database", refuse)
    with pytest.raises(StoreError, match="No space left on device"):
        await store.open()
    await store.close()

    assert store.log.size == promised(store.folder)


async def test_a_log_that_could_not_be_emptied_is_promised_for_the_next_start(store, tmp_path):
    await store.open()
    await store.acquire(0, "hare", 10)
    with closing(connect(store.file)) as other:  # whoever else has it open keeps the log
        other.execute("SELECT count(*) FROM batch").fetchall()
        await store.close()
        assert store.log.size == promised(store.folder) > 0


@pytest.mark.parametrize("at", [5, 24 + 100])
async def test_repair_reads_a_damaged_log_to_its_end(store, at):
    number = frames(store).index((1, True)) if (1, True) in frames(store) else 2
    change(store.log.file, HEAD + number * FRAME + PARTS["checksum"])
    before = files(store.folder)

    answer = repair.repair(store.folder)

    assert answer.is_good
    assert answer.lines[0].startswith(f"kept: log: {store.log.file}: frame {number + 1} ")
    kept = {
        name.replace(".before-repair-1", ""): octets
        for name, octets in files(store.folder).items()
        if ".before-repair-1" in name
    }
    assert kept == {name: octets for name, octets in before.items() if name in kept}
    assert {"leveret.db", "leveret.db-wal"} == set(kept)
    assert list(range(1, COMMITS + 1)) == await rows(store)
    assert tools.check(store.folder).is_good


@pytest.mark.parametrize("at", [0, 6, 11, 15, 20, 25, 31])
async def test_repair_makes_a_new_head(store, at):
    change(store.log.file, at)

    assert repair.repair(store.folder).is_good
    assert list(range(1, COMMITS + 1)) == await rows(store)


@pytest.mark.parametrize("part", PARTS)
async def test_repair_loses_no_more_than_what_is_on_a_damaged_page(store, part):
    found = frames(store)
    number = len(found) // 2
    change(store.log.file, HEAD + number * FRAME + PARTS[part])

    repair.repair(store.folder)

    assert tools.check(store.folder).is_good
    left = await rows(store)
    # A changed number of a page puts one where another should be: two are lost then.
    assert COMMITS - len(left) <= (3 if part == "page" else 1)


async def test_a_repair_that_is_interrupted_while_it_mends_the_log_has_changed_nothing(
    store, monkeypatch
):
    change(store.log.file, HEAD + 2 * FRAME + PARTS["checksum"])
    before = files(store.folder)

    def pwrite(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(wal_check.os, "pwrite", pwrite)
    with pytest.raises(KeyboardInterrupt):
        repair.repair(store.folder)
    monkeypatch.undo()

    assert before == {
        name: octets for name, octets in files(store.folder).items() if name in before
    }
    assert repair.repair(store.folder).is_good
    assert list(range(1, COMMITS + 1)) == await rows(store)


async def test_repair_does_not_take_a_commit_that_was_cut_short(store):
    found = frames(store)
    change(store.log.file, HEAD + 3 * FRAME + PARTS["checksum"])
    last = max(number for number, (_, is_end) in enumerate(found[:-1]) if is_end) + 1
    assert last < len(found) - 1  # it has several frames
    change(store.log.file, HEAD + last * FRAME, bytes(FRAME))

    assert repair.repair(store.folder).is_good
    assert list(range(1, COMMITS)) == await rows(store)


def test_looking_at_a_damaged_log_leaves_it_alone(store, tmp_path):
    change(store.log.file, HEAD + 3 * FRAME + PARTS["content"])
    before = files(store.folder)

    answer = tools.check(store.folder)
    told = tools.info(store.folder)

    assert not answer.is_good
    assert answer.lines[0].startswith(f"log: {store.log.file}: frame 4 ")
    assert f"damaged: {answer.lines[0]}" in told.lines
    with pytest.raises(Damaged, match=r"frame 4 .*; try: leveret store repair"):
        tools.compact(store.folder)
    with pytest.raises(Damaged, match=r"frame 4 .*; try: leveret store repair"):
        tools.backup(store.folder, tmp_path / "copy")
    assert before == files(store.folder)
    assert not (tmp_path / "copy").exists()


def test_looking_at_a_log_that_is_whole_leaves_it_alone(store, tmp_path):
    before = files(store.folder)

    assert tools.check(store.folder).is_good
    assert f"rows: {COMMITS}," in tools.info(store.folder).lines[2]
    tools.backup(store.folder, tmp_path / "copy")

    assert before == files(store.folder)
    with closing(connect(tmp_path / "copy")) as copied:
        assert [(COMMITS,)] == copied.execute("SELECT count(*) FROM batch").fetchall()


@pytest.mark.parametrize("state", ["missing", "empty"])
async def test_a_log_that_is_not_there_stops_the_start(store, state):
    os.truncate(store.log.file, 0)
    if state == "missing":
        store.log.file.unlink()

    with pytest.raises(Damaged, match=f"{store.log.file} is {state}: it is lost, with what"):
        await store.open()

    answer = repair.repair(store.folder)
    assert answer.lines[0].startswith(f"dropped: log: {store.log.file} is {state}")
    assert answer.is_good
    await rows(store)


async def test_a_log_that_another_program_has_emptied_is_told_and_nothing_is_lost(store):
    """SQLite removes the log when the last connection is closed that may write."""
    with closing(sqlite3.connect(store.file)) as other:
        assert [(COMMITS,)] == other.execute("SELECT count(*) FROM batch").fetchall()
    assert not store.log.file.exists()
    before = files(store.folder)

    with pytest.raises(Damaged, match="has opened the store since the broker ended, and moved all"):
        await store.open()

    assert before == files(store.folder)
    assert COMMITS == tools.check(store.folder).facts["rows"]
    assert repair.repair(store.folder).is_good
    assert list(range(1, COMMITS + 1)) == await rows(store)


async def test_a_log_that_was_cut_stops_the_start(store):
    least = promised(store.folder)
    assert 0 < least <= store.log.size
    used = len(frames(store))
    os.truncate(store.log.file, HEAD + (used // 2) * FRAME)

    with pytest.raises(Damaged, match=f"was cut: of {least:,} octets or more it has"):
        await store.open()

    assert repair.repair(store.folder).is_good
    left = await rows(store)
    assert left == list(range(1, len(left) + 1))
    assert 0 < len(left) < COMMITS


@pytest.mark.parametrize("state", ["missing", "empty"])
@pytest.mark.parametrize("is_older", [False, True])
async def test_a_database_that_is_not_there_stops_the_start(store, state, is_older):
    os.truncate(store.file, 0)
    if state == "missing":
        store.file.unlink()
    if is_older:  # one from before the lock said anything
        os.truncate(store.folder / "lock", 0)
    before = files(store.folder)

    with pytest.raises(StoreError, match=f"{store.file} is {state}, but was not: put it back"):
        await store.open()

    assert before == files(store.folder)


async def test_a_store_that_was_closed_needs_no_log(store):
    await rows(store)

    assert 0 == promised(store.folder)
    assert not store.log.file.exists()
    assert list(range(1, COMMITS + 1)) == await rows(store)


async def test_a_lock_that_says_nothing_is_that_of_an_older_store(store):
    (store.folder / "lock").write_bytes(b"log 12x\n")

    assert promised(store.folder) is None
    assert list(range(1, COMMITS + 1)) == await rows(store)


def test_the_last_promise_counts(tmp_path):
    assert promised(tmp_path) is None
    for octets in (5, 70_000_000_000, 0):
        promise(tmp_path, octets)
        assert octets == promised(tmp_path)


def test_what_a_rolled_back_transaction_left_is_no_later_commit(tmp_path):
    file = tmp_path / "a.db"
    with closing(connect(file)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t(a)")
        connection.execute("PRAGMA cache_size = 2")  # so that it writes before it knows the end
        connection.execute("BEGIN")
        for _ in range(10):
            connection.execute("INSERT INTO t VALUES(zeroblob(50000))")
        connection.execute("ROLLBACK")
        connection.execute("INSERT INTO t VALUES(zeroblob(50000))")
        store = SQLiteStore(tmp_path)
        store.log = wal_check_file(tmp_path / "b.db", file)
    used = [number for number, (_, is_end) in enumerate(frames(store), 1) if is_end][-2]
    total = len(frames(store))
    assert total > used + 10  # it left something
    change(store.log.file, HEAD + used * FRAME + PARTS["content"])  # the commit was cut short

    problem, cut_short, _ = look_at_log(tmp_path / "b.db")

    assert ("", total - used) == (problem, cut_short)


def wal_check_file(copy, file):
    """Copy a database that is open, with its log; return what has the copy's log."""
    shutil.copyfile(file, copy)
    store = SQLiteStore(copy.parent)
    store.log.file = wal_check.log_of(copy)
    shutil.copyfile(wal_check.log_of(file), store.log.file)
    return store.log


def test_a_log_with_checksums_in_the_other_order_is_read(store):
    octets = bytearray(store.log.file.read_bytes())
    octets[:4] = pack(">I", wal_check.MAGIC + 1)
    total = summed(octets[:24], (0, 0))
    octets[24:32] = pack(">II", *total)
    for at in range(HEAD, HEAD + len(frames(store)) * FRAME, FRAME):
        total = summed(octets[at : at + 8] + octets[at + 24 : at + FRAME], total)
        octets[at + 16 : at + 24] = pack(">II", *total)
    store.log.file.write_bytes(octets)

    assert ("", 0) == look_at_log(store.file)[:2]
    change(store.log.file, HEAD + 2 * FRAME + PARTS["content"])
    assert "frame 3 (" in look_at_log(store.file).problem
    repair.repair(store.folder)
    with closing(sqlite3.connect(store.file)) as connection:
        assert COMMITS - 1 <= connection.execute("SELECT count(*) FROM batch").fetchone()[0]


def summed(octets, before):
    """Return the checksum of words that have their highest octet first."""
    one, two = before
    for at in range(0, len(octets), 8):
        first, second = unpack_from(">II", octets, at)
        one = (one + first + two) % 2**32
        two = (two + second + one) % 2**32
    return one, two

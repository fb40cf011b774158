"""Long bodies of rows, in files beside the database: the files, the store, its reader."""

import errno
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from leveret.broker.storage import bodies, database, row_reader
from leveret.broker.storage.base import Damaged, Ref, Row, StoreError, StoreFailed
from leveret.broker.storage.bodies import BLOCK, Bodies, Place, file_of, files_of, place_of
from leveret.broker.storage.sqlite import SQLiteStore

from ..support.durable import commit
from ..support.limits import no_descriptors

LEAST = 10_000
FILE_SIZE = 20 * BLOCK
DEAD = 10 * BLOCK


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LEAST", LEAST)
    monkeypatch.setattr(bodies, "FILE_SIZE", FILE_SIZE)
    monkeypatch.setattr(bodies, "DEAD", DEAD)


@pytest.fixture
async def lease(store):
    return await store.acquire(0, "hare", 10)


def octets(seq: int, size: int = LEAST) -> bytes:
    """Return a body unlike any other."""
    return Random(seq).randbytes(size)


def rounded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def taken(*files: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in files)


async def read(store: SQLiteStore, seq: int, size: int = LEAST) -> bytes:
    (body,) = await store.read(None, [Ref(seq, 0, size)])
    return body


async def stored(store: SQLiteStore) -> dict[int, object]:
    """Return what is in the column of the rows."""
    query = "SELECT seq, body FROM batch"
    return dict(await store._writer.run(lambda: store._connection.execute(query).fetchall()))


async def again(store: SQLiteStore) -> object:
    """Start anew."""
    await store.close()
    await store.open()
    return await store.acquire(0, "hare", 10)


async def drained(store: SQLiteStore) -> None:
    while await store.maintain(0):
        pass


# Places


def test_a_place_is_read_as_it_was_written() -> None:
    place = Place(131_072, 3, 4096)

    assert "131072 3 4096" == str(place)
    assert place == place_of(str(place))


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "1 2",
        "1 2 3 4",
        " 1 2 3",
        "1 2 3\n",
        "-1 2 3",
        "1 2 x",
        "0 1 0",
        "1 2 03",
        "¹ 2 3",
        b"1 2 3",
        None,
    ],
)
def test_what_is_no_place_is_none(stored: object) -> None:
    assert place_of(stored) is None


def test_files_of_other_names_are_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "leveret.db"
    for end in (
        "",
        "-wal",
        "-bodies-",
        "-bodies-x",
        "-bodies-1.old",
        "xbodies-1",
        "-bodies-012",
        "-bodies-12",
    ):
        (tmp_path / f"leveret.db{end}").touch()
    (tmp_path / "leveretXdb-bodies-3").touch()

    assert {12: file_of(file, 12)} == files_of(file)


# The files


class Machine(RuleBasedStateMachine):
    """Bodies, a database that says where they are, and what should be in both.

    What is written and what goes is committed at once, as the store does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.file = self.folder / "leveret.db"
        self.connection = database.open_database(self.file)
        self.connection.execute("PRAGMA synchronous = OFF")
        self.bodies = Bodies(self.file)
        self.bodies.open(self.connection)
        self.living: dict[int, Place] = {}
        self.seq = 0

    def teardown(self) -> None:
        self.release()
        while self.bodies.give_back():
            pass
        files = files_of(self.file).values()
        living = sum(rounded(place.size) for place in self.living.values())
        assert living <= taken(*files) + BLOCK * len(self.living)
        assert taken(*files) <= living + BLOCK * len(files)
        self.check()
        self.bodies.close()
        self.connection.close()
        shutil.rmtree(self.folder)

    @rule(sizes=st.lists(st.integers(1, 5 * BLOCK), min_size=1, max_size=4))
    def write(self, sizes: list[int]) -> None:
        self.connection.execute("BEGIN")
        for size in sizes:
            self.seq += 1
            values = database.to_add(Row(self.seq, b"", [octets(self.seq, size)]), self.bodies)
            self.connection.execute(database.ADD, values)
            place = place_of(values[3])
            assert (place is None) == (size < LEAST)
            if place is not None:
                self.living[self.seq] = place
        self.bodies.sync()
        self.connection.execute("COMMIT")
        self.bodies.tidy()

    @precondition(lambda self: self.living)
    @rule(data=st.data(), is_replaced=st.booleans())
    def free(self, data: st.DataObject, is_replaced: bool) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.living)), unique=True, max_size=5))
        for seq in gone:
            if is_replaced:
                database.replace(self.connection.execute, [(seq, b"rest")])
            else:
                self.connection.execute("DELETE FROM batch WHERE seq = ?", (seq,))
            del self.living[seq]
        self.bodies.free([*gone, 1 << 40])
        self.bodies.tidy()

    @rule()
    def give_back(self) -> None:
        self.bodies.give_back()

    @rule()
    def hold(self) -> None:
        self.bodies.is_held = True

    @rule()
    def release(self) -> None:
        self.bodies.is_held = False
        self.bodies.tidy()

    @rule()
    def reopen(self) -> None:
        self.bodies.open(self.connection)
        self.bodies.tidy()

    @invariant()
    def check(self) -> None:
        for seq, place in self.living.items():
            assert octets(seq, place.size) == bodies.read(self.file, place)
        for file in self.bodies._files.values():
            for start, length in file.gaps():
                for each in self.living.values():
                    ours = file_of(self.file, each.file) == file.path
                    is_apart = start >= each.start + each.size or start + length <= each.start
                    assert is_apart or not ours
        assert self.bodies._dead == sum(each.dead for each in self.bodies._files.values())
        if not self.bodies.is_held:
            needed = {place.file for place in self.living.values()}
            growing = {self.bodies._number} if self.bodies._current is not None else set()
            there = files_of(self.file)
            goes = {number for number in there if there[number] in self.bodies._unneeded}
            assert needed <= there.keys() <= needed | growing | goes


def test_what_lives_stays_whatever_goes_and_takes_hardly_more_than_it_is_long() -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )


@pytest.mark.long
def test_what_lives_stays_whatever_goes_many_times() -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=500, stateful_step_count=60, deadline=None)
    )


@pytest.mark.parametrize(("size", "is_beside"), [(LEAST - 1, False), (LEAST, True)])
async def test_a_body_is_beside_its_row_from_a_length_on(store, lease, size, is_beside):
    await commit(store, [(lease, Row(1, b"index", [octets(1, size)]))])

    found = (await stored(store))[1]
    assert (f"{size} 1 0" if is_beside else octets(1, size)) == found
    assert octets(1, size) == await read(store, 1, size)
    assert [size] == await store.body_sizes(lease, 1, 1)
    assert is_beside == file_of(store.file, 1).exists()


async def test_what_cannot_be_given_back_is_for_its_owner_alone(store, lease):
    store.folder.chmod(0o755)
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])

    assert 0o600 == file_of(store.file, 1).stat().st_mode & 0o777


async def test_the_next_file_is_begun_when_one_is_long_enough(store, lease):
    sizes = [FILE_SIZE - BLOCK, BLOCK * 3, LEAST]
    for seq, size in enumerate(sizes):
        await commit(store, [(lease, Row(seq, b"", [octets(seq, size)]))])

    expected = [Place(sizes[0], 1, 0), Place(sizes[1], 1, FILE_SIZE - BLOCK), Place(LEAST, 2, 0)]
    assert expected == [place_of(body) for body in (await stored(store)).values()]
    assert [octets(n, size) for n, size in enumerate(sizes)] == [
        await read(store, n, size) for n, size in enumerate(sizes)
    ]


async def test_all_files_of_a_commit_are_synced_before_it(store, lease, monkeypatch):
    synced, seen = os.fdatasync, []

    def look(descriptor: int) -> None:
        synced(descriptor)
        with closing(sqlite3.connect(store.file)) as other:
            rows = database.number(other, "SELECT count(*) FROM batch")
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), rows))

    await commit(store, [(lease, Row(1, b""))])
    with monkeypatch.context() as once:
        once.setattr(bodies.os, "fdatasync", look)
        rows = [Row(seq, b"", [octets(seq, FILE_SIZE // 2)]) for seq in range(2, 7)]
        await commit(store, [(lease, row) for row in rows])

    ours = [(str(file_of(store.file, number)), 1) for number in (1, 2, 3)]
    assert ours == [each for each in seen if "bodies" in each[0]]


async def test_no_file_of_an_earlier_process_grows(store, lease):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    lease = await again(store)
    await commit(store, [(lease, Row(2, b"", [octets(2)]))])

    assert {1: f"{LEAST} 1 0", 2: f"{LEAST} 2 0"} == await stored(store)
    assert octets(1) == await read(store, 1)
    assert octets(2) == await read(store, 2)


async def test_a_start_removes_what_no_row_refers_to_and_nothing_else(store, lease):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    await store.close()
    orphan = file_of(store.file, 7)
    orphan.write_bytes(octets(7))
    others = [store.folder / f"leveret.db-bodies-{end}" for end in ("8.kept", "", "x")]
    for other in others:
        other.write_bytes(b"precious")
    with file_of(store.file, 1).open("ab") as cut_short:
        cut_short.write(octets(2, 50 * BLOCK))

    await store.open()
    lease = await store.acquire(0, "hare", 10)
    await drained(store)

    assert not orphan.exists()
    assert {b"precious"} == {other.read_bytes() for other in others}
    assert taken(file_of(store.file, 1)) <= rounded(LEAST)
    assert octets(1) == await read(store, 1)
    await commit(store, [(lease, Row(2, b"", [octets(2)]))])
    assert f"{LEAST} 8 0" == (await stored(store))[2]  # never a number that was there


# Without room


def failing(code: int, times: int = 1000) -> Callable[..., int]:
    """Return a pwrite that writes a part, and then has no more room."""
    left = [times]
    whole = os.pwrite

    def write(descriptor: int, body: bytes, at: int) -> int:
        if not left[0]:
            return whole(descriptor, body, at)
        if len(body) < 5000:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return whole(descriptor, body[:5000], at)

    return write


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_without_room_a_body_goes_into_its_row(store, lease, monkeypatch, code):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    with monkeypatch.context() as full:
        full.setattr(bodies.os, "pwrite", failing(code))
        await commit(store, [(lease, Row(2, b"", [octets(2, 12_000)]))])
        assert rounded(LEAST) == file_of(store.file, 1).stat().st_size
    await commit(store, [(lease, Row(3, b"", [octets(3)]))])

    expected = {1: f"{LEAST} 1 0", 2: octets(2, 12_000), 3: f"{LEAST} 1 {rounded(LEAST)}"}
    assert expected == await stored(store)
    lease = await again(store)
    assert [octets(1), octets(3)] == [await read(store, 1), await read(store, 3)]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE])
async def test_without_room_for_a_file_a_body_goes_into_its_row(store, lease, monkeypatch, code):
    """On the disk, or for a descriptor: clients may have taken all, which is no fault of it."""
    opened = os.open

    def full(path: Path, *arguments: int) -> int:
        if "bodies" in str(path):
            raise OSError(code, os.strerror(code))
        return opened(path, *arguments)

    with monkeypatch.context() as once:
        once.setattr(bodies.os, "open", full)
        await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    await commit(store, [(lease, Row(2, b"", [octets(2)]))])

    assert octets(1) == (await stored(store))[1]
    assert isinstance((await stored(store))[2], str)
    assert [octets(1), octets(2)] == [await read(store, 1), await read(store, 2)]


def raising(code: int) -> Callable[..., object]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
async def test_a_disk_that_fails_ends_the_store(store, lease, monkeypatch, call):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    with monkeypatch.context() as broken:
        broken.setattr(bodies.os, call, raising(errno.EIO))
        with pytest.raises(StoreFailed, match="Input/output error"):
            await commit(store, [(lease, Row(2, b"", [octets(2)]))])

    with pytest.raises(StoreFailed):
        await commit(store, [(lease, Row(3, b""))])
    assert not await store.maintain(1)
    await again(store)
    assert {1: f"{LEAST} 1 0"} == await stored(store)
    assert octets(1) == await read(store, 1)


async def test_no_room_to_sync_a_file_that_is_ended_is_a_failure(store, lease, monkeypatch):
    """The kernel says it once: what it could not write is gone, and the next sync is good."""
    synced, told = os.fdatasync, []

    def sync_once(descriptor: int) -> None:
        if not told:
            told.append(descriptor)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(descriptor)

    await commit(store, [(lease, Row(1, b""))])
    monkeypatch.setattr(bodies.os, "fdatasync", sync_once)
    rows = [Row(2, b"", [octets(2, FILE_SIZE)]), Row(3, b"", [octets(3)])]
    with pytest.raises(StoreFailed, match="No space left"):
        await commit(store, [(lease, row) for row in rows])

    assert {1: b""} == await stored(store)


async def test_where_no_part_can_be_given_back_bodies_stay_in_their_rows(store, lease, monkeypatch):
    monkeypatch.setattr(bodies, "_give_back", lambda *_: False)

    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    await commit(store, [(lease, Row(2, b"", [octets(2)]))])

    assert {1: octets(1), 2: octets(2)} == await stored(store)
    assert {} == files_of(store.file)


async def test_without_what_gives_parts_back_bodies_stay_in_their_rows(store, lease, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctypes", None)

    await commit(store, [(lease, Row(1, b"", [octets(1)]))])

    assert {1: octets(1)} == await stored(store)
    assert {} == files_of(store.file)


def test_a_file_that_could_not_be_begun_is_closed_and_gone(tmp_path: Path, monkeypatch) -> None:
    with closing(database.open_database(tmp_path / "leveret.db")) as connection:
        made = Bodies(tmp_path / "leveret.db")
        made.open(connection)
        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(bodies, "sync", raising(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            made.write(1, octets(1))
        monkeypatch.setattr(bodies, "sync", raising(errno.EMFILE))
        assert made.write(1, octets(1)) is None
        monkeypatch.undo()
        monkeypatch.setattr(bodies, "_give_back", lambda *_: False)
        assert made.write(2, octets(2, 200_000)) is None

        assert {} == files_of(tmp_path / "leveret.db")
        assert before == len(os.listdir("/proc/self/fd"))


# What goes


async def test_parts_are_given_back_later_if_no_descriptor_is_left(store, lease):
    for seq in (1, 2):
        await commit(store, [(lease, Row(seq, b"", [octets(seq, 3 * BLOCK)]))])
    await commit(store, [(lease, Row(3, b"", [octets(3)], delete=[1]))])
    file = file_of(store.file, 1)
    before = taken(file)
    with no_descriptors():
        assert await store.maintain(1) is False

    await store.maintain(1)

    assert before - 3 * BLOCK == taken(file)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_body_is_given_back_after_the_commit_that_says_so(store, lease, monkeypatch, how):
    for seq in (1, 2):
        await commit(store, [(lease, Row(seq, b"", [octets(seq, FILE_SIZE)]))])
    file, synced, seen = file_of(store.file, 1), os.fdatasync, []

    def look(descriptor: int) -> None:
        synced(descriptor)
        seen.append(file.exists() and octets(1, FILE_SIZE) == file.read_bytes())

    with monkeypatch.context() as once:
        once.setattr(bodies.os, "fdatasync", look)
        gone = {"delete": [1]} if how == "deleted" else {"replace": [(1, b"rest")]}
        await commit(store, [(lease, Row(3, b"", [octets(3)], **gone))])
    await store._writer.run(lambda: None)  # what comes behind a commit is done

    assert [True] == seen
    assert not file.exists()
    assert octets(2, FILE_SIZE) == await read(store, 2, FILE_SIZE)
    with pytest.raises(StoreError, match="row 1"):
        await read(store, 1, FILE_SIZE)


async def test_what_waits_is_done_between_files_that_go(store, lease, monkeypatch):
    for seq in (1, 2, 3):
        await commit(store, [(lease, Row(seq, b"", [octets(seq, FILE_SIZE)]))])
    seen, unlink = [], Path.unlink

    def look(path: Path) -> None:
        unlink(path)
        seen.append("a file")
        store._writer.post(lambda: seen.append("what waits"))

    with monkeypatch.context() as once:
        once.setattr(Path, "unlink", look)
        await commit(store, [(lease, Row(4, b"", [octets(4)], delete=[1, 2, 3]))])
        while len(seen) < 6:
            await store._writer.run(lambda: None)

    assert ["a file", "what waits"] * 3 == seen
    assert {4} == files_of(store.file).keys()


async def test_however_many_commits_come_each_waits_for_one_file_that_goes(
    store, lease, monkeypatch
):
    for seq in range(1, 9):
        await commit(store, [(lease, Row(seq, b"", [octets(seq, FILE_SIZE)]))])
    seen, unlink = [], Path.unlink

    def come() -> None:
        seen.append("a commit")
        store._commit([(lease, Row(100 + len(seen), b""))])

    def look(path: Path) -> None:
        unlink(path)
        seen.append("a file")
        store._writer.post(come)

    with monkeypatch.context() as once:
        once.setattr(Path, "unlink", look)
        await commit(store, [(lease, Row(9, b"", [octets(9)], delete=list(range(1, 9))))])
        while len(seen) < 16:
            await store._writer.run(lambda: None)

    assert ["a file", "a commit"] * 8 == seen


async def test_a_commit_that_fails_takes_nothing_away(store, lease):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    lease = await again(store)  # its file grows no more
    with pytest.raises(StoreFailed):
        await commit(store, [(lease, Row(1, b"twice", delete=[1]))])
    await again(store)

    assert octets(1) == await read(store, 1)


async def test_parts_are_given_back_once_there_are_many(store, lease):
    count = FILE_SIZE // rounded(LEAST)
    rows = [Row(seq, b"", [octets(seq)]) for seq in range(count)]
    await commit(store, [(lease, row) for row in rows])
    file = file_of(store.file, 1)
    few = DEAD // rounded(LEAST)
    await commit(store, [(lease, Row(100, b"", delete=range(few)))])
    await store._writer.run(lambda: None)
    before = taken(file)
    await commit(store, [(lease, Row(101, b"", delete=[few]))])
    await store._writer.run(lambda: None)

    assert before >= count * rounded(LEAST)
    assert taken(file) <= (count - few - 1) * rounded(LEAST) + BLOCK
    assert [octets(seq) for seq in range(few + 1, count)] == [
        await read(store, seq) for seq in range(few + 1, count)
    ]


async def test_maintenance_gives_all_back_that_is_dead(store, lease):
    for first in (0, 10, 20):
        rows = [Row(seq, b"", [octets(seq, FILE_SIZE // 4)]) for seq in range(first, first + 4)]
        await commit(store, [(lease, row) for row in rows])
    await commit(store, [(lease, Row(100, b"", delete=[0, 11, 12, 20, 21, 22, 23]))])
    await drained(store)

    files = files_of(store.file)
    assert {1, 2} == files.keys()
    assert taken(*files.values()) <= 5 * FILE_SIZE // 4 + 2 * BLOCK
    left = (1, 2, 3, 10, 13)
    assert [octets(n, FILE_SIZE // 4) for n in left] == [
        await read(store, n, FILE_SIZE // 4) for n in left
    ]


async def test_after_a_failure_nothing_is_given_back(store, lease, monkeypatch):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    with pytest.raises(StoreFailed):
        await commit(store, [(lease, Row(1, b"", [octets(2)], delete=[1]))])

    assert not await store.maintain(1)
    assert octets(1) == await read(store, 1)


# The reader


@pytest.fixture
def looks(monkeypatch) -> dict[str, Callable[[], object]]:
    """What happens when a file is about to be read."""
    hooks: dict[str, Callable[[], object]] = {}
    whole = bodies.read

    def read_after(*arguments: object) -> bytes:
        if hook := hooks.pop("before", None):
            hook()
        return whole(*arguments)

    monkeypatch.setattr("leveret.broker.storage.row_reader.read", read_after)
    return hooks


@pytest.mark.parametrize("how", ["removed", "holes", "replaced"])
@pytest.mark.parametrize("is_checked", [False, True])
async def test_a_row_that_goes_while_its_body_is_read_is_not_there(
    store, lease, looks, monkeypatch, how, is_checked
):
    size = FILE_SIZE if how == "removed" else LEAST
    for seq in (1, 2):
        await commit(store, [(lease, Row(seq, b"", [octets(seq, size)]))])
    if is_checked:
        await read(store, 1, size)
    gone = Row(3, b"", replace=[(1, b"rest")]) if how == "replaced" else Row(3, b"", delete=[1])

    def delete() -> None:
        with closing(database.connect(store.file)) as other:
            database.add(other.execute, gone)
            if gone.replace:
                database.replace(other.execute, gone.replace)
        if how == "removed":
            file_of(store.file, 1).unlink()
        else:
            with file_of(store.file, 1).open("r+b") as file:
                assert bodies._give_back(file.fileno(), 0, rounded(LEAST))

    looks["before"] = delete

    with pytest.raises(StoreError, match="row 1 is not there") as caught:
        await read(store, 1, size)

    assert type(caught.value) is StoreError
    assert octets(2, size) == await read(store, 2, size)


async def test_of_a_row_that_was_checked_only_few_pieces_are_read(store, lease, monkeypatch):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    seen, whole = [], os.pread

    def spy(descriptor: int, length: int, at: int) -> bytes:
        seen.append((length, at))
        return whole(descriptor, length, at)

    monkeypatch.setattr(bodies.os, "pread", spy)
    first = await store.read(lease, [Ref(1, 100, 50)])
    second = await store.read(lease, [Ref(1, 200, 60)])
    both = await store.read(lease, [Ref(1, 100, 50), Ref(1, 200, 60)])
    many = await store.read(lease, [Ref(1, at, 1) for at in range(row_reader.FEW_PIECES + 1)])

    assert [(LEAST, 0), (60, 200), (50, 100), (60, 200), (LEAST, 0)] == seen
    assert [octets(1)[100:150], octets(1)[200:260]] == [*first, *second] == both
    assert octets(1)[: row_reader.FEW_PIECES + 1] == b"".join(many)


@pytest.mark.parametrize("is_checked", [False, True])
async def test_what_a_row_has_not_is_not_said_to_be_damaged(store, lease, is_checked):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    if is_checked:
        await read(store, 1)

    with pytest.raises(StoreError, match="row 1 is shorter than it should be") as caught:
        await store.read(lease, [Ref(1, LEAST - 10, 20)])

    assert type(caught.value) is StoreError


async def test_a_changed_octet_is_seen_when_a_body_is_first_read(store, lease):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    with file_of(store.file, 1).open("r+b") as file:
        file.seek(LEAST - 1)
        file.write(bytes([octets(1)[-1] ^ 1]))

    with pytest.raises(Damaged, match="row 1: the checksum of its body does not match"):
        await store.read(lease, [Ref(1, 0, 10)])


async def test_a_body_is_read_also_when_clients_have_taken_all_descriptors(store, lease):
    await commit(store, [(lease, Row(seq, b"", [octets(seq)])) for seq in (1, 2)])
    with no_descriptors():
        found = [await read(store, seq) for seq in (1, 2, 1)]

    assert [octets(seq) for seq in (1, 2, 1)] == found


async def test_a_body_is_read_also_when_clients_take_a_descriptor_that_was_kept_for_it(
    store, lease, monkeypatch
):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    close, faster = os.close, []

    def close_and_lose(descriptor: int) -> None:
        close(descriptor)
        if not faster:
            faster.append(os.open(os.devnull, os.O_RDONLY))

    with no_descriptors():
        monkeypatch.setattr(row_reader.os, "close", close_and_lose)
        found = await read(store, 1)
        monkeypatch.undo()
    close(*faster)

    assert octets(1) == found


async def test_a_body_that_no_descriptor_is_left_for_is_not_said_to_be_damaged(
    store, lease, monkeypatch
):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    with monkeypatch.context() as once:
        once.setattr(Path, "open", lambda *_, **__: raising(errno.EMFILE)())
        with pytest.raises(StoreError, match="row 1: Too many open files") as caught:
            await read(store, 1)

    assert type(caught.value) is StoreError
    assert octets(1) == await read(store, 1)


@pytest.mark.parametrize("is_checked", [False, True])
@pytest.mark.parametrize("how", ["missing", "cut"])
async def test_a_file_that_is_gone_is_damage_and_named(store, lease, how, is_checked):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    if is_checked:
        await read(store, 1)
    file = file_of(store.file, 1)
    if how == "cut":
        os.truncate(file, LEAST - 1)
    else:
        file.unlink()

    with pytest.raises(Damaged) as caught:
        await store.read(lease, [Ref(1, LEAST - 10, 10)])

    reason = "it was cut" if how == "cut" else "No such file or directory"
    assert f"{file}: the body of row 1 cannot be read: {reason}" == str(caught.value)


# Copies


def content(file: Path) -> dict[int, bytes]:
    with closing(sqlite3.connect(file)) as copy:
        assert [("ok",)] == copy.execute("PRAGMA integrity_check").fetchall()
        return dict(copy.execute("SELECT seq, body FROM batch"))


async def test_a_copy_has_all_bodies_in_it_though_rows_go_meanwhile(store, lease, tmp_path):
    rows = [Row(seq, b"", [octets(seq)]) for seq in range(1, 30)]
    await commit(store, [(lease, row) for row in rows])
    steps, seen = [], []

    def go_on() -> bool:
        """Delete a row, in the thread that copies, until all are gone; then maintain."""
        steps.append(len(steps))
        seq = len(steps)
        if seq < 30:
            store._commit([(lease, Row(100 + seq, b"", [octets(100 + seq)], delete=[seq]))])
            store._tidy()
            assert not store._bodies.give_back()
        seen.append(set(files_of(store.file)))
        return True

    await store.backup(tmp_path / "copy", go_on)
    during = seen[-1]
    await drained(store)

    assert len(steps) >= 29
    assert {*range(1, max(during) + 1)} == during
    assert files_of(store.file).keys() < during
    found = content(tmp_path / "copy")
    assert found
    assert {seq: octets(seq) for seq in found} == found
    (tmp_path / "other").mkdir()
    (tmp_path / "copy").rename(tmp_path / "other" / "leveret.db")
    copy = SQLiteStore(tmp_path / "other")
    await copy.open()
    assert [octets(seq) for seq in found] == [await read(copy, seq) for seq in found]
    assert {} == files_of(copy.file)
    await copy.close()


async def test_after_a_copy_that_failed_all_goes_that_should_have(store, lease, tmp_path):
    await commit(store, [(lease, Row(1, b"", [octets(1, FILE_SIZE)]))])
    await commit(store, [(lease, Row(2, b"", [octets(2)]))])

    def is_wanted() -> bool:
        store._commit([(lease, Row(3, b"", delete=[1]))])
        return False

    with pytest.raises(StoreError, match="is not wanted any more"):
        await store.backup(tmp_path / "copy", is_wanted)
    await drained(store)

    assert {2} == files_of(store.file).keys()
    assert ["data"] == [file.name for file in tmp_path.iterdir()]


@pytest.mark.parametrize("how", ["missing", "cut"])
async def test_no_copy_is_made_without_a_body_and_it_is_said_which(store, lease, tmp_path, how):
    await commit(store, [(lease, Row(1, b"", [octets(1)]))])
    file = file_of(store.file, 1)
    if how == "cut":
        os.truncate(file, LEAST - 1)
    else:
        file.unlink()

    with pytest.raises(Damaged) as caught:
        await store.backup(tmp_path / "copy")

    reason = "it was cut" if how == "cut" else "No such file or directory"
    assert f"{file}: the body of row 1 cannot be read: {reason}" == str(caught.value)
    assert ["data"] == [each.name for each in tmp_path.iterdir()]


# Formats


async def test_a_store_of_the_format_without_files_is_brought_up_to_date(store, lease):
    await commit(store, [(lease, Row(1, b"index", [b"body"]))])
    await store.close()
    with closing(sqlite3.connect(store.file)) as old:
        old.execute("PRAGMA user_version = 1")

    await store.open()
    lease = await store.acquire(0, "hare", 10)
    await commit(store, [(lease, Row(2, b"", [octets(2)]))])

    text = f"its format was 1 and is 2 now; as it was before: {store.file}.format-1"
    assert [f"{store.file}: {text}"] == store.notes
    assert {1: b"body", 2: f"{LEAST} 1 0"} == await stored(store)
    await store.close()
    with closing(sqlite3.connect(store.file)) as new:
        assert 2 == database.number(new, "PRAGMA user_version")
    with closing(sqlite3.connect(store.folder / "leveret.db.format-1")) as old:
        assert 1 == database.number(old, "PRAGMA user_version")
        assert [(1, b"index", b"body")] == old.execute(
            "SELECT seq, idx, body FROM batch"
        ).fetchall()


# Rows that share a place, as only damage makes them


@pytest.fixture
async def sharing(store, lease) -> SQLiteStore:
    """A store, of which two rows say the same place, and a third one a part of it."""
    rows = [Row(seq, b"", [octets(1, 5 * BLOCK)]) for seq in (1, 2)]
    await commit(store, [(lease, row) for row in (*rows, Row(3, b"", [octets(3)]))])
    await store.close()
    with closing(database.connect(store.file)) as other:
        other.execute("UPDATE batch SET body = (SELECT body FROM batch WHERE seq = 1)")
        place = f"{LEAST} 1 {BLOCK}"
        other.execute("UPDATE batch SET body = ? WHERE seq = 3", (place,))
    await store.open()
    return store


async def test_a_place_is_given_back_when_none_of_its_rows_is_left(sharing):
    lease = await sharing.acquire(0, "hare", 10)
    await drained(sharing)
    first = await read(sharing, 1, 5 * BLOCK)
    await commit(sharing, [(lease, Row(10, b"", delete=[1]))])
    await drained(sharing)
    second = await read(sharing, 2, 5 * BLOCK)
    await commit(sharing, [(lease, Row(11, b"", delete=[2]))])
    await drained(sharing)
    part = bodies.read(sharing.file, Place(LEAST, 1, BLOCK))
    await commit(sharing, [(lease, Row(12, b"", delete=[3]))])
    await drained(sharing)

    whole = octets(1, 5 * BLOCK)
    assert [whole, whole, whole[BLOCK : BLOCK + LEAST]] == [first, second, part]
    assert {} == files_of(sharing.file)

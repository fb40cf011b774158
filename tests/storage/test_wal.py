"""The log of SQLite is longer than what is in it, which nobody notices."""

import os
import shutil
from types import SimpleNamespace

import pytest
import trio

from leveret.broker.storage import wal
from leveret.broker.storage.base import Ref, Row
from leveret.broker.storage.sqlite import SQLiteStore
from leveret.broker.storage.wal import LEAST, MOST, SMALLEST, STEP, Wal, log_limit

from ..support.durable import commit

LIMIT = 10 * STEP


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(wal, "MOST", LIMIT)
    made = Wal(tmp_path / "a.db")
    made.file.write_bytes(b"x" * 1000)
    made.open()
    return made


@pytest.mark.parametrize(
    ("size", "grown"),
    [
        (1, 1 + LEAST),
        (LEAST + 5, 2 * (LEAST + 5)),
        (STEP, 2 * STEP),
        (3 * STEP, 4 * STEP),
        (LIMIT - 1, LIMIT),
        (LIMIT, LIMIT),
        (LIMIT + 1, LIMIT + 1),
    ],
)
def test_it_grows_by_as_much_again_and_never_beyond_its_limit(log, size, grown):
    log.file.write_bytes(b"x" * size)

    log.grow()

    assert grown == log.size
    octets = log.file.read_bytes()
    assert b"x" * size + bytes(grown - size) == octets


def test_it_does_not_grow_before_somebody_has_come_to_its_end(log):
    log.grow()
    size = log.size
    log.grow()
    assert size == log.size

    with log.file.open("ab") as file:
        file.write(b"more")
    log.grow()

    assert 2 * (size + 4) == log.size


def test_without_a_file_none_is_made(tmp_path):
    log = Wal(tmp_path / "a.db")
    log.open()
    log.grow()

    assert 0 == log.size
    assert [] == list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_is_left_to_the_commits(log, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", refuse)
    log.grow()
    monkeypatch.undo()
    log.grow()

    assert 1000 == log.size


@pytest.mark.parametrize(
    ("size", "limit"),
    [(1 << 40, MOST), (1 << 30, MOST), (512 << 20, 32 << 20), (128 << 20, 8 << 20), (1, SMALLEST)],
)
def test_on_a_small_file_system_it_takes_a_small_part(tmp_path, monkeypatch, size, limit):
    found = os.statvfs(tmp_path)
    blocks = SimpleNamespace(f_blocks=-(-size // found.f_frsize), f_frsize=found.f_frsize)
    monkeypatch.setattr(os, "statvfs", lambda _: blocks)

    assert limit == log_limit(tmp_path)


async def test_what_is_behind_the_last_commit_is_not_taken_for_one(store, tmp_path):
    lease = await store.acquire(0, "node", float("inf"))
    for seq in range(1, 4):
        await commit(store, [(lease, Row(seq, b"index", [b"body %d" % seq]))])
    await store._writer.run(lambda: None)
    used = len(store.log.file.read_bytes().rstrip(b"\0"))
    assert store.log.size - used > LEAST // 2

    shutil.copytree(store.folder, tmp_path / "killed")
    killed = SQLiteStore(tmp_path / "killed")
    await killed.open()
    try:
        lease = await killed.acquire(0, "node", float("inf"))
        found = await killed.read(lease, [Ref(seq, 0, 6) for seq in range(1, 4)])
        assert [b"body 1", b"body 2", b"body 3"] == found
    finally:
        await killed.close()


async def test_it_keeps_its_length_while_nothing_happens(store):
    lease = await store.acquire(0, "node", float("inf"))
    await commit(store, [(lease, Row(1, b"index", [b"body"]))])
    await store._writer.run(lambda: None)
    size = store.log.size
    while await store.maintain(0):
        await trio.lowlevel.checkpoint()

    await commit(store, [(lease, Row(2, b"index", [b"body"]))])

    assert size == store.log.size > 0

"""A store is looked at also where nothing can be written: a snapshot, a copy, another's folder."""

import os
import shutil
from contextlib import closing

import pytest
import trio

from leveret.broker.storage import tools
from leveret.broker.storage.base import StoreError
from leveret.broker.storage.database import connect
from leveret.broker.storage.lock import take_lock
from leveret.broker.storage.repair import repair
from leveret.broker.storage.sqlite import SQLiteStore

from ..support.privileges import none_to_override
from .test_wal_check import COMMITS, FRAME, HEAD, PARTS, change, files, frames, killed, rows

__all__ = ["killed"]  # a fixture


@pytest.fixture(params=["with shared memory", "as a copy has it", "stopped"])
def store(request, killed, tmp_path):
    """A store after a crash, with and without what SQLite had left in its shared memory."""
    store = SQLiteStore(shutil.copytree(killed, tmp_path / "data"))
    if request.param == "with shared memory":  # of another log: it is not to be believed
        memory = bytes(1 << 15)
        store.file.with_name("leveret.db-shm").write_bytes(memory)
    else:
        store.file.with_name("leveret.db-shm").unlink()
    if request.param == "stopped":
        trio.run(rows, store)
        assert not store.log.file.exists()
    return store


@pytest.fixture
def read_only(store):
    """The same, as it is where nothing can be written."""
    for one in store.folder.iterdir():
        one.chmod(0o400)
    store.folder.chmod(0o500)
    with none_to_override():
        yield store
    store.folder.chmod(0o700)


def test_it_is_looked_at_and_copied(read_only, tmp_path):
    before = files(read_only.folder)
    names = {one.name for one in read_only.folder.iterdir()}

    told, answer = tools.info(read_only.folder), tools.check(read_only.folder)
    tools.backup(read_only.folder, tmp_path / "copy")

    assert answer.is_good
    assert COMMITS == told.facts["rows"] == answer.facts["rows"]
    with closing(connect(tmp_path / "copy")) as copied:
        assert [(COMMITS,)] == copied.execute("SELECT count(*) FROM batch").fetchall()
    assert before == files(read_only.folder)
    assert names == {one.name for one in read_only.folder.iterdir()}


def test_it_cannot_be_repaired(read_only):
    with pytest.raises(StoreError, match=r"the data directory .* cannot be used: Permission"):
        repair(read_only.folder)


def test_a_copy_of_the_database_alone_is_looked_at(store):
    with closing(connect(store.file)) as connection:
        connection.execute("SELECT 1 FROM batch").fetchall()
    (store.folder / "lock").unlink()
    store.folder.chmod(0o500)

    with none_to_override():
        assert COMMITS == tools.check(store.folder).facts["rows"]

    assert [store.file] == list(store.folder.iterdir())


def test_a_broker_has_it_all_the_same(read_only):
    """It may be the mount that cannot be written."""
    read_only.folder.chmod(0o700)
    (read_only.folder / "lock").chmod(0o600)
    with os.fdopen(take_lock(read_only.folder)):
        read_only.folder.chmod(0o500)

        with pytest.raises(tools.InUse, match="is in use by a broker"):
            tools.check(read_only.folder)


@pytest.mark.parametrize("part", PARTS)
def test_damage_of_the_log_is_told(killed, tmp_path, part):
    store = SQLiteStore(shutil.copytree(killed, tmp_path / "data"))
    assert len(frames(store)) > COMMITS
    change(store.log.file, HEAD + 3 * FRAME + PARTS[part])
    expected = tools.check(store.folder)
    store.folder.chmod(0o500)

    with none_to_override():
        answer = tools.check(store.folder)

    assert not answer.is_good
    assert expected == answer

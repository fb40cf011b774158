"""What is SQLite's own: the folder, the file, the calls, the threads."""

import os
import resource
import shutil
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from leveret.broker.storage import database, row_reader, sqlite, tools
from leveret.broker.storage.base import Damaged, Definition, Ref, Row, StoreError, StoreFailed
from leveret.broker.storage.sqlite import SQLiteStore

from ..support.durable import commit
from ..support.limits import no_descriptors
from ..support.privileges import none_to_override


@pytest.fixture
async def lease(store):
    return await store.acquire(0, "hare", 10)


@pytest.fixture
def statements(monkeypatch):
    """Every call of SQLite by connections made from here on: its thread, and its statement."""
    seen = []

    class Connection(sqlite3.Connection):
        def execute(self, statement, *arguments):
            seen.append((threading.get_ident(), statement))
            return super().execute(statement, *arguments)

        def executescript(self, script):
            seen.append((threading.get_ident(), script))
            return super().executescript(script)

        def blobopen(self, *arguments, **options):
            seen.append((threading.get_ident(), "blobopen"))
            return super().blobopen(*arguments, **options)

    def connect(file):
        seen.append((threading.get_ident(), "connect"))
        return sqlite3.connect(file, isolation_level=None, factory=Connection)

    monkeypatch.setattr(database, "connect", connect)
    monkeypatch.setattr(row_reader, "connect", connect)
    return seen


async def opened(folder):
    store = SQLiteStore(folder)
    await store.open()
    return store, await store.acquire(0, "hare", 10)


async def indexes(store, lease):
    return [row async for rows in store.recover(lease) for row in rows]


# The folder and the file


async def test_the_folder_is_made_for_its_owner_alone(tmp_path):
    store, _ = await opened(tmp_path / "deep" / "down")

    assert 0o700 == store.folder.stat().st_mode & 0o777
    await store.close()


async def test_the_files_are_for_their_owner_alone_wherever_they_are(tmp_path):
    tmp_path.chmod(0o755)
    store, lease = await opened(tmp_path)
    await commit(store, [(lease, Row(1, b""))])
    await store.backup(tmp_path / "copy")

    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    await store.close()

    names = ["copy", "leveret.db", "leveret.db-shm", "leveret.db-wal", "lock"]
    assert dict.fromkeys(names, 0o600) == modes


async def test_a_second_process_is_refused_while_the_first_one_lives(store):
    program = (
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from leveret.broker.storage.sqlite import SQLiteStore\n"
        "trio.run(SQLiteStore(Path(sys.argv[1])).open)\n"
    )
    arguments = [sys.executable, "-c", program, str(store.folder)]

    refused = await trio.run_process(arguments, capture_stderr=True, check=False)
    await store.close()
    accepted = await trio.run_process(arguments, capture_stderr=True, check=False)

    text = f"the data directory {store.folder} is in use by another broker"
    assert text in refused.stderr.decode()
    assert b"" == accepted.stderr


async def test_a_store_that_was_refused_can_be_opened_later(store):
    other = SQLiteStore(store.folder)
    with pytest.raises(StoreError, match="in use by another broker"):
        await other.open()

    await store.close()

    await other.open()
    await other.close()


async def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match=r"the data directory .*/file cannot be used: Not a"):
        await SQLiteStore(tmp_path / "file").open()
    with pytest.raises(StoreError, match=r"the data directory .*/file/data cannot be used: Not a"):
        await SQLiteStore(tmp_path / "file" / "data").open()


async def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)

    with none_to_override(), pytest.raises(StoreError, match="cannot be used: Permission denied"):
        await SQLiteStore(tmp_path).open()


async def test_a_file_system_without_room_for_a_folder_is_refused():
    with pytest.raises(StoreError, match="the data directory /proc/leveret cannot be used: "):
        await SQLiteStore(Path("/proc/leveret")).open()


async def test_a_file_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "leveret.db").mkdir()

    with pytest.raises(StoreError, match=r"leveret\.db cannot be used: Is a directory"):
        await SQLiteStore(tmp_path).open()


async def test_what_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "leveret.db").write_bytes(b"a letter to the hare\n" * 1000)

    with pytest.raises(StoreError, match=r"leveret\.db cannot be used: file is not a database"):
        await SQLiteStore(tmp_path).open()

    assert b"a letter to the hare\n" * 1000 == (tmp_path / "leveret.db").read_bytes()


async def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path):
    with closing(sqlite3.connect(tmp_path / "leveret.db")) as other:
        other.execute("CREATE TABLE bookmarks(address)")
    before = (tmp_path / "leveret.db").read_bytes()

    with pytest.raises(StoreError, match=r"leveret\.db is a database of something else"):
        await SQLiteStore(tmp_path).open()

    assert before == (tmp_path / "leveret.db").read_bytes()


async def test_an_empty_file_becomes_a_store(tmp_path):
    (tmp_path / "leveret.db").touch()

    store, lease = await opened(tmp_path)

    await commit(store, [(lease, Row(1, b""))])
    await store.close()


@pytest.mark.parametrize("missing", [1, 100, database.PAGE, 900_000])
async def test_a_truncated_file_is_refused(store, lease, missing):
    await commit(store, [(lease, Row(seq, b"", [bytes(100_000)])) for seq in range(10)])
    await store.close()
    size = store.file.stat().st_size
    os.truncate(store.file, size - missing)

    with pytest.raises(Damaged, match=f"was cut: of {size:,} octets it has {size - missing:,}"):
        await store.open()

    assert f"of {size:,} octets it has" in tools.check(store.folder).lines[0]


async def test_a_file_that_gets_its_end_from_the_log_is_no_shorter_than_it_should_be(
    store, lease, tmp_path
):
    await commit(store, [(lease, Row(1, b"", [bytes(1_000_000)]))])
    await store._writer.run(lambda: database.number(store._connection, "PRAGMA wal_checkpoint"))
    killed = sqlite.SQLiteStore(shutil.copytree(store.folder, tmp_path / "killed"))
    os.truncate(killed.file, 500_000)  # it was not synchronised, and so the log is still there

    await killed.open()

    assert [bytes(10)] == await killed.read(lease, [Ref(1, 999_990, 10)])
    await killed.close()


async def test_the_settings_are_those_that_the_promises_need(store):
    with closing(sqlite3.connect(store.file)) as other:
        found = [
            other.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "auto_vacuum", "journal_mode", "application_id")
        ]
    settings = await store._writer.run(
        lambda: [
            database.number(store._connection, f"PRAGMA {name}")
            for name in ("synchronous", "secure_delete", "wal_autocheckpoint", "journal_size_limit")
        ]
    )

    assert [16384, 2, "wal", 0x4C657665] == found
    assert [2, 0, 4096, 64 << 20] == settings


# Damaged bodies


async def test_a_row_that_has_lost_its_body_has_that_checksum(store, lease):
    await commit(store, [(lease, Row(1, b"index", [b"body"]))])
    await commit(store, [(lease, Row(2, b"last", replace=[(1, b"rest")]))])

    with closing(sqlite3.connect(store.file)) as other:
        assert [(b"rest", 0, b"")] == other.execute(
            "SELECT idx, sum, body FROM batch WHERE seq = 1"
        ).fetchall()


# Formats


def set_format(store, number):
    with closing(sqlite3.connect(store.file)) as other:
        other.execute(f"PRAGMA user_version = {number}")


async def test_a_newer_format_is_refused(store):
    await store.close()
    set_format(store, 7)

    with pytest.raises(StoreError) as caught:
        await store.open()

    expected = "was written by a later Leveret: its format is 7, this one knows 2"
    assert f"{store.file} {expected}" == str(caught.value)


async def test_an_older_format_is_brought_up_to_date_after_a_copy_was_made(
    store, lease, monkeypatch
):
    await commit(store, [(lease, Row(1, b"index", [b"body"]))])
    await store.close()
    monkeypatch.setattr(database, "FORMAT", 4)
    steps = {
        2: lambda connection: connection.execute("ALTER TABLE batch ADD COLUMN kind"),
        3: lambda connection: connection.execute("UPDATE batch SET kind = 'old'"),
    }
    monkeypatch.setattr(database, "MIGRATIONS", steps)

    await store.open()
    await store.close()

    with closing(sqlite3.connect(store.file)) as new:
        assert [(1, "old")] == new.execute("SELECT seq, kind FROM batch").fetchall()
        assert 4 == database.number(new, "PRAGMA user_version")
    with closing(sqlite3.connect(store.folder / "leveret.db.format-2")) as old:
        found = old.execute("SELECT seq, idx, body FROM batch").fetchall()
        assert [(1, b"index", b"body")] == found
        assert 2 == database.number(old, "PRAGMA user_version")


async def test_an_attempt_to_migrate_that_was_cut_short_does_not_stop_the_next(store, monkeypatch):
    await store.close()
    copy = store.folder / "leveret.db.format-2"
    copy.write_bytes(b"of the first attempt")
    monkeypatch.setattr(database, "FORMAT", 3)
    monkeypatch.setattr(database, "MIGRATIONS", {2: lambda connection: None})

    await store.open()
    await store.close()

    assert b"of the first attempt" == copy.read_bytes()
    with closing(sqlite3.connect(store.folder / "leveret.db.format-2-2")) as old:
        assert 2 == database.number(old, "PRAGMA user_version")


async def test_what_is_left_of_a_copy_for_a_migration_goes_with_the_next(store, monkeypatch):
    await store.close()
    for end in ("part", "part-journal"):
        (store.folder / f"leveret.db.format-2.a1b2c3d4.{end}").write_bytes(b"of the first attempt")
    monkeypatch.setattr(database, "FORMAT", 3)
    monkeypatch.setattr(database, "MIGRATIONS", {2: lambda connection: None})

    await store.open()

    names = {path.name for path in store.folder.iterdir() if "format" in path.name}
    assert {"leveret.db.format-2"} == names


async def test_a_migration_that_there_is_no_room_for_says_so_and_leaves_nothing(
    store, lease, monkeypatch
):
    await commit(store, [(lease, Row(seq, b"", [bytes(100_000)])) for seq in range(40)])
    await store.close()
    monkeypatch.setattr(database, "FORMAT", 3)
    monkeypatch.setattr(database, "MIGRATIONS", {2: lambda connection: None})

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(StoreError, match=r"a copy has to be made .*format-2: disk I/O error"):
            await store.open()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [] == list(store.folder.glob("*.format-*"))


async def test_a_database_that_is_damaged_is_said_to_be_when_it_should_be_migrated(
    store, lease, monkeypatch
):
    """A start says then what to try."""
    await commit(store, [(lease, Row(seq, b"", [bytes(3000)])) for seq in range(40)])
    await store.close()
    with store.file.open("r+b") as file:
        file.seek(-database.PAGE, os.SEEK_END)  # rows
        file.write(bytes(database.PAGE))
    monkeypatch.setattr(database, "FORMAT", 3)
    monkeypatch.setattr(database, "MIGRATIONS", {2: lambda connection: None})

    with pytest.raises(Damaged, match=r"has format 2: .*malformed"):
        await store.open()

    assert [] == list(store.folder.glob("*.format-*"))


async def test_a_migration_that_fails_changes_nothing(store, monkeypatch):
    await store.close()
    monkeypatch.setattr(database, "FORMAT", 3)

    def fail(connection):
        connection.execute("DROP TABLE batch")
        connection.execute("not SQL")

    monkeypatch.setattr(database, "MIGRATIONS", {2: fail})
    with pytest.raises(StoreError, match="syntax error"):
        await store.open()

    monkeypatch.undo()
    await store.open()
    assert [] == await store.load_definitions()


async def test_a_format_that_nobody_knows_is_refused(store):
    await store.close()
    set_format(store, 0)

    with pytest.raises(StoreError, match="has format 0, which is not known"):
        await store.open()


# Calls and threads


async def test_a_common_commit_is_one_call(statements, store, lease):
    await commit(store, [(lease, Row(1, b"", [b"body"]))])
    del statements[:]

    await commit(store, [(lease, Row(2, b"index", [b"body"], delete=[1, *range(100, 5000)]))])

    assert [database.ADD] == [statement for _, statement in statements]


async def test_the_number_of_calls_does_not_grow_with_what_is_in_a_commit(statements, store, lease):
    await commit(store, [(lease, Row(seq, b"", [b"body"])) for seq in range(500)])
    await commit(store, [(lease, Row(500, b"", definitions=many(Definition, 500)))])
    del statements[:]

    row = Row(501, b"", delete=range(200))
    row.replace = [(seq, b"rest %d" % seq) for seq in range(200, 500)]
    row.definitions = [*many(Definition, 250, None), *many(Definition, 900)]
    await commit(store, [(lease, row)])

    assert 6 == len(statements)
    assert 302 == len(await indexes(store, lease))
    assert 900 == len(await store.load_definitions())


def many(make, count, value=b"value"):
    return [make("queue", b"%d" % number, value) for number in range(count)]


async def test_rows_are_replaced_without_looking_at_all_of_them(store):
    def plan():
        query = f"EXPLAIN QUERY PLAN {database.REPLACE}"
        return [row[3] for row in store._connection.execute(query, (b"", "[]"))]

    steps = await store._writer.run(plan)

    assert any("SEARCH batch USING INTEGER PRIMARY KEY" in step for step in steps)
    assert not any("SCAN batch" in step for step in steps)


async def test_nothing_is_called_in_the_thread_of_the_event_loop(statements, tmp_path):
    store, lease = await opened(tmp_path)
    await commit(store, [(lease, Row(1, b"", [b"body"], definitions=many(Definition, 1)))])
    await store.read(lease, [Ref(1, 0, 4)])
    await store.committed(lease, 1)
    await indexes(store, lease)
    await store.load_definitions()
    await store.maintain(0)
    await store.backup(tmp_path / "copy")
    await store.release(lease)
    await store.close()

    threads = {thread for thread, _ in statements}
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_the_threads_end_with_the_store(tmp_path):
    before = threading.active_count()
    store, _ = await opened(tmp_path)
    assert before + 2 == threading.active_count()

    await store.close()

    assert before == threading.active_count()


# Faults


async def test_an_error_of_the_database_ends_the_store(store, lease):
    await commit(store, [(lease, Row(1, b""))])
    await store._writer.run(lambda: store._connection.execute("PRAGMA query_only = ON") and None)

    with pytest.raises(StoreFailed, match=r"leveret\.db: attempt to write a readonly database"):
        await commit(store, [(lease, Row(2, b""))])
    await store._writer.run(lambda: store._connection.execute("PRAGMA query_only = OFF") and None)

    with pytest.raises(StoreFailed):  # it could now, and must not
        await commit(store, [(lease, Row(3, b""))])
    with pytest.raises(StoreFailed):
        await store.acquire(0, "hare", 10)
    assert not await store.maintain(1)
    assert [(1, b"")] == await indexes(store, lease)


async def test_a_damaged_page_is_named_by_its_row(store, lease):
    await commit(store, [(lease, Row(seq, bytes(12_000))) for seq in range(1, 41)])
    await store.close()
    content = bytearray(store.file.read_bytes())
    pages = [at for at in range(0, len(content), database.PAGE) if content[at] == 13]
    content[pages[20] : pages[20] + 100] = b"\xff" * 100
    store.file.write_bytes(content)

    await store.open()

    with pytest.raises(StoreError, match=r"row (after )?\d+ cannot be read: .*malformed"):
        await indexes(store, lease)


# Space


async def test_free_pages_are_reused(store, lease):
    for seq in range(50):
        await commit(store, [(lease, Row(seq, b"", [bytes(100_000)], delete=[seq - 1]))])

    await store.close()
    assert store.file.stat().st_size < 1_000_000


async def test_maintenance_makes_the_file_small_in_steps(store, lease, monkeypatch):
    monkeypatch.setattr(sqlite, "KEPT_PAGES", 10)
    await commit(store, [(lease, Row(seq, b"", [bytes(100_000)])) for seq in range(100)])
    await commit(store, [(lease, Row(100, b"", [b"the last"], delete=range(100)))])
    await store._writer.run(lambda: database.number(store._connection, "PRAGMA wal_checkpoint"))
    assert store.file.stat().st_size > 10_000_000

    steps = 1
    while await store.maintain(0):
        steps += 1

    assert steps >= 20
    assert store.file.stat().st_size < 500_000
    assert [b"the last"] == await store.read(lease, [Ref(100, 0, 8)])


async def test_some_free_pages_are_kept_for_what_comes(store, lease):
    await commit(store, [(lease, Row(seq, b"", [bytes(100_000)])) for seq in range(10)])
    await commit(store, [(lease, Row(10, b"", delete=range(10)))])

    assert not await store.maintain(10)

    assert store.file.stat().st_size > 1_000_000


# Copies


async def test_a_backup_has_everything_and_commits_go_on_meanwhile(
    store, lease, tmp_path, monkeypatch
):
    await commit(store, [(lease, Row(seq, b"", [bytes(100_000)])) for seq in range(1, 101)])
    monkeypatch.setattr(database, "COPY_PAGES", 1)
    finished, are_done = [], threading.Event()

    async def back_up():
        # The thread that copies is held up a little, page by page, until the commits are done.
        await store.backup(tmp_path / "copy.db", lambda: are_done.wait(0.01) or True)
        finished.append("backup")

    async with trio.open_nursery() as tasks:
        tasks.start_soon(back_up)
        for seq in range(200, 220):
            await commit(store, [(lease, Row(seq, b"meanwhile"))])
        finished.append("commits")
        are_done.set()

    assert ["commits", "backup"] == finished
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert [("ok",)] == copy.execute("PRAGMA integrity_check").fetchall()
        assert 120 == database.number(copy, "SELECT count(*) FROM batch")
    assert ["copy.db", "data"] == sorted(file.name for file in tmp_path.iterdir())


async def test_a_backup_that_cannot_be_made_leaves_nothing_and_does_no_harm(store, lease, tmp_path):
    with pytest.raises(StoreError, match=r"nowhere/copy\.db cannot be written"):
        await store.backup(tmp_path / "nowhere" / "copy.db")

    await commit(store, [(lease, Row(1, b""))])


async def test_a_store_is_closed_after_its_backup_is_made(store, lease, tmp_path):
    await commit(store, [(lease, Row(seq, b"", [bytes(100_000)])) for seq in range(1, 101)])

    async with trio.open_nursery() as tasks:
        tasks.start_soon(store.backup, tmp_path / "copy.db")
        await trio.testing.wait_all_tasks_blocked()
        await store.close()

    assert (tmp_path / "copy.db").stat().st_size > 10_000_000


@pytest.fixture
def source(store):
    """Return a connection to a database that is to be copied."""
    with closing(database.connect(store.file)) as connection:
        yield connection


async def test_a_file_of_somebody_else_is_left_alone_whatever_it_is_called(source, tmp_path):
    other = tmp_path / "copy.part"
    other.write_text("precious")

    database.copy(source, tmp_path / "copy")

    assert "precious" == other.read_text()
    assert ["copy", "copy.part", "data"] == sorted(file.name for file in tmp_path.iterdir())
    assert 0o600 == (tmp_path / "copy").stat().st_mode & 0o777


def no_links(source, target):
    raise OSError(1, "Operation not permitted")


@pytest.mark.parametrize("has_links", [True, False])
async def test_a_copy_does_not_replace_what_came_while_it_was_made(
    source, tmp_path, monkeypatch, has_links
):
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)

    def came(*_):
        (tmp_path / "copy").write_text("precious")

    with pytest.raises(StoreError, match="copy is there already"):
        database.copy(source, tmp_path / "copy", came)

    assert "precious" == (tmp_path / "copy").read_text()
    assert ["copy", "data"] == sorted(file.name for file in tmp_path.iterdir())


async def test_a_copy_is_made_also_where_a_file_has_one_name_only(source, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)

    database.copy(source, tmp_path / "copy")

    with closing(sqlite3.connect(tmp_path / "copy")) as copy:
        assert [("ok",)] == copy.execute("PRAGMA integrity_check").fetchall()
    assert ["copy", "data"] == sorted(file.name for file in tmp_path.iterdir())


async def test_rows_are_deleted_also_when_clients_have_taken_all_descriptors(store, lease):
    """SQLite keeps pages aside for that, and would like to have them in a file."""
    await commit(store, [(lease, Row(seq, b"", [bytes(20_000)])) for seq in range(1, 101)])

    with no_descriptors():
        await commit(store, [(lease, Row(101, b"", delete=list(range(1, 101))))])

    assert [[(101, b"")]] == [rows async for rows in store.recover(lease)]

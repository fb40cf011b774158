"""A process that commits what a seed says, and what must be found after its end.

It marks in its folder what has returned. As a program it is the process; `record` runs it and notes
all that it does to its files; `crash` looks at what may be left of them, and at what that says of
messages where a journal made the rows (noted.py).

Called by: test_crash_points, test_faults.
"""

import os
import pickle
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import trio

from leveret.broker.storage import bodies, database, sqlite, wal
from leveret.broker.storage.base import Definition, Ref, Row, StoreError

from ..support import disk
from ..support.durable import commit
from .noted import known_in

COMMITS = 150
SIZES = (0, 40, 3_000, 20_000, 60_000, 90_000)


def commits(seed):
    """Return the rows of each commit: they add, delete, replace, define."""
    dice = Random(seed)
    live, seq, planned = [], 0, []
    for _ in range(COMMITS):
        rows = []
        for _ in range(dice.choice([1, 1, 1, 2, 4])):
            seq += dice.choice([1, 1, 7])
            row = Row(seq, dice.randbytes(dice.choice([9, 400, 9_000])))
            row.pieces = [dice.randbytes(dice.choice(SIZES))]
            if len(live) > 20 or dice.random() < 0.5:
                row.delete = dice.sample(live, len(live) // 3)
                live = [one for one in live if one not in row.delete]
            if live and dice.random() < 0.2:
                replaced = dice.sample(live, dice.randrange(1, len(live) + 1))
                row.replace = [(one, dice.randbytes(20)) for one in replaced]
            if dice.random() < 0.2:
                keys = [b"%d" % dice.randrange(10) for _ in range(5)]
                row.definitions = [
                    Definition("queue", key, dice.choice([None, dice.randbytes(50)]))
                    for key in keys
                ]
            live.append(seq)
            rows.append(row)
        planned.append(rows)
    return planned


def states(planned):
    """Return what is there before the first commit and after each: rows, and definitions."""
    rows, definitions = {}, {}
    found = [({}, [])]
    for some in planned:
        for row in some:
            rows[row.seq] = row.index, row.body
            for seq in row.delete:
                del rows[seq]
            for seq, index in row.replace:
                rows[seq] = index, b""
            for kind, key, value in row.definitions:
                if value is None:
                    definitions.pop((kind, key), None)
                else:
                    definitions[kind, key] = value
        found.append((dict(rows), [(*name, value) for name, value in definitions.items()]))
    return found


async def write(folder, planned):
    marks = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = sqlite.SQLiteStore(folder)
    await store.open()
    lease = await store.acquire(0, "hare", 10)
    os.write(marks, b"E%d\n" % lease.epoch)
    for number, rows in enumerate(planned, 1):
        await commit(store, [(lease, row) for row in rows])
        os.write(marks, b"C%d\n" % number)
        if number % 20 == 0:
            await store.maintain(0.002)
        if number % 50 == 0:
            await store.close()
            await store.open()
            lease = await store.acquire(0, "hare", 10)
            os.write(marks, b"E%d\n" % lease.epoch)
    await store.close()


def record(library, folder, seed, fault="", synchronous="FULL", planned=None):
    """Let the writer write; return its exit status and what it did.

    Args:
      planned: The rows of each commit, if they are others than the seed says.
    """
    data, plan = (folder / "data").resolve(), (folder / "plan").resolve()
    data.mkdir()
    plan.write_bytes(pickle.dumps(planned or commits(seed)))
    writer = [sys.executable, "-m", "tests.storage.crash", data, plan, synchronous]
    status = disk.run(library, data, folder / "record", writer, fault)
    operations = disk.read_record(folder / "record")
    (folder / "record").unlink()
    shutil.rmtree(data)
    return status, operations


def marks_of(operations):
    """Return the last commit that had returned, and the last epoch that was given."""
    found = {"C": 0, "E": 0}
    for operation in operations:
        if operation.name == "marks" and operation.kind == disk.WRITE:
            mark = operation.data.decode()
            found[mark[0]] = int(mark[1:])
    return found["C"], found["E"]


async def look(folder):
    """Open a store that has crashed; return rows, definitions, epoch and what is corrupt."""
    store = sqlite.SQLiteStore(folder)
    await store.open()
    lease = await store.acquire(0, "tortoise", 10)
    definitions = await store.load_definitions()
    indexes = {seq: index async for rows in store.recover(lease) for seq, index in rows}
    while await store.maintain(1):
        pass  # what is dead is given back, and nothing else
    sizes = await store.body_sizes(lease, min(indexes, default=0), max(indexes, default=0))
    refs = [Ref(seq, 0, size) for seq, size in zip(indexes, sizes, strict=True)]
    found = await store.read(lease, refs)  # compared with their checksums
    rows = dict(zip(indexes, zip(indexes.values(), found, strict=True), strict=True))
    await store.close()
    with closing(sqlite3.connect(store.file)) as connection:
        corrupt = connection.execute("PRAGMA integrity_check").fetchall()
        places = bodies.places_in(connection, store.file)
    assert {place.file for _, place in places} == bodies.files_of(store.file).keys()
    return (rows, list(definitions)), lease.epoch, corrupt


async def crash(operations, folder, seed, points, first=0, planned=None, known=()):
    """Crash at some points; return what was wrong after each: nothing, if all is well.

    Args:
      known: What rows say of messages before the first commit and after each, if anything.
    """
    right = states(planned or commits(seed))
    problems = []
    for number, (done, files) in enumerate(disk.crashes(operations, points, Random(seed), first)):
        data = folder / f"crash-{number}"
        data.mkdir()
        for name, octets in files.items():
            if name != "marks" and not name.endswith("-shm"):
                (data / name).write_bytes(octets)
        returned, epoch = marks_of(operations[:done])
        try:
            state, next_epoch, corrupt = await look(data)
        except StoreError as problem:
            problems.append(f"crash {number}: {returned} had returned, refused: {problem}")
            continue
        if corrupt != [("ok",)]:
            problems.append(f"crash {number}: {corrupt}")
        if state not in right[returned : returned + 2]:
            others = [n for n, one in enumerate(right) if one == state]
            problems.append(f"crash {number}: {returned} had returned, found {others or 'a mix'}")
        elif known:
            facts = known_in({seq: index for seq, (index, _) in state[0].items()})
            if facts != known[right.index(state, returned)]:
                problems.append(f"crash {number}: {returned} had returned, other facts")
        if next_epoch <= epoch:
            problems.append(f"crash {number}: epoch {next_epoch} after {epoch}")
        shutil.rmtree(data)
    return problems


if __name__ == "__main__":
    database.SYNCHRONOUS = sys.argv[3]
    wal.MOST = 60 * database.PAGE  # so that it is moved into the file often
    sqlite.KEPT_PAGES = 10
    bodies.LEAST = 50_000
    bodies.FILE_SIZE, bodies.DEAD = 200_000, 100_000  # so that files end, and parts are given back
    try:
        trio.run(write, Path(sys.argv[1]), pickle.loads(Path(sys.argv[2]).read_bytes()))
    except StoreError as problem:
        print(type(problem).__name__, problem, file=sys.stderr)
        sys.exit(3)

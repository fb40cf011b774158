"""Power lost at any moment: what was committed is there as a whole, what was not is not in part.

A process writes; what it did to its files is played back up to some moment, without what was not
synchronised by then, or with pieces of it (support/disk.py). That is a disk after a crash. No real
power was cut.
"""

import pytest

from leveret.broker.storage.bodies import BLOCK

from ..support import disk
from .crash import COMMITS, crash, marks_of, record
from .noted import noted

pytestmark = pytest.mark.skipif(
    bool(disk.reason_against_recording()), reason=disk.reason_against_recording()
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return disk.build(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def operations(library, tmp_path_factory):
    """What the writer does."""
    status, found = record(library, tmp_path_factory.mktemp("recorded"), 1)
    assert 0 == status
    return found


async def test_nothing_is_lost_at_some_points(operations, tmp_path):
    assert [] == await crash(operations, tmp_path, 1, 60)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 8))
async def test_nothing_is_lost_at_many_points(library, tmp_path, seed):
    _, operations = record(library, tmp_path, seed)

    assert [] == await crash(operations, tmp_path, seed, 300)


async def facts_problems(library, folder, seed, points):
    """Return what is wrong after crashes of a writer that writes rows of a journal."""
    noting = noted(seed, COMMITS)
    status, operations = record(library, folder, seed, planned=noting.commits)
    assert 0 == status
    assert any(one.kind == disk.UNLINK and is_of_bodies(one.name) for one in operations)
    planned, known = noting.commits, noting.known
    return await crash(operations, folder, seed, points, planned=planned, known=known)


async def test_facts_are_there_if_and_only_if_their_commit_is(library, tmp_path):
    assert [] == await facts_problems(library, tmp_path, 1, 40)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 6))
async def test_facts_are_there_at_many_points(library, tmp_path, seed):
    assert [] == await facts_problems(library, tmp_path, seed, 300)


async def test_without_synchronisation_these_tests_would_fail(library, tmp_path):
    _, operations = record(library, tmp_path, 1, synchronous="NORMAL")

    problems = await crash(operations, tmp_path, 1, 60)

    assert len(problems) > 10
    assert not any("mix" in problem for problem in problems)  # SQLite's promise, without ours


def test_the_writer_does_everything_that_can_be_torn(operations):
    kinds = {(one.kind, one.name) for one in operations}

    for name in ("leveret.db", "leveret.db-wal"):
        assert {disk.CREATE, disk.WRITE, disk.TRUNCATE, disk.SYNC} <= {
            kind for kind, other in kinds if other == name
        }
    assert {disk.CREATE, disk.WRITE, disk.SYNC, disk.UNLINK, disk.PUNCH} <= {
        kind for kind, name in kinds if is_of_bodies(name)
    }
    assert {(disk.UNLINK, "leveret.db-wal"), (disk.SYNC, "")} <= kinds
    syncs = sum(one.kind == disk.SYNC and one.name == "leveret.db" for one in operations)
    assert syncs > 5  # so often the log was moved into the file
    assert any(one.kind == disk.PUNCH and one.length > BLOCK for one in operations)
    assert (COMMITS, 4) == marks_of(operations)


def test_the_name_of_a_file_of_bodies_is_safe_before_a_commit_returns(operations):
    begun, unsafe = 0, set()
    for one in operations:
        if one.kind == disk.CREATE and is_of_bodies(one.name):
            begun += 1
            unsafe.add(one.name)
        elif one.kind == disk.SYNC and not one.name:
            unsafe.clear()
        elif one.name == "marks":
            assert not unsafe

    assert begun > 10


def is_of_bodies(name):
    return name.startswith("leveret.db-bodies-")

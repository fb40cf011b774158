"""A disk that fails: the store stops at once, and what had been committed is there.

The same writer as for crash points; one of its calls to the system fails, or all from one on.
Afterwards the power is lost, too: what could not be synchronised must not have been believed.
"""

import errno
from random import Random

import pytest

from ..support import disk
from .crash import COMMITS, crash, marks_of, record

pytestmark = pytest.mark.skipif(
    bool(disk.reason_against_recording()), reason=disk.reason_against_recording()
)
ONCE, FOR_EVER = 1, 1_000_000
BODIES = "-bodies-"  # in the names of the files that have them
# About how many calls of a kind the writer does, to any file or to those.
LAST = {
    ("create", ""): 35,
    ("write", ""): 2_700,
    ("truncate", ""): 30,
    ("sync", ""): 360,
    ("unlink", ""): 36,
    ("create", BODIES): 25,
    ("write", BODIES): 90,
    ("sync", BODIES): 70,
    ("unlink", BODIES): 30,
    ("punch", BODIES): 60,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return disk.build(tmp_path_factory.mktemp("library"))


async def fail(library, folder, kind, first, problem, count, part=""):
    """Run the writer with a fault; return whether it failed and how much it had committed.

    Args:
      part: What is in the names of the files that it is about.
    """
    fault = f"{kind}:{first}:{problem}:{count}:{part}"
    status, operations = record(library, folder, 1, fault=fault)
    returned, _ = marks_of(operations)

    assert status in (0, 3)  # a store that has failed says so, in its own words
    if status == 0:
        assert returned == COMMITS
    last = max(len(operations) - 200, 0)
    assert [] == await crash(operations, folder, 1, 20, first=last)
    return status == 3, returned


@pytest.mark.parametrize(
    ("kind", "first", "problem", "count", "part"),
    [
        ("write", 1, errno.ENOSPC, FOR_EVER, ""),
        ("write", 1_000, errno.ENOSPC, FOR_EVER, ""),
        ("write", 1_500, errno.EIO, FOR_EVER, ""),
        ("sync", 30, errno.EIO, FOR_EVER, ""),
        ("sync", 40, errno.EIO, ONCE, ""),
        ("create", 2, errno.ENOSPC, FOR_EVER, ""),
        ("create", 5, errno.EIO, ONCE, BODIES),
        ("write", 20, errno.EIO, ONCE, BODIES),
        ("sync", 20, errno.EIO, ONCE, BODIES),
        ("sync", 20, errno.ENOSPC, ONCE, BODIES),
    ],
)
async def test_a_fault_ends_the_store(library, tmp_path, kind, first, problem, count, part):
    has_failed, returned = await fail(library, tmp_path, kind, first, problem, count, part)

    assert has_failed
    assert returned < COMMITS


@pytest.mark.parametrize(
    ("kind", "first", "problem", "count"),
    [
        ("create", 5, errno.ENOSPC, ONCE),
        ("create", 1, errno.EDQUOT, FOR_EVER),
        ("write", 20, errno.ENOSPC, 3),
        ("punch", 1, errno.EOPNOTSUPP, FOR_EVER),
        ("punch", 10, errno.EIO, FOR_EVER),
    ],
)
async def test_without_room_for_their_files_bodies_go_into_the_rows(
    library, tmp_path, kind, first, problem, count
):
    has_failed, _ = await fail(library, tmp_path, kind, first, problem, count, BODIES)

    assert not has_failed


@pytest.mark.long
@pytest.mark.parametrize("count", [ONCE, FOR_EVER])
@pytest.mark.parametrize("problem", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize(("kind", "part"), LAST)
async def test_no_fault_loses_anything(library, tmp_path, kind, part, problem, count):
    dice = Random(f"{kind} {problem} {count}")
    has_failed = []
    for number in range(4 if part else 8):
        (tmp_path / str(number)).mkdir()
        first = dice.randrange(1, LAST[kind, part])
        folder = tmp_path / str(number)
        failed, _ = await fail(library, folder, kind, first, problem, count, part)
        has_failed.append(failed)

    if part and kind in ("write", "create", "sync"):
        assert {problem == errno.EIO or kind == "sync"} == set(has_failed)
    elif kind in ("write", "create") and count == FOR_EVER:
        assert all(has_failed)

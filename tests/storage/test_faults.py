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


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return disk.build(tmp_path_factory.mktemp("library"))


async def fail(library, folder, kind, first, problem, count):
    """Run the writer with a fault; return whether it failed and how much it had committed."""
    fault = f"{kind}:{first}:{problem}:{count}"
    status, operations = record(library, folder, 1, fault=fault)
    returned, _ = marks_of(operations)

    assert status in (0, 3)  # a store that has failed says so, in its own words
    if status == 0:
        assert returned == COMMITS
    last = max(len(operations) - 200, 0)
    assert [] == await crash(operations, folder, 1, 20, first=last)
    return status == 3, returned


@pytest.mark.parametrize(
    ("kind", "first", "problem", "count"),
    [
        ("write", 1, errno.ENOSPC, FOR_EVER),
        ("write", 1_000, errno.ENOSPC, FOR_EVER),
        ("write", 1_500, errno.EIO, FOR_EVER),
        ("sync", 30, errno.EIO, FOR_EVER),
        ("create", 2, errno.ENOSPC, FOR_EVER),
    ],
)
async def test_a_fault_that_stays_ends_the_store(library, tmp_path, kind, first, problem, count):
    has_failed, returned = await fail(library, tmp_path, kind, first, problem, count)

    assert has_failed
    assert returned < COMMITS


async def test_a_commit_that_could_not_be_synchronised_once_is_the_last(library, tmp_path):
    has_failed, returned = await fail(library, tmp_path, "sync", 40, errno.EIO, ONCE)

    assert has_failed
    assert returned < COMMITS


@pytest.mark.long
@pytest.mark.parametrize("count", [ONCE, FOR_EVER])
@pytest.mark.parametrize("problem", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("kind", ["create", "write", "truncate", "sync", "unlink"])
async def test_no_fault_loses_anything(library, tmp_path, kind, problem, count):
    dice = Random(f"{kind} {problem} {count}")
    last = {"write": 2_800, "sync": 240, "create": 9, "truncate": 30, "unlink": 6}[kind]
    has_failed = []
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        first = dice.randrange(1, last)
        failed, _ = await fail(library, tmp_path / str(number), kind, first, problem, count)
        has_failed.append(failed)

    if kind in ("write", "create") and count == FOR_EVER:
        assert all(has_failed)

"""The disk alarm and the reserve: when they come, when they go, and what they cost."""

import errno
import os
import threading

import pytest
import trio

from leveret.broker.server import disk
from leveret.broker.server.alarms import MEMORY, Alarms
from leveret.broker.server.disk import DiskAlarm, Reserve, Volume, allocate

MIB = 1 << 20


class FileSystem:
    """What a file system is said to have; the reserve takes its part of it."""

    def __init__(self, folder):
        self.total = 800 * MIB
        self.used = 0  # by others than the reserve
        self.folder = folder
        self.problem = None

    def __call__(self, folder):
        if self.problem is not None:
            raise self.problem
        reserve = self.folder / "reserve"
        held = reserve.stat().st_size if reserve.exists() else 0
        return self.total, self.total - self.used - held

    def leave(self, free, reserve=8 * MIB):
        """Use so much that `free` octets are left beside a reserve."""
        self.used = self.total - reserve - free


@pytest.fixture
def system(tmp_path):
    return FileSystem(tmp_path)


@pytest.fixture
def volume(tmp_path, system):
    """One of which 100 MiB should be free, with a reserve of 8."""
    return Volume(tmp_path, lambda total: 100 * MIB, need=8 * MIB, measure=system)


@pytest.fixture
def raised(broker):
    return Alarms(broker)


@pytest.fixture
def alarm(raised, volume):
    return DiskAlarm(raised, volume)


def taken(file):
    return file.stat().st_blocks * 512


# The alarm


async def test_rises_below_the_limit(broker, alarm, system):
    system.leave(100 * MIB)
    await alarm.look()
    assert "" == broker.blocked

    system.used += 1
    await alarm.look()

    assert "low on disk" == broker.blocked


async def test_ends_a_quarter_above_it(broker, alarm, system):
    system.leave(99 * MIB)
    await alarm.look()
    for free in (100 * MIB, 125 * MIB - 1):
        system.leave(free)
        await alarm.look()
        assert "low on disk" == broker.blocked

    system.leave(125 * MIB)
    await alarm.look()

    assert "" == broker.blocked


async def test_leaves_another_alarm_alone(broker, alarm, raised, system):
    raised.start(MEMORY)
    system.leave(99 * MIB)
    await alarm.look()
    system.leave(500 * MIB)
    await alarm.look()

    assert "low on memory" == broker.blocked


async def test_what_the_log_holds_and_publishers_have_sent_is_as_good_as_written(
    tmp_path, broker, raised, system
):
    """Both go into the database; what was sent goes through the log as well."""
    log = tmp_path / "log"
    volume = Volume(
        tmp_path, lambda total: 100 * MIB, pending=5 * MIB, need=8 * MIB, log=log, measure=system
    )
    alarm = DiskAlarm(raised, volume)
    log.write_bytes(bytes(3 * MIB))
    system.leave(113 * MIB)
    await alarm.look()
    assert "" == broker.blocked

    with log.open("ab") as more:
        more.write(b"x")
    await alarm.look()

    assert "low on disk" == broker.blocked


async def test_is_looked_for_the_more_often_the_less_space_is_left(alarm, system):
    pauses = []
    system.total = 1 << 40
    for free in (1 << 39, 2 << 30, 101 * MIB, 50 * MIB):
        system.leave(free)
        await alarm.look()
        pauses.append(alarm.pause)

    assert [disk.LONGEST, disk.SHORTEST, disk.BLOCKED] == [pauses[0], *pauses[2:]]
    assert disk.SHORTEST < pauses[1] < disk.LONGEST


async def test_file_system_that_hangs_does_not_keep_the_broker_from_ending(alarm, volume):
    is_asked, answer, answered = trio.Event(), threading.Event(), []
    token = trio.lowlevel.current_trio_token()

    def hang():
        token.run_sync_soon(is_asked.set)
        answered.append(answer.wait(20))

    volume.tend = hang
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.look)
        await is_asked.wait()
        nursery.cancel_scope.cancel()

    assert [] == answered
    answer.set()


async def test_file_system_that_cannot_be_asked_changes_nothing(alarm, system, broker):
    system.leave(99 * MIB)
    await alarm.look()
    system.problem = OSError(errno.EIO, os.strerror(errno.EIO))
    await alarm.look()
    assert "low on disk" == broker.blocked

    system.problem = None
    system.leave(200 * MIB)
    await alarm.look()

    assert "" == broker.blocked


async def test_watch_looks_again_and_again(alarm, system, broker, autojump_clock, nursery):
    class Turns:
        def __init__(self):
            self.finished = trio.Event()

        def finish(self):
            self.finished.set()
            self.finished = trio.Event()

    turns = Turns()
    system.leave(99 * MIB)
    nursery.start_soon(disk.watch, alarm, turns)
    await turns.finished.wait()
    assert "low on disk" == broker.blocked
    system.leave(200 * MIB)
    await turns.finished.wait()

    assert "" == broker.blocked


# The reserve


def test_reserve_really_takes_its_space(tmp_path):
    reserve = Reserve(tmp_path / "reserve", 3 * MIB + 1)

    assert reserve.make()

    assert taken(reserve.file) >= 3 * MIB + 1
    assert 0o600 == reserve.file.stat().st_mode & 0o777
    assert 3 * MIB + 1 == reserve.held == Reserve(reserve.file, reserve.size).held


def test_reserve_takes_its_space_where_it_has_to_be_written(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    reserve = Reserve(tmp_path / "reserve", 2 * MIB + 5)

    assert reserve.make()

    assert 2 * MIB + 5 == reserve.file.stat().st_size
    assert taken(reserve.file) >= 2 * MIB + 5


def test_file_that_only_says_it_is_large_is_no_reserve(tmp_path):
    file = tmp_path / "reserve"
    with file.open("wb") as made:
        made.truncate(4 * MIB)

    assert Reserve(file, 4 * MIB).held < MIB


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_reserve_that_does_not_fit_takes_nothing(tmp_path, monkeypatch, problem):
    def refused(*_):
        raise OSError(problem, "")

    monkeypatch.setattr(os, "posix_fallocate", refused)
    reserve = Reserve(tmp_path / "reserve", MIB)

    assert not reserve.make()

    assert (0, []) == (reserve.held, list(tmp_path.iterdir()))


def test_other_faults_are_told_and_leave_nothing_behind(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(os, "posix_fallocate", refused)

    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        Reserve(tmp_path / "reserve", MIB).make()
    assert [] == list(tmp_path.iterdir())


def test_allocation_of_nothing_is_none(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        allocate(file.fileno(), 0)

    assert 0 == (tmp_path / "file").stat().st_size


async def test_reserve_is_made_when_there_is_room_for_it_and_for_what_should_be_free(
    alarm, volume, system
):
    system.leave(125 * MIB - 1)
    await alarm.look()
    assert 0 == volume.reserve.held

    system.leave(125 * MIB)
    await alarm.look()

    assert 8 * MIB == volume.reserve.held == taken(volume.reserve.file)


async def test_reserve_is_given_away_when_others_fill_the_disk_and_made_again(
    broker, alarm, volume, system
):
    await alarm.look()
    system.leave(4 * MIB)
    await alarm.look()
    assert (8 * MIB, "low on disk") == (volume.reserve.held, broker.blocked)

    system.leave(4 * MIB - 1)
    await alarm.look()
    assert (0, "low on disk") == (volume.reserve.held, broker.blocked)

    system.leave(100 * MIB)
    await alarm.look()
    assert (0, "low on disk") == (volume.reserve.held, broker.blocked)

    system.leave(125 * MIB)
    await alarm.look()
    assert (8 * MIB, "") == (volume.reserve.held, broker.blocked)


async def test_alarm_does_not_notice_whether_the_reserve_is_there(volume, system):
    system.leave(300 * MIB)
    before = volume.look()
    volume.reserve.make()

    assert (before.spare, before.free - 8 * MIB) == volume.look()[1::-1]


async def test_reserve_that_a_quota_refuses_is_not_asked_for_again_and_again(
    alarm, volume, system, monkeypatch, broker
):
    asked = []

    def refused(*_):
        asked.append(None)
        raise OSError(errno.EDQUOT, "")

    monkeypatch.setattr(os, "posix_fallocate", refused)
    for _ in range(3):
        await alarm.look()
    assert ([None], "") == (asked, broker.blocked)

    monkeypatch.undo()
    for free in (99 * MIB, 200 * MIB):  # something has changed
        system.leave(free)
        await alarm.look()

    assert 8 * MIB == volume.reserve.held


def test_full_disk_at_the_start_gives_the_reserve_to_the_store(tmp_path, volume, system):
    volume.reserve.make()
    system.leave(4 * MIB)
    assert not volume.make_room()

    system.leave(0)

    assert volume.make_room()
    assert not volume.reserve.file.exists()
    assert volume.look().spare < 0


def test_half_a_reserve_that_was_being_made_is_removed_at_the_start(tmp_path, volume):
    left = tmp_path / "reserve.part"
    left.write_bytes(b"x")

    volume.make_room()

    assert not left.exists()


async def test_reserve_that_somebody_has_removed_is_made_again(alarm, volume):
    await alarm.look()
    volume.reserve.file.unlink()

    await alarm.look()

    assert 8 * MIB == volume.reserve.held


def test_small_file_system_has_a_small_reserve(tmp_path, system):
    system.total = 64 * MIB
    volume = Volume(tmp_path, lambda total: total // 20, need=400 * MIB, measure=system)

    assert 8 * MIB == volume.reserve.size


async def test_reserve_of_a_larger_limit_is_made_smaller(tmp_path, raised, system):
    Reserve(tmp_path / "reserve", 8 * MIB).make()
    volume = Volume(tmp_path, lambda total: 100 * MIB, need=2 * MIB, measure=system)

    await DiskAlarm(raised, volume).look()

    assert 2 * MIB == volume.reserve.held == volume.reserve.file.stat().st_size


def test_who_wants_no_alarm_has_no_reserve(tmp_path, system):
    Reserve(tmp_path / "reserve", MIB).make()
    volume = Volume(tmp_path, lambda total: 0, need=8 * MIB, measure=system)

    assert volume.make_room()

    assert not volume.has_alarm
    assert not (tmp_path / "reserve").exists()


def test_data_directory_need_not_be_there(tmp_path):
    volume = Volume(tmp_path / "not" / "yet", lambda total: 1, need=MIB)

    assert not volume.make_room()
    assert not (tmp_path / "not").exists()


def test_space_is_that_of_the_file_system(tmp_path):
    """What only root may take does not count."""
    found, expected = Volume(tmp_path, lambda total: 1).look(), os.statvfs(tmp_path)

    assert abs(found.free - expected.f_bavail * expected.f_frsize) < 1 << 30

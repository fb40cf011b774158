"""Disk: how much space is left for the store, the alarm when it is little, and a reserve.

Law: publishers stop while there is still space for everything that consumers and the store itself
have to write; the reserve is what is left for them when others have filled the disk. Whether the
reserve is there makes no difference to the alarm: what it lacks counts as used. A file system
may hang, so it is asked in a thread, and nobody waits for that at the end.

Called by: app.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from leveret.broker.server.alarms import DISK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from leveret.broker.server.alarms import Alarms
    from leveret.broker.server.turns import Turns

SHORTEST, LONGEST = 0.005, 5.0  # seconds between looks: the more space is left, the longer
BLOCKED = 0.1  # the same while publishers are blocked
SPEED = 1 << 30  # octets a second: nobody fills a disk faster
SHARE = 8  # the reserve takes at most this part of the file system
STEP = 1 << 20  # octets written at a time where space cannot be allocated otherwise
FULL = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger()


class Reserve:
    """A file that takes space, to be given back when there is no other.

    Attributes:
      file: Where it is.
      size: What it should take, in octets.
    """

    def __init__(self, file: Path, size: int) -> None:
        self.file = file
        self.size = size
        self._part = file.with_name(f"{file.name}.part")

    @property
    def held(self) -> int:
        """What it takes."""
        try:
            found = self.file.stat()
        except OSError:
            return 0
        return min(found.st_size, found.st_blocks * 512)  # not what is only said to be there

    def make(self) -> bool:
        """Take the space; return False, and take none, if there is too little.

        Raises:
          OSError: It cannot be taken for another reason.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.release()
        try:
            descriptor = os.open(self._part, flags, 0o600)
            try:
                allocate(descriptor, self.size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._part.rename(self.file)
        except OSError as problem:
            with suppress(OSError):
                self.release()
            if problem.errno in FULL:
                return False
            raise
        return True

    def tidy(self) -> None:
        """Remove what a process that was killed meanwhile has left behind."""
        self._part.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the space back, so that it can be used when this returns.

        Raises:
          OSError: It cannot be given back.
        """
        self.tidy()
        self.file.unlink(missing_ok=True)


def allocate(descriptor: int, size: int) -> None:
    """Have a file take space for so many octets from its beginning, whatever they are."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as problem:
        if problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    else:
        return
    octets = os.urandom(min(STEP, size))  # a file system that compresses makes nothing of zeros
    at = 0
    while at < size:
        at += os.pwrite(descriptor, octets[: size - at], at)


class Found(NamedTuple):
    """What a look at the disk has found, in octets.

    Attributes:
      free: What this process may still take.
      spare: What publishers may still take before the alarm rises; below zero it should be on.
      held: What the reserve takes.
    """

    free: int
    spare: int
    held: int


class Volume:
    """The file system that a data directory is on, and the reserve in it.

    Args:
      folder: The data directory.
      limit: Told the size of the file system, returns how much should be free; 0 turns alarm
        and reserve off.
      pending: Octets that publishers may have sent already when they are stopped.
      need: Octets that the store may have to write when they have stopped.
      log: The store's log: what it holds is written once more, elsewhere, before it goes.
      measure: Returns total octets of a file system, and those that may still be taken.

    Attributes:
      limit: Octets below which the alarm rises.
      margin: Octets above that before it ends.
      is_hindered: Whether there was no space for the reserve although there seemed to be.
    """

    def __init__(
        self,
        folder: Path,
        limit: Callable[[int], int],
        *,
        pending: int = 0,
        need: int = 0,
        log: Path | None = None,
        measure: Callable[[Path], tuple[int, int]] | None = None,
    ) -> None:
        self._measure = _space if measure is None else measure
        there = folder.absolute()  # the nearest one that is there says on which file system it is
        while not there.exists() and there != there.parent:
            there = there.parent
        total = self._measure(there)[0]
        self.limit = limit(total)
        self.margin = self.limit // 4
        self.reserve = Reserve(folder / "reserve", min(need, total // SHARE) if self.limit else 0)
        self._folder = folder
        self._pending = pending
        self._log = log
        self.is_hindered = False

    @property
    def has_alarm(self) -> bool:
        """Whether it is to be watched at all."""
        return bool(self.limit)

    def look(self) -> Found:
        """Return how much space there is.

        Raises:
          OSError: The file system does not say.
        """
        free = self._measure(self._folder)[1]
        owed = 2 * self._pending
        if self._log is not None:
            with suppress(OSError):
                owed += self._log.stat().st_size
        held = self.reserve.held
        spare = free - (self.reserve.size - held) - owed - self.limit
        return Found(free, spare, held)

    def make_room(self) -> bool:
        """Release the reserve if the disk is full, or none is wanted; return whether it was.

        Raises:
          OSError: It cannot be released, or the file system does not say.
        """
        reserve = self.reserve
        reserve.tidy()
        if not reserve.held or (self.limit and not self._is_full(self.look())):
            return False
        reserve.release()
        return True

    def _is_full(self, found: Found) -> bool:
        """Whether a log, or half of the space that should be free, is not there any more."""
        return found.free < min(self.reserve.size, self.limit) // 2

    def tend(self) -> Found:
        """Release the reserve if the disk is full, rebuild it if there is room; look.

        Raises:
          OSError: The file system does not do as it should.
        """
        found, reserve = self.look(), self.reserve
        if found.held and self._is_full(found):
            reserve.release()
            return self.look()
        if found.spare < self.margin:
            self.is_hindered = False
        elif found.held != reserve.size and not self.is_hindered:
            self.is_hindered = not reserve.make()  # by a quota, say: once is enough
            return self.look()
        return found


def _space(folder: Path) -> tuple[int, int]:
    """Return total octets of a file system, and those that anybody may still take."""
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


class DiskAlarm:
    """Blocks publishing when little space is left, lets it go on when there is some more."""

    def __init__(self, alarms: Alarms, volume: Volume) -> None:
        self._alarms = alarms
        self._volume = volume
        self._limiter = trio.CapacityLimiter(1)  # if the disk hangs, in one thread only
        self._held: int | None = None
        self._problem = ""
        self.pause = SHORTEST

    async def look(self) -> None:
        """Raise or end the alarm; keep the reserve, or give it away."""
        try:
            found = await trio.to_thread.run_sync(
                self._volume.tend, abandon_on_cancel=True, limiter=self._limiter
            )
        except OSError as problem:
            self._note(f"{problem.filename or self._volume.reserve.file}: {problem.strerror}")
            self.pause = LONGEST
            return
        self._note("there is no space for the reserve" if self._volume.is_hindered else "")
        self._note_reserve(found.held)
        alarms, margin = self._alarms, self._volume.margin
        facts = {"free": found.free, "needed": found.free - found.spare}
        if not alarms.is_raised(DISK):
            if found.spare < 0:
                alarms.start(DISK, **facts)
        elif found.spare >= margin:
            alarms.end(DISK, **facts)
        self.pause = min(max(found.spare / SPEED, SHORTEST), LONGEST)
        if alarms.is_raised(DISK):
            self.pause = BLOCKED

    def _note(self, problem: str) -> None:
        """Say once what the file system does not do."""
        if problem and problem != self._problem:
            log.warning("disk.hindered", reason=problem)
        self._problem = problem

    def _note_reserve(self, held: int) -> None:
        """Say that it has gone or come back; at the start nobody needs to know."""
        before, self._held = self._held, held
        if before is not None and held != before:
            event = "reserve.released" if held < before else "reserve.made"
            log.warning(event, bytes=max(held, before), file=str(self._volume.reserve.file))


async def watch(alarm: DiskAlarm, turns: Turns) -> None:
    """Look at the disk again and again, for ever."""
    while True:
        await trio.sleep(alarm.pause)
        await alarm.look()
        turns.finish()

"""Whether SQLite will take from its log all that was committed; and what to do if not.

Law: SQLite reads its log up to the first frame that is not as it should be, and takes that for the
end: right where a commit was cut short, a silent loss where a frame has changed since. The two can
be told apart: a commit begins only when the one before is on the disk, so a frame of a later one
proves that everything before was there. Nothing is changed here but by `mend`.

The format is https://sqlite.org/walformat.html.

Called by: storage.sqlite (before it opens a database), storage.tools, storage.repair.
"""

from __future__ import annotations

import os
import shutil
import sys
from array import array
from collections import Counter
from contextlib import closing
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from leveret.broker.storage.database import connect_to_read
from leveret.broker.storage.lock import can_write, promised, sync
from leveret.broker.storage.wal import absence, log_of, size_of

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = Struct(">IIII8sII")  # magic, version, page size, number, salts, checksum
FRAME: Final = Struct(">II8sII")  # page, pages of the database after a commit, salts, checksum
MAGIC: Final = 0x377F0682  # or one more: checksums of words that have their highest octet first
VERSION: Final = 3_007_000
SECTOR: Final = 512  # octets that a disk writes as a whole
SUMMED: Final = 8  # octets of the head of a frame that its checksum covers
# Of the shared memory: how many frames are taken. It is in the order of the machine's octets.
TAKEN: Final = Struct("=16xI")


class LogState(NamedTuple):
    """What is known of a log.

    Attributes:
      problem: What cannot be read of it any more; empty if everything can.
      cut_short: Frames at its end, of a commit that did not come to its end.
      taken: Frames that SQLite takes; 0 if all is in the database.
    """

    problem: str
    cut_short: int = 0
    taken: int = 0


def look_at_log(file: Path) -> LogState:
    """Look at the log of a database that nobody has open.

    Raises:
      OSError: It cannot be read.
      sqlite3.Error: The database cannot be opened for another reason.
    """
    log = log_of(file)
    size, least = size_of(log), promised(file.parent) or 0
    if size < least:
        if size:
            return LogState(f"{log} was cut: of {least:,} octets or more it has {size:,}")
        # The database cannot tell: it may be that of a checkpoint in either case.
        text = f"has opened the store since the broker ended, and moved all of it into {file.name}"
        lost = "it is lost, with what was committed last, or another program (sqlite3?)"
        return LogState(f"{log} is {absence(log)}: {lost} {text}: a repair takes what is there")
    if size <= HEAD.size:
        return LogState("")
    with closing(_Log(log)) as found:
        if found.has_head:
            return found.state(_taken(file) if can_write(file.parent) else found.taken())
        # It is written first, and a store promises nothing of its log before the first commit.
        if not least and found.is_empty:
            return LogState("")
        return LogState(f"{log}: its head is damaged, so that nothing of it can be read")


def _taken(file: Path) -> int:
    """Return how many frames SQLite takes: it is faster, and leaves that in its shared memory."""
    with closing(connect_to_read(file)) as connection:
        connection.execute("PRAGMA user_version").fetchall()
    # It is not open any more: to close it here would end the locks that SQLite has on it.
    memory = file.with_name(f"{file.name}-shm").read_bytes()
    return int(TAKEN.unpack_from(memory)[0])


def mend(file: Path) -> None:
    """Make SQLite read the log of a database to its end, damaged frames and all.

    What is wrong within them is found as in any other page.

    Raises:
      OSError: The log cannot be read or written.
    """
    log = log_of(file)
    if size_of(log) <= HEAD.size:
        return
    with file.open("rb") as database:
        (page,) = Struct(">16xH").unpack(database.read(18))
    part = log.with_name(f"{log.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        shutil.copyfile(log, part)
        with closing(_Log(part, os.O_RDWR)) as found:
            found.mend(65536 if page == 1 else page)
        part.replace(log)
        sync(log.parent)
    finally:
        part.unlink(missing_ok=True)


class _Frame(NamedTuple):
    """The head of a frame.

    Attributes:
      page: Which page of the database it has; 0 for none.
      pages: How many the database has after the commit that it ends; 0 if it ends none.
      salts: Those of the log's head when it was written.
      sum: Of it and all before.
    """

    page: int
    pages: int
    salts: bytes
    sum: tuple[int, int]


class _Log:
    """A log with something in it.

    Attributes:
      has_head: Whether its head is as SQLite wrote it.
    """

    def __init__(self, file: Path, flags: int = os.O_RDONLY) -> None:
        self._file = file
        self._descriptor = os.open(file, flags | os.O_CLOEXEC)
        head = os.pread(self._descriptor, HEAD.size, 0)
        magic, version, page, _, self._salts, *last = HEAD.unpack(head)
        self._is_swapped = bool(magic & 1) == (sys.byteorder == "little")
        self._sum = last[0], last[1]
        self.has_head = (magic | 1, version) == (MAGIC | 1, VERSION)
        self.has_head &= self._sum == _checksum(head[: HEAD.size - 8], (0, 0), self._is_swapped)
        self._read_frames(page if self.has_head else 0)

    def close(self) -> None:
        os.close(self._descriptor)

    def _read_frames(self, page: int) -> None:
        """Read the heads of all frames; the first one stands for the log's own head."""
        self._size = FRAME.size + page
        self._frames = [_Frame(0, 1, self._salts, self._sum)]
        end = os.fstat(self._descriptor).st_size - self._size
        for at in range(HEAD.size, end + 1, self._size) if page else ():
            number, pages, salts, *last = FRAME.unpack(os.pread(self._descriptor, FRAME.size, at))
            self._frames.append(_Frame(number, pages, salts, (last[0], last[1])))

    @property
    def is_empty(self) -> bool:
        """Whether there never was a frame."""
        return not any(os.pread(self._descriptor, FRAME.size, HEAD.size))

    def taken(self) -> int:
        """Return how many frames SQLite takes, up to the last commit before anything is wrong."""
        taken = 0
        for number, frame in enumerate(self._frames[1:], 1):
            if not frame.page or frame.salts != self._salts or not self._follows(number):
                break
            if frame.pages:
                taken = number
        return taken

    def state(self, taken: int) -> LogState:
        """Look for commits behind the frames that SQLite takes."""
        ours = [number for number in self._ours() if number > taken]
        if not any(self._proves(number) for number in ours if number > taken + 1):
            return LogState("", len(ours), taken)
        behind = range(taken + 1, ours[-1])
        bad = next((one for one in behind if one not in ours or not self._follows(one)), taken + 1)
        commits = sum(self._frames[number].pages > 0 for number in ours if number >= bad)
        text = f"frame {bad} (of page {self._frames[bad].page}) is damaged, so that {commits:,}"
        return LogState(f"{self._file}: {text} commit{'s' * (commits != 1)} cannot be read")

    def _ours(self) -> list[int]:
        """Return which frames were written since the log was last begun anew."""
        frames = enumerate(self._frames[1:], 1)
        return [number for number, one in frames if one.page and one.salts == self._salts]

    def _proves(self, number: int) -> bool:
        """Whether the frame before had ended a commit, which was on the disk.

        A transaction that was rolled back leaves frames that follow nothing; of one that was under
        way, the head of a frame may be half an old one.
        """
        before = self._frames[number - 1]
        if not before.pages:
            return False
        if self._follows(number - 1):
            return self._follows(number)
        is_ours = before.salts == self._salts and self._is_in_a_sector(number - 1)
        return is_ours and (self._follows(number) or self._is_in_a_sector(number))

    def _is_in_a_sector(self, number: int) -> bool:
        """Whether the head of a frame is written as a whole or not at all."""
        first = HEAD.size + (number - 1) * self._size
        return first // SECTOR == (first + FRAME.size - 1) // SECTOR

    def _follows(self, number: int) -> bool:
        """Whether the checksum of a frame is right, if that of the one before is."""
        frame = self._frames[number]
        return frame.sum == self._checksum(number, frame, self._frames[number - 1].sum)

    def _checksum(self, number: int, frame: _Frame, before: tuple[int, int]) -> tuple[int, int]:
        octets = os.pread(self._descriptor, self._size, HEAD.size + (number - 1) * self._size)
        head = FRAME.pack(*frame[:3], 0, 0)[:SUMMED]
        return _checksum(head + octets[FRAME.size :], before, self._is_swapped)

    def mend(self, page: int) -> None:
        """Write checksums anew up to the last commit that had come to its end.

        Args:
          page: Octets of a page.
        """
        if not self.has_head:
            self._make_head(page)
        frames, end = self._frames, self._last_commit()
        for number in range(1, end + 1):
            # One without a page takes that of the next frame, which counts.
            number_of_page = frames[number].page or frames[min(number + 1, end)].page
            mended = frames[number]._replace(page=number_of_page, salts=self._salts)
            mended = mended._replace(sum=self._checksum(number, mended, frames[number - 1].sum))
            if mended != frames[number]:
                frames[number] = mended
                octets = FRAME.pack(*mended[:3], *mended.sum)
                os.pwrite(self._descriptor, octets, HEAD.size + (number - 1) * self._size)
        os.fsync(self._descriptor)

    def _make_head(self, page: int) -> None:
        """Write a head that fits to the frames."""
        self._read_frames(page)
        first = Counter(frame.salts for frame in self._frames[1:4])  # one may be damaged, too
        self._salts = first.most_common(1)[0][0] if first else self._salts
        magic = MAGIC | (sys.byteorder == "big")
        self._is_swapped = False
        head = HEAD.pack(magic, VERSION, page, 0, self._salts, 0, 0)[: HEAD.size - 8]
        self._sum = _checksum(head, (0, 0), self._is_swapped)
        self._frames[0] = _Frame(0, 1, self._salts, self._sum)
        os.pwrite(self._descriptor, head + Struct(">II").pack(*self._sum), 0)

    def _last_commit(self) -> int:
        """Return which frame ends the last commit that had come to its end; 0 if none has."""
        ends = [number for number in self._ours() if self._frames[number].pages]
        *_, before, last = [0, 0, *ends]
        numbers = range(max(before + 1, 2), last + 1)  # the first follows a head that may be new
        return last if all(self._follows(number) for number in numbers) else before


def _checksum(octets: bytes, before: tuple[int, int], is_swapped: bool) -> tuple[int, int]:
    words = array("I", octets)
    if is_swapped:
        words.byteswap()
    first, second = before
    pairs = iter(words)
    for one, two in zip(pairs, pairs, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second

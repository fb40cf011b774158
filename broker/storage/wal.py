"""The log of SQLite (the WAL), made longer ahead of its use.

Law: to write beyond the end of a file is to change its size, which a journaling file system makes
durable by a second flush: on ext4 a commit of one message takes two thirds more. So whenever
SQLite has come to the end, zeros are written behind it and synced while nobody waits. Frames are
valid by their checksums and salts, so zeros say nothing; SQLite begins at the front again when
all is moved into the database, and the file keeps its length. The lock says what that is at least.

Called by: storage.sqlite (in the writer's thread, after commits), storage.database and app (its
limit), storage.wal_check, storage.tools and storage.repair (where it is).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from leveret.broker.storage.lock import promise

if TYPE_CHECKING:
    from pathlib import Path

MOST = 64 << 20  # what is written twice before it is moved into the database in one go
SHARE: Final = 16  # of a small file system, the part that it may take
SMALLEST: Final = 4 << 20
LEAST: Final = 128 << 10
# Written in one call. What was written by one large call the kernel keeps as one large piece, and
# counts as a whole whenever a page of it is written to: 4 MiB for a commit of one message.
PIECE: Final = 4096
STEP: Final = 4 << 20  # octets written at once: what comes meanwhile waits some milliseconds


def log_limit(folder: Path) -> int:
    """Return the octets after which a log in a folder is moved into its database.

    Raises:
      OSError: The file system does not say how large it is.
    """
    found = os.statvfs(folder)
    return min(MOST, max(found.f_blocks * found.f_frsize // SHARE, SMALLEST))


def log_of(database: Path) -> Path:
    """Return where the log of a database is."""
    return database.with_name(f"{database.name}-wal")


def size_of(file: Path) -> int:
    """Return the octets of a file, 0 if there is none."""
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def absence(file: Path) -> str:
    """Return what to say of a file that has nothing in it."""
    return "empty" if file.exists() else "missing"


class Wal:
    """The log beside a database.

    Attributes:
      file: Where it is.
    """

    def __init__(self, database: Path) -> None:
        self.file = log_of(database)
        self._limit = 0
        self._grown = 0  # up to where zeros were written

    def open(self) -> None:
        """Begin to make it longer.

        Raises:
          OSError: The file system does not say how large it is.
        """
        self._limit, self._grown = log_limit(self.file.parent), 0

    @property
    def size(self) -> int:
        """Octets of the file; 0 if there is none."""
        return size_of(self.file)

    def grow(self) -> None:
        """Write zeros behind the end if SQLite has come there; as much again as there is."""
        if self._grown >= self._limit:
            return
        size = self.size
        if size <= self._grown:
            return
        self._grown = min(size + min(max(size, LEAST), STEP), self._limit)
        try:
            if self._grown > size:
                self._write(size, self._grown)
            promise(self.file.parent, self._grown)
        except OSError:
            self._grown = self._limit  # the disk is full or failing: a commit will tell

    def _write(self, start: int, end: int) -> None:
        zeros = bytes(PIECE)
        with self.file.open("r+b", buffering=0) as log:
            for at in range(start, end, PIECE):
                os.pwrite(log.fileno(), zeros[: end - at], at)
            os.fdatasync(log.fileno())

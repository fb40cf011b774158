"""Lock: one process at a time in a data directory; and what the last one has left there.

Law: a log that is missing or was cut looks to SQLite like one that has been emptied. So the lock
says how many octets of it have to be there: none once a broker has ended in order.

Called by: storage.sqlite, storage.database, storage.wal, storage.wal_check, storage.tools,
storage.repair.
"""

from __future__ import annotations

import fcntl
import os
import re
from typing import TYPE_CHECKING, Final

from leveret.broker.storage.base import StoreError

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "lock"
_PROMISE: Final = re.compile(rb"log +(\d+)\n")


def take_lock(folder: Path) -> int:
    """Return a descriptor that keeps other processes out of a folder until it is closed.

    Raises:
      StoreError: Another process has it, or the folder cannot be used.
    """
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync(folder.parent)
        lock = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise _unusable(folder, problem) from problem
    return _locked(lock, folder, fcntl.LOCK_EX)


def take_lock_to_look(folder: Path) -> int | None:
    """Return a descriptor that keeps brokers out of a folder, also of one that cannot be written.

    None if such a folder has no lock: it is a copy of some of a store.

    Raises:
      StoreError: A broker has it, or the folder cannot be used.
    """
    if can_write(folder):
        return take_lock(folder)
    try:
        lock = os.open(folder / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise _unusable(folder, problem) from problem
    return _locked(lock, folder, fcntl.LOCK_SH)


def _locked(lock: int, folder: Path, how: int) -> int:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(lock)
        text = f"the data directory {folder} is in use by another broker"
        raise StoreError(text) from problem
    return lock


def _unusable(folder: Path, problem: OSError) -> StoreError:
    return StoreError(f"the data directory {folder} cannot be used: {problem.strerror}")


def can_write(folder: Path) -> bool:
    """Return whether files can be made in a folder."""
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def promised(folder: Path) -> int | None:
    """Return how many octets the log has at least; None if no store was ever opened here.

    Raises:
      OSError: The lock cannot be read.
    """
    try:
        found = _PROMISE.fullmatch((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    return int(found[1]) if found else None


def promise(folder: Path, octets: int) -> None:
    """Say durably how many octets the log has at least from now on.

    Raises:
      OSError: It cannot be written.
    """
    descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, b"log %20d\n" % octets, 0)  # as long as it was: in one sector
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)

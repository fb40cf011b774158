"""A disk that loses its power: what a process did to a folder, and what may be left of it.

Law: what was written to a file is safe when the file was synchronised after it, and a name when
the folder was. Of everything later any part may be there, down to sectors of 512 octets, in any
order; names come and go in theirs. What could not be synchronised is lost, whatever is said later.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from struct import Struct
from typing import NamedTuple

SECTOR = 512
CREATE, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, FAILED_SYNC, PUNCH = range(1, 9)
_head = Struct("=BB6xQQ")


class Operation(NamedTuple):
    kind: int
    name: str
    offset: int
    length: int
    data: bytes


def reason_against_recording():
    """Return why nothing can be recorded here; empty if it can."""
    if sys.platform != "linux":
        return "needs LD_PRELOAD"
    return "" if shutil.which("cc") else "needs a C compiler: cc"


def build(folder):
    """Compile what records, into a folder; return its path."""
    library = folder / "disk.so"
    source = Path(__file__).with_name("disk.c")
    command = ["cc", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return library


def run(library, folder, record, command, fault=""):
    """Run a command to its end and record what it does to a folder; return its exit status.

    Args:
      fault: What is to fail, as in disk.c.
    """
    environment = dict(os.environ, LD_PRELOAD=str(library))
    environment |= {"CRASH_DISK_FOLDER": str(folder), "CRASH_DISK_RECORD": str(record)}
    if fault:
        environment["CRASH_DISK_FAULT"] = fault
    return subprocess.run(command, env=environment, timeout=60, check=False).returncode


def read_record(file):
    """Return what a process did, in order."""
    octets = file.read_bytes()
    operations, at = [], 0
    while at < len(octets):
        kind, name_length, offset, length = _head.unpack_from(octets, at)
        at += _head.size
        name = octets[at : at + name_length].decode()
        at += name_length
        size = length if kind in (WRITE, RENAME) else 0
        operations.append(Operation(kind, name, offset, length, octets[at : at + size]))
        at += size
    return operations


class File:
    def __init__(self):
        self.safe = bytearray()
        self.pending = []

    def after_crash(self, dice):
        """Return octets that may be found: of what is pending nothing, all, some or shreds."""
        octets = bytearray(self.safe)
        way = dice.choice(["nothing", "all", "first", "some", "shreds"])
        share = {"nothing": 0.0, "some": 0.5, "shreds": 0.7}.get(way, 1.0)
        operations = self.pending
        if way == "first":
            operations = operations[: dice.randrange(len(operations) + 1)]
        if way == "shreds":
            operations = [shred for operation in operations for shred in shreds(operation)]
        for operation in operations:
            if dice.random() < share:
                change(octets, operation)
        return octets


def shreds(operation):
    """Split what is done to a part of a file at the borders of sectors."""
    if operation.kind not in (WRITE, PUNCH):
        yield operation
        return
    at = 0
    while at < operation.length:
        offset = operation.offset + at
        size = min(SECTOR - offset % SECTOR, operation.length - at)
        data = operation.data[at : at + size]
        yield Operation(operation.kind, operation.name, offset, size, data)
        at += size


def change(octets, operation):
    """Do to a file's octets what was done to the file."""
    end = operation.length
    if operation.kind == PUNCH:  # the file stays as long as it is
        end = min(operation.offset + end, len(octets))
        octets[operation.offset : end] = bytes(max(end - operation.offset, 0))
        return
    if operation.kind == WRITE:
        end += operation.offset
    if len(octets) < end:
        octets.extend(bytes(end - len(octets)))
    if operation.kind == WRITE:
        octets[operation.offset : end] = operation.data
    else:
        del octets[end:]


class Disk:
    """The files of a folder: as they are, and as they are known to survive."""

    def __init__(self):
        self.files = {}
        self.safe = {}
        self.pending = []  # changes of names

    def apply(self, operation):
        """Let something happen."""
        kind, name = operation.kind, operation.name
        if kind == CREATE:
            self.pending.append((name, File()))
        elif kind == UNLINK:
            self.pending.append((name, None))
        elif kind == RENAME:
            self.pending.append((operation.data.decode(), self.files[name]))
            self.pending.append((name, None))
        elif kind == SYNC and not name:
            self.safe = dict(self.files)
            del self.pending[:]
        elif kind == SYNC:
            file = self.files[name]
            for one in file.pending:
                change(file.safe, one)
            del file.pending[:]
        elif kind == FAILED_SYNC:  # the kernel forgets that it has something to write
            if name:
                del self.files[name].pending[:]
        else:
            self.files[name].pending.append(operation)
        if kind in (CREATE, UNLINK, RENAME):
            self.files = renamed(self.safe, self.pending)

    def after_crash(self, dice):
        """Return name and octets of the files that may be found after a crash now."""
        names = renamed(self.safe, self.pending[: dice.randrange(len(self.pending) + 1)])
        return {name: file.after_crash(dice) for name, file in names.items()}


def renamed(files, changes):
    files = dict(files)
    for name, file in changes:
        if file is None:
            files.pop(name, None)
        else:
            files[name] = file
    return files


def crashes(operations, points, dice: Random, first=0):
    """Return what may be found after each of some crashes: operations done, and the files.

    Args:
      points: How many.
      first: The first operation that may be missing.
    """
    disk, done = Disk(), 0
    for point in sorted(dice.randrange(first, len(operations) + 1) for _ in range(points)):
        for operation in operations[done:point]:
            disk.apply(operation)
        done = point
        yield done, disk.after_crash(dice)

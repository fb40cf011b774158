"""Scratch: files for messages that memory is too small for, and that no journal has.

Law: what is here is worth nothing after the process: it is never synced, and removed at the start
and at the end. Files only grow; one goes when nobody refers to what is in it any more, which the
slots tell when they are dropped, by a purge or by whatever else. No file is touched in the event
loop's thread, and the body of a long message is neither put together nor cut there.

Called by: app (makes it), persistence (opens it), server.spiller (writes and reads), core.queue
(asks, through `Slot.fetch`).
"""

from __future__ import annotations

import errno
import os
import shutil
from array import array
from collections import deque
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

import trio

from leveret.broker.storage.base import StoreError
from leveret.broker.storage.paging import Envelopes, message_at
from leveret.broker.storage.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from leveret.broker.core.chunks import Asker, Paged
    from leveret.broker.core.message import Message

SHARE: Final = 16  # of the disk, the part that is left to others if nothing else is said
FILE_SIZE = 64 << 20  # octets after which the next file is begun: what a straggler keeps
AT_ONCE: Final = 256  # pieces that one call takes
PIECE = 1 << 20  # octets of a body above which a message that is alone is not copied as a whole
SIZES: Final = 3  # numbers of each message: octets of publish method, header and body


class File:
    """One of the files.

    Attributes:
      path: Where it is.
      descriptor: It is open for writing and reading.
      size: Its octets.
      live: Slots in it that somebody refers to.
    """

    __slots__ = ("descriptor", "live", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0
        self.live = 0


class Slot:
    """Where the messages of a chunk are; nobody can read them once it is dropped.

    Attributes:
      file: The file that they are in, from `offset` on.
      length: Octets that they take.
      first: How many of those have to be read as one.
    """

    __slots__ = ("_scratch", "file", "first", "length", "offset")

    def __init__(self, scratch: Scratch, file: File, offset: int, length: int, first: int) -> None:
        self._scratch = scratch
        self.file = file
        self.offset = offset
        self.length = length
        self.first = first

    def __del__(self) -> None:
        self._scratch.freed.append(self.file)  # in whatever thread: nothing else is safe here

    def fetch(self, queue: Asker, paged: Paged) -> None:
        """Have the messages read; the `loaded` of who asks is called with them."""
        self._scratch.asked.append((queue, paged))


class Scratch:
    """The files, in a folder of their own.

    Args:
      spare: Returns octets that may be taken of the disk; called in a thread. By default all but
        a part that is left to others.

    Attributes:
      folder: Where they are; all that is in it is removed.
      asked: Chunks that queues wait for.
      freed: The files of slots that were dropped.
    """

    def __init__(self, folder: Path, spare: Callable[[], int] | None = None) -> None:
        self.folder = folder
        self._spare = self._room if spare is None else spare
        self.asked: list[tuple[Asker, Paged]] = []
        self.freed: deque[File] = deque()
        self._envelopes = Envelopes()
        self._worker: Worker | None = None
        self._files: set[File] = set()
        self._current: File | None = None
        self._number = 0

    async def open(self) -> None:
        """Make the folder, and remove what a process that was killed has left.

        Raises:
          OSError: It cannot be made.
        """
        self._worker = Worker("scratch")
        await self._worker.run(self._prepare)

    async def close(self) -> None:
        """Remove everything."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        with trio.CancelScope(shield=True):
            await worker.run(self._remove)
        worker.close()

    async def write(self, chunks: Sequence[Sequence[Message]]) -> list[Slot]:
        """Write messages; return where they are, chunk by chunk.

        Raises:
          OSError: They cannot be written.
        """
        assert self._worker is not None
        octets: list[Sequence[bytes]] = []
        for messages in chunks:  # in the thread, each would wait until the event loop rests
            octets.append(_encoded(messages))
            await trio.lowlevel.checkpoint()
        file, places = await self._worker.run(self._write, octets)
        file.live += len(places)
        return [
            Slot(self, file, offset, length, len(pieces[0]))
            for (offset, length), pieces in zip(places, octets, strict=True)
        ]

    async def read(self, paged: Paged) -> list[Message]:
        """Return all messages that were written, whoever has been taken out of the chunk since.

        Raises:
          StoreError: They cannot be read.
        """
        assert self._worker is not None
        slot, stored = paged.slot, paged.stored
        assert isinstance(slot, Slot)
        assert stored is not None
        octets, *more = await self._worker.run(self._read, slot)
        at = len(stored) * SIZES * array("I").itemsize
        sizes = array("I")
        sizes.frombytes(octets[:at])
        messages: list[Message] = []
        for each in zip(*[iter(sizes)] * SIZES, strict=True):
            messages.append(message_at(octets, at, each, self._envelopes, more))
            at += sum(each)
        return messages

    async def tidy(self) -> None:
        """Remove files that nobody needs."""
        assert self._worker is not None
        while self.freed:
            self.freed.popleft().live -= 1
        for file in [each for each in self._files if not each.live]:
            if file is self._current:
                self._current = None
            self._files.discard(file)
            await self._worker.run(self._drop, file)

    # The rest runs in the thread.

    def _room(self) -> int:
        found = os.statvfs(self.folder)
        return (found.f_bavail - found.f_blocks // SHARE) * found.f_frsize

    def _prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)

    def _remove(self) -> None:
        for file in self._files:
            os.close(file.descriptor)
        self._files.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, octets: Sequence[Sequence[bytes]]) -> tuple[File, list[tuple[int, int]]]:
        lengths = [sum(map(len, pieces)) for pieces in octets]
        if sum(lengths) > self._spare():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        file = self._current
        if file is None or file.size >= FILE_SIZE:
            self._number += 1
            file = self._current = File(self.folder / str(self._number))
            self._files.add(file)
        places: list[tuple[int, int]] = []
        at = file.size
        for length in lengths:
            places.append((at, length))
            at += length
        _write_all(file.descriptor, chain.from_iterable(octets), file.size)
        file.size = at
        return file, places

    def _read(self, slot: Slot) -> list[bytes]:
        file, at, end = slot.file, slot.offset, slot.offset + slot.length
        pieces: list[bytes] = []
        while at < end:
            size = min(PIECE if pieces else slot.first + PIECE, end - at)
            try:
                octets = os.pread(file.descriptor, size, at)
            except OSError as problem:
                raise StoreError(f"{file.path} cannot be read: {problem.strerror}") from problem
            if len(octets) != size:
                raise StoreError(f"{file.path} is shorter than it should be")
            pieces.append(octets)
            at += size
        return pieces

    def _drop(self, file: File) -> None:
        os.close(file.descriptor)
        file.path.unlink(missing_ok=True)


def _encoded(messages: Sequence[Message]) -> Sequence[bytes]:
    """Return messages as octets: all in one, but the body of a long message as it came."""
    sizes = array("I")
    parts: list[bytes] = [b""]
    for message in messages:
        payload = message.envelope.payload
        sizes.extend((len(payload), message.header_size, message.size))
        parts += (payload, *message.pieces)
    parts[0] = sizes.tobytes()
    if len(messages) == 1 and messages[0].size > PIECE:
        head = 3  # sizes, publish method, header
        return b"".join(parts[:head]), *parts[head:]
    return (b"".join(parts),)


def _write_all(descriptor: int, pieces: Iterable[bytes], at: int) -> None:
    rest = deque(memoryview(piece) for piece in pieces)
    while rest:
        written = os.pwritev(descriptor, [*islice(rest, AT_ONCE)], at)
        at += written
        while rest and written >= len(rest[0]):
            written -= len(rest.popleft())
        if written:
            rest[0] = rest[0][written:]

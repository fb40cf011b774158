"""Control: commands for a running broker, by a Unix socket in its data directory.

Law: one line of JSON is a request, and each is answered by one line, whatever it holds. Only the
folder's owner can connect. Whoever asks for something long has to stay: what nobody waits for any
more is given up. Nothing of it keeps the broker from starting or stopping.

Called by: app (makes it), persistence (starts `run`); cli (`ask`, in another process).
"""

from __future__ import annotations

import json
import os
import socket
import stat
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
import trio

from leveret.broker.storage.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME: Final = "control"  # of the socket
LINE_LIMIT: Final = 1 << 16  # octets of a request: a path may have 4096, escaped six times that
AT_ONCE: Final = 16  # connections; others wait until one ends
PATIENCE = 60.0  # seconds for a request to come, and for an answer to be taken

log = structlog.get_logger()


class Copied(Protocol):
    """What can be copied while it is at work: a store."""

    async def backup(self, file: Path, is_wanted: Callable[[], bool]) -> None:
        """Make a copy; `is_wanted` is called in a thread, and says whether to go on."""


class RequestError(Exception):
    """A request cannot be carried out; the text is one line for whoever asked."""


class Control:
    """Takes commands for a store.

    Args:
      folder: The data directory; its lock is held, so a socket in it is a dead process's.
    """

    def __init__(self, folder: Path, store: Copied) -> None:
        self._folder = folder
        self._store = store
        self._limit = trio.Semaphore(AT_ONCE)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `task_status` starts when it does, or when it cannot."""
        with ExitStack() as opened:
            try:
                folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, folder)
                listener = opened.enter_context(_listen(folder))
            except OSError as problem:
                log.warning("control.absent", reason=problem.strerror or str(problem))
                task_status.started()
                return
            task_status.started()
            await self._serve(folder, listener)

    async def _serve(self, folder: int, listener: socket.socket) -> None:
        made = os.stat(NAME, dir_fd=folder, follow_symlinks=False)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._limit.acquire()
                    nursery.start_soon(self._converse, trio.SocketStream(await _accept(listener)))
        finally:
            with suppress(OSError):
                found = os.stat(NAME, dir_fd=folder, follow_symlinks=False)
                if found.st_ino == made.st_ino:
                    os.unlink(NAME, dir_fd=folder)

    async def _converse(self, stream: trio.SocketStream) -> None:
        """Answer one request after the other, until the peer goes or says too much."""
        try:
            async with stream:
                lines = _Lines(stream)
                while True:
                    with trio.fail_after(PATIENCE):
                        line = await lines.next()
                    if line is None:
                        return
                    answer = await self._answer(line, lines)
                    with trio.fail_after(PATIENCE):
                        await stream.send_all(json.dumps(answer).encode() + b"\n")
                    if lines.is_over:
                        return
        except (trio.BrokenResourceError, trio.TooSlowError):
            return
        finally:
            self._limit.release()

    async def _answer(self, line: bytes, lines: _Lines) -> dict[str, object]:
        if lines.is_over:
            return {"error": f"a request has at most {LINE_LIMIT} octets"}
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise RequestError("a request is an object")
            return await self._carry_out(request, lines)
        except (RequestError, StoreError) as problem:
            return {"error": str(problem)}
        except (ValueError, RecursionError):
            return {"error": "this is no JSON"}

    async def _carry_out(self, request: dict[str, Any], lines: _Lines) -> dict[str, object]:
        match request:
            case {"command": "backup", "file": str(name)}:
                file = _path(name)
                await self._while_wanted(file, lines)
                log.info("store.copied", file=name)
                return {"file": name, "octets": (await trio.Path(file).stat()).st_size}
            case {"command": "backup"}:
                raise RequestError("backup needs a file")
            case {"command": str()}:
                raise RequestError("there is no such command")
        raise RequestError("a request has a command")

    async def _while_wanted(self, file: Path, lines: _Lines) -> None:
        """Copy, unless the peer goes away or the broker stops."""
        is_wanted = True
        failure: RequestError | StoreError | None = None

        async def watch() -> None:
            nonlocal is_wanted
            try:
                await lines.end()
            finally:
                is_wanted = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                await self._store.backup(file, lambda: is_wanted)
            except OSError as problem:
                failure = RequestError(f"{file}: {problem.strerror}")
            except StoreError as problem:
                failure = problem
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


def _path(name: str) -> Path:
    """Return where a copy is to be made; it is there as a whole or not at all."""
    try:
        os.fsencode(name)
    except ValueError:
        raise RequestError("no file can have such a name") from None
    if "\0" in name or not name.startswith("/"):
        raise RequestError("the name of a file begins with a slash and has no zero octet")
    return Path(name)


class _Lines:
    """The lines of a stream.

    Attributes:
      is_over: Whether the peer has said more than it may.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._octets = bytearray()
        self.is_over = False

    async def next(self) -> bytes | None:
        """Return the next line; None if the peer has gone."""
        while (end := self._octets.find(b"\n")) < 0:
            if len(self._octets) > LINE_LIMIT:
                self.is_over = True
                return b""
            received = await self._stream.receive_some(LINE_LIMIT)
            if not received:
                return None
            self._octets += received
        line = bytes(self._octets[:end])
        del self._octets[: end + 1]
        return line

    async def end(self) -> None:
        """Return when the peer has gone, or says more than it may."""
        with suppress(trio.BrokenResourceError):
            while len(self._octets) <= LINE_LIMIT:
                received = await self._stream.receive_some(LINE_LIMIT)
                if not received:
                    return
                self._octets += received
        self.is_over = True


def _listen(folder: int) -> socket.socket:
    """Bind and listen in a folder, by its descriptor: its path may be too long for a socket's."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(NAME, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(f"{NAME} is something else")
        os.unlink(NAME, dir_fd=folder)
    listener = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before it has a name: nobody comes in between
        listener.bind(_address(folder))
        listener.listen(AT_ONCE)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _address(folder: int) -> str:
    return f"/proc/self/fd/{folder}/{NAME}"


async def _accept(listener: socket.socket) -> trio.socket.SocketType:
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            continue
        except OSError as problem:  # no descriptors: others will be closed
            log.warning("control.accept_failed", reason=problem.strerror)
            await trio.sleep(1)
            continue
        return trio.socket.from_stdlib_socket(accepted)


# The other side


@contextmanager
def _connected(folder: Path) -> Iterator[socket.socket]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(_address(descriptor))
            yield connection
    finally:
        os.close(descriptor)


def ask(folder: Path, request: dict[str, object]) -> dict[str, Any]:
    """Have a running broker do something, and wait for it, however long it takes.

    Raises:
      StoreError: It does not answer, or says no.
    """
    octets = b""
    try:
        with _connected(folder) as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            while not octets.endswith(b"\n") and (more := connection.recv(LINE_LIMIT)):
                octets += more
    except OSError as problem:
        raise StoreError(f"the broker in {folder} cannot be asked: {problem.strerror}") from None
    if not octets.endswith(b"\n"):
        raise StoreError(f"the broker in {folder} has ended before it was done")
    answer: dict[str, Any] = json.loads(octets)
    if "error" in answer:
        raise StoreError(answer["error"])
    return answer

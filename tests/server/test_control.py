"""The control socket: who can reach it, what it answers, what it gives up."""

import errno
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from leveret.broker.server import control
from leveret.broker.server.control import Control
from leveret.broker.storage.base import StoreError

PATIENCE = 20


class Slow:
    """A store whose copies take as long as the test wants, and cannot be cancelled.

    Attributes:
      problem: What the next copy fails with.
      is_slow: Whether copies wait for `go_on`.
      given_up: The copies that nobody wanted any more.
      ended: Set with the first of them.
    """

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self.is_slow = False
        self.go_on = trio.Event()
        self.begun = trio.Event()
        self.ended = trio.Event()
        self.given_up: list[Path] = []

    async def backup(self, file: Path, is_wanted) -> None:
        self.begun.set()
        with trio.CancelScope(shield=True), trio.fail_after(PATIENCE):
            while self.is_slow and not self.go_on.is_set():
                if not is_wanted():
                    self.given_up.append(file)
                    self.ended.set()
                    raise StoreError("given up")
                await trio.sleep(0.001)
        if self.problem is not None:
            raise self.problem
        await trio.Path(file).write_bytes(b"copy")


@pytest.fixture
def store() -> Slow:
    return Slow()


@asynccontextmanager
async def serving(folder: Path, store: Slow) -> AsyncIterator[Path]:
    """Serve within the block; it must have ended after it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Control(folder, store).run)
        await trio.testing.wait_all_tasks_blocked()
        yield folder / "control"
        nursery.cancel_scope.cancel()


async def connect(path: Path) -> trio.SocketStream:
    return await trio.open_unix_socket(path)


async def answer(stream: trio.SocketStream) -> dict:
    octets = b""
    with trio.fail_after(PATIENCE):
        while not octets.endswith(b"\n"):
            more = await stream.receive_some()
            assert more, "it hung up"
            octets += more
    return json.loads(octets)


async def ask(stream: trio.SocketStream, request: object) -> dict:
    octets = request if isinstance(request, bytes) else json.dumps(request).encode()
    await stream.send_all(octets + b"\n")
    return await answer(stream)


# Who can reach it


async def test_only_the_owner_can_connect_whatever_the_umask_is(tmp_path, store):
    before = os.umask(0)
    try:
        async with serving(tmp_path, store) as path:
            mode = path.stat().st_mode
    finally:
        os.umask(before)

    assert stat.S_IFSOCK | 0o600 == mode


async def test_it_is_gone_at_the_end(tmp_path, store):
    async with serving(tmp_path, store) as path:
        assert path.exists()

    assert [] == list(tmp_path.iterdir())


async def test_a_folder_may_have_a_path_that_is_too_long_for_a_socket(tmp_path, store):
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)

    async with serving(folder, store):
        request = {"command": "backup", "file": str(tmp_path / "copy")}
        told = await trio.to_thread.run_sync(control.ask, folder, request)

    assert {"file": str(tmp_path / "copy"), "octets": 4} == told
    assert b"copy" == (tmp_path / "copy").read_bytes()


async def test_a_socket_of_a_dead_process_is_replaced(tmp_path, store):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control"))

    async with serving(tmp_path, store) as path, await connect(path) as stream:
        assert "error" in await ask(stream, {})


async def test_something_else_of_that_name_is_left_alone_with_a_warning(tmp_path, store):
    (tmp_path / "control").write_text("precious")

    with structlog.testing.capture_logs() as logs:
        await Control(tmp_path, store).run()

    assert [("control.absent", "control is something else", "warning")] == [
        (line["event"], line["reason"], line["log_level"]) for line in logs
    ]
    assert "precious" == (tmp_path / "control").read_text()


async def test_a_socket_that_cannot_be_made_is_a_warning(tmp_path, store, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    with structlog.testing.capture_logs() as logs:
        await Control(tmp_path / "nowhere", store).run()
        monkeypatch.setattr(socket.socket, "bind", refuse)
        await Control(tmp_path, store).run()

    assert ["No such file or directory", "Operation not permitted"] == [
        line["reason"] for line in logs if line["event"] == "control.absent"
    ]


async def test_a_socket_that_another_process_has_put_there_since_is_left_to_it(tmp_path, store):
    with socket.socket(socket.AF_UNIX) as other:
        async with serving(tmp_path, store) as path:
            path.unlink()
            other.bind(str(path))

        assert path.exists()


# What it answers


async def test_a_copy_is_made_and_told(tmp_path, store):
    file = tmp_path / "copy"

    async with serving(tmp_path, store) as path, await connect(path) as stream:
        told = await ask(stream, {"command": "backup", "file": str(file)})

    assert {"file": str(file), "octets": 4} == told


async def test_a_copy_that_cannot_be_made_is_told(tmp_path, store):
    request = {"command": "backup", "file": str(tmp_path / "copy")}

    async with serving(tmp_path, store) as path, await connect(path) as stream:
        store.problem = StoreError("the copy is there already")
        first = await ask(stream, request)
        store.problem = OSError(errno.ENOSPC, "No space left on device")
        second = await ask(stream, request)

    assert {"error": "the copy is there already"} == first
    assert {"error": f"{tmp_path}/copy: No space left on device"} == second


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b"", "this is no JSON"),
        (b"\xff\xfe{}", "this is no JSON"),
        (b"{" * 3000, "this is no JSON"),
        (b"[" * 60_000, "this is no JSON"),
        (b"9" * 60_000, "this is no JSON"),
        (b"[]", "a request is an object"),
        (b"null", "a request is an object"),
        ({}, "a request has a command"),
        ({"command": 7}, "a request has a command"),
        ({"command": "stop"}, "there is no such command"),
        ({"command": "backup"}, "backup needs a file"),
        ({"command": "backup", "file": ["/"]}, "backup needs a file"),
        ({"command": "backup", "file": "copy"}, "begins with a slash"),
        ({"command": "backup", "file": ""}, "begins with a slash"),
        ({"command": "backup", "file": "/a\0b"}, "no zero octet"),
        (b'{"command": "backup", "file": "/\\ud800"}', "no file can have such a name"),
    ],
)
async def test_whatever_is_asked_is_answered_and_the_next_request_too(
    tmp_path, store, request_, error
):
    async with serving(tmp_path, store) as path, await connect(path) as stream:
        told = await ask(stream, request_)
        again = await ask(stream, {"command": "stop"})

    assert ["error"] == list(told)
    assert error in told["error"]
    assert {"error": "there is no such command"} == again


async def test_requests_that_come_together_are_answered_in_their_order(tmp_path, store):
    async with serving(tmp_path, store) as path, await connect(path) as stream:
        await stream.send_all(b'[]\n{"command": "x"}\n{"comm')
        lines = []
        octets = b""
        with trio.fail_after(PATIENCE):
            while octets.count(b"\n") < 2:
                octets += await stream.receive_some()
        lines = [json.loads(line)["error"] for line in octets.splitlines()]
        assert {"error": "backup needs a file"} == await ask(stream, b'and": "backup"}')

    assert ["a request is an object", "there is no such command"] == lines


async def test_a_request_that_does_not_end_is_refused_and_its_connection_closed(tmp_path, store):
    async with serving(tmp_path, store) as path, await connect(path) as stream:
        await stream.send_all(b"x" * (control.LINE_LIMIT + 1))

        assert {"error": "a request has at most 65536 octets"} == await answer(stream)
        with trio.fail_after(PATIENCE):
            assert b"" == await _rest(stream)


async def _rest(stream: trio.SocketStream) -> bytes:
    try:
        return await stream.receive_some()
    except trio.BrokenResourceError:  # it was closed with octets that nobody read
        return b""


async def test_who_says_nothing_is_let_go(tmp_path, store, autojump_clock):
    async with serving(tmp_path, store) as path, await connect(path) as stream:
        started = trio.current_time()

        assert b"" == await stream.receive_some()

        assert control.PATIENCE == pytest.approx(trio.current_time() - started, abs=1)


async def test_connections_that_are_too_many_wait_until_another_ends(tmp_path, store):
    async with serving(tmp_path, store) as path:
        first = [await connect(path) for _ in range(control.AT_ONCE)]
        for stream in first:
            await ask(stream, {})
        late = await connect(path)
        await late.send_all(b"{}\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.move_on_after(0.05) as scope:
            await late.receive_some()
        assert scope.cancelled_caught

        await first[0].aclose()

        assert {"error": "a request has a command"} == await answer(late)
        for stream in (*first, late):
            await stream.aclose()


async def test_who_goes_without_reading_the_answer_harms_nobody(tmp_path, store):
    async with serving(tmp_path, store) as path:
        for _ in range(3 * control.AT_ONCE):
            stream = await connect(path)
            await stream.send_all(b"[]\n[]\n")
            await stream.aclose()
        async with await connect(path) as stream:
            assert "error" in await ask(stream, {})


# What it gives up


async def test_a_copy_goes_on_while_its_peer_waits_and_others_are_answered(tmp_path, store):
    store.is_slow = True
    async with serving(tmp_path, store) as path, await connect(path) as stream:
        await stream.send_all(b'{"command": "backup", "file": "%b/copy"}\n' % bytes(tmp_path))
        await store.begun.wait()

        async with await connect(path) as other:
            assert "error" in await ask(other, {})
        store.go_on.set()

        assert 4 == (await answer(stream))["octets"]
    assert [] == store.given_up


async def test_a_copy_that_nobody_waits_for_is_given_up(tmp_path, store):
    store.is_slow = True
    async with serving(tmp_path, store) as path:
        stream = await connect(path)
        await stream.send_all(b'{"command": "backup", "file": "/copy"}\n')
        await store.begun.wait()
        await stream.aclose()
        with trio.fail_after(PATIENCE):
            await store.ended.wait()

    assert [Path("/copy")] == store.given_up


async def test_a_broker_that_stops_does_not_wait_for_a_copy(tmp_path, store):
    store.is_slow = True
    with trio.fail_after(PATIENCE):
        async with serving(tmp_path, store) as path:
            stream = await connect(path)
            await stream.send_all(b'{"command": "backup", "file": "/copy"}\n')
            await store.begun.wait()

    assert [Path("/copy")] == store.given_up
    await stream.aclose()


# The other side


async def test_asking_raises_what_the_broker_says(tmp_path, store):
    async with serving(tmp_path, store):
        with pytest.raises(StoreError, match="there is no such command"):
            await trio.to_thread.run_sync(control.ask, tmp_path, {"command": "x"})


def test_asking_where_nobody_is_says_so(tmp_path):
    with pytest.raises(StoreError, match=f"the broker in {tmp_path} cannot be asked: No such"):
        control.ask(tmp_path, {"command": "x"})


async def test_a_broker_that_ends_in_between_is_told(tmp_path, store):
    store.is_slow = True
    problems = []

    def ask_() -> None:
        try:
            control.ask(tmp_path, {"command": "backup", "file": "/copy"})
        except StoreError as problem:
            problems.append(str(problem))

    async with trio.open_nursery() as nursery, serving(tmp_path, store):
        nursery.start_soon(trio.to_thread.run_sync, ask_)
        await store.begun.wait()

    assert [f"the broker in {tmp_path} has ended before it was done"] == problems

"""Listeners: binding, accepting, and what happens at each limit."""

import errno
import os
import resource
import select
import socket
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from leveret.broker.core.broker import Broker, Limits
from leveret.broker.server import listener
from leveret.broker.server.turns import Turns

from ..support.launch import launch

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
LOOPBACK = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
LOOPBACK_6 = socket.getaddrinfo("::1", 0, type=socket.SOCK_STREAM)


@pytest.fixture
def opened():
    """Close what a test opened."""
    sockets = []
    yield sockets
    for one in sockets:
        one.close()


def resolving(monkeypatch, *found):
    """Have every host resolve to these."""
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [one for some in found for one in some]
    )


# TCP


def test_port_0_is_one_port_on_ipv4_and_ipv6(monkeypatch, opened):
    resolving(monkeypatch, LOOPBACK, LOOPBACK_6)

    opened += listener.listen_tcp("localhost", 0)

    first, second = [one.getsockname() for one in opened]
    assert ("127.0.0.1", "::1") == (first[0], second[0])
    assert first[1] == second[1] != 0
    monkeypatch.undo()
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, first[1])).close()


def test_every_address_that_a_resolver_names_twice_is_bound_once(monkeypatch, opened):
    resolving(monkeypatch, LOOPBACK, LOOPBACK)

    opened += listener.listen_tcp("localhost", 0)

    assert 1 == len(opened)


def test_a_family_this_machine_has_not_is_left_out(monkeypatch, opened):
    foreign = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]
    resolving(monkeypatch, foreign, LOOPBACK)

    opened += listener.listen_tcp("localhost", 0)

    assert ["127.0.0.1"] == [one.getsockname()[0] for one in opened]


def test_an_address_this_machine_has_not_is_an_error():
    with pytest.raises(OSError, match="Cannot assign") as found:
        listener.listen_tcp("192.0.2.1", 0)

    assert errno.EADDRNOTAVAIL == found.value.errno


def test_a_port_in_use_is_an_error_that_leaves_nothing_bound(monkeypatch, opened):
    opened.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
    port = opened[0].getsockname()[1]
    resolving(
        monkeypatch,
        [(*LOOPBACK[0][:4], ("127.0.0.1", port))],
        [(*LOOPBACK_6[0][:4], ("::1", port, 0, 0))],
    )

    with pytest.raises(OSError, match="in use"):
        listener.listen_tcp("localhost", port)

    opened.append(socket.create_server(("127.0.0.1", port)))  # free again


def test_a_port_that_had_clients_can_be_bound_at_once(opened):
    """After a restart the connections of the old process are still in TIME_WAIT."""
    [first] = listener.listen_tcp("127.0.0.1", 0)
    address = first.getsockname()
    client = socket.create_connection(address)
    while True:
        with suppress(BlockingIOError):
            accepted, _ = first.accept()
            break
    accepted.close()  # who closes first is the one that waits
    assert b"" == client.recv(1)
    client.close()
    first.close()

    opened += listener.listen_tcp(*address)

    assert address == opened[0].getsockname()


def test_what_is_accepted_sends_at_once_and_asks_whether_its_peer_is_alive(opened):
    opened += listener.listen_tcp("127.0.0.1", 0)
    opened.append(socket.create_connection(opened[0].getsockname()))
    opened[0].setblocking(True)
    accepted, _ = opened[0].accept()

    with accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# Unix sockets


def test_a_unix_socket_is_made_and_taken_away(tmp_path):
    path = str(tmp_path / "amqp.sock")
    made = listener.listen_unix(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)

    listener.close(made)
    listener.close(made)

    assert not os.path.exists(path)


def test_a_socket_left_by_a_dead_process_is_replaced(tmp_path, opened):
    path = str(tmp_path / "amqp.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    assert os.path.exists(path)

    opened.append(listener.listen_unix(path))

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


@pytest.mark.parametrize("waiting", [0, 1], ids=["idle", "with a full backlog"])
def test_a_socket_of_a_living_process_is_left_alone(tmp_path, opened, waiting):
    path = str(tmp_path / "amqp.sock")
    living = socket.socket(socket.AF_UNIX)
    opened.append(living)
    living.bind(path)
    living.listen(0)
    for _ in range(waiting):
        opened.append(socket.socket(socket.AF_UNIX))
        opened[-1].connect(path)

    with pytest.raises(OSError, match="in use"):
        listener.listen_unix(path)

    assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "folder", "in no folder", "too long"])
def test_a_path_that_cannot_be_a_socket_is_an_error_and_stays(tmp_path, kind):
    path = tmp_path / "amqp.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "in no folder":
        path = path / "amqp.sock"
    else:
        path = tmp_path / ("x" * 108)

    with pytest.raises(OSError, match=r"in use|No such|too long"):
        listener.listen_unix(str(path))

    assert kind != "file" or path.read_text() == "precious"


# Accepting


class Listening:
    """A listener that accepts in the test's loop.

    Its sockets are Unix sockets: what is sent is there at once, so a virtual clock cannot overtake.
    """

    def __init__(self, nursery: trio.Nursery, folder: Path, **limits: int) -> None:
        self.broker = Broker(Limits(**limits))
        self.broker.add_defaults()
        self.turns = Turns(self.broker, lambda: int(trio.current_time() * 1000))
        self.path = str(folder / "amqp.sock")
        self.bound = listener.listen_unix(self.path)
        self.nursery = nursery
        self.is_over = trio.Event()
        nursery.start_soon(self.turns.poller.run)
        nursery.start_soon(self.turns.go_on)

    def accept_from(self, source) -> None:
        self.nursery.start_soon(self._accept, source)

    async def _accept(self, source) -> None:
        await listener.accept(source, self.turns, self.nursery)
        self.is_over.set()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_unix_socket(self.path)


@pytest.fixture
async def listening(nursery, tmp_path):
    """A listener that accepts clients."""
    made = Listening(nursery, tmp_path, max_connections=3)
    made.accept_from(made.bound)
    yield made
    listener.close(made.bound)


async def greeting(stream) -> bytes:
    """Return what the broker says first; nothing if it has closed."""
    with trio.fail_after(10):
        with suppress(trio.BrokenResourceError):
            await stream.send_all(PROTOCOL_HEADER)
        try:
            return await stream.receive_some(7)
        except trio.BrokenResourceError:
            return b""


GREETED = b"\x01\x00\x00\x00\x00"  # a method on channel 0


async def test_one_connection_too_many_is_closed_and_the_next_one_served(listening):
    streams = [await listening.connect() for _ in range(3)]
    for stream in streams:
        assert (await greeting(stream)).startswith(GREETED)

    with structlog.testing.capture_logs() as logs:
        async with await listening.connect() as refused:
            assert b"" == await greeting(refused)
    assert [("connection.refused", "limit of 3 connections")] == [
        (line["event"], line["reason"]) for line in logs
    ]

    await streams.pop().aclose()
    while len(listening.broker.sessions) == 3:
        await trio.testing.wait_all_tasks_blocked()
    streams.append(await listening.connect())
    assert (await greeting(streams[-1])).startswith(GREETED)
    for stream in streams:
        await stream.aclose()


async def test_a_closed_listener_ends_its_task(listening):
    await trio.testing.wait_all_tasks_blocked()

    listener.close(listening.bound)

    with trio.fail_after(10):
        await listening.is_over.wait()


async def test_a_storm_of_clients_leaves_others_their_turns(nursery, tmp_path, monkeypatch, opened):
    monkeypatch.setattr(listener, "ACCEPT_LIMIT", 8)
    made = Listening(nursery, tmp_path)
    for _ in range(100):
        opened.append(socket.socket(socket.AF_UNIX))
        opened[-1].connect(made.path)
    made.accept_from(made.bound)
    seen = [0]
    while seen[-1] < 100:
        await trio.lowlevel.checkpoint()
        seen.append(len(made.broker.sessions))

    # the loop may let one of two tasks go twice before the other
    assert max(after - before for before, after in pairwise(seen)) <= 2 * 8
    listener.close(made.bound)


class Failing:
    """A listener whose next accepts fail."""

    def __init__(self, bound: socket.socket, *numbers: int) -> None:
        self.bound = bound
        self.problems = [OSError(number, os.strerror(number)) for number in numbers]
        self.fileno = bound.fileno

    def accept(self):
        if self.problems:
            raise self.problems.pop(0)
        return self.bound.accept()


OVERLOADS = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]


@pytest.mark.parametrize("number", OVERLOADS, ids=[errno.errorcode[one] for one in OVERLOADS])
async def test_an_overload_pauses_accepting_and_is_logged_once(
    nursery, tmp_path, autojump_clock, number
):
    made = Listening(nursery, tmp_path)
    source = Failing(made.bound, *[number] * 5)

    async with await made.connect() as client:
        start = trio.current_time()
        with structlog.testing.capture_logs() as logs:
            made.accept_from(source)
            assert (await greeting(client)).startswith(GREETED)

        assert trio.current_time() - start >= 5 * listener.OVERLOAD_PAUSE
        assert [("accept.failed", os.strerror(number))] == [
            (line["event"], line["reason"]) for line in logs
        ]
    listener.close(made.bound)


async def test_a_client_that_left_before_it_was_accepted_pauses_nothing(
    nursery, tmp_path, autojump_clock
):
    made = Listening(nursery, tmp_path)

    async with await made.connect() as client:
        start = trio.current_time()
        made.accept_from(Failing(made.bound, *[errno.ECONNABORTED] * 5))
        assert (await greeting(client)).startswith(GREETED)

        assert 0 == trio.current_time() - start
    listener.close(made.bound)


async def test_closing_the_listener_during_a_pause_ends_its_task(nursery, tmp_path, autojump_clock):
    made = Listening(nursery, tmp_path)
    made.accept_from(Failing(made.bound, *[errno.EMFILE] * 1000))
    async with await made.connect():
        await trio.sleep(5 * listener.OVERLOAD_PAUSE)

        listener.close(made.bound)

        with trio.fail_after(2 * listener.OVERLOAD_PAUSE):
            await made.is_over.wait()


async def test_a_socket_that_cannot_be_watched_is_closed_and_forgotten(
    nursery, tmp_path, monkeypatch
):
    made = Listening(nursery, tmp_path)
    add, problems = made.turns.poller.add, [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    def fail_once(descriptor, reader):
        if problems:
            raise problems.pop()
        add(descriptor, reader)

    monkeypatch.setattr(made.turns.poller, "add", fail_once)
    made.accept_from(made.bound)
    async with await made.connect() as first:
        assert b"" == await greeting(first)
    assert not made.broker.sessions
    async with await made.connect() as second:
        assert (await greeting(second)).startswith(GREETED)
    listener.close(made.bound)


def test_process_without_free_descriptors_serves_those_it_has_and_then_the_others(tmp_path):
    with (
        launch(tmp_path, "--in-memory", "--listen", "127.0.0.1:0") as launched,
        ExitStack() as stack,
    ):
        address, pid = launched.ready(), launched.process.pid
        limit = len(os.listdir(f"/proc/{pid}/fd")) + 10
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        clients = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(15)]
        for client in clients:
            client.sendall(PROTOCOL_HEADER)
        for client in clients[:10]:
            assert client.recv(7).startswith(GREETED)
        assert [] == select.select(clients[10:], [], [], 3 * listener.OVERLOAD_PAUSE)[0]

        for client in clients[:5]:
            client.close()

        for client in clients[10:]:
            assert client.recv(7).startswith(GREETED)
        assert 1 == launched.log.read_text().count("accept.failed")  # it has lasted all the time

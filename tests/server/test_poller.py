"""The poller: who can be read is called, in turns with everyone else in the loop."""

import socket
from time import perf_counter

import pytest
import trio
import trio.testing

from leveret.broker.server import poller as poller_module
from leveret.broker.server.poller import Poller


class Reader:
    """A socket that is polled, and what sends to it."""

    def __init__(self, poller, log, name, then=None):
        self.poller = poller
        self.log = log
        self.name = name
        self.then = then
        self.socket, self.other = socket.socketpair()
        self.socket.setblocking(False)

    def start(self):
        self.poller.add(self.socket.fileno(), self)
        return self

    def read(self):
        self.log.append((self.name, self.socket.recv(100)))
        if self.then is not None:
            self.then()

    def end(self):
        self.log.append((self.name, "ended"))

    def close(self):
        self.socket.close()
        self.other.close()


@pytest.fixture
def log():
    return []


@pytest.fixture
def poller():
    return Poller()


@pytest.fixture
def readers(poller, log):
    """Make readers, whose sockets are closed at the end."""
    made = []

    def make(*names, then=None):
        made.extend(Reader(poller, log, name, then).start() for name in names)
        return made[-len(names) :]

    yield make
    for reader in made:
        reader.close()


async def settle():
    """Give the poller its turns until nothing is left to read."""
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_who_can_be_read_is_called(poller, readers, log, nursery):
    one, two, _ = readers("one", "two", "three")
    nursery.start_soon(poller.run)
    one.other.send(b"1")
    two.other.send(b"2")
    await settle()
    one.other.send(b"3")
    await settle()

    assert sorted(log[:2]) == [("one", b"1"), ("two", b"2")]
    assert log[2:] == [("one", b"3")]


async def test_who_was_removed_is_not_called_until_added_again(poller, readers, log, nursery):
    [one] = readers("one")
    nursery.start_soon(poller.run)
    poller.remove(one.socket.fileno())
    one.other.send(b"1")
    await settle()
    assert log == []

    one.start()
    await settle()

    assert log == [("one", b"1")]


async def test_who_is_removed_by_another_in_a_pass_is_not_called(poller, readers, log, nursery):
    def remove_the_other():
        for reader in pair:
            if reader.name != log[-1][0]:
                poller.remove(reader.socket.fileno())

    pair = readers("one", "two", then=remove_the_other)
    for reader in pair:
        reader.other.send(b"x")
    nursery.start_soon(poller.run)
    await settle()

    assert len(log) == 1


async def test_fault_of_one_ends_that_one_only(poller, readers, log, nursery):
    def fail():
        raise RuntimeError("a fault of the test's own")

    [bad] = readers("bad", then=fail)
    [good] = readers("good")
    nursery.start_soon(poller.run)
    for reader in (bad, good):
        reader.other.send(b"x")
    await settle()
    good.other.send(b"y")
    await settle()

    assert ("bad", "ended") in log
    assert log[-1] == ("good", b"y")


async def test_all_that_are_left_end_with_it(poller, readers, log):
    readers("one", "two")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        await settle()
        nursery.cancel_scope.cancel()

    assert sorted(log) == [("one", "ended"), ("two", "ended")]


async def test_who_comes_after_its_end_is_ended_at_once(poller, readers, log):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        await settle()
        nursery.cancel_scope.cancel()

    readers("late")

    assert log == [("late", "ended")]


@pytest.fixture
def passes(poller, readers, nursery, monkeypatch):
    """Have so many read, who take a second each: reads and ends of passes, and when others came."""

    async def run(count, seconds):
        now, came, others = [0.0], [], []
        token = trio.lowlevel.current_trio_token()

        def read():
            now[0] += 1
            came.append("read" if poller.is_passing else "read outside")
            token.run_sync_soon(lambda: others.append(poller.is_passing))

        monkeypatch.setattr(poller_module, "PASS", seconds)
        monkeypatch.setattr(poller_module, "perf_counter", lambda: now[0])
        poller.passed = lambda: came.append("end")
        for reader in readers(*range(count), then=read):
            reader.other.send(b"x")
        nursery.start_soon(poller.run)
        await settle()
        return came, others

    return run


async def test_whoever_waits_for_the_end_of_a_pass_is_told_before_others_come_in(passes):
    """Commits begin there: while clients leave the poller no rest there would be none."""
    came, others = await passes(3, 0)

    assert ["read", "end"] * 3 + ["end"] == came
    assert [False] * 3 == others


async def test_each_pass_has_its_whole_time(passes):
    came, _ = await passes(6, 2)

    assert [*["read"] * 3, "end"] * 2 + ["end"] == came


async def test_others_in_the_loop_come_in_between(poller, readers, log, nursery, monkeypatch):
    """Ten that take a millisecond each, with passes of two: nobody waits for all ten."""
    monkeypatch.setattr(poller_module, "PASS", 0.002)

    def work():
        until = perf_counter() + 0.001
        while perf_counter() < until:
            pass

    for reader in readers(*range(10), then=work):
        reader.other.send(b"x")
    nursery.start_soon(poller.run)
    seen = []
    while len(log) < 10:
        await trio.lowlevel.checkpoint()
        seen.append(len(log))

    assert len(log) == 10
    assert any(0 < count < 10 for count in seen)

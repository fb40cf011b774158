"""The clock: timers in virtual time, jumps of the wall clock."""

import time
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from leveret.broker.core.broker import Broker
from leveret.broker.reports import subscribe
from leveret.broker.server import clock
from leveret.broker.server.turns import Turns
from leveret.broker.storage.memory import MemoryStore

from ..support.durable import durable, pass_time
from ..support.edge import edge


class Wall:
    """How far the wall clock is ahead of one that never jumps, and that of the event loop's."""

    def __init__(self):
        self.ahead = 1_000_000
        self.slept = 0

    def __call__(self):
        return self.ahead


@pytest.fixture
def wall():
    return Wall()


@asynccontextmanager
async def running(broker, wall):
    """Run the timers within the block."""
    clock.set_clock(broker)
    turns = Turns(broker, partial(clock.now, broker))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.go_on)
        nursery.start_soon(clock.Clock(turns, wall, lambda: wall.slept).run)
        await trio.testing.wait_all_tasks_blocked()
        yield turns
        nursery.cancel_scope.cancel()


async def test_timer_is_called_when_it_is_due(autojump_clock, broker, wall):
    called = []
    async with running(broker, wall):
        start = broker.now
        for milliseconds in (5, 4321, 3_600_000):
            broker.timers.at(start + milliseconds, lambda: called.append(broker.now - start))
        await trio.sleep(3601)

    assert [5, 4321, 3_600_000] == called


async def test_timer_set_later_and_due_earlier_is_called_in_time(autojump_clock, broker, wall):
    called = []
    async with running(broker, wall):
        start = broker.now
        broker.timers.at(start + 900, lambda: called.append(broker.now - start))
        await trio.sleep(0.1)
        broker.timers.at(start + 200, lambda: called.append(broker.now - start))
        await trio.sleep(1)

    assert [200, 900] == called


async def test_timer_that_sets_itself_again_is_called_at_each_time(autojump_clock, broker, wall):
    called = []

    def again():
        called.append(broker.now - start)
        if len(called) < 1000:
            timer.move(broker.now + 7)

    async with running(broker, wall):
        start = broker.now
        timer = broker.timers.at(start + 7, again)
        await trio.sleep(8)

    assert list(range(7, 7001, 7)) == called


async def test_while_nothing_is_due_it_wakes_up_once_a_second(autojump_clock, broker, wall):
    async with running(broker, wall) as turns:
        looks = []
        turns.lookers.append(lambda: looks.append(trio.current_time()))
        await trio.sleep(60.5)

    assert 60 == len(looks)


async def test_what_a_timer_causes_is_carried_out(autojump_clock, broker, connect, wall):
    client = connect()
    client.declare("q")
    queue = broker.vhosts["/"].queues["q"]
    flushed = []

    class Peer:
        memory = 0

        def flush(self):
            flushed.append(broker.now - start)

    def cause():
        queue.touch()
        broker.batch.flushing[Peer()] = None

    async with running(broker, wall):
        start = broker.now
        broker.timers.at(start + 30, cause)
        await trio.sleep(1)

        assert [30] == flushed
        assert not broker.batch.touched


async def test_others_have_their_turn_while_very_much_is_due(autojump_clock, broker, wall):
    turn = []
    has_begun = trio.Event()

    def slow():
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        turn.append("timer")
        has_begun.set()

    async with running(broker, wall):
        for _ in range(20):
            broker.timers.at(broker.now, slow)
        await has_begun.wait()
        while turn.count("timer") < 20:
            turn.append("other")
            await trio.lowlevel.checkpoint()

    assert turn.count("other") > 4


async def test_callback_that_fails_is_logged_and_others_are_called(autojump_clock, broker, wall):
    called = []

    def fail():
        raise RuntimeError("a fault of the test's own")

    with capture_logs() as logs:
        async with running(broker, wall):
            broker.timers.at(broker.now + 1, fail)
            broker.timers.at(broker.now + 1, lambda: called.append(1))
            await trio.sleep(1)

    assert [1] == called
    assert ["slice.failed"] == [line["event"] for line in logs]
    assert "fail" in logs[0]["where"]


async def test_wall_is_the_time_of_day_and_goes_with_the_clock(autojump_clock, broker, wall):
    async with running(broker, wall) as turns:
        assert abs(broker.wall - time.time() * 1000) < 1000
        start = broker.wall
        await trio.sleep(3600)
        turns.look_at_clock()

        assert 3_600_000 == broker.wall - start


@pytest.mark.parametrize("jump", [1001, -1001, 86_400_000])
async def test_jump_of_the_wall_clock_moves_the_wall_and_is_told(autojump_clock, wall, jump):
    broker = Broker()
    subscribe(broker)
    told = []
    broker.events.subscribe("clock.jumped", lambda difference: told.append(difference))
    with capture_logs() as logs:
        async with running(broker, wall):
            offset = broker.wall_offset
            await trio.sleep(5)
            wall.ahead += jump
            await trio.sleep(5)

    assert [jump] == told
    assert jump == broker.wall_offset - offset
    assert [("clock.jumped", jump)] == [(line["event"], line["difference_ms"]) for line in logs]


async def test_wall_clock_that_is_moved_in_small_steps_is_followed_in_large_ones(
    autojump_clock, broker, wall
):
    told = []
    broker.events.subscribe("clock.jumped", lambda difference: told.append(difference))
    async with running(broker, wall):
        await trio.sleep(0.5)  # the looks are between the steps
        for _ in range(25):
            wall.ahead += 100
            await trio.sleep(1)

    assert [1100, 1100] == told


async def test_deadlines_do_not_move_with_the_wall_clock(autojump_clock, broker, wall):
    called = []
    async with running(broker, wall):
        start = trio.current_time()
        broker.timers.at(broker.now + 5000, lambda: called.append(trio.current_time() - start))
        wall.ahead += 3_600_000
        await trio.sleep(6)

    assert [pytest.approx(5, abs=0.002)] == called


async def test_what_was_due_while_the_machine_slept_is_due_at_once(autojump_clock, wall):
    broker = Broker()
    subscribe(broker)
    called = []
    with capture_logs() as logs:
        async with running(broker, wall):
            start, wall_start = broker.now, broker.wall
            for hours in (1, 3):
                broker.timers.at(start + hours * 3_600_000, partial(called.append, hours))
            await trio.sleep(0.5)
            wall.slept += 2 * 3_600_000
            await trio.sleep(1)
            assert [1] == called
            await trio.sleep(3600)

    assert [1, 3] == called
    assert broker.now - start == broker.wall - wall_start >= 3 * 3_600_000
    assert [("clock.slept", 7_200_000)] == [(line["event"], line["milliseconds"]) for line in logs]


def test_difference_of_the_clocks_is_the_same_at_any_moment():
    first = clock.difference()
    time.perf_counter()

    assert abs(clock.difference() - first) <= 100


async def test_server_runs_timers_and_has_the_time_of_day(tmp_path):
    """In real time: it is a few milliseconds late at most, not the next second."""
    called = trio.Event()
    async with edge(path=tmp_path / "socket") as made:
        broker = made.broker
        assert abs(broker.wall - time.time() * 1000) < 60_000
        broker.timers.at(clock.now(broker) + 5, called.set)
        with trio.fail_after(0.9):
            await called.wait()


async def test_broker_with_a_store_runs_timers_too(mock_clock):
    called = []
    async with durable(MemoryStore()) as made:
        broker = made.broker
        assert abs(broker.wall - time.time() * 1000) < 60_000
        start = broker.now
        broker.timers.at(start + 700, lambda: called.append(broker.now - start))
        await pass_time(0.6)
        assert [] == called
        await pass_time(0.2)

    assert [800] == called

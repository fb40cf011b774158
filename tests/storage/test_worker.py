"""The thread that works for the event loop."""

import gc
import threading
import weakref

import pytest
import trio
import trio.testing

from leveret.broker.storage.worker import Job, Worker


@pytest.fixture
async def worker():
    made = Worker("a worker")
    yield made
    made.close()


async def test_a_function_is_called_in_another_thread_and_always_in_the_same(worker):
    threads = {await worker.run(threading.get_ident) for _ in range(3)}

    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_what_a_function_raises_is_raised(worker):
    with pytest.raises(ZeroDivisionError):
        await worker.run(divmod, 1, 0)

    assert (3, 1) == await worker.run(divmod, 10, 3)


async def test_what_was_raised_leaves_no_cycle(worker):
    class Problem(Exception):
        pass

    def work():
        raise Problem

    async def fail():
        try:
            await worker.run(work)
        except Problem as problem:
            return weakref.ref(problem)

    gc.collect()
    gc.disable()
    try:
        problem = await fail()
        assert problem() is None
    finally:
        gc.enable()


async def test_functions_are_called_in_the_order_in_which_they_were_handed_over(worker):
    done = []
    begin = threading.Event()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, begin.wait)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10):
            nursery.start_soon(worker.run, done.append, number)
            await trio.testing.wait_all_tasks_blocked()
        begin.set()

    assert list(range(10)) == done


async def test_a_wait_ends_when_the_work_is_done_even_if_cancelled(worker):
    begin, done = threading.Event(), []

    def work():
        begin.wait()
        done.append("done")

    with trio.CancelScope() as scope:
        scope.cancel()
        trio.lowlevel.current_trio_token().run_sync_soon(begin.set)
        await worker.run(work)
        done.append("and told")

    assert ["done", "and told"] == done


async def test_what_is_pending_can_be_done_from_within_something_long(worker):
    handed_over, done = threading.Event(), []

    def something_long():
        handed_over.wait()
        worker.run_pending()
        done.append("long")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, something_long)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(worker.run, done.append, "short")
        await trio.testing.wait_all_tasks_blocked()
        handed_over.set()

    assert ["short", "long"] == done


async def test_closing_ends_the_thread_after_what_was_handed_over():
    worker = Worker("a worker")
    done = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, done.append, "done")
        await trio.testing.wait_all_tasks_blocked()
        worker.close()

    assert ["done"] == done
    assert "a worker" not in {thread.name for thread in threading.enumerate()}


def test_a_thread_whose_event_loop_is_gone_goes_on_quietly():
    made, done = [], []

    async def main():
        made.append(Worker("a worker"))
        made.append(Job(done.append, ("done",), trio.lowlevel.current_task()))

    trio.run(main)
    worker, job = made
    worker._jobs.put(job)

    worker.close()

    assert ["done"] == done


async def test_what_is_posted_is_done_in_its_turn_and_nobody_is_told(worker):
    done = []
    worker.post(lambda: done.append("posted"))
    worker.post(lambda: done.append("posted too"))
    await worker.run(done.append, "waited for")

    assert ["posted", "posted too", "waited for"] == done

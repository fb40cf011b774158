"""Celery's ETA in the broker: real workers, unmodified, on queues declared with `x-celery`.

A worker that is sent a task before its time keeps it, and asks for one more task in its place: it
logs "received", shows it under `inspect scheduled`, and its prefetch count grows. None of this may
happen here, so the tests look at the worker and ask nothing about how a broker holds a task.

Whatever is said not to come is followed by a task that is due later: when that has run, it would
have come.
"""

import signal
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from statistics import median

import kombu
import pytest
from celery.exceptions import TaskRevokedError

from ...support.leveret import Durable
from .celery_worker import SECONDS, Worker

PREFETCH = 4
COUNTDOWN = 2  # until waiting tasks are due, in seconds
MANY = 100_000  # tasks of the long test
DUE_SOON = 3000  # of them become due
DUE_RATE = 100  # so many a second
SOON = 30  # seconds from when these are published until the first is due
LONG = 900  # seconds that the long test may take, and that most of its tasks wait
PROMPT = 0.5  # seconds that most tasks may take on a busy machine
EARLY = 0.01  # what the clocks of two processes may differ by, in seconds
LATE = 5  # how late one task may be on a busy machine, in seconds
WORKERS = {  # arguments of the queue beside x-celery, settings of the application
    "protocol 2": ({}, {}),
    "protocol 1": ({}, {"task_protocol": 1}),
    "quorum": ({"x-queue-type": "quorum"}, {}),  # Celery turns the growth of prefetch off
}
PROTOCOLS = ["protocol 2", "protocol 1"]


def make_worker(url: str, results: str, kind: str, pool: str = "--pool=solo") -> Worker:
    """Return a worker that runs one task at a time and is sent up to `PREFETCH`."""
    arguments, settings = WORKERS[kind]
    return Worker(
        url,
        results,
        pool,
        "--concurrency=1",
        arguments={"x-celery": True, **arguments},
        settings={"worker_prefetch_multiplier": PREFETCH, **settings},
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Files: unlike messages, they can be told of tasks that nobody has received."""
    return tmp_path_factory.mktemp("results").as_uri()


@pytest.fixture(scope="module")
def workers(amqp_url, results):
    """A worker of each kind, started together."""
    made = {kind: make_worker(amqp_url, results, kind) for kind in WORKERS}
    with ExitStack() as running:
        for worker in made.values():
            running.enter_context(worker)
        yield {kind: worker.wait_until_ready() for kind, worker in made.items()}
        for worker in made.values():
            worker.terminate()


@pytest.fixture(params=PROTOCOLS)
def worker(workers, request):
    return workers[request.param]


def result_of(result):
    return result.get(timeout=SECONDS, interval=0.02)


def line_of(result):
    """Return what a worker logs when it is sent this task."""
    return f"[{result.id}] received"


def assert_not_received(worker, *results, before):
    """Check that the worker had not been sent these tasks when it was sent the one `before`."""
    worker.wait_until_logged(line_of(before))
    assert not [result.id for result in results if worker.has_logged(line_of(result))]


def assert_window_is_free(worker, due=0):
    """Check that no waiting task is with the worker, and that its window has not grown.

    Args:
      worker: Which one.
      due: How many tasks may have become due just now: the worker takes each for one that waits,
        for a moment.
    """
    inspect = worker.app.control.inspect([worker.node], timeout=SECONDS)
    [scheduled] = inspect.scheduled().values()
    [stats] = inspect.stats().values()
    assert len(scheduled) <= due
    assert PREFETCH <= stats["prefetch_count"] <= PREFETCH + due


@pytest.mark.parametrize("worker", WORKERS, indirect=True)
def test_waiting_tasks_leave_the_prefetch_window_to_others(worker):
    published = time.time()
    later = [worker.moment.apply_async(countdown=COUNTDOWN) for _ in range(100)]
    others = [worker.add.delay(number, number) for number in range(20)]

    assert [result_of(other) for other in others] == list(range(0, 40, 2))
    assert_window_is_free(worker)
    assert_not_received(worker, *later, before=others[-1])

    ran = [result_of(result) for result in later]
    assert published + COUNTDOWN - EARLY <= min(ran)
    for result in later:
        worker.wait_until_logged(line_of(result))


def test_tasks_run_in_the_order_of_their_times(worker):
    now = datetime.now(UTC)
    delays = [1.2, 0.4, 0.8]
    etas = [now + timedelta(seconds=seconds) for seconds in delays]
    results = [worker.moment.apply_async(eta=eta) for eta in etas]

    ran = [result_of(result) for result in results]

    for eta, moment in zip(etas, ran, strict=True):
        assert -EARLY <= moment - eta.timestamp() <= LATE


def test_time_without_an_offset_is_utc(worker):
    eta = datetime.now(UTC) + timedelta(seconds=1)

    moment = result_of(worker.moment.apply_async(eta=eta.replace(tzinfo=None)))

    assert -EARLY <= moment - eta.timestamp() <= LATE


def test_task_that_is_due_already_runs_at_once(worker):
    published = time.time()
    past = datetime.now(UTC) - timedelta(days=1)

    assert result_of(worker.moment.apply_async(eta=past)) - published <= LATE


def test_task_that_expires_while_it_waits_never_reaches_a_worker(worker):
    expired = worker.moment.apply_async(countdown=1, expires=0.5)
    in_time = worker.moment.apply_async(countdown=1, expires=SECONDS)
    last = worker.moment.apply_async(countdown=1.5)

    assert result_of(last) >= result_of(in_time)
    assert_not_received(worker, expired, before=last)
    assert expired.state == "PENDING"  # no worker has told the result store


def test_header_expires_counts_without_the_property(workers, amqp_url):
    worker = workers["protocol 2"]
    now = datetime.now(UTC)
    expires, eta = (now + timedelta(seconds=seconds) for seconds in (0.5, 1))
    result = worker.app.AsyncResult(f"foreign-{now.timestamp()}")
    headers = {"task": worker.moment.name, "id": result.id, "lang": "js"}
    headers |= {"eta": eta.isoformat(), "expires": expires.isoformat()}

    with kombu.Connection(f"{amqp_url}//") as connection, connection.Producer() as producer:
        producer.publish([[], {}, {}], routing_key=worker.queue, headers=headers)
    last = worker.moment.apply_async(countdown=1.5)

    assert result_of(last) >= eta.timestamp()
    assert_not_received(worker, result, before=last)


def test_revoked_task_is_cancelled_in_the_broker(worker):
    one, *more = [worker.moment.apply_async(countdown=1) for _ in range(4)]
    kept = worker.moment.apply_async(countdown=1)
    worker.app.control.revoke(one.id)
    worker.app.control.revoke([result.id for result in more])
    last = worker.moment.apply_async(countdown=1.5)

    assert result_of(last) >= result_of(kept)
    assert_not_received(worker, one, *more, before=last)
    with pytest.raises(TaskRevokedError):  # the worker heard the command, and told the store
        result_of(one)


def test_revocation_needs_no_worker(amqp_url, results):
    worker = make_worker(amqp_url, results, "protocol 2")
    revoked, kept = [worker.moment.apply_async(countdown=1) for _ in range(2)]
    worker.app.control.revoke(revoked.id)
    last = worker.moment.apply_async(countdown=1.5)
    with worker:
        assert result_of(last) >= result_of(kept)
        assert_not_received(worker, revoked, before=last)


def test_task_that_is_retried_waits_in_the_broker(worker):
    published = time.time()
    later = [worker.moment_of_retry.delay(COUNTDOWN) for _ in range(10)]

    assert result_of(worker.add.delay(1, 2)) == 3
    assert_window_is_free(worker)

    ran = [result_of(result) for result in later]
    assert published + COUNTDOWN - EARLY <= min(ran)


@pytest.mark.parametrize("arguments", [{}, {"x-celery": True}], ids=["alone", "and x-celery"])
def test_native_delayed_delivery(amqp_url, results, arguments):
    """With a quorum queue on a topic exchange Celery delays by queues that dead-letter."""
    worker = Worker(
        amqp_url,
        results,
        "--pool=solo",
        arguments={"x-queue-type": "quorum", **arguments},
        exchange="topic",
    )
    with worker:
        worker.wait_until_ready()
        published = time.time()
        later = worker.moment.apply_async(countdown=COUNTDOWN)
        assert result_of(worker.add.delay(1, 2)) == 3
        assert ready_count(amqp_url, f"celery_delayed_{COUNTDOWN.bit_length() - 1}") == 1

        assert 0 <= result_of(later) - published - COUNTDOWN + EARLY <= LATE


def ready_count(url, queue):
    with kombu.Connection(f"{url}//") as connection:
        return connection.default_channel.queue_declare(queue, passive=True).message_count


def test_waiting_tasks_survive_a_kill_and_revoked_ones_stay_away(tmp_path, results):
    with Durable(tmp_path) as broker:
        broker.start()
        url = f"amqp://guest:guest@{broker.host}:{broker.port}"
        worker = make_worker(url, results, "protocol 2")
        published = time.time()
        revoked, early, late = [worker.moment.apply_async(countdown=n) for n in (1, 1, COUNTDOWN)]
        worker.app.control.revoke(revoked.id)
        last = worker.moment.apply_async(countdown=COUNTDOWN + 0.5)  # whose confirm tells of all
        broker.kill()

        broker.start()
        with worker:
            ran = [result_of(result) for result in (early, late, last)]
            assert published + COUNTDOWN - EARLY <= ran[1]
            assert sorted(ran) == ran
            assert_not_received(worker, revoked, before=last)


def seconds_of_another(worker):
    """Return how long a task takes that waits for nothing, from its publication to its result."""
    began = time.monotonic()
    assert result_of(worker.add.delay(1, 2)) == 3
    return time.monotonic() - began


@pytest.mark.long
def test_a_hundred_thousand_waiting_tasks_leave_others_their_turn(amqp_url, results, tmp_path):
    signal.alarm(LONG)  # instead of the deadline of other tests
    notes = tmp_path / "notes"
    notes.touch()
    # A solo worker heeds a time only while it is not reading, which it does for up to 2 seconds.
    with make_worker(amqp_url, results, "protocol 2", "--pool=prefork") as worker:
        worker.wait_until_ready()
        others = []
        with worker.app.producer_pool.acquire(block=True) as producer:
            for number in range(MANY):
                if number == MANY - DUE_SOON:
                    soon = time.time() + SOON
                late = number - (MANY - DUE_SOON)
                due = time.time() + LONG if late < 0 else soon + late / DUE_RATE
                worker.note.apply_async(
                    (str(notes), number, due),
                    eta=datetime.fromtimestamp(due, UTC),
                    producer=producer,
                )
                if number % 5000 == 0:
                    others.append(seconds_of_another(worker))
        assert time.time() < soon
        assert_window_is_free(worker)
        assert ready_count(amqp_url, worker.queue) == 0
        while len(notes.read_bytes().splitlines()) < DUE_SOON:
            others.append(seconds_of_another(worker))
        assert_window_is_free(worker)

    ran = [line.split() for line in notes.read_text().splitlines()]
    assert sorted(int(number) for number, _ in ran) == list(range(MANY - DUE_SOON, MANY))
    late = [float(late) for _, late in ran]
    print(f"late {told(late)}; {len(others)} others took {told(others)} (seconds)")
    assert min(late) >= -EARLY
    assert median(late) <= PROMPT
    assert median(others) <= PROMPT
    assert max(others) <= LATE
    with kombu.Connection(f"{amqp_url}//") as connection:
        connection.default_channel.queue_delete(worker.queue)


def told(seconds):
    return f"{median(seconds):.3f} in the middle, {max(seconds):.3f} at most"

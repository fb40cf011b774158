"""Celery with real worker processes: tasks, retries, groups, chords, ETA, remote control.

A chord needs a result store that can be asked by anybody: Celery refuses chords on `rpc://`. Its
worker here keeps results in files; the tasks, and the one that joins the chord and retries with
a countdown until all are done (`celery.chord_unlock`), go through the broker like all others.
"""

import json
import subprocess
import time
from datetime import UTC, datetime, timedelta

import kombu
import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from .celery_worker import ROOT, SECONDS, Worker

COUNTDOWN = 600  # longer than any test


@pytest.fixture(scope="module")
def workers(amqp_url, tmp_path_factory):
    """Both workers at once, as each takes seconds to start."""
    results = tmp_path_factory.mktemp("results").as_uri()
    with (
        Worker(amqp_url, "rpc://", "--pool=prefork", "--concurrency=2") as replying,
        Worker(amqp_url, results, "--pool=solo") as filing,
    ):
        yield replying.wait_until_ready(), filing.wait_until_ready()
        for worker in (replying, filing):
            worker.terminate()


@pytest.fixture
def worker(workers):
    """A worker with two pool processes that sends results as messages."""
    return workers[0]


@pytest.fixture
def filing_worker(workers):
    """A worker without pool processes that writes results to files."""
    return workers[1]


def test_tasks_return_their_results(worker):
    results = [worker.add.delay(number, number) for number in range(20)]

    assert [result.get(timeout=SECONDS) for result in results] == list(range(0, 40, 2))


def test_large_and_unicode_arguments_come_back_equal(worker):
    value = {"text": "Grüße, 世界 \N{RABBIT FACE}", "long": "x" * 300_000}

    assert worker.echo.delay(value).get(timeout=SECONDS) == value


def test_failure_arrives_as_the_exception_it_was(worker):
    result = worker.fail.delay("broken")

    with pytest.raises(ValueError, match="broken"):
        result.get(timeout=SECONDS)
    assert result.state == "FAILURE"
    assert "raise ValueError(text)" in result.traceback


def test_retries_run_until_success_or_until_they_are_used_up(worker):
    third_time, never = worker.succeed_at.delay(3), worker.never_succeed.delay()

    assert third_time.get(timeout=SECONDS) == 3
    with pytest.raises(ConnectionError, match="still down"):
        never.get(timeout=SECONDS)


def test_chain_passes_results_on(worker):
    result = chain(worker.add.s(1, 2), worker.add.s(10), worker.add.s(100)).apply_async()

    assert result.get(timeout=SECONDS) == 113


def test_group_collects_results_over_rpc(worker):
    result = group(worker.add.s(number, 1) for number in range(10)).apply_async()

    assert result.get(timeout=SECONDS) == list(range(1, 11))


def test_chord_runs_its_body_when_all_tasks_are_done(filing_worker):
    header = [filing_worker.add.s(number, number) for number in range(6)]

    result = chord(header, app=filing_worker.app)(filing_worker.total.s())

    assert result.get(timeout=SECONDS) == 30


def test_task_with_a_countdown_or_eta_waits_for_its_time(worker):
    started = time.monotonic()
    at = datetime.now(UTC) + timedelta(seconds=1)
    by_eta = worker.add.apply_async((1, 1), eta=at)
    by_countdown = worker.add.apply_async((2, 2), countdown=1)

    assert [result.get(timeout=SECONDS) for result in (by_eta, by_countdown)] == [2, 4]
    assert time.monotonic() - started >= 0.9  # the worker's clock may be a few ms ahead


def test_tasks_that_wait_for_their_time_do_not_fill_the_prefetch_window(worker):
    later = [worker.add.apply_async((0, 0), countdown=COUNTDOWN) for _ in range(8)]

    # Two pool processes with a multiplier of 1 are a window of 2: each waiting task must widen it.
    assert worker.add.delay(1, 2).get(timeout=SECONDS) == 3

    [scheduled] = worker.app.control.inspect([worker.node], timeout=5).scheduled().values()
    assert {item["request"]["id"] for item in scheduled} >= {result.id for result in later}
    worker.app.control.revoke([result.id for result in later], destination=[worker.node])


def test_revoked_task_does_not_run(worker):
    result = worker.add.apply_async((1, 1), countdown=1)
    [reply] = worker.app.control.revoke(result.id, destination=[worker.node], reply=True, timeout=5)

    assert "ok" in reply[worker.node]
    with pytest.raises(TaskRevokedError):
        result.get(timeout=SECONDS)


def test_task_of_a_killed_pool_process_is_delivered_again(worker):
    assert worker.die_once.delay().get(timeout=SECONDS) == "delivered again"


def test_worker_takes_up_a_queue_when_told(worker, name):
    queue = name("added")
    [added] = worker.app.control.add_consumer(
        queue, destination=[worker.node], reply=True, timeout=5
    )
    info = worker.delivered.apply_async(queue=queue, priority=3).get(timeout=SECONDS)
    [gone] = worker.app.control.cancel_consumer(
        queue, destination=[worker.node], reply=True, timeout=5
    )

    assert "ok" in added[worker.node]
    assert (info["routing_key"], info["priority"], info["redelivered"]) == (queue, 3, False)
    assert "ok" in gone[worker.node]


def test_inspect_ping_from_the_command_line(worker):
    command = worker.command("inspect", "ping", "--json", "--destination", worker.node)
    done = subprocess.run(
        command, cwd=ROOT, env=worker.environment, capture_output=True, text=True, timeout=SECONDS
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {worker.node: {"ok": "pong"}}


def test_events_tell_what_became_of_a_task(worker):
    events = []
    worker.app.control.enable_events(destination=[worker.node], reply=True, timeout=5)
    with worker.app.connection_for_read() as connection:
        receiver = worker.app.events.Receiver(connection, handlers={"*": events.append})
        with receiver.consumer_context() as (own_connection, _channel, _consumers):
            result = worker.add.delay(1, 1)
            result.get(timeout=SECONDS)
            until = time.monotonic() + SECONDS
            own: list[str] = []
            while "task-succeeded" not in own and time.monotonic() < until:
                own_connection.drain_events(timeout=SECONDS)
                own = [event["type"] for event in events if event.get("uuid") == result.id]

    assert own == ["task-received", "task-started", "task-succeeded"]


@pytest.mark.long
def test_worker_survives_a_cut_wire_and_gives_tasks_back_when_it_stops(amqp_url, relay):
    with Worker(relay.url, "rpc://", "--pool=solo", direct=amqp_url) as worker:
        worker.wait_until_ready()
        later = worker.add.apply_async((0, 0), countdown=COUNTDOWN)
        assert worker.echo.delay("before").get(timeout=SECONDS) == "before"
        assert relay.cut() >= 1
        assert worker.echo.delay("after").get(timeout=SECONDS) == "after"
        worker.terminate()
        assert worker.process.wait(SECONDS) == 0

    with kombu.Connection(f"{amqp_url}//") as connection:
        message = connection.default_channel.basic_get(worker.queue, no_ack=True)
        assert message.headers["id"] == later.id
        assert message.delivery_info["redelivered"]
        assert connection.default_channel.queue_delete(worker.queue) == 0

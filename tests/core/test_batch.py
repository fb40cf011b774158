"""Batch: what a slice caused is carried out once, in order, and fails alone."""

import pytest

from leveret.broker.core.batch import FLUSH_LIMIT, Batch


class Part:
    """A queue, channel or peer that writes down when its turn comes."""

    def __init__(self, log, name, then=None):
        self.log = log
        self.name = name
        self.then = then

    def _act(self):
        self.log.append(self.name)
        if self.then is not None:
            self.then()

    deal = send_confirms = flush = _act


@pytest.fixture
def log():
    return []


def test_a_slice_deals_then_confirms_then_writes(log):
    batch = Batch()
    batch.flushing[Part(log, "flush")] = None
    batch.confirming[Part(log, "confirm")] = None
    batch.touched[Part(log, "deal")] = None

    assert batch.finish()
    assert ["deal", "confirm", "flush"] == log


def test_each_is_done_once_in_the_order_touched(log):
    batch = Batch()
    parts = [Part(log, name) for name in "abc"]
    for part in (*parts, *reversed(parts)):
        batch.touched[part] = None

    batch.finish()
    batch.finish()

    assert ["a", "b", "c"] == log


def test_what_dealing_touches_waits_for_the_next_slice(log):
    batch = Batch()
    again = Part(log, "again")
    batch.touched[Part(log, "first", lambda: batch.touched.update({again: None}))] = None

    batch.finish()
    assert ["first"] == log
    batch.finish()
    assert ["first", "again"] == log


def test_what_dealing_causes_is_written_in_the_same_slice(log):
    batch = Batch()
    peer = Part(log, "peer")
    batch.touched[Part(log, "deal", lambda: batch.flushing.update({peer: None}))] = None

    batch.finish()

    assert ["deal", "peer"] == log


def test_queues_that_time_is_too_short_for_wait(log):
    batch = Batch()
    for name in "abc":
        batch.touched[Part(log, name)] = None
    batch.flushing[Part(log, "flush")] = None

    assert not batch.finish(lambda: True)
    assert ["a", "flush"] == log
    batch.resume()
    assert ["a", "flush", "b", "c"] == log
    assert {} == batch.waiting


def test_those_that_wait_go_before_those_touched_since(log):
    batch = Batch()
    for name in "ab":
        batch.touched[Part(log, name)] = None
    batch.finish(lambda: True)
    batch.touched[Part(log, "c")] = None

    batch.resume()

    assert ["a", "b", "c"] == log


def test_more_peers_than_a_slice_writes_to_are_written_to_in_the_next(log):
    batch = Batch()
    for number in range(FLUSH_LIMIT + 5):
        batch.flushing[Part(log, number)] = None

    batch.finish()
    assert list(range(FLUSH_LIMIT)) == log
    batch.finish()
    assert list(range(FLUSH_LIMIT + 5)) == log


def steps(log, *names):
    for name in names:
        log.append(name)
        yield


def test_debris_is_worked_off_a_step_at_a_time_behind_all_else(log):
    batch = Batch()
    batch.debris += (steps(log, 1, 2), steps(log, 3))
    batch.touched[Part(log, "deal")] = None

    batch.finish()
    assert ["deal"] == log
    for step in (1, 2, 3):
        batch.resume(lambda: True)
        assert step == log[-1]
    batch.resume()
    assert ["deal", 1, 2, 3] == log
    assert not batch.debris


def test_what_a_commit_waits_for_goes_first(log):
    batch = Batch()
    batch.debris.append(steps(log, "freed"))
    batch.returns.append(steps(log, "back"))
    batch.unfinished += (steps(log, 1, 2), steps(log, 3))
    batch.touched[Part(log, "deal")] = None

    batch.finish()
    assert batch.is_behind
    while batch.is_behind:
        batch.resume(lambda: True)
    assert ["deal", 1, 2, 3] == log


def test_queues_that_have_not_dealt_leave_it_behind(log):
    batch = Batch()
    for name in range(2):
        batch.touched[Part(log, name)] = None

    batch.finish(lambda: True)
    assert batch.is_behind
    batch.finish(lambda: True)
    batch.resume()
    assert not batch.is_behind


def test_what_comes_back_goes_before_the_debris(log):
    batch = Batch()
    batch.debris.append(steps(log, "freed"))
    batch.returns += (steps(log, 1, 2), steps(log, 3))
    batch.touched[Part(log, "deal")] = None

    batch.finish()
    while batch.returns:
        batch.resume(lambda: True)
    assert ["deal", 1, 2, 3] == log
    batch.resume()
    assert ["deal", 1, 2, 3, "freed"] == log


def test_debris_that_fails_is_left(log):
    def fail():
        yield 1 // 0

    batch = Batch()
    failures = []
    batch.failed = lambda who, problem: failures.append(type(problem))
    batch.debris += (fail(), steps(log, 1))

    batch.resume()

    assert ([1], [ZeroDivisionError], False) == (log, failures, bool(batch.debris))


@pytest.mark.parametrize("kind", ["touched", "confirming", "flushing"])
def test_who_fails_takes_nobody_along(log, kind):
    def fail():
        raise ZeroDivisionError

    batch = Batch()
    failures = []
    batch.failed = lambda who, problem: failures.append((who.name, type(problem)))
    getattr(batch, kind)[Part(log, "bad", fail)] = None
    getattr(batch, kind)[Part(log, "good")] = None

    batch.finish()

    assert ["bad", "good"] == log
    assert [("bad", ZeroDivisionError)] == failures


def test_without_anyone_to_tell_a_failure_is_raised(log):
    def fail():
        raise ZeroDivisionError

    batch = Batch()
    batch.touched[Part(log, "bad", fail)] = None

    with pytest.raises(ZeroDivisionError):
        batch.finish()

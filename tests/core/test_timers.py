"""Timers: what is called when, and whom a failure does not take along."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leveret.broker.core import timers as module
from leveret.broker.core.batch import Batch
from leveret.broker.core.timers import Timers


def never():
    return False


@pytest.fixture
def batch():
    return Batch()


@pytest.fixture
def timers(batch):
    return Timers(batch)


@pytest.fixture
def called():
    return []


def test_nothing_is_next_where_no_timer_is_set(timers):
    assert timers.next is None
    assert timers.run_due(1 << 40, never)


def test_timers_are_called_once_and_in_the_order_of_time(timers, called):
    for name, when in (("c", 30), ("a", 10), ("b", 20), ("b too", 20)):
        timers.at(when, lambda name=name: called.append(name))

    assert 10 == timers.next
    assert timers.run_due(9, never)
    assert [] == called
    assert timers.run_due(20, never)
    assert ["a", "b", "b too"] == called
    assert 30 == timers.next
    assert timers.run_due(50, never)
    assert timers.run_due(50, never)
    assert ["a", "b", "b too", "c"] == called
    assert timers.next is None


def test_cancelled_timer_is_not_called(timers, called):
    timer = timers.at(10, lambda: called.append("cancelled"))

    timer.cancel()
    timer.cancel()

    assert timers.next is None
    assert timers.run_due(20, never)
    assert [] == called


def test_timer_moved_to_a_later_time_is_called_then_and_behind_what_is_due_before(timers, called):
    timer = timers.at(10, lambda: called.append("moved"))
    timers.at(40, lambda: called.append("other"))

    timer.move(50)

    assert timers.run_due(39, never)
    assert [] == called
    assert timers.run_due(60, never)
    assert ["other", "moved"] == called


def test_timer_moved_to_an_earlier_time_is_called_then_and_not_again(timers, called):
    timer = timers.at(50, lambda: called.append("moved"))

    timer.move(10)

    assert 10 == timers.next
    assert timers.run_due(10, never)
    assert timers.run_due(60, never)
    assert ["moved"] == called


def test_timer_that_was_called_or_cancelled_may_be_set_again(timers, called):
    timer = timers.at(10, lambda: called.append("again"))
    timers.run_due(10, never)
    timer.move(20)
    timers.run_due(20, never)
    timer.move(30)
    timer.cancel()
    timer.move(40)

    assert (2, 40) == (len(called), timer.when)
    assert timers.run_due(40, never)
    assert (3, None) == (len(called), timer.when)


def test_callback_may_set_its_own_timer_and_cancel_others(timers, called):
    other = timers.at(10, lambda: called.append("other"))

    def go_on():
        called.append("first")
        other.cancel()
        if len(called) < 3:
            timer.move(timers.next or 7)

    timer = timers.at(5, go_on)

    assert timers.run_due(10, never)
    assert ["first"] * 3 == called


def test_callback_that_fails_is_told_of_and_takes_nobody_along(timers, batch, called):
    failed = []
    batch.failed = lambda who, problem: failed.append((who, problem))

    def fail():
        raise RuntimeError("a fault of the test's own")

    timer = timers.at(5, fail)
    timers.at(5, lambda: called.append("other"))

    assert timers.run_due(5, never)
    assert ["other"] == called
    [(who, problem)] = failed
    assert (timer, "a fault of the test's own") == (who, str(problem))


def test_what_there_is_no_time_for_is_called_the_next_time(timers, called):
    for name in "abc":
        timers.at(5, lambda name=name: called.append(name))

    assert not timers.run_due(5, lambda: True)
    assert ["a"] == called
    assert not timers.run_due(5, lambda: len(called) == 2)
    assert timers.run_due(5, lambda: True)
    assert ["a", "b", "c"] == called


def test_whoever_waits_is_told_only_of_a_timer_before_all_others(timers, called):
    timers.changed = lambda: called.append(timers.next)

    timers.at(50, never)
    timer = timers.at(60, never)
    timers.at(50, never)
    timer.move(55)
    assert [50] == called
    timer.move(40)
    timers.at(-3, never)
    assert [50, 40, 0] == called


def test_entries_that_are_of_no_use_are_at_most_half_of_all(timers, called):
    kept = [timers.at(10**9, lambda: called.append(1)) for _ in range(5000)]
    for when in range(100_000, 0, -1):
        kept[when % 5000].move(10**6 + when)
        timers.at(when, never).cancel()
    entries = len(timers._deadlines)
    timers.run_due(10**9, never)

    assert entries < 3 * len(kept) + 2 * module.TOLERATED
    assert (5000, 0, 0) == (len(called), len(timers), len(timers._deadlines))


WHENS = st.integers(0, 20)
SET = st.tuples(st.just("set"), st.integers(0, 5), WHENS)
CANCEL = st.tuples(st.just("cancel"), st.integers(0, 5))
RUN = st.tuples(st.just("run"), WHENS)


class Model:
    """Six timers, and when each is due."""

    def __init__(self):
        self.timers = Timers(Batch())
        self.called = []
        self.whens = {}
        self.there = [
            self.timers.at(0, lambda number=n: self.called.append(number)) for n in range(6)
        ]
        for timer in self.there:
            timer.cancel()

    def set(self, number, when):
        self.there[number].move(when)
        self.whens[number] = when

    def cancel(self, number):
        self.there[number].cancel()
        self.whens.pop(number, None)

    def run(self, now):
        self.called.clear()
        whens = dict(self.whens)
        assert self.timers.run_due(now, never)
        assert sorted(number for number, when in whens.items() if when <= now) == sorted(
            self.called
        )
        called = [whens[number] for number in self.called]
        assert sorted(called) == called
        self.whens = {number: when for number, when in whens.items() if when > now}


@given(st.lists(st.one_of(SET, SET, CANCEL, RUN), max_size=60), st.integers(0, 4))
def test_timers_are_what_a_dict_of_times_is(steps, tolerated):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TOLERATED", tolerated)
        model = Model()
        for name, *arguments in steps:
            getattr(model, name)(*arguments)
            assert len(model.whens) == len(model.timers)
            assert [model.whens.get(number) for number in range(6)] == [
                timer.when for timer in model.there
            ]
            if model.whens:
                assert model.timers.next <= min(model.whens.values())
            else:
                assert model.timers.next is None
        model.run(99)

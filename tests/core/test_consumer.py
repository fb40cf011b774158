"""Consumers: credit, turns, priorities, parking."""

from time import process_time

import pytest

from leveret.broker.core.consumer import DEAL_LIMIT, UNLIMITED, Consumer, Ring

from ..support.client import finish
from ..support.fakes import Target, messages


@pytest.fixture
def queue(broker):
    return broker.vhosts["/"].declare_queue("q")


def publish(queue, *bodies):
    queue.incoming += messages(*bodies)
    queue.touch()
    finish(queue.vhost.broker)


@pytest.mark.parametrize(
    ("options", "credit"),
    [
        ({}, UNLIMITED),
        ({"prefetch_count": 3}, 3),
        ({"prefetch_count": 3, "no_ack": True}, UNLIMITED),
    ],
)
def test_credit_is_the_prefetch_unless_nothing_is_acknowledged(queue, options, credit):
    assert credit == Consumer(queue, Target(), "c", **options).credit


def test_a_consumer_shows_its_tag_and_queue(queue):
    assert "<Consumer 'c' of 'q'>" == repr(Consumer(queue, Target(), "c"))


# dealing


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 3000])
def test_messages_are_dealt_in_turns(queue, broker, stored, count):
    target = Target()
    if stored:
        target.limit = 0
    for tag in "abc":
        target.consume(queue, tag)
    publish(queue, *range(count))
    target.limit = 1 << 40
    target.unpark()
    finish(broker)

    found = sorted((position, tag) for tag, position, _, _ in target.got)
    assert [(number, "abc"[number % 3]) for number in range(count)] == found


def test_turns_go_on_from_slice_to_slice(queue):
    target = Target()
    for tag in "abc":
        target.consume(queue, tag)
    for number in range(7):
        publish(queue, number)

    assert list("abcabca") == target.tags


def test_each_consumer_gets_its_messages_in_order(queue):
    target = Target()
    target.consume(queue, "a", prefetch_count=10)
    target.consume(queue, "b")
    publish(queue, *range(100))

    for tag in "ab":
        positions = [position for got, position, _, _ in target.got if got == tag]
        assert sorted(positions) == positions


def test_who_is_full_is_passed_over_until_there_is_room(queue):
    small, large = Target(), Target()
    small.consume(queue, "small", prefetch_count=1)
    large.consume(queue, "large")
    publish(queue, 1, 2, 3, 4)
    assert ([b"1"], [b"2", b"3", b"4"]) == (small.bodies, large.bodies)

    small.ack()
    publish(queue, 5, 6)

    assert (2, 4) == (len(small.got), len(large.got))


def test_room_given_back_is_used_at_the_end_of_the_slice(queue, broker):
    target = Target()
    target.consume(queue, prefetch_count=2)
    publish(queue, 1, 2, 3, 4, 5)
    assert 2 == len(target.got)

    target.ack()
    finish(broker)

    assert [b"1", b"2", b"3", b"4"] == target.bodies


def test_consumers_of_one_channel_share_its_window(queue, broker):
    target = Target(window=3)
    target.consume(queue, "a")
    target.consume(queue, "b", prefetch_count=1)
    publish(queue, *range(10))
    assert ["a", "b", "a"] == target.tags

    target.ack()
    finish(broker)
    assert 6 == len(target.got)
    assert 3 == target.window_used


def test_a_window_over_two_queues_is_kept(broker):
    target = Target(window=3)
    queues = [broker.vhosts["/"].declare_queue(name) for name in "xy"]
    for each in queues:
        target.consume(each, each.name)
        each.incoming += messages(1, 2)
        each.touch()
    finish(broker)

    assert ["x", "x", "y"] == target.tags


class Counting(Target):
    """Counts how often it is asked for room."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = 0

    def room(self, consumer):
        self.asked += 1
        return super().room(consumer)


@pytest.mark.parametrize("window", [0, 1000])
@pytest.mark.parametrize("stored", [False, True])
def test_no_more_consumers_are_looked_at_than_there_are_messages(queue, broker, window, stored):
    target = Counting(window=window)
    target.limit = 0 if stored else 3
    for number in range(100):
        target.consume(queue, f"c{number}")
    publish(queue, 1, 2, 3)
    if stored:
        target.limit = 3
        target.unpark()
        target.asked = 0
        finish(broker)

    assert {"c0", "c1", "c2"} == set(target.tags)
    assert target.asked <= 2 * 3  # the target itself asks once a message


def test_turns_go_on_where_those_looked_at_end(queue):
    target = Target()
    for tag in "abcde":
        target.consume(queue, tag)
    publish(queue, 1, 2, 3)
    publish(queue, 4, 5, 6)

    assert list("abcdea") == [tag for tag, *_ in sorted(target.got, key=lambda got: got[1])]


def test_looking_at_consumers_without_room_uses_up_a_go(queue, broker):
    targets = [Counting() for _ in range(DEAL_LIMIT + 10)]
    for target in targets:
        target.consume(queue)
        target.limit = 0
    queue.incoming += messages(*range(DEAL_LIMIT + 10))
    queue.touch()

    broker.batch.finish()
    assert 0 < sum(target.asked for target in targets) <= DEAL_LIMIT

    finish(broker)
    assert len(targets) == sum(target.asked for target in targets)


def test_windowed_consumers_take_turns_with_others(queue):
    windowed, plain = Target(window=3), Target()
    for tag in "ab":
        windowed.consume(queue, tag)
    plain.consume(queue, "c")
    publish(queue, *range(6))

    found = sorted(windowed.got + plain.got, key=lambda got: got[1])
    assert list("abcacc") == [tag for tag, *_ in found]


# priorities


def test_the_highest_priority_with_room_is_served(queue):
    target = Target()
    target.consume(queue, "low", priority=-1)
    target.consume(queue, "high", priority=7, prefetch_count=1)
    target.consume(queue, "middle", prefetch_count=2)
    publish(queue, *range(5))

    assert ["high", "middle", "middle", "low", "low"] == target.tags


def test_equals_of_the_highest_priority_take_turns(queue):
    target = Target()
    target.consume(queue, "low")
    for tag in "ab":
        target.consume(queue, tag, priority=1)
    publish(queue, *range(4))

    assert ["a", "b", "a", "b"] == [tag for tag, *_ in sorted(target.got, key=lambda got: got[1])]


def test_a_higher_priority_that_has_room_again_goes_first_again(queue, broker):
    target, low = Target(), Target()
    target.consume(queue, "high", priority=1, prefetch_count=1)
    low.consume(queue, "low", prefetch_count=1)
    publish(queue, 1, 2, 3)

    target.ack()
    finish(broker)

    assert ([b"1", b"3"], [b"2"]) == (target.bodies, low.bodies)


def test_requeued_messages_go_to_the_highest_priority_too(queue, broker):
    high, low = Target(), Target()
    low.consume(queue, "low")
    publish(queue, 1)
    high.consume(queue, "high", priority=1)

    low.requeue()
    finish(broker)

    assert [("high", 0, b"1", True)] == high.got


# the ring


def test_a_ring_without_consumers_has_no_front():
    assert Ring().front() is None


def test_a_parked_consumer_comes_back_at_the_end_of_its_level(queue):
    ring, target = Ring(), Target()
    first, second = (Consumer(queue, target, tag) for tag in "ab")
    ring.add(first)
    ring.add(second)

    ring.park(first)
    assert [second] == list(ring.front())
    ring.unpark(first)

    assert [second, first] == list(ring.front())
    assert {} == target.parked


@pytest.mark.parametrize("parked", [False, True])
def test_a_consumer_that_is_removed_leaves_nothing(queue, parked):
    ring, target = Ring(), Target()
    consumer = Consumer(queue, target, "c", priority=3)
    ring.add(consumer)
    if parked:
        ring.park(consumer)

    ring.remove(consumer)

    assert (None, {}, {}) == (ring.front(), ring.consumers, target.parked)
    assert ({}, []) == (ring._levels, ring._priorities)


def test_levels_come_in_order_of_priority(queue):
    ring, target = Ring(), Target()
    for priority in (0, 5, -3, 2, 5):
        ring.add(Consumer(queue, target, "c", priority=priority))

    found = []
    while (level := ring.front()) is not None:
        found.append([consumer.priority for consumer in level])
        for consumer in tuple(level):
            ring.park(consumer)

    assert [[5, 5], [2], [0], [-3]] == found


def test_a_level_without_anyone_standing_is_no_level(queue):
    ring, target = Ring(), Target()
    low, high = (Consumer(queue, target, "c", priority=priority) for priority in (1, 2))
    ring.add(low)
    ring.add(high)

    ring.park(high)
    assert [1] == ring._priorities
    ring.unpark(high)
    assert [high] == list(ring.front())


def test_ten_thousand_priorities_come_and_go_in_no_time(queue):
    """0.03 s; each one that had to look at all others would make it seconds."""
    ring, target = Ring(), Target()
    consumers = [Consumer(queue, target, "c", priority=number) for number in range(10_000)]

    start = process_time()
    for consumer in consumers:
        ring.add(consumer)
    for consumer in consumers:
        ring.park(consumer)
    for consumer in consumers:
        ring.unpark(consumer)
    for consumer in consumers:
        ring.remove(consumer)

    assert process_time() - start < 0.5

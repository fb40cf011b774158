"""Messages that wait in a hooked queue: found, listed, counted, taken out, rescheduled."""

from leveret.broker import plugins
from leveret.broker.core import waiting
from leveret.broker.core.broker import Broker
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.testing import advance, finish
from leveret.protocol.methods import BasicGet, BasicReject

from ..support.client import Client

SECOND = 1000


class Waiters:
    """A queue whose messages wait for a second, and a client."""

    def __init__(self, **arguments: object) -> None:
        self.broker = Broker(registry=plugins.load(are_others_wanted=False))
        self.broker.add_defaults()
        self.broker.now = SECOND
        self.events: list[tuple[str, int]] = []
        for name in ("cancelled", "rescheduled"):
            self.broker.events.subscribe(
                f"waiting.{name}",
                lambda queue, count, name=name: self.events.append((name, count)),
            )
        self.client = Client(self.broker)
        self.client.declare(arguments={"x-message-delay": SECOND, **arguments})

    @property
    def queue(self) -> HookedQueue:
        queue = self.broker.vhosts["/"].queues["q"]
        assert isinstance(queue, HookedQueue)
        return queue

    def publish(self, *names: str, after: int = 0) -> None:
        advance(self.broker, after / 1000)
        for name in names:
            self.client.publish(name.encode(), message_id=name)

    def advance(self, milliseconds: int) -> None:
        advance(self.broker, milliseconds / 1000)

    def take_all(self) -> list[bytes]:
        found = []
        while hasattr(answer := self.client.call(BasicGet("q", no_ack=True)), "body"):
            found.append(answer.body)
        return found

    def listed(self, limit: int = 50, after: tuple[int, int] | None = None):
        found, mark = self.queue.waiters(limit, after)
        return [(each.position, each.due) for each in found], mark


# Found


def test_no_more_are_found_than_asked_for() -> None:
    waiters = Waiters()
    waiters.publish("a", "b", "a", "a", "a")
    waiters.queue.cancel_waiting([0])

    assert [2, 3] == waiters.queue.find_waiting("a", 2)
    assert [2, 3, 4] == waiters.queue.find_waiting("a", 4)


def test_a_waiting_message_is_found_by_its_message_id() -> None:
    waiters = Waiters()
    waiters.publish("a", "b", "a")
    waiters.client.publish(b"without")

    assert [0, 2] == waiters.queue.find_waiting("a")
    assert [1] == waiters.queue.find_waiting("b")
    assert [] == waiters.queue.find_waiting("c")


def test_an_x_delay_id_goes_before_the_message_id() -> None:
    waiters = Waiters()
    waiters.client.publish(b"", message_id="a", headers={"x-delay-id": "d"})
    waiters.client.publish(b"", headers={"x-delay-id": 5})
    waiters.client.publish(b"", message_id="b", headers={"x-delay-id": None})

    assert [[0], [1], [2], []] == [
        waiters.queue.find_waiting(name) for name in ("d", "5", "b", "a")
    ]


def test_what_waits_no_longer_is_not_found() -> None:
    waiters = Waiters()
    waiters.publish("a")

    waiters.advance(SECOND)

    assert [] == waiters.queue.find_waiting("a")
    assert waiters.queue.waiter(0) is None


def test_a_message_that_waits_once_more_is_found_again() -> None:
    waiters = Waiters(**{"x-retry-min": 500})
    waiters.publish("a")
    waiters.advance(SECOND)
    got = waiters.client.call(BasicGet("q"))
    assert [] == waiters.queue.find_waiting("a")

    waiters.client.send(BasicReject(got.tag, True))

    assert [0] == waiters.queue.find_waiting("a")
    waiters.advance(499)
    assert [] == waiters.take_all()
    waiters.advance(1)
    assert [b"a"] == waiters.take_all()


# Listed


def test_waiting_messages_are_listed_by_when_they_are_due() -> None:
    waiters = Waiters()
    waiters.publish("a", "b")
    waiters.publish("c", after=10)
    waiters.queue.reschedule([0], 5 * SECOND)

    assert ([(1, 2000), (2, 2010), (0, 5000)], None) == waiters.listed()


def test_pages_go_on_where_the_last_one_ended() -> None:
    waiters = Waiters()
    waiters.publish("a", "b", "c", "d", "e")
    waiters.publish("f", after=10)

    first, mark = waiters.listed(2)
    second, other = waiters.listed(3, mark)
    third, end = waiters.listed(3, other)

    assert [0, 1, 2, 3, 4, 5] == [position for position, _ in first + second + third]
    assert [2, 3, 1] == [len(page) for page in (first, second, third)]
    assert end is None


def test_a_page_looks_at_a_limited_number_of_entries(monkeypatch) -> None:
    monkeypatch.setattr(waiting, "LOOKED", 3)
    waiters = Waiters()
    waiters.publish("a", "b", "c", "d", "e")
    waiters.queue.cancel_waiting([0, 1, 2])

    empty, mark = waiters.listed()
    rest, end = waiters.listed(50, mark)

    assert [] == empty
    assert [3, 4] == [position for position, _ in rest]
    assert end is None


def test_a_listed_message_is_there_with_its_size() -> None:
    waiters = Waiters()
    waiters.publish("abc")

    [found], _ = waiters.queue.waiters(1)

    assert (0, 2000, 3) == (found.position, found.due, found.size)
    assert b"abc" == found.message.body


# Counted


def test_waiting_messages_are_counted_by_when_they_are_due() -> None:
    waiters = Waiters()
    waiters.publish("a", "b")
    waiters.publish("c", after=10)

    assert 0 == waiters.queue.waiting_between(0, 1999)
    assert 2 == waiters.queue.waiting_between(2000, 2000)
    assert 1 == waiters.queue.waiting_between(2001, 9999)


def test_what_was_rescheduled_counts_once_and_where_it_is() -> None:
    waiters = Waiters()
    waiters.publish("a", "b", "c")
    waiters.queue.reschedule([0], 3000)
    waiters.queue.reschedule([0], 2000)
    waiters.queue.reschedule([1], 3000)
    waiters.queue.cancel_waiting([2])

    assert 1 == waiters.queue.waiting_between(2000, 2000)
    assert 1 == waiters.queue.waiting_between(3000, 3000)


def test_very_many_are_counted_without_being_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(waiting, "LOOKED", 1)
    waiters = Waiters()
    for _ in range(20):
        waiters.publish("a", "b", after=10)

    assert 20 == waiters.queue.waiting_between(2010, 2100)
    assert 40 == waiters.queue.waiting_between(0, 1 << 40)


# Steered


def test_a_cancelled_message_never_comes() -> None:
    waiters = Waiters()
    waiters.publish("a", "b", "c")

    assert 1 == waiters.queue.cancel_waiting([1, 1, 7])

    assert 2 == waiters.queue.waiting_count
    assert [("cancelled", 1)] == waiters.events
    waiters.advance(SECOND)
    assert [b"a", b"c"] == waiters.take_all()


def test_cancelling_what_does_not_wait_is_nothing() -> None:
    waiters = Waiters()
    waiters.publish("a")
    waiters.advance(SECOND)

    assert 0 == waiters.queue.cancel_waiting([0])
    assert [] == waiters.events
    assert [b"a"] == waiters.take_all()


def test_a_cancelled_message_is_not_dead_lettered() -> None:
    waiters = Waiters(**{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    waiters.client.declare("dead")
    waiters.publish("a")

    waiters.queue.cancel_waiting([0])
    finish(waiters.broker)

    assert (0, 0) == waiters.client.counts("dead")


def test_a_message_may_be_rescheduled_to_a_later_moment() -> None:
    waiters = Waiters()
    waiters.publish("a", "b")

    assert 1 == waiters.queue.reschedule([0], 2500)

    waiters.advance(SECOND)
    assert [b"b"] == waiters.take_all()
    waiters.advance(499)
    assert [] == waiters.take_all()
    waiters.advance(1)
    assert [b"a"] == waiters.take_all()
    assert [("rescheduled", 1)] == waiters.events


def test_a_message_may_be_rescheduled_to_an_earlier_moment() -> None:
    waiters = Waiters()
    waiters.publish("a", "b")
    waiters.queue.reschedule([1], 1500)

    waiters.advance(500)
    early = waiters.take_all()
    waiters.advance(500)

    assert [b"b"] == early
    assert [b"a"] == waiters.take_all()


def test_a_released_message_comes_at_once() -> None:
    waiters = Waiters()
    waiters.publish("a", "b")

    waiters.queue.release_waiting([1])
    finish(waiters.broker)

    assert [b"b"] == waiters.take_all()
    assert 1 == waiters.queue.waiting_count


def test_time_to_live_counts_from_the_moment_to_which_it_was_rescheduled() -> None:
    waiters = Waiters(**{"x-message-ttl": 100})
    waiters.publish("later", "earlier")
    waiters.queue.reschedule([0], 3000)
    waiters.queue.release_waiting([1])
    finish(waiters.broker)

    waiters.advance(99)
    assert (1, 0) == waiters.client.counts()
    waiters.advance(1)
    assert (0, 0) == waiters.client.counts()
    waiters.advance(1900 + 99)
    assert (1, 0) == waiters.client.counts()
    waiters.advance(1)
    assert (0, 0) == waiters.client.counts()


# What was changed does not stay


def test_moments_that_nobody_waits_for_are_forgotten_once_they_are_most(monkeypatch) -> None:
    monkeypatch.setattr(waiting, "TOLERATED", 8)
    waiters = Waiters()
    for number in range(40):
        waiters.publish(str(number), after=1)

    for position in range(38):
        waiters.queue.cancel_waiting([position])

    assert len(waiters.queue.extras.dues) < 20
    assert 2 == waiters.queue.waiting_count
    waiters.advance(SECOND)
    assert [b"38", b"39"] == waiters.take_all()

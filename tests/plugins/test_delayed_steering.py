"""Messages that wait, seen and steered by name, for exchanges and for queues."""

import json

import pytest

from leveret.broker.plugins import steering
from leveret.broker.plugins.steering import (
    Delayed,
    DelayedPage,
    Span,
    Steered,
    SteeringError,
    cancel_delayed,
    count_delayed,
    deliver_delayed_now,
    get_delayed,
    list_delayed,
    reschedule_delayed,
)
from leveret.broker.testing import START_OF_TIME, Embedded, finish
from leveret.protocol.constants import TEN_YEARS_MS

HOUR_MS = 3_600_000

TOPOLOGY = {
    "exchanges": [
        {"name": "dx", "type": "x-delayed-message", "arguments": {"x-delayed-type": "direct"}}
    ],
    "queues": [
        "q",
        {"name": "late", "arguments": {"x-message-delay": HOUR_MS}},
    ],
    "bindings": [{"source": "dx", "destination": "q", "routing_key": "k"}],
}


class Waiting:
    """A broker with a delayed exchange, and a queue that delays."""

    def __init__(self) -> None:
        self.embedded = Embedded(TOPOLOGY)
        self.broker = self.embedded.broker

    def publish(self, name: str | None, delay: int, body: bytes = b"m") -> None:
        self.embedded.publish("dx", "k", body, message_id=name, headers={"x-delay": delay})

    def bodies(self, queue: str = "q") -> list[bytes]:
        finish(self.broker)
        found = []
        while (got := self.embedded.get(queue)) is not None:
            found.append(got.body)
        return found

    def names(self, **options) -> list[str | None]:
        return [each.identity for each in list_delayed(self.broker, "/", "dx", **options).messages]


@pytest.fixture
def waiting():
    return Waiting()


# Looking


def test_what_waits_for_an_exchange_is_listed_by_when_it_is_due(waiting):
    waiting.publish("b", 2000, b"bb")
    waiting.publish("a", 1000)

    page = list_delayed(waiting.broker, "/", "dx")

    assert page == DelayedPage(
        (
            Delayed(1, START_OF_TIME + 1000, "a", "dx", "k", 1, True),
            Delayed(0, START_OF_TIME + 2000, "b", "dx", "k", 2, True),
        ),
        None,
        2,
    )


def test_an_exchange_that_has_delayed_nothing_yet_has_nothing(waiting):
    assert DelayedPage((), None, 0) == list_delayed(waiting.broker, "/", "dx")
    assert () == get_delayed(waiting.broker, "/", "dx", "a")
    assert Steered(0, True) == cancel_delayed(waiting.broker, "/", "dx", "a")
    assert 0 == count_delayed(waiting.broker, "/", "dx").waiting


def test_pages_go_on(waiting):
    for number in range(5):
        waiting.publish(str(number), 1000 + number)

    first = list_delayed(waiting.broker, "/", "dx", limit=2)
    second = list_delayed(waiting.broker, "/", "dx", limit=2, after=first.next)
    third = list_delayed(waiting.broker, "/", "dx", limit=2, after=second.next)

    pages = [[each.identity for each in page.messages] for page in (first, second, third)]
    assert [["0", "1"], ["2", "3"], ["4"]] == pages
    assert third.next is None


@pytest.mark.parametrize("after", ["", "1", "1.", ".1", "a.b", "-1.0", "1.2.3", "1" * 50 + ".1"])
def test_a_page_that_ends_nowhere_is_refused(waiting, after):
    with pytest.raises(SteeringError, match="no page ends at"):
        list_delayed(waiting.broker, "/", "dx", after=after)


def test_what_waits_in_a_queue_is_listed(waiting):
    waiting.embedded.publish("", "late", b"m", message_id="a")

    [found] = list_delayed(waiting.broker, "/", "late", kind="queue").messages

    assert ("a", START_OF_TIME + HOUR_MS, "") == (found.identity, found.due, found.exchange)


def test_a_queue_in_which_nothing_can_wait_has_nothing(waiting):
    assert DelayedPage((), None, 0) == list_delayed(waiting.broker, "/", "q", kind="queue")


def test_waiting_messages_are_counted_by_when_they_are_due(waiting):
    for delay in (500, 5000, 5000, 2 * HOUR_MS, TEN_YEARS_MS):
        waiting.publish(None, delay)
    waiting.publish(None, "soon")

    counts = count_delayed(waiting.broker, "/", "dx", buckets=(1000, HOUR_MS))

    assert counts.spans == (
        Span(None, START_OF_TIME + 1000, 1),
        Span(START_OF_TIME + 1000, START_OF_TIME + HOUR_MS, 2),
        Span(START_OF_TIME + HOUR_MS, None, 2),
    )
    assert (5, 1) == (counts.waiting, counts.ignored)
    assert 5 == sum(span.count for span in count_delayed(waiting.broker, "/", "dx").spans)


def test_buckets_that_do_not_ascend_are_refused(waiting):
    with pytest.raises(SteeringError, match="must ascend"):
        count_delayed(waiting.broker, "/", "dx", buckets=(2, 2))


def test_a_message_is_found_by_name_or_position(waiting):
    waiting.publish("a", 1000)
    waiting.publish("a", 500)
    waiting.publish("b", 700)

    assert [0, 1] == [each.position for each in get_delayed(waiting.broker, "/", "dx", "a")]
    assert ["b"] == [each.identity for each in get_delayed(waiting.broker, "/", "dx", 2)]
    assert () == get_delayed(waiting.broker, "/", "dx", 3)
    assert () == get_delayed(waiting.broker, "/", "dx", "2")


def test_answers_have_json(waiting):
    waiting.publish("a", 1000)

    page = json.loads(json.dumps(list_delayed(waiting.broker, "/", "dx").as_json()))
    counts = json.loads(json.dumps(count_delayed(waiting.broker, "/", "dx").as_json()))
    [found] = get_delayed(waiting.broker, "/", "dx", "a")
    done = cancel_delayed(waiting.broker, "/", "dx", "a")

    assert [found.as_json()] == page["messages"]
    assert "a" == page["messages"][0]["identity"]
    assert 1 == counts["waiting"]
    assert {"messages": 1, "is_complete": True} == done.as_json()


# Steering


def test_a_cancelled_message_is_not_delivered(waiting):
    waiting.publish("a", 1000, b"a")
    waiting.publish("b", 1000, b"b")

    assert Steered(1, True) == cancel_delayed(waiting.broker, "/", "dx", "a")
    assert Steered(0, True) == cancel_delayed(waiting.broker, "/", "dx", "a")

    assert ["b"] == waiting.names()
    waiting.embedded.advance(1)
    assert [b"b"] == waiting.bodies()


def test_a_message_is_delivered_now(waiting):
    waiting.publish("a", 1000, b"a")
    waiting.publish("b", 1000, b"b")

    waiting.embedded.advance(0.001)
    assert Steered(1, True) == deliver_delayed_now(waiting.broker, "/", "dx", 1)

    assert [b"b"] == waiting.bodies()
    assert ["a"] == waiting.names()


def test_a_message_of_a_queue_is_delivered_now(waiting):
    waiting.embedded.publish("", "late", b"m", message_id="a")

    waiting.embedded.advance(0.001)
    deliver_delayed_now(waiting.broker, "/", "late", "a", kind="queue")

    assert [b"m"] == waiting.bodies("late")


def test_a_message_gets_another_delay(waiting):
    waiting.publish("a", 1000, b"a")

    assert Steered(1, True) == reschedule_delayed(waiting.broker, "/", "dx", "a", delay=3000)

    waiting.embedded.advance(2.999)
    assert [] == waiting.bodies()
    waiting.embedded.advance(0.001)
    assert [b"a"] == waiting.bodies()


def test_a_message_gets_a_moment_that_goes_along_with_the_wall_clock(waiting):
    waiting.publish("a", 1000, b"a")
    reschedule_delayed(waiting.broker, "/", "dx", "a", at=START_OF_TIME + 5000)

    waiting.broker.wall_offset += 2000
    waiting.broker.events.emit("clock.jumped", difference=2000)
    finish(waiting.broker)

    waiting.embedded.advance(2.999)
    assert [] == waiting.bodies()
    waiting.embedded.advance(0.001)
    assert [b"a"] == waiting.bodies()


def test_another_delay_does_not_go_along_with_the_wall_clock(waiting):
    waiting.embedded.publish(
        "dx", "k", b"a", message_id="a", headers={"x-deliver-at": START_OF_TIME + 1000}
    )
    reschedule_delayed(waiting.broker, "/", "dx", "a", delay=5000)

    waiting.broker.wall_offset += 20_000
    waiting.broker.events.emit("clock.jumped", difference=20_000)
    finish(waiting.broker)

    assert [] == waiting.bodies()
    waiting.embedded.advance(5)
    assert [b"a"] == waiting.bodies()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "one of 'delay' and 'at' must be given"),
        ({"delay": 1, "at": 1}, "one of 'delay' and 'at' must be given"),
        ({"delay": -1}, f"'delay' is -1, it must be from 0 to {TEN_YEARS_MS}"),
        (
            {"delay": TEN_YEARS_MS + 1},
            f"'delay' is {TEN_YEARS_MS + 1}, it must be from 0 to {TEN_YEARS_MS}",
        ),
        (
            {"at": 1 << 50},
            f"'at' is {1 << 50}, it must be from 0 to {START_OF_TIME + TEN_YEARS_MS}",
        ),
    ],
)
def test_a_moment_out_of_range_is_refused(waiting, options, text):
    waiting.publish("a", 1000)

    with pytest.raises(SteeringError) as raised:
        reschedule_delayed(waiting.broker, "/", "dx", "a", **options)

    assert text == str(raised.value)


def test_a_call_stops_at_very_many(waiting, monkeypatch):
    monkeypatch.setattr(steering, "MOST", 2)
    for _ in range(3):
        waiting.publish("a", 1000)

    done = [cancel_delayed(waiting.broker, "/", "dx", "a") for _ in range(2)]

    assert [Steered(2, False), Steered(1, True)] == done


@pytest.mark.parametrize(
    ("vhost", "name", "kind", "text"),
    [
        ("none", "dx", "exchange", "no vhost 'none'"),
        ("/", "q", "exchange", "no exchange 'q' in vhost '/'"),
        ("/", "dx", "queue", "no queue 'dx' in vhost '/'"),
    ],
)
def test_what_is_not_there_is_said(waiting, vhost, name, kind, text):
    with pytest.raises(LookupError) as raised:
        list_delayed(waiting.broker, vhost, name, kind=kind)

    assert (text,) == raised.value.args

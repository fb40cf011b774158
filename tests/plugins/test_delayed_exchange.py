"""Delayed exchanges: what counts as a delay, and how they go together with all else."""

from decimal import Decimal

import pytest

from leveret.broker.core.policy import Policy
from leveret.broker.core.users import Permissions, TopicPermissions
from leveret.broker.core.waiting import DUE_HOOKED
from leveret.broker.plugins.delayed import Holding
from leveret.broker.testing import Client as AnyClient
from leveret.broker.testing import advance, finish
from leveret.protocol.constants import TEN_YEARS_MS
from leveret.protocol.methods import (
    BasicAck,
    BasicGet,
    BasicPublish,
    BasicReturn,
    ConfirmSelect,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    QueueBind,
    TxCommit,
    TxRollback,
    TxSelect,
)
from leveret.protocol.properties import Properties
from leveret.protocol.table import (
    Float32,
    Int8,
    Int16,
    Int64,
    LongInt64,
    Timestamp,
    UInt8,
    UInt16,
    UInt32,
)

from ..support.client import Client, closed, published

NOW = 1000
WALL = 1_700_000_000_000  # what the wall clock shows when `broker.now` is 0


class Delayed:
    """A direct delayed exchange with a queue bound to it."""

    def __init__(self, broker, inner="direct", **options):
        self.broker = broker
        broker.now, broker.wall_offset = NOW, WALL
        self.events = []
        for name in ("delay.ignored", "delayed.dropped", "delayed.refused"):
            broker.events.subscribe(
                name, lambda name=name, **fields: self.events.append((name, fields))
            )
        self.client = Client(broker)
        self.declare("dx", inner, **options)
        self.client.declare()
        self.client.call(QueueBind("q", "dx", "k"))

    @property
    def vhost(self):
        return self.broker.vhosts["/"]

    @property
    def waiting(self):
        queue = self.vhost.hidden.get("delayed:dx")
        return 0 if queue is None else queue.waiting_count

    def declare(self, name, inner="direct", arguments=None, **options):
        arguments = {"x-delayed-type": inner, **(arguments or {})}
        method = ExchangeDeclare(name, "x-delayed-message", arguments=arguments, **options)
        return self.client.send(method)

    def publish(self, body=b"m", key="k", exchange="dx", mandatory=False, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.publish(body, key, exchange, mandatory=mandatory, headers=named)

    def ready(self, name="q"):
        return self.client.counts(name)[0]

    def take(self, name="q"):
        found = []
        while hasattr(answer := self.client.call(BasicGet(name, no_ack=True)), "body"):
            found.append(answer)
        return found

    def bodies(self, name="q"):
        return [each.body for each in self.take(name)]

    def advance(self, milliseconds):
        advance(self.broker, milliseconds / 1000)


@pytest.fixture
def delayed(broker):
    return Delayed(broker)


# What counts as a delay

KINDS = (int, Int8, Int16, Int64, LongInt64, UInt8, UInt16, UInt32, float, Float32)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_delay_may_be_any_number(delayed, kind):
    delayed.publish(x_delay=kind(100))

    delayed.advance(99)
    assert 0 == delayed.ready()
    delayed.advance(1)
    assert 1 == delayed.ready()
    assert [] == delayed.events


@pytest.mark.parametrize("body", [b"x-deliver-at", b"\7x-delayI\0\0\0\1"])
@pytest.mark.parametrize("properties", [{}, {"content_type": "text"}, {"content_encoding": "e"}])
@pytest.mark.parametrize(
    "headers", [{"x-delay": 100}, {"a": 1, "x-delay": 100}, {"x-delay": 100, "z": "x-del"}]
)
def test_a_delay_is_found_wherever_it_stands(delayed, headers, properties, body):
    delayed.client.publish(body, "k", "dx", headers=headers, **properties)

    delayed.advance(99)
    assert 0 == delayed.ready()
    delayed.advance(1)
    assert [body] == delayed.bodies()


def test_a_part_of_a_millisecond_counts_as_one(delayed):
    delayed.publish(x_delay=0.25)

    assert 0 == delayed.ready()
    delayed.advance(1)
    assert 1 == delayed.ready()


@pytest.mark.parametrize("delay", [(1 << 32) - 1, 1 << 32, (1 << 32) + 1, TEN_YEARS_MS])
def test_a_delay_may_be_ten_years(delayed, delay):
    delayed.publish(x_delay=delay)

    delayed.advance(delay - 1)
    assert 0 == delayed.ready()
    delayed.advance(1)
    assert 1 == delayed.ready()


@pytest.mark.parametrize("delay", [0, -1, -0.5, -(1 << 40)])
def test_no_delay_is_none(delayed, delay):
    delayed.publish(x_delay=delay)

    assert 1 == delayed.ready()
    assert [] == delayed.events


@pytest.mark.parametrize(
    "delay",
    [
        *("soon", "100", True, None, [100], {"ms": 100}, b"\x64", Decimal(100)),
        *(float("nan"), float("inf"), TEN_YEARS_MS + 1),
    ],
)
def test_what_only_looks_like_a_delay_routes_at_once_and_counts(delayed, delay):
    delayed.publish(x_delay=delay)

    exchange = delayed.vhost.exchanges["dx"]
    assert 1 == delayed.ready()
    assert [("delay.ignored", {"exchange": exchange, "header": "x-delay"})] == delayed.events


def test_a_message_without_headers_routes_at_once(delayed):
    delayed.client.publish(b"m", "k", "dx")
    delayed.publish(x_other=1)
    delayed.publish(x_delayed=100)

    assert 3 == delayed.ready()
    assert [] == delayed.events


def test_a_delay_counts_wherever_it_stands_in_the_headers(delayed):
    delayed.publish(other="a", x_delay=100, last=True)
    delayed.client.publish(
        b"m", "k", "dx", content_type="text/plain", headers={"x-delay": 100}, message_id="m"
    )

    delayed.advance(99)
    assert 0 == delayed.ready()
    delayed.advance(1)
    assert 2 == delayed.ready()


def test_the_name_within_another_value_is_no_delay(delayed):
    delayed.publish(other="\x07x-delayI\x00\x00\x00\x64")

    assert 1 == delayed.ready()


# Absolute moments


@pytest.mark.parametrize("kind", [int, float, Int64, LongInt64])
def test_a_message_may_wait_for_a_moment_of_the_wall_clock(delayed, kind):
    delayed.publish(x_deliver_at=kind(WALL + NOW + 100))

    delayed.advance(99)
    assert 0 == delayed.ready()
    delayed.advance(1)
    assert 1 == delayed.ready()


def test_a_timestamp_is_in_seconds(delayed):
    delayed.publish(x_deliver_at=Timestamp((WALL + NOW) // 1000 + 5))

    delayed.advance(4999)
    assert 0 == delayed.ready()
    delayed.advance(1)
    assert 1 == delayed.ready()


def test_a_moment_that_is_past_is_now(delayed):
    delayed.publish(x_deliver_at=WALL + NOW)
    delayed.publish(x_deliver_at=-1)

    assert 2 == delayed.ready()
    assert [] == delayed.events


@pytest.mark.parametrize("at", ["tomorrow", WALL + NOW + TEN_YEARS_MS + 1])
def test_what_only_looks_like_a_moment_counts(delayed, at):
    delayed.publish(x_deliver_at=at)

    assert 1 == delayed.ready()
    assert ["x-deliver-at"] == [fields["header"] for _, fields in delayed.events]


def test_the_moment_counts_more_than_the_delay(delayed):
    delayed.publish(b"both", x_delay=10, x_deliver_at=WALL + NOW + 100)
    delayed.publish(b"past", x_delay=10, x_deliver_at=WALL)
    delayed.publish(b"bad", x_delay=10, x_deliver_at="soon")

    assert [b"past"] == delayed.bodies()
    delayed.advance(10)
    assert [b"bad"] == delayed.bodies()
    delayed.advance(90)
    assert [b"both"] == delayed.bodies()


def test_a_jump_of_the_wall_clock_moves_only_moments_of_it(delayed):
    for milliseconds in (500, 5000):
        delayed.publish(b"relative %d" % milliseconds, x_delay=milliseconds)
        delayed.publish(b"absolute %d" % milliseconds, x_deliver_at=WALL + NOW + milliseconds)

    delayed.broker.wall_offset += 1000
    delayed.broker.events.emit("clock.jumped", difference=1000)
    finish(delayed.broker)

    assert [b"absolute 500"] == delayed.bodies()
    delayed.advance(500)
    assert [b"relative 500"] == delayed.bodies()
    delayed.advance(3500)
    assert [b"absolute 5000"] == delayed.bodies()
    delayed.advance(1000)
    assert [b"relative 5000"] == delayed.bodies()


def test_a_wall_clock_that_is_put_back_delays_what_waits_for_it(delayed):
    delayed.publish(x_deliver_at=WALL + NOW + 100)

    delayed.broker.wall_offset -= 1000
    delayed.broker.events.emit("clock.jumped", difference=-1000)
    finish(delayed.broker)

    delayed.advance(1099)
    assert 0 == delayed.ready()
    delayed.advance(1)
    assert 1 == delayed.ready()


# Delivery


def test_the_delay_is_delivered_negated(delayed):
    delayed.publish(x_delay=100, other="a")
    delayed.advance(100)

    [got] = delayed.take()
    assert {"x-delay": -100, "other": "a"} == got.properties.headers
    assert ("dx", "k") == (got.method.exchange, got.method.routing_key)


def test_messages_come_in_the_order_in_which_they_are_due(delayed):
    for delay in (300, 100, 200, 100):
        delayed.publish(b"%d" % delay, x_delay=delay)

    delayed.broker.now += 1000  # all of them at once
    delayed.advance(0)

    assert [b"100", b"100", b"200", b"300"] == delayed.bodies()


def test_of_very_many_that_are_due_few_go_on_at_a_time(broker, monkeypatch):
    counts = []
    due = Holding.due
    monkeypatch.setattr(
        Holding, "due", lambda self, entries: counts.append(len(entries)) or due(self, entries)
    )
    delayed = Delayed(broker)
    for _ in range(2 * DUE_HOOKED + 1):
        delayed.publish(x_delay=100)

    delayed.advance(100)

    assert [DUE_HOOKED, DUE_HOOKED, 1] == counts
    assert sum(counts) == delayed.ready()


def test_the_bindings_of_the_moment_count(delayed):
    delayed.publish(b"first", x_delay=100)
    delayed.publish(b"other", "other", x_delay=100)
    delayed.client.declare("other")
    delayed.client.call(QueueBind("other", "dx", "other"))

    delayed.advance(100)

    assert [b"first"] == delayed.bodies()
    assert [b"other"] == delayed.bodies("other")


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_copies_are_delayed_too(delayed, header):
    delayed.client.declare("other")
    delayed.client.call(QueueBind("other", "dx", "o"))
    delayed.publish(x_delay=100, **{header: ["o"]})
    assert 0 == delayed.ready("other")

    delayed.advance(100)

    assert [b"m"] == delayed.bodies()
    assert [b"m"] == delayed.bodies("other")


@pytest.mark.parametrize(
    ("inner", "key", "binding"), [("fanout", "any", ""), ("topic", "a.b", "a.*")]
)
def test_the_other_type_routes(broker, inner, key, binding):
    delayed = Delayed(broker, inner)
    delayed.client.call(QueueBind("q", "dx", binding))
    delayed.publish(key=key, x_delay=100)

    delayed.advance(100)

    assert 1 == delayed.ready()


def test_headers_route_after_the_delay(broker):
    delayed = Delayed(broker, "headers")
    delayed.client.declare("other")
    delayed.client.call(QueueBind("other", "dx", "", arguments={"a": 1}))
    delayed.publish(x_delay=100, a=1)
    delayed.publish(x_delay=100, a=2)

    delayed.advance(100)

    assert 1 == delayed.ready("other")


def test_the_time_to_live_of_a_message_counts_from_its_delivery(delayed):
    delayed.client.publish(b"m", "k", "dx", headers={"x-delay": 100}, expiration="50")

    delayed.advance(149)
    assert 1 == delayed.ready()
    delayed.advance(1)
    assert 0 == delayed.ready()


def test_the_second_message_of_a_kind_is_checked_like_the_first(delayed):
    for _ in range(3):
        delayed.publish(x_delay=100)
        delayed.publish(x_delay="soon")

    assert (3, 3) == (delayed.ready(), delayed.waiting)


# Other exchanges


def test_what_is_not_routed_when_it_is_due_goes_to_the_alternate_exchange(broker):
    delayed = Delayed(broker, arguments={"alternate-exchange": "amq.fanout"})
    delayed.client.declare("lost")
    delayed.client.call(QueueBind("lost", "amq.fanout", ""))
    delayed.publish(key="nowhere", x_delay=100)
    assert 0 == delayed.ready("lost")

    delayed.advance(100)

    assert 1 == delayed.ready("lost")


def test_a_binding_from_another_exchange_delays(delayed):
    delayed.client.call(ExchangeBind("dx", "amq.topic", "k"))
    delayed.client.declare("direct")
    delayed.client.call(QueueBind("direct", "amq.topic", "k"))
    delayed.publish(exchange="amq.topic", x_delay=100)

    assert (0, 1) == (delayed.ready(), delayed.ready("direct"))
    delayed.advance(100)
    assert (1, 1) == (delayed.ready(), delayed.ready("direct"))


def test_a_message_is_delayed_once_on_its_way(delayed):
    delayed.declare("second")
    delayed.client.declare("end")
    delayed.client.call(ExchangeBind("second", "dx", "k"))
    delayed.client.call(QueueBind("end", "second", "k"))
    delayed.publish(x_delay=100)

    delayed.advance(100)

    assert (1, 1) == (delayed.ready(), delayed.ready("end"))


def test_what_is_not_delayed_passes_one_delayed_exchange_after_the_other(delayed):
    delayed.declare("second")
    delayed.client.declare("end")
    delayed.client.call(ExchangeBind("second", "dx", "k"))
    delayed.client.call(QueueBind("end", "second", "k"))
    for body in (b"1", b"2", b"3"):
        delayed.publish(body)

    assert [b"1", b"2", b"3"] == delayed.bodies("end") == delayed.bodies()


def test_a_policy_delays_on_any_exchange(delayed):
    delayed.vhost.policies.put(Policy("p", "^amq.direct$", {"delayed": True}, "exchanges"))
    delayed.vhost.apply_policies()
    delayed.client.call(QueueBind("q", "amq.direct", "k"))
    delayed.publish(exchange="amq.direct", x_delay=100)
    assert 0 == delayed.ready()

    delayed.advance(100)

    assert 1 == delayed.ready()


def test_what_waits_keeps_its_moment_when_the_policy_goes(delayed):
    delayed.vhost.policies.put(Policy("p", "^amq.direct$", {"delayed": True}, "exchanges"))
    delayed.vhost.apply_policies()
    delayed.client.call(QueueBind("q", "amq.direct", "k"))
    delayed.publish(b"before", exchange="amq.direct", x_delay=100)

    delayed.vhost.policies.delete("p")
    delayed.vhost.apply_policies()
    delayed.publish(b"after", exchange="amq.direct", x_delay=100)

    assert [b"after"] == delayed.bodies()
    delayed.advance(99)
    assert [] == delayed.bodies()
    delayed.advance(1)
    assert [b"before"] == delayed.bodies()


# The end of an exchange


def test_deleting_the_exchange_drops_what_waits_and_says_how_much(delayed):
    exchange = delayed.vhost.exchanges["dx"]
    delayed.publish(x_delay=100)
    delayed.publish(x_delay=200)

    delayed.client.call(ExchangeDelete("dx"))

    assert [("delayed.dropped", {"exchange": exchange, "count": 2})] == delayed.events
    assert {} == delayed.vhost.hidden
    delayed.advance(200)
    assert 0 == delayed.ready()


def test_deleting_an_exchange_that_was_delayed_once_drops_what_waits(delayed):
    delayed.client.call(ExchangeDeclare("x", "direct"))
    delayed.client.call(QueueBind("q", "x", "k"))
    delayed.vhost.policies.put(Policy("p", "^x$", {"delayed": True}, "exchanges"))
    delayed.vhost.apply_policies()
    delayed.publish(exchange="x", x_delay=100)
    delayed.vhost.policies.delete("p")
    delayed.vhost.apply_policies()

    delayed.client.call(ExchangeDelete("x"))
    delayed.client.call(ExchangeDeclare("x", "direct"))
    delayed.client.call(QueueBind("q", "x", "k"))

    delayed.advance(100)
    assert 0 == delayed.ready()
    assert 1 == len(delayed.events)


def test_deleting_an_exchange_with_nothing_waiting_says_nothing(delayed):
    delayed.publish(x_delay=100)
    delayed.advance(100)

    delayed.client.call(ExchangeDelete("dx"))

    assert [] == delayed.events


# What publishers hear


def test_a_mandatory_message_that_waits_is_accepted(delayed):
    delayed.client.call(ConfirmSelect())

    assert [BasicAck(1)] == delayed.publish(key="nowhere", mandatory=True, x_delay=100)
    returned, ack = delayed.publish(key="nowhere", mandatory=True)
    assert (BasicReturn, BasicAck(2)) == (type(returned.method), ack)
    delayed.advance(100)
    assert [] == delayed.client.take()


def test_a_transaction_delays_from_its_commit(delayed):
    delayed.client.call(TxSelect())
    delayed.publish(b"kept", x_delay=100)
    delayed.advance(50)
    delayed.client.call(TxCommit())
    delayed.publish(b"gone", x_delay=100)
    delayed.client.call(TxRollback())

    assert 1 == delayed.waiting
    delayed.advance(99)
    assert [] == delayed.bodies()
    delayed.advance(1)
    assert [b"kept"] == delayed.bodies()


def test_nobody_publishes_to_an_internal_exchange(delayed):
    delayed.declare("inner", internal=True)
    delayed.client.call(QueueBind("q", "inner", "k"))
    delayed.client.call(ExchangeBind("inner", "amq.direct", "k"))

    delayed.publish(exchange="amq.direct", x_delay=100)
    code, text = closed(delayed.publish(exchange="inner", x_delay=100))

    assert 403 == code
    assert "internal exchange 'inner'" in text
    delayed.advance(100)
    assert 1 == delayed.vhost.queues["q"].ready_count


def test_topic_permissions_are_checked_at_publishing(broker):
    delayed = Delayed(broker, "topic")
    broker.users.add("some", "secret")
    broker.users.set_permissions("some", "/", Permissions("", ".*", ""))
    broker.users.set_topic_permissions("some", "/", "dx", TopicPermissions("^allowed", ""))
    some = AnyClient(broker, "some", "secret")
    header = Properties(headers={"x-delay": 100})

    some.feed(published(b"m", BasicPublish("dx", "allowed"), 1, header))
    assert [] == some.take()
    some.feed(published(b"m", BasicPublish("dx", "refused"), 1, header))

    assert 403 == closed(some.take())[0]
    assert 1 == delayed.waiting


# Declarations


def test_the_same_may_be_declared_again(delayed):
    assert [ExchangeDeclareOk()] == delayed.declare("dx")


def test_another_type_is_refused(delayed):
    code, text = closed(delayed.declare("dx", "fanout"))

    assert 406 == code
    assert "x-delayed-type" in text
    assert "fanout" in text
    assert "direct" in text


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({}, "none"),
        ({"x-delayed-type": "none-such"}, "'none-such'"),
        ({"x-delayed-type": "x-delayed-message"}, "'x-delayed-message'"),
        ({"x-delayed-type": 5}, "'5'"),
    ],
)
def test_a_type_that_is_none_is_refused(delayed, arguments, shown):
    method = ExchangeDeclare("new", "x-delayed-message", arguments=arguments)

    code, text = closed(delayed.client.send(method))

    assert 406 == code
    assert f"invalid argument 'x-delayed-type': {shown}" in text


@pytest.mark.parametrize("value", [0, -1, TEN_YEARS_MS + 1, "1000", True, 1.5])
def test_a_delay_of_a_queue_out_of_range_is_refused(delayed, value):
    answer = delayed.client.declare("late", arguments={"x-message-delay": value})

    code, text = closed([answer])

    assert 406 == code
    assert "x-message-delay" in text


def test_what_a_queue_refuses_when_its_delay_is_over_is_told_of(delayed):
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    delayed.client.declare("full", arguments=full)
    delayed.client.call(QueueBind("full", "dx", "k"))
    for _ in range(3):
        delayed.publish(x_delay=100)
    delayed.advance(100)

    exchange = delayed.vhost.exchanges["dx"]
    assert [("delayed.refused", {"exchange": exchange, "count": 2})] == delayed.events
    assert (3, 1) == (delayed.ready(), delayed.ready("full"))


@pytest.mark.parametrize("letters", [72, 73, 100])  # 73 is the octet of the tag I
def test_what_stands_behind_the_headers_is_no_delay(delayed, letters):
    properties = {"correlation_id": "x-delay", "reply_to": "a" * letters}
    delayed.client.publish(b"m", "k", "dx", headers={}, **properties)

    assert 1 == delayed.ready()


def test_what_is_rolled_back_is_not_kept_by_what_was_found_out_of_it(delayed):
    delayed.client.call(TxSelect())
    delayed.publish(b"gone", x_delay=100)
    delayed.client.call(TxRollback())
    delayed.advance(1)
    delayed.publish(b"m", x_delay=100)

    (holding,) = delayed.vhost.hidden["delayed:dx"].extras.hooks.values()
    assert [b"m"] == [message.body for message in holding.noted._moments]


def test_what_was_found_out_before_is_not_taken_for_what_comes_later(delayed):
    delayed.client.call(TxSelect())
    delayed.publish(x_delay=100)
    delayed.advance(50)
    delayed.client.call(TxCommit())

    delayed.advance(99)
    assert 0 == delayed.ready()
    delayed.advance(1)
    assert 1 == delayed.ready()

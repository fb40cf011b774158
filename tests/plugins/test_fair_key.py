"""Fair keys: turns, weights, limits, and what a key leaves behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.broker.core.policy import Policy
from leveret.broker.plugins.fair_key import NOBODY, Shares, hash_of
from leveret.broker.testing import Embedded, finish
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicQos,
    BasicReject,
    QueuePurge,
)
from leveret.protocol.properties import splice_headers
from leveret.protocol.table import (
    Float32,
    Int8,
    Int16,
    Int64,
    Timestamp,
    UInt8,
    UInt32,
    encode_value,
)

from ..support.fakes import Target, message


class Tenants:
    """A broker with a queue that is shared by tenants, and one client."""

    def __init__(self, **arguments):
        arguments = {"x-fair-key": "tenant", **arguments}
        self.broker = Embedded({"queues": [{"name": "q", "arguments": arguments}]})
        self.queue = self.broker.vhost.queues["q"]
        self.client = self.broker.connect()

    def put(self, *bodies):
        """Publish; the letters before the number say whose it is."""
        for body in bodies:
            headers = {"tenant": body.rstrip("0123456789")}
            self.broker.publish("", "q", body.encode(), headers=headers)

    def rest(self):
        found = []
        while (message := self.broker.get("q")) is not None:
            found.append(message.body.decode())
        return found

    def consume(self, prefetch=100):
        self.client.call(BasicQos(0, prefetch))
        return bodies(self.client.send(BasicConsume("q", "c"))[1:])

    @property
    def known(self):
        """How many keys there is something known of."""
        return sum(map(len, self.queue.extras.lanes._shares))


def bodies(deliveries):
    return [each.body.decode() for each in deliveries]


def test_tenants_are_served_in_turns_each_in_order():
    tenants = Tenants()
    tenants.put("a1", "a2", "a3", "b1", "c1", "b2")

    assert ["a1", "b1", "c1", "a2", "b2", "a3"] == tenants.rest()


def test_who_comes_late_waits_one_turn_at_most():
    tenants = Tenants()
    tenants.put(*(f"a{number}" for number in range(100)))
    first = [tenants.broker.get("q").body.decode() for _ in range(3)]
    tenants.put("b1")

    assert ["a0", "a1", "a2"] == first
    assert "b1" in tenants.rest()[:2]


def test_who_has_no_header_shares_a_turn():
    tenants = Tenants()
    for body in (b"1", b"2"):
        tenants.broker.publish("", "q", body)
    tenants.put("a1", "a2")

    assert ["1", "a1", "2", "a2"] == tenants.rest()


@pytest.mark.parametrize("value", [7, 1.5, True, b"\xff", ["x"], {"k": 1}])
def test_any_value_is_a_key(value):
    tenants = Tenants()
    for body in (b"1", b"2"):
        tenants.broker.publish("", "q", body, headers={"tenant": value})
    tenants.put("a1")

    assert ["1", "a1", "2"] == tenants.rest()


def test_a_weight_is_how_many_are_served_in_a_turn():
    tenants = Tenants(**{"x-fair-key-weights": {"a": 2}})
    tenants.put("a1", "a2", "a3", "b1", "b2")

    assert ["a1", "a2", "b1", "a3", "b2"] == tenants.rest()


def test_nobody_has_more_than_the_limit_at_a_time():
    tenants = Tenants(**{"x-fair-key-limit": 1})
    tenants.put("a1", "a2", "b1", "b2")

    assert ["a1", "b1"] == tenants.consume()
    assert ["a2"] == bodies(tenants.client.send(BasicAck(1)))
    assert 1 == tenants.queue.ready_count


def test_what_is_rejected_makes_room_too():
    tenants = Tenants(**{"x-fair-key-limit": 1})
    tenants.put("a1", "a2")
    tenants.consume()

    assert ["a2"] == bodies(tenants.client.send(BasicReject(1, False)))


def test_what_comes_back_is_served_before_what_is_behind_it():
    tenants = Tenants(**{"x-fair-key-limit": 1})
    tenants.put("a1", "a2")
    tenants.consume()

    assert ["a1"] == bodies(tenants.client.send(BasicNack(1, False, True)))


def test_a_consumer_that_is_lost_gives_its_share_back():
    tenants = Tenants(**{"x-fair-key-limit": 1})
    tenants.put("a1", "a2")
    tenants.consume()
    tenants.client.lose()
    tenants.client = tenants.broker.connect()

    assert ["a1"] == tenants.consume()


def test_a_get_counts_for_the_limit():
    tenants = Tenants(**{"x-fair-key-limit": 1})
    tenants.put("a1", "a2", "b1")
    got = [tenants.client.call(BasicGet("q")).body for _ in range(2)]

    assert [b"a1", b"b1"] == got
    assert tenants.broker.get("q") is None


def test_a_key_without_messages_is_forgotten():
    tenants = Tenants(**{"x-fair-key-limit": 5})
    tenants.put("a1", "b1")
    tenants.consume()
    assert 2 == tenants.known
    tenants.client.send(BasicAck(0, True))

    tenants.queue.touch()
    tenants.put("c1")

    assert tenants.known <= 1


def test_purged_tenants_are_forgotten_and_may_come_again():
    tenants = Tenants()
    tenants.put("a1", "b1")
    tenants.client.call(QueuePurge("q"))
    tenants.put("b2", "a2")

    assert ["b2", "a2"] == tenants.rest()


def test_very_many_tenants_are_served_one_after_the_other():
    tenants = Tenants()
    names = [f"{'abcdefghij'[number % 10]}-{number}-" for number in range(3000)]
    for name in names:
        tenants.broker.publish("", "q", b"x", headers={"tenant": name})

    assert 3000 == tenants.known
    assert 3000 == len(tenants.rest())
    tenants.put("a1")
    assert ["a1"] == tenants.rest()
    assert tenants.known <= 1


def test_what_was_there_before_there_were_keys_is_served_first():
    broker = Embedded({"queues": ["q"]})
    for body in (b"old 1", b"old 2"):
        broker.publish("", "q", body, headers={"tenant": "a"})
    broker.vhost.set_policy(Policy("p", "q", {"fair-key": "tenant"}))
    broker.advance(0)
    for body, tenant in ((b"a1", "a"), (b"a2", "a"), (b"b1", "b")):
        broker.publish("", "q", body, headers={"tenant": tenant})

    got = [broker.get("q").body for _ in range(5)]

    assert [b"old 1", b"old 2", b"a1", b"b1", b"a2"] == got


def test_the_order_of_a_policy_that_ends_holds_for_what_is_there():
    broker = Embedded({"queues": ["q"]})
    broker.vhost.set_policy(Policy("p", "q", {"fair-key": "tenant"}))
    broker.advance(0)
    for body, tenant in ((b"a1", "a"), (b"a2", "a"), (b"b1", "b")):
        broker.publish("", "q", body, headers={"tenant": tenant})
    broker.vhost.delete_policy("p")
    broker.advance(0)

    assert [b"a1", b"b1", b"a2"] == [broker.get("q").body for _ in range(3)]
    for body in (b"a1", b"a2", b"b1"):
        broker.publish("", "q", body, headers={"tenant": body[:1].decode()})
    assert [b"a1", b"a2", b"b1"] == [broker.get("q").body for _ in range(3)]


@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [
        ("x-fair-key", "", "the name of a header"),
        ("x-fair-key", 5, "the name of a header"),
        ("x-fair-key-weights", {"a": 0}, "a number from 1 to 1000"),
        ("x-fair-key-weights", {"a": True}, "a number from 1 to 1000"),
        ("x-fair-key-weights", "a", "a table"),
        ("x-fair-key-limit", 0, "an integer from 1 to 65535"),
        ("x-fair-key-limit", 1 << 16, "an integer from 1 to 65535"),
    ],
)
def test_a_bad_value_is_refused(argument, value, wanted):
    vhost = Embedded().vhost

    with pytest.raises(PreconditionFailed, match=wanted) as caught:
        vhost.declare_queue("q", arguments={"x-fair-key": "tenant", argument: value})

    assert f"invalid arg '{argument}' for queue 'q'" in caught.value.text


def test_keys_are_the_same_in_every_process():
    assert 0x296312BD09B320AF == hash_of("tenant")  # they are kept


def test_octets_are_those_of_all_lanes():
    tenants = Tenants(**{"x-fair-key-limit": 2})
    tenants.put("a1", "a2", "a3", "b1")
    tenants.consume(1)
    tenants.client.send(BasicNack(1, False, True))
    lanes = tenants.queue.extras.lanes

    assert sum(lane.bytes for lane in lanes.all()) == lanes.bytes > 0
    assert sum(lane.memory for lane in lanes.all()) == lanes.memory
    tenants.client.send(BasicCancel("c"), BasicNack(0, True, True))
    tenants.rest()
    assert (0, 0) == (lanes.bytes, lanes.memory)


def test_what_expires_is_looked_for_where_it_is():
    tenants = Tenants(**{"x-message-ttl": 1000})
    for number in range(500):
        tenants.broker.publish("", "q", b"x", headers={"tenant": number})
    shares = tenants.queue.extras.lanes

    assert 2 == len(list(shares.holding(7, 8)))
    tenants.broker.advance(1)
    assert 0 == tenants.queue.ready_count
    assert 0 == shares.count


def test_turns_survive_what_came_back_and_expires():
    tenants = Tenants(**{"x-message-ttl": 1000})
    tenants.put("a1", "b1")
    tag = tenants.client.call(BasicGet("q")).tag
    tenants.client.send(BasicReject(tag, True))
    tenants.broker.advance(0.5)
    assert 2 == tenants.queue.ready_count

    tenants.broker.advance(0.5)

    assert [] == tenants.rest()


def test_nothing_is_kept_of_what_is_settled():
    tenants = Tenants(**{"x-message-ttl": 60_000})
    tenants.put("z1")
    for number in range(50):
        tenants.put(f"a{number}")
        tenants.client.call(BasicGet("q", no_ack=True))

    assert tenants.queue.extras.lanes._keys.count <= 2


class Counting(Target):
    """A channel that counts how often it is handed something."""

    calls = 0

    def deliver(self, *delivery):
        self.calls += 1
        super().deliver(*delivery)


def test_the_messages_of_many_keys_are_handed_out_at_once():
    tenants = Tenants()
    tenants.put(*(f"{'abcdefghij'[number % 10]}{number}" for number in range(30)))
    target = Counting()
    target.consume(tenants.queue, prefetch_count=25)
    finish(tenants.queue.vhost.broker)

    assert 1 == target.calls
    assert [f"{'abcdefghij'[number % 10]}{number}".encode() for number in range(25)] == (
        target.bodies
    )


def test_consumers_share_a_round_in_turns():
    tenants = Tenants()
    tenants.put("a1", "a2", "a3", "b1", "b2", "c1", "c2")
    target = Counting()
    target.limit = 0
    for tag, prefetch in (("x", 2), ("y", 3)):
        target.consume(tenants.queue, tag, prefetch_count=prefetch)
    finish(tenants.queue.vhost.broker)
    target.limit = 5
    target.unpark()
    finish(tenants.queue.vhost.broker)

    got = [(tag, body) for tag, _, body, _ in target.got]
    assert [("x", b"a1"), ("x", b"c1"), ("y", b"b1"), ("y", b"a2"), ("y", b"b2")] == got


def test_a_window_ends_a_round_and_an_ack_of_many_goes_on():
    tenants = Tenants()
    tenants.put("a1", "a2", "a3", "b1", "b2", "c1")

    assert ["a1", "b1", "c1"] == tenants.consume(3)
    assert ["a2", "b2"] == bodies(tenants.client.send(BasicAck(2, True)))
    again = tenants.client.send(BasicNack(4, True, True))
    assert ["a2", "c1"] == bodies(again)
    assert [True, True] == [each.method.redelivered for each in again]


def test_a_limit_and_weights_hold_within_a_round():
    tenants = Tenants(**{"x-fair-key-limit": 3, "x-fair-key-weights": {"a": 2}})
    tenants.put("a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4")

    assert ["a1", "a2", "b1", "a3", "b2", "b3"] == tenants.consume()
    assert 2 == tenants.queue.ready_count
    assert ["b4"] == bodies(tenants.client.send(BasicAck(3)))
    tenants.client.lose()
    tenants.client = tenants.broker.connect()
    assert 7 == tenants.queue.ready_count


def test_a_limit_holds_for_who_settles_nothing():
    tenants = Tenants(**{"x-fair-key-limit": 1})
    tenants.put("a1", "a2", "b1", "a3", "b2")
    got = tenants.client.send(BasicConsume("q", "c", no_ack=True))[1:]

    assert ["a1", "b1", "a2", "b2", "a3"] == bodies(got)
    assert (0, 0) == (tenants.queue.ready_count, tenants.queue.extras.lanes.bytes)


def test_only_as_many_consumers_are_looked_at_as_may_get_something():
    tenants = Tenants(**{"x-fair-key-limit": 1})
    tenants.put(*(f"a{number}" for number in range(500)))

    assert 1 == tenants.queue.extras.lanes.at_once
    tenants.put("b1")
    assert 2 == tenants.queue.extras.lanes.at_once
    tenants.consume()
    assert 0 == tenants.queue.extras.lanes.at_once


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=9999, places=2)
    | st.sampled_from([Int8(1), UInt8(1), Int16(1), UInt32(1), Int64(1), Float32(0.5)])
    | st.sampled_from([Timestamp(1577836800)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.lists(st.tuples(st.sampled_from(["tenant", "", "t", "tenants", "\udcff"]), VALUES)),
    st.sampled_from(["tenant", "", "t", "\udcff", "\ud800", "\udcc3\udca9"]),
)
def test_keys_are_those_of_headers_that_are_decoded(entries, header):
    octets = b"".join(
        [
            bytes((len(octets),)) + octets + encode_value(value)
            for octets, value in (
                (name.encode("utf-8", "surrogateescape"), value) for name, value in entries
            )
        ]
        + [b"\x02\xc3\xa9" + encode_value("e")]
    )
    one = message(b"tenant").with_header(splice_headers(message(b"tenant").header, None, octets))
    shares = Shares(None, header, {}, 1)
    value = one.headers.get(header)

    assert (NOBODY if value is None else hash_of(str(value))) == shares.key(one)

"""Consistent hash: who gets which key, and who keeps it."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leveret.broker.core.exchange import route
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.table import Int8, UInt32

KEYS = [f"key {number}" for number in range(5000)]


def declare(vhost, **weights):
    """Declare an exchange with a queue for each weight, bound in this order."""
    vhost.delete_exchange("x")
    exchange = vhost.declare_exchange("x", "x-consistent-hash")
    for name, weight in weights.items():
        vhost.bind("x", vhost.declare_queue(name), str(weight))
    return exchange


def owner(exchange, key):
    [queue] = route(exchange, [key]).queues
    return queue.name


def owners(exchange):
    return {key: owner(exchange, key) for key in KEYS}


def moved(before, after):
    """Return from and to where keys have moved."""
    return [(before[key], after[key]) for key in KEYS if before[key] != after[key]]


# Which queue


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 4), (3, 5, 12), (1000, 999, 1)])
def test_each_queue_gets_the_share_of_its_weight(vhost, weights):
    names = ("one", "two", "three")
    exchange = declare(vhost, **dict(zip(names, weights, strict=True)))

    counts = Counter(owners(exchange).values())

    for name, weight in zip(names, weights, strict=True):
        expected = len(KEYS) * weight / sum(weights)
        assert abs(counts[name] - expected) < 0.15 * expected + 20, (name, counts)


def test_a_key_goes_where_it_went_in_every_other_process(vhost):
    exchange = declare(vhost, one=1, two=2, three=3)

    found = "".join(owner(exchange, str(number))[1] for number in range(32))

    assert "whhhhnhhwhwwwwwhwnhhhwhwhhhhnwhw" == found


def test_the_order_of_bindings_does_not_matter(vhost):
    first = owners(declare(vhost, one=1, two=2, three=3))

    exchange = declare(vhost, three=3, one=1, gone=2, two=2)
    vhost.unbind("x", vhost.queue("gone"), "2")

    assert first == owners(exchange)


def test_a_queue_that_comes_takes_keys_and_moves_no_others(vhost):
    exchange = declare(vhost, one=1, two=1, three=1, four=1)
    before = owners(exchange)

    vhost.bind("x", vhost.declare_queue("new"), "1")

    moves = moved(before, owners(exchange))
    assert {"new"} == {to for _, to in moves}
    assert 0.15 < len(moves) / len(KEYS) < 0.25


def test_a_queue_that_goes_leaves_its_keys_and_moves_no_others(vhost):
    exchange = declare(vhost, one=1, two=1, three=1, four=1)
    before = owners(exchange)

    vhost.delete_queue(vhost.queue("two"))

    moves = moved(before, owners(exchange))
    assert {"two"} == {origin for origin, _ in moves}
    assert Counter(before.values())["two"] == len(moves)


def test_few_keys_move_when_weights_are_mixed(vhost):
    exchange = declare(vhost, one=3, two=5, three=6, four=10)
    before = owners(exchange)

    vhost.bind("x", vhost.declare_queue("new"), "6")

    share = 6 / 30
    assert share * 0.8 < len(moved(before, owners(exchange))) / len(KEYS) < 2 * share


def test_bindings_of_one_queue_add_up(vhost):
    expected = owners(declare(vhost, one=3, two=2))

    exchange = declare(vhost, one=1, two=2)
    vhost.bind("x", vhost.queue("one"), "2")

    assert expected == owners(exchange)


@given(st.lists(st.tuples(st.sampled_from(("one", "two", "three")), st.integers(1, 40))))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_came_and_went_before_does_not_matter(vhost, steps):
    """Each step makes a binding, or takes it back if it is there."""
    exchange = declare(vhost)
    for name, weight in steps:
        queue = vhost.declare_queue(name)
        if vhost.find_binding("x", queue, str(weight)):
            vhost.unbind("x", queue, str(weight))
        else:
            vhost.bind("x", queue, str(weight))
    left = sorted((binding.destination, binding.routing_key) for binding in vhost.bindings())
    found = [route(exchange, [key]).queues for key in KEYS[:50]]

    exchange = declare(vhost)
    for name, key in left:
        vhost.bind("x", vhost.queue(name), key)

    assert found == [route(exchange, [key]).queues for key in KEYS[:50]]


def test_one_of_several_bindings_may_go(vhost):
    expected = owners(declare(vhost, one=1, two=2))

    exchange = declare(vhost, one=1, two=2)
    vhost.bind("x", vhost.queue("one"), "2")
    vhost.unbind("x", vhost.queue("one"), "2")

    assert expected == owners(exchange)


def test_nothing_bound_leads_nowhere(vhost):
    exchange = declare(vhost, one=1)
    vhost.unbind("x", vhost.queue("one"), "1")

    assert () == route(exchange, ["k"]).queues


def test_an_exchange_has_a_share_of_its_own(vhost):
    exchange = declare(vhost, one=1)
    vhost.declare_exchange("one", "fanout")
    vhost.bind("one", vhost.declare_queue("behind"), "")

    vhost.bind("x", vhost.exchange("one"), "1")

    counts = Counter(owners(exchange).values())
    assert {"one", "behind"} == set(counts)
    assert min(counts.values()) > 0.4 * len(KEYS)


def test_copies_lead_nowhere_else(client, vhost):
    declare(vhost, one=1, two=1, three=1)

    for number in range(20):
        client.publish(b"", f"k{number}", "x", headers={"CC": [f"a{number}", f"b{number}"]})

    assert 20 == sum(vhost.queue(name).ready_count for name in ("one", "two", "three"))


# Headers and properties


def spread(client, vhost, arguments, publishes):
    """Publish with one routing key; return the queue of each message."""
    vhost.declare_exchange("x", "x-consistent-hash", arguments=arguments)
    names = [f"q{number}" for number in range(8)]
    for name in names:
        vhost.bind("x", vhost.declare_queue(name), "1")
    found = []
    for properties in publishes:
        client.publish(b"", "same", "x", **properties)
        [name] = [name for name in names if vhost.queue(name).ready_count]
        vhost.queue(name).purge()
        found.append(name)
    return found


def test_header_decides_whatever_the_routing_key(client, vhost):
    values = [f"user {number % 16}" for number in range(48)]

    found = spread(
        client, vhost, {"hash-header": "user"}, [{"headers": {"user": value}} for value in values]
    )

    assert found[:16] == found[16:32] == found[32:]
    assert len(set(found)) > 3


@pytest.mark.parametrize("name", ["message_id", "correlation_id", "timestamp"])
def test_property_decides_whatever_the_routing_key(client, vhost, name):
    values = [1000 + number if name == "timestamp" else f"m{number}" for number in range(16)]

    found = spread(
        client, vhost, {"hash-property": name}, [{name: value} for value in [*values, *values]]
    )

    assert found[:16] == found[16:]
    assert len(set(found)) > 3


def test_messages_without_the_header_stay_together(client, vhost):
    publishes = [{}, {"headers": {"other": 1}}, {"headers": {"other": 2}}, {"message_id": "m"}]

    assert 1 == len(set(spread(client, vhost, {"hash-header": "user"}, publishes)))


def test_messages_without_the_property_stay_together(client, vhost):
    publishes = [{}, {"headers": {"other": 1}}, {"correlation_id": "c"}]

    assert 1 == len(set(spread(client, vhost, {"hash-property": "message_id"}, publishes)))


def test_integers_are_hashed_by_value(client, vhost):
    publishes = [{"headers": {"n": kind(7)}} for kind in (int, Int8, UInt32, str)]

    assert 1 == len(set(spread(client, vhost, {"hash-header": "n"}, publishes)))


@pytest.mark.parametrize("value", [True, 1.5, b"\xff", [1, "a"], {"a": 1}])
def test_any_value_can_be_hashed(client, vhost, value):
    publishes = [{"headers": {"h": value}}] * 2

    assert 1 == len(set(spread(client, vhost, {"hash-header": "h"}, publishes)))


@pytest.mark.parametrize("arguments", [{"hash-property": "message_id"}, {"hash-header": "h"}])
def test_a_delayed_exchange_may_hash_what_its_arguments_say(client, vhost, arguments):
    inner = {"x-delayed-type": "x-consistent-hash"}
    delayed = vhost.declare_exchange("d", "x-delayed-message", arguments=arguments | inner)
    plain = vhost.declare_exchange("x", "x-consistent-hash", arguments=arguments)
    for name in ("one", "two", "three"):
        vhost.bind("d", vhost.declare_queue(name), "1")
        vhost.bind("x", vhost.queue(name), "1")

    found = []
    for exchange in (delayed, plain):
        for number in range(12):
            client.publish(
                b"", "k", exchange.name, message_id=f"m{number}", headers={"h": f"v{number}"}
            )
            found.append([name for name in ("one", "two", "three") if vhost.queue(name).purge()])

    assert found[:12] == found[12:]
    assert [1] * 24 == [len(names) for names in found]


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"hash-property": "user_id"}, "Unsupported property: user_id"),
        ({"hash-property": ""}, "Unsupported property: "),
        (
            {"hash-header": "h", "hash-property": "message_id"},
            "hash-header and hash-property are mutually exclusive",
        ),
        (
            {"hash-header": "h", "hash-property": "user_id"},
            "hash-header and hash-property are mutually exclusive",
        ),
        ({"hash-header": 1}, "invalid arg 'hash-header': {unacceptable_type,signedint}"),
        ({"hash-property": [1]}, "invalid arg 'hash-property': {unacceptable_type,array}"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(vhost, arguments, text):
    with pytest.raises(PreconditionFailed) as caught:
        vhost.declare_exchange("x", "x-consistent-hash", arguments=arguments)

    assert text == caught.value.text


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("", "The binding key must be an integer: <<>>"),
        ("x", 'The binding key must be an integer: <<"x">>'),
        ("1.5", 'The binding key must be an integer: <<"1.5">>'),
        ("1_0", 'The binding key must be an integer: <<"1_0">>'),
        ("\u0663", 'The binding key must be an integer: <<"\u0663">>'),
        ("0", "The binding key must be greater than 0"),
        ("-3", "The binding key must be greater than 0"),
        ("1000001", "The binding key must be at most 1000000"),
    ],
)
def test_binding_keys_that_are_no_weight_are_refused(vhost, key, text):
    declare(vhost)

    with pytest.raises(PreconditionFailed) as caught:
        vhost.bind("x", vhost.declare_queue("q"), key)

    assert text == caught.value.text


@pytest.mark.parametrize("key", ["1", "+5", "007", "1000000"])
def test_binding_keys_that_are_a_weight_are_taken(vhost, key):
    exchange = declare(vhost)

    vhost.bind("x", vhost.declare_queue("q"), key)

    assert "q" == owner(exchange, "k")

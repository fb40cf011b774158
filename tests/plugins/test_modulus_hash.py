"""Modulus hash: one destination for each routing key."""

from collections import Counter

from leveret.broker.core.exchange import route

KEYS = [f"key {number}" for number in range(3000)]


def declare(vhost, *bindings):
    """Declare an exchange and bind queues, each given as its name and the key."""
    vhost.delete_exchange("x")
    exchange = vhost.declare_exchange("x", "x-modulus-hash")
    for name, key in bindings:
        vhost.bind("x", vhost.declare_queue(name), key)
    return exchange


def owners(exchange):
    return [queue.name for key in KEYS for queue in route(exchange, [key]).queues]


def test_keys_spread_evenly(vhost):
    counts = Counter(owners(declare(vhost, ("one", ""), ("two", ""), ("three", ""))))

    assert len(KEYS) == counts.total()
    assert all(850 < count < 1150 for count in counts.values()), counts


def test_a_queue_bound_three_times_gets_three_shares(vhost):
    counts = Counter(owners(declare(vhost, ("one", "1"), ("one", "2"), ("one", "3"), ("two", "1"))))

    assert 2050 < counts["one"] < 2450


def test_the_order_of_bindings_does_not_matter(vhost):
    first = owners(declare(vhost, ("one", "a"), ("two", "b"), ("three", "a")))

    exchange = declare(vhost, ("three", "a"), ("gone", "a"), ("two", "b"), ("one", "a"))
    vhost.unbind("x", vhost.queue("gone"), "a")

    assert first == owners(exchange)


def test_bindings_that_differ_in_their_arguments_only_go_one_by_one(vhost):
    exchange = declare(vhost, ("one", ""), ("two", ""))
    vhost.bind("x", vhost.queue("one"), "", {"a": 1})
    vhost.unbind("x", vhost.queue("one"), "")

    assert {"one", "two"} == set(owners(exchange))

    vhost.unbind("x", vhost.queue("one"), "", {"a": 1})

    assert {"two"} == set(owners(exchange))


def test_nothing_bound_leads_nowhere(vhost):
    assert [] == owners(declare(vhost))


def test_a_key_goes_where_it_went_in_every_other_process(vhost):
    exchange = declare(vhost, ("one", ""), ("two", ""), ("three", ""))

    found = [route(exchange, [key]).queues[0].name for key in ("a", "b", "c", "d", "e", "f")]

    assert ["one", "two", "one", "one", "one", "two"] == found


def test_copies_lead_nowhere_else(client, vhost):
    declare(vhost, ("one", ""), ("two", ""), ("three", ""))

    for number in range(20):
        client.publish(b"", f"k{number}", "x", headers={"CC": [f"a{number}", f"b{number}"]})

    assert 20 == sum(vhost.queue(name).ready_count for name in ("one", "two", "three"))

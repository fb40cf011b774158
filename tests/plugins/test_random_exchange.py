"""Random exchanges: any one of the destinations, for each message anew."""

import pytest

from leveret.broker.core.exchange import route
from leveret.protocol.constants import NO_ROUTE
from leveret.protocol.errors import PreconditionFailed

BOTH = pytest.mark.parametrize("kind", ["x-random", "x-local-random"])


def declare(vhost, kind, *names):
    exchange = vhost.declare_exchange("x", kind)
    for name in names:
        vhost.bind("x", vhost.declare_queue(name), "")
    return exchange


def counts(vhost, *names):
    return [vhost.queue(name).ready_count for name in names]


@BOTH
def test_messages_spread_though_their_method_is_the_same(client, vhost, kind):
    declare(vhost, kind, "one", "two")

    for _ in range(200):  # that one queue gets them all is as likely as 199 heads in a row
        client.publish(b"", "same", "x")

    one, two = counts(vhost, "one", "two")
    assert 200 == one + two
    assert one > 0
    assert two > 0


def test_a_queue_bound_three_times_gets_three_shares(vhost):
    exchange = declare(vhost, "x-random", "one", "two")
    for key in ("a", "b"):
        vhost.bind("x", vhost.queue("one"), key)

    found = [route(exchange, ["k"]).queues[0].name for _ in range(2000)]

    assert 1300 < found.count("one") < 1700  # eight standard deviations


@BOTH
def test_copies_lead_nowhere_else(client, vhost, kind):
    declare(vhost, kind, "one", "two")

    client.publish(b"", "k", "x", headers={"CC": ["a", "b"]})

    assert 1 == sum(counts(vhost, "one", "two"))


@BOTH
def test_a_queue_that_is_gone_gets_nothing(client, vhost, kind):
    declare(vhost, kind, "one", "two")
    client.publish(b"", "k", "x")
    vhost.delete_queue(vhost.queue("one"))
    before = vhost.queue("two").ready_count

    for _ in range(10):
        client.publish(b"", "k", "x")

    assert before + 10 == vhost.queue("two").ready_count


@BOTH
def test_nothing_bound_returns_what_is_mandatory(client, vhost, kind):
    declare(vhost, kind)

    [returned] = client.publish(b"lost", "k", "x", mandatory=True)

    assert (NO_ROUTE, b"lost") == (returned.method.reply_code, returned.body)


def test_local_random_takes_no_binding_key(vhost):
    declare(vhost, "x-local-random")

    with pytest.raises(PreconditionFailed, match=r"Non empty binding \(k\) key not permitted"):
        vhost.bind("x", vhost.declare_queue("q"), "k")


def test_random_takes_any_binding_key(vhost):
    exchange = declare(vhost, "x-random")

    vhost.bind("x", vhost.declare_queue("q"), "k")

    assert "q" == route(exchange, ["other"]).queues[0].name

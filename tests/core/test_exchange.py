"""Routing: a pure function of the topology."""

from itertools import pairwise
from typing import cast

import pytest

from leveret.broker.core.exchange import route, tell
from leveret.broker.core.exchange_types import Fanout
from leveret.broker.core.message import Message
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

from .test_vhost import make_vhost


@pytest.fixture
def vhost():
    return make_vhost()


def queues(vhost, *names):
    return [vhost.declare_queue(name) for name in names]


def chain(vhost, *names, type_name="fanout", **properties):
    """Declare exchanges, each bound to the next."""
    for name in names:
        vhost.declare_exchange(name, type_name, **properties)
    for source, destination in pairwise(names):
        vhost.bind(source, vhost.exchange(destination), "", None)
    return [vhost.exchange(name) for name in names]


def names(routing):
    return [queue.name for queue in routing.queues]


def test_default_exchange_routes_by_queue_name_with_all_keys(vhost):
    queues(vhost, "a", "b", "c")

    routing = route(vhost.exchange(""), ["a", "missing", "c", "a"], None)

    assert ["a", "c"] == names(routing)
    assert not routing.depends_on_headers


@pytest.mark.parametrize("type_name", ["direct", "topic"])
def test_every_routing_key_is_tried_and_each_queue_gets_one_copy(vhost, type_name):
    """CC and BCC are further routing keys."""
    one, two, three = queues(vhost, "one", "two", "three")
    vhost.declare_exchange("x", type_name)
    for queue, key in ((one, "a"), (one, "b"), (two, "b"), (three, "c")):
        vhost.bind("x", queue, key, None)

    assert ["one", "two"] == names(route(vhost.exchange("x"), ["a", "b"], None))


@pytest.mark.parametrize("type_name", ["fanout", "headers"])
def test_types_without_keys_route_once_whatever_the_keys(vhost, type_name):
    (one,) = queues(vhost, "one")
    vhost.declare_exchange("x", type_name)
    vhost.bind("x", one, "a", None)

    assert ["one"] == names(route(vhost.exchange("x"), ["b", "c"], None))


def test_exchanges_lead_to_exchanges(vhost):
    one, two = queues(vhost, "one", "two")
    chain(vhost, "a", "b", "c")
    vhost.bind("a", one, "", None)
    vhost.bind("c", one, "", None)
    vhost.bind("c", two, "", None)

    assert ["one", "two"] == names(route(vhost.exchange("a"), ["k"], None))


def test_the_key_is_matched_again_in_each_exchange(vhost):
    one, two = queues(vhost, "one", "two")
    vhost.declare_exchange("x", "topic")
    vhost.bind("amq.direct", vhost.exchange("x"), "a.b", None)
    vhost.bind("x", one, "a.*", None)
    vhost.bind("x", two, "b.*", None)

    assert ["one"] == names(route(vhost.exchange("amq.direct"), ["a.b"], None))
    assert [] == names(route(vhost.exchange("amq.direct"), ["b.b"], None))


def test_cycles_of_exchanges_are_visited_once(vhost):
    (one,) = queues(vhost, "one")
    first, *_, last = chain(vhost, "a", "b", "c", "a")
    vhost.bind("b", vhost.exchange("b"), "", None)
    vhost.bind("c", one, "", None)

    assert last is first
    assert ["one"] == names(route(first, ["k"], None))


def test_long_chains_do_not_exhaust_the_stack(vhost):
    (one,) = queues(vhost, "one")
    exchanges = chain(vhost, *(f"x{number}" for number in range(3000)))
    vhost.bind("x2999", one, "", None)

    assert ["one"] == names(route(exchanges[0], ["k"], None))


def test_headers_are_reported_as_soon_as_one_exchange_looks_at_them(vhost):
    one, two = queues(vhost, "one", "two")
    vhost.bind("amq.fanout", one, "", None)
    fanout = vhost.exchange("amq.fanout")

    assert not route(fanout, ["k"], {"a": 1}).depends_on_headers
    vhost.bind("amq.fanout", vhost.exchange("amq.headers"), "", None)
    vhost.bind("amq.headers", two, "", {"a": 1})
    assert (("one", "two"), True) == (
        tuple(names(route(fanout, ["k"], {"a": 1}))),
        route(fanout, ["k"], {"a": 1}).depends_on_headers,
    )
    assert ["one"] == names(route(fanout, ["k"], {"a": 2}))
    assert ["one"] == names(route(fanout, ["k"], None))


def test_routing_changes_nothing(vhost):
    (one,) = queues(vhost, "one")
    vhost.bind("amq.topic", one, "#", None)
    epoch = vhost.epoch

    first = route(vhost.exchange("amq.topic"), ["k"], None)
    assert first == route(vhost.exchange("amq.topic"), ["k"], None)
    assert epoch == vhost.epoch


# alternate exchanges


def test_alternate_exchange_gets_what_nothing_else_does(vhost):
    one, spare = queues(vhost, "one", "spare")
    vhost.declare_exchange("x", "direct", arguments={"alternate-exchange": "amq.fanout"})
    vhost.bind("x", one, "a", None)
    vhost.bind("amq.fanout", spare, "", None)

    assert ["one"] == names(route(vhost.exchange("x"), ["a"], None))
    assert ["spare"] == names(route(vhost.exchange("x"), ["b"], None))
    assert ["one"] == names(route(vhost.exchange("x"), ["a", "b"], None))


def test_alternate_exchanges_chain_and_may_form_cycles(vhost):
    (spare,) = queues(vhost, "spare")
    for name, alternate in (("a", "b"), ("b", "c"), ("c", "a")):
        vhost.declare_exchange(name, "direct", arguments={"alternate-exchange": alternate})

    assert [] == names(route(vhost.exchange("a"), ["k"], None))
    vhost.bind("c", spare, "k", None)
    assert ["spare"] == names(route(vhost.exchange("a"), ["k"], None))


def test_an_exchange_that_leads_to_another_needs_no_alternate(vhost):
    """Yielding an exchange is yielding something, even where that one drops the message."""
    (spare,) = queues(vhost, "spare")
    vhost.declare_exchange("x", "fanout", arguments={"alternate-exchange": "amq.fanout"})
    vhost.bind("amq.fanout", spare, "", None)
    vhost.bind("x", vhost.exchange("amq.direct"), "", None)

    assert [] == names(route(vhost.exchange("x"), ["k"], None))


@pytest.mark.parametrize("alternate", ["missing", ""])
def test_a_missing_alternate_is_nothing(vhost, alternate):
    """So is the default exchange: seen with RabbitMQ 3.10."""
    queues(vhost, "k")
    vhost.declare_exchange("x", "direct", arguments={"alternate-exchange": alternate})

    assert [] == names(route(vhost.exchange("x"), ["k"], None))


def test_argument_beats_policy_for_the_alternate(vhost):
    (spare,) = queues(vhost, "spare")
    vhost.bind("amq.fanout", spare, "", None)
    own = vhost.declare_exchange("own", "direct", arguments={"alternate-exchange": "missing"})
    bare = vhost.declare_exchange("bare", "direct")

    for exchange in (own, bare):
        exchange.apply_policy({"alternate-exchange": "amq.fanout"})

    assert [] == names(route(own, ["k"], None))
    assert ["spare"] == names(route(bare, ["k"], None))


def test_a_recorder_sees_the_whole_walk(vhost):
    (spare,) = queues(vhost, "spare")
    vhost.declare_exchange("x", "direct", arguments={"alternate-exchange": "amq.fanout"})
    vhost.bind("amq.fanout", vhost.exchange("amq.topic"), "", None)
    vhost.bind("amq.topic", spare, "#", None)
    seen = []

    def record(exchange, destinations, alternate):
        reached = [destination.name for destination in destinations]
        seen.append((exchange.name, reached, alternate and alternate.name))

    routing = route(vhost.exchange("x"), ["k"], None, record)
    assert ["spare"] == names(routing)
    assert [
        ("x", [], "amq.fanout"),
        ("amq.fanout", ["amq.topic"], None),
        ("amq.topic", ["spare"], None),
    ] == seen


# types that look at messages


class ByType(Fanout):
    """All destinations, where the message has a type; it takes note of what it is told."""

    name = "x-by-type"
    uses_message = True

    def __init__(self, arguments):
        super().__init__(arguments)
        self.told = []

    def match_message(self, routing_keys, message):
        return self._counts if message is not None and message.properties.type else ()

    def passing(self, routing_keys, message):
        self.told.append((routing_keys, message))

    def bound(self, destination):
        self.told.append(destination)


@pytest.fixture
def by_type(vhost):
    """An exchange of that type, bound to the queue one."""
    vhost.broker.registry.exchange_type(ByType)
    exchange = vhost.declare_exchange("x", "x-by-type")
    vhost.bind("x", vhost.declare_queue("one"), "")
    exchange.type.told.clear()
    return exchange


def message(**properties):
    header = encode(Properties(**properties), 0)
    return cast(Message, make_content(BasicPublish("x", "k"), header, b"", Message))


def test_a_type_may_look_at_the_message(by_type):
    assert ["one"] == names(route(by_type, ["k"], message=message(type="t")))
    assert [] == names(route(by_type, ["k"], message=message(app_id="t")))
    assert [] == names(route(by_type, ["k"]))


def test_looking_at_messages_is_reported_from_wherever_it_happens(vhost, by_type):
    vhost.bind("amq.fanout", by_type, "")

    routing = route(vhost.exchange("amq.fanout"), ["k"])

    assert (True, (by_type,)) == (routing.depends_on_headers, routing.watching)


def test_headers_are_those_of_the_message_where_none_are_given(vhost):
    (one,) = queues(vhost, "one")
    vhost.bind("amq.headers", one, "", {"a": 1})
    headers = vhost.exchange("amq.headers")

    assert ["one"] == names(route(headers, ["k"], message=message(headers={"a": 1})))
    assert [] == names(route(headers, ["k"], {"a": 2}, message=message(headers={"a": 1})))
    assert [] == names(route(headers, ["k"], message=message()))


def test_who_only_asks_tells_nobody(by_type):
    route(by_type, ["k"], message=message(type="t"))

    assert [] == by_type.type.told


def test_an_exchange_is_told_of_what_is_published_through_it(vhost, by_type):
    vhost.bind("amq.fanout", by_type, "")
    published = message(type="t")
    found = route(vhost.exchange("amq.fanout"), ["k", "copy"], message=published)

    tell(found, ["k", "copy"], published)

    assert ["one"] == names(found)
    assert [(["k", "copy"], published)] == by_type.type.told


def test_an_exchange_is_told_of_each_new_binding_once(vhost, by_type):
    two = vhost.declare_queue("two")

    vhost.bind("x", two, "a")
    vhost.bind("x", two, "a")
    vhost.bind("x", vhost.exchange("amq.fanout"), "")

    assert [two, vhost.exchange("amq.fanout")] == by_type.type.told

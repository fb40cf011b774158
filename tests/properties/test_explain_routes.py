"""An explanation never says anything else than what routing does, whatever the topology."""

from hypothesis import given, settings
from hypothesis import strategies as st

from leveret.broker.core.broker import Broker
from leveret.broker.core.exchange import route, routing_keys
from leveret.broker.core.explain import explain
from leveret.broker.core.hooks import ExchangeHook
from leveret.broker.core.placing import find
from leveret.protocol.properties import Properties

from ..support.fakes import message

EXCHANGES = [f"x{number}" for number in range(4)]
QUEUES = [f"q{number}" for number in range(4)]
TYPES = ["direct", "fanout", "topic", "headers"]
KEYS = st.lists(st.sampled_from(["a", "b", "*", "#"]), max_size=3).map(".".join)
VALUES = st.sampled_from([1, 2, "a", None, True, 1.0])
MATCHES = st.sampled_from(["all", "any", "all-with-x", "any-with-x"])
HEADERS = st.dictionaries(st.sampled_from(["h", "i", "x-h"]), VALUES, max_size=3)
ARGUMENTS = st.builds(lambda match, table: {"x-match": match, **table}, MATCHES, HEADERS)
COPIES = st.dictionaries(st.sampled_from(["CC", "BCC"]), st.lists(KEYS, max_size=2), max_size=2)
BINDINGS = st.lists(
    st.tuples(
        st.sampled_from(EXCHANGES),
        st.sampled_from([*EXCHANGES, *QUEUES]),
        KEYS,
        ARGUMENTS,
    ),
    max_size=16,
)
ALTERNATES = st.lists(st.sampled_from([None, "gone", *EXCHANGES]), min_size=4, max_size=4)


def topology(types, alternates, bindings):
    broker = Broker()
    broker.add_defaults()
    vhost = broker.vhosts["/"]
    for name, type_name, alternate in zip(EXCHANGES, types, alternates, strict=True):
        arguments = {} if alternate is None else {"alternate-exchange": alternate}
        vhost.declare_exchange(name, type_name, arguments=arguments)
    for name in QUEUES:
        vhost.declare_queue(name)
    for source, destination, key, arguments in bindings:
        found = vhost.queues.get(destination) or vhost.exchange(destination)
        vhost.bind(source, found, key, arguments)
    return broker, vhost


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(TYPES), min_size=4, max_size=4),
    ALTERNATES,
    BINDINGS,
    KEYS,
    HEADERS,
    COPIES,
    st.sets(st.sampled_from(EXCHANGES)),
)
def test_explained_queues_and_bindings_are_those_of_routing(
    types, alternates, bindings, key, headers, copies, hooked
):
    broker, vhost = topology(types, alternates, bindings)
    headers = {**headers, **copies}
    keys = routing_keys(key, headers)
    for name in hooked:  # they let everything go on
        exchange = vhost.exchange(name)
        exchange.hooks[name] = ExchangeHook(exchange)

    found = explain(
        broker, vhost="/", user="guest", exchange="x0", routing_key=key, headers=headers
    )

    queues = find(vhost.exchange("x0"), keys, message(b"", key, Properties(headers=headers)))
    assert [queue.name for queue in queues] == [each.name for each in found.queues]
    assert ("routed" if queues else "unroutable") == found.verdict
    if not hooked:
        routing = route(vhost.exchange("x0"), keys, headers)
        assert routing.queues == tuple(queues)
        assert routing.depends_on_headers == found.depends_on_headers
    for visit in found.exchanges:
        exchange = vhost.exchange(visit.name)
        led_to = {each.name for each in exchange.match(keys, headers)}
        assert led_to == {each.destination for each in visit.bindings if each.is_match}
        assert not visit.bindings_left_out
    for queue in found.queues:
        assert queue.path[0] == "x0"
        assert set(queue.path) <= {visit.name for visit in found.exchanges}

"""Declaring, deleting and binding in a virtual host; the texts are RabbitMQ's."""

import re
from contextlib import contextmanager

import pytest

from leveret.broker.core.binding import Binding
from leveret.broker.core.broker import Broker
from leveret.broker.core.checks import check_exclusive, check_new_name, check_not_default
from leveret.broker.core.exchange import route
from leveret.broker.core.policy import Policy
from leveret.broker.core.users import Permissions
from leveret.protocol.errors import AccessRefused, NotFound, PreconditionFailed, ResourceLocked

ALL = Permissions(".*", ".*", ".*")
EVENTS = (
    "argument.ineffective",
    "binding.created",
    "binding.deleted",
    "exchange.created",
    "exchange.deleted",
    "policy.deleted",
    "queue.created",
    "queue.deleted",
    "vhost.changed",
    "vhost.deleted",
)


def make_vhost(name="/"):
    return Broker().add_vhost(name)


@contextmanager
def refused(error, text):
    """The body fails with exactly this text."""
    with pytest.raises(error) as caught:
        yield
    assert text == caught.value.text


@pytest.fixture
def vhost():
    return make_vhost()


@pytest.fixture
def events(vhost):
    """What the virtual host tells from now on: names and fields."""
    emitted = []
    for name in EVENTS:
        vhost.broker.events.subscribe(
            name, lambda name=name, **fields: emitted.append((name, fields))
        )
    return emitted


def told(events):
    return [name for name, _ in events]


LOCKED = (
    "cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the "
    "original declaration."
)


# exchanges


def test_a_virtual_host_starts_with_rabbitmqs_exchanges(vhost):
    expected = {
        "": ("direct", False),
        "amq.direct": ("direct", False),
        "amq.fanout": ("fanout", False),
        "amq.topic": ("topic", False),
        "amq.headers": ("headers", False),
        "amq.match": ("headers", False),
        "amq.rabbitmq.trace": ("topic", True),
    }
    assert expected == {x.name: (x.type_name, x.internal) for x in vhost.exchanges.values()}
    assert all(exchange.durable for exchange in vhost.exchanges.values())


def test_declaring_twice_gives_the_same_exchange(vhost, events):
    first = vhost.declare_exchange("x", "topic", arguments={"alternate-exchange": "a"})
    again = vhost.declare_exchange(
        "x", "topic", arguments={"alternate-exchange": "a", "unknown": 1}
    )

    assert first is again
    assert ["exchange.created"] == told(events)


@pytest.mark.parametrize(
    ("type_name", "properties", "text"),
    [
        ("fanout", {"durable": True}, "'type' for {}: received 'fanout' but current is 'direct'"),
        ("direct", {"durable": True}, "'durable' for {}: received 'true' but current is 'false'"),
        (
            "direct",
            {"auto_delete": True},
            "'auto_delete' for {}: received 'true' but current is 'false'",
        ),
        ("direct", {"internal": True}, "'internal' for {}: received 'true' but current is 'false'"),
        (
            "direct",
            {"arguments": {"alternate-exchange": "a"}},
            "'alternate-exchange' for {}: "
            "received the value 'a' of type 'longstr' but current is none",
        ),
        (
            "direct",
            {"arguments": {"alternate-exchange": 1}},
            "'alternate-exchange' for {}: "
            "received the value '1' of type 'signedint' but current is none",
        ),
    ],
)
def test_an_exchange_cannot_be_redeclared_differently(vhost, type_name, properties, text):
    vhost.declare_exchange("x", "direct")

    with refused(
        PreconditionFailed, "inequivalent arg " + text.format("exchange 'x' in vhost '/'")
    ):
        vhost.declare_exchange("x", type_name, **properties)


def test_an_unknown_exchange_type_is_refused(vhost):
    """406 as 3.13; 3.10 closes the connection with 503."""
    with refused(PreconditionFailed, "unknown exchange type 'nope'"):
        vhost.declare_exchange("x", "nope")


def test_an_alternate_exchange_must_be_a_string(vhost):
    text = "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'"
    with refused(PreconditionFailed, text):
        vhost.declare_exchange("x", "direct", arguments={"alternate-exchange": 1})


def test_missing_things_are_not_found():
    vhost = make_vhost("test")
    with refused(NotFound, "no exchange 'x' in vhost 'test'"):
        vhost.exchange("x")
    with refused(NotFound, "no queue 'q' in vhost 'test'"):
        vhost.queue("q")


def test_names_the_broker_gives_are_reserved():
    with refused(AccessRefused, "queue name 'amq.q' contains reserved prefix 'amq.*'"):
        check_new_name("queue", "amq.q")
    with refused(AccessRefused, "exchange name 'amq.' contains reserved prefix 'amq.*'"):
        check_new_name("exchange", "amq.")
    check_new_name("queue", "amq")
    with refused(AccessRefused, "operation not permitted on the default exchange"):
        check_not_default("")


def test_predeclared_exchanges_cannot_be_deleted(vhost):
    text = "deletion of system exchange 'amq.direct' in vhost '/' not allowed"
    with refused(AccessRefused, text):
        vhost.delete_exchange("amq.direct")
    with refused(AccessRefused, "operation not permitted on the default exchange"):
        vhost.delete_exchange("")


def test_deleting_an_exchange_removes_its_bindings_at_both_ends(vhost, events):
    queue = vhost.declare_queue("q")
    exchange = vhost.declare_exchange("x", "fanout")
    vhost.bind("x", queue, "", None)
    vhost.bind("x", exchange, "", None)
    vhost.bind("amq.fanout", exchange, "", None)
    events.clear()

    vhost.delete_exchange("x")

    assert exchange.deleted
    assert "x" not in vhost.exchanges
    assert () == vhost.bindings_to(queue)
    assert {} == vhost._bindings_to
    assert [] == list(vhost.bindings())
    assert () == route(vhost.exchange("amq.fanout"), ["k"], None).queues
    assert ["binding.deleted"] * 3 + ["exchange.deleted"] == told(events)


def test_deleting_a_missing_exchange_is_fine(vhost):
    vhost.delete_exchange("x")


def test_an_exchange_with_bindings_is_in_use(vhost):
    vhost.declare_exchange("x", "fanout")
    vhost.bind("amq.fanout", vhost.exchange("x"), "", None)
    vhost.bind("x", vhost.declare_queue("q"), "", None)

    with refused(PreconditionFailed, "exchange 'x' in vhost '/' in use"):
        vhost.delete_exchange("x", if_unused=True)
    vhost.unbind("x", vhost.queue("q"), "", None)
    vhost.delete_exchange("x", if_unused=True)
    assert "x" not in vhost.exchanges


def test_an_auto_delete_exchange_goes_with_its_last_binding_as_source(vhost):
    queue = vhost.declare_queue("q")
    exchange = vhost.declare_exchange("x", "direct", auto_delete=True)
    vhost.bind("amq.fanout", exchange, "", None)
    vhost.unbind("x", queue, "never bound", None)
    assert "x" in vhost.exchanges

    vhost.bind("x", queue, "a", None)
    vhost.bind("x", queue, "a", None)
    vhost.bind("x", queue, "b", None)
    vhost.unbind("x", queue, "a", None)
    assert "x" in vhost.exchanges
    vhost.unbind("x", queue, "b", None)
    assert "x" not in vhost.exchanges
    assert [] == list(vhost.bindings())


def test_a_chain_of_auto_delete_exchanges_goes_with_the_queue_at_its_end(vhost):
    """However long: no recursion."""
    queue = vhost.declare_queue("q")
    last = 3000
    for number in range(last):
        vhost.declare_exchange(str(number), "fanout", auto_delete=True)
    for number in range(last - 1):
        vhost.bind(str(number), vhost.exchange(str(number + 1)), "", None)
    vhost.bind(str(last - 1), queue, "", None)

    vhost.delete_queue(queue)

    assert 7 == len(vhost.exchanges)
    assert {} == vhost._bindings_to


# queues


def test_declaring_twice_gives_the_same_queue(vhost, events):
    first = vhost.declare_queue("q", durable=True, arguments={"x-max-length": 5})
    again = vhost.declare_queue("q", durable=True, arguments={"x-max-length": 5, "x-foo": 1})

    assert first is again
    assert 1 == told(events).count("queue.created")


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        (
            {"durable": True, "auto_delete": True},
            "'durable' for {}: received 'true' but current is 'false'",
        ),
        ({"auto_delete": True}, "'auto_delete' for {}: received 'true' but current is 'false'"),
        (
            {"arguments": {"x-max-length": 5}},
            "'x-max-length' for {}: received the value '5' of type 'signedint' but current is none",
        ),
    ],
)
def test_a_queue_cannot_be_redeclared_differently(vhost, properties, text):
    vhost.declare_queue("q")

    with refused(PreconditionFailed, "inequivalent arg " + text.format("queue 'q' in vhost '/'")):
        vhost.declare_queue("q", **properties)


def test_an_exclusive_queue_is_its_owners_and_must_be_declared_so(vhost):
    ours, theirs = object(), object()
    queue = vhost.declare_queue("q", durable=True, owner=ours)

    assert not queue.durable
    assert queue is vhost.declare_queue("q", owner=ours)
    check_exclusive(queue, ours)
    for owner in (theirs, None):
        with refused(ResourceLocked, LOCKED):
            vhost.declare_queue("q", owner=owner)
    with refused(ResourceLocked, LOCKED):
        check_exclusive(queue, theirs)


def test_a_shared_queue_cannot_become_exclusive(vhost):
    queue = vhost.declare_queue("q")

    check_exclusive(queue, object())
    with refused(ResourceLocked, LOCKED):
        vhost.declare_queue("q", owner=object())


def test_the_exclusive_queues_of_an_owner_are_known(vhost):
    ours = object()
    one, two = (vhost.declare_queue(name, owner=ours) for name in ("one", "two"))
    vhost.declare_queue("three")

    assert (one, two) == vhost.owned_by(ours)
    vhost.delete_queue(one)
    assert (two,) == vhost.owned_by(ours)
    vhost.delete_queue(two)
    assert {} == vhost._owned


def test_a_queue_without_a_name_gets_one_that_nobody_can_guess(vhost):
    names = {vhost.declare_queue("").name for _ in range(3)}

    assert 3 == len(names)
    assert all(re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", name) for name in names)


def test_a_quorum_queue_needs_a_name(vhost):
    text = "Cannot declare a server-named queue for type rabbit_quorum_queue"
    with refused(PreconditionFailed, text):
        vhost.declare_queue("", durable=True, arguments={"x-queue-type": "quorum"})


def test_the_number_of_queues_may_be_limited(vhost):
    vhost.max_queues = 1
    vhost.declare_queue("one")

    vhost.declare_queue("one")
    text = "cannot declare queue 'two': queue limit in vhost '/' (1) is reached"
    with refused(PreconditionFailed, text):
        vhost.declare_queue("two")


def test_refused_arguments_leave_no_queue(vhost, events):
    text = "invalid arg 'x-max-length' for queue 'q' in vhost '/': {value_negative,-1}"
    with refused(PreconditionFailed, text):
        vhost.declare_queue("q", arguments={"x-max-length": -1})
    assert {} == vhost.queues
    assert [] == events


def test_deleting_a_queue_removes_its_bindings(vhost, events):
    queue, other = vhost.declare_queue("q"), vhost.declare_queue("other")
    for key in ("a", "b"):
        vhost.bind("amq.direct", queue, key, None)
        vhost.bind("amq.topic", queue, key, None)
    vhost.bind("amq.direct", other, "a", None)
    events.clear()

    assert 0 == vhost.delete_queue(queue)

    assert queue.deleted
    assert "q" not in vhost.queues
    assert ["amq.direct"] == [binding.source for binding in vhost.bindings()]
    assert (other,) == route(vhost.exchange("amq.direct"), ["a"], None).queues
    assert ["binding.deleted"] * 4 + ["queue.deleted"] == told(events)
    assert 0 == vhost.delete_queue(queue)


def test_an_argument_without_effect_warns_once_for_a_name(vhost, events):
    def warned():
        return [
            (fields["queue"].name, fields["argument"])
            for name, fields in events
            if name == "argument.ineffective"
        ]

    arguments = {"x-max-length": 1, "x-unknown": 1}
    for _ in range(2):
        vhost.delete_queue(vhost.declare_queue("q", arguments=arguments))
        vhost.declare_queue("", arguments=arguments)
    vhost.declare_queue("other", arguments=arguments)

    assert {"x-max-length"} == {argument for _, argument in warned()}
    assert 3 == len(warned())


# bindings


def test_binding_twice_is_binding_once(vhost, events):
    queue = vhost.declare_queue("q")
    events.clear()

    first = vhost.bind("amq.headers", queue, "k", {"a": 1, "b": 2})
    again = vhost.bind("amq.headers", queue, "k", {"b": 2, "a": 1.0})

    assert first is again
    assert (first,) == vhost.bindings_to(queue)
    assert ["binding.created"] == told(events)


def test_bindings_differ_in_key_and_arguments(vhost):
    queue = vhost.declare_queue("q")
    bindings = [
        vhost.bind("amq.direct", queue, "k", None),
        vhost.bind("amq.direct", queue, "K", None),
        vhost.bind("amq.direct", queue, "k", {"a": 1}),
        vhost.bind("amq.direct", queue, "k", {"a": True}),
        vhost.bind("amq.direct", queue, "k", {"a": [1]}),
        vhost.bind("amq.topic", queue, "k", None),
    ]

    assert tuple(bindings) == vhost.bindings_to(queue)
    vhost.unbind("amq.direct", queue, "k", {"a": True})
    del bindings[3]
    assert tuple(bindings) == vhost.bindings_to(queue)
    assert Binding("amq.direct", "q", "queue", "k", {}) == bindings[0]


def test_a_queue_and_an_exchange_of_one_name_are_two_destinations(vhost):
    queue, exchange = vhost.declare_queue("x"), vhost.declare_exchange("x", "fanout")
    vhost.bind("amq.fanout", queue, "", None)
    vhost.bind("amq.fanout", exchange, "", None)

    vhost.unbind("amq.fanout", queue, "", None)
    assert ["exchange"] == [binding.destination_kind for binding in vhost.bindings()]


def test_a_headers_binding_must_make_sense(vhost):
    queue = vhost.declare_queue("q")
    text = 'Invalid x-match field value <<"some">>; expected all, any, all-with-x, or any-with-x'
    with refused(PreconditionFailed, text):
        vhost.bind("amq.headers", queue, "", {"x-match": "some"})
    assert () == vhost.bindings_to(queue)


def test_bindings_of_the_default_exchange_are_implied_and_fixed(vhost):
    queue = vhost.declare_queue("q")
    for change in (vhost.bind, vhost.unbind):
        with refused(AccessRefused, "operation not permitted on the default exchange"):
            change("", queue, "q", None)


def test_unbinding_what_is_not_bound_is_fine(vhost, events):
    queue = vhost.declare_queue("q")
    events.clear()
    vhost.unbind("amq.direct", queue, "k", None)
    vhost.unbind("missing", queue, "k", None)
    assert [] == events


def test_every_change_of_the_topology_grows_the_epoch(vhost):
    changes = [
        lambda: vhost.declare_queue("q"),
        lambda: vhost.declare_exchange("x", "direct", auto_delete=True),
        lambda: vhost.bind("x", vhost.queue("q"), "k", None),
        lambda: vhost.bind("amq.direct", vhost.queue("q"), "k", None),
        lambda: vhost.unbind("amq.direct", vhost.queue("q"), "k", None),
        lambda: vhost.delete_queue(vhost.queue("q")),
        lambda: vhost.declare_exchange("y", "direct"),
        lambda: vhost.delete_exchange("y"),
        vhost.apply_policies,
    ]
    for change in changes:
        before = vhost.epoch
        change()
        assert before < vhost.epoch


def test_ten_thousand_bindings_do_not_slow_down_the_next(vhost):
    """No scan on bind, unbind or delete: the index by destination holds what goes."""
    queue, other = vhost.declare_queue("q"), vhost.declare_queue("other")
    for number in range(10_000):
        vhost.bind("amq.topic", queue, f"a.{number}.*.#", None)
    vhost.bind("amq.topic", other, "a.5.#", None)

    class Unscannable(dict):
        def __iter__(self):
            raise AssertionError("all bindings were scanned")

        items = values = keys = __iter__

    topic = vhost.exchange("amq.topic")
    topic.bindings = Unscannable(topic.bindings)
    vhost.delete_queue(other)
    vhost.unbind("amq.topic", queue, "a.5.*.#", None)

    assert 9_999 == len(topic.bindings)


# policies


def test_a_changed_policy_reaches_exchanges_and_queues(vhost, monkeypatch):
    def effective(kind, name):
        return {"alternate-exchange": "amq.fanout"} if name == "x" else {"for": (kind, name)}

    monkeypatch.setattr(vhost.policies, "effective", effective)
    exchange = vhost.declare_exchange("x", "direct")
    classic = vhost.declare_queue("q")
    quorum = vhost.declare_queue("k", durable=True, arguments={"x-queue-type": "quorum"})

    assert "amq.fanout" == exchange.alternate
    assert {"for": ("classic_queue", "q")} == classic.policy
    assert {"for": ("quorum_queue", "k")} == quorum.policy
    monkeypatch.setattr(vhost.policies, "effective", lambda kind, name: {})
    vhost.apply_policies()
    assert exchange.alternate is None
    assert {} == classic.policy


# what others are told


@pytest.mark.parametrize("end", ["queue", "source", "destination"])
def test_that_a_binding_is_gone_is_told_while_both_ends_are_there(vhost, end):
    queue = vhost.declare_queue("q")
    for name in ("x", "y"):
        vhost.declare_exchange(name, "fanout")
    vhost.bind("x", queue, "")
    vhost.bind("x", vhost.exchange("y"), "")
    found = []

    def told(vhost, binding):
        ends = vhost.queues if binding.destination_kind == "queue" else vhost.exchanges
        found.append((vhost.exchanges[binding.source].name, ends[binding.destination].name))

    vhost.broker.events.subscribe("binding.deleted", told)
    match end:
        case "queue":
            vhost.delete_queue(queue)
        case "source":
            vhost.delete_exchange("x")
        case _:
            vhost.delete_exchange("y")

    expected = {"queue": [("x", "q")], "destination": [("x", "y")]}
    assert expected.get(end, [("x", "q"), ("x", "y")]) == found


def test_a_changed_limit_is_told_once(vhost, events):
    for most in (None, 3, 3, None):
        vhost.max_queues = most

    assert [("vhost.changed", {"vhost": vhost})] * 2 == events


def test_deleting_a_virtual_host_deletes_all_that_is_in_it(vhost, events):
    broker = vhost.broker
    broker.users.add("guest", "guest")
    for name in ("/", "v"):
        broker.users.set_permissions("guest", broker.add_vhost(name).name, ALL)
    vhost.declare_exchange("x", "fanout", auto_delete=True)
    queue = vhost.declare_queue("q", owner=object())
    vhost.bind("x", queue, "")
    vhost.bind("amq.topic", vhost.exchange("amq.fanout"), "")
    for operator in (False, True):
        vhost.policies.put(Policy("p", "", {"max-length": 1}), operator=operator)
    remembered = broker.routes(vhost, "guest")
    events.clear()

    broker.delete_vhost("/")

    assert {"v": broker.vhosts["v"]} == broker.vhosts
    assert {("guest", "v"): ALL} == broker.users.permissions
    assert queue.deleted
    assert {} == vhost.queues
    assert ("vhost.deleted", {"vhost": vhost}) == events[-1]
    counts = {name: told(events).count(name) for name in told(events)}
    assert {
        "binding.deleted": 2,
        "queue.deleted": 1,
        "exchange.deleted": 7,  # its own, and those that were there from the start
        "policy.deleted": 2,
        "vhost.deleted": 1,
    } == counts
    assert broker.routes(broker.add_vhost("/"), "guest") is not remembered

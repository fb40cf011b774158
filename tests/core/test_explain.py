"""Explaining a publish: the same checks and the same routing, written down."""

import json

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.explain import explain
from leveret.broker.core.hooks import ExchangeHook, QueueHook
from leveret.broker.core.policy import Policy
from leveret.broker.core.users import Permissions, TopicPermissions
from leveret.protocol.properties import Properties


@pytest.fixture
def broker():
    made = Broker()
    made.add_defaults()
    return made


@pytest.fixture
def vhost(broker):
    return broker.vhosts["/"]


def explained(broker, exchange="", routing_key="q", **options):
    asked = {"vhost": "/", "user": "guest", **options}
    return explain(broker, exchange=exchange, routing_key=routing_key, **asked)


def reasons(visit):
    return {each.destination: (each.is_match, each.reason) for each in visit.bindings}


def bind(vhost, source, queue, key="", arguments=None):
    vhost.bind(source, vhost.declare_queue(queue), key, arguments)


# Checks


def test_every_check_is_told_with_what_it_follows_from(broker, vhost):
    vhost.declare_queue("q")

    found = explained(broker)

    assert "routed" == found.verdict
    assert found.refusal is None
    assert [
        ("vhost", True, "vhost '/' exists"),
        ("user", True, "user 'guest' exists"),
        ("access", True, "user 'guest' may connect to vhost '/'"),
        ("permission", True, "write pattern '.*' matches 'amq.default'"),
        ("exchange", True, "exchange '' in vhost '/' exists"),
        ("internal", True, "exchange '' in vhost '/' is open to publishers"),
        ("CC and BCC", True, "they are arrays, or not there"),
    ] == [(each.subject, each.is_passed, each.reason) for each in found.checks]


@pytest.mark.parametrize(
    ("asked", "code", "subject", "reason"),
    [
        ({"vhost": "v"}, 404, "vhost", "vhost 'v' does not exist"),
        ({"user": "u"}, 403, "user", "user 'u' does not exist"),
        ({"user": "none"}, 403, "access", "user 'none' may not connect to vhost '/'"),
        ({"user": "some"}, 403, "permission", "write pattern '^b' does not match 'amq.default'"),
        ({"exchange": "x"}, 404, "exchange", "exchange 'x' in vhost '/' does not exist"),
        (
            {"exchange": "amq.rabbitmq.trace"},
            403,
            "internal",
            "exchange 'amq.rabbitmq.trace' in vhost '/' is internal",
        ),
        (
            {"properties": Properties(expiration="soon")},
            406,
            "expiration",
            "invalid expiration 'soon': no_integer",
        ),
        (
            {"headers": {"CC": "a"}},
            406,
            "CC and BCC",
            'invalid message: {unacceptable_type_in_header,"CC",longstr}',
        ),
        (
            {"properties": Properties(user_id="some")},
            406,
            "user id",
            "user_id property set to 'some' but authenticated user was 'guest'",
        ),
        (
            {"user": "some", "exchange": "amq.topic"},
            403,
            "topic permission",
            "write pattern '^{username}[.]' does not match routing key 'q'",
        ),
    ],
)
def test_a_publish_is_refused_by_the_first_check_that_fails(broker, asked, code, subject, reason):
    for name in ("none", "some"):
        broker.users.add(name, "secret")
    broker.users.set_permissions("some", "/", Permissions("", "^b", ""))
    if "exchange" in asked:
        broker.users.set_permissions("some", "/", Permissions("", "^amq.topic$", ""))
    broker.users.set_topic_permissions(
        "some", "/", "amq.topic", TopicPermissions("^{username}[.]", "")
    )

    found = explained(broker, **asked)

    assert ("refused", code, reason) == (found.verdict, found.refusal.code, found.refusal.text)
    assert (subject, False, reason) == (
        found.checks[-1].subject,
        found.checks[-1].is_passed,
        found.checks[-1].reason,
    )
    assert all(each.is_passed for each in found.checks[:-1])
    assert ((), ()) == (found.exchanges, found.queues)
    assert "nothing: the publish is refused" == found.if_mandatory


def test_a_refusal_has_the_code_that_the_publisher_is_given(broker):
    """The texts of amqp's own errors say who was refused; the codes are the same."""
    broker.users.add("some", "secret")
    broker.users.set_topic_permissions("some", "/", "amq.topic", TopicPermissions("^a$", ""))
    broker.users.set_permissions("some", "/", Permissions("", ".*", ""))

    assert "routed" != explained(broker, "amq.topic", "a", user="some").verdict
    assert 403 == explained(broker, "amq.topic", "b", user="some").refusal.code
    assert (
        403 == explained(broker, "amq.topic", "a", user="some", headers={"CC": ["b"]}).refusal.code
    )


# Bindings


def test_direct_bindings_tell_which_key_they_want(broker, vhost):
    bind(vhost, "amq.direct", "one", "a")
    bind(vhost, "amq.direct", "two", "b")

    (visit,) = explained(broker, "amq.direct", "a").exchanges

    assert {
        "one": (True, "routing key 'a' equals the binding key"),
        "two": (False, "'a' is not 'b'"),
    } == reasons(visit)


@pytest.mark.parametrize(
    ("binding_key", "reason"),
    [
        ("a.*", "routing key 'a.b' fits 'a.*'"),
        ("#", "routing key 'a.b' fits '#'"),
        ("a.c", "word 2 of 'a.b' is 'b', not 'c'"),
        ("a", "word 2 of 'a.b' is 'b', not the end"),
        ("a.b.*", "word 3 of 'a.b' is the end, not '*'"),
        ("", "word 1 of 'a.b' is 'a', not the end"),
        ("a.#.c", "'a.b' does not end as 'a.#.c' does"),
    ],
)
def test_topic_bindings_tell_the_word_that_differs(broker, vhost, binding_key, reason):
    bind(vhost, "amq.topic", "one", binding_key)

    found = explained(broker, "amq.topic", "a.b")

    is_match = reason.startswith("routing key")
    assert {"one": (is_match, reason)} == reasons(found.exchanges[0])
    assert is_match == bool(found.queues)


@pytest.mark.parametrize(
    ("arguments", "is_match", "reason"),
    [
        ({"a": 1}, True, "x-match 'all': header 'a' is 1"),
        ({"a": 2, "b": "x"}, False, "x-match 'all': header 'a' is 1, not 2"),
        ({"c": 1}, False, "x-match 'all': header 'c' is missing"),
        ({"b": None}, True, "x-match 'all': header 'b' is there"),
        ({"x-match": "any", "a": 2, "b": "x"}, True, "x-match 'any': header 'b' is <<\"x\">>"),
        ({"x-match": "any", "x-a": 1}, False, "x-match 'any': any of no headers is never there"),
        ({"x-a": 2}, True, "x-match 'all': all of no headers are there"),
        (
            {"x-match": "any", "a": 2, "c": 1},
            False,
            "x-match 'any': header 'a' is 1, not 2; header 'c' is missing",
        ),
        (
            {"x-match": "all-with-x", "x-a": 2},
            False,
            "x-match 'all-with-x': header 'x-a' is 1, not 2",
        ),
    ],
)
def test_headers_bindings_tell_what_is_missing_or_different(
    broker, vhost, arguments, is_match, reason
):
    bind(vhost, "amq.headers", "one", "", arguments)

    found = explained(broker, "amq.headers", "k", headers={"a": 1, "b": "x", "x-a": 1})

    assert {"one": (is_match, reason)} == reasons(found.exchanges[0])
    assert is_match == bool(found.queues)
    assert found.depends_on_headers


def test_a_type_without_reasons_tells_what_it_chose(broker, vhost):
    class First(type(vhost.exchange("amq.fanout").type).__base__):
        """The destination made first gets everything."""

        name = "first"

        def __init__(self, arguments):
            self.made = []

        def bind(self, binding_key, arguments, destination):
            self.made.append(destination)

        def match(self, routing_key, headers):
            return self.made[:1]

    vhost.exchange("amq.fanout").type = First({})
    bind(vhost, "amq.fanout", "one")
    bind(vhost, "amq.fanout", "two")

    assert {
        "one": (True, "exchange type 'fanout' chose its destination"),
        "two": (False, "exchange type 'fanout' did not choose its destination"),
    } == reasons(explained(broker, "amq.fanout").exchanges[0])


def test_copies_are_further_keys(broker, vhost):
    for name in "abc":
        vhost.declare_queue(name)

    found = explained(broker, "", "a", headers={"CC": ["b", "x"], "BCC": ["c"]})

    assert ("a", "b", "x", "c") == found.routing_keys
    assert ["a", "b", "c"] == [queue.name for queue in found.queues]
    assert {
        "a": (True, "there is a queue 'a'"),
        "b": (True, "there is a queue 'b'"),
        "x": (False, "there is no queue 'x'"),
        "c": (True, "there is a queue 'c'"),
    } == reasons(found.exchanges[0])


# Ways


def test_the_path_to_each_queue_is_told(broker, vhost):
    for name in "xy":
        vhost.declare_exchange(name, "fanout")
    vhost.bind("x", vhost.exchange("y"), "")
    bind(vhost, "y", "far")
    bind(vhost, "x", "near")

    found = explained(broker, "x")

    assert {"near": ("x",), "far": ("x", "y")} == {each.name: each.path for each in found.queues}
    assert [("x", None), ("y", "x")] == [(each.name, each.reached_from) for each in found.exchanges]


def test_exchanges_in_a_circle_are_visited_once_and_told(broker, vhost):
    for name in "xy":
        vhost.declare_exchange(name, "fanout")
    vhost.bind("x", vhost.exchange("y"), "")
    vhost.bind("y", vhost.exchange("x"), "")

    found = explained(broker, "x")

    assert [("x", ()), ("y", ("x",))] == [
        (each.name, each.leads_back_to) for each in found.exchanges
    ]
    assert "unroutable" == found.verdict


def test_the_alternate_exchange_is_told_whether_it_is_used_or_not(broker, vhost):
    vhost.declare_exchange("x", "direct", arguments={"alternate-exchange": "amq.fanout"})
    bind(vhost, "x", "one", "a")
    bind(vhost, "amq.fanout", "other")

    used, unused = explained(broker, "x", "b"), explained(broker, "x", "a")

    assert ("amq.fanout", "used: no binding of its own takes the message") == (
        used.exchanges[0].alternate,
        used.exchanges[0].alternate_reason,
    )
    assert used.exchanges[1].is_alternate
    assert [("other", ("x", "amq.fanout"))] == [(each.name, each.path) for each in used.queues]
    assert "not used: a binding of its own takes the message" == (
        unused.exchanges[0].alternate_reason
    )
    assert ["one"] == [each.name for each in unused.queues]


def test_an_alternate_exchange_that_is_not_there_is_told(broker, vhost):
    vhost.declare_exchange("x", "direct", arguments={"alternate-exchange": "gone"})

    found = explained(broker, "x", "a")

    assert "not used: there is no exchange 'gone'" == found.exchanges[0].alternate_reason
    assert "the publisher gets it back with 312 NO_ROUTE; else it is dropped" == found.if_mandatory


def test_answers_to_direct_reply_are_no_queues_but_arrive(broker):
    broker.reply_channels["key"] = object()

    found = explained(broker, "", "amq.rabbitmq.reply-to.key")
    gone = explained(broker, "", "amq.rabbitmq.reply-to.other")

    assert "nothing: the message arrives" == found.if_mandatory
    assert ("direct reply", True) == (found.checks[-1].subject, found.checks[-1].is_passed)
    assert ("direct reply", False) == (gone.checks[-1].subject, gone.checks[-1].is_passed)
    assert "NO_ROUTE" in gone.if_mandatory


# Hooks


def test_hooks_are_named_and_the_rest_is_told_as_if_they_agreed(broker, vhost):
    class Delaying(ExchangeHook):
        """Fails the test if it is asked."""

    class Refusing(QueueHook):
        """Fails the test if it is asked."""

    Delaying.divert = Refusing.admit = None
    bind(vhost, "amq.topic", "one", "#")
    exchange, queue = vhost.exchange("amq.topic"), vhost.queue("one")
    exchange.hooks["any"] = Delaying(exchange)
    queue.admitting = (Refusing(queue),)

    found = explained(broker, "amq.topic")

    assert ("Delaying",) == found.exchanges[0].hooks
    assert [("one", ("amq.topic",), ("Refusing",))] == [
        (each.name, each.path, each.hooks) for each in found.queues
    ]


# Settings


def test_policies_and_what_they_come_to_are_told_for_exchanges_and_queues(broker, vhost):
    vhost.policies.put(Policy("p", ".*", {"alternate-exchange": "amq.fanout", "max-length": 5}))
    vhost.policies.put(Policy("o", "^one$", {"message-ttl": 10}, "queues"), operator=True)
    vhost.declare_queue("one", arguments={"x-max-length": 9, "x-max-priority": 3})
    vhost.apply_policies()
    vhost.bind("amq.direct", vhost.queue("one"), "a")

    found = explained(broker, "amq.direct", "a")

    (exchange,), (queue,) = found.exchanges, found.queues
    assert ("p", None) == (exchange.settings.policy, exchange.settings.operator_policy)
    assert "amq.fanout" == exchange.settings.effective["alternate-exchange"]
    assert ("p", "o") == (queue.settings.policy, queue.settings.operator_policy)
    assert {
        "alternate-exchange": "amq.fanout",
        "max-length": 5,
        "message-ttl": 10,
        "max-priority": 3,
    } == queue.settings.effective


def test_no_policy_is_about_the_default_exchange(broker, vhost):
    vhost.policies.put(Policy("p", ".*", {"max-length": 5}))
    vhost.apply_policies()

    assert explained(broker).exchanges[0].settings.policy is None


# Limits


def test_what_is_above_the_limit_is_counted_and_left_out(broker, vhost):
    vhost.declare_exchange("x", "fanout")
    for number in range(30):
        bind(vhost, "x", f"q{number}")

    found = explained(broker, "x", limit=10)

    assert (5, 25, 30) == (
        len(found.exchanges[0].bindings),
        found.exchanges[0].bindings_left_out,
        found.exchanges[0].leads_to,
    )
    assert (10, 20) == (len(found.queues), found.queues_left_out)


def test_routing_keys_above_the_limit_are_counted_and_left_out(broker):
    found = explained(broker, headers={"CC": [f"k{number}" for number in range(29)]}, limit=10)

    assert (5, 25) == (len(found.exchanges[0].bindings), found.exchanges[0].bindings_left_out)


def test_exchanges_above_the_limit_are_counted_but_their_queues_are_found(broker, vhost):
    for number in range(20):
        vhost.declare_exchange(f"x{number}", "fanout")
    for number in range(19):
        vhost.bind(f"x{number}", vhost.exchange(f"x{number + 1}"), "")
    bind(vhost, "x19", "last")

    found = explained(broker, "x0", limit=5)

    assert (5, 15) == (len(found.exchanges), found.exchanges_left_out)
    assert [("last", 20)] == [(each.name, len(each.path)) for each in found.queues]


def test_bindings_that_match_come_before_those_that_do_not(broker, vhost):
    for number in range(100):
        bind(vhost, "amq.topic", f"q{number}", f"a.{number}")

    found = explained(broker, "amq.topic", "a.99", limit=10)

    assert ("q99", True) == (
        found.exchanges[0].bindings[0].destination,
        found.exchanges[0].bindings[0].is_match,
    )
    assert 95 == found.exchanges[0].bindings_left_out


def test_it_looks_at_no_more_bindings_than_it_tells_of(broker, vhost):
    """A fanout with very many bindings answers."""
    count = 20_000
    queue = vhost.declare_queue("q")
    for number in range(count):
        vhost.bind("amq.fanout", queue, f"{number}")
    exchange = vhost.exchange("amq.fanout")

    class Counting(dict):
        """Bindings that count how many were looked at."""

        looked = 0

        def items(self):
            for each in super().items():
                Counting.looked += 1
                yield each

    exchange.bindings = Counting(exchange.bindings)

    found = explained(broker, "amq.fanout")

    assert count - 50 == found.exchanges[0].bindings_left_out
    assert 50 >= Counting.looked


def test_it_changes_nothing(broker, vhost):
    bind(vhost, "amq.topic", "one", "#")
    before = vhost.epoch, broker.users.epoch, dict(vhost.exchange("amq.topic").bindings)

    explained(broker, "amq.topic", "a", headers={"BCC": ["b"]})

    assert before == (
        vhost.epoch,
        broker.users.epoch,
        dict(vhost.exchange("amq.topic").bindings),
    )
    queue = vhost.queue("one")
    assert (0, 0, {}) == (queue.ready_count, queue.next_position, broker.batch.touched)


def test_an_explanation_is_json_whatever_the_headers_hold(broker, vhost):
    bind(vhost, "amq.headers", "one", "", {"a": b"\xff", "b": float("nan"), "c": [{"d": None}]})

    shown = json.loads(json.dumps(explained(broker, "amq.headers").as_json(), allow_nan=False))

    assert "unroutable" == shown["verdict"]
    assert {"a": "\\xff", "b": "nan", "c": [{"d": None}]} == (
        shown["exchanges"][0]["bindings"][0]["arguments"]
    )

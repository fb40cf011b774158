"""What each exchange type selects (specification 3.1.3; RabbitMQ for what it leaves open)."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from leveret.broker.core.exchange_types import (
    EXCHANGE_TYPES,
    Default,
    Direct,
    ExchangeType,
    Fanout,
    Headers,
    Topic,
)
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.table import Float32, Int8, Int64, LongString, Timestamp


def nan() -> float:
    return float("nan")


def matched(exchange_type: ExchangeType, key: str = "", headers: object = None) -> list:
    return list(exchange_type.match(key, headers))


def test_built_in_types_are_registered_by_name():
    expected = {"direct": Direct, "fanout": Fanout, "topic": Topic, "headers": Headers}
    assert expected == {name: EXCHANGE_TYPES[name] for name in expected}


def test_only_headers_depends_on_headers_and_only_topic_checks_topics():
    assert [Headers] == [kind for kind in EXCHANGE_TYPES.values() if kind.uses_headers]
    assert [Topic] == [kind for kind in EXCHANGE_TYPES.values() if kind.checks_topic]


# direct, fanout, default


def test_direct_compares_keys_exactly():
    direct = Direct({})
    direct.bind("a", {}, "one")
    direct.bind("a", {}, "two")
    direct.bind("A", {}, "upper")
    direct.bind("#", {}, "hash")

    assert ["one", "two"] == matched(direct, "a")
    assert ["upper"] == matched(direct, "A")
    assert ["hash"] == matched(direct, "#")
    assert [] == matched(direct, "b")
    assert [] == matched(direct, "")


@pytest.mark.parametrize("kind", [Direct, Fanout, Topic])
def test_a_destination_bound_twice_is_found_once_and_stays_until_both_are_gone(kind):
    """Two bindings that differ in their arguments only are two bindings."""
    exchange_type = kind({})
    exchange_type.bind("k", {"a": 1}, "queue")
    exchange_type.bind("k", {"a": 2}, "queue")

    assert ["queue"] == matched(exchange_type, "k")
    exchange_type.unbind("k", {"a": 1}, "queue")
    assert ["queue"] == matched(exchange_type, "k")
    exchange_type.unbind("k", {"a": 2}, "queue")
    assert [] == matched(exchange_type, "k")


def test_fanout_ignores_the_key():
    fanout = Fanout({})
    fanout.bind("a", {}, "one")
    fanout.bind("b", {}, "two")

    assert ["one", "two"] == matched(fanout, "c")


def test_default_finds_the_queue_of_that_name():
    queues = {"tasks": "the queue"}
    default = Default(queues)

    assert ["the queue"] == matched(default, "tasks")
    assert [] == matched(default, "other")
    queues["other"] = "another"
    assert ["another"] == matched(default, "other")


# topic

TOPICS = [
    # binding key, keys that match, keys that do not
    ("a.b", ["a.b"], ["a", "a.b.c", "a.c", "", "a.b."]),
    ("a", ["a"], ["", "a.", ".a", "A"]),
    ("*", ["a", "*", "#"], ["", "a.b", "."]),
    ("#", ["", "a", "a.b", ".", "..", "a..b"], []),
    ("", [""], ["a", "."]),
    ("*.*", ["a.b", ".", "a.", ".b"], ["", "a", "a.b.c"]),
    ("a.*", ["a.b", "a."], ["a", "a.b.c", "b.a"]),
    ("a.*.b", ["a.x.b", "a..b"], ["a.b", "a.x.y.b"]),
    ("a.#", ["a", "a.b", "a.b.c", "a."], ["b", "", "b.a"]),
    ("#.a", ["a", "b.a", "b.c.a", ".a"], ["a.b", ""]),
    ("a.#.b", ["a.b", "a.x.b", "a.x.y.b", "a..b", "a.b.b"], ["a", "b", "a.b.c"]),
    ("#.#", ["", "a", "a.b.c"], []),
    ("#.*", ["a", "a.b", "."], [""]),
    ("*.#", ["a", "a.b", "."], [""]),
    ("#.*.#", ["a", "a.b.c"], [""]),
    ("*.#.*", ["a.b", "a.b.c", "."], ["", "a"]),
    ("#.a.#", ["a", "x.a", "a.x", "x.a.y"], ["", "x", "x.y"]),
    ("#.a.#.a.#", ["a.a", "x.a.y.a.z"], ["a", "x.a.y"]),
    ("a..b", ["a..b"], ["a.b", "a.x.b"]),
    ("a.b*", ["a.b*"], ["a.bc"]),
]


@pytest.mark.parametrize(
    ("binding_key", "routing_key", "expected"),
    [(key, hit, ["queue"]) for key, hits, _ in TOPICS for hit in hits]
    + [(key, miss, []) for key, _, misses in TOPICS for miss in misses],
)
def test_topic_matches_words(binding_key, routing_key, expected):
    topic = Topic({})
    topic.bind(binding_key, {}, "queue")

    assert expected == matched(topic, routing_key)


def test_topic_finds_a_destination_once_however_many_keys_match():
    topic = Topic({})
    for key in ("a.b", "a.*", "*.b", "#", "a.#", "#.b", "#.#"):
        topic.bind(key, {}, "queue")

    assert ["queue"] == matched(topic, "a.b")


def test_topic_forgets_what_is_unbound_and_nothing_else():
    topic = Topic({})
    keys = ["a.b", "a.b.c", "a.*", "a.#", "#", "#.b", ""]
    for key in keys:
        topic.bind(key, {}, key)

    for key in keys:
        topic.unbind(key, {}, key)
        topic.unbind(key, {}, key)
        topic.unbind("never.bound", {}, "queue")
        left = keys[keys.index(key) + 1 :]
        expected = {k for k in left if k in {"a.b", "a.*", "a.#", "#", "#.b"}}
        assert expected == set(matched(topic, "a.b"))
    assert topic._root.bare


def test_topic_work_is_bounded_with_many_hashes():
    """Backtracking would take longer than the age of the universe."""
    topic = Topic({})
    topic.bind(".".join(["#", "a"] * 60), {}, "queue")

    assert [] == matched(topic, ".".join(["a"] * 59))
    assert ["queue"] == matched(topic, ".".join(["a"] * 60))
    assert ["queue"] == matched(topic, ".".join(["a"] * 127))
    assert [] == matched(topic, ".".join(["a"] * 126 + ["b"]))


# headers

NOW = datetime(2024, 5, 17, tzinfo=UTC)
AB = {"a": 1, "b": "two"}

HEADERS = [
    # arguments of the binding, headers, whether they match
    ({}, {}, True),
    ({}, None, True),
    ({}, {"a": 1}, True),
    ({"x-match": "all"}, {"a": 1}, True),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"x-match": "any"}, {}, False),
    (AB, AB, True),
    (AB, {**AB, "c": 3}, True),
    (AB, {"a": 1}, False),
    (AB, {"a": 1, "b": "three"}, False),
    (AB, None, False),
    ({"x-match": "any", **AB}, {"a": 1}, True),
    ({"x-match": "any", **AB}, {"b": "two", "a": 2}, True),
    ({"x-match": "any", **AB}, {"a": 2, "b": "three"}, False),
    # what starts with x- only counts in the -with-x forms
    ({"x-a": 1}, {}, True),
    ({"x-match": "all", "x-a": 1, "b": 2}, {"b": 2}, True),
    ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
    ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
    ({"x-match": "all-with-x", "x-a": 1, "b": 2}, {"b": 2}, False),
    ({"x-match": "all-with-x"}, {}, True),
    ({"x-match": "any-with-x", "x-a": 1, "b": 2}, {"x-a": 1}, True),
    ({"x-match": "any-with-x", "x-a": 1, "b": 2}, {"x-a": 2}, False),
    ({"x-match": "any-with-x"}, {"x-match": "any-with-x"}, False),
    # a void argument asks for presence
    ({"a": None}, {"a": 1}, True),
    ({"a": None}, {"a": None}, True),
    ({"a": None}, {"b": 1}, False),
    ({"a": None, "b": 1}, {"a": "x", "b": 1}, True),
    ({"a": None, "b": 1}, {"a": "x", "b": 2}, False),
    ({"a": 1}, {"a": None}, False),
    ({"x-match": "any", "a": None}, {"a": [1]}, True),
    ({"x-match": "any", "a": None, "b": 1}, {"b": 1}, True),
    ({"x-match": "any", "a": 1}, {"a": None}, False),
    # numbers, timestamps and strings by value, nothing else across kinds (seen on 3.10.8)
    ({"a": 1}, {"a": Int8(1)}, True),
    ({"a": Int64(1)}, {"a": Int8(1)}, True),
    ({"a": 1}, {"a": 1.0}, True),
    ({"a": Float32(0.5)}, {"a": 0.5}, True),
    ({"a": nan()}, {"a": nan()}, True),
    ({"a": nan()}, {"a": "nan"}, False),
    ({"a": nan()}, {"a": 0.0}, False),
    ({"x-match": "any", "a": nan()}, {"a": nan()}, True),
    ({"a": [nan(), {"b": nan()}]}, {"a": [nan(), {"b": nan()}]}, True),
    ({"a": 1}, {"a": True}, False),
    ({"a": True}, {"a": 1}, False),
    ({"a": True}, {"a": True}, True),
    ({"a": False}, {"a": 0}, False),
    ({"a": 1}, {"a": "1"}, False),
    ({"a": "x"}, {"a": b"x"}, True),
    ({"a": b"x"}, {"a": b"x"}, True),
    ({"a": LongString(b"\xff")}, {"a": LongString(b"\xff")}, True),
    ({"a": LongString(b"\xff")}, {"a": b"\xff"}, True),
    ({"a": Decimal("1.5")}, {"a": Decimal("1.5")}, True),
    ({"a": Decimal(1)}, {"a": 1}, False),
    ({"a": NOW}, {"a": Timestamp(int(NOW.timestamp()))}, True),
    ({"a": NOW}, {"a": int(NOW.timestamp())}, True),
    # values that Python cannot hash
    ({"a": [1, "b"]}, {"a": [1, "b"]}, True),
    ({"a": [1, "b"]}, {"a": ["b", 1]}, False),
    ({"a": [True]}, {"a": [1]}, False),
    ({"a": {"x": 1, "y": [2]}}, {"a": {"y": [2], "x": 1}}, True),
    ({"a": {"x": 1}}, {"a": {"x": 2}}, False),
    ({"x-match": "any", "a": {"x": 1}}, {"a": {"x": 1}}, True),
]


@pytest.mark.parametrize("match", ["all", "any"])
@pytest.mark.parametrize("number", [nan, lambda: Float32(nan())])
def test_headers_a_binding_by_what_is_no_number_is_unbound_by_another_one(match, number):
    """Each frame that is decoded makes a NaN of its own, and none equals another."""
    exchange_type = Headers({})
    exchange_type.bind("", {"x-match": match, "a": number(), "b": [number()]}, "queue")

    exchange_type.unbind("", {"x-match": match, "a": number(), "b": [number()]}, "queue")

    assert [] == matched(exchange_type, "", {"a": number(), "b": [number()]})
    assert {} == exchange_type._any == exchange_type._shapes


@pytest.mark.parametrize(("arguments", "headers", "expected"), HEADERS)
def test_headers_fit(arguments, headers, expected):
    exchange_type = Headers({})
    exchange_type.bind("ignored", arguments, "queue")

    assert (["queue"] if expected else []) == matched(exchange_type, "key", headers)
    exchange_type.unbind("ignored", arguments, "queue")
    assert [] == matched(exchange_type, "key", headers)


def test_headers_of_all_bindings_at_once():
    """Bindings share the index and do not disturb one another."""
    exchange_type = Headers({})
    for number, (arguments, _, _) in enumerate(HEADERS):
        exchange_type.bind("", arguments, number)

    for number, (_, headers, expected) in enumerate(HEADERS):
        assert expected == (number in matched(exchange_type, "", headers))
    for number, (arguments, _, _) in enumerate(HEADERS):
        exchange_type.unbind("", arguments, number)
    assert {} == exchange_type._by_name
    assert {} == exchange_type._shapes
    assert {} == exchange_type._any
    assert {} == exchange_type._always


def test_headers_look_only_at_bindings_whose_names_the_message_has():
    """The rarest name is the index, so a name that all bindings share costs nothing."""
    exchange_type = Headers({})
    for number in range(100):
        exchange_type.bind("", {"type": "task", f"n{number}": 1}, number)

    assert max(len(shapes) for shapes in exchange_type._by_name.values()) <= 2
    assert [7] == matched(exchange_type, "", {"type": "task", "n7": 1})


def test_headers_destination_bound_twice_stays_until_both_are_gone():
    exchange_type = Headers({})
    exchange_type.bind("one", {"a": 1}, "queue")
    exchange_type.bind("two", {"a": 1}, "queue")
    exchange_type.unbind("one", {"a": 1}, "queue")

    assert ["queue"] == matched(exchange_type, "", {"a": 1})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "Invalid x-match field type signedint (value 1); expected longstr"),
        (1 << 40, "Invalid x-match field type long (value 1099511627776); expected longstr"),
        (True, "Invalid x-match field type bool (value true); expected longstr"),
        (None, "Invalid x-match field type void (value undefined); expected longstr"),
        (b"b", 'Invalid x-match field type binary (value <<"b">>); expected longstr'),
        ([1], "Invalid x-match field type array (value [{signedint,1}]); expected longstr"),
        (
            {"a": 1},
            'Invalid x-match field type table (value [{<<"a">>,signedint,1}]); expected longstr',
        ),
        (
            Decimal("1.5"),
            "Invalid x-match field type decimal (value {1,15}); expected longstr",
        ),
        (
            Timestamp(1577836800),
            "Invalid x-match field type timestamp (value 1577836800); expected longstr",
        ),
        (
            "foo",
            'Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x',
        ),
    ],
)
def test_headers_refuses_other_ways_to_match(value, text):
    """The texts are those of RabbitMQ 3.10."""
    with pytest.raises(PreconditionFailed) as caught:
        Headers({}).check_binding("", {"x-match": value})

    assert text == caught.value.text


@pytest.mark.parametrize("value", ["all", "any", "all-with-x", "any-with-x"])
def test_headers_accepts_four_ways_to_match(value):
    Headers({}).check_binding("", {"x-match": value})
    Headers({}).check_binding("", {})

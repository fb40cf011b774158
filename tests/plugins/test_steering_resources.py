"""What waits as resources: requests for exchanges and for queues, bad ones, those of strangers."""

import json

import pytest

from leveret.broker import plugins
from leveret.broker.core.resources import Request
from leveret.broker.core.users import Permissions
from leveret.broker.plugins import steering
from leveret.broker.plugins.steering_resources import ROUTES
from leveret.broker.testing import START_OF_TIME, Embedded, finish
from leveret.protocol.constants import TEN_YEARS_MS

HOUR_MS = 3_600_000
HANDLERS = {(route.method, route.pattern): route.handler for route in ROUTES}
EXCHANGE, QUEUE = ("exchange", "dx"), ("queue", "late")
ONE, DELIVER, COUNTS = "/{identity}", "/{identity}/deliver", "/counts"
ALL = [
    ("GET", "", None),
    ("GET", COUNTS, None),
    ("GET", ONE, None),
    ("DELETE", ONE, None),
    ("PATCH", ONE, {"delay": 0}),
    ("POST", DELIVER, None),
]

TOPOLOGY = {
    "exchanges": [
        {"name": "dx", "type": "x-delayed-message", "arguments": {"x-delayed-type": "direct"}}
    ],
    "queues": ["q", {"name": "late", "arguments": {"x-message-delay": HOUR_MS}}],
    "bindings": [{"source": "dx", "destination": "q", "routing_key": "k"}],
}


class Desk:
    """A broker in which messages wait for an exchange and in a queue, and somebody who asks."""

    def __init__(self) -> None:
        self.embedded = Embedded(TOPOLOGY)
        self.broker = self.embedded.broker

    def put(self, where, name=None, body=b"m"):
        """Have a message wait for an hour."""
        exchange, key = ("dx", "k") if where == EXCHANGE else ("", "late")
        headers = {"x-delay": HOUR_MS} if where == EXCHANGE else None
        self.embedded.publish(exchange, key, body, message_id=name, headers=headers)

    def ask(self, where, method, end="", *, body=None, user="guest", vhost="/", one="a", **query):
        """Return status and body of the answer; all of it is JSON."""
        kind, name = where
        pattern = f"/api/leveret/{kind}s/{{vhost}}/{{name}}/delayed{end}"
        params = {"vhost": vhost, "name": name, "identity": one}
        answer = HANDLERS[method, pattern](
            Request(method, "", params, query, body, user), self.broker
        )
        return answer.status, json.loads(json.dumps(answer.body))

    def let(self, user, permission):
        """Add a user who has one permission only, on everything."""
        self.broker.users.add(user, "x", ("management",))
        granted = Permissions("^$", "^$", "^$")._replace(**{permission: ".*"})
        self.broker.users.set_permissions(user, "/", granted)

    def names(self, where):
        return [each["identity"] for each in self.ask(where, "GET")[1]["messages"]]

    def arrived(self, where):
        """Return what is ready by now, taken."""
        finish(self.broker)
        found = []
        while (got := self.embedded.get("q" if where == EXCHANGE else "late")) is not None:
            found.append(got.body)
        return found


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture(params=[EXCHANGE, QUEUE], ids=["exchange", "queue"])
def where(request):
    return request.param


def test_all_resources_are_registered():
    registry = plugins.load(are_others_wanted=False)

    assert set(ROUTES) <= set(registry.routes)
    assert len(ROUTES) == 2 * len(ALL) == len(HANDLERS)


def test_a_message_with_the_name_of_a_word_does_not_hide_what_the_word_means():
    patterns = [route.pattern for route in ROUTES if route.method == "GET"]

    for each in ("exchanges", "queues"):
        base = f"/api/leveret/{each}/{{vhost}}/{{name}}/delayed"
        assert patterns.index(base + COUNTS) < patterns.index(base + ONE)


# Looking


def test_what_waits_is_listed_page_by_page(desk, where):
    for name in ("a", "b", "c"):
        desk.put(where, name)

    status, first = desk.ask(where, "GET", limit="2")
    _, second = desk.ask(where, "GET", limit="2", after=first["next"])

    assert (200, 3) == (status, first["waiting"])
    assert ["a", "b"] == [each["identity"] for each in first["messages"]]
    assert (START_OF_TIME + HOUR_MS, 1) == tuple(
        first["messages"][0][name] for name in ("due", "body_bytes")
    )
    assert (["c"], None) == ([each["identity"] for each in second["messages"]], second["next"])


def test_where_nothing_waits_an_empty_page_is_answered(desk, where):
    assert (200, {"messages": [], "next": None, "waiting": 0}) == desk.ask(where, "GET", after="")


def test_what_waits_is_counted_in_spans(desk, where):
    desk.put(where)
    desk.put(where)

    status, usual = desk.ask(where, "GET", COUNTS)
    _, asked = desk.ask(where, "GET", COUNTS, spans=f"[{HOUR_MS + 1}, 1000]")

    assert (200, 2, len(steering.SPANS) + 1) == (status, usual["waiting"], len(usual["spans"]))
    start, end = START_OF_TIME + 1000, START_OF_TIME + HOUR_MS + 1
    assert asked["spans"] == [
        {"first": None, "end": start, "count": 0},
        {"first": start, "end": end, "count": 2},
        {"first": end, "end": None, "count": 0},
    ]


def test_spans_as_long_as_any_delay_are_counted(desk, where):
    desk.put(where)

    _, counts = desk.ask(where, "GET", COUNTS, spans=json.dumps([0, TEN_YEARS_MS]))

    assert [0, 1, 0] == [span["count"] for span in counts["spans"]]


def test_messages_are_found_by_their_name_or_position(desk, where):
    desk.put(where, "a")
    desk.put(where, "a", b"second")
    desk.put(where)

    _, named = desk.ask(where, "GET", ONE, one="a", by="name")
    _, placed = desk.ask(where, "GET", ONE, one="2", by="position")

    assert [("a", 1), ("a", 6)] == [(each["identity"], each["body_bytes"]) for each in named]
    assert [(None, 2)] == [(each["identity"], each["position"]) for each in placed]
    assert 404 == desk.ask(where, "GET", ONE, one="2")[0]


# Steering


def test_a_message_is_cancelled(desk, where):
    desk.put(where, "a")
    desk.put(where, "b", b"b")

    done = desk.ask(where, "DELETE", ONE)

    assert (200, {"messages": 1, "is_complete": True}) == done
    assert ["b"] == desk.names(where)
    desk.embedded.advance(HOUR_MS / 1000)
    assert [b"b"] == desk.arrived(where)


def test_a_message_without_a_name_is_cancelled_by_position(desk, where):
    desk.put(where)

    assert 200 == desk.ask(where, "DELETE", ONE, one="0", by="position")[0]
    assert [] == desk.names(where)


@pytest.mark.parametrize("when", [{"delay": 5000}, {"at": START_OF_TIME + 5000}])
def test_a_message_is_rescheduled(desk, where, when):
    desk.put(where, "a")

    assert (200, {"messages": 1, "is_complete": True}) == desk.ask(where, "PATCH", ONE, body=when)

    desk.embedded.advance(4.999)
    assert [] == desk.arrived(where)
    desk.embedded.advance(0.001)
    assert [b"m"] == desk.arrived(where)


def test_a_message_is_delivered_now(desk, where):
    desk.put(where, "a", b"a")
    desk.put(where, "b")
    desk.embedded.advance(0.001)

    assert (200, {"messages": 1, "is_complete": True}) == desk.ask(where, "POST", DELIVER)

    assert [b"a"] == desk.arrived(where)
    assert ["b"] == desk.names(where)


def test_so_many_messages_of_a_name_that_a_call_stops_are_told_of(desk, where, monkeypatch):
    monkeypatch.setattr(steering, "MOST", 1)
    desk.put(where, "a")
    desk.put(where, "a")

    assert (200, {"messages": 1, "is_complete": False}) == desk.ask(where, "DELETE", ONE)
    assert (200, {"messages": 1, "is_complete": True}) == desk.ask(where, "DELETE", ONE)
    assert 404 == desk.ask(where, "DELETE", ONE)[0]


# What cannot be done


@pytest.mark.parametrize(
    ("method", "end", "query", "reason"),
    [
        ("GET", "", {"limit": "0"}, "'limit' is \"0\", it must be an integer from 1 to 500"),
        ("GET", "", {"limit": "x"}, "'limit' is \"x\", it must be an integer from 1 to 500"),
        ("GET", "", {"after": "1"}, "'after' is \"1\", it must be what a page has as next"),
        ("GET", "", {"any": "1"}, "'any' is \"1\", it must be absent; known: after, limit"),
        ("GET", COUNTS, {"spans": "1"}, "a list of at most 100 integers from 0 to 315360000000"),
        ("GET", COUNTS, {"spans": "[-1]"}, "'spans' is \"[-1]\", it must be a list"),
        ("GET", COUNTS, {"spans": f"[{TEN_YEARS_MS + 1}]"}, "integers from 0 to 315360000000"),
        ("GET", COUNTS, {"spans": "[1,"}, "'spans' is \"[1,\", it must be a list"),
        ("GET", ONE, {"by": "age"}, "'by' is \"age\", it must be one of name, position"),
        ("GET", ONE, {"by": "position"}, "'identity' is \"a\", it must be an integer from 0 to"),
        ("DELETE", ONE, {"by": "position"}, "'identity' is \"a\", it must be an integer from 0"),
        ("POST", DELIVER, {"any": "1"}, "'any' is \"1\", it must be absent; known: by"),
    ],
)
def test_a_bad_query_is_told_what(desk, where, method, end, query, reason):
    desk.put(where, "a")

    status, answer = desk.ask(where, method, end, **query)

    assert (400, "bad_request") == (status, answer["error"])
    assert reason in answer["reason"]
    assert ["a"] == desk.names(where)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "'delay' is absent, it must be an integer from 0 to 315360000000 where 'at' is"),
        ({"delay": 1, "at": 1}, "'at' is 1, it must be absent where 'delay' is given"),
        ({"delay": -1}, "'delay' is -1, it must be an integer from 0 to 315360000000"),
        ({"delay": True}, "'delay' is true, it must be an integer from 0 to 315360000000"),
        ({"delay": TEN_YEARS_MS + 1}, "it must be an integer from 0 to 315360000000"),
        (
            {"at": START_OF_TIME + TEN_YEARS_MS + 1},
            f"it must be an integer from 0 to {START_OF_TIME + TEN_YEARS_MS}",
        ),
        ({"at": "soon"}, "'at' is \"soon\", it must be an integer from 0 to"),
        ({"any": 1}, "'any' is 1, it must be absent; known: delay, at"),
        ([1], "'body' is [1], it must be a JSON object"),
    ],
)
def test_a_bad_moment_is_told_what(desk, where, body, reason):
    desk.put(where, "a")

    status, answer = desk.ask(where, "PATCH", ONE, body=body)

    assert 400 == status
    assert reason in answer["reason"]
    assert START_OF_TIME + HOUR_MS == desk.ask(where, "GET", ONE)[1][0]["due"]


@pytest.mark.parametrize("after", [f"{'9' * 35}.1", f"1.{'9' * 35}"])
def test_a_page_after_a_mark_that_no_page_had_is_an_empty_or_whole_one(desk, where, after):
    desk.put(where, "a")

    status, page = desk.ask(where, "GET", after=after)

    assert (200, None) == (status, page["next"])


@pytest.mark.parametrize(("method", "end", "body"), ALL[2:])
def test_where_nothing_waits_as_asked_the_answer_says_so(desk, where, method, end, body):
    desk.put(where, "b")
    kind, name = where

    _, named = desk.ask(where, method, end, body=body)
    status, placed = desk.ask(where, method, end, body=body, one=f"{2**63 - 1}", by="position")

    assert f"nothing waits as 'a' for {kind} '{name}' in vhost '/'" == named["reason"]
    assert (404, "not_found") == (status, placed["error"])
    assert f"nothing waits at position {2**63 - 1} for {kind}" in placed["reason"]


@pytest.mark.parametrize(("method", "end", "body"), ALL)
@pytest.mark.parametrize("kind", ["exchange", "queue"])
def test_what_is_not_there_is_not_found(desk, kind, method, end, body):
    status, answer = desk.ask((kind, "none"), method, end, body=body)

    assert (404, f"no {kind} 'none' in vhost '/'") == (status, answer["reason"])


@pytest.mark.parametrize(("method", "end", "body"), ALL)
def test_strangers_see_and_steer_nothing(desk, where, method, end, body):
    desk.put(where, "a")
    desk.broker.users.add("some", "x", ("management",))

    assert 403 == desk.ask(where, method, end, body=body, user="some")[0]
    assert 403 == desk.ask(where, method, end, body=body, user="some", vhost="none")[0]
    assert ["a"] == desk.names(where)


@pytest.mark.parametrize(("method", "end", "body"), ALL)
@pytest.mark.parametrize("may", ["read", "write"])
def test_an_exchange_is_seen_by_readers_and_steered_by_writers(desk, may, method, end, body):
    desk.put(EXCHANGE, "a")
    desk.let("some", may)

    status, _ = desk.ask(EXCHANGE, method, end, body=body, user="some")

    needed = "read" if method == "GET" else "write"
    assert (200 if may == needed else 403) == status


@pytest.mark.parametrize(("method", "end", "body"), ALL)
@pytest.mark.parametrize("may", ["read", "write"])
def test_a_queue_is_seen_and_steered_by_readers(desk, may, method, end, body):
    desk.put(QUEUE, "a")
    desk.let("some", may)

    status, _ = desk.ask(QUEUE, method, end, body=body, user="some")

    assert (200 if may == "read" else 403) == status

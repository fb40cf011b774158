"""The resources that only look."""

import json

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.lookups import ROUTES, explain_publish, peek_messages
from leveret.broker.core.resources import Pending, Request, Response
from leveret.broker.core.runs import Paged
from leveret.broker.core.users import Permissions
from leveret.protocol.properties import Properties

from ..support.fakes import message


@pytest.fixture
def broker():
    made = Broker()
    made.add_defaults()
    made.users.add("some", "secret", ("management",))
    made.users.set_permissions("some", "/", Permissions("", "", "^mine"))
    return made


@pytest.fixture
def queue(broker):
    return broker.vhosts["/"].declare_queue("q")


def explained(broker, user="guest", body=None, **query):
    answer = explain_publish(Request("GET", "", {}, query, body, user), broker)
    return answer.status, json.loads(json.dumps(answer.body))


def peeked(broker, name="q", user="guest", vhost="/", **query):
    request = Request("GET", "", {"vhost": vhost, "name": name}, query, None, user)
    answer = peek_messages(request, broker)
    return answer.status, json.loads(json.dumps(answer.body))


def put(queue, *contents):
    queue.incoming += contents
    queue.deal()


# Explain


def test_a_publish_is_explained_to_who_would_publish(broker, queue):
    status, body = explained(broker, vhost="/", exchange="", routing_key="q")

    assert (200, "routed", "guest") == (status, body["verdict"], body["user"])
    assert ["q"] == [each["name"] for each in body["queues"]]


def test_a_publish_with_headers_and_properties_is_explained(broker, queue):
    asked = {
        "vhost": "/",
        "exchange": "",
        "routing_key": "x",
        "headers": {"CC": ["q"]},
        "properties": {"expiration": "5", "app_id": "any"},
        "limit": 5,
    }

    status, body = explained(broker, body=asked)

    assert (200, "routed", ["x", "q"]) == (status, body["verdict"], body["routing_keys"])
    assert "expiration" in [each["subject"] for each in body["checks"]]


def test_a_publish_that_is_refused_is_no_error_of_the_request(broker):
    status, body = explained(broker, vhost="none", exchange="")

    assert (200, "refused", 404) == (status, body["verdict"], body["refusal"]["code"])


def test_only_who_watches_sees_what_others_may_do(broker):
    asked = {"vhost": "/", "exchange": ""}

    request = Request("GET", "", {}, {**asked, "user": "some"}, None, "guest")
    assert 200 == explain_publish(request, broker).status
    request = Request("GET", "", {}, {**asked, "user": "guest"}, None, "some")
    assert Response(
        403,
        {
            "error": "forbidden",
            "reason": "user 'some' may not see what user 'guest' may do",
        },
    ) == explain_publish(request, broker)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"exchange": ""}, "vhost"),
        ({"vhost": "/"}, "exchange"),
        ({"vhost": "/", "exchange": "", "limit": 0}, "limit"),
        ({"vhost": "/", "exchange": "", "limit": 1001}, "limit"),
        ({"vhost": "/", "exchange": "", "headers": []}, "headers"),
        ({"vhost": "/", "exchange": "", "properties": {"expiration": 5}}, "expiration"),
        ({"vhost": "/", "exchange": "", "properties": {"no": 5}}, "no"),
        ({"vhost": "/", "exchange": "", "routing_key": 5}, "routing_key"),
        ({"vhost": "/", "exchange": "", "body": ""}, "body"),
        ([], "body"),
    ],
)
def test_bad_questions_are_refused_with_the_name_of_the_field(broker, asked, field):
    status, body = explained(broker, body=asked)

    assert (400, field) == (status, body["field"])


# Peek


def test_a_page_of_messages_is_answered_at_once_if_it_is_in_memory(broker, queue):
    put(queue, message(b"hello"), message(b"world"))

    status, body = peeked(broker, limit="1", body_limit="4")

    assert (200, "0", 1) == (status, body["next"], body["looked"])
    assert ["hell"] == [each["payload"] for each in body["messages"]]
    assert ["world"] == [each["payload"] for each in peeked(broker, after="0")[1]["messages"]]


def test_a_page_that_has_to_be_read_is_answered_later(broker, queue):
    content = message(b"hello")
    asked = []

    class Slot:
        def fetch(self, asker, paged):
            asked.append((asker, paged))

    queue.runs.append_paged(Paged(0, 1, 1, 5, Slot()))
    request = Request("GET", "", {"vhost": "/", "name": "q"}, {}, None, "guest")

    answer = peek_messages(request, broker)

    assert isinstance(answer, Pending)
    assert answer.response is None
    [(asker, paged)] = asked
    asker.loaded(paged, [content])
    assert ["hello"] == [each["payload"] for each in answer.response.body["messages"]]


def test_messages_are_chosen_by_what_the_query_says(broker, queue):
    for number in range(4):
        properties = Properties(
            message_id=f"m{number}", timestamp=number, headers={"n": number, "t": "a"}
        )
        put(queue, message(b"%d" % number, "even" if number % 2 == 0 else "odd", properties))

    def chosen(**query):
        return [each["payload"] for each in peeked(broker, **query)[1]["messages"]]

    assert ["1", "3"] == chosen(routing_key="odd")
    assert ["2"] == chosen(message_id="m2")
    assert ["0"] == chosen(published_before="1")
    assert ["3"] == chosen(published_after="2", exchange="")
    assert ["1"] == chosen(headers='{"n": 1, "t": "a"}')
    assert [] == chosen(headers='{"n": "1"}')


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
        ({"body_limit": "65537"}, "body_limit"),
        ({"state": "gone"}, "state"),
        ({"after": "x"}, "after"),
        ({"after": "1", "state": "unacked"}, "after"),
        ({"headers": "x"}, "headers"),
        ({"published_before": "-1"}, "published_before"),
        ({"header": "x"}, "header"),
    ],
)
def test_bad_queries_are_refused_with_the_name_of_the_field(broker, queue, query, field):
    status, body = peeked(broker, **query)

    assert (400, field) == (status, body["field"])
    assert f"field '{field}' is " in body["reason"]


def test_who_may_not_read_a_queue_may_not_look_into_it(broker, queue):
    assert 403 == peeked(broker, user="some")[0]
    assert 403 == peeked(broker, name="gone", user="some")[0]
    assert 403 == peeked(broker, vhost="none")[0]
    broker.vhosts["/"].declare_queue("mine")
    assert 200 == peeked(broker, name="mine", user="some")[0]


def test_a_queue_that_is_not_there_is_not_found(broker):
    assert (404, "no queue 'q' in vhost '/'") == (
        peeked(broker)[0],
        peeked(broker)[1]["reason"],
    )


def test_the_routes_are_those_of_the_interface():
    assert [
        ("GET", "/api/leveret/explain"),
        ("POST", "/api/leveret/explain"),
        ("GET", "/api/leveret/queues/{vhost}/{name}/messages"),
    ] == [(route.method, route.pattern) for route in ROUTES]

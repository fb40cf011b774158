"""What is read from Celery's messages, and that nothing is read from what only looks like them."""

import json
from datetime import UTC, datetime

import pytest

from leveret.broker.core.message import Message
from leveret.broker.plugins.celery_message import BODY_LIMIT, Task, read, revoked, task_id
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

from ..support.fakes import message

NOON = "2030-01-01T12:00:00+00:00"
NOON_MS = 1893499200000
DAY_MS = 24 * 3600 * 1000
HEADERS = {"lang": "py", "task": "shop.mail", "id": "a1", "shadow": None, "eta": None}
HEADERS |= {"expires": None, "retries": 0, "timelimit": [None, None], "argsrepr": "(1, 2)"}
FIELDS = {"task": "shop.mail", "id": "a1", "args": [1, 2], "kwargs": {}, "retries": 0}
FIELDS |= {"eta": None, "expires": None, "utc": True}
REVOKE = {"method": "revoke", "destination": None, "pattern": None, "matcher": None}


def second(**changes) -> Message:
    """Return a task of protocol 2."""
    properties = Properties(content_type="application/json", headers=HEADERS | changes)
    return message(b"[[1, 2], {}, {}]", properties=properties)


def first(content_type: str = "application/json", /, **changes) -> Message:
    """Return a task of protocol 1."""
    properties = Properties(content_type=content_type, headers={})
    return message(json.dumps(FIELDS | changes).encode(), properties=properties)


def command(content: object, exchange: str = "celery.pidbox") -> Message:
    """Return a remote control command."""
    body = json.dumps(content).encode()
    header = encode(Properties(content_type="application/json", headers={"clock": 1}), len(body))
    made = make_content(BasicPublish(exchange, ""), header, body, Message)
    assert isinstance(made, Message)
    return made


@pytest.mark.parametrize("make", [first, second])
@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (NOON, NOON_MS),
        ("2030-01-01T12:00:00Z", NOON_MS),
        ("2030-01-01T12:00:00", NOON_MS),  # UTC, as celery.utils.time.maybe_make_aware has it
        ("2030-01-01T13:00:00+01:00", NOON_MS),
        ("2030-01-01T06:30:00-05:30", NOON_MS),
        ("20300101T120000Z", NOON_MS),
        ("2030-01-02", NOON_MS + DAY_MS // 2),
        ("2030-01-01T12:00:00.250000+00:00", NOON_MS + 250),
        ("2030-01-01T12:00:00.000001+00:00", NOON_MS + 1),
        ("2030-01-01T12:00:00.123456789Z", NOON_MS + 124),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("9999-12-31T23:59:59Z", 253402300799000),
    ],
)
def test_time_is_read_in_every_form_and_rounded_up(make, text, ms):
    assert Task("a1", ms, None) == read(make(eta=text))
    assert Task("a1", None, ms) == read(make(expires=text))


@pytest.mark.parametrize("make", [first, second])
def test_eta_and_expires_come_together(make):
    task = read(make(eta=NOON, expires="2030-01-02T12:00:00+00:00"))

    assert Task("a1", NOON_MS, NOON_MS + DAY_MS) == task


@pytest.mark.parametrize("make", [first, second])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"eta": ""},
        {"eta": "soon"},
        {"eta": 1893499200},
        {"eta": [NOON]},
        {"eta": "2030-13-01T12:00:00Z"},
        {"eta": NOON, "expires": "later"},
        {"eta": NOON, "expires": 60},
        {"eta": NOON, "id": None},
        {"eta": NOON, "id": ""},
        {"eta": NOON, "id": 7},
        {"eta": NOON, "task": None},
    ],
)
def test_task_without_a_time_or_with_nonsense_is_left_alone(make, changes):
    assert read(make(**changes)) is None


def test_task_that_is_no_celery_task_is_left_alone():
    for body in (b"", b"hello", b'{"eta": "%b"}' % NOON.encode(), b'["task", "eta"]'):
        assert read(message(body)) is None
        assert read(message(body, properties=Properties(content_type="application/json"))) is None


def test_times_inside_the_arguments_are_not_the_tasks_own():
    assert read(second(kwargsrepr="\x03etaS")) is None
    assert read(second(stamps={"task": "x", "id": "b2", "eta": NOON})) is None
    assert read(first(kwargs={"eta": NOON})) is None


def test_key_order_and_missing_keys_do_not_matter():
    headers = {"expires": NOON, "id": "a1", "task": "shop.mail"}

    assert Task("a1", None, NOON_MS) == read(message(b"", properties=Properties(headers=headers)))


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "text/plain", ""])
def test_body_is_read_only_as_json(content_type):
    assert read(first(content_type, eta=NOON)) is None


def test_long_body_is_not_parsed():
    inside = first(eta=NOON, args=["x" * (BODY_LIMIT - 500)])
    beyond = first(eta=NOON, args=["x" * BODY_LIMIT])

    assert Task("a1", NOON_MS, None) == read(inside)
    assert read(beyond) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"task": "t", "id": "a1", "eta": "2030',
        b'{"task": "t", "eta": "%b", "args": ' % NOON.encode() + b"[" * 100_000,
        b'{"task": "t", "id": "a1", "eta": "\xff"}',
        b'{"task": "t", "id": "a1", "eta": "z", "n": ' + b"9" * 10_000 + b"}",
        b'["task", {"eta": "z"}]',
    ],
)
def test_malformed_body_is_left_alone(body):
    properties = Properties(content_type="application/json")

    assert read(message(body, properties=properties)) is None
    assert revoked(message(body, properties=properties)) == []


def test_malformed_headers_are_left_alone():
    header = second(eta=NOON).header
    cut = header[:14] + header[14:].replace(b"\x02idS\x00\x00", b"\x02idS\xff\xff")

    assert read(second(eta=NOON).with_header(cut)) is None


@pytest.mark.parametrize("make", [first, second])
def test_id_of_a_task_is_known_whether_it_has_times_or_not(make):
    assert task_id(make()) == task_id(make(eta=NOON)) == "a1"
    assert task_id(make(id="")) is task_id(make(id=7)) is task_id(make(task=None)) is None


def test_what_is_no_task_has_no_id():
    long = first(args=["x" * BODY_LIMIT])

    assert [None] * 3 == [task_id(each) for each in (message(b""), message(b'"task"'), long)]


@pytest.mark.parametrize("method", ["revoke", "terminate"])
@pytest.mark.parametrize(
    ("task_id", "ids"),
    [
        ("a1", ["a1"]),
        (["a1", "b2"], ["a1", "b2"]),
        ([], []),
        (None, []),
        (["a1", 7, None], ["a1"]),
        ({"a1": 1}, []),
    ],
)
def test_revocation_names_its_tasks(method, task_id, ids):
    arguments = {"task_id": task_id, "terminate": False, "signal": "SIGTERM"}

    assert ids == revoked(command(REVOKE | {"method": method, "arguments": arguments}))


def test_revocation_that_asks_for_replies_counts_too():
    content = REVOKE | {"arguments": {"task_id": "a1"}, "ticket": "t"}
    content |= {"reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "r"}}

    assert revoked(command(content)) == ["a1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"destination": ["one@host"]},
        {"pattern": "one*", "matcher": "glob"},
        {"method": "ping"},
        {"method": "revoke_by_stamped_headers", "arguments": {"headers": {"task_id": ["a1"]}}},
        {"arguments": None},
        {"arguments": ["task_id", "a1"]},
    ],
)
def test_what_is_not_a_revocation_for_all_workers_revokes_nothing(changes):
    assert revoked(command(REVOKE | {"arguments": {"task_id": "a1"}} | changes)) == []


def test_revocation_counts_only_in_an_exchange_of_remote_control():
    content = REVOKE | {"arguments": {"task_id": "a1"}}

    assert revoked(command(content, "shop.pidbox")) == ["a1"]
    assert revoked(command(content, "reply.to.me")) == []
    assert revoked(command([content])) == []


@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"enable_utc": False, "timezone": "Asia/Kolkata"}])
def test_reading_agrees_with_what_celery_writes(protocol, settings):
    celery = pytest.importorskip("celery")
    app = celery.Celery("shop", set_as_current=False)
    app.conf.update(task_protocol=protocol, **settings)
    now = datetime(2030, 1, 1, 11, 59, tzinfo=UTC)
    written = app.amqp.create_task_message(
        "a1", "shop.mail", (1, 2), {}, countdown=60, expires=3600 * 24 + 60, now=now
    )
    properties = Properties(content_type="application/json", headers=written.headers)

    task = read(message(json.dumps(written.body).encode(), properties=properties))

    assert Task("a1", NOON_MS, NOON_MS + DAY_MS) == task

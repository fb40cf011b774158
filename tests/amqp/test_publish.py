"""basic.publish: checks, returns, confirms, copies, limits."""

import pytest

from leveret.broker.amqp import publish as publish_module
from leveret.broker.core.broker import Broker, Limits
from leveret.broker.core.routes import ByHeaders
from leveret.broker.core.users import Permissions
from leveret.protocol.constants import NO_ROUTE
from leveret.protocol.methods import (
    BasicAck,
    BasicGet,
    BasicGetEmpty,
    BasicPublish,
    BasicReturn,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    ConfirmSelect,
    ConfirmSelectOk,
    ConnectionClose,
    ExchangeBind,
    ExchangeDeclare,
    QueueBind,
    QueueDelete,
    QueueUnbind,
)
from leveret.protocol.properties import Properties
from leveret.protocol.writer import method_frame

from ..support.client import Client, Received, closed, published

BOTH_STRATEGIES = True


def confirming(client):
    client.declare()
    assert ConfirmSelectOk() == client.call(ConfirmSelect())
    return client


def bodies(client, queue="q"):
    """Get everything out of a queue."""
    found = []
    while isinstance(answer := client.call(BasicGet(queue, True)), Received):
        found.append(answer.body)
    return found


@pytest.fixture
def careful(monkeypatch):
    """Bodies of the messages that went the careful way."""
    found = []
    inner = publish_module._publish_carefully

    def publish_carefully(channel, message, memo):
        found.append(message.body)
        return inner(channel, message, memo)

    monkeypatch.setattr(publish_module, "_publish_carefully", publish_carefully)
    return found


# confirms


def test_a_publish_is_confirmed_at_the_end_of_the_turn(client):
    confirming(client)

    assert [BasicAck(1)] == client.publish(b"1")
    assert [BasicAck(2)] == client.publish(b"2")


def test_publishes_of_a_turn_are_confirmed_together(client):
    confirming(client)

    assert [BasicAck(3, True)] == client.publish_many([b"1", b"2", b"3"])
    assert [BasicAck(4)] == client.publish(b"4")


def test_numbering_starts_with_the_first_publish_after_select(client):
    client.declare()
    client.publish(b"before")
    confirming(client)

    assert [BasicAck(1)] == client.publish(b"after")


def test_a_second_select_does_not_number_anew(client):
    confirming(client)
    client.publish(b"1")

    assert ConfirmSelectOk() == client.call(ConfirmSelect())
    assert [BasicAck(2)] == client.publish(b"2")


def test_without_select_nothing_is_confirmed(client):
    client.declare()

    assert [] == client.publish(b"1")


def test_select_without_waiting_has_no_answer(client):
    assert [] == client.send(ConfirmSelect(no_wait=True))
    assert [BasicAck(1)] == client.publish(b"1")


def test_channels_number_their_own_publishes(client):
    confirming(client)
    client.open_channel(2)
    client.call(ConfirmSelect(), 2)
    client.publish_many([b"1", b"2"])

    assert [BasicAck(1)] == client.publish(b"1", channel=2)


def test_an_unroutable_publish_is_confirmed(client):
    confirming(client)

    assert [BasicAck(1)] == client.publish(b"", "nowhere")


def test_a_publish_is_confirmed_once_however_many_queues_took_it(client):
    confirming(client)
    for queue in "ab":
        client.declare(queue)
        client.call(QueueBind(queue, "amq.fanout"))

    assert [BasicAck(1)] == client.publish(b"x", "", "amq.fanout")
    assert (1, 1) == (client.counts("a")[0], client.counts("b")[0])


def test_what_was_published_is_confirmed_before_the_channel_closes(client):
    confirming(client)
    data = published(b"1", BasicPublish("", "q")) + published(b"2", BasicPublish("", "q"))

    client.feed(data + method_frame(1, ChannelClose()))

    assert [BasicAck(2, True), ChannelCloseOk()] == client.take()


def test_a_publish_that_closes_the_channel_is_not_confirmed(client):
    confirming(client)
    good, bad = BasicPublish("", "q"), BasicPublish("missing", "q", mandatory=True)

    client.feed(published(b"1", good) + published(b"2", bad) + published(b"3", good))
    ack, close = client.take()

    assert (BasicAck(1), 404) == (ack, close.reply_code)
    client.send(ChannelCloseOk())
    client.open_channel(1)
    assert [b"1"] == bodies(client)


# mandatory


def test_an_unroutable_mandatory_message_comes_back_before_its_confirm(client):
    confirming(client)

    answers = client.publish(b"body", "nowhere", mandatory=True, message_id="m")

    returned = BasicReturn(NO_ROUTE, "NO_ROUTE", "", "nowhere")
    assert [
        Received(returned, b"body", Properties(message_id="m")),
        BasicAck(1),
    ] == answers


def test_every_return_of_a_turn_precedes_its_confirm(client):
    confirming(client)
    method = BasicPublish("amq.direct", "nowhere", mandatory=True)

    client.feed(b"".join(published(body, method) for body in (b"1", b"2")))

    first, second, ack = client.take()
    assert (b"1", b"2", BasicAck(2, True)) == (first.body, second.body, ack)


def test_a_routable_mandatory_message_does_not_come_back(client):
    client.declare()

    assert [] == client.publish(b"1", mandatory=True)
    assert [] == client.publish(b"2", mandatory=True)
    assert [b"1", b"2"] == bodies(client)


def test_a_mandatory_message_comes_back_once_its_queue_is_gone(client):
    client.declare()
    client.publish(b"1", mandatory=True)
    client.call(QueueDelete("q"))

    [returned] = client.publish(b"2", mandatory=True)

    assert b"2" == returned.body


def test_mandatory_messages_that_lead_nowhere_come_back_each(client):
    for body in (b"1", b"2"):
        [returned] = client.publish(body, "nowhere", mandatory=True)
        assert body == returned.body


def test_a_mandatory_message_whose_headers_lead_nowhere_comes_back(client):
    client.declare()
    client.call(QueueBind("q", "amq.headers", arguments={"a": 1}))
    assert [] == client.publish(b"1", "", "amq.headers", mandatory=True, headers={"a": 1})

    [returned] = client.publish(b"2", "", "amq.headers", mandatory=True, headers={"a": 2})

    assert b"2" == returned.body


def test_a_mandatory_message_that_the_alternate_exchange_takes_does_not_come_back(client):
    client.declare()
    client.call(ExchangeDeclare("x", arguments={"alternate-exchange": "amq.fanout"}))
    client.call(QueueBind("q", "amq.fanout"))

    assert [] == client.publish(b"1", "nowhere", "x", mandatory=True)
    assert [b"1"] == bodies(client)


def test_a_message_of_several_frames_comes_back_whole(client):
    body = b"0123456789" * 30_000

    [returned] = client.publish(body, "nowhere", mandatory=True)

    assert body == returned.body


# where it goes


def test_a_route_that_is_known_follows_the_topology(client):
    client.declare("a")
    client.declare("b")
    client.call(QueueBind("a", "amq.direct", "k"))
    client.publish(b"1", "k", "amq.direct")

    client.call(QueueBind("b", "amq.direct", "k"))
    client.publish(b"2", "k", "amq.direct")
    client.call(QueueUnbind("a", "amq.direct", "k"))
    client.publish(b"3", "k", "amq.direct")

    assert ([b"1", b"2"], [b"2", b"3"]) == (bodies(client, "a"), bodies(client, "b"))


def test_a_queue_declared_after_the_first_publish_gets_the_next(client):
    client.publish(b"lost")
    client.declare()
    client.publish(b"kept")

    assert [b"kept"] == bodies(client)


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param({}, id="none"),
        pytest.param({"mandatory": True}, id="mandatory"),
        pytest.param({"reply_to": "answers", "correlation_id": "1"}, id="reply to"),
        pytest.param({"headers": {"CCS": "a CC", "ACC": "a BCC"}}, id="octets of CC"),
        pytest.param({"expiration": "60000"}, id="expiration"),
        pytest.param(
            {"headers": {"h": "a CC"}, "reply_to": "a", "expiration": "60000", "mandatory": True},
            id="all",
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 200_000])
def test_only_the_first_of_many_alike_goes_the_careful_way(client, careful, properties, size):
    client.declare()
    expected = [b"%d" % number * size for number in range(1, 4)]
    for body in expected:
        assert [] == client.publish(body, **properties)

    assert expected[:1] == careful
    assert expected == bodies(client)


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ({"reply_to": "amq.rabbitmq.reply-to"}, 406),  # without a consumer there
        ({"headers": {"h": "amq"}, "reply_to": "amq.rabbitmq.reply-to"}, 406),
        ({"headers": {"CC": 1}}, 406),
        ({"headers": {"a": 1, "BCC": 1}}, 406),
        ({"user_id": "other", "headers": {"h": 1}}, 406),
        ({"expiration": "soon"}, 406),
    ],
)
@pytest.mark.parametrize("size", [1, 200_000])
def test_a_known_route_hides_no_mistake(broker, properties, code, size):
    client = restricted(broker, ".*")
    client.declare()
    for _ in range(2):
        client.publish(b"1", expiration="60000")

    assert code == closed(client.publish(b"2" * size, **properties))[0]
    client.send(ChannelCloseOk())
    client.open_channel(1)
    assert [b"1", b"1"] == bodies(client)


def test_all_queues_of_a_known_route_look_at_the_first_expiration(client):
    for name in ("a", "b"):
        client.declare(name)
        client.call(QueueBind(name, "amq.fanout"))
    client.publish(b"1", "a", expiration="60000")
    client.publish(b"2", "", "amq.fanout")
    queues = client.broker.vhosts["/"].queues
    assert [True, False] == [queues[name].is_timed for name in "ab"]

    client.publish(b"3", "", "amq.fanout", expiration="60000")

    assert queues["b"].is_timed


def test_what_comes_before_a_wrong_expiration_is_confirmed(client):
    confirming(client)
    row = [(b"1", "60000"), (b"2", "60000"), (b"3", "60000"), (b"4", "soon"), (b"5", "60000")]
    method = BasicPublish("", "q")

    client.feed(
        b"".join(published(body, method, 1, Properties(expiration=life)) for body, life in row)
    )

    ack, close = client.take()
    assert (BasicAck(3, True), 406) == (ack, close.reply_code)


@pytest.mark.parametrize("header", ["CC", "BCC"])
@pytest.mark.parametrize(("exchange", "kind"), [("", "direct"), ("x", "direct"), ("x", "topic")])
def test_copies_are_routed_as_additional_keys(client, exchange, kind, header):
    client.call(ExchangeDeclare("x", kind))
    for queue in "abc":
        client.declare(queue)
        client.call(QueueBind(queue, "x", queue))

    client.publish(b"1", "a", exchange, headers={header: ["b", "a", "c"]})

    assert [[b"1"]] * 3 == [bodies(client, queue) for queue in "abc"]


def test_blind_copies_are_not_shown_to_anyone(client):
    client.declare("a")
    client.declare("b")

    client.publish(b"1", "a", headers={"CC": ["b"], "BCC": ["c"], "h": 1}, message_id="m")

    expected = Properties(headers={"CC": ["b"], "h": 1}, message_id="m")
    found = [client.call(BasicGet(queue, True)).properties for queue in "ab"]
    assert [expected, expected] == found


def test_copies_of_one_message_do_not_stick_to_the_next(client):
    client.declare("a")
    client.declare("b")
    client.publish(b"1", "a", headers={"CC": ["b"]})
    client.publish(b"2", "a")
    client.publish(b"3", "a", headers={"other": "CC"})

    assert ([b"1", b"2", b"3"], [b"1"]) == (bodies(client, "a"), bodies(client, "b"))


def test_a_known_route_does_not_hide_copies(client):
    client.declare("a")
    client.declare("b")
    client.publish(b"1", "a")
    client.publish(b"2", "a", headers={"BCC": ["b"]})

    assert [b"2"] == bodies(client, "b")


@pytest.mark.parametrize(
    ("value", "kind"), [("b", "longstr"), (1, "signedint"), ({"b": 1}, "table")]
)
def test_copies_that_are_no_array_close_the_channel(client, value, kind):
    code, text = closed(client.publish(b"", "a", headers={"CC": value}))

    start = 'PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",'
    assert (406, start) == (code, text[: len(start)])
    assert kind in text


def test_a_message_with_headers_is_routed_by_them(client):
    client.declare()
    client.call(QueueBind("q", "amq.headers", arguments={"x-match": "all", "a": 1}))
    client.publish(b"1", "", "amq.headers", headers={"a": 1})
    client.publish(b"2", "", "amq.headers", headers={"a": 2})
    client.publish(b"3", "", "amq.headers")

    assert [b"1"] == bodies(client)


def test_headers_that_come_again_lead_where_they_led(client):
    client.declare("q")
    client.declare("other")
    client.call(ExchangeDeclare("keys", "direct"))
    client.call(ExchangeBind("keys", "amq.headers", arguments={"a": 1}))
    client.call(QueueBind("q", "keys", "k"))
    client.call(QueueBind("other", "keys", "other"))
    for number in range(3):
        client.publish(b"%d" % number, "k", "amq.headers", headers={"a": 1}, message_id=f"{number}")
        client.publish(b"-", "k", "amq.headers", headers={"a": 2})
        client.publish(b"-", "k", "amq.headers", message_id="a")
        client.publish(b"%d" % number, "other", "amq.headers", headers={"a": 1})

    assert [b"0", b"1", b"2"] == bodies(client) == bodies(client, "other")


@pytest.mark.parametrize("careful", [{}, {"expiration": "60000"}, {"user_id": "guest"}])
def test_headers_that_come_again_are_matched_once(client, careful):
    client.declare()
    client.call(QueueBind("q", "amq.headers", arguments={"a": 1}))
    for number in range(4):
        client.publish(b"1", "k", "amq.headers", headers={"a": 1})
        if careful and number == 1:  # it is looked at in another way, and changes nothing
            client.publish(b"1", "k", "amq.headers", headers={"a": 1}, **careful)
    client.publish(b"2", "k", "amq.headers", headers={"a": 1, "other": "ACC"})

    memo = client.broker.routes(client.broker.vhosts["/"], "guest")
    [found] = memo.by_message.values()
    assert isinstance(found, ByHeaders)
    assert 2 == found.hits  # the first made it, the second filled it
    assert 2 == len(found.known)


def test_a_route_by_headers_follows_the_topology(client):
    client.declare("q")
    client.declare("other")
    one, two = ({"x-match": "any", "a": value} for value in (1, 2))
    client.call(QueueBind("q", "amq.headers", arguments=one))
    client.publish(b"1", "", "amq.headers", headers={"a": 1})
    client.publish(b"2", "", "amq.headers", headers={"a": 2})
    client.call(QueueBind("other", "amq.headers", arguments=two))
    client.publish(b"3", "", "amq.headers", headers={"a": 2})
    client.call(QueueUnbind("q", "amq.headers", arguments=one))
    client.publish(b"4", "", "amq.headers", headers={"a": 1})

    assert [b"1"] == bodies(client)
    assert [b"3"] == bodies(client, "other")


def test_a_known_route_by_headers_does_not_hide_copies_or_permissions(broker):
    client = restricted(broker, ".*")
    client.declare("q")
    client.declare("other")
    client.call(ExchangeDeclare("e", "headers"))
    client.call(ExchangeDeclare("keys", "direct"))
    client.call(ExchangeBind("keys", "e", arguments={"a": 1}))
    client.call(QueueBind("other", "keys", "copy"))
    client.publish(b"1", "", "e", headers={"a": 1})
    client.publish(b"2", "", "e", headers={"a": 1, "CC": ["copy"]})
    assert [b"2"] == bodies(client, "other")

    broker.users.set_permissions("user", "/", Permissions(".*", "", ".*"))

    assert closed(client.publish(b"3", "", "e", headers={"a": 1}))[0] == 403


# refusals


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("--5", "no_integer"),
        ("+-5", "no_integer"),
        ("", "no_integer"),
        ("soon", "no_integer"),
        ("10 ms", '{leftover_string," ms"}'),
        ("1.5", '{leftover_string,".5"}'),
        ("-1", "{value_negative,-1}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ],
)
def test_an_expiration_that_is_no_time_closes_the_channel(client, text, reason):
    client.declare()

    answer = closed(client.publish(b"", expiration=text))

    assert (406, f"PRECONDITION_FAILED - invalid expiration '{text}': {reason}") == answer


@pytest.mark.parametrize("text", ["0", "60000", "315360000000"])
def test_an_expiration_in_milliseconds_is_accepted(client, text):
    client.declare()

    assert [] == client.publish(b"", expiration=text)


def test_a_publish_to_a_missing_exchange_closes_the_channel(client):
    answer = closed(client.publish(b"", "k", "missing"))

    assert (404, "NOT_FOUND - no exchange 'missing' in vhost '/'") == answer


def test_a_publish_to_an_internal_exchange_closes_the_channel(client):
    client.call(ExchangeDeclare("x", internal=True))

    answer = closed(client.publish(b"", "k", "x"))

    text = "ACCESS_REFUSED - cannot publish to internal exchange 'x' in vhost '/'"
    assert (403, text) == answer


def test_the_close_names_the_publish(client):
    [close] = client.publish(b"", "k", "missing")

    assert (60, 40) == (close.class_id_, close.method_id_)


def restricted(broker, write):
    broker.users.add("user", "secret")
    broker.users.set_permissions("user", "/", Permissions(".*", write, ".*"))
    return Client(broker, "user", "secret")


def test_a_user_without_permission_may_not_publish(broker):
    client = restricted(broker, "^other$")

    answer = closed(client.publish(b"", "k", "amq.topic"))

    text = "write access to exchange 'amq.topic' in vhost '/' refused for user 'user'"
    assert (403, f"ACCESS_REFUSED - {text}") == answer


def test_the_default_exchange_is_called_amq_default_in_permissions(broker):
    client = restricted(broker, r"^amq\.default$")
    client.declare()

    assert [] == client.publish(b"1")
    assert (1, 0) == client.counts()


def test_a_permission_that_is_taken_away_ends_a_known_route(broker):
    client = restricted(broker, ".*")
    client.declare()
    client.publish(b"1")
    broker.users.set_permissions("user", "/", Permissions(".*", "", ".*"))

    assert 403 == closed(client.publish(b"2"))[0]


def test_a_user_may_not_claim_to_be_another(broker):
    client = restricted(broker, ".*")
    client.declare()
    assert [] == client.publish(b"1", user_id="user")

    answer = closed(client.publish(b"2", user_id="guest"))

    text = "user_id property set to 'guest' but authenticated user was 'user'"
    assert (406, f"PRECONDITION_FAILED - {text}") == answer


def test_an_impersonator_may(broker):
    broker.users.add("proxy", "secret", ("impersonator",))
    broker.users.set_permissions("proxy", "/", Permissions(".*", ".*", ".*"))
    client = Client(broker, "proxy", "secret")
    client.declare()

    assert [] == client.publish(b"1", user_id="guest")


def test_immediate_ends_the_connection(client):
    client.declare()

    assert [] == client.publish(b"", immediate=True)
    [close] = client.take(0)
    assert ConnectionClose(540, "NOT_IMPLEMENTED - immediate=true", 60, 40) == close


def test_immediate_ends_the_connection_on_a_known_route_too(client):
    client.declare()
    client.publish(b"1")

    client.publish(b"2", immediate=True)

    assert 540 == closed(client.take(0))[0]


# size


@pytest.fixture
def small():
    """A client of a broker that takes messages up to 100 octets."""
    broker = Broker(Limits(max_message_size=100))
    broker.add_defaults()
    return Client(broker)


def test_a_message_that_is_too_large_closes_the_channel(small):
    small.declare()
    small.publish(b"x" * 100)

    [close] = small.publish(b"x" * 101)

    text = "PRECONDITION_FAILED - message size 101 is larger than configured max size 100"
    assert ChannelClose(406, text, 60, 40) == close


def test_the_connection_goes_on_after_a_message_that_is_too_large(small):
    small.declare()
    data = published(b"x" * 300, BasicPublish("", "q"), 1)

    small.feed(data[:60])
    small.feed(data[60:])

    assert 406 == closed(small.take())[0]
    small.send(ChannelCloseOk())
    small.open_channel(1)
    small.publish(b"fits")
    assert [b"fits"] == bodies(small)


# what is delivered


@pytest.mark.parametrize("size", [0, 1, 4088, 131064, 131072, 300_000])
def test_a_body_of_any_size_arrives(client, size):
    client.declare()
    body = (b"0123456789" * (size // 10 + 1))[:size]

    client.publish(body, message_id="m")

    answer = client.call(BasicGet("q", True))
    assert (body, Properties(message_id="m")) == (answer.body, answer.properties)
    assert BasicGetEmpty() == client.call(BasicGet("q", True))


def test_messages_keep_their_order_in_a_turn_that_is_cut(client):
    client.declare()
    client.call(ConfirmSelect())
    method = BasicPublish("", "q")
    expected = [b"%d" % number for number in range(100)]
    session = client.session

    session.receive(b"".join(published(body, method) for body in expected))
    while not session.run(lambda: True):
        client.broker.batch.finish()
    client.broker.batch.finish()

    assert 100 == sum_of_confirms(client.take())
    assert expected == bodies(client)


def sum_of_confirms(acks):
    """Return the last number confirmed; none is left out or repeated."""
    last = 0
    for ack in acks:
        assert ack.delivery_tag > last
        assert ack.multiple or ack.delivery_tag == last + 1
        last = ack.delivery_tag
    return last


def test_a_channel_that_is_reopened_does_not_confirm(client):
    confirming(client)
    client.publish(b"1")
    client.call(ChannelClose())
    client.call(ChannelOpen())

    assert [] == client.publish(b"2")

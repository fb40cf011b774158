"""Deduplication: what is sent twice is there once, and its publisher does not notice."""

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.policy import Policy, PolicyError
from leveret.broker.plugins.deduplication import MOST, WINDOW_MS, window_of
from leveret.broker.plugins.moving import move
from leveret.broker.plugins.passage import Target
from leveret.protocol.methods import (
    BasicAck,
    BasicGet,
    BasicGetEmpty,
    BasicNack,
    BasicPublish,
    BasicReject,
    BasicReturn,
    ChannelClose,
    ConfirmSelect,
    ExchangeBind,
    ExchangeBindOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueuePurge,
    TxCommit,
    TxCommitOk,
    TxRollback,
    TxSelect,
)
from leveret.protocol.properties import Properties

from ..support.client import Client, Received, closed, finish, published

DEDUP = {"x-message-deduplication": True}


def advance(broker: Broker, milliseconds: int) -> None:
    end = broker.now + milliseconds
    timers = broker.timers
    while timers.next is not None and timers.next <= end:
        broker.now = max(broker.now, timers.next)
        timers.run_due(broker.now, lambda: False)
        finish(broker)
    broker.now = end


def queue_of(client: Client, **arguments: object) -> Client:
    """Declare a queue that drops duplicates; the client gets confirms from now on."""
    more = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    answer = client.declare(arguments={**DEDUP, **more})
    assert isinstance(answer, QueueDeclareOk)
    client.call(ConfirmSelect())
    return client


def exchange_of(client: Client, kind: str = "fanout", **arguments: object) -> None:
    """Declare an exchange `x` that drops duplicates, bound to a queue `q`."""
    declare = ExchangeDeclare("x", kind, arguments={**DEDUP, **arguments})
    assert ExchangeDeclareOk() == client.call(declare)
    client.declare()
    assert QueueBindOk() == client.call(QueueBind("q", "x", "k"))


def drain(client: Client, queue: str = "q") -> list[bytes]:
    found = []
    while isinstance(answer := client.call(BasicGet(queue, no_ack=True)), Received):
        found.append(answer.body)
    assert isinstance(answer, BasicGetEmpty)
    return found


def duplicates(owner) -> int:
    return window_of(owner).duplicates


def remembered(owner) -> int:
    return len(window_of(owner))


# What is the same


def test_a_second_message_with_the_same_id_is_confirmed_counted_and_dropped(client, vhost):
    queue_of(client)

    answers = [client.publish(body, message_id="1") for body in (b"first", b"second")]

    assert [[BasicAck(1)], [BasicAck(2)]] == answers
    assert [b"first"] == drain(client)
    assert 1 == duplicates(vhost.queues["q"])


def test_the_header_says_it_before_the_message_id_does(client):
    queue_of(client)

    client.publish(b"1", message_id="1", headers={"x-deduplication-header": "a"})
    client.publish(b"2", message_id="2", headers={"x-deduplication-header": "a"})
    client.publish(b"3", message_id="1", headers={"x-deduplication-header": "b"})

    assert [b"1", b"3"] == drain(client)


def test_a_header_of_another_name_can_say_it(client):
    queue_of(client, deduplication_header="order")

    client.publish(b"1", headers={"order": 7, "other": "x"})
    client.publish(b"2", headers={"other": "y", "order": 7})
    client.publish(b"3", headers={"x-deduplication-header": "7"})
    client.publish(b"4", headers={"x-deduplication-header": "7"})

    assert [b"1", b"3", b"4"] == drain(client)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"message_id": ""},
        {"headers": {}},
        {"headers": {"x-deduplication-header": None}},
        {"headers": {"x-deduplication-header": ""}},
        {"correlation_id": "1", "expiration": "60000"},
    ],
)
def test_a_message_that_does_not_say_who_it_is_is_never_dropped(client, properties):
    queue_of(client)

    client.publish(b"1", **properties)
    client.publish(b"2", **properties)

    assert [b"1", b"2"] == drain(client)


def test_an_empty_header_leaves_it_to_the_message_id(client):
    queue_of(client)

    client.publish(b"1", message_id="1", headers={"x-deduplication-header": None})
    client.publish(b"2", message_id="1")

    assert [b"1"] == drain(client)


def test_ids_are_found_behind_whatever_else_a_message_says(client):
    queue_of(client)
    full = {
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "headers": {"a": [1, "b"], "c": {"d": 1.5}},
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
        "timestamp": 1,
        "type": "t",
        "app_id": "a",
    }

    client.publish(b"1", message_id="1", **full)
    client.publish(b"2", message_id="1")
    client.publish(b"3", message_id="2", **full)

    assert [b"1", b"3"] == drain(client)


def test_duplicates_that_come_in_one_piece_are_found(client):
    queue_of(client)
    method = BasicPublish("", "q")
    pieces = [
        published(body, method, properties=Properties(message_id=identity))
        for body, identity in ((b"1", "1"), (b"2", "1"), (b"3", "2"), (b"4", "1"))
    ]

    client.feed(b"".join(pieces))

    assert [BasicAck(4, True)] == client.take()
    assert [b"1", b"3"] == drain(client)


# For how long, and how many


def test_it_is_remembered_after_the_message_is_gone(client):
    queue_of(client)
    client.publish(b"1", message_id="1")
    drain(client)
    client.publish(b"2", message_id="2")
    client.call(QueuePurge("q"))

    client.publish(b"3", message_id="1")
    client.publish(b"4", message_id="2")

    assert [] == drain(client)


def test_it_is_forgotten_after_the_window_and_not_before(client, broker):
    queue_of(client, deduplication_window=100)
    client.publish(b"1", message_id="1")

    advance(broker, 99)
    client.publish(b"2", message_id="1")
    advance(broker, 1)
    client.publish(b"3", message_id="1")

    assert [b"1", b"3"] == drain(client)


def test_a_duplicate_does_not_make_the_window_longer(client, broker):
    queue_of(client, deduplication_window=100)
    client.publish(b"1", message_id="1")
    advance(broker, 60)
    client.publish(b"2", message_id="1")
    advance(broker, 40)

    client.publish(b"3", message_id="1")

    assert [b"1", b"3"] == drain(client)


def test_the_window_is_ten_minutes_unless_told_otherwise(client, broker, vhost):
    queue_of(client)
    client.publish(b"1", message_id="1")

    advance(broker, WINDOW_MS - 1)
    assert 1 == remembered(vhost.queues["q"])
    advance(broker, 1)
    assert 0 == remembered(vhost.queues["q"])
    assert 600_000 == WINDOW_MS


def test_the_oldest_is_forgotten_when_there_are_too_many(client, vhost):
    queue_of(client, deduplication_size=2)
    for each in "123":
        client.publish(each.encode(), message_id=each)

    client.publish(b"second", message_id="2")
    client.publish(b"first", message_id="1")

    assert [b"1", b"2", b"3", b"first"] == drain(client)
    assert 2 == remembered(vhost.queues["q"])


# What was not accepted


def test_what_a_full_queue_refuses_is_accepted_when_there_is_room(client):
    queue_of(client, max_length=1, overflow="reject-publish")

    assert [BasicAck(1)] == client.publish(b"1", message_id="1")
    assert [BasicNack(2, False, False)] == client.publish(b"2", message_id="2")
    assert [BasicAck(3)] == client.publish(b"3", message_id="1"), "it is there already"
    assert [b"1"] == drain(client)
    assert [BasicAck(4)] == client.publish(b"4", message_id="2")
    assert [b"4"] == drain(client)


def test_a_queue_that_another_one_made_refuse_has_the_message_once(client):
    exchange = ExchangeDeclare("f", "fanout")
    client.call(exchange)
    queue_of(client)
    client.declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    for queue in ("q", "full"):
        client.call(QueueBind(queue, "f"))
    client.publish(b"0", "full")

    refused = client.publish(b"1", "", "f", message_id="1")
    drain(client, "full")
    accepted = client.publish(b"1", "", "f", message_id="1")

    assert ([BasicNack(2, False, False)], [BasicAck(3)]) == (refused, accepted)
    assert [b"1"] == drain(client)
    assert [b"1"] == drain(client, "full")


def test_an_exchange_forgets_what_a_queue_refused(client):
    exchange_of(client)
    client.call(ConfirmSelect())
    client.declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    client.call(QueueBind("full", "x"))
    client.publish(b"0", "full")

    refused = client.publish(b"1", "", "x", message_id="1")
    drain(client, "full")
    accepted = client.publish(b"2", "", "x", message_id="1")

    assert ([BasicNack(2, False, False)], [BasicAck(3)]) == (refused, accepted)
    assert [b"2"] == drain(client, "full")


# Exchanges


def test_an_exchange_swallows_duplicates_for_all_its_queues(client, vhost):
    exchange_of(client)
    client.declare("r")
    client.call(QueueBind("r", "x"))
    client.call(ConfirmSelect())

    answers = [client.publish(body, "", "x", message_id="1") for body in (b"1", b"2")]

    assert [[BasicAck(1)], [BasicAck(2)]] == answers
    assert ([b"1"], [b"1"]) == (drain(client), drain(client, "r"))
    assert 1 == duplicates(vhost.exchanges["x"])


def test_a_duplicate_is_not_returned_though_it_is_mandatory(client):
    exchange_of(client)
    client.publish(b"1", "", "x", message_id="1")

    assert [] == client.publish(b"2", "", "x", message_id="1", mandatory=True)


def test_what_was_returned_may_be_sent_again(client):
    exchange_of(client, "direct")
    client.declare("r")

    [returned, _] = client.publish(b"1", "r", "x", message_id="1", mandatory=True), client.take()
    client.call(QueueBind("r", "x", "r"))
    client.publish(b"2", "r", "x", message_id="1", mandatory=True)

    assert isinstance(returned[0].method, BasicReturn)
    assert [b"2"] == drain(client, "r")


def test_an_exchange_behind_another_one_swallows_for_its_own_queues_only(client):
    exchange_of(client)
    client.call(ExchangeDeclare("front", "fanout"))
    assert ExchangeBindOk() == client.call(ExchangeBind("x", "front"))
    client.declare("r")
    client.call(QueueBind("r", "front"))

    for body in (b"1", b"2"):
        client.publish(body, "", "front", message_id="1")

    assert ([b"1"], [b"1", b"2"]) == (drain(client), drain(client, "r"))


def test_each_queue_and_exchange_has_identities_of_its_own(client):
    queue_of(client)
    client.declare("r", arguments=DEDUP)

    client.publish(b"1", "q", message_id="1")
    client.publish(b"2", "r", message_id="1")

    assert ([b"1"], [b"2"]) == (drain(client), drain(client, "r"))


# Transactions


@pytest.fixture
def transaction(connect) -> Client:
    client = connect()
    client.call(TxSelect())
    return client


def publish_by(client, place, body, message_id="1"):
    exchange, key = ("x", "k") if place == "exchange" else ("", "q")
    client.publish(body, key, exchange, message_id=message_id)


@pytest.fixture(params=["queue", "exchange"])
def place(request, client) -> str:
    if request.param == "queue":
        client.declare(arguments=DEDUP)
    else:
        exchange_of(client)
    return request.param


def test_a_transaction_that_sends_twice_enqueues_once(client, transaction, place):
    for body in (b"1", b"2"):
        publish_by(transaction, place, body)

    assert TxCommitOk() == transaction.call(TxCommit())
    assert [b"1"] == drain(client)


def test_what_was_rolled_back_is_not_remembered(client, transaction, place):
    publish_by(transaction, place, b"1")
    transaction.call(TxRollback())
    publish_by(transaction, place, b"2")
    transaction.call(TxCommit())

    assert [b"2"] == drain(client)


def test_who_commits_first_has_it(client, transaction, place):
    publish_by(transaction, place, b"late")
    publish_by(client, place, b"early")
    publish_by(transaction, place, b"other", "2")

    assert TxCommitOk() == transaction.call(TxCommit())
    assert [b"early", b"other"] == drain(client)


def test_what_a_transaction_could_not_place_may_come_again(client, connect):
    exchange_of(client)
    client.declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    client.call(QueueBind("full", "x"))
    client.publish(b"0", "full")
    transaction = connect()
    transaction.call(TxSelect())
    transaction.publish(b"1", "", "x", message_id="1")

    [refusal] = transaction.send(TxCommit())
    drain(client, "full")
    client.publish(b"2", "", "x", message_id="1")

    assert isinstance(refusal, ChannelClose)
    assert [b"2"] == drain(client, "full")


# With others


def test_a_dead_letter_that_comes_back_is_no_duplicate(client, broker):
    queue_of(client, dead_letter_exchange="", dead_letter_routing_key="wait")
    to_q = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    client.declare("wait", arguments={"x-message-ttl": 10, **to_q})
    client.publish(b"1", message_id="1")
    got = client.call(BasicGet("q"))

    client.send(BasicReject(got.tag, False))
    advance(broker, 10)

    assert [b"1"] == drain(client)


def test_a_dead_letter_is_remembered_where_it_arrives(client):
    queue_of(client)
    client.declare(
        "src", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    )
    client.publish(b"1", "src", message_id="1")
    got = client.call(BasicGet("src"))
    client.send(BasicReject(got.tag, False))

    client.publish(b"2", message_id="1")

    assert [b"1"] == drain(client)


def test_a_dead_letter_that_is_moved_back_is_no_duplicate(client, vhost):
    queue_of(client, dead_letter_exchange="", dead_letter_routing_key="dlq")
    client.declare("dlq")
    client.publish(b"1", message_id="1")
    got = client.call(BasicGet("q"))
    client.send(BasicReject(got.tag, False))

    assert 1 == moved(client, vhost, "dlq", Target(queue="q"))

    assert [b"1"] == drain(client)


def test_what_could_not_be_moved_through_an_exchange_can_be_later(client, vhost):
    exchange_of(client)
    client.declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    client.call(QueueBind("full", "x"))
    client.publish(b"0", "full")
    client.declare("src")
    client.publish(b"1", "src", message_id="1")

    assert 0 == moved(client, vhost, "src", Target(exchange="x"))
    drain(client, "full")

    assert 1 == moved(client, vhost, "src", Target(exchange="x"))
    assert ([b"1"], [b"1"]) == (drain(client), drain(client, "full"))


def moved(client, vhost, queue, target) -> int:
    """Move all messages of a queue; return how many went."""
    told = []
    move(vhost.queues[queue], target, told.append)
    finish(client.broker)
    [what] = told
    return what.done


def test_a_delayed_exchange_that_drops_duplicates_holds_one(client, broker):
    exchange_of(client, "x-delayed-message", **{"x-delayed-type": "fanout"})
    client.publish(b"1", "", "x", message_id="1", headers={"x-delay": 100})
    client.publish(b"2", "", "x", message_id="1")
    client.publish(b"3", "", "x", message_id="1", headers={"x-delay": 200})
    assert [] == drain(client)

    advance(broker, 200)

    assert [b"1"] == drain(client)


def test_a_queue_that_drops_duplicates_drops_delayed_ones_when_they_come(client, broker):
    queue_of(client)
    kind = {"x-delayed-type": "fanout"}
    client.call(ExchangeDeclare("later", "x-delayed-message", arguments=kind))
    client.call(QueueBind("q", "later"))
    for number in (1, 2):
        headers = {"x-delay": 100 * number}
        client.publish(str(number).encode(), "", "later", message_id="1", headers=headers)

    advance(broker, 200)

    assert [b"1"] == drain(client)


def test_an_expired_message_is_still_remembered(client, broker):
    queue_of(client)
    client.publish(b"1", message_id="1", expiration="10")
    advance(broker, 10)

    client.publish(b"2", message_id="1")

    assert [] == drain(client)


# Arguments and policies


@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [
        ("x-message-deduplication", "yes", "expected true or false, got 'yes'"),
        ("x-deduplication-header", "", "expected the name of a header, 1 to 255 octets"),
        ("x-deduplication-header", 5, "got '5'"),
        ("x-deduplication-window", 0, "expected an integer from 1 to 315360000000 (milliseconds)"),
        ("x-deduplication-window", "1m", "got '1m'"),
        ("x-deduplication-size", MOST + 1, "expected an integer from 1 to 1000000, got '1000001'"),
        ("x-deduplication-size", True, "got 'true'"),
    ],
)
def test_a_bad_argument_is_refused_with_its_name_value_and_range(client, argument, value, wanted):
    arguments = {**DEDUP, argument: value}
    client.open_channel(2)

    answers = [
        client.send(ExchangeDeclare("x", "fanout", arguments=arguments)),
        client.send(QueueDeclare("x", arguments=arguments), channel=2),
    ]

    for answer, kind in zip(answers, ("exchange", "queue"), strict=True):
        code, text = closed(answer)
        assert 406 == code
        assert f"invalid arg '{argument}' for {kind} 'x' in vhost '/'" in text
        assert wanted in text


def test_a_redeclared_exchange_must_have_the_same_arguments(client):
    exchange_of(client)

    code, text = closed(client.send(ExchangeDeclare("x", "fanout")))

    assert 406 == code
    assert "inequivalent arg 'x-message-deduplication' for exchange 'x'" in text


def test_a_bad_policy_is_refused_with_key_value_and_range(vhost):
    policy = Policy("p", ".*", {"deduplication-size": 0})

    with pytest.raises(PolicyError) as problem:
        vhost.policies.put(policy)

    assert "policy 'p': 'deduplication-size' is 0, it must be an integer from 1 to 1000000" == str(
        problem.value
    )


def test_a_policy_switches_it_on_and_off(client, vhost):
    exchange = vhost.declare_exchange("x", "fanout")
    client.declare()
    client.call(QueueBind("q", "x"))
    vhost.policies.put(Policy("p", ".*", {"message-deduplication": True}))
    vhost.apply_policies()
    for body in (b"1", b"2"):
        client.publish(body, "", "x", message_id="1")
    assert [b"1"] == drain(client)
    assert [1, 0] == [duplicates(each) for each in (exchange, vhost.queues["q"])]

    vhost.policies.delete("p")
    vhost.apply_policies()
    client.publish(b"3", "", "x", message_id="1")

    assert [b"3"] == drain(client)


def test_a_shorter_window_of_a_policy_counts_at_once(client, broker, vhost):
    queue_of(client)
    client.publish(b"1", message_id="1")
    advance(broker, 1000)
    assert 1 == remembered(vhost.queues["q"])

    vhost.queues["q"].arguments = DEDUP
    vhost.policies.put(Policy("p", ".*", {"deduplication-window": 1000}))
    vhost.apply_policies()
    advance(broker, 0)

    assert 0 == remembered(vhost.queues["q"])


def test_a_queue_that_says_false_drops_nothing(client, vhost):
    client.declare(arguments={"x-message-deduplication": False})

    for body in (b"1", b"2"):
        client.publish(body, message_id="1")

    assert [b"1", b"2"] == drain(client)
    assert [None, None] == [window_of(each) for each in (vhost.queues["q"], vhost.exchanges[""])]

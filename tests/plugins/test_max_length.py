"""Length limits: what is too much goes, or does not come in."""

import pytest

from leveret.broker.core.hooks import Verdict
from leveret.broker.core.policy import PolicyError
from leveret.protocol.methods import (
    BasicAck,
    BasicGet,
    BasicNack,
    BasicReject,
    ConfirmSelect,
    QueueBind,
    QueueDeclare,
    TxCommit,
    TxCommitOk,
    TxSelect,
)

from ..support.client import closed
from ..support.fakes import message
from ..support.policies import set_policy

TO_DLQ = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dlq"}
REFUSES = {"x-overflow": "reject-publish"}


def drain(client, queue="q"):
    found = []
    while hasattr(answer := client.call(BasicGet(queue, True)), "body"):
        found.append(answer.body)
    return found


def test_the_oldest_go_first(client):
    client.declare(arguments={"x-max-length": 2})
    client.publish_many([b"1", b"2", b"3", b"4"])

    assert [b"3", b"4"] == drain(client)


def test_octets_are_those_of_bodies(client):
    client.declare(arguments={"x-max-length-bytes": 5})
    client.publish(b"12", headers={"long": "x" * 100})
    client.publish(b"345")

    assert [b"12", b"345"] == drain(client)
    client.publish_many([b"12", b"345", b"6"])
    assert [b"345", b"6"] == drain(client)


def test_a_message_larger_than_the_limit_drops_everything(client):
    client.declare(arguments={"x-max-length-bytes": 5})
    client.publish_many([b"1", b"2", b"123456"])

    assert [] == drain(client)


def test_what_is_unacknowledged_does_not_count(client):
    client.declare(arguments={"x-max-length": 1})
    client.publish(b"1")
    client.call(BasicGet("q"))
    client.publish(b"2")
    client.send(BasicReject(1, True))

    assert [b"2"] == drain(client), "what came back is the oldest again"


def test_with_a_limit_of_0_messages_pass_to_whoever_is_there(client):
    client.declare(arguments={"x-max-length": 0})
    client.publish(b"1")
    client.consume(prefetch=1)

    assert [b"2"] == [item.body for item in client.publish_many([b"2", b"3"])]
    assert [] == client.ack(1)


def test_what_is_dropped_is_dead_lettered_in_order(client):
    client.declare("dlq")
    client.declare(arguments={"x-max-length": 1} | TO_DLQ)
    client.publish_many([b"1", b"2", b"3"])

    first = client.call(BasicGet("dlq", True))
    assert (b"1", "maxlen") == (first.body, first.properties.headers["x-death"][0]["reason"])
    assert [b"2"] == drain(client, "dlq")


@pytest.mark.parametrize("limit", [{"x-max-length": 2}, {"x-max-length-bytes": 2}])
def test_what_is_refused_is_told_to_a_publisher_who_wants_confirms(client, limit):
    client.declare(arguments=limit | REFUSES)
    client.call(ConfirmSelect())

    answers = client.publish_many([b"1", b"2", b"3"])

    assert [BasicAck(2, True), BasicNack(3, False, False)] == answers
    assert [b"1", b"2"] == drain(client)


def test_what_is_refused_of_messages_with_the_same_headers_is_told_each_time(client):
    client.declare(arguments={"x-max-length": 1} | REFUSES)
    client.call(QueueBind("q", "amq.headers", arguments={"a": 1}))
    client.call(ConfirmSelect())

    answers = [client.publish(b"1", "", "amq.headers", headers={"a": 1}) for _ in range(3)]

    nacks = [[BasicNack(number, False, False)] for number in (2, 3)]
    assert [[BasicAck(1)], *nacks] == answers


def test_mandatory_messages_of_a_known_route_are_refused_each(client):
    client.declare(arguments={"x-max-length": 1} | REFUSES)
    client.call(ConfirmSelect())

    answers = [client.publish(b"1", mandatory=True) for _ in range(3)]

    nacks = [[BasicNack(number, False, False)] for number in (2, 3)]
    assert [[BasicAck(1)], *nacks] == answers


def test_it_is_refused_whether_somebody_waits_for_it_or_not(client):
    client.declare(arguments={"x-max-length": 0} | REFUSES)
    client.consume()
    client.open_channel(2)
    client.call(ConfirmSelect(), 2)

    assert [BasicNack(1, False, False)] == client.publish(b"1", channel=2)
    assert [] == client.take()


@pytest.mark.parametrize(("overflow", "count"), [("reject-publish", 0), ("reject-publish-dlx", 1)])
def test_what_is_refused_is_dead_lettered_only_if_asked_for(client, overflow, count):
    client.declare("dlq")
    client.declare(arguments={"x-max-length": 0, "x-overflow": overflow} | TO_DLQ)
    client.publish(b"1")

    assert (count, 0) == client.counts("dlq")


def test_other_queues_get_what_one_refuses(client, vhost):
    client.declare("full", arguments={"x-max-length": 0} | REFUSES)
    client.declare("free")
    for name in ("full", "free"):
        vhost.bind("amq.fanout", vhost.queue(name), "")
    client.call(ConfirmSelect())

    assert [BasicNack(1, False, False)] == client.publish(b"1", "", "amq.fanout")
    assert [b"1"] == drain(client, "free")


def test_a_transaction_of_which_some_is_refused_says_so(client):
    client.declare(arguments={"x-max-length": 1} | REFUSES)
    client.open_channel(2)
    client.call(TxSelect(), 2)
    client.publish_many([b"1", b"2"], channel=2)

    assert 406 == closed(client.send(TxCommit(), channel=2))[0]
    assert [b"1"] == drain(client)


def test_what_a_large_transaction_has_yet_to_bring_takes_no_room(client, vhost):
    client.declare(arguments={"x-max-length": 1} | REFUSES)
    queue = vhost.queue("q")
    queue.coming = 5000
    (hook,) = queue.admitting

    assert Verdict.ADMIT is hook.admit(message(b"1"))


def test_a_transaction_may_drop_what_is_too_much(client):
    client.declare(arguments={"x-max-length": 1})
    client.call(TxSelect())
    client.publish_many([b"1", b"2"])

    assert TxCommitOk() == client.call(TxCommit())
    assert [b"2"] == drain(client)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-max-length": -1},
        {"x-max-length": "1"},
        {"x-max-length-bytes": -1},
        {"x-overflow": "drop-tail"},
        {"x-overflow": 1},
    ],
)
def test_an_argument_that_means_nothing_is_refused(client, arguments):
    assert 406 == closed(client.send(QueueDeclare("q", arguments=arguments)))[0]


@pytest.mark.parametrize(
    "definition", [{"max-length": -1}, {"max-length-bytes": "1"}, {"overflow": "never"}]
)
def test_a_policy_that_means_nothing_is_refused(vhost, definition):
    with pytest.raises(PolicyError):
        set_policy(vhost, definition)


@pytest.mark.parametrize(("of_argument", "of_policy"), [(1, 3), (3, 1)])
def test_the_smaller_of_argument_and_policy_counts(client, vhost, of_argument, of_policy):
    client.declare(arguments={"x-max-length": of_argument})
    set_policy(vhost, {"max-length": of_policy})
    client.publish_many([b"1", b"2", b"3"])

    assert [b"3"] == drain(client)


def test_of_two_ways_to_overflow_the_argument_counts(client, vhost):
    client.declare(arguments={"x-max-length": 1, "x-overflow": "drop-head"})
    set_policy(vhost, {"overflow": "reject-publish"})
    client.publish_many([b"1", b"2"])

    assert [b"2"] == drain(client)

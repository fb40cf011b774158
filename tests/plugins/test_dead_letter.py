"""Dead-lettering: where messages go that leave their queue without being acknowledged."""

import pytest

from leveret.broker.core.policy import PolicyError
from leveret.broker.testing import advance
from leveret.protocol.methods import (
    BasicGet,
    BasicNack,
    BasicReject,
    QueueDeclare,
    QueueDelete,
    QueuePurge,
    TxCommit,
    TxRollback,
    TxSelect,
)

from ..support.client import closed
from ..support.policies import set_policy

TO_DLQ = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dlq"}


@pytest.fixture
def dlq(client):
    client.declare("dlq")


def dead(client, queue="dlq"):
    """Return bodies and reasons of what has died."""
    found = []
    while hasattr(answer := client.call(BasicGet(queue, True)), "body"):
        found.append((answer.body, answer.properties.headers["x-death"][0]["reason"]))
    return found


@pytest.mark.parametrize("multiple", [False, True])
def test_what_is_rejected_goes_there_in_order(client, dlq, multiple):
    client.declare(arguments=TO_DLQ)
    client.publish_many([b"1", b"2"])
    client.consume()
    if multiple:
        client.send(BasicNack(2, True, False))
    else:
        client.send(BasicReject(1, False), BasicReject(2, False))

    assert [(b"1", "rejected"), (b"2", "rejected")] == dead(client)
    assert (0, 1) == client.counts()


def test_what_is_rejected_in_a_transaction_dies_with_its_commit(client, dlq):
    client.declare(arguments=TO_DLQ)
    client.publish_many([b"1", b"2"])
    client.open_channel(2)
    client.call(TxSelect())
    for _ in range(2):
        client.call(BasicGet("q"))
    client.send(BasicReject(1, False))
    client.call(TxRollback())
    client.send(BasicReject(2, False))

    assert (0, 0) == client.counts("dlq", channel=2)
    client.call(TxCommit())
    assert [(b"2", "rejected")] == dead(client)


@pytest.mark.parametrize("method", [QueuePurge("q"), QueueDelete("q")])
def test_what_is_purged_or_deleted_is_no_dead_letter(client, dlq, method):
    client.declare(arguments=TO_DLQ)
    client.publish(b"1")
    client.call(method)

    assert [] == dead(client)


def test_without_a_key_its_own_counts(client, vhost):
    client.declare("a")
    client.declare("b")
    vhost.bind("amq.direct", vhost.queue("a"), "q")
    vhost.bind("amq.direct", vhost.queue("b"), "other")
    client.declare(arguments={"x-dead-letter-exchange": "amq.direct"})
    client.publish(b"1")
    client.send(BasicReject(client.call(BasicGet("q")).tag, False))

    assert [(b"1", "rejected")] == dead(client, "a")
    assert [] == dead(client, "b")


def test_where_the_exchange_is_not_there_it_is_gone_and_told_of(client, broker):
    told = []
    broker.events.subscribe("dead_letters.lost", lambda **fields: told.append(fields["exchange"]))
    client.declare(arguments={"x-dead-letter-exchange": "nobody"})
    client.publish(b"1")
    client.send(BasicReject(client.call(BasicGet("q")).tag, False))

    assert (["nobody"], (0, 0)) == (told, client.counts())


def test_its_own_expiration_ends_with_it(client, dlq, broker):
    client.declare(arguments=TO_DLQ)
    client.publish(b"1", expiration="10")
    advance(broker, 0.01)
    advance(broker, 1)
    got = client.call(BasicGet("dlq"))

    assert got.properties.expiration is None
    assert "10" == got.properties.headers["x-death"][0]["original-expiration"]


@pytest.mark.parametrize(("reason", "count"), [("rejected", 1), ("expired", 0)])
def test_a_circle_goes_on_only_where_somebody_has_rejected_it(client, broker, reason, count):
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    client.declare(arguments=arguments | ({"x-message-ttl": 10} if reason == "expired" else {}))
    client.publish(b"1")
    if reason == "expired":
        advance(broker, 0.01)
    else:
        client.send(BasicReject(client.call(BasicGet("q")).tag, False))

    assert (count, 0) == client.counts()


def test_a_policy_says_where_to_go_and_the_argument_more_so(client, vhost, dlq):
    client.declare("other")
    client.declare()
    client.declare("r", arguments=TO_DLQ)
    set_policy(vhost, {"dead-letter-exchange": "", "dead-letter-routing-key": "other"}, "^[qr]$")
    for name in ("q", "r"):
        client.publish(b"1", name)
        client.send(BasicReject(client.call(BasicGet(name)).tag, False))

    assert [(b"1", "rejected")] == dead(client, "other")
    assert [(b"1", "rejected")] == dead(client)


def test_a_chain_of_queues_ends_in_the_same_slice(client):
    for number in range(5):
        to = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"q{number + 1}"}
        client.declare(f"q{number}", arguments={"x-max-length": 0} | to)
    client.declare("q5")
    client.publish(b"1", "q0")

    assert [(b"1", "maxlen")] == dead(client, "q5")


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-dead-letter-exchange": 1},
        {"x-dead-letter-routing-key": "k"},
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": 1},
        {"x-dead-letter-exchange": "", "x-dead-letter-strategy": "never"},
    ],
)
def test_an_argument_that_means_nothing_is_refused(client, arguments):
    assert 406 == closed(client.send(QueueDeclare("q", arguments=arguments)))[0]


def test_a_policy_that_means_nothing_is_refused(vhost):
    with pytest.raises(PolicyError):
        set_policy(vhost, {"dead-letter-exchange": 1})

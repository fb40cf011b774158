"""Direct reply-to."""

import pytest

from leveret.protocol.constants import NO_ROUTE
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicDeliver,
    BasicGet,
    BasicReturn,
    ChannelClose,
    ChannelCloseOk,
    ConfirmSelect,
    QueueDeclare,
    QueueDeclareOk,
)

from ..support.client import closed

PSEUDO = "amq.rabbitmq.reply-to"


def ask(client, tag="r", channel=1):
    """Start the reply consumer."""
    return client.send(BasicConsume(PSEUDO, tag, no_ack=True), channel=channel)


@pytest.fixture
def server(connect):
    """A client with a queue of requests, q."""
    made = connect()
    made.declare()
    return made


def address(client, server, **properties):
    """Send a request; return the address it carries."""
    client.publish(b"request", reply_to=PSEUDO, **properties)
    return server.call(BasicGet("q", True)).properties.reply_to


def test_an_answer_goes_to_the_channel_that_asked(client, server):
    assert [BasicConsumeOk("r")] == ask(client)
    reply_to = address(client, server)

    server.publish(b"answer", reply_to, correlation_id="7")

    [answer] = client.take()
    assert BasicDeliver("r", 1, False, "", reply_to) == answer.method
    assert (b"answer", "7") == (answer.body, answer.properties.correlation_id)


def test_a_request_carries_an_address_that_nobody_guesses(client, server):
    ask(client)
    client.open_channel(2)
    ask(client, channel=2)

    first = address(client, server)
    client.publish(b"request", reply_to=PSEUDO, channel=2)
    second = server.call(BasicGet("q", True)).properties.reply_to

    assert first.startswith(PSEUDO + ".")
    assert first != second
    assert len(first) > len(PSEUDO) + 20


def test_a_request_keeps_its_other_properties(client, server):
    ask(client)
    client.publish(b"request", reply_to=PSEUDO, headers={"a": 1}, message_id="m")

    properties = server.call(BasicGet("q", True)).properties

    assert ({"a": 1}, "m") == (properties.headers, properties.message_id)


def test_each_channel_gets_its_own_answers(client, server):
    ask(client)
    client.open_channel(2)
    ask(client, "other", channel=2)
    client.publish(b"request", reply_to=PSEUDO, channel=2)
    reply_to = server.call(BasicGet("q", True)).properties.reply_to

    server.publish(b"answer", reply_to)

    assert ([], [b"answer"]) == (client.bodies(1), client.bodies(2))


def test_a_request_without_a_reply_consumer_closes_the_channel(client, server):
    answer = closed(client.publish(b"request", reply_to=PSEUDO))

    text = "PRECONDITION_FAILED - fast reply consumer does not exist"
    assert (406, text) == answer
    assert (0, 0) == server.counts()


def test_any_other_address_is_left_alone(client, server):
    client.publish(b"request", reply_to="my queue")

    assert "my queue" == server.call(BasicGet("q", True)).properties.reply_to


def test_a_reply_consumer_does_not_acknowledge(client):
    [close] = client.send(BasicConsume(PSEUDO, "r"))

    text = "PRECONDITION_FAILED - reply consumer cannot acknowledge"
    assert ChannelClose(406, text, 60, 20) == close


def test_a_channel_has_one_reply_consumer(client):
    ask(client, "a")

    answer = closed(ask(client, "b"))

    assert (406, "PRECONDITION_FAILED - reply consumer already set") == answer


def test_a_cancelled_reply_consumer_gets_nothing_more(client, server):
    ask(client)
    reply_to = address(client, server)
    assert BasicCancelOk("r") == client.call(BasicCancel("r"))

    assert [] == server.publish(b"answer", reply_to)
    assert [] == client.take()
    assert [BasicConsumeOk("r")] == ask(client)


def test_the_cancel_of_another_consumer_leaves_the_reply_consumer(client, server):
    ask(client)
    client.call(BasicCancel("somebody"))

    server.publish(b"answer", address(client, server))

    assert [b"answer"] == client.bodies()


@pytest.mark.parametrize("end", ["close", "error", "loss"])
def test_an_answer_to_a_channel_that_is_gone_is_dropped(client, server, end):
    ask(client)
    reply_to = address(client, server)
    if end == "close":
        assert ChannelCloseOk() == client.call(ChannelClose())
    elif end == "error":
        client.ack(99)
    else:
        client.lose()

    server.call(ConfirmSelect())
    assert [BasicAck(1)] == server.publish(b"answer", reply_to)
    assert {} == client.broker.reply_channels


def test_a_mandatory_answer_to_a_channel_that_is_gone_comes_back(client, server):
    ask(client)
    reply_to = address(client, server)
    client.call(BasicCancel("r"))

    [returned] = server.publish(b"answer", reply_to, mandatory=True)

    assert BasicReturn(NO_ROUTE, "NO_ROUTE", "", reply_to) == returned.method


def test_a_mandatory_answer_that_arrives_does_not_come_back(client, server):
    ask(client)

    assert [] == server.publish(b"answer", address(client, server), mandatory=True)
    assert [b"answer"] == client.bodies()


def test_many_answers_come_in_order(client, server):
    ask(client)
    reply_to = address(client, server)

    server.publish_many([b"1", b"2", b"3"], reply_to)

    answers = client.take()
    assert [(1, b"1"), (2, b"2"), (3, b"3")] == [(item.tag, item.body) for item in answers]


def test_the_pseudo_queue_looks_like_one_that_is_consumed(client):
    assert QueueDeclareOk(PSEUDO, 0, 1) == client.declare(PSEUDO, passive=True)


def test_an_address_is_found_while_its_channel_is_there(client, server):
    ask(client)
    reply_to = address(client, server)

    assert QueueDeclareOk(reply_to, 0, 1) == server.declare(reply_to, passive=True)
    client.call(BasicCancel("r"))
    assert 404 == closed(server.send(QueueDeclare(reply_to, passive=True)))[0]

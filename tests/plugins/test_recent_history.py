"""Recent history: what passed last, for whoever comes later."""

import pytest

from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.methods import BasicGet, BasicGetEmpty, QueueBind, TxRollback, TxSelect
from leveret.protocol.table import Int8, Timestamp, UInt32

from ..support.client import Received


def declare(vhost, length=None):
    arguments = {} if length is None else {"x-recent-history-length": length}
    return vhost.declare_exchange("x", "x-recent-history", arguments=arguments)


def publish(client, *bodies, exchange="x", **properties):
    for body in bodies:
        client.publish(body, f"key {body.decode()}", exchange, **properties)


def bind(client, queue="q", key="", exchange="x"):
    client.declare(queue)
    client.call(QueueBind(queue, exchange, key))


def drain(client, queue="q"):
    """Return what is in a queue, and take it out."""
    found = []
    while isinstance(answer := client.call(BasicGet(queue, no_ack=True)), Received):
        found.append(answer)
    assert isinstance(answer, BasicGetEmpty)
    return found


def bodies(client, queue="q"):
    return [received.body for received in drain(client, queue)]


def test_a_queue_that_comes_later_gets_the_last_messages_in_order(client, vhost):
    declare(vhost, 3)
    publish(client, b"1", b"2", b"3", b"4", b"5")

    bind(client)

    assert [b"3", b"4", b"5"] == bodies(client)


def test_twenty_messages_are_kept_unless_told_otherwise(client, vhost):
    declare(vhost)
    publish(client, *(b"%d" % number for number in range(25)))

    bind(client)

    assert [b"%d" % number for number in range(5, 25)] == bodies(client)


def test_messages_are_as_they_came(client, vhost):
    declare(vhost)
    publish(client, b"1", message_id="m", headers={"h": 1})

    bind(client)

    [(method, body, properties)] = drain(client)
    assert (b"1", "x", "key 1", False) == (
        body,
        method.exchange,
        method.routing_key,
        method.redelivered,
    )
    assert ("m", {"h": 1}) == (properties.message_id, properties.headers)


def test_messages_pass_to_all_that_is_bound_once(client, vhost):
    declare(vhost)
    bind(client, "one")
    bind(client, "two", "a")
    bind(client, "two", "b")

    publish(client, b"1")

    assert ([b"1"], [b"1"]) == (bodies(client, "one"), bodies(client, "two"))


def test_a_second_binding_gets_them_again_but_the_same_does_not(client, vhost):
    declare(vhost)
    publish(client, b"1")
    bind(client)
    bind(client)

    assert [b"1"] == bodies(client)

    bind(client, key="other")

    assert [b"1"] == bodies(client)


@pytest.mark.parametrize("value", [False, "true", 1])
def test_only_true_keeps_a_message_out(client, vhost, value):
    declare(vhost)
    publish(client, b"1", headers={"x-recent-history-no-store": value})
    publish(client, b"2", headers={"x-recent-history-no-store": True})

    bind(client)

    assert [b"1"] == bodies(client)


def test_a_message_that_is_not_kept_passes(client, vhost):
    declare(vhost)
    bind(client)

    publish(client, b"1", headers={"x-recent-history-no-store": True})

    assert [b"1"] == bodies(client)


def test_what_comes_through_another_exchange_is_kept(client, vhost):
    declare(vhost)
    vhost.bind("amq.fanout", vhost.exchange("x"), "")
    publish(client, b"1", b"2", exchange="amq.fanout")

    bind(client)

    assert ["amq.fanout"] * 2 == [received.method.exchange for received in drain(client)]


def test_an_exchange_that_comes_later_gets_them_by_their_keys(client, vhost):
    declare(vhost)
    client.declare("q")
    vhost.bind("amq.direct", vhost.queue("q"), "key 2")
    vhost.bind("amq.direct", vhost.queue("q"), "copy")
    publish(client, b"1", b"2")
    publish(client, b"3", headers={"BCC": ["copy"]})

    vhost.bind("x", vhost.exchange("amq.direct"), "any")

    assert [b"2", b"3"] == bodies(client)


def test_a_delayed_exchange_keeps_what_was_not_delayed(client, vhost):
    vhost.declare_exchange(
        "x", "x-delayed-message", arguments={"x-delayed-type": "x-recent-history"}
    )
    publish(client, b"1")
    publish(client, b"2", headers={"x-delay": 60_000})

    bind(client)

    assert [b"1"] == bodies(client)


def test_an_exchange_bound_to_itself_comes_to_an_end(client, vhost):
    exchange = declare(vhost)
    publish(client, b"1", b"2")

    vhost.bind("x", exchange, "")

    bind(client)
    assert [b"1", b"2"] * 2 == bodies(client)


def test_what_was_rolled_back_has_passed(client, vhost):
    """As in RabbitMQ: it is routed when it is published."""
    declare(vhost)
    client.call(TxSelect())
    publish(client, b"1")
    client.call(TxRollback())

    bind(client)

    assert [b"1"] == bodies(client)


@pytest.mark.parametrize("value", [1, Int8(3), UInt32(3), 1 << 16])
def test_any_positive_integer_is_a_length(vhost, value):
    assert value == declare(vhost, value).type.history.maxlen


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0, "0"),
        (-1, "-1"),
        ("3", '<<"3">>'),
        (True, "true"),
        (3.0, "3.0"),
        (Timestamp(3), "3"),
        ([1], "[{signedint,1}]"),
    ],
)
def test_any_other_length_is_refused(vhost, value, printed):
    with pytest.raises(PreconditionFailed) as caught:
        declare(vhost, value)

    assert (
        f"Invalid argument {printed}, 'x-recent-history-length' must be a positive integer"
        == caught.value.text
    )


def test_a_length_that_no_memory_holds_is_refused(vhost):
    with pytest.raises(PreconditionFailed, match="must be at most 65536"):
        declare(vhost, 65537)

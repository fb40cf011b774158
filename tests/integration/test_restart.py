"""What is there after a restart, in peace or by kill -9, and what is not.

One broker lives through all tests, on one data directory; each test has names of its own. What
it looks at, it asks for as any client does.
"""

import socket
import time
from collections.abc import Callable
from contextlib import closing
from struct import pack

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from leveret.protocol.methods import BasicConsume, BasicConsumeOk
from leveret.protocol.reader import Contents

from .durability import fixtures
from .durability.broker import Mortal
from .durability.clients import SECONDS, bodies, channel, content, declare, publish, receipt, store
from .durability.link import Link, confirmed_tags, published

MIB = 1 << 20

shared = fixtures.shared
broker = fixtures.broker
restart = fixtures.restart
revive = fixtures.revive
q = fixtures.q
ours = fixtures.ours


# Messages


def test_persistent_messages_in_a_durable_queue_survive_in_order(broker, restart, q):
    expected = [b"%d" % each for each in range(100)]
    declare(broker, q)
    store(broker, q, *expected)

    restart()

    assert [(body, False) for body in expected] == content(broker, q)


def test_they_survive_once_more_with_those_that_came_between(broker, restart, q):
    declare(broker, q)
    for number in range(4):
        store(broker, q, b"%d" % number)
        restart()

    assert [b"0", b"1", b"2", b"3"] == bodies(broker, q)


def test_confirm_means_that_the_message_is_there_whatever_happens_next(broker, revive, q):
    declare(broker, q)
    with channel(broker) as here:
        here.confirm_delivery()
        for number in range(5):
            publish(here, q, b"%d" % number)
        revive()

    assert [b"0", b"1", b"2", b"3", b"4"] == bodies(broker, q)


def test_transient_messages_are_gone_and_leave_order_and_count(broker, restart, q):
    declare(broker, q)
    for number in range(10):
        store(broker, q, b"%d" % number, persistent=number % 2 == 0)

    restart()

    with channel(broker) as here:
        assert 5 == here.queue_declare(q, passive=True).method.message_count
    assert [b"0", b"2", b"4", b"6", b"8"] == bodies(broker, q)


def test_transient_and_exclusive_queues_are_gone_with_what_they_held(broker, revive, q):
    with channel(broker) as here:
        here.confirm_delivery()
        here.queue_declare(f"{q}.transient")
        here.queue_declare(f"{q}.exclusive", durable=True, exclusive=True)
        publish(here, f"{q}.transient", b"persistent")
        publish(here, f"{q}.exclusive", b"persistent")
        revive()

    for name in (f"{q}.transient", f"{q}.exclusive"):
        with channel(broker) as here, pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
            here.queue_declare(name, passive=True)


def test_properties_headers_and_address_are_kept(broker, restart, q):
    headers = {"n": 1, "text": "grün", "nested": {"list": [1, None, True]}}
    given = pika.BasicProperties(
        delivery_mode=2,
        content_type="text/plain",
        headers=headers,
        correlation_id="c",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        app_id="a",
        priority=3,
    )
    declare(broker, q)
    with channel(broker) as here:
        here.confirm_delivery()
        here.queue_bind(q, "amq.topic", "some.key")
        here.basic_publish("amq.topic", "some.key", b"body", given)

    restart()

    with channel(broker) as here:
        method, properties, body = here.basic_get(q)
        assert ("amq.topic", "some.key", b"body") == (method.exchange, method.routing_key, body)
        assert given.__dict__ == properties.__dict__


def test_bodies_of_any_size(broker, restart, q):
    sizes = (0, 1, 131_063, 131_064, MIB - 1, MIB, MIB + 1, 3 * MIB)
    expected = [(b"%d." % size * size)[:size] for size in sizes]
    declare(broker, q)
    store(broker, q, *expected)

    restart()

    assert expected == bodies(broker, q)


@pytest.mark.long
def test_hundred_thousand_messages(broker, revive, q):
    count = 100_000
    declare(broker, q)
    link = Link((broker.host, broker.port), confirms=True)
    for start in range(0, count, 1000):
        link.send(b"".join(published("", q, b"%d" % each) for each in range(start, start + 1000)))
    last = 0
    while last < count:
        last = max([last, *(tag for tag, _ in confirmed_tags(link.read()))])
    link.close()

    revive()

    link = Link((broker.host, broker.port))
    link.call(BasicConsume(q, no_ack=True), BasicConsumeOk)
    taken = 0
    while taken < count:
        for command in link.read():
            assert isinstance(command, Contents)
            for each in command:
                assert (b"%d" % taken, False) == (each.body, each.envelope.method.redelivered)
                taken += 1
    link.close()


# What was settled


def test_acked_messages_do_not_return(broker, revive, q):
    """Those in between do, in their places."""
    declare(broker, q)
    store(broker, q, *(b"%d" % each for each in range(6)))
    with channel(broker) as here:
        here.confirm_delivery()
        tags = [here.basic_get(q)[0].delivery_tag for _ in range(5)]
        here.basic_ack(tags[0])
        here.basic_ack(tags[2])
        here.basic_reject(tags[4], requeue=False)
        receipt(here)
        revive()

    assert [(b"1", True), (b"3", True), (b"5", False)] == content(broker, q)


def test_messages_of_a_consumer_without_acks_do_not_return(broker, revive, q):
    declare(broker, q)
    store(broker, q, b"0", b"1")
    with channel(broker) as here:
        here.confirm_delivery()
        here.basic_get(q, auto_ack=True)
        receipt(here)
        revive()

    assert [b"1"] == bodies(broker, q)


@pytest.mark.long
def test_unacked_messages_return_flagged_and_others_without_a_flag(broker, restart, q):
    declare(broker, q)
    store(broker, q, *(b"%d" % each for each in range(6)))
    with channel(broker) as here:
        here.confirm_delivery()
        here.basic_qos(prefetch_count=3)
        for method, _, _ in here.consume(q, inactivity_timeout=SECONDS):
            if method.delivery_tag == 3:
                break
        receipt(here)
        restart()

    flags = [True, True, True, False, False, False]
    assert [(b"%d" % each, flag) for each, flag in enumerate(flags)] == content(broker, q)


def test_returned_messages_are_where_they_were(broker, revive, q):
    declare(broker, q)
    store(broker, q, *(b"%d" % each for each in range(4)))
    with channel(broker) as here:
        here.confirm_delivery()
        tags = [here.basic_get(q)[0].delivery_tag for _ in range(3)]
        here.basic_nack(tags[1], requeue=True)
        here.basic_ack(tags[0])
        here.basic_reject(tags[2], requeue=True)
        receipt(here)
        revive()

    assert [(b"1", True), (b"2", True), (b"3", False)] == content(broker, q)


def test_messages_of_a_consumer_that_died_before_the_broker(broker, restart, q):
    declare(broker, q)
    store(broker, q, b"0", b"1", b"2")
    with closing(Link((broker.host, broker.port))) as link:
        link.call(BasicConsume(q), BasicConsumeOk)
        taken = 0
        while taken < 3:
            taken += sum(len(each) for each in link.read() if isinstance(each, Contents))
        link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    store(broker, f"{q}.elsewhere", b"after")  # unroutable
    with channel(broker) as here:
        here.confirm_delivery()
        wait_until(lambda: 3 == count(broker, q))
        receipt(here)

    restart()

    assert [(b"0", True), (b"1", True), (b"2", True)] == content(broker, q)


def test_acked_copy_of_a_fanout_is_gone_and_the_others_are_not(broker, revive, q):
    copies = [f"{q}.{each}" for each in range(3)]
    with channel(broker) as here:
        here.confirm_delivery()
        here.exchange_declare(q, "fanout", durable=True)
        for copy in copies:
            here.queue_declare(copy, durable=True)
            here.queue_bind(copy, q)
        here.queue_declare(f"{q}.transient")
        here.queue_bind(f"{q}.transient", q)
        publish(here, "", b"0", b"1", exchange=q)
        here.basic_ack(here.basic_get(copies[1])[0].delivery_tag)
        receipt(here)
        revive()

    assert [[b"0", b"1"], [b"1"], [b"0", b"1"]] == [bodies(broker, copy) for copy in copies]
    store(broker, "", b"2", exchange=q)  # by the same bindings
    assert [b"0", b"1", b"2"] == bodies(broker, copies[2])


def test_body_lives_as_long_as_one_queue_needs_it(broker, revive, q):
    copies = [f"{q}.{each}" for each in range(3)]
    with channel(broker) as here:
        here.confirm_delivery()
        here.exchange_declare(q, "fanout", durable=True)
        for copy in copies:
            here.queue_declare(copy, durable=True)
            here.queue_bind(copy, q)
        publish(here, "", b"body" * 10_000, exchange=q)
        here.queue_purge(copies[0])
        here.queue_delete(copies[1])
        revive()

    assert [b"body" * 10_000] == bodies(broker, copies[2])
    assert [] == bodies(broker, copies[0])


@ours
def test_purge_is_committed_when_it_is_answered(broker, revive, q):
    declare(broker, q)
    store(broker, q, b"0", b"1", b"2")
    with channel(broker) as here:
        here.confirm_delivery()
        kept = here.basic_get(q)[0].delivery_tag
        assert 2 == here.queue_purge(q).method.message_count
        publish(here, q, b"3")
        here.basic_nack(kept)
        receipt(here)
        revive()

    assert [(b"0", True), (b"3", False)] == content(broker, q)


# Transactions


def test_committed_transaction_is_there_and_others_are_not(broker, revive, q):
    declare(broker, q)
    with channel(broker) as here, channel(broker) as other:
        here.tx_select()
        publish(here, q, b"rolled back")
        here.tx_rollback()
        publish(here, q, b"0", b"1")
        here.tx_commit()
        publish(here, q, b"not committed")
        other.tx_select()
        publish(other, q, b"not committed either")
        revive()

    assert [(b"0", False), (b"1", False)] == content(broker, q)


@ours
def test_acks_of_a_transaction_are_committed_with_it(broker, revive, q):
    declare(broker, q)
    store(broker, q, b"0", b"1", b"2")
    with channel(broker) as here:
        here.tx_select()
        here.basic_ack(here.basic_get(q)[0].delivery_tag)
        here.tx_commit()
        here.basic_ack(here.basic_get(q)[0].delivery_tag)
        here.tx_rollback()
        revive()

    assert [b"1", b"2"] == bodies(broker, q)


def test_transaction_over_several_queues(broker, revive, q):
    names = [f"{q}.{each}" for each in range(20)]
    for name in names:
        declare(broker, name)
    with channel(broker) as here:
        here.tx_select()
        for name in names:
            publish(here, name, b"0" * 200_000)
        here.tx_commit()
        revive()

    assert [[b"0" * 200_000]] * 20 == [bodies(broker, name) for name in names]


def count(broker: Mortal, queue: str) -> int:
    with channel(broker) as here:
        return here.queue_declare(queue, passive=True).method.message_count


def wait_until(fulfilled: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not fulfilled():
        assert time.monotonic() < end

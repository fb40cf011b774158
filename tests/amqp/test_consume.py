"""basic.consume, cancel and qos: who gets what, when, and how much."""

import pytest

from leveret.broker.core.broker import Broker, Limits
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicDeliver,
    BasicNack,
    BasicPublish,
    BasicQos,
    BasicQosOk,
    ChannelClose,
    ConnectionClose,
    ConnectionTuneOk,
    QueueBind,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    TxCommit,
    TxCommitOk,
    TxSelect,
)
from leveret.protocol.properties import Properties
from leveret.protocol.writer import method_frame

from ..support.client import Client, Received, closed, published

BOTH_STRATEGIES = True

IN_USE = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"


def numbers(*values):
    return [b"%d" % value for value in values]


def publish(client, *values):
    """Publish in one piece; what is delivered stays to be taken."""
    client.feed(b"".join(published(body, BasicPublish("", "q")) for body in numbers(*values)))


@pytest.fixture
def queue(client):
    """The client, with a queue q that holds 1 to 6."""
    client.declare()
    publish(client, *range(1, 7))
    return client


# deliveries


def test_an_argument_without_effect_warns_once(client, broker):
    told = []
    broker.events.subscribe(
        "argument.ineffective", lambda **fields: told.append(fields["argument"])
    )
    client.declare()
    for tag in ("a", "b"):
        client.call(BasicConsume("q", tag, arguments={"x-consumer-timeout": 60_000}))

    assert ["x-consumer-timeout"] == told


def test_consume_ok_precedes_the_first_delivery(queue):
    first, second, *_ = queue.consume("q", "c")

    deliver = BasicDeliver("c", 1, False, "", "q")
    assert [BasicConsumeOk("c"), Received(deliver, b"1")] == [first, second]


def test_messages_are_delivered_in_order_under_growing_tags(queue):
    _, *deliveries = queue.consume()

    assert numbers(1, 2, 3, 4, 5, 6) == [item.body for item in deliveries]
    assert [1, 2, 3, 4, 5, 6] == [item.tag for item in deliveries]


def test_a_delivery_says_where_the_message_was_published(client):
    client.declare()
    client.call(QueueBind("q", "amq.topic", "a.#"))
    client.consume()

    [delivery] = client.publish(b"x", "a.b", "amq.topic", message_id="m", headers={"h": [1]})

    properties = Properties(message_id="m", headers={"h": [1]})
    assert Received(BasicDeliver("c", 1, False, "amq.topic", "a.b"), b"x", properties) == delivery


def test_a_message_published_on_another_channel_or_connection_arrives(client, connect):
    client.declare()
    client.consume()
    client.open_channel(2)
    connect().publish(b"1")
    client.publish(b"2", channel=2)

    assert numbers(1, 2) == client.bodies()


@pytest.mark.parametrize("size", [4087, 4088, 4089, 4090, 4096, 5000, 20_000])
def test_no_frame_is_larger_than_what_the_consumer_agreed_to(broker, connect, size):
    publisher = connect()
    consumer = connect(tune=ConnectionTuneOk(0, 4096, 60))
    consumer.declare()
    consumer.consume()

    publisher.publish(b"x" * size)

    sizes = list(frame_sizes(consumer.wire.data))
    assert [b"x" * size] == consumer.bodies()
    assert max(sizes) <= 4096


def frame_sizes(data):
    while data:
        size = int.from_bytes(data[3:7]) + 8
        yield size
        data = data[size:]


def test_consume_without_waiting_is_not_answered(queue):
    deliveries = queue.send(BasicConsume("q", "c", no_wait=True))

    assert numbers(1, 2, 3, 4, 5, 6) == [item.body for item in deliveries]


def test_a_consumer_without_a_tag_gets_one(queue):
    answer, *_ = queue.consume("q", "")
    other, *_ = queue.consume("q", "")

    assert answer.consumer_tag.startswith("amq.ctag-")
    assert answer.consumer_tag != other.consumer_tag


def test_an_empty_name_means_the_queue_declared_last(client):
    name = client.declare("").queue

    client.consume("", "c")

    assert (0, 1) == client.counts(name)


# refusals


def test_a_missing_queue_closes_the_channel(client):
    answer = closed(client.consume("missing"))

    assert (404, "NOT_FOUND - no queue 'missing' in vhost '/'") == answer


def test_an_empty_name_without_a_declared_queue_closes_the_channel(client):
    assert (404, "NOT_FOUND - no previously declared queue") == closed(client.consume(""))


def test_a_tag_in_use_ends_the_connection(queue):
    queue.consume("q", "c")

    queue.consume("q", "c")

    [close] = queue.take(0)
    text = "NOT_ALLOWED - attempt to reuse consumer tag 'c'"
    assert ConnectionClose(530, text, 60, 20) == close


def test_another_channel_may_use_the_same_tag(queue):
    queue.consume("q", "c")
    queue.open_channel(2)

    assert [BasicConsumeOk("c")] == queue.consume("q", "c", channel=2)


def test_an_exclusive_consumer_keeps_others_out(queue, connect):
    queue.consume("q", "c", exclusive=True)

    assert (403, IN_USE) == closed(connect().consume())


def test_an_exclusive_consumer_does_not_come_into_a_queue_that_is_consumed(queue, connect):
    queue.consume()

    assert (403, IN_USE) == closed(connect().consume(exclusive=True))


def test_once_the_exclusive_consumer_is_gone_others_may_come(queue, connect):
    queue.consume(exclusive=True)
    queue.call(BasicCancel("c"))

    assert [BasicConsumeOk("c")] == connect().consume()[:1]


def test_only_its_connection_consumes_an_exclusive_queue(client, connect):
    client.declare(exclusive=True)

    assert 405 == closed(connect().consume())[0]


@pytest.mark.parametrize("priority", ["high", True])
def test_a_priority_that_is_no_number_closes_the_channel(queue, priority):
    assert 406 == closed(queue.consume(arguments={"x-priority": priority}))[0]


# prefetch of a consumer


def test_a_prefetch_limits_what_is_unacknowledged(queue):
    _, *deliveries = queue.consume(prefetch=2)

    assert numbers(1, 2) == [item.body for item in deliveries]
    assert numbers(3) == [item.body for item in queue.ack(1)]
    assert numbers(4, 5) == [item.body for item in queue.ack(3, multiple=True)]


def test_each_consumer_has_its_own_window(queue):
    queue.call(BasicQos(0, 2))

    first = queue.consume("q", "a")
    second = queue.consume("q", "b")

    assert numbers(1, 2) == [item.body for item in first[1:]]
    assert numbers(3, 4) == [item.body for item in second[1:]]


def test_a_prefetch_does_not_touch_consumers_that_are_there(queue):
    queue.consume(prefetch=1)

    assert [BasicQosOk()] == queue.send(BasicQos(0, 3))
    assert numbers(2) == [item.body for item in queue.ack(1)]


def test_a_prefetch_of_one_channel_does_not_touch_another(queue):
    queue.call(BasicQos(0, 1))
    queue.open_channel(2)

    assert 6 == len(queue.consume(channel=2)[1:])


def test_no_limit_is_no_limit(queue):
    assert 6 == len(queue.consume(prefetch=0)[1:])


def test_a_consumer_without_acks_is_not_limited(queue):
    assert 6 == len(queue.consume(prefetch=1, no_ack=True)[1:])
    assert (0, 1) == queue.counts()


def test_a_nack_makes_room_too(queue):
    queue.consume(prefetch=1)

    assert numbers(2) == [item.body for item in queue.send(BasicNack(1, requeue=False))]


def test_what_is_full_gets_the_next_publish_after_an_ack(client):
    client.declare()
    client.consume(prefetch=1)
    publish(client, 1, 2)
    assert numbers(1) == client.bodies()

    publish(client, 3)
    assert [] == client.bodies()
    assert numbers(2) == [item.body for item in client.ack(1)]


def test_prefetch_size_ends_the_connection(client):
    client.send(BasicQos(100, 0))

    assert ConnectionClose(540, "NOT_IMPLEMENTED - prefetch_size!=0 (100)", 60, 10) in client.take(
        0
    )


# the window of a channel


def window(client, count):
    return client.send(BasicQos(0, count, True))


def test_consumers_of_a_channel_share_its_window(queue):
    window(queue, 3)

    first = queue.consume("q", "a")
    second = queue.consume("q", "b")

    assert (3, 0) == (len(first[1:]), len(second[1:]))
    assert numbers(4) == [item.body for item in queue.ack(1)]


def test_a_shared_window_is_dealt_out_in_turns(client):
    client.declare()
    window(client, 4)
    client.consume("q", "a")
    client.consume("q", "b")

    publish(client, 1, 2, 3, 4, 5, 6)

    assert ["a", "b", "a", "b"] == [item.method.consumer_tag for item in client.take()]


def test_a_window_holds_for_consumers_that_are_there(client):
    client.declare()
    client.consume()
    window(client, 2)

    publish(client, 1, 2, 3)

    assert numbers(1, 2) == client.bodies()


def test_what_is_unacknowledged_already_counts_in_a_new_window(client):
    client.declare()
    client.consume()
    publish(client, 1, 2, 3)
    client.take()

    window(client, 2)
    publish(client, 4)

    assert [] == client.bodies()
    assert [] == client.ack(1)
    assert numbers(4) == [item.body for item in client.ack(2)]


def test_a_window_that_grows_delivers_at_once(queue):
    window(queue, 2)
    queue.consume()

    assert [BasicQosOk(), b"3", b"4"] == [
        item.body if isinstance(item, Received) else item for item in window(queue, 4)
    ]


def test_a_window_that_shrinks_delivers_nothing_until_there_is_room(queue):
    window(queue, 4)
    queue.consume()

    assert [BasicQosOk()] == window(queue, 1)
    assert [] == queue.ack(3, multiple=True)
    assert numbers(5) == [item.body for item in queue.ack(4)]


def test_a_window_that_is_lifted_delivers_everything(queue):
    window(queue, 1)
    queue.consume()

    assert 6 == len(window(queue, 0))


def test_both_limits_hold_together(queue):
    queue.call(BasicQos(0, 2))
    window(queue, 3)

    first = queue.consume("q", "a")
    second = queue.consume("q", "b")

    assert (2, 1) == (len(first[1:]), len(second[1:]))


def test_a_consumer_without_acks_is_outside_the_window(queue):
    window(queue, 1)

    assert 6 == len(queue.consume(no_ack=True)[1:])


def test_acks_held_by_a_transaction_keep_the_window_full(queue):
    queue.call(TxSelect())
    queue.consume()
    queue.ack(6, multiple=True)
    window(queue, 2)
    queue.call(TxCommit())

    publish(queue, 7, 8, 9)
    answer, *deliveries = queue.send(TxCommit())

    assert TxCommitOk() == answer
    assert numbers(7, 8) == [item.body for item in deliveries]


# turns and priorities


def test_consumers_get_messages_in_turns(client):
    client.declare()
    for tag in "abc":
        client.consume("q", tag)

    publish(client, *range(1, 8))

    assert ["a", "b", "c", "a", "b", "c", "a"] == dealt(client)
    publish(client, 8, 9)
    assert ["b", "c"] == dealt(client)


def dealt(client):
    """Return the consumer tags of what came, in order of the messages."""
    items = sorted(client.take(), key=lambda item: int(item.body))
    return [item.method.consumer_tag for item in items]


def test_turns_go_on_over_single_publishes(client):
    client.declare()
    for tag in "abc":
        client.consume("q", tag)
    for number in range(1, 7):
        publish(client, number)

    assert ["a", "b", "c", "a", "b", "c"] == dealt(client)


def test_a_full_consumer_is_passed_over(client):
    client.declare()
    client.consume("q", "a", prefetch=1)
    client.consume("q", "b", prefetch=3)

    publish(client, 1, 2, 3, 4, 5)

    tags = dealt(client)
    assert (1, 3) == (tags.count("a"), tags.count("b"))
    assert (1, 2) == client.counts()


def test_a_higher_priority_goes_first_as_long_as_it_has_room(client):
    client.declare()
    client.consume("q", "low", prefetch=10)
    client.consume("q", "high", prefetch=2, arguments={"x-priority": 5})

    publish(client, 1, 2, 3)
    assert ["high", "high", "low"] == dealt(client)

    client.ack(1)
    publish(client, 4)
    assert ["high"] == dealt(client)


def test_a_negative_priority_comes_after_none(client):
    client.declare()
    client.consume("q", "last", arguments={"x-priority": -1})
    client.consume("q", "first", prefetch=1)

    publish(client, 1, 2)

    assert ["first", "last"] == dealt(client)


# cancel


def test_nothing_is_delivered_after_cancel_ok(client):
    client.declare()
    client.consume()

    assert BasicCancelOk("c") == client.call(BasicCancel("c"))
    publish(client, 1)
    assert [] == client.take()
    assert (1, 0) == client.counts()


def test_a_cancel_does_not_requeue(queue):
    queue.consume(prefetch=2)
    queue.call(BasicCancel("c"))

    assert (4, 0) == queue.counts()
    queue.ack(2, multiple=True)
    assert [] == queue.take()


def test_an_unknown_tag_is_cancelled_all_the_same(client):
    assert BasicCancelOk("nobody") == client.call(BasicCancel("nobody"))


def test_a_cancel_without_waiting_is_not_answered(queue):
    queue.consume()

    assert [] == queue.send(BasicCancel("c", no_wait=True))
    assert (0, 0) == queue.counts()


def test_a_cancelled_tag_may_be_used_again(queue):
    queue.consume(prefetch=1)
    queue.call(BasicCancel("c"))

    assert [BasicConsumeOk("c"), b"2"] == [
        item.body if isinstance(item, Received) else item for item in queue.consume()
    ]


def test_an_auto_delete_queue_goes_with_its_last_consumer(client):
    client.declare(auto_delete=True)
    client.consume("q", "a")
    client.consume("q", "b")

    client.call(BasicCancel("a"))
    assert (0, 1) == client.counts()
    client.call(BasicCancel("b"))
    assert 404 == closed(client.send(QueueDeclare("q", passive=True)))[0]


def test_an_auto_delete_queue_waits_for_its_first_consumer(client):
    client.declare(auto_delete=True)
    client.open_channel(2)
    client.call(ChannelClose(), 2)

    assert (0, 0) == client.counts()


def test_consumers_are_told_that_their_queue_is_gone(client, connect):
    other = connect()
    client.declare()
    other.consume()

    assert QueueDeleteOk(0) == client.call(QueueDelete("q"))
    assert [BasicCancel("c", True)] == other.take()


def test_a_client_that_would_not_understand_is_not_told(client, connect):
    other = connect(capabilities=())
    client.declare()
    other.consume()

    client.call(QueueDelete("q"))

    assert [] == other.take()


def test_what_came_from_a_deleted_queue_is_still_settled_quietly(queue):
    queue.consume(prefetch=2)
    queue.send(QueueDelete("q"))

    assert [] == queue.ack(1)
    assert [] == queue.send(BasicNack(2, requeue=True))
    assert QueueDeclareOk("q", 0, 0) == queue.declare()


# a lost consumer


def test_what_a_lost_connection_had_comes_back_in_order_marked_as_redelivered(queue, connect):
    other = connect()
    other.consume("q", "c", prefetch=3)
    other.lose()

    _, *deliveries = queue.consume()

    assert numbers(1, 2, 3, 4, 5, 6) == [item.body for item in deliveries]
    assert [True] * 3 + [False] * 3 == [item.method.redelivered for item in deliveries]


def test_a_connection_that_is_lost_hands_its_turn_to_the_others(client, connect):
    other = connect()
    client.declare()
    other.consume("q", "a")
    client.consume("q", "b")
    publish(client, 1, 2)
    assert numbers(2) == client.bodies()

    other.lose()

    assert [(b"1", True)] == [(item.body, item.method.redelivered) for item in client.take()]


# a slow peer


@pytest.fixture
def slow():
    """A client of a broker that lets a peer leave 1000 octets unread."""
    broker = Broker(Limits(outbox_high=1000, outbox_low=100))
    broker.add_defaults()
    return Client(broker)


def test_a_peer_that_does_not_read_gets_no_more_than_it_may_leave_unread(slow):
    slow.declare()
    slow.consume(no_ack=True)
    slow.wire.takes = 0
    for _ in range(10):
        slow.publish(b"x" * 600)

    assert slow.wire.is_writing
    assert slow.session.outbox.size < 3000
    assert slow.broker.vhosts["/"].queue("q").ready_count >= 7


def test_a_peer_that_reads_again_gets_the_rest(slow):
    slow.declare()
    slow.consume(no_ack=True)
    slow.wire.takes = 0
    for number in range(10):
        slow.publish(b"%d" % number * 600)
    slow.wire.takes = None

    slow.session.is_writing = False
    slow.session.flush()
    slow.feed(b"")

    assert [b"%d" % number * 600 for number in range(10)] == slow.bodies()


def test_acks_in_a_row_are_settled_in_one_go(queue):
    queue.consume(prefetch=3)

    queue.feed(b"".join(method_frame(1, BasicAck(tag)) for tag in (1, 3, 2)))

    assert numbers(4, 5, 6) == queue.bodies()

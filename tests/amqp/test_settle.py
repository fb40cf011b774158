"""basic.ack, nack, reject and recover."""

from time import process_time

import pytest

from leveret.broker.amqp.settling import MANY_HOLES, PIECE
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicPublish,
    BasicRecover,
    BasicRecoverAsync,
    BasicRecoverOk,
    BasicReject,
    ChannelClose,
    ChannelCloseOk,
    ConnectionClose,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
)
from leveret.protocol.writer import method_frame

from ..support.client import Received, closed, in_one_slice, published

BOTH_STRATEGIES = True


def numbers(*values):
    return [b"%d" % value for value in values]


def shown(items):
    """Return bodies of deliveries, each with its redelivered flag."""
    return [(item.body, item.method.redelivered) for item in items if isinstance(item, Received)]


@pytest.fixture
def holder(client):
    """A client that holds 1 to 4, under these tags, of a queue that has 5 and 6 left."""
    client.declare()
    client.publish_many(numbers(1, 2, 3, 4, 5, 6))
    client.consume(prefetch=4)
    client.call(BasicCancel("c"))
    return client


def left(client):
    """Return what is ready, in order."""
    client.open_channel(9)
    items = client.consume("q", "left", no_ack=True, channel=9)
    client.call(ChannelClose(), 9)
    return shown(items)


# ack


def test_an_ack_settles_one_message(holder):
    assert [] == holder.ack(2)

    holder.send(BasicRecover(True))
    assert [(b"1", True), (b"3", True), (b"4", True), (b"5", False), (b"6", False)] == left(holder)


def test_an_ack_of_many_settles_all_up_to_it(holder):
    assert [] == holder.ack(3, multiple=True)

    holder.send(BasicRecover(True))
    assert [(b"4", True), (b"5", False), (b"6", False)] == left(holder)


def test_an_ack_of_tag_zero_and_many_settles_everything(holder):
    assert [] == holder.ack(0, multiple=True)
    assert [] == holder.ack(0, multiple=True)

    holder.send(BasicRecover(True))
    assert [(b"5", False), (b"6", False)] == left(holder)


def test_an_ack_of_many_includes_what_get_handed_out(holder):
    holder.call(BasicGet("q"))

    assert [] == holder.ack(5, multiple=True)
    holder.send(BasicRecover(True))
    assert [(b"6", False)] == left(holder)


@pytest.mark.parametrize("count", [50, 3 * MANY_HOLES])
def test_acks_of_many_and_of_one_settle_the_same_in_any_mixture(client, count):
    client.declare()
    client.publish_many([b"x"] * count)
    client.consume()
    channel = client.session.channels[1]

    client.send(*map(BasicAck, range(2, count - 20, 2)))
    client.ack(count - 10, multiple=True)
    assert list(range(count - 9, count + 1)) == list(channel.unacked)

    client.send(BasicAck(count - 5), BasicNack(count - 7, True, False))
    assert [count - 6, *range(count - 4, count + 1)] == list(channel.unacked)
    client.send(BasicAck(count - 4), BasicAck(count, True))
    assert {} == channel.unacked


def test_acks_of_many_do_not_look_at_what_was_settled_before(client):
    """0.02 s; walking over all that was settled, for each, took ten times that."""
    client.declare()
    client.publish_many([b"x"] * 60_000)
    client.consume()
    channel = client.session.channels[1]
    channel.discard(channel.take_row(list(range(1, 50_001))))

    start = process_time()
    for tag in range(50_001, 60_001):
        channel.discard(list(channel.take(tag, True).values()))

    assert process_time() - start < 0.1


@pytest.mark.parametrize("tag", [0, 5 * PIECE])
@pytest.mark.parametrize("make", [BasicAck, lambda *tag: BasicNack(*tag, requeue=False)])
def test_very_many_are_settled_at_once_and_forgotten_later(client, broker, tag, make):
    client.declare()
    client.publish_many([b"x"] * (5 * PIECE + 1))
    client.consume(prefetch=5 * PIECE)
    queue, session = broker.vhosts["/"].queue("q"), client.session

    session.receive(method_frame(1, make(tag, True)))
    session.run(lambda: False)
    assert not session.channels[1].unacked
    assert 5 * PIECE == queue.unacked_count + queue.ready_count - 1

    broker.batch.resume()
    client.feed(b"")
    assert [(b"x", False)] == shown(client.take())
    assert (1, 15) == (queue.unacked_count, queue.bytes)


@pytest.mark.parametrize(
    "method",
    [
        BasicAck(7),
        BasicAck(0),
        BasicAck(7, True),
        BasicNack(7),
        BasicNack(0),
        BasicReject(7),
        BasicReject(0),
    ],
)
def test_an_unknown_tag_closes_the_channel(holder, method):
    [close] = holder.send(method)

    tag = method.delivery_tag
    text = f"PRECONDITION_FAILED - unknown delivery tag {tag}"
    assert ChannelClose(406, text, method.class_id, method.method_id) == close


@pytest.mark.parametrize("multiple", [False, True])
def test_a_tag_is_settled_once(holder, multiple):
    holder.ack(2)

    answer = closed(holder.ack(2, multiple=multiple))

    assert (406, "PRECONDITION_FAILED - unknown delivery tag 2") == answer


def test_a_row_of_acks_settles_up_to_the_unknown_one(holder):
    [close] = holder.send(BasicAck(1), BasicAck(2), BasicAck(9), BasicAck(3))

    text = "PRECONDITION_FAILED - unknown delivery tag 9"
    assert ChannelClose(406, text, 60, 80) == close
    assert [(b"3", True), (b"4", True), (b"5", False), (b"6", False)] == left(holder)


def test_a_row_of_acks_of_several_queues_is_settled_in_each(client):
    for name in "ab":
        client.declare(name)
        client.consume(name, name)
    for name in "abab":
        client.publish(name.encode(), name)
    client.take()

    client.send(*(BasicAck(tag) for tag in (1, 2, 3, 4)))

    queues = client.broker.vhosts["/"].queues
    assert [(0, 0), (0, 0)] == [(queues[name].unacked_count, queues[name].bytes) for name in "ab"]


def test_tags_belong_to_their_channel(holder):
    holder.open_channel(2)

    assert 406 == closed(holder.ack(1, channel=2))[0]


# nack, reject


@pytest.mark.parametrize("method", [BasicNack(2, False, True), BasicReject(2, True)])
def test_a_requeue_puts_a_message_back_where_it_was(holder, method):
    assert [] == holder.send(method)

    assert [(b"2", True), (b"5", False), (b"6", False)] == left(holder)


@pytest.mark.parametrize("method", [BasicNack(2, False, False), BasicReject(2, False)])
def test_what_is_refused_for_good_is_gone(holder, method):
    holder.send(method)

    assert [(b"5", False), (b"6", False)] == left(holder)


def test_a_nack_of_many_requeues_all_up_to_it_in_order(holder):
    holder.send(BasicNack(3, True, True))

    expected = [(b"1", True), (b"2", True), (b"3", True), (b"5", False), (b"6", False)]
    assert expected == left(holder)


def test_a_nack_of_tag_zero_and_many_requeues_everything(holder):
    holder.send(BasicNack(0, True, True))

    assert numbers(1, 2, 3, 4, 5, 6) == [body for body, _ in left(holder)]


def test_requeues_in_any_order_restore_the_order(holder):
    for tag in (3, 1, 4, 2):
        holder.send(BasicReject(tag, True))

    assert numbers(1, 2, 3, 4, 5, 6) == [body for body, _ in left(holder)]


def test_a_requeued_message_comes_before_those_published_since(holder):
    holder.publish(b"7")
    holder.send(BasicReject(4, True))

    assert numbers(4, 5, 6, 7) == [body for body, _ in left(holder)]


def test_a_message_refused_again_is_delivered_again_under_a_new_tag(client):
    client.declare()
    client.publish(b"x")
    _, first = client.consume()

    [second] = client.send(BasicNack(first.tag))
    [third] = client.send(BasicReject(second.tag))

    assert [1, 2, 3] == [item.tag for item in (first, second, third)]
    assert [False, True, True] == [item.method.redelivered for item in (first, second, third)]


def test_a_message_that_a_full_consumer_refuses_goes_to_another(client, connect):
    other = connect()
    client.declare()
    client.consume("q", "a", prefetch=1)
    client.publish_many([b"x", b"y"])
    other.consume("q", "b")

    assert [] == client.send(BasicNack(1))
    assert [(b"x", True)] == shown(other.take())


def test_a_purge_takes_what_was_requeued_and_leaves_what_is_held(holder):
    holder.send(BasicReject(1))

    assert QueuePurgeOk(3) == holder.call(QueuePurge("q"))
    holder.send(BasicRecover(True))
    assert numbers(2, 3, 4) == [body for body, _ in left(holder)]


# recover


def test_recover_redelivers_to_the_same_consumer(client):
    client.declare()
    client.publish_many(numbers(1, 2))
    client.consume()

    answer, *deliveries = client.send(BasicRecover(True))

    assert BasicRecoverOk() == answer
    assert [(b"1", True), (b"2", True)] == shown(deliveries)
    assert [3, 4] == [item.tag for item in deliveries]


def test_recover_async_is_not_answered(holder):
    assert [] == holder.send(BasicRecoverAsync(True))

    assert numbers(1, 2, 3, 4, 5, 6) == [body for body, _ in left(holder)]


def test_recover_with_nothing_held_is_answered(client):
    assert [BasicRecoverOk()] == client.send(BasicRecover(True))


@pytest.mark.parametrize("method", [BasicRecover(False), BasicRecoverAsync(False)])
def test_recover_without_requeue_ends_the_connection(client, method):
    client.send(method)

    text = "NOT_IMPLEMENTED - requeue=false"
    assert [ConnectionClose(540, text, 60, method.method_id)] == client.take(0)


# the end of a channel


def test_a_closed_channel_gives_back_what_it_held(holder):
    assert [ChannelCloseOk()] == holder.send(ChannelClose())

    assert [(body, body < b"5") for body in numbers(1, 2, 3, 4, 5, 6)] == left(holder)


def test_a_failed_channel_gives_back_what_it_held(holder):
    holder.ack(99)

    assert numbers(1, 2, 3, 4, 5, 6) == [body for body, _ in left(holder)]


@pytest.mark.parametrize("no_ack", [False, True])
def test_a_closing_connection_is_dealt_nothing_more(client, connect, no_ack):
    client.declare()
    client.consume("q", "a", no_ack=no_ack)
    client.consume("q", "b", no_ack=no_ack)

    publish = published(b"x", BasicPublish("", "q"))
    client.feed(publish + method_frame(0, ConnectionClose(200, "", 0, 0)))

    assert [] == shown(client.take())
    assert [(b"x", False)] == left(connect())


# Very many at once


MANY = 5 * PIECE


@pytest.fixture
def loaded(client):
    """A client that holds MANY of one more messages, and has no consumer."""
    client.declare()
    client.publish_many(numbers(*range(MANY + 1)))
    client.consume(prefetch=MANY)
    client.call(BasicCancel("c"))
    client.take()
    return client


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (BasicNack(MANY, True, True), 0),
        (BasicNack(0, True, True), 0),
        (BasicNack(MANY - 3, True, True), 3),
        (BasicNack(MANY // 2 + 5, True, True), MANY // 2 - 5),
        (BasicRecover(True), 0),
        (ChannelClose(), 0),
    ],
    ids=repr,
)
def test_very_many_count_at_once_and_come_back_later_in_order(loaded, connect, method, kept):
    queue = loaded.broker.vhosts["/"].queue("q")
    size = queue.bytes

    in_one_slice(loaded, method)
    assert (MANY + 1 - kept, kept, size) == (queue.ready_count, queue.unacked_count, queue.bytes)
    assert loaded.broker.batch.returns

    found = connect().consume("q", "other", no_ack=True)
    expected = [(b"%d" % number, True) for number in range(MANY - kept)]
    assert [*expected, (b"%d" % MANY, False)] == shown(found)
    assert (0, kept) == (queue.ready_count, queue.unacked_count)


def test_nothing_is_dealt_before_the_last_of_very_many_is_back(loaded, connect):
    other = connect()
    other.declare("other")
    in_one_slice(loaded, BasicNack(0, True, True))
    queue = loaded.broker.vhosts["/"].queue("q")
    queue.incoming.append(queue.runs._chunks[0].messages[0])

    in_one_slice(other, BasicConsume("q", "late", no_ack=True))
    for _ in range(MANY // PIECE):
        assert not [item for item in other.take() if isinstance(item, Received)]
        assert MANY + 2 == queue.ready_count
        loaded.broker.batch.resume(lambda: True)
    other.feed(b"")

    bodies = [int(item.body) for item in other.take() if isinstance(item, Received)]
    assert [*range(MANY + 1), MANY] == bodies


@pytest.mark.parametrize("method", [BasicGet("q", True), QueuePurge("q")], ids=repr)
def test_a_get_and_a_purge_wait_until_very_many_are_back(loaded, method):
    assert not in_one_slice(loaded, BasicRecover(True), method)
    assert loaded.session.is_waiting

    loaded.feed(b"")

    ok, answer = loaded.take()
    assert BasicRecoverOk() == ok
    if isinstance(method, BasicGet):
        assert (b"0", True, MANY) == (
            answer.body,
            answer.method.redelivered,
            answer.method.message_count,
        )
    else:
        assert QueuePurgeOk(MANY + 1) == answer


def test_very_many_that_come_back_to_a_deleted_queue_are_gone(loaded):
    queue = loaded.broker.vhosts["/"].queue("q")

    assert in_one_slice(loaded, BasicNack(0, True, True), QueueDelete("q"))
    loaded.feed(b"")

    assert [QueueDeleteOk(MANY + 1)] == loaded.take()
    loaded.declare()
    assert (0, 0, 0) == (queue.bytes, queue.memory, queue.unacked_count)
    assert (0, 0) == loaded.counts()


def test_very_many_of_several_queues_and_consumers_come_back_to_their_own(client):
    queues = []
    for name in "ab":
        client.declare(name)
        queues.append(client.broker.vhosts["/"].queue(name))
        client.consume(name, name)
        client.publish_many(numbers(*range(MANY)), name)
    client.session.receive(method_frame(1, ChannelClose()))
    client.session.run(lambda: False)
    assert [(MANY, 0)] * 2 == [(queue.ready_count, queue.unacked_count) for queue in queues]
    client.feed(b"")
    client.take()

    client.open_channel(1)
    for name in "ab":
        expected = [(b"%d" % number, True) for number in range(MANY)]
        assert expected == shown(client.consume(name, name, no_ack=True))


def test_very_many_of_several_consumers_count_at_once(client):
    client.declare()
    queue = client.broker.vhosts["/"].queue("q")
    for tag in "abc":
        client.consume("q", tag)
    client.publish_many(numbers(*range(MANY)))
    client.take()
    assert MANY == queue.unacked_count

    in_one_slice(client, *map(BasicCancel, "abc"), BasicRecover(True))
    assert (MANY, 0) == (queue.ready_count, queue.unacked_count)
    client.feed(b"")
    client.take()

    expected = [(b"%d" % number, True) for number in range(MANY)]
    assert expected == shown(client.consume("q", "d", no_ack=True))


def test_very_many_that_come_back_give_their_room_back(client):
    client.declare()
    client.publish_many(numbers(*range(MANY)))
    client.consume(prefetch=MANY)
    client.take()

    client.send(BasicNack(0, True, True))

    channel = client.session.channels[1]
    assert (MANY, MANY) == (len(channel.unacked), channel.window_used)
    assert 0 == channel.consumers["c"].credit
    client.send(BasicAck(0, True))
    client.broker.batch.resume()
    assert (0, MANY) == (channel.window_used, channel.consumers["c"].credit)


def test_accounts_return_to_zero(holder):
    queue = holder.broker.vhosts["/"].queue("q")
    assert 6 * (14 + 1) == queue.bytes

    holder.ack(1)
    holder.send(BasicReject(2, False))
    holder.send(BasicNack(3, False, True))
    left(holder)
    holder.ack(4)

    assert (0, 0, 0, 0) == (queue.bytes, queue.memory, queue.unacked_count, queue.ready_count)

"""tx.select, commit and rollback."""

from time import process_time

import pytest

from leveret.broker.amqp import publish as publish_module
from leveret.broker.amqp.transaction import PIECE, Transaction
from leveret.broker.core.message import octets
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicPublish,
    BasicRecover,
    BasicReject,
    ChannelClose,
    ChannelCloseOk,
    ConfirmSelect,
    ConfirmSelectOk,
    QueueDelete,
    QueuePurge,
    TxCommit,
    TxCommitOk,
    TxRollback,
    TxRollbackOk,
    TxSelect,
    TxSelectOk,
)
from leveret.protocol.writer import method_frame

from ..support.client import Received, closed, in_one_slice, published

BOTH_STRATEGIES = True


def numbers(*values):
    return [b"%d" % value for value in values]


@pytest.fixture
def tx(client):
    """A client whose channel 1 is transactional and channel 2 is not; there is a queue q."""
    client.declare()
    client.open_channel(2)
    assert TxSelectOk() == client.call(TxSelect())
    return client


@pytest.fixture
def holder(tx):
    """The same client; channel 1 holds 1, 2 and 3 under these tags."""
    tx.publish_many(numbers(1, 2, 3), channel=2)
    tx.consume(prefetch=10)
    tx.call(BasicCancel("c"))
    return tx


def test_publishes_are_held_until_the_commit(tx):
    tx.publish_many(numbers(1, 2))
    assert (0, 0) == tx.counts(channel=2)

    assert [TxCommitOk()] == tx.send(TxCommit())
    assert (2, 0) == tx.counts(channel=2)


def test_a_commit_of_nothing_is_answered(tx):
    assert [TxCommitOk()] == tx.send(TxCommit())


def test_committed_publishes_keep_their_order_among_queues(tx):
    tx.declare("other")
    for body, key in ((b"1", "q"), (b"2", "other"), (b"3", "q")):
        tx.publish(body, key)
    tx.call(TxCommit())

    found = [tx.call(BasicGet(key, True), 2).body for key in ("q", "q", "other")]
    assert [b"1", b"3", b"2"] == found


def test_committed_messages_are_delivered(tx):
    tx.consume()
    tx.publish_many(numbers(1, 2))

    answer, *deliveries = tx.send(TxCommit())

    assert TxCommitOk() == answer
    assert numbers(1, 2) == [item.body for item in deliveries]


def test_a_rollback_drops_publishes(tx):
    tx.publish_many(numbers(1, 2))

    assert [TxRollbackOk()] == tx.send(TxRollback())
    assert [TxCommitOk()] == tx.send(TxCommit())
    assert (0, 0) == tx.counts(channel=2)


def test_each_commit_starts_anew(tx):
    tx.publish(b"1")
    tx.call(TxCommit())
    tx.publish(b"2")
    tx.call(TxRollback())
    tx.publish(b"3")
    tx.call(TxCommit())

    assert numbers(1, 3) == [tx.call(BasicGet("q", True), 2).body for _ in range(2)]


def test_returns_come_with_the_commit(tx):
    assert [] == tx.publish(b"1", "nowhere", mandatory=True)

    returned, answer = tx.send(TxCommit())

    assert (b"1", TxCommitOk()) == (returned.body, answer)


def test_a_rollback_returns_nothing(tx):
    tx.publish(b"1", "nowhere", mandatory=True)

    assert [TxRollbackOk()] == tx.send(TxRollback())


def test_a_message_whose_queue_is_gone_at_the_commit_comes_back(tx):
    tx.publish(b"1", mandatory=True)
    tx.send(QueueDelete("q"), channel=2)

    returned, answer = tx.send(TxCommit())

    assert (b"1", TxCommitOk()) == (returned.body, answer)


def test_a_message_of_a_known_route_comes_back_if_its_queue_is_gone_at_the_commit(tx):
    tx.publish(b"1", mandatory=True)
    tx.call(TxCommit())
    tx.publish(b"2", mandatory=True)
    tx.publish(b"3")
    tx.send(QueueDelete("q"), channel=2)

    returned, answer = tx.send(TxCommit())

    assert (b"2", TxCommitOk()) == (returned.body, answer)


def test_the_way_of_what_is_held_is_found_once(tx, monkeypatch):
    inner, found = publish_module._find, []

    def find(channel, message, *others):
        found.append(message.body)
        return inner(channel, message, *others)

    monkeypatch.setattr(publish_module, "_find", find)
    for number in range(3):
        tx.publish(b"%d" % number)
    tx.publish(b"h", headers={"h": "a CC"}, reply_to="answers")
    tx.publish(b"c", headers={"CC": ["q"]})
    tx.publish(b"e", expiration="60000")
    tx.call(TxCommit())

    assert [b"0", b"c", b"e"] == found
    assert (6, 0) == tx.counts(channel=2)


def test_a_route_that_is_known_hides_no_copies_of_what_is_held(tx):
    tx.declare("other")
    tx.publish(b"1")
    tx.publish(b"2", headers={"CC": ["other"]})
    tx.call(TxCommit())

    assert (2, 1) == (tx.counts(channel=2)[0], tx.counts("other", channel=2)[0])


def test_a_message_that_is_refused_closes_the_channel_and_drops_the_rest(tx):
    tx.publish(b"1")

    assert 404 == closed(tx.publish(b"2", "k", "missing"))[0]
    assert (0, 0) == tx.counts(channel=2)


# settlements


@pytest.mark.parametrize(
    ("method", "ready"),
    [
        (BasicAck(2), 0),
        (BasicAck(3, True), 0),
        (BasicNack(2, False, True), 1),
        (BasicNack(3, True, True), 3),
        (BasicReject(1, True), 1),
        (BasicReject(1, False), 0),
    ],
)
def test_settlements_are_held_until_the_commit(holder, method, ready):
    queue = holder.broker.vhosts["/"].queue("q")
    holder.send(method)
    assert (0, 3) == (queue.ready_count, queue.unacked_count)

    holder.call(TxCommit())
    settled = 3 if getattr(method, "multiple", False) else 1
    assert (ready, 3 - settled) == (queue.ready_count, queue.unacked_count)


def test_a_rollback_makes_acks_undone_and_requeues_nothing(holder):
    holder.send(BasicAck(1), BasicAck(3))
    holder.call(TxRollback())

    assert (0, 0) == holder.counts(channel=2)
    assert [] == holder.send(BasicAck(3, True))
    holder.call(TxCommit())
    assert 0 == holder.broker.vhosts["/"].queue("q").unacked_count


def test_a_rollback_without_acks_leaves_what_is_unacknowledged_alone(holder):
    """There may be very many."""
    unacked = holder.session.channels[1].unacked
    holder.call(TxRollback())
    assert unacked is holder.session.channels[1].unacked


def test_a_close_puts_back_what_was_acked_in_order_and_sorts_nothing(holder, monkeypatch):
    """What is unacknowledged besides may be very much."""
    holder.send(BasicAck(1), BasicAck(3))
    monkeypatch.delattr(Transaction, "rollback")

    assert [ChannelCloseOk()] == holder.send(ChannelClose())

    queue = holder.broker.vhosts["/"].queue("q")
    assert (3, 0) == (queue.ready_count, queue.unacked_count)
    found = holder.consume("q", "again", no_ack=True, channel=2)
    assert [b"1", b"2", b"3"] == [item.body for item in found if isinstance(item, Received)]


def test_what_is_undone_is_still_in_order_of_its_tags(holder):
    holder.send(BasicAck(1))
    holder.call(TxRollback())

    holder.send(BasicAck(2, True))
    holder.call(TxCommit())
    holder.send(BasicRecover(True))

    assert b"3" == holder.call(BasicGet("q", True), 2).body


def test_a_rollback_restores_the_order_whatever_the_order_of_acks_was(holder):
    holder.send(BasicReject(3, True), BasicAck(2), BasicReject(1, True))

    holder.call(TxRollback())

    assert [1, 2, 3] == list(holder.session.channels[1].unacked)


def test_what_a_rollback_restores_can_be_settled_with_all_before_it(holder):
    holder.ack(2, multiple=True)
    holder.call(TxRollback())

    assert [] == holder.ack(2, multiple=True)

    assert [3] == list(holder.session.channels[1].unacked)


def test_a_rollback_of_an_ack_of_nothing_restores_nothing(tx):
    assert [] == tx.ack(0, multiple=True)

    assert TxRollbackOk() == tx.call(TxRollback())


def test_acks_of_many_do_not_look_at_what_a_transaction_holds(tx):
    """0.01 s; walking over all that it holds, for each, took 26 times that."""
    tx.publish_many([b"x"] * 120_000, channel=2)
    tx.consume()
    channel = tx.session.channels[1]
    tx.send(BasicAck(100_000, True))

    start = process_time()
    for tag in range(100_001, 110_001):
        channel.transaction.hold_settlement(channel.take(tag, True), False)

    assert process_time() - start < 0.2


def test_a_tag_is_settled_once_in_a_transaction(holder):
    holder.ack(1)

    answer = closed(holder.ack(1))

    assert (406, "PRECONDITION_FAILED - unknown delivery tag 1") == answer


def test_a_tag_that_a_commit_has_settled_is_unknown(holder):
    holder.ack(1)
    holder.call(TxCommit())

    assert 406 == closed(holder.ack(1))[0]


def test_acks_make_room_when_they_are_committed(tx):
    tx.publish_many(numbers(1, 2), channel=2)
    tx.consume(prefetch=1)

    assert [] == tx.ack(1)
    answer, delivery = tx.send(TxCommit())
    assert (TxCommitOk(), b"2") == (answer, delivery.body)


def test_recover_leaves_what_is_acked_in_the_transaction(holder):
    holder.ack(1)
    holder.send(BasicRecover(True))
    holder.call(TxCommit())

    assert numbers(2, 3) == [holder.call(BasicGet("q", True), 2).body for _ in range(2)]


@pytest.mark.parametrize("end", ["close", "error", "loss"])
def test_a_channel_that_ends_without_a_commit_undoes_all(holder, connect, end):
    holder.publish(b"4")
    holder.ack(3, multiple=True)

    if end == "close":
        assert ChannelCloseOk() == holder.call(ChannelClose())
    elif end == "error":
        holder.ack(99)
    else:
        holder.lose()

    other = connect()
    assert (3, 0) == other.counts()
    assert [(body, True) for body in numbers(1, 2, 3)] == [
        (item.body, item.method.redelivered) for item in other.consume()[1:]
    ]


def test_a_purge_between_ack_and_commit_changes_nothing(holder):
    holder.ack(1)
    holder.send(QueuePurge("q"), channel=2)

    assert [TxCommitOk()] == holder.send(TxCommit())
    assert 2 == holder.broker.vhosts["/"].queue("q").unacked_count


def test_publishes_and_acks_of_a_deleted_queue_commit_quietly(holder):
    holder.publish(b"4")
    holder.ack(1)
    holder.send(QueueDelete("q"), channel=2)

    assert [TxCommitOk()] == holder.send(TxCommit())


# very many at once

MANY = 4 * PIECE


@pytest.fixture
def loaded(tx):
    """The same client; channel 1 holds MANY, has acked every second, rejected the others."""
    tx.publish_many(numbers(*range(1, MANY + 1)), channel=2)
    tx.consume(prefetch=MANY)
    tx.call(BasicCancel("c"))
    tx.take()
    assert [] == tx.send(*(BasicAck(n) if n % 2 else BasicReject(n) for n in range(1, MANY + 1)))
    return tx


def test_very_many_are_settled_in_pieces_and_nobody_gets_any_before_the_last(loaded, connect):
    batch, queue = loaded.broker.batch, loaded.broker.vhosts["/"].queue("q")
    other = connect()

    assert in_one_slice(loaded, TxCommit())
    assert (MANY // 2, MANY // 2) == (queue.ready_count, queue.unacked_count)
    assert in_one_slice(other, BasicConsume("q", "late", no_ack=True))
    for _ in range(MANY // PIECE + 1):  # one of them ends the acks
        assert not [item for item in other.take() if isinstance(item, Received)]
        assert MANY // 2 == queue.ready_count
        batch.resume(lambda: True)
    other.feed(b"")
    bodies = [int(item.body) for item in other.take() if isinstance(item, Received)]
    assert [*range(2, MANY + 1, 2)] == bodies
    assert (0, 0, 0) == (queue.ready_count, queue.unacked_count, queue.bytes)


@pytest.mark.parametrize("method", [TxRollback(), ChannelClose()], ids=repr)
def test_very_many_settlements_are_undone(loaded, method):
    queue = loaded.broker.vhosts["/"].queue("q")

    loaded.call(method)
    if isinstance(method, TxRollback):
        assert [*range(1, MANY + 1)] == list(loaded.session.channels[1].unacked)
        loaded.send(BasicRecover(True))
        loaded.call(TxCommit())

    assert (MANY, 0) == (queue.ready_count, queue.unacked_count)
    found = loaded.consume("q", "again", no_ack=True, channel=2)
    assert [*range(1, MANY + 1)] == [int(item.body) for item in found[1:]]


def test_very_many_come_back_in_pieces_and_the_commit_is_carried_out_before(tx, connect):
    for body in numbers(*range(2 * PIECE + 1)):
        tx.session.receive(published(body, BasicPublish("", "nowhere", True)))
    tx.publish(b"kept", mandatory=True)
    other = connect()

    returned = []
    transaction = tx.session.channels[1].transaction
    for count, left in ((PIECE, PIECE + 1), (PIECE, 1), (1, 0)):
        is_done = in_one_slice(tx, TxCommit()) if not returned else tx.session.run(lambda: False)
        assert (1, 0) == other.counts()
        assert left == len(transaction.lost)
        assert octets(transaction.lost) == transaction.octets  # they are in memory still
        came = tx.take()
        returned += came[:count]
        assert [TxCommitOk()] * is_done == came[count:]

    assert is_done
    assert numbers(*range(2 * PIECE + 1)) == [item.body for item in returned]
    assert [TxCommitOk()] == tx.send(TxCommit())


def test_a_connection_that_is_lost_while_very_many_come_back_has_committed(tx, connect):
    for _ in range(PIECE + 1):
        tx.session.receive(published(b"", BasicPublish("", "nowhere", True)))
    tx.publish(b"kept")

    assert not in_one_slice(tx, TxCommit())
    tx.lose()

    assert (1, 0) == connect().counts()


def test_messages_of_a_commit_follow_those_that_are_not_dealt_yet(tx):
    def sent(body, channel):
        return published(body, BasicPublish("", "q"), channel)

    commit = method_frame(1, TxCommit())
    tx.feed(
        sent(b"1", 1) + commit + sent(b"2", 2) + sent(b"3", 1) + commit + sent(b"5", 1)
        + sent(b"4", 2) + commit
    )  # fmt: skip

    assert numbers(1, 2, 3, 4, 5) == [tx.call(BasicGet("q", True), 2).body for _ in range(5)]


# modes


def test_select_may_be_repeated_and_drops_nothing(tx):
    tx.publish(b"1")
    assert TxSelectOk() == tx.call(TxSelect())
    tx.call(TxCommit())

    assert (1, 0) == tx.counts(channel=2)


def test_a_transactional_channel_does_not_confirm(tx):
    answer = closed(tx.send(ConfirmSelect()))

    assert (406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode") == answer


def test_a_confirming_channel_is_not_transactional(client):
    assert ConfirmSelectOk() == client.call(ConfirmSelect())

    answer = closed(client.send(TxSelect()))

    assert (406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode") == answer


@pytest.mark.parametrize("method", [TxCommit(), TxRollback()])
def test_without_select_there_is_nothing_to_end(client, method):
    [close] = client.send(method)

    text = "PRECONDITION_FAILED - channel is not transactional"
    assert ChannelClose(406, text, 90, method.method_id) == close


def test_a_commit_in_one_piece_with_its_publishes_carries_them_out(tx):
    data = published(b"1", BasicPublish("", "q")) + method_frame(1, TxCommit())

    tx.feed(data + published(b"2", BasicPublish("", "q")) + method_frame(1, TxRollback()))

    assert [TxCommitOk(), TxRollbackOk()] == tx.take()
    answer = tx.call(BasicGet("q"), 2)
    assert isinstance(answer, Received)
    assert (b"1", 0) == (answer.body, answer.method.message_count)

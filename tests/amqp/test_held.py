"""Held replies: nobody hears of what is not on the disk, and each channel hears in order."""

import pytest

from leveret.broker.amqp import settling, transaction
from leveret.broker.amqp.ending import fail
from leveret.broker.server.committer import GRACE
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.queue_log import QueueLog
from leveret.protocol.errors import InternalError
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicGetEmpty,
    BasicNack,
    BasicQos,
    BasicQosOk,
    BasicRecover,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    ChannelOpenOk,
    ConfirmSelect,
    ConfirmSelectOk,
    ConnectionClose,
    ConnectionCloseOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
    QueueUnbind,
    QueueUnbindOk,
    TxCommit,
    TxCommitOk,
    TxRollback,
    TxSelect,
    TxSelectOk,
)

from ..support.client import Received
from ..support.durable import durable, pass_time

PERSISTENT = {"delivery_mode": 2}
DECLARE = QueueDeclare("q", durable=True)
DECLARED = QueueDeclareOk("q", 0, 0)
CLOSE = ChannelClose(200, "bye", 0, 0)


@pytest.fixture
async def kept():
    """A broker with a durable queue; its store holds all commits from now on."""
    async with durable(MemoryStore()) as made:
        client = made.connect()
        client.send(DECLARE)
        await made.settle()
        made.gate.hold()
        yield made


@pytest.fixture
def client(kept):
    made = kept.connect()
    kept.clients[0].take()
    return made


def shown(items):
    """Replies, with contents as their bodies."""
    return [item.body if isinstance(item, Received) else item for item in items]


async def released(kept, client, channel=1):
    """Let one commit through; return what came on the channel."""
    kept.gate.let_one_through()
    await kept.settle()
    return shown(client.take(channel))


# what waits


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (QueueDeclare("other", durable=True), QueueDeclareOk("other", 0, 0)),
        (QueueDelete("q"), QueueDeleteOk(1)),
        (QueuePurge("q"), QueuePurgeOk(1)),
        (QueueBind("q", "amq.fanout", ""), QueueBindOk()),
        (ExchangeDeclare("e", durable=True), ExchangeDeclareOk()),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_changes_the_store_is_told_after_the_commit(kept, client, method, answer):
    client.publish(b"m", **PERSISTENT)
    kept.gate.let_through()
    await kept.persistence.flush()
    kept.gate.hold()

    assert [] == client.send(method)
    await kept.settle()
    assert [] == client.take()

    assert [answer] == await released(kept, client)


async def test_what_exists_already_is_told_at_once(client):
    assert [DECLARED] == client.send(DECLARE)
    assert [QueueDeclareOk("t", 0, 0)] == client.send(QueueDeclare("t"))


async def test_what_another_channel_is_told_of_waits_for_the_same_commit(kept, client):
    client.open_channel(2)
    client.send(QueueDeclare("other", durable=True))

    assert [] == client.send(QueueDeclare("other", passive=True), channel=2)
    await kept.settle()
    assert [QueueDeclareOk("other", 0, 0)] == await released(kept, client, 2)


async def test_a_channel_without_held_replies_is_not_held_up(kept, client):
    client.open_channel(2)
    client.send(QueueDeclare("other", durable=True))

    assert [BasicQosOk()] == client.send(BasicQos(), channel=2)
    assert [BasicGetEmpty()] == client.send(BasicGet("q"), channel=2)


async def test_replies_of_a_channel_keep_their_order_behind_a_held_one(kept, client):
    methods = [
        QueueDeclare("other", durable=True),
        BasicQos(),
        QueueDeclare("transient"),
        BasicGet("q"),
        QueueBind("other", "amq.fanout", "k"),
        QueueUnbind("other", "amq.fanout", "k"),
    ]
    assert [] == client.send(*methods)
    await kept.settle()
    assert [] == client.take()

    assert [
        QueueDeclareOk("other", 0, 0),
        BasicQosOk(),
        QueueDeclareOk("transient", 0, 0),
        BasicGetEmpty(),
        QueueBindOk(),
        QueueUnbindOk(),
    ] == await released(kept, client)


async def test_only_what_the_commit_has_is_told(kept, client):
    client.send(QueueDeclare("one", durable=True))
    await kept.settle()
    client.send(QueueDeclare("two", durable=True), BasicQos())
    await kept.settle()

    assert [QueueDeclareOk("one", 0, 0)] == await released(kept, client)
    assert [QueueDeclareOk("two", 0, 0), BasicQosOk()] == await released(kept, client)


async def test_a_get_ok_waits_behind_a_declare_ok(kept, client):
    client.publish(b"there")
    client.send(QueueDeclare("other", durable=True), BasicGet("q", no_ack=True), BasicQos())
    await kept.settle()
    assert [] == client.take()

    assert [QueueDeclareOk("other", 0, 0), b"there", BasicQosOk()] == await released(kept, client)


async def test_a_return_waits_behind_a_declare_ok(kept, client):
    client.send(QueueDeclare("other", durable=True))

    assert [] == client.publish(b"nowhere", "nobody", mandatory=True)
    await kept.settle()
    assert [QueueDeclareOk("other", 0, 0), b"nowhere"] == await released(kept, client)


# consumers


async def test_consume_ok_comes_before_the_first_delivery(kept, client):
    client.publish(b"first")
    client.send(QueueDeclare("other", durable=True), BasicConsume("q", "c"))
    client.publish(b"second")
    await kept.settle()
    assert [] == client.take()

    answers = await released(kept, client)

    assert [QueueDeclareOk("other", 0, 0), BasicConsumeOk("c"), b"first", b"second"] == answers


async def test_deliveries_to_a_consumer_that_was_there_pass_held_replies(kept, client):
    client.consume("q", "c")
    client.send(QueueDeclare("other", durable=True))

    assert [b"now"] == shown(client.publish(b"now"))


async def test_a_consumer_that_is_cancelled_before_it_began_gets_nothing(kept, client):
    client.publish(b"m")
    client.send(QueueDeclare("other", durable=True), BasicConsume("q", "c"), BasicCancel("c"))
    await kept.settle()

    assert [
        QueueDeclareOk("other", 0, 0),
        BasicConsumeOk("c"),
        BasicCancelOk("c"),
    ] == await released(kept, client)
    assert (1, 0) == (client.broker.vhosts["/"].queue("q").ready_count, 0)


async def test_consume_ok_keeps_its_place_when_later_replies_wait_for_a_later_commit(kept, client):
    client.publish(b"m")
    client.send(QueueDeclare("one", durable=True))
    await kept.settle()  # its commit is under way
    client.send(BasicConsume("q", "c"), QueueDeclare("two", durable=True))

    assert [QueueDeclareOk("one", 0, 0), BasicConsumeOk("c"), b"m"] == await released(kept, client)


async def test_no_delivery_comes_before_consume_ok(kept, client):
    client.publish(b"m")
    client.send(QueueDeclare("one", durable=True))
    await kept.settle()
    client.send(BasicConsume("q", "c"), QueueDeclare("two", durable=True))
    items = await released(kept, client) + await released(kept, client)

    assert items.index(BasicConsumeOk("c")) < items.index(b"m")


async def test_a_consumer_held_behind_a_reply_is_cancelled_when_its_queue_is_deleted(kept, client):
    other = kept.connect()
    client.send(QueueDeclare("one", durable=True), BasicConsume("q", "c"))
    other.send(QueueDelete("q"))
    kept.gate.let_through()
    await kept.settle()

    assert BasicCancel("c", True) in client.take()


async def test_an_exclusive_consumer_held_behind_a_reply_keeps_others_out(kept, client):
    other = kept.connect()
    client.send(QueueDeclare("one", durable=True), BasicConsume("q", "c", exclusive=True))
    [close] = other.send(BasicConsume("q", "d"))

    assert isinstance(close, ChannelClose)


async def test_an_exclusive_consumer_is_alone_when_it_begins(kept, client):
    other = kept.connect()
    client.send(QueueDeclare("one", durable=True), BasicConsume("q", "c", exclusive=True))
    other.send(BasicConsume("q", "d"))
    kept.gate.let_through()
    await kept.settle()

    assert 1 == kept.broker.vhosts["/"].queue("q").consumer_count


async def test_an_auto_delete_queue_goes_with_a_consumer_that_was_held(kept, client):
    client.send(
        QueueDeclare("auto", durable=True, auto_delete=True),
        BasicConsume("auto", "c"),
        BasicCancel("c"),
    )
    kept.gate.let_through()
    await kept.settle()

    assert "auto" not in kept.broker.vhosts["/"].queues


# confirms


async def test_a_confirm_waits_for_the_commit_of_its_message(kept, client):
    client.send(ConfirmSelect())

    assert [] == client.publish(b"m", **PERSISTENT)
    await kept.settle()
    assert [] == client.take()
    assert [BasicAck(1)] == await released(kept, client)


@pytest.mark.parametrize(
    ("key", "properties"), [("q", {}), ("t", PERSISTENT), ("nobody", PERSISTENT)]
)
async def test_what_is_not_kept_is_confirmed_at_once(kept, client, key, properties):
    client.send(QueueDeclare("t"), ConfirmSelect())

    assert [BasicAck(1)] == client.publish(b"m", key, **properties)


async def test_confirms_of_one_commit_are_one(kept, client):
    client.send(ConfirmSelect())
    for number in range(3):
        client.publish(b"%d" % number, **PERSISTENT)
    await kept.settle()

    assert [BasicAck(3, True)] == await released(kept, client)


async def test_confirms_of_several_commits_come_with_each(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    await kept.settle()
    client.publish(b"b", **PERSISTENT)
    client.publish(b"c", **PERSISTENT)

    assert [BasicAck(1)] == await released(kept, client)
    assert [BasicAck(3, True)] == await released(kept, client)


async def test_a_transient_message_is_not_confirmed_before_a_persistent_one_it_follows(
    kept, client
):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)

    assert [] == client.publish(b"b")
    await kept.settle()
    assert [BasicAck(1), BasicAck(2)] == await released(kept, client)


async def test_a_message_for_several_queues_is_confirmed_when_the_durable_copy_is_kept(
    kept, client
):
    client.send(
        QueueDeclare("t"),
        QueueBind("t", "amq.fanout"),
        QueueBind("q", "amq.fanout"),
        ConfirmSelect(),
    )
    await kept.settle()
    assert ConfirmSelectOk() == (await released(kept, client))[-1]

    assert [] == client.publish(b"m", "", "amq.fanout", **PERSISTENT)
    await kept.settle()
    assert [] == client.take()
    assert [BasicAck(1)] == await released(kept, client)


async def test_tx_commit_ok_waits_for_the_commit(kept, client):
    client.send(TxSelect())
    client.publish(b"m", **PERSISTENT)

    assert [] == client.send(TxCommit())
    await kept.settle()
    assert [] == client.take()
    assert [TxCommitOk()] == await released(kept, client)


def bodies(items):
    return [item.body for item in items if isinstance(item, Received)]


async def test_what_a_tx_has_published_is_delivered_after_its_commit(kept, client):
    other = kept.connect()
    other.consume("q", "c", no_ack=True)
    client.send(TxSelect())
    client.publish(b"kept", **PERSISTENT)
    client.publish(b"transient")
    client.send(TxCommit())
    await kept.settle()
    other.publish(b"behind it")
    await kept.settle()
    assert [] == bodies(other.take())

    assert [b"kept", b"transient", b"behind it"] == bodies(await released_items(kept, other))


async def released_items(kept, client):
    kept.gate.let_one_through()
    await kept.settle()
    return client.take()


async def test_what_was_there_before_a_tx_is_still_delivered(kept, client):
    client.send(QueueDeclare("t"))
    other = kept.connect()
    for number in range(3):
        other.publish(b"%d" % number, "t")
    client.send(TxSelect())
    client.publish(b"m", **PERSISTENT)
    client.publish(b"3", "t")
    client.send(TxCommit())
    await kept.settle()

    found = other.consume("t", "c", no_ack=True)
    assert [b"0", b"1", b"2"] == bodies(found)
    assert [b"3"] == bodies(await released_items(kept, other))


async def test_each_tx_waits_for_its_own_commit(kept, client):
    other = kept.connect()
    other.consume("q", "c", no_ack=True)
    client.send(TxSelect())
    for number in range(2):
        client.publish(b"%d" % number, **PERSISTENT)
        client.send(TxCommit())
        await kept.settle()

    assert [b"0"] == bodies(await released_items(kept, other))
    assert [b"1"] == bodies(await released_items(kept, other))


async def test_a_get_has_what_a_tx_has_published_but_its_answer_waits(kept, client):
    other = kept.connect()
    client.send(TxSelect())
    client.publish(b"m", **PERSISTENT)
    client.send(TxCommit())
    await kept.settle()

    assert [] == other.send(BasicGet("q", no_ack=True))
    assert [] == client.send(BasicGet("q", no_ack=True))

    kept.gate.let_through()
    await kept.settle()
    assert [b"m"] == bodies(other.take())
    assert [TxCommitOk(), BasicGetEmpty()] == client.take()


async def test_each_get_waits_for_the_tx_that_its_message_came_with(mock_clock, kept, client):
    other = kept.connect()
    client.send(TxSelect())
    for number in range(2):
        client.publish(b"%d" % number, **PERSISTENT)
        client.send(TxCommit())
        await kept.settle()
    for _ in range(2):
        other.send(BasicGet("q", no_ack=False))

    assert [b"0"] == bodies(await released_items(kept, other))
    await pass_time(GRACE)  # all of the next has been delivered: it waits for acks
    assert [b"1"] == bodies(await released_items(kept, other))


async def test_nobody_gets_what_a_tx_has_published_when_the_store_fails(kept, client):
    other = kept.connect()
    other.consume("q", "c", no_ack=True)
    client.send(TxSelect())
    client.publish(b"m", **PERSISTENT)
    client.send(TxCommit())
    await kept.settle()

    kept.gate.fail()
    await kept.settle()

    assert [] == bodies(other.take())


async def test_a_queue_is_purged_and_deleted_while_a_tx_waits(kept, client):
    other = kept.connect()
    client.send(TxSelect())
    client.publish(b"m", **PERSISTENT)
    client.send(TxCommit())
    other.send(QueuePurge("q"), QueueDelete("q"))
    kept.gate.let_through()
    await kept.settle()

    assert [QueuePurgeOk(1), QueueDeleteOk(0)] == other.take()
    assert [TxCommitOk()] == client.take()


async def test_what_a_tx_has_published_waits_also_where_it_requeues(kept, client):
    other = kept.connect()
    client.publish(b"old")
    [got] = client.send(BasicGet("q"))
    client.send(TxSelect())
    client.publish(b"new", **PERSISTENT)
    client.send(BasicNack(got.tag), TxCommit())
    await kept.settle()

    assert [b"old"] == bodies(other.consume("q", "c", no_ack=True))
    assert [b"new"] == bodies(await released_items(kept, other))


@pytest.fixture
def large(kept, client, monkeypatch):
    """A client whose channel 1 has begun a transaction that is carried out two messages at a time.

    It has published 0 to 4.
    """
    monkeypatch.setattr(transaction, "PIECE", 2)
    client.send(TxSelect())
    for number in range(5):
        client.publish(b"%d" % number, **PERSISTENT)
    return client


def in_the_middle(kept):
    """Carry out one piece of what is unfinished."""
    kept.broker.batch.resume(lambda: True)
    assert kept.broker.batch.unfinished


async def test_a_large_tx_is_one_commit_and_in_order_with_the_next(kept, large):
    other, begun = kept.connect(), kept.gate.begun
    other.consume("q", "c", no_ack=True)
    large.send(TxCommit())
    large.publish(b"5", **PERSISTENT)
    large.send(TxCommit())
    in_the_middle(kept)
    assert 6 == kept.broker.vhosts["/"].queue("q").ready_count

    await kept.settle()
    assert ([], []) == (large.take(), bodies(other.take()))
    assert begun + 1 == kept.gate.begun

    assert [b"%d" % number for number in range(6)] == bodies(await released_items(kept, other))
    assert [TxCommitOk(), TxCommitOk()] == large.take()


async def test_what_several_queues_get_of_a_large_tx_is_in_order_in_each(kept, client, monkeypatch):
    monkeypatch.setattr(transaction, "PIECE", 4)
    monkeypatch.setattr(transaction, "WIDTH", 2)
    names = [f"q{number}" for number in range(5)]
    kept.gate.let_through()
    client.send(*[QueueDeclare(name, durable=True) for name in names])
    client.send(*[QueueBind(name, "amq.fanout") for name in names], TxSelect())
    await kept.settle()
    client.take()
    sent = [b"%d" % number for number in range(7)]
    for body in sent:
        client.publish(body, "", "amq.fanout", **PERSISTENT)

    client.send(TxCommit())
    await kept.settle()

    assert [TxCommitOk()] == client.take()
    for name in names:
        assert sent == bodies(client.consume(name, name, no_ack=True))


async def test_a_large_tx_is_cut_by_octets_too(kept, large, monkeypatch):
    monkeypatch.setattr(transaction, "PIECE", 4096)
    monkeypatch.setattr(transaction, "PIECE_OCTETS", 40)
    queue = kept.broker.vhosts["/"].queue("q")
    large.publish(bytes(100), **PERSISTENT)

    large.send(TxCommit())
    in_the_middle(kept)
    assert (4, 6) == (queue.coming, queue.ready_count)

    await kept.settle()
    assert [TxCommitOk()] == await released(kept, large)
    assert 6 == queue.ready_count


async def test_a_get_waits_for_a_large_tx_where_there_is_nothing_else(kept, large):
    other = kept.connect()
    large.send(TxCommit())

    other.send(BasicGet("q", no_ack=True))
    assert other.is_waiting
    await kept.settle()
    kept.gate.let_through()
    await kept.settle()

    assert [b"0"] == bodies(other.take())


async def test_a_purge_takes_all_of_a_large_tx(kept, large):
    other = kept.connect()
    large.send(TxCommit())
    in_the_middle(kept)
    other.send(QueuePurge("q"))
    await kept.settle()
    kept.gate.let_through()
    await kept.settle()

    assert [QueuePurgeOk(5)] == other.take()
    assert [TxCommitOk()] == large.take()


async def test_a_queue_is_deleted_in_the_middle_of_a_large_tx(kept, large):
    other = kept.connect()
    large.send(TxCommit())
    in_the_middle(kept)
    other.send(QueueDelete("q"))
    kept.gate.let_through()
    await kept.settle()

    assert [QueueDeleteOk(5)] == other.take()
    assert [TxCommitOk()] == large.take()


async def test_a_large_tx_is_carried_out_though_its_connection_is_lost(kept, large):
    large.send(TxCommit())
    in_the_middle(kept)
    large.lose()
    kept.gate.let_through()
    await kept.settle()

    assert 5 == len(bodies(kept.connect().consume("q", "c", no_ack=True)))


@pytest.fixture
async def holding(kept, client, monkeypatch):
    """A client that holds 0 to 5 in a transaction, which is carried out two at a time."""
    monkeypatch.setattr(settling, "PIECE", 2)
    monkeypatch.setattr(transaction, "PIECE", 2)
    kept.gate.let_through()
    for number in range(6):
        client.publish(b"%d" % number, **PERSISTENT)
    client.consume()
    client.call(BasicCancel("c"))
    client.send(TxSelect())
    await kept.settle()
    client.take()
    kept.gate.hold()
    return client


async def test_what_a_large_tx_puts_back_is_ready_at_once(mock_clock, kept, holding):
    queue = kept.broker.vhosts["/"].queue("q")

    holding.send(BasicNack(6, True, True), TxCommit(), QueueDelete("q", if_empty=True))
    assert kept.broker.batch.unfinished
    assert (6, 0) == (queue.ready_count, queue.unacked_count)
    await kept.settle()
    await pass_time()  # it waits for acks of what has been delivered

    answers = await released_items(kept, holding)
    assert [TxCommitOk, ChannelClose] == [type(item) for item in answers]
    assert (False, 6) == (queue.deleted, queue.ready_count)


@pytest.mark.parametrize("method", [CLOSE, BasicRecover(True)], ids=repr)
async def test_what_comes_back_after_a_large_tx_is_not_dealt_before_it(kept, holding, method):
    other = kept.connect()
    other.consume("q", "late", no_ack=True)

    holding.send(BasicNack(5, True, True), TxCommit(), method)
    assert kept.broker.batch.unfinished
    await kept.settle()

    assert [b"%d" % number for number in range(6)] == bodies(other.take())


async def test_a_fault_in_the_middle_of_a_large_tx_ends_its_connection(kept, large, monkeypatch):
    def fail(log, *, is_shared):
        raise ZeroDivisionError

    monkeypatch.setattr(QueueLog, "pack", fail)
    large.send(TxCommit())
    await kept.settle()

    assert (True, True) == (large.session.is_ended, large.wire.is_closed)


async def test_a_stop_waits_for_a_large_tx(kept, large):
    large.send(TxCommit())

    await kept.stop()

    assert kept.gate.done == kept.gate.begun > 1
    assert [TxCommitOk()] == large.take()


async def test_what_one_ack_settles_is_in_one_commit_however_much_it_is(kept, client, monkeypatch):
    monkeypatch.setattr(settling, "PIECE", 2)
    kept.gate.let_through()
    client.send(ConfirmSelect())
    for number in range(5):
        client.publish(b"%d" % number, **PERSISTENT)
    await kept.settle()
    client.consume()
    await kept.settle()
    log, begun = kept.persistence._journal.logs[1], kept.gate.begun
    assert 5 == sum(segment.live for segment in log.segments)

    client.ack(0, multiple=True)
    in_the_middle(kept)
    assert 0 < sum(segment.live for segment in log.segments) < 5
    kept.connect().send(QueueDeclare("other", durable=True))
    assert begun == kept.gate.begun

    await kept.settle()
    assert begun + 1 == kept.gate.begun
    assert not log.segments
    assert 0 == kept.broker.vhosts["/"].queue("q").unacked_count


async def test_very_many_acks_of_a_tx_are_in_one_commit_with_its_publishes(kept, large):
    log = kept.persistence._journal.logs[1]
    kept.gate.let_through()
    large.send(TxCommit())
    await kept.settle()
    large.consume()
    large.take()
    begun = kept.gate.begun
    assert 5 == sum(segment.live for segment in log.segments)

    large.ack(0, multiple=True)
    large.publish(b"new", **PERSISTENT)
    kept.gate.hold()
    large.send(TxCommit())
    await kept.settle()

    assert begun + 1 == kept.gate.begun
    assert 1 == sum(segment.live for segment in log.segments)
    assert [TxCommitOk(), b"new"] == shown(await released(kept, large))


async def test_a_tx_that_touches_nothing_durable_is_over_at_once(kept, client):
    client.send(QueueDeclare("t"), TxSelect())
    client.publish(b"m", "t", **PERSISTENT)

    assert [TxCommitOk()] == client.send(TxCommit())
    assert [TxCommitOk()] == client.send(TxCommit())


# ends


async def test_a_channels_close_ok_comes_after_its_confirms(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    client.send(CLOSE)
    await kept.settle()
    assert [] == client.take()

    assert [BasicAck(1), ChannelCloseOk()] == await released(kept, client)


async def test_a_channel_may_be_opened_anew_behind_its_close(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    client.send(CLOSE)
    client.send(ChannelOpen(), ConfirmSelect())
    client.publish(b"b", **PERSISTENT)
    await kept.settle()

    answers = await released(kept, client)
    answers += await released(kept, client)

    assert [
        BasicAck(1),
        ChannelCloseOk(),
        ChannelOpenOk(),
        ConfirmSelectOk(),
        BasicAck(1),
    ] == answers


async def test_a_close_without_held_replies_passes_other_channels(kept, client):
    client.open_channel(2)
    client.send(QueueDeclare("other", durable=True))

    assert [ChannelCloseOk()] == client.send(CLOSE, channel=2)


async def test_the_connections_close_ok_comes_after_the_confirms_of_all_channels(kept, client):
    for number in (1, 2, 3):
        if number > 1:
            client.open_channel(number)
        client.send(ConfirmSelect(), channel=number)
        client.publish(b"m", channel=number, **PERSISTENT)
        await kept.settle()
    client.send(ConnectionClose(200, "bye", 0, 0), channel=0)
    await kept.settle()
    order = []
    for _ in range(2):
        kept.gate.let_one_through()
        await kept.settle()
        client._read()
        order += [number for number, _ in client._received]
        client._received.clear()

    assert [1, 2, 3] == sorted(order[:3])
    assert [0] == order[3:]
    assert client.session.is_ended


async def test_a_connection_that_fails_is_closed_after_the_confirms_of_all_channels(kept, client):
    client.open_channel(2)
    for channel in (1, 2):
        client.send(ConfirmSelect(), channel=channel)
        client.publish(b"a", channel=channel, **PERSISTENT)
    assert [] == client.send(BasicAck(7), TxRollback(), channel=9)  # no such channel
    await kept.settle()
    assert [] == client.take()
    kept.gate.let_through()
    await kept.settle()

    client._read()
    heard, client._received = client._received, []
    assert [(1, BasicAck(1)), (2, BasicAck(1))] == sorted(heard[:-1])
    number, close = heard[-1]
    assert (0, 504, ConnectionClose) == (number, close.reply_code, type(close))
    assert [] == client.send(ConnectionCloseOk(), channel=0)
    assert client.session.is_ended


async def test_both_ends_may_close_a_connection_while_its_confirms_are_held(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    client.send(TxRollback(), channel=9)
    client.send(ConnectionClose(200, "", 0, 0), channel=0)
    await kept.settle()
    assert not client.session.is_ended

    assert [BasicAck(1)] == await released(kept, client)
    assert [ConnectionCloseOk()] == client.take(0)
    assert client.session.is_ended


async def test_mistakes_after_the_one_that_closes_do_not_end_it_before_its_confirms(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    client.send(TxRollback(), channel=9)
    client.feed(b"\x09" * 8)  # no frame
    await kept.settle()
    assert not client.session.is_ended

    assert [BasicAck(1)] == await released(kept, client)
    (close,) = client.take(0)
    assert 504 == close.reply_code


async def test_a_fault_of_the_broker_closes_at_once_and_confirms_nothing_after_it(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    await kept.settle()
    fail(client.session, 0, InternalError(""))
    kept.turns.finish()

    (close,) = client.take(0)
    assert 541 == close.reply_code
    assert [] == await released(kept, client)


async def test_a_close_of_a_connection_without_held_replies_is_confirmed_at_once(client):
    assert [ConnectionCloseOk()] == client.send(ConnectionClose(200, "", 0, 0), channel=0)


async def test_a_channel_that_fails_is_closed_after_its_confirms(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    assert [] == client.send(QueueDeclare("nobody", passive=True))
    assert [] == client.send(BasicQos())  # dropped: the channel is closed already
    await kept.settle()

    confirm, close = await released(kept, client)

    assert BasicAck(1) == confirm
    assert (404, ChannelClose) == (close.reply_code, type(close))
    assert [] == client.send(ChannelCloseOk())
    assert [ChannelOpenOk()] == client.send(ChannelOpen())


async def test_both_ends_may_close_a_channel_while_its_confirms_are_held(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    client.send(QueueDeclare("nobody", passive=True))
    client.send(CLOSE)
    await kept.settle()

    confirm, close, close_ok = await released(kept, client)

    assert (BasicAck(1), 404, ChannelCloseOk()) == (confirm, close.reply_code, close_ok)


async def test_a_connection_that_is_lost_leaves_nothing_behind(kept, client):
    client.send(ConfirmSelect())
    client.publish(b"a", **PERSISTENT)
    client.send(QueueDeclare("other", durable=True))
    await kept.settle()
    client.lose()

    assert client.session not in kept.broker.batch.held
    kept.gate.let_through()
    await kept.settle()
    assert b"" == client.wire.data
    assert not kept.broker.batch.held
    assert not kept.broker.batch.confirming
    assert not kept.broker.batch.flushing


async def test_what_a_lost_connection_published_and_declared_stays(kept, client):
    client.publish(b"a", **PERSISTENT)
    client.send(QueueDeclare("other", durable=True))
    client.lose()
    kept.gate.let_through()
    await kept.settle()

    other = kept.connect()
    assert (1, 0) == other.counts("q")
    assert (0, 0) == other.counts("other")


async def test_a_fault_of_one_session_leaves_others_their_replies(kept, client):
    other = kept.connect()
    for one in (client, other):
        one.send(ConfirmSelect())
        one.publish(b"a", **PERSISTENT)
    problems = []
    kept.broker.batch.failed = lambda who, problem: problems.append(who)
    client.session.held._rows[1][0] = (0, 0, lambda: 1 / 0)
    await kept.settle()

    assert [BasicAck(1)] == await released(kept, other)
    assert [client.session] == problems


async def test_without_a_store_nothing_is_held(connect):
    client = connect()
    client.send(ConfirmSelect(), TxSelect())
    client = connect()

    assert [DECLARED, ConfirmSelectOk()] == client.send(DECLARE, ConfirmSelect())
    assert [BasicAck(1)] == client.publish(b"m", **PERSISTENT)
    assert [TxSelectOk()] == connect().send(TxSelect())


async def test_very_many_that_a_tx_requeues_come_back_in_pieces_and_in_its_commit(
    kept, large, monkeypatch
):
    monkeypatch.setattr(settling, "PIECE", 2)
    queue = kept.broker.vhosts["/"].queue("q")
    kept.gate.let_through()
    large.send(TxCommit())
    await kept.settle()
    large.consume()
    large.take()
    other, begun = kept.connect(), kept.gate.begun
    large.send(BasicCancel("c"), BasicNack(0, True, True))
    large.take()
    kept.gate.hold()

    large.send(TxCommit())
    in_the_middle(kept)
    assert (5, 0) == (queue.ready_count, queue.unacked_count)
    assert [] == bodies(other.consume("q", "other"))
    await kept.settle()

    assert begun + 1 == kept.gate.begun
    assert [b"%d" % number for number in range(5)] == bodies(other.take())
    assert [TxCommitOk()] == await released(kept, large)

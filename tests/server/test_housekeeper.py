"""Housekeeper and stop: what the store must have before it is asked, and before the end."""

from leveret.broker.amqp.settling import PIECE
from leveret.broker.storage import compaction, row_builder
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import BasicAck, BasicNack, BasicPublish, QueueDeclare
from leveret.protocol.properties import Properties
from leveret.protocol.writer import method_frame

from ..support.client import published
from ..support.durable import durable, pass_time

PERSISTENT = {"delivery_mode": 2}


async def test_rows_whose_commit_is_under_way_are_not_read_to_be_moved(mock_clock, monkeypatch):
    """Their age is counted from when they were made; the store does not have them yet."""
    monkeypatch.setattr(row_builder, "ROW_SIZE", 400)
    monkeypatch.setattr(compaction, "AGE", 2)
    monkeypatch.setattr(compaction, "LEAST_ROWS", 2)
    async with durable(MemoryStore()) as kept:
        client = kept.connect()
        client.send(QueueDeclare("q", durable=True))
        kept.gate.hold()
        for _ in range(10):
            client.publish(bytes(200), **PERSISTENT)
        await pass_time(1.1)  # the housekeeper looks

        assert not kept.failed.is_set(), kept.persistence.failure


async def test_what_very_many_came_back_is_not_lost_by_a_clean_stop():
    """They come back a piece at a time, and a flush waits for the pieces."""
    store = MemoryStore()
    count = 5 * PIECE
    publish = published(b"m", BasicPublish("", "q"), properties=Properties(delivery_mode=2))
    async with durable(store) as kept:
        client = kept.connect()
        client.send(QueueDeclare("q", durable=True))
        client.feed(publish * count)
        client.consume("q", "c")
        await kept.settle()
        await kept.persistence.flush()
        client.session.receive(method_frame(1, BasicNack(0, multiple=True, requeue=True)))
        client.session.run(lambda: False)
        assert kept.broker.batch.returns
        await kept.persistence.flush()

    async with durable(store) as kept:
        log = kept.broker.vhosts["/"].queue("q").log
        assert dict.fromkeys(range(count), 1) == dict(log.counts)


async def test_an_ack_of_very_many_is_not_lost_by_a_clean_stop():
    """They are forgotten a piece at a time, and a flush does not wait for the pieces."""
    store = MemoryStore()
    publish = published(b"m", BasicPublish("", "q"), properties=Properties(delivery_mode=2))
    async with durable(store) as kept:
        client = kept.connect()
        client.send(QueueDeclare("q", durable=True))
        client.feed(publish * (2 * PIECE))
        client.consume("q", "c")
        await kept.settle()
        await kept.persistence.flush()
        client.send(BasicAck(0, multiple=True))
        await kept.stop()

    async with durable(store) as kept:
        assert (0, 0) == kept.connect().counts("q")

"""Queues: order, requeue, purge, exclusive use, auto-delete, accounts."""

from sys import getrefcount
from time import process_time

import pytest

from leveret.broker.core.message import OVERHEAD
from leveret.broker.core.queue import DEAL_BYTES, DEAL_LIMIT
from leveret.broker.core.runs import CHUNK_LENGTH, octets
from leveret.protocol.errors import AccessRefused, NotFound
from leveret.protocol.properties import Properties

from ..support.client import finish
from ..support.fakes import Target, message, messages

HEADER = 14  # octets of a header without properties


@pytest.fixture
def vhost(broker):
    return broker.vhosts["/"]


@pytest.fixture
def queue(vhost):
    return vhost.declare_queue("q")


def publish(queue, *bodies):
    queue.incoming += messages(*bodies)
    queue.touch()


def drain(queue):
    """Pop everything: position, body, redelivered."""
    found = []
    while (taken := queue.pop()) is not None:
        position, message, redelivered = taken
        found.append((position, message.body, redelivered))
        queue.settle(1, octets((message,)))
    return found


def test_messages_get_positions_in_the_order_they_came(queue):
    publish(queue, 1, 2)
    queue.deal()
    publish(queue, 3)

    assert [(0, b"1", False), (1, b"2", False), (2, b"3", False)] == drain(queue)


def test_what_is_published_counts_before_the_slice_ends(queue):
    publish(queue, 1, 2)

    assert 2 == queue.ready_count


def test_a_consumer_gets_what_is_there_at_the_end_of_the_slice(queue, broker):
    publish(queue, 1, 2)
    target = Target()
    target.consume(queue)

    assert [] == target.got
    finish(broker)
    assert [("c", 0, b"1", False), ("c", 1, b"2", False)] == target.got


def test_what_looks_at_a_queue_sees_it_dealt(queue):
    target = Target()
    target.consume(queue, no_ack=True)
    publish(queue, 1, 2)

    assert 0 == queue.ready_count
    assert [b"1", b"2"] == target.bodies
    publish(queue, 3)
    assert queue.pop() is None


def test_a_requeue_restores_publication_order(queue):
    publish(queue, 1, 2, 3, 4)
    taken = [queue.pop()[:2] for _ in range(3)]

    queue.requeue([taken[2]])
    queue.requeue([taken[0], taken[1]])

    assert [(0, b"1", True), (1, b"2", True), (2, b"3", True), (3, b"4", False)] == drain(queue)


def test_a_requeue_of_many_restores_publication_order(queue):
    publish(queue, *range(100))
    taken = [queue.pop()[:2] for _ in range(50)]

    queue.requeue(taken[::-1])

    assert [b"%d" % number for number in range(100)] == [body for _, body, _ in drain(queue)]


def test_a_few_return_to_very_many_in_no_time(queue):
    """0.003 s; making a heap of all of them anew for each nine took seconds."""
    one = message(b"x")
    queue.requeue([(position, one) for position in range(20_000, 120_000)])

    start = process_time()
    for position in range(0, 9000, 9):
        queue.requeue([(position + each, one) for each in range(9)])

    assert process_time() - start < 0.5
    found = [queue.pop()[0] for _ in range(9001)]
    assert [*range(9000), 20_000] == found


def test_a_requeue_comes_before_what_is_incoming(queue):
    publish(queue, 1)
    taken = queue.pop()[:2]
    publish(queue, 2)
    queue.requeue([taken])

    assert [(0, b"1", True), (1, b"2", False)] == drain(queue)


def test_positions_are_not_reused(queue):
    publish(queue, 1)
    drain(queue)
    publish(queue, 2)
    queue.purge()
    publish(queue, 3)

    assert [2] == [position for position, _, _ in drain(queue)]


def test_a_purge_counts_what_is_ready(queue):
    publish(queue, 1, 2, 3)
    held = queue.pop()[:2]
    back = queue.pop()[:2]
    queue.requeue([back])

    assert 2 == queue.purge()
    assert (0, 1) == (queue.ready_count, queue.unacked_count)
    queue.requeue([held])
    assert [(0, b"1", True)] == drain(queue)


def test_more_than_one_go_is_dealt_over_several_slices(queue, broker):
    count = 3 * DEAL_LIMIT + 5
    queue.incoming += messages(b"x") * count
    queue.touch()
    target = Target()
    target.consume(queue, no_ack=True)

    broker.batch.finish()
    first = len(target.got)
    finish(broker)

    assert 0 < first < count
    assert list(range(count)) == [position for _, position, _, _ in target.got]


def test_a_large_backlog_of_large_messages_is_dealt_a_piece_at_a_time(queue, broker):
    publish(queue, *([bytes(100_000)] * 200))
    assert 200 == queue.ready_count
    target = Target()
    target.limit = 15
    target.consume(queue, no_ack=True)

    finish(broker)

    assert len(target.got) < 40


class Slow(Target):
    """Reads nothing: what was sent to it takes its room."""

    def room(self, consumer):
        return DEAL_LIMIT if sum(map(len, self.bodies)) < DEAL_BYTES else 0

    def deliver(self, consumer, positions, messages, redelivered):
        for position, each in zip(positions, messages, strict=True):
            self.got.append((consumer.tag, position, each.body, redelivered))


def test_large_messages_in_front_of_many_small_ones_are_dealt_one_at_a_time(queue, broker):
    """The mean of the sizes says nothing of those in front."""
    publish(queue, *([bytes(DEAL_BYTES)] * 5), *([b"x"] * 5000))
    assert 5005 == queue.ready_count
    target = Slow()
    target.consume(queue, no_ack=True)

    finish(broker)

    assert 1 == len(target.got)


@pytest.mark.parametrize("count", [1, 10])
def test_octets_are_limited_however_many_consumers_there_are(queue, broker, count):
    publish(queue, *([bytes(DEAL_BYTES // 4)] * 20))
    assert 20 == queue.ready_count
    target = Slow()
    for number in range(count):
        target.consume(queue, f"c{number}", no_ack=True)

    finish(broker)

    assert 4 <= len(target.got) <= 6


# accounts


def test_accounts_follow_every_way_a_message_can_go(queue, broker):
    target = Target()
    publish(queue, b"four", b"sixsix")
    assert (2, 10 + 2 * HEADER) == (queue.ready_count, queue.bytes)

    target.consume(queue, prefetch_count=1)
    finish(broker)
    assert (1, 1, 10 + 2 * HEADER) == (queue.ready_count, queue.unacked_count, queue.bytes)

    target.requeue()
    finish(broker)
    assert (1, 1, 10 + 2 * HEADER) == (queue.ready_count, queue.unacked_count, queue.bytes)

    target.ack()
    finish(broker)
    assert (0, 1, 6 + HEADER) == (queue.ready_count, queue.unacked_count, queue.bytes)
    target.ack()
    assert (0, 0, 0) == (queue.ready_count, queue.unacked_count, queue.bytes)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("no_ack", [False, True])
def test_accounts_are_empty_once_everything_is_gone(queue, broker, stored, no_ack):
    target = Target()
    if stored:
        publish(queue, b"four", b"")
        queue.deal()
    target.consume(queue, no_ack=no_ack)
    publish(queue, b"x" * 1000)
    finish(broker)
    target.ack()

    assert (0, 0, 0) == (queue.bytes, queue.memory, queue.unacked_count)


def test_returned_messages_leave_the_accounts_without_acks(queue, broker):
    publish(queue, b"four")
    taken = queue.pop()[:2]
    queue.requeue([taken])
    Target().consume(queue, no_ack=True)
    finish(broker)

    assert (0, 0) == (queue.bytes, queue.memory)


def test_memory_is_headers_and_bodies_and_what_each_message_costs(queue):
    publish(queue, b"four", b"sixsix")
    queue.deal()
    queue.pop()

    assert 10 + 2 * (HEADER + OVERHEAD) == queue.memory


def test_large_headers_count(queue):
    large = message(b"x", properties=Properties(headers={"h": "y" * 100_000}))
    queue.incoming.append(large)
    queue.deal()

    assert 100_000 < large.header_size + 1 == queue.bytes


def test_a_purge_leaves_the_octets_of_what_is_unacked(queue):
    publish(queue, b"four", b"sixsix", b"x")
    queue.pop()
    back = queue.pop()[:2]
    queue.requeue([back])

    queue.purge()

    assert 4 + HEADER == queue.bytes


@pytest.mark.parametrize("end", ["purge", "delete"])
def test_many_messages_are_gone_at_once_and_freed_later(queue, broker, end):
    one = message(b"x")
    queue.incoming += [one] * (3 * CHUNK_LENGTH)
    taken = [queue.pop()[:2] for _ in range(CHUNK_LENGTH)]
    queue.requeue(taken)
    taken.clear()
    before = getrefcount(one)

    getattr(queue, end)()
    assert (0, 0, 0) == (queue.ready_count, queue.bytes, queue.memory)
    assert getrefcount(one) == before

    broker.batch.resume(lambda: True)
    assert before - CHUNK_LENGTH <= getrefcount(one) < before
    broker.batch.resume()
    assert before - 3 * CHUNK_LENGTH == getrefcount(one)


# exclusive use, the last consumer, deletion


def test_an_exclusive_consumer_is_alone(queue):
    target = Target()
    target.consume(queue, exclusive=True)

    for exclusive in (False, True):
        with pytest.raises(AccessRefused, match="queue 'q' in vhost '/' in exclusive use"):
            queue.check_consumer(exclusive)


def test_an_exclusive_consumer_does_not_join(queue):
    Target().consume(queue)

    queue.check_consumer(False)
    with pytest.raises(AccessRefused):
        queue.check_consumer(True)


def test_an_auto_delete_queue_goes_with_its_last_consumer(vhost):
    queue = vhost.declare_queue("auto", auto_delete=True)
    first, second = Target().consume(queue), Target().consume(queue)

    queue.remove_consumer(first)
    assert not queue.deleted
    queue.remove_consumer(second)
    assert queue.deleted
    with pytest.raises(NotFound):
        vhost.queue("auto")


def test_a_deleted_queue_cancels_its_consumers_and_forgets_what_it_had(queue, vhost, broker):
    target = Target()
    target.consume(queue, "a", prefetch_count=1)
    target.consume(queue, "b", prefetch_count=1)
    publish(queue, 1, 2, 3)

    assert 1 == vhost.delete_queue(queue)
    assert ["a", "b"] == target.cancellations
    assert 0 == queue.consumer_count
    target.requeue()
    finish(broker)
    assert (0, 0) == (queue.ready_count, queue.unacked_count)


def test_a_consumer_that_left_gets_nothing(queue, broker):
    target = Target()
    consumer = target.consume(queue)
    queue.remove_consumer(consumer)
    queue.remove_consumer(consumer)
    publish(queue, 1)
    finish(broker)

    assert ([], 1) == (target.got, queue.ready_count)


def test_what_was_published_before_a_consumer_left_is_still_its(queue):
    target = Target()
    consumer = target.consume(queue)
    publish(queue, 1)

    queue.remove_consumer(consumer)

    assert [b"1"] == target.bodies


def test_a_queue_shows_its_name(queue):
    assert "<Queue 'q' in '/'>" == repr(queue)

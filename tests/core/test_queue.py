"""Queues: order, requeue, purge, exclusive use, auto-delete, accounts."""

from itertools import count
from sys import getrefcount
from time import process_time

import pytest

from leveret.broker.core import paging
from leveret.broker.core.checks import check_consumer
from leveret.broker.core.chunks import Paged
from leveret.broker.core.consumer import DEAL_LIMIT
from leveret.broker.core.message import OVERHEAD, absent, octets
from leveret.broker.core.paging import page_out
from leveret.broker.core.queue import DEAL_BYTES, NotLoaded
from leveret.broker.core.runs import CHUNK_LENGTH, FRONT
from leveret.protocol.errors import AccessRefused, NotFound
from leveret.protocol.properties import Properties

from ..support.client import finish
from ..support.fakes import Target, message, messages
from ..support.strategies import plain_only

BOTH_STRATEGIES = True

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
            check_consumer(queue, exclusive)


def test_an_exclusive_consumer_does_not_join(queue):
    Target().consume(queue)

    check_consumer(queue, False)
    with pytest.raises(AccessRefused):
        check_consumer(queue, True)


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


def test_what_comes_behind_messages_that_wait_for_a_commit_waits_even_if_they_are_gone(
    queue, broker
):
    """A get may take what a transaction has published, but nobody gets past it meanwhile."""
    target = Target()
    publish(queue, 1)
    queue.seal(broker.batch.commit)
    position, _, _ = queue.pop()
    assert broker.batch.commit == queue.waits_for_commit(position)
    target.consume(queue)

    publish(queue, 2)
    finish(broker)
    assert [] == target.bodies
    broker.batch.done(broker.batch.commit)
    finish(broker)

    assert [b"2"] == target.bodies


def test_each_of_two_commits_lets_go_of_what_waits_for_it(queue, broker):
    target, batch = Target(), broker.batch
    target.consume(queue)
    for body in (1, 2):
        publish(queue, body)
        queue.seal(broker.batch.commit)
        batch.commit += 1
    finish(broker)
    assert [] == target.bodies

    batch.done(batch.commit - 2)
    finish(broker)
    assert [b"1"] == target.bodies
    batch.done(batch.commit - 1)
    finish(broker)

    assert [b"1", b"2"] == target.bodies


def test_a_queue_shows_its_name(queue):
    assert "<Queue 'q' in '/'>" == repr(queue)


# what is kept, and what is only in the log


class Log:
    """A log that remembers what it was told, and has every message it was told of."""

    def __init__(self):
        self.told = []
        self.kept = {}
        self.asked = []

    def enqueued(self, base, messages):
        self.told.append(("enqueued", base, len(messages)))
        self.kept.update(enumerate(messages, base))

    def delivered(self, position):
        self.told.append(("delivered", position))

    def returned(self, positions):
        self.told.append(("returned", *positions))

    def settled(self, positions):
        self.told.append(("settled", *positions))

    def apply(self):
        pass

    def dropped(self, ranges):
        self.told.append(("dropped", *ranges))

    def is_kept(self, base, count):
        return all(position in self.kept for position in range(base, base + count))

    def kept_until(self, position):
        return next(each for each in count(position) if each not in self.kept)

    def fetch(self, queue, paged):
        self.asked.append((queue, paged))

    def positions(self, first, end):
        return sorted(each for each in self.kept if first <= each < end)

    def sizes(self, position):
        return self.kept[position].header_size, self.kept[position].size

    def facts(self, fact):
        return iter(())

    def columns(self, facts):
        return iter(())

    def counted(self):
        return iter(())

    def close(self):
        self.told.append(("closed",))

    def answer(self):
        """Load what was asked for."""
        asked, self.asked = self.asked, []
        for queue, paged in asked:
            if queue.waits_for(paged):
                wanted = paged.positions or range(paged.base, paged.end)
                positions = [each for each in wanted if each in self.kept]
                found = [self.kept[each] for each in positions]
                has_gaps = len(positions) < paged.end - paged.base
                queue.loaded(paged, found, positions if has_gaps else None)
        return [paged.base for _, paged in asked]


@pytest.fixture
def log(queue):
    queue.log = Log()
    return queue.log


@pytest.fixture
def restored(queue, log):
    """The queue after a restart: positions 2 to 4, and 8 and 9; the next is 12."""
    log.kept.update((position, message(b"%d" % position)) for position in (2, 3, 4, 8, 9))
    queue.restore(12, [Paged(2, 5, 3, 3 * (HEADER + 1)), Paged(8, 10, 2, 2 * (HEADER + 1))])
    return queue


def read_and_drain(queue, log):
    """Pop everything, loading what is asked for."""
    found = []
    while queue.ready_count:
        try:
            position, one, redelivered = queue.pop()
        except NotLoaded:
            assert log.answer()
            continue
        found.append((position, one.body, redelivered))
        queue.settle(1, octets((one,)))
    return found


@plain_only
def test_a_log_is_told_of_every_position(queue, log, broker):
    publish(queue, 1, 2)
    queue.deal()
    target = Target()
    target.consume(queue, prefetch_count=3)
    publish(queue, 3, 4)
    finish(broker)

    assert [("enqueued", 0, 2), ("enqueued", 2, 1), ("enqueued", 3, 1)] == log.told
    assert [0, 1, 2] == [position for _, position, *_ in target.got]


@pytest.fixture
def left(queue, log, monkeypatch):
    """The queue after messages 0 to 5 came back, of which the log has all but one in memory."""
    monkeypatch.setattr(paging, "RETURNED_BYTES", 0)
    publish(queue, *range(6))
    taken = [queue.pop()[:2] for _ in range(6)]
    del log.kept[3]
    queue.requeue(taken)
    return queue


@plain_only
def test_what_comes_back_leaves_memory_where_the_log_has_it(left, log):
    one = HEADER + 1

    assert (6, 6 * one) == (left.ready_count, left.bytes)
    assert one + 6 * OVERHEAD == left.memory
    assert (0, 0) == (left.unacked_count, left.unacked_bytes)
    log.kept[3] = None  # it is not asked for
    assert [(each, b"%d" % each, True) for each in range(6)] == read_and_drain(left, log)
    assert (0, 0) == (left.bytes, left.memory)


def test_a_little_that_comes_back_stays_in_memory(queue, log):
    publish(queue, *range(6))
    queue.requeue([queue.pop()[:2] for _ in range(6)])

    assert (0, b"0", True) == (queue.pop()[0], b"0", True)
    assert [] == log.asked


@plain_only
def test_consumers_get_what_came_back_once_it_is_read(left, log, broker):
    target = Target()
    target.consume(left, no_ack=True)
    finish(broker)
    assert [] == target.got
    assert not broker.batch.touched, "it waits until it is called"

    log.answer()
    finish(broker)

    assert [b"0", b"1", b"2", b"3", b"4", b"5"] == target.bodies


@plain_only
def test_what_comes_back_meanwhile_goes_first(left, log, broker):
    target = Target()
    target.consume(left, no_ack=True)
    finish(broker)  # the first ones are asked for
    left.requeue([(-1, message(b"before"))])
    finish(broker)
    assert [b"before"] == target.bodies

    log.answer()
    finish(broker)
    assert 7 == len(target.bodies)


@plain_only
def test_what_was_purged_meanwhile_is_not_taken_in(left, log, broker):
    with pytest.raises(NotLoaded):
        left.pop()
    assert 6 == left.purge()

    log.answer()

    assert (0, 0, 0) == (left.ready_count, left.bytes, left.memory)
    assert left.pop() is None


@plain_only
def test_absent_messages_come_back_like_others(queue, log):
    publish(queue, 1, 2)
    for _ in range(2):
        queue.pop()
    queue.absent_bytes += HEADER + 1
    assert HEADER + 1 + 2 * OVERHEAD == queue.memory

    queue.requeue([(0, absent(HEADER, 1)), (1, message(b"2"))])

    assert HEADER + 1 + 2 * OVERHEAD == queue.memory
    assert (0, 0) == (queue.unacked_bytes, queue.absent_bytes)
    assert [(0, b"1", True), (1, b"2", True)] == read_and_drain(queue, log)


def test_a_log_is_told_of_a_get_and_of_what_returns(queue, log):
    publish(queue, 1)
    position, one, _ = queue.pop()
    queue.requeue([(position, one)])

    assert [("enqueued", 0, 1), ("delivered", 0), ("returned", 0)] == log.told


@plain_only
def test_a_purge_tells_the_log_of_all_that_was_ready_and_nothing_else(queue, log, broker):
    publish(queue, *range(6))
    taken = [queue.pop()[:2] for _ in range(3)]
    queue.requeue([taken[1]])
    publish(queue, 6)
    log.told.clear()

    assert 5 == queue.purge()
    finish(broker)
    assert [("dropped", (3, 6)), ("settled", 1)] == log.told[-2:]


def test_a_purge_tells_the_log_of_neighbours_that_came_back_as_one(queue, log):
    """There may be very many."""
    publish(queue, *range(6))
    queue.requeue([queue.pop()[:2] for _ in range(4)])

    queue.purge()

    assert ("dropped", (0, 5)) == log.told[-1]


@pytest.mark.parametrize("end", ["purge", "delete"])
def test_gaps_between_what_came_back_are_not_told_of_when_everything_goes(queue, log, vhost, end):
    """There may be half a million."""
    publish(queue, *range(6))
    taken = [queue.pop()[:2] for _ in range(6)]
    queue.settle(3, octets([one for _, one in taken[::2]]))
    queue.requeue(taken[1::2])

    if end == "purge":
        assert 3 == queue.purge()
        assert ("dropped", (0, 5)) == log.told[-1]
    else:
        vhost.delete_queue(queue)
        assert [("returned", 1, 3, 5), ("closed",)] == log.told[-2:]


def test_a_deleted_queue_closes_its_log(queue, log, vhost):
    publish(queue, 1)
    taken = queue.pop()[:2]
    vhost.delete_queue(queue)
    told = list(log.told)
    queue.requeue([taken])

    assert ("closed",) == told[-1]
    assert told == log.told
    assert queue.log is None


def test_after_a_restart_everything_counts_and_nothing_is_in_memory(restored, log):
    assert 5 == restored.ready_count
    assert (5 * (HEADER + 1), 0) == (restored.bytes, restored.memory)
    assert [] == log.asked


def test_after_a_restart_positions_go_on(restored, log):
    publish(restored, b"new")

    found = read_and_drain(restored, log)

    assert [2, 3, 4, 8, 9, 12] == [position for position, *_ in found]
    assert [b"2", b"3", b"4", b"8", b"9", b"new"] == [body for _, body, _ in found]


def test_what_has_gaps_is_read_as_one_and_flagged_by_its_positions(queue, log, broker):
    log.kept.update((position, message(b"%d" % position)) for position in (2, 4, 5, 9))
    queue.restore(12, [Paged(2, 10, 4, 4 * (HEADER + 1))])
    queue.delivered_before = 4
    first, second = Target(), Target()
    first.consume(queue, prefetch_count=9)
    second.consume(queue, prefetch_count=9)
    finish(broker)

    assert [2] == log.answer()
    finish(broker)

    assert [(2, b"2", True), (5, b"5", False)] == [each[1:] for each in first.got]
    assert [(4, b"4", True), (9, b"9", False)] == [each[1:] for each in second.got]


def test_what_is_not_loaded_cannot_be_popped_yet(restored, log):
    with pytest.raises(NotLoaded):
        restored.pop()
    assert (5, 0) == (restored.ready_count, restored.unacked_count)
    with pytest.raises(NotLoaded):
        restored.pop()
    assert [2, 8] == log.answer()

    assert (2, b"2") == (restored.pop()[0], log.kept[2].body)
    assert (4, 1) == (restored.ready_count, restored.unacked_count)


def test_a_returned_message_is_popped_before_what_has_to_be_loaded(restored, log):
    one = message(b"1")
    restored.requeue([(1, one)])

    assert (1, one, True) == restored.pop()


@pytest.mark.parametrize(
    ("before", "flags"),
    [
        (-1, "nnnnn"),
        (1, "nnnnn"),
        (2, "ynnnn"),
        (3, "yynnn"),
        (6, "yyynn"),
        (8, "yyyyn"),
        (11, "yyyyy"),
    ],
)
def test_what_may_have_been_delivered_before_a_restart_is_flagged(restored, log, before, flags):
    restored.delivered_before = before

    found = read_and_drain(restored, log)

    assert flags == "".join("y" if redelivered else "n" for *_, redelivered in found)


@pytest.mark.parametrize("before", [-1, 2, 3, 4, 8])
@pytest.mark.parametrize("prefetch", [1, 2, 9])
def test_consumers_see_the_flag_too(restored, log, broker, before, prefetch):
    restored.delivered_before = before
    target = Target()
    for tag in ("a", "b"):
        target.consume(restored, tag, prefetch_count=prefetch)
    finish(broker)
    while log.answer() or target.held:
        finish(broker)
        target.ack()
        finish(broker)

    assert [(position, position <= before) for position in (2, 3, 4, 8, 9)] == [
        (position, redelivered) for _, position, _, redelivered in sorted(target.got, key=by_place)
    ]


def by_place(row):
    return row[1]


def test_a_consumer_gets_what_was_loaded_at_the_end_of_the_slice(restored, log, broker):
    target = Target()
    target.consume(restored, no_ack=True)
    finish(broker)
    assert [] == target.got

    log.answer()
    assert [] == target.got
    finish(broker)
    assert [b"2", b"3", b"4", b"8", b"9"] == target.bodies


def test_what_is_published_waits_behind_what_has_to_be_loaded(restored, log, broker):
    target = Target()
    target.consume(restored, no_ack=True)
    publish(restored, b"new")
    finish(broker)
    assert [] == target.got

    log.answer()
    finish(broker)
    assert [b"2", b"3", b"4", b"8", b"9", b"new"] == target.bodies


def test_a_purge_drops_what_is_not_loaded(restored, log):
    with pytest.raises(NotLoaded):
        restored.pop()

    assert 5 == restored.purge()
    assert ("dropped", (0, 11)) == log.told[-1]
    log.answer()
    assert (0, 0, 0) == (restored.ready_count, restored.bytes, restored.memory)
    assert restored.pop() is None


def test_what_is_loaded_for_a_deleted_queue_is_not_waited_for(restored, log, vhost):
    with pytest.raises(NotLoaded):
        restored.pop()
    asked = list(log.asked)
    vhost.delete_queue(restored)

    assert [False, False] == [queue.waits_for(paged) for queue, paged in asked]


def test_what_is_in_the_log_leaves_memory_and_comes_back(queue, log, broker):
    count = (FRONT + 2) * CHUNK_LENGTH
    publish(queue, *range(count))
    queue.deal()
    before = queue.memory

    page_out(queue, 0)

    assert count == queue.ready_count
    assert before * FRONT // (FRONT + 2) == pytest.approx(queue.memory, rel=0.1)
    target = Target()
    target.consume(queue, no_ack=True)
    finish(broker)
    while log.answer():
        finish(broker)
    assert [b"%d" % number for number in range(count)] == target.bodies
    assert (0, 0) == (queue.bytes, queue.memory)


def test_a_queue_without_a_log_keeps_everything_in_memory(queue):
    publish(queue, *range(5 * CHUNK_LENGTH))
    queue.deal()
    before = queue.memory

    page_out(queue, 0)

    assert before == queue.memory

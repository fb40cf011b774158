"""Hooked queues: what is due, what waits, hooks that come and go while messages are there."""

from time import process_time

import pytest

from leveret.broker import plugins
from leveret.broker.core import paging
from leveret.broker.core.broker import Broker
from leveret.broker.core.chunks import Paged, gaps
from leveret.broker.core.consumer import DEAL_LIMIT
from leveret.broker.core.expiring import DUE_LIMIT
from leveret.broker.core.extras import MOST_LEAVING, TOLERATED
from leveret.broker.core.hooked import FORGOTTEN, HookedQueue
from leveret.broker.core.hooks import Phase, QueueHook, Reason
from leveret.broker.core.message import absent
from leveret.broker.core.queue import NotLoaded, Queue
from leveret.broker.core.runs import PIECE_OCTETS
from leveret.broker.core.tally import LENGTH
from leveret.broker.testing import advance, finish
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicGet,
    BasicNack,
    BasicReject,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
)
from leveret.protocol.properties import Properties

from ..support.client import Client
from ..support.fakes import Target, message, messages
from ..support.logs import SlowLog
from ..support.policies import set_policy

HEADER = 14  # octets of a header without properties
TO_DLQ = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dlq"}


@pytest.fixture
def broker():
    made = Broker(registry=plugins.load(are_others_wanted=False))
    made.add_defaults()
    made.now = 1000
    return made


@pytest.fixture
def vhost(broker):
    return broker.vhosts["/"]


@pytest.fixture
def client(broker):
    return Client(broker)


def publish(queue, *bodies, **properties):
    queue.incoming += [message(b"%d" % body, "q", Properties(**properties)) for body in bodies]
    queue.touch()
    finish(queue.vhost.broker)


def pop(queue):
    position, taken, redelivered = queue.pop()
    return position, taken.body, redelivered


def drain(client, queue="q"):
    found = []
    while hasattr(answer := client.call(BasicGet(queue, True)), "body"):
        found.append(answer.body)
    return found


# what is due


def test_messages_expire_at_their_very_millisecond_wherever_they_stand(client, vhost, broker):
    client.declare()
    for number, life in enumerate((20, 5, 11, 5, 19)):
        client.publish(b"%d" % number, expiration=str(life))

    left = []
    for _ in range(21):
        left.append(client.counts()[0])
        advance(broker, 0.001)

    assert [5] * 5 + [3] * 6 + [2] * 8 + [1] + [0] == left


def test_nothing_expired_is_dealt_however_much_there_is(vhost, broker):
    queue = vhost.declare_queue("q", arguments={"x-message-ttl": 10})
    publish(queue, *range(3 * DEAL_LIMIT))
    broker.now += 10
    target = Target()
    target.consume(queue)
    queue.incoming += messages(b"alive")
    finish(broker)

    assert [b"alive"] == target.bodies


def test_a_get_waits_while_very_much_expires(vhost, broker):
    queue = vhost.declare_queue("q", arguments={"x-message-ttl": 10})
    publish(queue, *range(3 * DEAL_LIMIT))
    broker.now += 10

    with pytest.raises(NotLoaded):
        queue.pop()
    finish(broker)

    assert queue.pop() is None


@pytest.mark.parametrize("arguments", [{"x-message-ttl": 0}, {"x-max-length": 0}])
def test_whoever_has_room_gets_what_is_only_for_now_however_much_it_is(client, arguments):
    client.declare(arguments=arguments)
    client.consume(no_ack=True)

    assert 2 * DEAL_LIMIT + 5 == len(client.publish_many([b"x"] * (2 * DEAL_LIMIT + 5)))


def test_what_is_too_much_is_dropped_only_once_nobody_has_room(client):
    client.declare(arguments={"x-max-length": 1})
    client.consume(prefetch=DEAL_LIMIT + 3)

    got = client.publish_many([b"%d" % number for number in range(DEAL_LIMIT + 6)])

    assert DEAL_LIMIT + 3 == len(got)
    [last] = client.send(BasicAck(0, True))
    assert b"%d" % (DEAL_LIMIT + 5) == last.body


def test_a_deadline_is_kept_while_a_message_is_away(client, broker):
    client.declare(arguments={"x-message-ttl": 20})
    client.publish(b"a")
    got = client.call(BasicGet("q"))
    advance(broker, 0.015)
    client.send(BasicReject(got.tag, True))

    assert (1, 0) == client.counts()
    advance(broker, 0.005)
    assert (0, 0) == client.counts()


def test_what_comes_back_too_late_is_not_ready_again(client, broker):
    client.declare("dlq")
    client.declare(arguments={"x-message-ttl": 20} | TO_DLQ)
    client.publish(b"a")
    got = client.call(BasicGet("q"))
    advance(broker, 0.020)
    client.send(BasicReject(got.tag, True))

    assert (0, 0) == client.counts()
    assert "expired" == client.call(BasicGet("dlq")).properties.headers["x-death"][0]["reason"]


@pytest.mark.parametrize("kind", ["one deadline", "each its own"])
def test_very_many_messages_expire_in_short_steps(vhost, broker, kind):
    queue = vhost.declare_queue("q", arguments={"x-message-ttl": 10})
    queue.incoming = [message(b"x")] * 100_000
    finish(broker)
    if kind == "each its own":
        queue.extras.expiries.clear()
        for position in range(100_000):
            queue.extras.expiries.add(1000 + position * 7919 % 100_003 // 1000, position)
    broker.now += 2000
    longest = 0.0
    while queue.extras.lanes.count:
        queue.touch()
        started = process_time()
        broker.batch.finish()
        longest = max(longest, process_time() - started)

    assert longest < 0.1, "it takes 20 ms where nothing else goes on"


# what is known of messages that are gone


def test_nothing_is_known_of_messages_once_there_are_none(vhost, broker):
    queue = vhost.declare_queue("q", arguments={"x-message-ttl": 1 << 30})
    target = Target()
    target.consume(queue)
    for _ in range(2 * FORGOTTEN):
        broker.now += 1
        publish(queue, 1)
        target.ack()

    assert len(queue.extras.expiries) <= FORGOTTEN + 1
    assert queue.extras.deadlines.runs <= FORGOTTEN + 2


@pytest.mark.parametrize("life", [5_000, 1 << 30])
@pytest.mark.parametrize("is_acked", [True, False])
def test_little_is_known_of_messages_while_few_are_there(client, vhost, broker, life, is_acked):
    client.declare(arguments={"x-message-ttl": life})
    client.consume(no_ack=not is_acked)
    client.publish(b"held")
    for number in range(20_000):
        broker.now += 1
        for delivery in client.publish(b"x"):
            if is_acked and delivery.tag > 1 + (number == 0):
                client.send(BasicAck(delivery.tag, False))
    extras = vhost.queue("q").extras

    assert extras.deadlines.runs < 3 * LENGTH
    assert len(extras.expiries) < 3 * (FORGOTTEN + TOLERATED)


@pytest.mark.parametrize("is_purged", [True, False])
def test_what_is_held_expires_when_it_comes_back_however_long_that_takes(
    client, vhost, broker, is_purged
):
    client.declare(arguments={"x-message-ttl": 5_000})
    client.publish(b"late")
    client.publish(b"in time")
    held = [client.call(BasicGet("q")) for _ in range(2)]
    for number in range(4000):
        broker.now += 1
        client.publish(b"x")
        if is_purged and number % 1000 == 999:
            client.call(QueuePurge("q"))
        else:
            client.call(BasicGet("q", no_ack=True))
    client.send(BasicReject(held[1].tag, True))
    assert (1, 0) == client.counts()[:2]
    advance(broker, 1)

    assert (0, 0) == client.counts()
    client.send(BasicReject(held[0].tag, True))
    assert (0, 0) == client.counts()


def test_little_is_known_after_a_purge_while_something_is_held(client, vhost, broker):
    client.declare(arguments={"x-message-ttl": 1 << 30})
    client.publish(b"held")
    client.call(BasicGet("q"))
    for _ in range(5000):
        broker.now += 1
        client.publish(b"x")
    client.call(QueuePurge("q"))
    client.send(BasicAck(1, False))
    client.publish(b"held")
    client.call(BasicGet("q"))
    for _ in range(20):
        client.publish(b"x")
        client.call(BasicGet("q", no_ack=True))
    extras = vhost.queue("q").extras

    assert extras.deadlines.runs < 3 * LENGTH
    assert len(extras.expiries) < FORGOTTEN + TOLERATED


def test_a_purge_forgets_what_came_back(client, vhost):
    client.declare(arguments={"x-message-ttl": 1000})
    client.publish(b"a")
    client.publish(b"b")
    client.send(BasicReject(client.call(BasicGet("q")).tag, True))
    held = client.call(BasicGet("q"))
    client.send(BasicReject(held.tag, True))
    client.call(BasicGet("q"))
    client.call(BasicGet("q"))
    client.send(BasicNack(0, True, True))
    held = client.call(BasicGet("q"))

    assert QueuePurgeOk(1) == client.call(QueuePurge("q"))

    extras = vhost.queue("q").extras
    assert [0] == [position for position, _ in extras.returns], "the one that is not purged"


@pytest.mark.parametrize("method", [QueueDelete("q"), QueuePurge("q")])
@pytest.mark.parametrize("are_some_held", [True, False])
def test_what_came_back_in_many_lanes_goes_without_a_look_at_each_lane(
    client, method, are_some_held
):
    client.declare(arguments={"x-fair-key": "tenant"})
    for number in range(3000):
        client.publish(b"m", headers={"tenant": number})
    client.consume()
    client.send(BasicCancel("c"), BasicNack(0, True, True))
    if are_some_held:
        client.call(BasicGet("q"))

    started = process_time()
    client.call(method)

    assert process_time() - started < 0.5


# hooks that come and go


@pytest.mark.parametrize("definition", [{"message-ttl": 10_000}, {"message-delay": 50}])
def test_a_queue_is_plain_again_once_nothing_is_left_of_a_policy(client, vhost, broker, definition):
    client.declare()
    set_policy(vhost, definition)
    client.publish(b"a")
    is_hooked = isinstance(vhost.queue("q"), HookedQueue)
    set_policy(vhost, None)
    advance(broker, 0.05)

    assert is_hooked
    assert [b"a"] == drain(client)
    assert type(vhost.queue("q")) is Queue


def test_a_time_to_live_may_come_again_while_messages_are_there(client, vhost, broker):
    client.declare()
    set_policy(vhost, {"message-ttl": 10_000})
    client.publish(b"a")
    set_policy(vhost, None)
    client.publish(b"b")
    set_policy(vhost, {"message-ttl": 50})
    client.publish(b"c")
    advance(broker, 0.049)

    assert (3, 0) == client.counts()
    advance(broker, 0.001)
    assert (0, 0) == client.counts()


def test_a_time_to_live_takes_over_messages_of_all_priorities(client, vhost, broker):
    client.declare(arguments={"x-max-priority": 5})
    for priority in (3, 0, 2):
        client.publish(b"x", priority=priority)
    set_policy(vhost, {"message-ttl": 50})
    advance(broker, 0.05)

    assert (0, 0) == client.counts()


def test_a_time_to_live_takes_over_what_waits_once_it_is_ready(client, vhost, broker):
    client.declare(arguments={"x-message-delay": 100})
    client.publish(b"a")
    set_policy(vhost, {"message-ttl": 50})
    advance(broker, 0.149)

    assert (1, 0) == client.counts()
    advance(broker, 0.001)
    assert (0, 0) == client.counts()


def test_a_time_to_live_takes_over_what_somebody_has_once_it_comes_back(client, vhost, broker):
    client.declare()
    client.publish(b"a")
    got = client.call(BasicGet("q"))
    set_policy(vhost, {"message-ttl": 50})
    advance(broker, 0.1)
    client.send(BasicReject(got.tag, True))
    advance(broker, 0.049)

    assert (1, 0) == client.counts()
    advance(broker, 0.001)
    assert (0, 0) == client.counts()


def test_a_time_to_live_that_is_not_asked_for_any_more_takes_over_nothing(client, vhost, broker):
    client.declare(arguments={"x-message-delay": 100})
    client.publish(b"a")
    set_policy(vhost, {"message-ttl": 50})
    set_policy(vhost, None)
    advance(broker, 0.15)

    assert (1, 0) == client.counts()


def test_a_time_to_live_takes_over_what_had_come_back(client, vhost, broker):
    client.declare()
    client.publish_many([b"a", b"b", b"c"])
    client.call(BasicGet("q"))
    client.call(BasicGet("q"))
    client.send(BasicReject(1, True))
    set_policy(vhost, {"message-ttl": 50})
    got = client.call(BasicGet("q"))
    advance(broker, 0.05)
    client.send(BasicReject(got.tag, True))

    assert (0, 0) == client.counts()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"max-priority": 5}, {"max-priority": 9}),
        ({"max-priority": 5}, {"fair-key": "tenant"}),
        ({"fair-key": "tenant"}, {"max-priority": 5}),
        ({"fair-key": "tenant"}, {"fair-key": "user"}),
        ({"overflow": "drop-head"}, {"max-priority": 5}),
        ({"max-priority": 5}, None),
    ],
)
def test_an_order_changes_once_what_is_in_the_old_one_is_gone(client, vhost, before, after):
    client.declare()
    set_policy(vhost, before)
    client.publish(b"a")
    client.publish(b"b", priority=2, headers={"tenant": "x", "user": "y"})
    set_policy(vhost, after)
    first = drain(client)
    client.publish(b"c", priority=0)
    client.publish(b"d", priority=1, headers={"tenant": "x", "user": "y"})

    assert {b"a", b"b"} == set(first)
    expected = [b"d", b"c"] if after and "max-priority" in after else [b"c", b"d"]
    assert expected == drain(client)
    assert (0, 0) == client.counts()


def test_a_limit_of_octets_counts_what_was_there_before(client, vhost):
    client.declare()
    client.publish_many([b"a" * 10, b"b" * 10, b"c" * 10])
    set_policy(vhost, {"max-length-bytes": 20})

    assert [b"b" * 10, b"c" * 10] == drain(client)


def test_a_limit_that_is_very_much_lower_is_reached_in_pieces(client, vhost, broker):
    client.declare()
    client.publish_many([b"%d" % number for number in range(5000)])
    set_policy(vhost, {"max-length": 2})

    assert [b"4998", b"4999"] == drain(client)


def test_what_is_too_much_may_be_refused_or_dropped_by_turns(client, vhost):
    client.declare()
    for overflow, kept in (
        ("drop-head", [b"2", b"3"]),
        ("reject-publish", [b"1", b"2"]),
        ("drop-head", [b"2", b"3"]),
    ):
        set_policy(vhost, {"max-length": 2, "overflow": overflow})
        client.publish_many([b"1", b"2", b"3"])

        assert kept == drain(client)


# messages that are not in memory


def page_out(queue, log):
    """Have a log that has all that is ready, and leave it to that alone."""
    queue.log = log
    for runs in queue.all_runs():
        log.all.update(entry for chunk in runs.items() for entry in chunk.entries())
    log.page_out(queue)


@pytest.fixture
def log():
    return SlowLog()


def bounce(queue, count, *, log=None):
    """Have so many messages come back to a queue; a log has them, if there is one."""
    if log is not None:
        queue.log = log
    queue.incoming = messages(*range(count))
    target = Target()
    consumer = target.consume(queue)
    finish(queue.vhost.broker)
    queue.remove_consumer(consumer)
    while target.held:
        target.requeue(1000)


@pytest.mark.parametrize("is_logged", [True, False])
def test_very_much_that_came_back_is_served_in_order_and_expires(
    client, vhost, broker, log, is_logged, monkeypatch
):
    monkeypatch.setattr(paging, "RETURNED_BYTES", 60_000)
    client.declare()
    queue = vhost.queue("q")
    bounce(queue, 10_000, log=log if is_logged else None)
    assert is_logged == (queue.returned.absent_bytes > 0)
    queue.incoming = messages(b"last")
    set_policy(vhost, {"message-ttl": 50})
    log.answer()
    target = Target()
    target.consume(queue, prefetch_count=1, no_ack=False)
    finish(broker)

    assert 0 == queue.returned.count
    assert 10_000 == queue.ready_count
    assert [(0, b"0", True)] == [got[1:] for got in target.got]
    target.ack()
    finish(broker)
    assert [b"0", b"1"] == target.bodies
    advance(broker, 0.05)
    assert 0 == queue.ready_count


def test_very_much_that_came_back_obeys_a_limit(client, vhost, broker):
    client.declare()
    queue = vhost.queue("q")
    bounce(queue, 10_000)
    set_policy(vhost, {"max-length": 10})

    assert [b"%d" % number for number in range(9990, 10_000)] == drain(client)


def test_a_get_waits_until_very_much_that_came_back_stands_where_it_belongs(client, vhost, broker):
    client.declare()
    queue = vhost.queue("q")
    bounce(queue, 10_000)
    set_policy(vhost, {"max-length": 100_000})
    bounced = queue.pop()

    assert (0, b"0", True) == (bounced[0], bounced[1].body, bounced[2])


def test_dead_letters_that_only_the_log_has_are_read_first(client, vhost, broker, log):
    client.declare("dlq")
    client.declare(arguments={"x-message-ttl": 10} | TO_DLQ)
    client.publish_many([b"a", b"b"])
    page_out(vhost.queue("q"), log)
    advance(broker, 0.01)

    assert (0, 0) == client.counts()
    assert [] == log.settlements, "a crash now would bring them back"
    log.answer()
    assert [b"a", b"b"] == drain(client, "dlq")
    assert [0, 1] == log.settlements


@pytest.mark.parametrize("definition", [{"message-ttl": 10}, {"max-length": 0}])
def test_few_are_read_at_a_time_of_very_many_dead_letters(client, vhost, broker, log, definition):
    client.declare("dlq")
    client.declare(arguments=TO_DLQ)
    queue = vhost.queue("q")
    queue.incoming = messages(*range(20_000))
    finish(broker)
    page_out(queue, log)
    set_policy(vhost, definition, pattern="^q$")
    advance(broker, 0.01)
    steps = 0

    while log.asked:
        assert queue.extras.leaving < MOST_LEAVING + DUE_LIMIT
        log.answer_one()
        steps += 1
    assert steps < 80
    assert [b"%d" % number for number in range(20_000)] == drain(client, "dlq")


def test_no_more_is_read_at_once_of_large_dead_letters_than_a_piece(client, vhost, broker, log):
    client.declare("dlq")
    client.declare(arguments={"x-message-ttl": 10} | TO_DLQ)
    client.publish_many([b"x" * 300_000] * 10)
    page_out(vhost.queue("q"), log)
    advance(broker, 0.01)

    assert max(paged.octets for _, paged in log.asked) < PIECE_OCTETS
    while log.asked:
        log.answer()
    assert 10 == len(drain(client, "dlq"))


def test_what_is_being_read_to_be_dropped_survives_a_purge(client, vhost, broker, log):
    client.declare("dlq")
    client.declare(arguments={"x-message-ttl": 10} | TO_DLQ)
    client.publish_many([b"a", b"b"])
    page_out(vhost.queue("q"), log)
    advance(broker, 0.01)
    client.publish(b"c")

    assert QueuePurgeOk(1) == client.call(QueuePurge("q"))

    log.answer()
    assert [b"a", b"b"] == drain(client, "dlq")
    assert [2, 0, 1] == log.settlements
    assert 0 == vhost.queue("q").extras.leaving


def test_a_queue_in_which_messages_wait_is_not_empty(client, vhost, broker):
    client.declare(arguments={"x-message-delay": 100})
    client.publish_many([b"a", b"b"])

    with pytest.raises(PreconditionFailed):
        vhost.delete_queue(vhost.queue("q"), if_empty=True)
    assert QueueDeleteOk(2) == client.call(QueueDelete("q"))


def test_a_queue_out_of_which_something_is_read_is_not_empty(client, vhost, broker, log):
    client.declare("dlq")
    client.declare(arguments={"x-message-ttl": 10} | TO_DLQ)
    client.publish(b"a")
    page_out(vhost.queue("q"), log)
    advance(broker, 0.01)

    with pytest.raises(PreconditionFailed):
        vhost.delete_queue(vhost.queue("q"), if_empty=True)
    log.answer()
    assert 0 == vhost.delete_queue(vhost.queue("q"), if_empty=True)


def test_what_is_being_read_of_a_deleted_queue_is_gone(client, vhost, broker, log):
    client.declare("dlq")
    client.declare(arguments={"x-message-ttl": 10} | TO_DLQ)
    client.publish_many([b"a", b"b"])
    queue = vhost.queue("q")
    page_out(queue, log)
    advance(broker, 0.01)
    asked = log.asked[0][1]
    client.call(QueueDelete("q"))
    queue.loaded(asked, messages(b"a", b"b"))
    finish(broker)

    assert [] == drain(client, "dlq")
    assert not queue.waits_for(asked)


def test_octets_of_bodies_are_exact_where_a_limit_drops_what_only_the_log_has(client, vhost, log):
    client.declare(arguments={"x-max-length-bytes": 12})
    client.publish_many([b"a" * 4, b"b" * 5])
    page_out(vhost.queue("q"), log)
    client.publish(b"c" * 6)

    assert 11 == vhost.queue("q").extras.body_octets


class Slot:
    """A scratch file that gives what it is asked for when it is told to."""

    def __init__(self, messages):
        self.messages = messages
        self.asked = []

    def fetch(self, queue, paged):
        self.asked.append((queue, paged))

    def answer(self):
        queue, paged = self.asked.pop(0)
        if queue.waits_for(paged):
            queue.loaded(paged, self.messages)
        finish(queue.vhost.broker)


def spill(queue):
    """Write all that is ready to a scratch file."""
    (chunk,) = queue.runs.items()
    at, written = chunk.numbers[:], chunk.messages[:]
    slot = Slot(written)
    bodies = sum(each.size for each in written)
    paged = Paged(at[0], at[-1] + 1, len(at), chunk.octets, slot, gaps(at), bodies)
    assert queue.runs.spilled(chunk, paged)
    return slot


def test_transient_dead_letters_are_read_from_their_file_first(client, vhost, broker):
    client.declare("dlq")
    client.declare(arguments=TO_DLQ)
    client.publish(b"a", expiration="10")
    client.publish(b"long", expiration="20")
    client.publish(b"c", expiration="10")
    slot = spill(vhost.queue("q"))
    advance(broker, 0.01)
    slot.answer()
    slot.answer()

    assert [b"a", b"c"] == sorted(drain(client, "dlq"))
    assert (1, 0) == client.counts()


def test_octets_of_bodies_are_exact_once_a_file_is_read_or_all_of_it_is_gone(client, vhost):
    client.declare(arguments={"x-max-length-bytes": 100})
    client.publish_many([b"1", b"22", b"4444"])
    queue = vhost.queue("q")
    slot = spill(queue)
    queue.drop_front(1, Reason.MAXLEN)
    with pytest.raises(NotLoaded):
        queue.pop()
    slot.answer()

    assert 6 == queue.extras.body_octets
    slot = spill(queue)
    queue.drop_front(1, Reason.MAXLEN)
    queue.drop_front(1, Reason.MAXLEN)
    assert 0 == queue.extras.body_octets == queue.runs.bytes


def test_rejected_messages_that_were_forgotten_are_dead_lettered_once_they_are_read(
    client, vhost, log
):
    """A policy may come while messages are unacknowledged, whose bodies only the log has."""
    client.declare("dlq")
    client.declare()
    client.publish_many([b"a", b"b", b"c"])
    queue = vhost.queue("q")
    queue.log = log
    log.all.update(enumerate(messages(b"a", b"b", b"c")))
    unacked = client.session.channels[1].unacked
    client.consume()
    for tag in (1, 2):
        consumer, position, full = unacked[tag]
        unacked[tag] = consumer, position, absent(full.header_size, full.size)
        queue.absent_bytes += full.header_size + full.size
    set_policy(
        vhost,
        {"dead-letter-exchange": "", "dead-letter-routing-key": "dlq"},
        pattern="^q$",
    )
    client.send(BasicNack(0, True, False))

    assert [b"c"] == drain(client, "dlq")
    assert [2] == log.settlements
    log.answer()
    assert [b"a", b"b"] == drain(client, "dlq")
    assert [2, 0, 1] == log.settlements
    assert (0, 0, 0) == (queue.unacked_count, queue.unacked_bytes, queue.absent_bytes)


# hooks that fail


HOOKS = {
    "placed": lambda self, base, messages: 1 / 0,
    "due": lambda self, entries: 1 / 0,
    "dealt": lambda self: 1 / 0,
    "outgoing": lambda self, position, message: 1 / 0,
    "delivered": lambda self, consumer, positions: 1 / 0,
    "returned": lambda self, entries: 1 / 0,
    "settled": lambda self, positions: 1 / 0,
    "dropped": lambda self, entries, reason: 1 / 0,
    "used": lambda self: 1 / 0,
    "consumers_changed": lambda self: 1 / 0,
}


@pytest.fixture
def failures(broker):
    told = []
    broker.batch.failed = lambda who, problem: told.append((type(who).__name__, type(problem)))
    return told


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_that_raises_is_named_and_harms_nobody(broker, failures, name):
    Failing = type("Failing", (QueueHook,), {"is_deep": True, name: HOOKS[name]})
    broker.registry.queue_hook(lambda queue: Failing, phase=Phase.WATCH)
    client = Client(broker)
    client.declare("dlq")
    client.declare(arguments={"x-message-ttl": 50} | TO_DLQ)
    client.publish_many([b"a", b"b", b"c"])
    client.send(BasicNack(client.call(BasicGet("q")).tag, False, True))
    first = client.call(BasicGet("q"))
    client.send(BasicAck(first.tag))
    client.send(BasicNack(client.call(BasicGet("q")).tag, False, False))
    client.consume()
    client.send(BasicNack(0, True, True))
    advance(broker, 0.05)

    assert b"a" == first.body
    assert (0, 1) == client.counts()
    assert b"b" in drain(client, "dlq")
    if name != "due":
        assert {("Failing", ZeroDivisionError)} == set(failures)


def test_messages_of_which_a_hook_has_failed_come_back_with_a_restart(
    client, vhost, broker, log, failures
):
    Failing = type("Failing", (QueueHook,), {"dropped": HOOKS["dropped"]})
    broker.registry.queue_hook(lambda queue: Failing, phase=Phase.WATCH)
    client.declare()
    vhost.queue("q").log = log
    client.publish_many([b"a", b"b"])
    client.send(BasicReject(client.call(BasicGet("q")).tag, False))

    assert [] == log.settlements
    assert [("Failing", ZeroDivisionError)] == failures
    assert (0, 0) == (vhost.queue("q").unacked_count, vhost.queue("q").unacked_bytes)


def test_a_hook_that_cannot_say_whether_a_message_may_come_in_leaves_it_nowhere(broker):
    def admit(self, message):
        raise ZeroDivisionError

    Failing = type("Failing", (QueueHook,), {"admit": admit})
    broker.registry.queue_hook(
        lambda queue: Failing if queue.name == "f" else None, phase=Phase.REFUSE
    )
    client, other = Client(broker), Client(broker)
    other.declare("f")
    other.declare("g")
    vhost = broker.vhosts["/"]
    vhost.bind("amq.fanout", vhost.queue("g"), "")
    vhost.bind("amq.fanout", vhost.queue("f"), "")
    client.publish(b"x", "", "amq.fanout")

    assert 541 == client.take(0)[0].reply_code
    assert (0, 0) == other.counts("f")
    assert (0, 0) == other.counts("g")

"""Priorities: the highest first, in order within each."""

import pytest

from leveret.broker.core.message import Message
from leveret.protocol.errors import FrameError
from leveret.protocol.methods import (
    BasicAck,
    BasicGet,
    BasicNack,
    BasicPublish,
    BasicRecover,
    BasicReject,
    QueueDeclare,
)
from leveret.protocol.properties import Properties
from leveret.protocol.writer import content_frames

from ..support.client import closed, published
from ..support.fakes import message
from ..support.logs import SlowLog


class Noting(SlowLog):
    """A log that remembers what it was told.

    Attributes:
      noted: Positions up to which messages may have been delivered.
      slices: How often messages came in.
    """

    def __init__(self):
        super().__init__()
        self.noted = []
        self.slices = 0

    def delivered(self, position):
        self.noted.append(position)

    def enqueued(self, base, messages):
        super().enqueued(base, messages)
        self.slices += 1


@pytest.fixture
def queue(client, vhost):
    client.declare(arguments={"x-max-priority": 3})
    return vhost.queue("q")


def publish(client, *priorities):
    for number, priority in enumerate(priorities):
        client.publish(b"%d" % number, priority=priority)


def drain(client):
    found = []
    while hasattr(answer := client.call(BasicGet("q", True)), "body"):
        found.append(int(answer.body))
    return found


def test_the_highest_comes_first_and_none_is_0(client, queue):
    publish(client, 0, 2, None, 3, 2)

    assert [3, 1, 4, 0, 2] == drain(client)


def test_higher_ones_than_there_are_levels_are_of_the_highest(client, queue):
    publish(client, 3, 200, 3)

    assert [0, 1, 2] == drain(client)


def test_what_comes_back_goes_to_its_old_place_in_its_level(client, queue):
    publish(client, 1, 2, 1, 2)
    for _ in range(3):
        client.call(BasicGet("q"))
    client.send(BasicReject(3, True))
    client.send(BasicNack(2, True, True))

    assert [1, 3, 0, 2] == drain(client)


def test_a_consumer_gets_the_next_by_priority(client, queue):
    publish(client, 0, 1, 2)
    _, first = client.consume(prefetch=1)
    client.publish(b"3", priority=3)
    (second,) = client.ack(first.tag)

    assert [b"2", b"3"] == [first.body, second.body]


def test_counts_are_those_of_all_levels(client, queue):
    publish(client, 0, 1, 2)

    assert (3, 0) == client.counts()
    assert 3 == queue.purge()
    assert (0, 0) == client.counts()
    publish(client, 1, 2)
    assert [1, 0] == drain(client)


def test_0_levels_are_no_levels(client):
    client.declare(arguments={"x-max-priority": 0})
    publish(client, 0, 5, 1)

    assert [0, 1, 2] == drain(client)


@pytest.mark.parametrize("value", [-1, 256, "1", 1.0])
def test_an_argument_that_means_nothing_is_refused(client, value):
    assert 406 == closed(client.send(QueueDeclare("q", arguments={"x-max-priority": value})))[0]


def test_all_256_levels_are_served_in_order(client):
    client.declare(arguments={"x-max-priority": 255})
    publish(client, *range(256))

    assert list(range(255, -1, -1)) == drain(client)


def test_what_is_too_much_goes_where_it_would_be_served_next(client):
    client.declare(arguments={"x-max-priority": 3, "x-max-length": 2})
    publish(client, 1, 0, 2)

    assert 2 == len(drain(client))


def test_levels_are_what_messages_say_of_themselves(vhost):
    queue = vhost.declare_queue("q", arguments={"x-max-priority": 9})
    given = [
        Properties(*others, delivery_mode=mode, priority=priority)
        for others in ((), ("text/plain", "gzip", {"a": 1}), (None, None, {}))
        for mode in (None, 1, 2)
        for priority in (None, 0, 1, 9, 10, 255)
    ]
    loose = [message(b"\x08" * 9, "q", properties) for properties in given]
    frames = [b"".join(content_frames(1, 4096, one.header, [one.body])) for one in loose]
    whole = [
        Message(one.envelope, octets, one.header_size, one.size, one.flags)
        for one, octets in zip(loose, frames, strict=True)
    ]
    levels = [min(properties.priority or 0, 9) for properties in given]

    assert levels == queue.extras.lanes.keys(whole)
    assert levels == queue.extras.lanes.keys(loose) == [min(one.priority, 9) for one in loose]


@pytest.mark.parametrize(
    "values", [b"\x98\x00\x50x", b"\x18\x00\x02", b"\x08\x00", b"\xb8\x00\x00\x00\x00\xff\xff"]
)
def test_a_priority_that_cannot_be_read_is_none(vhost, values):
    queue = vhost.declare_queue("q", arguments={"x-max-priority": 9})
    header = b"\x00\x3c\x00\x00" + bytes(8) + values
    frames = b"\x02\x00\x01" + len(header).to_bytes(4) + header + b"\xce"
    bad = Message(message(b"").envelope, frames, len(header), 0, int.from_bytes(values[:2]))

    said = []
    queue.vhost.broker.batch.failed = lambda who, problem: said.append(problem)

    assert [0] == queue.extras.lanes.keys([bad])
    assert [FrameError] == list(map(type, said))


def test_a_whole_round_goes_out_at_once_and_is_settled_in_any_order(client, queue):
    publish(client, 0, 1, 2, 3, 0, 3)
    _, *got = client.consume(prefetch=5)
    assert [3, 5, 2, 1, 0] == [int(each.body) for each in got]

    (last,) = client.ack(got[1].tag)
    more = client.send(BasicNack(got[3].tag, False, True), BasicNack(got[2].tag, False, True))
    assert b"4" == last.body
    assert [(b"2", True), (b"1", True)] == [(each.body, each.method.redelivered) for each in more]
    _, *again = client.send(BasicRecover(True))
    assert [3, 2, 1, 0, 4] == [int(each.body) for each in again]
    client.send(BasicAck(0, True))
    assert (0, 1) == client.counts()


def test_a_restart_knows_all_that_may_have_been_delivered(client, queue):
    publish(client, 0, 3)
    queue.log = Noting()
    client.consume(prefetch=5)

    assert 1 == max(queue.log.noted)


def test_nobody_is_told_of_what_is_gone_as_it_is_delivered(client, queue):
    publish(client, 0, 3)
    queue.log = Noting()
    queue.log.all = {0: None, 1: None}
    client.consume(no_ack=True)

    assert [] == queue.log.noted
    assert [1, 0] == queue.log.settlements


def test_only_those_are_marked_that_were_there_before_a_restart(client, queue):
    publish(client, 0, 2, 1, 3)
    queue.delivered_before = 1
    _, *got = client.consume()

    marks = [(int(each.body), each.method.redelivered) for each in got]
    assert [(3, False), (1, True), (2, False), (0, True)] == marks


def test_what_waits_for_a_commit_ends_a_round(client, queue, broker):
    publish(client, 3, 2, 1)
    queue._sealed = [(2, broker.batch.committed + 1)]
    _, *got = client.consume()

    assert [b"0", b"1"] == [each.body for each in got]


@pytest.mark.parametrize(("limit", "slices"), [(2, 4), (4, 1)])
def test_messages_are_placed_one_by_one_only_where_too_many_may_come(client, limit, slices):
    client.declare(arguments={"x-max-priority": 3, "x-max-length": limit})
    queue = client.broker.vhosts["/"].queue("q")
    queue.log = Noting()
    client.publish_many([b"%d" % number for number in range(4)])

    assert slices == queue.log.slices
    assert limit == queue.ready_count


@pytest.mark.parametrize(
    ("prefetch", "delivered"), [(2, [b"2", b"0"]), (3, [b"0", b"1", b"2"]), (9, [b"0", b"1", b"2"])]
)
def test_what_comes_together_is_in_levels_only_if_not_all_of_it_finds_room(
    client, queue, prefetch, delivered
):
    client.consume(prefetch=prefetch)
    publish = BasicPublish("", "q")
    octets = [
        published(b"%d" % each, publish, 1, Properties(priority=3 * (each == 2)))
        for each in range(3)
    ]
    client.feed(b"".join(octets))

    assert delivered == [answer.body for answer in client.take()]
    assert 3 - len(delivered) == queue.ready_count

"""Placing: all queues are asked before any gets a message."""

import pytest

from leveret.broker.core.hooks import QueueHook, Verdict
from leveret.broker.core.placing import admitted, find, republish
from leveret.broker.testing import finish
from leveret.protocol.properties import Properties

from ..support.fakes import message


class Hook(QueueHook):
    """Says what it is told to, and remembers what it is told."""

    def __init__(self, queue, verdict=Verdict.ADMIT):
        super().__init__(queue)
        self.verdict = verdict
        self.told = []

    def admit(self, message):
        self.told.append("asked")
        return self.verdict

    def admitted(self, message):
        self.told.append("admitted")

    def refused(self, message):
        self.told.append("refused")


@pytest.fixture
def vhost(broker):
    return broker.vhosts["/"]


def queue_with(vhost, name, *verdicts):
    queue = vhost.declare_queue(name)
    queue.admitting = tuple(Hook(queue, verdict) for verdict in verdicts)
    return queue


def told(*queues):
    return [[hook.told for hook in queue.admitting] for queue in queues]


def test_who_refuses_does_not_keep_others_from_getting_it(vhost):
    free, full = queue_with(vhost, "a", Verdict.ADMIT), queue_with(vhost, "b", Verdict.REFUSE)

    assert ([free], True) == admitted(message(b"x"), (free, full))
    assert [[["asked", "admitted"]], [["asked", "refused"]]] == told(free, full)


def test_what_is_there_already_is_dropped_and_all_is_well(vhost):
    queue = queue_with(vhost, "a", Verdict.DROP)

    assert ([], False) == admitted(message(b"x"), (queue,))
    assert [[["asked"]]] == told(queue)


def test_after_the_first_that_refuses_nobody_is_asked_nor_has_admitted(vhost):
    queue = queue_with(vhost, "a", Verdict.ADMIT, Verdict.REFUSE, Verdict.ADMIT)

    assert ([], True) == admitted(message(b"x"), (queue,))
    assert [[["asked"], ["asked", "refused"], []]] == told(queue)


def test_what_the_broker_sends_is_in_the_same_slice(vhost, broker):
    first, gone = vhost.declare_queue("a"), vhost.declare_queue("b")
    vhost.delete_queue(gone)

    assert 1 == republish(message(b"x"), (first, gone))
    assert [first] == list(broker.batch.caused)
    assert broker.batch.is_behind
    finish(broker)
    assert (1, 0) == (first.runs.count, gone.runs.count)


def test_what_the_broker_sends_may_be_refused(vhost):
    full = queue_with(vhost, "a", Verdict.REFUSE)

    assert 0 == republish(message(b"x"), (full,))
    assert [] == full.incoming


def test_what_the_broker_sends_may_expire(vhost):
    queue = vhost.declare_queue("a")
    republish(message(b"x", "a", Properties(expiration="5")), (queue,))

    assert queue.is_timed


def test_queues_are_found_by_headers_where_those_count(vhost):
    queue, other = vhost.declare_queue("a"), vhost.declare_queue("b")
    vhost.bind("amq.headers", queue, "", {"x-match": "all", "kind": "good"})
    vhost.bind("amq.headers", other, "", {"x-match": "all", "kind": "bad"})
    sent = message(b"x", "", Properties(headers={"kind": "good"}))

    assert [queue] == list(find(vhost.exchange("amq.headers"), ("",), sent))


def test_a_deleted_queue_deals_nothing_any_more(vhost, broker):
    queue = vhost.declare_queue("a")
    republish(message(b"x"), (queue,))
    vhost.delete_queue(queue)

    assert queue not in broker.batch.caused
    assert () == queue.admitting

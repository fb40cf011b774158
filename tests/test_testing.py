"""The broker within a program, in virtual time."""

import json

import pytest

from leveret.broker.core.broker import Limits
from leveret.broker.document import DocumentError
from leveret.broker.testing import START_OF_TIME, Client, Embedded
from leveret.protocol.errors import AccessRefused, NotFound, PreconditionFailed
from leveret.protocol.methods import BasicConsume, QueueDeclare, QueueDeclareOk

TOPOLOGY = {
    "exchanges": {"orders": "topic"},
    "queues": ["tasks", "audit"],
    "bindings": ["orders -> tasks: order.*", "orders -> audit: #"],
}


@pytest.fixture
def embedded():
    with Embedded(TOPOLOGY) as made:
        yield made


def test_what_is_published_can_be_had_where_the_topology_leads_it(embedded):
    assert embedded.publish("orders", "order.new", b"7", headers={"tries": 1}, priority=3)

    for queue in ("tasks", "audit"):
        message = embedded.get(queue)
        assert (b"7", {"tries": 1}, 3) == (
            message.body,
            message.properties.headers,
            message.properties.priority,
        )
        assert embedded.get(queue) is None


def test_topology_may_be_a_file(tmp_path):
    file = tmp_path / "topology.json"
    file.write_text(json.dumps(TOPOLOGY))

    for where in (file, str(file)):
        with Embedded(where) as embedded:
            assert {"tasks", "audit"} == set(embedded.vhost.queues)


def test_mistake_in_a_topology_is_told_with_its_place():
    with pytest.raises(DocumentError, match="queue"):
        Embedded({"queus": []})


def test_mandatory_message_without_a_queue_is_not_taken(embedded):
    assert not embedded.publish("", "nowhere", b"x", mandatory=True)
    assert embedded.publish("", "nowhere", b"x")


def test_what_the_broker_refuses_is_an_error_and_the_next_call_works(embedded):
    with pytest.raises(NotFound, match="no exchange 'nowhere' in vhost '/'"):
        embedded.publish("nowhere", "key", b"x")
    with pytest.raises(NotFound, match="no queue 'nowhere' in vhost '/'"):
        embedded.get("nowhere")
    with pytest.raises(PreconditionFailed, match="invalid expiration"):
        embedded.publish("", "tasks", b"x", expiration="soon")

    assert embedded.publish("", "tasks", b"7")
    assert b"7" == embedded.get("tasks").body


def test_clients_see_each_other(embedded):
    consumer = embedded.connect()
    consumer.call(BasicConsume("tasks", "c", no_ack=True))

    embedded.publish("", "tasks", b"7")

    [delivery] = consumer.take()
    assert b"7" == delivery.body
    assert isinstance(embedded.connect().call(QueueDeclare("more")), QueueDeclareOk)


def test_wrong_password_is_refused(embedded):
    with pytest.raises(AccessRefused):
        embedded.connect("guest", "wrong")


def test_limits_are_those_asked_for():
    limits = Limits(max_message_size=10)

    with Embedded(limits=limits) as embedded, pytest.raises(PreconditionFailed):
        embedded.publish("", "q", b"more than that")


def test_leaving_it_ends_all_connections():
    with Embedded() as embedded:
        embedded.connect()
        assert 2 == len(embedded.broker.sessions)

    assert not embedded.broker.sessions


def test_time_stands_still_until_it_is_told_to_go_on(embedded):
    assert (0, START_OF_TIME) == (embedded.broker.now, embedded.broker.wall)

    embedded.advance(1.5)

    assert (1500, START_OF_TIME + 1500) == (embedded.broker.now, embedded.broker.wall)


def test_what_becomes_due_is_done_on_the_way_each_at_its_own_time(embedded):
    broker, called = embedded.broker, []

    def again():
        called.append(broker.now)
        timer.move(broker.now + 400)

    timer = broker.timers.at(400, again)
    broker.timers.at(900, lambda: called.append(broker.now))

    embedded.advance(1.2)
    assert [400, 800, 900, 1200] == called
    embedded.advance(0.399)
    assert 4 == len(called)
    embedded.advance(0.001)
    assert 1600 == called[-1]


def test_message_expires_when_its_time_has_come(embedded):
    embedded.publish("", "tasks", b"stays")
    embedded.publish("", "tasks", b"goes", expiration="60000")
    queue = embedded.vhost.queues["tasks"]

    embedded.advance(59.999)
    assert 2 == queue.ready_count
    embedded.advance(0.001)

    assert 1 == queue.ready_count
    assert b"stays" == embedded.get("tasks").body


def test_what_a_timer_causes_is_done_before_time_goes_on(embedded):
    consumer = embedded.connect()
    consumer.call(BasicConsume("tasks", "c", no_ack=True))
    broker, seen = embedded.broker, []
    queue = embedded.vhost.queues["audit"]
    embedded.publish("", "audit", b"7")

    def move():
        _, message, _ = queue.pop()
        tasks = embedded.vhost.queues["tasks"]
        tasks.incoming.append(message)
        tasks.touch()

    broker.timers.at(10, move)
    broker.timers.at(11, lambda: seen.extend(item.body for item in consumer.take()))

    embedded.advance(1)

    assert [b"7"] == seen


def test_timer_that_fails_is_the_callers_to_see(embedded):
    def fail():
        raise RuntimeError("a fault of the test's own")

    embedded.broker.timers.at(10, fail)

    with pytest.raises(RuntimeError, match="own"):
        embedded.advance(1)


def test_any_broker_without_a_loop_can_be_advanced(broker, advance):
    called = []
    broker.timers.at(10, lambda: called.append(broker.now))

    advance(1)

    assert ([10], 1000) == (called, broker.now)
    assert Client(broker).session in broker.sessions

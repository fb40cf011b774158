"""Consumer timeout: what is not settled in time goes back, and its consumer is told."""

import gc
import weakref

import pytest

from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.policy import Policy
from leveret.broker.plugins.consumer_timeout import PARTS
from leveret.broker.testing import Client, Embedded, finish
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicNack,
    BasicQos,
    ChannelClose,
    ChannelCloseOk,
    TxCommit,
    TxRollback,
    TxSelect,
)

TIMEOUT = 1600  # milliseconds
SECONDS = TIMEOUT / 1000
NEARLY = SECONDS - 0.001
TOLD = [BasicCancel("c", True)]
TIMED = {"x-consumer-timeout": TIMEOUT}


@pytest.fixture
def embedded():
    with Embedded({"queues": {"q": {"arguments": TIMED}, "plain": {}}}) as made:
        yield made


@pytest.fixture
def client(embedded):
    return embedded.connect()


def consume(client, queue="q", tag="c", *, prefetch=0, channel=1, **options):
    """Start a consumer; return the bodies it gets at once."""
    client.send(BasicQos(0, prefetch), channel=channel)
    first, *got = client.send(BasicConsume(queue, tag, **options), channel=channel)
    assert BasicConsumeOk(tag) == first
    return [item.body for item in got]


def fill(embedded, *bodies, queue="q"):
    for body in bodies:
        embedded.publish("", queue, body)


def ready(embedded, queue="q"):
    return embedded.vhost.queues[queue].ready_count


def hook(embedded, queue="q"):
    [found] = embedded.vhost.queues[queue].extras.hooks.values()
    return found


def test_what_is_not_settled_in_time_goes_back_and_the_consumer_is_told(embedded, client):
    fill(embedded, b"1")
    assert [b"1"] == consume(client)

    embedded.advance(NEARLY)
    assert [] == client.take()
    embedded.advance(0.001)

    assert TOLD == client.take()
    queue = embedded.vhost.queues["q"]
    assert (1, 0, 0, 0) == (
        queue.ready_count,
        queue.unacked_count,
        queue.unacked_bytes,
        queue.consumer_count,
    )


def test_it_counts_as_a_return(embedded):
    embedded.vhost.declare_queue("r", arguments={**TIMED, "x-delivery-limit": 5})
    client = embedded.connect()
    fill(embedded, b"1", queue="r")
    consume(client, "r")

    embedded.advance(SECONDS)

    again = embedded.get("r")
    assert again.method.redelivered
    assert 1 == again.properties.headers["x-delivery-count"]


def test_what_is_settled_in_time_is_not_looked_for(embedded, client):
    fill(embedded, b"1", b"2")
    consume(client)

    client.send(BasicAck(1), BasicAck(2))
    embedded.advance(10 * SECONDS)

    assert ([], 1) == (client.take(), embedded.vhost.queues["q"].consumer_count)


def test_the_others_of_a_consumer_stay_until_they_are_due_themselves(embedded, client):
    fill(embedded, b"1")
    consume(client)
    embedded.advance(SECONDS / 2)
    fill(embedded, b"2")
    client.take()

    embedded.advance(SECONDS / 2)
    assert (TOLD, 1) == (client.take(), ready(embedded))
    assert 1 == embedded.vhost.queues["q"].unacked_count
    embedded.advance(SECONDS / 2)

    assert ([], 2) == (client.take(), ready(embedded))
    assert [b"1", b"2"] == [embedded.get("q").body, embedded.get("q").body]


def test_the_others_of_a_consumer_may_still_be_settled(embedded, client):
    fill(embedded, b"1")
    consume(client)
    embedded.advance(SECONDS / 2)
    fill(embedded, b"2")
    embedded.advance(SECONDS / 2)
    client.take()

    assert [] == client.send(BasicAck(2))
    embedded.advance(SECONDS)

    assert (1, 0) == (ready(embedded), embedded.vhost.queues["q"].unacked_count)


@pytest.mark.parametrize(
    "late",
    [
        BasicAck(1),
        BasicAck(1, True),
        BasicAck(0, True),
        BasicNack(1, False, True),
        BasicNack(1, False, False),
    ],
)
def test_a_settlement_that_comes_too_late_is_of_nothing(embedded, client, late):
    fill(embedded, b"1")
    consume(client)
    embedded.advance(SECONDS)
    client.take()

    assert [] == client.send(late)

    queue = embedded.vhost.queues["q"]
    assert (1, 0, 0) == (queue.ready_count, queue.unacked_count, queue.unacked_bytes)
    assert b"1" == embedded.get("q").body


def test_a_settlement_that_comes_too_late_twice_is_a_mistake(embedded, client):
    fill(embedded, b"1")
    consume(client)
    embedded.advance(SECONDS)
    client.take()

    client.send(BasicAck(1))

    [close] = client.send(BasicAck(1))
    assert "unknown delivery tag 1" in close.reply_text


def test_a_channel_with_what_was_taken_from_it_ends_as_any_other(embedded, client):
    fill(embedded, b"1", b"2")
    consume(client, prefetch=2)
    embedded.advance(SECONDS)
    embedded.vhost.set_policy(Policy("p", "q", {"max-length": 5}))

    client.lose()

    queue = embedded.vhost.queues["q"]
    assert (2, 0, 0) == (queue.ready_count, queue.unacked_count, queue.unacked_bytes)


def test_the_room_in_the_window_of_the_channel_comes_back(embedded, client):
    fill(embedded, b"1", b"2")
    fill(embedded, b"3", b"4", queue="plain")
    client.send(BasicQos(0, 2, True))
    client.send(BasicConsume("q", "c"))
    client.send(BasicConsume("plain", "other"))
    assert 2 == embedded.vhost.queues["plain"].ready_count

    embedded.advance(SECONDS)

    assert 0 == embedded.vhost.queues["plain"].ready_count


def test_another_consumer_gets_it(embedded, client):
    fill(embedded, b"1")
    consume(client, prefetch=1)
    other = embedded.connect()
    assert [] == consume(other, tag="other")

    embedded.advance(SECONDS)

    [delivered] = other.take()
    assert (b"1", True) == (delivered.body, delivered.method.redelivered)


def test_of_two_consumers_on_a_channel_the_one_that_is_late_ends(embedded, client):
    fill(embedded, b"1", b"2", b"3", b"4")
    client.send(BasicQos(0, 2))
    client.send(BasicConsume("q", "a"), BasicConsume("q", "b"))
    held = {}
    for tag, (consumer, _, _) in client.session.channels[1].unacked.items():
        held.setdefault(consumer.tag, []).append(tag)

    client.send(*[BasicAck(tag) for tag in held["a"]])
    embedded.advance(SECONDS)

    cancels = [item for item in client.take() if isinstance(item, BasicCancel)]
    assert [BasicCancel("b", True)] == cancels


def test_a_client_that_cannot_be_told_loses_the_channel(embedded):
    client = Client(embedded.broker, capabilities=())
    fill(embedded, b"1", b"2")
    consume(client, prefetch=2)
    embedded.advance(SECONDS)

    text = (
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. "
        f"Timeout value used: {TIMEOUT} ms. This timeout value can be configured, "
        "see consumers doc guide to learn more"
    )
    assert [ChannelClose(406, text, 0, 0)] == client.take()
    client.send(ChannelCloseOk())
    assert (2, 0) == (ready(embedded), embedded.vhost.queues["q"].unacked_count)
    client.open_channel(1)


def test_the_last_consumer_of_an_auto_delete_queue_takes_it_along(embedded, client):
    embedded.vhost.declare_queue("a", auto_delete=True, arguments=TIMED)
    fill(embedded, b"1", queue="a")
    consume(client, "a")

    embedded.advance(SECONDS)

    assert TOLD == client.take()
    assert "a" not in embedded.vhost.queues


def test_a_consumer_that_has_left_may_keep_what_it_has_as_long_as_any_other(embedded, client):
    fill(embedded, b"1")
    consume(client)
    client.send(BasicCancel("c"))

    embedded.advance(SECONDS)

    assert ([], 1) == (client.take(), ready(embedded))


@pytest.mark.parametrize("options", [{"no_ack": True}, {"arguments": {"x-consumer-timeout": 0}}])
def test_some_consumers_may_take_for_ever(embedded, client, options):
    fill(embedded, b"1")
    consume(client, **options)

    embedded.advance(10 * SECONDS)

    assert ([], 1) == (client.take(), embedded.vhost.queues["q"].consumer_count)


def test_what_a_get_has_taken_is_not_looked_for(embedded, client):
    fill(embedded, b"1")
    client.send(BasicGet("q"))

    embedded.advance(10 * SECONDS)

    assert [] == client.send(BasicAck(1))
    assert 0 == ready(embedded)


# Whose time it is


def test_without_anyone_who_asks_there_is_no_hook(embedded, client):
    fill(embedded, b"1", queue="plain")
    consume(client, "plain")

    assert embedded.vhost.queues["plain"].extras is None


def test_a_consumer_may_ask_for_itself(embedded, client):
    fill(embedded, b"1", b"2", queue="plain")
    consume(client, "plain", "other", prefetch=1)
    consume(client, "plain", prefetch=1, arguments={"x-consumer-timeout": 50})

    embedded.advance(0.05)

    assert TOLD == client.take()
    assert 1 == embedded.vhost.queues["plain"].consumer_count


def test_the_queue_is_plain_again_after_a_consumer_that_asked_for_itself(embedded, client):
    fill(embedded, b"1", queue="plain")
    consume(client, "plain", arguments={"x-consumer-timeout": 50})
    queue = embedded.vhost.queues["plain"]
    assert isinstance(queue, HookedQueue)

    embedded.advance(0.05)
    assert b"1" == embedded.get("plain").body
    assert embedded.get("plain") is None

    assert not isinstance(queue, HookedQueue)
    assert queue.extras is None


def test_a_consumer_that_asked_for_itself_is_held_to_it_after_its_end(embedded, client):
    fill(embedded, b"1", queue="plain")
    consume(client, "plain", arguments={"x-consumer-timeout": 50})
    client.send(BasicCancel("c"))

    embedded.advance(0.05)

    assert 1 == ready(embedded, "plain")


def test_the_time_of_the_consumer_goes_before_that_of_the_queue(embedded, client):
    fill(embedded, b"1")
    consume(client, arguments={"x-consumer-timeout": 2 * TIMEOUT})

    embedded.advance(SECONDS)
    assert [] == client.take()
    embedded.advance(SECONDS)

    assert TOLD == client.take()


def test_by_policy_the_time_begins_now_for_what_is_delivered_already(embedded, client):
    fill(embedded, b"1", queue="plain")
    consume(client, "plain")
    embedded.advance(10)

    embedded.vhost.set_policy(Policy("p", "^plain$", {"consumer-timeout": TIMEOUT}))
    finish(embedded.broker)
    embedded.advance(NEARLY)
    assert [] == client.take()
    embedded.advance(0.001)

    assert TOLD == client.take()


def test_a_shorter_time_by_policy_is_that_of_what_is_delivered_too(embedded, client):
    fill(embedded, b"1")
    consume(client)

    embedded.vhost.set_policy(Policy("p", "^q$", {"consumer-timeout": 100}), operator=True)
    embedded.vhost.set_policy(Policy("p", "^plain$", {"consumer-timeout": 200}))
    finish(embedded.broker)
    fill(embedded, b"2", queue="plain")
    consume(client, "plain", "other")
    embedded.vhost.set_policy(Policy("p", "^plain$", {"consumer-timeout": 50}))
    finish(embedded.broker)
    embedded.advance(0.05)

    assert [BasicCancel("other", True)] == client.take()


def test_a_policy_that_ends_ends_the_waiting(embedded, client):
    embedded.vhost.set_policy(Policy("p", "^plain$", {"consumer-timeout": TIMEOUT}))
    fill(embedded, b"1", queue="plain")
    consume(client, "plain")

    embedded.vhost.delete_policy("p")
    finish(embedded.broker)
    embedded.advance(10 * SECONDS)

    assert ([], 0) == (client.take(), ready(embedded, "plain"))


@pytest.mark.parametrize("value", [-1, True, "1", 315_360_000_001])
def test_a_time_out_of_range_is_refused(embedded, client, value):
    [close] = client.send(BasicConsume("q", "c", arguments={"x-consumer-timeout": value}))

    assert close.reply_text.startswith("PRECONDITION_FAILED - invalid arg 'x-consumer-timeout'")


# With much else


def test_acks_of_a_transaction_are_waited_for(embedded, client):
    client.send(TxSelect())
    fill(embedded, b"1")
    consume(client)
    client.send(BasicAck(1))

    embedded.advance(SECONDS)
    assert [] == client.take()
    client.send(TxCommit())

    assert (0, 0) == (ready(embedded), embedded.vhost.queues["q"].unacked_count)


def test_what_a_rollback_gives_back_to_the_channel_is_no_ones_fault(embedded, client):
    client.send(TxSelect())
    fill(embedded, b"1")
    consume(client)
    client.send(BasicAck(1))
    embedded.advance(SECONDS)

    client.send(TxRollback())

    assert 1 == embedded.vhost.queues["q"].unacked_count
    client.send(BasicAck(1), TxCommit())
    assert 0 == embedded.vhost.queues["q"].unacked_count


def test_very_many_are_waited_for_in_few_stretches(embedded, client):
    consume(client)
    for _ in range(200):
        fill(embedded, b"1")
        embedded.advance(SECONDS / 200)

    [watch] = hook(embedded).watches.values()
    assert PARTS + 2 >= len(watch._stretches)
    embedded.advance(SECONDS / PARTS)

    assert 0 < ready(embedded) < 200


def test_very_many_that_are_late_go_back_in_their_order(embedded, client):
    bodies = [b"%d" % number for number in range(10_000)]
    fill(embedded, *bodies)
    consume(client)

    embedded.advance(SECONDS)

    assert len(bodies) == ready(embedded)
    assert bodies[:3] == [embedded.get("q").body for _ in range(3)]


def test_channels_that_are_gone_are_not_known_any_more(embedded):
    client = embedded.connect()
    fill(embedded, b"1")
    consume(client)
    gone = weakref.ref(client.session.channels[1])
    assert 1 == len(hook(embedded).watches)
    timers = len(embedded.broker.timers)

    client.lose()
    embedded.clients.remove(client)
    del client
    gc.collect()

    assert gone() is None
    assert (0, timers - 1) == (len(hook(embedded).watches), len(embedded.broker.timers))

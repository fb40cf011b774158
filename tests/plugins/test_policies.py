"""Policies of plugins: every argument of a queue is a key, and both together mean one thing."""

import json

import pytest

from leveret.broker import definitions
from leveret.broker.core.arguments import QUEUE_ARGUMENTS
from leveret.broker.core.broker import Broker
from leveret.broker.core.policy import KEYS, Policy, PolicyError
from leveret.broker.core.queue import Queue
from leveret.broker.core.registry import policy_key
from leveret.broker.server.forgetter import Forgetter
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.testing import Embedded, finish
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicPublish,
    BasicQos,
    BasicReject,
    QueueDeclare,
)
from leveret.protocol.properties import Properties

from ..support.client import Received, published
from ..support.durable import durable

# As RabbitMQ's own policies have them.
RABBITMQ = {
    "x-consumer-timeout": "consumer-timeout",
    "x-dead-letter-exchange": "dead-letter-exchange",
    "x-dead-letter-routing-key": "dead-letter-routing-key",
    "x-dead-letter-strategy": "dead-letter-strategy",
    "x-delivery-limit": "delivery-limit",
    "x-expires": "expires",
    "x-max-length": "max-length",
    "x-max-length-bytes": "max-length-bytes",
    "x-message-ttl": "message-ttl",
    "x-overflow": "overflow",
}


@pytest.mark.parametrize(("argument", "key"), RABBITMQ.items())
def test_what_rabbitmq_has_as_a_policy_has_its_name_and_an_effect(registry, argument, key):
    assert key == policy_key(argument)
    assert argument in registry.queue_arguments
    assert key in registry.effective_keys


def test_every_argument_of_a_plugin_is_a_key_of_policies(registry):
    arguments = {
        *(registry.queue_arguments.keys() - QUEUE_ARGUMENTS.keys()),
        *registry.exchange_arguments,
    }

    assert set() == {policy_key(name) for name in arguments} - registry.policy_keys.keys()


def test_what_a_refused_value_should_have_been_is_said_in_words(registry):
    """Not as RabbitMQ's errors of declarations have it: {value_negative,-1}."""
    for key in registry.policy_keys.keys() - {"ha-params"}:
        wanted = registry.policy_keys[key](object())
        assert wanted is not None, key
        assert not set('{"') & set(wanted), f"{key}: {wanted}"


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("message-ttl", -1, "an integer from 0 to 315360000000"),
        ("max-priority", 256, "an integer from 0 to 255"),
        ("retry-factor", 0.5, "a number from 1 to 100"),
        ("retry-min", 0, "an integer from 1 to 315360000000 (milliseconds)"),
        ("message-delay", "soon", "an integer from 1 to 315360000000 (milliseconds)"),
        ("single-active-consumer", "yes", "true or false"),
        ("consumer-timeout", 1.5, "an integer from 0 to 315360000000"),
    ],
)
def test_a_refused_policy_names_key_value_and_range(vhost, key, value, wanted):
    with pytest.raises(PolicyError) as refused:
        vhost.set_policy(Policy("p", ".*", {key: value}))

    assert f"policy 'p': '{key}' is {value!r}, it must be {wanted}" == str(refused.value)


@pytest.mark.parametrize(
    ("argument", "value", "policy", "operator", "expected"),
    [
        ("x-max-length", 10, 5, None, 5),
        ("x-max-length", 5, 10, None, 5),
        ("x-max-length", 10, 9, 8, 8),
        ("x-max-length", 10, 5, 8, 5),
        ("x-message-ttl", 1000, 500, None, 500),
        ("x-expires", 1000, 2000, 500, 500),
        ("x-delivery-limit", -1, 5, None, 5),
        ("x-delivery-limit", 3, -1, None, 3),
        ("x-delivery-limit", 9, -1, 5, 5),
        ("x-overflow", "drop-head", "reject-publish", None, "drop-head"),
        ("x-dead-letter-exchange", "a", "b", "c", "a"),
        ("x-retry-min", 100, 50, None, 100),
    ],
)
def test_of_numbers_that_limit_the_smaller_counts_else_the_argument(
    vhost, argument, value, policy, operator, expected
):
    key = policy_key(argument)
    queue = vhost.declare_queue("q", arguments={argument: value})

    vhost.set_policy(Policy("p", "q", {key: policy}))
    if operator is not None:
        vhost.set_policy(Policy("o", "q", {key: operator}), operator=True)

    assert expected == queue.settings[key]


def test_policies_of_plugins_go_through_definitions(registry, broker, vhost):
    vhost.set_policy(Policy("p", "^q", {"retry-min": 10, "retry-factor": 1.5}, "queues", 3))
    vhost.set_policy(Policy("o", "^q", {"fair-key-limit": 2}), operator=True)
    exported = definitions.export(broker)
    other = Broker(registry=registry)
    other.add_defaults()

    with Embedded(json.loads(json.dumps(exported))) as embedded:
        assert list(vhost.policies) == list(embedded.vhost.policies)
        again = embedded.vhost.policies.operator_policies
        assert list(vhost.policies.operator_policies) == list(again)


def test_keys_that_plugins_have_given_a_meaning_are_not_said_to_have_none(registry, tmp_path):
    file = tmp_path / "t.yaml"
    keys = sorted(KEYS.keys() & registry.effective_keys)
    assert "max-length" in keys
    file.write_text("policies: {p: {pattern: a, definition: {max-length: 1, message-ttl: 5}}}\n")

    assert [] == definitions.load(file, registry=registry).notes


# On live queues


@pytest.fixture
def embedded():
    with Embedded({"queues": ["q", "dead"]}) as made:
        yield made


def set_policy(embedded, definition, **options):
    embedded.vhost.set_policy(Policy("p", "^q$", definition, **options))
    finish(embedded.broker)


def fill(embedded, *bodies):
    for body in bodies:
        assert embedded.publish("", "q", body)


def test_a_length_limit_drops_what_is_there_already(embedded):
    fill(embedded, b"1", b"2", b"3")

    set_policy(embedded, {"max-length": 1})

    assert (1, b"3") == (embedded.vhost.queues["q"].ready_count, embedded.get("q").body)


def test_a_time_to_live_begins_with_the_policy(embedded):
    fill(embedded, b"1")
    embedded.advance(60)

    set_policy(embedded, {"message-ttl": 1000})

    embedded.advance(0.9)
    assert 1 == embedded.vhost.queues["q"].ready_count
    embedded.advance(0.1)
    assert 0 == embedded.vhost.queues["q"].ready_count


def test_refused_publishes_begin_and_end_with_the_policy(embedded):
    fill(embedded, b"1")

    set_policy(embedded, {"max-length": 1, "overflow": "reject-publish"})
    assert not embedded.publish("", "q", b"2")

    embedded.vhost.delete_policy("p")
    assert embedded.publish("", "q", b"3")


def test_a_dead_letter_exchange_by_policy(embedded):
    fill(embedded, b"1")

    set_policy(
        embedded,
        {"message-ttl": 10, "dead-letter-exchange": "", "dead-letter-routing-key": "dead"},
    )
    embedded.advance(0.01)

    assert b"1" == embedded.get("dead").body


def test_a_queue_expires_by_policy_and_not_after_it(embedded):
    set_policy(embedded, {"expires": 1000})
    embedded.advance(0.9)
    set_policy(embedded, {"max-length": 5})

    embedded.advance(10)
    assert "q" in embedded.vhost.queues

    set_policy(embedded, {"expires": 1000})
    embedded.advance(1)
    assert "q" not in embedded.vhost.queues


def test_other_policies_do_not_prolong_the_life_of_a_queue(embedded):
    set_policy(embedded, {"expires": 1000})
    embedded.advance(0.6)

    embedded.vhost.set_policy(Policy("other", "^other$", {"expires": 5000}))
    finish(embedded.broker)
    embedded.advance(0.4)

    assert "q" not in embedded.vhost.queues


def test_a_queue_does_not_expire_whose_new_policy_has_not_come_to_it_yet(embedded):
    set_policy(embedded, {"expires": 1000})
    embedded.vhost.policies.delete("p")
    embedded.vhost.policy_epoch += 1

    embedded.advance(1)

    assert "q" in embedded.vhost.queues


# What was forgotten before the policy came


@pytest.fixture
async def kept(registry):
    async with durable(MemoryStore(), registry=registry) as made:
        yield made


@pytest.fixture
async def forgotten(kept):
    """A client with three messages of which only the sizes are in memory."""
    client = kept.connect()
    client.send(QueueDeclare("q", durable=True), QueueDeclare("dead", durable=True))
    method, properties = BasicPublish("", "q"), Properties(delivery_mode=2)
    client.feed(b"".join(published(b"%d" % n, method, properties=properties) for n in range(3)))
    await kept.persistence.flush()
    client.consume()
    queue = kept.broker.vhosts["/"].queue("q")
    assert 1 == len(list(Forgetter(kept.broker).forget({queue})))
    assert (3, queue.bytes) == (queue.unacked_count, queue.absent_bytes)
    client.take()
    return client


DEAD = {"dead-letter-exchange": "", "dead-letter-routing-key": "dead"}


async def held_by(kept, queue):
    """Return the bodies that a new consumer gets."""
    await kept.settle()
    found = kept.connect().send(BasicConsume(queue, "new"))
    await kept.settle()
    return [item.body for item in found + kept.clients[-1].take() if isinstance(item, Received)]


@pytest.mark.parametrize("more", [{}, {"max-length": 10}, {"retry-min": 10}])
async def test_what_was_forgotten_is_dead_lettered_by_a_new_policy(kept, forgotten, more):
    vhost = kept.broker.vhosts["/"]
    queue = vhost.queues["q"]
    vhost.set_policy(Policy("p", "^q$", {**DEAD, **more}))

    forgotten.send(BasicReject(1, False), BasicAck(2), BasicReject(3, False))

    assert [b"0", b"2"] == await held_by(kept, "dead")
    assert (0, 0, 0) == (queue.unacked_count, queue.unacked_bytes, queue.absent_bytes)
    queue.touch()
    kept.turns.finish()
    vhost.delete_policy("p")
    await kept.settle()
    assert type(queue) is Queue


async def test_what_was_forgotten_and_rejected_is_there_after_a_crash(kept, forgotten, registry):
    """It is in its queue until it is where it goes to: as one that came back."""
    vhost = kept.broker.vhosts["/"]
    vhost.set_policy(Policy("p", "^q$", DEAD))
    await kept.persistence.flush()
    kept.gate.hold_reads()
    forgotten.send(BasicReject(1, False))
    await kept.persistence.flush()
    await kept.lose()

    async with durable(kept.gate.store, registry=registry) as again:
        assert (3, 0) == again.connect().counts("q")


async def test_what_was_forgotten_times_out_by_a_new_policy(kept, forgotten):
    vhost = kept.broker.vhosts["/"]
    vhost.set_policy(Policy("p", "^q$", {"consumer-timeout": 50}))
    kept.turns.finish()

    kept.broker.now += 50
    kept.broker.timers.run_due(kept.broker.now, lambda: False)
    kept.turns.finish()

    await kept.settle()
    assert [BasicCancel("c", True)] == forgotten.take()
    assert [b"0", b"1", b"2"] == await held_by(kept, "q")


# One active consumer


def tags(came) -> list[str]:
    return [each.method.consumer_tag for each in came if isinstance(each, Received)]


def test_a_policy_says_of_consumers_that_are_there_which_one_is_active():
    with Embedded({"queues": ["q"]}) as broker:
        client = broker.connect()
        client.call(BasicQos(0, 1))
        client.send(BasicConsume("q", "a"), BasicConsume("q", "b"), BasicConsume("q", "c"))
        broker.publish("", "q", b"0")

        broker.vhost.set_policy(Policy("p", "q", {"single-active-consumer": True}, "queues"))
        for body in (b"1", b"2"):
            broker.publish("", "q", body)
        assert ["a"] == tags(client.take())
        assert ["a"] == tags(client.send(BasicAck(1)))

        broker.vhost.delete_policy("p")
        finish(broker.broker)
        broker.publish("", "q", b"3")

        assert ["b", "c"] == tags(client.take())
        client.send(BasicCancel("a"), BasicCancel("b"), BasicCancel("c"))
        assert 0 == broker.vhost.queues["q"].consumer_count


def test_a_queue_without_consumers_has_as_many_active_ones_as_its_policies_say():
    with Embedded({"queues": ["q"]}) as broker:
        broker.vhost.set_policy(Policy("p", "q", {"single-active-consumer": True}, "queues"))
        assert 0 == broker.vhost.queues["q"].ready_count
        broker.vhost.delete_policy("p")
        client = broker.connect()

        client.send(BasicConsume("q", "a"), BasicConsume("q", "b"))
        for body in (b"1", b"2"):
            broker.publish("", "q", body)

        assert ["a", "b"] == tags(client.take())

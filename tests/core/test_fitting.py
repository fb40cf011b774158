"""Fitting: a change of policies is in force at once, and comes to very many in steps."""

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.exchange import route
from leveret.broker.core.fitting import AT_A_STROKE
from leveret.broker.core.hooks import ExchangeHook, Phase, QueueHook, Reason, Verdict
from leveret.broker.core.policy import Policy
from leveret.broker.core.registry import Registry
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicPublish,
    BasicReject,
    ConfirmSelect,
)

from ..support.client import Client, finish, in_one_slice, published

MANY = 5 * AT_A_STROKE
CLOSED = Policy("closed", ".", {"closed": True})


class Closed(QueueHook):
    """Refuses what is published, and remembers what is rejected."""

    seen: list[Reason]
    fails = False

    def refit(self):
        if self.fails:
            raise RuntimeError("a plugin's fault")
        self.seen = []

    def admit(self, message):
        return Verdict.REFUSE

    def dropped(self, entries, reason):
        self.seen.append(reason)


class Counted(QueueHook):
    """Counts what comes back."""

    def refit(self):
        self.count = 0

    def returned(self, entries):
        self.count += len(entries)
        return entries


class Diverted(ExchangeHook):
    """Sends everything into one queue."""

    def divert(self, message, routing_keys):
        return [self.exchange.vhost.queues["q"]]


def a_truth(value, arguments):
    return None if value is True else "it is not true"


@pytest.fixture
def broker():
    registry = Registry()
    registry.argument("x-closed", a_truth, wanted="true")
    registry.argument("x-counted", a_truth, wanted="true")
    registry.argument("diverted", a_truth, wanted="true", applies_to="exchanges")
    registry.queue_hook(
        lambda queue: Closed if "closed" in queue.settings else None, phase=Phase.REFUSE
    )
    registry.queue_hook(
        lambda queue: Counted if "counted" in queue.settings else None, phase=Phase.RETRY
    )
    registry.exchange_hook(
        lambda exchange: Diverted if "diverted" in exchange.settings else None, phase=Phase.DELAY
    )
    made = Broker(registry=registry)
    made.add_defaults()
    return made


@pytest.fixture
def vhost(broker):
    return broker.vhosts["/"]


@pytest.fixture
def client(broker):
    """A client; its queue q comes after very many others."""
    made = Client(broker)
    for number in range(MANY):
        broker.vhosts["/"].declare_queue(f"other.{number}")
    made.declare("q")
    return made


def closed(vhost):
    return [name for name, queue in vhost.queues.items() if "closed" in queue.settings]


def hook(queue):
    [found] = queue.extras.hooks.values()
    return found


# In steps


def test_few_take_a_change_over_at_once(vhost):
    vhost.declare_queue("q")

    vhost.set_policy(CLOSED)

    assert ["q"] == closed(vhost)


def test_very_many_take_a_change_over_in_steps(broker, vhost, client):
    vhost.set_policy(CLOSED)

    counts = [len(closed(vhost))]
    while broker.batch.returns:
        broker.batch.resume(lambda: True)
        counts.append(len(closed(vhost)))
    assert MANY + 1 == counts[-1]
    assert AT_A_STROKE >= max(b - a for a, b in zip([0, *counts], counts, strict=False))


def test_before_anyone_is_served_all_do_it_at_once(broker, vhost, client):
    vhost.policies.put(CLOSED)

    vhost.apply_policies(is_at_once=True)

    assert (MANY + 1, 0) == (len(closed(vhost)), len(broker.batch.returns))


def test_another_change_meanwhile_begins_anew(broker, vhost, client):
    vhost.set_policy(CLOSED)
    broker.batch.resume(lambda: True)

    vhost.delete_policy("closed")
    finish(broker)

    assert [] == closed(vhost)
    assert all(queue.extras is None for queue in vhost.queues.values())


def test_queues_that_come_and_go_meanwhile_do_not_disturb(broker, vhost, client):
    vhost.set_policy(CLOSED)

    vhost.delete_queue(vhost.queues[f"other.{MANY - 1}"])
    vhost.declare_queue("late")
    finish(broker)

    assert MANY + 1 == len(closed(vhost)) == len(vhost.queues)


def test_a_queue_whose_plugin_fails_does_not_keep_the_others_from_it(broker, vhost):
    for name in "abc":
        vhost.declare_queue(name)
    vhost.set_policy(CLOSED)
    told = []
    broker.batch.failed = lambda who, problem: told.append((who, str(problem)))
    hook(vhost.queues["a"]).fails = True

    both = Policy("closed", ".", {"closed": True, "counted": True})

    vhost.set_policy(both)
    finish(broker)

    assert [(vhost.queues["a"], "a plugin's fault")] == told
    assert [1, 2, 2] == [len(queue.extras.hooks) for queue in vhost.queues.values()]


# In force at once


def test_a_publish_finds_its_queue_as_the_new_policy_has_it(vhost, client):
    client.call(ConfirmSelect())
    client.publish(b"before")  # its route is remembered
    vhost.set_policy(CLOSED)

    assert [BasicNack(2, False, False)] == client.publish(b"after")
    assert 1 == vhost.queues["q"].ready_count


def test_an_exchange_lets_its_hooks_see_the_next_message(vhost, client):
    for number in range(MANY):
        vhost.declare_exchange(f"x.{number}", "fanout")
    last = vhost.exchanges[f"x.{MANY - 1}"]
    vhost.set_policy(Policy("d", "^x", {"diverted": True}, "exchanges"))
    assert not last.hooks

    client.publish(b"1", exchange=last.name)

    assert b"1" == client.call(BasicGet("q")).body


def test_an_alternate_exchange_by_policy_counts_for_the_next_message(vhost, client):
    for number in range(MANY):
        vhost.declare_exchange(f"x.{number}", "direct")
    vhost.bind("amq.fanout", vhost.queues["q"], "")
    last = vhost.exchanges[f"x.{MANY - 1}"]
    assert () == route(last, ("k",)).queues

    vhost.set_policy(Policy("a", "^x", {"alternate-exchange": "amq.fanout"}, "exchanges"))

    assert (vhost.queues["q"],) == route(last, ("k",)).queues


def test_a_reject_goes_to_the_hooks_of_the_new_policy(vhost, client):
    client.publish(b"1")
    tag = client.call(BasicGet("q")).tag
    vhost.set_policy(CLOSED)

    assert in_one_slice(client, BasicReject(tag, False))

    assert [Reason.REJECTED] == hook(vhost.queues["q"]).seen


def test_what_comes_back_is_seen_by_the_hooks_of_the_new_policy(vhost, client):
    client.publish(b"1")
    tag = client.call(BasicGet("q")).tag
    vhost.set_policy(Policy("c", ".", {"counted": True}))

    assert in_one_slice(client, BasicNack(tag, False, True))

    assert 1 == hook(vhost.queues["q"]).count


def test_a_queue_that_a_client_names_is_as_the_new_policy_has_it(vhost, client):
    vhost.set_policy(CLOSED)

    assert in_one_slice(client, BasicConsume("q", "c"))

    assert "closed" in vhost.queues["q"].settings


def test_a_queue_that_deals_is_as_the_new_policy_has_it(broker, vhost, client):
    queue = vhost.queues["q"]
    queue.touch()
    vhost.set_policy(CLOSED)

    broker.batch.finish()

    assert "closed" in queue.settings


# What is no matter of policies


def test_a_hidden_queue_has_the_settings_of_its_plugin(broker, vhost):
    queue = vhost.hidden_queue("hidden", arguments={"own": 1})
    vhost.set_policy(CLOSED)

    queue.keep_time()
    queue.touch()
    finish(broker)

    assert {"own": 1} == queue.settings
    assert queue.policy_epoch == vhost.policy_epoch


@pytest.mark.parametrize("operator", [False, True])
def test_a_policy_that_means_nothing_changes_nothing(vhost, operator):
    vhost.declare_queue("q")
    epoch = vhost.policy_epoch

    with pytest.raises(ValueError, match="policy 'p': 'closed' is 1, it must be true"):
        vhost.set_policy(Policy("p", ".", {"closed": 1}), operator=operator)

    assert (epoch, []) == (vhost.policy_epoch, closed(vhost))
    with pytest.raises(PreconditionFailed):
        vhost.declare_queue("r", arguments={"x-closed": 1})


def test_an_operator_policy_takes_effect_and_ends(broker, vhost, client):
    vhost.set_policy(CLOSED, operator=True)
    finish(broker)
    assert MANY + 1 == len(closed(vhost))

    vhost.delete_policy("closed", operator=True)
    finish(broker)

    assert [] == closed(vhost)


def test_messages_under_way_are_in_their_queue_before_it_becomes_another_one(vhost, client):
    client.session.receive(published(b"1", BasicPublish("", "q")))
    client.session.run(lambda: False)
    assert 1 == len(vhost.queues["q"].incoming)

    vhost.set_policy(Policy("c", ".", {"counted": True}))
    finish(vhost.broker)

    assert b"1" == client.call(BasicGet("q")).body

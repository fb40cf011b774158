"""Fitting: queues and exchanges get the settings that their arguments and the policies make, and
the hooks that these ask for; others they lose.

Law: hooks are made when something is declared and when its settings change, never when a message
passes. What is in a queue when a hook comes is taken over (`QueueHook.adopt`). An order that is not
asked for any more goes when nothing is in it, and so does the other strategy.

A change of policies is in force at once: who is used takes it over first (whoever looks at
`policy_epoch`), and all others do so some at a time.

Called by: core.vhost, core.hooked (once a queue is empty).
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from leveret.broker.core.arguments import is_quorum
from leveret.broker.core.chunks import neighbours
from leveret.broker.core.consumer import Ring
from leveret.broker.core.extras import Extras
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.lanes import Lanes
from leveret.broker.core.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leveret.broker.core.exchange import Destination, Exchange
    from leveret.broker.core.hooks import QueueHook
    from leveret.broker.core.policy import Kind
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost

AT_A_STROKE = 64  # exchanges and queues: two milliseconds, if all of them get other hooks


# Settings


def take_over(vhost: VirtualHost, epoch: int) -> Iterator[None]:
    """Have all that is there take over the policies of an epoch, some with each step.

    What is declared later has them; after a later change there is nothing left to do.
    """
    everything: Iterator[Destination]
    everything = chain(tuple(vhost.exchanges.values()), tuple(vhost.queues.values()))
    while some := tuple(islice(everything, AT_A_STROKE)):
        for subject in some:
            if vhost.policy_epoch != epoch:
                return
            if subject.policy_epoch != epoch and not subject.deleted:
                try:
                    vhost.refit(subject)
                except Exception as problem:  # of a plugin; the others take them over all the same
                    vhost.broker.batch.failed(subject, problem)
        yield


def refit_queue(queue: Queue, *, is_forced: bool = False) -> None:
    """Have a queue take over what its arguments and the policies say now.

    Args:
      is_forced: Whether to choose hooks anew also if they say the same.
    """
    vhost = queue.vhost
    registry = vhost.broker.registry
    queue.policy_epoch = vhost.policy_epoch
    if queue.deleted:
        return
    if queue.is_hidden:  # its settings are its plugin's matter
        fit_queue(queue)
        return
    queue.policy = vhost.policies.effective(_policy_kind(queue), queue.name)
    known = registry.queue_arguments
    found = settings(queue.arguments, known, queue.policy, registry.smaller_wins)
    is_changed = found != queue.settings
    queue.settings = found
    if registry.queue_hooks and (is_changed or is_forced or queue.extras is not None):
        fit_queue(queue)


def _policy_kind(queue: Queue) -> Kind:
    return "quorum_queue" if is_quorum(queue.arguments) else "classic_queue"


def refit_exchange(exchange: Exchange) -> None:
    """Have an exchange take over what its arguments and the policies say now."""
    vhost = exchange.vhost
    registry = vhost.broker.registry
    exchange.policy_epoch = vhost.policy_epoch
    if not exchange.name:  # no policy is about the default exchange
        return
    policy = vhost.policies.effective("exchange", exchange.name)
    exchange.apply_policy(policy)
    known = registry.exchange_arguments
    exchange.settings = settings(exchange.arguments, known, policy, registry.smaller_wins)
    if registry.exchange_hooks:
        fit_exchange(exchange)


# Hooks


def fit_queue(queue: Queue) -> None:
    """Give a queue the hooks that its settings ask for."""
    kinds: dict[object, type[QueueHook]] = {}
    for _, _, choose in queue.vhost.broker.registry.queue_hooks:
        kind = choose(queue)
        if kind is not None:
            kinds[choose] = kind
    extras = queue.extras
    if extras is None:
        if not kinds:
            return
        extras = Extras(queue)
    new = extras.fit(kinds)
    if queue.admitting != extras.admitting:
        queue.admitting = extras.admitting
        queue.vhost.epoch += 1  # who knows the way there knows whether anybody is to be asked
    _fit_ring(queue, extras)
    if extras.is_deep or isinstance(queue, HookedQueue):
        _fit_deep(queue, extras, new)
    else:
        queue.extras = extras if kinds or extras.leaving else None


def _fit_ring(queue: Queue, extras: Extras) -> None:
    """Have the rule that a hook asks for, or the usual one, say who gets messages."""
    asked = next((ring for hook in extras.hooks.values() if (ring := hook.ring())), None)
    ring = Ring() if asked is None else asked
    if not queue.is_ruled_by(type(ring)):
        queue.use_ring(ring)
        queue.touch()


def _fit_deep(queue: Queue, extras: Extras, new: list[QueueHook]) -> None:
    was_plain = not isinstance(queue, HookedQueue)
    if not isinstance(queue, HookedQueue):
        queue.settle_in()
        queue.extras = extras
        queue.__class__ = HookedQueue
    assert isinstance(queue, HookedQueue)
    if was_plain:
        queue.take_over_returned()
    found = next((lanes for hook in extras.hooks.values() if (lanes := hook.lanes())), None)
    extras.is_stale = False
    if found is not extras.lanes and (found is not None or extras.lanes.is_keyed):
        if extras.lanes.is_keyed and extras.lanes.count:
            extras.is_stale = True  # what is in the old order is served in it
        else:
            extras.lanes = found or Lanes(queue)
            extras.lanes.begin()
    if any(hook.counts_octets for hook in new):
        queue.count_octets()
    for hook in new:
        for first, count in _there_before(queue):
            hook.adopt(first, count)
    if not extras.is_deep:
        if extras.is_idle:
            queue.become_plain()
        else:
            extras.is_stale = True
    queue.touch()


def _there_before(queue: HookedQueue) -> list[tuple[int, int]]:
    """Return first and number of the positions that are ready."""
    chunks = chain.from_iterable(lane.items() for lane in queue.extras.lanes.all())
    return sorted(chain.from_iterable(map(neighbours, chunks)))


def fit_exchange(exchange: Exchange) -> None:
    """Give an exchange the hooks that its settings ask for."""
    before, exchange.hooks = exchange.hooks, {}
    for _, _, choose in exchange.vhost.broker.registry.exchange_hooks:
        kind = choose(exchange)
        if kind is None:
            continue
        known = before.get(choose)
        if type(known) is kind:
            known.refit()
            exchange.hooks[choose] = before.pop(choose)
        else:
            exchange.hooks[choose] = kind(exchange)
    for gone in before.values():
        gone.close()

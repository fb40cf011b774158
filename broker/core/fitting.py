"""Fitting: queues and exchanges get the hooks that their settings ask for, and lose the others.

Law: hooks are made when something is declared and when its settings change, never when a message
passes. What is in a queue when a hook comes is taken over (`QueueHook.adopt`). An order that is not
asked for any more goes when nothing is in it, and so does the other strategy.

Called by: core.vhost, core.hooked (once a queue is empty).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from leveret.broker.core.extras import Extras
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.lanes import Lanes

if TYPE_CHECKING:
    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.hooks import QueueHook
    from leveret.broker.core.queue import Queue


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
    for hook in extras.hooks.values():
        ring = hook.ring()
        if ring is not None and not queue.consumers:
            queue.use_ring(ring)
    if extras.is_deep or isinstance(queue, HookedQueue):
        _fit_deep(queue, extras, new)
    else:
        queue.extras = extras if kinds or extras.leaving else None


def _fit_deep(queue: Queue, extras: Extras, new: list[QueueHook]) -> None:
    if not isinstance(queue, HookedQueue):
        queue.settle_in()
        queue.extras = extras
        queue.__class__ = HookedQueue
    assert isinstance(queue, HookedQueue)
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
    """Return first and number of positions among which all are that are ready."""
    chunks = chain.from_iterable(lane.items() for lane in queue.extras.lanes.all())
    found = [(chunk.base, chunk.end - chunk.base) for chunk in chunks]
    found += [(position, 1) for position, _ in queue.returned.after(-1)]
    return sorted(found)


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

"""Celery's ETA: a task that is not due yet waits in the broker, not inside a worker.

Law: in a queue that asks for it, a task with an `eta` is ready from that moment on, so it takes no
room in the window of any worker before. At its time `expires` it is gone, wherever in the queue it
is; where the queue or the property `expiration` says another time, the earlier one counts. A task
that has expired already when it comes is delivered to nobody. What is no task, or has no times, is
served as in any other queue.

A revocation that is broadcast to all workers cancels the tasks of that id that wait in the queues
of its virtual host, and goes on to the workers, who know how to treat what they have. Nothing is
remembered of it: a task that comes, or is retried, after it is the workers' to discard.

The workers need not know of any of this; see `celery_message`.

No RabbitMQ has this. Registered for: x-celery of queues, fanout exchanges `*.pidbox`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from leveret.broker.core.arguments import boolean
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.hooks import ExchangeHook, Phase, QueueHook
from leveret.broker.plugins.celery_message import CONTROL_SUFFIX, read, revoked, task_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.plugins.celery_message import Task


class CeleryTasks(QueueHook):
    """Has tasks wait until they are due, and expire in time."""

    def placed(self, base: int, messages: Sequence[Message]) -> None:
        """Tell until when tasks wait and when they expire."""
        for position, message in enumerate(messages, base):
            task = read(message)
            if task is not None:
                self._schedule(position, task)

    def _schedule(self, position: int, task: Task) -> None:
        queue = cast("HookedQueue", self.queue)
        broker = queue.vhost.broker
        now, offset = broker.now, broker.wall_offset
        if task.expires_ms is not None:
            end = max(task.expires_ms - offset, 1)
            queue.expire_at(end, position, is_absolute=True)
            if end <= now:  # what waits is looked at before it is delivered
                queue.wait_until(position, end)
                return
        if task.eta_ms is not None and task.eta_ms - offset > now:
            queue.wait_until(position, task.eta_ms - offset, is_absolute=True)

    def identity(self, message: Message) -> str | None:
        """Return the id of a task."""
        return task_id(message)


class Revocation(ExchangeHook):
    """Cancels the waiting tasks that a broadcast to all workers revokes."""

    def divert(self, message: Message, routing_keys: Sequence[str]) -> Sequence[Queue] | None:
        """Cancel tasks, and let the message go on."""
        ids = revoked(message)
        if ids:
            for queue in self.exchange.vhost.queues.values():
                if isinstance(queue, HookedQueue) and _is_celery(queue):
                    _cancel(queue, ids)
        return None


def _cancel(queue: HookedQueue, ids: Sequence[str]) -> None:
    if queue.incoming:
        queue.deal()  # what came before the revocation has its position then
    for each in ids:
        positions = queue.find_waiting(each)
        if positions:
            queue.cancel_waiting(positions)


def _is_celery(queue: Queue) -> bool:
    return queue.settings.get("celery") is True


def _of_queue(queue: Queue) -> type[QueueHook] | None:
    return CeleryTasks if _is_celery(queue) else None


def _of_exchange(exchange: Exchange) -> type[ExchangeHook] | None:
    is_control = exchange.type_name == "fanout" and exchange.name.endswith(CONTROL_SUFFIX)
    return Revocation if is_control else None


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    registry.argument("x-celery", boolean, wanted="true or false")
    registry.queue_hook(_of_queue, phase=Phase.DELAY)
    registry.exchange_hook(_of_exchange, phase=Phase.WATCH)

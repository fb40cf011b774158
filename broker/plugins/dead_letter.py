"""Dead-lettering: what leaves a queue without being acknowledged goes to an exchange.

Law: the removal from the queue and the arrival in others are in one commit, so a crash neither
loses nor doubles a dead letter. If the exchange is not there at that moment, or leads nowhere, the
message is gone. One that would die in a circle with nobody having rejected it is not sent where it
was before. Messages of a queue that is deleted, purged or expires are no dead letters.

RabbitMQ: dlx.html. Registered for: x-dead-letter-exchange, x-dead-letter-routing-key,
x-dead-letter-strategy (it is always at least once here).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.arguments import plain
from leveret.broker.core.exchange import route
from leveret.broker.core.hooks import Phase, QueueHook, Reason
from leveret.broker.core.placing import find, republish_all
from leveret.broker.plugins.death import Deaths, cycle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry

MEMO_LIMIT = 4096


class DeadLetter(QueueHook):
    """Publishes what is dropped to the dead-letter exchange."""

    def refit(self) -> None:
        """Read where dead letters go."""
        settings = self.queue.settings
        self._exchange = plain(settings["dead-letter-exchange"])  # octets, if it is no UTF-8
        key = settings.get("dead-letter-routing-key")
        self._routing_key = None if key is None else plain(key)
        self._routes: dict[Sequence[str], tuple[Queue, ...]] = {}
        self._epoch = -1

    def dropped(self, entries: Sequence[Entry], reason: Reason) -> None:
        """Publish messages to the dead-letter exchange."""
        queue = self.queue
        vhost = queue.vhost
        exchange = vhost.exchanges.get(self._exchange)
        if exchange is None:
            vhost.broker.events.emit(
                "dead_letters.lost", vhost=vhost, queue=queue, exchange=self._exchange
            )
            return
        deaths = Deaths(
            queue=queue.name,
            reason=reason.value,
            time_s=vhost.broker.wall // 1000,
            exchange=self._exchange,
            routing_key=self._routing_key,
        )
        together: list[Message] = []  # neighbours that go to the same queues
        where: Sequence[Queue] = ()
        for _, message in entries:
            dead, keys, is_first = deaths.letter(message)
            queues = self._find(exchange, keys, dead)
            if reason is not Reason.REJECTED and (not is_first or queue in queues):
                name = reason.value
                queues = [each for each in queues if not cycle(dead, each.name, name)]
            if queues is not where:
                republish_all(together, where)
                together, where = [], queues
            together.append(dead)
        republish_all(together, where)

    def _find(self, exchange: Exchange, keys: Sequence[str], dead: Message) -> Sequence[Queue]:
        """Find the queues of a dead letter; remember them where only its keys count."""
        epoch = exchange.vhost.epoch
        if epoch != self._epoch or len(self._routes) > MEMO_LIMIT:
            self._routes.clear()
            self._epoch = epoch
        known = self._routes.get(keys)
        if known is not None:
            return known
        found = route(exchange, keys)
        if found.depends_on_headers or found.stops:
            return find(exchange, keys, dead)
        self._routes[keys] = found.queues
        return found.queues


def _dead_letter(queue: Queue) -> type[QueueHook] | None:
    return DeadLetter if "dead-letter-exchange" in queue.settings else None


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    for argument in ("exchange", "routing-key", "strategy"):
        registry.argument(f"x-dead-letter-{argument}")
    registry.queue_hook(_dead_letter, phase=Phase.DEAD_LETTER)

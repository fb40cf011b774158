"""Routes: the memo of where messages go, for one user in one virtual host.

Law: it holds what was found for the topology and permissions of `epoch`; when either changes,
all is found anew. It is bounded, and shared by all sessions of the user in the virtual host.

Called by: amqp.publish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leveret.broker.core.exchange import Exchange, Routing
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.content import Envelope

MEMO_LIMIT = 16384


class Routes:
    """Queues by envelope: the method payload and channel that messages have in common.

    Attributes:
      by_headers: Exchanges by envelope where the queues depend on each message's headers, and
        nothing else is left to check. As current as what `current` returned last.
      by_admission: Queues by envelope where one of them has to be asked, and nothing else is left
        to check. As current as that.
      by_hooks: What `route` found by envelope where the hooks of the exchange have to see each
        message first, and nothing else is left to check. As current as that.
    """

    __slots__ = ("_by_envelope", "_epoch", "_vhost", "by_admission", "by_headers", "by_hooks")

    def __init__(self, vhost: VirtualHost) -> None:
        self._vhost = vhost
        self._epoch = (-1, -1)
        self._by_envelope: dict[Envelope, tuple[Queue, ...]] = {}
        self.by_headers: dict[Envelope, Exchange] = {}
        self.by_admission: dict[Envelope, tuple[Queue, ...]] = {}
        self.by_hooks: dict[Envelope, Routing] = {}

    def current(self) -> dict[Envelope, tuple[Queue, ...]]:
        """Return the memo, emptied if it is stale or full."""
        epoch = (self._vhost.epoch, self._vhost.broker.users.epoch)
        others = len(self.by_headers) + len(self.by_admission) + len(self.by_hooks)
        if epoch != self._epoch or len(self._by_envelope) + others > MEMO_LIMIT:
            self._by_envelope.clear()
            self.by_headers.clear()
            self.by_admission.clear()
            self.by_hooks.clear()
            self._epoch = epoch
        return self._by_envelope

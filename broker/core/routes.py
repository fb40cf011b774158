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
# Of one envelope: tables of headers, and octets of each.
TABLES_LIMIT, TABLE_LIMIT = 1024, 512


class ByHeaders:
    """Where the messages of an envelope go whose headers decide it.

    Attributes:
      exchange: Where they are published.
      known: Queues by the octets of the headers; None where nearly each message has others.
      hits: Messages that it knew the queues of, since it was empty.
    """

    __slots__ = ("exchange", "hits", "known")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.known: dict[bytes, tuple[Queue, ...]] | None = {}
        self.hits = 0


class Routes:
    """Queues by envelope: the method payload and channel that messages have in common.

    Attributes:
      by_headers: What is known by envelope where the queues depend on each message's headers, and
        nothing else is left to check. As current as what `current` returned last.
      by_admission: Queues by envelope where one of them has to be asked, and nothing else is left
        to check. As current as that.
      by_hooks: What `route` found by envelope where the hooks of the exchange have to see each
        message first, and nothing else is left to check. As current as that.
    """

    __slots__ = (
        "_by_envelope",
        "_epoch",
        "_tables",
        "_vhost",
        "by_admission",
        "by_headers",
        "by_hooks",
    )

    def __init__(self, vhost: VirtualHost) -> None:
        self._vhost = vhost
        self._epoch = (-1, -1)
        self._by_envelope: dict[Envelope, tuple[Queue, ...]] = {}
        self.by_headers: dict[Envelope, ByHeaders] = {}
        self._tables = 0
        self.by_admission: dict[Envelope, tuple[Queue, ...]] = {}
        self.by_hooks: dict[Envelope, Routing] = {}

    def current(self) -> dict[Envelope, tuple[Queue, ...]]:
        """Return the memo, emptied if it is stale or full."""
        epoch = (self._vhost.epoch, self._vhost.broker.users.epoch)
        others = len(self.by_headers) + len(self.by_admission) + len(self.by_hooks) + self._tables
        if epoch != self._epoch or len(self._by_envelope) + others > MEMO_LIMIT:
            self._by_envelope.clear()
            self.by_headers.clear()
            self._tables = 0
            self.by_admission.clear()
            self.by_hooks.clear()
            self._epoch = epoch
        return self._by_envelope

    def remember_table(self, of: ByHeaders, table: bytes, queues: tuple[Queue, ...]) -> None:
        """Remember where messages with these headers go, or forget about it as they all differ."""
        known = of.known
        if known is None or len(table) > TABLE_LIMIT:
            return
        if len(known) >= TABLES_LIMIT:
            self._tables -= len(known)
            known.clear()
            if of.hits < TABLES_LIMIT:
                of.known = None
                return
            of.hits = 0
        known[table] = queues
        self._tables += 1

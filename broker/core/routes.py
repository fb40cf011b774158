"""Routes: the memo of where messages go, for one user in one virtual host.

Law: it holds what was found for the topology and permissions of `epoch`; when either changes,
all is found anew. It is bounded, and shared by all sessions of the user in the virtual host.

Called by: core.broker (makes them), amqp.session and amqp.publish (ask).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.exchange import route, tell
from leveret.broker.core.hooks import ExchangeHook

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leveret.broker.core.exchange import Exchange, Routing
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.content import Envelope

MEMO_LIMIT = 16384
TABLES = 1024  # of headers, of one envelope: by then it shows whether any of them come again
TABLE_OCTETS = 512  # of one of them: a memo that is full of them takes 8 MB at most


class ByHeaders:
    """Where the messages of an envelope go whose headers, or more of them, decide it.

    Attributes:
      known: Queues by the octets of the headers; None where nearly each message has others.
      hits: Messages that it knew the queues of, since it was empty.
    """

    __slots__ = ("_exchange", "_keys", "_memo", "hits", "known")

    def __init__(self, memo: Routes, exchange: Exchange, keys: Sequence[str]) -> None:
        self._memo = memo
        self._exchange = exchange
        self._keys = keys
        self.known: dict[bytes, tuple[Queue, ...]] | None = {}
        self.hits = 0

    def find(self, message: Message) -> Sequence[Queue] | None:
        """Return the queues of a message, None if hooks of exchanges or queues have a say."""
        table = b""
        if self.known is not None:
            table = message.headers_octets
            queues = self.known.get(table)
            if queues is not None:
                self.hits += 1
                return queues
        found = route(self._exchange, self._keys, message=message)
        if found.stops or have_to_be_asked(found.queues):
            return None
        if found.watching:
            tell(found, self._keys, message)
        else:
            self._remember(table, found.queues)
        return found.queues

    def _remember(self, table: bytes, queues: tuple[Queue, ...]) -> None:
        """Remember where messages with these headers go, or forget about it as they all differ."""
        known = self.known
        if known is None or len(table) > TABLE_OCTETS or self._memo.tables > MEMO_LIMIT:
            return
        if len(known) >= TABLES:
            self._memo.tables -= len(known)
            known.clear()
            if self.hits < TABLES:
                self.known = None
                return
            self.hits = 0
        known[table] = queues
        self._memo.tables += 1


class ByHook:
    """Where the messages of an envelope go that nothing but a hook of their exchange diverts."""

    __slots__ = ("_divert", "_keys", "_onward")

    def __init__(self, hook: ExchangeHook, keys: Sequence[str], onward: Sequence[Queue]) -> None:
        self._divert = hook.divert
        self._keys = keys
        self._onward = onward

    @classmethod
    def of(cls, exchange: Exchange, keys: Sequence[str]) -> ByHook | None:
        """Return one for an exchange where a route stops; None if there is more to ask."""
        hook, *others = exchange.hooks.values()
        kind = type(hook)
        is_only_diverting = kind.admit is ExchangeHook.admit
        is_only_diverting &= kind.admitted is ExchangeHook.admitted
        if others or not is_only_diverting:
            return None
        onward = route(exchange, keys, is_past_hooks=True)
        if onward.depends_on_headers or onward.stops or have_to_be_asked(onward.queues):
            return None
        return cls(hook, keys, onward.queues)

    def find(self, message: Message) -> Sequence[Queue] | None:
        """Return the queues of a message, None if their hooks have a say."""
        diverted = self._divert(message, self._keys)
        if diverted is None:
            return self._onward
        return None if have_to_be_asked(diverted) else diverted


def have_to_be_asked(queues: Iterable[Queue]) -> bool:
    """Whether any of the queues has hooks that have to see a message first."""
    for queue in queues:  # noqa: SIM110 - `any` costs six times as much
        if queue.admitting:
            return True
    return False


class Routes:
    """Queues by envelope: the method payload and channel that messages have in common.

    Attributes:
      by_message: Who finds the queues of each message, by envelope, where they depend on it and
        nothing else is left to check. As current as what `current` returned last.
      by_admission: Queues by envelope where one of them has to be asked, and nothing else is left
        to check. As current as that.
      tables: Entries of all `ByHeaders` together.
      by_hooks: What `route` found by envelope where the hooks of the exchange have to see each
        message first, and nothing else is left to check. As current as that.
    """

    __slots__ = (
        "_by_envelope",
        "_epoch",
        "_vhost",
        "by_admission",
        "by_hooks",
        "by_message",
        "tables",
    )

    def __init__(self, vhost: VirtualHost) -> None:
        self._vhost = vhost
        self._epoch = (-1, -1)
        self._by_envelope: dict[Envelope, tuple[Queue, ...]] = {}
        self.by_message: dict[Envelope, ByHeaders | ByHook] = {}
        self.tables = 0
        self.by_admission: dict[Envelope, tuple[Queue, ...]] = {}
        self.by_hooks: dict[Envelope, Routing] = {}

    def current(self) -> dict[Envelope, tuple[Queue, ...]]:
        """Return the memo, emptied if it is stale or full."""
        epoch = (self._vhost.epoch, self._vhost.broker.users.epoch)
        others = len(self.by_message) + len(self.by_admission) + len(self.by_hooks) + self.tables
        if epoch != self._epoch or len(self._by_envelope) + others > MEMO_LIMIT:
            self._by_envelope.clear()
            self.by_message.clear()
            self.tables = 0
            self.by_admission.clear()
            self.by_hooks.clear()
            self._epoch = epoch
        return self._by_envelope

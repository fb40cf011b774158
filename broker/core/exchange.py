"""Exchanges: where messages come in, and the walk that finds their queues.

Law: routing is a pure function of the topology, the routing keys and the headers, and of the
message or chance where an exchange's type says so. It changes nothing, so it may be asked "what
if" at any time, and its result holds until the topology's epoch changes (unless it depends on
the message). Who publishes by a route tells the exchanges on it that watch.

Called by: core.vhost (makes them), core.wiring (bindings); amqp.publish, core.routes, core.placing
and core.explain (route).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from leveret.broker.core.arguments import ALTERNATE_EXCHANGE, type_name
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.wire import EMPTY_TABLE

if TYPE_CHECKING:
    from leveret.broker.core.binding import Binding, Identity
    from leveret.broker.core.exchange_types import ExchangeType
    from leveret.broker.core.hooks import ExchangeHook
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost

    Destination: TypeAlias = Queue | "Exchange"
    Recorder: TypeAlias = Callable[["Exchange", Sequence[Destination], "Exchange | None"], None]

Table: TypeAlias = Mapping[str, object]


class Exchange:
    """One exchange of a virtual host.

    Attributes:
      bindings: Its bindings as source, by identity, in the order they were made.
      policy: What policies say about it; `apply_policy` sets it.
      policy_epoch: That of the policies which it is from.
      settings: What arguments and policies say together, under the names of policy keys.
      hooks: What plugins do with its messages, by who made them.
      alternate: Name of the exchange that gets what this one cannot route.
    """

    __slots__ = (
        "alternate",
        "arguments",
        "auto_delete",
        "bindings",
        "deleted",
        "durable",
        "hooks",
        "internal",
        "name",
        "policy",
        "policy_epoch",
        "settings",
        "type",
        "type_name",
        "vhost",
    )

    def __init__(
        self,
        vhost: VirtualHost,
        name: str,
        exchange_type: ExchangeType,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Table = EMPTY_TABLE,
    ) -> None:
        self.vhost = vhost
        self.name = name
        self.type = exchange_type
        self.type_name = exchange_type.name
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = arguments
        self.bindings: dict[Identity, Binding] = {}
        self.deleted = False
        self.hooks: dict[object, ExchangeHook] = {}
        self.settings: Table = EMPTY_TABLE
        self.policy_epoch = vhost.policy_epoch
        self.apply_policy(EMPTY_TABLE)

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r} [{self.type_name}] in {self.vhost.name!r}>"

    def __str__(self) -> str:
        return f"exchange '{self.name}' in vhost '{self.vhost.name}'"

    def apply_policy(self, policy: Table) -> None:
        """Take over what policies say; the exchange's own argument wins."""
        self.policy = policy
        alternate = self.arguments.get(ALTERNATE_EXCHANGE, policy.get(ALTERNATE_EXCHANGE))
        self.alternate = alternate if isinstance(alternate, str) else None

    def match(
        self, routing_keys: Sequence[str], headers: Table | None, message: Message | None = None
    ) -> Iterable[Destination]:
        """Return the destinations of its own bindings, each once."""
        if self.type.uses_message:
            return self.type.match_message(routing_keys, message)
        if len(routing_keys) == 1 or not self.type.uses_key:
            return self.type.match(routing_keys[0], headers)
        found: dict[Destination, None] = {}
        for routing_key in routing_keys:
            found.update(dict.fromkeys(self.type.match(routing_key, headers)))
        return found


def routing_keys(routing_key: str, headers: Table | None) -> tuple[str, ...]:
    """Return all keys a message is routed by: its own, then those of the headers CC and BCC.

    Raises:
      PreconditionFailed: One of these headers is no array.
    """
    if not headers:
        return (routing_key,)
    return (routing_key, *_copies(headers, "CC"), *_copies(headers, "BCC"))


def _copies(headers: Table, name: str) -> list[str]:
    value = headers.get(name)
    if value is None and name not in headers:
        return []
    if not isinstance(value, list):
        raise PreconditionFailed(
            f'invalid message: {{unacceptable_type_in_header,"{name}",{type_name(value)}}}'
        )
    return [key for key in value if isinstance(key, str)]


class Routing(NamedTuple):
    """Where a message goes.

    Attributes:
      queues: Each once, in the order they were found.
      depends_on_headers: Whether another message with these keys might have gone elsewhere.
      stops: Exchanges whose hooks have to see the message before it goes on from there.
      watching: Exchanges on its way that `tell` tells of a message that is published.
    """

    queues: tuple[Queue, ...]
    depends_on_headers: bool
    stops: tuple[Exchange, ...] = ()
    watching: tuple[Exchange, ...] = ()


def route(
    exchange: Exchange,
    routing_keys: Sequence[str],
    headers: Table | None = None,
    record: Recorder | None = None,
    *,
    message: Message | None = None,
    is_past_hooks: bool = False,
) -> Routing:
    """Find the queues of a message.

    Exchanges bound to exchanges are visited breadth first and once each, so cycles end. The
    alternate exchange is visited where an exchange's own bindings yield nothing. What a change of
    policies has not come to yet takes it over when a message does.

    Args:
      exchange: Where it was published.
      routing_keys: Its routing key, then those of CC and BCC. Never empty.
      headers: Its headers; only looked at if `depends_on_headers` comes out true.
      record: Told of each visited exchange, its own destinations and the alternate, if used.
      message: The message, for types that look at more than headers, and in place of `headers`.
      is_past_hooks: Whether the hooks of `exchange` have let the message go on.
    """
    vhost = exchange.vhost
    queues: dict[Queue, None] = {}
    stops: tuple[Exchange, ...] = ()
    watching: tuple[Exchange, ...] = ()
    visits, seen = [exchange], {exchange}
    depends_on_headers = False
    if exchange.policy_epoch != vhost.policy_epoch:
        vhost.refit(exchange)
    for visited in visits:
        if visited.hooks and not (is_past_hooks and visited is exchange):
            stops += (visited,)
            continue
        kind = visited.type
        if kind.uses_message or kind.uses_headers:
            depends_on_headers = True
            watching += (visited,) if kind.uses_message else ()
            headers = _headers(kind, headers, message)
        destinations = tuple(visited.match(routing_keys, headers, message))
        alternate = None if destinations else _alternate(visited)
        if record is not None:
            record(visited, destinations, alternate)
        for destination in destinations if alternate is None else (alternate,):
            if destination.policy_epoch != vhost.policy_epoch:
                vhost.refit(destination)
            if not isinstance(destination, Exchange):
                queues[destination] = None
            elif destination not in seen:
                seen.add(destination)
                visits.append(destination)
    return Routing(tuple(queues), depends_on_headers, stops, watching)


def _headers(kind: ExchangeType, headers: Table | None, message: Message | None) -> Table | None:
    """Return the headers that a type looks at, read from the message by the first that does."""
    if headers is not None or message is None or kind.uses_message:
        return headers
    return message.headers or EMPTY_TABLE


def tell(found: Routing, routing_keys: Sequence[str], message: Message) -> None:
    """Tell the exchanges that watch of a message that is published by this route."""
    for watcher in found.watching:
        watcher.type.passing(routing_keys, message)


def _alternate(exchange: Exchange) -> Exchange | None:
    # as RabbitMQ has it, the default exchange is nobody's alternate: it has no bindings
    return exchange.vhost.exchanges.get(exchange.alternate) if exchange.alternate else None

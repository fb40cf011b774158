"""Wiring: which bindings of a virtual host lead where.

Law: a binding is known at both its ends, or at none; each change of one bumps `epoch` (what was
remembered of routes is void) and is told as an event. An auto-delete exchange goes with the last
binding that it is the source of.

Called by: core.vhost (it is its base), amqp.exchange_methods and amqp.queue_methods (bind, unbind),
core.explain and definitions (what there is), entries, plugins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from leveret.broker.core.binding import Binding
from leveret.broker.core.checks import check_not_default
from leveret.broker.core.exchange import Exchange
from leveret.protocol.errors import NotFound
from leveret.protocol.wire import EMPTY_TABLE

if TYPE_CHECKING:
    from leveret.broker.core.binding import Identity
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Destination
    from leveret.broker.core.queue import Queue

Table: TypeAlias = Mapping[str, object]


class Wiring:
    """The exchanges and queues of a virtual host, and the bindings between them.

    Attributes:
      broker: The root object.
      name: That of the virtual host.
      exchanges: By name; the default exchange has the empty one.
      queues: By name.
      epoch: Grows with every change of the topology.
    """

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.epoch = 0
        self._bindings_to: dict[Destination, dict[Identity, Binding]] = {}

    # Look-up

    def exchange(self, name: str) -> Exchange:
        """Return an exchange, or raise `NotFound`."""
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise NotFound(f"no {self.described('exchange', name)}")
        return exchange

    def bindings(self) -> Iterator[Binding]:
        """Return all bindings but those of the default exchange, which are implied."""
        for exchange in self.exchanges.values():
            yield from exchange.bindings.values()

    def bindings_to(self, destination: Destination) -> tuple[Binding, ...]:
        """Return the bindings that lead to a queue or exchange."""
        return tuple(self._bindings_to.get(destination, {}).values())

    def described(self, kind: str, name: str) -> str:
        """Return how RabbitMQ's texts name a queue or exchange."""
        return f"{kind} '{name}' in vhost '{self.name}'"

    # Changes

    def bind(
        self,
        source: str,
        destination: Destination,
        routing_key: str,
        arguments: Table | None = None,
    ) -> Binding:
        """Return the binding, made now or before."""
        check_not_default(source)
        exchange = self.exchange(source)
        binding = _binding(exchange, destination, routing_key, arguments)
        exchange.type.check_binding(routing_key, binding.arguments)
        identity = binding.identity
        known = exchange.bindings.get(identity)
        if known is not None:
            return known
        exchange.type.bind(routing_key, binding.arguments, destination)
        exchange.bindings[identity] = binding
        self._bindings_to.setdefault(destination, {})[identity] = binding
        self.epoch += 1
        self.broker.events.emit("binding.created", vhost=self, binding=binding)
        exchange.type.bound(destination)
        return binding

    def find_binding(
        self,
        source: str,
        destination: Destination,
        routing_key: str,
        arguments: Table | None = None,
    ) -> Binding | None:
        """Return a binding if it exists."""
        exchange = self.exchanges.get(source)
        if exchange is None:
            return None
        binding = _binding(exchange, destination, routing_key, arguments)
        return exchange.bindings.get(binding.identity)

    def unbind(
        self,
        source: str,
        destination: Destination,
        routing_key: str,
        arguments: Table | None = None,
    ) -> None:
        """Remove a binding; one that does not exist is gone already."""
        check_not_default(source)
        binding = self.find_binding(source, destination, routing_key, arguments)
        if binding is not None:
            exchange = self.exchanges[source]
            self._remove(exchange, destination, binding)
            if exchange.auto_delete and not exchange.bindings:
                self._delete_exchanges([exchange])

    def _unbind_all(self, destination: Destination) -> list[Exchange]:
        """Remove what leads to a destination; return auto-delete exchanges that end with it."""
        unused: list[Exchange] = []
        for binding in tuple(self._bindings_to.get(destination, {}).values()):
            exchange = self.exchanges[binding.source]
            self._remove(exchange, destination, binding)
            if exchange.auto_delete and not exchange.bindings:
                unused.append(exchange)
        return unused

    def _remove(self, exchange: Exchange, destination: Destination, binding: Binding) -> None:
        identity = binding.identity
        del exchange.bindings[identity]
        exchange.type.unbind(binding.routing_key, binding.arguments, destination)
        leading = self._bindings_to[destination]
        del leading[identity]
        if not leading:
            del self._bindings_to[destination]
        self.epoch += 1
        self.broker.events.emit("binding.deleted", vhost=self, binding=binding)

    def _destination(self, binding: Binding) -> Destination:
        if binding.destination_kind == "queue":
            return self.queues[binding.destination]
        return self.exchanges[binding.destination]

    def _delete_exchanges(self, doomed: list[Exchange]) -> None:
        """Delete exchanges, and the auto-delete ones that lose their last binding by it."""
        while doomed:
            exchange = doomed.pop()
            if exchange.deleted:
                continue
            exchange.deleted = True
            for binding in tuple(exchange.bindings.values()):
                self._remove(exchange, self._destination(binding), binding)
            doomed += self._unbind_all(exchange)
            del self.exchanges[exchange.name]
            for hook in exchange.hooks.values():
                hook.close()
            self.epoch += 1
            self.broker.events.emit("exchange.deleted", vhost=self, exchange=exchange)


def _binding(
    source: Exchange, destination: Destination, routing_key: str, arguments: Table | None
) -> Binding:
    kind: Literal["queue", "exchange"] = (
        "exchange" if isinstance(destination, Exchange) else "queue"
    )
    return Binding(source.name, destination.name, kind, routing_key, arguments or EMPTY_TABLE)

"""Virtual hosts: namespaces of exchanges, queues and bindings.

Law: the topology changes here and in its base (`core.wiring`: bindings), and nowhere else; each
change bumps `epoch` (what was remembered of routes is void) and is told as an event. Names are
trusted here: who takes them from a client calls what is in `checks` first, in RabbitMQ's order.

Called by: amqp.exchange_methods, amqp.queue_methods, amqp.ending (exclusive queues), core.queue
(auto-delete), definitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

from leveret.broker.core.arguments import (
    ALTERNATE_EXCHANGE,
    check_equivalence,
    check_exchange_arguments,
    check_field,
    check_queue_arguments,
    check_queue_equivalence,
    ineffective,
)
from leveret.broker.core.checks import (
    GENERATED,
    check_deletable,
    check_may_be_unnamed,
    check_queue_limit,
    generated_name,
    locked,
)
from leveret.broker.core.exchange import Exchange
from leveret.broker.core.exchange_types import Default, ExchangeType
from leveret.broker.core.fitting import fit_queue, refit_exchange, refit_queue, take_over
from leveret.broker.core.policy import Policies
from leveret.broker.core.queue import Queue
from leveret.broker.core.wiring import Wiring
from leveret.protocol.errors import NotFound, PreconditionFailed
from leveret.protocol.wire import EMPTY_TABLE

if TYPE_CHECKING:
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Destination
    from leveret.broker.core.message import Message
    from leveret.broker.core.policy import Policy

Table: TypeAlias = Mapping[str, object]

PREDECLARED = (
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
)
TRACE = "amq.rabbitmq.trace"
MAX_WARNED = 1 << 16  # remembered warnings


class Tap(Protocol):
    """Who sees every message of a virtual host."""

    def published(
        self,
        channel: object,
        message: Message,
        routing_keys: Sequence[str],
        queues: Sequence[Queue],
    ) -> None:
        """See a message that a channel has published, and where it goes unless it is refused."""

    def delivered(
        self, channel: object, queue: Queue, messages: Sequence[Message], redelivered: bool
    ) -> None:
        """See messages that a channel gets out of a queue."""


class VirtualHost(Wiring):
    """One namespace.

    Attributes:
      hidden: Queues of plugins, which no client can name.
      policies: What policies say, by kind and name.
      policy_epoch: Grows with every change of them; who has another has not taken it over yet.
      tap: Sees every message that is published or delivered; None if nobody wants to.
    """

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(broker, name)
        self.hidden: dict[str, Queue] = {}
        self.policy_epoch = 0
        self.tap: Tap | None = None
        self.policies = Policies(partial(broker.events.emit, vhost=self), broker.registry)
        self._max_queues: int | None = None
        self._owned: dict[object, dict[Queue, None]] = {}
        self._warned: set[tuple[str, str]] = set()
        self.exchanges[""] = Exchange(self, "", Default(self.queues), durable=True)
        for exchange, type_name in PREDECLARED:
            self.declare_exchange(exchange, type_name, durable=True)
        self.declare_exchange(TRACE, "topic", durable=True, internal=True)

    def __repr__(self) -> str:
        return f"<VirtualHost {self.name!r}>"

    @property
    def max_queues(self) -> int | None:
        """How many queues may be declared, None for any number."""
        return self._max_queues

    @max_queues.setter
    def max_queues(self, most: int | None) -> None:
        if most != self._max_queues:
            self._max_queues = most
            self.broker.events.emit("vhost.changed", vhost=self)

    # Look-up

    def queue(self, name: str) -> Queue:
        """Return a queue, or raise `NotFound`."""
        queue = self.queues.get(name)
        if queue is None:
            raise NotFound(f"no {self.described('queue', name)}")
        if queue.policy_epoch != self.policy_epoch:
            self.refit(queue)
        return queue

    def exchange_type(self, name: str) -> type[ExchangeType]:
        """Return the class of an exchange type, or raise `PreconditionFailed`.

        RabbitMQ 3.10 closes the connection with 503; this is 3.13's answer.
        """
        found = self.broker.registry.exchange_types.get(name)
        if found is None:
            raise PreconditionFailed(f"unknown exchange type '{name}'")
        return found

    # Exchanges

    def declare_exchange(
        self,
        name: str,
        type_name: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Table | None = None,
        is_restored: bool = False,
    ) -> Exchange:
        """Return the exchange, made now or before; raise if it was made differently.

        Args:
          is_restored: Whether it was there before: arguments that are refused now have no effect.
        """
        exchange_type = self.exchange_type(type_name)
        arguments = EMPTY_TABLE if arguments is None else arguments
        subject, table = self.described("exchange", name), self.broker.registry.exchange_arguments
        known = self.exchanges.get(name)
        if known is not None:
            check_field("type", type_name, known.type_name, subject)
            check_field("durable", durable, known.durable, subject)
            check_field("auto_delete", auto_delete, known.auto_delete, subject)
            check_field("internal", internal, known.internal, subject)
            others = [name for name, argument in table.items() if argument.compared]
            compared = (ALTERNATE_EXCHANGE, *known.type.compared_arguments, *others)
            check_equivalence(compared, arguments, known.arguments, subject)
            return known
        if not is_restored:
            check_exchange_arguments(arguments, subject, table)
        exchange = Exchange(
            self,
            name,
            exchange_type(arguments),
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )
        self.refit(exchange)
        self.exchanges[name] = exchange
        self.epoch += 1
        self.broker.events.emit("exchange.created", vhost=self, exchange=exchange)
        return exchange

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange with its bindings; one that does not exist is gone already."""
        check_deletable(self, name)
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise PreconditionFailed(f"{self.described('exchange', name)} in use")
        self._delete_exchanges([exchange])

    # Queues

    def declare_queue(
        self,
        name: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        owner: object | None = None,
        arguments: Table | None = None,
        is_restored: bool = False,
    ) -> Queue:
        """Return the queue, made now or before; raise if it was made differently.

        Args:
          name: Its name; an empty one is replaced by `generated_name`.
          durable: Whether it survives a restart; exclusive queues never do.
          auto_delete: Whether it goes with its last consumer.
          owner: The session that alone may use it, None if all may.
          arguments: Its x-arguments.
          is_restored: Whether it was there before: arguments that are refused now have no effect.
        """
        arguments = EMPTY_TABLE if arguments is None else arguments
        durable = durable and owner is None
        registry = self.broker.registry
        known = self.queues.get(name)
        if known is not None:
            subject = self.described("queue", name)
            if known.owner is not owner:
                raise locked(known)
            check_field("durable", durable, known.durable, subject)
            check_field("auto_delete", auto_delete, known.auto_delete, subject)
            check_queue_equivalence(arguments, known.arguments, subject, registry.queue_arguments)
            return known
        if not name:
            check_may_be_unnamed(arguments)
        check_queue_limit(self, name)
        if not is_restored:
            check_queue_arguments(
                arguments,
                self.described("queue", name),
                durable=durable,
                auto_delete=auto_delete,
                exclusive=owner is not None,
                table=registry.queue_arguments,
            )
        queue = Queue(
            self,
            name or generated_name(),
            durable=durable,
            auto_delete=auto_delete,
            owner=owner,
            arguments=arguments,
        )
        self._add_queue(queue)
        return queue

    def _add_queue(self, queue: Queue) -> None:
        self.refit(queue, is_forced=True)  # a plugin may have a note of it, and no setting
        self.queues[queue.name] = queue
        if queue.owner is not None:
            self._owned.setdefault(queue.owner, {})[queue] = None
        self.epoch += 1
        self.broker.events.emit("queue.created", vhost=self, queue=queue)
        self.warn_of(queue, ineffective(queue.arguments, self.broker.registry.queue_arguments))

    def hidden_queue(
        self, name: str, *, durable: bool = False, arguments: Table = EMPTY_TABLE
    ) -> Queue:
        """Return a queue that only a plugin knows, made now or before.

        Args:
          arguments: What its hooks find in its settings, just like this.
        """
        queue = self.hidden.get(name)
        if queue is None:
            queue = self.hidden[name] = Queue(self, name, durable=durable, arguments=arguments)
            queue.is_hidden = True
            queue.settings = arguments
            fit_queue(queue)
            self.broker.events.emit("queue.created", vhost=self, queue=queue)
        return queue

    def delete_hidden(self, name: str) -> None:
        """Delete a hidden queue with its messages; one that is not there is gone already."""
        queue = self.hidden.pop(name, None)
        if queue is not None:
            queue.delete()
            self.broker.events.emit("queue.deleted", vhost=self, queue=queue)

    def all_queues(self) -> Iterator[Queue]:
        """Return all queues, hidden ones too."""
        yield from self.queues.values()
        yield from self.hidden.values()

    def warn_of(self, queue: Queue, arguments: Iterable[str]) -> None:
        """Tell once a name and argument that it has no effect; generated names share theirs."""
        shared = "" if queue.name.startswith(GENERATED) else queue.name
        for argument in arguments:
            if (shared, argument) not in self._warned:
                if len(self._warned) >= MAX_WARNED:
                    self._warned.clear()
                self._warned.add((shared, argument))
                self.broker.events.emit(
                    "argument.ineffective", vhost=self, queue=queue, argument=argument
                )

    def delete_queue(self, queue: Queue, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue with its bindings and messages; return how many were ready or waited.

        A queue in which messages wait, or are on their way out of it, is not empty: they would be
        gone. As in RabbitMQ, what consumers have does not count.
        """
        if self.queues.get(queue.name) is not queue:
            return 0
        subject = self.described("queue", queue.name)
        ready = queue.ready_count + queue.waiting_count
        is_left = queue.extras is not None and (queue.extras.leaving or queue.extras.ending)
        if if_empty and (ready or is_left):
            raise PreconditionFailed(f"{subject} not empty")
        if if_unused and queue.consumer_count:
            raise PreconditionFailed(f"{subject} in use")
        unused = self._unbind_all(queue)  # it is told of each binding while both ends are there
        del self.queues[queue.name]
        if queue.owner is not None:
            owned = self._owned[queue.owner]
            del owned[queue]
            if not owned:
                del self._owned[queue.owner]
        self.epoch += 1
        queue.delete()
        self.broker.events.emit("queue.deleted", vhost=self, queue=queue)
        self._delete_exchanges(unused)
        return ready

    def owned_by(self, owner: object) -> tuple[Queue, ...]:
        """Return the exclusive queues of a session."""
        return tuple(self._owned.get(owner, ()))

    # The end

    def clear(self) -> None:
        """Delete all that is in it, as it is being deleted itself."""
        for queue in tuple(self.queues.values()):
            self.delete_queue(queue)
        for name in tuple(self.hidden):
            self.delete_hidden(name)
        self._delete_exchanges([exchange for name, exchange in self.exchanges.items() if name])
        for policy in tuple(self.policies):
            self.policies.delete(policy.name)
        for policy in tuple(self.policies.operator_policies):
            self.policies.delete(policy.name, operator=True)

    # Tracing

    def let_see(self, tap: Tap | None) -> None:
        """Have somebody see every message from now on, None for nobody."""
        self.tap = tap
        self.epoch += 1  # what is remembered of routes goes past it

    # Policies

    def set_policy(self, policy: Policy, *, operator: bool = False) -> None:
        """Add a policy, or replace the one of that name, and have it take effect.

        Raises:
          PolicyError: It means nothing; the text says why.
        """
        self.policies.put(policy, operator=operator)
        self.apply_policies()

    def delete_policy(self, name: str, *, operator: bool = False) -> None:
        """Remove a policy and its effect; KeyError if there is none of that name."""
        self.policies.delete(name, operator=operator)
        self.apply_policies()

    def apply_policies(self, *, is_at_once: bool = False) -> None:
        """Have every exchange and queue take over changed policies.

        Whoever is used does it before; the others follow in steps (`Batch.returns`). Another change
        meanwhile begins anew.

        Args:
          is_at_once: Whether all do it now, however many there are: nobody is served yet.
        """
        self.policy_epoch += 1
        self.epoch += 1
        steps = take_over(self, self.policy_epoch)
        if is_at_once:
            for _ in steps:
                pass
        elif next(steps, self) is not self:
            self.broker.batch.returns.append(steps)

    def refit(self, subject: Destination, *, is_forced: bool = False) -> None:
        """Have a queue or exchange take over what its arguments and the policies say now.

        Args:
          is_forced: Whether to choose hooks anew also if they say the same.
        """
        if isinstance(subject, Exchange):
            refit_exchange(subject)
        else:
            refit_queue(subject, is_forced=is_forced)

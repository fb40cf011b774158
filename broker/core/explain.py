"""Explain: what would become of a publish, and the reason for every step.

Law: it asks what a publish asks, in the same order: the checks of `core.checks`, the permissions
of `core.users`, and `route` with a recorder. So it cannot tell anything else than what happens.
Hooks are named, not asked: asking may change what they know; the rest is told as if they agreed. It
changes nothing, and it costs little more than routing, however many bindings there are: what is
above a limit is counted and left out, and bindings to where the message goes come first.

Called by: core.lookups, tests.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from leveret.broker.core.arguments import ALTERNATE_EXCHANGE, is_quorum
from leveret.broker.core.checks import DIRECT_REPLY, check_expiration, check_user_id
from leveret.broker.core.exchange import Exchange, Routing, route, routing_keys
from leveret.broker.core.explanation import (
    BindingVerdict,
    Check,
    Explanation,
    QueueVerdict,
    Refusal,
    Settings,
    Visit,
)
from leveret.broker.core.reasons import Why, why
from leveret.protocol.constants import NO_ROUTE
from leveret.protocol.errors import AccessRefused, AMQPError, NotFound
from leveret.protocol.properties import Properties
from leveret.protocol.wire import EMPTY_TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from leveret.broker.core.binding import Binding
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Destination, Table
    from leveret.broker.core.policy import Kind
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost

LIMIT = 100  # exchanges, bindings and queues that are shown, each

NO_PROPERTIES = Properties()


def explain(
    broker: Broker,
    *,
    vhost: str,
    user: str,
    exchange: str,
    routing_key: str,
    headers: Table | None = None,
    properties: Properties | None = None,
    limit: int = LIMIT,
) -> Explanation:
    """Tell what would become of a publish, without publishing.

    Args:
      broker: The broker.
      vhost: Name of the virtual host.
      user: Name of the publisher.
      exchange: Name of the exchange, "" for the default one.
      routing_key: The message's own.
      headers: Its headers; those of `properties` if there are none here.
      properties: Its properties; expiration and user id are checked.
      limit: How many exchanges, bindings and queues are told of, each.
    """
    properties = properties or NO_PROPERTIES
    headers = properties.headers if headers is None else headers
    checks = _Checks(broker, vhost, user)
    asked = vhost, user, exchange
    try:
        source = checks.exchange(exchange)
        keys = checks.message(source, routing_key, headers, properties)
    except AMQPError as problem:
        refusal = Refusal(problem.code, problem.text)
        ending = "nothing: the publish is refused"
        told = tuple(checks.made)
        return Explanation(
            "refused", *asked, (routing_key,), told, refusal, (), 0, (), 0, False, ending
        )
    walk = _Walk(source, keys, headers, limit)
    is_answered = checks.direct_reply(exchange, keys)
    count = len(walk.routing.queues)
    return Explanation(
        verdict="routed" if count else "unroutable",
        vhost=vhost,
        user=user,
        exchange=exchange,
        routing_keys=keys,
        checks=tuple(checks.made),
        refusal=None,
        exchanges=tuple(walk.visits),
        exchanges_left_out=walk.visits_left_out,
        queues=tuple(walk.queues()),
        queues_left_out=max(count - limit, 0),
        depends_on_headers=walk.routing.depends_on_headers,
        if_mandatory=_if_mandatory(count, is_answered),
    )


def _if_mandatory(count: int, is_answered: bool) -> str:
    if count or is_answered:
        return "nothing: the message arrives"
    return f"the publisher gets it back with {NO_ROUTE} NO_ROUTE; else it is dropped"


class _Checks:
    """What is asked before a message is routed, in the order of a publish."""

    def __init__(self, broker: Broker, vhost: str, user: str) -> None:
        self.made: list[Check] = []
        self._broker = broker
        self._vhost = vhost
        self._user = user

    def _ask(self, subject: str, is_passed: bool, reason: str, error: type[AMQPError]) -> None:
        self.made.append(Check(subject, is_passed, reason))
        if not is_passed:
            raise error(reason)

    def exchange(self, name: str) -> Exchange:
        """Return the exchange, if this user may publish to it."""
        users, vhost, user = self._broker.users, self._vhost, self._user
        found = self._broker.vhosts.get(vhost)
        is_there = "exists" if found is not None else "does not exist"
        self._ask("vhost", found is not None, f"vhost '{vhost}' {is_there}", NotFound)
        assert found is not None
        is_known = "exists" if user in users else "does not exist"
        self._ask("user", user in users, f"user '{user}' {is_known}", AccessRefused)
        may_access = users.may_access(user, vhost)
        may = "may" if may_access else "may not"
        reason = f"user '{user}' {may} connect to vhost '{vhost}'"
        self._ask("access", may_access, reason, AccessRefused)
        pattern = users.permissions[user, vhost].write
        is_allowed = users.check(user, vhost, "write", name)
        reason = f"write pattern '{pattern}' {_fits(is_allowed)} '{name or 'amq.default'}'"
        self._ask("permission", is_allowed, reason, AccessRefused)
        return self._exchange(found, name)

    def _exchange(self, vhost: VirtualHost, name: str) -> Exchange:
        exchange = vhost.exchanges.get(name)
        subject = vhost.described("exchange", name)
        is_there = "exists" if exchange is not None else "does not exist"
        self._ask("exchange", exchange is not None, f"{subject} {is_there}", NotFound)
        assert exchange is not None
        is_open = "is internal" if exchange.internal else "is open to publishers"
        self._ask("internal", not exchange.internal, f"{subject} {is_open}", AccessRefused)
        return exchange

    def message(
        self, exchange: Exchange, routing_key: str, headers: Table | None, properties: Properties
    ) -> tuple[str, ...]:
        """Return the keys of a message that this user may publish to the exchange."""
        if properties.expiration is not None:
            with _Noting(self.made, "expiration", f"'{properties.expiration}' is a time"):
                check_expiration(properties.expiration)
        with _Noting(self.made, "CC and BCC", "they are arrays, or not there"):
            keys = routing_keys(routing_key, headers)
        if exchange.type.checks_topic:
            for key in keys:
                self._topic(exchange, key)
        if properties.user_id is not None:
            with _Noting(self.made, "user id", f"'{self._user}' may say '{properties.user_id}'"):
                check_user_id(properties.user_id, self._broker.users[self._user])
        return keys

    def _topic(self, exchange: Exchange, key: str) -> None:
        users, vhost, user = self._broker.users, self._vhost, self._user
        row = users.topic_permissions.get((user, vhost), {}).get(exchange.name)
        is_allowed = users.check_topic(user, vhost, exchange.name, "write", key)
        reason = (
            f"no topic permission limits user '{user}' on exchange '{exchange.name}'"
            if row is None
            else f"write pattern '{row.write}' {_fits(is_allowed)} routing key '{key}'"
        )
        self._ask("topic permission", is_allowed, reason, AccessRefused)

    def direct_reply(self, exchange: str, keys: Sequence[str]) -> bool:
        """Tell whether the message is an answer that goes to a channel, and note it."""
        prefix = DIRECT_REPLY + "."
        answers = [key for key in keys if not exchange and key.startswith(prefix)]
        waiting = [key for key in answers if key[len(prefix) :] in self._broker.reply_channels]
        if answers:
            reason = f"{len(waiting)} of {len(answers)} direct replies have a channel that waits"
            self.made.append(Check("direct reply", bool(waiting), reason))
        return bool(waiting)


class _Noting:
    """Notes how a check of `core.checks` ended, which raises where it fails."""

    def __init__(self, made: list[Check], subject: str, reason: str) -> None:
        self._made = made
        self._subject = subject
        self._reason = reason

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, problem: BaseException | None, where: object) -> None:
        reason = problem.text if isinstance(problem, AMQPError) else self._reason
        self._made.append(Check(self._subject, problem is None, reason))


def _fits(is_allowed: bool) -> str:
    return "matches" if is_allowed else "does not match"


class _Walk:
    """One walk of `route`, written down by its recorder.

    Attributes:
      routing: What it found.
      visits: The exchanges, up to the limit.
      visits_left_out: How many more there were.
    """

    def __init__(
        self, source: Exchange, keys: Sequence[str], headers: Table | None, limit: int
    ) -> None:
        self._keys = keys
        self._headers = headers or {}
        self._limit = limit
        self._bindings_left = limit
        self._queues_left = limit
        # where exchanges, and the first queues, were found first, and whether as an alternate
        self._parents: dict[Destination, tuple[Exchange, bool] | None] = {source: None}
        self.visits: list[Visit] = []
        self.visits_left_out = 0
        self._visited: set[Exchange] = set()
        self.routing = self._route(source)

    def _route(self, source: Exchange) -> Routing:
        """Route as `core.placing` does where all hooks let the message go on."""
        keys, headers = self._keys, self._headers
        found = route(source, keys, headers, self._record)
        queues, depends = dict.fromkeys(found.queues), found.depends_on_headers
        stops = list(found.stops)
        seen = set(stops)
        while stops:
            onward = route(stops.pop(), keys, headers, self._record, is_past_hooks=True)
            queues.update(dict.fromkeys(onward.queues))
            depends = depends or onward.depends_on_headers
            stops += [stop for stop in onward.stops if stop not in seen]
            seen.update(onward.stops)
        return Routing(tuple(queues), depends)

    def _record(
        self, exchange: Exchange, destinations: Sequence[Destination], alternate: Exchange | None
    ) -> None:
        if exchange in self._visited:  # beyond an exchange with hooks one may come here once more
            return
        self._visited.add(exchange)
        parents = self._parents
        taken = destinations if alternate is None else (alternate,)
        back = self._remember(taken, (exchange, alternate is not None))
        if len(self.visits) == self._limit:
            self.visits_left_out += 1
            return
        parent = parents[exchange]
        considered, left_out = self._consider(exchange, destinations)
        self.visits.append(
            Visit(
                name=exchange.name,
                type=exchange.type_name,
                internal=exchange.internal,
                reached_from=None if parent is None else parent[0].name,
                is_alternate=parent is not None and parent[1],
                settings=_exchange_settings(exchange),
                hooks=tuple(type(hook).__name__ for hook in exchange.hooks.values()),
                bindings=considered,
                bindings_left_out=left_out,
                leads_to=len(taken),
                leads_back_to=tuple(back[: self._limit]),
                alternate=exchange.alternate,
                alternate_reason=_alternate_reason(exchange, destinations),
            )
        )

    def _remember(self, taken: Sequence[Destination], way: tuple[Exchange, bool]) -> list[str]:
        """Note where destinations were found first; return which exchanges had been before."""
        parents, back = self._parents, []
        for destination in taken:
            if isinstance(destination, Exchange):
                if destination in parents:
                    back.append(destination.name)
                else:
                    parents[destination] = way
            elif self._queues_left and destination not in parents:
                parents[destination] = way
                self._queues_left -= 1
        return back

    def _consider(
        self, exchange: Exchange, destinations: Sequence[Destination]
    ) -> tuple[tuple[BindingVerdict, ...], int]:
        """Return verdicts on bindings, and how many have none.

        No exchange takes more than half of the room that is left for them.
        """
        share = (self._bindings_left + 1) // 2
        if not exchange.name:
            keys = self._keys[:share]
            self._bindings_left -= len(keys)
            verdicts = (_implied(exchange.vhost, key) for key in keys)
            return tuple(verdicts), len(self._keys) - len(keys)
        chosen = dict(islice(_leading_on(exchange, destinations), share))
        for identity, binding in islice(exchange.bindings.items(), share):
            if len(chosen) == share:
                break
            chosen.setdefault(identity, binding)
        self._bindings_left -= len(chosen)
        found = [
            (binding, why(exchange.type, binding, self._keys, self._headers))
            for binding in chosen.values()
        ]
        reached: set[tuple[str, str]] = set()
        if any(reason is None for _, reason in found):
            reached.update((_kind(each), each.name) for each in destinations)
        verdicts = (self._verdict(exchange, *each, reached) for each in found)
        return tuple(verdicts), len(exchange.bindings) - len(found)

    def _verdict(
        self, exchange: Exchange, binding: Binding, found: Why | None, reached: set[tuple[str, str]]
    ) -> BindingVerdict:
        if found is None:
            is_chosen = (binding.destination_kind, binding.destination) in reached
            word = "chose" if is_chosen else "did not choose"
            found = Why(is_chosen, f"exchange type '{exchange.type_name}' {word} its destination")
        return BindingVerdict(
            binding.destination,
            binding.destination_kind,
            binding.routing_key,
            binding.arguments,
            *found,
        )

    def queues(self) -> Iterator[QueueVerdict]:
        """Return verdicts on the queues that were found, up to the limit."""
        for queue in self.routing.queues[: self._limit]:
            hooks = tuple(type(hook).__name__ for hook in queue.admitting)
            yield QueueVerdict(queue.name, self._path(queue), _queue_settings(queue), hooks)

    def _path(self, queue: Queue) -> tuple[str, ...]:
        path: list[str] = []
        parent = self._parents[queue]
        while parent is not None:
            path.append(parent[0].name)
            parent = self._parents[parent[0]]
        return tuple(reversed(path))


def _implied(vhost: VirtualHost, key: str) -> BindingVerdict:
    """Return the verdict on what binds each queue to the default exchange."""
    is_there = key in vhost.queues
    word = "a" if is_there else "no"
    return BindingVerdict(
        key, "queue", key, EMPTY_TABLE, is_there, f"there is {word} queue '{key}'"
    )


def _leading_on(
    exchange: Exchange, destinations: Sequence[Destination]
) -> Iterator[tuple[object, Binding]]:
    """Return bindings to where the message goes from here, with what tells them apart."""
    for destination in destinations:
        for binding in exchange.vhost.bindings_to(destination):
            if binding.source == exchange.name:
                yield binding.identity, binding


def _kind(destination: Destination) -> str:
    return "exchange" if isinstance(destination, Exchange) else "queue"


def _alternate_reason(exchange: Exchange, destinations: Sequence[Destination]) -> str:
    if exchange.alternate is None:
        return "it has no alternate exchange"
    if destinations:
        return "not used: a binding of its own takes the message"
    if exchange.alternate not in exchange.vhost.exchanges or not exchange.alternate:
        return f"not used: there is no exchange '{exchange.alternate}'"
    return "used: no binding of its own takes the message"


def _exchange_settings(exchange: Exchange) -> Settings:
    effective = dict(exchange.settings)
    if exchange.alternate is not None:
        effective[ALTERNATE_EXCHANGE] = exchange.alternate
    return _settings(exchange, "exchange", effective)


def _queue_settings(queue: Queue) -> Settings:
    kind: Kind = "quorum_queue" if is_quorum(queue.arguments) else "classic_queue"
    return _settings(queue, kind, queue.settings)


def _settings(subject: Destination, kind: Kind, effective: Mapping[str, object]) -> Settings:
    def applied(operator: bool) -> str | None:
        if not subject.name:  # no policy is about the default exchange
            return None
        policy = subject.vhost.policies.match(kind, subject.name, operator=operator)
        return None if policy is None else policy.name

    return Settings(applied(False), applied(True), subject.arguments, effective)

"""Registry: the tables that plugins fill.

Law: a broker has one registry, filled before anything is declared and not changed after. What the
core itself has (the four exchange types, RabbitMQ's arguments and policy keys) stands in it from
the start; a plugin adds to it, or gives an argument that does nothing yet its meaning.

Called by: plugins (register); core.vhost, core.policy, core.fitting, topology, definitions.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from leveret.broker.core.arguments import CONSUMER_ARGUMENTS, QUEUE_ARGUMENTS, Argument
from leveret.broker.core.exchange_types import EXCHANGE_TYPES
from leveret.broker.core.policy import EFFECTIVE, KEYS, SMALLER_WINS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from leveret.broker.core.arguments import Table, Validator
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.exchange_types import ExchangeType
    from leveret.broker.core.hooks import ExchangeHook, QueueHook
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.resources import Route
    from leveret.broker.core.users import User

    QueueChoice: TypeAlias = Callable[[Queue], type[QueueHook] | None]
    ExchangeChoice: TypeAlias = Callable[[Exchange], type[ExchangeHook] | None]
    Start: TypeAlias = Callable[[Broker], None]
    Background: TypeAlias = Callable[[Broker], Awaitable[None]]
    Authenticate: TypeAlias = Callable[[Broker, str, bytes], User | None]

AppliesTo: TypeAlias = Literal["queues", "exchanges", "consumers"]


class RegistryError(ValueError):
    """A plugin asks for what cannot be; the text says what."""


@dataclass
class Registered:
    """What one plugin has registered, for people: kinds and names."""

    name: str
    version: str = ""
    is_enabled: bool = True
    problem: str = ""
    what: list[str] = field(default_factory=list)


class Registry:
    """What there is.

    Attributes:
      exchange_types: By the name that clients declare.
      queue_arguments: x-arguments of queues, in the order in which they are checked.
      exchange_arguments: Arguments of exchanges that plugins know.
      consumer_arguments: Those of basic.consume.
      policy_keys: What a policy's definition may hold: a check that returns what would have been
        right, or None.
      effective_keys: Those that do something.
      smaller_wins: Those of which the smallest value counts where several are given.
      queue_hooks: Phase, plugin and choice of each hook of queues, in the order they are called.
      exchange_hooks: The same for exchanges.
      starts: Called once with a broker that has just been made.
      authenticators: Who else may know a user, by name.
      backgrounds: Run as tasks as long as the broker serves.
      routes: Resources for the HTTP interface.
      plugins: What was loaded, for people.
    """

    def __init__(self) -> None:
        self.exchange_types: dict[str, type[ExchangeType]] = dict(EXCHANGE_TYPES)
        self.queue_arguments: dict[str, Argument] = dict(QUEUE_ARGUMENTS)
        self.exchange_arguments: dict[str, Argument] = {}
        self.consumer_arguments: dict[str, Argument] = dict(CONSUMER_ARGUMENTS)
        self.policy_keys: dict[str, Callable[[object], str | None]] = dict(KEYS)
        self.effective_keys: set[str] = set(EFFECTIVE)
        self.smaller_wins: set[str] = set(SMALLER_WINS)
        self.queue_hooks: list[tuple[int, str, QueueChoice]] = []
        self.exchange_hooks: list[tuple[int, str, ExchangeChoice]] = []
        self.starts: list[Start] = []
        self.authenticators: dict[str, Authenticate] = {}
        self.backgrounds: list[Background] = []
        self.routes: list[Route] = []
        self.plugins: dict[str, Registered] = {}
        self._current = Registered("core")
        self._before: dict[str, object] = {}

    # What plugins call

    def exchange_type(self, kind: type[ExchangeType]) -> None:
        """Add a type of exchange, under its `name`."""
        if kind.name in self.exchange_types:
            raise RegistryError(f"there is an exchange type '{kind.name}' already")
        self._note(f"exchange type {kind.name}")
        self.exchange_types[kind.name] = kind

    def argument(
        self,
        name: str,
        validator: Validator | None = None,
        *,
        wanted: str = "",
        applies_to: AppliesTo = "queues",
        compared: bool = True,
        smaller_wins: bool = False,
    ) -> None:
        """Add an x-argument, and the policy key that stands for it (its name without `x-`).

        Args:
          name: As clients write it.
          validator: Says why a value is refused; None for an argument that RabbitMQ has, too.
          wanted: What a value has to be, for the text that refuses a policy.
          applies_to: Whose argument it is; those of consumers are no policy keys.
          compared: Whether a redeclaration must repeat the value.
          smaller_wins: Whether the smallest counts where argument and policies give several.
        """
        table = {
            "queues": self.queue_arguments,
            "exchanges": self.exchange_arguments,
            "consumers": self.consumer_arguments,
        }[applies_to]
        known = table.get(name)
        if validator is None:
            if known is None:
                raise RegistryError(f"the argument '{name}' needs a validator: nobody knows it")
            table[name] = known._replace(effective=True)
        elif known is not None:
            raise RegistryError(f"there is an argument '{name}' already")
        else:
            table[name] = Argument(validator, compared=compared)
        self._note(f"argument {name}")
        if applies_to != "consumers":
            key = policy_key(name)
            self.effective_keys.add(key)
            self.policy_keys.setdefault(key, _policy_check(table[name].validate, wanted))
            if smaller_wins:
                self.smaller_wins.add(key)

    def queue_hook(self, choose: QueueChoice, *, phase: int) -> None:
        """Have a function choose a hook for each queue, by its settings; None if it needs none.

        It is asked when a queue is declared, and when its settings change.
        """
        self._note("queue hook")
        self.queue_hooks.append((phase, self._current.name, choose))
        self.queue_hooks.sort(key=lambda hook: hook[:2])

    def exchange_hook(self, choose: ExchangeChoice, *, phase: int) -> None:
        """Have a function choose a hook for each exchange but the default one; None for none.

        It is asked when an exchange is declared, and when policies change.
        """
        self._note("exchange hook")
        self.exchange_hooks.append((phase, self._current.name, choose))
        self.exchange_hooks.sort(key=lambda hook: hook[:2])

    def start(self, start: Start) -> None:
        """Have something done with each broker that is made, before anything is declared."""
        self._note("start")
        self.starts.append(start)

    def authenticator(self, name: str, authenticate: Authenticate) -> None:
        """Have logins tried elsewhere when the broker does not know the user or the password.

        Args:
          name: What it is called, for people.
          authenticate: Takes the broker, a name and a password; returns a user, or None.
            Permissions stay the broker's: they go by the user's name. It must not wait: nothing
            else happens meanwhile.
        """
        self._note(f"authenticator {name}")
        self.authenticators[name] = authenticate

    def background(self, run: Background) -> None:
        """Have a task run as long as the broker serves; one that ends, or fails, stays ended."""
        self._note("background task")
        self.backgrounds.append(run)

    def resource(self, route: Route) -> None:
        """Add a resource of the HTTP interface."""
        self._note(f"resource {route.method} {route.pattern}")
        self.routes.append(route)

    # What loads them calls

    def begin(self, plugin: Registered) -> None:
        """Note what is registered from now on under a plugin's name."""
        plugin.what = []
        self.plugins[plugin.name] = self._current = plugin
        self._before = {name: copy(table) for name, table in vars(self).items() if name in _TABLES}

    def undo(self) -> None:
        """Take back what the last plugin has registered: it has failed."""
        vars(self).update(self._before)
        self._current.what = []

    def _note(self, what: str) -> None:
        if what not in self._current.what:
            self._current.what.append(what)


def policy_key(argument: str) -> str:
    """Return the policy key that stands for an x-argument.

    >>> policy_key("x-message-ttl")
    'message-ttl'
    """
    return argument.removeprefix("x-")


def _policy_check(validate: Validator, wanted: str) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        reason = validate(value, _NOTHING)
        return None if reason is None else wanted or reason

    return check


_NOTHING: Table = {}
_TABLES = (
    *("exchange_types", "queue_arguments", "exchange_arguments", "consumer_arguments"),
    *("policy_keys", "effective_keys", "smaller_wins", "queue_hooks", "exchange_hooks"),
    *("starts", "authenticators", "backgrounds", "routes"),
)

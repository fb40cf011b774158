"""Exchange types: which destinations a routing key and headers select.

Law: a type knows its bindings and does not change while it matches, so one may ask what would
happen; that a message did pass is told apart. It looks at messages only where key and headers do
not suffice, as then nothing can be remembered of a route. The cost of `match` follows from what
matches, not from how many bindings there are. Built-in types register here exactly as those of
plugins do.

Called by: core.exchange, core.vhost, topology, plugins. Destinations are any hashable objects:
queues and exchanges.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from leveret.broker.core.arguments import term, type_name
from leveret.broker.core.binding import comparable
from leveret.protocol.errors import PreconditionFailed

if TYPE_CHECKING:
    from leveret.broker.core.exchange import Destination
    from leveret.broker.core.message import Message

Table: TypeAlias = Mapping[str, object]

# Destinations with the number of bindings that lead there: two bindings that differ in their
# arguments only are two, and the destination stays until both are gone. Dicts keep the order.
Counts: TypeAlias = "dict[Destination, int]"


def _add(counts: Counts, destination: Destination) -> None:
    counts[destination] = counts.get(destination, 0) + 1


def _remove(counts: Counts, destination: Destination) -> None:
    left = counts.get(destination, 0) - 1
    if left > 0:
        counts[destination] = left
    else:
        counts.pop(destination, None)


class ExchangeType:
    """The routing rule of one exchange, with an index of its bindings.

    Attributes:
      name: What clients declare.
      uses_key: Whether each routing key is matched, those of CC and BCC, too; if not, the first
        one stands for all.
      uses_headers: Whether the result depends on the headers, so that it cannot be remembered.
        An exchange's arguments may decide.
      uses_message: Whether `match_message` is asked instead of `match`, for each message anew, and
        `passing` is told of each: for what depends on other properties, on chance or on what
        passed before. An exchange's arguments may decide.
      checks_topic: Whether topic permissions apply.
      compared_arguments: Arguments of the exchange that a redeclaration must repeat.
      has_hooks: Whether a plugin has to see each message of such an exchange.
    """

    name: ClassVar[str]
    uses_key: bool = True
    uses_headers: bool = False
    uses_message: bool = False
    checks_topic: bool = False
    compared_arguments: ClassVar[tuple[str, ...]] = ()
    has_hooks: bool = False

    def __init__(self, arguments: Table) -> None:
        """Make the index for an exchange declared with `arguments`; raise if they will not do."""

    def check_binding(self, binding_key: str, arguments: Table) -> None:
        """Raise `PreconditionFailed` for a binding that means nothing to this type."""

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        """Add a binding. The caller adds no binding twice."""
        raise NotImplementedError

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        """Remove a binding that was added."""
        raise NotImplementedError

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        """Return the destinations of a message, each once."""
        raise NotImplementedError

    def match_message(
        self, routing_keys: Sequence[str], message: Message | None
    ) -> Iterable[Destination]:
        """Return the destinations of a message, each once; of any message if none is given."""
        raise NotImplementedError

    def bound(self, destination: Destination) -> None:
        """Take note of a binding that was just made; what it puts into queues is of the slice."""

    def passing(self, routing_keys: Sequence[str], message: Message) -> None:
        """Take note of a message that is published through the exchange."""


class Direct(ExchangeType):
    """The routing key equals the binding key."""

    name = "direct"

    def __init__(self, arguments: Table) -> None:
        self._by_key: dict[str, Counts] = {}

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        _add(self._by_key.setdefault(binding_key, {}), destination)

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        counts = self._by_key.get(binding_key)
        if counts is not None:
            _remove(counts, destination)
            if not counts:
                del self._by_key[binding_key]

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        return self._by_key.get(routing_key, ())


class Fanout(ExchangeType):
    """Every message goes to every destination."""

    name = "fanout"
    uses_key = False

    def __init__(self, arguments: Table) -> None:
        self._counts: Counts = {}

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        _add(self._counts, destination)

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        _remove(self._counts, destination)

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        return self._counts


class Default(ExchangeType):
    """The default exchange: the routing key is the name of the queue; there are no bindings."""

    name = "direct"

    def __init__(self, queues: Mapping[str, Destination]) -> None:
        self._queues = queues

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        queue = self._queues.get(routing_key)
        return () if queue is None else (queue,)


class _Node:
    """A place in the tree of binding keys.

    Attributes:
      words: Children by literal word.
      star: Child behind `*`.
      hash: Child behind `#`.
      swallows: Whether this node is itself a `#`, which takes any further word.
      counts: Destinations of the binding keys that end here.
    """

    __slots__ = ("counts", "hash", "star", "swallows", "words")

    def __init__(self, swallows: bool = False) -> None:
        self.words: dict[str, _Node] = {}
        self.star: _Node | None = None
        self.hash: _Node | None = None
        self.swallows = swallows
        self.counts: Counts = {}

    def child(self, word: str) -> _Node | None:
        if word == "*":
            return self.star
        if word == "#":
            return self.hash
        return self.words.get(word)

    def grow(self, word: str) -> _Node:
        node = self.child(word)
        if node is None:
            node = _Node(swallows=word == "#")
            if word == "*":
                self.star = node
            elif word == "#":
                self.hash = node
            else:
                self.words[word] = node
        return node

    def cut(self, word: str) -> None:
        if word == "*":
            self.star = None
        elif word == "#":
            self.hash = None
        else:
            del self.words[word]

    @property
    def bare(self) -> bool:
        return not (self.counts or self.words or self.star or self.hash)


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


class Topic(ExchangeType):
    """Words between dots; `*` stands for one word, `#` for any number of them.

    The tree is walked level by level with the set of nodes that are reached so far, so a key of
    w words costs at most w times the nodes of the tree, however many `#` the bindings hold.
    """

    name = "topic"
    checks_topic = True

    def __init__(self, arguments: Table) -> None:
        self._root: _Node = _Node()

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        node = self._root
        for word in _words(binding_key):
            node = node.grow(word)
        _add(node.counts, destination)

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        node = self._root
        path: list[tuple[_Node, str]] = []
        for word in _words(binding_key):
            child = node.child(word)
            if child is None:
                return
            path.append((node, word))
            node = child
        _remove(node.counts, destination)
        while path and node.bare:
            node, word = path.pop()
            node.cut(word)

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        reached: dict[_Node, None] = {}
        self._reach(self._root, reached)
        for word in _words(routing_key):
            before, reached = reached, {}
            for node in before:
                child = node.words.get(word)
                if child is not None:
                    self._reach(child, reached)
                if node.star is not None:
                    self._reach(node.star, reached)
                if node.swallows:
                    self._reach(node, reached)
            if not reached:
                return ()
        found: dict[Destination, int] = {}
        for node in reached:
            found.update(node.counts)
        return found

    @staticmethod
    def _reach(node: _Node | None, reached: dict[_Node, None]) -> None:
        """Add a node, and those behind a `#` that takes no word."""
        while node is not None and node not in reached:
            reached[node] = None
            node = node.hash


X_MATCH = "x-match"
MATCHES = ("all", "any", "all-with-x", "any-with-x")


class _Condition(NamedTuple):
    name: str
    value: Hashable  # None: the header must be there


class _Shape:
    """All bindings that demand the same headers; which values they demand is one look-up."""

    __slots__ = ("counts", "present", "valued")

    def __init__(self, conditions: list[_Condition]) -> None:
        self.valued = tuple(name for name, value in conditions if value is not None)
        self.present = tuple(name for name, value in conditions if value is None)
        self.counts: dict[tuple[Hashable, ...], Counts] = {}

    def match(self, headers: Table) -> Iterable[Destination]:
        for name in self.present:
            if name not in headers:
                return ()
        values = []
        for name in self.valued:
            value = headers.get(name)
            if value is None:
                return ()
            values.append(comparable(value))
        return self.counts.get(tuple(values), ())


class Headers(ExchangeType):
    """The headers of the message fit the arguments of the binding.

    Bindings with `all` are grouped by the names they demand, and a group is looked at only when
    the message has the rarest of these names; bindings with `any` are indexed by name and value.
    """

    name = "headers"
    uses_key = False
    uses_headers = True

    def __init__(self, arguments: Table) -> None:
        self._always: Counts = {}
        self._shapes: dict[tuple[Hashable, ...], tuple[str, _Shape]] = {}
        self._by_name: dict[str, dict[_Shape, None]] = {}
        self._any: dict[str, dict[Hashable, Counts]] = {}

    def check_binding(self, binding_key: str, arguments: Table) -> None:
        match = arguments.get(X_MATCH, "all")
        kind = type_name(match)
        if kind != "longstr":
            raise PreconditionFailed(
                f"Invalid x-match field type {kind} (value {term(match)}); expected longstr"
            )
        if match not in MATCHES:
            raise PreconditionFailed(
                f"Invalid x-match field value {term(match)}; "
                "expected all, any, all-with-x, or any-with-x"
            )

    def bind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        conditions = _conditions(arguments)
        if _is_any(arguments):
            for name, value in conditions:
                _add(self._any.setdefault(name, {}).setdefault(value, {}), destination)
        elif not conditions:
            _add(self._always, destination)
        else:
            shape = self._shape(conditions)
            _add(shape.counts.setdefault(_values(conditions), {}), destination)

    def unbind(self, binding_key: str, arguments: Table, destination: Destination) -> None:
        conditions = _conditions(arguments)
        if _is_any(arguments):
            for name, value in conditions:
                self._forget_any(name, value, destination)
        elif not conditions:
            _remove(self._always, destination)
        else:
            self._forget_all(conditions, destination)

    def match(self, routing_key: str, headers: Table | None) -> Iterable[Destination]:
        found: dict[Destination, int] = dict(self._always)
        for name, header in (headers or {}).items():
            assert headers is not None
            by_value = self._any.get(name)
            if by_value is not None:
                found.update(by_value.get(None, {}))
                found.update(by_value.get(comparable(header), {}))
            for shape in self._by_name.get(name, ()):
                found.update(dict.fromkeys(shape.match(headers), 1))
        return found

    def _shape(self, conditions: list[_Condition]) -> _Shape:
        key = _shape_key(conditions)
        known = self._shapes.get(key)
        if known is not None:
            return known[1]
        anchor = min(
            (name for name, _ in conditions), key=lambda name: len(self._by_name.get(name, ()))
        )
        shape: _Shape = _Shape(conditions)
        self._shapes[key] = anchor, shape
        self._by_name.setdefault(anchor, {})[shape] = None
        return shape

    def _forget_all(self, conditions: list[_Condition], destination: Destination) -> None:
        key = _shape_key(conditions)
        anchor, shape = self._shapes[key]
        values = _values(conditions)
        _remove(shape.counts[values], destination)
        if not shape.counts[values]:
            del shape.counts[values]
        if not shape.counts:
            del self._shapes[key]
            del self._by_name[anchor][shape]
            if not self._by_name[anchor]:
                del self._by_name[anchor]

    def _forget_any(self, name: str, value: Hashable, destination: Destination) -> None:
        by_value = self._any[name]
        _remove(by_value[value], destination)
        if not by_value[value]:
            del by_value[value]
        if not by_value:
            del self._any[name]


def _is_any(arguments: Table) -> bool:
    return arguments.get(X_MATCH) in ("any", "any-with-x")


def _conditions(arguments: Table) -> list[_Condition]:
    """Return what a binding demands, by name: arguments less those that only steer."""
    with_x = arguments.get(X_MATCH) in ("all-with-x", "any-with-x")
    return sorted(
        _Condition(name, comparable(value))
        for name, value in arguments.items()
        if (name != X_MATCH if with_x else not name.startswith("x-"))
    )


def _shape_key(conditions: list[_Condition]) -> tuple[Hashable, ...]:
    return tuple((name, value is None) for name, value in conditions)


def _values(conditions: list[_Condition]) -> tuple[Hashable, ...]:
    return tuple(value for _, value in conditions if value is not None)


EXCHANGE_TYPES: dict[str, type[ExchangeType]] = {
    kind.name: kind for kind in (Direct, Fanout, Topic, Headers)
}
"""The types an exchange may be declared with; plugins add theirs."""

"""Topology: what a run declares, and which queue a message reaches.

Law: every routing key, and every value of the headers exchange's header, matches exactly one
binding, and that binding belongs to one queue; so every message has one destination (with
fanout: every queue), and loss can be told from no match.

Topic bindings come in three kinds, so that a broker walks words, `*` and `#`.

Called by: run (declare, delete), message (keys and headers).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from leveret.clients.perf.link import Link
from leveret.clients.perf.options import Options
from leveret.protocol.methods import (
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    ExchangeDeleteOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
)

MATCH_HEADER = "match"  # the header a headers exchange looks at


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message goes: its routing key and, for a headers exchange, its header."""

    routing_key: str
    headers: Mapping[str, str]


def addresses(options: Options, producer: int) -> list[Address]:
    """Return the addresses a producer chooses from."""
    kind = options.type
    if kind == "default":
        return [Address(options.queue(producer % options.queues), {})]
    if kind == "direct":
        return [Address(f"key.{index}", {}) for index in range(_direct_keys(options))]
    if kind == "topic":
        bindings = _bindings(options)
        return [
            Address(topic_key(index, bindings), {}) for index in range(max(options.keys, bindings))
        ]
    if kind == "headers":
        return [Address("", {MATCH_HEADER: f"v{index}"}) for index in range(_bindings(options))]
    return [Address("", {})]


def topic_pattern(binding: int) -> str:
    """Return the binding key of a topic binding."""
    return (f"a{binding}.*.*", f"*.b{binding}.*", f"#.c{binding}")[binding % 3]


def topic_key(index: int, bindings: int) -> str:
    """Return a routing key of three words that only binding `index % bindings` matches."""
    binding = index % bindings
    words = (
        (f"a{binding}", f"x{index}", "y"),
        (f"x{index}", f"b{binding}", "y"),
        (f"x{index}", "y", f"c{binding}"),
    )
    return ".".join(words[binding % 3])


def declare(link: Link, options: Options) -> None:
    """Declare queues, exchange and bindings."""
    for index in range(options.queues):
        method = QueueDeclare(options.queue(index), durable=options.durable)
        link.call(method, QueueDeclareOk)
    if options.type == "default":
        return
    exchange = options.exchange
    link.call(ExchangeDeclare(exchange, options.type), ExchangeDeclareOk)
    for queue, key, arguments in _binding_list(options):
        link.call(QueueBind(queue, exchange, key, arguments=arguments), QueueBindOk)


def delete(link: Link, options: Options) -> None:
    """Delete what `declare` made."""
    for index in range(options.queues):
        link.call(QueueDelete(options.queue(index)), QueueDeleteOk)
    if options.exchange:
        link.call(ExchangeDelete(options.exchange), ExchangeDeleteOk)


def _binding_list(options: Options) -> list[tuple[str, str, Mapping[str, str]]]:
    queues = options.queues
    if options.type == "fanout":
        return [(options.queue(index), "", {}) for index in range(queues)]
    if options.type == "direct":
        keys = range(_direct_keys(options) + options.spare_bindings)
        return [(options.queue(key % queues), f"key.{key}", {}) for key in keys]
    bindings = range(_bindings(options) + options.spare_bindings)
    if options.type == "topic":
        return [(options.queue(each % queues), topic_pattern(each), {}) for each in bindings]
    return [
        (options.queue(each % queues), "", {"x-match": "all", MATCH_HEADER: f"v{each}"})
        for each in bindings
    ]


def _bindings(options: Options) -> int:
    return options.bindings or options.queues


def _direct_keys(options: Options) -> int:
    return max(options.keys, options.queues)

"""All conversations, held with many brokers at once."""

import difflib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

from .conversation import CONVERSATIONS, Conversation, Transcript

TOPICS = (
    "handshake",
    "frames",
    "closing",
    "exchanges",
    "queues",
    "arguments",
    "routing",
    "publishing",
    "consuming",
    "settling",
    "transactions",
    "reply_to",
    "permissions",
    "ttl",
    "expires",
    "dead_letter",
    "deaths",
    "max_length",
    "priority",
    "single_active",
    "delivery_limit",
    "policies",
    "queue_types",
    "composition",
    "plugins_exchanges",
)
AT_ONCE = 24  # most of their time conversations wait

for _topic in TOPICS:
    import_module(f".{_topic}", __package__)

Address = tuple[str, int]


def chosen(pattern: str) -> list[Conversation]:
    """Return the conversations whose title contains `pattern`."""
    return [item for title, item in CONVERSATIONS.items() if pattern in title]


def hold(
    conversations: Collection[Conversation], addresses: Collection[Address]
) -> dict[str, list[Transcript]]:
    """Hold `conversations` with each broker; return the transcripts by title."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {
            item.title: [pool.submit(item.hold, address) for address in addresses]
            for item in conversations
        }
        return {title: [one.result() for one in pair] for title, pair in running.items()}


def disagreement(item: Conversation, rabbitmq: Transcript, leveret: Transcript) -> str:
    """Return what is wrong with a pair of transcripts, empty if nothing is."""
    if rabbitmq.failure or leveret.failure:
        return f"the script failed\n{rabbitmq.failure or leveret.failure}"
    if item.difference is None:
        return _diff("rabbitmq", rabbitmq.lines, "leveret", leveret.lines)
    expected = item.difference.expected(rabbitmq)
    if rabbitmq.heard == expected:
        return f"RabbitMQ says the same: no exception is needed ({item.difference.reason})"
    wrong = _diff("expected of leveret", expected, "leveret", leveret.heard)
    return wrong and f"{item.difference.reason}\n{wrong}"


def _diff(one: str, first: tuple[str, ...], other: str, second: tuple[str, ...]) -> str:
    if first == second:
        return ""
    context = max(len(first), len(second))
    return os.linesep.join(difflib.unified_diff(first, second, one, other, n=context, lineterm=""))

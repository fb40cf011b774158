"""Every pair of features together: what a queue with both does, and why.

Law: each pair has a cell, or the test fails. A cell is a story with a broker in virtual time; what
it returns is compared with what its row says. Where RabbitMQ has a pair, its behaviour decides
(`integration/differential/composition.py` and its neighbours hold the same with it).
"""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import pytest

from leveret.broker.testing import Embedded
from leveret.protocol.methods import BasicAck, BasicConsume, BasicGet, BasicQos, BasicReject

FEATURES = (
    *("ttl", "delay", "dead-letter", "retry", "limit", "priority", "single active"),
    *("deduplication", "fair key", "pause"),
)
TTL = {"x-message-ttl": 100}
DELAY = {"x-message-delay": 1000}
LETTERS = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
RETRY = {"x-retry-min": 1000, "x-delivery-limit": 2}
LIMIT = {"x-max-length": 2}
REFUSE = {"x-max-length": 2, "x-overflow": "reject-publish"}
PRIORITY = {"x-max-priority": 9}
SINGLE = {"x-single-active-consumer": True}
DEDUP = {"x-message-deduplication": True}
FAIR = {"x-fair-key": "tenant"}


class Story:
    """A broker with the queues q and dead, and one client."""

    def __init__(self, **arguments: object) -> None:
        self.broker = Embedded({"queues": [{"name": "q", "arguments": arguments}, "dead"]})
        self.client = self.broker.connect()
        self.client.call(BasicQos(0, 10))
        self.advance = self.broker.advance

    def put(self, *bodies: str, **properties: object) -> list[bool]:
        """Publish; return which were taken. A body "a:b" belongs to the tenant a."""
        taken = []
        for body in bodies:
            tenant, _, rest = body.partition(":")
            more = {"headers": {"tenant": tenant}} if rest else {}
            taken.append(self.broker.publish("", "q", body.encode(), **properties, **more))
        return taken

    def ready(self, queue: str = "q") -> int:
        """Return how many messages are ready."""
        return self.broker.vhost.queues[queue].ready_count

    def rest(self, queue: str = "q") -> str:
        """Take all that is ready; return the bodies in order."""
        found = []
        while (message := self.broker.get(queue)) is not None:
            found.append(message.body.decode())
        return " ".join(found)

    def get(self):
        """Take the first message, to be settled later; return its tag."""
        return self.client.call(BasicGet("q")).tag

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Refuse a message."""
        self.client.send(BasicReject(tag, requeue))

    def consume(self, tag: str) -> str:
        """Start a consumer; return what it gets at once."""
        return shown(self.client.send(BasicConsume("q", tag))[1:])

    def ack(self, tag: int) -> str:
        """Settle a message; return what comes then."""
        return shown(self.client.send(BasicAck(tag)))

    def come(self) -> str:
        """Return what consumers got since."""
        return shown(self.client.take())

    def hook(self, name: str):
        """Return a hook of the queue by the name of its class."""
        hooks = self.broker.vhost.queues["q"].extras.hooks.values()
        return next(hook for hook in hooks if type(hook).__name__ == name)


def shown(deliveries) -> str:
    return " ".join(f"{each.method.consumer_tag}:{each.body.decode()}" for each in deliveries)


class Cell(NamedTuple):
    """What two features do together."""

    pair: tuple[str, str]
    reason: str
    expected: object
    story: Callable[[], object]


CELLS: list[Cell] = []


def cell(first: str, second: str, reason: str, expected: object):
    """Add a cell of the matrix."""

    def add(story: Callable[[], object]) -> Callable[[], object]:
        CELLS.append(Cell((first, second), reason, expected, story))
        return story

    return add


# Time to live


@cell(
    "ttl",
    "delay",
    "it is in the queue from the end of its wait on: it lives as long as ever",
    (0, 1, 0),
)
def _():
    story = Story(**TTL, **DELAY)
    story.put("a")
    story.advance(0.999)
    before = story.ready()
    story.advance(0.001)
    at = story.ready()
    story.advance(0.1)
    return before, at, story.ready()


@cell("ttl", "dead-letter", "what expires is a dead letter, whatever stands before it", ("a", "b"))
def _():
    story = Story(**LETTERS)
    story.put("a")
    story.put("b", expiration="50")
    story.advance(0.05)
    return story.rest(), story.rest("dead")


@cell("ttl", "retry", "a deadline is kept through a wait: nobody gets it late", (0, ""))
def _():
    story = Story(**TTL, **RETRY)
    story.put("a")
    story.reject(story.get(), requeue=True)
    story.advance(0.1)
    waiting = story.broker.vhost.queues["q"].waiting_count
    story.advance(10)
    return waiting, story.rest()


@cell("ttl", "limit", "what has expired makes room", ([True, True, False], [True], "c"))
def _():
    story = Story(**TTL, **REFUSE)
    taken = story.put("a", "b", "x")
    story.advance(0.1)
    return taken, story.put("c"), story.rest()


@cell("ttl", "priority", "each goes at its own moment, whatever its level", ("low", "high"))
def _():
    story = Story(**PRIORITY, **LETTERS)
    story.put("low", priority=1)
    story.put("high", priority=9, expiration="50")
    story.advance(0.05)
    return story.rest(), story.rest("dead")


@cell(
    "ttl",
    "single active",
    "what the active one holds does not expire, what waits does",
    ("c1:a", "b"),
)
def _():
    story = Story(**TTL, **SINGLE, **LETTERS)
    story.client.call(BasicQos(0, 1))
    story.put("a", "b")
    got = story.consume("c1")
    story.advance(0.1)
    return got, story.rest("dead")


@cell(
    "ttl",
    "deduplication",
    "one that has expired was there: a second one is a duplicate",
    (1, 0, [True], 0),
)
def _():
    story = Story(**TTL, **DEDUP)
    story.put("a", message_id="1")
    before = story.ready()
    story.advance(0.1)
    after = story.ready()
    return before, after, story.put("a", message_id="1"), story.ready()


@cell("ttl", "fair key", "each goes at its own moment, whosever it is", ("a:2 b:1", "a:1"))
def _():
    story = Story(**FAIR, **LETTERS)
    story.put("a:1", expiration="50")
    story.put("a:2", "b:1")
    story.advance(0.05)
    return story.rest(), story.rest("dead")


@cell("ttl", "pause", "a pause stops deliveries, not time", (1, 0, "a"))
def _():
    story = Story(**TTL, **LETTERS)
    story.put("a")
    pause(story)
    before = story.ready()
    story.advance(0.1)
    return before, story.ready(), story.rest("dead")


# Delay


@cell(
    "delay",
    "dead-letter",
    "what waits is no dead letter; what is rejected then is",
    (("", ""), "a"),
)
def _():
    story = Story(**DELAY, **LETTERS)
    story.put("a")
    early = story.rest(), story.rest("dead")
    story.advance(1)
    story.reject(story.get(), requeue=False)
    return early, story.rest("dead")


@cell("delay", "retry", "the delay is for what is new, the retry's for what came back", (1, 0, 1))
def _():
    story = Story(**{**DELAY, "x-message-delay": 5000}, **RETRY)
    story.put("a")
    story.advance(5)
    before = story.ready()
    story.reject(story.get(), requeue=True)
    during = story.ready()
    story.advance(1)
    return before, during, story.ready()


@cell(
    "delay",
    "limit",
    "limits are about what is ready: what waits is let in, and counts when it is due",
    ("b c", "a"),
)
def _():
    story = Story(**DELAY, **LIMIT, **LETTERS)
    story.put("a", "b", "c")
    story.advance(1)
    return story.rest(), story.rest("dead")


@cell("delay", "priority", "what is due is served by its level", "high low")
def _():
    story = Story(**DELAY, **PRIORITY)
    story.put("low", priority=1)
    story.put("high", priority=9)
    story.advance(1)
    return story.rest()


@cell("delay", "single active", "what is due goes to the active one", ("", "c1:a"))
def _():
    story = Story(**DELAY, **SINGLE)
    early = story.consume("c1") + story.consume("c2")
    story.put("a")
    story.advance(1)
    return early, story.come()


@cell("delay", "deduplication", "duplicates are found before anything waits", ([True, True], "a"))
def _():
    story = Story(**DELAY, **DEDUP)
    taken = story.put("a", "b", message_id="1")
    story.advance(1)
    return taken, story.rest()


@cell("delay", "fair key", "what is due is served in turns", "a:1 b:1 a:2")
def _():
    story = Story(**DELAY, **FAIR)
    story.put("a:1", "a:2", "b:1")
    story.advance(1)
    return story.rest()


@cell("delay", "pause", "what becomes due during a pause is ready, and stays", ("", 1))
def _():
    story = Story(**DELAY)
    story.put("a")
    pause(story)
    story.advance(1)
    return story.rest(), story.ready()


# Dead letters


@cell(
    "dead-letter",
    "retry",
    "given up at once without requeue; else at the limit, for that reason",
    ("a", "b"),
)
def _():
    story = Story(**RETRY, **LETTERS)
    story.put("a")
    story.reject(story.get(), requeue=False)
    first = story.rest("dead")
    story.put("b")
    for _ in range(3):
        story.reject(story.get(), requeue=True)
        story.advance(10)
    return first, story.rest("dead")


@cell(
    "dead-letter",
    "limit",
    "the oldest goes; with reject-publish-dlx the new one does",
    ("a", "c", [True, True, False]),
)
def _():
    story = Story(**LIMIT, **LETTERS)
    story.put("a", "b", "c")
    other = Story(**{**LIMIT, "x-overflow": "reject-publish-dlx"}, **LETTERS)
    taken = other.put("a", "b", "c")
    return story.rest("dead"), other.rest("dead"), taken


@cell("dead-letter", "priority", "letters come in the order in which they died", "high low")
def _():
    story = Story(**PRIORITY, **LETTERS)
    story.put("low", priority=1)
    story.put("high", priority=9)
    for _ in range(2):
        story.reject(story.get(), requeue=False)
    return story.rest("dead")


@cell(
    "dead-letter",
    "single active",
    "what the one before has not settled it may still reject",
    ("c1:a", "a"),
)
def _():
    story = Story(**SINGLE, **LETTERS)
    got = story.consume("c1")
    story.put("a")
    got += story.come()
    story.reject(1, requeue=False)
    return got, story.rest("dead")


@cell(
    "dead-letter",
    "deduplication",
    "a letter is moved, not published: it is no duplicate where it goes",
    (1, 2),
)
def _():
    story = Story(**DEDUP, **LETTERS)
    story.put("a", message_id="1")
    story.put("b", message_id="2")
    for _ in range(2):
        story.reject(story.get(), requeue=False)
    return story.ready() + 1, story.ready("dead")


@cell(
    "dead-letter", "fair key", "a letter keeps its headers, so its tenant is known there", "a:1 b:1"
)
def _():
    story = Story(**FAIR, **LETTERS)
    story.put("a:1", "b:1")
    for _ in range(2):
        story.reject(story.get(), requeue=False)
    return story.rest("dead")


@cell("dead-letter", "pause", "what was delivered before a pause may be rejected during it", "a")
def _():
    story = Story(**LETTERS)
    story.put("a")
    tag = story.get()
    pause(story)
    story.reject(tag, requeue=False)
    return story.rest("dead")


# Retry


@cell(
    "retry",
    "limit",
    "what came back has its place: the queue is full again when it returns",
    ("b c", "a"),
)
def _():
    story = Story(**RETRY, **LIMIT, **LETTERS)
    story.put("a")
    tag = story.get()
    story.put("b", "c")
    story.reject(tag, requeue=True)
    story.advance(1)
    return story.rest(), story.rest("dead")


@cell("retry", "priority", "it returns to its level, before those that came later", "a b low")
def _():
    story = Story(**RETRY, **PRIORITY)
    story.put("low", priority=1)
    story.put("a", "b", priority=5)
    story.reject(story.get(), requeue=True)
    story.advance(1)
    return story.rest()


@cell(
    "retry", "single active", "it waits, and then goes to whoever is active", ("c1:a", "", "c1:a")
)
def _():
    story = Story(**RETRY, **SINGLE)
    story.consume("c1")
    story.put("a")
    first = story.come()
    story.reject(1, requeue=True)
    during = story.come()
    story.advance(1)
    return first, during, story.come()


@cell("retry", "deduplication", "what comes back is no publish, and no duplicate", (1, [True], 1))
def _():
    story = Story(**RETRY, **DEDUP)
    story.put("a", message_id="1")
    story.reject(story.get(), requeue=True)
    story.advance(1)
    return story.ready(), story.put("a", message_id="1"), story.ready()


@cell(
    "retry",
    "fair key",
    "while it waits its tenant's next one is served; it returns before it",
    "a:2 b:1 a:1 a:3",
)
def _():
    story = Story(**RETRY, **FAIR)
    story.put("a:1", "a:2", "a:3", "b:1")
    story.reject(story.get(), requeue=True)
    first = [story.broker.get("q").body.decode() for _ in range(2)]
    story.advance(1)
    return " ".join([*sorted(first), story.rest()])


@cell("retry", "pause", "a wait that ends during a pause makes it ready, and no more", (0, 1, ""))
def _():
    story = Story(**RETRY)
    story.put("a")
    story.reject(story.get(), requeue=True)
    pause(story)
    before = story.ready()
    story.advance(1)
    return before, story.ready(), story.rest()


# Limits


@cell(
    "limit", "priority", "what would be served next is dropped, as in RabbitMQ", ("high", "low 2")
)
def _():
    story = Story(**LIMIT, **PRIORITY, **LETTERS)
    story.put("low", "2", priority=1)
    story.put("high", priority=9)
    return story.rest("dead"), story.rest()


@cell(
    "limit",
    "single active",
    "what the active one takes is not ready, and does not count",
    ("c1:a", "b c"),
)
def _():
    story = Story(**LIMIT, **SINGLE)
    story.client.call(BasicQos(0, 1))
    story.consume("c1")
    story.put("a", "b", "c")
    return story.come(), story.rest()


@cell(
    "limit",
    "deduplication",
    "what was refused was never there: it may be sent again",
    ([True, True, False], [True], "b x"),
)
def _():
    story = Story(**REFUSE, **DEDUP)
    taken = [story.put(body, message_id=body)[0] for body in ("a", "b", "x")]
    story.broker.get("q")
    return taken, story.put("x", message_id="x"), story.rest()


@cell("limit", "fair key", "there are never more than may be, whosever they are", (2, 1))
def _():
    story = Story(**LIMIT, **FAIR, **LETTERS)
    story.put("a:1", "a:2", "b:1")
    return story.ready(), story.ready("dead")


@cell("limit", "pause", "a queue that nobody may take from is full when it is full", ("b c", "a"))
def _():
    story = Story(**LIMIT, **LETTERS)
    pause(story)
    story.put("a", "b", "c")
    resume(story)
    return story.rest(), story.rest("dead")


# Order


@cell("priority", "single active", "the active one gets them by level", "c1:high c1:low")
def _():
    story = Story(**PRIORITY, **SINGLE)
    story.put("low", priority=1)
    story.put("high", priority=9)
    return story.consume("c1")


@cell("priority", "deduplication", "an identity is the same at every level", ([True, True], "a"))
def _():
    story = Story(**PRIORITY, **DEDUP)
    taken = story.put("a", message_id="1", priority=1) + story.put("b", message_id="1", priority=9)
    return taken, story.rest()


@cell(
    "priority",
    "fair key",
    "a queue has one order: turns; the priority is not looked at",
    "a:1 b:1 a:2",
)
def _():
    story = Story(**PRIORITY, **FAIR)
    story.put("a:1", priority=1)
    story.put("a:2", priority=9)
    story.put("b:1", priority=5)
    return story.rest()


@cell("priority", "pause", "after a pause the order is that of the levels", ("", "high low"))
def _():
    story = Story(**PRIORITY)
    pause(story)
    story.put("low", priority=1)
    story.put("high", priority=9)
    during = story.rest()
    resume(story)
    return during, story.rest()


@cell("single active", "deduplication", "a duplicate is nobody's delivery", "c1:a")
def _():
    story = Story(**SINGLE, **DEDUP)
    story.consume("c1")
    story.put("a", "a", message_id="1")
    return story.come()


@cell("single active", "fair key", "the active one gets them in turns", "c1:a:1 c1:b:1 c1:a:2")
def _():
    story = Story(**SINGLE, **FAIR)
    story.put("a:1", "a:2", "b:1")
    return story.consume("c1")


@cell("single active", "pause", "it stays the active one, and gets nothing", ("", "c1:a"))
def _():
    story = Story(**SINGLE)
    story.consume("c1")
    story.consume("c2")
    pause(story)
    story.put("a")
    during = story.come()
    resume(story)
    return during, story.come()


@cell(
    "deduplication", "fair key", "an identity is the queue's, not a tenant's", ([True, True], "a:1")
)
def _():
    story = Story(**DEDUP, **FAIR)
    return story.put("a:1", "b:1", message_id="1"), story.rest()


@cell(
    "deduplication",
    "pause",
    "what a paused queue refuses is not remembered",
    ([False], [True], "a"),
)
def _():
    story = Story(**DEDUP)
    pause(story, publishing=True)
    refused = story.put("a", message_id="1")
    resume(story)
    return refused, story.put("a", message_id="1"), story.rest()


@cell("fair key", "pause", "after a pause all have their turns", ("", "a:1 b:1 a:2"))
def _():
    story = Story(**FAIR)
    pause(story)
    story.put("a:1", "a:2", "b:1")
    during = story.rest()
    resume(story)
    return during, story.rest()


def pause(story: Story, *, publishing: bool = False) -> None:
    from leveret.broker.plugins import pause as plugin

    plugin.pause(
        story.broker.vhost.queues["q"],
        delivery=not publishing,
        publishing=publishing,
        reason="a test",
    )


def resume(story: Story) -> None:
    from leveret.broker.plugins import pause as plugin
    from leveret.broker.testing import finish

    plugin.resume(story.broker.vhost.queues["q"])
    finish(story.broker.broker)


@pytest.mark.parametrize("pair", [*combinations(FEATURES, 2)], ids=" and ".join)
def test_every_pair_of_features_has_a_cell(pair: tuple[str, str]) -> None:
    assert pair in [cell.pair for cell in CELLS]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: " and ".join(cell.pair))
def test_two_features_together(cell: Cell) -> None:
    assert cell.expected == cell.story(), cell.reason

"""Redrive plans: which dead letters are to go back, where to, and what that would do.

Law: nothing here changes anything. Where a dead letter came from stands in the newest entry of its
x-death; what a publisher wrote there is not believed. It is published to that exchange with those
keys again, without the expiration that it had, or it would die of that once more. What goes back
keeps x-death and what belongs to it: so a message that dies again and again is counted, not met as
a new one. What goes elsewhere forgets it: it is on a new way, on which it would be dropped where it
died before, because that looks like a circle. Either may be told otherwise.

Called by: redrive, redrive_resources; whoever steers the broker.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from leveret.broker.core.as_json import as_json
from leveret.broker.core.filter import Filter
from leveret.broker.core.inspect import LOOKED, peek
from leveret.broker.core.message import address
from leveret.broker.plugins.death import OF_FIRST
from leveret.broker.plugins.passage import Outcome, Passage, Target, takers, towards
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import splice_headers
from leveret.protocol.table import encode_entries

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.core.as_json import Json
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.sighting import Page, Sighting

HIGHEST_RATE = 1_000_000  # messages a second
EXAMPLES = 10  # messages that a dry run shows


# What dead letters tell


class Death(NamedTuple):
    """How a message died last.

    Attributes:
      reason: Why.
      queue: In which queue.
      time: When, in seconds since 1970.
      exchange: To which exchange it had been published.
      routing_keys: With which keys: its own, then those of CC.
    """

    reason: str
    queue: str
    time: int
    exchange: str
    routing_keys: tuple[str, ...]


def last_death(message: Message) -> Death | None:
    """Return how a message died last; None if the broker has not written that it did."""
    if not message.is_dead_letter:
        return None
    try:
        deaths = cast("list[Any]", (message.headers or {})["x-death"])
        newest = deaths[0]
        return Death(
            newest["reason"],
            newest["queue"],
            int(newest["time"]),
            newest["exchange"],
            tuple(newest["routing-keys"]),
        )
    except (AMQPError, LookupError, TypeError, ValueError):  # nobody can read its headers
        return None


@dataclass(frozen=True, slots=True)
class DeathFilter(Filter):
    """What a dead letter has to be like; None is whatever.

    Attributes:
      reason: Why it died last.
      queue: In which queue.
      died_before: When, in seconds since 1970, is less.
      died_after: When is more.
    """

    reason: str | None = None
    queue: str | None = None
    died_before: int | None = None
    died_after: int | None = None

    def accepts(self, message: Message) -> bool:
        """Whether a message is like that."""
        if not Filter.accepts(self, message):
            return False
        if (self.reason, self.queue, self.died_before, self.died_after) == (None,) * 4:
            return True
        death = last_death(message)
        return (
            death is not None
            and self.reason in {None, death.reason}
            and self.queue in {None, death.queue}
            and (self.died_before is None or death.time < self.died_before)
            and (self.died_after is None or death.time > self.died_after)
        )


def back(message: Message) -> Passage | None:
    """Return a dead letter on its way to where it came from, None if that is not known."""
    death = last_death(message)
    if death is None or not death.routing_keys:
        return None
    key, *copies = death.routing_keys
    sent = message.with_address(death.exchange, key)
    if copies and "CC" not in (sent.headers or {}):  # it had lost them to a key of its queue
        sent = sent.spliced((), encode_entries({"CC": copies}))
    return Passage(sent, death.exchange, death.routing_keys)


def without_deaths(message: Message) -> Message:
    """Return a message that looks as if it had never died."""
    method = message.envelope.method
    assert isinstance(method, BasicPublish)
    envelope = address(method.exchange, method.routing_key, message.envelope.channel)
    return message.with_header(splice_headers(message.header, OF_FIRST), envelope)


# What is asked for


@dataclass(frozen=True, slots=True)
class Plan:
    """What a redrive is to do.

    Attributes:
      target: Where messages are to go; None back to where they came from.
      wanted: Which ones.
      rate: How many a second at most; None for as many as can be.
      keeps_deaths: Whether they keep x-death and what belongs to it; None: if they go back.
      user: On whose behalf they are published; "" for the broker's own, who may do anything.
    """

    target: Target | None = None
    wanted: DeathFilter = field(default_factory=DeathFilter)
    rate: float | None = None
    keeps_deaths: bool | None = None
    user: str = ""

    def passage(self, message: Message) -> Passage | None:
        """Return a message on its way, None if nobody knows where to."""
        found = back(message) if self.target is None else towards(self.target, message)
        keeps = self.target is None if self.keeps_deaths is None else self.keeps_deaths
        if found is None or keeps or not message.is_dead_letter:
            return found
        return found._replace(message=without_deaths(found.message))


def check(queue: Queue, plan: Plan) -> None:
    """Raise an error if a plan makes no sense for a queue.

    Raises:
      ValueError: Of what it has is out of range; the text says what and where.
      NotFound: The target is not there.
    """
    where = queue.vhost.described("queue", queue.name)
    if plan.rate is not None and not 0 < plan.rate <= HIGHEST_RATE:
        raise ValueError(f"{where}: rate is {plan.rate}, it must be above 0 and up to 1,000,000")
    if plan.target is not None:
        plan.target.check(queue.vhost)
        if plan.target.queue == queue.name:
            raise ValueError(f"{where} has its messages already")
    try:
        json.dumps(dict(plan.wanted.headers))
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{where}: headers cannot be kept: {problem}") from None


# Dry runs


@dataclass(frozen=True, slots=True)
class Example:
    """What would become of one message.

    Attributes:
      position: Its position in the queue.
      message_id: Its property of that name.
      exchange: Where it would go; None if nobody knows.
      routing_keys: With which keys.
      queue: The queue that it would go straight into, None by an exchange.
      outcome: What would become of it.
    """

    position: int
    message_id: str | None
    exchange: str | None
    routing_keys: tuple[str, ...]
    queue: str | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Preview:
    """What a redrive would do, as things are.

    Attributes:
      movable: How many messages would go where they are to go.
      unroutable: How many would stay because nothing takes them there, or nobody knows where to.
      refused: How many would stay because a queue refuses them, or has them already.
      forbidden: How many would stay because the user may not publish there.
      examples: The first ones.
    """

    movable: int
    unroutable: int
    refused: int
    forbidden: int
    examples: tuple[Example, ...]

    def as_json(self) -> Json:
        """Return it as `json.dumps` takes it."""
        return as_json(self)


def dry_run(
    queue: Queue, plan: Plan, done: Callable[[Preview], None], *, examples: int = EXAMPLES
) -> None:
    """Find out what a redrive would do, step by step, and change nothing.

    Args:
      queue: The queue.
      plan: What the redrive would be asked for; its rate does not matter.
      done: Called with the result: at once if the first step is all and needs not be read.
      examples: How many messages are shown.

    Raises:
      ValueError: The plan makes no sense.
      NotFound: The target is not there.
    """
    check(queue, plan)
    queue.settle_in()
    _DryRun(queue, plan, done, examples).step("")


class _DryRun:
    """One dry run."""

    def __init__(
        self, queue: Queue, plan: Plan, done: Callable[[Preview], None], examples: int
    ) -> None:
        self._queue = queue
        self._plan = plan
        self._tell = done
        self._most = examples
        self._end = queue.next_position
        self._counts: Counter[Outcome] = Counter()
        self._examples: list[Example] = []

    def step(self, after: str) -> None:
        """Look at some messages after a mark."""
        peek(self._queue, self._seen, after=after, limit=LOOKED, wanted=self._plan.wanted)

    def _seen(self, page: Page) -> None:
        for sighting in page.messages:
            if sighting.position < self._end:
                self._count(sighting)
        queue, after = self._queue, page.next
        if after is None or int(after) >= self._end - 1 or queue.deleted:
            self._finish()
        else:
            timers = queue.vhost.broker.timers
            timers.at(queue.vhost.broker.now + 1, lambda: self.step(after))

    def _count(self, sighting: Sighting) -> None:
        passage = self._plan.passage(sighting.message)
        outcome = Outcome.UNROUTABLE
        if passage is not None:
            vhost, user = self._queue.vhost, self._plan.user
            outcome, _ = takers(vhost, passage, user, is_dry=True)
        self._counts[outcome] += 1
        if len(self._examples) < self._most:
            self._examples.append(_example(sighting, passage, outcome))

    def _finish(self) -> None:
        counts = self._counts
        self._tell(
            Preview(
                counts[Outcome.DONE],
                counts[Outcome.UNROUTABLE],
                counts[Outcome.REFUSED],
                counts[Outcome.FORBIDDEN],
                tuple(self._examples),
            )
        )


def _example(sighting: Sighting, passage: Passage | None, outcome: Outcome) -> Example:
    try:
        message_id = sighting.message.properties.message_id
    except AMQPError:  # nobody can read them
        message_id = None
    if passage is None:
        return Example(sighting.position, message_id, None, (), None, outcome)
    return Example(
        sighting.position,
        message_id,
        passage.exchange,
        tuple(passage.keys),
        passage.queue,
        outcome,
    )

"""Passage: a message leaves a queue and comes where somebody wants it, or stays.

Law: leaving and arriving are in one commit. Whoever could take a message is asked first; where one
refuses it, or nobody takes it, it stays where it is, and the outcome says why.

Called by: moving, redrive, redrive_plan, redrive_resources.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core.exchange import route, routing_keys
from leveret.broker.core.hooks import Verdict
from leveret.broker.core.placing import find, republish
from leveret.broker.core.resources import Answer, Fields, Pending, Response, bad_field, not_found
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost

TARGET = ("to_exchange", "to_routing_key", "to_queue")


class Outcome(StrEnum):
    """What became of a message that was to go somewhere.

    Attributes:
      DONE: It went there.
      UNROUTABLE: Nothing is there, or leads on from there.
      REFUSED: A queue has refused it, or all have it already.
      FORBIDDEN: Whoever wants it may not publish there.
      GONE: It has left its queue meanwhile.
    """

    DONE = "done"
    UNROUTABLE = "unroutable"
    REFUSED = "refused"
    FORBIDDEN = "forbidden"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Target:
    """Where messages are to go: to an exchange, or straight into a queue.

    Attributes:
      exchange: Its name; "" is the default one.
      routing_key: With which key; None for that of each message, and those of its CC.
      queue: Name of a queue, which gets messages as they are.
    """

    exchange: str | None = None
    routing_key: str | None = None
    queue: str | None = None

    def check(self, vhost: VirtualHost) -> None:
        """Raise an error if it makes no sense, or is not there.

        Raises:
          ValueError: It is no exchange and no queue, or both.
          NotFound: There is no such exchange or queue.
        """
        if (self.exchange is None) == (self.queue is None):
            raise ValueError("a target is either an exchange or a queue")
        if self.queue is not None:
            if self.routing_key is not None:
                raise ValueError(f"queue '{self.queue}' gets messages without a routing key")
            vhost.queue(self.queue)
        elif self.exchange is not None:
            vhost.exchange(self.exchange)


class Passage(NamedTuple):
    """A message on its way.

    Attributes:
      message: As it will be.
      exchange: Name of the exchange that it is published to.
      keys: Its routing keys.
      queue: Name of the queue that it goes straight into, as if by the default exchange.
    """

    message: Message
    exchange: str
    keys: Sequence[str]
    queue: str | None = None


def towards(target: Target, message: Message) -> Passage:
    """Return a message on its way to a target."""
    method = message.envelope.method
    assert isinstance(method, BasicPublish)
    if target.queue is not None:
        return Passage(message, "", (method.routing_key,), target.queue)
    name, key = target.exchange or "", target.routing_key
    if key is not None:
        return Passage(message.with_address(name, key), name, (key,))
    try:
        keys: Sequence[str] = routing_keys(method.routing_key, message.headers)
    except AMQPError:  # headers or copies that nobody can read
        keys = (method.routing_key,)
    return Passage(message.with_address(name, method.routing_key), name, keys)


def takers(
    vhost: VirtualHost, passage: Passage, user: str, *, is_dry: bool = False
) -> tuple[Outcome, Sequence[Queue]]:
    """Return which queues take a message, and `DONE`, or why none does.

    Args:
      user: On whose behalf; "" for the broker's own, who may do anything.
      is_dry: Whether nobody is to take note of it; then hooks of exchanges are believed to route.
    """
    exchange = vhost.exchanges.get(passage.exchange)
    if user and not _may_publish(vhost, exchange, passage, user):
        return Outcome.FORBIDDEN, ()
    queues: Sequence[Queue] = ()
    if passage.queue is not None:
        queue = vhost.queues.get(passage.queue)
        queues = () if queue is None else (queue,)
    elif exchange is not None and is_dry:
        found = route(exchange, passage.keys, message=passage.message)
        if found.stops:
            return Outcome.DONE, found.queues
        queues = found.queues
    elif exchange is not None:
        queues = find(exchange, passage.keys, passage.message)
    if not queues:
        return Outcome.UNROUTABLE, ()
    return _admission(passage.message, queues)


def _may_publish(
    vhost: VirtualHost, exchange: Exchange | None, passage: Passage, user: str
) -> bool:
    users = vhost.broker.users
    if not users.check(user, vhost.name, "write", passage.exchange):
        return False
    if exchange is None:
        return True
    return not exchange.internal and (
        not exchange.type.checks_topic
        or all(
            users.check_topic(user, vhost.name, exchange.name, "write", key) for key in passage.keys
        )
    )


def _admission(message: Message, queues: Sequence[Queue]) -> tuple[Outcome, Sequence[Queue]]:
    """Ask queues; they are not told: a message that one refuses stays, and goes to none."""
    taking: list[Queue] = []
    for queue in queues:
        verdicts = {hook.admit(message) for hook in queue.admitting}
        if Verdict.REFUSE in verdicts:
            return Outcome.REFUSED, ()
        if Verdict.DROP not in verdicts:
            taking.append(queue)
    return (Outcome.DONE if taking else Outcome.REFUSED), taking


def pass_on(queue: Queue, position: int, passage: Passage, user: str) -> Outcome:
    """Have a message leave a queue and come where it is to go, in one commit."""
    if queue.deleted or queue.waits_for_commit(position):
        return Outcome.GONE
    outcome, queues = takers(queue.vhost, passage, user)
    if outcome is Outcome.DONE:
        if not queue.withdraw(position, position):
            return Outcome.GONE
        republish(passage.message, queues)
    return outcome


# Of requests


def target_of(fields: Fields) -> Target | None:
    """Return the target that a request names, None if it names none."""
    target = Target(*(fields.text(name) for name in TARGET))
    return None if target == Target() else target


def respond(act: Callable[[Callable[[Response], None]], None]) -> Answer:
    """Return the answer that somebody gives now or later, or to the error that it raises."""
    answer = Pending()
    try:
        act(answer.resolve)
    except AMQPError as problem:
        raise not_found(problem.text) from None
    except ValueError as problem:
        raise bad_field("body", None, str(problem)) from None
    return answer if answer.response is None else answer.response

"""Dead letters: what conversations about them begin with, and how their headers are written down.

Time in a conversation is what the broker makes of it: `elapse` waits for a message that expires,
so that nothing sleeps, and the clock of the script is the clock of the queues it asks.
"""

from collections.abc import Mapping
from time import time
from typing import TYPE_CHECKING

from leveret.protocol.methods import BasicConsume, QueueDeclare
from leveret.protocol.table import Timestamp

if TYPE_CHECKING:
    from .talk import Channel, Talk

DLX, DLX_KEY = "x-dead-letter-exchange", "x-dead-letter-routing-key"
LONG_TTL = 60_000  # ms; does not expire while a conversation lasts
RECENT_SECONDS = 60
LAST_DEATH = "x-last-death-"  # reason, queue, exchange: there since 3.13


def to(queue: str) -> dict[str, object]:
    """Return the arguments of a queue whose dead letters go to `queue`."""
    return {DLX: "", DLX_KEY: queue}


def listening(talk: "Talk", word: str = "dead", **arguments: object) -> "Channel":
    """Return a channel that consumes a queue of its own, called `word`."""
    listener = talk.channel()
    listener(QueueDeclare(talk.name(word), arguments=arguments))
    listener(BasicConsume(talk.name(word), word, no_ack=True))
    return listener


def mourned(
    talk: "Talk", arguments: Mapping[str, object], **options: bool
) -> tuple["Channel", "Channel"]:
    """Declare the queue of a conversation, whose dead letters go to "dead".

    Returns:
      A channel of the queue's owner, and one that consumes the dead letters.
    """
    owner = talk.channel()
    dead = listening(talk)
    arguments = {**to(talk.name("dead")), **arguments}
    owner(QueueDeclare(talk.q, arguments=arguments, **options))
    return owner, dead


def take_stock(channel: "Channel", dead: "Channel", queue: str, messages: int) -> None:
    """Get what is in a queue; of `messages` that there were, hear the letters of the others."""
    dead.hear(messages - channel.drain(queue))


def elapse(talk: "Talk", milliseconds: int) -> None:
    """Let a time go by on the clock of the broker, without writing it down.

    A message of another queue expires after it; deadlines that were earlier are over then.
    """
    clock = talk.connect()
    with clock.unheard():
        channel = clock.channel()
        made = channel(QueueDeclare(exclusive=True))
        hand = channel(QueueDeclare(exclusive=True, arguments=to(made.queue)))
        channel(BasicConsume(made.queue, "clock", no_ack=True))
        channel.publish("", hand.queue, b"tick", expiration=str(milliseconds))
        if not channel.hear():
            raise TimeoutError("the clock stands still")
    clock.hang_up()


def written_down(headers: Mapping[str, object]) -> Mapping[str, object]:
    """Return headers of a message as they are written down, if the broker wrote some of them.

    Their order is nobody's business (RabbitMQ sorts them, and those of a death when it writes the
    next one), the second of a death is not the same twice, and what the last death was is left
    out where it is the newest of all deaths, as it must be.
    """
    if not headers.keys() & {"x-death", "x-delivery-count"}:
        return headers
    deaths = headers.get("x-death")
    shown = dict(sorted(headers.items()))
    if not isinstance(deaths, list) or not all(isinstance(death, dict) for death in deaths):
        return shown
    for field in ("reason", "queue", "exchange"):
        if deaths and shown.get(LAST_DEATH + field) == deaths[0].get(field):
            del shown[LAST_DEATH + field]
    return shown | {"x-death": [_without_time(death) for death in deaths]}


def _without_time(death: Mapping[str, object]) -> dict[str, object]:
    shown = dict(sorted(death.items()))
    when = shown.get("time")
    if isinstance(when, Timestamp) and abs(when - time()) < RECENT_SECONDS:
        shown["time"] = "now"
    return shown

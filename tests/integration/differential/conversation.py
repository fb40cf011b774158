"""The registry of conversations, and where the two brokers may differ.

A conversation is a function that takes a `Talk`:

    @conversation
    def deleting_a_missing_queue_is_fine(talk):
        a = talk.channel()
        a(QueueDelete(talk.q))

With `each`, the function is a conversation for each entry of a table, which gives further
arguments. Where Leveret's answer is another one on purpose, `differs` or `reworded` says what it
is and why; such an exception fails as soon as Leveret answers anything else, or RabbitMQ the
same.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .talk import Talk


class Difference(NamedTuple):
    """What Leveret answers on purpose, and why: its lines, or RabbitMQ's in other words."""

    reason: str
    lines: tuple[str, ...] = ()
    wording: tuple[tuple[str, str], ...] = ()

    def expected(self, rabbitmq: "Transcript") -> tuple[str, ...]:
        """Return what Leveret is to be heard to say."""
        return tuple(map(self._reword, rabbitmq.heard)) if self.wording else self.lines

    def _reword(self, line: str) -> str:
        for theirs, ours in self.wording:
            line = line.replace(theirs, ours)
        return line


class Conversation(NamedTuple):
    """A named script."""

    title: str
    script: Callable[[Talk], None]
    difference: Difference | None

    def hold(self, address: tuple[str, int]) -> "Transcript":
        """Hold the conversation with the broker at `address`."""
        talk = Talk(self.title, address)
        failure = ""
        try:
            self.script(talk)
            talk.finish()
        except Exception:
            failure = traceback.format_exc()
        finally:
            for peer in talk.peers:
                peer.hang_up()
        return Transcript(tuple(talk.lines), failure)


class Transcript(NamedTuple):
    """What was said and heard, and what went wrong in the script."""

    lines: tuple[str, ...]
    failure: str

    @property
    def heard(self) -> tuple[str, ...]:
        """The lines of the broker."""
        return tuple(line for line in self.lines if line.split(" ", 2)[1] != ">")


CONVERSATIONS: dict[str, Conversation] = {}


def differs(reason: str, *lines: str) -> Difference:
    """Return an exception: the lines Leveret is heard to say."""
    return Difference(reason, lines=lines)


def reworded(reason: str, *wording: tuple[str, str]) -> Difference:
    """Return an exception: RabbitMQ's words, and ours."""
    return Difference(reason, wording=wording)


def conversation(
    script: Callable[..., None] | None = None,
    *,
    each: Mapping[str, object] | None = None,
    unless: Difference | Mapping[str, Difference] | None = None,
) -> Callable[..., object]:
    """Register a conversation, or one for each entry of a table.

    `unless` is the exception, of all entries or by entry.
    """

    def register(script: Callable[..., None]) -> Callable[..., None]:
        if each is None:
            _add(script.__name__, script, unless)
            return script
        exceptions = dict.fromkeys(each, unless) if isinstance(unless, Difference) else unless or {}
        assert not set(exceptions) - set(each), f"exceptions without conversation: {exceptions}"
        for label, entry in each.items():
            arguments = entry if type(entry) is tuple else (entry,)  # a method is one, too
            _add(f"{script.__name__}-{label}", _bound(script, arguments), exceptions.get(label))
        return script

    return register(script) if script else register


def _bound(script: Callable[..., None], arguments: Sequence[object]) -> Callable[[Talk], None]:
    return lambda talk: script(talk, *arguments)


def _add(title: str, script: Callable[[Talk], None], difference: Difference | None) -> None:
    if title in CONVERSATIONS:
        raise ValueError(f"two conversations are called {title}")
    CONVERSATIONS[title] = Conversation(title, script, difference)

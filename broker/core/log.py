"""Logs: what durable queues tell whoever keeps their messages, and ask for what is only there.

Law: a queue without a log keeps nothing; one with a log tells it each position that is given and
each that is settled. The log decides what that means for a disk. What else is to be known of a
message after a restart, without its octets, is a fact: a number that its position has.

Called by: core.stock, core.queue, amqp.channel, amqp.settling, amqp.basic_methods, core.paging and
server.forgetter (ask what is kept), plugins (facts). storage.queue_log has the implementation.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.chunks import Asker, Paged
    from leveret.broker.core.message import Message


ABSOLUTE = 1 << 62  # of a moment: it is a moment of the wall clock, and goes along when that jumps


class Fact(IntEnum):
    """What a queue may know of a message; a number up to 64 bits, 0 if there is nothing to know.

    The values are written into rows: they stay what they are.
    """

    DEADLINE = 1  # milliseconds of the wall clock when it expires, and `ABSOLUTE`
    DUE = 2  # milliseconds of the wall clock until which it waits, and `ABSOLUTE`
    LANE = 3  # its priority, or the hash of its key
    ID = 4  # the hash of the name by which it can be found while it waits


class Log(Protocol):
    """What is kept of one queue."""

    def enqueued(self, base: int, messages: Sequence[Message]) -> None:
        """Take in messages at positions from `base` on; transient ones are left out."""

    def delivered(self, position: int) -> None:
        """Note that positions up to one may have been delivered."""

    def returned(self, positions: Sequence[int]) -> None:
        """Count that messages came back to the queue."""

    def note(self, fact: Fact, positions: Sequence[int], values: Sequence[int]) -> None:
        """Keep a fact of messages with all else that the slice has caused.

        What was noted before is replaced, 0 forgets it. Messages that are not kept are left out.

        Args:
          values: One for each position.
        """

    def settled(self, positions: Iterable[int]) -> None:
        """Forget messages."""

    def apply(self) -> None:
        """Do now what a commit needs of what was settled: it will be much more."""

    def dropped(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Forget all messages in ascending ranges: first and last position each."""

    def pack(self, *, is_shared: bool) -> None:
        """Do now what a commit needs of the messages that wait for it: it will be many more.

        Args:
          is_shared: Whether other queues get some of the same messages.
        """

    def is_kept(self, base: int, count: int) -> bool:
        """Whether all of so many messages from a position on can be fetched."""

    def kept_until(self, position: int) -> int:
        """Return the end of those from a position on that can be fetched, itself if it cannot."""

    def fetch(self, queue: Asker, paged: Paged) -> None:
        """Have messages read; the `loaded` of who asks is called with them."""

    def close(self) -> None:
        """Forget everything: the queue is gone."""

    # What is known without any octets of messages

    def value(self, fact: Fact, position: int) -> int:
        """Return a fact of a message that is not settled, 0 if there is none."""

    def facts(self, fact: Fact) -> Iterator[tuple[int, int]]:
        """Return positions that have a fact, ascending, and its values."""

    def columns(self, facts: Sequence[Fact]) -> Iterator[tuple[Sequence[int], list[Sequence[int]]]]:
        """Return unsettled positions in rows, ascending, some at a time, and each fact of them.

        It is 0 of those that do not have it.
        """

    def positions(self, first: int, end: int) -> list[int]:
        """Return those from one up to another, which is not meant, that are unsettled in rows."""

    def sizes(self, position: int) -> tuple[int, int]:
        """Return octets of header and body of a message; `LookupError` if it is not kept."""

    def count(self, position: int) -> int:
        """Return how often a message came back."""

    def counted(self) -> Iterator[tuple[int, int]]:
        """Return positions of messages that ever came back, in any order, and how often."""


class Kept:
    """The positions of which a log has the messages, as long as nothing changes.

    Of neighbours the log is asked once.
    """

    __slots__ = ("_end", "_log", "_start")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._start = self._end = 0

    def __contains__(self, position: int) -> bool:
        if not self._start <= position < self._end:
            self._start, self._end = position, self._log.kept_until(position)
        return position < self._end

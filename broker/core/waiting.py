"""Waiting: messages of a hooked queue that are not ready before a moment, seen and steered.

Law: until when a message waits stands at its position, and that counts; what is due when is only a
hint where to look, which stays behind when the moment is changed. A message that waits can be
found by the name that a hook gives it, and by its moment; neither reads a body. What is due is made
ready in the order of the moments, however many they are.

Called by: core.hooked (is its base), plugins.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core.identities import hash_of
from leveret.broker.core.log import Fact
from leveret.broker.core.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leveret.broker.core.extras import Extras
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.message import Message
    from leveret.broker.core.returned import Entry as AnyEntry

LOOKED = 10_000  # entries that are looked at for one page
# Entries that stay although nobody waits for them, before more than half of all is too many.
TOLERATED = 1024


class Waiter(NamedTuple):
    """A message that waits.

    Attributes:
      position: Where.
      due: Until when, in `Broker.now`.
      message: Itself; None if only the log has it.
      size: Octets of its body.
    """

    position: int
    due: int
    message: Message | None
    size: int


class Waiting(Queue):
    """A queue in which messages wait."""

    __slots__ = ()

    extras: Extras

    # What can be seen

    @property
    def waiting_count(self) -> int:
        """How many messages wait for a moment."""
        return self.extras.waiting.count

    def find_waiting(self, identity: str) -> list[int]:
        """Return the positions of messages that wait and have a name, ascending."""
        waits = self.extras.due.get
        return [each for each in self.extras.identities.find(hash_of(identity)) if waits(each)]

    def waiter(self, position: int) -> Waiter | None:
        """Return the message that waits at a position, None if none does."""
        extras = self.extras
        due = extras.due.get(position)
        if not due:
            return None
        message = extras.waiting.get(position)
        size = self.sizes(position)[1] if message is None else message.size
        return Waiter(position, due, message, size)

    def waiters(
        self, limit: int, after: tuple[int, int] | None = None
    ) -> tuple[list[Waiter], tuple[int, int] | None]:
        """Return messages that wait by when they are due, and where the next page begins.

        Args:
          limit: How many they may be.
          after: What the page before returned, None to begin.

        Returns:
          The messages; when and at which position the last one was due that was looked at, None
          if there are no more. A page may be short, or empty, although there is a next one.
        """
        self.deal()
        extras = self.extras
        found: list[Waiter] = []
        mark = (0, -1) if after is None else after
        looked = 0
        for when, first, count in extras.dues.after(mark[0], max(mark[1], 0)):
            start = max(first, mark[1] + 1) if when == mark[0] else first
            for position in range(start, first + count):
                if len(found) >= limit or looked >= LOOKED:
                    return found, mark
                looked += 1
                mark = when, position
                if extras.due.get(position) == when:
                    waiter = self.waiter(position)
                    assert waiter is not None
                    found.append(waiter)
        return found, None

    def waiting_between(self, first_ms: int, last_ms: int) -> int:
        """Return how many messages wait until a moment from one to another, both meant.

        What was taken out or got another moment counts until that is tidied up, if more messages
        wait than are looked at for a page.
        """
        extras = self.extras
        if len(extras.dues) > LOOKED:
            return extras.dues.count(first_ms, last_ms + 1)
        return sum(
            extras.due.get(position) == when
            for when, position in dict.fromkeys(self._hints(first_ms, last_ms))
        )

    def _hints(self, first_ms: int, last_ms: int) -> list[tuple[int, int]]:
        hints: list[tuple[int, int]] = []
        for when, first, count in self.extras.dues.after(first_ms):
            if when > last_ms:
                break
            hints += [(when, position) for position in range(first, first + count)]
        return hints

    def waits_until(self, position: int) -> int:
        """Return until when a message waits, or is about to wait; 0 if it does not."""
        return self.extras.placing.get(position, 0) or self.extras.due.get(position)

    # What can be steered

    def cancel_waiting(self, positions: Sequence[int]) -> int:
        """Take messages out that wait, as if they had been acknowledged; return how many.

        Emits `waiting.cancelled` with the queue and how many.
        """
        extras = self.extras
        some = self._still_waiting(positions)
        found = extras.waiting.remove_many(some, self.sizes, self.living)
        extras.due.forget(some)
        if found:
            self.take_out(found)
            self._tidy()
            self.vhost.broker.events.emit("waiting.cancelled", queue=self, count=len(found))
        return len(found)

    def reschedule(self, positions: Sequence[int], when: int) -> int:
        """Have messages that wait do so until another moment (`Broker.now`); return how many.

        Emits `waiting.rescheduled` with the queue and how many.
        """
        some = self._still_waiting(positions)
        if some:
            self._note_due(some, [max(when, 1)] * len(some))
            self._tidy()
            self.touch()
            self.vhost.broker.events.emit("waiting.rescheduled", queue=self, count=len(some))
        return len(some)

    def release_waiting(self, positions: Sequence[int]) -> int:
        """Have messages that wait be due now; return how many."""
        return self.reschedule(positions, self.vhost.broker.now)

    def _still_waiting(self, positions: Sequence[int]) -> list[int]:
        waits = self.extras.due.get
        return sorted({position for position in positions if waits(position)})

    # What hooks tell

    def wait_until(self, position: int, when: int) -> None:
        """Have a message that is being placed wait until a moment."""
        self.extras.placing[position] = when

    def wait_entries(self, entries: Sequence[Entry], whens: Sequence[int]) -> None:
        """Have messages wait that came back."""
        ordered = sorted(zip(entries, whens, strict=True), key=lambda each: each[0][0])
        some = [entry for entry, _ in ordered]
        self._put_aside(some, [when for _, when in ordered], is_new=False)

    def _put_aside(self, entries: Sequence[Entry], whens: Sequence[int], *, is_new: bool) -> None:
        """Have messages wait until moments; what is new is after all that waits."""
        extras = self.extras
        positions = [position for position, _ in entries]
        if is_new:
            extras.waiting.append_at(positions, [message for _, message in entries])
        else:
            extras.waiting.insert_many(entries, self.sizes, self.living)
        self._note_due(positions, whens)
        if extras.identity:
            hashes = [self._hash(message) for _, message in entries]
            extras.identities.add(positions, hashes)
            if self.log is not None and any(hashes):
                self.log.note(Fact.ID, positions, hashes)

    def _hash(self, message: Message) -> int:
        for identity in self.extras.identity:
            name = identity(message)
            if name:
                return hash_of(name)
        return 0

    def _note_due(self, positions: Sequence[int], whens: Sequence[int]) -> None:
        extras, offset = self.extras, self.vhost.broker.wall_offset
        for position, when in zip(positions, whens, strict=True):
            extras.due.set(position, when)
            extras.dues.add(when, position)
        if self.log is not None:
            self.log.note(Fact.DUE, positions, [when + offset for when in whens])
        extras.set_timer()

    def _restore_waiting(self, positions: Sequence[int], whens: Sequence[int]) -> None:
        """Take over until when messages wait, after a restart, and what names they have."""
        extras, log = self.extras, self.log
        assert log is not None
        for position, when in zip(positions, whens, strict=True):
            extras.due.set(position, when)
            extras.dues.add(when, position)
        named = [each for each in log.facts(Fact.ID) if extras.due.get(each[0])]
        if named:
            extras.identities.add(*zip(*named, strict=True))

    # What is due

    def _end_waits(self, ranges: Sequence[tuple[int, int]], now: int) -> None:
        """Take out what is due, and make it ready once it is in memory."""
        extras, due = self.extras, self.extras.due
        whens = {
            position: when
            for first, count in ranges
            for position in range(first, first + count)
            if 0 < (when := due.get(position)) <= now
        }
        found = extras.waiting.remove_many(sorted(whens), self.sizes, self.living)
        due.forget(whens)
        self._tidy()
        if found:
            self.with_bodies(_in_order(found, whens), partial(self._make_due, whens))

    def _make_due(self, whens: dict[int, int], entries: list[Entry]) -> None:
        self.make_ready(_in_order(entries, whens))

    def _tidy(self) -> None:
        """Look some of what is known through if most of it is out of date."""
        extras = self.extras
        extras.identities.tidy(extras.due.count, extras.due.get)
        if extras.tidying is None:
            if extras.dues.positions <= 2 * extras.due.count + TOLERATED:
                return
            extras.tidying = extras.dues.rebuild(self._is_awaited)
        if next(extras.tidying, self) is self:
            extras.tidying = None

    def _is_awaited(self, first: int, count: int) -> bool:
        waits = self.extras.due.get
        return any(waits(position) for position in range(first, first + count))

    # What HookedQueue has

    def sizes(self, position: int) -> tuple[int, int]:
        """Return the octets of header and body of a message that only the log has."""
        raise NotImplementedError

    def living(self, first: int, end: int) -> Sequence[int]:
        """Return the positions from one up to another that the log has."""
        raise NotImplementedError

    def take_out(self, entries: Sequence[AnyEntry]) -> None:
        """Let go of messages that are in no lane any more, as if they had been acknowledged."""
        raise NotImplementedError

    def with_bodies(self, found: Sequence[AnyEntry], then: Callable[[list[Entry]], None]) -> None:
        """Do something with messages that were taken out, once all of each is here."""
        raise NotImplementedError

    def make_ready(self, entries: Sequence[Entry]) -> None:
        """Have messages whose wait is over go where hooks, or else their lanes, want them."""
        raise NotImplementedError


def _in_order(entries: Sequence[AnyEntry], whens: dict[int, int]) -> list:  # type: ignore
    """Return messages by when they are due, and by position."""
    return sorted(entries, key=lambda entry: (whens[entry[0]], entry[0]))

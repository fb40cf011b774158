"""Waiting: messages of a hooked queue that are not ready before a moment, seen and steered.

Law: until when a message waits stands at its position, and that counts; what is due when is only a
hint where to look, which stays behind when the moment is changed. A message that waits can be
found by the name that a hook gives it, and by its moment; neither reads a body. What is due is made
ready in the order of the moments, however many they are.

Called by: core.expiring (is its base), core.hooked, core.restoring, plugins.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core import paging
from leveret.broker.core.chunks import cut
from leveret.broker.core.identities import hash_of, hashes_of
from leveret.broker.core.log import ABSOLUTE, Fact
from leveret.broker.core.message import Absent
from leveret.broker.core.queue import Queue
from leveret.broker.core.runs import PIECE_OCTETS, UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from leveret.broker.core.extras import Extras
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.message import Message
    from leveret.broker.core.returned import Entry as AnyEntry

DUE_LIMIT = 2048  # messages whose wait is over at a stroke
DUE_HOOKED = 512  # those of which a hook wants each: it may route it anew
STEP = 1024  # messages that are looked at in one step
AHEAD = 2  # pieces of those that are read at a time
LOOKED = 10_000  # entries that are looked at for one page
# Entries that stay although nobody waits for them, before more than half of all is too many.
TOLERATED = 1024
LONG_AGO = -(1 << 48)  # before any moment: what was due before the clock began is below 0


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


class Ending:
    """Messages whose wait is over, in order, which go on together.

    Attributes:
      entries: Their positions, and them.
      absent: Those of them that have to be read.
      is_asked: Whether they are being read.
    """

    __slots__ = ("absent", "entries", "is_asked")

    def __init__(self, entries: list[AnyEntry]) -> None:
        self.entries = entries
        self.absent = [entry for entry in entries if entry[1].__class__ is Absent]
        self.is_asked = False

    def load(self, read: Sequence[Entry]) -> None:
        """Take in messages that have been read."""
        known: dict[int, Message] = dict(read)
        self.entries = [(at, known.get(at, message)) for at, message in self.entries]
        self.absent = [entry for entry in self.absent if entry[0] not in known]


class Waiting(Queue):
    """A queue in which messages wait."""

    __slots__ = ()

    extras: Extras

    # What can be seen

    @property
    def waiting_count(self) -> int:
        """How many messages wait for a moment."""
        return self.extras.waiting.count

    def find_waiting(self, identity: str, limit: int = UNLIMITED) -> list[int]:
        """Return the positions of messages that wait and have a name, ascending.

        Args:
          identity: The name.
          limit: How many they may be; those that have it longest are first to be found.
        """
        waits = self.extras.due.get
        found: set[int] = set()
        for position in self.extras.identities.find(hash_of(identity)):
            if waits(position):
                found.add(position)
                if len(found) >= limit:
                    break
        return sorted(found)

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
        mark = (LONG_AGO, -1) if after is None else after
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
        extras.absolute.forget(some)
        if found:
            self.take_out(found)
            self._tidy()
            self.vhost.broker.events.emit("waiting.cancelled", queue=self, count=len(found))
        return len(found)

    def reschedule(self, positions: Sequence[int], when: int, *, is_absolute: bool = False) -> int:
        """Have messages that wait do so until another moment (`Broker.now`); return how many.

        The time to live of one that has not been ready yet begins at that moment, too. Emits
        `waiting.rescheduled` with the queue and how many.

        Args:
          is_absolute: Whether it is a moment of the wall clock, and goes along when that jumps.
        """
        some, extras = self._still_waiting(positions), self.extras
        if some:
            when = moment_of(when)
            extras.absolute.forget(some)
            if is_absolute:
                for position in some:
                    extras.absolute.set(position, when + self.vhost.broker.wall_offset)
            self._move_deadlines(some, when)
            self._note_due(some, [when] * len(some))
            self._tidy()
            self.touch()
            self.vhost.broker.events.emit("waiting.rescheduled", queue=self, count=len(some))
        return len(some)

    def _move_deadlines(self, positions: Sequence[int], when: int) -> None:
        """Have messages live as long as before, but from another moment on.

        Of those whose end is a moment of the wall clock that stays.
        """
        extras, log = self.extras, self.log
        for position in positions:
            deadline = extras.deadlines.get(position)
            if not deadline or extras.returns.get(position) or position in extras.ends:
                continue
            deadline = max(deadline + when - extras.due.get(position), 1)
            extras.are_deadlines_moved = True
            extras.deadlines.set(position, deadline)
            extras.expiries.add(deadline, position)
            if log is not None:
                wall = deadline + self.vhost.broker.wall_offset
                log.note(Fact.DEADLINE, (position,), (wall,))

    def release_waiting(self, positions: Sequence[int]) -> int:
        """Have messages that wait be due now; return how many."""
        return self.reschedule(positions, self.vhost.broker.now)

    def _still_waiting(self, positions: Sequence[int]) -> list[int]:
        waits = self.extras.due.get
        return sorted({position for position in positions if waits(position)})

    # What hooks tell

    def wait_until(self, position: int, when: int, *, is_absolute: bool = False) -> None:
        """Have a message that is being placed wait until a moment (`Broker.now`).

        Of several moments of a message the latest counts.

        Args:
          is_absolute: Whether it is a moment of the wall clock, and goes along when that jumps.
        """
        extras = self.extras
        known = extras.placing.get(position)
        if known is not None:
            if when <= known:
                return
            extras.absolute.forget((position,))
        extras.placing[position] = when
        if is_absolute:
            extras.absolute.set(position, when + self.vhost.broker.wall_offset)

    def wait_all(self, base: int, whens: Sequence[int], absolute: Collection[int] = ()) -> None:
        """Have all that is being placed wait: `wait_until` for very many.

        Args:
          base: The first position.
          whens: The moment of each, in `Broker.now` (milliseconds); never 0, which stands for none.
          absolute: Positions whose moment is one of the wall clock.
        """
        extras = self.extras
        if extras.placing:  # another hook has them wait, too
            absolute = set(absolute)
            for position, when in enumerate(whens, base):
                self.wait_until(position, when, is_absolute=position in absolute)
            return
        extras.placing = dict(enumerate(whens, base))
        for position in absolute:
            extras.absolute.set(position, whens[position - base] + self.vhost.broker.wall_offset)

    def wait_entries(self, entries: Sequence[Entry], whens: Sequence[int]) -> None:
        """Have messages wait that came back."""
        ordered = sorted(zip(entries, whens, strict=True), key=lambda each: each[0][0])
        some = [entry for entry, _ in ordered]
        extras = self.extras
        extras.waiting.insert_many(some, self.sizes, self.living)
        positions = [position for position, _ in some]
        extras.due.forget(positions)  # of an earlier wait
        messages = [message for _, message in some]
        self._note_waits(positions, messages, [when for _, when in ordered], is_new=False)

    def _store_waiting(
        self, positions: Sequence[int], messages: list[Message], whens: Sequence[int]
    ) -> None:
        """Have messages wait that are new, and after all that waits."""
        self.extras.waiting.append_at(positions, messages)
        self._note_waits(positions, messages, whens, is_new=True)

    def _note_waits(
        self,
        positions: Sequence[int],
        messages: Sequence[Message],
        whens: Sequence[int],
        *,
        is_new: bool,
    ) -> None:
        """Keep until when messages wait, and what their names are."""
        extras = self.extras
        extras.due.fill(positions, whens)
        extras.dues.extend(whens, positions)
        self._log_due(positions, whens)
        extras.set_timer()
        if extras.identity:
            hashes = hashes_of(self._names(messages))
            extras.identities.add(positions, hashes, is_new=is_new)
            if self.log is not None and any(hashes):
                self.log.note(Fact.ID, positions, hashes)

    def _names(self, messages: Sequence[Message]) -> list[str | None]:
        if len(self.extras.identity) == 1:
            (hook,) = self.extras.naming
            try:
                return [hook.identity(message) for message in messages]
            except Exception:  # is told of by who guards each call
                pass
        return [self.name_of(message) for message in messages]

    def name_of(self, message: Message) -> str | None:
        """Return by what name a message can be found while it waits."""
        for identity in self.extras.identity:
            name: str | None = identity(message)
            if name:
                return name
        return None

    def _note_due(self, positions: Sequence[int], whens: Sequence[int]) -> None:
        extras = self.extras
        for position, when in zip(positions, whens, strict=True):
            extras.due.set(position, when)
            extras.dues.add(when, position)
        self._log_due(positions, whens)
        extras.set_timer()

    def _log_due(self, positions: Sequence[int], whens: Sequence[int]) -> None:
        if self.log is not None:
            offset = self.vhost.broker.wall_offset
            walls = [when + offset for when in whens]
            if absolute := self.extras.absolute:
                pairs = zip(positions, walls, strict=True)
                walls = [wall | ABSOLUTE if at in absolute else wall for at, wall in pairs]
            self.log.note(Fact.DUE, positions, walls)

    # What is due

    def _end_waits(self, now: int) -> None:
        """Take out some of what is due, and make it ready once all of it is in memory.

        There is no more before it is: so the order is that of the moments, also where some has to
        be read, and what is read at once is never very much.
        """
        extras, due = self.extras, self.extras.due
        limit = DUE_HOOKED if extras.due_hooks else DUE_LIMIT
        if extras.ending or not (ranges := extras.dues.due(now, limit)):
            return
        whens = {
            position: when
            for first, count in ranges
            for position in range(first, first + count)
            if (when := due.get(position)) and when <= now
        }
        if not whens:
            return
        found = extras.waiting.remove_many(sorted(whens), self.sizes, self.living)
        due.forget(whens)
        extras.absolute.forget(whens)
        for _ in range(1 + 2 * len(whens) // STEP):  # faster than they can come again
            self._tidy()
        found.sort(key=lambda entry: (whens[entry[0]], entry[0]))
        for start, end, _ in cut([message for _, message in found], PIECE_OCTETS):
            extras.ending.append(Ending(found[start:end]))
        self._make_due_ready()

    def _make_due_ready(self) -> None:
        """Make ready what is in memory; have what comes next read if it is not."""
        ending = self.extras.ending
        while ending and not ending[0].absent:
            self.make_ready(ending.popleft().entries)  # type: ignore[arg-type]
        for piece in islice(ending, AHEAD):
            if piece.absent and not piece.is_asked:
                piece.is_asked = True
                paging.with_bodies(self, piece.absent, partial(self._loaded_ending, piece))

    def _loaded_ending(self, piece: Ending, entries: list[Entry]) -> None:
        piece.load(entries)
        self._make_due_ready()

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

    def _is_awaited(self, when: int, first: int, count: int) -> bool:
        waits = self.extras.due.get
        return any(waits(position) == when for position in range(first, first + count))

    # What is built on it: core.expiring, core.returning

    def take_out(self, entries: Sequence[AnyEntry]) -> None:
        """Let go of messages that are in no lane any more, as if they had been acknowledged."""
        raise NotImplementedError

    def make_ready(self, entries: Sequence[Entry]) -> None:
        """Have messages whose wait is over go where hooks, or else their lanes, want them."""
        raise NotImplementedError


def moment_of(when: int) -> int:
    """Return a moment as it is kept: 0 stands for none."""
    return when or -1

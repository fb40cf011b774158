"""Expiring: until when messages of a hooked queue live, and how what leaves it is dropped.

Law: what is due is done before anything is dealt, very much of it in pieces. When what expires is
only a hint where to look once deadlines were put off; the deadline at its position counts. Messages
may leave from the middle. One whose body only the log has is taken out at once and read before a
hook gets it; until then the log keeps it, so that a crash undoes it.

Called by: core.returning (is its base), core.waiting (take_out), core.hooked; plugins (expire_at,
drop_entries, drop_front, take_out).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from leveret.broker.core import paging
from leveret.broker.core.chunks import Paged
from leveret.broker.core.extras import FAILED
from leveret.broker.core.hooks import Reason
from leveret.broker.core.log import ABSOLUTE, Fact
from leveret.broker.core.queue import seal_caused
from leveret.broker.core.runs import UNLIMITED
from leveret.broker.core.tally import Tally
from leveret.broker.core.waiting import STEP, Waiting, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leveret.broker.core.extras import Extras
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.returned import Entry as AnyEntry
    from leveret.broker.core.runs import Runs

DUE_LIMIT = 512  # messages that expire at a stroke


class Expiring(Waiting):
    """A queue whose messages expire, and are dropped."""

    __slots__ = ()

    extras: Extras

    # When messages expire

    def expire_at(
        self, when: int, first: int, count: int = 1, *, is_absolute: bool = False
    ) -> None:
        """Have messages dropped at a moment (`broker.now`) if they are still in the queue then.

        Of several moments of a message the earliest counts.

        Args:
          is_absolute: Whether it is a moment of the wall clock: then it goes along when that
            jumps, and stays when a message is to wait longer or shorter.
        """
        extras = self.extras
        deadlines, positions = extras.deadlines, range(first, first + count)
        is_first = first >= deadlines.end
        if extras.tally is None:
            extras.tally = Tally(max(self.next_position, first + count))
        if self._sealed and when <= self.vhost.broker.now and first >= self._sealed[0][0]:
            extras.put_off.append((first, count))  # nobody could take it yet
        else:
            extras.expiries.add(when, first, count)
        deadlines.lower(first, count, when)
        if is_absolute or extras.ends:
            self._note_ends(when, positions, is_absolute=is_absolute)
        if self.log is not None:
            offset = self.vhost.broker.wall_offset
            whens = [when] * count if is_first else map(deadlines.get, positions)
            walls = [each + offset for each in whens]
            if ends := extras.ends:
                pairs = zip(positions, walls, strict=True)
                walls = [wall | ABSOLUTE if at in ends else wall for at, wall in pairs]
            self.log.note(Fact.DEADLINE, positions, walls)

    def expire_all(self, base: int, whens: Sequence[int]) -> None:
        """Have neighbours dropped at moments, one each: `expire_at` for very many.

        What comes in has no earlier moment yet, and so costs little; all else goes one by one.

        Args:
          base: The first position.
          whens: The moment of each (`broker.now`).
        """
        extras, count = self.extras, len(whens)
        if whens.count(whens[0]) == count:
            self.expire_at(whens[0], base, count)
            return
        is_over = self._sealed and min(whens) <= self.vhost.broker.now  # some may be put off
        if is_over or extras.ends or base < extras.deadlines.end:
            for position, when in enumerate(whens, base):
                self.expire_at(when, position)
            return
        if extras.tally is None:
            extras.tally = Tally(max(self.next_position, base + count))
        positions = range(base, base + count)
        extras.expiries.extend(whens, positions)
        extras.deadlines.extend(base, whens)
        if self.log is not None:
            offset = self.vhost.broker.wall_offset
            self.log.note(Fact.DEADLINE, positions, [when + offset for when in whens])

    def _note_ends(self, when: int, positions: Sequence[int], *, is_absolute: bool) -> None:
        """Take note whose earliest moment is now one of the wall clock, or is not any more."""
        extras, wall = self.extras, when + self.vhost.broker.wall_offset
        for position in positions:
            if extras.deadlines.get(position) != when:
                continue
            if is_absolute:
                extras.ends.set(position, wall)
            elif extras.ends.get(position) != wall:
                extras.ends.pop(position)

    # What is due

    def _run_due(self, now: int) -> bool:
        """Make ready what has waited, drop what has expired; return whether that was all."""
        extras = self.extras
        extras.let_pass(now)
        self._end_waits(now)
        if extras.is_reading:
            return False
        for first, count in extras.expiries.due(now, DUE_LIMIT):
            if extras.are_deadlines_moved:
                self._expire(first, count, now)
            else:
                self.drop_range(first, first + count - 1, Reason.EXPIRED)
        return extras.next_due > now

    def _resume_expiry(self, now: int) -> None:
        """Have what was put off expire: whoever there is could take it."""
        extras = self.extras
        end = self._unseal() if self._sealed else UNLIMITED
        left: list[tuple[int, int]] = []
        for first, count in extras.put_off:
            if first < end:
                extras.expiries.add(now, first, count)
            else:
                left.append((first, count))
        extras.put_off = left

    def _expire(self, first: int, count: int, now: int) -> None:
        """Drop those of a range whose deadline was not put off."""
        for position in range(first, first + count):
            if self.extras.deadlines.get(position) <= now:
                self.drop_range(position, position, Reason.EXPIRED)

    # The wall clock

    def clock_jumped(self) -> Iterator[None]:
        """Have what waits for, or expires at, a moment of the wall clock follow it, in steps."""
        extras, broker = self.extras, self.vhost.broker
        for index, (position, wall) in enumerate(extras.absolute):
            when = moment_of(wall - broker.wall_offset)
            if extras.due.get(position) not in {0, when}:
                self._move_deadlines((position,), when)
                extras.due.set(position, when)
                extras.dues.add(when, position)
            if index % STEP == STEP - 1:
                self.touch()
                yield
        for index, (position, wall) in enumerate(extras.ends):
            when = max(wall - broker.wall_offset, 1)
            if extras.deadlines.get(position) not in {0, when}:
                extras.are_deadlines_moved = True
                extras.deadlines.set(position, when)
                extras.expiries.add(when, position)
            if index % STEP == STEP - 1:
                self.touch()
                yield
        self.touch()

    # What leaves

    def drop_entries(self, entries: Sequence[Entry], reason: Reason) -> None:
        """Drop messages that are in no lane any more: dead-letter them, if that is asked for."""
        results = [dropped(entries, reason) for dropped in self.extras.dropped]
        if self._sealed:
            seal_caused(self.vhost.broker.batch, self.sealed_until)
        if FAILED not in results:  # else they are gone from here, but come back with a restart
            self.take_out(entries)

    def take_out(self, entries: Sequence[AnyEntry]) -> None:
        """Let go of messages that are in no lane any more, as if they had been acknowledged."""
        positions = [position for position, _ in entries]
        if self.log is not None:
            self.log.settled(positions)
        self.extras.forget(positions)

    def drop_range(self, first: int, last: int, reason: Reason) -> int:
        """Drop the ready and waiting messages of a range of positions; return how many."""
        found = self._remove(first, last)
        self._drop_found(found, reason)
        return len(found)

    def drop_front(self, count: int, reason: Reason) -> None:
        """Drop ready messages from where they would be served next."""
        lanes = self.extras.lanes
        while count > 0:
            lane = lanes.first_to_drop()
            if lane is None:
                return
            found = self._take_front(lane, count)
            self.extras.body_octets -= sum([message.size for _, message in found])
            lanes.left(lane, len(found))
            count -= len(found)
            self._drop_found(found, reason)

    def _take_front(self, lane: Runs, count: int) -> list[AnyEntry]:
        """Take out at most so many messages from the front of a lane, loaded or not."""
        if not lane.is_front_paged:
            return list(zip(*lane.take(count), strict=True))
        chunk = next(iter(lane.items()))
        assert isinstance(chunk, Paged)
        positions = chunk.numbers(self.living)
        last = positions[min(count, len(positions)) - 1]
        return lane.remove(lane.first, last, self.sizes, self.living)

    def _remove(self, first: int, last: int) -> list[AnyEntry]:
        extras = self.extras
        found = extras.lanes.remove(first, last)
        extras.body_octets -= sum([message.size for _, message in found])
        if extras.waiting.count:
            late = extras.waiting.remove(first, last, self.sizes, self.living)
            extras.due.forget([position for position, _ in late])
            extras.absolute.forget([position for position, _ in late])
            found += late
        return found

    def _drop_found(self, found: list[AnyEntry], reason: Reason) -> None:
        if not found:
            return
        if not self.extras.dropped:
            self.take_out(found)
            return
        paging.with_bodies(self, found, partial(self._drop_fetched, reason))

    def _drop_fetched(self, reason: Reason, entries: list[Entry]) -> None:
        self.drop_entries(entries, reason)

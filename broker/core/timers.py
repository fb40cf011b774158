"""Timers: what is to be called when.

Law: time comes in as a number. Whoever is called does little, or sets a timer for the rest; whoever
fails takes nobody along. A timer that is cancelled, or moved to a later time, costs nothing now:
its entry stays where it is, and is looked at when it is due.

Called by: core and plugins (set them), server.clock and testing (run them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leveret.broker.core.batch import Batch

# Entries that stay although nobody waits for them, before more than half of all is too many.
TOLERATED = 1024


def _nothing() -> None:
    pass


class Timer:
    """One callback and when it is due.

    Attributes:
      when: When, in milliseconds as `Broker.now` counts; None if it is not set.
    """

    __slots__ = ("_callback", "_entered", "_number", "_timers", "when")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self.when: int | None = None
        self._timers = timers
        self._callback = callback
        self._number = -1  # that of its entry
        self._entered = 0  # when that is due

    def __repr__(self) -> str:
        return f"<Timer of {self._callback!r} at {self.when}>"

    def cancel(self) -> None:
        """Call nothing; may be done at any time."""
        self._timers._cancel(self)

    def move(self, when: int) -> None:
        """Call at another time, also if it was called or cancelled before."""
        self._timers._move(self, when)


class Timers:
    """All timers of a broker.

    Attributes:
      changed: Called when one is set that is due before all others.
    """

    __slots__ = ("_batch", "_deadlines", "_next_number", "_rebuilding", "_set", "changed")

    def __init__(self, batch: Batch) -> None:
        self.changed: Callable[[], None] = _nothing
        self._batch = batch
        self._deadlines = Deadlines()  # of numbers
        self._set: dict[int, Timer] = {}  # by the number of the entry
        self._next_number = 0
        self._rebuilding: Iterator[None] | None = None

    def __len__(self) -> int:
        """Return how many are set."""
        return len(self._set)

    @property
    def next(self) -> int | None:
        """When to look again: not later than the next is due; None if none is set."""
        return self._deadlines.next if self._set else None

    def at(self, when: int, callback: Callable[[], None]) -> Timer:
        """Have a callback called once, at a time or as soon after it as can be.

        Args:
          when: In milliseconds as `Broker.now` counts; if it is past, at the next occasion.
          callback: What is called; it may set, move and cancel timers.
        """
        timer = Timer(self, callback)
        self._move(timer, when)
        return timer

    def _move(self, timer: Timer, when: int) -> None:
        when = max(when, 0)
        known, timer.when = timer.when, when
        if known is not None and known <= when:
            return  # its entry is due before, and then put off
        if known is not None:
            del self._set[timer._number]
        first = self.next
        timer._number = self._next_number
        self._next_number += 2  # neighbours would be one entry
        self._set[timer._number] = timer
        self._enter(timer, when)
        self._tidy()
        if first is None or when < first:
            self.changed()

    def _enter(self, timer: Timer, when: int) -> None:
        timer._entered = when
        self._deadlines.add(when, timer._number)

    def _cancel(self, timer: Timer) -> None:
        if timer.when is not None:
            timer.when = None
            del self._set[timer._number]
            self._tidy()

    def _tidy(self) -> None:
        """Look some entries through if most of all are of no use."""
        if self._rebuilding is None:
            if len(self._deadlines) <= 2 * len(self._set) + TOLERATED:
                return
            self._rebuilding = self._deadlines.rebuild(self._is_set)
        try:
            next(self._rebuilding)
        except StopIteration:
            self._rebuilding = None

    def _is_set(self, when: int, number: int, count: int) -> bool:
        return number in self._set

    def run_due(self, now: int, out_of_time: Callable[[], bool]) -> bool:
        """Call what is due, the earliest first.

        Returns:
          False if there was no time for all of it.
        """
        while due := self._deadlines.due(now, 1):
            ((number, _),) = due
            timer = self._set.get(number)
            if timer is None:
                continue
            when = timer.when
            if when is not None and when > timer._entered:  # it was moved
                self._enter(timer, when)
                continue
            del self._set[number]
            timer.when = None
            try:
                timer._callback()
            except Exception as problem:
                self._batch.failed(timer, problem)
            if out_of_time():
                first = self.next
                return first is None or first > now
        return True

"""Extras: what a queue has besides its messages when plugins have a part in it.

Law: hooks are gathered once, by what they override; what nobody overrides is an empty tuple. A
queue whose hooks only look at what comes in, is rejected or settled stays plain; one whose hooks
want to say when, or in which order, messages are served is a `HookedQueue`.

Called by: core.fitting (makes and fits them), core.stock, core.queue, core.hooked and its bases,
amqp (tells what is gone); plugins (what is known of a message).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from leveret.broker.core.deadlines import Deadlines
from leveret.broker.core.hooks import QueueHook
from leveret.broker.core.identities import Identities
from leveret.broker.core.lanes import Lanes
from leveret.broker.core.runs import Runs
from leveret.broker.core.shards import Shards
from leveret.broker.core.tally import Tally
from leveret.broker.core.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from leveret.broker.core.chunks import Paged
    from leveret.broker.core.hooked import HookedQueue
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.timers import Timer
    from leveret.broker.core.waiting import Ending

    Fetched: TypeAlias = Callable[[list[Entry]], None]

# What makes a queue a hooked one.
DEEP: Final = ("placed", "due", "dealt", "lanes", "outgoing", "delivered", "returned")


# Positions with deadlines that stay although they are gone, before more than half is too many.
TOLERATED = 1024

# Messages being read to be dropped, or to go on, before no more are taken out to be.
MOST_LEAVING = 2048

# What `dropped` of a hook that raised returns: what it should have taken is not let go.
FAILED: Final = object()


class Extras:
    """What hooks and their queue know together.

    Attributes:
      hooks: Those of the queue by who made them, in the order they are called.
      is_deep: Whether the queue has to be a hooked one for them.
      is_stale: Whether the queue is to be fitted anew once nothing is in it.
      naming: Those hooks that give waiting messages names, for who asks them of very many: what
        `identity` has are their methods, each guarded at every call.
      lanes: The order in which messages are served.
      expiries: Positions by when they expire.
      deadlines: When each position expires.
      passing: Makes one of those that are over, in steps; None if it does not.
      ends: Those that are of the wall clock, and what that shows then.
      put_off: Ranges of those with time to live 0 that wait for a commit before they may be
        delivered, or else expire: first and count.
      tally: Counts what is settled, if anything has a deadline.
      adopting: Hooks that came when messages were there, and before which position those are.
      are_deadlines_moved: Whether some are later than `expiries` says.
      waiting: Messages that are not ready before a moment.
      dues: Their positions by that moment.
      due: The moment of each.
      absolute: Those of them whose moment is one of the wall clock.
      ending: Messages whose wait is over, and some of which have to be read before they go on.
      identities: Waiting messages that have a name, by it.
      returns: How often messages came back, of those that did.
      fetching: What is being read to be dropped or made ready, and what is done with it then.
      leaving: How many those are.
      asked: Lanes by what is being read for them.
      is_held: Whether nothing is delivered.
      is_dealing: Whether the queue is just being dealt.
      tidying: Takes moments out of `dues` that nobody waits for, in steps; None if it does not.
      body_octets: Of the bodies of ready messages.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.hooks: dict[object, QueueHook] = {}
        self.is_deep = False
        self.is_stale = False
        self.lanes = Lanes(cast("HookedQueue", queue))
        self.expiries = Deadlines()
        self.deadlines = Timeline()
        self.passing: Iterator[None] | None = None
        self._chunks_left = 0  # of deadlines, after the last pass
        self.ends = Shards()
        self.put_off: list[tuple[int, int]] = []
        self.tally: Tally | None = None
        self.adopting: dict[QueueHook, int] = {}
        self.are_deadlines_moved = False
        self.waiting = Runs()
        self.dues = Deadlines()
        self.due = Shards()
        self.absolute = Shards()
        self.ending: deque[Ending] = deque()
        self.identities = Identities()
        self.returns = Shards()
        self.fetching: dict[Paged, Fetched] = {}
        self.leaving = 0
        self.asked: dict[Paged, Runs] = {}
        self.is_held = False
        self.is_dealing = False
        self.body_octets = 0
        self.tidying: Iterator[None] | None = None
        self._tidying_expiries: Iterator[None] | None = None
        self._tidied = 0  # positions in `expiries` when they were tidied last
        self.placing: dict[int, int] = {}  # while messages are placed: those that wait, until when
        self._timer: Timer | None = None
        self._gather()

    def fit(self, kinds: dict[object, type[QueueHook]]) -> list[QueueHook]:
        """Take over the hooks that the settings ask for now; return those that are new.

        One that was there before stays, with all it knows, and reads the settings anew. If one
        raises, all that were there before stay.
        """
        before, hooks = dict(self.hooks), dict[object, QueueHook]()
        new: list[QueueHook] = []
        for choice, kind in kinds.items():
            known = before.get(choice)
            if known is not None and type(known) is kind:
                known.refit()
                hooks[choice] = before.pop(choice)
            else:
                hooks[choice] = kind(self.queue)
                new.append(hooks[choice])
        self.hooks = hooks
        for gone in before.values():
            self.adopting.pop(gone, None)
            gone.close()
        self._gather()
        self.adopt_from(self.queue.next_position, new)
        return new

    def adopt_from(self, end: int, hooks: Iterable[QueueHook]) -> None:
        """Have hooks take over what is before a position, and is not ready yet, once it is."""
        self.adopting |= {hook: end for hook in hooks if end and _overrides(hook, "adopt")}

    def _gather(self) -> None:
        hooks = list(self.hooks.values())
        batch = self.queue.vhost.broker.batch

        def failed(who: object, problem: Exception) -> None:
            batch.failed(who, problem)  # who is told is set when the server starts

        self.is_deep = any(
            hook.is_deep or _overrides(hook, name) for hook in hooks for name in DEEP
        )
        self.is_held = any(hook.is_holding for hook in hooks)
        self.placed = _gather(hooks, "placed", failed)
        self.due_hooks = _gather(hooks, "due", failed)
        self.naming = tuple(hook for hook in hooks if _overrides(hook, "identity"))
        self.identity = _gather(self.naming, "identity", failed)
        self.dealt = _gather(hooks, "dealt", failed)
        dealing = [hook for hook in hooks if _overrides(hook, "dealt")]
        self.fits = tuple(_guarded(hook, "fits", failed) for hook in dealing)
        self.outgoing = _gather(hooks, "outgoing", failed)
        self.delivered = _gather(hooks, "delivered", failed)
        self.returned = _gather(hooks, "returned", failed)
        self.settled = _gather(hooks, "settled", failed)
        self.dropped = _gather(hooks, "dropped", failed)
        self.used = _gather(hooks, "used", failed)
        self.consumers_changed = _gather(hooks, "consumers_changed", failed)
        self.admitting = tuple(
            hook for hook in hooks if _overrides(hook, "admit") or _overrides(hook, "admitted")
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is known here that a plain queue does not know."""
        is_timed = self.waiting.count or self.leaving or self.ending or len(self.expiries)
        is_timed = is_timed or len(self.put_off)
        is_timed = is_timed or (self.queue.unacked_count and self.deadlines.runs)
        return not (is_timed or self.returns or self.lanes.is_keyed or self.is_held)

    @property
    def is_reading(self) -> bool:
        """Whether so much is read to leave the queue that the rest has to wait until it is here."""
        return self.leaving >= MOST_LEAVING

    # Time

    @property
    def next_due(self) -> float:
        """When something expires or becomes ready next; infinity if nothing does."""
        # what ended before goes on first, and wakes the queue up
        expiry, due = self.expiries.next, None if self.ending else self.dues.next
        if expiry is None:
            return _NEVER if due is None else due
        return expiry if due is None else min(expiry, due)

    def set_timer(self) -> None:
        """Have the queue dealt when something is due next."""
        when = self.next_due
        timer = self._timer
        if when is _NEVER or self.is_reading:  # what is read wakes the queue up
            return
        if timer is None or timer.when is None:
            timers = self.queue.vhost.broker.timers
            self._timer = timers.at(int(when), self._ring)
        elif timer.when > when:
            timer.move(int(when))

    def _ring(self) -> None:
        self._timer = None
        self.queue.touch()

    def let_pass(self, now: int) -> None:
        """Make one of deadlines that are over, if they may be more than half of all.

        A queue that is never empty would else keep each of them for ever.
        """
        if self.passing is None and self.deadlines.chunks > 2 * self._chunks_left + 2:
            self.passing = self._pass(now)
            self.queue.vhost.broker.batch.debris.append(self.passing)

    def _pass(self, now: int) -> Iterator[None]:
        yield from self.deadlines.let_pass(now)
        self._chunks_left = self.deadlines.chunks
        self.passing = None

    def forget(self, positions: Sequence[int]) -> None:
        """Forget what is known of messages that are settled."""
        if self.returns:
            self.returns.forget(positions)
        self.lanes.settled(positions)
        self.ends.forget(positions)
        if self.tally is not None and positions:
            for first, end in self.tally.settled(positions):
                self.deadlines.forget(first, end)
        for settled in self.settled:
            settled(positions)

    def tidy(self, left: int) -> None:
        """Look some of what is known of deadlines through if most of it is of what is gone.

        Args:
          left: How many messages there are.
        """
        if self._tidying_expiries is None:
            if self.expiries.positions <= 2 * max(left, self._tidied) + TOLERATED:
                return
            self._tidying_expiries = self.expiries.rebuild(self._is_expiring)
        if next(self._tidying_expiries, self) is self:
            self._tidying_expiries = None
            self._tidied = self.expiries.positions

    def _is_expiring(self, when: int, first: int, count: int) -> bool:
        """Whether a message among some expires at a moment; all that are over are one."""
        return when <= self.queue.vhost.broker.now or self.deadlines.has(when, first, count)

    def clear(self) -> None:
        """Forget what is known of ready messages: they are gone, and none waits."""
        self.asked.clear()
        unacked = self.queue.unacked_count
        if not unacked:
            self.clear_deadlines()
        elif self.tally is not None:
            self.tally = Tally(self.queue.next_position, unacked)

    def clear_deadlines(self) -> None:
        """Forget when anything expires."""
        self.queue.vhost.broker.batch.debris.append(self.expiries.clear())
        self.deadlines.clear()
        self.ends.clear()
        self.put_off.clear()
        self.tally = self._tidying_expiries = None
        self._tidied = 0

    def forget_all(self) -> None:
        """Forget what is known of messages: there is none any more."""
        batch = self.queue.vhost.broker.batch
        self.clear_deadlines()
        batch.debris += (self.dues.clear(), self.due.free(), self.identities.free())
        self.tidying = None
        self.adopting = {}
        self.returns.clear()

    def close(self) -> None:
        """Let go of everything: the queue is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for hook in self.hooks.values():
            hook.close()
        self.hooks = {}
        self.fetching.clear()
        self.ending.clear()
        self.leaving = 0
        batch = self.queue.vhost.broker.batch
        batch.debris += (self.expiries.clear(), self.dues.clear(), self.waiting.clear())
        batch.debris += (self.due.free(), self.identities.free())
        self._gather()


_NEVER = float("inf")


def _overrides(hook: QueueHook, name: str) -> bool:
    return getattr(type(hook), name) is not getattr(QueueHook, name)


def _gather(
    hooks: Sequence[QueueHook], name: str, failed: Callable[[object, Exception], None]
) -> tuple[Callable[..., Any], ...]:
    """Return the methods of a name of those hooks that have one of their own.

    One that raises is reported, and counts as one that does nothing.
    """
    return tuple(_guarded(hook, name, failed) for hook in hooks if _overrides(hook, name))


def _guarded(
    hook: QueueHook, name: str, failed: Callable[[object, Exception], None]
) -> Callable[..., Any]:
    method = getattr(hook, name)
    nothing = _NOTHING.get(name, _none)

    def call(*arguments: object) -> object:
        try:
            result: object = method(*arguments)
        except Exception as problem:
            failed(hook, problem)
            return nothing(*arguments)
        return result

    return call


def _none(*arguments: object) -> None:
    return None


_NOTHING: Final[dict[str, Callable[..., object]]] = {
    "due": lambda entries: entries,
    "returned": lambda entries: entries,
    "outgoing": lambda position, message: message,
    "dropped": lambda entries, reason: FAILED,
}

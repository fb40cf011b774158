"""Inspect: looking at the messages of a queue, and changing nothing.

Law: nobody else can tell that somebody has looked: nothing is dealt, counted, moved or kept in
memory by it. What is not in memory is read as for a queue, but a `Look` stands in for the queue and
gets copies. A page costs what is on it, however long the queue is; what a filter passes over is
limited, too, and the page says from where to go on.

A message is shown as it was when the page was asked for. What has only come in this slice, and
what comes back to a queue in pieces, is not there yet.

Called by: core.lookups, plugins (moving, redrive).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, cast

from leveret.broker.core.chunks import Paged
from leveret.broker.core.log import Kept
from leveret.broker.core.message import Absent
from leveret.broker.core.sighting import Holder, Page, Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from leveret.broker.core.chunks import Chunk
    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.filter import Filter
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.runs import Runs
    from leveret.broker.core.users import User

LIMIT = 50  # messages of a page
LOOKED = 1000  # messages that are looked at for one page, wanted or not
FETCHED = 4 << 20  # octets that are read for one page, unless it is one chunk
OTHERS = 50  # entries of other queues that count as one that is looked at
LONGEST_MARK = 60  # digits and dots

Mark: TypeAlias = tuple[int, ...]  # where one stands in the order of a state


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a message is.

    Attributes:
      mark: Its place in the order of its state.
      position: Its position in the queue.
      message: Itself, if it is in memory; else None, or what stands for it.
      octets: About what has to be read for it.
      paged: The chunk it is in, if that is in a scratch file.
      redelivered: Whether it was delivered before; None if nobody remembers.
      holder: Who has it, None if nobody does.
    """

    mark: Mark
    position: int
    message: Message | Absent | None
    octets: int = 0
    paged: Paged | None = None
    redelivered: bool | None = None
    holder: Holder | None = None


class State(NamedTuple):
    """One of the states that messages of a queue are in.

    Attributes:
      walk: Returns the spots after a mark, () for all, in order. A mark instead of a spot says
        how far it has come without finding any.
      mark_length: Numbers of a mark.
    """

    walk: Callable[[Queue, Mark], Iterator[Spot | Mark]]
    mark_length: int


def peek(
    queue: Queue,
    done: Callable[[Page], None],
    *,
    state: str = "ready",
    after: str = "",
    limit: int = LIMIT,
    wanted: Filter | None = None,
    positions: Sequence[int] | None = None,
) -> None:
    """Look at messages of a queue, by position, or unacked ones by who holds them.

    Args:
      queue: The queue.
      done: Called with the page: at once if all of it is in memory, else when it has been read.
        For that the slice has to end, as after every command.
      state: A key of `STATES`.
      after: What the page before had as `next`, "" to begin; of ready messages it is a position.
      limit: How many messages the page has at most.
      wanted: Which are shown; all without it.
      positions: The only ones that are looked at, ascending; None for all.

    Raises:
      ValueError: There is no such state, or no page of it ends there, or it has no positions.
    """
    if state not in STATES:
        raise ValueError(f"there is no state '{state}', only {', '.join(STATES)}")
    walk, length = STATES[state]
    mark = _mark(after, length)
    if positions is None:
        spots = walk(queue, mark)
    elif length != 1:
        raise ValueError(f"messages that are {state} are not looked at by position")
    else:
        spots = _at(walk, queue, [each for each in positions if not mark or each > mark[0]])
    _Peek(queue, done, limit, wanted).run(spots)


def _at(
    walk: Callable[[Queue, Mark], Iterator[Spot | Mark]], queue: Queue, positions: Iterable[int]
) -> Iterator[Spot | Mark]:
    for position in positions:
        spot = next(walk(queue, (position - 1,)), None)
        yield spot if isinstance(spot, Spot) and spot.position == position else (position,)


def _mark(after: str, length: int) -> Mark:
    if not after:
        return ()
    numbers = after.split(".")
    is_mark = len(numbers) == length and len(after) <= LONGEST_MARK
    if not is_mark or not all(each.isascii() and each.isdigit() for each in numbers):
        raise ValueError(f"no page ends at '{after}'")
    return tuple(map(int, numbers))


def delivery_count(queue: Queue, position: int) -> int | None:
    """Return how often a message has come back to a queue, None if nobody counts."""
    counts: list[int] = []
    if queue.extras is not None:  # it counts since a plugin has had to do with the queue
        counts.append(queue.extras.returns.get(position))
    if queue.log is not None:
        counts.append(queue.log.count(position))
    return max(counts, default=None)


def moments(queue: Queue, position: int) -> tuple[int | None, int | None]:
    """Return until when a message waits, and when it expires, by the wall clock; None for never."""
    extras, offset = queue.extras, queue.vhost.broker.wall_offset
    if extras is None:
        return None, None
    due, deadline = extras.due.get(position), extras.deadlines.get(position)
    return due + offset if due else None, deadline + offset if deadline else None


# States


def _ready(queue: Queue, after: Mark) -> Iterator[Spot | Mark]:
    position = after[0] if after else -1
    came_back = (
        Spot((at,), at, message, message.header_size + message.size, redelivered=True)
        for at, message in queue.returned.after(position)
    )
    late = None if queue.extras is None else queue.extras.waiting
    lanes = [_run(queue, runs, position) for runs in queue.all_runs() if runs is not late]
    return merge(came_back, *lanes, key=attrgetter("position"))


def _waiting(queue: Queue, after: Mark) -> Iterator[Spot | Mark]:
    """Return what waits for a moment, in order of position."""
    if queue.extras is not None:
        yield from _run(queue, queue.extras.waiting, after[0] if after else -1)


def _run(queue: Queue, runs: Runs, after: int) -> Iterator[Spot]:
    for chunk in runs.after(after):
        yield from _spots(queue, chunk, after)


def _spots(queue: Queue, chunk: Chunk | Paged, after: int) -> Iterator[Spot]:
    """Return the spots in a chunk after a position."""
    if not isinstance(chunk, Paged):
        positions = chunk.numbers
        for index in range(bisect_right(positions, after), len(positions)):
            at = positions[index]
            yield Spot((at,), at, chunk.messages[index], redelivered=_came_back(queue, at))
        return
    positions = chunk.numbers(None if queue.log is None else queue.log.positions)
    is_scratch = chunk.slot is not None
    octets = chunk.octets if is_scratch else chunk.octets // chunk.count
    paged = chunk if is_scratch else None
    for at in positions[bisect_right(positions, after) :]:
        yield Spot((at,), at, None, octets, paged, _came_back(queue, at))
        if is_scratch:
            octets = 0  # it is read as a whole


def _came_back(queue: Queue, position: int) -> bool:
    extras = queue.extras
    if position <= queue.delivered_before:
        return True
    return extras is not None and extras.returns.get(position) > 0


class _Channel(Protocol):
    number: int
    next_tag: int
    unacked: dict[int, tuple[Consumer, int, Message | Absent]]


class _Session(Protocol):
    number: int
    peer: str
    user: User | None
    channels: Mapping[int, _Channel]


def _unacked(queue: Queue, after: Mark) -> Iterator[Spot | Mark]:
    """Return what a queue's consumers, and those who asked for one message, have not settled."""
    number, channel_number, tag = after or (0, 0, 0)
    for session in cast("Iterable[_Session]", queue.vhost.broker.sessions):
        if session.number < number:
            continue
        is_first = session.number == number
        for channel in sorted(session.channels.values(), key=attrgetter("number")):
            if not is_first or channel.number > channel_number:
                yield from _held(queue, session, channel, 0)
            elif channel.number == channel_number:
                yield from _held(queue, session, channel, tag)


def _held(queue: Queue, session: _Session, channel: _Channel, after: int) -> Iterator[Spot | Mark]:
    """Return what one channel has of a queue after a delivery tag."""
    passed = 0
    user = "" if session.user is None else session.user.name
    for tag in _tags(channel, after):
        mark = (session.number, channel.number, tag)
        entry = channel.unacked.get(tag)
        if entry is None or entry[0].queue is not queue:
            passed += 1
            if passed % OTHERS == 0:
                yield mark
            continue
        consumer, position, message = entry
        holder = Holder(session.peer, user, channel.number, consumer.tag, tag)
        octets = message.header_size + message.size
        yield Spot(mark, position, message, octets, holder=holder)


def _tags(channel: _Channel, after: int) -> Iterable[int]:
    """Return the delivery tags after one, in order; some may be settled."""
    if not after:
        return channel.unacked
    tags = range(after + 1, channel.next_tag)
    if len(tags) <= 2 * len(channel.unacked):
        return tags
    ordered = list(channel.unacked)
    return ordered[bisect_right(ordered, after) :]


STATES: dict[str, State] = {
    "ready": State(_ready, 1),
    "waiting": State(_waiting, 1),
    "unacked": State(_unacked, 3),
}
"""What can be looked at; plugins add theirs."""


# Reading


class Look:
    """Stands in for a queue where copies of its messages are read; they stay where they are.

    Attributes:
      read: The copies, by position.
    """

    def __init__(self, queue: Queue, done: Callable[[], None]) -> None:
        self.read: dict[int, Message] = {}
        self._queue = queue
        self._done = done
        self._asked: dict[Paged, None] = {}

    def fetch(self, spots: Sequence[Spot]) -> None:
        """Have the messages of spots read; `done` is called once, when all are here or gone."""
        log = self._queue.log
        for chunk in {spot.paged: None for spot in spots if spot.paged is not None}:
            copy = Paged(chunk.base, chunk.end, chunk.count, chunk.octets, chunk.slot, chunk.stored)
            self._asked[copy] = None
        positions = sorted(spot.position for spot in spots if spot.paged is None)
        if positions and log is not None:
            end = positions[-1] + 1
            self._asked[Paged(positions[0], end, len(positions), 0, None, positions)] = None
        if not self._asked:
            self._done()
        for paged in tuple(self._asked):
            source = paged.slot or log
            assert source is not None
            source.fetch(self, paged)

    def waits_for(self, paged: Paged) -> bool:
        """Leave out what has left the queue since; return whether anything is left to be read."""
        if paged.slot is not None:  # what a file has stays as it is
            return True
        log = self._queue.log
        kept = () if log is None else Kept(log)
        left = [position for position in paged.positions or () if position in kept]
        if not left:
            self.loaded(paged, [], [])
            return False
        paged.base, paged.end = left[0], left[-1] + 1
        paged.positions, paged.count = left, len(left)
        return True

    def loaded(
        self, paged: Paged, messages: list[Message], positions: list[int] | None = None
    ) -> None:
        """Take in copies, and their positions if there are gaps."""
        at: Sequence[int] = range(paged.base, paged.end)
        if positions is not None:
            at = positions
        elif paged.positions is not None:
            at = paged.positions
        self.read.update(zip(at, messages, strict=True))
        self._asked.pop(paged, None)
        if not self._asked:
            self._done()


class _Peek:
    """One page in the making."""

    def __init__(
        self, queue: Queue, done: Callable[[Page], None], limit: int, wanted: Filter | None
    ) -> None:
        self._queue = queue
        self._tell = done
        self._limit = limit
        self._wanted = wanted
        self._found: list[tuple[Spot, Message | None]] = []  # None: it has to be read
        self._looked = 0
        self._gone = 0
        self._last: Mark = ()  # the last that was looked at
        self._is_end = True

    def run(self, walk: Iterator[Spot | Mark]) -> None:
        """Find what belongs to the page, have it read, tell."""
        self._gather(walk)
        absent = [spot for spot, message in self._found if message is None]
        if absent:
            look = Look(self._queue, lambda: self._finish(look.read))
            look.fetch(absent)
        else:
            self._finish({})

    def _gather(self, walk: Iterator[Spot | Mark]) -> None:
        """Take spots until there are enough; of what is not here nobody knows if it is wanted."""
        octets = count = 0
        for spot in walk:
            if count == self._limit or self._looked == LOOKED:
                self._is_end = False
                return
            if isinstance(spot, Spot):
                message = None if isinstance(spot.message, Absent) else spot.message
                if message is None:
                    if octets and octets + spot.octets > FETCHED:
                        self._is_end = False
                        return
                    octets += spot.octets
                if message is None or self._accepts(message):
                    self._found.append((spot, message))
                    count += message is not None or self._wanted is None
            self._looked += 1
            self._last = spot.mark if isinstance(spot, Spot) else spot

    def _accepts(self, message: Message) -> bool:
        return self._wanted is None or self._wanted.accepts(message)

    def _finish(self, read: Mapping[int, Message]) -> None:
        """Tell, now that everything is here."""
        seen = list(self._seen(read))
        if len(seen) > self._limit:
            del seen[self._limit :]
            self._last, self._is_end = seen[-1][0].mark, False
        after = None if self._is_end else ".".join(map(str, self._last))
        sightings = tuple(self._sighting(*each) for each in seen)
        self._tell(Page(sightings, after, self._looked, self._gone))

    def _seen(self, read: Mapping[int, Message]) -> Iterator[tuple[Spot, Message]]:
        for spot, message in self._found:
            if message is not None:
                yield spot, message
                continue
            copy = read.get(spot.position)
            if copy is None:
                self._gone += 1
            elif self._accepts(copy):
                yield spot, copy

    def _sighting(self, spot: Spot, message: Message) -> Sighting:
        count = delivery_count(self._queue, spot.position)
        due, deadline = moments(self._queue, spot.position)
        return Sighting(spot.position, message, spot.redelivered, count, spot.holder, due, deadline)

"""Lanes: the order in which the messages of a queue are served.

Law: a lane is a row of messages by position; which lane is served next is the order. A queue has
one lane, its `runs`: first in, first out. A plugin may divide it by a key of each message (its
priority, its tenant), which is kept with the message over a restart. A message that comes back goes
to its old place in its lane.

Called by: core.hooked and its bases, core.extras; plugins (subclasses).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.log import Fact
from leveret.broker.core.runs import UNLIMITED, Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.chunks import Paged
    from leveret.broker.core.hooked import HookedQueue
    from leveret.broker.core.message import Absent, Message


class Lanes:
    """One lane: first in, first out."""

    is_keyed = False
    # Whether messages that somebody has room for need not be in a lane, if nothing is before them.
    may_be_passed = True

    def __init__(self, queue: HookedQueue) -> None:
        self.queue = queue

    def begin(self) -> None:
        """Take over what is in the queue's `runs`: from now on this order counts."""

    @property
    def count(self) -> int:
        """How many messages are ready."""
        return self.queue.runs.count

    @property
    def bytes(self) -> int:
        """Octets of header and body of what is ready."""
        return sum(lane.bytes for lane in self.all())

    @property
    def memory(self) -> int:
        """Octets that takes in memory, about."""
        return sum(lane.memory for lane in self.all())

    def all(self) -> Iterable[Runs]:
        """Return all lanes."""
        return (self.queue.runs,)

    def large(self) -> Iterable[Runs]:
        """Return the lanes from which something may leave memory."""
        return self.all()

    def holding(self, first: int, last: int) -> Iterable[Runs]:
        """Return the lanes that may have messages at positions from one to another."""
        return self.all()

    def front(self) -> Runs | None:
        """Return the lane that is served next, None if nothing may be."""
        runs = self.queue.runs
        return runs if runs.count else None

    def most(self, lane: Runs) -> int:
        """Return how many messages may be taken of a lane before another has its turn."""
        return UNLIMITED

    @property
    def at_once(self) -> int:
        """How many messages may be served before any is settled, or more."""
        return self.count

    def first_to_drop(self) -> Runs | None:
        """Return the lane that loses its first message when there are too many."""
        return self.front()

    def grown(self, lane: Runs) -> None:
        """Take note that a lane has got messages, or that others of it are in memory now."""

    def took(self, lane: Runs, positions: Sequence[int]) -> None:
        """Take note of what was taken from the front of a lane to be delivered."""

    def left(self, lane: Runs, count: int) -> None:
        """Take note that so many messages left a lane that were not delivered."""

    def clear(self) -> list[Iterator[None]]:
        """Drop all that is ready; what is returned frees it."""
        return [self.queue.runs.clear()]

    def settled(self, positions: Sequence[int]) -> None:
        """Forget what was delivered and is settled, dropped, or came back."""

    def pass_by(self, positions: Sequence[int], messages: Sequence[Message]) -> None:
        """Take note of new messages that are delivered without having been in a lane."""

    def append(self, base: int, messages: list[Message]) -> None:
        """Add messages with positions from `base` on."""
        self.queue.runs.append(base, messages)

    def append_at(self, positions: Sequence[int], messages: list[Message]) -> None:
        """Add messages with positions that have gaps, after all others."""
        self.queue.runs.append_at(positions, messages)

    def insert(self, entries: Sequence[tuple[int, Message]]) -> None:
        """Put messages back, ascending by position."""
        queue = self.queue
        queue.runs.insert_many(entries, queue.sizes, queue.living)

    def remove(self, first: int, last: int) -> list[tuple[int, Message | Absent]]:
        """Take out what is ready of a range of positions, first and last, ascending."""
        queue = self.queue
        found: list[tuple[int, Message | Absent]] = []
        for lane in self.holding(first, last):
            if lane.count:
                some = lane.remove(first, last, queue.sizes, queue.living)
                found += some
                self.left(lane, len(some))
        if len(found) > 1:
            found.sort(key=_position)
        return found

    def restore(self, key: int, paged: Paged) -> None:
        """Take in messages that only the log has, after all others of their lane."""
        self.queue.runs.append_paged(paged)


class KeyedLanes(Lanes):
    """A lane for each key.

    A subclass says the key of a message, and keeps the lanes that have something in the order in
    which they are served.
    """

    is_keyed = True

    def key(self, message: Message) -> int:
        """Return the key of a message: from 0 to 2^64 - 1."""
        raise NotImplementedError

    def keys(self, messages: Iterable[Message]) -> list[int]:
        """Return the key of each message; 0 for all if a plugin fails: none must be lost for it."""
        some = list(messages)
        try:
            return list(map(self.key, some))
        except Exception as problem:
            self.queue.vhost.broker.batch.failed(self, problem)
            return [0] * len(some)

    def lane(self, key: int) -> Runs:
        """Return the lane of a key that is about to get messages, made now or before."""
        raise NotImplementedError

    def placed(self, positions: Sequence[int], keys: Sequence[int]) -> None:
        """Take note of the keys of new messages."""
        log = self.queue.log
        if log is not None and any(keys):
            log.note(Fact.LANE, positions, keys)

    def pass_by(self, positions: Sequence[int], messages: Sequence[Message]) -> None:
        """Have the log know the keys of new messages that are delivered at once."""
        self.placed(positions, self.keys(messages))

    def come_back(self, key: int, entries: Sequence[tuple[int, Message]]) -> None:
        """Take note of messages of a key that were settled, or waited, and are ready again."""

    def append(self, base: int, messages: list[Message]) -> None:
        """Add messages with positions from `base` on."""
        keys = self.keys(messages)
        positions = range(base, base + len(messages))
        self.placed(positions, keys)
        if keys.count(keys[0]) == len(keys):
            lane = self.lane(keys[0])
            lane.append(base, messages)
            self.grown(lane)
        else:
            self._spread(positions, messages, keys)

    def append_at(self, positions: Sequence[int], messages: list[Message]) -> None:
        """Add messages with positions that have gaps, after all others."""
        keys = self.keys(messages)
        self.placed(positions, keys)
        self._spread(positions, messages, keys)

    def _spread(
        self, positions: Sequence[int], messages: list[Message], keys: Sequence[int]
    ) -> None:
        if 2 * len(set(keys)) > len(keys):  # most are alone in their lanes: nothing is gathered
            for position, message, key in zip(positions, messages, keys, strict=True):
                lane = self.lane(key)
                lane.append_one(position, message)
                self.grown(lane)
            return
        by_key: dict[int, tuple[list[int], list[Message]]] = {}
        for position, message, key in zip(positions, messages, keys, strict=True):
            group = by_key.get(key)
            if group is None:
                group = by_key[key] = ([], [])
            group[0].append(position)
            group[1].append(message)
        for key, group in by_key.items():
            lane = self.lane(key)
            lane.append_at(*group)
            self.grown(lane)

    def insert(self, entries: Sequence[tuple[int, Message]]) -> None:
        """Put messages back, ascending by position."""
        by_key: dict[int, list[tuple[int, Message]]] = {}
        keys = self.keys([message for _, message in entries])
        for key, entry in zip(keys, entries, strict=True):
            by_key.setdefault(key, []).append(entry)
        for key, some in by_key.items():
            lane = self.lane(key)
            lane.insert_many(some, self.queue.sizes, self.queue.living)
            self.come_back(key, some)
            self.grown(lane)

    def restore(self, key: int, paged: Paged) -> None:
        """Take in messages that only the log has, after all others of their lane."""
        lane = self.lane(key)
        lane.append_paged(paged)
        self.grown(lane)


def _position(entry: tuple[int, object]) -> int:
    return entry[0]

"""Priorities: of the ready messages of a queue those with the highest priority are served first.

Law: a queue has the levels 0 to `x-max-priority`; a message without a priority is of level 0, one
with a higher priority than there are levels is of the highest. Within a level the order is that of
any queue. What a level costs is nothing as long as it is empty.

RabbitMQ: priority.html. Registered for: x-max-priority.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, cast

from leveret.broker.core.hooks import Phase, QueueHook
from leveret.broker.core.lanes import KeyedLanes
from leveret.broker.core.message import VALUES
from leveret.broker.core.runs import Runs
from leveret.protocol.constants import HAS_PRIORITY
from leveret.protocol.content import FRAME_HEAD
from leveret.protocol.properties import PRIORITY, UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.hooked import HookedQueue
    from leveret.broker.core.lanes import Lanes
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry


class Levels(KeyedLanes):
    """A lane for each priority; the highest that has a message is served."""

    def __init__(self, queue: HookedQueue, highest: int) -> None:
        super().__init__(queue)
        self.highest = highest
        self._lanes: dict[int, Runs] = {0: queue.runs}
        self._filled: list[int] = []  # levels, ascending

    def begin(self) -> None:
        """Serve what is there already after all that has a priority."""
        self._filled = [0] if self.queue.runs.count else []

    @property
    def count(self) -> int:
        """How many messages are ready."""
        lanes = self._lanes
        return sum([lanes[level].count for level in self._filled])

    def keys(self, messages: Iterable[Message]) -> list[int]:
        """Return the level of each message, without a copy of the headers of those that came in."""
        some, highest, levels = list(messages), self.highest, list[int]()
        known, find = HAS_PRIORITY, PRIORITY[HAS_PRIORITY]
        for message in some:
            flags, frames = message.flags, message.frames
            if not flags & HAS_PRIORITY:
                levels.append(0)
                continue
            if frames.__class__ is not bytes or flags & UNDEFINED:
                return super().keys(some)
            if flags != known:  # most are like the one before
                known, find = flags, PRIORITY[flags]
            try:
                at = find(frames, VALUES)
            except IndexError:  # nobody has read its properties yet, and nobody can
                return super().keys(some)
            if at >= FRAME_HEAD + message.header_size:
                return super().keys(some)
            levels.append(min(frames[at], highest))
        return levels

    def key(self, message: Message) -> int:
        """Return the priority of a message, as far as there are levels."""
        return min(message.priority, self.highest)

    def lane(self, key: int) -> Runs:
        """Return the lane of a level that is about to get messages."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Runs()
        if not lane.count:
            insort(self._filled, key)
        return lane

    def all(self) -> Iterable[Runs]:
        """Return all lanes."""
        return self._lanes.values()

    def front(self) -> Runs | None:
        """Return the lane of the highest level that has a message."""
        return self._lanes[self._filled[-1]] if self._filled else None

    def took(self, lane: Runs, positions: Sequence[int]) -> None:
        """Take note of what was taken from the front of a lane to be delivered."""
        self.left(lane, len(positions))

    def left(self, lane: Runs, count: int) -> None:
        """Take note that messages left a lane."""
        if not lane.count:
            level = next(key for key in self._filled if self._lanes[key] is lane)
            del self._filled[bisect_left(self._filled, level)]

    def clear(self) -> list[Iterator[None]]:
        """Drop all that is ready; what is returned frees it."""
        self._filled = []
        return [lane.clear() for lane in self._lanes.values()]


class Priority(QueueHook):
    """Serves messages by their priority."""

    _levels: Levels | None = None

    def lanes(self) -> Lanes:
        """Return the levels."""
        highest = cast("int", self.queue.settings["max-priority"])
        if self._levels is None or self._levels.highest != highest:
            self._levels = Levels(cast("HookedQueue", self.queue), highest)
        return self._levels


def _priority(queue: Queue) -> type[QueueHook] | None:
    return Priority if queue.settings.get("max-priority") else None


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    registry.argument("x-max-priority", wanted="an integer from 0 to 255")
    registry.queue_hook(_priority, phase=Phase.PLACE)

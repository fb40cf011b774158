"""Forgetter: lets go of delivered messages that wait for their settlement, where the log has them.

Law: of what has been sent only position and sizes are needed; should it come back, it is read
again. Each delivery is looked at once, until another queue has too much.

Called by: server.spiller.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from leveret.broker.amqp.session import Session
from leveret.broker.core.log import Kept
from leveret.broker.core.message import Absent, absent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leveret.broker.amqp.channel import Channel
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.queue import Queue

STEP = 1024  # delivery tags looked at before others get their turn


class Forgetter:
    """Goes through what is unacknowledged.

    Attributes:
      count: Messages that were let go, ever.
    """

    def __init__(self, broker: Broker) -> None:
        self.count = 0
        self._broker = broker
        self._queues: set[Queue] = set()
        self._looked: WeakKeyDictionary[Channel, int] = WeakKeyDictionary()  # up to which tag

    def forget(self, queues: set[Queue]) -> Iterator[None]:
        """Let go of messages of some queues, as far as their logs have them.

        Returns:
          Its steps; each of them is short.
        """
        if not queues:
            return
        if not queues <= self._queues:
            self._queues = queues
            self._looked.clear()
        for session in tuple(self._broker.sessions):
            if not isinstance(session, Session):
                continue
            for channel in tuple(session.channels.values()):
                looked = self._looked.get(channel, 0)
                for tags in _steps(channel, looked):
                    looked = self._forget(channel, tags)
                    yield
                    if looked < tags[-1]:
                        break
                self._looked[channel] = looked

    def _forget(self, channel: Channel, tags: Sequence[int]) -> int:
        """Return up to which tag nothing is left to be done: a log may not be so far yet."""
        unacked, queues = channel.unacked, self._queues
        kept: dict[Queue, Kept] = {}
        for tag in tags:
            entry = unacked.get(tag)
            if entry is None:
                continue
            consumer, position, message = entry
            queue = consumer.queue
            log = queue.log
            if queue not in queues or log is None or isinstance(message, Absent) or queue.extras:
                continue
            if queue not in kept:
                kept[queue] = Kept(log)
            if position in kept[queue]:
                stand_in = absent(message.header_size, message.size)
                unacked[tag] = (consumer, position, stand_in)
                queue.absent_bytes += stand_in.header_size + stand_in.size
                self.count += 1
            elif message.persistent:
                return tag - 1
        return tags[-1]


def _steps(channel: Channel, looked: int) -> Iterator[Sequence[int]]:
    """Return the tags after one, some at a time."""
    unacked, start = channel.unacked, 0
    tags: Sequence[int] = range(looked + 1, channel.next_tag)
    if len(tags) > 2 * len(unacked):  # most of them are settled
        tags = list(unacked)
        start = bisect_right(tags, looked)
    for at in range(start, len(tags), STEP):
        yield tags[at : at + STEP]

"""Paging: which messages of a queue are in memory, and how the others come there.

Law: nothing here decides who gets a message, or when. Only messages that a log or a scratch file
has leave memory: `Runs` then has their places, `Returned` their positions and sizes. They are
asked for when the queue comes to them; who has read them tells the queue (`Queue.loaded`). How
much may stay is decided elsewhere: `server.spiller`. How rows are read: `storage.paging`.

Called by: core.queue (what is to be read), storage.journal and server.spiller (what leaves).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.log import Kept
from leveret.broker.core.message import absent
from leveret.broker.core.runs import FRONT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.chunks import Chunk
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.returned import Entry

# Octets of returned messages that stay in memory, although the log has them.
RETURNED_BYTES = 1 << 20


# What leaves


def page_out(queue: Queue, limit: int, front: int = FRONT) -> None:
    """Leave messages to the log alone, except so many octets and the first few chunks."""
    if queue.log is not None:
        for runs in queue.all_runs():
            if runs.memory > limit:
                runs.page_out(limit, queue.log.is_kept, front)


def to_spill(queue: Queue, limit: int, front: int = FRONT) -> list[Chunk]:
    """Return what should leave memory, and the log does not have, the last first.

    Args:
      limit: Octets that may stay.
      front: Chunks that stay in any case.
    """
    runs = queue.runs
    if runs.memory <= limit:
        return []
    log = queue.log
    return [
        chunk
        for chunk in runs.spillable(limit, front)
        if log is None or not all(message.persistent for message in chunk.messages)
    ]


def shortened(queue: Queue, entries: Sequence[Entry], size: int) -> Sequence[Entry]:
    """Return what comes back to a queue; of what the log has only the sizes if it has much already.

    Args:
      size: Octets of all that comes back.
    """
    log, returned = queue.log, queue.returned
    if log is None or returned.bytes - returned.absent_bytes + size <= RETURNED_BYTES:
        return entries
    kept = Kept(log)
    return [
        (position, absent(message.header_size, message.size) if position in kept else message)
        for position, message in entries
    ]


# What comes back


def is_loaded(queue: Queue) -> bool:
    """Whether the first message is in memory; have it, and those after it, read if not."""
    runs = queue.runs
    if not runs.paged_count:
        return True
    for paged in runs.wanted(FRONT):
        source = paged.slot or queue.log
        if source is not None:  # it is None only while the queue is being deleted
            paged.is_asked = True
            source.fetch(queue, paged)
    return not runs.is_front_paged


def are_returned_loaded(queue: Queue) -> bool:
    """Whether the first of what came back is in memory; have it read if not."""
    returned = queue.returned
    if returned.is_loaded:
        return True
    if returned.asked is None and queue.log is not None:
        queue.log.fetch(queue, returned.gather())
    return False

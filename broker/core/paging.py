"""Paging: which messages of a queue are in memory, and how the others come there.

Law: nothing here decides who gets a message, or when. Only messages that a log or a scratch file
has leave memory: `Runs` then has their places, `Returned` their positions and sizes. They are
asked for when the queue comes to them; who has read them tells the queue (`Queue.loaded`). How
much may stay is decided elsewhere: `server.spiller`. How rows are read: `storage.paging`.

Called by: core.queue, core.waiting, core.expiring, core.returning (what is to be read),
storage.journal and server.spiller (what leaves).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.chunks import Paged, cut
from leveret.broker.core.log import Kept
from leveret.broker.core.message import Absent, absent, octets
from leveret.broker.core.runs import CHUNK_LENGTH, FRONT, PIECE_OCTETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leveret.broker.core.chunks import Chunk, Slot
    from leveret.broker.core.extras import Fetched
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.returned import Entry
    from leveret.broker.core.runs import Runs

# Octets of returned messages that stay in memory, although the log has them.
RETURNED_BYTES = 1 << 20


# What leaves


def page_out(queue: Queue, limit: int, front: int = FRONT) -> None:
    """Leave messages to the log alone, except so many octets and the first few chunks."""
    if queue.log is not None:
        for runs, share, kept in _shares(queue, limit, front):
            runs.page_out(share, queue.log.is_kept, kept)
            queue.grown(runs)


def to_spill(queue: Queue, limit: int, front: int = FRONT) -> list[tuple[Runs, Chunk]]:
    """Return what should leave memory, and the log does not have, the last of each row first.

    Args:
      limit: Octets that may stay.
      front: Chunks that stay in any case.
    """
    log = queue.log
    return [
        (runs, chunk)
        for runs, share, kept in _shares(queue, limit, front)
        for chunk in runs.spillable(share, kept)
        if log is None or not all(message.persistent for message in chunk.messages)
    ]


def _shares(queue: Queue, limit: int, front: int) -> list[tuple[Runs, int, int]]:
    """Return rows that take too much, and how many octets and chunks of each may stay."""
    rows = [runs for runs in queue.large_runs() if runs.count]
    if sum([runs.memory for runs in rows]) <= limit:
        return []
    share, kept = limit // len(rows), front if len(rows) == 1 else min(front, 1)
    return [(runs, share, kept) for runs in rows if runs.memory > share]


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


def with_bodies(queue: Queue, entries: Sequence[Entry], then: Fetched) -> None:
    """Do something with messages that are in no row any more, once all of each is here."""
    assert queue.extras is not None
    here: list[tuple[int, Message]] = []
    by_slot: dict[Slot | None, list[tuple[int, Absent]]] = {}
    for position, message in entries:
        if isinstance(message, Absent):
            by_slot.setdefault(message.slot, []).append((position, message))
        else:
            here.append((position, message))
    if here:
        then(here)
    for slot, others in by_slot.items():
        source = slot or queue.log
        others.sort(key=_position)
        for start, end in _pieces(others):
            paged = _to_fetch(others[start:end])
            if source is not None:  # it is None only while the queue is being deleted
                queue.extras.fetching[paged] = then
                queue.extras.leaving += paged.count
                source.fetch(queue, paged)


def _pieces(entries: Sequence[tuple[int, Absent]]) -> Iterator[tuple[int, int]]:
    """Return start and end of what is read at once."""
    for first in range(0, len(entries), CHUNK_LENGTH):
        some = [message for _, message in entries[first : first + CHUNK_LENGTH]]
        for start, end, _ in cut(some, PIECE_OCTETS):
            yield first + start, first + end


def _to_fetch(entries: Sequence[tuple[int, Absent]]) -> Paged:
    """Return what stands for messages of one place, ascending, that are to be read."""
    positions, first = [position for position, _ in entries], entries[0][1]
    size = octets(message for _, message in entries)
    end = positions[-1] + 1
    paged = Paged(positions[0], end, len(entries), size, first.slot, positions)
    paged.stored = first.stored
    paged.is_asked = True
    return paged


def is_fetched(
    queue: Queue, paged: Paged, messages: list[Message], positions: list[int] | None
) -> bool:
    """Do what waits for messages that were read; False if nothing does."""
    if queue.extras is None or paged not in queue.extras.fetching:
        return False
    assert paged.positions is not None
    then = queue.extras.fetching.pop(paged)
    queue.extras.leaving -= paged.count
    some = paged.chosen(messages, positions)
    then(list(zip(paged.positions, some, strict=True)))
    return True


def _position(entry: tuple[int, object]) -> int:
    return entry[0]

"""Paging: where the messages of a chunk are in rows, and from octets back to messages.

Law: what is read becomes the same message again: its publish method, header and body as they came
in. A chunk is looked up when it is read, not when it is asked for, because rows are rewritten.
Which chunks are asked for, and what leaves memory: `core.paging`.

Called by: storage.queue_log (makes places), server.pager (reads them), storage.journal and
storage.scratch (have a memo each).
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from leveret.broker.core.message import Message, stored_envelope
from leveret.broker.storage.base import StoreError
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leveret.broker.core.chunks import Asker, Paged
    from leveret.broker.storage.base import Ref
    from leveret.broker.storage.queue_log import QueueLog
    from leveret.broker.storage.segment import Segment
    from leveret.protocol.content import Envelope

# A position, and where its message is: offset, octets of publish method, header and body.
Positioned = tuple[int, tuple[int, int, int, int]]

MEMO_LIMIT = 4096
GAP = 16384  # octets that are read in vain rather than messages one by one
SIZE, FLAGS = slice(4, 12), slice(12, 14)  # of a header's payload


class Envelopes:
    """Decoded publish methods by their octets."""

    def __init__(self) -> None:
        self._known: dict[bytes, Envelope] = {}

    def find(self, payload: bytes) -> Envelope:
        """Return the envelope of a publish method's payload."""
        envelope = self._known.get(payload)
        if envelope is None:
            if len(self._known) >= MEMO_LIMIT:
                self._known.clear()
            envelope = self._known[payload] = stored_envelope(payload)
        return envelope


class Place:
    """A chunk of a queue that is to be read."""

    __slots__ = ("_counts", "_envelopes", "_log", "_paged", "_parts", "_queue")

    def __init__(self, queue: Asker, log: QueueLog, paged: Paged, envelopes: Envelopes) -> None:
        self._queue = queue
        self._log = log
        self._paged = paged
        self._envelopes = envelopes
        self._parts: list[tuple[Segment, list[Positioned]]] = []
        self._counts: list[int] = []  # how many refs each of those has

    @property
    def is_wanted(self) -> bool:
        """Whether its queue still waits for it."""
        return self._queue.waits_for(self._paged)

    @property
    def is_kept(self) -> bool:
        """Whether what `refs` returned is in the store already."""
        return self._log.are_kept(segment.row for segment, _ in self._parts)

    @property
    def has_moved(self) -> bool:
        """Whether what `refs` returned is out of date."""
        return any(segment.row.is_bare for segment, _ in self._parts)

    def refs(self) -> Sequence[Ref]:
        """Return the octets to read.

        Raises:
          StoreError: The journal does not know where they are.
        """
        base, end = self._paged.base, self._paged.end
        self._parts = [
            (segment, group) for segment, places in self._places() for group in _neighbours(places)
        ]
        missing = self._paged.count - sum(len(places) for _, places in self._parts)
        if missing:
            raise StoreError(
                f"queue {self._log.number} has lost {missing} messages of {base} to {end - 1}"
            )
        refs = [_refs(*part) for part in self._parts]
        self._counts = [len(each) for each in refs]
        return [*chain.from_iterable(refs)]

    def _places(self) -> Iterator[tuple[Segment, list[Positioned]]]:
        paged = self._paged
        if paged.positions is None:
            for segment in self._log.parts(paged.base, paged.end):
                yield segment, segment.living_places(paged.base, paged.end)
        else:
            for segment, positions in self._log.parts_of(paged.positions):
                yield segment, segment.places_of(positions)

    def load(self, octets: Sequence[bytes]) -> None:
        """Put the messages into the queue.

        Raises:
          StoreError: One of them is damaged.
        """
        positions: list[int] = []
        messages: list[Message] = []
        read = iter(octets)
        for (segment, places), count in zip(self._parts, self._counts, strict=True):
            body, *more = islice(read, count)  # if there is more, it is of one message
            start = min(place[0] for _, place in places)
            for position, (offset, publish, header, size) in places:
                positions.append(position)
                sizes = publish, header, size
                try:
                    message = message_at(body, offset - start, sizes, self._envelopes, more)
                    messages.append(message)
                except StoreError as problem:
                    where = f"row {segment.row.seq}: position {position}"
                    hint = "; leveret store repair drops it"
                    raise StoreError(
                        f"{where} of queue {self._log.number} {problem}{hint}"
                    ) from None
        paged = self._paged  # some of it may have been taken out meanwhile
        has_gaps = paged.positions is not None or paged.end - paged.base > len(messages)
        self._queue.loaded(paged, messages, positions if has_gaps else None)


def message_at(
    octets: bytes,
    at: int,
    sizes: tuple[int, int, int],
    envelopes: Envelopes,
    more: Sequence[bytes] = (),
) -> Message:
    """Return the message that begins at an offset, from the sizes of its parts.

    Args:
      more: How its body goes on.

    Raises:
      StoreError: It is none.
    """
    publish, header_size, size = sizes
    try:
        envelope = envelopes.find(octets[at : at + publish])
    except AMQPError as problem:
        raise StoreError(f"is damaged: {problem}") from None
    at += publish
    header = octets[at : at + header_size]
    at += header_size
    if not isinstance(envelope.method, BasicPublish) or int.from_bytes(header[SIZE]) != size:
        raise StoreError("is damaged")
    frames = (header, octets[at : at + size], *more) if size else (header,)
    return Message(envelope, frames, header_size, size, int.from_bytes(header[FLAGS]))


def _neighbours(places: list[Positioned]) -> Iterator[list[Positioned]]:
    """Return places in groups between which there is nothing, or little, to be read in vain."""
    if places and places[-1][0] - places[0][0] == len(places) - 1:
        yield places  # at neighbouring positions, so they were written together
        return
    group: list[Positioned] = []
    end = 0
    for place in places:
        if group and not 0 <= place[1][0] - end <= GAP:
            yield group
            group = []
        group.append(place)
        end = sum(place[1])
    if group:
        yield group


def _refs(segment: Segment, places: Sequence[Positioned]) -> Sequence[Ref]:
    start = min(place[0] for _, place in places)
    end = max(sum(place) for _, place in places)
    return segment.row.locate(start, end)

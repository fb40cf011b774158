"""Window: which messages a queue or an exchange has accepted lately, by their identities.

Law: an identity is a hash of 64 bits, so two messages are taken for one by chance once in some
10^14 messages where a hundred thousand are remembered. They are forgotten in the order in which
they came: after a time, and when there are too many. What a slice adds is one note, or is added
to the last one, and is in one commit with the messages; a note goes when the last of it is
forgotten. Those of transient messages end with the broker, as the messages do.

Called by: plugins.deduplication.
"""

from __future__ import annotations

from array import array
from collections import deque
from hashlib import blake2b
from itertools import islice
from struct import Struct, pack, unpack
from typing import TYPE_CHECKING, Final

from leveret.protocol.constants import HAS_HEADERS, HAS_MESSAGE_ID
from leveret.protocol.errors import FrameError
from leveret.protocol.properties import locate
from leveret.protocol.table import scan_entries

if TYPE_CHECKING:
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.message import Message
    from leveret.broker.core.notes import Owner
    from leveret.broker.core.timers import Timer

PLUGIN: Final = "deduplication"

FULL = 256  # identities after which a note is not added to any more
PIECE = 512  # identities added to a note, or forgotten, at a stroke
SHARD_SHIFT = 58  # of an identity, which leaves the number of one of 64 shards
COUNT_BITS = 16  # of the word in front of the identities of a note that have one time

TABLE_LENGTH = 4  # octets in front of the entries of a table

_number = Struct(">Q")
_NOTHING = (b"V", b"S\x00\x00\x00\x00")  # a header without a value, or with an empty text


def identify(message: Message, name: bytes) -> int | None:
    """Return what makes a message the same as another, None if it does not say.

    Args:
      name: The header that says it; without it the property message-id does.
    """
    flags = message.flags
    if not flags & (HAS_HEADERS | HAS_MESSAGE_ID):
        return None
    header, found = message.header, b""
    try:
        _, start, end, _, behind = locate(header)
        if name in header and start < end:
            entries = scan_entries(header, start + TABLE_LENGTH, end)
            found = next((header[tag:stop] for each, _, tag, stop in entries if each == name), b"")
    except FrameError:  # nobody can read it
        return None
    if not found or found in _NOTHING:
        if not flags & HAS_MESSAGE_ID or not header[behind]:  # it comes behind the expiration
            return None
        found = header[behind : behind + 1 + header[behind]]
    return int.from_bytes(blake2b(found, digest_size=8).digest())


class Window:
    """What one queue or exchange remembers.

    Args:
      owner: Whose notes they are.
      is_durable: Whether it survives a restart.

    Attributes:
      header: The name of the header that says who a message is.
      length: For how many milliseconds one is remembered.
      size: How many are remembered at most.
      duplicates: How often one came again since the start.
    """

    def __init__(self, broker: Broker, owner: Owner, *, is_durable: bool) -> None:
        self.header = b""
        self.length = 0
        self.size = 0
        self.duplicates = 0
        self._broker = broker
        self._owner = owner
        self._is_durable = is_durable and broker.batch.is_durable
        self._shards: dict[int, set[int]] = {}
        self._groups: deque[tuple[int, array[int]]] = deque()  # by when they came
        self._start = 0  # how many of the first group are forgotten
        self._first = self._end = 0  # identities forgotten, and ever remembered
        self._fresh: list[int] = []  # not in a note yet
        self._notes: deque[tuple[int, int]] = deque()  # number, and `_end` behind the last of it
        self._tail, self._tail_count = b"", FULL  # of the last note
        self._commit = 0  # the last one that remembers any
        self._timer: Timer | None = None
        self._asked = 0  # the id of the message that was asked about last
        self._identity: int | None = None  # of that message
        self._is_closed = False

    def __len__(self) -> int:
        """Return how many are remembered."""
        return self._end - self._first

    def __contains__(self, identity: int) -> bool:
        return identity in self._shards.get(identity >> SHARD_SHIFT, ())

    def is_duplicate(self, message: Message) -> bool:
        """Whether a message was here before; then its confirm waits until that one is kept.

        What was dead-lettered comes back because the broker moved it, in one commit with its
        removal from elsewhere: it is no second copy, and dropping it would lose it.
        """
        self._asked = id(message)
        self._identity = identity = identify(message, self.header)
        if identity is None or identity not in self or message.is_dead_letter:
            return False
        self.duplicates += 1
        batch = self._broker.batch
        if self._commit > batch.committed:
            batch.must_commit = True
        return True

    def remember(self, message: Message) -> None:
        """Remember a message that was asked about and is accepted."""
        # It lives since it was asked about, so nothing else has got its id.
        is_known = self._asked == id(message)
        identity = self._identity if is_known else identify(message, self.header)
        if identity is None or identity in self:
            return
        self._add(self._broker.now, identity)
        if self._is_durable and message.persistent:
            batch = self._broker.batch
            batch.caused[self] = None
            batch.must_commit = True
            batch.must_tell()
            self._commit = batch.commit
            self._fresh.append(identity)
        for _ in range(2):  # of a window that was made smaller, the timer forgets the rest
            if len(self) > self.size:
                self._forget_first()
        self._set_timer()

    def forget(self, message: Message) -> None:
        """Forget what was remembered in this slice, after all."""
        identity, groups = identify(message, self.header), self._groups
        if identity is None or identity not in self or identity not in groups[-1][1]:
            return
        group = groups[-1][1]
        group.remove(identity)
        self._end -= 1
        self._discard(identity)
        if not self:
            groups.clear()
            self._start = 0
        elif not group:
            groups.pop()
        if identity in self._fresh:
            self._fresh.remove(identity)

    def _add(self, when: int, identity: int) -> None:
        groups = self._groups
        if not groups or groups[-1][0] != when or len(groups[-1][1]) >= PIECE:
            groups.append((when, array("Q")))
        groups[-1][1].append(identity)
        self._end += 1
        shard = self._shards.get(identity >> SHARD_SHIFT)
        if shard is None:
            shard = self._shards[identity >> SHARD_SHIFT] = set()
        shard.add(identity)

    def _discard(self, identity: int) -> None:
        shard = self._shards[identity >> SHARD_SHIFT]
        shard.discard(identity)
        if not shard:
            del self._shards[identity >> SHARD_SHIFT]

    def _forget_first(self) -> None:
        group = self._groups[0][1]
        self._discard(group[self._start])
        self._start += 1
        self._first += 1
        if self._start == len(group):
            self._groups.popleft()
            self._start = 0

    # Time

    def tidy(self) -> None:
        """Forget what is too old or too much, some of it at a time."""
        self._timer = None
        now, left = self._broker.now, PIECE
        while left and self._is_stale(now):
            self._forget_first()
            left -= 1
        self._drop_notes()
        self._set_timer()

    def _is_stale(self, now: int) -> bool:
        return len(self) > self.size or (
            bool(self._groups) and self._groups[0][0] + self.length <= now
        )

    def _set_timer(self) -> None:
        if self._timer is None and self._groups:
            when = self._groups[0][0] + self.length if len(self) <= self.size else 0
            self._timer = self._broker.timers.at(when, self.tidy)

    def limit(self, header: bytes, length: int, size: int) -> None:
        """Set what says who a message is, for how long, and how many are remembered."""
        self.header, self.length, self.size = header, length, size
        if self._timer is not None:
            self._timer.move(0)

    # Notes

    def deal(self) -> None:
        """Keep what the slice has added, in the commit of what caused it."""
        fresh, self._fresh = self._fresh, []
        if not self._is_closed:
            for start in range(0, len(fresh), PIECE):
                self._keep(fresh[start : start + PIECE])
            self._drop_notes()

    def _keep(self, some: list[int]) -> None:
        count, broker = len(some), self._broker
        if self._tail_count >= FULL:
            self._notes.append((self._notes[-1][0] + 1 if self._notes else 0, 0))
            self._tail, self._tail_count = b"", 0
        number = self._notes.pop()[0]
        self._notes.append((number, self._end))
        self._tail += pack(f">{count + 1}Q", broker.wall << COUNT_BITS | count, *some)
        self._tail_count += count
        broker.notes.put(self._owner, PLUGIN, _number.pack(number), self._tail)

    def _drop_notes(self) -> None:
        """Drop notes of which all is forgotten, some at a time."""
        for _ in range(PIECE):
            if not self._notes or self._notes[0][1] > self._first:
                return
            number, _ = self._notes.popleft()
            self._broker.notes.put(self._owner, PLUGIN, _number.pack(number), None)
            if not self._notes:
                self._tail_count = FULL  # that was the last one

    def restore(self) -> None:
        """Remember what notes say, after a restart; the owner need not be there yet."""
        offset = self._broker.wall_offset
        found: dict[int, tuple[int, int]] = {}  # what came last is the last
        ends: dict[int, int] = {}
        for key, value in sorted(self._broker.notes.get(self._owner, PLUGIN).items()):
            (number,) = _number.unpack(key)
            ends[number] = 0
            words = iter(unpack(f">{len(value) // 8}Q", value))
            for head in words:
                when = min((head >> COUNT_BITS) - offset, self._broker.now)
                for identity in islice(words, head & (1 << COUNT_BITS) - 1):
                    found.pop(identity, None)
                    found[identity] = when, number
        for identity, (when, number) in found.items():
            self._add(when, identity)
            ends[number] = self._end
        self._notes.extend(ends.items())
        self._timer = self._broker.timers.at(0, self.tidy) if ends else None

    def close(self, *, is_owner_gone: bool) -> None:
        """Let go of everything; notes of an owner that is gone have gone with it."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for number, _ in () if is_owner_gone else self._notes:
            self._broker.notes.put(self._owner, PLUGIN, _number.pack(number), None)
        self._notes.clear()

"""Fair keys: one queue, shared by many who do not delay each other.

Law: the value of a header says whose a message is. All who have messages are served in turns, one
message each, or as many as their weight; what somebody has queued costs the others nothing. The
order of one's messages is kept. With a limit nobody has more than so many messages that are
delivered and not settled. Messages without the header share a turn of their own.

No RabbitMQ has this. Registered for: x-fair-key (the header's name), x-fair-key-weights (a table of
values and their weights), x-fair-key-limit.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, cast

from leveret.broker.core.hooks import Phase, QueueHook
from leveret.broker.core.lanes import KeyedLanes
from leveret.broker.core.message import OVERHEAD
from leveret.broker.core.runs import CHUNK_LENGTH, UNLIMITED, Runs
from leveret.broker.core.shards import Shards
from leveret.protocol.constants import HAS_HEADERS
from leveret.protocol.errors import FrameError
from leveret.protocol.properties import header_octets
from leveret.protocol.table import decode_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from leveret.broker.core.arguments import Table
    from leveret.broker.core.chunks import Paged
    from leveret.broker.core.hooked import HookedQueue
    from leveret.broker.core.lanes import Lanes
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry

NOBODY: Final = 0  # the key of messages without the header
SHARDS: Final = 256  # of keys, so that none grows so large that it stalls the loop
MOST_WEIGHT: Final = 1000
NO_NAME: Final = bytes(256)  # longer than any name of a header


class Share(Runs):
    """The messages of one key.

    Attributes:
      key: Whose they are.
      weight: How many are served in a turn.
      left: How many of these are left in this turn.
      in_flight: Delivered and not settled, if that is limited.
      is_listed: Whether it has a place in the turns.
      weighed: Its octets, and those that it takes in memory, when they were looked at last.
    """

    __slots__ = ("in_flight", "is_listed", "key", "left", "weighed", "weight")

    def __init__(self, key: int, weight: int) -> None:
        super().__init__()
        self.key = key
        self.weight = self.left = weight
        self.in_flight = 0
        self.is_listed = False
        self.weighed = 0, 0


class Shares(KeyedLanes):
    """A lane for each key that has messages, served in turns."""

    def __init__(
        self, queue: HookedQueue, header: str, weights: Mapping[int, int], limit: int
    ) -> None:
        super().__init__(queue)
        self.asked = header, weights, limit
        self._name = _octets_of(header)
        self._weights = weights
        self._limit = limit
        self.may_be_passed = limit == UNLIMITED
        self._shares: list[dict[int, Share]] = [{} for _ in range(SHARDS)]
        self._turns: deque[Share] = deque()
        self._holders: dict[int, Share] = {}  # by position, of what is delivered; if limited
        self._count = 0
        self._old: Runs | None = None  # what was there before there were keys
        self._bytes = self._memory = 0  # of all shares
        self._large: set[Share] = set()
        self._keys = Shards()  # by position, where something may expire
        self._are_told = True  # whether those of all messages are there

    def begin(self) -> None:
        """Serve what is there already before all that has a key."""
        runs = self.queue.runs
        self._count = runs.count
        self._old = runs if runs.count else None

    @property
    def count(self) -> int:
        """How many messages are ready."""
        return self._count

    def key(self, message: Message) -> int:
        """Return the hash of the header's value."""
        if not message.flags & HAS_HEADERS:
            return NOBODY
        try:
            octets = header_octets(message.header, self._name)
            return NOBODY if octets is None else key_of(octets)
        except FrameError:  # nobody can read them
            return NOBODY

    def lane(self, key: int) -> Runs:
        """Return the lane of a key that is about to get messages."""
        shares = self._shares[key % SHARDS]
        share = shares.get(key)
        if share is None:
            share = shares[key] = Share(key, self._weights.get(key, 1))
        if not share.is_listed and share.in_flight < self._limit:
            self._list(share)
        return share

    def _list(self, share: Share) -> None:
        share.is_listed = True
        share.left = share.weight
        self._turns.append(share)

    def grown(self, lane: Runs) -> None:
        """Take note of how many octets a lane has now: nobody looks at all of them."""
        if isinstance(lane, Share):
            octets, memory = lane.weighed
            here = lane.bytes - lane.paged_bytes  # `memory`, asked for twice a message
            here += (lane.count - lane.paged_count) * OVERHEAD
            self._bytes += lane.bytes - octets
            self._memory += here - memory
            lane.weighed = lane.bytes, here
            if lane.count > CHUNK_LENGTH:
                self._large.add(lane)

    @property
    def bytes(self) -> int:
        """Octets of header and body of what is ready."""
        return self._bytes + (0 if self._old is None else self._old.bytes)

    @property
    def memory(self) -> int:
        """Octets that takes in memory, about."""
        return self._memory + (0 if self._old is None else self._old.memory)

    def large(self) -> Iterable[Runs]:
        """Return the lanes from which something may leave memory: those with several chunks."""
        if self._old is not None:
            yield self._old
        for share in tuple(self._large):
            if share.count > CHUNK_LENGTH:
                yield share
                self.grown(share)
            else:
                self._large.discard(share)

    def all(self) -> Iterable[Runs]:
        """Return all lanes."""
        if self._old is not None:
            yield self._old
        for shares in self._shares:
            yield from tuple(shares.values())

    def holding(self, first: int, last: int) -> Iterable[Runs]:
        """Return the lanes that may have messages at positions from one to another."""
        if not self._are_told or self._old is not None:
            return self.all()
        keys = {self._keys.get(position) - 1 for position in range(first, last + 1)} - {-1}
        found = (self._shares[key % SHARDS].get(key) for key in keys)
        return [share for share in found if share is not None]

    def placed(self, positions: Sequence[int], keys: Sequence[int]) -> None:
        """Take note of the keys of new messages, and where they are if they may expire."""
        super().placed(positions, keys)
        self._tell(positions, keys)

    def come_back(self, key: int, entries: Sequence[tuple[int, Message]]) -> None:
        """Take note of messages of a key that are ready again."""
        self._tell([position for position, _ in entries], [key] * len(entries))

    def _tell(self, positions: Sequence[int], keys: Sequence[int]) -> None:
        queue = self.queue
        if queue.is_timed or "message-ttl" in queue.settings:
            for position, key in zip(positions, keys, strict=True):
                self._keys.set(position, key + 1)
        else:
            self._are_told = False

    def append(self, base: int, messages: list[Message]) -> None:
        """Add messages with positions from `base` on."""
        self._count += len(messages)
        super().append(base, messages)

    def append_at(self, positions: Sequence[int], messages: list[Message]) -> None:
        """Add messages with positions that have gaps, after all others."""
        self._count += len(messages)
        super().append_at(positions, messages)

    def insert(self, entries: Sequence[tuple[int, Message]]) -> None:
        """Put messages back, ascending by position."""
        self._count += len(entries)
        super().insert(entries)

    def front(self) -> Runs | None:
        """Return the lane whose turn it is."""
        if self._old is not None:
            return self._old
        turns = self._turns
        while turns:
            share = turns[0]
            if share.count and share.in_flight < self._limit:
                return share
            turns.popleft()  # it has nothing, or may not have more: it is listed again when it may
            share.is_listed = False
            self._let_go(share)
        return None

    def first_to_drop(self) -> Runs | None:
        """Return the lane whose turn it is, or any if all have what they may have."""
        return self.front() or next((lane for lane in self.all() if lane.count), None)

    def most(self, lane: Runs) -> int:
        """Return how many messages a lane may have served before another has its turn."""
        if not isinstance(lane, Share):
            return UNLIMITED
        return min(lane.left, self._limit - lane.in_flight)

    @property
    def at_once(self) -> int:
        """How many messages may be served before any is settled, or more."""
        if self._limit == UNLIMITED or self._old is not None:
            return self._count
        return min(self._count, len(self._turns) * self._limit)

    def took(self, lane: Runs, positions: Sequence[int]) -> None:
        """Take note of what was taken from the front of a lane to be delivered."""
        self.left(lane, len(positions))
        if not isinstance(lane, Share):
            return
        lane.left -= len(positions)
        if self._limit != UNLIMITED:
            lane.in_flight += len(positions)
            self._holders.update(dict.fromkeys(positions, lane))
        if lane.left <= 0:
            lane.left = lane.weight
            if self._turns and self._turns[0] is lane:
                self._turns.rotate(-1)

    def left(self, lane: Runs, count: int) -> None:
        """Take note that messages left a lane."""
        self._count -= count
        self.grown(lane)
        if lane is self._old and not lane.count:
            self._old = None
        if not self._count and not self._holders:
            self._keys = Shards()
            self._are_told = True

    def settled(self, positions: Sequence[int]) -> None:
        """Let those have more whose messages are settled, dropped, or came back."""
        holders = self._holders
        if self._keys:
            self._keys.forget(positions)
        if not holders:
            return
        for position in positions:
            share = holders.pop(position, None)
            if share is None:
                continue
            share.in_flight -= 1
            if share.count and not share.is_listed:
                self._list(share)
                self.queue.touch()
            else:
                self._let_go(share)

    def _let_go(self, share: Share) -> None:
        """Forget a key that has nothing."""
        if not (share.count or share.in_flight or share.is_listed):
            self._shares[share.key % SHARDS].pop(share.key, None)

    def restore(self, key: int, paged: Paged) -> None:
        """Take in messages that only the log has, after all others of their lane."""
        self._count += paged.count
        self._are_told = False
        super().restore(key, paged)

    def clear(self) -> list[Iterator[None]]:
        """Drop all that is ready; what is returned frees it."""
        before = self._shares
        freed = [] if self._old is None else [self._old.clear()]
        self._count = self._bytes = self._memory = 0
        self._old = None
        self._turns, self._large = deque(), set()
        self._shares = [{} for _ in range(SHARDS)]
        for share in set(self._holders.values()):  # what was delivered of them counts still
            freed.append(share.clear())
            share.is_listed, share.weighed = False, (0, 0)
            self._shares[share.key % SHARDS][share.key] = share
        return [*freed, _free(before)]


def _free(shares: list[dict[int, Share]]) -> Iterator[None]:
    while shares:
        del shares[-1]
        yield


def _octets_of(name: str) -> bytes:
    """Return a header's name as it is in a table; of one that cannot be, more than fit there."""
    try:
        octets = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return NO_NAME
    return octets if octets.decode("utf-8", "surrogateescape") == name else NO_NAME


@lru_cache(1 << 16)
def key_of(octets: bytes) -> int:
    """Return the key of a header's value, which stands there with its tag.

    Raises:
      FrameError: It cannot be decoded.
    """
    value = decode_value(octets)
    return NOBODY if value is None else hash_of(str(value))


def hash_of(value: str) -> int:
    """Return the key of a header's value: the same in every process, and never `NOBODY`."""
    return int.from_bytes(blake2b(value.encode("utf-8", "replace"), digest_size=8).digest()) or 1


class FairKey(QueueHook):
    """Serves messages in turns of their keys."""

    _shares: Shares | None = None

    def lanes(self) -> Lanes:
        """Return the lanes of the keys."""
        settings = self.queue.settings
        header = cast("str", settings["fair-key"])
        named = cast("Mapping[str, int]", settings.get("fair-key-weights", {}))
        weights = {hash_of(value): weight for value, weight in named.items()}
        limit = cast("int", settings.get("fair-key-limit", UNLIMITED))
        if self._shares is None or self._shares.asked != (header, weights, limit):
            self._shares = Shares(cast("HookedQueue", self.queue), header, weights, limit)
        return self._shares


def _fair_key(queue: Queue) -> type[QueueHook] | None:
    return FairKey if "fair-key" in queue.settings else None


HEADER = "the name of a header, 1 to 255 characters"
WEIGHTS = f"a table of header values, each with a number from 1 to {MOST_WEIGHT}"
LIMIT = "an integer from 1 to 65535"


def _header(value: object, arguments: Table) -> str | None:
    return None if isinstance(value, str) and 0 < len(value) < 256 else f'"expected {HEADER}"'


def _weights(value: object, arguments: Table) -> str | None:
    is_good = isinstance(value, dict) and all(
        isinstance(weight, int) and not isinstance(weight, bool) and 0 < weight <= MOST_WEIGHT
        for weight in value.values()
    )
    return None if is_good else f'"expected {WEIGHTS}"'


def _limit(value: object, arguments: Table) -> str | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return None if is_number and 0 < cast("int", value) < 1 << 16 else f'"expected {LIMIT}"'


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    registry.argument("x-fair-key", _header, wanted=HEADER)
    registry.argument("x-fair-key-weights", _weights, wanted=WEIGHTS)
    registry.argument("x-fair-key-limit", _limit, wanted=LIMIT)
    registry.queue_hook(_fair_key, phase=Phase.PLACE)

"""Messages: a pool of prepared publishes, of which only a few octets change.

A body begins with a stamp, and the rest follows from the sequence and the size:

    producer (4)  time (8)  sequence (4)  pattern ...

Law: encoding happens before the run. Blocks of 256 messages have the last octet of the sequence
(and the last of the message-id) built in; all the rest that changes is equal for a whole block.
So a publish costs one more reference in a list that is joined, whatever the message looks like.

Called by: producer (blocks), consumer (the pattern), fill.
"""

from collections.abc import Iterator, Mapping
from random import Random
from struct import Struct
from typing import TYPE_CHECKING, Final

from leveret.clients.perf.link import CHANNEL, frame
from leveret.clients.perf.options import STAMP_SIZE, Options
from leveret.clients.perf.topology import Address, addresses
from leveret.protocol.constants import (
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_OVERHEAD,
    PERSISTENT,
    TRANSIENT,
)
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

if TYPE_CHECKING:
    from leveret.protocol.wire import Value

BLOCK: Final = 256  # messages: one octet of the sequence
POOL: Final = 4096  # messages prepared at most, unless there are more keys
POOL_BYTES: Final = 32 << 20  # of prepared bodies, where the sizes differ
PRODUCER_MAGIC: Final = 0x4C560000  # upper half of the producer's number: what is no stamp, shows

_FRAME = Struct(">BHI")
_STAMP = Struct(">IQI")
_SPREAD = 1021  # of the pattern's beginnings
_master = memoryview(b"")
PATTERNS: Final[dict[int, memoryview]] = {}  # by size << 4 | last four bits of the sequence


def pattern(sequence: int, size: int) -> memoryview:
    """Return what must follow the stamp of a body of `size` octets."""
    key = size << 4 | sequence & 15
    found = PATTERNS.get(key)
    if found is None:
        if len(PATTERNS) > 100_000:
            PATTERNS.clear()
        found = PATTERNS[key] = _cut_pattern(sequence & 15, size)
    return found


def _cut_pattern(variant: int, size: int) -> memoryview:
    global _master
    start = variant * 61 + size % _SPREAD
    end = start + size - STAMP_SIZE
    if end > len(_master):
        tile = Random(1).randbytes(1 << 20)
        _master = memoryview(tile * (end // len(tile) + 1))
    return _master[start:end]


class Template:
    """Blocks of prepared publishes for one list of addresses.

    Attributes:
      blocks: Lists of parts; `width` parts are a message.
      width: 3, or 5 with message-ids.
      mean: Average octets of a message on the wire.
    """

    __slots__ = ("blocks", "mean", "width")

    def __init__(self, options: Options, targets: list[Address], frame_max: int) -> None:
        self.width = 5 if options.message_ids else 3
        self.blocks: list[list[bytes]] = []
        random = Random(options.keys)
        draw = _draw(targets, random)
        octets = 0
        count = _block_count(options, len(targets))
        for _ in range(count):
            block: list[bytes] = []
            for low in range(BLOCK):
                parts = _publish(options, next(draw), options.sizes.pick(random), low, frame_max)
                octets += sum(map(len, parts))
                block += parts
            self.blocks.append(block)
        self.mean = octets / (count * BLOCK)


class Encoder:
    """One producer's messages, in order.

    Attributes:
      sequence: Of the next message.
    """

    __slots__ = ("_blocks", "_id_prefix", "_stamp_prefix", "_width", "sequence")

    def __init__(self, template: Template, producer: int, run: int) -> None:
        self.sequence = 0
        self._blocks = template.blocks
        self._width = template.width
        self._stamp_prefix = producer | PRODUCER_MAGIC
        self._id_prefix = f"{run:08x}-{producer & 0xFFFF:04x}-4000-8000-"

    def next_parts(self, limit: int, now: int) -> tuple[list[bytes], int]:
        """Return the octets of up to `limit` messages as parts, and how many messages they are."""
        sequence = self.sequence
        high, low = sequence >> 8, sequence & 0xFF
        count = min(limit, BLOCK - low)
        width = self._width
        block = self._blocks[high % len(self._blocks)]
        parts = block[low * width : (low + count) * width]
        stamp = _STAMP.pack(self._stamp_prefix, now, sequence)[:-1]
        parts[width - 2 :: width] = [stamp] * count
        if width == 5:
            parts[1::5] = [f"{self._id_prefix}{high:010x}".encode()] * count
        self.sequence = sequence + count
        return parts, count


def templates(options: Options, producers: range, frame_max: int) -> dict[int, Template]:
    """Return a template for every producer; those with equal addresses share one."""
    made: dict[tuple[str, ...], Template] = {}
    result = {}
    for producer in producers:
        targets = addresses(options, producer)
        identity = tuple(target.routing_key for target in targets)
        if identity not in made:
            made[identity] = Template(options, targets, frame_max)
        result[producer] = made[identity]
    return result


def _block_count(options: Options, targets: int) -> int:
    """As many as the variety needs: all keys, and many sizes, but not without bounds."""
    if targets == 1 and not options.headers and len(options.sizes.choices) == 1:
        return 1
    affordable = max(1, int(POOL_BYTES / options.sizes.mean) // BLOCK)
    return max(min(POOL // BLOCK, affordable), -(-targets // BLOCK))


def _draw(targets: list[Address], random: Random) -> Iterator[Address]:
    """Yield every address once in random order, then any."""
    yield from random.sample(targets, len(targets))
    while True:
        yield random.choice(targets)


def _publish(
    options: Options, target: Address, size: int, low: int, frame_max: int
) -> tuple[bytes, ...]:
    """Return a message's parts; those that change are empty."""
    method = frame(
        CHANNEL, BasicPublish(options.exchange, target.routing_key, mandatory=options.mandatory)
    )
    header = _header(options, target.headers, size, low)
    first = min(size, frame_max - FRAME_OVERHEAD)
    rest = bytes(pattern(low, size))
    before = _FRAME.pack(FRAME_BODY, CHANNEL, first)
    after = bytes((low,)) + rest[: first - STAMP_SIZE] + bytes((FRAME_END,))
    for start in range(first - STAMP_SIZE, len(rest), frame_max - FRAME_OVERHEAD):
        after += _frame(FRAME_BODY, rest[start : start + frame_max - FRAME_OVERHEAD])
    if not options.message_ids:
        return method + header + before, b"", after
    head, _, tail = header.partition(_ID_MARK)
    return method + head, b"", tail + before, b"", after


_ID_MARK = b"\x00" * 34  # stands for the prefix of a message-id, a UUID in form


def _header(options: Options, target: Mapping[str, str], size: int, low: int) -> bytes:
    headers: dict[str, Value] = dict(target)
    headers.update({f"header-{each}": f"value-{each}-{low % 7}" for each in range(options.headers)})
    properties = Properties(
        headers=headers or None,
        delivery_mode=PERSISTENT if options.persistent else TRANSIENT,
        message_id=_ID_MARK.decode() + f"{low:02x}" if options.message_ids else None,
    )
    return _frame(FRAME_HEADER, encode(properties, size))


def _frame(kind: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, CHANNEL, len(payload)) + payload + bytes((FRAME_END,))

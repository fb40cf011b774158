"""Consumers: read deliveries, verify them, acknowledge them.

Law: no more is parsed than verifying needs. A delivery has the fixed form

    method frame   type channel size | 60.60 tag "c" delivery-tag redelivered exchange key | end
    header frame   type channel size | class weight body-size properties | end
    body frame     type channel size | producer time sequence pattern | end

so three look-ups at computed places give everything. Deliveries of equal size in a row are taken
in one go: their structural octets are compared as columns of the buffer, their stamps unpacked by
one call. What fits neither form (bodies in several frames) takes the long way.

Called by: worker.
"""

from collections.abc import Callable
from struct import Struct
from time import monotonic_ns

from leveret.clients.perf.flow import READ_SIZE, Flow
from leveret.clients.perf.link import CHANNEL, Link, LinkLost, frame
from leveret.clients.perf.message import PATTERNS, pattern
from leveret.clients.perf.options import SAMPLE_EVERY, STAMP_SIZE
from leveret.clients.perf.verify import Stream
from leveret.protocol.constants import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD
from leveret.protocol.methods import BasicAck

TAG = "c"  # one octet, so that the delivery tag stands at a fixed place
DELIVER = 60 << 16 | 60
DELIVERY = Struct(">BHII2xQ")  # type, channel, size, method, delivery tag
TAG_OFFSET = 13
CONTENT = Struct(">BBHIHHQ")  # end octet; type, channel, size, class, weight, body size
BODY = Struct(">BBHIIQI")  # end octet; type, channel, size, producer, time, sequence
SMALLEST = 64  # no delivery with a stamp is shorter
RUN_MIN = 8  # equal deliveries that make a run worth its set-up
RUN_MAX = 4096
REST = 32  # messages to wait after a run that was none

RISING = bytes(range(256)) * (RUN_MAX // 256 + 1)

ACK_FRAME = frame(CHANNEL, BasicAck())
ACK_SIZE = len(ACK_FRAME)


class Buffer:
    """The one receive buffer of a process: warm in the cache, whoever reads next."""

    __slots__ = ("data", "view")

    def __init__(self, size: int = 2 * READ_SIZE) -> None:
        self.data = bytearray(size)
        self.view = memoryview(self.data)

    def hold(self, tail: bytes) -> None:
        """Begin with what is left of a connection's last read, with room for another."""
        if len(tail) + READ_SIZE > len(self.data):
            self.data = bytearray(2 * len(tail) + READ_SIZE)
            self.view = memoryview(self.data)
        self.data[: len(tail)] = tail


class Acks:
    """Frames that acknowledge one message each, 256 prepared at a time."""

    __slots__ = ("_frames", "_high")

    def __init__(self) -> None:
        self._frames = bytearray(ACK_FRAME * 256)
        self._frames[18::ACK_SIZE] = bytes(range(256))
        self._high = 0

    def frames(self, first: int, last: int) -> bytes:
        """Return the frames for the delivery tags from `first` to `last`."""
        parts = []
        while first <= last:
            end = min(last, first | 0xFF)
            if first >> 8 != self._high:
                self._high = first >> 8
                for place, octet in enumerate(self._high.to_bytes(7, "big"), 11):
                    self._frames[place::ACK_SIZE] = bytes((octet,)) * 256
            low = first & 0xFF
            parts.append(self._frames[low * ACK_SIZE : (end - first + low + 1) * ACK_SIZE])
            first = end + 1
        return b"".join(parts)


class Consumer(Flow):
    """A connection that consumes.

    Attributes:
      received: Deliveries; `octets` of them on the wire; `checked` bodies compared in full.
      damaged: Deliveries that are not what was published, or out of step in their tags.
      latency: From publishing to here.
    """

    __slots__ = (
        "_ack_every",
        "_acked",
        "_acks",
        "_buffer",
        "_every",
        "_new_stream",
        "_rest",
        "_stamps",
        "_stream",
        "_streams",
        "_stride",
        "_tag",
        "_tail",
        "checked",
        "damaged",
        "octets",
        "received",
    )

    def __init__(
        self,
        link: Link,
        buffer: Buffer,
        new_stream: Callable[[int], Stream | None],
        *,
        ack_every: int,
        verify: str,
    ) -> None:
        """Take over a link that consumes.

        Args:
          link: A connection with a consumer named `TAG`.
          buffer: Where to read.
          new_stream: Returns the stream for a producer's number, `None` if there is no such one.
          ack_every: Messages acknowledged at once; 0 without acknowledgements.
          verify: Which bodies are compared: "full", "sample" or "off".
        """
        super().__init__(link)
        self.received = self.checked = self.damaged = self.octets = 0
        self._buffer = buffer
        self._new_stream = new_stream
        self._streams: dict[int, Stream] = {}
        self._ack_every = ack_every
        self._every = {"full": 1, "sample": SAMPLE_EVERY, "off": 0}[verify]
        self._acks = Acks()
        self._acked = self._tag = 0
        self._tail = link.received
        self._stamps: list[int] = []
        self._stride = self._rest = 0

    def readable(self) -> None:
        """Read once, and take all whole deliveries in it."""
        buffer, tail = self._buffer, self._tail
        held = len(tail)
        buffer.hold(tail)
        try:
            count = self.socket.recv_into(buffer.view[held : held + READ_SIZE])
        except BlockingIOError:
            return
        except OSError as problem:
            raise LinkLost(f"receiving: {problem}") from None
        if not count:
            raise LinkLost("the broker closed a consumer's connection")
        now = monotonic_ns()
        end = held + count
        taken = self.take(buffer.data, end)
        self._tail = bytes(buffer.view[taken:end])
        self.octets += taken
        if self._stamps:
            self.latency.add_since(self._stamps, now)
            self._stamps.clear()
        if self._ack_every:
            self._acknowledge()

    def writable(self) -> None:
        """Send the acknowledgements that had to wait."""
        if self.flush() and self._ack_every:
            self._acknowledge()

    def finish(self) -> None:
        """Acknowledge what is left, and close the books."""
        if self._acked < self._tag and self._ack_every and not self.pending:
            self.send(frame(CHANNEL, BasicAck(self._tag, True)))
            self._acked = self._tag
        for stream in self._streams.values():
            stream.close()

    @property
    def reordered(self) -> int:
        """Messages that came after one published later."""
        return sum(stream.reordered for stream in self._streams.values())

    def take(self, data: bytearray, end: int) -> int:  # noqa: C901  the hot loop
        """Take the deliveries in `data` up to `end`; return where the first cut one begins.

        Branches are few on the usual way: about 0.8 µs a message of any form, 0.15 in a run.
        """
        position = 0
        streams, every, append = self._streams, self._every, self._stamps.append
        patterns, startswith, checked = PATTERNS, data.startswith, 0
        tag, stride, received = self._tag, self._stride, self.received
        number, stream = -1, None
        while end - position >= SMALLEST:
            kind, _, size, method, delivery_tag = DELIVERY.unpack_from(data, position)
            if method != DELIVER or kind != FRAME_METHOD:
                behind = self.skip(data, position, end)
                if not behind:
                    break
                position = behind
                continue
            place = position + 7 + size  # the end octet of the method frame
            if place + 36 > end:
                break
            ended, kind, _, size, _, _, length = CONTENT.unpack_from(data, place)
            body = place + 8 + size  # the end octet of the header frame
            behind = body + 9 + length
            if behind > end:
                break
            valid = ended == FRAME_END and kind == FRAME_HEADER and length >= STAMP_SIZE
            if valid:
                ended, kind, _, size, producer, stamp, sequence = BODY.unpack_from(data, body)
                valid = ended == FRAME_END and kind == FRAME_BODY and data[behind - 1] == FRAME_END
            if not valid or size != length:
                self._tag, self.received = tag, received
                behind = self._take_long(data, position, end)
                tag, received = self._tag, self.received
                if not behind:
                    break
                position = behind
                continue
            if producer != number:
                stream, number = streams.get(producer) or self._meet(producer), producer
            received += 1
            tag += 1
            if delivery_tag != tag or stream is None:
                self.damaged += 1
                tag = delivery_tag
                number = -1
            else:
                if sequence == stream.expected:
                    stream.expected = sequence + 1
                else:
                    stream.jump(sequence)
                if every and not received % every:
                    checked += 1
                    expected = patterns.get(length << 4 | sequence & 15)
                    if expected is None:
                        expected = pattern(sequence, length)
                    if not startswith(expected, body + 24):
                        self.damaged += 1
                append(stamp)
            if behind - position != stride:
                stride = behind - position
            elif self._rest:
                self._rest -= 1
            elif end - behind >= RUN_MIN * stride:
                self._tag, self.received = tag, received
                count = self._take_run(data, position, end, body - position)
                tag, received = self._tag, self.received
                behind += count * stride
                self._rest = 0 if count else REST
            position = behind
        self._tag, self._stride, self.received = tag, stride, received
        self.checked += checked
        return position

    def _take_run(self, data: bytearray, first: int, end: int, body: int) -> int:
        """Take the deliveries behind the one at `first` that look like it; return how many."""
        stride = self._stride_at(data, first, body)
        start = first + stride
        count = min((end - start) // stride, RUN_MAX)
        stop = start + count * stride
        place = 7 + int.from_bytes(data[first + 3 : first + 7], "big")  # its method's end octet
        columns = (0, 5, 6, 10, *(place + each for each in (0, 1, 6, 7, 18, 19)))
        for column in (*columns, body, body + 1, body + 6, body + 7, stride - 1):
            if (
                data[start + column : stop : stride]
                != data[first + column : first + column + 1] * count
            ):
                return 0
        low = (self._tag + 1) & 0xFF
        if data[start + TAG_OFFSET + 7 : stop : stride] != RISING[low : low + count]:
            return 0
        stamp = Struct(f">{body + 8}xIQI{stride - body - 24}x")
        producers, stamps, sequences = zip(
            *stamp.iter_unpack(memoryview(data)[start:stop]), strict=True
        )
        (last_tag,) = Struct(">Q").unpack_from(data, stop - stride + TAG_OFFSET)
        if last_tag != self._tag + count or not self._follow(producers, sequences):
            return 0
        self._tag += count
        self._stamps += stamps
        length = stride - body - 9
        if self._every:
            skipped = -(self.received + 1) % self._every
            self._check_run(data, start + body + 24, stride, length, sequences, skipped)
        self.received += count
        return count

    def _check_run(
        self,
        data: bytearray,
        place: int,
        stride: int,
        length: int,
        sequences: tuple[int, ...],
        skipped: int,
    ) -> None:
        """Compare the bodies of a run, each or every so many behind the first ones."""
        chosen = sequences[skipped :: self._every]
        self.checked += len(chosen)
        if length == STAMP_SIZE:
            return
        place += skipped * stride
        step = self._every * stride
        patterns = [pattern(variant, length) for variant in range(16)]
        startswith = data.startswith
        for sequence in chosen:
            if not startswith(patterns[sequence & 15], place):
                self.damaged += 1
            place += step

    def _stride_at(self, data: bytearray, first: int, body: int) -> int:
        return body + 9 + int.from_bytes(data[first + body + 4 : first + body + 8], "big")

    def _follow(self, producers: tuple[int, ...], sequences: tuple[int, ...]) -> bool:
        """Advance the streams by a run; False, and nothing done, if a producer is unknown."""
        count = len(producers)
        if producers.count(producers[0]) == count:
            stream = self._streams.get(producers[0])
            if stream is None:
                return False
            expected = stream.expected
            if sequences == tuple(range(expected, expected + count)):
                stream.expected += count
                return True
        if not all(number in self._streams for number in producers):
            return False
        for number, sequence in zip(producers, sequences, strict=True):
            stream = self._streams[number]
            if sequence == stream.expected:
                stream.expected = sequence + 1
            else:
                stream.jump(sequence)
        return True

    def _take_long(self, data: bytearray, position: int, end: int) -> int:
        """Take a delivery in any number of frames; return its end, or 0 if it is cut."""
        delivery_tag = DELIVERY.unpack_from(data, position)[4]
        header = self._frame_end(data, position, end)
        behind = header and self._frame_end(data, header, end)
        if not behind:
            return 0
        length = CONTENT.unpack_from(data, header - 1)[6]
        octets = bytearray()
        while len(octets) < length:
            start, behind = behind, self._frame_end(data, behind, end)
            if not behind:
                return 0
            octets += data[start + 7 : behind - 1]
        self.received += 1
        in_step, self._tag = delivery_tag == self._tag + 1, delivery_tag
        producer, stamp, sequence = Struct(">IQI").unpack_from(octets.ljust(STAMP_SIZE, b"\0"))
        stream = self._streams.get(producer) or self._meet(producer)
        if stream is None or not in_step or length < STAMP_SIZE:
            self.damaged += 1
            return behind
        if sequence == stream.expected:
            stream.expected = sequence + 1
        else:
            stream.jump(sequence)
        self._stamps.append(stamp)
        if self._every and not self.received % self._every:
            self._check(octets, STAMP_SIZE, sequence, length)
        return behind

    def _frame_end(self, data: bytearray, position: int, end: int) -> int:
        if end - position < 8:
            return 0
        behind = position + int.from_bytes(data[position + 3 : position + 7], "big") + 8
        if behind > end:
            return 0
        if data[behind - 1] != FRAME_END:
            raise LinkLost("a frame without its end octet: what follows cannot be read")
        return behind

    def _meet(self, producer: int) -> Stream | None:
        stream = self._new_stream(producer)
        if stream is not None:
            self._streams[producer] = stream
        return stream

    def _check(self, data: bytearray, place: int, sequence: int, length: int) -> None:
        self.checked += 1
        if length > STAMP_SIZE and not data.startswith(pattern(sequence, length), place):
            self.damaged += 1

    def _acknowledge(self) -> None:
        if self.pending:
            return
        if self._ack_every == 1:
            if self._acked < self._tag:
                octets = self._acks.frames(self._acked + 1, self._tag)
                self._acked = self._tag
                self.send(octets)
            return
        frames = []
        while self._tag - self._acked >= self._ack_every:
            self._acked += self._ack_every
            frames.append(frame(CHANNEL, BasicAck(self._acked, True)))
        if frames:
            self.send(b"".join(frames))

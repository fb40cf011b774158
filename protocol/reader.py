"""Reader: octets to commands, in the one loop that every message passes.

Law: a frame is looked at once. Each of its octets is checked, none is copied twice, and a value
that came before (the method in front of a message) is not decoded again.

The common content (method, header and one body frame, whole in the buffer) is taken at a
stroke; everything else, and everything that is wrong, goes frame by frame. What a content has
before its body is compared with what two before it had alike: then it has been checked.

    frame:    type (1)  channel (2)  size (4)  payload (size)  0xCE
    content:  method frame, header frame, body frames until the header's body size is reached

Called by: connection.
"""

from struct import Struct
from typing import TypeAlias

from leveret.protocol.codec import decode_method
from leveret.protocol.constants import (
    BASIC_CLASS_ID,
    DEFAULT_FRAME_MAX,
    DEFAULT_MAX_MESSAGE_SIZE,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    MAX_BODY_SIZE,
)
from leveret.protocol.content import Content, Envelope
from leveret.protocol.errors import AMQPError, FrameError, ResourceError, UnexpectedFrame
from leveret.protocol.methods import ConnectionCloseOk, Method
from leveret.protocol.properties import SHAPE_CHECKS, check_of

_frame = Struct(">BHI").unpack_from
_header = Struct(">BHIHHQH").unpack_from
# An end octet and the head of the frame behind it, with end, type and channel as one number.
_next_header = Struct(">IIHHQH").unpack_from
_next_body = Struct(">II").unpack_from
_THEN_HEADER = FRAME_END << 24 | FRAME_HEADER << 16
_THEN_BODY = FRAME_END << 24 | FRAME_BODY << 16
_HEADER_MIN = 14  # class, weight, body size, flags
_CLOSE_OK = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce"
_ACK = b"\x00\x3c\x00\x50"
_ACK_PAYLOAD = 13
_ACK_FRAME = Struct(">QHBQH")  # cut so that the delivery tag is the fourth number
_ACK_SIZE = _ACK_FRAME.size

# Envelopes kept in a memo; a server shares one between its connections, so that many keys on many
# connections cost their memory once.
MEMO_LIMIT = 16384
# Unfinished contents of one connection may hold this many times the largest message.
UNFINISHED_FACTOR = 2
# Pieces of a body that are smaller are joined: an object for each octet would cost forty times it.
SMALL_PIECE = 4096
# A cut frame of this size is completed alone; smaller ones are cheaper to join with what follows.
LARGE_FRAME = 4096


class Contents(list[Content]):
    """Neighbouring contents of one channel."""

    __slots__ = ()


class Acks(list[int]):
    """Delivery tags of neighbouring single acks of one channel."""

    __slots__ = ()


class Oversized:
    """A content that is larger than the limit; its body is passed over.

    Attributes:
      method: The method in front of it.
      size: What its header announces.
    """

    __slots__ = ("method", "size")

    def __init__(self, method: Method, size: int) -> None:
        self.method = method
        self.size = size


Command: TypeAlias = Method | Contents | Acks | Oversized | AMQPError
Commands: TypeAlias = list[tuple[int, Command]]


class _Unfinished:
    """A content of which frames are still to come."""

    __slots__ = ("chunks", "envelope", "flags", "header_frame", "missing", "size", "skipped")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.header_frame = b""
        self.chunks: list[bytes] = []
        self.size = 0
        self.missing = 0
        self.flags = 0
        self.skipped = False


class Reader:
    """Turns received octets into commands.

    Attributes:
      frame_max: Negotiated limit of a frame in octets; 0 for none.
      max_message_size: Contents above it come out as `Oversized`.
      is_deaf: Whether there was a violation: only connection.close-ok is heard.
      unfinished_size: Octets of bodies of which more is to come.

    Args:
      content_type: The class of contents to make.
      memo: Envelopes by channel and payload, shared with other readers; its own by default.
    """

    __slots__ = (
        "_content_type",
        "_heard",
        "_memo",
        "_needed",
        "_unfinished",
        "_waiting",
        "_waiting_size",
        "frame_max",
        "is_deaf",
        "max_message_size",
        "unfinished_size",
    )

    def __init__(
        self, content_type: type[Content] = Content, memo: dict[bytes, Envelope] | None = None
    ) -> None:
        self.frame_max = DEFAULT_FRAME_MAX
        self.max_message_size = DEFAULT_MAX_MESSAGE_SIZE
        self._content_type = content_type
        self._waiting: list[bytes] = []  # octets of a frame that is not whole yet
        self._waiting_size = 0
        self._needed = 0
        self._unfinished: dict[int, _Unfinished] = {}
        self.unfinished_size = 0
        self._memo = {} if memo is None else memo
        self.is_deaf = False
        self._heard = b""

    def feed(self, chunk: bytes) -> Commands:
        """Return what a chunk completes: (channel, command) in order.

        Neighbouring contents and single acks of a channel come in one list each. A violation
        is the last command; the reader is deaf after it to all but connection.close-ok.
        """
        if self.is_deaf:
            return self._listen_for_close_ok(chunk)
        commands: Commands = []
        position = 0
        try:
            if self._waiting:
                missing = self._needed - self._waiting_size
                if len(chunk) < missing:
                    self._waiting.append(chunk)
                    self._waiting_size += len(chunk)
                    return []
                if self._needed >= LARGE_FRAME:  # what is behind it is not copied
                    position = missing
                    self._waiting.append(chunk[:missing])
                    self._parse(b"".join(self._waiting), commands, 0)
                else:
                    chunk = b"".join((*self._waiting, chunk))
                self._waiting.clear()
            position = self._parse(chunk, commands, position)
        except AMQPError as problem:
            self.is_deaf = True
            self._waiting.clear()
            commands.append((0, problem))
            return commands
        if position < len(chunk):
            rest = chunk[position:] if position else chunk
            self._waiting.append(rest)
            self._waiting_size = len(rest)
            self._needed = int.from_bytes(rest[3:7]) + 8 if len(rest) >= 7 else 7
        return commands

    def let_go(self) -> bytes:
        """Forget unfinished contents; return the octets of the frame that is not whole yet."""
        rest = b"".join(self._waiting)
        self._waiting.clear()
        self._unfinished.clear()
        self.unfinished_size = 0
        return rest

    def _listen_for_close_ok(self, chunk: bytes) -> Commands:
        """Look for the answer to our close where frames cannot be told apart any more."""
        heard = self._heard + chunk
        self._heard = heard[1 - len(_CLOSE_OK) :]
        return [(0, ConnectionCloseOk())] if _CLOSE_OK in heard else []

    def _parse(  # noqa: C901 (bench_reader.py)
        self, data: bytes, commands: Commands, position: int
    ) -> int:
        """Append the commands in the data; return the position of the first unfinished frame."""
        memo, unfinished, content_type = self._memo, self._unfinished, self._content_type
        limit = self.frame_max or 0xFFFFFFFF
        largest = min(self.max_message_size, limit)
        checks = SHAPE_CHECKS
        new = object.__new__  # with five values set costs half as much as a call of `__init__`
        end = len(data)
        run: list[Content] = []
        run_channel = -1
        envelope: Envelope = None  # type: ignore[assignment]
        previous: Envelope | None = None
        size = flags = ahead = reach = 0
        body = -1
        again = b""  # what two contents in a row had alike, all that is in front of their bodies
        while end - position >= 7:
            if again and data.startswith(again, position):
                last = position + reach
                if last < end and data[last] == FRAME_END:
                    made = new(content_type)
                    made.envelope = envelope
                    made.frames = data[position + ahead : last + 1]
                    made.header_size = size
                    made.size = body
                    made.flags = flags
                    run.append(made)
                    position = last + 1
                    continue
            again = b""
            kind, channel, size = _frame(data, position)
            stop = position + 7 + size
            if size > limit:
                raise FrameError(
                    f"type {kind}, all octets = <<>>: {{frame_too_large,{size},{limit - 8}}}"
                )
            if stop >= end:
                break
            if data[stop] != FRAME_END:
                raise FrameError(f"type {kind}, frame end octet {data[stop]} is not {FRAME_END}")
            if kind != FRAME_METHOD or channel in unfinished:
                content = self._other_frame(kind, channel, data, position, stop, commands)
                position = stop + 1
                if content is None:
                    if commands and commands[-1][1] is not run:
                        run_channel = -1
                elif channel == run_channel:
                    run.append(content)
                else:
                    run = Contents((content,))
                    run_channel = channel
                    commands.append((channel, run))
                continue
            if size == _ACK_PAYLOAD and data.startswith(_ACK, position + 7):
                position = self._acks(channel, data, position, commands)
                run_channel = -1
                continue
            known = memo.get(data[position + 1 : stop])
            if known is None:
                known = self._method(channel, data, position, stop, commands)
                if known is None:
                    position = stop + 1
                    run_channel = -1
                    continue
            envelope = known
            if stop + 22 <= end:
                word, size, class_id, weight, body_size, flags = _next_header(data, stop)
                tail = stop + 8 + size  # the header's end octet
                if (
                    word == _THEN_HEADER + channel
                    and class_id == BASIC_CLASS_ID
                    and 0 < body_size <= largest
                    and _HEADER_MIN <= size <= limit
                    and tail + 8 <= end
                    and not weight
                    and (
                        (checks.get(flags) or check_of(flags))(data, stop + 22, tail)
                        if flags
                        else size == _HEADER_MIN
                    )
                ):
                    word, body_frame = _next_body(data, tail)
                    start = tail + 8
                    last = start + body_frame
                    if (
                        body_frame == body_size
                        and word == _THEN_BODY + channel
                        and last < end
                        and data[last] == FRAME_END
                    ):
                        made = new(content_type)
                        made.envelope = envelope
                        made.frames = data[stop + 1 : last + 1]
                        made.header_size = size
                        made.size = body_frame
                        made.flags = flags
                        if channel == run_channel:
                            run.append(made)
                        else:
                            run = Contents((made,))
                            run_channel = channel
                            commands.append((channel, run))
                        if envelope is previous and body_frame == body:
                            again = data[position:start]
                            ahead, reach = stop + 1 - position, last - position
                        previous, body = envelope, body_frame
                        position = last + 1
                        continue
            position = stop + 1
            unfinished[channel] = _Unfinished(envelope)
        return position

    def _acks(self, channel: int, data: bytes, position: int, commands: Commands) -> int:
        """Take a row of single acks of one channel; return the position after it."""
        first, second, third, _, last = _ACK_FRAME.unpack_from(data, position)
        if last != FRAME_END:  # multiple
            commands.append((channel, decode_method(data[position + 7 : position + 20])))
            return position + _ACK_SIZE
        acks = Acks()
        append = acks.append
        count = (len(data) - position) // _ACK_SIZE
        row = memoryview(data)[position : position + count * _ACK_SIZE]
        for one, two, three, tag, four in _ACK_FRAME.iter_unpack(row):
            if one != first or four != FRAME_END or three != third or two != second:
                break
            append(tag)
        commands.append((channel, acks))
        return position + len(acks) * _ACK_SIZE

    def _method(
        self, channel: int, data: bytes, position: int, stop: int, commands: Commands
    ) -> Envelope | None:
        """Take a method frame that is new here; return its envelope if a content follows."""
        payload = data[position + 7 : stop]
        method = decode_method(payload)
        if not method.has_content:
            commands.append((channel, method))
            return None
        if channel == 0:
            raise UnexpectedFrame("content on channel 0", method.class_id, method.method_id)
        envelope = Envelope(method, channel, payload)
        if len(self._memo) >= MEMO_LIMIT:
            self._memo.clear()
        self._memo[data[position + 1 : stop]] = envelope
        return envelope

    def _other_frame(
        self, kind: int, channel: int, data: bytes, position: int, stop: int, commands: Commands
    ) -> Content | None:
        """Take a frame off the common path; return the content that it completes."""
        if kind == FRAME_HEARTBEAT:
            if channel:
                raise UnexpectedFrame(f"heartbeat on channel {channel}")
            if stop > position + 7:
                raise FrameError("heartbeat with a payload")
            return None
        if kind not in (FRAME_METHOD, FRAME_HEADER, FRAME_BODY):
            raise FrameError(f"unknown frame type {kind}")
        content = self._unfinished.get(channel)
        if content is None:
            if channel == 0:
                raise UnexpectedFrame("content on channel 0")
            raise UnexpectedFrame("expected method frame, got non method frame instead")
        method = content.envelope.method
        if kind == FRAME_HEADER and not content.header_frame:
            self._header_frame(content, channel, data[position : stop + 1], commands)
        elif kind == FRAME_BODY and content.header_frame:
            self._body_frame(content, data[position : stop + 1])
        else:
            expected = (
                ("content body", "content body")
                if content.header_frame
                else (f"content header for class {method.class_id}", "content header")
            )
            raise UnexpectedFrame(
                f"expected {expected[0]}, got non {expected[1]} frame instead",
                method.class_id,
                method.method_id,
            )
        return self._finish(content, channel) if not content.missing else None

    def _header_frame(
        self, content: _Unfinished, channel: int, frame: bytes, commands: Commands
    ) -> None:
        method = content.envelope.method
        if len(frame) < _HEADER_MIN + 8:
            raise FrameError("cannot decode content header", method.class_id, method.method_id)
        _, _, _, class_id, weight, size, flags = _header(frame)
        if weight:
            raise UnexpectedFrame(
                "weight of content header is not 0", method.class_id, method.method_id
            )
        if not check_of(flags)(frame, _HEADER_MIN + 7, len(frame) - 1):
            raise FrameError("cannot decode properties", method.class_id, method.method_id)
        if class_id != method.class_id:
            raise UnexpectedFrame(
                f"expected content header for class {method.class_id}, "
                f"got one for class {class_id} instead",
                method.class_id,
                method.method_id,
            )
        if size > MAX_BODY_SIZE:
            raise FrameError(
                f"body size {size} is larger than {MAX_BODY_SIZE}",
                method.class_id,
                method.method_id,
            )
        content.header_frame = frame
        content.size = content.missing = size
        content.flags = flags
        if size > self.max_message_size:
            content.skipped = True
            commands.append((channel, Oversized(method, size)))

    def _body_frame(self, content: _Unfinished, frame: bytes) -> None:
        size = len(frame) - 8
        method = content.envelope.method
        content.missing -= size
        if content.missing < 0:
            raise FrameError(
                f"body is longer than the announced {content.size} octets",
                method.class_id,
                method.method_id,
            )
        if content.skipped or not size:
            return
        self.unfinished_size += size
        if self.unfinished_size > UNFINISHED_FACTOR * self.max_message_size:
            raise ResourceError("too many unfinished contents", method.class_id, method.method_id)
        chunks = content.chunks
        if size == content.size:
            chunks.append(frame)  # the only body frame stays with the header's
        elif chunks and len(chunks[-1]) + size <= SMALL_PIECE:
            chunks[-1] += frame[7:-1]
        else:
            chunks.append(frame[7:-1])

    def _finish(self, content: _Unfinished, channel: int) -> Content | None:
        del self._unfinished[channel]
        if content.skipped:
            return None
        self.unfinished_size -= content.size
        header = content.header_frame
        frames: bytes | tuple[bytes, ...]
        chunks = content.chunks
        if not chunks:
            frames = header
        elif len(chunks[0]) > content.size:  # a whole frame, as on the common path
            frames = header + chunks[0]
        else:
            frames = (header[7:-1], *chunks)
        return self._content_type(
            content.envelope, frames, len(header) - 8, content.size, content.flags
        )

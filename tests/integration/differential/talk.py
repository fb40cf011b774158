"""A conversation with a broker, written down as it goes.

A `Talk` is one conversation with one broker. It hands out channels; what they say and hear
becomes lines of a transcript, and two brokers agree if their transcripts are equal:

    a1 > queue.declare queue='~q' durable=True
    a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0

`a1` is channel 1 of the first connection, `b2` channel 2 of the second. What legitimately
differs is made alike: `~` stands for the name of the conversation, so that conversations share a
broker without meeting, and names that the server generates are numbered as they appear. What
the broker sends on its own (deliveries, returns, confirms) is kept until the script hears it, so
that a transcript does not depend on who was quicker.

Nothing sleeps: each step reads until it has its answer, and silence is an answer that takes
`PATIENCE` seconds.
"""

import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, NamedTuple

from leveret.protocol import properties as contents
from leveret.protocol.codec import decode_method, encode_method
from leveret.protocol.errors import FrameError
from leveret.protocol.methods import (
    BY_ID,
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicConsumeOk,
    BasicDeliver,
    BasicGet,
    BasicGetOk,
    BasicNack,
    BasicPublish,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTuneOk,
    ExchangeDeclare,
    Method,
    QueueDeclare,
    QueueDeclareOk,
)
from leveret.protocol.properties import Properties

from .letters import written_down

PATIENCE = 6.0  # seconds of silence that end a step; more than the 3 of RabbitMQ's silent closes
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT, END = 1, 2, 3, 8, b"\xce"
FRAME = struct.Struct(">BHI")

CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}

# Names that the server makes up: what they must look like, and what stands for them.
GENERATED = (
    (re.compile(r"amq\.gen-[A-Za-z0-9_-]{22}"), "amq.gen-"),
    (re.compile(r"amq\.ctag-[A-Za-z0-9_-]{22}"), "amq.ctag-"),
    (re.compile(r"amq\.rabbitmq\.reply-to\.[^'\"\s]{20,}"), "amq.rabbitmq.reply-to."),
)


EMPTY = Properties()


class Event(NamedTuple):
    """What a broker sent: a method, with its content if it has one."""

    channel: int
    method: Method
    properties: Properties = EMPTY
    body: bytes = b""
    frames: tuple[int, ...] = ()  # sizes of the body frames


class Gone(Exception):
    """The broker has closed the socket."""


class Silence(Exception):
    """The broker said nothing for `PATIENCE` seconds."""


def frame(kind: int, channel: int, payload: bytes, end: bytes = END) -> bytes:
    """Return a frame as it stands on the wire."""
    return FRAME.pack(kind, channel, len(payload)) + payload + end


def method_frame(channel: int, method: Method) -> bytes:
    """Return the frame of a method."""
    return frame(METHOD, channel, encode_method(method))


class Talk:
    """One conversation with one broker.

    Attributes:
      q, x: Names for the queue and the exchange of a conversation that needs one of each.
      lines: The transcript.
    """

    def __init__(self, title: str, address: tuple[str, int]) -> None:
        self.title = title
        self.address = address
        self.lines: list[str] = []
        self.peers: list[Peer] = []
        self.q = self.name("q")
        self.x = self.name("x")
        self._generated: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def name(self, suffix: str) -> str:
        """Return a name that no other conversation uses."""
        return f"{self.title}.{suffix}"

    def names(self, suffixes: str) -> list[str]:
        """Return a name for each word of `suffixes`."""
        return [self.name(suffix) for suffix in suffixes.split()]

    def raw(self) -> "Peer":
        """Return a connection that has said nothing yet."""
        label = chr(ord("a") + len(self.peers))
        sock = socket.create_connection(self.address, PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        peer = Peer(self, label, sock)
        self.peers.append(peer)
        return peer

    def connect(self, **options: object) -> "Peer":
        """Return an open connection; see `Peer.log_in` and `Peer.tune` for the options."""
        peer = self.raw()
        peer.shake_hands(**options)
        return peer

    def channel(self, **options: object) -> "Channel":
        """Return a channel on a connection of its own."""
        return self.connect(**options).channel()

    def note(self, line: str) -> None:
        """Add a line to the transcript."""
        for pattern, prefix in GENERATED:
            line = pattern.sub(lambda match, prefix=prefix: self._number(match[0], prefix), line)
        self.lines.append(line.replace(f"{self.title}.", "~"))

    def _number(self, generated: str, prefix: str) -> str:
        if generated not in self._generated:
            self._counts[prefix] = self._counts.get(prefix, 0) + 1
            self._generated[generated] = f"{prefix}({self._counts[prefix]})"
        return self._generated[generated]

    def finish(self) -> None:
        """Write down what was never heard, and hang up."""
        for peer in self.peers:
            peer.finish()
        for peer in self.peers:
            peer.hang_up()


class Peer:
    """One connection, seen from the client; called with a method, it says it on channel 0."""

    def __init__(self, talk: Talk, label: str, sock: socket.socket) -> None:
        self.talk = talk
        self.label = label
        self.sock = sock
        self.open = True
        self.polite = True  # answers connection.close
        self.frame_max = 131072
        self.channels: dict[int, Channel] = {}
        self.buffer = bytearray()
        self.partial: dict[int, list[Method | bytes]] = {}  # method, header and body payloads
        self.zero = Channel(self, 0)

    # The handshake

    def shake_hands(
        self,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        capabilities: Mapping[str, object] = CAPABILITIES,
        channel_max: int = 2047,
        frame_max: int = 131072,
        heartbeat: int = 0,
    ) -> None:
        """Open the connection without writing it down."""
        with self.unheard():
            self.start()
            self.log_in(user, password, capabilities)
            self.tune(channel_max, frame_max, heartbeat)
            self(ConnectionOpen(vhost))

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Keep what is said out of the transcript, unless the connection ends by it."""
        start = len(self.talk.lines)
        yield
        if self.open:
            del self.talk.lines[start:]

    def start(self) -> Method | None:
        """Send the protocol header; hear connection.start, without its text."""
        self.write(PROTOCOL_HEADER)
        event = self.zero.next_event()
        if event and isinstance(event.method, ConnectionStart):
            self.note("< connection.start")
        elif event:
            self.zero.note_event(event)
        return event.method if event else None

    def log_in(
        self,
        user: str = "guest",
        password: str = "guest",
        capabilities: Mapping[str, object] = CAPABILITIES,
    ) -> Method | None:
        """Answer connection.start with PLAIN."""
        properties = {"product": "differential suite", "capabilities": dict(capabilities)}
        response = f"\0{user}\0{password}".encode()
        self.note(f"> logs in as {user}")
        self.write(method_frame(0, ConnectionStartOk(properties, "PLAIN", response)))
        return self.zero.answer_to(ConnectionStartOk({}))

    def tune(self, channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 0) -> None:
        """Answer connection.tune."""
        self.frame_max = frame_max or self.frame_max
        self(ConnectionTuneOk(channel_max, frame_max, heartbeat))

    def channel(self, number: int = 0) -> "Channel":
        """Open a channel, the next one if no number is given, without writing it down."""
        channel = self.unopened(number or max(self.channels, default=0) + 1)
        with self.unheard():
            channel(ChannelOpen())
        return channel

    def unopened(self, number: int) -> "Channel":
        """Return a channel that is not opened."""
        return self.channels.setdefault(number, Channel(self, number))

    # Saying and hearing

    def __call__(self, method: Method, hears: bool = False) -> Method | None:
        return self.zero(method, hears)

    def send(self, method: Method) -> None:
        """Say something on channel 0 without waiting for an answer."""
        self.zero.send(method)

    def hear(self, count: int = 1) -> None:
        """Hear what comes on channel 0."""
        self.zero.hear(count)

    def note(self, text: str) -> None:
        """Write a line about the connection."""
        self.talk.note(f"{self.label}0 {text}")

    def write(self, data: bytes) -> None:
        """Send bytes as they are; a broker that hung up hears nothing."""
        with suppress(OSError):
            self.sock.sendall(data)

    def say_bytes(self, data: bytes, what: str) -> None:
        """Send bytes and write down what they are."""
        self.note(f"> {what}")
        self.write(data)

    def hear_bytes(self, size: int) -> None:
        """Hear bytes that are no frame."""
        with suppress(Gone, Silence):
            self.note(f"< {self._read(size)!r}")

    def hear_names_only(self, count: int = 1) -> None:
        """Hear methods whose fields are another conversation's matter."""
        for _ in range(count):
            event = self.zero.next_event()
            self.note(f"< {event.method.name if event else 'nothing'}")

    def end(self) -> None:
        """Hear everything up to the end of the connection."""
        if not self.open:
            return
        with suppress(Gone, Silence):
            while self.open:
                self.talk_channel(self.receive())
        if self.open:
            self.note("| still open")
            self.hang_up()

    def talk_channel(self, event: Event) -> None:
        """Write down an event under the channel it came on."""
        channel = self.channels.get(event.channel, self.zero)
        channel.note_event(event)

    def close(self) -> None:
        """Close the connection as the specification wants it."""
        self(ConnectionClose(200, "done"))

    def drop(self) -> None:
        """Hang up without a word."""
        self.note("> hangs up")
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket."""
        self.open = False
        self.sock.close()

    def finish(self) -> None:
        """Write down what nobody heard."""
        for channel in self.channels.values():
            if self.open and channel.open and channel.tidy:
                channel.finish()
        if self.open:
            for event in self.zero.waiting:
                self.zero.note_event(event, "unheard")

    # Frames

    def read_frame(self) -> tuple[int, int, bytes]:
        """Return type, channel and payload of the next frame."""
        kind, channel, size = FRAME.unpack(self._read(FRAME.size))
        payload = self._read(size + 1)
        if payload[-1:] != END:
            raise ValueError(f"frame ends in {payload[-1:]!r}")
        return kind, channel, payload[:-1]

    def _read(self, size: int) -> bytes:
        deadline = monotonic() + PATIENCE
        while len(self.buffer) < size:
            self.sock.settimeout(max(0.001, deadline - monotonic()))
            try:
                chunk = self.sock.recv(65536)
            except TimeoutError:
                raise Silence from None
            except OSError:
                chunk = b""
            if not chunk:
                self.hang_up()
                self.note("| closed")
                raise Gone
            self.buffer += chunk
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def receive(self) -> Event:
        """Return the next event; contents are put together, heartbeats left out."""
        while True:
            kind, channel, payload = self.read_frame()
            if kind == METHOD:
                method = self._decode(channel, payload)
                if not method.has_content:
                    return self._react(Event(channel, method))
                self.partial[channel] = [method]
            elif kind in (HEADER, BODY):
                self.partial[channel].append(payload)
                if (event := self._complete(channel)) is not None:
                    return event

    def _decode(self, channel: int, payload: bytes) -> Method:
        try:
            return decode_method(payload)
        except FrameError:
            self.note(f"< what is no method, on channel {channel}: {payload!r}")
            self.hang_up()
            raise Gone from None

    def _complete(self, channel: int) -> Event | None:
        method, header, *chunks = self.partial[channel]
        body = b"".join(chunks)
        if len(body) < int.from_bytes(header[4:12]):
            return None
        del self.partial[channel]
        return Event(channel, method, contents.decode(header), body, tuple(map(len, chunks)))

    def _react(self, event: Event) -> Event:
        """Answer closes at once, as every client does."""
        if isinstance(event.method, ConnectionClose) and self.polite:
            self.write(method_frame(0, ConnectionCloseOk()))
        elif channel := self.channels.get(event.channel):
            if isinstance(event.method, ChannelClose):
                channel.open = False
                if channel.polite:
                    self.write(method_frame(event.channel, ChannelCloseOk()))
            elif isinstance(event.method, ChannelOpenOk | ChannelCloseOk):
                channel.open = isinstance(event.method, ChannelOpenOk)
        return event


class Channel:
    """One channel; called with a method, it says it and hears the answer."""

    def __init__(self, peer: Peer, number: int) -> None:
        self.peer = peer
        self.number = number
        self.open = not number  # 0 always is
        self.polite = True  # answers channel.close
        self.tidy = True  # is asked at the end whether anything is left to hear
        self.waiting: deque[Event] = deque()
        self.confirmed = 0

    def __call__(self, method: Method, hears: bool = False) -> Method | None:
        """Say `method`; hear its reply, or what ends the channel or the connection.

        `hears` waits for an answer to a method that the specification gives none.
        """
        self.send(method)
        if not (method.replies or hears) or getattr(method, "no_wait", False):
            return None
        return self.answer_to(method)

    def answer_to(self, method: Method) -> Method | None:
        """Hear the answer to `method`, which was said already."""
        answer = self._await_answer(method, self.waiting)
        if answer is None:
            return None
        if isinstance(method, BasicConsume) and isinstance(answer.method, BasicConsumeOk):
            self._check_order(answer.method)
        self.note_event(answer)
        return answer.method

    def _await_answer(self, method: Method, kept: deque[Event]) -> Event | None:
        expected = method.replies or (Method,)
        while True:
            event = self.next_event()
            if event is None:
                return None
            if isinstance(event.method, (*expected, ChannelClose, ConnectionClose)):
                return event
            kept.append(event)

    def _check_order(self, answer: BasicConsumeOk) -> None:
        for event in self.waiting:
            if isinstance(event.method, BasicDeliver) and (
                event.method.consumer_tag == answer.consumer_tag
            ):
                self.note("! delivery before consume-ok")

    def send(self, method: Method) -> None:
        """Say something without waiting for an answer."""
        self.note(f"> {shown(method, terse=True)}")
        self.peer.write(method_frame(self.number, method))

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes = b"",
        *,
        mandatory: bool = False,
        immediate: bool = False,
        **properties: object,
    ) -> None:
        """Publish a message."""
        method = BasicPublish(exchange, routing_key, mandatory, immediate)
        content = Properties(**properties)
        self.note(f"> {shown(method, terse=True)}{shown_content(content, body)}")
        self.peer.write(b"".join(self.publish_frames(method, body, content)))

    def publish_frames(
        self, method: BasicPublish, body: bytes = b"", content: Properties = EMPTY
    ) -> list[bytes]:
        """Return the frames of a message."""
        size = self.peer.frame_max - 8
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        return [
            method_frame(self.number, method),
            frame(HEADER, self.number, contents.encode(content, len(body))),
            *(frame(BODY, self.number, chunk) for chunk in chunks),
        ]

    def drain(self, queue: str) -> int:
        """Get what is in a queue, and settle it; return how many messages it was."""
        count = 0
        while isinstance(self(BasicGet(queue, no_ack=True)), BasicGetOk):
            count += 1
        return count

    def count(self, queue: str, messages: int, consumers: int | None = None) -> None:
        """Ask for the counts of a queue until they are as given.

        RabbitMQ's queues answer such questions before they take what was sent earlier, and they
        hear of a closed channel later than its client.
        """

        def is_done(answer: QueueDeclareOk) -> bool:
            return answer.message_count == messages and consumers in (None, answer.consumer_count)

        self._ask(QueueDeclare(queue, passive=True), is_done)

    def gone(self, queue: str) -> None:
        """Ask for a queue until it is gone."""
        self._ask(QueueDeclare(queue, passive=True), lambda answer: False)

    def exchange_gone(self, exchange: str) -> None:
        """Ask for an exchange until it is gone."""
        self._ask(ExchangeDeclare(exchange, passive=True), lambda answer: False)

    def _ask(self, question: Method, is_done: Callable[[Any], bool]) -> None:
        deadline = monotonic() + PATIENCE
        lines = self.peer.talk.lines
        start = len(lines)
        while True:
            answer = self(question)
            if not isinstance(answer, question.replies) or is_done(answer):
                return
            if monotonic() > deadline:
                return
            del lines[start:]

    def hear(self, count: int = 1) -> list[Event]:
        """Hear `count` events, fewer if the channel or the connection ends before."""
        events = []
        for _ in range(count):
            event = self._next_heard()
            if event is None:
                break
            self.note_event(event)
            events.append(event)
            if isinstance(event.method, ChannelClose | ConnectionClose):
                break
        return events

    def hear_in_any_order(self, count: int) -> list[Event]:
        """Hear `count` events whose order is the broker's choice; written down sorted."""
        start = len(self.peer.talk.lines)
        events = self.hear(count)
        self.peer.talk.lines[start:] = sorted(self.peer.talk.lines[start:])
        return events

    def hear_confirms(self, count: int) -> None:
        """Hear until `count` more publishes are settled: which, not in how many steps."""
        acked: set[int] = set()
        nacked: set[int] = set()
        first = self.confirmed + 1
        last = self.confirmed = self.confirmed + count
        while len(acked | nacked) < count:
            event = self._next_heard()
            if event is None:
                break
            if not isinstance(event.method, BasicAck | BasicNack):
                self.note_event(event)
                if isinstance(event.method, ChannelClose | ConnectionClose):
                    break
                continue
            tag = event.method.delivery_tag
            settled = range(first, tag + 1) if event.method.multiple else (tag,)
            fresh = {number for number in settled if number not in acked | nacked}
            if not fresh or tag > last:
                self.note(f"! confirms {tag}, which is not due")
            (acked if isinstance(event.method, BasicAck) else nacked).update(fresh)
        self.note(f"< confirms {sorted(acked)}{f' refuses {sorted(nacked)}' if nacked else ''}")

    def quiet(self) -> None:
        """Hear all that was sent before the broker came to this point."""
        self.peer.write(method_frame(self.number, BasicCancel("a round trip")))
        answer = self._await_answer(BasicCancel(""), self.waiting)
        while self.waiting:
            self.note_event(self.waiting.popleft())
        if answer and isinstance(answer.method, ChannelClose | ConnectionClose):
            self.note_event(answer)

    def finish(self) -> None:
        """Write down what nobody heard."""
        lines = self.peer.talk.lines
        start = len(lines)
        self.quiet()
        lines[start:] = [f"{line} (unheard)" for line in lines[start:]]

    def next_event(self) -> Event | None:
        """Return the next event of this channel or of channel 0; None at the end or at silence.

        What comes for other channels waits there.
        """
        while self.peer.open:
            try:
                event = self.peer.receive()
            except Gone:
                return None
            except Silence:
                self.note("| silence")
                return None
            if event.channel == self.number or isinstance(event.method, ConnectionClose):
                return event
            self.peer.channels.get(event.channel, self.peer.zero).waiting.append(event)
        return None

    def _next_heard(self) -> Event | None:
        return self.waiting.popleft() if self.waiting else self.next_event()

    def note(self, text: str) -> None:
        """Write a line about this channel."""
        self.peer.talk.note(f"{self.peer.label}{self.number} {text}")

    def note_event(self, event: Event, remark: str = "") -> None:
        """Write down what was heard, and what follows from it."""
        content = shown_content(event.properties, event.body) if event.method.has_content else ""
        label = f"{self.peer.label}{event.channel}"
        self.peer.talk.note(f"{label} < {shown(event.method)}{content}{remark and f' ({remark})'}")
        if isinstance(event.method, ConnectionClose) and self.peer.polite:
            self.peer.end()
        elif isinstance(event.method, ConnectionCloseOk):
            self.peer.hang_up()  # who closes the socket first is nobody's business


def shown(method: Method, terse: bool = False) -> str:
    """Return a method as text: all fields, or those that differ from their default."""
    if isinstance(method, (ConnectionClose, ChannelClose)):
        code, text, *ids = method
        culprit = BY_ID.get((ids[0], ids[1]))
        return f"{method.name} {code} {text!r} at {culprit.name if culprit else tuple(ids)}"
    defaults = method._field_defaults if terse else {}
    fields = [
        f" {name.rstrip('_')}={shown_value(value)}"
        for name, value in zip(method._fields, method, strict=True)
        if value != defaults.get(name, not value)
    ]
    return method.name + "".join(fields)


def shown_value(value: object) -> str:
    """Return a value as text; marked ones with their type, long ones shortened."""
    if isinstance(value, bytes | str) and len(value) > 600:
        return f"{value[:20]!r}...({len(value)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown_value, value)) + "]"
    if type(value) in (int, float, bool, str, bytes, type(None)):
        return repr(value)
    return f"{type(value).__name__}({value!s})"


def shown_content(properties: Properties, body: bytes) -> str:
    """Return a content as text: the properties that are there, and the body."""
    if properties.headers:
        properties = properties._replace(headers=written_down(properties.headers))
    text = "".join(
        f" {name}={shown_value(value)}"
        for name, value in zip(Properties._fields, properties, strict=True)
        if value is not None
    )
    return f"{text} {shown_value(body)}"

"""Connection: the wire state of one AMQP connection, for either role.

Law: bytes in, commands out; methods in, bytes out. The caller owns the socket and the clock.
Before the connection runs, what comes in is checked against the table in `handshake`; once it
runs, the reader's commands pass untouched, and the owner hands methods on channel 0 it has no
answer for to `unexpected`. A violation is the last value that `receive_data` returns.

Unless it runs, a connection keeps no more than one frame of channel 0, and that is small: frames
of other channels are refused at their heads, or passed over once the end has begun.

Called by: amqp.session (server), clients, proxies, tests.
"""

from struct import Struct
from typing import NamedTuple

from leveret.protocol.constants import (
    DEFAULT_CHANNEL_MAX,
    DEFAULT_FRAME_MAX,
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
    FRAME_END,
    FRAME_HEARTBEAT,
    PROTOCOL_HEADER,
    PROTOCOL_HEADER_0_9,
)
from leveret.protocol.errors import AMQPError, ChannelNotOpen, FrameError, UnexpectedFrame
from leveret.protocol.handshake import By, Role, State, advance, check_limits, unexpected
from leveret.protocol.methods import (
    BasicAck,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionTune,
    ConnectionTuneOk,
    Method,
)
from leveret.protocol.reader import Command, Reader
from leveret.protocol.writer import method_frame

DEFAULT_OFFER = ConnectionTune(DEFAULT_CHANNEL_MAX, DEFAULT_FRAME_MAX, DEFAULT_HEARTBEAT)
HEARTBEAT_FRAME = bytes((FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END))

# What strangers say first, and what to tell the operator about them.
HINTS: tuple[tuple[bytes, str], ...] = (
    (b"AMQP\x00\x01\x00\x00", "an AMQP 1.0 client"),
    (b"AMQP\x03\x01\x00\x00", "an AMQP 1.0 client (SASL)"),
    (b"AMQP", "a client of another version of AMQP"),
    (b"\x16\x03", "a TLS client on a port without TLS"),
    (b"GET ", "an HTTP client: the management API has a port of its own"),
    (b"HEAD", "an HTTP client: the management API has a port of its own"),
    (b"POST", "an HTTP client: the management API has a port of its own"),
    (b"PUT ", "an HTTP client: the management API has a port of its own"),
    (b"\x10", "an MQTT client"),
)


ENDINGS = (ConnectionClose, ConnectionCloseOk)

_head = Struct(">BHI").unpack_from  # type, channel, size of the payload
_HEAD_SIZE = 7


class Beat(NamedTuple):
    """What a heartbeat deadline asks for: bytes to send, and whether the peer is dead."""

    data: bytes
    dead: bool


class Connection:
    """One end of a connection.

    Attributes:
      role: Which end.
      state: How far the handshake is.
      offer: The limits a server proposes; on a client those it was offered.
      channel_max: Negotiated; 0 is no limit. Likewise frame_max and heartbeat (seconds).
      is_greeted: Whether the protocol header is behind us; a server sends start next.
      reply: On a server: the header to send to a stranger before closing. Empty otherwise.
      hint: What the stranger seems to be, for the log.
      has_sent: Set by whoever writes to the peer, also past `send`; cleared by `beat`.
      has_received: Set by `receive_data`; cleared by `beat`.
      is_reading: False while the owner does not read: silence is not held against the peer.
    """

    __slots__ = (
        "_check_at",
        "_early",
        "_is_deaf",
        "_passing",
        "_rest",
        "_send_at",
        "_silent_checks",
        "_small",
        "channel_max",
        "frame_max",
        "has_received",
        "has_sent",
        "heartbeat",
        "hint",
        "is_greeted",
        "is_reading",
        "offer",
        "reader",
        "reply",
        "role",
        "state",
    )

    def __init__(
        self,
        role: Role,
        *,
        offer: ConnectionTune = DEFAULT_OFFER,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        reader: Reader | None = None,
    ) -> None:
        self.role = role
        self.state = State.PRE_INIT
        self.offer = offer
        self.channel_max = offer.channel_max
        self.frame_max = DEFAULT_FRAME_MAX
        self.heartbeat = 0
        self.reply = b""
        self.hint = ""
        self.has_sent = False
        self.has_received = False
        self.is_reading = True
        self.reader = Reader() if reader is None else reader
        self.reader.max_message_size = max_message_size
        # Before tune RabbitMQ's limit is 4096, which long tokens do not fit into.
        self._small = min(offer.frame_max or DEFAULT_FRAME_MAX, DEFAULT_FRAME_MAX)
        self.reader.frame_max = self._small
        self._rest = bytearray()  # octets received while the connection does not run
        self._passing = 0  # octets to pass over, of a frame whose head is known
        self.is_greeted = False
        self._is_deaf = False
        self._early = b""
        self._silent_checks = 0
        self._send_at: float | None = None
        self._check_at: float | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.role.value}, {self.state.value}>"

    # Bytes in

    def receive_data(self, chunk: bytes) -> list[tuple[int, Command]]:
        """Return the commands a chunk completes, each with its channel.

        An `AMQPError` is always the last one. Afterwards, and after either side sent close,
        only the methods that end the connection are returned.
        """
        self.has_received = True
        if self.state is State.RUNNING and not self._is_deaf:
            return self.reader.feed(chunk)
        if self.state is State.CLOSED:
            return []
        if not self.is_greeted:
            return self._greet(chunk)
        return self._listen(chunk)

    def _greet(self, chunk: bytes) -> list[tuple[int, Command]]:
        """Wait for the eight octets a peer starts with; a server's are a frame already."""
        self._rest += chunk
        if len(self._rest) < len(PROTOCOL_HEADER):
            return []
        greeting = bytes(self._rest)
        self._rest.clear()
        self.is_greeted = True
        first, rest = greeting[:8], greeting[8:]
        if self.role is Role.CLIENT:
            if first.startswith(b"AMQP"):
                self.state = State.CLOSED
                version = ".".join(map(str, first[4:]))
                return [(0, FrameError(f"the server asks for the protocol version {version}"))]
            return self._listen(greeting)
        if first not in (PROTOCOL_HEADER, PROTOCOL_HEADER_0_9):
            self.state = State.CLOSED
            self.reply = PROTOCOL_HEADER
            self.hint = next((hint for start, hint in HINTS if first.startswith(start)), "")
            return []
        self._early = rest
        return []

    def receive_early(self) -> list[tuple[int, Command]]:
        """Return what came in one piece with the greeting; to be asked once start is sent."""
        early, self._early = self._early, b""
        return self.receive_data(early) if early else []

    def _listen(self, chunk: bytes) -> list[tuple[int, Command]]:
        """Return the commands that are legal in the states they find, up to the first error."""
        if self.reader.is_deaf:
            return self._check(self.reader.feed(chunk))
        heard: list[tuple[int, Command]] = []
        was_deaf = self._is_deaf
        self._rest += chunk
        while True:
            try:
                frame = self._take()
            except UnexpectedFrame as problem:
                self._is_deaf = True
                heard.append((0, problem))
                continue
            if not frame:
                return heard
            commands = self.reader.feed(frame)
            if was_deaf or not self._is_deaf:
                heard += self._check(commands)
            if self.reader.is_deaf:
                self._rest.clear()
                return heard
            if self.state is State.RUNNING:
                rest = bytes(self._rest)
                self._rest.clear()
                return heard + self.reader.feed(rest)

    def _take(self) -> bytes:
        """Return the next frame of channel 0, as much as there is of one that is too large."""
        rest = self._rest
        while True:
            if self._passing:
                passed = min(self._passing, len(rest))
                self._passing -= passed
                del rest[:passed]
            if len(rest) < _HEAD_SIZE:
                return b""
            _, channel, size = _head(rest)
            stop = size + 8
            if channel and self._is_ending():
                self._passing = stop
                continue
            if size > self._small:
                stop = len(rest)
            elif channel:
                raise UnexpectedFrame(
                    f"frame on channel {channel} in connection state {self.state.value}"
                )
            if len(rest) < stop:
                return b""
            frame = bytes(rest[:stop])
            del rest[:stop]
            return frame

    def _check(self, commands: list[tuple[int, Command]]) -> list[tuple[int, Command]]:
        """Return the commands that are legal: at most one, and nothing after a violation."""
        checked: list[tuple[int, Command]] = []
        for channel, command in commands:
            if self._is_ending() and (channel or not isinstance(command, ENDINGS)):
                continue
            try:
                self._accept(command)
            except AMQPError as problem:
                self._is_deaf = True
                checked.append((channel, problem))
                break
            checked.append((channel, command))
        return checked

    def _is_ending(self) -> bool:
        return self._is_deaf or self.state in (State.CLOSING, State.LEAVING, State.CLOSED)

    def _accept(self, command: Command) -> None:
        if isinstance(command, AMQPError):
            raise command
        if not isinstance(command, Method):
            raise unexpected(self.state, BasicAck)  # a row of them; contents do not get here
        following = advance(self.role, self.state, By.PEER, type(command))
        if isinstance(command, ConnectionTuneOk):
            check_limits(self.offer, command)
            self._settle(command)
        elif isinstance(command, ConnectionTune):
            self.offer = command
        self._enter(following)

    def _enter(self, state: State) -> None:
        if state is State.RUNNING:
            self.reader.frame_max = self.frame_max
        elif self.state is State.RUNNING:
            self._rest += self.reader.let_go()
            self.reader.frame_max = self._small
        self.state = state

    def unexpected(self, method: Method) -> ChannelNotOpen:
        """Return the error for a method on channel 0 that the owner has no answer for."""
        return unexpected(self.state, type(method))

    # Bytes out

    def start(self) -> bytes:
        """Return what a client sends first."""
        self.has_sent = True
        return PROTOCOL_HEADER

    def send(self, channel: int, method: Method) -> bytes:
        """Return the frame of a method.

        Raises:
          ChannelNotOpen: It concerns the connection and is illegal in its state.
          FieldError: A value does not fit into its field.
        """
        if method.class_id == ConnectionClose.class_id:
            self._enter(advance(self.role, self.state, By.US, type(method)))
            if isinstance(method, ConnectionTune):
                self.offer = method
            elif isinstance(method, ConnectionTuneOk):
                self._settle(method)
        self.has_sent = True
        return method_frame(channel, method)

    def _settle(self, limits: ConnectionTuneOk) -> None:
        self.channel_max, self.frame_max, self.heartbeat = limits  # type: ignore[assignment]
        self._small = min(self.frame_max or self._small, self._small)
        self.reader.frame_max = self._small

    # Heartbeats: at half the interval one is sent if nothing else was; at every interval the
    # peer is looked at, and two silent ones in a row are its death (RabbitMQ's rule).

    def next_deadline(self) -> float | None:
        """Return when `beat` is due; 0 (at once) after the negotiation, `None` without one."""
        if not self.heartbeat or self.state is State.CLOSED:
            return None
        if self._send_at is None or self._check_at is None:
            return 0
        return min(self._send_at, self._check_at)

    def beat(self, now: float) -> Beat:
        """Do what is due at a moment, in seconds of any clock that only goes forward."""
        if not self.heartbeat:
            return Beat(b"", False)
        data = b""
        if self._send_at is None or self._check_at is None:
            self._send_at, self._check_at = now + self.heartbeat / 2, now + self.heartbeat
        if now >= self._send_at:
            data = b"" if self.has_sent else HEARTBEAT_FRAME
            self.has_sent = False
            self._send_at = now + self.heartbeat / 2
        if now >= self._check_at:
            is_silent = self.is_reading and not self.has_received
            self._silent_checks = self._silent_checks + 1 if is_silent else 0
            self.has_received = False
            self._check_at = now + self.heartbeat
        return Beat(data, self._silent_checks >= 2)

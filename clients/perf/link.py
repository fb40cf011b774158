"""Link: a blocking connection with one channel, for what happens before and after the load.

Law: plain calls in order: send a method, wait for its reply. The loops under load take the
socket over once everything is declared. Heartbeats are off: a run ends by itself.

The handshake is made of prepared octets where it can be, so that measuring the broker's
connects does not measure this file.

Called by: run (topology), producer and consumer (their connections), connections, fill.
"""

import socket
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

from leveret.protocol.codec import decode_method, encode_method
from leveret.protocol.constants import (
    DEFAULT_FRAME_MAX,
    FRAME_END,
    FRAME_METHOD,
    FRAME_OVERHEAD,
    PROTOCOL_HEADER,
)
from leveret.protocol.errors import AMQPError, from_reply
from leveret.protocol.methods import (
    ChannelClose,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    Method,
)

if TYPE_CHECKING:
    from leveret.protocol.uri import Parameters
    from leveret.protocol.wire import Value

CHANNEL: Final = 1  # every link has this one
PATIENCE: Final = 30.0  # seconds for a reply; a broker that needs longer is not measured
READ_SIZE: Final = 65536

M = TypeVar("M", bound=Method)


class LinkLost(Exception):
    """The broker went away, or said what cannot be understood."""


def frame(channel: int, method: Method) -> bytes:
    """Return a method frame."""
    payload = encode_method(method)
    return b"".join(
        (
            bytes((FRAME_METHOD,)),
            channel.to_bytes(2, "big"),
            len(payload).to_bytes(4, "big"),
            payload,
            bytes((FRAME_END,)),
        )
    )


@cache
def _introduction(user: str, password: str, name: str) -> bytes:
    capabilities = (
        "publisher_confirms",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
    )
    properties: dict[str, Value] = {
        "product": "leveret perf",
        "connection_name": name,
        "capabilities": dict.fromkeys(capabilities, True),
    }
    response = f"\0{user}\0{password}".encode()
    return frame(0, ConnectionStartOk(properties, "PLAIN", response))


@cache
def _settlement(vhost: str, frame_max: int, channel_max: int) -> bytes:
    return frame(0, ConnectionTuneOk(channel_max, frame_max, 0)) + frame(0, ConnectionOpen(vhost))


_CHANNEL_OPEN = frame(CHANNEL, ChannelOpen())
_CLOSE = frame(0, ConnectionClose(200, "done"))


class Link:
    """A connection with channel 1 open.

    Attributes:
      socket: The connected socket.
      frame_max: The negotiated limit of a frame.
      received: What arrived behind the last reply.
    """

    __slots__ = ("frame_max", "received", "socket")

    def __init__(self, parameters: "Parameters", name: str = "leveret perf") -> None:
        self.received = b""
        self.frame_max = DEFAULT_FRAME_MAX
        self.socket = _connect(parameters)
        try:
            self._open(parameters, name)
        except BaseException:
            self.socket.close()
            raise

    def call(self, method: Method, reply: type[M]) -> M:
        """Send a method on the channel and return its reply.

        Raises:
          AMQPError: The broker closed the channel or the connection instead.
          LinkLost: There was no such reply.
        """
        self.socket.sendall(frame(CHANNEL, method))
        return self.wait(reply)

    def wait(self, reply: type[M]) -> M:
        """Return the next method, which must be `reply`; heartbeats are passed over."""
        kind = 0
        while kind != FRAME_METHOD:
            kind, payload = self._next_frame()
        answer = decode_method(payload)
        if isinstance(answer, reply):
            return answer
        raise refusal(answer)

    def close(self) -> None:
        """Close as the specification asks; errors no longer matter."""
        try:
            self.socket.settimeout(5.0)
            self.socket.sendall(_CLOSE)
            while not isinstance(self._next_method(), ConnectionCloseOk):
                pass
        except (OSError, LinkLost, AMQPError):
            pass
        self.socket.close()

    def _open(self, parameters: "Parameters", name: str) -> None:
        self.socket.sendall(PROTOCOL_HEADER)
        self.wait(ConnectionStart)
        self.socket.sendall(_introduction(parameters.user, parameters.password, name))
        tune = self.wait(ConnectionTune)
        wanted = parameters.frame_max or DEFAULT_FRAME_MAX
        self.frame_max = min(tune.frame_max or wanted, wanted)
        self.socket.sendall(_settlement(parameters.vhost, self.frame_max, tune.channel_max))
        self.wait(ConnectionOpenOk)
        self.socket.sendall(_CHANNEL_OPEN)
        self.wait(ChannelOpenOk)

    def _next_method(self) -> Method | None:
        kind, payload = self._next_frame()
        return decode_method(payload) if kind == FRAME_METHOD else None

    def _next_frame(self) -> tuple[int, bytes]:
        data = self.received
        while len(data) < FRAME_OVERHEAD or len(data) < (
            size := int.from_bytes(data[3:7], "big") + FRAME_OVERHEAD
        ):
            try:
                chunk = self.socket.recv(READ_SIZE)
            except TimeoutError:
                raise LinkLost(f"the broker said nothing for {PATIENCE:.0f} s") from None
            if not chunk:
                raise LinkLost("the broker closed the connection")
            data += chunk
        self.received = data[size:]
        return data[0], data[7 : size - 1]


def refusal(method: Method) -> Exception:
    """Return what a method that was not asked for means, as an exception."""
    if isinstance(method, ChannelClose | ConnectionClose):
        return from_reply(method.reply_code, method.reply_text, method.class_id_, method.method_id_)
    return LinkLost(f"the broker sent {method.name} out of turn")


def _connect(parameters: "Parameters") -> socket.socket:
    if parameters.tls:
        raise LinkLost("leveret perf measures plain connections: use amqp://, not amqps://")
    try:
        connected = socket.create_connection((parameters.host, parameters.port), PATIENCE)
    except OSError as problem:
        raise LinkLost(f"{parameters.host}:{parameters.port}: {problem}") from None
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected

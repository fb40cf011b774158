"""Deliveries as a broker would send them for what the generator publishes."""

import socket
from collections.abc import Callable

from leveret.clients.perf.consumer import TAG, Buffer, Consumer
from leveret.clients.perf.link import CHANNEL, Link, frame
from leveret.clients.perf.message import Encoder, templates
from leveret.clients.perf.options import Options
from leveret.clients.perf.verify import Stream
from leveret.protocol.codec import decode_method
from leveret.protocol.methods import BasicDeliver, BasicPublish

FRAME_MAX = 131072


class Listener(Consumer):
    """A consumer without a broker: it is fed octets, and keeps what it would have sent."""

    def __init__(
        self,
        new_stream: Callable[[int], Stream | None],
        *,
        ack_every: int = 0,
        verify: str = "full",
    ) -> None:
        link = Link.__new__(Link)
        link.socket, link.received = socket.socket(), b""
        super().__init__(link, Buffer(64), new_stream, ack_every=ack_every, verify=verify)
        self.socket.close()
        self.sent = b""
        self.rest = bytearray()

    def send(self, octets: bytes) -> bool:
        """Keep the octets."""
        self.sent += octets
        return True

    def hear(self, octets: bytes) -> None:
        """Take octets as if they had been read."""
        data = self.rest + octets
        self.rest = data[self.take(data, len(data)) :]
        if self._ack_every:
            self._acknowledge()


def published(options: Options, count: int, producer: int = 0, now: int = 1) -> list[bytes]:
    """Return publishes, a message each."""
    template = templates(options, range(producer, producer + 1), FRAME_MAX)[producer]
    encoder = Encoder(template, producer, 0)
    messages: list[bytes] = []
    while len(messages) < count:
        parts, number = encoder.next_parts(count - len(messages), now)
        width = len(parts) // number
        messages += [b"".join(parts[i : i + width]) for i in range(0, len(parts), width)]
    return messages


def delivered(messages: list[bytes], first_tag: int = 1) -> list[bytes]:
    """Return publishes as deliveries with rising tags."""
    return [_deliver(message, tag) for tag, message in enumerate(messages, first_tag)]


def _deliver(message: bytes, tag: int) -> bytes:
    size = int.from_bytes(message[3:7], "big")
    publish = decode_method(message[7 : 7 + size])
    assert isinstance(publish, BasicPublish)
    deliver = BasicDeliver(TAG, tag, False, publish.exchange, publish.routing_key)
    return frame(CHANNEL, deliver) + message[8 + size :]

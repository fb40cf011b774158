"""Flows: a connection under load, as the worker's loop sees it.

Law: never blocks. What the socket does not take at once is kept and sent first next time; frames
that are not the load's own (heartbeats, blocked, close) end up in `notice`, in one place.

Called by: worker (readable, writable); producer and consumer derive from it.
"""

from leveret.clients.perf.latency import Histogram
from leveret.clients.perf.link import Link, LinkLost, refusal
from leveret.protocol.codec import decode_method
from leveret.protocol.constants import FRAME_END, FRAME_METHOD, FRAME_OVERHEAD
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicNack,
    BasicReturn,
    ConnectionBlocked,
    ConnectionUnblocked,
    Method,
)

READ_SIZE = 1 << 18


class Flow:
    """What producer and consumer have in common.

    Attributes:
      link: The connection, its socket non-blocking from here on.
      pending: Octets the socket did not take yet.
      wants_write: Whether the loop should tell when the socket is writable.
      blocked: Whether the broker asked to publish no more.
      returned: Messages the broker gave back.
      latency: What the flow measures: confirms or deliveries.
    """

    __slots__ = ("blocked", "latency", "link", "pending", "returned", "socket", "wants_write")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.socket = link.socket
        self.socket.setblocking(False)
        self.pending: bytes | memoryview = b""
        self.wants_write = False
        self.blocked = False
        self.returned = 0
        self.latency = Histogram()

    def readable(self) -> None:
        """Take what has arrived."""
        raise NotImplementedError

    def writable(self) -> None:
        """Use the room in the socket's buffer."""
        raise NotImplementedError

    def send(self, octets: bytes) -> bool:
        """Send, and keep what does not fit; whether all of it went."""
        try:
            sent = self.socket.send(octets)
        except BlockingIOError:
            sent = 0
        except OSError as problem:
            raise LinkLost(f"sending: {problem}") from None
        return self._keep(octets, sent)

    def send_parts(self, parts: list[bytes]) -> bool:
        """Send large parts without joining them first."""
        try:
            sent = self.socket.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError as problem:
            raise LinkLost(f"sending: {problem}") from None
        index = 0
        for index, part in enumerate(parts):  # noqa: B007  the rest begins where the loop stops
            if sent < len(part):
                break
            sent -= len(part)
        else:
            return True
        return self._keep(b"".join(parts[index:]), sent)

    def flush(self) -> bool:
        """Send what was kept; whether nothing is left."""
        if not self.pending:
            return True
        try:
            sent = self.socket.send(self.pending)
        except BlockingIOError:
            sent = 0
        except OSError as problem:
            raise LinkLost(f"sending: {problem}") from None
        return self._keep(self.pending, sent)

    def skip(self, data: bytes | bytearray, position: int, end: int) -> int:
        """Pass over one frame that is not the load's own; return its end, or 0 if it is cut."""
        if end - position < FRAME_OVERHEAD:
            return 0
        behind = position + int.from_bytes(data[position + 3 : position + 7], "big") + 8
        if behind > end:
            return 0
        if data[behind - 1] != FRAME_END:
            raise LinkLost("a frame without its end octet: what follows cannot be read")
        if data[position] == FRAME_METHOD:
            self.notice(decode_method(bytes(data[position + 7 : behind - 1])))
        return behind

    def notice(self, method: Method) -> None:
        """Take a method that was not asked for."""
        if isinstance(method, ConnectionBlocked):
            self.blocked = True
        elif isinstance(method, ConnectionUnblocked):
            self.blocked = False
            self.wants_write = True
        elif isinstance(method, BasicReturn):
            self.returned += 1
        elif isinstance(method, BasicAck | BasicNack):
            self.settled(method.delivery_tag, method.multiple, isinstance(method, BasicNack))
        elif isinstance(method, BasicCancel):
            raise LinkLost("the broker cancelled a consumer")
        else:
            raise refusal(method)

    def settled(self, tag: int, multiple: bool, refused: bool) -> None:
        """Take a confirm."""
        raise LinkLost("a confirm that nobody asked for")

    def _keep(self, octets: bytes | memoryview, sent: int) -> bool:
        whole = sent == len(octets)
        self.pending = b"" if whole else memoryview(octets)[sent:]
        self.wants_write = not whole
        return whole

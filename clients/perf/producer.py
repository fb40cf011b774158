"""Producers: publish as fast as window, rate and socket allow, and take the confirms.

Law: a message is stamped at the moment it is given to the socket. Every confirm is checked: a tag
is confirmed once, and only after it was published.

Called by: worker.
"""

from collections.abc import Callable
from struct import Struct
from time import monotonic_ns

from leveret.clients.perf.flow import READ_SIZE, Flow
from leveret.clients.perf.link import CHANNEL, Link, LinkLost, frame
from leveret.clients.perf.message import Encoder
from leveret.protocol.methods import BasicAck

SEND_OCTETS = 1 << 16  # for one system call: larger ones leave the cache, and cost page faults
SENDS_A_TURN = 4  # before other connections of the process have theirs
GATHER_FROM = 8192  # octets of a message from which joining costs more than a list of references
ACK_HEAD = frame(CHANNEL, BasicAck())[:11]
ACK = Struct(">QBB")
ACK_SIZE = 21
NEVER = 1 << 62


class Producer(Flow):
    """A connection that publishes.

    Attributes:
      confirmed: How many messages the broker confirmed or refused.
      latency: How long confirms took.
      wrong_confirms: Confirms of tags that were not waiting for one.
    """

    __slots__ = (
        "_backlog",
        "_batch",
        "_early",
        "_gather",
        "_interval",
        "_lowest",
        "_sent_at",
        "_stamps",
        "_start",
        "_tail",
        "_window",
        "confirmed",
        "encoder",
        "limit",
        "refused",
        "wrong_confirms",
    )

    def __init__(
        self,
        link: Link,
        encoder: Encoder,
        *,
        message_size: float,
        window: int,
        rate: float,
        limit: int,
        room: Callable[[], int] | None,
    ) -> None:
        """Take over a link.

        Args:
          link: A connection whose channel confirms if `window` is not 0.
          encoder: What is published.
          message_size: Octets of a message on the wire, on average.
          window: Unconfirmed messages at most; 0 without confirms.
          rate: Messages a second; 0 for no limit.
          limit: Messages in all.
          room: Says how many more messages may be on their way to consumers.
        """
        super().__init__(link)
        self.encoder = encoder
        self.limit = limit
        self.confirmed = self.refused = self.wrong_confirms = 0
        self.wants_write = not rate
        self._batch = max(1, int(SEND_OCTETS / message_size))
        self._gather = message_size >= GATHER_FROM
        self._window = window
        self._interval = 1e9 / rate if rate else 0.0
        self._start = monotonic_ns()
        self._backlog = room
        self._lowest = 1  # every tag below is confirmed
        self._early: set[int] = set()  # confirmed above that
        self._sent_at = [0] * (1 << max(1, window).bit_length())
        self._stamps: list[int] = []
        self._tail = b""

    @property
    def unconfirmed(self) -> int:
        """Messages the broker has yet to answer for."""
        return self.encoder.sequence - self.confirmed if self._window else 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to publish, to send or to be confirmed."""
        return self.encoder.sequence >= self.limit and not self.pending and not self.unconfirmed

    def start(self, delay: float) -> None:
        """Let the schedule of a limited rate begin after a delay (seconds)."""
        self._start = monotonic_ns() + int(delay * 1e9)

    def stop(self) -> None:
        """Publish nothing more."""
        self.limit = self.encoder.sequence

    def due(self) -> int:
        """Return when the loop should call `publish` without an event; nanoseconds."""
        if self.encoder.sequence >= self.limit:
            return NEVER
        if self._interval:
            planned = self._start + int(self.encoder.sequence * self._interval)
            return max(planned, monotonic_ns() + 500_000) if self._waits() else planned
        return monotonic_ns() + 500_000 if self._backlog else NEVER

    def writable(self) -> None:
        """Publish what there is room for."""
        if self.flush():
            self.publish()

    def publish(self) -> None:
        """Publish until something says stop."""
        if self.pending:
            return
        for _ in range(SENDS_A_TURN):
            now = monotonic_ns()
            allowed = self._allowed(now)
            if allowed <= 0:
                self.wants_write = False
                return
            sequence = self.encoder.sequence
            parts, count = self.encoder.next_parts(min(allowed, self._batch), now)
            if self._window:
                self._remember(sequence + 1, count, now)
            sent = self.send_parts(parts) if self._gather else self.send(b"".join(parts))
            if not sent:
                return
        self.wants_write = True

    def readable(self) -> None:
        """Take confirms, and whatever else the broker has to say."""
        try:
            chunk = self.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as problem:
            raise LinkLost(f"receiving: {problem}") from None
        if not chunk:
            raise LinkLost("the broker closed a producer's connection")
        data = self._tail + chunk
        position, end = 0, len(data)
        while True:
            if data.startswith(ACK_HEAD, position) and end - position >= ACK_SIZE:
                tag, multiple, _ = ACK.unpack_from(data, position + 11)
                self.settled(tag, multiple & 1, False)
                position += ACK_SIZE
                continue
            behind = self.skip(data, position, end)
            if not behind:
                break
            position = behind
        self._tail = data[position:]
        if self._stamps:
            self.latency.add_since(self._stamps, monotonic_ns())
            self._stamps.clear()
            self.publish()
        elif self.wants_write:
            self.writable()

    def settled(self, tag: int, multiple: bool, refused: bool) -> None:
        """Take a confirm: look up when its messages were sent, and make room in the window."""
        tags = range(self._lowest, tag + 1) if multiple else (tag,)
        if not self._lowest <= tag <= self.encoder.sequence or (
            not multiple and tag in self._early
        ):
            self.wrong_confirms += 1
            return
        early, sent_at, mask = self._early, self._sent_at, len(self._sent_at) - 1
        stamps = [sent_at[each & mask] for each in tags if each not in early]
        self.confirmed += len(stamps)
        self._stamps += stamps
        if refused:
            self.refused += len(stamps)
        if multiple:
            self._lowest = tag + 1
            early.difference_update(tags)
        else:
            early.add(tag)
        while self._lowest in early:
            early.discard(self._lowest)
            self._lowest += 1

    def _allowed(self, now: int) -> int:
        allowed = self.limit - self.encoder.sequence
        if self._window:
            # what the ring of send times holds bounds the span from the oldest unconfirmed, too
            span = self._lowest + len(self._sent_at) - 1 - self.encoder.sequence
            allowed = min(allowed, self._window - self.unconfirmed, span)
        if self._interval:
            planned = int((now - self._start) / self._interval) + 1
            allowed = min(allowed, planned - self.encoder.sequence)
        if self._backlog:
            allowed = min(allowed, self._backlog())
        return 0 if self.blocked else allowed

    def _waits(self) -> bool:
        """Whether something other than the clock holds the producer back."""
        return self.blocked or bool(self.pending) or bool(self._window and self._full())

    def _full(self) -> bool:
        return self.unconfirmed >= self._window

    def _remember(self, first: int, count: int, now: int) -> None:
        sent_at = self._sent_at
        start, size = first & (len(sent_at) - 1), len(sent_at)
        end = start + count
        if end <= size:
            sent_at[start:end] = [now] * count
        else:
            sent_at[start:] = [now] * (size - start)
            sent_at[: end - size] = [now] * (end - size)

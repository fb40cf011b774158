"""Channels: replies, confirms, deliveries, and what a transaction holds back.

Law: deliveries are written here and nowhere else. Of a message that has been sent only its sizes
are needed any more. What becomes of it then: `amqp.settling`.

Called by: amqp handlers, core.queue (deliver).
"""

from __future__ import annotations

from functools import partial
from itertools import repeat
from struct import Struct
from typing import TYPE_CHECKING

from leveret.broker.amqp import reply_to
from leveret.broker.amqp.ending import fail
from leveret.broker.amqp.held import Confirm
from leveret.broker.amqp.settling import Entry, Settling
from leveret.broker.core.consumer import Consumer
from leveret.broker.core.message import absent
from leveret.broker.core.queue import Queue
from leveret.protocol.constants import FRAME_OVERHEAD
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicNack,
    BasicPublish,
    BasicReturn,
    Method,
)
from leveret.protocol.writer import deliver_head, framed, method_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leveret.broker.amqp.session import Session
    from leveret.broker.amqp.transaction import Transaction
    from leveret.broker.core.message import Message
    from leveret.protocol.content import Envelope

_tag = Struct(">Q").pack
# What is left of a delivery that was taken back.
NOTHING = absent(0, 0)
TIMED_OUT = (
    "delivery acknowledgement on channel {channel} timed out. Timeout value used: {timeout} ms. "
    "This timeout value can be configured, see consumers doc guide to learn more"
)
DELIVERY_OVERHEAD = 64  # octets of a delivery besides its header and body, for the outbox's size


class Channel(Settling):
    """One channel of a session.

    Attributes:
      consumers: Its consumers by tag.
      prefetch_count: The limit that consumers started from now on get.
      is_confirming: Whether confirm.select was sent.
      publish_seqno: Messages published since then.
      refused: The numbers of those that a queue has refused and that are not confirmed yet.
      transaction: What tx.select holds back, if it was sent.
      last_queue: The queue declared last, for methods that leave the name out.
      reply_key: The opaque part of its direct reply-to address; "" without a consumer for it.
      reply_tag: The tag of that consumer.
    """

    __slots__ = (
        "__weakref__",
        "confirmed_seqno",
        "consumers",
        "is_confirming",
        "last_queue",
        "number",
        "prefetch_count",
        "publish_seqno",
        "refused",
        "reply_key",
        "reply_tag",
        "transaction",
    )

    def __init__(self, session: Session, number: int) -> None:
        super().__init__(session)
        self.number = number
        self.consumers: dict[str, Consumer] = {}
        self.prefetch_count = 0
        self.is_confirming = False
        self.publish_seqno = 0
        self.confirmed_seqno = 0
        self.refused: list[int] = []
        self.transaction: Transaction | None = None
        self.last_queue = ""
        self.reply_key = ""
        self.reply_tag = ""

    def __repr__(self) -> str:
        return f"<Channel {self.number} of {self.session!r}>"

    # Out

    def reply(self, method: Method) -> None:
        """Send a method to the client, after those that wait for a commit."""
        held = self.session.held
        if held and self.number in held:
            held.follow(self.number, partial(self.send, method))
        else:
            self.send(method)

    def reply_durably(self, method: Method) -> None:
        """Send a method once what it tells is on the disk, and all that was told before."""
        batch = self.session.broker.batch
        if batch.telling > batch.committed:
            self.session.hold(self.number, batch.telling, partial(self.send, method))
        else:
            self.reply(method)

    def then(self, action: Callable[[], None], size: int = 0) -> None:
        """Do something after the replies that wait for a commit, now if there are none."""
        held = self.session.held
        if held and self.number in held:
            held.follow(self.number, action, size)
        else:
            action()

    def send(self, method: Method) -> None:
        """Send a method to the client now, whatever waits."""
        self.outbox.append(method_frame(self.number, method))
        self.session.touch()

    def send_content(self, method: Method, message: Message) -> None:
        """Send a method with a message behind it."""
        size = message.size + message.header_size
        self.then(partial(self._send_content, method, message), size)

    def _send_content(self, method: Method, message: Message) -> None:
        self.send(method)
        for part in framed(message, self.number, self.session.frame_max):
            self.outbox.append(part)

    def send_return(self, code: int, text: str, message: Message) -> None:
        """Send a message back to its publisher."""
        publish = message.envelope.method
        assert isinstance(publish, BasicPublish)
        method = BasicReturn(code, text, publish.exchange, publish.routing_key)
        self.send_content(method, message)

    def send_confirms(self) -> None:
        """Confirm everything published so far, after the confirms that wait for a commit."""
        if not self.is_confirming:
            return
        if self.number in self.session.held:
            self.session.held.follow(self.number, Confirm(self))
        else:
            self.confirm(self.publish_seqno)

    def hold_confirms(self, commit: int) -> None:
        """Confirm everything published so far when a commit is done."""
        if self.is_confirming and self.publish_seqno > self.confirmed_seqno:
            self.session.hold_confirms(self, commit)

    def confirm(self, seqno: int) -> None:
        """Confirm everything up to a number, or refuse what was refused."""
        while self.refused and self.refused[0] <= seqno:
            refused = self.refused.pop(0)
            self._confirm(refused - 1)
            self.confirmed_seqno = refused
            self.send(BasicNack(refused, False, False))
        self._confirm(seqno)

    def _confirm(self, seqno: int) -> None:
        count = seqno - self.confirmed_seqno
        if count > 0:
            self.confirmed_seqno = seqno
            self.send(BasicAck(seqno, count > 1))

    # Deliveries

    def deliver(
        self,
        consumer: Consumer,
        positions: Sequence[int],
        messages: Sequence[Message],
        redelivered: bool,
    ) -> None:
        """Send messages to a consumer, which has room for them."""
        tap = consumer.queue.vhost.tap
        if tap is not None:
            tap.delivered(self, consumer.queue, messages, redelivered)
        tag = self.next_tag
        count = len(messages)
        self.next_tag = tag + count
        if not consumer.no_ack:
            entries = zip(repeat(consumer), positions, messages, strict=False)
            self.unacked.update(zip(range(tag, tag + count), entries, strict=False))
            consumer.credit -= count
            consumer.queue.unacked_count += count
            self.window_used += count
        elif consumer.queue.extras is not None:
            consumer.queue.extras.forget(positions)
        log = consumer.queue.log
        if log is not None:
            if consumer.no_ack:
                log.settled(positions)
            else:
                log.delivered(positions[-1])
        outbox, number, heads = self.outbox, self.number, consumer.heads
        frame_max = self.session.frame_max
        largest = frame_max - FRAME_OVERHEAD
        parts = outbox.parts
        size = 0
        last: Envelope | None = None
        for message in messages:
            envelope = message.envelope
            if envelope is not last:
                last = envelope
                head = heads.get(envelope.address_size) or self._head(consumer, envelope)
                address = envelope.readdress if redelivered else envelope.address
                is_same_channel = envelope.channel == number
            frames = message.frames
            if is_same_channel and frames.__class__ is bytes and message.size <= largest:
                parts += (head, _tag(tag), address, frames)
            else:
                parts += (head, _tag(tag), address, *framed(message, number, frame_max))
            size += message.size + message.header_size
            tag += 1
        if not consumer.no_ack:
            consumer.queue.unacked_bytes += size
        outbox.size += size + count * DELIVERY_OVERHEAD
        self.session.touch()

    def _head(self, consumer: Consumer, envelope: Envelope) -> bytes:
        """Make and keep the start of a consumer's deliveries of such addresses."""
        size = envelope.address_size
        head = consumer.heads[size] = deliver_head(self.number, consumer.tag, size)
        return head

    def cancelled(self, consumer: Consumer) -> None:
        """Forget a consumer whose queue is gone; clients that can be told are told."""
        self.consumers.pop(consumer.tag, None)
        self.session.broker.events.emit("consumer.deleted", consumer=consumer)
        if "consumer_cancel_notify" in self.session.capabilities:
            self.reply(BasicCancel(consumer.tag, True))

    def take_back(self, queue: Queue, consumer_tag: str, tags: range, timeout: int) -> None:
        """Put back what a consumer has not settled in time, and end the consumer.

        A client that cannot be told that loses the channel. All others keep it, and may still
        settle what was taken from them: it is nothing by now.
        """
        overdue = self._unsettled(queue, consumer_tag, tags)
        if not overdue:
            return
        if "consumer_cancel_notify" not in self.session.capabilities:
            text = TIMED_OUT.format(channel=self.number, timeout=timeout)
            fail(self.session, self.number, PreconditionFailed(text))
            return
        nobody = _nobody(self, queue, len(overdue))
        self.unacked.update((tag, (nobody, 0, NOTHING)) for tag in overdue)
        consumer = self.consumers.get(consumer_tag)
        if consumer is not None and consumer.queue is queue:
            del self.consumers[consumer_tag]
            queue.remove_consumer(consumer)
            self.session.broker.events.emit("consumer.deleted", consumer=consumer)
            self.reply(BasicCancel(consumer_tag, True))
        self.requeue(overdue)

    def _unsettled(self, queue: Queue, consumer_tag: str, tags: range) -> dict[int, Entry]:
        """Return what a consumer has of a queue among some delivery tags."""
        unacked, found = self.unacked, dict[int, Entry]()
        for tag in tags if len(tags) <= len(unacked) else unacked:
            entry = unacked.get(tag)
            if entry is None or tag not in tags:
                continue
            consumer = entry[0]
            if consumer.tag == consumer_tag and consumer.queue is queue:
                found[tag] = entry
        return found

    # The end

    def close(self) -> None:
        """Let go of everything: consumers leave, what is unacked returns to its queue."""
        self.session.broker.batch.confirm_early(self)
        self.is_confirming = False
        is_open = self.session.channels.pop(self.number, None) is not None
        emit = self.session.broker.events.emit
        undone: list[dict[int, Entry]] = []
        if self.transaction is not None:
            undone = self.transaction.abandon()
            self.transaction = None
        for consumer in tuple(self.consumers.values()):
            consumer.queue.remove_consumer(consumer)
            emit("consumer.deleted", consumer=consumer)
        self.consumers.clear()
        unacked, self.unacked = self.unacked, {}
        self.settle_all((), (unacked, *undone))
        if self.reply_key:
            reply_to.cancel(self)
        if is_open:
            emit("channel.closed", channel=self)


def _nobody(channel: Channel, queue: Queue, count: int) -> Consumer:
    """Return a consumer of nothing, to whom so many deliveries belong that were taken back."""
    gone = Queue(queue.vhost, queue.name)
    gone.deleted = True
    gone.unacked_count = count
    return Consumer(gone, channel, "", prefetch_count=1)

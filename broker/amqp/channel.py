"""Channels: delivery tags, prefetch, confirms, and what a transaction holds back.

Law: `unacked` is in order of delivery tags. Each entry is (consumer, position, message); its
queue and the credit it took are the consumer's. Of a message that has been sent only its sizes
are needed any more. Deliveries are written here and nowhere else.

Called by: amqp handlers, core.queue (deliver).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain, repeat, takewhile
from operator import itemgetter
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

from leveret.broker.amqp import reply_to
from leveret.broker.amqp.ending import fail
from leveret.broker.amqp.held import Confirm
from leveret.broker.core.consumer import Consumer
from leveret.broker.core.message import Absent, absent, absent_octets, octets
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
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from leveret.broker.amqp.session import Session
    from leveret.broker.amqp.transaction import Transaction
    from leveret.broker.core.message import Message
    from leveret.protocol.content import Envelope

Entry: TypeAlias = "tuple[Consumer, int, Message | Absent]"

_tag = Struct(">Q").pack
_consumer_of, _position_of, _message_of = itemgetter(0), itemgetter(1), itemgetter(2)
# Tags without a message that an ack of many walks over, rather than looking through all there are.
MANY_HOLES = 4096
# Settled messages forgotten, or unsettled ones put back, at a stroke.
PIECE = 4096
# What is left of a delivery that was taken back.
NOTHING = absent(0, 0)
TIMED_OUT = (
    "delivery acknowledgement on channel {channel} timed out. Timeout value used: {timeout} ms. "
    "This timeout value can be configured, see consumers doc guide to learn more"
)
DELIVERY_OVERHEAD = 64  # octets of a delivery besides its header and body, for the outbox's size


class Channel:
    """One channel of a session.

    Attributes:
      unacked: Delivered and not settled, by delivery tag.
      lowest: No lower tag is among them.
      consumers: Its consumers by tag.
      parked: Those of them that have no room now.
      prefetch_count: The limit that consumers started from now on get.
      window: Unacknowledged messages all its consumers together may have, 0 for any number.
      window_used: How many they have.
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
        "lowest",
        "next_tag",
        "number",
        "outbox",
        "parked",
        "prefetch_count",
        "publish_seqno",
        "refused",
        "reply_key",
        "reply_tag",
        "session",
        "transaction",
        "unacked",
        "window",
        "window_used",
    )

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self.outbox = session.outbox
        self.unacked: dict[int, Entry] = {}
        self.next_tag = 1
        self.lowest = 1
        self.consumers: dict[str, Consumer] = {}
        self.parked: dict[Consumer, None] = {}
        self.prefetch_count = 0
        self.window = 0
        self.window_used = 0
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

    def room(self, consumer: Consumer) -> int:
        """Return how many messages a consumer can take now."""
        if self.outbox.size >= self.session.outbox_high or not self.session.is_running:
            return 0
        if self.window and not consumer.no_ack:
            return min(consumer.credit, self.window - self.window_used)
        return consumer.credit

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

    def unpark(self) -> None:
        """Give those consumers their turns back that have room again."""
        for consumer in tuple(self.parked):
            if self.room(consumer) > 0:
                consumer.queue.unpark(consumer)

    # Settling

    def take(self, tag: int, multiple: bool) -> dict[int, Entry]:
        """Remove and return the entry of a delivery tag, or all up to it, by tag.

        Raises:
          PreconditionFailed: There is none.
        """
        unacked = self.unacked
        if multiple and tag == 0:
            self.unacked = {}
            return unacked
        if tag not in unacked:
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        if multiple and tag - self.lowest >= PIECE and self.next_tag - tag <= PIECE:
            return self._all_but_after(tag)
        tags = self._up_to(tag) if multiple else [tag]
        if len(tags) == len(unacked):
            self.unacked = {}
            return unacked
        return dict(zip(tags, map(unacked.pop, tags), strict=True))

    def _all_but_after(self, tag: int) -> dict[int, Entry]:
        """Take the entries up to a tag where few come after it: those few move to a new dict."""
        taken = self.unacked
        after = list(takewhile(tag.__lt__, reversed(taken)))[::-1]
        self.unacked = dict(zip(after, map(taken.pop, after), strict=True))
        self.lowest = tag + 1
        return taken

    def _up_to(self, tag: int) -> list[int]:
        """Return the live tags up to one, and look at each of them for the last time.

        Walking the dict would look again and again at what was removed from its front.
        """
        first, unacked = self.lowest, self.unacked
        self.lowest = tag + 1
        if tag - first > len(unacked) + MANY_HOLES:
            return list(takewhile(tag.__ge__, unacked))
        return [each for each in range(first, tag + 1) if each in unacked]

    def take_row(self, tags: list[int]) -> list[Entry]:
        """Remove and return the entries of several delivery tags.

        Raises:
          PreconditionFailed: One is unknown; those before it are settled.
        """
        pop = self.unacked.pop
        entries: list[Entry] = []
        try:
            entries.extend(map(pop, tags))
        except KeyError:
            # extend keeps what it got: the next one is the unknown one
            unknown = tags[len(entries)]
            self.discard(entries)
            raise PreconditionFailed(f"unknown delivery tag {unknown}") from None
        return entries

    def settle_all(
        self,
        discarded: Sequence[dict[int, Entry]],
        requeued: Sequence[dict[int, Entry]],
        rejected: Sequence[dict[int, Entry]] = (),
    ) -> None:
        """Discard some messages, requeue others, drop others; very many a piece at a time."""
        if sum(map(len, chain(discarded, requeued, rejected))) > PIECE:
            batch = self.session.broker.batch
            if discarded:
                batch.unfinished.append(self.discard_later(*discarded))
            if rejected:
                batch.unfinished.append(self.reject_later(*rejected))
            batch.returns.append(self.requeue_later(*requeued))
        else:
            for entries in discarded:
                self.discard_many(entries)
            for entries in rejected:
                self.reject_many(entries)
            for entries in requeued:
                self.requeue(entries)

    def discard_many(self, taken: dict[int, Entry]) -> None:
        """Forget settled messages; very many a piece at a time, all of them in one commit."""
        if len(taken) > PIECE:
            self.session.broker.batch.unfinished.append(self.discard_later(taken))
        else:
            self.discard(list(taken.values()))

    def discard_later(self, *taken: dict[int, Entry]) -> Iterator[None]:
        """Forget settled messages, some with each step."""
        for piece in _pieces(taken):
            self.discard(piece)
            for queue in {consumer.queue for consumer in set(map(_consumer_of, piece))}:
                if queue.log is not None:
                    queue.log.apply()
            yield

    def reject_many(self, taken: dict[int, Entry]) -> None:
        """Drop rejected messages; very many a piece at a time, all of them in one commit."""
        if len(taken) > PIECE:
            self.session.broker.batch.unfinished.append(self.reject_later(taken))
        else:
            self.reject(list(taken.values()))

    def reject_later(self, *taken: dict[int, Entry]) -> Iterator[None]:
        """Drop rejected messages, some with each step."""
        for piece in _pieces(taken):
            self.reject(piece[::-1])
            yield

    def reject(self, entries: list[Entry]) -> None:
        """Drop rejected messages; hooks of their queues get them."""
        by_queue: dict[Queue, list[Entry]] = {}
        for entry in entries:
            queue = entry[0].queue
            if queue.policy_epoch != queue.vhost.policy_epoch:
                queue.vhost.refit(queue)
            if queue.extras is not None and queue.extras.dropped and not queue.deleted:
                by_queue.setdefault(queue, []).append(entry)
        for queue, some in by_queue.items():
            entries = [entry for entry in entries if entry[0].queue is not queue]
            self._reject_in(queue, some)
        self.discard(entries)

    def _reject_in(self, queue: Queue, entries: list[Entry]) -> None:
        """Have the hooks of a queue get what was rejected in it."""
        here: list[tuple[int, Message]] = []
        absent: list[tuple[int, Message | Absent]] = []
        for _, position, message in entries:
            if isinstance(message, Absent):
                absent.append((position, message))
            else:
                here.append((position, message))
        if here and not queue.reject(here):
            queue.forget(here)  # the log keeps them: they come back with a restart
            self._count_settled(entries)
        else:
            self.discard([entry for entry in entries if not isinstance(entry[2], Absent)])
            self._count_settled([entry for entry in entries if isinstance(entry[2], Absent)])
        queue.reject_absent(absent)

    def _count_settled(self, entries: list[Entry]) -> None:
        """Count messages as settled that the log keeps."""
        for consumer, _, message in entries:
            consumer.queue.settle(1, octets((message,)))
            consumer.queue.absent_bytes -= absent_octets((message,))
            self._give_back(consumer, 1)
        if self.parked:
            self.unpark()

    def discard(self, entries: list[Entry]) -> None:
        """Forget settled messages and give their credit back."""
        if not entries:
            return
        consumers = set(map(_consumer_of, entries))
        if len(consumers) == 1:
            (consumer,) = consumers
            queue = consumer.queue
            if queue.log is not None:
                queue.log.settled(map(_position_of, entries))
            if queue.extras is not None:
                queue.extras.forget([*map(_position_of, entries)])
            queue.settle(len(entries), octets(map(_message_of, entries)))
            if queue.absent_bytes:
                queue.absent_bytes -= absent_octets(map(_message_of, entries))
            self._give_back(consumer, len(entries))
        else:
            self._discard_of_many(entries, consumers)
        if self.parked:
            self.unpark()

    def _discard_of_many(self, entries: list[Entry], consumers: set[Consumer]) -> None:
        for queue in {consumer.queue for consumer in consumers}:
            if queue.log is not None or queue.extras is not None:
                _settle_in(queue, entries)
        for consumer, _, message in entries:
            consumer.queue.settle(1, octets((message,)))
            if consumer.queue.absent_bytes:
                consumer.queue.absent_bytes -= absent_octets((message,))
            self._give_back(consumer, 1)

    def requeue(self, taken: dict[int, Entry]) -> None:
        """Put unsettled messages back where they were; very many a piece at a time."""
        if len(taken) > PIECE:
            self.session.broker.batch.returns.append(self.requeue_later(taken))
        else:
            self._return(list(taken.values()))

    def requeue_later(self, *taken: dict[int, Entry]) -> Iterator[None]:
        """Count unsettled messages as ready now; put them back later, some with each step."""
        for entries in taken:
            self._await_returns(entries)
        return self._return_later(*taken)

    def _await_returns(self, taken: dict[int, Entry]) -> None:
        """Have the queues count now what will come back."""
        queues = {consumer.queue for consumer in set(map(_consumer_of, taken.values()))}
        if len(queues) == 1:
            (queue,) = queues
            queue.await_returns(len(taken))
        else:
            for consumer, count in Counter(map(_consumer_of, taken.values())).items():
                consumer.queue.await_returns(count)

    def _return_later(self, *taken: dict[int, Entry]) -> Iterator[None]:
        for piece in _pieces(taken):  # nobody gets any before the last is back
            self._return(piece[::-1], are_awaited=True)
            yield

    def _return(self, entries: list[Entry], *, are_awaited: bool = False) -> None:
        consumers = set(map(_consumer_of, entries))
        for consumer in consumers:
            if consumer.queue.policy_epoch != consumer.queue.vhost.policy_epoch:
                consumer.queue.vhost.refit(consumer.queue)
        if len(consumers) == 1:
            (consumer,) = consumers
            consumer.queue.requeue([entry[1:] for entry in entries], are_awaited=are_awaited)
            self._give_back(consumer, len(entries))
        else:
            by_queue: dict[Queue, list[tuple[int, Message | Absent]]] = {}
            for consumer, position, message in entries:
                by_queue.setdefault(consumer.queue, []).append((position, message))
                self._give_back(consumer, 1)
            for queue, returned in by_queue.items():
                queue.requeue(returned, are_awaited=are_awaited)
        if self.parked:
            self.unpark()

    def _give_back(self, consumer: Consumer, count: int) -> None:
        consumer.credit += count
        if consumer.tag:
            self.window_used -= count

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


def _settle_in(queue: Queue, entries: list[Entry]) -> None:
    """Tell one of several queues which of its messages are settled."""
    positions = [entry[1] for entry in entries if entry[0].queue is queue]
    if queue.log is not None:
        queue.log.settled(positions)
    if queue.extras is not None:
        queue.extras.forget(positions)


def _pieces(taken: Iterable[dict[int, Entry]]) -> Iterator[list[Entry]]:
    """Take entries out, some at a time: from the end, where a dict shrinks at no cost."""
    for entries in taken:
        while entries:
            yield [entries.popitem()[1] for _ in range(min(PIECE, len(entries)))]

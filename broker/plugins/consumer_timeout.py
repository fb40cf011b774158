"""Consumer timeout: a message that its consumer does not settle in time goes back to the queue.

Law: a message that is overdue counts as one that came back, and its consumer is ended: it is told
by basic.cancel if its client can be told, and then keeps its channel and all else that it has; an
ack of what was taken from it is one of nothing. A client that cannot be told loses the channel
(406). The time is the consumer's own (`x-consumer-timeout` of basic.consume) or else the queue's;
0, or none, is for ever. What basic.get has handed out nobody takes back.

Messages are not timed one by one. What a consumer gets within a sixteenth of its time is looked at
together, when the last of it is due; so a message may stay for that much longer.

RabbitMQ: consumers.html#acknowledgement-timeout. Registered for: x-consumer-timeout.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple, cast
from weakref import ref

from leveret.broker.core.hooks import Phase, QueueHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.timers import Timer

ARGUMENT, KEY = "x-consumer-timeout", "consumer-timeout"
PARTS = 16  # of a timeout, in which what is delivered is looked at together


class _Stretch(NamedTuple):
    """Delivery tags of a channel, and until when those among them may be unsettled."""

    first: int
    end: int
    began: int
    due: int
    timeout: int


class _Watch:
    """When what one consumer has got is due; knows it until then, also after the consumer's end.

    Attributes:
      key: What the hook knows it by.
      is_own: Whether the consumer has asked for it itself.
    """

    def __init__(self, hook: ConsumerTimeout, consumer: Consumer, key: tuple[int, str]) -> None:
        self.key = key
        self.is_own = ARGUMENT in consumer.arguments
        self._hook = hook
        self._tag = consumer.tag
        self._channel = ref(consumer.channel, self._end)
        self._next = 1
        self._stretches: deque[_Stretch] = deque()
        self._timer: Timer | None = None

    def is_on(self, channel: object) -> bool:
        """Whether it is of a consumer of this channel, not of one in whose place that is."""
        return self._channel() is channel

    def add(self, end: int, now: int, timeout: int) -> None:
        """Take note that what was delivered up to a tag is due in some milliseconds."""
        first, began, due, stretches = self._next, now, now + timeout, self._stretches
        self._next = end
        while stretches and (now - stretches[-1].began <= timeout // PARTS):
            first, _, began, _, _ = stretches.pop()
        while stretches and stretches[-1].due > due:  # the timeout is shorter now
            first = stretches.pop().first
        stretches.append(_Stretch(first, end, began, due, timeout))
        self._wait()

    def _wait(self) -> None:
        due = self._stretches[0].due
        if self._timer is None:
            self._timer = self._hook.queue.vhost.broker.timers.at(due, self._look)
        else:
            self._timer.move(due)

    def _look(self) -> None:
        queue, channel, stretches = self._hook.queue, self._channel(), self._stretches
        now = queue.vhost.broker.now
        while channel is not None and stretches and stretches[0].due <= now:
            first, end, _, _, timeout = stretches.popleft()
            channel.take_back(queue, self._tag, range(first, end), timeout)
        if channel is not None and stretches:
            self._wait()
        else:
            self._hook.forget(self)

    def _end(self, channel: object) -> None:
        """Let go: the channel is gone, and has given all back."""
        self.close()
        self._hook.drop(self)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()


class ConsumerTimeout(QueueHook):
    """Watches the consumers of a queue.

    Attributes:
      watches: Of those who have got something, by channel and consumer tag.
    """

    _timeout = 0

    def __init__(self, queue: Queue) -> None:
        self.watches: dict[tuple[int, str], _Watch] = {}
        super().__init__(queue)

    def refit(self) -> None:
        """Read the time that the queue gives; for what is delivered already it begins now."""
        before, self._timeout = self._timeout, cast("int", self.queue.settings.get(KEY, 0))
        if not self._timeout:
            for watch in [watch for watch in self.watches.values() if not watch.is_own]:
                watch.close()
                self.drop(watch)
        if self._timeout != before or not before:
            for consumer in self.queue.consumers:
                self.delivered(consumer, ())

    def delivered(self, consumer: Consumer | None, positions: Sequence[int]) -> None:
        """Begin to wait until a consumer has settled what it has got."""
        if consumer is None:
            return
        timeout = cast("int", consumer.arguments.get(ARGUMENT, self._timeout))
        if timeout and not consumer.no_ack:
            channel = consumer.channel
            key = id(channel), consumer.tag
            watch = self.watches.get(key)
            if watch is None or not watch.is_on(channel):
                watch = self.watches[key] = _Watch(self, consumer, key)
            watch.add(channel.next_tag, self.queue.vhost.broker.now, timeout)

    def forget(self, watch: _Watch) -> None:
        """Let go of a watch that has nothing more to wait for, and of the queue with the last."""
        self.drop(watch)
        if not self.watches and not self._timeout:
            self.queue.vhost.refit(self.queue, is_forced=True)

    def drop(self, watch: _Watch) -> None:
        """Do not know a watch any more."""
        if self.watches.get(watch.key) is watch:
            del self.watches[watch.key]

    def close(self) -> None:
        """Watch nobody any more."""
        for watch in self.watches.values():
            watch.close()
        self.watches.clear()


class _Chooser:
    """Which queues need the hook: those with a timeout, or with a consumer that asks for one."""

    def __init__(self) -> None:
        self._asking: Counter[Queue] = Counter()

    def __call__(self, queue: Queue) -> type[QueueHook] | None:
        if queue.settings.get(KEY) or self._asking.get(queue):
            return ConsumerTimeout
        hook = None if queue.extras is None else queue.extras.hooks.get(self)
        is_busy = isinstance(hook, ConsumerTimeout) and hook.watches
        return ConsumerTimeout if is_busy else None

    def start(self, broker: Broker) -> None:
        """Learn of consumers that ask for a timeout."""
        broker.events.subscribe("consumer.created", self._created)
        broker.events.subscribe("consumer.deleted", self._deleted)

    def _created(self, consumer: Consumer) -> None:
        if consumer.arguments.get(ARGUMENT):
            queue = consumer.queue
            self._asking[queue] += 1
            if self._asking[queue] == 1:
                queue.vhost.refit(queue, is_forced=True)

    def _deleted(self, consumer: Consumer) -> None:
        if consumer.arguments.get(ARGUMENT):
            queue = consumer.queue
            self._asking[queue] -= 1
            if not self._asking[queue]:
                del self._asking[queue]
                if not queue.deleted:
                    queue.vhost.refit(queue, is_forced=True)


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    choose = _Chooser()
    registry.argument(ARGUMENT)
    registry.argument(ARGUMENT, applies_to="consumers")
    registry.queue_hook(choose, phase=Phase.WATCH)
    registry.start(choose.start)

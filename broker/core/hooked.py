"""Hooked queues: queues in whose order and time plugins have a part.

Law: all that comes in gets its position and stands in a lane, or waits, before anything is dealt.
What is due is done before anything is dealt, so nothing that has expired is ever delivered; very
much of it is done in pieces, and nothing is dealt in between.

Here is what is seen, placed and dealt. It is built on `core.waiting`, `core.expiring`,
`core.returning` and `core.restoring`, each on the one before; they have no slots of their own, as
a queue becomes a hooked one, and plain again, while it lives: `core.fitting`.

Called by: as core.queue; core.fitting (a queue becomes one, and plain again); plugins.
"""

from __future__ import annotations

from itertools import chain, compress
from operator import not_
from typing import TYPE_CHECKING, TypeAlias

from leveret.broker.core.chunks import Chunk
from leveret.broker.core.consumer import DEAL_LIMIT
from leveret.broker.core.message import OVERHEAD, Altered, bodies_size, octets
from leveret.broker.core.queue import DEAL_BYTES, NotLoaded, Queue
from leveret.broker.core.restoring import Restoring
from leveret.broker.core.runs import FRONT, UNLIMITED

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.extras import Extras
    from leveret.broker.core.message import Message
    from leveret.broker.core.runs import Runs
    from leveret.broker.core.shards import Shards

    Turn: TypeAlias = tuple[OrderedDict[Consumer, None], list[Consumer]]  # a level, and who of it

# Entries of what expires that are kept although all messages are gone.
FORGOTTEN = 1024


class HookedQueue(Restoring):
    """A queue with hooks that say when, or in which order, messages are served."""

    __slots__ = ()

    extras: Extras

    # What can be seen

    @property
    def ready_count(self) -> int:
        """How many messages are ready, after dealing what is due."""
        self.deal()
        if not isinstance(self, HookedQueue):  # nothing hooked was left in it
            return self.ready_count
        waiting = self._awaited + len(self.incoming) + self.coming
        return self.extras.lanes.count + self.returned.count + waiting

    def all_runs(self) -> Iterable[Runs]:
        """Return all rows of messages: lanes, and what waits."""
        yield from self.extras.lanes.all()
        yield self.extras.waiting

    def large_runs(self) -> Iterable[Runs]:
        """Return those from which something may leave memory."""
        yield from self.extras.lanes.large()
        yield self.extras.waiting

    def grown(self, runs: Runs) -> None:
        """Take note that some of a row has left memory, or is there again."""
        self.extras.lanes.grown(runs)

    @property
    def bytes(self) -> int:
        """Octets of header and body of its messages: ready, waiting, unacked."""
        extras = self.extras
        return extras.lanes.bytes + extras.waiting.bytes + self.returned.bytes + self.unacked_bytes

    @property
    def memory(self) -> int:
        """Octets its messages are accounted for, as far as they are in memory."""
        returned = self.returned
        count = returned.count + self._awaited + self.unacked_count
        octets_here = returned.bytes - returned.absent_bytes + self.unacked_memory
        runs = self.extras.lanes.memory + self.extras.waiting.memory
        return runs + octets_here + count * OVERHEAD

    # Dealing

    def deal(self) -> None:
        """Do what is due, place what came in, and hand ready messages to those that have room."""
        if self.policy_epoch != self.vhost.policy_epoch:
            self.vhost.refit(self)  # which may make it a plain queue
            self.deal()
            return
        extras = self.extras
        if self._awaited:  # what comes back goes before what is here
            self._let_wait()
        elif not extras.is_dealing:  # a dead letter may come back, and ask how much is here
            extras.is_dealing = True
            try:
                self._deal()
            finally:
                extras.is_dealing = False

    def _deal(self) -> None:
        extras, now = self.extras, self.vhost.broker.now
        if extras.is_stale or len(extras.expiries) > FORGOTTEN:
            self._forget()
        is_done = not self.returned.count or self._take_over_some()
        is_done = is_done and (extras.next_due > now or self._run_due(now))
        had_incoming = bool(self.incoming)
        is_order_mixed = extras.dealt and extras.lanes.is_keyed
        if had_incoming and is_done and is_order_mixed and not self._fits():
            self._store_singly(now)
        elif had_incoming:
            self._store(self._room() if is_done else None)
        if not (is_done and self._serve(now)) and not extras.is_reading:
            self.touch()
        if had_incoming and extras.lanes.count and self._ring.consumers:
            self.vhost.broker.batch.is_crowded = True
        extras.set_timer()

    def _fits(self) -> bool:
        """Whether there is room for all that came in, even if nobody takes anything."""
        extras, incoming = self.extras, self.incoming
        count = extras.lanes.count + len(incoming)
        size = extras.body_octets + bodies_size(incoming)
        return all(fits(count, size) for fits in extras.fits)

    def _serve(self, now: int) -> bool:
        """Hand out what somebody has room for, then drop what is too much or was only for now.

        Returns:
          Whether that was all that is due.
        """
        extras = self.extras
        is_dealt = extras.is_held or self._deal_lanes()
        if extras.put_off:
            self._resume_expiry(now)
        is_brief = extras.next_due <= now
        left = UNLIMITED
        while is_brief and not is_dealt and extras.lanes.count < left:
            left = extras.lanes.count  # time to live 0: whoever is there gets it
            is_dealt = self._deal_lanes()
        if is_dealt:
            for dealt in extras.dealt:
                dealt()
        return not is_brief or self._run_due(now)

    def _forget(self) -> None:
        """Forget what is known of messages that are gone, and be fitted anew if need be."""
        extras = self.extras
        left = extras.lanes.count + self.unacked_count + self.returned.count
        if left:
            extras.tidy(left + extras.waiting.count + extras.leaving)
            return
        is_empty = not (extras.waiting.count or extras.leaving or extras.ending)
        if is_empty:
            extras.forget_all()
        if extras.is_stale and (extras.is_deep or (is_empty and not extras.is_held)):
            extras.is_stale = False
            self.vhost.broker.batch.debris.append(_fit_again(self))

    def _deal_lanes(self) -> bool:
        """Hand out ready messages; return False if it stopped although somebody has room."""
        limit = DEAL_LIMIT
        end = self._unseal() if self._sealed else UNLIMITED
        lanes = self.extras.lanes
        level = self._ring.front()
        while level is not None and limit > 0:
            lane = lanes.front()
            if lane is None:
                return True
            if lane.first >= end or not self._is_loaded(lane):
                return False
            limit -= self._deal_round(level, limit, lane, end)
            level = self._ring.front()
        if level is not None:
            self.touch()
        return level is None

    def _is_loaded(self, lane: Runs) -> bool:
        if not lane.paged_count:
            return True
        for paged in lane.wanted(FRONT):
            source = paged.slot or self.log
            if source is not None:
                paged.is_asked = True
                self.extras.asked[paged] = lane
                source.fetch(self, paged)
        return not lane.is_front_paged

    def _deal_round(
        self, level: OrderedDict[Consumer, None], limit: int, lane: Runs, end: int
    ) -> int:
        """Hand out what is served next, of as many lanes as there is room for; return the cost."""
        consumers, share, cost = self._ring.next(level, limit, self.extras.lanes.at_once)
        if consumers:
            wanted = min(len(consumers) * share, DEAL_LIMIT)
            positions, messages = self._take_lane(lane, wanted, end)
            if len(messages) < wanted and self.extras.lanes.is_keyed:
                positions = list(positions)
                self._take_more(positions, messages, wanted, end)
            cost += len(messages)
            self._hand_out(level, consumers, positions, messages)
        return cost

    def _take_more(
        self, positions: list[int], messages: list[Message], limit: int, end: int
    ) -> None:
        """Take what is served after messages, up to so many in all, and add it to them.

        Lanes may have one message each: to deliver those one by one costs most of their dealing.
        """
        lanes, left = self.extras.lanes, DEAL_BYTES - octets(messages)
        while len(messages) < limit and left > 0:
            lane = lanes.front()
            if lane is None or (end != UNLIMITED and lane.first >= end):
                return
            if lane.paged_count and not self._is_loaded(lane):
                return
            before = lane.bytes
            if lane.count == 1 or lanes.most(lane) == 1:
                position, message = lane.take_one()
                positions.append(position)
                messages.append(message)
                self.extras.body_octets -= message.size
                lanes.took(lane, (position,))
            else:
                some, more = self._take_lane(lane, limit - len(messages), end, left)
                positions += some
                messages += more
            left -= before - lane.bytes

    def _take_lane(
        self, lane: Runs, limit: int, end: int = UNLIMITED, size: int = DEAL_BYTES
    ) -> tuple[Sequence[int], list[Message]]:
        """Take messages from the front of a lane, which is loaded."""
        lanes = self.extras.lanes
        wanted = min(limit, lane.count, lanes.most(lane), DEAL_LIMIT)
        if end != UNLIMITED:
            wanted = min(wanted, lane.until(end - 1))
        positions, messages = lane.take(wanted, size)
        self.extras.body_octets -= bodies_size(messages)
        lanes.took(lane, positions)
        return positions, messages

    def _hand_out(
        self,
        level: OrderedDict[Consumer, None],
        consumers: list[Consumer],
        positions: Sequence[int],
        messages: list[Message],
    ) -> None:
        """Deliver messages in turns; those that came back are marked, and go by themselves."""
        ring, extras = self._ring, self.extras
        if self.log is not None and not isinstance(positions, range):
            self._note_delivered(consumers, positions)
        start = 0
        for end, redelivered in self._stretches(positions):
            some = messages[start:end]
            where = positions[start:end]
            if redelivered and extras.outgoing:
                some = [self._outgoing(*entry) for entry in zip(where, some, strict=True)]
            ring.distribute(level, consumers, where, some, redelivered)
            if extras.delivered:
                self._tell(consumers, where)
            turns = (end - start) % len(consumers)
            consumers = consumers[turns:] + consumers[:turns]  # the next begins where this ended
            start = end

    def _note_delivered(self, consumers: list[Consumer], positions: Sequence[int]) -> None:
        """Tell the log of the greatest position; channels tell it of the last that they get."""
        if self.log is not None and not all(consumer.no_ack for consumer in consumers):
            self.log.delivered(max(positions))

    def _tell(self, consumers: list[Consumer], positions: Sequence[int]) -> None:
        """Tell hooks who got what, as `Ring.distribute` shares it out."""
        width = len(consumers)
        for index, consumer in enumerate(consumers[: len(positions)]):
            if not consumer.no_ack:
                for delivered in self.extras.delivered:
                    delivered(consumer, positions[index::width])

    def _outgoing(self, position: int, message: Message) -> Message:
        altered = message
        for outgoing in self.extras.outgoing:
            altered = outgoing(position, altered)
        return message if altered is message else Altered(altered, message)

    def _stretches(self, positions: Sequence[int]) -> list[tuple[int, bool]]:
        """Return ends of neighbours that all, or none of which, were delivered before."""
        returns, before = self.extras.returns, self.delivered_before
        count = len(positions)
        least = positions[0] if isinstance(positions, range) else min(positions)
        if not returns and least > before:
            return [(count, False)]
        found: list[tuple[int, bool]] = []
        for index, position in enumerate(positions, 1):
            redelivered = position <= before or returns.get(position) > 0
            if found and found[-1][1] is redelivered:
                found[-1] = (index, redelivered)
            else:
                found.append((index, redelivered))
        return found

    def pop(self) -> tuple[int, Message, bool] | None:
        """Take the first ready message for basic.get: position, message, redelivered.

        Raises:
          NotLoaded: It is being read, or comes in pieces; the same may be asked again once it is
            here.
        """
        self.deal()
        if not isinstance(self, HookedQueue):  # nothing hooked was left in it
            return self.pop()
        extras = self.extras
        if self._awaited or self.returned.count or extras.next_due <= self.vhost.broker.now:
            raise NotLoaded
        lane = None if extras.is_held else extras.lanes.front()
        if lane is None:
            if self.coming:
                raise NotLoaded
            return None
        if not self._is_loaded(lane):
            raise NotLoaded
        (position,), (message,) = self._take_lane(lane, 1)
        ((_, redelivered),) = self._stretches((position,))
        if redelivered and extras.outgoing:
            message = self._outgoing(position, message)
        if self.log is not None:
            self.log.delivered(position)
        for delivered in extras.delivered:
            delivered(None, (position,))
        self.unacked_count += 1
        self.unacked_bytes += octets((message,))
        return position, message, redelivered

    # What comes in

    def _let_wait(self) -> None:
        if self.incoming:
            self._store()
            if self._ring.consumers:
                self.vhost.broker.batch.is_crowded = True

    def _room(self) -> Turn | None:
        """Return who has room for all that came in, if there is nothing before it.

        Then it does not matter in what order lanes would be served.
        """
        lanes, level, count = self.extras.lanes, self._ring.front(), len(self.incoming)
        is_passed = level is not None and not (lanes.count or self._sealed or self.extras.is_held)
        if not (is_passed and lanes.may_be_passed) or count > DEAL_LIMIT:
            return None
        assert level is not None
        consumers, share, _ = self._ring.next(level, DEAL_LIMIT, count)
        has_room = len(consumers) * share >= count and octets(self.incoming) <= DEAL_BYTES
        return (level, consumers) if has_room else None

    def _store(self, turn: Turn | None = None) -> None:
        """Place what came in.

        Args:
          turn: Who gets all of it that does not have to wait, past the lanes.
        """
        extras, base = self.extras, self.next_position
        messages, self.incoming = self.incoming, []
        if self.log is not None:
            self.log.enqueued(base, messages)
        self.next_position = base + len(messages)
        for placed in extras.placed:
            placed(base, messages)
        if extras.placing:
            self._store_some(base, messages)
        elif turn is not None:
            positions = range(base, self.next_position)
            if self.log is not None:
                extras.lanes.pass_by(positions, messages)
            self._hand_out(*turn, positions, messages)
        else:
            extras.body_octets += bodies_size(messages)
            extras.lanes.append(base, messages)

    def _store_singly(self, now: int) -> None:
        """Place one message after the other: what is too many depends on which came before."""
        messages, self.incoming = self.incoming, []
        for message in messages:
            self.incoming.append(message)
            self._store()
            self._serve(now)

    def _store_some(self, base: int, messages: list[Message]) -> None:
        """Put those messages aside that wait, and the others into their lanes."""
        extras = self.extras
        waits, extras.placing = extras.placing, {}
        positions = range(base, base + len(messages))
        if len(waits) == len(messages):
            self._store_waiting(positions, messages, [waits[each] for each in positions])
            return
        which = [position in waits for position in positions]
        late, ready = list(compress(positions, which)), list(compress(messages, map(not_, which)))
        self._store_waiting(late, list(compress(messages, which)), [waits[each] for each in late])
        if ready:
            extras.body_octets += bodies_size(ready)
            extras.lanes.append_at([each for each in positions if each not in waits], ready)

    # The end

    def _drop_ready(self) -> None:
        log, extras, batch = self.log, self.extras, self.vhost.broker.batch
        self.incoming.clear()
        is_kept = not self.deleted and (extras.waiting.count or extras.leaving or extras.ending)
        forgetting = self._forget_returns(
            is_all=self.deleted or not (self.unacked_count or is_kept)
        )
        if log is not None and (self.unacked_count or is_kept):
            for lane in extras.lanes.all():
                log.dropped(lane.ranges())
            batch.unfinished.append(self.returned.clear(log))
        else:
            if log is not None:
                log.dropped([(0, self.next_position - 1)])
            batch.debris.append(self.returned.clear())
        batch.debris += (*extras.lanes.clear(), *forgetting)
        extras.body_octets = 0
        if not is_kept:
            batch.debris.append(extras.waiting.clear())
            extras.clear()

    def _forget_returns(self, *, is_all: bool) -> Sequence[Iterator[None]]:
        """Return what forgets, some at a time, how often the messages that are ready came back."""
        returns = self.extras.returns
        if is_all:
            return (returns.free(),)
        if not returns:
            return ()
        chunks = chain.from_iterable(lane.items() for lane in self.extras.lanes.all())
        ready = [
            chunk.numbers if isinstance(chunk, Chunk) else chunk.numbers(self.living)
            for chunk in chunks
        ]
        return (_forgotten(returns, ready),)

    def become_plain(self) -> None:
        """Become a plain queue again: there is nothing here that one does not know."""
        extras = self.extras
        extras.clear_deadlines()
        self.__class__ = Queue  # type: ignore[assignment]
        if not extras.hooks:
            self.extras = None  # type: ignore[assignment]


def _fit_again(queue: HookedQueue) -> Iterator[None]:
    """Change order or strategy, as was asked for while messages were here; not while it deals."""
    if not queue.deleted:
        queue.vhost.refit(queue)
    yield


def _forgotten(numbers: Shards, positions: Iterable[Sequence[int]]) -> Iterator[None]:
    """Forget the numbers of some positions, a piece with each step."""
    for some in positions:
        numbers.forget(some)
        yield

"""Hooked queues: queues in whose order and time plugins have a part.

Law: all that comes in gets its position and stands in a lane, or waits, before anything is dealt;
messages may leave from the middle. What is due is done before anything is dealt, so nothing that
has expired is ever delivered; very much of it is done in pieces, and nothing is dealt in between.
A message whose body only the log has is taken out at once and read before a hook gets it; until
then the log keeps it, so that a crash undoes it.

A queue becomes a hooked one, and plain again, while it lives: `core.fitting`.

Called by: as core.queue; plugins (expire_at, wait_until, wait_entries, drop_entries, drop_front,
take_out).
"""

from __future__ import annotations

from array import array
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from leveret.broker.core import paging
from leveret.broker.core.chunks import Chunk, Paged
from leveret.broker.core.consumer import DEAL_LIMIT
from leveret.broker.core.extras import FAILED
from leveret.broker.core.hooks import Reason
from leveret.broker.core.log import ABSOLUTE, Fact
from leveret.broker.core.message import OVERHEAD, Absent, Altered, octets
from leveret.broker.core.queue import DEAL_BYTES, NotLoaded, Queue
from leveret.broker.core.runs import CHUNK_LENGTH, FRONT, PIECE_OCTETS, UNLIMITED
from leveret.broker.core.tally import Tally
from leveret.broker.core.waiting import Waiting

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.extras import Extras
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.log import Log
    from leveret.broker.core.message import Message
    from leveret.broker.core.returned import Entry as AnyEntry
    from leveret.broker.core.runs import Runs

# Messages that expire at a stroke.
DUE_LIMIT = 512
# Messages that came back which move to another place at a stroke.
TAKEN_OVER = 4096
# Entries of what expires that are kept although all messages are gone.
FORGOTTEN = 1024


class HookedQueue(Waiting):
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
        if had_incoming and is_done and extras.dealt and extras.lanes.is_keyed:
            self._store_singly(now)
        elif had_incoming:
            self._store()
        if not (is_done and self._serve(now)) and not extras.is_reading:
            self.touch()
        if had_incoming and extras.lanes.count and self._ring.consumers:
            self.vhost.broker.batch.is_crowded = True
        extras.set_timer()

    def _serve(self, now: int) -> bool:
        """Hand out what somebody has room for, then drop what is too much or was only for now.

        Returns:
          Whether that was all that is due.
        """
        extras = self.extras
        is_dealt, is_brief = extras.is_held or self._deal_lanes(), extras.next_due <= now
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
            limit -= self._deal_lane(level, limit, lane, end)
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

    def _deal_lane(
        self, level: OrderedDict[Consumer, None], limit: int, lane: Runs, end: int
    ) -> int:
        lanes = self.extras.lanes
        most = min(lane.count, lanes.most(lane))
        consumers, share, cost = self._ring.next(level, limit, most)
        if consumers:
            positions, messages = self._take_lane(lane, len(consumers) * share, end)
            cost += len(messages)
            self._hand_out(level, consumers, positions, messages)
        return cost

    def _take_lane(
        self, lane: Runs, limit: int, end: int = UNLIMITED
    ) -> tuple[Sequence[int], list[Message]]:
        """Take messages from the front of a lane, which is loaded."""
        lanes = self.extras.lanes
        wanted = min(limit, lane.count, lanes.most(lane), DEAL_LIMIT)
        if end != UNLIMITED:
            wanted = min(wanted, lane.until(end - 1))
        positions, messages = lane.take(wanted, DEAL_BYTES)
        self.extras.body_octets -= _bodies(messages)
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
        if not returns and positions[0] > before:
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

    def _store(self) -> None:
        extras, base = self.extras, self.next_position
        messages, self.incoming = self.incoming, []
        if self.log is not None:
            self.log.enqueued(base, messages)
        self.next_position = base + len(messages)
        for placed in extras.placed:
            placed(base, messages)
        if extras.placing:
            self._store_some(base, messages)
        else:
            extras.body_octets += _bodies(messages)
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
        entries = list(enumerate(messages, base))
        late = [entry for entry in entries if entry[0] in waits]
        ready = [entry for entry in entries if entry[0] not in waits]
        self._put_aside(late, [waits[position] for position, _ in late], is_new=True)
        if ready:
            messages = [message for _, message in ready]
            extras.body_octets += _bodies(messages)
            extras.lanes.append_at([position for position, _ in ready], messages)

    # What plugins tell

    def expire_at(
        self, when: int, first: int, count: int = 1, *, is_absolute: bool = False
    ) -> None:
        """Have messages dropped at a moment (`broker.now`) if they are still in the queue then.

        Of several moments of a message the earliest counts.

        Args:
          is_absolute: Whether it is a moment of the wall clock: then it goes along when that
            jumps, and stays when a message is to wait longer or shorter.
        """
        extras = self.extras
        deadlines, positions = extras.deadlines, range(first, first + count)
        is_first = first >= deadlines.end
        if extras.tally is None:
            extras.tally = Tally(max(self.next_position, first + count))
        extras.expiries.add(when, first, count)
        deadlines.lower(first, count, when)
        if is_absolute or extras.ends:
            self._note_ends(when, positions, is_absolute=is_absolute)
        if self.log is not None:
            offset = self.vhost.broker.wall_offset
            whens = [when] * count if is_first else map(deadlines.get, positions)
            walls = [each + offset for each in whens]
            if ends := extras.ends:
                pairs = zip(positions, walls, strict=True)
                walls = [wall | ABSOLUTE if at in ends else wall for at, wall in pairs]
            self.log.note(Fact.DEADLINE, positions, walls)

    def _note_ends(self, when: int, positions: Sequence[int], *, is_absolute: bool) -> None:
        """Take note whose earliest moment is now one of the wall clock, or is not any more."""
        extras, wall = self.extras, when + self.vhost.broker.wall_offset
        for position in positions:
            if extras.deadlines.get(position) != when:
                continue
            if is_absolute:
                extras.ends.set(position, wall)
            elif extras.ends.get(position) != wall:
                extras.ends.pop(position)

    def drop_entries(self, entries: Sequence[Entry], reason: Reason) -> None:
        """Drop messages that are in no lane any more: dead-letter them, if that is asked for."""
        results = [dropped(entries, reason) for dropped in self.extras.dropped]
        if FAILED not in results:  # else they are gone from here, but come back with a restart
            self.take_out(entries)

    def take_out(self, entries: Sequence[AnyEntry]) -> None:
        """Let go of messages that are in no lane any more, as if they had been acknowledged."""
        positions = [position for position, _ in entries]
        if self.log is not None:
            self.log.settled(positions)
        self.extras.forget(positions)

    def drop_range(self, first: int, last: int, reason: Reason) -> int:
        """Drop the ready and waiting messages of a range of positions; return how many."""
        found = self._remove(first, last)
        self._drop_found(found, reason)
        return len(found)

    def drop_front(self, count: int, reason: Reason) -> None:
        """Drop ready messages from where they would be served next."""
        lanes = self.extras.lanes
        while count > 0:
            lane = lanes.first_to_drop()
            if lane is None:
                return
            found = self._take_front(lane, count)
            self.extras.body_octets -= sum([message.size for _, message in found])
            lanes.left(lane, len(found))
            count -= len(found)
            self._drop_found(found, reason)

    def _take_front(self, lane: Runs, count: int) -> list[AnyEntry]:
        """Take out at most so many messages from the front of a lane, loaded or not."""
        if not lane.is_front_paged:
            return list(zip(*lane.take(count), strict=True))
        chunk = next(iter(lane.items()))
        assert isinstance(chunk, Paged)
        positions = chunk.numbers(self.living)
        last = positions[min(count, len(positions)) - 1]
        return lane.remove(lane.first, last, self.sizes, self.living)

    def _remove(self, first: int, last: int) -> list[AnyEntry]:
        extras = self.extras
        found = extras.lanes.remove(first, last)
        extras.body_octets -= sum([message.size for _, message in found])
        if extras.waiting.count:
            late = extras.waiting.remove(first, last, self.sizes, self.living)
            extras.due.forget([position for position, _ in late])
            extras.absolute.forget([position for position, _ in late])
            found += late
        return found

    def _drop_found(self, found: list[AnyEntry], reason: Reason) -> None:
        if not found:
            return
        if not self.extras.dropped:
            self.take_out(found)
            return
        paging.with_bodies(self, found, partial(self._drop_fetched, reason))

    def _drop_fetched(self, reason: Reason, entries: list[Entry]) -> None:
        self.drop_entries(entries, reason)

    # What is due

    def _run_due(self, now: int) -> bool:
        """Make ready what has waited, drop what has expired; return whether that was all."""
        extras = self.extras
        extras.let_pass(now)
        self._end_waits(now)
        if extras.is_reading:
            return False
        for first, count in extras.expiries.due(now, DUE_LIMIT):
            if extras.are_deadlines_moved:
                self._expire(first, count, now)
            else:
                self.drop_range(first, first + count - 1, Reason.EXPIRED)
        return extras.next_due > now

    def _expire(self, first: int, count: int, now: int) -> None:
        """Drop those of a range whose deadline was not put off."""
        for position in range(first, first + count):
            if self.extras.deadlines.get(position) <= now:
                self.drop_range(position, position, Reason.EXPIRED)

    def make_ready(self, entries: Sequence[Entry]) -> None:
        """Have messages whose wait is over go where hooks, or else their lanes, want them."""
        extras = self.extras
        some: Sequence[Entry] = entries
        for due in extras.due_hooks:
            some = due(some)
        if extras.adopting:
            self._adopt(some)
        now, deadlines = self.vhost.broker.now, extras.deadlines
        expired = [entry for entry in some if 0 < deadlines.get(entry[0]) <= now]
        if expired:
            gone = {position for position, _ in expired}
            some = [entry for entry in some if entry[0] not in gone]
            self.drop_entries(expired, Reason.EXPIRED)
        if some:
            self._insert(sorted(some, key=_position))
            self.touch()

    def _adopt(self, entries: Sequence[Entry]) -> None:
        """Have hooks that were not here when messages came take them over."""
        for hook, end in self.extras.adopting.items():
            for position, _ in entries:
                if position < end:
                    hook.adopt(position, 1)

    def _insert(self, entries: Sequence[Entry]) -> None:
        """Put messages into their lanes, ascending by position."""
        self.extras.body_octets += sum([message.size for _, message in entries])
        self.extras.lanes.insert(entries)

    # What is not in memory

    def waits_for(self, paged: Paged) -> bool:
        """Whether messages that were asked for are still needed."""
        lane = self.extras.asked.get(paged)
        return super().waits_for(paged) if lane is None else not self.deleted and lane.has(paged)

    def loaded(
        self, paged: Paged, messages: list[Message], positions: list[int] | None = None
    ) -> None:
        """Take in messages that were asked for, and their positions if there are gaps."""
        lane, bodies = self.extras.asked.pop(paged, None), paged.bodies
        if lane is None:
            is_leaving = paged in self.extras.fetching
            super().loaded(paged, messages, positions)
            if is_leaving and paged.slot is not None:
                self._load_rest(paged, messages)
        elif lane.load(paged, messages, positions):
            if paged.slot is not None:  # what is left of it was an estimate
                self.extras.body_octets += _bodies(paged.chosen(messages, positions)) - bodies
            self.grown(lane)
            self.touch()

    def _load_rest(self, paged: Paged, messages: list[Message]) -> None:
        """Take in all else that a piece of a scratch file has, now that it was read for a part."""
        for runs in self.large_runs():
            for rest in runs.of_slot(paged) if runs.paged_count else ():
                bodies = _bodies(rest.chosen(messages, None)) - rest.bodies
                if runs.load(rest, messages):
                    self.grown(runs)
                    self.extras.body_octets += 0 if runs is self.extras.waiting else bodies

    def count_octets(self) -> None:
        """Find how many octets the bodies of ready messages have: somebody wants to know it now."""
        chunks = chain.from_iterable(lane.items() for lane in self.extras.lanes.all())
        self.extras.body_octets = sum(map(self._bodies_of, chunks))

    def _bodies_of(self, chunk: Chunk | Paged) -> int:
        if isinstance(chunk, Chunk):
            return _bodies(chunk.messages)
        if chunk.slot is not None:
            return chunk.bodies
        return sum(self.sizes(position)[1] for position in chunk.numbers(self.living))

    # Settling

    def requeue(self, entries: Sequence[AnyEntry], *, are_awaited: bool = False) -> None:
        """Put unsettled messages back at their original positions, or where hooks want them."""
        size, extras = octets(message for _, message in entries), self.extras
        if are_awaited:
            self._awaited -= len(entries)
            self.unacked_bytes -= size
        else:
            self.settle(len(entries), size)
        absent = [entry for entry in entries if entry[1].__class__ is Absent]
        if absent:
            self.absent_bytes -= octets(message for _, message in absent)
        if self.deleted:
            return
        positions = [position for position, _ in entries]
        if self.log is not None:
            self.log.returned(positions)
        returns = extras.returns
        for position in positions:
            returns.set(position, returns.get(position) + 1)
        extras.lanes.settled(positions)
        paging.with_bodies(self, sorted(map(_unaltered, entries), key=_position), self._take_back)

    def reject(self, entries: Sequence[Entry]) -> bool:
        """Tell hooks of messages that are rejected; return False if one has failed."""
        return super().reject([(position, _original(message)) for position, message in entries])

    def _take_back(self, entries: list[Entry]) -> None:
        some: Sequence[Entry] = entries
        for returned in self.extras.returned:
            if some:
                some = returned(some)
        if some:
            self._make_ready_again(list(some))
        self.touch()

    def _make_ready_again(self, entries: list[Entry]) -> None:
        now, extras = self.vhost.broker.now, self.extras
        deadlines = extras.deadlines
        if extras.adopting:
            self._adopt(entries)
        ready: list[Entry] = []
        expired: list[Entry] = []
        for entry in entries:
            when = deadlines.get(entry[0])
            (expired if 0 < when <= now else ready).append(entry)
        if ready:
            self._insert(ready)
        if expired:
            self.drop_entries(expired, Reason.EXPIRED)

    def take_over_returned(self) -> None:
        """Put what came back while the queue was plain where it is served now, unless it is much.

        Very much of it, or what only the log has, follows in steps; before the last one nothing
        is dealt.
        """
        returned = self.returned
        if returned.absent_bytes or returned.count > TAKEN_OVER:
            return
        while returned.count:
            positions, messages = returned.take(CHUNK_LENGTH)
            self._note_returns(positions)
            entries = list(zip(positions, messages, strict=True))
            self.runs.insert_many(entries, self.sizes, self.living)

    def _note_returns(self, positions: Sequence[int]) -> None:
        log, returns = self.log, self.extras.returns
        for position in positions:
            returns.set(position, 1 if log is None else max(log.count(position), 1))

    def _take_over_some(self) -> bool:
        """Put some of what came back while the queue was plain where it is served now.

        Returns:
          Whether that was the last of it.
        """
        if not self.extras.is_reading:
            entries = self.returned.take_out(CHUNK_LENGTH)
            self._note_returns([position for position, _ in entries])
            paging.with_bodies(self, entries, self._make_ready_again)
        return not self.returned.count

    # After a restart

    def restore(self, next_position: int, runs: Iterable[Paged]) -> None:
        """Take over what the log has, after a restart, and what it knows of each message."""
        extras, log = self.extras, self.log
        assert log is not None
        self.next_position = next_position
        offset = self.vhost.broker.wall_offset
        self.restore_waits(log)
        extras.adopt_from(next_position, extras.hooks.values())
        if extras.lanes.is_keyed:
            self._restore_apart(log, runs)
        else:
            self._restore_runs(log, runs)
        extras.tally = Tally(next_position, extras.lanes.count + extras.waiting.count)
        for position, fact in log.facts(Fact.DEADLINE):
            wall = fact & ~ABSOLUTE
            if wall != fact:
                extras.ends.set(position, wall)
            when = max(wall - offset, 1)  # it may be long past
            extras.deadlines.append(position, 1, when)
            extras.expiries.add(when, position)
        for position, count in log.counted():
            extras.returns.set(position, count)
        if any(hook.counts_octets for hook in extras.hooks.values()):
            self.count_octets()
        self.touch()

    def _restore_runs(self, log: Log, runs: Iterable[Paged]) -> None:
        """Put messages aside that wait, and the others into their lane; most are of one kind."""
        extras, due = self.extras, self.extras.due
        mixed: list[Paged] = []
        for paged in runs:
            waiting = due.having(log.positions(paged.base, paged.end)) if due else 0
            if mixed or 0 < waiting < paged.count:
                mixed.append(paged)
            elif waiting:
                extras.waiting.append_paged(paged)
            else:
                extras.lanes.restore(0, paged)
        if mixed:
            self._restore_apart(log, mixed)

    def _restore_apart(self, log: Log, runs: Iterable[Paged]) -> None:
        extras = self.extras
        waits = extras.due.get
        late: list[int] = []
        by_key: dict[int, list[int]] = {}
        keys = dict(log.facts(Fact.LANE)) if extras.lanes.is_keyed else {}
        for paged in runs:
            for position in log.positions(paged.base, paged.end):
                if waits(position):
                    late.append(position)
                else:
                    by_key.setdefault(keys.get(position, 0), []).append(position)
        for key, positions in by_key.items():
            for paged in _in_pieces(positions, log):
                extras.lanes.restore(key, paged)
        for paged in _in_pieces(late, log):
            extras.waiting.append_paged(paged)

    # The end

    def _drop_ready(self) -> None:
        log, extras, batch = self.log, self.extras, self.vhost.broker.batch
        self.incoming.clear()
        if extras.returns:
            returned = [position for position, _ in extras.returns]
            extras.returns.forget(filter(self._is_ready_at, returned))
        is_kept = not self.deleted and (extras.waiting.count or extras.leaving or extras.ending)
        if log is not None and (self.unacked_count or is_kept):
            for lane in extras.lanes.all():
                log.dropped(lane.ranges())
            batch.unfinished.append(self.returned.clear(log))
        else:
            if log is not None:
                log.dropped([(0, self.next_position - 1)])
            batch.debris.append(self.returned.clear())
        batch.debris += extras.lanes.clear()
        extras.body_octets = 0
        if not is_kept:
            batch.debris.append(extras.waiting.clear())
            extras.clear()

    def _is_ready_at(self, position: int) -> bool:
        lanes = self.extras.lanes.holding(position, position)
        return any(lane.has_position(position, self.living) for lane in lanes)

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


def _in_pieces(positions: Sequence[int], log: Log) -> Iterator[Paged]:
    """Return messages that only a log has in pieces that are read at once."""
    start = size = 0
    for index, position in enumerate(positions):
        one = sum(log.sizes(position))
        if index - start == CHUNK_LENGTH or (size and size + one > PIECE_OCTETS):
            yield _piece(positions[start:index], size)
            start, size = index, 0
        size += one
    if positions:
        yield _piece(positions[start:], size)


def _piece(positions: Sequence[int], size: int) -> Paged:
    count = len(positions)
    return Paged(positions[0], positions[-1] + 1, count, size, positions=array("Q", positions))


def _bodies(messages: Sequence[Message]) -> int:
    return sum([message.size for message in messages])


def _original(message: Message) -> Message:
    return message.original if isinstance(message, Altered) else message


def _unaltered(entry: AnyEntry) -> AnyEntry:
    message = entry[1]
    return (entry[0], message.original) if isinstance(message, Altered) else entry


def _position(entry: AnyEntry) -> int:
    return entry[0]

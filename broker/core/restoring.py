"""Restoring: what of a hooked queue only its log or a scratch file has, and how it comes back.

Law: after a restart what waits is put aside, and all else goes into the lanes of the order in force
now, without reading a body; what the log knows of each message is known again. Where a piece in a
file is read for a part of it, whatever else is in it comes along.

Called by: core.hooked (is its base); as core.queue (restore, waits_for, loaded); core.fitting
(count_octets).
"""

from __future__ import annotations

from array import array
from itertools import chain, compress
from typing import TYPE_CHECKING

from leveret.broker.core.chunks import Chunk, Paged
from leveret.broker.core.log import ABSOLUTE, Fact
from leveret.broker.core.message import bodies_size
from leveret.broker.core.returning import Returning
from leveret.broker.core.runs import CHUNK_LENGTH, PIECE_OCTETS
from leveret.broker.core.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.extras import Extras
    from leveret.broker.core.log import Log
    from leveret.broker.core.message import Message


class Restoring(Returning):
    """A queue some of whose messages are not in memory."""

    __slots__ = ()

    extras: Extras

    # After a restart

    def restore(self, next_position: int, runs: Iterable[Paged]) -> None:
        """Take over what the log has, after a restart, and what it knows of each message."""
        extras, log = self.extras, self.log
        assert log is not None
        self.next_position = next_position
        offset = self.vhost.broker.wall_offset
        self._restore_waits(log)
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

    def _restore_waits(self, log: Log) -> None:
        """Take over until when messages wait and what their names are, before they are here.

        Where a hook wants those that are due, of all.
        """
        extras, broker = self.extras, self.vhost.broker
        offset = broker.wall_offset
        from_wall = 1 if extras.due_hooks else broker.wall + 1
        for positions, (facts, names) in log.columns((Fact.DUE, Fact.ID)):
            walls: Sequence[int] = facts
            if max(facts, default=0) >= ABSOLUTE:
                walls = [fact & ~ABSOLUTE for fact in facts]
                for at, wall, fact in zip(positions, walls, facts, strict=True):
                    if fact != wall and wall >= from_wall:
                        extras.absolute.set(at, wall)
            if min(walls, default=0) < from_wall:
                which = [wall >= from_wall for wall in walls]
                positions = list(compress(positions, which))
                walls = list(compress(walls, which))
                names = list(compress(names, which))
            whens = [wall - offset or -1 for wall in walls]
            extras.due.fill(positions, whens)
            extras.dues.extend(whens, positions)
            if any(names):
                extras.identities.add(positions, names)

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
                self.extras.body_octets += bodies_size(paged.chosen(messages, positions)) - bodies
            self.grown(lane)
            self.touch()

    def _load_rest(self, paged: Paged, messages: list[Message]) -> None:
        """Take in all else that a piece of a scratch file has, now that it was read for a part."""
        for runs in self.large_runs():
            for rest in runs.of_slot(paged) if runs.paged_count else ():
                bodies = bodies_size(rest.chosen(messages, None)) - rest.bodies
                if runs.load(rest, messages):
                    self.grown(runs)
                    self.extras.body_octets += 0 if runs is self.extras.waiting else bodies

    def count_octets(self) -> None:
        """Find how many octets the bodies of ready messages have: somebody wants to know it now."""
        chunks = chain.from_iterable(lane.items() for lane in self.extras.lanes.all())
        self.extras.body_octets = sum(map(self._bodies_of, chunks))

    def _bodies_of(self, chunk: Chunk | Paged) -> int:
        if isinstance(chunk, Chunk):
            return bodies_size(chunk.messages)
        if chunk.slot is not None:
            return chunk.bodies
        return sum(self.sizes(position)[1] for position in chunk.numbers(self.living))


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

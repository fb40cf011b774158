"""Returning: messages that were away from the lanes of a hooked queue, and get there again.

Law: a message that comes back, or whose wait is over, keeps its position; hooks may want it
elsewhere, and one that expired meanwhile is dropped instead. What came back while the queue was
plain is taken over before anything is dealt. A body that only the log has is read before a hook
gets the message.

Called by: core.restoring (is its base), core.waiting (make_ready), core.hooked, core.fitting; as
core.queue (requeue, reject).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core import paging
from leveret.broker.core.expiring import Expiring
from leveret.broker.core.hooks import Reason
from leveret.broker.core.message import Absent, Altered, octets
from leveret.broker.core.queue import seal_caused
from leveret.broker.core.runs import CHUNK_LENGTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.core.extras import Extras
    from leveret.broker.core.hooks import Entry
    from leveret.broker.core.message import Message
    from leveret.broker.core.returned import Entry as AnyEntry

# Messages that came back which move to another place at a stroke.
TAKEN_OVER = 4096


class Returning(Expiring):
    """A queue whose messages come back."""

    __slots__ = ()

    extras: Extras

    # What has waited

    def make_ready(self, entries: Sequence[Entry]) -> None:
        """Have messages whose wait is over go where hooks, or else their lanes, want them."""
        extras = self.extras
        some: Sequence[Entry] = entries
        for due in extras.due_hooks:
            some = due(some)
        if extras.due_hooks and self._sealed:
            seal_caused(self.vhost.broker.batch, self.sealed_until)
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

    # What comes back

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

    # What came back before

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


def _original(message: Message) -> Message:
    return message.original if isinstance(message, Altered) else message


def _unaltered(entry: AnyEntry) -> AnyEntry:
    message = entry[1]
    return (entry[0], message.original) if isinstance(message, Altered) else entry


def _position(entry: AnyEntry) -> int:
    return entry[0]

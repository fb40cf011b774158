"""Stock: the messages of a queue, wherever they are, and what plugins hear of them.

Law: nothing here deals. Positions grow and are never reused. A message is in `incoming` (without a
position yet), in a row of `all_runs`, in `returned`, or unacknowledged; of the last only the number
and the octets are known here.

Called by: core.queue (it is its base), amqp.settling (settle), persistence (restore), core.inspect,
core.paging and server.spiller (what there is, and where), plugins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core.extras import FAILED
from leveret.broker.core.hooks import Reason
from leveret.broker.core.message import OVERHEAD
from leveret.broker.core.returned import Returned
from leveret.broker.core.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leveret.broker.core.chunks import Paged
    from leveret.broker.core.extras import Extras
    from leveret.broker.core.log import Log
    from leveret.broker.core.message import Message
    from leveret.broker.core.returned import Entry
    from leveret.broker.core.vhost import VirtualHost


class Stock:
    """The messages of one queue.

    Attributes:
      incoming: Messages published in this slice, not dealt yet.
      coming: How many more come of a transaction that is being carried out; they count as ready.
      runs: Ready messages, in order of position, without those that came back.
      returned: Those that came back.
      next_position: The position of the next message that gets one.
      unacked_count: Messages delivered and not settled.
      unacked_bytes: Their octets.
      absent_bytes: The octets of those of them that are only in the log.
      log: What keeps its messages over a restart, None if nothing does.
      delivered_before: Up to which position messages may have been delivered before a restart.
      extras: What plugins have to do with it, None if nothing.
      deleted: Whether the queue is gone.
    """

    __slots__ = (
        "_awaited",
        "absent_bytes",
        "coming",
        "deleted",
        "delivered_before",
        "extras",
        "incoming",
        "log",
        "next_position",
        "returned",
        "runs",
        "unacked_bytes",
        "unacked_count",
        "vhost",
    )

    def __init__(self, vhost: VirtualHost) -> None:
        self.vhost = vhost
        self.extras: Extras | None = None
        self.deleted = False
        self.incoming: list[Message] = []
        self.coming = 0
        self.log: Log | None = None
        self.delivered_before = -1
        self.next_position = 0
        self.unacked_count = 0
        self.unacked_bytes = 0
        self.absent_bytes = 0
        self.runs = Runs()
        self.returned = Returned()
        self._awaited = 0  # messages that come back in pieces; they count as ready

    # What there is

    @property
    def bytes(self) -> int:
        """Octets of header and body of its messages, ready and unacked."""
        return self.runs.bytes + self.returned.bytes + self.unacked_bytes

    @property
    def memory(self) -> int:
        """Octets its messages are accounted for, as far as they are in memory."""
        returned = self.returned
        count = returned.count + self._awaited + self.unacked_count
        octets_here = returned.bytes - returned.absent_bytes + self.unacked_memory
        return self.runs.memory + octets_here + count * OVERHEAD

    @property
    def unacked_memory(self) -> int:
        """Octets of its unacknowledged messages that are in memory."""
        return self.unacked_bytes - self.absent_bytes

    @property
    def waiting_count(self) -> int:
        """How many messages wait for a moment; none do without a plugin."""
        return 0

    def all_runs(self) -> Iterable[Runs]:
        """Return all rows of messages that are not unacknowledged and did not come back."""
        return (self.runs,)

    def large_runs(self) -> Iterable[Runs]:
        """Return those from which something may leave memory."""
        return (self.runs,)

    def grown(self, runs: Runs) -> None:
        """Take note that some of a row has left memory, or is there again."""

    def sizes(self, position: int) -> tuple[int, int]:
        """Return the octets of header and body of a message that only the log has."""
        return (0, 0) if self.log is None else self.log.sizes(position)

    def living(self, first: int, end: int) -> Sequence[int]:
        """Return the positions from one up to another that the log has."""
        return () if self.log is None else self.log.positions(first, end)

    # What comes and goes

    def restore(self, next_position: int, runs: Iterable[Paged]) -> None:
        """Take over what the log has, after a restart.

        Args:
          next_position: The position that the next message gets.
          runs: The messages, ascending.
        """
        self.next_position = next_position
        for paged in runs:
            self.runs.append_paged(paged)

    def waits_for(self, paged: Paged) -> bool:
        """Whether messages that were asked for are still needed."""
        if self.deleted:
            return False
        is_leaving = self.extras is not None and paged in self.extras.fetching
        return is_leaving or paged is self.returned.asked or self.runs.has(paged)

    def _store(self) -> None:
        messages = self.incoming
        if self.log is not None:
            self.log.enqueued(self.next_position, messages)
        self.runs.append(self.next_position, messages)
        self.next_position += len(messages)
        messages.clear()

    def settle(self, count: int, size: int) -> None:
        """Forget unacknowledged messages: how many, and their octets, headers and bodies.

        Where there are `absent_bytes`, those of them are the caller's to take off.
        """
        self.unacked_count -= count
        self.unacked_bytes -= size

    def await_returns(self, count: int) -> None:
        """Count messages as ready that will be requeued piece by piece; deal nothing until then."""
        self.unacked_count -= count
        self._awaited += count

    def _remove(self, first: int, last: int) -> list[Entry]:
        return self.runs.remove(first, last, self.sizes, self.living)

    def _drop_ready(self) -> None:
        batch, log = self.vhost.broker.batch, self.log
        is_leaving = self.extras is not None and self.extras.leaving > 0
        if log is not None and (self.unacked_count or is_leaving):
            log.dropped(self.runs.ranges())
            batch.unfinished.append(self.returned.clear(log))
        else:
            if log is not None:  # all there is; acks may have left very many gaps in it
                log.dropped([(0, self.next_position - 1)])
            batch.debris.append(self.returned.clear())
        batch.debris.append(self.runs.clear())
        self.incoming.clear()

    # What plugins hear

    def reject(self, entries: Sequence[tuple[int, Message]]) -> bool:
        """Tell hooks of messages that are rejected; return False if one has failed."""
        assert self.extras is not None
        return FAILED not in [dropped(entries, Reason.REJECTED) for dropped in self.extras.dropped]

    def forget(self, entries: Sequence[Entry]) -> None:
        """Forget what hooks know of messages that are gone."""
        if self.extras is not None:
            self.extras.forget([position for position, _ in entries])

    def used(self) -> None:
        """Take note that somebody declared the queue, or asked it for a message."""
        if self.extras is not None:
            for used in self.extras.used:
                used()

    def _tell_of_consumers(self) -> None:
        assert self.extras is not None
        for changed in self.extras.consumers_changed:
            changed()

"""Findings: what an inspection of a store has found.

Law: a finding is what is there and what is wrong with it; what is done about it is not decided
here.

Called by: storage.inspection, storage.row_inspection (find), storage.tools, storage.repair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core.batch import Batch
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.salvage import LOWEST

if TYPE_CHECKING:
    from leveret.broker.storage.queue_log import Range
    from leveret.broker.storage.recovery import Found


class Problem(NamedTuple):
    """Something that is damaged.

    Attributes:
      where: What it is ("row 7").
      reason: What is wrong with it.
      held: What it held, for people; empty if that says nothing.
      is_kept: Whether a repair keeps what is there.
    """

    where: str
    reason: str
    held: str = ""
    is_kept: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f"; {self.held}" if self.held else "")


@dataclass
class Inspection:
    """What was found in a store.

    Attributes:
      problems: What is damaged.
      notes: What is strange, and no damage.
      is_torn: Whether the database itself is damaged: it has to be made anew.
      is_log_damaged: Whether SQLite does not read its log to the end.
      taken: Frames of the log that SQLite takes; None if that is not known.
      definitions: How many there are.
      bad_definitions: Those that cannot be used, by their ids.
      rows: How many could be read.
      index_octets: Of those.
      bodies: Octets of the body of each.
      bad_rows: What is left of damaged rows: an index, None if nothing.
      changed: Rows whose bodies are not what was written; which message it is, is not known.
      cut: Rows whose bodies cannot be read as a whole.
      end: The number of an empty row that a repair has to add, or a start would take the last
        commit for one that lost its end; None if it need not.
      queues: Virtual host and name by number.
      journal: What is alive.
      found: The messages by queue.
      lost: Positions of messages that are lost, by queue.
      back: Positions of messages that were settled and are there again, by queue.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_torn: bool = False
    is_log_damaged: bool = False
    taken: int | None = None
    definitions: int = 0
    bad_definitions: set[int] = field(default_factory=set)
    rows: int = 0
    index_octets: int = 0
    bodies: dict[int, int] = field(default_factory=dict)
    bad_rows: dict[int, bytes | None] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    cut: set[int] = field(default_factory=set)
    end: int | None = None
    queues: dict[int, tuple[str, str]] = field(default_factory=dict)
    journal: Journal = field(default_factory=lambda: Journal(Batch()))
    found: dict[int, Found] = field(default_factory=dict)
    lost: dict[int, list[Range]] = field(default_factory=dict)
    back: dict[int, list[Range]] = field(default_factory=dict)

    def name(self, queue: int) -> str:
        """Return what a queue is called for people."""
        if queue not in self.queues:
            return f"a queue that is not defined (number {queue})"
        vhost, name = self.queues[queue]
        return f"queue {name!r} in vhost {vhost!r}"

    def of_queue(self, queue: int) -> tuple[int, int]:
        """Return messages of a queue, and the octets of their headers and bodies."""
        runs = self.found[queue].runs if queue in self.found else ()
        return sum(each.count for each in runs), sum(each.octets for each in runs)

    @property
    def body_octets(self) -> int:
        """The octets of all bodies."""
        return sum(self.bodies.values())

    @property
    def live_octets(self) -> int:
        """About how many of them still count."""
        return sum(
            self.bodies.get(seq, 0) * row.live // row.count
            for row in self.journal.rows.values()
            if row.count
            for seq in row.numbers
        )

    @property
    def messages(self) -> int:
        """How many messages there are in queues."""
        return sum(self.of_queue(queue)[0] for queue in self.queues)


def numbers(what: str, first: int, last: int | None) -> str:
    """Return for people which numbers are meant; None is the end."""
    low = "the first" if first == LOWEST else str(first)
    return f"{what} {low} to {'the last' if last is None else last}"

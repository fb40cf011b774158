"""Verification: whether every message arrived once, in order and unharmed.

Law: a message carries its producer and its place in that producer's sequence. A *group* of
consumers (those of one queue of a fan-out; otherwise all consumers) must see every message
exactly once. One consumer must see each producer's messages in rising order. Memory follows
what is missing, not what was received: an ordered stream costs two numbers.

Called by: consumer (streams), run (merging what several processes saw).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """What one group has seen of one producer: all below `next` but what is missing."""

    next: int = 0
    missing: set[int] = field(default_factory=set)
    duplicated: int = 0

    def add(self, start: int, end: int) -> None:
        """Note the messages from `start` to `end` (exclusive)."""
        if start < self.next:
            for sequence in range(start, min(end, self.next)):
                if sequence in self.missing:
                    self.missing.discard(sequence)
                else:
                    self.duplicated += 1
        elif start > self.next:
            self.missing.update(range(self.next, start))
        self.next = max(end, self.next)

    def lost(self, sent: int) -> int:
        """Return how many of `sent` messages never arrived."""
        return len(self.missing) + max(0, sent - self.next)


class Stream:
    """One producer's messages at one consumer, as the run of consecutive ones that is growing.

    The consumer advances `expected` itself while messages follow each other: that is all that
    verifying costs then.
    """

    __slots__ = ("expected", "highest", "ledger", "reordered", "start")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.start = 0
        self.expected = 0
        self.highest = 0  # no message below has a right to come any more
        self.reordered = 0

    def jump(self, sequence: int) -> None:
        """Take a message that does not follow the last one."""
        self.close()
        self.highest = max(self.highest, self.expected)
        duplicated = self.ledger.duplicated
        self.ledger.add(sequence, sequence + 1)
        if sequence < self.highest and duplicated == self.ledger.duplicated:
            self.reordered += 1
        self.start = self.expected = sequence + 1

    def close(self) -> None:
        """Hand the growing run to the ledger."""
        if self.start < self.expected:
            self.ledger.add(self.start, self.expected)
            self.start = self.expected


@dataclass(slots=True)
class Verdict:
    """The sum of a run. `checked` says how many bodies were compared octet by octet."""

    received: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    damaged: int = 0
    checked: int = 0

    @property
    def faultless(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.duplicated or self.reordered or self.damaged)


def merge(ledgers: Sequence[Ledger]) -> Ledger:
    """Return what processes that shared a group saw together.

    A message seen by two processes is a duplicate; one is missing when all of them miss it.
    """
    if len(ledgers) == 1:
        return ledgers[0]
    end = max((ledger.next for ledger in ledgers), default=0)
    seen = bytearray(end)
    duplicated = sum(ledger.duplicated for ledger in ledgers)
    for ledger in ledgers:
        mine = bytearray(b"\x01") * ledger.next
        for sequence in ledger.missing:
            mine[sequence] = 0
        for sequence in _positions(mine):
            duplicated += seen[sequence]
            seen[sequence] = 1
    missing = {sequence for sequence, known in enumerate(seen) if not known}
    return Ledger(next=end, missing=missing, duplicated=duplicated)


def _positions(mine: bytearray) -> Iterable[int]:
    return (sequence for sequence, known in enumerate(mine) if known)

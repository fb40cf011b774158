"""Commits of a journal in which random facts are noted of random messages, and what is known then.

Called by: test_facts, test_crash_points.
"""

from random import Random
from typing import TYPE_CHECKING

import pytest

from leveret.broker.core.batch import Batch
from leveret.broker.core.log import Fact
from leveret.broker.core.message import Message
from leveret.broker.storage import compaction, row_builder
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.recovery import Recovery
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

if TYPE_CHECKING:
    from leveret.broker.storage.base import Row

QUEUES = (1, 2, 3)
SIZES = (0, 40, 900, 20_000, 60_000)
# Facts by queue and fact, then by position.
Known = dict[tuple[int, Fact], dict[int, int]]


def message(body: bytes, mode: int = 2) -> Message:
    header = encode(Properties(delivery_mode=mode), len(body))
    content = make_content(BasicPublish("", "q"), header, body, Message)
    assert isinstance(content, Message)
    return content


class Noting:
    """A journal that is filled at random, its rows, and a model of what is known.

    Attributes:
      commits: The rows of each commit.
      known: What is known before the first commit and after each.
    """

    def __init__(self, seed: object) -> None:
        self.commits: list[list[Row]] = []
        self.known: list[Known] = []
        self._dice = Random(str(seed))
        self._journal = Journal(Batch())
        self._bodies: dict[int, bytes] = {}
        self._next = dict.fromkeys(QUEUES, 0)
        self._live: dict[int, set[int]] = {number: set() for number in QUEUES}
        self._facts: Known = {(number, fact): {} for number in QUEUES for fact in Fact}
        self._remember()

    def _remember(self) -> None:
        self.known.append(
            {
                (number, fact): {
                    at: values[at]
                    for at in sorted(self._live[number] & values.keys())
                    if values[at]
                }
                for (number, fact), values in self._facts.items()
            }
        )

    def commit(self) -> None:
        """Do something, then commit it; compact now and then."""
        dice = self._dice
        for _ in range(dice.randrange(1, 6)):
            dice.choice([self._enqueue, self._enqueue, self._note, self._note, self._settle])(
                dice.choice(QUEUES)
            )
        if dice.random() < 0.3:
            self._compact()
        rows = self._journal.close()
        self._journal.done(1 << 60)
        if rows:
            for row in rows:
                row.pieces = [row.body]
                self._bodies[row.seq] = row.body
            self.commits.append(rows)
            self._remember()

    def _enqueue(self, number: int) -> None:
        dice, base = self._dice, self._next[number]
        modes = dice.choices([2, 2, 2, 1], k=dice.choice([1, 3, 30]))
        sizes = SIZES if len(modes) < 5 else SIZES[:3]
        messages = [message(dice.randbytes(dice.choice(sizes)), mode) for mode in modes]
        self._journal.log(number).enqueued(base, messages)
        self._next[number] += len(modes)
        self._live[number] |= {at for at, mode in enumerate(modes, base) if mode == 2}
        if dice.random() < 0.5:
            self._give(number, range(base, self._next[number]))
        if dice.random() < 0.2:
            self._journal.log(number).pack(is_shared=False)

    def _note(self, number: int) -> None:
        """Note something of any messages, also of such as are settled, or were transient."""
        ever = range(self._next[number])
        self._give(number, self._dice.sample(ever, min(len(ever), self._dice.choice([1, 5, 60]))))

    def _give(self, number: int, positions: range | list[int]) -> None:
        dice = self._dice
        fact = dice.choice(list(Fact))
        values = [dice.choice([0, 1, dice.randrange(1 << 64)]) for _ in positions]
        self._journal.log(number).note(fact, positions, values)
        noted = zip(positions, values, strict=True)
        live = self._live[number]
        self._facts[number, fact] |= {at: value for at, value in noted if at in live}

    def _settle(self, number: int) -> None:
        live = sorted(self._live[number])
        settled = self._dice.sample(live, len(live) * self._dice.randrange(4) // 4)
        self._journal.log(number).settled(settled)
        self._live[number] -= set(settled)

    def _compact(self) -> None:
        read = []
        for piece in self._journal.to_move():
            seq, offset, length = piece.ref()
            read.append((piece, self._bodies[seq][offset : offset + length]))
        self._journal.move(read)


def noted(seed: object, count: int) -> Noting:
    """Return so many commits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "AGE", 2)
        patch.setattr(compaction, "LEAST_ROWS", 2)
        patch.setattr(row_builder, "ROW_SIZE", 50_000)  # some messages have rows of their own
        noting = Noting(seed)
        while len(noting.commits) < count:
            noting.commit()
    return noting


def recovered(rows: dict[int, bytes]) -> Journal:
    """Return the journal that a start makes of indexes by number."""
    journal = Journal(Batch())
    recovery = Recovery(journal)
    for seq, index in sorted(rows.items()):
        recovery.read(seq, index)
    recovery.finish(set(QUEUES))
    return journal


def known_in(rows: dict[int, bytes]) -> Known:
    """Return what a start knows, of indexes by number."""
    journal = recovered(rows)
    return {
        (number, fact): dict(journal.log(number).facts(fact)) for number in QUEUES for fact in Fact
    }

"""Tally: of which positions of a queue nothing is left.

Law: each message counts once, when it is settled; which ones those were is not kept. Positions are
counted in blocks, and what came before the counting began is one block of its own. Nothing is known
of a part of a block, so what is kept of a few messages in it is kept of all.

Called by: core.extras, to forget what is known of messages that are gone; core.expiring and
core.restoring (make it).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BITS = 10  # of a position, that tell it from the others in a block
LENGTH = 1 << BITS


class Tally:
    """How many messages are gone of each block.

    Args:
      first: From which position on it counts.
      before: How many messages before that are left; None if that is not known.
    """

    __slots__ = ("_before", "_first", "_gone")

    def __init__(self, first: int, before: int | None = None) -> None:
        self._first = first
        self._before = before
        self._gone: dict[int, int] = {}  # of each block that is neither whole nor all gone

    def settled(self, positions: Sequence[int]) -> Sequence[tuple[int, int]]:
        """Count messages, each for the first and only time.

        Returns:
          Blocks that are all gone with these: their first position, and that after their last.
        """
        base = self._first
        low = high = positions[0]
        if isinstance(positions, range):
            high = positions[-1]
        elif len(positions) > 1:
            low, high = min(positions), max(positions)
        if low >= base and (block := low - base >> BITS) == high - base >> BITS:
            return self._count(block, len(positions))
        ended: list[tuple[int, int]] = []
        for block, count in Counter([each - base >> BITS for each in positions]).items():
            if block >= 0:
                ended += self._count(block, count)
        if low < base and self._before is not None:
            self._before -= sum([each < base for each in positions])
            if self._before <= 0:
                self._before = None
                ended.append((0, base))
        return ended

    def _count(self, block: int, count: int) -> Sequence[tuple[int, int]]:
        count += self._gone.get(block, 0)
        if count < LENGTH:
            self._gone[block] = count
            return ()
        self._gone.pop(block, None)
        first = self._first + (block << BITS)
        return [(first, first + LENGTH)]

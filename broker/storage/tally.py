"""Tally: how many definitions there are, and a checksum of all of them.

Law: each definition has a checksum of its own, which is lost with it; this one is kept in the last
row of each commit. It is a sum, so that a change costs no more than what has changed.

Called by: storage.journal, persistence, storage.inspection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from leveret.broker.storage.records import Defined

if TYPE_CHECKING:
    from collections.abc import Iterable


class Tally:
    """What all definitions come to."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[bytes, int]] = {}
        self._count = 0
        self._sum = 0

    def take_in(self, definitions: Iterable[tuple[str, bytes, bytes | None]]) -> None:
        """Take in what is kept, or kept anew; let go of what has no value."""
        for kind, key, value in definitions:
            sums = self._sums.setdefault(kind, {})
            old = sums.pop(key, None)
            if old is not None:
                self._count -= 1
                self._sum -= old
            if value is not None:
                new = sums[key] = crc32(value, crc32(key, crc32(kind.encode())))
                self._count += 1
                self._sum += new

    @property
    def total(self) -> Defined:
        """What is to be found in the store after the next commit."""
        return Defined(self._count, self._sum)

"""Latency: how long messages were on their way, as a histogram of bounded size.

Law: a value is kept with at most 0.8 % of error, whatever its size, so that a run of any length
costs a few thousand counters. Percentiles are values that occurred (nearest rank), never
interpolations between two of them.

Called by: producer (confirms), consumer (deliveries), connections; merged and reported by run.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

MANTISSA_BITS = 7  # a bucket is at most 1/128 of its value wide


class Histogram:
    """Counts of nanoseconds in buckets that grow with the value."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, nanoseconds: int, count: int = 1) -> None:
        """Count one value `count` times; clocks that disagree give 0, not a negative value."""
        if nanoseconds <= 0:
            self.counts[0] += count
            return
        shift = max(0, nanoseconds.bit_length() - MANTISSA_BITS - 1)
        self.counts[nanoseconds >> shift << shift] += count

    def add_since(self, stamps: Iterable[int], now: int) -> None:
        """Count how long ago every stamp was; neighbours usually share one."""
        for stamp, count in Counter(stamps).items():
            self.add(now - stamp, count)

    def merge(self, counts: Mapping[int, int]) -> None:
        """Add the counts of another histogram."""
        self.counts.update(counts)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> int:
        """Return the smallest value that at least `percent` of all values do not exceed."""
        total = self.total
        if not total:
            return 0
        wanted = -(-total * percent // 100) or 1
        reached = 0
        for value in sorted(self.counts):
            reached += self.counts[value]
            if reached >= wanted:
                return value
        return max(self.counts)

    def summary(self) -> dict[str, float]:
        """Return p50, p95, p99 and the maximum in milliseconds; nothing without values."""
        if not self.counts:
            return {}
        return {
            "p50": self.percentile(50) / 1e6,
            "p95": self.percentile(95) / 1e6,
            "p99": self.percentile(99) / 1e6,
            "max": max(self.counts) / 1e6,
        }

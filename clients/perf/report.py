"""Reports: the figures of a run, as a table and as JSON.

Law: a report says who was the limit, because a rate means nothing without it, and what was
verified, because a rate of lost messages means nothing either.

Called by: run, connections and fill (they make them), main (shows them), the bench matrix (reads
the JSON).
"""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from leveret.clients.perf.options import Options
from leveret.clients.perf.verify import Verdict

DISTURBED = 0.3  # cores; the kernel's own work for others takes up to 0.2 of it
BUSY = 0.9  # of a core: who has less to spare is the limit


class Cost(NamedTuple):
    """What the broker spent."""

    cores: float
    cpu_us: float  # a message, or a connection
    peak_rss_mib: float

    @classmethod
    def of(cls, cpu: float, seconds: float, count: int, peak_rss: int) -> "Cost":
        """Return the cost of `count` messages that took `cpu` seconds of CPU time."""
        return cls(cpu / seconds, cpu / count * 1e6 if count else 0.0, peak_rss / 2**20)


@dataclass(slots=True)
class Report:
    """The figures of a load. Latencies are milliseconds; `cores` are CPU seconds a second."""

    options: Options
    seconds: float
    published_rate: float
    confirmed_rate: float
    delivered_rate: float
    latency: dict[str, float]
    confirm_latency: dict[str, float]
    broker: Cost | None
    generator_cores: float
    busiest_core: float
    others_cores: float
    verdict: Verdict
    refused: int = 0
    returned: int = 0
    wrong_confirms: int = 0

    @property
    def rate(self) -> float:
        """The figure a load stands for: what was consumed, else what was published."""
        return self.delivered_rate if self.options.consumers else self.published_rate

    @property
    def limit(self) -> str:
        """Who kept the rate from being higher."""
        if self.options.rate and self.published_rate >= 0.98 * (
            self.options.rate * self.options.producers
        ):
            return "the rate asked for"
        return limit_of(
            self.broker.cores if self.broker else 0.0, self.generator_cores, self.busiest_core
        )

    @property
    def faultless(self) -> bool:
        """Whether all that was published arrived once, in order, unharmed and confirmed."""
        wrong = self.refused or self.returned or self.wrong_confirms
        return self.verdict.faultless and not wrong

    def as_dict(self) -> dict[str, object]:
        """Return the report for JSON."""
        verdict = self.verdict
        return {
            "options": self.options.as_dict(),
            "seconds": self.seconds,
            "rate": self.rate,
            "published_per_s": self.published_rate,
            "confirmed_per_s": self.confirmed_rate,
            "delivered_per_s": self.delivered_rate,
            "latency_ms": self.latency,
            "confirm_latency_ms": self.confirm_latency,
            "broker": self.broker and self.broker._asdict(),
            "generator": {"cores": self.generator_cores, "busiest_core": self.busiest_core},
            "others_cores": self.others_cores,
            "limit": self.limit,
            "verification": {
                "bodies": self.options.verify,
                "received": verdict.received,
                "checked": verdict.checked,
                "lost": verdict.lost,
                "duplicated": verdict.duplicated,
                "reordered": verdict.reordered,
                "damaged": verdict.damaged,
                "refused": self.refused,
                "returned": self.returned,
                "wrong_confirms": self.wrong_confirms,
                "faultless": self.faultless,
            },
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return the table's rows."""
        options = self.options
        rows = [("published", f"{self.published_rate:,.0f}/s")]
        if options.confirm:
            rows.append(("confirmed", f"{self.confirmed_rate:,.0f}/s"))
        if options.consumers:
            megabytes = self.delivered_rate * options.sizes.mean / 1e6
            rows.append(("delivered", f"{self.delivered_rate:,.0f}/s, {megabytes:,.1f} MB/s"))
        rows += latency_lines("latency", self.latency)
        rows += latency_lines("confirm latency", self.confirm_latency)
        rows += broker_lines(self.broker, "message")
        rows.append(
            (
                "generator",
                f"{self.generator_cores:.2f} cores, busiest process {self.busiest_core:.0%}",
            )
        )
        if self.others_cores > DISTURBED:
            rows.append(("disturbed", f"other processes used {self.others_cores:.2f} cores"))
        rows.append(("limited by", self.limit))
        rows.append(("verified", self._verified()))
        return rows

    def _verified(self) -> str:
        verdict, options = self.verdict, self.options
        extras = {
            "lost": verdict.lost,
            "duplicated": verdict.duplicated,
            "reordered": verdict.reordered,
            "damaged": verdict.damaged,
            "refused": self.refused,
            "returned": self.returned,
            "confirmed wrongly": self.wrong_confirms,
        }
        found = ", ".join(f"{count:,} {name}" for name, count in extras.items() if count)
        if not options.consumers:
            return found or "confirms only: nothing was consumed"
        bodies = {
            "full": "every body",
            "sample": f"{verdict.checked:,} bodies",
            "off": "no body",
        }[options.verify]
        return f"{verdict.received:,} sequence numbers, {bodies}: {found or 'faultless'}"


@dataclass(slots=True)
class Measurement:
    """The figures of a measurement that is no load: connections or queued messages."""

    options: Options
    figures: dict[str, float]
    rows: list[tuple[str, str]]
    latency: dict[str, float] = field(default_factory=dict)
    broker: Cost | None = None
    limit: str = ""
    faultless: bool = True

    def as_dict(self) -> dict[str, object]:
        """Return the report for JSON."""
        return {
            "options": self.options.as_dict(),
            **self.figures,
            "latency_ms": self.latency,
            "broker": self.broker and self.broker._asdict(),
            "limit": self.limit,
            "verification": {"faultless": self.faultless},
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return the table's rows."""
        return self.rows


def limit_of(broker_cores: float, generator_cores: float, busiest: float) -> str:
    """Return who had no more CPU time to spend.

    A broker of several threads that leaves no core idle together with the generator is limited
    by the machine; one of one thread by itself.
    """
    if busiest >= BUSY:
        return "the generator"
    cores = os.cpu_count() or 1
    if broker_cores + generator_cores >= BUSY * cores:
        return "the machine" if broker_cores > 1.05 or generator_cores > 1.05 else "the broker"
    if broker_cores >= BUSY:
        return "the broker"
    return "waiting for each other"


def latency_lines(name: str, latency: dict[str, float]) -> list[tuple[str, str]]:
    """Return the row of a latency, if it was measured."""
    if not latency:
        return []
    return [(name, "  ".join(f"{key} {value:.3f} ms" for key, value in latency.items()))]


def broker_lines(cost: Cost | None, noun: str) -> list[tuple[str, str]]:
    """Return the rows of the broker's cost, if it was measured."""
    if cost is None:
        return []
    return [
        ("broker CPU", f"{cost.cpu_us:.2f} µs a {noun}, {cost.cores:.2f} cores"),
        ("broker memory", f"{cost.peak_rss_mib:,.1f} MiB at most"),
    ]


def table(rows: list[tuple[str, str]]) -> str:
    """Return rows as text."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {text}" for name, text in rows)

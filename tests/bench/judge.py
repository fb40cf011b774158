"""Whether Leveret reaches its bars: a workload and the brokers' figures in, verdicts out."""

from collections.abc import Iterator
from typing import NamedTuple

from .workloads import GARAGEMQ, LEVERET, RABBITMQ, Workload


class Bar(NamedTuple):
    """One bar: what was measured against what was asked for; `passed` is None if undecided."""

    name: str
    measured: str
    wanted: str
    passed: bool | None


def judge(workload: Workload, figures: dict) -> list[Bar]:
    """Return the verdicts that the figures allow."""
    ours, rabbitmq = figures.get(LEVERET), figures.get(RABBITMQ)
    garagemq = figures.get(GARAGEMQ)
    if ours is None:
        return []
    if "failed" in ours:
        return [Bar("run", ours["failed"], "no failure", False)]
    bars = list(_absolute(workload, ours))
    if rabbitmq and "failed" not in rabbitmq:
        bars += _beside_rabbitmq(workload, ours, rabbitmq)
    if garagemq and "failed" not in garagemq and workload.cpu:
        cpu, theirs = ours["broker"]["cpu_us"], garagemq["broker"]["cpu_us"]
        bars.append(Bar("CPU, GarageMQ", f"1/{theirs / cpu:.1f}", "below", cpu < theirs))
    return bars


def _absolute(workload: Workload, ours: dict) -> Iterator[Bar]:
    if workload.memory_kib:
        each = ours["rss_kib_each"]
        bar = f"{workload.memory_kib:g} KiB"
        yield Bar("memory each", f"{each:.2f} KiB", bar, each <= workload.memory_kib)
    for name, key, unit, most in (
        ("start", "start_ms", "ms", workload.start_ms),
        ("recovery", "recovery_s", "s", workload.recovery_s),
        ("memory", "peak_rss_mib", "MiB", workload.rss_mib),
        ("files afterwards", "file_mib", "MiB", workload.file_mib),
        ("written per octet", "written", "", workload.written),
    ):
        if most:
            yield _at_most(name, ours.get(key), most, unit)
    for quantile, most in workload.limits_ms:
        value = ours[f"{workload.latency}_ms"].get(quantile)
        yield _at_most(f"{quantile} by itself", value, most, "ms")
    if workload.stall_ms:
        yield _stall(workload.stall_ms, ours)
    if workload.drain_rate:
        rate = ours["drain_rate"]
        wanted = f"{workload.drain_rate:,.0f}/s"
        yield Bar("consumed", f"{rate:,.0f}/s", wanted, rate >= workload.drain_rate)
    if not ours.get("verification", {}).get("faultless", True):
        yield Bar("verification", "faulty", "faultless", False)


def _at_most(name: str, value: float | None, most: float, unit: str) -> Bar:
    """Judge a figure that must not be larger; one that could not be measured is undecided."""
    if value is None:
        return Bar(name, "not measured", f"{most:g} {unit}".strip(), None)
    shown = f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return Bar(name, f"{shown} {unit}".strip(), f"{most:g} {unit}".strip(), value <= most)


def _stall(most: float, ours: dict) -> Bar:
    """Judge how long small requests took; a machine that wakes nobody in time decides nothing."""
    value = ours.get("stall_ms", {}).get("p99.9")
    late = ours.get("probe_late_ms", {}).get("p99.9", 0.0)
    bar = _at_most("stall p99.9", value, most, "ms")
    return bar._replace(passed=None) if bar.passed is False and late > most / 2 else bar


def _beside_rabbitmq(workload: Workload, ours: dict, rabbitmq: dict) -> Iterator[Bar]:
    if workload.cpu:
        ratio = rabbitmq["broker"]["cpu_us"] / ours["broker"]["cpu_us"]
        yield Bar("CPU", f"1/{ratio:.1f}", f"1/{workload.cpu:g}", ratio >= workload.cpu)
    if workload.rate:
        ratio = ours["rate"] / rabbitmq["rate"]
        reached = ratio >= workload.rate
        # a rate that the generator could not drive higher says nothing against the broker
        undecided = not reached and ours["limit"] == "the generator"
        wanted = f"{workload.rate:g}x"
        yield Bar("rate", f"{ratio:.1f}x", wanted, None if undecided else reached)
    for quantile in workload.quantiles:
        mine = ours[f"{workload.latency}_ms"].get(quantile, 0.0)
        theirs = rabbitmq[f"{workload.latency}_ms"].get(quantile, 0.0)
        yield Bar(f"latency {quantile}", f"{mine:.2f} ms", f"{theirs:.2f} ms", mine <= theirs)

"""The matrix as a Markdown table."""

from collections.abc import Iterator

from leveret.clients.perf.report import DISTURBED

from .judge import Bar
from .workloads import GARAGEMQ, LEVERET, RABBITMQ, Workload

TITLES = {LEVERET: "Leveret", RABBITMQ: "RabbitMQ", GARAGEMQ: "GarageMQ"}
MARKS = {True: "pass", False: "**miss**", None: "undecided"}


def markdown(rows: list[dict], machine: dict) -> str:
    """Return the whole report."""
    shown = [name for name in TITLES if any(name in row["figures"] for row in rows)]
    heads = ["workload", *(TITLES[name] for name in shown), "Leveret against the bars", "limit"]
    lines = [
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, Python {machine['python']}; {machine['leveret']}, "
        f"RabbitMQ {machine['rabbitmq']}, GarageMQ {machine['garagemq']}; medians of "
        f"{machine['rounds']}, {machine['seconds']:g} s each; {machine['minutes']} minutes in all. "
        + ("Quick: 1,000 idle connections, 200,000 queued messages. " if machine["quick"] else "")
        + "CPU is user and system time of the broker's processes a message.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
    ]
    for row in rows:
        figures = row["figures"]
        cells = [row["workload"].name]
        cells += [_figures(row["workload"], figures.get(name)) for name in shown]
        cells.append("<br>".join(map(_bar, row["bars"])) or "-")
        cells.append(figures.get(LEVERET, {}).get("limit") or "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figures(workload: Workload, figures: dict | None) -> str:
    if figures is None:
        return "-"
    if "failed" in figures:
        return f"failed: {figures['failed']}"
    if workload.kind == "start":
        return f"{figures['start_ms']:,.0f} ms"
    if workload.kind in {"recover", "paged"}:
        return "<br>".join(_journal(figures))
    if "rss_kib_each" in figures:
        return f"{figures['rss_kib_each']:.2f} KiB each"
    return "<br>".join(_load(workload, figures))


def _load(workload: Workload, figures: dict) -> Iterator[str]:
    yield f"{_rate(figures['rate'])}, {figures['broker']['cpu_us']:.2f} µs"
    if workload.latency:
        latency = figures[f"{workload.latency}_ms"]
        yield f"p50 {latency.get('p50', 0):.2f} ms, p99 {latency.get('p99', 0):.2f} ms"
    if workload.latency == "confirm_latency" and "write_floor_ms" in figures:
        yield f"the disk alone: {figures['write_floor_ms']:.2f} ms"
    if "written" in figures:
        yield f"{figures['written']:.2f} written an octet"
    if figures.get("stall_ms"):
        yield (
            f"stalls p99.9 {figures['stall_ms']['p99.9']:.1f} ms "
            f"(probe late {figures['probe_late_ms']['p99.9']:.1f})"
        )
    if figures.get("others_cores", 0.0) > DISTURBED:
        yield f"disturbed: others used {figures['others_cores']:.1f} cores"
    if not figures["verification"]["faultless"]:
        yield "**faulty**"


def _journal(figures: dict) -> Iterator[str]:
    if "recovery_s" in figures:
        yield f"{figures['recovery_s']:.2f} s, from {figures['file_mib']:,.0f} MiB"
        yield f"filled at {_rate(figures['fill_rate'])}"
    else:
        yield f"filled at {_rate(figures['fill_rate'])}, emptied at {_rate(figures['drain_rate'])}"
        yield f"{figures['peak_rss_mib']:,.0f} MiB of memory at most"
        yield (
            f"files {figures['full_mib']:,.0f} MiB, {figures['file_mib']:,.0f} MiB "
            f"{figures['shrunk_s']:.0f} s after the end"
        )
        yield f"stalls p99.9 {figures['stall_ms']['p99.9']:.1f} ms"
    if not figures["verification"]["faultless"]:
        yield "**faulty**"


def _rate(rate: float) -> str:
    return f"{rate / 1000:,.1f} k/s" if rate >= 10_000 else f"{rate:,.0f}/s"


def _bar(bar: Bar) -> str:
    return f"{bar.name} {bar.measured} (bar {bar.wanted}): {MARKS[bar.passed]}"

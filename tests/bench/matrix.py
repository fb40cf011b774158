"""The bench matrix: Leveret beside RabbitMQ and GarageMQ (`make bench`).

    python -m tests.bench.matrix [--group NAME,...] [--only KEY,...] [--brokers NAME,...]
                                 [--rounds N] [--seconds N] [--quick] [--output FOLDER]

Law: one broker is under load at a time; in each workload they take turns, round by round, so that
a machine that slows down slows all of them. A figure is the median of the rounds. CPU time a
message is the bar; a rate counts where the generator was not the limit. Nothing is listened to
but loopback, and every broker is stopped by its pid at the end.

The groups: in memory; on disk, with all queues durable and all messages persistent; and on disk
for an hour (`long`), which has to be asked for.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

from leveret.clients.perf import process
from leveret.clients.perf.link import LinkLost
from leveret.clients.perf.options import parse_sizes
from leveret.clients.perf.report import DISTURBED
from leveret.protocol.errors import AMQPError

from . import journal
from .brokers import STATE, Broker, NoBroker, brokers, serve_command
from .judge import judge
from .probe import Probe
from .report import markdown
from .workloads import (
    DURABLE,
    GARAGEMQ,
    GROUPS,
    LEVERET,
    LONG,
    MEMORY,
    RABBITMQ,
    WORKLOADS,
    Workload,
)

NAMES = (LEVERET, RABBITMQ, GARAGEMQ)
PATIENCE = 600.0  # seconds for one measurement
STARTS = 5
QUICK = {"5000": "1000", "1000000": "200000", "600000": "50000"}  # connections, messages
QUICK_MESSAGES = 200_000  # at most, in a queue on disk
PROBED_SECONDS = 6.0  # for some thousand round trips, of which one in a thousand is looked at


def main(arguments: Sequence[str]) -> int:
    """Run the matrix and write matrix.md and matrix.json; 1 if a bar was missed."""
    options = _options(arguments)
    wanted = [each for each in WORKLOADS if _is_wanted(each, options)]
    started = time.monotonic()
    rows: list[dict] = []
    for durable in (False, True):
        part = [each for each in wanted if (each.group != MEMORY) is durable]
        if not part:
            continue
        names = [each for each in options.brokers if any(each not in row.without for row in part)]
        with _running(names, durable) as running:
            for workload in part:
                rows.append(_row(workload, running, options))
                _write(rows, options, started)
    print(markdown(rows, _machine(options, started)))
    return 1 if any(bar.passed is False for row in rows for bar in row["bars"]) else 0


def _is_wanted(workload: Workload, options: argparse.Namespace) -> bool:
    if options.only:
        return workload.key in options.only
    return workload.group in options.group


def _row(workload: Workload, running: list[Broker], options: argparse.Namespace) -> dict:
    """Measure a workload with all brokers, in turns."""
    results = {broker.name: [] for broker in running if broker.name not in workload.without}
    rounds = options.rounds if workload.kind in {"load", "connect"} else 1
    for number in range(rounds):
        for broker in running:
            if broker.name in results:
                result = _measure(workload, broker, options)
                if "failed" in result:  # it may be gone or stuck: once more, afresh
                    _tell(workload, broker, number, result)
                    broker.restart()
                    result = _measure(workload, broker, options)
                results[broker.name].append(result)
                _tell(workload, broker, number, result)
    figures = {name: _median(runs) for name, runs in results.items() if runs}
    if workload.stall_ms and workload.kind == "load":
        for broker in running:
            if "failed" not in figures.get(broker.name, {"failed": ""}):
                figures[broker.name] |= _measure_stalls(workload, broker, options)
                _tell(workload, broker, rounds, figures[broker.name])
    bars = judge(workload, figures)
    return {"workload": workload, "figures": figures, "runs": results, "bars": bars}


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.matrix", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    keys = [workload.key for workload in WORKLOADS]
    parser.add_argument(
        "--group",
        type=_names(GROUPS),
        default=[MEMORY, DURABLE],
        help=f"{', '.join(GROUPS)}; without it all but {LONG}",
    )
    parser.add_argument("--only", type=_names(keys), default=[], help=", ".join(keys))
    parser.add_argument("--brokers", type=_names(NAMES), default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured in each run")
    parser.add_argument("--quick", action="store_true", help="one short round, smaller counts")
    parser.add_argument("--output", type=Path, default=Path("bench-results"))
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, min(options.seconds, 1.5)
    return options


def _names(allowed: Sequence[str]):
    def split(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
        return names

    return split


@contextmanager
def _running(names: Sequence[str], durable: bool) -> Iterator[list[Broker]]:
    started = []
    try:
        for broker in brokers(names, durable=durable):
            try:
                broker.restart()
            except NoBroker as problem:
                print(f"left out: {problem}", file=sys.stderr)
                continue
            started.append(broker)
        if not started:
            raise SystemExit("no broker to measure")
        yield started
    finally:
        for broker in started:
            broker.stop()


def _measure(workload: Workload, broker: Broker, options: argparse.Namespace) -> dict:
    if workload.kind == "start":
        return _measure_start(broker)
    if workload.kind in {"recover", "paged"}:
        messages = min(workload.messages, QUICK_MESSAGES) if options.quick else workload.messages
        work = journal.recover if workload.kind == "recover" else journal.keep
        try:
            return work(workload, broker, messages)
        except (LinkLost, AMQPError, NoBroker, OSError) as problem:
            return {"failed": str(problem)}
    if workload.kind in {"idle", "fill"}:
        broker.restart()  # memory that an earlier load left would be used again, and not show
    before = _written(broker)
    result = _load(workload, broker, options, options.seconds)
    if workload.kind == "fill":
        broker.restart()  # give the memory back
    if workload.group != MEMORY and "failed" not in result:
        payload = _payload(result)
        if payload and before is not None:
            result["written"] = ((_written(broker) or 0) - before) / payload
        result["write_floor_ms"] = journal.write_floor_ms(STATE)
    return result


def _load(workload: Workload, broker: Broker, options: argparse.Namespace, seconds: float) -> dict:
    arguments = list(workload.arguments)
    if options.quick:
        arguments = [QUICK.get(each, each) for each in arguments]
    warmup = min(2.0, seconds / 2)
    command = [
        *(sys.executable, "-m", "leveret.clients.perf", "--uri", broker.uri, *arguments),
        *("--time", str(seconds), "--warmup", str(warmup)),
        *("--broker-pid", str(broker.pid), "--json", "-"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode not in {0, 3}:
        return {"failed": done.stderr.strip() or f"status {done.returncode}"}
    return json.loads(done.stdout)


def _measure_stalls(workload: Workload, broker: Broker, options: argparse.Namespace) -> dict:
    """Put the load on once more, beside a connection that looks how long little things take.

    On its own, because what the probe asks for is CPU time, too.
    """
    try:
        probe = Probe(broker.uri)
    except (LinkLost, AMQPError) as problem:
        print(f"no probe: {problem}", file=sys.stderr)
        return {}
    probe.start()
    _load(workload, broker, options, options.seconds if options.quick else PROBED_SECONDS)
    return probe.finish()


def _written(broker: Broker) -> int | None:
    """Return the octets that the broker has had written to disk; None if we may not know."""
    total = 0
    for pid in process.tree(broker.pid):
        try:
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        except OSError:
            return None
        total += sum(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))
    return total


def _payload(result: dict) -> float:
    """Return the octets of the bodies that a load has published, from first to last."""
    options = result["options"]
    count = result["verification"]["received"] or options["count"] * options["producers"]
    return count * parse_sizes(options["sizes"]).mean


def _measure_start(broker: Broker) -> dict:
    """Leveret starts several times, the first of which only warms the file cache."""
    if broker.name != LEVERET:
        return {"start_ms": broker.start_ms[-1]}
    broker.start_ms.clear()
    for _ in range(STARTS + 1):
        broker.restart()
    return {"start_ms": median(broker.start_ms[1:])}


def _median(runs: list[dict]) -> dict:
    """Return the median of every figure; of texts the commonest, of truths whether all hold."""
    whole = [run for run in runs if "failed" not in run]
    if not whole:
        return runs[0]
    return _merge([{k: v for k, v in run.items() if k != "options"} for run in whole])


def _merge(values: list):
    first = values[0]
    if isinstance(first, dict):
        return {key: _merge([value[key] for value in values if key in value]) for key in first}
    if isinstance(first, bool):
        return all(values)
    if isinstance(first, int | float):
        return median(values)
    return max(values, key=values.count)


def _tell(workload: Workload, broker: Broker, number: int, result: dict) -> None:
    figures = [f"{workload.key} {number + 1} {broker.name}"]
    if "failed" in result:
        figures.append(result["failed"])
    if "rate" in result:
        figures.append(f"{result['rate']:,.0f}/s")
    if result.get("broker"):
        figures.append(f"{result['broker']['cpu_us']:.2f} µs")
    if result.get("others_cores", 0.0) > DISTURBED:
        figures.append(f"DISTURBED by {result['others_cores']:.2f} cores of other processes")
    if "rss_kib_each" in result:
        figures.append(f"{result['rss_kib_each']:.2f} KiB each")
    figures += _on_disk(result)
    if result.get("limit"):
        figures.append(f"limit: {result['limit']}")
    if not result.get("verification", {}).get("faultless", True):
        figures.append(f"FAULTY {result['verification']}")
    print("  ".join(figures), file=sys.stderr, flush=True)


def _on_disk(result: dict) -> Iterator[str]:
    if "recovery_s" in result:
        yield f"{result['recovery_s']:.2f} s, {result['file_mib']:,.0f} MiB"
    if "written" in result:
        yield f"{result['written']:.2f} written an octet"
    if "drain_rate" in result:
        yield (
            f"filled {result['fill_rate']:,.0f}/s, emptied {result['drain_rate']:,.0f}/s, "
            f"{result['peak_rss_mib']:,.0f} MiB, files {result['file_mib']:,.0f} MiB "
            f"after {result['shrunk_s']:.0f} s"
        )
    if result.get("stall_ms"):
        yield f"stalls p99.9 {result['stall_ms']['p99.9']:.1f} ms"


def _machine(options: argparse.Namespace, started: float) -> dict:
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "leveret": _version([*serve_command(), "--version"]),
        "rabbitmq": _version(["dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"]),
        "garagemq": _version(["dpkg-query", "-W", "-f", "${Version}", "garagemq"]),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "quick": options.quick,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


def _version(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "not installed"
    return done.stdout.strip() or "not installed"


def _write(rows: list[dict], options: argparse.Namespace, started: float) -> None:
    options.output.mkdir(exist_ok=True)
    machine = _machine(options, started)
    document = {
        "machine": machine,
        "rows": [
            {
                "workload": asdict(row["workload"]),
                "figures": row["figures"],
                "bars": [bar._asdict() for bar in row["bars"]],
                "runs": row["runs"],
            }
            for row in rows
        ],
    }
    (options.output / "matrix.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.output / "matrix.md").write_text(markdown(rows, machine) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

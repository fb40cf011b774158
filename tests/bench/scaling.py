"""Whether the cost of a message stays flat: `python -m tests.bench.scaling --help`.

Law: in each table one thing grows and the load stays as it is: connections (each with the same
window, so that chunks stay equal), queues nobody uses, bindings that match nothing, messages
already queued. The figure is the broker's CPU time a message, the best of the rounds.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

from .brokers import Broker, brokers
from .workloads import LEVERET, RABBITMQ

COMMON = "-s 256"
SERIES = {
    "connections": (
        (2, 20, 200, 1000),
        lambda count: (
            f"-x {count // 2} -y {count // 2} -q {count // 2} --confirm 100 --ack 50 --prefetch 100"
        ),
    ),
    "queues": (
        (1, 100, 1000, 10_000),
        lambda count: f"-q {count} --max-backlog 10000",
    ),
    "topic bindings that do not match": (
        (0, 100, 1000, 10_000),
        lambda count: (
            f"-t topic -q 10 -y 10 --bindings 10 --keys 1000 --spare-bindings {count} "
            "--max-backlog 10000"
        ),
    ),
    "headers bindings that do not match": (
        (0, 100, 1000, 10_000),
        lambda count: (
            f"-t headers -q 10 -y 10 --bindings 10 --spare-bindings {count} --max-backlog 10000"
        ),
    ),
    "messages in the queue": (
        (0, 10_000, 100_000, 1_000_000),
        lambda count: f"--ack 50 --prefetch 500 --backlog {count} --max-backlog {count + 10_000}",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Print a table a series."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--broker", choices=(LEVERET, RABBITMQ), default=LEVERET)
    parser.add_argument("--durable", action="store_true", help="persistent, in durable queues")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments)
    (broker,) = brokers([options.broker], durable=options.durable)
    broker.restart()
    try:
        for name, (counts, load) in SERIES.items():
            print(f"\n| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |")
            print("|" + " --- |" * (len(counts) + 1))
            cells = [f"{_cost(broker, load(count), options):.2f} µs" for count in counts]
            print("| CPU a message | " + " | ".join(cells) + " |", flush=True)
    finally:
        broker.stop()
    return 0


def _cost(broker: Broker, load: str, options: argparse.Namespace) -> float:
    command = [sys.executable, "-m", "leveret.clients.perf", "--uri", broker.uri, "--json", "-"]
    command += ["--broker-pid", str(broker.pid), *COMMON.split(), *load.split()]
    if options.durable:
        command += ["--persistent", "--durable"]
    command += ["--time", str(options.seconds), "--warmup", "1"]
    costs = []
    for _ in range(options.rounds):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise SystemExit(f"{load}: {done.stderr or done.stdout}")
        costs.append(json.loads(done.stdout)["broker"]["cpu_us"])
    return min(costs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

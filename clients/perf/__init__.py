"""`leveret perf`: a load generator for any AMQP 0-9-1 broker, in the spirit of PerfTest.

Law: it must outrun the broker it measures. Messages are encoded before the run and parsed as
little as verifying needs; loops are bare epoll over sockets (see `worker` for the reason). Every
run ends by itself, verifies what it received and says who was its limit.

Called by: the `leveret` command; the bench matrix, as a process.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from leveret.clients.perf.options import Options, parse_options
from leveret.clients.perf.report import Measurement, Report, table
from leveret.clients.perf.run import Run, RunFailed


def main(argv: Sequence[str]) -> int:
    """Run the generator; return 0, 1 if the broker failed it, 3 if verification found a fault."""
    options = parse_options(argv)
    progress = Progress(quiet=options.quiet)
    try:
        report = _execute(options, progress)
    except RunFailed as problem:
        progress.clear()
        sys.stderr.write(f"leveret perf: {problem}\n")
        return 1
    except KeyboardInterrupt:
        progress.clear()
        return 130
    progress.clear()
    document = json.dumps(report.as_dict(), indent=2)
    if options.json == "-":
        sys.stdout.write(document + "\n")
    else:
        sys.stdout.write(table(report.lines()) + "\n")
        if options.json:
            Path(options.json).write_text(document + "\n")
    return 0 if report.faultless else 3


class Progress:
    """A line on a terminal that tells how it goes; silent elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = sys.stderr.isatty() and not quiet

    def __call__(self, text: str) -> None:
        """Replace the line."""
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        self("")


def _execute(options: Options, progress: Progress) -> Report | Measurement:
    if options.connect_rate or options.idle:
        from leveret.clients.perf import connections  # loaded when used

        measure = connections.connect_rate if options.connect_rate else connections.idle
        return measure(options, progress)
    if options.fill:
        from leveret.clients.perf.fill import fill  # loaded when used

        return fill(options, progress)
    return Run(options, progress).execute()

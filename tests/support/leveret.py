"""A Leveret process of its own for a test: `leveret serve`, stopped by SIGTERM."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"leveret ready amqp=(\S+) management=(\S+)")
READY_SECONDS = 20
STOP_SECONDS = 15


class Server(NamedTuple):
    """A running Leveret."""

    host: str
    port: int
    pid: int
    log: Path  # what it wrote to stderr

    def resident(self) -> int:
        """Return the resident memory in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def leveret(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run `leveret serve --in-memory` on a free port; it must end with status 0."""
    command = [sys.executable, "-m", "leveret.broker", "serve", "--in-memory"]
    with tempfile.TemporaryDirectory(prefix="leveret-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "--listen", "127.0.0.1:0", *arguments],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        with process:
            try:
                host, port = _wait_until_ready(process, log)
                yield Server(host, port, process.pid, log)
            finally:
                status = _stop(process)
        assert status == 0, f"leveret ended with status {status}:\n{log.read_text()[-4000:]}"


def _wait_until_ready(process: subprocess.Popen[str], log: Path) -> tuple[str, int]:
    assert process.stdout is not None
    watchdog = threading.Timer(READY_SECONDS, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    ready = READY.fullmatch(line.strip())
    if ready is None:
        raise RuntimeError(f"leveret said {line!r} instead of being ready:\n{log.read_text()}")
    host, _, port = ready[1].split(",")[0].rpartition(":")
    return host, int(port)


def _stop(process: subprocess.Popen[str]) -> int:
    process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()

"""`leveret serve` with any arguments, for tests of how it starts and stops."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .leveret import READY, READY_SECONDS, ROOT


class Launched:
    """A process that is starting, running or over.

    Attributes:
      log: What it wrote to stderr.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def ready(self) -> tuple[str, int]:
        """Wait for its ready line; return the first address in it, the host of a path empty."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(READY_SECONDS, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        ready = READY.fullmatch(line.strip())
        assert ready is not None, f"said {line!r} instead of being ready:\n{self.log.read_text()}"
        host, _, port = ready[1].split(",")[0].rpartition(":")
        return (host, int(port)) if port.isdigit() else ("", 0)

    def end(self, seconds: float = 20) -> tuple[int, str, str]:
        """Wait for its end; return the status, the rest of stdout, and stderr."""
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output, self.log.read_text()


@contextmanager
def launch(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Launched]:
    """Run `leveret serve` in a folder, where its log goes too; killed if it is left running."""
    log = folder / "leveret.log"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "leveret.broker", "serve", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    with process:
        try:
            yield Launched(process, log)
        finally:
            if process.poll() is None:
                process.kill()

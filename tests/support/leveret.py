"""A Leveret process of its own for a test: `leveret serve`, stopped by SIGTERM or killed."""

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
ANYWHERE = ("--listen", "127.0.0.1:0")


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
    with tempfile.TemporaryDirectory(prefix="leveret-") as folder:
        log = Path(folder, "log")
        process = _serve(["--in-memory", *ANYWHERE, *arguments], log, environment)
        with process:
            try:
                host, port = _wait_until_ready(process, log)
                yield Server(host, port, process.pid, log)
            finally:
                status = _stop(process)
        assert status == 0, f"leveret ended with status {status}:\n{log.read_text()[-4000:]}"


class Durable:
    """A Leveret with a data directory: stopped or killed, and started again where it was.

    It does not look after its disk, and takes no reserve there, unless `environment` says so.

    Attributes:
      data: The data directory.
      log: What all its lives wrote to stderr.
      arguments: Of `leveret serve`, for the next start.
      port: Free at the first start, the same ever after.
      pid: Of the process, while there is one.
    """

    host = "127.0.0.1"

    def __init__(
        self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.data = folder / "data"
        self.log = folder / "leveret.log"
        self.arguments = arguments
        self.port = 0
        self._environment = {"LEVERET_DISK_FREE": "0", **(environment or {})}
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def begin(self) -> None:
        """Start it, and do not wait until it is ready."""
        assert self._process is None, "it runs already"
        place = ("--data-dir", str(self.data), "--listen", f"{self.host}:{self.port}")
        self._process = _serve([*place, *self.arguments], self.log, self._environment)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.begin()
        assert self._process is not None
        try:
            _, self.port = _wait_until_ready(self._process, self.log)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it by SIGTERM; it must end with status 0."""
        assert self._process is not None
        with self._process as process:
            status = _stop(process)
        self._process = None
        assert status == 0, f"leveret ended with status {status}:\n{self.log.read_text()[-4000:]}"

    def kill(self) -> None:
        """End it by SIGKILL, whatever it is at."""
        assert self._process is not None
        with self._process as process:
            process.kill()
        self._process = None

    def put_down(self) -> None:
        """Kill it, and leave it to others to take note."""
        if self._process is not None:
            self._process.kill()

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> "Durable":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()


def _serve(
    arguments: list[str], log: Path, environment: Mapping[str, str] | None
) -> subprocess.Popen[str]:
    with log.open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "leveret.broker", "serve", *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )


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

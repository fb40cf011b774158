"""The brokers of the matrix: each started on its own port and folder, stopped by its pid."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..workloads import GARAGEMQ, LEVERET, RABBITMQ

HERE = Path(__file__).parent
FIRST_PORT = 5790
START_PATIENCE = 90.0
STOP_PATIENCE = 15.0


def _place() -> Path:
    """Return a folder for temporary files on a disk: memory would make every journal quick."""
    for folder in (tempfile.gettempdir(), "/var/tmp"):
        kind = subprocess.run(
            ["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False
        )
        if kind.stdout.strip() not in {"tmpfs", "ramfs"}:
            return Path(folder)
    raise SystemExit("no temporary folder is on a disk: set TMPDIR")


STATE = _place() / f"leveret-bench-{os.getuid()}"


class NoBroker(Exception):
    """A broker that is not installed or does not start; the text says which and why."""


@dataclass
class Broker:
    """A broker under test.

    Attributes:
      durable: Whether Leveret keeps its messages on disk; RabbitMQ does what its queues ask for.
    """

    name: str
    port: int
    durable: bool = False
    pid: int = 0
    start_ms: list[float] = field(default_factory=list)
    _child: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """Where a durable Leveret keeps its messages."""
        return STATE / f"leveret-{self.port}"

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"amqp://127.0.0.1:{self.port}"

    def restart(self) -> None:
        """Start it, with nothing left of an earlier life."""
        self.stop()
        STATE.mkdir(exist_ok=True)
        if self.name == LEVERET:
            shutil.rmtree(self.data, ignore_errors=True)
        self.resume()

    def resume(self) -> None:
        """Start it, Leveret with what it has on disk."""
        started = time.monotonic()
        if self.name == LEVERET:
            self._child = _serve(self.port, self.data if self.durable else None)
            self.pid = self._child.pid
        else:
            self.pid = _run_script(self.name, self.port)
        self.start_ms.append((time.monotonic() - started) * 1000)

    def stop(self) -> None:
        """Stop it."""
        if not self.pid:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                break
            if self._wait_until_gone():
                break
        self.pid, self._child = 0, None

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait_until_gone()
        self.pid, self._child = 0, None

    def _wait_until_gone(self) -> bool:
        end = time.monotonic() + STOP_PATIENCE
        while time.monotonic() < end:
            if self._child is not None and self._child.poll() is not None:
                return True
            if not Path(f"/proc/{self.pid}").exists():
                return True
            time.sleep(0.05)
        return False


def brokers(names: Sequence[str], *, durable: bool = False) -> list[Broker]:
    """Return the brokers named, Leveret first."""
    known = [name for name in (LEVERET, RABBITMQ, GARAGEMQ) if name in names]
    ports = (port for port in range(FIRST_PORT, FIRST_PORT + 1000) if _is_free(port))
    return [Broker(name, port, durable) for name, port in zip(known, ports, strict=False)]


def _is_free(port: int) -> bool:
    """Whether a broker's ports are: the start scripts derive those of management and Erlang."""
    for each in (port, port + 10_000, port + 20_000):
        try:
            socket.create_server(("127.0.0.1", each)).close()
        except OSError:
            return False
    return True


def serve_command() -> list[str]:
    """Return the `leveret` command beside the running interpreter."""
    beside = Path(sys.executable).parent / "leveret"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "leveret.broker"]


def _serve(port: int, data: Path | None) -> subprocess.Popen[bytes]:
    place = ["--in-memory"] if data is None else ["--data-dir", str(data)]
    arguments = ["serve", *place, "--listen", f"127.0.0.1:{port}", "--log-level", "warning"]
    log = STATE / f"leveret-{port}.log"
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [*serve_command(), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=STATE,
            # a start is measured as installed: with its modules compiled
            env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        )
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], START_PATIENCE)
    if not readable or not child.stdout.readline().startswith(b"leveret ready"):
        child.kill()
        raise NoBroker(f"leveret did not get ready: {log.read_text()[-500:]}")
    return child


def _run_script(name: str, port: int) -> int:
    script = HERE / f"start_{name}.sh"
    done = subprocess.run(
        ["sh", str(script), str(port), str(STATE)],
        capture_output=True,
        text=True,
        timeout=START_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise NoBroker(f"{name}: {done.stderr.strip()}")
    return int(done.stdout.split()[-1])

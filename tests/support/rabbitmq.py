"""A private RabbitMQ node: own port, node name and state folder, stopped by its process id.

Command line, for scripts that compare brokers:

    python -m tests.support.rabbitmq [--port PORT] [--definitions FILE]

prints `ready amqp=127.0.0.1:PORT pid=PID` and runs until it is told to end (SIGTERM, SIGINT) or
its standard input is closed.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # where Debian's package puts it
HOST = "127.0.0.1"
BOOT_SECONDS = 90
STOP_SECONDS = 30
READY = "Server startup complete"


class Node(NamedTuple):
    """A running node."""

    host: str
    port: int
    pid: int  # of the Erlang machine


def why_not() -> str | None:
    """Return why no node can be started here, or None if one can."""
    if not SERVER.exists():
        return f"RabbitMQ is not installed: no {SERVER} (Debian package rabbitmq-server)"
    if not shutil.which("erl"):
        return "RabbitMQ needs Erlang: no erl in the path"
    return None


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def rabbitmq(
    port: int = 0, definitions: Mapping[str, object] | None = None, plugins: tuple[str, ...] = ()
) -> Iterator[Node]:
    """Run an empty node, or one that starts with `definitions` (its own export format)."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="rabbitmq-", ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        environment = _prepare(state, port, definitions, plugins)
        with (state / "errors").open("wb") as errors:
            launcher = subprocess.Popen(  # its own session: signals of a terminal are not for it
                [str(SERVER)],
                cwd=state,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        try:
            _wait_until_ready(launcher, state)
            yield Node(HOST, port, _machine(state))
        finally:
            _stop(launcher, state)


def _prepare(
    state: Path, port: int, definitions: Mapping[str, object] | None, plugins: tuple[str, ...]
) -> dict[str, str]:
    lines = [f"listeners.tcp.1 = {HOST}:{port}", "log.console = true", "log.console.level = info"]
    if definitions is not None:
        (state / "definitions.json").write_text(json.dumps(definitions))
        lines.append(f"load_definitions = {state / 'definitions.json'}")
    (state / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
    (state / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
    (state / "rabbitmq-env.conf").write_text("")
    for name in ("home", "mnesia", "log"):
        (state / name).mkdir()
    return os.environ | {
        "HOME": str(state / "home"),
        "RABBITMQ_NODENAME": f"leveret{port}@localhost",
        "RABBITMQ_BASE": str(state),
        "RABBITMQ_MNESIA_BASE": str(state / "mnesia"),
        "RABBITMQ_LOG_BASE": str(state / "log"),
        "RABBITMQ_CONFIG_FILE": str(state / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(state / "none.config"),
        "RABBITMQ_CONF_ENV_FILE": str(state / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(state / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(state / "pid"),
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
    }


def _wait_until_ready(launcher: subprocess.Popen[str], state: Path) -> None:
    """Read the console until it says that the boot is complete; then keep it from filling up."""
    assert launcher.stdout is not None
    watchdog = threading.Timer(BOOT_SECONDS, _stop, (launcher, state))
    watchdog.daemon = True
    watchdog.start()
    console = []
    for line in launcher.stdout:
        console.append(line)
        if READY in line:
            break
    else:
        errors = (state / "errors").read_text(errors="replace")
        raise RuntimeError(f"RabbitMQ did not start:\n{''.join(console[-40:])}{errors}")
    watchdog.cancel()
    threading.Thread(target=_drain, args=(launcher.stdout,), daemon=True).start()


def _drain(console: IO[str]) -> None:
    with console:
        for _line in console:
            pass


def _machine(state: Path) -> int:
    return int((state / "pid").read_text())


def _stop(launcher: subprocess.Popen[str], state: Path) -> None:
    """End the machine; the launcher, which waits for it, ends with it."""
    try:
        os.kill(_machine(state), signal.SIGTERM)
    except (OSError, ValueError):
        launcher.terminate()
    try:
        launcher.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def main() -> int:
    """Run a node until told to end."""
    parser = argparse.ArgumentParser(description="Run a private RabbitMQ node.")
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 takes a free one")
    parser.add_argument("--definitions", type=Path, help="JSON file the node starts with")
    parser.add_argument("--plugin", action="append", default=[], help="bundled plugin to enable")
    options = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    definitions = json.loads(options.definitions.read_text()) if options.definitions else None
    with rabbitmq(options.port, definitions, tuple(options.plugin)) as node:
        print(f"ready amqp={node.host}:{node.port} pid={node.pid}", flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())

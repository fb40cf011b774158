"""The broker that is put to death: Leveret, or RabbitMQ to see what the tests say about it.

    LEVERET_TEST_MORTAL=rabbitmq make test TESTS=tests/integration/test_restart.py

Called by: fixtures, storm, test_kill.
"""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ...support import rabbitmq
from ...support.leveret import Durable

IS_RABBITMQ = os.environ.get("LEVERET_TEST_MORTAL") == "rabbitmq"


class Mortal(Protocol):
    """A broker that keeps its data."""

    host: str
    port: int
    data: Path

    @property
    def address(self) -> tuple[str, int]: ...
    def begin(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def put_down(self) -> None: ...
    def is_alive(self) -> bool: ...


class DurableRabbitMQ:
    """A RabbitMQ node with the face of `Durable`."""

    host = rabbitmq.HOST

    def __init__(self, folder: Path) -> None:
        self.port = rabbitmq.free_port()
        self.data = folder / "node"
        self.data.mkdir()
        self._environment = rabbitmq._prepare(self.data, self.port, None, ())
        self._launcher: subprocess.Popen[str] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def begin(self) -> None:
        """Not half a start: the scripts around the node would not notice its end."""
        self.start()

    def start(self) -> None:
        with (self.data / "errors").open("ab") as errors:
            self._launcher = subprocess.Popen(
                [str(rabbitmq.SERVER)],
                cwd=self.data,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        rabbitmq._wait_until_ready(self._launcher, self.data)

    def stop(self) -> None:
        assert self._launcher is not None
        rabbitmq._stop(self._launcher, self.data)
        self._launcher = None

    def kill(self) -> None:
        assert self._launcher is not None
        self.put_down()
        self._launcher.wait(30)
        self._launcher = None

    def put_down(self) -> None:
        """Kill it, and leave it to others to take note."""
        with suppress(ProcessLookupError):
            os.kill(rabbitmq._machine(self.data), signal.SIGKILL)

    def is_alive(self) -> bool:
        return self._launcher is not None and self._launcher.poll() is None

    def __enter__(self) -> "DurableRabbitMQ":
        return self

    def __exit__(self, *_: object) -> None:
        if self._launcher is not None:
            self.stop()


def mortal(folder: Path) -> Durable | DurableRabbitMQ:
    """Return a broker that is not started yet."""
    return DurableRabbitMQ(folder) if IS_RABBITMQ else Durable(folder)

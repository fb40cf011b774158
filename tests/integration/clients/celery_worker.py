"""A `celery worker` process for a test, and the same application on the test's side."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from .celery_app import APPLICATION, make_app

ROOT = Path(__file__).parents[3]
SECONDS = 30  # for anything that must arrive


class Worker:
    """A `celery worker` process with a queue and a node name of its own; a context manager."""

    def __init__(
        self,
        broker: str,
        backend: str,
        *options: str,
        direct: str = "",
        arguments: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        exchange: str = "direct",
    ) -> None:
        """Remember the addresses of broker and result store, and the command's options.

        Args:
          broker: Where the worker connects.
          backend: Where results go.
          options: Of `celery worker`.
          direct: Where the test itself connects, if elsewhere.
          arguments: What the queue is declared with.
          settings: Of the application, beside or instead of those of `make_app`.
          exchange: The type of the queue's exchange.
        """
        self.queue = f"celery-{uuid.uuid4().hex[:8]}"
        self.node = f"{self.queue}@localhost"
        self.backend, self.options = backend, options
        self._application = {"backend": backend, "queue": self.queue}
        self._application |= {"arguments": arguments, "settings": settings or {}}
        self._application |= {"exchange": exchange}
        self._broker = f"{broker}//"
        self.app = make_app(f"{direct or broker}//", **self._application)
        self.log: list[str] = []
        self._logged = threading.Condition()
        self._ended = False

    @property
    def environment(self) -> dict[str, str]:
        application = {"broker": self._broker} | self._application
        return os.environ | {APPLICATION: json.dumps(application)}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", make_app.__module__, *words]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command("worker", "--hostname", self.node, "--loglevel", "INFO", *self.options),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._logged:
                self.log.append(line)
                self._logged.notify_all()
        with self._logged:
            self._ended = True
            self._logged.notify_all()

    def has_logged(self, text: str) -> bool:
        return any(text in line for line in self.log)

    def wait_until_logged(self, text: str) -> None:
        """Wait until a line has this text; what the process does is read here a little later."""
        with self._logged:
            self._logged.wait_for(lambda: self.has_logged(text) or self._ended, SECONDS)
        assert self.has_logged(text), "".join(self.log)

    def wait_until_ready(self) -> Self:
        self.wait_until_logged(" ready.")
        assert self.process.poll() is None, "".join(self.log)
        return self

    def terminate(self) -> None:
        """Ask for a warm shutdown."""
        self.process.send_signal(signal.SIGTERM)

    def __exit__(self, *exception: object) -> None:
        try:
            if self.process.poll() is None:
                self.terminate()
                self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self._reader.join()
            self.process.__exit__(*exception)
            self._disconnect()

    def _disconnect(self) -> None:
        """Close what the application leaves to the end of the process."""
        if self.backend == "rpc://":
            self.app.backend.result_consumer.stop()
        self.app.pool.force_close_all()
        self.app.close()

    def __getattr__(self, task: str) -> object:
        """Return a task of the application by its function's name."""
        return self.app.tasks[f"{make_app.__module__}.{task}"]

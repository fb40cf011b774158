"""Poller: the sockets with nothing to wait for but their peers.

Law: such a connection has no task. One task waits for all of them at once and calls each that
can be read; a call never waits. When the time of a pass is up everyone else in the event loop
comes in between, and those not called yet are called after.

Called by: server.turns (makes it), server.connection (adds and removes itself), app (starts `run`).
"""

from __future__ import annotations

import select
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

PASS = 0.005  # seconds
AT_ONCE = 512  # sockets asked for in one go

log = structlog.get_logger()


class Readable(Protocol):
    """A connection whose socket is polled."""

    def read(self) -> None:
        """Take in what has come; it may have been taken already."""

    def end(self) -> None:
        """Let go of everything at once: the broker stops."""


class Poller:
    """Calls those who can read.

    Attributes:
      is_passing: Whether it calls one after the other right now.
      passed: Called whenever it has done so, before anyone else comes in.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Readable] = {}
        self.is_passing = False
        self.passed: Callable[[], None] = lambda: None

    def add(self, descriptor: int, reader: Readable) -> None:
        """Call a reader whenever its socket can be read, until it is removed."""
        if self._epoll.closed:
            reader.end()
            return
        self._epoll.register(descriptor, select.EPOLLIN)
        self._readers[descriptor] = reader

    def remove(self, descriptor: int) -> None:
        """Leave a socket alone."""
        del self._readers[descriptor]
        self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Call readers for ever; when cancelled, end all that are left."""
        readers, poll = self._readers, self._epoll.poll
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                until = perf_counter() + PASS
                ready = poll(0, AT_ONCE)
                self.is_passing = True
                while ready:
                    for descriptor, _ in ready:
                        reader = readers.get(descriptor)
                        if reader is not None:
                            try:
                                reader.read()
                            except Exception as problem:  # the last resort: one connection
                                log.error("connection.crashed", exc_info=problem)
                                self.remove(descriptor)
                                reader.end()
                        if perf_counter() > until:
                            self.end_pass()
                            await trio.lowlevel.checkpoint()
                            self.is_passing = True
                            until = perf_counter() + PASS
                    # Where several came at once more will have come; one alone is on its own.
                    ready = poll(0, AT_ONCE) if len(ready) > 1 else []
                self.end_pass()
        finally:
            while readers:
                _, reader = readers.popitem()
                reader.end()
            self._epoll.close()

    def end_pass(self) -> None:
        """Let others come in."""
        self.is_passing = False
        self.passed()

"""Worker: a thread that does one thing after the other for the event loop.

Law: what was handed over is done, in order, whoever stops waiting for it. So nobody does: a wait
cannot be cancelled, and what a worker is given is short. Whatever it owns (a connection to a
database) is made, used and closed in its thread.

Called by: storage.sqlite, storage.scratch.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Job(Generic[T]):
    """Something to do, and what came of it."""

    __slots__ = ("arguments", "function", "problem", "result", "task")

    def __init__(
        self,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        task: trio.lowlevel.Task | None,
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.task = task
        self.result: T
        self.problem: BaseException | None = None

    def tell(self) -> None:
        """Let whoever waits go on; called in the event loop."""
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)


class Begun(Job[None]):
    """Something that nobody waits for, but somebody is told how it ended."""

    __slots__ = ("ended",)

    def __init__(
        self,
        function: Callable[..., None],
        arguments: tuple[Any, ...],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        super().__init__(function, arguments, None)
        self.ended = ended

    def tell(self) -> None:
        """Say how it ended."""
        problem, self.problem = self.problem, None
        self.ended(problem)


class Worker:
    """A thread of its own, not one of trio's: it is not looked for at each call."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Return what a function returns, or raise what it raises, in the thread."""
        job = Job(function, arguments, trio.lowlevel.current_task())
        self._jobs.put(job)
        await trio.lowlevel.wait_task_rescheduled(_go_on_waiting)
        problem, job.problem = job.problem, None
        if problem is None:
            return job.result
        try:
            raise problem
        finally:
            del problem  # or it and the frames that it has seen would keep each other

    def begin(
        self,
        ended: Callable[[BaseException | None], None],
        function: Callable[[*Arguments], None],
        *arguments: *Arguments,
    ) -> None:
        """Call a function in the thread, and then `ended` in the event loop: what was raised."""
        self._jobs.put(Begun(function, arguments, ended))

    def post(self, function: Callable[[], None]) -> None:
        """Call a function that raises nothing, after what was handed over before."""
        self._jobs.put(Job(function, (), None))

    def run_pending(self) -> None:
        """Do what has been handed over by now; to be called in the thread, by something long."""
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is None:  # close comes last, and is for `_work`
                    self._jobs.put(None)
                    return
                self._do(job)

    def close(self) -> None:
        """End the thread when it has done what it was given: nearly nothing, or this waits."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        get = self._jobs.get
        while (job := get()) is not None:
            self._do(job)
            del job  # not held until the next one comes

    def _do(self, job: Job[Any]) -> None:
        try:
            job.result = job.function(*job.arguments)
        except BaseException as problem:
            job.problem = problem
        if type(job) is Job and job.task is None:
            return
        with suppress(trio.RunFinishedError):  # nobody is left to be told
            self._token.run_sync_soon(job.tell)


def _go_on_waiting(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED

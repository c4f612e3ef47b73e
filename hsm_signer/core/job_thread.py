"""A thread that carries out jobs one after the other, each with a Future of its result.

Its threads are daemons: a job that never returns does not keep the program from ending, as it would in an
executor of concurrent.futures.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work and the Future of its result; cancelling the Future in time leaves it undone."""

    work: Callable[..., Any]
    future: Future[Any] = field(default_factory=Future)

    def run(self, *arguments: Any) -> BaseException | None:
        """Do the work and settle the Future; return the error that it raised, None without one."""
        if not self.future.set_running_or_notify_cancel():
            return None
        try:
            result = self.work(*arguments)
        except BaseException as error:  # noqa: BLE001  raised again where it was asked for
            self.future.set_exception(error)
            return error
        self.future.set_result(result)
        return None

    def refuse(self, error: BaseException) -> None:
        """Settle the Future with an error instead of doing the work."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class JobThread(threading.Thread):
    """A thread that carries out jobs in the order in which they were asked for; start it like any other."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def ask(self, work: Callable[..., T]) -> Future[T]:
        """Queue work after everything asked for before; return the Future of its result."""
        job = Job(work)
        self._jobs.put(job)
        return job.future

    def stop(self) -> None:
        """End once everything asked for so far is done."""
        self._jobs.put(None)

    def run(self) -> None:
        """Carry out jobs until stopped."""
        while (job := self._jobs.get()) is not None:
            self._carry_out(job)

    def _carry_out(self, job: Job) -> None:
        job.run()

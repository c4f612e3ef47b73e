"""Jobs are done in order, each tells whoever asked how it ended, and none holds the program up."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from hsm_signer.core.job_thread import Job, JobThread
from hsm_signer.errors import ServiceBusy

WAIT = 10.0


@pytest.fixture
def thread() -> Iterator[JobThread]:
    """A thread that runs, and ends with the test."""
    started = JobThread("test")
    started.start()
    yield started
    started.stop()
    started.join(WAIT)
    assert not started.is_alive()


def test_jobs_are_done_in_order_in_the_one_thread(thread: JobThread) -> None:
    done: list[tuple[int, str]] = []

    def note(number: int) -> int:
        done.append((number, threading.current_thread().name))
        return number

    futures = [thread.ask(lambda number=number: note(number)) for number in range(20)]
    assert [future.result(WAIT) for future in futures] == list(range(20))
    assert done == [(number, "test") for number in range(20)]


def test_an_error_reaches_who_asked_and_ends_nothing(thread: JobThread) -> None:
    def fails() -> None:
        raise SystemExit("out")

    with pytest.raises(SystemExit, match="out"):
        thread.ask(fails).result(WAIT)
    assert thread.ask(lambda: "still here").result(WAIT) == "still here"


def test_what_nobody_waits_for_any_more_is_left_out(thread: JobThread) -> None:
    gate, done = threading.Event(), []
    thread.ask(lambda: gate.wait(WAIT))
    dropped = thread.ask(lambda: done.append("dropped"))
    kept = thread.ask(lambda: done.append("kept"))
    assert dropped.cancel()
    gate.set()
    kept.result(WAIT)
    assert done == ["kept"]


def test_a_stop_lets_earlier_jobs_finish() -> None:
    thread = JobThread("test")
    futures = [thread.ask(lambda: 1), thread.ask(lambda: 2)]
    thread.stop()
    late = thread.ask(lambda: 3)
    thread.start()
    thread.join(WAIT)
    assert [future.result(0) for future in futures] == [1, 2]
    assert not late.done()


def test_a_refused_job_is_not_done() -> None:
    done: list[str] = []
    job = Job(lambda: done.append("work"))
    job.refuse(ServiceBusy("not now"))
    with pytest.raises(ServiceBusy, match="not now"):
        job.future.result(0)
    assert done == []
    cancelled = Job(lambda: done.append("work"))
    assert cancelled.future.cancel()
    cancelled.refuse(ServiceBusy("nobody hears this"))
    assert cancelled.future.cancelled()
    assert done == []


def test_a_job_that_never_returns_does_not_keep_the_program_alive() -> None:
    code = (
        "import threading\n"
        "from hsm_signer.core.job_thread import JobThread\n"
        "thread = JobThread('hangs')\n"
        "thread.start()\n"
        "thread.ask(threading.Event().wait)\n"
        "print('the end')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "the end\n"

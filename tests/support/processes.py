"""Processes that start quickly: forked from one that has imported everything and loaded no token.

A PKCS#11 module must be loaded after a fork, never before, so tests do not fork themselves.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

PRELOAD = ["__main__", "tests.support.victim"]
TIMEOUT = 120


def context() -> ForkServerContext:
    """The one for every test; its server starts at the first process."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


def start(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """``target`` must be a function of an importable module, its arguments picklable."""
    process = context().Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def finish(process: ForkServerProcess) -> int:
    """Wait for its end; the exit code, negative for a signal."""
    process.join(TIMEOUT)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
        raise AssertionError("the process did not end")
    process.close()
    return code


def run(target: Callable[..., None], *arguments: Any) -> int:
    """Start and finish."""
    return finish(start(target, *arguments))


def environment_of(pid: int) -> dict[str, str]:
    """As the process got it."""
    items = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(item.decode().split("=", 1) for item in items if item)

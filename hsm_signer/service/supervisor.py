"""Starts the service's processes, starts them again when they end, and ends them: `hsm-signer serve`.

    supervisor ── front       HTTP only; no token PIN, no way to the database
              └── worker 0..N the token and the store

It does nothing else, and holds nothing that could be lost: a pipe to each child is closed when it ends, and a
child whose pipe is closed ends by itself.
"""

from __future__ import annotations

import logging
import os
import pwd
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsm_signer.config.service import Settings
from hsm_signer.core.backoff import Backoff
from hsm_signer.errors import ConfigError, os_words

from . import logs
from .logs import Log
from .wire.frames import socket_path
from .worker.sockets import claimed, make_folder, socket_group, user_id

_log = Log(__name__)

PARTS = ("all", "front", "workers")
RESTARTS = Backoff(first=0.2, longest=5.0, jitter=0.0)
"""Pauses before a child is started again, from the second time on."""
STEADY = 30.0
"""Seconds after which a child that ends has lived: the next one is started at once."""
BREATH = 0.1
"""Seconds between looks at children that were killed and have not ended yet."""
GRACE = 5.0
"""Seconds beyond what a child is given to end by itself, before it is killed."""
FRONT_ENVIRONMENT = ("PATH", "LANG", "TZ", "HOME", "TMPDIR", "VIRTUAL_ENV")
FRONT_PREFIXES = ("LC_", "PYTHON")
CONFIGURATION = range(2, 10)
"""Exit statuses of errors.py that a first start ends with: another start would end the same way."""


@dataclass(slots=True)
class Child:
    """One process of the service, which is started again when it ends; each start is a generation."""

    name: str
    arguments: list[str]
    """After ``python -m``."""
    settings: dict[str, Any]
    """Of :class:`subprocess.Popen`: environment, user, groups."""
    numbered: bool
    """Whether it is told its generation."""
    generation: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    """Ends in a row that nobody asked for."""
    due: float = 0.0
    """When it is started next."""

    def start(self) -> None:
        """Start the next generation. Raises Stop where the first is not executable for its user."""
        self.generation += 1
        generation = ["--generation", str(self.generation)] if self.numbered else []
        # -P: what lies in the present folder is no part of the program.
        command = [sys.executable, "-P", "-m", *self.arguments, *generation]
        self.started = time.monotonic()
        try:
            # A process group of its own: a terminal's Control-C is the supervisor's alone.
            self.process = subprocess.Popen(  # noqa: S603  our own modules
                command, stdin=subprocess.PIPE, process_group=0, umask=0o077, **self.settings
            )
        except OSError as error:
            _log.error("not-started", child=self.name, reason=f"{sys.executable}: {os_words(error)}")
            self.plan(ConfigError.exit_status)
            if self.generation == 1:
                raise Stop(ConfigError.exit_status) from error
            return
        _log.info("started", child=self.name, pid=self.process.pid, generation=self.generation)

    def ended(self) -> int | None:
        """Return the exit status of a process that has ended since the last call; None otherwise."""
        process = self.process
        if process is None or (status := process.poll()) is None:
            return None
        if process.stdin is not None:
            process.stdin.close()
        self.process = None
        return status

    def plan(self, status: int) -> None:
        """Plan the next start: at once after an intended end, and after the first that was not."""
        now = time.monotonic()
        if status == 0 or now - self.started >= STEADY:
            self.failures = 0
        if status != 0:
            self.failures += 1
        pause = 0.0 if self.failures < 2 else RESTARTS.pause(self.failures - 2)
        self.due = now + pause
        _log.log(
            logging.INFO if status == 0 else logging.WARNING,
            "ended",
            child=self.name,
            status=status,
            generation=self.generation,
            pause=pause,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is there."""
        if self.process is not None:
            self.process.send_signal(number)


class Stop(Exception):
    """SIGTERM or SIGINT came, or a child cannot be started; ``status`` is what the supervisor ends with."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass(slots=True)
class Supervisor:
    """The child processes of the service, started, restarted and ended."""

    settings: Settings
    front: Child | None
    workers: list[Child]
    signals: int
    """Descriptor: the numbers of signals that came, a byte each."""

    @property
    def children(self) -> list[Child]:
        """All child processes."""
        return [*self.workers, *([] if self.front is None else [self.front])]

    def run(self) -> int:
        """Run until told to stop; return the exit status."""
        try:
            while True:
                self._start_due()
                dues = [child.due for child in self.children if child.process is None]
                self._wait(min(dues, default=None))
                self._reap()
        except Stop as stop:
            self._stop()
            return stop.status

    def _start_due(self) -> None:
        for child in self.children:
            if child.process is None and child.due <= time.monotonic():
                child.start()

    def _reap(self) -> None:
        for child in self.children:
            if (status := child.ended()) is None:
                continue
            child.plan(status)
            if child.generation == 1 and status in CONFIGURATION:
                # It has said why.
                raise Stop(status)

    def _wait(self, until: float | None) -> None:
        """Wait for a signal, SIGCHLD included, or for the time to pass. Raises Stop."""
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([self.signals], [], [], left)[0]:
            return
        for number in os.read(self.signals, 4096):
            if number in (signal.SIGTERM, signal.SIGINT):
                _log.info("stopping", signal=signal.Signals(number).name)
                raise Stop(0)
            if number == signal.SIGHUP and self.front is not None:
                self.front.signal(signal.SIGHUP)

    def _stop(self) -> None:
        """Stop the front first: the workers finish what it has taken in."""
        limits = self.settings.limits
        if self.front is not None:
            self._end([self.front], limits.stop_timeout + GRACE)
        self._end(self.workers, limits.stop_timeout + GRACE)
        _log.info("stopped")

    def _end(self, children: list[Child], patience: float) -> None:
        until = time.monotonic() + patience
        for child in children:
            child.signal(signal.SIGTERM)
        while any(child.process is not None for child in children):
            try:
                self._wait(max(until, time.monotonic() + BREATH))
            except Stop:
                until = 0.0  # asked again: whoever asks does not want to wait
            if time.monotonic() >= until:
                for child in children:
                    child.signal(signal.SIGKILL)
            for child in self.children:
                if (status := child.ended()) is not None:
                    _log.info("ended", child=child.name, status=status, generation=child.generation)


def run(
    home: Path | None,
    settings_path: Path,
    settings: Settings,
    part: str,
    *,
    front_arguments: tuple[str, ...] = (),
) -> int:
    """Run ``part`` of the service (one of PARTS) until SIGTERM or SIGINT; the exit status.

    ``home`` may be None for the front alone. ``front_arguments`` go to the front as they are. Raises
    ConfigError for users, groups and folders that cannot be used.
    """
    folder = settings_path.absolute().parent / settings.worker.sockets
    group = socket_group(settings.worker)
    workers: list[Child] = []
    front: Child | None = None
    if part != "front":
        if home is None:
            raise ConfigError("workers need the installation's home")
        socket_path(folder, settings.worker.count - 1)  # too long: said before anything is started
        own = _user(settings.worker.user, "worker.user", group, dict(os.environ))
        make_folder(folder, group, own.get("user"))
        workers = [
            Child(
                f"worker-{slot}",
                [
                    "hsm_signer.service.worker",
                    *("--home", str(home)),
                    *("--settings", str(settings_path.absolute())),
                    *("--slot", str(slot)),
                ],
                own,
                numbered=True,
            )
            for slot in range(settings.worker.count)
        ]
    if part != "workers":
        front = Child(
            "front",
            [
                "hsm_signer.service.front",
                *("--settings", str(settings_path.absolute())),
                *("--sockets", str(folder)),
                *("--workers", str(settings.worker.count)),
                *front_arguments,
            ],
            _user(settings.worker.front_user, "worker.front_user", group, front_environment()),
            numbered=False,
        )
    logs.configure(sys.stderr, part="supervisor")
    with _signals() as signals, claimed(folder) if workers else nullcontext():
        return Supervisor(settings, front, workers, signals).run()


def front_environment() -> dict[str, str]:
    """Return the front's environment: this process's, without what opens a token or a database."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in FRONT_ENVIRONMENT or name.startswith(FRONT_PREFIXES)
    }


def _user(name: str | None, what: str, group: int | None, environment: dict[str, str]) -> dict[str, Any]:
    """Make Popen's arguments for running a child as a user; only root can change to another.

    ``environment``: the child's, where it keeps the present user. Raises ConfigError.
    """
    if name is None or (uid := user_id(name, what)) == os.geteuid():
        return {"env": environment}
    if os.geteuid() != 0:
        raise ConfigError(
            f"{what}: only root can start processes as {name}",
            hint="as that user: hsm-signer serve --part front; as the workers': --part workers",
        )
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        gid, groups, home = uid, [], "/"  # a number that no file names: with a group of that number
    else:
        gid, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
        home = entry.pw_dir
    extra = sorted({*groups, *([] if group is None else [group])} - {gid})
    # Libraries look for settings of theirs in HOME, and root's is closed to others.
    return {"user": uid, "group": gid, "extra_groups": extra, "env": {**environment, "HOME": home}}


@contextmanager
def _signals() -> Iterator[int]:
    """Make a descriptor that becomes readable when one of the supervisor's signals comes."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    woken = signal.set_wakeup_fd(writable)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)

"""The two threads that carry out a worker's calls, one after the other: the token's and the reader's.

The token's thread owns token session and store, opens them, and opens them anew when they are lost. The
reader's does what needs the store alone and may take long, so that nobody's signature waits for it.
"""

from __future__ import annotations

import hashlib
import hmac
import queue
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from hsm_signer.config.service import Settings
from hsm_signer.core.backoff import Backoff
from hsm_signer.core.card_origin import OriginPolicy
from hsm_signer.core.job_thread import Job, JobThread
from hsm_signer.errors import (
    SignerError,
    StoreBusy,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
    TokenError,
    TokenMismatch,
    TokenPinWrong,
    TokenSessionLost,
    WorkerUnavailable,
    in_general,
)
from hsm_signer.server.installation import Installation, no_prompt, token_pin
from hsm_signer.server.server import Server
from hsm_signer.server.version_memory import VersionMemory
from hsm_signer.service.logs import Log
from hsm_signer.token.session import PASSING

_log = Log(__name__)

REOPENING = Backoff(first=0.1, longest=5.0)
"""Pauses between attempts to open token and store."""
READING_TIMEOUT = 3600.0
"""Seconds for the reader's thread: an anchor over a million chains takes minutes, and holds nobody up."""
OPENING_TIMEOUT = 600.0
"""Seconds for opening token and store: a token that is new to this program is probed first."""

COUNTS_EVERY = 60.0
"""Seconds between looks for refusals that were counted and whose number is due."""

TellState = Callable[[str, str | None], None]
"""``ready`` or ``recovering``, and why."""


def log_internal(error: BaseException) -> None:
    """Log an error of the program, by kind and place; its text is left out, it may quote anything."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)]
    _log.error("internal-error", kind=type(error).__name__, at=" < ".join(places))


class TimedThread(JobThread):
    """A thread that carries out jobs in order; ``due`` is when the present one must have returned."""

    def __init__(self, name: str, timeout: float) -> None:
        super().__init__(name)
        self.due: float | None = None
        """time.monotonic(); None where nothing is being done."""
        self._timeout = timeout

    @contextmanager
    def _timed(self, timeout: float) -> Iterator[None]:
        self.due = time.monotonic() + timeout
        try:
            yield
        finally:
            self.due = None

    @staticmethod
    def _run(job: Job, server: Server | None) -> BaseException | None:
        """Run a job with the server; return its error, which is logged where the program is to blame."""
        error = job.run(server)
        if error is not None and not isinstance(error, SignerError):
            log_internal(error)
        return error


class ReaderThread(TimedThread):
    """The thread of jobs that read the store without the token; they get None for the server."""

    def __init__(self) -> None:
        super().__init__("reader", READING_TIMEOUT)

    def _carry_out(self, job: Job) -> None:
        with self._timed(self._timeout):
            self._run(job, None)


class TokenThread(TimedThread):
    """The thread of all jobs that need the token; it owns token session and store."""

    def __init__(self, home: Path, settings: Settings, tell: TellState, policy: OriginPolicy) -> None:
        super().__init__("token", settings.worker.operation_timeout)
        self._home = home
        self._settings = settings
        self._tell = tell
        self._policy = policy
        self._versions = VersionMemory()
        self._refused_pin: bytes | None = None
        """SHA-256 of the PIN that the token refused. It is not tried again: that could lock the token."""

    def run(self) -> None:
        """Open token and store and serve, again whenever they are lost, until stopped."""
        failures = 0
        while True:
            opened = time.monotonic()
            try:
                self._open_and_serve()
            except SignerError as error:
                # In full for the log; /readyz tells it to anybody.
                _log.warning("lost", code=error.code, reason=error.message, hint=error.hint)
                reason = f"{in_general(error)} [{error.code}]"
            except Exception as error:  # noqa: BLE001  whatever it is, the next attempt may do
                log_internal(error)
                reason = "internal error in the worker"
            else:
                return
            if time.monotonic() - opened > REOPENING.longest:
                failures = 0
            self._tell("recovering", reason)
            if not self._wait(REOPENING.pause(failures), reason):
                return
            failures += 1

    def _open_and_serve(self) -> None:
        """Serve until stopped; raises where token and store have to be opened anew."""
        with self._timed(OPENING_TIMEOUT):
            installation = Installation.open(self._home)
            pin = hashlib.sha256(
                token_pin(installation.token_uri, self._home, no_prompt).encode("utf-8", "surrogateescape")
            ).digest()
            if self._refused_pin is not None and hmac.compare_digest(pin, self._refused_pin):
                raise TokenPinWrong("the token has refused this PIN: not tried again until there is another")
            opening = installation.server(no_prompt)
            try:
                server = replace(
                    opening.__enter__(), origin_policy=lambda: self._policy, versions=self._versions
                )
            except TokenPinWrong as error:
                if not isinstance(error.__cause__, PASSING):
                    self._refused_pin = pin
                raise
        try:
            with self._timed(self._timeout):
                server.environment.self_test()
                installation.note_settings(server, msgspec.json.encode(self._settings, order="sorted"))
            self._tell("ready", None)
            self._serve(installation, server)
        finally:
            with self._timed(self._timeout):
                opening.__exit__(None, None, None)

    def _serve(self, installation: Installation, server: Server) -> None:
        due = time.monotonic() + COUNTS_EVERY
        while True:
            job: Job | None
            # Also where there is always another job.
            if (left := due - time.monotonic()) <= 0:
                job = Job(Server.write_counted_refusals)
                due = time.monotonic() + COUNTS_EVERY
            else:
                try:
                    job = self._jobs.get(timeout=left)
                except queue.Empty:
                    continue
            if job is None:
                return
            with self._timed(self._timeout):
                if (error := self._run(job, server)) is not None:
                    _raise_if_lost(installation, server, error)

    def _wait(self, seconds: float, reason: str) -> bool:
        """Refuse all calls for ``seconds``; return False when stopped."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                job = self._jobs.get(timeout=left)
            except queue.Empty:
                break
            if job is None:
                return False
            job.refuse(unavailable("recovering", reason))
        return True


def unavailable(state: str, reason: str | None) -> WorkerUnavailable:
    """Make the error with which a worker that is not ready refuses a call."""
    return WorkerUnavailable(f"the worker is {state}", hint=reason)


def _raise_if_lost(installation: Installation, server: Server, error: BaseException) -> None:
    """Raise the token's or the store's error where ``error`` concerns more than one call."""
    if isinstance(error, TokenSessionLost):
        raise error
    if isinstance(error, TokenError) and not isinstance(error, TokenMismatch):
        server.environment.self_test()
    elif isinstance(error, StoreMissing | StoreUnavailable) or type(error) is StoreError:
        try:
            server.store.probe_write()
        except (StoreBusy, StoreReadOnly):
            return
    elif isinstance(error, StoreReadOnly):
        # A connection stays as it was when it was made; the database may have become writable since.
        try:
            with installation.open_store() as anew:
                anew.probe_write()
        except StoreError:
            return
        raise StoreUnavailable("the database can be written again: it is opened anew")

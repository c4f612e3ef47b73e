"""The signing service as it is run: `hsm-signer serve` with its processes; a client of a worker's socket."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from hsm_signer.config.installation import HOME_VARIABLE
from hsm_signer.config.service import SETTINGS_FILE
from hsm_signer.core.interface import EnrolmentRequest, RequestInfo
from hsm_signer.errors import InputError, SignerError
from hsm_signer.server.base import system_clock
from hsm_signer.server.installation import Installation
from hsm_signer.service import clients
from hsm_signer.service.roles import Role
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import MAX_CHUNK, Frame, Kind, frame_bytes, socket_path
from hsm_signer.testing import Home
from hsm_signer.types import (
    Challenge,
    Content,
    CredentialId,
    CredentialView,
    Digest,
    DigestList,
    Fingerprint,
    Message,
    NewCredential,
    SigningRequest,
    SignOutcome,
)

from . import needs, processes
from .other_users import User
from .scenes import AUTHORISATION

WAIT = 60.0
"""Seconds for anything to happen; a machine with much to do takes its time."""

LAST_LINES = 20
"""Of the log of a busy service: that many are shown whatever they are of."""


class Service:
    """A running service."""

    def __init__(
        self, home: Home, process: subprocess.Popen[bytes], sockets: Path, folder: Path | None = None
    ) -> None:
        """``folder``: of its settings, where that is not the home."""
        self.home = home
        self.process = process
        self.sockets = sockets
        self.folder = folder or home.path
        self.log: list[dict[str, Any]] = []
        """What its processes have logged so far; what is no JSON as {"event": "text", "text": ...}."""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "text", "text": line.decode(errors="replace").rstrip()}
            with self._changed:
                self.log.append(entry)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    # --- the log ---------------------------------------------------------------------------------------

    def find(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Lines with these fields."""
        with self._changed:
            return [each for each in self.log if _fits(each, {"event": event, **fields})]

    def wait_for(self, event: str, *, count: int = 1, timeout: float = WAIT, **fields: Any) -> dict[str, Any]:
        """The ``count``-th line with these fields, as soon as it is there."""
        wanted = {"event": event, **fields}
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [each for each in self.log if _fits(each, wanted)]
            return len(found) >= count or not self._thread.is_alive()

        with self._changed:
            self._changed.wait_for(there, timeout)
        if len(found) < count:
            raise AssertionError(f"no {count} x {wanted} in the log:\n{self.text}")
        return found[count - 1]

    @property
    def text(self) -> str:
        """The log so far, for messages."""
        return "\n".join(map(str, self.log))

    @property
    def story(self) -> str:
        """The log without calls and requests, but for the last ones: what a busy service went through."""
        with self._changed:
            lines = list(self.log)
        last = len(lines) - LAST_LINES
        return "\n".join(
            str(each)
            for number, each in enumerate(lines)
            if number >= last or each["event"] not in ("call", "request")
        )

    # --- processes -------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    def pid_of(self, child: str) -> int:
        """``worker-0``, ``front``: its present process."""
        return int(self.find("started", child=child)[-1]["pid"])

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """One process of the service."""
        os.kill(pid, number)

    def stop(self, timeout: float = WAIT) -> int:
        """SIGTERM to the supervisor; its exit status once everything has ended."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = WAIT) -> int:
        """Its exit status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the service did not end:\n{self.text}") from None
        self._thread.join(timeout)
        return status

    def destroy(self) -> None:
        """Whatever still runs of it is killed; each child is a process group of its own."""
        groups = [each["pid"] for each in self.find("started")]
        for pid in [self.process.pid, *groups]:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self.process.wait(WAIT)
        self._thread.join(WAIT)
        if self.process.stderr is not None:
            self.process.stderr.close()

    # --- the front -------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the front listens: https://127.0.0.1:PORT."""
        return str(self.wait_for("listening", part="front")["url"])

    @property
    def ca(self) -> Path:
        """The certificate to trust: the self-signed one."""
        return self.folder / "tls" / "server.pem"

    def wait_until_ready(self, timeout: float = WAIT) -> None:
        """Until /readyz answers 200."""
        url = self.url  # it makes its certificate before it listens
        context = ssl.create_default_context(cafile=str(self.ca))
        until = time.monotonic() + timeout
        last: object = None
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{url}/readyz", timeout=10, context=context) as answer:
                    if answer.status == 200:
                        return
                    last = answer.status
            except urllib.error.HTTPError as error:
                with error:
                    last = error.status
            except OSError as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"/readyz: {last}\n{self.text}")

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """What /readyz says: status and body."""
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=WAIT, context=context) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    # --- clients ---------------------------------------------------------------------------------------

    def add_client(self, name: str, *roles: Role, owner: str | None = None) -> str:
        """A new client; its bearer token."""
        token = add_client(self.home, name, roles, owner=owner)
        assert token is not None
        return token

    # --- workers ---------------------------------------------------------------------------------------

    def worker(self, slot: int = 0, **caller: Any) -> WorkerClient:
        """A connection to a worker, as the front makes them; ``caller``: fields of wire.Caller."""
        return WorkerClient(socket_path(self.sockets, slot), **caller)

    def wait_for_worker(self, slot: int = 0, state: str = "ready", timeout: float = WAIT) -> None:
        """Until a worker says that it is in this state."""
        until = time.monotonic() + timeout
        seen: object = None
        while time.monotonic() < until:
            with suppress(OSError, EOFError), self.worker(slot) as client:
                seen = client.hello
                if client.hello.state == state:
                    return
            time.sleep(0.02)
        raise AssertionError(f"worker {slot} is not {state} but {seen}\n{self.text}")


def _fits(entry: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(entry.get(name) == value for name, value in wanted.items())


@contextmanager
def serving(
    home: Home,
    *,
    part: str = "all",
    workers: int = 1,
    settings: str | None = None,
    arguments: Iterable[str] = (),
    environment: dict[str, str] | None = None,
    ready: bool = True,
    python: str = sys.executable,
    folder: Path | None = None,
    sockets: Path | None = None,
    user: User | None = None,
) -> Iterator[Service]:
    """`hsm-signer serve` for this home, on a free port; ended at the end.

    ``settings``: the text of service.toml, where there is to be one. ``ready``: wait until it is.
    ``folder``: where service.toml is, if not in the home; ``sockets``: where it says that they are, if not in
    ``run`` beside it; ``user``: who runs it, where that is somebody else.
    """
    needs.marked("service")
    if settings is not None:
        ((folder or home.path) / SETTINGS_FILE).write_text(settings)
    command = [
        *(python, "-m", "hsm_signer", "--home", str(home.path)),
        *("serve", "--part", part, "--workers", str(workers), "--bind", "127.0.0.1:0"),
        *(() if folder is None else ("--settings", str(folder / SETTINGS_FILE))),
        *arguments,
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HSM_SIGNER")},
            HOME_VARIABLE: str(home.path),
            **(environment or {}),
        },
        # As systemd does; a folder of ours may be closed to other users.
        cwd="/",
        start_new_session=True,
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else user.groups,
    )
    service = Service(home, process, sockets or (folder or home.path) / "run", folder)
    try:
        if ready and part != "front":
            for slot in range(workers):
                service.wait_for_worker(slot)
        if ready and part != "workers":
            service.wait_until_ready()
        yield service
    finally:
        with suppress(AssertionError):
            service.stop()
        service.destroy()


def free_port() -> int:
    """One that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- clients -----------------------------------------------------------------------------------------------


def add_client(
    home: Home,
    name: str,
    roles: Iterable[Role],
    *,
    owner: str | None = None,
    certificate: bytes | None = None,
) -> str | None:
    """In a process of its own: a token session belongs to one. The bearer token; None with a certificate."""
    return in_process(home, _add_client, name, tuple(roles), owner, certificate)  # type: ignore[no-any-return]


def in_process(home: Home, work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work(server, *arguments)`` gives, with the home's server opened in another process."""
    answer = home.path / f"answer-{time.monotonic_ns()}"
    assert processes.run(_in_process, str(home.path), str(answer), work, arguments) == 0
    try:
        return pickle.loads(answer.read_bytes())
    finally:
        answer.unlink()


def _in_process(home: str, answer: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with Installation.open(Path(home)).server() as server:
        Path(answer).write_bytes(pickle.dumps(work(server, *arguments)))


def _add_client(
    server: Any, name: str, roles: tuple[Role, ...], owner: str | None, certificate: bytes | None
) -> str | None:
    _, token = clients.add(
        server.environment,
        server.store,
        name=name,
        roles=roles,
        owner=owner,
        certificate=certificate,
        actor="test",
        clock=system_clock,
    )
    return token


# --- a worker's socket -------------------------------------------------------------------------------------


class WorkerClient:
    """Speaks frames to one worker, blocking; where a front would stand. Also a SigningServer of its own."""

    def __init__(
        self,
        path: Path,
        *,
        bearer: str | None = None,
        name: str | None = None,
        secret: str | None = None,
        certificate: Digest | None = None,
    ) -> None:
        self.caller = wire.Caller(bearer=bearer, name=name, secret=secret, certificate=certificate)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(WAIT)
        try:
            self._socket.connect(str(path))
            self._id = 0
            self.states: list[wire.WorkerState] = []
            """What STATE frames said, oldest first."""
            self._answers: dict[int, Frame] = {}
            hello = self.receive()
            assert (hello.id, hello.kind) == (0, Kind.HELLO), hello
            self.hello = wire.decode(hello.payload, wire.WorkerState)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    # --- frames ---

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._socket.sendall(data)

    def end(self) -> None:
        """Nothing more will be sent; answers can still be read."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive(self) -> Frame:
        """The next frame. Raises EOFError where the worker has closed the connection."""
        (length,) = struct.unpack(">I", self._exactly(4))
        body = self._exactly(length)
        number, kind = struct.unpack_from(">QB", body)
        return Frame(number, Kind(kind), body[9:])

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                more = self._socket.recv(length - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError("the worker has closed the connection")
            data += more
        return bytes(data)

    def is_closed(self) -> bool:
        """Whether the worker closes the connection; what it still sends is thrown away."""
        try:
            while True:
                self.receive()
        except EOFError:
            return True

    # --- calls ---

    def begin(self, operation: wire.AnyOperation, message: bytes | None = None) -> int:
        """Send a call, and its message; its id."""
        self._id += 1
        call = wire.Call(caller=self.caller, request_id=f"test-{self._id}", operation=operation)
        self.send(frame_bytes(self._id, Kind.CALL, wire.encode(call)))
        for start in range(0, len(message or b""), MAX_CHUNK):
            self.send(frame_bytes(self._id, Kind.CHUNK, (message or b"")[start : start + MAX_CHUNK]))
        return self._id

    def finish(self, number: int) -> Frame:
        """The answer to a call, REPLY or FAILURE; others are kept."""
        while number not in self._answers:
            self._take()
        return self._answers.pop(number)

    def wait_until_taken(self) -> None:
        """Until the worker has read what was sent before: what follows here is refused when it is read."""
        with pytest.raises(InputError, match="exactly one of"):
            self.call(wire.Sign(authorisation=AUTHORISATION))

    def wait_for_state(self, state: str) -> wire.WorkerState:
        """Until a STATE frame says so; answers that come before it are kept."""
        while not self.states or self.states[-1].state != state:
            self._take()
        return self.states[-1]

    def _take(self) -> None:
        frame = self.receive()
        if frame.kind is Kind.STATE:
            self.states.append(wire.decode(frame.payload, wire.WorkerState))
        else:
            self._answers[frame.id] = frame

    def reply(self, operation: wire.AnyOperation, message: bytes | None = None) -> wire.Reply:
        """A call's REPLY. Raises the error of a FAILURE."""
        frame = self.finish(self.begin(operation, message))
        if frame.kind is Kind.FAILURE:
            raise error_in(frame)
        assert frame.kind is Kind.REPLY, frame
        return wire.decode(frame.payload, wire.Reply)

    def call(self, operation: wire.AnyOperation, message: bytes | None = None) -> Any:
        """A call's result. Raises the error of a FAILURE."""
        return wire.decode_result(operation, self.reply(operation, message).result)

    # --- as workstation.py has its servers ---

    def challenge(self, credential_id: CredentialId) -> Challenge:
        """Step 880."""
        found = self.call(wire.GetChallenge(credential_id=credential_id))
        assert isinstance(found, Challenge)
        return found

    def sign(self, request: SigningRequest) -> SignOutcome:
        """Steps 1 to 10."""
        found = self.call(*sign_call(request.authorisation, request.content))
        assert isinstance(found, SignOutcome)
        return found

    @property
    def identity(self) -> Fingerprint:
        """What the worker says: this is its own socket."""
        found = self.call(wire.GetCapabilities()).identity
        return Fingerprint(found)

    def obstacle(self, scheme: Any, key: Any) -> str:
        """Why not, or nothing."""
        return str(self.call(wire.GetCapabilities()).obstacles[f"{scheme.value}/{key.value}"])

    def credential(self, owner: str) -> CredentialView:
        """A user's credential."""
        found = self.call(wire.GetCredential(owner=owner))
        assert isinstance(found, CredentialView)
        return found

    def credential_by_id(self, credential_id: CredentialId) -> CredentialView:
        """A credential by id."""
        found = self.call(wire.GetCredential(credential_id=credential_id))
        assert isinstance(found, CredentialView)
        return found

    def begin_enrolment(self, wanted: NewCredential, subject: str | None) -> Any:
        """Keys and a pending record."""
        return self.call(wire.BeginEnrolment(wanted=EnrolmentRequest.of(wanted, subject)))

    def request_info(self, credential_id: CredentialId) -> RequestInfo:
        """The message of the first authorisation."""
        found = self.call(wire.GetRequestInfo(credential_id=credential_id))
        assert isinstance(found, RequestInfo)
        return found

    def give_up_enrolment(self, credential_id: CredentialId) -> None:
        """Delete a pending record."""
        self.call(wire.GiveUpEnrolment(credential_id=credential_id))


def sign_call(authorisation: Any, content: Content) -> tuple[wire.Sign, bytes | None]:
    """The operation, and the message that follows it."""
    if isinstance(content, DigestList):
        return wire.Sign(authorisation=authorisation, digests=content.digests), None
    assert isinstance(content, Message)
    data = b"".join(content.source.chunks())
    return wire.Sign(authorisation=authorisation, message=len(data)), data


def error_in(frame: Frame) -> SignerError:
    """What a FAILURE frame tells."""
    failure = wire.decode(frame.payload, wire.Failure)
    return wire.error_of(failure.code, failure.message, failure.hint)

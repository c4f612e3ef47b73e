"""A worker's life: who may connect, what it does when token or store go, how it ends."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.config.service import Settings
from hsm_signer.core.card_origin import OriginPolicy
from hsm_signer.core.interface import EnrolmentRequest
from hsm_signer.errors import ServiceStopping, WorkerUnavailable
from hsm_signer.server.initialise import (
    PIN_FILE,
    TOKEN_FOLDER,
)
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import Kind, socket_path
from hsm_signer.types import Algorithm, DigestList, Event
from tests.support import processes
from tests.support.other_users import NOBODY, connected_as, reachable
from tests.support.people import digests
from tests.support.scenes import authorise, database, verifies
from tests.support.service import WAIT, WorkerClient, error_in, in_process, serving, sign_call
from tests.support.tenants import Running, Tenants


def signs(running: Running, who: str = "alice") -> None:
    """The worker signs, and the signature is good."""
    with running.as_client("app") as client:
        content = digests(b"afterwards")
        verifies(running.home[who].sign(client, content), content)


def audit_is_good(running: Running) -> None:
    """Chains, records and signatures agree."""
    assert in_process(running.home, _audit) == ()


def _audit(server: object) -> object:
    return server.audit().findings  # type: ignore[attr-defined]


# --- who may connect ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", "not reached"),
        (f'socket_group = "{NOBODY.gid}"', "closed"),
        (f'socket_group = "{NOBODY.gid}"\nfront_user = "{NOBODY.uid}"', "hello"),
    ],
)
def test_peers_of_other_users(tenants: Tenants, tmp_path: Path, more: str, expected: str) -> None:
    with reachable() as folder:
        text = f'[worker]\nsockets = "{folder}/run"\n{more}\n'
        with serving(tenants.home, part="workers", settings=text, sockets=folder / "run") as service:
            assert connected_as(NOBODY, socket_path(service.sockets, 0), tmp_path) == expected
            if expected == "closed":
                assert service.wait_for("peer-refused", part="worker")["uid"] == NOBODY.uid
            # Root may, whatever is set.
            with service.worker() as client:
                assert client.hello.state == "ready"
            assert len(service.find("peer-refused")) == (expected == "closed")


def test_modes_of_folder_and_socket(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        assert service.sockets.stat().st_mode & 0o777 == 0o700
        assert socket_path(service.sockets, 0).stat().st_mode & 0o777 == 0o600
        names = sorted(each.name for each in service.sockets.iterdir())
        assert names == ["worker-0.sock"]
    assert not socket_path(service.sockets, 0).exists()


@pytest.mark.parametrize("mode", [0o701, 0o755, 0o777])
def test_a_folder_open_to_others_is_refused(tenants: Tenants, mode: int) -> None:
    folder = tenants.home.path / "run"
    folder.mkdir()
    folder.chmod(mode)
    with serving(tenants.home, part="workers", ready=False) as service:
        assert service.wait() == 2
        assert "expected a folder that belongs to uid" in service.text
    assert folder.stat().st_mode & 0o777 == mode


# --- token and store come and go ---------------------------------------------------------------------------


def test_a_token_that_goes_and_comes_back(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        running = Running(service, tenants)
        tokens = tenants.home.path / TOKEN_FOLDER
        with running.as_client("app") as client:
            tokens.rename(tokens.with_name("elsewhere"))
            frame = client.finish(client.begin(wire.SelfTest()))
            assert error_in(frame).retryable
            seen = client.wait_for_state("recovering")
            assert seen.reason is not None
            assert "token" in seen.reason
            for operation in (wire.WhoAmI(), wire.ListCredentials(), wire.SelfTest()):
                with pytest.raises(WorkerUnavailable, match="the worker is recovering") as caught:
                    client.call(operation)
                assert caught.value.hint
                assert caught.value.retryable
            with running.as_client("app") as other:
                assert (other.hello.state, other.hello.pid) == ("recovering", client.hello.pid)
            tokens.with_name("elsewhere").rename(tokens)
            assert client.wait_for_state("ready").pid == client.hello.pid
            assert client.call(wire.SelfTest()) is None
        signs(running)
        audit_is_good(running)
        assert len(service.find("started", child="worker-0")) == 1


def test_a_token_that_goes_while_signing(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        running = Running(service, tenants)
        tokens = tenants.home.path / TOKEN_FOLDER
        with running.as_client("app") as client:
            request = authorise(client, tenants.home["alice"], digests(b"x"))
            call = sign_call(request.authorisation, request.content)
            tokens.rename(tokens.with_name("elsewhere"))
            frame = client.finish(client.begin(*call))
            error = error_in(frame)
            assert error.retryable, (error.code, error.message)
            client.wait_for_state("recovering")
            tokens.with_name("elsewhere").rename(tokens)
            client.wait_for_state("ready")
            outcome = client.sign(request)
            verifies(outcome, request.content)
            assert not outcome.repeated
        audit_is_good(running)


def test_a_worker_that_starts_without_its_token(tenants: Tenants) -> None:
    tokens = tenants.home.path / TOKEN_FOLDER
    tokens.rename(tokens.with_name("elsewhere"))
    tokens.mkdir()
    with serving(tenants.home, part="workers", ready=False) as service:
        service.wait_for_worker(state="recovering")
        tokens.rmdir()
        tokens.with_name("elsewhere").rename(tokens)
        service.wait_for_worker()
        signs(Running(service, tenants))


def test_a_refused_pin_is_not_tried_again(tenants: Tenants) -> None:
    pin = tenants.home.path / PIN_FILE
    right = pin.read_text()
    pin.write_text("not the PIN\n")
    with serving(tenants.home, part="workers", ready=False) as service:
        service.wait_for("state", state="recovering", part="worker", count=4)
        reasons = [each["reason"] for each in service.find("lost")]
        assert "refuses its PIN" in reasons[0]
        assert all("not tried again" in each for each in reasons[1:])
        assert right.strip() not in service.text
        assert "not the PIN" not in service.text
        pin.write_text(right)
        service.wait_for_worker()
        signs(Running(service, tenants))


def test_the_pin_may_come_from_the_environment(tenants: Tenants) -> None:
    pin = tenants.home.path / PIN_FILE
    right = pin.read_text().strip()
    pin.unlink()
    with serving(tenants.home, part="workers", environment={"HSM_SIGNER_TOKEN_PIN": right}) as service:
        signs(Running(service, tenants))
        command = Path(f"/proc/{service.pid_of('worker-0')}/cmdline").read_bytes()
        assert right.encode() not in command


def test_a_store_that_is_not_there(tenants: Tenants) -> None:
    store = database(tenants.home)
    store.rename(store.with_suffix(".away"))
    with serving(tenants.home, part="workers", ready=False) as service:
        service.wait_for_worker(state="recovering")
        assert "there is no database" in service.find("lost")[0]["reason"]
        store.with_suffix(".away").rename(store)
        service.wait_for_worker()
        signs(Running(service, tenants))


# --- the watchdog ------------------------------------------------------------------------------------------


def test_an_operation_that_does_not_return_ends_the_process(tenants: Tenants) -> None:
    config = tenants.home.path / CONFIG_FILE
    text = config.read_text()
    assert "busy_timeout = 10.0" in text
    config.write_text(text.replace("busy_timeout = 10.0", "busy_timeout = 3600.0"))
    with serving(tenants.home, part="workers", settings="[worker]\noperation_timeout = 2.0\n") as service:
        running = Running(service, tenants)
        with running.as_client("app") as client:
            request = authorise(client, tenants.home["alice"], digests(b"x"))
            locked = sqlite3.connect(database(tenants.home))
            try:
                locked.execute("BEGIN IMMEDIATE")
                number = client.begin(*sign_call(request.authorisation, request.content))
                with pytest.raises(EOFError):
                    client.finish(number)
                service.wait_for("hung", part="worker")
                service.wait_for("ended", child="worker-0", status=70)
            finally:
                locked.close()
        service.wait_for("started", child="worker-0", generation=2)
        service.wait_for_worker()
        with running.as_client("app") as client:
            outcome = client.sign(request)
            verifies(outcome, request.content)
        audit_is_good(running)


# --- the end -----------------------------------------------------------------------------------------------


def test_a_worker_is_started_anew_after_so_many_signatures(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers", settings="[worker]\nrecycle_after = 5\n") as service:
        running = Running(service, tenants)
        with running.as_client("app") as client:
            alice = tenants.home["alice"]
            alice.sign(client, digests(b"1", b"2"))
            alice.sign(client, digests(b"3", b"4"))
            request = authorise(client, alice, digests(b"5", b"6"))
            outcome = client.sign(request)
            verifies(outcome, request.content)
            state = client.wait_for_state("draining")
            assert (state.signatures, state.generation) == (6, 1)
            assert client.is_closed()
        service.wait_for("ended", child="worker-0", status=0)
        service.wait_for("started", child="worker-0", generation=2)
        service.wait_for_worker()
        with running.as_client("app") as client:
            assert (client.hello.generation, client.hello.signatures) == (2, 0)
            again = client.sign(request)
            assert (again.signatures, again.repeated) == (outcome.signatures, True)
            # An answer given again is no signature.
            assert client.call(wire.SelfTest()) is None
        with running.as_client("app") as client:
            assert client.hello.signatures == 0


def _many() -> DigestList:
    """So many that signing them takes a while."""
    names = (str(i).encode() for i in range(400))
    return digests(*names, algorithm=Algorithm.RSA_PKCS1_SHA256)


def test_told_to_end_it_finishes_what_it_has(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        running = Running(service, tenants)
        with running.as_client("app") as client, running.as_client("app") as late:
            request = authorise(client, tenants.home["bob"], _many())
            unfinished = late.begin(
                wire.Sign(authorisation=request.authorisation, message=100_000), bytes(65536)
            )
            number = client.begin(*sign_call(request.authorisation, request.content))
            behind = client.begin(wire.WhoAmI())
            for each in (client, late):
                each.wait_until_taken()
            os.kill(service.pid_of("worker-0"), signal.SIGTERM)
            # Whose message is not complete by then is told so, and so is whoever comes now.
            late.wait_for_state("draining")
            assert type(error_in(late.finish(unfinished))) is ServiceStopping
            frame = client.finish(number)
            assert frame.kind is Kind.REPLY, error_in(frame)
            assert client.finish(behind).kind is Kind.REPLY
            assert client.is_closed()
        service.wait_for("ended", child="worker-0", status=0, generation=1)
        service.wait_for_worker()
        audit_is_good(running)


def test_draining_takes_nothing_new(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        running = Running(service, tenants)
        with running.as_client("app") as client:
            request = authorise(client, tenants.home["bob"], _many())
            number = client.begin(*sign_call(request.authorisation, request.content))
            client.wait_until_taken()
            os.kill(service.pid_of("worker-0"), signal.SIGTERM)
            client.wait_for_state("draining")
            refused = client.begin(wire.WhoAmI())
            assert type(error_in(client.finish(refused))) is ServiceStopping
            assert client.finish(number).kind is Kind.REPLY


def test_it_ends_when_its_standard_input_does(tenants: Tenants) -> None:
    home = tenants.home.path
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "hsm_signer.service.worker"),
            *("--home", str(home), "--settings", str(home / "service.toml")),
            *("--slot", "3", "--generation", "7"),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        until = time.monotonic() + 60
        while True:
            try:
                with WorkerClient(socket_path(home / "run", 3)) as client:
                    assert (client.hello.slot, client.hello.generation) == (3, 7)
                    break
            except OSError:
                assert time.monotonic() < until
                assert process.poll() is None
                time.sleep(0.02)
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_settings_that_are_wrong_end_it_at_once(tenants: Tenants) -> None:
    home = tenants.home.path
    (home / "service.toml").write_text("[worker]\ncount = 0\n")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "hsm_signer.service.worker"),
            *("--home", str(home), "--settings", str(home / "service.toml")),
            *("--slot", "0", "--generation", "1"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "worker.count" in ran.stderr


def test_no_session_objects_are_left(tenants: Tenants) -> None:
    assert processes.run(_count_objects, str(tenants.home.path), tenants.tokens["app"]) == 0


def _count_objects(home: str, token: str) -> None:
    """In a process of its own: the worker's own threads, over the token as they have it."""
    from hsm_signer.config.service import ApprovalSettings, LimitSettings
    from hsm_signer.errors import Refused
    from hsm_signer.service.worker import access, handlers
    from hsm_signer.service.worker.threads import TokenThread
    from hsm_signer.testing import Person
    from hsm_signer.types import KeySpec, Scheme
    from tests.support.enrolments import wanted

    thread = TokenThread(Path(home), Settings(), lambda state, reason: None, OriginPolicy())
    thread.start()
    identities = access.Identities()

    def objects(server: object) -> int:
        session = server.environment.session.pkcs11  # type: ignore[attr-defined]
        from pkcs11 import Attribute

        return len(list(session.get_objects({Attribute.TOKEN: False})))

    def call(operation: wire.AnyOperation) -> object:
        asked = wire.Call(caller=wire.Caller(bearer=token), request_id="x", operation=operation)
        return thread.ask(
            lambda server: handlers.carry_out(
                server, identities, LimitSettings(), ApprovalSettings(), asked, None, lambda name: None
            )
        ).result(60)

    class Near:
        """What the card needs of a server."""

        def challenge(self, credential_id: object) -> object:
            return call(wire.GetChallenge(credential_id=credential_id))  # type: ignore[arg-type]

    before = thread.ask(objects).result(60)
    for name, scheme, key in (
        ("alice", Scheme.ROLLING, KeySpec.P256),
        ("bob", Scheme.ROLLING, KeySpec.RSA2048),
        ("paula", Scheme.PIN, KeySpec.P256),
        ("peter", Scheme.PIN, KeySpec.RSA2048),
    ):
        person = Person(name, scheme, key, Path(home) / "cards" / f"{name}.card")
        algorithm = key.default_algorithm
        for _ in range(3):
            request = authorise(Near(), person, digests(b"x", algorithm=algorithm))  # type: ignore[arg-type]
            operation, _message = sign_call(request.authorisation, request.content)
            call(operation)
            changed = digests(b"y", algorithm=algorithm).digests
            try:
                call(wire.Sign(authorisation=request.authorisation, digests=changed))
            except Refused:
                pass
            else:
                raise AssertionError("signed what was not authorised")
    for _ in range(3):
        call(wire.BeginEnrolment(wanted=EnrolmentRequest.of(wanted(), None)))
        call(wire.SelfTest())
        call(wire.ListCredentials())
    assert thread.ask(objects).result(60) == before
    thread.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_busy_worker_writes_how_many_were_refused(tenants: Tenants) -> None:
    assert processes.run(_write_counted, str(tenants.home.path)) == 0


def _write_counted(home: str) -> None:
    """In a process of its own, whose thread has always something to do and need not wait for a minute."""
    from hsm_signer.errors import ChallengeStale
    from hsm_signer.server.base import system_clock
    from hsm_signer.server.refusals import MINUTE, SHARE
    from hsm_signer.service.worker import threads
    from hsm_signer.testing import Person
    from hsm_signer.types import KeySpec, Scheme
    from tests.support.scenes import altered

    threads.COUNTS_EVERY = 0.1
    thread = threads.TokenThread(Path(home), Settings(), lambda state, reason: None, OriginPolicy())
    thread.start()
    done = threading.Event()

    def again(server: object) -> None:
        if not done.wait(0.001):
            thread.ask(again)

    def refuse(server: Any) -> None:
        past = replace(server, clock=lambda: system_clock() - 2 * MINUTE)
        alice = Person("alice", Scheme.ROLLING, KeySpec.P256, Path(home) / "cards" / "alice.card")
        request = altered(authorise(server, alice), x=2**40)
        for _ in range(SHARE + 5):
            try:
                past.sign(request)
            except ChallengeStale:
                continue
            raise AssertionError("signed with another counter")
        assert len(server.store.counted_refusals()) == 1

    for _ in range(2):  # one runs, the other waits
        thread.ask(again)
    thread.ask(refuse).result(WAIT)
    until = time.monotonic() + WAIT
    while thread.ask(lambda server: server.store.counted_refusals()).result(WAIT):
        assert time.monotonic() < until, "nobody writes it"
    entries = thread.ask(lambda server: list(server.entries())).result(WAIT)
    assert sum(entry.x for _, entry in entries if entry.event is Event.REFUSALS) == 5
    done.set()
    thread.stop()
    thread.join(WAIT)
    assert not thread.is_alive()


def test_the_log_has_no_secrets(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        running = Running(service, tenants)
        signs(running)
        token = tenants.tokens["signer"]
        with service.worker(name="signer", secret=token) as client:
            access = client.call(wire.Login(lifetime=60))
        with service.worker(bearer=access.token) as client:
            client.call(wire.WhoAmI())
            client.call(wire.Logout(token=access.token))
        with service.worker(bearer="hsc_mistyped") as client:
            client.finish(client.begin(wire.WhoAmI()))
        service.stop()
        assert service.find("call", operation="sign", client="app")
        pin = (tenants.home.path / PIN_FILE).read_text().strip()
        for secret in (*tenants.tokens.values(), access.token, "hsc_mistyped", pin):
            assert secret not in service.text

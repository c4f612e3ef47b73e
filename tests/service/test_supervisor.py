"""The supervisor: children that end are started again, all end with it, and each gets what it may have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.config import service as service_settings
from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.errors import ConfigError
from hsm_signer.service import supervisor
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import socket_path
from hsm_signer.types import Algorithm
from tests.support.people import digests
from tests.support.processes import environment_of
from tests.support.scenes import authorise, verifies
from tests.support.service import WAIT, Service, in_process, serving, sign_call
from tests.support.tenants import Running, Tenants


def gone(pid: int) -> bool:
    """Whether there is no such process any more, or only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(*pids: int) -> None:
    """Until all of them are."""
    until = time.monotonic() + WAIT
    while not all(map(gone, pids)):
        assert time.monotonic() < until, pids
        time.sleep(0.02)


# --- workers -----------------------------------------------------------------------------------------------


def test_a_worker_killed_while_it_signs(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        running = Running(service, tenants)
        listed = digests(*(str(i).encode() for i in range(1000)), algorithm=Algorithm.RSA_PKCS1_SHA256)
        with running.as_client("app") as client:
            request = authorise(client, tenants.home["bob"], listed)
            number = client.begin(*sign_call(request.authorisation, request.content))
            client.wait_until_taken()
            service.kill(service.pid_of("worker-0"))
            with pytest.raises(EOFError):
                client.finish(number)
        service.wait_for("ended", child="worker-0", status=-signal.SIGKILL)
        started = service.wait_for("started", child="worker-0", generation=2)
        service.wait_for_worker()
        with running.as_client("app") as client:
            assert (client.hello.pid, client.hello.generation) == (started["pid"], 2)
            # The same request again finds out how far it came.
            outcome = client.sign(request)
            verifies(outcome, request.content)
            again = client.sign(request)
            assert (again.signatures, again.repeated) == (outcome.signatures, True)
        assert in_process(tenants.home, _findings) == ()


def _findings(server: object) -> object:
    return server.audit().findings  # type: ignore[attr-defined]


def test_one_worker_killed_and_the_other_goes_on(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers", workers=2) as service:
        running = Running(service, tenants)
        with running.as_client("app", slot=1) as other:
            for _ in range(3):
                service.kill(service.pid_of("worker-0"))
                assert other.call(wire.WhoAmI()).name == "app"
                count = len(service.find("ended", child="worker-0")) + 1
                service.wait_for("ended", child="worker-0", count=min(count, 1))
                service.wait_for_worker(0)
            content = digests(b"x")
            verifies(tenants.home["alice"].sign(other, content), content)
        service.wait_for("started", child="worker-0", generation=2)
        assert len(service.find("started", child="worker-1")) == 1


def test_pauses_grow_and_a_first_end_has_none() -> None:
    child = supervisor.Child("x", [], {}, numbered=True)
    child.started = time.monotonic()
    pauses = []
    for _ in range(9):
        child.plan(1)
        pauses.append(round(child.due - time.monotonic(), 1))
    assert pauses == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    child.plan(0)
    assert child.due <= time.monotonic()  # one that was meant to end
    child.plan(1)
    child.plan(1)
    assert child.due > time.monotonic()
    child.started -= supervisor.STEADY  # one that has lived
    child.plan(-9)
    assert child.due <= time.monotonic()


def test_everything_ends_with_the_supervisor(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers", workers=2) as service:
        pids = service.pid_of("worker-0"), service.pid_of("worker-1")
        assert service.stop() == 0
        assert all(map(gone, pids))
        assert not list(service.sockets.glob("*.sock"))


def test_everything_ends_even_when_the_supervisor_is_killed(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers", workers=2) as service:
        pids = service.pid_of("worker-0"), service.pid_of("worker-1")
        service.kill(service.pid)
        wait_until_gone(*pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_end_it(tenants: Tenants, number: signal.Signals) -> None:
    with serving(tenants.home, part="workers") as service:
        service.process.send_signal(number)
        assert service.wait() == 0
        assert service.find("stopping", signal=number.name)


def test_a_terminals_interrupt_reaches_the_supervisor_alone(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        assert os.getpgid(service.pid_of("worker-0")) == service.pid_of("worker-0") != service.pid
        os.killpg(service.pid, signal.SIGINT)
        assert service.wait() == 0
        assert service.find("ended", child="worker-0")[0]["status"] == 0


def test_a_worker_that_does_not_end_is_killed(tenants: Tenants) -> None:
    settings = "[limits]\nstop_timeout = 0.5\n"
    with serving(tenants.home, part="workers", settings=settings) as service:
        service.kill(service.pid_of("worker-0"), signal.SIGSTOP)
        service.process.send_signal(signal.SIGTERM)
        service.wait_for("stopping")
        service.process.send_signal(signal.SIGTERM)  # asked again: at once
        assert service.wait() == 0
        assert service.find("ended", child="worker-0")[0]["status"] == -signal.SIGKILL


def test_a_second_service_is_refused_and_the_first_goes_on(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers") as service:
        with serving(tenants.home, part="workers", ready=False) as second:
            assert second.wait() == 2
            assert "the service runs already" in second.text
        with service.worker() as client:
            assert client.hello.state == "ready"


def test_what_killed_workers_left_is_removed(tenants: Tenants) -> None:
    with serving(tenants.home, part="workers", workers=2) as service:
        service.kill(service.pid)
        for slot in (0, 1):
            service.kill(service.pid_of(f"worker-{slot}"))
        wait_until_gone(service.pid_of("worker-0"), service.pid_of("worker-1"))
        assert socket_path(service.sockets, 1).exists()
    with serving(tenants.home, part="workers", workers=1) as service:
        assert [each.name for each in service.sockets.glob("*.sock")] == ["worker-0.sock"]


# --- what is wrong before anything starts ------------------------------------------------------------------


def refused(tenants: Tenants, *arguments: str, settings: str | None = None, part: str = "workers") -> str:
    """`serve` ends with 2 and starts nothing; what it says."""
    with serving(tenants.home, part=part, settings=settings, arguments=arguments, ready=False) as service:
        assert service.wait() == 2, service.text
        assert not service.find("started")
        return service.text


def test_no_installation(tenants: Tenants) -> None:
    (tenants.home.path / CONFIG_FILE).unlink()
    assert "there is no installation" in refused(tenants)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[worker]\ncount = 0\n", "worker.count"),
        ("[worker]\nunknown = 0\n", "unknown key"),
        ('bind = "nowhere"\n', "bind: expected HOST:PORT"),
        ('bind = "::1:80"\n', "bind: expected HOST:PORT"),
        ('bind = "localhost:65536"\n', "bind: expected HOST:PORT"),
        (f'[worker]\nsockets = "{"x" * 100}"\n', "is too long"),
        ('[worker]\nsocket_group = "no-such-group"\n', "there is no system group"),
        ('[worker]\nuser = "no-such-user"\n', "there is no system user"),
    ],
)
def test_settings_that_are_wrong(tenants: Tenants, settings: str, words: str) -> None:
    assert words in refused(tenants, settings=settings)


def test_a_settings_file_that_is_not_there(tenants: Tenants) -> None:
    assert "there is no file" in refused(tenants, "--settings", "/nonexistent/service.toml")


@pytest.mark.parametrize("bind", ["127.0.0.1", ":80", "[::1]", "a:b", "[::1:80", "host:99999", "host:-1"])
def test_bind(tenants: Tenants, bind: str) -> None:
    assert "--bind: expected HOST:PORT" in refused(tenants, "--bind", bind)


def test_only_root_starts_processes_as_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    chosen = service_settings.Settings(worker=service_settings.WorkerSettings(user="0"))
    with pytest.raises(ConfigError, match="only root can start processes as 0"):
        supervisor.run(tmp_path, tmp_path / "service.toml", chosen, "workers")


# --- who gets what -----------------------------------------------------------------------------------------


def test_the_fronts_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HSM_SIGNER_TOKEN_PIN", "SOFTHSM2_CONF", "PGPASSWORD", "HSM_SIGNER_HOME", "LD_PRELOAD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    found = supervisor.front_environment()
    assert "secret" not in found.values()
    assert found["LC_ALL"] == "C.UTF-8"
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"
    assert found["PATH"] == os.environ["PATH"]
    allowed = ("PATH", "LANG", "LC_", "TZ", "HOME", "PYTHON", "TMPDIR", "VIRTUAL_ENV")
    assert all(name.startswith(allowed) for name in found)


FRONT = '''\
"""Stands where the front would: shows what it was started with."""
import json, os, select, signal, sys
print(json.dumps({"event": "front", "arguments": sys.argv[1:], "environment": dict(os.environ),
                  "uid": os.getuid(), "groups": sorted({os.getgid(), *os.getgroups()})}),
      file=sys.stderr, flush=True)
if (status := int(os.environ.get("PYTHON_FRONT_STATUS", "0"))):
    os._exit(status)
signal.signal(signal.SIGHUP, lambda *_: print('{"event": "reloaded"}', file=sys.stderr, flush=True))
def end(*_):
    print('{"event": "front-ends"}', file=sys.stderr, flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
while os.read(0, 1):
    pass
'''


@contextmanager
def with_another_front(
    tenants: Tenants, folder: Path, *, environment: dict[str, str] | None = None, **options: Any
) -> Iterator[Service]:
    """The real supervisor and workers; in the front's place a module that tells what it got."""
    hsm_signer = folder / "modules" / "sitecustomize.py"
    hsm_signer.parent.mkdir()
    # The supervisor runs "-m hsm_signer.service.front": the name leads to the file above.
    (hsm_signer.parent / "front_here.py").write_text(FRONT)
    hsm_signer.write_text(
        "import os, sys\n"
        "if '-m' in sys.orig_argv and 'hsm_signer.service.front' in sys.orig_argv:\n"
        "    import runpy\n"
        "    at = sys.orig_argv.index('hsm_signer.service.front')\n"
        "    sys.argv = ['front', *sys.orig_argv[at + 1:]]\n"
        f"    runpy.run_path({str(hsm_signer.parent / 'front_here.py')!r}, run_name='__main__')\n"
        "    os._exit(0)\n"
    )
    given = dict(environment or {})
    given["PYTHONPATH"] = ":".join(filter(None, (str(hsm_signer.parent), given.get("PYTHONPATH"))))
    with serving(tenants.home, environment=given, ready=False, **options) as service:
        yield service


def test_the_front_gets_no_secrets_and_ends_first(tenants: Tenants, tmp_path: Path) -> None:
    right = (tenants.home.path / "token.pin").read_text().strip()
    with with_another_front(
        tenants, tmp_path, environment={"HSM_SIGNER_TOKEN_PIN": right, "PGPASSWORD": "x"}
    ) as service:
        front = service.wait_for("front")
        home = tenants.home.path
        assert front["arguments"] == [
            *("--settings", str(home / "service.toml"), "--sockets", str(home / "run")),
            *("--workers", "1", "--bind", "127.0.0.1:0"),
        ]
        assert right not in str(front)
        assert not {"HSM_SIGNER_TOKEN_PIN", "SOFTHSM2_CONF", "PGPASSWORD"} & set(front["environment"])
        service.wait_for_worker()
        assert environment_of(service.pid_of("worker-0"))["HSM_SIGNER_TOKEN_PIN"] == right
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("reloaded")
        # Its end: the front is gone before a worker is told.
        assert service.stop() == 0
        events = [(each.get("child"), each["event"], each.get("state")) for each in service.log]
        at_front = events.index(("front", "ended", None))
        assert at_front < events.index((None, "state", "draining"))
        assert service.find("ended", child="front")[0]["status"] == 0


def test_a_front_that_ends_is_started_again(tenants: Tenants, tmp_path: Path) -> None:
    with with_another_front(tenants, tmp_path, part="front", workers=1) as service:
        service.wait_for("front")
        service.kill(service.pid_of("front"))
        service.wait_for("ended", child="front", status=-signal.SIGKILL)
        service.wait_for("front", count=2)
        assert len(service.find("started", child="front")) == 2
        assert not service.find("started", child="worker-0")


@pytest.mark.parametrize("status", [2, 6])
def test_a_front_that_cannot_start_ends_everything(tenants: Tenants, tmp_path: Path, status: int) -> None:
    with with_another_front(tenants, tmp_path, environment={"PYTHON_FRONT_STATUS": str(status)}) as service:
        assert service.wait() == status
        wait_until_gone(service.pid_of("worker-0"))
        assert len(service.find("started", child="front")) == 1


def test_the_front_alone_needs_no_home(tenants: Tenants, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "service.toml").write_text('[worker]\nsockets = "sockets"\n')
    shutil_home = tenants.home.path / CONFIG_FILE
    shutil_home.unlink()
    with with_another_front(
        tenants, tmp_path, part="front", arguments=("--settings", str(other / "service.toml"))
    ) as service:
        front = service.wait_for("front")
        assert front["arguments"][:4] == [
            *("--settings", str(other / "service.toml"), "--sockets", str(other / "sockets")),
        ]


def test_help_is_quick_and_imports_no_service() -> None:
    code = (
        "import sys\n"
        "from hsm_signer.cli.serve import command\n"
        "command.main(['--help'], standalone_mode=False, obj=None)\n"
        "print(sorted(m for m in sys.modules if m in ('sqlalchemy', 'pkcs11', 'starlette', 'httpx')))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.rstrip().endswith("[]")
    assert "--part" in ran.stdout

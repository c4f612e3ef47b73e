"""Front and workers as two system users, for real: what is said of who can read what is what the kernel says.

The home belongs to one user, the front is another, they meet in the group of the sockets; a third user is
anybody.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.config.service import SETTINGS_FILE
from hsm_signer.server.initialise import (
    PIN_FILE,
    SO_PIN_FILE,
)
from hsm_signer.service.wire.frames import socket_path
from hsm_signer.testing import make_person
from hsm_signer.types import Scheme
from hsm_signer.workstation.remote import RemoteServer
from tests.support import processes
from tests.support.other_users import Python, User, become, connected_as, give, reachable
from tests.support.people import digests
from tests.support.processes import environment_of
from tests.support.scenes import database, verifies
from tests.support.service import Service, serving
from tests.support.tenants import Tenants

SOCKETS = 54323
"""The group of the sockets."""
WORKERS = User(54321, 54321, (SOCKETS,))
FRONT = User(54322, 54322, (SOCKETS,))
THIRD = User(54324, 54324)
SECRETS = {"HSM_SIGNER_TOKEN_PIN": "", "PGPASSWORD": "hunter2", "SOFTHSM2_CONF": "/nonexistent"}
OF_WORKERS_ALONE = ("libsofthsm2", "sqlite", "psycopg", "libpq", "_pkcs11")
"""In the names of what only a worker loads."""


@dataclass(frozen=True)
class Running:
    """Two users' service."""

    tenants: Tenants
    workers: Service
    front: Service
    folder: Path

    @property
    def front_pid(self) -> int:
        """The front's process."""
        return self.front.pid_of("front")

    @property
    def worker_pids(self) -> list[int]:
        """The workers' processes."""
        return [self.workers.pid_of(f"worker-{slot}") for slot in range(2)]

    @property
    def story(self) -> str:
        """What they said."""
        return f"{self.workers.story}\n{self.front.story}"


def settings_file(folder: Path, sockets: Path) -> None:
    """service.toml, and the folder in which the front makes its certificate."""
    (folder / "tls").mkdir(parents=True, mode=0o700)
    folder.chmod(0o755)
    (folder / SETTINGS_FILE).write_text(
        f'[worker]\nsockets = "{sockets}"\nsocket_group = "{SOCKETS}"\n'
        f'user = "{WORKERS.uid}"\nfront_user = "{FRONT.uid}"\n'
    )
    give(folder / "tls", FRONT)


@pytest.fixture(scope="module", params=["two commands", "one command, as root"])
def running(
    request: pytest.FixtureRequest, template_tenants: Tenants, python_for_others: Python
) -> Iterator[Running]:
    """`serve --part workers` and `serve --part front`, each by its own user; or `serve` by root."""
    with reachable() as folder, ExitStack() as stack:
        tenants = template_tenants.copy_to(folder / "home")
        give(tenants.home.path, WORKERS)
        pin = (tenants.home.path / PIN_FILE).read_text().strip()
        environment = {**python_for_others.environment, "HOME": str(folder)}
        if request.param == "one command, as root":
            settings_file(folder / "etc", folder / "run")
            environment |= {**SECRETS, "HSM_SIGNER_TOKEN_PIN": pin}
            service = stack.enter_context(
                serving(
                    tenants.home,
                    workers=2,
                    folder=folder / "etc",
                    sockets=folder / "run",
                    python=python_for_others.executable,
                    environment=environment,
                )
            )
            yield Running(tenants, service, service, folder)
            assert service.stop() == 0, service.story
            return
        for name in ("workers", "front"):
            settings_file(folder / name, folder / "run" / "sockets")
        (folder / "run").mkdir()
        give(folder / "run", WORKERS)
        services = [
            stack.enter_context(
                serving(
                    tenants.home,
                    part=part,
                    workers=2,
                    folder=folder / part,
                    sockets=folder / "run" / "sockets",
                    python=python_for_others.executable,
                    environment=environment,
                    user=user,
                )
            )
            for part, user in (("workers", WORKERS), ("front", FRONT))
        ]
        yield Running(tenants, services[0], services[1], folder)
        assert [each.stop() for each in services] == [0, 0]


# --- what the kernel says of a process ---------------------------------------------------------------------


def user_of(pid: int) -> User:
    """As whom it runs; no other id is kept to go back to."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    (uid,), (gid,) = set(status["Uid"].split()), set(status["Gid"].split())
    return User(int(uid), int(gid), tuple(map(int, status["Groups"].split())))


def descriptors(pid: int) -> list[str]:
    """What its open descriptors lead to."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(each.readlink()))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def listening_sockets(pid: int) -> set[str]:
    """Those of its descriptors that listen for TCP."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # TCP_LISTEN
                inodes.add(f"socket:[{fields[9]}]")
    return inodes & set(descriptors(pid))


def loaded(pid: int) -> set[str]:
    """Which of the workers' libraries are in its memory."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {each for each in OF_WORKERS_ALONE if each in maps}


def _open_as(user: User, paths: list[str], answer: str) -> None:
    with Path(answer).open("w") as file:
        become(user)
        for path in paths:
            try:
                os.close(os.open(path, os.O_RDONLY))
            except OSError as error:
                print(errno.errorcode[error.errno or 0], file=file)
            else:
                print("opened", file=file)


def opened_as(user: User, paths: list[Path], folder: Path) -> list[str]:
    """How each of these can be opened for reading: "opened", or the error's name."""
    answer = folder / "opened"
    assert processes.run(_open_as, user, list(map(str, paths)), str(answer)) == 0
    return answer.read_text().split()


# --- tests -------------------------------------------------------------------------------------------------


def test_enrolment_and_signatures(running: Running, tmp_path: Path) -> None:
    front = running.front
    app = running.tenants.tokens["app"]
    with RemoteServer(front.url, token=app, ca=front.ca) as server:
        fingerprint = server.claimed_identity
    with RemoteServer(front.url, token=app, ca=front.ca, identity=fingerprint) as server:
        for scheme in (Scheme.ROLLING, Scheme.PIN):
            person = make_person(server, tmp_path, f"new-{scheme.value}", scheme=scheme)
            content = digests(b"x", b"y")
            verifies(person.sign(server, content), content)
        content = digests(b"z")
        verifies(running.tenants.home["alice"].sign(server, content), content)


def test_each_is_its_user(running: Running) -> None:
    assert user_of(running.front_pid) == FRONT, running.story
    for pid in running.worker_pids:
        assert user_of(pid) == WORKERS, running.story


def test_the_front_has_no_secrets(running: Running) -> None:
    pin = (running.tenants.home.path / PIN_FILE).read_text().strip()
    found = environment_of(running.front_pid)
    assert not set(SECRETS) & set(found)
    assert pin not in str(found)
    if running.front is running.workers:
        # They were there to be had.
        assert set(SECRETS) <= set(environment_of(running.front.pid))
        assert environment_of(running.worker_pids[0])["HSM_SIGNER_TOKEN_PIN"] == pin


def test_the_front_cannot_open_what_the_workers_have(running: Running, tmp_path: Path) -> None:
    home = running.tenants.home
    paths = [home.path / CONFIG_FILE, database(home), home.path / PIN_FILE, home.path / SO_PIN_FILE]
    assert opened_as(user_of(running.front_pid), paths, tmp_path) == ["EACCES"] * len(paths)
    assert opened_as(user_of(running.worker_pids[0]), paths, tmp_path) == ["opened"] * len(paths)
    # Nor the front's memory and the workers', one the other's; and nobody but the front has its TLS key.
    key = running.front.folder / "tls" / "server.key"
    memory = [Path(f"/proc/{running.worker_pids[0]}/mem"), Path(f"/proc/{running.worker_pids[0]}/environ")]
    assert opened_as(user_of(running.front_pid), [*memory, key], tmp_path) == ["EACCES", "EACCES", "opened"]
    assert opened_as(user_of(running.worker_pids[0]), [key], tmp_path) == ["EACCES"]
    assert opened_as(THIRD, [*paths, key], tmp_path) == ["EACCES"] * (len(paths) + 1)


def test_the_front_has_loaded_and_opened_nothing_of_it(running: Running) -> None:
    assert loaded(running.front_pid) == set()
    home = str(running.tenants.home.path)
    assert [each for each in descriptors(running.front_pid) if each.startswith(home)] == []
    for pid in running.worker_pids:
        assert {"libsofthsm2", "sqlite", "_pkcs11"} <= loaded(pid)
        assert str(database(running.tenants.home)) in descriptors(pid)


def test_workers_listen_for_nobody_on_the_network(running: Running) -> None:
    assert len(listening_sockets(running.front_pid)) == 1
    for pid in (*running.worker_pids, running.workers.pid, running.front.pid):
        assert listening_sockets(pid) == set()


def test_only_the_front_is_spoken_to(running: Running, tmp_path: Path) -> None:
    path = socket_path(running.workers.sockets, 0)
    assert connected_as(FRONT, path, tmp_path) == "hello", running.story
    assert connected_as(THIRD, path, tmp_path) == "not reached"
    # Not even who has got into the group.
    refused = len(running.workers.find("peer-refused", uid=THIRD.uid))
    assert connected_as(User(THIRD.uid, THIRD.gid, (SOCKETS,)), path, tmp_path) == "closed"
    running.workers.wait_for("peer-refused", uid=THIRD.uid, count=refused + 1)
    # Nor does anybody put a socket of his own in a worker's place.
    status = running.workers.sockets.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (WORKERS.uid, SOCKETS, 0o750)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (WORKERS.uid, SOCKETS, 0o660)

"""Fixtures every room shares: a fresh installation with enrolled users, and the command line."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hsm_signer.cli import doctor_checks
from hsm_signer.server.server import Server
from hsm_signer.store.database import sqlite_url
from hsm_signer.store.store import Store
from hsm_signer.testing import Home, make_home, own_environment
from hsm_signer.types import KeySpec, Scheme
from tests.support import needs
from tests.support.commandline import Cli, Process
from tests.support.pcscd import Pcscd
from tests.support.people import SOFTHSM_CONF, use_store

if TYPE_CHECKING:
    from tests.support.postgresql import Postgresql

# Whoever started this run in the background left SIGINT ignored, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# --- markers -----------------------------------------------------------------------------------------------

BY_FIXTURE = {
    "postgresql": "database",
    "_own_pcscd": "reader",
    "running": "service",
    "as_root": "users",
    "as_somebody": "users",
}
BY_PARAMETER = {"postgresql": "database", "pcsc": "reader", "jcardsim": "applet"}
"""Of fixtures that choose by their parameter what they need."""
BY_NAME = {"serving": "service", "far_service": "service"}
"""What a module that has this name can start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, and begin with those that take longest, so that nobody waits for them."""
    for item in items:
        assert isinstance(item, pytest.Function)
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        found = {
            *(marker for name, marker in BY_FIXTURE.items() if name in item.fixturenames),
            *(BY_PARAMETER.get(value, "") for value in parameters if isinstance(value, str)),
            *(marker for name, marker in BY_NAME.items() if hasattr(item.module, name)),
        }
        for marker in found - {""}:
            item.add_marker(marker)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What starts something asks for the marker that says so."""
    needs.running = item
    try:
        return (yield)
    finally:
        needs.running = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration a skipped test is a failed one: it shows nothing."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"
    return report


# --- what tests begin with ---------------------------------------------------------------------------------

PEOPLE = (
    ("alice", Scheme.ROLLING, KeySpec.P256),
    ("bob", Scheme.ROLLING, KeySpec.RSA2048),
    ("paula", Scheme.PIN, KeySpec.P256),
    ("peter", Scheme.PIN, KeySpec.RSA2048),
    ("basil", Scheme.BASIC, KeySpec.P256),
)


@pytest.fixture(autouse=True)
def _clean_environment() -> Iterator[None]:
    """Nothing of the developer's own installation reaches a test."""
    with own_environment():
        yield


@pytest.fixture(scope="session")
def _own_pcscd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pcscd]:
    """A PC/SC service of this run's own."""
    needs.pyscard()
    service = Pcscd(tmp_path_factory.mktemp("pcscd"))
    # pcsc-lite reads it once, at its first use in this process.
    os.environ.update(service.environment)
    service.start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def pcscd(_own_pcscd: Pcscd) -> Pcscd:
    """The service, running, whatever an earlier module did to it."""
    _own_pcscd.ensure()
    return _own_pcscd


@pytest.fixture(scope="session")
def template_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Made once: the token probed, RSA keys generated. Never used itself, only copied."""
    needs.softhsm_module()
    folder = tmp_path_factory.mktemp("template")
    with own_environment():
        return make_home(folder / "home", PEOPLE, softhsm_conf=SOFTHSM_CONF, every_algorithm=True)


@pytest.fixture
def home(template_home: Home, tmp_path: Path) -> Home:
    """An installation of the test's own, with the users of :data:`PEOPLE`."""
    return template_home.copy_to(tmp_path / "home")


EMPTY_STORE = "empty_store"
FILLED_STORE = "filled_store"
"""Databases that are only copied: their migrations run once."""


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A database server of this run's own."""
    needs.postgresql()
    from tests.support.postgresql import running

    with running() as server:
        Store.create(server.url(server.make(name=EMPTY_STORE))).close()
        yield server


@pytest.fixture(scope="session")
def _shared_store(postgresql: Postgresql) -> str:
    return postgresql.make(EMPTY_STORE)


@pytest.fixture
def postgresql_url(postgresql: Postgresql, _shared_store: str) -> Iterator[str]:
    """An empty store on the server, for tests that write rows and change nothing else."""
    yield postgresql.url(_shared_store)
    postgresql.empty(_shared_store)


@pytest.fixture
def postgresql_own_url(postgresql: Postgresql) -> Iterator[str]:
    """An empty store on the server, the test's own."""
    name = postgresql.make(EMPTY_STORE)
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture
def postgresql_empty_url(postgresql: Postgresql) -> Iterator[str]:
    """A database on the server with nothing in it."""
    name = postgresql.make()
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture(scope="session")
def _filled_store(postgresql: Postgresql, template_home: Home) -> str:
    from tests.support.postgresql import copy_store

    name = postgresql.make(name=FILLED_STORE)
    copy_store(sqlite_url(template_home.path / "store.db"), postgresql.url(name))
    return name


@pytest.fixture
def postgresql_home(home: Home, postgresql: Postgresql, _filled_store: str) -> Iterator[Home]:
    """``home`` with its store on the server, and no other."""
    name = postgresql.make(_filled_store)
    use_store(home, postgresql.url(name))
    yield home
    postgresql.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def home_on_each(request: pytest.FixtureRequest) -> Home:
    """``home`` on either database."""
    found: Home = request.getfixturevalue({"sqlite": "home", "postgresql": "postgresql_home"}[request.param])
    return found


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    """The server of ``home``, in this process."""
    with home.server() as opened:
        yield opened


@pytest.fixture
def run(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """`hsm-signer` on a fresh copy of the home, in tmp_path."""
    return Cli(home.path, tmp_path, monkeypatch, capfd)


@pytest.fixture
def fewer_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` in this process makes no RSA keys, which is what takes it long."""
    slow = {key: tuple(Scheme) for key in KeySpec if key is not KeySpec.ED25519}
    slow[KeySpec.P256] = (Scheme.PIN, Scheme.BASIC)
    monkeypatch.setattr(doctor_checks, "SLOW_KEYS", slow)


@pytest.fixture
def process(home: Home, tmp_path: Path) -> Process:
    """`hsm-signer` as a process, on a fresh copy of the home, in tmp_path."""
    return Process(home.path, tmp_path)

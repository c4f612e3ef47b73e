"""Sign in your own tests without HSM and card: SoftHSM2 and simulated cards, in a temporary folder.

In the ``conftest.py`` at the top of your tests::

    pytest_plugins = ["hsm_signer.testing"]

and in a test::

    import hsm_signer

    def test_the_letter_is_signed(hsm_signer_home):
        alice = hsm_signer_home["alice"]
        with hsm_signer.open_installation() as server:
            outcome = hsm_signer.sign(server, alice.address, b"letter", pin=alice.pin)
            hsm_signer.verify(server.credential("alice"), b"letter", outcome.signature)

Fixtures: ``hsm_signer_home`` is an installation of the test's own with the user alice, and the environment
variable HSM_SIGNER_HOME names it; ``hsm_signer_server`` is its server, opened in this process;
``hsm_signer_service`` is a signing service on localhost with a user alice of its own, for the whole run.
SoftHSM2 has to be installed, and for the service ``hsm-signer[service]``. Without pytest's fixtures
:func:`make_home` and :func:`serving` do the same.

The PINs of these cards are known to everybody, and their keys are files: for tests only.

PYTEST_DONT_REWRITE: there is no assert to rewrite, and a conftest.py may import this before pytest does.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hsm_signer.card.address import create_card, open_card
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.config.installation import HOME_VARIABLE, Config
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import InputError, ServiceTimeout, ServiceUnreachable
from hsm_signer.server.initialise import TOKEN_FOLDER, NewInstallation, initialise
from hsm_signer.server.installation import SOFTHSM_FILE, Installation, no_prompt
from hsm_signer.server.server import Server
from hsm_signer.token import softhsm
from hsm_signer.types import (
    Algorithm,
    Content,
    CredentialRecord,
    KeySpec,
    Message,
    PinCheck,
    Scheme,
    SignOutcome,
)
from hsm_signer.workstation.enrolment import Enrolment, enrol
from hsm_signer.workstation.servers import EnrolmentServer, SigningServer
from hsm_signer.workstation.signing import sign_content

PIN = "493817"
"""Of every card that is made here."""
WRONG_PIN = "271828"
PUK = "ABCDEFGHJKMNPQRSTVWXYZ23"
ALICE = ("alice", Scheme.ROLLING, KeySpec.P256)
STARTING = 60.0
"""Seconds that a service is given to start, and to end."""
VARIABLES = "HSM_SIGNER_"
"""How the environment variables begin that lead to an installation."""


# --- installations -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """An enrolled user and the user's simulated card."""

    name: str
    scheme: Scheme
    key: KeySpec
    card_path: Path
    """The card's file."""

    @property
    def address(self) -> str:
        """The card's address, as :func:`hsm_signer.sign` and ``--card`` take it."""
        return f"sim:{self.card_path}"

    def card(self) -> AbstractContextManager[CardSession]:
        """Hold the card open."""
        return open_card(self.address)

    @property
    def has_pin(self) -> bool:
        """Whether the card has a PIN: in all schemes but basic."""
        return self.scheme is not Scheme.BASIC

    def pin(self) -> CardPin:
        """Return the card's PIN; may be given to :func:`hsm_signer.sign` as it is."""
        return CardPin(PIN, source="test")

    def sign(
        self,
        server: SigningServer,
        content: Content | bytes = b"message",
        algorithm: Algorithm | None = None,
        pin: Callable[[], CardPin] | None = None,
    ) -> SignOutcome:
        """Sign with this user's card; the card hashes a message itself."""
        if isinstance(content, bytes):
            content = Message(BytesSource(content))
        return sign_content(server, self.card, content, algorithm=algorithm, ask_pin=pin or self.pin)

    def record(self, server: Server) -> CredentialRecord:
        """Return the user's record as the store has it, checked."""
        return server.credential(self.name)


def make_person(
    server: EnrolmentServer,
    folder: Path,
    name: str,
    *,
    scheme: Scheme = Scheme.ROLLING,
    key: KeySpec = KeySpec.P256,
    pin_check: PinCheck = PinCheck.CARD,
    more_algorithms: tuple[Algorithm, ...] = (),
) -> Person:
    """Enrol a user with a new simulated card in ``folder``.

    PIN check "card" by default: with "server" one wrong PIN of 256 passes the card, and a test that expects
    the card to refuse would fail that often. ``more_algorithms``: what the key may sign besides its defaults.
    """
    person = Person(name, scheme, key, folder / f"{name}.card")
    create_card(person.address)
    basic = scheme is Scheme.BASIC
    wanted = Enrolment(
        owner=name,
        scheme=scheme,
        key=key,
        pin=None if basic else CardPin(PIN, source="test"),
        puk=None if basic else CardPuk(PUK, source="test"),
        pin_check=pin_check,
        more_algorithms=more_algorithms,
    )
    enrol(server, person.card, wanted)
    return person


@dataclass(frozen=True)
class Home:
    """An installation on a SoftHSM2 token of its own, with its users: ``home["alice"]``."""

    path: Path
    """The home folder, as ``--home`` and :func:`hsm_signer.open_installation` take it."""
    people: dict[str, Person]

    @property
    def installation(self) -> Installation:
        """Its configuration, read anew."""
        return Installation.open(self.path)

    @property
    def config(self) -> Config:
        """As config.toml has it."""
        return self.installation.config

    def server(self) -> AbstractContextManager[Server]:
        """Open token and store of this home in this process, which can have one open at a time."""
        return self.installation.server()

    def __getitem__(self, name: str) -> Person:
        return self.people[name]

    def copy_to(self, path: Path) -> Home:
        """Copy the installation, token and cards included: much quicker than making another."""
        shutil.copytree(self.path, path)
        conf = path / SOFTHSM_FILE
        conf.write_text(softhsm.configuration(conf.read_text(), path / TOKEN_FOLDER))
        people = {
            name: Person(person.name, person.scheme, person.key, path / "cards" / person.card_path.name)
            for name, person in self.people.items()
        }
        return Home(path, people)


def make_home(
    path: Path,
    people: tuple[tuple[str, Scheme, KeySpec], ...] = (),
    *,
    softhsm_conf: Path | None = None,
    every_algorithm: bool = False,
) -> Home:
    """Make an installation in a new folder, and enrol ``people`` there: name, scheme, key of each.

    ``softhsm_conf``: SoftHSM2 settings to start from. ``every_algorithm``: their keys may sign by all that
    fit, and not only by the defaults. Raises TokenNotFound where SoftHSM2 is not installed.
    """
    initialise(NewInstallation(path, softhsm_conf=softhsm_conf), no_prompt)
    folder = path / "cards"
    folder.mkdir()
    made: dict[str, Person] = {}
    if people:
        with Installation.open(path).server() as server:
            for name, scheme, key in people:
                more = key.algorithms if every_algorithm else ()
                made[name] = make_person(server, folder, name, scheme=scheme, key=key, more_algorithms=more)
    return Home(path, made)


@contextmanager
def own_environment() -> Iterator[None]:
    """Without the variables of whatever installation is set outside; afterwards all is as it was before."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(VARIABLES) or name == softhsm.CONFIGURATION_VARIABLE:
            del os.environ[name]
    try:
        yield
    finally:
        for name in {*os.environ, *before}:
            if name.startswith(VARIABLES) or name == softhsm.CONFIGURATION_VARIABLE:
                os.environ.pop(name, None)
                if name in before:
                    os.environ[name] = before[name]


# --- a service -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A signing service that runs on localhost."""

    home: Home
    """The installation behind it, with its users and their cards."""
    url: str
    """https://127.0.0.1:PORT."""
    ca: Path
    """The certificate to trust: its own, self-signed."""

    _tokens: dict[tuple[str | None, ...], str] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def identity(self) -> str:
        """The fingerprint of its installation's identity: without it nobody is enrolled through it."""
        return self._run("identity")

    def token(self, *roles: str, user: str | None = None) -> str:
        """Return the bearer token of a client with these roles, made the first time it is asked for.

        ``roles``: signer, registrar, auditor, admin. ``user``: the only one whose credentials it may use.
        Raises InputError with the words of `hsm-signer client add`.
        """
        key = (user, *sorted(roles))
        if key not in self._tokens:
            arguments = [part for role in roles for part in ("--role", role)]
            if user is not None:
                arguments += ["--user", user]
            name = f"test-{len(self._tokens) + 1}"
            self._tokens[key] = self._run("client", "add", name, *arguments)
        return self._tokens[key]

    def _run(self, *arguments: str) -> str:
        """What a command prints. Raises InputError with its words."""
        with own_environment():
            ran = subprocess.run(  # noqa: S603
                _command(self.home, *arguments), capture_output=True, text=True, check=False
            )
        if ran.returncode != 0:
            raise InputError(ran.stderr.strip())
        return ran.stdout.strip()


@contextmanager
def serving(home: Home, *, workers: int = 1) -> Iterator[Service]:
    """Run `hsm-signer serve` for ``home`` on a free port of localhost until the ``with`` ends.

    What it logs is in ``service.log`` of the home folder. Raises ServiceTimeout where it is not ready within
    60 seconds, ServiceUnreachable where it has ended, with the end of that log.
    """
    log = home.path / "service.log"
    command = _command(home, "serve", "--bind", "127.0.0.1:0", "--workers", str(workers))
    with log.open("wb") as stderr, own_environment():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)  # noqa: S603
    try:
        service = _ready(process, home, log)
        yield service
    finally:
        process.terminate()
        try:
            process.wait(STARTING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(home: Home, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hsm_signer", "--home", str(home.path), *arguments]


def _ready(process: subprocess.Popen[bytes], home: Home, log: Path) -> Service:
    """The service, once it answers that it can sign."""
    ca = home.path / "tls" / "server.pem"
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ServiceUnreachable(f"the service has ended: {_end_of(log)}")
        if (url := _url_in(log)) is not None:
            with suppress(OSError):  # 503 while it is not ready is one
                context = ssl.create_default_context(cafile=str(ca))
                with urllib.request.urlopen(f"{url}/readyz", timeout=STARTING, context=context):  # noqa: S310
                    return Service(home, url, ca)
        time.sleep(0.02)
    raise ServiceTimeout(f"the service is not ready: {_end_of(log)}")


def _url_in(log: Path) -> str | None:
    """Where the front says that it listens."""
    for line in log.read_text().splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if entry.get("event") == "listening" and "url" in entry:
                return str(entry["url"])
    return None


def _end_of(log: Path) -> str:
    return log.read_text()[-2000:]


# --- fixtures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def hsm_signer_template(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The installation that the others are copies of: made once, used by none."""
    with own_environment():
        return make_home(tmp_path_factory.mktemp("hsm-signer-template") / "home", (ALICE,))


@pytest.fixture
def hsm_signer_home(hsm_signer_template: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An installation of the test's own with the user alice; HSM_SIGNER_HOME names it meanwhile."""
    home = hsm_signer_template.copy_to(tmp_path_factory.mktemp("hsm-signer") / "home")
    with own_environment():
        os.environ[HOME_VARIABLE] = str(home.path)
        yield home


@pytest.fixture
def hsm_signer_server(hsm_signer_home: Home) -> Iterator[Server]:
    """The server of ``hsm_signer_home``, open in this process."""
    with hsm_signer_home.server() as server:
        yield server


@pytest.fixture(scope="session")
def hsm_signer_service(
    hsm_signer_template: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A signing service on localhost with the user alice, for all tests of the run."""
    home = hsm_signer_template.copy_to(tmp_path_factory.mktemp("hsm-signer-service") / "home")
    with serving(home) as service:
        yield service

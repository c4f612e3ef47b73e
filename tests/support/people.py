"""A home with users already enrolled, made once for a whole run and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from hsm_signer.card.address import create_card, open_card
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.config.installation import Config
from hsm_signer.core.content import BytesSource
from hsm_signer.server.initialise import (
    TOKEN_FOLDER,
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    SOFTHSM_FILE,
    Installation,
    no_prompt,
)
from hsm_signer.server.server import Server
from hsm_signer.token import softhsm
from hsm_signer.types import (
    Algorithm,
    Content,
    CredentialRecord,
    DigestList,
    KeySpec,
    Message,
    PinCheck,
    Scheme,
    SignOutcome,
)
from hsm_signer.workstation.enrolment import (
    Enrolment,
    enrol,
)
from hsm_signer.workstation.servers import (
    EnrolmentServer,
    SigningServer,
)
from hsm_signer.workstation.signing import (
    sign_content,
)

ROOT = Path(__file__).resolve().parents[2]
SOFTHSM_CONF = ROOT / "softhsm.conf"
PIN = "493817"
WRONG_PIN = "271828"
PUK = "ABCDEFGHJKMNPQRSTVWXYZ23"


@dataclass(frozen=True)
class Person:
    """An enrolled user and the card."""

    name: str
    scheme: Scheme
    key: KeySpec
    card_path: Path

    @property
    def address(self) -> str:
        """As --card takes it."""
        return f"sim:{self.card_path}"

    def card(self) -> AbstractContextManager[CardSession]:
        """The card, connected and selected."""
        return open_card(self.address)

    @property
    def has_pin(self) -> bool:
        """All schemes but basic."""
        return self.scheme is not Scheme.BASIC

    def pin(self) -> CardPin:
        """The right one."""
        return CardPin(PIN, source="test")

    def sign(
        self,
        server: SigningServer,
        content: Content | bytes = b"message",
        algorithm: Algorithm | None = None,
        pin: Callable[[], CardPin] | None = None,
    ) -> SignOutcome:
        """Through card and server, as the command line does."""
        if isinstance(content, bytes):
            content = Message(BytesSource(content))
        return sign_content(server, self.card, content, algorithm=algorithm, ask_pin=pin or self.pin)

    def record(self, server: Server) -> CredentialRecord:
        """The record as the store has it, checked."""
        return server.credential(self.name)


def make_person(
    server: EnrolmentServer,
    folder: Path,
    name: str,
    *,
    scheme: Scheme = Scheme.ROLLING,
    key: KeySpec = KeySpec.P256,
    pin_check: PinCheck = PinCheck.CARD,
) -> Person:
    """Enrol somebody with a new simulated card in ``folder``.

    PIN check "card" by default: with "server" one wrong PIN of 256 passes the card, and a test that expects
    the card to refuse would fail that often.
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
    )
    enrol(server, person.card, wanted)
    return person


@dataclass(frozen=True)
class Home:
    """An installation with its people."""

    path: Path
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
        """Token and store of this home, opened in this process."""
        return self.installation.server()

    def __getitem__(self, name: str) -> Person:
        return self.people[name]

    def copy_to(self, path: Path) -> Home:
        """The same installation elsewhere, token and cards included."""
        shutil.copytree(self.path, path)
        conf = path / SOFTHSM_FILE
        conf.write_text(softhsm.configuration(conf.read_text(), path / TOKEN_FOLDER))
        people = {
            name: Person(each.name, each.scheme, each.key, path / "cards" / each.card_path.name)
            for name, each in self.people.items()
        }
        return Home(path, people)


def make_home(path: Path, people: tuple[tuple[str, Scheme, KeySpec], ...] = ()) -> Home:
    """A new installation on a SoftHSM2 token of its own."""
    initialise(NewInstallation(path, softhsm_conf=SOFTHSM_CONF), no_prompt)
    folder = path / "cards"
    folder.mkdir()
    made: dict[str, Person] = {}
    if people:
        with Installation.open(path).server() as server:
            for name, scheme, key in people:
                made[name] = make_person(server, folder, name, scheme=scheme, key=key)
    return Home(path, made)


def digests(*data: bytes, algorithm: Algorithm = Algorithm.ECDSA_SHA256) -> DigestList:
    """Digest list of these documents."""
    import hashlib

    from hsm_signer.types import Digest

    assert algorithm.hash is not None
    name = algorithm.hash.value
    return DigestList(tuple(Digest(hashlib.new(name, each).digest()) for each in data))

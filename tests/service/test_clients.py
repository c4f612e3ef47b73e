"""Who may ask the service, with the token's own MAC: bearer tokens, certificates, access tokens."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from msgspec.structs import replace
from sqlalchemy import insert, text

from hsm_signer.errors import (
    CertificateUnsuitable,
    ClientExists,
    ClientOutdated,
    ClientUnknown,
    EvidenceDamaged,
    InputError,
    NotAuthenticated,
    StoreDamaged,
)
from hsm_signer.server.client_seal import client_holds, sealed_client
from hsm_signer.service import clients
from hsm_signer.service.clients import Client, Identity
from hsm_signer.service.roles import Role
from hsm_signer.store import schema
from hsm_signer.store.client_rows import ClientRow, client_bytes
from hsm_signer.store.store import Store
from hsm_signer.testing import Home
from hsm_signer.token.environment import SecureEnvironment
from hsm_signer.types import Event
from tests.support.factories import TIME, new_store

LIFETIME = 3600
EXPIRES = TIME + LIFETIME * 1_000_000
UNKNOWN = "the bearer token is not good: unknown, expired or given back"


class Clock:
    """The time, in microseconds since 1970, as a test sets it."""

    def __init__(self) -> None:
        self.now = TIME

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def environment(template_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureEnvironment]:
    """A real token, opened once."""
    with template_home.copy_to(tmp_path_factory.mktemp("clients") / "home").server() as server:
        yield server.environment


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on either database."""
    if request.param == "sqlite":
        url = new_store(tmp_path / "store.db")
    else:
        url = request.getfixturevalue("postgresql_url")
    with Store.open(url) as opened:
        yield opened


class Service:
    """The functions of clients.py, on one token and one store."""

    def __init__(self, environment: SecureEnvironment, store: Store, clock: Clock) -> None:
        self.environment, self.store, self.clock = environment, store, clock

    def add(
        self, name: str = "portal", *roles: Role, certificate: bytes | None = None, **wanted: Any
    ) -> tuple[Client, str | None]:
        return clients.add(
            self.environment,
            self.store,
            name=name,
            roles=roles or (Role.SIGNER,),
            certificate=certificate,
            actor="root",
            clock=self.clock,
            **wanted,
        )

    def remove(self, name: str) -> None:
        clients.remove(self.environment, self.store, name, actor="root", clock=self.clock)

    def token(self, name: str = "portal", *roles: Role, **wanted: Any) -> str:
        _, secret = self.add(name, *roles, **wanted)
        assert secret is not None
        return secret

    def identify(self, bearer: str | None = None, certificate: bytes | None = None) -> Identity:
        return clients.identify(self.environment, self.store, bearer, certificate, self.clock)

    def login(self, name: str, secret: str, lifetime: int = LIFETIME) -> str:
        return clients.login(self.environment, self.store, name, secret, lifetime, self.clock)

    def logout(self, token: str) -> None:
        clients.logout(self.environment, self.store, token, self.clock)

    def names(self) -> list[str]:
        return [each.name for each in clients.list_clients(self.environment, self.store)]


@pytest.fixture
def service(environment: SecureEnvironment, store: Store, clock: Clock) -> Service:
    return Service(environment, store, clock)


def certificate(name: str = "portal") -> x509.Certificate:
    """A self-signed one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# --- keeping them ------------------------------------------------------------------------------------------


def test_a_client_with_a_token(service: Service, store: Store) -> None:
    client, secret = service.add("portal", Role.ADMIN, Role.SIGNER, owner="Ωμέγα")
    assert client == Client(
        "portal", frozenset({Role.SIGNER, Role.ADMIN}), "Ωμέγα", None, created=TIME, created_by="root"
    )
    assert secret is not None
    assert secret.startswith("hsc_")
    assert len(base64.urlsafe_b64decode(secret[4:] + "=")) == 32
    assert clients.list_clients(service.environment, store) == [client]
    (row,) = store.clients()
    assert row.token_hash == sha256(secret.encode())
    assert row.roles == bytes([Role.SIGNER.number, Role.ADMIN.number])
    assert secret not in repr(client) + repr(row)
    assert service.identify(secret) == Identity(
        "portal", frozenset({Role.SIGNER, Role.ADMIN}), "Ωμέγα", certificate=False
    )
    assert service.token("other") != secret


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_a_client_with_a_certificate(service: Service, store: Store, encoding: Encoding) -> None:
    given = certificate()
    der = sha256(given.public_bytes(Encoding.DER))
    client, secret = service.add("portal", Role.AUDITOR, certificate=given.public_bytes(encoding))
    assert secret is None
    assert client.certificate == der
    assert store.clients()[0].token_hash is None
    assert service.identify(None, der) == Identity(
        "portal", frozenset({Role.AUDITOR}), None, certificate=True
    )


@pytest.mark.parametrize("name", ["a", ".", "_", "9-", "A.b_c-D", "x" * 64])
def test_names_that_will_do(service: Service, name: str) -> None:
    secret = service.token(name)
    assert service.identify(secret).name == service.identify(service.login(name, secret)).name == name


@pytest.mark.parametrize(
    "name", ["", "-", "-a", "x" * 65, "a b", "a\n", "ümlaut", "a/b", "a:b", "a\0", "\ud800"]
)
def test_names_that_will_not_do(service: Service, name: str) -> None:
    with pytest.raises(InputError, match=r"^name: expected 1 to 64 letters"):
        service.add(name)
    assert service.names() == []


def test_a_client_has_a_role(service: Service) -> None:
    with pytest.raises(InputError, match=r"^roles: expected at least one"):
        clients.add(
            service.environment,
            service.store,
            name="portal",
            roles=(),
            certificate=None,
            actor="root",
            clock=service.clock,
        )


@pytest.mark.parametrize("owner", ["", "a\0b", "\ud800", "ü" * 256, "-x", " x"])
def test_owners_that_will_not_do(service: Service, owner: str) -> None:
    with pytest.raises(InputError, match=r"^user: "):
        service.add(owner=owner)
    assert service.names() == []


@pytest.mark.parametrize("data", [b"", b"certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"0\x82"])
def test_a_certificate_that_is_none(service: Service, data: bytes) -> None:
    with pytest.raises(CertificateUnsuitable, match=r"^certificate: expected one X.509 certificate"):
        service.add(certificate=data)
    assert service.names() == []


def test_names_and_certificates_are_one_clients(service: Service) -> None:
    der = certificate().public_bytes(Encoding.DER)
    secret = service.token("portal")
    service.add("archive", certificate=der)
    with pytest.raises(ClientExists, match="portal"):
        service.add("portal", Role.ADMIN)
    with pytest.raises(ClientExists, match="certificate"):
        service.add("third", certificate=der)
    assert service.names() == ["archive", "portal"]
    assert service.identify(secret).roles == {Role.SIGNER}


def test_a_client_that_is_removed_is_nobody(service: Service, store: Store) -> None:
    secret, der = service.token("portal"), certificate().public_bytes(Encoding.DER)
    service.add("archive", certificate=der)
    access = service.login("portal", secret)
    for name in ("portal", "archive"):
        service.remove(name)
        with pytest.raises(ClientUnknown):
            service.remove(name)
    for bearer in (secret, access):
        with pytest.raises(NotAuthenticated, match=UNKNOWN):
            service.identify(bearer)
    with pytest.raises(NotAuthenticated):
        service.identify(None, sha256(der))
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.login("portal", secret)


def test_a_client_of_the_same_name_is_another_one(service: Service, store: Store) -> None:
    """Access that was given to the first gives nothing to whoever holds it now."""
    access = service.login("portal", service.token("portal"))
    assert service.identify(access).name == "portal"
    service.remove("portal")
    secret = service.token("portal", Role.ADMIN)
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.identify(access)
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.logout(access)
    assert service.identify(secret).roles == {Role.ADMIN}


@pytest.mark.parametrize("known_by", ["token", "certificate"])
def test_a_client_that_was_removed_is_not_put_back_with_its_row(
    service: Service, store: Store, known_by: str
) -> None:
    """Its MAC was made by the token itself, and holds."""
    der = certificate().public_bytes(Encoding.DER)
    _, secret = service.add("portal", Role.ADMIN, certificate=der if known_by == "certificate" else None)
    credentials = (secret, None if secret else sha256(der))
    (row,) = store.clients()
    with store._engine.begin() as connection:
        saved = dict(connection.execute(text("SELECT * FROM client")).mappings().one())
    service.remove("portal")
    put_back(store, saved)
    assert store.clients() == [row]
    assert client_holds(service.environment, row)
    with pytest.raises(ClientOutdated, match="an old row was put back"):
        service.identify(*credentials)
    with pytest.raises(ClientOutdated):
        service.names()
    # Nor as version 0.1 would have written it, before clients had chains.
    older = replace(row, version=0, evidence_head=None)
    older = replace(older, mac=service.environment.tag("client", client_bytes(older)))
    put_back(store, {**saved, "version": 0, "evidence_head": None, "mac": older.mac})
    with pytest.raises(ClientOutdated):
        service.identify(*credentials)
    with store._engine.begin() as connection:
        connection.execute(text("DELETE FROM client"))
    # Added anew it is another one, and the row of before is still none.
    service.add("portal", Role.SIGNER)
    put_back(store, saved)
    with pytest.raises(ClientOutdated):
        service.identify(*credentials)
    service.remove("portal")
    assert service.names() == []


def test_the_chain_of_a_client_is_not_continued_from_a_forgery(service: Service, store: Store) -> None:
    service.token("portal")
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE evidence SET hash = :hash"), {"hash": sha256(b"never was")})
    with pytest.raises(EvidenceDamaged):
        service.remove("portal")
    assert [entry.event for _, entry in store.entries()] == [Event.CLIENT_ADDED]


def put_back(store: Store, columns: dict[Any, Any]) -> None:
    """A row as it once was, in the place of what is there."""
    with store._engine.begin() as connection:
        connection.execute(text("DELETE FROM client"))
        connection.execute(insert(schema.client), columns)


def write_anew(service: Service, row: ClientRow) -> None:
    """Write a client with something that no command would write, under its MAC."""
    service.remove(row.name)
    with service.store.changing_client(row.name) as change:
        entry = clients._entry(
            service.environment, change, row.name, Event.CLIENT_ADDED, "root", service.clock
        )
        change.add(sealed_client(service.environment, row, entry), entry)


def test_a_token_that_was_given_back_has_a_row_under_a_mac(service: Service, store: Store) -> None:
    access = service.login("portal", service.token("portal"))
    service.logout(access)
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.identify(access)
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE revoked_access SET mac = :mac"), {"mac": bytes(32)})
    with pytest.raises(StoreDamaged, match="the row's MAC does not hold"):
        service.identify(access)
    # As version 0.1 wrote it: given back all the same.
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE revoked_access SET mac = NULL"))
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.identify(access)


# --- rows that somebody changed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "roles = :value",
        "owner = 'bob'",
        "owner = NULL",
        "created = created + 1",
        "created_by = 'alice'",
        "certificate_hash = :hash",
        "mac = :hash",
        "name = 'renamed'",
    ],
)
def test_a_row_that_was_changed_is_believed_by_nobody(service: Service, store: Store, change: str) -> None:
    secret = service.token("portal", owner="alice")
    other = service.token("other")
    access = service.login("portal", secret)
    values: dict[str, Any] = {"value": b"\x01\x04"} if ":value" in change else {}
    values |= {"hash": sha256(b"mine")} if ":hash" in change else {}
    with store._engine.begin() as connection:
        assert connection.execute(text(f"UPDATE client SET {change} WHERE name = 'portal'"), values).rowcount
    said = "^the row of client '(portal|renamed)' was changed outside this program: its MAC does not hold$"
    with pytest.raises(StoreDamaged, match=said) as caught:
        service.identify(secret)
    assert caught.value.hint
    with pytest.raises(StoreDamaged, match=said):
        service.names()
    with pytest.raises(StoreDamaged, match=said):
        service.login("renamed" if "renamed" in change else "portal", secret)
    # Of the name in the access token there is no client any more.
    with pytest.raises(NotAuthenticated if "renamed" in change else StoreDamaged):
        service.identify(access)
    if "certificate_hash" in change:
        with pytest.raises(StoreDamaged, match=said):
            service.identify(None, sha256(b"mine"))
    assert service.identify(other).name == "other"
    service.remove("renamed" if "renamed" in change else "portal")
    assert service.names() == ["other"]


def test_a_token_put_in_the_place_of_another_is_not_believed(service: Service, store: Store) -> None:
    """By somebody who can write the database and knows a token of their own making."""
    service.token("portal", Role.ADMIN)
    mine = "hsc_" + base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode()
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE client SET token_hash = :hash"), {"hash": sha256(mine.encode())})
    with pytest.raises(StoreDamaged):
        service.identify(mine)


def test_a_role_of_a_newer_version_is_named(service: Service, store: Store) -> None:
    secret = service.token("portal")
    (row,) = store.clients()
    write_anew(service, replace(row, roles=b"\x01\xc8"))
    with pytest.raises(StoreDamaged, match="client portal has a role that this version does not know"):
        service.identify(secret)


# --- knowing them ------------------------------------------------------------------------------------------


def test_somebody_who_says_nothing(service: Service) -> None:
    with pytest.raises(NotAuthenticated, match="a bearer token or a client certificate is needed"):
        service.identify()


@pytest.mark.parametrize(
    "bearer",
    [
        "",
        "hsc_",
        "hsa_",
        "hsc_" + "A" * 43,
        "hsa_" + "A" * 43,
        "hsa_" + "A" * 5000,
        "hsa_" + "A" * 100 + "=",
        "xyz",
        "hsc_ü",
        "hsa_ü",
        "\ud800",
        "hsc_\ud800",
        "hsa_" + base64.urlsafe_b64encode(b"\xff" * 132).decode(),
        # Of the right form, for a client named NUL.
        "hsa_" + base64.urlsafe_b64encode(b"\0\0\0\1\0\0\0\0\x08" + bytes(11) + b"\x10" + bytes(48)).decode(),
    ],
)
def test_a_bearer_that_nobody_has(service: Service, bearer: str) -> None:
    """With one answer for all of them."""
    secret = service.token()
    for each in (bearer, secret + "A", secret[:-1], secret.upper(), f" {secret}", secret[4:]):
        with pytest.raises(NotAuthenticated, match=f"^{UNKNOWN}$"):
            service.identify(each)
    with pytest.raises(NotAuthenticated, match=f"^{UNKNOWN}$"):
        service.login("portal", bearer)
    with pytest.raises(NotAuthenticated, match=f"^{UNKNOWN}$"):
        service.logout(bearer)


def test_a_certificate_that_nobody_has(service: Service) -> None:
    service.add(certificate=certificate().public_bytes(Encoding.DER))
    with pytest.raises(NotAuthenticated, match="the certificate is no client's"):
        service.identify(None, sha256(certificate().public_bytes(Encoding.DER)))


def test_bearer_and_certificate_together(service: Service) -> None:
    der = certificate().public_bytes(Encoding.DER)
    secret = service.token("portal")
    service.add("archive", Role.ADMIN, certificate=der)
    # Somebody's certificate, but no client's: the bearer alone counts.
    assert service.identify(secret, bytes(32)) == Identity(
        "portal", frozenset({Role.SIGNER}), None, certificate=False
    )
    with pytest.raises(NotAuthenticated, match="of different clients"):
        service.identify(secret, sha256(der))
    with pytest.raises(NotAuthenticated, match="of different clients"):
        service.identify(service.login("portal", secret), sha256(der))
    # A bearer that is not good is not made good by a certificate.
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.identify(secret + "A", sha256(der))


def test_bearer_and_certificate_of_one_client(service: Service, store: Store) -> None:
    """No command makes such a row; the rules hold for it, too."""
    secret = service.token("portal")
    (row,) = store.clients()
    write_anew(service, replace(row, certificate_hash=sha256(b"certificate")))
    assert service.identify(secret, sha256(b"certificate")).certificate
    assert not service.identify(secret).certificate


# --- access tokens -----------------------------------------------------------------------------------------


def test_access_until_it_expires(service: Service, clock: Clock) -> None:
    secret = service.token("portal", Role.SIGNER, Role.AUDITOR, owner="alice")
    access = service.login("portal", secret)
    assert access.startswith("hsa_")
    assert secret not in access
    assert service.login("portal", secret) != access
    for now in (TIME, EXPIRES - 1):
        clock.now = now
        assert service.identify(access) == service.identify(secret)
    for now in (EXPIRES, EXPIRES + 10**12):
        clock.now = now
        with pytest.raises(NotAuthenticated, match=UNKNOWN):
            service.identify(access)
    # The client's own token has no end.
    assert service.identify(secret).name == "portal"


def test_access_that_was_given_back(service: Service, clock: Clock, store: Store) -> None:
    secret = service.token()
    access, other = service.login("portal", secret), service.login("portal", secret)
    service.logout(access)
    service.logout(access)
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.identify(access)
    assert service.identify(other).name == "portal"
    clock.now = EXPIRES
    service.logout(other)
    with store._engine.begin() as connection:
        kept = connection.execute(text("SELECT expires FROM revoked_access")).scalars().all()
    assert kept == [EXPIRES], "what has expired needs no keeping in mind"


def test_only_access_can_be_given_back(service: Service) -> None:
    secret = service.token()
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.logout(secret)
    assert service.identify(secret).name == "portal"


def test_access_gives_no_access(service: Service) -> None:
    """Or whoever has an access token could have another for ever."""
    access = service.login("portal", service.token())
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.login("portal", access)


def test_access_needs_name_and_token_of_one_client(service: Service) -> None:
    secret = service.token("portal")
    service.token("other")
    for name in ("other", "nobody", "Portal", "", "\ud800"):
        with pytest.raises(NotAuthenticated, match=UNKNOWN):
            service.login(name, secret)


def test_a_client_with_the_longest_name_has_access(service: Service) -> None:
    name = "n" * clients.MAX_NAME
    access = service.login(name, service.token(name))
    assert len(access) <= clients._MAX_ACCESS
    assert service.identify(access).name == name


def test_access_cannot_be_changed_in_any_bit(service: Service) -> None:
    """Nor spelt in another way, which would get it past its being given back."""
    access = service.login("portal", service.token("portal"))
    data = base64.urlsafe_b64decode(access[4:] + "=" * (-len(access[4:]) % 4))
    for position in range(0, len(data) * 8, 5):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(NotAuthenticated, match=UNKNOWN):
            service.identify("hsa_" + base64.urlsafe_b64encode(changed).rstrip(b"=").decode())
    spare = (-len(access[4:])) % 4
    assert spare, "the last character has bits to spare, or nothing is shown"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(access[-1])
    for text_ in (access + "=" * spare, access[:-1] + alphabet[last + 1], access + "\n", f"{access} "):
        with pytest.raises(NotAuthenticated, match=UNKNOWN):
            service.identify(text_)
    assert service.identify(access).name == "portal"


def test_access_of_one_client_is_not_anothers(service: Service) -> None:
    """Two names of one length, exchanged in the payload."""
    access = service.login("aaaa", service.token("aaaa"))
    service.token("bbbb", Role.ADMIN)
    data = base64.urlsafe_b64decode(access[4:] + "=" * (-len(access[4:]) % 4))
    assert data.count(b"aaaa") == 1
    forged = base64.urlsafe_b64encode(data.replace(b"aaaa", b"bbbb")).rstrip(b"=").decode()
    with pytest.raises(NotAuthenticated, match=UNKNOWN):
        service.identify(f"hsa_{forged}")

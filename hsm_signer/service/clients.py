"""Clients of the service and their authentication: bearer tokens, client certificates, access tokens.

A client's row is under a MAC of the token's record key, so that whoever can write the database makes nobody a
client and gives nobody a role. A bearer token is 32 random bytes and its SHA-256 all that is kept: nothing to
guess, nothing to steal from the database. An access token is kept nowhere: it is its own proof, until it
expires, is given back, or its client's row is another one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_signer.core.canonical import number, text, value
from hsm_signer.core.chain_position import client_chain
from hsm_signer.core.owners import check_owner
from hsm_signer.errors import (
    CertificateUnsuitable,
    ClientOutdated,
    InputError,
    NotAuthenticated,
    StoreDamaged,
)
from hsm_signer.evidence.chain import draft_entry
from hsm_signer.server.client_seal import client_holds, sealed_client
from hsm_signer.server.place import place
from hsm_signer.store.client_rows import ClientChange, ClientRow
from hsm_signer.store.store import Store
from hsm_signer.token.environment import SecureEnvironment
from hsm_signer.types import Digest, Event, SealedEntry

from .roles import Role

Clock = Callable[[], int]
"""Microseconds since 1970-01-01T00:00:00Z."""

TOKEN_PREFIX = "hsc_"  # noqa: S105  so that scanners for leaked secrets can tell it
ACCESS_PREFIX = "hsa_"
ACCESS_DOMAIN = "access"
GIVEN_BACK_DOMAIN = "given-back"
"""Domains of SecureEnvironment.tag."""
MAX_NAME = 64

_NAME = re.compile(rf"[A-Za-z0-9._][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")
_TOKEN_BYTES = 32
_MAC_BYTES = 32
_RANDOM_BYTES = 16
_MAX_ACCESS = 256
"""Characters; one with the longest name has 180."""
_SECOND = 1_000_000
_ANEW = "remove the client and add it anew"


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the service, whose row's MAC was checked."""

    name: str
    roles: frozenset[Role]
    owner: str | None
    """The only user whose credentials it may see and use; None: any."""
    certificate: Digest | None
    """SHA-256 of its DER certificate; None where it has a token."""
    created: int
    """Microseconds since 1970-01-01T00:00:00Z."""
    created_by: str


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated client."""

    name: str
    roles: frozenset[Role]
    owner: str | None
    """The only user whose credentials it may see and use; None: any."""
    certificate: bool
    """Whether the TLS handshake proved this client's own certificate."""


def _entry(
    environment: SecureEnvironment,
    change: ClientChange,
    name: str,
    event: Event,
    actor: str,
    clock: Clock,
) -> SealedEntry:
    """Make the entry that says what is done with a client, at the end of its chain."""
    chain = client_chain(name)
    draft = draft_entry(chain, event, actor=actor, record_version=change.version + 1)
    return place(environment, draft, change.position, time=clock())


# --- keeping them ------------------------------------------------------------------------------------------


def add(
    environment: SecureEnvironment,
    store: Store,
    *,
    name: str,
    roles: Iterable[Role],
    owner: str | None = None,
    certificate: bytes | None,
    actor: str,
    clock: Clock,
) -> tuple[Client, str | None]:
    """Add a client; return it and its bearer token, which is kept nowhere; no token with a certificate.

    ``name``: 1 to 64 of A-Z a-z 0-9 . _ -, no hyphen first. ``certificate``: the client's, DER or PEM; it is
    known by its SHA-256 alone, whoever issued it. ``actor``: who adds it. Raises InputError, ClientExists,
    CertificateUnsuitable, StoreError, TokenError.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(
            f"name: expected 1 to {MAX_NAME} letters, digits, dots, underscores and hyphens, no hyphen first"
        )
    ordered = bytes(sorted({role.number for role in roles}))
    if not ordered:
        raise InputError("roles: expected at least one")
    if owner is not None:
        check_owner(owner)
    secret = None if certificate is not None else TOKEN_PREFIX + _base64(secrets.token_bytes(_TOKEN_BYTES))
    unsealed = ClientRow(
        name=name,
        roles=ordered,
        token_hash=None if secret is None else _sha256(secret.encode("ascii")),
        certificate_hash=None if certificate is None else certificate_hash(certificate),
        owner=owner,
        created=clock(),
        created_by=actor,
        mac=b"",
        version=0,
        evidence_head=None,
    )
    with store.changing_client(name) as change:
        entry = _entry(environment, change, name, Event.CLIENT_ADDED, actor, clock)
        row = sealed_client(environment, unsealed, entry)
        change.add(row, entry)
    return _client(row), secret


def remove(environment: SecureEnvironment, store: Store, name: str, *, actor: str, clock: Clock) -> None:
    """Remove a client; its tokens and access tokens end with it. Raises ClientUnknown."""
    with store.changing_client(name) as change:
        change.remove(_entry(environment, change, name, Event.CLIENT_REMOVED, actor, clock))


def list_clients(environment: SecureEnvironment, store: Store) -> list[Client]:
    """Every client, ascending by name. Raises StoreDamaged for a row that this installation did not write."""
    rows = store.clients()
    for row in rows:
        _check(environment, store, row)
    return [_client(row) for row in rows]


def find(environment: SecureEnvironment, store: Store, name: str) -> Client | None:
    """The client of this name; None without one. Raises StoreDamaged as :func:`list_clients` does."""
    row = store.client_by_name(name)
    if row is None:
        return None
    _check(environment, store, row)
    return _client(row)


def certificate_hash(certificate: bytes) -> Digest:
    """Hash a certificate, DER or PEM: SHA-256 of its DER, 32 bytes. Raises CertificateUnsuitable."""
    try:
        if certificate.lstrip().startswith(b"-----BEGIN"):
            certificate = x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
        else:
            x509.load_der_x509_certificate(certificate)
    except ValueError as error:
        raise CertificateUnsuitable("certificate: expected one X.509 certificate in DER or PEM") from error
    return _sha256(certificate)


# --- knowing them ------------------------------------------------------------------------------------------


def identify(
    environment: SecureEnvironment,
    store: Store,
    caller_bearer: str | None,
    caller_certificate_hash: bytes | None,
    clock: Clock,
) -> Identity:
    """Find the client of a bearer token, access token or certificate.

    ``caller_bearer``: as it came after "Bearer " (RFC 6750, 2.1); ``caller_certificate_hash``: SHA-256 of the
    DER certificate that the TLS handshake proved. With both, the bearer says who it is, and the certificate
    may be nobody's but not another client's. Raises NotAuthenticated, with the same words for every bearer
    that is not good; StoreDamaged for a row that this installation did not write.
    """
    by_certificate = None
    if caller_certificate_hash is not None:
        by_certificate = store.client_by_certificate_hash(caller_certificate_hash)
        if by_certificate is not None:
            _check(environment, store, by_certificate)
    if caller_bearer is not None:
        row = _by_bearer(environment, store, caller_bearer, clock)
        if by_certificate is not None and by_certificate.name != row.name:
            raise NotAuthenticated("the bearer token and the client certificate are of different clients")
    elif by_certificate is not None:
        row = by_certificate
    elif caller_certificate_hash is not None:
        raise NotAuthenticated("the certificate is no client's", hint="`hsm-signer client add` makes it one")
    else:
        raise NotAuthenticated("a bearer token or a client certificate is needed")
    client = _client(row)
    return Identity(client.name, client.roles, client.owner, certificate=by_certificate is not None)


def login(
    environment: SecureEnvironment, store: Store, name: str, secret: str, lifetime: int, clock: Clock
) -> str:
    """Make an access token for the client ``name`` with bearer token ``secret``, for ``lifetime`` seconds.

    "hsa_" || base64url without padding of payload || MAC (32 bytes); payload: name, expiry (u64, microseconds
    since 1970-01-01T00:00:00Z) and 16 random bytes as values (encoding.py). Raises NotAuthenticated,
    StoreDamaged.
    """
    row = _by_token(environment, store, secret)
    if row.name != name:
        raise _refused()
    payload = b"".join(
        (
            text(row.name),
            number(clock() + lifetime * _SECOND, 8),
            value(secrets.token_bytes(_RANDOM_BYTES)),
        )
    )
    return ACCESS_PREFIX + _base64(payload + _access_mac(environment, payload, row))


def logout(environment: SecureEnvironment, store: Store, token_text: str, clock: Clock) -> None:
    """End an access token now; doing so again is no error.

    Raises NotAuthenticated, StoreDamaged.
    """
    found = _open_access(environment, store, token_text)
    now = clock()
    if now < found.expires:
        mac = _given_back_mac(environment, found)
        store.revoke_access(found.hash, found.expires, mac, now=now)


def _refused() -> NotAuthenticated:
    """Make the one error for all refusals, which does not tell whether name or secret was wrong."""
    return NotAuthenticated("the bearer token is not good: unknown, expired or given back")


def _by_bearer(environment: SecureEnvironment, store: Store, bearer: str, clock: Clock) -> ClientRow:
    if bearer.startswith(ACCESS_PREFIX):
        found = _open_access(environment, store, bearer)
        if clock() >= found.expires or _is_given_back(environment, store, found):
            raise _refused()
        return found.row
    return _by_token(environment, store, bearer)


def _by_token(environment: SecureEnvironment, store: Store, token: str) -> ClientRow:
    if not token.startswith(TOKEN_PREFIX) or not token.isascii():
        raise _refused()
    token_hash = _sha256(token.encode("ascii"))
    row = store.client_by_token_hash(token_hash)
    if row is None or not hmac.compare_digest(row.token_hash or b"", token_hash):
        raise _refused()
    _check(environment, store, row)
    return row


@dataclass(frozen=True, slots=True)
class _Access:
    """An access token whose MAC holds: perhaps expired, perhaps given back."""

    row: ClientRow
    expires: int
    hash: bytes
    """SHA-256 of payload and MAC: what revocation remembers."""


def _open_access(environment: SecureEnvironment, store: Store, token: str) -> _Access:
    data = _unbase64(token.removeprefix(ACCESS_PREFIX)) if len(token) <= _MAX_ACCESS else b""
    payload, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    length = int.from_bytes(payload[:4], "big")
    name, expires = payload[4 : 4 + length], payload[8 + length : 16 + length]
    rest = payload[-_RANDOM_BYTES:]
    whole = value(name) + value(expires) + value(rest)
    if not token.startswith(ACCESS_PREFIX) or payload != whole or len(expires) != 8:
        raise _refused()
    try:
        row = store.client_by_name(name.decode("ascii"))
    except UnicodeDecodeError:
        row = None
    if row is None:
        raise _refused()
    _check(environment, store, row)
    if not hmac.compare_digest(_access_mac(environment, payload, row), mac):
        raise _refused()
    return _Access(row, int.from_bytes(expires, "big"), _sha256(data))


def _is_given_back(environment: SecureEnvironment, store: Store, access: _Access) -> bool:
    """Whether an access token was given back. Raises StoreDamaged for a row nobody here wrote."""
    row = store.given_back(access.hash)
    if row is None:
        return False
    if row.mac is not None and not hmac.compare_digest(_given_back_mac(environment, access), row.mac):
        raise StoreDamaged(
            "an access token was given back by somebody who cannot: the row's MAC does not hold"
        )
    return True


def _given_back_mac(environment: SecureEnvironment, access: _Access) -> bytes:
    return environment.tag(GIVEN_BACK_DOMAIN, value(access.hash) + number(access.expires, 8))


def _access_mac(environment: SecureEnvironment, payload: bytes, row: ClientRow) -> bytes:
    # The row's own MAC with it: a client that is removed and made anew, with other roles, is another one.
    return environment.tag(ACCESS_DOMAIN, payload + value(row.mac))


# --- rows --------------------------------------------------------------------------------------------------


def _check(environment: SecureEnvironment, store: Store, row: ClientRow) -> None:
    """Raise StoreDamaged unless a row's MAC holds, ClientOutdated unless its chain ends with it."""
    if not client_holds(environment, row):
        raise StoreDamaged(
            f"the row of client {row.name[:MAX_NAME]!r} was changed outside this program: "
            "its MAC does not hold",
            hint=_ANEW,
        )
    if not row.version or store.age_of_client(row) != (row.version, row.evidence_head):
        raise ClientOutdated(
            f"the row of client {row.name[:MAX_NAME]!r} is not the one that its evidence ends with: "
            "an old row was put back",
            hint=_ANEW,
        )


def _client(row: ClientRow) -> Client:
    """Make the client of a row whose MAC holds."""
    try:
        roles = frozenset(map(Role.numbered, row.roles))
    except ValueError as error:
        raise StoreDamaged(
            f"client {row.name} has a role that this version does not know", hint=_ANEW
        ) from error
    return Client(
        row.name,
        roles,
        row.owner,
        row.certificate_hash,
        row.created,
        row.created_by,
    )


def _sha256(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unbase64(characters: str) -> bytes:
    """Strictly: of all texts for the same bytes only the one that _base64 makes. Empty for every other."""
    try:
        data = base64.b64decode(characters + "=" * (-len(characters) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return b""
    return data if _base64(data) == characters else b""

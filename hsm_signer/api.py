"""The functions of ``import hsm_signer``: open an installation, connect, sign, verify, enrol.

What is heavy (the token's and the database's libraries, HTTP) is imported by the function that needs it, so
that a client of a service loads no token library and a program that only verifies loads neither.
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hsm_signer.card.address import open_card
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.config.installation import CardConfig
from hsm_signer.core.algorithms import holds, key_spec_of, load_public_pem, load_spki, spki_of, verifiers
from hsm_signer.core.content import BytesSource, FileSource, digests_of
from hsm_signer.core.identity import parse_fingerprint
from hsm_signer.errors import AlgorithmUnsuitable, FileError, SignatureInvalid, os_words
from hsm_signer.types import (
    Algorithm,
    ByteSource,
    Content,
    Digest,
    DigestList,
    KeySpec,
    Message,
    Scheme,
    SignOutcome,
    SpkiDer,
)
from hsm_signer.workstation import enrolment
from hsm_signer.workstation.servers import AnyCredential, CredentialServer, EnrolmentServer, SigningServer
from hsm_signer.workstation.signing import AskPin, OpenCard, card_credential, sign_content

if TYPE_CHECKING:
    from hsm_signer.workstation.remote import RemoteServer

Server = CredentialServer
"""What a server does for those who call it, on this machine or as a service."""
Pin = CardPin | Callable[[], CardPin | str]
"""A PIN, or a function that asks for one; text that it returns becomes a CardPin."""
HashOn = Literal["auto", "card", "host"]
"""Who hashes a message before the card authorises it."""
HASH_ON_CARD_UP_TO = CardConfig().hash_on_card_up_to
"""Bytes: with "auto" the card hashes messages up to this length itself."""


# --- servers -------------------------------------------------------------------------------------------


@contextmanager
def open_installation(
    home: str | PathLike[str] | None = None, *, token_pin: Callable[[str], str] | None = None
) -> Iterator[Server]:
    """Open an installation on this machine, its token and its database, until the ``with`` ends.

    ``home``: the folder that `hsm-signer init` made; None takes HSM_SIGNER_HOME, else ``~/.hsm-signer``.
    ``token_pin``: called with a prompt where neither HSM_SIGNER_TOKEN_PIN nor the configuration gives the
    token's PIN. A process opens one installation at a time and uses it in the thread that opened it.
    Raises NotInitialised, ConfigError, PinMissing, TokenError, StoreError.
    """
    from hsm_signer.config.home import resolve_home
    from hsm_signer.server.installation import Installation, no_prompt

    installation = Installation.open(resolve_home(None if home is None else Path(home)))
    with installation.server(token_pin or no_prompt) as server:
        yield server


def connect(
    url: str,
    *,
    token: str | None = None,
    ca: str | PathLike[str] | None = None,
    certificate: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
    identity: str | None = None,
    timeout: float = 60.0,
) -> RemoteServer:
    """Return a signing service as a server; it ends its connections when its ``with`` ends, or by close().

    ``url``: https://HOST[:PORT]. ``token``: the client's bearer token; or ``certificate`` and ``key``: PEM
    files of its client certificate and the private key, where that is not in the same file. ``ca``: PEM file
    of the certificates to trust in place of the system's. ``identity``: the fingerprint of the installation
    behind the service, as `hsm-signer identity` shows it there; :func:`enrol` needs it. ``timeout``: seconds
    to wait for an answer. Nothing is sent yet. One thread at a time. Raises InputError; every method raises
    what the service refuses, and ServiceUnreachable, ServiceTimeout, NotAuthenticated, NotPermitted.
    """
    from hsm_signer.workstation.remote import RemoteServer

    return RemoteServer(
        url,
        token=token,
        ca=None if ca is None else Path(ca),
        certificate=None if certificate is None else Path(certificate),
        key=None if key is None else Path(key),
        timeout=timeout,
        identity=None if identity is None else parse_fingerprint(identity),
    )


# --- signing -------------------------------------------------------------------------------------------


def sign(
    server: SigningServer,
    card: str | CardSession,
    content: bytes | PathLike[str],
    *,
    pin: Pin | None = None,
    algorithm: Algorithm | None = None,
    hash_on: HashOn = "auto",
) -> SignOutcome:
    """Sign a message, or a file of any size, with the key that the card controls.

    ``card``: its address, "sim:PATH" or "pcsc:READER", or a card that :func:`open_card` holds open. ``pin``:
    a CardPin, or a function that is called for one when the card wants it, once at most; None has it typed at
    the reader's keypad. ``algorithm``: None takes the one that suits the key. ``hash_on``: "card" sends every
    byte through the card; "host" has the card authorise the message's digest; "auto" is "card" up to 4,096
    bytes, and "host" above.

    What may be sent again is sent again: an answer that was lost, another signature that came first. So an
    error that reaches the caller is one to act on; nothing is signed twice under one authorisation.
    Raises CardPinWrong, CardPinBlocked, PinMissing and the other errors of the card; Refused for what the
    server refuses; AlgorithmUnsuitable for "host" with Ed25519; FileError.
    """
    source, size = _source_of(content)
    opener = _opener(card)
    if hash_on == "card" or (hash_on == "auto" and size <= HASH_ON_CARD_UP_TO):
        return _sign(server, opener, Message(source), pin, algorithm)
    with opener() as session:
        credential_id = card_credential(session)
    # The card is not held while the host hashes: that may take long.
    algorithm = algorithm or key_spec_of(server.challenge(credential_id).spki).default_algorithm
    if algorithm.hash is None:
        if hash_on == "host":
            raise AlgorithmUnsuitable(f"{algorithm.value} signs the message itself, hashed by the card")
        return _sign(server, opener, Message(source), pin, algorithm)
    digest = Digest(digests_of(source, {algorithm.hash})[algorithm.hash])
    return _sign(server, opener, DigestList((digest,)), pin, algorithm)


def sign_digests(
    server: SigningServer,
    card: str | CardSession,
    digests: Sequence[bytes],
    *,
    pin: Pin | None = None,
    algorithm: Algorithm | None = None,
) -> SignOutcome:
    """Sign the digests of many documents under one authorisation: one PIN, one signature for each.

    ``digests``: 1 to 65,535 of 32, 48 or 64 bytes, as the algorithm's hash makes them; a service may take
    fewer at once. Otherwise as :func:`sign`. Raises InputError and AlgorithmUnsuitable besides.
    """
    content = DigestList(tuple(map(Digest, digests)))
    return _sign(server, _opener(card), content, pin, algorithm)


def _sign(
    server: SigningServer, opener: OpenCard, content: Content, pin: Pin | None, algorithm: Algorithm | None
) -> SignOutcome:
    return sign_content(server, opener, content, algorithm=algorithm, ask_pin=_asker(pin))


# --- verifying -----------------------------------------------------------------------------------------


def verify(
    key: AnyCredential | bytes,
    content: bytes | PathLike[str],
    signature: bytes,
    *,
    algorithm: Algorithm | None = None,
) -> Algorithm:
    """Verify a signature of a message or a file; return the algorithm that made it.

    ``key``: a credential, as ``server.credential(USER)`` gives it, or a public key, PEM or DER
    SubjectPublicKeyInfo (RFC 5280, 4.1.2.7). ``signature``: for ECDSA in DER (RFC 3279, 2.2.3).
    ``algorithm``: take this one only; None takes every one that fits the key. Needs neither server nor card.
    Raises SignatureInvalid; AlgorithmUnsuitable where ``algorithm`` does not fit the key; InputError for what
    is no key; FileError. What a credential signed before it was revoked still verifies.
    """
    checks = verifiers(_spki_of(key))
    if algorithm is not None:
        checks = {fitting: check for fitting, check in checks.items() if fitting is algorithm}
    if algorithm is not None and not checks:
        raise AlgorithmUnsuitable(f"{algorithm.value} does not fit the key")
    source, _ = _source_of(content)
    signed = digests_of(source, {fitting.hash for fitting in checks})
    for fitting, check in checks.items():
        if holds(check, signed[fitting.hash], signature):
            return fitting
    raise SignatureInvalid("the signature is not one of this message under this key")


# --- enrolment -----------------------------------------------------------------------------------------


def enrol(
    server: EnrolmentServer,
    user: str,
    card: str | CardSession,
    *,
    pin: Pin | None = None,
    puk: CardPuk | None = None,
    scheme: Scheme = Scheme.ROLLING,
    key: KeySpec = KeySpec.P256,
    subject: str | None = None,
) -> enrolment.EnrolmentResult:
    """Make a key for a user and give its control to a blank card; or finish what was interrupted.

    ``pin``: the one that the card shall have; none in scheme basic. ``puk``: unblocks a blocked PIN; without
    one a blocked PIN is final. Keep what :func:`generate_pin` and :func:`generate_puk` give before this is
    called: the card does not tell it. ``subject``: of the certificate request, such as "CN=Alice,O=Example";
    None is CN=USER. Over a network the client needs role registrar, and :func:`connect` the installation's
    identity: the card gets only what that one has signed. Raises CredentialExists, CardNotBlank,
    TokenUnsuitable, InputError, IdentityUnknown, IdentityChanged, EnrolmentProofWrong,
    EnrolmentRequestChanged, and what card, token and store refuse.
    """
    ask = _asker(pin)
    wanted = enrolment.Enrolment(
        owner=user, scheme=scheme, key=key, pin=None if ask is None else ask(), puk=puk, subject=subject
    )
    return enrolment.enrol(server, _opener(card), wanted)


# --- arguments -----------------------------------------------------------------------------------------


def _source_of(content: bytes | PathLike[str]) -> tuple[ByteSource, int]:
    """Return the source of the content and its length in bytes. Raises FileError, TypeError."""
    if isinstance(content, bytes):
        return BytesSource(content), len(content)
    if not isinstance(content, PathLike):
        raise TypeError(f"content: expected bytes or a pathlib.Path, got {type(content).__name__}")
    path = Path(content)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"{path}: expected a regular file, which can be read again")
        if status.st_size <= HASH_ON_CARD_UP_TO:
            # Read once: a file that changes between card and server would only be refused.
            data = path.read_bytes()
            return BytesSource(data), len(data)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {os_words(error)}") from error
    return FileSource(path), status.st_size


def _opener(card: str | CardSession) -> OpenCard:
    if isinstance(card, CardSession):
        opened: AbstractContextManager[CardSession] = nullcontext(card)
        return lambda: opened
    return functools.partial(open_card, card)


def _asker(pin: Pin | None) -> AskPin | None:
    """Make a function that asks for the PIN at most once. Raises TypeError for a PIN as plain text."""
    if pin is None:
        return None
    if isinstance(pin, CardPin):
        return lambda: pin
    if not callable(pin):
        # Not what it is: it may be the PIN.
        raise TypeError(f"pin: expected a CardPin or a function that gives one, got {type(pin).__name__}")

    @functools.cache
    def ask() -> CardPin:
        answer = pin()
        return answer if isinstance(answer, CardPin) else CardPin(answer)

    return ask


def _spki_of(key: AnyCredential | bytes) -> SpkiDer:
    if not isinstance(key, bytes):
        return key.spki
    return load_public_pem(key) if key.lstrip().startswith(b"-----") else spki_of(load_spki(key))

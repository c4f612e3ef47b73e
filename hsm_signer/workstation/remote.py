"""A signing server over the network: the methods of Server, by the service's native interface (HTTPS).

What answers is not believed: answers are bounded in size and time and read strictly, and a signature is given
out only after it has been verified for the digests that were sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from hsm_signer.core import algorithms, certificates, identity, json_codec
from hsm_signer.core.content import MAX_ED25519_MESSAGE
from hsm_signer.core.interface import (
    Capabilities,
    CertificateChain,
    CertificationRequest,
    CredentialPage,
    EnrolmentRequest,
    EvidencePage,
    RequestInfo,
    SignatureRequest,
)
from hsm_signer.core.owners import canonical_owner
from hsm_signer.errors import AlgorithmUnsuitable, IdentityUnknown, InputError, SignatureInvalid
from hsm_signer.types import (
    Algorithm,
    ByteSource,
    Challenge,
    CredentialId,
    CredentialView,
    DigestList,
    EnrolmentStarted,
    Event,
    EvidenceEntry,
    Fingerprint,
    KeySpec,
    NewCredential,
    Scheme,
    SigningRequest,
    SignOutcome,
    SpkiDer,
    Status,
)

from .channel import MAX_ANSWER, TIMEOUT, Channel

MAX_SIGNATURE_ANSWER = 1024
"""Bytes that one more signature takes in an answer, at most: RSA of 4096 bits in base64 has 684."""
PAGE = 200
"""Credentials or entries asked for at once."""


class RemoteServer:
    """A signing service at a URL, closed at the end of its ``with``; for one thread at a time.

    Every method raises, besides what the service refuses (the classes of errors.py by their codes),
    ServiceUnreachable, ServiceTimeout, ServiceAnswerMalformed, NotAuthenticated and NotPermitted.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        timeout: float = TIMEOUT,
        identity: Fingerprint | None = None,
    ) -> None:
        """Set up TLS, without connecting. Raises InputError.

        ``timeout``: seconds for each answer; ``identity``: the fingerprint of the installation behind it,
        which enrolment needs.
        """
        self._channel = Channel(url, token=token, ca=ca, certificate=certificate, key=key, timeout=timeout)
        self._keys: dict[CredentialId, SpkiDer] = {}
        self._known: Capabilities | None = None
        self._pinned = identity

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()

    # --- signing ---------------------------------------------------------------------------------------

    def challenge(self, credential_id: CredentialId) -> Challenge:
        """Return what the card needs to authorise the next signature (step 880); changes nothing."""
        challenge = self._channel.read(Challenge, "GET", f"/v1/credentials/{credential_id.hex()}/challenge")
        self._channel.expect(challenge.credential_id == credential_id, "the challenge of another credential")
        self._check_key(challenge.spki)
        self._keys[credential_id] = challenge.spki
        return challenge

    def sign(self, request: SigningRequest) -> SignOutcome:
        """Carry out what a card authorised (steps 1 to 10); the same request again gives the same outcome."""
        authorisation, content = request.authorisation, request.content
        path = f"/v1/credentials/{authorisation.credential_id.hex()}"
        answer = authorisation.answer
        if isinstance(content, DigestList):
            outcome = self._channel.read(
                SignOutcome,
                "POST",
                f"{path}/signatures",
                body=SignatureRequest(answer, content.digests),
                limit=MAX_ANSWER + MAX_SIGNATURE_ANSWER * len(content.digests),
            )
            self._verify(request, outcome, content.digests)
            return outcome
        message = _HashingReader(content.source, authorisation.algorithm)
        outcome = self._channel.read(
            SignOutcome,
            "POST",
            f"{path}/message-signatures",
            files={
                "authorisation": (None, json_codec.encode(answer), "application/json"),
                "message": ("message", message, "application/octet-stream"),
            },
            limit=MAX_ANSWER,
        )
        self._verify(request, outcome, (message.signed(),))
        return outcome

    def _verify(self, request: SigningRequest, outcome: SignOutcome, signed: tuple[bytes, ...]) -> None:
        authorisation = request.authorisation
        self._channel.expect(
            outcome.credential_id == authorisation.credential_id, "signatures of another credential"
        )
        self._channel.expect(outcome.algorithm is authorisation.algorithm, "signatures of another algorithm")
        known = self._keys.get(authorisation.credential_id, outcome.spki)
        self._channel.expect(outcome.spki == known, "signatures of another key")
        self._channel.expect(len(outcome.signatures) == len(signed), "another number of signatures")
        try:
            verify = algorithms.verifier(outcome.spki, outcome.algorithm)
            for digest, signature in zip(signed, outcome.signatures, strict=True):
                verify(digest, signature)
        except (SignatureInvalid, AlgorithmUnsuitable, InputError):
            self._channel.expect(False, "a signature that does not verify")

    # --- enrolment -------------------------------------------------------------------------------------

    @property
    def claimed_identity(self) -> Fingerprint:
        """What the service says of its installation's identity: to be compared with what is known of it."""
        return self._capabilities().identity

    @property
    def identity(self) -> Fingerprint:
        """The fingerprint that is pinned.

        Raises IdentityUnknown without one; IdentityChanged where the service says that it has another, before
        anything is begun. That it does not say so proves nothing: signatures do.
        """
        if self._pinned is None:
            raise IdentityUnknown(
                "nobody has said which installation is behind this service",
                hint="--identity FINGERPRINT says it, as hsm-signer identity shows it at the server; or "
                "identity in [server] of config.toml, which a first enrolment at a terminal asks about",
            )
        if (claimed := self.claimed_identity) != self._pinned:
            raise identity.changed(claimed, self._pinned)
        return self._pinned

    @property
    def is_pinned(self) -> bool:
        """Whether it is known which installation is behind the service."""
        return self._pinned is not None

    def pin(self, fingerprint: Fingerprint) -> None:
        """Believe the statements of the installation with this fingerprint, and of no other."""
        self._pinned = fingerprint

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Say why the service cannot hold such a credential, in words; "" if it can."""
        return self._capabilities().obstacle(scheme, key)

    def _capabilities(self) -> Capabilities:
        """Return the service's capabilities, which are asked for once."""
        if self._known is None:
            self._known = self.capabilities()
        return self._known

    def capabilities(self) -> Capabilities:
        """Ask what can be enrolled at the service, and for its limits."""
        return self._channel.read(Capabilities, "GET", "/v1/capabilities")

    def begin_enrolment(self, wanted: NewCredential, subject: str | None) -> EnrolmentStarted:
        """Make a user's keys and a pending record; return what the card has to get, not checked yet."""
        body = EnrolmentRequest.of(wanted, subject)
        started = self._channel.read(EnrolmentStarted, "POST", "/v1/enrolments", body=body, again=False)
        credential = started.credential
        self._channel.expect(
            started.personalisation.credential_id == credential.credential_id
            and credential.owner == wanted.owner,
            "another enrolment",
        )
        self._check_key(credential.spki)
        return started

    def request_info(self, credential_id: CredentialId) -> RequestInfo:
        """Return what a pending credential's first authorisation signs, its key proven to be its user's."""
        path = f"/v1/enrolments/{credential_id.hex()}/request-info"
        info = self._channel.read(RequestInfo, "GET", path)
        self._check_key(info.spki)
        return info

    def give_up_enrolment(self, credential_id: CredentialId) -> None:
        """Delete a pending record whose card never got its keys."""
        self._channel.send("DELETE", f"/v1/enrolments/{credential_id.hex()}", again=False)

    # --- credentials -----------------------------------------------------------------------------------

    def credential(self, owner: str) -> CredentialView:
        """Return a user's credential, else the newest revoked one; raises CredentialUnknown."""
        name = canonical_owner(owner)
        # A name may be "..": percent-encoded, or it would be a step up in the path.
        segment = quote(name, safe="").replace(".", "%2E")
        credential = self._channel.read(CredentialView, "GET", f"/v1/users/{segment}/credential")
        self._channel.expect(credential.owner == name, "the credential of another user")
        self._check_key(credential.spki)
        return credential

    def credential_by_id(self, credential_id: CredentialId) -> CredentialView:
        """Return a credential by its id, 16 bytes; raises CredentialUnknown."""
        return self._credential("GET", credential_id)

    def credentials_of(self, owner: str) -> list[CredentialView]:
        """Return every credential that the user ever had and that is still recorded, the live one first."""
        return sorted(self.credentials(owner), key=lambda credential: credential.status is Status.REVOKED)

    def credentials(self, owner: str | None = None) -> Iterator[CredentialView]:
        """Go through all credentials that this client may see, or one user's, ascending by credential id."""
        after: CredentialId | None = None
        while True:
            query = {"limit": str(PAGE)}
            if owner is not None:
                query["owner"] = owner
            if after is not None:
                query["after"] = after.hex()
            page = self._channel.read(CredentialPage, "GET", "/v1/credentials", query=query)
            self._channel.expect(len(page.credentials) <= PAGE, "a longer page than was asked for")
            for credential in page.credentials:
                self._channel.expect(
                    after is None or credential.credential_id > after, "credentials out of order"
                )
                self._check_key(credential.spki)
                after = credential.credential_id
                yield credential
            if not page.more:
                return
            self._channel.expect(bool(page.credentials), "an empty page with others after it")

    def _check_key(self, spki: SpkiDer) -> None:
        try:
            algorithms.key_spec_of(spki)
        except InputError:
            self._channel.expect(False, "a public key of no known kind")

    def change_status(self, credential_id: CredentialId, event: Event) -> CredentialView:
        """Suspend, resume, unlock or revoke.

        Raises ApprovalAwaited where a second client has to ask for it, too, ApprovalSameClient,
        StatusUnsuitable, RecordConflict (try again).
        """
        return self._credential("POST", credential_id, f"/{event.value}")

    def _credential(self, method: str, credential_id: CredentialId, end: str = "") -> CredentialView:
        path = f"/v1/credentials/{credential_id.hex()}{end}"
        credential = self._channel.read(CredentialView, method, path, again=method == "GET")
        self._channel.expect(credential.credential_id == credential_id, "another credential")
        self._check_key(credential.spki)
        return credential

    def certification_request(self, credential_id: CredentialId) -> str:
        """Return the certificate request (PKCS#10, RFC 2986), PEM; raises CredentialPending."""
        path = f"/v1/credentials/{credential_id.hex()}/certification-request"
        return self._channel.read(CertificationRequest, "GET", path).pem

    def certificates(self, credential_id: CredentialId) -> tuple[bytes, ...]:
        """Return the certificate chain of a credential, DER each, leaf first; empty without one."""
        path = f"/v1/credentials/{credential_id.hex()}/certificates"
        return self._channel.read(CertificateChain, "GET", path).certificates

    def set_certificates(self, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
        """Store a certificate chain, DER each, leaf first; empty removes it. Raises CertificateUnsuitable."""
        certificates.check_chain(chain, self.credential_by_id(credential_id).spki)
        path = f"/v1/credentials/{credential_id.hex()}/certificates"
        self._channel.send("PUT", path, body=CertificateChain(chain))

    # --- evidence --------------------------------------------------------------------------------------

    def entries(
        self, credential_id: CredentialId | None = None, after: int = 0
    ) -> Iterator[tuple[int, EvidenceEntry]]:
        """Go through the evidence numbered above ``after``, in the order of writing, each with its number."""
        while True:
            query = {"after": str(after), "limit": str(PAGE)}
            if credential_id is not None:
                query["credential_id"] = credential_id.hex()
            page = self._channel.read(EvidencePage, "GET", "/v1/evidence", query=query)
            self._channel.expect(len(page.entries) <= PAGE, "a longer page than was asked for")
            for numbered in page.entries:
                self._channel.expect(numbered.number > after, "evidence out of order")
                after = numbered.number
                yield numbered.number, numbered.entry
            if not page.more:
                return
            self._channel.expect(bool(page.entries), "an empty page with others after it")


class _HashingReader:
    """A message as httpx uploads it: a file object that notes what the signature has to be of."""

    def __init__(self, source: ByteSource, algorithm: Algorithm) -> None:
        self._source = source
        self._hash_name = algorithm.hash
        self.seek(0)

    def seek(self, _: int) -> None:
        """Start again from the beginning, which httpx does before each attempt."""
        self._chunks = self._source.chunks()
        self._digest = None if self._hash_name is None else hashlib.new(self._hash_name.value)
        self._whole = bytearray()

    def read(self, _: int) -> bytes:
        """Return the next chunk, however long it is; empty at the end.

        Raises AlgorithmUnsuitable for a message that is too long for Ed25519, and FileError.
        """
        chunk = next(self._chunks, b"")
        if self._digest is not None:
            self._digest.update(chunk)
        elif len(self._whole) + len(chunk) > MAX_ED25519_MESSAGE:
            raise AlgorithmUnsuitable(f"message: ed25519 takes at most {MAX_ED25519_MESSAGE} bytes")
        else:
            self._whole += chunk
        return chunk

    def signed(self) -> bytes:
        """Return what the signature is of: the digest of what was read, for Ed25519 all of it."""
        return bytes(self._whole) if self._digest is None else self._digest.digest()

"""The server, far away: the same methods as Server's, over the service's native interface (HTTPS).

What answers is not believed: answers are bounded in size and time and read strictly, and a signature is given
out only after it has been verified for the digests that were sent.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from hsm_signer.core import algorithms, certificates, forms
from hsm_signer.core.content import MAX_ED25519_MESSAGE
from hsm_signer.core.owners import as_recorded
from hsm_signer.errors import AlgorithmUnsuitable, InputError, SignatureInvalid
from hsm_signer.types import (
    Algorithm,
    Begun,
    ByteSource,
    Challenge,
    Combine,
    CredentialId,
    CredentialView,
    DigestList,
    Event,
    EvidenceEntry,
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
    """A signing service at a URL; closed at the end of the ``with``. One thread at a time.

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
    ) -> None:
        """``timeout``: seconds for each answer. Raises InputError; connects nowhere."""
        self._channel = Channel(url, token=token, ca=ca, certificate=certificate, key=key, timeout=timeout)
        self._keys: dict[CredentialId, SpkiDer] = {}
        self._known: forms.Capabilities | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._channel.close()

    # --- signing ---------------------------------------------------------------------------------------

    def challenge(self, credential_id: CredentialId) -> Challenge:
        """Step 880."""
        found = self._channel.read(
            forms.challenge_from_json, "GET", f"/v1/credentials/{credential_id.hex()}/challenge"
        )
        self._channel.expect(found.credential_id == credential_id, "the challenge of another credential")
        self._check_key(found.spki)
        self._keys[credential_id] = found.spki
        return found

    def sign(self, request: SigningRequest) -> SignOutcome:
        """Steps 1 to 10. The same request may be sent again: it is never carried out twice."""
        authorisation, content = request.authorisation, request.content
        path = f"/v1/credentials/{authorisation.credential_id.hex()}"
        form = forms.authorisation_to_json(authorisation)
        if isinstance(content, DigestList):
            body = {"authorisation": form, "digests": forms.digests_to_json(content.digests)}
            outcome = self._channel.read(
                forms.outcome_from_json,
                "POST",
                f"{path}/signatures",
                body=body,
                limit=MAX_ANSWER + MAX_SIGNATURE_ANSWER * len(content.digests),
            )
            self._verify(request, outcome, content.digests)
            return outcome
        upload = _Upload(form, content.source, authorisation.algorithm)
        outcome = self._channel.read(
            forms.outcome_from_json,
            "POST",
            f"{path}/message-signatures",
            upload=(upload.content_type, upload),
            limit=MAX_ANSWER,
        )
        self._verify(request, outcome, (upload.signed(),))
        return outcome

    def _verify(self, request: SigningRequest, outcome: SignOutcome, signed: tuple[bytes, ...]) -> None:
        wanted = request.authorisation
        self._channel.expect(
            outcome.credential_id == wanted.credential_id, "signatures of another credential"
        )
        self._channel.expect(outcome.algorithm is wanted.algorithm, "signatures of another algorithm")
        known = self._keys.get(wanted.credential_id, outcome.spki)
        self._channel.expect(outcome.spki == known, "signatures of another key")
        self._channel.expect(len(outcome.signatures) == len(signed), "another number of signatures")
        try:
            verify = algorithms.verifier(outcome.spki, outcome.algorithm)
            for each, signature in zip(signed, outcome.signatures, strict=True):
                verify(each, signature)
        except (SignatureInvalid, AlgorithmUnsuitable, InputError):
            self._channel.expect(False, "a signature that does not verify")

    # --- enrolment -------------------------------------------------------------------------------------

    @property
    def combines(self) -> tuple[Combine, ...]:
        """Combine methods that the service's token has, the default first."""
        return self._capabilities().combines

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Why the service cannot hold such a credential, in words; "" if it can."""
        return self._capabilities().obstacle(scheme, key)

    def _capabilities(self) -> forms.Capabilities:
        """Asked once."""
        if self._known is None:
            self._known = self.capabilities()
        return self._known

    def capabilities(self) -> forms.Capabilities:
        """What can be enrolled at the service, and its limits."""
        return self._channel.read(forms.capabilities_from_json, "GET", "/v1/capabilities")

    def begin_enrolment(self, wanted: NewCredential, subject: str | None) -> Begun:
        """Keys and a pending record."""
        body = forms.new_credential_to_json(wanted, subject)
        begun = self._channel.read(forms.begun_from_json, "POST", "/v1/enrolments", body=body, again=False)
        credential, card = begun.credential, begun.personalisation
        self._channel.expect(
            card.credential_id == credential.credential_id
            and credential.owner == wanted.owner
            and begun.request_info.find(credential.spki) >= 0,
            "another enrolment",
        )
        for name in ("scheme", "combine", "pin_policy", "pin_check", "pin_tries", "puk_tries"):
            self._channel.expect(
                getattr(card, name) == getattr(wanted, name), f"an enrolment with another {name}"
            )
        return begun

    def request_info(self, credential_id: CredentialId) -> bytes:
        """DER CertificationRequestInfo of a pending credential."""
        path = f"/v1/enrolments/{credential_id.hex()}/request-info"
        return self._channel.read(
            lambda found: forms.bytes_from_json(_only(found, "request_info"), "request_info"), "GET", path
        )

    def give_up_enrolment(self, credential_id: CredentialId) -> None:
        """Delete a pending record whose card never got its keys."""
        self._channel.send("DELETE", f"/v1/enrolments/{credential_id.hex()}", again=False)

    # --- credentials -----------------------------------------------------------------------------------

    def credential(self, owner: str) -> CredentialView:
        """The user's credential, or the newest revoked one if there is no other. Raises CredentialUnknown."""
        name = as_recorded(owner)
        # A name may be "..": percent-encoded, or it would be a step up in the path.
        segment = quote(name, safe="").replace(".", "%2E")
        found = self._channel.read(forms.credential_from_json, "GET", f"/v1/users/{segment}/credential")
        self._channel.expect(found.owner == name, "the credential of another user")
        self._check_key(found.spki)
        return found

    def credential_by_id(self, credential_id: CredentialId) -> CredentialView:
        """A credential by id. Raises CredentialUnknown."""
        return self._credential("GET", credential_id)

    def credentials_of(self, owner: str) -> list[CredentialView]:
        """Every credential the user ever had that is still recorded, the live one first."""
        found = list(self.credentials(owner))
        return sorted(found, key=lambda each: each.status is Status.REVOKED)

    def credentials(self, owner: str | None = None) -> Iterator[CredentialView]:
        """All credentials that we may see, or one user's, ascending by credential id."""
        after: CredentialId | None = None
        while True:
            query = {"limit": str(PAGE)}
            if owner is not None:
                query["owner"] = owner
            if after is not None:
                query["after"] = after.hex()
            page, more = self._channel.read(_credential_page, "GET", "/v1/credentials", query=query)
            for each in page:
                self._channel.expect(after is None or each.credential_id > after, "credentials out of order")
                self._check_key(each.spki)
                after = each.credential_id
                yield each
            if not more:
                return
            self._channel.expect(bool(page), "an empty page with others after it")

    def _check_key(self, spki: SpkiDer) -> None:
        try:
            algorithms.key_spec_of(spki)
        except InputError:
            self._channel.expect(False, "a public key of no known kind")

    def change_status(self, credential_id: CredentialId, event: Event) -> CredentialView:
        """Suspend, resume, unlock or revoke. Raises StatusUnsuitable, RecordConflict (try again)."""
        return self._credential("POST", credential_id, f"/{forms.name_of(event)}")

    def _credential(self, method: str, credential_id: CredentialId, end: str = "") -> CredentialView:
        path = f"/v1/credentials/{credential_id.hex()}{end}"
        found = self._channel.read(forms.credential_from_json, method, path, again=method == "GET")
        self._channel.expect(found.credential_id == credential_id, "another credential")
        self._check_key(found.spki)
        return found

    def certification_request(self, credential_id: CredentialId) -> str:
        """PKCS#10 as the first authorisation signed it, PEM. Raises CredentialPending."""
        path = f"/v1/credentials/{credential_id.hex()}/certification-request"
        return self._channel.read(lambda found: _pem(_only(found, "pem")), "GET", path)

    def certificates(self, credential_id: CredentialId) -> tuple[bytes, ...]:
        """The chain kept for a credential, DER each, leaf first; empty without one."""
        path = f"/v1/credentials/{credential_id.hex()}/certificates"
        return self._channel.read(forms.certificates_from_json, "GET", path)

    def set_certificates(self, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
        """Keep a chain, DER each, leaf first; empty removes it. Raises CertificateUnsuitable."""
        certificates.check_chain(chain, self.credential_by_id(credential_id).spki)
        path = f"/v1/credentials/{credential_id.hex()}/certificates"
        self._channel.send("PUT", path, body=forms.certificates_to_json(chain))

    # --- evidence --------------------------------------------------------------------------------------

    def entries(
        self, credential_id: CredentialId | None = None, after: int = 0
    ) -> Iterator[tuple[int, EvidenceEntry]]:
        """Evidence numbered above ``after``, in the order of writing, with the store's number of each."""
        while True:
            query = {"after": str(after), "limit": str(PAGE)}
            if credential_id is not None:
                query["credential_id"] = credential_id.hex()
            page, more = self._channel.read(_evidence_page, "GET", "/v1/evidence", query=query)
            for number, entry in page:
                self._channel.expect(number > after, "evidence out of order")
                after = number
                yield number, entry
            if not more:
                return
            self._channel.expect(bool(page), "an empty page with others after it")


class _Upload:
    """multipart/form-data (RFC 7578) of an authorisation and its message, read in pieces, each time anew."""

    def __init__(self, authorisation: forms.Json, source: ByteSource, algorithm: Algorithm) -> None:
        self._authorisation = json.dumps(authorisation).encode("ascii")
        self._source = source
        self._algorithm = algorithm
        self._boundary = secrets.token_hex(16)
        self._signed = b""

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    def __iter__(self) -> Iterator[bytes]:
        yield self._head('name="authorisation"', "application/json") + self._authorisation + b"\r\n"
        yield self._head('name="message"; filename="message"', "application/octet-stream")
        hash_name = self._algorithm.hash
        running = None if hash_name is None else hashlib.new(hash_name.hashlib_name)
        whole = bytearray()
        for chunk in self._source.chunks():
            if running is not None:
                running.update(chunk)
            elif len(whole) + len(chunk) > MAX_ED25519_MESSAGE:
                raise AlgorithmUnsuitable(f"message: ed25519 takes at most {MAX_ED25519_MESSAGE} bytes")
            else:
                whole += chunk
            yield chunk
        self._signed = bytes(whole) if running is None else running.digest()
        yield f"\r\n--{self._boundary}--\r\n".encode("ascii")

    def _head(self, disposition: str, kind: str) -> bytes:
        lines = (
            f"--{self._boundary}",
            f"Content-Disposition: form-data; {disposition}",
            f"Content-Type: {kind}",
        )
        return "\r\n".join((*lines, "", "")).encode("ascii")

    def signed(self) -> bytes:
        """What the signature is of: the digest of what was sent last, or for Ed25519 all of it."""
        return self._signed


def _only(value: Any, name: str) -> Any:
    """The one field of an object."""
    forms.check_fields(value, (name,), "answer")
    return value[name]


def _pem(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("-----BEGIN CERTIFICATE REQUEST-----"):
        raise InputError("pem: expected a certificate request")
    if not value.isascii():
        raise InputError("pem: expected ASCII")
    return value


def _credential_page(value: Any) -> tuple[list[CredentialView], bool]:
    forms.check_fields(value, ("credentials", "more"), "answer")
    page, more = _page(value, "credentials")
    return [forms.credential_from_json(each, f"credentials[{n}]") for n, each in enumerate(page)], more


def _evidence_page(value: Any) -> tuple[list[tuple[int, EvidenceEntry]], bool]:
    forms.check_fields(value, ("entries", "more"), "answer")
    page, more = _page(value, "entries")
    return [forms.entry_from_json(each, f"entries[{n}]") for n, each in enumerate(page)], more


def _page(value: Any, name: str) -> tuple[list[Any], bool]:
    page, more = value[name], value["more"]
    if not isinstance(page, list) or len(page) > PAGE or not isinstance(more, bool):
        raise InputError(f"{name}: expected a page of at most {PAGE}")
    return page, more

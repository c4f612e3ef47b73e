"""The interfaces of a signing server, in this process or remote: three protocols, each extending the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from hsm_signer.core.interface import RequestInfo
from hsm_signer.types import (
    Challenge,
    CredentialId,
    CredentialRecord,
    CredentialView,
    EnrolmentStarted,
    Event,
    Fingerprint,
    KeySpec,
    NewCredential,
    Scheme,
    SigningRequest,
    SignOutcome,
)

AnyCredential = CredentialRecord | CredentialView
"""What a server near gives, and what one far away does: the attributes they share are the same."""


class SigningServer(Protocol):
    """A server that can sign."""

    def challenge(self, credential_id: CredentialId) -> Challenge:
        """Return what the card needs to authorise the next signature (step 880); changes nothing.

        Raises CredentialUnknown, and the refusals of a credential that cannot sign now.
        """
        ...

    def sign(self, request: SigningRequest) -> SignOutcome:
        """Carry out what a card authorised; the same request again gives the same outcome.

        docs/understand/protocol.md, section 5. Raises Refused for what the server refuses, and errors of
        token and store.
        """
        ...


class EnrolmentServer(SigningServer, Protocol):
    """A server that can also enrol."""

    @property
    def identity(self) -> Fingerprint:
        """The fingerprint of the installation whose statements are believed here.

        An installation's own; of a service the one that is pinned. Raises IdentityUnknown without one,
        IdentityChanged where the service says that it has another.
        """
        ...

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Say why the server cannot hold such a credential, in words; "" if it can."""
        ...

    def credential(self, owner: str) -> AnyCredential:
        """Return a user's credential, or the newest revoked one; raises CredentialUnknown."""
        ...

    def credential_by_id(self, credential_id: CredentialId) -> AnyCredential:
        """Return a credential by its id, 16 bytes; raises CredentialUnknown."""
        ...

    def begin_enrolment(self, wanted: NewCredential, subject: str | None) -> EnrolmentStarted:
        """Make a user's keys and a pending record; return what the card has to get."""
        ...

    def request_info(self, credential_id: CredentialId) -> RequestInfo:
        """Return what a pending credential's first authorisation signs, its key proven to be its user's."""
        ...

    def give_up_enrolment(self, credential_id: CredentialId) -> None:
        """Delete a pending record whose card never got its keys; raises StatusUnsuitable."""
        ...


class CredentialServer(EnrolmentServer, Protocol):
    """A server with all its methods, on this machine or as a service."""

    def credentials_of(self, owner: str) -> Sequence[AnyCredential]:
        """Return every credential that a user ever had, the live one first."""
        ...

    def credentials(self) -> Iterator[AnyCredential]:
        """Go through all credentials, ascending by credential id."""
        ...

    def change_status(self, credential_id: CredentialId, event: Event) -> AnyCredential:
        """Suspend, resume, unlock or revoke; raises StatusUnsuitable, RecordConflict (try again)."""
        ...

    def certification_request(self, credential_id: CredentialId) -> str:
        """Return the certificate request (PKCS#10, RFC 2986), PEM; raises CredentialPending."""
        ...

    def certificates(self, credential_id: CredentialId) -> tuple[bytes, ...]:
        """Return the certificate chain of a credential, DER each, leaf first; empty without one."""
        ...

    def set_certificates(self, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
        """Store a certificate chain, DER each, leaf first; empty removes it. Raises CertificateUnsuitable."""
        ...

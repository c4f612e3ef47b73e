"""What a workstation asks of a server, near or far: three protocols, each the one before and more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from hsm_signer.types import (
    Challenge,
    Combine,
    CredentialId,
    CredentialRecord,
    CredentialView,
    EnrolmentStarted,
    Event,
    KeySpec,
    NewCredential,
    Scheme,
    SigningRequest,
    SignOutcome,
)

AnyCredential = CredentialRecord | CredentialView
"""What a server near gives, and what one far away does: the attributes they share are the same."""


class SigningServer(Protocol):
    """What signing needs of a server, near or far."""

    def challenge(self, credential_id: CredentialId) -> Challenge:
        """Step 880."""
        ...

    def sign(self, request: SigningRequest) -> SignOutcome:
        """Steps 1 to 10."""
        ...


class EnrolmentServer(SigningServer, Protocol):
    """What enrolment needs beyond that."""

    @property
    def combines(self) -> tuple[Combine, ...]:
        """Combine methods that the server's token has, the default first."""
        ...

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Why the server cannot hold such a credential, in words; "" if it can."""
        ...

    def credential(self, owner: str) -> AnyCredential:
        """The user's credential, or the newest revoked one; raises CredentialUnknown."""
        ...

    def credential_by_id(self, credential_id: CredentialId) -> AnyCredential:
        """A credential by id; raises CredentialUnknown."""
        ...

    def begin_enrolment(self, wanted: NewCredential, subject: str | None) -> EnrolmentStarted:
        """Keys and a pending record."""
        ...

    def request_info(self, credential_id: CredentialId) -> bytes:
        """DER CertificationRequestInfo of a pending credential."""
        ...

    def give_up_enrolment(self, credential_id: CredentialId) -> None:
        """Delete a pending record."""
        ...


class CredentialServer(EnrolmentServer, Protocol):
    """What the commands about credentials need beyond that."""

    def credentials_of(self, owner: str) -> Sequence[AnyCredential]:
        """Every credential of the user, the live one first."""
        ...

    def credentials(self) -> Iterator[AnyCredential]:
        """All credentials, ascending by credential id."""
        ...

    def change_status(self, credential_id: CredentialId, event: Event) -> AnyCredential:
        """Suspend, resume, unlock or revoke; raises StatusUnsuitable."""
        ...

    def certification_request(self, credential_id: CredentialId) -> str:
        """PKCS#10, PEM; raises CredentialPending."""
        ...

    def certificates(self, credential_id: CredentialId) -> tuple[bytes, ...]:
        """The chain kept beside the credential, DER each, leaf first."""
        ...

    def set_certificates(self, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
        """Keep another; raises CertificateUnsuitable."""
        ...

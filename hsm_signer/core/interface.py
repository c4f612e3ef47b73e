"""Bodies of the service's own interface that are no entities of the protocol, each defined once.

With types.py all that crosses the network; core/json_codec.py reads and writes them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, structs

from hsm_signer.types import (
    MAX_BLOB,
    MAX_CERTIFICATES,
    MAX_DIGESTS,
    PUBLIC_NAMES,
    U64,
    AnyDigest,
    CardAnswer,
    Combine,
    CredentialId,
    CredentialView,
    Der,
    Event,
    EvidenceEntry,
    Fingerprint,
    InstallationSignature,
    KeySpec,
    NewCredential,
    Scheme,
    SpkiDer,
    Text,
    Time,
)

MAX_SUBJECT = 2000
"""Characters of an RFC 4514 string."""
MAX_PAGE = 1000
"""Credentials or entries in one answer."""
MAX_WORDS = 4096
"""Characters of what is said to people."""

Words = Annotated[str, Meta(max_length=MAX_WORDS)]
Subject = Annotated[str, Meta(min_length=1, max_length=MAX_SUBJECT, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""An RFC 4514 name."""
Chain = Annotated[tuple[Der, ...], Meta(max_length=MAX_CERTIFICATES)]
"""Certificates, DER each, the leaf first; empty for none."""
Pem = Annotated[str, Meta(max_length=2 * MAX_BLOB, pattern=r"^-----BEGIN CERTIFICATE REQUEST-----[\n -~]*$")]
Digests = Annotated[tuple[AnyDigest, ...], Meta(min_length=1, max_length=MAX_DIGESTS)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one request to a service may carry."""

    body: U64
    """Bytes, but for messages."""
    message: U64
    """Bytes of a message that travels whole."""
    digests: U64


class Capabilities(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be enrolled at a service, and its limits."""

    combines: Annotated[tuple[Combine, ...], Meta(min_length=1, max_length=len(Combine))]
    """Those the token has, the default first."""
    obstacles: dict[str, Words]
    """"SCHEME/KEY" -> why not, or "" where it can be enrolled."""
    limits: Limits
    identity: Fingerprint
    """Of the installation behind the service, as the service says: only a signature under it proves that."""

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Say why no such credential can be made there; "" if it can, or if the service does not say."""
        return self.obstacles.get(f"{scheme.value}/{key.value}", "")


class SignatureRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """One authorisation and the digests that it is for."""

    authorisation: CardAnswer
    digests: Digests


class EnrolmentRequest(NewCredential, frozen=True):
    """What a new credential shall be, the blank card's point, and the subject of its certificate request."""

    subject: Subject | None = None
    """RFC 4514 name; none: CN=OWNER."""

    @classmethod
    def of(cls, wanted: NewCredential, subject: str | None) -> EnrolmentRequest:
        """Make an enrolment request of ``wanted`` and a subject."""
        return cls(**structs.asdict(wanted), subject=subject)


class CertificateChain(Struct, frozen=True, forbid_unknown_fields=True):
    """A chain, DER each, the leaf first; empty: none."""

    certificates: Chain


class RequestInfo(Struct, frozen=True, forbid_unknown_fields=True, rename=PUBLIC_NAMES):
    """CertificationRequestInfo (RFC 2986, 4.1): the message of the first authorisation."""

    request_info: Der
    """As the server keeps it. A workstation makes it itself, of the key below, and compares."""
    spki: SpkiDer
    """PK, a DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""
    proof: InstallationSignature
    """Of credential id, user and PK (docs/understand/protocol.md, 7)."""


class CertificationRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """PKCS#10 as the first authorisation signed it."""

    pem: Pem


class PendingApproval(Struct, frozen=True, forbid_unknown_fields=True):
    """An act that is not carried out before a second client asks for it, too."""

    credential_id: CredentialId
    act: Event
    actor: Text
    """Who asked first, as evidence names them."""
    until: Time
    """When it has to be asked for anew."""


class CredentialPage(Struct, frozen=True, forbid_unknown_fields=True):
    """Some credentials; ``more``: there are others after the last."""

    credentials: Annotated[tuple[CredentialView, ...], Meta(max_length=MAX_PAGE)]
    more: bool


class NumberedEntry(EvidenceEntry, frozen=True):
    """One entry of the evidence with the store's number of it."""

    number: U64

    @classmethod
    def of(cls, number: int, entry: EvidenceEntry) -> NumberedEntry:
        """Make a numbered entry of ``entry``."""
        return cls(**structs.asdict(entry), number=number)

    @property
    def entry(self) -> EvidenceEntry:
        """The entry without the number, as it is hashed."""
        return EvidenceEntry(*structs.astuple(self)[:-1])


class EvidencePage(Struct, frozen=True, forbid_unknown_fields=True):
    """Some entries; ``more``: there are others after the last."""

    entries: Annotated[tuple[NumberedEntry, ...], Meta(max_length=MAX_PAGE)]
    more: bool

"""Enrolment: docs/protocol.md, section 7 (figs 10 and 11, steps 751 to 761).

The record is committed as pending before the card gets its keys, and becomes active by the card's first
authorisation, which signs the credential's own certificate request (PKCS#10, RFC 2986).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from .encoding import entry_hash
from .errors import InputError, TokenUnsuitable
from .evidence.chain import ChainPosition, next_entry
from .signing import Clock, system_clock
from .store.store import Store
from .token.environment import SecureEnvironment
from .token.profile import TokenProfile
from .types import (
    CardPersonalisation,
    CredentialRecord,
    Digest,
    Event,
    EvidenceEntry,
    KeySpec,
    NewCredential,
    Scheme,
    SealedRecord,
)

MAX_OWNER = 255


@dataclass(frozen=True, slots=True)
class Begun:
    """A pending credential, and what its card must get."""

    record: CredentialRecord
    personalisation: CardPersonalisation
    request_info: bytes
    """DER CertificationRequestInfo: the message of the first authorisation."""


def begin(
    environment: SecureEnvironment,
    store: Store,
    wanted: NewCredential,
    *,
    subject: str | None,
    actor: str,
    clock: Clock = system_clock,
) -> Begun:
    """Steps 1 to 3: keys in the token, the pending record committed. The card has got nothing yet.

    ``subject`` is an RFC 4514 string; by default the user's name as CN. Raises CredentialExists, InputError,
    TokenUnsuitable, TokenError, StoreError.
    """
    # Here and not above: what encodes ASN.1 takes longer to import than a signature takes to make.
    from . import pkcs10

    check_owner(wanted.owner)
    name = pkcs10.subject_name(wanted.owner, subject)
    draft, personalisation = environment.create(wanted)
    request_info = pkcs10.certification_request_info(name, draft.spki)
    draft = replace(draft, request_hash=request_hash(request_info))

    def build(position: ChainPosition) -> tuple[SealedRecord, EvidenceEntry]:
        entry = next_entry(
            position,
            time=clock(),
            credential_id=draft.credential_id,
            event=Event.ENROL,
            record_version=draft.version,
            actor=actor,
        )
        return environment.seal(replace(draft, evidence_head=entry_hash(entry))), entry

    store.insert(build, request=request_info, created=clock())
    return Begun(draft, personalisation, request_info)


def request_hash(request_info: bytes) -> Digest:
    """SHA-256 of the CertificationRequestInfo, as the record carries it: H of the first authorisation."""
    return Digest(hashlib.sha256(request_info).digest())


def check_owner(owner: str) -> None:
    """Raises InputError for a name that cannot be a user's: empty, long, or with control characters."""
    if not owner or owner != owner.strip() or not owner.isprintable() or len(owner.encode()) > MAX_OWNER:
        raise InputError(
            f"user: expected 1 to {MAX_OWNER} bytes of printable text without spaces around it, got {owner!r}"
        )


def check_possible(profile: TokenProfile, scheme: Scheme, key: KeySpec) -> None:
    """Raises TokenUnsuitable, in one line, where this token cannot hold such a credential."""
    if obstacle := profile.obstacle(scheme, key):
        raise TokenUnsuitable(
            f"{obstacle}: no credential with key {key.cli_name}, scheme {scheme.name.lower()}",
            hint="hsm-signer doctor shows what this token can do",
        )

"""Enrolment: docs/understand/protocol.md, section 7 (figs 10 and 11, steps 751 to 761).

The record is committed as pending before the card gets its keys, and becomes active by the card's first
authorisation, which signs the credential's own certificate request (PKCS#10, RFC 2986).
"""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.owners import check_owner
from hsm_signer.errors import CredentialPending, RecordDamaged
from hsm_signer.evidence.chain import ChainPosition, next_entry
from hsm_signer.store.store import Store
from hsm_signer.token.environment import SecureEnvironment
from hsm_signer.types import (
    ACCEPTED,
    CredentialId,
    CredentialView,
    Digest,
    EnrolmentStarted,
    Event,
    EvidenceEntry,
    NewCredential,
    SealedRecord,
)

from .signing import Clock, load_checked, system_clock


def begin(
    environment: SecureEnvironment,
    store: Store,
    wanted: NewCredential,
    *,
    subject: str | None,
    actor: str,
    clock: Clock = system_clock,
) -> EnrolmentStarted:
    """Steps 1 to 3: keys in the token, the pending record committed. The card has got nothing yet.

    ``subject`` is an RFC 4514 string; by default the user's name as CN. Raises CredentialExists, InputError,
    TokenUnsuitable, TokenError, StoreError.
    """
    # Here and not above: what encodes ASN.1 takes longer to import than a signature takes to make.
    from hsm_signer.core import certificate_requests

    check_owner(wanted.owner)
    name = certificate_requests.subject_name(wanted.owner, subject)
    draft, personalisation = environment.create(wanted)
    request_info = certificate_requests.certification_request_info(name, draft.spki)
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
    return EnrolmentStarted(CredentialView.of(draft), personalisation, request_info)


def request_hash(request_info: bytes) -> Digest:
    """SHA-256 of the CertificationRequestInfo, as the record carries it: H of the first authorisation."""
    return Digest(hashlib.sha256(request_info).digest())


def request_info(environment: SecureEnvironment, store: Store, credential_id: CredentialId) -> bytes:
    """The stored DER CertificationRequestInfo; raises RecordDamaged unless the record vouches for it."""
    loaded = load_checked(environment, store, credential_id)
    record = loaded.sealed.record
    if loaded.request is None or request_hash(loaded.request) != record.request_hash:
        raise RecordDamaged(f"the certificate request of {record.owner!r} is not the one that was stored")
    return loaded.request


def signed_request(environment: SecureEnvironment, store: Store, credential_id: CredentialId) -> str:
    """The certificate request as the first authorisation signed it, PEM, from store and evidence.

    Raises CredentialPending where that has not happened yet, RecordDamaged.
    """
    from hsm_signer.core import certificate_requests

    info = request_info(environment, store, credential_id)
    for _, entry in store.entries(credential_id):
        if entry.event is Event.ACTIVATE and entry.outcome == ACCEPTED and entry.algorithm is not None:
            return certificate_requests.certification_request(info, entry.algorithm, entry.signatures[0])
    raise CredentialPending("the enrolment is not finished: nothing has signed the certificate request yet")

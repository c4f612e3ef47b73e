"""Enrolment: docs/understand/protocol.md, section 7 (figs 10 and 11, steps 751 to 761).

The record is committed as pending before the card gets its keys, and becomes active by the card's first
authorisation, which signs the credential's own certificate request (PKCS#10, RFC 2986).
"""

from __future__ import annotations

import hashlib

from hsm_signer.core import algorithms, identity
from hsm_signer.core.chain_position import START
from hsm_signer.core.interface import RequestInfo
from hsm_signer.core.owners import check_owner
from hsm_signer.errors import (
    CredentialPending,
    RecordDamaged,
    Refused,
    StoreBusy,
    StoreError,
    StoreReadOnly,
    TokenMismatch,
)
from hsm_signer.types import (
    ACCEPTED,
    CredentialId,
    CredentialRecord,
    CredentialView,
    Digest,
    EnrolmentStarted,
    Event,
    Fingerprint,
    NewCredential,
)

from .refusals import Refusals

PENDING_LIFETIME = 24 * 60 * 60 * 1_000_000
"""Microseconds after which a pending record is deleted (docs/understand/protocol.md, section 7, step 4)."""


class Enrolment(Refusals):
    """The part of the server that makes credentials."""

    @property
    def identity(self) -> Fingerprint:
        """The fingerprint of the installation's identity, under which its statements hold."""
        return identity.fingerprint(self.environment.identity_spki)

    def begin_enrolment(self, wanted: NewCredential, subject: str | None) -> EnrolmentStarted:
        """Carry out steps 1 to 3: keys in the token, the pending record committed. The card has nothing yet.

        ``subject`` is an RFC 4514 string; by default the user's name as CN. What has been pending for 24
        hours is deleted before. Raises CredentialExists, InputError, TokenUnsuitable, TokenError, StoreError;
        AlgorithmUnsuitable for an algorithm that does not fit the key;
        CardOriginMissing and CardOriginWrong where the installation wants an origin.
        """
        # Here and not above: what encodes ASN.1 takes longer to import than a signature takes to make.
        from hsm_signer.core import certificate_requests

        self._give_up_old_enrolments()
        check_owner(wanted.owner)
        algorithms.check_more_algorithms(wanted.key, wanted.more_algorithms)
        name = certificate_requests.subject_name(wanted.owner, subject)
        assurance = self.origin_policy().assurance(wanted.card_origin, wanted.card_point, wanted.card_serial)
        record, personalisation = self.environment.create(wanted)
        info = certificate_requests.certification_request_info(name, record.spki)
        proof = self.environment.vouch(
            identity.enrolment_digest(
                self.environment.installation_id,
                wanted.owner,
                personalisation,
                card_point=wanted.card_point,
                spki=record.spki,
            )
        )
        hashes = (_sha256(wanted.card_point), _sha256(proof.signature))
        draft = self.draft(record.credential_id, Event.ENROL, record.version)
        written = self.place(draft, START, digests=hashes)
        sealed = self.seal(
            record, written, request_hash=_sha256(info), enrolment_proof=hashes[1], assurance=assurance
        )
        self.store.insert(sealed, written, request=info, created=written.entry.time)
        self.remember(written)
        return EnrolmentStarted(CredentialView.of(sealed.record), personalisation, info, proof)

    def request_info(self, credential_id: CredentialId) -> RequestInfo:
        """Return the message of a credential's first authorisation, its key proven to be its user's.

        Raises RecordDamaged unless the record vouches for it.
        """
        info, record = self._request_info(credential_id)
        digest = identity.request_digest(
            self.environment.installation_id, record.credential_id, record.owner, record.spki
        )
        return RequestInfo(info, record.spki, self.environment.vouch(digest))

    def _request_info(self, credential_id: CredentialId) -> tuple[bytes, CredentialRecord]:
        stored = self.load(credential_id)
        record = stored.sealed.record
        if stored.request is None or _sha256(stored.request) != record.request_hash:
            raise RecordDamaged(f"the certificate request of {record.owner!r} is not the one that was stored")
        return stored.request, record

    def certification_request(self, credential_id: CredentialId) -> str:
        """Return the certificate request as the first authorisation signed it, in PEM.

        Raises CredentialPending where that has not happened yet, RecordDamaged.
        """
        from hsm_signer.core import certificate_requests

        info, _ = self._request_info(credential_id)
        for _, entry in self.store.entries(credential_id):
            if entry.event is Event.ACTIVATE and entry.outcome == ACCEPTED and entry.algorithm is not None:
                return certificate_requests.certification_request(info, entry.algorithm, entry.signatures[0])
        raise CredentialPending(
            "the enrolment is not finished: nothing has signed the certificate request yet"
        )

    def give_up_enrolment(self, credential_id: CredentialId) -> None:
        """Delete a pending record; its chain stays, ended by an EXPIRE entry. Raises StatusUnsuitable."""
        record = self.load(credential_id).sealed.record
        draft = self.draft(credential_id, Event.EXPIRE, record.version + 1)
        with self.store.changing(credential_id, record.version) as change:
            self.append_counted(change, credential_id)
            written = self.place(draft, change.position)
            change.expire(written)
        self.remember(written)

    def _give_up_old_enrolments(self) -> None:
        """Delete every record that has been pending for 24 hours."""
        for credential_id in self.store.pending_before(self.clock() - PENDING_LIFETIME):
            try:
                self.give_up_enrolment(credential_id)
            except (StoreBusy, StoreReadOnly):
                raise
            except (Refused, StoreError, TokenMismatch):
                # Finished or given up by another process meanwhile; or damaged, which the audit says: one bad
                # record must not stop everybody else's enrolment.
                continue


def _sha256(data: bytes) -> Digest:
    """SHA-256, 32 bytes; of the CertificationRequestInfo it is H of the first authorisation."""
    return Digest(hashlib.sha256(data).digest())

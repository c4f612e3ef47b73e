"""The server of figure 1 (130): secure environment and store together, one method per thing it does.

The command line calls it in process; a network front speaks to the same methods.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from hsm_signer.core import certificates
from hsm_signer.core.canonical import sequence
from hsm_signer.core.identity import fingerprint
from hsm_signer.errors import CredentialUnknown
from hsm_signer.evidence.anchor import Anchor, anchor_digest, check_anchor, check_signature, make_anchor
from hsm_signer.evidence.findings import Finding
from hsm_signer.token.profile import TokenProfile
from hsm_signer.types import (
    Combine,
    CredentialId,
    CredentialRecord,
    Digest,
    Event,
    EvidenceEntry,
    KeySpec,
    Scheme,
    Status,
)

from .approval import Approvals
from .enrolment import Enrolment
from .signing import Signing

if TYPE_CHECKING:
    from hsm_signer.evidence.audit import AuditReport


class Server(Signing, Enrolment, Approvals):
    """A signing server in this process, with one method for everything that needs its token or its store."""

    @property
    def profile(self) -> TokenProfile:
        """What the token can do, as its probe found."""
        return self.environment.profile

    @property
    def combines(self) -> tuple[Combine, ...]:
        """The combine methods that the token has, the default first."""
        return self.profile.combines

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Say in words why the token cannot hold such a credential; "" if it can."""
        return self.profile.obstacle(scheme, key) or ""

    # --- credentials -----------------------------------------------------------------------------------

    def credential_by_id(self, credential_id: CredentialId) -> CredentialRecord:
        """Return a record, its MAC and age checked. Raises CredentialUnknown and what loading raises."""
        return self.load(credential_id).sealed.record

    def credential(self, owner: str) -> CredentialRecord:
        """Return the user's credential, or the newest revoked one if there is no other.

        Raises CredentialUnknown.
        """
        found = self.store.find(owner)
        if not found:
            raise CredentialUnknown(
                f"no credential of user {owner!r} here", hint="hsm-signer credential list shows the users"
            )
        best = next((sealed for sealed in found if sealed.record.status is not Status.REVOKED), found[0])
        return self.credential_by_id(best.record.credential_id)

    def credentials_of(self, owner: str) -> list[CredentialRecord]:
        """Return every credential that the user ever had and that is still recorded, the live one first."""
        records = [self.credential_by_id(sealed.record.credential_id) for sealed in self.store.find(owner)]
        return sorted(records, key=lambda record: record.status is Status.REVOKED)

    def credentials(self) -> Iterator[CredentialRecord]:
        """Read all records, ascending by credential id, their MACs checked. Raises RecordDamaged."""
        for sealed in self.store.list_records():
            self.environment.check(sealed)
            yield sealed.record

    def certificates(self, credential_id: CredentialId) -> tuple[bytes, ...]:
        """Return the certificate chain kept for a credential, DER, leaf first; empty without one.

        The database is not believed that it is this key's. Raises CertificateUnsuitable, StoreDamaged.
        """
        chain = self.store.certificates(credential_id)
        certificates.check_chain(chain, self.credential_by_id(credential_id).spki)
        return chain

    def set_certificates(self, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
        """Keep a certificate chain, DER, leaf first; empty removes it. Evidence says which.

        Raises CertificateUnsuitable, RecordConflict.
        """
        record = self.credential_by_id(credential_id)
        certificates.check_chain(chain, record.spki)
        draft = self.draft(credential_id, Event.CERTIFICATES, record.version + 1)
        with self.store.changing(credential_id, record.version) as change:
            digest = Digest(hashlib.sha256(sequence(chain)).digest())
            written = self.place(draft, change.position, digests=(digest,))
            change.keep(chain)
            change.write(self.seal(record, written), written)

    # --- evidence --------------------------------------------------------------------------------------

    def entries(
        self, credential_id: CredentialId | None = None, limit: int | None = None
    ) -> Iterator[tuple[int, EvidenceEntry]]:
        """Read evidence entries with the store's numbers; ``limit``: only the newest so many."""
        return self.store.entries(credential_id, limit=limit)

    def anchor(self) -> Anchor:
        """Make an anchor over all evidence, signed, to keep outside the database."""
        return self.sign_anchor(self.unsigned_anchor())

    def unsigned_anchor(self) -> Anchor:
        """Make the anchor that is to be signed; reads all chains, and needs no token for it."""
        last = self.store.last_entry()
        return make_anchor(time=self.clock(), last_entry=last, heads=self.store.heads(last))

    def sign_anchor(self, anchor: Anchor) -> Anchor:
        """Sign an anchor that was made a moment ago, as the installation."""
        digest = anchor_digest(anchor, self.environment.installation_id)
        return replace(anchor, signed=self.environment.vouch(digest))

    def check_anchor(self, anchor: Anchor) -> tuple[Finding, ...]:
        """Find what is no longer as it was when ``anchor`` was made, and whether it is one of ours."""
        pinned = fingerprint(self.environment.identity_spki)
        return (
            *check_signature(anchor, pinned),
            *check_anchor(anchor, self.store.heads(anchor.last_entry)),
        )

    def audit(self) -> AuditReport:
        """Check all chains, signatures and records against each other."""
        # Here and not above: signing does without.
        from .audit import audit_store

        with self.store.snapshot() as snapshot:
            return audit_store(snapshot, self.environment)

"""The server of figure 1 (130): secure environment and store together, one method per thing it does.

The command line calls it in process; a network front speaks to the same methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsm_signer.core import algorithms, certificates
from hsm_signer.core.owners import canonical_owner
from hsm_signer.errors import CredentialUnknown, RecordDamaged, TokenMismatch
from hsm_signer.evidence.anchor import Anchor, check_anchor, make_anchor
from hsm_signer.evidence.findings import Finding
from hsm_signer.store.store import Store
from hsm_signer.token.environment import Observe, SecureEnvironment
from hsm_signer.token.profile import TokenProfile
from hsm_signer.types import (
    Algorithm,
    Challenge,
    Combine,
    CredentialId,
    CredentialRecord,
    EnrolmentStarted,
    Event,
    EvidenceEntry,
    KeySpec,
    NewCredential,
    Scheme,
    SealedRecord,
    SigningRequest,
    SignOutcome,
    SpkiDer,
    Status,
)

from . import credentials, enrolment, signing
from .signing import Admit, Clock, system_clock

if TYPE_CHECKING:
    from hsm_signer.evidence.audit import AuditReport


@dataclass(frozen=True, slots=True)
class Server:
    """Everything that needs the token or the store goes through here."""

    environment: SecureEnvironment
    store: Store
    actor: str
    """Who asks, as evidence names it."""
    clock: Clock = system_clock
    observe: Observe = lambda _: None

    @property
    def profile(self) -> TokenProfile:
        """What the token can do."""
        return self.environment.profile

    @property
    def combines(self) -> tuple[Combine, ...]:
        """Combine methods that the token has, the default first."""
        return self.profile.combines

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Why the token cannot hold such a credential, in words; "" if it can."""
        return self.profile.obstacle(scheme, key) or ""

    # --- signing ---------------------------------------------------------------------------------------

    def challenge(self, credential_id: CredentialId, *, admit: Admit = lambda _: None) -> Challenge:
        """Step 880; see :func:`hsm_signer.server.signing.challenge`."""
        return signing.challenge(self.environment, self.store, credential_id, admit=admit)

    def examine(self, request: SigningRequest, *, admit: Admit = lambda _: None) -> None:
        """Steps 1 and 2 alone; see :func:`hsm_signer.server.signing.examine`."""
        signing.examine(self.environment, self.store, request, admit=admit)

    def sign(self, request: SigningRequest, *, admit: Admit = lambda _: None) -> SignOutcome:
        """Steps 1 to 10; see :func:`hsm_signer.server.signing.sign`."""
        return signing.sign(
            self.environment,
            self.store,
            request,
            actor=self.actor,
            clock=self.clock,
            observe=self.observe,
            admit=admit,
        )

    # --- enrolment -------------------------------------------------------------------------------------

    def begin_enrolment(self, wanted: NewCredential, subject: str | None) -> EnrolmentStarted:
        """See :func:`hsm_signer.server.enrolment.begin`; clears away old pending records first."""
        credentials.give_up_old_pending(self.environment, self.store, actor=self.actor, clock=self.clock)
        return enrolment.begin(
            self.environment, self.store, wanted, subject=subject, actor=self.actor, clock=self.clock
        )

    def request_info(self, credential_id: CredentialId) -> bytes:
        """See :func:`hsm_signer.server.enrolment.request_info`."""
        return enrolment.request_info(self.environment, self.store, credential_id)

    def certification_request(self, credential_id: CredentialId) -> str:
        """See :func:`hsm_signer.server.enrolment.signed_request`."""
        return enrolment.signed_request(self.environment, self.store, credential_id)

    def give_up_enrolment(self, credential_id: CredentialId) -> None:
        """Delete a pending record whose card never got its keys. Raises StatusUnsuitable."""
        credentials.give_up_pending(
            self.environment, self.store, credential_id, actor=self.actor, clock=self.clock
        )

    # --- credentials -----------------------------------------------------------------------------------

    def change_status(self, credential_id: CredentialId, event: Event) -> CredentialRecord:
        """Suspend, resume, unlock or revoke; see :func:`hsm_signer.server.credentials.change_status`."""
        return credentials.change_status(
            self.environment, self.store, credential_id, event, actor=self.actor, clock=self.clock
        )

    def credential_by_id(self, credential_id: CredentialId) -> CredentialRecord:
        """A record whose MAC and age have been checked."""
        return signing.load_checked(self.environment, self.store, credential_id).sealed.record

    def credential(self, owner: str) -> CredentialRecord:
        """The user's credential, or the newest revoked one if there is no other. Raises CredentialUnknown.

        However the name was typed: users are recorded in Unicode's normalisation form C.
        """
        found = self.store.find(canonical_owner(owner))
        if not found:
            raise CredentialUnknown(
                f"no credential of user {owner!r} here", hint="hsm-signer credential list shows the users"
            )
        best = next((each for each in found if each.record.status is not Status.REVOKED), found[0])
        return self.credential_by_id(best.record.credential_id)

    def credentials_of(self, owner: str) -> list[CredentialRecord]:
        """Every credential the user ever had that is still recorded, the live one first, each checked."""
        newest = self.store.find(canonical_owner(owner))
        records = [self.credential_by_id(each.record.credential_id) for each in newest]
        return sorted(records, key=lambda record: record.status is Status.REVOKED)

    def credentials(self) -> Iterator[CredentialRecord]:
        """All records, ascending by credential id, each with its MAC checked. Raises RecordDamaged."""
        for sealed in self.store.list_records():
            self.environment.check(sealed)
            yield sealed.record

    def certificates(self, credential_id: CredentialId) -> tuple[bytes, ...]:
        """The chain kept for a credential, DER each, leaf first; empty without one.

        The database is not believed that it is this key's. Raises CertificateUnsuitable, StoreDamaged.
        """
        chain = self.store.certificates(credential_id)
        certificates.check_chain(chain, self.credential_by_id(credential_id).spki)
        return chain

    def set_certificates(self, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
        """Keep a chain, DER each, leaf first; empty removes it. Raises CertificateUnsuitable."""
        certificates.check_chain(chain, self.credential_by_id(credential_id).spki)
        self.store.set_certificates(credential_id, chain)

    # --- evidence --------------------------------------------------------------------------------------

    def entries(
        self, credential_id: CredentialId | None = None, limit: int | None = None
    ) -> Iterator[tuple[int, EvidenceEntry]]:
        """Evidence with the store's number of each entry; ``limit``: only the newest so many."""
        return self.store.entries(credential_id, limit=limit)

    def anchor(self) -> Anchor:
        """Today's anchor, to keep elsewhere."""
        last = self.store.last_entry()
        return make_anchor(time=self.clock(), last_entry=last, heads=self.store.heads(last))

    def check_anchor(self, anchor: Anchor) -> tuple[Finding, ...]:
        """What no longer is as it was when ``anchor`` was made."""
        return check_anchor(anchor, self.store.heads(anchor.last_entry))

    def audit(self) -> AuditReport:
        """Chains, signatures and records held against each other."""
        # Here and not above: signing does without.
        from hsm_signer.evidence.audit import audit

        damaged: list[Finding] = []
        with self.store.snapshot() as snapshot:
            return audit(
                snapshot.records(damaged.append),
                snapshot.chains(damaged.append),
                verify=_holds,
                check_mac=self._mac_holds,
                damaged=damaged,
            )

    def _mac_holds(self, sealed: SealedRecord) -> bool:
        try:
            self.environment.check(sealed)
        except RecordDamaged:
            return False
        except TokenMismatch:
            return True  # sealed by us, for another master key
        return True


def _holds(spki: SpkiDer, algorithm: Algorithm, digest: bytes, signature: bytes) -> bool:
    return algorithms.holds(algorithms.verifier(spki, algorithm), digest, signature)

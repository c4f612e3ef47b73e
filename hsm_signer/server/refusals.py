"""Refusals in evidence: one by one up to a share, then counted (docs/understand/protocol.md, section 5).

Whoever may ask can be refused as often as he likes: the database must not grow with it, and nobody may be
refused without a trace.
"""

from __future__ import annotations

from hsm_signer.errors import CredentialUnknown, EvidenceDamaged, Refused, StoreDamaged
from hsm_signer.store.change import LockedChain
from hsm_signer.types import CredentialId, Event, EvidenceEntry

from .base import ServerBase

SHARE = 10
"""Entries about refusals of one credential in any minute, at most."""
MINUTE = 60_000_000
"""Microseconds."""
VARIOUS = "various"
"""Who asked, in an entry about several refusals."""


class Refusals(ServerBase):
    """The part of the server that writes down what was refused and changes no record."""

    def write_refusal(self, draft: EvidenceEntry, code: str) -> None:
        """Write an entry with outcome ``code``, or count the refusal where SHARE entries are of this minute.

        Once some are counted all are, until a minute after the last entry; then their number comes first.
        Raises CredentialUnknown, EvidenceDamaged, EvidenceMissing, StoreError.
        """
        with self.store.appending(draft.credential_id) as chain:
            recent = self._recent(chain)
            if recent >= SHARE or (recent and chain.counted):
                chain.count_refusal()
                return
            self.append_counted(chain, draft.credential_id)
            chain.append(self.place(draft, chain.position, outcome=code))

    def write_counted_refusals(self) -> None:
        """Write the numbers of refusals that were counted, where the last entry is a minute old.

        The workers do so each minute. Raises StoreError.
        """
        for credential_id in self.store.counted_refusals():
            try:
                self._write_counted(credential_id)
            except (CredentialUnknown, StoreDamaged, EvidenceDamaged):
                continue  # given up meanwhile; or damaged, which the audit says

    def append_counted(self, chain: LockedChain, credential_id: CredentialId) -> None:
        """Write how many refusals were counted, if any were."""
        if chain.counted:
            draft = self.draft(credential_id, Event.REFUSALS, 0)
            chain.append(
                self.place(draft, chain.position, outcome=Refused.code, actor=VARIOUS, x=chain.counted)
            )

    def _write_counted(self, credential_id: CredentialId) -> None:
        with self.store.appending(credential_id) as chain:
            if self._recent(chain) or not chain.counted:  # or another process has written it
                chain.leave()
            else:
                self.append_counted(chain, credential_id)

    def _recent(self, chain: LockedChain) -> int:
        """Count the entries of this minute: at most SHARE are looked at.

        Those of a clock that was ahead count, too, but not for ever.
        """
        now = self.clock()
        return sum(abs(now - time) < MINUTE for time in chain.refusal_times(SHARE))

"""The base of all operations of the server: secure environment, store, actor and clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.card_origin import OriginPolicy
from hsm_signer.core.chain_position import ChainPosition
from hsm_signer.errors import EvidenceDamaged, EvidenceMissing, RecordOutdated
from hsm_signer.evidence.chain import draft_entry
from hsm_signer.store.store import Store, StoredCredential
from hsm_signer.token.environment import Observe, SecureEnvironment
from hsm_signer.types import (
    CredentialId,
    CredentialRecord,
    Event,
    EvidenceEntry,
    SealedEntry,
    SealedRecord,
)

from .place import place
from .version_memory import VersionMemory

Clock = Callable[[], int]
"""Microseconds since 1970-01-01T00:00:00Z."""


def system_clock() -> int:
    """Give the machine's time, in microseconds since 1970-01-01T00:00:00Z."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class ServerBase:
    """Secure environment and store, and what every write of both has in common."""

    environment: SecureEnvironment
    store: Store
    actor: str
    """Who asks, as evidence names it."""
    clock: Clock = system_clock
    observe: Observe = lambda _: None
    origin_policy: Callable[[], OriginPolicy] = OriginPolicy
    """Whose cards are enrolled; asked at each enrolment, and at no signature."""
    versions: VersionMemory = field(default_factory=VersionMemory)
    """What this process has seen of each credential."""

    def load(self, credential_id: CredentialId) -> StoredCredential:
        """Load a credential, check its MAC and hold its age against the evidence.

        Raises CredentialUnknown, RecordDamaged, TokenMismatch, RecordOutdated (an old row was put back, alone
        or with its evidence where this process has seen a newer one),
        EvidenceMissing (entries were removed), EvidenceDamaged (the entry that wrote the record is not the
        one the record names; all entries before it hang on that one).
        """
        stored = self.store.load(credential_id)
        self.environment.check(stored.sealed)
        record = stored.sealed.record
        if record.version < stored.newest_version:
            raise RecordOutdated(
                f"the record of {record.owner!r} is older than the evidence about it: "
                "an old row was put back",
                hint="restore the newest backup; `hsm-signer audit verify` shows the difference",
            )
        if record.version > stored.newest_version:
            raise EvidenceMissing(
                f"evidence about {record.owner!r} is missing: the record is newer than its last entry",
                hint="restore the newest backup; `hsm-signer audit verify` shows the difference",
            )
        if stored.written_by != record.evidence_head:
            raise EvidenceDamaged(
                f"evidence about {record.owner!r} was changed: its record names another entry",
                hint="restore the newest backup; `hsm-signer audit verify` shows what was changed",
            )
        if not self.versions.admits(credential_id, record.version, record.evidence_head):
            raise RecordOutdated(
                f"the record of {record.owner!r} is older than what this process has seen of it: an old "
                "state of the database was put back, evidence included",
                hint="restore the newest backup; after a restore that is meant, start the service anew",
            )
        return stored

    def remember(self, written: SealedEntry) -> None:
        """Remember the version that an entry wrote, once it is committed."""
        entry = written.entry
        self.versions.admits(entry.credential_id, entry.record_version, entry_hash(entry))

    def draft(self, credential_id: CredentialId, event: Event, record_version: int) -> EvidenceEntry:
        """Begin an evidence entry about what is asked for now; :meth:`place` gives it its place."""
        return draft_entry(credential_id, event, actor=self.actor, record_version=record_version)

    def place(self, draft: EvidenceEntry, position: ChainPosition, **fields: Any) -> SealedEntry:
        """Put an entry at the end of its chain and seal it there, with the time it is.

        As :func:`hsm_signer.server.place.place` does, and raises.
        """
        return place(self.environment, draft, position, time=self.clock(), **fields)

    def seal(self, record: CredentialRecord, written: SealedEntry, **changes: Any) -> SealedRecord:
        """Seal ``record`` with its ``changes`` as the version that the entry ``written`` is about.

        It names that entry under its MAC.
        """
        entry = written.entry
        head = entry_hash(entry)
        return self.environment.seal(
            replace(record, version=entry.record_version, evidence_head=head, **changes)
        )

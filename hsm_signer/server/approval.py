"""Changes of status that need two clients' words: the first is written down, the second carries them out.

docs/understand/protocol.md, section 8. The first word is an entry of the credential's own chain that writes
the record, so that whatever protects evidence protects it, and nothing else has to remember it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.interface import PendingApproval
from hsm_signer.core.json_codec import time_to_json
from hsm_signer.errors import ApprovalSameClient, EvidenceDamaged
from hsm_signer.store.change import conflict
from hsm_signer.types import (
    ACCEPTED,
    CredentialId,
    CredentialRecord,
    Digest,
    Event,
    EvidenceEntry,
    SuspendedBy,
)

from .credentials import CHANGES, StatusChanges, changed_by

MAX_BETWEEN = 1000
"""Entries between two clients' words: all of them are hashed."""
SECOND = 1_000_000
"""Microseconds."""


class Approvals(StatusChanges):
    """The part of the server that carries out what two clients ask for."""

    def approve_status(
        self,
        credential_id: CredentialId,
        event: Event,
        by: SuspendedBy,
        within: int,
        may_ask: Callable[[str], bool],
    ) -> CredentialRecord | PendingApproval:
        """Carry out one of :data:`CHANGES` that another client asked for, or write down that it is asked for.

        ``within``: seconds for which a first word is good; ``may_ask`` says whether an actor, as evidence
        names it, may ask for this now: the first word of one who may not any more counts for nothing. Raises
        ApprovalSameClient, EvidenceDamaged where an entry since the first word was changed, and what
        :meth:`change_status` raises, at the first word, too.
        """
        record = self.load(credential_id).sealed.record
        changed = changed_by(record, event, by)
        version = record.version + 1
        end, first = self._first_word(record, event, within)
        if first is not None and not may_ask(first.actor):
            first = None
        with self.store.changing(credential_id, record.version) as change:
            if change.position.hash != end:
                raise conflict(credential_id)
            if first is None:
                draft = self.draft(credential_id, Event.ASKED, version)
                # x and not a field of its own: the hash covers it, and entries stay what they are.
                written = self.place(draft, change.position, x=event.number)
                sealed = self.seal(record, written)
            else:
                draft = self.draft(credential_id, event, version)
                written = self.place(draft, change.position, actor=f"{first.actor} + {self.actor}")
                sealed = self.seal(changed, written)
            change.write(sealed, written)
        self.changed(written)
        return sealed.record if first is not None else _pending(written.entry, event, within)

    def _first_word(
        self, record: CredentialRecord, event: Event, within: int
    ) -> tuple[Digest | None, EvidenceEntry | None]:
        """Find the hash of the chain's end, and the entry in which another client asks for this act, if any.

        Backwards from that end, whose MAC has to hold: each entry has the hash that the next one names. A
        change of status ends every first word.
        """
        oldest = self.clock() - within * SECOND
        end = expected = None
        with closing(self.store.newest_first(record.credential_id, MAX_BETWEEN)) as entries:
            for sealed in entries:
                entry = sealed.entry
                if end is None:
                    self.environment.check_entry(sealed)
                    end = expected = entry_hash(entry)
                if entry_hash(entry) != expected:
                    raise EvidenceDamaged(
                        f"evidence about {record.owner!r} was changed: entry {entry.sequence} is not the one "
                        "that was written",
                        hint="restore the newest backup; `hsm-signer audit verify` shows what was changed",
                    )
                if entry.time < oldest or (entry.event in CHANGES and entry.outcome == ACCEPTED):
                    break
                if entry.event is Event.ASKED and entry.x == event.number:
                    self._refuse_first(entry, record, event, within)
                    return end, entry
                expected = entry.previous
        return end, None

    def _refuse_first(
        self, first: EvidenceEntry, record: CredentialRecord, event: Event, within: int
    ) -> None:
        """Raise ApprovalSameClient where it is the first client that asks again."""
        if first.actor == self.actor:
            until = time_to_json(_pending(first, event, within).until)
            raise ApprovalSameClient(
                f"{self.actor} has asked already to {event.value} the credential of {record.owner!r}",
                hint=f"another client has to ask for the same, until {until}",
            )


def _pending(first: EvidenceEntry, event: Event, within: int) -> PendingApproval:
    return PendingApproval(first.credential_id, event, first.actor, first.time + within * SECOND)

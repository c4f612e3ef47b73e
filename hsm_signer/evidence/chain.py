"""The chain of one credential: each entry has the hash of the one before (docs/understand/protocol.md, 5).

Two rules beside the hashes make an old row visible. Every write of a record raises its version by one and
appends the entry that says why, with the new version in ``record_version``. An attempt that writes no record
appends an entry too, with the version it was refused by (somebody may have written another since), or 0 where
the record's MAC did not hold and its version means nothing. So along a chain the highest version rises by one
at a time, and the entry that raised it last is the one whose hash the record holds in ``evidence_head``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from msgspec.structs import replace

from hsm_signer.core.canonical import NO_PREVIOUS
from hsm_signer.core.chain_position import START, ChainPosition, position_of
from hsm_signer.types import ACCEPTED, CredentialId, Digest, Event, EvidenceEntry

from .findings import CHAIN_FOREIGN, CHAIN_GAP, CHAIN_PREVIOUS, CHAIN_VERSION, ENTRY_TIME, Finding

NO_LIFE = (Event.ENROL, Event.ASKED, Event.EXPIRE)
"""What may be all there is of a credential that was given up."""
CLOCKS_DIFFER = 60_000_000
"""Microseconds that the clocks of two nodes may be apart: less is nothing to find."""


class Head(NamedTuple):
    """The last entry of one credential's chain: what an anchor is made of."""

    credential_id: CredentialId
    sequence: int
    """u64."""
    hash: Digest
    """SHA-256 of the entry, 32 bytes."""


def draft_entry(
    credential_id: CredentialId,
    event: Event,
    *,
    actor: str,
    record_version: int = 0,
    outcome: str = ACCEPTED,
) -> EvidenceEntry:
    """Make an entry that has no place in a chain and no time yet: :func:`next_entry` gives it both.

    The fields of an authorisation are absent.
    """
    return EvidenceEntry(
        sequence=0,
        time=0,
        credential_id=credential_id,
        event=event,
        outcome=outcome,
        record_version=record_version,
        actor=actor,
        previous=NO_PREVIOUS,
        d=None,
        nonce=None,
        x=None,
        algorithm=None,
        mode=None,
        h=None,
        quantities_hash=None,
        digests=(),
        signatures=(),
    )


def next_entry(position: ChainPosition, draft: EvidenceEntry, *, time: int, **fields: Any) -> EvidenceEntry:
    """Put ``draft`` at the end of a chain: its sequence is one higher, its ``previous`` the last hash.

    ``time``: microseconds since 1970-01-01T00:00:00Z; ``fields`` in place of the draft's. Nothing is checked
    here: the store refuses an entry that does not fit its chain.
    """
    return replace(draft, sequence=position.sequence + 1, previous=position.hash, time=time, **fields)


class ChainCheck:
    """A check of one chain, entry by entry in ascending sequence; its memory does not grow."""

    def __init__(self, credential_id: CredentialId) -> None:
        self.credential_id = credential_id
        self.position = START
        self.version = 0
        """The highest ``record_version`` so far."""
        self.head: Digest | None = None
        """SHA-256 of the entry that raised the version last."""
        self._lost = False
        """Entries are missing and no version was seen since: how far they raised it is not known."""
        self.last: EvidenceEntry | None = None
        self.lived = False
        """Whether anything was carried out after enrolment: then its record may not be gone."""

    def add(self, entry: EvidenceEntry) -> Iterator[Finding]:
        """Find what is wrong with ``entry`` as the next one of this chain; nothing if all is well."""
        if entry.credential_id != self.credential_id:
            yield self._finding(CHAIN_FOREIGN, "the entry belongs to another credential", entry)
            # Its place in the order of this chain would say nothing.
            return
        gap = entry.sequence != self.position.sequence + 1
        if gap:
            yield self._finding(
                CHAIN_GAP,
                f"entry {self.position.sequence + 1} is missing: {entry.sequence} comes next",
                entry,
            )
        elif entry.previous != self.position.hash:
            # After a gap this would only say the same thing again.
            yield self._finding(
                CHAIN_PREVIOUS,
                "the entry does not hold the hash of the one before it: one of the two was changed"
                if self.position.sequence
                else "the first entry names one before it",
                entry,
            )
        if self.last is not None and entry.time + CLOCKS_DIFFER < self.last.time:
            seconds = (self.last.time - entry.time) // 1_000_000
            yield self._finding(
                ENTRY_TIME, f"the entry is {seconds} seconds older than the one before it", entry
            )
        self._lost |= gap
        yield from self._versions(entry)
        self._lost &= entry.record_version == 0
        self.position = position_of(entry)
        if entry.record_version > self.version:
            self.version = entry.record_version
            self.head = self.position.hash
        self.last = entry
        self.lived |= entry.outcome == ACCEPTED and entry.event not in NO_LIFE

    def _versions(self, entry: EvidenceEntry) -> Iterator[Finding]:
        written = self.version + 1
        if entry.outcome == ACCEPTED:
            # Whatever is accepted writes the record.
            wrong = entry.record_version < written if self._lost else entry.record_version != written
        else:
            wrong = entry.record_version > written and not self._lost
        if wrong:
            yield self._finding(
                CHAIN_VERSION,
                f"record version {entry.record_version} does not follow version {self.version}",
                entry,
            )

    def _finding(self, code: str, words: str, entry: EvidenceEntry) -> Finding:
        return Finding(code, words, credential_id=self.credential_id, sequence=entry.sequence)


def check_chain(credential_id: CredentialId, entries: Iterable[EvidenceEntry]) -> Iterator[Finding]:
    """Find all that is wrong with a chain: gaps in the sequence, previous hashes, credential ids, versions.

    ``entries`` come in ascending sequence. A chain cut off at its end is a good chain: only the record, or
    an anchor, knows that there was more.
    """
    check = ChainCheck(credential_id)
    for entry in entries:
        yield from check.add(entry)

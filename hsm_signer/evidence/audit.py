"""The audit: records, chains and signatures checked against each other, without SQL, token or keys.

What it can tell, with nothing but the database and the record MAC key: a changed, removed, added or moved
entry; a signature or digest that was changed; a record that was changed, removed, put back or copied over
another's. What it cannot: an old record put back together with its old chain, both of them removed, or the
refusals at the very end of a chain removed. For that there is the anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hsm_signer.core.content import digest_list_hash
from hsm_signer.errors import InputError, SignerError, StoreDamaged
from hsm_signer.types import (
    ACCEPTED,
    Algorithm,
    CredentialId,
    Digest,
    Event,
    EvidenceEntry,
    HashName,
    Mode,
    SealedEntry,
    SpkiDer,
)

from .chain import ChainCheck
from .findings import (
    ENTRY_HASH,
    ENTRY_INCOMPLETE,
    ENTRY_MAC,
    RECORD_AHEAD,
    RECORD_DAMAGED,
    RECORD_HEAD,
    RECORD_MAC,
    RECORD_MISSING,
    RECORD_OUTDATED,
    RECORD_WITHOUT_EVIDENCE,
    SIGNATURE_COUNT,
    SIGNATURE_INVALID,
    Finding,
)

Verify = Callable[[SpkiDer, Algorithm, bytes, bytes], bool]
"""(PK, algorithm, digest, signature) -> does it hold? ECDSA signatures in DER."""
EntryHolds = Callable[[SealedEntry], bool]
"""Does an entry's MAC hold? A token that cannot be asked raises, and the audit ends with that error."""

SIGNING_EVENTS = frozenset({Event.SIGN, Event.ACTIVATE})


class ChainRow(NamedTuple):
    """A row that names the entry it was written with: what a chain is held against."""

    chain: CredentialId
    name: str | None
    """Whose it is, for people."""
    version: int
    evidence_head: Digest | None
    holds: bool
    """Whether its MAC holds. What it says counts only so."""
    spki: SpkiDer | None = None
    """PK of a credential."""
    at_sealing_1: bool = False


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of an audit: what was checked and what is wrong."""

    records: int
    """Of credentials."""
    chains: int
    """Of credentials, and of what else has one: the installation itself."""
    entries: int
    signatures: int
    """Checked against PK and digest, good or bad."""
    unchecked: int
    """Signatures not checkable here: Ed25519 signs the message itself, which evidence does not hold; or
    there is no record whose MAC holds to take PK from."""
    at_sealing_1: int
    """Records whose private key still opens with the card alone; each moves at its next signature."""
    findings: tuple[Finding, ...]
    """Ordered by credential id; empty if all is well."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def audit(
    rows: Iterable[ChainRow],
    entries: Iterable[SealedEntry],
    *,
    verify: Verify,
    entry_holds: EntryHolds,
    damaged: Iterable[Finding] = (),
) -> AuditReport:
    """Check every row against its chain, every entry's MAC, every signature against PK and digest.

    ``rows`` ascend by chain, ``entries`` by chain and then sequence: so each is read once and memory does not
    grow with their number. ``damaged`` is what the reading of both could not turn into records and entries;
    it is read last, so a list that fills meanwhile will do.
    Raises StoreDamaged where the order is not kept (the database's index is damaged), and whatever
    ``entry_holds`` raises.
    """
    run = _Audit(verify, entry_holds)
    for chain, row, entries_of_chain in _join(rows, entries):
        run.chain(chain, row, entries_of_chain)
    unreadable = list(damaged)
    # A record that cannot be read is there all the same.
    there = {f.credential_id for f in unreadable if f.code == RECORD_DAMAGED}
    findings = [f for f in run.findings if not (f.code == RECORD_MISSING and f.credential_id in there)]
    findings += unreadable
    findings.sort(key=lambda f: (f.credential_id or b"", f.sequence or 0))
    return AuditReport(
        records=run.records,
        chains=run.chains,
        entries=run.entries,
        signatures=run.signatures,
        unchecked=run.unchecked,
        at_sealing_1=run.at_sealing_1,
        findings=tuple(findings),
    )


def _join(
    rows: Iterable[ChainRow], entries: Iterable[SealedEntry]
) -> Iterator[tuple[CredentialId, ChainRow | None, Iterator[SealedEntry]]]:
    """Pair each row with its chain, which must be read before the next one."""
    row_source, entry_source = iter(rows), iter(entries)
    row = next(row_source, None)
    sealed = next(entry_source, None)
    before: bytes = b""

    def chain_of(chain: CredentialId) -> Iterator[SealedEntry]:
        nonlocal sealed
        while sealed is not None and sealed.entry.credential_id == chain:
            current = sealed
            sealed = next(entry_source, None)
            yield current

    while row is not None or sealed is not None:
        ids = [row.chain] if row is not None else []
        if sealed is not None:
            ids.append(sealed.entry.credential_id)
        chain = min(ids)
        if chain <= before:
            raise StoreDamaged("the database returns its rows in the wrong order; an index is damaged")
        before = chain
        own = None
        if row is not None and row.chain == chain:
            own, row = row, next(row_source, None)
        yield chain, own, chain_of(chain)


class _Audit:
    """The counts and findings of one run."""

    def __init__(self, verify: Verify, entry_holds: EntryHolds) -> None:
        self._verify = verify
        self._entry_holds = entry_holds
        self.findings: list[Finding] = []
        self.records = self.chains = self.entries = self.signatures = self.unchecked = 0
        self.at_sealing_1 = 0

    def chain(self, chain: CredentialId, row: ChainRow | None, entries: Iterator[SealedEntry]) -> None:
        """Check one chain: MACs, links, signatures, then the row against the end of the chain."""
        name = row.name if row is not None else None
        spki: SpkiDer | None = None
        if row is not None:
            self.records += row.spki is not None
            if row.holds:
                spki = row.spki
                self.at_sealing_1 += row.at_sealing_1
            else:
                self._found(RECORD_MAC, "the record was changed: its MAC does not hold", chain, name)
        check = ChainCheck(chain)
        for sealed in entries:
            entry = sealed.entry
            self.entries += 1
            if not self._entry_holds(sealed):
                words = "the entry was changed: its MAC is missing or does not hold"
                self._found(ENTRY_MAC, words, chain, name, entry.sequence)
            for finding in check.add(entry):
                self._found(finding.code, finding.words, chain, name, finding.sequence)
            for code, words in self._signatures(entry, spki):
                self._found(code, words, chain, name, entry.sequence)
        if check.last is not None:
            self.chains += 1
        # What a record says about itself counts only under its MAC.
        if row is None or row.holds:
            for code, words in _against_chain(row, check):
                self._found(code, words, chain, name)

    def _signatures(self, entry: EvidenceEntry, spki: SpkiDer | None) -> Iterator[tuple[str, str]]:
        if entry.outcome != ACCEPTED or entry.event not in SIGNING_EVENTS:
            return
        algorithm, mode = entry.algorithm, entry.mode
        if (
            algorithm is None
            or mode is None
            or entry.h is None
            or entry.d is None
            or entry.quantities_hash is None
            or not entry.signatures
        ):
            yield ENTRY_INCOMPLETE, "an accepted signature's entry lacks part of what was authorised"
            return
        if algorithm is Algorithm.ED25519 and not entry.digests:
            self.unchecked += len(entry.signatures)
            return
        yield from _hash_of_entry(entry, algorithm, mode)
        if len(entry.digests) != len(entry.signatures):
            yield (
                SIGNATURE_COUNT,
                f"the entry has {len(entry.digests)} digests and {len(entry.signatures)} signatures",
            )
            return
        if spki is None:
            self.unchecked += len(entry.signatures)
            return
        for number, (digest, signature) in enumerate(zip(entry.digests, entry.signatures, strict=True), 1):
            self.signatures += 1
            try:
                holds = self._verify(spki, algorithm, digest, signature)
            except SignerError:
                # A digest or algorithm that does not fit the key: no signature of it either.
                holds = False
            if not holds:
                yield SIGNATURE_INVALID, f"signature {number} is not one of its digest under the user's key"

    def _found(
        self,
        code: str,
        words: str,
        credential_id: CredentialId,
        owner: str | None,
        sequence: int | None = None,
    ) -> None:
        self.findings.append(Finding(code, words, credential_id, owner, sequence))


def _hash_of_entry(entry: EvidenceEntry, algorithm: Algorithm, mode: Mode) -> Iterator[tuple[str, str]]:
    """Check H against the digests of the same entry, where they determine each other."""
    if mode is Mode.DIGESTS:
        try:
            right = digest_list_hash(entry.digests) == entry.h
        except InputError:
            right = False
        if not right:
            yield ENTRY_HASH, "H is not the hash of the digest list in the entry"
    elif algorithm.hash is HashName.SHA256 and entry.digests != (entry.h,):
        # Mode 1: H is SHA-256 of the message, and so is the digest that was signed.
        yield ENTRY_HASH, "H is not the digest in the entry, though both are SHA-256 of one message"


def _against_chain(row: ChainRow | None, check: ChainCheck) -> Iterator[tuple[str, str]]:
    """Check the row against the entry that was written with it."""
    last = check.last
    if row is None and last is not None and last.event is Event.CLIENT_REMOVED:
        return
    if row is None:
        # A pending credential that was given up leaves its chain behind, and rightly no record; one that was
        # active, or was revoked, keeps its record for ever.
        given_up = last is not None and last.event is Event.EXPIRE and last.outcome == ACCEPTED
        if last is not None and (check.lived or not given_up):
            yield RECORD_MISSING, "there is evidence about it, but its record is gone"
    elif last is None:
        yield RECORD_WITHOUT_EVIDENCE, "there is a record, but no evidence at all about it"
    elif row.version < check.version:
        yield (
            RECORD_OUTDATED,
            f"the record is version {row.version}, the evidence knows version {check.version}: "
            "an old row was put back",
        )
    elif row.version > check.version:
        yield (
            RECORD_AHEAD,
            f"the record is version {row.version}, the evidence ends at version {check.version}: "
            "entries were removed",
        )
    elif row.evidence_head != check.head:
        yield RECORD_HEAD, "the entry written with this version of the record is not the one the record names"

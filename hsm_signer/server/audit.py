"""The audit of a store by its token: every row whose MAC has to hold, with its chain."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import TypeVar

from hsm_signer.core import algorithms
from hsm_signer.core.chain_position import client_chain
from hsm_signer.errors import EvidenceDamaged, InstallationDamaged, RecordDamaged, SignerError
from hsm_signer.evidence.audit import AuditReport, ChainRow, audit
from hsm_signer.evidence.findings import RECORD_DAMAGED, Finding
from hsm_signer.store.snapshot import Snapshot
from hsm_signer.token.seal import TokenSeal
from hsm_signer.types import INSTALLATION_CHAIN, Algorithm, SealedEntry, SealedRecord, SpkiDer

from .client_seal import client_holds

_Sealed = TypeVar("_Sealed")


def audit_store(
    snapshot: Snapshot, seal: TokenSeal, *, entry_holds: Callable[[SealedEntry], bool] | None = None
) -> AuditReport:
    """Check all chains, signatures and records against each other.

    ``entry_holds``: what is asked of an entry's MAC; by default that it holds. Raises TokenError, StoreError.
    """
    damaged: list[Finding] = []
    return audit(
        _rows(snapshot, seal, damaged),
        snapshot.chains(damaged.append),
        verify=_signature_holds,
        entry_holds=entry_holds or (lambda sealed: _holds(seal.check_entry, sealed, EvidenceDamaged)),
        damaged=damaged,
    )


def _rows(snapshot: Snapshot, seal: TokenSeal, damaged: list[Finding]) -> Iterator[ChainRow]:
    try:
        installation = snapshot.installation()
    except InstallationDamaged as error:
        damaged.append(Finding(RECORD_DAMAGED, error.message, credential_id=INSTALLATION_CHAIN))
    else:
        if installation is not None:
            own = installation.record
            holds = _holds(seal.check_installation, installation, InstallationDamaged)
            yield ChainRow(INSTALLATION_CHAIN, None, own.version, own.evidence_head, holds)
    clients = sorted(_clients(snapshot, seal, damaged), key=lambda row: row.chain)
    records = (_credential(sealed, seal) for sealed in snapshot.records(damaged.append))
    yield from heapq.merge(records, clients, key=lambda row: row.chain)


def _clients(snapshot: Snapshot, seal: TokenSeal, damaged: list[Finding]) -> Iterator[ChainRow]:
    for row in snapshot.clients(damaged.append):
        holds = client_holds(seal, row)
        yield ChainRow(client_chain(row.name), row.name, row.version, row.evidence_head, holds)


def _credential(sealed: SealedRecord, seal: TokenSeal) -> ChainRow:
    record = sealed.record
    return ChainRow(
        record.credential_id,
        record.owner,
        record.version,
        record.evidence_head,
        # Sealed by us for another master key is sealed by us: the check of its MAC alone.
        _holds(lambda whole: TokenSeal.check(seal, whole), sealed, RecordDamaged),
        record.spki,
        record.opens_with_card_alone,
    )


def _holds(check: Callable[[_Sealed], None], sealed: _Sealed, damage: type[SignerError]) -> bool:
    try:
        check(sealed)
    except damage:
        return False
    return True


def _signature_holds(spki: SpkiDer, algorithm: Algorithm, digest: bytes, signature: bytes) -> bool:
    return algorithms.holds(algorithms.verifier(spki, algorithm), digest, signature)

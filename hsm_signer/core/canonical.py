"""Canonical bytes of records and evidence entries, over which MACs and chain hashes are computed.

Each value is u32 length || bytes, an absent value is the length FFFFFFFF alone, integers have a fixed
width, lists are u32 count and then each value (docs/understand/protocol.md, section 5). No two different
records have the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from hsm_signer.types import (
    CredentialRecord,
    Digest,
    EvidenceEntry,
    InstallationRecord,
    ProtocolEnum,
)

RECORD_PREFIX = b"hsm-signer/1/record"
EVIDENCE_PREFIX = b"hsm-signer/1/evidence"
INSTALLATION_PREFIX = b"hsm-signer/1/installation"
ABSENT = b"\xff\xff\xff\xff"
NO_PREVIOUS = Digest(bytes(32))


def value(data: bytes | None) -> bytes:
    """Encode bytes: u32 length || data; FFFFFFFF for None."""
    return ABSENT if data is None else len(data).to_bytes(4, "big") + data


def number(n: int | None, width: int) -> bytes:
    """Encode an integer of ``width`` bytes as a value; raises OverflowError where it does not fit."""
    return value(None if n is None else n.to_bytes(width, "big"))


def choice(member: ProtocolEnum | None, width: int) -> bytes:
    """Encode an enumeration's member by its number."""
    return number(None if member is None else member.number, width)


def text(s: str) -> bytes:
    """Encode text in UTF-8 as a value."""
    return value(s.encode("utf-8"))


def sequence(items: Iterable[bytes]) -> bytes:
    """Encode a list: u32 count, then each item as a value."""
    listed = list(items)
    return len(listed).to_bytes(4, "big") + b"".join(map(value, listed))


def record_bytes(record: CredentialRecord) -> bytes:
    """Encode a record for its MAC: each field of its format, in the order of protocol.md, section 5."""
    return b"".join((*_record_values(record), *(_sealing_values(record) if record.format > 1 else ())))


def _record_values(record: CredentialRecord) -> tuple[bytes, ...]:
    return (
        RECORD_PREFIX,
        number(record.format, 2),
        value(record.mac_key_id),
        number(record.version, 8),
        value(record.credential_id),
        text(record.owner),
        choice(record.status, 1),
        choice(record.scheme, 1),
        choice(record.combine, 1),
        choice(record.pin_policy, 1),
        choice(record.pin_check, 1),
        text(record.token_serial),
        value(record.mk_id),
        value(record.spki),
        value(b"".join(algorithm.number.to_bytes(2, "big") for algorithm in record.algorithms)),
        value(record.parameter),
        value(record.wrapped_kcar),
        number(record.wrap_mechanism, 4),
        value(record.wrapped_sk),
        number(record.x, 8),
        value(record.rn),
        value(record.rn_next),
        number(record.failures, 4),
        value(record.card_serial),
        number(record.assurance, 1),
        value(record.request_hash),
        value(record.evidence_head),
    )


def _sealing_values(record: CredentialRecord) -> tuple[bytes, ...]:
    """What format 2 added."""
    return (
        choice(record.sealing, 1),
        value(record.wrapped_seal),
        value(record.card_point),
        value(record.enrolment_proof),
        choice(record.suspended_by, 1),
    )


def entry_bytes(entry: EvidenceEntry) -> bytes:
    """Encode an entry for its hash: every field, in the order of docs/understand/protocol.md, section 5."""
    return b"".join(
        (
            EVIDENCE_PREFIX,
            number(entry.sequence, 8),
            number(entry.time, 8),
            value(entry.credential_id),
            choice(entry.event, 1),
            text(entry.outcome),
            number(entry.record_version, 8),
            text(entry.actor),
            value(entry.previous),
            value(entry.d),
            value(entry.nonce),
            number(entry.x, 8),
            choice(entry.algorithm, 2),
            choice(entry.mode, 1),
            value(entry.h),
            value(entry.quantities_hash),
            sequence(entry.digests),
            sequence(entry.signatures),
        )
    )


def entry_hash(entry: EvidenceEntry) -> Digest:
    """Return the SHA-256 of an entry's canonical bytes: 32 bytes."""
    return Digest(hashlib.sha256(entry_bytes(entry)).digest())


def installation_bytes(record: InstallationRecord) -> bytes:
    """Encode an installation's record for its MAC, in the order of docs/understand/protocol.md, section 8."""
    return b"".join(
        (
            INSTALLATION_PREFIX,
            number(record.format, 2),
            value(record.mac_key_id),
            number(record.version, 8),
            value(record.installation_id),
            number(record.epoch, 4),
            value(sequence(record.keys)),
            value(record.group_policy),
            value(record.evidence_head),
        )
    )

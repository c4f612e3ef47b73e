"""Rows into records and back. A row may hold anything: whoever can write the database can write it.

SQLite's columns take values of any type, so every field is checked for type, length and range, both ways:
what is written can be read again, and what cannot be understood is named instead of crashing something
further on. Whether the values are the right ones is for the record MAC and the chain to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hsm_signer.core.canonical import entry_hash, sequence
from hsm_signer.errors import RecordDamaged, StoreDamaged
from hsm_signer.types import (
    CREDENTIAL_ID_LENGTH,
    KW_LENGTH,
    MAC_LENGTH,
    NONCE_LENGTH,
    ROLLING_VALUE_LENGTH,
    Algorithm,
    Combine,
    CredentialId,
    CredentialRecord,
    Event,
    EvidenceEntry,
    HashName,
    Mode,
    PinCheck,
    PinPolicy,
    Scheme,
    SealedRecord,
    Status,
)

from .fields import (
    HASH_LENGTH,
    MAX_BLOB,
    MAX_SIGNATURE,
    BadValue,
    Check,
    Readers,
    algorithms,
    enum,
    exactly,
    integer,
    items,
    or_none,
    read_fields,
    text,
    upto,
    written,
)
from .schema import MAX_INTEGER

_DIGEST_LENGTHS = frozenset(h.value for h in HashName)
_U16, _U32, _U64 = 0xFFFF, 0xFFFFFFFF, MAX_INTEGER

RECORD_CHECKS: Mapping[str, Check] = {
    "format": integer(1, low=1),
    "mac_key_id": exactly(8),
    "version": integer(_U64, low=1),
    "credential_id": exactly(CREDENTIAL_ID_LENGTH),
    "owner": text(1),
    "status": enum(Status),
    "scheme": enum(Scheme),
    "combine": enum(Combine),
    "pin_policy": enum(PinPolicy),
    "pin_check": enum(PinCheck),
    "token_serial": text(0),
    "mk_id": exactly(8),
    "spki": upto(MAX_BLOB),
    "algorithms": algorithms,
    "parameter": or_none(upto(MAX_BLOB)),
    "wrapped_kcar": or_none(exactly(KW_LENGTH)),
    "wrap_mechanism": integer(_U32),
    "wrapped_sk": or_none(upto(MAX_BLOB)),
    "x": or_none(integer(_U64)),
    "rn": or_none(exactly(ROLLING_VALUE_LENGTH)),
    "rn_next": or_none(exactly(ROLLING_VALUE_LENGTH)),
    "failures": integer(_U32),
    "card_serial": exactly(8),
    "assurance": integer(0xFF),
    "request_hash": or_none(exactly(HASH_LENGTH)),
    "evidence_head": or_none(exactly(HASH_LENGTH)),
}
"""Every field of CredentialRecord, by its name, which is its column's, too."""

BESIDE_RECORD_CHECKS: Mapping[str, Check] = {
    "mac": exactly(MAC_LENGTH),
    "request": or_none(upto(MAX_BLOB)),
    "created": integer(MAX_INTEGER),
}

_RECORD_ROW_CHECKS = {**RECORD_CHECKS, "mac": BESIDE_RECORD_CHECKS["mac"]}

ENTRY_CHECKS: Mapping[str, Check] = {
    "sequence": integer(_U64, low=1),
    "time": integer(_U64),
    "credential_id": exactly(CREDENTIAL_ID_LENGTH),
    "event": enum(Event),
    "outcome": text(1),
    "record_version": integer(_U64),
    "actor": text(0),
    "previous": exactly(HASH_LENGTH),
    "d": or_none(exactly(HASH_LENGTH)),
    "nonce": or_none(exactly(NONCE_LENGTH)),
    "x": or_none(integer(_U64)),
    "algorithm": or_none(enum(Algorithm)),
    "mode": or_none(enum(Mode)),
    "h": or_none(exactly(HASH_LENGTH)),
    "quantities_hash": or_none(exactly(HASH_LENGTH)),
    "digests": items(_DIGEST_LENGTHS.__contains__),
    "signatures": items(range(1, MAX_SIGNATURE + 1).__contains__),
}
"""Every field of EvidenceEntry, by its name, which is its column's, too."""

RECORD_COLUMNS = tuple(f.name for f in fields(CredentialRecord))
ENTRY_COLUMNS = tuple(f.name for f in fields(EvidenceEntry))
_RECORD_READERS: Readers = (
    *((name, RECORD_CHECKS[name]) for name in RECORD_COLUMNS),
    ("mac", BESIDE_RECORD_CHECKS["mac"]),
)
_ENTRY_READERS: Readers = tuple((name, ENTRY_CHECKS[name]) for name in ENTRY_COLUMNS)


# --- out of the database -----------------------------------------------------------------------------------


def credential_id_of(value: Any) -> CredentialId | None:
    """The credential id if the value can be one; None if not."""
    return CredentialId(value) if isinstance(value, bytes) and len(value) == CREDENTIAL_ID_LENGTH else None


def who(credential_id: Any, owner: Any = None) -> str:
    """How messages name a credential, whatever its columns hold."""
    name = f" of {owner[:64]!r}" if isinstance(owner, str) and owner else ""
    number = f" {credential_id.hex()}" if credential_id_of(credential_id) is not None else ""
    return f"credential{number}{name}"


def sealed_from_row(row: Sequence[Any]) -> SealedRecord:
    """The record in a row of RECORD_COLUMNS and ``mac``. Raises RecordDamaged, which names the field."""
    try:
        *values, mac = read_fields(_RECORD_READERS, row)
    except BadValue as error:
        found = dict(zip(RECORD_COLUMNS, row, strict=False))
        raise RecordDamaged(
            f"the record of {who(found['credential_id'], found['owner'])} is damaged: "
            f"its field {error.field} is not {error}"
        ) from error
    return SealedRecord(CredentialRecord(*values), mac)


def beside_record(name: str, value: Any, sealed: SealedRecord) -> Any:
    """``request`` or ``created`` of a record's row. Raises RecordDamaged."""
    try:
        return BESIDE_RECORD_CHECKS[name](value)
    except BadValue as error:
        record = sealed.record
        raise RecordDamaged(
            f"the record of {who(record.credential_id, record.owner)} is damaged: "
            f"its field {name} is not {error}"
        ) from error


def entry_from_row(row: Sequence[Any]) -> EvidenceEntry:
    """The entry in a row of ENTRY_COLUMNS. Raises StoreDamaged, which names credential, entry and field."""
    try:
        values = read_fields(_ENTRY_READERS, row)
    except BadValue as error:
        found = dict(zip(ENTRY_COLUMNS, row, strict=False))
        number = f" {found['sequence']}" if isinstance(found["sequence"], int) else ""
        raise StoreDamaged(
            f"evidence entry{number} of {who(found['credential_id'])} is damaged: "
            f"its field {error.field} is not {error}"
        ) from error
    return EvidenceEntry(*values)


# --- into the database -------------------------------------------------------------------------------------


def record_row(sealed: SealedRecord) -> dict[str, Any]:
    """The columns of a record and ``mac``. Raises StoreError for what a column cannot hold."""
    record = sealed.record
    row = {name: getattr(record, name) for name in RECORD_COLUMNS}
    row["algorithms"] = b"".join(a.to_bytes(2, "big") for a in record.algorithms)
    row["mac"] = sealed.mac
    return written(_RECORD_ROW_CHECKS, row, "record")


def beside_record_row(request: bytes | None, created: int) -> dict[str, Any]:
    """The columns that stand beside the record. Raises StoreError for what a column cannot hold."""
    return written(BESIDE_RECORD_CHECKS, {"request": request, "created": created}, "record")


def entry_row(entry: EvidenceEntry) -> dict[str, Any]:
    """The columns of an entry and its ``hash``. Raises StoreError for what a column cannot hold."""
    row = {name: getattr(entry, name) for name in ENTRY_COLUMNS}
    row["digests"] = sequence(entry.digests)
    row["signatures"] = sequence(entry.signatures)
    row = written(ENTRY_CHECKS, row, "evidence entry")
    row["hash"] = entry_hash(entry)
    return row

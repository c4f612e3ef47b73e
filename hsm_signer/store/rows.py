"""Rows into records and back. A row may hold anything: whoever can write the database can write it.

SQLite's columns take values of any type, so every field is held against its definition in types.py, both
ways: what is written can be read again, and what cannot be understood is named instead of crashing something
further on. Whether the values are the right ones is for the record MAC and the chain to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hsm_signer.core.canonical import entry_hash
from hsm_signer.errors import RecordDamaged, StoreDamaged
from hsm_signer.types import (
    CREDENTIAL_ID_LENGTH,
    U64,
    CredentialId,
    CredentialRecord,
    Der,
    EvidenceEntry,
    Mac,
    SealedRecord,
)

from .columns import BadValue, Columns


class Seal(msgspec.Struct, frozen=True):
    """The column of a record's MAC."""

    mac: Mac


class Beside(msgspec.Struct, frozen=True):
    """The columns that stand beside a record and its MAC."""

    request: Der | None
    """The DER CertificationRequestInfo that ``request_hash`` is of."""
    created: U64
    """Microseconds since 1970-01-01T00:00:00Z."""


_RECORD = Columns(CredentialRecord)
_SEAL = Columns(Seal)
_BESIDE = Columns(Beside)
_ENTRY = Columns(EvidenceEntry)
RECORD_COLUMNS = _RECORD.names
ENTRY_COLUMNS = _ENTRY.names


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
        return SealedRecord(_RECORD.read(row), _SEAL.read(row[len(RECORD_COLUMNS) :]).mac)
    except BadValue as error:
        found = dict(zip(RECORD_COLUMNS, row, strict=False))
        raise _damaged(error, found["credential_id"], found["owner"]) from error


def beside_from_row(row: Sequence[Any], record: CredentialRecord) -> Beside:
    """What stands beside ``record`` in a row of ``request`` and ``created``. Raises RecordDamaged."""
    try:
        return _BESIDE.read(row)
    except BadValue as error:
        raise _damaged(error, record.credential_id, record.owner) from error


def _damaged(error: BadValue, credential_id: Any, owner: Any) -> RecordDamaged:
    return RecordDamaged(
        f"the record of {who(credential_id, owner)} is damaged: its field {error.field} is not {error}"
    )


def entry_from_row(row: Sequence[Any]) -> EvidenceEntry:
    """The entry in a row of ENTRY_COLUMNS. Raises StoreDamaged, which names credential, entry and field."""
    try:
        return _ENTRY.read(row)
    except BadValue as error:
        found = dict(zip(ENTRY_COLUMNS, row, strict=False))
        number = f" {found['sequence']}" if isinstance(found["sequence"], int) else ""
        raise StoreDamaged(
            f"evidence entry{number} of {who(found['credential_id'])} is damaged: "
            f"its field {error.field} is not {error}"
        ) from error


# --- into the database -------------------------------------------------------------------------------------


def record_row(sealed: SealedRecord) -> dict[str, Any]:
    """The columns of a record and ``mac``. Raises StoreError for what a column cannot hold."""
    return {**_RECORD.row(sealed.record, "record"), **_SEAL.row(Seal(sealed.mac), "record")}


def beside_record_row(request: bytes | None, created: int) -> dict[str, Any]:
    """The columns that stand beside the record. Raises StoreError for what a column cannot hold."""
    return _BESIDE.row(Beside(request, created), "record")


def entry_row(entry: EvidenceEntry) -> dict[str, Any]:
    """The columns of an entry and its ``hash``. Raises StoreError for what a column cannot hold."""
    return {**_ENTRY.row(entry, "evidence entry"), "hash": entry_hash(entry)}

"""Records and evidence entries to and from rows, strictly: a row of the database may hold anything.

SQLite's columns take values of any type, so every field is held against its definition in types.py, both
ways: what is written can be read again, and what cannot be understood is named instead of crashing something
further on. Whether the values are the right ones is for the record MAC and the chain to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.interface import Chain
from hsm_signer.errors import InstallationDamaged, RecordDamaged, StoreDamaged
from hsm_signer.types import (
    CREDENTIAL_ID_LENGTH,
    U64,
    CredentialId,
    CredentialRecord,
    Der,
    EvidenceEntry,
    InstallationRecord,
    Mac,
    SealedEntry,
    SealedInstallation,
    SealedRecord,
)

from .columns import BadValue, Columns


class Seal(msgspec.Struct, frozen=True):
    """The column of a record's MAC."""

    mac: Mac


class EntrySeal(msgspec.Struct, frozen=True):
    """The column of an entry's MAC."""

    mac: Mac | None


class EnrolmentColumns(msgspec.Struct, frozen=True):
    """The columns of a record's enrolment, which its MAC does not cover."""

    request: Der | None
    """The DER CertificationRequestInfo that ``request_hash`` is of."""
    created: U64
    """Microseconds since 1970-01-01T00:00:00Z."""


class ChainColumn(msgspec.Struct, frozen=True):
    """The column of a credential's certificates, beside its id."""

    chain: Chain


CHAIN = Columns(ChainColumn)
_RECORD = Columns(CredentialRecord)
_SEAL = Columns(Seal)
_ENROLMENT = Columns(EnrolmentColumns)
_ENTRY = Columns(EvidenceEntry)
_ENTRY_SEAL = Columns(EntrySeal)
_INSTALLATION = Columns(InstallationRecord)
RECORD_COLUMNS = _RECORD.names
ENTRY_COLUMNS = (*_ENTRY.names, "mac")
INSTALLATION_COLUMNS = (*_INSTALLATION.names, "mac")


# --- out of the database -----------------------------------------------------------------------------------


def credential_id_of(value: Any) -> CredentialId | None:
    """Return ``value`` as a credential id, None if it cannot be one."""
    return CredentialId(value) if isinstance(value, bytes) and len(value) == CREDENTIAL_ID_LENGTH else None


def who(credential_id: Any, owner: Any = None) -> str:
    """Name a credential for messages, whatever its columns hold."""
    name = f" of {owner[:64]!r}" if isinstance(owner, str) and owner else ""
    number = f" {credential_id.hex()}" if credential_id_of(credential_id) is not None else ""
    return f"credential{number}{name}"


def sealed_from_row(row: Sequence[Any]) -> SealedRecord:
    """Read the record in a row of RECORD_COLUMNS and ``mac``. Raises RecordDamaged, which names the field."""
    try:
        return SealedRecord(_RECORD.read(row), _SEAL.read(row[len(RECORD_COLUMNS) :]).mac)
    except BadValue as error:
        columns = dict(zip(RECORD_COLUMNS, row, strict=False))
        raise _damaged(error, columns["credential_id"], columns["owner"]) from error


def enrolment_from_row(row: Sequence[Any], record: CredentialRecord) -> EnrolmentColumns:
    """Read ``request`` and ``created`` of the row of ``record``. Raises RecordDamaged."""
    try:
        return _ENROLMENT.read(row)
    except BadValue as error:
        raise _damaged(error, record.credential_id, record.owner) from error


def _damaged(error: BadValue, credential_id: Any, owner: Any) -> RecordDamaged:
    return RecordDamaged(
        f"the record of {who(credential_id, owner)} is damaged: its field {error.field} is not {error}"
    )


def entry_from_row(row: Sequence[Any]) -> SealedEntry:
    """Read the entry in a row of ENTRY_COLUMNS. Raises StoreDamaged, naming credential, entry and field."""
    try:
        return SealedEntry(_ENTRY.read(row), _ENTRY_SEAL.read(row[len(_ENTRY.names) :]).mac)
    except BadValue as error:
        columns = dict(zip(ENTRY_COLUMNS, row, strict=False))
        number = f" {columns['sequence']}" if isinstance(columns["sequence"], int) else ""
        raise StoreDamaged(
            f"evidence entry{number} of {who(columns['credential_id'])} is damaged: "
            f"its field {error.field} is not {error}"
        ) from error


def installation_from_row(row: Sequence[Any]) -> SealedInstallation:
    """Read the installation's record in a row of INSTALLATION_COLUMNS. Raises InstallationDamaged."""
    try:
        return SealedInstallation(_INSTALLATION.read(row), _SEAL.read(row[len(_INSTALLATION.names) :]).mac)
    except BadValue as error:
        raise InstallationDamaged(
            f"the installation's row is damaged: its field {error.field} is not {error}"
        ) from error


# --- into the database -------------------------------------------------------------------------------------


def record_row(sealed: SealedRecord) -> dict[str, Any]:
    """Make the columns of a record and ``mac``. Raises StoreError for what a column cannot hold."""
    return {**_RECORD.row(sealed.record, "record"), **_SEAL.row(Seal(sealed.mac), "record")}


def enrolment_row(request: bytes | None, created: int) -> dict[str, Any]:
    """Make the columns ``request`` and ``created``. Raises StoreError for what a column cannot hold."""
    return _ENROLMENT.row(EnrolmentColumns(request, created), "record")


def entry_row(sealed: SealedEntry) -> dict[str, Any]:
    """Make the columns of an entry, ``hash`` and ``mac``. Raises StoreError for what a column cannot hold."""
    columns = _ENTRY.row(sealed.entry, "evidence entry")
    return {**columns, "hash": entry_hash(sealed.entry), "mac": sealed.mac}


def installation_row(sealed: SealedInstallation) -> dict[str, Any]:
    """Make the columns of the installation's record and ``mac``. Raises StoreError."""
    columns = _INSTALLATION.row(sealed.record, "installation's record")
    return {**columns, **_SEAL.row(Seal(sealed.mac), "installation's record")}

"""Rows into records and back. A row may hold anything: whoever can write the database can write it.

SQLite's columns take values of any type, so every field is checked for type, length and range, both ways:
what is written can be read again, and what cannot be understood is named instead of crashing something
further on. Whether the values are the right ones is for the record MAC and the chain to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import IntEnum
from itertools import pairwise
from typing import Any

from ..encoding import entry_hash, sequence
from ..errors import RecordDamaged, StoreDamaged, StoreError
from ..types import (
    CREDENTIAL_ID_LENGTH,
    KW_LENGTH,
    MAC_LENGTH,
    MAX_DIGESTS,
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
from .schema import MAX_INTEGER

MAX_TEXT = 1024
"""UTF-8 bytes of a text field."""
MAX_BLOB = 65535
"""Bytes of a key, wrapped or public; RSA-4096 needs some 2400."""
MAX_SIGNATURE = 8192
"""Bytes of one signature."""
_HASH = 32


class BadValue(Exception):
    """A value that cannot be this field's; says what it would have to be, and ``field`` which one it is."""

    field = ""


# --- one field ---------------------------------------------------------------------------------------------

Check = Callable[[Any], Any]
"""From the column's value to the field's; raises BadValue."""


def _bytes(value: Any, low: int, high: int) -> bytes:
    if isinstance(value, memoryview):
        value = bytes(value)
    if not isinstance(value, bytes) or not low <= len(value) <= high:
        raise BadValue(f"{low} bytes" if low == high else f"{low} to {high} bytes")
    return value


def _exactly(length: int) -> Check:
    return lambda value: _bytes(value, length, length)


def _upto(high: int) -> Check:
    return lambda value: _bytes(value, 1, high)


def _integer(high: int, low: int = 0) -> Check:
    high = min(high, MAX_INTEGER)

    def check(value: Any) -> int:
        # bool is an int to Python, and no driver returns one from an integer column.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadValue(f"an integer from {low} to {high}")
        return value

    return check


def _enum(kind: type[IntEnum]) -> Check:
    def check(value: Any) -> IntEnum:
        try:
            # int first: the float 1.0 equals a member, too.
            return kind(_integer(0xFFFF)(value))
        except (ValueError, BadValue) as error:
            raise BadValue(f"a known {kind.__name__}") from error

    return check


def _text(low: int) -> Check:
    def check(value: Any) -> str:
        wanted = f"text of {low} to {MAX_TEXT} bytes without NUL"
        # PostgreSQL has no NUL in text; a lone surrogate has no UTF-8.
        if not isinstance(value, str) or "\0" in value:
            raise BadValue(wanted)
        try:
            length = len(value.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise BadValue(wanted) from error
        if not low <= length <= MAX_TEXT:
            raise BadValue(wanted)
        return value

    return check


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _algorithms(value: Any) -> tuple[Algorithm, ...]:
    """u16 each, ascending: what the record's canonical bytes hold."""
    wanted = "known algorithms, two bytes each, ascending"
    data = _bytes(value, 2, 2 * len(Algorithm))
    try:
        found = tuple(Algorithm(int.from_bytes(data[i : i + 2], "big")) for i in range(0, len(data), 2))
    except ValueError as error:
        raise BadValue(wanted) from error
    if len(data) % 2 or any(a >= b for a, b in pairwise(found)):
        raise BadValue(wanted)
    return found


def _items(allowed: Callable[[int], bool]) -> Check:
    """u32 count, then u32 length || item, as :func:`hsm_signer.encoding.sequence` writes it."""
    wanted = f"at most {MAX_DIGESTS} items, each with its length"

    def check(value: Any) -> tuple[bytes, ...]:
        data = _bytes(value, 4, MAX_INTEGER)
        count, at = int.from_bytes(data[:4], "big"), 4
        if count > MAX_DIGESTS:
            raise BadValue(wanted)
        found = []
        for _ in range(count):
            length = int.from_bytes(data[at : at + 4], "big")
            at += 4
            if not allowed(length) or at + length > len(data):
                raise BadValue(wanted)
            found.append(data[at : at + length])
            at += length
        if at != len(data):
            raise BadValue(wanted)
        return tuple(found)

    return check


_DIGEST_LENGTHS = frozenset(h.value for h in HashName)
_U16, _U32, _U64 = 0xFFFF, 0xFFFFFFFF, MAX_INTEGER

RECORD_CHECKS: Mapping[str, Check] = {
    "format": _integer(1, low=1),
    "mac_key_id": _exactly(8),
    "version": _integer(_U64, low=1),
    "credential_id": _exactly(CREDENTIAL_ID_LENGTH),
    "owner": _text(1),
    "status": _enum(Status),
    "scheme": _enum(Scheme),
    "combine": _enum(Combine),
    "pin_policy": _enum(PinPolicy),
    "pin_check": _enum(PinCheck),
    "token_serial": _text(0),
    "mk_id": _exactly(8),
    "spki": _upto(MAX_BLOB),
    "algorithms": _algorithms,
    "parameter": _or_none(_upto(MAX_BLOB)),
    "wrapped_kcar": _or_none(_exactly(KW_LENGTH)),
    "wrap_mechanism": _integer(_U32),
    "wrapped_sk": _or_none(_upto(MAX_BLOB)),
    "x": _or_none(_integer(_U64)),
    "rn": _or_none(_exactly(ROLLING_VALUE_LENGTH)),
    "rn_next": _or_none(_exactly(ROLLING_VALUE_LENGTH)),
    "failures": _integer(_U32),
    "card_serial": _exactly(8),
    "assurance": _integer(0xFF),
    "request_hash": _or_none(_exactly(_HASH)),
    "evidence_head": _or_none(_exactly(_HASH)),
}
"""Every field of CredentialRecord, by its name, which is its column's, too."""

BESIDE_RECORD_CHECKS: Mapping[str, Check] = {
    "mac": _exactly(MAC_LENGTH),
    "request": _or_none(_upto(MAX_BLOB)),
    "created": _integer(MAX_INTEGER),
}

_RECORD_ROW_CHECKS = {**RECORD_CHECKS, "mac": BESIDE_RECORD_CHECKS["mac"]}

ENTRY_CHECKS: Mapping[str, Check] = {
    "sequence": _integer(_U64, low=1),
    "time": _integer(_U64),
    "credential_id": _exactly(CREDENTIAL_ID_LENGTH),
    "event": _enum(Event),
    "outcome": _text(1),
    "record_version": _integer(_U64),
    "actor": _text(0),
    "previous": _exactly(_HASH),
    "d": _or_none(_exactly(_HASH)),
    "nonce": _or_none(_exactly(NONCE_LENGTH)),
    "x": _or_none(_integer(_U64)),
    "algorithm": _or_none(_enum(Algorithm)),
    "mode": _or_none(_enum(Mode)),
    "h": _or_none(_exactly(_HASH)),
    "quantities_hash": _or_none(_exactly(_HASH)),
    "digests": _items(_DIGEST_LENGTHS.__contains__),
    "signatures": _items(range(1, MAX_SIGNATURE + 1).__contains__),
}
"""Every field of EvidenceEntry, by its name, which is its column's, too."""

RECORD_COLUMNS = tuple(f.name for f in fields(CredentialRecord))
ENTRY_COLUMNS = tuple(f.name for f in fields(EvidenceEntry))
Readers = tuple[tuple[str, Check], ...]
_RECORD_READERS: Readers = (
    *((name, RECORD_CHECKS[name]) for name in RECORD_COLUMNS),
    ("mac", BESIDE_RECORD_CHECKS["mac"]),
)
_ENTRY_READERS: Readers = tuple((name, ENTRY_CHECKS[name]) for name in ENTRY_COLUMNS)


# --- out of the database -----------------------------------------------------------------------------------


def checked_integer(value: Any, name: str, *, low: int = 0) -> int:
    """An integer of 0 to 2**63 - 1 from a column of no record; raises StoreDamaged."""
    try:
        return int(_integer(MAX_INTEGER, low)(value))
    except BadValue as error:
        raise StoreDamaged(f"the database is damaged: {name} is not {error}") from error


def checked_hash(value: Any, name: str) -> bytes:
    """32 bytes from a column of no record; raises StoreDamaged."""
    try:
        return _bytes(value, _HASH, _HASH)
    except BadValue as error:
        raise StoreDamaged(f"the database is damaged: {name} is not {error}") from error


def credential_id_of(value: Any) -> CredentialId | None:
    """The credential id if the value can be one; None if not."""
    return CredentialId(value) if isinstance(value, bytes) and len(value) == CREDENTIAL_ID_LENGTH else None


def who(credential_id: Any, owner: Any = None) -> str:
    """How messages name a credential, whatever its columns hold."""
    name = f" of {owner[:64]!r}" if isinstance(owner, str) and owner else ""
    number = f" {credential_id.hex()}" if credential_id_of(credential_id) is not None else ""
    return f"credential{number}{name}"


def _fields(readers: Readers, row: Sequence[Any]) -> list[Any]:
    """The values of a row's first columns, checked. Raises BadValue."""
    values = []
    for (name, check), value in zip(readers, row, strict=False):
        try:
            values.append(check(value))
        except BadValue as error:
            error.field = name
            raise
    return values


def sealed_from_row(row: Sequence[Any]) -> SealedRecord:
    """The record in a row of RECORD_COLUMNS and ``mac``. Raises RecordDamaged, which names the field."""
    try:
        *values, mac = _fields(_RECORD_READERS, row)
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
        values = _fields(_ENTRY_READERS, row)
    except BadValue as error:
        found = dict(zip(ENTRY_COLUMNS, row, strict=False))
        number = f" {found['sequence']}" if isinstance(found["sequence"], int) else ""
        raise StoreDamaged(
            f"evidence entry{number} of {who(found['credential_id'])} is damaged: "
            f"its field {error.field} is not {error}"
        ) from error
    return EvidenceEntry(*values)


# --- into the database -------------------------------------------------------------------------------------


def _written(checks: Mapping[str, Check], row: dict[str, Any], what: str) -> dict[str, Any]:
    """``row`` once every value of it would be read back as it is."""
    for name, value in row.items():
        try:
            checks[name](value)
        except BadValue as error:
            raise StoreError(f"the {what} cannot be stored: its field {name} is not {error}") from error
    # IntEnum members are ints, but not every driver knows it.
    return {name: int(value) if isinstance(value, IntEnum) else value for name, value in row.items()}


def record_row(sealed: SealedRecord) -> dict[str, Any]:
    """The columns of a record and ``mac``. Raises StoreError for what a column cannot hold."""
    record = sealed.record
    row = {name: getattr(record, name) for name in RECORD_COLUMNS}
    row["algorithms"] = b"".join(a.to_bytes(2, "big") for a in record.algorithms)
    row["mac"] = sealed.mac
    return _written(_RECORD_ROW_CHECKS, row, "record")


def beside_record_row(request: bytes | None, created: int) -> dict[str, Any]:
    """The columns that stand beside the record. Raises StoreError for what a column cannot hold."""
    return _written(BESIDE_RECORD_CHECKS, {"request": request, "created": created}, "record")


def entry_row(entry: EvidenceEntry) -> dict[str, Any]:
    """The columns of an entry and its ``hash``. Raises StoreError for what a column cannot hold."""
    row = {name: getattr(entry, name) for name in ENTRY_COLUMNS}
    row["digests"] = sequence(entry.digests)
    row["signatures"] = sequence(entry.signatures)
    row = _written(ENTRY_CHECKS, row, "evidence entry")
    row["hash"] = entry_hash(entry)
    return row

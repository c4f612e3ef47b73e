"""The SQL about records and evidence, built once. Values are bound, never written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Table, and_, bindparam, delete, func, insert, or_, select, text, type_coerce, update
from sqlalchemy.types import NullType

from hsm_signer.errors import CredentialPending, WrongKey
from hsm_signer.types import ACCEPTED

from .rows import ENTRY_COLUMNS, INSTALLATION_COLUMNS, RECORD_COLUMNS
from .schema import UNCOUNTED_REFUSAL, credential, evidence, installation

Row = Sequence[Any]


def raw(source: Table, names: Sequence[str]) -> list[Any]:
    """Columns as the driver gives them. SQLAlchemy would turn a text in a bytes column into a TypeError and
    the number 10**9 in it into a gigabyte of zeros; rows.py checks them instead."""
    return [type_coerce(source.c[name], NullType()).label(name) for name in names]


ID = bindparam("b_id", type_=credential.c.credential_id.type)
VERSION = bindparam("b_version", type_=credential.c.version.type)
OWN = evidence.c.credential_id == ID
RECORD = raw(credential, (*RECORD_COLUMNS, "mac"))
ENTRY = raw(evidence, ENTRY_COLUMNS)
LAST = (
    select(*raw(evidence, ("sequence", "hash", "previous", "mac")))
    .where(OWN)
    .order_by(evidence.c.sequence.desc())
    .limit(1)
)
NEWEST_FIRST = select(*ENTRY).where(OWN).order_by(evidence.c.sequence.desc()).limit(bindparam("b_limit"))
NEWEST_VERSION = select(type_coerce(func.max(evidence.c.record_version), NullType())).where(OWN)
# One statement sees one moment, on both databases.
LOAD = select(
    *RECORD,
    *raw(credential, ("request", "created")),
    NEWEST_VERSION.scalar_subquery(),
).where(credential.c.credential_id == ID)
# Refusals that came later have the same version: the first entry is the one that wrote it.
WRITER = (
    select(*ENTRY).where(OWN, evidence.c.record_version == VERSION).order_by(evidence.c.sequence).limit(1)
)
# The row's lock is PostgreSQL's; on SQLite BEGIN IMMEDIATE has locked everything already.
LOCK = (
    select(*raw(credential, ("version", "status", "counted_refusals")))
    .where(credential.c.credential_id == ID)
    .with_for_update()
)
# Written out, not bound: only so do both databases use the index over refusals.
REFUSAL_TIMES = (
    select(*raw(evidence, ("time",)))
    .where(OWN, text(UNCOUNTED_REFUSAL))
    .order_by(evidence.c.sequence.desc())
    .limit(bindparam("b_limit"))
)
COUNT_REFUSAL = (
    update(credential).where(credential.c.credential_id == ID).values(counted_refusals=bindparam("b_counted"))
)
CARRIED_OUT = (
    select(*ENTRY)
    .where(
        OWN,
        evidence.c.d == bindparam("b_d"),
        or_(
            and_(
                evidence.c.quantities_hash == bindparam("b_quantities"),
                evidence.c.outcome.in_((ACCEPTED, WrongKey.code)),
            ),
            # D alone: one authorisation, whatever came with it.
            evidence.c.outcome == CredentialPending.code,
        ),
    )
    .order_by(evidence.c.sequence)
    .limit(1)
)
UPDATE = update(credential).where(credential.c.credential_id == ID, credential.c.version == VERSION)
DELETE = delete(credential).where(credential.c.credential_id == ID, credential.c.version == VERSION)
INSERT_RECORD = insert(credential)
INSERT_ENTRY = insert(evidence)
SEAL_ENTRY = update(evidence).where(
    OWN, evidence.c.sequence == bindparam("b_sequence"), evidence.c.mac.is_(None)
)
INSTALLATION = select(*raw(installation, INSTALLATION_COLUMNS))
INSERT_INSTALLATION = insert(installation)
LOCK_INSTALLATION = select(*raw(installation, ("version",))).with_for_update()
UPDATE_INSTALLATION = update(installation).where(installation.c.version == VERSION)

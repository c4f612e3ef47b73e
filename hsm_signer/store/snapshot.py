"""A snapshot of the store: all records and evidence at one moment, for listings, anchors and audits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, and_, func, select
from sqlalchemy.engine import URL

from hsm_signer.core.canonical import entry_hash
from hsm_signer.errors import InstallationDamaged, RecordDamaged, StoreDamaged, StoreError
from hsm_signer.evidence.chain import Head
from hsm_signer.evidence.findings import CLIENT_DAMAGED, ENTRY_DAMAGED, RECORD_DAMAGED, Finding
from hsm_signer.types import (
    CredentialId,
    EvidenceEntry,
    SealedEntry,
    SealedInstallation,
    SealedRecord,
)

from .client_rows import CLIENTS, ClientRow, client_from_row
from .database import translated
from .rows import (
    ENTRY_COLUMNS,
    RECORD_COLUMNS,
    credential_id_of,
    entry_from_row,
    installation_from_row,
    sealed_from_row,
)
from .schema import credential, evidence
from .statements import ENTRY, INSTALLATION, RECORD, Row

Damaged = Callable[[Finding], None]
"""Called for a row that cannot be understood, in place of an error, by readers that go on to the next row."""
_T = TypeVar("_T")

_BATCH = 100
"""Rows fetched at a time; what is in memory does not grow with the tables."""


class Snapshot:
    """Records and evidence as they stood at one moment, however long the reading takes."""

    def __init__(self, connection: Connection, url: URL) -> None:
        self._connection = connection
        self._url = url

    def records(self, damaged: Damaged | None = None) -> Iterator[SealedRecord]:
        """Read every record, ascending by credential id. Raises RecordDamaged, or tells ``damaged``."""
        statement = select(*RECORD).order_by(credential.c.credential_id)
        return self._read(statement, sealed_from_row, damaged, RECORD_DAMAGED)

    def clients(self, damaged: Damaged | None = None) -> Iterator[ClientRow]:
        """Read every client of the service. Raises StoreDamaged, or tells ``damaged``."""
        return self._read(CLIENTS, client_from_row, damaged, CLIENT_DAMAGED)

    def installation(self) -> SealedInstallation | None:
        """Read the installation's own record; None without one. Raises InstallationDamaged."""
        with translated(self._url):
            rows = self._connection.execute(INSTALLATION).all()
        if len(rows) > 1:
            raise InstallationDamaged(f"the database has {len(rows)} installations' rows")
        return installation_from_row(rows[0]) if rows else None

    def chains(self, damaged: Damaged | None = None) -> Iterator[SealedEntry]:
        """Read every entry by chain and sequence. Raises StoreDamaged, or tells ``damaged``."""
        statement = select(*ENTRY).order_by(evidence.c.credential_id, evidence.c.sequence)
        return self._read(statement, entry_from_row, damaged, ENTRY_DAMAGED)

    def entries(
        self,
        credential_id: CredentialId | None = None,
        *,
        limit: int | None = None,
        damaged: Damaged | None = None,
    ) -> Iterator[tuple[int, EvidenceEntry]]:
        """Read entries with their numbers: all in the order of writing, or one chain in its order.

        ``limit``: only the newest so many. Raises StoreDamaged, or tells ``damaged``.
        """
        order = evidence.c.id if credential_id is None else evidence.c.sequence
        statement = select(*ENTRY, evidence.c.id).order_by(order)
        if credential_id is not None:
            statement = statement.where(evidence.c.credential_id == credential_id)
        if limit is not None:
            newest = select(evidence.c.id).order_by(order.desc()).limit(limit)
            if credential_id is not None:
                newest = newest.where(evidence.c.credential_id == credential_id)
            statement = statement.where(evidence.c.id.in_(newest.scalar_subquery()))

        def numbered(row: Row) -> tuple[int, EvidenceEntry]:
            return int(row[-1]), entry_from_row(row).entry

        return self._read(statement, numbered, damaged, ENTRY_DAMAGED)

    def heads(self, upto: int | None = None) -> Iterator[Head]:
        """Read the last entry of every chain, ascending by credential id, of the entries up to ``upto``.

        The hash is computed from the entry, not taken from its column: an anchor must not vouch for a hash
        nobody computed. Raises StoreDamaged.
        """
        newest = select(evidence.c.credential_id, func.max(evidence.c.sequence).label("sequence"))
        if upto is not None:
            newest = newest.where(evidence.c.id <= upto)
        last = newest.group_by(evidence.c.credential_id).subquery()
        statement = (
            select(*ENTRY)
            .join(
                last,
                and_(
                    evidence.c.credential_id == last.c.credential_id,
                    evidence.c.sequence == last.c.sequence,
                ),
            )
            .order_by(evidence.c.credential_id)
        )

        def head(row: Row) -> Head:
            entry = entry_from_row(row).entry
            return Head(entry.credential_id, entry.sequence, entry_hash(entry))

        return self._read(statement, head, None, ENTRY_DAMAGED)

    def _read(
        self, statement: Select[Any], decode: Callable[[Row], _T], damaged: Damaged | None, code: str
    ) -> Iterator[_T]:
        options = {"yield_per": _BATCH}
        with translated(self._url), self._connection.execute(statement, execution_options=options) as result:
            for row in result:
                try:
                    item = decode(row)
                except (RecordDamaged, StoreDamaged) as error:
                    if damaged is None:
                        raise
                    damaged(_finding(code, error, row))
                    continue
                yield item


def _finding(code: str, error: StoreError, row: Row) -> Finding:
    names = {RECORD_DAMAGED: RECORD_COLUMNS, CLIENT_DAMAGED: ("owner",)}.get(code, ENTRY_COLUMNS)
    found = dict(zip(names, row, strict=False))
    owner, sequence = found.get("owner"), found.get("sequence")
    return Finding(
        code,
        error.message,
        credential_id=credential_id_of(found.get("credential_id")),
        owner=owner if isinstance(owner, str) else None,
        sequence=sequence if isinstance(sequence, int) else None,
    )

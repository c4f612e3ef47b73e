"""Pages of records and evidence, for callers that read on later from where the last page ended."""

from __future__ import annotations

from itertools import pairwise

from sqlalchemy import Connection, Select, func, select, text, type_coerce
from sqlalchemy.types import NullType

from hsm_signer.core.owners import canonical_owner
from hsm_signer.errors import StoreDamaged
from hsm_signer.types import U64, CredentialId, EvidenceEntry, SealedRecord

from .columns import checked
from .database import is_sqlite, translated
from .rows import entry_from_row, sealed_from_row, who
from .schema import credential, evidence
from .statements import ENTRY, RECORD, Row, raw
from .transactions import Transactions

NUMBER = "the number of an entry"


class Pages(Transactions):
    """Evidence by its numbers, records by their credential ids."""

    def page(
        self, after: int, limit: int, credential_id: CredentialId | None = None
    ) -> list[tuple[int, EvidenceEntry]]:
        """Read at most ``limit`` entries with numbers above ``after``, ascending: of all chains, or of one.

        Whoever goes on after the last number of a page misses nothing: an entry with a lower number does
        not appear later. Raises StoreDamaged; StoreBusy where a writer does not finish.
        """
        if credential_id is not None:
            return self._page_of_chain(credential_id, after, limit)
        statement = (
            select(*ENTRY, *raw(evidence, ("id",)))
            .where(evidence.c.id > after)
            .order_by(evidence.c.id)
            .limit(limit)
        )
        # Not the reader's one moment: what was waited for has to be seen.
        with translated(self._url), self._engine.begin() as connection:
            rows = connection.execute(statement).all()
            if not is_sqlite(self._url) and any(row[-1] != after + n for n, row in enumerate(rows, 1)):
                # A number that is missing was given to a writer that failed, or to one that is still at it.
                self._wait_for_writers(connection)
                rows = connection.execute(statement).all()
        return [_numbered(row) for row in rows]

    def _page_of_chain(
        self, credential_id: CredentialId, after: int, limit: int
    ) -> list[tuple[int, EvidenceEntry]]:
        # Writers of one chain come one after the other, each locking the record before it gets a number: here
        # numbers ascend with the sequence, whose index leads to the place where the last page ended.
        own = evidence.c.credential_id == credential_id
        reached = select(evidence.c.sequence).where(evidence.c.id == after, own).scalar_subquery()
        statement = (
            select(*ENTRY, *raw(evidence, ("id",)))
            .where(own, evidence.c.sequence > func.coalesce(reached, 0), evidence.c.id > after)
            .order_by(evidence.c.sequence)
            .limit(limit)
        )
        with self._reading() as connection:
            rows = connection.execute(statement).all()
        page = [_numbered(row) for row in rows]
        if any(one >= other for (one, _), (other, _) in pairwise(page)):
            raise StoreDamaged(f"the evidence of {who(credential_id)} is not numbered in its order")
        return page

    def last_entry(self) -> int:
        """Find the number of the newest entry, 0 if there is none: no lower one can appear any more."""
        newest: Select[tuple[object]] = select(
            func.coalesce(type_coerce(func.max(evidence.c.id), NullType()), 0)
        )
        with translated(self._url), self._engine.begin() as connection:
            if not is_sqlite(self._url):
                self._wait_for_writers(connection)
            return int(checked(U64, connection.execute(newest).scalar_one(), NUMBER))

    def _wait_for_writers(self, connection: Connection) -> None:
        # PostgreSQL gives numbers out before the commit: wait for those that were given out.
        connection.execute(text(f"LOCK TABLE {evidence.name} IN SHARE MODE"))

    def record_page(
        self, after: CredentialId | None, limit: int, owner: str | None = None
    ) -> list[SealedRecord]:
        """Read at most ``limit`` records with credential ids above ``after``, ascending.

        ``after``: None begins with the first. ``owner``: of this user only, in any Unicode normalisation
        form. Raises RecordDamaged.
        """
        statement = select(*RECORD).order_by(credential.c.credential_id).limit(limit)
        if after is not None:
            statement = statement.where(credential.c.credential_id > after)
        if owner is not None:
            if unspeakable(owner):
                return []
            statement = statement.where(credential.c.owner == canonical_owner(owner))
        with self._reading() as connection:
            rows = connection.execute(statement).all()
        return [sealed_from_row(row) for row in rows]


def unspeakable(name: str) -> bool:
    """Tell whether no text column can hold a name: nobody has it, and PostgreSQL refuses to look for it."""
    return "\0" in name or any("\ud800" <= character <= "\udfff" for character in name)


def _numbered(row: Row) -> tuple[int, EvidenceEntry]:
    return checked(U64, row[-1], NUMBER), entry_from_row(row).entry

"""The store: one transaction per operation, and a record is never written without its evidence.

A change is made inside its transaction (``with store.changing(...) as change``): the caller sees where the
chain ends, makes record and entry for exactly that place, and writes both. Nobody else can write in between,
and if anything fails nothing is written.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine, select, text
from sqlalchemy.engine import URL

from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.chain_position import START
from hsm_signer.core.owners import canonical_owner
from hsm_signer.errors import (
    CredentialExists,
    RecordConflict,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreTooOld,
)
from hsm_signer.evidence.chain import Head
from hsm_signer.types import (
    INSTALLATION_CHAIN,
    CredentialId,
    Digest,
    EvidenceEntry,
    SealedEntry,
    SealedInstallation,
    SealedRecord,
    Status,
)

from . import schema
from .certificate_rows import CertificateRows
from .change import Change, InstallationChange, LockedChain, check_place, newest_version, rows_of, unknown
from .client_rows import ClientRows
from .database import (
    CONNECTIONS,
    MISSING_HINT,
    is_sqlite,
    make_engine,
    name_of,
    parse_url,
    path_of,
    translated,
    without_timeouts,
)
from .pages import Pages, unspeakable
from .rows import (
    credential_id_of,
    enrolment_from_row,
    enrolment_row,
    entry_from_row,
    entry_row,
    installation_row,
    sealed_from_row,
    who,
)
from .schema import credential
from .snapshot import Damaged, Snapshot
from .statements import (
    CARRIED_OUT,
    DELETE,
    INSERT_ENTRY,
    INSERT_INSTALLATION,
    INSERT_RECORD,
    LOAD,
    NEWEST_FIRST,
    NEWEST_VERSION,
    RECORD,
    SEAL_ENTRY,
    WRITER,
    raw,
)
from .versions import check_empty, check_revision, make_file, migrating


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """One credential as it stood at one moment."""

    sealed: SealedRecord
    """Not believed yet: its MAC is for the token to check."""
    request: bytes | None
    """The DER CertificationRequestInfo; believed only under the record's ``request_hash``."""
    newest_version: int
    """The highest ``record_version`` in the evidence. Above the record's version: an old row was put back.
    Below: evidence was removed; 0 if there is none at all."""
    written_by: Digest | None
    """SHA-256 of the entry written with this version of the record, computed from its row; None if there is
    none. A record whose MAC holds names it in ``evidence_head``."""


@dataclass(frozen=True, slots=True)
class StoredInstallation:
    """The installation's own record as it stood at one moment, as StoredCredential is for a credential."""

    sealed: SealedInstallation
    newest_version: int
    written_by: Digest | None


# --- the store ----------------------------------------------------------------------------------------------


class Store(Pages, ClientRows, CertificateRows):
    """Records and evidence in one database, and what the service keeps beside them.

    Many threads and many processes may use it at once.

    Every method raises StoreBusy, StoreUnavailable, StoreReadOnly (writing only), StoreDamaged or StoreError
    as the database gives reason to, beside what it names itself.
    """

    # --- opening and closing ---

    @classmethod
    def create(cls, url: str, *, busy_timeout: float = 5.0, connections: int = CONNECTIONS) -> Self:
        """Make an empty store and open it. A SQLite file gets mode 0600; a server's database has to be there.

        Raises ConfigError for a URL that cannot be used, StoreError if there is something already,
        StoreReadOnly if nothing can be written there.
        """
        parsed = parse_url(url)
        made = is_sqlite(parsed) and make_file(path_of(parsed))
        try:
            with migrating(parsed, busy_timeout) as (connection, migrate):
                check_empty(connection, parsed)
                migrate()
            if is_sqlite(parsed):
                # Not before: a file that was there may be anybody's, and it remembers the switch.
                cls._opened(make_engine(parsed, busy_timeout=busy_timeout, wal=True), parsed).close()
        except BaseException:
            if made:
                # Only a file this call has made: an empty one left behind would pass for a damaged store.
                for suffix in ("", "-wal", "-shm", "-journal"):
                    Path(f"{path_of(parsed)}{suffix}").unlink(missing_ok=True)
            raise
        return cls.open(url, busy_timeout=busy_timeout, connections=connections)

    @classmethod
    def open(cls, url: str, *, busy_timeout: float = 5.0, connections: int = CONNECTIONS) -> Self:
        """Open a store; nothing is made or changed.

        ``busy_timeout`` in seconds: how long to wait for a lock. ``connections``: how many at most to a
        database server; whoever finds none free waits as long. A SQLite file in a folder closed to writing
        can be read. Raises ConfigError for a URL that cannot be used, StoreMissing, StoreUnavailable,
        StoreTooOld (see :meth:`upgrade`), StoreTooNew, StoreDamaged.
        """
        parsed = parse_url(url)
        if not is_sqlite(parsed):
            engine = make_engine(parsed, busy_timeout=busy_timeout, connections=connections)
            return cls._opened(engine, parsed)
        path = path_of(parsed)
        if not path.is_file():
            raise StoreMissing(f"there is no database at {path}", hint=MISSING_HINT)
        try:
            return cls._opened(make_engine(parsed, busy_timeout=busy_timeout), parsed)
        except StoreReadOnly:
            # WAL needs two files beside the database. Where they cannot be made the database can still be
            # read as it lies there, if nothing waits in a log: that would be left out unseen.
            log = Path(f"{path}-wal")
            if log.exists() and log.stat().st_size:
                raise
            return cls._opened(make_engine(parsed, busy_timeout=busy_timeout, immutable=True), parsed)

    @classmethod
    def _opened(cls, engine: Engine, url: URL) -> Self:
        try:
            with translated(url), engine.connect() as connection:
                check_revision(connection, url)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, url)

    @classmethod
    def discard(cls, url: str, *, busy_timeout: float = 5.0) -> None:
        """Undo :meth:`create` of a moment ago: a store that holds anything is left alone. Raises StoreError.

        A SQLite file is deleted, on a server the tables are dropped.
        """
        with cls.open(url, busy_timeout=busy_timeout) as store:
            if any(True for _ in store.list_records()):
                raise StoreError(f"the store {name_of(store._url)} is in use")
            if not is_sqlite(store._url):
                with translated(store._url), store._engine.begin() as connection:
                    schema.metadata.drop_all(connection)
                    connection.exec_driver_sql(f"DROP TABLE {schema.VERSION_TABLE}")
                return
            path = path_of(store._url)
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)

    @classmethod
    def upgrade(cls, url: str, *, busy_timeout: float = 5.0) -> None:
        """Bring a store of an older version up to this one, in one transaction; nothing to do is no error.

        Raises as :meth:`open` does, but for StoreTooOld.
        """
        parsed = parse_url(url)
        if is_sqlite(parsed) and not path_of(parsed).is_file():
            raise StoreMissing(f"there is no database at {path_of(parsed)}", hint=MISSING_HINT)
        with migrating(parsed, busy_timeout) as (connection, migrate):
            try:
                check_revision(connection, parsed)
            except StoreTooOld:
                migrate()

    def close(self) -> None:
        """Close every connection; the store cannot be used afterwards. Iterators must have ended."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- reading ---

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Look at everything as it is now, for as long as the ``with`` lasts; writers are not held up."""
        with self._reading() as connection:
            without_timeouts(connection, self._url)
            yield Snapshot(connection, self._url)

    def load(self, credential_id: CredentialId) -> StoredCredential:
        """Read one credential with what its evidence says about its version.

        Raises CredentialUnknown; RecordDamaged where a field cannot be what it should, StoreDamaged where the
        evidence about it cannot.
        """
        with self._reading() as connection:
            row = connection.execute(LOAD, {"b_id": credential_id}).one_or_none()
            if row is None:
                raise unknown(credential_id)
            sealed = sealed_from_row(row)
            version = sealed.record.version
            writer = connection.execute(WRITER, {"b_id": credential_id, "b_version": version}).one_or_none()
        written_by = None if writer is None else entry_hash(entry_from_row(writer).entry)
        newest = newest_version(row[-1], f"a record version in the evidence of {who(credential_id)}")
        request = enrolment_from_row(row[-3:-1], sealed.record).request
        return StoredCredential(sealed, request, newest, written_by)

    def installation(self) -> StoredInstallation | None:
        """Read the installation's own record with what its evidence says about its version; None without one.

        Raises InstallationDamaged, StoreDamaged.
        """
        with self._reading() as connection:
            sealed = Snapshot(connection, self._url).installation()
            if sealed is None:
                return None
            own = {"b_id": INSTALLATION_CHAIN, "b_version": sealed.record.version}
            newest = connection.execute(NEWEST_VERSION, own).scalar_one()
            writer = connection.execute(WRITER, own).one_or_none()
        return StoredInstallation(
            sealed,
            newest_version(newest, "a record version in the evidence of the installation"),
            None if writer is None else entry_hash(entry_from_row(writer).entry),
        )

    def find(self, owner: str) -> list[SealedRecord]:
        """Read a user's records, newest first: at most one that is live, and the revoked ones before it.

        ``owner`` in any Unicode normalisation form. Raises RecordDamaged. No record is no error.
        """
        if unspeakable(owner):
            # Nobody has such a name, and PostgreSQL would not even let it be asked for.
            return []
        statement = (
            select(*RECORD)
            .where(credential.c.owner == canonical_owner(owner))
            .order_by(credential.c.created.desc(), credential.c.credential_id)
        )
        with self._reading() as connection:
            rows = connection.execute(statement).all()
        return [sealed_from_row(row) for row in rows]

    def list_records(self, damaged: Damaged | None = None) -> Iterator[SealedRecord]:
        """Read every record, ascending by credential id. Raises RecordDamaged, or tells ``damaged``."""
        with self.snapshot() as snapshot:
            yield from snapshot.records(damaged)

    def pending_before(self, created_before: int) -> list[CredentialId]:
        """Find pending credentials made before a time (microseconds since 1970-01-01T00:00:00Z)."""
        statement = (
            select(*raw(credential, ("credential_id",)))
            # Written out, not bound: only so does SQLite use the index over pending ones.
            .where(text(f"status = {Status.PENDING.number}"), credential.c.created < created_before)
            .order_by(credential.c.created)
        )
        with self._reading() as connection:
            found = [credential_id_of(value) for value in connection.execute(statement).scalars()]
        # One whose id is damaged cannot be given up; reading it says so.
        return [value for value in found if value is not None]

    def counted_refusals(self) -> list[CredentialId]:
        """Find the credentials with refusals that were counted and have no entry yet."""
        statement = (
            select(*raw(credential, ("credential_id",)))
            # Written out, not bound: only so does SQLite use the index over them.
            .where(text("counted_refusals > 0"))
            .order_by(credential.c.credential_id)
        )
        with self._reading() as connection:
            found = [credential_id_of(value) for value in connection.execute(statement).scalars()]
        return [value for value in found if value is not None]

    def carried_out(
        self, credential_id: CredentialId, d: Digest, quantities_hash: Digest
    ) -> SealedEntry | None:
        """Find the entry of an equal request that got as far as SK, accepted or a wrong key, if there is one.

        Or the one that refused this D because its credential was pending, whatever the quantities were.

        ``d`` is D, ``quantities_hash`` is SHA-256(Q_1 || ...); both have 32 bytes. The entry is what the row
        says: its MAC is for the token to check. Raises StoreDamaged.
        """
        asked = {"b_id": credential_id, "b_d": d, "b_quantities": quantities_hash}
        with self._reading() as connection:
            row = connection.execute(CARRIED_OUT, asked).one_or_none()
        return None if row is None else entry_from_row(row)

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
        with self.snapshot() as snapshot:
            yield from snapshot.entries(credential_id, limit=limit, damaged=damaged)

    def newest_first(self, credential_id: CredentialId, limit: int) -> Generator[SealedEntry, None, None]:
        """Read at most ``limit`` entries of a chain, backwards from its end. Raises StoreDamaged."""
        asked = {"b_id": credential_id, "b_limit": limit}
        # A few at a time: an entry may have a megabyte, and mostly the first ones will do.
        options = {"yield_per": 10}
        with (
            self._reading() as connection,
            connection.execute(NEWEST_FIRST, asked, execution_options=options) as result,
        ):
            for row in result:
                yield entry_from_row(row)

    def heads(self, upto: int | None = None) -> Iterator[Head]:
        """Read the last entry of every chain, ascending by credential id, of the entries up to ``upto``.

        With :meth:`last_entry` as ``upto`` it is the same at any later time. Raises StoreDamaged.
        """
        with self.snapshot() as snapshot:
            yield from snapshot.heads(upto)

    # --- writing ---

    def begin(self, sealed: SealedInstallation, entry: SealedEntry) -> None:
        """Write the installation's own record and the first entry of its chain, both or neither.

        Raises StoreError if there is one already, ValueError unless they belong together.
        """
        check_place(entry.entry, START, INSTALLATION_CHAIN)
        columns = entry_row(entry)
        if sealed.record.evidence_head != columns["hash"]:
            raise ValueError("the record does not name the entry written with it")
        try:
            with self._writing() as connection:
                connection.execute(INSERT_INSTALLATION, {"id": 1, **installation_row(sealed)})
                connection.execute(INSERT_ENTRY, columns)
        except RecordConflict as conflict:
            raise StoreError(f"the store {name_of(self._url)} belongs to an installation") from conflict

    def seal_entries(self, entries: Sequence[SealedEntry]) -> None:
        """Give entries of an older version their MACs, all or none; whatever has one keeps it."""
        rows = [
            {"b_id": sealed.entry.credential_id, "b_sequence": sealed.entry.sequence, "mac": sealed.mac}
            for sealed in entries
        ]
        with self._writing() as connection:
            connection.execute(SEAL_ENTRY, rows)

    def insert(
        self, sealed: SealedRecord, entry: SealedEntry, *, request: bytes | None, created: int
    ) -> None:
        """Write a new credential and the first entry of its chain, both or neither.

        ``request``: the DER CertificationRequestInfo; ``created``: microseconds since 1970-01-01T00:00:00Z.
        Raises CredentialExists if the user has one that is not revoked, RecordConflict if the credential id
        is taken, ValueError unless record and entry belong together.
        """
        row, entry_columns = rows_of(sealed, entry, START, 1)
        row |= enrolment_row(request, created)
        owner = sealed.record.owner
        try:
            with self._writing() as connection:
                connection.execute(INSERT_RECORD, row)
                connection.execute(INSERT_ENTRY, entry_columns)
        except RecordConflict as conflict:
            if any(stored.record.status is not Status.REVOKED for stored in self.find(owner)):
                raise CredentialExists(
                    f"{owner} has a credential already", hint="revoke it first"
                ) from conflict
            raise

    @contextmanager
    def changing(self, credential_id: CredentialId, version: int) -> Iterator[Change]:
        """Lock a record that is at ``version`` for one change, which is written when the ``with`` ends.

        Raises CredentialUnknown, and RecordConflict if the record is at another version: then the body is not
        entered. An error in the body passes, and nothing is written. Raises ValueError where the body wrote
        nothing.
        """
        with self._writing() as connection:
            change = Change(connection, credential_id, version)
            yield change
            change.refuse_unwritten()

    @contextmanager
    def appending(self, credential_id: CredentialId) -> Iterator[LockedChain]:
        """Lock a credential's chain for entries without a record, written when the ``with`` ends.

        Raises CredentialUnknown where there is no record (or strangers could fill the database). An error in
        the body passes, and nothing is written. Raises ValueError where the body wrote nothing, nor said so.
        """
        with self._writing() as connection:
            chain = LockedChain(connection, credential_id)
            yield chain
            chain.refuse_unwritten()

    @contextmanager
    def changing_installation(self, version: int) -> Iterator[InstallationChange]:
        """Lock the installation's own record at ``version`` for one change, written when the ``with`` ends.

        Raises RecordConflict if it is at another version.
        """
        with self._writing() as connection:
            yield InstallationChange(connection, version)

    def probe_write(self) -> None:
        """Begin a write and take it back, which changes nothing. Raises StoreReadOnly, StoreBusy."""
        with translated(self._url), self._writer.connect() as connection, connection.begin() as transaction:
            # No row has an id of no bytes; the database has to be ready to write all the same.
            connection.execute(DELETE, {"b_id": b"", "b_version": -1})
            transaction.rollback()

    def forget(self) -> None:
        """Have SQLite write its log back and cut it, so that what was deleted is in no file of it any more.

        As far as it goes: a reader that is open keeps the log until the next time. PostgreSQL has its own
        ways (VACUUM). Raises StoreError.
        """
        if is_sqlite(self._url):
            with translated(self._url), closing(self._engine.raw_connection()) as connection:
                # Straight to the driver: a checkpoint does nothing inside a transaction.
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

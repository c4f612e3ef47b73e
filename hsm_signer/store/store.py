"""The store: one transaction per operation, and a record is never written without its evidence.

What is written is built inside the transaction: the caller gets the end of the chain and returns the sealed
record and its entry, both made for exactly that place. Nobody else can write in between, and if anything
fails nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, delete, select, text
from sqlalchemy.engine import URL

from hsm_signer.core.canonical import entry_hash
from hsm_signer.errors import (
    CredentialExists,
    CredentialUnknown,
    EvidenceMissing,
    RecordConflict,
    StatusUnsuitable,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreTooOld,
)
from hsm_signer.evidence.chain import START, ChainPosition, Head
from hsm_signer.types import (
    ACCEPTED,
    U64,
    CredentialId,
    Digest,
    Event,
    EvidenceEntry,
    Ordinal,
    SealedRecord,
    Sha256,
    Status,
)

from . import schema
from .certificate_rows import CertificateRows
from .client_rows import ClientRows
from .columns import checked
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
    beside_from_row,
    beside_record_row,
    credential_id_of,
    entry_from_row,
    entry_row,
    record_row,
    sealed_from_row,
    who,
)
from .schema import certificate, credential
from .snapshot import Damaged, Snapshot
from .statements import (
    CARRIED_OUT,
    DELETE,
    INSERT_ENTRY,
    INSERT_RECORD,
    LAST,
    LOAD,
    LOCK,
    NEWEST_VERSION,
    RECORD,
    UPDATE,
    WRITER,
    raw,
)
from .versions import check_empty, check_revision, make_file, migrating

Written = tuple[SealedRecord, EvidenceEntry]


@dataclass(frozen=True, slots=True)
class Loaded:
    """One credential as it stood at one moment."""

    sealed: SealedRecord
    """Not believed yet: the token checks the MAC."""
    request: bytes | None
    """The DER CertificationRequestInfo; believed only under the record's ``request_hash``."""
    newest_version: int
    """The highest ``record_version`` in the evidence. Above the record's version: an old row was put back.
    Below: evidence was removed; 0 if there is none at all."""
    written_by: Digest | None
    """SHA-256 of the entry written with this version of the record, computed from its row; None if there is
    none. A record whose MAC holds names it in ``evidence_head``."""
    position: ChainPosition
    """The end of the chain, for information: it may move before anything is written."""


# --- the store ----------------------------------------------------------------------------------------------


class Store(Pages, ClientRows, CertificateRows):
    """Records and evidence in one database, and what the service keeps beside them. Usable by many
    threads and many processes at once.

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
        """Close every connection; the store cannot be used afterwards. Iterators must be done."""
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
        """Everything as it is now, for as long as the ``with`` lasts; writers are not held up."""
        with self._reading() as connection:
            without_timeouts(connection, self._url)
            yield Snapshot(connection, self._url)

    def load(self, credential_id: CredentialId) -> Loaded:
        """One credential with what its evidence says about its version.

        Raises CredentialUnknown; RecordDamaged where a field cannot be what it should, StoreDamaged where the
        evidence about it cannot.
        """
        with self._reading() as connection:
            row = connection.execute(LOAD, {"b_id": credential_id}).one_or_none()
            if row is None:
                raise _unknown(credential_id)
            sealed = sealed_from_row(row)
            version = sealed.record.version
            writer = connection.execute(WRITER, {"b_id": credential_id, "b_version": version}).one_or_none()
        written_by = None if writer is None else entry_hash(entry_from_row(writer))
        newest, sequence, digest = row[-3:]
        request = beside_from_row(row[-5:-3], sealed.record).request
        if sequence is None:
            return Loaded(sealed, request, 0, written_by, START)
        return Loaded(
            sealed,
            request,
            checked(U64, newest, f"a record version in the evidence of {who(credential_id)}"),
            written_by,
            _position_from(credential_id, sequence, digest),
        )

    def find(self, owner: str) -> list[SealedRecord]:
        """A user's records, newest first: at most one that is live, and the revoked ones before it.

        Raises RecordDamaged. No record is no error.
        """
        if unspeakable(owner):
            # Nobody has such a name, and PostgreSQL would not even let it be asked for.
            return []
        statement = (
            select(*RECORD)
            .where(credential.c.owner == owner)
            .order_by(credential.c.created.desc(), credential.c.credential_id)
        )
        with self._reading() as connection:
            rows = connection.execute(statement).all()
        return [sealed_from_row(row) for row in rows]

    def list_records(self, damaged: Damaged | None = None) -> Iterator[SealedRecord]:
        """Every record, ascending by credential id. Raises RecordDamaged, or tells ``damaged``."""
        with self.snapshot() as snapshot:
            yield from snapshot.records(damaged)

    def pending_before(self, created_before: int) -> list[CredentialId]:
        """Pending credentials made before this time (microseconds since 1970-01-01T00:00:00Z)."""
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

    def carried_out(
        self, credential_id: CredentialId, d: Digest, quantities_hash: Digest
    ) -> EvidenceEntry | None:
        """The entry of an equal request that got as far as SK, accepted or a wrong key; None if none did.

        ``d``: D, ``quantities_hash``: SHA-256(Q_1 || ...), 32 bytes each. The entry is what the row says,
        believed by nobody yet: the caller verifies its signatures before it releases them again. Raises
        StoreDamaged.
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
        """Entries with the store's number of each: all in the order of writing, or one chain in its order.

        ``limit``: only the newest so many. Raises StoreDamaged, or tells ``damaged``.
        """
        with self.snapshot() as snapshot:
            yield from snapshot.entries(credential_id, limit=limit, damaged=damaged)

    def heads(self, upto: int | None = None) -> Iterator[Head]:
        """The last entry of every chain, ascending by credential id, counting entries up to number ``upto``.

        With :meth:`last_entry` as ``upto`` it is the same at any later time. Raises StoreDamaged.
        """
        with self.snapshot() as snapshot:
            yield from snapshot.heads(upto)

    # --- writing ---

    def insert(
        self, build: Callable[[ChainPosition], Written], request: bytes | None, created: int
    ) -> EvidenceEntry:
        """Write a new credential and the first entry of its chain.

        ``request``: the DER CertificationRequestInfo; ``created``: microseconds since 1970-01-01T00:00:00Z.
        Raises CredentialExists if the user has one that is not revoked, RecordConflict if the credential id
        is taken, and ValueError if ``build`` returns what does not belong together.
        """
        owner = ""
        try:
            with self._writing() as connection:
                sealed, entry = build(START)
                _check_written(sealed, entry, START, 1)
                owner = sealed.record.owner
                row = {**record_row(sealed), **beside_record_row(request, created)}
                connection.execute(INSERT_RECORD, row)
                connection.execute(INSERT_ENTRY, entry_row(entry))
        except RecordConflict as conflict:
            if any(sealed.record.status is not Status.REVOKED for sealed in self.find(owner)):
                raise CredentialExists(
                    f"{owner} has a credential already", hint="revoke it first"
                ) from conflict
            raise
        return entry

    def commit(
        self, credential_id: CredentialId, expected_version: int, build: Callable[[ChainPosition], Written]
    ) -> EvidenceEntry:
        """Write the next version of a record and the entry that says why, in one transaction.

        Raises CredentialUnknown; RecordConflict if the version is not ``expected_version`` any more: then
        ``build`` was not called and nothing was written; whatever ``build`` raises, with nothing written;
        ValueError if it returns what does not belong together.
        """
        with self._writing() as connection:
            self._lock(connection, credential_id, expected_version)
            position = self._position(connection, credential_id)
            sealed, entry = build(position)
            _check_written(sealed, entry, position, expected_version + 1, credential_id)
            row = record_row(sealed)
            del row["credential_id"]
            done = connection.execute(
                UPDATE, {**row, "b_id": credential_id, "b_version": expected_version}
            ).rowcount
            if done != 1:
                raise _conflict(credential_id)
            connection.execute(INSERT_ENTRY, entry_row(entry))
        return entry

    def append(
        self, credential_id: CredentialId, build: Callable[[ChainPosition], EvidenceEntry]
    ) -> EvidenceEntry:
        """Write an entry alone: an attempt that was refused and changes no record.

        Raises CredentialUnknown where there is no record (or strangers could fill the database),
        EvidenceMissing if the entry names a record version that no evidence wrote, and ValueError for an
        entry that is accepted or does not belong there.
        """
        with self._writing() as connection:
            self._lock(connection, credential_id)
            position = self._position(connection, credential_id)
            entry = build(position)
            _check_entry(entry, position, credential_id)
            newest = connection.execute(NEWEST_VERSION, {"b_id": credential_id}).scalar_one()
            known = checked(U64, newest or 0, f"a record version in the evidence of {who(credential_id)}")
            if entry.outcome == ACCEPTED:
                raise ValueError("an entry without a record is a refusal")
            if entry.record_version > known:
                # Written down, it would pass for the missing one that wrote that version.
                raise EvidenceMissing(f"evidence about the {who(credential_id)} is missing")
            connection.execute(INSERT_ENTRY, entry_row(entry))
        return entry

    def expire(
        self,
        credential_id: CredentialId,
        expected_version: int,
        build: Callable[[ChainPosition], EvidenceEntry],
    ) -> EvidenceEntry:
        """Give up a pending credential: its record is deleted, its chain ends with an accepted EXPIRE.

        The entry has ``record_version = expected_version + 1``, so that the row is outdated if put back.
        Raises CredentialUnknown, RecordConflict, StatusUnsuitable if it is not pending, ValueError if
        ``build`` returns another entry.
        """
        with self._writing() as connection:
            status = self._lock(connection, credential_id, expected_version)
            if status != Status.PENDING.number:
                raise StatusUnsuitable("only a credential whose enrolment was not finished can be given up")
            position = self._position(connection, credential_id)
            entry = build(position)
            _check_entry(entry, position, credential_id)
            if (entry.event, entry.outcome, entry.record_version) != (
                Event.EXPIRE,
                ACCEPTED,
                expected_version + 1,
            ):
                raise ValueError("a credential's last entry is an accepted EXPIRE with the next version")
            own = {"b_id": credential_id, "b_version": expected_version}
            done = connection.execute(DELETE, own).rowcount
            if done != 1:
                raise _conflict(credential_id)
            connection.execute(delete(certificate).where(certificate.c.credential_id == credential_id))
            connection.execute(INSERT_ENTRY, entry_row(entry))
        return entry

    def probe_write(self) -> None:
        """Begin a write and take it back: raises StoreReadOnly, StoreBusy; changes nothing."""
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

    # --- inside a transaction ---

    def _lock(
        self, connection: Connection, credential_id: CredentialId, expected_version: int | None = None
    ) -> Any:
        """Keep the row from other writers until the end; returns its status as the column holds it."""
        row = connection.execute(LOCK, {"b_id": credential_id}).one_or_none()
        if row is None:
            raise _unknown(credential_id)
        version, status = row
        if expected_version is not None and version != expected_version:
            raise _conflict(credential_id)
        return status

    def _position(self, connection: Connection, credential_id: CredentialId) -> ChainPosition:
        row = connection.execute(LAST, {"b_id": credential_id}).one_or_none()
        return START if row is None else _position_from(credential_id, *row)


def _position_from(credential_id: CredentialId, sequence: Any, digest: Any) -> ChainPosition:
    name = f"the end of the evidence of {who(credential_id)}"
    return ChainPosition(checked(Ordinal, sequence, name), checked(Sha256, digest, name))


def _check_entry(entry: EvidenceEntry, position: ChainPosition, credential_id: CredentialId) -> None:
    """Raises ValueError: a mistake of the caller that would leave a chain no audit accepts."""
    if entry.credential_id != credential_id:
        raise ValueError("the entry belongs to another credential")
    if (entry.sequence, entry.previous) != (position.sequence + 1, position.hash):
        raise ValueError("the entry does not follow the end of the chain")


def _check_written(
    sealed: SealedRecord,
    entry: EvidenceEntry,
    position: ChainPosition,
    version: int,
    credential_id: CredentialId | None = None,
) -> None:
    """Raises ValueError: a mistake of the caller that would leave a record its evidence contradicts."""
    record = sealed.record
    _check_entry(entry, position, record.credential_id)
    if credential_id is not None and record.credential_id != credential_id:
        raise ValueError("the record belongs to another credential")
    if not record.version == entry.record_version == version:
        raise ValueError(f"record and entry have to be of version {version}")
    if record.evidence_head != entry_hash(entry):
        raise ValueError("the record does not name the entry written with it")


def _unknown(credential_id: CredentialId) -> CredentialUnknown:
    return CredentialUnknown(f"there is no {who(credential_id)} here")


def _conflict(credential_id: CredentialId) -> RecordConflict:
    return RecordConflict(
        f"the record of {who(credential_id)} was written by somebody else in between; nothing was changed",
        hint="try again",
    )

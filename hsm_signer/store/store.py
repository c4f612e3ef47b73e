"""The store: one transaction per operation, and a record is never written without its evidence.

What is written is built inside the transaction: the caller gets the end of the chain and returns the sealed
record and its entry, both made for exactly that place. Nobody else can write in between, and if anything
fails nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    and_,
    bindparam,
    column,
    delete,
    exc,
    func,
    insert,
    inspect,
    select,
    table,
    text,
    type_coerce,
    update,
)
from sqlalchemy.engine import URL
from sqlalchemy.types import NullType

from ..encoding import entry_hash
from ..errors import (
    CredentialExists,
    CredentialUnknown,
    EvidenceMissing,
    RecordConflict,
    RecordDamaged,
    StatusUnsuitable,
    StoreDamaged,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreTooNew,
    StoreTooOld,
    WrongKey,
)
from ..evidence.chain import START, ChainPosition, Head
from ..evidence.findings import ENTRY_DAMAGED, RECORD_DAMAGED, Finding
from ..types import ACCEPTED, CredentialId, Digest, Event, EvidenceEntry, SealedRecord, Status
from . import schema
from .database import (
    BEGIN,
    MISSING_HINT,
    READ_ONLY_HINT,
    is_sqlite,
    is_unique_violation,
    make_engine,
    name_of,
    parse_url,
    path_of,
    translated,
)
from .rows import (
    ENTRY_COLUMNS,
    RECORD_COLUMNS,
    beside_record,
    beside_record_row,
    checked_hash,
    checked_integer,
    credential_id_of,
    entry_from_row,
    entry_row,
    record_row,
    sealed_from_row,
    who,
)
from .schema import credential, evidence

Damaged = Callable[[Finding], None]
"""Called for a row that cannot be understood, in place of an error, by readers that go on to the next row."""
Written = tuple[SealedRecord, EvidenceEntry]
Row = Sequence[Any]
_T = TypeVar("_T")

_BATCH = 100
"""Rows fetched at a time; what is in memory does not grow with the tables."""


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


# --- statements, built once ---------------------------------------------------------------------------------


def _raw(source: Table, names: Sequence[str]) -> list[Any]:
    """Columns as the driver gives them. SQLAlchemy would turn a text in a bytes column into a TypeError and
    the number 10**9 in it into a gigabyte of zeros; rows.py checks them instead."""
    return [type_coerce(source.c[name], NullType()).label(name) for name in names]


_ID = bindparam("b_id", type_=credential.c.credential_id.type)
_VERSION = bindparam("b_version", type_=credential.c.version.type)
_OWN = evidence.c.credential_id == _ID
_RECORD = _raw(credential, (*RECORD_COLUMNS, "mac"))
_ENTRY = _raw(evidence, ENTRY_COLUMNS)
_LAST = (
    select(*_raw(evidence, ("sequence", "hash"))).where(_OWN).order_by(evidence.c.sequence.desc()).limit(1)
)
_NEWEST = select(type_coerce(func.max(evidence.c.record_version), NullType())).where(_OWN)
# One statement sees one moment, on both databases.
_LOAD = select(
    *_RECORD,
    *_raw(credential, ("request", "created")),
    _NEWEST.scalar_subquery(),
    *(
        select(type_coerce(end, NullType()))
        .where(_OWN)
        .order_by(evidence.c.sequence.desc())
        .limit(1)
        .scalar_subquery()
        for end in (evidence.c.sequence, evidence.c.hash)
    ),
).where(credential.c.credential_id == _ID)
# Refusals that came later have the same version: the first entry is the one that wrote it.
_WRITER = (
    select(*_ENTRY).where(_OWN, evidence.c.record_version == _VERSION).order_by(evidence.c.sequence).limit(1)
)
# The row's lock is PostgreSQL's; on SQLite BEGIN IMMEDIATE has locked everything already.
_LOCK = (
    select(*_raw(credential, ("version", "status")))
    .where(credential.c.credential_id == _ID)
    .with_for_update()
)
_CARRIED_OUT = (
    select(*_ENTRY)
    .where(
        _OWN,
        evidence.c.d == bindparam("b_d"),
        evidence.c.quantities_hash == bindparam("b_quantities"),
        evidence.c.outcome.in_((ACCEPTED, WrongKey.code)),
    )
    .order_by(evidence.c.sequence)
    .limit(1)
)
_UPDATE = update(credential).where(credential.c.credential_id == _ID, credential.c.version == _VERSION)
_DELETE = delete(credential).where(credential.c.credential_id == _ID, credential.c.version == _VERSION)
_REVISION = select(type_coerce(column("version_num"), NullType())).select_from(table(schema.VERSION_TABLE))
_INSERT_RECORD = insert(credential)
_INSERT_ENTRY = insert(evidence)


# --- reading ------------------------------------------------------------------------------------------------


class Snapshot:
    """Records and evidence as they stood at one moment, however long the reading takes."""

    def __init__(self, connection: Connection, url: URL) -> None:
        self._connection = connection
        self._url = url

    def records(self, damaged: Damaged | None = None) -> Iterator[SealedRecord]:
        """Every record, ascending by credential id. Raises RecordDamaged, or tells ``damaged``."""
        statement = select(*_RECORD).order_by(credential.c.credential_id)
        return self._read(statement, sealed_from_row, damaged, RECORD_DAMAGED)

    def chains(self, damaged: Damaged | None = None) -> Iterator[EvidenceEntry]:
        """Every entry, ascending by credential id and sequence. Raises StoreDamaged, or tells ``damaged``."""
        statement = select(*_ENTRY).order_by(evidence.c.credential_id, evidence.c.sequence)
        return self._read(statement, entry_from_row, damaged, ENTRY_DAMAGED)

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
        order = evidence.c.id if credential_id is None else evidence.c.sequence
        statement = select(*_ENTRY, evidence.c.id).order_by(order)
        if credential_id is not None:
            statement = statement.where(evidence.c.credential_id == credential_id)
        if limit is not None:
            newest = select(evidence.c.id).order_by(order.desc()).limit(limit)
            if credential_id is not None:
                newest = newest.where(evidence.c.credential_id == credential_id)
            statement = statement.where(evidence.c.id.in_(newest.scalar_subquery()))

        def numbered(row: Row) -> tuple[int, EvidenceEntry]:
            return int(row[-1]), entry_from_row(row)

        return self._read(statement, numbered, damaged, ENTRY_DAMAGED)

    def heads(self, upto: int | None = None) -> Iterator[Head]:
        """The last entry of every chain, ascending by credential id, counting entries up to number ``upto``.

        The hash is computed from the entry, not taken from its column: an anchor must not vouch for a hash
        nobody computed. Raises StoreDamaged.
        """
        newest = select(evidence.c.credential_id, func.max(evidence.c.sequence).label("sequence"))
        if upto is not None:
            newest = newest.where(evidence.c.id <= upto)
        last = newest.group_by(evidence.c.credential_id).subquery()
        statement = (
            select(*_ENTRY)
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
            entry = entry_from_row(row)
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
    names = RECORD_COLUMNS if code == RECORD_DAMAGED else ENTRY_COLUMNS
    found = dict(zip(names, row, strict=False))
    owner, sequence = found.get("owner"), found.get("sequence")
    return Finding(
        code,
        error.message,
        credential_id=credential_id_of(found["credential_id"]),
        owner=owner if isinstance(owner, str) else None,
        sequence=sequence if isinstance(sequence, int) else None,
    )


# --- the store ----------------------------------------------------------------------------------------------


class Store:
    """Records and evidence in one database. Usable by many threads and many processes at once.

    Every method raises StoreBusy, StoreReadOnly (writing only), StoreDamaged or StoreError as the database
    gives reason to, beside what it names itself.
    """

    def __init__(self, engine: Engine, url: URL) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self._engine = engine
        self._url = url
        self._writer = engine.execution_options(**{BEGIN: "BEGIN IMMEDIATE"})
        self._reader = (
            engine
            if is_sqlite(url)
            # Several statements, one moment; SQLite's readers have that without asking.
            else engine.execution_options(isolation_level="REPEATABLE READ")
        )

    # --- opening and closing ---

    @classmethod
    def create(cls, url: str, *, busy_timeout: float = 5.0) -> Self:
        """Make an empty store and open it; a SQLite file gets mode 0600.

        Raises ConfigError for a URL that cannot be used, StoreError if there is something already,
        StoreReadOnly if nothing can be written there.
        """
        parsed = parse_url(url)
        made = is_sqlite(parsed) and _make_file(path_of(parsed))
        try:
            with _migrating(parsed, busy_timeout) as (connection, migrate):
                _check_empty(connection, parsed)
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
        return cls.open(url, busy_timeout=busy_timeout)

    @classmethod
    def open(cls, url: str, *, busy_timeout: float = 5.0) -> Self:
        """Open a store; nothing is made or changed. ``busy_timeout`` in seconds: how long to wait for a lock.

        A SQLite file in a folder closed to writing can be read. Raises ConfigError for a URL that cannot be
        used, StoreMissing, StoreTooOld (see :meth:`upgrade`), StoreTooNew, StoreDamaged.
        """
        parsed = parse_url(url)
        if not is_sqlite(parsed):
            return cls._opened(make_engine(parsed, busy_timeout=busy_timeout), parsed)
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
                _check_revision(connection, url)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, url)

    @classmethod
    def upgrade(cls, url: str, *, busy_timeout: float = 5.0) -> None:
        """Bring a store of an older version up to this one, in one transaction; nothing to do is no error.

        Raises as :meth:`open` does, but for StoreTooOld.
        """
        parsed = parse_url(url)
        if is_sqlite(parsed) and not path_of(parsed).is_file():
            raise StoreMissing(f"there is no database at {path_of(parsed)}", hint=MISSING_HINT)
        with _migrating(parsed, busy_timeout) as (connection, migrate):
            try:
                _check_revision(connection, parsed)
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
        with translated(self._url), self._reader.begin() as connection:
            yield Snapshot(connection, self._url)

    def load(self, credential_id: CredentialId) -> Loaded:
        """One credential with what its evidence says about its version.

        Raises CredentialUnknown; RecordDamaged where a field cannot be what it should, StoreDamaged where the
        evidence about it cannot.
        """
        with translated(self._url), self._reader.begin() as connection:
            row = connection.execute(_LOAD, {"b_id": credential_id}).one_or_none()
            if row is None:
                raise _unknown(credential_id)
            sealed = sealed_from_row(row)
            version = sealed.record.version
            writer = connection.execute(_WRITER, {"b_id": credential_id, "b_version": version}).one_or_none()
        written_by = None if writer is None else entry_hash(entry_from_row(writer))
        request, created, newest, sequence, digest = row[-5:]
        request = beside_record("request", request, sealed)
        beside_record("created", created, sealed)
        if sequence is None:
            return Loaded(sealed, request, 0, written_by, START)
        return Loaded(
            sealed,
            request,
            checked_integer(newest, f"a record version in the evidence of {who(credential_id)}"),
            written_by,
            _position_from(credential_id, sequence, digest),
        )

    def find(self, owner: str) -> list[SealedRecord]:
        """A user's records, newest first: at most one that is live, and the revoked ones before it.

        Raises RecordDamaged. No record is no error.
        """
        if _unspeakable(owner):
            # Nobody has such a name, and PostgreSQL would not even let it be asked for.
            return []
        statement = (
            select(*_RECORD)
            .where(credential.c.owner == owner)
            .order_by(credential.c.created.desc(), credential.c.credential_id)
        )
        with translated(self._url), self._reader.begin() as connection:
            rows = connection.execute(statement).all()
        return [sealed_from_row(row) for row in rows]

    def list_records(self, damaged: Damaged | None = None) -> Iterator[SealedRecord]:
        """Every record, ascending by credential id. Raises RecordDamaged, or tells ``damaged``."""
        with self.snapshot() as snapshot:
            yield from snapshot.records(damaged)

    def pending_before(self, created_before: int) -> list[CredentialId]:
        """Pending credentials made before this time (microseconds since 1970-01-01T00:00:00Z)."""
        statement = (
            select(*_raw(credential, ("credential_id",)))
            # Written out, not bound: only so does SQLite use the index over pending ones.
            .where(text(f"status = {Status.PENDING.value}"), credential.c.created < created_before)
            .order_by(credential.c.created)
        )
        with translated(self._url), self._reader.begin() as connection:
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
        with translated(self._url), self._reader.begin() as connection:
            row = connection.execute(_CARRIED_OUT, asked).one_or_none()
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

    def last_entry(self) -> int:
        """The store's number of the newest entry, 0 if there is none: no lower one can appear any more."""
        with translated(self._url), self._engine.begin() as connection:
            if not is_sqlite(self._url):
                # PostgreSQL gives numbers out before the commit: wait for those that were given out.
                connection.execute(text(f"LOCK TABLE {evidence.name} IN SHARE MODE"))
            return checked_integer(
                connection.execute(select(func.coalesce(func.max(evidence.c.id), 0))).scalar_one(),
                "the number of an entry",
            )

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
                connection.execute(_INSERT_RECORD, row)
                connection.execute(_INSERT_ENTRY, entry_row(entry))
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
                _UPDATE, {**row, "b_id": credential_id, "b_version": expected_version}
            ).rowcount
            if done != 1:
                raise _conflict(credential_id)
            connection.execute(_INSERT_ENTRY, entry_row(entry))
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
            newest = connection.execute(_NEWEST, {"b_id": credential_id}).scalar_one()
            known = checked_integer(newest or 0, f"a record version in the evidence of {who(credential_id)}")
            if entry.outcome == ACCEPTED:
                raise ValueError("an entry without a record is a refusal")
            if entry.record_version > known:
                # Written down, it would pass for the missing one that wrote that version.
                raise EvidenceMissing(f"evidence about the {who(credential_id)} is missing")
            connection.execute(_INSERT_ENTRY, entry_row(entry))
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
            if status != Status.PENDING:
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
            done = connection.execute(_DELETE, own).rowcount
            if done != 1:
                raise _conflict(credential_id)
            connection.execute(_INSERT_ENTRY, entry_row(entry))
        return entry

    def probe_write(self) -> None:
        """Begin a write and take it back: raises StoreReadOnly, StoreBusy; changes nothing."""
        with translated(self._url), self._writer.connect() as connection, connection.begin() as transaction:
            # No row has an id of no bytes; the database has to be ready to write all the same.
            connection.execute(_DELETE, {"b_id": b"", "b_version": -1})
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

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with translated(self._url):
            try:
                with self._writer.begin() as connection:
                    yield connection
            except exc.IntegrityError as error:
                if is_unique_violation(error):
                    raise RecordConflict(
                        "somebody else wrote the same record in between; nothing was changed",
                        hint="try again",
                    ) from error
                raise

    def _lock(
        self, connection: Connection, credential_id: CredentialId, expected_version: int | None = None
    ) -> Any:
        """Keep the row from other writers until the end; returns its status as the column holds it."""
        row = connection.execute(_LOCK, {"b_id": credential_id}).one_or_none()
        if row is None:
            raise _unknown(credential_id)
        version, status = row
        if expected_version is not None and version != expected_version:
            raise _conflict(credential_id)
        return status

    def _position(self, connection: Connection, credential_id: CredentialId) -> ChainPosition:
        row = connection.execute(_LAST, {"b_id": credential_id}).one_or_none()
        return START if row is None else _position_from(credential_id, *row)


def _position_from(credential_id: CredentialId, sequence: Any, digest: Any) -> ChainPosition:
    name = f"the end of the evidence of {who(credential_id)}"
    return ChainPosition(checked_integer(sequence, name, low=1), Digest(checked_hash(digest, name)))


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


def _unspeakable(owner: str) -> bool:
    return "\0" in owner or any("\ud800" <= character <= "\udfff" for character in owner)


def _unknown(credential_id: CredentialId) -> CredentialUnknown:
    return CredentialUnknown(f"there is no {who(credential_id)} here")


def _conflict(credential_id: CredentialId) -> RecordConflict:
    return RecordConflict(
        f"the record of {who(credential_id)} was written by somebody else in between; nothing was changed",
        hint="try again",
    )


# --- schema versions ----------------------------------------------------------------------------------------


def _check_empty(connection: Connection, url: URL) -> None:
    if inspect(connection).get_table_names():
        raise StoreError(f"there is a database at {name_of(url)} already; it was left alone")


def _check_revision(connection: Connection, url: URL) -> None:
    """Raises StoreMissing, StoreTooOld, StoreTooNew, StoreDamaged where the schema is not this version's."""
    name = name_of(url)
    if not inspect(connection).has_table(schema.VERSION_TABLE):
        raise StoreMissing(f"the database {name} holds no store", hint=MISSING_HINT)
    found: list[Any] = list(connection.execute(_REVISION).scalars())
    if found == [schema.HEAD]:
        return
    if len(found) > 1 or not all(isinstance(revision, str) for revision in found):
        raise StoreDamaged(f"the database {name} does not say which version it has")
    if not found or found[0] in schema.REVISIONS:
        raise StoreTooOld(
            f"the store {name} was written by an older version", hint="hsm-signer store upgrade brings it on"
        )
    raise StoreTooNew(
        f"the store {name} was written by a newer version of this program", hint="install that version"
    )


@contextmanager
def _migrating(url: URL, busy_timeout: float) -> Iterator[tuple[Connection, Callable[[], None]]]:
    """A connection in one writing transaction, and what brings its schema up to date."""
    engine = make_engine(url, busy_timeout=busy_timeout)
    try:
        with translated(url), engine.execution_options(**{BEGIN: "BEGIN IMMEDIATE"}).begin() as connection:
            yield connection, lambda: _migrate(connection)
    finally:
        engine.dispose()


def _migrate(connection: Connection) -> None:
    # Here and not above: Alembic takes longer to import than a signature takes to make.
    from alembic import command
    from alembic.config import Config

    config = Config()
    # The configuration knows "%" as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _make_file(path: Path) -> bool:
    """An empty file that only its owner reads; False if there is one already."""
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        if not path.is_file():
            raise StoreError(f"{path} is no file, so it cannot become a database") from None
        return False
    except FileNotFoundError as error:
        raise StoreError(f"the folder {path.parent} does not exist") from error
    except OSError as error:
        raise StoreReadOnly(f"{path} cannot be made: {error.strerror}", hint=READ_ONLY_HINT) from error
    return True

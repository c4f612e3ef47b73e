"""What a writing transaction does to one credential: its row stays locked and its chain ends where it ended.

Nobody else can write in between, so that record and entry are made for exactly that place.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert

from hsm_signer.core.chain_position import START, ChainPosition
from hsm_signer.errors import CredentialUnknown, EvidenceMissing, RecordConflict, StatusUnsuitable
from hsm_signer.types import (
    ACCEPTED,
    INSTALLATION_CHAIN,
    U64,
    CredentialId,
    Event,
    EvidenceEntry,
    Mac,
    Ordinal,
    SealedEntry,
    SealedInstallation,
    SealedRecord,
    Sha256,
    Status,
)

from .columns import checked
from .rows import CHAIN, ChainColumn, entry_row, installation_row, record_row, who
from .schema import certificate
from .statements import (
    COUNT_REFUSAL,
    DELETE,
    INSERT_ENTRY,
    LAST,
    LOCK,
    LOCK_INSTALLATION,
    NEWEST_VERSION,
    REFUSAL_TIMES,
    UPDATE,
    UPDATE_INSTALLATION,
)

MAX_COUNTED = 2**63 - 1
"""The largest integer that every database holds."""


class LockedChain:
    """A credential's chain to which entries are added; :meth:`Store.appending` makes it."""

    def __init__(self, connection: Connection, credential_id: CredentialId) -> None:
        """Lock the credential. Raises CredentialUnknown, StoreDamaged where the chain's end is damaged."""
        self._connection = connection
        self._credential_id = credential_id
        row = connection.execute(LOCK, {"b_id": credential_id}).one_or_none()
        if row is None:
            raise unknown(credential_id)
        # As the columns hold them: a refusal is written down whatever they hold.
        self._found_version, self._status, counted = row
        self.counted: int = counted if isinstance(counted, int) and counted > 0 else 0
        """Refusals that were counted and have no entry yet."""
        last = connection.execute(LAST, {"b_id": credential_id}).one_or_none()
        self.position = START if last is None else position_from(credential_id, *last)
        """Where the chain ends, as its row says: believed by nobody before the token has checked its MAC."""
        self._settled = False

    def append(self, sealed: SealedEntry) -> None:
        """Write an entry alone: an attempt that was refused and changes no record, or all that were counted.

        Raises EvidenceMissing if the entry names a record version that no evidence wrote; ValueError for an
        entry that is accepted, does not belong here, or says another number than was counted.
        """
        entry = sealed.entry
        check_place(entry, self.position, self._credential_id)
        if entry.outcome == ACCEPTED:
            raise ValueError("an entry without a record is a refusal")
        if entry.event is Event.REFUSALS:
            if entry.x != self.counted or not self.counted:
                raise ValueError(f"{self.counted} refusals were counted, the entry says {entry.x}")
            self._count(0)
        newest = self._connection.execute(NEWEST_VERSION, {"b_id": self._credential_id}).scalar_one()
        name = f"a record version in the evidence of {who(self._credential_id)}"
        if entry.record_version > newest_version(newest, name):
            # Written down, it would pass for the missing one that wrote that version.
            raise EvidenceMissing(f"evidence about the {who(self._credential_id)} is missing")
        row = entry_row(sealed)
        self._insert(row)
        if entry.event is Event.REFUSALS:
            # It comes before another: that one has to follow it.
            self.position = ChainPosition(entry.sequence, row["hash"], entry.previous, sealed.mac)

    def refusal_times(self, limit: int) -> list[int]:
        """Read when the newest refusals were written, at most ``limit``, newest first.

        Microseconds since 1970-01-01T00:00:00Z. Wrong keys that were counted in the record are none of them;
        an entry about several refusals is one. Raises StoreDamaged.
        """
        asked = {"b_id": self._credential_id, "b_limit": limit}
        times = self._connection.execute(REFUSAL_TIMES, asked).scalars()
        name = f"the time of an entry of {who(self._credential_id)}"
        return [checked(U64, time, name) for time in times]

    def count_refusal(self) -> None:
        """Count a refusal instead of writing it: an entry of event refusals tells the number later."""
        self._count(min(self.counted + 1, MAX_COUNTED))

    def leave(self) -> None:
        """Write nothing, and mean it."""
        self._settled = True

    def refuse_unwritten(self) -> None:
        """Raise ValueError where nothing was written: its caller would go on as if it were."""
        if not self._settled:
            raise ValueError("nothing was written")

    def _count(self, number: int) -> None:
        self._connection.execute(COUNT_REFUSAL, {"b_id": self._credential_id, "b_counted": number})
        self.counted = number
        self._settled = True

    def _insert(self, row: dict[str, Any]) -> None:
        self._connection.execute(INSERT_ENTRY, row)
        self._settled = True


class Change(LockedChain):
    """A record to which one change is made, with the entry that says why; :meth:`Store.changing` makes it."""

    def __init__(self, connection: Connection, credential_id: CredentialId, version: int) -> None:
        """Lock the credential at ``version``. Raises as LockedChain does, RecordConflict at another one."""
        super().__init__(connection, credential_id)
        if self._found_version != version:
            raise conflict(credential_id)
        self._version = version

    def write(self, sealed: SealedRecord, entry: SealedEntry) -> None:
        """Write the record's next version and its entry. Raises ValueError unless they belong together."""
        if sealed.record.credential_id != self._credential_id:
            raise ValueError("the record belongs to another credential")
        row, entry_columns = rows_of(sealed, entry, self.position, self._version + 1)
        del row["credential_id"]
        self._execute_on_record(UPDATE, row)
        self._insert(entry_columns)

    def keep(self, chain: tuple[bytes, ...]) -> None:
        """Keep certificates, DER, leaf first, in place of what is kept; empty removes them.

        Raises StoreError for what cannot be stored.
        """
        row = CHAIN.row(ChainColumn(chain), "certificate chain")
        own = certificate.c.credential_id == self._credential_id
        self._connection.execute(delete(certificate).where(own))
        if chain:
            self._connection.execute(insert(certificate), {**row, "credential_id": self._credential_id})

    def expire(self, sealed: SealedEntry) -> None:
        """Delete the record of a pending credential; ``sealed`` ends its chain: an accepted EXPIRE.

        The entry's ``record_version`` is one above the record's, so that the row is outdated if put back.
        Raises StatusUnsuitable if the credential is not pending, ValueError for another entry.
        """
        if self._status != Status.PENDING.number:
            raise StatusUnsuitable("only a credential whose enrolment was not finished can be given up")
        entry = sealed.entry
        check_place(entry, self.position, self._credential_id)
        if (entry.event, entry.outcome, entry.record_version) != (Event.EXPIRE, ACCEPTED, self._version + 1):
            raise ValueError("a credential's last entry is an accepted EXPIRE with the next version")
        self._execute_on_record(DELETE, {})
        own = certificate.c.credential_id == self._credential_id
        self._connection.execute(delete(certificate).where(own))
        self._insert(entry_row(sealed))

    def _execute_on_record(self, statement: Any, columns: dict[str, Any]) -> None:
        own = {"b_id": self._credential_id, "b_version": self._version}
        if self._connection.execute(statement, {**columns, **own}).rowcount != 1:
            raise conflict(self._credential_id)


class InstallationChange:
    """The installation's own record, to which one change is made; :meth:`Store.changing_installation`."""

    def __init__(self, connection: Connection, version: int) -> None:
        """Lock the row at ``version``. Raises RecordConflict at another one."""
        self._connection = connection
        self._version = version
        if connection.execute(LOCK_INSTALLATION).scalars().all() != [version]:
            raise RecordConflict("the installation's record was written by somebody else", hint="try again")
        last = connection.execute(LAST, {"b_id": INSTALLATION_CHAIN}).one_or_none()
        self.position = START if last is None else position_from(INSTALLATION_CHAIN, *last)
        """Where the chain ends, as its row says: believed by nobody before the token has checked its MAC."""

    def write(self, sealed: SealedInstallation, entry: SealedEntry) -> None:
        """Write the record's next version and its entry. Raises ValueError unless they belong together."""
        check_place(entry.entry, self.position, INSTALLATION_CHAIN)
        columns = entry_row(entry)
        record = sealed.record
        if not record.version == entry.entry.record_version == self._version + 1:
            raise ValueError("record and entry have to be of the next version")
        if record.evidence_head != columns["hash"]:
            raise ValueError("the record does not name the entry written with it")
        own = {"b_version": self._version}
        self._connection.execute(UPDATE_INSTALLATION, {**installation_row(sealed), **own})
        self._connection.execute(INSERT_ENTRY, columns)


def check_place(entry: EvidenceEntry, position: ChainPosition, credential_id: CredentialId) -> None:
    """Raise ValueError for an entry that would leave a chain no audit accepts: a mistake of the caller."""
    if entry.credential_id != credential_id:
        raise ValueError("the entry belongs to another credential")
    if (entry.sequence, entry.previous) != (position.sequence + 1, position.hash):
        raise ValueError("the entry does not follow the end of the chain")


def rows_of(
    sealed: SealedRecord, sealed_entry: SealedEntry, position: ChainPosition, version: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Turn a record and the entry written with it into their rows.

    Raises ValueError for a record that its evidence would contradict: a mistake of the caller; StoreError for
    what a column cannot hold.
    """
    record, entry = sealed.record, sealed_entry.entry
    check_place(entry, position, record.credential_id)
    if not record.version == entry.record_version == version:
        raise ValueError(f"record and entry have to be of version {version}")
    entry_columns = entry_row(sealed_entry)
    if record.evidence_head != entry_columns["hash"]:
        raise ValueError("the record does not name the entry written with it")
    return record_row(sealed), entry_columns


def newest_version(column: Any, name: str) -> int:
    """Read the highest record version of a chain; 0 of one without entries. Raises StoreDamaged."""
    return 0 if column is None else checked(U64, column, name)


def position_from(chain: CredentialId, sequence: Any, digest: Any, previous: Any, mac: Any) -> ChainPosition:
    """Read the end of a chain out of its columns. Raises StoreDamaged."""
    name = f"the end of the evidence of {who(chain)}"
    return ChainPosition(
        checked(Ordinal, sequence, name),
        checked(Sha256, digest, name),
        checked(Sha256, previous, name),
        checked(Mac | None, mac, name),
    )


def unknown(credential_id: CredentialId) -> CredentialUnknown:
    """There is no such record."""
    return CredentialUnknown(f"there is no {who(credential_id)} here")


def conflict(credential_id: CredentialId) -> RecordConflict:
    """There is one, at another version than expected."""
    return RecordConflict(
        f"the record of {who(credential_id)} was written by somebody else in between; nothing was changed",
        hint="try again",
    )

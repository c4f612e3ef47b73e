"""Changes of a credential's status by operators: suspend, resume, unlock, revoke.

docs/understand/protocol.md, section 8.

Each is one write of the record with one evidence entry, and none needs the card.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from hsm_signer.errors import NotPermitted, StatusUnsuitable, StoreError
from hsm_signer.types import (
    FAILURES_BEFORE_LOCK,
    CredentialId,
    CredentialRecord,
    Event,
    SealedEntry,
    Status,
    SuspendedBy,
)

from .base import ServerBase


def suspend(record: CredentialRecord) -> CredentialRecord:
    """Make an active or locked credential suspended. Raises StatusUnsuitable."""
    if record.status not in (Status.ACTIVE, Status.LOCKED):
        raise _unsuitable(record, "suspended")
    return replace(record, status=Status.SUSPENDED)


def resume(record: CredentialRecord) -> CredentialRecord:
    """Make a suspended credential active; a lock that was there before stays. Raises StatusUnsuitable."""
    if record.status is not Status.SUSPENDED:
        raise _unsuitable(record, "resumed")
    locked = record.failures >= FAILURES_BEFORE_LOCK
    status = Status.LOCKED if locked else Status.ACTIVE
    return replace(record, status=status, suspended_by=SuspendedBy.NOBODY)


def unlock(record: CredentialRecord) -> CredentialRecord:
    """Make a locked credential active, with no failures counted. Raises StatusUnsuitable."""
    locked = record.status is Status.LOCKED or record.failures >= FAILURES_BEFORE_LOCK
    if record.status in (Status.REVOKED, Status.SUSPENDED) or not locked:
        raise _unsuitable(record, "unlocked")
    status = Status.ACTIVE if record.status is Status.LOCKED else record.status
    return replace(record, status=status, failures=0)


def revoke(record: CredentialRecord) -> CredentialRecord:
    """Revoke a credential, whatever it is: wrap(SK), KW_MK(KCAR) and KW_MK(S) are deleted, PK stays.

    Final for this database. An old copy of the row opens again wherever MK still is; with MK destroyed, too,
    not even together with the card, if the copy is of sealing 2. One of sealing 1 opens for whoever has the
    card's memory and the PIN, without any token (docs/understand/protocol.md, section 8). Raises
    StatusUnsuitable.
    """
    if record.status is Status.REVOKED:
        raise _unsuitable(record, "revoked")
    return replace(record, status=Status.REVOKED, wrapped_sk=None, wrapped_kcar=None, wrapped_seal=None)


CHANGES: dict[Event, Callable[[CredentialRecord], CredentialRecord]] = {
    Event.SUSPEND: suspend,
    Event.RESUME: resume,
    Event.UNLOCK: unlock,
    Event.REVOKE: revoke,
}


def changed_by(record: CredentialRecord, event: Event, by: SuspendedBy) -> CredentialRecord:
    """Make the record as one of :data:`CHANGES`, asked for by ``by``, leaves it.

    Raises NotPermitted, StatusUnsuitable.
    """
    changed = CHANGES[event](record)
    if event is Event.SUSPEND:
        return replace(changed, suspended_by=by)
    if (event, record.suspended_by, by) == (Event.RESUME, SuspendedBy.ADMIN, SuspendedBy.REGISTRAR):
        raise NotPermitted(
            f"the credential of {record.owner!r} was suspended by an administrator",
            hint="an administrator can resume it",
        )
    return changed


class StatusChanges(ServerBase):
    """The part of the server that changes what credentials may do."""

    def change_status(
        self, credential_id: CredentialId, event: Event, by: SuspendedBy = SuspendedBy.ADMIN
    ) -> CredentialRecord:
        """Carry out one of :data:`CHANGES` and return the record as it then is.

        ``by``: as what somebody asks who suspends or resumes; a registrar does not end what an administrator,
        or the operator at the server, has suspended. Raises NotPermitted, StatusUnsuitable, RecordConflict
        (try again), and what loading raises.
        """
        record = self.load(credential_id).sealed.record
        changed = changed_by(record, event, by)
        draft = self.draft(credential_id, event, record.version + 1)
        with self.store.changing(credential_id, record.version) as change:
            written = self.place(draft, change.position)
            sealed = self.seal(changed, written)
            change.write(sealed, written)
        self.changed(written)
        return sealed.record

    def changed(self, written: SealedEntry) -> None:
        """Do what comes after a change of status that is committed."""
        self.remember(written)
        if written.entry.event is Event.REVOKE:
            with suppress(StoreError):  # it is revoked in any case
                self.store.forget()


def _unsuitable(record: CredentialRecord, what: str) -> StatusUnsuitable:
    return StatusUnsuitable(
        f"the credential of {record.owner!r} is {record.status.value} and cannot be {what}"
    )

"""What operators do to credentials: suspend, resume, unlock, revoke, give up.

docs/understand/protocol.md, section 8.

Each is one write of the record with one evidence entry, and none needs the card.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from hsm_signer.core.canonical import entry_hash
from hsm_signer.errors import Refused, StatusUnsuitable, StoreBusy, StoreError, StoreReadOnly, TokenMismatch
from hsm_signer.evidence.chain import ChainPosition, next_entry
from hsm_signer.store.store import Store
from hsm_signer.token.environment import SecureEnvironment
from hsm_signer.types import (
    FAILURES_BEFORE_LOCK,
    CredentialId,
    CredentialRecord,
    Event,
    EvidenceEntry,
    SealedRecord,
    Status,
)

from .signing import Clock, load_checked, system_clock

PENDING_LIFETIME = 24 * 60 * 60 * 1_000_000
"""Microseconds after which a pending record is deleted (docs/understand/protocol.md, section 7, step 4)."""


def suspend(record: CredentialRecord) -> CredentialRecord:
    """Active or locked -> suspended. Raises StatusUnsuitable."""
    if record.status not in (Status.ACTIVE, Status.LOCKED):
        raise _unsuitable(record, "suspended")
    return replace(record, status=Status.SUSPENDED)


def resume(record: CredentialRecord) -> CredentialRecord:
    """Suspended -> active; a lock that was there before stays. Raises StatusUnsuitable."""
    if record.status is not Status.SUSPENDED:
        raise _unsuitable(record, "resumed")
    locked = record.failures >= FAILURES_BEFORE_LOCK
    return replace(record, status=Status.LOCKED if locked else Status.ACTIVE)


def unlock(record: CredentialRecord) -> CredentialRecord:
    """Locked -> active, with no failures counted. Raises StatusUnsuitable."""
    locked = record.status is Status.LOCKED or record.failures >= FAILURES_BEFORE_LOCK
    if record.status in (Status.REVOKED, Status.SUSPENDED) or not locked:
        raise _unsuitable(record, "unlocked")
    status = Status.ACTIVE if record.status is Status.LOCKED else record.status
    return replace(record, status=status, failures=0)


def revoke(record: CredentialRecord) -> CredentialRecord:
    """Anything -> revoked: wrap(SK) and KW_MK(KCAR) are deleted, PK stays. Raises StatusUnsuitable.

    With KCAR gone the card's answers open nothing, and with wrap(SK) gone there is nothing to open; final
    against backups once MK has been rotated and the old one destroyed.
    """
    if record.status is Status.REVOKED:
        raise _unsuitable(record, "revoked")
    return replace(record, status=Status.REVOKED, wrapped_sk=None, wrapped_kcar=None)


CHANGES: dict[Event, Callable[[CredentialRecord], CredentialRecord]] = {
    Event.SUSPEND: suspend,
    Event.RESUME: resume,
    Event.UNLOCK: unlock,
    Event.REVOKE: revoke,
}


def change_status(
    environment: SecureEnvironment,
    store: Store,
    credential_id: CredentialId,
    event: Event,
    *,
    actor: str,
    clock: Clock = system_clock,
) -> CredentialRecord:
    """Carry out one of :data:`CHANGES`; the record as it then is.

    Raises StatusUnsuitable, RecordConflict (try again), and what loading raises.
    """
    record = load_checked(environment, store, credential_id).sealed.record
    changed = replace(CHANGES[event](record), version=record.version + 1)

    def build(position: ChainPosition) -> tuple[SealedRecord, EvidenceEntry]:
        entry = next_entry(
            position,
            time=clock(),
            credential_id=credential_id,
            event=event,
            record_version=changed.version,
            actor=actor,
        )
        return environment.seal(replace(changed, evidence_head=entry_hash(entry))), entry

    store.commit(credential_id, record.version, build)
    if event is Event.REVOKE:
        with suppress(StoreError):  # it is revoked in any case
            store.forget()
    return changed


def give_up_pending(
    environment: SecureEnvironment,
    store: Store,
    credential_id: CredentialId,
    *,
    actor: str,
    clock: Clock = system_clock,
) -> None:
    """Delete a pending record; its chain stays, ended by an EXPIRE entry. Raises StatusUnsuitable."""
    record = load_checked(environment, store, credential_id).sealed.record
    store.expire(
        credential_id,
        record.version,
        lambda position: next_entry(
            position,
            time=clock(),
            credential_id=credential_id,
            event=Event.EXPIRE,
            record_version=record.version + 1,
            actor=actor,
        ),
    )


def give_up_old_pending(
    environment: SecureEnvironment, store: Store, *, actor: str, clock: Clock = system_clock
) -> int:
    """Delete every record that has been pending for 24 hours; how many."""
    given_up = 0
    for credential_id in store.pending_before(clock() - PENDING_LIFETIME):
        try:
            give_up_pending(environment, store, credential_id, actor=actor, clock=clock)
        except (StoreBusy, StoreReadOnly):
            raise
        except (Refused, StoreError, TokenMismatch):
            # Finished or given up by another process meanwhile; or damaged, which the audit says: one bad
            # record must not stop everybody else's enrolment.
            continue
        given_up += 1
    return given_up


def _unsuitable(record: CredentialRecord, what: str) -> StatusUnsuitable:
    return StatusUnsuitable(
        f"the credential of {record.owner!r} is {record.status.value} and cannot be {what}"
    )

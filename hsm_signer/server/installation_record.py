"""The installation's own record: made once, checked whenever token and store are opened together."""

from __future__ import annotations

from msgspec.structs import replace

from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.chain_position import START
from hsm_signer.errors import EvidenceDamaged, EvidenceMissing, InstallationDamaged, InstallationOutdated
from hsm_signer.evidence.chain import draft_entry
from hsm_signer.store.store import Store
from hsm_signer.token.profile import TokenProfile
from hsm_signer.token.seal import TokenSeal
from hsm_signer.token.session import TokenSession
from hsm_signer.types import (
    INSTALLATION_CHAIN,
    INSTALLATION_ID_LENGTH,
    Digest,
    Event,
    InstallationRecord,
    SealedInstallation,
    TokenKey,
    TokenKeyKind,
    TokenKeyState,
)

from .place import place

_RESTORE = "restore the newest backup of the database, or correct store.url"


def begin(
    session: TokenSession,
    profile: TokenProfile,
    store: Store,
    *,
    mk_id: bytes,
    record_key_id: bytes,
    actor: str,
    time: int,
) -> SealedInstallation:
    """Give an installation its identity key, its record and the first entry of its chain.

    The session is a read-write one; an identity key that a killed run left on the token is taken. ``time`` in
    microseconds since 1970-01-01T00:00:00Z. Raises TokenError, StoreError.
    """
    identity_id = session.find_identity_id() or session.create_identity_key(profile)
    seal = TokenSeal(session, record_key_id)
    draft = draft_entry(INSTALLATION_CHAIN, Event.BEGIN, actor=actor, record_version=1)
    entry = place(seal, draft, START, time=time)
    ids = {
        TokenKeyKind.MASTER: mk_id,
        TokenKeyKind.RECORD_MAC: record_key_id,
        TokenKeyKind.IDENTITY: identity_id,
    }
    sealed = seal.seal_installation(
        InstallationRecord(
            format=1,
            mac_key_id=record_key_id,
            version=1,
            installation_id=session.random(INSTALLATION_ID_LENGTH),
            epoch=0,
            keys=tuple(TokenKey(kind, key_id, TokenKeyState.ACTIVE).packed for kind, key_id in ids.items()),
            group_policy=None,
            evidence_head=entry_hash(entry.entry),
        )
    )
    store.begin(sealed, entry)
    return sealed


def note_settings(
    seal: TokenSeal, store: Store, installation_id: str, digest: Digest, *, actor: str, time: int
) -> bool:
    """Leave an entry where a service runs with other settings than the last one; False where it does not.

    ``digest``: SHA-256 of the settings; ``time`` in microseconds since 1970-01-01T00:00:00Z. Raises
    RecordConflict where another process is writing the same, and what :func:`load` raises.
    """
    record = load(store, installation_id).record
    before = [entry for _, entry in store.entries(INSTALLATION_CHAIN) if entry.event is Event.SETTINGS]
    if before and before[-1].digests == (digest,):
        return False
    draft = draft_entry(INSTALLATION_CHAIN, Event.SETTINGS, actor=actor, record_version=record.version + 1)
    with store.changing_installation(record.version) as change:
        entry = place(seal, draft, change.position, time=time, digests=(digest,))
        changed = replace(record, version=record.version + 1, evidence_head=entry_hash(entry.entry))
        change.write(seal.seal_installation(changed), entry)
    return True


def load(store: Store, installation_id: str, *, for_audit: bool = False) -> SealedInstallation:
    """Read the record of the installation with this id and hold its age against the evidence.

    Its MAC is for the token to check. ``for_audit``: whatever its age; an audit says what is wrong with it.
    Raises InstallationDamaged (another one's, or none), InstallationOutdated, EvidenceMissing,
    EvidenceDamaged.
    """
    stored = store.installation()
    if stored is None:
        raise InstallationDamaged("the database lacks the installation's own row", hint=_RESTORE)
    record = stored.sealed.record
    if record.installation_id.hex() != installation_id:
        raise InstallationDamaged(
            f"the database is that of installation {record.installation_id.hex()}, not of {installation_id}",
            hint=_RESTORE,
        )
    if for_audit:
        return stored.sealed
    if record.version < stored.newest_version:
        raise InstallationOutdated(
            "the installation's row is older than the evidence about it: an old row was put back",
            hint=_RESTORE,
        )
    if record.version > stored.newest_version:
        raise EvidenceMissing("evidence about the installation itself is missing", hint=_RESTORE)
    if record.evidence_head != stored.written_by:
        raise EvidenceDamaged("evidence about the installation itself was changed", hint=_RESTORE)
    return stored.sealed

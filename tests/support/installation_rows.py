"""The installation's own row, as only whoever has the token could write it."""

from __future__ import annotations

from msgspec.structs import replace

from hsm_signer.store.rows import installation_row
from hsm_signer.testing import Home
from hsm_signer.token.seal import TokenSeal
from hsm_signer.token.session import TokenSession
from hsm_signer.types import InstallationRecord, TokenKey, TokenKeyKind

from .scenes import sql


def installation_of(home: Home) -> InstallationRecord:
    """The installation's record as the store has it."""
    with home.installation.open_store() as store:
        stored = store.installation()
    assert stored is not None
    return stored.sealed.record


def key_id_of(home: Home, kind: TokenKeyKind) -> bytes:
    """Which key on the token the record names."""
    (key,) = (key for key in installation_of(home).token_keys if key.kind is kind)
    return key.key_id


def name_key(home: Home, session: TokenSession, kind: TokenKeyKind, key_id: bytes) -> None:
    """Have the record name another key, under its MAC."""
    record = installation_of(home)
    keys = tuple(
        TokenKey(kind, key_id, key.state).packed if key.kind is kind else key.packed
        for key in record.token_keys
    )
    record = replace(record, keys=keys)
    if kind is TokenKeyKind.RECORD_MAC:
        record = replace(record, mac_key_id=key_id)
    row = installation_row(TokenSeal(session, record.mac_key_id).seal_installation(record))
    sql(home, f"UPDATE installation SET {', '.join(f'{name} = ?' for name in row)}", *row.values())

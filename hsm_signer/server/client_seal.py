"""The MAC of a client of the service: who writes the database gives nobody a role."""

from __future__ import annotations

import hmac

from msgspec.structs import replace

from hsm_signer.core.canonical import entry_hash
from hsm_signer.store.client_rows import ClientRow, client_bytes
from hsm_signer.token.seal import TokenSeal
from hsm_signer.types import SealedEntry

CLIENT_DOMAIN = "client"


def sealed_client(seal: TokenSeal, row: ClientRow, written: SealedEntry) -> ClientRow:
    """Seal a client's row as the version that the entry ``written`` is about."""
    entry = written.entry
    row = replace(row, version=entry.record_version, evidence_head=entry_hash(entry))
    return replace(row, mac=seal.tag(CLIENT_DOMAIN, client_bytes(row)))


def client_holds(seal: TokenSeal, row: ClientRow) -> bool:
    """Whether the MAC of a client's row holds."""
    return hmac.compare_digest(seal.tag(CLIENT_DOMAIN, client_bytes(row)), row.mac)

"""The place of an entry in its chain, and the bytes by which its MAC holds it there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hsm_signer.types import CREDENTIAL_ID_LENGTH, CredentialId, Digest, EvidenceEntry, Mac

from .canonical import NO_PREVIOUS, entry_hash

LINK_PREFIX = b"hsm-signer/2/entry"
CLIENT_PREFIX = b"hsm-signer/2/client"


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """The end of a chain, which the next entry has to follow."""

    sequence: int
    """u64 of the last entry; 0 if there is none yet."""
    hash: Digest
    """SHA-256 of the last entry, 32 bytes; zeros if there is none yet."""
    previous: Digest
    """What the last entry follows: SHA-256 of the one before it."""
    mac: Mac | None = None
    """The last entry's MAC over the three; a row of the database is believed only under it."""


START = ChainPosition(0, NO_PREVIOUS, NO_PREVIOUS)
"""The position of a chain without entries."""


def position_of(entry: EvidenceEntry, mac: Mac | None = None) -> ChainPosition:
    """Give the position of a chain that ends with ``entry``; ``mac`` is the entry's."""
    return ChainPosition(entry.sequence, entry_hash(entry), entry.previous, mac)


def link_bytes(chain: CredentialId, position: ChainPosition) -> bytes:
    """Encode an entry's place for its MAC: 18 + 16 + 8 + 32 + 32 bytes (protocol.md, section 5).

    "hsm-signer/2/entry" || chain || u64 sequence || previous || SHA-256(entry).
    """
    return LINK_PREFIX + chain + position.sequence.to_bytes(8, "big") + position.previous + position.hash


def client_chain(name: str) -> CredentialId:
    """Give the chain of a client of the service: 16 bytes of a SHA-256 over its name (protocol.md, 8)."""
    digest = hashlib.sha256(CLIENT_PREFIX + name.encode("utf-8", "surrogatepass")).digest()
    return CredentialId(digest[:CREDENTIAL_ID_LENGTH])

"""The record MAC key: what this installation writes into its database, and recognises as its own.

Each kind of thing begins with words of its own under the MAC, so that nothing of one kind passes for one of
another (docs/understand/protocol.md, sections 5 and 8).
"""

from __future__ import annotations

import hmac
from typing import Any

from msgspec.structs import replace
from pkcs11 import Mechanism

from hsm_signer.core.canonical import installation_bytes, record_bytes
from hsm_signer.core.chain_position import ChainPosition, link_bytes, position_of
from hsm_signer.errors import EvidenceDamaged, InstallationDamaged, RecordDamaged
from hsm_signer.types import (
    CredentialId,
    CredentialRecord,
    EvidenceEntry,
    InstallationRecord,
    Mac,
    SealedEntry,
    SealedInstallation,
    SealedRecord,
    Sealing,
    SuspendedBy,
)

from .faults import token_call
from .session import RECORD_KEY_LABEL, TokenSession

RECORD_FORMAT = 2
BEYOND_FORMAT_1: dict[str, Any] = {
    "sealing": Sealing.CARD,
    "wrapped_seal": None,
    "card_point": None,
    "enrolment_proof": None,
    "suspended_by": SuspendedBy.NOBODY,
}
TAG_PREFIX = b"hsm-signer/1/"
TAKEN_DOMAINS = ("record", "installation", "evidence")


class TokenSeal:
    """HMAC-SHA-256 under the record MAC key, 32 bytes, over everything that has to be ours."""

    def __init__(self, session: TokenSession, record_key_id: bytes) -> None:
        """Find the key by its id, 8 bytes. Raises TokenKeyMissing."""
        self.session = session
        self.record_key_id = record_key_id
        self._record_key = session.find_key(RECORD_KEY_LABEL, record_key_id)

    # --- records ---

    def seal(self, record: CredentialRecord) -> SealedRecord:
        """Seal a credential's record, in today's format."""
        current = replace(record, format=RECORD_FORMAT)
        return SealedRecord(current, self._mac(record_bytes(current)))

    def check(self, sealed: SealedRecord) -> None:
        """Raise RecordDamaged unless the MAC of a credential's record holds."""
        record = sealed.record
        if record.mac_key_id != self.record_key_id:
            raise RecordDamaged(
                f"the record of {record.owner!r} is not sealed by this installation's key",
                hint="the database belongs to another installation, or the row was changed",
            )
        # What a record of format 1 cannot say is not under its MAC: there it must say nothing.
        silent = record.format > 1 or replace(record, **BEYOND_FORMAT_1) == record
        if not silent or not self._holds(record_bytes(record), sealed.mac):
            raise RecordDamaged(
                f"the record of {record.owner!r} was changed outside this program: its MAC does not hold",
                hint="restore the row from a backup; `hsm-signer audit verify` lists what else is wrong",
            )

    def seal_installation(self, record: InstallationRecord) -> SealedInstallation:
        """Seal the installation's own record."""
        return SealedInstallation(record, self._mac(installation_bytes(record)))

    def check_installation(self, sealed: SealedInstallation) -> None:
        """Raise InstallationDamaged unless the MAC of the installation's record holds."""
        if not self._holds(installation_bytes(sealed.record), sealed.mac):
            raise InstallationDamaged(
                "the installation's row was changed outside this program: its MAC does not hold",
                hint="restore the newest backup of the database",
            )

    # --- evidence ---

    def seal_entry(self, entry: EvidenceEntry) -> SealedEntry:
        """Seal an entry at its place in its chain."""
        return SealedEntry(entry, self._link(entry.credential_id, position_of(entry)))

    def check_entry(self, sealed: SealedEntry) -> None:
        """Raise EvidenceDamaged unless an entry's MAC holds, over all of it and its place."""
        self.check_end(sealed.entry.credential_id, position_of(sealed.entry, sealed.mac))

    def check_end(self, chain: CredentialId, end: ChainPosition) -> None:
        """Raise EvidenceDamaged unless an entry of this chain, with that hash and place, was written here.

        What follows it hangs on it for ever. A chain without entries has nothing that could be wrong.
        """
        if end.sequence and (end.mac is None or not hmac.compare_digest(self._link(chain, end), end.mac)):
            raise EvidenceDamaged(
                f"evidence about credential {chain.hex()} was changed outside this program: "
                f"the MAC of entry {end.sequence} {'is missing' if end.mac is None else 'does not hold'}",
                hint="restore the newest backup; `hsm-signer audit verify` shows what was changed",
            )

    def _link(self, chain: CredentialId, end: ChainPosition) -> Mac:
        return self._mac(link_bytes(chain, end))

    # --- everything else ---

    def tag(self, domain: str, data: bytes) -> Mac:
        """Make a MAC for what else this installation has to recognise as its own: clients, access tokens.

        Over "hsm-signer/1/" || domain || data. ``domain`` says what it is and is never the beginning of
        another one in use, nor the other way round; ``data`` is in canonical form (core/canonical.py).
        """
        if not domain or any(taken.startswith(domain) or domain.startswith(taken) for taken in TAKEN_DOMAINS):
            raise ValueError(f"{domain!r} could be taken for something else")
        return self._mac(TAG_PREFIX + domain.encode("ascii") + data)

    def _holds(self, data: bytes, mac: Mac) -> bool:
        return hmac.compare_digest(self._mac(data), mac)

    def _mac(self, data: bytes) -> Mac:
        self.session.require_owner()
        with token_call("computing a MAC"):
            mac: bytes = self._record_key.sign(data, mechanism=Mechanism.SHA256_HMAC)
        return mac

"""Findings of a check: one frozen record each, with a stable code for scripts and words for people."""

from __future__ import annotations

import msgspec

from hsm_signer.core.interface import Words
from hsm_signer.types import Code, CredentialId, Ordinal, Owner

RECORD_DAMAGED = "record.damaged"
"""A row cannot be turned into a record at all."""
RECORD_MAC = "record.mac"
"""The record MAC does not hold."""
RECORD_MISSING = "record.missing"
"""A chain whose credential has no record and was not given up (event EXPIRE)."""
RECORD_WITHOUT_EVIDENCE = "record.without-evidence"
"""A record with no chain."""
RECORD_OUTDATED = "record.outdated"
"""The record is older than its evidence: an old row was put back."""
RECORD_AHEAD = "record.ahead"
"""The record is newer than its evidence: entries were removed from the end of the chain."""
RECORD_HEAD = "record.head"
"""The record names another entry than the one written with its version."""
CLIENT_DAMAGED = "client.damaged"
"""A row cannot be turned into a client of the service at all."""
ENTRY_DAMAGED = "entry.damaged"
"""A row cannot be turned into an evidence entry at all."""
ENTRY_INCOMPLETE = "entry.incomplete"
"""An accepted signature's entry lacks what makes it evidence."""
ENTRY_HASH = "entry.h"
"""H is not the hash of the digests in the same entry."""
ENTRY_MAC = "entry.mac"
"""An entry's MAC is missing or does not hold: the entry is not the one that was written."""
ENTRY_TIME = "entry.time"
"""An entry is older than the one before it, by more than clocks differ."""
CHAIN_FOREIGN = "chain.foreign"
"""An entry of another credential."""
CHAIN_GAP = "chain.gap"
"""A sequence number is missing or out of order."""
CHAIN_PREVIOUS = "chain.previous"
"""An entry does not hold the hash of the one before it: one of the two was changed."""
CHAIN_VERSION = "chain.version"
"""Record versions in the chain do not follow from each other."""
SIGNATURE_INVALID = "signature.invalid"
"""A signature is not one of its digest under the credential's PK."""
SIGNATURE_COUNT = "signature.count"
"""Not as many signatures as digests."""
ANCHOR_CREDENTIALS = "anchor.credentials"
"""Not as many credentials as when the anchor was made."""
ANCHOR_ENTRIES = "anchor.entries"
"""Not as many entries as when the anchor was made."""
ANCHOR_SIGNATURE = "anchor.signature"
"""The anchor is not signed by this installation."""
ANCHOR_ROOT = "anchor.root"
"""The chains, as they stood when the anchor was made, are not the ones it was made of."""


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is not as it should be."""

    code: Code
    """Stable, for programs."""
    words: Words
    """For people; may change."""
    credential_id: CredentialId | None = None
    """None where the finding is about no single credential, or about a row whose own id is damaged."""
    owner: Owner | None = None
    """The user's name as the record has it; none if unknown."""
    sequence: Ordinal | None = None
    """The evidence entry; none where the finding is about a record or an anchor."""

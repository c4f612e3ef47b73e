"""How every entry of the evidence gets its place: after the end of its chain, once that is believed."""

from __future__ import annotations

from typing import Any

from hsm_signer.core.chain_position import ChainPosition
from hsm_signer.evidence.chain import next_entry
from hsm_signer.token.seal import TokenSeal
from hsm_signer.types import EvidenceEntry, SealedEntry


def place(
    seal: TokenSeal, draft: EvidenceEntry, position: ChainPosition, *, time: int, **fields: Any
) -> SealedEntry:
    """Put an entry at the end of its chain and seal it there.

    To be called inside the transaction that found ``position``. ``time`` in microseconds since
    1970-01-01T00:00:00Z; ``fields`` stand in place of the draft's. Raises EvidenceDamaged where the chain's
    end is not what was written there: nothing is ever chained to what somebody else put into the database.
    """
    seal.check_end(draft.credential_id, position)
    return seal.seal_entry(next_entry(position, draft, time=time, **fields))

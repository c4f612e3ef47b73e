"""Scheme basic: figures 3 and 4, steps 480 to 482 and 491 to 495.

T_1 = D_1 is public, so Q_1 is no secret from whoever reads the wire: this scheme is for a channel that is
secure by other means (docs/understand/protocol.md, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from hsm_signer.types import Combine, CredentialRecord, Digest, Quantity, RollingValue, Scheme, Sealing

from .key_operations import KekUse, Key, KeyPair, Workspace
from .steps import Created, Recovered, Rewrapped, rewrap_once


class BasicScheme:
    """The card holds KEY; the store holds wrap_W(KEY)(SK)."""

    scheme = Scheme.BASIC
    sk_extractable = False
    sk_gives_kowf = False

    def challenge(self, record: CredentialRecord) -> tuple[RollingValue, ...]:
        """Nothing to ask for."""
        del record
        return ()

    def recover(
        self,
        workspace: Workspace,
        record: CredentialRecord,
        position_digests: Sequence[Digest],
        quantities: Sequence[Quantity],
    ) -> Recovered:
        """KEY out of Q_1 = KW_D1(KEY) (step 492)."""
        transient = workspace.public_transient(position_digests[0])
        return Recovered(
            unwraps_sk=workspace.open_quantity(transient, quantities[0], KekUse.UNWRAP_SK),
            wraps_next=workspace.open_quantity(transient, quantities[0], KekUse.WRAP_SK)
            if record.sealing is Sealing.CARD
            else None,
        )

    def check(self, workspace: Workspace, record: CredentialRecord, sk: Key, keys: Recovered) -> None:
        """Nothing beyond SK having opened."""

    def rewrap(
        self, workspace: Workspace, record: CredentialRecord, sk: Key, keys: Recovered
    ) -> Rewrapped | None:
        """wrap_W(KEY)(SK) stays as it is, once it is that."""
        return rewrap_once(workspace, sk, keys)

    def create(self, workspace: Workspace, pair: KeyPair, combine: Combine) -> Created:
        """A fresh KEY; combine is 0 (there is no KCAR)."""
        if combine is not Combine.NONE:
            raise ValueError("scheme basic has combine 0")
        key = workspace.new_key()
        return Created(kek=key, kcar=None, wrapped_sk=workspace.wrap_sk(workspace.sealed(key), pair.private))

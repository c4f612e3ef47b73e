"""Scheme pin: figures 5 and 6, steps 690 to 700, claims 5 and 6.

KOWF is a one-way function of SK. After SK has been unwrapped with the KOWF received, KOWF is computed from
SK again and the two are compared inside the token.
"""

from __future__ import annotations

from collections.abc import Sequence

from hsm_signer.errors import WrongKey
from hsm_signer.types import Combine, CredentialRecord, Digest, Quantity, RollingValue, Scheme, Sealing

from .key_operations import KekUse, Key, KeyPair, Workspace
from .steps import Created, Recovered, Rewrapped, need, rewrap_once


class PinScheme:
    """The card holds KCAR and KOWF blinded by the PIN; the store P, KW_MK(KCAR) and wrap_W(KOWF)(SK)."""

    scheme = Scheme.PIN
    sk_extractable = False
    sk_gives_kowf = True

    def challenge(self, record: CredentialRecord) -> tuple[RollingValue, ...]:
        """Nothing to ask for: requests can be made offline and submitted later (step 694)."""
        del record
        return ()

    def recover(
        self,
        workspace: Workspace,
        record: CredentialRecord,
        position_digests: Sequence[Digest],
        quantities: Sequence[Quantity],
    ) -> Recovered:
        """T_1 from KCAR (step 696), KOWF out of Q_1 (step 697), anew for each use: an object has one only."""
        kcar = workspace.unwrap_kcar(need(record.wrapped_kcar, "KW_MK(KCAR)"), record.combine)
        transient = workspace.transient(kcar, record.combine, position_digests[0])
        return Recovered(
            unwraps_sk=workspace.open_quantity(transient, quantities[0], KekUse.UNWRAP_SK),
            compares=workspace.open_quantity(transient, quantities[0], KekUse.COMPARE),
            wraps_next=workspace.open_quantity(transient, quantities[0], KekUse.WRAP_SK)
            if record.sealing is Sealing.CARD
            else None,
        )

    def check(self, workspace: Workspace, record: CredentialRecord, sk: Key, keys: Recovered) -> None:
        """The KOWF computed from SK is the one received, or WrongKey (claim 6)."""
        computed = workspace.recompute_kowf(sk, need(record.parameter, "P"))
        if not workspace.same_key(computed, need(keys.compares, "KOWF")):
            raise WrongKey("the card's key is not the one this private key gives")

    def rewrap(
        self, workspace: Workspace, record: CredentialRecord, sk: Key, keys: Recovered
    ) -> Rewrapped | None:
        """wrap_W(KOWF)(SK) stays as it is, once it is that."""
        return rewrap_once(workspace, sk, keys)

    def create(self, workspace: Workspace, pair: KeyPair, combine: Combine) -> Created:
        """P, KOWF(SK, P), and SK under W(KOWF)."""
        kcar = workspace.new_kcar(combine)
        parameter = workspace.new_parameter(pair)
        kowf = workspace.first_kowf(pair, parameter)
        return Created(
            kek=kowf,
            kcar=kcar,
            wrapped_sk=workspace.wrap_sk(workspace.sealed(kowf), pair.private),
            wrapped_kcar=workspace.wrap_kcar(kcar),
            parameter=parameter,
        )

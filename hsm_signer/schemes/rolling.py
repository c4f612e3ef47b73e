"""Scheme rolling: figures 7 to 11, steps 751 to 761 and 880 to 896, claim 7. The default.

SK is wrapped under W(V_x), V_x = combine(KEK1, RN_x), and after each signature under W(V_x+1). combine 2
(CBC) cannot compute V_x+1 from V_x, so the card sends both and KEK1 is never recomputed here; combine 1 (XOR)
goes the patent's own way, V_x+1 = V_x XOR (RN_x XOR RN_x+1), steps 891 to 894.
"""

from __future__ import annotations

from collections.abc import Sequence

from hsm_signer.types import (
    ROLLING_VALUE_LENGTH,
    Combine,
    CredentialRecord,
    Digest,
    Quantity,
    RollingValue,
    Scheme,
)

from .key_operations import KekUse, Key, KeyPair, Workspace
from .steps import Created, Recovered, Rewrapped, need


class RollingScheme:
    """The card holds KCAR and blinded KEK1; the store x, RN_x, RN_x+1, KW_MK(KCAR) and wrap_W(V_x)(SK)."""

    scheme = Scheme.ROLLING
    sk_extractable = True
    sk_gives_kowf = False

    def challenge(self, record: CredentialRecord) -> tuple[RollingValue, ...]:
        """(RN_x, RN_x+1) for combine 2, (RN_x) for combine 1 (step 880). Changes nothing."""
        rn = need(record.rn, "RN_x")
        if record.combine is Combine.XOR:
            return (rn,)
        return (rn, need(record.rn_next, "RN_x+1"))

    def recover(
        self,
        workspace: Workspace,
        record: CredentialRecord,
        position_digests: Sequence[Digest],
        quantities: Sequence[Quantity],
    ) -> Recovered:
        """T_i from KCAR (step 887), W(V_x) and what leads to W(V_x+1) out of every Q_i (step 888)."""
        kcar = workspace.unwrap_kcar(need(record.wrapped_kcar, "KW_MK(KCAR)"), record.combine)
        transients = [workspace.transient(kcar, record.combine, d_i) for d_i in position_digests]
        w = workspace.open_quantity(transients[0], quantities[0], KekUse.UNWRAP_SK)
        if record.combine is Combine.XOR:
            v = workspace.open_quantity(transients[0], quantities[0], KekUse.ROLL)
            return Recovered(unwraps_sk=w, rolls=v)
        w_next = workspace.open_quantity(transients[1], quantities[1], KekUse.WRAP_SK)
        return Recovered(unwraps_sk=w, wraps_next=w_next)

    def check(self, workspace: Workspace, record: CredentialRecord, sk: Key, keys: Recovered) -> None:
        """Nothing beyond SK having opened under W(V_x)."""

    def rewrap(self, workspace: Workspace, record: CredentialRecord, sk: Key, keys: Recovered) -> Rewrapped:
        """Wrap SK under W(V_x+1) and draw RN_x+2 (steps 891 to 894)."""
        rn = need(record.rn, "RN_x")
        rn_next = need(record.rn_next, "RN_x+1")
        if record.combine is Combine.XOR:
            difference = bytes(a ^ b for a, b in zip(rn, rn_next, strict=True))
            w_next = workspace.roll_by_xor(need(keys.rolls, "V_x"), difference)
        else:
            w_next = need(keys.wraps_next, "W(V_x+1)")
        return Rewrapped(
            wrapped_sk=workspace.wrap_sk(w_next, sk),
            x=need(record.x, "x") + 1,
            rn=rn_next,
            rn_next=RollingValue(workspace.random(ROLLING_VALUE_LENGTH)),
        )

    def create(self, workspace: Workspace, pair: KeyPair, combine: Combine) -> Created:
        """KCAR, KEK1, RN_1, RN_2, V_1 and SK under W(V_1) (steps 751 to 755); x starts at 1."""
        kcar = workspace.new_kcar(combine)
        kek1 = workspace.new_kek1(combine)
        rn = RollingValue(workspace.random(ROLLING_VALUE_LENGTH))
        return Created(
            kek=kek1,
            kcar=kcar,
            wrapped_sk=workspace.wrap_sk(
                workspace.sealed(workspace.variant(kek1, combine, rn)), pair.private
            ),
            wrapped_kcar=workspace.wrap_kcar(kcar),
            x=1,
            rn=rn,
            rn_next=RollingValue(workspace.random(ROLLING_VALUE_LENGTH)),
        )

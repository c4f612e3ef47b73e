"""The card's part in the token's self-test: what a card would answer, made by the token itself.

T_i and V_i are derived in the token and leave it only as Q, as they leave a card. Nobody ever holds these
keys, and nothing is stored.
"""

from __future__ import annotations

import hashlib

from hsm_signer.core.content import Measured, digest_list_hash
from hsm_signer.schemes import Created, steps_of
from hsm_signer.schemes.authorise import authorisation_digest, position_digests
from hsm_signer.schemes.steps import need
from hsm_signer.types import (
    NONCE_LENGTH,
    Algorithm,
    Authorisation,
    Combine,
    CredentialRecord,
    Digest,
    KeySpec,
    Mode,
    NewCredential,
    PinCheck,
    PinPolicy,
    Quantity,
    Scheme,
)

from .workspace import TokenWorkspace

_DIGEST = Digest(hashlib.sha256(b"hsm-signer/1/self-test").digest())
CONTENT = Measured(Mode.DIGESTS, digest_list_hash((_DIGEST,)), (_DIGEST,))
"""What the self-test signs."""

# The base point of P-256 (SEC 2, 2.4.2): nobody personalises a card for it.
_CARD_POINT = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
CREDENTIAL = NewCredential(
    owner="self-test",
    scheme=Scheme.ROLLING,
    combine=Combine.CBC,
    key=KeySpec.P256,
    pin_policy=PinPolicy.ALWAYS,
    pin_check=PinCheck.SERVER,
    pin_tries=1,
    puk_tries=1,
    card_point=_CARD_POINT,
    card_serial=bytes(8),
)
"""Whose credential it signs with."""


def authorise(workspace: TokenWorkspace, record: CredentialRecord, created: Created) -> Authorisation:
    """Authorise :data:`CONTENT` as the card of the credential would.

    ``record`` is of scheme rolling, ``created`` holds its keys, which are in ``workspace``.
    """
    algorithm = Algorithm.ECDSA_SHA256
    rolling_values = steps_of(record.scheme).challenge(record)
    nonce = workspace.random(NONCE_LENGTH)
    d = authorisation_digest(
        scheme=record.scheme,
        combine=record.combine,
        algorithm=algorithm,
        mode=CONTENT.mode,
        pin_policy=record.pin_policy,
        credential_id=record.credential_id,
        nonce=nonce,
        rolling_values=rolling_values,
        h=CONTENT.h,
    )
    kcar = need(created.kcar, "KCAR")
    return Authorisation(
        credential_id=record.credential_id,
        algorithm=algorithm,
        x=record.x,
        rolling_values=rolling_values,
        nonce=nonce,
        quantities=tuple(
            Quantity(
                workspace.wrap_for_card(
                    workspace.transient_for_card(kcar, record.combine, d_i),
                    workspace.variant_for_card(created.kek, record.combine, rn),
                )
            )
            for d_i, rn in zip(position_digests(d, rolling_values), rolling_values, strict=True)
        ),
    )

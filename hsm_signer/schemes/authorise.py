"""What an authorisation is bound to: D and its positions (docs/understand/protocol.md, section 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hsm_signer.types import (
    Algorithm,
    Authorisation,
    Combine,
    CredentialId,
    CredentialRecord,
    Digest,
    Mode,
    PinCheck,
    PinPolicy,
    RollingValue,
    Scheme,
)

AUTHORISE_PREFIX = b"hsm-signer/1/authorise"
POSITION_PREFIX = b"hsm-signer/1/position"
PERSONALISE_PREFIX = b"hsm-signer/1/personalise"


def authorisation_digest(
    *,
    scheme: Scheme,
    combine: Combine,
    algorithm: Algorithm,
    mode: Mode,
    pin_policy: PinPolicy,
    credential_id: CredentialId,
    nonce: bytes,
    rolling_values: Sequence[RollingValue],
    h: Digest,
) -> Digest:
    """D, 32 bytes: SHA-256 over H (32) with its whole context; R (``nonce``) is 16 bytes."""
    return Digest(
        hashlib.sha256(
            AUTHORISE_PREFIX
            + bytes([scheme.number, combine.number])
            + algorithm.number.to_bytes(2, "big")
            + bytes([mode.number, pin_policy.number])
            + credential_id
            + nonce
            + bytes([len(rolling_values)])
            + b"".join(rolling_values)
            + h
        ).digest()
    )


def d_of(record: CredentialRecord, authorisation: Authorisation, mode: Mode, h: Digest) -> Digest:
    """D of a request against a record: R and the RN list as the request has them (step 2)."""
    return authorisation_digest(
        scheme=record.scheme,
        combine=record.combine,
        algorithm=authorisation.algorithm,
        mode=mode,
        pin_policy=record.pin_policy,
        credential_id=record.credential_id,
        nonce=authorisation.nonce,
        rolling_values=authorisation.rolling_values,
        h=h,
    )


def position_digests(d: Digest, rolling_values: Sequence[RollingValue]) -> tuple[Digest, ...]:
    """D_1 ... D_max(n, 1), 32 bytes each: what T_i is made from, so that a Q cannot change places."""
    return tuple(
        Digest(hashlib.sha256(POSITION_PREFIX + bytes([i]) + d).digest())
        for i in range(1, max(len(rolling_values), 1) + 1)
    )


def personalisation_digest(
    role: int,
    *,
    credential_id: CredentialId,
    scheme: Scheme,
    combine: Combine,
    pin_policy: PinPolicy,
    pin_check: PinCheck,
    pin_tries: int,
    puk_tries: int,
    card_point: bytes,
    token_point: bytes,
) -> Digest:
    """What K_r is made from at enrolment (docs/understand/protocol.md, 7): role 1 wraps KCAR, 2 the KEK.

    Both points are 65 bytes (04 || x || y).
    """
    return Digest(
        hashlib.sha256(
            PERSONALISE_PREFIX
            + bytes([role])
            + credential_id
            + bytes(choice.number for choice in (scheme, combine, pin_policy, pin_check))
            + bytes([pin_tries, puk_tries])
            + card_point
            + token_point
        ).digest()
    )

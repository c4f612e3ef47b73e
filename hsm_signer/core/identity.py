"""The identity of an installation: what it signs, and how people compare it (docs/understand/protocol.md, 7).

An installation's token has a key pair of its own. Whoever has seen the fingerprint of its public half, and
keeps it, believes the statements signed by it, whoever carries them.
"""

from __future__ import annotations

import hashlib
import re

from hsm_signer.errors import (
    AlgorithmUnsuitable,
    EnrolmentProofWrong,
    IdentityChanged,
    InputError,
    SignatureInvalid,
)
from hsm_signer.types import (
    FINGERPRINT_PATTERN,
    Algorithm,
    CardPersonalisation,
    CredentialId,
    Digest,
    Fingerprint,
    InstallationId,
    InstallationSignature,
    SpkiDer,
)

from . import algorithms
from .canonical import text, value

ENROLMENT_PREFIX = b"hsm-signer/2/enrolment"
REQUEST_PREFIX = b"hsm-signer/2/request"
FINGERPRINT_LENGTH = 20
"""Bytes of a SHA-256 that a fingerprint shows."""
GROUP = 4
"""Hexadecimal digits between two hyphens."""


def fingerprint(spki: SpkiDer) -> Fingerprint:
    """Return the fingerprint of an identity's public key: 20 bytes of its SHA-256, in ten groups of digits.

    ``spki``: DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
    """
    digits = hashlib.sha256(spki).digest()[:FINGERPRINT_LENGTH].hex()
    return Fingerprint("-".join(digits[start : start + GROUP] for start in range(0, len(digits), GROUP)))


def parse_fingerprint(words: str) -> Fingerprint:
    """Read a fingerprint as people write it, capital letters and spaces around it included.

    Raises InputError.
    """
    lower = words.strip().lower()
    if not re.fullmatch(FINGERPRINT_PATTERN, lower):
        raise InputError(
            "identity: expected ten groups of four hexadecimal digits, joined by hyphens",
            hint="hsm-signer identity, at the server, shows it",
        )
    return Fingerprint(lower)


def enrolment_digest(
    installation_id: InstallationId,
    owner: str,
    personalisation: CardPersonalisation,
    *,
    card_point: bytes,
    spki: SpkiDer,
) -> Digest:
    """Return what an installation signs about an enrolment: SHA-256 over all that card and user get of it.

    ``card_point``: 65 bytes, 04 || x || y; ``spki``: the user's PK.
    """
    choices = (
        personalisation.scheme,
        personalisation.combine,
        personalisation.pin_policy,
        personalisation.pin_check,
    )
    return _digest(
        ENROLMENT_PREFIX,
        installation_id,
        personalisation.credential_id,
        text(owner),
        bytes(choice.number for choice in choices),
        bytes([personalisation.pin_tries, personalisation.puk_tries]),
        card_point,
        personalisation.token_point,
        value(spki),
        value(personalisation.wrapped_kcar),
        value(personalisation.wrapped_kek),
    )


def request_digest(
    installation_id: InstallationId, credential_id: CredentialId, owner: str, spki: SpkiDer
) -> Digest:
    """Return what an installation signs so that a certificate request can be made: whose key PK is."""
    return _digest(REQUEST_PREFIX, installation_id, credential_id, text(owner), value(spki))


def _digest(*parts: bytes) -> Digest:
    return Digest(hashlib.sha256(b"".join(parts)).digest())


def check_signature(signed: InstallationSignature, digest: Digest, pinned: Fingerprint) -> None:
    """Check that the installation with the fingerprint ``pinned`` has signed ``digest``, 32 bytes.

    Raises IdentityChanged where another one has, EnrolmentProofWrong where the signature is none of this.
    """
    found = fingerprint(signed.spki)
    if found != pinned:
        raise changed(found, pinned)
    try:
        algorithms.verifier(signed.spki, Algorithm.ECDSA_SHA256)(digest, signed.signature)
    except (SignatureInvalid, AlgorithmUnsuitable, InputError):
        raise proof_wrong(
            "what came about the enrolment is not what the installation signed for this user and this card"
        ) from None


def proof_wrong(words: str) -> EnrolmentProofWrong:
    """Make the error for an enrolment that is not as the installation signed it."""
    return EnrolmentProofWrong(
        words, hint="somebody between here and the server may have changed it; nothing of it went to the card"
    )


def changed(found: Fingerprint, pinned: Fingerprint) -> IdentityChanged:
    """Make the error for an identity other than the pinned one."""
    return IdentityChanged(
        f"the service is not the installation that is known here: it shows identity {found}, "
        f"expected {pinned}",
        hint="either it was initialised anew, which its operator can tell (`hsm-signer identity` there), or "
        "somebody is between here and the server and would learn the card's keys",
    )

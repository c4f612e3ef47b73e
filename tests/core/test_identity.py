"""What an installation signs, against bytes written out here; fingerprints; every field counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from msgspec.structs import replace

from hsm_signer.core import algorithms, identity
from hsm_signer.errors import EnrolmentProofWrong, IdentityChanged, InputError
from hsm_signer.types import (
    CardPersonalisation,
    Combine,
    CredentialId,
    InstallationId,
    InstallationSignature,
    PinCheck,
    PinPolicy,
    Scheme,
    SpkiDer,
    WrappedKey,
)
from tests.support.scenes import flip

POINT = (
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""The base point of P-256."""
SPKI = f"3059301306072a8648ce3d020106082a8648ce3d030107034200{POINT}"
FINGERPRINT = "5cd2-52fb-0ce8-9324-36fa-f8cc-d104-0981-b89e-e4ad"
"""By openssl and sha256sum."""
INSTALLATION = InstallationId(bytes.fromhex("0011223344556677"))
CREDENTIAL = "000102030405060708090a0b0c0d0e0f"
CARD_POINT, TOKEN_POINT = "04" + "c1" * 64, "04" + "70" * 64
KCAR, KEK = "a1" * 40, "b2" * 40
ROLLING = CardPersonalisation(
    credential_id=CredentialId(bytes.fromhex(CREDENTIAL)),
    scheme=Scheme.ROLLING,
    combine=Combine.CBC,
    pin_policy=PinPolicy.SESSION,
    pin_check=PinCheck.CARD,
    pin_tries=3,
    puk_tries=10,
    token_point=bytes.fromhex(TOKEN_POINT),
    wrapped_kcar=WrappedKey(bytes.fromhex(KCAR)),
    wrapped_kek=WrappedKey(bytes.fromhex(KEK)),
)
BASIC = replace(
    ROLLING,
    scheme=Scheme.BASIC,
    combine=Combine.NONE,
    pin_policy=PinPolicy.NONE,
    pin_check=PinCheck.NONE,
    pin_tries=0,
    puk_tries=0,
    wrapped_kcar=None,
)
OWNER = "Zoë"

ENROLMENT_ROLLING = (
    "68736d2d7369676e65722f322f656e726f6c6d656e74"  # "hsm-signer/2/enrolment"
    "0011223344556677"  # installation id
    "000102030405060708090a0b0c0d0e0f"  # credential id
    "00000004 5a6fc3ab"  # user
    "03 02 02 01 03 0a"  # scheme, combine, PIN policy, PIN check, PIN tries, PUK tries
    + CARD_POINT
    + TOKEN_POINT
    + "0000005b"
    + SPKI
    + "00000028"
    + KCAR
    + "00000028"
    + KEK
)
ENROLMENT_BASIC = (
    "68736d2d7369676e65722f322f656e726f6c6d656e74"
    "0011223344556677"
    "000102030405060708090a0b0c0d0e0f"
    "00000004 5a6fc3ab"
    "01 00 00 00 00 00" + CARD_POINT + TOKEN_POINT + "0000005b" + SPKI + "ffffffff"  # no KCAR
    "00000028" + KEK
)
REQUEST = (
    "68736d2d7369676e65722f322f72657175657374"  # "hsm-signer/2/request"
    "0011223344556677"
    "000102030405060708090a0b0c0d0e0f"
    "00000004 5a6fc3ab"
    "0000005b" + SPKI
)


def digest_of(card: CardPersonalisation = ROLLING, **changes: Any) -> bytes:
    """What is signed about an enrolment; ``changes``: what is not in the personalisation."""
    given: dict[str, Any] = {
        "installation_id": INSTALLATION,
        "owner": OWNER,
        "personalisation": card,
        "card_point": bytes.fromhex(CARD_POINT),
        "spki": SpkiDer(bytes.fromhex(SPKI)),
    }
    return identity.enrolment_digest(**(given | changes))


def sha256(written: str) -> bytes:
    return hashlib.sha256(bytes.fromhex(written)).digest()


def test_an_enrolment_is_signed_as_it_is_written_down() -> None:
    assert digest_of() == sha256(ENROLMENT_ROLLING)
    assert digest_of(BASIC) == sha256(ENROLMENT_BASIC)


def test_a_request_is_signed_as_it_is_written_down() -> None:
    digest = identity.request_digest(INSTALLATION, ROLLING.credential_id, OWNER, SpkiDer(bytes.fromhex(SPKI)))
    assert digest == sha256(REQUEST)


def others(value: Any) -> Iterator[Any]:
    """Other values of the same kind."""
    match value:
        case bytes():
            yield from (flip(value, position, position % 8) for position in range(len(value)))
        case int():
            yield value + 1
        case _:
            yield from (member for member in type(value) if member is not value)


def test_every_field_of_an_enrolment_counts() -> None:
    changed = [
        digest_of(replace(ROLLING, **{name: other}))
        for name in CardPersonalisation.__struct_fields__
        for other in others(getattr(ROLLING, name))
    ]
    changed += [digest_of(installation_id=InstallationId(other)) for other in others(bytes(INSTALLATION))]
    changed += [digest_of(card_point=other) for other in others(bytes.fromhex(CARD_POINT))]
    changed += [digest_of(spki=other) for other in others(bytes.fromhex(SPKI))]
    changed += [digest_of(owner=other) for other in ("zoë", "Zo", "")]
    changed += [digest_of(replace(ROLLING, wrapped_kcar=None)), digest_of()]
    assert len(set(changed)) == len(changed) > 300


# --- fingerprints ------------------------------------------------------------------------------------------


def test_the_fingerprint_of_a_key() -> None:
    assert identity.fingerprint(SpkiDer(bytes.fromhex(SPKI))) == FINGERPRINT


@pytest.mark.parametrize("written", [FINGERPRINT, FINGERPRINT.upper(), f"  {FINGERPRINT}\n"])
def test_a_fingerprint_is_read_as_people_write_it(written: str) -> None:
    assert identity.parse_fingerprint(written) == FINGERPRINT


@pytest.mark.parametrize(
    "written",
    ["", FINGERPRINT[:-1], f"{FINGERPRINT}-0000", FINGERPRINT.replace("-", ""), FINGERPRINT.replace("-", ":"),
     "g" + FINGERPRINT[1:], FINGERPRINT[:-5], f"{FINGERPRINT}\n{FINGERPRINT}"],
)  # fmt: skip
def test_what_is_no_fingerprint(written: str) -> None:
    with pytest.raises(InputError, match="ten groups of four hexadecimal digits") as caught:
        identity.parse_fingerprint(written)
    assert "hsm-signer identity" in (caught.value.hint or "")


# --- signatures --------------------------------------------------------------------------------------------

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def signed(key: ec.EllipticCurvePrivateKey = KEY, digest: bytes | None = None) -> InstallationSignature:
    signature = key.sign(digest or digest_of(), ec.ECDSA(Prehashed(hashes.SHA256())))
    return InstallationSignature(INSTALLATION, algorithms.spki_of(KEY.public_key()), signature)


PINNED = identity.fingerprint(signed().spki)


def check(signature: InstallationSignature) -> None:
    identity.check_signature(signature, digest_of(), PINNED)  # type: ignore[arg-type]


def test_a_signature_by_the_pinned_identity_holds() -> None:
    check(signed())


@pytest.mark.parametrize(
    "wrong",
    [
        signed(OTHER),
        signed(digest=digest_of(owner="mallory")),
        replace(signed(), signature=b""),
        replace(signed(), signature=bytes(64)),
        replace(signed(), signature=flip(signed().signature, 40)),
    ],
)
def test_any_other_signature_does_not(wrong: InstallationSignature) -> None:
    with pytest.raises(EnrolmentProofWrong):
        check(wrong)


@pytest.mark.parametrize(
    "spki", [algorithms.spki_of(OTHER.public_key()), SpkiDer(b"no key")], ids=["another", "none"]
)
def test_another_identity_is_told_as_such(spki: SpkiDer) -> None:
    with pytest.raises(IdentityChanged) as caught:
        check(replace(signed(OTHER), spki=spki))
    assert PINNED in caught.value.message
    assert identity.fingerprint(spki) in caught.value.message
    assert "initialised anew" in (caught.value.hint or "")

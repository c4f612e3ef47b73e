"""The origin of a card: an issuer's signature over its key, and the card's proof for one personalisation.

Layout and formulas are those of docs/understand/apdu.md, section Origin: ECDSA on P-256 with SHA-256, r || s.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from hsm_signer.errors import CardOriginMissing, CardOriginWrong, InputError
from hsm_signer.types import COMPRESSED_POINT_LENGTH, ORIGIN_LENGTH, RAW_SIGNATURE_LENGTH

ISSUE_LABEL = b"hsm-signer/2/card-issue"
PROOF_LABEL = b"hsm-signer/2/card-origin"
MAX_PEM = 1 << 16
"""Bytes of a file with an issuer's key or certificate."""
_HALF = RAW_SIGNATURE_LENGTH // 2
_ECDSA = ec.ECDSA(hashes.SHA256())

Issuer = ec.EllipticCurvePublicKey
"""An issuer's public key, on P-256."""


def issuer_from_pem(pem: bytes, what: str) -> Issuer:
    """Load an issuer's public key from PEM, a PUBLIC KEY or a CERTIFICATE; ``what`` names it in errors.

    A certificate is taken for its key alone: whoever names it trusts it. Raises InputError.
    """
    # Here and not above: signing does without.
    from cryptography import x509

    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            key: object = x509.load_pem_x509_certificate(pem).public_key()
        else:
            key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{what}: expected a public key or a certificate, PEM") from None
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise InputError(f"{what}: expected a key on P-256")
    return key


def issuer_key_from_pem(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Load an issuer's private key from PEM, without a passphrase. Raises InputError."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise InputError(
            f"{what}: expected a private key without a passphrase",
            hint="openssl pkey -in KEY.pem -out PLAIN.pem writes one; delete it when the cards are issued",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{what}: expected a private key, PEM") from None
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
        raise InputError(f"{what}: expected a key on P-256")
    return key


def certify(key: ec.EllipticCurvePrivateKey, origin_point: bytes, serial: bytes) -> bytes:
    """Sign a card's origin point, 33 bytes, and serial, 8 bytes, as an issuer: r || s, 64 bytes."""
    r, s = utils.decode_dss_signature(key.sign(ISSUE_LABEL + origin_point + serial, _ECDSA))
    return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")


def check_origin(origin: bytes | None, card_point: bytes, serial: bytes, issuers: tuple[Issuer, ...]) -> None:
    """Check that a card is of one of ``issuers`` and that ``card_point`` is its own.

    ``origin``: the certificate of origin and the proof, 161 bytes, or None; ``card_point``: 65 bytes;
    ``serial``: 8 bytes, all as the card answered. Raises CardOriginMissing, CardOriginWrong.
    """
    if origin is None:
        raise CardOriginMissing(
            "the card proves no origin, and only cards of known issuers are enrolled here",
            hint="take a card that was issued: hsm-signer card info CARD lists origin among its features",
        )
    if len(origin) != ORIGIN_LENGTH:
        raise CardOriginWrong(f"card origin: expected {ORIGIN_LENGTH} bytes, got {len(origin)}")
    point = origin[:COMPRESSED_POINT_LENGTH]
    signature = origin[COMPRESSED_POINT_LENGTH:-RAW_SIGNATURE_LENGTH]
    if not any(_holds(issuer, ISSUE_LABEL + point + serial, signature) for issuer in issuers):
        raise CardOriginWrong(
            "the card was issued by nobody whose cards are enrolled here",
            hint="the card is of another issuer, or is not the card that it says it is",
        )
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise CardOriginWrong("card origin: expected a compressed point of P-256") from None
    if not _holds(key, PROOF_LABEL + card_point + serial, origin[-RAW_SIGNATURE_LENGTH:]):
        raise CardOriginWrong(
            "the proof of the card's origin is not one for this card's point",
            hint="something between card and server has put another point in its place",
        )


def _holds(key: ec.EllipticCurvePublicKey, signed: bytes, signature: bytes) -> bool:
    r, s = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
    try:
        key.verify(utils.encode_dss_signature(r, s), signed, _ECDSA)
    except InvalidSignature:
        return False
    return True


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """What an installation wants to know of the cards that it enrols."""

    issuers: tuple[Issuer, ...] = ()
    required: bool = False
    """Whether cards that are of none of the issuers are refused."""

    def assurance(self, origin: bytes | None, card_point: bytes, serial: bytes) -> int:
        """Return the record's assurance: 1 for a card of one of the issuers, else 0.

        Arguments as of :func:`check_origin`. Raises what it raises, where an origin is required.
        """
        try:
            check_origin(origin, card_point, serial, self.issuers)
        except (CardOriginMissing, CardOriginWrong):
            if self.required:
                raise
            return 0
        return 1


def assurance_in_words(assurance: int) -> str:
    """Say what a record's assurance means."""
    if assurance == 0:
        return "0 (the card's origin was not checked: the workstation was trusted)"
    return f"{assurance} (the card was checked to be of an issuer that the installation knows)"

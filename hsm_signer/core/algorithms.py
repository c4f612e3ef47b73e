"""Public keys on the host: key types, SubjectPublicKeyInfo, signature encodings, verification.

Only public values come here. Verification is by `cryptography`; the token never verifies its own work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from hsm_signer.errors import AlgorithmUnsuitable, InputError, SignatureInvalid
from hsm_signer.types import POINT_LENGTH, Algorithm, HashName, KeySpec, SpkiDer

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Verify = Callable[[bytes, bytes], None]
"""(digest, or for Ed25519 the message; signature) -> None, or SignatureInvalid."""

_HASHES: dict[HashName, hashes.HashAlgorithm] = {
    HashName.SHA256: hashes.SHA256(),
    HashName.SHA384: hashes.SHA384(),
    HashName.SHA512: hashes.SHA512(),
}
CURVES: dict[KeySpec, ec.EllipticCurve] = {
    KeySpec.P256: ec.SECP256R1(),
    KeySpec.P384: ec.SECP384R1(),
    KeySpec.P521: ec.SECP521R1(),
}
EC_PARAMS: dict[KeySpec, bytes] = {
    KeySpec.P256: bytes.fromhex("06082a8648ce3d030107"),
    KeySpec.P384: bytes.fromhex("06052b81040022"),
    KeySpec.P521: bytes.fromhex("06052b81040023"),
    KeySpec.ED25519: bytes.fromhex("130c656477617264733235353139"),
}
"""CKA_EC_PARAMS: DER OBJECT IDENTIFIER of the named curve (RFC 5480, 2.1.1.1); for Ed25519 the
PrintableString "edwards25519" (PKCS#11 v3.0, 2.3.10)."""

_DIGEST_INFO: dict[HashName, bytes] = {
    HashName.SHA256: bytes.fromhex("3031300d060960864801650304020105000420"),
    HashName.SHA384: bytes.fromhex("3041300d060960864801650304020205000430"),
    HashName.SHA512: bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""DigestInfo without the digest (RFC 8017, 9.2, note 1)."""


def digest_info(hash_name: HashName, digest: bytes) -> bytes:
    """Encode a digest as DigestInfo, which RSASSA-PKCS1-v1_5 pads (RFC 8017, 9.2)."""
    return _DIGEST_INFO[hash_name] + digest


def ecdsa_input(spec: KeySpec, digest: bytes) -> bytes:
    """Cut a digest to its leftmost bits, as many as the curve's order has (FIPS 186-5, 6.4.1).

    Tokens should do this (PKCS#11 v2.40, 2.3.6), not all do.
    """
    return digest[: (CURVES[spec].key_size + 7) // 8]


def ecdsa_der(raw: bytes) -> bytes:
    """Convert r || s of equal lengths, as PKCS#11 gives it, to DER Ecdsa-Sig-Value (RFC 3279, 2.2.3)."""
    half = len(raw) // 2
    return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


@lru_cache(maxsize=256)
def load_spki(spki: bytes) -> PublicKey:
    """Load a supported public key from DER SubjectPublicKeyInfo; raises InputError for anything else."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError("public key: expected a DER SubjectPublicKeyInfo") from error
    return _supported(key)


def load_public_pem(pem: bytes) -> SpkiDer:
    """Convert PEM PUBLIC KEY to DER SubjectPublicKeyInfo; raises InputError."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError("public key: expected a PEM file with BEGIN PUBLIC KEY") from error
    return spki_of(_supported(key))


def spki_of(key: PublicKey) -> SpkiDer:
    """Encode a public key as DER SubjectPublicKeyInfo."""
    return SpkiDer(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def spki_pem(spki: SpkiDer) -> str:
    """Convert DER SubjectPublicKeyInfo to PEM PUBLIC KEY, as openssl reads it."""
    return load_spki(spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _supported(key: object) -> PublicKey:
    if isinstance(key, rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in {c.name for c in CURVES.values()}:
        return key
    raise InputError("public key: expected RSA, P-256, P-384, P-521 or Ed25519")


def rsa_spki(modulus: bytes, exponent: bytes) -> SpkiDer:
    """Make the SubjectPublicKeyInfo of an RSA key from CKA_MODULUS and CKA_PUBLIC_EXPONENT, big endian."""
    numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
    return spki_of(numbers.public_key())


def ec_spki(spec: KeySpec, ec_point: bytes) -> SpkiDer:
    """Make the SubjectPublicKeyInfo of an EC key from CKA_EC_POINT; raises ValueError off the curve."""
    point = octets(ec_point, POINT_LENGTHS[spec])
    if spec is KeySpec.ED25519:
        return spki_of(ed25519.Ed25519PublicKey.from_public_bytes(point))
    return spki_of(ec.EllipticCurvePublicKey.from_encoded_point(CURVES[spec], point))


POINT_LENGTHS = {KeySpec.P256: POINT_LENGTH, KeySpec.P384: 97, KeySpec.P521: 133, KeySpec.ED25519: 32}
"""Bytes of a public point: 04 || x || y, or the encoding of RFC 8032."""


def octets(ec_point: bytes, length: int) -> bytes:
    """Unwrap CKA_EC_POINT, which tokens give as DER OCTET STRING or bare (PKCS#11 v2.40, 2.3.3).

    ``length`` is the point's own: a bare point whose x begins like a DER length is still a bare point.
    """
    if len(ec_point) != length and len(ec_point) > 2 and ec_point[0] == 0x04:
        if ec_point[1] < 0x80 and ec_point[1] == len(ec_point) - 2:
            return ec_point[2:]
        if ec_point[1] == 0x81 and ec_point[2] == len(ec_point) - 3:
            return ec_point[3:]
    return ec_point


def ec_point_of(spki: SpkiDer) -> bytes:
    """Return the uncompressed point, 04 || x || y, of an EC key."""
    key = load_spki(spki)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise AlgorithmUnsuitable("public key: expected an EC key")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def is_p256_point(point: bytes) -> bool:
    """Tell whether a point is 65 bytes, 04 || x || y, on P-256 (docs/understand/protocol.md, 7, step 1)."""
    if len(point) != POINT_LENGTH or point[0] != 0x04:
        return False
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        return False
    return True


def key_spec_of(spki: SpkiDer) -> KeySpec:
    """Return the type of a public key; raises AlgorithmUnsuitable for an RSA size that cannot be enrolled."""
    key = load_spki(spki)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeySpec.ED25519
    if isinstance(key, ec.EllipticCurvePublicKey):
        return next(spec for spec, curve in CURVES.items() if curve.name == key.curve.name)
    for spec in KeySpec:
        if spec.rsa_bits == key.key_size:
            return spec
    raise AlgorithmUnsuitable(f"public key: RSA of {key.key_size} bits; expected 2048, 3072 or 4096")


def check_more_algorithms(key: KeySpec, more: Iterable[Algorithm]) -> None:
    """Raise AlgorithmUnsuitable unless all of ``more`` fit the key."""
    for algorithm in more:
        if algorithm not in key.algorithms:
            fitting = ", ".join(fits.value for fits in key.algorithms)
            raise AlgorithmUnsuitable(
                f"{algorithm.value} does not fit a key of type {key.value}", hint=f"what fits: {fitting}"
            )


def verifier(spki: SpkiDer, algorithm: Algorithm) -> Verify:
    """Make a function that verifies under one key and algorithm; AlgorithmUnsuitable if they do not fit."""
    key = load_spki(spki)
    hash_name = algorithm.hash
    if hash_name is None:
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise AlgorithmUnsuitable("ed25519 needs an Ed25519 key")
        return _raising(lambda message, signature: key.verify(signature, message))
    prehashed = utils.Prehashed(_HASHES[hash_name])
    if algorithm.is_ecdsa:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise AlgorithmUnsuitable(f"{algorithm.value} needs an EC key")
        ecdsa = ec.ECDSA(prehashed)
        return _raising(lambda digest, signature: key.verify(signature, digest, ecdsa))
    if not isinstance(key, rsa.RSAPublicKey):
        raise AlgorithmUnsuitable(f"{algorithm.value} needs an RSA key")
    scheme: padding.PSS | padding.PKCS1v15 = padding.PKCS1v15()
    if algorithm.is_pss:
        scheme = padding.PSS(padding.MGF1(_HASHES[hash_name]), hash_name.length)
    return _raising(lambda digest, signature: key.verify(signature, digest, scheme, prehashed))


def verifiers(spki: SpkiDer) -> dict[Algorithm, Verify]:
    """Make a verifying function for every algorithm that fits the key, as :func:`verifier` does."""
    fitting: dict[Algorithm, Verify] = {}
    for algorithm in Algorithm:
        with suppress(AlgorithmUnsuitable):
            fitting[algorithm] = verifier(spki, algorithm)
    return fitting


def holds(verify: Verify, signed: bytes, signature: bytes) -> bool:
    """Tell whether ``verify`` accepts the signature."""
    try:
        verify(signed, signature)
    except SignatureInvalid:
        return False
    return True


def _raising(verify: Callable[[bytes, bytes], None]) -> Verify:
    def checked(signed: bytes, signature: bytes) -> None:
        try:
            verify(signed, signature)
        except (InvalidSignature, ValueError) as error:
            raise SignatureInvalid("the signature does not verify") from error

    return checked

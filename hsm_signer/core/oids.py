"""Object identifiers of hashes, curves and signature algorithms; the parameters of RSASSA-PSS.

Pure functions over dotted decimal strings (CSC API 2.0.0.2, 5) and DER. What is not known is None: only the
caller knows which parameter of which request that was.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from hsm_signer.types import Algorithm, HashName, KeySpec

HASH_OIDS: dict[HashName, str] = {
    HashName.SHA256: "2.16.840.1.101.3.4.2.1",
    HashName.SHA384: "2.16.840.1.101.3.4.2.2",
    HashName.SHA512: "2.16.840.1.101.3.4.2.3",
}
"""NIST's own (RFC 5754, 2)."""

CURVE_OIDS: dict[KeySpec, str] = {
    KeySpec.P256: "1.2.840.10045.3.1.7",
    KeySpec.P384: "1.3.132.0.34",
    KeySpec.P521: "1.3.132.0.35",
}
"""RFC 5480, 2.1.1.1."""

KEY_LENGTHS: dict[KeySpec, int] = {
    KeySpec.P256: 256,
    KeySpec.P384: 384,
    KeySpec.P521: 521,
    KeySpec.RSA2048: 2048,
    KeySpec.RSA3072: 3072,
    KeySpec.RSA4096: 4096,
    KeySpec.ED25519: 256,
}
"""Bits of the modulus, or of the curve's field."""


class Family(Enum):
    """A signature algorithm without its hash."""

    PKCS1 = "RSASSA-PKCS1-v1_5"
    PSS = "RSASSA-PSS"
    ECDSA = "ECDSA"


class SignOid(NamedTuple):
    """The meaning of a signature algorithm's identifier."""

    family: Family
    hash: HashName | None
    """None where it says nothing of the hash: RSA and EC keys as such, and RSASSA-PSS."""


RSA = "1.2.840.113549.1.1.1"
"""rsaEncryption (RFC 8017, appendix A.1), which stands for RSASSA-PKCS1-v1_5 with a hash named beside it."""
RSASSA_PSS = "1.2.840.113549.1.1.10"
"""id-RSASSA-PSS (RFC 8017, appendix A.2.3); its parameters name the hash."""
EC = "1.2.840.10045.2.1"
"""id-ecPublicKey (RFC 5480, 2.1.1), which stands for ECDSA with a hash named beside it."""
ED25519 = "1.3.101.112"
"""id-Ed25519 (RFC 8410, 3)."""

SIGN_OIDS: dict[str, SignOid] = {
    RSA: SignOid(Family.PKCS1, None),
    "1.2.840.113549.1.1.11": SignOid(Family.PKCS1, HashName.SHA256),
    "1.2.840.113549.1.1.12": SignOid(Family.PKCS1, HashName.SHA384),
    "1.2.840.113549.1.1.13": SignOid(Family.PKCS1, HashName.SHA512),
    RSASSA_PSS: SignOid(Family.PSS, None),
    EC: SignOid(Family.ECDSA, None),
    "1.2.840.10045.4.3.2": SignOid(Family.ECDSA, HashName.SHA256),
    "1.2.840.10045.4.3.3": SignOid(Family.ECDSA, HashName.SHA384),
    "1.2.840.10045.4.3.4": SignOid(Family.ECDSA, HashName.SHA512),
}
"""Those that sign a digest (RFC 8017, appendix A.2.4; RFC 5758, 3.2). Ed25519 signs messages, and so is not
among them."""

_BY_HASH_OID = {oid: hash_name for hash_name, oid in HASH_OIDS.items()}


def hash_of(oid: str) -> HashName | None:
    """Return the hash of an identifier; None for any other than SHA-256, SHA-384 and SHA-512."""
    return _BY_HASH_OID.get(oid)


def family_of(algorithm: Algorithm) -> Family | None:
    """Return the family of an algorithm, which leaves the hash open; None for Ed25519."""
    if algorithm.is_pss:
        return Family.PSS
    if algorithm.is_rsa:
        return Family.PKCS1
    return Family.ECDSA if algorithm.is_ecdsa else None


def algorithm_of(family: Family, hash_name: HashName) -> Algorithm:
    """Return the algorithm of a family and a hash."""
    return _BY_FAMILY[family, hash_name]


_BY_FAMILY: dict[tuple[Family, HashName], Algorithm] = {
    (family, algorithm.hash): algorithm
    for algorithm in Algorithm
    if (family := family_of(algorithm)) is not None and algorithm.hash is not None
}


def oids_of(algorithms: Iterable[Algorithm]) -> tuple[str, ...]:
    """Return the identifiers by which one of these can be requested, in the order of :data:`SIGN_OIDS`."""
    allowed = frozenset(algorithms)
    families = {family_of(algorithm) for algorithm in allowed}
    found = [
        oid
        for oid, (family, hash_name) in SIGN_OIDS.items()
        if (family in families if hash_name is None else algorithm_of(family, hash_name) in allowed)
    ]
    return (*found, *([ED25519] if Algorithm.ED25519 in allowed else []))


# --- DER ---------------------------------------------------------------------------------------------------

NULL = bytes.fromhex("0500")
"""What RFC 8017, appendix A.2.4, gives RSASSA-PKCS1-v1_5 for parameters."""

_MGF1 = bytes.fromhex("06092a864886f70d010108")
_HASH_IDENTIFIERS: dict[HashName, bytes] = {
    HashName.SHA256: bytes.fromhex("0609608648016503040201"),
    HashName.SHA384: bytes.fromhex("0609608648016503040202"),
    HashName.SHA512: bytes.fromhex("0609608648016503040203"),
}


def pss_params(hash_name: HashName) -> bytes:
    """Encode RSASSA-PSS-params (RFC 8017, appendix A.2.3) as DER: hash, MGF1 with it, salt as long as it.

    With NULL in the hash identifiers and without the trailer field, whose value is the default's.
    """
    return _pss_params(hash_name, NULL, NULL, b"")


def pss_hash(params: bytes) -> HashName | None:
    """Return the hash of RSASSA-PSS-params in DER; None unless they are as :func:`pss_params` makes them.

    NULL may be left out of either hash identifier (RFC 4055, 2.1, has recipients accept both), and the
    trailer field may be written out though DER leaves defaults out.
    """
    return _BY_PSS_PARAMS.get(params)


def _pss_params(hash_name: HashName, null: bytes, mgf_null: bytes, trailer: bytes) -> bytes:
    identifier = _HASH_IDENTIFIERS[hash_name]
    return _sequence(
        _tagged(0, _sequence(identifier + null))
        + _tagged(1, _sequence(_MGF1 + _sequence(identifier + mgf_null)))
        + _tagged(2, bytes([0x02, 0x01, hash_name.length]))
        + trailer
    )


def _sequence(contents: bytes) -> bytes:
    return bytes([0x30, len(contents)]) + contents  # always shorter than 128 bytes


def _tagged(number: int, contents: bytes) -> bytes:
    return bytes([0xA0 | number, len(contents)]) + contents


_BY_PSS_PARAMS = {
    _pss_params(hash_name, null, mgf_null, trailer): hash_name
    for hash_name in HashName
    for null in (NULL, b"")
    for mgf_null in (NULL, b"")
    for trailer in (b"", _tagged(3, bytes.fromhex("020101")))
}

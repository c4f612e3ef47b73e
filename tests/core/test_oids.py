"""Identifiers held against what `cryptography` and asn1crypto make of the same things."""

from __future__ import annotations

import pytest
from asn1crypto import algos, keys
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hsm_signer.core import algorithms, oids
from hsm_signer.types import Algorithm, HashName, KeySpec

HASHING = [each for each in Algorithm if each.hash is not None]


@pytest.mark.parametrize("hash_name", HashName)
def test_hashes(hash_name: HashName) -> None:
    oid = oids.HASH_OIDS[hash_name]
    assert algos.DigestAlgorithmId(oid).native == hash_name.value
    assert oids.hash_of(oid) is hash_name


@pytest.mark.parametrize("oid", ["1.3.14.3.2.26", "2.16.840.1.101.3.4.2.4", "sha256", ""])
def test_other_hashes_are_unknown(oid: str) -> None:
    assert oids.hash_of(oid) is None


@pytest.mark.parametrize("spec", algorithms.CURVES)
def test_curves(spec: KeySpec) -> None:
    curve: type[ec.EllipticCurve] = ec.get_curve_for_oid(x509.ObjectIdentifier(oids.CURVE_OIDS[spec]))
    assert isinstance(algorithms.CURVES[spec], curve)
    assert keys.NamedCurve(oids.CURVE_OIDS[spec]).dump() == algorithms.EC_PARAMS[spec]


def test_every_curve_and_length_is_there() -> None:
    assert set(oids.CURVE_OIDS) == set(algorithms.CURVES)
    assert set(oids.KEY_LENGTHS) == set(KeySpec)
    for spec, length in oids.KEY_LENGTHS.items():
        if spec.rsa_bits is not None:
            assert length == spec.rsa_bits
        elif spec.is_ecdsa:
            assert length == algorithms.CURVES[spec].key_size


@pytest.mark.parametrize("algorithm", HASHING, ids=lambda each: each.value)
def test_family_and_hash_make_the_algorithm_again(algorithm: Algorithm) -> None:
    family = oids.family_of(algorithm)
    assert family is not None
    assert algorithm.hash is not None
    assert oids.algorithm_of(family, algorithm.hash) is algorithm


def test_ed25519_signs_no_hash() -> None:
    assert oids.family_of(Algorithm.ED25519) is None
    assert oids.ED25519 not in oids.SIGN_OIDS
    assert x509.SignatureAlgorithmOID.ED25519.dotted_string == oids.ED25519


NAMES = {
    "1.2.840.113549.1.1.1": ("rsassa_pkcs1v15", oids.Family.PKCS1),
    "1.2.840.113549.1.1.10": ("rsassa_pss", oids.Family.PSS),
    "1.2.840.113549.1.1.11": ("sha256_rsa", oids.Family.PKCS1),
    "1.2.840.113549.1.1.12": ("sha384_rsa", oids.Family.PKCS1),
    "1.2.840.113549.1.1.13": ("sha512_rsa", oids.Family.PKCS1),
    "1.2.840.10045.4.3.2": ("sha256_ecdsa", oids.Family.ECDSA),
    "1.2.840.10045.4.3.3": ("sha384_ecdsa", oids.Family.ECDSA),
    "1.2.840.10045.4.3.4": ("sha512_ecdsa", oids.Family.ECDSA),
}
"""As asn1crypto names them."""


@pytest.mark.parametrize("oid", NAMES)
def test_signature_algorithms(oid: str) -> None:
    name, family = NAMES[oid]
    assert algos.SignedDigestAlgorithmId(oid).native == name
    assert oids.SIGN_OIDS[oid].family is family
    hash_name = oids.SIGN_OIDS[oid].hash
    said = name.split("_")[0]
    assert (None if hash_name is None else hash_name.value) == (said if "sha" in said else None)


def test_no_other_signature_algorithm_is_known() -> None:
    assert set(oids.SIGN_OIDS) == {*NAMES, oids.EC}
    assert keys.PublicKeyAlgorithmId(oids.EC).native == "ec"
    assert keys.PublicKeyAlgorithmId(oids.RSA).native == "rsa"
    assert oids.SIGN_OIDS[oids.EC] == (oids.Family.ECDSA, None)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (
            KeySpec.RSA2048.algorithms,
            [oids.RSA, *(f"1.2.840.113549.1.1.{last}" for last in (11, 12, 13)), oids.RSASSA_PSS],
        ),
        (KeySpec.P256.algorithms, [oids.EC, *(f"1.2.840.10045.4.3.{last}" for last in (2, 3, 4))]),
        ((Algorithm.ECDSA_SHA384,), [oids.EC, "1.2.840.10045.4.3.3"]),
        ((Algorithm.RSA_PSS_SHA512,), [oids.RSASSA_PSS]),
        ((Algorithm.ED25519,), [oids.ED25519]),
        ((), []),
    ],
)
def test_identifiers_of_what_a_record_allows(allowed: tuple[Algorithm, ...], expected: list[str]) -> None:
    assert list(oids.oids_of(allowed)) == expected


# --- parameters of RSASSA-PSS ------------------------------------------------------------------------------


def made_by_asn1crypto(hash_name: str, mgf_hash: str, salt: int, *, null: bool = True) -> bytes:
    """DER RSASSA-PSS-params."""

    def identifier(name: str) -> algos.DigestAlgorithm:
        made = algos.DigestAlgorithm({"algorithm": name})
        if not null:
            made["parameters"] = None
        return made

    params = algos.RSASSAPSSParams(
        {
            "hash_algorithm": identifier(hash_name),
            "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": identifier(mgf_hash)},
            "salt_length": salt,
        }
    )
    return bytes(params.dump())


@pytest.mark.parametrize("hash_name", HashName)
def test_the_parameters_are_those_another_library_writes(hash_name: HashName) -> None:
    name = hash_name.value
    assert oids.pss_params(hash_name) == made_by_asn1crypto(name, name, hash_name.length)
    read = algos.RSASSAPSSParams.load(oids.pss_params(hash_name), strict=True)
    assert read["hash_algorithm"]["algorithm"].native == name
    assert read["mask_gen_algorithm"]["algorithm"].native == "mgf1"
    assert read["mask_gen_algorithm"]["parameters"]["algorithm"].native == name
    assert read["salt_length"].native == hash_name.length
    assert read["trailer_field"].native == "trailer_field_bc"


@pytest.mark.parametrize("hash_name", HashName)
@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("trailer", [True, False])
def test_each_way_to_write_the_parameters_is_read(hash_name: HashName, null: bool, trailer: bool) -> None:
    name = hash_name.value
    params = made_by_asn1crypto(name, name, hash_name.length, null=null)
    if trailer:
        contents = params[2:] + bytes.fromhex("a303020101")
        params = bytes([0x30, len(contents)]) + contents
        assert algos.RSASSAPSSParams.load(params, strict=True)["trailer_field"].native == "trailer_field_bc"
    assert ((b"\x05\x00" in params), params.endswith(b"\x02\x01\x01")) == (null, trailer)
    assert oids.pss_hash(params) is hash_name


@pytest.mark.parametrize(
    "params",
    [
        b"",
        bytes.fromhex("3000"),  # the defaults: SHA-1
        oids.NULL,
        made_by_asn1crypto("sha256", "sha1", 32),
        made_by_asn1crypto("sha256", "sha384", 32),
        made_by_asn1crypto("sha256", "sha256", 20),
        made_by_asn1crypto("sha256", "sha256", 222),
        made_by_asn1crypto("sha1", "sha1", 20),
        oids.pss_params(HashName.SHA256) + b"\x00",
        oids.pss_params(HashName.SHA256)[:-1],
    ],
    ids=["none", "defaults", "null", "mgf-sha1", "mgf-other", "salt-20", "salt-222", "sha1", "more", "less"],
)
def test_other_parameters_are_unknown(params: bytes) -> None:
    assert oids.pss_hash(params) is None

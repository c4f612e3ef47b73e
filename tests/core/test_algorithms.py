"""PK on the host: which keys are taken, how signatures are encoded and verified."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, utils, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from hsm_signer.core import algorithms
from hsm_signer.errors import AlgorithmUnsuitable, InputError, SignatureInvalid
from hsm_signer.types import Algorithm, HashName, KeySpec, SpkiDer

RSA = rsa.generate_private_key(65537, 2048)
EC = {spec: ec.generate_private_key(curve) for spec, curve in algorithms.CURVES.items()}
ED25519 = ed25519.Ed25519PrivateKey.generate()
_HASHES: dict[HashName, hashes.HashAlgorithm] = {
    HashName.SHA256: hashes.SHA256(),
    HashName.SHA384: hashes.SHA384(),
    HashName.SHA512: hashes.SHA512(),
}


def spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> SpkiDer:
    return algorithms.spki_of(key.public_key())


def signed(algorithm: Algorithm, message: bytes) -> tuple[SpkiDer, bytes, bytes]:
    """(PK, what is verified, signature) by another implementation than the token's."""
    if algorithm.hash is None:
        return spki(ED25519), message, ED25519.sign(message)
    chosen = _HASHES[algorithm.hash]
    digest = hashlib.new(algorithm.hash.value, message).digest()
    if algorithm.is_ecdsa:
        key = EC[KeySpec.P256]
        return spki(key), digest, key.sign(message, ec.ECDSA(chosen))
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if algorithm.is_pss:
        scheme = padding.PSS(padding.MGF1(chosen), algorithm.hash.length)
    return spki(RSA), digest, RSA.sign(message, scheme, chosen)


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda each: each.value)
def test_verifier(algorithm: Algorithm) -> None:
    pk, digest, signature = signed(algorithm, b"message")
    verify = algorithms.verifier(pk, algorithm)
    verify(digest, signature)
    length = len(digest)
    for wrong_digest, wrong_signature in (
        (bytes([digest[0] ^ 1]) + digest[1:], signature),
        (digest, signature[:-1] + bytes([signature[-1] ^ 1])),
        (digest, signature[:-1]),
        (digest, b""),
        (bytes(length), signature),
        (digest, bytes(len(signature))),
    ):
        with pytest.raises(SignatureInvalid):
            verify(wrong_digest, wrong_signature)


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each.hash], ids=lambda each: each.value)
def test_digest_of_the_wrong_length_is_no_crash(algorithm: Algorithm) -> None:
    pk, digest, signature = signed(algorithm, b"message")
    for wrong in (b"", digest[:-1], digest + b"\0"):
        with pytest.raises(SignatureInvalid):
            algorithms.verifier(pk, algorithm)(wrong, signature)


def test_signatures_of_one_algorithm_are_none_of_another() -> None:
    made = {algorithm: signed(algorithm, b"message") for algorithm in Algorithm if algorithm.is_rsa}
    for algorithm, (pk, _, signature) in made.items():
        for other in made:
            digest = made[other][1]
            if other is algorithm:
                algorithms.verifier(pk, other)(digest, signature)
            else:
                with pytest.raises(SignatureInvalid):
                    algorithms.verifier(pk, other)(digest, signature)


def test_pss_salt_is_as_long_as_the_hash() -> None:
    chosen = hashes.SHA256()
    digest = hashlib.sha256(b"m").digest()
    for salt in (0, 20, 31, 33):
        signature = RSA.sign(b"m", padding.PSS(padding.MGF1(chosen), salt), chosen)
        with pytest.raises(SignatureInvalid):
            algorithms.verifier(spki(RSA), Algorithm.RSA_PSS_SHA256)(digest, signature)


def test_key_and_algorithm_must_fit() -> None:
    keys = [(spki(RSA), "rsa"), (spki(EC[KeySpec.P384]), "ec"), (spki(ED25519), "ed")]
    for algorithm in Algorithm:
        family = "rsa" if algorithm.is_rsa else "ec" if algorithm.is_ecdsa else "ed"
        for pk, own in keys:
            if own == family:
                algorithms.verifier(pk, algorithm)
            else:
                with pytest.raises(AlgorithmUnsuitable, match="needs an"):
                    algorithms.verifier(pk, algorithm)


# --- key types ---------------------------------------------------------------------------------------------


def test_key_types_are_told_by_the_key_itself() -> None:
    for spec, key in EC.items():
        assert algorithms.key_spec_of(spki(key)) is spec
    assert algorithms.key_spec_of(spki(ED25519)) is KeySpec.ED25519
    assert algorithms.key_spec_of(spki(RSA)) is KeySpec.RSA2048


def test_rsa_of_another_length() -> None:
    numbers = rsa.RSAPublicNumbers(65537, (1 << 2559) | 1)
    with pytest.raises(AlgorithmUnsuitable, match="RSA of 2560 bits; expected 2048, 3072 or 4096"):
        algorithms.key_spec_of(algorithms.spki_of(numbers.public_key()))


def test_other_keys_are_refused() -> None:
    others = (
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ec.generate_private_key(ec.SECP224R1()).public_key(),
        ed448.Ed448PrivateKey.generate().public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
        dsa.generate_private_key(1024).public_key(),
    )
    for key in others:
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(InputError, match="expected RSA, P-256, P-384, P-521 or Ed25519"):
            algorithms.load_spki(der)
        with pytest.raises(InputError, match="expected RSA"):
            algorithms.load_public_pem(pem)


@given(st.binary(max_size=200))
def test_anything_else_is_no_key(data: bytes) -> None:
    with pytest.raises(InputError, match="public key: expected a DER"):
        algorithms.load_spki(data)
    with pytest.raises(InputError, match="public key: expected a PEM"):
        algorithms.load_public_pem(data)


@pytest.mark.parametrize("position", range(0, 91, 3))
def test_damaged_key(position: int) -> None:
    """None of its bytes can change and leave a key."""
    der = spki(EC[KeySpec.P256])
    damaged = der[:position] + bytes([der[position] ^ 0x55]) + der[position + 1 :]
    with pytest.raises(InputError):
        algorithms.load_spki(damaged)


def test_pem_roundtrip() -> None:
    for pk in (spki(RSA), *map(spki, EC.values()), spki(ED25519)):
        assert algorithms.load_public_pem(algorithms.spki_pem(pk).encode()) == pk


def test_private_keys_are_not_taken_for_public_ones() -> None:
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    pem = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InputError, match="BEGIN PUBLIC KEY"):
        algorithms.load_public_pem(pem)


def test_every_key_type_has_a_default_among_its_algorithms() -> None:
    for spec in KeySpec:
        assert spec.default_algorithm in spec.algorithms
        assert list(spec.algorithms) == sorted(spec.algorithms, key=lambda each: each.number)
    assert {each for spec in KeySpec for each in spec.algorithms} == set(Algorithm)


def test_ecdsa_signs_whole_digests_by_default() -> None:
    allowed = {spec: [algorithm.value for algorithm in spec.default_algorithms] for spec in KeySpec}
    assert allowed[KeySpec.P256] == ["ecdsa-sha256"]
    assert allowed[KeySpec.P384] == ["ecdsa-sha256", "ecdsa-sha384"]
    assert allowed[KeySpec.P521] == ["ecdsa-sha256", "ecdsa-sha384", "ecdsa-sha512"]
    for spec in KeySpec:
        assert spec.default_algorithm in spec.default_algorithms
        assert set(spec.default_algorithms) <= set(spec.algorithms)
        if spec.is_ecdsa:
            for algorithm in spec.default_algorithms:
                assert algorithm.hash
                digest = bytes(range(algorithm.hash.length))
                assert algorithms.ecdsa_input(spec, digest) == digest
        else:
            assert spec.default_algorithms == spec.algorithms


# --- encodings ---------------------------------------------------------------------------------------------


@given(st.sampled_from([32, 48, 66]), st.data())
def test_raw_ecdsa_to_der(length: int, data: st.DataObject) -> None:
    r, s = (data.draw(st.integers(1, 256**length - 1)) for _ in range(2))
    raw = r.to_bytes(length, "big") + s.to_bytes(length, "big")
    assert utils.decode_dss_signature(algorithms.ecdsa_der(raw)) == (r, s)


def test_ecdsa_signs_the_leftmost_bits() -> None:
    """FIPS 186-5, 6.4.1: a longer digest is cut to the curve's length in whole bytes."""
    digest = bytes(range(64))
    for spec, length in ((KeySpec.P256, 32), (KeySpec.P384, 48), (KeySpec.P521, 64)):
        assert algorithms.ecdsa_input(spec, digest) == digest[:length]
        assert algorithms.ecdsa_input(spec, digest[:32]) == digest[:32]


@pytest.mark.parametrize("hash_name", list(HashName))
def test_digest_info(hash_name: HashName) -> None:
    """RSASSA-PKCS1-v1_5 by hand: what the token pads is what another implementation verifies."""
    digest = hashlib.new(hash_name.value, b"m").digest()
    info = algorithms.digest_info(hash_name, digest)
    numbers = RSA.private_numbers()
    padded = b"\0\1" + b"\xff" * (256 - 3 - len(info)) + b"\0" + info
    n = numbers.public_numbers.n
    signature = pow(int.from_bytes(padded, "big"), numbers.d, n).to_bytes(256, "big")
    RSA.public_key().verify(signature, b"m", padding.PKCS1v15(), _HASHES[hash_name])


@pytest.mark.parametrize("spec", list(EC))
def test_points(spec: KeySpec) -> None:
    """CKA_EC_POINT as DER OCTET STRING or bare, as tokens give it."""
    public = EC[spec].public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    header = b"\x04" + (bytes([len(point)]) if len(point) < 128 else bytes([0x81, len(point)]))
    for given_point in (point, header + point):
        assert algorithms.octets(given_point, len(point)) == point
        assert algorithms.ec_spki(spec, given_point) == spki(EC[spec])
    assert algorithms.ec_point_of(spki(EC[spec])) == point
    with pytest.raises(ValueError):
        algorithms.ec_spki(spec, point[:-1] + bytes([point[-1] ^ 1]))


def test_ed25519_point() -> None:
    raw = ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    for given_point in (raw, b"\x04\x20" + raw):
        assert algorithms.ec_spki(KeySpec.ED25519, given_point) == spki(ED25519)
    for pk in (spki(ED25519), spki(RSA)):
        with pytest.raises(AlgorithmUnsuitable):
            algorithms.ec_point_of(pk)


def test_p256_points_of_cards() -> None:
    point = EC[KeySpec.P256].public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    compressed = EC[KeySpec.P256].public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    assert algorithms.is_p256_point(point)
    for wrong in (
        b"",
        b"\0",
        compressed,
        point[:-1],
        point + b"\0",
        b"\6" + point[1:],
        point[:-1] + bytes([point[-1] ^ 1]),
        b"\4" + bytes(64),
        b"\4" + b"\xff" * 64,
    ):
        assert not algorithms.is_p256_point(wrong)


def test_rsa_spki() -> None:
    numbers = RSA.public_key().public_numbers()
    assert algorithms.rsa_spki(numbers.n.to_bytes(256, "big"), numbers.e.to_bytes(3, "big")) == spki(RSA)


@pytest.mark.parametrize(
    ("algorithm", "number", "name"),
    [
        (Algorithm.RSA_PKCS1_SHA256, 0x0101, "rsa-pkcs1-sha256"),
        (Algorithm.RSA_PKCS1_SHA384, 0x0102, "rsa-pkcs1-sha384"),
        (Algorithm.RSA_PKCS1_SHA512, 0x0103, "rsa-pkcs1-sha512"),
        (Algorithm.RSA_PSS_SHA256, 0x0111, "rsa-pss-sha256"),
        (Algorithm.RSA_PSS_SHA384, 0x0112, "rsa-pss-sha384"),
        (Algorithm.RSA_PSS_SHA512, 0x0113, "rsa-pss-sha512"),
        (Algorithm.ECDSA_SHA256, 0x0201, "ecdsa-sha256"),
        (Algorithm.ECDSA_SHA384, 0x0202, "ecdsa-sha384"),
        (Algorithm.ECDSA_SHA512, 0x0203, "ecdsa-sha512"),
        (Algorithm.ED25519, 0x0301, "ed25519"),
    ],
)
def test_numbers_of_the_protocol(algorithm: Algorithm, number: int, name: str) -> None:
    """Bound into every D: they can never change."""
    assert (algorithm.number, algorithm.value) == (number, name)
    assert Algorithm.numbered(number) is Algorithm.named(name) is algorithm
    bits = name.rpartition("sha")[2]
    assert (algorithm.hash and algorithm.hash.length) == (None if name == "ed25519" else int(bits) // 8)
    assert algorithm.is_pss == ("pss" in name)

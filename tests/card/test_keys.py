"""The card's own cryptography against vectors that others made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec

from card_applet_sim import keys
from card_applet_sim.constants import Combine
from tests.support.card.host import stream, token_point

NIST = Path(__file__).parents[1] / "vectors" / "nist"
DATA = "00112233445566778899AABBCCDDEEFF0001020304050607 08090A0B0C0D0E0F".replace(" ", "")
KEK = bytes(range(32)).hex()

# RFC 3394, section 4: (clause, bytes of KEK, bytes of data, ciphertext)
RFC3394 = [
    ("4.1", 16, 16, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"),
    ("4.2", 24, 16, "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D"),
    ("4.3", 32, 16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"),
    ("4.4", 24, 24, "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2"),
    ("4.5", 32, 24, "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"),
    ("4.6", 32, 32, "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"),
]


@pytest.mark.parametrize(("clause", "kek_length", "length", "expected"), RFC3394)
def test_kw_rfc3394(clause: str, kek_length: int, length: int, expected: str) -> None:
    kek, data = bytes.fromhex(KEK)[:kek_length], bytes.fromhex(DATA)[:length]
    assert keys.wrap(kek, data) == bytes.fromhex(expected), clause
    assert keys.unwrap(kek, bytes.fromhex(expected)) == data, clause


def nist(name: str) -> Iterator[dict[str, str]]:
    """Records of a CAVP file: lines ``NAME = value``, FAIL alone."""
    record: dict[str, str] = {}
    for line in (NIST / name).read_text(encoding="ascii").splitlines():
        if line.startswith(("#", "[")):
            continue
        if not line:
            if record:
                yield record
            record = {}
        else:
            key, _, value = line.partition(" = ")
            record[key] = value
    yield record


def test_kw_nist_encrypt() -> None:
    records = list(nist("KW_AE_256.txt"))
    assert len(records) == 100
    for record in records:
        wrapped = keys.wrap(bytes.fromhex(record["K"]), bytes.fromhex(record["P"]))
        assert wrapped == bytes.fromhex(record["C"]), record["COUNT"]


def test_kw_nist_decrypt() -> None:
    failures = 0
    for record in nist("KW_AD_256.txt"):
        kek, wrapped = bytes.fromhex(record["K"]), bytes.fromhex(record["C"])
        if "FAIL" in record:
            failures += 1
            with pytest.raises(keys.IntegrityError):
                keys.unwrap(kek, wrapped)
        else:
            assert keys.unwrap(kek, wrapped) == bytes.fromhex(record["P"]), record["COUNT"]
    assert failures == 20


@pytest.mark.parametrize("position", range(0, 320, 7))
def test_kw_every_region_is_under_the_integrity_check(position: int) -> None:
    wrapped = bytearray(keys.wrap(bytes(32), bytes(range(32))))
    wrapped[position // 8] ^= 1 << position % 8
    with pytest.raises(keys.IntegrityError) as caught:
        keys.unwrap(bytes(32), bytes(wrapped))
    assert str(caught.value) == "wrapped key does not open"


@pytest.mark.parametrize("position", range(8))
def test_kw_compares_all_of_the_initial_value(position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one byte of it differs after unwrapping, which no flipped bit of a ciphertext brings about."""
    right = bytearray.fromhex("A6A6A6A6A6A6A6A6")
    right[position] ^= 1
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_IV", bytes(right))
        wrapped = keys.wrap(bytes(32), bytes(range(32)))
    with pytest.raises(keys.IntegrityError):
        keys.unwrap(bytes(32), wrapped)


@pytest.mark.parametrize("length", [0, 8, 15, 17, 31, 33])
def test_kw_lengths(length: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        keys.wrap(bytes(32), bytes(length))
    with pytest.raises(ValueError, match="multiple of 8"):
        keys.unwrap(bytes(32), bytes(length + 8))


def test_kw_is_what_others_do() -> None:
    random = stream("kw")
    for _ in range(50):
        kek, key = random(32), random(32)
        assert keys.wrap(kek, key) == keywrap.aes_key_wrap(kek, key)


def test_cbc_sp800_38a() -> None:
    # NIST SP 800-38A, F.2.5 CBC-AES256.Encrypt
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    iv = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    assert keys.cbc(key, plain, iv).hex() == (
        "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"
        "39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b"
    )


def test_cbc_nist() -> None:
    records = list(nist("CBCMMT256.txt"))
    assert len(records) == 10
    for record in records:
        key, iv, plain = (bytes.fromhex(record[name]) for name in ("KEY", "IV", "PLAINTEXT"))
        assert keys.cbc(key, plain, iv) == bytes.fromhex(record["CIPHERTEXT"]), record["COUNT"]


def test_combine() -> None:
    key, value = bytes([0x0F]) * 32, bytes([0x3C]) * 32
    assert keys.combine(Combine.XOR, key, value) == bytes([0x33]) * 32
    # CBC by hand: two single blocks.
    first = keys.cbc(key, value[:16])
    second = keys.cbc(key, bytes(a ^ b for a, b in zip(first, value[16:], strict=True)))
    assert keys.combine(Combine.CBC, key, value) == first + second
    with pytest.raises(ValueError, match="basic"):
        keys.combine(Combine.NONE, key, value)
    with pytest.raises(ValueError):
        keys.xor(key, value[:31])


def test_ecdh_agrees() -> None:
    card = keys.CardKey.draw(stream("ecdh"))
    other = ec.derive_private_key(77, ec.SECP256R1())
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), card.point)
    assert card.agree(token_point(other)) == other.exchange(ec.ECDH(), public)


def test_ecdh_scalar_is_drawn_until_it_fits() -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    draws = [0, order, 2**256 - 1, 1]

    def random(length: int) -> bytes:
        return draws.pop(0).to_bytes(length, "big")

    assert keys.CardKey.draw(random).point == token_point(ec.derive_private_key(1, ec.SECP256R1()))
    assert not draws


def off_curve() -> bytes:
    point = bytearray(token_point())
    point[-1] ^= 1
    return bytes(point)


@pytest.mark.parametrize(
    "point",
    [
        b"",
        b"\x00",
        token_point()[:64],
        token_point() + b"\x00",
        b"\x02" + token_point()[1:33],
        b"\x06" + token_point()[1:],
        b"\x07" + token_point()[1:],
        off_curve(),
        b"\x04" + bytes(64),
        b"\x04" + b"\xff" * 64,
    ],
)
def test_ecdh_refuses_what_is_no_point(point: bytes) -> None:
    with pytest.raises(keys.PointError):
        keys.CardKey.draw(stream("point")).agree(point)


def test_random_source_must_keep_its_word() -> None:
    with pytest.raises(ValueError, match="wrong number"):
        keys.random_bytes(lambda length: bytes(length - 1), 16)

"""Chains: of this key, in order, and read from PEM."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hsm_signer.core import algorithms, certificates
from hsm_signer.errors import CertificateUnsuitable
from hsm_signer.types import MAX_BLOB

KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
SPKI = algorithms.spki_of(KEYS[0].public_key())


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def certificate(subject: int, issuer: int) -> bytes:
    """Key ``subject``'s, signed by key ``issuer``; long expired, which is not asked here."""
    made = (
        x509.CertificateBuilder()
        .subject_name(name(f"key {subject}"))
        .issuer_name(name(f"key {issuer}"))
        .public_key(KEYS[subject].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=1))
        .sign(KEYS[issuer], hashes.SHA256())
    )
    return made.public_bytes(Encoding.DER)


LEAF, MIDDLE, ROOT = certificate(0, 1), certificate(1, 2), certificate(2, 2)


@pytest.mark.parametrize("chain", [(), (LEAF,), (LEAF, MIDDLE), (LEAF, MIDDLE, ROOT)], ids=len)
def test_good_chains(chain: tuple[bytes, ...]) -> None:
    certificates.check_chain(chain, SPKI)
    if chain:
        assert certificates.from_pem(certificates.to_pem(chain).encode()) == chain


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ((MIDDLE,), "certificate 1: is not one of the credential's key"),
        ((MIDDLE, ROOT), "certificate 1: is not one"),
        ((LEAF, ROOT), "certificate 2: did not issue certificate 1"),
        ((LEAF, MIDDLE, MIDDLE), "certificate 3: did not issue certificate 2"),
        ((LEAF, LEAF), "certificate 2: did not issue certificate 1"),
        ((LEAF, b"\x30\x00"), "certificate 2: expected a certificate in DER"),
        ((LEAF + b"\0",), "certificate 1: expected a certificate in DER"),
        ((b"",), "certificate 1: expected a certificate in DER"),
        ((bytes(MAX_BLOB + 1),), "certificate 1: expected at most 65535 bytes"),
        ((LEAF,) * 11, "expected at most 10, got 11"),
    ],
)
def test_bad_chains(chain: tuple[bytes, ...], words: str) -> None:
    with pytest.raises(CertificateUnsuitable, match=words):
        certificates.check_chain(chain, SPKI)


def test_a_name_alone_makes_no_issuer() -> None:
    """The same name, another key: the signature tells."""
    forged = (
        x509.CertificateBuilder()
        .subject_name(name("key 1"))
        .issuer_name(name("key 2"))
        .public_key(KEYS[2].public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2030, 1, 1, tzinfo=UTC))
        .sign(KEYS[2], hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    with pytest.raises(CertificateUnsuitable, match="certificate 2: did not issue certificate 1"):
        certificates.check_chain((LEAF, forged), SPKI)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"\x30\x82",
        algorithms.spki_pem(SPKI).encode(),
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"#" * (certificates.MAX_PEM + 1),
    ],
    ids=["empty", "der", "public key", "no certificate", "large"],
)
def test_what_is_no_pem(pem: bytes) -> None:
    with pytest.raises(CertificateUnsuitable, match="certificates: expected"):
        certificates.from_pem(pem)

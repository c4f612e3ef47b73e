"""Certificate chains kept beside credentials: PEM, DER, and whether one is of the credential's key.

Whether anybody trusts the chain is not asked here, nor whether it has expired: who relies on a signature
decides that.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_signer.errors import CertificateUnsuitable
from hsm_signer.types import MAX_BLOB, MAX_CERTIFICATES

MAX_PEM = 1 << 20
"""Bytes of a file with a whole chain."""


def check_chain(chain: Sequence[bytes], spki: bytes) -> None:
    """Check that ``chain`` (DER each, leaf first) certifies ``spki`` (DER), each issued by the next.

    The empty chain is one: it stands for none. Raises CertificateUnsuitable.
    """
    if len(chain) > MAX_CERTIFICATES:
        raise CertificateUnsuitable(f"certificates: expected at most {MAX_CERTIFICATES}, got {len(chain)}")
    certificates = [_load(der, number) for number, der in enumerate(chain, start=1)]
    if certificates and _spki_of(certificates[0]) != spki:
        raise CertificateUnsuitable(
            "certificate 1: is not one of the credential's key",
            hint="expected the leaf first, made from the credential's own certificate request",
        )
    for number, (certificate, issuer) in enumerate(pairwise(certificates), start=1):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise CertificateUnsuitable(
                f"certificate {number + 1}: did not issue certificate {number}",
                hint="expected the leaf first, then each one's issuer",
            ) from None


def from_pem(pem: bytes) -> tuple[bytes, ...]:
    """Read the DER of every CERTIFICATE block (RFC 7468, 5), in order. Raises CertificateUnsuitable."""
    if len(pem) > MAX_PEM:
        raise CertificateUnsuitable(f"certificates: expected at most {MAX_PEM} bytes of PEM")
    try:
        with _no_warnings():
            loaded = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
        raise CertificateUnsuitable("certificates: expected PEM with BEGIN CERTIFICATE") from None
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in loaded)


def to_pem(chain: Sequence[bytes]) -> str:
    """Write certificates as CERTIFICATE blocks, in the same order. Raises CertificateUnsuitable."""
    loaded = (_load(der, number) for number, der in enumerate(chain, start=1))
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in loaded)


def _load(der: bytes, number: int) -> x509.Certificate:
    if len(der) > MAX_BLOB:
        raise CertificateUnsuitable(f"certificate {number}: expected at most {MAX_BLOB} bytes")
    try:
        with _no_warnings():
            return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
        raise CertificateUnsuitable(f"certificate {number}: expected a certificate in DER") from None


def _spki_of(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _no_warnings() -> warnings.catch_warnings[None]:
    """Silence warnings about certificates that are merely unusual."""
    return warnings.catch_warnings(action="ignore")

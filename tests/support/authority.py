"""A small certification authority: what a credential needs to sign documents that somebody else believes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Authority:
    """One key, one self-signed certificate, and the certificates it issues."""

    def __init__(self, name: str = "Test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3650 * DAY)
            .not_valid_after(now + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """What it issues with."""
        return self._key

    @property
    def certificate(self) -> bytes:
        """Its own, DER."""
        return self._certificate.public_bytes(Encoding.DER)

    def issue(self, request: str, *, begins: timedelta = -DAY, ends: timedelta = 30 * DAY) -> bytes:
        """A certificate to sign documents with, DER, for a PEM CERTIFICATE REQUEST whose signature holds.

        ``begins`` and ``ends`` count from now.
        """
        asked = x509.load_pem_x509_csr(request.encode("ascii"))
        assert asked.is_signature_valid
        now = datetime.now(UTC)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(self._name)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(Encoding.DER)

    def chain(self, request: str, *, begins: timedelta = -DAY, ends: timedelta = 30 * DAY) -> list[bytes]:
        """The issued certificate and the authority's own."""
        return [self.issue(request, begins=begins, ends=ends), self.certificate]


def _usage(*, sign: bool) -> x509.KeyUsage:
    """Of a signer of documents (digitalSignature, nonRepudiation), or of an authority."""
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=sign,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )

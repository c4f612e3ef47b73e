"""The front's end of TLS: context, certificate, and one for trying where there is none."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path

from hsm_signer.config.files import write_whole
from hsm_signer.config.service import TlsSettings
from hsm_signer.core import tls
from hsm_signer.errors import ConfigError
from hsm_signer.service.logs import Log

_log = Log(__name__)

TRIAL_DAYS = 397
"""What browsers take at most (CA/Browser Forum Baseline Requirements, 6.3.2)."""


def make_context(settings: TlsSettings, folder: Path) -> ssl.SSLContext:
    """TLS 1.2 and later, with the configured certificate; client certificates only with ``client_ca``.

    ``folder``: relative paths are relative to it. Raises ConfigError naming the setting.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings, folder)
    if settings.client_ca is not None:
        path = folder / settings.client_ca
        try:
            context.load_verify_locations(cafile=path)
        except OSError as error:
            raise ConfigError(f"tls.client_ca: {path}: {tls.words(error)}") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def load_certificate(context: ssl.SSLContext, settings: TlsSettings, folder: Path) -> None:
    """Certificate and key as the files have them now; for new connections. Raises ConfigError and leaves
    the context as it was."""
    certificate, key = folder / settings.certificate, folder / settings.key
    # Into another context first: OpenSSL takes the certificate before it sees that the key is not its own.
    for loaded in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        try:
            tls.load_certificate(loaded, certificate, key)
        except OSError as error:
            raise ConfigError(
                f"tls.certificate, tls.key: {certificate} and {key}: {tls.words(error)}",
                hint="PEM, the certificate's chain and its key, the key without a passphrase",
            ) from error


def make_certificate_for_trying(settings: TlsSettings, folder: Path, host: str) -> bool:
    """A self-signed certificate and its key where neither file is there; whether it was made.

    P-256, for localhost, this host's name and ``host``. Raises ConfigError where one of the two is there,
    or they cannot be written.
    """
    certificate, key = folder / settings.certificate, folder / settings.key
    there = certificate.exists(), key.exists()
    if all(there):
        return False
    if any(there):
        lacking, setting = (key, "tls.key") if there[0] else (certificate, "tls.certificate")
        raise ConfigError(
            f"{setting}: there is no file {lacking}",
            hint="put certificate and key there, or neither: then one for trying is made",
        )
    certificate_pem, key_pem = _self_signed(host)
    try:
        # The key first: its lack is what a half-finished start would leave.
        for path, pem, mode in ((key, key_pem, 0o600), (certificate, certificate_pem, 0o644)):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(path, pem, mode)
    except OSError as error:
        raise ConfigError(
            f"tls.certificate, tls.key: cannot be made in {certificate.parent}: {tls.words(error)}",
            hint="put a certificate and its key there",
        ) from error
    _log.warning(
        "certificate-made",
        file=certificate,
        notice="self-signed and good for trying only: put a certificate that clients trust in its place",
    )
    return True


def _self_signed(host: str) -> tuple[bytes, bytes]:
    # Here and not above: a service that has its certificate never needs it.
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    names: dict[x509.GeneralName, None] = {}
    for host_name in ("localhost", "127.0.0.1", "::1", socket.gethostname(), host):
        try:
            names[x509.IPAddress(ipaddress.ip_address(host_name))] = None
        except ValueError:
            with suppress(ValueError):  # a host name that is no DNS name
                names[x509.DNSName(host_name)] = None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hsm-signer, for trying")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=TRIAL_DAYS))
        .add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )

"""Certificates and keys for TLS from PEM files, and the words for what is wrong with one."""

from __future__ import annotations

import ssl
from pathlib import Path

from hsm_signer.errors import os_words


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None = None) -> None:
    """Load a chain and its key, which is in the same file where ``key`` is None; for new connections.

    Raises OSError, ssl.SSLError among them, which :func:`words` puts into words; the context may then hold
    the certificate without its key.
    """
    try:
        # OpenSSL would ask for a key's passphrase at the terminal.
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ValueError as error:  # a name that no file can have
        raise OSError(str(error)) from error


def words(error: OSError) -> str:
    """Describe an error of TLS or the file system: ``key values mismatch``, ``permission denied``."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return os_words(error).lower()


def _no_passphrase() -> str:
    raise OSError("the key has a passphrase")

"""Verify a signature with the `cryptography` package alone: nothing of hsm-signer is needed for that.

    python verify.py PUBLIC_KEY FILE SIGNATURE

PUBLIC_KEY is a PEM file, as `hsm-signer credential public-key USER` prints it. The algorithms are the ones
that hsm-signer signs with unless it is told another: ECDSA with the hash that suits the curve,
RSASSA-PKCS1-v1_5 with SHA-256, Ed25519.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import load_pem_public_key

HASHES = {"secp256r1": SHA256(), "secp384r1": SHA384(), "secp521r1": SHA512()}


def verify(pem: bytes, message: bytes, signature: bytes) -> None:
    """Raise InvalidSignature unless ``signature`` is one of ``message``."""
    key = load_pem_public_key(pem)
    if isinstance(key, EllipticCurvePublicKey):
        key.verify(signature, message, ECDSA(HASHES[key.curve.name]))
    elif isinstance(key, RSAPublicKey):
        key.verify(signature, message, PKCS1v15(), SHA256())
    elif isinstance(key, Ed25519PublicKey):
        key.verify(signature, message)
    else:
        raise InvalidSignature("a key of another kind")


if __name__ == "__main__":
    try:
        verify(*(Path(name).read_bytes() for name in sys.argv[1:4]))
    except InvalidSignature:
        sys.exit("the signature is NOT one of this file")
    print("good signature")

"""Signature activation data: an authorisation that its client keeps until it has it carried out.

Between the two requests nothing is kept here, so that any worker of any node takes it. It is sealed under a
key that this installation makes anew from its record MAC key for each, and for one client: whoever else has
it can neither use it nor read the card's answer in it.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm_signer.core.canonical import number, text, value
from hsm_signer.errors import FrameMalformed, InputError
from hsm_signer.service.clients import Identity
from hsm_signer.service.wire.operations import Activation, decode, encode
from hsm_signer.token.environment import SecureEnvironment

ACTIVATION_DOMAIN = "activation"
"""Of SecureEnvironment.tag."""
SALT_LENGTH = 16
_NONCE = bytes(12)
"""Each key seals once."""


def seal(environment: SecureEnvironment, client: Identity, activation: Activation) -> bytes:
    """Seal for ``client``: 16 random bytes, then AES-256-GCM of the MessagePack (NIST SP 800-38D)."""
    salt = secrets.token_bytes(SALT_LENGTH)
    return salt + AESGCM(_key(environment, client, salt)).encrypt(_NONCE, encode(activation), None)


def unseal(environment: SecureEnvironment, client: Identity, sealed: bytes) -> Activation:
    """Open what :func:`seal` made for this very client. Raises InputError for anything else."""
    salt, rest = sealed[:SALT_LENGTH], sealed[SALT_LENGTH:]
    try:
        return decode(AESGCM(_key(environment, client, salt)).decrypt(_NONCE, rest, None), Activation)
    except (InvalidTag, FrameMalformed):
        raise InputError("activation data: expected what this client got") from None


def _key(environment: SecureEnvironment, client: Identity, salt: bytes) -> bytes:
    """32 bytes, for the client and for how it was identified: by its certificate or without."""
    data = value(salt) + text(client.name) + number(client.certificate, 1)
    return environment.tag(ACTIVATION_DOMAIN, data)

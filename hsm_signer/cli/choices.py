"""The names of algorithms, keys and schemes as options take them.

Written out, so that `--help` need not build the types of a signature first; a test holds them to
:mod:`hsm_signer.types`.
"""

from __future__ import annotations

import click

ALGORITHMS = (
    "ecdsa-sha256",
    "ecdsa-sha384",
    "ecdsa-sha512",
    "rsa-pkcs1-sha256",
    "rsa-pkcs1-sha384",
    "rsa-pkcs1-sha512",
    "rsa-pss-sha256",
    "rsa-pss-sha384",
    "rsa-pss-sha512",
    "ed25519",
)
KEYS = ("p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096", "ed25519")
SCHEMES = ("rolling", "pin", "basic")
PIN_CHECKS = ("server", "card")
PIN_POLICIES = ("always", "session")


ALGORITHMS_IN_SHORT = "ecdsa-, rsa-pkcs1-, rsa-pss- with sha256, sha384 or sha512; ed25519"


def choice(values: tuple[str, ...]) -> click.Choice[str]:
    """One of these, in any case."""
    return click.Choice(values, case_sensitive=False)

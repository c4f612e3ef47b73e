"""The names of algorithms, keys and schemes as options take them."""

from __future__ import annotations

from collections.abc import Callable

import click

from hsm_signer.types import Algorithm, KeySpec

from .options import F

ALGORITHMS = tuple(algorithm.value for algorithm in Algorithm)
KEYS = tuple(key.value for key in KeySpec)
SCHEMES = ("rolling", "pin", "basic")
PIN_CHECKS = ("server", "card")
PIN_POLICIES = ("always", "session")

ALGORITHMS_IN_SHORT = "ecdsa-, rsa-pkcs1-, rsa-pss- with sha256, sha384 or sha512; ed25519"


def choice(values: tuple[str, ...]) -> click.Choice[str]:
    """One of these, in any case."""
    return click.Choice(values, case_sensitive=False)


def algorithm_option(words: str) -> Callable[[F], F]:
    """--algorithm; ``words``: what it does, and what happens without it."""
    return click.option(
        "--algorithm", type=choice(ALGORITHMS), metavar="NAME", help=f"{words} {ALGORITHMS_IN_SHORT}."
    )

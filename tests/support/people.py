"""Where the clone lies, and what tests sign; the users and their installation are of hsm_signer.testing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.testing import Home
from hsm_signer.types import Algorithm, Digest, DigestList

ROOT = Path(__file__).resolve().parents[2]
SOFTHSM_CONF = ROOT / "softhsm.conf"


def use_store(home: Home, url: str) -> None:
    """Have ``home`` use this store and no other."""
    (home.path / "store.db").unlink()
    file = home.path / CONFIG_FILE
    file.write_text(file.read_text().replace("sqlite:///store.db", url))
    assert home.config.store.url == url


def digests(*data: bytes, algorithm: Algorithm = Algorithm.ECDSA_SHA256) -> DigestList:
    """Digest list of these documents."""
    assert algorithm.hash is not None
    name = algorithm.hash.value
    return DigestList(tuple(Digest(hashlib.new(name, each).digest()) for each in data))

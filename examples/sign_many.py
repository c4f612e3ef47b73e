"""Sign many files through a service, with one PIN, and write each signature beside its file.

    python sign_many.py URL CA CARD FILE...

URL is the service's, CA a PEM file with the certificate to trust. The client's bearer token is in the
environment variable HSM_SIGNER_SERVER_TOKEN. The files are hashed with SHA-256, as keys of P-256 and RSA
sign unless they are told another algorithm.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import sys
from pathlib import Path

import hsm_signer


def main(url: str, ca: str, card: str, *names: str) -> None:
    """Sign the files ``names``; the service sees their digests and nothing else."""
    files = [Path(name) for name in names]
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").digest())
    with hsm_signer.connect(url, token=os.environ["HSM_SIGNER_SERVER_TOKEN"], ca=ca) as server:
        outcome = hsm_signer.sign_digests(
            server, card, digests, pin=lambda: getpass.getpass("PIN of the card: ")
        )
    for file, signature in zip(files, outcome.signatures, strict=True):
        file.with_name(f"{file.name}.sig").write_bytes(signature)
        print(f"{file}.sig: signed by {outcome.owner}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except hsm_signer.errors.SignerError as error:
        sys.exit(f"error: {error.message} [{error.code}]")

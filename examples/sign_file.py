"""Sign a file with an installation on this machine, and write the signature beside it.

    python sign_file.py HOME CARD FILE

HOME is the folder that `hsm-signer init` made, CARD is sim:PATH or pcsc:READER.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import hsm_signer


def main(home: str, card: str, name: str) -> None:
    """Sign the file ``name``."""
    file = Path(name)
    with hsm_signer.open_installation(home) as server:
        outcome = hsm_signer.sign(server, card, file, pin=lambda: getpass.getpass("PIN of the card: "))
    signature = file.with_name(f"{file.name}.sig")
    signature.write_bytes(outcome.signature)
    print(f"{signature}: signed by {outcome.owner}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except hsm_signer.errors.SignerError as error:
        sys.exit(f"error: {error.message} [{error.code}]")

"""``python -m hsm_signer`` is ``hsm-signer``."""

from __future__ import annotations

from .cli.main import entry

if __name__ == "__main__":
    entry()

"""``python -m hsm_signer.service.worker``."""

from __future__ import annotations

import resource
import sys

from .main import main

if __name__ == "__main__":
    # A PIN that is in memory must not stay in a file for ever.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())

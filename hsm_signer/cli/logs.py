"""The program's log records on standard error, in words: warnings always, all of them with ``--verbose``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .output import printable, say

PRODUCT = "hsm_signer"
"""Above the loggers of all its modules."""


class _Lines(logging.Handler):
    """``warning: ...``, ``info: ...``, ``debug: ...``, as :func:`output.warn` has it."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # what nobody can read must not stop a signature
            say(f"{record.levelname.lower()}: {printable(record.getMessage())}")


@contextmanager
def shown(*, verbose: bool) -> Iterator[None]:
    """Show log records until the block ends; ``verbose``: the product's of every level, not only warnings."""
    handler = _Lines()
    root, own = logging.getLogger(), logging.getLogger(PRODUCT)
    before = own.level
    root.addHandler(handler)
    own.setLevel(logging.DEBUG if verbose else logging.WARNING)
    try:
        yield
    finally:
        own.setLevel(before)
        root.removeHandler(handler)

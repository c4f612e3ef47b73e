"""Logs of the service: one JSON object a line. What is in a line is decided where it is written; never a
bearer token, a Q, a PIN, a body or a header.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

MAX_VALUE = 500
"""Characters of one value; what is longer is cut there."""


class _Log:
    """Where lines go. Nowhere, before :func:`configure`: a program that is no service has no such log."""

    stream: TextIO | None = None
    fixed: dict[str, object] = {}  # noqa: RUF012 - replaced as a whole, never changed


_LOCK = threading.Lock()


def configure(stream: TextIO, **fixed: object) -> None:
    """From now on lines go to ``stream``, each with ``fixed``: which part of the service this is."""
    with _LOCK:
        _Log.stream = stream
        _Log.fixed = {name: _plain(value) for name, value in fixed.items()}


def log(event: str, *, level: str = "info", **fields: object) -> None:
    """One line: ``time`` (RFC 3339, UTC, microseconds), ``level``, ``event``, then the fields, None left out.

    Never raises: a full disk or a closed pipe must not stop a signature.
    """
    with suppress(Exception), _LOCK:
        if (stream := _Log.stream) is None:
            return
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": level,
            "event": _plain(event),
            **_Log.fixed,
        }
        line.update((name, _plain(value)) for name, value in fields.items() if value is not None)
        stream.write(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n")
        stream.flush()


def _plain(value: object) -> object:
    """A JSON scalar, not longer than MAX_VALUE characters."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return int(value)
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - somebody's broken __str__
        text = f"<{type(value).__name__}>"
    return text[:MAX_VALUE]

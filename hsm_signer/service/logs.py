"""Logs of the service, by :mod:`logging`: one JSON object a line, or words where a person watches.

What is in a line is decided where it is written; never a bearer token, a Q, a PIN, a body or a header.
"""

from __future__ import annotations

import json
import logging
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

MAX_VALUE = 500
"""Characters of one value; what is longer is cut there."""


class Log(logging.LoggerAdapter[logging.Logger]):
    """A module's logger, whose keyword arguments are fields of the line: ``log.info("started", pid=7)``.

    A field that is None is left out. Never raises: a full disk or a closed pipe must not stop a signature.
    """

    def __init__(self, module: str) -> None:
        super().__init__(logging.getLogger(module))

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Keep the fields together in the record: whatever they are called, none is taken for its own."""
        return msg, {"extra": {"fields": kwargs}}


def configure(stream: TextIO, **fixed: object) -> None:
    """Have this process log to ``stream``, each line with ``fixed``: which part of the service this is.

    The service's own records from INFO on, those of libraries and of the rest of the program from WARNING on.
    """
    handler = _Handler(stream)
    handler.setFormatter((TerminalFormatter if stream.isatty() else JsonFormatter)(fixed))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(__package__).setLevel(logging.INFO)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A line that cannot be written is lost, without a word."""


class JsonFormatter(logging.Formatter):
    """``time`` (RFC 3339, UTC, microseconds), ``level``, ``event``, what is fixed, then the fields.

    A record that is none of :class:`Log` is a ``library`` event with ``source``, ``text`` and ``error``.
    """

    def __init__(self, fixed: dict[str, object]) -> None:
        super().__init__()
        self._fixed = fixed

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the values are."""
        return json.dumps(self._entry(record), allow_nan=False, separators=(",", ":"))

    def _entry(self, record: logging.LogRecord) -> dict[str, object]:
        event, fields = record.getMessage(), getattr(record, "fields", None)
        if fields is None:
            error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
            event, fields = "library", {"source": record.name, "text": event, "error": error}
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        entry = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": event,
            **self._fixed,
            **fields,
        }
        return {name: _plain(value) for name, value in entry.items() if value is not None}


class TerminalFormatter(JsonFormatter):
    """The same in words: time, level and event, then ``field=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; text with spaces or control characters is quoted and escaped as in JSON."""
        entry = self._entry(record)
        words = [_word(entry.pop(name)) for name in ("time", "level", "event")]
        return " ".join([*words, *(f"{name}={_word(value)}" for name, value in entry.items())])


def _word(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and value and not set(value) & set(' "='):
        return value
    return json.dumps(value)


def _plain(value: object) -> object:
    """A JSON scalar, not longer than MAX_VALUE characters."""
    if isinstance(value, bool):
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

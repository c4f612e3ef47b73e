"""What the command line prints: data on standard output, words on standard error.

Names that come from elsewhere (files, records, other installations) are shown with their control characters
replaced, so that no text can move a terminal's cursor.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from hsm_signer.errors import FileError, SignerError, os_words

NOT_SHOWN = "the command was carried out; only its answer could not be written"
_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` on one line, its control characters replaced."""
    return "".join(c if c.isprintable() else "�" for c in text.replace("\n", " ").replace("\t", " "))


def data(text: str) -> None:
    """A line on standard output. Raises FileError where that cannot be written."""
    # A file's name is bytes; those that are no text are given back as they are.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        line = text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        line = text.encode(encoding, "backslashreplace")
    _write(line + b"\n")


def binary(content: bytes) -> None:
    """Bytes on standard output. Raises FileError where that cannot be written."""
    _write(content)


def _write(content: bytes) -> None:
    if sys.stdout is None:
        raise FileError("standard output: is closed", hint=NOT_SHOWN)
    try:
        click.echo(content, nl=False)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # whoever read has gone; there is nobody to tell
        _give_up_stdout()
        raise FileError(f"standard output: {os_words(error)}", hint=NOT_SHOWN) from error


def _give_up_stdout() -> None:
    """What is left in its buffer would be tried once more at the end, and end the process with 120."""
    with suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(descriptor, sys.stdout.fileno())
        finally:
            os.close(descriptor)


def check_stdout(*, read: bool) -> None:
    """Whether something can be written to standard output, as far as that can be known before.

    ``read``: a pipe that nobody reads any more will not do. Raises FileError.
    """
    if sys.stdout is None:
        raise FileError("standard output: is closed", hint="nothing was changed")

    try:
        descriptor = sys.stdout.fileno()
        os.write(descriptor, b"")
        if read and hasattr(select, "poll"):
            watch = select.poll()
            watch.register(descriptor, select.POLLOUT)
            if any(events & (select.POLLERR | select.POLLNVAL) for _, events in watch.poll(0)):
                raise FileError("standard output: nobody reads it", hint="nothing was changed")
    except io.UnsupportedOperation:
        return  # no file is behind it: the program that embeds us reads it
    except OSError as error:
        raise FileError(f"standard output: {os_words(error)}", hint="nothing was changed") from error


def json_data(value: Any) -> None:
    """``value`` as JSON in UTF-8 on standard output, all of it at once.

    A file's name need not be text: its other bytes are escaped, as Python has them (``\\udc80`` to
    ``\\udcff``).
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    escaped = _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    _write(escaped.encode("utf-8") + b"\n")


def say(text: str) -> None:
    """A line for people, on standard error."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    """Something to know that is no error, on standard error."""
    say(f"warning: {text}")


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """``name  value`` lines on standard output, the values below each other."""
    rows = [(name, printable(str(value))) for name, value in pairs]
    names = max((width(name) for name, _ in rows), default=0)
    data("\n".join(f"{_padded(name, names)}  {value}" for name, value in rows))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, on standard output; the header alone if there are no rows."""
    cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    data("\n".join("  ".join(map(_padded, row, widths)).rstrip() for row in cells))


def width(text: str) -> int:
    """Columns of a terminal: characters of East Asia take two, those that go over another none."""
    return sum(
        0
        if unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(c) in ("W", "F")
        else 1
        for c in text
    )


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def show_error(error: SignerError) -> None:
    """``error: MESSAGE [code]``, then what to do next."""
    say(f"error: {printable(error.message).rstrip('.')} [{error.code}]")
    for line in (error.hint or "").splitlines():
        say(f"hint: {printable(line).rstrip('.')}")


def add_hint(error: SignerError, line: str) -> None:
    """One more line that says what to do next."""
    error.hint = f"{error.hint}\n{line}" if error.hint else line


def on_terminal() -> bool:
    """Whether a person watches standard error: progress is shown there and nowhere else."""
    return sys.stderr.isatty()


def count(number: int, noun: str) -> str:
    """``1 try``, ``2 tries``, ``3 files``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def moment(microseconds: int) -> str:
    """Microseconds since 1970-01-01T00:00:00Z as ISO 8601 in UTC; as a number where no calendar has it."""
    try:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{microseconds} microseconds"
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""TOML files read as frozen structs: one reader and one form of error for every configuration."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from hsm_signer.errors import ConfigError, os_words

MAX_LENGTH = 1 << 20
_T = TypeVar("_T")


def read_toml(path: Path, kind: type[_T]) -> _T:
    """Read a file as ``kind``. Raises FileNotFoundError; ConfigError naming field and expectation."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LENGTH + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {os_words(error)}") from error
    if len(raw) > MAX_LENGTH:
        raise ConfigError(f"{path}: longer than {MAX_LENGTH} bytes")
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    try:
        return msgspec.convert(document, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {in_words(str(error))}") from error


def in_words(message: str) -> str:
    """Turn "Expected `str`, got `int` - at `$.token.uri`" into "token.uri: expected str, got int"."""
    text, _, where = message.partition(" - at ")
    field = where.strip("`").removeprefix("$").removeprefix(".")
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        return f"unknown key {'.'.join(filter(None, (field, match[1])))!r}"
    if match := re.fullmatch(r"Object missing required field `(.*)`", text):
        return f"missing key {'.'.join(filter(None, (field, match[1])))!r}"
    plain = text.replace("`", "")
    return f"{field}: {plain[0].lower()}{plain[1:]}" if field else plain

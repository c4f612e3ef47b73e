"""The home folder: where it is, who may own it, and the small secret files in it."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from pathlib import Path

from hsm_signer.errors import ConfigError, FileError, InputError, os_words

from .installation import DEFAULT_HOME, HOME_VARIABLE

MAX_SECRET_FILE = 4096


def resolve_home(home: Path | None) -> Path:
    """Find the home folder: --home, HSM_SIGNER_HOME, or ~/.hsm-signer; absolute."""
    chosen = home or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)
    try:
        return chosen.expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"home: {chosen}: there is no such user") from error


def current_actor() -> str:
    """Name the system user for evidence; environment variables do not change the name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def read_secret_file(path: Path, what: str) -> str:
    """Read the first line of a file; raises FileError, or InputError where it is empty."""
    try:
        with path.open("r", encoding="utf-8") as file:
            line = file.readline(MAX_SECRET_FILE).rstrip("\r\n")
    except OSError as error:
        raise FileError(f"{what}: {path} cannot be read: {os_words(error)}") from error
    except UnicodeDecodeError:
        # Not "from error": it carries the file's bytes.
        raise FileError(f"{what}: {path} cannot be read: expected text in UTF-8") from None
    if not line:
        raise InputError(f"{what}: the first line of {path} is empty")
    return line


def refuse_open_to_others(path: Path) -> None:
    """Raise ConfigError where other users could change ``path``: module-path, for one, is run as code."""
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path} belongs to another user (uid {status.st_uid})",
            hint=f"run it as that user: sudo -u '#{status.st_uid}' hsm-signer ...",
        )
    if status.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{path} can be written by everybody", hint=f"chmod o-w {shlex.quote(str(path))}")

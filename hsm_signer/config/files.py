"""Files that are written whole or not at all.

Each is written beside its place and synced, then put there in one step, and its folder is synced: after a
power failure there is the old file or the new one, and nothing between.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

PUBLIC, PRIVATE = 0o666, 0o600
"""File modes before the umask."""
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)
"""What systems say that cannot sync a folder, or do not let this user open it."""


def write_whole(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write or replace a file, synced to disk; raises OSError and then leaves the old file.

    ``mode``: the file's permissions, whatever the umask is.
    """
    temporary = write_beside(path, content, mode)
    try:
        temporary.chmod(mode)
        put(temporary, path, overwrite=True)
    finally:
        discard(temporary)
    sync_folder(path.parent)


def write_beside(path: Path, content: bytes, mode: int = PRIVATE) -> Path:
    """Write a temporary file in the folder of ``path``, synced to disk; raises OSError.

    ``mode``: its permissions before the umask. :func:`put` moves it into its place.
    """
    temporary = path.parent / f".hsm-signer-{secrets.token_hex(8)}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        discard(temporary)
        raise
    return temporary


def put(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a temporary file its name; raises OSError, FileExistsError without ``overwrite``."""
    if overwrite:
        temporary.replace(path)
        return
    try:
        # Unlike a rename this fails where a file is; not every file system can do it.
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from None
        temporary.replace(path)


def discard(temporary: Path) -> None:
    """Remove a temporary file that may be gone already."""
    with suppress(OSError):
        temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it are on disk; raises OSError.

    Nothing happens where it cannot be done: folders of some network file systems, and folders that this user
    may write to and not read.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise

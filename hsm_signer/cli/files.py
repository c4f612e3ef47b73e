"""Files that a command reads and writes: checked before the card is used, written whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hsm_signer.config.files import PUBLIC, discard, put, sync_folder, write_beside
from hsm_signer.errors import FileError, InputError, os_words


@dataclass(frozen=True, slots=True)
class Input:
    """A file that can be read, as it was when it was checked."""

    path: Path
    size: int
    """Bytes, when it was looked at."""
    identity: tuple[int, int]
    """Device and inode: two names of one file have the same."""


def look_at(path: Path) -> Input:
    """Check that a path is a regular, readable file; raises FileError."""
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read: {os_words(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise FileError(f"{path}: is a folder, expected a file")
    if not stat.S_ISREG(status.st_mode):
        raise FileError(
            f"{path}: expected a regular file, which can be read again", hint="copy its contents to a file"
        )
    return Input(path, status.st_size, (status.st_dev, status.st_ino))


def look_at_all(paths: Sequence[Path]) -> list[Input]:
    """Check several files; raises FileError, InputError for a file that is named twice."""
    seen: dict[tuple[int, int], Path] = {}
    inputs = []
    for path in paths:
        file = look_at(path)
        if (earlier := seen.get(file.identity)) is not None:
            again = "is named twice" if earlier == path else f"is the same file as {earlier}"
            raise InputError(f"{path}: {again}")
        seen[file.identity] = path
        inputs.append(file)
    return inputs


def read_bounded(path: Path, limit: int, what: str) -> bytes:
    """Read a small file; raises FileError where it cannot be read, InputError over ``limit`` bytes."""
    look_at(path)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {os_words(error)}") from error
    if len(content) > limit:
        raise InputError(f"{path}: {what}: expected at most {limit} bytes")
    return content


@dataclass(frozen=True, slots=True)
class ProtectedPaths:
    """Files that are never overwritten, even with --force, each with what it is in words."""

    files: Sequence[tuple[Path, str]]
    folders: Sequence[tuple[Path, str]] = ()
    """Nothing in them is overwritten, nor made there."""

    def refuse(self, path: Path) -> None:
        """Raise InputError where ``path`` is one of these files, by whatever name."""
        place, identity = _place_of(path), _identity(path)
        for protected, what in self.files:
            if place == _place_of(protected) or (identity is not None and identity == _identity(protected)):
                raise InputError(f"{path}: is {what}; it is never overwritten")
        for protected, what in self.folders:
            with suppress(OSError, RuntimeError):
                if {place, *place.parents} & {protected.resolve()}:
                    raise InputError(f"{path}: is {what}; nothing is written there")


def _place_of(path: Path) -> Path:
    with suppress(OSError, RuntimeError):
        return path.parent.resolve() / path.name
    return path.absolute()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_outputs(
    paths: Sequence[Path],
    *,
    force: bool,
    inputs: Sequence[Input] = (),
    protected: ProtectedPaths | None = None,
    what: str = "two outputs",
) -> None:
    """Check that :func:`write_all` can write these files; changes nothing. Raises FileError, InputError.

    ``what``: two of which would go to one file, in the words of the error.
    """
    read = {file.identity: file.path for file in inputs}
    seen: set[Path] = set()
    for path in paths:
        folder = path.parent
        if not folder.is_dir():
            raise FileError(f"{path}: there is no folder {folder}")
        if (place := folder.resolve() / path.name) in seen:
            raise InputError(f"{path}: {what} would go to this file")
        seen.add(place)
        if protected is not None:
            protected.refuse(path)
        try:
            there = path.stat()
        except FileNotFoundError:
            if path.is_symlink():
                raise FileError(f"{path}: is a link to nowhere") from None
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {os_words(error)}") from error
        else:
            if stat.S_ISDIR(there.st_mode):
                raise FileError(f"{path}: is a folder")
            if (there.st_dev, there.st_ino) in read:
                raise InputError(f"{path}: is a file to be signed; it is never overwritten")
            if not force:
                raise FileError(f"{path}: is there already", hint="--force overwrites it")
            if not stat.S_ISREG(there.st_mode):
                raise FileError(f"{path}: is no regular file")
    for path in {path.parent: path for path in paths}.values():
        try:
            # Permissions say little on network file systems and to root: try.
            discard(write_beside(path, b""))
        except OSError as error:
            raise FileError(f"{path.parent}: nothing can be written there: {os_words(error)}") from error


def write_all(contents: Sequence[tuple[Path, bytes]], *, force: bool, mode: int = PUBLIC) -> None:
    """Write every file completely beside its place, then put all of them there.

    If one cannot be written none is; if one cannot be put into its place, the error says which are there.
    Without ``force`` a file that has appeared meanwhile is not overwritten. Raises FileError.
    """
    made: list[Path] = []
    placed: list[Path] = []
    try:
        path = Path()
        try:
            for path, content in contents:
                made.append(write_beside(path, content, mode))
            for temporary, (path, _) in zip(made, contents, strict=True):
                put(temporary, path, overwrite=force)
                placed.append(path)
            for folder in {path.parent for path in placed}:
                sync_folder(folder)
        except OSError as error:
            written = ", ".join(map(str, placed)) or "nothing"
            raise FileError(
                f"{path}: cannot be written: {os_words(error)}; written was: {written}"
            ) from error
    finally:
        for temporary in made:
            discard(temporary)

"""Files that a command reads and writes: looked at before a card is asked, written whole or not at all."""

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
    """A file that can be read."""

    path: Path
    size: int
    """Bytes, when it was looked at."""
    identity: tuple[int, int]
    """Device and inode: two names of one file have the same."""


def look_at(path: Path) -> Input:
    """A regular, readable file; raises FileError."""
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read: {os_words(error)}") from error
    if stat.S_ISDIR(found.st_mode):
        raise FileError(f"{path}: is a folder, expected a file")
    if not stat.S_ISREG(found.st_mode):
        raise FileError(
            f"{path}: expected a regular file, which can be read again", hint="copy its contents to a file"
        )
    return Input(path, found.st_size, (found.st_dev, found.st_ino))


def look_at_all(paths: Sequence[Path]) -> list[Input]:
    """Every file, each once; raises FileError, InputError for a file that is named twice."""
    seen: dict[tuple[int, int], Path] = {}
    inputs = []
    for path in paths:
        found = look_at(path)
        if (earlier := seen.get(found.identity)) is not None:
            again = "is named twice" if earlier == path else f"is the same file as {earlier}"
            raise InputError(f"{path}: {again}")
        seen[found.identity] = path
        inputs.append(found)
    return inputs


def read_bounded(path: Path, limit: int, what: str) -> bytes:
    """A small file as a whole; raises FileError where it cannot be read, InputError over ``limit`` bytes."""
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
class Kept:
    """Files that are never overwritten, whatever --force says, each with what it is."""

    files: Sequence[tuple[Path, str]]
    folders: Sequence[tuple[Path, str]] = ()
    """Nothing in them is overwritten, nor made there."""

    def refuse(self, path: Path) -> None:
        """Raises InputError for one of them, by whatever name."""
        place, identity = _place_of(path), _identity(path)
        for kept, what in self.files:
            if place == _place_of(kept) or (identity is not None and identity == _identity(kept)):
                raise InputError(f"{path}: is {what}; it is never overwritten")
        for kept, what in self.folders:
            with suppress(OSError, RuntimeError):
                if {place, *place.parents} & {kept.resolve()}:
                    raise InputError(f"{path}: is {what}; nothing is written there")


def _place_of(path: Path) -> Path:
    with suppress(OSError, RuntimeError):
        return path.parent.resolve() / path.name
    return path.absolute()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_outputs(
    paths: Sequence[Path],
    *,
    force: bool,
    inputs: Sequence[Input] = (),
    kept: Kept | None = None,
    what: str = "two outputs",
) -> None:
    """Whether :func:`write_all` can write all of these; changes nothing. Raises FileError, InputError.

    ``what``: two of which would go to one file, in the words of the error.
    """
    read = {each.identity: each.path for each in inputs}
    seen: set[Path] = set()
    for path in paths:
        folder = path.parent
        if not folder.is_dir():
            raise FileError(f"{path}: there is no folder {folder}")
        if (place := folder.resolve() / path.name) in seen:
            raise InputError(f"{path}: {what} would go to this file")
        seen.add(place)
        if kept is not None:
            kept.refuse(path)
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

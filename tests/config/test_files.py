"""A file is there whole, or as it was before; and its folder knows it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.config.files import put, sync_folder, write_beside, write_whole


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_has_its_content_and_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        write_whole(path, b"one", mode)
        write_whole(path, b"two", mode)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["write", "fsync", "chmod", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if fails == "write":
        full = os.open("/dev/full", os.O_WRONLY)
        real = os.open

        def on_a_full_disk(name: Any, flags: int, mode: int = 0o777) -> int:
            os.close(real(name, flags, mode))
            return os.dup(full)

        monkeypatch.setattr(os, "open", on_a_full_disk)
    else:
        monkeypatch.setattr(os if fails == "fsync" else Path, fails, broken)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_synced_before_it_takes_its_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spied_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def spied_replace(path: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(Path, "replace", spied_replace)
    write_whole(tmp_path / "file", b"content")
    assert steps == ["file", "replace", "folder"]


def test_without_overwriting_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    temporary = write_beside(path, b"new")
    with pytest.raises(FileExistsError):
        put(temporary, path, overwrite=False)
    assert path.read_bytes() == b"old"
    put(temporary, path, overwrite=True)
    assert path.read_bytes() == b"new"


def test_where_links_are_not_known_what_is_there_stays_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", unknown)
    path = tmp_path / "file"
    temporary = write_beside(path, b"new")
    put(temporary, path, overwrite=False)
    assert path.read_bytes() == b"new"
    temporary = write_beside(path, b"newer")
    with pytest.raises(FileExistsError):
        put(temporary, path, overwrite=False)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(("number", "raises"), [(22, False), (95, False), (13, False), (5, True)])
def test_a_folder_that_cannot_be_synced_and_one_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raises: bool
) -> None:
    def refuses(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuses)
    if raises:
        with pytest.raises(OSError, match="Input/output error"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)

"""What the commands' tests work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commandline import Cli


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`hsm-signer` where there is no installation, in tmp_path."""
    return Cli(tmp_path / "nothing", tmp_path, monkeypatch, capfd)


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """A short file to sign."""
    path = tmp_path / "note.txt"
    path.write_text("I owe Bob ten euros.\n")
    return path

"""Every transcript of the documents, and those beside this file, run again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_signer.testing import Home
from tests.support import console, needs
from tests.support.people import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.service]

PAGES = {
    str(page.relative_to(ROOT)): steps
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if (steps := console.steps_in(page.read_text(encoding="utf-8")))
}
TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.console"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Empty. Its path is short: there are UNIX sockets in it, whose paths must be."""
    path = Path(tempfile.mkdtemp(prefix="said-"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("page", PAGES)
def test_every_console_block_is_real(page: str, folder: Path) -> None:
    """Page by page in one home, from its first block to its last."""
    check(PAGES[page], folder)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, folder: Path, template_home: Home) -> None:
    """In a copy of the installation that everybody else's tests use."""
    template_home.copy_to(folder / ".hsm-signer")
    check(console.steps_of(path.read_text(encoding="utf-8")), folder)


def check(steps: list[console.Step], folder: Path) -> None:
    """Run them and compare."""
    needs.softhsm_module()
    needs.program("openssl", "openssl")
    again = console.run([step.command for step in steps], folder)
    asked = [*(step.command for step in steps[1:]), ""]
    for said, ran, following in zip(steps, again, asked, strict=True):
        assert console.says(said.output, ran.output), f"$ {said.command}\n{ran.output}"
        if following != "echo $?":
            assert ran.status == said.expected_status, f"$ {said.command}\n{ran.output}"


def test_pages_have_transcripts() -> None:
    assert {"README.md"} <= set(PAGES)
    assert sum(map(len, PAGES.values())) > 50


def test_a_transcript_that_is_not_so_is_found(folder: Path) -> None:
    """The comparison compares."""
    (ran,) = console.run(["printf 'one\\ntwo\\nthree\\n'"], folder)
    assert console.says("one\ntwo\nthree", ran.output)
    assert console.says("one\n...\nthree", ran.output)
    assert console.says("o...\ntwo\n...", ran.output)
    for wrong in ("one\nthree", "one\ntwo", "one\n...\ntwo", "o...\nthree", ""):
        assert not console.says(wrong, ran.output), wrong
    refused, asked = console.run(["hsm-signer sing", "echo $?"], folder)
    assert (refused.status, asked.output) == (2, "2")
    assert console.Step("", "error: no [credential.revoked]").expected_status == 3

"""The command reference and the man page are what the commands say of themselves."""

from __future__ import annotations

import subprocess
import sys

from tests.support.people import ROOT

from .test_help import CONTRACT

SCRIPT = ROOT / "scripts" / "reference.py"


def test_reference_and_man_page_are_current() -> None:
    """If this fails: make reference."""
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_every_command_is_in_both() -> None:
    page = (ROOT / "docs" / "run" / "commands.md").read_text(encoding="utf-8")
    man = (ROOT / "docs" / "man" / "hsm-signer.1").read_text(encoding="utf-8").replace("\\-", "-")
    for command, subs in CONTRACT.items():
        for path in (command, *(f"{command} {sub}" for sub in subs)):
            assert f"hsm-signer {path}\n\n```text\nUsage: hsm-signer {path} " in page
            assert f"\n.SS {path} " in man

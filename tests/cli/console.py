"""Console blocks in documentation: commands and what they print, run again and compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "@@@ command "

_VOLATILE = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "<serial>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "<time>"),
    (re.compile(r"\b[A-Z2-9]{4}(-[A-Z2-9]{4}){5}\b"), "<puk>"),
    # The folder of the session, and who runs it (the last column of `audit list`).
    (re.compile(r"(?<=installation is in )\S+(?=/home;)"), "<folder>"),
    (re.compile(r"(?m)^(<time>.*?\s)\S+$"), r"\1<actor>"),
    (re.compile(r"(?m)^(TIME) +"), r"\1 "),
)


@dataclass(frozen=True)
class Step:
    """One command and what it printed, standard error included."""

    command: str
    output: str


def steps_in(text: str) -> list[Step]:
    """Every step of every console block; a line that begins with ``$`` is a command."""
    steps = []
    for block in _BLOCK.findall(text):
        for part in re.split(r"(?m)^\$ ", block)[1:]:
            command, _, printed = part.partition("\n")
            steps.append(Step(command, printed.rstrip("\n")))
    return steps


def normalised(printed: str) -> str:
    """With the parts that differ from run to run replaced."""
    for pattern, replacement in _VOLATILE:
        printed = pattern.sub(replacement, printed)
    return "\n".join(line.rstrip() for line in printed.splitlines())


def run(commands: list[str], folder: Path) -> list[Step]:
    """The commands in one shell, one after the other, in ``folder``."""
    script = "\n".join(f"echo '{_MARK}{n}'\n{{ {command}\n}} 2>&1" for n, command in enumerate(commands))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("HSM_SIGNER", "SOFTHSM2"))},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "100",
    }
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )
    parts = re.split(rf"(?m)^{_MARK}\d+\n", ran.stdout)[1:]
    return [Step(c, p.rstrip("\n")) for c, p in zip(commands, parts, strict=True)]

"""The command line, run two ways: as a process of its own, and inside this one, which is faster.

Inside, nothing differs but the start of the interpreter: arguments, environment, working directory, exit
status and both streams are the real ones.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.cli import secret_input
from hsm_signer.cli.main import entry
from hsm_signer.config import installation as config
from hsm_signer.testing import PIN, PUK, WRONG_PIN

SECRETS = (PIN, PUK, WRONG_PIN)
VARIABLES = (
    config.HOME_VARIABLE,
    config.TOKEN_PIN_VARIABLE,
    config.CARD_PIN_VARIABLE,
    config.SERVER_VARIABLE,
    config.SERVER_TOKEN_VARIABLE,
    secret_input.NEW_PIN_VARIABLE,
    secret_input.PUK_VARIABLE,
)


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON, all of it."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one error line."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0]

    @property
    def code(self) -> str:
        """The error's code."""
        return self.error.rpartition("[")[2].rstrip("]")

    def check(self, status: int) -> Ran:
        """The exit status is this one; no traceback and no secret anywhere."""
        assert self.status == status, (self.status, self.out, self.err)
        assert "Traceback" not in self.err, self.err
        return self

    def tells_nothing(self) -> Ran:
        """No PIN and no PUK of the test people in any stream."""
        for secret in SECRETS:
            assert secret not in self.out + self.err
        return self


@dataclass
class Cli:
    """`hsm-signer` in this process."""

    home: Path | None
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]
    asked: list[str] = field(default_factory=list)
    """The prompts of the last command."""
    variables: dict[str, str] = field(default_factory=dict)
    """The environment's, besides the home."""

    def __call__(
        self,
        *arguments: str | Path,
        status: int | None = 0,
        pin: str | None = None,
        env: dict[str, str] | None = None,
        answers: tuple[str, ...] | None = None,
    ) -> Ran:
        """``answers`` are typed at the prompts of a terminal; None: there is no terminal.

        ``status`` None checks neither it nor that there is no traceback.
        """
        typed = list(answers or ())
        self.asked.clear()

        def hidden(prompt: str) -> str:
            self.asked.append(prompt)
            return typed.pop(0)

        with self.monkeypatch.context() as patch:
            for name in (*VARIABLES, "SOFTHSM2_CONF"):
                patch.delenv(name, raising=False)
            if self.home is not None:
                patch.setenv(config.HOME_VARIABLE, str(self.home))
            if pin is not None:
                patch.setenv(config.CARD_PIN_VARIABLE, pin)
            for name, value in {**self.variables, **(env or {})}.items():
                patch.setenv(name, value)
            patch.setattr(secret_input, "has_terminal", lambda: answers is not None)
            patch.setattr(secret_input, "_hidden", hidden)
            patch.setattr(sys, "argv", ["hsm-signer", *map(str, arguments)])
            patch.chdir(self.folder)
            self.capfd.readouterr()
            with pytest.raises(SystemExit) as stopped:
                entry()
            captured = self.capfd.readouterr()
        assert not typed, f"not asked for: {typed}"
        ran = Ran(int(stopped.value.code or 0), captured.out, captured.err)
        return ran if status is None else ran.check(status)


@dataclass(frozen=True)
class Process:
    """`hsm-signer` in a process and session of its own: without a terminal to prompt at."""

    home: Path
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    """The environment's, besides the home."""

    def command(self, *arguments: str | Path) -> list[str]:
        """To run with another program around it."""
        return [sys.executable, "-m", "hsm_signer", *map(str, arguments)]

    def environment(self, pin: str | None = None) -> dict[str, str]:
        """Nothing of the developer's own."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HSM_SIGNER", "SOFTHSM2"))}
        environment |= {config.HOME_VARIABLE: str(self.home), **self.variables}
        if pin is not None:
            environment[config.CARD_PIN_VARIABLE] = pin
        return environment

    def __call__(
        self,
        *arguments: str | Path,
        status: int = 0,
        pin: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Ran:
        ran = subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self.environment(pin), **(env or {})},
            cwd=self.folder,
            timeout=120,
            check=False,
            start_new_session=True,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr).check(status)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, to see whether anything changed."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """Which files are others than before, but for what looking leaves behind.

    That is SoftHSM's note of a login, SQLite's log and shared memory, and the lock of a simulated card.
    """
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return {name for name in names if not re.search(r"token\.object$|store\.db-|\.lock$", name)}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, to whom no file is closed."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)

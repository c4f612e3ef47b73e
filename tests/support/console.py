"""Transcripts: commands and what they print, run again and compared.

A transcript is the ``console`` blocks of a page, or a file of its own. A line that begins with ``$`` is a
command, with ``>`` its next line; what follows is what it prints, standard error and prompts included, in the
order in which it comes. In what is printed a line of ``...`` stands for any lines, none among them, and
``...`` within a line for any text. Ids, times, serial numbers and PUKs differ from run to run and are not
compared.

A command fails where its transcript shows an ``error:`` line, and then with the exit status of that error's
code. One that ends otherwise with another status than 0 is followed by ``$ echo $?``.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from hsm_signer.errors import all_errors
from hsm_signer.testing import PIN

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "@@@ "
_PORT = "8443"
"""The service's port in transcripts: whichever is free when they are run."""
PATIENCE = 300.0
"""Seconds for a whole transcript."""

_VOLATILE = (
    (re.compile(r"\b[0-9a-f]{4}(-[0-9a-f]{4}){9}\b"), "<identity>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "<serial>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "<time>"),
    (re.compile(r"\b[A-Z2-9]{4}(-[A-Z2-9]{4}){5}\b"), "<puk>"),
    (re.compile(r"(?m)^PIN: \d{6}$"), "<pin>"),
    (re.compile(r"\bhsc_\w+(\.\.\.)?"), "<token>"),
    # The home folder, and who runs it (the last column of `audit list`).
    (re.compile(r"\S+(?=/(?:home|\.hsm-signer)[;:])"), "<folder>"),
    (re.compile(r"(?m)^(<time>.*?\s)\S+$"), r"\1<actor>"),
    (re.compile(r"(?m)^(TIME) +"), r"\1 "),
)


@dataclass(frozen=True)
class Step:
    """One command and what it printed, standard error and prompts included."""

    command: str
    output: str
    status: int | None = None
    """None in what was written down."""

    @property
    def expected_status(self) -> int:
        """Of a step that was written down: 0, or that of the error it shows."""
        codes = {"usage": 2} | {error.code: error.exit_status for error in all_errors()}
        shown = re.findall(r"(?m)^error: .* \[([a-z.-]+)\]$", self.output)
        return codes[shown[-1]] if shown else 0


def steps_in(text: str) -> list[Step]:
    """Every step of every console block of a page."""
    return [step for block in _BLOCK.findall(text) for step in steps_of(block)]


def steps_of(transcript: str) -> list[Step]:
    """Every step of one transcript."""
    steps = []
    for part in re.split(r"(?m)^\$ ", transcript)[1:]:
        command, _, printed = part.partition("\n")
        while more := re.match(r"> ?(.*)\n?", printed):
            command += "\n" + more[1]
            printed = printed[more.end() :]
        steps.append(Step(command, printed.rstrip("\n")))
    return steps


def normalised(printed: str) -> str:
    """With the parts that differ from run to run replaced."""
    for pattern, replacement in _VOLATILE:
        printed = pattern.sub(replacement, printed)
    return "\n".join(line.rstrip() for line in printed.splitlines())


def says(expected: str, printed: str) -> bool:
    """Whether what was printed is what the transcript has, with its ``...``."""
    lines = normalised(expected).split("\n")
    pattern = ""
    for line in lines:
        exact = ".*?".join(re.escape(part) for part in re.split(r"\.\.\.", line))
        pattern += r"(?:[^\n]*\n)*?" if line == "..." else exact + "\n"
    return re.fullmatch(pattern, normalised(printed) + "\n") is not None


def run(commands: list[str], folder: Path) -> list[Step]:
    """The commands in one shell, one after the other, in ``folder``, which is also their home directory.

    They have a terminal to prompt at, and somebody who answers. What they leave running is ended.
    """
    port = str(_free_port())
    script = [
        "trap 'jobs -p | xargs -r kill; wait' EXIT",
        "ended=0",
        *(
            f"echo '{_MARK}command'\n(exit $ended)\n{{ {command.replace(_PORT, port)}\n}} 2>&1\n"
            f'ended=$?\necho "{_MARK}status $ended"'
            for command in commands
        ),
        f"echo '{_MARK}end'",
    ]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("HSM_SIGNER", "SOFTHSM2"))},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": "100",
    }
    with _Session("\n".join(script), folder, environment) as session:
        printed = session.read_to_end().replace(port, _PORT)
    parts = re.split(rf"(?m)^{_MARK}command\n", printed)[1:]
    steps = []
    for command, part in zip(commands, parts, strict=True):
        output, status = re.split(rf"(?m)^{_MARK}status (\d+)\n", part)[:2]
        steps.append(Step(command, output.rstrip("\n"), int(status)))
    return steps


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class _Person:
    """Whoever sits at the terminal: has a PIN, and reads the PUK when it is printed."""

    pin: str = PIN
    new_pin: str = "820364"
    changed: bool = field(default=False, init=False)

    def answer(self, prompt: str, printed: str) -> str:
        """What is typed at a prompt."""
        if prompt.startswith("PUK"):
            puks: list[str] = re.findall(r"(?m)^PUK: (\S+)$", printed)
            return puks[-1].replace("-", "")
        if prompt.startswith("New PIN"):
            self.changed = True
            return self.new_pin
        return self.new_pin if self.changed else self.pin


class _Session:
    """A shell with a terminal of its own."""

    def __init__(self, script: str, folder: Path, environment: dict[str, str]) -> None:
        self._terminal, self._its_end = pty.openpty()
        self._shell = subprocess.Popen(
            [sys.executable, "-c", _CONTROL, os.ttyname(self._its_end), script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._shell.wait(0 if kind else PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.wait()
        assert self._shell.stdout is not None
        self._shell.stdout.close()
        os.close(self._terminal)
        os.close(self._its_end)

    def read_to_end(self) -> str:
        """Everything that was printed, prompts in their places."""
        assert self._shell.stdout is not None
        pipe = self._shell.stdout.fileno()
        person, printed = _Person(), ""
        until = time.monotonic() + PATIENCE
        while f"\n{_MARK}end\n" not in printed:
            if time.monotonic() > until:
                raise AssertionError(f"it hangs after:\n{printed}")
            ready = select.select([pipe, self._terminal], [], [], 1.0)[0]
            if pipe in ready:
                chunk = os.read(pipe, 65536).decode()
                assert chunk, f"the shell has ended after:\n{printed}"
                printed += chunk
            elif self._terminal in ready:
                printed += os.read(self._terminal, 65536).decode().replace("\r\n", "\n")
                prompt = printed.rpartition("\n")[2]
                if prompt.endswith(": "):
                    os.write(self._terminal, person.answer(prompt, printed).encode() + b"\n")
        return printed


_CONTROL = """\
import fcntl, os, sys, termios
terminal = os.open(sys.argv[1], os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
os.set_inheritable(terminal, True)
os.execvp("bash", ["bash", "-c", sys.argv[2]])
"""
"""Opens the terminal as the session's own, then becomes the shell."""

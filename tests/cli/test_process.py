"""What only a process of its own shows: streams, terminal, signals, memory."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hsm_signer.cli import output
from hsm_signer.cli.context import App
from hsm_signer.errors import InputError
from hsm_signer.testing import PIN, Home
from tests.support.commandline import Cli, Process

MEGABYTE = 1 << 20


def at_terminal(
    process: Process, arguments: list[str], typed: dict[str, str], *, interrupt_at: str | None = None
) -> tuple[int, str]:
    """Run with a controlling terminal, type each answer at its prompt; the status and what was shown."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(process.folder)
        command = process.command(*arguments)
        os.execve(command[0], command, process.environment())
    shown, waiting = b"", dict(typed)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            ready, _, _ = select.select([terminal], [], [], 1)
            if not ready:
                continue
            try:
                chunk = os.read(terminal, 4096)
            except OSError:
                break  # the other end is closed
            if not chunk:
                break
            shown += chunk
            for prompt in [p for p in waiting if p.encode() in shown]:
                os.write(terminal, waiting.pop(prompt).encode() + b"\n")
            if interrupt_at is not None and interrupt_at.encode() in shown:
                interrupt_at = None
                os.write(terminal, b"\x03")
        _, status = os.waitpid(child, 0)
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()


def test_prompts_at_a_terminal_show_nothing_that_is_typed(process: Process, home: Home, note: Path) -> None:
    status, shown = at_terminal(
        process, ["sign", str(note), "--card", home["alice"].address], {"PIN of the card: ": PIN}
    )
    assert status == 0, shown
    assert PIN not in shown
    assert "note.txt.sig" in shown


def test_a_progress_bar_at_a_terminal_and_none_elsewhere(process: Process, home: Home) -> None:
    big = process.folder / "big"
    big.write_bytes(b"x" * (3 * MEGABYTE))
    card = home["alice"].address
    status, shown = at_terminal(process, ["sign", str(big), "--card", card], {"PIN of the card: ": PIN})
    assert status == 0, shown
    assert "Hashing" in shown
    assert "100%" in shown
    assert shown.index("Hashing") < shown.index("PIN of the card")
    ran = process("sign", big, "--card", card, "--force", pin=PIN)
    assert ran.err == ""


def test_binary_signatures_go_to_a_pipe_but_not_to_a_terminal(
    process: Process, home: Home, note: Path
) -> None:
    arguments = ["sign", str(note), "--card", home["alice"].address, "-o", "-"]
    status, shown = at_terminal(process, arguments, {})
    assert status == 2
    assert "would garble the terminal" in shown
    ran = subprocess.run(
        process.command(*arguments), env=process.environment(PIN), capture_output=True, check=True
    )
    assert ran.stdout.startswith(b"\x30")
    assert ran.stderr == b""
    (process.folder / "sig").write_bytes(ran.stdout)
    assert not Path(f"{note}.sig").exists()
    assert process("verify", note, "--signature", "sig", "--user", "alice").err == ""


def test_control_c_is_one_line_and_130(process: Process, home: Home, note: Path) -> None:
    arguments = ["sign", str(note), "--card", home["alice"].address]
    status, shown = at_terminal(process, arguments, {}, interrupt_at="PIN of the card: ")
    assert status == 130
    assert shown.rstrip().endswith("interrupted")
    assert "Traceback" not in shown
    assert not Path(f"{note}.sig").exists()
    process("sign", note, "--card", home["alice"].address, pin=PIN)


def test_sigint_without_a_terminal(process: Process, home: Home) -> None:
    """In the middle of a file that would take the card hours."""
    big = process.folder / "big"
    with big.open("wb") as file:
        file.truncate(1 << 40)
    running = subprocess.Popen(
        process.command("sign", big, "--card", home["alice"].address, "--hash-on", "card"),
        env=process.environment(PIN),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while read_so_far(running.pid, big) < MEGABYTE:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.split() == ["interrupted"]


def read_so_far(pid: int, path: Path) -> int:
    """How far a process is in a file; 0 before it has opened it."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if descriptor.resolve() == path:
            position = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text().split("\n")[0]
            return int(position.removeprefix("pos:"))
    return 0


def test_100_megabytes_in_bounded_memory(process: Process, home: Home) -> None:
    """Peak memory with 100 MB is that with next to nothing, and a few megabytes."""
    small, big = process.folder / "small", process.folder / "big"
    small.write_bytes(b"x")
    with big.open("wb") as file:
        file.truncate(100 * MEGABYTE)
    peaks = {}
    for path in (small, big):
        program = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        )
        command = process.command("sign", path, "--card", home["alice"].address, "--hash-on", "host")
        ran = subprocess.run(
            [sys.executable, "-c", program, *command],
            env=process.environment(PIN),
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[path] = int(ran.stdout.split()[-1])  # KiB on Linux
    assert peaks[big] - peaks[small] < 8 * 1024, peaks
    process("verify", big, "--signature", f"{big}.sig", "--user", "alice")


def test_a_reader_that_goes_away_is_no_error(process: Process) -> None:
    shell = f"{' '.join(process.command('audit', 'list', '--json'))} | true"
    ran = subprocess.run(
        ["bash", "-c", shell], env=process.environment(), capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""


def test_standard_output_that_is_full(process: Process) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            process.command("audit", "head"),
            env=process.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: standard output: No space left")


def test_without_a_terminal_nobody_waits(process: Process, home: Home, note: Path) -> None:
    ran = process("sign", note, "--card", home["alice"].address, status=2)
    assert ran.code == "pin.missing"
    process("credential", "revoke", "alice", status=2)


def test_anything_unforeseen_is_one_line(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: App) -> None:
        raise ZeroDivisionError("secret-looking detail")

    monkeypatch.setattr(App, "installation", breaks)
    ran = run("audit", "head", status=1)
    assert ran.err == (
        "error: internal error (ZeroDivisionError); run hsm-signer --debug ... to see where [internal]\n"
    )
    ran = run("--debug", "audit", "head", status=None)
    assert ran.status == 1
    assert "Traceback" in ran.err
    assert ran.error == "error: internal error (ZeroDivisionError) [internal]"


def test_an_error_with_a_hint_of_several_lines(capfd: pytest.CaptureFixture[str]) -> None:
    error = InputError("wrong\nthing\x1b[2J.", hint="one\ntwo.")
    output.add_hint(error, "three")
    output.show_error(error)
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["error: wrong thing�[2J [input.invalid]", "hint: one", "hint: two", "hint: three"]


def test_shell_completion_names_the_commands() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "hsm_signer"],
        env={**os.environ, "_HSM_SIGNER_COMPLETE": "bash_complete", "COMP_WORDS": "hsm-signer cre",
             "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert "credential" in ran.stdout

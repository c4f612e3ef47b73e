"""What becomes of an answer that standard output does not take, and of PIN and PUK above all."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.cli import enrolment, output
from hsm_signer.errors import FileError
from hsm_signer.testing import PIN, Home
from hsm_signer.workstation.enrolment import enrol
from tests.support.commandline import Cli, Process, Ran, changed, tree

PUK_LINE = re.compile(r"^PUK: (?:[A-Z2-9]{4}-){5}[A-Z2-9]{4}$", re.MULTILINE)
PIN_LINE = re.compile(r"^PIN: ([0-9]{6})$", re.MULTILINE)

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@pytest.fixture
def card(run: Cli) -> str:
    """A blank card."""
    run("card", "new", "sim:new.card")
    return "sim:new.card"


def redirected(process: Process, redirection: str, *arguments: str | Path, pin: str | None = None) -> Ran:
    """``hsm-signer ARGUMENTS REDIRECTION`` by a shell."""
    ran = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *process.command(*arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=process.environment(pin),
        cwd=process.folder,
        timeout=120,
        check=False,
        start_new_session=True,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize(
    ("redirection", "said"), [(">/dev/full", "No space left"), (">&-", "is closed")], ids=["full", "closed"]
)
@pytest.mark.parametrize(
    "options", [("--generate-pin",), ("--generate-pin", "--puk-file", "puk"), ("--json",)], ids=" ".join
)
def test_nothing_is_enrolled_where_nothing_can_be_shown(
    process: Process, run: Cli, card: str, redirection: str, said: str, options: tuple[str, ...]
) -> None:
    before = tree(run.folder)
    pin = None if "--generate-pin" in options else PIN
    ran = redirected(process, redirection, "enrol", "carol", "--card", card, *options, pin=pin).check(2)
    assert ran.error.startswith("error: standard output: ")
    assert said in ran.error
    assert not changed(before, tree(run.folder))
    assert run("card", "info", card, "--json").json["state"] == "blank"


def test_nothing_is_enrolled_for_a_reader_that_has_gone(process: Process, run: Cli, card: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    ran = subprocess.run(
        process.command("enrol", "carol", "--card", card, "--generate-pin"),
        stdin=subprocess.DEVNULL,
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        env=process.environment(),
        cwd=process.folder,
        check=False,
    )
    os.close(writes)
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (
        2,
        "error: standard output: nobody reads it [file.unusable]",
    )
    assert run("card", "info", card, "--json").json["state"] == "blank"


def test_signing_needs_no_reader_but_for_the_signature_itself(
    process: Process, home: Home, note: Path
) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    for options, status in (((), 1), (("-o", "-"), 2)):
        ran = subprocess.run(
            process.command("sign", note, "--card", home["alice"].address, *options),
            stdin=subprocess.DEVNULL,
            stdout=writes,
            stderr=subprocess.PIPE,
            text=True,
            env=process.environment(PIN),
            check=False,
        )
        assert (ran.returncode, "nobody reads it" in ran.stderr) == (status, status == 2)
    os.close(writes)
    assert Path(f"{note}.sig").exists()


def test_secrets_in_files_need_no_standard_output(process: Process, card: str, note: Path) -> None:
    arguments = ("enrol", "carol", "--card", card, "--puk-file", "puk")
    redirected(process, ">&-", *arguments, pin=PIN).check(0)
    process("sign", note, "--card", card, pin=PIN)


def gone(_: bytes) -> None:
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def full(_: bytes) -> None:
    raise FileError("standard output: No space left on device")


@pytest.mark.parametrize("fails", [gone, full])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["words", "json"])
def test_what_standard_output_does_not_take_is_told_on_standard_error(
    run: Cli,
    card: str,
    note: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[bytes], None],
    options: tuple[str, ...],
) -> None:
    """It became full, or its reader left, after the card had got PIN and PUK."""
    with monkeypatch.context() as patch:
        patch.setattr(output, "_write", fails)
        ran = run("enrol", "carol", "--card", card, "--generate-pin", *options, status=2)
    assert ran.code == "file.unusable"
    assert "the enrolment is done" in ran.err
    assert PUK_LINE.search(ran.err)
    found = PIN_LINE.search(ran.err)
    assert found
    run("sign", note, "--card", card, pin=found[1])


def test_standard_error_that_takes_nothing_does_not_keep_them_from_standard_output(
    run: Cli, card: str, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(text: str) -> None:
        raise OSError(28, "No space left on device")

    real = enrol

    def stops(*arguments: Any, **more: Any) -> Any:
        real(*arguments, **more)
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(output, "say", broken)
        patch.setattr(enrolment, "enrol", stops)
        ran = run("enrol", "carol", "--card", card, "--generate-pin", status=9)
    found = PIN_LINE.search(ran.out)
    assert found
    assert PUK_LINE.search(ran.out)


@pytest.mark.parametrize("how", ["fault", "exit", "interrupt", "terminate"])
@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
def test_no_end_loses_them(
    run: Cli, card: str, note: Path, monkeypatch: pytest.MonkeyPatch, how: str, after: bool
) -> None:
    real, ends = enrol, {"fault": 1, "exit": 9, "interrupt": 130, "terminate": 143}

    def ended(*arguments: Any, **more: Any) -> Any:
        if after:
            real(*arguments, **more)
        if how == "fault":
            raise ZeroDivisionError
        if how == "exit":
            raise SystemExit(9)
        if how == "interrupt":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it did not raise")

    with monkeypatch.context() as patch:
        patch.setattr(enrolment, "enrol", ended)
        ran = run("enrol", "carol", "--card", card, "--generate-pin", status=ends[how])
    assert bool(PUK_LINE.search(ran.err)) == after
    found = PIN_LINE.search(ran.err)
    assert bool(found) == after
    if found:
        run("sign", note, "--card", card, pin=found[1])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_control_c_while_the_card_is_asked_loses_nothing(
    run: Cli, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    def stops(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(enrolment, "enrol", stops)
    monkeypatch.setattr(enrolment, "_is_blank", stops)
    ran = run("enrol", "carol", "--card", card, "--generate-pin", status=130)
    assert PIN_LINE.search(ran.err)


@pytest.mark.parametrize("options", [(), ("--json",), ("-o", "-")], ids=" ".join)
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_nothing_is_signed_where_nothing_can_be_shown(
    process: Process, home: Home, note: Path, options: tuple[str, ...], redirection: str
) -> None:
    card = home["alice"].address
    ran = redirected(process, redirection, "sign", note, "--card", card, *options, pin=PIN).check(2)
    assert "nothing was changed" in ran.err
    assert not Path(f"{note}.sig").exists()


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["words", "json"])
def test_signatures_that_are_written_are_named_all_the_same(
    run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(output, "_write", full)
    ran = run("sign", note, "--card", home["alice"].address, *options, pin=PIN, status=2)
    assert f"written was: {note}.sig" in ran.error
    assert "in the evidence" in ran.err
    assert Path(f"{note}.sig").exists()
    ran = run("sign", note, "--card", home["alice"].address, "-o", "-", pin=PIN, status=2)
    assert "the signature was not written" in ran.err


def test_an_answer_that_is_lost_is_no_command_that_failed(process: Process) -> None:
    for redirection in (">&-", ">/dev/full"):
        ran = redirected(process, redirection, "credential", "suspend", "alice", "--json").check(2)
        assert "hint: the command was carried out" in ran.err
        process("credential", "resume", "alice")


def test_without_any_stream_the_store_stays_good(process: Process, home: Home, note: Path) -> None:
    """Descriptors 0 to 2 are not the store's."""
    arguments = ("sign", note, "--card", home["alice"].address)
    redirected(process, "<&- >&- 2>&-", *arguments, pin=PIN).check(2)
    redirected(process, "<&- 2>&-", *arguments, pin=PIN).check(0)
    assert process("audit", "verify", "--json").json["good"]


def test_names_that_are_no_text(run: Cli, home: Home) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (run.folder / name).write_text("x")
    ran = run("sign", name, "--card", home["alice"].address, "--json", pin=PIN)
    assert "\\udce9" in ran.out
    assert json.loads(ran.out)[0]["signature"] == f"{name}.sig"
    ran = run("verify", name, "--signature", f"{name}.sig", "--user", "alice", "--json")
    assert ran.json["file"] == name


def test_names_that_are_no_text_are_printed_as_they_are(process: Process, home: Home) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (process.folder / name).write_text("x")
    ran = subprocess.run(
        process.command("sign", name, "--card", home["alice"].address),
        env=process.environment(PIN),
        cwd=process.folder,
        capture_output=True,
        check=True,
    )
    assert ran.stdout == b"caf\xe9.txt.sig\n"


def test_wide_characters_take_two_columns(capfd: pytest.CaptureFixture[str]) -> None:
    output.table(("USER", "STATUS"), [("日本", "active"), ("e\u0301va", "active"), ("alice", "locked")])
    lines = capfd.readouterr().out.splitlines()
    assert output.width("日本") == 4
    assert lines[1:] == ["日本   active", "e\u0301va    active", "alice  locked"]


@pytest.mark.parametrize(
    "command", [["-m", "hsm_signer"], ["-c", "from hsm_signer.__main__ import entry; entry()"]]
)
def test_control_c_while_it_starts(process: Process, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "click.py").write_text("raise KeyboardInterrupt\n")
    environment = {**process.environment(), "PYTHONPATH": str(tmp_path / "early")}
    ran = subprocess.run(
        [process.command()[0], *command, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")


def test_no_core_files(process: Process, tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "click.py").write_text(
        "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)); raise SystemExit(0)\n"
    )
    environment = {**process.environment(), "PYTHONPATH": str(tmp_path / "early")}
    ran = subprocess.run(process.command(), env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "(0, 0)\n"

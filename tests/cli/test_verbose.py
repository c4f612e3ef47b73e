"""`--verbose`: what a command does meanwhile, on standard error, and never a secret."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from hsm_signer.cli import logs
from hsm_signer.errors import RecordConflict
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, WRONG_PIN, Home
from hsm_signer.types import SigningRequest, SignOutcome
from tests.support.commandline import Cli, Process, Ran


def said(ran: Ran) -> list[str]:
    """The lines of the log."""
    return [line for line in ran.err.splitlines() if re.match("(debug|info|warning|error): ", line)]


def test_signing_says_what_it_does(run: Cli, home: Home, note: Path) -> None:
    card = home["alice"].address
    ran = run("--verbose", "sign", note, "--card", card, pin=PIN).tells_nothing()
    lines = said(ran)
    assert f"info: server: the installation in {home.path}" in lines
    assert f"info: simulated card opened: {card.removeprefix('sim:')}" in lines
    assert len([line for line in lines if re.fullmatch(r"info: token '.+' opened in slot \d+", line)]) == 1
    quiet = run("sign", note, "--card", card, "--force", pin=PIN)
    assert said(quiet) == []
    assert quiet.out == ran.out


def test_a_refused_pin_is_in_no_line(process: Process, home: Home, note: Path) -> None:
    card = home["alice"].address
    ran = process("--verbose", "sign", note, "--card", card, pin=WRONG_PIN, status=4).tells_nothing()
    assert any(line.startswith("info: ") for line in said(ran))


def test_a_repeated_attempt_and_why(
    run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Server.sign
    refusals = [RecordConflict("the record\nhas changed")]

    def busy_once(server: Server, request: SigningRequest) -> SignOutcome:
        if refusals:
            raise refusals.pop()
        return real(server, request)

    monkeypatch.setattr(Server, "sign", busy_once)
    ran = run("--verbose", "sign", note, "--card", home["alice"].address, pin=PIN)
    (line,) = [line for line in said(ran) if line.startswith("info: attempt ")]
    why = "the record has changed [record.conflict]"
    assert re.fullmatch(rf"info: attempt 1 of \d+ failed, the next one in \d\.\d\d s: {re.escape(why)}", line)


def test_goes_before_the_command(nowhere: Cli) -> None:
    ran = nowhere("card", "list", "--verbose", status=2)
    assert "hint: it goes before the command: hsm-signer --verbose ..." in ran.err


@pytest.mark.parametrize(
    ("verbose", "lines"),
    [
        (False, "warning: two lines�\nwarning: from a library\n"),
        (True, "debug: noise\nwarning: two lines�\nwarning: from a library\n"),
    ],
)
def test_which_records_are_shown(verbose: bool, lines: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The product's by level, libraries by warnings alone; none once the command is done."""
    own, other = logging.getLogger("hsm_signer.card.pcsc"), logging.getLogger("httpx")
    with logs.shown(verbose=verbose):
        own.debug("noise")
        own.warning("two\nlines\x1b")
        other.info("GET https://example.org")
        other.warning("from a library")
    own.debug("noise")
    own.warning("too late")
    assert capfd.readouterr().err == lines


def test_a_closed_standard_error_stops_nothing(
    run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(logs, "say", broken)
    assert run("--verbose", "sign", note, "--card", home["alice"].address, pin=PIN).out

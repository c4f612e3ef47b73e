"""`init` and `doctor` on a token that lets keys out which must stay: SoftHSM2 behind a module that does."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.testing import PIN
from hsm_signer.token.profile import CONFINEMENTS
from tests.support import weak
from tests.support.commandline import Cli, Process
from tests.support.weak import LABEL, WeakToken

pytestmark = pytest.mark.usefixtures("fewer_cycles")


@pytest.fixture
def token(tmp_path: Path) -> WeakToken:
    """The token, initialised; nothing of ours is on it."""
    (tmp_path / "token").mkdir()
    return weak.softhsm_that_lets_keys_out(tmp_path / "token")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that does not exist yet."""
    return tmp_path / "home"


@pytest.fixture
def process(home: Path, tmp_path: Path, token: WeakToken) -> Process:
    """`hsm-signer` in a process of its own."""
    return Process(home, tmp_path, token.variables)


@pytest.fixture
def run(
    home: Path, token: WeakToken, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """And in this one, whose `doctor` enrols fewer."""
    return Cli(home, home.parent, monkeypatch, capfd, variables=token.variables)


def init(run: Cli | Process, token: WeakToken, *more: str, status: int = 0) -> str:
    """What `init` on this token says."""
    where = ("--module", token.module, "--token-label", LABEL, "--token-pin-file", token.pin_file)
    ran = run("init", *where, *more, status=status)
    assert ran.out == ""
    return ran.err


def test_a_weak_token_is_refused_unless_it_is_accepted(
    run: Cli, process: Process, home: Path, token: WeakToken
) -> None:
    """And then everything works, and doctor says each time what this token is worth."""
    said = init(process, token, status=5)
    assert "[token.weak]" in said
    assert f"this token does not enforce {CONFINEMENTS['extractable']}" in said
    assert "hint: take another token; for trials only: --accept-weak-token" in said
    assert not home.exists()

    said = init(process, token, "--accept-weak-token")
    assert f"accepted although this token does not enforce {CONFINEMENTS['extractable']}" in said
    assert "accept_weak = true" in (home / CONFIG_FILE).read_text().splitlines()
    (run.folder / "note").write_text("of a weak token")
    run("card", "new", "sim:a.card")
    run("enrol", "alice", "--card", "sim:a.card", pin=PIN)
    run("sign", "note", "--card", "sim:a.card", pin=PIN)

    for _ in range(2):
        ran = run("doctor")
        (line,) = [line for line in ran.out.splitlines() if line.startswith("warning")]
        assert line.split()[1] == "token.extractable"
        assert "taken, NOT enforced" in line
        assert "hint: for trials only: its keys are not kept inside" in ran.out
    found = run("doctor", "--json").json
    assert found["good"]
    (check,) = [check for check in found["checks"] if check["name"] == "token.extractable"]
    assert (check["result"], check["taken"], check["enforced"]) == ("warning", True, False)


def test_a_token_that_nobody_accepted_fails_the_doctor(run: Cli, home: Path, token: WeakToken) -> None:
    """As one of an older version that was never asked."""
    init(run, token, "--accept-weak-token")
    config = home / CONFIG_FILE
    config.write_text(config.read_text().replace("accept_weak = true\n", ""))
    ran = run("doctor", status=7)
    assert "1 check failed: token.extractable" in ran.error
    assert "hint: take another token" in ran.out


def test_a_sound_token_is_not_noted_as_accepted(run: Cli, home: Path, token: WeakToken) -> None:
    run("init", "--accept-weak-token")
    assert "accept_weak" not in (home / CONFIG_FILE).read_text()
    assert "warning" not in run("doctor").out
    del token

"""The command card-applet-sim: what it prints, and one clear line when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from card_applet_sim import SimulatedCard
from tests.support.card import contract, host
from tests.support.card.host import OK, Host, Profile

from .conftest import MakeCard

ROOT = Path(__file__).parents[2]
SELECT = "00A40400 09 F048534D5349474E01"


def run(*arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, in the folder of the sources."""
    command = [sys.executable, "-m", "card_applet_sim", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=False, cwd=ROOT, timeout=60)


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on standard error."""
    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.startswith("card-applet-sim: ")
    assert text.count("\n") == 1
    return text.strip()


def test_new_and_info(tmp_path: Path) -> None:
    path = tmp_path / "card"
    done = run("new", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    lines = run("info", path).stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["version", "state", "serial", "features"]
    assert lines[1].split() == ["state", "blank"]
    assert "exists already" in refused(run("new", path))


def test_info_json(make_card: MakeCard, card: SimulatedCard, card_path: Path) -> None:
    serial = make_card(Profile()).status()[0x87].hex()
    card.close()
    done = run("info", card_path, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "version": 1,
        "state": "active",
        "scheme": "rolling",
        "combine": "cbc",
        "credential_id": Profile().credential_id.hex(),
        "pin_left": 3,
        "puk_left": 3,
        "serial": serial,
        "features": "000f",
        "pin_policy": "always",
        "pin_check": "card",
    }
    assert Profile().kcar.hex().encode() not in done.stdout


def test_apdu(card_path: Path) -> None:
    script = f"# a comment\n\n{SELECT}\n80 CA 00 00\nreset\n80ca0000\n00\n".encode()
    done = run("apdu", card_path, given=script)
    assert done.returncode == 0
    answers = [bytes.fromhex(line) for line in done.stdout.decode().splitlines()]
    assert [answer[-2:].hex() for answer in answers] == ["9000", "9000", "6d00", "6700"]
    assert host.parse(answers[0][:-2])[0x6F].startswith(b"\x84\x09" + contract.aid())
    with SimulatedCard(card_path, lock_timeout=0) as card:
        assert Host(card).select()[1] == OK


@pytest.mark.parametrize(
    "line", [b"3132333435360", b"PIN 123456", b"\xff\xfe", "\N{FULLWIDTH DIGIT ZERO}0".encode()]
)
def test_apdu_wants_hexadecimal_and_does_not_repeat_it(line: bytes, card_path: Path) -> None:
    done = run("apdu", card_path, given=SELECT.encode() + b"\n" + line + b"\n")
    text = refused(done)
    assert text == "card-applet-sim: line 2 is not hexadecimal"
    assert done.stdout.count(b"\n") == 1, "what came before was answered"


@pytest.mark.parametrize("command", ["info", "apdu"])
def test_no_card(command: str, tmp_path: Path) -> None:
    assert "there is no card memory at" in refused(run(command, tmp_path / "none"))


def test_damaged_and_debug(card_path: Path) -> None:
    card_path.write_bytes(card_path.read_bytes()[:-1])
    assert "is damaged: 336 bytes instead of 337" in refused(run("info", card_path))
    done = run("--debug", "info", card_path)
    assert done.returncode == 1
    assert b"Traceback" in done.stderr


def test_usage() -> None:
    assert run("frobnicate").returncode == 2
    assert run("new").returncode == 2
    assert b"apdu" in run("--help").stdout

"""`make conformance` on a card in a reader: asks before it erases, and runs the vectors and the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from card_applet_sim import SimulatedCard
from tests.support.card.host import OK, Host, Profile
from tests.support.readers import Reader

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "conformance"


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        # Plugins of other packages take longer to load than these tests take.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_it_asks_which_card_and_whether_it_may() -> None:
    done = run([str(SCRIPT)], CARD="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "which card?" in done.stderr
    done = run([str(SCRIPT)], CARD="pcsc:x", CARD_MAY_BE_ERASED="")
    assert done.returncode == 2
    assert "this erases whatever is on pcsc:x" in done.stderr


def test_the_suite_asks_too(reader: Reader, card: SimulatedCard) -> None:
    host = Host(card)
    host.select()
    assert host.install(Profile()) == OK
    vectors = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/conformance/test_vectors.py",
        "-k",
        "blank or pin-xor",
    ]
    with reader.holding(card):
        done = run(vectors, CARD=reader.address, CARD_MAY_BE_ERASED="no")
        assert done.returncode == 1
        assert "these tests erase whatever is on" in done.stdout
        host.select()
        assert host.status()[0x81] == b"\x03", "nothing happened to it"
        done = run(vectors, CARD=reader.address, CARD_MAY_BE_ERASED="yes")
        assert done.returncode == 0, done.stdout
        assert " passed" in done.stdout
        host.select()
        assert host.status()[0x81] == b"\x01"

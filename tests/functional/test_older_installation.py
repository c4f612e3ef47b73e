"""An installation that version 0.1 made is brought on and works: every card, status and client in it.

It is kept as 0.1 left it (tests/vectors/installations): nine users in all three schemes, one of them pending,
one suspended, one revoked, with signatures, evidence and an anchor of that time.
"""

from __future__ import annotations

import re
import sqlite3
import tarfile
from pathlib import Path

import pytest

from hsm_signer.testing import PIN
from tests.support import needs
from tests.support.commandline import Process
from tests.support.people import ROOT

ARCHIVE = ROOT / "tests" / "vectors" / "installations" / "0.1.tar.gz"
SIGNERS = ("alice", "bob", "carol", "dave", "grace", "heidi")
"""Rolling P-256, pin P-256, basic P-256, rolling RSA-2048, pin RSA-2048, rolling P-384."""


@pytest.fixture
def old(tmp_path: Path) -> Process:
    """The command line in the folder where 0.1 worked, everything as it left it."""
    needs.softhsm_module()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    home = tmp_path / "home"
    settings = home / "softhsm.conf"
    # SoftHSM wants the whole path, and that was another.
    text, changed = re.subn(
        r"(?m)^directories\.tokendir = .*$", f"directories.tokendir = {home / 'tokens'}", settings.read_text()
    )
    assert changed == 1
    settings.write_text(text)
    return Process(home, tmp_path)


def sign(run: Process, user: str, status: int = 0) -> None:
    pin = None if user == "carol" else PIN
    run("sign", "note.txt", "--card", f"sim:cards/{user}.card", "-o", f"{user}.new", status=status, pin=pin)


def sealings(run: Process) -> dict[str, int]:
    with sqlite3.connect(run.home / "store.db") as connection:
        return dict(connection.execute("SELECT owner, sealing FROM credential"))


def test_nothing_works_before_the_upgrade_and_everything_after(old: Process) -> None:
    refused = old("sign", "note.txt", "--card", "sim:cards/alice.card", "-o", "alice.new", status=6, pin=PIN)
    assert refused.code == "store.too-old"
    old("store", "upgrade")
    old("store", "upgrade")  # once more is no error
    assert "all good" in old("audit", "verify", "--anchor", "anchor.json").out, "the anchor of 0.1 holds"
    assert set(sealings(old).values()) == {1}

    for user in SIGNERS:
        old("verify", "note.txt", "--signature", f"{user}.sig", "--user", user)
        sign(old, user)
        old("verify", "note.txt", "--signature", f"{user}.new", "--user", user)
        assert sealings(old)[user] == 2, user
        (old.folder / f"{user}.new").unlink()
        sign(old, user)  # and again, with S

    sign(old, "frank", status=3)
    old("credential", "resume", "frank")
    sign(old, "frank")
    sign(old, "erin", status=3)
    old("enrol", "ivan", "--card", "sim:cards/ivan.card", pin=PIN)
    sign(old, "ivan")

    # All but the revoked one.
    assert {user for user, sealing in sealings(old).items() if sealing == 1} == {"erin"}
    told = old("audit", "verify", "--anchor", "anchor.json")
    assert "all good" in told.out
    assert [client["name"] for client in old("client", "list", "--json").json] == ["desk"]


def test_doctor_says_what_an_older_version_left(old: Process) -> None:
    old("store", "upgrade")
    checks = {check["name"]: check for check in old("doctor", "--json", status=0).json["checks"]}
    assert checks["token.key-attributes"]["result"] == "warning"
    assert "sealing 1" in checks["store.contents"]["words"]

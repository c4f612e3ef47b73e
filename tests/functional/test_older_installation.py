"""An installation that version 0.1 made is brought on and works: every card, status and client in it.

It is kept as 0.1 left it (tests/vectors/installations): nine users in all three schemes, one of them pending,
one suspended, one revoked, with signatures, evidence and an anchor of that time.
"""

from __future__ import annotations

import re
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.server import upgrade as upgrade_module
from hsm_signer.server.installation import Installation, no_prompt
from hsm_signer.server.upgrade import upgrade
from hsm_signer.store.store import Store
from hsm_signer.testing import PIN
from hsm_signer.token.session import TokenSession
from tests.support import needs
from tests.support.commandline import Cli, Process
from tests.support.people import ROOT

ARCHIVE = ROOT / "tests" / "vectors" / "installations" / "0.1.tar.gz"
SIGNERS = ("alice", "bob", "carol", "dave", "grace", "heidi")
"""Rolling P-256, pin P-256, basic P-256, rolling RSA-2048, pin RSA-2048, rolling P-384."""


@pytest.fixture
def old_home(tmp_path: Path) -> Path:
    """Everything as 0.1 left it, in the folder where it worked."""
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
    return home


@pytest.fixture
def old(old_home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """The command line in that folder."""
    return Cli(old_home, old_home.parent, monkeypatch, capfd)


def sign(run: Cli, user: str, status: int = 0) -> None:
    pin = None if user == "carol" else PIN
    run("sign", "note.txt", "--card", f"sim:cards/{user}.card", "-o", f"{user}.new", status=status, pin=pin)


def sealings(home: Path) -> dict[str, int]:
    with sqlite3.connect(home / "store.db") as connection:
        return dict(connection.execute("SELECT owner, sealing FROM credential"))


def test_nothing_works_before_the_upgrade_and_everything_after(old: Cli, old_home: Path) -> None:
    refused = old("sign", "note.txt", "--card", "sim:cards/alice.card", "-o", "alice.new", status=6, pin=PIN)
    assert refused.code == "store.too-old"
    old("store", "upgrade")
    old("store", "upgrade")  # once more is no error
    assert "all good" in old("audit", "verify", "--anchor", "anchor.json").out, "the anchor of 0.1 holds"
    assert set(sealings(old_home).values()) == {1}

    for user in SIGNERS:
        old("verify", "note.txt", "--signature", f"{user}.sig", "--user", user)
        sign(old, user)
        old("verify", "note.txt", "--signature", f"{user}.new", "--user", user)
        assert sealings(old_home)[user] == 2, user
        (old.folder / f"{user}.new").unlink()
        sign(old, user)  # and again, with S

    sign(old, "frank", status=3)
    old("credential", "resume", "frank")
    sign(old, "frank")
    sign(old, "erin", status=3)
    old("enrol", "ivan", "--card", "sim:cards/ivan.card", pin=PIN)
    sign(old, "ivan")

    # All but the revoked one.
    assert {user for user, sealing in sealings(old_home).items() if sealing == 1} == {"erin"}
    told = old("audit", "verify", "--anchor", "anchor.json")
    assert "all good" in told.out
    assert [client["name"] for client in old("client", "list", "--json").json] == ["desk"]


def test_the_upgrade_seals_what_is_there_and_says_so_in_the_configuration(old_home: Path) -> None:
    old = Process(old_home, old_home.parent)
    settings = old_home / "config.toml"
    settings.write_text(f"# the operator's own words\n{settings.read_text()}")
    told = old("store", "upgrade").err
    assert "checking all evidence and sealing it" in told
    text = settings.read_text()
    assert text.startswith("# the operator's own words\n")
    assert "format = 2\ninstallation = " in text
    assert "master_key" not in text
    with sqlite3.connect(old_home / "store.db") as connection:
        ((unsealed,),) = connection.execute("SELECT count(*) FROM evidence WHERE mac IS NULL")
        ((begun,),) = connection.execute("SELECT count(*) FROM evidence WHERE event = 20")
    assert (unsealed, begun) == (0, 1)
    before = settings.read_bytes(), (old_home / "store.db").read_bytes()
    assert "already" in old("store", "upgrade").err
    assert (settings.read_bytes(), (old_home / "store.db").read_bytes()) == before


def test_a_forgery_is_not_sealed_by_the_upgrade(old: Cli, old_home: Path) -> None:
    with sqlite3.connect(old_home / "store.db") as connection:
        connection.execute(
            "UPDATE evidence SET actor = 'somebody else' WHERE sequence = 2 AND credential_id = "
            "(SELECT credential_id FROM credential WHERE owner = 'alice')"
        )
    refused = old("store", "upgrade", status=7)
    assert refused.code == "audit.failed"
    assert "chain.previous: alice, credential " in refused.err
    with sqlite3.connect(old_home / "store.db") as connection:
        assert connection.execute("SELECT count(mac) FROM evidence").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM installation").fetchone() == (0,)
    assert old("credential", "list", status=6).code == "store.too-old"

    old("store", "upgrade", "--leave-damaged")
    refused = old("sign", "note.txt", "--card", "sim:cards/alice.card", "-o", "no", status=6, pin=PIN)
    assert refused.code == "evidence.damaged"
    sign(old, "dave")
    assert "entry.mac: alice" in old("audit", "verify", status=7).out


def test_nothing_is_sealed_afterwards(old: Cli, old_home: Path) -> None:
    """Who writes the database makes it look like one that was never upgraded."""
    old("store", "upgrade")
    with sqlite3.connect(old_home / "store.db") as connection:
        connection.execute("UPDATE evidence SET mac = NULL")
        connection.execute("DELETE FROM evidence WHERE event = 20")
        connection.execute("DELETE FROM installation")
    old("store", "upgrade")
    with sqlite3.connect(old_home / "store.db") as connection:
        assert connection.execute("SELECT count(mac) FROM evidence").fetchone() == (0,)
    assert old("credential", "list", status=6).code == "installation.damaged"


class Killed(BaseException):
    """What kill -9 is to a process."""


@pytest.mark.parametrize(
    ("where", "after"),
    [
        ((Store, "upgrade"), True),
        ((Store, "seal_entries"), False),
        ((Store, "seal_entries"), True),
        ((TokenSession, "create_identity_key"), False),
        ((TokenSession, "create_identity_key"), True),
        ((Store, "begin"), True),
        ((upgrade_module, "write_whole"), False),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else ("after" if value else "before"),
)
def test_an_upgrade_that_is_killed_goes_on_where_it_was(
    old_home: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], after: bool
) -> None:
    owner, name = where
    real = getattr(owner, name)

    def killed(*given: Any, **named: Any) -> None:
        if after:
            real(*given, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(upgrade_module, "SEALED_AT_A_TIME", 5)
        patched.setattr(owner, name, killed)
        with pytest.raises(Killed):
            upgrade(old_home, no_prompt)
    assert upgrade(old_home, no_prompt)
    assert not upgrade(old_home, no_prompt)
    installation = Installation.open(old_home)
    with installation.server() as server:
        assert server.audit().good
        objects = list(server.environment.session.pkcs11.get_objects())
    assert len(objects) == 4, "no key was made twice"


@pytest.mark.usefixtures("fewer_cycles")
def test_doctor_says_what_an_older_version_left(old: Cli) -> None:
    old("store", "upgrade")
    checks = {check["name"]: check for check in old("doctor", "--json", status=0).json["checks"]}
    assert checks["token.key-attributes"]["result"] == "warning"
    assert "sealing 1" in checks["store.contents"]["words"]

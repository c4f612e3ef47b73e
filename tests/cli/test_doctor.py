"""`doctor`: every line of a good installation, and of broken ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from pkcs11 import Attribute

from hsm_signer.cli import doctor_checks
from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.errors import StoreReadOnly, WrongKey
from hsm_signer.server.server import Server
from hsm_signer.store.store import Store
from hsm_signer.testing import PIN, Home
from hsm_signer.token.profile import CONFINEMENTS, Confinement
from hsm_signer.token.session import MASTER_KEY_LABEL, RECORD_KEY_LABEL
from hsm_signer.types import Event, KeySpec, TokenKeyKind
from tests.support.commandline import Cli, as_nobody, changed, tree
from tests.support.installation_rows import name_key
from tests.support.older import as_older_versions_made_it
from tests.support.scenes import sql, writable

CYCLE = frozenset({"ok", "not-possible"})


@pytest.fixture(autouse=True)
def _fewer_cycles(request: pytest.FixtureRequest) -> None:
    """One test does them all."""
    if "every_key" not in request.fixturenames:
        request.getfixturevalue("fewer_cycles")


@pytest.fixture
def every_key() -> None:
    """The set that `doctor` has by default."""


def results(run: Cli, *arguments: str | Path, status: int = 0) -> dict[str, str]:
    """name -> result."""
    ran = run("doctor", "--json", *arguments, status=status)
    assert set(ran.json) == {"good", "checks"}
    assert ran.json["good"] == (status == 0)
    confined = {f"token.{name}" for name in CONFINEMENTS}
    for check in ran.json["checks"]:
        more = {"taken", "enforced"} if check["name"] in confined else set()
        assert set(check) == {"name", "result", "words", "hint"} | more
    return {each["name"]: each["result"] for each in ran.json["checks"]}


@pytest.mark.usefixtures("every_key")
def test_a_good_installation(run: Cli, home: Home) -> None:
    before = tree(run.folder)
    found = results(run, "--card", home["alice"].address)
    assert list(found)[:2] == ["config", "token.login"]
    assert set(found.values()) <= CYCLE
    for name, result in found.items():
        if name.startswith("cycle.") and "ed25519" not in name:
            assert result == "ok", name
    for name in ("token.keys", "token.profile", "store.open", "store.writable", "store.contents", "card"):
        assert found[name] == "ok"
    assert found["cycle.rolling.ed25519"] == found["token.combine-xor"] == "not-possible"
    assert {name.rpartition(".")[2] for name in found if name.startswith("cycle.rolling.")} == {
        each.value for each in KeySpec
    } - {"rsa4096"}
    # Neither store nor token nor card has anything more than before.
    assert not changed(before, tree(run.folder))


def test_words(run: Cli, home: Home) -> None:
    ran = run("doctor", "--card", home["alice"].address)
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert lines[0].startswith("ok            config ")
    assert any(line.startswith("not possible  cycle.rolling.ed25519") for line in lines)
    assert any("alice, active" in line for line in lines)
    assert "5 credentials (5 active), 11 evidence entries\n" in ran.out


def test_what_is_wanted_of_a_token_and_what_it_does(run: Cli) -> None:
    """One line for each attribute, in the order of the profile; the same in JSON."""
    lines = run("doctor").out.splitlines()
    shown = [line for line in lines if line.split()[1].removeprefix("token.") in CONFINEMENTS]
    assert [line.split(maxsplit=2)[2] for line in shown] == [
        f"{wanted}: taken, enforced" for wanted in CONFINEMENTS.values()
    ]
    assert all(line.startswith("ok ") for line in shown)
    checks = {check["name"]: check for check in run("doctor", "--json").json["checks"]}
    for name in CONFINEMENTS:
        assert (checks[f"token.{name}"]["taken"], checks[f"token.{name}"]["enforced"]) == (True, True)
    assert checks["token.key-attributes"]["result"] == "ok"


@pytest.mark.parametrize("older", [("master_key",), ("record_key",), ("master_key", "record_key")])
def test_token_keys_of_an_older_version_are_named(run: Cli, home: Home, older: tuple[str, ...]) -> None:
    """Made without CKA_MODIFIABLE false: whoever has the token's PIN can change them, as is shown here."""
    with writable(home) as session:
        profile = home.installation.profile(session)
        confinement = {
            name: Confinement(taken=found.taken, enforced=name != "modifiable")
            for name, found in profile.confinement.items()
        }
        before = msgspec.structs.replace(profile, confinement=confinement)
        made = {"master_key": session.create_master_key, "record_key": session.create_record_key}
        keys = {name: made[name](before) for name in older}
        for name, kind, label in (
            ("master_key", TokenKeyKind.MASTER, MASTER_KEY_LABEL),
            ("record_key", TokenKeyKind.RECORD_MAC, RECORD_KEY_LABEL),
        ):
            if name in older:
                name_key(home, session, kind, keys[name])
                key = session.find_key(label, keys[name])
                key[Attribute.DECRYPT] = True
                assert key[Attribute.DECRYPT]
    ran = run("doctor")
    (line,) = [line for line in ran.out.splitlines() if "token.key-attributes" in line]
    named = " and ".join(name.replace("_", " ") for name in older)
    assert line.startswith("warning ")
    assert f" {named}: whoever has the token's PIN can give " in line
    assert "hint: an older version made " in ran.out
    assert "a new installation has keys that cannot be changed" in ran.out


def test_records_at_sealing_1_are_counted(run: Cli, home: Home) -> None:
    """Until each has signed once."""
    with home.server() as server:
        for name in ("alice", "basil"):
            as_older_versions_made_it(server, home[name])
    assert "; 2 records at sealing 1 until the next signature of each" in run("doctor").out
    with home.server() as server:
        home["alice"].sign(server)
        server.change_status(home["basil"].record(server).credential_id, Event.REVOKE)
    assert "sealing 1" not in run("doctor").out


@pytest.mark.parametrize(
    ("broken", "failed", "skipped"),
    [
        ("config", {"config"}, {"token", "store", "cycle"}),
        ("token", {"token.login"}, {"token.profile", "token.keys", "cycle"}),
        ("token pin", {"token.login"}, {"token.profile", "token.keys", "cycle"}),
        ("keys", {"token.keys"}, {"cycle"}),
        ("store", {"store.open"}, {"store.writable", "store.contents", "token.keys", "cycle"}),
        ("store damaged", {"store.open"}, {"store.writable", "store.contents", "token.keys", "cycle"}),
        ("uri", {"config"}, {"cycle"}),
    ],
)
def test_broken_installations(run: Cli, home: Home, broken: str, failed: set[str], skipped: set[str]) -> None:
    config = home.path / CONFIG_FILE
    text = config.read_text()
    match broken:
        case "config":
            config.write_text(text + "colour = 1\n")
        case "uri":
            config.write_text(text.replace("pkcs11:token", "pkcs12:token"))
        case "token":
            shutil.rmtree(home.path / "tokens")
            (home.path / "tokens").mkdir()
        case "token pin":
            (home.path / "token.pin").write_text("not the pin")
        case "keys":
            sql(home, "UPDATE installation SET mac_key_id = ?", bytes(8))
        case "store":
            (home.path / "store.db").unlink()
        case "store damaged":
            (home.path / "store.db").write_bytes(b"x" * 8192)
    found = results(run, "--card", home["alice"].address, status=7)
    assert failed <= {name for name, result in found.items() if result == "failed"}
    assert skipped <= {name for name, result in found.items() if result == "skipped"}
    # What can be looked at all the same is.
    assert found["card"] == "ok"
    if broken.startswith("store"):
        assert found["token.profile"] == "ok"
    if broken.startswith("token"):
        assert found["store.contents"] == "ok"


def test_without_an_installation(nowhere: Cli) -> None:
    ran = nowhere("doctor", status=7)
    assert ran.out.startswith("FAILED        config ")
    assert "hint: hsm-signer init" in ran.out
    assert "1 check failed: config [verification.failed]" in ran.error


def test_cards(run: Cli, home: Home, template_home: Home) -> None:
    assert results(run, "--card", "sim:gone", status=7)["card"] == "failed"
    run("card", "new", "sim:blank")
    assert results(run, "--card", "sim:blank")["card"] == "ok"
    other = template_home.copy_to(run.folder / "other")
    run("--home", other.path, "enrol", "carol", "--card", "sim:blank", pin=PIN)
    assert results(run, "--card", "sim:blank", status=7)["card"] == "failed"
    del home


def test_a_profile_that_is_no_longer_true(run: Cli, home: Home) -> None:
    profile = home.path / "profile.json"
    profile.write_text(profile.read_text().replace('"cmac": 4234', '"cmac": null'))
    assert results(run, status=7)["token.profile"] == "failed"
    profile.unlink()
    assert results(run)["token.profile"] == "ok"


def test_a_cycle_that_fails(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> object:
        raise WrongKey("the key does not open")

    monkeypatch.setattr(Server, "sign", refuses)
    ran = run("doctor", status=7)
    assert "FAILED        cycle.rolling.p256" in ran.out
    assert "cycle.rolling.p256" in ran.error


def test_unreadable_records_are_counted(run: Cli, home: Home) -> None:
    import sqlite3

    with sqlite3.connect(home.path / "store.db") as store:
        store.execute("UPDATE credential SET status = 77")
    store.close()
    ran = run("doctor", status=7)
    assert "5 records cannot be read" in ran.out


def test_a_store_that_cannot_be_written(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: Store) -> None:
        raise StoreReadOnly("the store is read-only")

    monkeypatch.setattr(Store, "probe_write", refuses)
    found = results(run, status=7)
    assert (found["store.open"], found["store.writable"], found["store.contents"]) == ("ok", "failed", "ok")


def test_a_store_that_the_system_closed(home: Home) -> None:
    # pytest's own folder is closed to others.
    with TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(home.path / "store.db", folder / "store.db")
        with Store.open(f"sqlite:///{folder}/store.db") as owned:
            assert doctor_checks._Store._writable(owned).result is doctor_checks.Result.OK
            for file in folder.iterdir():
                file.chmod(0o644 if os.geteuid() == 0 else 0o444)
            folder.chmod(0o755 if os.geteuid() == 0 else 0o555)
            with as_nobody(), Store.open(f"sqlite:///{folder}/store.db") as store:
                check = doctor_checks._Store._writable(store)
            folder.chmod(0o755)
    assert check.result is doctor_checks.Result.FAILED
    assert "store.read-only" in check.words

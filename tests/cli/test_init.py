"""`init`, `store upgrade` and the commands where nothing or not all is there."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.server.initialise import (
    PIN_FILE,
    SO_PIN_FILE,
)
from hsm_signer.testing import Home
from tests.support import needs
from tests.support.commandline import Cli, tree
from tests.support.people import SOFTHSM_CONF


@pytest.fixture
def fresh(nowhere: Cli) -> Cli:
    """Where there is no installation, but SoftHSM2."""
    needs.softhsm_module()
    return nowhere


def test_init_makes_an_installation_and_says_what_comes_next(fresh: Cli) -> None:
    home = fresh.home
    assert home is not None
    ran = fresh("init", "--softhsm-conf", SOFTHSM_CONF)
    assert ran.out == ""
    assert str(home) in ran.err
    assert "hsm-signer enrol" in ran.err
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for name in (CONFIG_FILE, PIN_FILE, SO_PIN_FILE, "store.db"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    for name in (PIN_FILE, SO_PIN_FILE):
        assert (home / name).read_text().strip() not in ran.err
    listed = fresh("credential", "list", "--json")
    assert listed.json == []
    assert fresh("credential", "list").out.split() == ["USER", "STATUS", "KEY", "SCHEME", "CREDENTIAL", "ID"]
    before = tree(home)
    assert fresh("init", status=2).code == "config.already-initialised"
    assert tree(home) == before


def test_init_takes_pin_file_store_url_and_home_option(fresh: Cli) -> None:
    folder = fresh.folder
    (folder / "pin").write_text("my token pin\n")
    url = f"sqlite:///{folder}/elsewhere.db"
    fresh("--home", "other", "init", "--token-pin-file", "pin", "--token-label", "L", "--store-url", url)
    assert not (folder / "nothing").exists()
    assert (folder / "elsewhere.db").exists()
    config = (folder / "other" / CONFIG_FILE).read_text()
    assert "token=L;" in config
    assert f"pin-source=file:{folder}/pin" in config
    assert not (folder / "other" / PIN_FILE).exists()
    fresh("--home", "other", "credential", "list")


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("--module", "/nowhere/lib.so", "--token-label", "L"), 5, "token.not-found"),
        (("--module", "/nowhere/lib.so"), 2, "input.invalid"),
        (("--softhsm-conf", "/nowhere"), 2, "file.unusable"),
        (("--softhsm-conf", "wrong.conf"), 2, "config.invalid"),
        (("--token-pin-file", "/nowhere"), 2, "file.unusable"),
        (("--store-url", "mysql://somewhere/db"), 2, "config.invalid"),
        (("--store-url", "sqlite:////nowhere/db"), 6, "store.error"),
        (("--token-label", "L" * 33), 2, "input.invalid"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_init_refused_leaves_nothing(fresh: Cli, arguments: tuple[str, ...], status: int, code: str) -> None:
    (fresh.folder / "wrong.conf").write_text("objectstore.backend = file\n")
    assert fresh("init", *arguments, status=status).code == code
    assert fresh.home is not None
    assert not fresh.home.exists()


def test_init_leaves_a_folder_that_is_not_empty_alone(fresh: Cli) -> None:
    assert fresh.home is not None
    fresh.home.mkdir()
    (fresh.home / "mine").write_text("mine")
    assert fresh("init", status=2).code == "config.already-initialised"
    assert tree(fresh.home) == {"mine": b"mine"}


def test_a_token_with_a_prompted_pin(run: Cli, home: Home) -> None:
    """The token's PIN from a variable, from a prompt, or missing."""
    pin = (home.path / PIN_FILE).read_text().strip()
    config = home.path / CONFIG_FILE
    config.write_text(config.read_text().replace("&pin-source=file:token.pin", ""))
    assert "pin-source" not in config.read_text()
    assert run("credential", "list", status=2).code == "pin.missing"
    run("credential", "list", env={"HSM_SIGNER_TOKEN_PIN": pin})
    ran = run("credential", "list", answers=(pin,))
    assert run.asked == ["PIN of token hsm-signer"]
    assert pin not in ran.out + ran.err
    assert run("credential", "list", answers=("wrong pin",), status=5).code == "token.pin-wrong"


@pytest.mark.parametrize(
    "arguments",
    [
        ("enrol", "u", "--card", "sim:c"),
        ("sign", "note.txt", "--card", "sim:c"),
        ("verify", "note.txt", "--signature", "note.txt", "--user", "u"),
        ("credential", "list"),
        ("credential", "revoke", "u", "--yes"),
        ("audit", "list"),
        ("audit", "verify"),
        ("audit", "head"),
        ("store", "upgrade"),
    ],
    ids=" ".join,
)
def test_without_an_installation(nowhere: Cli, note: Path, arguments: tuple[str, ...]) -> None:
    ran = nowhere(*arguments, status=2)
    assert ran.code == "config.not-initialised"
    assert ran.out == ""
    assert "hint: hsm-signer init" in ran.err
    assert tree(nowhere.folder) == {"note.txt": note.read_bytes()}


def test_broken_installations(run: Cli, home: Home) -> None:
    config, text = home.path / CONFIG_FILE, (home.path / CONFIG_FILE).read_text()
    for broken, status, code in (
        (text + "\ncolour = 1\n", 2, "config.invalid"),
        (text.replace("pin_tries = 3", 'pin_tries = "three"'), 2, "config.invalid"),
        (text.replace("format = 2", "format = = 2"), 2, "config.invalid"),
        (text.replace("token=hsm-signer", "token=gone"), 5, "token.not-found"),
        (text.replace("libsofthsm2.so", "gone.so"), 5, "token.not-found"),
        (text.replace("sqlite:///store.db", "sqlite:///gone.db"), 6, "store.missing"),
        (
            re.sub(r'(?m)^installation = "\w+"$', f'installation = "{"0" * 16}"', text),
            6,
            "installation.damaged",
        ),
    ):
        config.write_text(broken)
        assert run("credential", "list", status=status).code == code
    config.write_text(text)
    (home.path / PIN_FILE).write_text("not the pin\n")
    assert run("credential", "list", status=5).code == "token.pin-wrong"
    (home.path / PIN_FILE).unlink()
    assert run("credential", "list", status=2).code == "file.unusable"


def test_store_upgrade_of_a_current_store_changes_nothing(run: Cli, home: Home) -> None:
    before = (home.path / "store.db").read_bytes()
    assert run("store", "upgrade").out == ""
    assert (home.path / "store.db").read_bytes() == before
    (home.path / "store.db").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    assert run("store", "upgrade", status=6).code == "store.damaged"
    (home.path / "store.db").unlink()
    assert run("store", "upgrade", status=6).code == "store.missing"

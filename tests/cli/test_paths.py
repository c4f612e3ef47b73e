"""Odd names, files nobody may read, and files that nothing may overwrite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hsm_signer.cli import protected_files
from hsm_signer.config import installation as config
from hsm_signer.server import initialise, installation
from hsm_signer.testing import PIN, WRONG_PIN, Home
from tests.support import needs
from tests.support.commandline import Cli, as_nobody, changed, tree

NO_TEXT = os.fsdecode(b"b\xff")


@pytest.mark.parametrize("name", [NO_TEXT, "nl\nhome", "tab\thome"])
def test_no_installation_at_an_odd_place(nowhere: Cli, name: str) -> None:
    for arguments, env in ((("--home", name), {}), ((), {config.HOME_VARIABLE: name})):
        ran = nowhere(*arguments, "init", status=2, env=env)
        assert ran.code == "input.invalid"
        assert "without control characters" in ran.error
    ran = nowhere("--home", "h", "init", "--token-pin-file", name, status=2)
    assert (ran.code, "--token-pin-file" in ran.error) == ("input.invalid", True)
    assert not list(nowhere.folder.iterdir())


def test_the_token_pin_does_not_come_from_standard_input(nowhere: Cli) -> None:
    ran = nowhere("--home", "h", "init", "--token-pin-file", "-", status=2)
    assert "a file that stays" in ran.error


@pytest.mark.parametrize(
    "arguments",
    [
        ("credential", "show", NO_TEXT),
        ("audit", "list", NO_TEXT),
        ("enrol", NO_TEXT, "--card", "sim:c"),
        ("enrol", "u", "--card", "sim:c", "--subject", f"CN={NO_TEXT}"),
        ("verify", "f", "--signature", "s", "--user", NO_TEXT),
        ("init", "--token-label", NO_TEXT),
    ],
    ids=lambda value: value[0],
)
def test_text_has_to_be_text(run: Cli, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments, status=2)
    assert ran.code == "input.invalid"
    assert "expected text in UTF-8" in ran.error


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("sign", "", "--card", "sim:c"), "FILE"),
        (("sign", "f", "--card", "sim:c", "-o", ""), "--output"),
        (("--home", "", "audit", "head"), "--home"),
        (("enrol", "u", "--card", "sim:c", "--csr", ""), "--csr"),
    ],
    ids=["FILE", "-o", "--home", "--csr"],
)
def test_an_empty_name(run: Cli, arguments: tuple[str, ...], name: str) -> None:
    ran = run(*arguments, status=2)
    assert ran.error == f"error: {name}: expected the name of a file or folder, found nothing [input.invalid]"


def test_files_that_may_not_be_read(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # pytest's own folder is closed to others.
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        # Where each run comes back to: others may not enter the folder that the tests are started in.
        monkeypatch.chdir(folder)
        for closed in ("closed", "key"):
            (folder / closed).write_text("x")
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text("x")
        run = Cli(None, folder, monkeypatch, capfd)
        refused = "cannot be read: Permission denied"
        closed = f"closed: {refused} [file.unusable]"
        unreadable = f"home/config.toml: {refused} [config.invalid]"
        expected = {
            "verify closed --signature key --public-key key": closed,
            "verify key --signature closed --public-key key": closed,
            "verify key --signature key --public-key closed": closed,
            "sign closed --card sim:c": closed,
            "sign key --card sim:c -o out": unreadable,
            "audit head": unreadable,
            "init": "home: Permission denied [file.unusable]",
        }
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        for arguments in expected:
            run("--home", "home", *arguments.split(), status=2)  # whose modules others may not import, either
        (folder / "closed").chmod(0)
        (folder / "home").chmod(0)
        for arguments, error in expected.items():
            with as_nobody():
                ran = run("--home", "home", *arguments.split(), status=2)
            assert ran.err.splitlines()[0].replace(f"{folder}/", "") == f"error: {error}"
            assert ran.out == ""
        (folder / "home").chmod(0o700)


def test_the_files_of_a_home_are_all_known(home: Home) -> None:
    """What `init` makes is what --force leaves alone."""
    made = {
        path.name for path in home.path.iterdir() if path.is_file() and not path.name.startswith("store.db-")
    }
    assert made - {"cards"} <= set(protected_files.HOME_FILES)
    named = {config.CONFIG_FILE, installation.PROFILE_FILE, installation.SOFTHSM_FILE}
    named |= {initialise.PIN_FILE, initialise.SO_PIN_FILE}
    assert named | {"store.db"} == set(protected_files.HOME_FILES)
    assert (initialise.TOKEN_FOLDER,) == protected_files.HOME_FOLDERS


OWN = (
    "home/config.toml",
    "home/profile.json",
    "home/token.pin",
    "home/store.db",
    "home/store.db-wal",
    "home/tokens/x",
    "link.toml",
    "through/store.db",
)


@pytest.mark.parametrize(
    "target", [*OWN, "home/cards/alice.card", "home/cards/alice.card.lock", "pin", "./pin"]
)
def test_force_never_overwrites_what_is_in_use(run: Cli, home: Home, note: Path, target: str) -> None:
    if home.path != run.folder / "home":
        (run.folder / "home").symlink_to(home.path)
    (run.folder / "link.toml").symlink_to(home.path / "config.toml")
    (run.folder / "through").symlink_to(home.path)
    (run.folder / "pin").write_text(f"{PIN}\n")
    card = home["alice"].address
    run("card", "new", "sim:new.card")
    before = tree(run.folder)
    commands: list[tuple[str | Path, ...]] = [
        ("sign", note, "--card", card, "--pin-file", "pin", "-o", target)
    ]
    enrol = ("enrol", "carol", "--card", card, "--pin-file", "pin")
    commands += [(*enrol, "--csr", target), (*enrol, "--puk-file", target)]
    if target in OWN:
        commands += [
            ("credential", "public-key", "alice", "-o", target),
            ("credential", "request", "alice", "-o", target),
            ("audit", "head", "-o", target),
        ]
    for arguments in commands:
        ran = run(*arguments, "-f", status=2, answers=())
        assert ran.code == "input.invalid"
        assert "never overwritten" in ran.error or "nothing is written there" in ran.error
    assert not changed(before, tree(run.folder))


def test_force_never_overwrites_a_store_elsewhere(run: Cli, home: Home) -> None:
    path = home.path / "config.toml"
    shutil.copy(home.path / "store.db", run.folder / "other.db")
    path.write_text(path.read_text().replace("sqlite:///store.db", f"sqlite:///{run.folder}/other.db"))
    for target in ("other.db", "other.db-wal"):
        ran = run("audit", "head", "-o", target, "-f", status=2)
        assert "a file of the installation" in ran.error
    run("audit", "head", "-o", home.path / "anchor.json")
    run("audit", "head", "-o", home.path / "anchor.json", "-f")


def test_two_outputs_in_one_file(run: Cli) -> None:
    run("card", "new", "sim:new.card")
    arguments = ("enrol", "carol", "--card", "sim:new.card", "--csr", "a", "--puk-file", "./a")
    ran = run(*arguments, pin=PIN, status=2)
    assert "both --csr and --puk-file would go to this file" in ran.error


@pytest.mark.parametrize(
    ("subject", "said", "hint"),
    [
        ("XX=1", "not understood", "RFC 4514"),
        ("Carol", "not understood", "RFC 4514"),
        ("CN=Carol,,O=x", "not understood", "RFC 4514"),
        ("C=DEU", "length", "RFC 4514"),
        ("CN=" + "c" * 65, "65", "RFC 4514"),
        ("", "at least one attribute", None),
    ],
)
def test_subjects(run: Cli, subject: str, said: str, hint: str | None) -> None:
    run("card", "new", "sim:new.card")
    arguments = ("enrol", "carol", "--card", "sim:new.card", "--subject", subject)
    ran = run(*arguments, pin=PIN, status=2)
    assert ran.error.startswith("error: subject: ")
    assert said in ran.error
    assert "--subject" not in ran.err
    assert hint is None or hint in ran.err


def test_a_long_name_needs_a_subject(run: Cli) -> None:
    run("card", "new", "sim:new.card")
    ran = run("enrol", "c" * 65, "--card", "sim:new.card", pin=PIN, status=2)
    assert "at most 64 characters" in ran.error
    assert "--subject" in ran.err
    run("enrol", "c" * 65, "--card", "sim:new.card", "--subject", "CN=c", pin=PIN)


def piped(run: Cli, text: bytes, *arguments: str | Path, status: int = 0) -> str:
    """The command with ``text`` as standard input; what it said."""
    ran = subprocess.run(
        [sys.executable, "-m", "hsm_signer", "--home", str(run.home), *map(str, arguments)],
        input=text,
        cwd=run.folder,
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    assert ran.returncode == status, ran
    return ran.stderr.decode()


def test_pins_from_standard_input(run: Cli, home: Home, note: Path) -> None:
    card = home["alice"].address
    piped(run, f"{PIN}\nmore\n".encode(), "sign", note, "--card", card, "--pin-file", "-")
    both = f"{PIN}\n{WRONG_PIN}\n".encode()
    piped(run, both, "pin", "change", "--card", card, "--pin-file", "-", "--new-pin-file", "-")
    run("sign", note, "--card", card, "-f", pin=WRONG_PIN)
    assert "no line" in piped(run, b"", "sign", note, "-f", "--card", card, "--pin-file", "-", status=2)
    for text, kind in ((b"\xef\xbb\xbf493817", "BOM"), (b"493817 ", "a space"), (b"49381l", "a letter")):
        said = piped(run, text, "sign", note, "-f", "--card", card, "--pin-file", "-", status=2)
        assert kind in said
        assert "493" not in said
    said = piped(run, b"\xff", "sign", note, "-f", "--card", card, "--pin-file", "-", status=2)
    assert "expected text" in said


@pytest.mark.parametrize(
    ("making", "what"),
    [
        ("openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=a -keyout private -out file", "x509"),
        ("openssl req -newkey rsa:2048 -nodes -subj /CN=a -keyout private -out file", "req"),
        ("openssl genpkey -algorithm ed25519 -out file", "pkey -in"),
        (
            "openssl genpkey -algorithm ed25519 | openssl pkey -pubout -outform DER -out file",
            "-inform DER -in",
        ),
        ("openssl genrsa 2048 | openssl rsa -RSAPublicKey_out -out file", "-RSAPublicKey_in"),
    ],
    ids=["certificate", "request", "private", "der", "pkcs1"],
)
def test_what_makes_a_public_key_of_another_file(run: Cli, note: Path, making: str, what: str) -> None:
    needs.program("openssl", "openssl")
    subprocess.run(["bash", "-c", making], cwd=run.folder, check=True, capture_output=True)
    arguments = ("verify", note, "--signature", note, "--public-key")
    ran = run(*arguments, "file", status=None)
    if ran.status == 7:
        return  # it is understood as it is
    assert ran.code == "input.invalid"
    hint = next(line for line in ran.err.splitlines() if line.startswith("hint: "))
    assert what in hint
    command = hint.partition("; ")[2].removesuffix(" prints the public key").partition(" (of")[0]
    with (run.folder / "key.pem").open("wb") as file:
        subprocess.run(["bash", "-c", command], cwd=run.folder, check=True, stdout=file)
    assert run(*arguments, "key.pem", status=7).code == "signature.invalid"


def test_hints_can_be_pasted_into_a_shell(run: Cli) -> None:
    run("card", "new", "sim:new.card")
    run("enrol", "carol; rm -rf x", "--card", "sim:new.card", "--scheme", "basic")
    ran = run("card", "reset", "sim:new.card", "--yes")
    assert "hsm-signer credential revoke 'carol; rm -rf x'" in ran.err

"""A home folder: made whole or not at all, by the owner only, and found again."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from hsm_signer.config import installation as configuration
from hsm_signer.config.home import current_actor, read_secret_file, resolve_home
from hsm_signer.config.installation import CONFIG_FILE, HOME_VARIABLE, TOKEN_PIN_VARIABLE
from hsm_signer.core.owners import check_owner
from hsm_signer.errors import (
    AlreadyInitialised,
    ConfigError,
    FileError,
    InputError,
    PinMissing,
    SignerError,
    StoreError,
    TokenNotFound,
    TokenPinWrong,
    TokenUnavailable,
)
from hsm_signer.server import initialise as initialising
from hsm_signer.server.initialise import (
    DEFAULT_LABEL,
    PIN_FILE,
    SO_PIN_FILE,
    TOKEN_FOLDER,
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    PROFILE_FILE,
    SOFTHSM_FILE,
    Installation,
    absolute_url,
    no_prompt,
    token_pin,
)
from hsm_signer.store.store import Store
from hsm_signer.testing import Home
from hsm_signer.token import softhsm
from hsm_signer.token.session import MASTER_KEY_LABEL, RECORD_KEY_LABEL, TokenSession
from hsm_signer.token.uri import TokenUri
from tests.support import needs
from tests.support.people import SOFTHSM_CONF


def content(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


# --- init --------------------------------------------------------------------------------------------------


def test_new_installation_with_a_token_of_its_own(tmp_path: Path) -> None:
    needs.softhsm_module()
    home = tmp_path / "deep" / "home"
    told: list[str] = []
    made = initialise(NewInstallation(home, softhsm_conf=SOFTHSM_CONF), no_prompt, told.append)

    assert content(home) == sorted(
        [CONFIG_FILE, PIN_FILE, PROFILE_FILE, SO_PIN_FILE, SOFTHSM_FILE, "store.db", TOKEN_FOLDER]
    )
    assert home.stat().st_mode & 0o777 == 0o700
    for name in content(home):
        mode = (home / name).stat().st_mode & 0o777
        assert mode == (0o700 if name == TOKEN_FOLDER else 0o600), name
    assert len({PIN_FILE, SO_PIN_FILE}) == 2
    pin, so_pin = ((home / name).read_text().strip() for name in (PIN_FILE, SO_PIN_FILE))
    assert len(pin) >= 16
    assert pin != so_pin
    text = (home / CONFIG_FILE).read_text()
    assert pin not in text
    assert so_pin not in text
    installation = Installation.open(home)
    assert installation.config == made
    assert installation.token_uri.token == DEFAULT_LABEL
    assert installation.token_uri.serial, "the serial pins the token"
    assert any("probing" in each for each in told)
    assert not any(pin in each for each in told)
    with installation.server() as server:
        assert list(server.credentials()) == []
        assert server.audit().good
        keys = server.environment.session
        for label, key_id in (
            (MASTER_KEY_LABEL, server.environment.mk_id),
            (RECORD_KEY_LABEL, server.environment.record_key_id),
        ):
            assert keys.find_key(label, key_id).handle
        assert len(list(keys.pkcs11.get_objects())) == 4, "nothing is left of the probe"
        assert server.environment.installation_id.hex() == made.installation
        assert told[-1] == f"The identity of this installation is {server.identity}"


def test_a_home_is_not_made_twice(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / CONFIG_FILE).write_text("anything")
    with pytest.raises(AlreadyInitialised, match="holds an installation already"):
        initialise(NewInstallation(home), no_prompt)
    (home / CONFIG_FILE).rename(home / "notes.txt")
    with pytest.raises(AlreadyInitialised, match="is not empty"):
        initialise(NewInstallation(home), no_prompt)
    assert content(home) == ["notes.txt"]
    assert (home / "notes.txt").read_text() == "anything"


@pytest.mark.parametrize(
    ("wanted", "error", "match"),
    [
        ({"softhsm_conf": Path("/nowhere/softhsm.conf")}, FileError, "cannot be read"),
        ({"softhsm_conf": Path("/dev/null")}, ConfigError, "directories.tokendir"),
        ({"token_label": "x" * 33}, InputError, "at most 32 bytes"),
        ({"token_label": "ü" * 17}, InputError, "at most 32 bytes"),
        ({"token_pin_file": Path("/nowhere/pin")}, FileError, "token PIN: /nowhere/pin cannot be read"),
        ({"store_url": "mysql://x/y"}, ConfigError, "sqlite or postgresql"),
        ({"store_url": "sqlite:////nowhere/store.db"}, StoreError, "does not exist"),
        ({"module": "/nowhere.so", "token_label": "x"}, TokenNotFound, "cannot be loaded"),
        ({"module": "/nowhere.so"}, InputError, "--token-label is missing"),
    ],
)
@pytest.mark.parametrize("existed", [False, True])
def test_what_fails_leaves_nothing_behind(
    tmp_path: Path, wanted: dict[str, object], error: type[SignerError], match: str, existed: bool
) -> None:
    needs.softhsm_module()
    home = tmp_path / "home"
    if existed:
        home.mkdir()
    with pytest.raises(error, match=match):
        initialise(NewInstallation(home, **wanted), no_prompt)  # type: ignore[arg-type]
    assert home.exists() == existed
    assert not existed or content(home) == []


def test_existing_token(tmp_path: Path) -> None:
    """Its keys are made there; label and serial go into the URI, its PIN stays where it was."""
    conf = existing_token(tmp_path)
    (tmp_path / "pin").write_text("24681357\n")
    home = tmp_path / "home"
    module = softhsm.find_module()
    wanted = NewInstallation(home, module=module, token_label="there", token_pin_file=tmp_path / "pin")
    made = initialise(wanted, no_prompt)
    assert content(home) == [CONFIG_FILE, PROFILE_FILE, "store.db"]
    uri = TokenUri.parse(made.token.uri)
    assert (uri.token, uri.module_path, uri.pin_source) == ("there", module, f"file:{tmp_path}/pin")
    assert made.token.softhsm_conf is None
    softhsm.use_configuration(conf)
    with Installation.open(home).server() as server:
        assert server.environment.token_serial == uri.serial


def existing_token(folder: Path) -> Path:
    """A token that was there before; its SoftHSM settings are in the environment."""
    needs.softhsm_module()
    (folder / "tokens").mkdir()
    conf = folder / "softhsm.conf"
    conf.write_text(softhsm.configuration(softhsm.DEFAULT_CONFIGURATION, folder / "tokens"))
    softhsm.use_configuration(conf)
    softhsm.create_token(softhsm.find_module(), "there", "so-pin-so-pin", "24681357")
    return conf


def test_existing_token_that_is_another_or_refuses(tmp_path: Path) -> None:
    existing_token(tmp_path)
    home, module = tmp_path / "home", softhsm.find_module()
    asked: list[str] = []

    def ask(what: str) -> str:
        asked.append(what)
        return "00000000"

    with pytest.raises(TokenNotFound, match="'elsewhere' is not there"):
        initialise(NewInstallation(home, module=module, token_label="elsewhere"), ask)
    assert asked == [], "nobody is asked for the PIN of a token that is not there"
    with pytest.raises(TokenPinWrong, match="refuses its PIN"):
        initialise(NewInstallation(home, module=module, token_label="there"), ask)
    assert asked == ["PIN of token there"]
    with pytest.raises(PinMissing):
        initialise(NewInstallation(home, module=module, token_label="there"), no_prompt)
    assert not home.exists()


def test_two_installations_share_a_token_without_sharing_keys(tmp_path: Path) -> None:
    existing_token(tmp_path)
    (tmp_path / "pin").write_text("24681357\n")
    made = [
        initialise(
            NewInstallation(
                tmp_path / name,
                module=softhsm.find_module(),
                token_label="there",
                token_pin_file=tmp_path / "pin",
            ),
            no_prompt,
        )
        for name in ("one", "two")
    ]
    assert made[0].installation != made[1].installation
    keys = set()
    for name in ("one", "two"):
        with Installation.open(tmp_path / name).server() as server:
            assert list(server.credentials()) == []
            keys |= {server.environment.mk_id, server.environment.record_key_id}
    assert len(keys) == 4


# --- finding it again --------------------------------------------------------------------------------------


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_home(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert resolve_home(Path("relative")) == tmp_path / "relative"
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "env"))
    assert resolve_home(None) == tmp_path / "env"
    assert resolve_home(tmp_path) == tmp_path, "the option comes first"
    monkeypatch.setenv(HOME_VARIABLE, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_home(None) == tmp_path / ".hsm-signer"
    assert resolve_home(Path("~/x")) == tmp_path / "x"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///store.db", "sqlite:////home/x/store.db"),
        ("sqlite:///sub/store.db", "sqlite:////home/x/sub/store.db"),
        ("sqlite:////var/lib/store.db", "sqlite:////var/lib/store.db"),
        ("postgresql://host/name", "postgresql://host/name"),
    ],
)
def test_store_paths(url: str, expected: str) -> None:
    assert absolute_url(url, Path("/home/x")) == expected


# --- secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"1234\n", "1234"), (b"1234", "1234"), (b"12 34\r\nmore\n", "12 34"), (b" 1\n", " 1")],
)
def test_secret_is_the_first_line(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "pin").write_bytes(data)
    assert read_secret_file(tmp_path / "pin", "PIN") == expected


@pytest.mark.parametrize("data", [b"", b"\n1234\n", b"\r\n"])
def test_empty_secret(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pin").write_bytes(data)
    with pytest.raises(InputError, match=r"PIN: the first line of .*/pin is empty"):
        read_secret_file(tmp_path / "pin", "PIN")


def test_unreadable_secret(tmp_path: Path) -> None:
    (tmp_path / "pin").write_bytes(b"\xff1234\n")
    for name, reason in (("pin", "expected text"), ("nowhere", "No such file"), (".", "Is a directory")):
        with pytest.raises(FileError, match=reason) as caught:
            read_secret_file(tmp_path / name, "PIN")
        assert "1234" not in caught.value.message


def test_order_of_token_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, pin-source, prompt."""
    (tmp_path / "pin").write_text("from file\n")

    def ask(what: str) -> str:
        return f"asked for {what}"

    named = TokenUri(token="x", pin_source="file:pin")
    assert token_pin(named, tmp_path, ask) == "from file"
    assert token_pin(TokenUri(pin_source=f"file:{tmp_path}/pin"), Path("/"), ask) == "from file"
    assert token_pin(TokenUri(pin_source="pin"), tmp_path, ask) == "from file"
    assert token_pin(TokenUri(token="x"), tmp_path, ask) == "asked for PIN of token x"
    assert token_pin(TokenUri(), tmp_path, ask) == "asked for PIN of token"
    monkeypatch.setenv(TOKEN_PIN_VARIABLE, "from environment")
    assert token_pin(named, tmp_path, ask) == "from environment"
    monkeypatch.setenv(TOKEN_PIN_VARIABLE, "")
    assert token_pin(named, tmp_path, ask) == "from file"


def test_actor_is_the_system_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody")
    assert current_actor() == pwd.getpwuid(os.getuid()).pw_name != "somebody"
    monkeypatch.setattr("pwd.getpwuid", _nobody)
    assert current_actor() == f"uid {os.getuid()}"


def _nobody(uid: int) -> None:
    raise KeyError(uid)


def test_file_in_place_of_the_home(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(FileError, match=r"Not a directory|File exists"):
        initialise(NewInstallation(tmp_path / "home"), no_prompt)
    assert (tmp_path / "home").read_text() == "a file"
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        configuration.load(tmp_path / "home")


def test_a_second_init_leaves_the_first_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes while another is at work, or after it was killed, touches nothing."""
    needs.softhsm_module()
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / initialising.CLAIM_FILE).touch()
    (home / "tokens").mkdir()
    with pytest.raises(AlreadyInitialised, match="another init"):
        initialise(NewInstallation(home), no_prompt)
    assert sorted(each.name for each in home.iterdir()) == [initialising.CLAIM_FILE, "tokens"]

    other = tmp_path / "other"

    def late(*_: object) -> None:
        # Somebody else finishes first, between our claim and our token.
        raise OSError("disk full")

    monkeypatch.setattr(initialising, "_initialise", late)
    with pytest.raises(FileError, match="disk full"):
        initialise(NewInstallation(other), no_prompt)
    assert not other.exists()


@pytest.mark.parametrize("name", ["", "config.toml"])
def test_what_everybody_can_write_is_not_trusted(home: Home, name: str) -> None:
    path = home.path / name
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(ConfigError, match="can be written by everybody"):
        home.installation  # noqa: B018
    path.chmod(path.stat().st_mode & ~0o002)
    assert home.installation.config.format == 2


def test_what_belongs_to_somebody_else_is_not_trusted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(home.path / "config.toml", 4711, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        home.installation  # noqa: B018


def test_a_store_elsewhere_is_removed_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs.softhsm_module()
    elsewhere = tmp_path / "elsewhere.db"

    def broken(*_: object) -> bytes:
        raise TokenUnavailable("gone")

    monkeypatch.setattr(TokenSession, "create_record_key", broken)
    wanted = NewInstallation(tmp_path / "home", store_url=f"sqlite:///{elsewhere}")
    with pytest.raises(TokenUnavailable):
        initialise(wanted, no_prompt)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    initialise(wanted, no_prompt)


def test_a_store_on_a_server_is_removed_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql_empty_url: str
) -> None:
    needs.softhsm_module()

    def broken(*_: object) -> bytes:
        raise TokenUnavailable("gone")

    wanted = NewInstallation(tmp_path / "home", store_url=postgresql_empty_url)
    with monkeypatch.context() as patched:
        patched.setattr(TokenSession, "create_record_key", broken)
        with pytest.raises(TokenUnavailable):
            initialise(wanted, no_prompt)
    assert list(tmp_path.iterdir()) == []
    initialise(wanted, no_prompt)
    with Installation.open(tmp_path / "home").open_store() as store:
        assert list(store.list_records()) == []


def test_a_store_in_use_is_not_discarded(home: Home) -> None:
    url = f"sqlite:///{home.path / 'store.db'}"
    with pytest.raises(StoreError, match="in use"):
        Store.discard(url)
    with home.server() as server:
        assert len(list(server.credentials())) == len(home.people)


@pytest.mark.parametrize(
    "name", ["jose\u0301", "al\u034fice", "\u3164", "-rf", " alice", "", "a\nb", "x" * 256, "\u2800"]
)
def test_names_that_could_be_taken_for_others(name: str) -> None:
    with pytest.raises(InputError, match="user"):
        check_owner(name)


@pytest.mark.parametrize("name", ["alice", "José", "Zoë Müller", "a;rm", "名前", "o'neil"])
def test_names_that_people_have(name: str) -> None:
    check_owner(name)

"""Tokens that are missing, changed, locked or not ours: a clear error, and nothing changed."""

from __future__ import annotations

import ctypes
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pkcs11
import pytest

from hsm_signer.config.installation import CONFIG_FILE, TOKEN_PIN_VARIABLE
from hsm_signer.errors import (
    ConfigError,
    FileError,
    InputError,
    PinMissing,
    SignerError,
    TokenError,
    TokenKeyMissing,
    TokenNotFound,
    TokenPinWrong,
    TokenUnsuitable,
)
from hsm_signer.server.initialise import (
    PIN_FILE,
    TOKEN_FOLDER,
)
from hsm_signer.server.installation import (
    SOFTHSM_FILE,
    Installation,
    no_prompt,
)
from hsm_signer.testing import Home, make_person
from hsm_signer.token import softhsm
from hsm_signer.token.session import MASTER_KEY_LABEL, RECORD_KEY_LABEL, TokenSession, load_library
from hsm_signer.token.uri import TokenUri
from hsm_signer.types import Combine, KeySpec, Scheme, TokenKeyKind
from tests.support.enrolments import wanted
from tests.support.installation_rows import key_id_of, name_key
from tests.support.scenes import objects, sql, still_signs, writable


def refuses(home: Home, error: type[SignerError], match: str) -> SignerError:
    """The server does not open, says why in one line, and the module is free again."""
    rows = sql(home, "SELECT * FROM credential") + sql(home, "SELECT * FROM evidence")
    with pytest.raises(SignerError, match=match) as caught, home.server():
        pass
    assert type(caught.value) is error, caught.value
    assert "\n" not in caught.value.message
    assert sql(home, "SELECT * FROM credential") + sql(home, "SELECT * FROM evidence") == rows
    return caught.value


def works(home: Home) -> None:
    """After the cause has gone."""
    with home.server() as server:
        still_signs(server, home["alice"])


def change_config(home: Home, change: Callable[[str], str]) -> None:
    """Edit config.toml."""
    path = home.path / CONFIG_FILE
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)


def change_uri(home: Home, **changes: str | None) -> None:
    """Edit the token's URI."""
    old = home.installation.token_uri
    change_config(home, lambda text: text.replace(str(old), str(replace(old, **changes))))


# --- the token ---------------------------------------------------------------------------------------------


def test_token_folder_moved_away(home: Home) -> None:
    tokens = home.path / TOKEN_FOLDER
    tokens.rename(home.path / "elsewhere")
    tokens.mkdir()
    started = time.monotonic()
    error = refuses(home, TokenNotFound, "'hsm-signer' with serial [0-9a-f]{16} is not there")
    assert error.hint == "tokens present: none"
    assert time.monotonic() - started < 5
    tokens.rmdir()
    (home.path / "elsewhere").rename(tokens)
    works(home)


def test_token_folder_does_not_exist(home: Home) -> None:
    shutil.move(home.path / TOKEN_FOLDER, home.path / "elsewhere")
    refuses(home, TokenNotFound, "PKCS#11 module .* does not start|is not there|lists no tokens")
    shutil.move(home.path / "elsewhere", home.path / TOKEN_FOLDER)
    works(home)


def test_another_token_in_its_place(home: Home, tmp_path: Path) -> None:
    """The serial in the URI pins the token: one of the same name is not taken for it."""
    shutil.rmtree(home.path / TOKEN_FOLDER)
    (home.path / TOKEN_FOLDER).mkdir()
    softhsm.use_configuration(home.path / SOFTHSM_FILE)
    pin = (home.path / PIN_FILE).read_text().strip()
    softhsm.create_token(softhsm.find_module(), "hsm-signer", "so-pin-so-pin", pin)
    error = refuses(home, TokenNotFound, "is not there")
    assert error.hint == "tokens present: 'hsm-signer'"
    # And if the URI does not name the serial, its keys are missed.
    change_uri(home, serial=None)
    refuses(home, TokenKeyMissing, RECORD_KEY_LABEL)


def test_two_tokens_of_one_label(home: Home, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    conf = tmp_path / "more.conf"
    conf.write_text(softhsm.configuration(softhsm.DEFAULT_CONFIGURATION, tmp_path / "more"))
    softhsm.use_configuration(conf)
    softhsm.create_token(softhsm.find_module(), "hsm-signer", "so-pin-so-pin", "12345678")
    for folder in (tmp_path / "more").iterdir():
        shutil.copytree(folder, home.path / TOKEN_FOLDER / folder.name)

    works(home)
    change_uri(home, serial=None)
    error = refuses(home, TokenNotFound, "is ambiguous: 2 match")
    assert error.hint == "tokens present: 'hsm-signer', 'hsm-signer'"


def test_token_initialised_again(home: Home) -> None:
    """C_InitToken on the same token keeps its serial and removes its keys."""
    softhsm.use_configuration(home.path / SOFTHSM_FILE)
    uri = home.installation.token_uri
    assert uri.module_path is not None
    so_pin = (home.path / "token.so-pin").read_text().strip()
    pin = (home.path / PIN_FILE).read_text().strip()
    library = load_library(uri)
    try:
        slot = library.get_token(token_label="hsm-signer").slot
        encoded = so_pin.encode()
        result = ctypes.CDLL(uri.module_path).C_InitToken(
            ctypes.c_ulong(slot.slot_id), encoded, ctypes.c_ulong(len(encoded)), b"hsm-signer".ljust(32)
        )
        assert result == 0
    finally:
        library.finalize()
    refuses(home, TokenPinWrong, "user PIN is not usable")

    library = load_library(uri)
    try:
        with library.get_token(token_label="hsm-signer").open(rw=True, so_pin=so_pin) as session:
            session.init_pin(pin)
    finally:
        library.finalize()
    error = refuses(home, TokenKeyMissing, "has 0 keys 'hsm-signer record MAC'")
    assert error.hint is not None
    assert "initialised again" in error.hint


@pytest.mark.parametrize("label", [MASTER_KEY_LABEL, RECORD_KEY_LABEL])
def test_token_key_destroyed(home: Home, label: str) -> None:
    kind = TokenKeyKind.MASTER if label == MASTER_KEY_LABEL else TokenKeyKind.RECORD_MAC
    key_id = key_id_of(home, kind)
    with writable(home) as session:
        session.find_key(label, key_id).destroy()
    refuses(home, TokenKeyMissing, f"has 0 keys {label!r} with id {key_id.hex()}")


def test_identity_key_destroyed(home: Home) -> None:
    key_id = key_id_of(home, TokenKeyKind.IDENTITY)
    with writable(home) as session:
        for key in list(session.pkcs11.get_objects({pkcs11.Attribute.ID: key_id})):
            key.destroy()
    refuses(home, TokenKeyMissing, f"has 0 keys 'hsm-signer identity' with id {key_id.hex()}")


def test_second_key_of_the_same_id(home: Home) -> None:
    """An object planted beside MK: neither is used."""
    key_id = key_id_of(home, TokenKeyKind.MASTER)
    with writable(home) as session:
        session.pkcs11.generate_key(
            pkcs11.KeyType.AES,
            256,
            mechanism=pkcs11.Mechanism.AES_KEY_GEN,
            template={
                pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
                pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.AES,
                pkcs11.Attribute.VALUE_LEN: 32,
                pkcs11.Attribute.TOKEN: True,
                pkcs11.Attribute.LABEL: MASTER_KEY_LABEL,
                pkcs11.Attribute.ID: key_id,
            },
        )
    refuses(home, TokenKeyMissing, "has 2 keys")


def test_master_key_named_wrongly_in_the_installations_row(home: Home) -> None:
    with writable(home) as session:
        name_key(home, session, TokenKeyKind.MASTER, bytes(8))
    refuses(home, TokenKeyMissing, "with id 0000000000000000; expected 1")


# --- its PIN -----------------------------------------------------------------------------------------------


def test_wrong_token_pin(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.path / PIN_FILE).write_text("00000000\n")
    error = refuses(home, TokenPinWrong, "'hsm-signer' refuses its PIN")
    assert "00000000" not in error.message + (error.hint or "")
    with monkeypatch.context() as patched:
        patched.setenv(TOKEN_PIN_VARIABLE, "11111111")
        refuses(home, TokenPinWrong, "refuses its PIN")


def test_a_refused_pin_is_tried_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real tokens count: looking again for a token must never be trying a PIN again."""
    tried: list[str] = []
    real = TokenSession._log_in.__func__  # type: ignore[attr-defined]

    def counted(cls: type[TokenSession], library: object, uri: TokenUri, pin: str, rw: bool) -> TokenSession:
        tried.append(pin)
        session: TokenSession = real(cls, library, uri, pin, rw)
        return session

    monkeypatch.setattr(TokenSession, "_log_in", classmethod(counted))
    monkeypatch.setenv(TOKEN_PIN_VARIABLE, "11111111")
    with pytest.raises(TokenPinWrong), home.server():
        pass
    assert tried == ["11111111"]


def test_environment_pin_comes_before_the_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = (home.path / PIN_FILE).read_text().strip()
    (home.path / PIN_FILE).write_text("00000000\n")
    monkeypatch.setenv(TOKEN_PIN_VARIABLE, pin)
    works(home)


def test_token_pin_file_missing_or_empty(home: Home) -> None:
    (home.path / PIN_FILE).write_text("\n12345678\n")
    refuses(home, InputError, "pin-source: the first line of .* is empty")
    (home.path / PIN_FILE).write_bytes(b"\xff\xfe\n")
    refuses(home, FileError, "pin-source: .* expected text")
    (home.path / PIN_FILE).unlink()
    refuses(home, FileError, "pin-source: .* cannot be read: No such file")


def test_no_pin_source_and_nobody_to_ask(home: Home) -> None:
    pin = (home.path / PIN_FILE).read_text().strip()
    change_uri(home, pin_source=None)
    error = refuses(home, PinMissing, "PIN of token hsm-signer: not given")
    assert error.hint is not None
    assert TOKEN_PIN_VARIABLE in error.hint
    with home.installation.server(ask=lambda what: pin) as server:
        still_signs(server, home["alice"])


def test_pin_source_that_is_a_command_is_not_run(home: Home, tmp_path: Path) -> None:
    """RFC 7512, 2.4, allows pin-source=|command."""
    change_uri(home, pin_source=f"|touch {tmp_path}/ran")
    refuses(home, ConfigError, "commands are not run")
    assert not (tmp_path / "ran").exists()


# --- the module --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["/nowhere/libsofthsm2.so", "/etc/passwd", "/usr/lib", "libm.so.6", "relative/path.so", ""]
)
def test_module_that_is_none(home: Home, module: str) -> None:
    """A path that is not there, no library, a folder, a library that is no PKCS#11 module."""
    change_uri(home, module_path=module)
    error = refuses(home, TokenNotFound, "PKCS#11 module")
    assert error.hint is not None
    assert "module-path" in error.hint


def test_module_path_missing(home: Home) -> None:
    change_uri(home, module_path=None)
    refuses(home, TokenNotFound, "module-path is missing")


def test_softhsm_settings_missing(home: Home) -> None:
    (home.path / SOFTHSM_FILE).rename(home.path / "moved.conf")
    refuses(home, ConfigError, r"token\.softhsm_conf: there is no file .*softhsm\.conf")
    (home.path / "moved.conf").rename(home.path / SOFTHSM_FILE)
    works(home)


def test_softhsm_settings_without_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"directories\.tokendir"):
        softhsm.configuration("log.level = INFO\n", Path("tokens"))


@pytest.mark.parametrize("folder", ["a b", "ü", "back\\slash", r"\1", "per%cent"])
def test_softhsm_settings_with_any_folder(folder: str) -> None:
    text = softhsm.configuration(softhsm.DEFAULT_CONFIGURATION, Path("/x") / folder)
    assert f"directories.tokendir = /x/{folder}\n" in text


# --- what a token lacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", list(Scheme))
def test_ed25519_is_refused_in_one_line(home: Home, tmp_path: Path, scheme: Scheme) -> None:
    """SoftHSM 2.6 signs with Ed25519 and cannot wrap it; the probe has found that out."""
    with home.server() as server:
        with pytest.raises(TokenUnsuitable) as caught:
            make_person(server, tmp_path, "carol", scheme=scheme, key=KeySpec.ED25519)
        assert "ed25519" in caught.value.message
        assert "\n" not in caught.value.message
        assert caught.value.hint is not None
        assert "doctor" in caught.value.hint
        assert [each.owner for each in server.credentials() if each.owner == "carol"] == []
        still_signs(server, home["alice"])


def test_xor_is_refused_where_the_token_has_none(home: Home, tmp_path: Path) -> None:
    """Not retryable: a token does not grow a mechanism."""
    with home.server() as server:
        assert Combine.XOR not in server.profile.combines
        before = objects(server)
        with pytest.raises(TokenUnsuitable, match="xor") as caught:
            server.environment.create(wanted(combine=Combine.XOR))
        assert not caught.value.retryable
        assert objects(server) == before


def test_nobody_is_asked_by_default() -> None:
    with pytest.raises(PinMissing, match="something: not given"):
        no_prompt("something")


def test_errors_of_a_token_are_token_errors() -> None:
    """One exit status for all of them."""
    for error in (TokenNotFound, TokenPinWrong, TokenKeyMissing, TokenUnsuitable):
        assert issubclass(error, TokenError)
        assert error.exit_status == 5


def test_installation_opens_and_closes_again_and_again(home: Home) -> None:
    """The module is finalised each time, also after a refusal in between."""
    for _ in range(3):
        works(home)
        with pytest.raises(ZeroDivisionError), home.server():
            raise ZeroDivisionError
        (home.path / PIN_FILE).rename(home.path / "pin")
        refuses(home, FileError, "pin-source")
        (home.path / "pin").rename(home.path / PIN_FILE)
    assert Installation.open(home.path).config == home.config

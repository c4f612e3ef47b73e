"""config.toml: each mistake is named, with the field and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hsm_signer.config import installation as config
from hsm_signer.config.installation import (
    CONFIG_FILE,
    CardConfig,
    Config,
    ServerConfig,
    StoreConfig,
    TokenConfig,
    WorkstationConfig,
)
from hsm_signer.config.toml import MAX_LENGTH
from hsm_signer.errors import ConfigError, NotInitialised, StoreTooOld
from hsm_signer.types import Fingerprint

PLAIN = st.text(st.characters(codec="utf-8", min_codepoint=0x20), max_size=30)
KEY = "00112233445566aa"
GOOD = f"""\
format = 2
installation = "{KEY}"
[token]
uri = "pkcs11:token=x"
"""
OLDER = f"""\
format = 1
[token]
uri = "pkcs11:token=x"
master_key = "{KEY}"
record_key = "{KEY}"
"""
IDENTITY = Fingerprint("-".join(["0a1b"] * 10))
TOKEN = TokenConfig(uri="pkcs11:token=x")


def load(folder: Path, text: str | bytes) -> Config:
    data = text.encode() if isinstance(text, str) else text
    (folder / CONFIG_FILE).write_bytes(data)
    return config.load(folder)


def test_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    assert loaded == Config(format=2, installation=KEY, token=TOKEN)
    assert loaded.store.url == "sqlite:///store.db"
    assert (loaded.card.pin_tries, loaded.card.puk_tries) == (3, 10)
    assert loaded.card.hash_on_card_up_to == 4096


def test_there_is_no_installation(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotInitialised, match="there is no installation in") as caught:
            config.load(folder)
        assert caught.value.hint is not None
        assert "hsm-signer init" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (GOOD.replace("format = 2", ""), "missing key 'format'"),
        (GOOD.replace("format = 2", "format = 3"), "format: expected int <= 2"),
        (GOOD.replace("format = 2", "format = 0"), "format: expected int >= 1"),
        (GOOD.replace("format = 2", "format = true"), "format: expected int, got bool"),
        (f'format = 2\ninstallation = "{KEY}"\n', "missing key 'token'"),
        (f'format = 2\ninstallation = "{KEY}"\ntoken = 7\n', "token: expected object, got int"),
        (GOOD.replace('uri = "pkcs11:token=x"', ""), "missing key 'token.uri'"),
        (GOOD.replace('"pkcs11:token=x"', "7"), "token.uri: expected str, got int"),
        (GOOD.replace("installation", "instillation"), "unknown key 'instillation'"),
        (GOOD.replace(f'installation = "{KEY}"', ""), "installation is missing: expected 16 hex"),
        (GOOD.replace(KEY, "xyz"), "installation: expected str matching"),
        (GOOD.replace(KEY, f"{KEY}00"), "installation: expected str"),
        (GOOD.replace(KEY, KEY.upper()), "installation: expected str matching"),
        (GOOD + f'master_key = "{KEY}"\n', "token.master_key: not known in format 2"),
        (GOOD + f'record_key = "{KEY}"\n', "token.record_key: not known in format 2"),
        (OLDER.replace("master_key", "mistress_key"), "unknown key 'token.mistress_key'"),
        (OLDER.replace(f'master_key = "{KEY}"', ""), "token.master_key is missing: expected 16 hex"),
        (OLDER.replace("[token]", f'installation = "{KEY}"\n[token]'), "installation: not known in format 1"),
        (GOOD + "pin = 1234\n", "unknown key 'token.pin'"),
        (GOOD + "[store]\nurl = 7\n", "store.url: expected str, got int"),
        (GOOD + "[store]\nport = 7\n", "unknown key 'store.port'"),
        (GOOD + "[store]\nbusy_timeout = 0\n", "store.busy_timeout: expected float > 0"),
        (GOOD + "[store]\nbusy_timeout = 3601\n", "store.busy_timeout: expected float <= 3600"),
        (GOOD + "[store]\nbusy_timeout = nan\n", "store.busy_timeout: expected float"),
        (GOOD + "[card]\npin_tries = 0\n", "card.pin_tries: expected int >= 1"),
        (GOOD + "[card]\npuk_tries = 16\n", "card.puk_tries: expected int <= 15"),
        (GOOD + "[card]\nwait = -0.5\n", "card.wait: expected float >= 0"),
        (GOOD + "[card]\nhash_on_card_up_to = -1\n", "card.hash_on_card_up_to: expected int >= 0"),
        (GOOD + '[card]\nhash_on_card_up_to = "4 KiB"\n', "card.hash_on_card_up_to: expected int, got str"),
        (GOOD + "[colours]\n", "unknown key 'colours'"),
        (GOOD + "[token]\n", "not TOML: Cannot declare"),
        ("format = \n", "not TOML: Invalid value"),
        ("\0", "not TOML"),
        ("", "missing key 'format'"),
        (b"\xff\xfe", "expected UTF-8"),
        (b"#" * (MAX_LENGTH + 1), f"longer than {MAX_LENGTH} bytes"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        load(tmp_path, text)
    assert type(caught.value) is ConfigError
    assert str(tmp_path / CONFIG_FILE) in caught.value.message
    assert "\n" not in caught.value.message
    assert "`" not in caught.value.message
    assert "$" not in caught.value.message.removeprefix(str(tmp_path)).replace("[0-9a-f]{16}$", "")


def test_as_large_as_allowed(tmp_path: Path) -> None:
    filler = MAX_LENGTH - len(GOOD)
    assert load(tmp_path, GOOD + "#" * filler).format == 2


def test_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path)


def test_secrets_have_no_place_in_it() -> None:
    """No key for a PIN: the token's comes by pin-source or the environment."""
    names = [*TokenConfig.__struct_fields__, *StoreConfig.__struct_fields__, *CardConfig.__struct_fields__]
    assert not [name for name in names if "pin" in name and name != "pin_tries"]


@given(
    PLAIN,
    st.floats(0.001, 3600),
    st.integers(1, 15),
    st.integers(0, 2**40),
    st.none() | PLAIN,
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    uri: str,
    timeout: float,
    tries: int,
    limit: int,
    conf: str | None,
) -> None:
    wanted = Config(
        format=2,
        installation=KEY,
        token=TokenConfig(uri=uri, softhsm_conf=conf),
        store=StoreConfig(url=uri, busy_timeout=timeout),
        card=CardConfig(pin_tries=tries, hash_on_card_up_to=limit),
    )
    folder = tmp_path_factory.mktemp("config")
    assert load(folder, config.dump(wanted)) == wanted


def test_an_older_format_is_for_the_upgrade_alone(tmp_path: Path) -> None:
    with pytest.raises(StoreTooOld, match="was made by an older version") as caught:
        load(tmp_path, OLDER)
    assert caught.value.hint == "hsm-signer store upgrade brings it on"
    older = config.load(tmp_path, older=True)
    assert (older.token.master_key, older.token.record_key, older.installation) == (KEY, KEY, None)


@pytest.mark.parametrize("text", ["tab\there", "line\nbreak", "nul\0", "del\x7f", "bell\x07"])
def test_control_characters_survive_too(tmp_path: Path, text: str) -> None:
    wanted = Config(format=2, installation=KEY, token=TokenConfig(uri=text))
    assert load(tmp_path, config.dump(wanted)) == wanted


# --- workstations ------------------------------------------------------------------------------------------

WORKSTATION = 'format = 1\n[server]\nurl = "https://signer.example:8443"\n'


def load_workstation(folder: Path, text: str) -> WorkstationConfig:
    (folder / CONFIG_FILE).write_text(text)
    return config.load_workstation(folder)


def test_a_workstation_has_a_service_and_no_token(tmp_path: Path) -> None:
    loaded = load_workstation(tmp_path, WORKSTATION + "[card]\nwait = 3.5\n")
    assert loaded == WorkstationConfig(
        format=1, server=ServerConfig(url="https://signer.example:8443"), card=CardConfig(wait=3.5)
    )
    assert loaded.server is not None
    assert (loaded.server.ca, loaded.server.token_file, loaded.server.timeout) == (None, None, 60.0)


def test_without_a_file_a_workstation_has_the_defaults(tmp_path: Path) -> None:
    assert config.load_workstation(tmp_path) == WorkstationConfig(format=2)


def test_an_installation_may_name_a_service_too(tmp_path: Path) -> None:
    text = GOOD + WORKSTATION.removeprefix("format = 1\n")
    assert load(tmp_path, text).server == ServerConfig(url="https://signer.example:8443")
    assert config.load_workstation(tmp_path).token == TOKEN


def test_a_workstation_is_no_installation(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised, match=r"it is a workstation.s, for https://signer\.example") as caught:
        load(tmp_path, WORKSTATION)
    assert caught.value.hint is not None
    assert "where the installation is" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (WORKSTATION.replace("url", "uri"), "'server.ur[il]'"),
        (WORKSTATION + "token = 'hsc_x'\n", "unknown key 'server.token'"),
        (WORKSTATION + "timeout = 0\n", "server.timeout: expected float > 0"),
        (WORKSTATION + "ca = 7\n", "server.ca: expected str"),
        (WORKSTATION.replace("format = 1\n", ""), "missing key 'format'"),
        ("format = 1\n[server]\n", "missing key 'server.url'"),
    ],
)
def test_each_mistake_of_a_workstation_is_named(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        load_workstation(tmp_path, text)
    assert type(caught.value) is ConfigError
    with pytest.raises(ConfigError):
        config.load(tmp_path)


def test_what_is_written_of_a_workstation_is_read(tmp_path: Path) -> None:
    wanted = WorkstationConfig(
        format=1,
        server=ServerConfig(
            url="https://x", ca="a", certificate="b", key="c", token_file="d", timeout=1.5, identity=IDENTITY
        ),
    )
    assert load_workstation(tmp_path, config.dump(wanted)) == wanted


LINE = f'identity = "{IDENTITY}"\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("format = 1\n[server]\nurl = 'u'\n", f"format = 1\n[server]\n{LINE}url = 'u'\n"),
        (
            "format = 1 # one\n\n [ server ] # ours\n# the bank\nurl = 'u'\n[card]\nwait = 1\n",
            f"format = 1 # one\n\n [ server ] # ours\n{LINE}# the bank\nurl = 'u'\n[card]\nwait = 1\n",
        ),
        (GOOD + "[server]\nurl = 'u'", f"{GOOD}[server]\n{LINE}url = 'u'"),
        # No line of its own to write after.
        ("format = 1\nserver = {url = 'u'}\n", None),
        ("format = 1\nserver.url = 'u'\n", None),
        ('format = 1\nserver.url = """\n[server]\n"""\n', None),
    ],
)
def test_the_identity_of_a_service_is_kept(tmp_path: Path, before: str, after: str | None) -> None:
    file = tmp_path / CONFIG_FILE
    file.write_text(before)
    file.chmod(0o640)
    was = config.load_workstation(tmp_path)
    assert was.server is not None
    config.keep_identity(tmp_path, IDENTITY)
    kept = config.load_workstation(tmp_path)
    assert kept == structs.replace(was, server=structs.replace(was.server, identity=IDENTITY))
    assert file.read_text() == after or after is None
    assert file.stat().st_mode & 0o777 == 0o640

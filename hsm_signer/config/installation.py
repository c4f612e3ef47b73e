"""Configuration: one TOML file in the home folder, frozen once read.

An installation's has ``[token]``; a workstation's, which speaks to a service, has ``[server]`` and no token.
Relative paths are relative to the home folder. Secrets do not belong here: the token's PIN comes from the
file that ``pin-source`` of the token's URI names, or from ``HSM_SIGNER_TOKEN_PIN``; the bearer token from the
file that ``token_file`` names, or from ``HSM_SIGNER_SERVER_TOKEN``.
"""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import tomli_w

from hsm_signer.errors import ConfigError, FileError, NotInitialised, StoreTooOld, os_words
from hsm_signer.types import Fingerprint

from .files import write_whole
from .toml import read_toml

CONFIG_FILE = "config.toml"
HOME_VARIABLE = "HSM_SIGNER_HOME"
TOKEN_PIN_VARIABLE = "HSM_SIGNER_TOKEN_PIN"  # noqa: S105  a name, no PIN
CARD_PIN_VARIABLE = "HSM_SIGNER_CARD_PIN"
SERVER_VARIABLE = "HSM_SIGNER_SERVER"
SERVER_TOKEN_VARIABLE = "HSM_SIGNER_SERVER_TOKEN"  # noqa: S105  a name, no token
DEFAULT_HOME = Path("~/.hsm-signer")
HEADER = """\
# hsm-signer configuration. Relative paths are relative to this folder. Every key is explained in
# the documentation; a key that is not known is an error.
"""

KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class TokenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Section ``[token]``"""

    uri: str
    """PKCS#11 URI (RFC 7512): token or serial, ?module-path, &pin-source=file:PATH."""
    master_key: KeyId | None = None
    """Format 1 only: CKA_ID of MK, 16 hexadecimal digits."""
    record_key: KeyId | None = None
    """Format 1 only: CKA_ID of the record MAC key, 16 hexadecimal digits."""
    softhsm_conf: str | None = None
    """SoftHSM2's settings file, for tokens of `hsm-signer init` without --module."""
    accept_weak: bool = False
    """Whether a token is used that does not enforce what keeps keys inside it, for trials."""


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section ``[store]``"""

    url: str = "sqlite:///store.db"
    """SQLAlchemy URL."""
    busy_timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    """Seconds to wait for another process that writes."""
    connections: Annotated[int, msgspec.Meta(ge=2, le=100)] = 3
    """To a database server, of one process, at most."""


class CardConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section ``[card]``"""

    pin_tries: Annotated[int, msgspec.Meta(ge=1, le=15)] = 3
    """Wrong PINs before a new card blocks."""
    puk_tries: Annotated[int, msgspec.Meta(ge=1, le=15)] = 10
    """Wrong PUKs before a new card blocks for ever."""
    wait: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    """Seconds to wait for a card that another program holds."""
    hash_on_card_up_to: Annotated[int, msgspec.Meta(ge=0)] = 4096
    """Bytes: with --hash-on auto, a longer message is hashed by the host and its digest authorised."""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section ``[server]``"""

    url: str
    """The signing service: https://HOST[:PORT]."""
    ca: str | None = None
    """Certificates to trust in place of the system's, PEM: the service's authority, or its own one."""
    certificate: str | None = None
    """Our client certificate, PEM, where the service knows us by one."""
    key: str | None = None
    """Its private key, PEM, without a passphrase. Default: in the file of the certificate."""
    token_file: str | None = None
    """The file whose first line is our bearer token."""
    identity: Fingerprint | None = None
    """The fingerprint of the installation behind it, as `hsm-signer identity` shows it there: whose word is
    taken for what a card gets at enrolment."""
    timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0
    """Seconds to wait for an answer."""


FORMAT = 2
Format = Annotated[int, msgspec.Meta(ge=1, le=FORMAT)]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The configuration of an installation: all of config.toml."""

    format: Format
    """2; 1 in installations of version 0.1, where the token's section named the keys."""
    installation: KeyId | None = None
    """The installation's id, 16 hexadecimal digits: the database has to be this one's. None in format 1."""
    token: TokenConfig
    store: StoreConfig = StoreConfig()
    card: CardConfig = CardConfig()
    server: ServerConfig | None = None


class WorkstationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The configuration of a workstation, or as much of an installation's as a workstation uses."""

    format: Format
    """1 or 2: a workstation's part is the same in both."""
    installation: KeyId | None = None
    token: TokenConfig | None = None
    """Where this is an installation, too."""
    store: StoreConfig | None = None
    card: CardConfig = CardConfig()
    server: ServerConfig | None = None
    """The service to speak to where no other is named."""


def load(home: Path, *, older: bool = False) -> Config:
    """Read HOME/config.toml; raises NotInitialised, or ConfigError naming the field and what was expected.

    ``older``: of format 1, too, which only an upgrade reads; StoreTooOld otherwise.
    """
    path = home / CONFIG_FILE
    try:
        config = read_toml(path, Config)
    except FileNotFoundError as error:
        raise NotInitialised(
            f"there is no installation in {home}",
            hint="hsm-signer init makes one; --home or HSM_SIGNER_HOME names another folder",
        ) from error
    except ConfigError:
        if (url := _service_of(path)) is not None:
            raise NotInitialised(
                f"there is no installation in {home}: it is a workstation's, for {url}",
                hint="this is done where the installation is; --home or HSM_SIGNER_HOME names another folder",
            ) from None
        raise
    _check_format(path, config)
    if config.format < FORMAT and not older:
        raise StoreTooOld(
            f"the installation in {home} was made by an older version",
            hint="hsm-signer store upgrade brings it on",
        )
    return config


def _check_format(path: Path, config: Config) -> None:
    """Raise ConfigError where a field belongs to the other format."""
    fields = {
        "installation": (config.installation, 2),
        "token.master_key": (config.token.master_key, 1),
        "token.record_key": (config.token.record_key, 1),
    }
    for name, (value, number) in fields.items():
        if config.format == number and value is None:
            raise ConfigError(f"{path}: {name} is missing: expected 16 hexadecimal digits")
        if config.format != number and value is not None:
            raise ConfigError(f"{path}: {name}: not known in format {config.format}")


def _service_of(path: Path) -> str | None:
    """Return the service's URL, where the file is a valid configuration of a workstation."""
    try:
        config = read_toml(path, WorkstationConfig)
    except ConfigError:
        return None
    return config.server.url if config.token is None and config.server is not None else None


def load_workstation(home: Path) -> WorkstationConfig:
    """Read HOME/config.toml of a client of a service; the defaults where there is none.

    Raises ConfigError naming the field and what was expected.
    """
    path = home / CONFIG_FILE
    try:
        config = read_toml(path, WorkstationConfig)
    except FileNotFoundError:
        return WorkstationConfig(format=FORMAT)
    if config.token is None and config.server is None:
        raise ConfigError(
            f"{path}: expected [token], or on a workstation [server]",
            hint="hsm-signer init makes an installation; --home or HSM_SIGNER_HOME names another folder",
        )
    return config


def keep_identity(home: Path, identity: Fingerprint) -> None:
    """Write the identity of a service into [server] of HOME/config.toml, which has none yet.

    All else stays as it is, comments too where [server] has a line of its own. Raises FileError.
    """
    path = home / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
        document["server"]["identity"] = identity
        written = re.sub(
            r"^([ \t]*\[[ \t]*server[ \t]*\][ \t]*(?:#.*)?)$",
            rf'\1\nidentity = "{identity}"',
            text,
            count=1,
            flags=re.MULTILINE,
        )
        if not says(written, msgspec.convert(document, type=WorkstationConfig)):
            written = f"{HEADER}{tomli_w.dumps(document)}"
        write_whole(path, written.encode("utf-8"), stat.S_IMODE(path.stat().st_mode))
    except OSError as error:
        raise FileError(f"{path}: {os_words(error)}") from error


def says(text: str, wanted: Config | WorkstationConfig) -> bool:
    """Whether a file with this text would be read as ``wanted``."""
    try:
        return msgspec.convert(tomllib.loads(text), type=type(wanted)) == wanted
    except (tomllib.TOMLDecodeError, msgspec.ValidationError):
        return False


def dump(config: Config | WorkstationConfig) -> str:
    """Write a configuration as TOML, without the keys that are not set."""
    document = {
        name: {key: entry for key, entry in value.items() if entry is not None}
        if isinstance(value, dict)
        else value
        for name, value in msgspec.to_builtins(config).items()
        if value is not None
    }
    return f"{HEADER}{tomli_w.dumps(document)}"

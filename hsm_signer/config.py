"""Configuration: one TOML file in the home folder, frozen once read.

Relative paths are relative to the home folder. Secrets do not belong here: the token's PIN comes from the
file that ``pin-source`` of the token's URI names, or from ``HSM_SIGNER_TOKEN_PIN``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from .errors import NotInitialised
from .toml import read_toml

CONFIG_FILE = "config.toml"
HOME_VARIABLE = "HSM_SIGNER_HOME"
TOKEN_PIN_VARIABLE = "HSM_SIGNER_TOKEN_PIN"  # noqa: S105  a name, no PIN
CARD_PIN_VARIABLE = "HSM_SIGNER_CARD_PIN"
DEFAULT_HOME = Path("~/.hsm-signer")

KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class TokenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[token]``"""

    uri: str
    """PKCS#11 URI (RFC 7512): token or serial, ?module-path, &pin-source=file:PATH."""
    master_key: KeyId
    """CKA_ID of MK, 16 hexadecimal digits."""
    record_key: KeyId
    """CKA_ID of the record MAC key, 16 hexadecimal digits."""
    softhsm_conf: str | None = None
    """SoftHSM2's settings file, for tokens of `hsm-signer init` without --module."""


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[store]``"""

    url: str = "sqlite:///store.db"
    """SQLAlchemy URL."""
    busy_timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    """Seconds to wait for another process that writes."""


class CardConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[card]``"""

    pin_tries: Annotated[int, msgspec.Meta(ge=1, le=15)] = 3
    """Wrong PINs before a new card blocks."""
    puk_tries: Annotated[int, msgspec.Meta(ge=1, le=15)] = 10
    """Wrong PUKs before a new card blocks for ever."""
    wait: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    """Seconds to wait for a card that another program holds."""
    hash_on_card_up_to: Annotated[int, msgspec.Meta(ge=0)] = 4096
    """Bytes: with --hash-on auto, a longer message is hashed by the host and its digest authorised."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    """1."""
    token: TokenConfig
    store: StoreConfig = StoreConfig()
    card: CardConfig = CardConfig()


def load(home: Path) -> Config:
    """Read HOME/config.toml; raises NotInitialised, or ConfigError naming the field and what was expected."""
    try:
        return read_toml(home / CONFIG_FILE, Config)
    except FileNotFoundError as error:
        raise NotInitialised(
            f"there is no installation in {home}",
            hint="hsm-signer init makes one; --home or HSM_SIGNER_HOME names another folder",
        ) from error


def dump(config: Config) -> str:
    """The file's text."""
    lines = [
        "# hsm-signer configuration. Relative paths are relative to this folder. Every key is explained in",
        "# the documentation; a key that is not known is an error.",
    ]
    document = msgspec.to_builtins(config)
    lines.append(f"format = {document.pop('format')}")
    for section, values in document.items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


# A TOML string holds no control character as it is, and the quote ends it.
_ESCAPES = {code: f"\\u{code:04X}" for code in (*range(0x20), 0x7F)} | {0x22: '\\"', 0x5C: "\\\\"}


def _toml(value: str | float) -> str:
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return repr(value)

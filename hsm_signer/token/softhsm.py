"""Makes a SoftHSM2 token in a folder of its own, for trials and tests.

SoftHSM keeps keys in files that whoever reads the folder and knows the PIN can use: never for production.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import pkcs11
import pkcs11.exceptions as p11

from hsm_signer.errors import ConfigError, TokenError, TokenNotFound

from .faults import reason
from .session import load_library
from .uri import TokenUri

MODULE_PATHS = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
DEFAULT_CONFIGURATION = """\
directories.tokendir = tokens
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""
CONFIGURATION_VARIABLE = "SOFTHSM2_CONF"
_TOKEN_FOLDER = re.compile(r"^\s*directories\.tokendir\s*=.*$", re.MULTILINE)


def find_module() -> str:
    """Path of libsofthsm2.so; raises TokenNotFound."""
    for path in MODULE_PATHS:
        if Path(path).exists():
            return path
    raise TokenNotFound(
        "SoftHSM2 is not installed",
        hint="apt-get install softhsm2, or name another token with --module and --token-label",
    )


def configuration(text: str, token_folder: Path) -> str:
    """SoftHSM's settings with ``directories.tokendir`` set to ``token_folder``; raises ConfigError."""
    if not _TOKEN_FOLDER.search(text):
        raise ConfigError("SoftHSM settings: expected a line directories.tokendir = ...")
    return _TOKEN_FOLDER.sub(lambda _: f"directories.tokendir = {token_folder}", text)


def use_configuration(path: Path) -> None:
    """Point SoftHSM to its settings; it reads them at C_Initialize."""
    os.environ[CONFIGURATION_VARIABLE] = str(path)


def create_token(module_path: str, label: str, so_pin: str, user_pin: str) -> str:
    """Initialise a free slot and set both PINs; returns the new token's serial. Raises TokenError.

    C_InitToken is called straight: python-pkcs11 has none, and softhsm2-util takes PINs as arguments, where
    every user of the machine can read them.
    """
    library = load_library(TokenUri(module_path=module_path))
    try:
        free = next(
            slot
            for slot in library.get_slots()
            if not slot.get_token().flags & pkcs11.TokenFlag.TOKEN_INITIALIZED
        )
        so_pin_bytes = so_pin.encode("utf-8")
        result = ctypes.CDLL(module_path).C_InitToken(
            ctypes.c_ulong(free.slot_id),
            so_pin_bytes,
            ctypes.c_ulong(len(so_pin_bytes)),
            label.encode("utf-8").ljust(32),
        )
        if result != 0:
            raise TokenError(f"the token cannot be initialised (CKR 0x{result:08X})")
        # SoftHSM numbers its slots anew: the token moves to a slot derived from its serial.
        library.reinitialize()
        token = library.get_token(token_label=label)
        with token.open(rw=True, so_pin=so_pin) as session:
            session.init_pin(user_pin)
        return str(token.serial.decode("ascii"))
    except p11.PKCS11Error as error:
        raise TokenError(f"the token cannot be initialised ({reason(error)})") from error
    finally:
        library.finalize()

"""Tokens that do not keep their keys: NSS's softoken, and SoftHSM2 behind a module that lets keys out.

Both are real tokens behind a few lines of C in tests/support/modules.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from hsm_signer.token import softhsm

from . import needs

SOURCES = Path(__file__).with_name("modules")
LABEL = "weak"
PIN = "24681357"


@dataclass(frozen=True)
class WeakToken:
    """An initialised token."""

    module: Path
    pin_file: Path
    variables: dict[str, str]
    """Of the environment, where its module is used."""


def _compiled(name: str, folder: Path) -> Path:
    module = folder / f"{name}.so"
    gcc = needs.program("gcc", "gcc libc6-dev")
    options = ["-O1", "-shared", "-fPIC", "-Wall", "-Werror"]
    subprocess.run([gcc, *options, "-o", module, SOURCES / f"{name}.c", "-ldl"], check=True)
    return module


def _pin_file(folder: Path) -> Path:
    path = folder / "pin"
    path.write_text(f"{PIN}\n")
    path.chmod(0o600)
    return path


def softhsm_that_lets_keys_out(folder: Path) -> WeakToken:
    """SoftHSM2, every generated secret key of which is extractable, whatever was asked for."""
    real = needs.softhsm_module()
    (folder / "tokens").mkdir()
    conf = folder / "softhsm.conf"
    conf.write_text(softhsm.configuration(softhsm.DEFAULT_CONFIGURATION, folder / "tokens"))
    softhsm.use_configuration(conf)
    softhsm.create_token(real, LABEL, "so-pin-so-pin", PIN)
    variables = {"LAX_MODULE": real, softhsm.CONFIGURATION_VARIABLE: str(conf)}
    return WeakToken(_compiled("lax", folder), _pin_file(folder), variables)


def nss_softoken(folder: Path) -> WeakToken:
    """NSS's own token with a database of its own."""
    certutil = needs.program("certutil", "libnss3-tools")
    database = folder / "nss"
    database.mkdir()
    pin_file = _pin_file(folder)
    subprocess.run([certutil, "-N", "-d", f"sql:{database}", "-f", pin_file], check=True)
    parameters = (
        f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='' flags=optimizeSpace updatedir='' "
        f"dbTokenDescription='{LABEL}'"
    )
    return WeakToken(_compiled("softokn", folder), pin_file, {"SOFTOKN_PARAMETERS": parameters})

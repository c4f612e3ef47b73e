"""What a test needs beside Python: there or not, and what that means.

On a developer's laptop a missing component skips the test, with its reason. In continuous integration (CI is
set) it fails: a skipped test shows nothing.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from hsm_signer.errors import TokenNotFound
from hsm_signer.token import softhsm

SPY_PATHS = (
    "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so",
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/pkcs11-spy.so",
    "/usr/lib/pkcs11/pkcs11-spy.so",
)


running: pytest.Item | None = None
"""The test that runs; conftest sets it."""


def marked(marker: str) -> None:
    """Whoever needs this much says so: some runs leave such tests out, and must not meet one without it."""
    assert running is None or running.get_closest_marker(marker), (
        f"{running.nodeid} has to be marked: pytest.mark.{marker}"
    )


def missing(what: str, how: str) -> NoReturn:
    """Skip on a laptop, fail in continuous integration."""
    message = f"{what} is missing: {' '.join(how.split())}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def softhsm_module() -> str:
    """Path of the SoftHSM2 module."""
    try:
        return softhsm.find_module()
    except TokenNotFound:
        missing("SoftHSM2", "apt-get install softhsm2")


def spy_module() -> str:
    """Path of OpenSC's pkcs11-spy."""
    for path in SPY_PATHS:
        if Path(path).exists():
            return path
    missing("OpenSC's pkcs11-spy", "apt-get install opensc opensc-pkcs11")


def program(name: str, package: str) -> str:
    """Path of a program."""
    found = shutil.which(name)
    if found is None:
        missing(name, f"apt-get install {package}")
    return found


def postgresql() -> Path:
    """The folder of PostgreSQL's server programs; Debian has it on nobody's path."""
    marked("database")
    if importlib.util.find_spec("psycopg") is None:
        missing("psycopg", "pip install 'hsm-signer[postgresql]'")
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            missing("the system user postgres", "apt-get install postgresql")
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    return Path(program("initdb", "postgresql")).resolve().parent


def pyscard() -> None:
    """The Python package that reaches readers."""
    if importlib.util.find_spec("smartcard") is None:
        missing("pyscard", "pip install 'hsm-signer[pcsc]' (needs gcc, swig, libpcsclite-dev)")


def root() -> None:
    """Only root can start processes as other users."""
    marked("users")
    if os.geteuid() != 0:
        missing("root", "run the tests as root, or as the fake root of a container")

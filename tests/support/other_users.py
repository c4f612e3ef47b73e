"""Other users of this system: who they are, what they can reach, what Python they can run."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsm_signer.service import supervisor

from . import needs


@dataclass(frozen=True)
class User:
    """A system user, by numbers."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Besides."""


@contextmanager
def reachable() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="hsm-signer-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def give(path: Path, user: User) -> None:
    """The folder and everything in it to this user."""
    for each in (path, *path.rglob("*")):
        os.chown(each, user.uid, user.gid)


def python_for_others() -> tuple[str, dict[str, str]]:
    """An interpreter that every user can run, and the environment in which it finds the program."""
    real = Path(sys.executable).resolve()
    if all(each.stat().st_mode & 0o001 for each in real.parents):
        return sys.executable, {}
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(system).exists():
        needs.missing(system, "a Python of the same version that other users can run")
    root = Path(supervisor.__file__).parents[1]
    return system, {"PYTHONPATH": f"{root}:{sysconfig.get_path('purelib')}"}

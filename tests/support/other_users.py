"""Other users of this system: who they are, what they can reach, and a Python that they can run.

A clone may lie where nobody else may go, as in the home of root; so may the Python that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from . import processes
from .people import ROOT


@dataclass(frozen=True)
class User:
    """A system user, by numbers."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Besides."""


NOBODY = User(65534, 65534)


def is_open(path: Path) -> bool:
    """Whether every user may read this file, or read and enter this folder, and gets to it."""
    bits = 0o005 if path.is_dir() else 0o004
    return path.stat().st_mode & bits == bits and all(each.stat().st_mode & 0o001 for each in path.parents)


def reachable_folder() -> Path:
    """A new folder of ours that every user can reach, unlike those of pytest; its name is short."""
    there = [each for each in map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")) if is_open(each)]
    assert there, "no temporary folder is open to every user"
    folder = Path(tempfile.mkdtemp(prefix="hsm-signer-", dir=there[0]))
    folder.chmod(0o755)
    return folder


@contextmanager
def reachable() -> Iterator[Path]:
    """Such a folder, removed at the end."""
    folder = reachable_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def give(path: Path, user: User) -> None:
    """The folder and everything in it to this user."""
    for each in (path, *path.rglob("*")):
        os.chown(each, user.uid, user.gid)


def become(user: User) -> None:
    """For good."""
    os.setgroups(list(user.groups))
    os.setgid(user.gid)
    os.setuid(user.uid)


def _connect_as(user: User, path: str, answer: str) -> None:
    with Path(answer).open("w") as file:
        become(user)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            try:
                sock.connect(path)
                file.write("hello" if sock.recv(9) else "closed")
            except PermissionError:
                file.write("not reached")
            except ConnectionResetError:
                file.write("closed")


def connected_as(user: User, path: Path, folder: Path) -> str:
    """What a worker's socket has for this user."""
    answer = folder / "connected"
    assert processes.run(_connect_as, user, str(path), str(answer)) == 0
    return answer.read_text()


# --- a Python that everybody can run -----------------------------------------------------------------------


@dataclass(frozen=True)
class Python:
    """An interpreter that has the program."""

    executable: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    """What it needs to find the program."""


CHECK = """
from importlib.metadata import version
import hsm_signer.service.front.app, pkcs11, psycopg
version("hsm-signer")
"""


@contextmanager
def runnable_by_others() -> Iterator[Python]:
    """The one that runs here, if everybody can run it; otherwise a copy, for as long as the block lasts."""
    here = (Path(sys.executable), Path(os.__file__), Path(str(metadata.__file__)), ROOT / "hsm_signer")
    if all(is_open(each.resolve()) and is_open(each) for each in here):
        yield Python()
        return
    with reachable() as folder:
        python = Python(str(_copy_interpreter(folder)), {"PYTHONPATH": str(_copy_packages(folder))})
        ran = subprocess.run(
            [python.executable, "-c", CHECK],
            env=python.environment,
            cwd="/",
            user=NOBODY.uid,
            group=NOBODY.gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"other users cannot run the copy of {sys.executable}: {ran.stderr}"
        yield python


def _copy_interpreter(folder: Path) -> Path:
    """Itself and its own library, which it finds beside it."""
    version = f"python3.{sys.version_info.minor}"
    real = Path(sys.executable).resolve()
    library = Path(os.__file__).parent
    unused = ("*-packages", "test", "tests", "idlelib", "tkinter", "lib2to3", "config-*", "*.opt-*.pyc")
    shutil.copytree(library, folder / "lib" / version, ignore=shutil.ignore_patterns(*unused))
    (folder / "bin").mkdir()
    copy = folder / "bin" / version
    shutil.copy(real, copy)
    for shared in real.parents[1].glob("lib/libpython3*.so*"):
        shutil.copy(shared, folder / "lib")
        # Where an interpreter looks for its shared library is written in it, as a path.
        place = str(shared.parent).encode()
        copy.write_bytes(copy.read_bytes().replace(place, b"$ORIGIN/../lib".ljust(len(place), b"\0")))
    return copy


def _copy_packages(folder: Path) -> Path:
    """The program and the packages that it asks for, not those of its developers."""
    packages = folder / "packages"
    shutil.copytree(ROOT / "hsm_signer", packages / "hsm_signer")
    for name in _required("hsm-signer", {"service", "postgresql"}, set()):
        for file in metadata.files(name) or ():
            if ".." not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file.locate(), target)
    return packages


def _required(name: str, extras: set[str], known: set[str]) -> set[str]:
    """Names of this distribution and of all that it needs; ``known`` are left out."""
    known = known | {name}
    for text in metadata.requires(name) or ():
        wanted = Requirement(text)
        other = wanted.name.lower().replace("_", "-")
        marker = wanted.marker
        if other not in known and (
            marker is None or any(marker.evaluate({"extra": each}) for each in extras | {""})
        ):
            known |= _required(other, wanted.extras, known)
    return known

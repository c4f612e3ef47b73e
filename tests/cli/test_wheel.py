"""What is installed elsewhere: every module, the migrations, the types and the commands."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.people import ROOT

PACKAGES = ("hsm_signer", "card_applet_sim")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the wheel, by its name in it.

    Where the environment has no `wheel` to pack one, setuptools installs what it would pack into an empty
    folder. Both work on a copy: neither leaves anything in the clone, nor finds anything of an older build.
    """
    if importlib.util.find_spec("setuptools") is None:
        needs.missing("setuptools", "pip install setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    source, root = folder / "source", folder / "root"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    if importlib.util.find_spec("wheel") is not None:
        command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        _run(source, *command, "--wheel-dir", str(folder), ".")
        (made,) = folder.glob("*.whl")
        with zipfile.ZipFile(made) as archive:
            return {each: archive.read(each) for each in archive.namelist()}
    command = ["-W", "ignore", "-c", "import setuptools; setuptools.setup()", "--quiet", "install"]
    _run(source, *command, "--root", str(root), "--single-version-externally-managed", "--no-compile")
    (metadata,) = root.rglob("entry_points.txt")
    base = metadata.parents[1]
    return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def _run(folder: Path, *arguments: str) -> None:
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_module_is_in_it(installed: dict[str, bytes]) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    packed = {name for name in installed if name.split("/")[0] in PACKAGES}
    assert packed == ours
    assert {"hsm_signer/py.typed", "card_applet_sim/py.typed"} <= packed
    for name in ours:
        assert installed[name] == (ROOT / name).read_bytes(), name


def test_the_migrations_are_in_it(installed: dict[str, bytes]) -> None:
    here = {path.name for path in (ROOT / "hsm_signer/store/migrations/versions").glob("[0-9]*.py")}
    found = {Path(name).name for name in installed if re.search(r"store/migrations/versions/[0-9]", name)}
    assert found == here
    assert found
    assert "hsm_signer/store/migrations/env.py" in installed


def test_both_commands_are_in_it(installed: dict[str, bytes]) -> None:
    (text,) = (value for name, value in installed.items() if name.endswith("/entry_points.txt"))
    parser = ConfigParser()
    parser.read_string(text.decode("utf-8"))
    commands = dict(parser["console_scripts"])
    assert commands == {
        "hsm-signer": "hsm_signer.__main__:entry",
        "card-applet-sim": "card_applet_sim.__main__:entry",
    }
    for target in commands.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_nothing_else_is_in_it(installed: dict[str, bytes]) -> None:
    others = {name.split("/")[0] for name in installed} - set(PACKAGES)
    assert all(re.fullmatch(r"hsm_signer-.*(-info|\.data)", name) for name in others), others

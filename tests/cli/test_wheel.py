"""What is installed elsewhere: every module, the migrations, the types and the commands."""

from __future__ import annotations

import email
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import hsm_signer
from tests.support.people import ROOT

PACKAGES = ("hsm_signer", "card_applet_sim")
MAN_PAGE = Path("docs", "man", "hsm-signer.1")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the wheel, by its name in it.

    Made of a copy: packing leaves nothing in the clone, nor finds anything of an older build.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / MAN_PAGE).parent.mkdir(parents=True)
    shutil.copy(ROOT / MAN_PAGE, source / MAN_PAGE)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    ran = subprocess.run(
        [sys.executable, *command, "--wheel-dir", str(folder), "."],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (made,) = folder.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


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


def test_the_man_page_is_in_it(installed: dict[str, bytes]) -> None:
    (page,) = (value for name, value in installed.items() if name.endswith("/share/man/man1/hsm-signer.1"))
    assert page == (ROOT / MAN_PAGE).read_bytes()


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


def test_the_licence_is_in_it(installed: dict[str, bytes]) -> None:
    (packed,) = (value for name, value in installed.items() if name.endswith(".dist-info/licenses/LICENSE"))
    assert packed == (ROOT / "LICENSE").read_bytes()
    assert b"Copyright 2026 The hsm-signer authors" in packed
    assert b"TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in packed


def test_it_says_whose_it_is(installed: dict[str, bytes]) -> None:
    (written,) = (value for name, value in installed.items() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(written)
    assert metadata["Version"] == hsm_signer.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Author"] == "The hsm-signer authors"
    assert metadata["Requires-Python"] == ">=3.11"
    urls = dict(each.split(", ") for each in metadata.get_all("Project-URL", []))
    assert {"Homepage", "Documentation", "Changelog", "Issues"} == set(urls)
    assert all(each.startswith("https://github.com/hsm-signer/hsm-signer") for each in urls.values())
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_nothing_else_is_in_it(installed: dict[str, bytes]) -> None:
    others = {name.split("/")[0] for name in installed} - set(PACKAGES)
    assert all(re.fullmatch(r"hsm_signer-.*(-info|\.data)", name) for name in others), others

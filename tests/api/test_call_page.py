"""docs/call/index.md and examples/: every block of Python and of shell is run, against a running service."""

from __future__ import annotations

import ast
import getpass
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import hsm_signer
from hsm_signer import errors, testing
from hsm_signer.testing import PIN, Home, Service, make_person, serving
from hsm_signer.types import Event
from tests.support import needs
from tests.support.people import ROOT

PAGE = (ROOT / "docs" / "call" / "index.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples"
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
"""Language and text, in the page's order."""
PROGRAMS = [text for language, text in BLOCKS if language == "python"][:-2]
"""Without the conftest.py and the tests at the end: tests/api/test_testing.py runs those."""
MARK = "@@@ end of block"


@dataclass(frozen=True)
class Desk:
    """A folder as the page has it, and the service."""

    folder: Path
    service: Service
    environment: dict[str, str]

    def run(self, *command: str, text: str = "", status: int = 0) -> str:
        """What a command writes to standard output; without a terminal the PIN comes from ``text``."""
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,
        )
        assert ran.returncode == status, ran.stdout + ran.stderr
        return ran.stdout


@pytest.fixture(scope="module")
def desk(template_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    home = template_home.copy_to(folder / "home")
    paula = home["paula"]
    with home.server() as server:
        # As everybody enrols her: the users of these tests may sign by more.
        server.change_status(paula.record(server).credential_id, Event.REVOKE)
        paula.card_path.unlink()
        make_person(server, paula.card_path.parent, paula.name, scheme=paula.scheme)
    with serving(home) as service:
        shutil.copy(service.ca, folder / "ca.pem")
        for name in ("alice", "paula"):
            shutil.copy(service.home[name].card_path, folder)
        (folder / "letter.txt").write_text("I owe Bob ten euros.\n")
        program = (sys.executable, "-m", "hsm_signer", "--home", str(service.home.path))
        added = subprocess.run(
            [*program, "client", "add", "app", "--role", "signer"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HSM_SIGNER_SERVER": service.url,
            "HSM_SIGNER_SERVER_TOKEN": added.stdout.strip(),
        }
        yield Desk(folder, service, environment)


def test_the_python_of_the_page(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk.folder)
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    asked = []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return PIN

    monkeypatch.setattr(getpass, "getpass", typed)
    assert len(PROGRAMS) == 3
    assert PROGRAMS[0].count("\n") <= 20, "the first signature in 20 lines"
    namespace: dict[str, Any] = {}
    for program in PROGRAMS:
        exec(program, namespace)
    assert asked == ["PIN of the card: "] * 2, "once for the letter, once for all pages"
    assert (desk.folder / "letter.txt.sig").stat().st_size > 60
    assert len(namespace["outcome"].signatures) == 3
    assert capsys.readouterr().out.startswith("try again later: https://localhost:1: ")


def test_the_shell_of_the_page(desk: Desk) -> None:
    for name in ("curl", "jq", "openssl"):
        needs.program(name, name)
    assert BLOCKS.count(("sh", "")) == 0
    script, expected = [], []
    for number, (language, text) in enumerate(BLOCKS):
        if language == "sh":
            script.append(f"{text}\necho '{MARK}'")
            follows, answer = BLOCKS[number + 1]
            expected.append(json.loads(answer) if follows == "json" else None)
    assert [each for each in expected if each is not None] == [
        json.loads(text) for language, text in BLOCKS if language == "json"
    ], "every answer belongs to a request"
    desk.environment["HSM_SIGNER_CARD_PIN"] = PIN
    printed = desk.run("bash", "-euo", "pipefail", "-c", "\n".join(script)).split(f"{MARK}\n")[:-1]
    for shown, real in zip(expected, printed, strict=True):
        if shown is not None:
            assert alike(shown, json.loads(real)), real
    assert "Verified OK" in printed[-2]


def alike(shown: Any, real: Any) -> bool:
    """The same, but for text that the page ends with three dots: that differs from run to run."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return shown.keys() == real.keys() and all(alike(shown[name], real[name]) for name in shown)
    if isinstance(shown, list) and isinstance(real, list):
        return len(shown) == len(real) and all(map(alike, shown, real))
    if isinstance(shown, str) and shown.endswith("..."):
        return isinstance(real, str) and len(real) >= len(shown)
    return bool(shown == real)


def test_every_error_of_the_page_is_one() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    named = [row for row in rows if row[0].startswith("`")]
    assert len(named) >= 8
    for classes, codes in named:
        found = [getattr(errors, name) for name in re.findall(r"`(\w+)`", classes)]
        assert [kind.code for kind in found] == re.findall(r"`([a-z.-]+)`", codes)


def test_every_name_of_the_page_is_there() -> None:
    names = set(re.findall(r"\bhsm_signer\.(\w+)", PAGE)) - {"testing"}
    assert len(names) > 5
    assert names <= set(hsm_signer.__all__)
    fixtures = set(re.findall(r"^\| `(hsm_signer_\w+)` \|", PAGE, re.MULTILINE))
    assert fixtures == {"hsm_signer_home", "hsm_signer_server", "hsm_signer_service"}
    for name in fixtures:
        assert inspect.getdoc(getattr(testing, name)), name


# --- examples/ -----------------------------------------------------------------------------------------


def test_a_file_is_signed_and_verified_with_nothing_of_ours(desk: Desk, tmp_path: Path) -> None:
    home, letter, key = desk.service.home, tmp_path / "letter.txt", tmp_path / "alice.pem"
    letter.write_text("I owe Bob ten euros.\n")
    sim, sign = f"sim:{desk.folder / 'alice.card'}", EXAMPLES / "sign_file.py"
    said = desk.run(sys.executable, str(sign), str(home.path), sim, str(letter), text=f"{PIN}\n")
    assert said == f"{letter}.sig: signed by alice\n"
    desk.run("hsm-signer", "credential", "public-key", "alice", "--ca", "ca.pem", "-o", str(key))
    verify = (sys.executable, str(EXAMPLES / "verify.py"), str(key), str(letter), f"{letter}.sig")
    assert desk.run(*verify) == "good signature\n"
    letter.write_text("I owe Bob a hundred euros.\n")
    assert desk.run(*verify, status=1) == ""


def test_many_files_are_signed_through_the_service(desk: Desk, tmp_path: Path) -> None:
    files = [tmp_path / f"page{number}.txt" for number in range(3)]
    for file in files:
        file.write_text(file.name)
    sim = f"sim:{desk.folder / 'alice.card'}"
    command = (sys.executable, str(EXAMPLES / "sign_many.py"), desk.service.url, "ca.pem", sim)
    said = desk.run(*command, *map(str, files), text=f"{PIN}\n")
    assert said.splitlines() == [f"{file}.sig: signed by alice" for file in files]
    with hsm_signer.connect(
        desk.service.url, token=desk.environment["HSM_SIGNER_SERVER_TOKEN"], ca=desk.service.ca
    ) as server:
        for file in files:
            hsm_signer.verify(server.credential("alice"), file, Path(f"{file}.sig").read_bytes())


def test_verifying_needs_cryptography_alone() -> None:
    tree = ast.parse((EXAMPLES / "verify.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    packages = {(name or "").partition(".")[0] for name in imported}
    assert packages - set(sys.stdlib_module_names) == {"cryptography"}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix} == {
        "sign_file.py",
        "sign_many.py",
        "verify.py",
    }

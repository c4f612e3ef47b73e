"""What `import hsm_signer` offers: every name, its words, what it costs, and its example run for real."""

from __future__ import annotations

import ast
import getpass
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hsm_signer
from hsm_signer.testing import PIN, Home
from tests.support.people import ROOT

HEAVY = {"pkcs11", "sqlalchemy", "alembic", "httpx", "cryptography", "asn1crypto", "msgspec", "pytest"}
SOURCE = ast.parse((ROOT / "hsm_signer" / "__init__.py").read_text(encoding="utf-8"))


def loaded(program: str, folder: Path) -> set[str]:
    """The modules that are there after this program, run in a process of its own."""
    program = f"{program}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ran.stderr.split())


def test_every_name_is_there_and_documented() -> None:
    assert len(hsm_signer.__all__) == len(set(hsm_signer.__all__)) > 10
    for name in hsm_signer.__all__:
        words = inspect.getdoc(getattr(hsm_signer, name))
        assert words, name
        assert words.splitlines()[0].endswith((".", ";", ",")) or "\n" in words, name
        assert name in dir(hsm_signer)


def test_type_checkers_see_the_same_names() -> None:
    """And no __getattr__, which would give them every name there could be."""
    (block,) = (
        node for node in SOURCE.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = {
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(hsm_signer.__all__)
    assert "__getattr__" not in {node.name for node in SOURCE.body if isinstance(node, ast.FunctionDef)}


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'hsm_signer' has no attribute 'sgin'"):
        getattr(hsm_signer, "sgin")  # noqa: B009 - a type checker would refuse the short form
    assert not hasattr(hsm_signer, "Message")


def test_importing_it_loads_nothing(tmp_path: Path) -> None:
    found = loaded("import hsm_signer", tmp_path)
    assert "hsm_signer" in found
    assert not {name.partition(".")[0] for name in found} & HEAVY
    assert [name for name in found if name.startswith("hsm_signer.")] == []


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import hsm_signer; hsm_signer.errors.CardPinWrong", HEAVY),
        ("import hsm_signer; hsm_signer.Algorithm; hsm_signer.CardPin", HEAVY - {"msgspec"}),
        ("import hsm_signer; hsm_signer.sign; hsm_signer.verify", {"pkcs11", "sqlalchemy", "httpx"}),
        ("import hsm_signer; hsm_signer.connect('https://localhost')", {"pkcs11", "sqlalchemy"}),
    ],
)
def test_a_name_loads_what_it_needs(tmp_path: Path, program: str, absent: set[str]) -> None:
    assert not {name.partition(".")[0] for name in loaded(program, tmp_path)} & absent


def test_the_example_is_a_program_that_runs(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(home["alice"].card_path, tmp_path / "alice.card")
    monkeypatch.chdir(tmp_path)
    asked = []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return PIN

    monkeypatch.setattr(getpass, "getpass", typed)
    (example,) = re.findall(r"::\n\n((?:    .*\n|\n)+)", hsm_signer.__doc__ or "")
    namespace: dict[str, object] = {}
    exec(textwrap.dedent(example), namespace)
    assert asked == ["PIN: "]
    outcome = namespace["outcome"]
    assert isinstance(outcome, hsm_signer.SignOutcome)
    assert outcome.owner == "alice"


def test_the_face_is_what_its_types_say(tmp_path: Path) -> None:
    """To those who check their types, strictly: what is right passes, what is wrong is told."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """\
            from pathlib import Path
            import hsm_signer

            def sign(server: hsm_signer.Server, pin: hsm_signer.CardPin) -> bytes:
                return hsm_signer.sign(server, "sim:a.card", Path("letter"), pin=pin).signature

            with hsm_signer.open_installation() as near, hsm_signer.connect("https://host") as far:
                sign(near, hsm_signer.CardPin("493817"))
                sign(far, hsm_signer.CardPin("493817"))
                hsm_signer.sign(near, "sim:a.card", "text", pin="493817")
                hsm_signer.sgin
            """
        )
    )
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", ran.stdout)
    assert told == [("10", "arg-type"), ("10", "arg-type"), ("11", "attr-defined")], ran.stdout + ran.stderr

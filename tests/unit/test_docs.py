"""docs/patent-map.md: complete, and every place and test it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = {410, *range(480, 483), *range(491, 496), *range(690, 701), *range(751, 762), *range(880, 897)}
CLAIMS = set(range(1, 12))


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading, header and rule left out."""
    text = (ROOT / "docs" / "patent-map.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


EVERY_ROW = [*rows("Steps"), *rows("Claims")]


def test_every_step_and_claim_has_one_row() -> None:
    steps, claims = ([int(row[0]) for row in rows(heading)] for heading in ("Steps", "Claims"))
    assert sorted(steps) == sorted(STEPS)
    assert sorted(claims) == sorted(CLAIMS)


@pytest.mark.parametrize("row", EVERY_ROW, ids=lambda row: row[0])
def test_the_place_exists(row: list[str]) -> None:
    path, *symbol = re.findall(r"`([^`]+)`", row[-2])
    names = defined_names(ROOT / path)
    assert not symbol or symbol[0] in names, (symbol, path)


@pytest.mark.parametrize("row", EVERY_ROW, ids=lambda row: row[0])
def test_the_test_exists(row: list[str]) -> None:
    path = row[-1].strip("`")
    assert any(name.startswith("test_") or ".test_" in name for name in defined_names(ROOT / path)), path


def defined_names(path: Path) -> set[str]:
    """Functions, classes and methods (``Class.method``) of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return names

"""The documents, and their tables."""

from __future__ import annotations

import re

from .people import ROOT

DOCUMENTS = ROOT / "docs"
GENERATED = DOCUMENTS / "run" / "commands.md"
PAGES = [ROOT / "README.md", *sorted(set(DOCUMENTS.rglob("*.md")) - {GENERATED})]
"""Every page that is written by hand."""


def table(header: str, page: str, section: str = "") -> list[list[str]]:
    """The rows of the first table with this header, of a page or of a section; cells without backticks."""
    document = (DOCUMENTS / page).read_text(encoding="utf-8")
    if section:
        document = document.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = document.splitlines()
    start = lines.index(header) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in re.split(r"(?<= )\|(?= |$)", line.strip("|"))])
    return rows

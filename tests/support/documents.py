"""The documents, and their tables."""

from __future__ import annotations

import re

from .people import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "run" / "operations.md").read_text(encoding="utf-8")
SERVICE = (ROOT / "docs" / "run" / "service.md").read_text(encoding="utf-8")


def table(header: str, document: str = OPERATIONS) -> list[list[str]]:
    """The rows of the table with this header; cells without their backticks."""
    lines = document.splitlines()
    start = lines.index(header) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in re.split(r"(?<= )\|(?= |$)", line.strip("|"))])
    return rows

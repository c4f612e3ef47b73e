"""Reads the tables of docs/understand/apdu.md, so that card and driver can each be held to them.

Every function returns a plain dict; nothing here knows either side's code.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[3] / "docs" / "understand" / "apdu.md"
_MARK = re.compile(r"<!-- table: ([a-z-]+) -->")

Row = dict[str, str]


class CommandRow(NamedTuple):
    """One line of the command table; CLA without the chaining bit, lengths in bytes."""

    cla: int
    ins: int
    p1: int
    p2: int
    chained: bool
    nc_min: int
    nc_max: int
    states: frozenset[int]
    answer_min: int
    answer_max: int

    @property
    def header(self) -> bytes:
        """CLA INS P1 P2."""
        return bytes([self.cla, self.ins, self.p1, self.p2])


class TagRow(NamedTuple):
    """One line of the status or INSTALL table. ``blank`` is empty for INSTALL."""

    name: str
    length_min: int
    length_max: int
    blank: str
    basic: str
    other: str


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@cache
def tables() -> dict[str, list[Row]]:
    """Every marked table: name to rows, each a dict of column title to text."""
    found: dict[str, list[Row]] = {}
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        mark = _MARK.fullmatch(line.strip())
        if not mark:
            continue
        name = mark.group(1)
        assert name not in found, f"table {name} stands twice"
        titles = _cells(lines[number + 1])
        assert set(lines[number + 2]) <= set("|- "), f"table {name} has no rule"
        rows = []
        for row in lines[number + 3 :]:
            if not row.startswith("|"):
                break
            cells = _cells(row.replace(" | |", " |  |"))
            cells += [""] * (len(titles) - len(cells))
            assert len(cells) == len(titles), f"table {name}: {row}"
            rows.append(dict(zip(titles, cells, strict=True)))
        assert rows, f"table {name} is empty"
        found[name] = rows
    return found


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def aid() -> bytes:
    """The application identifier."""
    return bytes.fromhex(_identity()["aid"])


def version() -> int:
    """Protocol version, status tag 80."""
    return int(_identity()["version"], 16)


def key_reference() -> int:
    """P2 of the PIN commands."""
    return int(_identity()["key-reference"], 16)


def _identity() -> dict[str, str]:
    return {row["name"]: row["value"] for row in tables()["identity"]}


def commands() -> dict[str, CommandRow]:
    """Command name to its line."""
    return {
        row["command"]: CommandRow(
            int(row["CLA"], 16),
            int(row["INS"], 16),
            int(row["P1"], 16),
            int(row["P2"], 16),
            {"yes": True, "no": False}[row["chained"]],
            int(row["Nc min"]),
            int(row["Nc max"]),
            frozenset(int(state, 16) for state in row["states"].split()),
            *_range(row["answer length"]),
        )
        for row in tables()["commands"]
    }


def _tags(name: str) -> dict[int, TagRow]:
    return {
        int(row["tag"], 16): TagRow(
            row["name"], *_range(row["length"]), row.get("blank", ""), row["basic"], row["pin and rolling"]
        )
        for row in tables()[name]
    }


def status_tags() -> dict[int, TagRow]:
    """Tag to its line in the status table."""
    return _tags("status-tags")


def install_tags() -> dict[int, TagRow]:
    """Tag to its line in the INSTALL table."""
    return _tags("install-tags")


def template_tags() -> dict[str, int]:
    """Name to tag of what stands around status and in BEGIN PERSONALISATION's answer."""
    return {row["name"]: int(row["tag"], 16) for row in tables()["template-tags"]}


def features() -> dict[str, int]:
    """Feature name to its mask in status tag 88."""
    return {row["name"]: 1 << int(row["bit"]) for row in tables()["features"]}


def codes(table: str) -> dict[str, int]:
    """Name to code of one of: states, schemes, combines, modes, pin-policies, pin-checks, algorithms."""
    return {row["name"]: int(row["code"], 16) for row in tables()[table]}


def pin_check_bytes() -> dict[int, int]:
    """PIN check to the bytes of POWF that stay on the card."""
    return {int(row["code"], 16): int(row["POWF bytes kept"]) for row in tables()["pin-checks"]}


def algorithm_digest_lengths() -> dict[int, int]:
    """Algorithm to the length of its digests in mode 02; 0 where it has no mode 02."""
    return {
        int(row["code"], 16): int(row["digest length"]) if "02" in row["modes"].split() else 0
        for row in tables()["algorithms"]
    }


def limits() -> dict[str, int]:
    """Limit name to value."""
    return {row["name"]: int(row["value"]) for row in tables()["limits"]}


def labels() -> dict[str, bytes]:
    """Name to the ASCII label that a formula begins with."""
    return {row["name"]: row["label"].encode("ascii") for row in tables()["labels"]}


def status_words() -> dict[str, int]:
    """Name to status word; x and xx, which stand for a count, are 0 here."""
    return {row["name"]: int(row["word"].replace("x", "0"), 16) for row in tables()["status-words"]}


def order_of_checks() -> list[tuple[str, int]]:
    """Checks and their words, first to last; 63Cx as 63C0."""
    rows = tables()["order"]
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return [(row["check"], int(row["word"].replace("x", "0"), 16)) for row in rows]


def writes() -> dict[str, int]:
    """Command to the number of its persistent writes; commands that never write are missing."""
    count: dict[str, int] = {}
    for row in tables()["writes"]:
        count[row["command"]] = int(row["write"])
    return count

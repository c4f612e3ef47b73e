"""Who may import whom: the table of docs/understand/architecture.md, held against every import there is."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TABLE = """\
| room | may import, besides errors and types | and alone of all |
|---|---|---|
| core | nothing | asn1crypto |
| config | nothing | tomli_w |
| schemes | nothing | |
| card | core (job_thread.py) | card_applet_sim (simulated.py), smartcard (pcsc.py) |
| token | core, schemes | pkcs11, ctypes |
| evidence | core | |
| store | core, evidence | sqlalchemy, alembic, sqlite3 |
| server | config, core, schemes, token, evidence, store | |
| workstation | card, core | httpx |
| service/roles, service/logs | nothing | |
| service/clients | core, token, evidence, store, server, service/roles | |
| service/wire | core, evidence, service/roles | |
| service/worker | config, core, schemes, token, evidence, store, server, service/roles, service/logs, service/clients, service/wire | |
| service/front | config, core, evidence, service/roles, service/logs, service/wire | starlette, uvicorn, uvloop, prometheus_client |
| service/supervisor | config, core (backoff.py), service/logs, service/wire, service/worker (sockets.py) | |
| api | config, core, card, server, workstation | |
| testing | everything | pytest |
| cli | everything | click |
| card_applet_sim | nothing of hsm_signer | click (`__main__.py`) |
"""
"""As docs/understand/architecture.md has it. A file in brackets: of the room on the left in the last column, of the
imported room in the middle one."""

FOUNDATION = {"errors": set[str](), "types": set[str]()}
"""What every room may import, and what these may import themselves."""
WITHOUT_ROOM = {"__init__", "__main__"}
DIVIDED = "service"
"""The folder whose own folders and modules are rooms each: processes that must not share everything."""
MAX_AT_THE_TOP = 8
"""Modules of hsm_signer/ that lie in no folder."""

SHARED_LIBRARIES = {"cryptography", "msgspec"}
"""Used where they are needed: no border runs along them."""


@dataclass(frozen=True)
class Import:
    """One imported module, by one file."""

    file: Path
    line: int
    module: str
    """Absolute, with the names of a ``from`` import appended where they may be modules."""

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"

    @property
    def package(self) -> str:
        """``hsm_signer``, ``pkcs11`` ..."""
        return self.module.split(".")[0]


def files(package: str) -> list[Path]:
    """Every module of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(file: Path) -> Iterator[Import]:
    """All of them: inside functions and under TYPE_CHECKING, too."""
    package = (file.relative_to(ROOT).parent).parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            for alias in node.names:
                found = f"{module}.{alias.name}"
                yield Import(file, node.lineno, found if is_module(found) else module)


def is_module(name: str) -> bool:
    """Whether this is a module or package of ours."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room_of(module: str) -> str:
    """``hsm_signer.token.session`` -> ``token``, ``hsm_signer.service.wire.frames`` -> ``service/wire``."""
    parts = module.split(".")
    if len(parts) < 2:
        return "__init__"
    if parts[1] == DIVIDED and len(parts) > 2:
        return "__init__" if parts[2] in WITHOUT_ROOM else f"{DIVIDED}/{parts[2]}"
    return parts[1]


def room_of_file(file: Path) -> str:
    return room_of(".".join(file.relative_to(ROOT).with_suffix("").parts))


@dataclass(frozen=True)
class Room:
    """One row of the table."""

    may: dict[str, str | None]
    """Room -> the only file of it, or None for any."""
    everything: bool
    alone: dict[str, str | None]
    """Library -> the only file that imports it, or None for any of this room."""


def parse_cell(cell: str) -> dict[str, str | None]:
    """``a, b (c.py)`` -> {a: None, b: c.py}."""
    found: dict[str, str | None] = {}
    for item in filter(None, (each.strip() for each in cell.replace("`", "").split(","))):
        match = re.fullmatch(r"([\w/]+)(?: \((\w+\.py)\))?", item)
        assert match, item
        found[match[1]] = match[2]
    return found


def rooms() -> dict[str, Room]:
    """The table, row by row."""
    found: dict[str, Room] = {}
    for line in TABLE.splitlines()[2:]:
        names, may, alone = (cell.strip() for cell in line.strip("|").split("|"))
        none = may.startswith("nothing")
        for name in names.split(", "):
            found[name] = Room(
                {} if none or may == "everything" else parse_cell(may), may == "everything", parse_cell(alone)
            )
    return found


ROOMS = rooms()
EVERY_IMPORT = [
    each
    for package in ("hsm_signer", "card_applet_sim")
    for file in files(package)
    for each in imports_of(file)
]


def test_documentation_has_this_table() -> None:
    """If this fails after a change of the table above, copy it into the section "Borders"."""
    assert TABLE in (ROOT / "docs" / "understand" / "architecture.md").read_text(encoding="utf-8")


def test_every_room_is_in_the_table() -> None:
    found = {room_of_file(file) for file in files("hsm_signer")}
    assert found - WITHOUT_ROOM == (set(ROOMS) - {"card_applet_sim"}) | set(FOUNDATION)


def test_few_modules_lie_at_the_top() -> None:
    """Whatever has an owner lies in its owner's folder."""
    assert len(list((ROOT / "hsm_signer").glob("*.py"))) <= MAX_AT_THE_TOP


def test_modules_of_a_folder_make_no_circle() -> None:
    """Inside a room, too, each module stands on others that do not stand on it."""
    standing: dict[str, set[str]] = {}
    for each in EVERY_IMPORT:
        if each.package == "hsm_signer" and each.file.is_relative_to(ROOT / "hsm_signer"):
            name = ".".join(each.file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            standing.setdefault(name, set()).add(each.module)
    done: set[str] = set()
    while remaining := set(standing) - done:
        free = {
            name for name in remaining if standing[name] - {name} <= done | (standing[name] - set(standing))
        }
        assert free, f"a circle among {sorted(remaining)}"
        done |= free


def test_the_walk_finds_imports() -> None:
    """Or the tests below would hold of nothing."""
    assert len(EVERY_IMPORT) > 300
    found = {(each.file.name, each.module) for each in EVERY_IMPORT}
    assert ("session.py", "hsm_signer.token.templates") in found, "from . import templates"
    assert ("address.py", "hsm_signer.card.simulated") in found, "inside a function"
    assert ("signing.py", "hsm_signer.core.algorithms") in found


@pytest.mark.parametrize("room", sorted({*ROOMS, *FOUNDATION} - {"card_applet_sim"}))
def test_room_imports_what_it_may(room: str) -> None:
    wrong = []
    for each in EVERY_IMPORT:
        if each.package != "hsm_signer" or each.file.is_relative_to(ROOT / "card_applet_sim"):
            continue
        if room_of_file(each.file) != room or (target := room_of(each.module)) in (room, "__init__"):
            continue
        if room in FOUNDATION:
            allowed = target in FOUNDATION[room]
        else:
            row = ROOMS[room]
            only = row.may.get(target)
            allowed = (
                row.everything
                or target in FOUNDATION
                or (target in row.may and (only is None or each.module.endswith(only.removesuffix(".py"))))
            )
        if not allowed:
            wrong.append(str(each))
    assert wrong == []


@pytest.mark.parametrize("library", sorted({library for row in ROOMS.values() for library in row.alone}))
def test_library_is_imported_in_its_room_alone(library: str) -> None:
    wrong = []
    used = False
    for each in EVERY_IMPORT:
        if each.package != library or each.file.is_relative_to(ROOT / library):
            continue
        used = True
        inside = each.file.relative_to(ROOT).parts[0]
        room = inside if inside == "card_applet_sim" else room_of_file(each.file)
        row = ROOMS.get(room)
        if row is None or library not in row.alone or row.alone[library] not in (None, each.file.name):
            wrong.append(str(each))
    assert wrong == []
    assert used or library == "smartcard", "a border that nothing crosses says nothing"


def test_no_other_library_slips_in() -> None:
    """A new dependency has to be given a room."""
    known = {library for row in ROOMS.values() for library in row.alone}
    known |= SHARED_LIBRARIES | {"hsm_signer", "card_applet_sim"}
    new = {str(each) for each in EVERY_IMPORT if each.package not in known | set(sys.stdlib_module_names)}
    assert new == set()


def test_simulated_card_knows_nothing_of_the_host() -> None:
    own = [each for each in EVERY_IMPORT if each.file.is_relative_to(ROOT / "card_applet_sim")]
    assert own
    assert [str(each) for each in own if each.package == "hsm_signer"] == []


def test_product_imports_no_tests() -> None:
    """pytest has a room of its own in the table."""
    assert [str(each) for each in EVERY_IMPORT if each.package in ("tests", "benchmarks")] == []


def test_rooms_make_no_circle() -> None:
    """Each room stands on others that do not stand on it."""
    standing: dict[str, set[str]] = {name: set() for name in {*ROOMS, *FOUNDATION}}
    for each in EVERY_IMPORT:
        if each.package == "hsm_signer" and each.file.is_relative_to(ROOT / "hsm_signer"):
            room, target = room_of_file(each.file), room_of(each.module)
            if room not in WITHOUT_ROOM and target not in (room, "__init__"):
                standing[room].add(target)
    done: set[str] = set()
    while remaining := {room for room in standing if room not in done}:
        free = {room for room in remaining if standing[room] <= done}
        assert free, f"a circle among {sorted(remaining)}"
        done |= free

"""What the documents say about the code and its tests, held against both.

The pages of docs/understand: patent-map.md is complete and every place and test function in it exists; so do
the tests that threat-model.md names. architecture.md names every module. The numbers and the table of keys of
protocol.md are those of the code and of the trace.
"""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from hsm_signer.token.profile import CONFINEMENTS
from hsm_signer.types import Algorithm, Combine, KeySpec, Scheme
from tests.support import templates as trace
from tests.support.spy import mechanisms as mechanisms_of

ROOT = Path(__file__).resolve().parents[2]
STEPS = {410, *range(480, 483), *range(491, 496), *range(690, 701), *range(751, 762), *range(880, 897)}
CLAIMS = set(range(1, 12))


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading, header and rule left out."""
    text = (ROOT / "docs" / "understand" / "patent-map.md").read_text(encoding="utf-8")
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
    path, function = row[-1].strip("`").split("::")
    assert function.startswith("test_")
    assert function in defined_names(ROOT / path), row[-1]


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


# --- every page ---------------------------------------------------------------------------------------------

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Of its headings, as forges make them: lower case, words joined by hyphens, punctuation dropped."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.+)$", prose)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        place = page.parent / file if file else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


LONGEST_LINE = 110
LONGEST_PARAGRAPH = 900
LONGEST_CELL = 320


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_too_long_to_be_read(page: Path) -> None:
    """Prose is wrapped; no paragraph, list item or cell goes on for ever. What is printed is as it is."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    lines = text.splitlines()
    assert [line for line in lines if len(line) > LONGEST_LINE and not line.startswith(("|", "    "))] == []
    cells = [cell for line in lines if line.startswith("|") for cell in line.split("|")]
    assert [cell for cell in cells if len(cell) > LONGEST_CELL] == []
    prose = "\n".join("" if line.startswith(("|", "    ")) else line for line in lines)
    for paragraph in re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", prose):
        assert len(paragraph) <= LONGEST_PARAGRAPH, paragraph


# --- docs/understand/threat-model.md ---------------------------------------------------------------------


def adversaries() -> list[list[str]]:
    """Rows of the table "Who, and what they get"."""
    section = threats()
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines[0].endswith("| shown by |")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def threats() -> str:
    """The section "Who, and what they get" of docs/understand/threat-model.md."""
    text = (ROOT / "docs" / "understand" / "threat-model.md").read_text(encoding="utf-8")
    return text.split("\n## Who, and what they get\n")[1].split("\n## ")[0]


def test_every_adversary_has_a_section_that_says_what_stops_it() -> None:
    told = dict(re.findall(r"(?ms)^### ([^\n]+)\n(.*?)(?=^### |\Z)", threats()))
    assert list(told) == [re.findall(r"\[([^]]+)\]", row[0])[0] for row in adversaries()]
    assert all(re.search(r"(?m)^\*What stops the rest:\* \S", text) for text in told.values())


@pytest.mark.parametrize("row", adversaries(), ids=lambda row: row[0])
def test_what_stops_an_adversary_is_shown(row: list[str]) -> None:
    """By files that hold tests; or the page says plainly that it is only stated."""
    shown_by = row[-1]
    paths = re.findall(r"`([^`]+)`", shown_by)
    assert paths or shown_by in ("stated", "not testable; stated")
    for path in paths:
        place = ROOT / path
        files = sorted(place.glob("test_*.py")) if place.is_dir() else [place]
        assert files, path
        for file in files:
            assert any(name.startswith("test_") for name in defined_names(file)), file


# --- docs/understand/architecture.md ---------------------------------------------------------------------

LINE = re.compile(r"^    ( *)((?:[\w.]+/?)(?: [\w.]+\.py)*)  +\S")


def module_tree() -> dict[Path, list[Path]]:
    """Of the indented tree of "The map": each folder, and what it names in it."""
    text = (ROOT / "docs" / "understand" / "architecture.md").read_text(encoding="utf-8")
    found: dict[Path, list[Path]] = {}
    folders: list[tuple[int, Path]] = [(-1, ROOT)]
    for line in text.split("\n## The map\n")[1].split("\n## ")[0].splitlines():
        if not line.startswith("    "):
            continue
        match = LINE.match(line) or re.match(r"^    ( *)((?:[\w.]+\.py ?)+)$", line)
        assert match, line
        depth = len(match[1])
        while folders[-1][0] >= depth:
            folders.pop()
        for name in match[2].split():
            place = folders[-1][1] / name
            found.setdefault(folders[-1][1], []).append(place)
            if name.endswith("/"):
                folders.append((depth, place))
                found.setdefault(place, [])
    return found


def test_every_place_of_the_tree_exists() -> None:
    tree = module_tree()
    assert ROOT / "hsm_signer" / "token" in tree
    assert len([each for places in tree.values() for each in places]) > 50
    for places in tree.values():
        for place in places:
            assert place.exists(), place
            assert place.is_dir() == (place.suffix != ".py"), place


def test_every_module_is_in_the_tree() -> None:
    """In a folder of which the tree names any file it names all; another is described as a whole."""
    tree = module_tree()
    for folder, places in tree.items():
        if folder == ROOT or not places:
            continue
        modules = {path for path in folder.glob("*.py") if path.name not in UNNAMED}
        rooms = {path.parent for path in folder.glob("*/__init__.py")}
        assert modules | rooms == {each for each in places if each.name not in UNNAMED}, folder
    packages = {path.parent for path in ROOT.glob("*/__init__.py")} - {ROOT / "tests", ROOT / "benchmarks"}
    assert packages == {each for each in tree[ROOT] if (each / "__init__.py").exists()}


UNNAMED = ("__init__.py", "__main__.py")
"""What every package may have: what it says of itself, and how it is run."""


# --- docs/understand/speed.md ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chart", "header", "columns"),
    [
        ("signature", "| key | (a)", 5),
        ("service", "| key | digests a request", 3),
        ("million", "| database", 2),
    ],
)
def test_charts_show_the_tables(chart: str, header: str, columns: int) -> None:
    """If this fails after a change of a table: make charts."""
    page = ROOT / "docs" / "understand" / "speed.md"
    drawn = (page.parent / "charts" / f"{chart}.svg").read_text(encoding="utf-8")
    assert "<dc:date>" not in drawn
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(header))
    first = 2 if chart == "service" else 1
    rows = lines[start + 2 : lines.index("", start)]
    assert rows
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for cell in (cells[0], *cells[first : first + columns]):
            assert f">{cell.removesuffix(' ms')}</text>" in drawn, (chart, cell)


# --- docs/understand/protocol.md -------------------------------------------------------------------------


def section(number: int) -> str:
    """One section of docs/understand/protocol.md."""
    text = (ROOT / "docs" / "understand" / "protocol.md").read_text(encoding="utf-8")
    return text.split(f"\n## {number}. ")[1].split("\n## ")[0]


def test_algorithm_numbers() -> None:
    """Section 1: the u16 that is bound into D."""
    found = re.findall(r"(?m)^\| 0x([0-9A-F]{4}) \| ([\w-]+) \|", section(1))
    assert {int(number, 16): name for number, name in found} == {
        each.number: each.value for each in Algorithm
    }


def test_scheme_and_combine_numbers() -> None:
    """Section 1: the codes that are bound into D."""
    schemes = re.findall(r"(?m)^\| (\d) \| (\w+) \|$", section(1))
    assert {int(number): name for number, name in schemes} == {each.number: each.value for each in Scheme}
    combines = dict(re.findall(r"(?m)^\| (\d), [^|]* \| combine\(K, m\) = (.+?) \|", section(1)))
    assert combines == {str(Combine.CBC.number): "CBC_K(m)", str(Combine.XOR.number): "K XOR m"}


EVERY_KEY = [(scheme, key) for scheme in Scheme for key in (KeySpec.P256, KeySpec.RSA2048)]
SHOWN: dict[str, list[trace.Template]] = {
    "MK (token object)": [trace.MASTER_KEY],
    "record MAC key (token object)": [trace.RECORD_KEY],
    "KCAR": [trace.KCAR, trace.NEW_DERIVING],
    "T_i": [trace.T, trace.FOR_BASIC_T],
    "identity key (token object)": [trace.IDENTITY[1]],
    "S": [trace.S, trace.NEW_S],
    "V_x, V_x+1, KEY, KOWF": [trace.K],
    "W(V_x), W(KEY), W(KOWF)": [trace.W_OPENS],
    "W(V_x+1)": [trace.W_WRAPS],
    "a record of sealing 1: V_x, KEY, KOWF once more": [trace.KEK_OF_SEALING_1],
    "a record of sealing 1: W(KEY), W(KOWF)": [trace.W_WRAPS],
    "KOWF, for the comparison": [trace.KOWF_COMPARED, trace.KOWF_AGREED],
    "SK": [make(scheme, key) for make in (trace.sk, trace.new_sk) for scheme, key in EVERY_KEY]
    + [trace.sk(scheme, key, moves=True) for scheme, key in EVERY_KEY],
    "at enrolment: KEK1": [trace.NEW_DERIVING],
    "at enrolment: V_1, KEY, KOWF": [trace.V_1, trace.NEW_KEY, trace.NEW_KOWF_BY_RSA],
    "at enrolment: W(V_1), W(KEY), W(KOWF)": [trace.W_WRAPS],
    "at enrolment: ephemeral private key": [trace.EPHEMERAL[1]],
    "at enrolment: Z": [trace.Z],
    "at enrolment: K_1, K_2": [trace.K_R],
    "at enrolment, pin: the random bytes of P (RSA)": [trace.OAEP_SECRET],
    "at enrolment, pin: private half of P (EC)": [trace.POINT[1]],
    "self-test: T_i as a card has it": [trace.K_R],
    "self-test: V_i as a card's answer carries it": [trace.SELF_TEST_V],
}
"""Row of section 6 -> the templates that tests/functional/test_trace.py finds in the trace."""
NOT_ON_SOFTHSM = {"combine 1: V_x once more"}
"""Shown in tests/token/test_workspace.py."""
USAGES = {"ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE"}
MECHANISMS = {
    "KW": {trace.KW},
    "CBC_ENCRYPT_DATA": {trace.CBC_DATA},
    "XOR": set(),
    "SK's wrap mechanism": {trace.WRAP_PAD},
    "AES_CMAC": {trace.CMAC},
    "SHA256_HMAC": {trace.HMAC},
    "ECDH1": {trace.ECDH},
    "ECDSA": {trace.ECDSA},
    "OAEP": {trace.OAEP},
    "its signature mechanism": {trace.ECDSA, trace.RSA_PKCS, trace.RSA_PSS},
}
"""SoftHSM has no CKM_XOR_BASE_AND_DATA."""


def table_of_section_6(after: str) -> list[list[str]]:
    """Cells of the first table that follows these words, header and rule left out."""
    lines = f"\n## 6.{section(6)}".split(after)[1].splitlines()
    table = itertools.takewhile(
        lambda line: line.startswith("|"), itertools.dropwhile(lambda line: not line.startswith("|"), lines)
    )
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in list(table)[2:]]


def test_what_is_tried_on_a_token_has_a_row() -> None:
    rows = table_of_section_6(after="**Tried, not believed.**")
    named = [name.strip() for names, _ in rows for name in names.split(",")]
    assert named == [*CONFINEMENTS]


def table_of_keys() -> dict[str, list[str]]:
    """Section 6: key -> usage, EXTRACTABLE, ALLOWED_MECHANISMS; "the same" written out."""
    found: dict[str, list[str]] = {}
    above = ""
    for key, usage, extractable, allowed in table_of_section_6(after="\n## 6."):
        above = above if allowed == "the same" else allowed
        found[key] = [usage, extractable, above]
    return found


def test_the_table_of_keys_has_a_row_for_every_template_of_the_trace() -> None:
    assert set(table_of_keys()) == set(SHOWN) | NOT_ON_SOFTHSM


@pytest.mark.parametrize("key", SHOWN)
def test_the_table_of_keys_is_what_the_trace_shows(key: str) -> None:
    usage, extractable, allowed = table_of_keys()[key]
    templates = SHOWN[key]

    used = {name for each in templates for name in USAGES if each.get(f"CKA_{name}") is True}
    assert used == set(re.findall(r"[A-Z]{3,}", usage)) & USAGES

    leaves = {each["CKA_EXTRACTABLE"] for each in templates}
    sometimes = extractable not in ("no", "yes") and not extractable.startswith("yes,")
    assert leaves == ({True, False} if sometimes else {extractable != "no"})

    mechanisms = {number for each in templates for number in mechanisms_of(each["CKA_ALLOWED_MECHANISMS"])}
    named = [name for name in MECHANISMS if re.search(rf"(?<![\w']){name}(?!\w)", allowed)]
    assert named, allowed
    assert mechanisms == set().union(*(MECHANISMS[name] for name in named))

"""The vectors of tests/vectors/apdu, on every target: one card each, one file after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.card import contract
from tests.support.card.host import token_point
from tests.support.card.targets import Target, make_blank

from .conftest import NAMES
from .vectors import FILES, FOLDER, ONCE, Runner, load

RENEWING = ("simulator", "jcardsim")


def test_there_are_vectors() -> None:
    assert len(FILES) >= 14


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_vector(path: Path, target: Target) -> None:
    make_blank(target)
    target.reset()
    runner = Runner(target)
    runner.run(path.name)
    assert runner.sent
    # Every file leaves a blank card behind, ready for the next.
    runner.run("setup/select.json")


@pytest.mark.parametrize("path", ONCE, ids=lambda path: path.stem)
@pytest.mark.parametrize("target", [name for name in NAMES if name in RENEWING], indirect=True)
def test_vector_for_a_cards_life(path: Path, target: Target) -> None:
    """What it changes stays with the card for its life: only of cards that another can take the place of."""
    assert target.renews
    target.renew()
    try:
        Runner(target).run(str(path.relative_to(FOLDER)))
    finally:
        target.renew()


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.json")), ids=lambda path: path.stem)
def test_sources_are_sections_of_the_page(path: Path) -> None:
    page = contract.PAGE.read_text(encoding="utf-8")
    headings = {line.lstrip("# ") for line in page.splitlines() if line.startswith("## ")}
    content = load(str(path.relative_to(FOLDER)))
    sources = [content["source"], *(step.get("source", "") for step in content["steps"])]
    for source in filter(None, sources):
        for clause in source.split("; "):
            section = clause.split(",")[0]
            known = section in headings or any(clause.startswith(h) for h in ("Combination",))
            assert known, f"{path.name}: {clause}"


def test_token_point_is_the_private_keys() -> None:
    runner = Runner.__new__(Runner)
    runner.names = {}
    runner.step(load("setup/names.json")["steps"][0], "")
    private = int.from_bytes(runner.names["token_private"], "big")
    assert runner.names["token_point"] == token_point(ec.derive_private_key(private, ec.SECP256R1()))


def test_a_wrong_expectation_fails(target: Target) -> None:
    """The runner itself can fail: on the word, on data, on what follows them."""
    make_blank(target)
    target.reset()
    runner = Runner(target)
    select = "00A40400 09 F048534D5349474E01"
    wrong: list[dict[str, Any]] = [
        {"send": select, "sw": "6A82"},
        {"send": select, "sw": "9000"},
        {"send": select, "sw": "9000", "data": ["6F22"]},
        {"send": "00A40400", "sw": "6A82", "data": ["00"]},
        {"send": "00A40400", "sw": "6A82", "data": [{"capture": "x", "length": 1}]},
        {"equal": ["00", "01"]},
        {"differ": ["00", "00"]},
        {"verified": ["03DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180", "", "01" * 64]},
    ]
    for step in wrong:
        with pytest.raises((AssertionError, InvalidSignature)):
            runner.step(step, "")

"""What the pages say of the service: requests, metrics and frames."""

from __future__ import annotations

import re
from pathlib import Path

from hsm_signer.config.service import Settings
from hsm_signer.service.front.app import App
from hsm_signer.service.front.metrics import Metrics
from hsm_signer.service.front.pool import Pool
from hsm_signer.service.roles import PERMITTED
from hsm_signer.service.wire.frames import MAX_CHUNK, MAX_FRAME, Kind
from tests.support.documents import DOCUMENTS, table


def pool(folder: Path) -> Pool:
    """Over no workers."""
    return Pool(folder, workers=1, in_flight=1, timeout=1)


def test_every_request_is_in_the_table(tmp_path: Path) -> None:
    document = App(Settings(), pool(tmp_path)).document
    offered = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    }
    rows = table("| request | operation | what |", "call/native.md")
    said = {re.sub(r"\{(\w+)\}", "{}", row[0]) for row in rows}
    assert said == {re.sub(r"\{(\w+)\}", "{}", each) for each in offered}
    assert {row[1] for row in rows} == set(PERMITTED) - {"login", "logout", "examine", "open-activation"}


def test_every_metric_is_in_the_table(tmp_path: Path) -> None:
    found = set()
    for family in Metrics(pool(tmp_path)).registry.collect():
        found.add(family.name + ("_total" if family.type == "counter" else ""))
    rows = table("| metric | what |", "run/watching.md")
    assert {row[0].partition("{")[0] for row in rows} == found
    awake = table("| metric or place | wake somebody when |", "run/watching.md")
    watched = {name for row in awake for name in re.findall(r"hsm_signer_\w+", row[0])}
    assert watched
    assert watched <= found


def test_frames_are_as_described() -> None:
    rows = table("| kind | name | from | payload |", "understand/service.md")
    assert {(int(row[0]), row[1]) for row in rows} == {(kind.value, kind.name) for kind in Kind}
    assert MAX_FRAME == 8 << 20
    page = " ".join((DOCUMENTS / "understand" / "service.md").read_text(encoding="utf-8").split())
    assert "at most 8 MiB" in page
    assert MAX_CHUNK == 64 << 10
    assert "up to 64 KiB" in page

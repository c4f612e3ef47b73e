"""Two processes sign with one credential at once: nothing lost, nothing doubled, nobody stuck."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_signer import algorithms
from hsm_signer.types import ACCEPTED, Algorithm, Event, Scheme

from ..support import processes, victim
from ..support.people import Home
from ..support.scenes import chain, still_signs

ROUNDS = 25
"""For each of two processes; with the parameters below 200 signatures in all."""


@pytest.mark.parametrize("name", ["alice", "paula"], ids=["rolling", "pin"])
@pytest.mark.parametrize("cloned", [False, True], ids=["one card", "cloned card"])
def test_two_processes_sign_with_one_credential(
    home: Home, tmp_path: Path, name: str, cloned: bool, tell: Callable[[str], None]
) -> None:
    person = home[name]
    cards = [person.card_path, person.card_path]
    if cloned:
        # Nobody can copy a real card; for the server it makes no difference who asked first.
        cards[1] = tmp_path / "clone.card"
        shutil.copyfile(cards[0], cards[1])
    with home.server() as server:
        before = person.record(server)
        length = len(chain(server, before.credential_id))
    start, reports = tmp_path / "start", [tmp_path / f"report{i}" for i in range(2)]
    running = [
        processes.start(
            victim.compete,
            home.path,
            replace(person, card_path=card),
            ROUNDS,
            f"process {i}",
            start,
            reports[i],
        )
        for i, card in enumerate(cards)
    ]
    deadline = time.monotonic() + 60
    while not all(each.with_suffix(".ready").exists() for each in reports):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    start.touch()
    assert [processes.finish(each) for each in running] == [0, 0]

    results = [json.loads(each.read_text()) for each in reports]
    released = {text: bytes.fromhex(signature) for each in results for text, signature in each["signed"]}
    assert len(released) == 2 * ROUNDS
    verify = algorithms.verifier(before.spki, Algorithm.ECDSA_SHA256)
    by_digest = {hashlib.sha256(text.encode()).digest(): signature for text, signature in released.items()}
    for digest, signature in by_digest.items():
        verify(digest, signature)

    with home.server() as server:
        entries = chain(server, before.credential_id)
        accepted = [each for each in entries if each.event is Event.SIGN and each.outcome == ACCEPTED]
        # Each released signature is in exactly one entry, and there is no entry without a release.
        assert len(accepted) == 2 * ROUNDS
        assert {each.digests[0]: each.signatures[0] for each in accepted} == by_digest
        assert {each.outcome for each in entries[length:]} <= {ACCEPTED, "authorisation.stale"}
        after = person.record(server)
        assert after.version == before.version + 2 * ROUNDS
        if person.scheme is Scheme.ROLLING:
            assert after.x == (before.x or 0) + 2 * ROUNDS
        assert after.failures == 0
        report = server.audit()
        assert report.good, report.findings
        still_signs(server, person)

    retries = {
        code: sum(each["retries"].get(code, 0) for each in results)
        for code in sorted({code for each in results for code in each["retries"]})
    }
    latest_start = max(each["began"] for each in results)
    earliest_end = min(each["ended"] for each in results)
    assert latest_start < earliest_end, "the two were at it at the same time, or nothing was shown"
    assert set(retries) <= {"authorisation.stale", "record.conflict", "store.busy"}
    card = "cloned card" if cloned else "one card"
    tell(f"two processes, {person.scheme.name.lower()}, {card}: {2 * ROUNDS} signatures, retried {retries}")

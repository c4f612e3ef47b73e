"""Two processes sign with one credential at once: nothing lost, nothing doubled, nobody stuck."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_signer.config.installation import CARD_PIN_VARIABLE, HOME_VARIABLE
from hsm_signer.core import algorithms
from hsm_signer.errors import AlreadyInitialised
from hsm_signer.testing import PIN, Home, make_person
from hsm_signer.types import ACCEPTED, Algorithm, Event, Scheme
from tests.support import processes, victim
from tests.support.people import ROOT, SOFTHSM_CONF
from tests.support.scenes import chain, still_signs


@pytest.mark.parametrize(
    ("name", "cloned", "rounds"),
    [("alice", False, 40), ("alice", True, 40), ("paula", False, 20), ("paula", True, 20)],
    ids=["rolling, one card", "rolling, cloned card", "pin, one card", "pin, cloned card"],
)
def test_two_processes_sign_with_one_credential(
    home_on_each: Home, tmp_path: Path, name: str, cloned: bool, rounds: int, tell: Callable[[str], None]
) -> None:
    """``rounds`` signatures each; in half of the rounds they are made to get into each other's way."""
    home = home_on_each
    person = home[name]
    cards = [person.card_path, person.card_path]
    if cloned:
        # Nobody can copy a real card; for the server it makes no difference who asked first.
        cards[1] = tmp_path / "clone.card"
        shutil.copyfile(cards[0], cards[1])
    with home.server() as server:
        before = person.record(server)
        length = len(chain(server, before.credential_id))
    place, reports = tmp_path / "place", [tmp_path / f"report{i}" for i in range(2)]
    place.mkdir()
    running = [
        processes.start(
            victim.compete,
            home.path,
            replace(person, card_path=card),
            rounds,
            f"process {i}",
            place,
            reports[i],
        )
        for i, card in enumerate(cards)
    ]
    assert [processes.finish(each) for each in running] == [0, 0]

    results = [json.loads(each.read_text()) for each in reports]
    released = {text: bytes.fromhex(signature) for each in results for text, signature in each["signed"]}
    assert len(released) == 2 * rounds
    verify = algorithms.verifier(before.spki, Algorithm.ECDSA_SHA256)
    by_digest = {hashlib.sha256(text.encode()).digest(): signature for text, signature in released.items()}
    for digest, signature in by_digest.items():
        verify(digest, signature)

    with home.server() as server:
        entries = chain(server, before.credential_id)
        accepted = [each for each in entries if each.event is Event.SIGN and each.outcome == ACCEPTED]
        # Each released signature is in exactly one entry, and there is no entry without a release.
        assert len(accepted) == 2 * rounds
        assert {each.digests[0]: each.signatures[0] for each in accepted} == by_digest
        assert {each.outcome for each in entries[length:]} <= {ACCEPTED, "authorisation.stale", "refused"}
        after = person.record(server)
        assert after.version == before.version + 2 * rounds
        if person.scheme is Scheme.ROLLING:
            assert after.x == (before.x or 0) + 2 * rounds
        assert after.failures == 0
        report = server.audit()
        assert report.good, report.findings
        still_signs(server, person)

    retries = {
        code: sum(each["retries"].get(code, 0) for each in results)
        for code in sorted({code for each in results for code in each["retries"]})
    }
    assert set(retries) <= {"authorisation.stale", "record.conflict", "store.busy"}
    assert sum(retries.values()) >= rounds // 2, "in every second round one of them came too late"
    card = "cloned card" if cloned else "one card"
    tell(f"two processes, {person.scheme.value}, {card}: {2 * rounds} signatures, retried {retries}")


COMMANDS = 6
"""Each loop's."""


def test_two_command_lines_at_once(home: Home, tmp_path: Path, tell: Callable[[str], None]) -> None:
    """As two terminals do it: every `hsm-signer sign` a process of its own, all with one card.

    Neither loop gets more than two commands ahead of the other.
    """
    alice = home["alice"]
    with home.server() as server:
        before = alice.record(server)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HSM_SIGNER")},
        HOME_VARIABLE: str(home.path),
        CARD_PIN_VARIABLE: PIN,
        "PYTHONPATH": str(ROOT),
    }
    texts = {f"loop {loop} text {number}" for loop in range(2) for number in range(COMMANDS)}
    for text in texts:
        (tmp_path / text).write_text(text)
    command = f'"{sys.executable}" -m hsm_signer sign --card "{alice.address}"'
    script = """
        for i in $(seq 0 $3); do
            until [ "$i" -lt 2 ] || [ -e "$2 has done $((i - 2))" ]; do sleep 0.01; done
            {command} "loop $1 text $i"
            : >"$1 has done $i"
        done
    """
    loops = [
        subprocess.Popen(
            ["/bin/sh", "-ec", script.replace("{command}", command), "sh", mine, other, str(COMMANDS - 1)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for mine, other in ("01", "10")
    ]
    said = [each.communicate(timeout=120) for each in loops]
    assert [each.returncode for each in loops] == [0, 0], said

    verify = algorithms.verifier(before.spki, Algorithm.ECDSA_SHA256)
    by_digest: dict[bytes, bytes] = {}
    for text in texts:
        (path,) = tmp_path.glob(f"{text}.*")
        by_digest[_digest(text)] = path.read_bytes()
    for digest, signature in by_digest.items():
        verify(digest, signature)
    with home.server() as server:
        entries = chain(server, before.credential_id)
        accepted = [each for each in entries if each.event is Event.SIGN and each.outcome == ACCEPTED]
        assert {each.digests[0]: each.signatures[0] for each in accepted} == by_digest
        assert len(accepted) == len(by_digest) == 2 * COMMANDS
        assert alice.record(server).x == (before.x or 0) + 2 * COMMANDS
        order = [text[:6] for each in accepted for text in texts if each.digests[0] == _digest(text)]
        turns = sum(one != other for one, other in itertools.pairwise(order))
        assert turns >= COMMANDS // 2 - 1, "one loop after the other shows nothing"
        still_signs(server, alice)
    tell(f"two command lines at once: {2 * COMMANDS} signatures, {turns} times the other one was next")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_two_processes_make_one_installation(tmp_path: Path) -> None:
    """One makes it, the others change nothing of it: neither while it is under way nor afterwards."""
    path, place = tmp_path / "home", tmp_path / "place"
    place.mkdir()
    reports = [tmp_path / f"report{i}" for i in range(3)]
    running = [
        processes.start(victim.initialise_home, path, SOFTHSM_CONF, place, len(reports), each)
        for each in reports
    ]
    assert [processes.finish(each) for each in running] == [0] * 3
    said = sorted(each.read_text() for each in reports)
    assert said == sorted(["made", AlreadyInitialised.code, AlreadyInitialised.code])

    def files() -> dict[Path, bytes]:
        return {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}

    (path / "cards").mkdir()
    with Home(path, {}).server() as server:
        alice = make_person(server, path / "cards", "alice")
        still_signs(server, alice)
    before = files()
    late = tmp_path / "late"
    assert processes.run(victim.initialise_home, path, SOFTHSM_CONF, place, 1, late) == 0
    assert late.read_text() == AlreadyInitialised.code
    assert files() == before

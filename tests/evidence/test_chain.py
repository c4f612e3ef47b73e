"""A chain: what follows what, and that no link can be changed, taken out, added or moved unseen."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import fields, replace

from hsm_signer.core.canonical import NO_PREVIOUS, entry_hash
from hsm_signer.core.chain_position import START, position_of
from hsm_signer.evidence.chain import ChainCheck, check_chain, draft_entry, next_entry
from hsm_signer.types import Algorithm, CredentialId, Event, EvidenceEntry, Mode
from tests.support.factories import credential_id, make_entry, sha

ALICE, BOB = credential_id(1), credential_id(2)


def chain(owner: CredentialId, *steps: tuple[str, int]) -> list[EvidenceEntry]:
    """Entries with these outcomes and record versions."""
    entries: list[EvidenceEntry] = []
    position = START
    for outcome, version in steps:
        draft = draft_entry(owner, Event.SIGN, actor="tests", outcome=outcome, record_version=version)
        entry = next_entry(position, draft, time=len(entries))
        entries.append(entry)
        position = position_of(entry)
    return entries


OK, NO = "accepted", "authorisation.mismatch"


def good(owner: CredentialId = ALICE) -> list[EvidenceEntry]:
    # Accepted, refused, counted failure, MAC did not hold, accepted.
    return chain(owner, (OK, 1), (OK, 2), (NO, 2), (NO, 3), (NO, 0), (OK, 4))


def codes(entries: list[EvidenceEntry], owner: CredentialId = ALICE) -> list[tuple[str, int | None]]:
    return [(finding.code, finding.sequence) for finding in check_chain(owner, entries)]


def test_an_entry_follows_its_position() -> None:
    first = next_entry(START, draft_entry(ALICE, Event.ENROL, actor="operator", record_version=1), time=5)
    assert (first.sequence, first.previous, first.outcome) == (1, NO_PREVIOUS, "accepted")
    second = next_entry(
        position_of(first),
        draft_entry(ALICE, Event.SIGN, actor="service", outcome=NO, record_version=2),
        time=6,
        d=sha("d"),
        nonce=bytes(16),
        x=3,
        algorithm=Algorithm.ED25519,
        mode=Mode.MESSAGE,
        h=sha("h"),
        quantities_hash=sha("q"),
        digests=(sha(1),),
        signatures=(b"s",),
    )
    assert second == EvidenceEntry(
        2,
        6,
        ALICE,
        Event.SIGN,
        NO,
        2,
        "service",
        entry_hash(first),
        sha("d"),
        bytes(16),
        3,
        Algorithm.ED25519,
        Mode.MESSAGE,
        sha("h"),
        sha("q"),
        (sha(1),),
        (b"s",),
    )


def test_a_good_chain() -> None:
    assert codes(good()) == []
    assert codes([]) == []
    check = ChainCheck(ALICE)
    for entry in good():
        assert list(check.add(entry)) == []
    assert check.version == 4
    assert check.head == check.position.hash == entry_hash(good()[-1])


def test_an_attempt_may_be_refused_by_a_version_that_is_not_the_newest_any_more() -> None:
    """It was read, somebody signed, then the refusal was written down."""
    entries = chain(ALICE, (OK, 1), (OK, 2), (OK, 3), (NO, 1), (NO, 2), (NO, 0), (OK, 4))
    assert codes(entries) == []


def test_the_head_is_the_entry_that_wrote_the_record() -> None:
    check = ChainCheck(ALICE)
    entries = [*good(), *chain(ALICE, (NO, 4))]
    entries[-1] = replace(entries[-1], sequence=7, previous=entry_hash(entries[-2]))
    for entry in entries:
        assert list(check.add(entry)) == []
    assert check.head == entry_hash(entries[5])
    assert check.position.hash == entry_hash(entries[6])


@pytest.mark.parametrize("index", range(6))
def test_every_missing_entry_but_the_last_is_found(index: int) -> None:
    entries = good()
    del entries[index]
    found = codes(entries)
    assert found == ([("chain.gap", index + 2)] if index < 5 else [])


@pytest.mark.parametrize("index", range(5))
def test_swapped_neighbours_are_found(index: int) -> None:
    entries = good()
    entries[index], entries[index + 1] = entries[index + 1], entries[index]
    assert "chain.gap" in [code for code, _ in codes(entries)]
    # Renumbered: the hashes do not fit.
    entries = [replace(entry, sequence=number) for number, entry in enumerate(entries, 1)]
    assert "chain.previous" in [code for code, _ in codes(entries)]


CHANGES: dict[str, Any] = {
    "time": 99,
    "event": Event.RESUME,
    "actor": "somebody else",
    "d": sha("other"),
    "nonce": bytes(16),
    "x": 9,
    "algorithm": Algorithm.ECDSA_SHA256,
    "mode": Mode.DIGESTS,
    "h": sha("other"),
    "quantities_hash": sha("other"),
    "digests": (sha("other"),),
    "signatures": (b"other",),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_changed_field_is_found_at_the_next_entry(name: str) -> None:
    entries = good()
    entries[2] = replace(entries[2], **{name: CHANGES[name]})
    assert codes(entries) == [("chain.previous", 4)]


def test_the_other_fields_are_found_as_well() -> None:
    others = {field.name for field in fields(make_entry())} - set(CHANGES)
    assert others == {"sequence", "credential_id", "outcome", "record_version", "previous"}
    changes: list[tuple[str, Any, str]] = [
        ("sequence", 9, "chain.gap"),
        ("credential_id", BOB, "chain.foreign"),
        ("outcome", OK, "chain.version"),
        ("record_version", 7, "chain.version"),
        ("previous", sha("other"), "chain.previous"),
    ]
    for name, value, wanted in changes:
        entries = good()
        entries[2] = replace(entries[2], **{name: value})
        assert (wanted, entries[2].sequence) in codes(entries)


def test_a_first_entry_that_names_one_before_it() -> None:
    entries = chain(ALICE, (OK, 1))
    assert codes([replace(entries[0], previous=sha("other"))]) == [("chain.previous", 1)]


@pytest.mark.parametrize(
    "steps",
    [
        [(OK, 2)],
        [(OK, 0)],
        [(OK, 1), (OK, 1)],
        [(OK, 1), (OK, 3)],
        [(OK, 1), (NO, 3)],
        [(OK, 1), (OK, 2), (OK, 1)],
    ],
)
def test_versions_that_do_not_follow(steps: list[tuple[str, int]]) -> None:
    assert [code for code, _ in codes(chain(ALICE, *steps))] == ["chain.version"]


def test_a_whole_chain_of_another_credential() -> None:
    assert {code for code, _ in codes(good(BOB), ALICE)} == {"chain.foreign"}

"""Whoever can write the database: rows changed, moved, put back, evidence removed.

What each control finds is asserted together with what it cannot find, and why.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.chain_position import position_of
from hsm_signer.errors import (
    CredentialUnknown,
    EvidenceDamaged,
    EvidenceMissing,
    RecordDamaged,
    RecordOutdated,
    SignerError,
    StoreDamaged,
    TokenMismatch,
)
from hsm_signer.evidence import findings
from hsm_signer.evidence.chain import draft_entry, next_entry
from hsm_signer.server.server import Server
from hsm_signer.server.version_memory import VersionMemory
from hsm_signer.store.rows import entry_row
from hsm_signer.testing import Home
from hsm_signer.types import ACCEPTED, CredentialRecord, Event, EvidenceEntry, SealedEntry, Status
from tests.support.factories import NO_AUTHORISATION
from tests.support.scenes import (
    authorise,
    chain,
    columns,
    credential_row,
    cut_chain,
    entries_of,
    flip,
    message,
    put_chain,
    put_row,
    refused,
    rewrite,
    row_and_count,
    sql,
    still_signs,
    verifies,
)

BESIDE_THE_RECORD = ("request", "created", "counted_refusals")
"""Columns that are not the record's: the first is under ``request_hash``, the others under nothing."""


# --- every field of the record -----------------------------------------------------------------------------


def _changed(value: Any) -> Iterator[Any]:
    """Values that differ from ``value`` by one bit, by being absent, or by their type."""
    if value is None:
        yield from (0, 1, b"", bytes(32), bytes(40), "text")
        return
    if isinstance(value, int):
        yield from (value ^ 1 << bit for bit in (0, 1, 2, 4, 7, 8, 16, 31, 40, 62))
        yield from (-1, 2**63 - 1, "text", bytes(8), 1.5)
    elif isinstance(value, str):
        encoded = value.encode()
        for position in {0, len(encoded) // 2, len(encoded) - 1}:
            yield flip(encoded, position).decode()
        yield from (value + " ", "", value[:-1], 7, encoded, "\udcff".encode("utf-8", "surrogatepass"))
    else:
        for position in {0, 1, len(value) // 2, len(value) - 2, len(value) - 1}:
            for bit in (0, 7):
                yield flip(value, position, bit)
        yield from (value[:-1], value + b"\0", b"", bytes(len(value)), "text", 7)
    yield None


@dataclass(frozen=True)
class Attempt:
    """One column, one value that is not what was written."""

    column: str
    value: Any


def _attempts(home: Home, row: tuple[Any, ...]) -> Iterator[Attempt]:
    for column, value in zip(columns(home, "credential"), row, strict=True):
        if column not in BESIDE_THE_RECORD:
            yield from (Attempt(column, each) for each in _changed(value))


@pytest.mark.parametrize("name", ["alice", "peter", "basil"])
def test_a_changed_field_of_the_record_never_gives_a_signature(home: Home, server: Server, name: str) -> None:
    """Each column in turn, each in a dozen ways. Between them the three people have every field set."""
    person = home[name]
    credential_id = person.record(server).credential_id
    content = message(b"of a changed record")
    request = authorise(server, person, content)
    row = credential_row(home, credential_id)
    assert row is not None
    steps: list[int] = []
    watched = dataclasses.replace(server, observe=steps.append)
    seen: dict[str, set[str]] = {}
    names = columns(home, "credential")

    for attempt in _attempts(home, row):
        try:
            sql(
                home,
                f"UPDATE credential SET {attempt.column} = ? WHERE credential_id = ?",
                attempt.value,
                credential_id,
            )
        except Exception:  # the database itself refuses, e.g. NOT NULL
            assert attempt.value is None
            seen.setdefault(attempt.column, set()).add("not null")
            continue
        signatures = _signatures(home)
        # Nothing but an error of ours: a crash would be another exception and end the test.
        with pytest.raises(SignerError) as refusal:
            watched.sign(request)
        with pytest.raises(SignerError):
            server.challenge(credential_id)
        assert type(refusal.value) in (RecordDamaged, RecordOutdated, EvidenceMissing, CredentialUnknown), (
            attempt,
            refusal.value,
        )
        assert _signatures(home) == signatures
        seen.setdefault(attempt.column, set()).add(refusal.value.code)
        where = "credential_id" if attempt.column != "credential_id" else "owner"
        index = names.index(attempt.column)
        sql(
            home,
            f"UPDATE credential SET {attempt.column} = ? WHERE {where} = ?",
            row[index],
            row[names.index(where)],
        )

    assert steps == [], "no attempt got past step 1"
    assert seen.pop("credential_id") <= {"credential.unknown", "not null"}
    assert all("record.damaged" in codes for codes in seen.values()), seen
    assert all(codes <= {"record.damaged", "not null"} for codes in seen.values()), seen
    assert set(seen) | {"credential_id"} | set(BESIDE_THE_RECORD) == set(columns(home, "credential"))
    # Every refusal is in evidence, if not by an entry of its own: the number of the others is not in the row.
    assert row_and_count(home, credential_id)[0] == row
    verifies(server.sign(request), content)
    still_signs(server, person)


def _signatures(home: Home) -> int:
    return int(sql(home, "SELECT count(*) FROM evidence WHERE outcome = 'accepted'")[0][0])


def test_every_field_is_set_for_somebody(home: Home, server: Server) -> None:
    """Or the loop above would have flipped no bit of it."""
    records = [home[name].record(server) for name in ("alice", "peter", "basil")]
    # Nobody's enrolment is proven here.
    for name in {*CredentialRecord.__struct_fields__} - {"enrolment_proof"}:
        assert any(getattr(record, name) is not None for record in records), name


def test_refusal_of_a_damaged_record_is_noted_without_its_version(home: Home, server: Server) -> None:
    """Version 0: what a record says that nobody vouches for does not go into the chain."""
    alice = home["alice"]
    record = alice.record(server)
    request = authorise(server, alice)
    row = credential_row(home, record.credential_id)
    assert row is not None
    sql(home, "UPDATE credential SET failures = 1, version = 77 WHERE owner = 'alice'")

    with refused(home, server, record.credential_id, RecordDamaged):
        server.sign(request)

    last = chain(server, record.credential_id)[-1]
    assert (last.record_version, last.d, last.digests) == (0, None, ())
    put_row(home, row)
    still_signs(server, alice)


def test_failures_set_back_by_hand(home: Home, server: Server) -> None:
    """The count of wrong PINs is under the MAC like everything else."""
    sql(home, "UPDATE credential SET failures = 4294967295 WHERE owner = 'alice'")
    with pytest.raises(RecordDamaged):
        home["alice"].sign(server)


def test_revoked_record_made_active_by_hand(home: Home, server: Server) -> None:
    alice = home["alice"]
    record = alice.record(server)
    row = credential_row(home, record.credential_id)
    assert row is not None
    request = authorise(server, alice)
    server.change_status(record.credential_id, Event.REVOKE)

    put_row(home, row)
    with refused(home, server, record.credential_id, RecordOutdated):
        server.sign(request)
    sql(home, "UPDATE credential SET version = version + 1 WHERE credential_id = ?", record.credential_id)
    with refused(home, server, record.credential_id, RecordDamaged):
        server.sign(request)


def test_certificate_request_changed_by_hand(home: Home, server: Server) -> None:
    """``request`` is under ``request_hash``, and ``created`` decides nothing but when to give up."""
    alice = home["alice"]
    record = alice.record(server)
    (stored,) = sql(home, "SELECT request FROM credential WHERE owner = 'alice'")[0]
    sql(home, "UPDATE credential SET request = ? WHERE owner = 'alice'", flip(stored, 20))
    with pytest.raises(RecordDamaged, match="certificate request"):
        server.request_info(record.credential_id)
    sql(home, "UPDATE credential SET request = ?, created = 1 WHERE owner = 'alice'", stored)
    assert server.request_info(record.credential_id).request_info == stored
    still_signs(server, alice)


# --- rows moved --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_id", [True, False])
def test_row_of_one_user_copied_over_that_of_another(home: Home, server: Server, keep_id: bool) -> None:
    alice, bob = home["alice"], home["bob"]
    hers, his = alice.record(server), bob.record(server)
    request = authorise(server, bob)
    mine, theirs = (credential_row(home, each.credential_id) for each in (hers, his))
    assert mine is not None
    assert theirs is not None
    names = columns(home, "credential")
    kept = {"owner"} | ({"credential_id"} if keep_id else set())
    copied = tuple(theirs[i] if name in kept else mine[i] for i, name in enumerate(names))

    sql(home, "DELETE FROM credential WHERE credential_id IN (?, ?)", hers.credential_id, his.credential_id)
    sql(home, f"INSERT INTO credential VALUES ({', '.join('?' * len(names))})", *copied)
    entries = list(server.entries())
    with pytest.raises(RecordDamaged if keep_id else CredentialUnknown):
        server.sign(request)
    with pytest.raises(SignerError):
        alice.sign(server)
    assert len(list(server.entries())) - len(entries) == (1 if keep_id else 0)

    sql(home, "DELETE FROM credential WHERE owner = 'bob'")
    for row in (mine, theirs):
        sql(home, f"INSERT INTO credential VALUES ({', '.join('?' * len(names))})", *row)
    still_signs(server, alice)
    still_signs(server, bob)


def test_wrapped_key_of_one_user_put_into_the_record_of_another(home: Home, server: Server) -> None:
    alice, bob = home["alice"], home["bob"]
    for column in ("wrapped_sk", "wrapped_kcar", "spki", "mac", "rn"):
        row = credential_row(home, alice.record(server).credential_id)
        assert row is not None
        sql(
            home,
            f"UPDATE credential SET {column} = (SELECT {column} FROM credential WHERE owner = 'bob') "
            "WHERE owner = 'alice'",
        )
        with pytest.raises(RecordDamaged):
            alice.sign(server)
        put_row(home, row)
    still_signs(server, alice)
    still_signs(server, bob)


def test_record_of_another_installation(home: Home, template_home: Home, server: Server) -> None:
    """Copies of one home share their keys; a home of its own has a record key of its own."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    request = authorise(server, alice)
    sql(home, "UPDATE credential SET mac_key_id = ? WHERE owner = 'alice'", bytes(8))
    with refused(home, server, credential_id, RecordDamaged) as seen:
        server.sign(request)
    assert seen.error is not None
    assert "sealed by" in seen.error.message


def test_record_for_another_master_key(home: Home, server: Server) -> None:
    """Sealed by us, but KCAR is wrapped under an MK that is gone: no damage, another master key."""
    alice = home["alice"]
    request = authorise(server, alice)
    record = alice.record(server)
    with pytest.raises(TokenMismatch):
        rewrite(server, record, lambda it: replace(it, mk_id=bytes(8)))
    with refused(home, server, record.credential_id, TokenMismatch):
        server.sign(request)
    assert server.audit().good


# --- old rows put back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "paula"])
def test_old_row_put_back(home: Home, server: Server, name: str) -> None:
    """Detected by signing and by audit: the evidence knows a newer version."""
    person = home[name]
    credential_id = person.record(server).credential_id
    old = credential_row(home, credential_id)
    assert old is not None
    kept = authorise(server, person, b"kept for later")
    person.sign(server, b"another")
    new = credential_row(home, credential_id)
    assert new is not None

    put_row(home, old)
    with refused(home, server, credential_id, RecordOutdated):
        server.sign(kept)
    with pytest.raises(RecordOutdated):
        server.challenge(credential_id)
    assert {each.code for each in server.audit().findings} == {findings.RECORD_OUTDATED}

    put_row(home, new)
    still_signs(server, person)


@pytest.mark.parametrize("name", ["alice", "paula"])
def test_old_row_and_old_chain_put_back_together(home: Home, server: Server, name: str) -> None:
    """Not detected by audit alone, nor by the signing of a process that has not seen what came after: this is
    exactly what the database was once, every MAC and every hash of it genuine. An anchor kept outside knows
    that there was more, and so does the process that made it."""
    person = home[name]
    credential_id = person.record(server).credential_id
    old, length = credential_row(home, credential_id), len(chain(server, credential_id))
    assert old is not None
    person.sign(server, b"a signature that somebody wants undone")
    anchor = server.anchor()
    assert server.check_anchor(anchor) == ()

    with person.card() as card:
        seen = card.status()
    new, entries = credential_row(home, credential_id), entries_of(home, credential_id)
    assert new is not None

    put_row(home, old)
    cut_chain(home, credential_id, length)

    # Between two signatures of one process, a worker's for one.
    kept = authorise(dataclasses.replace(server, versions=VersionMemory()), person)
    for _ in range(2):
        with refused(home, server, credential_id, RecordOutdated):
            server.sign(kept)
        with pytest.raises(RecordOutdated, match="older than what this process has seen"):
            server.challenge(credential_id)
    # The newest state is the newest still.
    put_row(home, new)
    put_chain(home, credential_id, entries)
    assert server.challenge(credential_id).credential_id == seen.credential_id

    put_row(home, old)
    cut_chain(home, credential_id, length)
    server = dataclasses.replace(server, versions=VersionMemory())
    assert server.audit().good
    assert {each.code for each in server.check_anchor(anchor)} == {
        findings.ANCHOR_ENTRIES,
        findings.ANCHOR_ROOT,
    }
    still_signs(server, person)
    # Growing past the old length does not heal it: entries are numbered once.
    assert {each.code for each in server.check_anchor(anchor)} == {
        findings.ANCHOR_ENTRIES,
        findings.ANCHOR_ROOT,
    }


def test_another_history_of_the_same_length(home: Home, server: Server) -> None:
    """What two processes make of one state that was put back in between: one sees that it is not its own."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    old, length = credential_row(home, credential_id), len(chain(server, credential_id))
    assert old is not None
    alice.sign(server, b"here")
    put_row(home, old)
    cut_chain(home, credential_id, length)
    elsewhere = dataclasses.replace(server, versions=VersionMemory())
    alice.sign(elsewhere, b"there")
    assert server.store.load(credential_id).sealed.record.version == alice.record(elsewhere).version
    with pytest.raises(RecordOutdated):
        server.challenge(credential_id)
    still_signs(elsewhere, alice)


def test_whole_credential_removed(home: Home, server: Server) -> None:
    """The record alone: audit finds it. With its chain: only the anchor."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    anchor = server.anchor()
    sql(home, "DELETE FROM credential WHERE credential_id = ?", credential_id)
    assert {each.code for each in server.audit().findings} == {findings.RECORD_MISSING}
    sql(home, "DELETE FROM evidence WHERE credential_id = ?", credential_id)
    assert server.audit().good
    assert findings.ANCHOR_CREDENTIALS in {each.code for each in server.check_anchor(anchor)}
    with pytest.raises(CredentialUnknown):
        alice.sign(server)


# --- evidence removed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_entries_removed_at_the_end(home: Home, server: Server, name: str, keep: int) -> None:
    """The record is newer than what is left of its evidence. Nothing is added to a chain that was cut: what
    was removed can still be put back from a backup."""
    person = home[name]
    credential_id = person.record(server).credential_id
    for text in (b"one", b"two"):
        person.sign(server, text)
    request = authorise(server, person)
    assert len(chain(server, credential_id)) == 4
    saved = sql(home, "SELECT * FROM evidence WHERE credential_id = ? ORDER BY sequence", credential_id)

    cut_chain(home, credential_id, keep)
    with refused(home, server, credential_id, EvidenceMissing, noted=False):
        server.sign(request)
    with pytest.raises(EvidenceMissing):
        person.sign(server)
    expected = findings.RECORD_AHEAD if keep else findings.RECORD_WITHOUT_EVIDENCE
    assert {each.code for each in server.audit().findings} == {expected}

    for entry in saved[keep:]:
        sql(home, f"INSERT INTO evidence VALUES ({', '.join('?' * len(entry))})", *entry)
    still_signs(server, person)


def test_refusals_removed_at_the_end_are_found_by_the_anchor_alone(home: Home, server: Server) -> None:
    """An attempt that was refused raises no version, so no record vouches for its entry."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    length = len(chain(server, credential_id))
    request = authorise(server, alice)
    with pytest.raises(SignerError):
        server.sign(dataclasses.replace(request, content=message(b"forged")))
    anchor = server.anchor()

    cut_chain(home, credential_id, length)
    assert server.audit().good
    assert findings.ANCHOR_ROOT in {each.code for each in server.check_anchor(anchor)}
    still_signs(server, alice)


def test_entry_in_the_middle_removed_or_changed(home: Home, server: Server) -> None:
    """Audit finds it; signing goes on, because the end of the chain is what it was."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    for text in (b"one", b"two", b"three"):
        alice.sign(server, text)
    saved = sql(home, "SELECT * FROM evidence WHERE credential_id = ? AND sequence = 3", credential_id)[0]

    sql(home, "DELETE FROM evidence WHERE credential_id = ? AND sequence = 3", credential_id)
    assert findings.CHAIN_GAP in {each.code for each in server.audit().findings}
    sql(home, f"INSERT INTO evidence VALUES ({', '.join('?' * len(saved))})", *saved)
    sql(home, "UPDATE evidence SET actor = 'mallory' WHERE credential_id = ? AND sequence = 3", credential_id)
    assert {each.code for each in server.audit().findings} == {
        findings.CHAIN_PREVIOUS,
        findings.ENTRY_MAC,
    }
    actor = saved[columns(home, "evidence").index("actor")]
    sql(home, "UPDATE evidence SET actor = ? WHERE credential_id = ? AND sequence = 3", actor, credential_id)
    still_signs(server, alice)


def test_stored_signature_changed_is_not_given_out_again(home: Home, server: Server) -> None:
    """A lost answer comes from the evidence; it is released only once it verifies."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    request = authorise(server, alice)
    outcome = server.sign(request)
    (stored,) = sql(
        home, "SELECT signatures FROM evidence WHERE credential_id = ? AND sequence = 3", credential_id
    )[0]
    update = "UPDATE evidence SET signatures = ? WHERE credential_id = ? AND sequence = 3"

    for position in (8, len(stored) // 2, len(stored) - 1):
        sql(home, update, flip(stored, position), credential_id)
        with refused(home, server, credential_id, EvidenceDamaged, noted=False):
            server.sign(request)
        assert findings.SIGNATURE_INVALID in {each.code for each in server.audit().findings}
    for broken in (b"", bytes(4), stored[:-1], stored + b"\0", b"\xff" * 8):
        sql(home, update, broken, credential_id)
        with pytest.raises((StoreDamaged, EvidenceDamaged)):
            server.sign(request)
    sql(home, update, stored, credential_id)
    assert server.sign(request).signatures == outcome.signatures


def test_evidence_of_another_user_is_no_stored_answer(home: Home, server: Server) -> None:
    """D is bound to the credential: an entry moved over is not found under another's D."""
    alice, paula = home["alice"], home["paula"]
    theirs = authorise(server, paula)
    server.sign(theirs)
    hers = alice.record(server).credential_id
    with pytest.raises(SignerError):
        server.sign(
            dataclasses.replace(theirs, authorisation=replace(theirs.authorisation, credential_id=hers))
        )
    still_signs(server, alice)


def test_status_of_the_row_is_not_believed(home: Home, server: Server) -> None:
    """A suspended user's row set to active by hand."""
    person = home["alice"]
    credential_id = person.record(server).credential_id
    server.change_status(credential_id, Event.SUSPEND)
    sql(home, "UPDATE credential SET status = ? WHERE owner = 'alice'", Status.ACTIVE.number)
    with pytest.raises(RecordDamaged):
        person.sign(server)


# --- evidence made anew ------------------------------------------------------------------------------------


def _write_entry(home: Home, entry: EvidenceEntry) -> None:
    """Put it over the entry of the same sequence, or at the end, with everything the columns need.

    The MAC stays what it was: nobody outside the token can make one.
    """
    own = "credential_id = ? AND sequence = ?"
    macs = sql(home, f"SELECT mac FROM evidence WHERE {own}", entry.credential_id, entry.sequence)
    row = entry_row(SealedEntry(entry, macs[0][0] if macs else bytes(32)))
    sql(home, f"DELETE FROM evidence WHERE {own}", entry.credential_id, entry.sequence)
    names = ", ".join(row)
    sql(home, f"INSERT INTO evidence ({names}) VALUES ({', '.join('?' * len(row))})", *row.values())


def _forge(home: Home, entries: list[EvidenceEntry], index: int, **changes: Any) -> list[EvidenceEntry]:
    """One entry changed and the chain hashed anew from there on, as whoever writes the database can."""
    forged = list(entries)
    forged[index] = replace(entries[index], **changes)
    for i in range(index, len(forged)):
        if i > index:
            forged[i] = replace(forged[i], previous=entry_hash(forged[i - 1]))
        _write_entry(home, forged[i])
    return forged


UNLOCKED_BY_ROOT: dict[str, Any] = {"event": Event.UNLOCK, "actor": "root", **NO_AUTHORISATION}


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
@pytest.mark.parametrize("place", [-1, -2, -3])
def test_signature_turned_into_something_else_with_a_good_chain(
    home: Home, server: Server, name: str, place: int
) -> None:
    """An accepted signature rewritten as an operator's act, every hash computed anew: the record names the
    entry that was written with it, and is under a MAC, so the next signature is refused."""
    person = home[name]
    for text in (b"one", b"two", b"three"):
        person.sign(server, text)
    credential_id = person.record(server).credential_id
    entries = chain(server, credential_id)
    head = server.anchor()
    index = place % len(entries)
    assert (entries[index].event, entries[index].outcome) == (Event.SIGN, ACCEPTED)
    forged = _forge(home, entries, index, **UNLOCKED_BY_ROOT)
    assert chain(server, credential_id) == forged
    assert all(after.previous == entry_hash(before) for before, after in itertools.pairwise(forged))

    for attempt in (lambda: person.sign(server), lambda: server.challenge(credential_id)):
        with refused(home, server, credential_id, EvidenceDamaged, noted=False):
            attempt()
    with refused(home, server, credential_id, EvidenceDamaged, noted=False):
        server.change_status(credential_id, Event.SUSPEND)
    assert not server.audit().good
    assert server.check_anchor(head)

    for entry in entries:
        _write_entry(home, entry)
    verifies(person.sign(server), message())


def test_operator_exchanged_in_the_newest_entry(home: Home, server: Server) -> None:
    """Who suspended and resumed is part of it."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    for event in (Event.SUSPEND, Event.RESUME):
        server.change_status(credential_id, event)
    _forge(home, chain(server, credential_id), -1, actor="somebody else")
    with refused(home, server, credential_id, EvidenceDamaged, noted=False):
        alice.sign(server)


@pytest.mark.parametrize("name", ["alice", "paula"])
@pytest.mark.parametrize("revoked", [False, True])
def test_credential_hidden_behind_an_expiry(home: Home, server: Server, name: str, revoked: bool) -> None:
    """The row deleted and the chain ended as that of a pending one that was given up: a credential that has
    signed is never given up, so its record is missing."""
    person = home[name]
    if revoked:
        server.change_status(person.record(server).credential_id, Event.REVOKE)
    record = person.record(server)
    entries = chain(server, record.credential_id)
    draft = draft_entry(record.credential_id, Event.EXPIRE, actor="root", record_version=record.version + 1)
    last = next_entry(position_of(entries[-1]), draft, time=server.clock())
    assert last.sequence == len(entries) + 1
    _write_entry(home, last)
    sql(home, "DELETE FROM credential WHERE credential_id = ?", record.credential_id)
    found = server.audit().findings
    assert [(each.code, each.credential_id) for each in found] == [
        (findings.RECORD_MISSING, record.credential_id),
        (findings.ENTRY_MAC, record.credential_id),
    ]

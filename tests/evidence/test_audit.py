"""The audit over a store that somebody has written to, and the anchor over one that was put back whole."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import force_setattr, replace

from hsm_signer.core.canonical import entry_hash, sequence
from hsm_signer.core.chain_position import START, position_of
from hsm_signer.core.content import digest_list_hash
from hsm_signer.errors import InputError, SignatureInvalid, StoreDamaged
from hsm_signer.evidence.anchor import Anchor, check_anchor, decode_anchor, encode_anchor, make_anchor
from hsm_signer.evidence.audit import AuditReport, audit
from hsm_signer.evidence.chain import Head, draft_entry, next_entry
from hsm_signer.evidence.findings import Finding
from hsm_signer.evidence.merkle import merkle_root
from hsm_signer.store.store import Store
from hsm_signer.types import (
    Algorithm,
    Digest,
    Event,
    EvidenceEntry,
    Mode,
    SealedEntry,
    SealedRecord,
    Sealing,
    Status,
)
from tests.support.factories import (
    FORMAT_1,
    TIME,
    Person,
    chain_row,
    check_mac,
    credential_id,
    end_of,
    entry_holds,
    make_entry,
    new_store,
    seal,
    seal_entry,
    sha,
    verify,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(new_store(path)) as opened:
        yield opened


@pytest.fixture
def alice(store: Store) -> Person:
    return live(store, 1, "alice")


@pytest.fixture
def bob(store: Store) -> Person:
    return live(store, 2, "bob")


def live(store: Store, number: int, owner: str) -> Person:
    """Enrolled, active, three signatures, a refusal and a counted failure."""
    person = Person(number, owner).enrol(store)
    person.activate(store)
    person.sign(store, owner, 1)
    person.refused(store)
    person.sign(store, owner, 2)
    person.failed(store)
    return person


def examine(store: Store) -> AuditReport:
    damaged: list[Finding] = []
    with store.snapshot() as snapshot:
        return audit(
            map(chain_row, snapshot.records(damaged.append)),
            snapshot.chains(damaged.append),
            verify=verify,
            # What the entries say about each other; what their MACs say is tested by itself.
            entry_holds=lambda _: True,
            damaged=damaged,
        )


def codes(store: Store) -> list[tuple[str, str | None, int | None]]:
    return [(finding.code, finding.owner, finding.sequence) for finding in examine(store).findings]


def execute(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute(statement, values).rowcount > 0
    connection.commit()
    connection.close()


def rehash(store: Store, path: Path) -> None:
    """What a clever forger does: make the hash column fit again."""
    for number, entry in store.entries():
        execute(path, "UPDATE evidence SET hash = ? WHERE id = ?", entry_hash(entry), number)


# --- nothing wrong -----------------------------------------------------------------------------------------


def test_a_good_store(store: Store, alice: Person, bob: Person) -> None:
    report = examine(store)
    assert report.good
    assert report == AuditReport(2, 2, 12, signatures=10, unchecked=0, at_sealing_1=0, findings=())


def test_every_status_is_good(store: Store, alice: Person) -> None:
    alice.write(store, Event.SUSPEND, record={"status": Status.SUSPENDED})
    alice.refused(store)
    alice.write(store, Event.RESUME, record={"status": Status.ACTIVE})
    alice.refused(store, version=0)
    alice.write(store, Event.REVOKE, record={"status": Status.REVOKED, "wrapped_sk": None})
    Person(3).enrol(store).expire(store)
    report = examine(store)
    assert report.good
    assert (report.records, report.chains) == (1, 2)


def test_an_empty_store_is_good(store: Store) -> None:
    assert examine(store) == AuditReport(0, 0, 0, 0, 0, 0, ())


def test_records_at_sealing_1_are_counted(store: Store, path: Path) -> None:
    """Not those without a wrapped key, nor those whose MAC does not hold: what they say is nobody's word."""
    for number in (1, 2, 3):
        Person(number, **FORMAT_1).enrol(store)
    Person(4, sealing=Sealing.CARD, wrapped_seal=None).enrol(store)
    Person(5).enrol(store)
    assert examine(store).at_sealing_1 == 4
    revoked = Person(6, **FORMAT_1).enrol(store)
    revoked.write(store, Event.REVOKE, record={"status": Status.REVOKED, "wrapped_sk": None})
    report = examine(store)
    assert (report.at_sealing_1, report.good) == (4, True)
    execute(path, "UPDATE credential SET failures = 9 WHERE owner = 'user1'")
    report = examine(store)
    assert (report.at_sealing_1, report.good) == (3, False)


# --- changed evidence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("clever", [False, True])
def test_a_changed_signature(store: Store, path: Path, alice: Person, bob: Person, clever: bool) -> None:
    entry = dict(store.entries())[3]
    forged = sequence([bob.key.sign(b"x", _ecdsa()), *entry.signatures[1:]])
    execute(path, "UPDATE evidence SET signatures = ? WHERE id = 3", forged)
    if clever:
        rehash(store, path)
    assert codes(store) == [("signature.invalid", "alice", 3), ("chain.previous", "alice", 4)]


def _ecdsa() -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(hashes.SHA256())


def test_a_changed_digest(store: Store, path: Path, alice: Person) -> None:
    execute(path, "UPDATE evidence SET digests = ? WHERE id = 3", sequence([sha("forged"), sha(1)]))
    assert codes(store) == [
        ("entry.h", "alice", 3),
        ("signature.invalid", "alice", 3),
        ("chain.previous", "alice", 4),
    ]


def test_a_changed_message_digest(store: Store, path: Path, alice: Person) -> None:
    execute(path, "UPDATE evidence SET h = ? WHERE id = 2", sha("forged"))
    assert codes(store) == [("entry.h", "alice", 2), ("chain.previous", "alice", 3)]


def test_a_signature_too_few(store: Store, path: Path, alice: Person) -> None:
    entry = dict(store.entries())[3]
    execute(path, "UPDATE evidence SET signatures = ? WHERE id = 3", sequence(entry.signatures[:1]))
    assert ("signature.count", "alice", 3) in codes(store)


@pytest.mark.parametrize("column", ["algorithm", "mode", "h", "d", "quantities_hash"])
def test_an_accepted_signature_without(store: Store, path: Path, alice: Person, column: str) -> None:
    execute(path, f"UPDATE evidence SET {column} = NULL WHERE id = 3")
    assert codes(store) == [("entry.incomplete", "alice", 3), ("chain.previous", "alice", 4)]


def test_a_removed_middle_entry(store: Store, path: Path, alice: Person, bob: Person) -> None:
    execute(path, "DELETE FROM evidence WHERE credential_id = ? AND sequence = 4", alice.id)
    assert codes(store) == [("chain.gap", "alice", 5)]


def test_a_removed_first_entry(store: Store, path: Path, alice: Person) -> None:
    execute(path, "DELETE FROM evidence WHERE credential_id = ? AND sequence = 1", alice.id)
    assert codes(store) == [("chain.gap", "alice", 2)]


def test_a_removed_last_entry(store: Store, path: Path, alice: Person, bob: Person) -> None:
    execute(path, "DELETE FROM evidence WHERE credential_id = ? AND sequence = 6", bob.id)
    assert codes(store) == [("record.ahead", "bob", None)]
    assert store.load(bob.id).newest_version < store.load(bob.id).sealed.record.version


def test_a_removed_chain(store: Store, path: Path, alice: Person, bob: Person) -> None:
    execute(path, "DELETE FROM evidence WHERE credential_id = ?", bob.id)
    assert codes(store) == [("record.without-evidence", "bob", None)]
    assert store.load(bob.id).newest_version == 0


def test_a_last_entry_forged_in_the_same_version(store: Store, path: Path, alice: Person) -> None:
    execute(path, "UPDATE evidence SET actor = 'somebody else' WHERE sequence = 6")
    rehash(store, path)
    assert codes(store) == [("record.head", "alice", None)]


def test_entries_swapped_between_credentials(store: Store, path: Path, alice: Person, bob: Person) -> None:
    rows = ((bob.id, 3), (alice.id, 9))
    execute(path, "UPDATE evidence SET credential_id = zeroblob(16) WHERE id = 3")
    for other, number in reversed(rows):
        execute(path, "UPDATE evidence SET credential_id = ? WHERE id = ?", other, number)
    found = codes(store)
    for name in ("alice", "bob"):
        assert {code for code, owner, _ in found if owner == name} == {"chain.previous", "signature.invalid"}


def test_an_added_entry(store: Store, path: Path, alice: Person) -> None:
    position = end_of(store, alice.id)
    draft = draft_entry(alice.id, Event.SIGN, actor="forger", record_version=alice.record.version + 1)
    forged = next_entry(position, draft, time=TIME, **alice.signature_fields("never authorised"))
    from hsm_signer.store.rows import entry_row

    row = entry_row(SealedEntry(forged, bytes(32)))
    execute(
        path,
        f"INSERT INTO evidence ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
        *row.values(),
    )
    assert codes(store) == [("record.outdated", "alice", None)]


def test_a_row_that_is_no_entry(store: Store, path: Path, alice: Person, bob: Person) -> None:
    execute(path, "UPDATE evidence SET nonce = 'text' WHERE id = 3")
    assert codes(store) == [("entry.damaged", None, 3), ("chain.gap", "alice", 4)]


# --- changed records ---------------------------------------------------------------------------------------


def test_a_changed_record(store: Store, path: Path, alice: Person, bob: Person) -> None:
    execute(path, "UPDATE credential SET failures = 0 WHERE owner = 'bob'")
    report = examine(store)
    assert [(finding.code, finding.owner) for finding in report.findings] == [("record.mac", "bob")]
    # Without a record to believe there is no PK to check bob's five signatures with.
    assert (report.signatures, report.unchecked) == (5, 5)


def test_an_old_row_put_back(store: Store, path: Path, alice: Person) -> None:
    connection = sqlite3.connect(path)
    names = [row[1] for row in connection.execute("PRAGMA table_info(credential)")]
    old = connection.execute("SELECT * FROM credential").fetchone()
    connection.close()
    alice.sign(store, "later")
    execute(path, f"UPDATE credential SET {', '.join(f'{name} = ?' for name in names)}", *old)
    loaded = store.load(alice.id)
    # Its MAC holds: it was a good record once.
    assert check_mac(loaded.sealed)
    assert loaded.newest_version > loaded.sealed.record.version
    assert codes(store) == [("record.outdated", "alice", None)]


def test_a_row_of_one_user_over_anothers(store: Store, path: Path, alice: Person, bob: Person) -> None:
    connection = sqlite3.connect(path)
    names = [row[1] for row in connection.execute("PRAGMA table_info(credential)")]
    own = ("credential_id", "owner")
    others = [name for name in names if name not in own]
    row = connection.execute(f"SELECT {', '.join(others)} FROM credential WHERE owner = 'bob'").fetchone()
    connection.close()
    setting = ", ".join(f"{name} = ?" for name in others)
    execute(path, f"UPDATE credential SET {setting} WHERE owner = 'alice'", *row)
    assert codes(store) == [("record.mac", "alice", None)]


def test_a_deleted_record(store: Store, path: Path, alice: Person, bob: Person) -> None:
    execute(path, "DELETE FROM credential WHERE owner = 'alice'")
    report = examine(store)
    assert [(f.code, f.credential_id) for f in report.findings] == [("record.missing", alice.id)]


def test_an_expired_record_put_back(store: Store, path: Path) -> None:
    carol = Person(3, "carol").enrol(store)
    connection = sqlite3.connect(path)
    row = connection.execute("SELECT * FROM credential").fetchone()
    connection.close()
    carol.expire(store)
    execute(path, f"INSERT INTO credential VALUES ({', '.join('?' * len(row))})", *row)
    assert codes(store) == [("record.outdated", "carol", None)]


def test_a_row_that_is_no_record(store: Store, path: Path, alice: Person, bob: Person) -> None:
    execute(path, "UPDATE credential SET x = 'text' WHERE owner = 'alice'")
    assert codes(store) == [("record.damaged", "alice", None)]


def test_every_credential_is_examined_whatever_is_wrong_with_others(store: Store, path: Path) -> None:
    for number in range(1, 7):
        live(store, number, f"user{number}")
    execute(path, "UPDATE credential SET failures = 9 WHERE owner = 'user2'")
    execute(path, "DELETE FROM evidence WHERE credential_id = ? AND sequence = 3", credential_id(4))
    execute(path, "DELETE FROM credential WHERE owner = 'user6'")
    assert [code for code, _, _ in codes(store)] == ["record.mac", "chain.gap", "record.missing"]


# --- the pure function -------------------------------------------------------------------------------------


def one(entry: EvidenceEntry, check: Callable[..., bool] = verify) -> AuditReport:
    """The audit of an entry alone in its chain, with a record that fits it."""
    person = Person(1)
    record = replace(person.record, version=1, evidence_head=entry_hash(entry))
    return audit([chain_row(seal(record))], [seal_entry(entry)], verify=check, entry_holds=entry_holds)


def test_ed25519_is_not_checkable_without_the_message() -> None:
    entry = make_entry(algorithm=Algorithm.ED25519, mode=Mode.MESSAGE, digests=(), signatures=(b"s",))
    report = one(entry)
    assert report.good
    assert (report.signatures, report.unchecked) == (0, 1)


def test_a_verifier_that_raises_our_error_says_no() -> None:
    def raising(*_: object) -> bool:
        raise SignatureInvalid("no")

    entry = make_entry(h=digest_list_hash((sha(1), sha(2))))
    report = one(entry, raising)
    assert [finding.code for finding in report.findings] == ["signature.invalid"] * 2


def test_refused_entries_need_no_signature() -> None:
    entry = make_entry(outcome="authorisation.wrong-key", signatures=(), digests=(sha(1),))
    assert one(entry).good


def test_h_of_a_digest_list_by_hand() -> None:
    import hashlib

    digests = (bytes(48), b"\1" * 48)
    wanted = hashlib.sha256(b"hsm-signer/1/digests" + b"\0\2" + b"\x30" + digests[0] + digests[1]).digest()
    assert digest_list_hash(digests) == wanted
    for bad in ((), (bytes(32), bytes(48)), (b"",) * 65536):
        with pytest.raises(InputError):
            digest_list_hash(bad)


def test_rows_in_the_wrong_order_are_a_damaged_index() -> None:
    rows = [chain_row(seal(Person(number).record)) for number in (2, 1)]
    with pytest.raises(StoreDamaged):
        audit(rows, [], verify=verify, entry_holds=entry_holds)
    entries = [seal_entry(make_entry(credential_id=credential_id(number))) for number in (1, 2, 1)]
    with pytest.raises(StoreDamaged):
        audit([], entries, verify=verify, entry_holds=entry_holds)


def test_an_audit_holds_one_entry_at_a_time() -> None:
    alive = 0

    class Watched:
        def __init__(self) -> None:
            nonlocal alive
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    most = 0

    def entries() -> Iterator[SealedEntry]:
        nonlocal most
        position = START
        for number in range(1, 200):
            draft = draft_entry(credential_id(1), Event.SUSPEND, actor="tests", record_version=number)
            entry = next_entry(position, draft, time=number)
            position = position_of(entry)
            force_setattr(entry, "digests", _Tracked(Watched()))
            most = max(most, alive)
            yield SealedEntry(entry, None)

    audit([], entries(), verify=verify, entry_holds=lambda _: True)
    assert most <= 4


class _Tracked(tuple[bytes, ...]):
    """An empty tuple that holds something alive as long as itself."""

    watched: object

    def __new__(cls, watched: object) -> _Tracked:
        made = super().__new__(cls)
        made.watched = watched
        return made


# --- the anchor --------------------------------------------------------------------------------------------


def anchor_of(store: Store) -> Anchor:
    last = store.last_entry()
    return make_anchor(time=TIME, last_entry=last, heads=store.heads(last))


def anchor_codes(store: Store, anchor: Anchor) -> list[str]:
    return [finding.code for finding in check_anchor(anchor, store.heads(anchor.last_entry))]


def test_an_anchor_by_hand(store: Store, alice: Person, bob: Person) -> None:
    anchor = anchor_of(store)
    leaves = []
    for person in (alice, bob):
        last = list(store.entries(person.id))[-1][1]
        leaves.append(person.id + (6).to_bytes(8, "big") + entry_hash(last))
    assert anchor == Anchor(
        format=2, time=TIME, last_entry=12, credentials=2, entries=12, root=merkle_root(leaves), signed=None
    )


def test_an_anchor_holds_after_the_chains_have_grown(store: Store, alice: Person, bob: Person) -> None:
    anchor = anchor_of(store)
    for round_ in range(3):
        alice.sign(store, "later", round_)
        bob.refused(store)
    live(store, 3, "carol")
    Person(4).enrol(store).expire(store)
    assert anchor_codes(store, anchor) == []
    assert anchor_of(store) != anchor


def test_an_anchor_of_nothing(store: Store) -> None:
    anchor = anchor_of(store)
    live(store, 1, "alice")
    assert anchor_codes(store, anchor) == []
    assert (anchor.last_entry, anchor.credentials, anchor.entries) == (0, 0, 0)


def test_only_an_anchor_finds_everything_put_back(store: Store, path: Path, alice: Person) -> None:
    store.close()
    old = path.with_name("old.db")
    shutil.copy(path, old)
    alice.sign(store, "later")
    anchor = anchor_of(store)
    store.close()
    shutil.copy(old, path)
    assert examine(store).good
    assert anchor_codes(store, anchor) == ["anchor.entries", "anchor.root"]
    # Signing on does not hide it.
    alice.record = store.load(alice.id).sealed.record
    alice.sign(store, "instead")
    assert examine(store).good
    assert anchor_codes(store, anchor) == ["anchor.root"]


def test_an_anchor_finds_a_credential_that_was_removed_whole(
    store: Store, path: Path, alice: Person, bob: Person
) -> None:
    anchor = anchor_of(store)
    for table in ("credential", "evidence"):
        execute(path, f"DELETE FROM {table} WHERE credential_id = ?", bob.id)
    assert examine(store).good
    assert anchor_codes(store, anchor) == ["anchor.credentials", "anchor.entries", "anchor.root"]


def test_an_anchor_does_not_believe_the_hash_column(store: Store, path: Path, alice: Person) -> None:
    anchor = anchor_of(store)
    execute(path, "UPDATE evidence SET hash = ? WHERE sequence = 6", sha("forged"))
    assert anchor_codes(store, anchor) == []
    assert anchor_of(store) == anchor


def test_heads_in_the_wrong_order_are_a_damaged_index() -> None:
    heads = [Head(credential_id(number), 1, sha(number)) for number in (1, 1)]
    with pytest.raises(StoreDamaged):
        make_anchor(time=0, last_entry=2, heads=heads)


GOOD = Anchor(
    format=2,
    time=TIME,
    last_entry=12,
    credentials=2,
    entries=12,
    root=Digest(bytes.fromhex("ab" * 32)),
    signed=None,
)


OLDER = {
    "format": 1,
    "time": TIME,
    "last_entry": 12,
    "credentials": 2,
    "entries": 12,
    "root": "ab" * 32,
}
"""As older versions printed the same anchor."""


def test_the_anchors_text() -> None:
    text = encode_anchor(GOOD)
    assert text == (
        '{"format":2,"time":"2023-11-14T22:13:20.000000Z","last_entry":"12","credentials":"2",'
        f'"entries":"12","root":"{"ab" * 32}","signed":null}}'
    )
    assert decode_anchor(text) == GOOD
    assert decode_anchor(json.dumps(OLDER)) == GOOD
    assert decode_anchor(json.dumps(json.loads(text), indent=4) + "\n") == GOOD


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 3},
        {"format": "1"},
        {"format": True},
        {"time": -1},
        {"time": "1700000000000000"},
        {"time": 2**63},
        {"time": True},
        {"entries": -1},
        {"last_entry": None},
        {"last_entry": 1.5},
        {"root": "AB" * 32},
        {"root": "ab" * 31},
        {"root": "ab" * 32 + "\n"},
        {"root": 5},
        {"extra": 1},
    ],
)
@pytest.mark.parametrize("good", [json.loads(encode_anchor(GOOD)), OLDER], ids=["2", "1"])
def test_a_text_that_is_no_anchor(good: dict[str, Any], changes: dict[str, Any]) -> None:
    found = {**good, **changes}
    with pytest.raises(InputError, match="no anchor"):
        decode_anchor(json.dumps(found))


@pytest.mark.parametrize("name", ["format", "time", "last_entry", "credentials", "entries", "root"])
@pytest.mark.parametrize("good", [json.loads(encode_anchor(GOOD)), OLDER], ids=["2", "1"])
def test_an_anchor_with_a_field_missing(good: dict[str, Any], name: str) -> None:
    found = dict(good)
    del found[name]
    with pytest.raises(InputError):
        decode_anchor(json.dumps(found))


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_refused_as_an_anchor(text: str) -> None:
    with pytest.raises(InputError):
        decode_anchor(text)


def test_a_long_text_is_no_anchor() -> None:
    with pytest.raises(InputError):
        decode_anchor(encode_anchor(GOOD) + " " * 5000)


def test_sealed_records_and_digests_are_what_they_say() -> None:
    """The factories themselves: a MAC that holds, and one that does not."""
    sealed = Person(1).sealed
    assert check_mac(sealed)
    assert not check_mac(SealedRecord(replace(sealed.record, owner="mallory"), sealed.mac))
    assert isinstance(sha("a"), bytes)
    assert len(Digest(sha("a"))) == 32

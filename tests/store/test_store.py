"""The store as its callers use it: what is written comes back, and nothing is written by halves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields, replace

from hsm_signer.core.canonical import NO_PREVIOUS, entry_hash
from hsm_signer.core.chain_position import START, ChainPosition, position_of
from hsm_signer.errors import (
    CredentialExists,
    CredentialUnknown,
    EvidenceMissing,
    RecordConflict,
    StatusUnsuitable,
    StoreError,
)
from hsm_signer.evidence.chain import check_chain
from hsm_signer.store.store import Store
from hsm_signer.types import (
    MAX_TIME,
    Algorithm,
    Combine,
    CredentialRecord,
    Event,
    EvidenceEntry,
    PinCheck,
    PinPolicy,
    Scheme,
    SealedRecord,
    Status,
)
from tests.support.factories import (
    NO_AUTHORISATION,
    TIME,
    Person,
    check_mac,
    credential_id,
    end_of,
    make_entry,
    make_record,
    new_store,
    seal,
    seal_entry,
    sha,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store on either database."""
    if request.param == "sqlite":
        return new_store(tmp_path / "store.db")
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


def put(store: Store, record: CredentialRecord, **fields_of_entry: Any) -> SealedRecord:
    """Insert ``record`` with a first entry that has these fields; returns what was written."""
    entry = make_entry(credential_id=record.credential_id, **fields_of_entry)
    written = seal(replace(record, version=1, evidence_head=entry_hash(entry)))
    store.insert(written, seal_entry(entry), request=b"request", created=TIME)
    return written


# --- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"owner": "Ωμέγα 🔑"},
        {
            "scheme": Scheme.BASIC,
            "combine": Combine.NONE,
            "pin_policy": PinPolicy.NONE,
            "pin_check": PinCheck.NONE,
            "wrapped_kcar": None,
            "x": None,
            "rn": None,
            "rn_next": None,
            "parameter": None,
        },
        {"status": Status.REVOKED, "wrapped_sk": None, "wrapped_kcar": None, "request_hash": None},
        {"algorithms": tuple(Algorithm), "assurance": 255, "failures": 2**32 - 1, "x": 2**63 - 1},
        {"wrap_mechanism": 2**32 - 1, "token_serial": "", "spki": bytes(65535)},
    ],
)
def test_every_field_of_a_record_comes_back(store: Store, changes: dict[str, Any]) -> None:
    written = put(store, make_record(**changes))
    loaded = store.load(written.record.credential_id)
    assert loaded.sealed == written
    assert check_mac(loaded.sealed)
    assert loaded.request == b"request"
    assert loaded.newest_version == 1
    assert end_of(store, written.record.credential_id).hash == written.record.evidence_head
    assert store.find(written.record.owner) == [written]
    assert list(store.list_records()) == [written]
    for field in fields(CredentialRecord):
        assert type(getattr(loaded.sealed.record, field.name)) is type(getattr(written.record, field.name))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        NO_AUTHORISATION,
        {"event": Event.ENROL, "outcome": "authorisation.wrong-key", "actor": "", "time": MAX_TIME},
        {"digests": (bytes(32), bytes(48), bytes(64)), "signatures": (b"x", bytes(8192))},
        {"digests": tuple(bytes([i % 256]) * 32 for i in range(65535))},
    ],
)
def test_every_field_of_an_entry_comes_back(store: Store, changes: dict[str, Any]) -> None:
    put(store, make_record(), **changes)
    ((number, entry),) = store.entries()
    assert number == 1
    assert entry == make_entry(**changes)
    for field in fields(EvidenceEntry):
        assert type(getattr(entry, field.name)) is type(getattr(make_entry(**changes), field.name))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"x": 2**63}, "x"),
        ({"x": 2**64 - 1}, "x"),
        ({"owner": ""}, "owner"),
        ({"owner": "a\0b"}, "owner"),
        ({"owner": "u" * 256}, "owner"),
        ({"mac_key_id": b"short"}, "mac_key_id"),
        ({"algorithms": (Algorithm.ECDSA_SHA384, Algorithm.ECDSA_SHA256)}, "algorithms"),
        ({"algorithms": ()}, "algorithms"),
        ({"wrapped_kcar": bytes(39)}, "wrapped_kcar"),
        ({"rn": bytes(33)}, "rn"),
        ({"format": 3}, "format"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    store: Store, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(StoreError, match=f"field {field} is not"):
        put(store, make_record(**changes))
    assert list(store.list_records()) == []
    assert list(store.entries()) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"time": MAX_TIME + 1}, "time"),
        ({"actor": "a\0"}, "actor"),
        ({"digests": (bytes(31),)}, "digests"),
        ({"signatures": (b"",)}, "signatures"),
        ({"nonce": bytes(15)}, "nonce"),
    ],
)
def test_an_entry_that_could_not_be_read_again_is_not_written(
    store: Store, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(StoreError, match=f"field {field} is not"):
        put(store, make_record(), **changes)
    assert list(store.list_records()) == []


def test_a_lone_surrogate_is_no_name(store: Store) -> None:
    assert store.find("\ud800") == []
    assert store.find("a\0b") == []


# --- the chain ---------------------------------------------------------------------------------------------


def test_a_life_is_one_good_chain(store: Store) -> None:
    alice = Person(1).enrol(store)
    alice.activate(store)
    alice.refused(store)
    alice.sign(store, "a", "b")
    alice.refused(store, version=0)
    alice.failed(store)
    alice.write(store, Event.SUSPEND, record={"status": Status.SUSPENDED})
    bob = Person(2).enrol(store)
    alice.write(store, Event.RESUME, record={"status": Status.ACTIVE})
    chain = [entry for _, entry in store.entries(alice.id)]
    assert [entry.sequence for entry in chain] == list(range(1, 9))
    assert [entry.record_version for entry in chain] == [1, 2, 2, 3, 0, 4, 5, 6]
    assert list(check_chain(alice.id, chain)) == []
    loaded = store.load(alice.id)
    assert loaded.newest_version == loaded.sealed.record.version == 6
    with pytest.raises(ValueError, match="nothing was written"), store.appending(alice.id) as end:
        assert end.position == position_of(chain[-1], seal_entry(chain[-1]).mac)
    assert loaded.sealed.record.evidence_head == entry_hash(chain[-1])
    assert [number for number, _ in store.entries()] == list(range(1, 10))
    assert [head.credential_id for head in store.heads()] == [alice.id, bob.id]
    assert store.last_entry() == 9


def test_entries_can_be_limited_to_the_newest(store: Store) -> None:
    alice, bob = Person(1).enrol(store), Person(2).enrol(store)
    for _ in range(3):
        alice.refused(store)
        bob.refused(store)
    assert [number for number, _ in store.entries(limit=3)] == [6, 7, 8]
    assert [entry.sequence for _, entry in store.entries(bob.id, limit=2)] == [3, 4]
    assert list(store.entries(limit=0)) == []
    assert len(list(store.entries(limit=100))) == 8


def test_heads_of_an_earlier_moment_stay_what_they_were(store: Store) -> None:
    alice, bob = Person(1).enrol(store), Person(2).enrol(store)
    alice.refused(store)
    then, heads = store.last_entry(), list(store.heads())
    bob.refused(store)
    Person(3).enrol(store)
    assert list(store.heads(then)) == heads != list(store.heads())
    assert list(store.heads(0)) == []


def test_a_snapshot_does_not_move(store: Store) -> None:
    alice = Person(1).enrol(store)
    with store.snapshot() as snapshot:
        before = list(snapshot.records())
        alice.refused(store)
        alice.activate(store)
        assert list(snapshot.records()) == before
        assert len(list(snapshot.chains())) == 1
    assert len(list(store.entries())) == 3


def test_what_was_carried_out_is_found_by_d_and_quantities(store: Store) -> None:
    alice, bob = Person(1).enrol(store), Person(2).enrol(store)
    alice.activate(store)
    entry = alice.sign(store, "a")
    assert entry.d is not None
    assert entry.quantities_hash is not None
    assert store.carried_out(alice.id, entry.d, entry.quantities_hash) == seal_entry(entry)
    assert store.carried_out(alice.id, entry.d, sha("other quantities")) is None
    assert store.carried_out(bob.id, entry.d, entry.quantities_hash) is None
    assert store.carried_out(alice.id, sha("another"), entry.quantities_hash) is None


@pytest.mark.parametrize(
    ("outcome", "found"), [("authorisation.mismatch", False), ("authorisation.wrong-key", True)]
)
def test_of_refusals_only_a_wrong_key_was_carried_out(store: Store, outcome: str, found: bool) -> None:
    alice = Person(1).enrol(store)
    fields_of_entry = alice.signature_fields("a")
    alice.refused(store, outcome=outcome, **fields_of_entry)
    again = store.carried_out(alice.id, fields_of_entry["d"], fields_of_entry["quantities_hash"])
    assert (again is not None) == found


def test_the_writer_of_a_record_is_named(store: Store) -> None:
    alice = Person(1).enrol(store)
    alice.activate(store)
    alice.refused(store)
    loaded = store.load(alice.id)
    assert loaded.written_by == loaded.sealed.record.evidence_head != end_of(store, alice.id).hash


def test_probing_and_forgetting_change_nothing(store: Store) -> None:
    alice = Person(1).enrol(store)
    before = store.load(alice.id)
    store.probe_write()
    store.forget()
    assert store.load(alice.id) == before


# --- who may be written ------------------------------------------------------------------------------------


def test_a_user_has_one_live_credential(store: Store) -> None:
    alice = Person(1, "alice").enrol(store)
    with pytest.raises(CredentialExists, match="alice"):
        Person(2, "alice").enrol(store)
    assert len(list(store.entries())) == 1
    for status in (Status.ACTIVE, Status.SUSPENDED, Status.LOCKED):
        alice.write(store, Event.SUSPEND, record={"status": status})
        with pytest.raises(CredentialExists):
            Person(2, "alice").enrol(store)
    alice.write(store, Event.REVOKE, record={"status": Status.REVOKED, "wrapped_sk": None})
    again = Person(2, "alice").enrol(store, created=TIME + 1)
    assert [sealed.record.credential_id for sealed in store.find("alice")] == [again.id, alice.id]


def test_a_name_is_found_however_it_is_typed(store: Store) -> None:
    jose = Person(1, "jos\u00e9").enrol(store)
    for typed in ("jos\u00e9", "jose\u0301"):
        assert store.find(typed) == store.record_page(None, 9, typed) == [jose.sealed]
    assert store.find("jose") == store.record_page(None, 9, "jose") == []


def test_a_credential_id_is_taken_once(store: Store) -> None:
    Person(1, "alice").enrol(store)
    with pytest.raises(RecordConflict):
        Person(1, "bob").enrol(store)


def test_an_unknown_credential(store: Store) -> None:
    nobody = credential_id(99)
    with pytest.raises(CredentialUnknown):
        store.load(nobody)
    with pytest.raises(CredentialUnknown), store.changing(nobody, 1):
        pytest.fail("entered for nothing")
    with pytest.raises(CredentialUnknown), store.appending(nobody):
        pytest.fail("entered for nothing")
    assert store.find("nobody") == []
    assert list(store.entries(nobody)) == []


def test_the_second_of_two_writers_gets_a_conflict(store: Store, url: str) -> None:
    alice = Person(1).enrol(store)
    with Store.open(url) as other:
        first, second = other.load(alice.id), store.load(alice.id)
        with other.changing(alice.id, first.sealed.record.version) as change:
            change.write(*alice.next(change.position, Event.SUSPEND))
        with (
            pytest.raises(RecordConflict) as caught,
            store.changing(alice.id, second.sealed.record.version),
        ):
            pytest.fail("entered for nothing")
    assert caught.value.retryable
    assert store.load(alice.id).sealed.record.version == 2


@pytest.mark.parametrize("written", [False, True])
def test_nothing_is_written_if_the_body_fails(store: Store, written: bool) -> None:
    """Before it writes, or afterwards: what it wrote is taken back."""
    alice = Person(1).enrol(store)

    class TokenGone(Exception):
        pass

    def write() -> None:
        with store.changing(alice.id, 1) as change:
            if written:
                change.write(*alice.next(change.position, Event.SUSPEND))
            raise TokenGone

    def expire() -> None:
        with store.changing(alice.id, 1) as change:
            if written:
                change.expire(alice.last(change.position))
            raise TokenGone

    def append() -> None:
        with store.appending(alice.id) as chain:
            if written:
                chain.append(alice.refusal(chain.position))
            raise TokenGone

    before = list(store.entries()), list(store.list_records())
    for act in (write, expire, append):
        with pytest.raises(TokenGone):
            act()
    assert (list(store.entries()), list(store.list_records())) == before
    alice.activate(store)


def test_a_body_that_writes_nothing_is_a_mistake(store: Store) -> None:
    """Its caller would go on as if there were evidence."""
    alice = Person(1).enrol(store)
    with pytest.raises(ValueError, match="nothing was written"), store.changing(alice.id, 1):
        pass
    with pytest.raises(ValueError, match="nothing was written"), store.appending(alice.id):
        pass


def test_a_change_is_written_once(store: Store) -> None:
    alice = Person(1).enrol(store)

    def write() -> None:
        with store.changing(alice.id, 1) as change:
            for _ in range(2):
                change.write(*alice.next(change.position, Event.SUSPEND))

    def append() -> None:
        with store.appending(alice.id) as chain:
            for _ in range(2):
                chain.append(alice.refusal(chain.position))

    for act in (write, append):
        with pytest.raises(RecordConflict):
            act()
    assert len(list(store.entries())) == 1
    assert store.load(alice.id).sealed.record.version == 1


def test_what_does_not_belong_together_is_not_written(store: Store) -> None:
    alice, bob = Person(1).enrol(store), Person(2).enrol(store)
    good, entry = alice.next(end_of(store, alice.id), Event.SUSPEND)
    pairs = [
        (seal(replace(good.record, **changes)), entry)
        for changes in ({"version": 3}, {"credential_id": bob.id}, {"evidence_head": None})
    ]
    for changes in (
        {"record_version": 3},
        {"sequence": 3},
        {"previous": NO_PREVIOUS},
        {"credential_id": bob.id},
    ):
        other = replace(entry.entry, **changes)
        pairs.append((seal(replace(good.record, evidence_head=entry_hash(other))), seal_entry(other)))
    for sealed, wrong in pairs:
        with pytest.raises(ValueError), store.changing(alice.id, 1) as change:
            change.write(sealed, wrong)
    carol = Person(3)
    first, entry_of_first = carol.next(START, Event.ENROL)
    for sealed, wrong in (
        (seal(replace(first.record, evidence_head=None)), entry_of_first),
        (seal(replace(first.record, version=2)), entry_of_first),
        (first, seal_entry(replace(entry_of_first.entry, sequence=2))),
        (first, seal_entry(replace(entry_of_first.entry, credential_id=bob.id))),
    ):
        with pytest.raises(ValueError):
            store.insert(sealed, wrong, request=None, created=TIME)
    assert len(list(store.entries())) == 2
    assert len(list(store.list_records())) == 2
    # A refusal neither raises a version nor passes for an acceptance.
    with pytest.raises(EvidenceMissing):
        alice.refused(store, version=2)
    with pytest.raises(ValueError), store.appending(alice.id) as chain:
        chain.append(entry)
    with pytest.raises(ValueError), store.changing(alice.id, 1) as change:
        change.expire(entry)
    with store.changing(alice.id, 1) as change:
        change.write(good, entry)


# --- giving up pending credentials -------------------------------------------------------------------------


def test_a_pending_credential_expires_and_leaves_its_chain(store: Store) -> None:
    alice, bob, carol = Person(1), Person(2), Person(3)
    alice.enrol(store, created=TIME)
    bob.enrol(store, created=TIME + 10)
    carol.enrol(store, created=TIME).activate(store)
    assert store.pending_before(TIME) == []
    assert store.pending_before(TIME + 1) == [alice.id]
    assert store.pending_before(TIME + 11) == [alice.id, bob.id]
    with pytest.raises(RecordConflict), store.changing(alice.id, 2):
        pytest.fail("entered for nothing")
    entry = alice.expire(store)
    assert (entry.sequence, entry.record_version) == (2, 2)
    with pytest.raises(CredentialUnknown):
        store.load(alice.id)
    assert [entry.event for _, entry in store.entries(alice.id)] == [Event.ENROL, Event.EXPIRE]
    with pytest.raises(StatusUnsuitable):
        carol.expire(store)
    # The name is free again.
    Person(4, alice.record.owner).enrol(store)


def test_positions_of_an_empty_chain(store: Store) -> None:
    assert ChainPosition(0, NO_PREVIOUS, NO_PREVIOUS) == START
    assert store.last_entry() == 0
    assert list(store.heads()) == []

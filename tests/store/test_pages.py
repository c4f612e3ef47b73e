"""Pages of evidence and of records, certificates: on either database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from hsm_signer.errors import CredentialUnknown, RecordDamaged, StoreDamaged, StoreError
from hsm_signer.store.store import Store
from hsm_signer.types import CredentialId, Event, Status
from tests.support.factories import Person, credential_id, new_store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on either database."""
    if request.param == "sqlite":
        url = new_store(tmp_path / "store.db")
    else:
        url = request.getfixturevalue("postgresql_url")
    with Store.open(url) as opened:
        yield opened


def execute(store: Store, statement: str, **values: object) -> None:
    """What somebody does who can write the database."""
    with store._engine.begin() as connection:
        connection.execute(text(statement), values)


# --- evidence ----------------------------------------------------------------------------------------------


def test_pages_of_evidence(store: Store) -> None:
    alice, bob = Person(1).enrol(store), Person(2).enrol(store)
    for _ in range(3):
        alice.refused(store)
        bob.refused(store)
    entries = list(store.entries())
    assert store.page(0, 100) == entries
    assert store.page(0, 3) == entries[:3]
    assert store.page(3, 3) == entries[3:6]
    assert store.page(6, 3) == entries[6:]
    assert store.page(8, 3) == store.page(10**15, 3) == []
    assert store.page(0, 100, bob.id) == [each for each in entries if each[1].credential_id == bob.id]
    assert [number for number, _ in store.page(0, 2, bob.id)] == [2, 4]
    assert [number for number, _ in store.page(4, 2, bob.id)] == [6, 8]
    # A number of another chain will do, too.
    assert [number for number, _ in store.page(5, 9, bob.id)] == [6, 8]
    assert store.page(8, 2, bob.id) == store.page(0, 2, credential_id(9)) == []


def test_a_number_that_nobody_has_is_passed_over(store: Store) -> None:
    alice = Person(1).enrol(store)
    for _ in range(5):
        alice.refused(store)
    execute(store, "DELETE FROM evidence WHERE id IN (1, 3)")
    assert [number for number, _ in store.page(0, 2)] == [2, 4]
    assert [number for number, _ in store.page(4, 9)] == [5, 6]
    assert [number for number, _ in store.page(0, 9, alice.id)] == [2, 4, 5, 6]


def test_a_damaged_entry_is_named(store: Store) -> None:
    alice = Person(1).enrol(store)
    alice.refused(store)
    execute(store, "UPDATE evidence SET previous = :short WHERE id = 2", short=b"short")
    assert len(store.page(0, 1)) == 1
    for chain in (None, alice.id):
        with pytest.raises(StoreDamaged, match=r"entry 2 .* previous is not 32 bytes"):
            store.page(0, 9, chain)


def test_a_chain_whose_numbers_were_exchanged_is_no_page(store: Store) -> None:
    alice = Person(1).enrol(store)
    alice.refused(store)
    alice.refused(store)
    for statement in ("id = 99 WHERE id = 2", "id = 2 WHERE id = 3", "id = 3 WHERE id = 99"):
        execute(store, f"UPDATE evidence SET {statement}")
    with pytest.raises(StoreDamaged, match="not numbered in its order"):
        store.page(0, 9, alice.id)


# --- records -----------------------------------------------------------------------------------------------


def test_pages_of_records(store: Store) -> None:
    people = [Person(number).enrol(store) for number in (5, 200, 3, 128, 70000)]
    records = sorted((person.sealed for person in people), key=lambda each: each.record.credential_id)
    assert store.record_page(None, 100) == records
    assert store.record_page(None, 2) == records[:2]
    assert store.record_page(records[1].record.credential_id, 2) == records[2:4]
    assert store.record_page(credential_id(4), 1) == records[1:2]
    assert store.record_page(records[-1].record.credential_id, 2) == []
    assert store.record_page(CredentialId(b"\xff" * 16), 2) == []


def test_pages_of_one_owners_records(store: Store) -> None:
    old = Person(7, "alice").enrol(store)
    old.write(store, Event.REVOKE, record={"status": Status.REVOKED, "wrapped_sk": None})
    bob, new = Person(4, "bob").enrol(store), Person(2, "alice").enrol(store)
    assert store.record_page(None, 9, "alice") == [new.sealed, old.sealed]
    assert store.record_page(new.id, 9, "alice") == [old.sealed]
    assert store.record_page(None, 1, "bob") == [bob.sealed]
    for nobody in ("carol", "alic", "a\0", "\ud800", ""):
        assert store.record_page(None, 9, nobody) == []


def test_a_damaged_record_is_named(store: Store) -> None:
    Person(1).enrol(store)
    Person(2).enrol(store)
    execute(store, "UPDATE credential SET mk_id = :short WHERE owner = 'user2'", short=b"short")
    assert len(store.record_page(None, 1)) == 1
    with pytest.raises(RecordDamaged, match="'user2' is damaged: its field mk_id is not 8 bytes"):
        store.record_page(None, 2)


# --- certificates ------------------------------------------------------------------------------------------


def test_certificates_are_kept_in_their_order_until_replaced(store: Store) -> None:
    alice, bob = Person(1).enrol(store), Person(2).enrol(store)
    assert store.certificates(alice.id) == ()
    alice.certify(store, b"leaf", b"issuer", b"root")
    bob.certify(store, bytes(65535))
    assert store.certificates(alice.id) == (b"leaf", b"issuer", b"root")
    assert store.certificates(bob.id) == (bytes(65535),)
    alice.certify(store, b"new leaf")
    assert store.certificates(alice.id) == (b"new leaf",)
    alice.certify(store)
    alice.certify(store)
    assert store.certificates(alice.id) == ()
    assert store.certificates(bob.id) == (bytes(65535),)
    # Each is a version of the record, with the entry that says so.
    events = [entry.event for _, entry in store.entries(alice.id)]
    assert events == [Event.ENROL, *[Event.CERTIFICATES] * 4]
    assert store.load(alice.id).sealed.record.version == 5


def test_certificates_of_nobody(store: Store) -> None:
    with pytest.raises(CredentialUnknown):
        Person(9).certify(store, b"leaf")
    assert store.certificates(credential_id(9)) == ()


@pytest.mark.parametrize("chain", [(b"",), (bytes(65536),), (b"leaf", b"")])
def test_certificates_that_could_not_be_read_again_are_not_written(
    store: Store, chain: tuple[bytes, ...]
) -> None:
    alice = Person(1).enrol(store)
    alice.certify(store, b"kept")
    with pytest.raises(StoreError, match="certificate chain cannot be stored"):
        alice.certify(store, *chain)
    assert store.certificates(alice.id) == (b"kept",)


def test_certificates_end_with_a_credential_that_is_given_up(store: Store) -> None:
    alice = Person(1).enrol(store)
    alice.certify(store, b"leaf")
    alice.expire(store)
    assert store.certificates(alice.id) == ()


def test_damaged_certificates_are_named(store: Store) -> None:
    alice = Person(1).enrol(store)
    alice.certify(store, b"leaf")
    execute(store, "UPDATE certificate SET chain = :cut", cut=b"\0\0\0\1\0\0\0\5leaf")
    with pytest.raises(StoreDamaged, match=f"of credential {alice.id.hex()} are damaged") as caught:
        store.certificates(alice.id)
    assert caught.value.hint
    alice.certify(store, b"leaf")
    assert store.certificates(alice.id) == (b"leaf",)

"""Rows of clients and of access tokens given back: on either database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from hsm_signer.errors import ClientExists, ClientUnknown, StoreDamaged, StoreError
from hsm_signer.store.client_rows import ClientRow, GivenBack
from hsm_signer.store.store import Store
from hsm_signer.types import Event
from tests.support.factories import TIME, drop_client, new_store, put_client, sha

ROW = ClientRow(
    name="portal",
    roles=b"\x01\x02",
    token_hash=sha("token"),
    certificate_hash=None,
    owner=None,
    created=TIME,
    created_by="root",
    mac=sha("mac"),
    version=0,
    evidence_head=None,
)
OTHER = replace(ROW, name="Archive", token_hash=None, certificate_hash=sha("certificate"), owner="Ωμέγα")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on either database."""
    if request.param == "sqlite":
        url = new_store(tmp_path / "store.db")
    else:
        url = request.getfixturevalue("postgresql_url")
    with Store.open(url) as opened:
        yield opened


def test_clients_come_back(store: Store) -> None:
    assert store.clients() == []
    row, other = put_client(store, ROW), put_client(store, OTHER)
    assert store.clients() == [other, row]
    assert store.client_by_name("portal") == store.client_by_token_hash(sha("token")) == row
    assert store.client_by_name("Archive") == store.client_by_certificate_hash(sha("certificate")) == other
    assert store.age_of_client(row) == (row.version, row.evidence_head)
    assert row.version == 1
    for nobody in ("Portal", "porta", "", "a\0", "\ud800"):
        assert store.client_by_name(nobody) is None
    assert store.client_by_token_hash(sha("certificate")) is None
    assert store.client_by_certificate_hash(sha("token")) is None
    drop_client(store, "portal")
    assert store.clients() == [other]
    assert store.client_by_token_hash(sha("token")) is None
    assert store.age_of_client(row)[0] == 2
    assert put_client(store, ROW).version == 3


def test_a_name_a_token_a_certificate_is_one_clients(store: Store) -> None:
    row, other = put_client(store, ROW), put_client(store, OTHER)
    with pytest.raises(ClientExists, match="there is a client portal already"):
        put_client(store, replace(ROW, token_hash=sha("another")))
    with pytest.raises(ClientExists, match="certificate or token"):
        put_client(store, replace(ROW, name="third"))
    with pytest.raises(ClientExists, match="certificate or token"):
        put_client(store, replace(OTHER, name="third"))
    assert store.clients() == [other, row]


@pytest.mark.parametrize("name", ["nobody", "Portal", "a\0", "\ud800", ""])
def test_an_unknown_client_cannot_be_removed(store: Store, name: str) -> None:
    row = put_client(store, ROW)
    with pytest.raises(ClientUnknown):
        drop_client(store, name)
    assert store.clients() == [row]
    assert [entry.event for _, entry in store.entries()] == [Event.CLIENT_ADDED]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"roles": b""}, "roles"),
        ({"token_hash": b"short"}, "token_hash"),
        ({"certificate_hash": bytes(33)}, "certificate_hash"),
        ({"owner": ""}, "owner"),
        ({"owner": "a\0"}, "owner"),
        ({"created": -1}, "created"),
        ({"mac": bytes(31)}, "mac"),
    ],
)
def test_a_client_that_could_not_be_read_again_is_not_written(
    store: Store, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(StoreError, match=f"field {field} is not"):
        put_client(store, replace(ROW, **changes))
    assert store.clients() == []


def test_a_damaged_client_is_named_and_can_be_removed(store: Store) -> None:
    put_client(store, ROW)
    other = put_client(store, OTHER)
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE client SET mac = :short WHERE name = 'portal'"), {"short": b"short"})
    reads = (
        store.clients,
        lambda: store.client_by_name("portal"),
        lambda: store.client_by_token_hash(sha("token")),
    )
    for read in reads:
        with pytest.raises(StoreDamaged, match="client 'portal' is damaged: its field mac is not 32 bytes"):
            read()
    assert store.client_by_name("Archive") == other
    drop_client(store, "portal")
    assert store.clients() == [other]


def test_what_was_given_back_is_kept_in_mind_until_it_expires(store: Store) -> None:
    one, other, mac = sha("one"), sha("other"), sha("mac")
    assert store.given_back(one) is None
    store.revoke_access(one, TIME + 100, mac, now=TIME)
    store.revoke_access(one, TIME + 100, sha("another"), now=TIME)
    assert store.given_back(one) == GivenBack(TIME + 100, mac)
    assert store.given_back(other) is None
    store.revoke_access(other, TIME + 300, mac, now=TIME + 100)
    assert store.given_back(one)
    assert store.given_back(other)
    store.revoke_access(other, TIME + 300, mac, now=TIME + 101)
    assert store.given_back(one) is None, "expired, and forgotten"
    assert store.given_back(other)

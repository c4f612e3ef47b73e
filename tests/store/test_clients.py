"""Rows of clients and of access tokens given back: on either database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from hsm_signer.errors import ClientExists, ClientUnknown, StoreDamaged, StoreError
from hsm_signer.store.client_rows import ClientRow
from hsm_signer.store.store import Store
from tests.support.factories import TIME, new_store, sha

ROW = ClientRow(
    name="portal",
    roles=b"\x01\x02",
    token_hash=sha("token"),
    certificate_hash=None,
    owner=None,
    created=TIME,
    created_by="root",
    mac=sha("mac"),
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
    store.insert_client(ROW)
    store.insert_client(OTHER)
    assert store.clients() == [OTHER, ROW]
    assert store.client_by_name("portal") == store.client_by_token_hash(sha("token")) == ROW
    assert store.client_by_name("Archive") == store.client_by_certificate_hash(sha("certificate")) == OTHER
    for nobody in ("Portal", "porta", "", "a\0", "\ud800"):
        assert store.client_by_name(nobody) is None
    assert store.client_by_token_hash(sha("certificate")) is None
    assert store.client_by_certificate_hash(sha("token")) is None
    store.delete_client("portal")
    assert store.clients() == [OTHER]
    assert store.client_by_token_hash(sha("token")) is None


def test_a_name_a_token_a_certificate_is_one_clients(store: Store) -> None:
    store.insert_client(ROW)
    store.insert_client(OTHER)
    with pytest.raises(ClientExists, match="there is a client portal already"):
        store.insert_client(replace(ROW, token_hash=sha("another")))
    with pytest.raises(ClientExists, match="certificate or token"):
        store.insert_client(replace(ROW, name="third"))
    with pytest.raises(ClientExists, match="certificate or token"):
        store.insert_client(replace(OTHER, name="third"))
    assert store.clients() == [OTHER, ROW]


@pytest.mark.parametrize("name", ["nobody", "Portal", "a\0", "\ud800", ""])
def test_an_unknown_client_cannot_be_removed(store: Store, name: str) -> None:
    store.insert_client(ROW)
    with pytest.raises(ClientUnknown):
        store.delete_client(name)
    assert store.clients() == [ROW]


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
        store.insert_client(replace(ROW, **changes))
    assert store.clients() == []


def test_a_damaged_client_is_named_and_can_be_removed(store: Store) -> None:
    store.insert_client(ROW)
    store.insert_client(OTHER)
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
    assert store.client_by_name("Archive") == OTHER
    store.delete_client("portal")
    assert store.clients() == [OTHER]


def test_what_was_given_back_is_kept_in_mind_until_it_expires(store: Store) -> None:
    one, other = sha("one"), sha("other")
    assert not store.access_revoked(one)
    store.revoke_access(one, TIME + 100, now=TIME)
    store.revoke_access(one, TIME + 100, now=TIME)
    assert store.access_revoked(one)
    assert not store.access_revoked(other)
    store.revoke_access(other, TIME + 300, now=TIME + 100)
    assert store.access_revoked(one)
    assert store.access_revoked(other)
    store.revoke_access(other, TIME + 300, now=TIME + 101)
    assert not store.access_revoked(one), "expired, and forgotten"
    assert store.access_revoked(other)

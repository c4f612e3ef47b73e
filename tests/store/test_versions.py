"""Where a store lies, who may make one, and how a store of an older version becomes one of this version."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields
from sqlalchemy import create_engine

from hsm_signer.errors import ConfigError, StoreError, StoreMissing, StoreTooNew, StoreTooOld
from hsm_signer.evidence.chain import check_chain
from hsm_signer.store import schema
from hsm_signer.store.client_rows import ClientRow
from hsm_signer.store.database import parse_url, sqlite_url
from hsm_signer.store.store import Store
from hsm_signer.types import CredentialRecord, EvidenceEntry, InstallationRecord
from tests.support.factories import FORMAT_1, TIME, Person, new_store, older_store

PARTIAL_INDEXES = ("credential_live_owner", "credential_pending", "credential_refusals", "evidence_refused")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return new_store(tmp_path / "store.db")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


# --- the file ----------------------------------------------------------------------------------------------


def test_a_store_is_made_once_and_only_for_its_owner(store: Store, url: str, tmp_path: Path) -> None:
    Person(1).enrol(store)
    with Store.create(sqlite_url(tmp_path / "made.db")):
        assert stat.S_IMODE((tmp_path / "made.db").stat().st_mode) == 0o600
    with pytest.raises(StoreError, match="already"):
        Store.create(url)
    assert len(list(store.list_records())) == 1


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (a)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="already"):
        Store.create(sqlite_url(path))
    with pytest.raises(StoreMissing, match="holds no store"):
        Store.open(sqlite_url(path))
    assert path.read_bytes() == before


def test_an_empty_file_left_by_an_interrupted_init_is_used(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    with pytest.raises(StoreMissing):
        Store.open(sqlite_url(path))
    with Store.create(sqlite_url(path)) as store:
        Person(1).enrol(store)


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hsm_signer.store.versions._migrate", fail)
    with pytest.raises(KeyboardInterrupt):
        Store.create(sqlite_url(tmp_path / "store.db"))
    assert list(tmp_path.iterdir()) == []


def test_what_a_commit_promises_after_a_power_cut(store: Store) -> None:
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


@pytest.mark.parametrize("name", ["with space", "per%20cent", "ha#sh", "quest?mode=memory", "ümlaut"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    url = sqlite_url(tmp_path / name)
    with Store.create(url) as store:
        Person(1).enrol(store)
    assert (tmp_path / name).is_file()
    with Store.open(url) as store:
        assert len(list(store.list_records())) == 1


@pytest.mark.parametrize(
    "bad", ["", "store.db", "sqlite://", "sqlite:///:memory:", "mysql://host/db", "sqlite:store.db"]
)
def test_a_url_that_is_no_store(bad: str) -> None:
    for use in (Store.create, Store.open, Store.upgrade):
        with pytest.raises(ConfigError):
            use(bad)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        Store.open("mysql://user:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


# --- versions ----------------------------------------------------------------------------------------------


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_store_of_a_newer_version(store: Store, url: str, tmp_path: Path) -> None:
    execute(tmp_path / "store.db", "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreTooNew):
        Store.open(url)
    with pytest.raises(StoreTooNew):
        Store.upgrade(url)


def test_a_version_table_without_a_version_is_old(tmp_path: Path) -> None:
    """As a migration would leave it that was stopped where the database has no transactions around tables."""
    path = tmp_path / "store.db"
    execute(path, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    url = sqlite_url(path)
    with pytest.raises(StoreTooOld):
        Store.open(url)
    Store.upgrade(url)
    with Store.open(url) as store:
        Person(1).enrol(store)


@pytest.mark.parametrize("revision", schema.REVISIONS[:-1])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_store_of_an_older_version_is_upgraded(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, revision: str
) -> None:
    """What is in it stays what it was, down to the numbers, and goes on."""
    if database == "sqlite":
        url = sqlite_url(tmp_path / "old.db")
        (tmp_path / "old.db").touch()
    else:
        url = request.getfixturevalue("postgresql_empty_url")
    with Store.open(new_store(tmp_path / "new.db")) as now:
        alice, bob = Person(1, **FORMAT_1).enrol(now), Person(2, **FORMAT_1).enrol(now)
        alice.activate(now)
        alice.sign(now, "a")
        bob.refused(now)
        records, entries = list(now.list_records()), list(now.entries())
        older_store(url, revision, now)
    with pytest.raises(StoreTooOld, match="older version") as caught:
        Store.open(url)
    assert caught.value.hint == "hsm-signer store upgrade brings it on"
    Store.upgrade(url)
    Store.upgrade(url)
    with Store.open(url) as store:
        assert list(store.list_records()) == records
        assert list(store.entries()) == entries
        alice.sign(store, "b")
        chain = [entry for _, entry in store.entries(alice.id)]
        assert list(check_chain(alice.id, chain)) == []
        assert store.last_entry() == len(entries) + 1
        assert (store.clients(), store.certificates(alice.id)) == ([], ())
        alice.certify(store, b"leaf")
        store.revoke_access(bytes(32), TIME, bytes(32), now=TIME)


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, postgresql_empty_url: str) -> None:
    (tmp_path / "old.db").touch()
    for url in (sqlite_url(tmp_path / "old.db"), postgresql_empty_url):
        with Store.open(new_store(tmp_path / "new.db")) as now:
            older_store(url, "0001", now)
        engine = create_engine(parse_url(url))
        with engine.begin() as connection:
            # The name of the last table that the revision makes.
            connection.exec_driver_sql("CREATE TABLE certificate (a INTEGER)")
        with pytest.raises(StoreError):
            Store.upgrade(url)
        with pytest.raises(StoreTooOld):
            Store.open(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE certificate")
        engine.dispose()
        Store.upgrade(url)
        Store.open(url).close()


def test_the_migrations_lead_to_the_schema(store: Store, tmp_path: Path) -> None:
    from alembic.script import ScriptDirectory

    directory: Any = ScriptDirectory(str(Path(schema.__file__).with_name("migrations")))
    revisions = [script.revision for script in directory.walk_revisions()]
    assert tuple(reversed(revisions)) == schema.REVISIONS

    engine = create_engine(sqlite_url(tmp_path / "from-schema.db"))
    schema.metadata.create_all(engine)
    made = []
    for source in (engine, store._engine):
        with source.connect() as connection:
            sql = "SELECT name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version' ORDER BY name"
            made.append([(name, definitions(text or "")) for name, text in connection.exec_driver_sql(sql)])
    engine.dispose()
    assert made[0] == made[1]
    assert sum(part.endswith(" AUTOINCREMENT") for _, parts in made[0] for part in parts) == 1


def definitions(sql: str) -> list[str]:
    """What a CREATE statement begins with, and each of its columns and constraints, in alphabetical order: a
    column that was added later stands at the end."""
    begin, _, rest = sql.partition("(")
    body, _, end = rest.rpartition(")")
    parts, depth = [""], 0
    for character in body:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [begin.strip(), end.strip(), *sorted(" ".join(part.split()) for part in parts)]


def test_the_migrations_lead_to_the_schema_on_postgresql(postgresql_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = create_engine(parse_url(postgresql_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": schema.VERSION_TABLE,
                "compare_server_default": True,
                # Written out in the schema, where Alembic does not see them.
                "include_name": lambda name, *_: name not in PARTIAL_INDEXES,
            },
        )
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_every_field_has_its_column() -> None:
    record_columns = {field.name for field in fields(CredentialRecord)} | {
        "mac",
        "request",
        "created",
        "counted_refusals",
    }
    assert {column.name for column in schema.credential.columns} == record_columns
    entry_columns = {field.name for field in fields(EvidenceEntry)} | {"id", "hash", "mac"}
    assert {column.name for column in schema.evidence.columns} == entry_columns
    installation_columns = {field.name for field in fields(InstallationRecord)} | {"id", "mac"}
    assert {column.name for column in schema.installation.columns} == installation_columns
    client_columns = {field.name for field in fields(ClientRow)}
    assert {column.name for column in schema.client.columns} == client_columns


def test_opening_a_store_does_not_import_alembic(store: Store, url: str) -> None:
    code = (
        "import sys; from hsm_signer.store.store import Store; "
        f"Store.open({url!r}).close(); assert not any('alembic' in m or 'mako' in m for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

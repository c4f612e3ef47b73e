"""The same store for PostgreSQL, as far as that can be seen without a server: everything it would be sent."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import ClauseElement, Delete, Engine, Select, Update, event, make_url
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from hsm_signer.store import database, schema, store
from hsm_signer.store.store import Snapshot, Store

from .factories import TIME, Person, new_store, sha

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
SQLITE_ONLY = re.compile(
    r"\b(PRAGMA|AUTOINCREMENT|BLOB|DATETIME|ROWID|GLOB|IFNULL|ZEROBLOB|SQLITE\w*|IMMEDIATE|STRICT"
    r"|INSERT\s+OR|REPLACE\s+INTO|WITHOUT\s+ROWID|INDEXED\s+BY|VACUUM)\b|[`?\[\]]",
    re.IGNORECASE,
)
"""Words and signs that PostgreSQL does not have, or has with another meaning."""


def compiled(element: ClauseElement) -> str:
    """As it would be sent, but for lists, whose length is known with their values only."""
    return re.sub(r"__\[POSTCOMPILE_\w+\]", "NULL", str(element.compile(dialect=DIALECT)))


def check(sql: str) -> None:
    """Nothing in it that only SQLite understands."""
    assert SQLITE_ONLY.search(sql) is None, (SQLITE_ONLY.search(sql), sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "SELECT x FROM t WHERE y = ?",
        "INSERT OR REPLACE INTO t VALUES (1)",
        "CREATE TABLE t (b BLOB)",
        "BEGIN IMMEDIATE",
        "PRAGMA secure_delete=ON",
    ],
)
def test_what_only_sqlite_has_is_noticed(sql: str) -> None:
    """Or the tests below would show nothing."""
    with pytest.raises(AssertionError):
        check(sql)


def test_tables_and_indexes() -> None:
    """BYTEA, BIGINT and a number that PostgreSQL counts itself."""
    ddl = {table.name: compiled(CreateTable(table)) for table in schema.metadata.sorted_tables}
    indexes = [compiled(CreateIndex(i)) for table in schema.metadata.sorted_tables for i in table.indexes]
    for sql in (*ddl.values(), *indexes):
        check(sql)
    assert set(ddl) == {"credential", "evidence"}
    assert len(indexes) >= 3
    assert re.search(r"\n\tid BIGSERIAL NOT NULL", ddl["evidence"])
    assert "UNIQUE (credential_id, sequence)" in ddl["evidence"]
    for name in ("mac", "spki", "wrapped_sk", "wrapped_kcar", "rn"):
        assert re.search(rf"\n\t{name} BYTEA", ddl["credential"])
    for name in ("version", "x", "failures", "created", "wrap_mechanism"):
        assert re.search(rf"\n\t{name} BIGINT", ddl["credential"])


def migration_sql() -> str:
    """`alembic upgrade head --sql` for PostgreSQL. The store's own env.py has no offline mode: a store makes
    its migrations itself, on its own connection."""
    config = Config()
    folder = Path(inspect.getfile(store)).with_name("migrations")
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    output = io.StringIO()

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(config, script, fn=steps, as_sql=True, destination_rev="head") as environment:
        environment.configure(
            dialect_name="postgresql", output_buffer=output, version_table=schema.VERSION_TABLE
        )
        with environment.begin_transaction():
            environment.run_migrations()
    return output.getvalue()


def words(sql: str) -> str:
    """Without what only the layout differs in."""
    return " ".join(sql.replace(";", "").split())


def test_migrations_lead_to_the_schema_on_postgresql_too() -> None:
    """The same tables and indexes, the partial ones with their condition, in one transaction."""
    sql = migration_sql()
    check(sql)
    statements = [words(each) for each in sql.split(";")]
    assert statements[0] == "BEGIN"
    assert "COMMIT" in statements
    assert f"INSERT INTO {schema.VERSION_TABLE} (version_num) VALUES ('{schema.REVISIONS[0]}')" in sql
    for table in schema.metadata.sorted_tables:
        wanted = words(compiled(CreateTable(table)))
        assert any(each.endswith(wanted) for each in statements), wanted
        for index in table.indexes:
            assert any(each.endswith(words(compiled(CreateIndex(index)))) for each in statements)
        # Those that are made by words of our own.
        for listener in table.dispatch.after_create:
            wanted = words(str(listener.statement))  # type: ignore[attr-defined]
            assert any(_bare(wanted) == _bare(each) for each in statements), (wanted, statements)
    conditions = re.findall(r"WHERE (status .*?);", sql)
    assert len(conditions) >= 1


def _bare(sql: str) -> str:
    return re.sub(r"[()\s]", "", sql)


@pytest.fixture
def sent(tmp_path: Path) -> list[ClauseElement]:
    """Every statement of every method of the store, run once on SQLite."""
    statements: list[ClauseElement] = []

    def before(_connection: Any, element: Any, *_: Any) -> None:
        statements.append(element)

    url = new_store(tmp_path / "store.db")
    event.listen(Engine, "before_execute", before)
    try:
        with Store.open(url) as opened:
            _use_everything(opened)
        Store.upgrade(url)
    finally:
        event.remove(Engine, "before_execute", before)
    return statements


def _use_everything(opened: Store) -> None:
    alice, bob = Person(1).enrol(opened), Person(2).enrol(opened)
    alice.activate(opened)
    alice.sign(opened, "a")
    alice.refused(opened)
    opened.carried_out(alice.id, sha("D", "a"), sha("Q", "a"))
    opened.find("user1")
    assert opened.pending_before(TIME + 1) == [bob.id]
    bob.expire(opened)
    opened.last_entry()
    opened.probe_write()
    opened.forget()
    assert len(list(opened.list_records())) == 1
    for chosen in (None, alice.id):
        for limit in (None, 2):
            assert list(opened.entries(chosen, limit=limit))
    for upto in (None, 2):
        assert list(opened.heads(upto))
    with opened.snapshot() as snapshot:
        assert list(snapshot.records())
        assert list(snapshot.chains())


def test_every_method_was_used() -> None:
    """A new one has to be added above."""
    public = {name for each in (Store, Snapshot) for name in vars(each) if not name.startswith("_")}
    here = inspect.getsource(_use_everything) + inspect.getsource(Person)
    used = {name for name in public if f".{name}(" in here}
    assert public - used == {"create", "open", "close", "upgrade"}


def test_every_statement(sent: list[ClauseElement]) -> None:
    sql = {compiled(each) for each in sent}
    for each in sql:
        check(each)
        assert "'" not in each, "values are bound, never written out"
    assert len(sql) >= 15
    kept = {name: each for name, each in vars(store).items() if isinstance(each, Select | Update | Delete)}
    assert len(kept) >= 7
    # The columns of an UPDATE or INSERT are those of its values: told by the beginning.
    unsent = [
        name for name, each in kept.items() if not any(one.startswith(compiled(each)[:40]) for one in sql)
    ]
    assert unsent == []


def test_a_writer_locks_the_row_it_has_read(sent: list[ClauseElement]) -> None:
    """What BEGIN IMMEDIATE is on SQLite: two writers never start from the same version."""
    locking = [each for each in map(compiled, sent) if "FOR UPDATE" in each]
    assert set(locking) == {compiled(store._LOCK)}
    assert words(locking[0]).startswith("SELECT credential.version AS version, credential.status AS status")
    # insert has no row to lock yet; there the keys decide.
    assert len(locking) == 4, "activate, sign, the refusal, expire"


class Unreachable:
    """An engine without a server behind it."""

    def execution_options(self, **options: Any) -> Unreachable:
        self.options = options
        return self

    def raw_connection(self) -> Any:
        raise AssertionError("SQLite's settings would be sent to PostgreSQL")


def test_what_is_said_to_sqlite_alone_is_not_said_to_postgresql() -> None:
    engine: Any = Unreachable()
    Store(engine, make_url("postgresql+psycopg://host/database")).forget()
    assert engine.options["isolation_level"] == "REPEATABLE READ"
    with pytest.raises(AssertionError):
        Store(engine, make_url("sqlite:///store.db")).forget()


class Spoken:
    """A connection and its cursor, noting what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def cursor(self) -> Spoken:
        return self

    def __enter__(self) -> Spoken:
        return self

    def __exit__(self, *_: object) -> None:
        self.said.append("closed")

    def execute(self, sql: str) -> None:
        self.said.append(sql)

    def commit(self) -> None:
        self.said.append("committed")


@pytest.mark.parametrize(("seconds", "wanted"), [(5.0, 5000), (0.25, 250), (0.0, 1)])
def test_settings_of_a_connection(seconds: float, wanted: int) -> None:
    """The waiting time is the store's, in milliseconds, and never 0, which would mean for ever."""
    connection = Spoken()
    database._postgresql_settings(seconds)(connection, None)
    assert connection.said == [f"SET lock_timeout = {wanted}", "closed", "committed"]
    check(connection.said[0])

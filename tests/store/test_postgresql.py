"""What is PostgreSQL's alone: its locks and timeouts, connections that break, a server that is not there."""

from __future__ import annotations

import inspect
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import ClauseElement, Engine, create_engine, event
from sqlalchemy.dialects import postgresql as dialects

from hsm_signer.errors import (
    RecordDamaged,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
)
from hsm_signer.server.initialise import (
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    Installation,
    no_prompt,
)
from hsm_signer.store import database, schema, statements
from hsm_signer.store.client_rows import ClientRow
from hsm_signer.store.database import parse_url
from hsm_signer.store.snapshot import Snapshot
from hsm_signer.store.store import Store
from hsm_signer.testing import make_person
from hsm_signer.types import Event
from tests.support import needs
from tests.support.factories import (
    TIME,
    Person,
    drop_client,
    first_of_installation,
    next_of_installation,
    put_client,
    sha,
)
from tests.support.people import SOFTHSM_CONF
from tests.support.scenes import still_signs

if TYPE_CHECKING:
    from tests.support.postgresql import Postgresql


@pytest.fixture
def postgresql_url(postgresql_own_url: str) -> str:
    """Here a database's settings and tables are changed, too."""
    return postgresql_own_url


@pytest.fixture
def store(postgresql_url: str) -> Iterator[Store]:
    with Store.open(postgresql_url) as opened:
        yield opened


@pytest.fixture
def name(postgresql_url: str) -> str:
    """Of the database."""
    found = parse_url(postgresql_url).database
    assert found is not None
    return found


def shown(store: Store, setting: str) -> str:
    """A setting, as a connection of the store has it."""
    with store._reading() as connection:
        return str(connection.exec_driver_sql(f"SHOW {setting}").scalar_one())


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- making one --------------------------------------------------------------------------------------------

CATALOGUE = (
    "SELECT table_name, ordinal_position, column_name, data_type, is_nullable, column_default "
    "FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version' "
    "ORDER BY 1, 2",
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
    "AND tablename <> 'alembic_version' ORDER BY 1",
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass ORDER BY 1",
)


def test_the_migrations_lead_to_the_schema(
    postgresql: Postgresql, name: str, postgresql_empty_url: str
) -> None:
    engine = create_engine(parse_url(postgresql_empty_url))
    schema.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    engine.dispose()
    empty = parse_url(postgresql_empty_url).database
    assert empty is not None
    for question in CATALOGUE:
        made, wanted = postgresql.execute(name, question), postgresql.execute(empty, question)
        assert made == wanted
        assert len(wanted) >= 7
    columns = {row[2]: row[3] for row in postgresql.execute(name, CATALOGUE[0]) if row[0] == "credential"}
    assert {columns[each] for each in ("mac", "spki", "wrapped_sk", "wrapped_kcar", "rn")} == {"bytea"}
    assert {columns[each] for each in ("version", "x", "failures", "created")} == {"bigint"}


def test_a_store_is_made_in_an_empty_database_only(postgresql: Postgresql, postgresql_empty_url: str) -> None:
    with pytest.raises(StoreMissing, match="holds no store"):
        Store.open(postgresql_empty_url)
    with pytest.raises(StoreMissing, match="holds no store"):
        Store.upgrade(postgresql_empty_url)
    with Store.create(postgresql_empty_url) as store:
        Person(1).enrol(store)
        with pytest.raises(StoreError, match="already"):
            Store.create(postgresql_empty_url)
        assert len(list(store.list_records())) == 1


def test_of_two_who_make_a_store_one_does(postgresql_empty_url: str) -> None:
    together = threading.Barrier(2)

    def make() -> str:
        together.wait()
        try:
            Store.create(postgresql_empty_url).close()
        except StoreError as error:
            return error.message
        return "made"

    with ThreadPoolExecutor() as pool:
        said = sorted(each.result() for each in [pool.submit(make) for _ in range(2)])
    assert said.count("made") == sum("already" in each for each in said) == 1
    Store.open(postgresql_empty_url).close()


def test_an_installation_with_its_store_on_a_server(tmp_path: Path, postgresql_empty_url: str) -> None:
    needs.softhsm_module()
    home = tmp_path / "home"
    wanted = NewInstallation(home, softhsm_conf=SOFTHSM_CONF, store_url=postgresql_empty_url)
    assert initialise(wanted, no_prompt).store.url == postgresql_empty_url
    assert not list(home.glob("store.db*"))
    with Installation.open(home).server() as server:
        still_signs(server, make_person(server, tmp_path, "alice"))


# --- what is sent ------------------------------------------------------------------------------------------


@pytest.fixture
def sent(store: Store) -> list[str]:
    """Every statement of every method of the store, run once."""
    found: list[ClauseElement] = []

    def before(_connection: Any, element: Any, *_: Any) -> None:
        found.append(element)

    event.listen(Engine, "before_execute", before)
    try:
        _use_everything(store)
    finally:
        event.remove(Engine, "before_execute", before)
    dialect = dialects.dialect()  # type: ignore[no-untyped-call]
    return [str(each.compile(dialect=dialect)) for each in found if isinstance(each, ClauseElement)]


def _use_everything(opened: Store) -> None:
    opened.begin(*first_of_installation())
    assert opened.installation()
    with opened.changing_installation(1) as change:
        change.write(*next_of_installation(change.position))
    alice, bob = Person(1).enrol(opened), Person(2).enrol(opened)
    alice.activate(opened)
    alice.sign(opened, "a")
    alice.refused(opened)
    opened.carried_out(alice.id, sha("D", "a"), sha("Q", "a"))
    assert list(opened.newest_first(alice.id, 2))
    opened.find("user1")
    assert opened.pending_before(TIME + 1) == [bob.id]
    alice.certify(opened, b"leaf")
    assert opened.certificates(alice.id) == (b"leaf",)
    with opened.appending(bob.id) as chain:
        assert chain.refusal_times(1) == []
        chain.count_refusal()
    assert opened.counted_refusals() == [bob.id]
    bob.expire(opened)
    opened.last_entry()
    opened.probe_write()
    opened.forget()
    assert len(list(opened.list_records())) == len(opened.record_page(None, 9)) == 1
    assert len(opened.record_page(None, 9, "user1")) == 1
    assert opened.page(1, 2)
    assert opened.page(1, 2, alice.id)
    for chosen in (None, alice.id):
        for limit in (None, 2):
            assert list(opened.entries(chosen, limit=limit))
    for upto in (None, 2):
        assert list(opened.heads(upto))
    with opened.snapshot() as snapshot:
        assert list(snapshot.records())
        assert snapshot.installation()
        written = list(snapshot.chains())
        assert not list(snapshot.clients())
    opened.seal_entries(written)
    row = put_client(
        opened, ClientRow("portal", b"\x01", sha("t"), sha("c"), None, TIME, "root", sha("mac"), 0, None)
    )
    assert opened.age_of_client(row) == (1, row.evidence_head)
    assert len(opened.clients()) == 1
    assert opened.client_by_name("portal")
    assert opened.client_by_token_hash(sha("t"))
    assert opened.client_by_certificate_hash(sha("c"))
    drop_client(opened, "portal")
    opened.revoke_access(sha("access"), TIME, sha("mac"), now=TIME)
    assert opened.given_back(sha("access"))


def test_every_method_was_used() -> None:
    """A new one has to be added above."""
    classes = (*Store.__mro__[:-1], Snapshot)
    public = {name for each in classes for name in vars(each) if not name.startswith("_")}
    here = inspect.getsource(_use_everything) + inspect.getsource(Person) + inspect.getsource(put_client)
    used = {name for name in public if f".{name}(" in here}
    assert public - used == {"create", "open", "close", "discard", "upgrade"}
    assert len(used) > 25


def test_values_are_bound_and_never_written_out(sent: list[str]) -> None:
    # Two outcomes are written out: the program's own words, without which no index over refusals is used.
    assert [each for each in sent if "'" in each.replace(schema.UNCOUNTED_REFUSAL, "")] == []
    assert len(set(sent)) >= 25


def test_a_writer_locks_the_row_it_has_read(sent: list[str]) -> None:
    """What BEGIN IMMEDIATE is on SQLite: two writers never start from the same version."""
    locking = [each for each in sent if "FOR UPDATE" in each]
    dialect = dialects.dialect()  # type: ignore[no-untyped-call]
    locks = (statements.LOCK, statements.LOCK_INSTALLATION)
    assert set(locking) == {str(lock.compile(dialect=dialect)) for lock in locks}
    # insert has no row to lock yet; there the keys decide.
    said = "the installation, activate, sign, the refusal, the counted one, expire, certificates"
    assert len(locking) == 7, said


# --- settings of a connection ------------------------------------------------------------------------------


def test_settings_of_a_connection(postgresql: Postgresql, postgresql_url: str, name: str) -> None:
    with Store.open(postgresql_url, busy_timeout=0.25) as store:
        assert shown(store, "lock_timeout") == "250ms"
        assert shown(store, "statement_timeout") == "30250ms"
        assert shown(store, "idle_in_transaction_session_timeout") == "2min"
        assert shown(store, "application_name") == "hsm-signer"
        assert shown(store, "transaction_isolation") == "repeatable read"
        with store._writer.connect() as connection:
            level = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        assert level == "read committed"
        with store.snapshot() as snapshot:
            for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
                assert snapshot._connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == "0"
        assert shown(store, "statement_timeout") == "30250ms", "the next transaction has it again"
    with Store.open(f"{postgresql_url}&application_name=other", busy_timeout=0.0) as store:
        assert shown(store, "application_name") == "other"
        assert shown(store, "lock_timeout") == "1ms", "0 would mean for ever"


@pytest.mark.parametrize(("theirs", "ours"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
def test_what_was_committed_is_on_the_disk(
    postgresql: Postgresql, postgresql_url: str, name: str, theirs: str, ours: str
) -> None:
    postgresql.execute(name, f"ALTER DATABASE {name} SET synchronous_commit = {theirs}")
    with Store.open(postgresql_url) as store:
        assert shown(store, "synchronous_commit") == ours


def test_a_store_uses_few_connections(postgresql: Postgresql, postgresql_url: str, name: str) -> None:
    with Store.open(postgresql_url, busy_timeout=0.1, connections=2) as store, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(store.snapshot())
        with pytest.raises(StoreBusy, match="all connections"):
            store.find("alice")
        stack.close()
        assert store.find("alice") == []
        assert postgresql.execute("postgres", CONNECTIONS, name) == [(2,)]


# --- waiting -----------------------------------------------------------------------------------------------


def test_nobody_waits_for_ever_for_a_row(postgresql: Postgresql, postgresql_url: str, name: str) -> None:
    with Store.open(postgresql_url, busy_timeout=0.2) as store, postgresql.connect(name) as other:
        alice = Person(1).enrol(store)
        with other.transaction():
            other.execute("SELECT 1 FROM credential FOR UPDATE")
            with pytest.raises(StoreBusy):
                alice.activate(store)
            assert store.load(alice.id).sealed == alice.sealed, "readers do not wait"
        alice.activate(store)


def test_nobody_waits_for_ever_for_an_answer(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_STATEMENT_TIMEOUT", 0.4)
    with Store.open(postgresql_url, busy_timeout=0.1) as store:
        with pytest.raises(StoreBusy, match="not answered in time"), store._reading() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(30)")
        with store.snapshot() as snapshot:
            snapshot._connection.exec_driver_sql("SELECT pg_sleep(0.9)")


def suspend(store: Store, person: Person, before: Callable[[], object]) -> None:
    """Write in a transaction in which ``before`` happens first."""
    with store.changing(person.id, 1) as change:
        before()
        change.write(*person.next(change.position, Event.SUSPEND))


def test_the_database_waits_for_nobody_for_ever(
    store: Store, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that hangs in the middle of a write keeps others from that row: until the server ends it."""
    alice = Person(1).enrol(store)
    monkeypatch.setattr(database, "_IDLE_TIMEOUT", 0.1)
    with Store.open(postgresql_url) as slow:
        with pytest.raises(StoreUnavailable):
            suspend(slow, alice, lambda: time.sleep(0.5))
        with slow.snapshot() as snapshot:
            time.sleep(0.5)
            assert len(list(snapshot.records())) == 1
    assert store.load(alice.id).sealed == alice.sealed
    assert len(list(store.entries())) == 1
    alice.activate(store)


@contextmanager
def unfinished(store: Store, person: Person, *, fails: bool = False) -> Iterator[None]:
    """An entry is written and has its number; within the block it is not committed."""
    reached, go_on = threading.Event(), threading.Event()

    def after(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO evidence"):
            reached.set()
            assert go_on.wait(30)
            if fails:
                raise KeyError("the writer gives up")

    event.listen(store._engine, "after_cursor_execute", after)
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(person.refused, store)
        try:
            assert reached.wait(30)
            yield
        finally:
            go_on.set()
        if fails:
            with pytest.raises(KeyError):
                writing.result()
        else:
            writing.result()
    event.remove(store._engine, "after_cursor_execute", after)


@pytest.mark.parametrize("fails", [False, True])
def test_a_page_waits_for_a_lower_number_that_is_not_committed(
    postgresql: Postgresql, store: Store, postgresql_url: str, name: str, fails: bool
) -> None:
    """Or whoever goes on after the higher number would never see it."""
    with Store.open(postgresql_url) as slow, ThreadPoolExecutor() as pool:
        alice, bob = Person(1).enrol(store), Person(2).enrol(store)
        with unfinished(slow, alice, fails=fails):
            bob.refused(store)
            assert [number for number, _ in store.page(1, 1)] == [2], "nothing is missing there"
            assert [number for number, _ in store.page(0, 9, bob.id)] == [2, 4], "nor in one chain"
            page, last = pool.submit(store.page, 2, 9), pool.submit(store.last_entry)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
            until(lambda: postgresql.execute("postgres", waiting, name) == [(2,)])
            assert not page.done()
        assert [number for number, _ in page.result()] == ([4] if fails else [3, 4])
        assert last.result() == 4
        assert [number for number, _ in store.page(0, 9)] == ([1, 2, 4] if fails else [1, 2, 3, 4])


def test_a_page_does_not_wait_for_ever_and_leaves_nothing_out(store: Store, postgresql_url: str) -> None:
    with Store.open(postgresql_url, busy_timeout=0.2) as hasty:
        alice, bob = Person(1).enrol(store), Person(2).enrol(store)
        with unfinished(store, alice):
            bob.refused(hasty)
            with pytest.raises(StoreBusy):
                hasty.page(0, 9)
        assert [number for number, _ in hasty.page(0, 9)] == [1, 2, 3, 4]


# --- who may ------------------------------------------------------------------------------------------------


def test_a_database_that_is_not_there(postgresql: Postgresql) -> None:
    for use in (Store.open, Store.create, Store.upgrade):
        with pytest.raises(StoreMissing, match="there is no database postgresql://") as caught:
            use(postgresql.url("nowhere"))
        assert "createdb" in (caught.value.hint or "")


def test_a_user_whom_the_server_does_not_know(postgresql: Postgresql, name: str) -> None:
    with pytest.raises(StoreError, match="does not let us in") as caught:
        Store.open(postgresql.url(name, user="nobody"))
    assert not caught.value.retryable


def test_a_user_who_may_only_read(postgresql: Postgresql, store: Store, name: str) -> None:
    alice = Person(1).enrol(store)
    postgresql.execute(name, f"CREATE ROLE reader_{name} LOGIN")
    try:
        postgresql.execute(name, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}")
        with Store.open(postgresql.url(name, user=f"reader_{name}")) as reader:
            assert reader.load(alice.id).sealed == alice.sealed
            assert len(reader.page(0, 9)) == 1
            with pytest.raises(StoreReadOnly):
                reader.probe_write()
            with pytest.raises(StoreReadOnly):
                Person(1).refused(reader)
    finally:
        postgresql.execute(name, f"DROP OWNED BY reader_{name}")
        postgresql.execute(name, f"DROP ROLE reader_{name}")


def test_a_server_that_only_reads(postgresql: Postgresql, postgresql_url: str, name: str) -> None:
    """As one does that follows another."""
    postgresql.execute(name, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with Store.open(postgresql_url) as store:
        assert store.find("alice") == []
        with pytest.raises(StoreReadOnly):
            store.probe_write()


# --- damage ------------------------------------------------------------------------------------------------


def test_tables_and_rows_that_somebody_changed(postgresql: Postgresql, store: Store, name: str) -> None:
    alice = Person(1).enrol(store)
    postgresql.execute(name, "UPDATE credential SET rn = '\\x00'")
    with pytest.raises(RecordDamaged, match="field rn is not 32 bytes"):
        store.load(alice.id)
    postgresql.execute(name, "UPDATE evidence SET digests = '\\x00'")
    with pytest.raises(StoreDamaged, match="field digests is not"):
        list(store.entries())
    postgresql.execute(name, "DROP TABLE evidence")
    with pytest.raises(StoreDamaged, match="does not hold what its version says"):
        store.load(alice.id)


# --- connections that break --------------------------------------------------------------------------------

CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


def test_a_connection_that_was_ended_is_not_used_again(
    postgresql: Postgresql, store: Store, name: str
) -> None:
    alice = Person(1).enrol(store)
    for _ in range(3):
        assert len(postgresql.execute("postgres", END_ALL, name)) == 1
        until(lambda: postgresql.execute("postgres", CONNECTIONS, name) == [(0,)])
        alice.refused(store)
    assert len(list(store.entries())) == 4


def test_a_connection_that_ends_in_the_middle_of_a_write(
    postgresql: Postgresql, store: Store, name: str
) -> None:
    alice = Person(1).enrol(store)
    with pytest.raises(StoreUnavailable) as caught:
        suspend(store, alice, lambda: postgresql.execute("postgres", END_ALL, name))
    assert caught.value.retryable
    assert store.load(alice.id).sealed == alice.sealed
    alice.activate(store)


@pytest.mark.database
def test_a_server_that_stops_and_comes_back(tmp_path: Path) -> None:
    """The store is open all the time; what was answered is there."""
    needs.postgresql()
    from tests.support.postgresql import running

    with running(fsync="on") as server:
        url = server.url(server.make())
        with Store.create(url, busy_timeout=1) as store:
            alice = Person(1).enrol(store)
            for end in (server.kill, server.stop):
                end()
                for ask in (lambda: store.load(alice.id), lambda: alice.refused(store), store.probe_write):
                    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
                        ask()
                    assert caught.value.retryable
                with pytest.raises(StoreUnavailable):
                    Store.open(url)
                server.start()
                alice.refused(store)
            assert len(list(store.entries())) == 3


def test_a_password_is_not_repeated(postgresql: Postgresql) -> None:
    url = postgresql.url("nowhere").replace("postgres@", "postgres:hunter2@")
    with pytest.raises(StoreMissing) as caught:
        Store.open(url)
    assert re.search("hunter2", f"{caught.value} {caught.value.hint}") is None

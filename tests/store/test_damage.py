"""A database that is locked, closed to writing, cut, or written by somebody else: always a clear error."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from hsm_signer.errors import (
    CredentialUnknown,
    RecordDamaged,
    SignerError,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreMissing,
    StoreReadOnly,
)
from hsm_signer.evidence.findings import Finding
from hsm_signer.store.database import sqlite_url
from hsm_signer.store.store import Store
from hsm_signer.types import Event
from tests.support.factories import Person, check_mac, new_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(new_store(path)) as opened:
        yield opened


def execute(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


# --- the way to the file -----------------------------------------------------------------------------------


def test_a_missing_file_is_not_made(path: Path) -> None:
    for use in (Store.open, Store.upgrade):
        with pytest.raises(StoreMissing):
            use(sqlite_url(path))
    assert not path.exists()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        Store.open(sqlite_url(tmp_path))
    with pytest.raises(StoreError, match="is no file"):
        Store.create(sqlite_url(tmp_path))


def test_a_store_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Store.create(sqlite_url(tmp_path / "no" / "store.db"))


def test_a_file_that_vanishes_is_not_made_again(store: Store, path: Path) -> None:
    Person(1).enrol(store)
    store.close()
    path.unlink()
    with pytest.raises(StoreMissing):
        Person(2).enrol(store)
    assert not path.exists()


def test_locked_by_another_process(store: Store, path: Path) -> None:
    alice = Person(1).enrol(store)
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with Store.open(sqlite_url(path), busy_timeout=0.05) as impatient:
            # Readers do not wait for the writer.
            assert impatient.load(alice.id).sealed == alice.sealed
            with pytest.raises(StoreBusy) as caught, impatient.changing(alice.id, 1):
                pytest.fail("entered for nothing")
            assert caught.value.retryable
            assert caught.value.__cause__ is not None
            with pytest.raises(StoreBusy):
                Store.upgrade(sqlite_url(path), busy_timeout=0.05)
            holder.communicate()
            alice.activate(impatient)


def as_nobody(act: Callable[[], None]) -> None:
    """Run ``act`` in a child without the rights of root, to whom no file is closed."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            act()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def shown() -> Iterator[Path]:
    """A folder that others may enter; pytest's own may not."""
    with TemporaryDirectory() as folder:
        made = Path(folder)
        made.chmod(0o755)
        yield made
        made.chmod(0o755)


def refuses_to_write(path: Path, alice: Person) -> None:
    with Store.open(sqlite_url(path)) as store:
        assert store.load(alice.id).sealed == alice.sealed
        assert len(list(store.entries())) == 1
        writes: list[Callable[[], object]] = [
            lambda: alice.refused(store),
            lambda: alice.activate(store),
            lambda: alice.expire(store),
            lambda: Person(2).enrol(store),
        ]
        for write in writes:
            with pytest.raises(StoreReadOnly) as caught:
                write()
            assert caught.value.__cause__ is not None
            assert caught.value.hint


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o777), (0o444, 0o555), (0o666, 0o555)])
def test_closed_to_writing(shown: Path, file_mode: int, folder_mode: int) -> None:
    path = shown / "store.db"
    with Store.open(new_store(path)) as store:
        alice = Person(1).enrol(store)
    path.chmod(file_mode)
    shown.chmod(folder_mode)
    as_nobody(lambda: refuses_to_write(path, alice))


def test_closed_to_writing_while_another_process_writes(shown: Path) -> None:
    """The reader sees what is still in the log."""
    path = shown / "store.db"
    with Store.open(new_store(path)) as store:
        alice = Person(1).enrol(store)
        for file in shown.iterdir():
            file.chmod(0o644)
        shown.chmod(0o755)
        as_nobody(lambda: refuses_to_write(path, alice))


def test_no_store_can_be_made_in_a_closed_folder(shown: Path) -> None:
    shown.chmod(0o555)

    def refuses() -> None:
        with pytest.raises(StoreReadOnly):
            Store.create(sqlite_url(shown / "store.db"))

    as_nobody(refuses)
    assert list(shown.iterdir()) == []


def test_closed_to_reading(shown: Path) -> None:
    path = shown / "store.db"
    new_store(path)
    path.chmod(0o600)

    def refuses() -> None:
        with pytest.raises(StoreError, match="cannot be read"):
            Store.open(sqlite_url(path))

    as_nobody(refuses)


# --- the file's bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"not a database at all, and long enough", bytes(5000), b"\xff" * 5000])
def test_garbage(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)
    for use in (Store.open, Store.create, Store.upgrade):
        with pytest.raises(StoreDamaged, match="not a database"):
            use(sqlite_url(path))
    assert path.read_bytes() == garbage


def read_everything(url: str) -> None:
    with Store.open(url) as store:
        for sealed in store.list_records():
            store.load(sealed.record.credential_id)
            store.find(sealed.record.owner)
        list(store.entries())
        list(store.heads())


def test_a_truncated_file(store: Store, path: Path) -> None:
    for number in range(1, 20):
        Person(number).enrol(store)
    store.close()
    whole = path.read_bytes()
    failed = 0
    for length in range(100, len(whole), 1777):
        path.write_bytes(whole[:length])
        try:
            read_everything(sqlite_url(path))
        except (StoreDamaged, RecordDamaged, StoreMissing):
            failed += 1
    assert failed >= len(whole) // 1777 - 2


def test_flipped_bytes_never_crash(store: Store, path: Path) -> None:
    for number in range(1, 4):
        Person(number).enrol(store)
    store.close()
    whole = path.read_bytes()
    for at in range(0, len(whole), 997):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        for beside in ("-wal", "-shm"):
            Path(f"{path}{beside}").unlink(missing_ok=True)
        with suppress(SignerError):
            read_everything(sqlite_url(path))


def test_a_table_taken_away(store: Store, path: Path) -> None:
    alice = Person(1).enrol(store)
    execute(path, "DROP TABLE evidence")
    with pytest.raises(StoreDamaged, match="evidence"):
        store.load(alice.id)
    with pytest.raises(StoreDamaged):
        alice.activate(store)
    assert store.find(alice.record.owner) == [alice.sealed]


# --- one value ---------------------------------------------------------------------------------------------

ANYTHING: tuple[Any, ...] = (
    None,
    -1,
    2**62,
    1.5,
    float("inf"),
    "text",
    "",
    "nul\0in text",
    b"",
    b"b",
    bytes(31),
    bytes(70000),
)


def becomes_text(value: Any) -> bool:
    """SQLite writes numbers into a text column as their digits."""
    return isinstance(value, int | float) or value == "text"


# Values that are some other good value of the field: those are the MAC's to notice.
PLAUSIBLE: dict[str, Callable[[Any], bool]] = {
    "version": lambda v: v == 2**62,
    "owner": becomes_text,
    "token_serial": lambda v: v == "" or becomes_text(v),
    "spki": lambda v: v in (b"b", bytes(31)),
    "parameter": lambda v: v in (None, b"b", bytes(31)),
    "wrapped_sk": lambda v: v in (None, b"b", bytes(31)),
    "wrapped_kcar": lambda v: v is None,
    "x": lambda v: v in (None, 2**62),
    "rn": lambda v: v is None,
    "rn_next": lambda v: v is None,
    "request_hash": lambda v: v is None,
    "evidence_head": lambda v: v is None,
    "request": lambda v: v in (None, b"b", bytes(31)),
    "created": lambda v: v == 2**62,
}
RECORD_COLUMNS = [
    "format",
    "mac_key_id",
    "version",
    "owner",
    "status",
    "scheme",
    "combine",
    "pin_policy",
    "pin_check",
    "token_serial",
    "mk_id",
    "spki",
    "algorithms",
    "parameter",
    "wrapped_kcar",
    "wrap_mechanism",
    "wrapped_sk",
    "x",
    "rn",
    "rn_next",
    "failures",
    "card_serial",
    "assurance",
    "request_hash",
    "evidence_head",
    "mac",
    "request",
    "created",
]


def loosen(path: Path, table: str) -> None:
    """Drop every constraint: whoever writes the file is not bound by any."""
    connection = sqlite3.connect(path)
    connection.executescript(
        f"ALTER TABLE {table} RENAME TO was; CREATE TABLE {table} AS SELECT * FROM was; DROP TABLE was"
    )
    connection.close()


@pytest.mark.parametrize("column", RECORD_COLUMNS)
def test_anything_in_a_column_of_a_record(store: Store, path: Path, column: str) -> None:
    alice, bob = Person(1).enrol(store), Person(2).enrol(store)
    loosen(path, "credential")
    for value in ANYTHING:
        execute(path, f"UPDATE credential SET {column} = ? WHERE credential_id = ?", value, alice.id)
        if PLAUSIBLE.get(column, lambda _: False)(value):
            loaded = store.load(alice.id)
            if column not in ("request", "created"):
                assert not check_mac(loaded.sealed)
            continue
        with pytest.raises(RecordDamaged, match=f"field {column} is not") as caught:
            store.load(alice.id)
        assert alice.id.hex() in str(caught.value)
        if column in ("request", "created"):
            continue
        with pytest.raises(RecordDamaged, match=f"field {column} is not"):
            list(store.list_records())
        # The others can still be read.
        damaged: list[Finding] = []
        assert list(store.list_records(damaged.append)) == [bob.sealed]
        assert [(f.code, f.credential_id) for f in damaged] == [("record.damaged", alice.id)]
        assert store.find(bob.record.owner) == [bob.sealed]
    assert store.load(bob.id).sealed == bob.sealed


def test_text_that_is_no_utf_8(store: Store, path: Path) -> None:
    alice = Person(1).enrol(store)
    execute(path, "UPDATE credential SET owner = CAST(x'ff00fe' AS TEXT)")
    with pytest.raises(RecordDamaged, match="field owner"):
        store.load(alice.id)


@pytest.mark.parametrize("value", [v for v in ANYTHING if not isinstance(v, float)])
def test_anything_as_credential_id(store: Store, path: Path, value: Any) -> None:
    alice = Person(1).enrol(store)
    loosen(path, "credential")
    execute(path, "UPDATE credential SET credential_id = ?", value)
    with pytest.raises(CredentialUnknown):
        store.load(alice.id)
    with pytest.raises(RecordDamaged, match="field credential_id"):
        store.find(alice.record.owner)
    with pytest.raises(RecordDamaged, match="field credential_id"):
        list(store.list_records())
    assert store.pending_before(2**62) == []


ENTRY_COLUMNS = [
    "sequence",
    "time",
    "event",
    "outcome",
    "record_version",
    "actor",
    "previous",
    "d",
    "nonce",
    "x",
    "algorithm",
    "mode",
    "h",
    "quantities_hash",
    "digests",
    "signatures",
]
PLAUSIBLE_ENTRY: dict[str, Callable[[Any], bool]] = {
    "sequence": lambda v: v == 2**62,
    "outcome": becomes_text,
    "record_version": lambda v: v == 2**62,
    "actor": lambda v: v == "" or becomes_text(v),
    "x": lambda v: v in (None, 2**62),
    **{name: lambda v: v is None for name in ("d", "nonce", "algorithm", "mode", "h", "quantities_hash")},
}


@pytest.mark.parametrize("column", ENTRY_COLUMNS)
def test_anything_in_a_column_of_an_entry(store: Store, path: Path, column: str) -> None:
    alice, bob = Person(1).enrol(store), Person(2).enrol(store)
    loosen(path, "evidence")
    for value in ANYTHING:
        execute(path, f"UPDATE evidence SET {column} = ? WHERE credential_id = ?", value, alice.id)
        if PLAUSIBLE_ENTRY.get(column, lambda _: False)(value):
            store.load(alice.id)
            assert len(list(store.entries())) == 2
            continue
        with pytest.raises(StoreDamaged, match=f"field {column} is not"):
            list(store.entries())
        damaged: list[Finding] = []
        with store.snapshot() as snapshot:
            assert [sealed.entry.credential_id for sealed in snapshot.chains(damaged.append)] == [bob.id]
        assert [(f.code, f.credential_id) for f in damaged] == [("entry.damaged", alice.id)]
        if value is not None and column in ("sequence", "record_version"):
            # What a version or a chain is continued from has to be good.
            with pytest.raises(StoreDamaged):
                store.load(alice.id)


@pytest.mark.parametrize("value", [v for v in ANYTHING if v != bytes(32)])
def test_anything_as_the_hash_at_the_end_of_a_chain(store: Store, path: Path, value: Any) -> None:
    alice = Person(1).enrol(store)
    loosen(path, "evidence")
    execute(path, "UPDATE evidence SET hash = ?", value)
    with pytest.raises(StoreDamaged, match="the end of the evidence"):
        alice.write(store, Event.SUSPEND)
    with pytest.raises(StoreDamaged):
        alice.refused(store)


def test_lists_that_do_not_add_up(store: Store, path: Path) -> None:
    Person(1).enrol(store)
    for value in (
        b"\xff\xff\xff\xff",
        b"\0\0\0\1",
        b"\0\0\0\1\0\0\0\x20" + bytes(31),
        b"\0\0\0\1\0\0\0\x20" + bytes(33),
        b"\0\0\0\1\xff\xff\xff\xff" + bytes(32),
        b"\0\0\0\0\0",
        b"\0\0\0\1\0\0\0\0",
    ):
        for column in ("digests", "signatures"):
            execute(path, f"UPDATE evidence SET {column} = ?", value)
            if column == "signatures" and value == b"\0\0\0\1\0\0\0\x20" + bytes(32):
                continue
            with pytest.raises(StoreDamaged, match=f"field {column}"):
                list(store.entries())
            execute(path, f"UPDATE evidence SET {column} = ?", bytes(4))
    assert len(list(store.entries())) == 1

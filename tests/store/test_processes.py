"""Several connections and processes at once, and one that is killed: no evidence lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from hsm_signer.core.canonical import entry_hash
from hsm_signer.errors import RecordConflict
from hsm_signer.evidence.chain import check_chain
from hsm_signer.store.store import Store
from hsm_signer.types import Event, EvidenceEntry
from tests.support.factories import Person, check_mac, new_store

ROOT = str(Path(__file__).parents[2])

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.support.factories import Person
from hsm_signer.errors import RecordConflict
from hsm_signer.store.store import Store
from hsm_signer.types import Event

person = Person(1)
rounds = conflicts = 0
with Store.open(sys.argv[2], busy_timeout=30) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    while rounds < 100:
        person.record = store.load(person.id).sealed.record
        if rounds % 10 == 9:
            person.refused(store)
        try:
            person.write(store, Event.SIGN, d=bytes([rounds]) * 32)
        except RecordConflict:
            conflicts += 1
            continue
        rounds += 1
print(conflicts)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store on either database."""
    if request.param == "sqlite":
        return new_store(tmp_path / "store.db")
    return str(request.getfixturevalue("postgresql_url"))


def test_two_processes_write_one_credential(url: str) -> None:
    with Store.open(url) as store, ExitStack() as stack:
        Person(1).enrol(store)
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, ROOT, url],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            out, _ = writer.communicate(timeout=60)
            assert writer.returncode == 0
            assert out.strip().isdigit()
        loaded = store.load(Person(1).id)
        chain = [entry for _, entry in store.entries(loaded.sealed.record.credential_id)]
    assert list(check_chain(loaded.sealed.record.credential_id, chain)) == []
    accepted = [entry for entry in chain if entry.outcome == "accepted"]
    assert len(accepted) == 201
    assert [entry.record_version for entry in accepted] == list(range(1, 202))
    # Each process wrote each of its hundred once.
    written = sorted(entry.d for entry in accepted if entry.d)
    assert written == sorted([bytes([n]) * 32 for n in range(100)] * 2)
    assert loaded.sealed.record.version == loaded.newest_version == 201
    assert loaded.sealed.record.evidence_head == entry_hash(accepted[-1])
    assert check_mac(loaded.sealed)


def test_threads_share_a_store(url: str) -> None:
    with Store.open(url, busy_timeout=30) as store:
        people = [Person(number).enrol(store) for number in range(1, 5)]
        errors: list[BaseException] = []

        def run(person: Person) -> None:
            try:
                for _ in range(15):
                    person.write(store, Event.SUSPEND)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(person,)) for person in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert [head.sequence for head in store.heads()] == [16] * 4
        assert [number for number, _ in store.entries()] == list(range(1, 65))


def test_two_connections_in_turn(url: str) -> None:
    """The reader of an old version loses, whichever connection it has."""
    with Store.open(url) as one, Store.open(url) as other:
        person = Person(1).enrol(one)
        for turn in range(20):
            winner, loser = (one, other) if turn % 2 else (other, one)
            stale = person.record.version
            person.write(winner, Event.SUSPEND)
            with pytest.raises(RecordConflict), loser.changing(person.id, stale):
                pytest.fail("written twice")
        assert one.load(person.id) == other.load(person.id)


def killed(act: Callable[[Store], object], url: str) -> None:
    """Run a write in a child that is killed in the middle of it."""
    child = os.fork()
    if child == 0:
        try:
            with Store.open(url) as store:
                act(store)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_before_the_commit_changes_nothing(url: str) -> None:
    """Before it has written anything, and when it has written everything."""
    with Store.open(url) as store:
        alice = Person(1).enrol(store)
        alice.activate(store)
        before = list(store.list_records()), list(store.entries())

    def change(store: Store, *, written: bool) -> None:
        with store.changing(alice.id, 2) as change:
            if written:
                change.write(*alice.next(change.position, Event.SUSPEND))
            die()

    def append(store: Store, *, written: bool) -> None:
        with store.appending(alice.id) as chain:
            if written:
                chain.append(alice.refusal(chain.position))
            die()

    for act in (change, append):
        for written in (False, True):
            killed(partial(act, written=written), url)
    with Store.open(url) as store:
        assert (list(store.list_records()), list(store.entries())) == before
        # Neither is the lock left behind.
        alice.sign(store, "a")


def test_a_process_killed_between_its_two_writes_changes_nothing(url: str) -> None:
    """The record is written, the evidence is not yet: neither may be seen."""
    with Store.open(url) as store:
        alice = Person(1).enrol(store)
        before = list(store.list_records()), list(store.entries())

    def dying(store: Store) -> Store:
        from sqlalchemy import event

        @event.listens_for(store._engine, "before_cursor_execute")
        def before(_conn: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.startswith("INSERT INTO evidence"):
                die()

        return store

    killed(lambda store: alice.activate(dying(store)), url)
    killed(lambda store: Person(2).enrol(dying(store)), url)
    killed(lambda store: alice.expire(dying(store)), url)
    with Store.open(url) as store:
        assert (list(store.list_records()), list(store.entries())) == before
        alice.activate(store)


APPENDER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.support.factories import Person
from hsm_signer.store.store import Store

with Store.open(sys.argv[2], busy_timeout=30) as store:
    people = [Person(number) for number in map(int, sys.argv[3:])]
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(60):
        for person in people:
            person.refused(store, version=0)
"""


def test_whoever_pages_on_while_two_others_write_misses_nothing(url: str) -> None:
    """Each page goes on after the last number of the one before, and never back."""
    with Store.open(url, busy_timeout=30) as store, ExitStack() as stack:
        people = [Person(number).enrol(store) for number in range(1, 7)]
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", APPENDER, ROOT, url, *numbers],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for numbers in ("123", "456")
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        seen: list[tuple[int, EvidenceEntry]] = []
        pages, writing = 0, True
        while writing:
            # Asked before the page is read: the page after the last entry is read, too.
            writing = any(writer.poll() is None for writer in writers)
            while page := store.page(seen[-1][0] if seen else 0, 7):
                seen += page
                pages += 1
        assert [writer.wait() for writer in writers] == [0, 0]
        assert seen == list(store.entries())
    assert len(seen) == 6 + 2 * 60 * 3
    assert pages > len(seen) // 7 + 1, "it read while they wrote, or nothing was shown"
    for person in people:
        chain = [entry for _, entry in seen if entry.credential_id == person.id]
        assert list(check_chain(person.id, chain)) == []

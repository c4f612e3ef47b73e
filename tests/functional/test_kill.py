"""Kill -9 at every step of signing and of enrolment: a process of its own is killed, then all goes on.

Of a database on a server the process is killed, and the server, too.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_signer.card.address import create_card
from hsm_signer.errors import CredentialExists, CredentialPending, CredentialUnknown, WrongKey
from hsm_signer.store.database import sqlite_url
from hsm_signer.testing import PIN, Home, Person, make_person
from hsm_signer.types import ACCEPTED, FAILURES_BEFORE_LOCK, Content, Event, KeySpec, PinCheck, Scheme, Status
from hsm_signer.workstation.enrolment import (
    enrol,
)
from tests.support import needs, processes, victim
from tests.support.people import digests, use_store
from tests.support.scenes import authorise, chain, message, passing_wrong_pins, still_signs, verifies

CONTENT = message(b"signed while the power fails")
BATCH = digests(b"one", b"two", b"three")
AROUND_THE_COMMIT = ("step 6", "record written", "evidence written", "step 9", "released")
KILLED: list[tuple[str, Content, str]] = [
    *((name, CONTENT, point) for name in ("alice", "paula", "basil") for point in victim.SIGN_POINTS),
    *(("alice", BATCH, point) for point in AROUND_THE_COMMIT),
    *((name, CONTENT, point) for name in ("bob", "peter") for point in AROUND_THE_COMMIT),
]
KILLED_ON_POSTGRESQL: list[tuple[str, Content, str]] = [
    *(("alice", CONTENT, point) for point in victim.SIGN_POINTS),
    *(("paula", BATCH, point) for point in AROUND_THE_COMMIT),
]


def _labels(cases: list[tuple[str, Content, str]]) -> list[str]:
    return [f"{name}-{'batch' if content is BATCH else 'message'}-{point}" for name, content, point in cases]


@pytest.mark.parametrize(("name", "content", "point"), KILLED, ids=_labels(KILLED))
def test_killed_while_signing(home: Home, tmp_path: Path, name: str, content: Content, point: str) -> None:
    _killed_while_signing(home, tmp_path, name, content, point)


@pytest.mark.parametrize(
    ("name", "content", "point"), KILLED_ON_POSTGRESQL, ids=_labels(KILLED_ON_POSTGRESQL)
)
def test_killed_while_signing_on_postgresql(
    postgresql_home: Home, tmp_path: Path, name: str, content: Content, point: str
) -> None:
    """The server takes back what the dead process had begun."""
    _killed_while_signing(postgresql_home, tmp_path, name, content, point)


def _killed_while_signing(home: Home, tmp_path: Path, name: str, content: Content, point: str) -> None:
    person = home[name]
    with home.server() as server:
        request = authorise(server, person, content)
        before = person.record(server)
        row, entries = server.store.load(before.credential_id), chain(server, before.credential_id)
    released = tmp_path / "released"

    code = processes.run(victim.sign, home.path, request, point, released)

    assert code == -signal.SIGKILL
    with home.server() as server:
        committed = point in victim.COMMITTED
        after = chain(server, before.credential_id)
        added = after[len(entries) :]
        assert after[: len(entries)] == entries
        assert server.audit().good, "evidence and record agree"
        assert [each.outcome for each in added] == [ACCEPTED] * committed
        if not committed:
            assert server.store.load(before.credential_id) == row
        # No signature was released without evidence.
        assert released.exists() == (point == "released")
        if released.exists():
            assert added[0].signatures[0] == released.read_bytes()
        for each in added:
            assert len(each.signatures) == (len(BATCH.digests) if content is BATCH else 1)

        # Asking again with the very same request: the stored answer, or now for the first time.
        again = server.sign(request)
        assert again.repeated == committed
        if committed:
            assert again.signatures == added[0].signatures
        verifies(again, content)
        signed = [each for each in chain(server, before.credential_id) if each.event is Event.SIGN]
        assert len(signed) == 1, "signed once, whatever happened"
        still_signs(server, person)


def test_a_process_that_is_not_killed_signs(home: Home, tmp_path: Path) -> None:
    """Or the test above would show nothing about what it does at each point."""
    alice = home["alice"]
    with home.server() as server:
        request = authorise(server, alice, CONTENT)
    assert processes.run(victim.sign, home.path, request, "never", tmp_path / "released") == 0
    with home.server() as server:
        again = server.sign(request)
        assert again.repeated
        assert again.signatures[0] == (tmp_path / "released").read_bytes()


@pytest.mark.parametrize("scheme", [Scheme.ROLLING, Scheme.PIN])
@pytest.mark.parametrize("point", victim.FAILURE_POINTS)
def test_killed_while_a_wrong_key_is_counted(home: Home, tmp_path: Path, scheme: Scheme, point: str) -> None:
    _killed_while_counting(home, tmp_path, scheme, point)


@pytest.mark.parametrize("point", victim.FAILURE_POINTS[1:])
def test_killed_while_a_wrong_key_is_counted_on_postgresql(
    postgresql_home: Home, tmp_path: Path, point: str
) -> None:
    _killed_while_counting(postgresql_home, tmp_path, Scheme.ROLLING, point)


def _killed_while_counting(home: Home, tmp_path: Path, scheme: Scheme, point: str) -> None:
    """Neither uncounted nor counted twice: the same request, sent again, finds it counted or counts it."""
    with home.server() as server:
        carol = make_person(server, tmp_path, "carol", scheme=scheme, pin_check=PinCheck.SERVER)
        (wrong,) = passing_wrong_pins(carol, 1, PIN)
        request = authorise(server, carol, CONTENT, pin=wrong)
        before = carol.record(server)
        row, entries = server.store.load(before.credential_id), chain(server, before.credential_id)

    code = processes.run(victim.sign, home.path, request, point, tmp_path / "released")

    assert code == -signal.SIGKILL
    assert not (tmp_path / "released").exists()
    with home.server() as server:
        counted = point == "counted"
        added = chain(server, before.credential_id)[len(entries) :]
        assert [each.outcome for each in added] == [WrongKey.code] * counted
        assert carol.record(server).failures == counted
        assert (server.store.load(before.credential_id) == row) == (not counted)
        assert server.audit().good, "evidence and record agree"

        for _ in range(2):
            with pytest.raises(WrongKey):
                server.sign(request)
            assert carol.record(server).failures == 1
        for number in range(2, FAILURES_BEFORE_LOCK + 1):
            with pytest.raises(WrongKey):
                server.sign(authorise(server, carol, CONTENT, pin=wrong))
            assert carol.record(server).failures == number
        assert carol.record(server).status is Status.LOCKED
        server.change_status(before.credential_id, Event.UNLOCK)
        still_signs(server, carol)


@pytest.mark.parametrize("scheme", [Scheme.ROLLING, Scheme.PIN, Scheme.BASIC])
@pytest.mark.parametrize("point", victim.ENROL_POINTS)
def test_killed_while_enrolling(home: Home, tmp_path: Path, scheme: Scheme, point: str) -> None:
    _killed_while_enrolling(home, tmp_path, scheme, point)


@pytest.mark.parametrize("point", [*victim.ENROL_POINTS[:6], "step 8", "step 9", "returned"])
def test_killed_while_enrolling_on_postgresql(postgresql_home: Home, tmp_path: Path, point: str) -> None:
    _killed_while_enrolling(postgresql_home, tmp_path, Scheme.ROLLING, point)


def _killed_while_enrolling(home: Home, tmp_path: Path, scheme: Scheme, point: str) -> None:
    """The same command with the same card finishes what was begun, or begins anew; nothing is in its way."""
    carol = Person("carol", scheme, KeySpec.P256, tmp_path / "carol.card")
    create_card(carol.address)

    code = processes.run(victim.enrolment, home.path, carol, point)

    assert code == -signal.SIGKILL
    points = list(victim.ENROL_POINTS)
    recorded = points.index(point) >= points.index("record committed")
    installed = points.index(point) >= points.index("card has written")
    active = points.index(point) >= points.index("step 9")
    with home.server() as server:
        assert server.audit().good
        try:
            status: Status | None = carol.record(server).status
        except CredentialUnknown:
            status = None
        assert status == (Status.ACTIVE if active else Status.PENDING if recorded else None)

        wanted = victim.wanted_enrolment("carol", scheme)
        if active:
            with pytest.raises(CredentialExists):
                enrol(server, carol.card, wanted)
        else:
            enrolled = enrol(server, carol.card, wanted)
            assert enrolled.resumed == installed
            assert enrolled.credential.status is Status.ACTIVE
        still_signs(server, carol)
        records = [each for each in server.credentials() if each.owner == "carol"]
        assert [each.status for each in records] == [Status.ACTIVE], "nothing half made is left"


def test_killed_enrolment_leaves_a_card_that_signs_nothing_else(home: Home, tmp_path: Path) -> None:
    carol = Person("carol", Scheme.ROLLING, KeySpec.P256, tmp_path / "carol.card")
    create_card(carol.address)
    assert processes.run(victim.enrolment, home.path, carol, "card installed") == -signal.SIGKILL
    with home.server() as server, pytest.raises(CredentialPending):
        carol.sign(server, b"a contract")


def test_killed_card_owner_with_a_new_blank_card(home: Home, tmp_path: Path) -> None:
    """The card was lost with the power: the pending record does not stand in the way of a new one."""
    lost = Person("carol", Scheme.ROLLING, KeySpec.P256, tmp_path / "lost.card")
    create_card(lost.address)
    assert processes.run(victim.enrolment, home.path, lost, "card installed") == -signal.SIGKILL
    found = replace(lost, card_path=tmp_path / "new.card")
    create_card(found.address)
    with home.server() as server:
        assert not enrol(server, found.card, victim.wanted_enrolment("carol", Scheme.ROLLING)).resumed
        still_signs(server, found)
        with pytest.raises(CredentialUnknown):
            lost.sign(server)


# --- the database's server ---------------------------------------------------------------------------------


@pytest.mark.database
def test_the_database_server_is_killed_while_two_sign(
    home: Home, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    """And started again. The two processes live on, and what they have released is in evidence."""
    needs.postgresql()
    from tests.support.postgresql import copy_store, running

    people = [home["alice"], home["paula"]]
    stop, reports = tmp_path / "stop", [tmp_path / f"report{i}" for i in range(2)]
    with running(fsync="on", full_page_writes="on") as database:
        url = database.url(database.make())
        copy_store(sqlite_url(home.path / "store.db"), url)
        use_store(home, url)
        writing = [
            processes.start(victim.sign_on, home.path, person, report, stop)
            for person, report in zip(people, reports, strict=True)
        ]
        for end in (database.kill, database.stop, database.kill):
            _more_signatures(reports)
            end()
            _more_lines(reports, "store.unavailable")
            database.start()
        _more_signatures(reports)
        stop.touch()
        assert [processes.finish(each) for each in writing] == [0, 0]

        said = [[json.loads(line) for line in each.read_text().splitlines()] for each in reports]
        codes = Counter(code for lines in said for code, _, _ in lines)
        assert set(codes) == {"signed", "store.unavailable"}
        with home.server() as server:
            for person, lines in zip(people, said, strict=True):
                released = {
                    hashlib.sha256(text.encode()).digest(): bytes.fromhex(signature)
                    for code, text, signature in lines
                    if code == "signed"
                }
                accepted = {
                    each.digests[0]: each.signatures[0]
                    for each in chain(server, person.record(server).credential_id)
                    if each.event is Event.SIGN and each.outcome == ACCEPTED
                }
                # A commit whose answer was lost is in evidence and was not released; never the other way.
                assert set(released) <= set(accepted)
                still_signs(server, person)
            report = server.audit()
            assert report.good, report.findings
    tell(f"database server ended three times while two signed: {dict(codes)}")


def _lines(report: Path, code: str) -> int:
    return report.read_text().count(f'["{code}"') if report.exists() else 0


def _more_lines(reports: list[Path], code: str, count: int = 1) -> None:
    """Wait for ``count`` more lines with ``code`` in each report."""
    before = [_lines(each, code) for each in reports]
    deadline = time.monotonic() + 60
    while any(_lines(each, code) < many + count for each, many in zip(reports, before, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _more_signatures(reports: list[Path]) -> None:
    _more_lines(reports, "signed", 5)

"""Refusals are in evidence, all of them, and rows do not grow with their number."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from hsm_signer.errors import ChallengeStale, CredentialPending, Refused, WrongKey
from hsm_signer.server.refusals import MINUTE, SHARE, VARIOUS
from hsm_signer.server.server import Server
from hsm_signer.store.store import Store
from hsm_signer.testing import PIN, Home, Person, make_person
from hsm_signer.types import CredentialId, Event, EvidenceEntry, PinCheck, SigningRequest
from tests.support.enrolments import pending
from tests.support.factories import Person as Row
from tests.support.factories import new_store
from tests.support.scenes import altered, authorise, chain, message, passing_wrong_pins, sql, still_signs

NOW = 1_800_000_000_000_000


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def stale(server: Server, person: Person) -> SigningRequest:
    """A request that anybody can make without the card: of another challenge."""
    request = authorise(server, person)
    assert request.authorisation.x is not None
    return altered(request, x=request.authorisation.x + 1)


def refuse(server: Server, request: SigningRequest, times: int = 1) -> None:
    """It is sent so often, and refused each time."""
    for _ in range(times):
        with pytest.raises(ChallengeStale):
            server.sign(request)


def counted(server: Server) -> list[CredentialId]:
    return server.store.counted_refusals()


def of_refusals(entries: list[EvidenceEntry]) -> list[tuple[str, int | None]]:
    """Outcome, and how many where there is a number."""
    return [(entry.outcome, entry.x if entry.event is Event.REFUSALS else None) for entry in entries]


ONE = (ChallengeStale.code, None)


def test_refusals_beyond_the_share_of_a_minute_are_counted(home_on_each: Home, clock: Clock) -> None:
    alice = home_on_each["alice"]
    with home_on_each.server() as opened:
        server = dataclasses.replace(opened, clock=clock, actor="client portal")
        record = alice.record(server)
        request = stale(server, alice)
        before = len(chain(server, record.credential_id))

        def added() -> list[tuple[str, int | None]]:
            return of_refusals(chain(server, record.credential_id)[before:])

        refuse(server, request, SHARE)
        assert (added(), counted(server)) == ([ONE] * SHARE, [])
        refuse(server, request, 30)
        assert (added(), counted(server)) == ([ONE] * SHARE, [record.credential_id])
        # Not before a minute after the last that was written, whoever looks.
        clock.now += MINUTE - 1
        refuse(server, request)
        server.write_counted_refusals()
        assert added() == [ONE] * SHARE
        # Then their number, once, and before what comes next.
        clock.now += 1
        refuse(server, request)
        several = (Refused.code, 31)
        assert (added(), counted(server)) == ([ONE] * SHARE + [several, ONE], [])
        # It is one of the entries of its own minute.
        refuse(server, request, 30)
        assert added() == [ONE] * SHARE + [several] + [ONE] * (SHARE - 1)
        # Where nobody asks again, a worker writes it; a second one has nothing to write.
        clock.now += MINUTE
        server.write_counted_refusals()
        server.write_counted_refusals()
        assert added() == [ONE] * SHARE + [several] + [ONE] * (SHARE - 1) + [(Refused.code, 22)]
        assert counted(server) == []
        several_entry = chain(server, record.credential_id)[-1]
        assert (several_entry.actor, several_entry.record_version, several_entry.d) == (VARIOUS, 0, None)
        assert alice.record(server) == record
        still_signs(server, alice)


def test_a_wrong_key_has_its_entry_however_many_were_refused(
    server: Server, clock: Clock, tmp_path: Path
) -> None:
    """It is bounded by the lock, and changes the record."""
    server = dataclasses.replace(server, clock=clock)
    carol = make_person(server, tmp_path, "carol", pin_check=PinCheck.SERVER)
    credential_id = carol.record(server).credential_id
    refuse(server, stale(server, carol), SHARE + 5)
    (wrong,) = passing_wrong_pins(carol, 1, PIN)
    with pytest.raises(WrongKey):
        server.sign(authorise(server, carol, message(b"guessed"), pin=wrong))
    assert chain(server, credential_id)[-1].outcome == WrongKey.code
    assert carol.record(server).failures == 1
    # And takes nobody's place among the others.
    clock.now += MINUTE
    refuse(server, stale(server, carol))
    assert of_refusals(chain(server, credential_id))[-2:] == [(Refused.code, 5), ONE]


@pytest.mark.parametrize("ahead", [MINUTE, 3600 * 1_000_000])
def test_a_clock_that_was_ahead_stops_nothing(home: Home, server: Server, clock: Clock, ahead: int) -> None:
    alice = home["alice"]
    server = dataclasses.replace(server, clock=clock)
    credential_id = alice.record(server).credential_id
    request = stale(server, alice)
    clock.now += ahead
    refuse(server, request, SHARE + 1)
    clock.now -= ahead
    refuse(server, request)
    assert of_refusals(chain(server, credential_id))[-2:] == [(Refused.code, 1), ONE]


def test_what_was_counted_of_an_enrolment_is_written_before_its_end(
    server: Server, clock: Clock, tmp_path: Path
) -> None:
    server = dataclasses.replace(server, clock=clock)
    carol, _ = pending(server, tmp_path)
    credential_id = carol.record(server).credential_id
    request = authorise(server, carol, message(b"not the certificate request"))
    for _ in range(SHARE + 5):
        with pytest.raises(CredentialPending):
            server.sign(request)
    server.give_up_enrolment(credential_id)
    entries = chain(server, credential_id)
    assert [(entry.event, entry.x) for entry in entries[-2:]] == [(Event.REFUSALS, 5), (Event.EXPIRE, None)]
    assert counted(server) == []
    assert server.audit().good


@pytest.mark.parametrize("junk", ["text", -5, 2.5, b"\x01"])
def test_a_number_that_is_none_does_not_hide_a_refusal(home: Home, server: Server, junk: object) -> None:
    """Whoever writes the database can change the number to come, and no more than that."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    sql(home, "UPDATE credential SET counted_refusals = ? WHERE credential_id = ?", junk, credential_id)
    refuse(server, stale(server, alice))
    assert of_refusals(chain(server, credential_id))[-1] == ONE
    server.write_counted_refusals()
    still_signs(server, alice)


def test_the_highest_number_is_not_exceeded(home: Home, server: Server, clock: Clock) -> None:
    alice = home["alice"]
    server = dataclasses.replace(server, clock=clock)
    credential_id = alice.record(server).credential_id
    highest = 2**63 - 1
    refuse(server, stale(server, alice), SHARE)
    sql(home, "UPDATE credential SET counted_refusals = ? WHERE credential_id = ?", highest, credential_id)
    refuse(server, stale(server, alice), 2)
    clock.now += MINUTE
    server.write_counted_refusals()
    assert of_refusals(chain(server, credential_id))[-1] == (Refused.code, highest)


def test_the_number_is_what_was_counted(tmp_path: Path) -> None:
    """A mistake of the caller that no audit could find."""
    with Store.open(new_store(tmp_path / "store.db")) as store:
        alice = Row(1).enrol(store)

        def refusals(number: int) -> None:
            with store.appending(alice.id) as locked:
                locked.append(
                    alice.refusal(locked.position, outcome="refused", event=Event.REFUSALS, x=number)
                )

        for number in (0, 1):
            with pytest.raises(ValueError, match="were counted"):
                refusals(number)
        for _ in range(3):
            with store.appending(alice.id) as locked:
                locked.count_refusal()
        with pytest.raises(ValueError, match="were counted"):
            refusals(2)
        assert store.counted_refusals() == [alice.id]
        refusals(3)
        assert store.counted_refusals() == []


def test_refusals_are_found_by_an_index(tmp_path: Path) -> None:
    """However long a chain is, and however many credentials there are."""
    plans: list[str] = []

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.startswith("SELECT") and (
            "outcome <>" in statement or "counted_refusals >" in statement
        ):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.append(" ".join(str(row[-1]) for row in rows))

    with Store.open(new_store(tmp_path / "store.db")) as store:
        alice = Row(1).enrol(store)
        event.listen(Engine, "before_cursor_execute", explain)
        try:
            with store.appending(alice.id) as locked:
                locked.refusal_times(SHARE)
                locked.leave()
            store.counted_refusals()
        finally:
            event.remove(Engine, "before_cursor_execute", explain)
    assert [("evidence_refused" in plan, "credential_refusals" in plan) for plan in plans] == [
        (True, False),
        (False, True),
    ], plans
    assert not any("SORT" in plan.upper() or "TEMP" in plan for plan in plans)

"""An act that needs two clients' words: what is the first, what ends it, what becomes of forged ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as struct_replace

from hsm_signer.core.interface import PendingApproval
from hsm_signer.errors import (
    ApprovalSameClient,
    ChallengeStale,
    CredentialRevoked,
    CredentialSuspended,
    EvidenceDamaged,
    NotPermitted,
    RecordConflict,
    StatusUnsuitable,
)
from hsm_signer.server import approval
from hsm_signer.server.approval import Approvals
from hsm_signer.server.server import Server
from hsm_signer.testing import Home
from hsm_signer.types import ACCEPTED, CredentialId, CredentialRecord, Event, Scheme, Status, SuspendedBy
from tests.support.enrolments import pending
from tests.support.scenes import authorise, chain, entries_of, put_chain, sql, still_signs

from .test_forged_evidence import columns_of, overwrite

HOUR = 3600
KNOWN = {"client a", "client b", "client c"}
"""Who may ask, but for client removed."""


def ask(
    server: Server, name: str, credential_id: CredentialId, event: Event, by: SuspendedBy = SuspendedBy.ADMIN
) -> CredentialRecord | PendingApproval:
    """A client of this name asks for an act that needs two."""
    asking = replace(server, actor=f"client {name}")
    return asking.approve_status(credential_id, event, by, HOUR, lambda actor: actor in KNOWN)


def done(answer: CredentialRecord | PendingApproval) -> CredentialRecord:
    assert isinstance(answer, CredentialRecord), answer
    return answer


def awaited(answer: CredentialRecord | PendingApproval) -> PendingApproval:
    assert isinstance(answer, PendingApproval), answer
    return answer


def test_the_first_word_changes_nothing_and_the_second_carries_out(home_on_each: Home) -> None:
    with home_on_each.server() as server:
        alice = home_on_each["alice"]
        before = alice.record(server)
        number = before.credential_id

        first = awaited(ask(server, "a", number, Event.REVOKE))
        word = chain(server, number)[-1]
        assert (word.event, word.outcome, word.x, word.actor) == (Event.ASKED, ACCEPTED, 7, "client a")
        assert first == PendingApproval(number, Event.REVOKE, "client a", word.time + HOUR * 1_000_000)
        after = alice.record(server)
        unchanged = [name for name in before.__struct_fields__ if name not in ("version", "evidence_head")]
        assert all(getattr(before, name) == getattr(after, name) for name in unchanged)
        assert after.version == before.version + 1

        with pytest.raises(ApprovalSameClient, match="client a has asked already to revoke"):
            ask(server, "a", number, Event.REVOKE)
        assert alice.record(server) == after
        # Its user cannot hold it up.
        still_signs(server, alice)

        revoked = done(ask(server, "b", number, Event.REVOKE))
        assert (revoked.status, revoked.wrapped_sk) == (Status.REVOKED, None)
        entry = chain(server, number)[-1]
        assert (entry.event, entry.actor) == (Event.REVOKE, "client a + client b")
        with pytest.raises(CredentialRevoked):
            alice.sign(server, b"too late")
        assert server.audit().good


def test_a_word_is_good_for_its_time(home: Home, server: Server) -> None:
    number = home["alice"].record(server).credential_id
    word = awaited(ask(server, "a", number, Event.REVOKE))
    late = replace(server, clock=lambda: word.until + 1)
    anew = awaited(ask(late, "b", number, Event.REVOKE))
    assert (anew.actor, anew.until) == ("client b", word.until + 1 + HOUR * 1_000_000)
    assert server.credential_by_id(number).status is Status.ACTIVE
    # The last moment counts, and it is the other one's word that does now.
    last = replace(server, clock=lambda: anew.until)
    assert done(ask(last, "a", number, Event.REVOKE)).status is Status.REVOKED
    assert chain(server, number)[-1].actor == "client b + client a"


def test_a_change_of_status_ends_every_word(home: Home, server: Server) -> None:
    number = home["alice"].record(server).credential_id
    server.change_status(number, Event.SUSPEND)
    awaited(ask(server, "a", number, Event.RESUME))
    assert done(ask(server, "b", number, Event.RESUME)).status is Status.ACTIVE
    server.change_status(number, Event.SUSPEND)
    # Suspended a second time: nobody has said a word about that.
    assert awaited(ask(server, "b", number, Event.RESUME)).actor == "client b"
    assert server.credential_by_id(number).status is Status.SUSPENDED


def test_a_word_of_who_may_not_ask_any_more_counts_for_nothing(home: Home, server: Server) -> None:
    number = home["alice"].record(server).credential_id
    awaited(ask(server, "removed", number, Event.REVOKE))
    assert awaited(ask(server, "b", number, Event.REVOKE)).actor == "client b"
    assert done(ask(server, "a", number, Event.REVOKE)).status is Status.REVOKED


@pytest.mark.parametrize("event", [None, Event.SUSPEND], ids=["a refusal", "a suspension"])
def test_an_entry_in_between_is_a_conflict(
    home_on_each: Home, monkeypatch: pytest.MonkeyPatch, event: Event | None
) -> None:
    """Between the look back and the write: nothing is carried out by what was seen before."""
    with home_on_each.server() as server:
        alice = home_on_each["alice"]
        number = alice.record(server).credential_id
        stale = authorise(server, alice, b"stale")
        alice.sign(server, b"newer")
        awaited(ask(server, "a", number, Event.REVOKE))
        find = Approvals._first_word

        def interrupted(self: Approvals, *arguments: Any) -> Any:
            found = find(self, *arguments)
            if event is None:
                with pytest.raises(ChallengeStale):
                    server.sign(stale)
            else:
                server.change_status(number, event)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(Approvals, "_first_word", interrupted)
            with pytest.raises(RecordConflict):
                ask(server, "b", number, Event.REVOKE)
        assert server.credential_by_id(number).status is not Status.REVOKED
        again = ask(server, "b", number, Event.REVOKE)
        if event is None:
            assert done(again).status is Status.REVOKED
        else:
            assert awaited(again).actor == "client b"
        assert server.audit().good


def test_a_word_is_for_one_act(home: Home, server: Server) -> None:
    number = home["alice"].record(server).credential_id
    server.change_status(number, Event.SUSPEND)
    awaited(ask(server, "a", number, Event.RESUME))
    assert awaited(ask(server, "b", number, Event.REVOKE)).act is Event.REVOKE
    assert server.credential_by_id(number).status is Status.SUSPENDED
    # Another act that was only asked for ends nothing.
    assert done(ask(server, "c", number, Event.RESUME)).status is Status.ACTIVE
    assert chain(server, number)[-1].actor == "client a + client c"


def test_what_cannot_be_done_is_not_asked_for(home: Home, server: Server) -> None:
    alice = home["alice"]
    number = alice.record(server).credential_id
    with pytest.raises(StatusUnsuitable):
        ask(server, "a", number, Event.RESUME)
    server.change_status(number, Event.SUSPEND)
    entries = chain(server, number)
    with pytest.raises(NotPermitted, match="suspended by an administrator"):
        ask(server, "a", number, Event.RESUME, SuspendedBy.REGISTRAR)
    assert chain(server, number) == entries
    awaited(ask(server, "a", number, Event.RESUME))
    with pytest.raises(NotPermitted, match="suspended by an administrator"):
        ask(server, "b", number, Event.RESUME, SuspendedBy.REGISTRAR)
    assert server.credential_by_id(number).status is Status.SUSPENDED


def test_a_word_is_looked_for_only_so_far_back(
    home: Home, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a suspended credential makes no such entries, so that nobody is held up."""
    alice = home["alice"]
    number = alice.record(server).credential_id
    monkeypatch.setattr(approval, "MAX_BETWEEN", 2)
    awaited(ask(server, "a", number, Event.REVOKE))
    alice.sign(server, b"one")
    alice.sign(server, b"two")
    assert awaited(ask(server, "b", number, Event.REVOKE)).actor == "client b"
    alice.sign(server, b"three")
    assert done(ask(server, "a", number, Event.REVOKE)).status is Status.REVOKED


def test_an_enrolment_that_somebody_asked_to_revoke_can_be_given_up(
    home: Home, server: Server, tmp_path: Path
) -> None:
    carol, _ = pending(server, tmp_path, Scheme.PIN)
    number = carol.record(server).credential_id
    awaited(ask(server, "a", number, Event.REVOKE))
    server.give_up_enrolment(number)
    assert server.audit().good


# --- who writes the database -------------------------------------------------------------------------------


def another_actor(home: Home, number: CredentialId) -> None:
    sql(home, "UPDATE evidence SET actor = 'client b' WHERE credential_id = ? AND event = 35", number)


def another_act(home: Home, number: CredentialId) -> None:
    sql(home, "UPDATE evidence SET x = 6 WHERE credential_id = ? AND event = 35", number)


def another_time(home: Home, number: CredentialId) -> None:
    sql(home, "UPDATE evidence SET time = time + 1 WHERE credential_id = ? AND event = 35", number)


FORGERIES = [another_actor, another_act, another_time]


@pytest.mark.parametrize("forge", FORGERIES)
@pytest.mark.parametrize("signed", [False, True], ids=["at the end", "with a signature after it"])
def test_a_changed_word_is_nobodys(
    home: Home, server: Server, forge: Callable[[Home, CredentialId], None], signed: bool
) -> None:
    alice = home["alice"]
    number = alice.record(server).credential_id
    server.change_status(number, Event.SUSPEND)
    server.change_status(number, Event.RESUME)
    awaited(ask(server, "a", number, Event.REVOKE))
    if signed:
        alice.sign(server, b"in between")
    good = entries_of(home, number)
    forge(home, number)
    forged = entries_of(home, number)
    assert forged != good, "the attacker has changed it"
    for name in ("a", "b"):
        with pytest.raises(EvidenceDamaged):
            ask(server, name, number, Event.REVOKE)
    assert entries_of(home, number) == forged
    put_chain(home, number, good)
    assert done(ask(server, "b", number, Event.REVOKE)).status is Status.REVOKED


def test_a_refusal_is_not_made_a_word(home: Home, server: Server) -> None:
    """It comes after the entry that the record names, and nothing follows it yet."""
    alice = home["alice"]
    number = alice.record(server).credential_id
    request = authorise(server, alice, b"refused")
    server.change_status(number, Event.SUSPEND)
    with pytest.raises(CredentialSuspended):
        server.sign(request)
    last = chain(server, number)[-1]
    assert last.outcome == CredentialSuspended.code
    overwrite(server, last, columns_of(struct_replace(last, event=Event.ASKED, outcome=ACCEPTED, x=7)))
    assert chain(server, number)[-1].event is Event.ASKED
    with pytest.raises(EvidenceDamaged, match="MAC of entry"):
        ask(server, "b", number, Event.REVOKE)
    assert server.credential_by_id(number).status is Status.SUSPENDED


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_word_that_was_used_is_not_used_again(home: Home, server: Server, how: str) -> None:
    """The second client alone, and a hand in the database that hides what ended the word."""
    alice = home["alice"]
    number = alice.record(server).credential_id
    server.change_status(number, Event.SUSPEND)
    awaited(ask(server, "a", number, Event.RESUME))
    done(ask(server, "b", number, Event.RESUME))
    server.change_status(number, Event.SUSPEND)
    # Any entry that is accepted comes after them, so that the record names none of what is hidden.
    awaited(ask(server, "c", number, Event.REVOKE))
    used = next(entry for entry in chain(server, number) if entry.event is Event.ASKED)
    hidden = f"credential_id = ? AND sequence > {used.sequence} AND event <> 35"
    if how == "removed":
        sql(home, f"DELETE FROM evidence WHERE {hidden}", number)
    else:
        sql(home, f"UPDATE evidence SET event = 10 WHERE {hidden}", number)
    assert not any(
        entry.event in (Event.RESUME, Event.SUSPEND)
        for entry in chain(server, number)
        if entry.sequence > used.sequence
    ), "as the database has it, the word stands"
    with pytest.raises(EvidenceDamaged):
        ask(server, "b", number, Event.RESUME)
    assert server.credential_by_id(number).status is Status.SUSPENDED

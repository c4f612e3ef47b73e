"""Pending, suspended, locked, revoked: what each may sign, also where it becomes so during a signature."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from msgspec.structs import replace

from hsm_signer.core import algorithms
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import (
    ChallengeStale,
    CredentialExists,
    CredentialLocked,
    CredentialPending,
    CredentialRevoked,
    CredentialSuspended,
    CredentialUnknown,
    RecordConflict,
    SignerError,
    StatusUnsuitable,
    TokenError,
)
from hsm_signer.server.server import Server
from hsm_signer.store.database import sqlite_url
from hsm_signer.store.store import Store
from hsm_signer.testing import Home, make_person
from hsm_signer.token.workspace import TokenWorkspace
from hsm_signer.types import (
    ACCEPTED,
    Algorithm,
    CredentialId,
    DigestList,
    Event,
    KeySpec,
    Message,
    Scheme,
    SignOutcome,
    Status,
)
from hsm_signer.workstation.retry import BACKOFF
from hsm_signer.workstation.signing import (
    submit,
)
from tests.support.enrolments import pending
from tests.support.people import digests
from tests.support.scenes import (
    altered,
    authorise,
    chain,
    credential_row,
    database,
    message,
    refused,
    rewrite,
    sql,
    still_signs,
    verifies,
    windows_found,
)

AT_ONCE = dataclasses.replace(BACKOFF, sleep=lambda _: None)


# --- pending -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", list(Scheme))
def test_pending_signs_its_certificate_request_and_nothing_else(
    home: Home, server: Server, tmp_path: Path, scheme: Scheme
) -> None:
    carol, request_info = pending(server, tmp_path, scheme)
    record = carol.record(server)
    assert record.status is Status.PENDING

    for content in (
        message(b"a contract"),
        message(b""),
        message(request_info + b"\0"),
        digests(request_info),
        digests(b"a contract"),
    ):
        request = authorise(server, carol, content)
        with refused(home, server, record.credential_id, CredentialPending):
            server.sign(request)
    # The request of another user, authorised by this card.
    other = authorise(
        server, carol, server.request_info(home["alice"].record(server).credential_id).request_info
    )
    with refused(home, server, record.credential_id, CredentialPending):
        server.sign(other)
    assert carol.record(server).status is Status.PENDING

    outcome = carol.sign(server, request_info)
    verifies(outcome, message(request_info))
    assert carol.record(server).status is Status.ACTIVE
    entry = chain(server, record.credential_id)[-1]
    assert (entry.event, entry.outcome) == (Event.ACTIVATE, ACCEPTED)
    still_signs(server, carol)


def test_request_swapped_after_authorisation_does_not_activate(
    home: Home, server: Server, tmp_path: Path
) -> None:
    carol, request_info = pending(server, tmp_path)
    record = carol.record(server)
    request = authorise(server, carol, b"a contract")
    with pytest.raises(SignerError):
        server.sign(altered(request, content=message(request_info)))
    assert carol.record(server).status is Status.PENDING
    assert carol.record(server).failures == 0
    assert chain(server, record.credential_id)[-1].outcome == "authorisation.mismatch"


def test_pending_is_given_up_after_a_day_and_not_before(home: Home, server: Server, tmp_path: Path) -> None:
    carol, request_info = pending(server, tmp_path)
    record = carol.record(server)
    hour = 3_600_000_000
    now = server.clock()
    for later, gone in ((23 * hour, False), (25 * hour, True)):
        clock = dataclasses.replace(server, clock=lambda later=later: now + later)  # type: ignore[misc]
        make_person(clock, tmp_path, f"dave{later // hour}")
        if gone:
            with pytest.raises(CredentialUnknown):
                carol.record(server)
        else:
            assert carol.record(server) == record
    with pytest.raises(CredentialUnknown):
        carol.sign(server, request_info)
    assert server.audit().good


# --- suspended, locked, revoked ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
def test_suspended(home: Home, server: Server, name: str) -> None:
    person = home[name]
    credential_id = person.record(server).credential_id
    request = authorise(server, person)
    done = server.sign(authorise(server, person, b"before"))
    server.change_status(credential_id, Event.SUSPEND)

    with refused(home, server, credential_id, CredentialSuspended):
        server.sign(request)
    with pytest.raises(CredentialSuspended):
        server.challenge(credential_id)
    server.change_status(credential_id, Event.RESUME)
    assert person.record(server).status is Status.ACTIVE
    assert not done.repeated
    still_signs(server, person)


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
def test_locked(home: Home, server: Server, name: str) -> None:
    person = home[name]
    record = person.record(server)
    rewrite(server, record, lambda it: replace(it, status=Status.LOCKED, failures=5))
    with pytest.raises(CredentialLocked):
        person.sign(server)
    server.change_status(record.credential_id, Event.UNLOCK)
    assert person.record(server).failures == 0
    still_signs(server, person)


def test_lock_survives_suspending_and_resuming(home: Home, server: Server) -> None:
    alice = home["alice"]
    record = rewrite(server, alice.record(server), lambda it: replace(it, status=Status.LOCKED, failures=5))
    server.change_status(record.credential_id, Event.SUSPEND)
    with pytest.raises(StatusUnsuitable):
        server.change_status(record.credential_id, Event.UNLOCK)
    server.change_status(record.credential_id, Event.RESUME)
    with pytest.raises(CredentialLocked):
        alice.sign(server)


@pytest.mark.parametrize("name", ["alice", "bob", "paula", "peter", "basil"])
def test_revoked(home: Home, server: Server, name: str) -> None:
    """What opens SK is deleted; the tombstone keeps PK, and old answers are not given out again."""
    person = home[name]
    record = person.record(server)
    answered = authorise(server, person, b"before")
    outcome = server.sign(answered)
    waiting = authorise(server, person, b"waiting")

    server.change_status(record.credential_id, Event.REVOKE)

    after = person.record(server)
    assert (after.status, after.wrapped_sk, after.wrapped_kcar) == (Status.REVOKED, None, None)
    assert after.spki == record.spki
    for request in (waiting, answered):
        with refused(home, server, record.credential_id, CredentialRevoked):
            server.sign(request)
    with pytest.raises(CredentialRevoked):
        person.sign(server)
    for event in (Event.SUSPEND, Event.RESUME, Event.UNLOCK, Event.REVOKE):
        with pytest.raises(StatusUnsuitable):
            server.change_status(record.credential_id, event)
    # What was signed before stays verifiable.
    verifies(outcome, message(b"before"))
    report = server.audit()
    assert report.good
    assert report.unchecked == 0


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
def test_what_revocation_deletes_is_in_no_file_of_the_store(home: Home, server: Server, name: str) -> None:
    """Nor are the wrappings of the signatures before: overwritten in the database and cut from its log."""
    person = home[name]
    wrapped: list[bytes] = []
    for _ in range(3):
        person.sign(server)
        record = person.record(server)
        wrapped += [bytes(each) for each in (record.wrapped_sk, record.wrapped_kcar) if each is not None]
    newest = [wrapped[-1]] if person.scheme is Scheme.BASIC else wrapped[-2:]
    for each in newest:
        assert windows_found(home, [each]), "before, it is there"

    server.change_status(record.credential_id, Event.REVOKE)

    assert not [name for name, _ in windows_found(home, wrapped) if name.startswith("store.db")]
    # Some builds of SQLite overwrite by themselves: here it is asked for.
    with server.store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1
    # Others are as they were.
    bob = home["bob"].record(server)
    assert bob.wrapped_sk is not None
    assert windows_found(home, [bob.wrapped_sk])
    still_signs(server, home["bob"])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE credential SET mac = zeroblob(32)",
        "UPDATE credential SET x = 'seven'",
        "UPDATE credential SET owner = 'nobody'",
        "UPDATE credential SET mk_id = zeroblob(8)",
        "UPDATE credential SET version = version + 1",
        "DELETE FROM evidence",
        "UPDATE evidence SET actor = 'somebody else'",
        "UPDATE evidence SET sequence = 'one'",
        "UPDATE evidence SET hash = zeroblob(32)",
    ],
)
def test_old_pending_record_that_is_damaged_stops_nobody_else(
    home: Home, server: Server, tmp_path: Path, damage: str
) -> None:
    carol, _ = pending(server, tmp_path)
    record = carol.record(server)
    sql(home, "UPDATE credential SET created = 1 WHERE credential_id = ?", record.credential_id)
    sql(home, f"{damage} WHERE credential_id = ?", record.credential_id)
    row = credential_row(home, record.credential_id)

    dave = make_person(server, tmp_path, "dave")

    verifies(dave.sign(server), message())
    assert credential_row(home, record.credential_id) in (row, None)
    if "hash" not in damage:
        assert not server.audit().good, "and the audit says what it is"


def test_revoked_user_can_be_enrolled_again(home: Home, server: Server, tmp_path: Path) -> None:
    alice = home["alice"]
    with pytest.raises(CredentialExists):
        make_person(server, tmp_path, "alice")
    server.change_status(alice.record(server).credential_id, Event.REVOKE)
    (tmp_path / "alice.card").unlink(missing_ok=True)
    again = make_person(server, tmp_path, "alice")
    assert len(server.credentials_of("alice")) == 2
    still_signs(server, again)


def test_nobody_revives_a_stranger(server: Server) -> None:
    with pytest.raises(CredentialUnknown):
        server.change_status(CredentialId(bytes(16)), Event.UNLOCK)


# --- while a signature is under way ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
@pytest.mark.parametrize("step", range(1, 9))
def test_revocation_while_a_signature_is_under_way(home: Home, server: Server, name: str, step: int) -> None:
    """Through a connection of its own to the same database, after each step until the commit: the
    revocation stands, nothing is released, and asking again says why."""
    person = home[name]
    credential_id = person.record(server).credential_id
    request = authorise(server, person)
    with Store.open(sqlite_url(database(home))) as other:
        operator = dataclasses.replace(server, store=other)
        released: list[bytes] = []

        def observe(done: int) -> None:
            if done == step:
                operator.change_status(credential_id, Event.REVOKE)

        with pytest.raises(RecordConflict) as caught:
            released += dataclasses.replace(server, observe=observe).sign(request).signatures
    assert caught.value.retryable
    assert released == []
    entries = chain(server, credential_id)
    assert entries[-1].event is Event.REVOKE
    assert [each for each in entries if each.event is Event.SIGN] == []

    with refused(home, server, credential_id, CredentialRevoked):
        submit(server, request, AT_ONCE)
    assert server.audit().good


@pytest.mark.parametrize("event", [Event.SUSPEND, Event.REVOKE])
def test_change_after_the_commit_comes_too_late(home: Home, server: Server, event: Event) -> None:
    """Step 9 is the moment: what was committed is released, and the change stands in the chain after it."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    request = authorise(server, alice)

    def observe(done: int) -> None:
        if done == 9:
            server.change_status(credential_id, event)

    outcome = dataclasses.replace(server, observe=observe).sign(request)
    verifies(outcome, message())
    assert [each.event for each in chain(server, credential_id)[-2:]] == [Event.SIGN, event]


def test_suspension_that_ends_before_the_commit_still_wins(home: Home, server: Server) -> None:
    """The version counts writes, so a status that went there and back is noticed, too; the request is good
    again afterwards."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    request = authorise(server, alice)
    once = [True]

    def observe(done: int) -> None:
        if done == 6 and once:
            once.clear()
            server.change_status(credential_id, Event.SUSPEND)
            server.change_status(credential_id, Event.RESUME)

    watched = dataclasses.replace(server, observe=observe)
    with pytest.raises(RecordConflict):
        watched.sign(request)
    verifies(submit(watched, request, AT_ONCE), message())
    still_signs(server, alice)


@pytest.mark.parametrize("name", ["alice", "paula"])
def test_another_signature_while_one_is_under_way(home: Home, server: Server, name: str) -> None:
    """Scheme rolling: the slower one is stale. Scheme pin: it is retried and both are signed."""
    person = home[name]
    credential_id = person.record(server).credential_id
    slow, quick = authorise(server, person, b"slow"), authorise(server, person, b"quick")
    once = [True]

    def observe(done: int) -> None:
        if done == 7 and once:
            once.clear()
            verifies(server.sign(quick), message(b"quick"))

    watched = dataclasses.replace(server, observe=observe)
    with pytest.raises(RecordConflict):
        watched.sign(slow)
    if person.scheme is Scheme.ROLLING:
        with pytest.raises(ChallengeStale):
            submit(watched, slow, AT_ONCE)
    else:
        verifies(submit(watched, slow, AT_ONCE), message(b"slow"))
    signed = [each for each in chain(server, credential_id) if each.event is Event.SIGN and each.signatures]
    assert len(signed) == (1 if person.scheme is Scheme.ROLLING else 2)
    still_signs(server, person)


def test_the_same_request_twice_at_once_is_signed_once(home: Home, server: Server) -> None:
    """Both have passed step 2 before either commits: one loses and is then told what the other got."""
    paula = home["paula"]
    credential_id = paula.record(server).credential_id
    request = authorise(server, paula)
    inner: list[SignOutcome] = []

    def observe(done: int) -> None:
        if done == 8 and not inner:
            inner.append(server.sign(request))

    watched = dataclasses.replace(server, observe=observe)
    with pytest.raises(RecordConflict):
        watched.sign(request)
    again = submit(watched, request, AT_ONCE)
    assert again == replace(inner[0], repeated=True)
    assert len([each for each in chain(server, credential_id) if each.event is Event.SIGN]) == 1


def test_nothing_is_lost_by_an_operation_that_fails_in_the_middle(home: Home, server: Server) -> None:
    """Whatever is raised between the steps: record and evidence stay as they were."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    request = authorise(server, alice)
    row, entries = credential_row(home, credential_id), chain(server, credential_id)
    for step in range(1, 9):

        def observe(done: int, step: int = step) -> None:
            if done == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            dataclasses.replace(server, observe=observe).sign(request)
    assert credential_row(home, credential_id) == row
    assert chain(server, credential_id) == entries
    verifies(server.sign(request), message())


def test_token_that_makes_a_wrong_signature_is_found_out(
    home: Home, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 6: every signature is verified with PK before anything is released or committed."""
    alice = home["alice"]
    credential_id = alice.record(server).credential_id
    request = authorise(server, alice)
    real = TokenWorkspace.sign

    def faulty(self: TokenWorkspace, sk: object, spec: KeySpec, algorithm: Algorithm, signed: bytes) -> bytes:
        return real(self, sk, spec, algorithm, bytes(len(signed)))  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(TokenWorkspace, "sign", faulty)
        with refused(home, server, credential_id, TokenError, noted=False):
            server.sign(request)
    verifies(server.sign(request), Message(BytesSource(b"message")))
    assert algorithms.key_spec_of(alice.record(server).spki) is KeySpec.P256


def test_ecdsa_of_an_empty_list_is_refused_by_the_card_driver_already(home: Home, server: Server) -> None:
    with pytest.raises(SignerError, match="digests: expected 1 to 65535"):
        authorise(server, home["alice"], DigestList(()))

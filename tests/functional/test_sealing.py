"""Sealing 2: SK opens in its own token only. What a copied row and a card give, and how old records move.

The attack is carried out with nothing but a row, a card's memory and the PIN, on no token: the same script
takes SK out of a record of sealing 1 and finds nothing in one of sealing 2.
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)
from msgspec.structs import replace
from sqlalchemy import select, update

from hsm_signer.errors import RecordDamaged, RecordOutdated, WrongKey, WrongKeyBefore
from hsm_signer.server.server import Server
from hsm_signer.store import schema
from hsm_signer.testing import PIN, Home, Person, make_person
from hsm_signer.token.workspace import TokenWorkspace
from hsm_signer.types import (
    Combine,
    CredentialId,
    CredentialRecord,
    Event,
    PinCheck,
    Scheme,
    Sealing,
    Status,
    SuspendedBy,
)
from tests.support.enrolments import pending
from tests.support.model import combined
from tests.support.older import as_older_versions_made_it, write_as_format_1
from tests.support.scenes import (
    authorise,
    card_keys,
    credential_row,
    message,
    passing_wrong_pins,
    put_row,
    refused,
    sql,
    still_signs,
    verifies,
)

EVERYBODY = pytest.mark.parametrize("name", ["alice", "bob", "paula", "peter", "basil"])
"""Scheme rolling, pin and basic; P-256 and RSA."""


@pytest.fixture
def server_on_each(home_on_each: Home) -> Iterator[Server]:
    """The server of ``home_on_each``, in this process."""
    with home_on_each.server() as opened:
        yield opened


# --- the attack --------------------------------------------------------------------------------------------


def opened_by(key: bytes, record: CredentialRecord) -> bool:
    """Whether this AES key opens wrap(SK), here, without the token; if so, it is the user's private key."""
    assert record.wrapped_sk is not None
    try:
        padded = keywrap.aes_key_unwrap_with_padding(key, record.wrapped_sk)
    except keywrap.InvalidUnwrap:
        return False
    # PKCS#8, which SoftHSM fills up with zeros before it wraps: 30 length, or 30 82 length(2).
    length = 2 + padded[1] if padded[1] < 0x80 else 4 + int.from_bytes(padded[2:4], "big")
    assert padded[length:] in (bytes(n) for n in range(8))
    sk = load_der_private_key(padded[:length], None)
    public = sk.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public == record.spki
    return True


def key_of_the_card(person: Person, record: CredentialRecord) -> bytes:
    """K for this row: V_x, KOWF or KEY, from the card's memory and the PIN."""
    _, kek = card_keys(person)
    return kek if record.rn is None else combined(record.combine, kek, record.rn)


def everything_in(home: Home, credential_id: CredentialId) -> set[bytes]:
    """Every 32 bytes in a row that stand in any of the row's values."""
    row = credential_row(home, credential_id)
    assert row is not None
    blobs = [value for value in row if isinstance(value, bytes)]
    return {bytes(32)} | {blob[i : i + 32] for blob in blobs for i in range(len(blob) - 31)}


def keys_to_try(home: Home, person: Person, record: CredentialRecord) -> Iterator[bytes]:
    """What can be made of the row, the card's memory and the PIN: K, and W(K) for every Y one could guess.

    Y is guessed to be a value of the row or of the card, or made with such a value as S.
    """
    kcar, kek = card_keys(person)
    k = key_of_the_card(person, record)
    yield k
    values = everything_in(home, record.credential_id) | {kek, k} | ({kcar} if kcar else set())
    for value in values:
        yield value
        s_guessed = hmac.digest(value, b"hsm-signer/2/seal" + record.credential_id, "sha256")
        for y in (value, s_guessed):
            yield combined(Combine.CBC, k, y)
            yield combined(Combine.XOR, k, y)
            yield combined(Combine.CBC, y, k)


@EVERYBODY
def test_a_copied_row_and_a_card_give_sk_at_sealing_1_and_nothing_at_sealing_2(
    home: Home, server: Server, name: str
) -> None:
    """With the row, the card's memory and the PIN; the token takes no part. Then with a revoked credential's
    old row, which is what a backup holds."""
    person = home[name]
    old = as_older_versions_made_it(server, person)
    assert old.sealing is Sealing.CARD
    assert opened_by(key_of_the_card(person, old), old), "the attack is a real one"

    person.sign(server)
    moved = person.record(server)
    assert moved.sealing is Sealing.TOKEN
    tried = list(keys_to_try(home, person, moved))
    assert len(tried) > 1000
    assert not any(opened_by(key, moved) for key in tried)

    row = credential_row(home, moved.credential_id)
    assert row is not None
    server.change_status(moved.credential_id, Event.REVOKE)
    revoked = server.credential_by_id(moved.credential_id)
    assert (revoked.wrapped_sk, revoked.wrapped_kcar, revoked.wrapped_seal) == (None, None, None)
    put_row(home, row)
    backup = server.store.load(moved.credential_id).sealed.record
    assert backup == moved
    assert not any(opened_by(key, backup) for key in keys_to_try(home, person, backup))
    with pytest.raises(RecordOutdated):
        server.challenge(moved.credential_id)
    # What was copied before the record moved stays what it was: such copies have to be destroyed.
    assert opened_by(key_of_the_card(person, old), old)


@EVERYBODY
def test_what_the_token_adds_is_what_is_missing(home: Home, server: Server, name: str) -> None:
    """Or the attack above would fail for another reason: with Y, which the token gives for KW_MK(S) alone,
    the very same row and card open."""
    person = home[name]
    record = person.record(server)
    assert record.wrapped_seal is not None
    with server.environment._workspace() as workspace:
        workspace.open_seal(record.wrapped_seal, record.credential_id)
        y = workspace._opens
    assert y is not None
    k = key_of_the_card(person, record)
    assert opened_by(combined(Combine.CBC, k, y), record)
    assert not opened_by(y, record), "Y without the card opens nothing"
    assert not opened_by(combined(Combine.CBC, bytes(32), y), record)


# --- old records move --------------------------------------------------------------------------------------


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with S and SK from now on, in order."""
    done: list[str] = []

    def noted(name: str, words: str) -> None:
        real = getattr(TokenWorkspace, name)

        def note(self: TokenWorkspace, *given: Any, **named: Any) -> Any:
            done.append(f"{words}{', extractable' if named.get('extractable') else ''}")
            return real(self, *given, **named)

        monkeypatch.setattr(TokenWorkspace, name, note)

    noted("new_seal", "S is drawn")
    noted("open_seal", "S is opened")
    noted("unwrap_sk", "SK is opened")
    noted("wrap_sk", "SK is wrapped")
    return done


@EVERYBODY
def test_a_record_of_sealing_1_moves_at_its_next_signature(
    home_on_each: Home, server_on_each: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S is drawn once, and SK extractable that once; the next signature opens S."""
    server, person = server_on_each, home_on_each[name]
    old = as_older_versions_made_it(server, person)
    assert (old.format, old.sealing, old.wrapped_seal) == (1, Sealing.CARD, None)
    done = watch(monkeypatch)

    verifies(person.sign(server, b"moves"), message(b"moves"))

    assert done == ["S is drawn", "SK is opened, extractable", "SK is wrapped"]
    moved = person.record(server)
    assert (moved.format, moved.sealing, moved.version) == (2, Sealing.TOKEN, old.version + 1)
    assert moved.wrapped_seal is not None
    assert len(moved.wrapped_seal) == 40
    assert moved.wrapped_sk != old.wrapped_sk
    unchanged = {"owner", "credential_id", "spki", "parameter", "wrapped_kcar", "wrap_mechanism"}
    assert all(getattr(moved, field) == getattr(old, field) for field in unchanged)
    done.clear()

    verifies(person.sign(server, b"again"), message(b"again"))

    rolls = person.scheme is Scheme.ROLLING
    opening = ["S is opened", "SK is opened, extractable" if rolls else "SK is opened"]
    assert done == [*opening, *(["SK is wrapped"] if rolls else [])]
    again = person.record(server)
    assert again.wrapped_seal == moved.wrapped_seal
    assert (again.wrapped_sk == moved.wrapped_sk) == (not rolls)
    still_signs(server, person)


def test_a_moved_record_says_all_the_same_as_one_enrolled_now(home: Home, server: Server) -> None:
    """But for what only an enrolment can know: the card's point, and its proof."""
    alice = home["alice"]
    assert alice.record(server).card_point is not None
    as_older_versions_made_it(server, alice)
    alice.sign(server)
    moved, enrolled = alice.record(server), home["bob"].record(server)
    assert (moved.format, moved.sealing) == (enrolled.format, enrolled.sealing)
    assert moved.card_point is None


def test_a_pending_record_of_sealing_1_is_sealed_as_it_becomes_active(
    home: Home, server: Server, tmp_path: Path
) -> None:
    carol, request_info = pending(server, tmp_path)
    old = as_older_versions_made_it(server, carol)
    assert (old.status, old.sealing) == (Status.PENDING, Sealing.CARD)
    carol.sign(server, request_info)
    record = carol.record(server)
    assert (record.status, record.sealing, record.format) == (Status.ACTIVE, Sealing.TOKEN, 2)
    still_signs(server, carol)


@pytest.mark.parametrize("scheme", [Scheme.ROLLING, Scheme.PIN])
def test_a_wrong_pin_counts_and_moves_nothing(
    home: Home, server: Server, tmp_path: Path, scheme: Scheme
) -> None:
    """The record is written, so it is one of format 2 from then on; it stays at sealing 1."""
    carol = make_person(server, tmp_path, "carol", scheme=scheme, pin_check=PinCheck.SERVER)
    (wrong,) = passing_wrong_pins(carol, 1, PIN)
    old = as_older_versions_made_it(server, carol)
    request = authorise(server, carol, b"m", pin=wrong)

    with pytest.raises(WrongKey):
        server.sign(request)
    with pytest.raises(WrongKeyBefore):
        server.sign(request)

    record = carol.record(server)
    assert (record.failures, record.sealing, record.wrapped_seal) == (1, Sealing.CARD, None)
    assert record.wrapped_sk == old.wrapped_sk
    assert (record.format, record.version) == (2, old.version + 1)
    assert opened_by(key_of_the_card(carol, record), record), "what it was before"
    still_signs(server, carol)
    record = carol.record(server)
    assert (record.failures, record.sealing) == (0, Sealing.TOKEN)


@EVERYBODY
def test_a_token_that_fails_while_a_record_moves_moves_nothing(
    home: Home, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the commit, it is as though nobody had asked; the same request is good again."""
    person = home[name]
    old = as_older_versions_made_it(server, person)
    request = authorise(server, person)
    for step in range(3, 9):

        def stop(done: int, step: int = step) -> None:
            if done == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            dataclasses.replace(server, observe=stop).sign(request)
        assert person.record(server) == old
    verifies(server.sign(request), message())
    assert person.record(server).sealing is Sealing.TOKEN


# --- records of format 1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
def test_a_record_of_format_1_is_written_as_format_2(
    home_on_each: Home, server_on_each: Server, name: str
) -> None:
    """It is read as it is, a change of status makes it format 2 and leaves it at sealing 1, and a signature
    then moves it."""
    server, person = server_on_each, home_on_each[name]
    old = as_older_versions_made_it(server, person)
    server.change_status(old.credential_id, Event.SUSPEND)
    suspended = person.record(server)
    assert (suspended.format, suspended.status) == (2, Status.SUSPENDED)
    assert (suspended.sealing, suspended.wrapped_seal) == (Sealing.CARD, None)
    assert suspended.wrapped_sk == old.wrapped_sk
    server.change_status(old.credential_id, Event.RESUME)
    still_signs(server, person)
    assert person.record(server).sealing is Sealing.TOKEN


def test_a_revoked_record_of_format_1_stays_readable(home: Home, server: Server) -> None:
    """Tombstones of older versions are never written again."""
    alice = home["alice"]
    old = as_older_versions_made_it(server, alice)
    tombstone = replace(old, status=Status.REVOKED, wrapped_sk=None, wrapped_kcar=None)
    assert write_as_format_1(server, tombstone).status is Status.REVOKED
    assert server.audit().good


@EVERYBODY
def test_revocation_destroys_s(home_on_each: Home, server_on_each: Server, name: str) -> None:
    server, person = server_on_each, home_on_each[name]
    record = person.record(server)
    assert record.wrapped_seal is not None
    revoked = server.change_status(record.credential_id, Event.REVOKE)
    assert revoked.wrapped_seal is None
    row = columns_of(server, record.credential_id)
    assert (row["wrapped_sk"], row["wrapped_kcar"], row["wrapped_seal"]) == (None, None, None)
    assert row["spki"] == record.spki
    assert server.audit().good


# --- downgrade ---------------------------------------------------------------------------------------------


def columns_of(server: Server, credential_id: CredentialId) -> dict[str, Any]:
    """A record's row as it lies in either database."""
    with server.store._engine.connect() as connection:
        where = schema.credential.c.credential_id == credential_id
        return dict(connection.execute(select(schema.credential).where(where)).one()._mapping)


def change_columns(server: Server, credential_id: CredentialId, values: dict[str, Any]) -> None:
    """What somebody does who can write the database."""
    with server.store._engine.begin() as connection:
        where = schema.credential.c.credential_id == credential_id
        assert connection.execute(update(schema.credential).where(where).values(values)).rowcount == 1


def refused_as_damaged(server: Server, person: Person, values: dict[str, Any]) -> None:
    """With these columns the record is RecordDamaged for everybody; put right again, it signs."""
    request = authorise(server, person)
    credential_id = request.authorisation.credential_id
    before = columns_of(server, credential_id)
    assert any(before[name] != value for name, value in values.items()), "nothing would be changed"
    change_columns(server, credential_id, values)
    with pytest.raises(RecordDamaged):
        server.sign(request)
    with pytest.raises(RecordDamaged):
        server.change_status(credential_id, Event.SUSPEND)
    assert not server.audit().good
    change_columns(server, credential_id, {name: before[name] for name in values})


DOWNGRADES: list[dict[str, Any]] = [
    {"sealing": 1},
    {"sealing": 1, "wrapped_seal": None},
    {"format": 1},
    {"format": 1, "sealing": 1},
    {"format": 1, "sealing": 1, "wrapped_seal": None},
    {"format": 1, "sealing": 1, "wrapped_seal": None, "card_point": None, "enrolment_proof": None},
    {"format": 3},
    {"wrapped_seal": None},
    {"wrapped_seal": bytes(40)},
    {"card_point": None},
    {"card_point": b"\x04" + bytes(64)},
    {"enrolment_proof": bytes(32)},
    {"suspended_by": SuspendedBy.ADMIN.number},
]


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
def test_a_record_cannot_be_downgraded(home_on_each: Home, server_on_each: Server, name: str) -> None:
    """Each new column of a format 2 row, alone and with the others as an older version would have them."""
    for values in DOWNGRADES:
        refused_as_damaged(server_on_each, home_on_each[name], values)
    still_signs(server_on_each, home_on_each[name])


def test_sealing_cannot_be_exchanged(home_on_each: Home, server_on_each: Server) -> None:
    """S of one credential in the row of another; and an old row's wrapping in the row that came after."""
    server, alice, bob = server_on_each, home_on_each["alice"], home_on_each["bob"]
    theirs = bob.record(server)
    refused_as_damaged(server, alice, {"wrapped_seal": theirs.wrapped_seal})
    old = as_older_versions_made_it(server, alice)
    alice.sign(server)
    refused_as_damaged(server, alice, {"wrapped_sk": old.wrapped_sk, "sealing": 1, "format": 1})
    still_signs(server, alice)


@pytest.mark.parametrize(
    "values",
    [
        {"sealing": 2},
        {"wrapped_seal": bytes(40)},
        {"card_point": b"\x04" + bytes(64)},
        {"enrolment_proof": bytes(32)},
        {"suspended_by": SuspendedBy.REGISTRAR.number},
        {"format": 2},
        {"format": 2, "sealing": 2, "wrapped_seal": bytes(40)},
    ],
)
def test_a_row_of_format_1_says_nothing_in_the_new_columns(
    home_on_each: Home, server_on_each: Server, values: dict[str, Any]
) -> None:
    """They are not under its MAC: whatever stands there was written by somebody else."""
    server, alice = server_on_each, home_on_each["alice"]
    as_older_versions_made_it(server, alice)
    refused_as_damaged(server, alice, values)
    still_signs(server, alice)


def test_a_row_of_sealing_1_put_back_is_outdated(home: Home, server: Server) -> None:
    """It is an old row like any other."""
    alice = home["alice"]
    old = as_older_versions_made_it(server, alice)
    row = credential_row(home, old.credential_id)
    assert row is not None
    request = authorise(server, alice)
    alice.sign(server)
    put_row(home, row)
    with refused(home, server, old.credential_id, RecordOutdated):
        server.sign(request)
    sql(home, "UPDATE credential SET version = version + 1 WHERE owner = 'alice'")
    with refused(home, server, old.credential_id, RecordDamaged):
        server.sign(request)

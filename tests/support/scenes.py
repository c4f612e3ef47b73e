"""Requests made by hand, a look at the database from outside, and a check that a refusal changed nothing."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from card_applet_sim import keys, memory
from card_applet_sim.constants import Role
from hsm_signer.card.commands import authorise_content
from hsm_signer.card.pins import CardPin
from hsm_signer.core import algorithms
from hsm_signer.core.content import BytesSource, measure
from hsm_signer.errors import CardPinWrong, SignerError, WrongKey
from hsm_signer.server.initialise import PIN_FILE
from hsm_signer.server.installation import SOFTHSM_FILE
from hsm_signer.server.refusals import SHARE
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, Home, Person
from hsm_signer.token import softhsm
from hsm_signer.token.session import TokenSession
from hsm_signer.types import (
    ACCEPTED,
    Algorithm,
    Authorisation,
    Challenge,
    Content,
    CredentialId,
    CredentialRecord,
    DigestList,
    Event,
    EvidenceEntry,
    Message,
    Quantity,
    RollingValue,
    SigningRequest,
    SignOutcome,
)
from hsm_signer.workstation.servers import (
    SigningServer,
)

NOBODY = CredentialId(bytes(16))
AUTHORISATION = Authorisation(
    Algorithm.ECDSA_SHA256, 1, (RollingValue(bytes(32)),), bytes(16), (Quantity(bytes(40)),), NOBODY
)
"""Of the right form, and for nobody's credential."""


def message(data: bytes = b"message") -> Message:
    """A message in memory."""
    return Message(BytesSource(data))


def authorise(
    server: SigningServer,
    person: Person,
    content: Content | bytes = b"message",
    algorithm: Algorithm | None = None,
    *,
    pin: str | None = None,
    challenge: Challenge | None = None,
) -> SigningRequest:
    """What the card makes of ``content``: not yet sent."""
    if isinstance(content, bytes):
        content = message(content)
    with person.card() as card:
        if challenge is None:
            credential_id = card.status().credential_id
            assert credential_id is not None
            challenge = server.challenge(credential_id)
        given = person.pin() if pin is None else CardPin(pin, source="test")
        authorisation = authorise_content(
            card, challenge, content, algorithm or person.key.default_algorithm, lambda: given
        )
    return SigningRequest(authorisation, content)


def altered(request: SigningRequest, **changes: Any) -> SigningRequest:
    """The request with fields of its authorisation (or its content) replaced."""
    content = changes.pop("content", request.content)
    return SigningRequest(replace(request.authorisation, **changes), content)


def flip(data: bytes, position: int, bit: int = 0) -> bytes:
    """One bit changed."""
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def flipped_quantity(authorisation: Authorisation, index: int, position: int) -> tuple[Quantity, ...]:
    """The Qs with one bit of one byte changed."""
    quantities = list(authorisation.quantities)
    quantities[index] = Quantity(flip(quantities[index], position, position % 8))
    return tuple(quantities)


def verifies(outcome: SignOutcome, content: Content) -> None:
    """Every signature of ``outcome`` is one of ``content``, by `cryptography`."""
    verify = algorithms.verifier(outcome.spki, outcome.algorithm)
    digests = measure(content, outcome.algorithm).digests
    assert len(digests) == len(outcome.signatures) > 0
    for digest, signature in zip(digests, outcome.signatures, strict=True):
        verify(digest, signature)


# --- the database from outside -----------------------------------------------------------------------------


def database(home: Home) -> Path:
    """The SQLite file."""
    return home.path / "store.db"


def sql(home: Home, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What somebody does who can write the file."""
    with closing(sqlite3.connect(database(home), timeout=10)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        return connection.execute(statement, values).fetchall()


def credential_row(home: Home, credential_id: bytes) -> tuple[Any, ...] | None:
    """Every column of a record's row, as it lies there."""
    rows = sql(home, "SELECT * FROM credential WHERE credential_id = ?", credential_id)
    return rows[0] if rows else None


def row_and_count(home: Home, credential_id: bytes) -> tuple[tuple[Any, ...] | None, int]:
    """A record's row as it lies there but for the number of refusals without an entry, and that number."""
    row = credential_row(home, credential_id)
    if row is None:
        return None, 0
    at = columns(home, "credential").index("counted_refusals")
    return (*row[:at], 0, *row[at + 1 :]), row[at]


def columns(home: Home, table: str) -> list[str]:
    """Names of the table's columns."""
    return [row[1] for row in sql(home, f"PRAGMA table_info({table})")]


def put_row(home: Home, row: tuple[Any, ...]) -> None:
    """Put a record's row back over the one of the same credential id."""
    names = columns(home, "credential")
    credential_id = row[names.index("credential_id")]
    assignments = ", ".join(f"{name} = ?" for name in names)
    sql(home, f"UPDATE credential SET {assignments} WHERE credential_id = ?", *row, credential_id)
    assert credential_row(home, credential_id) == row


def chain(server: Server, credential_id: CredentialId) -> list[EvidenceEntry]:
    """A credential's evidence, oldest first."""
    return [entry for _, entry in server.entries(credential_id)]


def entries_of(home: Home, credential_id: bytes) -> list[tuple[Any, ...]]:
    """Every row of a chain."""
    return sql(home, "SELECT * FROM evidence WHERE credential_id = ? ORDER BY sequence", credential_id)


def put_chain(home: Home, credential_id: bytes, rows: list[tuple[Any, ...]]) -> None:
    """Put a chain back as it was."""
    sql(home, "DELETE FROM evidence WHERE credential_id = ?", credential_id)
    for row in rows:
        sql(home, f"INSERT INTO evidence VALUES ({', '.join('?' * len(row))})", *row)


def cut_chain(home: Home, credential_id: CredentialId, keep: int) -> None:
    """Remove the entries after the first ``keep``."""
    sql(home, "DELETE FROM evidence WHERE credential_id = ? AND sequence > ?", credential_id, keep)


def windows_found(home: Home, values: Iterable[bytes], width: int = 8) -> list[tuple[str, str]]:
    """Names of the home's files that hold ``width`` bytes of a value in a row, raw or in hexadecimal."""
    parts = [each[i : i + width] for each in values for i in range(len(each) - width + 1)]
    assert parts
    files = [path for path in home.path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"store.db", "store.db-wal"} <= names, "the store is open, with its log"
    return [
        (path.name, part.hex())
        for path in files
        for content in [path.read_bytes()]
        for part in parts
        if part in content or part.hex().encode() in content or part.hex().upper().encode() in content
    ]


# --- the token ----------------------------------------------------------------------------------------------


def objects(server: Server) -> set[int]:
    """Handles of every object there is, session objects included."""
    return {each.handle for each in server.environment.session.pkcs11.get_objects()}


# --- refusals ----------------------------------------------------------------------------------------------


@dataclass
class Refusal:
    """What :func:`refused` saw."""

    error: SignerError | None = None
    steps: list[int] = field(default_factory=list)


@contextmanager
def refused(
    home: Home,
    server: Server,
    credential_id: CredentialId,
    error: type[SignerError],
    *,
    noted: bool = True,
    counted: bool = False,
) -> Iterator[Refusal]:
    """The block raises exactly ``error`` and nothing has changed.

    ``noted``: one evidence entry with the error's code, without a signature, or one more that is counted
    where the minute has its share of entries; otherwise none at all.
    ``counted``: the record's failures have risen by one and nothing else of it.
    """
    row, uncounted = row_and_count(home, credential_id)
    before = _entries(home)
    seen = Refusal()
    with pytest.raises(SignerError) as caught:
        yield seen
    seen.error = caught.value
    assert type(caught.value) is error, (type(caught.value), caught.value)
    now, uncounted_now = row_and_count(home, credential_id)
    if counted:
        _check_counted(columns(home, "credential"), row, now)
    else:
        assert now == row
    added = [each for each in _entries(home) if each not in before]
    assert before == _entries(home)[: len(before)]
    if noted and uncounted_now > uncounted:
        assert (uncounted_now, added) == (uncounted + 1, [])
        of_others = (ACCEPTED, WrongKey.code)
        written = [entry for entry in before if entry[0] == credential_id and entry[1] not in of_others]
        assert len(written) >= SHARE
    elif noted:
        assert [(each[0], each[1]) for each in added] == [(credential_id, error.code)]
        assert added[0][2] == bytes(4), "a refusal holds no signature"
    else:
        assert added == []


def _entries(home: Home) -> list[tuple[Any, ...]]:
    return sql(home, "SELECT credential_id, outcome, signatures, id, hash FROM evidence ORDER BY id")


def _check_counted(names: list[str], row: tuple[Any, ...] | None, now: tuple[Any, ...] | None) -> None:
    assert row is not None
    assert now is not None
    before, after = dict(zip(names, row, strict=True)), dict(zip(names, now, strict=True))
    assert after["failures"] == before["failures"] + 1
    assert after["version"] == before["version"] + 1
    changed = {name for name in names if before[name] != after[name]}
    assert changed - {"status"} == {"failures", "version", "evidence_head", "mac"}


def still_signs(server: Server, person: Person) -> None:
    """The person signs as if nothing had happened, and the audit finds nothing."""
    content = message(b"afterwards")
    outcome = person.sign(server, content)
    verifies(outcome, content)
    assert not outcome.repeated
    report = server.audit()
    assert report.good, report.findings


def check_evidence(server: Server, acknowledged: list[tuple[DigestList, SignOutcome]]) -> None:
    """Exactly once each, with these very signatures, which verify; and the audit finds nothing."""
    entries: dict[bytes, list[tuple[bytes, ...]]] = {}
    for _, entry in server.entries():
        if entry.outcome == ACCEPTED and entry.d is not None:
            entries.setdefault(entry.d, []).append(entry.signatures)
    assert {len(signatures) for signatures in entries.values()} == {1}
    assert len({outcome.d for _, outcome in acknowledged}) == len(acknowledged)
    for content, outcome in acknowledged:
        assert entries[outcome.d] == [outcome.signatures]
        verify = algorithms.verifier(outcome.spki, outcome.algorithm)
        for digest, signature in zip(content.digests, outcome.signatures, strict=True):
            verify(digest, signature)
    report = server.audit()
    assert report.good, report.findings[:10]


def writable(home: Home) -> TokenSession:
    """A session that may change token objects, as an administrator's tool has it."""
    softhsm.use_configuration(home.path / SOFTHSM_FILE)
    return TokenSession.open(
        home.installation.token_uri, (home.path / PIN_FILE).read_text().strip(), read_write=True
    )


# --- what only an operator's tools, or an attacker with the token's PIN, could write -----------------------


def rewrite(
    server: Server, record: CredentialRecord, change: Callable[[CredentialRecord], CredentialRecord]
) -> CredentialRecord:
    """Commit a changed record with a good MAC and a matching entry, past every rule of the program."""
    draft = server.draft(record.credential_id, Event.RESUME, record.version + 1)
    with server.store.changing(record.credential_id, record.version) as writing:
        entry = server.place(draft, writing.position)
        writing.write(server.seal(change(record), entry), entry)
    return server.credential_by_id(record.credential_id)


# --- what lies in a card -----------------------------------------------------------------------------------


def card_keys(person: Person, pin: str = PIN) -> tuple[bytes, bytes]:
    """KCAR (empty in scheme basic) and KEY, KOWF or KEK1, out of the simulated card's memory."""
    personality = memory.decode(person.card_path.read_bytes()).personality
    assert personality is not None
    if personality.pin is None:
        return personality.kcar, personality.key
    mask = keys.blind(Role.PIN, personality.credential_id, personality.pin.salt, pin.encode())
    return personality.kcar, keys.xor(personality.pin.blinded, mask)


# --- wrong PINs that the card cannot tell ------------------------------------------------------------------


def passing_wrong_pins(person: Person, count: int, right: str) -> list[str]:
    """Wrong PINs that pass the one-byte check of PIN check 2, as the thief of a card's image finds them.

    Each is shown to pass VERIFY on a copy of the card.
    """
    personality = memory.decode(person.card_path.read_bytes()).personality
    assert personality is not None
    assert personality.pin is not None
    guard = personality.pin
    assert len(guard.check) == 1
    found: list[str] = []
    number = 100_000
    while len(found) < count:
        number += 1
        pin = str(number)
        if pin == right or keys.powf(Role.PIN, guard.check_salt, pin.encode())[:1] != guard.check:
            continue
        assert _passes(person, pin)
        found.append(pin)
    return found


def caught_wrong_pin(person: Person, right: str) -> str:
    """A wrong PIN that the card catches by its one byte."""
    for number in range(200_000, 300_000):
        pin = str(number)
        if pin != right and not _passes(person, pin):
            return pin
    raise AssertionError("every PIN passes")


def _passes(person: Person, pin: str) -> bool:
    copy = dataclasses.replace(person, card_path=person.card_path.with_suffix(".copy"))
    shutil.copyfile(person.card_path, copy.card_path)
    try:
        with copy.card() as card:
            card.verify_pin(CardPin(pin, source="test"))
    except CardPinWrong:
        return False
    return True

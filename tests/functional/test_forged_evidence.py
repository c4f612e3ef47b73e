"""Whoever writes the database makes evidence up, and waits for the server to put its seal under it.

Each attack is carried out twice. First against a server that believes the end of a chain as the database has
it: then nothing in the chain shows what was done, which is what the attacker has. Then against the server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace
from sqlalchemy import bindparam, update

from hsm_signer.core.canonical import entry_hash
from hsm_signer.errors import ChallengeStale, EvidenceDamaged, WrongKey
from hsm_signer.evidence import findings
from hsm_signer.evidence.anchor import anchor_digest, decode_anchor, encode_anchor
from hsm_signer.server.audit import audit_store
from hsm_signer.server.server import Server
from hsm_signer.store.rows import entry_row
from hsm_signer.store.schema import evidence
from hsm_signer.testing import Home
from hsm_signer.token.seal import TokenSeal
from hsm_signer.types import ACCEPTED, CredentialId, Event, EvidenceEntry, SealedEntry, SpkiDer
from tests.support.factories import NO_AUTHORISATION
from tests.support.scenes import authorise, chain, still_signs, verifies

FORGERIES: dict[str, Callable[[EvidenceEntry], EvidenceEntry]] = {
    "a signature that was refused": lambda entry: replace(
        entry, outcome=WrongKey.code, signatures=(), digests=()
    ),
    "a suspension": lambda entry: replace(entry, event=Event.SUSPEND, actor="root", **NO_AUTHORISATION),
    "another actor": lambda entry: replace(entry, actor="somebody else"),
    "another time": lambda entry: replace(entry, time=entry.time - 1_000_000),
}


def columns_of(entry: EvidenceEntry) -> dict[str, Any]:
    """All columns that somebody without the token can write; the MAC stays as it is."""
    row = entry_row(SealedEntry(entry, None))
    del row["mac"]
    return row


def overwrite(server: Server, entry: EvidenceEntry, columns: dict[str, Any]) -> None:
    """Write over the row at the entry's place."""
    statement = update(evidence).where(
        evidence.c.credential_id == bindparam("b_id"), evidence.c.sequence == bindparam("b_sequence")
    )
    own = {"b_id": entry.credential_id, "b_sequence": entry.sequence}
    with server.store._engine.begin() as connection:
        assert connection.execute(statement.values(columns), own).rowcount == 1


@contextmanager
def believing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that takes chains as the database has them."""
    with monkeypatch.context() as patched:
        patched.setattr(TokenSeal, "check_end", lambda *_: None)
        yield


def without_macs(server: Server) -> list[str]:
    """What an audit finds that looks at everything but the entries' MACs."""
    with server.store.snapshot() as snapshot:
        report = audit_store(snapshot, server.environment, entry_holds=lambda _: True)
    return [finding.code for finding in report.findings]


def found(server: Server) -> set[tuple[str, int | None]]:
    return {(finding.code, finding.sequence) for finding in server.audit().findings}


def forge(server: Server, credential_id: CredentialId, kind: str) -> tuple[EvidenceEntry, EvidenceEntry]:
    """Have the last entry pass for another one, as far as the next signature sees it."""
    last = chain(server, credential_id)[-1]
    forged = FORGERIES[kind](last)
    overwrite(server, last, {"hash": entry_hash(forged)})
    return last, forged


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_chain_is_not_continued_from_a_forged_hash(
    home_on_each: Home, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with home_on_each.server() as server:
        alice = home_on_each["alice"]
        alice.sign(server, b"one")
        credential_id = alice.record(server).credential_id

        last, forged = forge(server, credential_id, kind)
        before = (alice.record(server), chain(server, credential_id))
        for attempt in (
            lambda: alice.sign(server, b"two"),
            lambda: server.change_status(credential_id, Event.SUSPEND),
        ):
            with pytest.raises(EvidenceDamaged, match=f"MAC of entry {last.sequence} does not hold"):
                attempt()
        assert (alice.record(server), chain(server, credential_id)) == before, "not even a refusal"
        overwrite(server, last, {"hash": entry_hash(last)})
        still_signs(server, alice)

        with believing(monkeypatch):
            last, forged = forge(server, credential_id, kind)
            alice.sign(server, b"three")
            overwrite(server, last, columns_of(forged))
        assert chain(server, credential_id)[last.sequence - 1] == forged
        assert without_macs(server) == [], "nothing else tells"
        # But every entry says itself whether it was written so.
        assert found(server) == {(findings.ENTRY_MAC, last.sequence)}


def test_a_request_of_scheme_pin_is_not_carried_out_twice(
    home_on_each: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry that says it was is turned into another while the next signature chains to it."""
    with home_on_each.server() as server:
        paula = home_on_each["paula"]
        request = authorise(server, paula, b"pay once")
        server.sign(request)
        credential_id = paula.record(server).credential_id
        last, forged = forge(server, credential_id, "a suspension")
        with pytest.raises(EvidenceDamaged):
            paula.sign(server, b"something else")
        # Without the next signature the forged row is not what its record names.
        overwrite(server, last, columns_of(forged))
        with pytest.raises(EvidenceDamaged):
            server.sign(request)
        overwrite(server, last, columns_of(last))
        assert server.sign(request).repeated

        with believing(monkeypatch):
            last, forged = forge(server, credential_id, "a suspension")
            paula.sign(server, b"something else")
            overwrite(server, last, columns_of(forged))
        assert without_macs(server) == []
        again = server.sign(request)
        verifies(again, request.content)
        assert not again.repeated, "this is what the attacker had: paid twice, and no trace of it"
        assert found(server) == {(findings.ENTRY_MAC, last.sequence)}


def test_a_refusal_at_the_end_is_not_rewritten(home_on_each: Home) -> None:
    """No record names it and nothing follows it: only its own MAC tells."""
    with home_on_each.server() as server:
        alice = home_on_each["alice"]
        stale = authorise(server, alice)
        alice.sign(server)
        with pytest.raises(ChallengeStale):
            server.sign(stale)
        credential_id = alice.record(server).credential_id
        last = chain(server, credential_id)[-1]
        assert last.outcome == ChallengeStale.code
        overwrite(server, last, columns_of(replace(last, actor="somebody else")))
        assert without_macs(server) == []
        assert found(server) == {(findings.ENTRY_MAC, last.sequence)}
        with pytest.raises(EvidenceDamaged):
            alice.sign(server)
        overwrite(server, last, columns_of(last))
        still_signs(server, alice)


@pytest.mark.parametrize("name", ["alice", "paula"])
def test_an_answer_is_repeated_only_from_an_entry_that_holds(home_on_each: Home, name: str) -> None:
    """An accepted entry is made of a refusal's, or of one that never was."""
    with home_on_each.server() as server:
        person = home_on_each[name]
        request = authorise(server, person)
        server.sign(request)
        person.sign(server, b"later")
        accepted = next(
            entry
            for entry in chain(server, person.record(server).credential_id)
            if entry.d is not None and entry.nonce == request.authorisation.nonce
        )
        assert server.sign(request).repeated
        overwrite(server, accepted, columns_of(replace(accepted, outcome=WrongKey.code)))
        with pytest.raises(EvidenceDamaged):
            server.sign(request)
        overwrite(server, accepted, columns_of(accepted))
        assert server.sign(request).repeated


def test_every_field_of_every_entry_is_under_its_mac(home: Home) -> None:
    with home.server() as server:
        alice = home["alice"]
        alice.sign(server)
        credential_id = alice.record(server).credential_id
        for entry in chain(server, credential_id):
            for changes in (
                {"time": entry.time + 1},
                {"actor": "x"},
                {"outcome": "x" if entry.outcome == ACCEPTED else ACCEPTED},
                {"record_version": entry.record_version + 1},
                {"previous": bytes(31) + b"\1"},
                {"digests": (bytes(32), bytes(32))},
            ):
                overwrite(server, entry, columns_of(replace(entry, **changes)))
                assert (findings.ENTRY_MAC, entry.sequence) in found(server), changes
            overwrite(server, entry, columns_of(entry))
        assert server.audit().good
        # Nor is there a way around it by having none.
        first = chain(server, credential_id)[0]
        overwrite(server, first, {"mac": None})
        assert found(server) == {(findings.ENTRY_MAC, first.sequence)}


def test_a_clock_that_was_set_back_is_found(home: Home) -> None:
    with home.server() as server:
        alice = home["alice"]
        alice.sign(server)
        behind = dataclasses.replace(server, clock=lambda: server.clock() - 3600 * 1_000_000)
        alice.sign(behind)
        last = chain(server, alice.record(server).credential_id)[-1]
        assert found(server) == {(findings.ENTRY_TIME, last.sequence)}


def test_an_anchor_is_signed_by_its_installation(home: Home) -> None:
    with home.server() as server:
        anchor = server.anchor()
        assert server.check_anchor(anchor) == ()
        assert decode_anchor(encode_anchor(anchor)) == anchor
        assert anchor.signed is not None
        for changes in (
            {"time": anchor.time + 1},
            {"signed": replace(anchor.signed, installation_id=bytes(8))},
            {"signed": replace(anchor.signed, signature=anchor.signed.signature[:-1] + b"\0")},
        ):
            codes = [finding.code for finding in server.check_anchor(replace(anchor, **changes))]
            assert codes == [findings.ANCHOR_SIGNATURE], changes
        # Nor is one believed that somebody signed with another key, or that says less than there was.
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = anchor_digest(anchor, anchor.signed.installation_id)
        signature = key.sign(digest, ec.ECDSA(Prehashed(SHA256())))
        other = replace(anchor, signed=replace(anchor.signed, spki=SpkiDer(spki), signature=signature))
        assert [finding.code for finding in server.check_anchor(other)] == [findings.ANCHOR_SIGNATURE]
        smaller = replace(anchor, entries=0, credentials=0)
        assert findings.ANCHOR_SIGNATURE in {finding.code for finding in server.check_anchor(smaller)}

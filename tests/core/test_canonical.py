"""Canonical bytes: every field counts, and no two different records or entries have the same bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from hsm_signer.core.canonical import entry_bytes, entry_hash, number, record_bytes, sequence, text, value
from hsm_signer.types import (
    Algorithm,
    Combine,
    CredentialRecord,
    Event,
    EvidenceEntry,
    Mode,
    PinCheck,
    PinPolicy,
    ProtocolEnum,
    Scheme,
    Sealing,
    Status,
    SuspendedBy,
)
from tests.support.factories import FORMAT_1, make_entry, make_record


def u(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


ENUMS: dict[str, type[ProtocolEnum]] = {
    "status": Status,
    "scheme": Scheme,
    "combine": Combine,
    "pin_policy": PinPolicy,
    "pin_check": PinCheck,
    "event": Event,
    "sealing": Sealing,
    "suspended_by": SuspendedBy,
}
OPTIONAL = {
    "parameter",
    "wrapped_kcar",
    "wrapped_sk",
    "rn",
    "rn_next",
    "request_hash",
    "evidence_head",
    "wrapped_seal",
    "card_point",
    "enrolment_proof",
    "d",
    "nonce",
    "h",
    "quantities_hash",
}
WIDTHS = {
    "format": 16,
    "version": 64,
    "wrap_mechanism": 32,
    "failures": 32,
    "assurance": 8,
    "sequence": 64,
    "time": 64,
    "record_version": 64,
}
LISTS = {"digests", "signatures"}
TEXTS = {"owner", "token_serial", "outcome", "actor"}


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Values of every shape a field can have, wider than a store would let in."""
    if name in ENUMS:
        return st.sampled_from(list(ENUMS[name]))
    if name in WIDTHS:
        return u(WIDTHS[name])
    if name == "x":
        return st.none() | u(64)
    if name == "mode":
        return st.none() | st.sampled_from(Mode)
    if name == "algorithm":
        return st.none() | st.sampled_from(Algorithm)
    if name == "algorithms":
        return st.sets(st.sampled_from(Algorithm)).map(
            lambda found: tuple(sorted(found, key=lambda each: each.number))
        )
    if name in LISTS:
        return st.lists(st.binary(max_size=5), max_size=4).map(tuple)
    if name in TEXTS:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    return st.none() | st.binary(max_size=8) if name in OPTIONAL else st.binary(max_size=8)


def filled(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({field.name: values_of(field.name) for field in fields(kind)})


def record_of(found: dict[str, Any]) -> CredentialRecord:
    """Format 1 has no place for what format 2 added; SecureEnvironment.check refuses one that says it."""
    return CredentialRecord(**(found if found["format"] > 1 else found | FORMAT_1))


records = filled(CredentialRecord).map(record_of) | filled(CredentialRecord).map(
    lambda found: record_of(found | FORMAT_1)
)
entries = filled(EvidenceEntry).map(lambda found: EvidenceEntry(**found))


@settings(deadline=None)
@given(records, records)
def test_different_records_have_different_bytes(one: CredentialRecord, other: CredentialRecord) -> None:
    assert (record_bytes(one) == record_bytes(other)) == (one == other)


@settings(deadline=None)
@given(entries, entries)
def test_different_entries_have_different_bytes(one: EvidenceEntry, other: EvidenceEntry) -> None:
    assert (entry_bytes(one) == entry_bytes(other)) == (one == other)


@pytest.mark.parametrize("name", [field.name for field in fields(CredentialRecord)])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_field_of_a_record_counts(name: str, data: st.DataObject) -> None:
    record = make_record()
    changed = replace(record, **{name: data.draw(values_of(name))})
    assert (record_bytes(changed) == record_bytes(record)) == (changed == record)


@pytest.mark.parametrize("name", [field.name for field in fields(EvidenceEntry)])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_field_of_an_entry_counts(name: str, data: st.DataObject) -> None:
    entry = make_entry()
    changed = replace(entry, **{name: data.draw(values_of(name))})
    assert (entry_bytes(changed) == entry_bytes(entry)) == (changed == entry)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"owner": "ab", "token_serial": "c"}, {"owner": "a", "token_serial": "bc"}),
        ({"rn": None}, {"rn": b""}),
        ({"parameter": b"\xff\xff\xff\xff"}, {"parameter": None}),
        ({"x": None}, {"x": 0}),
        ({"rn": b"r", "rn_next": None}, {"rn": None, "rn_next": b"r"}),
        ({"wrapped_kcar": b"k", "parameter": None}, {"wrapped_kcar": None, "parameter": b"k"}),
        ({"wrapped_seal": b"s", "card_point": None}, {"wrapped_seal": None, "card_point": b"s"}),
        ({"card_point": b"p", "enrolment_proof": None}, {"card_point": None, "enrolment_proof": b"p"}),
        ({"evidence_head": None, "wrapped_seal": b"h"}, {"evidence_head": b"h", "wrapped_seal": None}),
    ],
)
def test_nothing_slips_from_one_field_into_the_next(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert record_bytes(make_record(**one)) != record_bytes(make_record(**other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"digests": (b"ab",)}, {"digests": (b"a", b"b")}),
        ({"digests": (b"a", b"b"), "signatures": ()}, {"digests": (b"a",), "signatures": (b"b",)}),
        ({"digests": ()}, {"digests": (b"",)}),
    ],
)
def test_nothing_slips_from_one_item_into_the_next(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert entry_bytes(make_entry(**one)) != entry_bytes(make_entry(**other))


def test_the_pieces_by_hand() -> None:
    assert value(None) == b"\xff\xff\xff\xff"
    assert value(b"") == bytes(4)
    assert value(b"ab") == b"\0\0\0\x02ab"
    assert number(258, 2) == b"\0\0\0\x02\x01\x02"
    assert number(None, 8) == value(None)
    assert text("é") == b"\0\0\0\x02\xc3\xa9"
    assert sequence([b"a", b""]) == b"\0\0\0\x02" + value(b"a") + value(b"")
    assert sequence([]) == bytes(4)


@pytest.mark.parametrize(("n", "width"), [(256, 1), (-1, 8), (2**64, 8)])
def test_a_number_that_does_not_fit_is_refused(n: int, width: int) -> None:
    with pytest.raises(OverflowError):
        number(n, width)


@pytest.mark.parametrize("number_of_format", [1, 2])
def test_a_record_by_hand(number_of_format: int) -> None:
    """Every field in the order of docs/understand/protocol.md, section 5, written down independently."""
    record = make_record(parameter=None, x=None, **(FORMAT_1 if number_of_format == 1 else {}))
    since_format_2 = (b"\2", bytes(range(40, 80)), b"\4" + bytes(range(64)), record.enrolment_proof, b"\1")
    by_hand = b"hsm-signer/1/record" + b"".join(
        b"\xff\xff\xff\xff" if part is None else len(part).to_bytes(4, "big") + part
        for part in (
            bytes([0, number_of_format]),
            b"mackeyid",
            bytes(7) + b"\1",
            bytes(15) + b"\1",
            b"alice",
            b"\1",
            b"\3",
            b"\2",
            b"\1",
            b"\2",
            b"0123456789abcdef",
            b"mkmkmkmk",
            b"spki",
            b"\2\1\2\2",
            None,
            bytes(range(40)),
            b"\x80\0\x21\x0a",
            b"wrapped sk",
            None,
            record.rn,
            record.rn_next,
            b"\0\0\0\2",
            b"cardcard",
            b"\0",
            record.request_hash,
            record.evidence_head,
            *(since_format_2 if number_of_format == 2 else ()),
        )
    )
    assert record_bytes(record) == by_hand


def test_the_entry_hash_is_sha_256_of_its_bytes() -> None:
    entry = make_entry()
    assert entry_bytes(entry).startswith(b"hsm-signer/1/evidence")
    assert entry_hash(entry) == hashlib.sha256(entry_bytes(entry)).digest()

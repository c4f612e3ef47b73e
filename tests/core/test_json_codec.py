"""The JSON of every entity: what is written is read again, and every mistake is named with its field."""

from __future__ import annotations

import base64
import copy
import json
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_signer import types
from hsm_signer.core import interface, json_codec
from hsm_signer.core.interface import (
    Capabilities,
    Digests,
    EnrolmentRequest,
    Limits,
    NumberedEntry,
    SignatureRequest,
)
from hsm_signer.errors import InputError
from hsm_signer.evidence import anchor, findings
from hsm_signer.types import CardAnswer, Combine, CredentialId, Fingerprint, KeySpec, Scheme
from tests.support.entities import structs_in, values_of

ID = CredentialId(bytes(range(16)))
KINDS = {
    kind.__name__: kind
    for module in (types, interface, anchor, findings)
    for kind in structs_in(module)
    if kind is not types.SealedRecord
}
"""Every entity there is."""


def test_the_walk_finds_entities() -> None:
    assert {
        "Anchor",
        "CardAnswer",
        "CardPersonalisation",
        "Challenge",
        "CredentialPage",
        "CredentialRecord",
        "CredentialView",
        "EnrolmentRequest",
        "EnrolmentStarted",
        "EvidencePage",
        "Finding",
        "NumberedEntry",
        "SignOutcome",
    } <= set(KINDS)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_is_written_is_read(name: str, data: st.DataObject) -> None:
    value = data.draw(values_of(KINDS[name]))
    text = json.dumps(json_codec.to_json(value)).encode()
    assert json_codec.decode(KINDS[name], text, what=name) == value
    assert json_codec.decode(KINDS[name], json_codec.encode(value), what=name) == value


@given(st.lists(values_of(findings.Finding), max_size=3))
def test_lists_of_entities_are_written(values: list[findings.Finding]) -> None:
    assert [json_codec.read(findings.Finding, one) for one in json_codec.to_json(values)] == values


def good(name: str) -> Any:
    """One example in JSON, with something in as many fields as can be."""
    return copy.deepcopy(_good(name))


@cache
def _good(name: str) -> Any:
    chosen: list[Any] = []

    @settings(max_examples=20, database=None, derandomize=True, deadline=None)
    @given(values_of(KINDS[name]))
    def search(value: Any) -> None:
        found = json_codec.to_json(value)
        if not chosen or json.dumps(found).count("null") < json.dumps(chosen[0]).count("null"):
            chosen[:] = [found]

    search()
    return chosen[0]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field, and every object, by its path."""
    found = [path]
    if isinstance(value, dict):
        for name, inner in value.items():
            found += places(inner, (*path, name))
    return found


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


OPTIONAL = {
    field.name
    for kind in (EnrolmentRequest, findings.Finding)
    for field in msgspec.structs.fields(kind)
    if not field.required
}


@pytest.mark.parametrize("name", KINDS)
def test_unknown_and_missing_fields_are_named(name: str) -> None:
    kind, form = KINDS[name], good(name)
    json_codec.read(kind, form)
    for path in places(form):
        inner = at(form, path)
        if not isinstance(inner, dict) or path == ("obstacles",):
            continue
        more = copy.deepcopy(form)
        at(more, path)["colour"] = 1
        with pytest.raises(InputError, match=f"{path[-1] if path else 'body'}: unknown field 'colour'"):
            json_codec.read(kind, more)
        for field in inner:
            if field in OPTIONAL and name in ("NewCredential", "EnrolmentRequest", "Finding"):
                continue  # may be absent
            less = copy.deepcopy(form)
            del at(less, path)[field]
            with pytest.raises(InputError, match=f"missing field '{field}'"):
                json_codec.read(kind, less)


WRONG: list[Any] = [True, 1.5, -1, 2**64, "", "=", "QQ", "no name of anything", "\ud800", [], ["\x00"], {}]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_values_of_another_kind_are_refused_by_the_name_of_the_field(name: str, wrong: Any) -> None:
    kind, form = KINDS[name], good(name)
    refused = 0
    for path in places(form)[1:]:
        if type(at(form, path)) is type(wrong) or (wrong == [] and path[-1] == "more_algorithms"):
            continue  # of the right kind; the tests below have its values
        bad = copy.deepcopy(form)
        at(bad, path[:-1])[path[-1]] = wrong
        with pytest.raises(InputError, match="expected") as caught:
            json_codec.read(kind, bad)
        named = str(path[-1]) in caught.value.message or "[...]" in caught.value.message
        # Which field it is that has no UTF-8 is said of those that hold text.
        assert named or (wrong == "\ud800" and "an encoding in UTF-8" in caught.value.message)
        assert "\n" not in caught.value.message
        refused += 1
    for other in (None, wrong):
        if not isinstance(other, dict):
            with pytest.raises(InputError, match=r"body: expected (a JSON object|text that has an encoding)"):
                json_codec.read(kind, other)
    assert refused or isinstance(wrong, str | bool) or len(places(form)) < 5


NUMBER = "expected an integer from 0 to 9223372036854775807 as decimal digits in quotes"
ANSWER: dict[str, Any] = {
    "algorithm": "ecdsa-sha256",
    "counter": "7",
    "rolling_values": [base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)],
    "nonce": base64.b64encode(bytes(16)).decode(),
    "quantities": [base64.b64encode(bytes([n]) * 40).decode() for n in (1, 2)],
}
SECRET = base64.b64encode(b"secret" * 6).decode()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("algorithm", "ECDSA-SHA256", "algorithm: expected one of: rsa-pkcs1-sha256"),
        ("algorithm", "ecdsa_sha256", "algorithm: expected one of"),
        ("algorithm", "ECDSA_SHA256", "algorithm: expected one of"),
        ("algorithm", 513, "algorithm: expected one of"),
        ("counter", "-1", f"counter: {NUMBER}"),
        ("counter", str(2**63), f"counter: {NUMBER}"),
        ("counter", str(2**64), f"counter: {NUMBER}"),
        ("counter", "1.0", f"counter: {NUMBER}"),
        ("counter", "07", f"counter: {NUMBER}"),
        ("counter", "+7", f"counter: {NUMBER}"),
        ("counter", " 7", f"counter: {NUMBER}"),
        ("counter", "7\n", f"counter: {NUMBER}"),
        ("counter", "٣", f"counter: {NUMBER}"),
        ("counter", "", f"counter: {NUMBER}"),
        ("counter", 1.0, f"counter: {NUMBER}"),
        ("counter", True, f"counter: {NUMBER}"),
        ("counter", 1, f"counter: {NUMBER}"),
        ("nonce", "", "nonce: expected base64 of 16 bytes"),
        ("nonce", "AAAAAAAAAAAAAAAAAAAAAA", "nonce: expected base64"),
        ("nonce", "AAAAAAAAAAAAAAAAAAAAAA=", "nonce: expected base64"),
        ("nonce", "AAAAAAAAAAAAAAAAAAAAAB==", "nonce: expected base64"),
        ("nonce", "AAAAAAAAAAAAAAAAAAAAAA==\n", "nonce: expected base64"),
        ("nonce", "AAAAAAAAAA AAAAAAAAAAAA==", "nonce: expected base64"),
        ("nonce", "__AAAAAAAAAAAAAAAAAAAA==", "nonce: expected base64"),
        ("nonce", "AAAAAAAAAAAAAAAAAAAAAAAA", "nonce: expected base64 of 16 bytes"),
        ("quantities", [], "quantities: expected a list of 1 to 6"),
        ("quantities", [SECRET], r"quantities\[0\]: expected base64 of 40 bytes"),
        ("quantities", [ANSWER["quantities"][0], SECRET], r"quantities\[1\]: expected base64 of 40 bytes"),
        ("quantities", ANSWER["quantities"] * 4, "quantities: expected a list of 1 to 6"),
        ("rolling_values", ["AA=="], r"rolling_values\[0\]: expected base64 of 32 bytes"),
        ("rolling_values", ANSWER["rolling_values"] * 4, "rolling_values: expected a list of 0 to 6"),
    ],
)
def test_each_mistake_in_an_authorisation_is_named(field: str, value: Any, words: str) -> None:
    json_codec.read(CardAnswer, ANSWER)
    with pytest.raises(InputError, match=f"^{words}") as caught:
        json_codec.read(CardAnswer, {**ANSWER, field: value})
    assert SECRET not in caught.value.message
    assert caught.value.__cause__ is None
    with pytest.raises(InputError, match=f"^authorisation.{words}"):
        json_codec.read(CardAnswer, {**ANSWER, field: value}, "authorisation")
    body = {"authorisation": {**ANSWER, field: value}, "digests": ["00" * 32]}
    with pytest.raises(InputError, match=f"^authorisation.{words}"):
        json_codec.read(SignatureRequest, body)


@pytest.mark.parametrize("name", ["a`b", "c" * 1000, "\x1b[2J", "a\nb", "\ud800"])
def test_names_of_unknown_fields_cannot_pass_for_words_of_ours(name: str) -> None:
    with pytest.raises(InputError) as caught:
        json_codec.read(CardAnswer, {**ANSWER, name: 1}, "authorisation")
    if name != "\ud800":
        assert caught.value.message.startswith("authorisation: unknown field '")
    assert caught.value.message.isprintable()
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 120


@pytest.mark.parametrize(
    "value", [None, 7, "", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n", "٣" * 32, "0" * 30 + " 0"]
)
def test_identifiers_are_32_lower_case_digits(value: Any) -> None:
    assert json_codec.read(CredentialId, ID.hex()) == ID
    with pytest.raises(InputError, match="credential_id: expected 32 lower-case hexadecimal digits"):
        json_codec.read(CredentialId, value, "credential_id")


def test_lists_of_digests_are_bounded() -> None:
    def read(digests: Any) -> tuple[bytes, ...]:
        body = {"authorisation": ANSWER, "digests": digests}
        return json_codec.read(SignatureRequest, body).digests

    one = "00" * 32
    assert read([one] * 3) == (bytes(32),) * 3
    assert read([one, "00" * 48, "00" * 64]) == (bytes(32), bytes(48), bytes(64))
    for wrong in ([], [one] * 65536, one, None):
        with pytest.raises(InputError, match="digests: expected a list of 1 to 65535"):
            read(wrong)
    for wrong in ("00" * 20, "00" * 33, "00" * 65, "0" * 65):
        with pytest.raises(InputError, match=r"digests\[1\]: expected 64 or 96 or 128 lower-case hex"):
            read([one, wrong])
    assert msgspec.convert([bytes(48)], Digests) == (bytes(48),)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "",
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:13:20.000Z",
        "2023-11-14T22:13:20.000000",
        "2023-11-14T22:13:20.000000+00:00",
        "2023-11-14 22:13:20.000000Z",
        "2023-11-14T22:13:20.000000z",
        "2023-11-14T22:13:20.000000Z\n",
        "2023-11-31T22:13:20.000000Z",
        "1969-12-31T23:59:59.999999Z",
        "٢٠٢٣-11-14T22:13:20.000000Z",
    ],
)
def test_times_have_one_spelling(value: Any) -> None:
    entry = good("EvidenceEntry")
    read = json_codec.read(types.EvidenceEntry, entry | {"time": "2023-11-14T22:13:20.000001Z"})
    assert read.time == 1_700_000_000_000_001
    with pytest.raises(InputError, match="time: expected a time in UTC, as 2025-"):
        json_codec.read(types.EvidenceEntry, entry | {"time": value})


@pytest.mark.parametrize("text", [b"", b"{", b"{} {}", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'"\\ud800"'])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(InputError, match="answer: expected JSON") as caught:
        json_codec.parse(text, "answer")
    assert caught.value.__cause__ is None
    with pytest.raises(InputError, match="answer: expected JSON"):
        json_codec.decode(CardAnswer, text, what="answer")


def test_a_subject_may_be_absent_or_null() -> None:
    form = good("EnrolmentRequest")
    assert json_codec.read(EnrolmentRequest, form | {"subject": None}).subject is None
    del form["subject"]
    assert json_codec.read(EnrolmentRequest, form).subject is None
    for wrong in (7, "", "x" * (interface.MAX_SUBJECT + 1), "a\nb", "\ud800"):
        with pytest.raises(InputError, match="subject: expected text of 1 to 2000 characters"):
            json_codec.read(EnrolmentRequest, form | {"subject": wrong})


@pytest.mark.parametrize(
    ("owner", "fits"),
    [("x" * 255, True), ("ω" * 255, True), ("x" * 256, False), ("", False), ("a\0b", False)],
)
def test_a_users_name_has_one_limit(owner: str, fits: bool) -> None:
    form = good("EnrolmentRequest") | {"owner": owner}
    if fits:
        assert json_codec.read(EnrolmentRequest, form).owner == owner
        return
    with pytest.raises(InputError, match="owner: expected text of 1 to 255 characters without control"):
        json_codec.read(EnrolmentRequest, form)


def test_what_can_be_enrolled() -> None:
    identity = Fingerprint("-".join(["0a1b"] * 10))
    found = Capabilities((Combine.CBC,), {"pin/ed25519": "no"}, Limits(1, 2, 3), identity)
    assert found.obstacle(Scheme.PIN, KeySpec.ED25519) == "no"
    assert found.obstacle(Scheme.ROLLING, KeySpec.P256) == ""


def test_the_dialect() -> None:
    """One example of each kind of field, so that a change of it is seen."""
    entry = NumberedEntry(
        sequence=2,
        time=1_700_000_000_000_001,
        credential_id=ID,
        event=types.Event.SIGN,
        outcome="accepted",
        record_version=3,
        actor="client portal",
        previous=types.Digest(bytes(32)),
        d=types.Digest(b"\1" * 32),
        nonce=bytes(16),
        x=2**60,
        algorithm=types.Algorithm.ECDSA_SHA384,
        mode=types.Mode.DIGESTS,
        h=types.Digest(b"\2" * 32),
        quantities_hash=None,
        digests=(types.Digest(b"\3" * 48),),
        signatures=(b"\xff",),
        number=9,
    )
    assert json_codec.to_json(entry) == {
        "sequence": "2",
        "time": "2023-11-14T22:13:20.000001Z",
        "credential_id": "000102030405060708090a0b0c0d0e0f",
        "event": "sign",
        "outcome": "accepted",
        "record_version": "3",
        "actor": "client portal",
        "previous": "00" * 32,
        "authorisation_digest": "01" * 32,
        "nonce": "AAAAAAAAAAAAAAAAAAAAAA==",
        "counter": "1152921504606846976",
        "algorithm": "ecdsa-sha384",
        "mode": "digests",
        "message_hash": "02" * 32,
        "quantities_hash": None,
        "digests": ["03" * 48],
        "signatures": ["/w=="],
        "number": "9",
    }

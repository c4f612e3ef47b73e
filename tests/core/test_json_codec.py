"""The service's JSON: what is written is read again, and every mistake is named with its field."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from hsm_signer.core import forms
from hsm_signer.errors import InputError
from hsm_signer.types import (
    Algorithm,
    Authorisation,
    CardPersonalisation,
    Challenge,
    Combine,
    CredentialId,
    CredentialView,
    EnrolmentStarted,
    Event,
    EvidenceEntry,
    HashName,
    KeySpec,
    Mode,
    NewCredential,
    PinCheck,
    PinPolicy,
    Scheme,
    SignOutcome,
    Status,
)

ID = CredentialId(bytes(range(16)))


def exactly(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
SOME = st.binary(min_size=1, max_size=100)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)
TRIES = st.integers(0, 15)
IDS = exactly(16)
ALGORITHM = st.sampled_from(Algorithm)
DIGEST = st.sampled_from(HashName).flatmap(exactly)
ROLLING = st.lists(exactly(32), max_size=6).map(tuple)


def each(kind: type[IntEnum]) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(kind))


AUTHORISATIONS = st.builds(
    Authorisation,
    credential_id=st.just(ID),
    algorithm=ALGORITHM,
    x=st.none() | U64,
    rolling_values=ROLLING,
    nonce=exactly(16),
    quantities=st.lists(exactly(40), min_size=1, max_size=6).map(tuple),
)
CHALLENGES = st.builds(
    Challenge,
    credential_id=IDS,
    scheme=each(Scheme),
    x=st.none() | U64,
    rolling_values=ROLLING,
    algorithms=st.lists(ALGORITHM, max_size=10).map(tuple),
    spki=SOME,
)
CREDENTIALS = st.builds(
    CredentialView,
    credential_id=IDS,
    owner=TEXT,
    status=each(Status),
    scheme=each(Scheme),
    combine=each(Combine),
    pin_policy=each(PinPolicy),
    pin_check=each(PinCheck),
    token_serial=TEXT,
    spki=SOME,
    algorithms=st.lists(ALGORITHM, max_size=10).map(tuple),
    version=U64,
    x=st.none() | U64,
    failures=U32,
    card_serial=exactly(8),
    assurance=st.integers(0, 255),
    request_hash=st.none() | exactly(32),
)
OUTCOMES = st.builds(
    SignOutcome,
    credential_id=IDS,
    owner=TEXT,
    algorithm=ALGORITHM,
    spki=SOME,
    signatures=st.lists(SOME, min_size=1, max_size=5).map(tuple),
    d=exactly(32),
    evidence_hash=exactly(32),
    repeated=st.booleans(),
    failures_before=U32,
)
PERSONALISATIONS = st.builds(
    CardPersonalisation,
    credential_id=IDS,
    scheme=each(Scheme),
    combine=each(Combine),
    pin_policy=each(PinPolicy),
    pin_check=each(PinCheck),
    pin_tries=TRIES,
    puk_tries=TRIES,
    token_point=exactly(65),
    wrapped_kcar=st.none() | exactly(40),
    wrapped_kek=exactly(40),
)
NEW = st.builds(
    NewCredential,
    owner=TEXT,
    scheme=each(Scheme),
    combine=each(Combine),
    key=each(KeySpec),
    pin_policy=each(PinPolicy),
    pin_check=each(PinCheck),
    pin_tries=TRIES,
    puk_tries=TRIES,
    card_point=exactly(65),
    card_serial=exactly(8),
)
ENTRIES = st.builds(
    EvidenceEntry,
    sequence=U64,
    time=U64,
    credential_id=IDS,
    event=each(Event),
    outcome=TEXT,
    record_version=U64,
    actor=TEXT,
    previous=exactly(32),
    d=st.none() | exactly(32),
    nonce=st.none() | exactly(16),
    x=st.none() | U64,
    algorithm=st.none() | ALGORITHM,
    mode=st.none() | each(Mode),
    h=st.none() | exactly(32),
    quantities_hash=st.none() | exactly(32),
    digests=st.lists(DIGEST, max_size=3).map(tuple),
    signatures=st.lists(SOME, max_size=3).map(tuple),
)


@dataclass(frozen=True)
class Form:
    """Both directions of one, and what goes through it."""

    values: st.SearchStrategy[Any]
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


FORMS: dict[str, Form] = {
    "authorisation": Form(
        AUTHORISATIONS, forms.authorisation_to_json, lambda found: forms.authorisation_from_json(ID, found)
    ),
    "challenge": Form(CHALLENGES, forms.challenge_to_json, forms.challenge_from_json),
    "credential": Form(CREDENTIALS, forms.credential_to_json, forms.credential_from_json),
    "outcome": Form(OUTCOMES, forms.outcome_to_json, forms.outcome_from_json),
    "personalisation": Form(PERSONALISATIONS, forms.personalisation_to_json, forms.personalisation_from_json),
    "begun": Form(
        st.builds(
            EnrolmentStarted, credential=CREDENTIALS, personalisation=PERSONALISATIONS, request_info=SOME
        ),
        forms.begun_to_json,
        forms.begun_from_json,
    ),
    "new credential": Form(
        st.tuples(NEW, st.none() | TEXT),
        lambda both: forms.new_credential_to_json(*both),
        forms.new_credential_from_json,
    ),
    "entry": Form(st.tuples(U64, ENTRIES), lambda both: forms.entry_to_json(*both), forms.entry_from_json),
    "certificates": Form(
        st.lists(SOME, max_size=10).map(tuple), forms.certificates_to_json, forms.certificates_from_json
    ),
    "digests": Form(
        st.lists(DIGEST, min_size=1, max_size=5).map(tuple), forms.digests_to_json, forms.digests_from_json
    ),
    "capabilities": Form(
        st.builds(
            forms.Capabilities,
            combines=st.lists(each(Combine), min_size=1, max_size=2).map(tuple),
            obstacles=st.dictionaries(TEXT, TEXT, max_size=3),
            limits=st.builds(forms.Limits, body=U64, message=U64, digests=U64),
        ),
        lambda found: forms.capabilities_to_json(found.combines, found.obstacles, found.limits),
        forms.capabilities_from_json,
    ),
}
OBJECTS = sorted(set(FORMS) - {"digests"})


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25)
@given(st.data())
def test_what_is_written_is_read(name: str, data: st.DataObject) -> None:
    form = FORMS[name]
    value = data.draw(form.values)
    text = json.dumps(form.write(value)).encode()
    assert form.read(forms.decode(text, name)) == value


def a_form(name: str) -> Any:
    """One example in JSON, with something in as many fields as can be."""
    return copy.deepcopy(_a_form(name))


@cache
def _a_form(name: str) -> Any:
    chosen: list[Any] = []

    @settings(max_examples=20, database=None, derandomize=True)
    @given(FORMS[name].values)
    def search(value: Any) -> None:
        found = FORMS[name].write(value)
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


@pytest.mark.parametrize("name", OBJECTS)
def test_unknown_and_missing_fields_are_named(name: str) -> None:
    good = a_form(name)
    FORMS[name].read(good)
    for path in places(good):
        inner = at(good, path)
        if not isinstance(inner, dict) or path == ("obstacles",):
            continue
        more = copy.deepcopy(good)
        at(more, path)["colour"] = 1
        with pytest.raises(InputError, match="unknown field 'colour'"):
            FORMS[name].read(more)
        for field in inner:
            if field == "subject":
                continue  # may be absent
            less = copy.deepcopy(good)
            del at(less, path)[field]
            with pytest.raises(InputError, match=f"missing field '{field}'|with a number"):
                FORMS[name].read(less)


WRONG: list[Any] = [True, 1.5, -1, 2**64, "", "=", "QQ", "no name of anything", "\ud800", [], ["\x00"], {}]


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_values_of_another_kind_are_refused_by_the_name_of_the_field(name: str, wrong: Any) -> None:
    good = a_form(name)
    refused = 0
    for path in places(good)[1:]:
        if type(at(good, path)) is type(wrong):
            continue  # of the right kind; the tests below have its values
        bad = copy.deepcopy(good)
        at(bad, path[:-1])[path[-1]] = wrong
        with pytest.raises(InputError, match="expected") as caught:
            FORMS[name].read(bad)
        assert str(path[-1]) in caught.value.message or path[-1] == "number"
        assert "\n" not in caught.value.message
        refused += 1
    for other in (None, wrong):
        if not isinstance(other, dict):
            with pytest.raises(InputError, match="a JSON object"):
                FORMS[name].read(other)
    assert refused or isinstance(wrong, str | bool) or name in ("certificates", "capabilities")


AUTHORISATION: dict[str, Any] = {
    "algorithm": "ecdsa-sha256",
    "x": 7,
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
        ("algorithm", 513, "algorithm: expected one of"),
        ("x", -1, "x: expected an integer from 0 to 18446744073709551615"),
        ("x", 2**64, "x: expected an integer"),
        ("x", 1.0, "x: expected an integer"),
        ("x", True, "x: expected an integer"),
        ("x", "1", "x: expected an integer"),
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
        ("quantities", AUTHORISATION["quantities"] * 4, "quantities: expected a list of 1 to 6"),
        ("rolling_values", ["AA=="], r"rolling_values\[0\]: expected base64 of 32 bytes"),
        ("rolling_values", AUTHORISATION["rolling_values"] * 4, "rolling_values: expected a list of 0 to 6"),
    ],
)
def test_each_mistake_in_an_authorisation_is_named(field: str, value: Any, words: str) -> None:
    forms.authorisation_from_json(ID, AUTHORISATION)
    with pytest.raises(InputError, match=words) as caught:
        forms.authorisation_from_json(ID, {**AUTHORISATION, field: value})
    assert SECRET not in caught.value.message
    with pytest.raises(InputError, match=f"authorisation.{words}"):
        forms.authorisation_from_json(ID, {**AUTHORISATION, field: value}, "authorisation")


@pytest.mark.parametrize(
    "value", [None, 7, "", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n", "٣" * 32]
)
def test_identifiers_are_32_lower_case_digits(value: Any) -> None:
    assert forms.identifier_from_json(ID.hex()) == ID
    with pytest.raises(InputError, match="credential_id: expected 32 lower-case hexadecimal digits"):
        forms.identifier_from_json(value)


def test_lists_of_digests_are_bounded() -> None:
    one = base64.b64encode(bytes(32)).decode()
    assert forms.digests_from_json([one] * 3, 3) == (bytes(32),) * 3
    for wrong in ([], [one] * 4, one, None):
        with pytest.raises(InputError, match="digests: expected a list of 1 to 3"):
            forms.digests_from_json(wrong, 3)
    with pytest.raises(InputError, match=r"digests\[1\]: expected base64 of 32 or 48 or 64 bytes"):
        forms.digests_from_json([one, base64.b64encode(bytes(20)).decode()])


@pytest.mark.parametrize("text", [b"", b"{", b"{} {}", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'"\\ud800"'])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(InputError, match="answer: expected JSON") as caught:
        forms.decode(text, "answer")
    assert caught.value.__cause__ is None


def test_a_subject_may_be_absent_or_null() -> None:
    wanted, subject = forms.new_credential_from_json(a_form("new credential") | {"subject": None})
    assert subject is None
    assert "subject" not in forms.new_credential_to_json(wanted, None)
    for wrong in (7, "x" * (forms.MAX_SUBJECT + 1)):
        with pytest.raises(InputError, match="subject: expected text"):
            forms.new_credential_from_json(a_form("new credential") | {"subject": wrong})


@pytest.mark.parametrize(
    ("kind", "name", "elsewhere"),
    [
        (Authorisation, "authorisation", {"credential_id"}),
        (Challenge, "challenge", set()),
        (CredentialView, "credential", set()),
        (SignOutcome, "outcome", set()),
        (CardPersonalisation, "personalisation", set()),
        (EnrolmentStarted, "begun", set()),
        (EvidenceEntry, "entry", set()),
    ],
)
def test_no_field_is_forgotten(kind: Any, name: str, elsewhere: set[str]) -> None:
    own = {{"spki": "public_key"}.get(each.name, each.name) for each in fields(kind)}
    assert set(a_form(name)) - {"number"} == own - elsewhere


def test_what_can_be_enrolled() -> None:
    found = forms.Capabilities((Combine.CBC,), {"pin/ed25519": "no"}, forms.Limits(1, 2, 3))
    assert found.obstacle(Scheme.PIN, KeySpec.ED25519) == "no"
    assert found.obstacle(Scheme.ROLLING, KeySpec.P256) == ""


def test_names_are_those_of_the_command_line() -> None:
    assert [forms.name_of(each) for each in Algorithm] == [each.value for each in Algorithm]
    assert [forms.name_of(each) for each in KeySpec] == [each.value for each in KeySpec]
